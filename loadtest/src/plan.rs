//! What all threads of a run share: its settings, its phases, and what operators have done.
//!
//! The phases of a run: streamers load their lists; when all have them the window opens and
//! operators begin; after the window operators wait for their responses and publish the changes
//! that every streamer must receive; streamers poll until they have received them.

use crate::control::Target;
use crate::roster::Roster;
use crate::schedule::{Nanos, Window};
use crate::seed::Key;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

/// A change that a streamer must receive after the operators are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// This edit of the stream, or a later one.
    Edit(u64),
    /// The stream is in the list, or is not.
    Present(bool),
}

/// One visible change of one stream that an operator sent.
#[derive(Clone, Debug)]
pub struct Edit {
    pub seq: u64,
    pub stream: Key,
    /// The streamer that runs it.
    pub host: u32,
    pub intended: Nanos,
    /// When the answer of success was read, and the stamp it gave (0: none given).
    pub acked: Option<(Nanos, u64)>,
}

/// One move of one stream from one streamer to another.
#[derive(Clone, Debug)]
pub struct Move {
    pub stream: Key,
    pub from: u32,
    pub to: u32,
    pub sent: Nanos,
    pub acked: Option<Nanos>,
}

/// Times of a run, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct RunTimes {
    pub warm_up: Nanos,
    pub duration: Nanos,
    /// Longest wait for the answer to a request (long polls: on top of their own).
    pub timeout: Nanos,
    /// Longest wait for streamers to receive the last changes.
    pub settle: Nanos,
    /// Longest time until a parked streamer has received the last change.
    pub grace: Nanos,
}

/// A streamer (index into the roster), a stream, and the change that the streamer must receive.
pub type Wanted = (u32, Key, Want);

pub struct Plan {
    pub target: Target,
    pub roster: Roster,
    pub times: RunTimes,
    pub threads: u64,
    pub seed: u64,
    pub requests_max: u64,
    /// When the operators begin, and the window.
    begin: OnceLock<(Nanos, Window)>,
    ready: AtomicU64,
    threads_ready: AtomicU64,
    seq: AtomicU64,
    writers_left: AtomicU64,
    writers_done_at: AtomicU64,
    wanted: Mutex<Vec<Wanted>>,
    stopped: AtomicBool,
    /// For the progress bar.
    pub answers: AtomicU64,
}

impl Plan {
    /// `seq` numbers edits from above everything that earlier runs wrote.
    pub fn new(
        target: Target,
        roster: Roster,
        times: RunTimes,
        threads: u64,
        seed: u64,
        requests_max: u64,
        seq: u64,
    ) -> Plan {
        Plan {
            target,
            roster,
            times,
            threads,
            seed,
            requests_max,
            begin: OnceLock::new(),
            ready: AtomicU64::new(0),
            threads_ready: AtomicU64::new(0),
            seq: AtomicU64::new(seq),
            writers_left: AtomicU64::new(0),
            writers_done_at: AtomicU64::new(0),
            wanted: Mutex::new(Vec::new()),
            stopped: AtomicBool::new(false),
            answers: AtomicU64::new(0),
        }
    }

    pub fn next_seq(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Opens the window at `now`.
    pub fn open_window(&self, now: Nanos) {
        let _ = self.begin.set((
            now,
            Window::new(now, self.times.warm_up, self.times.duration),
        ));
    }

    pub fn begin(&self) -> Option<(Nanos, Window)> {
        self.begin.get().copied()
    }

    pub fn counts(&self, intended: Nanos) -> bool {
        self.begin
            .get()
            .is_some_and(|(_, window)| window.counts(intended))
    }

    pub fn is_over(&self, now: Nanos) -> bool {
        self.begin
            .get()
            .is_some_and(|(_, window)| now >= window.end)
    }

    pub fn streamer_ready(&self) {
        self.ready.fetch_add(1, Ordering::Relaxed);
    }

    pub fn streamers_ready(&self) -> u64 {
        self.ready.load(Ordering::Relaxed)
    }

    /// A thread has made all its streamers and operators.
    pub fn thread_ready(&self) {
        self.threads_ready.fetch_add(1, Ordering::Relaxed);
    }

    pub fn threads_ready(&self) -> u64 {
        self.threads_ready.load(Ordering::Relaxed)
    }

    pub fn writer_starts(&self) {
        self.writers_left.fetch_add(1, Ordering::Relaxed);
    }

    /// A writer has all its responses; `wanted` are the changes that streamers must receive.
    pub fn writer_is_done(&self, now: Nanos, wanted: &[Wanted]) {
        self.wanted
            .lock()
            .expect("no holder panics")
            .extend_from_slice(wanted);
        self.writers_done_at.fetch_max(now, Ordering::Relaxed);
        self.writers_left.fetch_sub(1, Ordering::Release);
    }

    /// The changes that streamers must receive, and since when; `None` while operators are at work.
    pub fn wanted(&self) -> Option<(Nanos, Vec<Wanted>)> {
        if self.writers_left.load(Ordering::Acquire) > 0 {
            return None;
        }
        let wanted = self.wanted.lock().expect("no holder panics").clone();
        Some((self.writers_done_at.load(Ordering::Relaxed), wanted))
    }

    /// Stops all threads: the user interrupted, or a thread failed.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}
