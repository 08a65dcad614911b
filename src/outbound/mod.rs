//! Outbound HTTP calls: those that a request waits for, and those of the connector.
//!
//! For requests a bounded pool of threads runs a blocking client, because an io core must never
//! block. A call
//! has one deadline for everything: waiting for a thread, name resolution, connecting, TLS and the
//! whole response. The size of a response is bounded, and redirects are returned, never followed.
//! Peers take turns, and one that does not respond occupies at most half of the threads. The result
//! goes to a closure that sends it to the requesting core. A cancelled call is not started.
//!
//! The connector calls thousands of streamers every few seconds, so it makes its calls on the io
//! cores (`connection`), without a thread each.
//!
//! The egress policy is checked against the addresses that a name resolved to, and only those
//! addresses are connected to, so that a second, different DNS answer gains nothing. Link-local and
//! metadata addresses are never called; loopback only if the settings allow it, but never this
//! server's own listeners; private ranges unless the settings deny them.

pub mod client;
pub mod connection;
mod deadlines;
mod dial;
mod policy;
mod pool;
mod target;

pub use client::{CallResult, OutboundCall, OutboundError};
pub use deadlines::CallDeadline;
pub use dial::Dialer;
pub use policy::EgressPolicy;
pub use pool::{CancelToken, Outbound};
pub use target::TargetUrl;

/// Stack of a calling thread: TLS and the client need about 200 KiB.
const STACK_BYTES: usize = 1024 * 1024;
