//! The life of a store: creation, opening, failing, opening again, running out of space.
//!
//! Promises that `weir.redb` exists complete or not at all, that only one process has it, that
//! nothing is written to it between a failure and `reopen`, and that a full disk can be emptied by
//! deleting. Bytes and pages are `tables`' job.

use crate::append::AppendLog;
use crate::applier::{Applier, Progress, Shared};
use crate::backup::Floor;
use crate::disk::{Directory, Disk};
use crate::entry::{Change, Position};
use crate::log::{AppendError, Appended, Log, RedbLog, Refusal, Tables as _};
use crate::overlay::Overlay;
use crate::replay::Replay;
use crate::tables::{Found, Head, LogRow, Opening, RedbTables};
use crate::{Batch, LogKind, Op, Opened, Options, Storage, StoreError, Table};
use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::Duration;

/// The file of the data directory that holds the tables.
pub const FILE_NAME: &str = "weir.redb";
pub(crate) const FILE: &str = FILE_NAME;
pub(crate) const FILE_NEW: &str = "weir.redb.new";
pub(crate) const RESERVE: &str = "reserve";

/// Share of the ring, in percent, from which on commits wait for the applier.
const SLOW_FROM_PERCENT: u64 = 80;
/// Share of the ring, in percent, at which a pass begins at once.
const PASS_FROM_PERCENT: u64 = 12;
/// Records that are put into the tables when a store is closed: some seconds. More are left to the
/// log, which the next start reads faster.
const CLOSE_RECORDS_MAX: usize = 100_000;
/// Longest wait of one commit for a log that is nearly full, and for one that is full.
const SLOW_WAIT_MAX: Duration = Duration::from_millis(20);
const FULL_WAIT: Duration = Duration::from_secs(5);

pub struct Store {
    shared: Arc<Shared>,
    /// `None` after a failure, until `reopen`.
    log: Option<Box<dyn Log>>,
    /// Puts into the tables what is ahead of them. `None` if that is done by hand, or nothing is.
    applier: Option<Applier>,
    store_id: u64,
    /// The last batch.
    head: Position,
    _lock: Box<dyn Any + Send + Sync>,
}

/// What may be put while the disk is full.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Shortage {
    /// Bytes inside the file that were taken by records and are free again.
    room_bytes: u64,
}

impl Shortage {
    /// Half of the room: new pages are taken before the old ones are given back, and a page is not
    /// filled to its end.
    fn fits(self, bytes: u64) -> bool {
        bytes <= self.room_bytes / 2
    }

    /// Some changes are in the tables, which freed so many bytes.
    pub fn apply(&mut self, freed: u64, changes: &[Change<'_>]) {
        let room = self.room_bytes + freed;
        self.room_bytes = room.saturating_sub(put_bytes(changes.iter().copied()));
    }
}

impl Store {
    /// Opens the store in a directory; creates both if absent (but not the directories above).
    pub fn open(directory: &Path, options: &Options) -> Result<(Store, Opened), StoreError> {
        Store::open_on(Arc::new(Directory::new(directory)), options)
    }

    /// Like `open`, on any disk.
    pub fn open_on(disk: Arc<dyn Disk>, options: &Options) -> Result<(Store, Opened), StoreError> {
        disk.prepare()?;
        let lock = disk.lock()?;
        let shared = Shared {
            disk,
            options: options.clone(),
            tables: RwLock::new(None),
            overlay: Mutex::default(),
            progress: Mutex::default(),
            changed: Condvar::new(),
            pace: Arc::default(),
            applied_lsn: Arc::default(),
        };
        let mut store = Store {
            shared: Arc::new(shared),
            log: None,
            applier: None,
            store_id: 0,
            head: Position::default(),
            _lock: lock,
        };
        let opened = store.start()?;
        Ok((store, opened))
    }

    fn disk(&self) -> &dyn Disk {
        &*self.shared.disk
    }

    fn start(&mut self) -> Result<Opened, StoreError> {
        let reserve_bytes = self.shared.options.reserve_bytes;
        // Left behind by a creation or a restore that was cut short and never reported as done.
        let removed = self.disk().remove(FILE_NEW);
        removed.map_err(self.io("remove the unfinished copy of"))?;
        let length = self.disk().length(FILE).map_err(self.io("look at"))?;
        let created = length.is_none();
        if created {
            let store_id = self.disk().random().map_err(self.io("draw an id for"))?;
            let head = Head {
                store_id,
                lsn: 0,
                stamp_ms: 0,
            };
            let file = self.disk().create(FILE_NEW).map_err(self.io("create"))?;
            let cache_bytes = self.shared.options.cache_bytes;
            RedbTables::create(&self.file(), file, cache_bytes, head)?.close()?;
            publish(self.disk())?;
        } else {
            // A creation may have failed between the rename and this. Without it everything
            // committed from here on would be durable under a name that is not.
            let synced = self.disk().sync();
            synced.map_err(self.io("sync the directory of"))?;
        }
        let mut opened = match self.read() {
            Err(StoreError::Full { .. }) if reserve_bytes > 0 => {
                self.shared.give_up_reserve();
                self.read()?
            }
            other => other?,
        };
        opened.clean |= created;
        if self.shared.progress().shortage.is_none() {
            self.keep_reserve();
        }
        if self.is_short_of_space() {
            let room_bytes = self.unused_bytes()?;
            self.shared.progress().shortage = Some(Shortage { room_bytes });
        }
        Ok(opened)
    }

    fn read(&mut self) -> Result<Opened, StoreError> {
        let file = self.disk().open(FILE).map_err(self.io("open"))?;
        let opening = Opening {
            cache_bytes: self.shared.options.cache_bytes,
            check_bytes_max: self.shared.options.check_bytes_max,
            check: false,
            pace: self.shared.pace.clone(),
        };
        let (tables, found) = RedbTables::open(&self.file(), file, &opening)?;
        if tables.seal.is_some() {
            return Err(StoreError::file(
                &self.file(),
                "it is a backup, put here without `restore`",
            ));
        }
        let (row, complete, restored) = (tables.log, tables.complete(), tables.restored);
        self.store_id = tables.head.store_id;
        let shortage = self.shared.progress().shortage;
        *self.shared.progress() = Progress {
            complete,
            shortage,
            ..Progress::default()
        };
        *self.shared.overlay() = Overlay::new(complete);
        self.shared.put_tables(Some(tables));
        self.shared
            .applied_lsn
            .store(complete.lsn, Ordering::Relaxed);
        let wanted = self.shared.options.log;
        let append_log = match (wanted, row) {
            (LogKind::Redb, None) => None,
            (LogKind::Append, None) => Some(self.attach_log(complete)?),
            (_, Some(row)) => Some(self.open_log(row, complete)?),
        };
        if let Some(log) = &append_log {
            let (direct, records) = (log.is_direct(), self.shared.overlay().len());
            tracing::info!(directory = %self.directory(), direct, records, "append log opened");
        }
        let corrected = append_log.as_ref().map_or(0, AppendLog::corrected);
        self.head = append_log.as_ref().map_or(complete, Log::head);
        self.log = Some(match append_log {
            Some(log) if wanted == LogKind::Append => {
                self.applier = self.start_applier()?;
                Box::new(log)
            }
            other => {
                if other.is_some() {
                    self.shared.apply()?;
                    self.with_tables(RedbTables::detach_log)?;
                }
                Box::new(RedbLog::new(self.shared.clone(), self.head))
            }
        });
        Ok(Opened {
            corrected,
            ..opened(self.store_id, self.head, restored, found)
        })
    }

    /// Puts a new log in front of the tables.
    fn attach_log(&mut self, last: Position) -> Result<AppendLog, StoreError> {
        let log_id = self.disk().random().map_err(self.io("draw an id for"))?;
        let bytes = self.shared.options.log_segment_bytes;
        let log = AppendLog::create(self.shared.disk.clone(), log_id, bytes, last)?;
        let row = LogRow {
            log_id,
            newest_lsn: last.lsn,
            chain: last.chain,
        };
        self.with_tables(|tables| tables.attach_log(row))?;
        Ok(log)
    }

    /// Reads what the log has and the tables have not.
    fn open_log(&mut self, row: LogRow, complete: Position) -> Result<AppendLog, StoreError> {
        let shared = &self.shared;
        let (log, records) = thread::scope(|scope| {
            let mut replay = Replay::new(scope);
            let log = AppendLog::open(
                shared.disk.clone(),
                row.log_id,
                shared.options.log_segment_bytes,
                complete,
                row.newest_lsn,
                &mut |entry| replay.add(entry),
            )?;
            let records = replay.finish();
            let records = records.map_err(|what| StoreError::file(&self.file(), what))?;
            Ok::<_, StoreError>((log, records))
        })?;
        *shared.overlay() = Overlay::replayed(complete, log.head(), records);
        Ok(log)
    }

    fn start_applier(&self) -> Result<Option<Applier>, StoreError> {
        if !self.shared.options.applies_itself {
            return Ok(None);
        }
        let applier = Applier::start(self.shared.clone());
        applier.map(Some).map_err(self.io("start the applier of"))
    }

    fn with_tables<T>(
        &self,
        change: impl FnOnce(&mut RedbTables) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let tables = self.shared.tables.write();
        let mut tables = tables.unwrap_or_else(PoisonError::into_inner);
        change(tables.as_mut().ok_or_else(|| self.failed())?)
    }

    fn tables_now(&self) -> RwLockReadGuard<'_, Option<RedbTables>> {
        let tables = self.shared.tables.read();
        tables.unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts what is in the log into the tables now, for stores that do not do so themselves. After
    /// an error see `is_failed`.
    pub fn apply_log(&mut self) -> Result<(), StoreError> {
        let applied = self.shared.apply();
        if applied.is_err() {
            self.fail();
        }
        applied
    }

    /// Nothing more is written until the store is opened again.
    fn fail(&mut self) {
        self.log = None;
        self.applier = None;
        drop(self.shared.take_tables());
    }

    /// The number of the last batch of which the tables have everything; later ones are in the log.
    pub fn applied_lsn(&self) -> Arc<AtomicU64> {
        self.shared.applied_lsn.clone()
    }

    /// Bytes of the file of the tables, for metrics.
    pub fn file_bytes(&self) -> u64 {
        self.disk().length(FILE).ok().flatten().unwrap_or(0)
    }

    /// RedbTables that have ever had a record.
    pub fn tables(&self) -> Vec<String> {
        let tables = self.tables_now();
        let mut names = tables.as_ref().map_or_else(Vec::new, RedbTables::names);
        names.extend(self.shared.overlay().tables());
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Closes the store, so that the next open finds it clean, and nothing in the log unless that
    /// would take long. Dropping it leaves to the next open what is in the log, and hides errors.
    pub fn close(mut self) -> Result<(), StoreError> {
        let was_open = self.log.take().is_some();
        self.applier = None;
        let is_quick = self.shared.overlay().len() <= CLOSE_RECORDS_MAX;
        if was_open
            && is_quick
            && let Err(error) = self.shared.apply()
        {
            // It is durable in the log: on a full disk, for instance, the next start has it.
            tracing::warn!(directory = %self.directory(), %error, "the log keeps what it has");
        }
        self.shared.take_tables().map_or(Ok(()), RedbTables::close)
    }

    fn file(&self) -> PathBuf {
        self.disk().path().join(FILE)
    }

    fn io(&self, during: &'static str) -> impl Fn(std::io::Error) -> StoreError + use<> {
        let path = self.file();
        move |error| StoreError::io(&path, during, error)
    }

    /// For messages.
    fn directory(&self) -> std::path::Display<'_> {
        self.shared.disk.path().display()
    }

    fn failed(&self) -> StoreError {
        StoreError::Failed { path: self.file() }
    }

    fn keep_reserve(&mut self) {
        let bytes = self.shared.options.reserve_bytes;
        if let Err(error) = self.disk().occupy(RESERVE, bytes) {
            tracing::warn!(directory = %self.directory(), %error, "cannot keep the space reserve");
            self.shared.progress().shortage = (bytes > 0).then(Shortage::default);
        }
    }

    /// Tries to leave the state of shortage. Twice the reserve must be free: the reserve itself was
    /// just freed by us, and building it from that space would only lead into the next failure.
    fn regain_reserve(&mut self) -> bool {
        let bytes = self.shared.options.reserve_bytes;
        let regained = self
            .disk()
            .occupy(RESERVE, bytes * 2)
            .and_then(|()| self.disk().occupy(RESERVE, bytes));
        if regained.is_ok() {
            self.shared.progress().shortage = None;
            tracing::info!(directory = %self.directory(), "space is back: writing resumes");
        }
        regained.is_ok()
    }

    /// Bytes that the file takes from the disk and that hold nothing, above the reserve: the space
    /// that deleting needs. Holes of the file are not counted, since they have no space yet.
    fn unused_bytes(&self) -> Result<u64, StoreError> {
        let tables = self.tables_now();
        let Some(tables) = &*tables else {
            return Ok(0);
        };
        let occupied = self.disk().occupied(FILE).map_err(self.io("look at"))?;
        let used = tables.used_bytes()? + self.shared.options.reserve_bytes;
        Ok(occupied.saturating_sub(used))
    }

    /// Refuses a batch that the full disk has no room for.
    fn check_room(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let bytes = put_bytes(batch.ops.iter().map(Op::change));
        let fits = |store: &Self| {
            let shortage = store.shared.progress().shortage;
            shortage.is_none_or(|shortage| shortage.fits(bytes))
        };
        if bytes == 0 || batch.frees_space || fits(self) || self.regain_reserve() {
            return Ok(());
        }
        // Deletions in the log make room once they are in the tables.
        let complete = self.shared.progress().complete;
        let is_ahead = self.applier.is_some() && !self.shared.overlay().is_empty();
        if is_ahead && self.wait_for_pass(complete, FULL_WAIT) && fits(self) {
            return Ok(());
        }
        Err(self.full())
    }

    fn full(&self) -> StoreError {
        StoreError::Full {
            path: self.file(),
            bytes: self.shared.options.reserve_bytes * 2,
        }
    }

    /// Returns the position of the batch, or `None` if there is no room for it and nothing was
    /// written.
    fn append(&mut self, batch: &Batch) -> Result<Option<Position>, StoreError> {
        self.wait_for_room();
        let appended = loop {
            let complete = self.shared.progress().complete;
            let Some(log) = &mut self.log else {
                return Err(self.failed());
            };
            log.trim(&complete);
            match log.append(batch) {
                Ok(appended) => break appended,
                Err(AppendError::Unknown(error)) => return Err(error),
                Err(AppendError::Refused(Refusal::NoSpace)) => {
                    if self.is_short_of_space() {
                        return Ok(None);
                    }
                    // With the space of the reserve deletions go on.
                    self.shared.give_up_reserve();
                    self.check_room(batch)?;
                }
                Err(AppendError::Refused(Refusal::Full)) => {
                    if self.applier.is_none() || !self.wait_for_pass(complete, FULL_WAIT) {
                        return Ok(None);
                    }
                }
            }
        };
        let head = self.log.as_ref().map(|log| log.head());
        let head = head.ok_or_else(|| self.failed())?;
        if appended == Appended::Ahead {
            let mut overlay = self.shared.overlay();
            for op in &batch.ops {
                let value = match op {
                    Op::Put { value, .. } => Some(value.clone()),
                    Op::Delete { .. } => None,
                };
                overlay.add(op.table().0, op.key(), value);
            }
            overlay.advance(head);
        }
        Ok(Some(head))
    }

    /// Begins passes early, and slows commits down while the applier falls behind: a little each,
    /// instead of all of them for long when the log is full.
    fn wait_for_room(&mut self) {
        if self.applier.is_none() {
            return;
        }
        let percent = self.log.as_ref().map_or(0, |log| log.usage().percent());
        self.shared.pace.limit(percent);
        if percent >= PASS_FROM_PERCENT {
            self.shared.want_pass();
        }
        if percent >= SLOW_FROM_PERCENT {
            let over = u32::try_from(percent - SLOW_FROM_PERCENT).unwrap_or(u32::MAX);
            let all = u32::try_from(100 - SLOW_FROM_PERCENT).expect("a percentage");
            let complete = self.shared.progress().complete;
            self.wait_for_pass(complete, SLOW_WAIT_MAX * over.min(all) / all);
        }
    }

    /// Has a pass begin, and waits until one has ended since the tables were complete up to `before`,
    /// or found the disk full. Returns whether the tables have more.
    fn wait_for_pass(&self, before: Position, longest: Duration) -> bool {
        self.shared.progress().is_blocked = false;
        self.shared.want_pass();
        let is_same = |progress: &mut Progress| {
            progress.complete == before && progress.failure.is_none() && !progress.is_blocked
        };
        let progress = self.shared.progress();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(progress, longest, is_same);
        let (progress, _) = waited.unwrap_or_else(PoisonError::into_inner);
        progress.complete != before
    }
}

impl Storage for Store {
    fn load(
        &self,
        table: Table,
        shard: Option<u8>,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<u64, StoreError> {
        let tables = self.tables_now();
        let tables = tables.as_ref().ok_or_else(|| self.failed())?;
        let mut newer = self.shared.overlay().range(table.0, shard).into_iter();
        let mut next = newer.next();
        let mut count = 0;
        let mut give = |key: &[u8], value: &[u8]| {
            count += 1;
            each(key, value);
        };
        tables.load(table.0, shard, &mut |key, value| {
            while let Some((newer_key, newer_value)) = next.take_if(|(it, _)| **it < *key) {
                if let Some(value) = newer_value {
                    give(&newer_key, &value);
                }
                next = newer.next();
            }
            match next.take_if(|(it, _)| **it == *key) {
                Some((_, newer_value)) => {
                    if let Some(value) = newer_value {
                        give(key, &value);
                    }
                    next = newer.next();
                }
                None => give(key, value),
            }
        })?;
        for (key, value) in next.into_iter().chain(newer) {
            if let Some(value) = value {
                give(&key, &value);
            }
        }
        Ok(count)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let last = self.head;
        if self.log.is_none() {
            return Err(self.failed());
        }
        assert!(
            batch.lsn > last.lsn,
            "sequence numbers grow: {} after {}",
            batch.lsn,
            last.lsn
        );
        assert!(
            batch.stamp_ms >= last.stamp_ms,
            "stamps do not shrink: {} after {}",
            batch.stamp_ms,
            last.stamp_ms
        );
        for op in &batch.ops {
            assert!(!op.key().is_empty(), "a key begins with its shard");
            assert!(
                !op.table().0.starts_with("weir."),
                "{} is a name of the store's own",
                op.table().0
            );
        }
        let applier_failure = self.shared.progress().failure.take();
        if let Some(failure) = applier_failure {
            self.fail();
            return Err(failure);
        }
        self.check_room(batch)?;
        match self.append(batch) {
            Ok(Some(head)) => {
                self.head = head;
                Ok(())
            }
            Ok(None) => Err(self.full()),
            Err(error) => {
                // What is on disk is unknown from here on. The engine writes nothing more after an
                // I/O error, closing included.
                self.fail();
                let (directory, lsn) = (self.directory(), batch.lsn);
                tracing::error!(%directory, lsn, %error, "commit failed");
                if matches!(error, StoreError::Full { .. }) && self.shared.options.reserve_bytes > 0
                {
                    self.shared.give_up_reserve();
                }
                Err(error)
            }
        }
    }

    fn is_short_of_space(&self) -> bool {
        self.shared.progress().shortage.is_some()
    }

    fn look_for_space(&mut self) {
        if self.is_short_of_space() && self.log.is_some() {
            self.regain_reserve();
        }
    }

    fn is_failed(&self) -> bool {
        self.log.is_none()
    }

    fn reopen(&mut self) -> Result<Opened, StoreError> {
        self.fail();
        self.start()
    }
}

/// Bytes of the records that are put.
fn put_bytes<'a>(changes: impl Iterator<Item = Change<'a>>) -> u64 {
    let puts = changes.filter_map(|it| Some((it.key.len() + it.value?.len()) as u64));
    puts.sum()
}

pub(crate) fn opened(store_id: u64, head: Position, restored: Floor, found: Found) -> Opened {
    Opened {
        store_id,
        lsn: head.lsn,
        stamp_ms: head.stamp_ms,
        restored,
        clean: found.clean,
        checked: found.checked,
        corrected: 0,
    }
}

/// Puts the finished file in its place: its contents first, then its name, then the directory.
pub(crate) fn publish(disk: &dyn Disk) -> Result<(), StoreError> {
    let path = disk.path().join(FILE);
    let io = |error| StoreError::io(&path, "create", error);
    disk.open(FILE_NEW)
        .and_then(|file| file.sync_data())
        .map_err(io)?;
    disk.rename(FILE_NEW, FILE).map_err(io)?;
    disk.sync().map_err(io)
}
