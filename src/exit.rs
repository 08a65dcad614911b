//! How the program ends: exit codes, and a message for why.

use std::fmt;
use std::process::{ExitCode, Termination};

/// How the program ends. Supervisors act on these, so a number never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    /// Something failed while running.
    Runtime = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The store cannot be read or written (`EX_IOERR`).
    Storage = 74,
    /// Another process has the data directory (`EX_TEMPFAIL`).
    Locked = 75,
    /// A setting is wrong (`EX_CONFIG`).
    Config = 78,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// Why the program ends early: a message for people, a code for supervisors.
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
