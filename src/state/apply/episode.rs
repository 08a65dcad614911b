//! The automatic episodes that the server makes of publications.

use std::collections::HashSet;

use super::Changes;
use super::entity::save_entity;
use crate::error::ApiError;
use crate::json::{self, Object, Value};
use crate::state::State;
use crate::state::changes::Done;
use crate::state::command::{Continuation, EntitySave, EpisodeProgress};
use crate::state::entity::{Key, Kind};
use crate::state::episode::{self, EpisodeStep, OpenPublication, PublicationReport};
use crate::state::name::StreamName;
use crate::state::record::{ArchivedFacts, EntityRecord, Publication};

/// Opens, continues or closes the automatic episode of a stream.
pub(super) fn on_publication(
    state: &State,
    stream: &StreamName,
    report: PublicationReport,
    changes: &mut Changes,
) -> Result<Done, ApiError> {
    let close_timeout_ms = state
        .stream(stream)
        .map_or(0, |stream| episode::close_timeout_ms(stream));
    let last = state.episodes().last_automatic(stream);
    let closed_until = match last.map(|last| &last.facts) {
        Some(ArchivedFacts::Episode { closed_at, .. }) => {
            closed_at.as_ref().map_or(0, |at| at.to_native())
        }
        _ => 0,
    };
    let publication = last.and_then(OpenPublication::of);
    let save_open = |ended_at, closed_at, changes: &mut Changes| match last {
        Some(open) => save_automatic(state, open, ended_at, closed_at, changes),
        None => Ok(()),
    };
    match episode::on_publication(publication, closed_until, report, close_timeout_ms) {
        EpisodeStep::Nothing => Ok(()),
        EpisodeStep::Open { opened_at } => open_automatic(state, stream, opened_at, changes),
        EpisodeStep::Resume => save_open(None, None, changes),
        EpisodeStep::Pause { ended_at } => save_open(Some(ended_at), None, changes),
        EpisodeStep::Close { closed_at } => save_open(Some(closed_at), Some(closed_at), changes),
        EpisodeStep::CloseAndOpen {
            closed_at,
            opened_at,
        } => {
            save_open(Some(closed_at), Some(closed_at), changes)?;
            open_automatic(state, stream, opened_at, changes)
        }
    }?;
    Ok(Done::Nothing)
}

fn open_automatic(
    state: &State,
    stream: &StreamName,
    opened_at: u64,
    changes: &mut Changes,
) -> Result<(), ApiError> {
    let key = free_key(state, stream, opened_at, &HashSet::new());
    let save = new_automatic(stream, key, opened_at, None);
    save_entity(state, save, None, changes).map(|_| ())
}

/// A key for a new automatic episode, which neither the state nor this command has.
pub(super) fn free_key(
    state: &State,
    stream: &StreamName,
    opened_at: u64,
    new_keys: &HashSet<Key>,
) -> Key {
    let episodes = state.entities(Kind::Episode);
    let mut id = episode::automatic_id(stream, opened_at);
    loop {
        let key = Key::Number(id);
        if episodes.get(&key).is_none() && !new_keys.contains(&key) {
            return key;
        }
        id += 1;
    }
}

/// An automatic episode of a publication that goes on, or has ended.
pub(super) fn new_automatic(
    stream: &StreamName,
    key: Key,
    opened_at: u64,
    ended_at: Option<u64>,
) -> EntitySave {
    let mut patch = Object::default();
    patch.insert("media", Value::String(Box::from(stream.as_str())));
    patch.insert(
        "opened_at",
        Value::Number(json::Number::Unsigned(opened_at)),
    );
    EntitySave {
        kind: Kind::Episode,
        key,
        patch,
        on_create: Object::default(),
        episode: EpisodeProgress {
            continuation: Continuation::No,
            publication: Some(Publication { ended_at }),
        },
    }
}

/// Saves the progress of an open automatic episode.
pub(super) fn save_automatic(
    state: &State,
    record: &EntityRecord,
    ended_at: Option<u64>,
    closed_at: Option<u64>,
    changes: &mut Changes,
) -> Result<(), ApiError> {
    let mut patch = Object::default();
    if let Some(closed_at) = closed_at {
        patch.insert(
            "closed_at",
            Value::Number(json::Number::Unsigned(closed_at)),
        );
        patch.insert("close_reason", Value::String(Box::from("timeout")));
    }
    let save = continued(record, patch, Some(Publication { ended_at }));
    save_entity(state, save, None, changes).map(|_| ())
}

/// A change of an automatic episode, which gets a new stamp. Without a publication, that stays.
pub(super) fn continued(
    record: &EntityRecord,
    patch: Object,
    publication: Option<Publication>,
) -> EntitySave {
    EntitySave {
        kind: Kind::Episode,
        key: Key::trusted(Kind::Episode, &record.key),
        patch,
        on_create: Object::default(),
        episode: EpisodeProgress {
            continuation: Continuation::Yes,
            publication,
        },
    }
}
