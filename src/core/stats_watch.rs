//! The cores with parked lists that depend on reports.
//!
//! Commits do not wake a list that depends on `stats`, because a report makes no commit. A core
//! with such lists runs them again after a report, or after an agent has connected or disconnected.
//! It is notified once for any number of reports, and pauses between two runs in proportion to the
//! cost of the last one: with thousands of reports per second the runs take a bounded share of the
//! core. Without such lists a report costs one load per core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::core::message::CoreMessage;
use crate::rt::Inbox;

/// Shortest pause between two runs.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Pause after a run, in multiples of its duration: runs take at most a tenth of a core.
const PAUSE_TIMES: u32 = 9;

/// The cores to notify of reports.
pub struct StatsWatches {
    /// Number of reports.
    reports: AtomicU64,
    cores: Box<[Watch]>,
}

#[derive(Default)]
struct Watch {
    /// The core has lists that wait for reports.
    waits: AtomicBool,
    /// The core was notified and has not begun its run.
    notified: AtomicBool,
}

impl StatsWatches {
    pub fn new(cores: usize) -> Self {
        Self {
            reports: AtomicU64::new(0),
            cores: (0..cores).map(|_| Watch::default()).collect(),
        }
    }

    /// Number of reports. Read before a run, and passed to [`StatsWatches::park`] if nothing
    /// matched.
    pub fn count(&self) -> u64 {
        self.reports.load(Ordering::SeqCst)
    }

    /// Called after a report is visible. A list that is being parked either reads the new count or
    /// is notified here.
    pub fn reported(&self, inboxes: &[Arc<Inbox<CoreMessage>>]) {
        self.reports.fetch_add(1, Ordering::SeqCst);
        for (watch, inbox) in self.cores.iter().zip(inboxes) {
            if watch.waits.load(Ordering::SeqCst) {
                watch.notify(inbox);
            }
        }
    }

    /// Notifies the core of reports from now on, and at once of reports after the count `seen`.
    pub fn park(&self, core: usize, seen: u64, inbox: &Inbox<CoreMessage>) {
        let watch = &self.cores[core];
        watch.waits.store(true, Ordering::SeqCst);
        if self.count() != seen {
            watch.notify(inbox);
        }
    }

    /// The core begins a run: it is notified of later reports.
    pub fn begin_run(&self, core: usize) {
        self.cores[core].notified.store(false, Ordering::SeqCst);
    }

    /// The core has no more lists that wait for reports.
    pub fn stop(&self, core: usize) {
        self.cores[core].waits.store(false, Ordering::SeqCst);
    }
}

impl Watch {
    fn notify(&self, inbox: &Inbox<CoreMessage>) {
        if !self.notified.swap(true, Ordering::SeqCst) {
            inbox.push(CoreMessage::Reported);
        }
    }
}

/// The pause after a run that took `took` of the time of the core.
pub fn pause_after(took: Duration) -> Duration {
    (took * PAUSE_TIMES).max(PAUSE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(inbox: &Inbox<CoreMessage>) -> usize {
        std::iter::from_fn(|| inbox.try_recv()).count()
    }

    #[test]
    fn waiting_core_is_notified_once_until_its_run() {
        let watches = StatsWatches::new(2);
        let inboxes = [Arc::new(Inbox::new()), Arc::new(Inbox::new())];
        watches.reported(&inboxes);
        assert_eq!(
            (received(&inboxes[0]), received(&inboxes[1])),
            (0, 0),
            "no list waits"
        );
        watches.park(1, watches.count(), &inboxes[1]);
        for _ in 0..1000 {
            watches.reported(&inboxes);
        }
        assert_eq!((received(&inboxes[0]), received(&inboxes[1])), (0, 1));
        watches.begin_run(1);
        watches.reported(&inboxes);
        watches.reported(&inboxes);
        assert_eq!(received(&inboxes[1]), 1);
        watches.begin_run(1);
        watches.stop(1);
        watches.reported(&inboxes);
        assert_eq!(received(&inboxes[1]), 0);
    }

    #[test]
    fn reports_between_run_and_parking_are_notified() {
        let watches = StatsWatches::new(1);
        let inboxes = [Arc::new(Inbox::new())];
        let seen = watches.count();
        watches.reported(&inboxes);
        watches.park(0, seen, &inboxes[0]);
        assert_eq!(received(&inboxes[0]), 1);
    }

    #[test]
    fn runs_take_at_most_a_tenth_of_a_core() {
        assert_eq!(pause_after(Duration::ZERO), PAUSE_MIN);
        let second = Duration::from_secs(1);
        assert_eq!(pause_after(second), 9 * second);
    }
}
