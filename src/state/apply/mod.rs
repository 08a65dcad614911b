//! What a command changes. Pure: no clock, no I/O, no randomness.
//!
//! [`apply`] merges into the newest state, validates and returns the records to store and what each node can see of it; it never touches
//! the state. A command is applied whole or not at all. A command that changes nothing returns no records: saving what is
//! already saved moves no stamp and wakes nobody.

mod entity;
mod episode;
mod merge;
mod stream;
mod streamer;

use super::State;
use super::command::{Command, Done};
use super::entity::{Key, Kind};
use super::event::NewEvent;
use super::name::{Hostname, StreamName};
use super::record::{EntityRecord, Role, StreamRecord, StreamerRecord};
use crate::http::error::ApiError;

pub use entity::DELETED_AGENTS_MAX;
pub use merge::invalid;

use entity::{finish_entity, keep_house, leave_agent, mark_deleted, place_agent, save_entity};
use episode::on_publication;
use stream::{Relayouts, finish_stream, move_nodes, place, save_stream};
use streamer::{move_addresses, save_streamer};

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

impl NodeChange {
    /// What the node is sent is another answer, which cannot be told as a difference.
    fn told_anew(hostname: Hostname) -> Self {
        Self {
            hostname,
            holds: None,
            visible: true,
            lost: Lost::Deltas,
        }
    }
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
            changes.nodes.push(NodeChange::told_anew(hostname.clone()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use crate::state::command::StreamPatch;
    use crate::state::node::{RenderSettings, render};

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
