//! Simulated agents: real handshakes, then control connections that execute commands, on one event
//! loop per thread.
//!
//! An agent connects, checks the server's proof, sends its own, sends hello, pings, connects to its
//! streampoint, and executes and counts commands. `Seen` has what it received, for the comparison
//! with the operators. Independent of operators.

use crate::control::Target;
use crate::net::Clock;
use crate::report::{Latency, Series};
use crate::schedule::{Nanos, SECOND};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use weir_testkit::sys::{self, Event, Poll};
use weir_testkit::{frame, header};

/// Handshakes under way per thread. More would measure the queue of the kernel.
const OPENING_MAX: usize = 128;
/// Longest that one handshake may take.
const OPENING_TIME_MAX: Nanos = 60 * SECOND;
const WAIT_MAX: Duration = Duration::from_millis(20);
const NOTHING: u32 = u32::MAX;

/// The commands whose execution is counted.
pub const COMMANDS: [&str; 3] = ["logs", "reboot", "reset"];

pub fn agent_id(n: u64) -> String {
    format!("lt-agent-{n:05}")
}

pub fn agent_key(seed: u64, n: u64) -> String {
    format!(
        "{:016x}",
        crate::seed::mix(seed ^ crate::seed::mix(n + 0xa9))
    )
}

/// What one agent received, and what operators requested.
pub struct Seen {
    /// By [`COMMANDS`].
    pub done: [AtomicU32; 3],
    /// The streampoint it was last sent to, a number of `Run::hosts`.
    pub host: AtomicU32,
    /// The streampoint it is to be sent to.
    pub wanted: AtomicU32,
    /// When that was requested; 0: the agent has received it.
    pub asked_at: AtomicU64,
}

/// Shared by the threads of a run.
pub struct Run {
    pub clock: Clock,
    pub target: Target,
    pub sources: Vec<IpAddr>,
    pub seed: u64,
    pub hosts: Vec<String>,
    pub seen: Vec<Seen>,
    /// Agents that have sent hello.
    pub ready: AtomicU64,
    pub stop: AtomicBool,
}

impl Run {
    pub fn new(
        target: Target,
        sources: Vec<IpAddr>,
        seed: u64,
        hosts: Vec<String>,
        agents: u64,
    ) -> Run {
        Run {
            clock: Clock::start(),
            target,
            sources,
            seed,
            hosts,
            seen: (0..agents)
                .map(|_| Seen {
                    done: Default::default(),
                    host: AtomicU32::new(NOTHING),
                    wanted: AtomicU32::new(NOTHING),
                    asked_at: AtomicU64::new(0),
                })
                .collect(),
            ready: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }
}

/// The results of a thread.
#[derive(Default)]
pub struct AgentOutcome {
    pub handshakes: Series,
    /// From the request of an operator to the command at the agent.
    pub moves: Latency,
    pub lines: u64,
    pub pings: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits for the challenge.
    Asking,
    /// Waits for 101.
    Proving,
    /// Waits for hello.
    Greeting,
    Open,
}

struct AgentConn {
    stream: TcpStream,
    stage: Stage,
    agent: u64,
    started: Nanos,
    input: Vec<u8>,
    out: Vec<u8>,
    writable_wanted: bool,
}

/// The agents of one thread.
struct AgentThread<'r> {
    run: &'r Run,
    poll: Poll,
    conns: Vec<Option<AgentConn>>,
    opening: usize,
    /// Connections that are to ping, soonest first: all have the same interval.
    pings: VecDeque<(Nanos, usize)>,
    ping_every: Nanos,
    outcome: AgentOutcome,
}

/// Runs the agents `thread`, `thread + threads`, .. until the run is stopped.
pub fn run(run: &Run, thread: u64, threads: u64) -> io::Result<AgentOutcome> {
    let mut agents = AgentThread {
        run,
        poll: Poll::new()?,
        conns: Vec::new(),
        opening: 0,
        pings: VecDeque::new(),
        ping_every: 20 * SECOND,
        outcome: AgentOutcome::default(),
    };
    let mut next = thread;
    let mut events: Vec<Event> = Vec::new();
    while !run.stop.load(Ordering::Acquire) {
        while next < run.seen.len() as u64 && agents.opening < OPENING_MAX {
            agents.open(next)?;
            next += threads;
        }
        agents.ping();
        events.clear();
        agents.poll.wait(WAIT_MAX, &mut events)?;
        for event in &events {
            let slot = event.token as usize;
            if event.writable {
                agents.write(slot);
            }
            if event.readable {
                agents.read(slot);
            }
        }
        agents.give_up();
    }
    Ok(agents.outcome)
}

impl AgentThread<'_> {
    fn open(&mut self, agent: u64) -> io::Result<()> {
        let run = self.run;
        let source =
            (!run.sources.is_empty()).then(|| run.sources[agent as usize % run.sources.len()]);
        let stream = sys::connect(run.target.address, source)?;
        let slot = self.conns.len();
        self.poll.add(&stream, slot as u64, true)?;
        let mut conn = AgentConn {
            stream,
            stage: Stage::Asking,
            agent,
            started: run.clock.now(),
            input: Vec::new(),
            out: Vec::new(),
            writable_wanted: true,
        };
        let id = agent_id(agent);
        conn.out = self.request(&format!(
            "X-Peeklio-Id: {id}\r\nX-Nonce: {}\r\n",
            own_nonce(agent)
        ));
        self.conns.push(Some(conn));
        self.opening += 1;
        Ok(())
    }

    fn request(&self, fields: &str) -> Vec<u8> {
        let host = &self.run.target.host;
        format!("POST /endpoint/connect HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n").into_bytes()
    }

    fn write(&mut self, slot: usize) {
        let Some(conn) = &mut self.conns[slot] else {
            return;
        };
        let mut written = 0;
        while written < conn.out.len() {
            match conn.stream.write(&conn.out[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return self.lose(slot, &format!("write: {:?}", error.kind())),
            }
        }
        conn.out.drain(..written);
        let wanted = !conn.out.is_empty();
        if wanted != conn.writable_wanted {
            conn.writable_wanted = wanted;
            if let Err(error) = self.poll.change(&conn.stream, slot as u64, wanted) {
                self.lose(slot, &format!("epoll: {:?}", error.kind()));
            }
        }
    }

    #[allow(clippy::needless_pass_by_value)] // called with `json!({..})`
    fn send_line(&mut self, slot: usize, line: Value) {
        if let Some(conn) = &mut self.conns[slot] {
            conn.out.extend_from_slice(line.to_string().as_bytes());
            conn.out.push(b'\n');
        }
    }

    fn read(&mut self, slot: usize) {
        let mut buffer = [0; 16 * 1024];
        loop {
            let Some(conn) = &mut self.conns[slot] else {
                return;
            };
            match conn.stream.read(&mut buffer) {
                Ok(0) => return self.lose(slot, "closed by the server"),
                Ok(count) => {
                    conn.input.extend_from_slice(&buffer[..count]);
                    if let Err(what) = self.understand(slot) {
                        return self.lose(slot, &what);
                    }
                    self.write(slot);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.lose(slot, &format!("read: {:?}", error.kind())),
            }
        }
    }

    /// Handles the complete responses and lines of what was read.
    fn understand(&mut self, slot: usize) -> Result<(), String> {
        loop {
            let Some(conn) = &mut self.conns[slot] else {
                return Ok(());
            };
            let is_handshake = matches!(conn.stage, Stage::Asking | Stage::Proving);
            let end = if is_handshake {
                frame(&conn.input)?.map(|found| found.total)
            } else {
                memchr::memchr(b'\n', &conn.input).map(|at| at + 1)
            };
            let Some(end) = end else {
                if conn.input.is_empty() {
                    // A quiet agent owns no buffer.
                    conn.input = Vec::new();
                }
                return Ok(());
            };
            let rest = conn.input.split_off(end);
            let bytes = std::mem::replace(&mut conn.input, rest);
            match conn.stage {
                Stage::Asking => self.prove(slot, &bytes)?,
                Stage::Proving => {
                    head_with_status(&bytes, 101)?;
                    conn.stage = Stage::Greeting;
                }
                Stage::Greeting | Stage::Open => {
                    let line: Value =
                        serde_json::from_slice(&bytes).map_err(|_| "a line that is no JSON")?;
                    self.outcome.lines += 1;
                    self.obey(slot, &line)?;
                }
            }
        }
    }

    /// Answers the challenge, once the server has proved itself.
    fn prove(&mut self, slot: usize, response: &[u8]) -> Result<(), String> {
        let Some(conn) = &mut self.conns[slot] else {
            return Ok(());
        };
        let head = head_with_status(response, 401)?;
        let field = |name| header(head, name).ok_or_else(|| format!("a challenge without {name}"));
        let (nonce, salt) = (field("x-nonce")?, field("x-salt")?);
        let key = agent_key(self.run.seed, conn.agent);
        let salted = hash(&format!("{salt}:{key}"));
        let expected = hash(&format!("{salted}:{nonce}:{}", own_nonce(conn.agent)));
        if field("x-agentauth")? != expected {
            return Err("the server does not know the key".into());
        }
        let proof = hash(&format!("{nonce}:{salted}"));
        let id = agent_id(conn.agent);
        conn.stage = Stage::Proving;
        let fields = format!(
            "X-Peeklio-Id: {id}\r\nX-Nonce: {nonce}\r\nAuthorization: Peeklio {proof}\r\n\
             Connection: Upgrade\r\nUpgrade: weir-agent/1\r\n"
        );
        let request = self.request(&fields);
        if let Some(conn) = &mut self.conns[slot] {
            conn.out.extend_from_slice(&request);
        }
        Ok(())
    }

    fn obey(&mut self, slot: usize, line: &Value) -> Result<(), String> {
        let Some(conn) = &mut self.conns[slot] else {
            return Ok(());
        };
        let run = self.run;
        let now = run.clock.now();
        let agent = conn.agent;
        let seen = &run.seen[agent as usize];
        let command = line["command"].as_str().unwrap_or_default();
        let id = &line["id"];
        match command {
            "hello" => {
                conn.stage = Stage::Open;
                self.opening -= 1;
                self.outcome.handshakes.latency.record(now - conn.started);
                *self.outcome.handshakes.statuses.entry(101).or_default() += 1;
                if let Some(interval) = line["ping_interval_ms"].as_u64() {
                    self.ping_every = interval * 1_000_000;
                }
                self.pings.push_back((now + self.ping_every, slot));
                run.ready.fetch_add(1, Ordering::Release);
                self.send_line(
                    slot,
                    json!({"command":"hello","version":"loadtest","agent_type":"single"}),
                );
            }
            "streampoint_connect" => {
                let hostname = line["hostname"].as_str().unwrap_or_default();
                let host = run.hosts.iter().position(|host| host == hostname);
                let host =
                    host.ok_or_else(|| format!("sent to {hostname}, which no operator requested"))?;
                seen.host.store(host as u32, Ordering::Release);
                if seen.wanted.load(Ordering::Acquire) == host as u32 {
                    let asked_at = seen.asked_at.swap(0, Ordering::AcqRel);
                    if asked_at > 0 {
                        self.outcome.moves.record(now - asked_at);
                    }
                }
                self.send_line(
                    slot,
                    json!({"command":"streampoint_connected","reply_to":id}),
                );
            }
            "streampoint_disconnect" => {
                self.send_line(
                    slot,
                    json!({"command":"streampoint_disconnected","reply_to":id}),
                );
            }
            "pong" => {}
            "disconnect" | "error" => {
                return Err(format!("server sent {command}: {}", line["reason"]));
            }
            _ => {
                let known = COMMANDS.iter().position(|known| *known == command);
                let at = known.ok_or_else(|| format!("an unknown command: {command}"))?;
                let count = seen.done[at].fetch_add(1, Ordering::AcqRel) + 1;
                let mut answer = json!({"command":command,"reply_to":id});
                if command == "logs" {
                    let text = format!("{}#{count}", agent_id(agent));
                    answer["logs"] = json!({"a":text,"b":"","status":"ok","buffer_size":count});
                }
                self.send_line(slot, answer);
            }
        }
        Ok(())
    }

    fn ping(&mut self) {
        let now = self.run.clock.now();
        while let Some(&(due, slot)) = self.pings.front()
            && due <= now
        {
            self.pings.pop_front();
            if self.conns[slot].is_some() {
                self.outcome.pings += 1;
                self.send_line(slot, json!({"command":"ping","connections_requested":1}));
                self.write(slot);
                self.pings.push_back((now + self.ping_every, slot));
            }
        }
    }

    /// Handshakes that hang are faults, too.
    fn give_up(&mut self) {
        if self.opening == 0 {
            return;
        }
        let now = self.run.clock.now();
        let hangs =
            |conn: &AgentConn| conn.stage != Stage::Open && now - conn.started > OPENING_TIME_MAX;
        let late: Vec<usize> = (0..self.conns.len())
            .filter(|slot| self.conns[*slot].as_ref().is_some_and(hangs))
            .collect();
        for slot in late {
            self.lose(slot, "timeout");
        }
    }

    fn lose(&mut self, slot: usize, why: &str) {
        let Some(conn) = self.conns[slot].take() else {
            return;
        };
        let stage = match conn.stage {
            Stage::Open => "connection",
            _ => {
                self.opening -= 1;
                "handshake"
            }
        };
        self.outcome.handshakes.error(format!("{stage}: {why}"));
    }
}

/// The value of a field of a head.
/// The head of a whole response; fails with the status line unless it has this status.
fn head_with_status(response: &[u8], status: u16) -> Result<&[u8], String> {
    match frame(response)? {
        Some(found) if found.status == status => Ok(&response[..found.head]),
        _ => {
            let text = String::from_utf8_lossy(response);
            let line = text.lines().next().unwrap_or_default();
            Err(format!("expected {status}: {line}"))
        }
    }
}

fn own_nonce(agent: u64) -> String {
    format!("lt{agent}")
}

fn hash(text: &str) -> String {
    Sha512::digest(text.as_bytes())
        .iter()
        .fold(String::with_capacity(128), |mut hex, byte| {
            let _infallible = write!(hex, "{byte:02x}");
            hex
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_sha512_and_keys_differ() {
        assert!(hash("abc").starts_with("ddaf35a193617abacc417349ae204131"));
        assert_ne!(agent_key(1, 2), agent_key(1, 3));
    }
}
