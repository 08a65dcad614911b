//! Episodes over HTTP: annotated times of streams, saved by detectors and read by pollers.
//!
//! This server assigns the stamps: a reader that requests episodes newer than the newest that it
//! has received misses none, whatever the clocks of the clients that save them. Saves wait up to
//! the buffer delay and are committed together (`insert_buffer`); the response is sent after the
//! fsync.

use super::dvr_presence::{self, DVR_PRESENCE_CHECK};
use super::{Call, Outcome, entity};
use crate::error::ApiError;
use crate::http::Response;
use crate::query::params::{
    EngineParameter, POLL_TIMEOUT, Parameter, ParameterValues as _, ValueKind,
};
use crate::state::entity::Kind;

/// Parameters of `GET /episodes`.
pub const LIST_PARAMETERS: &[&dyn Parameter] = &[
    &EPISODE_TYPE,
    &MEDIA,
    &UPDATED_AFTER,
    &POLL_TIMEOUT,
    &DVR_PRESENCE_CHECK,
];

const EPISODE_TYPE: EngineParameter = EngineParameter::new(
    "episode_type",
    ValueKind::Text,
    "Only episodes of these types, joined by commas.",
)
.example(r#""face""#);
const MEDIA: EngineParameter = EngineParameter::new(
    "media",
    ValueKind::Text,
    "Only episodes of these streams, joined by commas.",
)
.example(r#""harbour/cam1""#);
const UPDATED_AFTER: EngineParameter = EngineParameter::new(
    "updated_at_gt",
    ValueKind::Moment,
    "Only episodes that changed after this moment.",
)
.example("1637094994000");

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let mut list = entity::polled_list(call, Kind::Episode, &POLL_TIMEOUT)?;
    if list.query.flag(&DVR_PRESENCE_CHECK)? {
        list.complete = Some(dvr_presence::complete);
    }
    Ok(Outcome::List(list))
}

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let is_wanted = call.flag(&DVR_PRESENCE_CHECK)?;
    if !is_wanted {
        return entity::get(call, Kind::Episode);
    }
    // Without a tag: what the streamers report is not stored here.
    let episode = entity::found(call, Kind::Episode)?;
    let mut body = Vec::new();
    entity::render(Kind::Episode, episode, call.masks(), &mut body);
    let episode = Response::json(200, body);
    Ok(
        match dvr_presence::complete(episode, call.state, &call.trace_fields()) {
            Ok(episode) => Outcome::Reply(episode),
            Err(pending) => Outcome::Pending(pending),
        },
    )
}

pub fn save(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::save(call, Kind::Episode)
}

pub fn delete(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::delete(call, Kind::Episode)
}
