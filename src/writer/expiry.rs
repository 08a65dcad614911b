//! Work of the writer without a request: it expires entities past their retention, and reports
//! when the wall clock cannot be trusted.

use std::time::Duration;

use tracing::warn;

use super::commands::Envelope;
use crate::state::State;
use crate::state::command::Command;
use crate::state::retention::{self, ExpiryPosition, Retention};
use crate::state::trusted_time::TrustedTime;

/// Pause between two slices of the scan for expired entities.
const SLICE_PAUSE: Duration = Duration::from_secs(1);
/// Entities of each kind in one slice: a million episodes take a quarter of an hour.
const SLICE_ENTITIES_MAX: usize = 1024;

/// The timer of the scan, and the clock it decides by.
pub(super) struct Expiry {
    time: TrustedTime,
    /// Absent: every entity is kept.
    schedule: Option<Schedule>,
}

struct Schedule {
    retention: Retention,
    position: ExpiryPosition,
    /// When the next slice is due, on the writer's own clock.
    next: Duration,
}

impl Expiry {
    pub(super) fn new(state: &State) -> Self {
        Self {
            time: TrustedTime::at_start(state),
            schedule: None,
        }
    }

    pub(super) fn set_retention(&mut self, retention: Retention) {
        self.schedule = Some(Schedule {
            retention,
            position: ExpiryPosition::default(),
            next: SLICE_PAUSE,
        });
    }

    /// Lower bound of the present time.
    pub(super) fn trusted_ms(&self, wall_ms: u64, clock: Duration) -> u64 {
        self.time.now_ms(wall_ms, clock)
    }

    /// The event for the log if the wall clock is no longer trusted, or is trusted again.
    pub(super) fn check_clocks(&mut self, wall_ms: u64, clock: Duration) -> Option<Envelope> {
        let event = self.time.check(wall_ms, clock)?;
        if self.time.is_doubted() {
            warn!(
                event = event.event,
                "wall clock jumped ahead; retention paused"
            );
        } else {
            warn!(
                event = event.event,
                "wall clock is trusted again; retention resumed"
            );
        }
        let events = vec![event];
        Some(Envelope::unanswered(Command::AppendEvents { events }))
    }

    /// The command for what is due in the next slice, once per pause.
    pub(super) fn next_slice(
        &mut self,
        state: &State,
        wall_ms: u64,
        clock: Duration,
    ) -> Option<Envelope> {
        let trusted_ms = self.trusted_ms(wall_ms, clock);
        let schedule = self.schedule.as_mut()?;
        if clock < schedule.next {
            return None;
        }
        schedule.next = clock + SLICE_PAUSE;
        let retention = Retention {
            trusted_ms,
            ..schedule.retention
        };
        let position = &mut schedule.position;
        let due = retention::due(state, &retention, wall_ms, position, SLICE_ENTITIES_MAX);
        if due.is_empty() {
            return None;
        }
        Some(Envelope::unanswered(Command::ExpireEntities {
            retention,
            due,
        }))
    }
}
