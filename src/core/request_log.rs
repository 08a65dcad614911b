//! The log line of a request: method, path, peer, status, microseconds. Written if requests are
//! logged.

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::Instant;

use super::spans::Spans;
use crate::http::{Answer, Request, Ticket, TicketMap};

/// The status that nginx logs for a request whose client disconnected before the response.
pub const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Requests that are logged once they are answered.
#[derive(Default)]
pub struct RequestLog {
    pub spans: Spans,
    waiting: RefCell<TicketMap<LoggedRequest>>,
}

struct LoggedRequest {
    method: &'static str,
    path: Box<str>,
    peer: IpAddr,
    since: Instant,
}

impl RequestLog {
    /// Logs a request now, or when it is answered.
    pub fn log(&self, request: &Request<'_>, ticket: Ticket, answer: &Answer, since: Instant) {
        let (method, path, peer) = (request.method.as_str(), request.path, request.peer);
        match answer {
            Answer::Reply(response) => log(method, path, peer, response.status, since),
            Answer::Upgrade(_) => log(method, path, peer, 101, since),
            Answer::Wait { .. } => {
                let path = path.into();
                let waiting = LoggedRequest {
                    method,
                    path,
                    peer,
                    since,
                };
                self.waiting.borrow_mut().insert(ticket, waiting);
            }
        }
    }

    /// Logs a request that was answered after it waited.
    pub fn log_later(&self, ticket: Ticket, status: u16) {
        if let Some(request) = self.waiting.borrow_mut().remove(&ticket) {
            let LoggedRequest {
                method,
                path,
                peer,
                since,
            } = request;
            log(method, &path, peer, status, since);
        }
    }
}

/// The path alone: a query may hold search terms, and credentials come in a header only.
pub fn log(method: &str, path: &str, peer: IpAddr, status: u16, since: Instant) {
    let us = since.elapsed().as_micros() as u64;
    tracing::info!(method, path, status, us, %peer, "request");
}
