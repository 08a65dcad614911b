//! Expiry: closed episodes and deleted persons are deleted past their retention, and automatic
//! episodes close in time.
//!
//! The writer scans a slice of the entities at a time and issues a command for those that are due.
//! Both decisions, which entities are due and what happens to them, are functions of a state and a
//! time; the second is made again when the command is applied, on the newest state. Retention
//! counts from the last change if that is later than the end: an episode that is saved late is kept
//! from then on, and a client that follows the stamps has all of that time to see a deletion.

use std::ops::Bound;

use super::State;
use super::entity::{Key, Kind};
use super::episode::{OpenPublication, STAMP_AGE_MS_MAX, close_timeout_ms};
use super::record::{ArchivedFacts, EntityRecord};

/// How long deleted persons are kept.
const PERSONS_KEPT_MS: u64 = 30 * 24 * 3600 * 1000;

/// How long entities that ended are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// From the end of an episode; 0: without limit.
    pub episodes_ms: u64,
    /// From the deletion of a person.
    pub persons_ms: u64,
    /// Lower bound of the present time ([`super::trusted_time`]), UTC ms. Entities that are kept
    /// until later stay, whatever their stamps.
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

/// The action that is due for an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiryAction {
    Keep,
    Remove,
    /// The timeout of an automatic episode has passed.
    Close {
        at: u64,
    },
    /// An open automatic episode needs a new stamp.
    Renew,
}

/// Decides which action is due for an entity.
pub fn action(state: &State, record: &EntityRecord, kept: &Retention, now_ms: u64) -> ExpiryAction {
    let updated_at = record.updated_at.to_native();
    let certain_ms = now_ms.min(kept.trusted_ms);
    let is_over = |ended_at: u64, kept_ms: u64| {
        certain_ms >= ended_at.max(updated_at).saturating_add(kept_ms)
    };
    match &record.facts {
        ArchivedFacts::Episode {
            media, closed_at, ..
        } => match (closed_at.as_ref(), OpenPublication::of(record)) {
            (Some(closed_at), _)
                if kept.episodes_ms > 0 && is_over(closed_at.to_native(), kept.episodes_ms) =>
            {
                ExpiryAction::Remove
            }
            (None, Some(open)) => {
                let timeout_ms = state
                    .stream(media)
                    .map_or(0, |stream| close_timeout_ms(stream));
                automatic(open, timeout_ms, updated_at, now_ms)
            }
            _ => ExpiryAction::Keep,
        },
        ArchivedFacts::Person { deleted_at } => match deleted_at.as_ref() {
            Some(deleted_at) if is_over(deleted_at.to_native(), kept.persons_ms) => {
                ExpiryAction::Remove
            }
            _ => ExpiryAction::Keep,
        },
        _ => ExpiryAction::Keep,
    }
}

fn automatic(open: OpenPublication, timeout_ms: u64, updated_at: u64, now_ms: u64) -> ExpiryAction {
    match open.ended_at {
        Some(ended_at) if now_ms >= ended_at.saturating_add(timeout_ms) => ExpiryAction::Close {
            at: ended_at.saturating_add(timeout_ms),
        },
        // The stream is gone or has no automatic episodes any more: no report of the end will come.
        None if timeout_ms == 0 => ExpiryAction::Close {
            at: now_ms.max(open.opened_at),
        },
        None if now_ms >= updated_at.saturating_add(STAMP_AGE_MS_MAX) => ExpiryAction::Renew,
        Some(_) | None => ExpiryAction::Keep,
    }
}

/// Where the scan goes on. Opaque to the caller: start with `default()` and pass it back unchanged.
#[derive(Debug, Clone, Default)]
pub struct ExpiryPosition {
    automatic: Option<u64>,
    episode: Option<Key>,
    person: Option<Key>,
}

/// The entities of the next slice that are due. `scanned_max` bounds the slice of each kind.
pub fn due(
    state: &State,
    kept: &Retention,
    now_ms: u64,
    position: &mut ExpiryPosition,
    scanned_max: usize,
) -> Vec<(Kind, Key)> {
    let mut due = Vec::new();
    let mut check = |kind: Kind, key: &Key, record: &EntityRecord| {
        if action(state, record, kept, now_ms) != ExpiryAction::Keep {
            due.push((kind, key.clone()));
        }
    };
    let episodes = state.entities(Kind::Episode);
    let mut last = None;
    for (scanned, id) in (1..).zip(state.episodes().open_automatic(position.automatic)) {
        let key = Key::Number(id);
        if let Some(record) = episodes.get(&key) {
            check(Kind::Episode, &key, record);
        }
        if scanned == scanned_max {
            last = Some(id);
            break;
        }
    }
    position.automatic = last;
    for (kind, position) in [
        (Kind::Episode, &mut position.episode),
        (Kind::Person, &mut position.person),
    ] {
        let from = position.take().map_or(Bound::Unbounded, Bound::Excluded);
        let all = state.entities(kind).by_key();
        for (scanned, (key, record)) in (1..).zip(all.range((from, Bound::Unbounded))) {
            // Open automatic episodes were scanned above.
            if OpenPublication::of(record).is_none() {
                check(kind, key, record);
            }
            if scanned == scanned_max {
                *position = Some(key.clone());
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
    use super::super::episode::PublicationReport;
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
    struct ExpiryFixture {
        state: State,
        now_ms: u64,
        position: ExpiryPosition,
    }

    impl ExpiryFixture {
        fn new() -> Self {
            Self {
                state: State::new(1, RenderSettings::default()),
                now_ms: NOW,
                position: ExpiryPosition::default(),
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

        fn report(&mut self, report: PublicationReport) {
            let stream = StreamName::trusted("cam");
            self.apply(Command::ReportPublication { stream, report });
        }

        /// Scans every entity once, as the writer does over time. Returns how many changed.
        fn expire(&mut self, scanned_max: usize) -> usize {
            let mut changed = 0;
            loop {
                let looked = due(
                    &self.state,
                    &KEPT,
                    self.now_ms,
                    &mut self.position,
                    scanned_max,
                );
                changed += self.apply(Command::ExpireEntities {
                    retention: KEPT,
                    due: looked,
                });
                let ExpiryPosition {
                    automatic: None,
                    episode: None,
                    person: None,
                } = self.position
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
    fn closed_episodes_expire_and_open_ones_stay() {
        let mut sut = ExpiryFixture::new();
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
        assert_eq!(sut.expire(7), 0);
        sut.now_ms = NOW + 90 * DAY + 1000;
        assert_eq!(sut.expire(7), 19);
        assert_eq!(sut.keys(Kind::Episode), ["1", "30"]);
        assert_eq!(sut.state.episodes().of("cam", None).count(), 2);
        sut.now_ms = NOW + 179 * DAY + 1000;
        assert_eq!(sut.expire(7), 1);
        assert_eq!(sut.keys(Kind::Episode), ["1"], "an open episode has no end");
    }

    #[test]
    fn nothing_expires_by_an_untrusted_clock() {
        let mut sut = ExpiryFixture::new();
        let closed = r#"{"media":"cam","opened_at":1700000000000,"closed_at":1700000000001}"#;
        sut.save(Kind::Episode, 1, closed);
        sut.save(Kind::Person, 1, r#"{"originator":"api"}"#);
        let (kind, key) = (Kind::Person, Key::Number(1));
        sut.apply(Command::DeleteEntity { kind, key });
        // The clock is five years ahead and not trusted.
        let now_ms = NOW + 5 * 365 * DAY;
        let look = |sut: &ExpiryFixture, trusted_ms| {
            let kept = Retention { trusted_ms, ..KEPT };
            let looked = due(
                &sut.state,
                &kept,
                now_ms,
                &mut ExpiryPosition::default(),
                10,
            );
            (kept, looked)
        };
        assert!(look(&sut, NOW + DAY).1.is_empty());
        // Entities found at one time are decided on at the time of the command.
        let (_, looked) = look(&sut, u64::MAX);
        assert_eq!(looked.len(), 2);
        sut.now_ms = now_ms;
        let kept = look(&sut, NOW + DAY).0;
        assert_eq!(
            sut.apply(Command::ExpireEntities {
                retention: kept,
                due: looked
            }),
            0
        );
        let (kept, looked) = look(&sut, now_ms);
        assert_eq!(
            sut.apply(Command::ExpireEntities {
                retention: kept,
                due: looked
            }),
            2
        );
    }

    #[test]
    fn deleted_persons_are_shown_as_deleted_and_expire() {
        let mut sut = ExpiryFixture::new();
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
        assert_eq!(sut.expire(2), 0, "the stamp is a little above the clock");
        sut.now_ms += 1000;
        assert_eq!(sut.expire(2), 1);
        assert_eq!(sut.keys(Kind::Person), ["2", "3"]);
    }

    #[test]
    fn expiry_is_checked_again_when_it_is_applied() {
        let mut sut = ExpiryFixture::new();
        let body = r#"{"media":"cam","opened_at":1700000000000,"closed_at":1700000000001}"#;
        sut.save(Kind::Episode, 1, body);
        sut.now_ms = NOW + 91 * DAY;
        let looked = due(
            &sut.state,
            &KEPT,
            sut.now_ms,
            &mut ExpiryPosition::default(),
            10,
        );
        assert_eq!(looked.len(), 1);
        sut.save(Kind::Episode, 1, r#"{"preview":"aaaa"}"#);
        assert_eq!(
            sut.apply(Command::ExpireEntities {
                retention: KEPT,
                due: looked
            }),
            0
        );
    }

    #[test]
    fn publication_makes_an_episode_that_closes_in_time() {
        let mut sut = ExpiryFixture::new();
        sut.stream("cam", r#"{"autogenerated_episodes_close_timeout":10}"#);
        sut.report(PublicationReport::Started { at: NOW });
        sut.report(PublicationReport::Started { at: NOW });
        assert_eq!(sut.automatic(), [(NOW, None)]);
        // The stamp is renewed while the publication goes on.
        let stamp = |sut: &ExpiryFixture| {
            let episode = sut.state.episodes().last_automatic("cam");
            episode.expect("is there").updated_at.to_native()
        };
        let before = stamp(&sut);
        sut.now_ms = NOW + STAMP_AGE_MS_MAX + 1000;
        assert_eq!(sut.expire(10), 1);
        assert!(stamp(&sut) > before);
        assert_eq!(sut.expire(10), 0);
        // A pause within the timeout continues it.
        let ended = sut.now_ms;
        sut.report(PublicationReport::Ended { at: ended });
        sut.now_ms = ended + 9_000;
        assert_eq!(sut.expire(10), 0);
        sut.report(PublicationReport::Started { at: ended + 9_000 });
        sut.report(PublicationReport::Ended { at: ended + 20_000 });
        assert_eq!(sut.automatic(), [(NOW, None)]);
        sut.now_ms = ended + 30_000;
        assert_eq!(sut.expire(10), 1);
        assert_eq!(sut.automatic(), [(NOW, Some(ended + 30_000))]);
        // The next publication is another episode; the one after it closes it if no scan did.
        sut.report(PublicationReport::Started { at: ended + 31_000 });
        sut.report(PublicationReport::Ended { at: ended + 32_000 });
        sut.report(PublicationReport::Started { at: ended + 90_000 });
        assert_eq!(
            sut.automatic(),
            [
                (NOW, Some(ended + 30_000)),
                (ended + 31_000, Some(ended + 42_000)),
                (ended + 90_000, None)
            ]
        );
        // Without its stream no report would ever end it.
        let name = StreamName::trusted("cam");
        sut.now_ms = ended + 95_000;
        sut.apply(Command::DeleteStream { name });
        assert_eq!(sut.expire(10), 1);
        assert!(sut.automatic()[2].1.is_some());
        assert_eq!(sut.state.episodes().open_automatic(None).count(), 0);
    }

    #[test]
    fn streams_without_automatic_episodes_get_none() {
        let mut sut = ExpiryFixture::new();
        sut.stream("cam", "{}");
        sut.report(PublicationReport::Started { at: NOW });
        sut.report(PublicationReport::Ended { at: NOW + 1 });
        assert!(sut.automatic().is_empty());
        assert_eq!(sut.state.revision(), 1);
    }
}
