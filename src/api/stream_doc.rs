//! Streams as the API shows them, and as a source of the query engine.

use std::borrow::Cow;
use std::ops::Bound;
use std::rc::Rc;

use rkyv::string::ArchivedString;

use super::streaming_endpoint::{EndpointViewer, Endpoints, ViewerOrigin};
use super::tagged::BodySource;
use crate::access::geo::Countries;
use crate::agents::registry::Registry;
use crate::agents::streampoint;
use crate::fleet::health::{Health, ReportedHealth, health_as_reported, is_online};
use crate::fleet::report::{NO_COMMON_PROTOCOL, ReportedError};
use crate::fleet::stats::{AddedStats, AgentStatus, StreamAgent, StreamFacts, View};
use crate::json::{Number, scan, write_string};
use crate::query::params::{Choice, EngineParameter, Flag, ParameterValues as _, Text, ValueKind};
use crate::query::{
    Document, FieldPath, Hints, KeyOrder, Leaf, ListKind, Query, Raw, ScanPosition, SearchField,
    Source,
};
use crate::schema;
use crate::state::agent::agents_in_order;
use crate::state::name::StreamName;
use crate::state::node::lacks_common_protocol;
use crate::state::record::{ArchivedLayout, ArchivedStream, Role, StreamRecord};
use crate::state::{SHARDS, State};
use crate::subnet::parse_address;

/// The value of `named_by`: all streams are configured.
const NAMED_BY: &str = "config";

/// Renders one stream. `masked` hides secrets.
pub fn render(
    stream: &StreamRecord,
    masked: bool,
    around: Option<Around<'_>>,
    out: &mut Vec<u8>,
) -> BodySource {
    let document = StreamDoc::new(stream, masked, around);
    let has_facts = document.write(out);
    BodySource::of_moment(has_facts || document.masked)
}

/// What the document of a stream is rendered from besides its record.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    pub state: &'a State,
    pub fleet: View<'a>,
    pub presences: &'a Registry,
}

impl<'a> Around<'a> {
    fn endpoints(self, viewer: EndpointViewer) -> Rc<Endpoints<'a>> {
        Rc::new(Endpoints::new(self.state, self.fleet, viewer))
    }
}

/// A stream as the API shows it.
pub struct StreamDoc<'a> {
    stream: &'a StreamRecord,
    /// Secrets are masked, and there are some.
    masked: bool,
    around: Option<Around<'a>>,
    /// Shared by the documents of a list; present with `around`.
    endpoints: Option<Rc<Endpoints<'a>>>,
    with_ingest_history: bool,
}

impl<'a> StreamDoc<'a> {
    /// Without `around` the stream is rendered without reports.
    pub fn new(stream: &'a StreamRecord, masked: bool, around: Option<Around<'a>>) -> Self {
        let endpoints = around.map(|around| around.endpoints(EndpointViewer::default()));
        Self::with_endpoints(stream, masked, around, endpoints)
    }

    fn with_endpoints(
        stream: &'a StreamRecord,
        masked: bool,
        around: Option<Around<'a>>,
        endpoints: Option<Rc<Endpoints<'a>>>,
    ) -> Self {
        let record: &'a ArchivedStream = stream;
        Self {
            stream,
            masked: masked && record.has_secrets,
            around,
            endpoints,
            with_ingest_history: true,
        }
    }

    /// The stored stream.
    pub fn record(&self) -> &'a StreamRecord {
        self.stream
    }

    /// The effective configuration.
    fn config(&self) -> Cow<'a, str> {
        let record: &'a ArchivedStream = self.stream;
        let config = record.config.as_str();
        if self.masked {
            Cow::Owned(schema::stream().mask(config))
        } else {
            Cow::Borrowed(config)
        }
    }

    /// A member of it.
    fn config_member(&self, name: &str) -> Option<Cow<'a, str>> {
        let record: &'a ArchivedStream = self.stream;
        let value = scan::member(record.config.as_str(), name)?;
        Some(if self.masked {
            schema::stream().mask_member(name, value)
        } else {
            Cow::Borrowed(value)
        })
    }

    fn render_layout(&self, out: &mut Vec<u8>) {
        if let Some(layout) = self.stream.layout() {
            let stream: &ArchivedStream = self.stream;
            let history_of = self.with_ingest_history.then_some(stream);
            render_layout(layout, LayoutNow::of(stream), history_of, out);
        }
    }

    /// Looks the reports about the stream up, once for all that follows from them.
    fn with_reports<R>(&self, look: impl FnOnce(Option<&StreamFacts<'_>>) -> R) -> R {
        let Some(around) = self.around else {
            return look(None);
        };
        let (record, fleet): (&ArchivedStream, _) = (self.stream, around.fleet);
        fleet.stream_or_none(&record.name, record.source(), |facts| look(facts.as_ref()))
    }

    /// The same for `stats`, which have an endpoint.
    fn with_reports_for_stats<R>(&self, look: impl FnOnce(Option<&StreamFacts<'_>>) -> R) -> R {
        if let Some(endpoints) = &self.endpoints {
            endpoints.prepare();
        }
        self.with_reports(look)
    }

    /// Reads the reports about the stream.
    fn reported<R>(&self, look: impl FnOnce(StreamFacts<'_>) -> R) -> Option<R> {
        self.with_reports(|facts| facts.copied().map(look))
    }

    /// The agent that relays the stream: the one that its node reports; else, of those in its
    /// inputs, the first that is connected, or the first.
    fn agent(&self, facts: Option<&StreamFacts<'_>>) -> Option<StreamAgent> {
        let (record, around): (&ArchivedStream, _) = (self.stream, self.around?);
        let mut agents = agents_in_order(&record.config);
        if agents.is_empty() {
            return None;
        }
        let taken = facts.and_then(StreamFacts::agent);
        let is_online = |id: &str| around.presences.online(id).is_some();
        let index = taken
            .and_then(|taken| agents.iter().position(|id| **id == *taken))
            .or_else(|| agents.iter().position(|id| is_online(id)))
            .unwrap_or_default();
        let id = agents.swap_remove(index);
        let accepts = |host| streampoint::accepts_agents(around.state, host);
        let status = if !record.ingest().is_none_or(accepts) {
            AgentStatus::RproxyNotConfigured
        } else if is_online(&id) {
            AgentStatus::Connected
        } else {
            AgentStatus::NotConnected
        };
        Some(StreamAgent { id, status })
    }

    /// Writes `stats`; returns false if there are none.
    fn write_stats(&self, facts: Option<&StreamFacts<'_>>, out: &mut Vec<u8>) -> bool {
        let endpoints = self.endpoints.as_ref();
        let added = AddedStats {
            agent: self.agent(facts),
            error: self.found_error(),
            streaming_endpoint: endpoints.and_then(|it| it.of(self.stream, facts)),
        };
        match facts {
            Some(facts) => {
                facts.render(&added, out);
                true
            }
            None => added.render(out),
        }
    }

    /// The error of the stream that follows from the configuration.
    fn found_error(&self) -> Option<ReportedError> {
        let state = self.around?.state;
        lacks_common_protocol(state, self.stream).then(|| ReportedError::found(NO_COMMON_PROTOCOL))
    }

    /// Whether a streamer is to run it.
    fn is_placed(&self) -> bool {
        self.stream.ingest().is_some()
    }

    /// The health of the stream, for which reports are needed.
    fn health(&self, facts: Option<&StreamFacts<'_>>) -> Option<Health> {
        let around = self.around?;
        let is_online = |host: &str| is_online(around.state, around.fleet, host);
        let reported = ReportedHealth::of(facts);
        Some(health_as_reported(self.stream, reported, is_online))
    }

    /// A number of `stats`.
    fn reported_number(
        &self,
        number: impl FnOnce(StreamFacts<'_>) -> Option<u64>,
    ) -> Leaf<'static> {
        match self.reported(number).flatten() {
            Some(number) => Leaf::Value(Raw::Number(Number::Unsigned(number))),
            None => Leaf::Absent,
        }
    }

    /// The error of the stream, or a member of it.
    fn error_leaf(&self, path: &str) -> Leaf<'static> {
        let text = |text: &str| owned(|out| write_string(out, text));
        let member = |error: &ReportedError| match path {
            "stats.error.code" => Some(text(error.code())),
            "stats.error.text" => error.text().map(text),
            "stats.error.since" => error.since_ms().map(Raw::from),
            _ => Some(owned(|out| error.render(out))),
        };
        let leaf = match self.reported(|facts| facts.error().map(member)).flatten() {
            Some(leaf) => leaf,
            None => self.found_error().as_ref().and_then(member),
        };
        leaf.map_or(Leaf::Absent, Leaf::Value)
    }

    /// Writes the name and the configuration without defaults.
    fn config_on_disk(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"name\":");
        write_string(out, &self.stream.name);
        let begin = out.len();
        schema::without_filled(&self.stream.config, self.stream.filled_spans(), out);
        if self.masked {
            let stored = String::from_utf8(out.split_off(begin));
            let stored = stored.expect("spans of defaults end at characters");
            out.extend_from_slice(schema::stream().mask(&stored).as_bytes());
        }
        if out.len() - begin > 2 {
            // Members follow the name.
            out[begin] = b',';
        } else {
            out.truncate(begin);
            out.push(b'}');
        }
    }

    /// Like `config_on_disk`, with members sorted by name, which selection by path requires.
    fn config_on_disk_in_order(&self, out: &mut Vec<u8>) {
        let mut name_first = Vec::new();
        self.config_on_disk(&mut name_first);
        let name_first = String::from_utf8(name_first).expect("rendered JSON is UTF-8");
        let mut members: Vec<(&str, &str)> = scan::members(&name_first).collect();
        let after = members[1..].partition_point(|(name, _)| *name < "name");
        members[..=after].rotate_left(1);
        for (i, (name, value)) in members.iter().enumerate() {
            out.extend_from_slice(if i == 0 { b"{\"" } else { b",\"" });
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            out.extend_from_slice(value.as_bytes());
        }
        out.push(b'}');
    }
}

fn owned(render: impl FnOnce(&mut Vec<u8>)) -> Raw<'static> {
    let mut out = Vec::new();
    render(&mut out);
    Raw::Json(Cow::Owned(
        String::from_utf8(out).expect("rendered JSON is UTF-8"),
    ))
}

impl Document for StreamDoc<'_> {
    fn key(&self) -> &str {
        &self.stream.name
    }

    fn field(&self, name: &str) -> Option<Raw<'_>> {
        match name {
            "name" => Some(Raw::Text(&self.stream.name)),
            "updated_at" => Some(Raw::Number(Number::Unsigned(
                self.stream.updated_at.to_native(),
            ))),
            "named_by" => Some(Raw::Text(NAMED_BY)),
            "health" => {
                let health = self.with_reports(|facts| self.health(facts));
                Some(Raw::Text(health?.as_str()))
            }
            "placed" => Some(Raw::Bool(self.is_placed())),
            "layout" => self
                .stream
                .layout()
                .map(|_| owned(|out| self.render_layout(out))),
            "config_on_disk" => Some(owned(|out| self.config_on_disk_in_order(out))),
            "stats" => {
                let mut out = Vec::new();
                self.with_reports_for_stats(|facts| self.write_stats(facts, &mut out))
                    .then(|| owned(|stats| *stats = out))
            }
            _ => self.config_member(name).map(Raw::Json),
        }
    }

    fn leaf(&self, path: &FieldPath) -> Leaf<'_> {
        let record: &ArchivedStream = self.stream;
        match path.as_str() {
            "layout.ingest" => match record.ingest() {
                Some(host) => Leaf::Value(Raw::Text(host)),
                None => Leaf::Absent,
            },
            "layout.inference" => match record.inference() {
                Some(host) => Leaf::Value(Raw::Text(host)),
                None => Leaf::Absent,
            },
            "stats.bitrate" => self.reported_number(|facts| facts.bitrate_kbit()),
            "stats.online_clients" => self.reported_number(|facts| facts.online_clients()),
            "stats.bytes_out" => self.reported_number(|facts| facts.bytes_out()),
            "stats.last_dts_at" => self.reported_number(|facts| facts.last_dts_at_ms()),
            "stats.status" => match self.reported(|facts| facts.status()).flatten() {
                Some(status) => Leaf::Value(Raw::Text(status.as_str())),
                None => Leaf::Absent,
            },
            "stats.alive" => match self.reported(|facts| facts.alive()).flatten() {
                Some(alive) => Leaf::Value(Raw::Bool(alive)),
                None => Leaf::Absent,
            },
            "stats.error" | "stats.error.code" | "stats.error.since" | "stats.error.text" => {
                self.error_leaf(path.as_str())
            }
            "stats.agent_status" => match self.with_reports(|facts| self.agent(facts)) {
                Some(agent) => Leaf::Value(Raw::Text(agent.status.as_str())),
                None => Leaf::Absent,
            },
            _ => Leaf::Unknown,
        }
    }

    fn search_texts(&self) -> Option<[&str; 2]> {
        Some([&self.stream.name, &self.stream.config])
    }

    fn prefetch(&self) -> u8 {
        self.stream
            .config
            .bytes()
            .step_by(64)
            .fold(0, |sum, byte| sum ^ byte)
    }

    fn render(&self, out: &mut Vec<u8>) {
        self.write(out);
    }
}

impl StreamDoc<'_> {
    /// Writes the document. Returns whether it has facts of the moment.
    fn write(&self, out: &mut Vec<u8>) -> bool {
        let config = self.config();
        out.reserve(config.len() * 2 + 256);
        out.extend_from_slice(b"{\"name\":");
        write_string(out, &self.stream.name);
        if config.len() > 2 {
            out.push(b',');
            out.extend_from_slice(&config.as_bytes()[1..config.len() - 1]);
        }
        out.extend_from_slice(b",\"config_on_disk\":");
        self.config_on_disk(out);
        let has_facts = self.with_reports_for_stats(|facts| self.write_facts(facts, out));
        out.extend_from_slice(b",\"updated_at\":");
        out.extend_from_slice(
            itoa::Buffer::new()
                .format(self.stream.updated_at.to_native())
                .as_bytes(),
        );
        out.push(b'}');
        has_facts
    }

    /// Writes the members from `health` to `stats`. Returns whether some are facts of the moment.
    fn write_facts(&self, facts: Option<&StreamFacts<'_>>, out: &mut Vec<u8>) -> bool {
        let health = self.health(facts);
        if let Some(health) = health {
            out.extend_from_slice(b",\"health\":");
            write_string(out, health.as_str());
        }
        if self.stream.layout().is_some() {
            out.extend_from_slice(b",\"layout\":");
            self.render_layout(out);
        }
        out.extend_from_slice(b",\"named_by\":\"config\",\"placed\":");
        let placed: &[u8] = if self.is_placed() { b"true" } else { b"false" };
        out.extend_from_slice(placed);
        let begin = out.len();
        out.extend_from_slice(b",\"stats\":");
        let has_stats = self.write_stats(facts, out);
        if !has_stats {
            out.truncate(begin);
        }
        has_stats || health.is_some()
    }
}

/// Renders the current layout with its ingest history, members sorted.
pub(crate) fn render_current_layout(stream: &ArchivedStream, out: &mut Vec<u8>) {
    if let Some(layout) = stream.layout() {
        render_layout(layout, LayoutNow::of(stream), Some(stream), out);
    }
}

/// What is true of the present layout of a stream only.
#[derive(Clone, Copy, Default)]
pub struct LayoutNow<'a> {
    /// The node that keeps the stream after a move.
    pub handover_from: Option<&'a str>,
    /// It stays on its ingest node.
    pub pinned: bool,
}

impl<'a> LayoutNow<'a> {
    pub fn of(stream: &'a ArchivedStream) -> Self {
        Self {
            handover_from: stream.handover_from(),
            pinned: stream.pinned,
        }
    }
}

/// Renders a layout, with the ingest history of a stream if one is given.
pub fn render_layout(
    layout: &ArchivedLayout,
    now: LayoutNow<'_>,
    history_of: Option<&ArchivedStream>,
    out: &mut Vec<u8>,
) {
    out.push(b'{');
    if let Some(reason) = layout.change_reason.as_ref() {
        out.extend_from_slice(b"\"change_reason\":");
        write_string(out, reason);
        out.push(b',');
    }
    out.extend_from_slice(b"\"created_at\":");
    out.extend_from_slice(
        itoa::Buffer::new()
            .format(layout.created_at.to_native())
            .as_bytes(),
    );
    if !layout.dvr_backups.is_empty() {
        out.extend_from_slice(b",\"dvr_backups\":[");
        for (i, host) in layout.dvr_backups.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_string(out, host);
        }
        out.push(b']');
    }
    let failover_from = layout.failover_from.as_ref().map(ArchivedString::as_str);
    let inference = layout.inference.as_ref().map(ArchivedString::as_str);
    let ingest = layout.ingest.as_ref().map(ArchivedString::as_str);
    for (field, host) in [
        (",\"failover_from\":", failover_from),
        (",\"handover_from\":", now.handover_from),
        (",\"inference\":", inference),
        (",\"ingest\":", ingest),
    ] {
        if let Some(host) = host {
            out.extend_from_slice(field.as_bytes());
            write_string(out, host);
        }
    }
    if let Some(stream) = history_of {
        let history = stream.ingest_history();
        if !history.is_empty() {
            out.extend_from_slice(b",\"ingest_history\":[");
            for (i, (since, host, by_layouter)) in history.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(b"{\"created_at\":");
                out.extend_from_slice(itoa::Buffer::new().format(since).as_bytes());
                out.extend_from_slice(b",\"ingest\":");
                write_string(out, host);
                out.extend_from_slice(originator(by_layouter));
                out.push(b'}');
            }
            out.push(b']');
        }
    }
    out.extend_from_slice(originator(layout.by_layouter));
    if now.pinned {
        out.extend_from_slice(b",\"pinned\":true");
    }
    out.push(b'}');
}

/// The member with the origin of a layout.
fn originator(by_layouter: bool) -> &'static [u8] {
    if by_layouter {
        b",\"originator\":\"layouter\""
    } else {
        b",\"originator\":\"other\""
    }
}

/// Reading a stream by its stamp costs as much as reading this many one after the other.
const STAMP_COST: usize = 16;

/// Whether all streams should be read for the matches of a query, because no index leads to few.
pub fn reads_all(query: &Query, state: &State) -> bool {
    let hints = query.hints();
    let few = state.streams_count() / STAMP_COST;
    let is_long_ago = |stamp| state.has_changed_from(stamp, few);
    query.keys().is_none()
        && !hints.has_equal("layout.ingest")
        && hints.stamp_min.is_none_or(is_long_ago)
}

/// All streams of a state, as a source of the query engine. Parts of a scan are shards.
pub struct Streams<'s> {
    state: &'s State,
    around: Option<Around<'s>>,
    endpoints: Option<Rc<Endpoints<'s>>>,
    with_ingest_history: bool,
    /// A scan looks into reports.
    reads_reports: bool,
    /// No other streams can match.
    candidates: Option<&'s [StreamName]>,
}

impl<'s> Streams<'s> {
    pub fn new(state: &'s State, around: Option<Around<'s>>) -> Self {
        Self {
            state,
            around,
            endpoints: around.map(|around| around.endpoints(EndpointViewer::default())),
            with_ingest_history: true,
            reads_reports: false,
            candidates: None,
        }
    }

    /// Scans these streams only.
    #[must_use]
    pub fn among(self, candidates: Option<&'s [StreamName]>) -> Self {
        Self { candidates, ..self }
    }

    /// Prepares a scan for the matches of a query.
    #[must_use]
    pub fn for_scan(self, query: &Query) -> Self {
        let reads_reports = ["stats", "health"].iter().any(|it| query.scans_by(it));
        Self {
            reads_reports,
            ..self
        }
    }

    /// Applies the parameters of a list.
    #[must_use]
    pub fn for_list(self, query: &Query, countries: &Countries) -> Self {
        let address = query.text(&CLIENT_IP).ok().flatten();
        let address = address.and_then(|text| parse_address(&text));
        let viewer = EndpointViewer {
            scheme: query.choice(&SCHEME).ok().flatten(),
            origin: address.map_or(ViewerOrigin::Anywhere, |address| {
                ViewerOrigin::In(countries.of(address))
            }),
        };
        let around = self.around;
        Self {
            endpoints: around.map(|around| around.endpoints(viewer)),
            with_ingest_history: query.flag(&INCLUDE_INGEST_HISTORY).unwrap_or(true),
            ..self.for_scan(query)
        }
    }

    /// Reads memory that the documents of some streams of one shard need. The processor waits for
    /// all of it at once, not for each document.
    fn load(&self, streams: &[&StreamRecord]) {
        let loaded = streams.iter().fold(0, |sum, stream| {
            sum ^ usize::from(stream.has_secrets) ^ stream.source().map_or(0, str::len)
        });
        std::hint::black_box(loaded);
        if self.reads_reports
            && let Some(around) = self.around
        {
            around.fleet.load(streams.iter().map(|it| it.name.as_str()));
        }
    }

    fn doc(&self, stream: &'s StreamRecord) -> StreamDoc<'s> {
        StreamDoc {
            with_ingest_history: self.with_ingest_history,
            ..StreamDoc::with_endpoints(stream, true, self.around, self.endpoints.clone())
        }
    }
}

impl Source for Streams<'_> {
    type Doc<'a>
        = StreamDoc<'a>
    where
        Self: 'a;

    fn count(&self) -> u64 {
        self.state.streams_count() as u64
    }

    fn get(&self, key: &str) -> Option<StreamDoc<'_>> {
        self.state.stream(key).map(|stream| self.doc(stream))
    }

    fn ascending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = StreamDoc<'a>> {
        self.state
            .streams_by_name(from)
            .map(|stream| self.doc(stream))
    }

    fn descending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = StreamDoc<'a>> {
        self.state
            .streams_by_name_descending(from)
            .map(|stream| self.doc(stream))
    }

    fn scan<'a>(
        &'a self,
        hints: &Hints<'_>,
        place: &mut ScanPosition,
        budget: usize,
        each: &mut dyn FnMut(StreamDoc<'a>),
    ) -> bool {
        let budget = budget.max(1);
        let mut visit_all = |streams: &[&'a StreamRecord]| {
            if streams.len() > 1 {
                self.load(streams);
            }
            for stream in streams {
                each(self.doc(stream));
            }
        };
        let mut visit = |stream: &'a StreamRecord| visit_all(&[stream]);
        if let Some(names) = self.candidates {
            let to = names.len().min(place.part.saturating_add(budget));
            let names_now = names[place.part..to].iter();
            names_now
                .filter_map(|name| self.state.stream(name))
                .for_each(visit);
            place.part = to;
            return to == names.len();
        }
        if place.in_part {
            return scan_shards(self.state, hints, place, budget, &mut visit_all);
        }
        if let Some(stamp) = hints.stamp_min {
            return scan_changed(self.state, stamp, place, budget, &mut visit);
        }
        let mut equal = hints.equal.iter();
        match equal.find(|(path, _)| *path == "layout.ingest") {
            Some((_, hosts)) => scan_ingest(self.state, hosts, place, budget, &mut visit),
            None => scan_shards(self.state, hints, place, budget, &mut visit_all),
        }
    }
}

/// Visits the streams changed since a stamp, in the order of stamps: the cost of a long poll
/// depends on the number of changes, not of streams.
fn scan_changed<'a>(
    state: &'a State,
    stamp: u64,
    position: &mut ScanPosition,
    mut left: usize,
    visit: &mut impl FnMut(&'a StreamRecord),
) -> bool {
    let from = (position.part as u64).max(stamp);
    let after = position.after.take();
    for stream in state.streams_changed_from(from, after.as_deref()) {
        visit(stream);
        left -= 1;
        if left == 0 {
            position.part = stream.updated_at.to_native() as usize;
            position.after = Some(Box::from(stream.name.as_str()));
            return false;
        }
    }
    true
}

/// Visits the streams whose ingest node is one of `hosts`, one host after the other.
fn scan_ingest<'a>(
    state: &'a State,
    hosts: &[Box<str>],
    position: &mut ScanPosition,
    mut left: usize,
    visit: &mut impl FnMut(&'a StreamRecord),
) -> bool {
    while let Some(host) = hosts.get(position.part) {
        if let Some(node) = state.node(host) {
            let after = position.after.take();
            let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let streams = node.streams.range::<_, str>((from, Bound::Unbounded));
            for (name, _) in streams.filter(|(_, role)| **role == Role::Ingest) {
                // It may only keep the stream after a move.
                let stream = state.stream(name);
                if let Some(stream) = stream.filter(|it| it.ingest() == Some(&**host)) {
                    visit(stream);
                }
                left -= 1;
                if left == 0 {
                    position.after = Some(Box::from(name.as_str()));
                    return false;
                }
            }
        }
        position.part += 1;
    }
    true
}

/// Streams whose memory is read at once: enough to keep all outstanding loads of a processor busy.
const LOADED_TOGETHER: usize = 16;

/// Visits all streams in the range of names, one shard after the other, some of a shard at a time.
fn scan_shards<'a>(
    state: &'a State,
    hints: &Hints<'_>,
    position: &mut ScanPosition,
    mut left: usize,
    visit: &mut impl FnMut(&[&'a StreamRecord]),
) -> bool {
    let mut together = Vec::with_capacity(LOADED_TOGETHER);
    let end = if position.in_part {
        position.part + 1
    } else {
        SHARDS
    };
    while position.part < end {
        let after = position.after.take();
        let from = after.as_deref().map_or(hints.key_from, Bound::Excluded);
        let shard = state.shard(position.part);
        for (name, stream) in shard.range::<_, str>((from, Bound::Unbounded)) {
            if hints.ends_before(name) {
                break;
            }
            together.push(stream);
            left -= 1;
            if left == 0 || together.len() == LOADED_TOGETHER {
                visit(&together);
                together.clear();
            }
            if left == 0 {
                position.after = Some(Box::from(name.as_str()));
                return false;
            }
        }
        visit(&together);
        together.clear();
        position.part += 1;
    }
    true
}

/// The description of streams for the query engine.
pub static KIND: ListKind = ListKind {
    collection: "streams",
    key: "name",
    key_order: KeyOrder::Text,
    default_sort: "name",
    stamp: Some("updated_at"),
    required: || schema::stream().required(),
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
            path: "template",
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

/// The search in [`KIND`].
pub const SEARCH: EngineParameter = EngineParameter::new(
    "q",
    ValueKind::Text,
    "Text to look for, in upper or lower case, in name, title, comment, template and the URLs of \
     inputs (without credentials).",
)
.example(r#""harbour""#);

pub const SCHEME: Choice = Choice::new(
    "scheme",
    &["http", "https"],
    "Preferred scheme of `stats.streaming_endpoint`. The other one is given where no streamer that \
     serves the stream has an address with this one.",
)
.example(r#""https""#);
pub const CLIENT_IP: Text = Text::new(
    "client_ip",
    "Address of the viewer that plays the streams. `stats.streaming_endpoint` is then on no \
     streamer on which all load balancers that list it refuse the country of this address.",
)
.format(is_address, "must be an IPv4 or IPv6 address")
.example(r#""192.0.2.31""#);

fn is_address(text: &str) -> bool {
    parse_address(text).is_some()
}

// The reference returns the history by default, its later versions only on request.
pub const INCLUDE_INGEST_HISTORY: Flag = Flag::new(
    "include_ingest_history",
    true,
    "`false` leaves `layout.ingest_history` out, which makes long lists shorter.",
)
.example("false")
.extension();
