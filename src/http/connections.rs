//! Connections: what the connections of one core share. The table, the clock, buffers, the drain.
//!
//! Promises: one read buffer and one answer buffer per core; one timer, which turns all deadlines;
//! a ticket of a closed connection never reaches its successor; a drain ends every connection after
//! what is in flight is answered. What one connection does is left to `conn` and `lines`.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{IpAddr, TcpStream};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Instant, SystemTime};

use super::conn_table::{Phase, Table};
use super::cors::Cors;
use super::counters::{CounterCells, Counters, add};
use super::deadline::Wheel;
use super::response::{self, Body, Response};
use super::segmented_vec::SegmentedVec;
use super::shares::ConnectionShares;
use super::unsent::{Gone, Unsent, is_not_now};
use crate::error::ApiError;
use crate::limits::{Limits, READ_BYTES, UNSENT_BYTES_MAX};
use crate::rt::sys;
use crate::subnet::Subnets;

/// How the connections of a core behave.
#[derive(Debug, Clone)]
pub struct ConnectionOptions {
    pub limits: Limits,
    pub cors: Cors,
    /// Proxies that name their clients in header fields.
    pub trusted_proxies: Subnets,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            limits: Limits::DEFAULT,
            cors: Cors::Any,
            trusted_proxies: Subnets::loopback(),
        }
    }
}

/// The connections of one core. Shared by `Rc` between the tasks of that core. `A`: see
/// [`Service::Admitted`].
pub struct Connections<A> {
    pub(super) limits: Limits,
    pub(super) cors: Cors,
    pub(super) trusted_proxies: Subnets,
    pub(super) table: RefCell<Table<A>>,
    /// Fields of every response, see `response::common`.
    pub(super) common: RefCell<Vec<u8>>,
    /// The buffer of every read.
    pub(super) scratch: Cell<Option<Box<[u8]>>>,
    /// The buffer of every batch of answers.
    pub(super) out: Cell<Vec<u8>>,
    pub(super) started: Instant,
    /// Ticks since then.
    pub(super) now: Cell<u32>,
    pub(super) draining: Cell<bool>,
    pub(super) ticking: Cell<bool>,
    pub(super) listeners: RefCell<Vec<RawFd>>,
    /// Accepted by the drain, to be served by the task that accepts.
    pub(super) arrivals: RefCell<Vec<(TcpStream, IpAddr)>>,
    pub(super) drained: RefCell<Vec<Waker>>,
    pub(super) count: CounterCells,
}

impl<A> Connections<A> {
    pub fn new(options: ConnectionOptions) -> Rc<Self> {
        let common = response::common(SystemTime::now(), &options.cors);
        Rc::new(Self {
            limits: options.limits,
            cors: options.cors,
            trusted_proxies: options.trusted_proxies,
            table: RefCell::new(Table {
                conns: SegmentedVec::new(),
                free: Vec::new(),
                epochs: SegmentedVec::new(),
                wheel: Wheel::new(),
                open: 0,
                shares: ConnectionShares::default(),
            }),
            common: RefCell::new(common),
            scratch: Cell::new(None),
            out: Cell::new(Vec::new()),
            started: Instant::now(),
            now: Cell::new(0),
            draining: Cell::new(false),
            ticking: Cell::new(false),
            listeners: RefCell::new(Vec::new()),
            arrivals: RefCell::new(Vec::new()),
            drained: RefCell::new(Vec::new()),
            count: CounterCells::default(),
        })
    }

    /// The address whose share a connection counts to; a trusted proxy has none.
    pub(super) fn sharer(&self, peer: IpAddr) -> Option<IpAddr> {
        (!self.trusted_proxies.contains(peer)).then_some(peer)
    }

    pub(super) fn take_scratch(&self) -> Box<[u8]> {
        self.scratch
            .take()
            .unwrap_or_else(|| vec![0; READ_BYTES].into())
    }

    pub(super) fn take_out(&self) -> Vec<u8> {
        self.out.take()
    }

    pub(super) fn return_out(&self, mut out: Vec<u8>) {
        out.clear();
        if out.capacity() <= 2 * UNSENT_BYTES_MAX {
            self.out.set(out);
        }
    }

    /// Sends what the socket takes, and returns the rest.
    pub(super) fn send(
        &self,
        socket: RawFd,
        bytes: &[u8],
        large: Option<Body>,
    ) -> Result<Option<Box<Unsent>>, Gone> {
        let sent = match &large {
            None if bytes.is_empty() => return Ok(None),
            None => sys::send(socket, bytes),
            Some(large) => sys::send_two(socket, bytes, large.bytes()),
        };
        let sent = match sent {
            Ok(sent) => sent,
            Err(error) if is_not_now(&error) => 0,
            Err(_) => return Err(Gone),
        };
        add(&self.count.bytes_out, sent as u64);
        let total = bytes.len() + large.as_ref().map_or(0, |large| large.bytes().len());
        if sent == total {
            return Ok(None);
        }
        let mut unsent = Unsent::default();
        if sent < bytes.len() {
            unsent.push(Body::Owned(bytes[sent..].to_vec()));
        } else {
            unsent.sent = sent - bytes.len();
        }
        unsent.push(large.unwrap_or(Body::Empty));
        Ok(Some(Box::new(unsent)))
    }

    /// The first tick at which `ms` have passed for sure.
    pub(super) fn after(&self, ms: u32) -> u32 {
        self.now.get() + ms.div_ceil(self.limits.tick_ms) + 1
    }

    pub(super) fn idle_ticks(&self) -> u32 {
        let ms = if self.draining.get() {
            self.limits.linger_ms
        } else {
            self.limits.idle_ms
        };
        ms.div_ceil(self.limits.tick_ms) + 1
    }

    /// The tick at which a body is too slow that began at tick `since` and has `received` bytes.
    pub(super) fn body_deadline(&self, since: u32, received: u64) -> u32 {
        let limits = &self.limits;
        let earned_ms = received * 1000 / u64::from(limits.body_bytes_per_second_min.max(1));
        let ms = u64::from(limits.body_grace_ms) + earned_ms;
        let ticks = ms.div_ceil(u64::from(limits.tick_ms)) + 1;
        since.saturating_add(u32::try_from(ticks).unwrap_or(u32::MAX / 2))
    }

    /// Ends the connections of this core: accepts no more, closes idle connections, lets requests
    /// in flight finish with `Connection: close`. The service completes the requests that wait.
    /// `drained` waits for the end of the last connection.
    pub fn drain(&self) {
        if self.draining.replace(true) {
            return;
        }
        for listener in self.listeners.borrow().iter() {
            // Connections that the kernel has accepted would be reset with the listening socket.
            while let Some(arrival) = sys::accept_now(*listener) {
                self.arrivals.borrow_mut().push(arrival);
            }
            sys::shutdown(*listener, sys::Side::Both);
        }
        for conn in self.table.borrow_mut().conns.iter_mut().flatten() {
            if matches!(conn.phase, Phase::Idle | Phase::Upgraded) {
                // Its task reads once more: a request may have arrived.
                conn.wake();
            }
        }
        self.notify_drained();
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Completes when a drain has ended the last connection.
    pub async fn drained(&self) {
        poll_fn(|context| {
            if self.is_drained() {
                return Poll::Ready(());
            }
            self.drained.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub(super) fn is_drained(&self) -> bool {
        self.draining.get()
            && self.table.borrow().open == 0
            && self.listeners.borrow().is_empty()
            && self.arrivals.borrow().is_empty()
    }

    pub(super) fn notify_drained(&self) {
        if self.is_drained() {
            for waker in self.drained.borrow_mut().drain(..) {
                waker.wake();
            }
        }
    }

    pub fn counters(&self) -> Counters {
        let table = self.table.borrow();
        self.count.read(table.open, table.shares.refused())
    }

    /// Logs a panic of the service, and returns the 500 that carries the id of the log line.
    pub(super) fn panicked(&self, place: &'static str, payload: &(dyn Any + Send)) -> Response {
        add(&self.count.panics, 1);
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("(not a text)");
        let id = getrandom::u64().unwrap_or_else(|_| {
            // Without randomness the time is unique enough to find a line in a log.
            self.started.elapsed().as_nanos() as u64
        });
        let id = format!("{id:016x}");
        tracing::error!(id, place, message, "panic while handling a request");
        let mut response = Response::from(ApiError::internal(&id));
        response.close = true;
        response
    }
}
