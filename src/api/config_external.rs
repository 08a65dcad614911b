//! What a streamer is told to run. The product's heart, so its rule comes first: **completely or not at all**.
//!
//! A stream that is missing from an answer is stopped by the streamer at once. Whoever is unknown gets 404, any inconsistency is a 500, and a list
//! is always of one revision: pages of one walk come from the revision of its first page, or end in 410.
//!
//! Three ways to ask for the list, from plain to cheap:
//! * plainly: the whole list, rendered once per generation of this streamer and shared, in identity, gzip or zstd;
//! * with `If-None-Match`: 304 while nothing changed for this streamer; with `poll_timeout` the answer waits for a change;
//! * with `changes_since=REVISION`: only what changed since then, and what is gone; 410 if that is not known any more.

use std::fmt::Write as _;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use percent_encoding::percent_decode_str;

use super::shared::Shared;
use super::{Call, Outcome};
use crate::error::{self, ApiError};
use crate::feed::NodePoll;
use crate::http::{Coding, Response};
use crate::json::{scan, write_string};
use crate::query::params::{Integer, POLL_TIMEOUT, Parameter, ParameterValues as _, Text};
use crate::query::{Document, Execution, KeyOrder, ListKind, Query, Raw, SearchField, Source};
use crate::rt::uptime_ms;
use crate::schema;
use crate::state::State;
use crate::state::apply::streamer_not_found;
use crate::state::name::{Hostname, StreamName};
use crate::state::node::{Node, Restreaming, render, render_restream};

/// Part of every ETag: increased when the same configuration is rendered differently by a new version.
const RENDER_EPOCH: u64 = 1;
/// How long pages of a walk can be had from the revision of its first page.
const WALK_KEPT: Duration = Duration::from_mins(1);
/// Walks kept at the same time, over all streamers; each may hold on to memory of a past revision.
const WALKS_KEPT_MAX: usize = 256;
/// Names that one question may list.
const NAMES_MAX: usize = 10_000;

/// `GET /streamers/{hostname}/streams`.
pub fn streams(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let hostname = call.hostname()?;
    let node = known_node(call.state, &hostname)?;
    let runtime = call.shared.nodes.get(&hostname);
    runtime.activity.seen(uptime_ms());
    let Some(plain) = Plain::parse(call)? else {
        return paged(call, &hostname, node);
    };
    // Whatever the answer is: with it the node has every change up to this revision.
    runtime.activity.sent(call.state.revision());
    let etag = Etag::of(call.state, node.generation);
    let known = call.request.headers.if_none_match();
    if let Some(since) = plain.since {
        // Revisions of another store, or of one restored from a backup, count something else.
        if known.is_some_and(|header| !etag.is_akin(header)) {
            return Err(revision_gone(node));
        }
        if (node.generation..=call.state.revision()).contains(&since)
            && let Some(wait) = plain.wait
        {
            let poll = NodePoll {
                coding: call.coding(),
                generation: node.generation,
                since: Some(since),
                parked: runtime.park(),
            };
            return Ok(Outcome::Park {
                hostname,
                poll,
                wait,
            });
        }
        return changes(call.state, &hostname, node, since).map(Outcome::Reply);
    }
    if known.is_some_and(|header| etag.is_among(header)) {
        return Ok(match plain.wait {
            Some(wait) => {
                let poll = NodePoll {
                    coding: call.coding(),
                    generation: node.generation,
                    since: None,
                    parked: runtime.park(),
                };
                Outcome::Park {
                    hostname,
                    poll,
                    wait,
                }
            }
            None => Outcome::Reply(unchanged(call.state, &etag, call.coding())),
        });
    }
    whole(call.shared, call.state, &hostname, node, call.coding()).map(Outcome::Reply)
}

/// The answer to a parked poll after a commit; nothing if it still has what there is.
pub fn wake(
    shared: &Shared,
    state: &State,
    hostname: &Hostname,
    poll: &NodePoll,
) -> Option<Result<Response, ApiError>> {
    let node = match known_node(state, hostname) {
        Ok(node) => node,
        Err(error) => return Some(Err(error)),
    };
    if node.generation == poll.generation {
        return None;
    }
    poll.parked.activity().sent(state.revision());
    Some(match poll.since {
        Some(since) => changes(state, hostname, node, since),
        None => whole(shared, state, hostname, node, poll.coding),
    })
}

/// The answer to a parked poll whose time is over or whose server is stopping.
pub fn expire(shared: &Shared, state: &State, hostname: &Hostname, poll: &NodePoll) -> Response {
    if let Some(response) = wake(shared, state, hostname, poll) {
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

/// `GET /streamers/{hostname}/update-streams?name=a,b`: of the running streams named, those that may go on.
pub fn update_streams(call: &Call<'_>) -> Result<Outcome, ApiError> {
    named(call, |state, node, hostname, name| {
        let own = render_own(state, node, hostname, name)?;
        Ok(own.or_else(|| render_dynamic(state, hostname, name)))
    })
}

/// `GET /streamers/{hostname}/dynamic-streams?name=a`: how to get a stream that somebody asks this node for.
pub fn dynamic_streams(call: &Call<'_>) -> Result<Outcome, ApiError> {
    update_streams(call)
}

pub(super) fn known_node<'s>(state: &'s State, hostname: &str) -> Result<&'s Arc<Node>, ApiError> {
    if state.streamer(hostname).is_none() {
        return Err(streamer_not_found());
    }
    state.node(hostname).ok_or_else(|| inconsistent(hostname))
}

/// The state contradicts itself: a bug, and the streamer must not see a shorter list because of it.
fn inconsistent(hostname: &str) -> ApiError {
    tracing::error!(
        hostname,
        "the state of this node is inconsistent; its configuration is withheld"
    );
    error::INCONSISTENT_STATE
        .titled("The configuration of this streamer cannot be told in full and is withheld")
}

// ---- the whole list ------------------------------------------------------------------------------------------------------------

fn whole(
    shared: &Shared,
    state: &State,
    hostname: &Hostname,
    node: &Node,
    coding: Option<Coding>,
) -> Result<Response, ApiError> {
    let nodes = &shared.nodes;
    let rendered = nodes.configuration(&nodes.get(hostname), node.generation, || {
        render_whole(state, hostname, node)
    })?;
    let etag = Etag::of(state, node.generation);
    let (coding, body) = rendered.body(coding);
    Ok(with_headers(state, Response::shared(200, coding, body)).header("ETag", etag.text(coding)))
}

fn unchanged(state: &State, etag: &Etag, coding: Option<Coding>) -> Response {
    with_headers(state, Response::new(304)).header("ETag", etag.text(coding))
}

/// Streamers learn from these headers which questions to ask.
fn with_headers(state: &State, response: Response) -> Response {
    let response = response
        .header("X-Config-Server-Separate-Endpoints", "true")
        .header("X-Config-Server-Episodes", "true")
        .header("Cache-Control", "no-cache");
    if state.settings().restreaming == Restreaming::Off {
        response.header("X-Config-Server-Dynamic-Streams", "false")
    } else {
        response
    }
}

/// The answer to the plain question.
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
        "{{\"estimated_count\":{count},\"next\":null,\"prev\":null,\"revision\":{},\"timing\":{{}},\"updated_at\":{},\"streams\":[",
        node.generation, node.updated_at
    );
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(&list);
    body.extend_from_slice(b"]}");
    Ok(body)
}

/// Names one rendering of one node's answer, over restarts.
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

    /// Strong, so it differs by coding.
    pub fn text(&self, coding: Option<Coding>) -> String {
        let suffix = match coding {
            None => "",
            Some(Coding::Gzip) => "-gzip",
            Some(Coding::Zstd) => "-zstd",
        };
        let mut text = String::with_capacity(64);
        let _infallible = write!(text, "\"{}{suffix}\"", self.plain().as_str());
        text
    }

    /// Whether `If-None-Match` names some rendering by this store with these settings.
    fn is_akin(&self, header: &[u8]) -> bool {
        let plain = self.plain();
        let text = plain.as_str();
        let akin = text.rfind('-').map_or(text, |dash| &text[..=dash]);
        memchr::memmem::find(header, akin.as_bytes()).is_some()
    }

    /// Whether `If-None-Match` names this rendering, in whatever coding the client holds it.
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

    /// The tag without quotes and coding.
    fn plain(&self) -> PlainTag {
        let Self {
            store_id,
            generation,
            epoch,
        } = self;
        let mut tag = PlainTag {
            bytes: [0; PLAIN_TAG_BYTES_MAX],
            len: 0,
        };
        write!(tag, "{store_id:016x}-{epoch:x}-{generation}").expect("three numbers fit");
        tag
    }
}

/// Two numbers in hexadecimal digits, one in decimal ones, two dashes.
const PLAIN_TAG_BYTES_MAX: usize = 16 + 1 + 16 + 1 + 20;

/// A tag that is compared and thrown away: every poll makes one.
struct PlainTag {
    bytes: [u8; PLAIN_TAG_BYTES_MAX],
    len: usize,
}

impl PlainTag {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).expect("digits and dashes")
    }
}

impl std::fmt::Write for PlainTag {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Changes with everything besides the configuration that shapes an answer.
fn epoch(state: &State) -> u64 {
    let token = state.settings().pull_token.as_deref().unwrap_or_default();
    xxhash_rust::xxh3::xxh3_64_with_seed(token.as_bytes(), RENDER_EPOCH) & 0xffff_ffff
}

// ---- deltas --------------------------------------------------------------------------------------------------------------------

/// A delta with the tag of the whole list that it leads to. Small, so it is compressed like any other answer; the tag then is a weak one.
fn changes(
    state: &State,
    hostname: &Hostname,
    node: &Node,
    since: u64,
) -> Result<Response, ApiError> {
    let etag = Etag::of(state, node.generation);
    let body = delta(state, hostname, node, since)?;
    Ok(with_headers(state, Response::json(200, body)).header("ETag", etag.text(None)))
}

/// What changed for a node since a revision.
pub fn delta(
    state: &State,
    hostname: &Hostname,
    node: &Node,
    since: u64,
) -> Result<Vec<u8>, ApiError> {
    if since < node.delta_floor || since > state.revision() {
        return Err(revision_gone(node));
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
    let mut first = true;
    for (name, role) in &node.streams {
        let stream = state.stream(name).ok_or_else(|| inconsistent(hostname))?;
        if stream.rendered_at(*role) <= since {
            continue;
        }
        let before = body.len();
        if !first {
            body.push(b',');
        }
        if render(state, stream, *role, hostname, &mut body) {
            first = false;
        } else {
            body.truncate(before);
        }
    }
    let _infallible = write!(
        StringOf(&mut body),
        "],\"updated_at\":{}}}",
        node.updated_at
    );
    Ok(body)
}

fn revision_gone(node: &Node) -> ApiError {
    error::REVISION_GONE
        .titled("What changed since this revision is not known any more; ask for the whole list")
        .at_parameter("changes_since")
        .with("oldest", node.delta_floor)
}

/// Formats into bytes.
struct StringOf<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for StringOf<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

// ---- parts of the list ---------------------------------------------------------------------------------------------------------

/// A question for the whole list: no parameter that picks, orders or cuts.
struct Plain {
    wait: Option<Duration>,
    since: Option<u64>,
}

impl Plain {
    /// Nothing: the question needs the query engine.
    fn parse(call: &Call<'_>) -> Result<Option<Self>, ApiError> {
        let mut plain = Self {
            wait: None,
            since: None,
        };
        for pair in call
            .request
            .query
            .split('&')
            .filter(|pair| !pair.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "host" => {}
                "poll_timeout" => {
                    plain.wait = POLL_TIMEOUT
                        .read(Some(value))?
                        .map(|wait| wait.min(call.shared.settings.poll_wait_max));
                }
                "changes_since" => {
                    plain.since = CHANGES_SINCE.read(Some(value))?;
                }
                _ => return Ok(None),
            }
        }
        let pages = call.shared.settings.streams_limit > 0 && plain.since.is_none();
        Ok(if pages { None } else { Some(plain) })
    }
}

/// A stream as one node is told it.
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
        // The name stands first, out of order; the rest is sorted.
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
    field_type: |path| crate::query::field_type(schema::stream(), path),
    secret: |path| schema::stream().is_secret(path),
};

/// Parameters of these operations that are no filters. `name` is one of them: it lists what is asked for.
const PARAMETERS: &[&dyn Parameter] = &[&HOST, &NAMES, &POLL_TIMEOUT, &CHANGES_SINCE];

const HOST: Text = Text::new(
    "host",
    "Hostname that streamers add to their requests by themselves. Ignored, the path decides.",
)
.example(r#""streamer1.example.com""#)
.without_effect();
const NAMES: Text = Text::list("name", "Names of the streams, joined by commas.")
    .example(r#"["harbour/cam1","harbour/cam2"]"#);
const CHANGES_SINCE: Integer = Integer::new(
    "changes_since",
    "Revision of an earlier response: only what changed after it is sent.",
)
.extension();

/// A list that the question picks, orders or cuts. All pages of a walk come from the revision of the first.
fn paged(call: &Call<'_>, hostname: &Hostname, node: &Arc<Node>) -> Result<Outcome, ApiError> {
    let mut query = Query::parse(call.request.query, &KIND, PARAMETERS)?;
    if query.has(&NAMES) {
        // The older way of one endpoint for all three questions.
        return update_streams(call);
    }
    if query.has(&POLL_TIMEOUT) || query.has(&CHANGES_SINCE) {
        let parameter = if query.has(&POLL_TIMEOUT) {
            POLL_TIMEOUT.name()
        } else {
            CHANGES_SINCE.name()
        };
        return Err(error::NOT_COMBINABLE
            .titled(
                "`poll_timeout` and `changes_since` apply to the whole list; remove select, sort, \
                 limit, cursor, q and filters",
            )
            .at_parameter(parameter));
    }
    query.set_default_limit(call.shared.settings.streams_limit);
    let earlier;
    let (state, node) = match query.revision() {
        Some(revision) if revision != call.state.revision() => {
            let kept = call.shared.walks.get(revision);
            earlier = kept.ok_or_else(walk_expired)?;
            let node = known_node(&earlier, hostname)?;
            (&earlier, node)
        }
        _ => (&**call.state, node),
    };
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
        call.shared.walks.keep(state);
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

pub(super) fn walk_expired() -> ApiError {
    error::WALK_EXPIRED
        .titled("The revision of this walk is not kept any more; begin with the first page")
        .at_parameter("cursor")
}

/// States that walks in progress read from. Shared by the cores, because a client's next page may come over another connection.
#[derive(Default)]
pub struct Walks {
    kept: Mutex<Vec<(Instant, Arc<State>)>>,
}

impl Walks {
    pub(super) fn get(&self, revision: u64) -> Option<Arc<State>> {
        let now = Instant::now();
        let mut kept = self.kept.lock();
        kept.retain(|(until, _)| *until > now);
        kept.iter()
            .find(|(_, state)| state.revision() == revision)
            .map(|(_, state)| state.clone())
    }

    /// A state that is kept keeps what was changed since in memory. Called with every commit, because walks alone may never come again.
    pub fn forget_old(&self) {
        let now = Instant::now();
        self.kept.lock().retain(|(until, _)| *until > now);
    }

    pub fn keep(&self, state: &Arc<State>) {
        let now = Instant::now();
        let until = now + WALK_KEPT;
        let mut kept = self.kept.lock();
        kept.retain(|(until, other)| *until > now && other.revision() != state.revision());
        if kept.len() == WALKS_KEPT_MAX {
            kept.remove(0);
        }
        kept.push((until, state.clone()));
    }
}

// ---- single streams ------------------------------------------------------------------------------------------------------------

/// Answers about the streams that `name` lists.
fn named(
    call: &Call<'_>,
    tell: impl Fn(&State, &Node, &Hostname, &str) -> Result<Option<Vec<u8>>, ApiError>,
) -> Result<Outcome, ApiError> {
    let hostname = call.hostname()?;
    let node = known_node(call.state, &hostname)?;
    let runtime = call.shared.nodes.get(&hostname);
    runtime.activity.seen(uptime_ms());
    let query = Query::parse(call.request.query, &KIND, PARAMETERS)?;
    let mut names = names(call.request.query)?;
    names.sort_unstable();
    names.dedup();
    let mut docs = Vec::new();
    for name in names {
        if let Some(text) = tell(call.state, node, &hostname, &name)? {
            docs.push((
                StreamName::trusted(&name),
                String::from_utf8(text).expect("rendered JSON is UTF-8"),
            ));
        }
    }
    let mut query = query;
    query.set_default_limit(0);
    let page = Execution::new(&query).run(&ConfigDocs(docs));
    let extra = format!("\"updated_at\":{}", node.updated_at);
    Ok(Outcome::Reply(with_headers(
        call.state,
        Response::json(200, page.into_body(&extra)),
    )))
}

/// The comma list in `name`. A comma separates also when it is escaped: no stream name holds one.
fn names(query: &str) -> Result<Vec<String>, ApiError> {
    let bad = |title: &'static str| error::WRONG_FORMAT.titled(title).at_parameter("name");
    let raw = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("name="))
        .ok_or_else(|| {
            error::MISSING_REQUIRED
                .titled("Name the streams that are asked for")
                .at_parameter("name")
        })?;
    let spaced = raw.replace('+', " ");
    let text = percent_decode_str(&spaced)
        .decode_utf8()
        .map_err(|_| bad("The names are not percent-encoded UTF-8"))?;
    let names: Vec<String> = text
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        return Err(error::MISSING_REQUIRED
            .titled("Name the streams that are asked for")
            .at_parameter("name"));
    }
    if names.len() > NAMES_MAX {
        return Err(error::TOO_MANY_ITEMS
            .titled("At most 10,000 streams can be asked for at once")
            .at_parameter("name")
            .with("maximum", NAMES_MAX));
    }
    Ok(names)
}

/// A stream that is laid out on this node, as the whole list tells it.
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

/// A stream that this node does not hold, as a pull from the node that does, if this node may restream it.
fn render_dynamic(state: &State, hostname: &Hostname, name: &str) -> Option<Vec<u8>> {
    let streamer = state.streamer(hostname)?;
    let may = match state.settings().restreaming {
        Restreaming::Off => false,
        Restreaming::Flagged => streamer.is_restreamer,
        Restreaming::All => true,
    };
    let stream = state.stream(name)?;
    let same_namespace = stream
        .namespace
        .as_ref()
        .map(rkyv::string::ArchivedString::as_str)
        == streamer
            .namespace
            .as_ref()
            .map(rkyv::string::ArchivedString::as_str);
    let mut text = Vec::new();
    (may && same_namespace && render_restream(state, stream, &mut text)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_names_the_store_the_settings_and_the_generation() {
        let tag = |store_id, generation, epoch| Etag {
            store_id,
            generation,
            epoch,
        };
        let held = tag(1, 7, 9);
        for coding in [None, Some(Coding::Gzip), Some(Coding::Zstd)] {
            let text = held.text(coding);
            assert!(held.is_among(text.as_bytes()) && held.is_akin(text.as_bytes()));
            assert!(held.is_among(format!("\"x\", W/{text}").as_bytes()));
            let newer = tag(1, 8, 9);
            assert!(!newer.is_among(text.as_bytes()) && newer.is_akin(text.as_bytes()));
            for other in [tag(2, 7, 9), tag(1, 7, 8)] {
                assert!(!other.is_among(text.as_bytes()) && !other.is_akin(text.as_bytes()));
            }
        }
        assert!(held.is_among(b"*"));
        assert!(!held.is_among(b"") && !held.is_among(b"\"\xff\""));
    }
}
