//! Reports of streamers, parsed and checked: about the node, its storages and the streams on it.

use std::collections::HashSet;
use std::time::Instant;

use super::healthcheck::{FailedQuery, Healthcheck};
use super::repair::{Dropped, repaired, rounded};
use crate::error::{self, ApiError};
use crate::json::{Number, Object, PackedText, Value, ValueRef, ValueShape, write_string};
use crate::limits::UNCONFIGURED_TEXT_BYTES_MAX;
use crate::schema::{self, Schema, ValidWriter};
use crate::state::command::{check_moment, is_moment};
use crate::state::name::StreamName;

/// Streams in one report, far above what one machine runs.
pub const STREAMS_PER_REPORT_MAX: usize = 100_000;
/// Storages in one report.
pub const DVRS_PER_REPORT_MAX: usize = 256;
/// Canonical text of the stats of a streamer, of its storages, and of one stream.
const STREAMER_BYTES_MAX: usize = 256 * 1024;
const DVRS_BYTES_MAX: usize = 256 * 1024;
const STREAM_BYTES_MAX: usize = 16 * 1024;
/// The text of the error of one stream; the rest is cut.
const ERROR_TEXT_BYTES_MAX: usize = 1000;

/// The state of a stream on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamStatus {
    Running,
    Waiting,
    Error,
}

impl StreamStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Error => "error",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Running, Self::Waiting, Self::Error]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

/// The codes of errors that are counted by name, sorted. Streamers may report others.
///
/// Of the servers behind bridges, go2rtc alone reports why a source gave nothing: MediaMTX and
/// node-media-server write it to their logs, SRS to those of its ffmpeg, and their streams just
/// wait. So `source_refused` and `source_unauthorized` come from go2rtc, and from streamers that
/// report themselves.
pub const ERROR_CODES: [&str; 10] = [
    "dvr_not_supported",
    "foreign_stream",
    "name_taken",
    "no_common_protocol",
    "no_input_for_this_server",
    "no_picture",
    "server_refused",
    "source_refused",
    "source_unauthorized",
    "source_unreachable",
];

/// Why a stream does not run on a node, by the report of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedError {
    code: Box<str>,
    text: Box<str>,
    /// Since when, UTC ms: as reported, else the time of the first report with this code.
    since_ms: OptionalNumber,
    is_since_reported: bool,
}

impl ReportedError {
    fn of(error: &Object) -> Option<Self> {
        let text = error.get("text").and_then(Value::as_str);
        // It may have the URL of the source, with its password.
        let text = schema::mask_urls(text.unwrap_or_default());
        let since = error.get("since").and_then(Value::as_u64);
        Some(Self {
            code: error.get("code").and_then(Value::as_str)?.into(),
            text: text[..text.floor_char_boundary(ERROR_TEXT_BYTES_MAX)].into(),
            since_ms: OptionalNumber::of(since),
            is_since_reported: since.is_some(),
        })
    }

    /// An error that this server finds, and no node reports.
    pub fn found(code: &'static str) -> Self {
        Self {
            code: code.into(),
            text: Box::default(),
            since_ms: OptionalNumber::NONE,
            is_since_reported: false,
        }
    }

    pub fn code(&self) -> &str {
        &self.code
    }

    pub fn since_ms(&self) -> Option<u64> {
        self.since_ms.get()
    }

    pub fn text(&self) -> Option<&str> {
        (!self.text.is_empty()).then_some(&*self.text)
    }

    /// The index of the code in [`ERROR_CODES`].
    pub fn known_code(&self) -> Option<usize> {
        ERROR_CODES.binary_search(&&*self.code).ok()
    }

    /// Writes the error as canonical JSON.
    pub fn render(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"code\":");
        write_string(out, &self.code);
        if let Some(since) = self.since_ms.get() {
            out.extend_from_slice(b",\"since\":");
            out.extend_from_slice(itoa::Buffer::new().format(since).as_bytes());
        }
        if let Some(text) = self.text() {
            out.extend_from_slice(b",\"text\":");
            write_string(out, text);
        }
        out.push(b'}');
    }
}

/// The code of [`ReportedError::found`] if a node cannot pull a stream from its ingest node.
pub const NO_COMMON_PROTOCOL: &str = ERROR_CODES[NO_COMMON_PROTOCOL_INDEX];
pub const NO_COMMON_PROTOCOL_INDEX: usize = 3;

/// One storage medium of a streamer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub device: Box<str>,
    pub path: Box<str>,
    pub usage_percent: Option<u64>,
    pub io_percent: Option<u64>,
    pub total_mb: Option<u64>,
}

/// The usage of a streamer's machine.
#[derive(Debug, Clone)]
pub struct MachineUsage {
    pub cpu_percent: Option<u64>,
    pub memory_percent: Option<u64>,
    pub scheduler_percent: Option<u64>,
}

/// The streaming server that runs on a streamer.
#[derive(Debug, Clone)]
pub struct ProgramInfo {
    pub uptime_seconds: Option<u64>,
    pub started_at_seconds: Option<u64>,
    pub build: Option<u64>,
    pub server_version: Option<Box<str>>,
}

/// Stats as canonical JSON.
#[derive(Debug, Clone)]
struct StatsText {
    plain: Box<str>,
    /// The same with masked secrets, if it has any.
    masked: Option<Box<str>>,
}

/// The stats that a streamer reports about itself.
#[derive(Debug, Clone)]
pub struct StreamerStats {
    /// Time of receipt.
    pub received: Instant,
    text: StatsText,
    health: Option<Healthcheck>,
    pub usage: MachineUsage,
    pub input_kbit: Option<u64>,
    pub output_kbit: Option<u64>,
    pub clients: Option<u64>,
    pub streams: Option<u64>,
    pub online_streams: Option<u64>,
    pub opened_files: Option<u64>,
    pub program: ProgramInfo,
    /// `running` or another status of the reference.
    pub status: Option<Box<str>>,
    /// Whether the node cannot use its own configuration or the one from this server.
    pub config_failed: bool,
    pub transcoder: Option<bool>,
    pub partitions: Box<[Partition]>,
}

impl StreamerStats {
    /// The stats as canonical JSON.
    pub fn text(&self, masked: bool) -> &str {
        match &self.text.masked {
            Some(hidden) if masked => hidden,
            _ => &self.text.plain,
        }
    }

    /// Adds the result of the health check to the text, given the report before.
    pub(super) fn finish_health(&mut self, before: Option<&Self>) {
        let Some(health) = &mut self.health else {
            return;
        };
        if let Some(before) = before.and_then(|before| before.health.as_ref()) {
            health.follow(before);
        }
        let StatsText { plain, masked } = &mut self.text;
        *plain = health.added_to(plain);
        *masked = masked.as_ref().map(|masked| health.added_to(masked));
    }

    /// The same stats of a streamer that did not answer a query; `None` if nothing changes.
    pub(super) fn unanswered(&self, query: FailedQuery) -> Option<Self> {
        let mut stats = self.clone();
        let health = stats.health.as_mut()?;
        health.add_unanswered(query);
        if Some(&*health) == self.health.as_ref() {
            return None;
        }
        stats.finish_health(None);
        Some(stats)
    }

    /// The fullest partition, in percent.
    pub fn storage_percent(&self) -> Option<u64> {
        self.partitions
            .iter()
            .filter_map(|it| it.usage_percent)
            .max()
    }

    fn new(stats: &Object, text: StatsText, received: Instant) -> Self {
        let number = |name: &str| stats.get(name).and_then(Value::as_u64);
        let boolean = |name: &str| stats.get(name).and_then(Value::as_bool);
        let text_of = |name: &str| stats.get(name).and_then(Value::as_str).map(Box::from);
        let partitions = stats
            .get("partitions")
            .and_then(Value::as_array)
            .unwrap_or(&[]);
        let external = stats.get("config_external_status");
        let external = external.and_then(|it| it.get("status")?.as_str());
        Self {
            received,
            text,
            health: None,
            usage: MachineUsage {
                cpu_percent: number("cpu_usage"),
                memory_percent: number("memory_usage"),
                scheduler_percent: number("scheduler_load"),
            },
            input_kbit: number("input_kbit"),
            output_kbit: number("output_kbit"),
            clients: number("total_clients"),
            streams: number("total_streams"),
            online_streams: number("online_streams"),
            opened_files: number("opened_files"),
            program: ProgramInfo {
                uptime_seconds: number("uptime"),
                started_at_seconds: number("started_at"),
                build: number("build"),
                server_version: text_of("server_version"),
            },
            status: text_of("streamer_status"),
            config_failed: stats.contains_key("config_error") || external == Some("error"),
            transcoder: boolean("transcoder"),
            partitions: partitions
                .iter()
                .map(|partition| {
                    let number = |name: &str| partition.get(name).and_then(Value::as_u64);
                    let text_of = |name: &str| {
                        let text = partition.get(name).and_then(Value::as_str);
                        Box::from(text.unwrap_or_default())
                    };
                    Partition {
                        device: text_of("device"),
                        path: text_of("path"),
                        usage_percent: number("usage"),
                        io_percent: number("io_util"),
                        total_mb: number("total_mb"),
                    }
                })
                .collect(),
        }
    }
}

/// The storages that a streamer reports.
#[derive(Debug, Clone, Default)]
pub struct ReportedDvrs {
    text: Box<str>,
    masked: Option<Box<str>>,
    pub names: Box<[Box<str>]>,
}

impl ReportedDvrs {
    /// The storages as canonical JSON.
    pub fn text(&self, masked: bool) -> &str {
        match &self.masked {
            Some(hidden) if masked => hidden,
            _ => &self.text,
        }
    }
}

/// An optional number in eight bytes, because there are millions of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OptionalNumber(u64);

impl Default for OptionalNumber {
    fn default() -> Self {
        Self::NONE
    }
}

impl OptionalNumber {
    const NONE: Self = Self(u64::MAX);

    pub(super) fn of(number: Option<u64>) -> Self {
        number.map_or(Self::NONE, Self)
    }

    pub(super) fn get(self) -> Option<u64> {
        (self != Self::NONE).then_some(self.0)
    }
}

/// The stats that one streamer reports about one stream.
#[derive(Debug, Clone, Default)]
pub struct StreamStats {
    /// Canonical JSON without the [`JOINED`] members; secrets are always masked.
    pub(super) text: PackedText,
    pub(super) status: Option<StreamStatus>,
    pub(super) alive: Option<bool>,
    pub(super) bitrate_kbit: OptionalNumber,
    pub(super) online_clients: OptionalNumber,
    pub(super) bytes_out: OptionalNumber,
    pub(super) last_dts_at_ms: OptionalNumber,
    pub(super) opened_at_ms: OptionalNumber,
    rare: Option<Box<RareStats>>,
}

/// What is reported of few streams.
#[derive(Debug, Clone, Default)]
struct RareStats {
    agent: Option<Box<str>>,
    error: Option<ReportedError>,
}

impl StreamStats {
    fn with_rare(mut self, agent: Option<Box<str>>, error: Option<ReportedError>) -> Self {
        if agent.is_some() || error.is_some() {
            self.rare = Some(Box::new(RareStats { agent, error }));
        }
        self
    }

    /// The agent whose video the stream takes.
    pub(super) fn agent(&self) -> Option<&str> {
        self.rare.as_ref()?.agent.as_deref()
    }

    pub(super) fn error(&self) -> Option<&ReportedError> {
        self.rare.as_ref()?.error.as_ref()
    }

    fn error_mut(&mut self) -> Option<&mut ReportedError> {
        self.rare.as_mut()?.error.as_mut()
    }

    /// Bytes of all texts.
    pub(super) fn text_bytes(&self) -> usize {
        let error = self.error();
        self.text.bytes() + error.map_or(0, |error| error.code.len() + error.text.len())
    }

    /// Removes the texts that nothing is decided by.
    pub(super) fn drop_texts(&mut self) {
        self.text = PackedText::new("{}");
        if let Some(error) = self.error_mut() {
            error.text = Box::default();
        }
    }

    /// An error that goes on began when it was reported first.
    pub(super) fn follow(&mut self, previous: &Self) {
        if let (Some(error), Some(previous)) = (self.error_mut(), previous.error())
            && !error.is_since_reported
            && error.code == previous.code
        {
            error.since_ms = previous.since_ms;
        }
    }
}

/// Members of a stream's stats that are computed from the reports of all its nodes and the state of
/// its agent, or are kept typed. Sorted.
pub(super) const JOINED: [&str; 10] = [
    "agent_status",
    "alive",
    "bitrate",
    "bytes_out",
    "current_agent_id",
    "error",
    "last_dts_at",
    "online_clients",
    "running_on",
    "status",
];

/// How a report came.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReportSource {
    /// It, or the request for it, was signed with the cluster key of the streamer.
    pub has_own_key: bool,
    /// Queries that failed within an hour, if they are too many.
    pub failed_queries: usize,
}

/// One report of a streamer. Absent parts keep their last reported values.
#[derive(Debug, Clone, Default)]
pub struct StreamerReport {
    pub(super) stats: Option<StreamerStats>,
    pub(super) dvrs: Option<ReportedDvrs>,
    /// All streams on the streamer, each once.
    pub(super) streams: Option<Vec<(Box<str>, StreamStats)>>,
    /// Of these, the ones without a configuration, once they are separated.
    pub(super) unconfigured: Vec<(Box<str>, StreamStats)>,
    /// What could not be used.
    pub dropped: Dropped,
}

impl StreamerReport {
    /// Parses the body of a report. Members unknown to the schema are ignored; values that violate
    /// it are repaired or dropped.
    pub fn from_body(body: Value, received: Instant) -> Result<Self, ApiError> {
        let Value::Object(mut body) = body else {
            return Err(not_an_object(""));
        };
        let mut reader = ReportReader::default();
        if let Some(stats) = take_member(&mut body, "stats") {
            reader.stats(stats, received);
        }
        if let Some(dvrs) = take_member(&mut body, "dvrs") {
            reader.dvrs(dvrs)?;
        }
        if let Some(streams) = take_member(&mut body, "streams") {
            reader.streams(ValueRef::of(&streams))?;
        }
        Ok(reader.finish())
    }

    /// Checks what the report shows of the health of its streamer.
    pub fn check_health(&mut self, source: ReportSource, utc_ms: u64) {
        if let Some(stats) = &mut self.stats {
            let text = &stats.text.plain;
            let mut health = Healthcheck::of(text, source.has_own_key, utc_ms);
            if source.failed_queries > 0 {
                health.add_failed_queries(source.failed_queries);
            }
            stats.health = Some(health);
        }
    }

    /// Errors that are reported without a time began at this one, unless they go on.
    pub fn date_errors(&mut self, now_ms: u64) {
        let streams = self.streams.iter_mut().flatten();
        let errors = streams.filter_map(|(_, stats)| stats.error_mut());
        for error in errors.filter(|error| !error.is_since_reported) {
            error.since_ms = OptionalNumber::of(Some(now_ms));
        }
    }

    /// Streams in it.
    pub fn streams_count(&self) -> usize {
        self.unconfigured.len() + self.streams.as_ref().map_or(0, Vec::len)
    }

    /// Memory of its streams.
    pub fn streams_bytes(&self) -> usize {
        let streams = self.streams.iter().flatten().chain(&self.unconfigured);
        let bytes = |(name, stats): &(Box<str>, StreamStats)| {
            size_of::<(Box<str>, StreamStats)>() + name.len() + stats.text_bytes()
        };
        streams.map(bytes).sum()
    }

    /// The configured streams and the others, with their texts.
    #[cfg(test)]
    pub fn streams_text(&self) -> String {
        let texts = |streams: &[(Box<str>, StreamStats)]| {
            let streams = streams.iter();
            let texts = streams.map(|(name, stats)| format!("{name} {}", stats.text.unpack()));
            texts.collect::<Vec<_>>().join(", ")
        };
        let streams = self.streams.as_deref().unwrap_or_default();
        format!("{}; {}", texts(streams), texts(&self.unconfigured))
    }

    /// Separates the streams that are not configured.
    pub fn separate_streams(&mut self, is_configured: impl Fn(&str) -> bool) {
        self.separate_from(0, is_configured);
    }

    /// Separates streams from an index on.
    fn separate_from(&mut self, begin: usize, is_configured: impl Fn(&str) -> bool) {
        if let Some(streams) = &mut self.streams {
            let unconfigured = streams.extract_if(begin.., |(name, _)| !is_configured(name));
            self.unconfigured
                .extend(unconfigured.map(|(name, mut stats)| {
                    if stats.text_bytes() > UNCONFIGURED_TEXT_BYTES_MAX {
                        stats.drop_texts();
                    }
                    (name, stats)
                }));
        }
    }
}

fn take_member(body: &mut Object, name: &str) -> Option<Value> {
    body.remove(name).filter(|value| !value.is_null())
}

fn not_an_object(pointer: &str) -> ApiError {
    error::NOT_OBJECT.at(pointer)
}

fn too_many(pointer: &str, most: usize) -> ApiError {
    error::BATCH_TOO_LONG
        .about(pointer, format!("must have at most {most} items"))
        .with("maximum", most)
}

fn too_long(pointer: &str, bytes_max: usize) -> ApiError {
    error::TOO_LONG
        .about(pointer, format!("must have at most {bytes_max} bytes"))
        .with("maximum", bytes_max)
}

/// Repairs an object by a schema. Unknown members and nulls are removed; `None` if it is not an
/// object.
fn checked(
    mut value: Value,
    schema: &Schema,
    pointer: &str,
    dropped: &mut Dropped,
) -> Option<Object> {
    schema.prune(&mut value);
    if let Value::Object(object) = &mut value {
        object.retain(|_, value| !value.is_null());
    } else {
        dropped.add_error(not_an_object(pointer));
        return None;
    }
    match repaired(value, schema, pointer, dropped)? {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// An object with its canonical text. Members that make it too long are dropped, the longest first.
fn bounded(
    object: Object,
    bytes_max: usize,
    pointer: &str,
    dropped: &mut Dropped,
) -> (Value, Box<str>) {
    let mut whole = Value::Object(object);
    let text = whole.to_text();
    let mut left = text.len();
    let object = match &mut whole {
        Value::Object(object) if left > bytes_max => object,
        _ => return (whole, text.into()),
    };
    let lengths = object.iter();
    let lengths = lengths.map(|(name, value)| (value.to_text().len(), name.to_owned()));
    let mut lengths: Vec<(usize, String)> = lengths.collect();
    lengths.sort_unstable();
    while left > bytes_max
        && let Some((length, name)) = lengths.pop()
    {
        left -= length;
        object.remove(&name);
        dropped.add_error(too_long(&format!("{pointer}/{name}"), bytes_max));
    }
    let text = whole.to_text();
    (whole, text.into())
}

fn streamer_stats(value: Value, received: Instant, dropped: &mut Dropped) -> Option<StreamerStats> {
    let schema = schema::streamer_stats();
    let stats = checked(value, schema, "/stats", dropped)?;
    let (stats, plain) = bounded(stats, STREAMER_BYTES_MAX, "/stats", dropped);
    let masked = schema
        .has_secrets(&stats)
        .then(|| schema.mask(&plain).into());
    let Value::Object(stats) = stats else {
        return None;
    };
    let text = StatsText { plain, masked };
    Some(StreamerStats::new(&stats, text, received))
}

fn not_an_array(pointer: &str) -> ApiError {
    error::NOT_ARRAY.about(pointer, "must be an array of objects")
}

fn read_dvrs(value: Value, dropped: &mut Dropped) -> Result<Option<ReportedDvrs>, ApiError> {
    let Value::Array(items) = value else {
        dropped.add_error(not_an_array("/dvrs"));
        return Ok(None);
    };
    if items.len() > DVRS_PER_REPORT_MAX {
        return Err(too_many("/dvrs", DVRS_PER_REPORT_MAX));
    }
    let schema = schema::streamer_dvr();
    let (mut names, mut text, mut hidden) =
        (Vec::<Box<str>>::new(), String::from("["), String::from("["));
    let mut secret = false;
    for (i, item) in items.into_iter().enumerate() {
        let pointer = format!("/dvrs/{i}");
        let Some(item) = checked(item, schema, &pointer, dropped) else {
            continue;
        };
        let name: Box<str> = match item.get("name").and_then(Value::as_str) {
            Some(name) => Box::from(name),
            None => {
                dropped.add_error(no_name(format!("{pointer}/name")));
                continue;
            }
        };
        if names.contains(&name) {
            dropped.add_error(duplicate(format!("{pointer}/name")));
            continue;
        }
        let item = Value::Object(item);
        let one = item.to_text();
        if !names.is_empty() {
            text.push(',');
            hidden.push(',');
        }
        names.push(name);
        text.push_str(&one);
        secret |= schema.has_secrets(&item);
        hidden.push_str(&schema.mask(&one));
    }
    text.push(']');
    hidden.push(']');
    if text.len() > DVRS_BYTES_MAX {
        return Err(too_long("/dvrs", DVRS_BYTES_MAX));
    }
    Ok(Some(ReportedDvrs {
        text: text.into(),
        masked: secret.then(|| hidden.into()),
        names: names.into(),
    }))
}

fn no_name(pointer: String) -> ApiError {
    error::MISSING_REQUIRED.at(pointer)
}

fn duplicate(pointer: String) -> ApiError {
    error::DUPLICATE_ITEM.about(pointer, "occurs twice in the report")
}

/// Reads a report in parts: of its streams, one list after the other.
#[derive(Default)]
pub struct ReportReader {
    report: StreamerReport,
    /// The names of all streams, once one came out of order; and the last one until then.
    seen: HashSet<Box<str>>,
    last_name: String,
    /// Items of all lists so far.
    items: usize,
    /// The first of the streams that were read that were not looked up yet.
    looked_up: usize,
}

impl ReportReader {
    pub fn stats(&mut self, stats: Value, received: Instant) {
        let dropped = &mut self.report.dropped;
        self.report.stats = streamer_stats(stats, received, dropped);
    }

    /// Reads the storages. Too many of them are an error, after which the report has none.
    pub fn dvrs(&mut self, dvrs: Value) -> Result<(), ApiError> {
        let dropped = &mut self.report.dropped;
        self.report.dvrs = read_dvrs(dvrs, dropped)?;
        Ok(())
    }

    pub fn has_stats(&self) -> bool {
        self.report.stats.is_some()
    }

    /// Reads a list of streams, of those before it the continuation.
    pub fn streams(&mut self, list: ValueRef<'_>) -> Result<(), ApiError> {
        let ValueShape::Array(items) = list.shape() else {
            self.report.dropped.add_error(not_an_array("/streams"));
            return Ok(());
        };
        self.begin_list(items.len())?;
        let mut writer = schema::stream_stats().valid_writer();
        for item in items {
            let name = match item.shape() {
                ValueShape::Object(_) => item.get("name"),
                _ => {
                    let pointer = format!("/streams/{}", self.items);
                    self.report.dropped.add_error(not_an_object(&pointer));
                    self.items += 1;
                    continue;
                }
            };
            self.stream(name, item, &mut writer);
        }
        Ok(())
    }

    /// Begins a list of streams.
    pub fn begin_list(&mut self, items: usize) -> Result<(), ApiError> {
        if self.items + items > STREAMS_PER_REPORT_MAX {
            return Err(too_many("/streams", STREAMS_PER_REPORT_MAX));
        }
        self.report.streams.get_or_insert_default();
        Ok(())
    }

    /// Reads the next stream of the list that was begun. A name in its stats is not looked at.
    pub fn stream<'a>(
        &mut self,
        name: Option<ValueRef<'a>>,
        stats: ValueRef<'a>,
        writer: &mut ValidWriter<'_, 'a>,
    ) {
        let index = self.items;
        self.items += 1;
        let name = match name_of(name, index) {
            Ok(name) => name,
            Err(error) => return self.report.dropped.add_error(error),
        };
        if !self.is_new(name) {
            let pointer = format!("/streams/{index}/name");
            return self.report.dropped.add_error(duplicate(pointer));
        }
        let stats = valid_stats(stats, writer).or_else(|| {
            let dropped = &mut self.report.dropped;
            stream_stats(stats.to_value(), &format!("/streams/{index}"), dropped)
        });
        if let Some(stats) = stats {
            let streams = self.report.streams.get_or_insert_default();
            streams.push((name.into(), stats));
        }
    }

    /// Whether the report has no stream of this name yet. As long as names come in their order, as
    /// servers list them, the last one decides.
    fn is_new(&mut self, name: &str) -> bool {
        if self.seen.is_empty() {
            if *self.last_name < *name {
                self.last_name.clear();
                self.last_name.push_str(name);
                return true;
            }
            let streams = self.report.streams.iter().flatten();
            let streams = streams.chain(&self.report.unconfigured);
            self.seen.extend(streams.map(|(name, _)| name.clone()));
            self.seen.insert(self.last_name.as_str().into());
        }
        self.seen.insert(name.into())
    }

    /// Takes over the streams that another reader has read.
    pub fn take_streams(&mut self, other: Self) {
        self.report.streams = other.report.streams;
        self.report.unconfigured = other.report.unconfigured;
        self.report.dropped.append(other.report.dropped);
    }

    /// Separates the streams of the last list that are not configured.
    pub fn separate_streams(&mut self, is_configured: impl Fn(&str) -> bool) {
        self.report.separate_from(self.looked_up, is_configured);
        self.all_configured();
    }

    /// The streams of the last list are known to be configured.
    pub fn all_configured(&mut self) {
        self.looked_up = self.report.streams.as_ref().map_or(0, Vec::len);
    }

    /// Takes over the storages that another reader has read.
    pub fn take_dvrs(&mut self, other: Self) {
        self.report.dvrs = other.report.dvrs;
        self.report.dropped.append(other.report.dropped);
    }

    pub fn finish(self) -> StreamerReport {
        self.report
    }
}

fn name_of(name: Option<ValueRef<'_>>, index: usize) -> Result<&str, ApiError> {
    let at_name = || format!("/streams/{index}/name");
    let Some(name) = name else {
        return Err(no_name(at_name()));
    };
    let name = name
        .as_str()
        .ok_or_else(|| error::NOT_STRING.at(at_name()))?;
    StreamName::check(name).map_err(|why| error::WRONG_FORMAT.about(at_name(), why))?;
    Ok(name)
}

/// The stats of a stream if they can be kept as they are, which is nearly always so.
fn valid_stats<'a>(stats: ValueRef<'a>, writer: &mut ValidWriter<'_, 'a>) -> Option<StreamStats> {
    let mut kept = StreamStats::default();
    match stats.get("opened_at").map(ValueRef::shape) {
        None | Some(ValueShape::Null) => {}
        Some(ValueShape::Number(Number::Unsigned(ms))) if is_moment(ms) => {
            kept.opened_at_ms = OptionalNumber::of(Some(ms));
        }
        Some(_) => return None,
    }
    let (mut agent, mut has_error) = (None, false);
    let text = writer.write(stats, |name, value| {
        let number = || match value.shape() {
            ValueShape::Number(number) => match number.to_integer() {
                Some(Number::Unsigned(number)) => OptionalNumber::of(Some(number)),
                _ => OptionalNumber::NONE,
            },
            _ => OptionalNumber::NONE,
        };
        match name {
            "alive" => kept.alive = matches_bool(value),
            "bitrate" => kept.bitrate_kbit = number(),
            "bytes_out" => kept.bytes_out = number(),
            "current_agent_id" => agent = value.as_str().map(Box::from),
            "error" => has_error = true,
            "last_dts_at" => kept.last_dts_at_ms = number(),
            "online_clients" => kept.online_clients = number(),
            "status" => kept.status = value.as_str().and_then(StreamStatus::parse),
            _ => return JOINED.binary_search(&name).is_ok(),
        }
        true
    })?;
    if has_error || text.len() > STREAM_BYTES_MAX {
        return None;
    }
    kept.text = PackedText::new(text);
    Some(kept.with_rare(agent, None))
}

fn matches_bool(value: ValueRef<'_>) -> Option<bool> {
    match value.shape() {
        ValueShape::Bool(value) => Some(value),
        _ => None,
    }
}

/// The stats of a stream, of which what cannot be used is repaired or dropped.
fn stream_stats(mut item: Value, pointer: &str, dropped: &mut Dropped) -> Option<StreamStats> {
    // Reported by the streamers of the reference, though not part of its API: when publishing
    // began.
    let opened_at = item
        .as_object_mut()
        .and_then(|item| item.get_mut("opened_at"));
    if let Some(Value::Number(number)) = opened_at {
        *number = rounded(*number).unwrap_or(*number);
    }
    item.as_object_mut().map(|item| item.remove("name"));
    if let Some(opened_at) = item.get("opened_at")
        && let Err(error) = check_moment(opened_at, format!("{pointer}/opened_at"))
    {
        dropped.add_error(error);
        item.as_object_mut().map(|item| item.remove("opened_at"));
    }
    let opened_at = item.get("opened_at").and_then(Value::as_u64);
    let error = item.get("error").and_then(Value::as_object);
    let has_code = error.is_none_or(|error| error.contains_key("code"));
    if !has_code {
        dropped.add_error(error::MISSING_REQUIRED.at(format!("{pointer}/error/code")));
    }
    let schema = schema::stream_stats();
    let mut stats = checked(item, schema, pointer, dropped)?;
    let number = |name: &str| OptionalNumber::of(stats.get(name).and_then(Value::as_u64));
    let mut kept = StreamStats {
        text: PackedText::default(),
        status: stats
            .get("status")
            .and_then(Value::as_str)
            .and_then(StreamStatus::parse),
        alive: stats.get("alive").and_then(Value::as_bool),
        bitrate_kbit: number("bitrate"),
        online_clients: number("online_clients"),
        bytes_out: number("bytes_out"),
        last_dts_at_ms: number("last_dts_at"),
        opened_at_ms: OptionalNumber::of(opened_at),
        rare: None,
    };
    let agent = stats.get("current_agent_id").and_then(Value::as_str);
    let agent = agent.map(Box::from);
    // Without a code it is of no use to programs.
    let error = stats.get("error");
    let error = error.and_then(|error| ReportedError::of(error.as_object()?));
    for name in JOINED {
        stats.remove(name);
    }
    let (stats, text) = bounded(stats, STREAM_BYTES_MAX, pointer, dropped);
    kept.text = if schema.has_secrets(&stats) {
        PackedText::new(&schema.mask(&text))
    } else {
        PackedText::new(&text)
    };
    Some(kept.with_rare(agent, error))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json;

    #[test]
    fn streams_of_many_lists_are_looked_up_once_each() {
        let lists = [
            r#"[{"name":"a"},{"name":"x"}]"#,
            r#"[{"name":"b"}]"#,
            r#"[{"name":"y"}]"#,
        ];
        let looked_up = std::cell::RefCell::new(Vec::new());
        let mut reader = ReportReader::default();
        for list in lists {
            let list = json::parse(list.as_bytes()).expect("JSON");
            reader.streams(ValueRef::of(&list)).expect("few streams");
            if looked_up.borrow().len() == 2 {
                reader.all_configured();
                looked_up.borrow_mut().push("b".to_owned());
                continue;
            }
            reader.separate_streams(|name| {
                looked_up.borrow_mut().push(name.to_owned());
                matches!(name, "a" | "b")
            });
        }
        assert_eq!(*looked_up.borrow(), ["a", "x", "b", "y"]);
        let report = reader.finish();
        let names = |all: &[(Box<str>, StreamStats)]| {
            let names = all.iter().map(|(name, _)| name.to_string());
            names.collect::<Vec<_>>().join(",")
        };
        assert_eq!(names(report.streams.as_deref().expect("a list")), "a,b");
        assert_eq!(names(&report.unconfigured), "x,y");
    }

    #[test]
    fn known_codes_are_found_by_their_order() {
        assert!(ERROR_CODES.is_sorted());
        assert_eq!(NO_COMMON_PROTOCOL, "no_common_protocol");
        for (at, code) in ERROR_CODES.into_iter().enumerate() {
            assert_eq!(ReportedError::found(code).known_code(), Some(at));
        }
        assert_eq!(ReportedError::found("other").known_code(), None);
    }

    #[test]
    fn invalid_parts_are_dropped_and_listed() {
        for (body, pointer, code) in [
            (r#"{"stats":5}"#, "/stats", "not_object"),
            (
                r#"{"stats":{"cpu_usage":"a"}}"#,
                "/stats/cpu_usage",
                "not_integer",
            ),
            (r#"{"dvrs":{}}"#, "/dvrs", "not_array"),
            (
                r#"{"streams":[{"name":"a","opened_at":"1"}]}"#,
                "/streams/0/opened_at",
                "not_integer",
            ),
            (
                r#"{"streams":[{"name":"a","opened_at":5}]}"#,
                "/streams/0/opened_at",
                "input_out_of_range",
            ),
            (r#"{"dvrs":[{}]}"#, "/dvrs/0/name", "missing_required"),
            (
                r#"{"dvrs":[{"name":"a"},{"name":"a"}]}"#,
                "/dvrs/1/name",
                "duplicate_item",
            ),
            (r#"{"streams":{}}"#, "/streams", "not_array"),
            (r#"{"streams":[5]}"#, "/streams/0", "not_object"),
            (r#"{"streams":[{}]}"#, "/streams/0/name", "missing_required"),
            (
                r#"{"streams":[{"name":5}]}"#,
                "/streams/0/name",
                "not_string",
            ),
            (
                r#"{"streams":[{"name":"a"},{"name":"a"}]}"#,
                "/streams/1/name",
                "duplicate_item",
            ),
            (
                r#"{"streams":[{"name":"a","bitrate":"x"}]}"#,
                "/streams/0/bitrate",
                "not_integer",
            ),
            (
                r#"{"streams":[{"name":"a","status":"fine"}]}"#,
                "/streams/0/status",
                "unknown_enum_option",
            ),
        ] {
            let value = json::parse(body.as_bytes()).expect("JSON");
            let report = StreamerReport::from_body(value, Instant::now()).expect(body);
            let listed = json::parse(&report.dropped.to_body()).expect("JSON");
            let item = format!(r#"[{{"code":"{code}","pointer":"{pointer}","title":"#);
            let listed = listed.get("dropped").expect("a list").to_text();
            assert!(listed.starts_with(&item), "{body}: {listed}");
        }
        let long = format!(
            r#"{{"streams":[{{"name":"a","bitrate":7,"streaming_endpoint":"http://h/{}"}}]}}"#,
            "x".repeat(STREAM_BYTES_MAX)
        );
        let value = json::parse(long.as_bytes()).expect("JSON");
        let report = StreamerReport::from_body(value, Instant::now()).expect("a report");
        let listed = json::parse(&report.dropped.to_body())
            .expect("JSON")
            .to_text();
        assert!(
            listed.contains(r#""pointer":"/streams/0/streaming_endpoint""#),
            "{listed}"
        );
        let streams = report.streams.expect("a list");
        assert_eq!(streams[0].1.bitrate_kbit.get(), Some(7), "the rest is kept");
        let many = format!(
            r#"{{"dvrs":[{}{{"name":"a"}}]}}"#,
            r#"{"name":"b"},"#.repeat(DVRS_PER_REPORT_MAX)
        );
        let value = json::parse(many.as_bytes()).expect("JSON");
        assert_eq!(
            StreamerReport::from_body(value, Instant::now())
                .expect_err("too many")
                .status,
            413
        );
    }

    /// Stats of a stream as a server sends them.
    const USUAL: &str = r#"{"id":"61496e8c","status":"running","alive":true,"bitrate":2543.0,
        "bytes_out":7,"online_clients":3,"opened_at":1700000000000,"last_dts_at":1700000100000,
        "ts_delay":120.5,"retry_count":0,"media_info":{"title":"Camera \"1\"","tracks":[
        {"content":"video","codec":"h264","bitrate":2400,"fps":25.0,"width":1920,"level":null},
        {"track_id":"a1","content":"audio","codec":"aac","x":{"y":[1]}}]}}"#;

    #[test]
    fn usual_stats_are_kept_as_they_are() {
        let kept = json::read_in_place(USUAL.as_bytes(), |stats| {
            valid_stats(stats, &mut schema::stream_stats().valid_writer())
        });
        let kept = kept.expect("nothing of them is to be repaired");
        let tracks = concat!(
            r#"{"bitrate":2400,"codec":"h264","content":"video","fps":25.0,"width":1920},"#,
            r#"{"codec":"aac","content":"audio","track_id":"a1"}"#,
        );
        let info = format!(r#"{{"title":"Camera \"1\"","tracks":[{tracks}]}}"#);
        let text = format!(r#"{{"media_info":{info},"ts_delay":120.5}}"#);
        assert_eq!(kept.text, PackedText::new(&text));
        assert_eq!(kept.status, Some(StreamStatus::Running));
        assert_eq!(kept.alive, Some(true));
        let numbers = [
            kept.bitrate_kbit,
            kept.bytes_out,
            kept.online_clients,
            kept.opened_at_ms,
            kept.last_dts_at_ms,
        ];
        let expected = [2543, 7, 3, 1_700_000_000_000, 1_700_000_100_000];
        assert_eq!(numbers.map(OptionalNumber::get), expected.map(Some));
    }

    /// Values of members: valid ones, such that are repaired, and such that are dropped.
    fn any_member() -> impl Strategy<Value = Value> {
        let texts = prop::sample::select(vec![
            r#""running""#,
            r#""h264""#,
            r#""video""#,
            r#""http://user:pass@host/a""#,
            r#""http://host/a?token=b""#,
            r#""""#,
            "5",
            "-5",
            "5.0",
            "0.5",
            "1e300",
            "18446744073709551615",
            "1700000000000",
            "true",
            "null",
            "{}",
            "[]",
            r#"{"code":"no_picture"}"#,
            r#"[null,"a",5,{"content":"video"}]"#,
            r#"{"tracks":[{"content":"video","codec":"h264","width":5.0}]}"#,
            r#"{"tracks":[{"content":"audio","codec":null,"x":1}],"title":null}"#,
            r#"{"tracks":[{"content":"other"}]}"#,
            r#"{"tracks":[{"content":"video","track_id":5.0},{"content":"text","track_id":"t"}]}"#,
            r#"{"tracks":[{"content":"video","track_id":0.5}]}"#,
            r#"{"tracks":[{"content":"video","codec":"none"},{"content":"video","codec":5}]}"#,
            r#"{"tracks":[{"width":5}],"$reset":true}"#,
        ]);
        texts.prop_map(|text| json::parse(text.as_bytes()).expect("JSON"))
    }

    proptest! {
        #![proptest_config(crate::proptests::config())]
        /// What is written in place is what is left when the tree is repaired, and nothing of it
        /// was dropped.
        #[test]
        fn stats_in_place_equal_repaired_ones(
            members in prop::collection::btree_map(
                prop::sample::select(vec![
                    "agent_status", "alive", "bitrate", "bytes_out", "current_agent_id",
                    "dvr_info", "episodes_density", "error", "last_dts_at", "lifetime",
                    "media_info", "online_clients", "opened_at", "running_on", "status",
                    "streaming_endpoint", "ts_delay", "unknown", "$reset",
                ]),
                any_member(),
                0..6,
            )
        ) {
            let stats = Value::Object(members.into_iter().collect());
            let schema = schema::stream_stats();
            let in_tree = valid_stats(ValueRef::of(&stats), &mut schema.valid_writer());
            let text = stats.to_text();
            let in_place = json::read_in_place(text.as_bytes(), |stats| {
                Some(valid_stats(stats, &mut schema.valid_writer()))
            });
            prop_assert_eq!(format!("{:?}", in_place.flatten()), format!("{in_tree:?}"));
            let mut dropped = Dropped::default();
            let repaired = stream_stats(stats, "/s", &mut dropped);
            if in_tree.is_some() {
                prop_assert_eq!(format!("{in_tree:?}"), format!("{repaired:?}"), "{}", text);
                prop_assert!(dropped.is_empty(), "{}", text);
            }
        }
    }

    #[test]
    fn wrong_numbers_are_repaired_and_the_rest_is_kept() {
        let body = r#"{"stats":{"cpu_usage":101,"memory_usage":55.5,"scheduler_load":-3,
            "input_kbit":"NaN","output_kbit":7,"partitions":[{"device":5,"usage":250}]},
            "streams":[{"name":"a","bitrate":2500.4},{"name":"b","status":"fine","bitrate":9}]}"#;
        let value = json::parse(body.as_bytes()).expect("JSON");
        let report = StreamerReport::from_body(value, Instant::now()).expect("a report");
        let stats = report.stats.expect("stats");
        assert_eq!(
            [
                stats.usage.cpu_percent,
                stats.usage.memory_percent,
                stats.usage.scheduler_percent
            ],
            [Some(100), Some(56), Some(0)]
        );
        assert_eq!((stats.input_kbit, stats.output_kbit), (None, Some(7)));
        assert_eq!(stats.partitions[0].usage_percent, Some(100));
        let streams = report.streams.expect("streams");
        let bitrates: Vec<_> = streams
            .iter()
            .map(|(_, it)| it.bitrate_kbit.get())
            .collect();
        assert_eq!(bitrates, [Some(2500), Some(9)]);
        assert_eq!(streams[1].1.status, None);
    }
}
