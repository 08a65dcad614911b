//! `GET /streamers/{hostname}/episodes`: the recordings that a streamer must keep.
//!
//! As with the configuration, the answer is **complete or an error**. A streamer may erase old
//! recordings of episodes that the answer lacks. In case of doubt it is therefore 501, upon which a
//! streamer keeps everything: while the store fails (an episode whose save was not answered may be
//! on disk), and for requests that could be answered only in part. Times are milliseconds; seconds,
//! which older streamers send, are refused, because read as milliseconds they would exclude all
//! episodes. All pages of a list come from the revision of the first.

use super::ListRequest;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use super::config_external::{HOST, known_node, snapshot_expired};
use super::entity::visit_media;
use super::{Call, Collection, LocalState, Outcome, now_ms};
use crate::error::{self, ApiError};
use crate::json::{FieldType, Number, write_string};
use crate::query::params::{EngineParameter, Integer, Parameter, ParameterValues as _, ValueKind};
use crate::query::{
    Document, Hints, KeyOrder, ListField, ListKind, Query, Raw, ScanPosition, Source, pairs,
};
use crate::state::State;
use crate::state::entity::{Key, Kind};
use crate::state::episode::makes_episodes;
use crate::state::record::{ArchivedFacts, EntityRecord};

/// Most episodes in an answer without `limit`; an episode is about 100 bytes.
const AT_ONCE_MAX: usize = 250_000;
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
    field: |path| {
        let field_type = match path {
            "episode_id" => FieldType::Integer,
            "opened_at" | "closed_at" | "updated_at" => FieldType::Moment,
            "media" => FieldType::String,
            _ => return None,
        };
        Some(ListField::top_level(path, field_type))
    },
    secret: |_| false,
    schema: || None,
};

/// A filter: by it the query engine finds the episodes.
const MEDIA: EngineParameter = EngineParameter::new(
    "media",
    ValueKind::List,
    "Names of the streams, joined by commas. The response has the episodes of all of them.",
)
.example(r#"["harbour/cam1","harbour/cam2"]"#)
.required();
const OPENED_BEFORE: Integer = Integer::moment(
    "opened_at_lt",
    "Only episodes that were opened before this time, in milliseconds.",
)
.example("1637094994000");
const CLOSED_AFTER: Integer = Integer::moment(
    "closed_at_gt",
    "Only episodes that are open or were closed after this time, in milliseconds.",
)
.example("1637094994000");

/// Parameters of `GET /streamers/{hostname}/episodes`.
pub const PARAMETERS: &[&dyn Parameter] = &[&HOST, &MEDIA, &OPENED_BEFORE, &CLOSED_AFTER];

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let hostname = call.hostname()?;
    known_node(call.state, &hostname)?;
    let runtime = call.shared.nodes.get(&hostname);
    call.note_activity(&runtime);
    if !call.shared.published.is_writable() {
        return Err(unknown(
            "The store fails, so the list of episodes may be incomplete; keep all recordings",
        ));
    }
    let mut query = call.query(&KIND)?;
    check_media(call.request.query)?;
    let times = Times::of(&query)?;
    // Saved after the backup, an episode of any time before the restore is lost.
    let kept = call.shared.settings.running.config().settings.episodes.kept;
    let restored_ms = call.state.restored_stamp_ms();
    if would_be_kept(restored_ms, kept, now_ms()) && times.reach_before(restored_ms) {
        return Err(unknown(
            "The store was restored from a backup and may lack episodes; keep all recordings",
        ));
    }
    if may_lack_episodes(call, &hostname, &query, times) {
        return Err(unknown(
            "The streams may have recordings whose episodes are not made yet; keep all recordings",
        ));
    }
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
            "More than 250000 episodes match; request fewer streams, or pages with `limit`",
        )
        .with("maximum", AT_ONCE_MAX));
    }
    query.pin_revision(state.revision());
    Ok(Outcome::List(ListRequest {
        snapshot: Some(state),
        ..ListRequest::new(Collection::ExternalEpisodes, query)
    }))
}

/// Whether automatic episodes of the requested streams may be missing: while they cannot be stored,
/// and until the recordings of a time in which the streamer was not seen were read.
fn may_lack_episodes(call: &Call<'_>, hostname: &str, query: &Query, times: Times) -> bool {
    let state = call.state;
    let gap = state.report_gap(hostname);
    let is_unread = gap.is_some_and(|gap| gap.reaches(times.opened_before));
    if !is_unread && !call.shared.published.is_short_of_space() {
        return false;
    }
    let hints = query.hints();
    let media = hints.equal.iter().filter(|(path, _)| *path == "media");
    let mut names = media.flat_map(|(_, names)| names.iter());
    names.any(|name| state.stream(name).is_some_and(makes_episodes))
}

/// Whether an episode that a restore has lost would still be kept now. `kept`: how long one is;
/// zero is for ever.
fn would_be_kept(restored_ms: u64, kept: Duration, now_ms: u64) -> bool {
    let kept_ms = kept.as_millis() as u64;
    restored_ms > 0 && (kept_ms == 0 || now_ms < restored_ms.saturating_add(kept_ms))
}

/// The error upon which a streamer keeps everything.
fn unknown(title: &'static str) -> ApiError {
    error::EPISODES_UNKNOWN.titled(title)
}

/// Checks that `media` occurs once and names streams. The names `null` and `undefined` are refused,
/// because filters read them as an absent value.
fn check_media(query: &str) -> Result<(), ApiError> {
    let mut lists = pairs(query).filter_map(|pair| match pair {
        Ok((name, value)) if name == MEDIA.name() => Some(value),
        _ => None,
    });
    let named = lists.next().flatten();
    let named = named.filter(|list| list.split(',').any(|name| !name.is_empty()));
    let named = named.ok_or_else(|| {
        let allowed = "is required: names of streams, separated by commas";
        error::MISSING_REQUIRED.about_parameter(MEDIA.name(), allowed)
    })?;
    if lists.next().is_some() {
        let allowed = "occurs twice; separate names by commas";
        return Err(error::DUPLICATE_ITEM.about_parameter(MEDIA.name(), allowed));
    }
    if named
        .split(',')
        .any(|name| matches!(name, "null" | "undefined"))
    {
        return Err(unknown(
            "Streams named `null` or `undefined` cannot be queried; keep all recordings",
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
        .filter(|record| times.contain(record))
        .take(AT_ONCE_MAX + 1)
        .count()
}

/// The range of times in which a streamer decides about recordings.
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

    /// Whether recordings of a time before this one are in the range.
    fn reach_before(self, moment_ms: u64) -> bool {
        self.closed_after.is_none_or(|after| after < moment_ms)
    }

    /// Whether an episode is in the range. An open episode ends after any moment.
    fn contain(self, record: &EntityRecord) -> bool {
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

/// The part of an episode that is sent to streamers.
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

/// The episodes that the request of a streamer selects.
pub struct ExternalEpisodes<'s> {
    state: &'s State,
    times: Times,
}

impl<'s> ExternalEpisodes<'s> {
    pub fn new(state: &'s State, query: &Query) -> Self {
        let times = Times::of(query).expect("checked when the request was read");
        Self { state, times }
    }

    fn between<'a>(
        &'a self,
        range: (Bound<&str>, Bound<&str>),
    ) -> impl DoubleEndedIterator<Item = ExternalEpisode<'a>> {
        let key = |bound: Bound<&str>| bound.map(|key| Key::trusted(Kind::Episode, key));
        let all = self.state.entities(Kind::Episode).by_key();
        all.range((key(range.0), key(range.1)))
            .filter(|(_, record)| self.times.contain(record))
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
        self.times
            .contain(record)
            .then_some(ExternalEpisode(record))
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
        let (_, media) = media.expect("every request names streams");
        let episodes = self.state.episodes();
        visit_media(episodes, media, place, budget, &mut |record| {
            if self.times.contain(record) {
                each(ExternalEpisode(record));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_episodes_are_missed_as_long_as_they_would_be_kept() {
        let day = Duration::from_hours(24);
        let restored_ms = 1_700_000_000_000;
        let after = |days: u64| restored_ms + days * 86_400_000;
        assert!(!would_be_kept(0, day, after(0)), "no restore");
        assert!(would_be_kept(restored_ms, day, after(0)));
        assert!(would_be_kept(restored_ms, day, after(1) - 1));
        assert!(!would_be_kept(restored_ms, day, after(1)));
        assert!(would_be_kept(restored_ms, Duration::ZERO, after(10_000)));
    }

    #[test]
    fn media_is_required_once_and_without_null() {
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
