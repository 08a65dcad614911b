//! What the layouter does now: decisions that wait, budgets, and decisions of the last hour.

use std::collections::VecDeque;
use std::fmt::Write as _;

use super::Controller;
use crate::json::Value;
use crate::layouter::metrics::{LayouterMetrics, LayouterWork};
use crate::layouter::{DecisionCounts, Engine, MoveReason};
use crate::rt::utc_ms_of;
use crate::state::record::PauseRecord;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// Ticks of the engine, and its decisions of the last hour.
#[derive(Default)]
pub struct WorkHistory {
    /// Ticks since the start.
    pub ticks: u64,
    /// When the last one was, and its decisions.
    last_tick: Option<(u64, u64)>,
    /// Decisions since the start, once a minute. The first sample is an hour old, if the start was
    /// that long ago.
    samples: VecDeque<(u64, DecisionCounts)>,
}

impl WorkHistory {
    /// Counts a tick and its decisions.
    pub fn ticked(&mut self, now_ms: u64, moves: u64) {
        self.ticks += 1;
        self.last_tick = Some((now_ms, moves));
    }

    /// Takes a sample of the decisions once a minute.
    pub fn sample(&mut self, now_ms: u64, metrics: &LayouterMetrics) {
        let newest_ms = self.samples.back().map(|(at_ms, _)| *at_ms);
        if newest_ms.is_some_and(|at_ms| now_ms < at_ms + MINUTE_MS) {
            return;
        }
        self.samples.push_back((now_ms, metrics.decided()));
        let is_old = |sample: Option<&(u64, DecisionCounts)>| {
            sample.is_some_and(|(at_ms, _)| at_ms + HOUR_MS <= now_ms)
        };
        while is_old(self.samples.get(1)) {
            self.samples.pop_front();
        }
    }

    /// Decisions since the first sample.
    fn of_hour(&self, metrics: &LayouterMetrics) -> DecisionCounts {
        match self.samples.front() {
            Some((_, before)) => metrics.decided_since(before),
            None => metrics.decided(),
        }
    }
}

impl Controller {
    /// The body of `GET /layouter`, with the pause of the newest state. Costs the same in a cluster
    /// of any size.
    pub fn status(&self, pause: Option<&PauseRecord>) -> String {
        let enabled = self.engine.is_some();
        let mut out = format!("{{\"enabled\":{enabled}");
        if let Some(engine) = &self.engine {
            self.write_runs(&mut out);
            write_budgets(&mut out, engine);
        }
        out.push_str(",\"waiting\":{\"by_reason\":");
        write_by_reason(&mut out, &self.plan.waiting());
        let unplaced = self.engine.as_ref().map_or(0, Engine::waiting_count);
        let LayouterWork {
            urgent, improving, ..
        } = self.work();
        let _ = write!(
            out,
            ",\"improving\":{improving},\"unplaced\":{unplaced},\"urgent\":{urgent}}}"
        );
        self.write_brake(&mut out);
        out.push_str(",\"moves_1h\":{\"by_reason\":");
        write_by_reason(&mut out, &self.history.of_hour(&self.metrics));
        let pause = pause.map_or(Value::Null, |pause| pause.to_value());
        let _ = write!(out, "}},\"paused\":{}}}", pause.to_text());
        out
    }

    /// Waiting decisions that a pause of the improving moves would hold.
    pub(super) fn improving_waiting(&self) -> u64 {
        let waiting = self.plan.waiting();
        let of = MoveReason::ALL.iter().zip(&waiting);
        of.filter(|(reason, _)| reason.improves())
            .map(|(_, count)| count)
            .sum()
    }

    /// What the layouter has to do. Costs the same in a cluster of any size.
    pub fn work(&self) -> LayouterWork {
        let waiting = self.plan.waiting();
        let count = |urgent: bool| -> u64 {
            let of = MoveReason::ALL.iter().zip(&waiting);
            of.filter(|(reason, _)| reason.urgent() == urgent)
                .map(|(_, count)| count)
                .sum()
        };
        LayouterWork {
            urgent: count(true),
            improving: count(false),
            moves_1h: self.history.of_hour(&self.metrics).iter().sum(),
            is_braked: self.health.is_braked(),
            held_streams: self.holds.quarantine.streams().count() as u64,
        }
    }

    fn write_runs(&self, out: &mut String) {
        if let Some((at_ms, moves)) = self.history.last_tick {
            let (at, us) = (utc_ms_of(at_ms), self.metrics.last_tick().as_micros());
            let _ = write!(
                out,
                ",\"last_run\":{{\"at\":{at},\"moves\":{moves},\"us\":{us}}}"
            );
        }
        let next = utc_ms_of(self.due.tick_ms);
        let _ = write!(out, ",\"next_run_at\":{next}");
    }

    fn write_brake(&self, out: &mut String) {
        let Some(brake) = self.health.brake() else {
            out.push_str(",\"brake\":{\"on\":false}");
            return;
        };
        let (since, until) = (utc_ms_of(brake.since_ms), utc_ms_of(brake.until_ms));
        let (lost, of) = (brake.lost, brake.of);
        let _ = write!(
            out,
            ",\"brake\":{{\"on\":true,\"since\":{since},\"until\":{until},\
             \"why\":\"{lost} of {of} streamers were lost at once\"}}"
        );
    }
}

fn write_budgets(out: &mut String, engine: &Engine) {
    out.push_str(",\"budgets\":{");
    for (position, budget) in engine.budgets_left().iter().enumerate() {
        let comma = if position > 0 { "," } else { "" };
        let (name, left, limit) = (budget.name, budget.left, budget.limit);
        let _ = write!(
            out,
            "{comma}\"{name}\":{{\"left\":{left},\"limit\":{limit}}}"
        );
    }
    out.push('}');
}

/// Writes the reasons with a count, as an object.
fn write_by_reason(out: &mut String, counts: &DecisionCounts) {
    let mut before = '{';
    for (reason, count) in MoveReason::ALL.iter().zip(counts) {
        if *count > 0 {
            let _ = write!(out, "{before}\"{}\":{count}", reason.code());
            before = ',';
        }
    }
    out.push_str(if before == '{' { "{}" } else { "}" });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layouter::{LayoutChange, SlotKind};
    use crate::state::name::{Hostname, StreamName};

    fn decide(metrics: &LayouterMetrics) {
        metrics.count_decision(&LayoutChange {
            stream: StreamName::trusted("a"),
            kind: SlotKind::Ingest,
            from: None,
            to: Some(Hostname::trusted("s1")),
            reason: MoveReason::NodeOffline,
            failover_from: None,
            revision: 1,
        });
    }

    #[test]
    fn decisions_are_counted_for_an_hour_and_bounded() {
        // One decision per minute, for three hours.
        let metrics = LayouterMetrics::default();
        let mut history = WorkHistory::default();
        let count = |history: &WorkHistory| {
            let counts = history.of_hour(&metrics);
            counts[MoveReason::NodeOffline as usize]
        };
        for minute in 0..180_u64 {
            for at_ms in [0, 20_000, 40_000] {
                history.sample(minute * MINUTE_MS + at_ms, &metrics);
            }
            decide(&metrics);
            assert_eq!(count(&history), (minute + 1).min(61), "minute {minute}");
        }
        assert_eq!(history.samples.len(), 61);
        // Without decisions none is left after an hour.
        for minute in 180..=240_u64 {
            history.sample(minute * MINUTE_MS, &metrics);
        }
        assert_eq!(count(&history), 0);
    }
}
