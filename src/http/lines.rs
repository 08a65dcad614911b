//! Lines: connections that were upgraded.

use std::os::fd::RawFd;

use super::conn::{Core, Next, Phase};
use super::connections::{Connections, Table, add};
use super::input::{Input, Progress};
use super::response::Body;
use super::unsent::{Gone, Unsent, is_not_now};
use super::{Ended, Lines, Service, Ticket};
use crate::limits::{LINE_BYTES_MAX, LINES_UNSENT_BYTES_MAX, UNSENT_BYTES_MAX};
use crate::rt::sys;

impl<A> Connections<A> {
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
    pub(super) fn stop_lines(&self, table: &mut Table<A>, slot: u32) {
        let conn = table.get(slot);
        conn.last = true;
        conn.linger = true;
        conn.input = None;
        conn.phase = Phase::Quiet;
        if conn.unsent.is_none() {
            self.end_woken(table, slot);
        }
    }
}

impl<S: Service> Core<S> {
    /// Takes what has come on an upgraded connection and answers every complete line of it.
    pub(super) fn hear(
        &self,
        ticket: Ticket,
        socket: RawFd,
        input: Option<Box<Input<S::Admitted>>>,
    ) -> Next {
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
    pub(super) fn answer_lines(&self, ticket: Ticket, socket: RawFd, bytes: &[u8]) -> Next {
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
    pub(super) fn hang_up(&self, ticket: Ticket, socket: RawFd, why: Ended) -> Next {
        let shared = &*self.shared;
        let mut out = shared.take_out();
        self.service.on_close(ticket, why, &mut out);
        let sent = shared.send(socket, &out, None);
        shared.give_out(out);
        shared.settle_lines(ticket, Some(why), &[], false, sent)
    }
}

impl<A> Connections<A> {
    /// Records what one look at an upgraded connection led to.
    pub(super) fn settle_lines(
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
}
