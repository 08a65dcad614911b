//! Episodes over HTTP: parts of streams that mean something, saved by whoever saw them and read by whoever follows.
//!
//! Stamps are the server's: a reader that asks for what is newer than the newest it has seen misses nothing, whatever the clocks of those who
//! save. Saves wait a moment to be committed together (`insert_buffer`); who is answered knows that the episode is on disk.

use super::{Call, Outcome, dvr_presence, entity, flag, truth};
use crate::error::ApiError;
use crate::state::entity::Kind;

/// Parameters of the list that are no filters.
const PARAMETERS: &[&str] = &["poll_timeout", dvr_presence::PARAMETER];

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let mut outcome = entity::list(call, Kind::Episode, PARAMETERS)?;
    if let Outcome::List(list) = &mut outcome
        && truth(
            dvr_presence::PARAMETER,
            list.query.own(dvr_presence::PARAMETER),
        )?
    {
        list.complete = Some(dvr_presence::complete);
    }
    Ok(outcome)
}

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let is_wanted = flag(call, dvr_presence::PARAMETER)?;
    Ok(match entity::get(call, Kind::Episode)? {
        Outcome::Reply(episode) if is_wanted => match dvr_presence::complete(episode, call.state) {
            Ok(episode) => Outcome::Reply(episode),
            Err(pending) => Outcome::Pending(pending),
        },
        outcome => outcome,
    })
}

pub fn save(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::save(call, Kind::Episode)
}

pub fn delete(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::delete(call, Kind::Episode)
}
