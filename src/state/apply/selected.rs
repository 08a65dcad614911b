//! Selected streams: one change for all of them.

use super::Changes;
use super::layout::set_one;
use super::node_views::remove;
use super::stream::save;
use crate::error::{ApiError, BatchErrors};
use crate::state::State;
use crate::state::changes::Done;
use crate::state::command::{LayoutPatch, SelectedChange, SelectedStream};
use crate::state::record::StreamRecord;

/// Changes all of them, or none if the change is not possible for one. Those that are gone or have
/// another revision are skipped: none is created again.
pub(super) fn change(
    state: &State,
    items: Vec<SelectedStream>,
    change: &SelectedChange,
    changes: &mut Changes,
) -> Result<Done, ApiError> {
    let mut skipped = Vec::new();
    let mut errors = BatchErrors::default();
    for (i, item) in items.into_iter().enumerate() {
        let old = state
            .stream(&item.name)
            .filter(|old| old.revision == item.revision);
        let Some(old) = old else {
            skipped.push(i);
            continue;
        };
        let result = change_one(state, &item, old, change, changes);
        errors.keep(result.map_err(|error| error.of_item(&item.name)));
        if errors.is_full() {
            break;
        }
    }
    errors.finish()?;
    Ok(Done::Selected {
        changed: changes.streams.len(),
        skipped,
    })
}

fn change_one(
    state: &State,
    item: &SelectedStream,
    old: &StreamRecord,
    change: &SelectedChange,
    changes: &mut Changes,
) -> Result<(), ApiError> {
    let placed = |layout: &LayoutPatch| LayoutPatch {
        hands_over: item.hands_over,
        ..layout.clone()
    };
    match change {
        SelectedChange::Patch(patch) => {
            let mut patch = patch.clone();
            patch.layout = patch.layout.as_ref().map(placed);
            save(state, &item.name, patch, "/patch", changes).map(drop)
        }
        SelectedChange::Move(layout) => {
            set_one(state, &item.name, &placed(layout), "/move", changes)
        }
        SelectedChange::Delete => {
            remove(state, item.name.clone(), old, changes);
            Ok(())
        }
    }
}
