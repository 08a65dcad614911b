//! Episodes over HTTP: parts of streams that mean something, saved by whoever saw them and read by whoever follows.
//!
//! Stamps are the server's: a reader that asks for what is newer than the newest it has seen misses nothing, whatever the clocks of those who
//! save. Saves wait a moment to be committed together (`insert_buffer`); who is answered knows that the episode is on disk.

use super::{Call, Outcome, entity};
use crate::http::error::ApiError;
use crate::state::entity::Kind;

/// Parameters of the list that are no filters.
const PARAMETERS: &[&str] = &["poll_timeout", "dvr_presence_check"];

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::list(call, Kind::Episode, PARAMETERS)
}

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::get(call, Kind::Episode)
}

pub fn save(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::save(call, Kind::Episode)
}

pub fn delete(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::delete(call, Kind::Episode)
}
