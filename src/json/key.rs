//! Keys of objects. The few thousand names the API uses are numbers, so that reading a body allocates no keys and looking a name up in the
//! schema compares integers.
//!
//! The dictionary is the list of fields of the schema; any other list would do, and any other name is held as text. Numbers are given in the order of the
//! names, so comparing them is comparing the names. A name of the dictionary is always held as its number: equal keys are equal bits.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;
use std::sync::LazyLock;

/// One `schema.field` a line.
const FIELDS: &str = include_str!("../schema/data/fields.txt");

static NAMES: LazyLock<Names> =
    LazyLock::new(|| Names::new(FIELDS.lines().filter_map(|line| line.rsplit('.').next())));

/// The key of a member.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Key {
    Known(u16),
    Other(Box<str>),
}

impl Key {
    pub(crate) fn new(text: &str) -> Self {
        Self::with(names(), text)
    }

    /// Saves asking for the dictionary again and again.
    pub(super) fn with(names: &Names, text: &str) -> Self {
        names
            .find(text)
            .map_or_else(|| Key::Other(text.into()), Key::Known)
    }

    pub(super) fn into_box(self) -> Box<str> {
        match self {
            Key::Other(text) => text,
            known @ Key::Known(_) => Box::from(&*known),
        }
    }
}

impl Deref for Key {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        match self {
            Key::Known(number) => names().list[usize::from(*number)],
            Key::Other(text) => text,
        }
    }
}

impl Ord for Key {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Key::Known(a), Key::Known(b)) => a.cmp(b),
            (a, b) => (**a).cmp(&**b),
        }
    }
}

impl PartialOrd for Key {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

pub(super) fn names() -> &'static Names {
    &NAMES
}

/// The dictionary: names in order, and an open hash table of their numbers. Fixed when the program starts, so nobody can fill it.
pub(super) struct Names {
    list: Box<[&'static str]>,
    /// `EMPTY` or a number; a power of two, at most a quarter full.
    slots: Box<[u16]>,
}

const EMPTY: u16 = u16::MAX;

/// Longer keys are not looked up.
const NAME_BYTES_MAX: usize = 64;

impl Names {
    fn new(names: impl Iterator<Item = &'static str>) -> Self {
        let mut list: Vec<&'static str> =
            names.filter(|name| name.len() <= NAME_BYTES_MAX).collect();
        list.sort_unstable();
        list.dedup();
        assert!(
            list.len() < usize::from(EMPTY),
            "names are numbered with 16 bits"
        );
        let mut slots = vec![EMPTY; (list.len() * 4).next_power_of_two().max(4)];
        for (number, name) in list.iter().enumerate() {
            let mut slot = hash(name.as_bytes()) & (slots.len() - 1);
            while slots[slot] != EMPTY {
                slot = (slot + 1) & (slots.len() - 1);
            }
            slots[slot] = number as u16;
        }
        Self {
            list: list.into(),
            slots: slots.into(),
        }
    }

    #[inline]
    fn find(&self, text: &str) -> Option<u16> {
        if text.len() > NAME_BYTES_MAX {
            return None;
        }
        let mut slot = hash(text.as_bytes()) & (self.slots.len() - 1);
        loop {
            match self.slots[slot] {
                EMPTY => return None,
                number if self.list[usize::from(number)] == text => return Some(number),
                _ => slot = (slot + 1) & (self.slots.len() - 1),
            }
        }
    }
}

/// Made of the length and up to three words; good enough for names, and strangers cannot add any.
#[inline]
fn hash(bytes: &[u8]) -> usize {
    let word = |at: usize| {
        bytes.get(at..at + 8).map_or(0, |chunk| {
            u64::from_le_bytes(chunk.try_into().expect("eight bytes were asked for"))
        })
    };
    let length = bytes.len();
    let mixed = if length >= 8 {
        word(0) ^ word(length - 8).rotate_left(23) ^ word(length / 2 - 4).rotate_left(41)
    } else if length >= 4 {
        let word = |at: usize| {
            u64::from(u32::from_le_bytes(
                bytes[at..at + 4]
                    .try_into()
                    .expect("four bytes were asked for"),
            ))
        };
        word(0) | (word(length - 4) << 32)
    } else {
        bytes
            .iter()
            .fold(0, |word, byte| (word << 8) | u64::from(*byte))
    };
    ((mixed ^ length as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_ordered_and_equal_as_their_texts_are() {
        let mut texts: Vec<&str> = names().list.iter().copied().step_by(7).collect();
        texts.extend([
            "",
            "a",
            "zzz",
            "nam",
            "name",
            "namex",
            "inputs",
            "é",
            "$reset",
            "a very long key that no schema would ever use for a field of its own",
        ]);
        for a in &texts {
            let key = Key::new(a);
            assert_eq!(&*key, *a);
            for b in &texts {
                assert_eq!(key.cmp(&Key::new(b)), a.cmp(b), "{a} {b}");
                assert_eq!(key == Key::new(b), a == b);
            }
        }
        assert!(matches!(Key::new("inputs"), Key::Known(_)));
        assert!(matches!(Key::new("inputz"), Key::Other(_)));
    }

    #[test]
    fn a_key_is_no_larger_than_a_text() {
        assert_eq!(size_of::<Key>(), size_of::<Box<str>>());
    }

    #[test]
    fn names_are_found_in_a_step_or_two() {
        let names = names();
        let far = names.list.iter().filter(|name| {
            let home = hash(name.as_bytes()) & (names.slots.len() - 1);
            let number = names.find(name).expect("it is in the list");
            (0..3).all(|step| names.slots[(home + step) & (names.slots.len() - 1)] != number)
        });
        assert!(
            far.count() * 20 < names.list.len(),
            "the hash spreads the names"
        );
    }
}
