//! The event log over HTTP: changes with their authors, and decisions of the server.
//!
//! Events are read only. `event_id` grows in the order in which they became durable. A list waits
//! for new events with `poll_timeout`; a client that has the events up to an id filters by
//! `event_id_gt`.

use std::borrow::Cow;
use std::ops::Bound;

use super::{Call, Collection, ListRequest, Outcome};
use crate::error::ApiError;
use crate::json::scan;
use crate::query::params::{self, Parameter, Seconds};
use crate::query::{Document, KeyOrder, ListKind, Raw, SearchField, Source};
use crate::schema;
use crate::state::State;
use crate::state::event::{event_id, place_of};
use crate::state::record::EventChunkRecord;

/// One event.
pub struct EventDoc<'a> {
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

pub static KIND: ListKind = ListKind {
    collection: "events",
    key: "event_id",
    key_order: KeyOrder::Decimal,
    default_sort: "event_id",
    stamp: None,
    required: || schema::event().required(),
    search: &[
        SearchField {
            path: "entity_id",
            url: false,
        },
        SearchField {
            path: "operation_id",
            url: false,
        },
        SearchField {
            path: "path",
            url: false,
        },
        SearchField {
            path: "user",
            url: false,
        },
    ],
    field: |path| crate::query::field(schema::event(), path),
    secret: |_| false,
    schema: || Some(schema::event()),
};

/// Parameters of `GET /events`.
pub const PARAMETERS: &[&dyn Parameter] = &[&POLL_TIMEOUT];

const POLL_TIMEOUT: Seconds = params::POLL_TIMEOUT.extension();

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let query = call.query(&KIND)?;
    let wait = call.poll_wait(&POLL_TIMEOUT)?;
    Ok(Outcome::List(ListRequest {
        wait,
        ..ListRequest::new(Collection::Events, query)
    }))
}
