//! Persons over HTTP: people whose faces are recognised.
//!
//! A deletion marks: the person is shown with `deleted_at` for a while, so that every node with a
//! copy learns of it by following the stamps. Saving a deleted person brings it back.

use super::{Call, Outcome, entity};
use crate::error::ApiError;
use crate::query::params::POLL_TIMEOUT;
use crate::state::entity::Kind;

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::list(call, Kind::Person, &[&POLL_TIMEOUT])
}

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::get(call, Kind::Person)
}

pub fn save(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::save(call, Kind::Person)
}

pub fn delete(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::delete(call, Kind::Person)
}
