//! What a command changes. Pure: no clock, no I/O, no randomness.
//!
//! [`apply`] merges into the newest state, validates and returns the records to store and what each node can see of it; it never touches
//! the state. A command is applied whole or not at all. A command that changes nothing returns no records: saving what is
//! already saved moves no stamp and wakes nobody.

use super::State;
use super::command::{
    CHANGE_REASONS, Command, Done, EntitySave, EpisodeNews, LayoutPatch, Placement, StreamPatch,
};
use super::entity::{self, Key, Kind};
use super::episode::{self, OpenPublication, PublicationNews, Step};
use super::event::NewEvent;
use super::name::{Hostname, StreamName};
use super::node::{holders, pull_authority, render};
use super::record::{
    ArchivedFacts, Entity, EntityRecord, Facts, LAYOUTS_KEPT_MAX, LAYOUTS_KEPT_MS, Layout,
    NodeRole, Publication, Role, Stream, StreamRecord, Streamer, StreamerRecord,
};
use super::retention::{Retention, Verdict, verdict};
use crate::http::error::{ApiError, ErrorItem};
use crate::json::{self, Object, Value, patch};
use crate::schema::{self, Schema, Violation};

/// When a command is applied: the sequence number of its batch and the batch's stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub revision: u64,
    /// UTC ms, above every stamp of earlier batches.
    pub ms: u64,
}

/// Records to store and indexes to move.
#[derive(Debug, Clone)]
pub struct Changes {
    pub revision: u64,
    pub stamp_ms: u64,
    pub streams: Vec<StreamChange>,
    pub streamers: Vec<StreamerChange>,
    pub nodes: Vec<NodeChange>,
    pub entities: Vec<EntityChange>,
    /// What happened beside what was asked for; the batch numbers them.
    pub events: Vec<NewEvent>,
    pub done: Done,
}

#[derive(Debug, Clone)]
pub struct EntityChange {
    pub kind: Kind,
    pub key: Key,
    pub old: Option<EntityRecord>,
    pub new: Option<EntityRecord>,
}

#[derive(Debug, Clone)]
pub struct StreamChange {
    pub name: StreamName,
    pub old: Option<StreamRecord>,
    pub new: Option<StreamRecord>,
}

#[derive(Debug, Clone)]
pub struct StreamerChange {
    pub hostname: Hostname,
    pub new: Option<StreamerRecord>,
}

/// How one node's view moves.
#[derive(Debug, Clone)]
pub struct NodeChange {
    pub hostname: Hostname,
    /// A stream's new role here, or that it is no longer laid out here.
    pub holds: Option<(StreamName, Option<Role>)>,
    /// What the node is sent changes.
    pub visible: bool,
    pub lost: Lost,
}

/// What a node's answer lost that no stream's record can tell later. Anything but `Nothing` leaves a mark in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    Nothing,
    Stream(StreamName),
    Deltas,
}

impl Changes {
    fn none(stamp: Stamp, done: Done) -> Self {
        Self {
            revision: stamp.revision,
            stamp_ms: stamp.ms,
            streams: Vec::new(),
            streamers: Vec::new(),
            nodes: Vec::new(),
            entities: Vec::new(),
            events: Vec::new(),
            done,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
            && self.streamers.is_empty()
            && self.nodes.is_empty()
            && self.entities.is_empty()
    }
}

/// Decides what `command` changes at `stamp`.
pub fn apply(state: &State, command: Command, stamp: Stamp) -> Result<Changes, ApiError> {
    match command {
        Command::SaveStream { name, patch } => {
            let mut changes = Changes::none(stamp, Done::Nothing);
            let record = save_stream(state, &name, patch, stamp, "", &mut changes)?;
            changes.done = Done::Stream(record);
            Ok(changes)
        }
        Command::SaveStreams { items } => {
            let mut changes = Changes::none(stamp, Done::Nothing);
            for (i, (name, patch)) in items.into_iter().enumerate() {
                save_stream(state, &name, patch, stamp, &format!("/{i}"), &mut changes)?;
            }
            Ok(changes)
        }
        Command::DeleteStream { name } => {
            let old = state.stream(&name).cloned().ok_or_else(stream_not_found)?;
            let mut changes = Changes::none(stamp, Done::Nothing);
            move_nodes(state, Some(&old), None, &mut changes.nodes);
            changes.streams.push(StreamChange {
                name,
                old: Some(old),
                new: None,
            });
            Ok(changes)
        }
        Command::SetLayouts { items } => {
            let mut changes = Changes::none(stamp, Done::Nothing);
            for (i, (name, layout)) in items.into_iter().enumerate() {
                let at = format!("/layouts/{i}");
                let old = state
                    .stream(&name)
                    .ok_or_else(|| stream_not_found().at_pointer(format!("{at}/name")))?;
                let mut stream = old.to_owned();
                place(state, &mut stream, &layout, stamp, &at)?;
                finish_stream(state, &name, Some(old), stream, stamp, &mut changes);
            }
            Ok(changes)
        }
        Command::Place { items } => {
            let mut changes = Changes::none(stamp, Done::Nothing);
            let mut refused = Vec::new();
            let mut told = Relayouts::default();
            for (i, item) in items.into_iter().enumerate() {
                let old = state
                    .stream(&item.name)
                    .filter(|old| old.revision == item.revision);
                let placed = old.and_then(|old| {
                    let mut stream = old.to_owned();
                    let done = place(state, &mut stream, &item.layout, stamp, "");
                    done.is_ok().then_some((old, stream))
                });
                match placed {
                    Some((old, stream)) => {
                        told.push(&item);
                        finish_stream(state, &item.name, Some(old), stream, stamp, &mut changes);
                    }
                    None => refused.push(i),
                }
            }
            changes.events.extend(told.event());
            changes.done = Done::Placed { refused };
            Ok(changes)
        }
        Command::SaveStreamer { hostname, patch } => {
            let mut changes = Changes::none(stamp, Done::Nothing);
            let record = save_streamer(state, &hostname, patch, stamp, "", &mut changes)?;
            changes.done = Done::Streamer(record);
            move_addresses(state, &mut changes);
            Ok(changes)
        }
        Command::SaveStreamers { items } => {
            let mut changes = Changes::none(stamp, Done::Nothing);
            for (i, (hostname, patch)) in items.into_iter().enumerate() {
                save_streamer(
                    state,
                    &hostname,
                    patch,
                    stamp,
                    &format!("/{i}"),
                    &mut changes,
                )?;
            }
            move_addresses(state, &mut changes);
            Ok(changes)
        }
        Command::DeleteStreamer { hostname } => {
            if state.streamer(&hostname).is_none() {
                return Err(streamer_not_found());
            }
            let mut changes = Changes::none(stamp, Done::Nothing);
            // Whoever waits for this node's configuration is told that it is no longer known.
            changes.nodes.push(NodeChange {
                hostname: hostname.clone(),
                holds: None,
                visible: true,
                lost: Lost::Deltas,
            });
            changes.streamers.push(StreamerChange {
                hostname,
                new: None,
            });
            move_addresses(state, &mut changes);
            Ok(changes)
        }
        Command::SaveEntity(save) => {
            let mut changes = Changes::none(stamp, Done::Nothing);
            let kind = save.kind;
            let record = save_entity(state, save, None, stamp, "", &mut changes)?;
            changes.done = Done::Entity(kind, record);
            Ok(changes)
        }
        Command::SaveAgent { save, layout } => {
            let mut changes = Changes::none(stamp, Done::Nothing);
            let kind = save.kind;
            let layout = layout.as_ref();
            let record = save_entity(state, save, layout, stamp, "", &mut changes)?;
            changes.done = Done::Entity(kind, record);
            Ok(changes)
        }
        Command::SetAgentLayouts { items } => {
            let mut changes = Changes::none(stamp, Done::Nothing);
            for (i, (key, layout)) in items.into_iter().enumerate() {
                let at = format!("/layouts/{i}");
                let Some(old) = state.entities(Kind::Agent).get(&key) else {
                    let error = Kind::Agent.not_found().at_pointer(format!("{at}/id"));
                    return Err(ApiError {
                        status: 400,
                        ..error
                    });
                };
                if state.agent_has_streams(&old.key) {
                    continue;
                }
                let mut agent = old.to_owned();
                place_agent(state, &mut agent.facts, &layout, stamp, &at)?;
                finish_entity(
                    Kind::Agent,
                    key,
                    Some(old),
                    agent,
                    false,
                    stamp,
                    &mut changes,
                );
            }
            Ok(changes)
        }
        Command::DeleteEntity { kind, key } => {
            let entity = state.entities(kind).get(&key);
            let old = entity.cloned().ok_or_else(|| kind.not_found())?;
            let mut changes = Changes::none(stamp, Done::Nothing);
            if kind == Kind::Agent {
                leave_agent(state, &key, &old, stamp, &mut changes);
            }
            if kind == Kind::Person {
                mark_deleted(state, key, &old, stamp, &mut changes)?;
                return Ok(changes);
            }
            changes.entities.push(EntityChange {
                kind,
                key,
                old: Some(old),
                new: None,
            });
            Ok(changes)
        }
        Command::Publication { stream, news } => {
            let mut changes = Changes::none(stamp, Done::Nothing);
            on_publication(state, &stream, news, stamp, &mut changes)?;
            Ok(changes)
        }
        Command::KeepHouse { kept, looked } => {
            let mut changes = Changes::none(stamp, Done::Nothing);
            for (kind, key) in looked {
                // One that cannot be closed must not keep all others from being looked after.
                let _ = keep_house(state, kind, key, &kept, stamp, &mut changes);
            }
            Ok(changes)
        }
        Command::Note { events } => {
            let mut changes = Changes::none(stamp, Done::Nothing);
            changes.events = events;
            Ok(changes)
        }
    }
}

/// Deleted agents that are remembered; above, those deleted first are forgotten and get what unknown agents get.
pub const DELETED_AGENTS_MAX: usize = 100_000;

/// What the layouter did, as one event.
#[derive(Default)]
struct Relayouts(Vec<u8>);

impl Relayouts {
    fn push(&mut self, item: &Placement) {
        let out = &mut self.0;
        out.push(if out.is_empty() { b'[' } else { b',' });
        out.extend_from_slice(b"{\"name\":");
        json::write_string(out, &item.name);
        if let Some(Some(ingest)) = &item.layout.ingest {
            out.extend_from_slice(b",\"ingest\":");
            json::write_string(out, ingest);
        }
        out.extend_from_slice(b",\"why\":");
        json::write_string(out, item.why);
        out.push(b'}');
    }

    fn event(mut self) -> Option<NewEvent> {
        if self.0.is_empty() {
            return None;
        }
        self.0.push(b']');
        let relayouts = String::from_utf8(self.0).expect("written JSON is UTF-8");
        Some(NewEvent::new("layouter_processing_result").json("relayouts", relayouts.into()))
    }
}

/// The error for a stream that is not there.
pub fn stream_not_found() -> ApiError {
    ApiError::not_found("stream_not_found", "There is no stream of this name")
}

/// The error for a streamer that is not there.
pub fn streamer_not_found() -> ApiError {
    ApiError::not_found(
        "streamer_not_found",
        "There is no streamer of this hostname",
    )
}

fn save_stream(
    state: &State,
    name: &StreamName,
    patch: StreamPatch,
    stamp: Stamp,
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
    let namespace = merged
        .get("namespace")
        .and_then(Value::as_str)
        .map(str::to_owned);
    if old.is_some() && namespace != stream.namespace {
        return Err(namespace_is_fixed(pointer));
    }
    stream.namespace = namespace;
    stream.disabled = merged
        .get("disabled")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    let merged = Value::Object(merged);
    stream.has_secrets = schema::stream().has_secrets(&merged);
    let effective = schema::stream().effective(&merged);
    stream.config = effective.text;
    stream.filled = effective.filled;
    if let Some(layout) = &patch.layout {
        place(
            state,
            &mut stream,
            layout,
            stamp,
            &format!("{pointer}/layout"),
        )?;
    }
    Ok(finish_stream(state, name, old, stream, stamp, changes))
}

/// Gives a changed stream its stamps and finds the nodes that can see the change.
fn finish_stream(
    state: &State,
    name: &StreamName,
    old: Option<&StreamRecord>,
    mut stream: Stream,
    stamp: Stamp,
    changes: &mut Changes,
) -> StreamRecord {
    if let Some(old) = old {
        // Compared with the stamps of the old record: equal means that nothing else differs either.
        if **old == stream {
            return old.clone();
        }
    }
    stream.revision = stamp.revision;
    stream.updated_at = stamp.ms;
    let mut new = StreamRecord::new(&stream);
    let moved = move_nodes(state, old, Some(&new), &mut changes.nodes);
    if moved != [false; 3] {
        for (role, moved) in moved.into_iter().enumerate() {
            if moved {
                stream.rendered[role] = stamp.revision;
            }
        }
        new = StreamRecord::new(&stream);
    }
    changes.streams.push(StreamChange {
        name: name.clone(),
        old: old.cloned(),
        new: Some(new.clone()),
    });
    new
}

/// Compares what each holder was told with what it will be told. Returns for which roles that moved.
fn move_nodes(
    state: &State,
    old: Option<&StreamRecord>,
    new: Option<&StreamRecord>,
    nodes: &mut Vec<NodeChange>,
) -> [bool; 3] {
    let mut moved = [false; 3];
    let Some(name) = old.or(new).map(|record| StreamName::trusted(&record.name)) else {
        return moved;
    };
    let before: Vec<(&str, Role)> = old
        .map(|record| holders(record).collect())
        .unwrap_or_default();
    let after: Vec<(&str, Role)> = new
        .map(|record| holders(record).collect())
        .unwrap_or_default();
    if before.is_empty() && after.is_empty() {
        return moved;
    }
    let (mut text_before, mut text_after) = (Vec::new(), Vec::new());
    let tell = |record: Option<&StreamRecord>,
                role: Option<Role>,
                host: &str,
                text: &mut Vec<u8>|
     -> bool {
        text.clear();
        match (record, role) {
            (Some(record), Some(role)) => render(state, record, role, host, text),
            _ => false,
        }
    };
    let role_of = |list: &[(&str, Role)], host: &str| {
        list.iter()
            .find(|(other, _)| *other == host)
            .map(|(_, role)| *role)
    };
    for &(host, role) in &after {
        let role_before = role_of(&before, host);
        let was_told = tell(old, role_before, host, &mut text_before);
        let is_told = tell(new, Some(role), host, &mut text_after);
        let visible = was_told != is_told || text_before != text_after;
        if visible && is_told {
            moved[role as usize] = true;
        }
        let lost = if was_told && !is_told {
            Lost::Stream(name.clone())
        } else {
            Lost::Nothing
        };
        if visible || role_before != Some(role) {
            nodes.push(NodeChange {
                hostname: Hostname::trusted(host),
                holds: Some((name.clone(), Some(role))),
                visible,
                lost,
            });
        }
    }
    for &(host, role) in &before {
        if role_of(&after, host).is_none() {
            let was_told = tell(old, Some(role), host, &mut text_before);
            let lost = if was_told {
                Lost::Stream(name.clone())
            } else {
                Lost::Nothing
            };
            nodes.push(NodeChange {
                hostname: Hostname::trusted(host),
                holds: Some((name.clone(), None)),
                visible: was_told,
                lost,
            });
        }
    }
    moved
}

/// Writes a wanted layout into a stream. The whole of it must be possible: known nodes of the right role and namespace, no node twice.
fn place(
    state: &State,
    stream: &mut Stream,
    wanted: &LayoutPatch,
    stamp: Stamp,
    pointer: &str,
) -> Result<(), ApiError> {
    let current = stream.layouts.first().cloned().unwrap_or_default();
    let mut next = current.clone();
    let text = |host: &Option<Hostname>| host.as_ref().map(ToString::to_string);
    if let Some(ingest) = &wanted.ingest {
        next.ingest = text(ingest);
    }
    if let Some(inference) = &wanted.inference {
        next.inference = text(inference);
    }
    if let Some(backups) = &wanted.dvr_backups {
        next.dvr_backups = backups.iter().map(ToString::to_string).collect();
    }
    if let Some(failover_from) = &wanted.failover_from {
        next.failover_from = text(failover_from);
    }
    // A node that is already there may have been deleted since: it is checked only when it is newly chosen.
    let check = |host: &str, known: bool, role: NodeRole, at: String| -> Result<(), ApiError> {
        if known {
            return Ok(());
        }
        let Some(streamer) = state.streamer(host) else {
            return Err(streamer_not_found_in_body(at, host));
        };
        let streamer_role = NodeRole::parse(streamer.role.as_str()).unwrap_or_default();
        if streamer_role != role {
            let title = "The node has another role";
            return Err(ApiError::bad_body(at, "wrong_node_role", title)
                .with("hostname", host)
                .with("role", streamer.role.as_str()));
        }
        if streamer
            .namespace
            .as_ref()
            .map(rkyv::string::ArchivedString::as_str)
            != stream.namespace.as_deref()
        {
            return Err(ApiError::bad_body(
                at,
                "namespace_mismatch",
                "The stream and the node are in different namespaces",
            )
            .with("hostname", host));
        }
        Ok(())
    };
    if let Some(host) = &next.ingest {
        check(
            host,
            next.ingest == current.ingest,
            NodeRole::Streamer,
            format!("{pointer}/ingest"),
        )?;
    }
    if let Some(host) = &next.inference {
        check(
            host,
            next.inference == current.inference,
            NodeRole::Inference,
            format!("{pointer}/inference"),
        )?;
    }
    for (i, host) in next.dvr_backups.iter().enumerate() {
        let at = format!("{pointer}/dvr_backups/{i}");
        check(
            host,
            current.dvr_backups.contains(host),
            NodeRole::Streamer,
            at.clone(),
        )?;
        if next.ingest.as_ref() == Some(host) || next.dvr_backups[..i].contains(host) {
            return Err(
                ApiError::bad_body(at, "duplicate_node", "A node holds a stream once")
                    .with("hostname", host),
            );
        }
    }
    let reason = wanted
        .change_reason
        .as_deref()
        .filter(|reason| CHANGE_REASONS.contains(reason));
    if next.same_nodes(&current) {
        if wanted.change_reason.is_some() {
            next.change_reason = reason.map(str::to_owned);
        }
        if next != current {
            match stream.layouts.first_mut() {
                Some(first) => *first = next,
                None => return Ok(()),
            }
        }
        return Ok(());
    }
    next.change_reason = match (reason, wanted.by_layouter) {
        (Some(reason), _) => Some(reason.to_owned()),
        (None, false) => Some("relayout_by_api".to_owned()),
        (None, true) => None,
    };
    next.by_layouter = wanted.by_layouter;
    next.created_at = stamp.ms;
    stream.layouts.insert(0, next);
    let oldest = stamp.ms.saturating_sub(LAYOUTS_KEPT_MS);
    let mut kept = 0;
    stream.layouts.retain(|layout: &Layout| {
        kept += 1;
        kept == 1 || (kept <= LAYOUTS_KEPT_MAX && layout.created_at >= oldest)
    });
    Ok(())
}

fn save_streamer(
    state: &State,
    hostname: &Hostname,
    patch: Object,
    stamp: Stamp,
    pointer: &str,
    changes: &mut Changes,
) -> Result<StreamerRecord, ApiError> {
    let old = state.streamer(hostname);
    let mut streamer = match old {
        Some(old) => old.to_owned(),
        None => Streamer {
            hostname: hostname.to_string(),
            ..Streamer::default()
        },
    };
    let merged = merge(
        schema::streamer(),
        &streamer.config,
        &streamer.filled,
        patch,
        pointer,
    )?;
    let namespace = merged
        .get("namespace")
        .and_then(Value::as_str)
        .map(str::to_owned);
    if old.is_some() && namespace != streamer.namespace {
        return Err(namespace_is_fixed(pointer));
    }
    let role = merged
        .get("role")
        .and_then(Value::as_str)
        .and_then(NodeRole::parse)
        .unwrap_or_default();
    streamer.namespace = namespace;
    streamer.role = role;
    let cluster_key = merged.get("cluster_key").and_then(Value::as_str);
    streamer.cluster_key = String::from(cluster_key.unwrap_or_default());
    streamer.is_restreamer = merged
        .get("is_restreamer")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    (streamer.pull_tls, streamer.pull_authority) = pull_authority(&merged, hostname);
    let merged = Value::Object(merged);
    streamer.has_secrets = schema::streamer().has_secrets(&merged);
    let effective = schema::streamer().effective(&merged);
    streamer.config = effective.text;
    streamer.filled = effective.filled;
    if let Some(old) = old
        && **old == streamer
    {
        return Ok(old.clone());
    }
    streamer.revision = stamp.revision;
    streamer.updated_at = stamp.ms;
    let new = StreamerRecord::new(&streamer);
    if old.is_none() {
        // A node that was deleted and came back starts over.
        changes.nodes.push(NodeChange {
            hostname: hostname.clone(),
            holds: None,
            visible: true,
            lost: Lost::Deltas,
        });
    }
    changes.streamers.push(StreamerChange {
        hostname: hostname.clone(),
        new: Some(new.clone()),
    });
    Ok(new)
}

fn save_entity(
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
    let merged = Value::Object(merged);
    entity.has_secrets = kind.schema().has_secrets(&merged);
    let effective = kind.schema().effective(&merged);
    entity.config = effective.text;
    entity.filled = effective.filled;
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
fn finish_entity(
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
fn place_agent(
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
fn leave_agent(state: &State, key: &Key, old: &EntityRecord, stamp: Stamp, changes: &mut Changes) {
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
fn keep_house(
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

/// Notes when this server first had an episode, unless it came with that.
fn appear(patch: &mut Object, stamp: Stamp) {
    const FIELD: &str = "episode_appearance_timestamps";
    let stamp = Value::Number(json::Number::Unsigned(stamp.ms));
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
        // The schema will refuse it.
        Some(_) => {}
    }
}

/// A person who is deleted stays for a while as deleted, so that whoever holds a copy learns of it.
fn mark_deleted(
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

/// Takes the automatic episodes of a stream one step further.
fn on_publication(
    state: &State,
    stream: &StreamName,
    news: PublicationNews,
    stamp: Stamp,
    changes: &mut Changes,
) -> Result<(), ApiError> {
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
        Some(open) => save_automatic(state, open, ended_at, closed_at, stamp, changes),
        None => Ok(()),
    };
    match episode::on_publication(publication, closed_until, news, close_timeout_ms) {
        Step::Nothing => Ok(()),
        Step::Open { opened_at } => open_automatic(state, stream, opened_at, stamp, changes),
        Step::Resume => save_open(None, None, changes),
        Step::Pause { ended_at } => save_open(Some(ended_at), None, changes),
        Step::Close { closed_at } => save_open(Some(closed_at), Some(closed_at), changes),
        Step::CloseAndOpen {
            closed_at,
            opened_at,
        } => {
            save_open(Some(closed_at), Some(closed_at), changes)?;
            open_automatic(state, stream, opened_at, stamp, changes)
        }
    }
}

fn open_automatic(
    state: &State,
    stream: &StreamName,
    opened_at: u64,
    stamp: Stamp,
    changes: &mut Changes,
) -> Result<(), ApiError> {
    let episodes = state.entities(Kind::Episode);
    let mut key = Key::Number(episode::automatic_id(stream, opened_at));
    while let (Some(_), Key::Number(taken)) = (episodes.get(&key), &key) {
        key = Key::Number(taken + 1);
    }
    let mut patch = Object::default();
    patch.insert("media", Value::String(Box::from(stream.as_str())));
    patch.insert(
        "opened_at",
        Value::Number(json::Number::Unsigned(opened_at)),
    );
    let save = EntitySave {
        kind: Kind::Episode,
        key,
        patch,
        on_create: Object::default(),
        episode: EpisodeNews {
            goes_on: false,
            publication: Some(Publication { ended_at: None }),
        },
    };
    save_entity(state, save, None, stamp, "", changes).map(|_| ())
}

/// Saves how far an open automatic episode has come.
fn save_automatic(
    state: &State,
    record: &EntityRecord,
    ended_at: Option<u64>,
    closed_at: Option<u64>,
    stamp: Stamp,
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
    let save = EntitySave {
        kind: Kind::Episode,
        key: Key::trusted(Kind::Episode, &record.key),
        patch,
        on_create: Object::default(),
        episode: EpisodeNews {
            goes_on: true,
            publication: Some(Publication { ended_at }),
        },
    };
    save_entity(state, save, None, stamp, "", changes).map(|_| ())
}

/// Who calls with a key is one token.
fn is_key_of_another(state: &State, token: &Key, digest: &[u8; 32]) -> bool {
    let tokens = state.entities(Kind::ApiToken).by_key();
    let mut others = tokens.iter().filter(|(other, _)| *other != token);
    others.any(|(_, other)| other.token_digest() == Some(digest))
}

/// When a node that others pull from got another address, everybody who is told that address is told the new one.
fn move_addresses(state: &State, changes: &mut Changes) {
    let moved: Vec<&Hostname> = changes
        .streamers
        .iter()
        .filter(|change| {
            let before = state
                .streamer(&change.hostname)
                .map(|old| (old.pull_tls, old.pull_authority.to_string()));
            let after = change
                .new
                .as_ref()
                .map(|new| (new.pull_tls, new.pull_authority.to_string()));
            let by_name = || (false, change.hostname.to_string());
            let is_source = state
                .node(&change.hostname)
                .is_some_and(|node| node.is_source);
            is_source && before.unwrap_or_else(by_name) != after.unwrap_or_else(by_name)
        })
        .map(|change| &change.hostname)
        .collect();
    if moved.is_empty() {
        return;
    }
    // Rare enough for a scan of everything: an address is given when a node is set up, and then stays.
    let mut next = state.clone();
    next.absorb(changes);
    let mut told: std::collections::BTreeSet<Hostname> = std::collections::BTreeSet::new();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for shard in 0..super::SHARDS {
        for stream in state.shard(shard).values() {
            let history = stream.ingest_history();
            let named: Vec<&str> = holders(stream)
                .map(|(host, _)| host)
                .chain(history.iter().map(|(_, host, _)| *host))
                .filter(|host| moved.iter().any(|moved| moved.as_str() == *host))
                .collect();
            for (host, role) in holders(stream) {
                // Nobody is told its own address.
                if told.contains(host) || named.iter().all(|named| *named == host) {
                    continue;
                }
                before.clear();
                after.clear();
                render(state, stream, role, host, &mut before);
                render(&next, stream, role, host, &mut after);
                if before != after {
                    told.insert(Hostname::trusted(host));
                }
            }
        }
    }
    for hostname in told {
        changes.nodes.push(NodeChange {
            hostname,
            holds: None,
            visible: true,
            lost: Lost::Deltas,
        });
    }
}

/// Merges a patch into a stored configuration and validates the result.
fn merge(
    schema: &Schema,
    config: &str,
    filled: &[(u32, u32)],
    patch: Object,
    pointer: &str,
) -> Result<Object, ApiError> {
    merge_with(schema, config, filled, patch, &[], pointer)
}

/// The same; `own` are members that the server puts in before the result is checked.
fn merge_with(
    schema: &Schema,
    config: &str,
    filled: &[(u32, u32)],
    mut patch: Object,
    own: &[(&str, Value)],
    pointer: &str,
) -> Result<Object, ApiError> {
    let mut stored_text = Vec::new();
    schema::without_filled(config, filled.iter().copied(), &mut stored_text);
    let mut stored = if stored_text.is_empty() {
        Value::Object(Object::default())
    } else {
        json::parse(&stored_text).expect("a stored configuration is JSON that was written here")
    };
    let mut patch_value = Value::Object(std::mem::take(&mut patch));
    schema.unmask(&mut patch_value, &stored);
    patch::merge(&mut stored, patch_value);
    schema.name_variant(&mut stored);
    // A patch that chooses another variant of a union leaves members of the former one behind.
    schema.prune(&mut stored);
    if let Value::Object(object) = &mut stored {
        for (name, value) in own {
            object.insert(*name, value.clone());
        }
    }
    schema
        .check(&stored)
        .map_err(|violations| invalid(violations, pointer))?;
    match stored {
        Value::Object(object) => Ok(object),
        _ => Err(ApiError::bad_body(
            pointer,
            "not_object",
            "Expected a JSON object",
        )),
    }
}

/// The error for a document that is not what its schema says.
pub fn invalid(violations: Vec<Violation>, pointer: &str) -> ApiError {
    let items = violations
        .into_iter()
        .map(|violation| ErrorItem {
            code: violation.code,
            title: violation.title.into(),
            pointer: Some(format!("{pointer}{}", violation.pointer)),
            parameter: None,
            meta: violation.meta,
        })
        .collect();
    ApiError {
        status: 400,
        items,
        retry_after_seconds: None,
    }
}

fn namespace_is_fixed(pointer: &str) -> ApiError {
    ApiError::bad_body(
        format!("{pointer}/namespace"),
        "immutable_field",
        "A namespace is chosen at creation and cannot be changed",
    )
}

fn streamer_not_found_in_body(pointer: String, host: &str) -> ApiError {
    ApiError::bad_body(
        pointer,
        "streamer_not_found",
        "There is no streamer of this hostname",
    )
    .with("hostname", host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::node::RenderSettings;

    /// A state that commands are applied to, one per revision.
    struct Sut(State);

    impl Sut {
        fn new() -> Self {
            Self(State::new(1, RenderSettings::default()))
        }

        fn apply(&mut self, command: Command) -> Result<Changes, ApiError> {
            let stamp = Stamp {
                revision: self.0.revision() + 1,
                ms: self.0.stamp_ms() + 1,
            };
            let changes = apply(&self.0, command, stamp)?;
            if !changes.is_empty() {
                self.0.absorb(&changes);
            }
            Ok(changes)
        }

        fn streamer(&mut self, hostname: &str, body: &str) -> Changes {
            let hostname = Hostname::trusted(hostname);
            let body = json::parse(body.as_bytes()).expect("JSON");
            let patch = super::super::command::streamer_patch(body, &hostname, "").expect("fits");
            self.apply(Command::SaveStreamer { hostname, patch })
                .expect("is saved")
        }

        fn stream(&mut self, name: &str, body: &str) -> Changes {
            let name = StreamName::trusted(name);
            let body = json::parse(body.as_bytes()).expect("JSON");
            let patch = StreamPatch::from_body(body, &name, "").expect("fits");
            self.apply(Command::SaveStream { name, patch })
                .expect("is saved")
        }

        fn told(&self, hostname: &str, stream: &str) -> String {
            let record = self.0.stream(stream).expect("is there");
            let node = self.0.node(hostname).expect("is there");
            let mut text = Vec::new();
            render(&self.0, record, node.streams[stream], hostname, &mut text);
            String::from_utf8(text).expect("JSON")
        }
    }

    #[test]
    fn members_of_a_former_variant_do_not_outlive_it() {
        // Goal: a union's members follow its discriminator. Method: a streamer becomes an inference node, which has no bandwidth.
        let mut sut = Sut::new();
        sut.streamer(
            "h",
            r#"{"role":"streamer","cluster_key":"k","total_bandwidth":5}"#,
        );
        sut.streamer("h", r#"{"role":"inference"}"#);
        let config = sut.0.streamer("h").expect("is there").config.to_string();
        assert!(config.contains("\"role\":\"inference\""), "{config}");
        assert!(!config.contains("total_bandwidth"), "{config}");
    }

    #[test]
    fn an_address_that_others_are_told_is_told_anew_when_it_moves() {
        // Goal: whoever is told a node's address hears of its change, be it the ingest node's or that of a node with a copy of the archive.
        for (moving, told) in [("h1", "h2"), ("h2", "h1")] {
            let mut sut = Sut::new();
            for host in ["h1", "h2"] {
                sut.streamer(host, r#"{"role":"streamer","cluster_key":"k"}"#);
            }
            sut.stream(
                "a",
                r#"{"inputs":[{"url":"udp://239.0.0.1:1234"}],"dvr":{"root":"/d"},"layout":{"ingest":"h1","dvr_backups":["h2"]}}"#,
            );
            assert!(!sut.told(told, "a").contains("10.0.0.9"));
            let before = sut.0.node(told).expect("is there").generation;
            let changes = sut.streamer(moving, r#"{"private_payload_url":"http://10.0.0.9:81"}"#);
            assert!(sut.told(told, "a").contains("m4s://10.0.0.9:81/a"));
            assert!(
                changes
                    .nodes
                    .iter()
                    .any(|change| change.hostname.as_str() == told && change.visible),
                "{told} is not told that {moving} moved"
            );
            assert!(sut.0.node(told).expect("is there").generation > before);
        }
    }

    #[test]
    fn what_only_the_control_plane_knows_is_told_to_nobody() {
        let mut sut = Sut::new();
        sut.streamer(
            "h",
            r#"{"role":"streamer","cluster_key":"k","namespace":"n"}"#,
        );
        sut.stream(
            "a",
            r#"{"namespace":"n","inputs":[{"url":"udp://239.0.0.1:1234"}],"labels":{"x":"y"},"layout":{"ingest":"h"}}"#,
        );
        let told = sut.told("h", "a");
        assert!(told.contains("239.0.0.1"), "{told}");
        for member in ["namespace", "labels", "layout", "updated_at"] {
            assert!(!told.contains(member), "{member} in {told}");
        }
    }

    #[test]
    fn saving_what_is_saved_changes_nothing() {
        let mut sut = Sut::new();
        let streamer = r#"{"role":"streamer","cluster_key":"k"}"#;
        let stream = r#"{"inputs":[{"url":"udp://239.0.0.1:1234"}],"layout":{"ingest":"h"}}"#;
        sut.streamer("h", streamer);
        sut.stream("a", stream);
        assert!(sut.streamer("h", streamer).is_empty());
        assert!(sut.stream("a", stream).is_empty());
        assert!(!sut.stream("a", r#"{"title":"t"}"#).is_empty());
    }
}
