//! The model: what the server promises, written a second time and without any care for speed.
//!
//! Plain `BTreeMap`s of JSON; its own merge patch, its own rules of layouts, its own rendering of a
//! node's configuration. Independent of records, indexes, generations and shards.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::op::Op;

/// Fields of a stream that its ingest node does not receive.
#[rustfmt::skip]
const HIDDEN: [&str; 13] = [
    "disabled", "health", "placed", "template", "stats", "meta", "position", "named_by",
    "config_on_disk", "layout", "claims", "labels", "namespace",
];

const HISTORY_MAX: usize = 100;
const HISTORY_MS: u64 = 90 * 24 * 3600 * 1000;

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Layout {
    pub ingest: Option<String>,
    pub inference: Option<String>,
    pub backups: Vec<String>,
    pub failover_from: Option<String>,
    pub created_at: u64,
    pub by_layouter: bool,
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stream {
    /// What the operator stored, without the name.
    pub config: Map<String, Value>,
    /// Newest first.
    pub layouts: Vec<Layout>,
    /// The node that keeps the stream after a planned move.
    pub kept_by: Option<String>,
    pub revision: u64,
    pub updated_at: u64,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Streamer {
    pub config: Map<String, Value>,
    pub revision: u64,
    pub updated_at: u64,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Episode {
    /// Without the id, the stamp and when it appeared.
    pub config: Map<String, Value>,
    pub revision: u64,
    pub updated_at: u64,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Model {
    pub revision: u64,
    pub stamp_ms: u64,
    pub streams: BTreeMap<String, Stream>,
    pub streamers: BTreeMap<String, Streamer>,
    pub episodes: BTreeMap<u64, Episode>,
}

/// A status of the API and nothing else.
pub type Refused = u16;

/// The role of a node for a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Ingest,
    Backup,
    Inference,
}

impl Model {
    /// Operations that are written together: each whole or not at all; stamps move when anything
    /// changed.
    pub fn batch(&mut self, ops: &[Op], now_ms: u64) -> Vec<Result<(), Refused>> {
        let (revision, stamp_ms) = (self.revision + 1, now_ms.max(self.stamp_ms + 1));
        let mut outcomes = Vec::new();
        let mut changed = false;
        for op in ops {
            let mut next = self.clone();
            let outcome = next.apply(op, revision, stamp_ms);
            if outcome.is_ok() && next != *self {
                *self = next;
                changed = true;
            }
            outcomes.push(outcome);
        }
        if changed {
            (self.revision, self.stamp_ms) = (revision, stamp_ms);
        }
        outcomes
    }

    fn apply(&mut self, op: &Op, revision: u64, stamp_ms: u64) -> Result<(), Refused> {
        match op {
            Op::SaveStream(name, patch) => self.save_stream(name, patch, revision, stamp_ms),
            Op::SaveStreams(items) => items.iter().try_for_each(|item| {
                self.save_stream(&key(item, "name"), item, revision, stamp_ms)
            }),
            Op::DeleteStream(name) => self.streams.remove(name).map(|_| ()).ok_or(404),
            Op::SetLayouts(items) => items
                .iter()
                .try_for_each(|item| self.set_layout(item, false, revision, stamp_ms)),
            Op::MoveStreams(items) => items
                .iter()
                .try_for_each(|item| self.set_layout(item, true, revision, stamp_ms)),
            Op::EndHandovers(ends) => {
                for (name, from, to) in ends {
                    let stream = self.streams.get(name).filter(|stream| {
                        let ingest = stream.layouts.first().and_then(|it| it.ingest.as_ref());
                        stream.kept_by.as_ref() == Some(from) && ingest == Some(to)
                    });
                    if let Some(mut stream) = stream.cloned() {
                        stream.kept_by = None;
                        self.keep_stream(name.clone(), stream, revision, stamp_ms);
                    }
                }
                Ok(())
            }
            Op::SaveStreamer(host, patch) => self.save_streamer(host, patch, revision, stamp_ms),
            Op::SaveStreamers(items) => items.iter().try_for_each(|item| {
                self.save_streamer(&key(item, "hostname"), item, revision, stamp_ms)
            }),
            Op::DeleteStreamer(host) => self.streamers.remove(host).map(|_| ()).ok_or(404),
            Op::SaveEpisode(id, patch) => self.save_episode(*id, patch, revision, stamp_ms),
            Op::DeleteEpisode(id) => self.episodes.remove(id).map(|_| ()).ok_or(404),
        }
    }

    fn set_layout(
        &mut self,
        item: &Value,
        hands_over: bool,
        revision: u64,
        stamp_ms: u64,
    ) -> Result<(), Refused> {
        let name = key(item, "name");
        let mut stream = self.streams.get(&name).cloned().ok_or(400_u16)?;
        let before = stream.layouts.first().cloned().unwrap_or_default();
        let kept_before = stream.kept_by.clone();
        self.place(&mut stream, item, stamp_ms)?;
        let after = stream.layouts.first().cloned().unwrap_or_default();
        let has_moved = nodes_of(&before) != nodes_of(&after);
        let is_back = kept_before.is_some() && kept_before == after.ingest;
        if has_moved && hands_over && !is_back && stream.kept_by.is_none() {
            stream.kept_by = before.ingest;
            self.recheck_keeper(&mut stream);
        }
        self.keep_stream(name, stream, revision, stamp_ms);
        Ok(())
    }

    /// A node keeps what it ran only while a stream may run twice and the node may have it.
    fn recheck_keeper(&self, stream: &mut Stream) {
        let layout = stream.layouts.first().cloned().unwrap_or_default();
        let is_given = |field: &str| stream.config.get(field).is_some_and(|it| !it.is_null());
        let may_keep = |host: &String| {
            self.streamers.get(host).is_some_and(|streamer| {
                streamer.config["role"] == "streamer"
                    && streamer.config.get("namespace") == stream.config.get("namespace")
            }) && stream.config.get("disabled") != Some(&json!(true))
                && !is_given("dvr")
                && !is_given("template")
                && layout.ingest.as_ref().is_some_and(|ingest| ingest != host)
                && !layout.backups.contains(host)
        };
        let kept_by = stream.kept_by.take();
        stream.kept_by = kept_by.filter(may_keep);
    }

    fn save_stream(
        &mut self,
        name: &str,
        patch: &Value,
        revision: u64,
        stamp_ms: u64,
    ) -> Result<(), Refused> {
        if patch.get("name").is_some_and(|given| given != name) {
            return Err(400);
        }
        let old = self.streams.get(name);
        let mut stream = old.cloned().unwrap_or_default();
        let mut patch = patch.clone();
        let members = patch.as_object_mut().ok_or(400_u16)?;
        let layout = members.remove("layout");
        let resets = members.get("$reset") == Some(&json!(true));
        for dropped in ["name", "no_such_field", "stats", "updated_at"] {
            members.remove(dropped);
        }
        let mut merged = Value::Object(stream.config.clone());
        merge(&mut merged, &patch);
        if merged["title"].is_number() || merged["segment_duration"].is_number() {
            return Err(400);
        }
        let namespace = merged["namespace"].clone();
        if let Some(old) = old
            && old.config.get("namespace").unwrap_or(&Value::Null) != &namespace
        {
            return Err(400);
        }
        let mut config = object_of(merged);
        let had_default = old.is_some_and(|old| old.config.contains_key("static"));
        if !had_default && config.get("static") == Some(&json!(true)) {
            // A default is stored only where something else was stored before.
            config.remove("static");
        }
        stream.config = config;
        match layout {
            None => {}
            Some(Value::Null) => {
                let nowhere = json!({
                    "ingest": null, "inference": null, "dvr_backups": null, "failover_from": null,
                });
                self.place(&mut stream, &nowhere, stamp_ms)?;
            }
            Some(mut layout) => {
                if resets {
                    layout["$reset"] = json!(true);
                }
                self.place(&mut stream, &layout, stamp_ms)?;
            }
        }
        self.recheck_keeper(&mut stream);
        self.keep_stream(name.into(), stream, revision, stamp_ms);
        Ok(())
    }

    fn keep_stream(&mut self, name: String, mut stream: Stream, revision: u64, stamp_ms: u64) {
        if self.streams.get(&name) != Some(&stream) {
            (stream.revision, stream.updated_at) = (revision, stamp_ms);
            self.streams.insert(name, stream);
        }
    }

    fn place(&self, stream: &mut Stream, wanted: &Value, stamp_ms: u64) -> Result<(), Refused> {
        let current = stream.layouts.first().cloned().unwrap_or_default();
        let mut next = current.clone();
        let resets = wanted.get("$reset") == Some(&json!(true));
        if resets {
            next.backups.clear();
        }
        let host = |field: &str, to: &mut Option<String>| {
            let absent = resets.then_some(&Value::Null);
            if let Some(value) = wanted.get(field).or(absent) {
                *to = value.as_str().map(str::to_owned);
            }
        };
        host("ingest", &mut next.ingest);
        host("inference", &mut next.inference);
        host("failover_from", &mut next.failover_from);
        if let Some(value) = wanted.get("dvr_backups") {
            next.backups = value
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
        }
        let namespace = stream.config.get("namespace");
        let may_hold = |host: &String, role: &str| {
            self.streamers.get(host).is_some_and(|streamer| {
                streamer.config["role"] == role && streamer.config.get("namespace") == namespace
            })
        };
        let newly = |new: &Option<String>, old: &Option<String>| new.clone().filter(|_| new != old);
        let chosen = newly(&next.ingest, &current.ingest);
        if chosen.is_some_and(|host| !may_hold(&host, "streamer")) {
            return Err(400);
        }
        let chosen = newly(&next.inference, &current.inference);
        if chosen.is_some_and(|host| !may_hold(&host, "inference")) {
            return Err(400);
        }
        let mut holders: BTreeSet<&String> = next.ingest.iter().collect();
        for backup in &next.backups {
            let is_new = !current.backups.contains(backup);
            if (is_new && !may_hold(backup, "streamer")) || !holders.insert(backup) {
                return Err(400);
            }
        }
        let reason = wanted.get("change_reason").and_then(Value::as_str);
        if nodes_of(&next) == nodes_of(&current) {
            if let Some(first) = stream.layouts.first_mut() {
                first.failover_from = next.failover_from;
                if let Some(reason) = reason {
                    first.reason = Some(reason.into());
                }
            }
            return Ok(());
        }
        next.by_layouter = wanted
            .get("originator")
            .is_some_and(|who| who == "layouter");
        next.reason = match reason {
            Some(reason) => Some(reason.into()),
            None if next.by_layouter => None,
            None => Some("relayout_by_api".into()),
        };
        next.created_at = stamp_ms;
        stream.layouts.insert(0, next);
        stream.layouts.truncate(HISTORY_MAX);
        let mut first = true;
        stream.layouts.retain(|layout| {
            std::mem::take(&mut first) || layout.created_at + HISTORY_MS >= stamp_ms
        });
        self.recheck_keeper(stream);
        Ok(())
    }

    fn save_streamer(
        &mut self,
        host: &str,
        patch: &Value,
        revision: u64,
        stamp_ms: u64,
    ) -> Result<(), Refused> {
        if patch.get("hostname").is_some_and(|given| given != host) {
            return Err(400);
        }
        let old = self.streamers.get(host);
        let mut streamer = old.cloned().unwrap_or_default();
        let mut patch = patch.clone();
        let members = patch.as_object_mut().ok_or(400_u16)?;
        for dropped in ["hostname", "no_such_field"] {
            members.remove(dropped);
        }
        let mut merged = Value::Object(streamer.config.clone());
        merge(&mut merged, &patch);
        if merged["cluster_key"].is_number() {
            return Err(400);
        }
        let namespace = merged["namespace"].clone();
        if let Some(old) = old
            && old.config.get("namespace").unwrap_or(&Value::Null) != &namespace
        {
            return Err(400);
        }
        streamer.config = object_of(merged);
        if old != Some(&streamer) {
            (streamer.revision, streamer.updated_at) = (revision, stamp_ms);
            self.streamers.insert(host.into(), streamer);
        }
        Ok(())
    }

    fn save_episode(
        &mut self,
        id: u64,
        patch: &Value,
        revision: u64,
        stamp_ms: u64,
    ) -> Result<(), Refused> {
        let old = self.episodes.get(&id);
        let mut episode = old.cloned().unwrap_or_default();
        let mut patch = patch.clone();
        let members = patch.as_object_mut().ok_or(400_u16)?;
        let sent_ms = members
            .remove("updated_at")
            .and_then(|stamp| stamp.as_u64());
        for dropped in ["has_dvr", "no_such_field"] {
            members.remove(dropped);
        }
        let mut merged = Value::Object(episode.config.clone());
        merge(&mut merged, &patch);
        merged["episode_type"] = json!("generic");
        if !merged["media"].is_string() || !merged["opened_at"].is_number() {
            return Err(400);
        }
        let closed = |config: &Map<String, Value>| config.get("closed_at").cloned();
        let merged = object_of(merged);
        let was_closed = closed(&episode.config);
        if was_closed.is_some() && closed(&merged) != was_closed {
            return Err(400);
        }
        let stored_ms = old.map(|old| old.updated_at);
        let is_stamped = sent_ms.is_some_and(|sent_ms| Some(sent_ms) != stored_ms);
        let goes_on = is_stamped && closed(&merged).is_none();
        episode.config = merged;
        if old != Some(&episode) || goes_on {
            (episode.revision, episode.updated_at) = (revision, stamp_ms);
            self.episodes.insert(id, episode);
        }
        Ok(())
    }

    /// Everything laid out on a host, disabled streams included.
    pub fn held_by(&self, host: &str) -> BTreeMap<String, Role> {
        let mut held = BTreeMap::new();
        for (name, stream) in &self.streams {
            let Some(layout) = stream.layouts.first() else {
                continue;
            };
            let is = |who: &Option<String>| who.as_deref() == Some(host);
            let role = if is(&layout.ingest) || is(&stream.kept_by) {
                Role::Ingest
            } else if layout.backups.iter().any(|backup| backup == host) {
                Role::Backup
            } else if is(&layout.inference) {
                Role::Inference
            } else {
                continue;
            };
            held.insert(name.clone(), role);
        }
        held
    }

    /// The configuration of a host, stream by stream. `effective` is the configuration with
    /// defaults, which the schema decides.
    pub fn configuration(
        &self,
        host: &str,
        effective: impl Fn(&str) -> Value,
    ) -> BTreeMap<String, Value> {
        let mut configuration = BTreeMap::new();
        for (name, role) in self.held_by(host) {
            let stream = &self.streams[&name];
            if stream.config.get("disabled") == Some(&json!(true)) {
                continue;
            }
            let config = effective(&name);
            let layout = &stream.layouts[0];
            let mut document = json!({ "name": name });
            let source = stream.kept_by.as_ref().or(layout.ingest.as_ref());
            let pull: Vec<Value> = source
                .into_iter()
                .filter_map(|ingest| self.pull_url(ingest, &name, host))
                .map(|url| json!({ "url": url }))
                .collect();
            let copy = |field: &str, document: &mut Value| {
                if let Some(value) = config.get(field) {
                    document[field] = value.clone();
                }
            };
            match role {
                Role::Ingest => {
                    for (field, value) in config.as_object().expect("a configuration") {
                        if !HIDDEN.contains(&field.as_str()) {
                            document[field] = value.clone();
                        }
                    }
                }
                Role::Backup => {
                    document["inputs"] = pull.into();
                    document["static"] = true.into();
                    copy("dvr", &mut document);
                    copy("on_play", &mut document);
                }
                Role::Inference => {
                    document["inputs"] = pull.into();
                    copy("vision", &mut document);
                }
            }
            if role != Role::Inference && document.get("dvr").is_some() {
                let mut remotes: Vec<Value> = document["dvr"]["remotes"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                let former = former_ingests(&stream.layouts);
                let holders = layout.ingest.iter().chain(&layout.backups).chain(former);
                let archives = holders
                    .filter(|other| *other != host)
                    .filter_map(|other| self.archive_url(other, &name));
                for url in archives.map(|url| json!(url)) {
                    if !remotes.contains(&url) {
                        remotes.push(url);
                    }
                }
                // Only servers of the default kind read archives.
                if !remotes.is_empty() && self.kind(host) == "flussonic" {
                    document["dvr"]["remotes"] = remotes.into();
                }
            }
            configuration.insert(name, document);
        }
        configuration
    }

    fn kind(&self, host: &str) -> &str {
        let streamer = self.streamers.get(host);
        let kind = streamer.and_then(|streamer| streamer.config.get("kind")?.as_str());
        kind.unwrap_or("flussonic")
    }

    /// The templates of a host, filled.
    fn own_urls(&self, host: &str, name: &str) -> Option<Vec<String>> {
        let templates = self
            .streamers
            .get(host)?
            .config
            .get("pull_urls")?
            .as_array()?;
        let native = native(self.kind(host), name);
        let fill = |template: &Value| {
            let template = template.as_str().expect("a text");
            let url = template.replace("{name}", &escaped(name));
            url.replace("{native}", &escaped(&native))
        };
        Some(templates.iter().map(fill).collect())
    }

    /// `host[:port]` of a host, and whether it has TLS.
    fn address(&self, host: &str) -> (String, bool) {
        if let Some(streamer) = self.streamers.get(host) {
            let url = |field: &str| streamer.config.get(field).and_then(Value::as_str);
            if let Some(url) = url("private_payload_url").or(url("api_url")) {
                let (given, rest) = url.split_once("://").expect("a url");
                return (rest.trim_end_matches('/').to_owned(), given == "https");
            }
        }
        (host.to_owned(), false)
    }

    fn archive_url(&self, host: &str, name: &str) -> Option<String> {
        if let Some(own) = self.own_urls(host, name) {
            return own.into_iter().find(|url| url.starts_with("m4s"));
        }
        let (authority, tls) = self.address(host);
        let scheme = if tls { "m4ss" } else { "m4s" };
        let is_default = self.kind(host) == "flussonic";
        is_default.then(|| format!("{scheme}://{authority}/{}", escaped(name)))
    }

    fn pull_url(&self, host: &str, name: &str, reader: &str) -> Option<String> {
        let takes_archives = self.kind(reader) == "flussonic";
        if let Some(own) = self.own_urls(host, name) {
            let is_taken = |url: &String| takes_archives || !url.starts_with("m4s");
            return own.into_iter().find(is_taken);
        }
        let (authority, _) = self.address(host);
        let machine = authority.split(':').next().expect("a host");
        let native = escaped(&native(self.kind(host), name));
        match self.kind(host) {
            "mediamtx" => Some(format!("rtsp://{machine}:8554/{native}")),
            "srs" => Some(format!("rtmp://{machine}:1935{native}")),
            _ if takes_archives => self.archive_url(host, name),
            _ => Some(format!("rtsp://{machine}/{}", escaped(name))),
        }
    }
}

type LayoutNodes<'l> = (&'l Option<String>, &'l Option<String>, &'l [String]);

fn nodes_of(layout: &Layout) -> LayoutNodes<'_> {
    (&layout.ingest, &layout.inference, &layout.backups)
}

/// A text in the path of a URL.
fn escaped(text: &str) -> String {
    let mut path = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                path.push(char::from(byte));
            }
            _ => write!(path, "%{byte:02X}").expect("a string takes everything"),
        }
    }
    path
}

/// The name of a stream on a server; no name here has what looks escaped.
fn native(kind: &str, name: &str) -> String {
    let replaced = |text: &str, kept: &str| {
        let mut out = String::new();
        for letter in text.chars() {
            if letter.is_ascii_alphanumeric() || kept.contains(letter) {
                out.push(letter);
            } else {
                let bytes = letter.to_string().into_bytes();
                let hex: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
                write!(out, "_x{hex}_").expect("a string takes everything");
            }
        }
        out
    };
    match kind {
        "mediamtx" => replaced(name, "_-/."),
        "srs" => {
            let (application, rest) = name.split_once('/').unwrap_or(("live", name));
            format!("/{}/{}", replaced(application, "_-"), replaced(rest, "_-"))
        }
        _ => name.to_owned(),
    }
}

/// The nodes of the last five stays, newest first, the present one among them.
fn former_ingests(layouts: &[Layout]) -> impl Iterator<Item = &String> {
    let mut stays: Vec<Option<&String>> = layouts
        .iter()
        .map(|layout| layout.ingest.as_ref())
        .collect();
    stays.dedup();
    stays.into_iter().flatten().take(5)
}

/// RFC 7386 with `$reset`.
fn merge(target: &mut Value, patch: &Value) {
    let Some(members) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() || members.get("$reset") == Some(&json!(true)) {
        *target = json!({});
    }
    for (key, value) in members.iter().filter(|(key, _)| *key != "$reset") {
        if value.is_null() {
            target.as_object_mut().expect("made one above").remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

fn object_of(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("not an object: {other}"),
    }
}

fn key(item: &Value, field: &str) -> String {
    item[field]
        .as_str()
        .expect("an item names itself")
        .to_owned()
}
