//! The queries of one streamer so far: when the next one is due, and what its failures mean.
//!
//! Pure: time and randomness are passed in. A streamer is queried at its interval, a little earlier
//! or later each time, so that thousands of them spread. A failed query is repeated after a pause
//! that doubles. Pauses count from the start of a query. While the streamer answered within the
//! dead timeout, a query and a pause take an eighth of that at most: a streamer that answers at the
//! start of one query and at the end of the next one gives four signs within a dead timeout, so
//! that neither slow answers nor a few failures look like a loss.

use std::collections::VecDeque;

/// Failures of the last hour count.
const WINDOW_MS: u64 = 3_600_000;
/// The interval of streamers without `fetch_timeout`.
pub const INTERVAL_MS: u64 = 5_000;
/// The shortest and the longest interval.
const INTERVAL_MS_MIN: u64 = 200;
const INTERVAL_MS_MAX: u64 = 60_000;
/// Longest pause after failures of a streamer that is lost.
const PAUSE_MS_MAX: u64 = 60_000;
/// First pause before a request is repeated within a query.
const RETRY_PAUSE_MS: u64 = 100;

/// The settings that decide when queries are sent, and what failures mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuerySettings {
    /// Repeated requests within one query.
    pub retries: u64,
    /// Failed queries within an hour that make a streamer unhealthy.
    pub fails_threshold: usize,
    pub dead_timeout_ms: u64,
}

impl QuerySettings {
    /// The longest query, and the longest pause between the starts of two.
    fn most_ms(&self) -> u64 {
        (self.dead_timeout_ms / 8).max(INTERVAL_MS_MIN)
    }

    /// How often a streamer is queried, and the longest wait for its answers.
    pub fn interval_ms(&self, fetch_timeout_ms: Option<u64>) -> u64 {
        let wanted_ms = fetch_timeout_ms.unwrap_or(INTERVAL_MS);
        let wanted_ms = wanted_ms.clamp(INTERVAL_MS_MIN, INTERVAL_MS_MAX);
        wanted_ms.min(self.most_ms())
    }
}

/// A change that is worth a line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryChange {
    Silent,
    Answers,
}

/// The queries of one streamer.
#[derive(Debug, Default)]
pub struct QueryHistory {
    /// Failures since the last answer.
    failed_in_row: u32,
    /// Times of the failures of the last hour, at most as many as the threshold.
    failed_ms: VecDeque<u64>,
    /// The time of the last answer; at first that of the beginning.
    answered_ms: u64,
    is_silent: bool,
}

impl QueryHistory {
    pub fn new(now_ms: u64) -> Self {
        Self {
            answered_ms: now_ms,
            ..Self::default()
        }
    }

    /// Whether the last query failed.
    pub fn is_failing(&self) -> bool {
        self.failed_in_row > 0
    }

    /// It does not answer, and that was logged.
    pub fn is_silent(&self) -> bool {
        self.is_silent
    }

    pub fn on_answer(&mut self, now_ms: u64) -> Option<QueryChange> {
        self.failed_in_row = 0;
        self.answered_ms = now_ms;
        let was_silent = std::mem::take(&mut self.is_silent);
        was_silent.then_some(QueryChange::Answers)
    }

    /// The streamer reports itself and is not queried. Returns whether it was silent.
    pub fn on_own_report(&mut self) -> bool {
        self.failed_in_row = 0;
        std::mem::take(&mut self.is_silent)
    }

    pub fn on_failure(&mut self, now_ms: u64, settings: &QuerySettings) -> Option<QueryChange> {
        self.failed_in_row = self.failed_in_row.saturating_add(1);
        self.failed_ms.push_back(now_ms);
        let is_old = |at_ms: &u64| now_ms.saturating_sub(*at_ms) >= WINDOW_MS;
        while self.failed_ms.len() > settings.fails_threshold
            || self.failed_ms.front().is_some_and(is_old)
        {
            self.failed_ms.pop_front();
        }
        let was_silent = self.is_silent;
        self.is_silent |= self.failed_in_row as usize >= settings.fails_threshold;
        (self.is_silent && !was_silent).then_some(QueryChange::Silent)
    }

    /// Failures within the last hour, if they are as many as the threshold.
    pub fn too_many_failures(&self, now_ms: u64, settings: &QuerySettings) -> Option<usize> {
        let recent = |at_ms: &&u64| now_ms.saturating_sub(**at_ms) < WINDOW_MS;
        let count = self.failed_ms.iter().filter(recent).count();
        (count >= settings.fails_threshold).then_some(count)
    }

    /// The pause between the start of a query that ended now and the start of the next one.
    /// `random`: any number, another one each time.
    pub fn pause_ms(
        &self,
        interval_ms: u64,
        now_ms: u64,
        settings: &QuerySettings,
        random: u64,
    ) -> u64 {
        let is_lost = now_ms.saturating_sub(self.answered_ms) >= settings.dead_timeout_ms;
        let most_ms = if is_lost {
            PAUSE_MS_MAX
        } else {
            settings.most_ms()
        };
        let doubled = interval_ms.saturating_mul(1 << self.failed_in_row.min(16));
        // A tenth is added to this at most.
        let longest_ms = most_ms - most_ms / 10;
        jittered(doubled.min(longest_ms), random)
    }
}

/// The pause before a request is repeated within a query.
pub fn retry_pause_ms(attempt: u64, random: u64) -> u64 {
    jittered(RETRY_PAUSE_MS << attempt.min(10), random)
}

/// Up to a tenth more or less.
fn jittered(ms: u64, random: u64) -> u64 {
    ms - ms / 10 + random % (ms / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: QuerySettings = QuerySettings {
        retries: 5,
        fails_threshold: 3,
        dead_timeout_ms: 60_000,
    };

    #[test]
    fn interval_is_an_eighth_of_the_dead_timeout_at_most() {
        let interval = |dead_timeout_ms, wanted| {
            let settings = QuerySettings {
                dead_timeout_ms,
                ..SETTINGS
            };
            settings.interval_ms(wanted)
        };
        assert_eq!(interval(60_000, None), 5_000);
        assert_eq!(interval(60_000, Some(1_000)), 1_000);
        assert_eq!(interval(60_000, Some(u64::MAX)), 7_500);
        assert_eq!(interval(60_000, Some(0)), 200);
        assert_eq!(interval(8_000, None), 1_000);
        assert_eq!(interval(100, None), 200);
    }

    #[test]
    fn answers_come_four_times_in_a_dead_timeout_at_least() {
        // Goal: the longest time between two answers is a quarter of the dead timeout, whatever a
        // streamer does within its queries and however long its interval is. Method: it answers
        // at the start of one query and at the end of the next one, which both take all their
        // time, without a failure or after one.
        for dead_timeout_ms in [4_000, 60_000, 3_600_000] {
            let settings = QuerySettings {
                dead_timeout_ms,
                ..SETTINGS
            };
            let interval_ms = settings.interval_ms(Some(u64::MAX));
            let mut history = QueryHistory::new(0);
            for failures in 0..3 {
                for random in 0..1_000 {
                    let now_ms = interval_ms * (failures + 1);
                    let random = random * 7_919;
                    let pause_ms = history.pause_ms(interval_ms, now_ms, &settings, random);
                    let next_ms = pause_ms.max(interval_ms) + interval_ms;
                    assert!(next_ms <= dead_timeout_ms / 4, "{next_ms} {random}");
                    assert!(pause_ms >= interval_ms * 8 / 10, "{pause_ms} {random}");
                }
                history.on_failure(interval_ms * (failures + 1), &settings);
            }
        }
    }

    #[test]
    fn pauses_double_up_to_an_eighth_of_the_dead_timeout() {
        let mut history = QueryHistory::new(0);
        let pauses = |history: &QueryHistory, now_ms| {
            [0, 1_000_000_007].map(|random| history.pause_ms(5_000, now_ms, &SETTINGS, random))
        };
        for random in [0, 999, 5_000, u64::MAX] {
            let pause = history.pause_ms(5_000, 0, &SETTINGS, random);
            assert!((4_500..=5_500).contains(&pause), "{pause}");
        }
        for (at_ms, middle) in [(5_000, 6_750), (15_000, 6_750), (30_000, 6_750)] {
            history.on_failure(at_ms, &SETTINGS);
            for pause in pauses(&history, at_ms) {
                assert!(pause.abs_diff(middle) <= middle / 10, "{at_ms}: {pause}");
            }
        }
        // It is lost: there is time.
        history.on_failure(60_000, &SETTINGS);
        for pause in pauses(&history, 60_000) {
            assert!(pause.abs_diff(54_000) <= 5_400, "{pause}");
        }
        history.on_answer(120_000);
        for pause in pauses(&history, 120_000) {
            assert!(pause.abs_diff(5_000) <= 500, "{pause}");
        }
    }

    #[test]
    fn change_is_noticed_once_each_way() {
        let mut history = QueryHistory::new(0);
        let mut changes = Vec::new();
        for now_ms in 1..=5 {
            changes.push(history.on_failure(now_ms, &SETTINGS));
        }
        let silent = Some(QueryChange::Silent);
        assert_eq!(changes, [None, None, silent, None, None]);
        assert!(history.is_silent());
        assert_eq!(history.on_answer(6), Some(QueryChange::Answers));
        assert_eq!(history.on_answer(7), None);
        assert_eq!(history.on_failure(8, &SETTINGS), None);
    }

    #[test]
    fn failures_count_for_an_hour_even_if_others_are_answered() {
        let mut history = QueryHistory::new(0);
        for now_ms in [0, 1000, 2000] {
            assert_eq!(history.too_many_failures(now_ms, &SETTINGS), None);
            history.on_failure(now_ms, &SETTINGS);
            history.on_answer(now_ms + 500);
        }
        assert_eq!(history.too_many_failures(3000, &SETTINGS), Some(3));
        assert_eq!(history.too_many_failures(WINDOW_MS - 1, &SETTINGS), Some(3));
        assert_eq!(history.too_many_failures(WINDOW_MS, &SETTINGS), None);
    }

    #[test]
    fn retries_come_later_each_time() {
        let pauses: Vec<u64> = (0..4).map(|attempt| retry_pause_ms(attempt, 0)).collect();
        assert_eq!(pauses, [90, 180, 360, 720]);
        assert!(retry_pause_ms(u64::MAX, u64::MAX) < 200_000);
    }
}
