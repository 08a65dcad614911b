//! Previews, verdicts, explanations and capacity over HTTP.
//!
//! Handlers check requests and return queries for the what-if worker, which answers from a snapshot
//! of the layouter. While the layouter is disabled the answer is 409.

use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use super::ANSWER_WAIT_MAX;
use super::call::{Call, Context, Outcome, Pending, Step, TraceFields};
use super::shared::ApiSettings;
use crate::core::message::Reply;
use crate::error::{self, ApiError};
use crate::http::Response;
use crate::layouter::whatif::assumed::AssumedEvent;
use crate::layouter::whatif::consequences::PreviewVisibility;
use crate::layouter::whatif::worker::{PreviewRequest, WhatIfQuery, layouter_disabled};
use crate::layouter::whatif::{explain, preview};
use crate::query::params::{Choice, Parameter, ParameterValues as _};
use crate::query::{Query, pairs};
use crate::state::State;
use crate::state::apply::{stream_not_found, streamer_not_found};
use crate::state::batch::BatchItems;
use crate::state::command::{
    Command, LayoutPatch, MaintenanceRequest, StreamPatch, stream_items, streamer_items,
    streamer_patch,
};
use crate::state::name::{Hostname, StreamName};
use crate::state::tag::{Precondition, judge};

/// Refuses queries while the layouter is disabled.
pub fn require_layouter(call: &Call<'_>) -> Result<(), ApiError> {
    let config = call.shared.settings.running.config();
    if config.settings.layouter.enabled {
        Ok(())
    } else {
        Err(layouter_disabled())
    }
}

/// What a preview may show the caller.
pub fn preview_visibility(call: &Call<'_>) -> PreviewVisibility {
    PreviewVisibility {
        streams: call.visible("streams"),
        streamers: call.visible("streamers"),
    }
}

fn preview_request(
    call: &Call<'_>,
    kind: &'static crate::query::ListKind,
    commands: Vec<Command>,
) -> Result<PreviewRequest, ApiError> {
    require_layouter(call)?;
    // Errors in the query string are reported at once, not by the worker.
    call.query(kind)?;
    let visible = preview_visibility(call);
    let mut bytes = call.request.path.as_bytes().to_vec();
    bytes.push(0);
    bytes.extend_from_slice(call.request.body);
    bytes.push(0);
    for visible in [&visible.streams, &visible.streamers] {
        bytes.extend_from_slice(visible.canonical().as_bytes());
        bytes.push(0);
    }
    Ok(PreviewRequest {
        commands,
        visible,
        digest: xxh3_64(&bytes),
        query: Box::from(call.request.query),
    })
}

pub fn preview_stream(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let name = call.stream_name()?;
    let patch = StreamPatch::from_body(call.json()?, &name, "")?;
    let commands = vec![Command::SaveStream { name, patch }];
    let request = preview_request(call, &preview::LAYOUTS, commands)?;
    Ok(whatif(WhatIfQuery::Layouts(request)))
}

pub fn preview_streams(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let items = stream_items(call.json()?)?;
    let commands = vec![Command::SaveStreams { items }];
    let request = preview_request(call, &preview::LAYOUTS, commands)?;
    Ok(whatif(WhatIfQuery::Layouts(request)))
}

pub fn preview_streamer(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let hostname = call.hostname()?;
    let patch = streamer_patch(call.json()?, &hostname, "")?;
    let commands = vec![Command::SaveStreamer { hostname, patch }];
    let request = preview_request(call, &preview::LOADS, commands)?;
    Ok(whatif(WhatIfQuery::Loads(request)))
}

pub fn preview_streamers(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let items = streamer_items(call.json()?)?;
    let commands = vec![Command::SaveStreamers { items }];
    let request = preview_request(call, &preview::LOADS, commands)?;
    Ok(whatif(WhatIfQuery::Loads(request)))
}

pub fn preview_cluster(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let events = AssumedEvent::from_body(call.json()?)?;
    require_layouter(call)?;
    Ok(whatif(WhatIfQuery::Cluster(
        events,
        preview_visibility(call),
    )))
}

/// The consequences of the maintenance of a streamer.
pub fn preview_maintenance(
    call: &Call<'_>,
    hostname: Hostname,
    wanted: MaintenanceRequest,
) -> Result<Outcome, ApiError> {
    require_layouter(call)?;
    if call.state.streamer(&hostname).is_none() {
        return Err(streamer_not_found());
    }
    let visible = preview_visibility(call);
    Ok(whatif(WhatIfQuery::Maintenance(hostname, wanted, visible)))
}

/// Answers which of these layouts the layouter would undo, and sets none.
pub fn verdicts(
    call: &Call<'_>,
    items: BatchItems<StreamName, LayoutPatch>,
    conditions: &[Precondition],
) -> Result<Outcome, ApiError> {
    require_layouter(call)?;
    judge(call.state, conditions)?;
    Ok(whatif(WhatIfQuery::Verdicts(items)))
}

pub const EXPLAIN_PARAMETERS: &[&dyn Parameter] = &[&GROUP];

const GROUP: Choice = Choice::new(
    "group",
    &["reasons"],
    "`reasons` counts the nodes by their reasons in `groups` and names the best ones only, so that \
     the answer does not grow with the cluster.",
)
.example(r#""reasons""#);

pub fn explain(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let name = call.stream_name()?;
    let grouped = call.choice(&GROUP)?.is_some();
    if call.state.stream(&name).is_none() {
        return Err(stream_not_found());
    }
    require_layouter(call)?;
    Ok(whatif(WhatIfQuery::Explain { name, grouped }))
}

/// Whether a list selects the layout decisions. Errors in the query string are left to the query
/// parser.
pub fn wants_decisions(raw_query: &str) -> bool {
    pairs(raw_query).flatten().any(|(name, value)| {
        let paths = value.as_deref().unwrap_or_default();
        let wanted = |path: &str| path.trim().starts_with(explain::DECISIONS);
        name == "select" && paths.split(',').any(wanted)
    })
}

/// Bounds a list of streams with every node's decision about each, which the layouter computes.
pub fn bound_decisions(call: &Call<'_>, query: &mut Query) -> Result<(), ApiError> {
    require_layouter(call)?;
    query.set_default_limit(explain::DECISIONS_LIMIT_MAX);
    if query.limit() > explain::DECISIONS_LIMIT_MAX {
        let allowed = "must be at most 100 in a list with layout decisions";
        return Err(error::INPUT_OUT_OF_RANGE
            .about_parameter("limit", allowed)
            .with("maximum", explain::DECISIONS_LIMIT_MAX));
    }
    Ok(())
}

/// Adds to a page of streams every node's decision about each.
pub fn with_decisions(
    page: Response,
    _: &State,
    _: &TraceFields,
) -> Result<Response, Box<dyn Pending>> {
    let page = Box::from(page.body.bytes());
    Err(Box::new(WhatIf {
        query: Some(WhatIfQuery::Decisions { page }),
    }))
}

fn whatif(query: WhatIfQuery) -> Outcome {
    Outcome::Pending(Box::new(WhatIf { query: Some(query) }))
}

/// A query that waits for the what-if worker.
struct WhatIf {
    query: Option<WhatIfQuery>,
}

impl Pending for WhatIf {
    fn wait(&self, _: &ApiSettings) -> Duration {
        ANSWER_WAIT_MAX
    }

    fn start(&mut self, context: &Context<'_>) -> Step {
        let query = self.query.take().expect("it is started once");
        let completion = context.completion(0);
        let reply = Box::new(move |answer, _| completion.send(Reply::Body(answer)));
        match context.shared.layouter.whatif.query(query, reply) {
            Ok(()) => Step::Wait,
            Err(error) => error.into(),
        }
    }

    fn on_reply(&mut self, _: usize, reply: Reply, _: &Context<'_>) -> Step {
        Step::of_body(reply)
    }

    fn depends_on_visibility(&self) -> bool {
        true
    }

    fn on_timeout(&mut self, _: &Context<'_>) -> Response {
        error::TIMED_OUT.error().into()
    }
}
