//! Records on disk: their tables and keys, the operations of a batch, and loading a state.
//!
//! The first byte of a key is its shard. Streams are spread over the shards of one table, so that
//! one table can be loaded in parallel (sixteen tables would cost a sixteenth root page each in
//! every small batch); everything else is in shard 0. Tables and keys are a format: `golden` opens
//! a store of every released version.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use imbl::OrdMap;
use tracing::error;
use weir_storage::{Op, Opened, Storage, StoreError, Table};

use crate::schema;
use crate::state::apply::{Changes, Lost};
use crate::state::entity::{KINDS, Key, Kind};
use crate::state::name::{Hostname, StreamName, shard_of};
use crate::state::node::RenderSettings;
use crate::state::record::{
    EntityRecord, EventChunkRecord, NodeMark, NodeMarkRecord, PauseRecord, RecordError,
    StreamRecord, StreamerRecord,
};
use crate::state::{Loader, SHARDS, State};

/// Streams by shard and name.
pub const STREAMS: Table = Table("stream");
/// Streamers by hostname.
pub const STREAMERS: Table = Table("streamer");
/// Marks of nodes' generations by hostname.
pub const NODES: Table = Table("node");
/// Chunks of the event log by the revision of their batch, big-endian.
pub const EVENTS: Table = Table("event");

/// The pause of the layouter, of which there is one at most.
pub const LAYOUTER: Table = Table("layouter");

/// The table of a kind of entities.
pub fn entity_table(kind: Kind) -> Table {
    Table(kind.row().table)
}

/// Every table, in the order of a backup.
pub fn tables() -> impl Iterator<Item = Table> {
    [STREAMS, STREAMERS, NODES, EVENTS, LAYOUTER]
        .into_iter()
        .chain(KINDS.into_iter().map(entity_table))
}

fn key(shard: u8, rest: &[u8]) -> Box<[u8]> {
    let mut key = Vec::with_capacity(rest.len() + 1);
    key.push(shard);
    key.extend_from_slice(rest);
    key.into_boxed_slice()
}

pub(super) fn stream_key(name: &str) -> Box<[u8]> {
    key(shard_of(name) as u8, name.as_bytes())
}

pub(super) fn host_key(hostname: &str) -> Box<[u8]> {
    key(0, hostname.as_bytes())
}

pub(super) fn event_key(revision: u64) -> Box<[u8]> {
    key(0, &revision.to_be_bytes())
}

pub(super) fn pause_key() -> Box<[u8]> {
    key(0, b"pause")
}

/// Sorts as the collection does.
pub(super) fn entity_key(entity: &Key) -> Box<[u8]> {
    match entity {
        Key::Number(number) => key(0, &number.to_be_bytes()),
        Key::Text(text) => key(0, text.as_bytes()),
    }
}

/// Stores the new bytes of a record, or deletes it if there are none.
fn op(table: Table, key: Box<[u8]>, new: Option<&Arc<[u8]>>) -> Op {
    match new.cloned() {
        Some(value) => Op::Put { table, key, value },
        None => Op::Delete { table, key },
    }
}

/// Adds the operations that store what a command changed.
pub(super) fn collect_ops(changes: &Changes, ops: &mut Vec<Op>) {
    for change in &changes.streams {
        let new = change.new.as_ref().map(StreamRecord::bytes);
        ops.push(op(STREAMS, stream_key(&change.name), new));
    }
    for change in &changes.streamers {
        let new = change.new.as_ref().map(StreamerRecord::bytes);
        ops.push(op(STREAMERS, host_key(&change.hostname), new));
    }
    for change in &changes.entities {
        let (table, key) = (entity_table(change.kind), entity_key(&change.key));
        let new = change.new.as_ref().map(EntityRecord::bytes);
        ops.push(op(table, key, new));
    }
    if let Some(change) = &changes.pause {
        let new = change.new.as_ref().map(PauseRecord::bytes);
        ops.push(op(LAYOUTER, pause_key(), new));
    }
    for change in &changes.nodes {
        // Only what the streams' own records do not show after a restart.
        if change.lost != Lost::Nothing {
            let mark = NodeMarkRecord::new(&NodeMark {
                generation: changes.revision,
                updated_at: changes.stamp_ms,
            });
            ops.push(op(NODES, host_key(&change.hostname), Some(mark.bytes())));
        }
    }
}

/// Decodes a record. One without a mark for secrets gets it if it has any: an earlier version may
/// have known fewer forms of secrets, and lists mask only records with the mark.
macro_rules! marked {
    ($record:ident, $value:expr, $schema:expr) => {{
        let record = $record::from_bytes($value)?;
        if record.has_secrets
            || !$schema.may_have_secrets(&record.config)
            || $schema.mask(&record.config) == *record.config
        {
            record
        } else {
            let mut owned = record.to_owned();
            owned.has_secrets = true;
            $record::new(&owned)
        }
    }};
}

type ShardStreams = OrdMap<StreamName, StreamRecord>;

/// Reads every record, on all processors, and builds the state.
pub fn load<S: Storage>(
    log: &S,
    opened: &Opened,
    settings: RenderSettings,
) -> Result<Arc<State>, StoreError> {
    let mut loader = Loader::new(opened.store_id, opened.lsn, opened.stamp_ms, settings)
        .restored_at(opened.restored.lsn, opened.restored.stamp_ms);
    for (shard, streams) in load_streams(log)? {
        loader.shard(shard, streams);
    }
    load_table(log, STREAMERS, None, |_, value| {
        loader.streamer(marked!(StreamerRecord, value, schema::streamer()));
        Ok(())
    })?;
    let mut marks: Vec<(Hostname, NodeMark)> = Vec::new();
    load_table(log, NODES, None, |key, value| {
        let mark = NodeMarkRecord::from_bytes(value)?;
        let hostname = std::str::from_utf8(&key[1..]).map_err(|_| RecordError::Damaged)?;
        marks.push((Hostname::trusted(hostname), mark.to_owned()));
        Ok(())
    })?;
    for kind in KINDS {
        load_table(log, entity_table(kind), None, |_, value| {
            loader.entity(kind, marked!(EntityRecord, value, kind.schema()));
            Ok(())
        })?;
    }
    load_table(log, EVENTS, None, |_, value| {
        loader.events(EventChunkRecord::from_bytes(value)?);
        Ok(())
    })?;
    load_table(log, LAYOUTER, None, |key, value| {
        // Other keys are of newer programs.
        if *key == *pause_key() {
            loader.pause(PauseRecord::from_bytes(value)?);
        }
        Ok(())
    })?;
    Ok(Arc::new(loader.finish(marks)))
}

/// Every shard of the streams, with its number. Each thread takes the next shard until none is
/// left.
fn load_streams<S: Storage>(log: &S) -> Result<Vec<(usize, ShardStreams)>, StoreError> {
    let next = AtomicUsize::new(0);
    let processors = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let work = || -> Result<Vec<(usize, ShardStreams)>, StoreError> {
            let mut loaded = Vec::new();
            loop {
                let shard = next.fetch_add(1, Ordering::Relaxed);
                if shard >= SHARDS {
                    return Ok(loaded);
                }
                let mut streams = OrdMap::new();
                load_table(log, STREAMS, Some(shard as u8), |_, value| {
                    let record = marked!(StreamRecord, value, schema::stream());
                    streams.insert(StreamName::trusted(&record.name), record);
                    Ok(())
                })?;
                loaded.push((shard, streams));
            }
        };
        let threads: Vec<_> = (0..processors.min(SHARDS))
            .map(|_| scope.spawn(work))
            .collect();
        let mut all = Vec::with_capacity(SHARDS);
        for thread in threads {
            all.append(&mut thread.join().expect("loading does not panic")?);
        }
        Ok(all)
    })
}

/// Gives every record of a table, or of one shard of it, to `read`; fails if it refused one of
/// them.
fn load_table<S: Storage>(
    log: &S,
    table: Table,
    shard: Option<u8>,
    mut read: impl FnMut(&[u8], &[u8]) -> Result<(), RecordError>,
) -> Result<(), StoreError> {
    let mut refused = None;
    log.load(table, shard, &mut |key, value| {
        if let Err(error) = read(key, value) {
            refused = Some((key.to_vec(), error));
        }
    })?;
    refused.map_or(Ok(()), |(key, why)| Err(unreadable(table, key, &why)))
}

/// The error for a record that passed its checksum and does not decode: another version wrote it.
fn unreadable(table: Table, key: Vec<u8>, why: &RecordError) -> StoreError {
    let text = String::from_utf8_lossy(&key);
    error!(table = table.0, key = %text.escape_debug(), error = %why, "record cannot be read");
    let (path, table) = ("weir.redb".into(), table.0.to_owned());
    match *why {
        RecordError::Version { found, newest } if found > newest => StoreError::NewerRecord {
            path,
            table,
            key,
            version: found,
            supported: newest,
        },
        RecordError::Version { .. } | RecordError::Damaged => StoreError::Corrupt {
            path,
            table,
            key,
            what: why.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::record::Stream;

    #[test]
    fn secrets_that_an_earlier_version_did_not_know_are_marked() {
        for (config, has_secrets) in [
            (r#"{"inputs":[{"url":"http://KEY@h/x"}]}"#, true),
            (r#"{"inputs":[{"url":"http://h/x?api_key=k"}]}"#, true),
            (r#"{"inputs":[{"url":"http://h/x"}]}"#, false),
        ] {
            let stored = StreamRecord::new(&Stream {
                name: "a".into(),
                config: config.into(),
                has_secrets: false,
                ..Stream::default()
            });
            let read = |bytes: &[u8]| -> Result<StreamRecord, RecordError> {
                Ok(marked!(StreamRecord, bytes, schema::stream()))
            };
            let record = read(stored.bytes()).expect("a record");
            assert_eq!(record.has_secrets, has_secrets, "{config}");
            assert_eq!(&*record.config, config);
        }
    }
}
