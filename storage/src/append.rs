//! The append log: a ring of segment files in which batches become durable, in order.
//!
//! Promises: when [`Log::append`] returns `Ok`, the batch is on the disk; entries are
//! contiguous, each names the one before it, and none ever changes; what is found at the end after
//! a crash is every acknowledged batch, and at most one that was not. After an error of `append`
//! the log must be opened again, which finds out what is on the disk and makes that durable.
//!
//! A segment begins with one block that says its number, the position before its first entry and
//! the log it belongs to. A file is used again by overwriting: entries of its former use are not
//! the next ones of anything. Which records are in the tables is left to `applier`.
//!
//! ```text
//! header = magic "WLS1", format u8, reader_min u8, 2 zeros, log id u64, number of the segment u64,
//!          lsn u64, stamp u64 and checksum u64 of the entry before, 8 zeros, checksum u64 (xxh3)
//! ```

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::blocks::Blocks;
use crate::disk::{BlockFile, Disk};
use crate::entry::{self, BLOCK, Entry, Invalid, Position};
use crate::log::{AppendError, Appended, Log, LogUsage, Refusal};
use crate::planted::{self, Planted};
use crate::{Batch, StoreError};

/// Files of the ring.
pub const SEGMENTS: usize = 8;
/// Zeros of one write: the commit that meets the end of a file waits some milliseconds for them.
const FILL_BYTES: u64 = 1 << 20;
const MAGIC: &[u8; 4] = b"WLS1";
const FORMAT: u8 = 1;
const READER_MIN: u8 = 1;
const HEADER: usize = 64;
const CHECKSUM_AT: usize = HEADER - 8;

/// Name of the file of a segment.
pub fn file_name(file: usize) -> String {
    format!("weir.log.{file}")
}

/// The log. Owned by the thread that commits.
#[derive(Debug)]
pub struct AppendLog {
    disk: Arc<dyn Disk>,
    log_id: u64,
    /// A segment ends with the entry that would exceed this.
    segment_bytes: u64,
    /// Those with entries that the tables may lack, the oldest first.
    segments: VecDeque<Segment>,
    /// End of the entries of the newest segment.
    end: u64,
    /// Length of its file. What is behind `end` was written before: with zeros, or in a former use.
    filled: u64,
    last: Position,
    buffer: Blocks,
    /// Entries of which a flipped bit was corrected while opening.
    corrected: u64,
}

#[derive(Debug)]
struct Segment {
    /// Which of the files.
    file: usize,
    log_id: u64,
    number: u64,
    /// The position before its first entry.
    before: Position,
    blocks: Box<dyn BlockFile>,
}

impl AppendLog {
    /// A new log behind `last`. Files of earlier logs are used again.
    pub fn create(
        disk: Arc<dyn Disk>,
        log_id: u64,
        segment_bytes: u64,
        last: Position,
    ) -> Result<Self, StoreError> {
        // Numbers grow over all logs of a directory.
        let mut newest = 0;
        for file in 0..SEGMENTS {
            if let Found::Segment(segment) = Segment::find(&*disk, file)? {
                newest = newest.max(segment.number);
            }
        }
        let mut log = Self {
            disk,
            log_id,
            segment_bytes,
            segments: VecDeque::new(),
            end: 0,
            filled: 0,
            last,
            buffer: Blocks::default(),
            corrected: 0,
        };
        log.begin_segment(0, newest + 1)?;
        Ok(log)
    }

    /// Opens a log and gives `each` every entry behind `complete`, in order. The position of the
    /// last one is then [`Log::head`], and durable.
    ///
    /// `newest_lsn`: the log must reach at least this far, because the tables have records of it.
    pub fn open(
        disk: Arc<dyn Disk>,
        log_id: u64,
        segment_bytes: u64,
        complete: Position,
        newest_lsn: u64,
        each: &mut dyn FnMut(&Entry<'_>),
    ) -> Result<Self, StoreError> {
        let path = disk.path().join(file_name(0));
        let io = |error| StoreError::io(&path, "read the log", error);
        let damaged = |what: String| StoreError::file(&path, what);
        let (mut segments, mut unreadable) = (Vec::new(), Vec::new());
        for file in 0..SEGMENTS {
            match Segment::find(&*disk, file)? {
                Found::Segment(segment) if segment.log_id == log_id => segments.push(segment),
                Found::Unreadable => unreadable.push(file),
                Found::Segment(_) | Found::Nothing => {}
            }
        }
        segments.sort_unstable_by_key(|segment: &Segment| segment.number);
        // Those before hold nothing that the tables lack.
        let first = segments
            .iter()
            .rposition(|it| it.before.lsn <= complete.lsn);
        let mut log = Self {
            disk: disk.clone(),
            log_id,
            segment_bytes,
            segments: VecDeque::new(),
            end: 0,
            filled: 0,
            last: complete,
            buffer: Blocks::default(),
            corrected: 0,
        };
        let mut last_at = BLOCK as u64;
        if let Some(first) = first {
            log.last = segments[first].before;
            for segment in segments.drain(first..) {
                last_at = log.read_segment(segment, complete, each)?;
            }
        } else if !segments.is_empty() {
            let next = complete.lsn + 1;
            return Err(damaged(format!("no segment of the log has entry {next}")));
        }
        for file in unreadable {
            log.check_unreadable(file)?;
        }
        if log.last.lsn < newest_lsn.max(complete.lsn) {
            let what = format!(
                "the log ends with entry {}, the tables have records of {}",
                log.last.lsn,
                newest_lsn.max(complete.lsn)
            );
            return Err(damaged(what));
        }
        if log.segments.is_empty() {
            // Its first segment was being begun when the power went.
            return Self::create(disk, log_id, segment_bytes, complete);
        }
        log.seal_end(last_at).map_err(io)?;
        Ok(log)
    }

    /// Reads all entries of the next segment, and returns where the last one begins.
    fn read_segment(
        &mut self,
        segment: Segment,
        complete: Position,
        each: &mut dyn FnMut(&Entry<'_>),
    ) -> Result<u64, StoreError> {
        let path = self.disk.path().join(file_name(segment.file));
        let damaged = |what: String| StoreError::file(&path, what);
        let follows = self.segments.back();
        let is_next = follows.is_none_or(|before| before.number + 1 == segment.number);
        if segment.before != self.last || !is_next {
            let (ends, begins) = (self.last.lsn, segment.before.lsn);
            return Err(damaged(format!(
                "the log ends with entry {ends} before this segment, which continues at {begins}"
            )));
        }
        let length = segment.blocks.length();
        let read = length.and_then(|length| {
            let whole = length.next_multiple_of(BLOCK as u64);
            let whole = usize::try_from(whole).map_err(io::Error::other)?;
            segment.blocks.read(0, self.buffer.zeros(whole))
        });
        let read = read.map_err(|error| StoreError::io(&path, "read", error))?;
        let (mut at, mut last_at) = (BLOCK, BLOCK);
        loop {
            let bytes = &self.buffer.get()[..read];
            let rest = bytes.get(at..).unwrap_or_default();
            match entry::read(self.log_id, &self.last, rest) {
                Ok(entry) => {
                    if entry.position.lsn == complete.lsn && entry.position != complete {
                        let lsn = complete.lsn;
                        return Err(damaged(format!("entry {lsn} is not that of the tables")));
                    }
                    if entry.position.lsn > complete.lsn {
                        each(&entry);
                    }
                    self.last = entry.position;
                    (last_at, at) = (at, at + entry.bytes);
                }
                Err(Invalid::Newer { format, reader_min }) => {
                    return Err(StoreError::Version {
                        path,
                        format: format.into(),
                        reader_min: reader_min.into(),
                        supported: entry::FORMAT.into(),
                    });
                }
                Err(Invalid::Absent) => {
                    let Some(corrected) = entry::corrected(self.log_id, &self.last, rest) else {
                        break;
                    };
                    let written = self.correct(&segment, at, &corrected);
                    written.map_err(|error| StoreError::io(&path, "correct", error))?;
                }
            }
        }
        let bytes = &self.buffer.get()[..read];
        // A crash leaves nothing behind the entry that it cut.
        for at in (at..bytes.len()).step_by(BLOCK) {
            if let Ok(later) = entry::read_any(self.log_id, &bytes[at..])
                && later.position.lsn > self.last.lsn + 1
            {
                let (lost, later) = (self.last.lsn + 1, later.position.lsn);
                return Err(damaged(format!(
                    "entry {lost} is damaged: entry {later} follows it"
                )));
            }
        }
        self.end = at as u64;
        // A short write may have left less than the last block, which `seal_end` makes whole.
        self.filled = self.end.max((read / BLOCK * BLOCK) as u64);
        self.segments.push_back(segment);
        Ok(last_at as u64)
    }

    /// Replaces an entry, in the buffer and in its file.
    fn correct(&mut self, segment: &Segment, at: usize, entry: &[u8]) -> io::Result<()> {
        self.corrected += 1;
        let (file, lsn) = (file_name(segment.file), self.last.lsn + 1);
        tracing::warn!(
            file,
            lsn,
            "a flipped bit of an entry of the log was corrected"
        );
        self.buffer.get_mut()[at..][..entry.len()].copy_from_slice(entry);
        let mut blocks = Blocks::default();
        blocks.zeros(entry.len().next_multiple_of(BLOCK))[..entry.len()].copy_from_slice(entry);
        segment.blocks.write_durably(at as u64, blocks.get())
    }

    /// Makes sure that the end is what was found, whatever an earlier failure left in caches: the
    /// header of the newest segment and the last entry are written again, and the block behind it
    /// is cleared.
    fn seal_end(&mut self, last_at: u64) -> io::Result<()> {
        let Some(newest) = self.segments.back() else {
            return Ok(());
        };
        let blocks = &newest.blocks;
        let header = header(self.log_id, newest.number, &newest.before);
        self.buffer.zeros(BLOCK)[..HEADER].copy_from_slice(&header);
        blocks.write_durably(0, self.buffer.get())?;
        let bytes = usize::try_from(self.end - last_at).map_err(io::Error::other)?;
        if bytes > 0 {
            // Zeros of its last block may be missing.
            blocks.read(last_at, self.buffer.zeros(bytes))?;
            blocks.write_durably(last_at, self.buffer.get())?;
        }
        let behind = self.buffer.zeros(BLOCK);
        blocks.read(self.end, behind)?;
        if behind.iter().any(|byte| *byte != 0) {
            blocks.write_durably(self.end, self.buffer.zeros(BLOCK))?;
        }
        Ok(())
    }

    /// Fails if a file whose header is damaged has entries behind the end of the log: those were
    /// acknowledged. A crash while a segment is begun leaves none.
    fn check_unreadable(&mut self, file: usize) -> Result<(), StoreError> {
        let path = self.disk.path().join(file_name(file));
        let io = |error| StoreError::io(&path, "read", error);
        let blocks = self.disk.open_blocks(&file_name(file)).map_err(io)?;
        let length = blocks.length().map_err(io)?.next_multiple_of(BLOCK as u64);
        let whole = usize::try_from(length).map_err(|_| io(io::ErrorKind::OutOfMemory.into()))?;
        let read = blocks.read(0, self.buffer.zeros(whole)).map_err(io)?;
        let bytes = &self.buffer.get()[..read];
        for at in (BLOCK..bytes.len()).step_by(BLOCK) {
            if let Ok(lost) = entry::read_any(self.log_id, &bytes[at..])
                && lost.position.lsn > self.last.lsn
            {
                let what = format!("its header is damaged: it has entry {}", lost.position.lsn);
                return Err(StoreError::file(&path, what));
            }
        }
        Ok(())
    }

    pub fn corrected(&self) -> u64 {
        self.corrected
    }

    /// Whether entries pass the page cache. Otherwise each is written and then synced.
    pub fn is_direct(&self) -> bool {
        self.segments
            .back()
            .is_some_and(|newest| newest.blocks.is_direct())
    }

    /// Writes zeros ahead, so that writing an entry changes no length and no block map, which would
    /// cost as much again. A file that is used again is filled already.
    fn fill(&mut self, needed: u64) -> Result<(), AppendError> {
        let newest = self.segments.back().expect("a log has a segment");
        while self.filled < needed && self.filled < self.segment_bytes {
            let bytes = (self.segment_bytes - self.filled).min(FILL_BYTES);
            let zeros = Blocks::zeroed(bytes as usize);
            match newest.blocks.write_durably(self.filled, zeros.get()) {
                Ok(()) => self.filled += bytes,
                Err(error) => {
                    let path = self.disk.path().join(file_name(newest.file));
                    return Err(before_the_entry(StoreError::io(&path, "fill", error)));
                }
            }
        }
        self.filled = self.filled.max(needed);
        Ok(())
    }

    /// A file that is not in use, and the number of the next segment.
    fn next_segment(&self) -> Option<(usize, u64)> {
        let is_free = |file: &usize| self.segments.iter().all(|segment| segment.file != *file);
        let file = (0..SEGMENTS).find(is_free)?;
        let newest = self.segments.back().map_or(0, |segment| segment.number);
        Some((file, newest + 1))
    }

    fn begin_segment(&mut self, file: usize, number: u64) -> Result<(), StoreError> {
        let name = file_name(file);
        let path = self.disk.path().join(&name);
        let io = |error| StoreError::io(&path, "begin a segment of the log in", error);
        let length = self.disk.length(&name).map_err(io)?;
        let blocks = self.disk.open_blocks(&name).map_err(io)?;
        let before = self.last;
        let header = header(self.log_id, number, &before);
        self.buffer.zeros(BLOCK)[..HEADER].copy_from_slice(&header);
        blocks.write_durably(0, self.buffer.get()).map_err(io)?;
        // Also when it was there: an earlier attempt may have failed between the two.
        self.disk.sync().map_err(io)?;
        self.segments.push_back(Segment {
            file,
            log_id: self.log_id,
            number,
            before,
            blocks,
        });
        self.end = BLOCK as u64;
        self.filled = length.unwrap_or(0).max(self.end) / BLOCK as u64 * BLOCK as u64;
        Ok(())
    }
}

impl Log for AppendLog {
    fn head(&self) -> Position {
        self.last
    }

    fn append(&mut self, batch: &Batch) -> Result<Appended, AppendError> {
        assert_eq!(batch.lsn, self.last.lsn + 1, "entries are contiguous");
        assert!(batch.stamp_ms >= self.last.stamp_ms, "stamps do not shrink");
        let (log_id, last) = (self.log_id, self.last);
        let position = self
            .buffer
            .write(|out| entry::write(log_id, &last, batch, out));
        let bytes = self.buffer.get().len() as u64;
        // One that is larger than a segment gets one alone.
        if self.end + bytes > self.segment_bytes && self.end > BLOCK as u64 {
            let (file, number) = self
                .next_segment()
                .ok_or(AppendError::Refused(Refusal::Full))?;
            let buffer = std::mem::take(&mut self.buffer);
            let begun = self.begin_segment(file, number);
            self.buffer = buffer;
            begun.map_err(before_the_entry)?;
        }
        self.fill(self.end + bytes)?;
        let newest = self.segments.back().expect("a log has a segment");
        let written = newest.blocks.write_durably(self.end, self.buffer.get());
        written.map_err(|error| {
            let path = self.disk.path().join(file_name(newest.file));
            AppendError::Unknown(StoreError::io(&path, "append to", error))
        })?;
        self.end += bytes;
        self.last = position;
        Ok(Appended::Ahead)
    }

    /// Segments before the position may be used again.
    fn trim(&mut self, complete: &Position) {
        let is_needed =
            |next: &Segment| next.before.lsn > complete.lsn && !planted::is(Planted::TrimTooEarly);
        while self.segments.len() > 1 && !is_needed(&self.segments[1]) {
            self.segments.pop_front();
        }
    }

    fn usage(&self) -> LogUsage {
        let older = self.segments.len().saturating_sub(1) as u64;
        LogUsage {
            bytes: older * self.segment_bytes + self.end,
            bytes_max: SEGMENTS as u64 * self.segment_bytes,
        }
    }
}

/// An error of preparations for an entry.
fn before_the_entry(error: StoreError) -> AppendError {
    match error {
        StoreError::Full { .. } => AppendError::Refused(Refusal::NoSpace),
        other => AppendError::Unknown(other),
    }
}

/// What a file of the ring has.
enum Found {
    Segment(Segment),
    /// A header that is damaged, or was being written.
    Unreadable,
    Nothing,
}

impl Segment {
    /// The segment in a file, of whatever log.
    fn find(disk: &dyn Disk, file: usize) -> Result<Found, StoreError> {
        let name = file_name(file);
        let path = disk.path().join(&name);
        let io = |error| StoreError::io(&path, "read", error);
        if disk.length(&name).map_err(io)?.is_none() {
            return Ok(Found::Nothing);
        }
        let blocks = disk.open_blocks(&name).map_err(io)?;
        let mut buffer = Blocks::default();
        blocks.read(0, buffer.zeros(BLOCK)).map_err(io)?;
        let bytes = buffer.get();
        let word = |at: usize| {
            let bytes = bytes[at..at + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let is_whole =
            bytes.starts_with(MAGIC) && word(CHECKSUM_AT) == xxh3_64(&bytes[..CHECKSUM_AT]);
        if !is_whole {
            return Ok(Found::Unreadable);
        }
        if bytes[5] > FORMAT {
            return Err(StoreError::Version {
                path,
                format: bytes[4].into(),
                reader_min: bytes[5].into(),
                supported: FORMAT.into(),
            });
        }
        let before = Position {
            lsn: word(24),
            stamp_ms: word(32),
            chain: word(40),
        };
        Ok(Found::Segment(Self {
            file,
            log_id: word(8),
            number: word(16),
            before,
            blocks,
        }))
    }
}

fn header(log_id: u64, number: u64, before: &Position) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(MAGIC);
    (header[4], header[5]) = (FORMAT, READER_MIN);
    let words = [log_id, number, before.lsn, before.stamp_ms, before.chain];
    for (at, word) in (8..).step_by(8).zip(words) {
        header[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    let checksum = xxh3_64(&header[..CHECKSUM_AT]);
    header[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
    header
}
