//! What is served: one file per resource with its handlers, and what handlers have in common.
//!
//! A handler reads a [`call::Call`] and returns a [`call::Outcome`]; it never waits and changes
//! nothing. [`endpoint::OPERATIONS`] is the table of operations; `core` carries out what a handler
//! decided.

pub mod agent;
pub mod auth_backend;
mod auth_test;
pub mod backup;
pub mod balancer;
mod balancer_rules;
pub mod browser_session;
pub mod bulk;
pub mod call;
pub mod capacity;
pub mod capacity_report;
pub mod cluster;
pub mod cluster_counts;
pub mod cluster_scan;
pub mod cluster_summary;
pub mod config;
mod config_document;
pub mod config_external;
pub mod control;
pub mod counting;
pub mod dvr;
pub mod dvr_presence;
pub mod endpoint;
pub mod entity;
pub mod episode;
pub mod etag;
pub mod event;
pub mod external_episodes;
pub mod facet_counts;
mod facets;
mod history;
pub mod layout;
pub mod layouter;
pub mod matching;
pub mod monitoring;
pub mod operation;
pub mod person;
mod playback;
mod rare_streams;
pub mod router;
pub mod running_backups;
pub mod sampling;
pub mod server_metrics;
pub mod session_auth;
pub mod settings_save;
pub mod shared;
pub mod shared_result;
pub mod srt_port;
pub mod stats;
pub mod stats_format;
pub mod stream;
pub mod stream_doc;
pub mod streamer;
pub mod streamer_check;
mod streaming_endpoint;
pub mod strict;
pub mod summary;
pub mod tagged;
pub mod token;
pub mod unconfigured;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use self::call::{Call, Collection, CompletePage, ListRequest, LocalState, Outcome};
use self::shared::Shared;
use self::tagged::tagged;
use crate::error::ApiError;
use crate::http::Response;
use crate::state::State;
use crate::state::changes::Done;
use crate::state::entity::{Key, Kind};
use crate::state::tag::{EntityTag, Versioned};

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
    let (source, tag) = match outcome {
        Ok(Done::Stream(saved)) => (
            stream_doc::render(&saved, masked, Some(around), &mut body),
            saved_tag(state, &saved, state.stream(&saved.name)),
        ),
        Ok(Done::Streamer(saved)) => (
            streamer::render(&saved, masked, Some(around.fleet), state, &mut body),
            saved_tag(state, &saved, state.streamer(&saved.hostname)),
        ),
        Ok(Done::Entity(kind, saved)) => {
            let key = Key::trusted(kind, &saved.key);
            let source = match kind {
                Kind::Agent => agent::render(&saved, masked, shared, state, &mut body),
                _ => entity::render(kind, &saved, masked, &mut body),
            };
            (
                source,
                saved_tag(state, &saved, state.entities(kind).get(&key)),
            )
        }
        Ok(Done::Pause(pause)) => return layouter::paused_response(pause.as_ref()),
        Ok(Done::Nothing | Done::Placed { .. } | Done::Selected { .. }) => {
            return Response::no_content();
        }
        Err(error) => return Response::from(error),
    };
    match tag {
        Some(tag) => tagged(tag, source, body),
        None => Response::json(200, body),
    }
}

/// The tag of a saved record. None if another change of the same commit replaced it: both have the
/// same revision, and its client must not be taken to know the other.
fn saved_tag<R: Versioned + PartialEq>(
    state: &State,
    saved: &R,
    stored: Option<&R>,
) -> Option<EntityTag> {
    let tag = saved.tag(state);
    let is_replaced = stored.is_some_and(|stored| stored.tag(state) == tag && stored != saved);
    (!is_replaced).then_some(tag)
}

pub fn now_seconds() -> u64 {
    now_ms() / 1000
}

pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}
