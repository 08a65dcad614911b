//! `GET /streamers/{hostname}/episodes`: which recordings a streamer has to keep.
//!
//! The rule of the configuration holds here as well: **completely or not at all**. What is not in
//! the answer may be erased by the streamer once it is old, so whatever is in doubt is a 501, upon
//! which a streamer keeps everything: a store that fails (an episode whose saving got no answer may
//! be on disk), a question that could be answered in part only. Times are milliseconds; older
//! streamers' seconds are refused, because as milliseconds they would leave out everything. All
//! pages of a walk come from the revision of the first.

use super::ListRequest;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::LazyLock;

use super::config_external::{known_node, snapshot_expired};
use super::entity::visit_media;
use super::{Call, Collection, LocalState, Outcome};
use crate::error::{self, ApiError};
use crate::json::{FieldType, Number, write_string};
use crate::query::params::{Integer, Parameter, ParameterValues as _, Text};
use crate::query::{Document, Hints, KeyOrder, ListKind, Query, Raw, ScanPosition, Source, pairs};
use crate::rt::uptime_ms;
use crate::state::State;
use crate::state::entity::{Key, Kind};
use crate::state::record::{ArchivedFacts, EntityRecord};

/// Most episodes that are told at once to who names no `limit`; an episode is about 100 bytes.
const AT_ONCE_MAX: usize = 250_000;
/// What a time can be.
const MS_MIN: u64 = 1_000_000_000_000;
const MS_MAX: u64 = 10_000_000_000_000;

static REQUIRED: LazyLock<Vec<Box<str>>> = LazyLock::new(|| {
    ["episode_id", "media", "opened_at", "updated_at"]
        .map(Box::from)
        .to_vec()
});

pub static KIND: ListKind = ListKind {
    collection: "episodes",
    key: "episode_id",
    key_order: KeyOrder::Decimal,
    default_sort: "opened_at",
    stamp: None,
    required: || &REQUIRED,
    search: &[],
    field_type: |path| match path {
        "episode_id" | "opened_at" | "closed_at" | "updated_at" => Some(FieldType::Integer),
        "media" => Some(FieldType::String),
        _ => None,
    },
    secret: |_| false,
};

const HOST: Text = Text::new(
    "host",
    "Hostname of the streamer. Ignored, the path decides.",
)
.example(r#""streamer1.example.com""#)
.without_effect();
const OPENED_BEFORE: Integer = Integer::moment(
    "opened_at_lt",
    MS_MIN,
    MS_MAX,
    "Only episodes that were opened before this time, in milliseconds.",
);
const CLOSED_AFTER: Integer = Integer::moment(
    "closed_at_gt",
    MS_MIN,
    MS_MAX,
    "Only episodes that are open or were closed after this time, in milliseconds.",
);

/// `media` stays a filter: by it the query engine finds the episodes.
const PARAMETERS: &[&dyn Parameter] = &[&HOST, &OPENED_BEFORE, &CLOSED_AFTER];

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let hostname = call.hostname()?;
    known_node(call.state, &hostname)?;
    let runtime = call.shared.nodes.get(&hostname);
    runtime.activity.seen(uptime_ms());
    if !call.shared.published.is_writable() {
        return Err(unknown(
            "The store fails, and episodes may be saved that are not known here; keep what is recorded",
        ));
    }
    let mut query = Query::parse(call.request.query, &KIND, PARAMETERS)?;
    check_media(call.request.query)?;
    let times = Times::of(&query)?;
    let state: LocalState = match query.revision() {
        Some(revision) if revision != call.state.revision() => {
            let earlier = call.shared.paged_snapshots.get(revision);
            Rc::new(earlier.ok_or_else(snapshot_expired)?)
        }
        _ => call.state.clone(),
    };
    query.set_default_limit(0);
    if !query.has_limit() && count(&state, &query, times) > AT_ONCE_MAX {
        return Err(unknown(
            "There are more episodes than are told at once; name fewer streams, or ask in pages with limit",
        )
        .with("maximum", AT_ONCE_MAX));
    }
    query.pin_revision(state.revision());
    Ok(Outcome::List(ListRequest {
        snapshot: Some(state),
        ..ListRequest::new(Collection::ExternalEpisodes, query)
    }))
}

/// What makes a streamer keep everything.
fn unknown(title: &'static str) -> ApiError {
    error::EPISODES_UNKNOWN.titled(title)
}

/// The streams asked about: named once, none of them a word that filters take for nothing.
fn check_media(query: &str) -> Result<(), ApiError> {
    let mut lists = pairs(query).filter_map(|pair| match pair {
        Ok((name, value)) if name == "media" => Some(value),
        _ => None,
    });
    let named = lists.next().flatten();
    let named = named.filter(|list| list.split(',').any(|name| !name.is_empty()));
    let named = named.ok_or_else(|| {
        error::MISSING_REQUIRED
            .titled("Name the streams that are asked about")
            .at_parameter("media")
    })?;
    if lists.next().is_some() {
        return Err(error::DUPLICATE_ITEM
            .titled("Name all streams in one list, joined by commas")
            .at_parameter("media"));
    }
    if named
        .split(',')
        .any(|name| matches!(name, "null" | "undefined"))
    {
        return Err(unknown(
            "The episodes of a stream of this name cannot be told; keep what is recorded",
        ));
    }
    Ok(())
}

fn count(state: &State, query: &Query, times: Times) -> usize {
    let hints = query.hints();
    let media = hints.equal.iter().find(|(path, _)| *path == "media");
    let media = media.map_or(&[][..], |(_, media)| media);
    let episodes = media
        .iter()
        .flat_map(|name| state.episodes().of(name, None));
    episodes
        .filter(|record| times.hold(record))
        .take(AT_ONCE_MAX + 1)
        .count()
}

/// Which episodes a streamer cares for: not those that are too new or too old to decide about a
/// recording.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    opened_before: Option<u64>,
    closed_after: Option<u64>,
}

impl Times {
    fn of(query: &Query) -> Result<Self, ApiError> {
        Ok(Self {
            opened_before: query.integer(&OPENED_BEFORE)?,
            closed_after: query.integer(&CLOSED_AFTER)?,
        })
    }

    /// An episode that goes on ends after any moment.
    fn hold(self, record: &EntityRecord) -> bool {
        let ArchivedFacts::Episode {
            opened_at,
            closed_at,
            ..
        } = &record.facts
        else {
            return false;
        };
        let is_new = |before: u64| opened_at.to_native() >= before;
        let is_old = |after: u64| closed_at.as_ref().is_some_and(|at| at.to_native() <= after);
        !self.opened_before.is_some_and(is_new) && !self.closed_after.is_some_and(is_old)
    }
}

/// An episode as streamers are told it.
pub struct ExternalEpisode<'a>(&'a EntityRecord);

impl Document for ExternalEpisode<'_> {
    fn key(&self) -> &str {
        &self.0.key
    }

    fn field(&self, name: &str) -> Option<Raw<'_>> {
        let number = |number| Some(Raw::Number(Number::Unsigned(number)));
        let ArchivedFacts::Episode {
            media,
            opened_at,
            closed_at,
            ..
        } = &self.0.facts
        else {
            return None;
        };
        match name {
            "episode_id" => number(self.0.key.parse().ok()?),
            "media" => Some(Raw::Text(media)),
            "opened_at" => number(opened_at.to_native()),
            "closed_at" => number(closed_at.as_ref()?.to_native()),
            "updated_at" => number(self.0.updated_at.to_native()),
            _ => None,
        }
    }

    fn render(&self, out: &mut Vec<u8>) {
        let mut first = true;
        for name in [
            "closed_at",
            "episode_id",
            "media",
            "opened_at",
            "updated_at",
        ] {
            let Some(value) = self.field(name) else {
                continue;
            };
            out.push(if first { b'{' } else { b',' });
            first = false;
            write_string(out, name);
            out.push(b':');
            value.write(out);
        }
        out.push(b'}');
    }
}

/// The episodes that a question of a streamer is about.
pub struct ExternalEpisodes<'s> {
    state: &'s State,
    times: Times,
}

impl<'s> ExternalEpisodes<'s> {
    pub fn new(state: &'s State, query: &Query) -> Self {
        let times = Times::of(query).expect("checked when the question was read");
        Self { state, times }
    }

    fn between<'a>(
        &'a self,
        range: (Bound<&str>, Bound<&str>),
    ) -> impl DoubleEndedIterator<Item = ExternalEpisode<'a>> {
        let key = |bound: Bound<&str>| bound.map(|key| Key::trusted(Kind::Episode, key));
        let all = self.state.entities(Kind::Episode).by_key();
        all.range((key(range.0), key(range.1)))
            .filter(|(_, record)| self.times.hold(record))
            .map(|(_, record)| ExternalEpisode(record))
    }
}

impl Source for ExternalEpisodes<'_> {
    type Doc<'a>
        = ExternalEpisode<'a>
    where
        Self: 'a;

    fn count(&self) -> u64 {
        self.between((Bound::Unbounded, Bound::Unbounded)).count() as u64
    }

    fn get(&self, key: &str) -> Option<ExternalEpisode<'_>> {
        let key = Key::parse(Kind::Episode, key).ok()?;
        let record = self.state.entities(Kind::Episode).get(&key)?;
        self.times.hold(record).then_some(ExternalEpisode(record))
    }

    fn ascending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = ExternalEpisode<'a>> {
        self.between((from, Bound::Unbounded))
    }

    fn descending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = ExternalEpisode<'a>> {
        self.between((Bound::Unbounded, from)).rev()
    }

    fn scan<'a>(
        &'a self,
        hints: &Hints<'_>,
        place: &mut ScanPosition,
        budget: usize,
        each: &mut dyn FnMut(ExternalEpisode<'a>),
    ) -> bool {
        let media = hints.equal.iter().find(|(path, _)| *path == "media");
        let (_, media) = media.expect("every question names streams");
        let episodes = self.state.episodes();
        visit_media(episodes, media, place, budget, &mut |record| {
            if self.times.hold(record) {
                each(ExternalEpisode(record));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_named_once_and_in_full() {
        assert!(check_media("media=a,b&limit=5").is_ok());
        assert!(check_media("m%65dia=a%2Cb").is_ok());
        for missing in ["", "media", "media=", "media=,", "limit=1"] {
            assert_eq!(check_media(missing).expect_err(missing).status, 400);
        }
        assert_eq!(check_media("media=a&media=b").expect_err("two").status, 400);
        assert_eq!(check_media("media=a,null").expect_err("a word").status, 501);
    }

    #[test]
    fn seconds_are_not_taken_for_milliseconds() {
        let times = |text| Times::of(&Query::parse(text, &KIND, PARAMETERS).expect("a query"));
        assert!(times("opened_at_lt=1645012045000&closed_at_gt=1645012045000").is_ok());
        for bad in ["opened_at_lt=1645012045", "closed_at_gt=x", "closed_at_gt"] {
            assert_eq!(times(bad).expect_err(bad).status, 400);
        }
    }
}
