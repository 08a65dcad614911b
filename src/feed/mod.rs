//! From a commit to the polls that wait for it.
//!
//! Each core owns its parked polls ([`Waiters`]); a commit reaches it as one message that names
//! what was touched, and only the polls that this can affect are looked at: by hostname for
//! streamers' configurations, by stream name for lists that name streams, and the rest of the
//! lists, each *question* once, however many ask it. No change falls between looking and parking: a
//! poll looks at the newest published state and is parked before its core does anything else, and a
//! state is published before its message is sent, so the message of whatever was not seen is still
//! to come.

pub mod nodes;
pub mod rendered;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use self::nodes::Parked;
use crate::http::Coding;
use crate::state::State;
use crate::state::entity::{KINDS, Key, Kind};
use crate::state::name::{Hostname, StreamName};

/// The message of the writer to all cores and the layouter: once per batch, after the fsync.
pub struct Commit {
    pub revision: u64,
    /// The state after the batch.
    pub state: Arc<State>,
    /// Streams that were created or changed, sorted.
    pub streams: Vec<StreamName>,
    /// Streams that were deleted, sorted.
    pub deleted_streams: Vec<StreamName>,
    /// Streamers that were created, changed or deleted, sorted.
    pub streamers: Vec<Hostname>,
    /// Nodes whose answer changed, sorted.
    pub hostnames: Vec<Hostname>,
    /// Agents whose streams were created, changed or deleted, sorted.
    pub agents: Vec<Box<str>>,
    /// By kind: entities that were created, changed or deleted, sorted.
    pub entities: [Vec<Key>; KINDS.len()],
    /// The batches, this or merged ones, that logged events.
    pub event_chunks: Vec<u64>,
}

/// A parked poll of a streamer for the configuration of its node.
#[derive(Clone, Debug)]
pub struct NodePoll {
    pub coding: Option<Coding>,
    /// The generation its client has.
    pub generation: u64,
    /// A poll for a delta: the revision it is since.
    pub since: Option<u64>,
    /// A node whose poll is parked is alive.
    pub parked: Parked,
}

/// The collection of a parked list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Subject {
    Streams,
    Streamers,
    Entities(Kind),
    Events,
}

impl Commit {
    /// A batch that touched nothing.
    pub fn of(state: Arc<State>) -> Self {
        Self {
            revision: state.revision(),
            state,
            streams: Vec::new(),
            deleted_streams: Vec::new(),
            streamers: Vec::new(),
            hostnames: Vec::new(),
            agents: Vec::new(),
            entities: std::array::from_fn(|_| Vec::new()),
            event_chunks: Vec::new(),
        }
    }

    /// Several commits in their order as one: what any of them touched, and the state after the
    /// last.
    ///
    /// # Panics
    /// If there is none.
    pub fn merged(commits: &[Arc<Commit>]) -> Commit {
        fn union<T: Ord + Clone>(lists: impl Iterator<Item = T>) -> Vec<T> {
            let mut all: Vec<T> = lists.collect();
            all.sort_unstable();
            all.dedup();
            all
        }
        let last = commits.last().expect("there is a commit to tell");
        let all = || commits.iter().map(|commit| &**commit);
        Commit {
            revision: last.revision,
            state: last.state.clone(),
            streams: union(all().flat_map(|commit| commit.streams.iter().cloned())),
            deleted_streams: union(all().flat_map(|commit| commit.deleted_streams.iter().cloned())),
            streamers: union(all().flat_map(|commit| commit.streamers.iter().cloned())),
            hostnames: union(all().flat_map(|commit| commit.hostnames.iter().cloned())),
            agents: union(all().flat_map(|commit| commit.agents.iter().cloned())),
            entities: std::array::from_fn(|kind| {
                union(all().flat_map(|commit| commit.entities[kind].iter().cloned()))
            }),
            event_chunks: union(all().flat_map(|commit| commit.event_chunks.iter().copied())),
        }
    }
}

/// The polls parked on one core. `W` names a waiting request, `P` is what a node's poll must
/// remember, `Q` is a question about a list.
///
/// Parking and forgetting cost the same however many others wait: a commit may answer all of
/// thousands of different questions.
pub struct Waiters<W, P, Q> {
    parked: HashMap<W, Place>,
    hosts: HashMap<Hostname, Vec<(W, P)>>,
    questions: BTreeMap<QuestionId, Question<W, Q>>,
    /// Equal questions have equal keys.
    ids: HashMap<Arc<str>, QuestionId>,
    /// Questions that name what they are about.
    by_name: HashMap<(Subject, Box<str>), BTreeSet<QuestionId>>,
    /// Questions that anything of a subject may answer.
    unnamed: BTreeSet<(Subject, QuestionId)>,
    next_id: QuestionId,
}

/// Names a parked list; later ones are greater, and a number is never used again.
pub type QuestionId = u64;

struct Question<W, Q> {
    question: Q,
    key: Arc<str>,
    subject: Subject,
    names: Box<[Box<str>]>,
    waiters: Vec<W>,
}

enum Place {
    Host(Hostname, usize),
    Question(QuestionId, usize),
}

impl<W: Copy + Eq + Hash, P, Q> Default for Waiters<W, P, Q> {
    fn default() -> Self {
        Self {
            parked: HashMap::new(),
            hosts: HashMap::new(),
            questions: BTreeMap::new(),
            ids: HashMap::new(),
            by_name: HashMap::new(),
            unnamed: BTreeSet::new(),
            next_id: 0,
        }
    }
}

impl<W: Copy + Eq + Hash, P, Q> Waiters<W, P, Q> {
    pub fn len(&self) -> usize {
        self.parked.len()
    }

    pub fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    /// Parks a poll for a node's configuration.
    pub fn park_host(&mut self, waiter: W, hostname: Hostname, poll: P) {
        let polls = self.hosts.entry(hostname.clone()).or_default();
        self.parked
            .insert(waiter, Place::Host(hostname, polls.len()));
        polls.push((waiter, poll));
    }

    /// Parks a poll for a list. `key` is equal for equal questions; `names` lists what the question
    /// is about, or is empty for anything.
    pub fn park_question(
        &mut self,
        waiter: W,
        key: &str,
        subject: Subject,
        names: &[Box<str>],
        make: impl FnOnce() -> Q,
    ) {
        let id = match self.ids.get(key) {
            Some(id) => *id,
            None => {
                let id = self.next_id;
                self.next_id += 1;
                let key: Arc<str> = Arc::from(key);
                for name in names {
                    let name = (subject, name.clone());
                    self.by_name.entry(name).or_default().insert(id);
                }
                if names.is_empty() {
                    self.unnamed.insert((subject, id));
                }
                self.ids.insert(key.clone(), id);
                self.questions.insert(
                    id,
                    Question {
                        question: make(),
                        key,
                        subject,
                        names: names.into(),
                        waiters: Vec::new(),
                    },
                );
                id
            }
        };
        if let Some(question) = self.questions.get_mut(&id) {
            self.parked
                .insert(waiter, Place::Question(id, question.waiters.len()));
            question.waiters.push(waiter);
        }
    }

    /// Forgets a poll that ended in another way than by a commit. False if it was not parked.
    pub fn remove(&mut self, waiter: W) -> bool {
        match self.parked.remove(&waiter) {
            None => false,
            Some(Place::Host(hostname, at)) => {
                if let Some(polls) = self.hosts.get_mut(&hostname) {
                    polls.swap_remove(at);
                    if let Some(Place::Host(_, place)) = polls
                        .get(at)
                        .and_then(|(moved, _)| self.parked.get_mut(moved))
                    {
                        *place = at;
                    }
                    if polls.is_empty() {
                        self.hosts.remove(&hostname);
                    }
                }
                true
            }
            Some(Place::Question(id, at)) => {
                if let Some(question) = self.questions.get_mut(&id) {
                    question.waiters.swap_remove(at);
                    if let Some(Place::Question(_, place)) = question
                        .waiters
                        .get(at)
                        .and_then(|moved| self.parked.get_mut(moved))
                    {
                        *place = at;
                    }
                    if question.waiters.is_empty() {
                        self.forget(id);
                    }
                }
                true
            }
        }
    }

    /// What is remembered of a parked poll for a node.
    pub fn host_poll(&self, waiter: W) -> Option<(&Hostname, &P)> {
        match self.parked.get(&waiter)? {
            Place::Host(hostname, at) => self
                .hosts
                .get(hostname)?
                .get(*at)
                .map(|(_, poll)| (hostname, poll)),
            Place::Question(..) => None,
        }
    }

    /// The question a parked poll asks.
    pub fn question(&self, waiter: W) -> Option<&Q> {
        match self.parked.get(&waiter)? {
            Place::Question(id, _) => self.questions.get(id).map(|question| &question.question),
            Place::Host(..) => None,
        }
    }

    /// The polls for a node's configuration, in the order they were parked, unless some of them
    /// have gone.
    pub fn waiting_for(&self, hostname: &Hostname) -> Vec<W> {
        let polls = self.hosts.get(hostname).map(Vec::as_slice);
        polls
            .unwrap_or_default()
            .iter()
            .map(|(waiter, _)| *waiter)
            .collect()
    }

    /// Questions about a subject that one of the touched things may answer, each once, those asked
    /// first first.
    pub fn questions_about<T: ToString>(&self, subject: Subject, touched: &[T]) -> Vec<QuestionId> {
        if self.questions.is_empty() || touched.is_empty() {
            return Vec::new();
        }
        let mut ids: Vec<QuestionId> = self
            .unnamed
            .range((subject, 0)..=(subject, QuestionId::MAX))
            .map(|(_, id)| *id)
            .collect();
        if !self.by_name.is_empty() {
            for name in touched {
                let name = (subject, name.to_string().into_boxed_str());
                ids.extend(self.by_name.get(&name).into_iter().flatten());
            }
            ids.sort_unstable();
            ids.dedup();
        }
        ids
    }

    /// Questions of a sort, those asked first first.
    pub fn questions_where(&self, wanted: impl Fn(&Q) -> bool) -> Vec<QuestionId> {
        let all = self.questions.iter();
        all.filter(|(_, question)| wanted(&question.question))
            .map(|(id, _)| *id)
            .collect()
    }

    /// A question that may have been answered meanwhile.
    pub fn question_by_id(&self, id: QuestionId) -> Option<&Q> {
        self.questions.get(&id).map(|question| &question.question)
    }

    /// Takes out all polls for a list, together with the list.
    pub fn take_question(&mut self, id: QuestionId) -> Option<(Q, Vec<W>)> {
        let question = self.forget(id)?;
        for waiter in &question.waiters {
            self.parked.remove(waiter);
        }
        Some((question.question, question.waiters))
    }

    /// Everybody, for the end of the process.
    pub fn everybody(&self) -> Vec<W> {
        self.parked.keys().copied().collect()
    }

    fn forget(&mut self, id: QuestionId) -> Option<Question<W, Q>> {
        let question = self.questions.remove(&id)?;
        self.ids.remove(&question.key);
        for name in &question.names {
            let name = (question.subject, name.clone());
            if let Some(ids) = self.by_name.get_mut(&name) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_name.remove(&name);
                }
            }
        }
        self.unnamed.remove(&(question.subject, id));
        Some(question)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Sut = Waiters<u32, u32, &'static str>;

    fn key(text: &str) -> Box<str> {
        Box::from(text)
    }

    fn name(text: &str) -> StreamName {
        StreamName::trusted(text)
    }

    #[test]
    fn a_touched_name_reaches_the_questions_about_it_and_those_about_any() {
        let mut waiters = Sut::default();
        waiters.park_question(1, "any", Subject::Streams, &[], || "any");
        waiters.park_question(2, "a,b", Subject::Streams, &[key("a"), key("b")], || "a,b");
        waiters.park_question(3, "c", Subject::Streams, &[key("c")], || "c");
        waiters.park_question(4, "c", Subject::Streams, &[key("c")], || {
            panic!("the question is there")
        });
        let about = |waiters: &Sut, names: &[&str]| -> Vec<&'static str> {
            let names: Vec<_> = names.iter().map(|n| name(n)).collect();
            waiters
                .questions_about(Subject::Streams, &names)
                .into_iter()
                .filter_map(|id| waiters.question_by_id(id).copied())
                .collect()
        };
        assert_eq!(about(&waiters, &["a", "b"]), ["any", "a,b"]);
        assert_eq!(about(&waiters, &["x"]), ["any"]);
        assert!(
            waiters.questions_about(Subject::Events, &["a"]).is_empty(),
            "another subject"
        );
        assert_eq!(about(&waiters, &[]), Vec::<&str>::new());
        let c = waiters.questions_about(Subject::Streams, &[name("c")])[1];
        assert_eq!(
            waiters.take_question(c).map(|(_, who)| who),
            Some(vec![3, 4])
        );
        assert_eq!(waiters.len(), 2);
        assert!(!waiters.remove(3), "taken out already");
        assert_eq!(waiters.take_question(c), None);
        waiters.park_question(5, "c", Subject::Streams, &[key("c")], || "c again");
        assert_eq!(
            about(&waiters, &["c"]),
            ["any", "c again"],
            "an answered question can be asked again"
        );
    }

    #[test]
    fn answering_every_one_of_many_questions_leaves_nothing_behind() {
        // Goal: a commit that answers thousands of different questions costs each of them the same.
        // Method: as many questions as a core may have polls, some about one common name; with a
        // search per question this test would take minutes.
        let mut waiters = Waiters::<u32, u32, u32>::default();
        for i in 0..20_000 {
            let names: &[Box<str>] = if i % 2 == 0 { &[] } else { &[key("a")] };
            let question = format!("question {i}");
            waiters.park_question(i, &question, Subject::Streams, names, || i);
        }
        let about = waiters.questions_about(Subject::Streams, &[name("a")]);
        assert_eq!(about.len(), 20_000);
        for (i, id) in (0..).zip(about) {
            assert_eq!(waiters.take_question(id), Some((i, vec![i])));
        }
        assert!(waiters.is_empty() && waiters.ids.is_empty());
        assert!(waiters.by_name.is_empty() && waiters.unnamed.is_empty());
    }

    #[test]
    fn commits_that_come_together_touch_what_each_touched() {
        let commit = |revision, streams: &[&str], hosts: &[&str]| {
            let settings = crate::state::node::RenderSettings::default();
            Arc::new(Commit {
                revision,
                streams: streams.iter().map(|text| name(text)).collect(),
                hostnames: hosts.iter().map(|text| Hostname::trusted(text)).collect(),
                ..Commit::of(Arc::new(State::new(revision, settings)))
            })
        };
        let merged = Commit::merged(&[
            commit(1, &["b", "c"], &["h2"]),
            commit(2, &[], &[]),
            commit(3, &["a", "b"], &["h1", "h2"]),
        ]);
        assert_eq!((merged.revision, merged.state.store_id()), (3, 3));
        assert_eq!(merged.streams, [name("a"), name("b"), name("c")]);
        assert_eq!(
            merged.hostnames,
            [Hostname::trusted("h1"), Hostname::trusted("h2")]
        );
    }

    #[test]
    fn removing_in_any_order_keeps_the_others_findable() {
        // Goal: swap_remove never loses or mixes up a waiter. Method: park many, remove in an order
        // unlike that of parking.
        let mut waiters = Sut::default();
        for i in 0..100 {
            waiters.park_host(i, Hostname::trusted("h"), i * 10);
            waiters.park_question(1000 + i, "q", Subject::Streams, &[], || "q");
        }
        for i in (0..100).step_by(3).chain((0..100).skip(1).step_by(3)) {
            assert!(waiters.remove(i));
            assert!(waiters.remove(1000 + i));
        }
        let mut left: Vec<(u32, u32)> = Vec::new();
        for waiter in waiters.waiting_for(&Hostname::trusted("h")) {
            let (hostname, poll) = waiters.host_poll(waiter).expect("it is parked");
            assert_eq!(hostname.as_str(), "h");
            left.push((waiter, *poll));
            assert!(waiters.remove(waiter));
        }
        left.sort_unstable();
        let expected: Vec<(u32, u32)> = (0..100).skip(2).step_by(3).map(|i| (i, i * 10)).collect();
        assert_eq!(left, expected);
        let id = waiters.questions_about(Subject::Streams, &[name("any")])[0];
        let (_, mut who) = waiters.take_question(id).expect("some are left");
        who.sort_unstable();
        assert_eq!(
            who,
            expected.iter().map(|(i, _)| 1000 + i).collect::<Vec<_>>()
        );
        assert!(waiters.is_empty() && waiters.hosts.is_empty() && waiters.unnamed.is_empty());
    }
}
