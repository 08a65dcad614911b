//! Which cores have parked lists that depend on reports.
//!
//! A parked list whose answer depends on `stats` is not found by commits, because reports are none.
//! So each core that has such lists looks at them again when something was reported or an agent
//! came or went. It is notified once however much is reported, and rests between two looks in
//! proportion to what the last one cost: reports come by the thousand per second, and looking takes
//! a bounded part of the core. Nothing else is looked at: without such a list a report costs one
//! load per core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::core::message::CoreMessage;
use crate::rt::Inbox;

/// Shortest pause between two looks.
const REST_MIN: Duration = Duration::from_millis(200);
/// A look that took this long is followed by so many times of rest: at most a tenth of a core is
/// spent on looking.
const REST_TIMES: u32 = 9;

/// Which cores are notified of reports.
pub struct StatsWatches {
    /// What was reported so far.
    reports: AtomicU64,
    cores: Box<[Watch]>,
}

#[derive(Default)]
struct Watch {
    /// The core has lists that wait for reports.
    wants: AtomicBool,
    /// It was notified of a report and has not begun to look yet.
    told: AtomicBool,
}

impl StatsWatches {
    pub fn new(cores: usize) -> Self {
        Self {
            reports: AtomicU64::new(0),
            cores: (0..cores).map(|_| Watch::default()).collect(),
        }
    }

    /// How much was reported. Read before looking, and given to [`StatsWatches::park`] when nothing
    /// was found.
    pub fn count(&self) -> u64 {
        self.reports.load(Ordering::SeqCst)
    }

    /// Something was reported and can be seen. Either a list that is parking now sees the new
    /// count, or its wish is seen here.
    pub fn reported(&self, inboxes: &[Arc<Inbox<CoreMessage>>]) {
        self.reports.fetch_add(1, Ordering::SeqCst);
        for (watch, inbox) in self.cores.iter().zip(inboxes) {
            if watch.wants.load(Ordering::SeqCst) {
                watch.tell(inbox);
            }
        }
    }

    /// A list of a core waits for reports; what came after it was looked at (`seen`) is made up
    /// for.
    pub fn park(&self, core: usize, seen: u64, inbox: &Inbox<CoreMessage>) {
        let watch = &self.cores[core];
        watch.wants.store(true, Ordering::SeqCst);
        if self.count() != seen {
            watch.tell(inbox);
        }
    }

    /// The core begins to look: reports from now on are notified again.
    pub fn looking(&self, core: usize) {
        self.cores[core].told.store(false, Ordering::SeqCst);
    }

    /// None of the core's lists waits for reports any more.
    pub fn rest(&self, core: usize) {
        self.cores[core].wants.store(false, Ordering::SeqCst);
    }
}

impl Watch {
    fn tell(&self, inbox: &Inbox<CoreMessage>) {
        if !self.told.swap(true, Ordering::SeqCst) {
            inbox.push(CoreMessage::Reported);
        }
    }
}

/// How long a core rests after a look that took `took` of its time.
pub fn rest_after(took: Duration) -> Duration {
    (took * REST_TIMES).max(REST_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(inbox: &Inbox<CoreMessage>) -> usize {
        std::iter::from_fn(|| inbox.try_recv()).count()
    }

    #[test]
    fn cores_that_wait_for_reports_are_told_once_until_they_look() {
        let watches = StatsWatches::new(2);
        let inboxes = [Arc::new(Inbox::new()), Arc::new(Inbox::new())];
        watches.reported(&inboxes);
        assert_eq!(
            (told(&inboxes[0]), told(&inboxes[1])),
            (0, 0),
            "nobody waits"
        );
        watches.park(1, watches.count(), &inboxes[1]);
        for _ in 0..1000 {
            watches.reported(&inboxes);
        }
        assert_eq!((told(&inboxes[0]), told(&inboxes[1])), (0, 1));
        watches.looking(1);
        watches.reported(&inboxes);
        watches.reported(&inboxes);
        assert_eq!(told(&inboxes[1]), 1);
        watches.looking(1);
        watches.rest(1);
        watches.reported(&inboxes);
        assert_eq!(told(&inboxes[1]), 0);
    }

    #[test]
    fn what_is_reported_between_looking_and_parking_is_told() {
        let watches = StatsWatches::new(1);
        let inboxes = [Arc::new(Inbox::new())];
        let seen = watches.count();
        watches.reported(&inboxes);
        watches.park(0, seen, &inboxes[0]);
        assert_eq!(told(&inboxes[0]), 1);
    }

    #[test]
    fn looking_takes_a_tenth_of_a_core_at_the_most() {
        assert_eq!(rest_after(Duration::ZERO), REST_MIN);
        let second = Duration::from_secs(1);
        assert_eq!(rest_after(second), 9 * second);
    }
}
