//! The model: what a kind of document and its store provide to a query.

use std::borrow::Cow;
use std::ops::Bound;

use crate::json::FieldType;
use crate::json::scan::{self, Projection, Scalar};
use crate::json::{Number, write_string};
use crate::schema::{Schema, SchemaField};

pub use crate::state::kinds::KeyOrder;

/// The description of the documents of a list for the query engine. One constant per kind of list.
pub struct ListKind {
    /// Name of the list in the answer.
    pub collection: &'static str,
    /// The unique field.
    pub key: &'static str,
    pub key_order: KeyOrder,
    /// In the form of the parameter `sort`; the key is added if it is missing.
    pub default_sort: &'static str,
    /// The field with the stamp of the last change, if no page may end between documents of one
    /// stamp.
    pub stamp: Option<&'static str>,
    /// Fields that are always selected.
    pub required: fn() -> &'static [Box<str>],
    /// Fields that `q` searches.
    pub search: &'static [SearchField],
    /// The field at a dotted path, arrays mapped through; `None` for an unknown one.
    pub field: fn(&str) -> Option<ListField>,
    /// Whether the members of a path name or contain a secret.
    pub secret: fn(&[Box<str>]) -> bool,
    /// The schema with the names of fields, for suggestions.
    pub schema: fn() -> Option<&'static Schema>,
}

/// A field that a query names.
#[derive(Debug, Clone)]
pub struct ListField {
    /// The members on the way. A key of a map is one of them, dots included.
    pub members: Vec<Box<str>>,
    pub field_type: FieldType,
    /// For a field of which documents have only digests of the values, not the values: their
    /// digest. It takes the filters `=` and `_ne`.
    pub digest: Option<fn(&str) -> u64>,
}

impl ListField {
    /// A member of the document itself.
    pub fn top_level(name: &str, field_type: FieldType) -> Self {
        Self {
            members: vec![name.into()],
            field_type,
            digest: None,
        }
    }
}

/// The field of a schema at a dotted path, with the way the query engine converts its values.
pub fn field(schema: &Schema, path: &str) -> Option<ListField> {
    let SchemaField { members, kinds } = schema.field(path)?;
    let field_type = match (
        kinds.is_integer(),
        kinds.is_number(),
        kinds.is_boolean(),
        kinds.is_string(),
    ) {
        (true, false, false, false) if kinds.is_moment() => FieldType::Moment,
        (true, false, false, false) => FieldType::Integer,
        (_, true, false, false) => FieldType::Number,
        (false, false, true, false) => FieldType::Boolean,
        (false, false, false, true) => FieldType::String,
        _ => FieldType::Other,
    };
    Some(ListField {
        members,
        field_type,
        digest: None,
    })
}

/// One field that `q` searches.
#[derive(Debug, Clone, Copy)]
pub struct SearchField {
    pub path: &'static str,
    /// Whether it holds URLs: their user and password are not searched.
    pub url: bool,
}

/// A field's value in the form that the document stores.
#[derive(Debug, Clone)]
pub enum Raw<'a> {
    /// Canonical JSON.
    Json(Cow<'a, str>),
    /// A string, not escaped.
    Text(&'a str),
    Number(Number),
    Bool(bool),
}

/// What a document has at a path, without parsing text.
#[derive(Debug)]
pub enum Leaf<'a> {
    /// Nothing: the query reads the top-level field.
    Unknown,
    Absent,
    Value(Raw<'a>),
}

/// A document as the API shows it to the caller: effective, and with secrets masked.
pub trait Document {
    fn key(&self) -> &str;

    /// A top-level field. `None` if it is missing, which is equivalent to null.
    fn field(&self, name: &str) -> Option<Raw<'_>>;

    /// A shortcut for nested fields that are stored typed, such as `stats.bitrate`: reading one
    /// number does not render all of `stats`.
    fn leaf(&self, path: &FieldPath) -> Leaf<'_> {
        let _ = path;
        Leaf::Unknown
    }

    /// Whether the field with digests of values ([`ListField::digest`]) has one of these, which are
    /// sorted.
    fn has_digest(&self, digests: &[u64]) -> bool {
        let _ = digests;
        false
    }

    /// Texts that together contain every value that `q` searches, plain or as canonical JSON, and
    /// perhaps more; secrets need not be masked. With them a search rejects a document at once
    /// instead of field by field.
    fn search_texts(&self) -> Option<[&str; 2]> {
        None
    }

    /// Reads a byte of each cache line that `field` will need and returns a value made of them. A
    /// scan calls this for several documents in a row, so that the processor waits for their memory
    /// in parallel.
    fn prefetch(&self) -> u8 {
        0
    }

    /// Appends the whole object as canonical JSON.
    fn render(&self, out: &mut Vec<u8>);
}

/// One revision of a collection. All slices of an execution must read the same one.
pub trait Source {
    type Doc<'a>: Document
    where
        Self: 'a;

    /// Number of documents.
    fn count(&self) -> u64;

    fn get(&self, key: &str) -> Option<Self::Doc<'_>>;

    /// The documents from a bound on, upwards in the order of keys.
    fn ascending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = Self::Doc<'a>>;

    /// The documents from a bound on, downwards in the order of keys.
    fn descending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = Self::Doc<'a>>;

    /// Passes the next `budget` documents to `each`; returns true at the end of the scan.
    ///
    /// A whole scan passes each document once, in whatever order is cheapest, but may leave out
    /// documents that `hints` rule out. `position` is opaque to the caller: start with `default()`
    /// and pass it back unchanged.
    fn scan<'a>(
        &'a self,
        hints: &Hints<'_>,
        position: &mut ScanPosition,
        budget: usize,
        each: &mut dyn FnMut(Self::Doc<'a>),
    ) -> bool {
        let after = position.after.take();
        let from = after.as_deref().map_or(hints.key_from, Bound::Excluded);
        let mut documents = self.ascending(from);
        for taken in 1.. {
            let Some(document) = documents.next() else {
                return true;
            };
            if hints.ends_before(document.key()) {
                return true;
            }
            if taken == budget.max(1) {
                position.after = Some(document.key().into());
                each(document);
                break;
            }
            each(document);
        }
        false
    }
}

/// Where a scan continues. The meaning of the fields is private to the source.
#[derive(Debug, Default, Clone)]
pub struct ScanPosition {
    pub part: usize,
    pub after: Option<Box<str>>,
    /// The scan ends with the part.
    pub in_part: bool,
}

impl ScanPosition {
    /// The beginning of a part of a source that threads may scan in parts. A document is in one of
    /// them.
    pub fn of_part(part: usize) -> Self {
        Self {
            part,
            after: None,
            in_part: true,
        }
    }
}

/// Conditions that every matching document satisfies, for sources with an index for them.
#[derive(Debug)]
pub struct Hints<'q> {
    /// The stamp is at least this.
    pub stamp_min: Option<u64>,
    /// The range of keys, if they are texts.
    pub key_from: Bound<&'q str>,
    pub key_to: Bound<&'q str>,
    /// The text at this path is one of these, which are sorted.
    pub equal: Vec<(&'q str, &'q [Box<str>])>,
    /// The boolean at this path is false.
    pub is_false: Vec<&'q str>,
}

impl Default for Hints<'_> {
    fn default() -> Self {
        Self {
            stamp_min: None,
            key_from: Bound::Unbounded,
            key_to: Bound::Unbounded,
            equal: Vec::new(),
            is_false: Vec::new(),
        }
    }
}

impl Hints<'_> {
    /// Whether a text at this path is one of few.
    pub fn has_equal(&self, path: &str) -> bool {
        self.equal.iter().any(|(of, _)| *of == path)
    }

    /// Whether the range of keys ends before a key.
    pub fn ends_before(&self, key: &str) -> bool {
        match self.key_to {
            Bound::Included(last) => key > last,
            Bound::Excluded(end) => key >= end,
            Bound::Unbounded => false,
        }
    }
}

/// The parts of a path without keys of maps.
pub(super) fn split(path: &str) -> Vec<Box<str>> {
    path.split('.').map(Into::into).collect()
}

/// A dotted path to a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPath {
    text: Box<str>,
    parts: Box<[Box<str>]>,
}

impl FieldPath {
    pub fn new(text: &str) -> Self {
        Self {
            text: text.into(),
            parts: split(text).into(),
        }
    }

    /// The path of this text with these parts.
    pub(super) fn of_parts(text: &str, parts: Vec<Box<str>>) -> Self {
        Self {
            text: text.into(),
            parts: parts.into(),
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
    /// Appends canonical JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Raw::Json(text) => out.extend_from_slice(text.as_bytes()),
            Raw::Text(text) => write_string(out, text),
            Raw::Number(number) => number.write(out),
            Raw::Bool(true) => out.extend_from_slice(b"true"),
            Raw::Bool(false) => out.extend_from_slice(b"false"),
        }
    }

    /// Appends the selected parts of it, or all of it if `selected` is empty.
    pub(super) fn project(&self, selected: &[Projection], out: &mut Vec<u8>) {
        match self {
            Raw::Json(text) => scan::project(text, selected, out),
            _ if selected.is_empty() => self.write(out),
            _ => out.extend_from_slice(b"null"),
        }
    }
}

impl From<u64> for Raw<'_> {
    fn from(value: u64) -> Self {
        Raw::Number(Number::Unsigned(value))
    }
}

/// Passes the values at a path to `each` until it returns true. A path without a value passes one
/// `Absent`.
pub(super) fn any_leaf<D: Document>(
    document: &D,
    path: &FieldPath,
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
            let mut passed = false;
            let found = scan::any(&text, rest, flatten, &mut |value| {
                passed = true;
                each(value)
            });
            found || (!passed && each(Scalar::Absent))
        }
        _ if !rest.is_empty() => each(Scalar::Absent),
        Raw::Text(text) => each(scan::text_or_absent(Cow::Borrowed(text))),
        Raw::Number(number) => each(Scalar::Number(number)),
        Raw::Bool(value) => each(Scalar::Bool(value)),
    }
}
