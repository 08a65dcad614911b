//! The value: everything that is configured, at one revision. No I/O, no clock.
//!
//! A [`State`] is immutable and structurally shared: a reader holds an `Arc` of it and sees all of every batch or nothing, the writer
//! makes the next one beside it. [`apply`](apply::apply) decides what a command changes; [`State::absorb`] is the only code that makes a new state.

pub mod agent;
pub mod apply;
pub mod command;
pub mod entity;
pub mod episode;
pub mod event;
pub mod name;
pub mod node;
pub mod pulse;
pub mod record;
pub mod retention;
pub mod trusted_time;

#[cfg(test)]
mod golden;

use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use self::apply::Changes;
use self::entity::{Entities, KINDS, Key, Kind};
use self::episode::EpisodeIndex;
use self::name::{Hostname, StreamName};
use self::node::{Node, RenderSettings, holders};
use self::record::{EntityRecord, EventChunkRecord, NodeMark, StreamRecord, StreamerRecord};

/// Parts of the stream map; the unit of parallel loading and scanning. Fixed by the format on disk.
pub const SHARDS: usize = 16;

type Streams = OrdMap<StreamName, StreamRecord>;

/// Everything, at one revision. Cloning is cheap.
#[derive(Clone)]
pub struct State {
    /// Log sequence number of the batch that made it.
    revision: u64,
    /// Stamp of that batch, UTC ms.
    stamp_ms: u64,
    /// Names this store among all stores; part of every ETag.
    store_id: u64,
    streams: [Streams; SHARDS],
    streams_count: usize,
    by_stamp: OrdSet<(u64, StreamName)>,
    streamers: OrdMap<Hostname, StreamerRecord>,
    nodes: OrdMap<Hostname, Arc<Node>>,
    entities: [Entities; KINDS.len()],
    agent_streams: agent::AgentStreams,
    episodes: EpisodeIndex,
    /// By the batch they belong to.
    events: OrdMap<u64, EventChunkRecord>,
    events_count: usize,
    events_bytes: usize,
    settings: Arc<RenderSettings>,
}

impl State {
    pub fn new(store_id: u64, settings: RenderSettings) -> Self {
        Self {
            revision: 0,
            stamp_ms: 0,
            store_id,
            streams: std::array::from_fn(|_| OrdMap::new()),
            streams_count: 0,
            by_stamp: OrdSet::new(),
            streamers: OrdMap::new(),
            nodes: OrdMap::new(),
            entities: std::array::from_fn(|_| Entities::default()),
            agent_streams: agent::AgentStreams::default(),
            episodes: EpisodeIndex::default(),
            events: OrdMap::new(),
            events_count: 0,
            events_bytes: 0,
            settings: Arc::new(settings),
        }
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn stamp_ms(&self) -> u64 {
        self.stamp_ms
    }

    pub fn store_id(&self) -> u64 {
        self.store_id
    }

    pub fn settings(&self) -> &RenderSettings {
        &self.settings
    }

    pub fn stream(&self, name: &str) -> Option<&StreamRecord> {
        self.streams[name::shard_of(name)].get(name)
    }

    pub fn streams_count(&self) -> usize {
        self.streams_count
    }

    pub fn shard(&self, index: usize) -> &OrdMap<StreamName, StreamRecord> {
        &self.streams[index]
    }

    /// All streams by name.
    pub fn streams_by_name(&self, from: Bound<&str>) -> impl Iterator<Item = &StreamRecord> {
        merge::Merged::ascending(
            self.streams
                .iter()
                .map(|shard| shard.range::<_, str>((from, Bound::Unbounded))),
        )
    }

    /// All streams by name, last first.
    pub fn streams_by_name_descending(
        &self,
        until: Bound<&str>,
    ) -> impl Iterator<Item = &StreamRecord> {
        merge::Merged::descending(
            self.streams
                .iter()
                .map(|shard| shard.range::<_, str>((Bound::Unbounded, until)).rev()),
        )
    }

    /// Streams by the stamp of their last change, from `stamp_ms` on; within that stamp only names above `after`.
    pub fn streams_changed_from(
        &self,
        stamp_ms: u64,
        after: Option<&str>,
    ) -> impl Iterator<Item = &StreamRecord> {
        // An empty name sorts before every name.
        let from = (stamp_ms, StreamName::trusted(after.unwrap_or_default()));
        self.by_stamp
            .range((Bound::Excluded(from), Bound::Unbounded))
            .filter_map(|(_, name)| self.stream(name))
    }

    pub fn streamer(&self, hostname: &str) -> Option<&StreamerRecord> {
        self.streamers.get(hostname)
    }

    pub fn streamers(&self) -> &OrdMap<Hostname, StreamerRecord> {
        &self.streamers
    }

    /// The view of one hostname. Exists for every saved streamer and every host a layout ever named.
    pub fn node(&self, hostname: &str) -> Option<&Arc<Node>> {
        self.nodes.get(hostname)
    }

    pub fn nodes(&self) -> &OrdMap<Hostname, Arc<Node>> {
        &self.nodes
    }

    /// All entities of a kind.
    pub fn entities(&self, kind: Kind) -> &Entities {
        &self.entities[kind as usize]
    }

    /// Episodes by their stream.
    pub fn episodes(&self) -> &EpisodeIndex {
        &self.episodes
    }

    /// The event log: chunks by the batch they belong to.
    pub fn events(&self) -> &OrdMap<u64, EventChunkRecord> {
        &self.events
    }

    pub fn events_count(&self) -> usize {
        self.events_count
    }

    /// Bytes of all chunks.
    pub fn events_bytes(&self) -> usize {
        self.events_bytes
    }

    /// Takes the number and the stamp of a batch that may have changed nothing but the event log.
    pub fn stand_at(&mut self, stamp: apply::Stamp) {
        assert!(stamp.revision >= self.revision, "revisions only grow");
        self.revision = stamp.revision;
        self.stamp_ms = stamp.ms;
    }

    /// Adds the events of a batch.
    pub fn add_events(&mut self, chunk: EventChunkRecord) {
        self.events_count += chunk.events.len();
        self.events_bytes += event::weight(&chunk);
        self.events.insert(chunk.revision.to_native(), chunk);
    }

    /// Drops the oldest batch of events.
    pub fn drop_oldest_events(&mut self) -> Option<u64> {
        let (revision, chunk) = self.events.get_min().cloned()?;
        self.events_count -= chunk.events.len();
        self.events_bytes -= event::weight(&chunk);
        self.events.remove(&revision);
        Some(revision)
    }

    /// Makes this the state after `changes`. Called by the writer on its private next state, and by replays in tests.
    pub fn absorb(&mut self, changes: &Changes) {
        let Changes {
            revision, stamp_ms, ..
        } = *changes;
        assert!(revision >= self.revision, "revisions only grow");
        for change in &changes.streams {
            let (old, new) = (change.old.as_ref(), change.new.as_ref());
            self.agent_streams.moved(&change.name, old, new);
            let shard = &mut self.streams[change.name.shard()];
            if let Some(old) = &change.old {
                self.by_stamp
                    .remove(&(old.updated_at.to_native(), change.name.clone()));
            }
            match &change.new {
                Some(new) => {
                    self.by_stamp
                        .insert((new.updated_at.to_native(), change.name.clone()));
                    if shard.insert(change.name.clone(), new.clone()).is_none() {
                        self.streams_count += 1;
                    }
                }
                None => {
                    if shard.remove(&change.name).is_some() {
                        self.streams_count -= 1;
                    }
                }
            }
        }
        for change in &changes.streamers {
            match &change.new {
                Some(new) => {
                    self.streamers.insert(change.hostname.clone(), new.clone());
                    if !self.nodes.contains_key(&change.hostname) {
                        self.nodes.insert(change.hostname.clone(), Arc::default());
                    }
                }
                None => {
                    self.streamers.remove(&change.hostname);
                }
            }
        }
        for change in &changes.nodes {
            let mut node = self
                .nodes
                .get(&change.hostname)
                .map_or_else(Node::default, |node| (**node).clone());
            if let Some((name, role)) = &change.holds {
                match role {
                    Some(role) => {
                        node.is_source |= role.is_source();
                        node.streams.insert(name.clone(), *role);
                    }
                    None => {
                        node.streams.remove(name);
                    }
                }
            }
            if change.visible {
                node.moved(revision, stamp_ms);
            }
            match &change.lost {
                apply::Lost::Nothing => {}
                apply::Lost::Stream(name) => node.remember_removal(revision, name),
                apply::Lost::Deltas => node.forget_deltas(revision),
            }
            self.nodes.insert(change.hostname.clone(), Arc::new(node));
        }
        for change in &changes.entities {
            self.episodes.absorb(change);
            let entities = &mut self.entities[change.kind as usize];
            match (&change.old, &change.new) {
                (old, Some(new)) => entities.put(&change.key, old.as_ref(), new.clone()),
                (Some(old), None) => entities.remove(&change.key, old),
                (None, None) => {}
            }
        }
        self.revision = revision;
        self.stamp_ms = stamp_ms;
    }
}

/// Puts a state together from records, in any order of kinds; the only other way to make a state than absorbing changes.
pub struct Loader {
    state: State,
}

impl Loader {
    pub fn new(store_id: u64, revision: u64, stamp_ms: u64, settings: RenderSettings) -> Self {
        let mut state = State::new(store_id, settings);
        state.revision = revision;
        state.stamp_ms = stamp_ms;
        Self { state }
    }

    pub fn streamer(&mut self, record: StreamerRecord) {
        self.state
            .streamers
            .insert(Hostname::trusted(&record.hostname), record);
    }

    pub fn entity(&mut self, kind: Kind, record: EntityRecord) {
        let key = Key::trusted(kind, &record.key);
        if kind == Kind::Episode {
            self.state.episodes.replace(None, Some(&record));
        }
        self.state.entities[kind as usize].put(&key, None, record);
    }

    pub fn events(&mut self, chunk: EventChunkRecord) {
        self.state.add_events(chunk);
    }

    /// One shard, loaded elsewhere, possibly on another thread.
    pub fn shard(&mut self, index: usize, streams: OrdMap<StreamName, StreamRecord>) {
        self.state.streams_count += streams.len();
        self.state.streams[index] = streams;
    }

    /// Builds the indexes. `marks` come from the store.
    pub fn finish(mut self, marks: Vec<(Hostname, NodeMark)>) -> State {
        let mut stamps: Vec<(u64, StreamName)> = Vec::with_capacity(self.state.streams_count);
        let mut nodes: std::collections::BTreeMap<Hostname, Node> =
            std::collections::BTreeMap::new();
        for hostname in self.state.streamers.keys() {
            nodes.entry(hostname.clone()).or_default();
        }
        for (hostname, mark) in marks {
            let node = nodes.entry(hostname).or_default();
            node.generation = mark.generation;
            node.updated_at = mark.updated_at;
            node.delta_floor = mark.generation;
        }
        for shard in &self.state.streams {
            for (name, stream) in shard {
                stamps.push((stream.updated_at.to_native(), name.clone()));
                self.state.agent_streams.moved(name, None, Some(stream));
                for (host, role) in holders(stream) {
                    let node = match nodes.get_mut(host) {
                        Some(node) => node,
                        None => nodes.entry(Hostname::trusted(host)).or_default(),
                    };
                    node.is_source |= role.is_source();
                    node.streams.insert(name.clone(), role);
                    // A node is told nothing of a disabled stream; what it was told before left a mark when that ended. The backups of a
                    // stream share one revision: one that did not move with another is told again after a restart.
                    let rendered = stream.rendered_at(role);
                    if !stream.disabled && rendered > node.generation {
                        node.generation = rendered;
                        // The stream changed in some way at or after that revision; exact enough for a reader of clocks.
                        node.updated_at = node.updated_at.max(stream.updated_at.to_native());
                    }
                }
                for (_, host, _) in stream.ingest_history() {
                    match nodes.get_mut(host) {
                        Some(node) => node.is_source = true,
                        None => nodes.entry(Hostname::trusted(host)).or_default().is_source = true,
                    }
                }
            }
        }
        stamps.sort_unstable();
        self.state.by_stamp = stamps.into_iter().collect();
        self.state.nodes = nodes
            .into_iter()
            .map(|(hostname, node)| (hostname, Arc::new(node)))
            .collect();
        self.state
    }
}

mod merge {
    //! One order out of the shards' orders.

    use std::cmp::Ordering;
    use std::collections::BinaryHeap;

    use super::{StreamName, StreamRecord};

    struct Head<'a, I> {
        name: &'a StreamName,
        record: &'a StreamRecord,
        rest: I,
        descending: bool,
    }

    impl<I> PartialEq for Head<'_, I> {
        fn eq(&self, other: &Self) -> bool {
            self.name == other.name
        }
    }
    impl<I> Eq for Head<'_, I> {}
    impl<I> PartialOrd for Head<'_, I> {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }
    impl<I> Ord for Head<'_, I> {
        // The heap gives its greatest first.
        fn cmp(&self, other: &Self) -> Ordering {
            let order = self.name.cmp(other.name);
            if self.descending {
                order
            } else {
                order.reverse()
            }
        }
    }

    pub struct Merged<'a, I> {
        heads: BinaryHeap<Head<'a, I>>,
    }

    impl<'a, I: Iterator<Item = (&'a StreamName, &'a StreamRecord)>> Merged<'a, I> {
        pub fn ascending(shards: impl Iterator<Item = I>) -> Self {
            Self::new(shards, false)
        }

        pub fn descending(shards: impl Iterator<Item = I>) -> Self {
            Self::new(shards, true)
        }

        fn new(shards: impl Iterator<Item = I>, descending: bool) -> Self {
            let heads = shards
                .filter_map(|mut rest| {
                    rest.next().map(|(name, record)| Head {
                        name,
                        record,
                        rest,
                        descending,
                    })
                })
                .collect();
            Self { heads }
        }
    }

    impl<'a, I: Iterator<Item = (&'a StreamName, &'a StreamRecord)>> Iterator for Merged<'a, I> {
        type Item = &'a StreamRecord;

        fn next(&mut self) -> Option<&'a StreamRecord> {
            let mut head = self.heads.peek_mut()?;
            let record = head.record;
            if let Some((name, record)) = head.rest.next() {
                head.name = name;
                head.record = record;
            } else {
                std::collections::binary_heap::PeekMut::pop(head);
            }
            Some(record)
        }
    }
}
