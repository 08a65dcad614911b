//! Streamers as peers of this server: how they are called (`peer`), what they report (`report`), and what of it holds (`stats`).

pub mod peer;
pub mod report;
pub mod stats;
