//! From a commit to everybody who waits for it.
//!
//! Each core owns its parked polls ([`Waiters`]); a commit reaches it as one message that names what was touched, and only the polls that this
//! can affect are looked at: by hostname for streamers' configurations, by stream name for lists that name streams, and the
//! rest of the lists, each *question* once, however many ask it. A poll parks before it looks: its core handles one message after
//! the other, and a state is published before its message is sent, so nothing falls between looking and parking.

pub mod rendered;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::state::State;
use crate::state::name::{Hostname, StreamName};

/// What the writer tells every core, once per batch, after the fsync.
pub struct Commit {
    pub revision: u64,
    /// The state after the batch.
    pub state: Arc<State>,
    /// Streams that were created or changed, sorted.
    pub streams: Vec<StreamName>,
    /// Nodes whose answer changed, sorted.
    pub hostnames: Vec<Hostname>,
}

/// The polls parked on one core. `W` names a waiting request, `P` is what a node's poll must remember, `Q` is a question about streams.
pub struct Waiters<W, P, Q> {
    parked: HashMap<W, Place>,
    hosts: HashMap<Hostname, Vec<(W, P)>>,
    questions: HashMap<Arc<str>, Question<W, Q>>,
    /// Questions that name the streams they are about.
    by_name: HashMap<StreamName, Vec<Arc<str>>>,
    /// Questions that any stream may answer.
    unnamed: Vec<Arc<str>>,
}

struct Question<W, Q> {
    question: Q,
    names: Vec<StreamName>,
    waiters: Vec<W>,
}

enum Place {
    Host(Hostname, usize),
    Question(Arc<str>, usize),
}

impl<W: Copy + Eq + Hash, P, Q> Default for Waiters<W, P, Q> {
    fn default() -> Self {
        Self {
            parked: HashMap::new(),
            hosts: HashMap::new(),
            questions: HashMap::new(),
            by_name: HashMap::new(),
            unnamed: Vec::new(),
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

    /// Parks a poll for a list. `key` is equal for equal questions; `names` lists the streams the question is about, or is empty for any.
    pub fn park_question(
        &mut self,
        waiter: W,
        key: &str,
        names: &[StreamName],
        make: impl FnOnce() -> Q,
    ) {
        let key = match self.questions.get_key_value(key) {
            Some((key, _)) => key.clone(),
            None => {
                let key: Arc<str> = Arc::from(key);
                for name in names {
                    self.by_name
                        .entry(name.clone())
                        .or_default()
                        .push(key.clone());
                }
                if names.is_empty() {
                    self.unnamed.push(key.clone());
                }
                self.questions.insert(
                    key.clone(),
                    Question {
                        question: make(),
                        names: names.to_vec(),
                        waiters: Vec::new(),
                    },
                );
                key
            }
        };
        if let Some(question) = self.questions.get_mut(&key) {
            self.parked
                .insert(waiter, Place::Question(key, question.waiters.len()));
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
            Some(Place::Question(key, at)) => {
                if let Some(question) = self.questions.get_mut(&key) {
                    question.waiters.swap_remove(at);
                    if let Some(Place::Question(_, place)) = question
                        .waiters
                        .get(at)
                        .and_then(|moved| self.parked.get_mut(moved))
                    {
                        *place = at;
                    }
                    if question.waiters.is_empty() {
                        self.forget(&key);
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
            Place::Question(key, _) => self.questions.get(key).map(|question| &question.question),
            Place::Host(..) => None,
        }
    }

    /// Takes out the polls for a node's configuration.
    pub fn take_host(&mut self, hostname: &Hostname) -> Vec<(W, P)> {
        let polls = self.hosts.remove(hostname).unwrap_or_default();
        for (waiter, _) in &polls {
            self.parked.remove(waiter);
        }
        polls
    }

    /// Questions that one of the touched streams may answer, each once.
    pub fn questions_about(&self, touched: &[StreamName]) -> Vec<Arc<str>> {
        if self.questions.is_empty() || touched.is_empty() {
            return Vec::new();
        }
        let mut keys = self.unnamed.clone();
        if !self.by_name.is_empty() {
            let named = keys.len();
            for name in touched {
                keys.extend(self.by_name.get(name).into_iter().flatten().cloned());
            }
            keys[named..].sort_unstable();
            keys.dedup();
        }
        keys
    }

    pub fn question_by_key(&self, key: &str) -> Option<&Q> {
        self.questions.get(key).map(|question| &question.question)
    }

    /// Takes out everybody who asks a question, together with the question.
    pub fn take_question(&mut self, key: &str) -> Option<(Q, Vec<W>)> {
        let question = self.forget(key)?;
        for waiter in &question.waiters {
            self.parked.remove(waiter);
        }
        Some((question.question, question.waiters))
    }

    /// Everybody, for the end of the process.
    pub fn everybody(&self) -> Vec<W> {
        self.parked.keys().copied().collect()
    }

    fn forget(&mut self, key: &str) -> Option<Question<W, Q>> {
        let question = self.questions.remove(key)?;
        for name in &question.names {
            if let Some(keys) = self.by_name.get_mut(name) {
                keys.retain(|other| &**other != key);
                if keys.is_empty() {
                    self.by_name.remove(name);
                }
            }
        }
        if question.names.is_empty() {
            self.unnamed.retain(|other| &**other != key);
        }
        Some(question)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Sut = Waiters<u32, u32, &'static str>;

    fn name(text: &str) -> StreamName {
        StreamName::trusted(text)
    }

    #[test]
    fn a_touched_name_reaches_the_questions_about_it_and_those_about_any() {
        let mut waiters = Sut::default();
        waiters.park_question(1, "any", &[], || "any");
        waiters.park_question(2, "a,b", &[name("a"), name("b")], || "a,b");
        waiters.park_question(3, "c", &[name("c")], || "c");
        waiters.park_question(4, "c", &[name("c")], || panic!("the question is there"));
        let about = |names: &[&str]| -> Vec<String> {
            let names: Vec<_> = names.iter().map(|n| name(n)).collect();
            waiters
                .questions_about(&names)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(about(&["a", "b"]), ["any", "a,b"]);
        assert_eq!(about(&["x"]), ["any"]);
        assert_eq!(about(&[]), Vec::<String>::new());
        assert_eq!(
            waiters.take_question("c").map(|(_, who)| who),
            Some(vec![3, 4])
        );
        assert_eq!(waiters.len(), 2);
        assert!(!waiters.remove(3), "taken out already");
    }

    #[test]
    fn removing_in_any_order_keeps_the_others_findable() {
        // Goal: swap_remove never loses or mixes up a waiter. Method: park many, remove in an order unlike that of parking.
        let mut waiters = Sut::default();
        for i in 0..100 {
            waiters.park_host(i, Hostname::trusted("h"), i * 10);
            waiters.park_question(1000 + i, "q", &[], || "q");
        }
        for i in (0..100).step_by(3).chain((0..100).skip(1).step_by(3)) {
            assert!(waiters.remove(i));
            assert!(waiters.remove(1000 + i));
        }
        let mut left = waiters.take_host(&Hostname::trusted("h"));
        left.sort_unstable();
        let expected: Vec<(u32, u32)> = (0..100).skip(2).step_by(3).map(|i| (i, i * 10)).collect();
        assert_eq!(left, expected);
        let (_, mut who) = waiters.take_question("q").expect("some are left");
        who.sort_unstable();
        assert_eq!(
            who,
            expected.iter().map(|(i, _)| 1000 + i).collect::<Vec<_>>()
        );
        assert!(waiters.is_empty() && waiters.hosts.is_empty() && waiters.unnamed.is_empty());
    }
}
