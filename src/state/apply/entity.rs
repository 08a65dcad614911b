//! Entities: saving one of any kind, what a kind demands beyond its schema, and what is due by age.

use super::episode::{appear, save_automatic};
use super::merge::{merge_with, stored};
use super::stream::{move_nodes, streamer_not_found_in_body};
use super::{Changes, EntityChange, Stamp, StreamChange};
use crate::http::error::ApiError;
use crate::json::{self, Object, Value};
use crate::state::State;
use crate::state::command::{EntitySave, EpisodeNews, LayoutPatch};
use crate::state::entity::{self, Key, Kind};
use crate::state::record::{ArchivedFacts, Entity, EntityRecord, Facts, Layout, NodeRole};
use crate::state::retention::{Retention, Verdict, verdict};

/// Deleted agents that are remembered; above, those deleted first are forgotten and get what unknown agents get.
pub const DELETED_AGENTS_MAX: usize = 100_000;

pub(super) fn save_entity(
    state: &State,
    save: EntitySave,
    layout: Option<&LayoutPatch>,
    stamp: Stamp,
    pointer: &str,
    changes: &mut Changes,
) -> Result<EntityRecord, ApiError> {
    let EntitySave {
        kind,
        key,
        mut patch,
        on_create,
        episode,
    } = save;
    let old = state.entities(kind).get(&key);
    let mut entity = match old {
        Some(old) => old.to_owned(),
        None => {
            for (name, value) in on_create.iter() {
                if matches!(patch.get(name), None | Some(Value::Null)) {
                    patch.insert(name, value.clone());
                }
            }
            Entity {
                key: key.to_string(),
                ..Entity::default()
            }
        }
    };
    if let Facts::Person {
        deleted_at: Some(_),
    } = entity.facts
        && !patch.contains_key("deleted_at")
    {
        // Who is saved exists again.
        patch.insert("deleted_at", Value::Null);
    }
    if kind == Kind::Episode && old.is_none() {
        appear(&mut patch, stamp);
    }
    // The schema demands the key and the stamp, and knows nothing of where they come from.
    let own = [
        (kind.key_field(), key.to_value()),
        (
            "updated_at",
            Value::Number(json::Number::Unsigned(stamp.ms)),
        ),
    ];
    let mut merged = merge_with(
        kind.schema(),
        &entity.config,
        &entity.filled,
        patch,
        &own,
        pointer,
    )?;
    for (name, _) in &own {
        merged.remove(name);
    }
    entity.facts = entity::facts(kind, &merged, old.map(|_| &entity.facts), pointer)?;
    if let Facts::Token { digest } = &entity.facts
        && is_key_of_another(state, &key, digest)
    {
        return Err(ApiError::bad_body(
            format!("{pointer}/key"),
            "not_unique",
            "Another token has this key",
        ));
    }
    let mut goes_on = false;
    if let Facts::Episode {
        publication,
        closed_at,
        ..
    } = &mut entity.facts
    {
        *publication = episode.publication.or(*publication);
        goes_on = episode.goes_on && closed_at.is_none();
    }
    let stored = stored(kind.schema(), merged);
    entity.has_secrets = stored.has_secrets;
    entity.config = stored.config;
    entity.filled = stored.filled;
    if let Some(layout) = layout
        && !state.agent_has_streams(&entity.key)
    {
        let at = format!("{pointer}/layout");
        place_agent(state, &mut entity.facts, layout, stamp, &at)?;
    }
    if kind == Kind::Agent
        && let Some(left) = state.entities(Kind::DeletedAgent).get(&key)
    {
        // Whoever is saved anew is not deleted any more.
        changes.entities.push(EntityChange {
            kind: Kind::DeletedAgent,
            key: key.clone(),
            old: Some(left.clone()),
            new: None,
        });
    }
    Ok(finish_entity(
        kind, key, old, entity, goes_on, stamp, changes,
    ))
}

/// Gives a changed entity its stamps; one that `goes_on` gets a new one though nothing else changed.
pub(super) fn finish_entity(
    kind: Kind,
    key: Key,
    old: Option<&EntityRecord>,
    mut entity: Entity,
    goes_on: bool,
    stamp: Stamp,
    changes: &mut Changes,
) -> EntityRecord {
    if let Some(old) = old
        && **old == entity
        && !goes_on
    {
        return old.clone();
    }
    entity.revision = stamp.revision;
    entity.updated_at = stamp.ms;
    let new = EntityRecord::new(&entity);
    changes.entities.push(EntityChange {
        kind,
        key,
        old: old.cloned(),
        new: Some(new.clone()),
    });
    new
}

/// Writes a wanted layout into an agent: of all that a layout has, an agent has the ingest.
pub(super) fn place_agent(
    state: &State,
    facts: &mut Facts,
    wanted: &LayoutPatch,
    stamp: Stamp,
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
    let at = || format!("{pointer}/ingest");
    let streamer = state
        .streamer(host)
        .ok_or_else(|| streamer_not_found_in_body(at(), host))?;
    if NodeRole::parse(streamer.role.as_str()) != Some(NodeRole::Streamer) {
        let title = "The node has another role";
        return Err(ApiError::bad_body(at(), "wrong_node_role", title)
            .with("hostname", host)
            .with("role", streamer.role.as_str()));
    }
    *layout = Some(Layout {
        ingest: Some(host.to_string()),
        created_at: stamp.ms,
        by_layouter: wanted.by_layouter,
        ..Layout::default()
    });
    Ok(())
}

/// What goes with an agent: its streams. What stays: that it was here, and the key by which it will be known again.
pub(super) fn leave_agent(
    state: &State,
    key: &Key,
    old: &EntityRecord,
    stamp: Stamp,
    changes: &mut Changes,
) {
    for name in state.streams_of_agent(&old.key) {
        let Some(stream) = state.stream(name) else {
            continue;
        };
        move_nodes(state, Some(stream), None, &mut changes.nodes);
        changes.streams.push(StreamChange {
            name: name.clone(),
            old: Some(stream.clone()),
            new: None,
        });
    }
    let left = state.entities(Kind::DeletedAgent);
    if left.by_key().len() >= DELETED_AGENTS_MAX
        && let Some((oldest, record)) = left.changed_from(0, None).next()
    {
        changes.entities.push(EntityChange {
            kind: Kind::DeletedAgent,
            key: oldest.clone(),
            old: Some(record.clone()),
            new: None,
        });
    }
    changes.entities.push(EntityChange {
        kind: Kind::DeletedAgent,
        key: key.clone(),
        old: None,
        new: Some(EntityRecord::new(&Entity {
            revision: stamp.revision,
            updated_at: stamp.ms,
            facts: Facts::None,
            ..old.to_owned()
        })),
    });
}

/// Does what is due for one entity.
pub(super) fn keep_house(
    state: &State,
    kind: Kind,
    key: Key,
    kept: &Retention,
    stamp: Stamp,
    changes: &mut Changes,
) -> Result<(), ApiError> {
    let Some(record) = state.entities(kind).get(&key) else {
        return Ok(());
    };
    match verdict(state, record, kept, stamp.ms) {
        Verdict::Keep => Ok(()),
        Verdict::Remove => {
            changes.entities.push(EntityChange {
                kind,
                key,
                old: Some(record.clone()),
                new: None,
            });
            Ok(())
        }
        Verdict::Close { at } => save_automatic(state, record, Some(at), Some(at), stamp, changes),
        Verdict::Renew => save_automatic(state, record, None, None, stamp, changes),
    }
}

/// A person who is deleted stays for a while as deleted, so that whoever holds a copy learns of it.
pub(super) fn mark_deleted(
    state: &State,
    key: Key,
    old: &EntityRecord,
    stamp: Stamp,
    changes: &mut Changes,
) -> Result<(), ApiError> {
    if let ArchivedFacts::Person { deleted_at } = &old.facts
        && deleted_at.is_some()
    {
        return Ok(());
    }
    let mut patch = Object::default();
    patch.insert(
        "deleted_at",
        Value::Number(json::Number::Unsigned(stamp.ms)),
    );
    let save = EntitySave {
        kind: Kind::Person,
        key,
        patch,
        on_create: Object::default(),
        episode: EpisodeNews::default(),
    };
    save_entity(state, save, None, stamp, "", changes).map(|_| ())
}

/// Who calls with a key is one token.
pub(super) fn is_key_of_another(state: &State, token: &Key, digest: &[u8; 32]) -> bool {
    let tokens = state.entities(Kind::ApiToken).by_key();
    let mut others = tokens.iter().filter(|(other, _)| *other != token);
    others.any(|(_, other)| other.token_digest() == Some(digest))
}
