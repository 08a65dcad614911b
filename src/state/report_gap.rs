//! Gaps of reports: times in which this server did not see what a streamer did, and the rule by
//! which recordings of such a time become automatic episodes.
//!
//! A gap is opened for a streamer when it stopped to report, and for all of them when this server
//! starts: then since the last commit. It is stored, so that a restart in the middle loses nothing,
//! and ends when the recordings of all its streams were read. An episode keeps an archive from
//! being erased, so in doubt there is one: [`plan`] covers every recording that reaches into the
//! gap, and leaves alone what ended before, because a user may have deleted its episode.
//!
//! Pure: no I/O, no clock.

use std::collections::BTreeSet;

use super::entity::{Key, Kind};
use super::episode::makes_episodes;
use super::name::{Hostname, StreamName};
use super::node::holders;
use super::pull::is_queried;
use super::record::{ArchivedStream, Entity, EntityRecord, Role};
use super::{SHARDS, State};
use crate::json::{Number, Object, Value, scan};

/// How far before a gap an episode made of recordings begins. The last reports before a gap are
/// this old at most.
const BEFORE_MS_MAX: u64 = 60_000;
/// Recordings beside an episode that are no longer than this are a part of it: the begin of a
/// publication and that of its first segment differ.
const EDGE_MS_MAX: u64 = 1_000;
/// Episodes that the recordings of one stream are divided into, in one gap.
pub const GROUPS_PER_STREAM_MAX: usize = 256;
/// Episodes of a gap after which each further stream gets one for all its recordings: a streamer
/// may report as many recordings as it likes.
const EPISODES_PER_GAP_MAX: u64 = 20_000;

/// A period in UTC ms, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub from: u64,
    pub to: u64,
}

/// Spans in ascending order, those not further apart than `pause_ms` as one.
pub fn joined(mut spans: Vec<Span>, pause_ms: u64) -> Vec<Span> {
    spans.sort_unstable_by_key(|span| span.from);
    let mut joined: Vec<Span> = Vec::new();
    for span in spans.into_iter().filter(|span| span.from <= span.to) {
        match joined.last_mut() {
            Some(last) if span.from <= last.to.saturating_add(pause_ms) => {
                last.to = last.to.max(span.to);
            }
            _ => joined.push(span),
        }
    }
    joined
}

/// Recordings as groups that are apart by the close timeout at least. More groups than `groups_max`
/// are joined further, so that none is left out.
pub fn grouped(spans: Vec<Span>, close_timeout_ms: u64, groups_max: usize) -> Vec<Span> {
    let mut pause_ms = close_timeout_ms.saturating_sub(1);
    let mut groups = joined(spans, pause_ms);
    while groups.len() > groups_max.max(1) {
        pause_ms = pause_ms.saturating_mul(2).saturating_add(1_000);
        groups = joined(groups, pause_ms);
    }
    groups
}

/// A time in which the reports of a streamer were not seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportGap {
    /// UTC ms.
    pub since_ms: u64,
    /// Streams up to this name are done.
    pub filled: Option<Box<str>>,
    /// Episodes that were made.
    pub made: u64,
    /// Begin of the gap that follows this one, UTC ms: what is done already is read again from then
    /// on only, or an episode that a user deleted meanwhile would be made again.
    pub next_since_ms: Option<u64>,
}

impl ReportGap {
    pub fn new(since_ms: u64) -> Self {
        Self {
            since_ms,
            filled: None,
            made: 0,
            next_since_ms: None,
        }
    }

    /// The gap after another one was opened, which begins at `since_ms`.
    #[must_use]
    pub fn followed_by(mut self, since_ms: u64) -> Self {
        if self.filled.is_none() {
            self.since_ms = self.since_ms.min(since_ms);
        } else {
            let next_ms = self.next_since_ms.unwrap_or(since_ms);
            self.next_since_ms = Some(next_ms.min(since_ms));
        }
        self
    }

    fn of(record: &EntityRecord) -> Self {
        let member = |name| scan::member(&record.config, name);
        let number = |name| member(name).and_then(|text| text.parse().ok());
        Self {
            since_ms: number("since").unwrap_or_default(),
            filled: member("filled").and_then(scan::string).map(Box::from),
            made: number("made").unwrap_or_default(),
            next_since_ms: number("next"),
        }
    }

    /// Its record in the store.
    pub(super) fn entity(&self, hostname: &Hostname) -> Entity {
        let mut config = Object::default();
        let number = |number| Value::Number(Number::Unsigned(number));
        if let Some(filled) = &self.filled {
            config.insert("filled", Value::from(&**filled));
        }
        config.insert("made", number(self.made));
        if let Some(next_since_ms) = self.next_since_ms {
            config.insert("next", number(next_since_ms));
        }
        config.insert("since", number(self.since_ms));
        Entity {
            key: hostname.as_str().to_owned(),
            config: Value::Object(config).to_text(),
            ..Entity::default()
        }
    }

    /// Whether episodes that were opened before `before_ms` may be missing; without it: any.
    pub fn reaches(&self, before_ms: Option<u64>) -> bool {
        let begin_ms = self.since_ms.saturating_sub(BEFORE_MS_MAX);
        before_ms.is_none_or(|before_ms| before_ms > begin_ms)
    }

    /// Episodes that may be made of the recordings of one stream.
    pub fn groups_max(&self) -> usize {
        if self.made < EPISODES_PER_GAP_MAX {
            GROUPS_PER_STREAM_MAX
        } else {
            1
        }
    }
}

pub(super) fn gap_key(hostname: &str) -> Key {
    Key::trusted(Kind::ReportGap, hostname)
}

impl State {
    /// The gap in the reports of a streamer whose recordings are not read yet.
    pub fn report_gap(&self, hostname: &str) -> Option<ReportGap> {
        let gaps = self.entities(Kind::ReportGap);
        gaps.get(&gap_key(hostname)).map(ReportGap::of)
    }
}

/// The streamers that may have recordings of a stream.
pub fn recorders(stream: &ArchivedStream) -> impl Iterator<Item = &str> {
    let now = holders(stream).filter(|(_, role)| role.is_source());
    let before = stream.ingest_history().into_iter();
    now.map(|(host, _)| host)
        .chain(before.map(|(_, host, _)| host))
}

/// Whether the recordings of a streamer can be read.
pub fn is_readable(state: &State, hostname: &str) -> bool {
    state.streamer(hostname).is_some_and(is_queried)
}

/// The gaps that a start of this server opens: since the last commit, for each streamer that may
/// have recordings of streams with automatic episodes. What this server saw before, it committed.
pub fn at_start(state: &State) -> Vec<(Hostname, u64)> {
    let streams = (0..SHARDS).flat_map(|shard| state.shard(shard).values());
    let hosts = streams.filter(|stream| makes_episodes(stream));
    let hosts: BTreeSet<&str> = hosts.flat_map(|stream| recorders(stream)).collect();
    let hosts = hosts.into_iter().filter(|host| is_readable(state, host));
    hosts
        .map(|host| (Hostname::trusted(host), state.stamp_ms()))
        .collect()
}

/// The streams of a streamer whose recordings may have become episodes in a gap, above a name.
pub fn streams_of(state: &State, hostname: &str, gap: &ReportGap) -> Vec<StreamName> {
    let is_above = |name: &str| gap.filled.as_deref().is_none_or(|filled| name > filled);
    let makes = |name: &str| state.stream(name).is_some_and(makes_episodes);
    let node = state.node(hostname);
    let held = node.into_iter().flat_map(|node| node.streams.iter());
    let held = held.filter(|(_, role): &(_, &Role)| role.is_source());
    let mut names: Vec<StreamName> = held.map(|(name, _)| name.clone()).collect();
    // Streams that were moved away since then.
    for stream in state.streams_changed_from(gap.since_ms, None) {
        if stream.ingest_history().iter().any(|it| it.1 == hostname) {
            names.push(StreamName::trusted(&stream.name));
        }
    }
    names.retain(|name| is_above(name) && makes(name));
    names.sort_unstable();
    names.dedup();
    names
}

/// The recordings of one stream on a streamer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRecordings {
    pub stream: StreamName,
    /// In ascending order, apart by the close timeout.
    pub groups: Vec<Span>,
    /// The stream is published now.
    pub is_published: bool,
}

/// Recordings that were read, in the order of their streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapFill {
    pub hostname: Hostname,
    /// Begin of the gap.
    pub since_ms: u64,
    /// The stream after which these begin.
    pub after: Option<Box<str>>,
    pub recordings: Vec<StreamRecordings>,
    /// The last of these streams; `None` if there are no others, and the gap ends.
    pub until: Option<Box<str>>,
}

impl GapFill {
    /// The records that it may change.
    pub fn weight(&self) -> usize {
        1 + self
            .recordings
            .iter()
            .map(|it| it.groups.len())
            .sum::<usize>()
    }
}

/// An automatic episode, as far as recordings may change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownEpisode {
    pub opened_at: u64,
    /// The end of its publication, if later recordings continue it.
    pub ended_at: Option<u64>,
    /// What it protects ends then.
    pub until: u64,
}

/// A change of a stream's automatic episodes after its recordings were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FillStep {
    Make(Span),
    /// The episode of this number begins earlier, or its publication ended later.
    Change {
        index: usize,
        opened_at: u64,
        ended_at: Option<u64>,
    },
}

/// An episode while the steps are decided.
struct PlannedEpisode {
    episode: KnownEpisode,
    /// Its number; `None` if it is new.
    index: Option<usize>,
    is_changed: bool,
}

/// The rule: each group that reaches into the gap is covered by automatic episodes. One that
/// continues the episode before, or leads to the one after, makes that longer; an episode that is
/// closed stays, and the rest of the group is another one.
pub fn plan(
    known: &[KnownEpisode],
    groups: &[Span],
    since_ms: u64,
    close_timeout_ms: u64,
) -> Vec<FillStep> {
    let planned = |(index, episode): (usize, &KnownEpisode)| PlannedEpisode {
        episode: *episode,
        index: Some(index),
        is_changed: false,
    };
    let mut all: Vec<PlannedEpisode> = known.iter().enumerate().map(planned).collect();
    all.sort_by_key(|it| it.episode.opened_at);
    for group in groups.iter().filter(|group| group.to > since_ms) {
        let is_old = group.from.saturating_add(BEFORE_MS_MAX) < since_ms;
        let from = if is_old { since_ms } else { group.from };
        let group = Span { from, ..*group };
        continue_open(&mut all, group, close_timeout_ms);
        if let Some(new) = uncovered(&mut all, group, close_timeout_ms) {
            all.push(new);
            all.sort_by_key(|it| it.episode.opened_at);
        }
    }
    let steps = all.into_iter().filter(|it| it.is_changed);
    steps
        .map(|PlannedEpisode { episode, index, .. }| match index {
            Some(index) => FillStep::Change {
                index,
                opened_at: episode.opened_at,
                ended_at: episode.ended_at,
            },
            None => FillStep::Make(Span {
                from: episode.opened_at,
                to: episode.ended_at.unwrap_or(episode.until),
            }),
        })
        .collect()
}

/// Moves the end of the open episode that a group continues.
fn continue_open(all: &mut [PlannedEpisode], group: Span, close_timeout_ms: u64) {
    for it in all.iter_mut().rev() {
        let KnownEpisode {
            opened_at, until, ..
        } = it.episode;
        let touches = opened_at <= group.to && group.from < until;
        if let Some(ended_at) = it.episode.ended_at.filter(|_| touches) {
            if group.to > ended_at {
                it.episode.ended_at = Some(group.to);
                it.episode.until = group.to.saturating_add(close_timeout_ms);
                it.is_changed = true;
            }
            return;
        }
    }
}

/// Makes an episode earlier that begins within a group or soon after it. Returns the episode for
/// what is left at the end of the group.
fn uncovered(
    all: &mut [PlannedEpisode],
    group: Span,
    close_timeout_ms: u64,
) -> Option<PlannedEpisode> {
    let mut at = group.from;
    for it in all.iter_mut() {
        let KnownEpisode {
            opened_at, until, ..
        } = it.episode;
        if until <= at {
            continue;
        }
        if opened_at >= group.to.saturating_add(close_timeout_ms) {
            break;
        }
        if opened_at > at.saturating_add(EDGE_MS_MAX) {
            it.episode.opened_at = at;
            it.is_changed = true;
        }
        at = at.max(until);
    }
    let is_covered = at >= group.to || (at > group.from && group.to - at <= EDGE_MS_MAX);
    (!is_covered).then(|| PlannedEpisode {
        episode: KnownEpisode {
            opened_at: at,
            ended_at: Some(group.to),
            until: group.to.saturating_add(close_timeout_ms),
        },
        index: None,
        is_changed: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINCE: u64 = 1_800_000_000_000;
    const TIMEOUT: u64 = 10_000;

    /// Seconds after the begin of the gap.
    fn at(seconds: i64) -> u64 {
        SINCE.saturating_add_signed(seconds * 1_000)
    }

    fn span(from: i64, to: i64) -> Span {
        Span {
            from: at(from),
            to: at(to),
        }
    }

    fn closed(from: i64, to: i64) -> KnownEpisode {
        KnownEpisode {
            opened_at: at(from),
            ended_at: None,
            until: at(to),
        }
    }

    fn paused(from: i64, to: i64) -> KnownEpisode {
        KnownEpisode {
            opened_at: at(from),
            ended_at: Some(at(to)),
            until: at(to) + TIMEOUT,
        }
    }

    fn published(from: i64) -> KnownEpisode {
        KnownEpisode {
            opened_at: at(from),
            ended_at: None,
            until: u64::MAX,
        }
    }

    fn make(from: i64, to: i64) -> FillStep {
        FillStep::Make(span(from, to))
    }

    fn change(opened_at: i64, ended_at: Option<i64>) -> FillStep {
        FillStep::Change {
            index: 0,
            opened_at: at(opened_at),
            ended_at: ended_at.map(at),
        }
    }

    #[test]
    fn recordings_of_a_gap_become_episodes_once() {
        // Columns: automatic episodes, groups of recordings, steps.
        type Row = (Vec<KnownEpisode>, Vec<Span>, Vec<FillStep>);
        let table: [Row; 14] = [
            (vec![], vec![], vec![]),
            (
                vec![],
                vec![span(5, 9), span(60, 90)],
                vec![make(5, 9), make(60, 90)],
            ),
            // Before the gap: a user deleted the episode, or there was none.
            (vec![], vec![span(-90, -50), span(-30, -1)], vec![]),
            (vec![], vec![span(-3_000, 50)], vec![make(0, 50)]),
            // The last reports before the gap may be missing.
            (vec![], vec![span(-3, 50)], vec![make(-3, 50)]),
            // On the air at the begin of the gap, and not any more.
            (
                vec![paused(-500, -1)],
                vec![span(-500, 700)],
                vec![change(-500, Some(700))],
            ),
            (
                vec![paused(-500, -20)],
                vec![span(-500, 700)],
                vec![make(0, 700)],
            ),
            // Closed meanwhile: it is closed once.
            (
                vec![closed(-500, 9)],
                vec![span(-500, 700)],
                vec![make(9, 700)],
            ),
            (vec![closed(-500, 9)], vec![span(-500, 8)], vec![]),
            // On the air before and after.
            (
                vec![published(-500)],
                vec![span(-500, 20), span(60, 90)],
                vec![],
            ),
            // On the air again, with a recording before within the timeout, or long before.
            (
                vec![published(100)],
                vec![span(50, 95), span(100, 130)],
                vec![change(50, None)],
            ),
            (
                vec![published(100)],
                vec![span(50, 80), span(100, 130)],
                vec![make(50, 80)],
            ),
            (vec![published(100)], vec![span(99, 130)], vec![]),
            // Another streamer has a copy.
            (
                vec![paused(50, 80)],
                vec![span(50, 80), span(48, 82)],
                vec![change(48, Some(82))],
            ),
        ];
        for (known, groups, expected) in table {
            let steps = plan(&known, &groups, SINCE, TIMEOUT);
            assert_eq!(steps, expected, "{known:?} {groups:?}");
        }
    }

    #[test]
    fn recordings_of_a_gap_are_covered_and_change_nothing_twice() {
        // Method: random episodes and recordings; the steps are carried out on them.
        let mut random = 88_172_645_463_325_252_u64;
        let mut next = move |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for _ in 0..20_000 {
            let mut known = Vec::new();
            let mut end = SINCE - 200_000;
            for _ in 0..next(4) {
                let opened_at = end + next(150_000);
                end = opened_at + next(100_000);
                known.push(KnownEpisode {
                    opened_at,
                    ended_at: None,
                    until: end,
                });
            }
            if let Some(last) = known.last_mut().filter(|_| next(2) == 0) {
                last.ended_at = Some(last.until);
                last.until += TIMEOUT;
            }
            let spans = (0..next(6)).map(|_| {
                let from = SINCE - 100_000 + next(600_000);
                Span {
                    from,
                    to: from + next(100_000),
                }
            });
            let groups = grouped(spans.collect(), TIMEOUT, GROUPS_PER_STREAM_MAX);
            for step in plan(&known, &groups, SINCE, TIMEOUT) {
                match step {
                    FillStep::Make(Span { from, to }) => known.push(KnownEpisode {
                        opened_at: from,
                        ended_at: Some(to),
                        until: to + TIMEOUT,
                    }),
                    FillStep::Change {
                        index,
                        opened_at,
                        ended_at,
                    } => {
                        let it = &mut known[index];
                        assert!(opened_at <= it.opened_at && ended_at >= it.ended_at);
                        it.opened_at = opened_at;
                        it.ended_at = ended_at;
                        it.until = ended_at.map_or(it.until, |at| at + TIMEOUT);
                    }
                }
            }
            for group in groups.iter().filter(|group| group.to > SINCE) {
                for moment in [group.from.max(SINCE), group.to] {
                    let covers = |it: &KnownEpisode| {
                        it.opened_at <= moment + EDGE_MS_MAX && moment <= it.until + EDGE_MS_MAX
                    };
                    assert!(known.iter().any(covers), "{moment} {known:?} {groups:?}");
                }
            }
            let again = plan(&known, &groups, SINCE, TIMEOUT);
            assert_eq!(again, [], "{known:?} {groups:?}");
        }
    }

    #[test]
    fn too_many_recordings_are_joined_and_none_is_left_out() {
        let spans: Vec<Span> = (0..10_000).map(|i| span(i * 20, i * 20 + 1)).collect();
        let apart = grouped(spans[..100].to_vec(), TIMEOUT, GROUPS_PER_STREAM_MAX);
        assert_eq!(apart, spans[..100]);
        let groups = grouped(spans.clone(), TIMEOUT, GROUPS_PER_STREAM_MAX);
        assert!(groups.len() <= GROUPS_PER_STREAM_MAX, "{}", groups.len());
        for span in &spans {
            let covers = |it: &Span| it.from <= span.from && span.to <= it.to;
            assert!(groups.iter().any(covers), "{span:?}");
        }
        assert_eq!(grouped(spans, TIMEOUT, 1), [span(0, 9_999 * 20 + 1)]);
        let close = vec![span(0, 5), span(14, 20), span(30, 31)];
        assert_eq!(grouped(close, TIMEOUT, 9), [span(0, 20), span(30, 31)]);
    }
}
