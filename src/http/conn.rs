//! Connections of one core: bytes in, requests to the service, answers out, and when to stop.
//!
//! One task per connection that does nothing but wait for its socket; everything else is a synchronous `turn`: take what the socket has
//! (one read into a buffer of the core), answer every complete request in it, hand over all answers in one write. An idle or
//! parked connection owns no buffer and no timer.
//!
//! Promises: answers leave in the order of the requests; a request that waits is completed straight from the completer's stack, without
//! waking the task, when nothing else is to be done; nothing pending in the kernel is ever dropped (a connection is ended by
//! `shutdown`, which completes what waits); whatever a client does is bounded in time and bytes; a panic of the service ends one
//! connection. What requests mean and who may send them is left to the `Service`, of which there is one per `Connections`.
//!
//! An upgraded connection keeps its task, its entry and its rules: a partial line is all it may make us keep, silence ends it by the same
//! wheel of deadlines, what it does not take is queued with a bound.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use super::deadline::Wheel;
use super::parse::{self, Chunked, Framing, Head, Method, Refusal};
use super::response::{self, Body, Prepared, Response, Style};
use super::steps::Steps;
use super::{Accepts, Answer, Ended, Lines, Request, Service, Ticket, Upgrade};
use crate::error::{self, ApiError};
use crate::limits::{
    ACCEPT_PAUSE_MS, AHEAD_BYTES_MAX, ANSWERS_PER_WRITE_MAX, COMPRESS_BYTES_MIN, HEAD_BYTES_MAX,
    LINE_BYTES_MAX, LINES_UNSENT_BYTES_MAX, LINGER_BYTES_MAX, Limits, READ_BYTES, SENDS_PER_YIELD,
    TURNS_PER_POLL, UNSENT_BYTES_MAX,
};
use crate::rt::{self, Listener, Socket, sys};

/// How the connections of a core behave.
#[derive(Debug, Clone)]
pub struct Options {
    pub limits: Limits,
    pub cors: Cors,
}

/// Which web pages of other origins may read the answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Cors {
    #[default]
    Off,
    Any,
    /// Each is told to itself only, because the field has room for one. At most 255; later ones are not served.
    Origins(Vec<String>),
}

impl Cors {
    /// The number that stands for the origin of a request, if it is one of several; 0 for none.
    fn of(&self, head: &Head<'_>) -> u8 {
        let Cors::Origins(known) = self else { return 0 };
        let Some(origin) = head.headers.get("origin") else {
            return 0;
        };
        let place = known.iter().position(|known| known.as_bytes() == origin);
        place.map_or(0, |place| u8::try_from(place + 1).unwrap_or(0))
    }

    /// The origin behind a number.
    fn allowed(&self, number: u8) -> Option<&str> {
        match self {
            Cors::Origins(known) => known.get(usize::from(number).checked_sub(1)?),
            Cors::Off | Cors::Any => None,
        }
        .map(String::as_str)
    }
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

/// Where a connection is between two turns. Unsent answers are a second, independent matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing of a request has arrived.
    Quiet,
    /// A part of a request has arrived.
    Receiving,
    /// The service owes an answer.
    Waiting,
    /// Lines instead of requests.
    Upgraded,
    /// The last answer is sent; what still comes is thrown away.
    Lingering,
    /// The task has only to notice.
    Closed,
}

/// What the task waits for next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Readable,
    Writable,
    /// To be woken: there is nothing the socket could tell that we want to know now.
    Parked,
    Close,
}

/// One open connection. Its size is what an idle client costs, together with its task.
#[allow(clippy::struct_excessive_bools)] // independent facts, one byte each
struct Conn<A> {
    /// Valid as long as the entry is in the table: the entry is removed before the socket closes.
    socket: RawFd,
    /// Of the newest request of this slot; grows over all connections that use the slot.
    epoch: u32,
    peer: IpAddr,
    phase: Phase,
    /// The connection ends when the unsent answers are sent.
    last: bool,
    /// It ends by reading on for a while, because the client may be sending.
    linger: bool,
    /// The service has not answered `epoch` yet.
    owed: bool,
    /// `epoch` names a connection of lines, whose end the service is to be told.
    upgraded: bool,
    /// Why, as far as it is our doing.
    ended: Ended,
    /// The client has ended its sending side.
    half_closed: bool,
    woken: bool,
    // How the answer that is owed will look.
    head_only: bool,
    keep_alive: bool,
    is_1_0: bool,
    accepts: Accepts,
    origin: u8,
    /// The tick in which the body began, the bytes read while lingering, or the ticks that an upgraded connection may be silent.
    since: u32,
    waker: Option<Waker>,
    input: Option<Box<Input<A>>>,
    unsent: Option<Box<Unsent>>,
}

/// What has arrived and could not be answered yet.
struct Input<A> {
    /// The head of the request in progress, then what follows it.
    bytes: Vec<u8>,
    /// Not looked at yet: to be answered before anything more is read.
    ready: bool,
    /// How much of an incomplete head has been looked at.
    seen: usize,
    /// Of the body in progress, as sent.
    body_received: u64,
    progress: Progress<A>,
}

/// How far the first request of an `Input` is.
enum Progress<A> {
    /// The head is incomplete or not looked at.
    Head,
    /// Admitted; head and body have this many bytes together.
    Length { total: usize, admitted: Option<A> },
    /// Admitted; the body is decoded while it arrives and cut out of the bytes.
    Chunked {
        chunked: Box<ChunkedBody>,
        admitted: Option<A>,
    },
}

struct ChunkedBody {
    decoder: Chunked,
    body: Vec<u8>,
}

impl<A> Input<A> {
    fn new(bytes: &[u8], progress: Progress<A>) -> Self {
        Self {
            bytes: bytes.to_vec(),
            ready: false,
            seen: 0,
            body_received: 0,
            progress,
        }
    }

    /// Complete or not, nobody has looked at it.
    fn unseen(bytes: &[u8]) -> Self {
        Self {
            ready: true,
            ..Self::new(bytes, Progress::Head)
        }
    }

    /// Adds what was read. Says whether it is worth looking at the whole.
    fn add(&mut self, bytes: &[u8]) -> Result<bool, Refusal> {
        match &mut self.progress {
            Progress::Head => {
                self.bytes.extend_from_slice(bytes);
                // A head that comes byte by byte is looked at once per line, not once per byte.
                let look = self.seen == 0
                    || memchr::memchr(b'\n', bytes).is_some()
                    || self.bytes.len() >= 2 * self.seen
                    || self.bytes.len() >= HEAD_BYTES_MAX;
                if look {
                    self.seen = self.bytes.len();
                }
                Ok(look)
            }
            Progress::Length { total, .. } => {
                self.bytes.extend_from_slice(bytes);
                self.body_received += bytes.len() as u64;
                Ok(self.bytes.len() >= *total)
            }
            Progress::Chunked { chunked, .. } => {
                self.body_received += bytes.len() as u64;
                let fed = chunked.decoder.feed(bytes, &mut chunked.body)?;
                self.bytes.extend_from_slice(&bytes[fed.used..]);
                Ok(fed.complete)
            }
        }
    }
}

/// Answers the socket has not taken.
#[derive(Default)]
struct Unsent {
    parts: VecDeque<Body>,
    /// Sent of the first part.
    sent: usize,
}

impl Unsent {
    fn bytes(&self) -> usize {
        let all: usize = self.parts.iter().map(|part| part.bytes().len()).sum();
        all - self.sent
    }
}

enum Flushed {
    All,
    /// The socket is full. `true` if it took something.
    Some(bool),
    Gone,
}

impl Unsent {
    fn push(&mut self, part: Body) {
        if !part.bytes().is_empty() {
            self.parts.push_back(part);
        }
    }

    fn flush(&mut self, socket: RawFd, bytes_out: &Cell<u64>) -> Flushed {
        let mut progress = false;
        while let Some(first) = self.parts.front() {
            let first = &first.bytes()[self.sent..];
            let sent = match self.parts.get(1) {
                Some(second) => sys::send_two(socket, first, second.bytes()),
                None => sys::send(socket, first),
            };
            match sent {
                Ok(mut sent) => {
                    progress |= sent > 0;
                    add(bytes_out, sent as u64);
                    while let Some(part) = self.parts.front() {
                        let left = part.bytes().len() - self.sent;
                        if sent < left {
                            self.sent += sent;
                            break;
                        }
                        sent -= left;
                        self.sent = 0;
                        self.parts.pop_front();
                    }
                }
                Err(error) if is_not_now(&error) => return Flushed::Some(progress),
                Err(_) => return Flushed::Gone,
            }
        }
        Flushed::All
    }
}

fn is_not_now(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn add(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}

struct Table<A> {
    conns: Steps<Option<Conn<A>>>,
    free: Vec<u32>,
    /// Epochs outlive connections, or a late answer to a closed connection could reach its successor.
    epochs: Steps<u32>,
    wheel: Wheel,
    open: usize,
}

impl<A> Table<A> {
    fn get(&mut self, slot: u32) -> &mut Conn<A> {
        self.conns[slot]
            .as_mut()
            .expect("a task outlives its entry")
    }

    /// The connection that owes this answer and can still be given it.
    fn waiting(&mut self, ticket: Ticket) -> Option<&mut Conn<A>> {
        self.conns
            .get_mut(ticket.slot)?
            .as_mut()
            .filter(|conn| conn.phase == Phase::Waiting && conn.epoch == ticket.epoch)
    }

    /// The connection of lines of this name, while it can be told something.
    fn upgraded(&mut self, ticket: Ticket) -> Option<&mut Conn<A>> {
        self.conns
            .get_mut(ticket.slot)?
            .as_mut()
            .filter(|conn| conn.phase == Phase::Upgraded && conn.epoch == ticket.epoch)
    }
}

/// The connections of one core. Shared by `Rc` between the tasks of that core. `A`: see [`Service::Admitted`].
pub struct Connections<A> {
    limits: Limits,
    cors: Cors,
    table: RefCell<Table<A>>,
    /// Date and the like, see `response::common`.
    common: RefCell<Vec<u8>>,
    /// Every read of the core goes here.
    scratch: Cell<Option<Box<[u8]>>>,
    /// Every batch of answers is built here.
    out: Cell<Vec<u8>>,
    started: Instant,
    now: Cell<u32>,
    draining: Cell<bool>,
    ticking: Cell<bool>,
    listeners: RefCell<Vec<RawFd>>,
    /// Accepted while draining, to be served by the task that accepts.
    arrivals: RefCell<Vec<(std::net::TcpStream, IpAddr)>>,
    drained: RefCell<Vec<Waker>>,
    count: Count,
}

#[derive(Default)]
struct Count {
    accepted: Cell<u64>,
    shed: Cell<u64>,
    exhausted: Cell<u64>,
    requests: Cell<u64>,
    waits: Cell<u64>,
    refused: Cell<u64>,
    too_slow: Cell<u64>,
    stalled: Cell<u64>,
    abandoned: Cell<u64>,
    panics: Cell<u64>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    lines_in: Cell<u64>,
    waiting: Cell<u64>,
    upgraded: Cell<u64>,
}

impl<A> Connections<A> {
    pub fn new(options: Options) -> Rc<Self> {
        let common = response::common(SystemTime::now(), &options.cors);
        Rc::new(Self {
            limits: options.limits,
            cors: options.cors,
            table: RefCell::new(Table {
                conns: Steps::new(),
                free: Vec::new(),
                epochs: Steps::new(),
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

    /// Gives a waiting request its answer. `false`: nobody waits for it any more. May be called from inside the service, for other
    /// tickets than the one being decided.
    pub fn complete(&self, ticket: Ticket, response: Response) -> bool {
        let mut table = self.table.borrow_mut();
        let Some(conn) = table.waiting(ticket) else {
            return false;
        };
        if response.close {
            conn.keep_alive = false;
            conn.linger = true;
        }
        let style = self.style_of(conn);
        let mut out = self.take_out();
        let large = response::write(response, style, &self.common.borrow(), &mut out);
        self.deliver(&mut table, ticket.slot, style.close, &out, large);
        self.give_out(out);
        true
    }

    /// Whether somebody still waits for this answer.
    pub fn is_waiting(&self, ticket: Ticket) -> bool {
        self.table.borrow_mut().waiting(ticket).is_some()
    }

    /// Says something on an upgraded connection: one or more whole lines. `false`: it is over, or has too much unsent and ends now.
    pub fn send_line(&self, ticket: Ticket, line: &[u8]) -> bool {
        let mut table = self.table.borrow_mut();
        let Some(conn) = table.upgraded(ticket) else {
            return false;
        };
        if let Some(unsent) = &mut conn.unsent {
            if unsent.bytes() + line.len() > LINES_UNSENT_BYTES_MAX {
                add(&self.count.stalled, 1);
                conn.ended = Ended::Stalled;
                conn.kill();
                return false;
            }
            unsent.push(Body::Owned(line.to_vec()));
            return true;
        }
        match self.send(conn.socket, line, None) {
            Ok(None) => true,
            Ok(Some(unsent)) => {
                conn.unsent = Some(unsent);
                conn.wake();
                table
                    .wheel
                    .set(ticket.slot, self.after(self.limits.send_ms));
                true
            }
            Err(Gone) => {
                conn.kill();
                false
            }
        }
    }

    /// Ends an upgraded connection when `last` is sent. `false`: it is over already.
    pub fn end_lines(&self, ticket: Ticket, last: &[u8]) -> bool {
        if !last.is_empty() && !self.send_line(ticket, last) {
            return false;
        }
        let mut table = self.table.borrow_mut();
        let Some(conn) = table.upgraded(ticket) else {
            return false;
        };
        conn.ended = Ended::ByService;
        self.stop_lines(&mut table, ticket.slot);
        true
    }

    /// Nothing more is said or heard on an upgraded connection; what is unsent goes out.
    fn stop_lines(&self, table: &mut Table<A>, slot: u32) {
        let conn = table.get(slot);
        conn.last = true;
        conn.linger = true;
        conn.input = None;
        conn.phase = Phase::Quiet;
        if conn.unsent.is_none() {
            self.end_woken(table, slot);
        }
    }

    /// Formats an answer once for many `complete_shared`. `accepts` is what all receivers take.
    pub fn prepare(&self, response: Response, accepts: Accepts) -> Prepared {
        Prepared::new(response, accepts, &self.common.borrow())
    }

    /// Gives a waiting request an answer that others get, too. Costs little more than the system call that sends it.
    pub fn complete_shared(&self, ticket: Ticket, prepared: &Prepared) -> bool {
        let mut table = self.table.borrow_mut();
        let Some(conn) = table.waiting(ticket) else {
            return false;
        };
        let style = self.style_of(conn);
        if style.close || style.is_1_0 || style.head_only || style.origin.is_some() {
            let mut out = self.take_out();
            prepared.write_variant(style, &mut out);
            self.deliver(&mut table, ticket.slot, style.close, &out, None);
            self.give_out(out);
        } else {
            self.deliver(&mut table, ticket.slot, false, prepared.whole(), None);
        }
        true
    }

    fn style_of(&self, conn: &mut Conn<A>) -> Style<'_> {
        if self.draining.get() && conn.keep_alive {
            conn.keep_alive = false;
            conn.linger = true;
        }
        // What was sent ahead will not be read if this is the last answer.
        conn.linger |= conn.input.is_some();
        Style {
            head_only: conn.head_only,
            close: !conn.keep_alive || conn.half_closed && conn.input.is_none(),
            is_1_0: conn.is_1_0,
            accepts: conn.accepts,
            origin: self.cors.allowed(conn.origin),
        }
    }

    /// Sends the answer that was owed. The task is woken only if there is something left for it to do.
    fn deliver(
        &self,
        table: &mut Table<A>,
        slot: u32,
        close: bool,
        bytes: &[u8],
        large: Option<Body>,
    ) {
        let now = self.now.get();
        let conn = table.get(slot);
        conn.phase = Phase::Quiet;
        conn.owed = false;
        conn.last |= close;
        add(&self.count.waits, 1);
        self.count.waiting.set(self.count.waiting.get() - 1);
        if let Some(unsent) = &mut conn.unsent {
            // The task is flushing already.
            unsent.push(Body::Owned(bytes.to_vec()));
            unsent.push(large.unwrap_or(Body::Empty));
            table.wheel.set(slot, self.after(self.limits.send_ms));
            return;
        }
        match self.send(conn.socket, bytes, large) {
            Ok(None) if conn.last => self.end_woken(table, slot),
            Ok(None) => {
                if conn.input.is_some() || conn.half_closed {
                    conn.wake();
                }
                table.wheel.set(slot, now + self.quiet_ticks());
            }
            Ok(Some(unsent)) => {
                conn.unsent = Some(unsent);
                conn.wake();
                table.wheel.set(slot, self.after(self.limits.send_ms));
            }
            Err(Gone) => conn.kill(),
        }
    }

    /// Hands over what the socket takes; the rest is kept.
    fn send(
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

    /// All is sent and nothing may follow.
    fn end(&self, table: &mut Table<A>, slot: u32) -> Next {
        let conn = table.get(slot);
        conn.input = None;
        if !conn.linger || conn.half_closed {
            conn.phase = Phase::Closed;
            return Next::Close;
        }
        sys::shutdown(conn.socket, sys::Side::Write);
        conn.phase = Phase::Lingering;
        conn.since = 0;
        table.wheel.set(slot, self.after(self.limits.linger_ms));
        Next::Readable
    }

    /// The same from outside the task.
    fn end_woken(&self, table: &mut Table<A>, slot: u32) {
        let next = self.end(table, slot);
        let conn = table.get(slot);
        match next {
            Next::Close => conn.kill(),
            // It may have been parked.
            _ => conn.wake(),
        }
    }

    fn take_out(&self) -> Vec<u8> {
        self.out.take()
    }

    fn give_out(&self, mut out: Vec<u8>) {
        out.clear();
        if out.capacity() <= 2 * UNSENT_BYTES_MAX {
            self.out.set(out);
        }
    }

    /// The tick at which `ms` have surely passed.
    fn after(&self, ms: u32) -> u32 {
        self.now.get() + ms.div_ceil(self.limits.tick_ms) + 1
    }

    fn quiet_ticks(&self) -> u32 {
        let ms = if self.draining.get() {
            self.limits.linger_ms
        } else {
            self.limits.idle_ms
        };
        ms.div_ceil(self.limits.tick_ms) + 1
    }

    /// When a body of which `received` bytes have come since tick `since` is too slow.
    fn body_deadline(&self, since: u32, received: u64) -> u32 {
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

    fn is_drained(&self) -> bool {
        self.draining.get()
            && self.table.borrow().open == 0
            && self.listeners.borrow().is_empty()
            && self.arrivals.borrow().is_empty()
    }

    fn tell_drained(&self) {
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
    fn panicked(&self, place: &'static str, payload: &(dyn std::any::Any + Send)) -> Response {
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

impl<A> Conn<A> {
    /// Makes the task look at its connection, if it does not do so already.
    fn wake(&mut self) {
        self.woken = true;
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Ends the connection: whatever its task waits for completes.
    fn kill(&mut self) {
        self.phase = Phase::Closed;
        self.unsent = None;
        self.input = None;
        sys::shutdown(self.socket, sys::Side::Both);
        self.wake();
    }
}

/// The client does not listen any more.
struct Gone;

/// Accepts connections and serves them until `Connections::drain`. Then returns, while the last connections finish: wait for
/// `Connections::drained`.
pub async fn serve<S: Service + 'static>(
    listener: Listener,
    service: Rc<S>,
    connections: Rc<Connections<S::Admitted>>,
) {
    let core = Rc::new(Core {
        service,
        shared: connections.clone(),
    });
    if !connections.ticking.replace(true) {
        rt::spawn(tick(core.clone()));
    }
    let fd = listener.as_raw_fd();
    if !connections.is_draining() {
        connections.listeners.borrow_mut().push(fd);
        accept_all(&listener, &core).await;
        connections
            .listeners
            .borrow_mut()
            .retain(|other| *other != fd);
    }
    let arrivals = mem::take(&mut *connections.arrivals.borrow_mut());
    for (stream, peer) in arrivals {
        if let Ok(socket) = Listener::adopt(stream) {
            open(&core, socket, peer);
        }
    }
    connections.tell_drained();
}

async fn accept_all<S: Service + 'static>(listener: &Listener, core: &Rc<Core<S>>) {
    let shared = &core.shared;
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => open(core, socket, sys::plain(peer.ip())),
            Err(error) if shared.is_draining() || sys::is_closed(&error) => {
                if !shared.is_draining() {
                    tracing::error!(%error, "a listening socket has failed");
                }
                return;
            }
            // The client left before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if sys::is_exhausted(&error) {
                    add(&shared.count.exhausted, 1);
                }
                // The queue of the kernel keeps them until descriptors are free again.
                rt::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

fn open<S: Service + 'static>(core: &Rc<Core<S>>, socket: Socket, peer: IpAddr) {
    let shared = &core.shared;
    add(&shared.count.accepted, 1);
    let fd = socket.as_raw_fd();
    let mut table = shared.table.borrow_mut();
    if table.open >= shared.limits.connections_max {
        drop(table);
        add(&shared.count.shed, 1);
        shared.shed(fd);
        return;
    }
    table.open += 1;
    let slot = table.free.pop().unwrap_or_else(|| {
        table.conns.push(None);
        table.epochs.push(0);
        table.conns.len() as u32 - 1
    });
    table.wheel.add(slot);
    let epoch = table.epochs[slot];
    table.conns[slot] = Some(Conn {
        socket: fd,
        epoch,
        peer,
        phase: Phase::Quiet,
        last: false,
        linger: false,
        owed: false,
        upgraded: false,
        ended: Ended::ByPeer,
        half_closed: false,
        woken: false,
        head_only: false,
        keep_alive: true,
        is_1_0: false,
        accepts: Accepts::NONE,
        origin: 0,
        since: 0,
        waker: None,
        input: None,
        unsent: None,
    });
    let due = if shared.is_draining() {
        shared.limits.linger_ms
    } else {
        shared.limits.first_byte_ms
    };
    table.wheel.set(slot, shared.after(due));
    drop(table);
    rt::spawn(connection(core.clone(), socket, slot));
}

/// The life of a connection, as far as it has to wait. Small on purpose, with a single place to wait: this is what every idle client
/// keeps.
#[allow(clippy::manual_async_fn)] // an async fn would keep its arguments twice
fn connection<S: Service + 'static>(
    core: Rc<Core<S>>,
    socket: Socket,
    slot: u32,
) -> impl Future<Output = ()> {
    async move {
        // Stays armed over everything else that happens: dropping it would keep the descriptor open in the kernel.
        let mut readable = pin!(None);
        // Rare, so it costs a pointer and not its size.
        let mut writable: Option<Pin<Box<dyn Future<Output = ()> + '_>>> = None;
        let mut next = Next::Readable;
        poll_fn(|context| {
            for _ in 0..TURNS_PER_POLL {
                let is_time = match next {
                    Next::Readable => {
                        if readable.is_none() {
                            readable.set(Some(socket.readable()));
                        }
                        core.shared.is_woken(slot, context)
                            || is_ready_or_none(readable.as_mut(), context)
                    }
                    Next::Writable => {
                        let armed = writable.get_or_insert_with(|| Box::pin(socket.writable()));
                        let is_time = armed.as_mut().poll(context).is_ready();
                        if is_time {
                            writable = None;
                        }
                        is_time
                    }
                    Next::Parked => core.shared.is_woken(slot, context),
                    Next::Close => is_ready_or_none(readable.as_mut(), context),
                };
                if !is_time {
                    return Poll::Pending;
                }
                if next == Next::Close {
                    return Poll::Ready(());
                }
                next = core.turn(slot);
                if next == Next::Close {
                    core.release(slot);
                    if readable.is_some() {
                        sys::shutdown(socket.as_raw_fd(), sys::Side::Both);
                    }
                }
            }
            // With epoll a busy socket is readable at once, again and again: let the others in.
            rt::wake_later(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

fn is_ready_or_none<F: Future>(mut slot: Pin<&mut Option<F>>, context: &mut Context<'_>) -> bool {
    let Some(future) = slot.as_mut().as_pin_mut() else {
        return true;
    };
    let is_ready = future.poll(context).is_ready();
    if is_ready {
        slot.set(None);
    }
    is_ready
}

impl<A> Connections<A> {
    fn is_woken(&self, slot: u32, context: &mut Context<'_>) -> bool {
        let mut table = self.table.borrow_mut();
        let conn = table.get(slot);
        if conn.waker.is_none() {
            conn.waker = Some(context.waker().clone());
        }
        mem::take(&mut conn.woken)
    }

    /// Too many connections: say so, if that can be done without waiting, and hang up.
    fn shed(&self, socket: RawFd) {
        let mut out = self.take_out();
        let full = error::TOO_MANY_CONNECTIONS.error();
        self.write_last(full.into(), &mut out);
        // The client is gone or gets it; both are fine.
        drop(self.send(socket, &out, None));
        self.give_out(out);
        sys::shutdown(socket, sys::Side::Write);
    }
}

/// What one batch of requests led to.
struct Round<A> {
    /// Bytes of the requests that were answered or handed over.
    used: usize,
    /// To be sent after the batch.
    large: Option<Body>,
    end: End<A>,
}

enum End<A> {
    /// Everything complete was answered.
    Nothing,
    /// The batch is full: send it, then go on.
    Full,
    /// The body of an admitted request is incomplete. `keep` bytes of it have to be kept, `received` of them or more were body.
    Body {
        progress: Progress<A>,
        keep: usize,
        received: u64,
    },
    Waiting {
        deadline: Option<Duration>,
        style: Style<'static>,
        /// See [`Cors::of`].
        origin: u8,
    },
    /// The connection ends after this batch.
    Last { linger: bool },
    /// What follows are lines.
    Upgraded { silence_max: Duration },
}

/// Whose turn it is, copied out of the table.
#[derive(Clone, Copy)]
struct Who {
    slot: u32,
    socket: RawFd,
    peer: IpAddr,
}

/// A service and the connections it answers.
struct Core<S: Service> {
    service: Rc<S>,
    shared: Rc<Connections<S::Admitted>>,
}

impl<S: Service> Core<S> {
    /// Does everything that can be done now, and says what to wait for.
    fn turn(&self, slot: u32) -> Next {
        // Our own mistakes, too, cost one connection and not the core.
        catch_unwind(AssertUnwindSafe(|| self.advance(slot))).unwrap_or_else(|payload| {
            self.shared.panicked("connection", payload.as_ref());
            Next::Close
        })
    }

    fn advance(&self, slot: u32) -> Next {
        let shared = &*self.shared;
        let mut table = shared.table.borrow_mut();
        if table.get(slot).unsent.is_some()
            && let Some(next) = shared.flush(&mut table, slot)
        {
            return next;
        }
        let conn = table.get(slot);
        match conn.phase {
            Phase::Closed => Next::Close,
            Phase::Lingering => shared.discard(conn),
            Phase::Waiting => {
                drop(table);
                self.listen_ahead(slot)
            }
            Phase::Upgraded => {
                let input = conn.input.take();
                let ticket = Ticket {
                    slot,
                    epoch: conn.epoch,
                };
                let socket = conn.socket;
                drop(table);
                self.hear(ticket, socket, input)
            }
            Phase::Quiet | Phase::Receiving => {
                let input = conn.input.take();
                let epoch = conn.epoch;
                let who = Who {
                    slot,
                    socket: conn.socket,
                    peer: conn.peer,
                };
                drop(table);
                match input {
                    None => self.receive(who, epoch),
                    Some(input) => self.receive_more(who, epoch, input),
                }
            }
        }
    }

    /// Reads what begins with a new request. The bytes stay where they were read.
    fn receive(&self, who: Who, epoch: u32) -> Next {
        let shared = &*self.shared;
        let mut scratch = shared.take_scratch();
        let next = match sys::recv(who.socket, &mut scratch) {
            Ok(0) => Next::Close,
            Ok(got) => {
                add(&shared.count.bytes_in, got as u64);
                self.answer(who, epoch, &scratch[..got], Progress::Head, true)
            }
            Err(error) if is_not_now(&error) => shared.nothing_there(who.slot),
            Err(_) => Next::Close,
        };
        shared.scratch.set(Some(scratch));
        next
    }

    /// Goes on with a request that has begun, or with one that was sent while another one waited.
    fn receive_more(&self, who: Who, epoch: u32, mut input: Box<Input<S::Admitted>>) -> Next {
        let shared = &*self.shared;
        let fresh = mem::take(&mut input.ready);
        if !fresh {
            let mut scratch = shared.take_scratch();
            let look = match sys::recv(who.socket, &mut scratch) {
                Ok(got) if got > 0 => {
                    add(&shared.count.bytes_in, got as u64);
                    input.add(&scratch[..got])
                }
                Err(error) if is_not_now(&error) => Ok(false),
                // An end of input inside a request: there is nobody left to complain to.
                Ok(_) | Err(_) => return Next::Close,
            };
            shared.scratch.set(Some(scratch));
            match look {
                Ok(true) => {}
                Ok(false) => {
                    let mut table = shared.table.borrow_mut();
                    if !matches!(input.progress, Progress::Head) {
                        let since = table.get(who.slot).since;
                        let due = shared.body_deadline(since, input.body_received);
                        table.wheel.set(who.slot, due);
                    }
                    table.get(who.slot).input = Some(input);
                    return Next::Readable;
                }
                Err(refusal) => {
                    let mut out = shared.take_out();
                    shared.refuse(refusal, &mut out);
                    let sent = shared.send(who.socket, &out, None);
                    shared.give_out(out);
                    let end = End::Last { linger: true };
                    return shared.settle(who.slot, epoch, end, &[], false, sent);
                }
            }
        }
        let Input {
            bytes, progress, ..
        } = *input;
        self.answer(who, epoch, &bytes, progress, fresh)
    }

    /// Answers all complete requests in `bytes`, in as few writes as the limits allow. `fresh`: the first byte is the first of a request.
    fn answer(
        &self,
        who: Who,
        mut epoch: u32,
        bytes: &[u8],
        mut progress: Progress<S::Admitted>,
        fresh: bool,
    ) -> Next {
        let shared = &*self.shared;
        let mut out = shared.take_out();
        let mut used = 0;
        let (end, sent) = loop {
            let round = self.round(who, &mut epoch, &bytes[used..], progress, &mut out);
            used += round.used;
            let sent = shared.send(who.socket, &out, round.large);
            out.clear();
            if matches!(round.end, End::Full) && matches!(sent, Ok(None)) {
                progress = Progress::Head;
                continue;
            }
            break (round.end, sent);
        };
        shared.give_out(out);
        let upgraded = matches!(end, End::Upgraded { .. });
        let next = shared.settle(
            who.slot,
            epoch,
            end,
            &bytes[used..],
            fresh || used > 0,
            sent,
        );
        if upgraded && next == Next::Readable {
            let slot = who.slot;
            let ticket = Ticket { slot, epoch };
            if shared.draining.get() {
                return self.hang_up(ticket, who.socket, Ended::Draining);
            }
            let input = shared.table.borrow_mut().get(slot).input.take();
            if input.is_some() {
                return self.hear(ticket, who.socket, input);
            }
        }
        next
    }

    /// One batch: appends answers to `out` until something has to happen first.
    fn round(
        &self,
        who: Who,
        epoch: &mut u32,
        bytes: &[u8],
        mut progress: Progress<S::Admitted>,
        out: &mut Vec<u8>,
    ) -> Round<S::Admitted> {
        let shared = &*self.shared;
        let mut used = 0;
        let mut answers = 0;
        let ended = |used, end| Round {
            used,
            large: None,
            end,
        };
        let refused = |used, refusal, out: &mut Vec<u8>| {
            shared.refuse(refusal, out);
            ended(used, End::Last { linger: true })
        };
        while used < bytes.len() {
            if answers == ANSWERS_PER_WRITE_MAX || out.len() >= UNSENT_BYTES_MAX {
                return ended(used, End::Full);
            }
            let rest = &bytes[used..];
            let mut fields = parse::fields();
            let head = match parse::head(rest, &mut fields) {
                Ok(Some(head)) => head,
                Ok(None) => break,
                Err(refusal) => return refused(used, refusal, out),
            };
            add(&shared.count.requests, 1);
            let after = &rest[head.len..];
            let decoded;
            let body_late = !matches!(progress, Progress::Head);
            // The body, and how long the request is from its first byte.
            let (body, len, admitted) = match mem::replace(&mut progress, Progress::Head) {
                Progress::Length { total, admitted } => (&rest[head.len..total], total, admitted),
                Progress::Chunked { chunked, admitted } => {
                    decoded = chunked.body;
                    (&decoded[..], head.len, admitted)
                }
                Progress::Head => {
                    let (body_bytes_max, admitted) = match self.admit(&head, who.peer) {
                        Ok(admitted) => admitted,
                        Err(mut response) => {
                            // A body that is here is skipped; one that is not would have to be read for nothing.
                            let skipped = match head.framing {
                                Framing::None => Some(0),
                                Framing::Length(length) if length <= after.len() as u64 => {
                                    Some(length as usize)
                                }
                                Framing::Length(_) | Framing::Chunked => None,
                            };
                            response.close |= skipped.is_none();
                            used += head.len + skipped.unwrap_or(0);
                            answers += 1;
                            let more = used < bytes.len() || skipped.is_none();
                            match shared.reply(response, &head, more, out) {
                                (None, None) => continue,
                                (large, end) => {
                                    let end = end.unwrap_or(End::Full);
                                    return Round { used, large, end };
                                }
                            }
                        }
                    };
                    match head.framing {
                        Framing::None => (&after[..0], head.len, admitted),
                        Framing::Length(length) if length > body_bytes_max => {
                            return refused(used, Refusal::BodyLong, out);
                        }
                        Framing::Length(length) if length <= after.len() as u64 => {
                            let length = length as usize;
                            (&after[..length], head.len + length, admitted)
                        }
                        Framing::Length(length) => {
                            ask_for_body(&head, after, out);
                            let end = End::Body {
                                progress: Progress::Length {
                                    total: head.len + length as usize,
                                    admitted,
                                },
                                keep: rest.len(),
                                received: after.len() as u64,
                            };
                            return ended(used, end);
                        }
                        Framing::Chunked => {
                            let mut chunked = Box::new(ChunkedBody {
                                decoder: Chunked::new(body_bytes_max),
                                body: Vec::new(),
                            });
                            match chunked.decoder.feed(after, &mut chunked.body) {
                                Ok(fed) if fed.complete => {
                                    decoded = chunked.body;
                                    (&decoded[..], head.len + fed.used, admitted)
                                }
                                Ok(_) => {
                                    ask_for_body(&head, after, out);
                                    let end = End::Body {
                                        progress: Progress::Chunked { chunked, admitted },
                                        keep: head.len,
                                        received: after.len() as u64,
                                    };
                                    return ended(used, end);
                                }
                                Err(refusal) => return refused(used, refusal, out),
                            }
                        }
                    }
                }
            };
            used += len;
            *epoch = epoch.wrapping_add(1);
            let ticket = Ticket {
                slot: who.slot,
                epoch: *epoch,
            };
            let more = used < bytes.len();
            let request = Request {
                method: match head.method {
                    Method::Head => Method::Get,
                    method => method,
                },
                path: head.path,
                query: head.query,
                headers: head.headers,
                body,
                peer: who.peer,
                body_late,
                may_upgrade: head.keep_alive && !head.is_1_0,
            };
            match self.call(&request, admitted, ticket) {
                Answer::Reply(response) => {
                    answers += 1;
                    match shared.reply(response, &head, more, out) {
                        (None, None) => {}
                        (large, end) => {
                            let end = end.unwrap_or(End::Full);
                            return Round { used, large, end };
                        }
                    }
                }
                Answer::Wait { deadline } => {
                    let style = Style {
                        head_only: head.method == Method::Head,
                        close: !head.keep_alive,
                        is_1_0: head.is_1_0,
                        accepts: head.headers.accepts(),
                        origin: None,
                    };
                    let origin = shared.cors.of(&head);
                    return ended(
                        used,
                        End::Waiting {
                            deadline,
                            style,
                            origin,
                        },
                    );
                }
                Answer::Upgrade(upgrade) => {
                    response::write_upgrade(&upgrade, &shared.common.borrow(), out);
                    let Upgrade { silence_max, .. } = upgrade;
                    return ended(used, End::Upgraded { silence_max });
                }
            }
        }
        ended(used, End::Nothing)
    }

    /// How large a body the request may bring, and what the service found; `None` for `OPTIONS`, which never gets there.
    fn admit(&self, head: &Head<'_>, peer: IpAddr) -> Result<(u64, Option<S::Admitted>), Response> {
        if head.method == Method::Options {
            // Browsers send it without credentials.
            return Ok((AHEAD_BYTES_MAX as u64, None));
        }
        let admission = catch_unwind(AssertUnwindSafe(|| self.service.admit(head, peer)))
            .unwrap_or_else(|payload| Err(self.shared.panicked("admit", payload.as_ref())))?;
        Ok((admission.body_bytes_max, Some(admission.admitted)))
    }

    fn call(&self, request: &Request<'_>, admitted: Option<S::Admitted>, ticket: Ticket) -> Answer {
        let decided = catch_unwind(AssertUnwindSafe(|| match admitted {
            Some(admitted) => self.service.call(request, admitted, ticket),
            None => Answer::Reply(self.options(request)),
        }));
        decided
            .unwrap_or_else(|payload| Answer::Reply(self.shared.panicked("call", payload.as_ref())))
    }

    /// What may be done to a path, for browsers that ask before they send (CORS) and for people.
    fn options(&self, request: &Request<'_>) -> Response {
        let allow = match request.path {
            "*" => response::ALLOW_ALL,
            path => self.service.allowed(path),
        };
        let response = Response::no_content().header("Allow", allow);
        if self.shared.cors == Cors::Off
            || request
                .headers
                .get("access-control-request-method")
                .is_none()
        {
            return response;
        }
        response
            .header("Access-Control-Allow-Methods", allow)
            .header(
                "Access-Control-Allow-Headers",
                "Authorization, Content-Type, If-None-Match, If-Match",
            )
            .header("Access-Control-Max-Age", "86400")
    }

    /// Takes what has come on an upgraded connection and answers every complete line of it.
    fn hear(&self, ticket: Ticket, socket: RawFd, input: Option<Box<Input<S::Admitted>>>) -> Next {
        let shared = &*self.shared;
        // Lines that came with the request, or that had to wait until earlier answers were sent.
        if let Some(input) = &input
            && input.ready
        {
            return self.answer_lines(ticket, socket, &input.bytes);
        }
        let mut scratch = shared.take_scratch();
        let next = match sys::recv(socket, &mut scratch) {
            Ok(0) => Next::Close,
            Ok(got) => {
                add(&shared.count.bytes_in, got as u64);
                let fresh = &scratch[..got];
                match input {
                    None => self.answer_lines(ticket, socket, fresh),
                    Some(mut input) => {
                        input.bytes.extend_from_slice(fresh);
                        // A line that comes byte by byte is neither copied nor searched again for each of them.
                        if memchr::memchr(b'\n', fresh).is_some()
                            || input.bytes.len() > LINE_BYTES_MAX
                        {
                            self.answer_lines(ticket, socket, &input.bytes)
                        } else {
                            shared.table.borrow_mut().get(ticket.slot).input = Some(input);
                            Next::Readable
                        }
                    }
                }
            }
            Err(error) if is_not_now(&error) => {
                if shared.draining.get() {
                    self.hang_up(ticket, socket, Ended::Draining)
                } else {
                    shared.table.borrow_mut().get(ticket.slot).input = input;
                    Next::Readable
                }
            }
            Err(_) => Next::Close,
        };
        shared.scratch.set(Some(scratch));
        next
    }

    /// Hands all complete lines to the service, sends what it says to them, and keeps the rest.
    fn answer_lines(&self, ticket: Ticket, socket: RawFd, bytes: &[u8]) -> Next {
        let shared = &*self.shared;
        let mut out = shared.take_out();
        let mut used = 0;
        let mut heard = false;
        let (ends, sent) = loop {
            let mut ends = None;
            let mut full = false;
            while ends.is_none() {
                let rest = &bytes[used..];
                let end = memchr::memchr(b'\n', rest);
                if end.unwrap_or(rest.len()) > LINE_BYTES_MAX {
                    self.service.on_close(ticket, Ended::LineLong, &mut out);
                    ends = Some(Ended::LineLong);
                    break;
                }
                let Some(end) = end else { break };
                full = out.len() >= UNSENT_BYTES_MAX;
                if full {
                    break;
                }
                used += end + 1;
                heard = true;
                add(&shared.count.lines_in, 1);
                let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
                if self.service.on_line(ticket, line, &mut out) == Lines::End {
                    ends = Some(Ended::ByService);
                }
            }
            if ends.is_none() && !full && shared.draining.get() {
                self.service.on_close(ticket, Ended::Draining, &mut out);
                ends = Some(Ended::Draining);
            }
            let sent = shared.send(socket, &out, None);
            out.clear();
            if !full || !matches!(sent, Ok(None)) {
                break (ends, sent);
            }
        };
        shared.give_out(out);
        shared.settle_lines(ticket, ends, &bytes[used..], heard, sent)
    }

    /// The server ends an upgraded connection on its own account.
    fn hang_up(&self, ticket: Ticket, socket: RawFd, why: Ended) -> Next {
        let shared = &*self.shared;
        let mut out = shared.take_out();
        self.service.on_close(ticket, why, &mut out);
        let sent = shared.send(socket, &out, None);
        shared.give_out(out);
        shared.settle_lines(ticket, Some(why), &[], false, sent)
    }

    /// The socket of a waiting request has something: further requests, or the end.
    fn listen_ahead(&self, slot: u32) -> Next {
        let shared = &*self.shared;
        let mut table = shared.table.borrow_mut();
        let conn = table.get(slot);
        let kept = conn.input.as_ref().map_or(0, |input| input.bytes.len());
        if conn.half_closed || kept >= AHEAD_BYTES_MAX {
            return Next::Parked;
        }
        let mut scratch = shared.take_scratch();
        let room = (AHEAD_BYTES_MAX - kept).min(scratch.len());
        let got = sys::recv(conn.socket, &mut scratch[..room]);
        let next = match got {
            Ok(0) => {
                let ticket = Ticket {
                    slot,
                    epoch: conn.epoch,
                };
                drop(table);
                self.ended_by_client(ticket)
            }
            Ok(got) => {
                add(&shared.count.bytes_in, got as u64);
                if let Some(input) = &mut conn.input {
                    input.bytes.extend_from_slice(&scratch[..got]);
                } else {
                    conn.input = Some(Box::new(Input::unseen(&scratch[..got])));
                }
                if got == room {
                    Next::Parked
                } else {
                    Next::Readable
                }
            }
            Err(error) if is_not_now(&error) => Next::Readable,
            Err(_) => Next::Close,
        };
        shared.scratch.set(Some(scratch));
        next
    }

    fn ended_by_client(&self, ticket: Ticket) -> Next {
        let shared = &*self.shared;
        let keep = catch_unwind(AssertUnwindSafe(|| self.service.keeps_half_closed(ticket)))
            .unwrap_or_else(|payload| {
                shared.panicked("keeps_half_closed", payload.as_ref());
                false
            });
        if !keep {
            return Next::Close;
        }
        let mut table = shared.table.borrow_mut();
        let conn = table.get(ticket.slot);
        conn.half_closed = true;
        match conn.phase {
            // Its end of input would be reported for ever.
            Phase::Waiting => Next::Parked,
            Phase::Closed => Next::Close,
            _ => Next::Readable,
        }
    }

    /// The deadline of a connection has passed; what that means depends on where it is.
    fn expire(&self, slot: u32) {
        let shared = &*self.shared;
        let mut table = shared.table.borrow_mut();
        // It may have moved on while others were dealt with.
        if !table.wheel.is_due(slot) || table.conns[slot].is_none() {
            return;
        }
        let conn = table.get(slot);
        if conn.unsent.is_some() {
            add(&shared.count.stalled, 1);
            conn.ended = Ended::Stalled;
            conn.kill();
            return;
        }
        match conn.phase {
            Phase::Upgraded => {
                let ticket = Ticket {
                    slot,
                    epoch: conn.epoch,
                };
                let socket = conn.socket;
                drop(table);
                let next = catch_unwind(AssertUnwindSafe(|| {
                    self.hang_up(ticket, socket, Ended::Silent)
                }))
                .unwrap_or_else(|payload| {
                    shared.panicked("farewell", payload.as_ref());
                    Next::Close
                });
                let mut table = shared.table.borrow_mut();
                let conn = table.get(slot);
                match next {
                    Next::Close => conn.kill(),
                    // The task waits for something else than it should now.
                    _ => conn.wake(),
                }
            }
            Phase::Quiet | Phase::Lingering | Phase::Closed => conn.kill(),
            Phase::Receiving => {
                add(&shared.count.too_slow, 1);
                shared.give_up(&mut table, slot);
            }
            Phase::Waiting => {
                let ticket = Ticket {
                    slot,
                    epoch: conn.epoch,
                };
                drop(table);
                let response =
                    catch_unwind(AssertUnwindSafe(|| self.service.timeout_response(ticket)))
                        .unwrap_or_else(|payload| {
                            shared.panicked("timeout_response", payload.as_ref())
                        });
                shared.complete(ticket, response);
            }
        }
    }

    /// The task has ended: its entry goes before its socket.
    fn release(&self, slot: u32) {
        let shared = &*self.shared;
        let mut table = shared.table.borrow_mut();
        let Some(conn) = table.conns[slot].take() else {
            return;
        };
        table.wheel.clear(slot);
        table.epochs[slot] = conn.epoch;
        table.free.push(slot);
        table.open -= 1;
        drop(table);
        if conn.upgraded {
            shared.count.upgraded.set(shared.count.upgraded.get() - 1);
            let ticket = Ticket {
                slot,
                epoch: conn.epoch,
            };
            let told = catch_unwind(AssertUnwindSafe(|| {
                self.service.on_closed(ticket, conn.ended);
            }));
            if let Err(payload) = told {
                shared.panicked("on_closed", payload.as_ref());
            }
        }
        if conn.owed {
            add(&shared.count.abandoned, 1);
            shared.count.waiting.set(shared.count.waiting.get() - 1);
            let ticket = Ticket {
                slot,
                epoch: conn.epoch,
            };
            let told = catch_unwind(AssertUnwindSafe(|| self.service.on_abandoned(ticket)));
            if let Err(payload) = told {
                shared.panicked("on_abandoned", payload.as_ref());
            }
        }
        shared.tell_drained();
    }
}

/// `100 Continue`, unless the body is under way anyhow.
fn ask_for_body(head: &Head<'_>, after: &[u8], out: &mut Vec<u8>) {
    if head.expects_continue && after.is_empty() {
        out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
    }
}

impl<A> Connections<A> {
    fn take_scratch(&self) -> Box<[u8]> {
        self.scratch
            .take()
            .unwrap_or_else(|| vec![0; READ_BYTES].into())
    }

    /// Appends an answer. Says what is to be sent after it, and whether the connection ends. `more`: bytes follow that will not be read.
    fn reply(
        &self,
        response: Response,
        head: &Head<'_>,
        more: bool,
        out: &mut Vec<u8>,
    ) -> (Option<Body>, Option<End<A>>) {
        let close = !head.keep_alive || response.close || self.draining.get();
        // Only a body that may be compressed makes the codings worth reading.
        let accepts = match &response.body {
            Body::Owned(body) if body.len() >= COMPRESS_BYTES_MIN => head.headers.accepts(),
            _ => Accepts::NONE,
        };
        let style = Style {
            head_only: head.method == Method::Head,
            close,
            is_1_0: head.is_1_0,
            accepts,
            origin: self.cors.allowed(self.cors.of(head)),
        };
        let large = response::write(response, style, &self.common.borrow(), out);
        // A client that asked for the end sends nothing more; one that did not ask may be sending right now.
        let end = close.then_some(End::Last {
            linger: head.keep_alive || more,
        });
        (large, end)
    }

    fn refuse(&self, refusal: Refusal, out: &mut Vec<u8>) {
        add(&self.count.refused, 1);
        let mut response = Response::from(super::error::refused(refusal));
        if refusal == Refusal::MethodRefused {
            response = response.header("Allow", response::ALLOW_ALL);
        }
        self.write_last(response, out);
    }

    fn write_last(&self, response: Response, out: &mut Vec<u8>) {
        let style = Style {
            head_only: false,
            close: true,
            is_1_0: false,
            accepts: Accepts::NONE,
            origin: None,
        };
        let large = response::write(response, style, &self.common.borrow(), out);
        debug_assert!(large.is_none(), "errors are small");
    }

    /// Records what a batch led to.
    fn settle(
        &self,
        slot: u32,
        epoch: u32,
        end: End<A>,
        rest: &[u8],
        fresh: bool,
        sent: Result<Option<Box<Unsent>>, Gone>,
    ) -> Next {
        let mut table = self.table.borrow_mut();
        let conn = table.get(slot);
        conn.epoch = epoch;
        let mut due = Some(self.now.get() + self.quiet_ticks());
        conn.phase = Phase::Quiet;
        match end {
            End::Nothing | End::Full if rest.is_empty() => {}
            End::Nothing => {
                conn.phase = Phase::Receiving;
                let mut input = Input::new(rest, Progress::Head);
                input.seen = rest.len();
                conn.input = Some(Box::new(input));
                // From the first byte: later ones move nothing.
                due = fresh.then(|| self.after(self.limits.head_ms));
            }
            End::Full => {
                conn.input = Some(Box::new(Input::unseen(rest)));
            }
            End::Body {
                progress,
                keep,
                received,
            } => {
                conn.phase = Phase::Receiving;
                let mut input = Input::new(&rest[..keep], progress);
                input.body_received = received;
                conn.input = Some(Box::new(input));
                conn.since = self.now.get();
                due = Some(self.body_deadline(conn.since, received));
            }
            End::Waiting {
                deadline,
                style,
                origin,
            } => {
                conn.phase = Phase::Waiting;
                conn.owed = true;
                conn.head_only = style.head_only;
                conn.keep_alive = !style.close;
                conn.is_1_0 = style.is_1_0;
                conn.accepts = style.accepts;
                conn.origin = origin;
                if !rest.is_empty() {
                    conn.input = Some(Box::new(Input::unseen(rest)));
                }
                self.count.waiting.set(self.count.waiting.get() + 1);
                let ms = deadline.map_or(u32::MAX, |wait| {
                    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)
                });
                due = Some(self.after(ms.min(self.limits.wait_ms_max)));
            }
            End::Last { linger } => {
                conn.last = true;
                conn.linger = linger;
            }
            End::Upgraded { silence_max } => {
                conn.phase = Phase::Upgraded;
                conn.upgraded = true;
                let ms = u32::try_from(silence_max.as_millis()).unwrap_or(u32::MAX);
                conn.since = ms.div_ceil(self.limits.tick_ms) + 1;
                if !rest.is_empty() {
                    conn.input = Some(Box::new(Input::unseen(rest)));
                }
                self.count.upgraded.set(self.count.upgraded.get() + 1);
                due = Some(self.now.get().saturating_add(conn.since));
            }
        }
        match sent {
            Err(Gone) => return Next::Close,
            Ok(Some(unsent)) => {
                conn.unsent = Some(unsent);
                if conn.phase != Phase::Waiting {
                    due = Some(self.after(self.limits.send_ms));
                }
                if let Some(due) = due {
                    table.wheel.set(slot, due);
                }
                return Next::Writable;
            }
            Ok(None) if conn.last => return self.end(&mut table, slot),
            Ok(None) => {}
        }
        if let Some(due) = due {
            table.wheel.set(slot, due);
        }
        Next::Readable
    }

    /// Records what one look at an upgraded connection led to.
    fn settle_lines(
        &self,
        ticket: Ticket,
        ends: Option<Ended>,
        rest: &[u8],
        heard: bool,
        sent: Result<Option<Box<Unsent>>, Gone>,
    ) -> Next {
        let slot = ticket.slot;
        let mut table = self.table.borrow_mut();
        // The service may have ended it from within.
        let ended = table.upgraded(ticket).is_none();
        let conn = table.get(slot);
        if let Some(why) = ends
            && !ended
        {
            conn.ended = why;
            conn.last = true;
            conn.linger = true;
            conn.phase = Phase::Quiet;
        }
        let over = ended || ends.is_some();
        match sent {
            Err(Gone) => return Next::Close,
            Ok(Some(mut unsent)) => {
                if let Some(queued) = conn.unsent.take() {
                    unsent.parts.extend(queued.parts);
                }
                conn.unsent = Some(unsent);
            }
            Ok(None) => {}
        }
        if conn.phase == Phase::Closed {
            return Next::Close;
        }
        if conn.unsent.is_some() {
            if !over && !rest.is_empty() {
                conn.input = Some(Box::new(Input::unseen(rest)));
            }
            table.wheel.set(slot, self.after(self.limits.send_ms));
            return Next::Writable;
        }
        if over {
            return if conn.phase == Phase::Lingering {
                Next::Readable
            } else {
                self.end(&mut table, slot)
            };
        }
        if !rest.is_empty() {
            conn.input = Some(Box::new(Input::new(rest, Progress::Head)));
        }
        if heard {
            // The bytes of a partial line move nothing, or silence could be filled with them for ever.
            let due = self.now.get().saturating_add(conn.since);
            table.wheel.set(slot, due);
        }
        Next::Readable
    }

    /// Sends what is left. `None`: all is sent and the connection goes on.
    fn flush(&self, table: &mut Table<A>, slot: u32) -> Option<Next> {
        let conn = table.get(slot);
        let unsent = conn.unsent.as_mut()?;
        match unsent.flush(conn.socket, &self.count.bytes_out) {
            Flushed::All => {
                conn.unsent = None;
                if conn.last {
                    return Some(self.end(table, slot));
                }
                match conn.phase {
                    Phase::Quiet => table.wheel.set(slot, self.now.get() + self.quiet_ticks()),
                    Phase::Receiving => {
                        let due = self.after(self.limits.head_ms);
                        table.wheel.set(slot, due);
                    }
                    Phase::Upgraded => {
                        let due = self.now.get().saturating_add(conn.since);
                        table.wheel.set(slot, due);
                    }
                    Phase::Waiting | Phase::Lingering | Phase::Closed => {}
                }
                None
            }
            Flushed::Some(progress) => {
                if progress && conn.phase != Phase::Waiting {
                    table.wheel.set(slot, self.after(self.limits.send_ms));
                }
                Some(Next::Writable)
            }
            Flushed::Gone => Some(Next::Close),
        }
    }

    /// Throws away what comes after the last answer.
    fn discard(&self, conn: &mut Conn<A>) -> Next {
        let mut scratch = self.take_scratch();
        let next = loop {
            match sys::recv(conn.socket, &mut scratch) {
                Ok(0) => break Next::Close,
                Ok(got) => {
                    conn.since += got as u32;
                    if conn.since as usize > LINGER_BYTES_MAX {
                        break Next::Close;
                    }
                }
                Err(error) if is_not_now(&error) => break Next::Readable,
                Err(_) => break Next::Close,
            }
        };
        self.scratch.set(Some(scratch));
        next
    }

    /// A look at an idle connection found nothing: while draining, that ends it.
    fn nothing_there(&self, slot: u32) -> Next {
        if !self.draining.get() {
            return Next::Readable;
        }
        let mut table = self.table.borrow_mut();
        let conn = table.get(slot);
        conn.last = true;
        conn.linger = true;
        self.end(&mut table, slot)
    }

    /// A request does not arrive in time.
    fn give_up(&self, table: &mut Table<A>, slot: u32) {
        let mut out = self.take_out();
        self.write_last(error::REQUEST_TIMEOUT.error().into(), &mut out);
        let conn = table.get(slot);
        conn.input = None;
        conn.last = true;
        conn.linger = true;
        match self.send(conn.socket, &out, None) {
            Ok(None) => self.end_woken(table, slot),
            Ok(Some(unsent)) => {
                conn.unsent = Some(unsent);
                conn.phase = Phase::Quiet;
                conn.wake();
                table.wheel.set(slot, self.after(self.limits.send_ms));
            }
            Err(Gone) => conn.kill(),
        }
        self.give_out(out);
    }
}

/// Turns the deadlines and the clock of a core. The only timer.
async fn tick<S: Service + 'static>(core: Rc<Core<S>>) {
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

/// Of a table entry and of the task's future, for the test that keeps them small.
#[cfg(test)]
pub(super) fn sizes<S: Service + 'static>() -> (usize, usize) {
    fn of<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }
    (size_of::<Option<Conn<S::Admitted>>>(), of(connection::<S>))
}
