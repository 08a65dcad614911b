//! Logs: what a commit waits for. Tables: where the records are found.
//!
//! A store is one of each. Which log it is decides when records reach the tables: with the append
//! itself, or behind it, by the applier. A log of several machines would be a third one.

use std::sync::Arc;

use crate::applier::Shared;
use crate::entry::{Change, Position};
use crate::{Batch, Op, StoreError};

/// Where batches become durable, in order. Owned by the thread that commits; calls block.
///
/// Numbers are contiguous, and an entry never changes. Nothing of a refused batch is in the log,
/// then or later. After an unknown outcome the log is of no more use: opening it again finds out
/// what is in it, and makes that durable.
pub(crate) trait Log: Send + Sync {
    /// The last batch that is durable.
    fn head(&self) -> Position;

    /// Makes a batch durable, which must be the next one.
    fn append(&mut self, batch: &Batch) -> Result<Appended, AppendError>;

    /// Everything up to this position is in the tables, durably: the log may forget it.
    fn trim(&mut self, complete: &Position);

    /// How much of the room for entries that the tables lack is in use.
    fn usage(&self) -> LogUsage;
}

/// What became of the records of a batch that is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Appended {
    /// They are in the tables.
    InTables,
    /// They are to be put there.
    Ahead,
}

/// Why a batch was not appended.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// Nothing was written and nothing will be.
    Refused(Refusal),
    /// Whether the batch is in the log is unknown.
    Unknown(StoreError),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// There is no room for entries until more is in the tables.
    Full,
    /// The disk has no space for a longer file.
    NoSpace,
}

/// How much of the room of a log is in use, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LogUsage {
    pub bytes: u64,
    pub bytes_max: u64,
}

impl LogUsage {
    pub fn percent(self) -> u64 {
        self.bytes * 100 / self.bytes_max
    }
}

/// Records as of some position. Filled by the log itself or by the applier, read while a store is
/// opened.
pub(crate) trait Tables {
    /// Everything up to here is in them.
    fn complete(&self) -> Position;

    /// Gives every record of a table, or of one shard of it, in the order of keys, and returns how
    /// many; see [`crate::Storage::load`].
    fn load(
        &self,
        table: &str,
        shard: Option<u8>,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<u64, StoreError>;

    /// Makes some records of a pass durable, none of which is newer than `newest_lsn`. With
    /// `complete` they are the last ones: the tables then have everything up to there.
    ///
    /// After an error the outcome is unknown and the tables must be opened again. Returns the bytes
    /// of the records that were deleted or replaced.
    fn put(
        &mut self,
        changes: &[Change<'_>],
        newest_lsn: u64,
        complete: Option<Position>,
    ) -> Result<u64, StoreError>;
}

/// The log that is in the tables: a batch is one transaction of the engine.
pub(crate) struct RedbLog {
    shared: Arc<Shared>,
    head: Position,
}

impl RedbLog {
    /// The log of open tables that have no other one.
    pub fn new(shared: Arc<Shared>, head: Position) -> Self {
        Self { shared, head }
    }
}

impl Log for RedbLog {
    fn head(&self) -> Position {
        self.head
    }

    fn append(&mut self, batch: &Batch) -> Result<Appended, AppendError> {
        let changes: Vec<Change<'_>> = batch.ops.iter().map(Op::change).collect();
        let head = Position {
            lsn: batch.lsn,
            stamp_ms: batch.stamp_ms,
            chain: 0,
        };
        let put = self.shared.put(&changes, batch.lsn, Some(head));
        put.map_err(AppendError::Unknown)?;
        self.head = head;
        self.shared.set_complete(head);
        Ok(Appended::InTables)
    }

    fn trim(&mut self, _: &Position) {}

    fn usage(&self) -> LogUsage {
        LogUsage {
            bytes: 0,
            bytes_max: 1,
        }
    }
}
