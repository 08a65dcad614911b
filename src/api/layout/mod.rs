//! Questions about layouts over HTTP: previews, explanations, capacity.
//!
//! Nothing here changes anything. A handler checks what is asked and hands it to the [`desk`], which answers from a snapshot of the layouter.
//! While the layouter is switched off there is nothing to predict: 409.

mod answers;
mod capacity;
pub mod desk;
mod explain;
pub mod preview;

use xxhash_rust::xxh3::xxh3_64;

use self::desk::{Question, Supposition, layouter_disabled};
use super::{Call, Outcome};
use crate::error::{self, ApiError};
use crate::query::{Query, pairs};
use crate::state::apply::stream_not_found;
use crate::state::command::{Command, StreamPatch, stream_items, streamer_items, streamer_patch};

/// Refuses at once what a layouter that is switched off cannot answer.
fn demand_layouter(call: &Call<'_>) -> Result<(), ApiError> {
    let config = call.core.shared().running.config();
    if config.settings.layouter.enabled {
        Ok(())
    } else {
        Err(layouter_disabled())
    }
}

fn supposition(
    call: &Call<'_>,
    kind: &'static crate::query::Kind,
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
    Ok(Outcome::AskLayouter(Question::Layouts(asked)))
}

pub fn preview_streams(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let items = stream_items(call.json()?)?;
    let commands = vec![Command::SaveStreams { items }];
    let asked = supposition(call, &preview::LAYOUTS, commands)?;
    Ok(Outcome::AskLayouter(Question::Layouts(asked)))
}

pub fn preview_streamer(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let hostname = call.hostname()?;
    let patch = streamer_patch(call.json()?, &hostname, "")?;
    let commands = vec![Command::SaveStreamer { hostname, patch }];
    let asked = supposition(call, &preview::LOADS, commands)?;
    Ok(Outcome::AskLayouter(Question::Loads(asked)))
}

pub fn preview_streamers(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let items = streamer_items(call.json()?)?;
    let commands = vec![Command::SaveStreamers { items }];
    let asked = supposition(call, &preview::LOADS, commands)?;
    Ok(Outcome::AskLayouter(Question::Loads(asked)))
}

pub fn preview_cluster(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let events = preview::Supposed::from_body(call.json()?)?;
    demand_layouter(call)?;
    Ok(Outcome::AskLayouter(Question::Cluster(events)))
}

pub fn capacity(call: &Call<'_>) -> Result<Outcome, ApiError> {
    demand_layouter(call)?;
    Ok(Outcome::AskLayouter(Question::Capacity))
}

pub fn explain(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let name = call.stream_name()?;
    if call.state.stream(&name).is_none() {
        return Err(stream_not_found());
    }
    demand_layouter(call)?;
    Ok(Outcome::AskLayouter(Question::Explain(name)))
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

/// The collection whose keys the items of a preview name.
fn kind_of(kind: &'static crate::query::Kind) -> &'static str {
    if std::ptr::eq(kind, &raw const preview::LOADS) {
        "streamers"
    } else {
        "streams"
    }
}
