//! Budgets: how many slots may move per interval, for each kind of move that can wait.

use super::Engine;
use super::event::EngineSettings;

const HOUR_MS: u64 = 3_600_000;

/// A token bucket that fills up once per interval.
#[derive(Clone, Debug, Default)]
pub struct TokenBucket {
    cap: u32,
    left: u32,
    /// Remainder of `cap * elapsed / interval` that is not a whole token yet.
    carry: u64,
}

impl TokenBucket {
    fn full(cap: u32) -> Self {
        Self {
            cap,
            left: cap,
            carry: 0,
        }
    }

    fn set_cap(&mut self, cap: u32) {
        if cap > self.cap {
            self.left += cap - self.cap;
        }
        self.cap = cap;
        self.left = self.left.min(cap);
    }

    fn refill(&mut self, elapsed_ms: u64, interval_ms: u64) {
        let parts = u64::from(self.cap) * elapsed_ms.min(interval_ms) + self.carry;
        self.left = (u64::from(self.left) + parts / interval_ms).min(u64::from(self.cap)) as u32;
        self.carry = if self.left == self.cap {
            0
        } else {
            parts % interval_ms
        };
    }

    pub fn left(&self) -> u32 {
        self.left
    }

    pub fn take(&mut self, count: u32) {
        self.left = self.left.saturating_sub(count);
    }
}

#[derive(Clone, Debug)]
pub struct Budgets {
    pub make_room: TokenBucket,
    pub restore: TokenBucket,
    pub preferred: TokenBucket,
    pub rebalance: TokenBucket,
    /// Both of them together, per hour.
    pub hourly: TokenBucket,
}

fn share(streams: u32, per_myriad: u32, least: u32) -> u32 {
    if per_myriad == 0 {
        return 0;
    }
    let share = u64::from(streams) * u64::from(per_myriad) / 10_000;
    share.max(u64::from(least)).min(u64::from(u32::MAX)) as u32
}

impl Budgets {
    pub fn new(settings: &EngineSettings, streams: u32) -> Self {
        let (preferred, rebalance) = Self::shares(settings, streams);
        Self {
            make_room: TokenBucket::full(settings.budgets.make_room_moves_max),
            restore: TokenBucket::full(settings.budgets.restore_moves_max),
            preferred: TokenBucket::full(preferred),
            rebalance: TokenBucket::full(rebalance),
            hourly: TokenBucket::full(Self::per_hour(settings, streams)),
        }
    }

    fn shares(settings: &EngineSettings, streams: u32) -> (u32, u32) {
        let least = settings.budgets.optional_moves_min;
        (
            share(streams, settings.budgets.preferred_moves_per_myriad, least),
            share(streams, settings.budgets.rebalance_moves_per_myriad, least),
        )
    }

    fn per_hour(settings: &EngineSettings, streams: u32) -> u32 {
        let budgets = &settings.budgets;
        let per_myriad = budgets.improving_permille_per_hour * 10;
        share(streams, per_myriad, budgets.improving_moves_min)
    }

    /// Moves for wishes that are left in this interval and this hour.
    pub fn preferred_left(&self) -> u32 {
        self.preferred.left().min(self.hourly.left())
    }

    /// Moves for balance that are left in this interval and this hour.
    pub fn rebalance_left(&self) -> u32 {
        self.rebalance.left().min(self.hourly.left())
    }

    pub fn take_preferred(&mut self, count: u32) {
        self.preferred.take(count);
        self.hourly.take(count);
    }

    pub fn take_rebalance(&mut self, count: u32) {
        self.rebalance.take(count);
        self.hourly.take(count);
    }

    pub fn refill(&mut self, settings: &EngineSettings, streams: u32, elapsed_ms: u64) {
        self.hourly.set_cap(Self::per_hour(settings, streams));
        self.hourly.refill(elapsed_ms, HOUR_MS);
        let (preferred, rebalance) = Self::shares(settings, streams);
        for (bucket, cap) in [
            (&mut self.make_room, settings.budgets.make_room_moves_max),
            (&mut self.restore, settings.budgets.restore_moves_max),
            (&mut self.preferred, preferred),
            (&mut self.rebalance, rebalance),
        ] {
            bucket.set_cap(cap);
            bucket.refill(elapsed_ms, settings.interval_ms.max(1));
        }
    }
}

/// A budget, and what was left of it at the last tick.
pub struct BudgetLeft {
    pub name: &'static str,
    pub left: u32,
    pub limit: u32,
}

impl Engine {
    pub fn budgets_left(&self) -> [BudgetLeft; 5] {
        let budgets = &self.budgets;
        [
            ("improving", &budgets.hourly),
            ("make_room", &budgets.make_room),
            ("preferred", &budgets.preferred),
            ("rebalance", &budgets.rebalance),
            ("restore", &budgets.restore),
        ]
        .map(|(name, bucket)| BudgetLeft {
            name,
            left: bucket.left,
            limit: bucket.cap,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_ticks_refill_no_faster_than_rare_ones() {
        let mut bucket = TokenBucket::full(7);
        bucket.take(7);
        for _ in 0..29 {
            bucket.refill(1_000, 30_000);
        }
        assert_eq!(bucket.left(), 6);
        bucket.refill(1_000, 30_000);
        assert_eq!(bucket.left(), 7);
        bucket.take(100);
        bucket.refill(u64::MAX, 30_000);
        assert_eq!(bucket.left(), 7);
    }
}
