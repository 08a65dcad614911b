//! Episodes by their stream, and the episodes that the server makes of publications.
//!
//! The index answers "which episodes has this stream, in the order they began" without a scan of
//! the others; it holds the records themselves, so that every key in it exists. [`on_publication`]
//! is the rule of automatic episodes: an episode opens with a publication and closes after a
//! timeout past its end, and a publication that resumes within the timeout continues it. Reports of
//! publications arrive as commands and may be repeated or late.

use std::ops::Bound::{Excluded, Included};

use imbl::{OrdMap, OrdSet};
use memchr::memmem;

use super::changes::EntityChange;
use super::entity::Kind;
use super::name::StreamName;
use super::record::{ArchivedFacts, ArchivedStream, EntityRecord, StreamRecord};
use crate::json::scan;

/// Age at which the stamp of an open automatic episode is renewed: such an episode lasts until its
/// stamp.
pub const STAMP_AGE_MS_MAX: u64 = 60_000;

/// Position of an episode in the order of its stream.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct EpisodePosition {
    media: StreamName,
    opened_at: u64,
    id: u64,
}

impl EpisodePosition {
    fn of(record: &EntityRecord) -> Option<Self> {
        let ArchivedFacts::Episode {
            media, opened_at, ..
        } = &record.facts
        else {
            return None;
        };
        Some(Self {
            media: StreamName::trusted(media),
            opened_at: opened_at.to_native(),
            id: record.key.parse().ok()?,
        })
    }
}

/// All episodes by stream and begin, the automatic ones again, and the ids of the open automatic
/// ones.
#[derive(Clone, Default)]
pub struct EpisodeIndex {
    by_media: OrdMap<EpisodePosition, EntityRecord>,
    automatic: OrdMap<EpisodePosition, EntityRecord>,
    open_automatic: OrdSet<u64>,
}

impl EpisodeIndex {
    /// The episodes of a stream by begin and id, after the given begin and id.
    pub fn of(
        &self,
        media: &str,
        after: Option<(u64, u64)>,
    ) -> impl DoubleEndedIterator<Item = &EntityRecord> {
        let position = |(opened_at, id)| EpisodePosition {
            media: StreamName::trusted(media),
            opened_at,
            id,
        };
        let from = match after {
            Some(after) => Excluded(position(after)),
            None => Included(position((0, 0))),
        };
        let until = Included(position((u64::MAX, u64::MAX)));
        self.by_media.range((from, until)).map(|(_, record)| record)
    }

    /// The automatic episodes of a stream by begin.
    pub fn automatic_of(&self, media: &str) -> impl DoubleEndedIterator<Item = &EntityRecord> {
        let position = |edge| EpisodePosition {
            media: StreamName::trusted(media),
            opened_at: edge,
            id: edge,
        };
        let all = position(0)..=position(u64::MAX);
        self.automatic.range(all).map(|(_, record)| record)
    }

    /// The automatic episode of a stream that began last.
    pub fn last_automatic(&self, media: &str) -> Option<&EntityRecord> {
        let last = EpisodePosition {
            media: StreamName::trusted(media),
            opened_at: u64::MAX,
            id: u64::MAX,
        };
        let (position, record) = self.automatic.get_prev(&last)?;
        (position.media.as_str() == media).then_some(record)
    }

    /// Ids of the automatic episodes that are open, above the given one.
    pub fn open_automatic(&self, after: Option<u64>) -> impl Iterator<Item = u64> {
        let from = after.map_or(Included(0), Excluded);
        self.open_automatic
            .range((from, Included(u64::MAX)))
            .copied()
    }

    pub(super) fn absorb(&mut self, change: &EntityChange) {
        if change.kind == Kind::Episode {
            self.replace(change.old.as_ref(), change.new.as_ref());
        }
    }

    pub(super) fn replace(&mut self, old: Option<&EntityRecord>, new: Option<&EntityRecord>) {
        if let Some(position) = old.and_then(EpisodePosition::of) {
            self.by_media.remove(&position);
            self.automatic.remove(&position);
            self.open_automatic.remove(&position.id);
        }
        let Some(record) = new else { return };
        let Some(mut position) = EpisodePosition::of(record) else {
            return;
        };
        // Episodes of one stream share the text of its name.
        if let Some((neighbour, _)) = self.by_media.get_prev(&position)
            && neighbour.media == position.media
        {
            position.media = neighbour.media.clone();
        }
        if OpenPublication::of(record).is_some() {
            self.open_automatic.insert(position.id);
        }
        if is_automatic(record) {
            self.automatic.insert(position.clone(), record.clone());
        }
        self.by_media.insert(position, record.clone());
    }
}

fn is_automatic(record: &EntityRecord) -> bool {
    matches!(&record.facts, ArchivedFacts::Episode { publication, .. } if publication.is_some())
}

/// A report about the publication of a stream. Times are UTC ms. A repeated report changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicationReport {
    /// The stream is published since then.
    Started { at: u64 },
    /// The publication ended then.
    Ended { at: u64 },
}

/// An automatic episode that is not closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenPublication {
    pub opened_at: u64,
    /// Absent while the stream is published.
    pub ended_at: Option<u64>,
}

impl OpenPublication {
    pub fn of(record: &EntityRecord) -> Option<Self> {
        match &record.facts {
            ArchivedFacts::Episode {
                opened_at,
                closed_at,
                publication,
                ..
            } if closed_at.is_none() => Some(Self {
                opened_at: opened_at.to_native(),
                ended_at: publication
                    .as_ref()?
                    .ended_at
                    .as_ref()
                    .map(|at| at.to_native()),
            }),
            _ => None,
        }
    }
}

/// A change of a stream's automatic episodes after a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpisodeStep {
    Nothing,
    Open {
        opened_at: u64,
    },
    /// The publication resumed.
    Resume,
    /// The publication ended; the episode stays open until the timeout.
    Pause {
        ended_at: u64,
    },
    Close {
        closed_at: u64,
    },
    CloseAndOpen {
        closed_at: u64,
        opened_at: u64,
    },
}

/// The rule of automatic episodes. `closed_until` is the end of the last closed one, before which
/// no new episode begins.
pub fn on_publication(
    open: Option<OpenPublication>,
    closed_until: u64,
    report: PublicationReport,
    close_timeout_ms: u64,
) -> EpisodeStep {
    match (report, open) {
        (PublicationReport::Started { at }, None) if close_timeout_ms > 0 => EpisodeStep::Open {
            opened_at: at.max(closed_until),
        },
        (
            PublicationReport::Started { at },
            Some(OpenPublication {
                ended_at: Some(ended),
                ..
            }),
        ) => {
            let closed_at = ended.saturating_add(close_timeout_ms);
            match (at <= closed_at, close_timeout_ms > 0) {
                (true, true) => EpisodeStep::Resume,
                (false, true) => EpisodeStep::CloseAndOpen {
                    closed_at,
                    opened_at: at,
                },
                (_, false) => EpisodeStep::Close { closed_at },
            }
        }
        (
            PublicationReport::Ended { at },
            Some(OpenPublication {
                opened_at,
                ended_at: None,
            }),
        ) => {
            let ended_at = at.max(opened_at);
            if close_timeout_ms > 0 {
                EpisodeStep::Pause { ended_at }
            } else {
                EpisodeStep::Close {
                    closed_at: ended_at,
                }
            }
        }
        (PublicationReport::Started { .. } | PublicationReport::Ended { .. }, _) => {
            EpisodeStep::Nothing
        }
    }
}

/// Time from the end of a publication to the end of its episode. 0: the stream has no automatic
/// episodes.
pub fn close_timeout_ms(stream: &ArchivedStream) -> u64 {
    scan::member(&stream.config, "autogenerated_episodes_close_timeout")
        .and_then(|seconds| seconds.parse::<u64>().ok())
        .unwrap_or(0)
        .saturating_mul(1000)
}

/// Whether automatic episodes are made of a stream: it can be published to and has a close timeout.
pub fn makes_episodes(stream: &StreamRecord) -> bool {
    close_timeout_ms(stream) > 0
        && memmem::find(stream.config.as_bytes(), b"\"publish://").is_some()
}

/// The first id tried for an automatic episode: milliseconds and 22 bits of a hash of the stream,
/// so that ids sort by begin.
pub fn automatic_id(media: &str, opened_at: u64) -> u64 {
    const MS_MAX: u64 = (1 << 41) - 1;
    let bits = xxhash_rust::xxh3::xxh3_64(media.as_bytes()) & ((1 << 22) - 1);
    opened_at.min(MS_MAX) << 22 | bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(at: u64) -> PublicationReport {
        PublicationReport::Started { at }
    }

    fn ended(at: u64) -> PublicationReport {
        PublicationReport::Ended { at }
    }

    const ON: Option<OpenPublication> = Some(OpenPublication {
        opened_at: 100,
        ended_at: None,
    });
    const PAUSED: Option<OpenPublication> = Some(OpenPublication {
        opened_at: 100,
        ended_at: Some(150),
    });

    #[test]
    fn publication_within_the_timeout_continues_the_episode() {
        // Columns: open episode, end of the last closed one, report, expected step. The timeout is
        // 10.
        let table = [
            (None, 0, started(100), EpisodeStep::Open { opened_at: 100 }),
            (
                None,
                120,
                started(100),
                EpisodeStep::Open { opened_at: 120 },
            ),
            (None, 0, ended(100), EpisodeStep::Nothing),
            (ON, 0, started(100), EpisodeStep::Nothing),
            (ON, 0, started(150), EpisodeStep::Nothing),
            (ON, 0, ended(150), EpisodeStep::Pause { ended_at: 150 }),
            (ON, 0, ended(90), EpisodeStep::Pause { ended_at: 100 }),
            (PAUSED, 0, ended(170), EpisodeStep::Nothing),
            (PAUSED, 0, started(140), EpisodeStep::Resume),
            (PAUSED, 0, started(160), EpisodeStep::Resume),
            (
                PAUSED,
                0,
                started(161),
                EpisodeStep::CloseAndOpen {
                    closed_at: 160,
                    opened_at: 161,
                },
            ),
        ];
        for (open, closed_until, report, expected) in table {
            assert_eq!(
                on_publication(open, closed_until, report, 10),
                expected,
                "{open:?} {report:?}"
            );
        }
    }

    #[test]
    fn open_episode_ends_after_episodes_are_switched_off() {
        let close = |closed_at| EpisodeStep::Close { closed_at };
        assert_eq!(on_publication(None, 0, started(1), 0), EpisodeStep::Nothing);
        assert_eq!(on_publication(ON, 0, ended(105), 0), close(105));
        assert_eq!(on_publication(PAUSED, 0, started(190), 0), close(150));
    }

    #[test]
    fn automatic_ids_fit_63_bits_and_sort_by_time() {
        let now = 1_800_000_000_000;
        assert!(automatic_id("b", now) < automatic_id("a", now + 1));
        assert_ne!(automatic_id("a", now), automatic_id("b", now));
        assert!(i64::try_from(automatic_id("a", u64::MAX)).is_ok());
    }
}
