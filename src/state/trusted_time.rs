//! A lower bound of the present time, for deciding what is past its retention.
//!
//! A wall clock that is set years ahead by mistake would expire every entity with a retention at
//! once, and they do not come back when the clock is set right. So a clock that jumps ahead is
//! doubted: time goes on by the running clock until the wall clock is back where it was expected,
//! or has gone on for a day without another jump. Pure: both clocks are arguments. That a clock is
//! doubted is an event of the batch that first has its stamp, so that a restart does not trust the
//! stamps of a doubted clock.

use std::time::Duration;

use super::State;
use super::event::NewEvent;
use crate::json::scan;

/// A wall clock that is ahead by more than this has jumped.
const JUMP_MS_MAX: u64 = 24 * 3600 * 1000;
/// How long a doubted clock must go on without another jump until it is trusted.
const CONFIRMED_AFTER: Duration = Duration::from_hours(24);

const DOUBTED: &str = "clock_doubted";
const BELIEVED: &str = "clock_believed";

/// A reading of the wall clock, UTC ms, and of the running clock at the same moment.
type ClockReading = (u64, Duration);

#[derive(Debug, Clone)]
pub struct TrustedTime {
    /// The last trusted reading. If absent, the next one is trusted.
    base: Option<ClockReading>,
    /// The first reading since a jump.
    doubted: Option<ClockReading>,
}

impl TrustedTime {
    /// Starts from a loaded state. The running clock begins at zero.
    pub fn at_start(state: &State) -> Self {
        let stamp_ms = state.stamp_ms();
        let base_ms = if log_ends_doubted(state) {
            // The stamps are those of the doubted clock; the last trusted time is not known.
            Some(0)
        } else {
            (stamp_ms > 0).then_some(stamp_ms)
        };
        Self {
            base: base_ms.map(|ms| (ms, Duration::ZERO)),
            doubted: None,
        }
    }

    /// Compares both clocks. Returns an event if that changes whether the wall clock is trusted.
    pub fn check(&mut self, wall_ms: u64, running: Duration) -> Option<NewEvent> {
        let ahead_ms = ahead_ms(self.base, wall_ms, running);
        if ahead_ms <= JUMP_MS_MAX {
            self.base = Some((wall_ms, running));
            return self.doubted.take().map(|_| NewEvent::new(BELIEVED));
        }
        let Some((_, since)) = self.doubted else {
            self.doubted = Some((wall_ms, running));
            return Some(NewEvent::new(DOUBTED).number("ahead_ms", ahead_ms));
        };
        if ahead_ms_of(self.doubted, wall_ms, running) > JUMP_MS_MAX {
            self.doubted = Some((wall_ms, running));
        } else if running.saturating_sub(since) >= CONFIRMED_AFTER {
            self.base = Some((wall_ms, running));
            self.doubted = None;
            return Some(NewEvent::new(BELIEVED));
        }
        None
    }

    /// Whether the wall clock jumped ahead and is not trusted.
    pub fn is_doubted(&self) -> bool {
        self.doubted.is_some()
    }

    /// Lower bound of the present time: that of the wall clock while it is trusted.
    pub fn now_ms(&self, wall_ms: u64, running: Duration) -> u64 {
        match (self.doubted, self.base) {
            (Some(_), Some(base)) => expected_ms(base, running),
            _ => wall_ms,
        }
    }
}

fn expected_ms((wall_ms, at): ClockReading, running: Duration) -> u64 {
    let since = running.saturating_sub(at).as_millis();
    wall_ms.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
}

fn ahead_ms(base: Option<ClockReading>, wall_ms: u64, running: Duration) -> u64 {
    base.map_or(0, |base| wall_ms.saturating_sub(expected_ms(base, running)))
}

/// The distance in either direction: a doubted clock that is set back has jumped as well.
fn ahead_ms_of(base: Option<ClockReading>, wall_ms: u64, running: Duration) -> u64 {
    base.map_or(0, |base| wall_ms.abs_diff(expected_ms(base, running)))
}

/// Whether the clock was doubted when the event log was written last.
fn log_ends_doubted(state: &State) -> bool {
    let chunks = state.events().iter().rev();
    let events = chunks.flat_map(|(_, chunk)| chunk.events.iter().rev());
    let mut names = events.filter_map(|text| scan::string(scan::member(text, "event")?));
    names
        .find(|event| *event == DOUBTED || *event == BELIEVED)
        .is_some_and(|event| event == DOUBTED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::event::event_id;
    use crate::state::node::RenderSettings;
    use crate::state::record::{EventChunk, EventChunkRecord};

    const NOW: u64 = 1_800_000_000_000;
    const DAY: u64 = 24 * 3600 * 1000;
    const YEAR: u64 = 365 * DAY;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn empty() -> State {
        State::new(1, RenderSettings::default())
    }

    /// A state whose log ends with this event.
    fn after(event: Option<NewEvent>) -> State {
        let mut state = empty();
        let stamp = crate::state::apply::Stamp {
            revision: 1,
            ms: NOW,
        };
        if let Some(event) = event {
            state.add_events(EventChunkRecord::new(&EventChunk {
                revision: 1,
                stamp_ms: NOW,
                events: vec![event.finish(event_id(1, 0), "s", NOW)],
                streams: Vec::new(),
            }));
        }
        state.advance(stamp);
        state
    }

    fn is(event: Option<&NewEvent>, name: &str) -> bool {
        event.is_some_and(|event| event.event == name)
    }

    #[test]
    fn steady_clock_and_small_steps_are_trusted() {
        let mut time = TrustedTime::at_start(&after(None));
        for (wall, running) in [
            (NOW + 1000, 1),
            (NOW + 2000, 2),
            (NOW + 12 * 3600 * 1000, 3),
            (NOW - YEAR, 4),
            (NOW - YEAR + 1000, 5),
        ] {
            assert_eq!(time.check(wall, secs(running)), None);
            assert_eq!(time.now_ms(wall, secs(running)), wall);
        }
        // A new store has no last trusted reading.
        let mut time = TrustedTime::at_start(&empty());
        assert_eq!(time.check(NOW, secs(0)), None);
    }

    #[test]
    fn a_clock_that_jumps_years_ahead_makes_nothing_older() {
        let mut time = TrustedTime::at_start(&after(None));
        assert_eq!(time.check(NOW, secs(10)), None);
        let event = time.check(NOW + 5 * YEAR, secs(11));
        assert!(is(event.as_ref(), DOUBTED), "{event:?}");
        let ahead = event.as_ref().and_then(|event| event.member("ahead_ms"));
        assert_eq!(ahead, Some(&*(5 * YEAR - 1000).to_string()));
        assert_eq!(time.now_ms(NOW + 5 * YEAR, secs(11)), NOW + 1000);
        assert_eq!(time.check(NOW + 5 * YEAR + 3_600_000, secs(3611)), None);
        assert_eq!(
            time.now_ms(NOW + 5 * YEAR + 3_600_000, secs(3611)),
            NOW + 3_601_000
        );
        // It comes back.
        let event = time.check(NOW + 4_000_000, secs(4010));
        assert!(is(event.as_ref(), BELIEVED), "{event:?}");
        assert_eq!(time.now_ms(NOW + 4_000_000, secs(4010)), NOW + 4_000_000);
    }

    #[test]
    fn a_doubted_clock_is_believed_after_a_day_without_another_jump() {
        let day = CONFIRMED_AFTER.as_secs();
        let mut time = TrustedTime::at_start(&after(None));
        time.check(NOW, secs(0));
        assert!(is(time.check(NOW + YEAR, secs(1)).as_ref(), DOUBTED));
        // It jumps again, first on, then back: the day starts again, without a second event.
        assert_eq!(time.check(NOW + 2 * YEAR, secs(day / 2)), None);
        assert_eq!(time.check(NOW + YEAR, secs(day - 10)), None);
        let wall = |running: u64| NOW + YEAR + (running - day + 10) * 1000;
        assert_eq!(time.check(wall(2 * day - 11), secs(2 * day - 11)), None);
        assert_eq!(
            time.now_ms(wall(2 * day - 11), secs(2 * day - 11)),
            NOW + (2 * day - 11) * 1000
        );
        let event = time.check(wall(2 * day - 10), secs(2 * day - 10));
        assert!(is(event.as_ref(), BELIEVED), "{event:?}");
        assert_eq!(time.now_ms(wall(2 * day), secs(2 * day)), wall(2 * day));
    }

    #[test]
    fn server_off_for_long_waits_a_day_to_trust_its_clock() {
        let mut time = TrustedTime::at_start(&after(None));
        assert_eq!(time.check(NOW + DAY / 2, secs(0)), None);
        let mut time = TrustedTime::at_start(&after(None));
        assert!(is(time.check(NOW + 30 * DAY, secs(0)).as_ref(), DOUBTED));
        assert_eq!(time.now_ms(NOW + 30 * DAY, secs(5)), NOW + 5000);
    }

    #[test]
    fn the_stamps_of_a_doubted_clock_prove_nothing_after_a_restart() {
        let doubted = after(Some(NewEvent::new(DOUBTED)));
        let mut time = TrustedTime::at_start(&doubted);
        assert!(
            is(time.check(NOW, secs(0)).as_ref(), DOUBTED),
            "as far ahead as its own stamps"
        );
        assert!(time.now_ms(NOW, secs(100)) < DAY, "nothing is that old");
        let day = CONFIRMED_AFTER.as_secs();
        assert!(is(time.check(NOW + DAY, secs(day)).as_ref(), BELIEVED));
        let believed = after(Some(NewEvent::new(BELIEVED)));
        let mut time = TrustedTime::at_start(&believed);
        assert_eq!(time.check(NOW, secs(0)), None);
    }
}
