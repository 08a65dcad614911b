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

use super::buffers::Buffers;
use super::conn_table::{Phase, Table};
use super::cors::Cors;
use super::counters::{CounterCells, Counters, add};
use super::deadline::Wheel;
use super::input::Input;
use super::response::{self, Body, Response};
use super::segmented_vec::SegmentedVec;
use super::shares::ConnectionShares;
use super::tickets::TicketMap;
use super::unsent::{Gone, Unsent, is_not_now};
use crate::error::ApiError;
use crate::limits::{Limits, READ_BYTES, UNSENT_BYTES_MAX};
use crate::rt;
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
    pub(super) started: Instant,
    /// Ticks since then.
    pub(super) now: Cell<u32>,
    pub(super) draining: Cell<bool>,
    /// The tick at which a drain ends idle connections; `u32::MAX` without a drain; 0 from then on.
    pub(super) idle_end: Cell<u32>,
    pub(super) ticking: Cell<bool>,
    pub(super) listeners: RefCell<Vec<RawFd>>,
    /// Accepted by the drain, to be served by the task that accepts.
    pub(super) arrivals: RefCell<Vec<(TcpStream, IpAddr)>>,
    pub(super) drained: RefCell<Vec<Waker>>,
    pub(super) buffers: Buffers,
    pub(super) count: CounterCells,
}

impl<A> Connections<A> {
    pub fn new(options: ConnectionOptions) -> Rc<Self> {
        let common = response::common(SystemTime::now(), &options.cors);
        let buffers_bytes_max = options.limits.buffers_bytes_max;
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
                producers: TicketMap::default(),
            }),
            common: RefCell::new(common),
            started: Instant::now(),
            now: Cell::new(0),
            draining: Cell::new(false),
            idle_end: Cell::new(u32::MAX),
            ticking: Cell::new(false),
            listeners: RefCell::new(Vec::new()),
            arrivals: RefCell::new(Vec::new()),
            drained: RefCell::new(Vec::new()),
            buffers: Buffers::new(buffers_bytes_max),
            count: CounterCells::default(),
        })
    }

    /// The address whose share a connection counts to; a trusted proxy has none.
    pub(super) fn sharer(&self, peer: IpAddr) -> Option<IpAddr> {
        (!self.trusted_proxies.contains(peer)).then_some(peer)
    }

    pub(super) fn take_scratch(&self) -> Box<[u8]> {
        self.buffers
            .scratch
            .take()
            .unwrap_or_else(|| vec![0; READ_BYTES].into())
    }

    pub(super) fn take_out(&self) -> Vec<u8> {
        self.buffers.out.take()
    }

    pub(super) fn return_out(&self, mut out: Vec<u8>) {
        out.clear();
        if out.capacity() <= 2 * UNSENT_BYTES_MAX {
            self.buffers.out.set(out);
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
        let mut unsent = Unsent::new(self.buffers.unsent_charge());
        if sent < bytes.len() {
            unsent.push(Body::Owned(bytes[sent..].to_vec()));
        } else {
            unsent.sent = sent - bytes.len();
        }
        unsent.push(large.unwrap_or(Body::Empty));
        Ok(Some(Box::new(unsent)))
    }

    /// Counts the memory of an arriving request.
    pub(super) fn charge(&self, input: &mut Input<Option<A>>) {
        let bytes = input.held_bytes();
        self.buffers.charge_arriving(&mut input.charge, bytes);
    }

    pub(super) fn charged(&self, mut input: Input<Option<A>>) -> Input<Option<A>> {
        self.charge(&mut input);
        input
    }

    /// Whether there is no memory to wait for the rest of this request.
    pub(super) fn lacks_memory_for(&self, input: &Input<Option<A>>) -> bool {
        self.buffers.refuses(&input.charge, input.held_bytes())
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

    /// Ends the connections of this core: accepts no more, answers with `Connection: close`, and
    /// closes idle connections after `Limits::drain_delay_ms`: a request may be on its way to them.
    /// The service completes the requests that wait. `drained` waits for the end of the last
    /// connection.
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
            if conn.phase == Phase::Upgraded {
                conn.wake();
            }
        }
        if self.limits.drain_delay_ms == 0 {
            self.end_idle();
        } else {
            self.idle_end.set(self.after(self.limits.drain_delay_ms));
        }
        self.notify_drained();
    }

    /// Ends the connections that are idle in a drain.
    pub(super) fn end_idle(&self) {
        self.idle_end.set(0);
        for conn in self.table.borrow_mut().conns.iter_mut().flatten() {
            if conn.phase == Phase::Idle {
                // Its task reads once more: a request may have arrived.
                conn.wake();
            }
        }
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
        let by_address = table.shares.refused();
        self.count
            .read(table.open, by_address, self.buffers.usage())
    }

    /// Logs a panic of the service, and returns the 500 that carries the id of the log line.
    pub(super) fn panicked(&self, place: &'static str, payload: &(dyn Any + Send)) -> Response {
        add(&self.count.panics, 1);
        let mut response = Response::from(panicked(place, payload));
        response.close = true;
        response
    }
}

/// The error for a request whose handler panicked; the log has its id and the message.
pub fn panicked(place: &'static str, payload: &(dyn Any + Send)) -> ApiError {
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(not a text)");
    // Without randomness the time is unique enough to find a line in a log.
    let id = getrandom::u64().unwrap_or_else(|_| rt::uptime_ms());
    let id = format!("{id:016x}");
    tracing::error!(id, place, message, "panic while handling a request");
    ApiError::internal(&id)
}
