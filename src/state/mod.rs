//! Everything that is configured, at one revision, as an immutable value. No I/O, no clock.
//!
//! A [`State`] is structurally shared: a reader holds an `Arc` of it and sees all of a batch or
//! nothing of it, while the writer makes the next one beside it. [`apply`](apply::apply) decides
//! what a command changes; [`State::absorb`] is the only code that makes a new state from changes.

pub mod agent;
pub mod apply;
pub mod batch;
mod by_stamp;
pub mod call_event;
pub mod changed_members;
pub mod changes;
pub mod command;
pub mod entity;
pub mod episode;
pub mod event;
pub mod event_streams;
pub mod handover;
mod invalid;
pub mod kinds;
pub mod label;
mod loader;
mod merged;
pub mod name;
pub mod name_hash;
pub mod node;
pub mod pause;
pub mod pull;
pub mod record;
pub mod report_gap;
pub mod retention;
pub mod tag;
pub mod trusted_time;

#[cfg(test)]
mod golden;

use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use self::by_stamp::StreamsByStamp;
use self::changes::{Changes, Lost, NodeChange, StreamChange, StreamerChange};
use self::entity::{Entities, KINDS, Kind};
use self::episode::EpisodeIndex;
use self::name::{Hostname, StreamName};
use self::node::{Node, RenderSettings};
use self::record::{EventChunkRecord, PauseRecord, StreamRecord, StreamerRecord};

pub use self::loader::Loader;

/// Parts of the stream map; the unit of parallel loading and scanning. Fixed by the format on disk.
pub const SHARDS: usize = 16;

type StreamMap = OrdMap<StreamName, StreamRecord>;

/// The whole configuration at one revision. Cloning is cheap.
#[derive(Clone)]
pub struct State {
    /// Log sequence number of the batch that made it.
    revision: u64,
    /// Stamp of that batch, UTC ms.
    stamp_ms: u64,
    /// Identifies the store; part of every ETag.
    store_id: u64,
    /// Where the store began when it was restored from a backup; 0 if it was not.
    restored_revision: u64,
    /// Its stamp then.
    restored_stamp_ms: u64,
    streams: [StreamMap; SHARDS],
    streams_count: usize,
    by_stamp: StreamsByStamp,
    /// Streams that an earlier ingest node still keeps.
    handovers: OrdSet<StreamName>,
    streamers: OrdMap<Hostname, StreamerRecord>,
    nodes: OrdMap<Hostname, Arc<Node>>,
    entities: [Entities; KINDS.len()],
    agent_streams: agent::AgentStreams,
    episodes: EpisodeIndex,
    /// Chunks of the event log by the revision of their batch.
    events: OrdMap<u64, EventChunkRecord>,
    events_count: usize,
    events_bytes: usize,
    /// Present while the layouter is paused.
    pause: Option<PauseRecord>,
    settings: Arc<RenderSettings>,
}

impl State {
    pub fn new(store_id: u64, settings: RenderSettings) -> Self {
        Self {
            revision: 0,
            stamp_ms: 0,
            store_id,
            restored_revision: 0,
            restored_stamp_ms: 0,
            streams: std::array::from_fn(|_| OrdMap::new()),
            streams_count: 0,
            by_stamp: StreamsByStamp::default(),
            handovers: OrdSet::new(),
            streamers: OrdMap::new(),
            nodes: OrdMap::new(),
            entities: std::array::from_fn(|_| Entities::default()),
            agent_streams: agent::AgentStreams::default(),
            episodes: EpisodeIndex::default(),
            events: OrdMap::new(),
            events_count: 0,
            events_bytes: 0,
            pause: None,
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

    /// The oldest revision from which changes are known. What a reader has of an earlier one may be
    /// of a future that a restore took back.
    pub fn restored_revision(&self) -> u64 {
        self.restored_revision
    }

    /// The time of the restore, UTC ms; 0 without one. Of what was saved before that, some may be
    /// lost.
    pub fn restored_stamp_ms(&self) -> u64 {
        self.restored_stamp_ms
    }

    pub fn settings(&self) -> &RenderSettings {
        &self.settings
    }

    #[inline]
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
        merged::Merged::ascending(
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
        merged::Merged::descending(
            self.streams
                .iter()
                .map(|shard| shard.range::<_, str>((Bound::Unbounded, until)).rev()),
        )
    }

    /// Streams by the stamp of their last change, from `stamp_ms` on; within that stamp only names
    /// above `after`.
    pub fn streams_changed_from<'s>(
        &'s self,
        stamp_ms: u64,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'s StreamRecord> {
        let names = self.by_stamp.from(stamp_ms, after);
        names.filter_map(|name| self.stream(name))
    }

    /// Whether at least so many streams were changed from `stamp_ms` on.
    pub fn has_changed_from(&self, stamp_ms: u64, streams: usize) -> bool {
        self.by_stamp.has_from(stamp_ms, streams)
    }

    pub fn streamer(&self, hostname: &str) -> Option<&StreamerRecord> {
        self.streamers.get(hostname)
    }

    pub fn streamers(&self) -> &OrdMap<Hostname, StreamerRecord> {
        &self.streamers
    }

    /// The view of one hostname. Exists for every saved streamer and every host that a layout ever
    /// named.
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

    /// Streams that an earlier ingest node still keeps.
    pub fn handovers(&self) -> &OrdSet<StreamName> {
        &self.handovers
    }

    /// The event log: chunks by the revision of their batch.
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

    /// Present while the layouter is paused.
    pub fn pause(&self) -> Option<&PauseRecord> {
        self.pause.as_ref()
    }

    /// Moves on to the revision and stamp of a batch, which may have changed the event log only.
    pub fn advance(&mut self, stamp: changes::Stamp) {
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

    /// Turns this state into the one after `changes`. Called by the writer on its private next
    /// state, and by replays in tests.
    pub fn absorb(&mut self, changes: &Changes) {
        assert!(changes.revision >= self.revision, "revisions only grow");
        for change in &changes.streams {
            self.absorb_stream(change);
        }
        for change in &changes.streamers {
            self.absorb_streamer(change);
        }
        for change in &changes.nodes {
            self.absorb_node(change, changes);
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
        if let Some(change) = &changes.pause {
            self.pause = change.new.clone();
        }
        self.revision = changes.revision;
        self.stamp_ms = changes.stamp_ms;
    }

    fn absorb_stream(&mut self, change: &StreamChange) {
        let (old, new) = (change.old.as_ref(), change.new.as_ref());
        self.agent_streams.moved(&change.name, old, new);
        if new.is_some_and(|new| new.handover_from().is_some()) {
            self.handovers.insert(change.name.clone());
        } else {
            self.handovers.remove(&change.name);
        }
        let shard = &mut self.streams[change.name.shard()];
        if let Some(old) = old {
            self.by_stamp
                .remove(old.updated_at.to_native(), &change.name);
        }
        match new {
            Some(new) => {
                self.by_stamp
                    .insert(new.updated_at.to_native(), change.name.clone());
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

    fn absorb_streamer(&mut self, change: &StreamerChange) {
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

    fn absorb_node(&mut self, change: &NodeChange, changes: &Changes) {
        let old = self.nodes.get(&change.hostname);
        let mut node = old.map_or_else(Node::default, |node| (**node).clone());
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
            node.moved(changes.revision, changes.stamp_ms);
        }
        match &change.lost {
            Lost::Nothing => {}
            Lost::Stream(name) => node.remember_removal(changes.revision, name),
            Lost::Deltas => node.forget_deltas(changes.revision),
        }
        self.nodes.insert(change.hostname.clone(), Arc::new(node));
    }
}
