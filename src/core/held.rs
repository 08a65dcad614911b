//! Waiting requests and the rights of their callers.
//!
//! A caller can lose its right while a request waits: its token is deleted or gets another key or
//! other permissions, a streamer gets another cluster key, the administrator's credentials are
//! replaced. The request then ends at once. Commands sent to the writer are not held: they can no
//! longer be withdrawn.

use std::collections::HashMap;
use std::rc::Rc;

use super::Core;
use crate::api::auth::{Caller, check_token};
use crate::api::endpoint::{Operation, needs};
use crate::api::token::Token;
use crate::error::{self, ApiError};
use crate::http::{Response, Ticket};
use crate::state::State;
use crate::state::name::Hostname;
use crate::state::record::StreamerRecord;

#[derive(Default)]
pub struct HeldRequests {
    requests: HashMap<Ticket, Held>,
}

enum Held {
    Administrator,
    /// With the cluster key of this record.
    Streamer {
        hostname: Hostname,
        record: StreamerRecord,
    },
    Token {
        token: Rc<Token>,
        endpoint: &'static Operation,
        key: Box<str>,
        /// The answer shows the part of a list that the token's permissions allowed.
        restricted: bool,
    },
}

impl HeldRequests {
    pub fn insert(
        &mut self,
        ticket: Ticket,
        endpoint: &'static Operation,
        key: &str,
        caller: &Caller,
        restricted: bool,
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
                endpoint,
                key: key.into(),
                restricted,
            },
        };
        self.requests.insert(ticket, held);
    }

    pub fn remove(&mut self, ticket: Ticket) {
        self.requests.remove(&ticket);
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
    pub(super) fn end_without_right(&self, state: &State) {
        let mut ended = Vec::new();
        self.held.borrow_mut().requests.retain(|ticket, held| {
            if !self.connections.is_waiting(*ticket) {
                return false;
            }
            match self.still_held(held, state) {
                Ok(true) => return true,
                // The list was computed with other permissions: the client repeats the request.
                Ok(false) => ended.push((*ticket, None)),
                Err(error) => ended.push((*ticket, Some(Response::from(error)))),
            }
            false
        });
        for (ticket, response) in ended {
            let at_timeout = self.timeout_answer(ticket);
            self.complete(ticket, response.unwrap_or(at_timeout));
        }
    }

    /// False if the caller may see another part of the list than before.
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
                endpoint,
                key,
                restricted,
            } => {
                let newest = self.tokens.borrow_mut().find(state, &token.digest);
                let newest = newest.ok_or_else(lost_credentials)?;
                check_token(&newest, needs(endpoint, key))?;
                if *restricted && newest.rights != token.rights {
                    return Ok(false);
                }
                *token = newest;
                Ok(true)
            }
        }
    }

    /// Ends the requests with replaced credentials of the administrator. Clients repeat them with
    /// the new ones.
    pub(super) fn end_administrator_requests(&self) {
        self.end_polls();
        let held = self.held.borrow().by_administrator();
        for ticket in held {
            let response = self.timeout_answer(ticket);
            self.complete(ticket, response);
        }
    }
}

fn lost_credentials() -> ApiError {
    error::UNAUTHORIZED.titled("The credentials are no longer valid")
}
