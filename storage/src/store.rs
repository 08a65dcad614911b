//! The life of a store: creation, opening, failing, opening again, running out of space.
//!
//! Promises that `weir.redb` exists complete or not at all, that only one process has it, that
//! nothing is written to it between a failure and `reopen`, and that a full disk can be emptied by
//! deleting. Bytes and pages are `tables`' job.

use crate::disk::{Directory, Disk};
use crate::tables::{Found, Head, Opening, Tables};
use crate::{Batch, Log, Op, Opened, Options, StoreError, Table};
use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file of the data directory that holds everything.
pub const FILE_NAME: &str = "weir.redb";
pub(crate) const FILE: &str = FILE_NAME;
pub(crate) const FILE_NEW: &str = "weir.redb.new";
const RESERVE: &str = "reserve";

pub struct Store {
    disk: Arc<dyn Disk>,
    options: Options,
    /// `None` after a failure, until `reopen`.
    tables: Option<Tables>,
    /// `Some` while the disk is full: the reserve was given up and cannot be kept yet.
    shortage: Option<Shortage>,
    _lock: Box<dyn Any + Send + Sync>,
}

/// What may be put while the disk is full.
#[derive(Clone, Copy, Default)]
struct Shortage {
    /// Bytes inside the file that were taken by records and are free again.
    room_bytes: u64,
}

impl Shortage {
    /// Half of the room: new pages are taken before the old ones are given back, and a page is not
    /// filled to its end.
    fn fits(self, bytes: u64) -> bool {
        bytes <= self.room_bytes / 2
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
        let mut store = Store {
            disk,
            options: options.clone(),
            tables: None,
            shortage: None,
            _lock: lock,
        };
        let opened = store.start()?;
        Ok((store, opened))
    }

    fn start(&mut self) -> Result<Opened, StoreError> {
        // Left behind by a creation or a restore that was cut short and never reported as done.
        self.disk
            .remove(FILE_NEW)
            .map_err(self.io("remove the unfinished copy of"))?;
        let created = self
            .disk
            .length(FILE)
            .map_err(self.io("look at"))?
            .is_none();
        if created {
            let store_id = self.disk.random().map_err(self.io("draw an id for"))?;
            let head = Head {
                store_id,
                lsn: 0,
                stamp_ms: 0,
            };
            let file = self.disk.create(FILE_NEW).map_err(self.io("create"))?;
            Tables::create(&self.file(), file, self.options.cache_bytes, head)?.close()?;
            publish(&*self.disk)?;
        } else {
            // A creation may have failed between the rename and this. Without it everything
            // committed from here on would be durable under a name that is not.
            self.disk.sync().map_err(self.io("sync the directory of"))?;
        }
        let mut opened = match self.read() {
            Err(StoreError::Full { .. }) if self.options.reserve_bytes > 0 => {
                self.give_up_reserve();
                self.read()?
            }
            other => other?,
        };
        opened.clean |= created;
        if self.shortage.is_none() {
            self.keep_reserve();
        }
        if self.shortage.is_some() {
            self.shortage = Some(Shortage {
                room_bytes: self.unused_bytes()?,
            });
        }
        Ok(opened)
    }

    fn read(&mut self) -> Result<Opened, StoreError> {
        let file = self.disk.open(FILE).map_err(self.io("open"))?;
        let opening = Opening {
            cache_bytes: self.options.cache_bytes,
            check_bytes_max: self.options.check_bytes_max,
            check: false,
        };
        let (tables, found) = Tables::open(&self.file(), file, &opening)?;
        if tables.seal.is_some() {
            return Err(StoreError::file(
                &self.file(),
                "it is a backup, put here without `restore`",
            ));
        }
        let opened = opened(tables.head, found);
        self.tables = Some(tables);
        Ok(opened)
    }

    /// Bytes of the file, for metrics.
    pub fn file_bytes(&self) -> u64 {
        self.disk.length(FILE).ok().flatten().unwrap_or(0)
    }

    /// Tables that have ever had a record.
    pub fn tables(&self) -> Vec<String> {
        self.tables.as_ref().map_or_else(Vec::new, Tables::names)
    }

    /// Closes the store, so that the next open finds it clean. Dropping it does the same and hides
    /// errors.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.tables.take().map_or(Ok(()), Tables::close)
    }

    fn file(&self) -> PathBuf {
        self.disk.path().join(FILE)
    }

    fn io(&self, during: &'static str) -> impl Fn(std::io::Error) -> StoreError + use<> {
        let path = self.file();
        move |error| StoreError::io(&path, during, error)
    }

    /// For messages.
    fn directory(&self) -> std::path::Display<'_> {
        self.disk.path().display()
    }

    fn failed(&self) -> StoreError {
        StoreError::Failed { path: self.file() }
    }

    fn keep_reserve(&mut self) {
        if let Err(error) = self.disk.occupy(RESERVE, self.options.reserve_bytes) {
            tracing::warn!(directory = %self.directory(), %error, "cannot keep the space reserve");
            self.shortage = (self.options.reserve_bytes > 0).then(Shortage::default);
        }
    }

    fn give_up_reserve(&mut self) {
        tracing::warn!(
            directory = %self.directory(),
            "no space left: giving up the reserve, only deleting works"
        );
        self.shortage = Some(Shortage::default());
        if let Err(error) = self.disk.remove(RESERVE) {
            let directory = self.directory();
            tracing::warn!(%directory, %error, "cannot remove the space reserve");
        }
    }

    /// Tries to leave the state of shortage. Twice the reserve must be free: the reserve itself was
    /// just freed by us, and building it from that space would only lead into the next failure.
    fn regain_reserve(&mut self) -> bool {
        let bytes = self.options.reserve_bytes;
        let regained = self
            .disk
            .occupy(RESERVE, bytes * 2)
            .and_then(|()| self.disk.occupy(RESERVE, bytes));
        if regained.is_ok() {
            self.shortage = None;
            tracing::info!(directory = %self.directory(), "space is back: writing resumes");
        }
        regained.is_ok()
    }

    /// Bytes that the file takes from the disk and that hold nothing, above the reserve: the space
    /// that deleting needs. Holes of the file are not counted, since they have no space yet.
    fn unused_bytes(&self) -> Result<u64, StoreError> {
        let Some(tables) = &self.tables else {
            return Ok(0);
        };
        let occupied = self.disk.occupied(FILE).map_err(self.io("look at"))?;
        let used = tables.used_bytes()? + self.options.reserve_bytes;
        Ok(occupied.saturating_sub(used))
    }

    /// Refuses a batch that the full disk has no room for.
    fn check_room(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let bytes = put_bytes(batch);
        let fits = match self.shortage {
            None => true,
            Some(_) if bytes == 0 || batch.frees_space => true,
            Some(shortage) => shortage.fits(bytes) || self.regain_reserve(),
        };
        if fits {
            return Ok(());
        }
        Err(StoreError::Full {
            path: self.file(),
            bytes: self.options.reserve_bytes * 2,
        })
    }
}

impl Log for Store {
    fn load(
        &self,
        table: Table,
        shard: Option<u8>,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<u64, StoreError> {
        self.tables
            .as_ref()
            .ok_or_else(|| self.failed())?
            .load(table.0, shard, each)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let Some(tables) = &self.tables else {
            return Err(self.failed());
        };
        let last = tables.head;
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
        self.check_room(batch)?;
        let head = Head {
            store_id: last.store_id,
            lsn: batch.lsn,
            stamp_ms: batch.stamp_ms,
        };
        let result = self
            .tables
            .as_mut()
            .expect("looked at above")
            .apply(&batch.ops, head);
        if let (Ok(freed), Some(shortage)) = (&result, &mut self.shortage) {
            let room = shortage.room_bytes + freed;
            shortage.room_bytes = room.saturating_sub(put_bytes(batch));
        }
        if let Err(error) = &result {
            // What is on disk is unknown from here on. The engine writes nothing more after an I/O
            // error, closing included.
            self.tables = None;
            let (directory, lsn) = (self.directory(), batch.lsn);
            tracing::error!(%directory, lsn, %error, "commit failed");
            if matches!(error, StoreError::Full { .. }) && self.options.reserve_bytes > 0 {
                self.give_up_reserve();
            }
        }
        result.map(drop)
    }

    fn is_short_of_space(&self) -> bool {
        self.shortage.is_some()
    }

    fn look_for_space(&mut self) {
        if self.shortage.is_some() && self.tables.is_some() {
            self.regain_reserve();
        }
    }

    fn is_failed(&self) -> bool {
        self.tables.is_none()
    }

    fn reopen(&mut self) -> Result<Opened, StoreError> {
        self.tables = None;
        self.start()
    }
}

/// Bytes of the records that a batch puts.
fn put_bytes(batch: &Batch) -> u64 {
    let puts = batch.ops.iter().filter_map(|op| match op {
        Op::Put { key, value, .. } => Some((key.len() + value.len()) as u64),
        Op::Delete { .. } => None,
    });
    puts.sum()
}

pub(crate) fn opened(head: Head, found: Found) -> Opened {
    Opened {
        store_id: head.store_id,
        lsn: head.lsn,
        stamp_ms: head.stamp_ms,
        clean: found.clean,
        checked: found.checked,
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
