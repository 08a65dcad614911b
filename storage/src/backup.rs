//! Backups: one file that holds everything at one sequence number, and the way back.
//!
//! A backup is a store file with a seal: the head it was taken at, and count and sum of all its
//! records. It is written aside, read back and verified page by page and record by record before it
//! gets its name. The caller feeds the records, from its state in memory: the engine is not read,
//! so a backup neither slows commits nor pins pages.
//!
//! Restoring copies the file into the directory under a temporary name, verifies the copy, gives it
//! a new store id and renames it. Until that rename the old store is untouched, so any error leaves
//! it as it was.

use crate::disk::{Directory, Disk};
use crate::log::Tables as _;
use crate::record::Digest;
use crate::store::{FILE, FILE_NEW, opened, publish};
use crate::tables::{Head, Opening, RedbTables, Seal};
use crate::{Op, Opened, StoreError, Table};
use redb::StorageBackend;
use std::path::Path;
use std::sync::Arc;

/// Memory for filling and verifying.
const CACHE_BYTES: usize = 64 << 20;
/// Records sorted at a time while filling.
const FILL_RECORDS: usize = 10_000;
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

/// Writes all `records` (which must be the state at `lsn`) into the file `dest`. An existing file
/// is replaced only with `overwrite`, and only once the new one is complete.
pub fn backup(
    dest: &Path,
    store_id: u64,
    lsn: u64,
    stamp_ms: u64,
    overwrite: bool,
    records: impl IntoIterator<Item = (Table, Box<[u8]>, Arc<[u8]>)>,
) -> Result<Saved, StoreError> {
    let (disk, name) = split(dest)?;
    if !overwrite
        && disk
            .length(&name)
            .map_err(|error| StoreError::io(dest, "look at", error))?
            .is_some()
    {
        return Err(StoreError::Exists { path: dest.into() });
    }
    let aside = format!("{name}.new");
    let io = |error| StoreError::io(dest, "write", error);
    disk.remove(&aside).map_err(io)?;
    let head = Head {
        store_id,
        lsn,
        stamp_ms,
    };
    let result = write(&disk, dest, &aside, head, records).and_then(|saved| {
        disk.rename(&aside, &name).map_err(io)?;
        disk.sync().map_err(io)?;
        Ok(saved)
    });
    if result.is_err() {
        let _ = disk.remove(&aside);
    }
    result
}

fn write(
    disk: &Directory,
    dest: &Path,
    aside: &str,
    head: Head,
    records: impl IntoIterator<Item = (Table, Box<[u8]>, Arc<[u8]>)>,
) -> Result<Saved, StoreError> {
    let io = |error| StoreError::io(dest, "write", error);
    let mut tables = RedbTables::create(dest, disk.create(aside).map_err(io)?, CACHE_BYTES, head)?;
    let mut ops = records
        .into_iter()
        .map(|(table, key, value)| Op::Put { table, key, value });
    let groups = std::iter::from_fn(|| {
        Some(ops.by_ref().take(FILL_RECORDS).collect::<Vec<_>>()).filter(|ops| !ops.is_empty())
    });
    tables.fill(groups)?;
    tables.finish(head, true)?;
    tables.close()?;
    let file = disk.open(aside).map_err(io)?;
    file.sync_data().map_err(io)?;
    let bytes = file.len().map_err(io)?;
    let (tables, seal) = open_verified(dest, file)?;
    tables.close()?;
    Ok(saved(seal, bytes))
}

/// Reads a whole backup and returns what it holds, or what is wrong with it. The file is opened for
/// writing, since the engine marks what it has open.
pub fn verify(file: &Path) -> Result<Saved, StoreError> {
    let (disk, name) = split(file)?;
    let backend = disk
        .open(&name)
        .map_err(|error| StoreError::io(file, "open", error))?;
    let bytes = backend
        .len()
        .map_err(|error| StoreError::io(file, "open", error))?;
    let (tables, seal) = open_verified(file, backend)?;
    tables.close()?;
    Ok(saved(seal, bytes))
}

/// Makes the store in `directory` from the backup `source`. A store that is there is replaced only
/// with `overwrite`, in one step and only after the backup was found whole; on any error before
/// that step it stays as it is. (The step is a rename; if only the sync of the directory after it
/// fails, either store may be found after a power cut.)
///
/// The stamp continues at `stamp_floor_ms` or the backup's own, whichever is greater. Pass the wall
/// clock plus a margin: readers resume from stamps, and stamps handed out between the backup and
/// now must not be handed out again.
pub fn restore(
    source: &Path,
    directory: &Path,
    overwrite: bool,
    stamp_floor_ms: u64,
) -> Result<Restored, StoreError> {
    let (disk, name) = split(source)?;
    let file = disk
        .open_read(&name)
        .map_err(|error| StoreError::io(source, "open", error))?;
    restore_on(
        &Directory::new(directory),
        source,
        &*file,
        overwrite,
        stamp_floor_ms,
    )
}

/// Like `restore`, on any disk.
pub fn restore_on(
    disk: &dyn Disk,
    source: &Path,
    file: &dyn StorageBackend,
    overwrite: bool,
    stamp_floor_ms: u64,
) -> Result<Restored, StoreError> {
    let path = disk.path().join(FILE);
    let io = |error| StoreError::io(&path, "restore", error);
    disk.prepare()?;
    let _lock = disk.lock()?;
    if !overwrite && disk.length(FILE).map_err(io)?.is_some() {
        return Err(StoreError::Exists { path });
    }
    disk.remove(FILE_NEW).map_err(io)?;
    let result = copy(disk, source, file).and_then(|()| {
        let (mut tables, seal) = open_verified(source, disk.open(FILE_NEW).map_err(io)?)?;
        let head = Head {
            store_id: disk.random().map_err(io)?,
            lsn: seal.head.lsn,
            stamp_ms: seal.head.stamp_ms.max(stamp_floor_ms),
        };
        tables.finish(head, false)?;
        let complete = tables.complete();
        tables.close()?;
        publish(disk)?;
        let found = crate::tables::Found {
            clean: true,
            checked: true,
        };
        Ok(Restored {
            opened: opened(head.store_id, complete, found),
            records: seal.total.count,
        })
    });
    if result.is_err() {
        let _ = disk.remove(FILE_NEW);
    }
    result
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

fn saved(seal: Seal, bytes: u64) -> Saved {
    let Seal {
        head: Head {
            store_id,
            lsn,
            stamp_ms,
        },
        total,
    } = seal;
    Saved {
        store_id,
        lsn,
        stamp_ms,
        records: total.count,
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
