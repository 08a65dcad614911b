//! Backups: one file that holds everything at one sequence number, and the way back.
//!
//! The file is an `archive`. It is written aside and read back and verified before it gets its
//! name. The caller feeds the records, from its state in memory: the engine is not read, so a
//! backup neither slows commits nor pins pages. Backups of earlier versions are files of the engine
//! with a seal: the head they were taken at, and count and sum of all their records.
//!
//! Restoring verifies the backup, makes the new store under a temporary name, gives it a new store
//! id and renames it. Until that rename the old store is untouched, so any error leaves it as it
//! was.

use crate::archive::{ArchiveReader, ArchiveRecord, ArchiveWriter, MAGIC};
use crate::disk::{Directory, Disk};
use crate::log::Tables as _;
use crate::record::Digest;
use crate::store::{FILE, FILE_NEW, opened, publish};
use crate::tables::{Head, Opening, RedbTables, Seal};
use crate::{Opened, StoreError, Table};
use redb::StorageBackend;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Memory for filling and verifying.
const CACHE_BYTES: usize = 64 << 20;
/// Records, and bytes of records, that are sorted at a time while filling.
const FILL_RECORDS: usize = 10_000;
const FILL_BYTES: usize = 16 << 20;
const COPY_BYTES: usize = 1 << 20;

/// A backup that was written and verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Saved {
    pub store_id: u64,
    pub lsn: u64,
    pub stamp_ms: u64,
    pub records: u64,
    pub bytes: u64,
}

/// A store made from a backup. `opened.store_id` is new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restored {
    pub opened: Opened,
    pub records: u64,
}

/// Where a restored store begins: above all that was ever handed out and is not in the backup.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Floor {
    pub lsn: u64,
    pub stamp_ms: u64,
}

/// Writes all `records` (which must be the state at `lsn`, table by table) into the file `dest`. An
/// existing file is replaced only with `overwrite`, and only once the new one is complete.
pub fn backup(
    dest: &Path,
    store_id: u64,
    lsn: u64,
    stamp_ms: u64,
    overwrite: bool,
    records: impl IntoIterator<Item = (Table, Box<[u8]>, Arc<[u8]>)>,
) -> Result<Saved, StoreError> {
    let mut file = BackupFile::create(dest, overwrite)?;
    let mut out = Vec::new();
    let mut writer = ArchiveWriter::begin(store_id, lsn, stamp_ms, &mut out);
    for (table, key, value) in records {
        writer.record(table, &key, value.len(), &mut out);
        writer.value(&value, &mut out);
        if out.len() >= COPY_BYTES {
            file.append(&out)?;
            out.clear();
        }
    }
    writer.end(&mut out);
    file.append(&out)?;
    file.finish()
}

/// The file of a backup in the making. It is written aside, verified and then gets its name;
/// dropped before that it leaves nothing.
pub struct BackupFile {
    disk: Directory,
    dest: PathBuf,
    name: String,
    aside: String,
    file: Box<dyn StorageBackend>,
    length: u64,
    is_published: bool,
}

impl BackupFile {
    pub fn create(dest: &Path, overwrite: bool) -> Result<Self, StoreError> {
        let (disk, name) = split(dest)?;
        let found = disk.length(&name);
        let found = found.map_err(|error| StoreError::io(dest, "look at", error))?;
        if !overwrite && found.is_some() {
            return Err(StoreError::Exists { path: dest.into() });
        }
        let aside = format!("{name}.tmp");
        let io = |error| StoreError::io(dest, "write", error);
        // Left behind by a backup that was killed.
        disk.remove(&aside).map_err(io)?;
        let file = disk.create(&aside).map_err(io)?;
        Ok(BackupFile {
            disk,
            dest: dest.into(),
            name,
            aside,
            file,
            length: 0,
            is_published: false,
        })
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let end = self.length + bytes.len() as u64;
        let written = self.file.set_len(end);
        let written = written.and_then(|()| self.file.write(self.length, bytes));
        self.length = end;
        written.map_err(|error| self.io(error))
    }

    /// Verifies what was written and gives it its name, durably.
    pub fn finish(mut self) -> Result<Saved, StoreError> {
        self.file.sync_data().map_err(|error| self.io(error))?;
        let file = self.disk.open_read(&self.aside);
        let file = file.map_err(|error| self.io(error))?;
        let saved = verify_archive(&self.dest, Reading::new(&*file))?;
        let renamed = self.disk.rename(&self.aside, &self.name);
        self.is_published = renamed.is_ok();
        let renamed = renamed.and_then(|()| self.disk.sync());
        renamed.map_err(|error| self.io(error))?;
        Ok(saved)
    }

    fn io(&self, error: io::Error) -> StoreError {
        StoreError::io(&self.dest, "write", error)
    }
}

impl Drop for BackupFile {
    fn drop(&mut self) {
        if !self.is_published {
            let _ = self.disk.remove(&self.aside);
        }
    }
}

/// Reads a whole backup and returns what it holds, or what is wrong with it.
pub fn verify(file: &Path) -> Result<Saved, StoreError> {
    let (disk, name) = split(file)?;
    let io = |error| StoreError::io(file, "open", error);
    let backend = disk.open_read(&name).map_err(io)?;
    if !is_old(&*backend).map_err(io)? {
        return verify_archive(file, Reading::new(&*backend));
    }
    // The engine marks what it has open, so it needs a file that it may write.
    let backend = disk.open(&name).map_err(io)?;
    let bytes = backend.len().map_err(io)?;
    let (tables, seal) = open_verified(file, backend)?;
    tables.close()?;
    Ok(saved(seal.head, seal.total.count, bytes))
}

/// Copies a backup from `source` to `out` while it checks it. What was copied may be believed only
/// when this returned `Ok`.
pub fn copy_verified(
    path: &Path,
    source: impl Read,
    out: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<Saved, StoreError> {
    verify_archive(path, Copying { source, out })
}

struct Copying<R, F> {
    source: R,
    out: F,
}

impl<R: Read, F: FnMut(&[u8]) -> io::Result<()>> Read for Copying<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        (self.out)(&buffer[..read])?;
        Ok(read)
    }
}

fn verify_archive(path: &Path, source: impl Read) -> Result<Saved, StoreError> {
    let mut reader = ArchiveReader::open(path, source)?;
    while reader.next()?.is_some() {}
    Ok(saved(reader.head, reader.records, reader.bytes))
}

/// Whether a file is a backup of the first form: a file of the engine.
fn is_old(file: &dyn StorageBackend) -> io::Result<bool> {
    let mut magic = Vec::new();
    let mut reading = Reading::new(file).take(MAGIC.len() as u64);
    reading.read_to_end(&mut magic)?;
    Ok(magic.starts_with(crate::tables::MAGIC))
}

/// Reads a file of a disk from front to back.
struct Reading<'a> {
    file: &'a dyn StorageBackend,
    at: u64,
}

impl<'a> Reading<'a> {
    fn new(file: &'a dyn StorageBackend) -> Self {
        Reading { file, at: 0 }
    }
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.file.len()?.saturating_sub(self.at);
        let length = rest.min(buffer.len() as u64) as usize;
        self.file.read(self.at, &mut buffer[..length])?;
        self.at += length as u64;
        Ok(length)
    }
}

/// Makes the store in `directory` from the backup `source`. A store that is there is replaced only
/// with `overwrite`, in one step and only after the backup was found whole; on any error before
/// that step it stays as it is. (The step is a rename; if only the sync of the directory after it
/// fails, either store may be found after a power cut.)
///
/// Readers resume from stamps and sequence numbers, so none that was handed out since the backup
/// may be handed out again. The stamp continues at `floor.stamp_ms` or the backup's own, whichever
/// is greater: pass the wall clock plus a margin. Every batch takes a later stamp than the one
/// before, so at most as many batches were committed since the backup as milliseconds passed, and
/// the sequence number grows by those.
pub fn restore(
    source: &Path,
    directory: &Path,
    overwrite: bool,
    floor: Floor,
) -> Result<Restored, StoreError> {
    let (disk, name) = split(source)?;
    let file = disk
        .open_read(&name)
        .map_err(|error| StoreError::io(source, "open", error))?;
    restore_on(&Directory::new(directory), source, &*file, overwrite, floor)
}

/// Like `restore`, on any disk.
pub fn restore_on(
    disk: &dyn Disk,
    source: &Path,
    file: &dyn StorageBackend,
    overwrite: bool,
    floor: Floor,
) -> Result<Restored, StoreError> {
    let path = disk.path().join(FILE);
    let io = |error| StoreError::io(&path, "restore", error);
    let is_old = is_old(file).map_err(|error| StoreError::io(source, "read", error))?;
    if !is_old {
        // Before anything is written.
        verify_archive(source, Reading::new(file))?;
    }
    disk.prepare()?;
    let _lock = disk.lock()?;
    if !overwrite && disk.length(FILE).map_err(io)?.is_some() {
        return Err(StoreError::Exists { path });
    }
    disk.remove(FILE_NEW).map_err(io)?;
    let made = if is_old {
        copy(disk, source, file).and_then(|()| {
            let file = disk.open(FILE_NEW).map_err(io)?;
            let (tables, seal) = open_verified(source, file)?;
            Ok((tables, seal.head, seal.total.count))
        })
    } else {
        fill(disk, source, file)
    };
    let result = made.and_then(|(mut tables, saved, records)| {
        let head = restored_head(saved, floor, disk.random().map_err(io)?);
        tables.finish_restore(head)?;
        let (complete, restored) = (tables.complete(), tables.restored);
        tables.close()?;
        publish(disk)?;
        let found = crate::tables::Found {
            clean: true,
            checked: true,
        };
        let opened = opened(head.store_id, complete, restored, found);
        Ok(Restored { opened, records })
    });
    if result.is_err() {
        let _ = disk.remove(FILE_NEW);
    }
    result
}

/// Where a restored store continues.
fn restored_head(saved: Head, floor: Floor, store_id: u64) -> Head {
    let stamp_ms = saved.stamp_ms.max(floor.stamp_ms);
    Head {
        store_id,
        lsn: (saved.lsn + (stamp_ms - saved.stamp_ms)).max(floor.lsn),
        stamp_ms,
    }
}

/// Fills a new file of tables from a backup.
fn fill(
    disk: &dyn Disk,
    source: &Path,
    file: &dyn StorageBackend,
) -> Result<(RedbTables, Head, u64), StoreError> {
    let path = disk.path().join(FILE_NEW);
    let target = disk.create(FILE_NEW);
    let target = target.map_err(|error| StoreError::io(&path, "create", error))?;
    let mut reader = ArchiveReader::open(source, Reading::new(file))?;
    let head = reader.head;
    let mut tables = RedbTables::create(&path, target, CACHE_BYTES, head)?;
    tables.fill(|group| {
        let mut bytes = 0;
        while group.len() < FILL_RECORDS && bytes < FILL_BYTES {
            let Some(record) = reader.next()? else { break };
            let ArchiveRecord { key, value, .. } = &record;
            bytes += key.len() + value.len();
            group.push(record);
        }
        Ok(())
    })?;
    if tables.total().count != reader.records {
        return Err(StoreError::file(source, "it has two records with one key"));
    }
    Ok((tables, head, reader.records))
}

fn copy(disk: &dyn Disk, source: &Path, file: &dyn StorageBackend) -> Result<(), StoreError> {
    let path = disk.path().join(FILE_NEW);
    let read = |error| StoreError::io(source, "read", error);
    let write = |error| StoreError::io(&path, "write", error);
    let length = file.len().map_err(read)?;
    let target = disk.create(FILE_NEW).map_err(write)?;
    target.set_len(length).map_err(write)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    while at < length {
        let part = &mut buffer[..(length - at).min(COPY_BYTES as u64) as usize];
        file.read(at, part).map_err(read)?;
        target.write(at, part).map_err(write)?;
        at += part.len() as u64;
    }
    target.sync_data().map_err(write)
}

/// Opens a backup after checking every page, then every record, then the seal.
fn open_verified(
    path: &Path,
    file: Box<dyn StorageBackend>,
) -> Result<(RedbTables, Seal), StoreError> {
    let opening = Opening {
        cache_bytes: CACHE_BYTES,
        check_bytes_max: 0,
        check: true,
        pace: Arc::default(),
    };
    let (tables, _) = RedbTables::open(path, file, &opening)?;
    let seal = tables
        .seal
        .ok_or_else(|| StoreError::file(path, "it is not a finished backup"))?;
    let mut records = 0;
    for name in tables.names() {
        records += tables.load(&name, None, &mut |_, _| {})?;
    }
    let total: Digest = tables.total();
    if total != seal.total || records != seal.total.count || tables.head != seal.head {
        let what = format!(
            "it holds {records} records, {} were saved",
            seal.total.count
        );
        return Err(StoreError::file(path, what));
    }
    Ok((tables, seal))
}

fn saved(head: Head, records: u64, bytes: u64) -> Saved {
    let Head {
        store_id,
        lsn,
        stamp_ms,
    } = head;
    Saved {
        store_id,
        lsn,
        stamp_ms,
        records,
        bytes,
    }
}

fn split(file: &Path) -> Result<(Directory, String), StoreError> {
    let name = file
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| {
            StoreError::io(
                file,
                "use",
                std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a file name"),
            )
        })?;
    Ok((
        Directory::new(file.parent().unwrap_or(Path::new("."))),
        name.to_owned(),
    ))
}
