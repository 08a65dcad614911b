//! Results that take long to compute, shared by all callers.
//!
//! One computation runs at a time. A cheap one begins after the call that waits for it, so that its
//! result has all that was written before. The result of an expensive one is reused for a time that
//! grows with its cost: computations take a bounded part of one processor, however many callers
//! there are. It is also renewed without callers, at a lower rate, so that the next caller of a
//! slow one need not wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

/// Cost up to which a result is not reused.
const CHEAP: Duration = Duration::from_millis(10);
/// How long a result is reused, as a multiple of its cost and at most [`REUSED_MAX`].
const REUSED_COSTS: u32 = 20;
const REUSED_MAX: Duration = Duration::from_secs(2);
/// A very expensive result is reused longer: computations take at most a quarter of a processor.
const REUSED_COSTS_MIN: u32 = 4;
/// Cost from which callers get an old result instead of waiting for the next one.
const SLOW: Duration = Duration::from_millis(200);
/// How much longer a slow result is used.
const STALE_MAX: Duration = Duration::from_secs(10);
/// After which multiple of its cost an expensive result is renewed without a caller, and the bounds
/// of that time.
const RENEWED_COSTS: u32 = 40;
const RENEWED_AFTER_MIN: Duration = Duration::from_secs(10);
const RENEWED_AFTER_MAX: Duration = Duration::from_mins(1);

/// A result, when its computation began, and the processor time that it took.
#[derive(Debug)]
pub struct Computed<T> {
    pub value: T,
    pub began: Instant,
    pub cost: Duration,
}

impl<T> Computed<T> {
    /// Whether it is reused instead of a new one.
    fn is_current(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) < reused_for(self.cost)
    }

    /// Whether a caller may get it while a new one is computed.
    fn is_usable(&self, now: Instant) -> bool {
        let usable_for = if self.cost >= SLOW {
            renewed_after(self.cost) + STALE_MAX
        } else {
            reused_for(self.cost)
        };
        now.saturating_duration_since(self.began) < usable_for
    }

    /// Whether it must be renewed without a caller.
    fn is_due(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.began);
        self.cost > CHEAP && age >= renewed_after(self.cost)
    }
}

fn renewed_after(cost: Duration) -> Duration {
    let after = (cost * RENEWED_COSTS).clamp(RENEWED_AFTER_MIN, RENEWED_AFTER_MAX);
    after.max(reused_for(cost))
}

fn reused_for(cost: Duration) -> Duration {
    if cost <= CHEAP {
        return Duration::ZERO;
    }
    let reused = (cost * REUSED_COSTS).min(REUSED_MAX);
    reused.max(cost * REUSED_COSTS_MIN)
}

/// The last result, and the callers that wait for the next one.
pub struct SharedResult<T, W> {
    last: ArcSwapOption<Computed<T>>,
    queue: Mutex<ResultQueue<W>>,
}

struct ResultQueue<W> {
    waiting: Vec<W>,
    /// The callers that the running computation is for.
    served: Vec<W>,
    is_running: bool,
}

impl<T, W> Default for SharedResult<T, W> {
    fn default() -> Self {
        Self {
            last: ArcSwapOption::empty(),
            queue: Mutex::new(ResultQueue {
                waiting: Vec::new(),
                served: Vec::new(),
                is_running: false,
            }),
        }
    }
}

/// What a caller gets.
pub enum SharedLookup<T> {
    /// A result. With `renew` the caller must start the next computation.
    Known(Arc<Computed<T>>, Renew),
    /// The caller waits. With `renew` it must start the computation.
    Waits(Renew),
}

/// Whether the caller must start a computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renew(pub bool);

impl<T, W> SharedResult<T, W> {
    /// The last result if it has what the caller wants; else the caller waits as `waiter`.
    pub fn get(
        &self,
        now: Instant,
        has: impl FnOnce(&T) -> bool,
        waiter: impl FnOnce() -> W,
    ) -> SharedLookup<T> {
        let last = self.last.load();
        let known = last
            .as_ref()
            .filter(|last| last.is_usable(now) && has(&last.value));
        let mut queue = self.queue.lock();
        let is_current = known.is_some_and(|known| known.is_current(now));
        let renew = Renew(!is_current && !queue.is_running);
        queue.is_running |= renew.0;
        if let Some(known) = known {
            return SharedLookup::Known(known.clone(), renew);
        }
        queue.waiting.push(waiter());
        SharedLookup::Waits(renew)
    }

    /// The last result if it was expensive and is not too old, without waiting for another one.
    pub fn peek(&self, now: Instant) -> (Option<Arc<Computed<T>>>, Renew) {
        let last = self.last.load_full();
        let known = last.filter(|last| {
            let age = now.saturating_duration_since(last.began);
            last.cost > CHEAP && age < reused_for(last.cost) + STALE_MAX
        });
        let is_current = known.as_ref().is_some_and(|known| known.is_current(now));
        let mut queue = self.queue.lock();
        let renew = Renew(!is_current && !queue.is_running);
        queue.is_running |= renew.0;
        (known, renew)
    }

    /// Whether a computation must begin without a caller: the last result is due, or there is
    /// none.
    pub fn renew_by_itself(&self, now: Instant) -> Renew {
        let last = self.last.load();
        let is_due = last.as_ref().is_none_or(|last| last.is_due(now));
        let mut queue = self.queue.lock();
        let renew = Renew(is_due && !queue.is_running);
        queue.is_running |= renew.0;
        renew
    }

    /// The last result if callers may get it while a new one is computed.
    pub fn usable(&self, now: Instant) -> Option<Arc<Computed<T>>> {
        let last = self.last.load_full();
        last.filter(|last| last.is_usable(now))
    }

    /// The last result, however old.
    pub fn last(&self) -> Option<Arc<Computed<T>>> {
        self.last.load_full()
    }

    /// Begins a computation for the callers that wait by now. Returns the last result if that will
    /// do for them.
    pub fn begin(&self, now: Instant) -> Option<Arc<Computed<T>>> {
        let mut queue = self.queue.lock();
        let waiting = std::mem::take(&mut queue.waiting);
        queue.served.extend(waiting);
        drop(queue);
        let last = self.last.load_full();
        last.filter(|last| last.is_current(now))
    }

    /// Takes the callers that the running computation is for.
    pub fn served(&self) -> Vec<W> {
        std::mem::take(&mut self.queue.lock().served)
    }

    /// Stores a result.
    pub fn store(&self, computed: Arc<Computed<T>>) {
        self.last.store(Some(computed));
    }

    /// Ends a computation. Returns true if callers wait: then the next one must begin.
    pub fn end(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.is_running = !queue.waiting.is_empty();
        queue.is_running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn expensive_results_are_reused_and_cheap_ones_are_not() {
        for (cost_ms, reused_ms, usable_ms) in [
            (0, 0, 0),
            (10, 0, 0),
            (20, 400, 400),
            (130, 2000, 2000),
            (200, 2000, 20_000),
            (1000, 4000, 50_000),
            (4000, 16_000, 70_000),
            (30_000, 120_000, 130_000),
        ] {
            let began = Instant::now();
            let result = Computed {
                value: (),
                began,
                cost: cost_ms * MS,
            };
            for (age_ms, of) in [(reused_ms, "reused"), (usable_ms, "usable")] {
                let is = |age: Duration| match of {
                    "reused" => result.is_current(began + age),
                    _ => result.is_usable(began + age),
                };
                assert!(!is(age_ms * MS), "{cost_ms} ms is {of} too long");
                if age_ms > 0 {
                    assert!(is((age_ms - 1) * MS), "{cost_ms} ms is not {of}");
                }
            }
            // It takes at most a quarter of a processor.
            assert!(cost_ms <= 10 || cost_ms * 4 <= reused_ms, "{cost_ms}");
        }
    }

    #[test]
    fn expensive_results_are_renewed_without_callers() {
        let shared: SharedResult<u32, u8> = SharedResult::default();
        let began = Instant::now();
        let is_due = |age: Duration| {
            let renew = shared.renew_by_itself(began + age);
            if renew.0 {
                assert!(!shared.end(), "no caller waits");
            }
            renew.0
        };
        assert!(is_due(Duration::ZERO), "there is none");
        for (cost_ms, due_ms) in [
            (10, None),
            (11, Some(10_000)),
            (200, Some(10_000)),
            (1000, Some(40_000)),
            (4000, Some(60_000)),
            (30_000, Some(120_000)),
        ] {
            shared.store(Arc::new(Computed {
                value: 1,
                began,
                cost: cost_ms * MS,
            }));
            match due_ms {
                None => assert!(!is_due(3_600_000 * MS), "{cost_ms} ms is cheap"),
                Some(due_ms) => {
                    assert!(!is_due((due_ms - 1) * MS), "{cost_ms} ms is due too early");
                    assert!(is_due(due_ms * MS), "{cost_ms} ms is not due");
                    // A slow one can be used until it was renewed.
                    let usable = shared.usable(began + due_ms * MS).is_some();
                    assert_eq!(usable, cost_ms >= 200, "{cost_ms} ms");
                }
            }
        }
        let running = shared.get(began + 3_600_000 * MS, |_| true, || 1);
        assert!(matches!(running, SharedLookup::Waits(Renew(true))));
        assert!(!is_due(3_600_000 * MS), "one is started");
    }

    /// Looks a result up; the new one if the caller has to start a computation.
    fn get(shared: &SharedResult<u32, u8>, now: Instant, waiter: u8) -> (Option<u32>, bool) {
        match shared.get(now, |_| true, || waiter) {
            SharedLookup::Known(known, renew) => (Some(known.value), renew.0),
            SharedLookup::Waits(renew) => (None, renew.0),
        }
    }

    #[test]
    fn old_results_are_peeked_at_while_a_new_one_is_computed() {
        let shared: SharedResult<u32, u8> = SharedResult::default();
        let now = Instant::now();
        let peek = |age: Duration| {
            let (known, renew) = shared.peek(now + age);
            (known.map(|known| known.value), renew.0)
        };
        assert_eq!(peek(MS), (None, true));
        assert_eq!(peek(MS), (None, false), "one is started");
        let store = |value, cost| {
            shared.store(Arc::new(Computed {
                value,
                began: now,
                cost,
            }));
            assert!(!shared.end());
        };
        store(1, 10 * MS);
        assert_eq!(peek(Duration::ZERO), (None, true), "a cheap result");
        store(2, 100 * MS);
        assert_eq!(peek(1999 * MS), (Some(2), false));
        assert_eq!(peek(2000 * MS), (Some(2), true));
        assert_eq!(peek(11_999 * MS), (Some(2), false));
        assert_eq!(peek(12_000 * MS), (None, false));
    }

    #[test]
    fn callers_that_wait_share_one_computation() {
        let shared: SharedResult<u32, u8> = SharedResult::default();
        let now = Instant::now();
        assert_eq!(get(&shared, now, 1), (None, true));
        assert_eq!(get(&shared, now, 2), (None, false), "one is started");
        assert!(shared.begin(now).is_none());
        // One that comes while it runs gets a later one.
        assert_eq!(get(&shared, now, 3), (None, false));
        shared.store(Arc::new(Computed {
            value: 7,
            began: now,
            cost: MS,
        }));
        assert_eq!(shared.served(), [1, 2]);
        assert!(shared.end(), "a caller waits");
        assert!(shared.begin(now).is_none(), "a cheap result");
        assert_eq!(shared.served(), [3]);
        let expensive = Computed {
            value: 8,
            began: now,
            cost: 300 * MS,
        };
        assert_eq!(get(&shared, now, 4), (None, false));
        shared.store(Arc::new(expensive));
        assert!(shared.end());
        let last = shared.begin(now).map(|last| last.value);
        assert_eq!(last, Some(8), "an expensive one will do");
        assert_eq!(shared.served(), [4]);
        assert!(!shared.end());
        // It is reused, then once more while the next one is computed, then not any more.
        assert_eq!(get(&shared, now + 1999 * MS, 5), (Some(8), false));
        assert_eq!(get(&shared, now + 2000 * MS, 5), (Some(8), true));
        assert_eq!(get(&shared, now + 2001 * MS, 5), (Some(8), false));
        assert_eq!(get(&shared, now + 22_000 * MS, 6), (None, false));
        assert!(shared.begin(now + 22_000 * MS).is_none());
        assert_eq!(shared.served(), [6]);
        assert!(!shared.end());
        // Without a result the next caller starts again.
        assert_eq!(get(&shared, now + 22_000 * MS, 7), (None, true));
    }
}
