//! Agents: devices behind NAT that dial in and relay video.
//!
//! `protocol` is the control protocol and `handshake` its authentication, both without I/O. The
//! `registry` has the connections of all cores; `messages` is what the cores send each other
//! about them; `streampoint` is where an agent sends its video, `refusals` limits
//! events.

pub mod handshake;
pub mod messages;
pub mod protocol;
pub mod refusals;
pub mod registry;
pub mod streampoint;
