//! The outside world: streamers and others as this server calls them, agents as they call it.
//!
//! `outbound` makes requests. `agents` is what is spoken with agents, without I/O, with its `handshake`; `presence` is which of them are
//! connected where, shared by all cores, and `switchboard` how cores reach an agent on another one. `peer` is how a streamer is called, `stats`
//! what streamers reported last, `publications` what of it makes episodes.

pub mod agents;
pub mod handshake;
pub mod outbound;
pub mod peer;
pub mod presence;
pub mod publications;
pub mod stats;
pub mod switchboard;
