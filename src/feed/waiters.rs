//! The polls that are parked on one core.
//!
//! A commit names what it changed; [`Waiters`] finds the polls that this can concern: by hostname
//! for configurations of nodes, by name for lists whose query names entities, and all other lists
//! of the collection. Equal queries are kept once, however many polls wait for them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use crate::http::{BuildTicketHasher, Coding};
use crate::state::entity::Kind;
use crate::state::name::Hostname;

use super::nodes::NodeRuntime;

/// A parked poll of a streamer for the configuration of its node.
#[derive(Clone, Debug)]
pub struct NodePoll {
    pub coding: Option<Coding>,
    /// The generation its client has.
    pub generation: u64,
    /// A poll for a delta: the revision it is since.
    pub since: Option<u64>,
    pub runtime: Arc<NodeRuntime>,
    /// How long it may wait in all.
    pub wait: Duration,
}

/// The collection of a parked list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Subject {
    Streams,
    Streamers,
    Entities(Kind),
    Events,
}

/// The polls parked on one core. `W` identifies a waiting request, `P` is kept with a poll for a
/// node's configuration, `Q` is the query of a list.
///
/// Parking and removing take time that does not depend on the number of parked polls: one commit
/// may answer thousands of different queries.
pub struct Waiters<W, P, Q> {
    parked: HashMap<W, ParkedAt, BuildTicketHasher>,
    nodes: HashMap<Hostname, Vec<(W, P)>>,
    queries: BTreeMap<QueryId, ParkedQuery<W, Q>>,
    /// By key; equal queries have equal keys.
    ids: HashMap<Arc<str>, QueryId>,
    /// Queries that name the entities they are about.
    by_name: HashMap<(Subject, Box<str>), BTreeSet<QueryId>>,
    /// Queries that any entity of a collection may match.
    unnamed: BTreeSet<(Subject, QueryId)>,
    next_id: QueryId,
    /// Polls that were ever parked.
    parked_ever: u64,
}

/// Identifies a parked query; grows with each new query, and is never reused.
pub type QueryId = u64;

struct ParkedQuery<W, Q> {
    query: Q,
    key: Arc<str>,
    subject: Subject,
    names: Box<[Box<str>]>,
    waiters: Vec<W>,
}

/// Where a poll is parked: the list of waiters it is in, and its index there.
enum ParkedAt {
    Node(Hostname, usize),
    Query(QueryId, usize),
}

impl ParkedAt {
    fn index_mut(&mut self) -> &mut usize {
        match self {
            Self::Node(_, index) | Self::Query(_, index) => index,
        }
    }
}

impl<W: Copy + Eq + Hash, P, Q> Default for Waiters<W, P, Q> {
    fn default() -> Self {
        Self {
            parked: HashMap::default(),
            nodes: HashMap::new(),
            queries: BTreeMap::new(),
            ids: HashMap::new(),
            by_name: HashMap::new(),
            unnamed: BTreeSet::new(),
            next_id: 0,
            parked_ever: 0,
        }
    }
}

impl<W: Copy + Eq + Hash, P, Q> Waiters<W, P, Q> {
    pub fn len(&self) -> usize {
        self.parked.len()
    }

    /// Polls that were ever parked.
    pub fn parked_ever(&self) -> u64 {
        self.parked_ever
    }

    #[cfg(any(test, feature = "testing"))]
    pub fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    /// Parks a poll for a node's configuration.
    pub fn park_node(&mut self, waiter: W, hostname: Hostname, poll: P) {
        let polls = self.nodes.entry(hostname.clone()).or_default();
        let parked_at = ParkedAt::Node(hostname, polls.len());
        self.parked.insert(waiter, parked_at);
        self.parked_ever += 1;
        polls.push((waiter, poll));
    }

    /// Parks a poll for a list. `key` is equal for equal queries; `names` are the entities that the
    /// query is about, or empty for any. `query` is called if no equal query is parked.
    pub fn park_query(
        &mut self,
        waiter: W,
        key: &str,
        subject: Subject,
        names: &[Box<str>],
        query: impl FnOnce() -> Q,
    ) {
        let id = match self.ids.get(key) {
            Some(id) => *id,
            None => self.insert_query(key, subject, names, query()),
        };
        if let Some(parked) = self.queries.get_mut(&id) {
            let parked_at = ParkedAt::Query(id, parked.waiters.len());
            self.parked.insert(waiter, parked_at);
            self.parked_ever += 1;
            parked.waiters.push(waiter);
        }
    }

    fn insert_query(
        &mut self,
        key: &str,
        subject: Subject,
        names: &[Box<str>],
        query: Q,
    ) -> QueryId {
        let id = self.next_id;
        self.next_id += 1;
        for name in names {
            let name = (subject, name.clone());
            self.by_name.entry(name).or_default().insert(id);
        }
        if names.is_empty() {
            self.unnamed.insert((subject, id));
        }
        let key: Arc<str> = Arc::from(key);
        self.ids.insert(key.clone(), id);
        let parked = ParkedQuery {
            query,
            key,
            subject,
            names: names.into(),
            waiters: Vec::new(),
        };
        self.queries.insert(id, parked);
        id
    }

    /// Removes a poll that ended in another way than by a commit. False if it was not parked.
    pub fn remove(&mut self, waiter: W) -> bool {
        let (index, moved) = match self.parked.remove(&waiter) {
            None => return false,
            Some(ParkedAt::Node(hostname, index)) => {
                let Some(polls) = self.nodes.get_mut(&hostname) else {
                    return true;
                };
                polls.swap_remove(index);
                let moved = polls.get(index).map(|(moved, _)| *moved);
                if polls.is_empty() {
                    self.nodes.remove(&hostname);
                }
                (index, moved)
            }
            Some(ParkedAt::Query(id, index)) => {
                let Some(parked) = self.queries.get_mut(&id) else {
                    return true;
                };
                parked.waiters.swap_remove(index);
                let moved = parked.waiters.get(index).copied();
                if parked.waiters.is_empty() {
                    self.remove_query(id);
                }
                (index, moved)
            }
        };
        if let Some(parked_at) = moved.and_then(|moved| self.parked.get_mut(&moved)) {
            *parked_at.index_mut() = index;
        }
        true
    }

    /// A parked poll for a node's configuration.
    pub fn node_poll(&self, waiter: W) -> Option<(&Hostname, &P)> {
        match self.parked.get(&waiter)? {
            ParkedAt::Node(hostname, index) => {
                let (_, poll) = self.nodes.get(hostname)?.get(*index)?;
                Some((hostname, poll))
            }
            ParkedAt::Query(..) => None,
        }
    }

    /// The query of a poll that is parked for a list.
    pub fn query_of(&self, waiter: W) -> Option<&Q> {
        match self.parked.get(&waiter)? {
            ParkedAt::Query(id, _) => self.query(*id),
            ParkedAt::Node(..) => None,
        }
    }

    /// The polls for a node's configuration, in the order of parking unless some were removed.
    pub fn polls_of_node(&self, hostname: &Hostname) -> Vec<W> {
        let polls = self.nodes.get(hostname).map(Vec::as_slice);
        let polls = polls.unwrap_or_default().iter();
        polls.map(|(waiter, _)| *waiter).collect()
    }

    /// The polls for configurations of nodes that pass a test, in no particular order.
    pub fn node_polls_where(&self, passes: impl Fn(&P) -> bool) -> Vec<W> {
        let polls = self.nodes.values().flatten();
        let passing = polls.filter(|(_, poll)| passes(poll));
        passing.map(|(waiter, _)| *waiter).collect()
    }

    /// The queries that one of the changed entities may match, each once, in the order of parking.
    pub fn queries_about<T: ToString>(&self, subject: Subject, changed: &[T]) -> Vec<QueryId> {
        if self.queries.is_empty() || changed.is_empty() {
            return Vec::new();
        }
        let of_subject = (subject, 0)..=(subject, QueryId::MAX);
        let unnamed = self.unnamed.range(of_subject);
        let mut ids: Vec<QueryId> = unnamed.map(|(_, id)| *id).collect();
        if !self.by_name.is_empty() {
            for name in changed {
                let name = (subject, name.to_string().into_boxed_str());
                ids.extend(self.by_name.get(&name).into_iter().flatten());
            }
            ids.sort_unstable();
            ids.dedup();
        }
        ids
    }

    /// The queries that pass a test, in the order of parking.
    pub fn queries_where(&self, passes: impl Fn(&Q) -> bool) -> Vec<QueryId> {
        let passing = self.queries.iter().filter(|(_, it)| passes(&it.query));
        passing.map(|(id, _)| *id).collect()
    }

    /// A query; `None` if it was answered in the meantime.
    pub fn query(&self, id: QueryId) -> Option<&Q> {
        self.queries.get(&id).map(|parked| &parked.query)
    }

    /// Removes a query and all polls that wait for it.
    pub fn take_query(&mut self, id: QueryId) -> Option<(Q, Vec<W>)> {
        let parked = self.remove_query(id)?;
        for waiter in &parked.waiters {
            self.parked.remove(waiter);
        }
        Some((parked.query, parked.waiters))
    }

    pub fn is_parked(&self, waiter: W) -> bool {
        self.parked.contains_key(&waiter)
    }

    /// All parked polls, in no particular order.
    pub fn all(&self) -> Vec<W> {
        self.parked.keys().copied().collect()
    }

    fn remove_query(&mut self, id: QueryId) -> Option<ParkedQuery<W, Q>> {
        let parked = self.queries.remove(&id)?;
        self.ids.remove(&parked.key);
        for name in &parked.names {
            let name = (parked.subject, name.clone());
            if let Some(ids) = self.by_name.get_mut(&name) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_name.remove(&name);
                }
            }
        }
        self.unnamed.remove(&(parked.subject, id));
        Some(parked)
    }
}

#[cfg(test)]
mod tests {
    use crate::state::name::StreamName;

    use super::*;

    type Sut = Waiters<u32, u32, &'static str>;

    fn key(text: &str) -> Box<str> {
        Box::from(text)
    }

    fn name(text: &str) -> StreamName {
        StreamName::trusted(text)
    }

    #[test]
    fn touched_name_reaches_queries_about_it_and_about_all() {
        let mut waiters = Sut::default();
        waiters.park_query(1, "any", Subject::Streams, &[], || "any");
        waiters.park_query(2, "a,b", Subject::Streams, &[key("a"), key("b")], || "a,b");
        waiters.park_query(3, "c", Subject::Streams, &[key("c")], || "c");
        waiters.park_query(4, "c", Subject::Streams, &[key("c")], || {
            panic!("the query is there")
        });
        let about = |waiters: &Sut, names: &[&str]| -> Vec<&'static str> {
            let names: Vec<_> = names.iter().map(|n| name(n)).collect();
            waiters
                .queries_about(Subject::Streams, &names)
                .into_iter()
                .filter_map(|id| waiters.query(id).copied())
                .collect()
        };
        assert_eq!(about(&waiters, &["a", "b"]), ["any", "a,b"]);
        assert_eq!(about(&waiters, &["x"]), ["any"]);
        assert!(
            waiters.queries_about(Subject::Events, &["a"]).is_empty(),
            "another subject"
        );
        assert_eq!(about(&waiters, &[]), Vec::<&str>::new());
        let c = waiters.queries_about(Subject::Streams, &[name("c")])[1];
        assert_eq!(
            waiters.take_query(c).map(|(_, waiters)| waiters),
            Some(vec![3, 4])
        );
        assert_eq!(waiters.len(), 2);
        assert!(!waiters.remove(3), "taken out already");
        assert_eq!(waiters.take_query(c), None);
        waiters.park_query(5, "c", Subject::Streams, &[key("c")], || "c again");
        assert_eq!(
            about(&waiters, &["c"]),
            ["any", "c again"],
            "an answered query can be parked again"
        );
    }

    #[test]
    fn answering_each_of_many_queries_leaves_nothing_behind() {
        // Goal: a commit that answers thousands of different queries costs each of them the same.
        // Method: as many queries as a core may have polls, some about one common name; with a
        // search per query this test would take minutes.
        let mut waiters = Waiters::<u32, u32, u32>::default();
        for i in 0..20_000 {
            let names: &[Box<str>] = if i % 2 == 0 { &[] } else { &[key("a")] };
            let query = format!("query {i}");
            waiters.park_query(i, &query, Subject::Streams, names, || i);
        }
        let about = waiters.queries_about(Subject::Streams, &[name("a")]);
        assert_eq!(about.len(), 20_000);
        for (i, id) in (0..).zip(about) {
            assert_eq!(waiters.take_query(id), Some((i, vec![i])));
        }
        assert!(waiters.is_empty() && waiters.ids.is_empty());
        assert!(waiters.by_name.is_empty() && waiters.unnamed.is_empty());
    }

    #[test]
    fn removing_in_any_order_keeps_the_others() {
        // Goal: a removal changes no other waiter. Method: park many, remove in an order
        // unlike that of parking.
        let mut waiters = Sut::default();
        for i in 0..100 {
            waiters.park_node(i, Hostname::trusted("h"), i * 10);
            waiters.park_query(1000 + i, "q", Subject::Streams, &[], || "q");
        }
        for i in (0..100).step_by(3).chain((0..100).skip(1).step_by(3)) {
            assert!(waiters.remove(i));
            assert!(waiters.remove(1000 + i));
        }
        let mut left: Vec<(u32, u32)> = Vec::new();
        for waiter in waiters.polls_of_node(&Hostname::trusted("h")) {
            let (hostname, poll) = waiters.node_poll(waiter).expect("it is parked");
            assert_eq!(hostname.as_str(), "h");
            left.push((waiter, *poll));
            assert!(waiters.remove(waiter));
        }
        left.sort_unstable();
        let expected: Vec<(u32, u32)> = (0..100).skip(2).step_by(3).map(|i| (i, i * 10)).collect();
        assert_eq!(left, expected);
        let id = waiters.queries_about(Subject::Streams, &[name("any")])[0];
        let (_, mut left_waiters) = waiters.take_query(id).expect("some are left");
        left_waiters.sort_unstable();
        assert_eq!(
            left_waiters,
            expected.iter().map(|(i, _)| 1000 + i).collect::<Vec<_>>()
        );
        assert!(waiters.is_empty() && waiters.nodes.is_empty() && waiters.unnamed.is_empty());
    }
}
