//! Slows guessing: counts wrong credentials by the address of the client.
//!
//! Beyond some failures in a second, further failures of an address are answered 429 after a delay.
//! Right credentials are accepted all the time, so that a client that guesses cannot lock out
//! others behind the same address. Logging in is stricter: an address with too many failures may
//! not try at all for a while. Memory is bounded: above the limit, further addresses share one
//! count, by which none of them is kept from trying.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::subnet::counted_address;

/// Failures of one address in a second that are answered at once.
pub const FAILURES_PER_SECOND_MAX: u32 = 10;
/// How long the answer to a further failure is delayed.
pub const FAILURE_DELAY: Duration = Duration::from_secs(1);
/// Addresses that are counted apart, about 64 bytes each.
const ADDRESSES_MAX: usize = 4096;
const WINDOW: Duration = Duration::from_secs(1);

/// How many failures of one address are allowed in a time.
#[derive(Clone, Copy, Debug)]
pub struct FailureLimit {
    pub failures_max: u32,
    pub window: Duration,
}

impl Default for FailureLimit {
    fn default() -> Self {
        Self {
            failures_max: FAILURES_PER_SECOND_MAX,
            window: WINDOW,
        }
    }
}

/// The recent failures of all addresses.
#[derive(Default)]
pub struct FailedCredentials {
    limit: FailureLimit,
    addresses: HashMap<IpAddr, FailureWindow>,
    /// Of addresses beyond [`ADDRESSES_MAX`].
    others: Option<FailureWindow>,
    delayed: u64,
}

struct FailureWindow {
    since: Instant,
    failures: u32,
}

impl FailureWindow {
    fn add(&mut self, now: Instant, window: Duration) -> u32 {
        if now.duration_since(self.since) >= window {
            *self = Self {
                since: now,
                failures: 0,
            };
        }
        self.failures = self.failures.saturating_add(1);
        self.failures
    }
}

impl FailedCredentials {
    pub fn new(limit: FailureLimit) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// How long further attempts of an address are refused; `None` if they are not. Only failures
    /// of the address itself count.
    pub fn blocked_for(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let failed = self.addresses.get(&counted_address(address))?;
        let age = now.duration_since(failed.since);
        let is_blocked = failed.failures >= self.limit.failures_max && age < self.limit.window;
        is_blocked.then(|| self.limit.window.saturating_sub(age))
    }

    /// Counts a failure. True if it is one too many.
    pub fn add(&mut self, address: IpAddr, now: Instant) -> bool {
        let address = counted_address(address);
        let FailureLimit {
            failures_max,
            window: time,
        } = self.limit;
        let new = || FailureWindow {
            since: now,
            failures: 0,
        };
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&address) {
            let is_recent = |window: &mut FailureWindow| now.duration_since(window.since) < time;
            self.addresses.retain(|_, window| is_recent(window));
        }
        let has_room = self.addresses.len() < ADDRESSES_MAX;
        let failures = if has_room || self.addresses.contains_key(&address) {
            let entry = self.addresses.entry(address);
            entry.or_insert_with(new).add(now, time)
        } else {
            self.others.get_or_insert_with(new).add(now, time)
        };
        let is_too_many = failures > failures_max;
        self.delayed += u64::from(is_too_many);
        is_too_many
    }

    /// Failures that were answered later.
    pub fn delayed(&self) -> u64 {
        self.delayed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_failures() {
        let start = Instant::now();
        let mut failed = FailedCredentials::default();
        let [a, b] = ["198.51.100.1", "198.51.100.2"].map(|text| text.parse().expect("one"));
        for round in 0..3 {
            let now = start + WINDOW * round;
            for failure in 1..=30 {
                let is_too_many = failure > FAILURES_PER_SECOND_MAX;
                assert_eq!(failed.add(a, now), is_too_many, "{round} {failure}");
            }
            assert!(!failed.add(b, now));
        }
        assert_eq!(failed.delayed(), 60);
        let same: [IpAddr; 2] =
            ["2001:db8::1", "2001:db8::ffff:1"].map(|t| t.parse().expect("one"));
        let late = start + WINDOW * 9;
        let counted = (0..20).filter(|at| failed.add(same[at % 2], late)).count();
        assert_eq!(counted, 10);
    }

    #[test]
    fn memory_of_failures_is_bounded() {
        let start = Instant::now();
        let mut failed = FailedCredentials::default();
        let address = |number: usize| IpAddr::from((number as u32).to_be_bytes());
        for number in 0..ADDRESSES_MAX {
            assert!(!failed.add(address(number), start));
        }
        // Further addresses share a count; known ones keep theirs.
        let more = ADDRESSES_MAX..2 * ADDRESSES_MAX;
        let delayed = more
            .filter(|number| failed.add(address(*number), start))
            .count();
        assert_eq!(delayed, ADDRESSES_MAX - FAILURES_PER_SECOND_MAX as usize);
        assert!(!failed.add(address(0), start));
        assert_eq!(failed.addresses.len(), ADDRESSES_MAX);
        // The failures of others keep no address from trying.
        let another = address(9 * ADDRESSES_MAX);
        assert_eq!(failed.blocked_for(another, start), None);
        // When the window is over there is room again.
        assert!(!failed.add(address(5 * ADDRESSES_MAX), start + WINDOW));
        assert_eq!(failed.addresses.len(), 1);
    }
}
