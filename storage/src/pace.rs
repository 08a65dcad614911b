//! Pace: how fast the applier writes the tables.
//!
//! Commits wait for the same disk. A pass that writes as fast as it can fills the queue of the disk,
//! and its sync keeps everything else from it; so its writes are spread, and synced as they go. The
//! fuller the log, the faster: a burst of commits is put into the tables at leisure, an endless one
//! at the speed of the disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes per second while the log is nearly empty.
const BASE_RATE: u64 = 64 << 20;
/// How many times as fast it is when the log is full, less one.
const FULL_FACTOR: u64 = 15;
/// Bytes that may be written at once after a pause.
const BURST_BYTES: u64 = 1 << 20;
/// Bytes between two syncs.
const SYNC_BYTES: u64 = 1 << 20;
/// Longest wait of one write: the rate may have risen meanwhile.
const WAIT_MAX: Duration = Duration::from_millis(20);

/// Shared by the applier, which sets the rate, and the file, which keeps to it.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Bytes per second. 0: as fast as possible.
    rate: AtomicU64,
    bucket: Mutex<Bucket>,
    unsynced: AtomicU64,
}

#[derive(Debug, Default)]
struct Bucket {
    bytes: u64,
    filled_at: Option<Instant>,
}

impl Pace {
    /// Keeps the writes to the rate for a log of which `percent` are in use.
    pub fn limit(&self, percent: u64) {
        let rate = BASE_RATE + BASE_RATE * FULL_FACTOR * percent.min(100) / 100;
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// Writes as fast as possible from here on.
    pub fn release(&self) {
        self.rate.store(0, Ordering::Relaxed);
    }

    /// Counts bytes that were written, and waits as long as they need. True if it is time to sync
    /// what was written.
    pub fn spend(&self, bytes: u64) -> bool {
        let mut left = bytes;
        loop {
            let rate = self.rate.load(Ordering::Relaxed);
            if rate == 0 {
                return false;
            }
            let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            let wait = bucket.take(&mut left, rate, Instant::now());
            drop(bucket);
            if left == 0 {
                break;
            }
            std::thread::sleep(wait.min(WAIT_MAX));
        }
        let unsynced = self.unsynced.fetch_add(bytes, Ordering::Relaxed) + bytes;
        unsynced >= SYNC_BYTES
    }

    /// What was written so far is synced.
    pub fn synced(&self) {
        self.unsynced.store(0, Ordering::Relaxed);
    }
}

impl Bucket {
    /// Takes as much of `left` as there is. Returns how long the rest has to wait.
    fn take(&mut self, left: &mut u64, rate: u64, now: Instant) -> Duration {
        let since = self
            .filled_at
            .map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        let gained = (rate as f64 * since.as_secs_f64()).min(BURST_BYTES as f64) as u64;
        if gained > 0 {
            self.bytes = (self.bytes + gained).min(BURST_BYTES);
            self.filled_at = Some(now);
        }
        let taken = self.bytes.min(*left);
        self.bytes -= taken;
        *left -= taken;
        Duration::from_secs_f64(*left as f64 / rate as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_gives_its_rate_after_a_burst() {
        let (mut bucket, began, rate) = (Bucket::default(), Instant::now(), 1 << 20);
        let (mut now, mut taken) = (began, 0);
        while now < began + Duration::from_secs(10) {
            let mut left = 4096;
            let wait = bucket.take(&mut left, rate, now);
            taken += 4096 - left;
            assert!(wait <= Duration::from_millis(4), "{wait:?}");
            now += Duration::from_millis(3);
        }
        let all = BURST_BYTES + 10 * rate;
        assert!((all * 98 / 100..=all).contains(&taken), "{taken} of {all}");
        // A long pause allows one burst, not what it would have been worth.
        let mut left = u64::MAX;
        bucket.take(&mut left, rate, now + Duration::from_secs(1000));
        assert_eq!(u64::MAX - left, BURST_BYTES);
    }

    #[test]
    fn rate_grows_with_the_log() {
        let pace = Pace::default();
        assert!(!pace.spend(u64::MAX), "it does not wait");
        let rate = |percent| {
            pace.limit(percent);
            pace.rate.load(Ordering::Relaxed)
        };
        assert_eq!(
            [rate(0), rate(100), rate(200)],
            [BASE_RATE, 16 * BASE_RATE, 16 * BASE_RATE]
        );
        assert!(!pace.spend(SYNC_BYTES - 1) && pace.spend(1));
        pace.synced();
        assert!(!pace.spend(1));
    }
}
