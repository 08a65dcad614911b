//! The records of a state, as the store has them: what a backup is made of.
//!
//! Nothing of the store is read. The only records that a state does not have one by one are the
//! marks of nodes, which are made from their generations.

use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use imbl::OrdMap;
use weir_storage::Table;

use super::tables::{
    EVENTS, LAYOUTER, NODES, STREAMERS, STREAMS, entity_key, entity_table, event_key, host_key,
    pause_key, stream_key,
};
use crate::state::entity::{KINDS, Key};
use crate::state::name::{Hostname, StreamName};
use crate::state::record::{NodeMark, NodeMarkRecord};
use crate::state::{SHARDS, State};

/// Table, key and bytes of a record.
pub type SnapshotRecord = (Table, Box<[u8]>, Arc<[u8]>);

/// Gives all records of a state, table by table. A step costs one search in an ordered map, so
/// that it can be left for any time between two of them.
pub struct SnapshotRecords {
    state: Arc<State>,
    position: SnapshotPosition,
}

/// The table, and the key after which the next record is.
enum SnapshotPosition {
    Streams(usize, Option<StreamName>),
    Streamers(Option<Hostname>),
    Nodes(Option<Hostname>),
    Events(Option<u64>),
    /// Whether it was given.
    Pause(bool),
    Entities(usize, Option<Key>),
    End,
}

impl SnapshotRecords {
    pub fn new(state: Arc<State>) -> Self {
        Self {
            state,
            position: SnapshotPosition::Streams(0, None),
        }
    }

    /// The next record of the table of the position.
    fn in_table(&mut self) -> Option<SnapshotRecord> {
        let state = &self.state;
        match &mut self.position {
            SnapshotPosition::Streams(shard, last) => {
                let (name, stream) = after(state.shard(*shard), last.as_ref())?;
                *last = Some(name.clone());
                Some((STREAMS, stream_key(name), stream.bytes().clone()))
            }
            SnapshotPosition::Streamers(last) => {
                let (hostname, streamer) = after(state.streamers(), last.as_ref())?;
                *last = Some(hostname.clone());
                Some((STREAMERS, host_key(hostname), streamer.bytes().clone()))
            }
            SnapshotPosition::Nodes(last) => {
                let (hostname, node) = after(state.nodes(), last.as_ref())?;
                *last = Some(hostname.clone());
                let mark = NodeMarkRecord::new(&NodeMark {
                    generation: node.generation,
                    updated_at: node.updated_at,
                });
                Some((NODES, host_key(hostname), mark.bytes().clone()))
            }
            SnapshotPosition::Events(last) => {
                let (revision, chunk) = after(state.events(), last.as_ref())?;
                *last = Some(*revision);
                Some((EVENTS, event_key(*revision), chunk.bytes().clone()))
            }
            SnapshotPosition::Pause(is_given) => {
                if std::mem::replace(is_given, true) {
                    return None;
                }
                let pause = state.pause()?;
                Some((LAYOUTER, pause_key(), pause.bytes().clone()))
            }
            SnapshotPosition::Entities(kind, last) => {
                let kind = KINDS[*kind];
                let entities = state.entities(kind).by_key();
                let (key, entity) = after(entities, last.as_ref())?;
                let record = (entity_table(kind), entity_key(key), entity.bytes().clone());
                *last = Some(key.clone());
                Some(record)
            }
            SnapshotPosition::End => None,
        }
    }

    fn next_table(&mut self) {
        self.position = match &self.position {
            SnapshotPosition::Streams(shard, _) if shard + 1 < SHARDS => {
                SnapshotPosition::Streams(shard + 1, None)
            }
            SnapshotPosition::Streams(..) => SnapshotPosition::Streamers(None),
            SnapshotPosition::Streamers(_) => SnapshotPosition::Nodes(None),
            SnapshotPosition::Nodes(_) => SnapshotPosition::Events(None),
            SnapshotPosition::Events(_) => SnapshotPosition::Pause(false),
            SnapshotPosition::Pause(_) => SnapshotPosition::Entities(0, None),
            SnapshotPosition::Entities(kind, _) if kind + 1 < KINDS.len() => {
                SnapshotPosition::Entities(kind + 1, None)
            }
            SnapshotPosition::Entities(..) | SnapshotPosition::End => SnapshotPosition::End,
        };
    }
}

impl Iterator for SnapshotRecords {
    type Item = SnapshotRecord;

    fn next(&mut self) -> Option<SnapshotRecord> {
        while !matches!(self.position, SnapshotPosition::End) {
            if let Some(record) = self.in_table() {
                return Some(record);
            }
            self.next_table();
        }
        None
    }
}

/// The first entry after a key, or of all.
fn after<'a, K: Ord + Clone, V: Clone>(
    map: &'a OrdMap<K, V>,
    last: Option<&K>,
) -> Option<(&'a K, &'a V)> {
    let from = last.map_or(Unbounded, Excluded);
    map.range::<_, K>((from, Unbounded)).next()
}
