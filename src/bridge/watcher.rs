//! The thread that looks whether the media server lives, while the worker may wait for an answer.
//!
//! Probes and measures of the worker that are answered are signs of life too, so a look is due only
//! when there was none for a while. A look that nothing answers is followed by the next one, until
//! the server counts as dead: then its poll is cut, and nothing is reported.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::central::Central;
use super::liveness::{LifeSign, ServerLife};
use super::prober::MediaPort;
use super::shared::BridgeShared;

/// Pause between looks, and age of an answer at which the next look is due.
/// The worker's own calls are closer to each other while the server answers them.
const LOOK_AFTER: Duration = Duration::from_millis(700);
/// Longest time for one sign of a look. A look has two: with the pause before it, the poll of a
/// server that hangs is cut 2.3 s after its last answer.
pub const SIGN_WITHIN: Duration = Duration::from_millis(800);

/// Queries the control API for a sign of life. A kind whose API must not get two calls at once has
/// none.
pub type ApiLook = Box<dyn FnMut() -> bool + Send>;

/// What acts on the life of the server. Used by the watcher and by the worker.
pub struct LifeBook {
    pub shared: Arc<BridgeShared>,
    pub central: Arc<Central>,
    pub hostname: Box<str>,
}

impl LifeBook {
    /// Takes the result of a look that ended now, and acts on what it changes.
    pub fn see(&self, sign: LifeSign) {
        let (before, life) = self.shared.see(Instant::now(), sign);
        if life == ServerLife::Down {
            // Also a poll that began when the server was already dead.
            self.central.cut();
        }
        if before == life {
            return;
        }
        let hostname = &*self.hostname;
        match life {
            ServerLife::Down => warn!(hostname, "media server is down"),
            ServerLife::Unmanageable => {
                warn!(hostname, "control API is down, media port answers");
            }
            ServerLife::Up => info!(hostname, "media server is up"),
        }
    }
}

pub struct Watcher {
    pub book: Arc<LifeBook>,
    pub media: MediaPort,
    pub api: Option<ApiLook>,
}

impl Watcher {
    /// Looks until the bridge is stopped.
    pub fn run(mut self) {
        while self.book.shared.wait_for_silence(LOOK_AFTER) {
            let sign = self.look();
            self.book.see(sign);
        }
    }

    fn look(&mut self) -> LifeSign {
        if self.api.as_mut().is_some_and(|api| api()) {
            return LifeSign::Api;
        }
        match (self.media.answers(SIGN_WITHIN), &self.api) {
            (false, _) => LifeSign::Silence,
            (true, Some(_)) => LifeSign::MediaWithoutApi,
            (true, None) => LifeSign::Media,
        }
    }
}
