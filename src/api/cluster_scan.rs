//! A scan of the cluster: counts by health, the health of each streamer, as JSON and as metrics.
//!
//! It reads each stream once, in slices, at one revision. As metrics the numbers have the names of
//! the reference.

use std::collections::HashMap;
use std::ops::Bound;

use super::facet_counts::FacetCounts;
use super::rare_streams::RareStreams;
use crate::agents::registry::Registry;
use crate::feed::nodes::Standing;
use crate::fleet::health::{
    Counts, HEALTHS, Health, StreamerHealth, StreamerInputs, health_of, state_code,
};
use crate::fleet::report::{
    ERROR_CODES, NO_COMMON_PROTOCOL_INDEX, Partition, ReportedError, StreamerStats,
};
use crate::fleet::stats::View;
use crate::json::{scan, write_string};
use crate::metrics::{Exposition, MetricKind as Metric};
use crate::state::entity::Kind;
use crate::state::name::{Hostname, StreamName};
use crate::state::node::lacks_common_protocol;
use crate::state::{SHARDS, State};

/// The build number in the format of the reference: year, month, patch and commit count of the API
/// version that is served.
pub const BUILD: u32 = 241_100_292;

/// Streams from which on a list of rare ones, or of streamers by their streams, looks at the last
/// count instead of at all streams: that takes a core 10 ms or more.
pub const STREAMS_COUNTED_MIN: usize = 20_000;

/// Counts of the errors that streams have on their nodes: by known code, then of all other codes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct ErrorCounts([u64; ERROR_CODES.len() + 1]);

impl ErrorCounts {
    /// The index of the one error that this server finds itself.
    const FOUND: usize = NO_COMMON_PROTOCOL_INDEX;

    fn index(error: &ReportedError) -> usize {
        error.known_code().unwrap_or(ERROR_CODES.len())
    }

    fn by_code(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let codes = ERROR_CODES.into_iter().chain(["other"]);
        codes.zip(self.0)
    }

    /// Writes the codes that occur as members, without braces.
    fn write(&self, out: &mut String) {
        let occurring = self.by_code().filter(|(_, count)| *count > 0);
        let members = occurring.map(|(code, count)| format!("\"{code}\":{count}"));
        let mut members: Vec<String> = members.collect();
        members.sort_unstable();
        out.push_str(&members.join(","));
    }

    fn write_metrics(&self, server: (&str, &str), out: &mut Exposition) {
        let help = "Streams with an error on their node, by its code.";
        let mut family = out.family("weir_stream_errors", Metric::Gauge, "", help);
        for (code, count) in self.by_code() {
            family.sample(&[server, ("code", code)], count);
        }
    }
}

/// One streamer in a scan.
pub struct NodeEntry {
    pub hostname: Hostname,
    pub inputs: StreamerInputs,
    pub health: StreamerHealth,
    pub streams: Counts,
    /// One of [`STATE_CODES`](crate::fleet::health::STATE_CODES).
    pub state: &'static str,
    pub standing: Option<Standing>,
    agents: Counts,
}

/// A scan of streams, agents and streamers, counted at one revision.
pub struct ClusterScan {
    pub collected_at_ms: u64,
    pub nodes: Vec<NodeEntry>,
    by_hostname: HashMap<Hostname, usize>,
    pub streams: Counts,
    /// Enabled streams that are on no streamer.
    pub unplaced: u64,
    pub rare: RareStreams,
    /// Counted if a caller wants them.
    pub facets: Option<FacetCounts>,
    agents: Counts,
    errors: ErrorCounts,
    shard: usize,
    after: Option<StreamName>,
}

impl ClusterScan {
    /// Begins a scan with the streamers and the agents; `presence` has the connected agents.
    pub fn new(state: &State, fleet: View<'_>, presence: &Registry, now_ms: u64) -> Self {
        let nodes: Vec<NodeEntry> = state
            .streamers()
            .iter()
            .map(|(hostname, record)| {
                let stats = fleet.streamer(hostname).and_then(|(_, stats)| stats);
                let inputs = StreamerInputs::of(record, stats);
                let standing = fleet.signs(hostname).and_then(|(_, standing)| standing);
                NodeEntry {
                    state: state_code(record, standing, fleet.draining(hostname)),
                    standing,
                    hostname: hostname.clone(),
                    health: StreamerHealth::of(&inputs),
                    inputs,
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
        let mut scan = Self {
            collected_at_ms: now_ms,
            nodes,
            by_hostname,
            streams: Counts::default(),
            unplaced: 0,
            rare: RareStreams::new(state),
            facets: None,
            agents: Counts::default(),
            errors: ErrorCounts::default(),
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
            scan.agents.add(health);
            // The agent also counts for the streamer that receives its video.
            let streampoint = online.and_then(|online| online.streampoint());
            let node = streampoint.and_then(|it| scan.by_hostname.get(&*it.hostname).copied());
            if let Some(node) = node {
                scan.nodes[node].agents.add(health);
            }
        }
        scan
    }

    /// Also counts streams by the values of fields.
    #[must_use]
    pub fn with_facets(self, wanted: bool) -> Self {
        let facets = wanted.then(FacetCounts::default);
        Self { facets, ..self }
    }

    /// Counts at most `budget` more streams. Returns true at the end.
    pub fn step(&mut self, state: &State, fleet: View<'_>, budget: usize) -> bool {
        let mut left = budget.max(1);
        while self.shard < SHARDS {
            let after = self.after.take();
            let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let shard = state.shard(self.shard);
            for (name, stream) in shard.range::<_, str>((from, Bound::Unbounded)) {
                let ingest = stream.ingest();
                let node = ingest.and_then(|host| self.by_hostname.get(host).copied());
                let is_online =
                    |_: &str| node.is_some_and(|node| self.nodes[node].inputs.stats.is_some());
                let (health, error) = health_of(stream, fleet, is_online, |facts| {
                    facts.error().map(ErrorCounts::index)
                });
                let found = || lacks_common_protocol(state, stream).then_some(ErrorCounts::FOUND);
                if let Some(error) = error.or_else(found) {
                    self.errors.0[error] += 1;
                }
                self.streams.add(health);
                self.rare.note(name, health, ingest.is_some());
                if let Some(facets) = &mut self.facets {
                    facets.add(stream);
                }
                self.unplaced += u64::from(ingest.is_none() && health != Health::Disabled);
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

    /// Streamers by health.
    pub fn streamers(&self) -> Counts {
        let mut counts = Counts::default();
        for node in &self.nodes {
            counts.add(node.health.status);
        }
        counts
    }

    /// The sum of a number over all streamers that report.
    pub fn sum(&self, of: impl Fn(&StreamerStats) -> Option<u64>) -> u64 {
        let stats = self
            .nodes
            .iter()
            .filter_map(|it| it.inputs.stats.as_deref());
        let sum = stats.filter_map(of).fold(0, u64::saturating_add);
        // Integers of the API have a sign.
        sum.min(i64::MAX as u64)
    }

    /// The statistics in the JSON form of the reference.
    pub fn to_json(&self, server_id: &str) -> String {
        use std::fmt::Write as _;
        let mut out = String::with_capacity(512 + self.nodes.len() * 512);
        out.push_str("{\"agent_metrics_total\":{");
        self.agents.write(None, &mut out);
        _ = write!(
            out,
            "}},\"collected_at\":{},\"server_id\":\"{server_id}\",\"stream_errors\":{{",
            self.collected_at_ms
        );
        self.errors.write(&mut out);
        out.push_str("},\"stream_metrics_total\":{");
        self.streams.write(None, &mut out);
        _ = write!(
            out,
            "}},\"streamer_bitrate_metrics_total\":{{\"input_kbit\":{},\
             \"output_kbit\":{}}},\"streamer_metrics\":[",
            self.sum(|stats| stats.input_kbit),
            self.sum(|stats| stats.output_kbit)
        );
        for (i, node) in self.nodes.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            node.write(&mut out);
        }
        out.push_str("],\"streamer_metrics_total\":{");
        self.streamers().write(None, &mut out);
        _ = write!(out, "}},\"version\":{BUILD}}}");
        out
    }

    /// Writes the statistics as metrics.
    pub fn write_metrics(&self, server_id: &str, out: &mut Exposition) {
        let server = ("server_id", server_id);
        self.write_totals(server, out);
        self.errors.write_metrics(server, out);
        for (name, help, number) in STREAMER_METRICS {
            let mut family = out.family(name, Metric::Gauge, "", help);
            for (hostname, stats) in self.reporting() {
                family.known(&[("hostname", hostname), server], number(stats));
            }
        }
        self.write_start_times(server, out);
        for (name, help, number) in PARTITION_METRICS {
            self.write_partitions(server, name, help, number, out);
        }
    }

    fn write_totals(&self, server: (&str, &str), out: &mut Exposition) {
        let input = self.sum(|stats| stats.input_kbit);
        let output = self.sum(|stats| stats.output_kbit);
        for (name, help, value) in [
            ("version", "Version of the API.", u64::from(BUILD)),
            (
                "streamer_inbound_kbit_total",
                "Traffic into all streamers, kbit/s.",
                input,
            ),
            (
                "streamer_outbound_kbit_total",
                "Traffic out of all streamers, kbit/s.",
                output,
            ),
        ] {
            out.one(name, Metric::Gauge, "", help, &[server], value);
        }
        for (names, counts) in [
            (STREAM_COUNTS, &self.streams),
            (AGENT_COUNTS, &self.agents),
            (STREAMER_COUNTS, &self.streamers()),
        ] {
            for (health, name) in HEALTHS.into_iter().zip(names) {
                let help = "Count with the health in the name.";
                out.one(name, Metric::Gauge, "", help, &[server], counts.of(health));
            }
            let help = "Count with any health.";
            out.one(names[5], Metric::Gauge, "", help, &[server], counts.total);
        }
    }

    fn write_start_times(&self, server: (&str, &str), out: &mut Exposition) {
        let help = "When the streamer was started, seconds since 1970.";
        let mut family = out.family("server_started_at", Metric::Gauge, "", help);
        for (hostname, stats) in self.reporting() {
            let build = stats
                .program
                .build
                .map_or_else(String::new, |it| it.to_string());
            let version = stats.program.server_version.as_deref().unwrap_or_default();
            let labels = [
                ("hostname", hostname),
                server,
                ("version", version),
                ("build", &build),
            ];
            family.known(&labels, stats.program.started_at_seconds);
        }
    }

    fn write_partitions(
        &self,
        server: (&str, &str),
        name: &'static str,
        help: &str,
        number: PartitionNumber,
        out: &mut Exposition,
    ) {
        let mut family = out.family(name, Metric::Gauge, "", help);
        for (hostname, stats) in self.reporting() {
            let mut written: Vec<(&str, &str)> = Vec::new();
            for partition in &stats.partitions {
                let (device, path) = (&*partition.device, &*partition.path);
                // Labels identify a sample, so a repeated partition is skipped.
                if written.contains(&(device, path)) {
                    continue;
                }
                written.push((device, path));
                let labels = [
                    ("hostname", hostname),
                    server,
                    ("device", device),
                    ("path", path),
                ];
                family.known(&labels, number(partition));
            }
        }
    }

    /// The streamers that report, with their statistics.
    fn reporting(&self) -> impl Iterator<Item = (&str, &StreamerStats)> {
        self.nodes
            .iter()
            .filter_map(|node| Some((node.hostname.as_str(), node.inputs.stats.as_deref()?)))
    }
}

type StreamerNumber = fn(&StreamerStats) -> Option<u64>;
type PartitionNumber = fn(&Partition) -> Option<u64>;

/// Metrics of one streamer: name, help, value.
#[rustfmt::skip]
const STREAMER_METRICS: [(&str, &str, StreamerNumber); 13] = [
    ("cpu_usage", "Processor load of a streamer, percent.", |it| it.usage.cpu_percent),
    ("memory_usage", "Memory in use on a streamer, percent.", |it| it.usage.memory_percent),
    ("network_usage_in", "Traffic into a streamer, kbit/s.", |it| it.input_kbit),
    ("network_usage_out", "Traffic out of a streamer, kbit/s.", |it| it.output_kbit),
    ("storage_usage", "Fullest partition of a streamer, percent.", |it| it.storage_percent()),
    ("server_cpu_usage", "Processor load that the streamer reports, percent.",
        |it| it.usage.cpu_percent),
    ("server_memory_usage", "Memory in use that the streamer reports, percent.",
        |it| it.usage.memory_percent),
    ("server_scheduler_load", "Load of the streamer's scheduler, percent.",
        |it| it.usage.scheduler_percent),
    ("server_input_bitrate", "Traffic into the streamer that it reports, kbit/s.",
        |it| it.input_kbit),
    ("server_output_bitrate", "Traffic out of the streamer that it reports, kbit/s.",
        |it| it.output_kbit),
    ("server_online_streams", "Streams that run on the streamer.", |it| it.online_streams),
    ("server_total_clients", "Viewers of the streamer.", |it| it.clients),
    ("server_opened_files", "Files that the streamer has open.", |it| it.opened_files),
];

/// Metrics of one partition of a streamer: name, help, value.
#[rustfmt::skip]
const PARTITION_METRICS: [(&str, &str, PartitionNumber); 3] = [
    ("device_io_util", "Utilization of a storage medium, percent.", |it| it.io_percent),
    ("partition_total_mb", "Size of a partition, MB.", |it| it.total_mb),
    ("partition_usage", "Use of a partition, percent.", |it| it.usage_percent),
];

/// Metric names in the order of [`HEALTHS`], then of the total.
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
        let stats = self.inputs.stats.as_deref();
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
        part("cpu", health.cpu, number(|it| it.usage.cpu_percent), out);
        out.push_str("\"hostname\":");
        let mut name = Vec::new();
        write_string(&mut name, &self.hostname);
        out.push_str(&String::from_utf8_lossy(&name));
        out.push(',');
        part(
            "memory",
            health.memory,
            number(|it| it.usage.memory_percent),
            out,
        );
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
        if let Some(uptime) = number(|it| it.program.uptime_seconds) {
            _ = write!(out, ",\"uptime\":{uptime}");
        }
        out.push('}');
    }
}
