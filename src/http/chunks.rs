//! Chunks: an answer whose length is not known when it begins, made as the client takes it.
//!
//! Promises: the next piece is made when the socket has taken the last one, so an answer of any
//! length holds one piece of memory, which is counted; an answer that is not finished ends its
//! connection without the last chunk, by which the client knows that it is incomplete (RFC 9112
//! section 8).

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::Ticket;
use super::buffers::Charge;
use super::conn_table::Phase;
use super::connections::Connections;
use super::encoding::{ENCODER_BYTES, StreamEncoder};
use super::response::{self, Response};
use super::unsent::Gone;

/// The rest of an answer that has begun. Dropping it before [`ChunkedAnswer::finish`] ends the
/// connection.
pub struct ChunkedAnswer<A> {
    connections: Rc<Connections<A>>,
    ticket: Ticket,
    encoder: Option<StreamEncoder>,
    /// The connection ends after the answer.
    close: bool,
    is_finished: bool,
    /// What is held until the answer is finished.
    _held: Charge,
}

impl<A> Connections<A> {
    /// Sends the head of an answer to a waiting request. `held_bytes`: memory that the rest of it
    /// needs until it is finished. `None` if the request does not wait any more, or its client can
    /// only be sent an answer of known length.
    pub fn begin_chunks(
        self: &Rc<Self>,
        ticket: Ticket,
        mut response: Response,
        held_bytes: usize,
    ) -> Option<ChunkedAnswer<A>> {
        let mut table = self.table.borrow_mut();
        let conn = table.waiting(ticket)?;
        if !conn.form.takes_chunks || conn.form.head_only {
            return None;
        }
        let style = self.style_of(conn);
        let encoder = style.accepts.best().and_then(StreamEncoder::new);
        response.coding = encoder.as_ref().map(StreamEncoder::coding);
        let mut out = self.take_out();
        response::write_chunked_head(&response, style, &self.common.borrow(), &mut out);
        conn.phase = Phase::Chunking;
        let mut held = self.buffers.unsent_charge();
        held.add(held_bytes + encoder.as_ref().map_or(0, |_| ENCODER_BYTES));
        let answer = ChunkedAnswer {
            connections: self.clone(),
            ticket,
            encoder,
            close: style.close,
            is_finished: false,
            _held: held,
        };
        drop(table);
        answer.send(&out);
        self.return_out(out);
        Some(answer)
    }

    /// Whether the client of a waiting request takes an answer of unknown length.
    pub fn takes_chunks(&self, ticket: Ticket) -> bool {
        let mut table = self.table.borrow_mut();
        let conn = table.waiting(ticket);
        conn.is_some_and(|conn| conn.form.takes_chunks && !conn.form.head_only)
    }

    /// Answers a waiting request for the head of a chunked answer. Returns false if it is not one.
    pub fn finish_chunked_head(&self, ticket: Ticket, response: &Response) -> bool {
        let mut table = self.table.borrow_mut();
        let Some(conn) = table.waiting(ticket) else {
            return false;
        };
        if !conn.form.takes_chunks || !conn.form.head_only {
            return false;
        }
        let style = self.style_of(conn);
        let mut out = self.take_out();
        response::write_chunked_head(response, style, &self.common.borrow(), &mut out);
        self.deliver(&mut table, ticket.slot, style.close, &out, None);
        drop(table);
        self.return_out(out);
        true
    }
}

impl<A> ChunkedAnswer<A> {
    /// Sends the next part of the body.
    pub fn write(&mut self, part: &[u8]) {
        let mut out = self.connections.take_out();
        self.frame(part, false, &mut out);
        self.send(&out);
        self.connections.return_out(out);
    }

    /// Waits until the socket has taken everything so far. Returns false if the client is gone.
    pub async fn taken(&self) -> bool {
        poll_fn(|context| {
            let mut table = self.connections.table.borrow_mut();
            let Some(conn) = table.chunking(self.ticket) else {
                return Poll::Ready(false);
            };
            if conn.unsent.is_none() {
                return Poll::Ready(true);
            }
            let waker = context.waker().clone();
            table.producers.insert(self.ticket, waker);
            Poll::Pending
        })
        .await
    }

    /// Sends the last part of the body. Returns false if the client is gone.
    pub fn finish(mut self, part: &[u8]) -> bool {
        self.is_finished = true;
        let mut out = self.connections.take_out();
        self.frame(part, true, &mut out);
        out.extend_from_slice(b"0\r\n\r\n");
        let mut table = self.connections.table.borrow_mut();
        let is_there = table.chunking(self.ticket).is_some();
        if is_there {
            let slot = self.ticket.slot;
            self.connections
                .deliver(&mut table, slot, self.close, &out, None);
        }
        drop(table);
        self.connections.return_out(out);
        is_there
    }

    /// Appends one chunk, coded. An empty one would end the body.
    fn frame(&mut self, part: &[u8], is_last: bool, out: &mut Vec<u8>) {
        let mut coded = Vec::new();
        let chunk = match &mut self.encoder {
            Some(encoder) => {
                encoder.encode(part, is_last, &mut coded);
                &coded[..]
            }
            None => part,
        };
        if !chunk.is_empty() {
            out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            out.extend_from_slice(chunk);
            out.extend_from_slice(b"\r\n");
        }
    }

    fn send(&self, bytes: &[u8]) {
        let connections = &*self.connections;
        let mut table = connections.table.borrow_mut();
        let due = connections.after(connections.limits.send_ms);
        let Some(conn) = table.chunking(self.ticket) else {
            return;
        };
        if let Some(unsent) = &mut conn.unsent {
            unsent.push(response::Body::Owned(bytes.to_vec()));
            return;
        }
        match connections.send(conn.socket, bytes, None) {
            Ok(None) => {}
            Ok(Some(unsent)) => {
                conn.unsent = Some(unsent);
                conn.wake();
            }
            Err(Gone) => return conn.kill(),
        }
        table.wheel.set(self.ticket.slot, due);
    }
}

impl<A> Drop for ChunkedAnswer<A> {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        let mut table = self.connections.table.borrow_mut();
        table.producers.remove(&self.ticket);
        if let Some(conn) = table.chunking(self.ticket) {
            conn.kill();
        }
    }
}
