//! The thread that counts the cluster, and the summary that is made of a count.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::capacity::{self, CapacityLookup};
use super::cluster_counts::{ClusterCounts, CountsForm, CountsWaiter};
use super::cluster_scan::{ClusterScan, NodeEntry, STREAMS_COUNTED_MIN};
use super::cluster_summary::{AttentionLine, ClusterSummary, SummaryCapacity};
use super::config_document::source_kind;
use super::server_metrics::store_bytes;
use super::shared::Shared;
use super::shared_result::Computed;
use crate::core::message::{CoreMessage, Reply};
use crate::core::metrics::PollCounts;
use crate::error::ApiError;
use crate::feed::nodes::CountedStreams;
use crate::fleet::health::{Counts, HEALTHS, Health, STATE_CODES};
use crate::http::Coding;
use crate::json::{self, Number, Object, Value};
use crate::metrics::{DurationCounts, percentile};
use crate::rt::sys::thread_time;
use crate::rt::utc_ms_of;
use crate::state::State;

/// Streams that are counted before the time of the reports is read again.
const SCANNED_IN_A_ROW: usize = 1024;
/// The thread rests for this multiple of each count's cost if callers wait for the next one.
const REST_COSTS: u32 = 4;
const REST_MAX: Duration = Duration::from_millis(40);
/// How often the thread looks whether the counts of a large cluster are due.
const RENEWAL_PAUSE: Duration = Duration::from_secs(1);

/// Longest waits of a summary for the cores, for the first capacity, and for a newer one.
const CORES_WAIT_MAX: Duration = Duration::from_millis(100);
const FIRST_CAPACITY_WAIT_MAX: Duration = Duration::from_secs(1);
const CAPACITY_WAIT_MAX: Duration = Duration::from_millis(100);

/// How long facets are counted after they were wanted: otherwise callers of facets and others would
/// each need counts of their own, one after the other.
const FACETS_COUNTED_FOR: Duration = Duration::from_mins(1);

/// Rendered with each count of a large cluster, so that callers need not wait for a count that has
/// begun.
const FORMS_OF_LARGE: [CountsForm; 5] = [
    CountsForm::Json(None),
    CountsForm::Json(Some(Coding::Gzip)),
    CountsForm::Json(Some(Coding::Zstd)),
    CountsForm::Metrics,
    CountsForm::Summary,
];

/// Rates are averages of about this time.
const RATE_OVER: Duration = Duration::from_secs(10);
/// Least time between two samples of the counters behind rates.
const SAMPLE_PAUSE: Duration = Duration::from_secs(1);

/// Counts the cluster whenever that is requested, and from time to time if it is large, until the
/// process ends.
pub fn run(shared: &Arc<Shared>) {
    let worker = &shared.workers.cluster_counts;
    let mut summarizer = Summarizer::new(shared.clone());
    loop {
        match worker.started.recv_timeout(RENEWAL_PAUSE) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => {
                if !renew_without_callers(shared) {
                    continue;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
        loop {
            let cost = summarizer.serve();
            if !worker.counts.end() {
                break;
            }
            thread::sleep((cost * REST_COSTS).min(REST_MAX));
        }
    }
}

/// Begins a new capacity report of a large cluster if it is time. Returns whether the cluster must
/// be counted, too.
fn renew_without_callers(shared: &Arc<Shared>) -> bool {
    if shared.published.state().load().streams_count() < STREAMS_COUNTED_MIN {
        return false;
    }
    let now = Instant::now();
    if is_layouter_enabled(shared) {
        capacity::renew(shared, now);
    }
    shared.workers.cluster_counts.counts.renew_by_itself(now).0
}

fn is_layouter_enabled(shared: &Shared) -> bool {
    shared.settings.running.config().settings.layouter.enabled
}

/// What is counted or rendered; a panic fails these requests, not the server.
fn caught(
    run: impl FnOnce() -> Arc<Computed<ClusterCounts>>,
) -> Result<Arc<Computed<ClusterCounts>>, ApiError> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| ApiError::internal("cluster-counts"))
}

/// Sends counts to all callers that wait.
fn answer(
    waiting: &mut Vec<CountsWaiter>,
    counted: &Result<Arc<Computed<ClusterCounts>>, ApiError>,
) {
    for waiter in waiting.drain(..) {
        waiter.completion.send(match counted {
            Ok(counted) => Reply::Finished(Box::new(counted.clone())),
            Err(error) => Reply::Body(Err(error.clone())),
        });
    }
}

/// Counters that only grow, at one moment.
struct CounterSample {
    at: Instant,
    polls: u64,
    commits: DurationCounts,
}

/// Counts, and keeps what rates are computed from.
struct Summarizer {
    shared: Arc<Shared>,
    /// The last counts of each core.
    polls: Vec<PollCounts>,
    /// The oldest first.
    samples: VecDeque<CounterSample>,
    /// When a caller last wanted facets.
    facets_wanted: Option<Instant>,
}

impl Summarizer {
    fn new(shared: Arc<Shared>) -> Self {
        let start = CounterSample {
            at: Instant::now(),
            polls: 0,
            commits: DurationCounts::default(),
        };
        Self {
            polls: vec![PollCounts::default(); shared.cores.len()],
            samples: VecDeque::from([start]),
            facets_wanted: None,
            shared,
        }
    }

    /// Answers the callers that wait, from the last counts if they will do, and counts the cluster
    /// if it is time. Returns the processor time of a count.
    fn serve(&mut self) -> Duration {
        let shared = self.shared.clone();
        let counts = &shared.workers.cluster_counts.counts;
        let now = Instant::now();
        let is_current = counts.begin(now).is_some();
        let mut waiting = counts.served();
        let forms: Vec<CountsForm> = waiting.iter().map(|waiter| waiter.form).collect();
        let wants_facets = self.wants_facets(&forms);
        let has_all = |last: &Arc<Computed<ClusterCounts>>| {
            let has_facets = last.value.has(CountsForm::Facets);
            has_facets || !forms.contains(&CountsForm::Facets)
        };
        if let Some(last) = counts.usable(now).filter(has_all) {
            let rendered = caught(|| {
                self.render(&last.value, &forms);
                last.clone()
            });
            answer(&mut waiting, &rendered);
            if is_current {
                return Duration::ZERO;
            }
        }
        let forms: Vec<CountsForm> = waiting.iter().map(|waiter| waiter.form).collect();
        let counted = caught(|| self.count(&forms, wants_facets));
        answer(&mut waiting, &counted);
        counted.map_or(Duration::ZERO, |it| it.cost)
    }

    fn render(&mut self, counts: &ClusterCounts, forms: &[CountsForm]) {
        let shared = self.shared.clone();
        let state = shared.published.state().load_full();
        for form in forms {
            let summarize = || self.summarize(&counts.scan, &state);
            counts.render(*form, &shared.identity.server_id, summarize);
        }
    }

    /// Counts the cluster, and renders forms.
    fn count(&mut self, forms: &[CountsForm], wants_facets: bool) -> Arc<Computed<ClusterCounts>> {
        let shared = self.shared.clone();
        let state = shared.published.state().load_full();
        let (began, used) = (Instant::now(), thread_time());
        let (fleet, presence) = (shared.fleet.view(began), &shared.agents.presence);
        let is_large = state.streams_count() >= STREAMS_COUNTED_MIN;
        let with_facets = wants_facets || is_large;
        let mut scan =
            ClusterScan::new(&state, fleet, presence, super::now_ms()).with_facets(with_facets);
        while !scan.step(&state, shared.fleet.view(Instant::now()), SCANNED_IN_A_ROW) {}
        for node in &scan.nodes {
            if let Some(runtime) = shared.nodes.find(&node.hostname) {
                runtime.set_counted(CountedStreams {
                    at: began,
                    by_health: node.streams.by_health(),
                });
            }
        }
        let value = ClusterCounts::new(scan);
        if is_large {
            self.render(&value, &FORMS_OF_LARGE);
        }
        self.render(&value, forms);
        let cost = thread_time().saturating_sub(used);
        let counted = Arc::new(Computed { value, began, cost });
        shared.workers.cluster_counts.counts.store(counted.clone());
        counted
    }

    /// Whether a count must have facets.
    fn wants_facets(&mut self, forms: &[CountsForm]) -> bool {
        let now = Instant::now();
        if forms.contains(&CountsForm::Facets) {
            self.facets_wanted = Some(now);
        }
        let wanted = self.facets_wanted;
        wanted.is_some_and(|wanted| now.duration_since(wanted) < FACETS_COUNTED_FOR)
    }

    fn summarize(&mut self, scan: &ClusterScan, state: &State) -> ClusterSummary {
        let capacity = self.capacity();
        let attention = attention(&self.shared, state, scan, capacity.as_ref());
        let identity = &self.shared.identity;
        let server = object([
            ("started_at", number(identity.started_at_seconds * 1000)),
            ("version", Value::from(env!("CARGO_PKG_VERSION"))),
        ]);
        let traffic = object([
            ("clients", number(scan.sum(|stats| stats.clients))),
            ("input_kbit", number(scan.sum(|stats| stats.input_kbit))),
            ("output_kbit", number(scan.sum(|stats| stats.output_kbit))),
        ]);
        let mut streams = counted(&scan.streams);
        streams.insert("unplaced", number(scan.unplaced));
        let mut streamers = counted(&scan.streamers());
        let with_code = |code: &str| scan.nodes.iter().filter(|node| node.state == code).count();
        let states = STATE_CODES
            .iter()
            .map(|code| (*code, number(with_code(code) as u64)));
        streamers.insert("states", Value::Object(states.collect()));
        let (polls, store) = self.polls_and_store();
        let parts = [
            ("at", number(scan.collected_at_ms)),
            ("polls", polls),
            ("revision", number(state.revision())),
            ("server", server),
            ("store", store),
            ("streamers", Value::Object(streamers)),
            ("streams", Value::Object(streams)),
            ("traffic", traffic),
        ];
        let parts = parts.into_iter().collect();
        ClusterSummary::new(parts, layouter(&self.shared, state), capacity, attention)
    }

    /// The free capacity: the newest if it is there soon, else the last one.
    fn capacity(&self) -> Option<SummaryCapacity> {
        if !is_layouter_enabled(&self.shared) {
            return None;
        }
        let last = self.shared.layouter.capacity.last();
        let wait = match last {
            Some(_) => CAPACITY_WAIT_MAX,
            None => FIRST_CAPACITY_WAIT_MAX,
        };
        let report = match capacity::request(&self.shared) {
            CapacityLookup::Known(report) => Some(report),
            CapacityLookup::Later(later) => later.recv_timeout(wait).ok().flatten().or(last),
        };
        let report = report?;
        let (_, body) = report.value.body.body(None);
        let body = json::parse(&body).ok()?;
        Some(SummaryCapacity::of(&body, report.value.at))
    }

    fn polls_and_store(&mut self) -> (Value, Value) {
        let (sender, receiver) = bounded(self.polls.len());
        for core in &self.shared.cores {
            core.push(CoreMessage::CountPolls(sender.clone()));
        }
        drop(sender);
        let until = Instant::now() + CORES_WAIT_MAX;
        // A core that is late keeps its last counts.
        while let Ok(counts) = receiver.recv_deadline(until) {
            self.polls[counts.core] = counts;
        }
        let commits = &self.shared.published.metrics().commits;
        let now = CounterSample {
            at: Instant::now(),
            polls: self.polls.iter().map(|it| it.parked_ever).sum(),
            commits: commits.counts(),
        };
        let before = self.samples.front().expect("there is always one");
        let seconds = (now.at - before.at).max(SAMPLE_PAUSE).as_secs_f64();
        let rate = |count: u64| decimal((count as f64 / seconds * 10.0).round() / 10.0);
        let recent: DurationCounts =
            std::array::from_fn(|bucket| now.commits[bucket] - before.commits[bucket]);
        let p99 = percentile(&recent, 99, commits.longest());
        let polls = object([
            ("per_second", rate(now.polls - before.polls)),
            (
                "waiting",
                number(self.polls.iter().map(|it| it.parked).sum()),
            ),
        ]);
        let store = object([
            (
                "bytes",
                store_bytes(&self.shared).map_or(Value::Null, number),
            ),
            ("commits_per_second", rate(recent.iter().sum())),
            (
                "fsync_p99_us",
                p99.map_or(Value::Null, |p99| number(p99.as_micros() as u64)),
            ),
        ]);
        self.keep(now);
        (polls, store)
    }

    /// Keeps a sample, if the newest one is old enough, and those of the last seconds.
    fn keep(&mut self, sample: CounterSample) {
        let is_due = |newest: &CounterSample| newest.at + SAMPLE_PAUSE <= sample.at;
        if self.samples.back().is_some_and(is_due) {
            let oldest = sample.at.checked_sub(RATE_OVER);
            self.samples.push_back(sample);
            while self
                .samples
                .get(1)
                .is_some_and(|next| Some(next.at) <= oldest)
            {
                self.samples.pop_front();
            }
        }
    }
}

fn number(value: u64) -> Value {
    Value::Number(Number::Unsigned(value))
}

fn decimal(value: f64) -> Value {
    Number::from_float(value).map_or(Value::Null, Value::Number)
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Object(members.into_iter().collect())
}

/// Counts by health, in the names of the reference, with their total.
fn counted(counts: &Counts) -> Object {
    let by_health = HEALTHS.map(|health| (health.as_str(), number(counts.of(health))));
    by_health
        .into_iter()
        .chain([("total", number(counts.total))])
        .collect()
}

fn layouter(shared: &Shared, state: &State) -> Value {
    let config = shared.settings.running.config();
    let work = shared.layouter.metrics.work();
    let pause = state.pause();
    let paused_until = pause.and_then(|pause| pause.until_ms());
    object([
        ("brake", Value::Bool(work.is_braked)),
        ("enabled", Value::Bool(config.settings.layouter.enabled)),
        (
            "from",
            Value::from(source_kind(config.effective("layouter_enabled"))),
        ),
        ("moves_1h", number(work.moves_1h)),
        (
            "paused",
            pause.map_or(Value::Null, |pause| Value::from(pause.what.as_str())),
        ),
        ("paused_until", paused_until.map_or(Value::Null, number)),
        (
            "waiting",
            object([
                ("improving", number(work.improving)),
                ("urgent", number(work.urgent)),
            ]),
        ),
    ])
}

/// What an operator should know, in any order.
fn attention(
    shared: &Shared,
    state: &State,
    scan: &ClusterScan,
    capacity: Option<&SummaryCapacity>,
) -> Vec<AttentionLine> {
    let config = shared.settings.running.config();
    let work = shared.layouter.metrics.work();
    let store_fails = !shared.published.is_writable()
        || shared.published.is_short_of_space()
        || shared.published.safe_mode().is_some();
    let of_cluster = [
        (3, "store", u64::from(store_fails)),
        (3, "unplaced", scan.unplaced),
        (
            2,
            "layouter_off",
            u64::from(!config.settings.layouter.enabled),
        ),
        (2, "brake", u64::from(work.is_braked)),
        (2, "stream_flapping", work.held_streams),
        (1, "layouter_paused", u64::from(state.pause().is_some())),
    ];
    let of_cluster = of_cluster.into_iter().filter(|(_, _, count)| *count > 0);
    let mut lines: Vec<AttentionLine> = of_cluster
        .map(|(severity, kind, count)| AttentionLine::of_cluster(severity, kind, count))
        .collect();
    lines.extend(scan.nodes.iter().flat_map(of_streamer));
    let losses = capacity.map_or(&[][..], |capacity| &capacity.losses);
    lines.extend(losses.iter().map(|loss| AttentionLine {
        subject: Some(loss.hostname.clone()),
        ..AttentionLine::of_cluster(2, "loss", loss.unplaced)
    }));
    lines
}

/// What an operator should know about one streamer.
fn of_streamer(node: &NodeEntry) -> Vec<AttentionLine> {
    let mut lines = Vec::new();
    let since = node.standing.and_then(|it| it.since_ms).map(utc_ms_of);
    let mut add = |severity, kind, since, count| {
        lines.push(AttentionLine {
            severity,
            kind,
            subject: Some(Box::from(node.hostname.as_str())),
            since,
            count,
        });
    };
    let outages = node.streams.of(Health::Outage);
    match node.state {
        "down" => add(3, "streamer_down", since, outages),
        "probation" => add(2, "streamer_probation", since, outages),
        _ => {}
    }
    let Some(stats) = node.inputs.stats.as_deref() else {
        return lines;
    };
    if node.health.config == Health::Outage {
        add(3, "streamer_config", None, 0);
    }
    if node.state != "down" && outages > 0 {
        add(2, "streamer_streams", None, outages);
    }
    let traffic = stats.input_kbit.max(stats.output_kbit);
    let bandwidth = node.inputs.bandwidth_kbit.filter(|limit| *limit > 0);
    let of_bandwidth = traffic.zip(bandwidth);
    let of_bandwidth = of_bandwidth.map(|(kbit, limit)| kbit.saturating_mul(100) / limit);
    for (kind, percent) in [
        ("streamer_cpu", stats.usage.cpu_percent),
        ("streamer_memory", stats.usage.memory_percent),
        ("streamer_disk", stats.storage_percent()),
        ("streamer_bandwidth", of_bandwidth),
    ] {
        match percent.map(|percent| (percent, Health::of_percent(percent))) {
            Some((percent, Health::Degraded)) => add(1, kind, None, percent),
            Some((percent, Health::PartialOutage)) => add(2, kind, None, percent),
            _ => {}
        }
    }
    lines
}
