//! Runtime facts of nodes, beside the state: their activity and their rendered configurations.
//!
//! The state holds what is configured and changes by revisions only. What is learned while serving
//! is kept here, keyed by hostname: an entry is made by the first poll of a node, or when the
//! layouter begins to watch it, and removed after its streamer was deleted. A poll looks its entry
//! up once, under a lock of one shard that is held for the lookup only; after that everything is
//! atomic.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use xxhash_rust::xxh3::xxh3_64;

use super::Commit;
use super::rendered::{Body, RenderedCache, RenderedSlot};
use crate::http::Coding;
use crate::state::name::Hostname;
use crate::state::name_hash::NameHash;

/// Parts of the table, each with a lock of its own: cores that serve different nodes rarely meet.
const SHARDS: usize = 64;

/// What is known of one node at run time.
#[derive(Debug, Default)]
pub struct NodeRuntime {
    pub activity: Activity,
    /// What follows from its activity; set by the layouter's thread. `None` until it has looked.
    standing: Mutex<Option<Standing>>,
    /// What is left on it while it is drained; set by the layouter's thread.
    draining: Mutex<Option<Draining>>,
    /// What is assigned to it; set by the layouter's thread.
    assigned: Mutex<Option<AssignedLoad>>,
    /// The streams that it ingests, as they were counted last.
    counted: Mutex<Option<CountedStreams>>,
    /// Whether its configuration was written to it; set by the connector.
    provisioning: Mutex<Option<Provisioning>>,
    /// The rendered configuration of its newest generation.
    rendered: Arc<RenderedSlot>,
}

impl NodeRuntime {
    /// Whether its configuration at a generation is kept, in a coding.
    pub fn has_configuration(&self, generation: u64, coding: Option<Coding>) -> bool {
        self.rendered.has_coded(generation, coding)
    }

    pub fn standing(&self) -> Option<Standing> {
        *self.standing.lock()
    }

    pub fn set_standing(&self, standing: Option<Standing>) {
        *self.standing.lock() = standing;
    }

    /// Whether it was seen and does not count as lost, so that its streams may still run there.
    pub fn may_run_streams(&self) -> bool {
        let is_lost = self.standing().is_some_and(|it| it.name == OFFLINE);
        !is_lost && self.activity.last_seen_ms().is_some()
    }

    pub fn draining(&self) -> Option<Draining> {
        *self.draining.lock()
    }

    pub fn set_draining(&self, draining: Option<Draining>) {
        *self.draining.lock() = draining;
    }

    pub fn assigned(&self) -> Option<AssignedLoad> {
        *self.assigned.lock()
    }

    pub fn set_assigned(&self, assigned: Option<AssignedLoad>) {
        *self.assigned.lock() = assigned;
    }

    pub fn counted(&self) -> Option<CountedStreams> {
        *self.counted.lock()
    }

    pub fn set_counted(&self, counted: CountedStreams) {
        *self.counted.lock() = Some(counted);
    }

    pub fn provisioning(&self) -> Option<Provisioning> {
        *self.provisioning.lock()
    }

    pub fn set_provisioning(&self, provisioning: Option<Provisioning>) {
        *self.provisioning.lock() = provisioning;
    }
}

/// What the layouter assigned to a node, in the units in which it counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AssignedLoad {
    pub channels: u64,
    /// Assumed, claimed or measured.
    pub kbps: u64,
    pub disk_mb: u64,
    /// The share of the limit that it is nearest to; above 100 if it is above the limit.
    pub percent: u64,
}

/// The streams that a node ingests, by their health.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CountedStreams {
    /// When the count began.
    pub at: Instant,
    pub by_health: [u64; 5],
}

/// Whether a streamer has the configuration that was written to it. Times are UTC ms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Provisioning {
    /// Why the last comparison or write failed.
    pub error: Option<&'static str>,
    /// The last write.
    pub written_at: Option<u64>,
    /// The last time that something else was found than what was written.
    pub drifted_at: Option<u64>,
}

/// What is left on a node that is drained.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Draining {
    /// Streams that it ingests, or still runs for a handover.
    pub ingests: u64,
    /// DVR backups, and old ones until the new ones run.
    pub backups: u64,
    pub inferences: u64,
    /// Those of them for which no other node has room.
    pub no_place: u64,
    /// Since when nothing is left, by its own report as well; a time of its [`Activity`].
    pub drained_ms: Option<u64>,
}

/// The name of a [`Standing`] of a node that is lost.
pub const OFFLINE: &str = "offline";

/// Whether a node is relied on, since when and why. Times are those of its [`Activity`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// `up`, `held`, `unknown` or `offline`.
    pub name: &'static str,
    pub cause: &'static str,
    pub since_ms: Option<u64>,
    pub hold_until_ms: Option<u64>,
}

/// Signs of life of a node: when it last sent a request. One that waits is none: a machine that
/// froze keeps its connections.
///
/// Written by the core that serves the node and read by the layouter's thread, without a lock and
/// without a message. Times are milliseconds of a clock that never steps back, given by the
/// callers.
#[derive(Debug, Default)]
pub struct Activity {
    /// One more than the time of the last sign, so that 0 means never.
    seen_ms: AtomicU64,
    /// Likewise, of the last request with a credential that is not the node's own.
    read_ms: AtomicU64,
    /// Likewise, of the last report that the node sent itself.
    reported_ms: AtomicU64,
    /// The node was sent every change up to this revision.
    sent_revision: AtomicU64,
}

impl Activity {
    /// The node sent a request.
    pub fn seen(&self, now_ms: u64) {
        self.seen_ms.fetch_max(now_ms + 1, Ordering::Relaxed);
    }

    /// The node's configuration was read with a credential that is not its own. A second time
    /// within `within_ms` is a sign of life: streamers may poll with the administrator's key, and
    /// one look of a person is none.
    pub fn read(&self, now_ms: u64, within_ms: u64) {
        let before = self.read_ms.swap(now_ms + 1, Ordering::Relaxed);
        if before > 0 && (now_ms + 1).saturating_sub(before) <= within_ms {
            self.seen(now_ms);
        }
    }

    /// The node sent a report, so it needs not be queried for one.
    pub fn reported(&self, now_ms: u64) {
        self.reported_ms.fetch_max(now_ms + 1, Ordering::Relaxed);
    }

    /// The time of the last report that the node sent itself.
    pub fn last_reported_ms(&self) -> Option<u64> {
        self.reported_ms.load(Ordering::Relaxed).checked_sub(1)
    }

    /// The node has, or is being sent, its configuration as of a revision.
    pub fn sent(&self, revision: u64) {
        self.sent_revision.fetch_max(revision, Ordering::Relaxed);
    }

    /// The time of the last sign of life.
    pub fn last_seen_ms(&self) -> Option<u64> {
        self.seen_ms.load(Ordering::Relaxed).checked_sub(1)
    }

    pub fn sent_revision(&self) -> u64 {
        self.sent_revision.load(Ordering::Relaxed)
    }
}

type NodeShard = RwLock<HashMap<Hostname, Arc<NodeRuntime>, NameHash>>;

/// The runtime facts of every node. Shared by all threads.
pub struct NodeTable {
    shards: [NodeShard; SHARDS],
    rendered: RenderedCache,
    /// Deleted streamers whose entry is still in use.
    leaving: Mutex<Vec<Hostname>>,
}

impl NodeTable {
    /// A table whose rendered configurations take at most this many bytes together.
    pub fn new(rendered_bytes_max: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| NodeShard::default()),
            rendered: RenderedCache::new(rendered_bytes_max),
            leaving: Mutex::default(),
        }
    }

    /// The entry of a node, if it has one.
    pub fn find(&self, hostname: &str) -> Option<Arc<NodeRuntime>> {
        self.shard(hostname).read().get(hostname).cloned()
    }

    fn shard(&self, hostname: &str) -> &NodeShard {
        // Bits that the map of a shard does not use: it takes the lowest and the highest.
        let bits = xxh3_64(hostname.as_bytes()) >> 32;
        &self.shards[bits as usize % SHARDS]
    }

    /// The entry of a node, which is made if it is not there.
    pub fn get(&self, hostname: &Hostname) -> Arc<NodeRuntime> {
        let shard = self.shard(hostname);
        if let Some(node) = shard.read().get(hostname) {
            return node.clone();
        }
        shard.write().entry(hostname.clone()).or_default().clone()
    }

    /// The configuration of a node at a generation, rendered now if it is not kept.
    pub fn configuration<E>(
        &self,
        node: &NodeRuntime,
        generation: u64,
        coding: Option<Coding>,
        render: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Body, E> {
        self.rendered
            .body(&node.rendered, generation, coding, render)
    }

    /// Removes the entries of deleted streamers as soon as they are not in use. For one core: the
    /// others need not repeat it.
    pub fn on_commit(&self, commit: &Commit) {
        let is_deleted = |hostname: &Hostname| commit.state.streamer(hostname).is_none();
        let mut leaving = self.leaving.lock();
        let deleted = commit.streamers.iter().filter(|it| is_deleted(it));
        leaving.extend(deleted.cloned());
        leaving.retain(|hostname| is_deleted(hostname) && !self.remove_unused(hostname));
    }

    /// Removes an entry that only the table holds. An entry in use stays: two entries of one node
    /// would not see each other's signs of life. True if there is no entry any more.
    fn remove_unused(&self, hostname: &Hostname) -> bool {
        let mut shard = self.shard(hostname).write();
        let in_use = |node: &Arc<NodeRuntime>| Arc::strong_count(node) > 1;
        if shard.get(hostname).is_some_and(in_use) {
            return false;
        }
        shard.remove(hostname);
        true
    }

    /// Entries now.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use crate::state::State;
    use crate::state::apply::{Stamp, apply};
    use crate::state::command::{Command, streamer_patch};
    use crate::state::node::RenderSettings;

    #[test]
    fn newest_request_of_a_node_counts() {
        let node: Arc<NodeRuntime> = Arc::default();
        let activity = &node.activity;
        assert_eq!(activity.last_seen_ms(), None);
        activity.seen(0);
        assert_eq!(activity.last_seen_ms(), Some(0));
        activity.seen(40);
        activity.seen(30);
        assert_eq!(activity.last_seen_ms(), Some(40), "in any order");
        activity.sent(7);
        activity.sent(5);
        assert_eq!(activity.sent_revision(), 7);
    }

    #[test]
    fn lost_node_runs_no_streams_even_if_it_was_just_seen() {
        let node = NodeRuntime::default();
        assert!(!node.may_run_streams(), "it was never seen");
        node.activity.seen(5);
        assert!(node.may_run_streams(), "the layouter has not looked yet");
        for (name, expected) in [("up", true), ("unknown", true), (OFFLINE, false)] {
            node.set_standing(Some(Standing {
                name,
                cause: "silent_too_often",
                since_ms: Some(5),
                hold_until_ms: None,
            }));
            assert_eq!(node.may_run_streams(), expected, "{name}");
        }
    }

    /// Applies a command to a state and returns the commit of it.
    fn commit(state: &mut State, command: Command) -> Commit {
        let stamp = Stamp {
            revision: state.revision() + 1,
            ms: state.stamp_ms() + 1,
        };
        let changes = apply(state, command, stamp).expect("is applied");
        state.absorb(&changes);
        let streamers = changes.streamers.iter();
        Commit {
            streamers: streamers.map(|change| change.hostname.clone()).collect(),
            ..Commit::of(Arc::new(state.clone()))
        }
    }

    #[test]
    fn entry_of_a_deleted_streamer_goes_when_it_is_not_in_use() {
        let table = NodeTable::new(1 << 20);
        let mut state = State::new(1, RenderSettings::default());
        let hostname = Hostname::trusted("s1");
        let save = || {
            let hostname = Hostname::trusted("s1");
            let body = br#"{"role":"streamer","cluster_key":"k"}"#;
            let body = json::parse(body).expect("JSON");
            let patch = streamer_patch(body, &hostname, "").expect("a streamer");
            Command::SaveStreamer { hostname, patch }
        };
        let delete = || {
            let hostname = Hostname::trusted("s1");
            Command::DeleteStreamer { hostname }
        };
        table.on_commit(&commit(&mut state, save()));
        let node = table.get(&hostname);
        assert!(Arc::ptr_eq(&node, &table.get(&hostname)), "one entry");
        let parked = node.clone();
        drop(node);
        table.on_commit(&commit(&mut state, delete()));
        assert_eq!(table.count(), 1, "a parked poll uses it");
        drop(parked);
        table.on_commit(&Commit::of(Arc::new(state.clone())));
        assert_eq!(table.count(), 0);
        // A streamer that is saved again before its entry went keeps it.
        let node = table.get(&hostname);
        table.on_commit(&commit(&mut state, save()));
        table.on_commit(&commit(&mut state, delete()));
        table.on_commit(&commit(&mut state, save()));
        drop(node);
        table.on_commit(&Commit::of(Arc::new(state.clone())));
        assert_eq!(table.count(), 1);
    }
}
