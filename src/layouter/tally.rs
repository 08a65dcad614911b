//! What the layouter's thread counted, for whoever reads metrics.
//!
//! Written by that thread only and read by any: plain numbers, each true by itself. Counters outlive an engine that is built anew.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::{Change, Why};
use crate::metrics::{Exposition, Kind, add};

#[derive(Default)]
pub struct Tally {
    enabled: AtomicBool,
    /// By [`Why`], in the order of [`Why::ALL`].
    decided: [AtomicU64; Why::ALL.len()],
    written: AtomicU64,
    overruled: AtomicU64,
    batches_failed: AtomicU64,
    rounds: AtomicU64,
    last_round_ns: AtomicU64,
    slots_waiting: AtomicU64,
    layouts_waiting: AtomicUsize,
    restarts: AtomicU64,
}

impl Tally {
    /// The engine wants streams elsewhere.
    pub fn decide(&self, change: &Change) {
        if change.from == change.to {
            return;
        }
        let place = Why::ALL.iter().position(|why| *why == change.why);
        add(&self.decided[place.expect("all reasons are listed")], 1);
    }

    /// A batch was carried out, except for the rows that somebody else had changed.
    pub fn wrote(&self, layouts: usize, overruled: usize) {
        add(&self.written, layouts as u64);
        add(&self.overruled, overruled as u64);
    }

    /// A batch was not written at all.
    pub fn batch_failed(&self) {
        add(&self.batches_failed, 1);
    }

    pub fn round(&self, took: Duration) {
        add(&self.rounds, 1);
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.last_round_ns.store(ns, Ordering::Relaxed);
    }

    pub fn restarted(&self) {
        add(&self.restarts, 1);
    }

    /// How things stand. `slots` have no place, `layouts` are decided and not written.
    pub fn stand(&self, enabled: bool, slots: u32, layouts: usize) {
        self.enabled.store(enabled, Ordering::Relaxed);
        self.slots_waiting.store(slots.into(), Ordering::Relaxed);
        self.layouts_waiting.store(layouts, Ordering::Relaxed);
    }

    pub fn write_metrics(&self, out: &mut Exposition) {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let (counter, gauge) = (Kind::Counter, Kind::Gauge);
        let enabled = u64::from(self.enabled.load(Ordering::Relaxed));
        let help = "1 while the layouter is switched on.";
        out.one("weir_layouter_enabled", gauge, "", help, &[], enabled);
        let help = "Changes of places that the layouter decided, by their reason.";
        let mut decided = out.family("weir_layouter_changes", counter, "", help);
        for (why, count) in Why::ALL.iter().zip(&self.decided) {
            decided.sample(&[("reason", why.code())], read(count));
        }
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
                "Layouts that were not written, because the stream had changed meanwhile; they are decided anew.",
                read(&self.overruled),
            ),
            (
                "weir_layouter_batches_failed",
                counter,
                "Batches of layouts that the writer or the store did not take; they are repeated.",
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
                "Captures, copies and analyses of streams that no streamer may take at present.",
                read(&self.slots_waiting),
            ),
            (
                "weir_layouter_runs",
                counter,
                "Rounds of restoring, improving and balancing.",
                read(&self.rounds),
            ),
            (
                "weir_layouter_restarts",
                counter,
                "Times that the layouter failed and began anew.",
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
            "Time that the last round took.",
            &[],
            Duration::from_nanos(read(&self.last_round_ns)),
        );
    }
}
