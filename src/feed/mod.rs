//! From a commit to the polls that wait for it.
//!
//! Each core owns its parked polls ([`Waiters`]). A commit reaches it as one message that names
//! what was changed ([`Commit`]). No change falls between looking and parking: a poll looks at the
//! newest published state and is parked before its core does anything else, and a state is
//! published before its message is sent, so the message of every change that was not seen is still
//! to come.

pub mod nodes;
pub mod paged_snapshots;
pub mod rendered;

mod commit;
mod waiters;

pub use self::commit::Commit;
pub use self::waiters::{NodePoll, QueryId, Subject, Waiters};
