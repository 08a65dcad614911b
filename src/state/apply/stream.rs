//! Streams: saving and deleting them.

use super::layout::place;
use super::merge::{merge, namespace, stored};
use super::node_views::{finish, remove};
use super::{Changes, stream_not_found};
use crate::error::ApiError;
use crate::json::Value;
use crate::schema;
use crate::state::State;
use crate::state::batch::BatchItems;
use crate::state::changes::Done;
use crate::state::command::StreamPatch;
use crate::state::handover;
use crate::state::name::StreamName;
use crate::state::record::{Stream, StreamRecord};

pub(super) fn save_one(
    state: &State,
    name: &StreamName,
    patch: StreamPatch,
    changes: &mut Changes,
) -> Result<Done, ApiError> {
    save(state, name, patch, "", changes).map(Done::Stream)
}

pub(super) fn save_all(
    state: &State,
    items: BatchItems<StreamName, StreamPatch>,
    changes: &mut Changes,
) -> Result<Done, ApiError> {
    items.apply_each(|i, name, patch| {
        let result = save(state, &name, patch, &format!("/{i}"), changes);
        result.map(drop).map_err(|error| error.of_item(&name))
    })?;
    Ok(Done::Nothing)
}

pub(super) fn delete(
    state: &State,
    name: StreamName,
    changes: &mut Changes,
) -> Result<Done, ApiError> {
    let old = state.stream(&name).ok_or_else(stream_not_found)?;
    remove(state, name, old, changes);
    Ok(Done::Nothing)
}

pub(super) fn save(
    state: &State,
    name: &StreamName,
    patch: StreamPatch,
    pointer: &str,
    changes: &mut Changes,
) -> Result<StreamRecord, ApiError> {
    let old = state.stream(name);
    let mut stream = match old {
        Some(old) => old.to_owned(),
        None => Stream {
            name: name.to_string(),
            ..Stream::default()
        },
    };
    let merged = merge(
        schema::stream(),
        &stream.config,
        &stream.filled,
        patch.config,
        pointer,
    )?;
    let before = stream.namespace.as_deref();
    stream.namespace = namespace(&merged, old.is_some(), before, pointer)?;
    stream.disabled = merged
        .get("disabled")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    let stored = stored(schema::stream(), merged);
    stream.has_secrets = stored.has_secrets;
    stream.config = stored.config;
    stream.filled = stored.filled;
    if let Some(layout) = &patch.layout {
        let at = format!("{pointer}/layout");
        place(state, &mut stream, layout, changes.stamp_ms, &at)?;
    }
    handover::recheck(state, &mut stream);
    Ok(finish(state, name, old, stream, changes))
}
