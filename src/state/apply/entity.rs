//! Entities: saving and deleting one of any kind, and what a kind demands beyond its schema.

use super::merge::{merge_with, stored};
use super::streamer::node_of_role;
use super::{Changes, EntityChange, node_views};
use crate::error::{self, ApiError};
use crate::json::{self, Object, Value};
use crate::state::State;
use crate::state::batch::BatchItems;
use crate::state::changes::Done;
use crate::state::command::{EntitySave, EpisodeProgress, LayoutPatch};
use crate::state::entity::{self, Key, Kind};
use crate::state::record::{ArchivedFacts, Entity, EntityRecord, Facts, Layout, NodeRole};

/// Deleted agents that are remembered. Above, the first deleted are forgotten and get what unknown
/// agents get.
pub const DELETED_AGENTS_MAX: usize = 100_000;

pub(super) fn save_one(
    state: &State,
    save: EntitySave,
    layout: Option<&LayoutPatch>,
    changes: &mut Changes,
) -> Result<Done, ApiError> {
    let kind = save.kind;
    let record = save_entity(state, save, layout, changes)?;
    Ok(Done::Entity(kind, record))
}

/// Places many agents, all or none. Agents that streams use are skipped: their streams decide.
pub(super) fn set_agent_layouts(
    state: &State,
    items: BatchItems<Key, LayoutPatch>,
    changes: &mut Changes,
) -> Result<Done, ApiError> {
    items.apply_each(|i, key, layout| {
        let at = format!("/layouts/{i}");
        let id = key.to_string();
        let result = set_agent_layout(state, key, &layout, &at, changes);
        result.map_err(|error| error.of_item(&id))
    })?;
    Ok(Done::Nothing)
}

fn set_agent_layout(
    state: &State,
    key: Key,
    layout: &LayoutPatch,
    at: &str,
    changes: &mut Changes,
) -> Result<(), ApiError> {
    let Some(old) = state.entities(Kind::Agent).get(&key) else {
        return Err(error::UNKNOWN_AGENT.at(format!("{at}/id")));
    };
    if state.agent_has_streams(&old.key) {
        return Ok(());
    }
    let mut agent = old.to_owned();
    place_agent(state, &mut agent.facts, layout, changes.stamp_ms, at)?;
    finish(Kind::Agent, key, Some(old), agent, false, changes);
    Ok(())
}

pub(super) fn delete(
    state: &State,
    kind: Kind,
    key: Key,
    changes: &mut Changes,
) -> Result<Done, ApiError> {
    let entity = state.entities(kind).get(&key);
    let old = entity.cloned().ok_or_else(|| kind.not_found())?;
    match kind {
        Kind::Person => mark_deleted(state, key, &old, changes)?,
        Kind::Agent => {
            remember_agent(state, &key, &old, changes);
            remove(kind, key, old, changes);
        }
        _ => remove(kind, key, old, changes),
    }
    Ok(Done::Nothing)
}

pub(super) fn remove(kind: Kind, key: Key, old: EntityRecord, changes: &mut Changes) {
    changes.entities.push(EntityChange {
        kind,
        key,
        old: Some(old),
        new: None,
    });
}

/// Saves an entity of any kind.
pub(super) fn save_entity(
    state: &State,
    save: EntitySave,
    layout: Option<&LayoutPatch>,
    changes: &mut Changes,
) -> Result<EntityRecord, ApiError> {
    let (kind, key) = (save.kind, save.key.clone());
    let episode = save.episode;
    let old = state.entities(kind).get(&key);
    let mut entity = match old {
        Some(old) => old.to_owned(),
        None => Entity {
            key: key.to_string(),
            ..Entity::default()
        },
    };
    let patch = completed(save, old, changes);
    // The schema demands the key and the stamp, which are not part of the stored configuration.
    let stamp = Value::Number(json::Number::Unsigned(changes.stamp_ms));
    let own = [(kind.key_field(), key.to_value()), ("updated_at", stamp)];
    let schema = kind.schema();
    let mut merged = merge_with(schema, &entity.config, &entity.filled, patch, &own, "")?;
    for (name, _) in &own {
        merged.remove(name);
    }
    entity.facts = entity::facts(kind, &merged, old.map(|_| &entity.facts), "")?;
    check_facts(state, &key, &mut entity.facts, episode)?;
    let stored_ms = old.map(|old| old.updated_at.to_native());
    let is_open = matches!(
        entity.facts,
        Facts::Episode {
            closed_at: None,
            ..
        }
    );
    let goes_on = is_open && episode.continuation.goes_on(stored_ms);
    let stored = stored(schema, merged);
    entity.has_secrets = stored.has_secrets;
    entity.config = stored.config;
    entity.filled = stored.filled;
    if let Some(layout) = layout
        && !state.agent_has_streams(&entity.key)
    {
        let at = "/layout";
        place_agent(state, &mut entity.facts, layout, changes.stamp_ms, at)?;
    }
    if kind == Kind::Agent
        && let Some(left) = state.entities(Kind::DeletedAgent).get(&key)
    {
        // An agent that is saved again is not deleted any more.
        remove(Kind::DeletedAgent, key.clone(), left.clone(), changes);
    }
    Ok(finish(kind, key, old, entity, goes_on, changes))
}

/// The patch with what the server adds to it: members of a new entity, and the undeletion of a
/// person.
fn completed(save: EntitySave, old: Option<&EntityRecord>, changes: &Changes) -> Object {
    let EntitySave {
        kind,
        mut patch,
        on_create,
        ..
    } = save;
    match old.map(|old| &old.facts) {
        None => {
            for (name, value) in on_create.iter() {
                if matches!(patch.get(name), None | Some(Value::Null)) {
                    patch.insert(name, value.clone());
                }
            }
            if kind == Kind::Episode {
                add_appearance(&mut patch, changes.stamp_ms);
            }
        }
        Some(ArchivedFacts::Person { deleted_at })
            if deleted_at.is_some() && !patch.contains_key("deleted_at") =>
        {
            patch.insert("deleted_at", Value::Null);
        }
        Some(_) => {}
    }
    patch
}

/// Adds when this server first had an episode, unless the patch contains it.
fn add_appearance(patch: &mut Object, stamp_ms: u64) {
    const FIELD: &str = "episode_appearance_timestamps";
    let stamp = Value::Number(json::Number::Unsigned(stamp_ms));
    match patch.get_mut(FIELD) {
        None | Some(Value::Null) => {
            let mut times = Object::default();
            times.insert("central_timestamp", stamp);
            patch.insert(FIELD, Value::Object(times));
        }
        Some(Value::Object(times)) => {
            if times.get("central_timestamp").is_none_or(Value::is_null) {
                times.insert("central_timestamp", stamp);
            }
        }
        // The schema refuses it.
        Some(_) => {}
    }
}

/// Checks what the state decides about an entity's facts and completes them.
fn check_facts(
    state: &State,
    key: &Key,
    facts: &mut Facts,
    progress: EpisodeProgress,
) -> Result<(), ApiError> {
    match facts {
        Facts::Token { digest } if is_key_of_another(state, key, digest) => {
            Err(error::NOT_UNIQUE.at("/key"))
        }
        Facts::Episode { publication, .. } => {
            *publication = progress.publication.or(*publication);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Gives a changed entity its stamps. One that `goes_on` gets new stamps without another change.
pub(super) fn finish(
    kind: Kind,
    key: Key,
    old: Option<&EntityRecord>,
    mut entity: Entity,
    goes_on: bool,
    changes: &mut Changes,
) -> EntityRecord {
    if let Some(old) = old
        && **old == entity
        && !goes_on
    {
        return old.clone();
    }
    entity.revision = changes.revision;
    entity.updated_at = changes.stamp_ms;
    let new = EntityRecord::new(&entity);
    changes.entities.push(EntityChange {
        kind,
        key,
        old: old.cloned(),
        new: Some(new.clone()),
    });
    new
}

/// Writes a wanted layout into an agent, which has only the ingest of a layout.
fn place_agent(
    state: &State,
    facts: &mut Facts,
    wanted: &LayoutPatch,
    stamp_ms: u64,
    pointer: &str,
) -> Result<(), ApiError> {
    let Facts::Agent { layout } = facts else {
        return Ok(());
    };
    let Some(ingest) = &wanted.ingest else {
        return Ok(());
    };
    let Some(host) = ingest else {
        *layout = None;
        return Ok(());
    };
    let current = layout.as_ref().and_then(|layout| layout.ingest.as_deref());
    if current == Some(host.as_str()) {
        return Ok(());
    }
    let at = format!("{pointer}/ingest");
    node_of_role(state, host, NodeRole::Streamer, at)?;
    *layout = Some(Layout {
        ingest: Some(host.to_string()),
        created_at: stamp_ms,
        by_layouter: wanted.by_layouter,
        ..Layout::default()
    });
    Ok(())
}

/// Deletes the streams of an agent that is being deleted, and keeps the key by which the agent is
/// recognised when it connects again.
fn remember_agent(state: &State, key: &Key, old: &EntityRecord, changes: &mut Changes) {
    for name in state.streams_of_agent(&old.key) {
        if let Some(record) = state.stream(name) {
            node_views::remove(state, name.clone(), record, changes);
        }
    }
    let deleted = state.entities(Kind::DeletedAgent);
    if deleted.by_key().len() >= DELETED_AGENTS_MAX
        && let Some((oldest, record)) = deleted.changed_from(0, None).next()
    {
        remove(Kind::DeletedAgent, oldest.clone(), record.clone(), changes);
    }
    changes.entities.push(EntityChange {
        kind: Kind::DeletedAgent,
        key: key.clone(),
        old: None,
        new: Some(EntityRecord::new(&Entity {
            revision: changes.revision,
            updated_at: changes.stamp_ms,
            facts: Facts::None,
            ..old.to_owned()
        })),
    });
}

/// Marks a person as deleted. The record stays for a while, so that clients with a copy see it.
fn mark_deleted(
    state: &State,
    key: Key,
    old: &EntityRecord,
    changes: &mut Changes,
) -> Result<(), ApiError> {
    if let ArchivedFacts::Person { deleted_at } = &old.facts
        && deleted_at.is_some()
    {
        return Ok(());
    }
    let mut patch = Object::default();
    let stamp = Value::Number(json::Number::Unsigned(changes.stamp_ms));
    patch.insert("deleted_at", stamp);
    let save = EntitySave {
        kind: Kind::Person,
        key,
        patch,
        on_create: Object::default(),
        episode: EpisodeProgress::default(),
    };
    save_entity(state, save, None, changes).map(|_| ())
}

/// Whether another token has this key: a key identifies one token.
fn is_key_of_another(state: &State, token: &Key, digest: &[u8; 32]) -> bool {
    let tokens = state.entities(Kind::ApiToken).by_key();
    let mut others = tokens.iter().filter(|(other, _)| *other != token);
    others.any(|(_, other)| other.token_digest() == Some(digest))
}
