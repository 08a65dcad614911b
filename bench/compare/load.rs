//! Load on keep-alive connections from one thread: closed loop (saturation) and open loop
//! (latency).
//!
//! Closed: every connection always has `pipeline` requests in flight. Open: requests are due at a
//! constant rate and latency counts from the moment a request was *due*, so a server that stalls
//! cannot hide the requests it held up (coordinated omission). Both promise that every connection
//! was admitted and served, or fail.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::machine::{Meter, Reading};
use crate::{Failure, http};
use weir_testkit::sys::{self, Poll};

/// The requests, and what counts as an answer. HTTP and PostgreSQL's protocol both fit.
pub trait Work {
    /// Appends the next request of this connection. `last`: the connection closes after its answer.
    fn request(&mut self, connection: usize, last: bool, out: &mut Vec<u8>);

    /// Length of the whole answer at the front of `input`, `None` while it is incomplete.
    fn answer(&mut self, connection: usize, input: &[u8]) -> Result<Option<usize>, Failure>;

    /// Handshake after connecting, before the first request (PostgreSQL's start-up).
    fn greet(&mut self, _stream: &mut TcpStream) -> Result<(), Failure> {
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub to: SocketAddrV4,
    pub connections: usize,
    pub pipeline: usize,
    /// Reconnect after this many answers.
    pub answers_per_connection: Option<usize>,
    pub warm: Duration,
    pub time: Duration,
}

#[derive(Clone, Debug)]
pub struct Sample {
    pub answers: u64,
    pub bytes: u64,
    pub wall: f64,
    pub busy: Reading,
    /// Nanoseconds.
    pub latency: Histogram<u64>,
}

impl Sample {
    pub fn per_busy_second(&self) -> f64 {
        self.answers as f64 / self.busy.server.max(1e-9)
    }

    pub fn per_second(&self) -> f64 {
        self.answers as f64 / self.wall
    }

    pub fn generator_share(&self) -> f64 {
        self.busy.generator / self.wall
    }

    pub fn percentile_ms(&self, percentile: f64) -> f64 {
        self.latency.value_at_percentile(percentile) as f64 / 1e6
    }
}

pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("constant bounds are valid")
}

/// Connections of one source address stay below its 28,000 ports, those in TIME_WAIT included.
const CONNECTIONS_PER_ADDRESS: u32 = 4_000;

/// A loopback address to connect from; moves on so that ports in TIME_WAIT are never the limit.
pub fn source_address() -> Ipv4Addr {
    static OPENED: AtomicU32 = AtomicU32::new(0);
    source_of(OPENED.fetch_add(1, Ordering::Relaxed))
}

fn source_of(opened: u32) -> Ipv4Addr {
    let block = (opened / CONNECTIONS_PER_ADDRESS) % (100 * 250);
    Ipv4Addr::new(127, 1 + (block / 250) as u8, 1, 1 + (block % 250) as u8)
}

struct Connection {
    stream: TcpStream,
    /// The beginning of an answer whose rest has not arrived.
    partial: Vec<u8>,
    /// When the requests in flight were sent (closed loop) or due (open loop), oldest first.
    since: VecDeque<Instant>,
    asked: usize,
    answered_ever: u64,
    closing: bool,
}

fn open(
    work: &mut dyn Work,
    poll: &Poll,
    to: SocketAddrV4,
    token: usize,
) -> Result<Connection, Failure> {
    let mut stream = sys::connect_blocking(to.into(), source_address().into())?;
    work.greet(&mut stream)?;
    stream.set_nonblocking(true)?;
    poll.add(&stream, token as u64, false)?;
    Ok(Connection {
        stream,
        partial: Vec::new(),
        since: VecDeque::new(),
        asked: 0,
        answered_ever: 0,
        closing: false,
    })
}

/// Writes all of it; requests are small, so a full socket buffer lasts only as long as the server's
/// next read.
pub fn send_all(stream: &mut TcpStream, mut bytes: &[u8]) -> Result<(), Failure> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What one read brought.
enum Arrived {
    Answers(usize),
    Closed,
}

impl Connection {
    fn receive(
        &mut self,
        token: usize,
        work: &mut dyn Work,
        buffer: &mut [u8],
        bytes: &mut u64,
    ) -> Result<Arrived, Failure> {
        let count = match self.stream.read(buffer) {
            Ok(0) => return Ok(Arrived::Closed),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Arrived::Answers(0)),
            Err(error) => return Err(error.into()),
        };
        *bytes += count as u64;
        let mut held = std::mem::take(&mut self.partial);
        let input = if held.is_empty() {
            &buffer[..count]
        } else {
            held.extend_from_slice(&buffer[..count]);
            &held[..]
        };
        let (mut at, mut answers) = (0, 0);
        while at < input.len() {
            let Some(length) = work.answer(token, &input[at..])? else {
                break;
            };
            at += length;
            answers += 1;
        }
        if at < input.len() {
            self.partial = input[at..].to_vec();
        }
        self.answered_ever += answers as u64;
        Ok(Arrived::Answers(answers))
    }
}

/// The measured part of a run: opened after the warm-up, closed at the end.
struct Window<'a> {
    meter: &'a Meter,
    opened: Instant,
    reading: Reading,
    answers: u64,
    bytes: u64,
    latency: Histogram<u64>,
}

impl<'a> Window<'a> {
    fn open(meter: &'a Meter) -> Window<'a> {
        let reading = meter.read();
        Window {
            meter,
            opened: Instant::now(),
            reading,
            answers: 0,
            bytes: 0,
            latency: histogram(),
        }
    }

    fn close(self) -> Sample {
        let wall = self.opened.elapsed().as_secs_f64();
        Sample {
            answers: self.answers,
            bytes: self.bytes,
            wall,
            busy: self.meter.read() - self.reading,
            latency: self.latency,
        }
    }
}

const READ_BYTES: usize = 256 * 1024;

/// Saturation: as many requests as the server takes.
pub fn closed(plan: Plan, work: &mut dyn Work, meter: &Meter) -> Result<Sample, Failure> {
    let mut poll = Poll::new()?;
    let mut connections = Vec::with_capacity(plan.connections);
    let mut out = Vec::new();
    for token in 0..plan.connections {
        let mut connection = open(work, &poll, plan.to, token)?;
        send_requests(&mut connection, token, plan, plan.pipeline, work, &mut out)?;
        connections.push(connection);
    }
    let mut buffer = vec![0; READ_BYTES];
    let mut ready = Vec::new();
    let mut served = vec![false; plan.connections];
    let start = Instant::now();
    let mut window: Option<Window> = None;
    let mut ignored_bytes = 0;
    let mut last_answer = start;
    loop {
        ready.clear();
        poll.wait(Duration::from_millis(100), &mut ready)?;
        let now = Instant::now();
        match &mut window {
            None if now - start >= plan.warm => window = Some(Window::open(meter)),
            Some(open) if now - open.opened >= plan.time => break,
            _ => {}
        }
        if now - last_answer > Duration::from_secs(20) {
            return Err(format!("no answer for 20 s with {} connections", plan.connections).into());
        }
        for event in &ready {
            let token = event.token as usize;
            let connection = &mut connections[token];
            let bytes = window
                .as_mut()
                .map_or(&mut ignored_bytes, |open| &mut open.bytes);
            match connection.receive(token, work, &mut buffer, bytes)? {
                Arrived::Closed if connection.closing => {
                    *connection = open(work, &poll, plan.to, token)?;
                    send_requests(connection, token, plan, plan.pipeline, work, &mut out)?;
                }
                Arrived::Closed => {
                    return Err(format!("connection {token} was closed by the server").into());
                }
                Arrived::Answers(0) => {}
                Arrived::Answers(count) => {
                    let now = Instant::now();
                    last_answer = now;
                    served[token] = true;
                    for _ in 0..count {
                        let since = connection.since.pop_front().ok_or("an unexpected answer")?;
                        if let Some(open) = &mut window {
                            open.answers += 1;
                            open.latency
                                .saturating_record((now - since).as_nanos() as u64);
                        }
                    }
                    send_requests(connection, token, plan, count, work, &mut out)?;
                }
            }
        }
    }
    let sample = window
        .expect("the loop ends only with an open window")
        .close();
    all_served(&served)?;
    Ok(sample)
}

fn all_served(served: &[bool]) -> Result<(), Failure> {
    let count = served.iter().filter(|&&yes| yes).count();
    if count == served.len() {
        Ok(())
    } else {
        Err(format!("only {count} of {} connections were served", served.len()).into())
    }
}

fn send_requests(
    connection: &mut Connection,
    token: usize,
    plan: Plan,
    count: usize,
    work: &mut dyn Work,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    let limit = plan.answers_per_connection.unwrap_or(usize::MAX);
    let count = count.min(limit - connection.asked);
    if count == 0 {
        return Ok(());
    }
    out.clear();
    for _ in 0..count {
        connection.asked += 1;
        connection.closing = connection.asked == limit;
        work.request(token, connection.closing, out);
    }
    let now = Instant::now();
    connection.since.extend(std::iter::repeat_n(now, count));
    send_all(&mut connection.stream, out)
}

/// Which connection a due request takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Any that is free; the request waits when none is.
    Free,
    /// Number k goes to connection k modulo N: each client keeps its own steady period.
    Round,
}

/// When request `number` of a constant arrival rate is due.
pub fn due_after(number: u64, per_second: f64) -> Duration {
    Duration::from_secs_f64(number as f64 / per_second)
}

/// Constant arrivals at `per_second`; latency from the due time.
pub fn open_loop(
    plan: Plan,
    per_second: f64,
    turn: Turn,
    work: &mut dyn Work,
    meter: &Meter,
) -> Result<Sample, Failure> {
    let mut poll = Poll::new()?;
    let mut connections = Vec::with_capacity(plan.connections);
    for token in 0..plan.connections {
        connections.push(open(work, &poll, plan.to, token)?);
    }
    let mut free: Vec<usize> = (0..plan.connections).rev().collect();
    let mut waiting: VecDeque<Instant> = VecDeque::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut out = Vec::new();
    let mut ready = Vec::new();
    let start = Instant::now();
    let mut number = 0;
    let mut window: Option<Window> = None;
    let mut ignored_bytes = 0;
    loop {
        let now = Instant::now();
        match &mut window {
            None if now - start >= plan.warm => window = Some(Window::open(meter)),
            Some(open) if now - open.opened >= plan.time => break,
            _ => {}
        }
        while start + due_after(number, per_second) <= now {
            let due = start + due_after(number, per_second);
            match turn {
                Turn::Free => waiting.push_back(due),
                Turn::Round => {
                    let token = (number % plan.connections as u64) as usize;
                    put(&mut connections[token], token, due, work, &mut out)?;
                }
            }
            number += 1;
        }
        while let (Some(&due), Some(&token)) = (waiting.front(), free.last()) {
            waiting.pop_front();
            free.pop();
            put(&mut connections[token], token, due, work, &mut out)?;
        }
        // Never sleeps: a generator that wakes late would be measured as a slow server.
        ready.clear();
        poll.wait(Duration::ZERO, &mut ready)?;
        for event in &ready {
            let token = event.token as usize;
            let connection = &mut connections[token];
            let bytes = window
                .as_mut()
                .map_or(&mut ignored_bytes, |open| &mut open.bytes);
            match connection.receive(token, work, &mut buffer, bytes)? {
                Arrived::Closed => {
                    return Err(format!("connection {token} was closed by the server").into());
                }
                Arrived::Answers(count) => {
                    let now = Instant::now();
                    for _ in 0..count {
                        let due = connection.since.pop_front().ok_or("an unexpected answer")?;
                        if let Some(open) = &mut window {
                            open.answers += 1;
                            open.latency
                                .saturating_record((now - due).as_nanos() as u64);
                        }
                        if turn == Turn::Free {
                            free.push(token);
                        }
                    }
                }
            }
        }
    }
    let mut sample = window
        .expect("the loop ends only with an open window")
        .close();
    // Requests that are still unanswered count with the time they have waited so far.
    let end = Instant::now();
    let unanswered = connections
        .iter()
        .flat_map(|connection| connection.since.iter())
        .chain(&waiting);
    for due in unanswered {
        sample
            .latency
            .saturating_record(end.saturating_duration_since(*due).as_nanos() as u64);
    }
    if number >= plan.connections as u64 {
        all_served(
            &connections
                .iter()
                .map(|connection| connection.answered_ever > 0)
                .collect::<Vec<_>>(),
        )
        .or_else(|error| {
            if turn == Turn::Round {
                Err(error)
            } else {
                Ok(())
            }
        })?;
    }
    Ok(sample)
}

fn put(
    connection: &mut Connection,
    token: usize,
    due: Instant,
    work: &mut dyn Work,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    out.clear();
    work.request(token, false, out);
    connection.since.push_back(due);
    send_all(&mut connection.stream, out)
}

/// The same GET again and again. The first answer is framed in full; the rest must have its status
/// and its length.
pub struct Get {
    keep: Vec<u8>,
    close: Vec<u8>,
    status: u16,
    /// Length of an answer on a connection that stays, and on one that is about to close.
    length: Option<usize>,
}

impl Get {
    pub fn new(target: &str, authorization: &str, extra: &str, status: u16) -> Get {
        let close = format!("{extra}Connection: close\r\n");
        Get {
            keep: http::request("GET", target, authorization, extra, b""),
            close: http::request("GET", target, authorization, &close, b""),
            status,
            length: None,
        }
    }
}

impl Work for Get {
    fn request(&mut self, _connection: usize, last: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(if last { &self.close } else { &self.keep });
    }

    fn answer(&mut self, _connection: usize, input: &[u8]) -> Result<Option<usize>, Failure> {
        if let Some(length) = self.length {
            if input.len() < length {
                // A closing answer may be shorter or longer by its Connection header: frame what is
                // complete.
                return Ok(http::frame(input)?.map(|frame| frame.total));
            }
            if http::status(input)? == self.status
                && (input.len() == length || input[length..].starts_with(b"HTTP/1.1 "))
            {
                return Ok(Some(length));
            }
        }
        let Some(frame) = http::frame(input)? else {
            return Ok(None);
        };
        if frame.status != self.status {
            return Err(format!("status {} instead of {}", frame.status, self.status).into());
        }
        self.length.get_or_insert(frame.total);
        Ok(Some(frame.total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Cores;
    use std::net::{SocketAddr, TcpListener};
    use std::thread;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    /// A server of its own threads; answers each request after `delay(number of the request on its
    /// connection)`.
    fn server(closes_after: Option<usize>, delay: fn(usize) -> Duration) -> SocketAddrV4 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let SocketAddr::V4(to) = listener.local_addr().expect("bound") else {
            panic!("bound to IPv4")
        };
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                thread::spawn(move || {
                    let (mut seen, mut input, mut buffer) = (0, Vec::new(), [0; 4096]);
                    while let Ok(count @ 1..) = stream.read(&mut buffer) {
                        input.extend_from_slice(&buffer[..count]);
                        while let Some(end) = memchr::memmem::find(&input, b"\r\n\r\n") {
                            input.drain(..end + 4);
                            thread::sleep(delay(seen));
                            seen += 1;
                            if stream.write_all(ANSWER).is_err() || closes_after == Some(seen) {
                                return;
                            }
                        }
                    }
                });
            }
        });
        to
    }

    fn plan(to: SocketAddrV4) -> Plan {
        Plan {
            to,
            connections: 4,
            pipeline: 1,
            answers_per_connection: None,
            warm: Duration::from_millis(20),
            time: Duration::from_millis(200),
        }
    }

    fn meter() -> Meter {
        Meter {
            cores: Cores {
                pinned: false,
                count: 1,
            },
            pids: Vec::new(),
            disk: None,
        }
    }

    #[test]
    fn closed_loop_counts_pipelined_answers_and_their_bytes() {
        let plan = Plan {
            pipeline: 16,
            ..plan(server(None, |_| Duration::ZERO))
        };
        let sample =
            closed(plan, &mut Get::new("/", "", "", 200), &meter()).expect("the server answers");
        assert!(sample.answers > 64);
        assert_eq!(sample.latency.len(), sample.answers);
        // A window may begin or end inside a batch of answers, never inside one answer's count.
        assert!(
            sample.bytes.abs_diff(sample.answers * ANSWER.len() as u64)
                <= (4 * 16 * ANSWER.len()) as u64
        );
    }

    #[test]
    fn connections_are_replaced_after_their_last_answer() {
        let plan = Plan {
            answers_per_connection: Some(3),
            ..plan(server(Some(3), |_| Duration::ZERO))
        };
        let sample =
            closed(plan, &mut Get::new("/", "", "", 200), &meter()).expect("closing was agreed");
        assert!(
            sample.answers > 12,
            "more than the first connections could answer: {}",
            sample.answers
        );
    }

    #[test]
    fn a_connection_that_closes_early_fails_the_run() {
        let outcome = closed(
            plan(server(Some(2), |_| Duration::ZERO)),
            &mut Get::new("/", "", "", 200),
            &meter(),
        );
        assert!(outcome.is_err());
    }

    #[test]
    fn an_unexpected_status_fails_the_run() {
        assert!(
            closed(
                plan(server(None, |_| Duration::ZERO)),
                &mut Get::new("/", "", "", 304),
                &meter()
            )
            .is_err()
        );
    }

    #[test]
    fn open_loop_charges_a_stall_to_every_due_request() {
        // One connection, 1,000 requests a second, one stall of 100 ms: about 100 requests wait
        // 0..100 ms. Measured from the time of sending, a single one would have been slow.
        let to = server(None, |seen| {
            if seen == 50 {
                Duration::from_millis(100)
            } else {
                Duration::ZERO
            }
        });
        let plan = Plan {
            connections: 1,
            warm: Duration::ZERO,
            time: Duration::from_millis(400),
            ..plan(to)
        };
        let sample = open_loop(
            plan,
            1000.0,
            Turn::Free,
            &mut Get::new("/", "", "", 200),
            &meter(),
        )
        .expect("the server answers");
        let slow = sample.latency.count_between(20_000_000, u64::MAX);
        assert!(slow >= 50, "{slow} requests felt the stall");
    }

    #[test]
    fn arrivals_are_evenly_spaced_and_do_not_drift() {
        assert_eq!(due_after(0, 2000.0), Duration::ZERO);
        assert_eq!(due_after(1, 2000.0), Duration::from_micros(500));
        assert_eq!(due_after(2_000_000, 2000.0), Duration::from_secs(1000));
    }

    #[test]
    fn source_addresses_change_before_ports_run_out() {
        assert_eq!(source_of(0), source_of(CONNECTIONS_PER_ADDRESS - 1));
        assert_ne!(source_of(0), source_of(CONNECTIONS_PER_ADDRESS));
        for opened in
            (0..u32::MAX - CONNECTIONS_PER_ADDRESS).step_by(CONNECTIONS_PER_ADDRESS as usize * 997)
        {
            assert!(source_of(opened).is_loopback());
        }
    }
}
