//! Streams: their configuration and their layout, over HTTP.
//!
//! The document of a stream is its *effective* configuration (defaults filled in), `config_on_disk`
//! (as the operator stored it), its layout, its stamp and, while a streamer reports it or it is
//! relayed by an agent, its `stats`. An administrator who reads one stream sees its secrets; lists
//! mask them, both in their documents and for filters and orders.

use std::borrow::Cow;
use std::ops::Bound;

use super::shared::Shared;
use super::stream_doc::{
    CLIENT_IP, INCLUDE_INGEST_HISTORY, KIND, LayoutNow, SCHEME, SEARCH, render, render_layout,
};
use super::{Call, Collection, CompletePage, ListRequest, Outcome, unconfigured};
use crate::error::ApiError;
use crate::http::Response;
use crate::json::{FieldType, scan};
use crate::query::params::{
    EngineParameter, Flag, POLL_TIMEOUT, Parameter, ParameterValues as _, ValueKind,
};
use crate::query::{Document, Execution, KeyOrder, ListField, ListKind, Raw, Source};
use crate::state::apply::stream_not_found;
use crate::state::command::{Command, StreamPatch, layout_items, stream_items};
use crate::state::name::StreamName;
use crate::state::record::{ArchivedLayout, StreamRecord};
use crate::state::tag::{EntityName, Versioned as _, take_item_conditions};

/// Parameters of `GET /streams`.
pub const LIST_PARAMETERS: &[&dyn Parameter] = &[
    &SEARCH,
    &POLL_TIMEOUT,
    &SCHEME,
    &CLIENT_IP,
    &INCLUDE_INGEST_HISTORY,
];

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let mut query = call.query(&KIND)?;
    query.choice(&SCHEME)?;
    query.text(&CLIENT_IP)?;
    query.flag(&INCLUDE_INGEST_HISTORY)?;
    if unconfigured::is_wanted(call, &query)? {
        let list = ListRequest::new(Collection::Unconfigured, query);
        return Ok(Outcome::List(list));
    }
    let mut complete: Option<CompletePage> = None;
    if super::layout::wants_decisions(call.request.query) {
        super::layout::bound_decisions(call, &mut query)?;
        complete = Some(super::layout::with_decisions);
    }
    let wait = call.poll_wait(&POLL_TIMEOUT)?;
    Ok(Outcome::List(ListRequest {
        wait,
        complete,
        ..ListRequest::new(Collection::Streams, query)
    }))
}

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let Some(stream) = call.state.stream(call.parameter) else {
        // A text that cannot be a name gets another error than a name that no stream has.
        return Err(call.stream_name().err().unwrap_or_else(stream_not_found));
    };
    let mut body = Vec::new();
    let source = render(stream, call.masks(), Some(call.around()), &mut body);
    let answer = call.entity_answer(stream.tag(call.state), source, body)?;
    Ok(Outcome::Reply(answer))
}

pub fn save(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let name = call.stream_name()?;
    let mut patch = StreamPatch::from_body(call.json()?, &name, "")?;
    if let Some(layout) = &mut patch.layout {
        layout.hands_over = may_hand_over(call, &name);
    }
    Ok(Outcome::Command(Command::SaveStream { name, patch }))
}

pub fn delete(call: &Call<'_>) -> Result<Outcome, ApiError> {
    Ok(Outcome::Command(Command::DeleteStream {
        name: call.stream_name()?,
    }))
}

pub fn save_batch(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let mut body = call.json()?;
    let conditions = take_item_conditions(&mut body, "", "name", stream_named)?;
    let mut items = call.batch(stream_items(body)?)?;
    for (name, patch) in items.iter_mut() {
        if let Some(layout) = &mut patch.layout {
            layout.hands_over = may_hand_over(call, name);
        }
    }
    Ok(Outcome::Batch(Command::SaveStreams { items }, conditions))
}

/// Parameters of `POST /streams/layouts`.
pub const SET_LAYOUTS_PARAMETERS: &[&dyn Parameter] = &[&DRY_RUN];

const DRY_RUN: Flag = Flag::new(
    "dry_run",
    false,
    "`true` sets nothing and answers which of the layouts the layouter would undo.",
)
.example("true")
.extension();

pub fn set_layouts(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let mut body = call.json()?;
    let conditions = take_item_conditions(&mut body, "/layouts", "name", stream_named)?;
    let mut items = call.batch(layout_items(body)?)?;
    for (name, layout) in items.iter_mut() {
        layout.hands_over = may_hand_over(call, name);
    }
    if call.flag(&DRY_RUN)? {
        return super::layout::verdicts(call, items, &conditions);
    }
    Ok(Outcome::Batch(Command::SetLayouts { items }, conditions))
}

/// Whether the ingest node of a stream may keep it after a move: moves through the API are planned,
/// unless the node is lost.
fn may_hand_over(call: &Call<'_>, name: &StreamName) -> bool {
    let ingest = call.state.stream(name).and_then(|stream| stream.ingest());
    may_keep(call.shared, ingest)
}

/// The same for a stream with this ingest node.
pub fn may_keep(shared: &Shared, ingest: Option<&str>) -> bool {
    let config = shared.settings.running.config();
    let node = ingest.and_then(|host| shared.nodes.find(host));
    !config.settings.layouter.handover.is_zero() && node.is_some_and(|node| node.may_run_streams())
}

fn stream_named(name: &str) -> Option<EntityName> {
    Some(EntityName::Stream(StreamName::parse(name).ok()?))
}

/// One entry of the layout history of a stream.
struct LayoutDoc<'a> {
    layout: &'a ArchivedLayout,
    now: LayoutNow<'a>,
    key: String,
}

/// The layout history of one stream, newest first. The key is `created_at`.
struct Layouts<'a> {
    stream: &'a StreamRecord,
}

impl Layouts<'_> {
    fn doc(&self, index: usize) -> Option<LayoutDoc<'_>> {
        self.stream.layouts.get(index).map(|layout| LayoutDoc {
            layout,
            now: match index {
                0 => LayoutNow::of(self.stream),
                _ => LayoutNow::default(),
            },
            key: layout.created_at.to_native().to_string(),
        })
    }

    /// Index of the first entry, newest first, that is not newer than a key.
    fn at(&self, key: &str) -> usize {
        let created_at: u64 = key.parse().unwrap_or(u64::MAX);
        self.stream
            .layouts
            .iter()
            .take_while(|layout| layout.created_at.to_native() > created_at)
            .count()
    }
}

impl Document for LayoutDoc<'_> {
    fn key(&self) -> &str {
        &self.key
    }

    fn field(&self, name: &str) -> Option<Raw<'_>> {
        let mut text = Vec::new();
        self.render(&mut text);
        let text = String::from_utf8(text).expect("rendered JSON is UTF-8");
        scan::member(&text, name).map(|value| Raw::Json(Cow::Owned(value.to_owned())))
    }

    fn render(&self, out: &mut Vec<u8>) {
        render_layout(self.layout, self.now, None, out);
    }
}

impl Source for Layouts<'_> {
    type Doc<'a>
        = LayoutDoc<'a>
    where
        Self: 'a;

    fn count(&self) -> u64 {
        self.stream.layouts.len() as u64
    }

    fn get(&self, key: &str) -> Option<LayoutDoc<'_>> {
        self.doc(self.at(key)).filter(|doc| doc.key == key)
    }

    fn ascending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = LayoutDoc<'a>> {
        // Oldest first: from the end of the list up to the bound.
        let until = match from {
            Bound::Unbounded => self.stream.layouts.len(),
            Bound::Included(key) => self.at(key) + usize::from(self.get(key).is_some()),
            Bound::Excluded(key) => self.at(key),
        };
        (0..until).rev().filter_map(|index| self.doc(index))
    }

    fn descending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = LayoutDoc<'a>> {
        let start = match from {
            Bound::Unbounded => 0,
            Bound::Included(key) => self.at(key),
            Bound::Excluded(key) => self.at(key) + usize::from(self.get(key).is_some()),
        };
        (start..self.stream.layouts.len()).filter_map(|index| self.doc(index))
    }
}

static LAYOUT_KIND: ListKind = ListKind {
    collection: "layouts",
    key: "created_at",
    key_order: KeyOrder::Decimal,
    default_sort: "-created_at",
    stamp: None,
    required: || &[],
    search: &[],
    field: |path| {
        let field_type = match path {
            "created_at" => FieldType::Moment,
            "ingest" | "inference" | "dvr_backups" | "failover_from" | "handover_from"
            | "originator" | "change_reason" => FieldType::String,
            "pinned" => FieldType::Boolean,
            _ => return None,
        };
        Some(ListField::top_level(path, field_type))
    },
    secret: |_| false,
    schema: || None,
};

/// Parameters of `GET /streams/{name}/layouts`.
pub const LAYOUTS_PARAMETERS: &[&dyn Parameter] = &[&CREATED_AFTER, &CREATED_BEFORE];

const CREATED_AFTER: EngineParameter = EngineParameter::new(
    "created_at_gt",
    ValueKind::Moment,
    "Only changes after this moment.",
)
.example("1730844572000");
const CREATED_BEFORE: EngineParameter = EngineParameter::new(
    "created_at_lt",
    ValueKind::Moment,
    "Only changes before this moment.",
)
.example("1730844572000");

pub fn layouts(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let name = call.stream_name()?;
    let stream = call.state.stream(&name).ok_or_else(stream_not_found)?;
    let query = call.query(&LAYOUT_KIND)?;
    let page = Execution::new(&query).run(&Layouts { stream });
    Ok(Outcome::Reply(Response::json(200, page.into_body(""))))
}
