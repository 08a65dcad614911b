//! Simulated streamers: each polls for its list, keeps its own copy, and logs when it polled and
//! what it received.
//!
//! They live in one thread's event loop, a connection each. A failed connection is opened again
//! after a pause, as a streamer would; the failure is counted.

use crate::copy::{Copy, FaultKind, Notes};
use crate::net::{Completion, ConnId, Driver, Net};
use crate::plan::{Plan, Want};
use crate::report::{Fault, Faults, Latency, Series};
use crate::schedule::{Nanos, SECOND, poll_at};
use crate::seed::{Key, mix};
use sha1::{Digest, Sha1};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use weir_testkit::{Response, request};

/// First polls are spread so that this many begin per second and thread: loading is not what is
/// measured.
const LOADS_PER_SECOND: u64 = 4000;
/// First pause before a failed connection is opened again; doubled up to 32 times as long.
const RETRY: Nanos = 100_000_000;
/// A parked poll that is answered without news is repeated after this pause, or it would spin.
const SPURIOUS_PAUSE: Nanos = 100_000_000;
/// Between two storms.
const STORM_PAUSE: Nanos = SECOND;

/// How a streamer validates its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validator {
    /// It does not: every answer is the whole list.
    None,
    /// `If-None-Match`.
    Etag,
    /// `If-None-Match` and `changes_since`.
    Delta,
}

/// The behaviour of streamers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Polls every so often.
    Poll { interval: Nanos },
    /// Is always parked.
    Park { wait_seconds: u64 },
    /// All connect at once and load their lists; then all hang up; again.
    Storm { rounds: u32 },
}

#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// Over all threads.
    pub count: u64,
    /// The first one is this streamer of the cluster, the others follow.
    pub first_host: u64,
    pub habit: Habit,
    /// Given to streamers in turn.
    pub validators: Vec<Validator>,
    /// `Accept-Encoding`, given to streamers in turn.
    pub encodings: Vec<&'static str>,
    /// Use the streamer's own key instead of the administrator's.
    pub cluster_key: Option<u64>,
}

/// The key that `prepare` gives to a streamer.
pub fn cluster_key(seed: u64, hostname: &str) -> String {
    format!("{:016x}", mix(Key::of(hostname).0 ^ mix(seed)))
}

/// `Authorization: Cluster` at a time.
pub fn cluster_authorization(unix: u64, key: &str) -> String {
    let digest = Sha1::digest(format!("{unix}:{key}"));
    let mut out = format!("Cluster {unix}:");
    for byte in digest {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// The log of one streamer, for the comparison with the operators.
#[derive(Debug, Default)]
pub struct Log {
    pub host: u32,
    /// When each answered poll was sent and read, in order.
    pub answers: Vec<(Nanos, Nanos)>,
    /// Edits received: stream, number, when read. In order.
    pub edits: Vec<(Key, u64, Nanos)>,
    /// Streams outside the assigned ones that were added or removed, and the index of the answer.
    pub moves: Vec<(Key, bool, u32)>,
}

struct Agent {
    conn: Option<ConnId>,
    in_flight: bool,
    validator: Validator,
    encoding: &'static str,
    copy: Copy,
    etag: Option<Box<str>>,
    delta_since: Option<u64>,
    polls: u64,
    failures: u32,
    /// The poll that is waited for was meant for this time.
    intended: Nanos,
    answered_once: bool,
    wanted: Vec<(Key, Want)>,
    settled: bool,
    round: u32,
    log: Log,
}

impl Agent {
    /// Logs an answer, and the edits and moves that it brought.
    fn note(&mut self, sent: Nanos, received: Nanos, notes: &Notes) {
        let log = &mut self.log;
        log.answers.push((sent, received));
        let answer = log.answers.len() as u32 - 1;
        let edits = notes.edits.iter().map(|(key, seq)| (*key, *seq, received));
        log.edits.extend(edits);
        let moves = notes.moves.iter();
        log.moves
            .extend(moves.map(|(key, present)| (*key, *present, answer)));
    }

    /// Brings the copy and its validators up to date; false if the status is an error.
    fn take(&mut self, response: &Response, assigned: &[Key], notes: &mut Notes) -> bool {
        match response.status {
            200 => {
                if response.etag().is_none() && self.validator != Validator::None {
                    self.etag = None;
                }
                match response.decoded() {
                    Ok(body) => self.copy.take(&body, assigned, notes),
                    Err(what) => notes.faults.push((FaultKind::Torn, None, what.to_owned())),
                }
                if self.validator != Validator::None {
                    self.etag.clone_from(&response.etag().map(Into::into));
                }
                if self.validator == Validator::Delta {
                    self.delta_since = self.copy.revision;
                }
            }
            304 if self.etag.is_some() => (),
            410 if self.delta_since.is_some() => {
                self.etag = None;
                self.delta_since = None;
            }
            _ => return false,
        }
        true
    }
}

/// The results of one driver.
#[derive(Default)]
pub struct FleetOutcome {
    pub series: BTreeMap<&'static str, Series>,
    pub wakes: BTreeMap<&'static str, Latency>,
    pub counters: BTreeMap<&'static str, u64>,
    pub faults: Faults,
    /// Log and last copy of each streamer.
    pub agents: Vec<(Log, Copy)>,
    /// Streamers that never got a whole answer.
    pub unloaded: u64,
}

pub struct Streamers {
    plan: Arc<Plan>,
    index: usize,
    options: FleetOptions,
    agents: Vec<Agent>,
    timers: BinaryHeap<Reverse<(Nanos, u32)>>,
    base: Nanos,
    outcome: FleetOutcome,
    /// Since when streamers only wait for the last changes.
    settling: Option<Settling>,
    round: u32,
    round_start: Nanos,
    round_left: usize,
    done: bool,
}

struct Settling {
    since: Nanos,
    writers_done: Nanos,
    left: usize,
    quiet_since: Nanos,
}

impl Streamers {
    pub fn new(
        plan: &Arc<Plan>,
        index: usize,
        thread: u64,
        options: FleetOptions,
        now: Nanos,
    ) -> Streamers {
        let hosts = plan.roster.hosts.len() as u64;
        let agents: Vec<Agent> = (0..options.count)
            .filter(|n| n % plan.threads == thread)
            .map(|n| Agent {
                conn: None,
                in_flight: false,
                validator: options.validators
                    [(n / hosts.max(1) + n) as usize % options.validators.len()],
                encoding: options.encodings[(n / 3) as usize % options.encodings.len()],
                copy: Copy::default(),
                etag: None,
                delta_since: None,
                polls: 0,
                failures: 0,
                intended: 0,
                answered_once: false,
                wanted: Vec::new(),
                settled: false,
                round: 0,
                log: Log {
                    host: ((n + options.first_host) % hosts) as u32,
                    ..Log::default()
                },
            })
            .collect();
        let mut streamers = Streamers {
            plan: Arc::clone(plan),
            index,
            timers: BinaryHeap::new(),
            base: now + agents.len() as u64 * SECOND / LOADS_PER_SECOND,
            outcome: FleetOutcome::default(),
            settling: None,
            round: 0,
            round_start: now,
            round_left: agents.len(),
            done: agents.is_empty(),
            agents,
            options,
        };
        for agent in 0..streamers.agents.len() as u32 {
            let at = match streamers.options.habit {
                Habit::Storm { .. } => now,
                _ => now + u64::from(agent) * SECOND / LOADS_PER_SECOND,
            };
            streamers.agents[agent as usize].intended = at;
            streamers.timers.push(Reverse((at, agent)));
        }
        streamers
    }

    pub fn into_outcome(mut self) -> FleetOutcome {
        self.outcome.unloaded = self
            .agents
            .iter()
            .filter(|agent| !agent.copy.is_loaded())
            .count() as u64;
        let agents = self.agents.into_iter();
        self.outcome.agents = agents.map(|agent| (agent.log, agent.copy)).collect();
        self.outcome
    }

    fn poll(&mut self, net: &mut Net, at: u32, now: Nanos) {
        let agent = &mut self.agents[at as usize];
        if agent.in_flight {
            return;
        }
        let host = &self.plan.roster.hosts[agent.log.host as usize];
        let target = &self.plan.target;
        let mut path = format!("{}/streamers/{}/streams", target.prefix, host.name);
        let mut fields = match self.options.cluster_key {
            None => target.bearer(),
            Some(seed) => {
                let unix = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |t| t.as_secs());
                let credentials = cluster_authorization(unix, &cluster_key(seed, &host.name));
                format!("Authorization: {credentials}\r\n")
            }
        };
        if !agent.encoding.is_empty() {
            let _ = write!(fields, "Accept-Encoding: {}\r\n", agent.encoding);
        }
        let mut separator = '?';
        let mut timeout = self.plan.times.timeout;
        if let Some(etag) = &agent.etag {
            let _ = write!(fields, "If-None-Match: {etag}\r\n");
            if let Habit::Park { wait_seconds } = self.options.habit {
                let _ = write!(path, "{separator}poll_timeout={wait_seconds}");
                separator = '&';
                timeout += wait_seconds * SECOND;
            }
        }
        if let Some(since) = agent.delta_since {
            let _ = write!(path, "{separator}changes_since={since}");
        }
        let mut request = Vec::with_capacity(384);
        request::write(&mut request, "GET", &path, &target.host, &fields, None);
        let conn = match agent.conn {
            Some(conn) => conn,
            None => match net.open(self.index, u64::from(at)) {
                Ok(conn) => conn,
                Err(failure) => {
                    self.failed(at, failure.0, now);
                    return;
                }
            },
        };
        let agent = &mut self.agents[at as usize];
        agent.conn = Some(conn);
        agent.in_flight = true;
        net.send(conn, &request, agent.intended, timeout);
    }

    fn failed(&mut self, at: u32, what: String, now: Nanos) {
        let name = self.series_name(at);
        self.outcome.series.entry(name).or_default().error(what);
        let agent = &mut self.agents[at as usize];
        agent.in_flight = false;
        agent.failures += 1;
        let pause = RETRY << agent.failures.min(5);
        let jitter = mix(u64::from(at) ^ now) % RETRY;
        self.timers.push(Reverse((now + pause + jitter, at)));
    }

    fn series_name(&self, at: u32) -> &'static str {
        match (self.options.habit, self.agents[at as usize].validator) {
            (Habit::Poll { .. }, Validator::None) => "poll, whole list",
            (Habit::Poll { .. }, Validator::Etag) => "poll, ETag",
            (Habit::Poll { .. }, Validator::Delta) => "poll, changes",
            (Habit::Park { .. }, _) => "long poll",
            (Habit::Storm { .. }, _) => "reconnect",
        }
    }

    fn count(&mut self, name: &'static str) {
        *self.outcome.counters.entry(name).or_default() += 1;
    }

    /// Books an answer; true if the streamer's copy was brought up to date by it.
    fn answered(&mut self, at: u32, completion: &Completion) {
        let (Ok(response), Some(times)) = (&completion.outcome, completion.times) else {
            return;
        };
        let name = self.series_name(at);
        let parked = matches!(self.options.habit, Habit::Park { .. });
        let counts = match self.options.habit {
            Habit::Poll { .. } => self.plan.counts(times.intended),
            Habit::Park { .. } => self.plan.counts(completion.received),
            Habit::Storm { .. } => self.is_counted_round(),
        };
        let series = self.outcome.series.entry(name).or_default();
        if counts {
            *series.statuses.entry(response.status).or_default() += 1;
            series.bytes += response.wire_bytes;
            if !parked {
                series.latency.record(completion.received - times.intended);
                series
                    .late
                    .record(times.sent.saturating_sub(times.intended));
            }
        }
        let agent = &mut self.agents[at as usize];
        agent.in_flight = false;
        let mut notes = Notes::default();
        let assigned = &self.plan.roster.hosts[agent.log.host as usize].assigned;
        if !agent.take(response, assigned, &mut notes) {
            let what = format!("status {}", response.status);
            self.failed(at, what, completion.received);
            return;
        }
        agent.failures = 0;
        agent.note(times.sent, completion.received, &notes);
        let first = !agent.answered_once && agent.copy.is_loaded();
        agent.answered_once |= first;
        let was_parked = parked && !first;
        let spurious = was_parked && response.status == 200 && !notes.changed;
        let early = was_parked
            && response.status == 304
            && matches!(self.options.habit, Habit::Park { wait_seconds }
                if completion.received - times.sent + SECOND < wait_seconds * SECOND);
        let host = agent.log.host;
        for (kind, stream, what) in notes.faults {
            self.outcome.faults.add(Fault {
                kind,
                streamer: self.plan.roster.hosts[host as usize].name.clone(),
                stream: stream.map(|key| self.plan.roster.name_of(key)),
                what,
            });
        }
        if first {
            self.plan.streamer_ready();
        }
        if spurious {
            self.count("parked polls answered without news");
        }
        if early {
            self.count("parked polls sent home before their time");
        }
        if notes.changed
            && let Some(settling) = &mut self.settling
        {
            settling.quiet_since = completion.received;
        }
        self.schedule_next(at, completion.received, spurious || early);
        if self.settling.is_some() {
            self.settle(at);
        }
    }

    fn schedule_next(&mut self, at: u32, now: Nanos, pause: bool) {
        let base = self.base;
        let agent = &mut self.agents[at as usize];
        agent.intended = match self.options.habit {
            Habit::Park { .. } if pause => now + SPURIOUS_PAUSE,
            Habit::Park { .. } => now,
            Habit::Poll { interval } => {
                let number = u64::from(at) ^ self.plan.seed << 20;
                // Polls from before the streamer had its first list are not owed.
                let owed_from = if agent.polls == 0 { now } else { 0 };
                loop {
                    let due = poll_at(base, interval, number, agent.polls);
                    agent.polls += 1;
                    if due >= owed_from {
                        break due;
                    }
                }
            }
            Habit::Storm { .. } => {
                if agent.round == self.round {
                    agent.round += 1;
                    self.round_left -= 1;
                }
                return;
            }
        };
        self.timers.push(Reverse((agent.intended, at)));
    }

    /// The first storm warms up, unless it is the only one.
    fn is_counted_round(&self) -> bool {
        matches!(self.options.habit, Habit::Storm { rounds } if rounds == 1 || self.round > 0)
    }

    fn storm(&mut self, net: &mut Net, now: Nanos) {
        let Habit::Storm { rounds } = self.options.habit else {
            return;
        };
        if self.round_left > 0 {
            if now > self.round_start + self.plan.times.timeout + self.plan.times.duration {
                // Streamers still without an answer count as unloaded or by their errors.
                self.done = true;
            }
            return;
        }
        if self.round_start <= now && self.agents.iter().all(|agent| agent.round > self.round) {
            if self.is_counted_round() {
                let last = self
                    .agents
                    .iter()
                    .filter_map(|agent| agent.log.answers.last())
                    .map(|(_, read)| *read);
                let took = last.max().unwrap_or(now) - self.round_start;
                self.outcome
                    .wakes
                    .entry("storm: until the last has its list")
                    .or_default()
                    .record(took);
            }
            self.round += 1;
            if self.round >= rounds || self.plan.is_over(now) {
                self.done = true;
                return;
            }
            for at in 0..self.agents.len() as u32 {
                if let Some(conn) = self.agents[at as usize].conn.take() {
                    net.close(conn);
                }
                self.agents[at as usize].intended = now + STORM_PAUSE;
                self.timers.push(Reverse((now + STORM_PAUSE, at)));
            }
            self.round_start = now + STORM_PAUSE;
            self.round_left = self.agents.len();
        }
    }

    /// Checks whether this streamer has received all changes that it must receive.
    fn settle(&mut self, at: u32) {
        let Some(settling) = &mut self.settling else {
            return;
        };
        let agent = &mut self.agents[at as usize];
        if agent.settled {
            return;
        }
        let copy = &agent.copy;
        agent.wanted.retain(|(key, want)| {
            let entry = copy.find(*key);
            match want {
                Want::Edit(seq) => entry.is_none_or(|entry| entry.edit < *seq),
                Want::Present(present) => entry.is_some() != *present,
            }
        });
        let polled_since = match self.options.habit {
            Habit::Poll { .. } => agent
                .log
                .answers
                .last()
                .is_some_and(|(sent, _)| *sent >= settling.writers_done),
            _ => true,
        };
        if agent.wanted.is_empty() && polled_since {
            agent.settled = true;
            settling.left -= 1;
        }
    }

    /// After the operators are done: the last changes, and which streamers have them.
    fn watch_the_end(&mut self, net: &mut Net, now: Nanos) {
        if matches!(self.options.habit, Habit::Storm { .. }) {
            return;
        }
        if self.settling.is_none() {
            let Some((_, window)) = self.plan.begin() else {
                return;
            };
            let Some((writers_done, wanted)) = self.plan.wanted() else {
                return;
            };
            if now < window.end && (writers_done == 0 || wanted.is_empty()) {
                return;
            }
            let mut by_host = BTreeMap::<u32, Vec<(Key, Want)>>::new();
            for (host, key, want) in wanted {
                by_host.entry(host).or_default().push((key, want));
            }
            let left = self.agents.len();
            self.settling = Some(Settling {
                since: now,
                writers_done,
                left,
                quiet_since: now,
            });
            for at in 0..self.agents.len() as u32 {
                let agent = &mut self.agents[at as usize];
                agent.wanted = by_host.get(&agent.log.host).cloned().unwrap_or_default();
                self.settle(at);
            }
        }
        let Some(settling) = &self.settling else {
            return;
        };
        // Parked streamers may still receive changes of streams they back up: they get the grace
        // period.
        let (grace, rounds) = match self.options.habit {
            Habit::Park { .. } => (self.plan.times.grace, 0),
            Habit::Poll { interval } => (0, 2 * interval), // every streamer must have polled
            Habit::Storm { .. } => (0, 0),
        };
        let knows_all = settling.left == 0 && now >= settling.quiet_since + grace;
        if (knows_all || now > settling.since + self.plan.times.settle + rounds)
            && !net.has_completed()
        {
            for agent in &mut self.agents {
                if let Some(conn) = agent.conn.take() {
                    net.close(conn);
                }
            }
            self.done = true;
        }
    }
}

impl Driver for Streamers {
    fn due(&mut self, net: &mut Net, now: Nanos) {
        if self.done {
            return;
        }
        while let Some(Reverse((due, at))) = self.timers.peek().copied() {
            if due > now {
                break;
            }
            self.timers.pop();
            self.poll(net, at, now);
        }
        self.storm(net, now);
        self.watch_the_end(net, now);
    }

    fn next_due(&self) -> Option<Nanos> {
        if self.done {
            None
        } else {
            self.timers.peek().map(|Reverse((due, _))| *due)
        }
    }

    fn completed(&mut self, _net: &mut Net, completion: Completion) {
        let at = completion.user as u32;
        let agent = &mut self.agents[at as usize];
        if self.done || agent.conn != Some(completion.conn) {
            return; // of a connection we closed ourselves
        }
        if completion.closed {
            agent.conn = None;
        }
        self.plan
            .answers
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match (&completion.outcome, completion.times) {
            // An idle connection that the server closed is opened again with the next poll.
            (Err(_), None) => (),
            (Err(failure), Some(_)) => {
                let what = failure.0.clone();
                self.failed(at, what, completion.received);
            }
            (Ok(_), _) => self.answered(at, &completion),
        }
    }

    fn is_finished(&self) -> bool {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_header_is_the_documented_one() {
        assert_eq!(
            cluster_authorization(1_700_000_000, "xS6i6Q3DCc5nEvnu"),
            "Cluster 1700000000:28665cd1597a4cdd90d896012fef330bf5357bbe"
        );
    }
}
