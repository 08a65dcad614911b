//! Queries over a small collection, checked against a slow model and case by case.

mod model;
mod pages;
mod rules;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use serde_json::{Value, json};

use self::model::Random;
use super::pairs::encode_component;
use super::params::POLL_TIMEOUT;
use super::*;
use crate::error::ApiError;
use crate::json::FieldType;
use crate::json::scan;

fn field_type(path: &str) -> Option<FieldType> {
    Some(match path {
        "updated_at" | "n" | "list.n" | "stats.bitrate" => FieldType::Integer,
        "f" | "matrix" => FieldType::Number,
        "b" => FieldType::Boolean,
        "name" | "s" | "tags" | "list.url" | "deep.a.b" | "title" | "secret" => FieldType::String,
        "o" | "list" | "deep" | "deep.a" | "stats" => FieldType::Other,
        _ => return None,
    })
}

fn field(path: &str) -> Option<ListField> {
    let field_type = field_type(path)?;
    let members = super::model::split(path);
    Some(ListField {
        members,
        field_type,
        digest: None,
    })
}

fn required() -> &'static [Box<str>] {
    static REQUIRED: std::sync::LazyLock<Vec<Box<str>>> =
        std::sync::LazyLock::new(|| vec!["name".into(), "updated_at".into()]);
    &REQUIRED
}

const THINGS: ListKind = ListKind {
    collection: "things",
    key: "name",
    key_order: KeyOrder::Text,
    default_sort: "name",
    stamp: Some("updated_at"),
    required,
    search: &[
        SearchField {
            path: "name",
            url: false,
        },
        SearchField {
            path: "title",
            url: false,
        },
        SearchField {
            path: "list.url",
            url: true,
        },
    ],
    field,
    secret: |path| *path == [Box::from("secret")],
    schema: || None,
};
static KIND: ListKind = THINGS;
static KIND_DOWN: ListKind = ListKind {
    default_sort: "-name",
    ..THINGS
};

struct Thing {
    name: String,
    updated_at: u64,
    value: Value,
    text: String,
}

impl Thing {
    fn new(value: Value) -> Thing {
        Thing {
            name: value["name"]
                .as_str()
                .expect("things have names")
                .to_owned(),
            updated_at: value["updated_at"].as_u64().unwrap_or(0),
            text: value.to_string(),
            value,
        }
    }
}

impl Document for &Thing {
    fn key(&self) -> &str {
        &self.name
    }

    fn field(&self, name: &str) -> Option<Raw<'_>> {
        match name {
            "name" => Some(Raw::Text(&self.name)),
            // Half of them typed, half as text, without a difference in the answer.
            "updated_at" if self.updated_at % 2 == 1 => Some(self.updated_at.into()),
            "deep" => {
                scan::member(&self.text, name).map(|text| Raw::Json(Cow::Owned(text.to_owned())))
            }
            _ => scan::member(&self.text, name).map(|text| Raw::Json(Cow::Borrowed(text))),
        }
    }

    fn leaf(&self, path: &FieldPath) -> Leaf<'_> {
        match path.as_str() {
            "stats.bitrate" if self.updated_at.is_multiple_of(3) => self.value["stats"]["bitrate"]
                .as_u64()
                .map_or(Leaf::Absent, |bitrate| Leaf::Value(bitrate.into())),
            _ => Leaf::Unknown,
        }
    }

    fn search_texts(&self) -> Option<[&str; 2]> {
        self.updated_at
            .is_multiple_of(2)
            .then_some([&self.name, &self.text])
    }

    fn render(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.text.as_bytes());
    }
}

#[derive(Default)]
struct Things {
    all: BTreeMap<String, Thing>,
    /// Scans in the order of parts, as a sharded store would, rather than in key order.
    parts: usize,
}

impl Things {
    fn insert(&mut self, value: Value) {
        let thing = Thing::new(value);
        self.all.insert(thing.name.clone(), thing);
    }
}

impl Source for Things {
    type Doc<'a> = &'a Thing;

    fn count(&self) -> u64 {
        self.all.len() as u64
    }

    fn get(&self, key: &str) -> Option<&Thing> {
        self.all.get(key)
    }

    fn ascending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = &'a Thing> {
        self.all
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(_, thing)| thing)
    }

    fn descending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = &'a Thing> {
        self.all
            .range::<str, _>((Bound::Unbounded, from))
            .rev()
            .map(|(_, thing)| thing)
    }

    fn scan<'a>(
        &'a self,
        hints: &Hints<'_>,
        position: &mut ScanPosition,
        budget: usize,
        each: &mut dyn FnMut(&'a Thing),
    ) -> bool {
        let mut budget = budget.max(1);
        let end = if position.in_part {
            position.part + 1
        } else {
            self.parts
        };
        while position.part < end {
            let from = position.after.take();
            let from = from.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            for thing in self.ascending(from) {
                if thing.name.len() % self.parts != position.part {
                    continue;
                }
                if budget == 0 {
                    return false;
                }
                budget -= 1;
                position.after = Some(thing.name.as_str().into());
                // What the hints rule out is ruled out by the filters.
                if hints.stamp_min.is_none_or(|min| thing.updated_at >= min) {
                    each(thing);
                }
            }
            position.after = None;
            position.part += 1;
        }
        true
    }
}

fn answer(things: &Things, kind: &'static ListKind, raw: &str) -> Result<(Page, Value), ApiError> {
    let query = Query::parse(raw, kind, &[&POLL_TIMEOUT])?;
    let page = Execution::new(&query).run(things);
    Ok(opened(page))
}

/// A page and its parsed body.
fn opened(page: Page) -> (Page, Value) {
    let copy = Page {
        body: page.body.clone(),
        next: page.next.clone(),
        prev: page.prev.clone(),
        ..page
    };
    let body = page.into_body("");
    (
        copy,
        serde_json::from_slice(&body).expect("an answer is JSON"),
    )
}

fn names(body: &Value) -> Vec<String> {
    body["things"]
        .as_array()
        .expect("the collection is a list")
        .iter()
        .map(|thing| {
            thing["name"]
                .as_str()
                .expect("names are required")
                .to_owned()
        })
        .collect()
}

fn refused(raw: &str) -> ApiError {
    match Query::parse(raw, &KIND, &[&POLL_TIMEOUT]) {
        Ok(_) => panic!("{raw} should be refused"),
        Err(error) => {
            assert_eq!(error.status, 400, "{raw}");
            error
        }
    }
}

fn page_of(things: &Things, raw: &str, cursor: Option<&str>, random: &mut Random) -> (Page, Value) {
    let raw = match cursor {
        Some(cursor) => {
            let mut out = format!("{raw}&cursor=");
            encode_component(cursor, &mut out);
            out
        }
        None => raw.to_owned(),
    };
    let query = Query::parse(&raw, &KIND, &[])
        .unwrap_or_else(|error| panic!("{raw} was refused: {error:?}"));
    let again = Query::parse(&raw, &KIND, &[]).expect("it was accepted once");
    assert_eq!(query.canonical(), again.canonical());
    let page = if random.below(2) == 0 {
        in_slices(&query, things, random)
    } else {
        in_parts(&query, things, random)
    };
    opened(page)
}

fn in_slices(query: &Query, things: &Things, random: &mut Random) -> Page {
    let budget = 1 + random.below(20);
    let mut execution = Execution::new(query);
    for _ in 0..10_000 {
        if let Some(page) = execution.step(things, budget) {
            return page;
        }
    }
    panic!("{} never ends", query.canonical());
}

/// Makes the passes over all documents in parts, as several threads do: each takes any part that is
/// left, reads some of it, and adds to findings of its own.
fn in_parts(query: &Query, things: &Things, random: &mut Random) -> Page {
    let budget = 1 + random.below(20);
    let mut execution = Execution::new(query);
    for _ in 0..10_000 {
        // Now and then after a slice, which is then made again.
        let is_slice = query.keys().is_some() || random.below(3) == 0;
        let pass = if is_slice {
            None
        } else {
            execution.next_pass()
        };
        if let Some(pass) = pass {
            let mut parts: Vec<_> = (0..things.parts).map(ScanPosition::of_part).collect();
            let mut found: Vec<_> = (0..=random.below(3)).map(|_| pass.findings()).collect();
            while !parts.is_empty() {
                let at = random.below(parts.len());
                let of = random.below(found.len());
                if pass.step(&mut found[of], things, &mut parts[at], budget) {
                    parts.swap_remove(at);
                }
            }
            let merged = found.into_iter().reduce(|mut all, other| {
                all.merge(other, query);
                all
            });
            execution.absorb(merged.expect("findings"), Duration::ZERO);
        }
        if let Some(page) = execution.step(things, budget) {
            return page;
        }
    }
    panic!("{} never ends", query.canonical());
}
