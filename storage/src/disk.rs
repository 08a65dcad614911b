//! The directory a store lives in, as the few operations the store needs.
//!
//! Two implementations: `Directory`, the real one, and `sim::SimDisk`, which loses power.
//! Everything about the order of operations (create aside, sync, rename, sync the directory) is
//! decided by the callers, so that the simulation tests it.

use crate::StoreError;
use crate::blocks::Blocks;
use crate::entry::BLOCK;
use crate::pace::Pace;
use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use rustix::fs::{Advice, FallocateFlags, OFlags};
use rustix::io::Errno;
use std::any::Any;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::ops::Bound;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory that belongs to one store. Names are file names inside it.
pub trait Disk: Debug + Send + Sync {
    /// For messages.
    fn path(&self) -> &Path;
    /// Creates the directory itself if it is absent (not its parents: a missing mount must not be
    /// papered over).
    fn prepare(&self) -> Result<(), StoreError>;
    /// Takes the directory for this process until the guard is dropped; `Locked` if another process
    /// has it.
    fn lock(&self) -> Result<Box<dyn Any + Send + Sync>, StoreError>;
    /// Length of a file, `None` if it does not exist.
    fn length(&self, name: &str) -> io::Result<Option<u64>>;
    /// Bytes of the disk that a file takes, without its holes; 0 if it does not exist.
    fn occupied(&self, name: &str) -> io::Result<u64>;
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageBackend>>;
    /// Creates an empty file; it must not exist.
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageBackend>>;
    /// Replaces `to` by `from` in one step.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file if it exists.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync(&self) -> io::Result<()>;
    /// Makes the file `name` occupy `bytes` of space, cutting it if it is longer. On failure it
    /// occupies none.
    fn occupy(&self, name: &str, bytes: u64) -> io::Result<()>;
    /// An unguessable number, not 0.
    fn random(&self) -> io::Result<u64>;
    /// Opens a file for whole blocks, and creates it if it is absent. `sync` makes its name
    /// durable.
    fn open_blocks(&self, name: &str) -> io::Result<Box<dyn BlockFile>>;
}

/// A file of whole blocks. Offsets, lengths and buffers are multiples of a block.
pub trait BlockFile: Debug + Send + Sync {
    fn length(&self) -> io::Result<u64>;
    /// Writes blocks. They and the new length are durable when this returns. After an error any
    /// part of them may be on the disk, now or later.
    fn write_durably(&self, offset: u64, blocks: &[u8]) -> io::Result<()>;
    /// Fills `out` with what is on the disk, as far as the file reaches, and returns how far.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<usize>;
    /// Reads and writes pass the page cache.
    fn is_direct(&self) -> bool;
}

/// A directory of the operating system.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
}

const LOCK: &str = "lock";

impl Directory {
    pub fn new(path: &Path) -> Self {
        // "" is what `Path::parent` gives for a bare file name.
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        Directory { path: path.into() }
    }

    /// Opens a file of any size and owner for reading only.
    pub(crate) fn open_read(&self, name: &str) -> io::Result<Box<dyn StorageBackend>> {
        let file = File::open(self.at(name))?;
        Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600); // records hold secrets
    options
}

impl Disk for Directory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn prepare(&self) -> Result<(), StoreError> {
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        let created = match builder.create(&self.path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(StoreError::io(&self.path, "create", error)),
        };
        // Also when it was there: an earlier attempt may have failed between creating and syncing.
        let parent = self
            .path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        match File::open(parent).and_then(|parent| parent.sync_all()) {
            // A directory of another user, with write permission for this one.
            Err(error) if !created && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            other => other.map_err(|error| StoreError::io(&self.path, "create", error)),
        }
    }

    fn lock(&self) -> Result<Box<dyn Any + Send + Sync>, StoreError> {
        let path = self.at(LOCK);
        let mut file = private(
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false),
        )
        .open(&path)
        .map_err(|error| StoreError::io(&path, "open", error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let pid = match file.read_to_string(&mut holder) {
                    Ok(_) => holder.trim().parse().ok(),
                    Err(_) => None,
                };
                return Err(StoreError::Locked {
                    path: self.path.clone(),
                    pid,
                });
            }
            Err(TryLockError::Error(error)) => return Err(StoreError::io(&path, "lock", error)),
        }
        // The number is a help for humans only, so a full disk must not keep the store from
        // opening.
        let _ = file
            .set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Box::new(file))
    }

    fn length(&self, name: &str) -> io::Result<Option<u64>> {
        match fs::metadata(self.at(name)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn occupied(&self, name: &str) -> io::Result<u64> {
        const BLOCK_BYTES: u64 = 512;
        match fs::metadata(self.at(name)) {
            Ok(metadata) => Ok(metadata.blocks() * BLOCK_BYTES),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageBackend>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.at(name))?;
        Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageBackend>> {
        let file = private(OpenOptions::new().read(true).write(true).create_new(true))
            .open(self.at(name))?;
        Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.at(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn occupy(&self, name: &str, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return self.remove(name);
        }
        let fill = || -> io::Result<()> {
            let mut file = private(OpenOptions::new().write(true).create(true).truncate(false))
                .open(self.at(name))?;
            let length = file.metadata()?.len();
            if length >= bytes {
                file.set_len(bytes)?;
            } else {
                file.set_len(0)?;
                match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
                    Ok(()) => return file.sync_all(),
                    // Some file systems cannot allocate: write instead.
                    Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                    Err(error) => return Err(error.into()),
                }
                let chunk = vec![0x5a; 1 << 20];
                let mut left = bytes;
                while left > 0 {
                    let part = left.min(chunk.len() as u64);
                    file.write_all(&chunk[..part as usize])?;
                    left -= part;
                }
            }
            file.sync_data()
        };
        fill().inspect_err(|_| {
            let _ = self.remove(name);
        })
    }

    fn open_blocks(&self, name: &str) -> io::Result<Box<dyn BlockFile>> {
        Ok(Box::new(BlocksOfFile::open(&self.at(name), true)?))
    }

    fn random(&self) -> io::Result<u64> {
        // Zero is left out so that it can mean "none".
        getrandom::u64()
            .map(|number| number.max(1))
            .map_err(io::Error::other)
    }
}

/// A file that is written past the page cache where the file system allows it.
#[derive(Debug)]
struct BlocksOfFile {
    file: File,
    is_direct: bool,
}

impl BlocksOfFile {
    fn open(path: &Path, direct: bool) -> io::Result<Self> {
        let open = |flags: OFlags| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.custom_flags(flags.bits().cast_signed());
            private(&mut options).open(path)
        };
        if direct
            && let Ok(file) = open(OFlags::DIRECT | OFlags::DSYNC)
            && takes_direct_reads(&file)?
        {
            let is_direct = true;
            return Ok(Self { file, is_direct });
        }
        // Not wanted, or the file system has no direct writes, or larger blocks.
        Ok(Self {
            file: open(OFlags::empty())?,
            is_direct: false,
        })
    }
}

/// Whether a file takes direct reads of our blocks.
fn takes_direct_reads(file: &File) -> io::Result<bool> {
    let mut block = Blocks::default();
    match file.read_at(block.zeros(BLOCK), 0) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err(error),
    }
}

impl BlockFile for BlocksOfFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn write_durably(&self, offset: u64, blocks: &[u8]) -> io::Result<()> {
        self.file.write_all_at(blocks, offset)?;
        if self.is_direct {
            Ok(())
        } else {
            self.file.sync_data()
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        if !self.is_direct {
            // After a failed sync the cache may have what the disk has not.
            let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed);
        }
        let mut read = 0;
        while read < out.len() {
            match self.file.read_at(&mut out[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(bytes) => read += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if read % BLOCK != 0 {
                // The end of a file that is not whole blocks.
                break;
            }
        }
        Ok(read)
    }

    fn is_direct(&self) -> bool {
        self.is_direct
    }
}

/// A file as the engine takes it.
#[derive(Debug)]
pub(crate) struct Backend {
    pub file: Box<dyn StorageBackend>,
    pub pace: Arc<Pace>,
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.pace.synced();
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)?;
        if self.pace.spend(data.len() as u64) {
            self.sync_data()?;
        }
        Ok(())
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }
    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_the_same_past_the_cache_and_through_it() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("blocks");
        for (n, (writes_direct, reads_direct)) in
            [(true, false), (false, true), (false, false), (true, true)]
                .into_iter()
                .enumerate()
        {
            let file = BlocksOfFile::open(&path, writes_direct).expect("opens");
            assert!(writes_direct || !file.is_direct());
            let mut blocks = Blocks::default();
            blocks.zeros(2 * BLOCK).fill(n as u8 + 1);
            let offset = (n * BLOCK) as u64;
            file.write_durably(offset, blocks.get()).expect("writes");
            assert_eq!(file.length().expect("a length"), offset + 2 * BLOCK as u64);
            drop(file);
            let file = BlocksOfFile::open(&path, reads_direct).expect("opens");
            let mut found = Blocks::default();
            // Beyond the end nothing is read.
            let read = file.read(offset, found.zeros(4 * BLOCK)).expect("reads");
            assert_eq!(read, 2 * BLOCK);
            assert_eq!(found.get()[..read], *blocks.get());
        }
    }
}
