//! Thousands of parked long polls held by one thread, and the moment each of them has its bytes.
//!
//! A waiter is parked, woken by a change that the same thread publishes, and parked again. An
//! answer before the change, a waiter without an answer, and an answer to a waiter that was not
//! concerned are all failures.

use std::collections::HashSet;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use crate::load::{send_all, source_address};
use crate::machine::{self, Meter, Reading};
use crate::{Failure, http};
use weir_testkit::Response;
use weir_testkit::sys::{self, Event, Poll};

pub struct Waiters {
    poll: Poll,
    connections: Vec<Waiter>,
    /// Opened for the first change: a connection that is silent for long is closed by a careful
    /// server.
    publisher: Option<Waiter>,
    to: SocketAddrV4,
    buffer: Vec<u8>,
    ready: Vec<Event>,
}

struct Waiter {
    stream: TcpStream,
    partial: Vec<u8>,
}

/// One whole answer and when its last byte was read.
pub struct Woken {
    pub waiter: usize,
    pub at: Instant,
    pub status: u16,
    pub etag: Option<Box<str>>,
    pub bytes: usize,
}

/// What one change caused.
pub struct FanOut {
    pub published: Instant,
    /// The response to the publisher itself.
    pub answer: Response,
    pub woken: Vec<Woken>,
    pub busy: Reading,
}

impl FanOut {
    pub fn last_ms(&self) -> f64 {
        self.latencies_ms().into_iter().fold(0.0, f64::max)
    }

    pub fn latencies_ms(&self) -> Vec<f64> {
        self.woken
            .iter()
            .map(|woken| (woken.at - self.published).as_secs_f64() * 1e3)
            .collect()
    }
}

/// Long enough for any fan-out that still works; a figure is never derived from it.
const FAN_OUT_PATIENCE: Duration = Duration::from_secs(30);

impl Waiters {
    pub fn connect(count: usize, to: SocketAddrV4) -> Result<Waiters, Failure> {
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(count);
        for token in 0..count {
            let stream =
                sys::connect_blocking(to.into(), source_address().into()).map_err(|error| {
                    format!("connection {token} of {count} was not admitted: {error}")
                })?;
            stream.set_nonblocking(true)?;
            poll.add(&stream, token as u64, false)?;
            connections.push(Waiter {
                stream,
                partial: Vec::new(),
            });
        }
        Ok(Waiters {
            poll,
            connections,
            publisher: None,
            to,
            buffer: vec![0; 256 * 1024],
            ready: Vec::new(),
        })
    }

    pub fn count(&self) -> usize {
        self.connections.len()
    }

    /// Sends a waiter's question. It is parked once `settle` saw the server idle.
    pub fn park(&mut self, waiter: usize, request: &[u8]) -> Result<(), Failure> {
        send_all(&mut self.connections[waiter].stream, request)
    }

    /// Waits until the server's core has nothing left to do. An answer meanwhile means a waiter did
    /// not wait.
    pub fn settle(&mut self, meter: &Meter) -> Result<(), Failure> {
        let start = Instant::now();
        let mut calm = 0;
        while calm < 3 && start.elapsed() < Duration::from_secs(10) {
            let before = meter.read();
            self.quiet_for(Duration::from_millis(40))?;
            let busy = (meter.read() - before).exact;
            calm = if busy < 0.008 { calm + 1 } else { 0 };
        }
        Ok(())
    }

    /// Fails when any waiter is answered within `time`.
    pub fn quiet_for(&mut self, time: Duration) -> Result<(), Failure> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            self.ready.clear();
            self.poll.wait(left, &mut self.ready)?;
            let publisher = self.count() as u64;
            if self.ready.iter().any(|event| event.token == publisher) {
                self.publisher = None;
                self.ready.retain(|event| event.token != publisher);
            }
            if let Some(event) = self.ready.first() {
                let token = event.token;
                let waiter = &mut self.connections[token as usize];
                let count = waiter.stream.read(&mut self.buffer).unwrap_or(0);
                let shown = String::from_utf8_lossy(&self.buffer[..count.min(200)]).into_owned();
                return Err(
                    format!("waiter {token} was answered before the change: {shown:?}").into(),
                );
            }
            if left.is_zero() {
                return Ok(());
            }
        }
    }

    /// Collects one answer of each of `expected` waiters, each identified by its number.
    pub fn answers(&mut self, expected: usize) -> Result<Vec<Woken>, Failure> {
        let mut woken = Vec::with_capacity(expected);
        let start = Instant::now();
        while woken.len() < expected {
            self.collect(&mut woken, &mut None)?;
            if start.elapsed() > FAN_OUT_PATIENCE {
                return Err(format!(
                    "{} of {expected} were answered within {FAN_OUT_PATIENCE:?}",
                    woken.len()
                )
                .into());
            }
        }
        Ok(woken)
    }

    /// Publishes one change and waits until exactly `concerned` waiters (all when `None`) have
    /// their bytes.
    pub fn change(
        &mut self,
        publish: &[u8],
        concerned: Option<&HashSet<usize>>,
        meter: &Meter,
    ) -> Result<FanOut, Failure> {
        let expected = concerned.map_or(self.count(), HashSet::len);
        if self.publisher.is_none() {
            let stream = sys::connect_blocking(self.to.into(), source_address().into())?;
            stream.set_nonblocking(true)?;
            self.poll.add(&stream, self.count() as u64, false)?;
            self.publisher = Some(Waiter {
                stream,
                partial: Vec::new(),
            });
        }
        let publisher = self.publisher.as_mut().ok_or("there is a publisher")?;
        let mut woken = Vec::with_capacity(expected);
        let mut answer: Option<Response> = None;
        let before = meter.read();
        let published = Instant::now();
        send_all(&mut publisher.stream, publish)?;
        while woken.len() < expected || answer.is_none() {
            self.collect(&mut woken, &mut answer)?;
            if published.elapsed() > FAN_OUT_PATIENCE {
                return Err(format!(
                    "{} of {expected} waiters were woken within {FAN_OUT_PATIENCE:?}",
                    woken.len()
                )
                .into());
            }
        }
        let busy = meter.read() - before;
        let mut seen = HashSet::with_capacity(expected);
        for each in &woken {
            if !seen.insert(each.waiter) {
                return Err(format!("waiter {} was answered twice", each.waiter).into());
            }
            if concerned.is_some_and(|concerned| !concerned.contains(&each.waiter)) {
                return Err(format!(
                    "waiter {} was woken although nothing changed for it",
                    each.waiter
                )
                .into());
            }
            if each.status != 200 {
                return Err(format!(
                    "waiter {} was answered with status {}",
                    each.waiter, each.status
                )
                .into());
            }
        }
        let answer = answer.expect("the loop ends only with an answer");
        if answer.status >= 300 {
            return Err(format!(
                "the change was refused: {} {}",
                answer.status,
                answer.text()
            )
            .into());
        }
        Ok(FanOut {
            published,
            answer,
            woken,
            busy,
        })
    }

    fn collect(
        &mut self,
        woken: &mut Vec<Woken>,
        published: &mut Option<Response>,
    ) -> Result<(), Failure> {
        self.ready.clear();
        self.poll
            .wait(Duration::from_millis(200), &mut self.ready)?;
        for event in &self.ready {
            let token = event.token as usize;
            let is_publisher = token == self.connections.len();
            let waiter = match &mut self.publisher {
                Some(publisher) if is_publisher => publisher,
                _ => &mut self.connections[token],
            };
            let count = match waiter.stream.read(&mut self.buffer) {
                Ok(0) => return Err(format!("connection {token} was closed by the server").into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            let at = Instant::now();
            waiter.partial.extend_from_slice(&self.buffer[..count]);
            let Some(frame) = http::frame(&waiter.partial)? else {
                continue;
            };
            let head = &waiter.partial[..frame.head];
            if is_publisher {
                let body = waiter.partial[frame.head..frame.total].to_vec();
                *published = Some(Response {
                    status: frame.status,
                    head: head.into(),
                    body,
                    ..Response::default()
                });
            } else {
                let etag = http::header(head, "etag").map(Box::from);
                woken.push(Woken {
                    waiter: token,
                    at,
                    status: frame.status,
                    etag,
                    bytes: frame.total,
                });
            }
            waiter.partial.drain(..frame.total);
            if !waiter.partial.is_empty() {
                return Err(format!("connection {token} was sent more than one answer").into());
            }
            waiter.partial = Vec::new();
        }
        Ok(())
    }
}

/// Resident memory of a server with and without its waiters.
pub struct Parked {
    pub user_bytes: f64,
    /// Slab of both ends of the connection.
    pub kernel_bytes: f64,
}

/// What `count` parked polls cost a server, per poll.
pub fn parked_cost(
    count: usize,
    to: SocketAddrV4,
    meter: &Meter,
    request: impl Fn(usize) -> Vec<u8>,
) -> Result<(Parked, Waiters), Failure> {
    let (resident, slab) = (machine::resident_bytes(&meter.pids), machine::slab_bytes());
    let mut waiters = Waiters::connect(count, to)?;
    for waiter in 0..count {
        waiters.park(waiter, &request(waiter))?;
    }
    waiters.settle(meter)?;
    let each = count as f64;
    let parked = Parked {
        user_bytes: (machine::resident_bytes(&meter.pids) - resident) / each,
        kernel_bytes: (machine::slab_bytes() - slab) / each,
    };
    Ok((parked, waiters))
}
