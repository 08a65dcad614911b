//! Streamers that park polls and take whole lists: which streams each of them has.
//!
//! Every stream that comes to a streamer or leaves it is a [`HoldChange`], which the owner judges.

use crate::answer;
use crate::control::Target;
use crate::net::{Completion, ConnId, Net};
use crate::report::{Proof, Report, Series};
use crate::schedule::{Nanos, SECOND};
use crate::seed::Key;
use std::collections::HashMap;
use std::time::Duration;
use weir_testkit::request;

/// How long polls are parked.
const WAIT_SECONDS: u64 = 25;

struct PolledStreamer {
    conn: Option<ConnId>,
    etag: Option<Box<str>>,
    /// Sorted.
    held: Vec<Key>,
    loaded: bool,
    is_lost: bool,
    /// When to poll next.
    poll_at: Option<Nanos>,
}

/// Of a process, in its own code and in the kernel.
type CpuTimes = (Duration, Duration);

/// A stream came to a streamer, or left it.
#[derive(Clone, Copy, Debug)]
pub struct HoldChange {
    pub at: usize,
    pub key: Key,
    pub came: bool,
    pub when: Nanos,
}

/// The streamers of a run.
pub struct PolledStreamers<'a> {
    pub target: &'a Target,
    pub hosts: Vec<String>,
    pub polls: Series,
    streamers: Vec<PolledStreamer>,
    changes: Vec<HoldChange>,
    timeout: Nanos,
    /// Of the connections.
    driver: usize,
}

impl<'a> PolledStreamers<'a> {
    /// `timeout` is the longest wait for a response, beyond its own.
    pub fn new(target: &'a Target, hosts: Vec<String>, timeout: Nanos) -> Self {
        let streamer = |_: &String| PolledStreamer {
            conn: None,
            etag: None,
            held: Vec::new(),
            loaded: false,
            is_lost: false,
            poll_at: Some(0),
        };
        Self {
            target,
            streamers: hosts.iter().map(streamer).collect(),
            hosts,
            polls: Series::default(),
            changes: Vec::new(),
            timeout,
            driver: 0,
        }
    }

    pub fn has_loaded(&self) -> bool {
        self.streamers.iter().all(|streamer| streamer.loaded)
    }

    pub fn living(&self) -> Vec<usize> {
        let all = 0..self.streamers.len();
        all.filter(|at| !self.streamers[*at].is_lost).collect()
    }

    pub fn is_living(&self, at: usize) -> bool {
        !self.streamers[at].is_lost
    }

    pub fn held(&self, at: usize) -> &[Key] {
        &self.streamers[at].held
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Vec<HoldChange> {
        std::mem::take(&mut self.changes)
    }

    pub fn poll_due(&mut self, net: &mut Net, now: Nanos) {
        for at in 0..self.streamers.len() {
            if self.streamers[at].poll_at.is_some_and(|due| due <= now) {
                self.poll(net, at, now);
            }
        }
    }

    pub fn next_due(&self) -> Option<Nanos> {
        self.streamers.iter().filter_map(|one| one.poll_at).min()
    }

    fn poll(&mut self, net: &mut Net, at: usize, now: Nanos) {
        let streamer = &mut self.streamers[at];
        streamer.poll_at = None;
        let path = self.target.path_of("streamers", &self.hosts[at]) + "/streams";
        let mut fields = self.target.bearer();
        let mut timeout = self.timeout;
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
            None => match net.open(self.driver, at as u64) {
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

    pub fn completed(&mut self, net: &mut Net, completion: Completion) {
        let at = completion.user as usize;
        let streamer = &mut self.streamers[at];
        if streamer.conn != Some(completion.conn) {
            return; // of a connection we closed ourselves
        }
        if completion.closed {
            streamer.conn = None;
        }
        if streamer.is_lost {
            return; // it hangs: nothing is read
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

    /// A streamer's new list: what came, what went.
    fn take(&mut self, at: usize, body: &[u8], when: Nanos) -> Result<(), &'static str> {
        let mut fresh = Vec::new();
        answer::read(body, &mut |item| fresh.push(item.key()))?;
        fresh.sort_unstable();
        let streamer = &mut self.streamers[at];
        let before = std::mem::replace(&mut streamer.held, fresh);
        streamer.loaded = true;
        for (from, other, came) in [
            (&streamer.held, &before, true),
            (&before, &streamer.held, false),
        ] {
            let differs = from.iter().filter(|key| other.binary_search(key).is_err());
            self.changes.extend(differs.map(|key| HoldChange {
                at,
                key: *key,
                came,
                when,
            }));
        }
        Ok(())
    }

    /// The streamer ends: its connection is closed. Returns what it had.
    pub fn lose(&mut self, net: &mut Net, at: usize) -> Vec<Key> {
        let held = self.hang(at);
        if let Some(conn) = self.streamers[at].conn.take() {
            net.close(conn);
        }
        held
    }

    /// The streamer stands still: its connection stays open. Returns what it had.
    pub fn hang(&mut self, at: usize) -> Vec<Key> {
        let streamer = &mut self.streamers[at];
        streamer.is_lost = true;
        streamer.poll_at = None;
        std::mem::take(&mut streamer.held)
    }

    /// The streamer starts, and knows nothing.
    pub fn start(&mut self, net: &mut Net, at: usize, now: Nanos) {
        let streamer = &mut self.streamers[at];
        if let Some(conn) = streamer.conn.take() {
            net.close(conn);
        }
        let streamer = &mut self.streamers[at];
        streamer.is_lost = false;
        streamer.etag = None;
        streamer.poll_at = Some(now);
    }

    /// The report of a run that began at the zero of its clock and used `busy` since it had used
    /// `cpu`.
    pub fn report(
        &self,
        scenario: String,
        (streams, nanos): (u64, Nanos),
        (cpu, busy): (CpuTimes, CpuTimes),
    ) -> Report {
        Report {
            scenario,
            seconds: nanos as f64 / 1e9,
            cpu_user: busy.0.saturating_sub(cpu.0).as_secs_f64(),
            cpu_system: busy.1.saturating_sub(cpu.1).as_secs_f64(),
            proof: Some(Proof {
                streamers: self.hosts.len() as u64,
                streams,
                answers: self.polls.statuses.values().sum(),
                ..Proof::default()
            }),
            ..Report::default()
        }
    }

    pub fn close(&mut self, net: &mut Net) {
        for streamer in &mut self.streamers {
            if let Some(conn) = streamer.conn.take() {
                net.close(conn);
            }
        }
    }
}

/// How often streams are held, and how often they shall be.
pub struct Placement {
    copies: HashMap<Key, (u32, u32)>,
    names: HashMap<Key, String>,
    /// Copies that no streamer holds yet.
    pub missing: u64,
    /// Copies beyond those that shall be.
    pub doubled: u64,
    /// When a streamer received another configuration.
    pub changed_at: Nanos,
}

impl Placement {
    /// Of streams by name and number of copies.
    pub fn new(streams: impl Iterator<Item = (String, u32)>) -> Self {
        let mut placement = Self {
            copies: HashMap::new(),
            names: HashMap::new(),
            missing: 0,
            doubled: 0,
            changed_at: 0,
        };
        for (name, wanted) in streams {
            let key = Key::of(&name);
            placement.copies.insert(key, (0, wanted));
            placement.names.insert(key, name);
            placement.missing += u64::from(wanted);
        }
        placement
    }

    pub fn name(&self, key: Key) -> Option<&str> {
        self.names.get(&key).map(String::as_str)
    }

    /// A streamer got a copy. `None`: the stream was never saved.
    pub fn came(&mut self, key: Key) -> Option<()> {
        let (held, wanted) = self.copies.get_mut(&key)?;
        *held += 1;
        if *held <= *wanted {
            self.missing -= 1;
        } else {
            self.doubled += 1;
        }
        Some(())
    }

    /// A streamer has a copy no more.
    pub fn went(&mut self, key: Key) {
        let Some((held, wanted)) = self.copies.get_mut(&key) else {
            return;
        };
        *held -= 1;
        if *held < *wanted {
            self.missing += 1;
        } else {
            self.doubled -= 1;
        }
    }
}
