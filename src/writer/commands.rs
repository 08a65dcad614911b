//! Commands on their way to the writer, and where their outcomes go.

use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError};

use super::Published;
use crate::http::Ticket;
use crate::http::error::ApiError;
use crate::state::command::{Asked, Command, Done};

/// Commands that may wait for the writer; more are refused with 503, because waiting longer than one batch helps nobody.
pub const COMMANDS_WAITING_MAX: usize = 16 * 1024;

/// A command and who waits for it.
pub struct Envelope {
    pub asked: Asked,
    pub reply_to: ReplyTo,
}

/// Where the outcome of a command goes.
pub enum ReplyTo {
    /// A request on an io core.
    Core {
        index: usize,
        ticket: Ticket,
    },
    /// Another thread, which gives its commands numbers.
    Thread {
        replies: Sender<(u64, Result<Done, ApiError>)>,
        id: u64,
    },
    Nobody,
}

/// Where io cores put commands.
#[derive(Clone)]
pub struct Commands {
    pub(super) sender: Sender<Envelope>,
    pub(super) published: Arc<Published>,
}

impl Commands {
    /// Commands that wait for the writer.
    pub fn waiting(&self) -> usize {
        self.sender.len()
    }

    /// Hands a command over or says at once why it cannot be taken.
    pub fn send(&self, envelope: Envelope) -> Result<(), ApiError> {
        if !self.published.is_writable() {
            return Err(store_is_down());
        }
        self.sender
            .try_send(envelope)
            .map_err(|refused| match refused {
                TrySendError::Full(_) => ApiError::unavailable(
                    "writer_busy",
                    "More changes are waiting than can be written in time; repeat the request",
                    1,
                ),
                TrySendError::Disconnected(_) => ApiError::unavailable(
                    "shutting_down",
                    "The server is stopping; repeat the request",
                    1,
                ),
            })
    }
}

pub(super) fn store_is_down() -> ApiError {
    ApiError::unavailable(
        "storage_unavailable",
        "The store does not take writes at present; nothing was changed",
        2,
    )
}

pub(super) fn outcome_unknown() -> ApiError {
    let title = "The store failed while this change was being written; it may or may not have taken effect. Repeat the request";
    ApiError::unavailable("storage_failed", title, 2)
}

pub(super) fn weight(command: &Command) -> usize {
    match command {
        Command::SaveStreams { items } => items.len(),
        Command::SetLayouts { items } => items.len(),
        Command::Place { items } => items.len(),
        Command::SaveStreamers { items } => items.len(),
        Command::SetAgentLayouts { items } => items.len(),
        Command::KeepHouse { looked, .. } => looked.len(),
        _ => 1,
    }
}
