//! Bounded waits: a test waits for a condition, never for time.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for something that must happen. Guards against hanging and implies nothing about
/// speed.
pub const WAIT_MAX: Duration = Duration::from_mins(2);

/// Repeats `look` until its result satisfies `reached`, and returns that result.
///
/// Fails after [`WAIT_MAX`] with the last result. `look` is expected to block for a moment (a
/// request, a receive).
#[track_caller]
pub fn wait_until<T: Debug>(
    what: &str,
    look: impl FnMut() -> T,
    reached: impl Fn(&T) -> bool,
) -> T {
    wait_at_most(WAIT_MAX, what, look, reached)
}

#[track_caller]
fn wait_at_most<T: Debug>(
    longest: Duration,
    what: &str,
    mut look: impl FnMut() -> T,
    reached: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + longest;
    loop {
        let seen = look();
        if reached(&seen) {
            return seen;
        }
        assert!(
            Instant::now() < deadline,
            "not within {longest:?}: {what}; last seen: {seen:?}"
        );
        thread::yield_now();
    }
}

/// Sets a flag when it goes out of scope, so that threads which wait for the flag end after a
/// failure too.
pub struct SetOnDrop<'f>(pub &'f AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_returns_the_first_result_that_fits() {
        let mut count = 0;
        let look = || {
            count += 1;
            count
        };
        assert_eq!(wait_until("three", look, |seen| *seen == 3), 3);
    }

    #[test]
    #[should_panic(expected = "not within 0ns: an answer; last seen: \"silence\"")]
    fn wait_fails_with_what_it_saw() {
        wait_at_most(Duration::ZERO, "an answer", || "silence", |_| false);
    }
}
