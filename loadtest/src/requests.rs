//! Requests at a constant rate over a pool of connections: readers, and operators that edit and
//! move streams.
//!
//! Open-loop: an arrival that finds no free connection waits, and its latency counts from when it
//! was meant to be sent. Operators keep a history of what they sent and what was acknowledged; no
//! stream has two changes in flight, so that the order of its edits is certain, and a stream whose
//! change has an unknown outcome is left alone from then on.

use crate::answer;
use crate::net::{Completion, ConnId, Driver, Net};
use crate::plan::{Edit, Move, Plan, Want, Wanted};
use crate::report::Series;
use crate::schedule::{Arrivals, Nanos, SECOND};
use crate::seed::{Key, Random};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use weir_testkit::{encode_segment, request};

/// Arrivals that wait for a connection; beyond it the server is hopelessly behind and they count as
/// errors.
const BACKLOG_MAX: usize = 1_000_000;
/// After a failed connection a slot rests this long.
const REST: Nanos = 100_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditField {
    Title,
    Input,
}

#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Reads one stream.
    Get,
    /// Walks the list of streams page by page.
    List { limit: usize },
    /// Changes a rendered field of `touch` streams on as many streamers, in one request.
    Edit { field: EditField, touch: usize },
    /// Moves a stream to another streamer.
    Move,
}

#[derive(Clone, Copy, Debug)]
pub struct RequestOptions {
    pub work: Work,
    /// Per second over all threads; none: as fast as the connections allow.
    pub rate: Option<f64>,
    pub connections: usize,
    /// Requests in flight per connection.
    pub pipeline: usize,
}

enum Op {
    Get(u32),
    List,
    /// Rows of `edits`.
    Edit(std::ops::Range<usize>),
    /// Row of `moves`.
    Move(usize),
}

#[derive(Default)]
struct Slot {
    conn: Option<ConnId>,
    in_flight: VecDeque<Op>,
    rest_until: Nanos,
    /// A walk's place.
    cursor: Option<String>,
    last_name: String,
}

/// The results of one driver.
#[derive(Default)]
pub struct RequestOutcome {
    pub series: Series,
    pub edits: Vec<Edit>,
    pub moves: Vec<Move>,
}

pub struct Requests {
    plan: Arc<Plan>,
    /// Index of this driver in its thread.
    index: usize,
    thread: u64,
    options: RequestOptions,
    fields: String,
    random: Random,
    arrivals: Option<Arrivals>,
    closed_loop_left: u64,
    backlog: VecDeque<Nanos>,
    slots: Vec<Slot>,
    /// Slots that can take a request, each as often as it can take one.
    open: Vec<u32>,
    in_flight: usize,
    streams: OwnStreams,
    done: bool,
    outcome: RequestOutcome,
}

/// The streams that one driver may choose from.
struct OwnStreams {
    all: Vec<u32>,
    /// All of them by streamer, for requests that touch several.
    by_host: Vec<Vec<u32>>,
    /// Streams with a change in flight or of unknown outcome.
    busy: HashSet<Key>,
    places: HashMap<Key, u32>,
}

impl Requests {
    pub fn new(plan: &Arc<Plan>, index: usize, thread: u64, options: RequestOptions) -> Requests {
        let roster = &plan.roster;
        let writes = matches!(options.work, Work::Edit { .. } | Work::Move);
        let mine: Vec<u32> = (0..roster.streams.len() as u32)
            .filter(|at| {
                let stream = &roster.streams[*at as usize];
                let fits = match options.work {
                    Work::Edit { .. } => stream.ingest.is_some() && !stream.mover && !stream.unsure,
                    Work::Move => stream.mover,
                    Work::Get | Work::List { .. } => true,
                };
                fits && (!writes || u64::from(*at) % plan.threads == thread)
            })
            .collect();
        let mut by_host = Vec::new();
        if let Work::Edit { touch, .. } = options.work
            && touch > 1
        {
            by_host = vec![Vec::new(); roster.hosts.len()];
            for at in &mine {
                let host = roster.streams[*at as usize]
                    .ingest
                    .expect("only such streams are edited");
                by_host[host as usize].push(*at);
            }
            by_host.retain(|streams| !streams.is_empty());
        }
        if writes {
            plan.writer_starts();
        }
        let pipeline = if matches!(options.work, Work::List { .. }) {
            1
        } else {
            options.pipeline
        };
        let slots: Vec<Slot> = (0..options.connections).map(|_| Slot::default()).collect();
        Requests {
            index,
            thread,
            options,
            fields: plan.target.bearer(),
            random: Random::new(plan.seed ^ crate::seed::mix(thread * 16 + index as u64)),
            arrivals: None,
            closed_loop_left: plan.requests_max / plan.threads,
            backlog: VecDeque::new(),
            open: (0..slots.len() as u32 * pipeline as u32)
                .map(|n| n % slots.len() as u32)
                .collect(),
            slots,
            in_flight: 0,
            streams: OwnStreams {
                all: mine,
                by_host,
                busy: HashSet::new(),
                places: HashMap::new(),
            },
            done: false,
            outcome: RequestOutcome::default(),
            plan: Arc::clone(plan),
        }
    }

    pub fn into_outcome(self) -> RequestOutcome {
        self.outcome
    }

    fn writes(&self) -> bool {
        matches!(self.options.work, Work::Edit { .. } | Work::Move)
    }

    /// Sends what waits, as far as connections are free.
    fn pump(&mut self, net: &mut Net, now: Nanos) {
        while let Some(slot) = self.open.pop() {
            let intended = match self.backlog.front() {
                Some(intended) => *intended,
                None if self.options.rate.is_none()
                    && self.closed_loop_left > 0
                    && !self.plan.is_over(now) =>
                {
                    net.clock.now()
                }
                None => {
                    self.open.push(slot);
                    return;
                }
            };
            if self.slots[slot as usize].rest_until > now {
                self.open.push(slot);
                self.open.rotate_right(1); // another slot may be awake
                if self
                    .open
                    .iter()
                    .all(|slot| self.slots[*slot as usize].rest_until > now)
                {
                    return;
                }
                continue;
            }
            let plan_counts = self.plan.counts(intended); // warm-up is not limited
            let mut request = Vec::with_capacity(256);
            let Some(op) = self.make(slot, intended, now, &mut request) else {
                self.open.push(slot);
                return;
            };
            if self.backlog.pop_front().is_none() {
                self.closed_loop_left -= u64::from(plan_counts);
            }
            let conn = match self.slots[slot as usize].conn {
                Some(conn) => conn,
                None => match net.open(self.index, u64::from(slot)) {
                    Ok(conn) => conn,
                    Err(failure) => {
                        self.slots[slot as usize].rest_until = now + REST;
                        self.outcome.series.error(failure.0);
                        self.end(op, None, now, false);
                        self.open.insert(0, slot);
                        continue;
                    }
                },
            };
            let state = &mut self.slots[slot as usize];
            state.conn = Some(conn);
            state.in_flight.push_back(op);
            self.in_flight += 1;
            net.send(conn, &request, intended, self.plan.times.timeout);
        }
    }

    /// Chooses what to do and writes the request; none: nothing can be done just now.
    fn make(&mut self, slot: u32, intended: Nanos, now: Nanos, out: &mut Vec<u8>) -> Option<Op> {
        let plan = Arc::clone(&self.plan);
        let (target, roster) = (&plan.target, &plan.roster);
        match self.options.work {
            Work::Get => {
                let at = *self.pick()?;
                let path = target.path_of("streams", &roster.streams[at as usize].name);
                request::write(out, "GET", &path, &target.host, &self.fields, None);
                Some(Op::Get(at))
            }
            Work::List { limit } => {
                let mut path = format!("{}/streams?limit={limit}", target.prefix);
                if let Some(cursor) = &self.slots[slot as usize].cursor {
                    path.push_str("&cursor=");
                    path.push_str(&encode_segment(cursor));
                }
                request::write(out, "GET", &path, &target.host, &self.fields, None);
                Some(Op::List)
            }
            Work::Edit { field, touch } => self.make_edit(&plan, field, touch, intended, out),
            Work::Move => self.make_move(&plan, now, out),
        }
    }

    /// One edit of `touch` streams: a single save, or one atomic batch.
    fn make_edit(
        &mut self,
        plan: &Plan,
        field: EditField,
        touch: usize,
        intended: Nanos,
        out: &mut Vec<u8>,
    ) -> Option<Op> {
        let (target, roster) = (&plan.target, &plan.roster);
        let chosen = self.choose_streams(touch)?;
        let seq = plan.next_seq();
        let first = self.outcome.edits.len();
        let mut items = Vec::with_capacity(chosen.len());
        for at in &chosen {
            let stream = &roster.streams[*at as usize];
            self.streams.busy.insert(stream.key);
            self.outcome.edits.push(Edit {
                seq,
                stream: stream.key,
                host: stream.ingest.expect("only such streams are edited"),
                intended,
                acked: None,
            });
            let change = match field {
                EditField::Title => format!("\"title\":\"loadtest edit={seq}\""),
                EditField::Input => {
                    let name = encode_segment(&stream.name);
                    let url = format!("tshttp://127.0.0.1:8080/{name}?edit={seq}");
                    format!("\"inputs\":[{{\"url\":\"{url}\"}}]")
                }
            };
            items.push(if touch == 1 {
                format!("{{{change}}}")
            } else {
                format!("{{\"name\":{},{change}}}", json_string(&stream.name))
            });
        }
        let (path, body) = if touch == 1 {
            let name = &roster.streams[chosen[0] as usize].name;
            (target.path_of("streams", name), items.remove(0))
        } else {
            let path = format!("{}/streams/batch", target.prefix);
            (path, format!("[{}]", items.join(",")))
        };
        let body = Some(body.as_bytes());
        request::write(out, "PUT", &path, &target.host, &self.fields, body);
        Some(Op::Edit(first..self.outcome.edits.len()))
    }

    /// One move of a stream to another streamer.
    fn make_move(&mut self, plan: &Plan, now: Nanos, out: &mut Vec<u8>) -> Option<Op> {
        let (target, roster) = (&plan.target, &plan.roster);
        let at = self.choose_streams(1)?[0];
        let stream = &roster.streams[at as usize];
        let from = self
            .streams
            .places
            .get(&stream.key)
            .copied()
            .or(stream.ingest)
            .expect("only such streams are moved");
        let hosts = roster.hosts.len() as u64;
        if hosts < 2 {
            return None;
        }
        let to = ((u64::from(from) + 1 + self.random.below(hosts - 1)) % hosts) as u32;
        self.streams.busy.insert(stream.key);
        self.outcome.moves.push(Move {
            stream: stream.key,
            from,
            to,
            sent: now,
            acked: None,
        });
        let (name, host) = (
            json_string(&stream.name),
            json_string(&roster.hosts[to as usize].name),
        );
        let body = format!("{{\"layouts\":[{{\"name\":{name},\"ingest\":{host}}}]}}");
        let path = format!("{}/streams/layouts", target.prefix);
        let body = Some(body.as_bytes());
        request::write(out, "POST", &path, &target.host, &self.fields, body);
        Some(Op::Move(self.outcome.moves.len() - 1))
    }

    fn pick(&mut self) -> Option<&u32> {
        let count = self.streams.all.len() as u64;
        if count == 0 {
            None
        } else {
            self.streams.all.get(self.random.below(count) as usize)
        }
    }

    /// `count` streams on as many streamers, none of them with a change in flight.
    fn choose_streams(&mut self, count: usize) -> Option<Vec<u32>> {
        let plan = Arc::clone(&self.plan);
        let is_free =
            |busy: &HashSet<Key>, at: u32| !busy.contains(&plan.roster.streams[at as usize].key);
        if count == 1 {
            for _ in 0..64 {
                let at = *self.pick()?;
                if is_free(&self.streams.busy, at) {
                    return Some(vec![at]);
                }
            }
            return self
                .streams
                .all
                .iter()
                .copied()
                .find(|at| is_free(&self.streams.busy, *at))
                .map(|at| vec![at]);
        }
        if self.streams.by_host.is_empty() {
            return None;
        }
        let start = self.random.below(self.streams.by_host.len() as u64) as usize;
        let mut chosen = Vec::with_capacity(count);
        for n in 0..self.streams.by_host.len() {
            let streams = &self.streams.by_host[(start + n) % self.streams.by_host.len()];
            let first = self.random.below(streams.len() as u64) as usize;
            let mut turn = (0..streams.len()).map(|m| streams[(first + m) % streams.len()]);
            chosen.extend(turn.find(|at| is_free(&self.streams.busy, *at)));
            if chosen.len() == count {
                return Some(chosen);
            }
        }
        None
    }

    /// Books the end of one operation. `body`: the answer, if one came. `refused`: it certainly was
    /// not done.
    fn end(&mut self, op: Op, body: Option<&[u8]>, now: Nanos, refused: bool) {
        match op {
            Op::Get(_) | Op::List => (),
            Op::Edit(rows) => {
                let stamp =
                    body.map(|body| answer::integer_member(body, "updated_at").unwrap_or(0));
                for row in &mut self.outcome.edits[rows] {
                    row.acked = stamp.map(|stamp| (now, stamp));
                    if row.acked.is_some() || refused {
                        self.streams.busy.remove(&row.stream);
                    }
                }
            }
            Op::Move(row) => {
                let row = &mut self.outcome.moves[row];
                row.acked = body.map(|_| now);
                if row.acked.is_some() || refused {
                    self.streams.busy.remove(&row.stream);
                }
                if row.acked.is_some() {
                    self.streams.places.insert(row.stream, row.to);
                }
            }
        }
    }

    /// Checks an answer of success; an error names what is wrong with it.
    fn check(&mut self, slot: usize, op: &Op, body: &[u8]) -> Result<(), String> {
        match op {
            Op::Get(at) => {
                let name = json_string(&self.plan.roster.streams[*at as usize].name);
                let members = answer::members(body)?;
                let found = members.iter().find(|(member, _)| *member == b"name");
                match found {
                    Some((_, raw)) if *raw == name.as_bytes() => Ok(()),
                    _ => Err("the answer names another stream".into()),
                }
            }
            Op::List => {
                let state = &mut self.slots[slot];
                let mut last = std::mem::take(&mut state.last_name);
                let mut backwards = false;
                let envelope = answer::read(body, &mut |item| {
                    backwards |= !last.is_empty() && last.as_bytes() >= item.name.as_bytes();
                    last = item.name.into_owned();
                })?;
                state.last_name = if envelope.next.is_some() {
                    last
                } else {
                    String::new()
                };
                state.cursor = envelope.next;
                if backwards {
                    Err("a page repeats or goes back".into())
                } else {
                    Ok(())
                }
            }
            Op::Edit(_) | Op::Move(_) => Ok(()),
        }
    }

    fn finish_if_over(&mut self, now: Nanos) {
        if self.done || !(self.plan.is_over(now) || self.is_spent()) {
            return;
        }
        let Some((_, window)) = self.plan.begin() else {
            return;
        };
        if now > window.end + self.plan.times.timeout && !self.backlog.is_empty() {
            for _ in 0..self.backlog.len() {
                self.outcome
                    .series
                    .error("not sent: no connection was free");
            }
            self.backlog.clear();
        }
        if self.in_flight > 0 || !self.backlog.is_empty() {
            return;
        }
        self.done = true;
        if self.writes() {
            self.plan.writer_is_done(now, &self.wanted());
        }
    }

    /// All requests that were allowed have been sent.
    fn is_spent(&self) -> bool {
        match &self.arrivals {
            Some(arrivals) => arrivals.next_due().is_none(),
            None => self.options.rate.is_none() && self.closed_loop_left == 0,
        }
    }

    /// The changes that streamers must receive: the last acknowledged one of every stream.
    fn wanted(&self) -> Vec<Wanted> {
        let mut last_edits = HashMap::new();
        for edit in self
            .outcome
            .edits
            .iter()
            .filter(|edit| edit.acked.is_some())
        {
            last_edits.insert(edit.stream, (edit.host, edit.stream, Want::Edit(edit.seq)));
        }
        let mut wanted: Vec<_> = last_edits.into_values().collect();
        let mut last_moves = HashMap::new();
        for moved in &self.outcome.moves {
            last_moves.insert(moved.stream, moved);
        }
        for moved in last_moves.values().filter(|moved| moved.acked.is_some()) {
            wanted.push((moved.from, moved.stream, Want::Present(false)));
            wanted.push((moved.to, moved.stream, Want::Present(true)));
        }
        wanted
    }
}

fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always JSON")
}

impl Driver for Requests {
    fn due(&mut self, net: &mut Net, now: Nanos) {
        let Some((begin, window)) = self.plan.begin() else {
            return;
        };
        if self.arrivals.is_none()
            && let Some(rate) = self.options.rate
        {
            let threads = self.plan.threads;
            let phase = self.thread as f64 / threads as f64;
            let rate = rate / threads as f64;
            let warm_up = (window.warm_end - begin) as f64 / SECOND as f64 * rate; // not limited
            let count_max = self.plan.requests_max / threads + warm_up as u64;
            self.arrivals = Some(Arrivals::new(begin, window.end, rate, phase, count_max));
        }
        if let Some(arrivals) = &mut self.arrivals {
            while let Some(intended) = arrivals.take(now) {
                if self.backlog.len() < BACKLOG_MAX {
                    self.backlog.push_back(intended);
                } else {
                    self.outcome
                        .series
                        .error("not sent: no connection was free");
                }
            }
        }
        self.pump(net, now);
        self.finish_if_over(now);
    }

    fn next_due(&self) -> Option<Nanos> {
        self.arrivals.as_ref().and_then(Arrivals::next_due)
    }

    fn completed(&mut self, net: &mut Net, completion: Completion) {
        let slot = completion.user as usize;
        if self.slots[slot].conn == Some(completion.conn) && completion.closed {
            self.slots[slot].conn = None;
        }
        let Some(times) = completion.times else {
            return;
        };
        let op = self.slots[slot]
            .in_flight
            .pop_front()
            .expect("a completion belongs to a request");
        self.in_flight -= 1;
        self.open.push(slot as u32);
        self.plan
            .answers
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let counts = self.plan.counts(times.intended);
        match completion.outcome {
            Err(failure) => {
                self.slots[slot].rest_until = completion.received + REST;
                self.slots[slot].cursor = None;
                self.slots[slot].last_name.clear();
                self.outcome.series.error(failure.0);
                self.end(op, None, completion.received, false);
            }
            Ok(response) => {
                let success = (200..300).contains(&response.status);
                if counts {
                    *self
                        .outcome
                        .series
                        .statuses
                        .entry(response.status)
                        .or_default() += 1;
                    self.outcome.series.bytes += response.wire_bytes;
                }
                if success {
                    if let Err(what) = self.check(slot, &op, &response.body) {
                        self.outcome.series.error(what);
                    }
                    if counts {
                        self.outcome
                            .series
                            .latency
                            .record(completion.received - times.intended);
                        self.outcome
                            .series
                            .late
                            .record(times.sent.saturating_sub(times.intended));
                    }
                    self.end(op, Some(&response.body), completion.received, false);
                } else {
                    // After a 5xx the outcome is unknown; after a 4xx it certainly was
                    // not.
                    self.outcome
                        .series
                        .error(format!("status {}", response.status));
                    self.end(op, None, completion.received, response.status < 500);
                    if let Some(seconds) = response.retry_after() {
                        self.slots[slot].rest_until =
                            completion.received + u64::from(seconds.min(5)) * SECOND;
                    }
                }
            }
        }
        self.pump(net, net.clock.now());
    }

    fn is_finished(&self) -> bool {
        self.done
    }
}
