//! Persons over HTTP: people whose faces are recognised.
//!
//! A deletion is soft: the person is shown with `deleted_at` until its retention ends, so that
//! nodes that follow the stamps can delete their copy. Saving a deleted person restores it.

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
