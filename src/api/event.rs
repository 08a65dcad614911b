//! The event log over HTTP: changes with their authors, and decisions of the server.
//!
//! Events are read only. `event_id` grows in the order in which they became durable. A list waits
//! for new events with `poll_timeout`; a client that has the events up to an id filters by
//! `event_id_gt`. One that wants the last few gives only a `limit`: its list begins with the newest
//! event.
//!
//! An event shows the first entities of a batch, and is found by all of them: digests of their
//! names are stored with it.

use std::borrow::Cow;
use std::ops::Bound;

use super::tagged::BodySource;
use super::{Call, Collection, ListRequest, Outcome};
use crate::error::{self, ApiError};
use crate::json::{FieldType, scan};
use crate::query::params::{self, EngineParameter, Parameter, Seconds, ValueKind};
use crate::query::{
    Document, KeyOrder, ListField, ListKind, Query, Raw, SearchField, Source, pairs,
};
use crate::schema;
use crate::state::State;
use crate::state::event::{EVENT_KINDS, event_id, place_of};
use crate::state::event_streams::stream_digest;
use crate::state::record::EventChunkRecord;
use crate::state::tag::Versioned as _;

/// One event.
pub struct EventDoc<'a> {
    chunk: &'a EventChunkRecord,
    /// Its index there.
    place: usize,
    text: &'a str,
    key: String,
}

impl<'a> EventDoc<'a> {
    /// All events of one commit.
    pub fn all(chunk: &'a EventChunkRecord) -> impl DoubleEndedIterator<Item = Self> {
        (0..chunk.events.len()).filter_map(|place| Self::at(chunk, place))
    }

    fn at(chunk: &'a EventChunkRecord, place: usize) -> Option<Self> {
        chunk.events.get(place).map(|text| Self {
            chunk,
            place,
            text: text.as_str(),
            key: event_id(chunk.revision.to_native(), place).to_string(),
        })
    }
}

impl Document for EventDoc<'_> {
    fn key(&self) -> &str {
        &self.key
    }

    fn field(&self, name: &str) -> Option<Raw<'_>> {
        scan::member(self.text, name).map(|text| Raw::Json(Cow::Borrowed(text)))
    }

    fn has_digest(&self, digests: &[u64]) -> bool {
        self.chunk.is_about(self.place, digests)
    }

    fn search_texts(&self) -> Option<[&str; 2]> {
        Some([self.text, ""])
    }

    fn render(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.text.as_bytes());
    }
}

/// The event log, as a source of the query engine.
pub struct Events<'s> {
    state: &'s State,
}

impl<'s> Events<'s> {
    pub fn new(state: &'s State) -> Self {
        Self { state }
    }
}

/// A bound by event id.
fn number(bound: Bound<&str>) -> Bound<u64> {
    bound.map(|key| key.parse().unwrap_or(u64::MAX))
}

impl Source for Events<'_> {
    type Doc<'a>
        = EventDoc<'a>
    where
        Self: 'a;

    fn count(&self) -> u64 {
        self.state.events_count() as u64
    }

    fn get(&self, key: &str) -> Option<EventDoc<'_>> {
        let (revision, place) = place_of(key.parse().ok()?);
        EventDoc::at(self.state.events().get(&revision)?, place)
    }

    fn ascending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = EventDoc<'a>> {
        let first = match number(from) {
            Bound::Unbounded => 0,
            Bound::Included(id) => id,
            Bound::Excluded(id) => id.saturating_add(1),
        };
        let (revision, place) = place_of(first);
        self.state
            .events()
            .range(revision..)
            .flat_map(move |(at, chunk)| {
                let skipped = if *at == revision { place } else { 0 };
                EventDoc::all(chunk).skip(skipped)
            })
    }

    fn descending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = EventDoc<'a>> {
        // Exclusive.
        let end = match number(from) {
            Bound::Unbounded => u64::MAX,
            Bound::Included(id) => id.saturating_add(1),
            Bound::Excluded(id) => id,
        };
        let (revision, place) = place_of(end);
        self.state
            .events()
            .range(..=revision)
            .rev()
            .flat_map(move |(at, chunk)| {
                let taken = if *at == revision { place } else { usize::MAX };
                EventDoc::all(chunk)
                    .take(taken.min(chunk.events.len()))
                    .collect::<Vec<_>>()
                    .into_iter()
                    .rev()
            })
    }
}

pub static KIND: ListKind = kind("event_id");
/// The list that begins with the newest event.
static NEWEST_FIRST: ListKind = kind("-event_id");

const fn kind(default_sort: &'static str) -> ListKind {
    const SEARCHED: &[SearchField] = &[
        text("entity_id"),
        text("operation_id"),
        text("path"),
        text("user"),
    ];
    ListKind {
        collection: "events",
        key: "event_id",
        key_order: KeyOrder::Decimal,
        default_sort,
        stamp: None,
        required: || schema::event().required(),
        search: SEARCHED,
        field,
        secret: |_| false,
        schema: || Some(schema::event()),
    }
}

const fn text(path: &'static str) -> SearchField {
    SearchField { path, url: false }
}

fn field(path: &str) -> Option<ListField> {
    if path == STREAM.name() {
        return Some(ListField {
            digest: Some(stream_digest),
            ..ListField::top_level(path, FieldType::String)
        });
    }
    crate::query::field(schema::event(), path)
}

/// Parameters of `GET /events`.
pub const PARAMETERS: &[&dyn Parameter] = &[&EVENT, &STREAM, &POLL_TIMEOUT];

const EVENT: EngineParameter = EngineParameter::new(
    "event",
    ValueKind::List,
    "Only events of these kinds, joined by commas; `event_ne` leaves kinds out. An unknown kind is \
     refused with the list of the known ones.",
)
.example(r#"["api_call","layouter_processing_result"]"#)
.extension();
const STREAM: EngineParameter = EngineParameter::new(
    "stream",
    ValueKind::List,
    "Only events about these streams, joined by commas: saves, deletions, batches, moves by the \
     layouter. The event of a batch or of a plan of the layouter is found by all of its streams, \
     also by those that `entities` and `relayouts` leave out; one of an earlier version by those \
     that it shows. `stream_ne` leaves events out.",
)
.example(r#"["harbour/cam1"]"#)
.extension();
const POLL_TIMEOUT: Seconds = params::POLL_TIMEOUT.extension();

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    check_kinds(call.request.query)?;
    let query = query(call)?;
    let wait = call.poll_wait(&POLL_TIMEOUT)?;
    Ok(Outcome::List(ListRequest {
        wait,
        ..ListRequest::new(Collection::Events, query)
    }))
}

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let id = parse_id(call.parameter).ok_or_else(|| {
        let allowed = "must be an integer from 0 to 9223372036854775807, without leading zeros";
        error::WRONG_FORMAT.about_parameter(KIND.key, allowed)
    })?;
    let (revision, place) = place_of(id);
    let chunk = call.state.events().get(&revision);
    let event = chunk.and_then(|chunk| Some((chunk, EventDoc::at(chunk, place)?)));
    let (chunk, event) = event.ok_or_else(|| error::EVENT_NOT_FOUND.error())?;
    let mut body = Vec::new();
    event.render(&mut body);
    let answer = call.entity_answer(chunk.tag(call.state), BodySource::Record, body)?;
    Ok(Outcome::Reply(answer))
}

/// The id in a path. Only one text names an event: rights are checked by that text.
fn parse_id(text: &str) -> Option<u64> {
    let id: u64 = text.parse().ok()?;
    let is_its_text = itoa::Buffer::new().format(id) == text;
    (is_its_text && i64::try_from(id).is_ok()).then_some(id)
}

/// Refuses filters by kinds of events that do not exist.
fn check_kinds(raw: &str) -> Result<(), ApiError> {
    for (name, value) in pairs(raw).flatten() {
        if !matches!(&*name, "event" | "event_ne") {
            continue;
        }
        let value = value.as_deref().unwrap_or_default();
        if value.split(',').any(|kind| !EVENT_KINDS.contains(&kind)) {
            let known = EVENT_KINDS.join(", ");
            let allowed = format!("must be one of: {known}");
            return Err(error::UNKNOWN_ENUM_OPTION.about_parameter(&name, allowed));
        }
    }
    Ok(())
}

/// The query of the request. Without `sort` a cursor continues the order in which it was made.
fn query(call: &Call<'_>) -> Result<Query, ApiError> {
    let (kind, other) = if begins_with_newest(call.request.query) {
        (&NEWEST_FIRST, &KIND)
    } else {
        (&KIND, &NEWEST_FIRST)
    };
    call.query(kind).or_else(|refusal| {
        if refusal.items[0].code == error::BAD_CURSOR.code {
            call.query(other).map_err(|_| refusal)
        } else {
            Err(refusal)
        }
    })
}

/// Whether the request wants the last events: it has a limit, and no event from which it goes on.
fn begins_with_newest(raw: &str) -> bool {
    let has = |names: &[&str]| {
        pairs(raw)
            .flatten()
            .any(|(name, _)| names.contains(&&*name))
    };
    has(&["limit"]) && !has(&["event_id_gt", "event_id_gte"])
}
