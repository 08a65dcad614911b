//! A directory that loses power, runs full and fails, for tests.
//!
//! What was written but not synced is kept apart from what is on the platter. `power_cut` makes of
//! it what a real cut may leave: any subset of the unsynced sectors (so writes are torn, lost and
//! reordered), any subset of the length changes, and the directory with any prefix of its unsynced
//! creations, renames and removals. Everything random comes from the seed the caller passes.
//!
//! Faults: the Nth operation fails (with any error, once or from then on), a failing sync forgets
//! what it could not write, as kernels do; the disk has a size; and a lying disk acknowledges syncs
//! without doing them, to prove that tests notice.

use crate::StoreError;
use crate::disk::{BlockFile, Disk};
use redb::StorageBackend;
use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Sectors survive a cut whole or not at all; 1 is a disk that tears anywhere.
pub const SECTORS: [usize; 3] = [1, 512, 4096];

/// What happens at the Nth operation that changes the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The power goes: this operation may or may not reach the platter, nothing after it does.
    Cut,
    /// This one operation fails, the disk is healthy again afterwards.
    Once(io::ErrorKind),
    /// Like `Once`, but a write has written the first half of its bytes.
    Short(io::ErrorKind),
    /// This operation and all after it fail.
    Always(io::ErrorKind),
}

/// What a disk does when it is to make something durable.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Barriers {
    #[default]
    Honest,
    /// It acknowledges syncs without doing them.
    Lying,
    /// It acknowledges a durable write of blocks before its barrier, which the next one catches up
    /// on.
    Late,
}

/// A simulated directory. Clones are the same directory.
#[derive(Clone, Debug)]
pub struct SimDisk {
    path: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Files by inode; names point to them.
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    names_durable: BTreeMap<String, usize>,
    names_pending: Vec<NameOp>,
    operations: u64,
    fault: Option<(u64, Fault)>,
    read_fault: Option<(u64, io::ErrorKind)>,
    reads: u64,
    syncs: u64,
    dead: bool,
    barriers: Barriers,
    bytes_max: u64,
    locked: bool,
}

#[derive(Default, Debug)]
struct File {
    /// What a read returns: the page cache.
    live: Vec<u8>,
    /// What is on the platter.
    durable: Vec<u8>,
    pending: Vec<FileOp>,
}

#[derive(Debug)]
enum FileOp {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Debug)]
enum NameOp {
    Set(String, usize),
    Rename(String, String),
    Remove(String),
}

/// Seeded xorshift: enough for choosing what survives.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % bound
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        SimDisk::new()
    }
}

impl SimDisk {
    pub fn new() -> Self {
        SimDisk {
            path: PathBuf::from("/simulated"),
            state: Arc::new(Mutex::new(State {
                files: Vec::new(),
                names: BTreeMap::new(),
                names_durable: BTreeMap::new(),
                names_pending: Vec::new(),
                operations: 0,
                fault: None,
                read_fault: None,
                reads: 0,
                syncs: 0,
                dead: false,
                barriers: Barriers::Honest,
                bytes_max: u64::MAX,
                locked: false,
            })),
        }
    }

    /// Lets `fault` happen `after` that many more operations that change something (1 = the next
    /// one).
    pub fn set_fault(&self, after: u64, fault: Fault) {
        let mut state = self.state();
        state.fault = Some((state.operations + after, fault));
    }

    /// Lets the read after that many more reads fail, once.
    pub fn set_read_fault(&self, after: u64, kind: io::ErrorKind) {
        let mut state = self.state();
        state.read_fault = Some((state.reads + after, kind));
    }

    pub fn clear_faults(&self) {
        let mut state = self.state();
        (state.fault, state.read_fault) = (None, None);
    }

    /// How the disk keeps its word from here on.
    pub fn set_barriers(&self, barriers: Barriers) {
        self.state().barriers = barriers;
    }

    /// Space for all files together; `u64::MAX` is no limit.
    pub fn set_bytes_max(&self, bytes: u64) {
        self.state().bytes_max = bytes;
    }

    pub fn bytes_used(&self) -> u64 {
        self.state().bytes_used()
    }

    /// Operations that changed something, so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    pub fn reads(&self) -> u64 {
        self.state().reads
    }

    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// The power went at `Fault::Cut`.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Nothing reaches the disk from here on.
    pub fn kill(&self) {
        self.state().dead = true;
    }

    /// The disk as it is found when the power is back.
    #[must_use]
    pub fn power_cut(&self, seed: u64) -> SimDisk {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let state = self.state();
        let sector = SECTORS[random.below(3) as usize];
        // Nearly all, nearly none, half, or any share of what was not synced survives.
        let percent = match random.below(4) {
            0 => 50,
            1 => 90,
            2 => 10,
            _ => random.below(101),
        };
        let files = state
            .files
            .iter()
            .map(|file| file.surviving(&mut random, sector, percent));
        let files: Vec<File> = files.collect();
        let mut names = state.names_durable.clone();
        let kept = random.below(state.names_pending.len() as u64 + 1) as usize;
        for operation in &state.names_pending[..kept] {
            operation.apply(&mut names);
        }
        let after = SimDisk::new();
        {
            let mut new = after.state();
            new.files = files;
            new.names_durable = names.clone();
            new.names = names;
            new.barriers = state.barriers;
        }
        after
    }

    /// The contents of a file, for damaging it.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state
            .names
            .get(name)
            .map(|inode| state.files[*inode].live.clone())
    }

    /// Replaces the contents of a file, durably.
    pub fn set_contents(&self, name: &str, contents: &[u8]) {
        let mut state = self.state();
        let inode = state.inode(name);
        state.files[inode] = File {
            live: contents.to_vec(),
            durable: contents.to_vec(),
            pending: Vec::new(),
        };
        state.names_durable.insert(name.into(), inode);
    }

    /// A file alone, outside of any directory.
    pub fn file(contents: &[u8]) -> Box<dyn StorageBackend> {
        let disk = SimDisk::new();
        disk.set_contents("file", contents);
        disk.open("file").expect("just made")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic of the engine in the middle of a test leaves the disk usable, as a real one.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn cut() -> io::Error {
    io::Error::other("the power is off")
}

impl File {
    /// Puts on the platter what is pending, and only that: what a failed sync forgot stays
    /// forgotten.
    fn settle(&mut self) {
        for operation in self.pending.drain(..) {
            match operation {
                FileOp::Length(length) => self.durable.resize(length as usize, 0),
                FileOp::Write(offset, data) => {
                    let start = offset as usize;
                    if self.durable.len() < start + data.len() {
                        self.durable.resize(start + data.len(), 0);
                    }
                    self.durable[start..start + data.len()].copy_from_slice(&data);
                }
            }
        }
    }

    fn surviving(&self, random: &mut Random, sector: usize, percent: u64) -> File {
        let mut image = self.durable.clone();
        for operation in &self.pending {
            match operation {
                FileOp::Length(length) => {
                    if random.below(100) < percent {
                        image.resize(*length as usize, 0);
                    }
                }
                FileOp::Write(offset, data) => {
                    let (start, mut at) = (*offset as usize, 0);
                    while at < data.len() {
                        let end = (((start + at) / sector + 1) * sector - start).min(data.len());
                        if random.below(100) < percent && start + end <= image.len() {
                            image[start + at..start + end].copy_from_slice(&data[at..end]);
                        }
                        at = end;
                    }
                }
            }
        }
        File {
            live: image.clone(),
            durable: image,
            pending: Vec::new(),
        }
    }
}

impl NameOp {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameOp::Set(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            NameOp::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            NameOp::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl State {
    fn inode(&mut self, name: &str) -> usize {
        if let Some(inode) = self.names.get(name) {
            return *inode;
        }
        self.files.push(File::default());
        self.names.insert(name.into(), self.files.len() - 1);
        self.files.len() - 1
    }

    fn bytes_used(&self) -> u64 {
        self.names
            .values()
            .map(|inode| self.files[*inode].live.len() as u64)
            .sum()
    }

    /// Counts an operation and lets it fail when its time has come. `true`: the power goes with
    /// this operation.
    fn step(&mut self) -> io::Result<bool> {
        if self.dead {
            return Err(cut());
        }
        self.operations += 1;
        match self.fault {
            Some((at, Fault::Cut)) if self.operations >= at => {
                self.dead = true;
                Ok(true)
            }
            Some((at, Fault::Once(kind) | Fault::Short(kind))) if self.operations == at => {
                Err(kind.into())
            }
            Some((at, Fault::Always(kind))) if self.operations >= at => Err(kind.into()),
            _ => Ok(false),
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead { Err(cut()) } else { Ok(()) }
    }

    /// Does an operation on a file, unless the power goes with it; then it is only left pending.
    fn change(&mut self, inode: usize, operation: FileOp) -> io::Result<()> {
        match (self.step(), operation) {
            (Ok(false), operation) => self.make(inode, operation),
            (Ok(true), operation) => {
                self.files[inode].pending.push(operation);
                Err(cut())
            }
            (Err(error), FileOp::Write(offset, mut data)) => {
                let is_short = matches!(self.fault, Some((_, Fault::Short(_))));
                if is_short && !self.dead {
                    data.truncate(data.len() / 2);
                    self.make(inode, FileOp::Write(offset, data))?;
                }
                Err(error)
            }
            (Err(error), FileOp::Length(_)) => Err(error),
        }
    }

    /// Does an operation on a file, as far as the disk has room.
    fn make(&mut self, inode: usize, operation: FileOp) -> io::Result<()> {
        let length = self.files[inode].live.len() as u64;
        let needed = match &operation {
            FileOp::Write(offset, data) => offset + data.len() as u64,
            FileOp::Length(length) => *length,
        };
        if needed > length && self.bytes_used() - length + needed > self.bytes_max {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let live = &mut self.files[inode].live;
        match &operation {
            FileOp::Write(offset, data) => {
                let start = *offset as usize;
                if live.len() < start + data.len() {
                    live.resize(start + data.len(), 0);
                }
                live[start..start + data.len()].copy_from_slice(data);
            }
            FileOp::Length(length) => live.resize(*length as usize, 0),
        }
        self.files[inode].pending.push(operation);
        Ok(())
    }

    fn change_names(&mut self, operation: NameOp) -> io::Result<()> {
        let cutting = self.step()?;
        if !cutting {
            operation.apply(&mut self.names);
        }
        self.names_pending.push(operation);
        if cutting { Err(cut()) } else { Ok(()) }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl StorageBackend for SimFile {
    fn len(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.alive()?;
        Ok(state.files[self.inode].live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.alive()?;
        state.reads += 1;
        if let Some((at, kind)) = state.read_fault
            && state.reads == at
        {
            return Err(kind.into());
        }
        let live = &state.files[self.inode].live;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start
            .checked_add(out.len())
            .filter(|end| *end <= live.len());
        let Some(end) = end else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        out.copy_from_slice(&live[start..end]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.state().change(self.inode, FileOp::Length(len))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk
            .state()
            .change(self.inode, FileOp::Write(offset, data.to_vec()))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let result = state.step();
        state.syncs += 1;
        let lying = state.barriers == Barriers::Lying;
        let file = &mut state.files[self.inode];
        match result {
            Ok(false) if lying => Ok(()),
            Ok(false) => {
                file.settle();
                Ok(())
            }
            Ok(true) => Err(cut()),
            Err(error) => {
                // What could not be written is forgotten: reads still see it, no later sync writes
                // it.
                file.pending.clear();
                Err(error)
            }
        }
    }
}

impl BlockFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        StorageBackend::len(self)
    }

    /// Two operations: a cut or a fault may come between the bytes and their barrier.
    fn write_durably(&self, offset: u64, blocks: &[u8]) -> io::Result<()> {
        let is_late = self.disk.state().barriers == Barriers::Late;
        if is_late {
            self.sync_data()?;
        }
        StorageBackend::write(self, offset, blocks)?;
        if is_late { Ok(()) } else { self.sync_data() }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let state = self.disk.state();
        let length = state.files[self.inode].live.len() as u64;
        drop(state);
        let bytes = length.saturating_sub(offset).min(out.len() as u64) as usize;
        StorageBackend::read(self, offset, &mut out[..bytes])?;
        Ok(bytes)
    }

    fn is_direct(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Guard(SimDisk);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

impl Disk for SimDisk {
    fn path(&self) -> &Path {
        &self.path
    }

    fn prepare(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn lock(&self) -> Result<Box<dyn Any + Send + Sync>, StoreError> {
        let mut state = self.state();
        if state.locked {
            return Err(StoreError::Locked {
                path: self.path.clone(),
                pid: None,
            });
        }
        state.locked = true;
        drop(state);
        Ok(Box::new(Guard(self.clone())))
    }

    fn length(&self, name: &str) -> io::Result<Option<u64>> {
        let state = self.state();
        state.alive()?;
        Ok(state
            .names
            .get(name)
            .map(|inode| state.files[*inode].live.len() as u64))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageBackend>> {
        let state = self.state();
        state.alive()?;
        let inode = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        drop(state);
        Ok(Box::new(SimFile {
            disk: self.clone(),
            inode,
        }))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageBackend>> {
        let mut state = self.state();
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.files.push(File::default());
        let inode = state.files.len() - 1;
        state.change_names(NameOp::Set(name.into(), inode))?;
        drop(state);
        Ok(Box::new(SimFile {
            disk: self.clone(),
            inode,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.state()
            .change_names(NameOp::Rename(from.into(), to.into()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.alive()?;
        if state.names.contains_key(name) {
            state.change_names(NameOp::Remove(name.into()))?;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.step()? {
            return Err(cut());
        }
        state.syncs += 1;
        if state.barriers != Barriers::Lying {
            state.names_durable = state.names.clone();
            state.names_pending.clear();
        }
        Ok(())
    }

    fn open_blocks(&self, name: &str) -> io::Result<Box<dyn BlockFile>> {
        if self.length(name)?.is_none() {
            self.create(name)?;
        }
        let inode = *self.state().names.get(name).expect("it exists");
        let disk = self.clone();
        Ok(Box::new(SimFile { disk, inode }))
    }

    fn occupied(&self, name: &str) -> io::Result<u64> {
        Ok(self.length(name)?.unwrap_or(0))
    }

    fn occupy(&self, name: &str, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return self.remove(name);
        }
        let file = match self.open(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create(name)?,
            Err(error) => return Err(error),
        };
        file.set_len(bytes)
            .and_then(|()| file.sync_data())
            .inspect_err(|_| {
                let _ = self.remove(name);
            })
    }

    fn random(&self) -> io::Result<u64> {
        // The same in every run, and another one after each operation.
        let mut random = Random(self.state().operations.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        Ok(1 + random.below(u64::MAX >> 12))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synced_bytes_survive_and_others_may_not() {
        let mut lost = 0;
        for seed in 0..50 {
            let disk = SimDisk::new();
            let file = disk.create("a").expect("creates");
            file.set_len(8).expect("grows");
            file.write(0, b"durable!").expect("writes");
            file.sync_data().expect("syncs");
            disk.sync().expect("syncs");
            file.write(0, b"volatile").expect("writes");
            disk.rename("a", "b").expect("renames");
            let after = disk.power_cut(seed);
            let name = if after.contents("a").is_some() {
                "a"
            } else {
                "b"
            };
            let contents = after.contents(name).expect("one of the two names");
            assert!(
                contents
                    .iter()
                    .zip(b"durable!".iter().zip(b"volatile"))
                    .all(|(got, (a, b))| got == a || got == b)
            );
            lost += usize::from(contents != b"volatile");
        }
        assert!((5..50).contains(&lost), "{lost} of 50");
    }

    #[test]
    fn a_failed_sync_forgets_and_a_later_one_does_not_bring_it_back() {
        let disk = SimDisk::new();
        disk.set_contents("a", b"old");
        let file = disk.open("a").expect("opens");
        file.write(0, b"new").expect("writes");
        disk.set_fault(1, Fault::Once(io::ErrorKind::Other));
        assert!(file.sync_data().is_err());
        assert_eq!(disk.contents("a").as_deref(), Some(&b"new"[..]));
        file.sync_data().expect("healthy again");
        assert_eq!(
            disk.power_cut(1).contents("a").as_deref(),
            Some(&b"old"[..])
        );
    }
}
