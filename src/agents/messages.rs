//! State of agents that all cores share, and messages about agents between cores.
//!
//! A control connection belongs to one core; a command for its agent may arrive on any. The
//! registry has the core of the connection; messages carry the command there and its reply back.

use super::handshake::Nonces;
use super::protocol::{AgentRequest, CloseReason};
use super::registry::Registry;
use crate::http::Ticket;

/// State of agents that all cores share.
pub struct AgentsShared {
    pub presence: Registry,
    pub nonces: Nonces,
}

impl AgentsShared {
    pub fn new() -> Result<Self, getrandom::Error> {
        Ok(Self {
            presence: Registry::default(),
            nonces: Nonces::new()?,
        })
    }
}

/// The core and the ticket of an API request that waits for an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyAddress {
    pub core: usize,
    pub ticket: Ticket,
}

/// A message between cores about an agent. `session` is the serial number of the connection: a
/// message for a connection that was replaced meanwhile is void.
pub enum AgentMessage {
    /// Sends a request to the agent; for the core that holds the connection.
    Request {
        to: Ticket,
        session: u64,
        request: AgentRequest,
        reply_to: ReplyAddress,
    },
    /// Ends the connection, and then replies if a request waits for that; for the same core.
    Disconnect {
        to: Ticket,
        session: u64,
        reason: CloseReason,
        reply_to: Option<ReplyAddress>,
    },
}

/// The data of a control connection that an upgrade begins.
pub struct NewConnection {
    pub id: Box<str>,
    /// Digest of the key that the agent has proved to know.
    pub key_digest: [u8; 32],
    /// The streamer in the layout of the agent.
    pub host: Option<Box<str>>,
}
