//! Weir: a control plane for clusters of video streaming servers.
//!
//! One sentence: a deterministic state machine behind a durable log, its state an immutable value that every core reads without locks, with plain
//! HTTP at the edge and one feed of commits that wakes the polls it concerns.
//!
//! ```text
//!          io core 0..N (one thread each: io_uring, its connections, its parked polls)          writer (one thread)
//!  socket -> http::head -> api::router -> api::auth -> handler(&State) -> Outcome
//!                                                            |  Reply -> http::response -> socket
//!                                                            |  Command ------------------> drain, state::apply each to the next State
//!                                                            |  Wait -> feed::Waiters       one batch, one durable commit (storage)
//!                       one inbox per core  <-- replies + Commit{state, touched} ---------- publish the State, tell every core once
//! ```
//!
//! Who owns what: connections, waiters and their deadlines belong to one io core and are touched by nobody else; the store and the
//! next state belong to the writer; the published [`state::State`] belongs to everybody and never changes. Nobody is told anything
//! before it is on disk. A streamer's configuration is told completely or not at all (`api::config_external`).
//!
//! The flow of a request: `http::conn` -> `api::Core::call` -> a handler in `api/` -> `api::Outcome`. The flow of a change: [`state::command::Command`] ->
//! [`writer`] -> [`state::apply`] -> `weir_storage` -> [`feed::Commit`] -> replies, parked polls.
//!
//! Deliberately not here: async in the core, locks around the state, SQL, plugins, a second way to change state, a registry of
//! global metrics.

pub mod cli;
pub mod config;
pub mod exit;
pub mod server;
pub mod stdout;

pub mod error;
pub mod limits;
pub mod metrics;
pub mod rt;

pub mod http;

pub mod json;
pub mod schema;

pub mod query;

pub mod api;
pub mod core;

pub mod state;
pub mod writer;

pub mod feed;

pub mod access;
pub mod agents;
pub mod fleet;
pub mod followers;
pub mod layouter;
pub mod outbound;
pub mod subnet;

pub mod dist;
pub mod duration;
pub mod import;

#[cfg(test)]
mod proptests;
