//! Connection: the state machine of one connection.
//!
//! One task per connection waits for its socket; everything else is the synchronous
//! [`Served::advance`]: take what the socket has (one read into a buffer of the core), answer every
//! complete request in it, send all answers in one write. An idle or parked connection owns no
//! buffer and no timer.
//!
//! Promises: answers leave in the order of the requests; the answer to a waiting request is sent
//! from the stack of the caller that completes it, and the task is woken only if more is left to
//! do; no operation that is pending in the kernel is dropped (a connection is ended by `shutdown`,
//! which completes the operation); time and bytes spent on a client are bounded; a panic of the
//! service ends one connection. What requests mean is left to the `Service`, lines of upgraded
//! connections to `lines`, the table and the clock to `connections`.

use std::borrow::Cow;
use std::future::poll_fn;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::conn_table::{AnswerForm, Conn, Phase, Table};
use super::connections::Connections;
use super::cors::Cors;
use super::counters::add;
use super::deadline::BodyPace;
use super::forwarded::client_address;
use super::head::{self, Head, Method};
use super::input::{self, Input, NextRequest, Progress, next_request};
use super::refusal::Refusal;
use super::response::{self, Body, Response, Style};
use super::unsent::{Flushed, Gone, Unsent, is_not_now};
use super::{Accepts, Answer, Ended, Request, Service, Ticket, Upgrade};
use crate::error::{self, ApiError};
use crate::limits::{
    AHEAD_BYTES_MAX, AHEAD_BYTES_MIN, ANSWERS_PER_WRITE_MAX, COMPRESS_BYTES_MIN, LINGER_BYTES_MAX,
    PUBLIC_BODY_BYTES_MAX, TURNS_PER_POLL, UNSENT_BYTES_MAX,
};
use crate::rt::{self, Socket, sys};

/// What the task waits for next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Readable,
    Writable,
    /// A wake only: nothing the socket could report matters now.
    Woken,
    Close,
}

/// The life of a connection, as far as it has to wait. It is small, with a single place to wait,
/// because every idle client keeps one.
#[allow(clippy::manual_async_fn)] // an async fn would keep its arguments twice
pub(super) fn connection<S: Service + 'static>(
    served: Rc<Served<S>>,
    socket: Socket,
    slot: u32,
) -> impl Future<Output = ()> {
    async move {
        // Stays armed over everything else: dropping it would keep the descriptor open in the
        // kernel.
        let mut readable = pin!(None);
        // Rare, so it costs a pointer and not its size.
        let mut writable: Option<Pin<Box<dyn Future<Output = ()> + '_>>> = None;
        let mut next = Next::Readable;
        poll_fn(|context| {
            for _ in 0..TURNS_PER_POLL {
                let is_ready = match next {
                    Next::Readable => {
                        if readable.is_none() {
                            readable.set(Some(socket.readable()));
                        }
                        served.shared.is_woken(slot, context)
                            || is_ready_or_none(readable.as_mut(), context)
                    }
                    Next::Writable => {
                        let armed = writable.get_or_insert_with(|| Box::pin(socket.writable()));
                        let is_ready = armed.as_mut().poll(context).is_ready();
                        if is_ready {
                            writable = None;
                        }
                        is_ready
                    }
                    Next::Woken => served.shared.is_woken(slot, context),
                    Next::Close => is_ready_or_none(readable.as_mut(), context),
                };
                if !is_ready {
                    return Poll::Pending;
                }
                if next == Next::Close {
                    return Poll::Ready(());
                }
                next = served.advance_caught(slot);
                if next == Next::Close {
                    served.release(slot);
                    if readable.is_some() {
                        sys::shutdown(socket.as_raw_fd(), sys::Side::Both);
                    }
                }
            }
            // With epoll a busy socket is readable at once, again and again: let other tasks run.
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

/// Result of answering a batch of requests.
struct Batch<A> {
    /// Bytes of the requests that were answered or handed over to the service.
    used: usize,
    /// To be sent after the batch.
    large: Option<Body>,
    end: BatchEnd<A>,
}

impl<A> Batch<A> {
    fn new(used: usize, end: BatchEnd<A>) -> Self {
        let large = None;
        Self { used, large, end }
    }
}

/// Why a batch ends.
enum BatchEnd<A> {
    /// Every request was answered.
    Empty,
    /// The batch is full: it is sent before the next one.
    Full,
    /// A part of the next request is missing.
    Incomplete(Box<Input<Option<A>>>),
    /// The service answers later.
    Waiting {
        deadline: Option<Duration>,
        form: AnswerForm,
    },
    /// The connection ends after this batch.
    Last { linger: bool },
    /// Lines follow.
    Upgraded { silence_max: Duration },
}

/// The data of the connection that advances, copied so that the table is not borrowed.
#[derive(Clone, Copy)]
struct ConnRef {
    slot: u32,
    socket: RawFd,
    peer: IpAddr,
    for_probes: bool,
}

impl ConnRef {
    /// The ticket of the next request, whose epoch `epoch` becomes.
    fn next_ticket(&self, epoch: &mut u32) -> Ticket {
        *epoch = epoch.wrapping_add(1);
        Ticket {
            slot: self.slot,
            epoch: *epoch,
        }
    }
}

/// Bytes that were received and not answered yet.
#[derive(Clone, Copy)]
struct Received<'b> {
    bytes: &'b [u8],
    /// The buffer that they are in, if it was filled for one request.
    buffer: Option<&'b Arc<Vec<u8>>>,
    /// The first byte is the first of a request.
    fresh: bool,
}

impl Received<'_> {
    /// Without the first `used` bytes.
    fn from(&self, used: usize) -> Self {
        Self {
            bytes: &self.bytes[used..],
            ..*self
        }
    }
}

/// A complete body in a buffer that other threads can share.
enum CompleteBody<'b> {
    Part(&'b [u8], Option<&'b Arc<Vec<u8>>>),
    Decoded(Arc<Vec<u8>>),
}

impl<'b> CompleteBody<'b> {
    /// `buffer`: what a borrowed body is a part of.
    fn new(body: Cow<'b, [u8]>, buffer: Option<&'b Arc<Vec<u8>>>) -> Self {
        match body {
            Cow::Borrowed(part) => Self::Part(part, buffer.filter(|_| !part.is_empty())),
            Cow::Owned(decoded) => Self::Decoded(Arc::new(decoded)),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Part(part, _) => part,
            Self::Decoded(decoded) => decoded,
        }
    }

    fn buffer(&self) -> Option<&Arc<Vec<u8>>> {
        match self {
            Self::Part(_, buffer) => *buffer,
            Self::Decoded(decoded) => Some(decoded),
        }
    }
}

/// The longest body that a request may have, and what the service found out about it.
type Admitted<S> = Result<(u64, Option<<S as Service>::Admitted>), Response>;

/// A service and the connections it answers.
pub(super) struct Served<S: Service> {
    pub(super) service: Rc<S>,
    pub(super) shared: Rc<Connections<S::Admitted>>,
}

impl<S: Service> Served<S> {
    /// [`Served::advance`], where a panic, ours included, ends one connection and not the core.
    fn advance_caught(&self, slot: u32) -> Next {
        catch_unwind(AssertUnwindSafe(|| self.advance(slot))).unwrap_or_else(|payload| {
            self.shared.panicked("connection", payload.as_ref());
            Next::Close
        })
    }

    /// Does everything that can be done now, and returns what to wait for.
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
            Phase::Waiting | Phase::Chunking => {
                drop(table);
                self.read_ahead(slot)
            }
            Phase::Upgraded => {
                let input = conn.input.take();
                let ticket = Ticket {
                    slot,
                    epoch: conn.epoch,
                };
                let socket = conn.socket;
                drop(table);
                self.receive_lines(ticket, socket, input)
            }
            Phase::Idle | Phase::Receiving => {
                let input = conn.input.take();
                let epoch = conn.epoch;
                let conn = ConnRef {
                    slot,
                    socket: conn.socket,
                    peer: conn.peer,
                    for_probes: conn.for_probes,
                };
                drop(table);
                match input {
                    None => self.receive(conn, epoch),
                    Some(input) => self.receive_more(conn, epoch, input),
                }
            }
        }
    }

    /// Reads bytes that begin with a new request. They stay where they were read.
    fn receive(&self, conn: ConnRef, epoch: u32) -> Next {
        let shared = &*self.shared;
        let mut scratch = shared.take_scratch();
        let next = match sys::recv(conn.socket, &mut scratch) {
            Ok(0) => Next::Close,
            Ok(got) => {
                add(&shared.count.bytes_in, got as u64);
                let received = Received {
                    bytes: &scratch[..got],
                    buffer: None,
                    fresh: true,
                };
                self.answer(conn, epoch, received, Progress::Head)
            }
            Err(error) if is_not_now(&error) => shared.nothing_received(conn.slot),
            Err(_) => Next::Close,
        };
        shared.buffers.scratch.set(Some(scratch));
        next
    }

    /// Continues a request that has begun, or one that was received while another one waited.
    fn receive_more(
        &self,
        conn: ConnRef,
        epoch: u32,
        mut input: Box<Input<Option<S::Admitted>>>,
    ) -> Next {
        let shared = &*self.shared;
        let fresh = mem::take(&mut input.ready);
        if !fresh {
            let mut scratch = shared.take_scratch();
            let parse = match sys::recv(conn.socket, &mut scratch) {
                Ok(got) if got > 0 => {
                    add(&shared.count.bytes_in, got as u64);
                    input.add(&scratch[..got])
                }
                Err(error) if is_not_now(&error) => Ok(false),
                // The client left within a request: an answer would not be read.
                Ok(_) | Err(_) => return Next::Close,
            };
            shared.buffers.scratch.set(Some(scratch));
            match parse {
                Ok(true) => {}
                Ok(false) if !shared.lacks_memory_for(&input) => {
                    shared.keep_input(conn.slot, input);
                    return Next::Readable;
                }
                refused => {
                    let refusal = refused.err().unwrap_or(Refusal::BuffersFull);
                    let mut out = shared.take_out();
                    shared.refuse(refusal, input.is_of_head(), &mut out);
                    let sent = shared.send(conn.socket, &out, None);
                    shared.return_out(out);
                    let end = BatchEnd::Last { linger: true };
                    return shared.finish_batch(conn.slot, epoch, end, &[], false, sent);
                }
            }
        }
        let (bytes, progress) = input.into_parts();
        let buffer = Arc::new(bytes);
        let received = Received {
            bytes: &buffer,
            buffer: Some(&buffer),
            fresh,
        };
        self.answer(conn, epoch, received, progress)
    }

    /// Answers all complete requests among the received bytes, in as few writes as the limits
    /// allow.
    fn answer(
        &self,
        conn: ConnRef,
        mut epoch: u32,
        received: Received<'_>,
        mut progress: Progress<Option<S::Admitted>>,
    ) -> Next {
        let Received { bytes, fresh, .. } = received;
        let shared = &*self.shared;
        let mut out = shared.take_out();
        let mut used = 0;
        let (end, sent) = loop {
            let batch = self.batch(conn, &mut epoch, received.from(used), progress, &mut out);
            used += batch.used;
            let sent = shared.send(conn.socket, &out, batch.large);
            out.clear();
            if matches!(batch.end, BatchEnd::Full) && matches!(sent, Ok(None)) {
                progress = Progress::Head;
                continue;
            }
            break (batch.end, sent);
        };
        shared.return_out(out);
        let upgraded = matches!(end, BatchEnd::Upgraded { .. });
        let fresh = fresh || used > 0;
        let next = shared.finish_batch(conn.slot, epoch, end, &bytes[used..], fresh, sent);
        if upgraded && next == Next::Readable {
            let slot = conn.slot;
            let ticket = Ticket { slot, epoch };
            if shared.draining.get() {
                return self.close_lines(ticket, conn.socket, Ended::Draining);
            }
            let input = shared.table.borrow_mut().get(slot).input.take();
            if input.is_some() {
                return self.receive_lines(ticket, conn.socket, input);
            }
        }
        next
    }

    /// Appends the answers of one batch to `out`.
    fn batch(
        &self,
        conn: ConnRef,
        epoch: &mut u32,
        received: Received<'_>,
        mut progress: Progress<Option<S::Admitted>>,
        out: &mut Vec<u8>,
    ) -> Batch<S::Admitted> {
        let Received { bytes, buffer, .. } = received;
        let (mut used, mut answers) = (0, 0);
        while used < bytes.len() {
            if answers == ANSWERS_PER_WRITE_MAX || out.len() >= UNSENT_BYTES_MAX {
                return Batch::new(used, BatchEnd::Full);
            }
            answers += 1;
            let mut fields = head::fields();
            let progress = mem::replace(&mut progress, Progress::Head);
            let admit = |head: &Head<'_>| self.admit_on(conn, head);
            match next_request(&bytes[used..], progress, &mut fields, admit) {
                Ok(NextRequest::Complete {
                    mut head,
                    body,
                    len,
                    body_late,
                    admitted,
                }) => {
                    let head_bytes = &bytes[used..used + head.len];
                    used += len;
                    head.keep_alive &= !conn.for_probes;
                    let ticket = conn.next_ticket(epoch);
                    let body = CompleteBody::new(body, buffer);
                    let mut request = self.request(&head, body.bytes(), conn.peer, body_late);
                    (request.head, request.buffer) = (head_bytes, body.buffer());
                    let answer = self.call(&request, admitted, ticket);
                    let more = used < bytes.len();
                    if let Some(batch) = self.shared.write_answer(answer, &head, used, more, out) {
                        return batch;
                    }
                }
                Ok(NextRequest::Rejected {
                    mut head,
                    reason: mut response,
                    len,
                    body_missing,
                }) => {
                    used += len;
                    // Reading a body that is not here yet would be for nothing.
                    response.close |= body_missing;
                    let more = used < bytes.len() || body_missing;
                    let answer = self.rejected(response, &mut head, || conn.next_ticket(epoch));
                    if let Some(batch) = self.shared.write_answer(answer, &head, used, more, out) {
                        return batch;
                    }
                }
                Ok(NextRequest::Incomplete {
                    input,
                    wants_continue,
                }) => {
                    let end = self.shared.wait_for_rest(input, wants_continue, out);
                    return Batch::new(used, end);
                }
                Err(refusal) => {
                    self.shared
                        .refuse(refusal, input::is_of_head(&bytes[used..]), out);
                    return Batch::new(used, BatchEnd::Last { linger: true });
                }
            }
        }
        Batch::new(used, BatchEnd::Empty)
    }

    /// Admits a request, if its connection may be used for it.
    fn admit_on(&self, conn: ConnRef, head: &Head<'_>) -> Admitted<S> {
        if conn.for_probes && !self.service.is_probe(head) {
            return Err(self.shared.keep_for_probes());
        }
        if self.shared.buffers.is_full() && !self.service.is_probe(head) {
            self.shared.buffers.count_refused();
            return Err(error::BUFFERS_FULL.error().into());
        }
        self.admit(head, conn.peer)
    }

    /// The answer to a request that `admit` refused, now or after the delay of the response.
    fn rejected(
        &self,
        mut response: Response,
        head: &mut Head<'_>,
        ticket: impl FnOnce() -> Ticket,
    ) -> Answer {
        let Some(delay) = response.delay.take() else {
            return Answer::Reply(response);
        };
        head.keep_alive &= !response.close;
        self.service.on_delayed(ticket(), response);
        Answer::Wait {
            deadline: Some(delay),
        }
    }

    /// Returns the longest body the request may have, and what the service found out about it:
    /// `None` for `OPTIONS`, which is answered without the service, because browsers send it
    /// without credentials.
    fn admit(&self, head: &Head<'_>, peer: IpAddr) -> Admitted<S> {
        add(&self.shared.count.requests, 1);
        if head.method == Method::Options {
            return Ok((PUBLIC_BODY_BYTES_MAX, None));
        }
        let client = self.shared.client(head, peer);
        let admission = catch_unwind(AssertUnwindSafe(|| self.service.admit(head, client)))
            .unwrap_or_else(|payload| Err(self.shared.panicked("admit", payload.as_ref())))?;
        Ok((admission.body_bytes_max, Some(admission.admitted)))
    }

    fn request<'a>(
        &self,
        head: &Head<'a>,
        body: &'a [u8],
        peer: IpAddr,
        body_late: bool,
    ) -> Request<'a> {
        Request {
            method: head.method.without_head(),
            path: head.path,
            query: head.query,
            headers: head.headers,
            body,
            peer: self.shared.client(head, peer),
            body_late,
            may_upgrade: head.keep_alive && !head.is_1_0,
            head: &[],
            buffer: None,
        }
    }

    fn call(&self, request: &Request<'_>, admitted: Option<S::Admitted>, ticket: Ticket) -> Answer {
        let decided = catch_unwind(AssertUnwindSafe(|| match admitted {
            Some(admitted) => self.service.call(request, admitted, ticket),
            None => Answer::Reply(self.options(request)),
        }));
        decided
            .unwrap_or_else(|payload| Answer::Reply(self.shared.panicked("call", payload.as_ref())))
    }

    /// The methods of a path, for people and for preflight requests of browsers (CORS).
    fn options(&self, request: &Request<'_>) -> Response {
        let allow = match request.path {
            "*" => response::ALLOW_ALL,
            path => self.service.allowed(path),
        };
        let mut response = Response::no_content().header("Allow", allow);
        response.for_any_origin = self.service.is_for_any_origin(request.path);
        let preflight = request.headers.get("access-control-request-method");
        let is_closed = self.shared.cors == Cors::Off && !response.for_any_origin;
        if is_closed || preflight.is_none() {
            return response;
        }
        response
            .header("Access-Control-Allow-Methods", allow)
            .header("Access-Control-Allow-Headers", response::ALLOWED_FIELDS)
            .header("Access-Control-Max-Age", "86400")
    }

    /// Reads what the client of a waiting request sends: further requests, or the end of input.
    fn read_ahead(&self, slot: u32) -> Next {
        let shared = &*self.shared;
        let mut table = shared.table.borrow_mut();
        let conn = table.get(slot);
        let kept = conn.input.as_ref().map_or(0, |input| input.bytes.len());
        if conn.half_closed || kept >= AHEAD_BYTES_MAX {
            return Next::Woken;
        }
        let mut scratch = shared.take_scratch();
        let room = if shared.buffers.is_full_of_arriving() {
            AHEAD_BYTES_MIN.saturating_sub(kept)
        } else {
            (AHEAD_BYTES_MAX - kept).min(scratch.len())
        };
        if room == 0 {
            shared.buffers.scratch.set(Some(scratch));
            return Next::Woken;
        }
        let got = sys::recv(conn.socket, &mut scratch[..room]);
        let next = match got {
            Ok(0) => {
                let ticket = Ticket {
                    slot,
                    epoch: conn.epoch,
                };
                drop(table);
                self.half_closed(ticket)
            }
            Ok(got) => {
                add(&shared.count.bytes_in, got as u64);
                if let Some(input) = &mut conn.input {
                    input.bytes.extend_from_slice(&scratch[..got]);
                    shared.charge(input);
                } else {
                    conn.input = Some(Box::new(shared.charged(Input::unparsed(&scratch[..got]))));
                }
                if got == room {
                    Next::Woken
                } else {
                    Next::Readable
                }
            }
            Err(error) if is_not_now(&error) => Next::Readable,
            Err(_) => Next::Close,
        };
        shared.buffers.scratch.set(Some(scratch));
        next
    }

    /// The client of a waiting request has ended its sending side.
    fn half_closed(&self, ticket: Ticket) -> Next {
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
            // The socket would report its end of input for ever.
            Phase::Waiting | Phase::Chunking => Next::Woken,
            Phase::Closed => Next::Close,
            _ => Next::Readable,
        }
    }

    /// The deadline of a connection has passed; its phase decides what that means.
    pub(super) fn on_deadline(&self, slot: u32) {
        let shared = &*self.shared;
        let mut table = shared.table.borrow_mut();
        // An earlier deadline of the same tick may have changed or ended it.
        if !table.wheel.is_due(slot) || table.conns[slot].is_none() {
            return;
        }
        let conn = table.get(slot);
        if conn.unsent.is_some() {
            add(&shared.count.stalled, 1);
            conn.ending.why = Ended::Stalled;
            conn.kill();
            return;
        }
        let ticket = Ticket {
            slot,
            epoch: conn.epoch,
        };
        match conn.phase {
            Phase::Upgraded => {
                let socket = conn.socket;
                drop(table);
                self.close_silent(ticket, socket);
            }
            // The rest of an answer that has begun came too late.
            Phase::Idle | Phase::Chunking | Phase::Lingering | Phase::Closed => conn.kill(),
            Phase::Receiving => {
                add(&shared.count.too_slow, 1);
                shared.time_out(&mut table, slot);
            }
            Phase::Waiting => {
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

    /// Removes the entry of a connection whose task ends, before its socket is closed.
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
        table.shares.leave(shared.sharer(conn.peer));
        let ticket = Ticket {
            slot,
            epoch: conn.epoch,
        };
        table.wake_producer(ticket);
        drop(table);
        if conn.upgraded {
            shared.count.upgraded.set(shared.count.upgraded.get() - 1);
            let reported = catch_unwind(AssertUnwindSafe(|| {
                self.service.on_closed(ticket, conn.ending.why);
            }));
            if let Err(payload) = reported {
                shared.panicked("on_closed", payload.as_ref());
            }
        }
        if conn.owed {
            add(&shared.count.abandoned, 1);
            shared.count.waiting.set(shared.count.waiting.get() - 1);
            let reported = catch_unwind(AssertUnwindSafe(|| self.service.on_abandoned(ticket)));
            if let Err(payload) = reported {
                shared.panicked("on_abandoned", payload.as_ref());
            }
        }
        shared.notify_drained();
    }
}

impl<A> Connections<A> {
    /// Ends a batch with a request of which a part is missing.
    fn wait_for_rest(
        &self,
        input: Box<Input<Option<A>>>,
        wants_continue: bool,
        out: &mut Vec<u8>,
    ) -> BatchEnd<A> {
        if self.lacks_memory_for(&input) {
            self.refuse(Refusal::BuffersFull, input.is_of_head(), out);
            return BatchEnd::Last { linger: true };
        }
        if wants_continue {
            out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        BatchEnd::Incomplete(input)
    }

    /// Appends the answer, if there is one already. Returns the batch if it ends with this request.
    /// `used`: bytes of the batch up to here. `more`: bytes follow.
    fn write_answer(
        &self,
        answer: Answer,
        head: &Head<'_>,
        used: usize,
        more: bool,
        out: &mut Vec<u8>,
    ) -> Option<Batch<A>> {
        match answer {
            Answer::Reply(response) => match self.reply(response, head, more, out) {
                (None, None) => None,
                (large, end) => Some(Batch {
                    used,
                    large,
                    end: end.unwrap_or(BatchEnd::Full),
                }),
            },
            Answer::Wait { deadline } => {
                let form = AnswerForm {
                    head_only: head.method == Method::Head,
                    keep_alive: head.keep_alive,
                    accepts: head.headers.accepts(),
                    takes_chunks: !head.is_1_0,
                    origin: self.cors.of(head),
                };
                let end = BatchEnd::Waiting { deadline, form };
                Some(Batch::new(used, end))
            }
            Answer::Upgrade(upgrade) => {
                response::write_upgrade(&upgrade, &self.common.borrow(), out);
                let Upgrade { silence_max, .. } = upgrade;
                Some(Batch::new(used, BatchEnd::Upgraded { silence_max }))
            }
        }
    }

    /// Appends an answer. Returns a body to be sent after it, and the end of the batch if the
    /// connection ends. `more`: bytes follow that will not be read.
    fn reply(
        &self,
        response: Response,
        head: &Head<'_>,
        more: bool,
        out: &mut Vec<u8>,
    ) -> (Option<Body>, Option<BatchEnd<A>>) {
        let close = !head.keep_alive || response.close || self.draining.get();
        // Only a body that may be compressed makes the codings worth reading.
        let accepts = match &response.body {
            Body::Owned(body) if body.len() >= COMPRESS_BYTES_MIN => head.headers.accepts(),
            _ => Accepts::NONE,
        };
        let style = Style {
            head_only: head.method == Method::Head,
            close,
            accepts,
            origin: self.cors.allowed(self.cors.of(head)),
            cors: &self.cors,
            idle_seconds: self.limits.idle_seconds(),
        };
        let large = response::write(response, style, &self.common.borrow(), out);
        // A client that wanted the end sends nothing more; another one may be sending right now.
        let end = close.then_some(BatchEnd::Last {
            linger: head.keep_alive || more,
        });
        (large, end)
    }

    /// The address of the client of a request.
    fn client(&self, head: &Head<'_>, peer: IpAddr) -> IpAddr {
        client_address(&head.headers, peer, &self.trusted_proxies)
    }

    /// The response to a request on a connection that is reserved for probes.
    fn keep_for_probes(&self) -> Response {
        add(&self.count.shed, 1);
        let mut response = Response::from(error::TOO_MANY_CONNECTIONS.error());
        response.close = true;
        response
    }

    /// `to_head`: the request is a `HEAD`, so no content follows.
    fn refuse(&self, refusal: Refusal, to_head: bool, out: &mut Vec<u8>) {
        // Those without memory are counted by the budget.
        add(
            &self.count.refused,
            u64::from(refusal != Refusal::BuffersFull),
        );
        let mut response = Response::from(ApiError::from(refusal));
        if refusal == Refusal::MethodRefused {
            response = response.header("Allow", response::ALLOW_ALL);
        }
        self.write_last(response, to_head, out);
    }

    pub(super) fn write_last(&self, response: Response, to_head: bool, out: &mut Vec<u8>) {
        let style = Style {
            head_only: to_head,
            close: true,
            accepts: Accepts::NONE,
            origin: None,
            cors: &self.cors,
            idle_seconds: 0,
        };
        let large = response::write(response, style, &self.common.borrow(), out);
        debug_assert!(large.is_none(), "errors are small");
    }

    /// Stores the state of a connection after a batch. `rest`: bytes that were not used.
    fn finish_batch(
        &self,
        slot: u32,
        epoch: u32,
        end: BatchEnd<A>,
        rest: &[u8],
        fresh: bool,
        sent: Result<Option<Box<Unsent>>, Gone>,
    ) -> Next {
        let mut table = self.table.borrow_mut();
        let conn = table.get(slot);
        conn.epoch = epoch;
        let mut due = self.set_phase(conn, end, rest, fresh);
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
            Ok(None) if conn.ending.last => return self.end(&mut table, slot),
            Ok(None) => {}
        }
        if let Some(due) = due {
            table.wheel.set(slot, due);
        }
        Next::Readable
    }

    /// Puts a connection into the phase that follows from the end of a batch. Returns its deadline,
    /// if that moves.
    fn set_phase(
        &self,
        conn: &mut Conn<A>,
        end: BatchEnd<A>,
        rest: &[u8],
        fresh: bool,
    ) -> Option<u32> {
        let idle_due = Some(self.now.get() + self.idle_ticks());
        conn.phase = Phase::Idle;
        let keep_rest = |conn: &mut Conn<A>| {
            if !rest.is_empty() {
                conn.input = Some(Box::new(self.charged(Input::unparsed(rest))));
            }
        };
        match end {
            BatchEnd::Empty => idle_due,
            BatchEnd::Full => {
                keep_rest(conn);
                idle_due
            }
            BatchEnd::Incomplete(mut input) => {
                self.charge(&mut input);
                conn.phase = Phase::Receiving;
                let due = if let Progress::Body { .. } = input.progress {
                    let now = self.now.get();
                    input.pace = BodyPace::begin(now, input.body_received);
                    Some(input.pace.due(now, input.body_received, &self.limits))
                } else {
                    // Counted from the first byte: later ones do not move it.
                    fresh.then(|| self.after(self.limits.head_ms))
                };
                conn.input = Some(input);
                due
            }
            BatchEnd::Waiting { deadline, form } => {
                conn.phase = Phase::Waiting;
                conn.owed = true;
                conn.form = form;
                keep_rest(conn);
                self.count.waiting.set(self.count.waiting.get() + 1);
                let ms = deadline.map_or(u32::MAX, |wait| {
                    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)
                });
                Some(self.after(ms.min(self.limits.wait_ms_max)))
            }
            BatchEnd::Last { linger } => {
                conn.ending.last = true;
                conn.ending.linger = linger;
                idle_due
            }
            BatchEnd::Upgraded { silence_max } => {
                conn.phase = Phase::Upgraded;
                conn.upgraded = true;
                let ms = u32::try_from(silence_max.as_millis()).unwrap_or(u32::MAX);
                conn.since = ms.div_ceil(self.limits.tick_ms) + 1;
                keep_rest(conn);
                self.count.upgraded.set(self.count.upgraded.get() + 1);
                Some(self.now.get().saturating_add(conn.since))
            }
        }
    }

    /// Keeps the input of an incomplete request. Enough bytes of a body earn it time.
    fn keep_input(&self, slot: u32, mut input: Box<Input<Option<A>>>) {
        self.charge(&mut input);
        let mut table = self.table.borrow_mut();
        if let Progress::Body { .. } = input.progress {
            let now = self.now.get();
            let due = input.pace.due(now, input.body_received, &self.limits);
            table.wheel.set(slot, due);
        }
        table.get(slot).input = Some(input);
    }

    /// Sends unsent answers. Returns `None` if all is sent and the connection goes on.
    fn flush(&self, table: &mut Table<A>, slot: u32) -> Option<Next> {
        let conn = table.get(slot);
        let unsent = conn.unsent.as_mut()?;
        match unsent.flush(conn.socket, &self.count.bytes_out) {
            Flushed::All => {
                conn.unsent = None;
                if conn.ending.last {
                    return Some(self.end(table, slot));
                }
                match conn.phase {
                    Phase::Idle => table.wheel.set(slot, self.now.get() + self.idle_ticks()),
                    Phase::Receiving => {
                        let due = self.after(self.limits.head_ms);
                        table.wheel.set(slot, due);
                    }
                    Phase::Upgraded => {
                        let due = self.now.get().saturating_add(conn.since);
                        table.wheel.set(slot, due);
                    }
                    Phase::Chunking => {
                        let due = self.after(self.limits.send_ms);
                        let epoch = conn.epoch;
                        table.wheel.set(slot, due);
                        table.wake_producer(Ticket { slot, epoch });
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

    /// Throws away what arrives after the last answer.
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
        self.buffers.scratch.set(Some(scratch));
        next
    }

    /// An idle connection was advanced and had received nothing. A drain does that, and ends it.
    fn nothing_received(&self, slot: u32) -> Next {
        if self.idle_end.get() > 0 {
            return Next::Readable;
        }
        let mut table = self.table.borrow_mut();
        let conn = table.get(slot);
        conn.ending.last = true;
        conn.ending.linger = true;
        self.end(&mut table, slot)
    }

    /// Answers a request that did not arrive in time with 408.
    fn time_out(&self, table: &mut Table<A>, slot: u32) {
        let mut out = self.take_out();
        let conn = table.get(slot);
        let to_head = conn.input.as_ref().is_some_and(|input| input.is_of_head());
        self.write_last(error::REQUEST_TIMEOUT.error().into(), to_head, &mut out);
        conn.input = None;
        conn.ending.last = true;
        conn.ending.linger = true;
        match self.send(conn.socket, &out, None) {
            Ok(None) => self.end_woken(table, slot),
            Ok(Some(unsent)) => {
                conn.unsent = Some(unsent);
                conn.phase = Phase::Idle;
                conn.wake();
                table.wheel.set(slot, self.after(self.limits.send_ms));
            }
            Err(Gone) => conn.kill(),
        }
        self.return_out(out);
    }

    /// Ends a connection whose last answer is sent.
    pub(super) fn end(&self, table: &mut Table<A>, slot: u32) -> Next {
        let conn = table.get(slot);
        conn.input = None;
        if !conn.ending.linger || conn.half_closed {
            conn.phase = Phase::Closed;
            return Next::Close;
        }
        sys::shutdown(conn.socket, sys::Side::Write);
        conn.phase = Phase::Lingering;
        conn.since = 0;
        table.wheel.set(slot, self.after(self.limits.linger_ms));
        Next::Readable
    }

    /// [`Connections::end`], called from outside the task of the connection.
    pub(super) fn end_woken(&self, table: &mut Table<A>, slot: u32) {
        let next = self.end(table, slot);
        let conn = table.get(slot);
        match next {
            Next::Close => conn.kill(),
            // Its task may wait for a wake only.
            _ => conn.wake(),
        }
    }
}

/// Bytes of a table entry and of the future of a task, for the test that keeps them small.
#[cfg(test)]
fn sizes<S: Service + 'static>() -> (usize, usize) {
    fn of<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }
    (size_of::<Option<Conn<S::Admitted>>>(), of(connection::<S>))
}

#[cfg(test)]
mod tests;
