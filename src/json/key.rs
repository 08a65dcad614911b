//! Keys of objects. The names of the API are held as numbers, so reading a body allocates no keys,
//! and looking up a name in the schema compares integers.
//!
//! The dictionary is the list of fields of the schema; every other name is held as text. Numbers
//! follow the order of the names, so comparing numbers compares names. A name of the dictionary is
//! always held as its number: equal keys have equal bits.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;
use std::sync::LazyLock;

/// One `schema.field` per line.
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

    /// Like `new`, with the dictionary as an argument, for loops over many keys.
    pub(super) fn with(names: &Names, text: &str) -> Self {
        names
            .find(text)
            .map_or_else(|| Key::Other(text.into()), Key::Known)
    }

    /// The key, if it is a name of the dictionary. Allocates nothing.
    pub(crate) fn known(text: &str) -> Option<Self> {
        names().find(text).map(Key::Known)
    }

    #[cold]
    fn cmp_texts(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
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
            Key::Known(number) => names().list[usize::from(*number)].text,
            Key::Other(text) => text,
        }
    }
}

impl Ord for Key {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Key::Known(a), Key::Known(b)) => a.cmp(b),
            (a, b) => a.cmp_texts(b),
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

/// The dictionary: names in order, and an open hash table of their numbers. Fixed when the program
/// starts, so that no client can fill it.
pub(super) struct Names {
    list: Box<[Name]>,
    /// `EMPTY` or a number; a power of two, at most a quarter full.
    slots: Box<[u16]>,
}

struct Name {
    text: &'static str,
    ends: Ends,
}

const EMPTY: u16 = u16::MAX;

/// Longer keys are not looked up.
const NAME_BYTES_MAX: usize = 64;

impl Names {
    fn new(names: impl Iterator<Item = &'static str>) -> Self {
        let mut texts: Vec<&'static str> =
            names.filter(|name| name.len() <= NAME_BYTES_MAX).collect();
        texts.sort_unstable();
        texts.dedup();
        assert!(
            texts.len() < usize::from(EMPTY),
            "names are numbered with 16 bits"
        );
        let list: Box<[Name]> = texts
            .into_iter()
            .map(|text| Name {
                text,
                ends: Ends::of(text.as_bytes()),
            })
            .collect();
        let mut slots = vec![EMPTY; (list.len() * 4).next_power_of_two().max(4)];
        for (number, name) in list.iter().enumerate() {
            let mut slot = name.ends.hash(name.text.len()) & (slots.len() - 1);
            while slots[slot] != EMPTY {
                slot = (slot + 1) & (slots.len() - 1);
            }
            slots[slot] = number as u16;
        }
        Self {
            list,
            slots: slots.into(),
        }
    }

    /// The name with a number; of a number of no name, an empty text.
    pub(super) fn text(&self, number: u16) -> &'static str {
        let name = self.list.get(usize::from(number));
        name.map_or("", |name| name.text)
    }

    #[inline]
    pub(super) fn find(&self, text: &str) -> Option<u16> {
        if text.len() > NAME_BYTES_MAX {
            return None;
        }
        let ends = Ends::of(text.as_bytes());
        let mut slot = ends.hash(text.len()) & (self.slots.len() - 1);
        loop {
            let number = self.slots[slot];
            if number == EMPTY {
                return None;
            }
            let name = &self.list[usize::from(number)];
            if name.text.len() == text.len()
                && name.ends == ends
                && (text.len() <= Ends::BYTES || name.text == text)
            {
                return Some(number);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }
}

/// The first and the last eight bytes of a text as two words, which overlap in a short text. With
/// its length they determine a text of up to 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ends {
    first: u64,
    last: u64,
}

impl Ends {
    const BYTES: usize = 16;

    #[inline]
    fn of(bytes: &[u8]) -> Self {
        let (first, last) = if let (Some(first), Some(last)) =
            (bytes.first_chunk::<8>(), bytes.last_chunk::<8>())
        {
            (u64::from_le_bytes(*first), u64::from_le_bytes(*last))
        } else if let (Some(first), Some(last)) =
            (bytes.first_chunk::<4>(), bytes.last_chunk::<4>())
        {
            let word = |half: &[u8; 4]| u64::from(u32::from_le_bytes(*half));
            (word(first), word(last))
        } else {
            let fold = |word, byte: &u8| (word << 8) | u64::from(*byte);
            (bytes.iter().fold(0, fold), 0)
        };
        Self { first, last }
    }

    /// Good enough for the names of the dictionary, to which nothing is added.
    #[inline]
    fn hash(self, length: usize) -> usize {
        let mixed = self.first ^ self.last.rotate_left(23) ^ length as u64;
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_compare_as_their_texts() {
        let mut texts: Vec<&str> = names()
            .list
            .iter()
            .map(|name| name.text)
            .step_by(7)
            .collect();
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
    fn a_changed_byte_makes_another_key() {
        for name in &names().list {
            assert_eq!(
                names().find(name.text).map(usize::from),
                names().list.iter().position(|it| it.text == name.text)
            );
            for at in 0..name.text.len() {
                let mut other = name.text.to_owned();
                other.replace_range(at..=at, "~");
                assert_eq!(names().find(&other), None, "{other}");
            }
        }
    }

    #[test]
    fn key_is_as_small_as_a_boxed_text() {
        assert_eq!(size_of::<Key>(), size_of::<Box<str>>());
    }

    #[test]
    fn most_names_are_found_within_three_slots() {
        let names = names();
        let mask = names.slots.len() - 1;
        let far = names.list.iter().filter(|name| {
            let home = name.ends.hash(name.text.len()) & mask;
            let number = names.find(name.text).expect("it is in the list");
            (0..3).all(|step| names.slots[(home + step) & mask] != number)
        });
        assert!(
            far.count() * 20 < names.list.len(),
            "the hash spreads the names"
        );
    }
}
