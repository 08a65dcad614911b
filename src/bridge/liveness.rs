//! Whether the media server lives, from two signs: its control API and its media port. Pure.
//!
//! Only the loss of both for a while is its death. Without the API alone it goes on serving
//! viewers, so it stays a streamer of the cluster and reports that it cannot be configured.
//!
//! The time counts from the last answer, not from the look that lacked one first: a look at a
//! server that hangs takes as long as its deadline.

use std::time::{Duration, Instant};

/// Both signs are absent for this long before the server counts as dead.
const DEAD_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerLife {
    /// Not seen yet, or dead.
    Down,
    /// The control API does not answer, and the media port does.
    Unmanageable,
    Up,
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifeSign {
    /// The control API answered.
    Api,
    /// The control API did not answer, and the media port did.
    MediaWithoutApi,
    /// The media port answered, and the control API was not called.
    Media,
    /// Nothing answered.
    Silence,
}

#[derive(Debug)]
pub struct Liveness {
    life: ServerLife,
    /// The last answer of the API, and of any of the two.
    api_at: Option<Instant>,
    answered_at: Option<Instant>,
    /// How often the server died.
    deaths: u64,
}

impl Default for Liveness {
    fn default() -> Self {
        Self {
            life: ServerLife::Down,
            api_at: None,
            answered_at: None,
            deaths: 0,
        }
    }
}

impl Liveness {
    pub fn life(&self) -> ServerLife {
        self.life
    }

    pub fn deaths(&self) -> u64 {
        self.deaths
    }

    /// The last answer of any kind.
    pub fn answered_at(&self) -> Option<Instant> {
        self.answered_at
    }

    /// Takes the result of a look that ended now.
    pub fn see(&mut self, now: Instant, sign: LifeSign) -> ServerLife {
        let is_long_ago = |at: Option<Instant>| {
            at.is_none_or(|at| now.saturating_duration_since(at) >= DEAD_AFTER)
        };
        match sign {
            LifeSign::Api => {
                self.api_at = Some(now);
                self.answered_at = Some(now);
                self.life = ServerLife::Up;
            }
            LifeSign::MediaWithoutApi => {
                self.answered_at = Some(now);
                // Without the API it is unknown what runs there: it is not a streamer yet. An API
                // that is slow once is not lost.
                if self.life == ServerLife::Up && is_long_ago(self.api_at) {
                    self.life = ServerLife::Unmanageable;
                }
            }
            LifeSign::Media => self.answered_at = Some(now),
            LifeSign::Silence => {
                if self.life != ServerLife::Down && is_long_ago(self.answered_at) {
                    self.life = ServerLife::Down;
                    self.deaths += 1;
                }
            }
        }
        self.life
    }
}
