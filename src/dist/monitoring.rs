//! What watches this server: a Grafana dashboard and alert rules of Prometheus over its metrics.
//!
//! Both are made from tables, and a test compares every expression with the metrics that a running
//! server shows.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// A graph: title, unit of Grafana, and expressions with their legends.
type Panel = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const PANELS: &[Panel] = &[
    (
        "Streams by health",
        "short",
        &[
            ("sum(stream_operational_count)", "operational"),
            ("sum(stream_degradated_count)", "degraded"),
            ("sum(stream_partial_outage_count)", "partial outage"),
            ("sum(stream_outage_count)", "outage"),
            ("sum(stream_disabled_count)", "disabled"),
        ],
    ),
    (
        "Streamers by health",
        "short",
        &[
            ("sum(streamer_operational_count)", "operational"),
            ("sum(streamer_degradated_count)", "degraded"),
            ("sum(streamer_partial_outage_count)", "partial outage"),
            ("sum(streamer_outage_count)", "outage"),
        ],
    ),
    (
        "Traffic",
        "bps",
        &[
            ("sum(streamer_inbound_kbit_total) * 1000", "in"),
            ("sum(streamer_outbound_kbit_total) * 1000", "out"),
        ],
    ),
    (
        "Viewers",
        "short",
        &[("sum(server_total_clients)", "viewers")],
    ),
    (
        "Processors of streamers, the 10 highest",
        "percent",
        &[("topk(10, server_cpu_usage)", "{{hostname}}")],
    ),
    (
        "Slots without a place",
        "short",
        &[
            ("weir_layouter_slots_waiting", "without a node"),
            ("weir_layouter_layouts_waiting", "not written yet"),
            ("weir_layouter_handovers", "handed over"),
        ],
    ),
    (
        "Moves by reason",
        "ops",
        &[(
            "sum by (reason) (rate(weir_layouter_changes_total[5m]))",
            "{{reason}}",
        )],
    ),
    (
        "Why streams do not run",
        "short",
        &[("sum by (code) (weir_stream_errors) > 0", "{{code}}")],
    ),
    (
        "Requests",
        "reqps",
        &[(
            "sum by (class) (rate(weir_http_responses_total[1m]))",
            "{{class}}",
        )],
    ),
    (
        "Polls and connections",
        "short",
        &[
            ("weir_polls_parked", "parked polls"),
            ("weir_http_connections_open", "connections"),
        ],
    ),
    (
        "Commits",
        "s",
        &[
            (
                "histogram_quantile(0.5, \
                 sum by (le) (rate(weir_writer_commit_seconds_bucket[5m])))",
                "p50",
            ),
            (
                "histogram_quantile(0.99, \
                 sum by (le) (rate(weir_writer_commit_seconds_bucket[5m])))",
                "p99",
            ),
        ],
    ),
    (
        "Tasks that kept a core",
        "s",
        &[(
            "histogram_quantile(0.99, sum by (le) (rate(weir_core_stall_seconds_bucket[5m])))",
            "p99",
        )],
    ),
    (
        "Store",
        "bytes",
        &[
            ("weir_store_bytes", "store"),
            ("weir_events_bytes", "events"),
        ],
    ),
    (
        "Process",
        "bytes",
        &[("process_resident_memory_bytes", "memory")],
    ),
    (
        "Processor time",
        "percentunit",
        &[("rate(process_cpu_seconds_total[1m])", "cores")],
    ),
];

/// An alert: name, expression, how long it has to hold, severity, and what it means.
struct AlertRule {
    name: &'static str,
    expression: &'static str,
    lasting: &'static str,
    severity: &'static str,
    summary: &'static str,
}

const ALERTS: &[AlertRule] = &[
    AlertRule {
        name: "WeirDown",
        expression: "up{job=\"weir\"} == 0",
        lasting: "1m",
        severity: "critical",
        summary: "The server does not answer; streamers keep their last configuration",
    },
    AlertRule {
        name: "WeirStoreNotWritable",
        expression: "weir_store_writable == 0",
        lasting: "30s",
        severity: "critical",
        summary: "No save is accepted; see GET /monitoring/readiness",
    },
    AlertRule {
        name: "WeirSafeMode",
        expression: "weir_store_safe_mode == 1",
        lasting: "0m",
        severity: "critical",
        summary: "The server only reads, after failed starts",
    },
    AlertRule {
        name: "WeirDiskFull",
        expression: "weir_store_short_of_space == 1",
        lasting: "0m",
        severity: "critical",
        summary: "The disk is full and saves are refused",
    },
    AlertRule {
        name: "WeirWriteFailed",
        expression: "increase(weir_writer_failures_total[10m]) > 0",
        lasting: "0m",
        severity: "critical",
        summary: "The store could not write",
    },
    AlertRule {
        name: "WeirCommitsSlow",
        expression: "histogram_quantile(0.99, sum by (le) \
                     (rate(weir_writer_commit_seconds_bucket[5m]))) > 0.5",
        lasting: "10m",
        severity: "warning",
        summary: "Every hundredth commit takes more than half a second",
    },
    AlertRule {
        name: "WeirStreamersOut",
        expression: "sum(streamer_outage_count) > 0",
        lasting: "2m",
        severity: "warning",
        summary: "Streamers are out: {{ $value }}",
    },
    AlertRule {
        name: "WeirStreamsOut",
        expression: "sum(stream_outage_count) / clamp_min(sum(stream_total_count) - \
                     sum(stream_disabled_count), 1) > 0.02",
        lasting: "5m",
        severity: "warning",
        summary: "More than 2 % of the streams do not run",
    },
    AlertRule {
        name: "WeirNoPlace",
        expression: "weir_layouter_slots_waiting > 0",
        lasting: "5m",
        severity: "warning",
        summary: "No node can take {{ $value }} streams or copies; see GET /cluster/capacity",
    },
    AlertRule {
        name: "WeirLayouterPaused",
        expression: "weir_layouter_paused{what=\"all\"} > 0",
        lasting: "1h",
        severity: "warning",
        summary: "The layouter is paused: lost streams stay off the air; see GET /layouter",
    },
    AlertRule {
        name: "WeirLayouterFailed",
        expression: "increase(weir_layouter_restarts_total[10m]) > 0",
        lasting: "0m",
        severity: "warning",
        summary: "The layouter restarted after an error; the log has it",
    },
    AlertRule {
        name: "WeirRequestFailed",
        expression: "increase(weir_http_panics_total[10m]) > 0",
        lasting: "0m",
        severity: "warning",
        summary: "A request failed by an error of the server; the log has it",
    },
    AlertRule {
        name: "WeirStreamersSilent",
        expression: "weir_streamers_silent > 0",
        lasting: "5m",
        severity: "warning",
        summary: "Queried streamers do not answer: {{ $value }}",
    },
    AlertRule {
        name: "WeirConnectionsShed",
        expression: "rate(weir_http_connections_shed_total[5m]) > 0",
        lasting: "5m",
        severity: "warning",
        summary: "Connections are refused, because there are too many",
    },
];

/// Panels side by side, of the 24 columns that a dashboard has.
const COLUMNS: usize = 2;
const HEIGHT: usize = 8;

/// The dashboard, to be imported into Grafana, which lets the user choose the data source.
pub fn dashboard() -> String {
    let source = json!({"type": "prometheus", "uid": "${datasource}"});
    let width = 24 / COLUMNS;
    let panels = PANELS
        .iter()
        .enumerate()
        .map(|(at, (title, unit, queries))| {
            let targets = queries
                .iter()
                .zip('A'..)
                .map(|((expression, legend), name)| {
                    json!({"datasource": source, "expr": expression, "legendFormat": legend,
                   "refId": name.to_string()})
                });
            json!({
                "id": at + 1,
                "type": "timeseries",
                "title": title,
                "datasource": source,
                "gridPos": {"x": at % COLUMNS * width, "y": at / COLUMNS * HEIGHT,
                            "w": width, "h": HEIGHT},
                "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                "targets": targets.collect::<Vec<Value>>(),
            })
        });
    let dashboard = json!({
        "title": "Weir",
        "uid": "weir",
        "schemaVersion": 39,
        "editable": true,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "type": "datasource",
                                 "query": "prometheus", "label": "Data source"}]},
        "panels": panels.collect::<Vec<Value>>(),
    });
    format!("{dashboard:#}\n")
}

/// The rules, as a file of Prometheus.
pub fn alerts() -> String {
    let mut text = String::from("groups:\n  - name: weir\n    rules:\n");
    for alert in ALERTS {
        // A JSON string is a YAML string.
        let quoted = |text: &str| Value::from(text).to_string();
        let _ = write!(
            text,
            "      - alert: {}\n        expr: {}\n        for: {}\n        labels:\n          \
             severity: {}\n        annotations:\n          summary: {}\n",
            alert.name,
            quoted(alert.expression),
            alert.lasting,
            alert.severity,
            quoted(alert.summary)
        );
    }
    text
}
