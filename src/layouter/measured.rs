//! Measured bitrates of streams, for those that claim none.
//!
//! Streamers report the bitrate of each stream every few seconds, and it fluctuates. The engine
//! gets a smoothed value, rounded up: the first measurement, and afterwards only large changes, at
//! most one per ten minutes. So an idle cluster has intervals without any change. A bitrate of zero
//! is ignored: a stream keeps the capacity it needed when it last ran.
//!
//! A measurement may be wrong by any factor. It counts as no more than the node's own bandwidth and
//! twice the smoothed value before, and the first as no more than four times the assumed bitrate,
//! so a single wrong one changes nothing that lasts.
//!
//! Pure: inputs are measurements, outputs are the values for the engine.

use std::collections::HashMap;

use crate::state::name::{Hostname, StreamName};

/// Pause between two samples of a node's streams.
pub const SAMPLE_PAUSE_MS: u64 = 30_000;
/// Weight of a new measurement in the smoothed one, permille.
const ALPHA_PERMILLE: u64 = 200;
/// Pause between two changes of a stream's value for the engine.
const CHANGE_PAUSE_MS: u64 = 600_000;
/// Smaller differences from the engine's value, in permille of it and in kbit/s, are ignored.
const CHANGE_PERMILLE_MIN: u64 = 250;
const CHANGE_KBPS_MIN: u64 = 64;
/// Larger measurements cannot be true and count as this.
const KBPS_MAX: u64 = 10_000_000;
/// The first measurement counts as at most this multiple of the assumed bitrate, a later one as at
/// most this multiple of the smoothed value: then a single peak is below `CHANGE_PERMILLE_MIN`.
const FIRST_FACTOR_MAX: u64 = 4;
const GROWTH_FACTOR_MAX: u64 = 2;
/// The smoothed value may always grow by this much, so that a small one is not stuck.
const GROWTH_KBPS_MIN: u64 = 256;

/// The limits of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct BitrateBounds {
    /// The bitrate that is assumed for a stream without a measurement.
    pub assumed_kbps: u32,
    /// The usable bandwidth of the node, if it has a limit.
    pub node_kbps: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct StreamBitrate {
    /// Smoothed.
    kbps: u32,
    /// The engine's value.
    used_kbps: u32,
    /// When the engine's value changed, seconds.
    used_since: u32,
}

/// The bitrates of all streams, and when each node was sampled.
#[derive(Debug, Default)]
pub struct MeasuredBitrates {
    streams: HashMap<StreamName, StreamBitrate>,
    sampled_ms: HashMap<Hostname, u64>,
}

impl MeasuredBitrates {
    /// Whether the streams of a node are due to be sampled; true once per pause.
    pub fn is_due(&mut self, hostname: &Hostname, now_ms: u64) -> bool {
        let last = self.sampled_ms.get(hostname);
        let due = last.is_none_or(|last| now_ms.saturating_sub(*last) >= SAMPLE_PAUSE_MS);
        if due {
            self.sampled_ms.insert(hostname.clone(), now_ms);
        }
        due
    }

    /// Records a measurement; returns the new value for the engine if it changed.
    pub fn sample(
        &mut self,
        stream: &StreamName,
        kbps: u64,
        bounds: BitrateBounds,
        now_ms: u64,
    ) -> Option<u32> {
        if kbps == 0 {
            return None;
        }
        let node_kbps = bounds.node_kbps.map_or(KBPS_MAX, u64::from);
        let kbps = kbps.min(KBPS_MAX).min(node_kbps.max(1));
        let now_s = u32::try_from(now_ms / 1000).unwrap_or(u32::MAX);
        let Some(entry) = self.streams.get_mut(stream) else {
            let first_max = u64::from(bounds.assumed_kbps.max(1)) * FIRST_FACTOR_MAX;
            let kbps = kbps.min(first_max);
            let used_kbps = rounded_up(kbps);
            self.streams.insert(
                stream.clone(),
                StreamBitrate {
                    kbps: kbps as u32,
                    used_kbps,
                    used_since: now_s,
                },
            );
            return Some(used_kbps);
        };
        let before = u64::from(entry.kbps);
        let kbps = kbps.min((before * GROWTH_FACTOR_MAX).max(before + GROWTH_KBPS_MIN));
        let smoothed =
            (u64::from(entry.kbps) * (1000 - ALPHA_PERMILLE) + kbps * ALPHA_PERMILLE) / 1000;
        entry.kbps = smoothed as u32;
        let used = u64::from(entry.used_kbps);
        let change = smoothed.abs_diff(used);
        let waited_ms = u64::from(now_s.saturating_sub(entry.used_since)) * 1000;
        if change < CHANGE_KBPS_MIN
            || change * 1000 < used * CHANGE_PERMILLE_MIN
            || waited_ms < CHANGE_PAUSE_MS
        {
            return None;
        }
        entry.used_kbps = rounded_up(smoothed);
        entry.used_since = now_s;
        Some(entry.used_kbps)
    }

    /// The engine's value for a stream.
    pub fn kbps_of(&self, stream: &StreamName) -> Option<u32> {
        self.streams.get(stream).map(|entry| entry.used_kbps)
    }

    pub fn forget(&mut self, stream: &StreamName) {
        self.streams.remove(stream);
    }

    pub fn forget_node(&mut self, hostname: &Hostname) {
        self.sampled_ms.remove(hostname);
    }
}

/// Rounds up to the next of eight steps per doubling.
fn rounded_up(kbps: u64) -> u32 {
    let step = 1_u64 << kbps.max(1).ilog2().saturating_sub(3);
    kbps.next_multiple_of(step) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: BitrateBounds = BitrateBounds {
        assumed_kbps: 2000,
        node_kbps: None,
    };

    fn name() -> StreamName {
        StreamName::trusted("a")
    }

    #[test]
    fn bitrates_are_rounded_up_by_at_most_an_eighth() {
        for kbps in [1, 7, 8, 15, 16, 17, 1000, 2543, 4097, 9_999_999] {
            let rounded = u64::from(rounded_up(kbps));
            assert!(rounded >= kbps && (rounded - kbps) * 8 <= kbps, "{kbps}");
            assert_eq!(u64::from(rounded_up(rounded)), rounded, "{kbps}");
        }
    }

    #[test]
    fn first_measurement_is_used_and_noise_ignored() {
        let mut measured = MeasuredBitrates::default();
        assert_eq!(
            measured.sample(&name(), 0, BOUNDS, 0),
            None,
            "a stream that does not run"
        );
        assert_eq!(measured.sample(&name(), 4000, BOUNDS, 0), Some(4096));
        for step in 1..1000_u64 {
            let kbps = 4000 + step * 7919 % 900;
            let changed = measured.sample(&name(), kbps, BOUNDS, step * SAMPLE_PAUSE_MS);
            assert_eq!(changed, None, "at {step}");
        }
        assert_eq!(measured.kbps_of(&name()), Some(4096));
        measured.forget(&name());
        assert_eq!(measured.kbps_of(&name()), None);
    }

    #[test]
    fn lasting_change_is_used_once_after_the_pause() {
        let mut measured = MeasuredBitrates::default();
        measured.sample(&name(), 4000, BOUNDS, 0);
        let changes: Vec<(u64, u32)> = (1..100)
            .filter_map(|step| {
                let changed = measured.sample(&name(), 8000, BOUNDS, step * SAMPLE_PAUSE_MS)?;
                Some((step, changed))
            })
            .collect();
        // After ten minutes the smoothed value has nearly reached the new one.
        assert_eq!(changes, [(20, 8192)]);
    }

    #[test]
    fn single_peak_of_any_height_is_ignored() {
        for peak in [8000, 60_000, 1_000_000_000_000, u64::MAX] {
            single_peak(peak);
        }
    }

    fn single_peak(peak: u64) {
        let mut measured = MeasuredBitrates::default();
        measured.sample(&name(), 4000, BOUNDS, 0);
        for step in 1..100 {
            let kbps = if step % 40 == 20 { peak } else { 4000 };
            let changed = measured.sample(&name(), kbps, BOUNDS, step * SAMPLE_PAUSE_MS);
            assert_eq!(changed, None, "at {step}");
        }
    }

    #[test]
    fn first_measurement_is_bounded_and_corrected() {
        let bounds = BitrateBounds {
            node_kbps: Some(5000),
            ..BOUNDS
        };
        for (bounds, first) in [(BOUNDS, 8192), (bounds, 5120)] {
            let mut measured = MeasuredBitrates::default();
            let wrong = measured.sample(&name(), u64::MAX, bounds, 0);
            assert_eq!(wrong, Some(first));
            let changes: Vec<u32> = (1..100)
                .filter_map(|step| measured.sample(&name(), 3000, bounds, step * SAMPLE_PAUSE_MS))
                .collect();
            assert_eq!(changes, [3072], "{bounds:?}");
        }
    }

    #[test]
    fn large_streams_reach_their_bitrate_within_the_pause() {
        let mut measured = MeasuredBitrates::default();
        measured.sample(&name(), 40_000, BOUNDS, 0);
        let changes: Vec<(u64, u32)> = (1..100)
            .filter_map(|step| {
                let now_ms = step * SAMPLE_PAUSE_MS;
                let changed = measured.sample(&name(), 40_000, BOUNDS, now_ms)?;
                Some((step, changed))
            })
            .collect();
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert_eq!(changes[0].0, 20);
        assert!(changes[0].1 > 36_000, "{changes:?}");
    }

    #[test]
    fn nodes_are_sampled_once_per_pause() {
        let mut measured = MeasuredBitrates::default();
        let host = Hostname::trusted("s1");
        let due = (0..12).filter(|i| measured.is_due(&host, i * 5000)).count();
        assert_eq!(due, 2);
        measured.forget_node(&host);
        assert!(measured.is_due(&host, 55_000));
    }
}
