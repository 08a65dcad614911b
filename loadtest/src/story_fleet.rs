//! `fleet --story FILE`: streamers that park polls and are queried by the server live through a
//! story, while the layouter keeps their streams on those that live.
//!
//! Proven: at the end every stream is held as often as it shall be, by streamers that live, and the
//! server knows from their answers that all of them run. Measured per line of the story: how long
//! the server took to notice each loss, how long until other streamers had the streams, how many
//! moved against how many had to, and, every second, how many had no streamer or one too many.

use crate::cli::{self, Common};
use crate::control::{Control, Target};
use crate::copy::FaultKind;
use crate::failover::{self, Signals};
use crate::net::{self, Clock, Completion, Driver, Net};
use crate::polled::{Placement, PolledStreamers};
use crate::prepare::{self, ClusterOptions, UNPLACED_LABELS};
use crate::queried::{self, Manner, QueriedStreamers, QueryServer, unix_ms};
use crate::report::{Fault, Faults, Latency, Report, StoryIncident, StorySample};
use crate::schedule::{Nanos, SECOND};
use crate::seed::Random;
use crate::story::{self, StoryStep, StoryTarget, Verb};
use crate::streamers::cluster_key;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use weir_testkit::{encode_segment, sys};

/// Longest for any phase beside the story itself.
const PHASE_MAX: Nanos = 300 * SECOND;
/// How often the phases are looked at when nothing arrives.
const LOOK_EVERY: Nanos = 20_000_000;
const SAMPLE_EVERY: Nanos = SECOND;
/// Each streamer has a poll and a query, and the server has both ends, too, if it is limited alike.
const DESCRIPTORS_EACH: u64 = 2;
const DESCRIPTORS_SPARE: u64 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Streamers get their first lists; the cluster has no streams yet.
    Loading,
    /// Streams are saved; the layouter spreads them.
    Placing,
    /// From this time on.
    Playing(Nanos),
    /// The story is over; what it broke is mended.
    Settling,
    Done,
}

/// What followed from the lines of one moment.
struct Incident {
    text: String,
    at: Nanos,
    at_ms: u64,
    /// Streamers that the lines changed.
    hosts: u64,
    lost_hosts: Vec<usize>,
    /// Copies of streams that were lost with it.
    lost: u64,
    /// Copies that came to streamers, until the next moment.
    came: u64,
    /// Since when no stream lacked a streamer, until the next moment.
    mended_at: Option<Nanos>,
    missing_max: u64,
    doubled_max: u64,
}

/// When something happened last.
#[derive(Default)]
struct StoryMoments {
    /// The phase began.
    since: Nanos,
    /// The phase was judged.
    looked_at: Nanos,
    sampled_at: Nanos,
}

struct StoryFleet<'a> {
    polled: PolledStreamers<'a>,
    queried: &'a QueriedStreamers,
    placement: Placement,
    story: Vec<StoryStep>,
    next_step: usize,
    phase: Phase,
    moments: StoryMoments,
    /// How long nothing must change, before a placement counts as final.
    quiet: Nanos,
    random: Random,
    signals: &'a Signals,
    incidents: Vec<Incident>,
    samples: Vec<StorySample>,
    faults: Faults,
    failed: Option<String>,
}

impl StoryFleet<'_> {
    /// Counts what came to streamers and what left them, and lets them run it.
    fn judge(&mut self) {
        let mut changed = BTreeSet::new();
        for change in self.polled.take_changes() {
            self.placement.changed_at = change.when;
            changed.insert(change.at);
            if !change.came {
                self.placement.went(change.key);
                continue;
            }
            if self.placement.came(change.key).is_none() {
                self.faults.add(Fault {
                    kind: FaultKind::Stale,
                    streamer: self.polled.hosts[change.at].clone(),
                    stream: None,
                    what: "a stream that was never saved".into(),
                });
            }
            if let Some(incident) = self.incidents.last_mut() {
                incident.came += 1;
            }
        }
        for at in changed {
            self.run_held(at);
        }
        let (missing, doubled) = (self.placement.missing, self.placement.doubled);
        if let Some(incident) = self.incidents.last_mut() {
            incident.missing_max = incident.missing_max.max(missing);
            incident.doubled_max = incident.doubled_max.max(doubled);
            if missing > 0 {
                incident.mended_at = None;
            } else if incident.mended_at.is_none() {
                incident.mended_at = Some(self.placement.changed_at.max(incident.at));
            }
        }
    }

    /// The streamer reports that it runs what it holds.
    fn run_held(&self, at: usize) {
        let held = self.polled.held(at).iter();
        let names = held.filter_map(|key| self.placement.name(*key).map(str::to_owned));
        let names = names.collect();
        self.queried.with(at, |streamer| streamer.streams = names);
    }

    fn hosts_of(&mut self, target: &StoryTarget) -> Vec<usize> {
        let all = 0..self.polled.hosts.len();
        match target {
            StoryTarget::All => all.collect(),
            StoryTarget::Region(region) => all
                .filter(|at| *region == format!("r{}", *at as u64 % UNPLACED_LABELS))
                .collect(),
            StoryTarget::Host(host) => all.filter(|at| self.polled.hosts[*at] == *host).collect(),
            StoryTarget::Share(share) => {
                let mut living = self.polled.living();
                let count = (living.len() as f64 * share).ceil() as usize;
                let mut chosen = Vec::new();
                while chosen.len() < count && !living.is_empty() {
                    let at = self.random.below(living.len() as u64) as usize;
                    chosen.push(living.swap_remove(at));
                }
                chosen
            }
        }
    }

    /// Plays the lines of one moment.
    fn play(&mut self, net: &mut Net, steps: &[StoryStep], now: Nanos) {
        let texts: Vec<&str> = steps.iter().map(|step| &*step.text).collect();
        let mut incident = Incident {
            text: texts.join("; "),
            at: now,
            at_ms: unix_ms(),
            hosts: 0,
            lost_hosts: Vec::new(),
            lost: 0,
            came: 0,
            mended_at: None,
            missing_max: 0,
            doubled_max: 0,
        };
        for step in steps {
            let living: BTreeSet<usize> = self.polled.living().into_iter().collect();
            let mut hosts = self.hosts_of(&step.target);
            match step.verb {
                Verb::Return => hosts.retain(|at| {
                    let manner = self.queried.with(*at, |streamer| streamer.manner);
                    manner != Manner::Right || !living.contains(at)
                }),
                _ => hosts.retain(|at| living.contains(at)),
            }
            incident.hosts += hosts.len() as u64;
            for at in &hosts {
                incident.lost += self.change(net, *at, step.verb, now);
            }
            if step.verb.loses() {
                incident.lost_hosts.extend(hosts);
            }
        }
        self.incidents.push(incident);
    }

    /// One streamer's part of a line. Returns the copies that are lost with it.
    fn change(&mut self, net: &mut Net, at: usize, verb: Verb, now: Nanos) -> u64 {
        let manner = match verb {
            Verb::Lose => Manner::Closed,
            Verb::Hang => Manner::Silent,
            Verb::Trickle => Manner::Trickle,
            Verb::Flood => Manner::Flood,
            Verb::Lie => Manner::Lies,
            Verb::Restart | Verb::Return => Manner::Right,
        };
        let held = match verb {
            Verb::Lose | Verb::Restart => self.polled.lose(net, at),
            Verb::Hang => self.polled.hang(at),
            Verb::Trickle | Verb::Flood | Verb::Lie | Verb::Return => Vec::new(),
        };
        for key in &held {
            self.placement.went(*key);
        }
        let is_living = self.polled.is_living(at);
        self.queried.with(at, |streamer| {
            streamer.manner = manner;
            if !is_living {
                streamer.streams = Vec::new();
                streamer.started_at = unix_ms() / 1000;
                streamer.config.clear();
            }
        });
        if matches!(verb, Verb::Restart | Verb::Return) && !is_living {
            self.polled.start(net, at, now);
        }
        held.len() as u64
    }

    fn enter(&mut self, phase: Phase, now: Nanos) {
        (self.phase, self.moments.since) = (phase, now);
    }

    fn step(&mut self, net: &mut Net, now: Nanos) {
        self.moments.looked_at = now;
        let is_whole = self.placement.missing == 0 && self.placement.doubled == 0;
        let is_quiet = now >= self.placement.changed_at + self.quiet && !net.has_completed();
        match self.phase {
            Phase::Loading => {
                if self.polled.has_loaded() {
                    self.signals.loaded.store(true, Ordering::Release);
                    self.enter(Phase::Placing, now);
                }
            }
            Phase::Placing => {
                let has_saved = self.signals.saved_at.load(Ordering::Acquire) > 0;
                if has_saved && is_whole && is_quiet {
                    self.enter(Phase::Playing(now), now);
                }
            }
            Phase::Playing(began) => {
                let due = self.story[self.next_step..].iter();
                let due = due.take_while(|step| began + step.at <= now);
                let due: Vec<StoryStep> = due.cloned().collect();
                self.next_step += due.len();
                for moment in due.chunk_by(|one, next| one.at == next.at) {
                    self.play(net, moment, now);
                }
                // The story is no part of the time that a phase may take.
                self.moments.since = now;
                if self.next_step == self.story.len() {
                    self.enter(Phase::Settling, now);
                }
            }
            Phase::Settling => {
                if is_whole && is_quiet {
                    self.end(net, now);
                }
            }
            Phase::Done => {}
        }
        self.sample(now);
        if self.phase != Phase::Done && now > self.moments.since + PHASE_MAX {
            self.failed = Some(format!(
                "{:?} has not ended after {} s: {} copies of streams are with no streamer, {} are \
                 too many (is the layouter on?)",
                self.phase,
                PHASE_MAX / SECOND,
                self.placement.missing,
                self.placement.doubled
            ));
            self.end(net, now);
        }
    }

    fn sample(&mut self, now: Nanos) {
        let is_played = matches!(self.phase, Phase::Playing(_) | Phase::Settling);
        if !is_played || now < self.moments.sampled_at + SAMPLE_EVERY {
            return;
        }
        self.moments.sampled_at = now;
        let began = self.samples.first().map_or(now, |first| first.at);
        self.samples.push(StorySample {
            at: now,
            seconds: (now - began) / SECOND,
            missing: self.placement.missing,
            doubled: self.placement.doubled,
            living: self.polled.living().len() as u64,
        });
    }

    fn end(&mut self, net: &mut Net, now: Nanos) {
        self.enter(Phase::Done, now);
        self.polled.close(net);
    }
}

impl Driver for StoryFleet<'_> {
    fn due(&mut self, net: &mut Net, now: Nanos) {
        self.polled.poll_due(net, now);
        self.step(net, now);
    }

    fn next_due(&self) -> Option<Nanos> {
        if self.phase == Phase::Done {
            return None;
        }
        let look = self.moments.looked_at + LOOK_EVERY;
        Some(self.polled.next_due().map_or(look, |at| at.min(look)))
    }

    fn completed(&mut self, net: &mut Net, completion: Completion) {
        self.polled.completed(net, completion);
        self.judge();
    }

    fn is_finished(&self) -> bool {
        self.phase == Phase::Done
    }
}

/// The cluster of a story, and the story.
fn read(
    common: &Common,
    options: &cli::Fleet,
    file: &str,
) -> Result<(ClusterOptions, Vec<StoryStep>), String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let story = story::parse(&text).map_err(|what| format!("{file}: {what}"))?;
    let streamers = options.simulated.streamers.unwrap_or(100);
    if !(2..=queried::STREAMERS_MAX).contains(&streamers) {
        let most = queried::STREAMERS_MAX;
        return Err(format!("--streamers must be from 2 to {most}"));
    }
    if streamers * DESCRIPTORS_EACH + DESCRIPTORS_SPARE > sys::descriptors_max() {
        return Err("more streamers than descriptors: raise `ulimit -n`".into());
    }
    let hosts: BTreeSet<String> = (0..streamers).map(prepare::hostname).collect();
    for step in &story {
        if let StoryTarget::Host(host) = &step.target
            && !hosts.contains(host)
        {
            return Err(format!("{file}: {host} is no streamer"));
        }
    }
    let streams = options.streams;
    let cluster = ClusterOptions::unplaced(streamers, streams, options.backups, common.seed);
    Ok((cluster, story))
}

impl<'a> StoryFleet<'a> {
    fn new(
        common: &Common,
        (cluster, story): (&ClusterOptions, Vec<StoryStep>),
        target: &'a Target,
        queried: &'a QueriedStreamers,
        signals: &'a Signals,
    ) -> Self {
        let hosts = (0..cluster.streamers).map(prepare::hostname).collect();
        Self {
            polled: PolledStreamers::new(target, hosts, common.timeout),
            queried,
            placement: Placement::new(cluster.copies()),
            story,
            next_step: 0,
            phase: Phase::Loading,
            moments: StoryMoments::default(),
            quiet: common.warm_up,
            random: Random::new(common.seed),
            signals,
            incidents: Vec::new(),
            samples: Vec::new(),
            faults: Faults::default(),
            failed: None,
        }
    }
}

pub fn run(
    common: &Common,
    options: &cli::Fleet,
    file: &str,
    target: &Target,
) -> Result<Report, String> {
    let (mut cluster, story) = read(common, options, file)?;
    let hosts = (0..cluster.streamers).map(prepare::hostname);
    let keys = hosts.map(|host| cluster_key(common.seed, &host));
    let queried = QueriedStreamers::new(keys);
    let failed = |error: std::io::Error| format!("event loop: {error}");
    let server = QueryServer::new(&queried).map_err(failed)?;
    cluster.query_port = Some(server.port().map_err(failed)?);
    let mut control = Control::new(target);
    let streamers_only = ClusterOptions {
        streams: 0,
        ..cluster.clone()
    };
    prepare::run(&mut control, &streamers_only, &mut |_| {})?;
    let clock = Clock::start();
    let signals = Signals::default();
    let mut fleet = StoryFleet::new(common, (&cluster, story), target, &queried, &signals);
    let cpu = sys::cpu_time();
    thread::scope(|scope| {
        let server = scope.spawn(|| server.run());
        let operator = scope.spawn(|| failover::operate(target, &cluster, &signals, clock));
        let finished = Net::new(clock, target.address, &common.source)
            .and_then(|mut net| net::run(&mut net, &mut [&mut fleet], &mut |_| false))
            .map_err(failed);
        let saved = operator.join().expect("the operator does not panic");
        let known = finished
            .and(saved)
            .and_then(|()| match fleet.failed.take() {
                Some(what) => Err(what),
                None => wait_until_known(&mut control, &cluster, common.settle, clock),
            });
        queried.end();
        let served = server.join().expect("the server does not panic");
        known.and(served.map_err(failed))
    })?;
    let busy = sys::cpu_time();
    let lines = fleet.story.len();
    let scenario = format!(
        "story ({} streams, {} streamers, {lines} lines)",
        cluster.streams, cluster.streamers
    );
    let size = (cluster.streams, clock.now());
    let mut report = fleet.polled.report(scenario, size, (cpu, busy));
    add_incidents(&mut report, &mut fleet, &mut control)?;
    for (name, count) in [
        ("queries of stats", &queried.stats_queries),
        ("queries of pages of streams", &queried.page_queries),
        ("queries of recorded times", &queried.range_queries),
        ("configurations that were written", &queried.config_writes),
        ("queries that were refused", &queried.refused),
    ] {
        let count = count.load(Ordering::Relaxed);
        report.counters.insert(name.into(), count);
    }
    report.faults = fleet.faults;
    report.timeline = fleet.samples;
    report.series.insert("long poll".into(), fleet.polled.polls);
    Ok(report)
}

/// Waits until the server knows, from the answers of the streamers, that all streams run.
fn wait_until_known(
    control: &mut Control,
    cluster: &ClusterOptions,
    longest: Nanos,
    clock: Clock,
) -> Result<(), String> {
    let streams = cluster.streams;
    let deadline = clock.now() + longest;
    loop {
        let path = "/streams?stats.status=running&limit=1&select=name";
        let list = read_json(control, path)?;
        let count = list["estimated_count"].as_u64().unwrap_or(0);
        if count == streams {
            return Ok(());
        }
        if clock.now() > deadline {
            return Err(format!(
                "the server knows of {count} of {streams} streams that they run (it needs \
                 --streamer-queries, and --outbound-loopback)"
            ));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn read_json(control: &mut Control, path: &str) -> Result<Value, String> {
    let response = control.expect("GET", path, None)?;
    let body = response.decoded().map_err(str::to_owned)?;
    serde_json::from_slice(&body).map_err(|error| format!("{path}: {error}"))
}

/// When the server noticed that streamers were lost, UTC ms, by hostname, in order.
fn losses_noticed(control: &mut Control) -> Result<HashMap<String, Vec<u64>>, String> {
    let mut losses: HashMap<String, Vec<u64>> = HashMap::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/events?event=layouter_streamer_state&sort=utc_ms&limit=1000{cursor}");
        let page = read_json(control, &path)?;
        for event in page["events"].as_array().map_or(&[][..], Vec::as_slice) {
            if let (Some("down"), Some(host), Some(at)) = (
                event["state"].as_str(),
                event["entity_id"].as_str(),
                event["utc_ms"].as_u64(),
            ) {
                losses.entry(host.to_owned()).or_default().push(at);
            }
        }
        let Some(next) = page["next"].as_str() else {
            return Ok(losses);
        };
        cursor = format!("&cursor={}", encode_segment(next));
    }
}

fn add_incidents(
    report: &mut Report,
    fleet: &mut StoryFleet<'_>,
    control: &mut Control,
) -> Result<(), String> {
    let losses = losses_noticed(control)?;
    let mut ends: Vec<u64> = fleet
        .incidents
        .iter()
        .skip(1)
        .map(|next| next.at_ms)
        .collect();
    ends.push(u64::MAX);
    for (incident, end_ms) in std::mem::take(&mut fleet.incidents).into_iter().zip(ends) {
        let mut detection = Latency::default();
        let (mut unnoticed, mut last_ms) = (0, incident.at_ms);
        for at in &incident.lost_hosts {
            let noticed = losses.get(&fleet.polled.hosts[*at]).and_then(|times| {
                let mut times = times.iter();
                times
                    .find(|at| (incident.at_ms..end_ms).contains(at))
                    .copied()
            });
            match noticed {
                Some(at_ms) => {
                    detection.record((at_ms - incident.at_ms) * 1_000_000);
                    last_ms = last_ms.max(at_ms);
                }
                None => unnoticed += 1,
            }
        }
        if detection.count() > 0 {
            let name = "loss until the server notices".to_owned();
            report.wakes.entry(name).or_default().merge(&detection);
        }
        let mended_ms = incident.mended_at.map(|at| (at - incident.at) / 1_000_000);
        report.incidents.push(StoryIncident {
            text: incident.text,
            streamers: incident.hosts,
            unnoticed,
            noticed_last_ms: (detection.count() > 0).then(|| last_ms - incident.at_ms),
            mended_ms,
            lost: incident.lost,
            came: incident.came,
            missing_max: incident.missing_max,
            doubled_max: incident.doubled_max,
        });
    }
    Ok(())
}
