//! Metrics in the OpenMetrics 1.0 text format, and the metrics of this process.
//!
//! There is no registry. Each component owns its counters, without sharing cache lines; they are
//! summed when the metrics are read. The format is guaranteed: each family once, its metadata
//! before its samples, escaped texts, and the end mark.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The media type of the format.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The type of a metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Goes up and down.
    Gauge,
    /// Only grows. Its samples end in `_total`, which is not part of the family's name.
    Counter,
    /// Carries its information in labels; the value is 1. Its sample ends in `_info`.
    Info,
    Histogram,
}

impl MetricKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Info => "info",
            Self::Histogram => "histogram",
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Info => "_info",
            Self::Gauge | Self::Histogram => "",
        }
    }
}

/// A metrics text being written.
#[derive(Clone, Default)]
pub struct Exposition {
    out: String,
    families: BTreeSet<&'static str>,
}

/// The family whose samples are being written.
pub struct Family<'e> {
    out: &'e mut String,
    name: &'static str,
    kind: MetricKind,
}

pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Exposition {
    /// Begins a family. `unit` is the suffix of the name, or empty.
    pub fn family(
        &mut self,
        name: &'static str,
        kind: MetricKind,
        unit: &str,
        help: &str,
    ) -> Family<'_> {
        assert!(
            self.families.insert(name),
            "{name} must be written only once"
        );
        assert!(
            unit.is_empty() || name.strip_suffix(unit).is_some_and(|it| it.ends_with('_')),
            "{name} must end with its unit"
        );
        _ = writeln!(self.out, "# TYPE {name} {}", kind.as_str());
        if !unit.is_empty() {
            _ = writeln!(self.out, "# UNIT {name} {unit}");
        }
        self.out.push_str("# HELP ");
        self.out.push_str(name);
        self.out.push(' ');
        escape(help, &mut self.out);
        self.out.push('\n');
        Family {
            out: &mut self.out,
            name,
            kind,
        }
    }

    /// Writes a family with one sample.
    pub fn one(
        &mut self,
        name: &'static str,
        kind: MetricKind,
        unit: &str,
        help: &str,
        labels: Labels<'_>,
        value: impl Into<MetricValue>,
    ) {
        self.family(name, kind, unit, help).sample(labels, value);
    }

    pub fn finish(mut self) -> String {
        self.out.push_str("# EOF\n");
        self.out
    }
}

/// The value of a sample.
#[derive(Debug, Clone, Copy)]
pub enum MetricValue {
    Whole(u64),
    Fraction(f64),
}

impl From<u64> for MetricValue {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for MetricValue {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<f64> for MetricValue {
    fn from(value: f64) -> Self {
        Self::Fraction(value)
    }
}

impl From<Duration> for MetricValue {
    fn from(value: Duration) -> Self {
        Self::Fraction(value.as_secs_f64())
    }
}

impl std::fmt::Display for MetricValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(value) => write!(f, "{value}"),
            Self::Fraction(value) => write!(f, "{value}"),
        }
    }
}

impl Family<'_> {
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Into<MetricValue>) -> &mut Self {
        self.line(self.kind.suffix(), labels, None, value.into());
        self
    }

    /// Writes a sample if its value is known.
    pub fn known(
        &mut self,
        labels: Labels<'_>,
        value: Option<impl Into<MetricValue>>,
    ) -> &mut Self {
        if let Some(value) = value {
            self.sample(labels, value);
        }
        self
    }

    /// Writes all samples of a histogram.
    pub fn histogram(&mut self, labels: Labels<'_>, histogram: &Histogram) -> &mut Self {
        let mut count = 0;
        for (bound, bucket) in BUCKETS_SECONDS.iter().zip(&histogram.buckets) {
            count += bucket.load(Ordering::Relaxed);
            self.line("_bucket", labels, Some(&bound.to_string()), count.into());
        }
        count += histogram.buckets[BUCKETS_SECONDS.len()].load(Ordering::Relaxed);
        self.line("_bucket", labels, Some("+Inf"), count.into());
        self.line("_count", labels, None, count.into());
        let sum = Duration::from_nanos(histogram.sum_ns.load(Ordering::Relaxed));
        self.line("_sum", labels, None, sum.into());
        self
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: MetricValue) {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        let le = le.map(|bound| ("le", bound));
        let mut begun = false;
        for (name, text) in labels.iter().copied().chain(le) {
            self.out.push(if begun { ',' } else { '{' });
            begun = true;
            _ = write!(self.out, "{name}=\"");
            escape(text, self.out);
            self.out.push('"');
        }
        if begun {
            self.out.push('}');
        }
        _ = writeln!(self.out, " {value}");
    }
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            // The format has no escape for these, and some parsers split lines at them.
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}

/// Upper bounds of the buckets of durations, seconds: a commit takes 0.5 ms on a good disk and
/// seconds on a failing one.
const BUCKETS_SECONDS: [f64; 12] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
];

/// A histogram of durations. Written by one thread, read by any.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_SECONDS.len() + 1],
    sum_ns: AtomicU64,
    longest_ns: AtomicU64,
}

impl Histogram {
    pub fn count(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS_SECONDS.iter().take_while(|it| seconds > **it);
        add(&self.buckets[bucket.count()], 1);
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        add(&self.sum_ns, ns);
        if ns > self.longest_ns.load(Ordering::Relaxed) {
            self.longest_ns.store(ns, Ordering::Relaxed);
        }
    }

    /// Durations by bucket.
    pub fn counts(&self) -> DurationCounts {
        self.buckets.each_ref().map(|it| it.load(Ordering::Relaxed))
    }

    /// The longest duration that was counted.
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest_ns.load(Ordering::Relaxed))
    }
}

/// Numbers of durations by bucket of a [`Histogram`].
pub type DurationCounts = [u64; BUCKETS_SECONDS.len() + 1];

/// A duration that this part of them, in percent, does not exceed: the upper bound of a bucket, or
/// `longest`. `None` without any.
pub fn percentile(counts: &DurationCounts, percent: u64, longest: Duration) -> Option<Duration> {
    let total: u64 = counts.iter().sum();
    let wanted = (total * percent).div_ceil(100);
    let mut seen = 0;
    let bucket = counts.iter().position(|count| {
        seen += count;
        total > 0 && seen >= wanted
    })?;
    let bound = BUCKETS_SECONDS.get(bucket);
    Some(bound.map_or(longest, |bound| Duration::from_secs_f64(*bound)))
}

/// Adds to a counter with a single writer, which is cheaper than an atomic addition.
pub fn add(counter: &AtomicU64, by: u64) {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(by);
    counter.store(sum, Ordering::Relaxed);
}

/// The metrics of this process, read from the kernel.
#[derive(Debug, Default, Clone, Copy)]
pub struct ProcessMetrics {
    pub cpu: Option<Duration>,
    pub resident_bytes: Option<u64>,
    pub virtual_bytes: Option<u64>,
    pub threads: Option<u64>,
    pub open_files: Option<u64>,
}

impl ProcessMetrics {
    pub fn read() -> Self {
        let mut process = Self {
            open_files: open_files(),
            ..Self::default()
        };
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            let field = |name: &str| -> Option<u64> {
                let line = status.lines().find_map(|line| line.strip_prefix(name))?;
                line.split_whitespace().next()?.parse().ok()
            };
            process.resident_bytes = field("VmRSS:").map(|kib| kib * 1024);
            process.virtual_bytes = field("VmSize:").map(|kib| kib * 1024);
            process.threads = field("Threads:");
        }
        if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
            process.cpu = cpu_time(&stat);
        }
        process
    }

    pub fn write(&self, out: &mut Exposition) {
        let gauge = MetricKind::Gauge;
        out.family(
            "process_cpu_seconds",
            MetricKind::Counter,
            "seconds",
            "CPU time used by the process.",
        )
        .known(&[], self.cpu);
        out.family(
            "process_resident_memory_bytes",
            gauge,
            "bytes",
            "Resident memory of the process.",
        )
        .known(&[], self.resident_bytes);
        out.family(
            "process_virtual_memory_bytes",
            gauge,
            "bytes",
            "Address space of the process.",
        )
        .known(&[], self.virtual_bytes);
        out.family(
            "process_open_fds",
            gauge,
            "",
            "Open file descriptors of the process.",
        )
        .known(&[], self.open_files);
        out.family("process_threads", gauge, "", "Threads of the process.")
            .known(&[], self.threads);
    }
}

/// The number of open files: since Linux 6.2 the size of the directory. Counting its entries would
/// be slow with many connections.
fn open_files() -> Option<u64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    (size > 0).then_some(size)
}

/// The CPU time in a `stat` line. The program name, in parentheses, may contain anything, so fields
/// are counted after it.
fn cpu_time(stat: &str) -> Option<Duration> {
    // `USER_HZ`, part of the kernel's interface and the same on all supported machines.
    const TICKS_PER_SECOND: u64 = 100;
    let rest = stat.rsplit_once(')')?.1;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks = user + system;
    Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_follows_openmetrics() {
        let mut out = Exposition::default();
        out.family("a_bytes", MetricKind::Gauge, "bytes", "Is \"so\"\\.")
            .sample(&[], 5_u64)
            .sample(&[("name", "x\"y\\z\nw\r")], 0.5);
        out.one("b", MetricKind::Counter, "", "B.", &[("k", "v")], 7_u64);
        out.one("c", MetricKind::Info, "", "C.", &[("v", "1")], 1_u64);
        assert_eq!(
            out.finish(),
            "# TYPE a_bytes gauge\n# UNIT a_bytes bytes\n# HELP a_bytes Is \\\"so\\\"\\\\.\n\
             a_bytes 5\na_bytes{name=\"x\\\"y\\\\z\\nw\u{fffd}\"} 0.5\n\
             # TYPE b counter\n# HELP b B.\nb_total{k=\"v\"} 7\n\
             # TYPE c info\n# HELP c C.\nc_info{v=\"1\"} 1\n# EOF\n"
        );
    }

    #[test]
    fn buckets_are_cumulative() {
        let histogram = Histogram::default();
        for us in [100, 250, 300, 4_000, 10_000_000] {
            histogram.count(Duration::from_micros(us));
        }
        let mut out = Exposition::default();
        out.family("t_seconds", MetricKind::Histogram, "seconds", "T.")
            .histogram(&[], &histogram);
        let text = out.finish();
        for line in [
            "t_seconds_bucket{le=\"0.00025\"} 2\n",
            "t_seconds_bucket{le=\"0.0005\"} 3\n",
            "t_seconds_bucket{le=\"0.0025\"} 3\n",
            "t_seconds_bucket{le=\"0.005\"} 4\n",
            "t_seconds_bucket{le=\"5\"} 4\n",
            "t_seconds_bucket{le=\"+Inf\"} 5\n",
            "t_seconds_count 5\n",
            "t_seconds_sum 10.00465\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn percentile_is_the_bound_of_its_bucket() {
        let histogram = Histogram::default();
        let longest = Duration::from_secs(9);
        let of = |histogram: &Histogram, percent| {
            percentile(&histogram.counts(), percent, histogram.longest())
        };
        assert_eq!(of(&histogram, 99), None);
        for _ in 0..98 {
            histogram.count(Duration::from_micros(300));
        }
        histogram.count(Duration::from_millis(20));
        assert_eq!(of(&histogram, 50), Some(Duration::from_micros(500)));
        assert_eq!(of(&histogram, 99), Some(Duration::from_millis(25)));
        histogram.count(longest);
        assert_eq!(of(&histogram, 99), Some(Duration::from_millis(25)));
        assert_eq!(of(&histogram, 100), Some(longest));
    }

    #[test]
    fn process_metrics_are_read_from_proc() {
        let process = ProcessMetrics::read();
        assert!(process.resident_bytes > Some(1 << 20) && process.threads > Some(0));
        assert!(process.cpu.is_some());
        let line = "1 (a) b) S 1 1 1 0 -1 4194304 9 0 0 0 150 51 0 0 20 0 9 0 5";
        assert_eq!(cpu_time(line), Some(Duration::from_millis(2010)));
    }
}
