//! Decides what a command changes. Pure: no clock, no I/O, no randomness.
//!
//! [`apply`] merges into the newest state, validates, and returns the records to store and what
//! each node can see of them; it never touches the state. A command is applied whole or not at all.
//! A command that changes nothing returns no records: saving an entity again as it is moves no
//! stamp and wakes no poll.

mod entity;
mod episode;
mod expiry;
mod layout;
mod merge;
mod node_views;
mod pause;
mod report_gap;
mod selected;
mod stream;
mod streamer;

use super::State;
use super::changes::Done;
use super::command::Command;
use crate::error::{self, ApiError};

pub use super::changes::{
    Changes, EntityChange, Lost, NodeChange, Stamp, StreamChange, StreamerChange,
};
use super::invalid::with_values;
pub use super::invalid::{checked, invalid};

/// Decides what `command` changes at `stamp`.
#[rustfmt::skip]
pub fn apply(state: &State, command: Command, stamp: Stamp) -> Result<Changes, ApiError> {
    use Command as C;
    let mut changes = Changes::none(stamp);
    let to = &mut changes;
    let done = match command {
        C::SaveStream { name, patch } => stream::save_one(state, &name, patch, to)?,
        C::SaveStreams { items } => stream::save_all(state, items, to)?,
        C::DeleteStream { name } => stream::delete(state, name, to)?,
        C::ChangeSelected { items, change } => selected::change(state, items, &change, to)?,
        C::SetLayouts { items } => layout::set(state, items, to)?,
        C::Place { items } => layout::carry_out(state, items, to),
        C::EndHandovers { items } => layout::end_handovers(state, &items, to),
        C::SaveStreamer { hostname, patch } => streamer::save_one(state, &hostname, patch, to)?,
        C::SaveStreamers { items } => streamer::save_all(state, items, to)?,
        C::DeleteStreamer { hostname } => streamer::delete(state, hostname, to)?,
        C::SetMaintenance { hostname, wanted } =>
            streamer::set_maintenance(state, &hostname, wanted, to)?,
        C::PauseLayouter { wanted, by } => pause::set(state, wanted, &by, to)?,
        C::ExpirePause { revision } => pause::expire(state, revision, to),
        C::SaveEntity(save) => entity::save_one(state, save, None, to)?,
        C::SaveAgent { save, layout } => entity::save_one(state, save, layout.as_ref(), to)?,
        C::SetAgentLayouts { items } => entity::set_agent_layouts(state, items, to)?,
        C::DeleteEntity { kind, key } => entity::delete(state, kind, key, to)?,
        C::ReportPublication { stream, report } =>
            episode::on_publication(state, &stream, report, to)?,
        C::OpenReportGaps { items } => report_gap::open(state, items, to),
        C::FillReportGap(fill) => report_gap::fill(state, fill, to),
        C::ExpireEntities { retention, due } => expiry::expire_all(state, due, &retention, to),
        C::AppendEvents { events } => { to.events = events; Done::Nothing }
    };
    changes.done = done;
    Ok(changes)
}

/// The error for a stream that is not there.
pub fn stream_not_found() -> ApiError {
    error::STREAM_NOT_FOUND.error()
}

/// The error for a streamer that is not there.
pub fn streamer_not_found() -> ApiError {
    error::STREAMER_NOT_FOUND.error()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use crate::state::command::StreamPatch;
    use crate::state::name::{Hostname, StreamName};
    use crate::state::node::{RenderSettings, render};

    /// A state to which commands are applied, one per revision.
    struct ApplyFixture(State);

    impl ApplyFixture {
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

        fn sent(&self, hostname: &str, stream: &str) -> String {
            let record = self.0.stream(stream).expect("is there");
            let node = self.0.node(hostname).expect("is there");
            let mut text = Vec::new();
            render(&self.0, record, node.streams[stream], hostname, &mut text);
            String::from_utf8(text).expect("JSON")
        }
    }

    #[test]
    fn members_of_a_former_variant_are_dropped() {
        // Goal: a union's members follow its discriminator. Method: a streamer becomes an inference
        // node, which has no bandwidth.
        let mut sut = ApplyFixture::new();
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
    fn changed_address_is_sent_to_the_nodes_that_pull_from_it() {
        // Goal: a node is sent a new address that it pulls from, of the ingest node or of a node
        // with a copy of the archive.
        for (moving, reader) in [("h1", "h2"), ("h2", "h1")] {
            let mut sut = ApplyFixture::new();
            for host in ["h1", "h2"] {
                sut.streamer(host, r#"{"role":"streamer","cluster_key":"k"}"#);
            }
            sut.stream(
                "a",
                concat!(
                    r#"{"inputs":[{"url":"udp://239.0.0.1:1234"}],"dvr":{"root":"/d"},"#,
                    r#""layout":{"ingest":"h1","dvr_backups":["h2"]}}"#
                ),
            );
            assert!(!sut.sent(reader, "a").contains("10.0.0.9"));
            let before = sut.0.node(reader).expect("is there").generation;
            let changes = sut.streamer(moving, r#"{"private_payload_url":"http://10.0.0.9:81"}"#);
            assert!(sut.sent(reader, "a").contains("m4s://10.0.0.9:81/a"));
            assert!(
                changes
                    .nodes
                    .iter()
                    .any(|change| change.hostname.as_str() == reader && change.visible),
                "{reader} is not sent the new address of {moving}"
            );
            assert!(sut.0.node(reader).expect("is there").generation > before);
        }
    }

    #[test]
    fn members_of_the_control_plane_are_not_sent() {
        let mut sut = ApplyFixture::new();
        sut.streamer(
            "h",
            r#"{"role":"streamer","cluster_key":"k","namespace":"n"}"#,
        );
        sut.stream(
            "a",
            concat!(
                r#"{"namespace":"n","inputs":[{"url":"udp://239.0.0.1:1234"}],"#,
                r#""labels":{"x":"y"},"layout":{"ingest":"h"}}"#
            ),
        );
        let sent = sut.sent("h", "a");
        assert!(sent.contains("239.0.0.1"), "{sent}");
        for member in ["namespace", "labels", "layout", "updated_at"] {
            assert!(!sent.contains(member), "{member} in {sent}");
        }
    }

    #[test]
    fn saving_again_changes_nothing() {
        let mut sut = ApplyFixture::new();
        let streamer = r#"{"role":"streamer","cluster_key":"k"}"#;
        let stream = r#"{"inputs":[{"url":"udp://239.0.0.1:1234"}],"layout":{"ingest":"h"}}"#;
        sut.streamer("h", streamer);
        sut.stream("a", stream);
        assert!(sut.streamer("h", streamer).is_empty());
        assert!(sut.stream("a", stream).is_empty());
        assert!(!sut.stream("a", r#"{"title":"t"}"#).is_empty());
    }
}
