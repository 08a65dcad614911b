//! HTTP: from bytes to requests and from responses to bytes. Independent of resources.
//!
//! What a request means is left to the [`Service`]: it decides at once and never waits. An answer
//! that must wait (for a commit, the layouter, an outbound call, a change that a poll waits for) is
//! completed later through its [`Ticket`]. A request may also turn its connection into one of lines
//! ([`Answer::Upgrade`]), which the service handles until either side ends it.
//!
//! Reading order: `head`, `framing` and `input` find requests in bytes; `conn` is the state machine
//! of one connection, `answers` and `chunks` send what requests waited for, `lines` handles an
//! upgraded connection; `accept`, `connections`, `deadline` and `unsent` serve all of them, within
//! the memory of `buffers`; `response`, `encoding` and `error` write what is sent; `reply` reads
//! answers of other servers.

mod accept;
mod answers;
mod buffers;
mod chunks;
mod conn;
mod conn_table;
mod connections;
mod cors;
mod counters;
mod deadline;
mod detached;
pub mod encoding;
pub mod error;
mod forwarded;
mod framing;
pub mod head;
pub mod input;
mod lines;
pub mod refusal;
pub mod reply;
pub mod response;
mod segmented_vec;
mod shares;
pub mod string_ids;
#[cfg(test)]
mod testing;
mod tickets;
mod unsent;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use accept::serve;
pub use buffers::Reserved;
pub use chunks::ChunkedAnswer;
pub use connections::{ConnectionOptions, Connections, panicked};
pub use cors::Cors;
pub use counters::Counters;
pub use detached::DetachedRequest;
pub use encoding::{Accepts, Coding, quality};
pub use head::{Head, Headers, Method};
pub use response::{Body, Prepared, Response, VARY};
pub use tickets::{BuildTicketHasher, TicketMap, TicketSet};

/// One complete request. It lives as long as the call: what is needed later must be copied.
pub struct Request<'a> {
    /// `HEAD` arrives as `Get`: the body of the response is left out when it is written.
    pub method: Method,
    /// As sent: not decoded, not normalized. Begins with `/`.
    pub path: &'a str,
    /// As sent, without the `?`; empty if there was none.
    pub query: &'a str,
    pub headers: Headers<'a>,
    /// Chunked bodies arrive decoded.
    pub body: &'a [u8],
    /// The address of the client: the peer of the connection, or what a trusted proxy names.
    pub peer: IpAddr,
    /// The body arrived after `admit` had returned: what `admit` found may be outdated.
    pub body_late: bool,
    /// The connection can be upgraded: HTTP/1.1, without `Connection: close`.
    pub may_upgrade: bool,
    /// The head as it was sent.
    pub head: &'a [u8],
    /// The buffer of which `body` is a part, if it is large.
    pub buffer: Option<&'a Arc<Vec<u8>>>,
}

/// A body from this size on is read on another thread: at about 200 MB/s, reading and checking it
/// takes a millisecond.
const LARGE_BODY_BYTES: usize = 256 * 1024;

impl Request<'_> {
    pub fn has_large_body(&self) -> bool {
        self.body.len() >= LARGE_BODY_BYTES
    }

    /// The request for another thread.
    pub fn detach(&self) -> DetachedRequest {
        DetachedRequest::of(self)
    }

    /// Whether the client offers to switch to `protocol`.
    pub fn offers(&self, protocol: &str) -> bool {
        self.may_upgrade && self.headers.offers_upgrade(protocol)
    }
}

/// Names one waiting request, or one upgraded connection, of one core. A ticket never names another
/// one later, so it may outlive its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    pub slot: u32,
    pub epoch: u32,
}

/// The decision of a service.
pub enum Answer {
    Reply(Response),
    /// `Connections::complete` will be called with the ticket. After `deadline` (at most
    /// `Limits::wait_ms_max`, which is also the meaning of `None`) the client gets
    /// `Service::timeout_response` instead.
    Wait {
        deadline: Option<Duration>,
    },
    /// `101`: from here on the connection carries lines. Only for a request that
    /// [`Request::offers`] the protocol.
    Upgrade(Upgrade),
}

/// An upgraded connection: lines in both directions, each ended by LF. The ticket of the request
/// names it until [`Service::on_closed`].
pub struct Upgrade {
    /// Name in the response.
    pub protocol: &'static str,
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    /// Lines that are sent right after the head.
    pub greeting: Vec<u8>,
    /// Longest time without a complete line before the connection ends.
    pub silence_max: Duration,
}

/// Why an upgraded connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ended {
    /// The client closed it, or it broke.
    #[default]
    ByPeer,
    /// The service ended it.
    ByService,
    /// No complete line for too long.
    Silent,
    /// A line was longer than [`crate::limits::LINE_BYTES_MAX`].
    LineLong,
    /// The client did not take the lines it was sent.
    Stalled,
    /// The process is stopping.
    Draining,
}

/// Whether an upgraded connection is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    Continue,
    /// It ends when all lines are sent.
    End,
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Answer::Reply(response)
    }
}

/// The result of [`Service::admit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission<A> {
    /// A longer body is refused with 413.
    pub body_bytes_max: u64,
    /// Handed on to [`Service::call`].
    pub admitted: A,
}

/// Decides what requests mean. One per core; its methods neither block nor await. A panic becomes a
/// 500 and ends that connection only.
pub trait Service {
    /// What `admit` finds out about a request that `call` needs as well: the operation, the caller.
    /// The connection keeps it while the body arrives, and only then.
    type Admitted;

    /// Called when a head is complete, before its body is read or requested (`100-continue`).
    /// Determines the operation, authorises the caller and limits the body. The method is the one
    /// that was sent, so `HEAD` may appear here, which is decided like `GET`. `OPTIONS` is answered
    /// without the service: it needs no credentials.
    fn admit(&self, head: &Head<'_>, peer: IpAddr) -> Result<Admission<Self::Admitted>, Response>;

    /// Whether a request is a probe of an orchestrator, which has connections of its own.
    fn is_probe(&self, head: &Head<'_>) -> bool {
        let _ = head;
        false
    }

    /// Keeps the response to a request that `admit` refused, because it has a `delay`:
    /// `timeout_response` returns it.
    fn on_delayed(&self, ticket: Ticket, response: Response) {
        let _ = (ticket, response);
    }

    /// Answers, or promises to complete `ticket`. The ticket can be completed as soon as this has
    /// returned `Wait`, not before.
    fn call(&self, request: &Request<'_>, admitted: Self::Admitted, ticket: Ticket) -> Answer;

    /// The response to a `Wait` whose deadline passed. The ticket is invalid afterwards.
    fn timeout_response(&self, ticket: Ticket) -> Response;

    /// The client of a `Wait` closed the connection. The ticket is invalid afterwards.
    fn on_abandoned(&self, ticket: Ticket);

    /// The client of a `Wait` has ended its sending side: most have disconnected, some still read.
    /// True keeps the request and answers it, for writes, whose outcome the client may read; false
    /// treats it as abandoned.
    fn keeps_half_closed(&self, ticket: Ticket) -> bool {
        let _ = ticket;
        false
    }

    /// A line of an upgraded connection, without its end. What is appended to `out` is sent; lines
    /// for other connections go through [`Connections::send_line`].
    fn on_line(&self, ticket: Ticket, line: &[u8], out: &mut Vec<u8>) -> Lines {
        let _ = (ticket, line, out);
        Lines::End
    }

    /// The server is about to end an upgraded connection. What is appended to `out` is sent before.
    fn on_close(&self, ticket: Ticket, why: Ended, out: &mut Vec<u8>) {
        let _ = (ticket, why, out);
    }

    /// An upgraded connection has ended. Called once for each; the ticket is invalid afterwards.
    fn on_closed(&self, ticket: Ticket, why: Ended) {
        let _ = (ticket, why);
    }

    /// Whether web pages of every origin may read the answers of a path, whatever is configured.
    fn is_for_any_origin(&self, path: &str) -> bool {
        let _ = path;
        false
    }

    /// The value of `Allow` that `OPTIONS` gets for a path.
    fn allowed(&self, path: &str) -> &'static str {
        let _ = path;
        response::ALLOW_ALL
    }
}
