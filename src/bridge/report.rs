//! Counters over time become status, bitrate and the report that Weir gets. Pure, except that the
//! caller adds the usage of the machine.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::desired::Wanted;
use super::kind::{Picture, ServerMeasure, ServerRules};
use super::plan::{Observation, StreamError};

/// A stream without bytes for this long does not run.
const ALIVE_FOR: Duration = Duration::from_secs(12);
/// The time over which bitrates are measured.
const BITRATE_OVER: Duration = Duration::from_secs(5);
/// Errors of streams that the server has and that may flow, now or later.
const WAITING_CODES: [&str; 5] = [
    "dvr_not_supported",
    "no_picture",
    "source_refused",
    "source_unauthorized",
    "source_unreachable",
];
/// Samples of a stream that are kept.
const SAMPLES_MAX: usize = 7;

/// The recent counters of one stream.
#[derive(Debug, Clone, Default)]
struct StreamMeter {
    /// Times and bytes, oldest first.
    samples: VecDeque<(Instant, u64)>,
    grew_at: Option<Instant>,
    /// When the bytes began to flow without a long break.
    opened_at: Option<Instant>,
}

impl StreamMeter {
    /// Takes a counter; whether it grew.
    fn add(&mut self, now: Instant, bytes: u64) -> bool {
        let last = self.samples.back().map(|(_, bytes)| *bytes);
        // A counter that falls belongs to a new run of the stream.
        if last.is_some_and(|last| bytes < last) {
            self.samples.clear();
        }
        let has_grown = last.is_some_and(|last| bytes > last);
        if has_grown {
            if !self.is_alive(now) {
                self.opened_at = Some(now);
            }
            self.grew_at = Some(now);
        }
        self.samples.push_back((now, bytes));
        let is_old = |(at, _): &(Instant, u64)| now.duration_since(*at) > BITRATE_OVER;
        while self.samples.len() > SAMPLES_MAX
            || self.samples.len() > 2 && self.samples.get(1).is_some_and(is_old)
        {
            self.samples.pop_front();
        }
        has_grown
    }

    fn is_alive(&self, now: Instant) -> bool {
        self.grew_at
            .is_some_and(|at| now.duration_since(at) < ALIVE_FOR)
    }

    fn kbit(&self) -> u64 {
        let (Some((begin, first)), Some((end, last))) = (self.samples.front(), self.samples.back())
        else {
            return 0;
        };
        let ms = end.duration_since(*begin).as_millis() as u64;
        ((last - first) * 8).checked_div(ms).unwrap_or(0)
    }
}

/// The counters of all streams, over time.
#[derive(Debug, Default)]
pub struct Meter {
    streams: BTreeMap<Box<str>, StreamMeter>,
    last: ServerMeasure,
}

impl Meter {
    /// Takes the counters of the server; what the planner is to know of them.
    pub fn add(&mut self, now: Instant, measure: ServerMeasure) -> BTreeMap<Box<str>, Observation> {
        let mut known = std::mem::take(&mut self.streams);
        let mut seen = BTreeMap::new();
        let metered = measure.streams.iter().map(|(native, stream)| {
            let entry = known.remove_entry(native);
            let (name, mut meter) =
                entry.unwrap_or_else(|| (native.clone(), StreamMeter::default()));
            let observation = Observation {
                is_growing: meter.add(now, stream.bytes_in),
                lacks_picture: stream.picture == Some(Picture::Missing),
                viewers: stream.viewers,
            };
            seen.insert(native.clone(), observation);
            (name, meter)
        });
        // Collected at once, the nodes of the map are full.
        self.streams = metered.collect();
        self.last = measure;
        seen
    }

    /// The server restarted or is gone: what it counted is over.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// The usage of the machine that the bridge runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostUsage {
    pub cpu_percent: u64,
    pub memory_percent: u64,
    pub disk_percent: u64,
    pub disk_mb: u64,
}

/// Whether the configuration of Weir is in effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum ConfigStatus {
    Loaded,
    Error {
        #[serde(rename = "while")]
        during: &'static str,
        error: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<u16>,
        detail: Box<str>,
    },
}

impl ConfigStatus {
    pub fn error(error: &'static str, code: Option<u16>, detail: impl Into<Box<str>>) -> Self {
        Self::Error {
            during: "refresh",
            error,
            code,
            detail: detail.into(),
        }
    }
}

#[derive(Serialize)]
struct ReportBody<'a> {
    stats: ServerReport<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    streams: Option<Vec<StreamReportBody<'a>>>,
}

#[derive(Serialize)]
struct ServerReport<'a> {
    hostname: &'a str,
    streamer_status: &'static str,
    server_version: &'a str,
    #[serde(flatten)]
    times: ServerTimes,
    cpu_usage: u64,
    memory_usage: u64,
    input_kbit: u64,
    output_kbit: u64,
    total_clients: u64,
    total_streams: usize,
    online_streams: usize,
    partitions: [PartitionReport; 1],
    config_external_status: &'a ConfigStatus,
}

#[derive(Serialize)]
struct ServerTimes {
    uptime: u64,
    started_at: u64,
    now: u64,
}

#[derive(Serialize)]
struct PartitionReport {
    device: &'static str,
    path: &'static str,
    usage: u64,
    total_mb: u64,
}

#[derive(Serialize)]
struct StreamReportBody<'a> {
    name: &'a str,
    status: &'static str,
    alive: bool,
    bytes_out: u64,
    online_clients: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bitrate: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_dts_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opened_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_info: Option<MediaReport<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorReport<'a>>,
}

#[derive(Serialize)]
struct MediaReport<'a> {
    tracks: [TrackReport<'a>; 1],
}

#[derive(Serialize)]
struct TrackReport<'a> {
    content: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    codec: Option<&'a str>,
    width: u64,
    height: u64,
}

#[derive(Serialize)]
struct ErrorReport<'a> {
    code: &'static str,
    text: &'a str,
    since: u64,
}

/// All that a report is made of.
pub struct ReportInput<'a> {
    pub hostname: &'a str,
    pub rules: &'a dyn ServerRules,
    pub wanted: Option<&'a Wanted>,
    pub errors: &'a BTreeMap<Box<str>, StreamError>,
    pub config: &'a ConfigStatus,
    pub usage: HostUsage,
    pub now: Instant,
    pub wall_ms: u64,
    /// The counters are of now. Without them the report is about the server alone.
    pub is_measured: bool,
}

/// The body of a report.
pub fn report(meter: &Meter, input: &ReportInput<'_>) -> Vec<u8> {
    let empty = Wanted::new();
    let wanted = input.wanted.unwrap_or(&empty);
    let streams: Vec<_> = wanted
        .iter()
        .map(|(name, stream)| {
            let is_published = stream
                .inputs
                .iter()
                .any(|input| input.url.starts_with("publish://"));
            stream_report(meter, input, name, is_published)
        })
        .collect();
    let last = &meter.last;
    let stats = ServerReport {
        hostname: input.hostname,
        streamer_status: "running",
        server_version: &last.version,
        times: ServerTimes {
            uptime: last.uptime_seconds,
            started_at: (input.wall_ms / 1000).saturating_sub(last.uptime_seconds),
            now: input.wall_ms,
        },
        cpu_usage: input.usage.cpu_percent.min(100),
        memory_usage: input.usage.memory_percent.min(100),
        input_kbit: streams.iter().filter_map(|stream| stream.bitrate).sum(),
        output_kbit: streams
            .iter()
            .map(|stream| stream.bitrate.unwrap_or(0) * stream.online_clients)
            .sum(),
        total_clients: streams.iter().map(|stream| stream.online_clients).sum(),
        total_streams: streams.len(),
        online_streams: streams.iter().filter(|stream| stream.alive).count(),
        partitions: [PartitionReport {
            device: "root",
            path: "/",
            usage: input.usage.disk_percent.min(100),
            total_mb: input.usage.disk_mb,
        }],
        config_external_status: input.config,
    };
    let streams = (input.is_measured && input.wanted.is_some()).then_some(streams);
    serde_json::to_vec(&ReportBody { stats, streams }).expect("its keys are text")
}

fn stream_report<'a>(
    meter: &'a Meter,
    input: &ReportInput<'a>,
    name: &'a str,
    is_published: bool,
) -> StreamReportBody<'a> {
    let native = input.rules.native(name);
    let measured = meter.last.streams.get(&native);
    let counters = meter.streams.get(&native);
    let error = input.errors.get(name);
    let size = match measured.and_then(|stream| stream.picture) {
        Some(Picture::Size(width, height)) => Some((width, height)),
        _ => None,
    };
    let lacks_picture = measured.is_some_and(|it| it.picture == Some(Picture::Missing));
    let counters = counters.filter(|meter| meter.is_alive(input.now) && !lacks_picture);
    let wall = |at: Instant| {
        let ago = input.now.duration_since(at).as_millis() as u64;
        input.wall_ms.saturating_sub(ago)
    };
    StreamReportBody {
        name,
        status: match (counters, error) {
            (Some(_), _) => "running",
            (None, Some(error)) if !WAITING_CODES.contains(&error.code) => "error",
            (None, _) => "waiting",
        },
        alive: counters.is_some(),
        bytes_out: measured.map_or(0, |it| it.bytes_out),
        online_clients: measured.map_or(0, |it| it.viewers),
        bitrate: counters.map(StreamMeter::kbit),
        last_dts_at: counters.and_then(|meter| meter.grew_at).map(wall),
        opened_at: counters
            .filter(|_| is_published)
            .and_then(|meter| meter.opened_at)
            .map(wall),
        media_info: size.map(|(width, height)| MediaReport {
            tracks: [TrackReport {
                content: "video",
                codec: measured.and_then(|it| it.codec.as_deref()),
                width,
                height,
            }],
        }),
        error: error.map(|error| ErrorReport {
            code: error.code,
            text: &error.text,
            since: wall(error.since),
        }),
    }
}
