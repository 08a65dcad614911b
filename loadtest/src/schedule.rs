//! When things are meant to happen. Pure arithmetic: the caller brings the time.
//!
//! Arrivals are open-loop: a request is due at its place on the time line however slow the server
//! is, and its latency counts from there. A server (or client) that stalls for a second is
//! therefore charged for every request that the second should have seen, not for one.

/// Nanoseconds since the run's origin.
pub type Nanos = u64;

pub const SECOND: Nanos = 1_000_000_000;

/// A constant rate, without drift: the n-th arrival is computed from n.
#[derive(Clone, Debug)]
pub struct Arrivals {
    start: Nanos,
    end: Nanos,
    rate: f64,
    /// Share of an interval by which this source is shifted against others of the same rate.
    phase: f64,
    count: u64,
    count_max: u64,
}

impl Arrivals {
    /// `rate` per second from `start` until `end`, at most `count_max` in all.
    pub fn new(start: Nanos, end: Nanos, rate: f64, phase: f64, count_max: u64) -> Arrivals {
        assert!(rate > 0.0, "a rate is positive");
        Arrivals {
            start,
            end,
            rate,
            phase,
            count: 0,
            count_max,
        }
    }

    /// The next intended time; none when all are over.
    pub fn next_due(&self) -> Option<Nanos> {
        let due =
            self.start + ((self.count as f64 + self.phase) * SECOND as f64 / self.rate) as Nanos;
        (self.count < self.count_max && due < self.end).then_some(due)
    }

    /// Takes one arrival that is due at `now`: its intended time.
    pub fn take(&mut self, now: Nanos) -> Option<Nanos> {
        let due = self.next_due().filter(|due| *due <= now)?;
        self.count += 1;
        Some(due)
    }
}

/// Which part of a run counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub warm_end: Nanos,
    pub end: Nanos,
}

impl Window {
    pub fn new(begin: Nanos, warm_up: Nanos, duration: Nanos) -> Window {
        Window {
            warm_end: begin + warm_up,
            end: begin + warm_up + duration,
        }
    }

    /// A request counts by when it was meant to be sent: one that was meant in the window and
    /// answered long after it is the very one that must not be lost.
    pub fn counts(&self, intended: Nanos) -> bool {
        (self.warm_end..self.end).contains(&intended)
    }
}

/// The times one streamer polls at: every `interval`, with its own phase, each poll shifted by up
/// to a tenth either way.
pub fn poll_at(base: Nanos, interval: Nanos, agent: u64, count: u64) -> Nanos {
    let unit = |n: u64| (crate::seed::mix(n) >> 11) as f64 / (1u64 << 53) as f64;
    let phase = unit(agent.wrapping_mul(0x1000_0001)) * interval as f64;
    let jitter =
        (unit(agent.rotate_left(32) ^ count.wrapping_add(0x5bd1)) - 0.5) * 0.2 * interval as f64;
    base + (count as f64 * interval as f64 + phase + jitter + 0.1 * interval as f64) as Nanos
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    #[test]
    fn a_stall_is_charged_to_every_arrival_it_delayed() {
        let mut arrivals = Arrivals::new(10 * MS, SECOND + 10 * MS, 1000.0, 0.0, u64::MAX);
        assert_eq!(arrivals.take(9 * MS), None, "not yet");
        assert_eq!(arrivals.take(10 * MS), Some(10 * MS));
        assert_eq!(arrivals.take(10 * MS), None, "each once");
        // The clock jumps by 100 ms: 100 arrivals come out at once, each with the time it was meant
        // for.
        let intended: Vec<Nanos> = std::iter::from_fn(|| arrivals.take(110 * MS)).collect();
        assert_eq!(intended.len(), 100);
        assert!(
            intended
                .iter()
                .enumerate()
                .all(|(i, due)| *due == (11 + i as u64) * MS)
        );
        let mean = intended.iter().map(|due| 110 * MS - due).sum::<Nanos>() / 100;
        assert_eq!(
            mean,
            49 * MS + MS / 2,
            "the latencies a closed loop would have hidden"
        );
    }

    #[test]
    fn rate_is_exact_over_a_long_run() {
        let mut arrivals = Arrivals::new(0, 3600 * SECOND, 333.0, 0.5, 1_000_000);
        let mut count = 0u64;
        let mut last = 0;
        while let Some(due) = arrivals.next_due() {
            assert_eq!(arrivals.take(due), Some(due));
            assert!(due >= last);
            last = due;
            count += 1;
        }
        assert_eq!(count, 1_000_000);
        let expected = 999_999.5 / 333.0;
        assert!((last as f64 / SECOND as f64 - expected).abs() < 1e-6);
        let mut short = Arrivals::new(0, SECOND, 10.0, 0.0, u64::MAX);
        assert_eq!(
            std::iter::from_fn(|| short.take(u64::MAX)).count(),
            10,
            "the end of the window ends it too"
        );
    }

    #[test]
    fn warm_up_does_not_count_and_the_intended_time_decides() {
        let window = Window::new(100, 50, 1000);
        assert!(
            !window.counts(149)
                && window.counts(150)
                && window.counts(1149)
                && !window.counts(1150)
        );
    }

    #[test]
    fn streamers_poll_at_their_interval_and_not_together() {
        let interval = 5 * SECOND;
        let mut first: Vec<Nanos> = (0..1000)
            .map(|agent| poll_at(0, interval, agent, 0))
            .collect();
        first.sort_unstable();
        let quarter = first.iter().filter(|t| **t < interval / 4).count();
        assert!(
            (150..350).contains(&quarter),
            "phases are spread: {quarter}"
        );
        for agent in 0..100 {
            for count in 0..100 {
                let gap =
                    poll_at(0, interval, agent, count + 1) - poll_at(0, interval, agent, count);
                assert!(gap > interval * 79 / 100 && gap < interval * 121 / 100);
            }
        }
    }
}
