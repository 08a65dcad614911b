//! What is over for long enough goes: closed episodes, deleted persons; and automatic episodes close in time.
//!
//! The writer looks at a slice of what there is now and then, and gives itself a command for what is due. Both questions, what to look at and
//! what becomes of it, are functions of a state and a time; the second is asked again when the command is applied, on the newest state.
//! Time is counted from the last change if that is later than the end: an episode that is saved late is kept from then on, and whoever follows
//! the stamps has all of that time to learn of a deletion.

use std::ops::Bound;

use super::State;
use super::entity::{Key, Kind};
use super::episode::{OpenPublication, STAMP_AGE_MS_MAX, close_timeout_ms};
use super::record::{ArchivedFacts, EntityRecord};

/// How long deleted persons are kept.
pub const PERSONS_KEPT_MS: u64 = 30 * 24 * 3600 * 1000;

/// How long what is over is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// From the end of an episode; 0: for ever.
    pub episodes_ms: u64,
    /// From the deletion of a person.
    pub persons_ms: u64,
    /// What time it is at least ([`super::trusted_time`]), UTC ms: nothing that is kept until later goes, whatever the stamps say.
    pub trusted_ms: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            episodes_ms: 90 * 24 * 3600 * 1000,
            persons_ms: PERSONS_KEPT_MS,
            trusted_ms: u64::MAX,
        }
    }
}

/// What becomes of an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    Remove,
    /// An automatic episode whose time is over.
    Close {
        at: u64,
    },
    /// An automatic episode that goes on and must say so.
    Renew,
}

/// What is due for an entity.
pub fn verdict(state: &State, record: &EntityRecord, kept: &Retention, now_ms: u64) -> Verdict {
    let updated_at = record.updated_at.to_native();
    let surely_ms = now_ms.min(kept.trusted_ms);
    let is_over =
        |ended_at: u64, kept_ms: u64| surely_ms >= ended_at.max(updated_at).saturating_add(kept_ms);
    match &record.facts {
        ArchivedFacts::Episode {
            media, closed_at, ..
        } => match (closed_at.as_ref(), OpenPublication::of(record)) {
            (Some(closed_at), _)
                if kept.episodes_ms > 0 && is_over(closed_at.to_native(), kept.episodes_ms) =>
            {
                Verdict::Remove
            }
            (None, Some(open)) => {
                let timeout_ms = state
                    .stream(media)
                    .map_or(0, |stream| close_timeout_ms(stream));
                automatic(open, timeout_ms, updated_at, now_ms)
            }
            _ => Verdict::Keep,
        },
        ArchivedFacts::Person { deleted_at } => match deleted_at.as_ref() {
            Some(deleted_at) if is_over(deleted_at.to_native(), kept.persons_ms) => Verdict::Remove,
            _ => Verdict::Keep,
        },
        _ => Verdict::Keep,
    }
}

fn automatic(open: OpenPublication, timeout_ms: u64, updated_at: u64, now_ms: u64) -> Verdict {
    match open.ended_at {
        Some(ended_at) if now_ms >= ended_at.saturating_add(timeout_ms) => Verdict::Close {
            at: ended_at.saturating_add(timeout_ms),
        },
        // The stream is gone or has no automatic episodes any more: nobody would tell of the end.
        None if timeout_ms == 0 => Verdict::Close {
            at: now_ms.max(open.opened_at),
        },
        None if now_ms >= updated_at.saturating_add(STAMP_AGE_MS_MAX) => Verdict::Renew,
        Some(_) | None => Verdict::Keep,
    }
}

/// Where looking goes on; starts over at the end.
#[derive(Debug, Clone, Default)]
pub struct Place {
    automatic: Option<u64>,
    episode: Option<Key>,
    person: Option<Key>,
}

/// What of the next slice is due. `looks_max` bounds what is looked at of each sort.
pub fn due(
    state: &State,
    kept: &Retention,
    now_ms: u64,
    place: &mut Place,
    looks_max: usize,
) -> Vec<(Kind, Key)> {
    let mut due = Vec::new();
    let mut look = |kind: Kind, key: &Key, record: &EntityRecord| {
        if verdict(state, record, kept, now_ms) != Verdict::Keep {
            due.push((kind, key.clone()));
        }
    };
    let episodes = state.entities(Kind::Episode);
    let mut last = None;
    for (looks, id) in (1..).zip(state.episodes().open_automatic(place.automatic)) {
        let key = Key::Number(id);
        if let Some(record) = episodes.get(&key) {
            look(Kind::Episode, &key, record);
        }
        if looks == looks_max {
            last = Some(id);
            break;
        }
    }
    place.automatic = last;
    for (kind, place) in [
        (Kind::Episode, &mut place.episode),
        (Kind::Person, &mut place.person),
    ] {
        let from = place.take().map_or(Bound::Unbounded, Bound::Excluded);
        let all = state.entities(kind).by_key();
        for (looks, (key, record)) in (1..).zip(all.range((from, Bound::Unbounded))) {
            // Open automatic ones have had their turn.
            if OpenPublication::of(record).is_none() {
                look(kind, key, record);
            }
            if looks == looks_max {
                *place = Some(key.clone());
                break;
            }
        }
    }
    due
}

#[cfg(test)]
mod tests {
    use super::super::apply::{Stamp, apply};
    use super::super::command::{Command, EntitySave, StreamPatch};
    use super::super::episode::PublicationNews;
    use super::super::name::StreamName;
    use super::super::node::RenderSettings;
    use super::*;
    use crate::json::{self, scan};

    const NOW: u64 = 1_800_000_000_000;
    const DAY: u64 = 24 * 3600 * 1000;
    const KEPT: Retention = Retention {
        episodes_ms: 90 * DAY,
        persons_ms: PERSONS_KEPT_MS,
        trusted_ms: u64::MAX,
    };

    /// A state with a clock that only tests move.
    struct Sut {
        state: State,
        now_ms: u64,
        place: Place,
    }

    impl Sut {
        fn new() -> Self {
            Self {
                state: State::new(1, RenderSettings::default()),
                now_ms: NOW,
                place: Place::default(),
            }
        }

        fn apply(&mut self, command: Command) -> usize {
            let stamp = Stamp {
                revision: self.state.revision() + 1,
                ms: self.now_ms.max(self.state.stamp_ms() + 1),
            };
            let changes = apply(&self.state, command, stamp).expect("is applied");
            if !changes.is_empty() {
                self.state.absorb(&changes);
            }
            changes.entities.len()
        }

        fn save(&mut self, kind: Kind, id: u64, body: &str) -> usize {
            let body = json::parse(body.as_bytes()).expect("JSON");
            let save = EntitySave::from_body(kind, Key::Number(id), body, "").expect("fits");
            self.apply(Command::SaveEntity(save))
        }

        fn stream(&mut self, name: &str, body: &str) {
            let name = StreamName::trusted(name);
            let body = json::parse(body.as_bytes()).expect("JSON");
            let patch = StreamPatch::from_body(body, &name, "").expect("fits");
            self.apply(Command::SaveStream { name, patch });
        }

        fn news(&mut self, news: PublicationNews) {
            let stream = StreamName::trusted("cam");
            self.apply(Command::Publication { stream, news });
        }

        /// Looks at everything once, as the writer does over time. Returns how many entities changed.
        fn keep_house(&mut self, looks_max: usize) -> usize {
            let mut changed = 0;
            loop {
                let looked = due(&self.state, &KEPT, self.now_ms, &mut self.place, looks_max);
                changed += self.apply(Command::KeepHouse { kept: KEPT, looked });
                let Place {
                    automatic: None,
                    episode: None,
                    person: None,
                } = self.place
                else {
                    continue;
                };
                return changed;
            }
        }

        fn keys(&self, kind: Kind) -> Vec<String> {
            let keys = self.state.entities(kind).by_key().keys();
            keys.map(ToString::to_string).collect()
        }

        fn automatic(&self) -> Vec<(u64, Option<u64>)> {
            let of = self.state.episodes().of("cam", None);
            of.map(|record| {
                let member = |name| scan::member(&record.config, name)?.parse().ok();
                (
                    member("opened_at").expect("it has a begin"),
                    member("closed_at"),
                )
            })
            .collect()
        }
    }

    #[test]
    fn closed_episodes_go_when_their_time_is_over_and_open_ones_stay() {
        let mut sut = Sut::new();
        let media = r#""media":"cam","opened_at":1700000000000"#;
        sut.save(Kind::Episode, 1, &format!("{{{media}}}"));
        for id in 2..=20 {
            // Closed long ago and saved today: kept from today on.
            let body = format!(r#"{{{media},"closed_at":1700000000001}}"#);
            sut.save(Kind::Episode, id, &body);
        }
        sut.now_ms = NOW + 89 * DAY;
        sut.save(
            Kind::Episode,
            30,
            &format!(r#"{{{media},"closed_at":{}}}"#, sut.now_ms),
        );
        assert_eq!(sut.keep_house(7), 0);
        sut.now_ms = NOW + 90 * DAY + 1000;
        assert_eq!(sut.keep_house(7), 19);
        assert_eq!(sut.keys(Kind::Episode), ["1", "30"]);
        assert_eq!(sut.state.episodes().of("cam", None).count(), 2);
        sut.now_ms = NOW + 179 * DAY + 1000;
        assert_eq!(sut.keep_house(7), 1);
        assert_eq!(sut.keys(Kind::Episode), ["1"], "an open one has no end");
    }

    #[test]
    fn nothing_goes_by_a_clock_that_is_not_trusted() {
        let mut sut = Sut::new();
        let closed = r#"{"media":"cam","opened_at":1700000000000,"closed_at":1700000000001}"#;
        sut.save(Kind::Episode, 1, closed);
        sut.save(Kind::Person, 1, r#"{"originator":"api"}"#);
        let (kind, key) = (Kind::Person, Key::Number(1));
        sut.apply(Command::DeleteEntity { kind, key });
        // The clock is five years ahead, and nobody believes it.
        let now_ms = NOW + 5 * 365 * DAY;
        let look = |sut: &Sut, trusted_ms| {
            let kept = Retention { trusted_ms, ..KEPT };
            let looked = due(&sut.state, &kept, now_ms, &mut Place::default(), 10);
            (kept, looked)
        };
        assert!(look(&sut, NOW + DAY).1.is_empty());
        // What was looked at by another time is judged by the time of the command.
        let (_, looked) = look(&sut, u64::MAX);
        assert_eq!(looked.len(), 2);
        sut.now_ms = now_ms;
        let kept = look(&sut, NOW + DAY).0;
        assert_eq!(sut.apply(Command::KeepHouse { kept, looked }), 0);
        let (kept, looked) = look(&sut, now_ms);
        assert_eq!(sut.apply(Command::KeepHouse { kept, looked }), 2);
    }

    #[test]
    fn deleted_persons_are_shown_as_deleted_and_then_go() {
        let mut sut = Sut::new();
        for id in 1..=3 {
            sut.save(Kind::Person, id, r#"{"originator":"api"}"#);
        }
        let delete = |id| Command::DeleteEntity {
            kind: Kind::Person,
            key: Key::Number(id),
        };
        assert_eq!(sut.apply(delete(1)), 1);
        assert_eq!(sut.apply(delete(1)), 0, "deleted already");
        assert_eq!(sut.apply(delete(2)), 1);
        assert_eq!(sut.keys(Kind::Person), ["1", "2", "3"]);
        // Saving revives.
        assert_eq!(sut.save(Kind::Person, 2, "{}"), 1);
        sut.now_ms = NOW + 30 * DAY;
        assert_eq!(
            sut.keep_house(2),
            0,
            "the stamp is a little above the clock"
        );
        sut.now_ms += 1000;
        assert_eq!(sut.keep_house(2), 1);
        assert_eq!(sut.keys(Kind::Person), ["2", "3"]);
    }

    #[test]
    fn what_changed_since_it_was_looked_at_is_judged_anew() {
        let mut sut = Sut::new();
        let body = r#"{"media":"cam","opened_at":1700000000000,"closed_at":1700000000001}"#;
        sut.save(Kind::Episode, 1, body);
        sut.now_ms = NOW + 91 * DAY;
        let looked = due(&sut.state, &KEPT, sut.now_ms, &mut Place::default(), 10);
        assert_eq!(looked.len(), 1);
        sut.save(Kind::Episode, 1, r#"{"preview":"aaaa"}"#);
        assert_eq!(sut.apply(Command::KeepHouse { kept: KEPT, looked }), 0);
    }

    #[test]
    fn a_publication_makes_an_episode_that_closes_a_while_after_its_end() {
        let mut sut = Sut::new();
        sut.stream("cam", r#"{"autogenerated_episodes_close_timeout":10}"#);
        sut.news(PublicationNews::Started { at: NOW });
        sut.news(PublicationNews::Started { at: NOW });
        assert_eq!(sut.automatic(), [(NOW, None)]);
        // While it goes on its stamp does.
        let stamp = |sut: &Sut| {
            let episode = sut.state.episodes().last_automatic("cam");
            episode.expect("is there").updated_at.to_native()
        };
        let before = stamp(&sut);
        sut.now_ms = NOW + STAMP_AGE_MS_MAX + 1000;
        assert_eq!(sut.keep_house(10), 1);
        assert!(stamp(&sut) > before);
        assert_eq!(sut.keep_house(10), 0);
        // A pause within the timeout continues it.
        let ended = sut.now_ms;
        sut.news(PublicationNews::Ended { at: ended });
        sut.now_ms = ended + 9_000;
        assert_eq!(sut.keep_house(10), 0);
        sut.news(PublicationNews::Started { at: ended + 9_000 });
        sut.news(PublicationNews::Ended { at: ended + 20_000 });
        assert_eq!(sut.automatic(), [(NOW, None)]);
        sut.now_ms = ended + 30_000;
        assert_eq!(sut.keep_house(10), 1);
        assert_eq!(sut.automatic(), [(NOW, Some(ended + 30_000))]);
        // The next one is another, and is closed by what comes after it if nobody kept house meanwhile.
        sut.news(PublicationNews::Started { at: ended + 31_000 });
        sut.news(PublicationNews::Ended { at: ended + 32_000 });
        sut.news(PublicationNews::Started { at: ended + 90_000 });
        assert_eq!(
            sut.automatic(),
            [
                (NOW, Some(ended + 30_000)),
                (ended + 31_000, Some(ended + 42_000)),
                (ended + 90_000, None)
            ]
        );
        // Without its stream nobody would ever end it.
        let name = StreamName::trusted("cam");
        sut.now_ms = ended + 95_000;
        sut.apply(Command::DeleteStream { name });
        assert_eq!(sut.keep_house(10), 1);
        assert!(sut.automatic()[2].1.is_some());
        assert_eq!(sut.state.episodes().open_automatic(None).count(), 0);
    }

    #[test]
    fn streams_without_automatic_episodes_get_none() {
        let mut sut = Sut::new();
        sut.stream("cam", "{}");
        sut.news(PublicationNews::Started { at: NOW });
        sut.news(PublicationNews::Ended { at: NOW + 1 });
        assert!(sut.automatic().is_empty());
        assert_eq!(sut.state.revision(), 1);
    }
}
