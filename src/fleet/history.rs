//! Numbers of the past: those of the cluster for a day, those of each streamer for an hour.
//!
//! Kept in memory only, in rings of a fixed size: a step of time has one slot, and a number that is
//! not known then stays unknown. Times are milliseconds since an epoch, on a clock that never steps
//! back; the wall clock only names them, so that a step of it moves all of them alike and never
//! their order. There is no clock here: times are passed in.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{RwLock, RwLockReadGuard};

use crate::limits::HISTORIES_BY_HALF_MINUTE_MAX;
use crate::state::name::Hostname;

/// Numbers of the cluster, in the order of their slots.
pub const CLUSTER_FIELDS: [&str; 12] = [
    "streams",
    "streams_operational",
    "streams_degradated",
    "streams_outage",
    "streams_unplaced",
    "streams_more",
    "streamers",
    "streamers_up",
    "input_kbit",
    "output_kbit",
    "clients",
    "moves_1h",
];

/// Numbers of a streamer, in the order of their slots.
pub const NODE_FIELDS: [&str; 5] = ["cpu", "memory", "input_kbit", "output_kbit", "clients"];

/// Pause between two samples of the cluster.
pub const SAMPLE_MS: u64 = 10_000;
const HOUR_MS: u64 = 3_600_000;
const MINUTE_MS: u64 = 60_000;
const HALF_MINUTE_MS: u64 = 30_000;
/// How long numbers of the cluster are kept by minute, and those of a streamer.
pub const CLUSTER_KEPT_MS: u64 = 24 * HOUR_MS;
pub const NODE_KEPT_MS: u64 = HOUR_MS;
/// Streamers whose numbers are stored before readers may look again.
const STORED_IN_A_ROW: usize = 256;

pub type ClusterNumbers = [Option<u64>; CLUSTER_FIELDS.len()];
pub type NodeNumbers = [Option<u64>; NODE_FIELDS.len()];

/// A number as it is kept. The largest one stands for unknown.
trait KeptNumber: Copy {
    const UNKNOWN: Self;

    fn of(number: Option<u64>) -> Self;

    fn number(self) -> Option<u64>;
}

impl KeptNumber for u64 {
    const UNKNOWN: Self = u64::MAX;

    fn of(number: Option<u64>) -> Self {
        // Integers of the API have a sign.
        number.map_or(Self::UNKNOWN, |it| it.min(i64::MAX as u64))
    }

    fn number(self) -> Option<u64> {
        (self != Self::UNKNOWN).then_some(self)
    }
}

impl KeptNumber for u32 {
    const UNKNOWN: Self = u32::MAX;

    fn of(number: Option<u64>) -> Self {
        let largest = u64::from(u32::MAX - 1);
        number.map_or(Self::UNKNOWN, |it| it.min(largest) as u32)
    }

    fn number(self) -> Option<u64> {
        (self != Self::UNKNOWN).then_some(self.into())
    }
}

/// The newest steps of a series of `N` numbers.
#[derive(Debug)]
struct Ring<T, const N: usize> {
    step_ms: u64,
    slots: Box<[[T; N]]>,
    /// The newest step that was stored.
    newest: Option<u64>,
}

impl<T: KeptNumber, const N: usize> Ring<T, N> {
    fn new(step_ms: u64, kept_ms: u64) -> Self {
        let slots = vec![[T::UNKNOWN; N]; (kept_ms / step_ms) as usize];
        Self {
            step_ms,
            slots: slots.into(),
            newest: None,
        }
    }

    fn len(&self) -> u64 {
        self.slots.len() as u64
    }

    /// Stores the numbers of a step; the steps between it and the newest one are unknown. One that
    /// is too old is not stored.
    fn put(&mut self, step: u64, numbers: [T; N]) {
        let first = match self.newest {
            Some(newest) if step + self.len() <= newest => return,
            Some(newest) => newest + 1,
            None => step,
        };
        for skipped in first.max((step + 1).saturating_sub(self.len()))..step {
            *self.slot(skipped) = [T::UNKNOWN; N];
        }
        *self.slot(step) = numbers;
        self.newest = self.newest.max(Some(step));
    }

    fn slot(&mut self, step: u64) -> &mut [T; N] {
        &mut self.slots[(step % self.slots.len() as u64) as usize]
    }

    /// The numbers of a step, if it is kept.
    fn get(&self, step: u64) -> Option<[T; N]> {
        let newest = self.newest?;
        let is_kept = step <= newest && step + self.len() > newest;
        is_kept.then(|| self.slots[(step % self.len()) as usize])
    }

    /// The mean of what is known of a number from one time to another. Of a shorter time than a
    /// step it is that of the step which has its beginning.
    fn mean(&self, number: usize, from_ms: u64, to_ms: u64) -> Option<u64> {
        let first = from_ms.div_ceil(self.step_ms);
        let steps = match to_ms.div_ceil(self.step_ms) {
            end if first < end => first..end,
            _ => from_ms / self.step_ms..from_ms / self.step_ms + 1,
        };
        let kept = steps.filter_map(|step| self.get(step)?[number].number());
        let (sum, count) = kept.fold((0_u128, 0_u128), |(sum, count), it| {
            (sum + u128::from(it), count + 1)
        });
        (count > 0).then(|| ((sum + count / 2) / count) as u64)
    }

    fn means(&self, from_ms: u64, to_ms: u64) -> [Option<u64>; N] {
        std::array::from_fn(|number| self.mean(number, from_ms, to_ms))
    }

    /// The same numbers in other steps: the last ones known of each.
    fn in_steps(&self, step_ms: u64, kept_ms: u64) -> Self {
        let mut other = Self::new(step_ms, kept_ms);
        let Some(newest) = self.newest else {
            return other;
        };
        let last = ((newest + 1) * self.step_ms).div_ceil(step_ms);
        for step in last.saturating_sub(other.len())..last {
            let begin = step * step_ms / self.step_ms;
            let end = ((step + 1) * step_ms).div_ceil(self.step_ms);
            let known = |slot: &[T; N]| slot.iter().any(|it| it.number().is_some());
            let mut newest_first = (begin..end).rev().filter_map(|step| self.get(step));
            if let Some(numbers) = newest_first.find(known) {
                other.put(step, numbers);
            }
        }
        other
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }
}

/// The numbers of the cluster.
#[derive(Debug)]
pub struct ClusterHistory {
    samples: Ring<u64, { CLUSTER_FIELDS.len() }>,
    minutes: Ring<u64, { CLUSTER_FIELDS.len() }>,
}

impl Default for ClusterHistory {
    fn default() -> Self {
        Self {
            samples: Ring::new(SAMPLE_MS, HOUR_MS),
            minutes: Ring::new(MINUTE_MS, CLUSTER_KEPT_MS),
        }
    }
}

impl ClusterHistory {
    fn add(&mut self, at_ms: u64, numbers: ClusterNumbers) {
        self.samples.put(at_ms / SAMPLE_MS, numbers.map(u64::of));
        let minute = at_ms / MINUTE_MS;
        let means = self
            .samples
            .means(minute * MINUTE_MS, (minute + 1) * MINUTE_MS);
        self.minutes.put(minute, means.map(u64::of));
    }

    /// The means of all numbers from one time to another.
    pub fn means(&self, from_ms: u64, to_ms: u64) -> ClusterNumbers {
        if to_ms - from_ms < MINUTE_MS {
            self.samples.means(from_ms, to_ms)
        } else {
            self.minutes.means(from_ms, to_ms)
        }
    }
}

/// The numbers of one streamer.
#[derive(Debug)]
pub struct NodeHistory {
    ring: Ring<u32, { NODE_FIELDS.len() }>,
    /// The time of the last report.
    reported_ms: u64,
}

impl NodeHistory {
    fn new(step_ms: u64) -> Self {
        Self {
            ring: Ring::new(step_ms, NODE_KEPT_MS),
            reported_ms: 0,
        }
    }

    /// Stores a report. If the one before was current until then, its numbers were those of the
    /// time in between; otherwise that time stays unknown.
    fn add(&mut self, report: &NodeSample, current_for_ms: u64) {
        let (at_ms, step_ms) = (report.at_ms, self.ring.step_ms);
        let last_ms = std::mem::replace(&mut self.reported_ms, at_ms);
        let (last, step) = (last_ms / step_ms, at_ms / step_ms);
        if at_ms.saturating_sub(last_ms) <= current_for_ms
            && let Some(held) = self.ring.get(last)
        {
            for between in (last + 1).max(step.saturating_sub(self.ring.len()))..step {
                self.ring.put(between, held);
            }
        }
        self.ring.put(step, report.numbers.map(u32::of));
    }

    /// The mean of a number from one time to another.
    pub fn mean(&self, number: usize, from_ms: u64, to_ms: u64) -> Option<u64> {
        self.ring.mean(number, from_ms, to_ms)
    }

    /// The means of all numbers from one time to another.
    pub fn means(&self, from_ms: u64, to_ms: u64) -> NodeNumbers {
        self.ring.means(from_ms, to_ms)
    }
}

/// A report of a streamer.
#[derive(Debug, Clone)]
pub struct NodeSample {
    pub hostname: Hostname,
    pub at_ms: u64,
    pub numbers: NodeNumbers,
}

/// The numbers of the cluster and of all streamers. Written by one thread and read by any.
#[derive(Debug)]
pub struct Histories {
    epoch: Instant,
    /// The time of the epoch by the present wall clock, UTC ms.
    epoch_utc_ms: AtomicU64,
    cluster: RwLock<ClusterHistory>,
    nodes: RwLock<HashMap<Hostname, NodeHistory>>,
    /// Steps of a new streamer.
    step_ms: AtomicU64,
    by_half_minute_max: usize,
}

impl Histories {
    /// `epoch` must not be after any later time; `utc_ms` is what the wall clock shows then.
    pub fn new(epoch: Instant, utc_ms: u64) -> Self {
        Self {
            epoch,
            epoch_utc_ms: AtomicU64::new(utc_ms),
            cluster: RwLock::default(),
            nodes: RwLock::default(),
            step_ms: AtomicU64::new(HALF_MINUTE_MS),
            by_half_minute_max: HISTORIES_BY_HALF_MINUTE_MAX,
        }
    }

    /// A time in milliseconds since the epoch.
    pub fn ms_of(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_millis() as u64
    }

    /// The time of the epoch by the wall clock, UTC ms.
    pub fn epoch_utc_ms(&self) -> u64 {
        self.epoch_utc_ms.load(Ordering::Relaxed)
    }

    /// Follows the wall clock, which shows `utc_ms` at `at_ms`, if it was set.
    pub fn follow_clock(&self, at_ms: u64, utc_ms: u64) {
        // Less is the time between reading two clocks: times would differ with each answer.
        const SET_BY_MS: u64 = 500;
        let epoch_utc_ms = utc_ms.saturating_sub(at_ms);
        if epoch_utc_ms.abs_diff(self.epoch_utc_ms()) >= SET_BY_MS {
            self.epoch_utc_ms.store(epoch_utc_ms, Ordering::Relaxed);
        }
    }

    pub fn add_cluster(&self, at_ms: u64, numbers: ClusterNumbers) {
        self.cluster.write().add(at_ms, numbers);
    }

    /// Stores reports that are newer than the last one of their streamer. A report is current for
    /// `current_for_ms`.
    pub fn add_nodes(&self, reports: &[NodeSample], current_for_ms: u64) {
        let step_ms = self.step_ms.load(Ordering::Relaxed);
        for some in reports.chunks(STORED_IN_A_ROW) {
            let mut nodes = self.nodes.write();
            for report in some {
                if !nodes.contains_key(&report.hostname) {
                    nodes.insert(report.hostname.clone(), NodeHistory::new(step_ms));
                }
                let node = nodes.get_mut(&report.hostname).expect("it is there");
                if node.ring.newest.is_none() || node.reported_ms < report.at_ms {
                    node.add(report, current_for_ms);
                }
            }
        }
    }

    /// Removes what is kept of a streamer.
    pub fn remove_node(&self, hostname: &str) {
        let mut nodes = self.nodes.write();
        nodes.remove(hostname);
        if nodes.len() * 4 < nodes.capacity() {
            nodes.shrink_to_fit();
        }
    }

    /// Changes the steps of all streamers if there are too many of them for short ones, or few
    /// enough again.
    pub fn fit_steps(&self) {
        let step_ms = self.step_ms.load(Ordering::Relaxed);
        let count = self.nodes.read().len();
        let wanted = if count > self.by_half_minute_max {
            MINUTE_MS
        } else if count <= self.by_half_minute_max / 5 * 4 {
            HALF_MINUTE_MS
        } else {
            return;
        };
        if wanted == step_ms {
            return;
        }
        self.step_ms.store(wanted, Ordering::Relaxed);
        let hostnames: Vec<Hostname> = self.nodes.read().keys().cloned().collect();
        for some in hostnames.chunks(STORED_IN_A_ROW) {
            let mut nodes = self.nodes.write();
            for hostname in some {
                if let Some(node) = nodes.get_mut(hostname) {
                    node.ring = node.ring.in_steps(wanted, NODE_KEPT_MS);
                }
            }
        }
    }

    pub fn cluster(&self) -> RwLockReadGuard<'_, ClusterHistory> {
        self.cluster.read()
    }

    /// The streamers, for a moment: none is stored meanwhile.
    pub fn nodes(&self) -> RwLockReadGuard<'_, HashMap<Hostname, NodeHistory>> {
        self.nodes.read()
    }

    /// Bytes of all numbers.
    pub fn bytes(&self) -> u64 {
        let cluster = self.cluster.read();
        let of_cluster = cluster.samples.bytes() + cluster.minutes.bytes();
        let nodes = self.nodes.read();
        let of_nodes: usize = nodes.values().map(|node| node.ring.bytes()).sum();
        (of_cluster + of_nodes) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD_MS: u64 = 60_000;

    fn histories() -> Histories {
        Histories::new(Instant::now(), 1_000)
    }

    fn report(hostname: &str, at_ms: u64, cpu: u64) -> NodeSample {
        NodeSample {
            hostname: Hostname::trusted(hostname),
            at_ms,
            numbers: [Some(cpu), None, None, None, None],
        }
    }

    /// The CPU of a streamer in steps of a length, from the first to one time.
    fn cpu(histories: &Histories, hostname: &str, step_s: u64, to_s: u64) -> Vec<Option<u64>> {
        let nodes = histories.nodes();
        let node = nodes.get(hostname).expect("it reported");
        let steps = (0..to_s / step_s).map(|step| step * step_s * 1000);
        steps
            .map(|at| node.mean(0, at, at + step_s * 1000))
            .collect()
    }

    #[test]
    fn rings_keep_the_newest_steps_and_know_nothing_of_skipped_ones() {
        let mut ring: Ring<u32, 1> = Ring::new(10, 40);
        assert_eq!(ring.get(0), None);
        ring.put(7, [7]);
        assert_eq!(ring.get(6), Some([u32::UNKNOWN]), "before the first one");
        ring.put(9, [9]);
        let kept = |ring: &Ring<u32, 1>, steps: std::ops::Range<u64>| {
            let number = |step| ring.get(step).and_then(|it| it[0].number());
            steps.map(number).collect::<Vec<_>>()
        };
        assert_eq!(
            kept(&ring, 5..11),
            [None, None, Some(7), None, Some(9), None]
        );
        ring.put(8, [8]);
        ring.put(5, [5]);
        assert_eq!(kept(&ring, 5..10), [None, None, Some(7), Some(8), Some(9)]);
        // A long gap leaves nothing of what was before.
        ring.put(1 << 60, [1]);
        let newest = (1 << 60) - 4..(1 << 60) + 1;
        assert_eq!(kept(&ring, newest), [None, None, None, None, Some(1)]);
        assert_eq!(kept(&ring, 5..10), [None; 5]);
    }

    #[test]
    fn means_are_of_what_is_known_only() {
        let mut ring: Ring<u32, 2> = Ring::new(10, 100);
        ring.put(0, [1, u32::UNKNOWN]);
        ring.put(2, [4, u32::UNKNOWN]);
        assert_eq!(ring.means(0, 30), [Some(3), None], "rounded");
        assert_eq!(ring.mean(0, 10, 20), None);
        assert_eq!(ring.mean(0, 25, 28), Some(4), "within a step");
        assert_eq!(ring.mean(0, 30, 90), None);
        ring.put(3, [u32::of(Some(u64::MAX)), 0]);
        assert_eq!(ring.means(30, 40), [Some(u64::from(u32::MAX) - 1), Some(0)]);
    }

    #[test]
    fn silence_is_a_gap_and_a_slow_report_is_none() {
        let histories = histories();
        for (at_s, percent) in [(5, 10), (25, 20), (80, 30), (300, 40), (301, 50)] {
            let report = report("s1", at_s * 1000, percent);
            histories.add_nodes(&[report], DEAD_MS);
        }
        let expected = [
            Some(20),
            // 20 % was current for a minute.
            Some(20),
            Some(30),
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            Some(50),
        ];
        assert_eq!(cpu(&histories, "s1", 30, 330), expected);
        let by_minute = [Some(20), Some(30), None, None, None, Some(50)];
        assert_eq!(cpu(&histories, "s1", 60, 360), by_minute);
        // The same report, and one that was overtaken.
        for (at_s, percent) in [(301, 99), (299, 99)] {
            histories.add_nodes(&[report("s1", at_s * 1000, percent)], DEAD_MS);
        }
        assert_eq!(cpu(&histories, "s1", 30, 330), expected);
    }

    #[test]
    fn report_after_a_long_timeout_fills_an_hour_at_most() {
        let histories = histories();
        let day_ms = 24 * HOUR_MS;
        histories.add_nodes(&[report("s1", 0, 10)], 10 * day_ms);
        histories.add_nodes(&[report("s1", 9 * day_ms, 20)], 10 * day_ms);
        let nodes = histories.nodes();
        let node = nodes.get("s1").expect("it reported");
        let at = |ms| node.mean(0, 9 * day_ms - ms, 9 * day_ms - ms + 1);
        assert_eq!(at(HOUR_MS), None);
        assert_eq!(at(HOUR_MS - HALF_MINUTE_MS), Some(10));
        assert_eq!(at(HALF_MINUTE_MS), Some(10));
        assert_eq!(at(0), Some(20));
    }

    #[test]
    fn removed_streamer_begins_again() {
        let histories = histories();
        histories.add_nodes(&[report("s1", 40_000, 10)], DEAD_MS);
        histories.remove_node("s1");
        assert!(histories.nodes().is_empty());
        histories.add_nodes(&[report("s1", 70_000, 20)], DEAD_MS);
        assert_eq!(cpu(&histories, "s1", 30, 90), [None, None, Some(20)]);
    }

    #[test]
    fn cluster_is_kept_by_sample_and_by_minute() {
        let histories = histories();
        let numbers = |streams| {
            let mut numbers = ClusterNumbers::default();
            numbers[0] = streams;
            numbers
        };
        for (at_s, streams) in [(0, 1), (10, 2), (20, 6), (70, 8), (7200, 9)] {
            histories.add_cluster(at_s * 1000, numbers(Some(streams)));
        }
        let at = |at_s: u64, step_s: u64| {
            let cluster = histories.cluster();
            cluster.means(at_s * 1000, (at_s + step_s) * 1000)[0]
        };
        assert_eq!(at(7200, 10), Some(9));
        assert_eq!(at(10, 10), None, "too old");
        assert_eq!((at(0, 60), at(60, 60)), (Some(3), Some(8)));
        assert_eq!(at(0, 300), Some(6), "the mean of two minutes");
        assert_eq!(at(120, 60), None);
        assert_eq!(histories.cluster().means(0, 60_000)[1], None);
    }

    #[test]
    fn clock_that_is_set_moves_all_times_alike() {
        let histories = histories();
        assert_eq!(histories.epoch_utc_ms(), 1_000);
        histories.follow_clock(5_000, 6_400);
        assert_eq!(histories.epoch_utc_ms(), 1_000, "read a moment later");
        histories.follow_clock(5_000, 66_000);
        assert_eq!(histories.epoch_utc_ms(), 61_000);
        histories.follow_clock(65_000, 65_010);
        assert_eq!(histories.epoch_utc_ms(), 10, "it was set back");
        histories.follow_clock(65_000, 90_000);
        histories.follow_clock(65_000, 10);
        assert_eq!(histories.epoch_utc_ms(), 0, "before 1970");
    }

    #[test]
    fn steps_follow_the_number_of_streamers() {
        let histories = Histories {
            by_half_minute_max: 10,
            ..histories()
        };
        let bytes = histories.bytes();
        let report_all = |hosts: std::ops::Range<u64>, at_s: u64| {
            let reports = hosts.map(|host| report(&format!("s{host}"), at_s * 1000, at_s));
            let reports: Vec<NodeSample> = reports.collect();
            histories.add_nodes(&reports, DEAD_MS);
            histories.fit_steps();
        };
        for at_s in [0, 30, 60, 150] {
            report_all(0..10, at_s);
        }
        assert_eq!(histories.bytes() - bytes, 10 * 2400);
        let half_minutes = [Some(0), Some(30), Some(60), None, None, Some(150)];
        assert_eq!(cpu(&histories, "s1", 30, 180), half_minutes);
        report_all(10..11, 170);
        assert_eq!(histories.bytes() - bytes, 11 * 1200);
        assert_eq!(
            cpu(&histories, "s1", 60, 180),
            [Some(30), Some(60), Some(150)]
        );
        histories.remove_node("s10");
        histories.fit_steps();
        assert_eq!(histories.bytes() - bytes, 10 * 1200, "not at once");
        for host in 8..10 {
            histories.remove_node(&format!("s{host}"));
        }
        histories.fit_steps();
        assert_eq!(histories.bytes() - bytes, 8 * 2400);
        let halves = [30, 30, 60, 60, 150, 150].map(Some);
        assert_eq!(cpu(&histories, "s1", 30, 180), halves);
        report_all(0..8, 185);
        assert_eq!(cpu(&histories, "s1", 30, 210)[5..], [Some(150), Some(185)]);
    }
}
