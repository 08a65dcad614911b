//! The health of streams and streamers: a pure function of records and reports.
//!
//! Its thresholds are defined here. Counts, lists and metrics take the health of a stream from one
//! function, [`health_of`], so that they agree.

use std::sync::Arc;

use super::report::{StreamStatus, StreamerStats};
use super::stats::{StreamFacts, View};
use crate::feed::nodes::{Draining, OFFLINE, Standing};
use crate::json::scan;
use crate::state::State;
use crate::state::record::{ArchivedStream, StreamerRecord};

/// The health of a stream, an agent or a streamer, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    Disabled,
    Operational,
    Degraded,
    PartialOutage,
    Outage,
}

impl Health {
    /// The name in the reference, with its spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Operational => "operational",
            Self::Degraded => "degradated",
            Self::PartialOutage => "partial_outage",
            Self::Outage => "outage",
        }
    }

    /// The health with a name.
    pub fn parse(name: &str) -> Option<Self> {
        HEALTHS.into_iter().find(|health| health.as_str() == name)
    }

    /// The health at a use of a limited resource: degraded from 80 %, a partial outage from 95 %.
    pub fn of_percent(percent: u64) -> Self {
        match percent {
            0..80 => Self::Operational,
            80..95 => Self::Degraded,
            _ => Self::PartialOutage,
        }
    }

    /// The health at a traffic; a node without a configured bandwidth has no limit.
    pub fn of_traffic(kbit: u64, bandwidth_kbit: Option<u64>) -> Self {
        match bandwidth_kbit {
            None | Some(0) => Self::Operational,
            Some(limit) => Self::of_percent(kbit.saturating_mul(100) / limit),
        }
    }

    /// The health of a stream.
    pub fn of_stream(stream: StreamInputs) -> Self {
        if stream.disabled {
            return Self::Disabled;
        }
        match (stream.status, stream.alive) {
            (Some(StreamStatus::Running), Some(false)) => Self::Degraded,
            (Some(StreamStatus::Running), _) => Self::Operational,
            // A stream on demand waits for viewers; a permanent one waits for its source.
            (Some(StreamStatus::Waiting), _) if stream.on_demand => Self::Operational,
            (Some(StreamStatus::Waiting), _) => Self::Degraded,
            // Not reported: operational if it is on demand and its node could start it.
            (None, _) if stream.on_demand && stream.node_online => Self::Operational,
            (Some(StreamStatus::Error) | None, _) => Self::Outage,
        }
    }

    /// The health of a group: an outage if all are, a partial outage if some are.
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

/// Each health, in the order of metrics.
pub const HEALTHS: [Health; 5] = [
    Health::Operational,
    Health::Degraded,
    Health::PartialOutage,
    Health::Outage,
    Health::Disabled,
];

/// The inputs from which the health of a stream is derived.
#[derive(Debug, Clone, Copy, Default)]
pub struct StreamInputs {
    pub disabled: bool,
    /// The stream runs only while it has viewers.
    pub on_demand: bool,
    /// The status that its node reported.
    pub status: Option<StreamStatus>,
    pub alive: Option<bool>,
    /// The stream is placed on a streamer that reports.
    pub node_online: bool,
}

/// Counts by health.
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

    /// Counts in the order of their values.
    pub fn of_all(by_health: [u64; 5]) -> Self {
        let total = by_health.iter().sum();
        Self { by_health, total }
    }

    /// In the order of the values.
    pub fn by_health(&self) -> [u64; 5] {
        self.by_health
    }

    pub fn of(&self, health: Health) -> u64 {
        self.by_health[health as usize]
    }

    /// Writes the members of the reference in order, without braces.
    pub fn write(&self, status: Option<Health>, out: &mut String) {
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

/// The health of a stream by the reports that are current, and what else is read of them.
pub fn health_of<R: Default>(
    stream: &ArchivedStream,
    fleet: View<'_>,
    is_online: impl FnOnce(&str) -> bool,
    look: impl FnOnce(&StreamFacts<'_>) -> R,
) -> (Health, R) {
    let (reported, rest) = fleet.stream_or_none(&stream.name, stream.source(), |facts| {
        let rest = facts.as_ref().map(look).unwrap_or_default();
        (ReportedHealth::of(facts.as_ref()), rest)
    });
    (health_as_reported(stream, reported, is_online), rest)
}

/// What the health of a stream depends on in its reports.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReportedHealth {
    status: Option<StreamStatus>,
    alive: Option<bool>,
}

impl ReportedHealth {
    pub fn of(facts: Option<&StreamFacts<'_>>) -> Self {
        facts.map_or_else(Self::default, |facts| Self {
            status: facts.status(),
            alive: facts.alive(),
        })
    }
}

/// The health of a stream whose reports are looked up already.
pub fn health_as_reported(
    stream: &ArchivedStream,
    reported: ReportedHealth,
    is_online: impl FnOnce(&str) -> bool,
) -> Health {
    let ReportedHealth { status, alive } = reported;
    let mut inputs = StreamInputs {
        disabled: stream.disabled,
        status,
        alive,
        ..StreamInputs::default()
    };
    // Read only where it matters: most streams run.
    if !stream.disabled && matches!(status, None | Some(StreamStatus::Waiting)) {
        inputs.on_demand = scan::member(&stream.config, "static") == Some("false");
        let node = stream
            .ingest()
            .filter(|_| inputs.on_demand && status.is_none());
        inputs.node_online = node.is_some_and(is_online);
    }
    Health::of_stream(inputs)
}

/// Whether a hostname is that of a streamer whose report is current.
pub fn is_online(state: &State, fleet: View<'_>, hostname: &str) -> bool {
    let stats = || fleet.streamer(hostname).and_then(|(_, stats)| stats);
    state.streamer(hostname).is_some() && stats().is_some()
}

/// The inputs from which the health of a streamer is derived.
#[derive(Debug, Clone, Default)]
pub struct StreamerInputs {
    pub stats: Option<Arc<StreamerStats>>,
    pub bandwidth_kbit: Option<u64>,
}

/// The health of a streamer and of its parts, which is unknown without a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamerHealth {
    pub status: Health,
    pub config: Health,
    pub cpu: Option<Health>,
    pub memory: Option<Health>,
    pub storage: Option<Health>,
    pub network_in: Option<Health>,
    pub network_out: Option<Health>,
}

impl StreamerHealth {
    /// The health is that of the worst part; streams and agents of the node do not count.
    pub fn of(node: &StreamerInputs) -> Self {
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
            cpu: stats.usage.cpu_percent.map(Health::of_percent),
            memory: stats.usage.memory_percent.map(Health::of_percent),
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

impl StreamerInputs {
    /// The inputs of a streamer with these current stats.
    pub fn of(record: &StreamerRecord, stats: Option<Arc<StreamerStats>>) -> Self {
        let bandwidth = scan::member(&record.config, "total_bandwidth");
        Self {
            stats,
            bandwidth_kbit: bandwidth.and_then(|text| text.parse().ok()),
        }
    }
}

/// Each state of a streamer, as [`state_code`] names it.
pub const STATE_CODES: [&str; 7] = [
    "up",
    "probation",
    "down",
    "unsure",
    "draining",
    "drained",
    "cordoned",
];

/// The standing and the maintenance of a streamer in one word. One that may be lost is that first;
/// without a standing nothing is known of it.
pub fn state_code(
    streamer: &StreamerRecord,
    standing: Option<Standing>,
    draining: Option<Draining>,
) -> &'static str {
    let cordon = streamer.cordon.as_ref();
    let is_drained = draining.is_some_and(|it| it.drained_ms.is_some());
    let standing = standing.map_or("unknown", |it| it.name);
    match (standing, cordon.map(|it| it.drain.is_some())) {
        (OFFLINE, _) => "down",
        ("unknown", _) => "unsure",
        (_, Some(true)) if is_drained => "drained",
        (_, Some(true)) => "draining",
        (_, Some(false)) => "cordoned",
        ("held", None) => "probation",
        (_, None) => "up",
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::fleet::report::StreamerReport;
    use crate::fleet::stats::FleetStats;
    use crate::json;
    use crate::state::name::Hostname;

    #[test]
    fn thresholds_are_80_and_95_percent() {
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
    fn stream_health_follows_status_and_node() {
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
            let inputs = StreamInputs {
                disabled,
                on_demand,
                status,
                alive,
                node_online,
            };
            assert_eq!(Health::of_stream(inputs), health, "{inputs:?}");
        }
    }

    fn node(stats: &str, bandwidth_kbit: Option<u64>) -> StreamerHealth {
        let now = Instant::now();
        let fleet = FleetStats::new(Duration::from_mins(1), now);
        let body = json::parse(stats.as_bytes()).expect("JSON");
        let report = StreamerReport::from_body(body, now).expect("a report");
        let host = Hostname::trusted("s1");
        fleet.report(&host, report, now, || true);
        StreamerHealth::of(&StreamerInputs {
            stats: fleet.streamer("s1", now),
            bandwidth_kbit,
        })
    }

    #[test]
    fn streamer_health_is_that_of_the_worst_part() {
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
        let silent = StreamerHealth::of(&StreamerInputs::default());
        assert_eq!((silent.status, silent.cpu), (Outage, None));
    }

    #[test]
    fn group_health_is_an_outage_only_if_all_are() {
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
}
