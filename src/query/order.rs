//! The order of a list: sort keys, the values documents are sorted by, and positions between
//! documents.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::Query;
use super::model::{Document, FieldPath, KeyOrder, Leaf, Raw};
use crate::json::Number;
use crate::json::scan::{self, Scalar};

/// Sorting compares this much of a string (whole characters); longer strings that are equal so far
/// are ordered by the next sort key. Bounds cursors, and with them the head of the request that
/// carries one.
pub const SORT_TEXT_BYTES_MAX: usize = 256;

/// One field that a list is sorted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortKey {
    pub path: FieldPath,
    pub descending: bool,
    /// Whether an unmarked value in a cursor is a number; otherwise it is a text.
    pub numeric: bool,
}

/// A value that documents are sorted by. The variants are in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SortValue<'a> {
    Absent,
    Number(Number),
    /// At most `SORT_TEXT_BYTES_MAX` bytes.
    Text(Cow<'a, str>),
    Bool(bool),
    /// Any array or object. All of them are equal.
    Structure,
}

/// A position in a list: where the document with these values and this key is, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// One per sort key except the last one, which is the key of the collection.
    pub values: Box<[SortValue<'static>]>,
    pub key: Box<str>,
}

impl Position {
    /// Memory that it holds beside its own size, in bytes.
    pub fn held_bytes(&self) -> usize {
        let text = |value: &SortValue<'_>| match value {
            SortValue::Text(text) => text.len(),
            _ => 0,
        };
        let texts: usize = self.values.iter().map(text).sum();
        self.key.len() + size_of_val(&*self.values) + texts
    }
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

    pub(super) fn class(&self) -> u8 {
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

/// The value that a document is sorted by: the first one at the path that is not absent.
fn sort_value<'a, D: Document>(document: &'a D, path: &FieldPath) -> SortValue<'a> {
    let (raw, rest) = match document.leaf(path) {
        Leaf::Value(raw) => (raw, &[][..]),
        Leaf::Absent => return SortValue::Absent,
        Leaf::Unknown => match document.field(&path.parts()[0]) {
            Some(raw) => (raw, &path.parts()[1..]),
            None => return SortValue::Absent,
        },
    };
    match raw {
        Raw::Json(Cow::Borrowed(text)) => first_in(text, rest),
        Raw::Json(Cow::Owned(text)) => first_in(&text, rest).into_owned(),
        _ if !rest.is_empty() => SortValue::Absent,
        Raw::Text(text) => sort_value_of(scan::text_or_absent(Cow::Borrowed(text))),
        Raw::Number(number) => SortValue::Number(number),
        Raw::Bool(value) => SortValue::Bool(value),
    }
}

fn first_in<'a>(text: &'a str, path: &[Box<str>]) -> SortValue<'a> {
    let mut first = SortValue::Absent;
    scan::any(text, path, false, &mut |value| {
        first = sort_value_of(value);
        first != SortValue::Absent
    });
    first
}

fn sort_value_of(value: Scalar<'_>) -> SortValue<'_> {
    match value {
        Scalar::Absent => SortValue::Absent,
        Scalar::Number(number) => SortValue::Number(number),
        Scalar::Text(text) => SortValue::text(text),
        Scalar::Bool(value) => SortValue::Bool(value),
        Scalar::Array | Scalar::Object => SortValue::Structure,
    }
}

impl Query {
    /// The sort keys without the last one, which is the key of the collection.
    fn value_sorts(&self) -> &[SortKey] {
        self.sort.split_last().map_or(&[], |(_, values)| values)
    }

    pub(super) fn key_descending(&self) -> bool {
        self.sort.last().is_some_and(|key| key.descending) ^ self.reversed
    }

    /// The first value that a document is sorted by; absent in a list that is sorted by the key.
    #[inline]
    pub(super) fn first_value<'a, D: Document>(&self, document: &'a D) -> SortValue<'a> {
        match self.value_sorts() {
            [] => SortValue::Absent,
            [first, ..] => sort_value(document, &first.path),
        }
    }

    /// Compares a document with a position, in the direction of this page. `first` is the
    /// document's first sort value, read once per document.
    #[inline]
    pub(super) fn order<D: Document>(
        &self,
        document: &D,
        first: &SortValue<'_>,
        position: &Position,
    ) -> Ordering {
        for (i, (sort, value)) in self.value_sorts().iter().zip(&position.values).enumerate() {
            let order = if i == 0 {
                first.order(value)
            } else {
                sort_value(document, &sort.path).order(value)
            };
            if order != Ordering::Equal {
                return directed(order, sort.descending ^ self.reversed);
            }
        }
        let order = self.order_of_keys(document.key(), &position.key);
        directed(order, self.key_descending())
    }

    pub(super) fn order_of_positions(&self, a: &Position, b: &Position) -> Ordering {
        for ((sort, a), b) in self.value_sorts().iter().zip(&a.values).zip(&b.values) {
            let order = a.order(b);
            if order != Ordering::Equal {
                return directed(order, sort.descending ^ self.reversed);
            }
        }
        directed(self.order_of_keys(&a.key, &b.key), self.key_descending())
    }

    fn order_of_keys(&self, a: &str, b: &str) -> Ordering {
        let by_length = match self.kind.key_order {
            KeyOrder::Text => Ordering::Equal,
            KeyOrder::Decimal => a.len().cmp(&b.len()),
        };
        by_length.then_with(|| a.as_bytes().cmp(b.as_bytes()))
    }

    pub(super) fn position_of<D: Document>(&self, document: &D, first: &SortValue<'_>) -> Position {
        let values = self.value_sorts().iter().enumerate().map(|(i, sort)| {
            if i == 0 {
                first.clone().into_owned()
            } else {
                sort_value(document, &sort.path).into_owned()
            }
        });
        Position {
            values: values.collect(),
            key: document.key().into(),
        }
    }
}

fn directed(order: Ordering, descending: bool) -> Ordering {
    if descending { order.reverse() } else { order }
}
