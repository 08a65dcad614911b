//! How the process ends: exit codes, and failures with a message.

use std::fmt;
use std::process::{ExitCode, Termination};

/// The exit codes. Supervisors rely on them, so a number never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    /// An error while running.
    Runtime = 1,
    /// The command line is invalid.
    Usage = 2,
    /// The answer is bad news: a streamer is down, a stream has no place, a server is not ready.
    Unhealthy = 3,
    /// `weir diff` found differences.
    Different = 4,
    /// The object was changed meanwhile, or the state of the server does not allow the change.
    Conflict = 5,
    /// The store cannot be read or written (`EX_IOERR`).
    Storage = 74,
    /// Another process uses the data directory (`EX_TEMPFAIL`).
    Locked = 75,
    /// A setting is invalid (`EX_CONFIG`).
    Config = 78,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// Why the process ends: a message for the operator and an exit code for the supervisor.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "weir: {}", self.message)
    }
}

impl std::error::Error for Failure {}

/// Turns an error into a failure at run time, `cannot {what}: {error}`.
pub fn cannot<E: fmt::Display>(what: impl fmt::Display) -> impl FnOnce(E) -> Failure {
    move |error| Failure::new(Exit::Runtime, format!("cannot {what}: {error}"))
}
