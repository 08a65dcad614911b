//! The event of an API call: what it changed, and the streams that it is about.

use super::State;
use super::changed_members::ChangedMembers;
use super::changes::Changes;
use super::entity::Kind;
use super::event::{
    Audit, AuditSubject, EntityType, EventList, LIST_BYTES_MAX, LIST_MAX, NewEvent,
};
use crate::json::write_string;

/// The event of an applied command. `state` is the one before it.
pub fn call_event(audit: &Audit, state: &State, changes: &Changes) -> NewEvent {
    let event = audit.event(changes.done.status());
    let event = changed_members(state, changes).add_to(event);
    let event = match audit.subject {
        AuditSubject::Batch(of) => add_entities(event, of, changes),
        AuditSubject::Entity(..) | AuditSubject::Other => event,
    };
    event.about_streams(changes.streams.iter().map(|change| &*change.name))
}

fn changed_members(state: &State, changes: &Changes) -> ChangedMembers {
    let mut changed = ChangedMembers::default();
    for change in &changes.streams {
        if let Some(new) = &change.new {
            changed.compare_streams(change.old.as_deref(), new);
        }
    }
    for change in &changes.streamers {
        if let Some(new) = &change.new {
            let old = state.streamer(&change.hostname);
            changed.compare_streamers(old.map(|old| &**old), new);
        }
    }
    // Records of the server itself are not served.
    let entities = changes.entities.iter();
    for change in entities.filter(|change| change.kind.is_served()) {
        if let Some(new) = &change.new {
            changed.compare_entities(change.old.as_deref(), new);
        }
    }
    changed
}

/// Adds the entities that a batch changed: the first of them, and the number of all.
fn add_entities(event: NewEvent, of: EntityType, changes: &Changes) -> NewEvent {
    let mut list = EventList::new(LIST_MAX, LIST_BYTES_MAX);
    let mut push = |key: &str| list.push(|out| write_string(out, key));
    match of {
        EntityType::Stream => changes.streams.iter().for_each(|it| push(&it.name)),
        EntityType::Streamer => changes.streamers.iter().for_each(|it| push(&it.hostname)),
        EntityType::Agent => {
            let agents = changes.entities.iter().filter(|it| it.kind == Kind::Agent);
            agents.for_each(|it| push(&it.key.to_string()));
        }
    }
    let count = list.count();
    event
        .json("entities", &list.finish())
        .number("entities_count", count)
        .text("entity_type", of.as_str())
}
