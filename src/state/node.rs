//! What one streamer is told, and since when.
//!
//! A [`Node`] is one hostname's view of the state: which streams it holds in which role, and a *generation*, the revision at which
//! the text it would be sent last changed. Unrelated edits do not move it, so an unchanged poll costs one lookup and nobody is woken for
//! nothing. Generations survive a restart: they are rebuilt from the revisions kept in the streams' records and from the marks
//! that removals leave behind.
//!
//! [`render`] is the only place that decides what a node of each role sees of a stream. It is pure: state in, text out.

use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::State;
use super::name::{Hostname, StreamName};
use super::record::{ArchivedStream, Role};
use crate::feed::rendered::RenderedSlot;
use crate::json::{self, Value, scan, write_string};

/// Removals remembered per node for deltas; a reader that is further behind is told to reload.
pub const REMOVALS_KEPT_MAX: usize = 1024;

/// Members of a stream that only the control plane uses; a streamer never sees them.
const NEVER_SENT: [&str; 10] = [
    "claims",
    "config_on_disk",
    "disabled",
    "labels",
    "layout",
    "meta",
    "named_by",
    "position",
    "stats",
    "template",
];

/// Which streamers may restream streams they do not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Restreaming {
    /// Nobody; streamers are told not to ask.
    Off,
    /// Streamers saved with `is_restreamer`.
    #[default]
    Flagged,
    /// Every streamer.
    All,
}

/// Settings that shape what streamers are told. Part of the state, so that rendering stays a function of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RenderSettings {
    /// Appended to pull URLs as `?token=`; the nodes' auth backend lets it through.
    pub pull_token: Option<String>,
    pub restreaming: Restreaming,
}

/// One hostname's view.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Everything laid out here, disabled streams included.
    pub streams: imbl::OrdMap<StreamName, Role>,
    /// Revision of the last change this node can see.
    pub generation: u64,
    /// Stamp of that change, UTC ms.
    pub updated_at: u64,
    /// Deltas can be told from this revision on.
    pub delta_floor: u64,
    /// Revisions and names of streams that left the answer, oldest first, all above `delta_floor`.
    pub removed: imbl::Vector<(u64, StreamName)>,
    /// Some stream is or was captured here, so that a change of this host's address shows elsewhere.
    pub is_source: bool,
    /// The rendered answer of this generation, made by the first who asks.
    pub rendered: Arc<RenderedSlot>,
}

impl Node {
    /// The node's answer changes with this revision.
    pub(super) fn moved(&mut self, revision: u64, stamp_ms: u64) {
        self.generation = revision;
        self.updated_at = stamp_ms;
        self.rendered = Arc::default();
    }

    /// A stream left the answer.
    pub(super) fn remember_removal(&mut self, revision: u64, name: &StreamName) {
        self.removed.push_back((revision, name.clone()));
        while self.removed.len() > REMOVALS_KEPT_MAX {
            if let Some((dropped, _)) = self.removed.pop_front() {
                self.delta_floor = dropped;
            }
        }
        // A batch may remove more than is kept at one revision: what is left of it would be a gap.
        let floor = self.delta_floor;
        while self
            .removed
            .front()
            .is_some_and(|(revision, _)| *revision <= floor)
        {
            self.removed.pop_front();
        }
    }

    /// The answer changed in a way that no stream's record tells: readers of deltas reload.
    pub(super) fn forget_deltas(&mut self, revision: u64) {
        self.delta_floor = revision;
        self.removed.clear();
    }
}

/// The nodes a stream is laid out on, with their roles.
pub fn holders(stream: &ArchivedStream) -> impl Iterator<Item = (&str, Role)> {
    let ingest = stream.ingest().map(|host| (host, Role::Ingest));
    let inference = stream.inference().map(|host| (host, Role::Inference));
    ingest
        .into_iter()
        .chain(stream.backups().map(|host| (host, Role::Backup)))
        .chain(inference)
}

/// What `host` is told about a stream that it holds in `role`; nothing when the stream is disabled.
///
/// * Ingest: the effective configuration without the members that only the control plane uses; a `dvr` also names the other holders of the archive.
/// * Backup: the name, one pull from the ingest node, the `dvr` and the `on_play` that guards its archive.
/// * Inference: the name, the `vision` and one pull from the ingest node.
pub fn render(
    state: &State,
    stream: &ArchivedStream,
    role: Role,
    host: &str,
    out: &mut Vec<u8>,
) -> bool {
    if stream.disabled {
        return false;
    }
    let config = stream.config.as_str();
    out.extend_from_slice(b"{\"name\":");
    write_string(out, &stream.name);
    match role {
        Role::Ingest => {
            for (key, value) in scan::members(config) {
                if NEVER_SENT.contains(&key) {
                    continue;
                }
                out.push(b',');
                write_string(out, key);
                out.push(b':');
                if key == "dvr" {
                    render_dvr(state, stream, value, host, out);
                } else {
                    out.extend_from_slice(value.as_bytes());
                }
            }
        }
        Role::Backup => {
            if let Some(dvr) = scan::member(config, "dvr") {
                out.extend_from_slice(b",\"dvr\":");
                render_dvr(state, stream, dvr, host, out);
            }
            render_pull(state, stream, out);
            copy_member(config, "on_play", out);
            out.extend_from_slice(b",\"static\":true");
        }
        Role::Inference => {
            render_pull(state, stream, out);
            copy_member(config, "vision", out);
        }
    }
    out.push(b'}');
    true
}

/// What a restreamer is told about a stream it does not hold: a pull on demand. Nothing when there is nowhere to pull from.
pub fn render_restream(state: &State, stream: &ArchivedStream, out: &mut Vec<u8>) -> bool {
    if stream.disabled || stream.ingest().is_none() {
        return false;
    }
    out.extend_from_slice(b"{\"name\":");
    write_string(out, &stream.name);
    render_pull(state, stream, out);
    copy_member(&stream.config, "on_play", out);
    out.extend_from_slice(b",\"static\":false}");
    true
}

fn copy_member(config: &str, key: &str, out: &mut Vec<u8>) {
    if let Some(value) = scan::member(config, key) {
        out.push(b',');
        write_string(out, key);
        out.push(b':');
        out.extend_from_slice(value.as_bytes());
    }
}

/// `,"inputs":[{"url":pull from the ingest node}]`; no input while the stream is captured nowhere.
fn render_pull(state: &State, stream: &ArchivedStream, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"inputs\":[");
    if let Some(ingest) = stream.ingest() {
        out.extend_from_slice(b"{\"url\":");
        write_string(out, &pull_url(state, ingest, &stream.name));
        out.push(b'}');
    }
    out.push(b']');
}

/// The DVR configuration with every other node that has some of this archive among its `remotes`.
fn render_dvr(state: &State, stream: &ArchivedStream, dvr: &str, host: &str, out: &mut Vec<u8>) {
    let mut sources: Vec<&str> = Vec::new();
    let former = stream.ingest_history();
    let all = stream
        .ingest()
        .into_iter()
        .chain(stream.backups())
        .chain(former.iter().map(|(_, host, _)| *host));
    for source in all {
        if source != host && !sources.contains(&source) {
            sources.push(source);
        }
    }
    let parsed = if sources.is_empty() {
        None
    } else {
        json::parse(&mut dvr.as_bytes().to_vec()).ok()
    };
    let Some(Value::Object(mut dvr_object)) = parsed else {
        out.extend_from_slice(dvr.as_bytes());
        return;
    };
    let mut remotes: Vec<Value> = match dvr_object.remove("remotes") {
        Some(Value::Array(given)) => given,
        _ => Vec::new(),
    };
    for source in sources {
        let url = Value::from(pull_url(state, source, &stream.name).as_str());
        if !remotes.contains(&url) {
            remotes.push(url);
        }
    }
    dvr_object.insert("remotes", Value::Array(remotes));
    Value::Object(dvr_object).write(out);
}

/// Bytes of a stream's name that a path may carry as they are.
const PATH_KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// `m4s://HOST[:PORT]/NAME[?token=T]`: how nodes read a stream from each other. A host that is not saved here is addressed by its name.
fn pull_url(state: &State, host: &str, name: &str) -> String {
    let (tls, authority) = match state.streamer(host) {
        Some(streamer) => (streamer.pull_tls, streamer.pull_authority.to_string()),
        None => (false, host.to_owned()),
    };
    let scheme = if tls { "m4ss" } else { "m4s" };
    let path = utf8_percent_encode(name, PATH_KEPT);
    match &state.settings().pull_token {
        Some(token) => format!(
            "{scheme}://{authority}/{path}?token={}",
            utf8_percent_encode(token, NON_ALPHANUMERIC)
        ),
        None => format!("{scheme}://{authority}/{path}"),
    }
}

/// Which part of a streamer's saved URLs other nodes pull from: `private_payload_url`, else `api_url`, else its hostname. Returns TLS and `host[:port]`.
pub fn pull_authority(config: &json::Object, hostname: &Hostname) -> (bool, String) {
    for field in ["private_payload_url", "api_url"] {
        let Some(url) = config.get(field).and_then(Value::as_str) else {
            continue;
        };
        let Some((scheme, rest)) = url.split_once("://") else {
            continue;
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        // Credentials in the URL are for this server's calls, not for other nodes.
        let authority = authority.rsplit('@').next().unwrap_or_default();
        if !authority.is_empty() {
            return (matches!(scheme, "https" | "m4ss"), authority.to_owned());
        }
    }
    (false, hostname.as_str().to_owned())
}
