//! Authorization backends: rules for the admission of viewers, used by streams as `auth://NAME`.
//!
//! `access::rules` evaluates the rules; `session_auth` answers requests of streamers with them.

use super::{Call, Outcome, entity};
use crate::error::ApiError;
use crate::state::entity::Kind;

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::list(call, Kind::AuthBackend).map(Outcome::List)
}

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::get(call, Kind::AuthBackend)
}

pub fn save(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::save(call, Kind::AuthBackend)
}

pub fn delete(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::delete(call, Kind::AuthBackend)
}
