//! Begin and end of a pause of the layouter.

use super::Changes;
use crate::error::ApiError;
use crate::state::State;
use crate::state::changes::{Done, PauseChange};
use crate::state::event::NewEvent;
use crate::state::pause::PauseRequest;
use crate::state::record::PauseRecord;

/// Begins a pause, instead of the one that there is, or ends it.
pub(super) fn set(
    state: &State,
    wanted: Option<PauseRequest>,
    by: &str,
    changes: &mut Changes,
) -> Result<Done, ApiError> {
    let Some(wanted) = wanted else {
        if state.pause().is_some() {
            end(changes, "api", Some(by));
        }
        return Ok(Done::Pause(None));
    };
    let mut record = wanted.record(by, changes.revision, changes.stamp_ms)?;
    // What an operator moves during a pause that is made longer stays a move of the pause.
    if let Some(since) = state.paused_since() {
        record.since = since;
    }
    let record = PauseRecord::new(&record);
    let mut event = NewEvent::new("layouter_paused")
        .text("reason", &record.reason)
        .text("user", by)
        .text("what", record.what.as_str());
    if let Some(until_ms) = record.until_ms() {
        event = event.number("until", until_ms);
    }
    changes.events.push(event);
    let new = Some(record.clone());
    changes.pause = Some(PauseChange { new });
    Ok(Done::Pause(Some(record)))
}

/// Ends the pause of this revision at its time.
pub(super) fn expire(state: &State, revision: u64, changes: &mut Changes) -> Done {
    let is_this = state
        .pause()
        .is_some_and(|pause| pause.revision == revision);
    if is_this {
        end(changes, "time", None);
    }
    Done::Nothing
}

fn end(changes: &mut Changes, why: &str, by: Option<&str>) {
    changes.pause = Some(PauseChange { new: None });
    let event = NewEvent::new("layouter_resumed").text("why", why);
    changes.events.push(event.maybe_text("user", by));
}
