//! Threads for work that would keep a core from its other requests for milliseconds: reading a
//! batch of thousands of items, rendering the configuration of a large streamer, compressing a
//! large body.
//!
//! Jobs run in the order of arrival. Their number and the bytes that they hold are bounded: a job
//! that does not fit is refused, and its client gets 503.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use crossbeam_channel::{Sender, TrySendError, bounded};

/// Jobs that may wait for a thread.
const JOBS_MAX: usize = 1024;
/// Bytes that all jobs may hold together, unless one alone holds more.
const BYTES_MAX: usize = 256 * 1024 * 1024;
/// Rendering recurses into documents, whose depth is bounded.
const STACK_BYTES: usize = 2 * 1024 * 1024;

type Work = Box<dyn FnOnce() + Send>;

struct OffloadedJob {
    work: Work,
    bytes: usize,
}

/// The threads. They end when it is dropped and all jobs have run.
pub struct Offload {
    jobs: Sender<OffloadedJob>,
    in_use: Arc<InUse>,
    taken: AtomicU64,
}

/// What all jobs hold that have not ended.
#[derive(Default)]
struct InUse {
    jobs: AtomicUsize,
    bytes: AtomicUsize,
}

/// No room for another job.
#[derive(Debug, PartialEq, Eq)]
pub struct OffloadFull;

impl Offload {
    pub fn start(threads: usize) -> io::Result<Self> {
        let (jobs, arriving) = bounded::<OffloadedJob>(JOBS_MAX);
        let in_use: Arc<InUse> = Arc::default();
        for index in 0..threads.max(1) {
            let (arriving, in_use) = (arriving.clone(), in_use.clone());
            thread::Builder::new()
                .name(format!("offload-{index}"))
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    for OffloadedJob { work, bytes } in arriving {
                        if catch_unwind(AssertUnwindSafe(work)).is_err() {
                            tracing::error!("offloaded work panicked");
                        }
                        in_use.remove(bytes);
                    }
                })?;
        }
        Ok(Self {
            jobs,
            in_use,
            taken: AtomicU64::new(0),
        })
    }

    /// Runs `work` on one of the threads. `bytes`: what it holds until it has run.
    pub fn run(
        &self,
        bytes: usize,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<(), OffloadFull> {
        let others = self.in_use.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.in_use.jobs.fetch_add(1, Ordering::Relaxed);
        let work: Work = Box::new(work);
        if others == 0 || others.saturating_add(bytes) <= BYTES_MAX {
            match self.jobs.try_send(OffloadedJob { work, bytes }) {
                Ok(()) => {
                    self.taken.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
            }
        }
        self.in_use.remove(bytes);
        Err(OffloadFull)
    }

    /// Whether another job is sure to fit.
    pub fn has_room(&self) -> bool {
        let (jobs, bytes) = self.usage();
        jobs < JOBS_MAX / 2 && bytes < BYTES_MAX / 2
    }

    /// Jobs taken since the start.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Jobs that have not ended, and the bytes that they hold.
    pub fn usage(&self) -> (usize, usize) {
        let jobs = self.in_use.jobs.load(Ordering::Relaxed);
        (jobs, self.in_use.bytes.load(Ordering::Relaxed))
    }
}

impl InUse {
    fn remove(&self, bytes: usize) {
        self.jobs.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Pools whose threads wait, each with the sender that lets its thread go on.
    fn blocked() -> (Offload, mpsc::Sender<()>) {
        let offload = Offload::start(1).expect("a thread");
        let (go_on, wait) = mpsc::channel::<()>();
        let (runs, is_running) = mpsc::channel();
        let work = move || {
            let _ = runs.send(());
            let _ = wait.recv();
        };
        offload.run(0, work).expect("room");
        is_running.recv().expect("it runs");
        (offload, go_on)
    }

    #[test]
    fn jobs_run_in_order_and_a_panic_ends_none_of_the_others() {
        let offload = Offload::start(1).expect("a thread");
        let (sender, results) = mpsc::channel();
        offload.run(1, || panic!("on purpose")).expect("room");
        for n in 0..3 {
            let sender = sender.clone();
            let work = move || sender.send(n).expect("a receiver");
            offload.run(1, work).expect("room");
        }
        drop(sender);
        assert_eq!(results.iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn jobs_that_hold_too_much_are_refused() {
        let (offload, go_on) = blocked();
        assert_eq!(offload.run(BYTES_MAX + 1, || ()), Ok(()), "one alone fits");
        assert_eq!(offload.run(1, || ()), Err(OffloadFull));
        assert_eq!(offload.usage(), (2, BYTES_MAX + 1));
        drop(go_on);
        let (sender, result) = mpsc::channel();
        let fits = || {
            let sender = sender.clone();
            let work = move || sender.send(()).expect("a receiver");
            offload.run(1, work).is_ok()
        };
        while !fits() {
            thread::yield_now();
        }
        result.recv().expect("it has run");
    }

    #[test]
    fn number_of_waiting_jobs_is_bounded() {
        let (offload, go_on) = blocked();
        for _ in 0..JOBS_MAX {
            offload.run(0, || ()).expect("room");
        }
        assert_eq!(offload.run(0, || ()), Err(OffloadFull));
        assert_eq!(offload.usage(), (JOBS_MAX + 1, 0));
        drop(go_on);
    }
}
