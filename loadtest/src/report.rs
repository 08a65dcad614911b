//! What a run measured and proved: gathered, merged over threads, printed for people and for
//! programs.

use crate::copy::{FAULT_KINDS, FaultKind};
use crate::schedule::Nanos;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Latencies above this are recorded as this.
const LATENCY_MAX: Nanos = 600_000_000_000;
/// Faults beyond this many are counted, not described.
const FAULTS_SHOWN: usize = 20;

/// A latency distribution in nanoseconds.
#[derive(Clone)]
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Latency {
        Latency(Histogram::new_with_bounds(1, LATENCY_MAX, 3).expect("the bounds are right"))
    }
}

impl Latency {
    pub fn record(&mut self, nanos: Nanos) {
        self.0.saturating_record(nanos.max(1));
    }

    pub fn merge(&mut self, other: &Latency) {
        self.0
            .add(&other.0)
            .expect("all histograms have the same bounds");
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    pub fn quantile(&self, q: f64) -> Nanos {
        if self.0.is_empty() {
            0
        } else {
            self.0.value_at_quantile(q)
        }
    }

    fn figures(&self) -> LatencyFigures {
        let ms = |nanos: Nanos| nanos as f64 / 1e6;
        LatencyFigures {
            count: self.0.len(),
            mean_ms: self.0.mean() / 1e6,
            p50_ms: ms(self.quantile(0.5)),
            p90_ms: ms(self.quantile(0.9)),
            p99_ms: ms(self.quantile(0.99)),
            p999_ms: ms(self.quantile(0.999)),
            max_ms: if self.0.is_empty() {
                0.0
            } else {
                ms(self.0.max())
            },
        }
    }
}

/// Requests of one kind.
#[derive(Clone, Default)]
pub struct Series {
    /// From the intended time of sending until the whole answer was read.
    pub latency: Latency,
    /// From the intended until the actual time of sending: what the generator or its connections
    /// were late.
    pub late: Latency,
    pub statuses: BTreeMap<u16, u64>,
    pub bytes: u64,
    pub errors: BTreeMap<String, u64>,
}

impl Series {
    pub fn merge(&mut self, other: &Series) {
        self.latency.merge(&other.latency);
        self.late.merge(&other.late);
        self.bytes += other.bytes;
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
    }

    pub fn error(&mut self, what: impl Into<String>) {
        *self.errors.entry(what.into()).or_default() += 1;
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    pub kind: FaultKind,
    pub streamer: String,
    pub stream: Option<String>,
    pub what: String,
}

/// Faults found: all counted, the first ones described.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub counts: BTreeMap<FaultKind, u64>,
    pub shown: Vec<Fault>,
}

impl Faults {
    pub fn add(&mut self, fault: Fault) {
        *self.counts.entry(fault.kind).or_default() += 1;
        if self
            .shown
            .iter()
            .filter(|shown| shown.kind == fault.kind)
            .count()
            < FAULTS_SHOWN
        {
            self.shown.push(fault);
        }
    }

    pub fn merge(&mut self, other: Faults) {
        let described = other.shown.len();
        for (kind, count) in &other.counts {
            *self.counts.entry(*kind).or_default() += count;
        }
        for fault in other.shown.into_iter().take(described) {
            if self
                .shown
                .iter()
                .filter(|shown| shown.kind == fault.kind)
                .count()
                < FAULTS_SHOWN
            {
                self.shown.push(fault);
            }
        }
    }

    pub fn count(&self, kind: FaultKind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

/// What followed from the lines of one moment of a story. Times are milliseconds from it.
#[derive(Clone, Debug, Serialize)]
pub struct StoryIncident {
    pub text: String,
    pub streamers: u64,
    /// Streamers whose loss the server did not notice before the next moment.
    pub unnoticed: u64,
    /// When it noticed the last one.
    pub noticed_last_ms: Option<u64>,
    /// When every stream had a streamer that knew of it. `None`: not before the next moment.
    pub mended_ms: Option<u64>,
    /// Copies of streams on lost streamers: as many must move.
    pub lost: u64,
    /// Copies that came to streamers before the next moment.
    pub came: u64,
    pub missing_max: u64,
    pub doubled_max: u64,
}

/// A second of a story.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StorySample {
    #[serde(skip)]
    pub at: Nanos,
    pub seconds: u64,
    /// Copies of streams that no streamer has.
    pub missing: u64,
    /// Copies beyond those that shall be.
    pub doubled: u64,
    pub living: u64,
}

/// Everything about one run.
#[derive(Default)]
pub struct Report {
    pub scenario: String,
    pub seconds: f64,
    pub series: BTreeMap<String, Series>,
    /// Times from an edit to streamers' answers, by kind.
    pub wakes: BTreeMap<String, Latency>,
    pub counters: BTreeMap<String, u64>,
    pub faults: Faults,
    /// What the proof compared; none: the scenario has nothing to prove.
    pub proof: Option<Proof>,
    pub cpu_user: f64,
    pub cpu_system: f64,
    pub closed_loop: bool,
    pub incidents: Vec<StoryIncident>,
    pub timeline: Vec<StorySample>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Proof {
    pub streamers: u64,
    pub streams: u64,
    pub answers: u64,
    pub edits_acknowledged: u64,
    pub moves_acknowledged: u64,
}

#[derive(Serialize)]
struct LatencyFigures {
    count: u64,
    mean_ms: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
}

#[derive(Serialize)]
struct SeriesFigures<'a> {
    per_second: f64,
    bytes: u64,
    statuses: &'a BTreeMap<u16, u64>,
    errors: &'a BTreeMap<String, u64>,
    latency: LatencyFigures,
    late: LatencyFigures,
}

#[derive(Serialize)]
struct ReportFigures<'a> {
    scenario: &'a str,
    passed: bool,
    seconds: f64,
    latency_from: &'static str,
    series: BTreeMap<&'a str, SeriesFigures<'a>>,
    wakes: BTreeMap<&'a str, LatencyFigures>,
    counters: &'a BTreeMap<String, u64>,
    proof: Option<Proof>,
    faults: BTreeMap<FaultKind, u64>,
    fault_examples: &'a [Fault],
    client_cpu_user_seconds: f64,
    client_cpu_system_seconds: f64,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    incidents: &'a [StoryIncident],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    timeline: &'a [StorySample],
}

impl Report {
    pub fn errors(&self) -> u64 {
        self.series
            .values()
            .flat_map(|series| series.errors.values())
            .sum()
    }

    pub fn json(&self, passed: bool) -> String {
        let figures = ReportFigures {
            scenario: &self.scenario,
            passed,
            seconds: self.seconds,
            latency_from: if self.closed_loop {
                "time of sending (closed loop)"
            } else {
                "intended time of sending"
            },
            series: self
                .series
                .iter()
                .map(|(name, series)| {
                    let figures = SeriesFigures {
                        per_second: series.latency.count() as f64 / self.seconds.max(1e-9),
                        bytes: series.bytes,
                        statuses: &series.statuses,
                        errors: &series.errors,
                        latency: series.latency.figures(),
                        late: series.late.figures(),
                    };
                    (name.as_str(), figures)
                })
                .collect(),
            wakes: self
                .wakes
                .iter()
                .map(|(name, wake)| (name.as_str(), wake.figures()))
                .collect(),
            counters: &self.counters,
            proof: self.proof,
            faults: FAULT_KINDS
                .iter()
                .map(|kind| (*kind, self.faults.count(*kind)))
                .collect(),
            fault_examples: &self.faults.shown,
            client_cpu_user_seconds: self.cpu_user,
            client_cpu_system_seconds: self.cpu_system,
            incidents: &self.incidents,
            timeline: &self.timeline,
        };
        serde_json::to_string_pretty(&figures).expect("figures are plain")
    }

    pub fn text(&self, passed: bool) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "{} for {:.1} s", self.scenario, self.seconds);
        self.write_latencies(&mut out);
        self.write_story(&mut out);
        self.write_totals(&mut out);
        self.write_proof(&mut out);
        let _ = writeln!(out, "  {}", if passed { "PASSED" } else { "FAILED" });
        out
    }

    /// One row per series and kind of wake-up, in milliseconds.
    fn write_latencies(&self, out: &mut String) {
        if !self.series.is_empty() || !self.wakes.is_empty() {
            let _ = writeln!(
                out,
                "\n  {:<44}{:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
                "milliseconds", "per s", "p50", "p90", "p99", "p99.9", "max"
            );
        }
        let mut row = |name: &str, latency: &Latency| {
            if latency.count() == 0 {
                return;
            }
            let figures = latency.figures();
            let _ = writeln!(
                out,
                "  {name:<44}{:>9.0} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>9.3}",
                figures.count as f64 / self.seconds.max(1e-9),
                figures.p50_ms,
                figures.p90_ms,
                figures.p99_ms,
                figures.p999_ms,
                figures.max_ms
            );
        };
        for (name, series) in &self.series {
            row(name, &series.latency);
            row(&format!("  {name}: sent late by"), &series.late);
        }
        for (name, wake) in &self.wakes {
            row(name, wake);
        }
        if self.closed_loop {
            let _ = writeln!(
                out,
                "  closed loop: latencies are from sending, not corrected for coordinated omission"
            );
        }
    }

    /// One row per moment of a story, and the seconds in which something was missing or doubled.
    fn write_story(&self, out: &mut String) {
        if self.incidents.is_empty() {
            return;
        }
        let _ = writeln!(
            out,
            "\n  {:<34}{:>9} {:>11} {:>10} {:>8} {:>8} {:>9} {:>9}",
            "lines of the story",
            "streamers",
            "noticed ms",
            "mended ms",
            "lost",
            "came",
            "missing",
            "doubled"
        );
        let or_dash = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
        for one in &self.incidents {
            let noticed = match one.unnoticed {
                0 => or_dash(one.noticed_last_ms),
                count => format!("not {count}"),
            };
            let _ = writeln!(
                out,
                "  {:<34}{:>9} {noticed:>11} {:>10} {:>8} {:>8} {:>9} {:>9}",
                one.text,
                one.streamers,
                or_dash(one.mended_ms),
                one.lost,
                one.came,
                one.missing_max,
                one.doubled_max
            );
        }
        let busy = self.timeline.iter();
        let busy = busy.filter(|sample| sample.missing > 0 || sample.doubled > 0);
        for sample in busy {
            let _ = writeln!(
                out,
                "  second {:>4}: {} missing, {} doubled, {} streamers live",
                sample.seconds, sample.missing, sample.doubled, sample.living
            );
        }
    }

    /// Statuses, bytes, errors, counters and the CPU time of this client.
    fn write_totals(&self, out: &mut String) {
        let _ = writeln!(out);
        for (name, series) in &self.series {
            let statuses: Vec<String> = series
                .statuses
                .iter()
                .map(|(s, n)| format!("{s}: {n}"))
                .collect();
            let _ = writeln!(
                out,
                "  {name}: {}; {}",
                statuses.join(", "),
                bytes_text(series.bytes)
            );
            for (error, count) in &series.errors {
                let _ = writeln!(out, "  {name}: ERROR {error}: {count}");
            }
        }
        for (name, count) in &self.counters {
            let _ = writeln!(out, "  {name}: {count}");
        }
        let wall = self.seconds.max(1e-9);
        let _ = writeln!(
            out,
            "  CPU of this client: {:.0} % of a core ({:.2} s user, {:.2} s system)",
            (self.cpu_user + self.cpu_system) / wall * 100.0,
            self.cpu_user,
            self.cpu_system
        );
    }

    /// What was proven, and examples of faults.
    fn write_proof(&self, out: &mut String) {
        if let Some(proof) = &self.proof {
            let _ = writeln!(
                out,
                "\n  proof: {} streamers, {} streams in their copies, {} answers, {} edits and {} \
                 moves acknowledged",
                proof.streamers,
                proof.streams,
                proof.answers,
                proof.edits_acknowledged,
                proof.moves_acknowledged
            );
            let count = |kind: &FaultKind| {
                let name = format!("{kind:?}").to_lowercase();
                format!("{} {name}", self.faults.count(*kind))
            };
            let counts: Vec<String> = FAULT_KINDS.iter().map(count).collect();
            let _ = writeln!(out, "  {}", counts.join(", "));
        }
        for fault in &self.faults.shown {
            let kind = format!("{:?}", fault.kind).to_uppercase();
            let stream = fault.stream.as_deref().unwrap_or("(whole answer)");
            let _ = writeln!(
                out,
                "  {kind} streamer {} stream {stream}: {}",
                fault.streamer, fault.what
            );
        }
    }
}

fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
