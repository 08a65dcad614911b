//! The latest stats of the fleet, as its streamers reported them.
//!
//! Stats live in memory only, each with its time of receipt, and expire after the dead timeout. A
//! report replaces the previous one of its streamer: a stream that is not in it no longer runs
//! there, effective at once and without a search. There is no clock here; `now` is passed in.
//! Memory is bounded per report and in total; expired stats are swept as reports come in.
//!
//! Any thread may write and read: each shard has a lock, held for the time of one lookup.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use imbl::OrdMap;
use parking_lot::{Mutex, RwLock};

use super::healthcheck::FailedQuery;
use super::report::{
    JOINED, OptionalNumber, ReportedDvrs, ReportedError, StreamStats, StreamStatus, StreamerReport,
    StreamerStats,
};
use super::unconfigured::{NodeNames, UnconfiguredNames, UnconfiguredStreams};
use crate::feed::nodes::{
    AssignedLoad, CountedStreams, Draining, NodeTable, Provisioning, Standing,
};
use crate::json::{scan, write_string};
use crate::state::SHARDS;
use crate::state::name::{Hostname, shard_of};
use crate::state::name_hash::NameHash;
use crate::state::pull::text_of;

/// Text of all streams together. Above it only the numbers of a stream are kept.
const TEXT_BYTES_MAX: usize = 2 << 30;
/// Nodes per stream whose reports are kept.
const NODES_PER_STREAM_MAX: usize = 32;
/// Streamers that have not reported for this long are removed.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(24);
/// Pause between sweeps; each sweeps one shard.
const SWEEP_PAUSE_MS: u64 = 1000;
/// Chosen for all nodes of a stream; sorted behind the [`JOINED`] members.
const STREAMING_ENDPOINT: &str = "streaming_endpoint";
/// Reports that a follower may be behind.
const FOLLOWED_MAX: usize = 16 * 1024;

/// The last report of one streamer, part by part.
#[derive(Debug, Clone)]
pub struct StreamerFacts {
    pub hostname: Hostname,
    pub stats: Option<Arc<StreamerStats>>,
    /// Part of the node's configuration, so they do not expire with the stats.
    pub dvrs: Option<Arc<ReportedDvrs>>,
}

/// The agent that relays the video of a stream, and its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamAgent {
    pub id: Box<str>,
    pub status: AgentStatus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentStatus {
    /// Its control connection is open.
    Connected,
    NotConnected,
    /// The streamer of the stream has no streampoint key for agents.
    RproxyNotConfigured,
}

impl AgentStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::NotConnected => "not_connected",
            Self::RproxyNotConfigured => "rproxy_not_configured",
        }
    }
}

/// What this server itself adds to the stats of a stream.
#[derive(Debug, Clone, Default)]
pub struct AddedStats {
    pub agent: Option<StreamAgent>,
    /// Shown unless the node reports an error.
    pub error: Option<ReportedError>,
    /// The base URL for players, in place of what the node reports.
    pub streaming_endpoint: Option<String>,
}

impl AddedStats {
    /// Writes the `stats` of a stream that no node reports, as canonical JSON. Returns false if
    /// there are none.
    pub fn render(&self, out: &mut Vec<u8>) -> bool {
        let begin = out.len();
        if let Some(agent) = &self.agent {
            out.extend_from_slice(b",\"agent_status\":");
            write_string(out, agent.status.as_str());
            out.extend_from_slice(b",\"current_agent_id\":");
            write_string(out, &agent.id);
        }
        if let Some(error) = &self.error {
            out.extend_from_slice(b",\"error\":");
            error.render(out);
        }
        self.render_endpoint(out);
        if out.len() == begin {
            return false;
        }
        out[begin] = b'{';
        out.push(b'}');
        true
    }

    fn render_endpoint(&self, out: &mut Vec<u8>) {
        if let Some(endpoint) = &self.streaming_endpoint {
            out.extend_from_slice(b",\"streaming_endpoint\":");
            write_string(out, endpoint);
        }
    }
}

/// A streamer that has reported.
#[derive(Debug)]
struct ReportingNode {
    hostname: Hostname,
    /// Held while a report is stored.
    reporting: Mutex<()>,
    /// The times of its last report, and of its last report of streams.
    seen_ms: AtomicU64,
    streams_ms: AtomicU64,
    /// Number of streams in its last report of streams.
    listed: AtomicU64,
    /// The streams in it that are not configured.
    unconfigured: Mutex<NodeNames>,
    /// Serial number of the last complete report of streams, which voids all earlier ones.
    round: AtomicU32,
    facts: ArcSwap<StreamerFacts>,
}

/// One stream in one report of one streamer.
#[derive(Debug)]
struct StreamReport {
    host: Arc<ReportingNode>,
    round: u32,
    stats: StreamStats,
}

impl StreamReport {
    /// Whether it is current. A report that is being stored counts already, so that no stream
    /// vanishes in between.
    fn is_current(&self, oldest_ms: u64) -> bool {
        self.round >= self.host.round.load(Ordering::Acquire)
            && self.host.streams_ms.load(Ordering::Acquire) >= oldest_ms
    }
}

/// There are millions of them.
#[derive(Debug)]
struct StreamReports {
    first: StreamReport,
    /// Reports of other nodes; most streams have none.
    #[allow(clippy::box_collection, reason = "a third of a vector")]
    others: Option<Box<Vec<StreamReport>>>,
}

impl StreamReports {
    fn all(&self) -> impl Iterator<Item = &StreamReport> {
        let others = self.others.as_deref().into_iter().flatten();
        std::iter::once(&self.first).chain(others)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut StreamReport> {
        let others = self.others.as_deref_mut().into_iter().flatten();
        std::iter::once(&mut self.first).chain(others)
    }
}

#[derive(Default)]
struct StatsShard {
    /// Boxed: a table of them would be half empty after it grew.
    streams: HashMap<Box<str>, Box<StreamReports>, NameHash>,
    text_bytes: usize,
}

impl StatsShard {
    /// The current stats of one stream. Of its nodes, `ingest` is preferred.
    fn facts(&self, name: &str, ingest: Option<&str>, oldest_ms: u64) -> Option<StreamFacts<'_>> {
        let stream = self.streams.get(name)?;
        let current = || stream.all().filter(|report| report.is_current(oldest_ms));
        // Most streams run on one node, whose name needs not be compared.
        let preferred = || current().find(|report| Some(&*report.host.hostname) == ingest);
        let several = stream.others.is_some().then(preferred);
        let chosen = several.flatten().or_else(|| current().next())?;
        Some(StreamFacts {
            chosen,
            stream,
            oldest_ms,
        })
    }

    fn put(&mut self, name: Box<str>, mut report: StreamReport) {
        if self.text_bytes + report.stats.text_bytes() > TEXT_BYTES_MAX / SHARDS {
            report.stats.drop_texts();
        }
        self.text_bytes += report.stats.text_bytes();
        let Some(stream) = self.streams.get_mut(&name) else {
            let first = report;
            let others = None;
            let stream = Box::new(StreamReports { first, others });
            self.streams.insert(name, stream);
            return;
        };
        let of_same_node = |old: &&mut StreamReport| Arc::ptr_eq(&old.host, &report.host);
        let replaced = if let Some(old) = stream.all_mut().find(of_same_node) {
            if old.round + 1 == report.round {
                report.stats.follow(&old.stats);
            }
            std::mem::replace(old, report)
        } else if stream.all().count() < NODES_PER_STREAM_MAX {
            stream.others.get_or_insert_default().push(report);
            return;
        } else {
            report
        };
        self.text_bytes -= replaced.stats.text_bytes();
    }

    /// Removes expired reports.
    fn sweep(&mut self, oldest_ms: u64) {
        let mut freed = 0;
        self.streams.retain(|_, stream| {
            let mut others = stream.others.take().unwrap_or_default();
            others.retain(|report| {
                let holds = report.is_current(oldest_ms);
                freed += if holds { 0 } else { report.stats.text_bytes() };
                holds
            });
            let mut holds = true;
            if !stream.first.is_current(oldest_ms) {
                freed += stream.first.stats.text_bytes();
                match others.pop() {
                    Some(other) => stream.first = other,
                    None => holds = false,
                }
            }
            stream.others = (!others.is_empty()).then_some(others);
            holds
        });
        self.text_bytes -= freed;
        if self.streams.len() * 4 < self.streams.capacity() {
            self.streams.shrink_to_fit();
        }
    }
}

type Hosts = OrdMap<Hostname, Arc<ReportingNode>>;

/// The latest stats of all streamers and their streams.
pub struct FleetStats {
    /// Times are milliseconds since the epoch, plus one; 0 is never.
    epoch: Instant,
    dead_after_ms: AtomicU64,
    /// Replaced when a streamer reports for the first time, and when one is removed.
    hosts: ArcSwap<Hosts>,
    shards: [RwLock<StatsShard>; SHARDS],
    swept_ms: AtomicU64,
    sweeps: AtomicUsize,
    unconfigured: UnconfiguredStreams,
    /// Parts of reports that could not be used.
    dropped: AtomicU64,
    followers: Mutex<Vec<Sender<Hostname>>>,
    /// Signs of life of nodes, and what follows from them.
    nodes: Option<Arc<NodeTable>>,
}

impl FleetStats {
    /// Stats expire after `dead_after`. `epoch` must not be after any later `now`.
    pub fn new(dead_after: Duration, epoch: Instant) -> Self {
        Self {
            epoch,
            dead_after_ms: AtomicU64::new(ms(dead_after)),
            hosts: ArcSwap::default(),
            shards: std::array::from_fn(|_| RwLock::default()),
            swept_ms: AtomicU64::new(0),
            sweeps: AtomicUsize::new(0),
            unconfigured: UnconfiguredStreams::default(),
            dropped: AtomicU64::new(0),
            followers: Mutex::default(),
            nodes: None,
        }
    }

    /// With the signs of life of the nodes.
    #[must_use]
    pub fn with_nodes(self, nodes: Arc<NodeTable>) -> Self {
        Self {
            nodes: Some(nodes),
            ..self
        }
    }

    pub fn dead_after(&self) -> Duration {
        Duration::from_millis(self.dead_after_ms.load(Ordering::Relaxed))
    }

    pub fn set_dead_after(&self, dead_after: Duration) {
        self.dead_after_ms.store(ms(dead_after), Ordering::Relaxed);
    }

    fn stamp(&self, at: Instant) -> u64 {
        ms(at.saturating_duration_since(self.epoch)) + 1
    }

    /// Stats received before this time are expired at `now`.
    fn oldest_ms(&self, now: Instant) -> u64 {
        self.stamp(now)
            .saturating_sub(self.dead_after_ms.load(Ordering::Relaxed))
            .max(1)
    }

    /// Stores a report of a streamer if it is still wanted when no other one is being stored.
    /// Returns whether it was.
    pub fn report(
        &self,
        hostname: &Hostname,
        mut report: StreamerReport,
        now: Instant,
        is_wanted: impl FnOnce() -> bool,
    ) -> bool {
        let host = self.host(hostname);
        let stamp = self.stamp(now);
        {
            let _one_at_a_time = host.reporting.lock();
            if !is_wanted() {
                return false;
            }
            if let Some(stats) = &mut report.stats {
                stats.finish_health(host.facts.load().stats.as_deref());
            }
            if report.stats.is_some() || report.dvrs.is_some() {
                let old = host.facts.load_full();
                host.facts.store(Arc::new(StreamerFacts {
                    hostname: hostname.clone(),
                    stats: report.stats.map(Arc::new).or_else(|| old.stats.clone()),
                    dvrs: report.dvrs.map(Arc::new).or_else(|| old.dvrs.clone()),
                }));
            }
            if let Some(mut streams) = report.streams {
                let round = host.round.load(Ordering::Acquire) + 1;
                host.listed.store(streams.len() as u64, Ordering::Release);
                let mut others = report.unconfigured;
                let mut names = host.unconfigured.lock();
                self.unconfigured.replace(&mut names, &mut others, stamp);
                drop(names);
                streams.append(&mut others);
                self.put(&host, round, streams);
                host.streams_ms.fetch_max(stamp, Ordering::AcqRel);
                host.round.store(round, Ordering::Release);
            }
            host.seen_ms.fetch_max(stamp, Ordering::AcqRel);
        }
        self.sweep(now);
        self.followers.lock().retain(|follower| {
            // A follower that fell behind reads all streamers anyway.
            !matches!(
                follower.try_send(hostname.clone()),
                Err(TrySendError::Disconnected(_))
            )
        });
        true
    }

    /// Shows in the stats of a streamer that it did not answer a query, if that is still wanted
    /// when no report is being stored. Returns whether that is a change. The stats expire as
    /// before.
    pub fn query_failed(
        &self,
        hostname: &str,
        query: FailedQuery,
        is_wanted: impl FnOnce() -> bool,
    ) -> bool {
        let Some(host) = self.hosts.load().get(hostname).cloned() else {
            return false;
        };
        let _one_at_a_time = host.reporting.lock();
        if !is_wanted() {
            return false;
        }
        let facts = host.facts.load_full();
        let changed = facts.stats.as_ref().and_then(|it| it.unanswered(query));
        let Some(stats) = changed else { return false };
        host.facts.store(Arc::new(StreamerFacts {
            stats: Some(Arc::new(stats)),
            ..StreamerFacts::clone(&facts)
        }));
        true
    }

    /// Counts parts of a report that could not be used.
    pub fn count_dropped(&self, parts: u64) {
        self.dropped.fetch_add(parts, Ordering::Relaxed);
    }

    /// Number of parts of reports that could not be used.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn host(&self, hostname: &Hostname) -> Arc<ReportingNode> {
        if let Some(host) = self.hosts.load().get(hostname) {
            return host.clone();
        }
        let new = Arc::new(ReportingNode {
            hostname: hostname.clone(),
            reporting: Mutex::new(()),
            seen_ms: AtomicU64::new(0),
            streams_ms: AtomicU64::new(0),
            listed: AtomicU64::new(0),
            unconfigured: Mutex::default(),
            round: AtomicU32::new(0),
            facts: ArcSwap::from_pointee(StreamerFacts {
                hostname: hostname.clone(),
                stats: None,
                dvrs: None,
            }),
        });
        self.hosts.rcu(|hosts| {
            let mut hosts = Hosts::clone(hosts);
            hosts.entry(hostname.clone()).or_insert_with(|| new.clone());
            hosts
        });
        // Another thread may have added it first.
        self.hosts.load().get(hostname).cloned().unwrap_or(new)
    }

    fn put(&self, host: &Arc<ReportingNode>, round: u32, streams: Vec<(Box<str>, StreamStats)>) {
        let mut parts: [Vec<(Box<str>, StreamStats)>; SHARDS] = Default::default();
        for (name, stats) in streams {
            parts[shard_of(&name)].push((name, stats));
        }
        for (shard, part) in self.shards.iter().zip(parts) {
            if part.is_empty() {
                continue;
            }
            let mut shard = shard.write();
            for (name, stats) in part {
                let host = host.clone();
                shard.put(name, StreamReport { host, round, stats });
            }
        }
    }

    /// Sweeps one shard if it is time, and the streamers once per round of shards.
    fn sweep(&self, now: Instant) {
        let stamp = self.stamp(now);
        let last = self.swept_ms.load(Ordering::Relaxed);
        let due = stamp >= last + SWEEP_PAUSE_MS;
        if !due
            || self
                .swept_ms
                .compare_exchange(last, stamp, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        let shard = self.sweeps.fetch_add(1, Ordering::Relaxed) % SHARDS;
        self.shards[shard].write().sweep(self.oldest_ms(now));
        if shard == 0 {
            let current_ms = self.oldest_ms(now);
            for host in self.hosts.load().values() {
                let mut names = host.unconfigured.lock();
                self.unconfigured.expire(&mut names, current_ms);
            }
            let oldest = stamp.saturating_sub(ms(FORGOTTEN_AFTER));
            let silent = |host: &ReportingNode| host.seen_ms.load(Ordering::Acquire) < oldest;
            let silent: Vec<Hostname> = self
                .hosts
                .load()
                .iter()
                .filter(|(_, host)| silent(host))
                .map(|(hostname, _)| hostname.clone())
                .collect();
            if !silent.is_empty() {
                self.hosts.rcu(|hosts| {
                    let mut hosts = Hosts::clone(hosts);
                    for hostname in &silent {
                        hosts.remove(hostname);
                    }
                    hosts
                });
            }
        }
    }

    /// The streams that are reported and were not configured when they were.
    pub fn unconfigured(&self) -> &UnconfiguredStreams {
        &self.unconfigured
    }

    /// A channel of the names of streamers as they report. It is bounded: a follower that falls
    /// behind misses some, and should also read [`FleetStats::streamers`] periodically.
    pub fn follow(&self) -> Receiver<Hostname> {
        let (sender, receiver) = bounded(FOLLOWED_MAX);
        self.followers.lock().push(sender);
        receiver
    }

    /// When a streamer last reported, however long ago.
    #[cfg(test)]
    pub fn last_seen(&self, hostname: &str) -> Option<Instant> {
        let stamp = self
            .hosts
            .load()
            .get(hostname)?
            .seen_ms
            .load(Ordering::Acquire);
        (stamp > 0).then(|| self.epoch + Duration::from_millis(stamp - 1))
    }

    /// The stats of one streamer, if not expired.
    pub fn streamer(&self, hostname: &str, now: Instant) -> Option<Arc<StreamerStats>> {
        let facts = self.hosts.load().get(hostname)?.facts.load_full();
        self.current(&facts, now).cloned()
    }

    /// The bitrate of a stream on one streamer.
    pub fn bitrate_kbit(&self, stream: &str, hostname: &str, now: Instant) -> Option<u64> {
        let oldest_ms = self.oldest_ms(now);
        let shard = self.shards[shard_of(stream)].read();
        let mut report = shard.streams.get(stream)?.all();
        let report = report
            .find(|report| &*report.host.hostname == hostname && report.is_current(oldest_ms))?;
        report.stats.bitrate_kbit.get()
    }

    /// Whether a streamer has reported within `age` that it runs a stream.
    pub fn runs_on(&self, stream: &str, hostname: &str, age: Duration, now: Instant) -> bool {
        let oldest_ms = self.oldest_ms(now);
        let since_ms = self.stamp(now).saturating_sub(ms(age)).max(oldest_ms);
        let shard = self.shards[shard_of(stream)].read();
        let reports = shard.streams.get(stream).into_iter();
        reports.flat_map(|stream| stream.all()).any(|report| {
            let is_running = match report.stats.status {
                Some(status) => status == StreamStatus::Running,
                None => report.stats.alive == Some(true),
            };
            is_running && &*report.host.hostname == hostname && report.is_current(since_ms)
        })
    }

    /// The number of streams that a streamer listed, if that report has not expired.
    pub fn listed(&self, hostname: &str, now: Instant) -> Option<u64> {
        let hosts = self.hosts.load();
        let host = hosts.get(hostname)?;
        let listed = host.listed.load(Ordering::Acquire);
        (host.streams_ms.load(Ordering::Acquire) >= self.oldest_ms(now)).then_some(listed)
    }

    /// All streamers in the order of their names, also those with expired stats.
    pub fn streamers(&self) -> Vec<Arc<StreamerFacts>> {
        let hosts = self.hosts.load();
        hosts.values().map(|host| host.facts.load_full()).collect()
    }

    /// The stats of a streamer, if not expired.
    pub fn current<'f>(
        &self,
        facts: &'f StreamerFacts,
        now: Instant,
    ) -> Option<&'f Arc<StreamerStats>> {
        let stats = facts.stats.as_ref()?;
        (self.stamp(stats.received) >= self.oldest_ms(now)).then_some(stats)
    }

    /// A view of the stats at one moment.
    pub fn view(&self, now: Instant) -> View<'_> {
        View {
            stats: self,
            now,
            oldest_ms: self.oldest_ms(now),
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

/// The stats that are current at one moment.
#[derive(Clone, Copy)]
pub struct View<'s> {
    stats: &'s FleetStats,
    now: Instant,
    oldest_ms: u64,
}

impl View<'_> {
    /// The last report of one streamer, and its stats if not expired.
    pub fn streamer(
        &self,
        hostname: &str,
    ) -> Option<(Arc<StreamerFacts>, Option<Arc<StreamerStats>>)> {
        let facts = self.stats.hosts.load().get(hostname)?.facts.load_full();
        let stats = self.stats.current(&facts, self.now).cloned();
        Some((facts, stats))
    }

    /// A streamer's last sign of life, on the clock of [`Activity`](crate::feed::nodes::Activity),
    /// and what follows from its signs. `None` where no signs are kept.
    pub fn signs(&self, hostname: &str) -> Option<(Option<u64>, Option<Standing>)> {
        let nodes = self.stats.nodes.as_ref()?;
        let node = nodes.find(hostname);
        Some(node.map_or((None, None), |node| {
            (node.activity.last_seen_ms(), node.standing())
        }))
    }

    /// What is left on a streamer that is drained, as the layouter last looked.
    pub fn draining(&self, hostname: &str) -> Option<Draining> {
        self.stats.nodes.as_ref()?.find(hostname)?.draining()
    }

    /// What the layouter assigned to a streamer; `None` while it is disabled.
    pub fn assigned(&self, hostname: &str) -> Option<AssignedLoad> {
        self.stats.nodes.as_ref()?.find(hostname)?.assigned()
    }

    /// The streams that a streamer ingests, if they were counted within `age`.
    pub fn counted(&self, hostname: &str, age: Duration) -> Option<CountedStreams> {
        let counted = self.stats.nodes.as_ref()?.find(hostname)?.counted()?;
        (self.now.saturating_duration_since(counted.at) <= age).then_some(counted)
    }

    /// Whether a streamer has the configuration that was written to it; `None` if none was.
    pub fn provisioning(&self, hostname: &str) -> Option<Provisioning> {
        self.stats.nodes.as_ref()?.find(hostname)?.provisioning()
    }

    /// The streams that are reported and were not configured when they were.
    pub fn unconfigured(&self) -> Arc<UnconfiguredNames> {
        self.stats.unconfigured.names()
    }

    /// Reads memory that the stats of some streams of one shard are in. The processor waits for all
    /// of it at once, not for each when its stats are looked at.
    pub fn load<'n>(&self, names: impl Iterator<Item = &'n str>) {
        let mut names = names.peekable();
        let Some(first) = names.peek() else { return };
        let shard = self.stats.shards[shard_of(first)].read();
        let reports = names.filter_map(|name| shard.streams.get(name));
        let loaded = reports.fold(0, |sum, reports| {
            let StreamReports { first, others } = &**reports;
            let of_host = u64::from(first.host.round.load(Ordering::Relaxed));
            let number = first.stats.bitrate_kbit.get().unwrap_or_default();
            sum ^ of_host ^ number ^ u64::from(others.is_some())
        });
        std::hint::black_box(loaded);
    }

    /// Calls `look` with the current stats of one stream, if any. Of its nodes, `ingest` is
    /// preferred. `look` runs under the lock of the shard: it must be quick and must not read the
    /// stats of another stream.
    pub fn stream<R>(
        &self,
        name: &str,
        ingest: Option<&str>,
        look: impl FnOnce(StreamFacts<'_>) -> R,
    ) -> Option<R> {
        self.stream_or_none(name, ingest, |facts| facts.map(look))
    }

    /// [`View::stream`] for callers that also act without stats, for which no lock is held.
    pub fn stream_or_none<R>(
        &self,
        name: &str,
        ingest: Option<&str>,
        look: impl FnOnce(Option<StreamFacts<'_>>) -> R,
    ) -> R {
        let shard = self.stats.shards[shard_of(name)].read();
        match shard.facts(name, ingest, self.oldest_ms) {
            Some(facts) => look(Some(facts)),
            None => {
                drop(shard);
                look(None)
            }
        }
    }
}

/// The stats of one stream on all its nodes.
#[derive(Clone, Copy)]
pub struct StreamFacts<'v> {
    chosen: &'v StreamReport,
    stream: &'v StreamReports,
    oldest_ms: u64,
}

impl<'v> StreamFacts<'v> {
    fn current(&self) -> impl Iterator<Item = &'v StreamReport> {
        let oldest_ms = self.oldest_ms;
        self.stream
            .all()
            .filter(move |report| report.is_current(oldest_ms))
    }

    pub fn status(&self) -> Option<StreamStatus> {
        self.chosen.stats.status
    }

    pub fn alive(&self) -> Option<bool> {
        self.chosen.stats.alive
    }

    pub fn bitrate_kbit(&self) -> Option<u64> {
        self.chosen.stats.bitrate_kbit.get()
    }

    pub fn last_dts_at_ms(&self) -> Option<u64> {
        self.chosen.stats.last_dts_at_ms.get()
    }

    /// When publishing to it began, if its node reports that.
    pub fn opened_at_ms(&self) -> Option<u64> {
        self.chosen.stats.opened_at_ms.get()
    }

    /// Why it does not run on its node.
    pub fn error(&self) -> Option<&'v ReportedError> {
        self.chosen.stats.error()
    }

    /// The sum of viewers on all nodes.
    pub fn online_clients(&self) -> Option<u64> {
        self.sum(|stats| stats.online_clients)
    }

    /// The sum of bytes sent to viewers by all nodes.
    pub fn bytes_out(&self) -> Option<u64> {
        self.sum(|stats| stats.bytes_out)
    }

    fn sum(&self, of: impl Fn(&StreamStats) -> OptionalNumber) -> Option<u64> {
        let mut numbers = self.current().filter_map(|report| of(&report.stats).get());
        let first = numbers.next()?;
        let sum = numbers.fold(first, u64::saturating_add);
        // Integers of the API have a sign.
        Some(sum.min(i64::MAX as u64))
    }

    /// The nodes that report it.
    pub fn nodes(&self) -> impl Iterator<Item = &'v Hostname> {
        self.current().map(|report| &report.host.hostname)
    }

    /// The nodes on which it runs.
    pub fn running_on(&self) -> impl Iterator<Item = &'v Hostname> {
        self.current()
            .filter(|report| report.stats.status == Some(StreamStatus::Running))
            .map(|report| &report.host.hostname)
    }

    /// The agent whose video the node takes, by its report.
    pub fn agent(&self) -> Option<&'v str> {
        self.chosen.stats.agent()
    }

    /// Canonical JSON without the [`JOINED`] members.
    fn text(&self) -> String {
        self.chosen.stats.text.unpack()
    }

    /// The base URL for players that the node reports.
    pub fn reported_endpoint(&self) -> Option<String> {
        if !self.chosen.stats.text.may_have(STREAMING_ENDPOINT) {
            return None;
        }
        let text = self.text();
        text_of(scan::member(&text, STREAMING_ENDPOINT)?).map(Cow::into_owned)
    }

    /// Writes the whole object as canonical JSON.
    pub fn render(&self, added: &AddedStats, out: &mut Vec<u8>) {
        let begin = out.len();
        let names = JOINED.into_iter().chain([STREAMING_ENDPOINT]);
        let present = names.zip(self.joined(added));
        let mut joined = present
            .filter_map(|(name, value)| Some((name, value?)))
            .peekable();
        let text = self.text();
        let kept = scan::members(&text).filter(|(name, _)| *name != STREAMING_ENDPOINT);
        for (name, value) in kept {
            while let Some((other, value)) = joined.next_if(|(other, _)| *other < name) {
                begin_member(other, out);
                value.render(out);
            }
            begin_member(name, out);
            out.extend_from_slice(value.as_bytes());
        }
        for (name, value) in joined {
            begin_member(name, out);
            value.render(out);
        }
        if out.len() == begin {
            out.push(b'{');
        } else {
            out[begin] = b'{';
        }
        out.push(b'}');
    }

    /// The values of the [`JOINED`] members and of the endpoint, in their order.
    fn joined<'a>(&'a self, added: &'a AddedStats) -> [Option<JoinedValue<'a>>; 11] {
        let agent = added.agent.as_ref();
        let mut running: Vec<&Hostname> = self.running_on().collect();
        running.sort_unstable();
        [
            agent.map(|agent| JoinedValue::Text(agent.status.as_str())),
            self.alive().map(JoinedValue::Bool),
            self.bitrate_kbit().map(JoinedValue::Number),
            self.bytes_out().map(JoinedValue::Number),
            agent.map(|agent| JoinedValue::Text(&agent.id)),
            self.error()
                .or(added.error.as_ref())
                .map(JoinedValue::Error),
            self.last_dts_at_ms().map(JoinedValue::Number),
            self.online_clients().map(JoinedValue::Number),
            (!running.is_empty()).then_some(JoinedValue::Nodes(running)),
            self.status().map(|it| JoinedValue::Text(it.as_str())),
            added.streaming_endpoint.as_deref().map(JoinedValue::Text),
        ]
    }
}

/// The value of a member of a stream's stats that is not in the text of its report.
enum JoinedValue<'a> {
    Bool(bool),
    Number(u64),
    Text(&'a str),
    Error(&'a ReportedError),
    Nodes(Vec<&'a Hostname>),
}

impl JoinedValue<'_> {
    fn render(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bool(value) => {
                out.extend_from_slice(if *value { b"true" } else { b"false" });
            }
            Self::Number(number) => {
                out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes());
            }
            Self::Text(text) => write_string(out, text),
            Self::Error(error) => error.render(out),
            Self::Nodes(nodes) => {
                for (i, node) in nodes.iter().enumerate() {
                    out.push(if i == 0 { b'[' } else { b',' });
                    write_string(out, node);
                }
                out.push(b']');
            }
        }
    }
}

/// Writes the name of a member, which needs no escapes, and a comma before it.
fn begin_member(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    const SECOND: Duration = Duration::from_secs(1);

    fn store() -> (FleetStats, Instant) {
        let epoch = Instant::now();
        (FleetStats::new(60 * SECOND, epoch), epoch)
    }

    fn report(body: &str, now: Instant) -> StreamerReport {
        let body = json::parse(body.as_bytes()).expect("JSON");
        StreamerReport::from_body(body, now).expect("a report")
    }

    fn host(name: &str) -> Hostname {
        Hostname::parse(name).expect("a hostname")
    }

    fn shown(stats: &FleetStats, name: &str, ingest: Option<&str>, now: Instant) -> Option<String> {
        let out = stats.view(now).stream(name, ingest, |facts| {
            let mut out = Vec::new();
            facts.render(&AddedStats::default(), &mut out);
            out
        })?;
        let text = String::from_utf8(out).expect("UTF-8");
        let parsed = json::parse(text.as_bytes()).expect("JSON");
        assert_eq!(parsed.to_text(), text, "canonical");
        Some(text)
    }

    #[test]
    fn stats_expire_after_the_dead_timeout() {
        let (stats, t) = store();
        stats.report(
            &host("s1"),
            report(r#"{"stats":{"cpu_usage":40,"partitions":[{"usage":7},{"usage":9}]},"dvrs":[{"name":"d"}],"streams":[{"name":"a","bitrate":5}]}"#, t),
            t,
            || true,
        );
        let late = t + 60 * SECOND;
        let known = stats.streamer("s1", late).expect("still holds");
        assert_eq!(
            (known.usage.cpu_percent, known.storage_percent()),
            (Some(40), Some(9))
        );
        assert!(shown(&stats, "a", None, late).is_some());
        let dead = late + Duration::from_millis(1);
        assert!(stats.streamer("s1", dead).is_none());
        assert!(shown(&stats, "a", None, dead).is_none());
        assert_eq!(stats.last_seen("s1"), Some(t));
        let view = stats.view(dead);
        let (facts, old) = view.streamer("s1").expect("still known");
        assert!(old.is_none());
        assert_eq!(&*facts.dvrs.as_ref().expect("kept").names, ["d".into()]);
    }

    #[test]
    fn stream_missing_from_the_next_report_is_removed() {
        let (stats, t) = store();
        let streams =
            r#"{"streams":[{"name":"a","status":"running"},{"name":"b","status":"running"}]}"#;
        stats.report(&host("s1"), report(streams, t), t, || true);
        stats.report(
            &host("s1"),
            report(r#"{"stats":{"cpu_usage":1}}"#, t),
            t + SECOND,
            || true,
        );
        assert!(
            shown(&stats, "b", None, t).is_some(),
            "the streams of the last report"
        );
        let streams = r#"{"streams":[{"name":"a","status":"waiting"}]}"#;
        stats.report(&host("s1"), report(streams, t), t + SECOND, || true);
        assert_eq!(shown(&stats, "b", None, t + SECOND), None);
        assert_eq!(
            shown(&stats, "a", None, t + SECOND).as_deref(),
            Some(r#"{"status":"waiting"}"#)
        );
    }

    #[test]
    fn ingest_node_is_preferred_and_viewers_are_summed() {
        let (stats, t) = store();
        for (node, bitrate, clients) in [("s3", 3, 30), ("s1", 1, 10), ("s2", 2, 20)] {
            let body = format!(
                r#"{{"streams":[{{"name":"a","alive":true,"bitrate":{bitrate},"bytes_out":7,"online_clients":{clients},"status":"running","ts_delay":5}}]}}"#
            );
            stats.report(&host(node), report(&body, t), t, || true);
        }
        assert_eq!(
            shown(&stats, "a", Some("s2"), t).as_deref(),
            Some(
                r#"{"alive":true,"bitrate":2,"bytes_out":21,"online_clients":60,"running_on":["s1","s2","s3"],"status":"running","ts_delay":5}"#
            )
        );
        stats.report(&host("s2"), report(r#"{"streams":[]}"#, t), t, || true);
        let left = stats.view(t).stream("a", Some("s2"), |facts| {
            (facts.bitrate_kbit(), facts.online_clients())
        });
        assert_eq!(left, Some((Some(3), Some(40))));
    }

    #[test]
    fn error_goes_on_since_its_first_report() {
        let (stats, t) = store();
        let mut now_ms = 1_700_000_000_000;
        let mut shown_after = |error: &str| {
            now_ms += 1000;
            let body = format!(r#"{{"streams":[{{"name":"a"{error}}}]}}"#);
            let mut report = report(&body, t);
            report.date_errors(now_ms);
            stats.report(&host("s1"), report, t, || true);
            shown(&stats, "a", None, t).expect("it is reported")
        };
        let first = r#"{"error":{"code":"no_picture","since":1700000001000}}"#;
        let code = r#","error":{"code":"no_picture"}"#;
        assert_eq!(shown_after(code), first);
        assert_eq!(
            shown_after(r#","error":{"code":"no_picture","text":"black"}"#),
            r#"{"error":{"code":"no_picture","since":1700000001000,"text":"black"}}"#
        );
        assert_eq!(
            shown_after(r#","error":{"code":"source_refused"}"#),
            r#"{"error":{"code":"source_refused","since":1700000003000}}"#,
            "another error"
        );
        let own = r#","error":{"code":"source_refused","since":1600000000000}"#;
        let own_shown = r#"{"error":{"code":"source_refused","since":1600000000000}}"#;
        assert_eq!(shown_after(own), own_shown);
        assert_eq!(
            shown_after(r#","error":{"code":"source_refused"}"#),
            own_shown
        );
        assert_eq!(shown_after(""), "{}");
        assert_eq!(
            shown_after(code),
            r#"{"error":{"code":"no_picture","since":1700000007000}}"#,
            "it began again"
        );
        assert!(shown(&stats, "a", None, t + 61 * SECOND).is_none());
        let long = format!(r#","error":{{"code":"x","text":"{}é"}}"#, "x".repeat(999));
        assert!(shown_after(&long).ends_with(&format!("{}\"}}}}", "x".repeat(999))));
        let bytes: usize = stats.shards.iter().map(|it| it.read().text_bytes).sum();
        assert_eq!(bytes, 2 + 1 + 999, "errors are counted");
    }

    #[test]
    fn expired_stats_are_swept() {
        // Goal: expired stats free their memory. Method: many streams of a node that falls silent,
        // then reports of another node over time.
        let (stats, t) = store();
        let mut body = String::from(r#"{"streams":["#);
        for i in 0..1000 {
            body.push_str(&format!(
                r#"{}{{"name":"s{i}","bitrate":1}}"#,
                if i > 0 { "," } else { "" }
            ));
        }
        body.push_str("]}");
        stats.report(&host("gone"), report(&body, t), t, || true);
        let count = || {
            stats
                .shards
                .iter()
                .map(|it| it.read().streams.len())
                .sum::<usize>()
        };
        let bytes = || {
            stats
                .shards
                .iter()
                .map(|it| it.read().text_bytes)
                .sum::<usize>()
        };
        assert_eq!((count(), bytes()), (1000, 1000 * "{}".len()));
        for second in 61..61 + SHARDS as u32 {
            let now = t + second * SECOND;
            stats.report(
                &host("here"),
                report(r#"{"streams":[{"name":"s1"}]}"#, now),
                now,
                || true,
            );
        }
        assert_eq!((count(), bytes()), (1, 2));
        assert!(stats.last_seen("gone").is_some());
        for hour in 25..25 + SHARDS as u32 {
            let now = t + hour * 3600 * SECOND;
            stats.report(&host("here"), StreamerReport::default(), now, || true);
        }
        assert!(stats.last_seen("gone").is_none());
    }

    #[test]
    fn unknown_members_are_dropped_and_secrets_masked() {
        let (stats, t) = store();
        let body = r#"{"stats":{"license_txt":"canary","uptime":null,"strange":1,"cpu_usage":2.0},"dvrs":[{"name":"d","root":"s3://user:canary@host/bucket"}]}"#;
        stats.report(&host("s1"), report(body, t), t, || true);
        let view = stats.view(t);
        let (facts, known) = view.streamer("s1").expect("known");
        let known = known.expect("holds");
        assert_eq!(
            known.text(false),
            r#"{"cpu_usage":2,"license_txt":"canary"}"#
        );
        assert_eq!(known.text(true), r#"{"cpu_usage":2,"license_txt":"***"}"#);
        let dvrs = facts.dvrs.as_ref().expect("known");
        assert!(dvrs.text(false).contains("canary") && !dvrs.text(true).contains("canary"));
    }

    #[test]
    fn stream_takes_few_bytes_beside_its_texts() {
        assert_eq!(size_of::<StreamReports>(), 96);
    }

    #[test]
    fn followers_get_reports_and_never_block_them() {
        let (stats, t) = store();
        let reports = stats.follow();
        drop(stats.follow());
        for _ in 0..=FOLLOWED_MAX {
            stats.report(&host("s1"), StreamerReport::default(), t, || true);
        }
        assert_eq!(reports.try_iter().count(), FOLLOWED_MAX);
        assert_eq!(
            stats.followers.lock().len(),
            1,
            "a dropped follower is removed"
        );
    }
}
