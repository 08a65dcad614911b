//! How much may move per interval, so that an improvement never becomes a storm.

use super::event::Settings;

/// A bucket of tokens that fills up once per interval.
#[derive(Clone, Debug, Default)]
pub struct Bucket {
    cap: u32,
    left: u32,
    /// Of `cap * elapsed / interval`, what did not make a whole token yet.
    carry: u64,
}

impl Bucket {
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
    pub make_room: Bucket,
    pub restore: Bucket,
    pub preferred: Bucket,
    pub rebalance: Bucket,
}

fn share(streams: u32, per_myriad: u32, least: u32) -> u32 {
    if per_myriad == 0 {
        return 0;
    }
    let share = u64::from(streams) * u64::from(per_myriad) / 10_000;
    share.max(u64::from(least)).min(u64::from(u32::MAX)) as u32
}

impl Budgets {
    pub fn new(settings: &Settings, streams: u32) -> Self {
        let (preferred, rebalance) = Self::shares(settings, streams);
        Self {
            make_room: Bucket::full(settings.make_room_moves_max),
            restore: Bucket::full(settings.restore_moves_max),
            preferred: Bucket::full(preferred),
            rebalance: Bucket::full(rebalance),
        }
    }

    fn shares(settings: &Settings, streams: u32) -> (u32, u32) {
        let least = settings.optional_moves_min;
        (
            share(streams, settings.preferred_moves_per_myriad, least),
            share(streams, settings.rebalance_moves_per_myriad, least),
        )
    }

    pub fn refill(&mut self, settings: &Settings, streams: u32, elapsed_ms: u64) {
        let (preferred, rebalance) = Self::shares(settings, streams);
        for (bucket, cap) in [
            (&mut self.make_room, settings.make_room_moves_max),
            (&mut self.restore, settings.restore_moves_max),
            (&mut self.preferred, preferred),
            (&mut self.rebalance, rebalance),
        ] {
            bucket.set_cap(cap);
            bucket.refill(elapsed_ms, settings.interval_ms.max(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_ticks_refill_no_faster_than_rare_ones() {
        let mut bucket = Bucket::full(7);
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
