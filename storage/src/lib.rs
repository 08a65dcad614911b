//! Durable records: bytes under keys in tables. Independent of the meaning of records.
//!
//! # The promise
//!
//! * When [`Storage::commit`] returns `Ok`, the whole [`Batch`], its sequence number and its stamp are
//!   on the disk, behind a barrier: neither a kill nor a power cut takes any of it back.
//! * A batch is all or nothing, at every moment, on every cut.
//! * When `commit` returns an error after it began to write, whether the batch is on disk is
//!   *unknown*. An fsync is never tried again, since the kernel may have dropped what it could not
//!   write and report success the second time. The store refuses everything until [`Storage::reopen`]
//!   has read the truth from the disk, which is in [`Opened::lsn`]. `reopen` has rewritten and
//!   synced the engine's header, or the end of the log, before it answers, so its answer is durable
//!   too.
//! * What [`Storage::load`] gives is what was committed. Each record carries a checksum over its table,
//!   key and value, each (table, shard) a count and a sum of them; a flipped bit, a lost, doubled
//!   or misplaced record is [`StoreError::Corrupt`], never data. `load` hands out records as it
//!   goes, so the caller must not believe them before it returned `Ok`.
//! * One process at a time: a second one gets [`StoreError::Locked`].
//! * Opening after a crash takes milliseconds at any size.
//!
//! With [`LogKind::Append`] a batch is an entry of a log, and a thread puts records into the tables
//! behind it. The tables may then have records that are newer than the batch up to which they are
//! complete, never newer than what is in the log; opening fails if the log does not reach that far.
//! Entries name the one before them, so a lost, repeated or changed one is found; a single flipped
//! bit of an entry is corrected. The loss of the whole last segment file, with everything that the
//! tables lack, is not noticed.
//!
//! What damage can still do: on some of it the engine panics, which is caught and becomes
//! `Corrupt`, and rarely it panics again while cleaning up, which ends the process in the middle of
//! a commit, that is, with nothing promised. (Catching needs `panic = "unwind"`.) And one bit of
//! the file, the choice between the two newest commits, cannot be distinguished from a crash when
//! the store was not closed: flipped, it undoes the last batch.
//!
//! A disk that acknowledges a flush it has not done breaks the first point, and nothing here can
//! help.
//!
//! # In the directory
//!
//! | file           | what                                                                      |
//! |----------------|---------------------------------------------------------------------------|
//! | `weir.redb`    | the records; only ever appears complete, by rename                        |
//! | `weir.log.0`-`7` | the append log: a ring of segments, see `append`                         |
//! | `weir.redb.new`| a creation or a restore that is not finished; removed at the next start   |
//! | `lock`         | held while open; contains the process id of the holder                    |
//! | `reserve`      | space given up on a full disk, so that opening and deleting still work    |
//!
//! # Reading order
//!
//! This file (the vocabulary and what a caller sees), `store` (life of a store), `log` (what a
//! commit waits for), `append` and `entry` (a log of its own), `replay` (what it has), `overlay` and
//! `applier` (what the tables lack, and how it gets there), `pace` (how fast), `tables` (the redb
//! file), `record` (checksums), `archive` and `backup`, `disk` (the directory), `shadow` (one that is
//! only read), `sim` (one that loses power), `planted` (bugs for tests to find).

mod append;
mod applier;
mod archive;
mod backup;
mod blocks;
pub mod disk;
mod entry;
mod error;
mod log;
mod overlay;
mod pace;
#[cfg_attr(feature = "planted", doc(hidden))]
pub mod planted;
mod record;
mod replay;
pub mod shadow;
pub mod sim;
mod store;
mod tables;

pub use archive::{ArchiveWriter, BACKUP_FORMAT};
pub use backup::{
    BackupFile, Floor, Restored, Saved, backup, copy_verified, restore, restore_on, verify,
};
pub use error::StoreError;
pub use store::{FILE_NAME, Store};
pub use tables::FORMAT;

use std::sync::Arc;

/// A kind of record. Names beginning with `weir.` belong to the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Table(pub &'static str);

/// A change of one record. The first byte of a key is its shard, the first byte of a value the
/// caller's schema version.
#[derive(Clone, Debug)]
pub enum Op {
    Put {
        table: Table,
        key: Box<[u8]>,
        value: Arc<[u8]>,
    },
    /// Deleting what is not there is fine.
    Delete { table: Table, key: Box<[u8]> },
}

impl Op {
    pub fn table(&self) -> Table {
        match self {
            Op::Put { table, .. } | Op::Delete { table, .. } => *table,
        }
    }

    pub fn key(&self) -> &[u8] {
        match self {
            Op::Put { key, .. } | Op::Delete { key, .. } => key,
        }
    }
}

/// Changes that become durable together. Of several changes of one key the last one counts.
#[derive(Clone, Default, Debug)]
pub struct Batch {
    /// Greater than that of every batch before.
    pub lsn: u64,
    /// Not smaller than that of any batch before.
    pub stamp_ms: u64,
    pub ops: Vec<Op>,
    /// The batch deletes, and puts only what must be recorded of that. On a full disk it may use
    /// the reserve.
    pub frees_space: bool,
}

/// Where batches become durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogKind {
    /// In the tables: one transaction of the engine each.
    #[default]
    Redb,
    /// In a log of their own; the tables follow.
    Append,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Pages the engine keeps in memory. Loading passes through it once; commits profit from the
    /// branch pages.
    pub cache_bytes: usize,
    /// After an unclean stop, a file up to this size is checked page by page before it is used; the
    /// check costs about 1 ms per MiB. Records are checked by `load` in any case.
    pub check_bytes_max: u64,
    /// Where batches become durable.
    pub log: LogKind,
    /// The append log is eight files of this size, but for entries that are larger.
    pub log_segment_bytes: u64,
    /// Records that the applier puts into the tables in one transaction, not 0. A scan of the tables
    /// waits for it.
    pub pass_records: usize,
    /// A thread puts what is in the log into the tables. Otherwise `Store::apply_log` does.
    pub applies_itself: bool,
    /// Space kept aside for the day the disk is full: enough for opening the store and for deletes,
    /// which need new pages before they free old ones. 0 = none.
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            cache_bytes: 64 << 20,
            check_bytes_max: 32 << 20,
            log: LogKind::Redb,
            log_segment_bytes: 64 << 20,
            pass_records: 2000,
            applies_itself: true,
            reserve_bytes: 64 << 20,
        }
    }
}

/// The content of an opened store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Random, made at creation and again at each restore.
    pub store_id: u64,
    /// Sequence number of the last batch; 0 = nothing was ever committed.
    pub lsn: u64,
    /// Stamp of the last batch. Never hand out a smaller one.
    pub stamp_ms: u64,
    /// Where the store began when it was restored from a backup; 0 if it was not. What a reader
    /// knows from before may be of a future that was lost.
    pub restored: Floor,
    /// The last owner closed the store (or there was none).
    pub clean: bool,
    /// Every page of the file was verified while opening.
    pub checked: bool,
    /// Entries of the log of which a flipped bit was corrected.
    pub corrected: u64,
}

/// Records that batches change durably. [`Store`] is a [`Log`] in front of [`Tables`].
pub trait Storage: Send + Sync {
    /// Gives every record of a table, or of one shard of it, in key order, and returns how many.
    /// May run in several threads at once. What was given may be believed only when this returns
    /// `Ok`.
    fn load(
        &self,
        table: Table,
        shard: Option<u8>,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<u64, StoreError>;

    /// Makes a batch durable. After an error see `StoreError` and `is_failed`.
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// True after a commit with unknown outcome, until `reopen` succeeds. An error of `commit` that
    /// leaves this false means that nothing was changed.
    fn is_failed(&self) -> bool;

    /// True while the disk is full: a batch that puts fails with `Full`, unless it `frees_space` or
    /// fits into the space of deleted records.
    fn is_short_of_space(&self) -> bool;

    /// Looks whether a full disk has space again. May take as long as writing the reserve.
    fn look_for_space(&mut self);

    /// Closes, opens, and returns what is on disk. May be called at any time and as often as
    /// needed.
    fn reopen(&mut self) -> Result<Opened, StoreError>;
}
