//! Commands on their way to the writer, and where their outcomes go.

use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError};

use super::Published;
use crate::error::{self, ApiError};
use crate::http::Ticket;
use crate::state::changes::Done;
use crate::state::command::{AuditedCommand, Command};

/// Commands that may wait for the writer. More are refused with 503: a longer wait helps no client.
pub const COMMANDS_WAITING_MAX: usize = 16 * 1024;

/// A command and where its outcome goes.
pub struct Envelope {
    pub command: AuditedCommand,
    pub reply_to: ReplyTo,
}

impl Envelope {
    /// A command whose outcome is not needed.
    pub fn unanswered(command: Command) -> Self {
        Self {
            command: command.into(),
            reply_to: ReplyTo::Discard,
        }
    }
}

/// The receiver of the outcome of a command.
pub enum ReplyTo {
    /// A request on an io core.
    Core {
        index: usize,
        ticket: Ticket,
    },
    /// Another thread, which numbers its commands.
    Thread {
        replies: Sender<(u64, Result<Done, ApiError>)>,
        id: u64,
    },
    Discard,
}

/// The sending end of the writer's queue.
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

    /// Queues a command, or returns at once why it cannot be taken.
    pub fn send(&self, envelope: Envelope) -> Result<(), ApiError> {
        if let Some(safe_mode) = self.published.safe_mode() {
            return Err(safe_mode.error());
        }
        if !self.published.is_writable() {
            return Err(store_is_down());
        }
        self.sender
            .try_send(envelope)
            .map_err(|refused| match refused {
                TrySendError::Full(_) => writer_is_busy(),
                TrySendError::Disconnected(_) => server_is_stopping(),
            })
    }
}

fn writer_is_busy() -> ApiError {
    error::WRITER_BUSY.error()
}

fn server_is_stopping() -> ApiError {
    error::SHUTTING_DOWN.error()
}

/// The error for a change that was not begun.
pub(super) fn store_is_down() -> ApiError {
    error::STORAGE_UNAVAILABLE.error()
}

/// The error for a save that has no room on a full disk.
pub(super) fn disk_is_full() -> ApiError {
    let title =
        "The disk is full; nothing was changed. Delete something, or free space on the disk";
    error::STORAGE_UNAVAILABLE.titled(title)
}

/// The error for a change that may or may not be on disk.
pub(super) fn outcome_is_unknown() -> ApiError {
    error::STORAGE_FAILED.error()
}

/// The records a command may change, for bounding a batch.
pub(super) fn weight(command: &Command) -> usize {
    match command {
        Command::SaveStreams { items } => items.len(),
        Command::ChangeSelected { items, .. } => items.len(),
        Command::SetLayouts { items } => items.len(),
        Command::Place { items } => items.len(),
        Command::EndHandovers { items } => items.len(),
        Command::SaveStreamers { items } => items.len(),
        Command::SetAgentLayouts { items } => items.len(),
        Command::ExpireEntities { due, .. } => due.len(),
        Command::OpenReportGaps { items } => items.len(),
        Command::FillReportGap(fill) => fill.weight(),
        _ => 1,
    }
}
