//! What a kind of document and its store provide to a query.

use std::borrow::Cow;
use std::ops::Bound;

use crate::json::FieldType;
use crate::json::scan::{self, Projection, Scalar};
use crate::json::{Number, write_string};

pub use crate::state::kinds::KeyOrder;

/// What a query has to know about a kind of document. One constant per kind.
pub struct Kind {
    /// Name of the list in the answer.
    pub collection: &'static str,
    /// The field that is unique.
    pub key: &'static str,
    pub key_order: KeyOrder,
    /// As in the parameter `sort`; the key is added if it is not there.
    pub default_sort: &'static str,
    /// The field with the stamp of the last change, if pages must not end between documents of one stamp.
    pub stamp: Option<&'static str>,
    /// Always selected.
    pub required: fn() -> &'static [Box<str>],
    /// What `q` looks at.
    pub search: &'static [Search],
    /// Of a dotted path, arrays mapped through; `None`: there is no such field.
    pub field_type: fn(&str) -> Option<FieldType>,
    /// Whether a path names or contains a secret.
    pub secret: fn(&str) -> bool,
}

/// One field that `q` looks at.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    pub path: &'static str,
    /// Whether it holds URLs: user and password in them are not searched.
    pub url: bool,
}

/// A value as a document has it.
#[derive(Debug, Clone)]
pub enum Raw<'a> {
    /// Canonical JSON.
    Json(Cow<'a, str>),
    /// A string, not escaped.
    Text(&'a str),
    Number(Number),
    Bool(bool),
}

/// What a document knows about a path without reading text.
#[derive(Debug)]
pub enum Leaf<'a> {
    /// Nothing: ask for the top-level field.
    Unknown,
    Absent,
    Value(Raw<'a>),
}

/// A document as the API shows it to this reader: effective, and masked already.
pub trait Document {
    fn key(&self) -> &str;

    /// A top-level field; `None` if it is missing (null is as good).
    fn field(&self, name: &str) -> Option<Raw<'_>>;

    /// A shortcut for nested fields that are kept typed, such as `stats.bitrate`: spares rendering all of `stats` to read one number.
    fn leaf(&self, path: &Path) -> Leaf<'_> {
        let _ = path;
        Leaf::Unknown
    }

    /// Texts that together contain every value that `q` looks at, plain or as canonical JSON, and perhaps more: lets a search dismiss a
    /// document at once instead of field by field.
    fn texts(&self) -> Option<[&str; 2]> {
        None
    }

    /// Reads a byte of each cache line that `field` will need, and answers something made of them. A scan calls this for several documents
    /// in a row, so that the processor waits for their memory at the same time instead of one after the other.
    fn touch(&self) -> u8 {
        0
    }

    /// The whole object as canonical JSON.
    fn render(&self, out: &mut Vec<u8>);
}

/// One revision of a collection. All slices of an execution must be given the same one.
pub trait Source {
    type Doc<'a>: Document
    where
        Self: 'a;

    /// How many documents there are.
    fn count(&self) -> u64;

    fn get(&self, key: &str) -> Option<Self::Doc<'_>>;

    /// In the order of keys, up and down, from a bound.
    fn ascending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = Self::Doc<'a>>;
    fn descending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = Self::Doc<'a>>;

    /// Shows the next `budget` documents, each document once in the course of a scan, in whatever order is cheapest; true at the end. Documents
    /// that `hints` rules out may be left out. `place` starts as the default and means what this function wants it to mean.
    fn scan<'a>(
        &'a self,
        hints: &Hints<'_>,
        place: &mut Place,
        budget: usize,
        each: &mut dyn FnMut(Self::Doc<'a>),
    ) -> bool {
        let _ = hints;
        let from = place.after.take();
        let from = from.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut documents = self.ascending(from);
        for taken in 1.. {
            let Some(document) = documents.next() else {
                return true;
            };
            if taken == budget.max(1) {
                place.after = Some(document.key().into());
                each(document);
                break;
            }
            each(document);
        }
        false
    }
}

/// Where a scan goes on.
#[derive(Debug, Default, Clone)]
pub struct Place {
    pub part: usize,
    pub after: Option<Box<str>>,
}

/// What every matching document satisfies, for sources that have an index for it.
#[derive(Debug, Default)]
pub struct Hints<'q> {
    /// The stamp is at least this.
    pub stamp_min: Option<u64>,
    /// The text at this path is one of these (sorted).
    pub equal: Vec<(&'q str, &'q [Box<str>])>,
}

/// A dotted path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    text: Box<str>,
    parts: Box<[Box<str>]>,
}

impl Path {
    pub fn new(text: &str) -> Path {
        Path {
            text: text.into(),
            parts: text.split('.').map(Into::into).collect(),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn parts(&self) -> &[Box<str>] {
        &self.parts
    }
}

impl Raw<'_> {
    /// As canonical JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Raw::Json(text) => out.extend_from_slice(text.as_bytes()),
            Raw::Text(text) => write_string(out, text),
            Raw::Number(number) => number.write(out),
            Raw::Bool(true) => out.extend_from_slice(b"true"),
            Raw::Bool(false) => out.extend_from_slice(b"false"),
        }
    }

    pub(super) fn project(&self, wanted: &[Projection], out: &mut Vec<u8>) {
        match self {
            Raw::Json(text) => scan::project(text, wanted, out),
            _ if wanted.is_empty() => self.write(out),
            _ => out.extend_from_slice(b"null"),
        }
    }
}

impl From<u64> for Raw<'_> {
    fn from(value: u64) -> Self {
        Raw::Number(Number::Unsigned(value))
    }
}

/// Shows the values at a path to `each` until it answers true; at least one, `Absent` if there is nothing else.
pub(super) fn any_leaf<D: Document>(
    document: &D,
    path: &Path,
    flatten: bool,
    each: &mut dyn FnMut(Scalar<'_>) -> bool,
) -> bool {
    let (raw, rest) = match document.leaf(path) {
        Leaf::Value(raw) => (raw, &[][..]),
        Leaf::Absent => return each(Scalar::Absent),
        Leaf::Unknown => match document.field(&path.parts[0]) {
            Some(raw) => (raw, &path.parts[1..]),
            None => return each(Scalar::Absent),
        },
    };
    match raw {
        Raw::Json(text) => {
            let mut shown = false;
            let found = scan::any(&text, rest, flatten, &mut |value| {
                shown = true;
                each(value)
            });
            found || (!shown && each(Scalar::Absent))
        }
        _ if !rest.is_empty() => each(Scalar::Absent),
        Raw::Text(text) => each(scan::text_or_absent(Cow::Borrowed(text))),
        Raw::Number(number) => each(Scalar::Number(number)),
        Raw::Bool(value) => each(Scalar::Bool(value)),
    }
}
