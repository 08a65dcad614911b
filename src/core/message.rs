//! Messages of other threads to a core: one inbox per core, one message type.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::agents::messages::AgentMessage;
use crate::agents::protocol::AgentReply;
use crate::core::metrics::{CoreMetrics, PollCounts};
use crate::error::ApiError;
use crate::feed::Commit;
use crate::http::Ticket;
use crate::outbound::CallResult;
use crate::rt::Inbox;
use crate::state::changes::Done;

pub enum CoreMessage {
    /// A durable group commit, and the replies to the commands in it that came from this core.
    Batch {
        /// `None` if the batch changed nothing.
        commit: Option<Arc<Commit>>,
        replies: Vec<(Ticket, Result<Done, ApiError>)>,
    },
    /// A reply to a pending request.
    Completed {
        ticket: Ticket,
        /// Which of the replies that the request waits for.
        part: usize,
        reply: Reply,
    },
    /// A command for an agent whose connection belongs to this core.
    Agent(AgentMessage),
    /// Streamers have reported, or agents have connected or disconnected; sent to cores with lists
    /// that wait for it.
    Reported,
    /// The administrator's credentials were replaced.
    CredentialsReplaced,
    /// Polls for configurations of streamers wait for at most this long from now on.
    PollWaitMax(Duration),
    /// Another core collects the metrics of all cores.
    CollectMetrics(Completion),
    /// A thread counts the polls of all cores.
    CountPolls(Sender<PollCounts>),
    /// The process stops: parked polls are answered, running requests are finished.
    Drain,
}

/// A reply to a pending request.
pub enum Reply {
    /// The response of another server.
    Call(CallResult),
    /// A rendered body.
    Body(Result<Vec<u8>, ApiError>),
    /// The reply of an agent.
    Agent(Result<AgentReply, ApiError>),
    /// The metrics of one core.
    Metrics(Box<CoreMetrics>),
    /// What another thread has done, of the type that the request expects.
    Finished(Box<dyn Any + Send>),
}

/// Sends the reply to a pending request to its core, from any thread.
#[derive(Clone)]
pub struct Completion {
    pub inbox: Arc<Inbox<CoreMessage>>,
    pub ticket: Ticket,
    pub part: usize,
}

impl Completion {
    pub fn send(self, reply: Reply) {
        self.inbox.push(CoreMessage::Completed {
            ticket: self.ticket,
            part: self.part,
            reply,
        });
    }
}
