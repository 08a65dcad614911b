//! The spans of requests that are recorded, from their head to their answer.

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use crate::api::call::CoreLocal;
use crate::api::router::Route;
use crate::http::{Answer, Head, Headers, Request, Ticket, TicketMap};
use crate::traces::context::trace_id_of;
use crate::traces::{RequestSpan, TraceContext, Traces};

/// A recorded request that is being answered.
struct OpenSpan {
    context: TraceContext,
    parent: Option<u64>,
    method: &'static str,
    route: Option<Box<str>>,
    path: Box<str>,
    peer: IpAddr,
    began: SystemTime,
    since: Instant,
}

impl OpenSpan {
    fn end(self, status: u16) -> RequestSpan {
        RequestSpan {
            context: self.context,
            parent: self.parent,
            method: self.method,
            route: self.route,
            path: self.path,
            peer: self.peer,
            status,
            began: self.began,
            took: self.since.elapsed(),
        }
    }
}

/// The recorded requests of a core.
#[derive(Default)]
pub struct Spans {
    /// The request whose handler runs.
    current: RefCell<Option<OpenSpan>>,
    waiting: RefCell<TicketMap<OpenSpan>>,
}

impl Spans {
    /// Begins the span of a request, if it is to be recorded, and gives its handler the context.
    pub fn begin(
        &self,
        traces: &Traces,
        local: &CoreLocal,
        request: &Request<'_>,
        route: Option<&Route>,
    ) {
        let (method, path, peer) = (request.method.as_str(), request.path, request.peer);
        let open = open(traces, local, request.headers, (method, route, path, peer));
        local.set_trace(open.as_ref().map(|open| open.context));
        self.current.replace(open);
    }

    /// The handler has returned.
    pub fn answered(&self, traces: &Traces, local: &CoreLocal, ticket: Ticket, answer: &Answer) {
        local.set_trace(None);
        let Some(open) = self.current.take() else {
            return;
        };
        match answer {
            Answer::Reply(response) => traces.record(open.end(response.status)),
            Answer::Upgrade(_) => traces.record(open.end(101)),
            Answer::Wait { .. } => {
                self.waiting.borrow_mut().insert(ticket, open);
            }
        }
    }

    /// Ends the span of a request that waited.
    pub fn end(&self, traces: &Traces, ticket: Ticket, status: u16) {
        if let Some(open) = self.waiting.borrow_mut().remove(&ticket) {
            traces.record(open.end(status));
        }
    }

    /// Records a request that was refused when its head was complete.
    pub fn refused(traces: &Traces, local: &CoreLocal, head: &Head<'_>, peer: IpAddr, status: u16) {
        let what = (head.method.as_str(), None, head.path, peer);
        if let Some(open) = open(traces, local, head.headers, what) {
            traces.record(open.end(status));
        }
    }
}

/// `None`: the request is not recorded.
fn open(
    traces: &Traces,
    local: &CoreLocal,
    headers: Headers<'_>,
    (method, route, path, peer): (&'static str, Option<&Route>, &str, IpAddr),
) -> Option<OpenSpan> {
    const PATH_BYTES_MAX: usize = 1024;
    let text = |field| std::str::from_utf8(headers.get(field)?).ok();
    let sent = text("traceparent").and_then(TraceContext::parse);
    let is_sampled = match sent {
        Some(sent) => sent.is_sampled,
        None => traces.samples(local.random()),
    };
    if !is_sampled {
        return None;
    }
    let trace_id = match sent {
        Some(sent) => sent.trace_id,
        None => text("x-trace-id")
            .and_then(trace_id_of)
            .unwrap_or_else(|| local.new_trace()),
    };
    Some(OpenSpan {
        context: TraceContext {
            trace_id,
            span_id: local.random().max(1),
            is_sampled,
        },
        parent: sent.map(|sent| sent.span_id),
        method,
        route: route.map(|route| route.template().into()),
        path: path[..path.floor_char_boundary(PATH_BYTES_MAX)].into(),
        peer,
        began: SystemTime::now(),
        since: Instant::now(),
    })
}
