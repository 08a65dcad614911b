//! Agents: devices behind NAT that dial in and relay video.
//!
//! `protocol` is the control protocol and `handshake` its authentication, both without I/O. `registry` holds the connected agents of all cores;
//! `messages` are what cores exchange about them.

pub mod handshake;
pub mod messages;
pub mod protocol;
pub mod registry;
