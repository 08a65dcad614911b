//! A limit on events about refused handshakes.

use std::time::{Duration, Instant};

/// Refused handshakes in the event log, per core and second: a key-guessing client must not fill
/// it.
const REFUSALS_LOGGED_PER_SECOND: u32 = 10;

/// Limits the events about refused handshakes.
#[derive(Default)]
pub struct Refusals {
    second: Option<Instant>,
    logged: u32,
}

impl Refusals {
    /// Whether one more event may be logged now; counts it.
    pub fn may_log(&mut self) -> bool {
        let now = Instant::now();
        let fresh = self
            .second
            .is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1));
        if fresh {
            self.second = Some(now);
            self.logged = 0;
        }
        self.logged += 1;
        self.logged <= REFUSALS_LOGGED_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_logged_up_to_a_rate() {
        let mut refusals = Refusals::default();
        let logged = (0..1000).filter(|_| refusals.may_log()).count();
        // If another second begins meanwhile, twice as many are allowed.
        assert!((10..1000).contains(&logged), "{logged}");
    }
}
