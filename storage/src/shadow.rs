//! Shadow: a directory that can be read, and whose changes stay in memory.
//!
//! A store is opened on it as on the directory itself, recovery included, and nothing on the disk
//! changes: neither a disk that fails nor what is left of a damaged store is written to.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use crate::StoreError;
use crate::disk::{BlockFile, Directory, Disk};
use crate::entry::BLOCK;

/// A directory below, or none, and the changes.
#[derive(Debug)]
pub struct Shadow {
    path: PathBuf,
    below: Option<Directory>,
    /// Files by name. `None`: removed. Those that are absent are as in the directory below.
    files: Mutex<BTreeMap<String, Option<ShadowFile>>>,
}

/// A file with its changes. Clones are the same file.
#[derive(Clone, Debug)]
struct ShadowFile(Arc<Mutex<Changes>>);

#[derive(Debug)]
struct Changes {
    below: Option<File>,
    /// Bytes of the file below that count: it may have been cut since.
    below_bytes: u64,
    length: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK]>>,
}

impl Shadow {
    /// The shadow of a directory.
    pub fn of(directory: &Path) -> Self {
        Self {
            path: directory.into(),
            below: Some(Directory::new(directory)),
            files: Mutex::default(),
        }
    }

    /// An empty directory in memory. `path`: for messages.
    pub fn empty(path: &Path) -> Self {
        Self {
            path: path.into(),
            below: None,
            files: Mutex::default(),
        }
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Option<ShadowFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file as it is now.
    fn find(&self, name: &str) -> io::Result<Option<ShadowFile>> {
        let mut files = self.files();
        if let Some(known) = files.get(name) {
            return Ok(known.clone());
        }
        if self.below.is_none() {
            return Ok(None);
        }
        let file = match File::open(self.path.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let bytes = file.metadata()?.len();
        let file = ShadowFile::new(Some(file), bytes);
        files.insert(name.to_owned(), Some(file.clone()));
        Ok(Some(file))
    }
}

impl ShadowFile {
    fn new(below: Option<File>, bytes: u64) -> Self {
        Self(Arc::new(Mutex::new(Changes {
            below,
            below_bytes: bytes,
            length: bytes,
            blocks: BTreeMap::new(),
        })))
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Changes {
    /// A block as it is now; zeros behind the end.
    fn block(&self, number: u64) -> io::Result<Box<[u8; BLOCK]>> {
        if let Some(block) = self.blocks.get(&number) {
            return Ok(block.clone());
        }
        let mut block = Box::new([0; BLOCK]);
        let start = number * BLOCK as u64;
        let bytes = self.below_bytes.saturating_sub(start).min(BLOCK as u64) as usize;
        if let Some(below) = &self.below
            && bytes > 0
        {
            below.read_exact_at(&mut block[..bytes], start)?;
        }
        Ok(block)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        for (number, at, part) in parts(offset, out.len()) {
            let block = self.block(number)?;
            out[part.clone()].copy_from_slice(&block[at..at + part.len()]);
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        for (number, at, part) in parts(offset, data.len()) {
            let mut block = self.block(number)?;
            block[at..at + part.len()].copy_from_slice(&data[part]);
            self.blocks.insert(number, block);
        }
        self.length = self.length.max(offset + data.len() as u64);
        Ok(())
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        if length < self.length {
            let last = length / BLOCK as u64;
            let mut block = self.block(last)?;
            block[(length % BLOCK as u64) as usize..].fill(0);
            self.blocks.split_off(&last);
            self.blocks.insert(last, block);
            self.below_bytes = self.below_bytes.min(length);
        }
        self.length = length;
        Ok(())
    }
}

/// The blocks of a range: number, where it begins in the block, and which bytes of the range.
fn parts(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let position = offset + done as u64;
        let at = (position % BLOCK as u64) as usize;
        let end = bytes.min(done + BLOCK - at);
        let part = (done < end).then(|| (position / BLOCK as u64, at, done..end));
        done = end;
        part
    })
}

impl StorageBackend for ShadowFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.changes().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changes = self.changes();
        if offset + out.len() as u64 > changes.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        changes.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.changes().set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.changes().write(offset, data)
    }
}

impl BlockFile for ShadowFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.changes().length)
    }

    fn write_durably(&self, offset: u64, blocks: &[u8]) -> io::Result<()> {
        self.changes().write(offset, blocks)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let changes = self.changes();
        let bytes = changes.length.saturating_sub(offset).min(out.len() as u64) as usize;
        changes.read(offset, &mut out[..bytes])?;
        Ok(bytes)
    }

    fn is_direct(&self) -> bool {
        true
    }
}

impl Disk for Shadow {
    fn path(&self) -> &Path {
        &self.path
    }

    fn prepare(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// A directory that cannot be locked, since nothing can be written there, is read nevertheless.
    fn lock(&self) -> Result<Box<dyn Any + Send + Sync>, StoreError> {
        match self.below.as_ref().map(Disk::lock) {
            Some(Err(error @ StoreError::Locked { .. })) => Err(error),
            Some(Ok(lock)) => Ok(lock),
            None | Some(Err(_)) => Ok(Box::new(())),
        }
    }

    fn length(&self, name: &str) -> io::Result<Option<u64>> {
        Ok(self.find(name)?.map(|file| file.changes().length))
    }

    fn occupied(&self, name: &str) -> io::Result<u64> {
        Ok(self.find(name)?.map_or(0, |file| file.changes().length))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageBackend>> {
        let file = self.find(name)?.ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(file))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageBackend>> {
        if self.find(name)?.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = ShadowFile::new(None, 0);
        self.files().insert(name.to_owned(), Some(file.clone()));
        Ok(Box::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.find(from)?.ok_or(io::ErrorKind::NotFound)?;
        let mut files = self.files();
        files.insert(from.to_owned(), None);
        files.insert(to.to_owned(), Some(file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files().insert(name.to_owned(), None);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn occupy(&self, _: &str, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn random(&self) -> io::Result<u64> {
        Directory::new(&self.path).random()
    }

    fn open_blocks(&self, name: &str) -> io::Result<Box<dyn BlockFile>> {
        if let Some(file) = self.find(name)? {
            return Ok(Box::new(file));
        }
        let file = ShadowFile::new(None, 0);
        self.files().insert(name.to_owned(), Some(file.clone()));
        Ok(Box::new(file))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn changes_stay_in_memory() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("file");
        let below: Vec<u8> = (0..10_000).map(|i| (i % 251) as u8).collect();
        fs::write(&path, &below).expect("written");
        let shadow = Shadow::of(folder.path());
        let file = shadow.open("file").expect("opens");
        let mut model = below.clone();
        let compare = |model: &[u8]| {
            let mut all = vec![0; model.len()];
            file.read(0, &mut all).expect("reads");
            assert_eq!(all, model);
            assert_eq!(file.len().expect("a length"), model.len() as u64);
            let end = model.len() as u64;
            assert!(file.read(end, &mut [0]).is_err(), "behind the end");
        };
        compare(&model);
        for (offset, bytes) in [(4000, 300), (0, 1), (9_990, 5_000), (20_000, 4096)] {
            file.write(offset as u64, &vec![7; bytes]).expect("writes");
            model.resize(model.len().max(offset + bytes), 0);
            model[offset..offset + bytes].fill(7);
            compare(&model);
        }
        // What was cut off does not come back.
        for length in [5000, 30_000, 4096, 8000, 0, 9000] {
            file.set_len(length).expect("sets the length");
            model.resize(length as usize, 0);
            compare(&model);
        }
        shadow.rename("file", "other").expect("renames");
        assert_eq!(shadow.length("file").expect("looks"), None);
        assert_eq!(shadow.length("other").expect("looks"), Some(9000));
        shadow.remove("other").expect("removes");
        assert_eq!(shadow.length("other").expect("looks"), None);
        assert_eq!(fs::read(&path).expect("reads"), below);
    }
}
