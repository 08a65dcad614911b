//! The redb file: tables of checksummed records, and one table about them.
//!
//! One call of `put` is one engine transaction: the records, the digests of the shards they are
//! in, and the head (log sequence number and stamp) become durable together or not at all. Knows
//! nothing of directories, locks, creation or what to do after a failure: that is `store`.
//!
//! The engine panics on some damaged files instead of returning an error, so every call into it is
//! caught. Handles are owned outside the caught call and dropped in calls of their own: a panic
//! while unwinding would end the process.

use crate::StoreError;
use crate::archive::ArchiveRecord;
use crate::backup::Floor;
use crate::disk::Backend;
use crate::entry::{Change, Position};
use crate::log::Tables;
use crate::pace::Pace;
use crate::record::{Digest, Digests, SHARDS, Seed};
use redb::{
    Database, Durability, ReadableDatabase, StorageBackend, TableDefinition, TableError,
    WriteTransaction,
};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What this program writes, and the newest it can read.
pub const FORMAT: u16 = 2;
/// What it writes without a log: a program that knows none must not open tables that lack what is
/// in theirs, but may open others. Each number is also that of the oldest program that can read it.
const FORMAT_WITHOUT_LOG: u16 = 1;

/// The table about the others. Rows, each sealed like a record:
/// `format` = format u16, reader_min u16; `head` = store id u64, lsn u64, stamp u64;
/// `digest/` + shard u8 + table name = count u64, sum u64; `backup` = see `Seal`, in
/// backups of the first form; `log` = see `LogRow`; `restored` = lsn u64.
const META: &str = "weir.meta";
const ROW_FORMAT: &[u8] = b"format";
const ROW_HEAD: &[u8] = b"head";
const ROW_BACKUP: &[u8] = b"backup";
const ROW_DIGEST: &[u8] = b"digest/";
const ROW_LOG: &[u8] = b"log";
const ROW_RESTORED: &[u8] = b"restored";

const HEADER_BYTES: usize = 512;
pub(crate) const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
/// Position of the engine's flags in its header, and the flag that is set while a writer has the
/// file open.
const FLAGS_AT: usize = 9;
const FLAG_OPEN: u8 = 2;

/// A row of `META`: key and value.
type Row = (Vec<u8>, Vec<u8>);
/// What a scan does with a key and a record.
type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError> + 'a;
type Definition<'a> = TableDefinition<'a, &'static [u8], &'static [u8]>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub store_id: u64,
    pub lsn: u64,
    pub stamp_ms: u64,
}

/// Seals a backup, so that a missing record is noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seal {
    pub head: Head,
    pub total: Digest,
}

/// The log in front of the tables. They are complete up to `Head::lsn`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LogRow {
    pub log_id: u64,
    /// No record is newer than this batch.
    pub newest_lsn: u64,
    /// Checksum of the entry `Head::lsn`.
    pub chain: u64,
}

pub(crate) struct RedbTables {
    path: PathBuf,
    db: Option<Database>,
    pub head: Head,
    pub log: Option<LogRow>,
    pub seal: Option<Seal>,
    /// Where the store began when it was restored from a backup; 0 if it was not.
    pub restored: Floor,
    pub format: u16,
    digests: Digests,
    order: Vec<u32>,
    record: Vec<u8>,
    /// Of the records that are being put, see [`Tables::put`].
    freed_bytes: u64,
}

pub(crate) struct Opening {
    pub cache_bytes: usize,
    /// After an unclean stop, a file up to this size is checked page by page.
    pub check_bytes_max: u64,
    /// Check whatever the size and however it was closed.
    pub check: bool,
    /// How fast the file is written.
    pub pace: Arc<Pace>,
}

/// How the file was found.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub clean: bool,
    pub checked: bool,
}

impl RedbTables {
    /// Makes an empty database in an empty file.
    pub fn create(
        path: &Path,
        backend: Box<dyn StorageBackend>,
        cache_bytes: usize,
        head: Head,
    ) -> Result<RedbTables, StoreError> {
        let mut tables = RedbTables {
            path: path.into(),
            db: None,
            head,
            log: None,
            seal: None,
            restored: Floor::default(),
            format: FORMAT_WITHOUT_LOG,
            digests: Digests::default(),
            order: Vec::new(),
            record: Vec::new(),
            freed_bytes: 0,
        };
        let backend = Backend {
            file: backend,
            pace: Arc::default(),
        };
        tables.db = Some(tables.engine_open(backend, cache_bytes, false)?);
        tables.transaction(|tables, txn| {
            tables.put_meta(txn, &[format_row(FORMAT_WITHOUT_LOG), head_row(head)])
        })?;
        Ok(tables)
    }

    /// Opens a file made by `create`, whatever happened to it since.
    pub fn open(
        path: &Path,
        backend: Box<dyn StorageBackend>,
        opening: &Opening,
    ) -> Result<(RedbTables, Found), StoreError> {
        let length = backend
            .len()
            .map_err(|error| StoreError::io(path, "open", error))?;
        let mut header = [0; HEADER_BYTES];
        if length < HEADER_BYTES as u64 {
            return Err(StoreError::file(
                path,
                format!("it is only {length} bytes long"),
            ));
        }
        backend
            .read(0, &mut header)
            .map_err(|error| StoreError::io(path, "read", error))?;
        if !header.starts_with(MAGIC) {
            return Err(StoreError::file(path, "it is not a store"));
        }
        let clean = header[FLAGS_AT] & FLAG_OPEN == 0;
        // The engine is about to write down how long the file is. After a failed sync a kernel may
        // know a length that never reached the disk; a file found shorter than its header says
        // would not open again.
        backend
            .set_len(length)
            .and_then(|()| backend.sync_data())
            .map_err(|error| StoreError::io(path, "open", error))?;
        let check = opening.check || (!clean && length <= opening.check_bytes_max);
        let mut tables = RedbTables {
            path: path.into(),
            db: None,
            head: Head {
                store_id: 0,
                lsn: 0,
                stamp_ms: 0,
            },
            log: None,
            seal: None,
            restored: Floor::default(),
            format: 0,
            digests: Digests::default(),
            order: Vec::new(),
            record: Vec::new(),
            freed_bytes: 0,
        };
        let backend = Backend {
            file: backend,
            pace: opening.pace.clone(),
        };
        tables.db = Some(tables.engine_open(backend, opening.cache_bytes, check)?);
        tables.read_meta()?;
        Ok((
            tables,
            Found {
                clean,
                checked: check,
            },
        ))
    }

    fn engine_open(
        &self,
        backend: Backend,
        cache_bytes: usize,
        check: bool,
    ) -> Result<Database, StoreError> {
        self.caught("open", || {
            let mut builder = Database::builder();
            builder
                .set_cache_size(cache_bytes)
                .set_check_integrity_on_open(check);
            builder
                .create_with_backend(backend)
                .map_err(|error| self.failed("open", error))
        })
    }

    fn read_meta(&mut self) -> Result<(), StoreError> {
        let mut rows: Vec<Row> = Vec::new();
        let mut wrong = None;
        self.scan(META, None, &mut |key, record| {
            match Seed::of(META).open(key, record) {
                Ok((_, value)) => rows.push((key.to_vec(), value.to_vec())),
                Err(what) => wrong = wrong.take().or(Some(self.corrupt(META, key, what))),
            }
            Ok(())
        })?;
        // The format decides how everything else is read, so it is judged first, before rows this
        // program may not understand.
        let format = rows
            .iter()
            .find(|(key, _)| key == ROW_FORMAT)
            .and_then(|(_, value)| value.first_chunk::<4>());
        if let Some([a, b, c, d]) = format {
            let (format, reader_min) = (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]));
            if reader_min > FORMAT {
                return Err(StoreError::Version {
                    path: self.path.clone(),
                    format,
                    reader_min,
                    supported: FORMAT,
                });
            }
            self.format = format;
        }
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        if format.is_none() {
            return Err(self.corrupt(META, ROW_FORMAT, "the row is missing"));
        }
        let mut head = None;
        for (key, value) in &rows {
            if key == ROW_HEAD {
                head = read_head(value);
            } else if key == ROW_LOG {
                self.log = read_log_row(value);
                if self.log.is_none() {
                    return Err(self.corrupt(META, key, "the row cannot be read"));
                }
            } else if key == ROW_BACKUP {
                self.seal = match (
                    read_head(value),
                    value.get(24..).and_then(Digest::from_bytes),
                ) {
                    (Some(head), Some(total)) => Some(Seal { head, total }),
                    _ => return Err(self.corrupt(META, key, "the row cannot be read")),
                };
            } else if key == ROW_RESTORED {
                let words = (read_word(value, 0), read_word(value, 1));
                let (Some(lsn), Some(stamp_ms)) = words else {
                    return Err(self.corrupt(META, key, "the row cannot be read"));
                };
                self.restored = Floor { lsn, stamp_ms };
            } else if let Some(rest) = key.strip_prefix(ROW_DIGEST) {
                let row = match (rest.split_first(), Digest::from_bytes(value)) {
                    (Some((shard, table)), Some(digest)) => std::str::from_utf8(table)
                        .ok()
                        .map(|table| (*shard, table, digest)),
                    _ => None,
                };
                let Some((shard, table, digest)) = row else {
                    return Err(self.corrupt(META, key, "the row cannot be read"));
                };
                self.digests.entry(table)[usize::from(shard)] = digest;
            }
        }
        self.head = head
            .ok_or_else(|| self.corrupt(META, ROW_HEAD, "the row is missing or cannot be read"))?;
        Ok(())
    }

    /// Iterates over what the engine returns, unchecked.
    fn scan(&self, table: &str, shard: Option<u8>, each: &mut Visit<'_>) -> Result<(), StoreError> {
        let db = self.db()?;
        let txn = self.caught("read", || {
            db.begin_read().map_err(|error| self.failed("read", error))
        })?;
        let opened = self.caught("read", || match txn.open_table(Definition::new(table)) {
            Ok(opened) => Ok(Some(opened)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(self.failed("read", error)),
        });
        let mut result = Ok(());
        match opened {
            Err(error) => result = Err(error),
            Ok(None) => {}
            Ok(Some(opened)) => {
                let low = shard.map_or(Vec::new(), |shard| vec![shard]);
                let high = shard
                    .and_then(|shard| shard.checked_add(1))
                    .map(|next| vec![next]);
                let range = self.caught("read", || {
                    match &high {
                        Some(high) => opened.range(low.as_slice()..high.as_slice()),
                        None => opened.range(low.as_slice()..),
                    }
                    .map_err(|error| self.failed("read", error))
                });
                match range {
                    Err(error) => result = Err(error),
                    Ok(mut range) => {
                        // A panic of the caller's own code is the caller's.
                        let outside = Cell::new(false);
                        let scanned = catch_unwind(AssertUnwindSafe(|| {
                            for row in &mut range {
                                let (key, record) =
                                    row.map_err(|error| self.failed("read", error))?;
                                let (key, record) = (key.value(), record.value());
                                if key.is_empty() {
                                    return Err(self.corrupt(table, b"", "the key is empty"));
                                }
                                outside.set(true);
                                each(key, record)?;
                                outside.set(false);
                            }
                            Ok(())
                        }));
                        result = match scanned {
                            Ok(result) => result,
                            Err(panic) if outside.get() => resume_unwind(panic),
                            Err(panic) => Err(self.panicked("read", &*panic)),
                        };
                        discard(range);
                    }
                }
                discard(opened);
            }
        }
        discard(txn);
        result
    }

    /// Puts a log in front of the tables. Programs that know none cannot open them from then on.
    pub fn attach_log(&mut self, log: LogRow) -> Result<(), StoreError> {
        self.transaction(|tables, txn| tables.put_meta(txn, &[format_row(FORMAT), log_row(log)]))?;
        (self.log, self.format) = (Some(log), FORMAT);
        Ok(())
    }

    /// Gives up the log, all of which must be in the tables.
    pub fn detach_log(&mut self) -> Result<(), StoreError> {
        self.transaction(|tables, txn| {
            tables.put_meta(txn, &[format_row(FORMAT_WITHOUT_LOG)])?;
            let mut meta = txn
                .open_table(Definition::new(META))
                .map_err(|error| tables.failed("write", error))?;
            meta.remove(ROW_LOG)
                .map_err(|error| tables.failed("write", error))?;
            Ok(())
        })?;
        (self.log, self.format) = (None, FORMAT_WITHOUT_LOG);
        Ok(())
    }

    /// Bytes of the file's pages that hold something. Walks all of them.
    pub fn used_bytes(&self) -> Result<u64, StoreError> {
        let db = self.db()?;
        self.caught("read", || {
            let txn = db
                .begin_write()
                .map_err(|error| self.failed("read", error))?;
            let stats = txn.stats().map_err(|error| self.failed("read", error));
            discard(txn);
            stats.map(|stats| stats.allocated_pages() * stats.page_size() as u64)
        })
    }

    /// Adds groups of records in one transaction, for filling a file that is not in use yet. `next`
    /// adds the records of the next group, none at the end.
    pub fn fill(
        &mut self,
        mut next: impl FnMut(&mut Vec<ArchiveRecord>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.transaction(|tables, txn| {
            let mut rows = BTreeMap::new();
            let mut group: Vec<ArchiveRecord> = Vec::new();
            loop {
                group.clear();
                next(&mut group)?;
                if group.is_empty() {
                    break;
                }
                let changes: Vec<Change<'_>> = group.iter().map(ArchiveRecord::change).collect();
                rows.extend(tables.put_changes(txn, &changes)?);
            }
            let rows: Vec<Row> = rows.into_iter().collect();
            tables.put_meta(txn, &rows)
        })
    }

    /// Sets the head of a restored store, and that it begins there; durable.
    pub fn finish_restore(&mut self, head: Head) -> Result<(), StoreError> {
        self.transaction(|tables, txn| {
            let mut meta = txn
                .open_table(Definition::new(META))
                .map_err(|error| tables.failed("write", error))?;
            meta.remove(ROW_BACKUP)
                .map_err(|error| tables.failed("write", error))?;
            drop(meta);
            let words = write_words([head.lsn, head.stamp_ms]);
            let restored = (ROW_RESTORED.to_vec(), words);
            tables.put_meta(txn, &[head_row(head), restored])
        })?;
        (self.head, self.seal) = (head, None);
        self.restored = Floor {
            lsn: head.lsn,
            stamp_ms: head.stamp_ms,
        };
        Ok(())
    }

    /// Applies the operations and returns the rows of the digests they changed.
    fn put_changes(
        &mut self,
        txn: &WriteTransaction,
        changes: &[Change<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        // In key order: neighbours share pages, and of several changes of one key only the last
        // counts.
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend(0..changes.len() as u32);
        let at = |index: &u32| {
            let change = &changes[*index as usize];
            (change.table, change.key)
        };
        order.sort_unstable_by(|a, b| at(a).cmp(&at(b)).then(a.cmp(b)));
        let mut rows = Vec::new();
        for run in order.chunk_by(|a, b| at(a).0 == at(b).0) {
            let name = at(&run[0]).0;
            let seed = Seed::of(name);
            let mut table = txn
                .open_table(Definition::new(name))
                .map_err(|error| self.failed("write", error))?;
            for (position, index) in run.iter().enumerate() {
                let key = at(index).1;
                let next = run.get(position + 1).map(|next| at(next).1);
                if next == Some(key) {
                    continue;
                }
                let digest = &mut self.digests.entry(name)[usize::from(key[0])];
                let old = match changes[*index as usize].value {
                    Some(value) => {
                        digest.add(seed.seal(key, value, &mut self.record));
                        table.insert(key, self.record.as_slice())
                    }
                    None => table.remove(key),
                };
                let old = match old {
                    Ok(old) => old,
                    Err(error) => {
                        return Err(StoreError::engine(&self.path, "write", error.into()));
                    }
                };
                if let Some(old) = old {
                    self.freed_bytes += (key.len() + old.value().len()) as u64;
                    let checked = seed
                        .open(key, old.value())
                        .map(|(checksum, _)| digest.remove(checksum));
                    if checked != Ok(true) {
                        let what = checked.err().unwrap_or("its shard should be empty");
                        return Err(StoreError::Corrupt {
                            path: self.path.clone(),
                            table: name.into(),
                            key: key.into(),
                            what: what.into(),
                        });
                    }
                }
                if next.and_then(<[u8]>::first) != key.first() {
                    let mut row = ROW_DIGEST.to_vec();
                    row.push(key[0]);
                    row.extend_from_slice(name.as_bytes());
                    rows.push((row, digest.to_bytes().to_vec()));
                }
            }
        }
        self.order = order;
        Ok(rows)
    }

    fn put_meta(&mut self, txn: &WriteTransaction, rows: &[Row]) -> Result<(), StoreError> {
        let seed = Seed::of(META);
        let mut record = std::mem::take(&mut self.record);
        let mut meta = txn
            .open_table(Definition::new(META))
            .map_err(|error| self.failed("write", error))?;
        for (key, value) in rows {
            seed.seal(key, value, &mut record);
            meta.insert(key.as_slice(), record.as_slice())
                .map_err(|error| self.failed("write", error))?;
        }
        drop(meta);
        self.record = record;
        Ok(())
    }

    fn transaction(
        &mut self,
        write: impl FnOnce(&mut RedbTables, &WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let db = self.db()?;
        let mut txn = self.caught("write", || {
            db.begin_write()
                .map_err(|error| self.failed("write", error))
        })?;
        // Quick repair: reopening after a crash takes the time of reading one page, not of walking
        // the tree. It implies two-phase commit, which also keeps hostile contents from forging a
        // commit.
        txn.set_quick_repair(true);
        txn.set_durability(Durability::Immediate)
            .expect("no savepoints are used");
        let path = self.path.clone();
        let written = catch_unwind(AssertUnwindSafe(|| write(self, &txn)));
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                discard(txn);
                return Err(error);
            }
            Err(panic) => {
                discard(txn);
                return Err(panicked(&path, "write", &*panic));
            }
        }
        self.caught("write", || {
            txn.commit().map_err(|error| self.failed("write", error))
        })
    }

    /// Names of the tables with records in them.
    pub fn names(&self) -> Vec<String> {
        self.digests.names().map(str::to_owned).collect()
    }

    pub fn total(&self) -> Digest {
        self.digests.total()
    }

    /// Closes the file, so that the next open finds it clean.
    pub fn close(mut self) -> Result<(), StoreError> {
        match self.db.take() {
            Some(db) => self.caught("close", || {
                db.close().map_err(|error| self.failed("close", error))
            }),
            None => Ok(()),
        }
    }

    fn db(&self) -> Result<&Database, StoreError> {
        self.db.as_ref().ok_or_else(|| StoreError::Failed {
            path: self.path.clone(),
        })
    }

    fn caught<T>(
        &self,
        during: &'static str,
        call: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        catch_unwind(AssertUnwindSafe(call))
            .unwrap_or_else(|panic| Err(self.panicked(during, &*panic)))
    }

    fn panicked(&self, during: &'static str, panic: &(dyn std::any::Any + Send)) -> StoreError {
        panicked(&self.path, during, panic)
    }

    fn failed(&self, during: &'static str, error: impl Into<redb::Error>) -> StoreError {
        StoreError::engine(&self.path, during, error.into())
    }

    fn corrupt(&self, table: &str, key: &[u8], what: impl Into<String>) -> StoreError {
        StoreError::Corrupt {
            path: self.path.clone(),
            table: table.into(),
            key: key.into(),
            what: what.into(),
        }
    }
}

impl Tables for RedbTables {
    fn complete(&self) -> Position {
        Position {
            lsn: self.head.lsn,
            stamp_ms: self.head.stamp_ms,
            chain: self.log.map_or(0, |log| log.chain),
        }
    }

    /// Fails when a record is damaged, missing, doubled or out of order.
    fn load(
        &self,
        table: &str,
        shard: Option<u8>,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<u64, StoreError> {
        let seed = Seed::of(table);
        let mut seen = [Digest::default(); SHARDS];
        let mut last: Vec<u8> = Vec::new();
        let mut count = 0;
        self.scan(table, shard, &mut |key, record| {
            let (checksum, value) = seed
                .open(key, record)
                .map_err(|what| self.corrupt(table, key, what))?;
            if key <= last.as_slice() {
                return Err(self.corrupt(table, key, "the key is out of order"));
            }
            last.clear();
            last.extend_from_slice(key);
            seen[usize::from(key[0])].add(checksum);
            count += 1;
            each(key, value);
            Ok(())
        })?;
        let none = [Digest::default(); SHARDS];
        let expected = self.digests.get(table).unwrap_or(&none);
        for at in shard.map_or(0..SHARDS, |shard| {
            usize::from(shard)..usize::from(shard) + 1
        }) {
            if seen[at] != expected[at] {
                let what = format!(
                    "shard {at} has {} records, {} were written{}",
                    seen[at].count,
                    expected[at].count,
                    if seen[at].count == expected[at].count {
                        ", and they are not the same ones"
                    } else {
                        ""
                    }
                );
                return Err(self.corrupt(table, &[at as u8], what));
            }
        }
        Ok(count)
    }

    fn put(
        &mut self,
        changes: &[Change<'_>],
        newest_lsn: u64,
        complete: Option<Position>,
    ) -> Result<u64, StoreError> {
        self.freed_bytes = 0;
        let head = complete.map(|complete| Head {
            lsn: complete.lsn,
            stamp_ms: complete.stamp_ms,
            ..self.head
        });
        let log = self.log.map(|known| LogRow {
            newest_lsn: newest_lsn.max(known.newest_lsn),
            chain: complete.map_or(known.chain, |complete| complete.chain),
            ..known
        });
        self.transaction(|tables, txn| {
            let mut rows = tables.put_changes(txn, changes)?;
            rows.extend(log.map(log_row));
            rows.extend(head.map(head_row));
            tables.put_meta(txn, &rows)
        })?;
        self.log = log;
        self.head = head.unwrap_or(self.head);
        Ok(self.freed_bytes)
    }
}

impl Drop for RedbTables {
    fn drop(&mut self) {
        if let Some(db) = self.db.take() {
            discard(db);
        }
    }
}

/// Drops a handle of the engine; some panic on a damaged file even then.
fn discard<T>(handle: T) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(handle)));
}

fn panicked(path: &Path, during: &'static str, panic: &(dyn std::any::Any + Send)) -> StoreError {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    StoreError::file(
        path,
        format!("the engine gave up during {during}: {message}"),
    )
}

fn format_row(format: u16) -> Row {
    (ROW_FORMAT.to_vec(), [format.to_le_bytes(); 2].concat())
}

fn head_row(head: Head) -> Row {
    let value = write_words([head.store_id, head.lsn, head.stamp_ms]);
    (ROW_HEAD.to_vec(), value)
}

fn read_head(value: &[u8]) -> Option<Head> {
    Some(Head {
        store_id: read_word(value, 0)?,
        lsn: read_word(value, 1)?,
        stamp_ms: read_word(value, 2)?,
    })
}

fn log_row(log: LogRow) -> Row {
    let value = write_words([log.log_id, log.newest_lsn, log.chain]);
    (ROW_LOG.to_vec(), value)
}

fn read_log_row(value: &[u8]) -> Option<LogRow> {
    Some(LogRow {
        log_id: read_word(value, 0)?,
        newest_lsn: read_word(value, 1)?,
        chain: read_word(value, 2)?,
    })
}

fn write_words<const N: usize>(words: [u64; N]) -> Vec<u8> {
    let mut value = Vec::with_capacity(40);
    for word in words {
        value.extend_from_slice(&word.to_le_bytes());
    }
    value
}

fn read_word(value: &[u8], index: usize) -> Option<u64> {
    let bytes = value.get(index * 8..index * 8 + 8)?;
    bytes.try_into().ok().map(u64::from_le_bytes)
}
