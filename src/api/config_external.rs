//! The stream configuration of a streamer, sent **completely or not at all**.
//!
//! A streamer stops each stream that is missing from a response at once. An unknown streamer gets
//! 404, an inconsistent state 500, and a list is always of one revision: all pages of a paged
//! snapshot come from the revision of the first page, or end in 410.
//!
//! There are three ways to request the list, the cheapest last:
//! * without conditions: the whole list, rendered once per generation of this streamer and shared,
//!   in identity, gzip or zstd;
//! * with `If-None-Match`: 304 while the generation is the same; with `poll_timeout` the request is
//!   parked until it changes;
//! * with `changes_since=REVISION`: only streams changed or removed after that revision; 410 if the
//!   changes are no longer known.

use std::fmt::Write as _;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;
use super::{Call, Outcome, stream_doc};
use crate::error::{self, ApiError};
use crate::feed::NodePoll;
use crate::feed::nodes::NodeRuntime;
use crate::http::{Coding, Response};
use crate::json::{scan, write_string};
use crate::query::params::{
    self, EngineParameter, Integer, Parameter, ParameterValues as _, SELECT, Seconds, Text,
    ValueKind,
};
use crate::query::{
    Document, Execution, KeyOrder, LIMIT_MAX, ListKind, Query, Raw, SearchField, Source,
};
use crate::schema;
use crate::state::State;
use crate::state::apply::streamer_not_found;
use crate::state::name::{Hostname, StreamName};
use crate::state::node::{Node, Restreaming, can_restream, render, render_restream};
use crate::state::record::StreamRecord;

/// Part of every ETag: increased when a new version renders the same configuration differently.
const RENDER_EPOCH: u64 = 1;
/// Streams that are rendered on a core in one piece, and compressed: about three milliseconds. More
/// are rendered by another thread.
const STREAMS_AT_ONCE_MAX: usize = 500;
/// Streams of a node of which a delta is made on a core, at about 40 ns for each that is unchanged.
const DELTA_STREAMS_MAX: usize = 20_000;
/// Largest number of names in parameter `name`.
const NAMES_MAX: usize = 10_000;

/// `GET /streamers/{hostname}/streams`.
pub fn streams(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let hostname = call.hostname()?;
    let node = known_node(call.state, &hostname)?;
    let runtime = call.shared.nodes.get(&hostname);
    call.note_activity(&runtime);
    let Some(request) = WholeListRequest::parse(call)? else {
        return paged(call, &hostname, node);
    };
    let answer = list_or_changes(call, &request, hostname, node, &runtime)?;
    if !matches!(answer, Outcome::Offload) {
        // With any of these responses, the node has all changes up to this revision.
        runtime.activity.sent(call.state.revision());
    }
    Ok(answer)
}

fn list_or_changes(
    call: &Call<'_>,
    request: &WholeListRequest,
    hostname: Hostname,
    node: &Node,
    runtime: &Arc<NodeRuntime>,
) -> Result<Outcome, ApiError> {
    let etag = Etag::of(call.state, node.generation);
    let known = call.request.headers.if_none_match();
    if let Some(since) = request.since {
        // Revisions of another store, or of a future that a restore took back, are not comparable.
        let oldest = oldest_revision(call.state, node);
        let is_foreign = known.is_some_and(|header| !etag.is_of_same_store(header));
        if is_foreign || since < call.state.restored_revision() {
            return Err(revision_gone(oldest));
        }
        if (node.generation..=call.state.revision()).contains(&since)
            && let Some(wait) = request.wait
        {
            let poll = NodePoll {
                coding: call.coding(),
                generation: node.generation,
                since: Some(since),
                runtime: runtime.clone(),
                wait,
            };
            return Ok(Outcome::Park { hostname, poll });
        }
        let answer = changes(call.state, &hostname, node, since, rendered_max(call))?;
        return Ok(answer.map_or(Outcome::Offload, Outcome::Reply));
    }
    if known.is_some_and(|header| etag.is_among(header)) {
        return Ok(match request.wait {
            Some(wait) => {
                let poll = NodePoll {
                    coding: call.coding(),
                    generation: node.generation,
                    since: None,
                    runtime: runtime.clone(),
                    wait,
                };
                Outcome::Park { hostname, poll }
            }
            None => Outcome::Reply(unchanged(call.state, &etag, call.coding())),
        });
    }
    if node.streams.len() > rendered_max(call)
        && !runtime.has_configuration(node.generation, call.coding())
    {
        return Ok(Outcome::Offload);
    }
    whole(
        call.shared,
        call.state,
        node,
        runtime,
        &hostname,
        call.coding(),
    )
    .map(Outcome::Reply)
}

/// The response to a parked poll after a commit.
pub enum Wake {
    /// The generation of the node is the same.
    Unchanged,
    Answer(Result<Response, ApiError>),
    /// [`answer_changed`] is to be called on another thread.
    Offload,
}

/// Answers a parked poll after a commit.
pub fn wake(shared: &Shared, state: &State, hostname: &Hostname, poll: &NodePoll) -> Wake {
    let node = match known_node(state, hostname) {
        Ok(node) => node,
        Err(error) => return Wake::Answer(Err(error)),
    };
    if node.generation == poll.generation {
        return Wake::Unchanged;
    }
    let runtime = &poll.runtime;
    let answer = match poll.since {
        Some(since) => changes(state, hostname, node, since, STREAMS_AT_ONCE_MAX).transpose(),
        None if node.streams.len() > STREAMS_AT_ONCE_MAX
            && !runtime.has_configuration(node.generation, poll.coding) =>
        {
            None
        }
        None => Some(whole(shared, state, node, runtime, hostname, poll.coding)),
    };
    let Some(answer) = answer else {
        return Wake::Offload;
    };
    if answer.is_ok() {
        runtime.activity.sent(state.revision());
    }
    Wake::Answer(answer)
}

/// The response to a poll of a node whose generation has changed, however long it takes.
pub fn answer_changed(
    shared: &Shared,
    state: &State,
    hostname: &Hostname,
    poll: &NodePoll,
) -> Result<Response, ApiError> {
    let node = known_node(state, hostname)?;
    let runtime = &poll.runtime;
    let answer = match poll.since {
        Some(since) => {
            let answer = changes(state, hostname, node, since, usize::MAX)?;
            answer.expect("any number of streams is rendered")
        }
        None => whole(shared, state, node, runtime, hostname, poll.coding)?,
    };
    runtime.activity.sent(state.revision());
    Ok(answer)
}

/// How many streams this call may render.
fn rendered_max(call: &Call<'_>) -> usize {
    if call.is_offloaded {
        usize::MAX
    } else {
        STREAMS_AT_ONCE_MAX
    }
}

/// The response to a parked poll at its deadline or when the server is stopping. If its changes
/// take long to render, it is that there were none when the poll was parked: the next request gets
/// them.
pub fn expire(shared: &Shared, state: &State, hostname: &Hostname, poll: &NodePoll) -> Response {
    if let Wake::Answer(response) = wake(shared, state, hostname, poll) {
        return response.unwrap_or_else(|error| Response::from(&error));
    }
    match poll.since {
        Some(_) => {
            let updated_at = state.node(hostname).map_or(0, |node| node.updated_at);
            let body = format!(
                "{{\"removed\":[],\"revision\":{},\"streams\":[],\"updated_at\":{updated_at}}}",
                poll.generation
            );
            let etag = Etag::of(state, poll.generation);
            with_headers(state, Response::json(200, body.into_bytes()))
                .header("ETag", etag.text(None))
        }
        None => {
            let etag = Etag::of(state, poll.generation);
            unchanged(state, &etag, poll.coding)
        }
    }
}

/// `GET /streamers/{hostname}/update-streams?name=a,b`: those of the named streams that may keep
/// running.
pub fn update_streams(call: &Call<'_>) -> Result<Outcome, ApiError> {
    named_streams(call, &NAMES)
}

fn named_streams(call: &Call<'_>, parameter: &Text) -> Result<Outcome, ApiError> {
    named(call, parameter, |state, node, hostname, name| {
        let own = render_own(state, node, hostname, name)?;
        Ok(own.or_else(|| render_dynamic(state, hostname, name)))
    })
}

/// `GET /streamers/{hostname}/dynamic-streams?name=a`: the source of a stream that a viewer
/// requested.
pub fn dynamic_streams(call: &Call<'_>) -> Result<Outcome, ApiError> {
    update_streams(call)
}

pub(super) fn known_node<'s>(state: &'s State, hostname: &str) -> Result<&'s Arc<Node>, ApiError> {
    if state.streamer(hostname).is_none() {
        return Err(streamer_not_found());
    }
    state.node(hostname).ok_or_else(|| inconsistent(hostname))
}

/// The error for an inconsistent state: a bug, which must not shorten the list of a streamer.
fn inconsistent(hostname: &str) -> ApiError {
    tracing::error!(
        hostname,
        "the state of this node is inconsistent; its configuration is withheld"
    );
    error::INCONSISTENT_STATE.error()
}

// ---- the whole list --------------------------------------------------------------------------

fn whole(
    shared: &Shared,
    state: &State,
    node: &Node,
    runtime: &NodeRuntime,
    hostname: &Hostname,
    coding: Option<Coding>,
) -> Result<Response, ApiError> {
    let render = || render_whole(state, hostname, node);
    let nodes = &shared.nodes;
    let (coding, body) = nodes.configuration(runtime, node.generation, coding, render)?;
    let etag = Etag::of(state, node.generation);
    Ok(with_headers(state, Response::shared(200, coding, body)).header("ETag", etag.text(coding)))
}

fn unchanged(state: &State, etag: &Etag, coding: Option<Coding>) -> Response {
    with_headers(state, Response::new(304)).header("ETag", etag.text(coding))
}

/// Adds the headers by which streamers know the requests that this server supports.
fn with_headers(state: &State, response: Response) -> Response {
    let response = response
        .header("X-Config-Server-Separate-Endpoints", "true")
        .header("X-Config-Server-Episodes", "true")
        .header("Cache-Control", "no-store");
    if state.settings().restreaming == Restreaming::Off {
        response.header("X-Config-Server-Dynamic-Streams", "false")
    } else {
        response
    }
}

/// The body with the whole list.
pub fn render_whole(state: &State, hostname: &Hostname, node: &Node) -> Result<Vec<u8>, ApiError> {
    let mut list = Vec::with_capacity(node.streams.len() * 512 + 256);
    let mut count = 0usize;
    for (name, role) in &node.streams {
        let stream = state.stream(name).ok_or_else(|| inconsistent(hostname))?;
        let before = list.len();
        if count > 0 {
            list.push(b',');
        }
        if render(state, stream, *role, hostname, &mut list) {
            count += 1;
        } else {
            list.truncate(before);
        }
    }
    let mut body = Vec::with_capacity(list.len() + 160);
    let head = format!(
        "{{\"estimated_count\":{count},\"next\":null,\"prev\":null,\"revision\":{},\
         \"timing\":{{}},\"updated_at\":{},\"streams\":[",
        node.generation, node.updated_at
    );
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(&list);
    body.extend_from_slice(b"]}");
    Ok(body)
}

/// The identity of one rendering of one node's configuration, stable across restarts.
pub struct Etag {
    store_id: u64,
    generation: u64,
    epoch: u64,
}

impl Etag {
    pub fn of(state: &State, generation: u64) -> Self {
        Self {
            store_id: state.store_id(),
            generation,
            epoch: epoch(state),
        }
    }

    /// The text of the tag. It is strong, so it differs by coding.
    pub fn text(&self, coding: Option<Coding>) -> String {
        let plain = self.plain();
        let mut text = String::with_capacity(plain.len + 8);
        text.push('"');
        text.push_str(plain.as_str());
        text.push_str(match coding {
            None => "\"",
            Some(Coding::Gzip) => "-gzip\"",
            Some(Coding::Zstd) => "-zstd\"",
        });
        text
    }

    /// Whether `If-None-Match` has a tag of this store and these settings, of any generation.
    fn is_of_same_store(&self, header: &[u8]) -> bool {
        let plain = self.plain();
        let text = plain.as_str();
        let prefix = text.rfind('-').map_or(text, |dash| &text[..=dash]);
        memchr::memmem::find(header, prefix.as_bytes()).is_some()
    }

    /// Whether `If-None-Match` has this tag, for any coding.
    pub fn is_among(&self, header: &[u8]) -> bool {
        let plain = self.plain();
        let wanted = plain.as_str().as_bytes();
        header.split(|&byte| byte == b',').any(|tag| {
            let tag = tag.trim_ascii();
            let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
            let Some(tag) = tag
                .strip_prefix(b"\"")
                .and_then(|tag| tag.strip_suffix(b"\""))
            else {
                return tag == b"*";
            };
            let tag = tag
                .strip_suffix(b"-gzip")
                .or_else(|| tag.strip_suffix(b"-zstd"))
                .unwrap_or(tag);
            tag == wanted
        })
    }

    /// The tag without quotes and without coding.
    fn plain(&self) -> PlainTag {
        let mut tag = PlainTag {
            bytes: [0; PLAIN_TAG_BYTES_MAX],
            len: 0,
        };
        tag.push_hex(self.store_id, 16);
        tag.push(b"-");
        tag.push_hex(self.epoch, 1);
        tag.push(b"-");
        tag.push(itoa::Buffer::new().format(self.generation).as_bytes());
        tag
    }
}

/// Two numbers in hexadecimal digits, one in decimal digits, two dashes.
const PLAIN_TAG_BYTES_MAX: usize = 16 + 1 + 16 + 1 + 20;

/// A tag on the stack: each poll compares one and discards it.
struct PlainTag {
    bytes: [u8; PLAIN_TAG_BYTES_MAX],
    len: usize,
}

impl PlainTag {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).expect("digits and dashes")
    }

    fn push(&mut self, text: &[u8]) {
        let end = self.len + text.len();
        self.bytes[self.len..end].copy_from_slice(text);
        self.len = end;
    }

    /// Lower-case digits, with zeros in front of them up to `digits_min`.
    fn push_hex(&mut self, number: u64, digits_min: u32) {
        let digits = (16 - number.leading_zeros() / 4).max(digits_min);
        for digit in (0..digits).rev() {
            let value = (number >> (4 * digit)) & 0xf;
            self.push(&[b"0123456789abcdef"[value as usize]]);
        }
    }
}

/// A digest of the inputs of the rendering other than the configuration.
fn epoch(state: &State) -> u64 {
    let token = state.settings().pull_token.as_deref().unwrap_or_default();
    xxhash_rust::xxh3::xxh3_64_with_seed(token.as_bytes(), RENDER_EPOCH) & 0xffff_ffff
}

// ---- deltas ----------------------------------------------------------------------------------

/// A delta with the tag of the whole list that it leads to. It is small, so it is compressed like
/// any other response, which marks the tag with the coding. `None`: more than `rendered_max`
/// streams changed.
fn changes(
    state: &State,
    hostname: &Hostname,
    node: &Node,
    since: u64,
    rendered_max: usize,
) -> Result<Option<Response>, ApiError> {
    if rendered_max < usize::MAX && node.streams.len() > DELTA_STREAMS_MAX {
        return Ok(None);
    }
    let etag = Etag::of(state, node.generation);
    let body = delta(state, hostname, node, since, rendered_max)?;
    Ok(body
        .map(|body| with_headers(state, Response::json(200, body)).header("ETag", etag.text(None))))
}

/// The changes for a node since a revision. `None`: more than `rendered_max` streams changed.
pub fn delta(
    state: &State,
    hostname: &Hostname,
    node: &Node,
    since: u64,
    rendered_max: usize,
) -> Result<Option<Vec<u8>>, ApiError> {
    let oldest = oldest_revision(state, node);
    if since < oldest || since > state.revision() {
        return Err(revision_gone(oldest));
    }
    let mut body = Vec::with_capacity(1024);
    body.extend_from_slice(b"{\"removed\":[");
    let mut removed: Vec<&StreamName> = Vec::new();
    for (_, name) in node
        .removed
        .iter()
        .filter(|(revision, _)| *revision > since)
    {
        let is_back = node.streams.contains_key(name)
            && state.stream(name).is_some_and(|stream| !stream.disabled);
        if !is_back && !removed.contains(&name) {
            removed.push(name);
        }
    }
    for (i, name) in removed.iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        write_string(&mut body, name);
    }
    let _infallible = write!(
        StringOf(&mut body),
        "],\"revision\":{},\"streams\":[",
        node.generation
    );
    let mut rendered = 0_usize;
    for (name, role) in &node.streams {
        let stream = state.stream(name).ok_or_else(|| inconsistent(hostname))?;
        if stream.rendered_for(hostname, *role) <= since {
            continue;
        }
        if rendered == rendered_max {
            return Ok(None);
        }
        let before = body.len();
        if rendered > 0 {
            body.push(b',');
        }
        if render(state, stream, *role, hostname, &mut body) {
            rendered += 1;
        } else {
            body.truncate(before);
        }
    }
    let _infallible = write!(
        StringOf(&mut body),
        "],\"updated_at\":{}}}",
        node.updated_at
    );
    Ok(Some(body))
}

/// The oldest revision that a delta for a node can start from.
fn oldest_revision(state: &State, node: &Node) -> u64 {
    node.delta_floor.max(state.restored_revision())
}

fn revision_gone(oldest: u64) -> ApiError {
    error::REVISION_GONE
        .error()
        .at_parameter("changes_since")
        .with("oldest", oldest)
}

/// An adapter that formats text into bytes.
struct StringOf<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for StringOf<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

// ---- parts of the list -----------------------------------------------------------------------

/// The parameters of a request for the whole list, which has no filters, order or limit.
struct WholeListRequest {
    wait: Option<Duration>,
    since: Option<u64>,
}

impl WholeListRequest {
    /// Reads the query string; `None` if the request needs the query engine.
    fn parse(call: &Call<'_>) -> Result<Option<Self>, ApiError> {
        const NAMES: [&str; 2] = [POLL_TIMEOUT.name(), CHANGES_SINCE.name()];
        let is_of_whole_list = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // The query engine refuses broken escapes.
            name == HOST.name() || NAMES.contains(&name) && !value.contains('%')
        };
        let mut pairs = call.request.query.split('&');
        if !pairs.all(|pair| pair.is_empty() || is_of_whole_list(pair)) {
            return Ok(None);
        }
        let config = call.shared.settings.running.config();
        let wait_max = poll_wait_max(config.settings.layouter.dead_timeout);
        let wait = call.poll_wait(&POLL_TIMEOUT)?;
        let wait = wait.map(|wait| wait.min(wait_max));
        let since = call.integer(&CHANGES_SINCE)?;
        let is_paged = call.shared.settings.api.streams_limit > 0 && since.is_none();
        Ok((!is_paged).then_some(Self { wait, since }))
    }
}

/// How long a poll of a streamer may wait. A request that waits is no sign of life, so that a
/// streamer is answered, and sends the next one, well before a pause counts as silence: a third of
/// the dead timeout.
pub fn poll_wait_max(dead_timeout: Duration) -> Duration {
    dead_timeout / 3
}

/// A stream as it is rendered for one node.
struct ConfigDoc<'a> {
    name: &'a str,
    text: &'a str,
}

impl Document for ConfigDoc<'_> {
    fn key(&self) -> &str {
        self.name
    }

    fn field(&self, name: &str) -> Option<Raw<'_>> {
        if name == "name" {
            return Some(Raw::Text(self.name));
        }
        // The name is the first member; the others are sorted.
        scan::members(self.text)
            .find(|(key, _)| *key == name)
            .map(|(_, value)| Raw::Json(value.into()))
    }

    fn render(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.text.as_bytes());
    }
}

/// Rendered streams by name.
struct ConfigDocs(Vec<(StreamName, String)>);

impl ConfigDocs {
    fn between(&self, range: (Bound<&str>, Bound<&str>)) -> &[(StreamName, String)] {
        let start = match range.0 {
            Bound::Unbounded => 0,
            Bound::Included(key) => self.0.partition_point(|(name, _)| name.as_str() < key),
            Bound::Excluded(key) => self.0.partition_point(|(name, _)| name.as_str() <= key),
        };
        let end = match range.1 {
            Bound::Unbounded => self.0.len(),
            Bound::Included(key) => self.0.partition_point(|(name, _)| name.as_str() <= key),
            Bound::Excluded(key) => self.0.partition_point(|(name, _)| name.as_str() < key),
        };
        &self.0[start..end.max(start)]
    }
}

fn config_doc((name, text): &(StreamName, String)) -> ConfigDoc<'_> {
    ConfigDoc { name, text }
}

impl Source for ConfigDocs {
    type Doc<'a> = ConfigDoc<'a>;

    fn count(&self) -> u64 {
        self.0.len() as u64
    }

    fn get(&self, key: &str) -> Option<ConfigDoc<'_>> {
        self.0
            .binary_search_by(|(name, _)| name.as_str().cmp(key))
            .ok()
            .map(|at| config_doc(&self.0[at]))
    }

    fn ascending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = ConfigDoc<'a>> {
        self.between((from, Bound::Unbounded))
            .iter()
            .map(config_doc)
    }

    fn descending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = ConfigDoc<'a>> {
        self.between((Bound::Unbounded, from))
            .iter()
            .rev()
            .map(config_doc)
    }
}

static REQUIRED: std::sync::LazyLock<Vec<Box<str>>> =
    std::sync::LazyLock::new(|| vec![Box::from("name")]);

static KIND: ListKind = ListKind {
    collection: "streams",
    key: "name",
    key_order: KeyOrder::Text,
    default_sort: "name",
    stamp: None,
    required: || &REQUIRED,
    search: &[
        SearchField {
            path: "name",
            url: false,
        },
        SearchField {
            path: "title",
            url: false,
        },
        SearchField {
            path: "comment",
            url: false,
        },
        SearchField {
            path: "inputs.url",
            url: true,
        },
    ],
    field: |path| crate::query::field(schema::stream(), path),
    secret: |path| schema::stream().is_secret(path),
    schema: || Some(schema::stream()),
};

/// Parameters of the list of all streams. The limit, order and cursor differ from other lists.
pub const PARAMETERS: &[&dyn Parameter] = &[
    &HOST,
    &SELECT,
    &SORT,
    &LIMIT,
    &CURSOR,
    &stream_doc::SEARCH,
    &SOME_NAMES,
    &POLL_TIMEOUT,
    &CHANGES_SINCE,
];
/// Parameters of the lists of named streams.
pub const NAMED_PARAMETERS: &[&dyn Parameter] = &[
    &HOST,
    &NAMES,
    &params::CURSOR,
    &NAMED_LIMIT,
    &SELECT,
    &SORT.example(r#"["name"]"#),
];

pub const HOST: Text = Text::new(
    "host",
    "Hostname that streamers add to their requests by themselves. Ignored, the path decides.",
)
.example(r#""streamer1.example.com""#)
.without_effect();
const NAMES: Text = Text::list("name", "Names of the streams, joined by commas.")
    .example(NAMES_EXAMPLE)
    .required();
const NAMES_EXAMPLE: &str = r#"["harbour/cam1","harbour/cam2"]"#;
const SOME_NAMES: Text = Text::list(
    NAMES.name(),
    "Names of streams, joined by commas. The response has these only, whether placed here or \
     restreamed. For streamers that know a single operation.",
)
.example(NAMES_EXAMPLE);
const SORT: EngineParameter = EngineParameter::new(
    params::SORT.name(),
    ValueKind::List,
    "Fields to sort by, joined by commas; `-` before a field sorts it downwards. By `name` when \
     absent.",
)
.example(r#"["-dvr.expiration","name"]"#);
const LIMIT: EngineParameter =
    limit("Largest number of streams on a page. The whole list when absent.");
const NAMED_LIMIT: EngineParameter =
    limit("Largest number of streams on a page. All named streams when absent.");
const CURSOR: EngineParameter = EngineParameter::new(
    params::CURSOR.name(),
    ValueKind::Text,
    "`next` or `prev` of an earlier response. Refused with 410 when the revision it belongs to is \
     no longer kept (60 seconds).",
)
.example(r#""bmFtZV9ndD1jYW0rMQ==""#);
const POLL_TIMEOUT: Seconds = Seconds::new(
    params::POLL_TIMEOUT.name(),
    "With `If-None-Match`: seconds to wait for a change that concerns this node before the \
     response is 304. Waits longer than the server allows are shortened, also to a third of \
     `streamer_dead_timeout`, because only a request that arrives is a sign of life.",
)
.example("30")
.extension()
.without_effect();
const CHANGES_SINCE: Integer = Integer::new(
    "changes_since",
    "Revision the node has. The response is what changed for the node since then, or 410 when \
     that is too long ago, or before the server was restored from a backup; then the whole list \
     has to be fetched. Send the `ETag` of that revision in `If-None-Match`, too: if it is of \
     another server, the response is 410 as well.",
)
.example("1820")
.extension();

/// A limit without a default.
const fn limit(description: &'static str) -> EngineParameter {
    let kind = ValueKind::Integer {
        minimum: 1,
        maximum: Some(LIMIT_MAX as u64),
        default: None,
    };
    EngineParameter::new(params::LIMIT.name(), kind, description).example("1000")
}

/// A list with filters, order or limit. All its pages come from the revision of the first.
fn paged(call: &Call<'_>, hostname: &Hostname, node: &Arc<Node>) -> Result<Outcome, ApiError> {
    let mut query = call.query(&KIND)?;
    if query.has(&SOME_NAMES) {
        // Older streamers use this endpoint for all three requests.
        return named_streams(call, &SOME_NAMES);
    }
    if query.has(&POLL_TIMEOUT) || query.has(&CHANGES_SINCE) {
        let parameter = if query.has(&POLL_TIMEOUT) {
            POLL_TIMEOUT.name()
        } else {
            CHANGES_SINCE.name()
        };
        return Err(error::NOT_COMBINABLE.error().at_parameter(parameter));
    }
    query.set_default_limit(call.shared.settings.api.streams_limit);
    let earlier;
    let (state, node) = match query.revision() {
        Some(revision) if revision != call.state.revision() => {
            let kept = call.shared.paged_snapshots.get(revision);
            earlier = kept.ok_or_else(snapshot_expired)?;
            let node = known_node(&earlier, hostname)?;
            (&earlier, node)
        }
        _ => (&**call.state, node),
    };
    if node.streams.len() > rendered_max(call) {
        return Ok(Outcome::Offload);
    }
    let mut docs = Vec::with_capacity(node.streams.len());
    for (name, role) in &node.streams {
        let stream = state.stream(name).ok_or_else(|| inconsistent(hostname))?;
        let mut text = Vec::new();
        if render(state, stream, *role, hostname, &mut text) {
            docs.push((
                name.clone(),
                String::from_utf8(text).expect("rendered JSON is UTF-8"),
            ));
        }
    }
    query.pin_revision(state.revision());
    let page = Execution::new(&query).run(&ConfigDocs(docs));
    if page.next.is_some() || page.prev.is_some() {
        call.shared.paged_snapshots.keep(state);
    }
    let extra = format!(
        "\"revision\":{},\"updated_at\":{}",
        node.generation, node.updated_at
    );
    Ok(Outcome::Reply(with_headers(
        call.state,
        Response::json(200, page.into_body(&extra)),
    )))
}

pub(super) fn snapshot_expired() -> ApiError {
    error::WALK_EXPIRED.error().at_parameter("cursor")
}

// ---- single streams --------------------------------------------------------------------------

/// A list of the streams that a parameter names, as `render` renders each for this node.
fn named(
    call: &Call<'_>,
    parameter: &Text,
    render: impl Fn(&State, &Node, &Hostname, &str) -> Result<Option<Vec<u8>>, ApiError>,
) -> Result<Outcome, ApiError> {
    let hostname = call.hostname()?;
    let node = known_node(call.state, &hostname)?;
    let runtime = call.shared.nodes.get(&hostname);
    call.note_activity(&runtime);
    let mut query = call.query(&KIND)?;
    let mut names = names(&query, parameter)?;
    if names.len() > rendered_max(call) {
        return Ok(Outcome::Offload);
    }
    names.sort_unstable();
    names.dedup();
    let mut docs = Vec::new();
    for name in names {
        if let Some(text) = render(call.state, node, &hostname, &name)? {
            docs.push((
                StreamName::trusted(&name),
                String::from_utf8(text).expect("rendered JSON is UTF-8"),
            ));
        }
    }
    query.set_default_limit(0);
    let page = Execution::new(&query).run(&ConfigDocs(docs));
    let extra = format!("\"updated_at\":{}", node.updated_at);
    Ok(Outcome::Reply(with_headers(
        call.state,
        Response::json(200, page.into_body(&extra)),
    )))
}

/// The names in a parameter. An escaped comma separates too: stream names contain none.
fn names(query: &Query, parameter: &Text) -> Result<Vec<String>, ApiError> {
    let text = query.text(parameter)?.unwrap_or_default();
    let names: Vec<String> = text
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        return Err(error::MISSING_REQUIRED
            .about_parameter("name", "is required: stream names joined by commas"));
    }
    if names.len() > NAMES_MAX {
        return Err(error::TOO_MANY_ITEMS
            .about_parameter("name", "must have at most 10,000 names")
            .with("maximum", NAMES_MAX));
    }
    Ok(names)
}

/// A stream that is placed on this node, as in the whole list.
fn render_own(
    state: &State,
    node: &Node,
    hostname: &Hostname,
    name: &str,
) -> Result<Option<Vec<u8>>, ApiError> {
    let Some(role) = node.streams.get(name) else {
        return Ok(None);
    };
    let stream = state.stream(name).ok_or_else(|| inconsistent(hostname))?;
    let mut text = Vec::new();
    Ok(render(state, stream, *role, hostname, &mut text).then_some(text))
}

/// A stream that is placed elsewhere, as a pull from its node, if this node may restream it.
fn render_dynamic(state: &State, hostname: &Hostname, name: &str) -> Option<Vec<u8>> {
    let stream = restreamable(state, hostname, name)?;
    let mut text = Vec::new();
    render_restream(state, stream, hostname, &mut text).then_some(text)
}

/// A stream that a node may restream now.
fn restreamable<'s>(state: &'s State, hostname: &str, name: &str) -> Option<&'s StreamRecord> {
    let streamer = state.streamer(hostname)?;
    let stream = state.stream(name)?;
    can_restream(state, streamer, stream).then_some(stream)
}

/// Whether a node holds a stream, or may restream it now.
pub(super) fn is_sent(state: &State, node: &Node, hostname: &str, name: &str) -> bool {
    node.streams.contains_key(name) || restreamable(state, hostname, name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etag_depends_on_store_settings_and_generation() {
        let tag = |store_id, generation, epoch| Etag {
            store_id,
            generation,
            epoch,
        };
        for (store_id, generation, epoch) in
            [(0, 0, 0), (0xab, 10, 0x1f0), (u64::MAX, u64::MAX, u64::MAX)]
        {
            let expected = format!("\"{store_id:016x}-{epoch:x}-{generation}\"");
            assert_eq!(tag(store_id, generation, epoch).text(None), expected);
        }
        let held = tag(1, 7, 9);
        for coding in [None, Some(Coding::Gzip), Some(Coding::Zstd)] {
            let text = held.text(coding);
            assert!(held.is_among(text.as_bytes()) && held.is_of_same_store(text.as_bytes()));
            assert!(held.is_among(format!("\"x\", W/{text}").as_bytes()));
            let newer = tag(1, 8, 9);
            assert!(!newer.is_among(text.as_bytes()) && newer.is_of_same_store(text.as_bytes()));
            for other in [tag(2, 7, 9), tag(1, 7, 8)] {
                assert!(
                    !other.is_among(text.as_bytes()) && !other.is_of_same_store(text.as_bytes())
                );
            }
        }
        assert!(held.is_among(b"*"));
        assert!(!held.is_among(b"") && !held.is_among(b"\"\xff\""));
    }

    /// A state in which `s1` has so many streams.
    fn streams_of_s1(streams: usize) -> State {
        use crate::json;
        use crate::state::apply::{Stamp, apply};
        use crate::state::command::{Command, stream_items, streamer_items};

        let json = |text: &str| json::parse(text.as_bytes()).expect("JSON");
        let item = |i: usize| format!(r#"{{"name":"c{i:04}","layout":{{"ingest":"s1"}}}}"#);
        let items: Vec<String> = (0..streams).map(item).collect();
        let items = stream_items(json(&format!("[{}]", items.join(",")))).expect("fit");
        let node = r#"[{"hostname":"s1","role":"streamer","cluster_key":"k"}]"#;
        let nodes = streamer_items(json(node)).expect("fit");
        let mut state = State::new(1, crate::state::node::RenderSettings::default());
        for command in [
            Command::SaveStreamers { items: nodes },
            Command::SaveStreams { items },
        ] {
            let stamp = Stamp {
                revision: state.revision() + 1,
                ms: state.stamp_ms() + 1,
            };
            let changes = apply(&state, command, stamp).expect("is saved");
            state.absorb(&changes);
        }
        state
    }

    /// Handles a request of `s1` for its streams, on a core or on a thread for long work.
    fn handle(
        shared: &Arc<Shared>,
        state: &State,
        query: &str,
        is_offloaded: bool,
    ) -> Result<Outcome, ApiError> {
        use crate::http::{Method, Request, Ticket, head};

        let text = format!("GET /streamers/s1/streams{query} HTTP/1.1\r\nHost: t\r\n\r\n");
        let mut fields = head::fields();
        let head = head::parse(text.as_bytes(), &mut fields).expect("well formed");
        let head = head.expect("complete");
        let request = Request {
            method: Method::Get,
            path: head.path,
            query: head.query,
            headers: head.headers,
            body: b"",
            peer: std::net::IpAddr::from([127, 0, 0, 1]),
            body_late: false,
            may_upgrade: false,
            head: &[],
            buffer: None,
        };
        let mut operations = crate::api::endpoint::OPERATIONS.iter();
        let operation = operations.find(|operation| operation.id == "streamer_streams_list");
        streams(&Call {
            shared,
            state: &std::rc::Rc::new(Arc::new(state.clone())),
            local: &crate::api::call::CoreLocal::default(),
            operation: operation.expect("it is served"),
            request: &request,
            parameter: "s1",
            caller: &crate::access::auth::Caller::Administrator,
            ticket: Ticket { slot: 0, epoch: 1 },
            is_offloaded,
        })
    }

    #[test]
    fn configuration_counts_as_sent_when_it_is_rendered() {
        // Goal: the layouter takes a streamer to know only what it was answered. Method: requests
        // that another thread has to render, and may fail to, then one that it rendered.
        let state = streams_of_s1(STREAMS_AT_ONCE_MAX + 1);
        let shared = crate::api::shared::tests::shared();
        let hostname = Hostname::trusted("s1");
        let runtime = shared.nodes.get(&hostname);
        let sent = || runtime.activity.sent_revision();
        for query in ["", "?changes_since=1"] {
            let outcome = handle(&shared, &state, query, false);
            assert!(matches!(outcome, Ok(Outcome::Offload)), "{query}");
            assert_eq!(sent(), 0, "{query} waits for a thread");
        }
        // A revision that is not known: on the core, on the thread, and when a poll is woken.
        for is_offloaded in [false, true] {
            let refused = handle(&shared, &state, "?changes_since=99", is_offloaded);
            let refused = refused.err().expect("its changes are not known");
            assert_eq!((refused.items[0].code, sent()), ("revision_gone", 0));
        }
        let poll = |since| NodePoll {
            coding: None,
            generation: 1,
            since,
            runtime: runtime.clone(),
            wait: Duration::ZERO,
        };
        let woken = wake(&shared, &state, &hostname, &poll(Some(99)));
        assert!(matches!(woken, Wake::Answer(Err(_))));
        assert!(answer_changed(&shared, &state, &hostname, &poll(Some(99))).is_err());
        assert!(matches!(
            wake(&shared, &state, &hostname, &poll(None)),
            Wake::Offload
        ));
        assert_eq!(sent(), 0);

        let rendered = handle(&shared, &state, "?changes_since=1", true);
        assert!(matches!(rendered, Ok(Outcome::Reply(_))));
        assert_eq!(sent(), state.revision());
        let runtime = shared.nodes.get(&Hostname::trusted("s2"));
        assert_eq!(runtime.activity.sent_revision(), 0, "another streamer");
    }

    #[test]
    fn poll_that_is_answered_elsewhere_counts_as_sent_then() {
        let state = streams_of_s1(STREAMS_AT_ONCE_MAX + 1);
        let hostname = Hostname::trusted("s1");
        for since in [None, Some(1)] {
            let shared = crate::api::shared::tests::shared();
            let runtime = shared.nodes.get(&hostname);
            let poll = NodePoll {
                coding: None,
                generation: 1,
                since,
                runtime: runtime.clone(),
                wait: Duration::ZERO,
            };
            let woken = wake(&shared, &state, &hostname, &poll);
            assert!(matches!(woken, Wake::Offload), "{since:?}");
            assert_eq!(runtime.activity.sent_revision(), 0, "{since:?}");
            let answer = answer_changed(&shared, &state, &hostname, &poll);
            assert_eq!(answer.expect("the list").status, 200);
            assert_eq!(runtime.activity.sent_revision(), state.revision());
        }
    }
}
