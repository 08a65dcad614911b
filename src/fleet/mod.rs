//! Streamers as peers of this server.
//!
//! `peer` builds the calls to a streamer's own API, `report` parses what a streamer reports, and
//! `stats` holds the latest stats of all streamers. `health` derives the health of streams and
//! streamers from them. `recordings` parses which times of a stream a streamer has recorded.
//! `unconfigured` has the names of streams that are reported and not configured. `queries` counts
//! what the connector does. `history` has the numbers of the last hours.

pub mod health;
pub mod healthcheck;
pub mod history;
pub mod peer;
pub mod queries;
pub mod recordings;
pub mod repair;
pub mod report;
pub mod stats;
pub mod unconfigured;
