//! Records on disk: their tables and keys, the operations of a batch, and loading a state.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use imbl::OrdMap;
use tracing::error;
use weir_storage::{Log, Op, Opened, StoreError, Table};

use crate::state::apply::{Changes, Lost};
use crate::state::entity::{KINDS, Key, Kind};
use crate::state::name::{Hostname, StreamName, shard_of};
use crate::state::node::RenderSettings;
use crate::state::record::{
    EntityRecord, EventChunkRecord, NodeMark, NodeMarkRecord, RecordError, StreamRecord,
    StreamerRecord,
};
use crate::state::{Loader, SHARDS, State};

/// Kinds on disk. Streams are keyed by shard byte and name, so that one table can be loaded in parallel: sixteen tables cost a
/// sixteenth root page each in every small batch.
pub const STREAMS: Table = Table("stream");
pub const STREAMERS: Table = Table("streamer");
/// Marks of nodes' generations, keyed by hostname.
pub const NODES: Table = Table("node");
/// Chunks of the event log, keyed by the batch's number, big-endian.
pub const EVENTS: Table = Table("event");

/// Where the entities of a kind are.
pub fn entity_table(kind: Kind) -> Table {
    Table(match kind {
        Kind::Agent => "agent",
        Kind::ApiToken => "api_token",
        Kind::AuthBackend => "auth_backend",
        Kind::Balancer => "balancer",
        Kind::Episode => "episode",
        Kind::Person => "person",
        Kind::DeletedAgent => "deleted_agent",
    })
}

/// Every table, in the order of a backup.
pub fn tables() -> impl Iterator<Item = Table> {
    [STREAMS, STREAMERS, NODES, EVENTS]
        .into_iter()
        .chain(KINDS.into_iter().map(entity_table))
}

fn stream_key(name: &str) -> Box<[u8]> {
    let mut key = Vec::with_capacity(name.len() + 1);
    key.push(shard_of(name) as u8);
    key.extend_from_slice(name.as_bytes());
    key.into_boxed_slice()
}

/// Everything but streams is in shard 0.
fn host_key(hostname: &str) -> Box<[u8]> {
    let mut key = vec![0];
    key.extend_from_slice(hostname.as_bytes());
    key.into_boxed_slice()
}

pub(super) fn event_key(revision: u64) -> Box<[u8]> {
    let mut key = vec![0];
    key.extend_from_slice(&revision.to_be_bytes());
    key.into_boxed_slice()
}

/// In the order of the collection.
fn entity_key(key: &Key) -> Box<[u8]> {
    let mut bytes = vec![0];
    match key {
        Key::Number(number) => bytes.extend_from_slice(&number.to_be_bytes()),
        Key::Text(text) => bytes.extend_from_slice(text.as_bytes()),
    }
    bytes.into_boxed_slice()
}

pub(super) fn collect_ops(changes: &Changes, ops: &mut Vec<Op>) {
    for change in &changes.streams {
        let key = stream_key(&change.name);
        ops.push(match &change.new {
            Some(new) => Op::Put {
                table: STREAMS,
                key,
                value: new.bytes().clone(),
            },
            None => Op::Delete {
                table: STREAMS,
                key,
            },
        });
    }
    for change in &changes.streamers {
        let key = host_key(&change.hostname);
        ops.push(match &change.new {
            Some(new) => Op::Put {
                table: STREAMERS,
                key,
                value: new.bytes().clone(),
            },
            None => Op::Delete {
                table: STREAMERS,
                key,
            },
        });
    }
    for change in &changes.entities {
        let (table, key) = (entity_table(change.kind), entity_key(&change.key));
        ops.push(match &change.new {
            Some(new) => Op::Put {
                table,
                key,
                value: new.bytes().clone(),
            },
            None => Op::Delete { table, key },
        });
    }
    for change in &changes.nodes {
        // Only what the streams' own records cannot tell after a restart.
        if change.lost != Lost::Nothing {
            let mark = NodeMarkRecord::new(&NodeMark {
                generation: changes.revision,
                updated_at: changes.stamp_ms,
            });
            ops.push(Op::Put {
                table: NODES,
                key: host_key(&change.hostname),
                value: mark.bytes().clone(),
            });
        }
    }
}

type Shard = OrdMap<StreamName, StreamRecord>;

/// Reads every record, on all processors, and builds the state.
pub fn load<L: Log>(
    log: &L,
    opened: &Opened,
    settings: RenderSettings,
) -> Result<Arc<State>, StoreError> {
    let mut loader = Loader::new(opened.store_id, opened.lsn, opened.stamp_ms, settings);
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(SHARDS);
    let shards = thread::scope(|scope| {
        let work = || -> Result<Vec<(usize, Shard)>, StoreError> {
            let mut done = Vec::new();
            loop {
                let shard = next.fetch_add(1, Ordering::Relaxed);
                if shard >= SHARDS {
                    return Ok(done);
                }
                done.push((shard, load_shard(log, shard)?));
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("loading does not panic"))
            .collect::<Result<Vec<_>, _>>()
    })?;
    for (shard, streams) in shards.into_iter().flatten() {
        loader.shard(shard, streams);
    }
    let mut bad = None;
    log.load(
        STREAMERS,
        None,
        &mut |key, value| match StreamerRecord::from_bytes(value) {
            Ok(record) => loader.streamer(record),
            Err(error) => bad = Some((STREAMERS.0, key.to_vec(), error)),
        },
    )?;
    let mut marks: Vec<(Hostname, NodeMark)> = Vec::new();
    log.load(NODES, None, &mut |key, value| match (
        std::str::from_utf8(&key[1..]),
        NodeMarkRecord::from_bytes(value),
    ) {
        (Ok(hostname), Ok(mark)) => marks.push((Hostname::trusted(hostname), mark.to_owned())),
        (_, Err(error)) => bad = Some((NODES.0, key.to_vec(), error)),
        (Err(_), _) => bad = Some((NODES.0, key.to_vec(), RecordError::Damaged)),
    })?;
    for kind in KINDS {
        let table = entity_table(kind);
        log.load(
            table,
            None,
            &mut |key, value| match EntityRecord::from_bytes(value) {
                Ok(record) => loader.entity(kind, record),
                Err(error) => bad = Some((table.0, key.to_vec(), error)),
            },
        )?;
    }
    log.load(
        EVENTS,
        None,
        &mut |key, value| match EventChunkRecord::from_bytes(value) {
            Ok(chunk) => loader.events(chunk),
            Err(error) => bad = Some((EVENTS.0, key.to_vec(), error)),
        },
    )?;
    refuse(bad)?;
    Ok(Arc::new(loader.finish(marks)))
}

fn load_shard<L: Log>(log: &L, shard: usize) -> Result<Shard, StoreError> {
    let mut streams = OrdMap::new();
    let mut bad = None;
    log.load(
        STREAMS,
        Some(shard as u8),
        &mut |key, value| match StreamRecord::from_bytes(value) {
            Ok(record) => {
                streams.insert(StreamName::trusted(&record.name), record);
            }
            Err(error) => bad = Some((STREAMS.0, key.to_vec(), error)),
        },
    )?;
    refuse(bad)?;
    Ok(streams)
}

/// A record that passed its checksum and still does not decode was written by another version of this program.
fn refuse(bad: Option<(&'static str, Vec<u8>, RecordError)>) -> Result<(), StoreError> {
    match bad {
        None => Ok(()),
        Some((table, key, why)) => {
            error!(table, key = %String::from_utf8_lossy(&key).escape_debug(), %why, "a record cannot be read");
            Err(StoreError::Corrupt {
                path: "weir.redb".into(),
                table: table.to_owned(),
                key,
                what: why.to_string(),
            })
        }
    }
}
