//! Threads that scan large collections, several of them one collection.
//!
//! A scan is divided into parts. A thread takes a part, reads of it for [`TURN`] and gives it back;
//! the scans in line take turns, so that an expensive one delays the others by its share only. All
//! threads work for a scan that is alone. What each has found is merged by the last one. The number
//! of scans is bounded; the memory that they hold is counted by their cores.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::limits::{SCAN_THREADS_MAX, SCAN_THREADS_MIN, SCANS_IN_LINE_MAX};
use crate::rt;

/// Longest slice, if the next documents cost what the last ones did.
const SLICE: Duration = Duration::from_micros(200);
/// Documents of the first step of a scan: a millisecond of the most expensive queries.
const FIRST_DOCUMENTS: usize = 16;
const DOCUMENTS_MAX: usize = 4096;
/// Time for one part before the thread looks after other scans.
const TURN: Duration = Duration::from_millis(2);

/// How many documents of one scan fit a slice.
#[derive(Debug)]
pub struct SliceSize {
    documents: usize,
}

impl Default for SliceSize {
    fn default() -> Self {
        Self {
            documents: FIRST_DOCUMENTS,
        }
    }
}

impl SliceSize {
    /// Runs one step, which gets the number of documents it may read. Its time determines the
    /// size of the next one.
    pub fn step<T>(&mut self, run: impl FnOnce(usize) -> T) -> T {
        let began = Instant::now();
        let result = run(self.documents);
        self.adjust(began.elapsed());
        result
    }

    fn adjust(&mut self, took: Duration) {
        let fitting = self.documents as u128 * SLICE.as_nanos() / took.as_nanos().max(1);
        let fitting = usize::try_from(fitting).unwrap_or(DOCUMENTS_MAX);
        // Grows gently: the next documents may cost more.
        self.documents = fitting.clamp(1, (2 * self.documents).min(DOCUMENTS_MAX));
    }
}

/// A scan that several threads can make.
pub trait PartedScan: Send + Sync + 'static {
    /// Where the scan of a part continues.
    type Position: Send;
    /// What one thread has found.
    type Found: Send;

    /// The beginnings of all parts.
    fn parts(&self) -> Vec<Self::Position>;

    /// Findings before anything is read.
    fn nothing(&self) -> Self::Found;

    /// Reads up to `documents` more of a part. Returns true at its end.
    fn step(&self, at: &mut Self::Position, documents: usize, found: &mut Self::Found) -> bool;

    /// Adds what another thread has found.
    fn merge(&self, found: &mut Self::Found, other: Self::Found);

    /// Completes the findings of a whole scan.
    fn finish(&self, found: &mut Self::Found) {
        let _ = found;
    }

    /// The memory that findings take.
    fn held_bytes(&self, found: &Self::Found) -> usize;
}

/// The threads. They end when it is dropped.
pub struct ScanPool {
    line: Arc<ScanLine>,
    threads: usize,
    taken: AtomicU64,
}

/// A scan under way. It ends when this is dropped.
pub struct RunningScan(Arc<dyn Slices>);

/// The scans in line, each once for every thread that may work for it.
#[derive(Default)]
struct ScanLine {
    turns: Mutex<ScanTurnsInLine>,
    added: Condvar,
    /// Scans that have not ended.
    scans: AtomicUsize,
}

#[derive(Default)]
struct ScanTurnsInLine {
    waiting: VecDeque<Arc<dyn Slices>>,
    is_closed: bool,
}

/// One scan, whatever it looks for.
trait Slices: Send + Sync {
    /// Works for one turn. Returns false if no part is left for this thread.
    fn turn(&self) -> bool;

    /// Ends the scan after a panic.
    fn fail(&self);

    /// Ends the scan with the next slice.
    fn cancel(&self);

    fn held_bytes(&self) -> usize;
}

struct Scan<S: PartedScan> {
    scan: S,
    work: Mutex<ScanWork<S>>,
    held_bytes: AtomicUsize,
    is_over: AtomicBool,
    line: Arc<ScanLine>,
}

/// What the threads of a scan share.
struct ScanWork<S: PartedScan> {
    /// Parts that no thread has and that have not ended.
    parts: Vec<S::Position>,
    /// Findings that no thread has.
    found: Vec<OwnFindings<S>>,
    /// How many threads may still work for it.
    threads: usize,
    ended: Option<EndOfScan<S>>,
}

/// What one thread at a time adds to, and how much it reads in a slice.
type OwnFindings<S> = (<S as PartedScan>::Found, SliceSize);

/// Receives what was found; `None` if the scan was cancelled or panicked.
type EndOfScan<S> = Box<dyn FnOnce(Option<<S as PartedScan>::Found>) + Send>;

impl ScanPool {
    /// Starts a thread for each of `processors`, within bounds.
    pub fn start(processors: usize) -> io::Result<Self> {
        let threads = processors.clamp(SCAN_THREADS_MIN, SCAN_THREADS_MAX);
        let line: Arc<ScanLine> = Arc::default();
        for index in 0..threads {
            let line = line.clone();
            thread::Builder::new()
                .name(format!("scan-{index}"))
                .spawn(move || {
                    rt::sys::lower_priority(rt::sys::NICENESS_OF_SCANS);
                    line.work();
                })?;
        }
        Ok(Self {
            line,
            threads,
            taken: AtomicU64::new(0),
        })
    }

    /// Starts a scan. `None`: too many are in line. `ended` is called once, on one of the threads.
    pub fn run<S: PartedScan>(
        &self,
        scan: S,
        ended: impl FnOnce(Option<S::Found>) + Send + 'static,
    ) -> Option<RunningScan> {
        let one_more = |scans| (scans < SCANS_IN_LINE_MAX).then_some(scans + 1);
        let scans = &self.line.scans;
        let is_added = scans.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        is_added.ok()?;
        self.taken.fetch_add(1, Ordering::Relaxed);
        let parts = scan.parts();
        let threads = self.threads.min(parts.len()).max(1);
        let scan = Arc::new(Scan {
            scan,
            work: Mutex::new(ScanWork {
                parts,
                found: Vec::new(),
                threads,
                ended: Some(Box::new(ended)),
            }),
            held_bytes: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            line: self.line.clone(),
        });
        for _ in 0..threads {
            self.line.add(scan.clone());
        }
        Some(RunningScan(scan))
    }

    /// Whether another scan may be refused.
    pub fn is_full(&self) -> bool {
        self.line.scans.load(Ordering::Relaxed) >= SCANS_IN_LINE_MAX
    }

    /// Scans since the start.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Scans that have not ended.
    pub fn running(&self) -> u64 {
        self.line.scans.load(Ordering::Relaxed) as u64
    }
}

impl Drop for ScanPool {
    fn drop(&mut self) {
        let mut turns = self.line.turns.lock();
        turns.is_closed = true;
        turns.waiting.clear();
        self.line.added.notify_all();
    }
}

impl RunningScan {
    /// The memory that its findings took after the last turns.
    pub fn held_bytes(&self) -> usize {
        self.0.held_bytes()
    }
}

impl Drop for RunningScan {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl ScanLine {
    fn add(&self, scan: Arc<dyn Slices>) {
        let mut turns = self.turns.lock();
        if !turns.is_closed {
            turns.waiting.push_back(scan);
            self.added.notify_one();
        }
    }

    /// Works for the scans in line, in turns, until the pool is dropped.
    fn work(&self) {
        while let Some(scan) = self.next() {
            match catch_unwind(AssertUnwindSafe(|| scan.turn())) {
                Ok(true) => self.add(scan),
                Ok(false) => {}
                Err(_) => {
                    tracing::error!("a scan panicked");
                    scan.fail();
                }
            }
        }
    }

    fn next(&self) -> Option<Arc<dyn Slices>> {
        let mut turns = self.turns.lock();
        loop {
            if turns.is_closed {
                return None;
            }
            if let Some(scan) = turns.waiting.pop_front() {
                return Some(scan);
            }
            self.added.wait(&mut turns);
        }
    }
}

impl<S: PartedScan> Scan<S> {
    /// A thread works no longer for the scan. The last one ends it.
    fn leave(&self) {
        let (found, ended) = {
            let mut work = self.work.lock();
            work.threads -= 1;
            if work.threads > 0 {
                return;
            }
            (std::mem::take(&mut work.found), work.ended.take())
        };
        self.line.scans.fetch_sub(1, Ordering::Relaxed);
        let is_whole = !self.is_over.load(Ordering::Acquire);
        let merge = || catch_unwind(AssertUnwindSafe(|| self.merged(found)));
        let merged = is_whole.then(merge).and_then(Result::ok);
        if let Some(ended) = ended {
            ended(merged);
        }
    }

    fn merged(&self, found: Vec<OwnFindings<S>>) -> S::Found {
        let all = found.into_iter().map(|(found, _)| found);
        let merged = all.reduce(|mut found, other| {
            self.scan.merge(&mut found, other);
            found
        });
        let mut merged = merged.unwrap_or_else(|| self.scan.nothing());
        self.scan.finish(&mut merged);
        merged
    }

    /// Takes a part, and findings to add to.
    fn take(&self) -> Option<(S::Position, OwnFindings<S>)> {
        let mut work = self.work.lock();
        if self.is_over.load(Ordering::Acquire) {
            return None;
        }
        let part = work.parts.pop()?;
        let found = work.found.pop();
        drop(work);
        let found = found.unwrap_or_else(|| (self.scan.nothing(), SliceSize::default()));
        Some((part, found))
    }
}

impl<S: PartedScan> Slices for Scan<S> {
    fn turn(&self) -> bool {
        let Some((mut part, (mut found, mut size))) = self.take() else {
            self.leave();
            return false;
        };
        let began = Instant::now();
        let before = self.scan.held_bytes(&found);
        let is_done = loop {
            let step = |documents| self.scan.step(&mut part, documents, &mut found);
            if size.step(step) {
                break true;
            }
            if began.elapsed() >= TURN || self.is_over.load(Ordering::Acquire) {
                break false;
            }
        };
        let after = self.scan.held_bytes(&found);
        // Wraps, because findings can shrink; the sum is right.
        let more = after.wrapping_sub(before);
        self.held_bytes.fetch_add(more, Ordering::Relaxed);
        let mut work = self.work.lock();
        work.found.push((found, size));
        if !is_done {
            work.parts.push(part);
        }
        true
    }

    fn fail(&self) {
        self.cancel();
        self.leave();
    }

    fn cancel(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn slices_follow_the_cost_of_documents() {
        let mut size = SliceSize::default();
        let us = Duration::from_micros;
        for expected in [32, 64, 128] {
            size.adjust(us(1));
            assert_eq!(size.documents, expected);
        }
        size.adjust(us(400));
        assert_eq!(size.documents, 64);
        size.adjust(Duration::from_secs(10));
        assert_eq!(size.documents, 1);
        size.adjust(Duration::ZERO);
        assert_eq!(size.documents, 2);
        for _ in 0..20 {
            size.adjust(Duration::ZERO);
        }
        assert_eq!(size.documents, DOCUMENTS_MAX);
    }

    /// Counts the numbers below `end`, in parts, and may wait at each step.
    struct Numbers {
        end: u64,
        gate: Option<Mutex<mpsc::Receiver<()>>>,
        panics_at: u64,
    }

    fn numbers(end: u64) -> Numbers {
        Numbers {
            end,
            gate: None,
            panics_at: u64::MAX,
        }
    }

    const PARTS: u64 = 7;

    impl PartedScan for Numbers {
        type Position = (u64, u64);
        type Found = Vec<u64>;

        fn parts(&self) -> Vec<(u64, u64)> {
            let at = |part| part * self.end / PARTS;
            (0..PARTS).map(|part| (at(part), at(part + 1))).collect()
        }

        fn nothing(&self) -> Vec<u64> {
            Vec::new()
        }

        fn step(&self, part: &mut (u64, u64), documents: usize, found: &mut Vec<u64>) -> bool {
            if let Some(gate) = &self.gate {
                let _ = gate.lock().recv();
            }
            let to = part.1.min(part.0 + documents as u64);
            assert!(!(part.0..to).contains(&self.panics_at), "on purpose");
            found.extend(part.0..to);
            part.0 = to;
            to == part.1
        }

        fn merge(&self, found: &mut Vec<u64>, other: Vec<u64>) {
            found.extend(other);
        }

        fn held_bytes(&self, found: &Vec<u64>) -> usize {
            found.len() * 8
        }
    }

    const WAIT_MAX: Duration = Duration::from_mins(1);

    fn outcome(pool: &ScanPool, scan: Numbers) -> Option<Vec<u64>> {
        let (sender, found) = mpsc::channel();
        let running = pool.run(scan, move |found| {
            let _ = sender.send(found);
        });
        let running = running.expect("room in line");
        let found = found.recv_timeout(WAIT_MAX).expect("the scan ends");
        let held = running.held_bytes();
        assert!(found.as_ref().is_none_or(|found| held == found.len() * 8));
        found
    }

    #[test]
    fn all_parts_are_read_once_by_any_number_of_threads() {
        for processors in [1, 3] {
            let pool = ScanPool::start(processors).expect("threads");
            for end in [0, 1, 6, 100_000] {
                let mut found = outcome(&pool, numbers(end)).expect("a whole scan");
                found.sort_unstable();
                assert!(found.iter().copied().eq(0..end), "{end} on {processors}");
            }
            assert_eq!(pool.taken(), 4);
        }
    }

    #[test]
    fn panic_ends_one_scan_only() {
        let pool = ScanPool::start(2).expect("threads");
        let panicking = Numbers {
            panics_at: 77,
            ..numbers(1000)
        };
        assert_eq!(outcome(&pool, panicking), None);
        let found = outcome(&pool, numbers(1000)).expect("a whole scan");
        assert_eq!(found.len(), 1000);
    }

    #[test]
    fn number_of_scans_is_bounded_and_a_dropped_one_ends() {
        let pool = ScanPool::start(2).expect("threads");
        let (open, gate) = mpsc::channel();
        let blocked = Numbers {
            gate: Some(Mutex::new(gate)),
            ..numbers(1000)
        };
        let (sender, outcomes) = mpsc::channel();
        let mut running = Vec::new();
        let mut scans = Some(blocked);
        loop {
            let sender = sender.clone();
            let scan = scans.take().unwrap_or_else(|| numbers(10_000_000));
            let ended = move |found: Option<Vec<u64>>| {
                let _ = sender.send(found.is_some());
            };
            let Some(scan) = pool.run(scan, ended) else {
                break;
            };
            running.push(scan);
            assert!(running.len() <= SCANS_IN_LINE_MAX);
        }
        assert!(pool.is_full());
        assert_eq!(running.len(), SCANS_IN_LINE_MAX);
        running.clear();
        drop(open);
        for _ in 0..SCANS_IN_LINE_MAX {
            let is_whole = outcomes.recv_timeout(WAIT_MAX).expect("the scan ends");
            assert!(!is_whole, "it was dropped");
        }
        let found = outcome(&pool, numbers(10)).expect("a whole scan");
        assert_eq!(found.len(), 10);
    }

    /// Never ends, and finds nothing.
    struct Endless;

    impl PartedScan for Endless {
        type Position = ();
        type Found = ();

        fn parts(&self) -> Vec<()> {
            vec![(); 3]
        }

        fn nothing(&self) {}

        fn step(&self, (): &mut (), _: usize, (): &mut ()) -> bool {
            false
        }

        fn merge(&self, (): &mut (), (): ()) {}

        fn held_bytes(&self, (): &()) -> usize {
            0
        }
    }

    #[test]
    fn scans_in_line_take_turns() {
        let pool = ScanPool::start(2).expect("threads");
        let (sender, outcomes) = mpsc::channel();
        let endless = [(); 3].map(|()| {
            let sender = sender.clone();
            let ended = move |found: Option<()>| {
                let _ = sender.send(found);
            };
            pool.run(Endless, ended).expect("room in line")
        });
        let found = outcome(&pool, numbers(100_000)).expect("a whole scan");
        assert_eq!(found.len(), 100_000);
        drop(endless);
        for _ in 0..3 {
            let found = outcomes.recv_timeout(WAIT_MAX).expect("the scan ends");
            assert_eq!(found, None, "it was dropped");
        }
    }
}
