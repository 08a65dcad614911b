//! States that are kept for the next pages of a list.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::state::State;

/// Time for which a paged snapshot is kept after each of its pages.
const SNAPSHOT_KEPT: Duration = Duration::from_mins(1);
/// Paged snapshots kept at once, over all streamers; each may retain memory of a past revision.
const SNAPSHOTS_KEPT_MAX: usize = 256;

/// The states of paged snapshots in progress. All cores share them, because a client may request
/// the next page over another connection.
#[derive(Default)]
pub struct PagedSnapshots {
    kept: Mutex<Vec<(Instant, Arc<State>)>>,
}

impl PagedSnapshots {
    /// The state of a revision, if it is still kept.
    pub fn get(&self, revision: u64) -> Option<Arc<State>> {
        let now = Instant::now();
        let mut kept = self.kept.lock();
        kept.retain(|(until, _)| *until > now);
        kept.iter()
            .find(|(_, state)| state.revision() == revision)
            .map(|(_, state)| state.clone())
    }

    /// Drops expired states, which retain memory of past revisions. Called after each commit,
    /// because no further page may ever be requested.
    pub fn drop_expired(&self) {
        let now = Instant::now();
        self.kept.lock().retain(|(until, _)| *until > now);
    }

    /// Keeps a state for the next pages.
    pub fn keep(&self, state: &Arc<State>) {
        let now = Instant::now();
        let until = now + SNAPSHOT_KEPT;
        let mut kept = self.kept.lock();
        kept.retain(|(until, other)| *until > now && other.revision() != state.revision());
        if kept.len() == SNAPSHOTS_KEPT_MAX {
            kept.remove(0);
        }
        kept.push((until, state.clone()));
    }
}
