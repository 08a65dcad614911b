//! The table of the open connections of one core, and what is known of each.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::task::Waker;

use super::deadline::Wheel;
use super::input::Input;
use super::segmented_vec::SegmentedVec;
use super::shares::ConnectionShares;
use super::unsent::Unsent;
use super::{Accepts, Ended, Ticket, TicketMap};
use crate::rt::sys;

/// State of a connection between two calls of `Served::advance`. Independent of unsent answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// No byte of the next request has arrived.
    Idle,
    /// A part of a request has arrived.
    Receiving,
    /// The service owes an answer.
    Waiting,
    /// An answer has begun that is sent in chunks.
    Chunking,
    /// The connection carries lines instead of requests.
    Upgraded,
    /// The last answer is sent; what still arrives is thrown away.
    Lingering,
    /// The connection is over; its task has not noticed yet.
    Closed,
}

/// One open connection. Its size, with that of its task, is the cost of an idle client.
#[allow(clippy::struct_excessive_bools)] // independent facts, one byte each
pub(super) struct Conn<A> {
    /// Valid as long as the entry is in the table: the entry is removed before the socket closes.
    pub(super) socket: RawFd,
    /// Number of the newest request of this slot; grows over all connections that use the slot.
    pub(super) epoch: u32,
    pub(super) peer: IpAddr,
    pub(super) phase: Phase,
    pub(super) ending: Ending,
    /// The service has not answered `epoch` yet.
    pub(super) owed: bool,
    /// `epoch` names an upgraded connection, whose end must be reported to the service.
    pub(super) upgraded: bool,
    /// The client has ended its sending side.
    pub(super) half_closed: bool,
    pub(super) woken: bool,
    /// Only probes are answered.
    pub(super) for_probes: bool,
    pub(super) form: AnswerForm,
    /// The bytes read while lingering, or the ticks that an upgraded connection may be silent.
    pub(super) since: u32,
    pub(super) waker: Option<Waker>,
    pub(super) input: Option<Box<Input<Option<A>>>>,
    pub(super) unsent: Option<Box<Unsent>>,
}

/// How a connection ends.
#[derive(Clone, Copy, Default)]
pub(super) struct Ending {
    /// It ends when the unsent answers are sent.
    pub(super) last: bool,
    /// Before, it reads on for a while, because the client may be sending.
    pub(super) linger: bool,
    /// Why it ends, as far as this side decides it.
    pub(super) why: Ended,
}

/// The form of the answer that a waiting request gets.
#[derive(Clone, Copy)]
pub(super) struct AnswerForm {
    pub(super) head_only: bool,
    pub(super) keep_alive: bool,
    pub(super) accepts: Accepts,
    /// The client understands an answer in chunks.
    pub(super) takes_chunks: bool,
    /// See `Cors::of`.
    pub(super) origin: u8,
}

impl<A> Conn<A> {
    pub(super) fn new(socket: RawFd, epoch: u32, peer: IpAddr) -> Self {
        Self {
            socket,
            epoch,
            peer,
            phase: Phase::Idle,
            ending: Ending::default(),
            owed: false,
            upgraded: false,
            half_closed: false,
            woken: false,
            for_probes: false,
            form: AnswerForm {
                head_only: false,
                keep_alive: true,
                accepts: Accepts::NONE,
                takes_chunks: false,
                origin: 0,
            },
            since: 0,
            waker: None,
            input: None,
            unsent: None,
        }
    }

    /// Makes the task advance its connection, if it does not do so already.
    pub(super) fn wake(&mut self) {
        self.woken = true;
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Ends the connection: the operation its task waits for completes.
    pub(super) fn kill(&mut self) {
        self.phase = Phase::Closed;
        self.unsent = None;
        self.input = None;
        sys::shutdown(self.socket, sys::Side::Both);
        self.wake();
    }
}

/// The open connections of one core.
pub(super) struct Table<A> {
    pub(super) conns: SegmentedVec<Option<Conn<A>>>,
    pub(super) free: Vec<u32>,
    /// Epochs outlive connections, or a late answer to a closed connection could reach its
    /// successor.
    pub(super) epochs: SegmentedVec<u32>,
    pub(super) wheel: Wheel,
    pub(super) open: usize,
    pub(super) shares: ConnectionShares,
    /// The tasks that wait until a client has taken a part of its answer.
    pub(super) producers: TicketMap<Waker>,
}

impl<A> Table<A> {
    pub(super) fn get(&mut self, slot: u32) -> &mut Conn<A> {
        self.conns[slot]
            .as_mut()
            .expect("an entry lives as long as its task")
    }

    /// The connection on which this request waits for its answer.
    pub(super) fn waiting(&mut self, ticket: Ticket) -> Option<&mut Conn<A>> {
        self.in_phase(Phase::Waiting, ticket)
    }

    /// The connection on which the answer to this request has begun.
    pub(super) fn chunking(&mut self, ticket: Ticket) -> Option<&mut Conn<A>> {
        self.in_phase(Phase::Chunking, ticket)
    }

    /// Lets the producer of an answer go on: the client has taken all, or is gone.
    pub(super) fn wake_producer(&mut self, ticket: Ticket) {
        if let Some(producer) = self.producers.remove(&ticket) {
            producer.wake();
        }
    }

    /// The upgraded connection with this ticket, while lines can be sent on it.
    pub(super) fn upgraded(&mut self, ticket: Ticket) -> Option<&mut Conn<A>> {
        self.in_phase(Phase::Upgraded, ticket)
    }

    fn in_phase(&mut self, phase: Phase, ticket: Ticket) -> Option<&mut Conn<A>> {
        self.conns
            .get_mut(ticket.slot)?
            .as_mut()
            .filter(|conn| conn.phase == phase && conn.epoch == ticket.epoch)
    }
}
