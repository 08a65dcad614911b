//! Presence of episodes in the archive, queried from the streamers before a response is sent.
//!
//! With `dvr_presence_check`, a response with episodes waits until the ingest nodes of their
//! streams have reported their recorded times, or until a timeout. There is one call per stream and
//! a bounded number of calls per response; without a report the members stay absent. Responses of
//! streamers are untrusted input: bounded, parsed strictly, and used for these two members only.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::call::{Context, Pending, Step, TraceFields};
use super::shared::ApiSettings;
use crate::core::message::Reply;
use crate::fleet::peer;
use crate::fleet::recordings::{Recorded, ranges_path};
use crate::http::Response;
use crate::json::{self, Value};
use crate::outbound::{CallResult, CancelToken, OutboundCall};
use crate::query::params::Flag;
use crate::state::State;
use crate::state::entity::{Key, Kind};
use crate::state::record::ArchivedFacts;
use crate::state::report_gap::Span;

pub const DVR_PRESENCE_CHECK: Flag = Flag::new(
    "dvr_presence_check",
    false,
    "Also query the streamers whether the archive has a recording of the time; the result is in \
     `has_dvr` and `recording_status`. Takes longer.",
)
.example("true");
/// Deadline for all calls of one response.
pub const WAIT: Duration = Duration::from_secs(3);
/// Most calls for one response; episodes of further streams stay without these members.
const CALLS_MAX: usize = 32;
/// Largest response of a streamer: about 40,000 recorded times.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// A response that waits for streamers. Dropping it cancels its calls.
pub struct DvrPresence {
    body: Value,
    /// By episode id: the number of the call, and the period.
    episodes: HashMap<u64, (usize, Span)>,
    recorded: Vec<Option<Recorded>>,
    pending: usize,
    /// Calls that are not started yet.
    calls: Vec<(usize, OutboundCall)>,
    cancel: CancelToken,
}

impl Drop for DvrPresence {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl DvrPresence {
    /// Prepares the calls for the episodes of a response. `None` if no streamer can be called.
    fn of(body: &[u8], state: &State, now_seconds: u64, deadline: Instant) -> Option<Self> {
        let body = json::parse(body).expect("a response of this server is JSON");
        let mut episodes = HashMap::new();
        let mut parts: HashMap<&str, Option<usize>> = HashMap::new();
        let mut calls = Vec::new();
        for episode in list(&body) {
            let Some(id) = episode.get("episode_id").and_then(Value::as_u64) else {
                continue;
            };
            let Some(record) = state.entities(Kind::Episode).get(&Key::Number(id)) else {
                continue;
            };
            let ArchivedFacts::Episode {
                media,
                opened_at,
                closed_at,
                ..
            } = &record.facts
            else {
                continue;
            };
            let part = *parts.entry(media.as_str()).or_insert_with(|| {
                let part = calls.len();
                let call = (part < CALLS_MAX)
                    .then(|| call(state, media, now_seconds, deadline))
                    .flatten()?;
                calls.push((part, call));
                Some(part)
            });
            let Some(part) = part else { continue };
            let until = closed_at.as_ref().unwrap_or(&record.updated_at);
            let span = Span {
                from: opened_at.to_native(),
                to: until.to_native().max(opened_at.to_native()),
            };
            episodes.insert(id, (part, span));
        }
        let presence = Self {
            body,
            episodes,
            recorded: calls.iter().map(|_| None).collect(),
            pending: calls.len(),
            calls,
            cancel: CancelToken::default(),
        };
        (presence.pending > 0).then_some(presence)
    }

    /// Stores the report of a streamer. Returns true when no call is pending.
    fn receive(&mut self, part: usize, outcome: CallResult) -> bool {
        self.pending = self.pending.saturating_sub(1);
        let answer = outcome.ok().filter(|answer| answer.status == 200);
        if let Some(recorded) = self.recorded.get_mut(part) {
            *recorded = answer.and_then(|answer| Recorded::parse(&answer.body));
        }
        self.pending == 0
    }

    /// The response with the reports received so far.
    fn conclude(&mut self) -> Response {
        let mut body = std::mem::take(&mut self.body);
        for episode in list_mut(&mut body) {
            let id = episode.get("episode_id").and_then(Value::as_u64);
            let Some((part, span)) = id.and_then(|id| self.episodes.get(&id)) else {
                continue;
            };
            let recorded = self.recorded[*part].as_ref();
            let Some(coverage) = recorded.and_then(|recorded| recorded.coverage(*span)) else {
                continue;
            };
            if let Value::Object(episode) = episode {
                episode.insert("has_dvr", Value::Bool(coverage.has_dvr()));
                if let Some(status) = coverage.status() {
                    episode.insert("recording_status", Value::from(status));
                }
            }
        }
        let mut text = Vec::new();
        body.write(&mut text);
        Response::json(200, text)
    }
}

impl Pending for DvrPresence {
    fn wait(&self, _: &ApiSettings) -> Duration {
        // The calls have their own deadline; this covers stalled threads.
        WAIT + Duration::from_secs(1)
    }

    fn start(&mut self, context: &Context<'_>) -> Step {
        for (part, call) in std::mem::take(&mut self.calls) {
            context.call(part, call, &self.cancel);
        }
        Step::Wait
    }

    fn on_reply(&mut self, part: usize, reply: Reply, _: &Context<'_>) -> Step {
        if let Reply::Call(result) = reply
            && self.receive(part, result)
        {
            return Step::Done(self.conclude());
        }
        Step::Wait
    }

    fn on_timeout(&mut self, _: &Context<'_>) -> Response {
        self.conclude()
    }
}

/// Adds `has_dvr` and `recording_status` to a page of episodes, possibly after calls to streamers.
pub fn complete(
    page: Response,
    state: &State,
    trace: &TraceFields,
) -> Result<Response, Box<dyn Pending>> {
    let deadline = Instant::now() + WAIT;
    match DvrPresence::of(page.body.bytes(), state, super::now_seconds(), deadline) {
        None => Ok(page),
        Some(mut presence) => {
            for (_, call) in &mut presence.calls {
                call.headers.extend(trace.iter().cloned());
            }
            Err(Box::new(presence))
        }
    }
}

fn list(body: &Value) -> &[Value] {
    match body.get("episodes").and_then(Value::as_array) {
        Some(list) => list,
        None => std::slice::from_ref(body),
    }
}

fn list_mut(body: &mut Value) -> &mut [Value] {
    if body
        .get("episodes")
        .is_some_and(|list| list.as_array().is_some())
    {
        match body.get_mut("episodes") {
            Some(Value::Array(list)) => list,
            _ => &mut [],
        }
    } else {
        std::slice::from_mut(body)
    }
}

/// The call to the ingest node of a stream; `None` if it cannot be called.
fn call(state: &State, media: &str, now_seconds: u64, deadline: Instant) -> Option<OutboundCall> {
    let streamer = state.streamer(state.stream(media)?.ingest()?)?;
    let path = ranges_path(media);
    peer::get(streamer, &path, now_seconds, deadline, ANSWER_BYTES_MAX)
}
