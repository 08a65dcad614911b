//! How the cluster fares: counts by state, the state of each streamer, and the server's own numbers.
//!
//! The thresholds are here, as pure functions of what is known; where they come from is one line each. A census looks at every stream once, in
//! slices between other requests, and at one revision. As metrics the same numbers have the names of the reference; those of this server
//! itself begin with `weir_`.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use super::call::{Call, Context, LocalState, Outcome, Pending, Step};
use super::shared::ApiSettings;
use super::{ANSWER_WAIT_MAX, monitoring, server_metrics};
use crate::agents::registry::Registry;
use crate::core::message::{CoreMessage, Reply};
use crate::core::metrics::CoreMetrics;
use crate::error::{self, ApiError};
use crate::fleet::report::{StreamStatus, StreamerStats};
use crate::fleet::stats::View;
use crate::http::Response;
use crate::json::{scan, write_string};
use crate::metrics::{Exposition, MetricKind as Metric};
use crate::state::entity::Kind;
use crate::state::name::{Hostname, StreamName};
use crate::state::record::StreamerRecord;
use crate::state::{SHARDS, State};
use std::time::{Duration, Instant};

/// How something fares, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    Disabled,
    Operational,
    Degraded,
    PartialOutage,
    Outage,
}

impl Health {
    /// As the reference spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Operational => "operational",
            Self::Degraded => "degradated",
            Self::PartialOutage => "partial_outage",
            Self::Outage => "outage",
        }
    }

    /// Of something that has a limit: below 80 % there is reserve, below 95 % little of it, above none.
    pub fn of_percent(percent: u64) -> Self {
        match percent {
            0..80 => Self::Operational,
            80..95 => Self::Degraded,
            _ => Self::PartialOutage,
        }
    }

    /// Of traffic against the bandwidth of the node; a node without one has no limit.
    pub fn of_traffic(kbit: u64, bandwidth_kbit: Option<u64>) -> Self {
        match bandwidth_kbit {
            None | Some(0) => Self::Operational,
            Some(limit) => Self::of_percent(kbit.saturating_mul(100) / limit),
        }
    }

    /// Of a stream.
    pub fn of_stream(stream: StreamSigns) -> Self {
        if stream.disabled {
            return Self::Disabled;
        }
        match (stream.status, stream.alive) {
            (Some(StreamStatus::Running), Some(false)) => Self::Degraded,
            (Some(StreamStatus::Running), _) => Self::Operational,
            // Waiting for viewers is what a stream on demand does; a permanent one waits for its source.
            (Some(StreamStatus::Waiting), _) if stream.on_demand => Self::Operational,
            (Some(StreamStatus::Waiting), _) => Self::Degraded,
            // Nobody says anything of it: fine if nobody asked for it and its node could start it.
            (None, _) if stream.on_demand && stream.node_online => Self::Operational,
            (Some(StreamStatus::Error) | None, _) => Self::Outage,
        }
    }

    /// Of many together: as bad as their share.
    pub fn of_counts(counts: &Counts) -> Self {
        let working = counts.total - counts.of(Self::Disabled);
        if working == 0 {
            return Self::Operational;
        }
        let (bad, weak) = (
            counts.of(Self::Outage) + counts.of(Self::PartialOutage),
            counts.of(Self::Degraded),
        );
        if bad == working {
            Self::Outage
        } else if bad > 0 {
            Self::PartialOutage
        } else if weak > 0 {
            Self::Degraded
        } else {
            Self::Operational
        }
    }
}

const HEALTHS: [Health; 5] = [
    Health::Operational,
    Health::Degraded,
    Health::PartialOutage,
    Health::Outage,
    Health::Disabled,
];

/// What tells how a stream fares.
#[derive(Debug, Clone, Copy, Default)]
pub struct StreamSigns {
    pub disabled: bool,
    /// It runs only while somebody watches.
    pub on_demand: bool,
    /// As its node reports, if it does.
    pub status: Option<StreamStatus>,
    pub alive: Option<bool>,
    /// It is placed on a streamer that reports.
    pub node_online: bool,
}

/// How many fare how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    by_health: [u64; 5],
    pub total: u64,
}

impl Counts {
    pub fn add(&mut self, health: Health) {
        self.by_health[health as usize] += 1;
        self.total += 1;
    }

    pub fn of(&self, health: Health) -> u64 {
        self.by_health[health as usize]
    }

    /// Members of the reference, in order, without braces.
    fn write(&self, status: Option<Health>, out: &mut String) {
        let mut names: Vec<(&str, String)> = HEALTHS
            .iter()
            .map(|health| (health.as_str(), self.of(*health).to_string()))
            .collect();
        names.push(("total", self.total.to_string()));
        if let Some(status) = status {
            names.push(("status", format!("\"{}\"", status.as_str())));
        }
        names.sort_unstable();
        let members: Vec<String> = names
            .into_iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        out.push_str(&members.join(","));
    }
}

/// What of a streamer is looked at.
#[derive(Debug, Clone, Default)]
pub struct NodeSigns {
    pub stats: Option<Arc<StreamerStats>>,
    pub bandwidth_kbit: Option<u64>,
}

/// How the parts of a streamer fare; nothing is known of the parts of one that is silent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeHealth {
    pub status: Health,
    pub config: Health,
    pub cpu: Option<Health>,
    pub memory: Option<Health>,
    pub storage: Option<Health>,
    pub network_in: Option<Health>,
    pub network_out: Option<Health>,
}

impl NodeHealth {
    /// The node fares as its worst part does; its streams and agents are told apart from it.
    pub fn of(node: &NodeSigns) -> Self {
        let Some(stats) = &node.stats else {
            return Self {
                status: Health::Outage,
                config: Health::Outage,
                cpu: None,
                memory: None,
                storage: None,
                network_in: None,
                network_out: None,
            };
        };
        let traffic =
            |kbit: Option<u64>| kbit.map(|kbit| Health::of_traffic(kbit, node.bandwidth_kbit));
        let running = stats.status.as_deref().is_none_or(|it| it == "running");
        let mut health = Self {
            status: Health::Operational,
            config: if stats.config_failed || !running {
                Health::Outage
            } else {
                Health::Operational
            },
            cpu: stats.cpu_percent.map(Health::of_percent),
            memory: stats.memory_percent.map(Health::of_percent),
            storage: stats.storage_percent().map(Health::of_percent),
            network_in: traffic(stats.input_kbit),
            network_out: traffic(stats.output_kbit),
        };
        let parts = [
            Some(health.config),
            health.cpu,
            health.memory,
            health.storage,
            health.network_in,
            health.network_out,
        ];
        health.status = parts.into_iter().flatten().max().unwrap_or(health.status);
        health
    }
}

/// One streamer in a census.
struct NodeEntry {
    hostname: Hostname,
    signs: NodeSigns,
    health: NodeHealth,
    streams: Counts,
    agents: Counts,
}

/// Everything, counted at one revision.
pub struct ClusterScan {
    collected_at_ms: u64,
    nodes: Vec<NodeEntry>,
    by_hostname: HashMap<Hostname, usize>,
    streams: Counts,
    agents: Counts,
    shard: usize,
    after: Option<StreamName>,
}

impl ClusterScan {
    /// Begins with the streamers and the agents, of which `presence` says who is connected.
    pub fn new(state: &State, fleet: View<'_>, presence: &Registry, now_ms: u64) -> Self {
        let nodes: Vec<NodeEntry> = state
            .streamers()
            .iter()
            .map(|(hostname, record)| {
                let signs = signs_of(record, fleet);
                NodeEntry {
                    hostname: hostname.clone(),
                    health: NodeHealth::of(&signs),
                    signs,
                    streams: Counts::default(),
                    agents: Counts::default(),
                }
            })
            .collect();
        let by_hostname = nodes
            .iter()
            .enumerate()
            .map(|(i, node)| (node.hostname.clone(), i))
            .collect();
        let mut census = Self {
            collected_at_ms: now_ms,
            nodes,
            by_hostname,
            streams: Counts::default(),
            agents: Counts::default(),
            shard: 0,
            after: None,
        };
        for (_, agent) in state.entities(Kind::Agent).by_key() {
            let disabled = scan::member(&agent.config, "disabled") == Some("true");
            let online = presence.online(&agent.key);
            let health = match (disabled, &online) {
                (true, _) => Health::Disabled,
                (false, Some(_)) => Health::Operational,
                (false, None) => Health::Outage,
            };
            census.agents.add(health);
            // Where its video goes.
            let streampoint = online.and_then(|online| online.streampoint());
            let node = streampoint.and_then(|it| census.by_hostname.get(&*it.hostname).copied());
            if let Some(node) = node {
                census.nodes[node].agents.add(health);
            }
        }
        census
    }

    /// Counts some more streams; true when all are.
    pub fn step(&mut self, state: &State, fleet: View<'_>, budget: usize) -> bool {
        let mut left = budget.max(1);
        while self.shard < SHARDS {
            let after = self.after.take();
            let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let shard = state.shard(self.shard);
            for (name, stream) in shard.range::<_, str>((from, Bound::Unbounded)) {
                let ingest = stream.ingest();
                let node = ingest.and_then(|host| self.by_hostname.get(host).copied());
                let reported = fleet.stream(name, ingest, |facts| (facts.status(), facts.alive()));
                let (status, alive) = reported.unwrap_or_default();
                let health = Health::of_stream(StreamSigns {
                    disabled: stream.disabled,
                    on_demand: scan::member(&stream.config, "static") == Some("false"),
                    status,
                    alive,
                    node_online: node.is_some_and(|node| self.nodes[node].signs.stats.is_some()),
                });
                self.streams.add(health);
                if let Some(node) = node {
                    self.nodes[node].streams.add(health);
                }
                left -= 1;
                if left == 0 {
                    self.after = Some(name.clone());
                    return false;
                }
            }
            self.shard += 1;
        }
        true
    }

    fn streamers(&self) -> Counts {
        let mut counts = Counts::default();
        for node in &self.nodes {
            counts.add(node.health.status);
        }
        counts
    }

    fn kbit(&self, of: impl Fn(&StreamerStats) -> Option<u64>) -> u64 {
        let stats = self.nodes.iter().filter_map(|it| it.signs.stats.as_deref());
        stats.filter_map(of).fold(0, u64::saturating_add)
    }

    /// The JSON form of the reference.
    pub fn to_json(&self, server_id: &str) -> String {
        use std::fmt::Write as _;
        let mut out = String::with_capacity(512 + self.nodes.len() * 512);
        out.push_str("{\"agent_metrics_total\":{");
        self.agents.write(None, &mut out);
        _ = write!(
            out,
            "}},\"collected_at\":{},\"server_id\":\"{server_id}\",\"stream_metrics_total\":{{",
            self.collected_at_ms
        );
        self.streams.write(None, &mut out);
        _ = write!(
            out,
            "}},\"streamer_bitrate_metrics_total\":{{\"input_kbit\":{},\"output_kbit\":{}}},\"streamer_metrics\":[",
            self.kbit(|stats| stats.input_kbit),
            self.kbit(|stats| stats.output_kbit)
        );
        for (i, node) in self.nodes.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            node.write(&mut out);
        }
        out.push_str("],\"streamer_metrics_total\":{");
        self.streamers().write(None, &mut out);
        _ = write!(out, "}},\"version\":{}}}", monitoring::BUILD);
        out
    }

    /// The same numbers as metrics.
    pub fn write_metrics(&self, server_id: &str, out: &mut Exposition) {
        let gauge = Metric::Gauge;
        let server = ("server_id", server_id);
        out.one(
            "version",
            gauge,
            "",
            "Version of the API that is served.",
            &[server],
            u64::from(monitoring::BUILD),
        );
        out.one(
            "streamer_inbound_kbit_total",
            gauge,
            "",
            "Traffic into all streamers, kbit/s.",
            &[server],
            self.kbit(|stats| stats.input_kbit),
        );
        out.one(
            "streamer_outbound_kbit_total",
            gauge,
            "",
            "Traffic out of all streamers, kbit/s.",
            &[server],
            self.kbit(|stats| stats.output_kbit),
        );
        for (names, counts) in [
            (STREAM_COUNTS, &self.streams),
            (AGENT_COUNTS, &self.agents),
            (STREAMER_COUNTS, &self.streamers()),
        ] {
            for (health, name) in HEALTHS.into_iter().zip(names) {
                let help = "How many are in the state that the name says.";
                out.one(name, gauge, "", help, &[server], counts.of(health));
            }
            let help = "How many there are, in any state.";
            out.one(names[5], gauge, "", help, &[server], counts.total);
        }
        type Number = fn(&StreamerStats) -> Option<u64>;
        let numbers: [(&'static str, &str, Number); 13] = [
            (
                "cpu_usage",
                "Processor load of a streamer, percent.",
                |it| it.cpu_percent,
            ),
            (
                "memory_usage",
                "Memory in use on a streamer, percent.",
                |it| it.memory_percent,
            ),
            (
                "network_usage_in",
                "Traffic into a streamer, kbit/s.",
                |it| it.input_kbit,
            ),
            (
                "network_usage_out",
                "Traffic out of a streamer, kbit/s.",
                |it| it.output_kbit,
            ),
            (
                "storage_usage",
                "Fullest partition of a streamer, percent.",
                |it| it.storage_percent(),
            ),
            (
                "server_cpu_usage",
                "Processor load as the streamer tells it, percent.",
                |it| it.cpu_percent,
            ),
            (
                "server_memory_usage",
                "Memory in use as the streamer tells it, percent.",
                |it| it.memory_percent,
            ),
            (
                "server_scheduler_load",
                "Load of the streamer's scheduler, percent.",
                |it| it.scheduler_percent,
            ),
            (
                "server_input_bitrate",
                "Traffic into the streamer as it tells it, kbit/s.",
                |it| it.input_kbit,
            ),
            (
                "server_output_bitrate",
                "Traffic out of the streamer as it tells it, kbit/s.",
                |it| it.output_kbit,
            ),
            (
                "server_online_streams",
                "Streams that run on the streamer.",
                |it| it.online_streams,
            ),
            ("server_total_clients", "Viewers of the streamer.", |it| {
                it.clients
            }),
            (
                "server_opened_files",
                "Files that the streamer has open.",
                |it| it.opened_files,
            ),
        ];
        for (name, help, number) in numbers {
            let mut family = out.family(name, gauge, "", help);
            for (hostname, stats) in self.known() {
                family.known(&[("hostname", hostname), server], number(stats));
            }
        }
        let mut family = out.family(
            "server_started_at",
            gauge,
            "",
            "When the streamer was started, seconds since 1970.",
        );
        for (hostname, stats) in self.known() {
            let build = stats.build.map_or_else(String::new, |it| it.to_string());
            let version = stats.server_version.as_deref().unwrap_or_default();
            family.known(
                &[
                    ("hostname", hostname),
                    server,
                    ("version", version),
                    ("build", &build),
                ],
                stats.started_at_seconds,
            );
        }
        type PartNumber = fn(&crate::fleet::report::Partition) -> Option<u64>;
        let numbers: [(&'static str, &str, PartNumber); 3] = [
            (
                "device_io_util",
                "How busy a storage medium is, percent.",
                |it| it.io_percent,
            ),
            ("partition_total_mb", "Size of a partition, MB.", |it| {
                it.total_mb
            }),
            ("partition_usage", "Use of a partition, percent.", |it| {
                it.usage_percent
            }),
        ];
        for (name, help, number) in numbers {
            let mut family = out.family(name, gauge, "", help);
            for (hostname, stats) in self.known() {
                let mut told: Vec<(&str, &str)> = Vec::new();
                for part in &stats.partitions {
                    let place = (&*part.device, &*part.path);
                    // A sample is named by its labels and cannot be there twice.
                    if told.contains(&place) {
                        continue;
                    }
                    told.push(place);
                    let labels = [
                        ("hostname", hostname),
                        server,
                        ("device", place.0),
                        ("path", place.1),
                    ];
                    family.known(&labels, number(part));
                }
            }
        }
    }

    fn known(&self) -> impl Iterator<Item = (&str, &StreamerStats)> {
        self.nodes
            .iter()
            .filter_map(|node| Some((node.hostname.as_str(), node.signs.stats.as_deref()?)))
    }
}

/// In the order of [`HEALTHS`], then all.
const STREAM_COUNTS: [&str; 6] = [
    "stream_operational_count",
    "stream_degradated_count",
    "stream_partial_outage_count",
    "stream_outage_count",
    "stream_disabled_count",
    "stream_total_count",
];
const AGENT_COUNTS: [&str; 6] = [
    "agent_operational_count",
    "agent_degradated_count",
    "agent_partial_outage_count",
    "agent_outage_count",
    "agent_disabled_count",
    "agent_total_count",
];
const STREAMER_COUNTS: [&str; 6] = [
    "streamer_operational_count",
    "streamer_degradated_count",
    "streamer_partial_outage_count",
    "streamer_outage_count",
    "streamer_disabled_count",
    "streamer_total_count",
];

impl NodeEntry {
    fn write(&self, out: &mut String) {
        use std::fmt::Write as _;
        let part = |name: &str, health: Option<Health>, usage: Option<u64>, out: &mut String| {
            if let (Some(health), Some(usage)) = (health, usage) {
                let status = health.as_str();
                _ = write!(
                    out,
                    "\"{name}\":{{\"status\":\"{status}\",\"usage\":{usage}}},"
                );
            }
        };
        let stats = self.signs.stats.as_deref();
        let (health, number) = (&self.health, |of: fn(&StreamerStats) -> Option<u64>| {
            stats.and_then(of)
        });
        out.push_str("{\"agent_metrics\":{");
        self.agents
            .write(Some(Health::of_counts(&self.agents)), out);
        _ = write!(
            out,
            "}},\"config\":{{\"status\":\"{}\"}},",
            health.config.as_str()
        );
        part("cpu", health.cpu, number(|it| it.cpu_percent), out);
        out.push_str("\"hostname\":");
        let mut name = Vec::new();
        write_string(&mut name, &self.hostname);
        out.push_str(&String::from_utf8_lossy(&name));
        out.push(',');
        part("memory", health.memory, number(|it| it.memory_percent), out);
        if health.network_in.is_some() || health.network_out.is_some() {
            out.push_str("\"network\":{");
            part(
                "in_kbit",
                health.network_in,
                number(|it| it.input_kbit),
                out,
            );
            part(
                "out_kbit",
                health.network_out,
                number(|it| it.output_kbit),
                out,
            );
            out.pop();
            out.push_str("},");
        }
        _ = write!(out, "\"status\":\"{}\",", health.status.as_str());
        part(
            "storage",
            health.storage,
            number(StreamerStats::storage_percent),
            out,
        );
        out.push_str("\"stream_metrics\":{");
        self.streams
            .write(Some(Health::of_counts(&self.streams)), out);
        out.push('}');
        if let Some(uptime) = number(|it| it.uptime_seconds) {
            _ = write!(out, ",\"uptime\":{uptime}");
        }
        out.push('}');
    }
}

fn signs_of(record: &StreamerRecord, fleet: View<'_>) -> NodeSigns {
    let bandwidth = scan::member(&record.config, "total_bandwidth");
    NodeSigns {
        stats: fleet
            .streamer(&record.hostname)
            .and_then(|(_, stats)| stats),
        bandwidth_kbit: bandwidth.and_then(|text| text.parse().ok()),
    }
}

/// In what form an answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatsFormat {
    Json,
    OpenMetrics,
}

/// From `format` or, without it, from `Accept`. Operations that have this parameter have no other.
pub fn form(call: &Call<'_>) -> Result<StatsFormat, ApiError> {
    let mut form = match call.request.headers.get("accept") {
        Some(accept) if wants_openmetrics(accept) => StatsFormat::OpenMetrics,
        _ => StatsFormat::Json,
    };
    for pair in call
        .request
        .query
        .split('&')
        .filter(|pair| !pair.is_empty())
    {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name == "format" {
            if value != "openmetrics" {
                return Err(error::UNKNOWN_ENUM_OPTION
                    .titled("Must be one of: openmetrics")
                    .at_parameter("format"));
            }
            form = StatsFormat::OpenMetrics;
        }
    }
    Ok(form)
}

/// Whether the first thing a client can read is OpenMetrics. Scrapers name it first; browsers and API clients do not name it.
fn wants_openmetrics(accept: &[u8]) -> bool {
    let first = accept.split(|byte| *byte == b',').next();
    first.is_some_and(|first| {
        let media = first.split(|byte| *byte == b';').next().unwrap_or_default();
        media
            .trim_ascii()
            .eq_ignore_ascii_case(b"application/openmetrics-text")
    })
}

pub fn stats(call: &Call<'_>) -> Result<Outcome, ApiError> {
    Ok(Outcome::Pending(Box::new(ClusterStats {
        form: form(call)?,
        state: call.state.clone(),
        scan: None,
        metrics: None,
        cores: Vec::new(),
    })))
}

/// The state of the cluster: a scan of all streams in slices, and for metrics the counters of all cores.
struct ClusterStats {
    form: StatsFormat,
    /// All numbers are of this revision.
    state: LocalState,
    scan: Option<ClusterScan>,
    metrics: Option<Exposition>,
    cores: Vec<CoreMetrics>,
}

impl Pending for ClusterStats {
    fn wait(&self, _: &ApiSettings) -> Duration {
        ANSWER_WAIT_MAX
    }

    fn start(&mut self, context: &Context<'_>) -> Step {
        let shared = context.shared;
        let fleet = shared.fleet.view(Instant::now());
        let presence = &shared.agents.presence;
        self.scan = Some(ClusterScan::new(
            &self.state,
            fleet,
            presence,
            super::now_ms(),
        ));
        self.resume(context)
    }

    fn resume(&mut self, context: &Context<'_>) -> Step {
        let shared = context.shared;
        let scan = self.scan.as_mut().expect("it was started");
        if !scan.step(&self.state, shared.fleet.view(Instant::now()), SCAN_SLICE) {
            return Step::Continue;
        }
        if self.form == StatsFormat::Json {
            let body = scan.to_json(&shared.server_id).into_bytes();
            return Step::Done(Response::json(200, body));
        }
        let mut text = Exposition::default();
        scan.write_metrics(&shared.server_id, &mut text);
        self.metrics = Some(text);
        for (part, inbox) in shared.cores.iter().enumerate() {
            inbox.push(CoreMessage::CollectMetrics(context.completion(part)));
        }
        Step::Wait
    }

    fn on_reply(&mut self, _: usize, reply: Reply, context: &Context<'_>) -> Step {
        if let Reply::Metrics(metrics) = reply {
            self.cores.push(*metrics);
        }
        if self.cores.len() < context.shared.cores.len() {
            return Step::Wait;
        }
        let text = self.metrics.take().unwrap_or_default();
        let text = server_metrics::render(text, &self.cores, context.shared, context.state);
        Step::Done(super::config::text_response(text))
    }

    fn on_timeout(&mut self, _: &Context<'_>) -> Response {
        error::TIMED_OUT.error().into()
    }
}

/// Streams scanned before other requests of the core run: about a millisecond.
const SCAN_SLICE: usize = 1024;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::fleet::report::StreamerReport;
    use crate::fleet::stats::FleetStats;
    use crate::json;

    #[test]
    fn thresholds_are_those_that_were_decided() {
        use Health::{Degraded, Operational, PartialOutage};
        for (percent, health) in [
            (0, Operational),
            (79, Operational),
            (80, Degraded),
            (94, Degraded),
            (95, PartialOutage),
            (100, PartialOutage),
        ] {
            assert_eq!(Health::of_percent(percent), health, "{percent}");
        }
        for (kbit, limit, health) in [
            (1_000_000, None, Operational),
            (1_000_000, Some(0), Operational),
            (799, Some(1000), Operational),
            (800, Some(1000), Degraded),
            (950, Some(1000), PartialOutage),
            (5000, Some(1000), PartialOutage),
            (u64::MAX, Some(1), PartialOutage),
        ] {
            assert_eq!(Health::of_traffic(kbit, limit), health, "{kbit} {limit:?}");
        }
    }

    #[test]
    fn a_stream_fares_as_its_node_says() {
        use StreamStatus::{Error, Running, Waiting};
        // disabled, on demand, status, alive, node online
        for (disabled, on_demand, status, alive, node_online, health) in [
            (
                true,
                false,
                Some(Running),
                Some(true),
                true,
                Health::Disabled,
            ),
            (true, false, None, None, false, Health::Disabled),
            (
                false,
                false,
                Some(Running),
                Some(true),
                true,
                Health::Operational,
            ),
            (false, false, Some(Running), None, true, Health::Operational),
            (
                false,
                false,
                Some(Running),
                Some(false),
                true,
                Health::Degraded,
            ),
            (false, false, Some(Waiting), None, true, Health::Degraded),
            (false, true, Some(Waiting), None, true, Health::Operational),
            (false, true, Some(Error), None, true, Health::Outage),
            (false, false, Some(Error), Some(true), true, Health::Outage),
            (false, false, None, None, true, Health::Outage),
            (false, false, None, None, false, Health::Outage),
            (false, true, None, None, true, Health::Operational),
            (false, true, None, None, false, Health::Outage),
        ] {
            let signs = StreamSigns {
                disabled,
                on_demand,
                status,
                alive,
                node_online,
            };
            assert_eq!(Health::of_stream(signs), health, "{signs:?}");
        }
    }

    fn node(stats: &str, bandwidth_kbit: Option<u64>) -> NodeHealth {
        let now = Instant::now();
        let fleet = FleetStats::new(Duration::from_mins(1), now);
        let body = json::parse(stats.as_bytes()).expect("JSON");
        let report = StreamerReport::from_body(body, now).expect("a report");
        let host = Hostname::trusted("s1");
        fleet.report(&host, report, now);
        NodeHealth::of(&NodeSigns {
            stats: fleet.streamer("s1", now),
            bandwidth_kbit,
        })
    }

    #[test]
    fn a_node_fares_as_its_worst_part() {
        use Health::{Degraded, Operational, Outage, PartialOutage};
        for (stats, bandwidth, status) in [
            (r#"{"stats":{}}"#, None, Operational),
            (
                r#"{"stats":{"cpu_usage":10,"memory_usage":85}}"#,
                None,
                Degraded,
            ),
            (
                r#"{"stats":{"cpu_usage":96,"memory_usage":85}}"#,
                None,
                PartialOutage,
            ),
            (
                r#"{"stats":{"partitions":[{"usage":50},{"usage":95}]}}"#,
                None,
                PartialOutage,
            ),
            (r#"{"stats":{"input_kbit":900}}"#, Some(1000), Degraded),
            (
                r#"{"stats":{"output_kbit":990}}"#,
                Some(1000),
                PartialOutage,
            ),
            (r#"{"stats":{"config_error":{"error":"x"}}}"#, None, Outage),
            (
                r#"{"stats":{"config_external_status":{"status":"error"}}}"#,
                None,
                Outage,
            ),
            (
                r#"{"stats":{"config_external_status":{"status":"loaded"}}}"#,
                None,
                Operational,
            ),
            (
                r#"{"stats":{"streamer_status":"no_license"}}"#,
                None,
                Outage,
            ),
            (
                r#"{"stats":{"streamer_status":"running"}}"#,
                None,
                Operational,
            ),
        ] {
            assert_eq!(node(stats, bandwidth).status, status, "{stats}");
        }
        let silent = NodeHealth::of(&NodeSigns::default());
        assert_eq!((silent.status, silent.cpu), (Outage, None));
    }

    #[test]
    fn many_fare_as_bad_as_their_share() {
        use Health::{Degraded, Disabled, Operational, Outage, PartialOutage};
        for (members, health) in [
            (&[][..], Operational),
            (&[Disabled], Operational),
            (&[Operational, Disabled], Operational),
            (&[Operational, Degraded], Degraded),
            (&[Operational, Outage, Degraded], PartialOutage),
            (&[Outage, Disabled], Outage),
            (&[Outage, PartialOutage], Outage),
        ] {
            let mut counts = Counts::default();
            for health in members {
                counts.add(*health);
            }
            assert_eq!(Health::of_counts(&counts), health, "{members:?}");
        }
    }

    #[test]
    fn openmetrics_is_asked_for_by_name() {
        for (accept, wanted) in [
            ("application/openmetrics-text", true),
            (
                "application/openmetrics-text; version=1.0.0,text/plain;q=0.5",
                true,
            ),
            ("Application/OpenMetrics-Text ;q=0.9, */*", true),
            ("*/*", false),
            ("application/json", false),
            ("application/json, application/openmetrics-text", false),
            ("text/plain", false),
            ("", false),
        ] {
            assert_eq!(wants_openmetrics(accept.as_bytes()), wanted, "{accept}");
        }
    }
}
