//! Cursors: a position in the order of a list, and its text.
//!
//! The outer form is the reference's: padded base64 of a url-encoded query string, one pair per sort key in alphabetical order,
//! `PATH_gt=VALUE` (`_lt` where the order goes down), `$reversed=true` for a page that is read backwards. The meaning is
//! ours: all pairs together are *one* place in the order of the request's `sort`, made unique by the key of the collection, so that nothing is
//! skipped or repeated where several documents share a value or have none. What the reference has no words for is added only when needed:
//! * a value of a class that its field does not suggest is marked: `PATH_gt$text=`, `$number=`, `$other=`; an absent value has no pair;
//! * `$revision=N` names the revision that all pages of a walk are read from;
//! * `$query=HASH` when the pairs alone do not tell which question they belong to (filters, `q`, more than two sort keys, an absent value).
//!
//! The hash covers the question and the pairs. It protects from accidents: a cursor used with another question, or damaged on the way. It is no
//! secret and need not be one: a forged cursor names a place in a list that its bearer may read from any place anyway. A cursor is taken only
//! if encoding what it means gives the same text again, so there is exactly one text for each place.

use std::borrow::Cow;
use std::cmp::Ordering;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::query::{Path, pairs};
use crate::json::scan::Number;

/// Longest cursor looked at: five values of which each byte takes three, and base64 on top.
pub const CURSOR_BYTES_MAX: usize = 8 * 1024;

/// Sorting looks at this much of a string (whole characters); what is equal so far is ordered by the next sort key. Bounds
/// cursors, and with them the head of the request that carries one.
pub const SORT_TEXT_BYTES_MAX: usize = 256;

/// One key of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortKey {
    pub path: Path,
    pub descending: bool,
    /// What an unmarked value in a cursor is: a number, or a text.
    pub numeric: bool,
}

/// What documents are sorted by; the variants are in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SortValue<'a> {
    Absent,
    Number(Number),
    /// At most `SORT_TEXT_BYTES_MAX` bytes.
    Text(Cow<'a, str>),
    Bool(bool),
    /// Any array or object; they have no order among themselves.
    Structure,
}

/// A place in an order: where the document with these values and this key is, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// One per sort key except the last, which is the key of the collection.
    pub values: Box<[SortValue<'static>]>,
    pub key: Box<str>,
}

/// The question a cursor belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The last one is the key of the collection.
    pub sort: &'a [SortKey],
    pub fingerprint: u64,
    /// Whether there are filters or a search.
    pub selective: bool,
}

/// What a cursor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub position: Position,
    /// Read towards the beginning.
    pub reversed: bool,
    pub revision: Option<u64>,
}

impl<'a> SortValue<'a> {
    #[inline]
    pub fn text(text: Cow<'a, str>) -> Self {
        if text.len() <= SORT_TEXT_BYTES_MAX {
            return SortValue::Text(text);
        }
        let end = text.floor_char_boundary(SORT_TEXT_BYTES_MAX);
        SortValue::Text(match text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
            Cow::Owned(mut text) => {
                text.truncate(end);
                Cow::Owned(text)
            }
        })
    }

    pub fn into_owned(self) -> SortValue<'static> {
        match self {
            SortValue::Absent => SortValue::Absent,
            SortValue::Number(number) => SortValue::Number(number),
            SortValue::Text(text) => SortValue::Text(Cow::Owned(text.into_owned())),
            SortValue::Bool(value) => SortValue::Bool(value),
            SortValue::Structure => SortValue::Structure,
        }
    }

    fn class(&self) -> u8 {
        match self {
            SortValue::Absent => 0,
            SortValue::Number(_) => 1,
            SortValue::Text(_) => 2,
            SortValue::Bool(_) => 3,
            SortValue::Structure => 4,
        }
    }

    /// Absent < numbers < strings by bytes < false < true < arrays and objects.
    #[inline]
    pub fn order(&self, other: &SortValue<'_>) -> Ordering {
        match (self, other) {
            (SortValue::Number(a), SortValue::Number(b)) => a.cmp(b),
            (SortValue::Text(a), SortValue::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            (SortValue::Bool(a), SortValue::Bool(b)) => a.cmp(b),
            _ => self.class().cmp(&other.class()),
        }
    }
}

impl Cursor {
    pub fn encode(&self, question: &Question<'_>) -> String {
        STANDARD.encode(self.inner(question))
    }

    /// `None`: damaged, not ours, or of another question.
    pub fn decode(text: &str, question: &Question<'_>) -> Option<Cursor> {
        if text.len() > CURSOR_BYTES_MAX {
            return None;
        }
        // A client that did not percent-encode a plus sent what now reads as a space.
        let inner = STANDARD.decode(text.replace(' ', "+")).ok()?;
        let inner = std::str::from_utf8(&inner).ok()?;
        let (key_sort, value_sorts) = question.sort.split_last()?;
        let mut values = vec![SortValue::Absent; value_sorts.len()];
        let mut key = None;
        let mut reversed = false;
        let mut revision = None;
        for pair in pairs(inner) {
            let (name, value) = pair.ok()?;
            let value = value?;
            if let Some(special) = name.strip_prefix('$') {
                match special {
                    "reversed" => reversed = true,
                    "revision" => revision = Some(value.parse().ok()?),
                    // Compared below, with everything else.
                    "query" => {}
                    _ => return None,
                }
            } else if operator(&name, key_sort).is_some() {
                key = Some(value.into_owned().into_boxed_str());
            } else {
                let (place, mark) = value_sorts
                    .iter()
                    .enumerate()
                    .find_map(|(i, sort)| Some((i, operator(&name, sort)?)))?;
                values[place] = parse_value(mark, value, value_sorts[place].numeric)?;
            }
        }
        let cursor = Cursor {
            position: Position {
                values: values.into(),
                key: key?,
            },
            reversed,
            revision,
        };
        (cursor.inner(question) == inner).then_some(cursor)
    }

    fn inner(&self, question: &Question<'_>) -> String {
        // The last: the class whose values need no mark. The key is always a text, whatever its field's type.
        let mut pairs: Vec<(&SortKey, &SortValue<'_>, u8)> = question
            .sort
            .iter()
            .zip(&self.position.values)
            .filter(|(_, value)| **value != SortValue::Absent)
            .map(|(sort, value)| (sort, value, if sort.numeric { 1 } else { 2 }))
            .collect();
        let key = SortValue::Text(Cow::Borrowed(&*self.position.key));
        if let Some(sort) = question.sort.last() {
            pairs.push((sort, &key, 2));
        }
        pairs.sort_by(|a, b| a.0.path.as_str().cmp(b.0.path.as_str()));
        let complete = pairs.len() == question.sort.len();

        let mut out = String::with_capacity(64);
        for (i, (sort, value, unmarked)) in pairs.into_iter().enumerate() {
            if i > 0 {
                out.push('&');
            }
            encode_component(sort.path.as_str(), &mut out);
            out.push_str(if sort.descending ^ self.reversed {
                "_lt"
            } else {
                "_gt"
            });
            if value.class() != unmarked {
                out.push_str(match value {
                    SortValue::Number(_) => "%24number",
                    SortValue::Text(_) => "%24text",
                    _ => "%24other",
                });
            }
            out.push('=');
            match value {
                SortValue::Number(number) => {
                    let mut text = Vec::new();
                    number.write(&mut text);
                    encode_component(&String::from_utf8_lossy(&text), &mut out);
                }
                SortValue::Text(text) => encode_component(text, &mut out),
                SortValue::Bool(false) => out.push_str("false"),
                SortValue::Bool(true) => out.push_str("true"),
                SortValue::Structure | SortValue::Absent => out.push_str("structure"),
            }
        }
        if let Some(revision) = self.revision {
            out.push_str("&%24revision=");
            out.push_str(itoa::Buffer::new().format(revision));
        }
        if self.reversed {
            out.push_str("&%24reversed=true");
        }
        if question.selective || question.sort.len() > 2 || !complete {
            let hash = xxh3_64_with_seed(out.as_bytes(), question.fingerprint);
            out.push_str("&%24query=");
            out.push_str(&format!("{hash:016x}"));
        }
        out
    }
}

/// If `name` is a condition on this sort key: how its value is marked.
fn operator<'a>(name: &'a str, sort: &SortKey) -> Option<&'a str> {
    let operator = name.strip_prefix(sort.path.as_str())?;
    operator
        .strip_prefix("_gt")
        .or_else(|| operator.strip_prefix("_lt"))
        .filter(|mark| mark.is_empty() || mark.starts_with('$'))
}

fn parse_value(mark: &str, value: Cow<'_, str>, numeric: bool) -> Option<SortValue<'static>> {
    match (mark, numeric) {
        ("$number", false) | ("", true) => crate::json::scan::number(&value).map(SortValue::Number),
        ("$text", true) | ("", false) => Some(SortValue::text(Cow::Owned(value.into_owned()))),
        ("$other", _) => match &*value {
            "false" => Some(SortValue::Bool(false)),
            "true" => Some(SortValue::Bool(true)),
            "structure" => Some(SortValue::Structure),
            _ => None,
        },
        _ => None,
    }
}

/// Letters, digits, `.`, `_` and `-` as they are, a space as `+`, the rest as upper case `%XX`.
pub(super) fn encode_component(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            _ => {
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
}
