//! Entities whose time is over: deleted or closed, each on its own.

use super::Changes;
use super::entity::remove;
use super::episode::save_automatic;
use crate::error::ApiError;
use crate::state::State;
use crate::state::changes::Done;
use crate::state::entity::{Key, Kind};
use crate::state::retention::{self, ExpiryAction, Retention};

/// Deletes or closes the entities that are due, each on its own.
pub(super) fn expire_all(
    state: &State,
    due: Vec<(Kind, Key)>,
    retention: &Retention,
    changes: &mut Changes,
) -> Done {
    for (kind, key) in due {
        // An episode that cannot be closed must not keep the others from expiring.
        let _ = expire(state, kind, key, retention, changes);
    }
    Done::Nothing
}

fn expire(
    state: &State,
    kind: Kind,
    key: Key,
    retention: &Retention,
    changes: &mut Changes,
) -> Result<(), ApiError> {
    let Some(record) = state.entities(kind).get(&key) else {
        return Ok(());
    };
    match retention::action(state, record, retention, changes.stamp_ms) {
        ExpiryAction::Keep => Ok(()),
        ExpiryAction::Remove => {
            remove(kind, key, record.clone(), changes);
            Ok(())
        }
        ExpiryAction::Close { at } => save_automatic(state, record, Some(at), Some(at), changes),
        ExpiryAction::Renew => save_automatic(state, record, None, None, changes),
    }
}
