//! `failover`: streamers are parked, the layouter fills them, one after another falls silent, and
//! the others must receive its streams.
//!
//! Proven: after each loss every stream is held as often as before, no stream was taken from a
//! streamer that lives, and none came to one that had not been lost. Measured: from the loss that
//! the server detected the loss (the time is in its event) until the last streamer has the answer
//! to its parked poll.

use crate::answer;
use crate::cli::{self, Common};
use crate::control::{Control, Target};
use crate::copy::FaultKind;
use crate::net::{self, Clock, Completion, ConnId, Driver, Net};
use crate::prepare::{self, Spread};
use crate::report::{Fault, Faults, Latency, Proof, Report, Series};
use crate::schedule::{Nanos, SECOND};
use crate::seed::{Key, Random};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weir_testkit::sys;
use weir_testkit::{encode_segment, request};

/// How long polls are parked.
const WAIT_SECONDS: u64 = 25;
/// Longest for any phase: first lists, all placed, all moved.
const PHASE_MAX: Nanos = 300 * SECOND;
/// How often the phases are looked at when nothing arrives.
const LOOK_EVERY: Nanos = 20_000_000;

const DESCRIPTORS_SPARE: u64 = 64;

/// One loss, as the streamers saw it.
#[derive(Debug)]
struct Loss {
    host: u32,
    /// Copies of streams that it held.
    held: u64,
    /// When its connection was closed.
    at: Nanos,
    /// When another streamer received the last of its streams.
    received_at: Nanos,
    /// Streamers that got something.
    receivers: BTreeSet<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Streamers get their first lists; the cluster has no streams yet.
    Loading,
    /// Streams are saved; the layouter spreads them.
    Placing,
    /// All are placed: until nothing has changed for a while.
    Resting {
        losses_left: u64,
    },
    /// A streamer is silent.
    Lost {
        losses_left: u64,
    },
    Done,
}

struct Streamer {
    conn: Option<ConnId>,
    etag: Option<Box<str>>,
    /// Sorted.
    held: Vec<Key>,
    loaded: bool,
    is_lost: bool,
    /// When to poll next.
    poll_at: Option<Nanos>,
}

/// What the driver and the operator share.
struct Signals {
    loaded: AtomicBool,
    saved_at: AtomicU64,
}

struct FailoverFleet<'a> {
    target: &'a Target,
    hosts: Vec<String>,
    streamers: Vec<Streamer>,
    placement: Placement,
    phase: Phase,
    moments: Moments,
    waits: Waits,
    random: Random,
    signals: &'a Signals,
    losses_wanted: u64,
    losses: Vec<Loss>,
    lost_streams: BTreeSet<Key>,
    polls: Series,
    faults: Faults,
    failed: Option<String>,
}

/// The streams that the streamers hold.
struct Placement {
    /// How many streamers hold each stream, and how many shall.
    copies: HashMap<Key, (u32, u32)>,
    names: HashMap<Key, String>,
    /// Copies that no streamer holds yet.
    missing: u64,
    /// When all were held for the first time.
    placed_at: Nanos,
}

/// How long the fleet waits.
struct Waits {
    /// For further changes, before a placement counts as final.
    quiet: Nanos,
    /// For a response.
    timeout: Nanos,
}

/// When something happened last.
struct Moments {
    /// The phase began.
    since: Nanos,
    /// A streamer received another configuration.
    changed_at: Nanos,
    /// The phase was judged.
    looked_at: Nanos,
}

impl FailoverFleet<'_> {
    fn poll(&mut self, net: &mut Net, at: usize, now: Nanos) {
        let streamer = &mut self.streamers[at];
        streamer.poll_at = None;
        let path = self.target.path_of("streamers", &self.hosts[at]) + "/streams";
        let mut fields = self.target.bearer();
        let mut timeout = self.waits.timeout;
        let path = if let Some(etag) = &streamer.etag {
            fields.push_str("If-None-Match: ");
            fields.push_str(etag);
            fields.push_str("\r\n");
            timeout += WAIT_SECONDS * SECOND;
            format!("{path}?poll_timeout={WAIT_SECONDS}")
        } else {
            path
        };
        let conn = match streamer.conn {
            Some(conn) => conn,
            None => match net.open(0, at as u64) {
                Ok(conn) => conn,
                Err(failure) => {
                    self.polls.error(failure.0);
                    streamer.poll_at = Some(now + SECOND);
                    return;
                }
            },
        };
        streamer.conn = Some(conn);
        let mut request = Vec::with_capacity(384);
        request::write(&mut request, "GET", &path, &self.target.host, &fields, None);
        net.send(conn, &request, now, timeout);
    }

    fn fault(&mut self, kind: FaultKind, at: usize, key: Key, what: &str) {
        self.faults.add(Fault {
            kind,
            streamer: self.hosts[at].clone(),
            stream: self.placement.names.get(&key).cloned(),
            what: what.into(),
        });
    }

    /// A streamer's new list: what came, what went.
    fn take(&mut self, at: usize, body: &[u8], now: Nanos) -> Result<(), &'static str> {
        let mut fresh = Vec::new();
        answer::read(body, &mut |item| fresh.push(item.key()))?;
        fresh.sort_unstable();
        let before = std::mem::take(&mut self.streamers[at].held);
        for key in &fresh {
            if before.binary_search(key).is_err() {
                self.came(at, *key);
                self.moments.changed_at = now;
            }
        }
        for key in &before {
            if fresh.binary_search(key).is_err() {
                self.went(at, *key);
                self.moments.changed_at = now;
            }
        }
        self.streamers[at].held = fresh;
        self.streamers[at].loaded = true;
        Ok(())
    }

    fn came(&mut self, at: usize, key: Key) {
        let Some((held, wanted)) = self.placement.copies.get_mut(&key) else {
            self.fault(FaultKind::Stale, at, key, "a stream that was never saved");
            return;
        };
        *held += 1;
        let is_too_often = *held > *wanted;
        if !is_too_often {
            self.placement.missing -= 1;
        }
        if let Phase::Lost { .. } = self.phase {
            let loss = self.losses.last_mut().expect("one was lost");
            loss.receivers.insert(at as u32);
            if !self.lost_streams.contains(&key) {
                self.fault(
                    FaultKind::Torn,
                    at,
                    key,
                    "came though the streamer that was lost did not hold it",
                );
            }
        }
    }

    fn went(&mut self, at: usize, key: Key) {
        if let Some((held, wanted)) = self.placement.copies.get_mut(&key) {
            *held -= 1;
            if *held < *wanted {
                self.placement.missing += 1;
            }
        }
        if let Phase::Lost { .. } = self.phase {
            self.fault(
                FaultKind::Shortened,
                at,
                key,
                "was taken from a streamer that lives",
            );
        }
    }

    fn lose_one(&mut self, net: &mut Net, now: Nanos) {
        let alive: Vec<usize> = (0..self.streamers.len())
            .filter(|at| !self.streamers[*at].is_lost)
            .collect();
        let at = alive[self.random.below(alive.len() as u64) as usize];
        let streamer = &mut self.streamers[at];
        streamer.is_lost = true;
        streamer.poll_at = None;
        if let Some(conn) = streamer.conn.take() {
            net.close(conn);
        }
        let held = std::mem::take(&mut streamer.held);
        for key in &held {
            if let Some((count, wanted)) = self.placement.copies.get_mut(key) {
                *count -= 1;
                if *count < *wanted {
                    self.placement.missing += 1;
                }
            }
        }
        self.losses.push(Loss {
            host: at as u32,
            held: held.len() as u64,
            at: now,
            received_at: now,
            receivers: BTreeSet::new(),
        });
        self.lost_streams = held.into_iter().collect();
    }

    fn enter(&mut self, phase: Phase, now: Nanos) {
        (self.phase, self.moments.since) = (phase, now);
    }

    fn step(&mut self, net: &mut Net, now: Nanos) {
        self.moments.looked_at = now;
        match self.phase {
            Phase::Loading => {
                if self.streamers.iter().all(|streamer| streamer.loaded) {
                    self.signals.loaded.store(true, Ordering::Release);
                    self.enter(Phase::Placing, now);
                }
            }
            Phase::Placing => {
                if self.signals.saved_at.load(Ordering::Acquire) > 0 && self.placement.missing == 0
                {
                    self.placement.placed_at = self.moments.changed_at;
                    let losses_left = self.losses_wanted;
                    self.enter(Phase::Resting { losses_left }, now);
                }
            }
            Phase::Resting { losses_left } => {
                if now < self.moments.changed_at + self.waits.quiet || net.has_completed() {
                    return;
                }
                if losses_left == 0 {
                    self.end(net, now);
                } else {
                    self.enter(
                        Phase::Lost {
                            losses_left: losses_left - 1,
                        },
                        now,
                    );
                    self.lose_one(net, now);
                }
            }
            Phase::Lost { losses_left } => {
                if self.placement.missing == 0 {
                    let loss = self.losses.last_mut().expect("one was lost");
                    loss.received_at = self.moments.changed_at.max(loss.at);
                    // What else it does is watched for a while: nothing of others may move.
                    if now >= self.moments.changed_at + self.waits.quiet && !net.has_completed() {
                        self.enter(Phase::Resting { losses_left }, now);
                    }
                }
            }
            Phase::Done => {}
        }
        if self.phase != Phase::Done && now > self.moments.since + PHASE_MAX {
            self.failed = Some(format!(
                "{:?} has not ended after {} s: {} copies of streams are with no streamer (is the \
                 layouter on?)",
                self.phase,
                PHASE_MAX / SECOND,
                self.placement.missing
            ));
            self.end(net, now);
        }
    }

    fn end(&mut self, net: &mut Net, now: Nanos) {
        self.enter(Phase::Done, now);
        for streamer in &mut self.streamers {
            if let Some(conn) = streamer.conn.take() {
                net.close(conn);
            }
        }
    }
}

impl Driver for FailoverFleet<'_> {
    fn due(&mut self, net: &mut Net, now: Nanos) {
        for at in 0..self.streamers.len() {
            if self.streamers[at].poll_at.is_some_and(|due| due <= now) {
                self.poll(net, at, now);
            }
        }
        self.step(net, now);
    }

    fn next_due(&self) -> Option<Nanos> {
        if self.phase == Phase::Done {
            return None;
        }
        let asks = self.streamers.iter().filter_map(|one| one.poll_at).min();
        let look = self.moments.looked_at + LOOK_EVERY;
        Some(asks.map_or(look, |at| at.min(look)))
    }

    fn completed(&mut self, net: &mut Net, completion: Completion) {
        let at = completion.user as usize;
        let streamer = &mut self.streamers[at];
        if streamer.conn != Some(completion.conn) {
            return; // of a connection we closed ourselves
        }
        if completion.closed {
            streamer.conn = None;
        }
        let now = completion.received;
        let response = match (completion.outcome, completion.times) {
            (Err(_), None) => return,
            (Err(failure), Some(_)) => {
                self.polls.error(failure.0);
                streamer.poll_at = Some(now + SECOND);
                return;
            }
            (Ok(response), _) => response,
        };
        *self.polls.statuses.entry(response.status).or_default() += 1;
        self.polls.bytes += response.wire_bytes;
        match response.status {
            200 => {
                streamer.etag.clone_from(&response.etag().map(Into::into));
                let taken = match response.decoded() {
                    Ok(body) => self.take(at, &body, now),
                    Err(what) => Err(what),
                };
                if let Err(what) = taken {
                    self.polls
                        .error(format!("an answer that is not whole: {what}"));
                }
                self.poll(net, at, now);
            }
            304 => self.poll(net, at, now),
            status => {
                self.polls.error(format!("status {status}"));
                streamer.poll_at = Some(now + SECOND);
            }
        }
    }

    fn is_finished(&self) -> bool {
        self.phase == Phase::Done
    }
}

fn wall_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// When the server noticed the loss of a streamer, by its own clock, and for how long it had been
/// silent then.
fn noticed(control: &mut Control, host: &str) -> Result<(u64, u64), String> {
    let mut path = String::from("/events?event=layouter_streamer_state&entity_id=");
    path.push_str(&encode_segment(host));
    path.push_str("&sort=-utc_ms&limit=1");
    let response = control.expect("GET", &path, None)?;
    let body = response.decoded().map_err(str::to_owned)?;
    let list: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let event = &list["events"][0];
    match (event["utc_ms"].as_u64(), event["silent_ms"].as_u64()) {
        (Some(at_ms), Some(silent_ms)) => Ok((at_ms, silent_ms)),
        _ => Err(format!("no event of the loss of {host}: {event}")),
    }
}

/// The cluster that is prepared: streamers first, streams once all of them poll.
fn cluster(common: &Common, options: &cli::Failover) -> prepare::ClusterOptions {
    prepare::ClusterOptions {
        streamers: options.streamers,
        streams: options.streams,
        spread: Spread::None,
        backups: options.backups,
        labels: 10,
        padding: 0,
        batch: 2000,
        seed: common.seed,
    }
}

impl<'a> FailoverFleet<'a> {
    fn new(
        common: &Common,
        options: &cli::Failover,
        target: &'a Target,
        signals: &'a Signals,
    ) -> Self {
        let cluster = cluster(common, options);
        let streams = (0..options.streams).map(|n| {
            let wanted = 1 + u32::from(prepare::has_backup(n, &cluster));
            (prepare::stream_name(n), wanted)
        });
        let names = streams.clone().map(|(name, _)| (Key::of(&name), name));
        let copies: HashMap<Key, (u32, u32)> = streams
            .clone()
            .map(|(name, wanted)| (Key::of(&name), (0, wanted)))
            .collect();
        let streamer = |_| Streamer {
            conn: None,
            etag: None,
            held: Vec::new(),
            loaded: false,
            is_lost: false,
            poll_at: Some(0),
        };
        FailoverFleet {
            target,
            hosts: (0..options.streamers).map(prepare::hostname).collect(),
            streamers: (0..options.streamers).map(streamer).collect(),
            placement: Placement {
                missing: copies.values().map(|(_, wanted)| u64::from(*wanted)).sum(),
                names: names.collect(),
                copies,
                placed_at: 0,
            },
            phase: Phase::Loading,
            moments: Moments {
                since: 0,
                changed_at: 0,
                looked_at: 0,
            },
            waits: Waits {
                quiet: common.warm_up,
                timeout: common.timeout,
            },
            random: Random::new(common.seed),
            signals,
            losses_wanted: options.losses,
            losses: Vec::new(),
            lost_streams: BTreeSet::new(),
            polls: Series::default(),
            faults: Faults::default(),
            failed: None,
        }
    }
}

/// The operator: saves the streams once all streamers have their first lists.
fn operate(
    target: &Target,
    cluster: &prepare::ClusterOptions,
    signals: &Signals,
    clock: Clock,
) -> Result<(), String> {
    let mut control = Control::new(target);
    while !signals.loaded.load(Ordering::Acquire) {
        if clock.now() > PHASE_MAX {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(5));
    }
    let saved = prepare::run(&mut control, cluster, &mut |_| {});
    let now = clock.now().max(1);
    signals.saved_at.store(now, Ordering::Release);
    saved
}

pub fn run(common: &Common, options: &cli::Failover, target: &Target) -> Result<Report, String> {
    if options.streamers + DESCRIPTORS_SPARE > sys::descriptors_max() {
        return Err("more streamers than descriptors: raise `ulimit -n`".into());
    }
    if options.losses >= options.streamers {
        return Err("--losses: at least one streamer must stay".into());
    }
    let cluster = cluster(common, options);
    let streamers_only = prepare::ClusterOptions {
        streams: 0,
        ..cluster.clone()
    };
    let mut control = Control::new(target);
    prepare::run(&mut control, &streamers_only, &mut |_| {})?;
    let clock = Clock::start();
    let started_ms = wall_ms();
    let signals = Signals {
        loaded: AtomicBool::new(false),
        saved_at: AtomicU64::new(0),
    };
    let mut fleet = FailoverFleet::new(common, options, target, &signals);
    let cpu = sys::cpu_time();
    thread::scope(|scope| {
        let operator = scope.spawn(|| operate(target, &cluster, &signals, clock));
        let mut net = Net::new(clock, target.address, &common.source)
            .map_err(|error| format!("event loop: {error}"))?;
        net::run(&mut net, &mut [&mut fleet], &mut |_| false)
            .map_err(|error| format!("event loop: {error}"))?;
        operator.join().expect("the operator does not panic")
    })?;
    let busy = sys::cpu_time();
    if let Some(what) = fleet.failed.take() {
        return Err(what);
    }
    let mut report = Report {
        scenario: format!(
            "failover ({} streams, {} streamers, {} lost one after another)",
            options.streams, options.streamers, options.losses
        ),
        seconds: clock.now() as f64 / 1e9,
        cpu_user: busy.0.saturating_sub(cpu.0).as_secs_f64(),
        cpu_system: busy.1.saturating_sub(cpu.1).as_secs_f64(),
        proof: Some(Proof {
            streamers: options.streamers,
            streams: options.streams,
            answers: fleet.polls.statuses.values().sum(),
            ..Proof::default()
        }),
        ..Report::default()
    };
    add_losses(&mut report, &fleet, &mut control, started_ms)?;
    report.faults = fleet.faults;
    report.series.insert("long poll".into(), fleet.polls);
    Ok(report)
}

/// How long each loss took to be detected and to reach all streamers, and how much moved.
fn add_losses(
    report: &mut Report,
    fleet: &FailoverFleet<'_>,
    control: &mut Control,
    started_ms: u64,
) -> Result<(), String> {
    let (mut detection, mut delivery) = (Latency::default(), Latency::default());
    let (mut moved, mut receivers) = (0, 0);
    for loss in &fleet.losses {
        let host = &fleet.hosts[loss.host as usize];
        let (noticed_ms, silent_ms) = noticed(control, host)?;
        let after = |at: Nanos| at / 1_000_000;
        // By two clocks, and the earlier one counts.
        let noticed_after_ms = noticed_ms
            .saturating_sub(started_ms)
            .min(after(loss.at) + silent_ms);
        detection.record(noticed_after_ms.saturating_sub(after(loss.at)) * 1_000_000);
        delivery.record(after(loss.received_at).saturating_sub(noticed_after_ms) * 1_000_000);
        moved += loss.held;
        receivers += loss.receivers.len() as u64;
    }
    for (name, latency) in [
        ("loss until the server notices", detection),
        ("detection until all streamers have the list", delivery),
    ] {
        report.wakes.insert(name.into(), latency);
    }
    let saved_at = fleet.signals.saved_at.load(Ordering::Acquire);
    for (name, count) in [
        ("copies of streams on lost streamers", moved),
        ("streamers that received them", receivers),
        (
            "ms from the last save until all were placed and received",
            fleet.placement.placed_at.saturating_sub(saved_at) / 1_000_000,
        ),
    ] {
        report.counters.insert(name.into(), count);
    }
    Ok(())
}
