//! Metrics of the layouter.
//!
//! Written by the layouter's thread only and read by any: independent atomic numbers, and a copy of
//! what it has to do. Counters outlive a rebuilt engine.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::handover::HandoverCause;
use super::{DecisionCounts, LayoutChange, MoveReason};
use crate::metrics::{Exposition, MetricKind, add};

/// Counters and gauges of the layouter.
#[derive(Default)]
pub struct LayouterMetrics {
    enabled: AtomicBool,
    /// Whether a pause holds the improving moves, and everything.
    paused: [AtomicBool; 2],
    pauses: AtomicU64,
    /// By [`MoveReason`], in the order of [`MoveReason::ALL`].
    decided: [AtomicU64; MoveReason::ALL.len()],
    written: AtomicU64,
    overruled: AtomicU64,
    batches_failed: AtomicU64,
    rounds: AtomicU64,
    last_round_ns: AtomicU64,
    slots_waiting: AtomicU64,
    layouts_waiting: AtomicUsize,
    restarts: AtomicU64,
    handovers: AtomicUsize,
    /// By [`HandoverCause`], in the order of [`HandoverCause::ALL`].
    handovers_ended: [AtomicU64; HandoverCause::ALL.len()],
    work: Mutex<LayouterWork>,
}

/// What the layouter has to do, as of its last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayouterWork {
    /// Decided layouts that wait to be written.
    pub urgent: u64,
    pub improving: u64,
    /// Decisions of the last hour.
    pub moves_1h: u64,
    pub is_braked: bool,
    /// Streams that end one streamer after the other and are held.
    pub held_streams: u64,
}

impl LayouterMetrics {
    /// Counts a decision of the engine.
    pub fn count_decision(&self, change: &LayoutChange) {
        if change.from == change.to {
            return;
        }
        let place = MoveReason::ALL
            .iter()
            .position(|reason| *reason == change.reason);
        add(&self.decided[place.expect("all reasons are listed")], 1);
    }

    /// Counts the layouts of a batch that were written, and those refused because their rows had
    /// changed.
    pub fn count_written(&self, layouts: usize, overruled: usize) {
        add(&self.written, layouts as u64);
        add(&self.overruled, overruled as u64);
    }

    /// Counts a batch that was not written at all.
    pub fn count_failed_batch(&self) {
        add(&self.batches_failed, 1);
    }

    /// Counts a tick of the engine and its duration.
    pub fn count_tick(&self, took: Duration) {
        add(&self.rounds, 1);
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.last_round_ns.store(ns, Ordering::Relaxed);
    }

    /// Decisions since the start of the server.
    pub fn decided(&self) -> DecisionCounts {
        std::array::from_fn(|reason| self.decided[reason].load(Ordering::Relaxed))
    }

    /// Decisions after a moment with other counts.
    pub fn decided_since(&self, before: &DecisionCounts) -> DecisionCounts {
        let mut counts = self.decided();
        for (count, before) in counts.iter_mut().zip(before) {
            *count = count.saturating_sub(*before);
        }
        counts
    }

    /// Duration of the last tick.
    pub fn last_tick(&self) -> Duration {
        Duration::from_nanos(self.last_round_ns.load(Ordering::Relaxed))
    }

    /// Counts a restart after a panic.
    pub fn count_restart(&self) {
        add(&self.restarts, 1);
    }

    /// Counts the begin of a pause.
    pub fn count_pause(&self) {
        add(&self.pauses, 1);
    }

    /// Sets the gauges of pauses: of the improving moves, and of everything.
    pub fn set_paused(&self, improving: bool, all: bool) {
        self.paused[0].store(improving, Ordering::Relaxed);
        self.paused[1].store(all, Ordering::Relaxed);
    }

    /// Sets the gauges: `slots` without a node, `layouts` decided and not written.
    pub fn set_gauges(&self, enabled: bool, slots: u32, layouts: usize) {
        self.enabled.store(enabled, Ordering::Relaxed);
        self.slots_waiting.store(slots.into(), Ordering::Relaxed);
        self.layouts_waiting.store(layouts, Ordering::Relaxed);
    }

    /// Sets what the layouter has to do.
    pub fn set_work(&self, work: LayouterWork) {
        *self.work.lock() = work;
    }

    /// What the layouter has to do, as of its last step.
    pub fn work(&self) -> LayouterWork {
        *self.work.lock()
    }

    /// Counts handovers that ended.
    pub fn count_handovers(&self, cause: HandoverCause, count: u64) {
        add(&self.handovers_ended[cause as usize], count);
    }

    /// Sets the gauge of the handovers in progress.
    pub fn set_handovers(&self, handovers: usize) {
        self.handovers.store(handovers, Ordering::Relaxed);
    }

    pub fn write_metrics(&self, out: &mut Exposition) {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let (counter, gauge) = (MetricKind::Counter, MetricKind::Gauge);
        let enabled = u64::from(self.enabled.load(Ordering::Relaxed));
        let help = "1 while the layouter is enabled.";
        out.one("weir_layouter_enabled", gauge, "", help, &[], enabled);
        self.write_pauses(out);
        let help = "Moves that the layouter decided, by reason.";
        let mut decided = out.family("weir_layouter_changes", counter, "", help);
        for (reason, count) in MoveReason::ALL.iter().zip(&self.decided) {
            decided.sample(&[("reason", reason.code())], read(count));
        }
        self.write_handovers(out);
        let numbers = [
            (
                "weir_layouter_layouts_written",
                counter,
                "Layouts of streams that the layouter wrote.",
                read(&self.written),
            ),
            (
                "weir_layouter_layouts_overruled",
                counter,
                "Layouts not written because the stream had changed; they are decided again.",
                read(&self.overruled),
            ),
            (
                "weir_layouter_batches_failed",
                counter,
                "Batches of layouts that were not written; they are repeated.",
                read(&self.batches_failed),
            ),
            (
                "weir_layouter_layouts_waiting",
                gauge,
                "Streams whose new layout is decided and not written yet.",
                self.layouts_waiting.load(Ordering::Relaxed) as u64,
            ),
            (
                "weir_layouter_slots_waiting",
                gauge,
                "Slots (ingest, DVR backup, inference) that no node can take.",
                read(&self.slots_waiting),
            ),
            (
                "weir_layouter_runs",
                counter,
                "Ticks of the layouter: restoring, improving, balancing.",
                read(&self.rounds),
            ),
            (
                "weir_layouter_restarts",
                counter,
                "Restarts of the layouter after a panic.",
                read(&self.restarts),
            ),
        ];
        for (name, kind, help, value) in numbers {
            out.one(name, kind, "", help, &[], value);
        }
        out.one(
            "weir_layouter_last_run_seconds",
            gauge,
            "seconds",
            "Duration of the last tick.",
            &[],
            Duration::from_nanos(read(&self.last_round_ns)),
        );
    }

    fn write_pauses(&self, out: &mut Exposition) {
        let help = "1 while a pause of the layouter holds these moves.";
        let mut paused = out.family("weir_layouter_paused", MetricKind::Gauge, "", help);
        for (what, is_held) in ["improving", "all"].into_iter().zip(&self.paused) {
            let value = u64::from(is_held.load(Ordering::Relaxed));
            paused.sample(&[("what", what)], value);
        }
        let help = "Pauses of the layouter that began.";
        let count = self.pauses.load(Ordering::Relaxed);
        let counter = MetricKind::Counter;
        out.one("weir_layouter_pauses", counter, "", help, &[], count);
    }

    fn write_handovers(&self, out: &mut Exposition) {
        let (counter, gauge) = (MetricKind::Counter, MetricKind::Gauge);
        let help = "Planned moves whose old streamer let go of the stream, by cause.";
        let mut ended = out.family("weir_layouter_handovers_ended", counter, "", help);
        for (cause, count) in HandoverCause::ALL.iter().zip(&self.handovers_ended) {
            ended.sample(&[("cause", cause.code())], count.load(Ordering::Relaxed));
        }
        let help = "Streams that the old streamer of a planned move still keeps.";
        let count = self.handovers.load(Ordering::Relaxed) as u64;
        out.one("weir_layouter_handovers", gauge, "", help, &[], count);
    }
}
