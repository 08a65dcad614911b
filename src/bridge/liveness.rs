//! Whether the media server lives, from two signs: its control API and its media port. Pure.
//!
//! Only the loss of both for a while is its death. Without the API alone it goes on serving
//! viewers, so it stays a streamer of the cluster and reports that it cannot be configured.

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

/// The signs of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LifeSigns {
    pub api: bool,
    pub media: bool,
}

#[derive(Debug)]
pub struct Liveness {
    life: ServerLife,
    silent_since: Option<Instant>,
}

impl Default for Liveness {
    fn default() -> Self {
        Self {
            life: ServerLife::Down,
            silent_since: None,
        }
    }
}

impl Liveness {
    pub fn see(&mut self, now: Instant, signs: LifeSigns) -> ServerLife {
        if signs.api {
            self.silent_since = None;
            self.life = ServerLife::Up;
        } else if signs.media {
            self.silent_since = None;
            // Without the API it is unknown what runs there: it is not a streamer yet.
            if self.life == ServerLife::Up {
                self.life = ServerLife::Unmanageable;
            }
        } else {
            let since = *self.silent_since.get_or_insert(now);
            if now.duration_since(since) >= DEAD_AFTER {
                self.life = ServerLife::Down;
            }
        }
        self.life
    }
}
