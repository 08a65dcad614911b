//! Authorization backends: the rules by which viewers are let in, saved under the name that streams use (`auth://NAME`).
//!
//! What the rules mean is in `access::rules`, what is decided by them in `session_auth`.

use super::{Call, Outcome, entity};
use crate::error::ApiError;
use crate::state::entity::Kind;

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::list(call, Kind::AuthBackend, &[])
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
