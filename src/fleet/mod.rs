//! Streamers as peers of this server.
//!
//! `peer` builds the calls to a streamer's own API, `report` parses what a streamer reports, and
//! `stats` holds the latest stats of all streamers. `recordings` parses which times of a stream a
//! streamer has recorded.

mod healthcheck;
pub mod peer;
pub mod recordings;
mod repair;
pub mod report;
pub mod stats;
