//! Waiting requests and the rights of their callers.
//!
//! A caller can lose its right while a request waits: its token is deleted or gets another key or
//! other permissions, a streamer gets another cluster key, the administrator's credentials are
//! replaced. The request then ends at once, without a partial response. Commands sent to the writer
//! are not held: they can no longer be withdrawn.

use std::sync::Arc;

use super::Core;
use super::wake::YieldBudget;
use crate::access::auth::{Caller, TokenNeed, check_token, lost_credentials};
use crate::access::rights::{Action, Listable, Rights};
use crate::access::token::{Demand, Token};
use crate::api::call::TraceFields;
use crate::api::endpoint::needs;
use crate::api::operation::Operation;
use crate::error::ApiError;
use crate::http::{Ticket, TicketMap};
use crate::state::State;
use crate::state::name::Hostname;
use crate::state::record::StreamerRecord;

#[derive(Default)]
pub struct HeldRequests {
    requests: TicketMap<Held>,
    /// Absent: the usual one.
    manners: TicketMap<RequestManner>,
    /// Of requests that are completed by calls to other servers.
    traces: TicketMap<TraceFields>,
}

/// What the form of an answer depends on besides the request itself.
#[derive(Default, Clone, Copy)]
pub struct RequestManner {
    /// The answer names the preference for strict handling.
    pub is_strict: bool,
    /// A page for people sent it.
    pub is_page: bool,
    /// Large integers are strings.
    pub has_string_ids: bool,
}

enum Held {
    Administrator,
    /// With the cluster key of this record.
    Streamer {
        hostname: Hostname,
        record: StreamerRecord,
    },
    Token {
        token: Arc<Token>,
        operation: &'static Operation,
        key: Box<str>,
        /// The response contains only what is visible to the token.
        by_visibility: bool,
    },
}

impl HeldRequests {
    pub fn insert(
        &mut self,
        ticket: Ticket,
        operation: &'static Operation,
        key: &str,
        caller: &Caller,
        by_visibility: bool,
    ) {
        let held = match caller {
            Caller::Anonymous => return,
            Caller::Administrator => Held::Administrator,
            Caller::Streamer(record) => Held::Streamer {
                hostname: Hostname::trusted(key),
                record: record.clone(),
            },
            Caller::Token(token) => Held::Token {
                token: token.clone(),
                operation,
                key: key.into(),
                by_visibility,
            },
        };
        self.requests.insert(ticket, held);
    }

    pub fn remove(&mut self, ticket: Ticket) {
        self.requests.remove(&ticket);
    }

    pub fn note_manner(&mut self, ticket: Ticket, manner: RequestManner) {
        if manner.is_strict || manner.is_page || manner.has_string_ids {
            self.manners.insert(ticket, manner);
        }
    }

    pub fn manner(&self, ticket: Ticket) -> RequestManner {
        self.manners.get(&ticket).copied().unwrap_or_default()
    }

    pub fn note_trace(&mut self, ticket: Ticket, trace: TraceFields) {
        self.traces.insert(ticket, trace);
    }

    /// The trace that calls for a request belong to.
    pub fn trace(&self, ticket: Ticket) -> TraceFields {
        self.traces.get(&ticket).cloned().unwrap_or_default()
    }

    /// Forgets a request that is answered or abandoned.
    pub fn end(&mut self, ticket: Ticket) -> RequestManner {
        self.requests.remove(&ticket);
        self.traces.remove(&ticket);
        if self.manners.is_empty() {
            return RequestManner::default();
        }
        self.manners.remove(&ticket).unwrap_or_default()
    }

    pub fn by_administrator(&self) -> Vec<Ticket> {
        let all = self.requests.iter();
        all.filter(|(_, held)| matches!(held, Held::Administrator))
            .map(|(ticket, _)| *ticket)
            .collect()
    }
}

impl Core {
    /// Ends the requests whose callers have lost the right to them.
    pub(super) async fn end_without_right(&self, state: &State, budget: &mut YieldBudget) {
        let tickets: Vec<Ticket> = self.held.borrow().requests.keys().copied().collect();
        for ticket in tickets {
            self.end_if_without_right(ticket, state);
            budget.end().await;
        }
    }

    fn end_if_without_right(&self, ticket: Ticket, state: &State) {
        let is_waiting = self.connections.is_waiting(ticket);
        let outcome = {
            let requests = &mut self.held.borrow_mut().requests;
            let Some(held) = requests.get_mut(&ticket) else {
                return;
            };
            let outcome = if is_waiting {
                self.still_held(held, state)
            } else {
                Ok(false)
            };
            if outcome != Ok(true) {
                requests.remove(&ticket);
            }
            outcome
        };
        match outcome {
            Ok(true) => {}
            Ok(false) if !is_waiting => {}
            // Computed with other permissions: the client repeats the request.
            Ok(false) => self.end_early(ticket),
            Err(error) => {
                let manner = self.held.borrow().manner(ticket);
                self.forget(ticket);
                self.held.borrow_mut().note_manner(ticket, manner);
                self.complete(ticket, error.into());
            }
        }
    }

    /// Ends a request that the client repeats: a poll without data, others with 503. What a pending
    /// request has received so far is not sent.
    fn end_early(&self, ticket: Ticket) {
        self.pending.borrow_mut().remove(ticket);
        let response = self.timeout_answer(ticket);
        self.complete(ticket, response);
    }

    /// False if other entities are visible to the caller than before.
    fn still_held(&self, held: &mut Held, state: &State) -> Result<bool, ApiError> {
        match held {
            Held::Administrator => Ok(true),
            Held::Streamer { hostname, record } => match state.streamer(hostname) {
                Some(newest) if newest.cluster_key == record.cluster_key => Ok(true),
                Some(_) => Err(lost_credentials()),
                // Its poll is answered with 404.
                None => Ok(true),
            },
            Held::Token {
                token,
                operation,
                key,
                by_visibility,
            } => {
                let newest = self.tokens.borrow_mut().find(state, &token.digest);
                let newest = newest.ok_or_else(lost_credentials)?;
                check_token(&newest, needs(operation, key))?;
                if *by_visibility && !sees_the_same(operation, &token.rights, &newest.rights) {
                    return Ok(false);
                }
                *token = newest;
                Ok(true)
            }
        }
    }

    /// Ends the requests with replaced credentials of the administrator. Clients repeat them with
    /// the new ones.
    pub(super) async fn end_administrator_requests(&self) {
        self.end_polls().await;
        let mut budget = YieldBudget::default();
        let held = self.held.borrow().by_administrator();
        for ticket in held {
            self.end_early(ticket);
            budget.end().await;
        }
    }
}

/// Whether a response computed with `before` is also correct with `after`.
fn sees_the_same(operation: &Operation, before: &Rights, after: &Rights) -> bool {
    let lists_everything = |rights: &Rights| match operation.permission.token {
        TokenNeed::Right(Demand {
            collection,
            action: Action::List,
        }) => rights.listable(collection) == Listable::Everything,
        _ => false,
    };
    before == after || (lists_everything(before) && lists_everything(after))
}
