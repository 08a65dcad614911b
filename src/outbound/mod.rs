//! Calls to other servers, made while a request waits for them.
//!
//! A bounded pool of threads with a blocking client, because an io core never blocks and never trusts: a call has one deadline for
//! everything (waiting for a thread, names, connecting, TLS, the whole answer), its answer a largest size, redirects are answers and
//! nothing more. Targets take turns, and one that does not answer holds at most half of the threads. Results go to a closure that hands
//! them to the asking core; what nobody waits for any more is not called.
//!
//! What may be reached is decided on the addresses that a name resolved to, and those same addresses are connected to: a name
//! that answers differently the second time gains nothing. Link-local and metadata addresses are never called, loopback only when
//! the settings say so, our own listeners not even then, private ranges unless the settings deny them.

mod client;
mod policy;
mod pool;
mod target;

pub use client::{Answer, Call, Failure, Method};
pub use policy::Reach;
pub use pool::{CALLS_WAITING_MAX, Cancel, Deliver, Options, Outbound};
pub use target::{Target, URL_BYTES_MAX};
