//! The log of moves: one line per run of the layouter that moved something, at most one a second.

use std::fmt::Write as _;
use std::time::Duration;

use tracing::info;

use super::{DecisionCounts, MoveReason};

/// Pause after a line: the runs in it share the next one.
const PAUSE_MS: u64 = 1000;

/// Counts what was moved since the last line.
pub struct RunLog {
    /// The decisions that lines were written about.
    logged: DecisionCounts,
    /// The decisions of the last run.
    last: DecisionCounts,
    /// The time of the runs that moved something since the last line.
    busy: Duration,
    due_ms: u64,
}

/// A line of the log.
#[derive(Debug, PartialEq, Eq)]
struct RunLine {
    count: u64,
    by_reason: String,
    us: u64,
}

impl RunLog {
    /// `decided`: the decisions so far, about which no line is written.
    pub fn new(decided: DecisionCounts) -> Self {
        Self {
            logged: decided,
            last: decided,
            busy: Duration::ZERO,
            due_ms: 0,
        }
    }

    /// Logs a run that `took` so long, if anything was decided: `decided` counts all decisions so
    /// far.
    pub fn run(&mut self, decided: DecisionCounts, now_ms: u64, took: Duration) {
        if let Some(RunLine {
            count,
            by_reason,
            us,
        }) = self.line(decided, now_ms, took)
        {
            info!(count, by_reason, us, "layouter moved");
        }
    }

    fn line(&mut self, decided: DecisionCounts, now_ms: u64, took: Duration) -> Option<RunLine> {
        if decided != self.last {
            self.busy += took;
            self.last = decided;
        }
        if decided == self.logged || now_ms < self.due_ms {
            return None;
        }
        let (mut count, mut by_reason) = (0, String::new());
        for (place, reason) in MoveReason::ALL.iter().enumerate() {
            let moved = decided[place].saturating_sub(self.logged[place]);
            if moved > 0 {
                let comma = if by_reason.is_empty() { "" } else { ", " };
                _ = write!(by_reason, "{comma}{} {moved}", reason.code());
                count += moved;
            }
        }
        self.logged = decided;
        self.due_ms = now_ms + PAUSE_MS;
        let us = u64::try_from(std::mem::take(&mut self.busy).as_micros());
        Some(RunLine {
            count,
            by_reason,
            us: us.unwrap_or(u64::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_one_second_share_a_line() {
        let mut decided = [5; MoveReason::ALL.len()];
        let mut log = RunLog::new(decided);
        let took = Duration::from_micros(10);
        assert_eq!(log.line(decided, 100, took), None, "nothing was moved");
        let mut moves = |reason: MoveReason, count: u64, now_ms: u64| {
            let place = MoveReason::ALL.iter().position(|it| *it == reason);
            decided[place.expect("a reason")] += count;
            log.line(decided, now_ms, took)
        };
        let line = |count, by_reason: &str, us| {
            let by_reason = by_reason.to_owned();
            Some(RunLine {
                count,
                by_reason,
                us,
            })
        };
        assert_eq!(
            moves(MoveReason::NodeOffline, 3, 200),
            line(3, "node_become_offline 3", 10)
        );
        assert_eq!(moves(MoveReason::Drain, 1, 300), None);
        assert_eq!(moves(MoveReason::NotDistributed, 2, 1199), None);
        assert_eq!(
            moves(MoveReason::Drain, 0, 1200),
            line(3, "not_distributed 2, drain 1", 20),
            "without the run that moved nothing"
        );
        assert_eq!(moves(MoveReason::Drain, 0, 9000), None);
    }
}
