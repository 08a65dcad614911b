//! Streams in the order of their last change.
//!
//! A stamp is that of a whole batch, so the names of a stamp are a set of their own: removing a
//! stream, which every save does, compares its name with those of one batch, and all other
//! comparisons are those of numbers.

use std::ops::Bound;

use imbl::{OrdMap, OrdSet};

use super::name::StreamName;

/// The streams by the stamp of their last change, UTC ms, and by name within a stamp.
#[derive(Clone, Default)]
pub(super) struct StreamsByStamp {
    saved: OrdMap<u64, SavedTogether>,
}

/// The streams of one stamp; never none.
#[derive(Clone)]
enum SavedTogether {
    /// The most common case of a store that grew over time; a set would take a node of its own.
    One(StreamName),
    Many(OrdSet<StreamName>),
}

impl StreamsByStamp {
    pub fn insert(&mut self, stamp_ms: u64, name: StreamName) {
        match self.saved.get_mut(&stamp_ms) {
            None => {
                self.saved.insert(stamp_ms, SavedTogether::One(name));
            }
            Some(SavedTogether::Many(names)) => {
                names.insert(name);
            }
            Some(one) => {
                let SavedTogether::One(first) = &*one else {
                    unreachable!("the set was matched above")
                };
                *one = SavedTogether::Many([first.clone(), name].into_iter().collect());
            }
        }
    }

    pub fn remove(&mut self, stamp_ms: u64, name: &StreamName) {
        match self.saved.get_mut(&stamp_ms) {
            None => return,
            Some(SavedTogether::One(held)) => {
                if held != name {
                    return;
                }
            }
            Some(SavedTogether::Many(names)) => {
                names.remove(name);
                if !names.is_empty() {
                    return;
                }
            }
        }
        self.saved.remove(&stamp_ms);
    }

    /// Whether at least so many streams have a stamp from this one on.
    pub fn has_from(&self, stamp_ms: u64, streams: usize) -> bool {
        let mut left = streams;
        let mut from = self.saved.range(stamp_ms..);
        while left > 0 {
            let Some((_, together)) = from.next() else {
                return false;
            };
            left = left.saturating_sub(together.len());
        }
        true
    }

    /// The names from a stamp on, in order; of that stamp only those above `after`.
    pub fn from<'s>(
        &'s self,
        stamp_ms: u64,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'s StreamName> {
        let in_order = self.saved.range(stamp_ms..);
        in_order.flat_map(move |(stamp, together)| {
            // An empty name sorts before every name.
            let after = after.filter(|_| *stamp == stamp_ms);
            together.above(after.unwrap_or_default())
        })
    }
}

impl SavedTogether {
    fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(names) => names.len(),
        }
    }

    fn above<'s>(&'s self, after: &str) -> impl Iterator<Item = &'s StreamName> {
        let (one, many) = match self {
            Self::One(name) => (Some(name).filter(|name| name.as_str() > after), None),
            Self::Many(names) => (None, Some(names)),
        };
        let above = (Bound::Excluded(after), Bound::Unbounded);
        let many = many.map(|names| names.range::<_, str>(above));
        one.into_iter().chain(many.into_iter().flatten())
    }
}

impl FromIterator<(u64, StreamName)> for StreamsByStamp {
    fn from_iter<I: IntoIterator<Item = (u64, StreamName)>>(streams: I) -> Self {
        let mut by_stamp = Self::default();
        for (stamp_ms, name) in streams {
            by_stamp.insert(stamp_ms, name);
        }
        by_stamp
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// A stream that is saved or deleted, then a place to read from.
    type Step = (bool, (u64, u8), (u64, Option<u8>));

    fn name_of(number: u8) -> String {
        format!("n{number}")
    }

    /// Follows a sorted set of pairs through a history.
    fn check(history: Vec<Step>) {
        let mut sut = StreamsByStamp::default();
        let mut expected: BTreeSet<(u64, String)> = BTreeSet::new();
        for (is_saved, (stamp, number), (from, after)) in history {
            let name = name_of(number);
            if is_saved {
                sut.insert(stamp, StreamName::trusted(&name));
                expected.insert((stamp, name));
            } else {
                sut.remove(stamp, &StreamName::trusted(&name));
                expected.remove(&(stamp, name));
            }
            let after = after.map(name_of);
            let found: Vec<&str> = sut
                .from(from, after.as_deref())
                .map(StreamName::as_str)
                .collect();
            let place = (from, after.unwrap_or_default());
            let above = (Bound::Excluded(place), Bound::Unbounded);
            let wanted = expected.range(above).map(|(_, name)| name.as_str());
            assert_eq!(found, wanted.collect::<Vec<_>>());
            let count = expected.iter().filter(|(stamp, _)| *stamp >= from).count();
            assert!(sut.has_from(from, count) && !sut.has_from(from, count + 1));
            let stamps: BTreeSet<u64> = expected.iter().map(|(stamp, _)| *stamp).collect();
            assert_eq!(sut.saved.len(), stamps.len(), "no stamp is empty");
        }
    }

    proptest! {
        #![proptest_config(crate::proptests::config())]

        #[test]
        fn order_is_that_of_one_sorted_set(
            history in prop::collection::vec(
                (any::<bool>(), (0..4u64, 0..12u8), (0..5u64, prop::option::of(0..12u8))),
                0..200,
            ),
        ) {
            check(history);
        }
    }
}
