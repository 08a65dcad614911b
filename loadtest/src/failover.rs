//! `failover`: streamers are parked, the layouter fills them, one after another falls silent, and
//! the others must receive its streams.
//!
//! Proven: after each loss every stream is held as often as before, no stream was taken from a
//! streamer that lives, and none came to one that had not been lost. Measured: from the loss that
//! the server detected the loss (the time is in its event) until the last streamer has the answer
//! to its parked poll.

use crate::cli::{self, Common};
use crate::control::{Control, Target};
use crate::copy::FaultKind;
use crate::net::{self, Clock, Completion, Driver, Net};
use crate::polled::{Placement, PolledStreamers};
use crate::prepare;
use crate::report::{Fault, Faults, Latency, Report};
use crate::schedule::{Nanos, SECOND};
use crate::seed::{Key, Random};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weir_testkit::encode_segment;
use weir_testkit::sys;

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

/// What the driver and the operator share.
#[derive(Default)]
pub struct Signals {
    /// All streamers have their first lists.
    pub loaded: AtomicBool,
    /// When all streams were saved; 0: not yet.
    pub saved_at: AtomicU64,
}

struct FailoverFleet<'a> {
    polled: PolledStreamers<'a>,
    placement: Placement,
    /// When all streams were held for the first time.
    placed_at: Nanos,
    phase: Phase,
    moments: Moments,
    /// How long the fleet waits for further changes, before a placement counts as final.
    quiet: Nanos,
    random: Random,
    signals: &'a Signals,
    losses_wanted: u64,
    losses: Vec<Loss>,
    lost_streams: BTreeSet<Key>,
    faults: Faults,
    failed: Option<String>,
}

/// When something happened last.
struct Moments {
    /// The phase began.
    since: Nanos,
    /// The phase was judged.
    looked_at: Nanos,
}

impl FailoverFleet<'_> {
    fn fault(&mut self, kind: FaultKind, at: usize, key: Key, what: &str) {
        self.faults.add(Fault {
            kind,
            streamer: self.polled.hosts[at].clone(),
            stream: self.placement.name(key).map(str::to_owned),
            what: what.into(),
        });
    }

    /// Judges what came to streamers and what left them.
    fn judge(&mut self) {
        for change in self.polled.take_changes() {
            self.placement.changed_at = change.when;
            if change.came {
                self.came(change.at, change.key);
            } else {
                self.placement.went(change.key);
                if let Phase::Lost { .. } = self.phase {
                    let what = "was taken from a streamer that lives";
                    self.fault(FaultKind::Shortened, change.at, change.key, what);
                }
            }
        }
    }

    fn came(&mut self, at: usize, key: Key) {
        if self.placement.came(key).is_none() {
            self.fault(FaultKind::Stale, at, key, "a stream that was never saved");
            return;
        }
        if let Phase::Lost { .. } = self.phase {
            let loss = self.losses.last_mut().expect("one was lost");
            loss.receivers.insert(at as u32);
            if !self.lost_streams.contains(&key) {
                let what = "came though the streamer that was lost did not hold it";
                self.fault(FaultKind::Torn, at, key, what);
            }
        }
    }

    fn lose_one(&mut self, net: &mut Net, now: Nanos) {
        let alive = self.polled.living();
        let at = alive[self.random.below(alive.len() as u64) as usize];
        let held = self.polled.lose(net, at);
        for key in &held {
            self.placement.went(*key);
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
                if self.polled.has_loaded() {
                    self.signals.loaded.store(true, Ordering::Release);
                    self.enter(Phase::Placing, now);
                }
            }
            Phase::Placing => {
                if self.signals.saved_at.load(Ordering::Acquire) > 0 && self.placement.missing == 0
                {
                    self.placed_at = self.placement.changed_at;
                    let losses_left = self.losses_wanted;
                    self.enter(Phase::Resting { losses_left }, now);
                }
            }
            Phase::Resting { losses_left } => {
                if now < self.placement.changed_at + self.quiet || net.has_completed() {
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
                    loss.received_at = self.placement.changed_at.max(loss.at);
                    // What else it does is watched for a while: nothing of others may move.
                    if now >= self.placement.changed_at + self.quiet && !net.has_completed() {
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
        self.polled.close(net);
    }
}

impl Driver for FailoverFleet<'_> {
    fn due(&mut self, net: &mut Net, now: Nanos) {
        self.polled.poll_due(net, now);
        self.step(net, now);
    }

    fn next_due(&self) -> Option<Nanos> {
        if self.phase == Phase::Done {
            return None;
        }
        let asks = self.polled.next_due();
        let look = self.moments.looked_at + LOOK_EVERY;
        Some(asks.map_or(look, |at| at.min(look)))
    }

    fn completed(&mut self, net: &mut Net, completion: Completion) {
        self.polled.completed(net, completion);
        self.judge();
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
    let (streamers, streams) = (options.streamers, options.streams);
    prepare::ClusterOptions::unplaced(streamers, streams, options.backups, common.seed)
}

impl<'a> FailoverFleet<'a> {
    fn new(
        common: &Common,
        options: &cli::Failover,
        target: &'a Target,
        signals: &'a Signals,
    ) -> Self {
        let cluster = cluster(common, options);
        let hosts = (0..options.streamers).map(prepare::hostname).collect();
        FailoverFleet {
            polled: PolledStreamers::new(target, hosts, common.timeout),
            placement: Placement::new(cluster.copies()),
            placed_at: 0,
            phase: Phase::Loading,
            moments: Moments {
                since: 0,
                looked_at: 0,
            },
            quiet: common.warm_up,
            random: Random::new(common.seed),
            signals,
            losses_wanted: options.losses,
            losses: Vec::new(),
            lost_streams: BTreeSet::new(),
            faults: Faults::default(),
            failed: None,
        }
    }
}

/// The operator: saves the streams once all streamers have their first lists.
pub fn operate(
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
    let signals = Signals::default();
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
    let scenario = format!(
        "failover ({} streams, {} streamers, {} lost one after another)",
        options.streams, options.streamers, options.losses
    );
    let size = (options.streams, clock.now());
    let mut report = fleet.polled.report(scenario, size, (cpu, busy));
    add_losses(&mut report, &fleet, &mut control, started_ms)?;
    report.faults = fleet.faults;
    report.series.insert("long poll".into(), fleet.polled.polls);
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
        let host = &fleet.polled.hosts[loss.host as usize];
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
            fleet.placed_at.saturating_sub(saved_at) / 1_000_000,
        ),
    ] {
        report.counters.insert(name.into(), count);
    }
    Ok(())
}
