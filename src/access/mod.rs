//! Decisions about callers of the API and about viewers, without I/O, a clock or threads.
//!
//! [`auth`] decides who sent a request and whether it may; [`token`] has the compiled API tokens,
//! and [`rights`] their permissions; [`digests`] remembers the hashes of accepted keys.
//! [`browser_sessions`] has the sessions of the web interface. A viewer's
//! session is decided by an authorization backend: [`rules`] are its lists, which decide first
//! ([`compiled`] keeps them); otherwise its HTTP backends decide. [`answer`] parses their
//! responses, and [`sessions`] caches the decisions and counts the sessions of a user. [`geo`]
//! looks up countries. The calls to the backends and the response to the streamer are made in
//! `api`.

pub mod answer;
pub mod auth;
pub mod browser_sessions;
pub mod compiled;
mod digests;
pub mod geo;
pub mod guesses;
pub mod rights;
pub mod rules;
pub mod sessions;
pub mod token;
