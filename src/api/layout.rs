//! Questions about layouts over HTTP: previews, explanations, capacity.
//!
//! Nothing here changes anything. A handler checks what is asked and hands it to the [`desk`], which answers from a snapshot of the layouter.
//! While the layouter is switched off there is nothing to predict: 409.

use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use super::ANSWER_WAIT_MAX;
use super::call::{Call, Context, Outcome, Pending, Step};
use super::shared::ApiSettings;
use crate::core::message::Reply;
use crate::error::{self, ApiError};
use crate::http::Response;
use crate::layouter::whatif::worker::{Question, Supposition, layouter_disabled};
use crate::layouter::whatif::{explain, preview};
use crate::query::{Query, pairs};
use crate::state::State;
use crate::state::apply::stream_not_found;
use crate::state::command::{Command, StreamPatch, stream_items, streamer_items, streamer_patch};

/// Refuses at once what a layouter that is switched off cannot answer.
fn demand_layouter(call: &Call<'_>) -> Result<(), ApiError> {
    let config = call.shared.running.config();
    if config.settings.layouter.enabled {
        Ok(())
    } else {
        Err(layouter_disabled())
    }
}

fn supposition(
    call: &Call<'_>,
    kind: &'static crate::query::ListKind,
    commands: Vec<Command>,
) -> Result<Supposition, ApiError> {
    demand_layouter(call)?;
    // Told now what is wrong with the question, not when the answer is ready.
    Query::parse(call.request.query, kind, &[])?;
    let visible = call.visible(kind_of(kind));
    let mut asked = call.request.path.as_bytes().to_vec();
    asked.push(0);
    asked.extend_from_slice(call.request.body);
    asked.push(0);
    asked.extend_from_slice(visible.canonical().as_bytes());
    Ok(Supposition {
        commands,
        visible,
        digest: xxh3_64(&asked),
        query: Box::from(call.request.query),
    })
}

pub fn preview_stream(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let name = call.stream_name()?;
    let patch = StreamPatch::from_body(call.json()?, &name, "")?;
    let commands = vec![Command::SaveStream { name, patch }];
    let asked = supposition(call, &preview::LAYOUTS, commands)?;
    Ok(whatif(Question::Layouts(asked)))
}

pub fn preview_streams(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let items = stream_items(call.json()?)?;
    let commands = vec![Command::SaveStreams { items }];
    let asked = supposition(call, &preview::LAYOUTS, commands)?;
    Ok(whatif(Question::Layouts(asked)))
}

pub fn preview_streamer(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let hostname = call.hostname()?;
    let patch = streamer_patch(call.json()?, &hostname, "")?;
    let commands = vec![Command::SaveStreamer { hostname, patch }];
    let asked = supposition(call, &preview::LOADS, commands)?;
    Ok(whatif(Question::Loads(asked)))
}

pub fn preview_streamers(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let items = streamer_items(call.json()?)?;
    let commands = vec![Command::SaveStreamers { items }];
    let asked = supposition(call, &preview::LOADS, commands)?;
    Ok(whatif(Question::Loads(asked)))
}

pub fn preview_cluster(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let events = preview::Supposed::from_body(call.json()?)?;
    demand_layouter(call)?;
    Ok(whatif(Question::Cluster(events)))
}

pub fn capacity(call: &Call<'_>) -> Result<Outcome, ApiError> {
    demand_layouter(call)?;
    Ok(whatif(Question::Capacity))
}

pub fn explain(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let name = call.stream_name()?;
    if call.state.stream(&name).is_none() {
        return Err(stream_not_found());
    }
    demand_layouter(call)?;
    Ok(whatif(Question::Explain(name)))
}

/// Whether a list is to show what is computed only on demand. What cannot be read is left to whoever reads the whole query.
pub fn wants_decisions(raw_query: &str) -> bool {
    pairs(raw_query).flatten().any(|(name, value)| {
        let paths = value.as_deref().unwrap_or_default();
        let wanted = |path: &str| path.trim().starts_with(explain::DECISIONS);
        name == "select" && paths.split(',').any(wanted)
    })
}

/// Bounds a list of streams that shows every node's decision about each, which only the layouter can make.
pub fn bound_decisions(call: &Call<'_>, query: &mut Query) -> Result<(), ApiError> {
    demand_layouter(call)?;
    query.set_default_limit(explain::DECISIONS_LIMIT_MAX);
    if query.limit() > explain::DECISIONS_LIMIT_MAX {
        let title = "Decisions of every node are shown of at most 100 streams at once";
        return Err(error::INPUT_OUT_OF_RANGE
            .titled(title)
            .at_parameter("limit")
            .with("maximum", explain::DECISIONS_LIMIT_MAX));
    }
    Ok(())
}

/// Adds to a page of streams every node's decision about each.
pub fn with_decisions(page: Response, _: &State) -> Result<Response, Box<dyn Pending>> {
    let page = Box::from(page.body.bytes());
    Err(Box::new(WhatIf {
        question: Some(Question::Decisions { page }),
    }))
}

fn whatif(question: Question) -> Outcome {
    Outcome::Pending(Box::new(WhatIf {
        question: Some(question),
    }))
}

/// A question to the layouter.
struct WhatIf {
    question: Option<Question>,
}

impl Pending for WhatIf {
    fn wait(&self, _: &ApiSettings) -> Duration {
        ANSWER_WAIT_MAX
    }

    fn start(&mut self, context: &Context<'_>) -> Step {
        let question = self.question.take().expect("it is started once");
        let completion = context.completion(0);
        let reply = Box::new(move |answer| completion.send(Reply::Body(answer)));
        match context.shared.desk.ask(question, reply) {
            Ok(()) => Step::Wait,
            Err(error) => error.into(),
        }
    }

    fn on_reply(&mut self, _: usize, reply: Reply, _: &Context<'_>) -> Step {
        match reply {
            Reply::Body(Ok(body)) => Step::Done(Response::json(200, body)),
            Reply::Body(Err(error)) => error.into(),
            _ => Step::Wait,
        }
    }

    fn on_timeout(&mut self, _: &Context<'_>) -> Response {
        error::TIMED_OUT.error().into()
    }
}

/// The collection whose keys the items of a preview name.
fn kind_of(kind: &'static crate::query::ListKind) -> &'static str {
    if std::ptr::eq(kind, &raw const preview::LOADS) {
        "streamers"
    } else {
        "streams"
    }
}
