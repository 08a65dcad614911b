//! Gaps of reports: they open, recordings fill them, and they end.

use std::collections::HashSet;

use super::Changes;
use super::entity::{finish, remove, save_entity};
use super::episode::{continued, free_key, new_automatic};
use crate::json::{Number, Object, Value};
use crate::state::State;
use crate::state::changes::Done;
use crate::state::command::EntitySave;
use crate::state::entity::{Key, Kind};
use crate::state::episode::{OpenPublication, close_timeout_ms, makes_episodes};
use crate::state::name::Hostname;
use crate::state::record::{ArchivedFacts, EntityRecord, Publication};
use crate::state::report_gap::{
    FillStep, GapFill, KnownEpisode, ReportGap, StreamRecordings, gap_key, is_readable, plan,
};

/// Automatic episodes that are looked at before the first one that begins with the recordings.
const EARLIER_EPISODES_MAX: usize = 8;

/// Opens gaps. One that is open already is followed by the new one.
pub(super) fn open(state: &State, items: Vec<(Hostname, u64)>, changes: &mut Changes) -> Done {
    for (hostname, since_ms) in items {
        if !is_readable(state, &hostname) {
            continue;
        }
        let gap = match state.report_gap(&hostname) {
            Some(gap) => gap.followed_by(since_ms),
            None => ReportGap::new(since_ms),
        };
        save(state, &hostname, &gap, changes);
    }
    Done::Nothing
}

fn save(state: &State, hostname: &Hostname, gap: &ReportGap, changes: &mut Changes) {
    let key = gap_key(hostname);
    let old = state.entities(Kind::ReportGap).get(&key);
    finish(
        Kind::ReportGap,
        key,
        old,
        gap.entity(hostname),
        false,
        changes,
    );
}

/// Ends the gap of a streamer, if it has one.
fn end(state: &State, hostname: &str, changes: &mut Changes) {
    let key = gap_key(hostname);
    if let Some(old) = state.entities(Kind::ReportGap).get(&key) {
        remove(Kind::ReportGap, key, old.clone(), changes);
    }
}

/// Makes episodes of recordings. Does nothing if the gap is another one by now, or these are not
/// the recordings that come next.
pub(super) fn fill(state: &State, fill: GapFill, changes: &mut Changes) -> Done {
    let Some(gap) = state.report_gap(&fill.hostname) else {
        return Done::Nothing;
    };
    if gap.since_ms != fill.since_ms || gap.filled != fill.after {
        return Done::Nothing;
    }
    let mut new_keys = HashSet::new();
    for recordings in &fill.recordings {
        fill_stream(state, recordings, gap.since_ms, &mut new_keys, changes);
    }
    if fill.until.is_none() {
        match gap.next_since_ms {
            Some(next_ms) => save(state, &fill.hostname, &ReportGap::new(next_ms), changes),
            None => end(state, &fill.hostname, changes),
        }
        return Done::Nothing;
    }
    let gap = ReportGap {
        filled: fill.until,
        made: gap.made + new_keys.len() as u64,
        ..gap
    };
    save(state, &fill.hostname, &gap, changes);
    Done::Nothing
}

fn fill_stream(
    state: &State,
    recordings: &StreamRecordings,
    since_ms: u64,
    new_keys: &mut HashSet<Key>,
    changes: &mut Changes,
) {
    let name = &recordings.stream;
    let (Some(stream), Some(first)) = (state.stream(name), recordings.groups.first()) else {
        return;
    };
    if !makes_episodes(stream) {
        return;
    }
    let timeout_ms = close_timeout_ms(stream);
    let mut earlier = 0;
    let records = state.episodes().automatic_of(name).rev();
    let records: Vec<&EntityRecord> = records
        .take_while(|record| {
            earlier += usize::from(opened_at(record) < first.from);
            earlier <= EARLIER_EPISODES_MAX
        })
        .collect();
    let known = |record: &&EntityRecord| known(record, recordings.is_published, timeout_ms);
    let known: Vec<KnownEpisode> = records.iter().map(known).collect();
    for step in plan(&known, &recordings.groups, since_ms, timeout_ms) {
        let save = match step {
            FillStep::Make(span) => {
                let key = free_key(state, name, span.from, new_keys);
                new_keys.insert(key.clone());
                new_automatic(name, key, span.from, Some(span.to))
            }
            FillStep::Change {
                index,
                opened_at,
                ended_at,
            } => changed(records[index], opened_at, ended_at),
        };
        // The times were checked; an episode that does not fit does not keep others from it.
        let _ = save_entity(state, save, None, changes);
    }
}

fn opened_at(record: &EntityRecord) -> u64 {
    match &record.facts {
        ArchivedFacts::Episode { opened_at, .. } => opened_at.to_native(),
        _ => 0,
    }
}

/// An open episode of a stream that is not published any more ends with its last stamp, until its
/// recordings show a later end.
fn known(record: &EntityRecord, is_published: bool, timeout_ms: u64) -> KnownEpisode {
    let closed_at = match &record.facts {
        ArchivedFacts::Episode { closed_at, .. } => closed_at.as_ref().map(|at| at.to_native()),
        _ => None,
    };
    let open = OpenPublication::of(record).map(|open| open.ended_at);
    let ended_at = match open {
        None => None,
        Some(None) if is_published => None,
        Some(None) => Some(record.updated_at.to_native()),
        Some(ended_at) => ended_at,
    };
    let until = ended_at.map(|at| at.saturating_add(timeout_ms));
    KnownEpisode {
        opened_at: opened_at(record),
        ended_at,
        until: until.or(closed_at).unwrap_or(u64::MAX),
    }
}

fn changed(record: &EntityRecord, opened_at_ms: u64, ended_at: Option<u64>) -> EntitySave {
    let mut patch = Object::default();
    if opened_at_ms != opened_at(record) {
        let opened_at_ms = Value::Number(Number::Unsigned(opened_at_ms));
        patch.insert("opened_at", opened_at_ms);
    }
    let publication = ended_at.map(|ended_at| Publication {
        ended_at: Some(ended_at),
    });
    continued(record, patch, publication)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use crate::state::apply::{Stamp, apply};
    use crate::state::command::{Command, StreamPatch, streamer_patch};
    use crate::state::name::StreamName;
    use crate::state::node::RenderSettings;
    use crate::state::report_gap::Span;

    const NOW: u64 = 1_800_000_000_000;

    struct GapFixture(State);

    impl GapFixture {
        fn new() -> Self {
            let mut this = Self(State::new(1, RenderSettings::default()));
            let hostname = Hostname::trusted("s1");
            let body = br#"{"role":"streamer","cluster_key":"k","api_url":"http://h"}"#;
            let body = json::parse(body).expect("JSON");
            let patch = streamer_patch(body, &hostname, "").expect("a streamer");
            this.apply(Command::SaveStreamer { hostname, patch });
            for name in ["a", "b"] {
                let body = br#"{"inputs":[{"url":"publish://"}],
                    "autogenerated_episodes_close_timeout":10}"#;
                let body = json::parse(body).expect("JSON");
                let name = StreamName::trusted(name);
                let patch = StreamPatch::from_body(body, &name, "").expect("a stream");
                this.apply(Command::SaveStream { name, patch });
            }
            this
        }

        fn apply(&mut self, command: Command) {
            let stamp = Stamp {
                revision: self.0.revision() + 1,
                ms: self.0.stamp_ms().max(NOW) + 1,
            };
            let changes = apply(&self.0, command, stamp).expect("is applied");
            if !changes.is_empty() {
                self.0.absorb(&changes);
            }
        }

        fn open(&mut self, host: &str, since_ms: u64) {
            let items = vec![(Hostname::trusted(host), since_ms)];
            self.apply(Command::OpenReportGaps { items });
        }

        /// Fills one stream with recordings of one time.
        fn fill(&mut self, since_ms: u64, after: Option<&str>, stream: &str, until: Option<&str>) {
            let recordings = StreamRecordings {
                stream: StreamName::trusted(stream),
                groups: vec![Span {
                    from: NOW + 1_000,
                    to: NOW + 5_000,
                }],
                is_published: false,
            };
            self.apply(Command::FillReportGap(GapFill {
                hostname: Hostname::trusted("s1"),
                since_ms,
                after: after.map(Box::from),
                recordings: vec![recordings],
                until: until.map(Box::from),
            }));
        }

        fn count(&self) -> usize {
            self.0.entities(Kind::Episode).by_key().len()
        }
    }

    #[test]
    fn parts_of_a_gap_follow_each_other_or_change_nothing() {
        let mut sut = GapFixture::new();
        sut.fill(NOW, None, "a", None);
        assert_eq!(sut.count(), 0, "there is no gap");
        sut.open("unknown", NOW);
        assert_eq!(sut.0.report_gap("unknown"), None);
        sut.open("s1", NOW);
        sut.fill(NOW + 1, None, "a", Some("a"));
        sut.fill(NOW, Some("a"), "b", None);
        assert_eq!(sut.count(), 0, "another gap; a part before it is missing");
        sut.fill(NOW, None, "a", Some("a"));
        let expected = ReportGap {
            since_ms: NOW,
            filled: Some(Box::from("a")),
            made: 1,
            next_since_ms: None,
        };
        assert_eq!(sut.0.report_gap("s1"), Some(expected));
        sut.fill(NOW, None, "b", None);
        assert_eq!(sut.count(), 1, "the first part again");
        sut.fill(NOW, Some("a"), "b", None);
        assert_eq!((sut.count(), sut.0.report_gap("s1")), (2, None));
    }

    #[test]
    fn gap_that_follows_makes_no_deleted_episode_again() {
        let mut sut = GapFixture::new();
        sut.open("s1", NOW);
        sut.open("s1", NOW - 5_000);
        sut.open("s1", NOW + 5_000);
        let since_ms = NOW - 5_000;
        assert_eq!(sut.0.report_gap("s1"), Some(ReportGap::new(since_ms)));
        sut.fill(since_ms, None, "a", Some("a"));
        let first = sut.0.entities(Kind::Episode).by_key().get_min();
        let (key, kind) = (first.expect("an episode").0.clone(), Kind::Episode);
        sut.apply(Command::DeleteEntity { kind, key });
        // A restart in the middle, and another one.
        sut.open("s1", NOW + 9_000);
        sut.open("s1", NOW + 20_000);
        sut.fill(since_ms, Some("a"), "b", None);
        let next = ReportGap::new(NOW + 9_000);
        assert_eq!((sut.count(), sut.0.report_gap("s1")), (1, Some(next)));
        sut.fill(NOW + 9_000, None, "a", Some("a"));
        sut.fill(NOW + 9_000, Some("a"), "b", None);
        assert_eq!((sut.count(), sut.0.report_gap("s1")), (1, None));
    }
}
