//! The server's own metrics; their names begin with `weir_`.
//!
//! Every core has its own counters, which are summed here. The counters of the writer are shared.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::shared::Shared;
use crate::core::metrics::CoreMetrics;
use crate::fleet::queries::{ProvisionOutcome, QueryOutcome};
use crate::metrics::MetricKind::{Counter, Gauge};
use crate::metrics::{Exposition, MetricKind, ProcessMetrics};
use crate::state::State;
use crate::state::entity::KINDS;

/// Appends all metrics to `text`.
pub fn render(text: Exposition, cores: &[CoreMetrics], shared: &Shared, state: &State) -> String {
    let mut out = text;
    write_responses(cores, &mut out);
    write_edge(cores, &mut out);
    write_stalls(cores, &mut out);
    write_offload(shared, &mut out);
    write_traces(shared, &mut out);
    write_reports(shared, &mut out);
    write_queries(shared, &mut out);
    write_process(shared, &mut out);
    write_writer(shared, &mut out);
    write_store(shared, state, &mut out);
    write_backups(shared, &mut out);
    shared.layouter.metrics.write_metrics(&mut out);
    ProcessMetrics::read().write(&mut out);
    out.finish()
}

type CoreCounter = fn(&CoreMetrics) -> u64;

/// Name, type, unit, help, value.
#[rustfmt::skip]
const EDGE: [(&str, MetricKind, &str, &str, CoreCounter); 19] = [
    ("weir_http_requests", Counter, "", "Requests received.", |core| core.http.requests),
    ("weir_http_refused", Counter, "", "Malformed requests.", |core| core.http.refused),
    ("weir_http_too_slow", Counter, "", "Connections closed because a request arrived too slowly.",
        |core| core.http.too_slow),
    ("weir_http_stalled", Counter, "", "Connections closed because responses were not read.",
        |core| core.http.connections.stalled),
    ("weir_http_abandoned", Counter, "", "Waiting requests whose clients disconnected.",
        |core| core.http.abandoned),
    ("weir_http_panics", Counter, "", "Requests whose handler panicked.", |core| core.http.panics),
    ("weir_http_received_bytes", Counter, "bytes", "Bytes received.", |core| core.http.bytes_in),
    ("weir_http_sent_bytes", Counter, "bytes", "Bytes sent.", |core| core.http.bytes_out),
    ("weir_http_connections_accepted", Counter, "", "Connections accepted.",
        |core| core.http.connections.accepted),
    ("weir_http_connections_shed", Counter, "", "Connections closed at once over the limit.",
        |core| core.http.connections.shed),
    ("weir_http_connections_shed_by_address", Counter, "",
        "Connections closed at once over the share of their address.",
        |core| core.http.connections.shed_by_address),
    ("weir_http_connections_open", Gauge, "", "Open connections.",
        |core| core.http.connections.open),
    ("weir_http_connections_upgraded", Counter, "", "Connections upgraded by agents.",
        |core| core.http.connections.upgraded),
    ("weir_http_arriving_bytes", Gauge, "bytes", "Memory for requests that are arriving.",
        |core| core.http.buffers.arriving_bytes),
    ("weir_http_unsent_bytes", Gauge, "bytes", "Answers that clients have not taken yet.",
        |core| core.http.buffers.unsent_bytes),
    ("weir_http_refused_by_memory", Counter, "",
        "Requests refused because connection_buffers was used up.",
        |core| core.http.buffers.refused),
    ("weir_http_lines_received", Counter, "", "Lines received on upgraded connections.",
        |core| core.http.lines_in),
    ("weir_http_requests_waiting", Gauge, "", "Waiting requests, including parked polls.",
        |core| core.http.waiting),
    ("weir_polls_parked", Gauge, "", "Parked polls.", |core| core.parked),
];

fn write_responses(cores: &[CoreMetrics], out: &mut Exposition) {
    let mut responses = out.family(
        "weir_http_responses",
        Counter,
        "",
        "Responses by class of status.",
    );
    for (i, class) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().enumerate() {
        let all = cores.iter().map(|core| core.answers[i]).sum::<u64>();
        responses.sample(&[("class", class)], all);
    }
}

fn write_stalls(cores: &[CoreMetrics], out: &mut Exposition) {
    let mut stalls = out.family(
        "weir_core_stall_seconds",
        MetricKind::Histogram,
        "seconds",
        "Time for which one task of a core ran while all others waited.",
    );
    for core in cores {
        stalls.histogram(&[("core", &core.index.to_string())], &core.stalls);
    }
    let mut longest = out.family(
        "weir_core_stall_max_seconds",
        MetricKind::Gauge,
        "seconds",
        "Longest time for which one task of a core ran while all others waited.",
    );
    for core in cores {
        let core_label = core.index.to_string();
        longest.sample(&[("core", &core_label)], core.stalls.longest());
    }
}

#[rustfmt::skip]
fn write_offload(shared: &Shared, out: &mut Exposition) {
    let offload = &shared.workers.offload;
    let help = "Pieces of long work done by other threads than the cores.";
    out.one("weir_offload_jobs", Counter, "", help, &[], offload.taken());
    let (jobs, bytes) = offload.usage();
    out.one("weir_offload_jobs_waiting", Gauge, "", "Jobs that have not ended.", &[], jobs as u64);
    let help = "Bytes of the requests and responses of jobs that have not ended.";
    out.one("weir_offload_bytes", Gauge, "bytes", help, &[], bytes as u64);
    let scans = &shared.workers.scans;
    let help = "Scans of all streams that the scan threads were given.";
    out.one("weir_scans", Counter, "", help, &[], scans.taken());
    let help = "Scans of all streams that have not ended.";
    out.one("weir_scans_running", Gauge, "", help, &[], scans.running());
}

fn write_traces(shared: &Shared, out: &mut Exposition) {
    let counts = &shared.workers.traces.counts;
    let mut spans = out.family(
        "weir_trace_spans",
        Counter,
        "",
        "Recorded spans: taken by the collector; not taken; dropped because too many waited.",
    );
    for (outcome, count) in [
        ("exported", &counts.exported),
        ("failed", &counts.failed),
        ("dropped", &counts.dropped),
    ] {
        spans.sample(&[("outcome", outcome)], count.load(Ordering::Relaxed));
    }
}

#[rustfmt::skip]
fn write_reports(shared: &Shared, out: &mut Exposition) {
    let help = "Values in reports of streamers that could not be used and were dropped.";
    out.one("weir_report_values_dropped", Counter, "", help, &[], shared.fleet.dropped());
    let unconfigured = shared.fleet.unconfigured();
    let help = "Streams that streamers report and this server has no configuration of: `kept` for \
                the list; `left_out` above a limit of it, at least.";
    let mut streams = out.family("weir_unconfigured_streams", Gauge, "", help);
    streams.sample(&[("state", "kept")], unconfigured.names().len() as u64);
    streams.sample(&[("state", "left_out")], unconfigured.left_out());
    let help = "Memory for numbers of the past.";
    out.one("weir_history_bytes", Gauge, "bytes", help, &[], shared.workers.histories.bytes());
}

fn write_queries(shared: &Shared, out: &mut Exposition) {
    let counts = &shared.workers.queries;
    let help = "Queries of streamers by outcome; a failed one is repeated later.";
    let mut queries = out.family("weir_streamer_queries", Counter, "", help);
    for outcome in QueryOutcome::ALL {
        queries.sample(&[("outcome", outcome.as_str())], counts.of(outcome));
    }
    let help = "Comparisons of streamers' configurations with the cluster's part of them, by \
                outcome; a failed one is repeated later.";
    let mut provisions = out.family("weir_provision_comparisons", Counter, "", help);
    for outcome in ProvisionOutcome::ALL {
        let labels = [("outcome", outcome.as_str())];
        provisions.sample(&labels, counts.provisions_of(outcome));
    }
    let gauges = [
        (
            "weir_streamer_queries_running",
            "Queries of streamers that run.",
            &counts.running,
        ),
        (
            "weir_streamers_queried",
            "Streamers that are queried.",
            &counts.streamers,
        ),
        (
            "weir_streamers_silent",
            "Queried streamers that did not answer the last queries.",
            &counts.silent,
        ),
    ];
    for (name, help, count) in gauges {
        out.one(name, Gauge, "", help, &[], count.get());
    }
}

fn write_edge(cores: &[CoreMetrics], out: &mut Exposition) {
    for (name, kind, unit, help, value) in EDGE {
        let sum = cores.iter().map(value).sum::<u64>();
        out.one(name, kind, unit, help, &[], sum);
    }
}

#[rustfmt::skip]
fn write_process(shared: &Shared, out: &mut Exposition) {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    out.one("weir_build", MetricKind::Info, "", "Version of the program.", &version, 1_u64);
    let failed = shared.access.failed_credentials.lock();
    let delayed = failed.unwrap_or_else(PoisonError::into_inner).delayed();
    let help = "Wrong credentials over the limit of their address, answered later.";
    out.one("weir_auth_failures_delayed", Counter, "", help, &[], delayed);
    let uptime = super::now_seconds().saturating_sub(shared.identity.started_at_seconds);
    out.one("weir_uptime_seconds", Gauge, "seconds", "Time since the start.", &[], uptime);
}

#[rustfmt::skip]
fn write_writer(shared: &Shared, out: &mut Exposition) {
    let writer = shared.published.metrics();
    let numbers = [
        ("weir_writer_batches", "Group commits.", writer.batches()),
        ("weir_writer_commands", "Commands received.", writer.commands()),
        ("weir_writer_commands_refused", "Commands refused by the state.", writer.refused()),
        ("weir_writer_failures", "Group commits that failed in the store.", writer.failures()),
    ];
    for (name, help, number) in numbers {
        out.one(name, Counter, "", help, &[], number);
    }
    let help = "Time to apply a group commit and make it durable.";
    out.family("weir_writer_commit_seconds", MetricKind::Histogram, "seconds", help)
        .histogram(&[], &writer.commits);
    let waiting = shared.commands.waiting();
    out.one("weir_writer_commands_waiting", Gauge, "", "Queued commands.", &[], waiting);
}

#[rustfmt::skip]
fn write_backups(shared: &Shared, out: &mut Exposition) {
    let backups = &shared.workers.backups;
    out.one("weir_backups_running", Gauge, "", "Backups being sent.", &[], backups.running());
    let help = "Backups sent to their end.";
    out.one("weir_backups_completed", Counter, "", help, &[], backups.completed());
    let help = "Backups refused because too many were being sent.";
    out.one("weir_backups_refused", Counter, "", help, &[], backups.refused());
}

/// The size of the store on disk.
pub fn store_bytes(shared: &Shared) -> Option<u64> {
    let file = shared.identity.data_dir.join(weir_storage::FILE_NAME);
    Some(std::fs::metadata(file).ok()?.len())
}

#[rustfmt::skip]
fn write_store(shared: &Shared, state: &State, out: &mut Exposition) {
    let writable = u64::from(shared.published.is_writable());
    out.one("weir_store_writable", Gauge, "", "1 if the store takes writes.", &[], writable);
    let safe = u64::from(shared.published.safe_mode().is_some());
    let help = "1 in safe mode, after failed starts.";
    out.one("weir_store_safe_mode", Gauge, "", help, &[], safe);
    let short = u64::from(shared.published.is_short_of_space());
    let help = "1 while the disk is full and saves are refused.";
    out.one("weir_store_short_of_space", Gauge, "", help, &[], short);
    let reopens = shared.published.metrics().reopen_failures();
    let help = "Failed attempts to open the store after a failure.";
    out.one("weir_store_reopen_failures", Counter, "", help, &[], reopens);
    out.family("weir_store_bytes", Gauge, "bytes", "Size of the store on disk.")
        .known(&[], store_bytes(shared));
    out.one("weir_revision", Gauge, "", "Published revision.", &[], state.revision());
    let applied = shared.published.applied_revision();
    let help = "Revision that the tables of the store have; later ones are in its log.";
    out.one("weir_store_applied_revision", Gauge, "", help, &[], applied);
    let mut entities = out.family("weir_entities", Gauge, "", "Stored entities by kind.");
    entities.sample(&[("kind", "stream")], state.streams_count());
    entities.sample(&[("kind", "streamer")], state.streamers().len());
    for kind in KINDS {
        let count = state.entities(kind).by_key().len();
        entities.sample(&[("kind", crate::writer::entity_table(kind).0)], count);
    }
    out.one("weir_events", Gauge, "", "Events in the log.", &[], state.events_count());
    let bytes = state.events_bytes();
    out.one("weir_events_bytes", Gauge, "bytes", "Size of the event log.", &[], bytes);
}
