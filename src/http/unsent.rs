//! Unsent: answers that a socket has not taken yet.
//!
//! Promises: parts leave in order and are not copied again; two parts leave in one system call; a
//! flush copies a few MiB at most, so that a large answer does not keep the core from others.
//! Bounds are left to the callers: `conn` answers no further requests while something is unsent,
//! `lines` ends a connection whose queue is too long.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use super::buffers::Charge;
use super::counters::add;
use super::response::Body;
use crate::rt::sys;

pub(super) struct Unsent {
    parts: VecDeque<Body>,
    /// Bytes of the first part that are sent.
    pub(super) sent: usize,
    charge: Charge,
}

/// Bytes of a part that are counted. A shared one belongs to a cache.
fn charged_bytes(part: &Body) -> usize {
    match part {
        Body::Owned(bytes) => bytes.len(),
        Body::Shared(_) | Body::Empty => 0,
    }
}

/// The client has closed the connection.
pub(super) struct Gone;

/// Result of [`Unsent::flush`].
pub(super) enum Flushed {
    All,
    /// The socket is full, or has taken enough for now. True if it took something.
    Some(bool),
    Gone,
}

impl Unsent {
    pub(super) fn new(charge: Charge) -> Self {
        Self {
            parts: VecDeque::new(),
            sent: 0,
            charge,
        }
    }

    /// Appends all parts of another one, none of which was sent in part.
    pub(super) fn append(&mut self, mut other: Self) {
        for part in other.parts.drain(..) {
            self.push(part);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let all: usize = self.parts.iter().map(|part| part.bytes().len()).sum();
        all - self.sent
    }

    pub(super) fn push(&mut self, part: Body) {
        if !part.bytes().is_empty() {
            self.charge.add(charged_bytes(&part));
            self.parts.push_back(part);
        }
    }

    pub(super) fn flush(&mut self, socket: RawFd, bytes_out: &Cell<u64>) -> Flushed {
        let mut progress = false;
        let mut taken = 0;
        while let Some(first) = self.parts.front() {
            if taken >= sys::SEND_BYTES_MAX {
                return Flushed::Some(true);
            }
            let first = &first.bytes()[self.sent..];
            let sent = match self.parts.get(1) {
                Some(second) => sys::send_two(socket, first, second.bytes()),
                None => sys::send(socket, first),
            };
            match sent {
                Ok(mut sent) => {
                    progress |= sent > 0;
                    taken += sent;
                    add(bytes_out, sent as u64);
                    while let Some(part) = self.parts.front() {
                        let left = part.bytes().len() - self.sent;
                        if sent < left {
                            self.sent += sent;
                            break;
                        }
                        sent -= left;
                        self.sent = 0;
                        if let Some(part) = self.parts.pop_front() {
                            self.charge.remove(charged_bytes(&part));
                        }
                    }
                }
                Err(error) if is_not_now(&error) => return Flushed::Some(progress),
                Err(_) => return Flushed::Gone,
            }
        }
        Flushed::All
    }
}

/// Whether a system call failed only because the socket was not ready.
pub(super) fn is_not_now(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
