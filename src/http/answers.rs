//! Answers to requests that waited, sent from the stack of the caller.
//!
//! Promises: an answer to a waiting request leaves at once if the socket takes it; a request gets
//! one answer at most; the task of the connection is woken only if it has something left to do.

use super::buffers::Reserved;
use super::conn_table::{Conn, Phase, Table};
use super::connections::Connections;
use super::counters::add;
use super::response::{self, Body, Prepared, Response, Style};
use super::unsent::Gone;
use super::{Accepts, Ticket};

impl<A> Connections<A> {
    /// Sends the answer of a waiting request. Returns false if the request does not wait any more.
    /// May be called by the service, for other tickets than the one it is deciding. A request whose
    /// answer has begun in chunks cannot get another one: its connection ends.
    pub fn complete(&self, ticket: Ticket, response: Response) -> bool {
        let mut table = self.table.borrow_mut();
        let Some(conn) = table.waiting(ticket) else {
            if let Some(conn) = table.chunking(ticket) {
                conn.kill();
            }
            return false;
        };
        if response.close {
            conn.form.keep_alive = false;
            conn.ending.linger = true;
        }
        let style = self.style_of(conn);
        let mut out = self.take_out();
        let large = response::write(response, style, &self.common.borrow(), &mut out);
        self.deliver(&mut table, ticket.slot, style.close, &out, large);
        self.return_out(out);
        true
    }

    /// Whether the request still waits for its answer, or for the rest of it.
    pub fn is_waiting(&self, ticket: Ticket) -> bool {
        let mut table = self.table.borrow_mut();
        table.waiting(ticket).is_some() || table.chunking(ticket).is_some()
    }

    /// Counts `bytes` for the answer to a request that waits. Returns false if there is no room for
    /// it: its client is then refused.
    pub fn holds(&self, reserved: &mut Reserved, bytes: usize) -> bool {
        self.buffers.holds(reserved, bytes)
    }

    /// Whether unsent answers leave no room for another one.
    pub fn is_full(&self) -> bool {
        self.buffers.is_full()
    }

    /// The codings that the client of a waiting request takes.
    pub fn accepts_of(&self, ticket: Ticket) -> Accepts {
        let mut table = self.table.borrow_mut();
        let conn = table.waiting(ticket);
        conn.map_or(Accepts::NONE, |conn| conn.form.accepts)
    }

    /// Formats an answer once for many `complete_shared`. `accepts`: codings all receivers take.
    pub fn prepare(&self, response: Response, accepts: Accepts) -> Prepared {
        let common = (&self.cors, self.limits.idle_seconds());
        Prepared::new(response, accepts, common, &self.common.borrow())
    }

    /// Sends an answer that other requests get as well, at little more than the cost of the system
    /// call. Returns false if the request does not wait any more.
    pub fn complete_shared(&self, ticket: Ticket, prepared: &Prepared) -> bool {
        let mut table = self.table.borrow_mut();
        let Some(conn) = table.waiting(ticket) else {
            return false;
        };
        let style = self.style_of(conn);
        if style.close || style.head_only || style.origin.is_some() {
            let mut out = self.take_out();
            prepared.write_variant(style, &mut out);
            self.deliver(&mut table, ticket.slot, style.close, &out, None);
            self.return_out(out);
        } else {
            self.deliver(&mut table, ticket.slot, false, prepared.whole(), None);
        }
        true
    }

    pub(super) fn style_of(&self, conn: &mut Conn<A>) -> Style<'_> {
        if self.draining.get() && conn.form.keep_alive {
            conn.form.keep_alive = false;
            conn.ending.linger = true;
        }
        // Bytes received ahead will not be read if this is the last answer.
        conn.ending.linger |= conn.input.is_some();
        Style {
            head_only: conn.form.head_only,
            close: !conn.form.keep_alive || conn.half_closed && conn.input.is_none(),
            accepts: conn.form.accepts,
            origin: self.cors.allowed(conn.form.origin),
            cors: &self.cors,
            idle_seconds: self.limits.idle_seconds(),
        }
    }

    /// Sends the answer that was owed, or the end of it. Wakes the task only if it has something
    /// left to do.
    pub(super) fn deliver(
        &self,
        table: &mut Table<A>,
        slot: u32,
        close: bool,
        bytes: &[u8],
        large: Option<Body>,
    ) {
        let now = self.now.get();
        let conn = table.get(slot);
        conn.phase = Phase::Idle;
        conn.owed = false;
        conn.ending.last |= close;
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
            Ok(None) if conn.ending.last => self.end_woken(table, slot),
            Ok(None) => {
                if conn.input.is_some() || conn.half_closed {
                    conn.wake();
                }
                table.wheel.set(slot, now + self.idle_ticks());
            }
            Ok(Some(unsent)) => {
                conn.unsent = Some(unsent);
                conn.wake();
                table.wheel.set(slot, self.after(self.limits.send_ms));
            }
            Err(Gone) => conn.kill(),
        }
    }
}
