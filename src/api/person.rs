//! Persons over HTTP: people whose faces are recognised.
//!
//! A deletion is soft: the person is shown with `deleted_at` until its retention ends, so that
//! nodes that follow the stamps can delete their copy. Saving a deleted person restores it.

use super::{Call, Outcome, entity};
use crate::error::ApiError;
use crate::query::params::{self, Parameter, Seconds};
use crate::state::entity::Kind;

/// Parameters of `GET /persons`.
pub const LIST_PARAMETERS: &[&dyn Parameter] = &[&POLL_TIMEOUT];

const POLL_TIMEOUT: Seconds = params::POLL_TIMEOUT.extension();

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::polled_list(call, Kind::Person, &POLL_TIMEOUT).map(Outcome::List)
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
