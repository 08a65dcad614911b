//! Lines: upgraded connections, which carry lines in both directions.
//!
//! An upgraded connection keeps its task, its table entry and the rules of `conn`. Promises: a
//! partial line is all that is kept of what a client sends; silence ends the connection by the same
//! wheel of deadlines; lines that the client does not take are queued up to a bound; every end is
//! reported once. The meaning of lines is left to the `Service`.

use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::conn::{Next, Served};
use super::conn_table::{Phase, Table};
use super::connections::Connections;
use super::counters::add;
use super::input::Input;
use super::response::Body;
use super::unsent::{Gone, Unsent, is_not_now};
use super::{Ended, Lines, Service, Ticket};
use crate::limits::{LINE_BYTES_MAX, LINES_UNSENT_BYTES_MAX, UNSENT_BYTES_MAX};
use crate::rt::sys;

impl<A> Connections<A> {
    /// Sends one or more whole lines on an upgraded connection. Returns false if the connection has
    /// ended, or ends now because too much is unsent.
    pub fn send_line(&self, ticket: Ticket, line: &[u8]) -> bool {
        let mut table = self.table.borrow_mut();
        let Some(conn) = table.upgraded(ticket) else {
            return false;
        };
        if let Some(unsent) = &mut conn.unsent {
            if unsent.bytes() + line.len() > LINES_UNSENT_BYTES_MAX {
                add(&self.count.stalled, 1);
                conn.ending.why = Ended::Stalled;
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

    /// Ends an upgraded connection after sending `last`. Returns false if it has ended already.
    pub fn end_lines(&self, ticket: Ticket, last: &[u8]) -> bool {
        if !last.is_empty() && !self.send_line(ticket, last) {
            return false;
        }
        let mut table = self.table.borrow_mut();
        let Some(conn) = table.upgraded(ticket) else {
            return false;
        };
        conn.ending.why = Ended::ByService;
        self.stop_lines(&mut table, ticket.slot);
        true
    }

    /// Receives and sends no more lines; what is unsent goes out.
    fn stop_lines(&self, table: &mut Table<A>, slot: u32) {
        let conn = table.get(slot);
        conn.ending.last = true;
        conn.ending.linger = true;
        conn.input = None;
        conn.phase = Phase::Idle;
        if conn.unsent.is_none() {
            self.end_woken(table, slot);
        }
    }
}

/// Result of handling the complete lines of some bytes.
struct LineBatch {
    /// Bytes of the handled lines.
    used: usize,
    /// At least one line was complete.
    received: bool,
    /// Why the connection ends, if it does.
    ends: Option<Ended>,
    sent: Result<Option<Box<Unsent>>, Gone>,
}

impl<S: Service> Served<S> {
    /// Reads from an upgraded connection and handles every complete line.
    pub(super) fn receive_lines(
        &self,
        ticket: Ticket,
        socket: RawFd,
        input: Option<Box<Input<Option<S::Admitted>>>>,
    ) -> Next {
        let shared = &*self.shared;
        // Lines that arrived with the request, or that had to wait until earlier lines were sent.
        if let Some(input) = &input
            && input.ready
        {
            return self.handle_lines(ticket, socket, &input.bytes);
        }
        let mut scratch = shared.take_scratch();
        let next = match sys::recv(socket, &mut scratch) {
            Ok(0) => Next::Close,
            Ok(got) => {
                add(&shared.count.bytes_in, got as u64);
                let fresh = &scratch[..got];
                match input {
                    None => self.handle_lines(ticket, socket, fresh),
                    Some(mut input) => {
                        input.bytes.extend_from_slice(fresh);
                        // A line that arrives byte by byte is neither copied nor searched again for
                        // each byte.
                        if memchr::memchr(b'\n', fresh).is_some()
                            || input.bytes.len() > LINE_BYTES_MAX
                        {
                            self.handle_lines(ticket, socket, &input.bytes)
                        } else {
                            shared.charge(&mut input);
                            shared.table.borrow_mut().get(ticket.slot).input = Some(input);
                            Next::Readable
                        }
                    }
                }
            }
            Err(error) if is_not_now(&error) => {
                if shared.draining.get() {
                    self.close_lines(ticket, socket, Ended::Draining)
                } else {
                    shared.table.borrow_mut().get(ticket.slot).input = input;
                    Next::Readable
                }
            }
            Err(_) => Next::Close,
        };
        shared.buffers.scratch.set(Some(scratch));
        next
    }

    /// Passes all complete lines to the service, sends its answers, and keeps the rest.
    fn handle_lines(&self, ticket: Ticket, socket: RawFd, bytes: &[u8]) -> Next {
        let shared = &*self.shared;
        let mut out = shared.take_out();
        let mut batch = LineBatch {
            used: 0,
            received: false,
            ends: None,
            sent: Ok(None),
        };
        loop {
            let full = self.line_batch(ticket, bytes, &mut batch, &mut out);
            if batch.ends.is_none() && !full && shared.draining.get() {
                self.service.on_close(ticket, Ended::Draining, &mut out);
                batch.ends = Some(Ended::Draining);
            }
            batch.sent = shared.send(socket, &out, None);
            out.clear();
            if !full || !matches!(batch.sent, Ok(None)) {
                break;
            }
        }
        shared.return_out(out);
        let rest = &bytes[batch.used..];
        shared.finish_lines(ticket, batch, rest)
    }

    /// Appends the answers to complete lines. Returns true if `out` is full.
    fn line_batch(
        &self,
        ticket: Ticket,
        bytes: &[u8],
        batch: &mut LineBatch,
        out: &mut Vec<u8>,
    ) -> bool {
        while batch.ends.is_none() {
            let rest = &bytes[batch.used..];
            let end = memchr::memchr(b'\n', rest);
            if end.unwrap_or(rest.len()) > LINE_BYTES_MAX {
                self.service.on_close(ticket, Ended::LineLong, out);
                batch.ends = Some(Ended::LineLong);
                break;
            }
            let Some(end) = end else { break };
            if out.len() >= UNSENT_BYTES_MAX {
                return true;
            }
            batch.used += end + 1;
            batch.received = true;
            add(&self.shared.count.lines_in, 1);
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            if self.service.on_line(ticket, line, out) == Lines::End {
                batch.ends = Some(Ended::ByService);
            }
        }
        false
    }

    /// Ends an upgraded connection for a reason of the server.
    pub(super) fn close_lines(&self, ticket: Ticket, socket: RawFd, why: Ended) -> Next {
        let shared = &*self.shared;
        let mut out = shared.take_out();
        self.service.on_close(ticket, why, &mut out);
        let batch = LineBatch {
            used: 0,
            received: false,
            ends: Some(why),
            sent: shared.send(socket, &out, None),
        };
        shared.return_out(out);
        shared.finish_lines(ticket, batch, &[])
    }

    /// Ends an upgraded connection that was silent for too long; called from outside its task.
    pub(super) fn close_silent(&self, ticket: Ticket, socket: RawFd) {
        let shared = &*self.shared;
        let next = catch_unwind(AssertUnwindSafe(|| {
            self.close_lines(ticket, socket, Ended::Silent)
        }))
        .unwrap_or_else(|payload| {
            shared.panicked("on_close", payload.as_ref());
            Next::Close
        });
        let mut table = shared.table.borrow_mut();
        let conn = table.get(ticket.slot);
        match next {
            Next::Close => conn.kill(),
            // Its task has to wait for something else now.
            _ => conn.wake(),
        }
    }
}

impl<A> Connections<A> {
    /// Stores the state of an upgraded connection after its lines were handled.
    fn finish_lines(&self, ticket: Ticket, batch: LineBatch, rest: &[u8]) -> Next {
        let slot = ticket.slot;
        let mut table = self.table.borrow_mut();
        // The service may have ended it meanwhile, by `end_lines`.
        let ended = table.upgraded(ticket).is_none();
        let conn = table.get(slot);
        if let Some(why) = batch.ends
            && !ended
        {
            conn.ending.why = why;
            conn.ending.last = true;
            conn.ending.linger = true;
            conn.phase = Phase::Idle;
        }
        let over = ended || batch.ends.is_some();
        match batch.sent {
            Err(Gone) => return Next::Close,
            Ok(Some(mut unsent)) => {
                if let Some(queued) = conn.unsent.take() {
                    unsent.append(*queued);
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
                conn.input = Some(Box::new(self.charged(Input::unparsed(rest))));
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
            conn.input = Some(Box::new(self.charged(Input::incomplete(rest))));
        }
        if batch.received {
            // Bytes of a partial line do not move the deadline, or a client that sends single bytes
            // would never be silent.
            let due = self.now.get().saturating_add(conn.since);
            table.wheel.set(slot, due);
        }
        Next::Readable
    }
}

#[cfg(test)]
mod tests;
