//! From bytes to requests and from responses to bytes. Knows HTTP, knows no stream.
//!
//! `conn` moves bytes and keeps time, `parse` decides where a request begins and ends, `response` writes answers, `encoding` compresses
//! them, `error` says what was wrong. What a request means is the `Service`'s business: it decides at once and never waits; an answer
//! that must wait is completed later through its `Ticket`, from a parked long poll as from a write that is being made durable.

mod conn;
mod deadline;
pub mod encoding;
pub mod error;
pub mod parse;
pub mod response;
mod steps;

#[cfg(test)]
mod framing_tests;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

pub use conn::{Connections, Cors, Counters, Options, serve};
pub use encoding::{Accepts, Coding};
pub use parse::{Framing, Head, Headers, Method};
pub use response::{Body, Prepared, Response};

/// One complete request. Lives as long as the call: what is needed later is copied.
pub struct Request<'a> {
    /// `HEAD` arrives as `Get`: the answer's body is left away here.
    pub method: Method,
    /// As sent: not decoded, not normalized. Begins with `/`.
    pub path: &'a str,
    /// As sent, without the `?`; empty if there was none.
    pub query: &'a str,
    pub headers: Headers<'a>,
    /// Chunked bodies arrive decoded.
    pub body: &'a [u8],
    pub peer: IpAddr,
    /// What `admit` gave to this request just now; nothing if its body came later, when what was decided may no longer hold.
    pub pass: Option<u32>,
}

/// Names one request that waits for its answer, on one connection of one core. A ticket outlives its request harmlessly: it never
/// means another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub slot: u32,
    pub epoch: u32,
}

/// What a service decided.
pub enum Answer {
    Reply(Response),
    /// `Connections::complete` will be called with the ticket. After `deadline` (at most `Limits::wait_ms_max`, which is also
    /// the meaning of `None`) `Service::expired` is asked instead.
    Wait {
        deadline: Option<Duration>,
    },
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Answer::Reply(response)
    }
}

/// What a request may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Above: 413.
    pub body_bytes_max: u64,
    /// What the service wants to find again in [`Request::pass`], so that it need not look twice.
    pub pass: Option<u32>,
}

/// Decides what requests mean. One per core; nothing here blocks or awaits. A panic becomes a 500 and ends that connection only.
pub trait Service {
    /// Asked when a head is complete, before its body is read or asked for (`100-continue`): who is it, may it, how large a body. The
    /// method is the one that was sent, so `HEAD` may appear here. `OPTIONS` is answered without asking: it tells what everybody may know.
    fn admit(&self, head: &Head<'_>, peer: IpAddr) -> Result<Admission, Response>;

    /// Answers, or promises to complete `ticket`. The ticket can be completed from the moment this returned `Wait`, not before.
    fn call(&self, request: &Request<'_>, ticket: Ticket) -> Answer;

    /// The deadline of a `Wait` passed. The ticket is done for.
    fn expired(&self, ticket: Ticket) -> Response;

    /// The client of a `Wait` went away. The ticket is done for.
    fn abandoned(&self, ticket: Ticket);

    /// The client of a `Wait` has ended its sending side: most have left, some only close early and still read. `true` keeps the
    /// request and answers it, as a write deserves whose outcome somebody may want to know; `false` takes it for gone.
    fn half_closed(&self, ticket: Ticket) -> bool {
        let _ = ticket;
        false
    }

    /// The value of `Allow` that `OPTIONS` gets for a path.
    fn allowed(&self, path: &str) -> &'static str {
        let _ = path;
        response::ALLOW_ALL
    }
}
