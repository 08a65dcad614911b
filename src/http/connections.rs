//! Connections of one core: their table, what they share, and their counters.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use super::conn::{Conn, Core, Phase};
use super::cors::Cors;
use super::deadline::Wheel;
use super::response::{self, Body, Response};
use super::segmented_vec::SegmentedVec;
use super::unsent::{Gone, Unsent, is_not_now};
use super::{Service, Ticket};
use crate::error::ApiError;
use crate::limits::{Limits, READ_BYTES, SENDS_PER_YIELD, UNSENT_BYTES_MAX};
use crate::rt::{self, sys};

/// How the connections of a core behave.
#[derive(Debug, Clone)]
pub struct Options {
    pub limits: Limits,
    pub cors: Cors,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::DEFAULT,
            cors: Cors::Any,
        }
    }
}

/// What happened on this core since it started, and what is open now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub accepted: u64,
    /// Closed at once because of `connections_max`.
    pub shed: u64,
    /// `accept` failed because descriptors were exhausted.
    pub exhausted: u64,
    pub requests: u64,
    /// Answers that were parked first.
    pub waits: u64,
    /// Requests refused for their form.
    pub refused: u64,
    /// Requests that did not arrive in time.
    pub too_slow: u64,
    /// Connections ended because the client did not take its answers.
    pub stalled: u64,
    /// Waiting requests whose client went away.
    pub abandoned: u64,
    pub panics: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Complete lines of upgraded connections.
    pub lines_in: u64,
    pub open: u64,
    pub waiting: u64,
    /// Open connections that are upgraded.
    pub upgraded: u64,
}

#[derive(Default)]
pub(super) struct Count {
    pub(super) accepted: Cell<u64>,
    pub(super) shed: Cell<u64>,
    pub(super) exhausted: Cell<u64>,
    pub(super) requests: Cell<u64>,
    pub(super) waits: Cell<u64>,
    pub(super) refused: Cell<u64>,
    pub(super) too_slow: Cell<u64>,
    pub(super) stalled: Cell<u64>,
    pub(super) abandoned: Cell<u64>,
    pub(super) panics: Cell<u64>,
    pub(super) bytes_in: Cell<u64>,
    pub(super) bytes_out: Cell<u64>,
    pub(super) lines_in: Cell<u64>,
    pub(super) waiting: Cell<u64>,
    pub(super) upgraded: Cell<u64>,
}

pub(super) fn add(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}

pub(super) struct Table<A> {
    pub(super) conns: SegmentedVec<Option<Conn<A>>>,
    pub(super) free: Vec<u32>,
    /// Epochs outlive connections, or a late answer to a closed connection could reach its successor.
    pub(super) epochs: SegmentedVec<u32>,
    pub(super) wheel: Wheel,
    pub(super) open: usize,
}

impl<A> Table<A> {
    pub(super) fn get(&mut self, slot: u32) -> &mut Conn<A> {
        self.conns[slot]
            .as_mut()
            .expect("a task outlives its entry")
    }

    /// The connection that owes this answer and can still be given it.
    pub(super) fn waiting(&mut self, ticket: Ticket) -> Option<&mut Conn<A>> {
        self.conns
            .get_mut(ticket.slot)?
            .as_mut()
            .filter(|conn| conn.phase == Phase::Waiting && conn.epoch == ticket.epoch)
    }

    /// The connection of lines of this name, while it can be told something.
    pub(super) fn upgraded(&mut self, ticket: Ticket) -> Option<&mut Conn<A>> {
        self.conns
            .get_mut(ticket.slot)?
            .as_mut()
            .filter(|conn| conn.phase == Phase::Upgraded && conn.epoch == ticket.epoch)
    }
}

/// The connections of one core. Shared by `Rc` between the tasks of that core. `A`: see [`Service::Admitted`].
pub struct Connections<A> {
    pub(super) limits: Limits,
    pub(super) cors: Cors,
    pub(super) table: RefCell<Table<A>>,
    /// Date and the like, see `response::common`.
    pub(super) common: RefCell<Vec<u8>>,
    /// Every read of the core goes here.
    pub(super) scratch: Cell<Option<Box<[u8]>>>,
    /// Every batch of answers is built here.
    pub(super) out: Cell<Vec<u8>>,
    pub(super) started: Instant,
    pub(super) now: Cell<u32>,
    pub(super) draining: Cell<bool>,
    pub(super) ticking: Cell<bool>,
    pub(super) listeners: RefCell<Vec<RawFd>>,
    /// Accepted while draining, to be served by the task that accepts.
    pub(super) arrivals: RefCell<Vec<(std::net::TcpStream, IpAddr)>>,
    pub(super) drained: RefCell<Vec<Waker>>,
    pub(super) count: Count,
}

impl<A> Connections<A> {
    pub fn new(options: Options) -> Rc<Self> {
        let common = response::common(SystemTime::now(), &options.cors);
        Rc::new(Self {
            limits: options.limits,
            cors: options.cors,
            table: RefCell::new(Table {
                conns: SegmentedVec::new(),
                free: Vec::new(),
                epochs: SegmentedVec::new(),
                wheel: Wheel::new(),
                open: 0,
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
            count: Count::default(),
        })
    }

    pub(super) fn take_scratch(&self) -> Box<[u8]> {
        self.scratch
            .take()
            .unwrap_or_else(|| vec![0; READ_BYTES].into())
    }

    pub(super) fn take_out(&self) -> Vec<u8> {
        self.out.take()
    }

    pub(super) fn give_out(&self, mut out: Vec<u8>) {
        out.clear();
        if out.capacity() <= 2 * UNSENT_BYTES_MAX {
            self.out.set(out);
        }
    }

    /// Hands over what the socket takes; the rest is kept.
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

    /// The tick at which `ms` have surely passed.
    pub(super) fn after(&self, ms: u32) -> u32 {
        self.now.get() + ms.div_ceil(self.limits.tick_ms) + 1
    }

    pub(super) fn quiet_ticks(&self) -> u32 {
        let ms = if self.draining.get() {
            self.limits.linger_ms
        } else {
            self.limits.idle_ms
        };
        ms.div_ceil(self.limits.tick_ms) + 1
    }

    /// When a body of which `received` bytes have come since tick `since` is too slow.
    pub(super) fn body_deadline(&self, since: u32, received: u64) -> u32 {
        let limits = &self.limits;
        let earned_ms = received * 1000 / u64::from(limits.body_bytes_per_second_min.max(1));
        let ms = u64::from(limits.body_grace_ms) + earned_ms;
        let ticks = ms.div_ceil(u64::from(limits.tick_ms)) + 1;
        since.saturating_add(u32::try_from(ticks).unwrap_or(u32::MAX / 2))
    }

    /// Ends the life of this core's connections: accepts no more, closes what is idle, lets what is in flight finish with
    /// `Connection: close`. Parked polls are the service's to complete. `drained` tells when all are gone.
    pub fn drain(&self) {
        if self.draining.replace(true) {
            return;
        }
        for listener in self.listeners.borrow().iter() {
            // What the kernel has accepted for us would be reset with the socket.
            while let Some(arrival) = sys::accept_now(*listener) {
                self.arrivals.borrow_mut().push(arrival);
            }
            sys::shutdown(*listener, sys::Side::Both);
        }
        for conn in self.table.borrow_mut().conns.iter_mut().flatten() {
            if matches!(conn.phase, Phase::Quiet | Phase::Upgraded) {
                // Its task reads once more: a request may be there that we have not seen.
                conn.wake();
            }
        }
        self.tell_drained();
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

    pub(super) fn tell_drained(&self) {
        if self.is_drained() {
            for waker in self.drained.borrow_mut().drain(..) {
                waker.wake();
            }
        }
    }

    pub fn counters(&self) -> Counters {
        let count = &self.count;
        Counters {
            accepted: count.accepted.get(),
            shed: count.shed.get(),
            exhausted: count.exhausted.get(),
            requests: count.requests.get(),
            waits: count.waits.get(),
            refused: count.refused.get(),
            too_slow: count.too_slow.get(),
            stalled: count.stalled.get(),
            abandoned: count.abandoned.get(),
            panics: count.panics.get(),
            bytes_in: count.bytes_in.get(),
            bytes_out: count.bytes_out.get(),
            lines_in: count.lines_in.get(),
            upgraded: count.upgraded.get(),
            open: self.table.borrow().open as u64,
            waiting: count.waiting.get(),
        }
    }

    /// A 500 whose id is in the log beside the panic.
    pub(super) fn panicked(
        &self,
        place: &'static str,
        payload: &(dyn std::any::Any + Send),
    ) -> Response {
        add(&self.count.panics, 1);
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("not a text");
        let id = getrandom::u64().unwrap_or_else(|_| {
            // Without randomness the time is unique enough to find a line in a log.
            self.started.elapsed().as_nanos() as u64
        });
        let id = format!("{id:016x}");
        tracing::error!(id, place, message, "panic while deciding a request");
        let mut response = Response::from(ApiError::internal(&id));
        response.close = true;
        response
    }
}

/// Turns the deadlines and the clock of a core. The only timer.
pub(super) async fn tick<S: Service + 'static>(core: Rc<Core<S>>) {
    let shared = &core.shared;
    let tick = Duration::from_millis(u64::from(shared.limits.tick_ms));
    let mut due = Vec::new();
    let mut dated = 0;
    while !shared.is_drained() {
        rt::sleep(tick).await;
        let now = shared.started.elapsed().as_millis() / u128::from(shared.limits.tick_ms);
        // At the default tick this wraps after 13 years of one process.
        let now = now as u32;
        shared.now.set(now);
        let date = SystemTime::now();
        let second = date
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        if second != dated {
            dated = second;
            *shared.common.borrow_mut() = response::common(date, &shared.cors);
        }
        shared.table.borrow_mut().wheel.advance(now, &mut due);
        for (i, slot) in due.drain(..).enumerate() {
            if i % SENDS_PER_YIELD == SENDS_PER_YIELD - 1 {
                rt::yield_now().await;
            }
            core.expire(slot);
        }
    }
    shared.ticking.set(false);
}
