//! What is served: one file per resource with its handlers, and what handlers have in common.
//!
//! A handler reads a [`call::Call`] and returns a [`call::Outcome`]; it never waits and changes
//! nothing. [`endpoint::OPERATIONS`] is the table of operations; `core` carries out what a handler
//! decided.

pub mod agent;
pub mod auth_backend;
pub mod balancer;
pub mod call;
pub mod cluster;
pub mod config;
mod config_document;
pub mod config_external;
pub mod control;
pub mod dvr;
pub mod dvr_presence;
pub mod endpoint;
pub mod entity;
pub mod episode;
pub mod event;
pub mod external_episodes;
pub mod layout;
pub mod monitoring;
pub mod operation;
pub mod person;
pub mod router;
pub mod server_metrics;
pub mod session_auth;
pub mod settings_save;
pub mod shared;
pub mod srt_port;
pub mod stats;
pub mod stats_format;
pub mod stream;
pub mod stream_doc;
pub mod streamer;
pub mod streamer_check;
pub mod token;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use self::call::{Call, Collection, CompletePage, ListRequest, LocalState, Outcome};
use self::shared::Shared;
use crate::error::ApiError;
use crate::http::Response;
use crate::state::State;
use crate::state::changes::Done;
use crate::state::entity::Kind;

/// Deadline of a reply by another thread; its client then gets 503 `timed_out`.
const ANSWER_WAIT_MAX: Duration = Duration::from_mins(1);

/// The answer to a command.
pub fn done(
    outcome: Result<Done, ApiError>,
    masked: bool,
    shared: &Shared,
    state: &State,
) -> Response {
    let around = shared.around(state, shared.fleet.view(std::time::Instant::now()));
    let mut body = Vec::new();
    match outcome {
        Ok(Done::Stream(saved)) => stream_doc::render(&saved, masked, Some(around), &mut body),
        Ok(Done::Streamer(saved)) => {
            streamer::render(&saved, masked, Some(around.fleet), &mut body);
        }
        Ok(Done::Entity(Kind::Agent, saved)) => {
            body = agent::render(&saved, masked, shared, state);
        }
        Ok(Done::Entity(kind, saved)) => entity::render(kind, &saved, masked, &mut body),
        Ok(Done::Nothing | Done::Placed { .. }) => return Response::no_content(),
        Err(error) => return Response::from(error),
    }
    Response::json(200, body)
}

pub fn now_seconds() -> u64 {
    now_ms() / 1000
}

pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}
