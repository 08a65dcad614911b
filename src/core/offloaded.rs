//! Requests that are answered by another thread, because their answer would keep the core busy for
//! milliseconds: those with a large body, and those whose handler returns [`Outcome::Offload`].
//!
//! The handler runs a second time there, on the state of the first time. Commands are still sent,
//! and rights checked, by the core.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::ANSWER_WAIT_MAX;
use crate::access::auth::Caller;
use crate::api::call::{Call, Context, CoreLocal, Outcome, Pending, Step};
use crate::api::config_external;
use crate::api::endpoint::Endpoint;
use crate::api::shared::{ApiSettings, Shared};
use crate::api::strict;
use crate::core::message::Reply;
use crate::error::{self, ApiError};
use crate::feed::NodePoll;
use crate::http::{Accepts, DetachedRequest, Response, Ticket, panicked};
use crate::state::State;
use crate::state::command::AuditedCommand;
use crate::state::name::Hostname;
use crate::traces::TraceContext;

/// The outcome of a handler that ran on another thread.
enum Finished {
    Reply(Response),
    Command(AuditedCommand),
    Pending(Box<dyn Pending>),
}

/// A request and what its handler needs.
pub struct OffloadedCall {
    request: DetachedRequest,
    endpoint: &'static Endpoint,
    parameter: Box<str>,
    caller: Caller,
    state: Arc<State>,
    trace: Option<TraceContext>,
}

impl OffloadedCall {
    pub fn new(call: &Call<'_>, endpoint: &'static Endpoint) -> Self {
        Self {
            request: call.request.detach(),
            endpoint,
            parameter: call.parameter.into(),
            caller: call.caller.clone(),
            state: Arc::clone(call.state),
            trace: call.local.trace(),
        }
    }

    fn finish(self, shared: &Arc<Shared>, ticket: Ticket) -> Result<Finished, ApiError> {
        let (local, state) = (CoreLocal::default(), Rc::new(self.state));
        local.set_trace(self.trace);
        self.request.read(|request| {
            let call = Call {
                shared,
                state: &state,
                local: &local,
                request,
                operation: self.endpoint,
                parameter: &self.parameter,
                caller: &self.caller,
                ticket,
                is_offloaded: true,
            };
            strict::check_preferred(&call)?;
            Ok(match (self.endpoint.handler)(&call)? {
                Outcome::Reply(response) => {
                    Finished::Reply(response.compressed(request.headers.accepts()))
                }
                Outcome::Command(command) => Finished::Command(call.audited(command)?),
                Outcome::Batch(command, conditions) => Finished::Command(AuditedCommand {
                    conditions,
                    ..call.audited(command)?
                }),
                Outcome::Pending(pending) => Finished::Pending(pending),
                Outcome::List(_)
                | Outcome::Park { .. }
                | Outcome::Bulk(_)
                | Outcome::Facets(_)
                | Outcome::Body(_)
                | Outcome::Upgrade { .. }
                | Outcome::Offload => {
                    unreachable!("{} must not be offloaded", self.endpoint.id)
                }
            })
        })
    }
}

/// The answer to a streamer whose poll was parked.
#[derive(Clone)]
pub struct OffloadedPoll {
    hostname: Hostname,
    poll: NodePoll,
    state: Arc<State>,
}

impl OffloadedPoll {
    pub fn new(hostname: &Hostname, poll: &NodePoll, state: &Arc<State>) -> Self {
        Self {
            hostname: hostname.clone(),
            poll: poll.clone(),
            state: state.clone(),
        }
    }

    fn finish(self, shared: &Shared) -> Result<Finished, ApiError> {
        let Self {
            hostname,
            poll,
            state,
        } = self;
        let answer = config_external::answer_changed(shared, &state, &hostname, &poll)?;
        let accepts = poll.coding.map_or(Accepts::NONE, Accepts::only);
        Ok(Finished::Reply(answer.compressed(accepts)))
    }
}

/// A list page or another finished answer that is compressed elsewhere.
pub struct OffloadedCompression {
    pub response: Response,
    pub accepts: Accepts,
}

/// Work that another thread does for a request.
pub enum Offloaded {
    Call(Box<OffloadedCall>),
    Poll(OffloadedPoll),
    Compression(OffloadedCompression),
    /// A finished answer gets another form.
    StringIds(Response),
    /// It was handed over. A poll is kept for its deadline.
    Running(Option<OffloadedPoll>),
}

impl Offloaded {
    fn held_bytes(&self) -> usize {
        match self {
            Self::Call(call) => call.request.held_bytes(),
            Self::Compression(work) => work.response.body.bytes().len(),
            Self::StringIds(response) => response.body.bytes().len(),
            Self::Poll(_) | Self::Running(_) => 0,
        }
    }

    fn finish(self, shared: &Arc<Shared>, ticket: Ticket) -> Result<Finished, ApiError> {
        match self {
            Self::Call(call) => call.finish(shared, ticket),
            Self::Poll(poll) => poll.finish(shared),
            Self::Compression(OffloadedCompression { response, accepts }) => {
                Ok(Finished::Reply(response.compressed(accepts)))
            }
            Self::StringIds(response) => Ok(Finished::Reply(response.with_string_ids())),
            Self::Running(_) => unreachable!("it is handed over once"),
        }
    }
}

impl Pending for Offloaded {
    fn wait(&self, _: &ApiSettings) -> Duration {
        ANSWER_WAIT_MAX
    }

    fn start(&mut self, context: &Context<'_>) -> Step {
        let kept = match self {
            Self::Poll(poll) => Some(poll.clone()),
            _ => None,
        };
        let work = std::mem::replace(self, Self::Running(kept));
        let (shared, ticket) = (context.shared.clone(), context.ticket);
        let (bytes, completion) = (work.held_bytes(), context.completion(0));
        let job = move || {
            let finished = catch_unwind(AssertUnwindSafe(|| work.finish(&shared, ticket)))
                .unwrap_or_else(|payload| Err(panicked("offloaded work", payload.as_ref())))
                .unwrap_or_else(|error| Finished::Reply(error.into()));
            completion.send(Reply::Finished(Box::new(finished)));
        };
        match context.shared.workers.offload.run(bytes, job) {
            Ok(()) => Step::Wait,
            Err(_) => error::BUFFERS_FULL.error().into(),
        }
    }

    fn on_reply(&mut self, _: usize, reply: Reply, _: &Context<'_>) -> Step {
        let Reply::Finished(finished) = reply else {
            return Step::Wait;
        };
        match *finished.downcast().expect("its own work has sent it") {
            Finished::Reply(response) => Step::Done(response),
            Finished::Command(command) => Step::Command(command),
            Finished::Pending(pending) => Step::Replace(pending),
        }
    }

    /// A preview contains only what its caller sees.
    fn depends_on_visibility(&self) -> bool {
        true
    }

    fn on_timeout(&mut self, context: &Context<'_>) -> Response {
        if let Self::Running(Some(OffloadedPoll { hostname, poll, .. })) = self {
            return config_external::expire(context.shared, context.state, hostname, poll);
        }
        error::TIMED_OUT.error().into()
    }
}
