//! Who may watch: what an authorization backend decides about a session, without I/O, clock or threads of its own.
//!
//! [`rules`] are a saved backend, compiled: its lists decide first. What they leave open its HTTP backends decide; [`answer`] reads what
//! those say, [`sessions`] remembers it for as long as they said and counts the sessions of a user. [`geo`] knows countries. Asking over
//! the network and answering the streamer is the API's business.

pub mod answer;
pub mod geo;
pub mod rights;
pub mod rules;
pub mod sessions;
