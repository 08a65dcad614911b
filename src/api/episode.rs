//! Episodes over HTTP: parts of streams that mean something, saved by whoever saw them and read by whoever follows.
//!
//! Stamps are the server's: a reader that asks for what is newer than the newest it has seen misses nothing, whatever the clocks of those who
//! save. Saves wait a moment to be committed together (`insert_buffer`); who is answered knows that the episode is on disk.

use super::query::pairs;
use super::{Call, Outcome, dvr_presence, entity};
use crate::http::error::ApiError;
use crate::state::entity::Kind;

/// Parameters of the list that are no filters.
const PARAMETERS: &[&str] = &["poll_timeout", dvr_presence::PARAMETER];

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let outcome = entity::list(call, Kind::Episode, PARAMETERS)?;
    if let Outcome::List { query, .. } = &outcome {
        dvr_presence::is_wanted(query.own(dvr_presence::PARAMETER))?;
    }
    Ok(outcome)
}

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let mut check = None;
    for (name, value) in pairs(call.request.query).filter_map(Result::ok) {
        if name == dvr_presence::PARAMETER {
            check = Some(value.unwrap_or("true".into()));
        }
    }
    let is_wanted = dvr_presence::is_wanted(check.as_deref())?;
    Ok(match entity::get(call, Kind::Episode)? {
        Outcome::Reply(episode) if is_wanted => Outcome::CheckPresence(episode),
        outcome => outcome,
    })
}

pub fn save(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::save(call, Kind::Episode)
}

pub fn delete(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::delete(call, Kind::Episode)
}
