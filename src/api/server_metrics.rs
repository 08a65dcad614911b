//! The server's own metrics; their names begin with `weir_`.
//!
//! Every core counts for itself, and its counters are added here. The writer's are read where they
//! stand.

use super::shared::Shared;
use crate::core::metrics::CoreMetrics;
use crate::metrics::{Exposition, MetricKind, ProcessMetrics};
use crate::state::State;
use crate::state::entity::KINDS;

/// The exposition that begins with `text`.
pub fn render(text: Exposition, cores: &[CoreMetrics], shared: &Shared, state: &State) -> String {
    let mut out = text;
    write_edge(cores, &mut out);
    write_store(shared, state, &mut out);
    shared.layouter_metrics.write_metrics(&mut out);
    ProcessMetrics::read().write(&mut out);
    out.finish()
}

fn write_edge(cores: &[CoreMetrics], out: &mut Exposition) {
    let sum = |of: fn(&CoreMetrics) -> u64| cores.iter().map(of).sum::<u64>();
    let (counter, gauge) = (MetricKind::Counter, MetricKind::Gauge);
    let mut answers = out.family(
        "weir_http_responses",
        counter,
        "",
        "Answers to requests, by class of their status.",
    );
    for (i, class) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().enumerate() {
        let all = cores.iter().map(|core| core.answers[i]).sum::<u64>();
        answers.sample(&[("class", class)], all);
    }
    type Count = fn(&CoreMetrics) -> u64;
    let numbers: [(&'static str, MetricKind, &str, &str, Count); 15] = [
        (
            "weir_http_requests",
            counter,
            "",
            "Requests that were read.",
            |it| it.http.requests,
        ),
        (
            "weir_http_refused",
            counter,
            "",
            "Requests that were refused for their form.",
            |it| it.http.refused,
        ),
        (
            "weir_http_too_slow",
            counter,
            "",
            "Connections ended because a request took too long to arrive.",
            |it| it.http.too_slow,
        ),
        (
            "weir_http_stalled",
            counter,
            "",
            "Connections ended because their answers were not taken.",
            |it| it.http.stalled,
        ),
        (
            "weir_http_abandoned",
            counter,
            "",
            "Waiting requests whose clients left.",
            |it| it.http.abandoned,
        ),
        (
            "weir_http_panics",
            counter,
            "",
            "Requests that the server failed on.",
            |it| it.http.panics,
        ),
        (
            "weir_http_received_bytes",
            counter,
            "bytes",
            "Bytes received.",
            |it| it.http.bytes_in,
        ),
        (
            "weir_http_sent_bytes",
            counter,
            "bytes",
            "Bytes sent.",
            |it| it.http.bytes_out,
        ),
        (
            "weir_http_connections_accepted",
            counter,
            "",
            "Connections accepted.",
            |it| it.http.accepted,
        ),
        (
            "weir_http_connections_shed",
            counter,
            "",
            "Connections closed at once because there were too many.",
            |it| it.http.shed,
        ),
        (
            "weir_http_connections_open",
            gauge,
            "",
            "Connections that are open.",
            |it| it.http.open,
        ),
        (
            "weir_http_connections_upgraded",
            counter,
            "",
            "Connections that were turned into lines.",
            |it| it.http.upgraded,
        ),
        (
            "weir_http_lines_received",
            counter,
            "",
            "Lines received on such connections.",
            |it| it.http.lines_in,
        ),
        (
            "weir_http_requests_waiting",
            gauge,
            "",
            "Requests that wait for their answer, polls included.",
            |it| it.http.waiting,
        ),
        (
            "weir_polls_parked",
            gauge,
            "",
            "Polls that wait for something to change.",
            |it| it.parked,
        ),
    ];
    for (name, kind, unit, help, of) in numbers {
        out.one(name, kind, unit, help, &[], sum(of));
    }
}

fn write_store(shared: &Shared, state: &State, out: &mut Exposition) {
    let (counter, gauge) = (MetricKind::Counter, MetricKind::Gauge);
    out.one(
        "weir_build",
        MetricKind::Info,
        "",
        "The program.",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1_u64,
    );
    let uptime = super::now_seconds().saturating_sub(shared.started_at_seconds);
    out.one(
        "weir_uptime_seconds",
        gauge,
        "seconds",
        "Time since the start.",
        &[],
        uptime,
    );
    let writer = shared.published.metrics();
    out.one(
        "weir_writer_batches",
        counter,
        "",
        "Groups of changes that were made durable together.",
        &[],
        writer.batches(),
    );
    out.one(
        "weir_writer_commands",
        counter,
        "",
        "Changes that were asked for.",
        &[],
        writer.commands(),
    );
    out.one(
        "weir_writer_commands_refused",
        counter,
        "",
        "Changes that were refused by what is stored.",
        &[],
        writer.refused(),
    );
    out.one(
        "weir_writer_failures",
        counter,
        "",
        "Groups of changes that the store failed on.",
        &[],
        writer.failures(),
    );
    out.family(
        "weir_writer_commit_seconds",
        MetricKind::Histogram,
        "seconds",
        "Time to apply a group of changes and make it durable.",
    )
    .histogram(&[], &writer.commits);
    out.one(
        "weir_writer_commands_waiting",
        gauge,
        "",
        "Changes that wait for the writer.",
        &[],
        shared.commands.waiting(),
    );
    out.one(
        "weir_store_writable",
        gauge,
        "",
        "1 when the store takes writes.",
        &[],
        u64::from(shared.published.is_writable()),
    );
    let size = std::fs::metadata(shared.data_dir.join(weir_storage::FILE_NAME));
    out.family(
        "weir_store_bytes",
        gauge,
        "bytes",
        "Size of the store on disk.",
    )
    .known(&[], size.ok().map(|metadata| metadata.len()));
    out.one(
        "weir_revision",
        gauge,
        "",
        "Number of the last change that is served.",
        &[],
        state.revision(),
    );
    let mut entities = out.family("weir_entities", gauge, "", "What is stored, by kind.");
    entities.sample(&[("kind", "stream")], state.streams_count());
    entities.sample(&[("kind", "streamer")], state.streamers().len());
    for kind in KINDS {
        let count = state.entities(kind).by_key().len();
        entities.sample(&[("kind", crate::writer::entity_table(kind).0)], count);
    }
    out.one(
        "weir_events",
        gauge,
        "",
        "Events in the log.",
        &[],
        state.events_count(),
    );
    out.one(
        "weir_events_bytes",
        gauge,
        "bytes",
        "Size of the event log.",
        &[],
        state.events_bytes(),
    );
}
