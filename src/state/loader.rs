//! Building a state from stored records, with its indexes.

use std::collections::HashMap;
use std::sync::Arc;

use imbl::OrdMap;

use super::State;
use super::entity::{Key, Kind};
use super::name::{Hostname, StreamName};
use super::node::{Node, RenderSettings, holders};
use super::record::{
    EntityRecord, EventChunkRecord, NodeMark, PauseRecord, StreamRecord, StreamerRecord,
};

/// Builds a state from stored records, in any order of kinds.
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

    /// The revision and the stamp at which the store began when it was restored from a backup.
    #[must_use]
    pub fn restored_at(mut self, revision: u64, stamp_ms: u64) -> Self {
        self.state.restored_revision = revision;
        self.state.restored_stamp_ms = stamp_ms;
        self
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

    pub fn pause(&mut self, record: PauseRecord) {
        self.state.pause = Some(record);
    }

    /// Sets one shard of the streams, which another thread may have loaded.
    pub fn shard(&mut self, index: usize, streams: OrdMap<StreamName, StreamRecord>) {
        self.state.streams_count += streams.len();
        self.state.streams[index] = streams;
    }

    /// Builds the indexes. `marks` come from the store.
    pub fn finish(mut self, marks: Vec<(Hostname, NodeMark)>) -> State {
        let mut nodes = Nodes::new();
        for hostname in self.state.streamers.keys() {
            nodes.entry(hostname.clone()).or_default();
        }
        for (hostname, mark) in marks {
            let node = nodes.entry(hostname).or_default();
            node.generation = mark.generation;
            node.updated_at = mark.updated_at;
            node.delta_floor = mark.generation;
        }
        let mut stamps: Vec<(u64, StreamName)> = Vec::with_capacity(self.state.streams_count);
        for (name, stream) in self.state.streams.iter().flatten() {
            stamps.push((stream.updated_at.to_native(), name.clone()));
            self.state.agent_streams.moved(name, None, Some(stream));
            if stream.handover_from().is_some() {
                self.state.handovers.insert(name.clone());
            }
            add_holders(&mut nodes, name, stream);
        }
        stamps.sort_unstable();
        self.state.by_stamp = stamps.into_iter().collect();
        let nodes = nodes.into_iter();
        self.state.nodes = nodes
            .map(|(hostname, node)| (hostname, Arc::new(node)))
            .collect();
        self.state
    }
}

type Nodes = HashMap<Hostname, Node>;

fn node_mut<'a>(nodes: &'a mut Nodes, host: &str) -> &'a mut Node {
    if !nodes.contains_key(host) {
        nodes.insert(Hostname::trusted(host), Node::default());
    }
    nodes.get_mut(host).expect("it was just inserted")
}

/// Adds a stream to the nodes that hold it, and marks those that once captured it as sources.
fn add_holders(nodes: &mut Nodes, name: &StreamName, stream: &StreamRecord) {
    for (host, role) in holders(stream) {
        let node = node_mut(nodes, host);
        node.is_source |= role.is_source();
        node.streams.insert(name.clone(), role);
        // A node is sent nothing of a disabled stream; when that began a mark was left. The backups
        // of a stream share one revision: one that did not change with another gets a new
        // generation after a restart.
        let rendered = stream.rendered_for(host, role);
        if !stream.disabled && rendered > node.generation {
            node.generation = rendered;
            // The stream changed at or after that revision: exact enough for a time that is only
            // shown.
            node.updated_at = node.updated_at.max(stream.updated_at.to_native());
        }
    }
    for (_, host, _) in stream.ingest_history() {
        node_mut(nodes, host).is_source = true;
    }
}
