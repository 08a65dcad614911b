//! What streams really take, for those that claim nothing.
//!
//! Streamers tell the bitrate of each stream every few seconds, and it is never twice the same. The engine is to hear of it when it matters: of a
//! smoothed value, rounded up, when it is first known, and afterwards only when it is far from what was told and some time has passed. So a cluster
//! in which nothing happens has intervals without any change. A stream that gives nothing tells nothing: what it needed when it ran is still kept
//! for it.
//!
//! Pure: it is told measurements and asked what is new.

use std::collections::HashMap;

use crate::state::name::{Hostname, StreamName};

/// A node's streams are looked at this often, whatever it reports.
pub const SAMPLE_PAUSE_MS: u64 = 30_000;
/// Weight of a new measurement in the smoothed one, permille.
const ALPHA_PERMILLE: u64 = 200;
/// A stream is not told again before.
const TELL_PAUSE_MS: u64 = 600_000;
/// And not for a difference that is a smaller part of what was told, permille, or smaller in all.
const CHANGE_PERMILLE_MIN: u64 = 250;
const CHANGE_KBPS_MIN: u64 = 64;
/// Of a measurement that cannot be true only so much is taken.
const KBPS_MAX: u64 = 10_000_000;

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Smoothed, and what the engine was told last.
    kbps: u32,
    told_kbps: u32,
    /// Seconds.
    told_at: u32,
}

#[derive(Debug, Default)]
pub struct Measured {
    streams: HashMap<StreamName, Entry>,
    sampled_ms: HashMap<Hostname, u64>,
}

impl Measured {
    /// Whether it is time to look at the streams of a node. True is said once per pause.
    pub fn is_due(&mut self, hostname: &Hostname, now_ms: u64) -> bool {
        let last = self.sampled_ms.get(hostname);
        let due = last.is_none_or(|last| now_ms.saturating_sub(*last) >= SAMPLE_PAUSE_MS);
        if due {
            self.sampled_ms.insert(hostname.clone(), now_ms);
        }
        due
    }

    /// Takes in a measurement. What the engine is to be told, if anything.
    pub fn sample(&mut self, stream: &StreamName, kbps: u64, now_ms: u64) -> Option<u32> {
        if kbps == 0 {
            return None;
        }
        let kbps = kbps.min(KBPS_MAX);
        let now_s = u32::try_from(now_ms / 1000).unwrap_or(u32::MAX);
        let Some(entry) = self.streams.get_mut(stream) else {
            let told_kbps = rounded_up(kbps);
            self.streams.insert(
                stream.clone(),
                Entry {
                    kbps: kbps as u32,
                    told_kbps,
                    told_at: now_s,
                },
            );
            return Some(told_kbps);
        };
        let smoothed =
            (u64::from(entry.kbps) * (1000 - ALPHA_PERMILLE) + kbps * ALPHA_PERMILLE) / 1000;
        entry.kbps = smoothed as u32;
        let told = u64::from(entry.told_kbps);
        let change = smoothed.abs_diff(told);
        let waited_ms = u64::from(now_s.saturating_sub(entry.told_at)) * 1000;
        if change < CHANGE_KBPS_MIN
            || change * 1000 < told * CHANGE_PERMILLE_MIN
            || waited_ms < TELL_PAUSE_MS
        {
            return None;
        }
        entry.told_kbps = rounded_up(smoothed);
        entry.told_at = now_s;
        Some(entry.told_kbps)
    }

    /// What the engine was told of a stream.
    pub fn told(&self, stream: &StreamName) -> Option<u32> {
        self.streams.get(stream).map(|entry| entry.told_kbps)
    }

    pub fn forget(&mut self, stream: &StreamName) {
        self.streams.remove(stream);
    }

    pub fn forget_node(&mut self, hostname: &Hostname) {
        self.sampled_ms.remove(hostname);
    }
}

/// To the next of eight steps per doubling.
fn rounded_up(kbps: u64) -> u32 {
    let step = 1_u64 << kbps.max(1).ilog2().saturating_sub(3);
    kbps.next_multiple_of(step) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> StreamName {
        StreamName::trusted("a")
    }

    #[test]
    fn values_are_rounded_up_by_an_eighth_at_most() {
        for kbps in [1, 7, 8, 15, 16, 17, 1000, 2543, 4097, 9_999_999] {
            let rounded = u64::from(rounded_up(kbps));
            assert!(rounded >= kbps && (rounded - kbps) * 8 <= kbps, "{kbps}");
            assert_eq!(u64::from(rounded_up(rounded)), rounded, "{kbps}");
        }
    }

    #[test]
    fn the_first_measurement_is_told_and_noise_is_not() {
        let mut measured = Measured::default();
        assert_eq!(measured.sample(&name(), 0, 0), None, "it gives nothing");
        assert_eq!(measured.sample(&name(), 4000, 0), Some(4096));
        for step in 1..1000_u64 {
            let kbps = 4000 + step * 7919 % 900;
            let told = measured.sample(&name(), kbps, step * SAMPLE_PAUSE_MS);
            assert_eq!(told, None, "at {step}");
        }
        assert_eq!(measured.told(&name()), Some(4096));
        measured.forget(&name());
        assert_eq!(measured.told(&name()), None);
    }

    #[test]
    fn a_lasting_change_is_told_once_and_not_at_once() {
        let mut measured = Measured::default();
        measured.sample(&name(), 4000, 0);
        let told: Vec<(u64, u32)> = (1..100)
            .filter_map(|step| {
                let told = measured.sample(&name(), 8000, step * SAMPLE_PAUSE_MS)?;
                Some((step, told))
            })
            .collect();
        // After ten minutes the smoothed value is as good as there.
        assert_eq!(told, [(20, 8192)]);
    }

    #[test]
    fn one_peak_is_not_told() {
        let mut measured = Measured::default();
        measured.sample(&name(), 4000, 0);
        for step in 1..100 {
            let kbps = if step % 40 == 20 { 8000 } else { 4000 };
            let told = measured.sample(&name(), kbps, step * SAMPLE_PAUSE_MS);
            assert_eq!(told, None, "at {step}");
        }
    }

    #[test]
    fn nodes_are_looked_at_once_per_pause() {
        let mut measured = Measured::default();
        let host = Hostname::trusted("s1");
        let due = (0..12).filter(|i| measured.is_due(&host, i * 5000)).count();
        assert_eq!(due, 2);
        measured.forget_node(&host);
        assert!(measured.is_due(&host, 55_000));
    }
}
