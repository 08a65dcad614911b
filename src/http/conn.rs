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

use std::future::poll_fn;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::connections::{Connections, Table, add};
use super::cors::Cors;
use super::framing::Chunked;
use super::head::{self, Framing, Head, Method};
use super::input::{ChunkedBody, Input, Progress};
use super::refusal::Refusal;
use super::response::{self, Body, Prepared, Response, Style};
use super::unsent::{Flushed, Gone, Unsent, is_not_now};
use super::{Accepts, Answer, Ended, Request, Service, Ticket, Upgrade};
use crate::error::{self, ApiError};
use crate::limits::{
    AHEAD_BYTES_MAX, ANSWERS_PER_WRITE_MAX, COMPRESS_BYTES_MIN, LINGER_BYTES_MAX, TURNS_PER_POLL,
    UNSENT_BYTES_MAX,
};
use crate::rt::{self, Socket, sys};

/// Where a connection is between two turns. Unsent answers are a second, independent matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
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
pub(super) enum Next {
    Readable,
    Writable,
    /// To be woken: there is nothing the socket could tell that we want to know now.
    Parked,
    Close,
}

/// One open connection. Its size is what an idle client costs, together with its task.
#[allow(clippy::struct_excessive_bools)] // independent facts, one byte each
pub(super) struct Conn<A> {
    /// Valid as long as the entry is in the table: the entry is removed before the socket closes.
    pub(super) socket: RawFd,
    /// Of the newest request of this slot; grows over all connections that use the slot.
    pub(super) epoch: u32,
    pub(super) peer: IpAddr,
    pub(super) phase: Phase,
    /// The connection ends when the unsent answers are sent.
    pub(super) last: bool,
    /// It ends by reading on for a while, because the client may be sending.
    pub(super) linger: bool,
    /// The service has not answered `epoch` yet.
    pub(super) owed: bool,
    /// `epoch` names a connection of lines, whose end the service is to be told.
    pub(super) upgraded: bool,
    /// Why, as far as it is our doing.
    pub(super) ended: Ended,
    /// The client has ended its sending side.
    pub(super) half_closed: bool,
    pub(super) woken: bool,
    // How the answer that is owed will look.
    pub(super) head_only: bool,
    pub(super) keep_alive: bool,
    pub(super) is_1_0: bool,
    pub(super) accepts: Accepts,
    pub(super) origin: u8,
    /// The tick in which the body began, the bytes read while lingering, or the ticks that an upgraded connection may be silent.
    pub(super) since: u32,
    pub(super) waker: Option<Waker>,
    pub(super) input: Option<Box<Input<A>>>,
    pub(super) unsent: Option<Box<Unsent>>,
}

impl<A> Connections<A> {
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

    /// All is sent and nothing may follow.
    pub(super) fn end(&self, table: &mut Table<A>, slot: u32) -> Next {
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
    pub(super) fn end_woken(&self, table: &mut Table<A>, slot: u32) {
        let next = self.end(table, slot);
        let conn = table.get(slot);
        match next {
            Next::Close => conn.kill(),
            // It may have been parked.
            _ => conn.wake(),
        }
    }
}

impl<A> Conn<A> {
    /// Makes the task look at its connection, if it does not do so already.
    pub(super) fn wake(&mut self) {
        self.woken = true;
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Ends the connection: whatever its task waits for completes.
    pub(super) fn kill(&mut self) {
        self.phase = Phase::Closed;
        self.unsent = None;
        self.input = None;
        sys::shutdown(self.socket, sys::Side::Both);
        self.wake();
    }
}

/// The life of a connection, as far as it has to wait. Small on purpose, with a single place to wait: this is what every idle client
/// keeps.
#[allow(clippy::manual_async_fn)] // an async fn would keep its arguments twice
pub(super) fn connection<S: Service + 'static>(
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
pub(super) struct Core<S: Service> {
    pub(super) service: Rc<S>,
    pub(super) shared: Rc<Connections<S::Admitted>>,
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
            let mut fields = head::fields();
            let head = match head::parse(rest, &mut fields) {
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
    pub(super) fn expire(&self, slot: u32) {
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
        let mut response = Response::from(ApiError::from(refusal));
        if refusal == Refusal::MethodRefused {
            response = response.header("Allow", response::ALLOW_ALL);
        }
        self.write_last(response, out);
    }

    pub(super) fn write_last(&self, response: Response, out: &mut Vec<u8>) {
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

/// Of a table entry and of the task's future, for the test that keeps them small.
#[cfg(test)]
pub(super) fn sizes<S: Service + 'static>() -> (usize, usize) {
    fn of<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }
    (size_of::<Option<Conn<S::Admitted>>>(), of(connection::<S>))
}
