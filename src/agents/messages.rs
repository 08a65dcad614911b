//! What the cores share about agents, and what they tell each other about them.
//!
//! A control connection lives on one core; commands for its agent come in on any. They find each other through the registry and go by message.

use super::protocol::{Reason, Request};
use super::{handshake, registry};
use crate::http::Ticket;

/// What all cores share about agents.
pub struct Agents {
    pub presence: registry::Registry,
    pub nonces: handshake::Nonces,
}

impl Agents {
    pub fn new() -> Result<Self, getrandom::Error> {
        Ok(Self {
            presence: registry::Registry::default(),
            nonces: handshake::Nonces::new()?,
        })
    }
}

/// A request of the API that waits for an agent: on which core, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    pub core: usize,
    pub ticket: Ticket,
}

/// What cores tell each other about agents. `session` is that of [`registry::Presence`]: a connection that was replaced meanwhile is not meant.
pub enum Message {
    /// For the core that holds the connection.
    Ask {
        to: Ticket,
        session: u64,
        request: Request,
        asker: Asker,
    },
    /// The same: end it. Who asked for it, if anybody waits, is told when it is done.
    Disconnect {
        to: Ticket,
        session: u64,
        reason: Reason,
        asker: Option<Asker>,
    },
}
