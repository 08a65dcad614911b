//! The outside world as this server calls it.

pub mod outbound;
