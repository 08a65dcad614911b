//! Connections of one thread: an epoll loop that sends requests and stamps complete answers the
//! moment they are read.
//!
//! Promises that each request sent ends in exactly one `Completion` (an answer or a failure), in
//! order per connection, and that answers are stamped before they are checked: reading comes first.
//! Independent of streamers.

use crate::schedule::Nanos;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use weir_testkit::sys::{self, Event, Poll};
use weir_testkit::{Response, ResponseParser};

const SCRATCH_BYTES: usize = 256 << 10;
/// Stop reading and start working when answers of this size wait to be checked.
const COMPLETED_BYTES_MAX: usize = 256 << 20;
/// Requests without an answer are looked for this often.
const SWEEP_EVERY: Nanos = 250_000_000;

/// One time line for all threads of a run.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    pub fn now(&self) -> Nanos {
        self.0.elapsed().as_nanos() as Nanos
    }
}

/// Names a connection; a number is not used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnId {
    slot: u32,
    epoch: u32,
}

impl ConnId {
    fn token(self) -> u64 {
        u64::from(self.epoch) << 32 | u64::from(self.slot)
    }
}

/// Why a request has no answer; the text is what errors are counted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl Failure {
    fn of(what: &str, error: &io::Error) -> Failure {
        Failure(format!("{what}: {:?}", error.kind()))
    }
}

/// When a request was meant to be sent, and when it was.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub intended: Nanos,
    pub sent: Nanos,
}

/// The end of one request, or of an idle connection (then there are no times).
#[derive(Debug)]
pub struct Completion {
    pub conn: ConnId,
    pub driver: usize,
    /// Whatever the driver gave when it opened the connection.
    pub user: u64,
    pub times: Option<Times>,
    pub received: Nanos,
    pub outcome: Result<Response, Failure>,
    /// The connection is gone; it must be opened again.
    pub closed: bool,
}

struct Pending {
    times: Times,
    deadline: Nanos,
}

struct Conn {
    stream: TcpStream,
    epoch: u32,
    driver: usize,
    user: u64,
    connecting: bool,
    writable_wanted: bool,
    out: Vec<u8>,
    parser: ResponseParser,
    pending: VecDeque<Pending>,
}

pub struct Net {
    poll: Poll,
    pub clock: Clock,
    target: SocketAddr,
    sources: Vec<IpAddr>,
    opened: u64,
    conns: Vec<Option<Conn>>,
    free: Vec<u32>,
    epoch: u32,
    scratch: Vec<u8>,
    events: Vec<Event>,
    completed: VecDeque<Completion>,
    completed_bytes: usize,
    sweep_at: Nanos,
    /// Answers and bytes read, for the progress bar and the report.
    pub answers: u64,
    pub bytes: u64,
}

impl Net {
    pub fn new(clock: Clock, target: SocketAddr, sources: &[IpAddr]) -> io::Result<Net> {
        Ok(Net {
            poll: Poll::new()?,
            clock,
            target,
            sources: sources.to_vec(),
            opened: 0,
            conns: Vec::new(),
            free: Vec::new(),
            epoch: 0,
            scratch: vec![0; SCRATCH_BYTES],
            events: Vec::new(),
            completed: VecDeque::new(),
            completed_bytes: 0,
            sweep_at: 0,
            answers: 0,
            bytes: 0,
        })
    }

    /// Begins a connection; requests may be sent on it at once.
    pub fn open(&mut self, driver: usize, user: u64) -> Result<ConnId, Failure> {
        let source = (!self.sources.is_empty())
            .then(|| self.sources[self.opened as usize % self.sources.len()]);
        self.opened += 1;
        let stream =
            sys::connect(self.target, source).map_err(|error| Failure::of("connect", &error))?;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() as u32 - 1
        });
        self.epoch = self.epoch.wrapping_add(1);
        let id = ConnId {
            slot,
            epoch: self.epoch,
        };
        if let Err(error) = self.poll.add(&stream, id.token(), true) {
            self.free.push(slot);
            return Err(Failure::of("connect", &error));
        }
        self.conns[slot as usize] = Some(Conn {
            stream,
            epoch: id.epoch,
            driver,
            user,
            connecting: true,
            writable_wanted: true,
            out: Vec::new(),
            parser: ResponseParser::default(),
            pending: VecDeque::new(),
        });
        Ok(id)
    }

    fn conn(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns
            .get_mut(id.slot as usize)?
            .as_mut()
            .filter(|conn| conn.epoch == id.epoch)
    }

    /// Sends one request. Without an answer after `timeout` it fails and the connection is closed.
    pub fn send(&mut self, id: ConnId, request: &[u8], intended: Nanos, timeout: Nanos) {
        let sent = self.clock.now();
        let Some(conn) = self.conn(id) else {
            return; // the completion in the queue reports the closed connection
        };
        conn.pending.push_back(Pending {
            times: Times { intended, sent },
            deadline: sent + timeout,
        });
        conn.out.extend_from_slice(request);
        if !conn.connecting && !conn.writable_wanted {
            self.write(id);
        }
    }

    /// Closes without completions: the caller expects none any more.
    pub fn close(&mut self, id: ConnId) {
        if self.conn(id).is_some() {
            self.conns[id.slot as usize] = None;
            self.free.push(id.slot);
        }
    }

    fn write(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        let mut written = 0;
        let failed = loop {
            if written == conn.out.len() {
                break None;
            }
            match conn.stream.write(&conn.out[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => break Some(Failure::of("write", &error)),
            }
        };
        if let Some(failure) = failed {
            self.fail(id, &failure);
            return;
        }
        if written == conn.out.len() {
            conn.out = Vec::new(); // a parked connection owns no buffer
        } else {
            conn.out.drain(..written);
        }
        let wanted = !conn.out.is_empty();
        if wanted != conn.writable_wanted {
            conn.writable_wanted = wanted;
            let conn = self.conns[id.slot as usize]
                .as_ref()
                .expect("looked up above");
            if let Err(error) = self.poll.change(&conn.stream, id.token(), wanted) {
                self.fail(id, &Failure::of("epoll", &error));
            }
        }
    }

    /// Ends a connection: every request on it failed.
    fn fail(&mut self, id: ConnId, failure: &Failure) {
        let Some(conn) = self.conns[id.slot as usize].take() else {
            return;
        };
        self.free.push(id.slot);
        let received = self.clock.now();
        let of = |times| Completion {
            conn: id,
            driver: conn.driver,
            user: conn.user,
            times,
            received,
            outcome: Err(failure.clone()),
            closed: true,
        };
        if conn.pending.is_empty() {
            self.completed.push_back(of(None));
        }
        for pending in &conn.pending {
            self.completed.push_back(of(Some(pending.times)));
        }
    }

    fn read(&mut self, id: ConnId) {
        loop {
            let mut scratch = std::mem::take(&mut self.scratch);
            let outcome = self.read_once(id, &mut scratch);
            let full = matches!(outcome, Ok(count) if count == scratch.len());
            self.scratch = scratch;
            match outcome {
                Ok(_) if full => (),
                Ok(_) => return,
                Err(failure) => return self.fail(id, &failure),
            }
        }
    }

    /// One read: how many bytes it brought, or why the connection is over.
    fn read_once(&mut self, id: ConnId, scratch: &mut [u8]) -> Result<usize, Failure> {
        let Some(conn) = self.conns[id.slot as usize]
            .as_mut()
            .filter(|conn| conn.epoch == id.epoch)
        else {
            return Ok(0);
        };
        let count = match conn.stream.read(scratch) {
            Ok(0) if conn.parser.is_between_responses() => {
                return Err(Failure("closed by the server".into()));
            }
            Ok(0) => return Err(Failure("closed inside an answer".into())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(scratch.len()),
            Err(error) => return Err(Failure::of("read", &error)),
        };
        let received = self.clock.now();
        self.bytes += count as u64;
        let (mut unasked, mut last) = (false, false);
        let (completed, completed_bytes, answers) = (
            &mut self.completed,
            &mut self.completed_bytes,
            &mut self.answers,
        );
        let (pending, driver, user) = (&mut conn.pending, conn.driver, conn.user);
        let mut bytes = &scratch[..count];
        while !bytes.is_empty() {
            let parsed = conn.parser.feed(bytes);
            let (used, response) = parsed.map_err(|what| Failure(format!("malformed: {what}")))?;
            bytes = &bytes[used..];
            let Some(response) = response.filter(|response| response.status >= 200) else {
                continue; // incomplete, or interim: the real one follows
            };
            let Some(first) = pending.pop_front().filter(|_| !last) else {
                unasked = true;
                break;
            };
            last = response.close;
            *answers += 1;
            *completed_bytes += response.body.len();
            let (times, closed) = (Some(first.times), response.close && pending.is_empty());
            completed.push_back(Completion {
                conn: id,
                driver,
                user,
                times,
                received,
                outcome: Ok(response),
                closed,
            });
        }
        if unasked {
            return Err(Failure("malformed: unexpected response".into()));
        }
        if last {
            if conn.pending.is_empty() {
                self.close(id);
            } else {
                return Err(Failure("closed by the server".into()));
            }
            return Ok(0);
        }
        Ok(count)
    }

    /// Waits for readiness, at most `timeout`, and reads and writes all that is ready. How many
    /// were ready.
    pub fn turn(&mut self, timeout: Duration) -> io::Result<usize> {
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        self.poll.wait(timeout, &mut events)?;
        for event in &events {
            let id = ConnId {
                slot: event.token as u32,
                epoch: (event.token >> 32) as u32,
            };
            let Some(conn) = self.conn(id) else { continue };
            if conn.connecting && event.writable {
                conn.connecting = false;
                if let Ok(Some(error)) | Err(error) = conn.stream.take_error() {
                    self.fail(id, &Failure::of("connect", &error));
                    continue;
                }
            }
            if event.writable {
                self.write(id);
            }
            if event.readable {
                self.read(id);
            }
        }
        let count = events.len();
        self.events = events;
        let now = self.clock.now();
        if now >= self.sweep_at {
            self.sweep_at = now + SWEEP_EVERY;
            for slot in 0..self.conns.len() {
                if let Some(conn) = &self.conns[slot]
                    && conn
                        .pending
                        .front()
                        .is_some_and(|first| first.deadline < now)
                {
                    let id = ConnId {
                        slot: slot as u32,
                        epoch: conn.epoch,
                    };
                    self.fail(id, &Failure("timeout".into()));
                }
            }
        }
        Ok(count)
    }

    /// The next thing that ended.
    pub fn take_completed(&mut self) -> Option<Completion> {
        let completion = self.completed.pop_front()?;
        if let Ok(response) = &completion.outcome {
            self.completed_bytes -= response.body.len();
        }
        Some(completion)
    }

    pub fn has_completed(&self) -> bool {
        !self.completed.is_empty()
    }

    /// So much waits to be checked that reading on would only move it into our memory.
    pub fn is_behind(&self) -> bool {
        self.completed_bytes > COMPLETED_BYTES_MAX
    }
}

/// Something that sends requests and takes their completions.
pub trait Driver {
    /// Does what is due at `now`.
    fn due(&mut self, net: &mut Net, now: Nanos);
    /// When `due` has something to do next without anything arriving.
    fn next_due(&self) -> Option<Nanos>;
    fn completed(&mut self, net: &mut Net, completion: Completion);
    fn is_finished(&self) -> bool;
}

/// At most this many answers are checked before the sockets and clocks are looked at again.
const CHECKED_AT_ONCE: usize = 16;
/// Rounds of reading before answers are checked.
const TURNS_AT_ONCE: u32 = 8;
/// The clock is looked at least this often: windows begin and end by it.
const TURN_MAX: Nanos = 20_000_000;
/// Shorter waits are spent spinning: going to sleep takes longer.
const SPIN_BELOW: Nanos = 30_000;

/// Runs the drivers until all are finished, or until `stop` returns true.
pub fn run(
    net: &mut Net,
    drivers: &mut [&mut dyn Driver],
    stop: &mut dyn FnMut(&Net) -> bool,
) -> io::Result<()> {
    loop {
        let mut turns = 0;
        loop {
            let now = net.clock.now();
            for driver in drivers.iter_mut() {
                driver.due(net, now);
            }
            let next = drivers
                .iter()
                .filter_map(|driver| driver.next_due())
                .min()
                .unwrap_or(Nanos::MAX);
            let mut wait = next.saturating_sub(net.clock.now()).min(TURN_MAX);
            if net.has_completed() || wait < SPIN_BELOW {
                wait = 0;
            }
            let ready = net.turn(Duration::from_nanos(wait))?;
            turns += 1;
            if ready == 0 || net.is_behind() || turns == TURNS_AT_ONCE {
                break;
            }
        }
        for _ in 0..CHECKED_AT_ONCE {
            let Some(completion) = net.take_completed() else {
                break;
            };
            drivers[completion.driver].completed(net, completion);
        }
        if stop(net) || drivers.iter().all(|driver| driver.is_finished()) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const HOUR: Nanos = 3_600_000_000_000;

    /// Turns the loop until `count` completions came.
    fn collect(net: &mut Net, count: usize) -> Vec<Completion> {
        let deadline = Instant::now() + weir_testkit::WAIT_MAX;
        let mut found = Vec::new();
        while found.len() < count {
            assert!(Instant::now() < deadline, "{count} expected: {found:?}");
            net.turn(Duration::from_millis(20)).unwrap();
            found.extend(std::iter::from_fn(|| net.take_completed()));
        }
        found
    }

    fn start() -> (TcpListener, Net) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let net = Net::new(Clock::start(), listener.local_addr().unwrap(), &[]).unwrap();
        (listener, net)
    }

    #[test]
    fn every_request_ends_in_exactly_one_completion() {
        let (listener, mut net) = start();
        let conn = net.open(3, 17).unwrap();
        for intended in [1, 2, 3] {
            net.send(conn, b"GET / HTTP/1.1\r\n\r\n", intended, HOUR);
        }
        let (mut server, _) = listener.accept().unwrap();
        server
            .write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\
         Content-Length: 2\r\n\r\no",
            )
            .unwrap();
        let first = collect(&mut net, 1);
        assert!(
            first.len() == 1
                && first[0].outcome.as_ref().unwrap().body == b"ok"
                && !first[0].closed
        );
        assert_eq!(
            (
                first[0].driver,
                first[0].user,
                first[0].times.unwrap().intended
            ),
            (3, 17, 1)
        );
        server.shutdown(std::net::Shutdown::Write).unwrap();
        let rest = collect(&mut net, 2);
        assert_eq!(
            rest.iter()
                .map(|c| c.times.unwrap().intended)
                .collect::<Vec<_>>(),
            [2, 3]
        );
        assert!(
            rest.iter().all(|c| c.closed && c.outcome.is_err()),
            "half an answer is none"
        );
        net.send(conn, b"x", 4, HOUR);
        assert!(!net.has_completed(), "the connection is gone");
    }

    #[test]
    fn unanswered_requests_and_refused_connections_fail() {
        let (listener, mut net) = start();
        let conn = net.open(0, 0).unwrap();
        net.send(conn, b"GET / HTTP/1.1\r\n\r\n", 0, 1);
        let late = collect(&mut net, 1);
        assert_eq!(late[0].outcome, Err(Failure("timeout".into())));
        drop(listener);
        let failure = match net.open(0, 0) {
            Ok(conn) => {
                net.send(conn, b"x", 0, HOUR);
                collect(&mut net, 1).remove(0).outcome.unwrap_err()
            }
            Err(failure) => failure,
        };
        assert_eq!(failure.0, "connect: ConnectionRefused");
    }

    #[test]
    fn closed_idle_connection_is_reported() {
        let (listener, mut net) = start();
        let conn = net.open(0, 5).unwrap();
        drop(listener.accept().unwrap());
        let told = collect(&mut net, 1).remove(0);
        assert!(told.conn == conn && told.closed && told.times.is_none());
    }
}
