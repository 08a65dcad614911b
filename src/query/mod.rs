//! Questions about a collection: filters, `q`, `sort`, `limit`, `cursor` and `select`, the same for every kind of thing.
//!
//! A `Query` is what a query string means for a `Kind`. An `Execution` answers it from a `Source` in slices, so that a million documents
//! do not hold up a core; what it answers is exactly what the whole list, filtered, sorted and cut, would give, and `estimated_count` is exact.
//! A page that is wanted in key order without filters is read from where it starts. Otherwise every document that may match is looked at
//! once, in place and without allocating, and only the best `limit + 1` are remembered.
//!
//! The rules where the reference is silent or wrong:
//! * a path maps over arrays, and a filter matches if any element does; an empty array is as good as nothing;
//! * missing, null, "null" and "undefined" are all absent; `_ne` matches what is absent, comparisons never do;
//! * a parameter that names no known field is no filter; the same operator twice: the last one counts;
//! * filtering or sorting by a secret is refused, since the answers would tell it;
//! * pages are places in the order of `sort`, made unique by the key (`cursor`); a document that exists during the whole walk is seen exactly once;
//! * sorted by the stamp of changes, a page never ends between documents of one stamp, because who continues from the last stamp would miss
//!   the rest.
//!
//! Who may ask, what a document looks like and which revision is read is decided by the caller.

pub mod cursor;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Bound;
use std::time::{Duration, Instant};

use memchr::memmem::Finder;
use xxhash_rust::xxh3::xxh3_64;

use self::cursor::{Cursor, Position, Question, SortKey, SortValue, encode_component};
use crate::http::error::ApiError;
use crate::json::FieldType;
use crate::json::scan::{self, Projection, Scalar};
use crate::json::{Number, write_string};

/// Most documents on a page; more is refused, since one answer would hold the core for too long.
pub const LIMIT_MAX: usize = 10_000;
pub const LIMIT_DEFAULT: usize = 100;
/// Bounds of the work that one request can ask for per document.
pub const SELECT_PATHS_MAX: usize = 100;
pub const PATH_DEPTH_MAX: usize = 8;
pub const SORT_KEYS_MAX: usize = 4;
pub const FILTERS_MAX: usize = 64;
pub const FILTER_VALUES_MAX: usize = 10_000;
pub const Q_BYTES_MAX: usize = 256;

// ---- what a kind of document and its store provide ---------------------------------------------------------------------------

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

/// The order of keys, in the source as in answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOrder {
    /// By bytes.
    Text,
    /// Keys are decimal numbers without leading zeros, in the order of the numbers.
    Decimal,
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

// ---- paths, filters, searches -------------------------------------------------------------------------------------------------

/// A dotted path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    text: Box<str>,
    parts: Box<[Box<str>]>,
}

#[derive(Debug)]
struct Filter {
    path: Path,
    operator: Operator,
    /// As given by the request, after decoding.
    test: Test,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Operator {
    Equal,
    NotEqual,
    Greater,
    Less,
    GreaterEqual,
    LessEqual,
    Like,
    Is,
    IsNot,
}

#[derive(Debug)]
enum Test {
    Among(Values),
    NotAmong(Values),
    Compare(Operator, Comparand),
    Contains(Box<Finder<'static>>),
    Absent,
    Present,
}

/// A set of values of several types; a text that may be a number is in it twice when the field takes both.
#[derive(Debug, Default)]
struct Values {
    texts: Vec<Box<str>>,
    numbers: Vec<Number>,
    yes: bool,
    no: bool,
}

#[derive(Debug, Default)]
struct Comparand {
    text: Option<Box<str>>,
    number: Option<Number>,
    truth: Option<bool>,
}

/// What `q` looks for: a lower-case text.
#[derive(Debug)]
struct Needle {
    lower: Box<str>,
    /// The byte that is probably rarest, where it is, and its upper case. For texts in ASCII.
    rare: (usize, u8, u8),
}

/// A question about a collection.
pub struct Query {
    kind: &'static Kind,
    filters: Vec<Filter>,
    needle: Option<Needle>,
    /// The last one is the key.
    sort: Vec<SortKey>,
    select: Option<Vec<Projection>>,
    limit: usize,
    limit_given: bool,
    reversed: bool,
    position: Option<Position>,
    revision: Option<u64>,
    own: Vec<(&'static str, String)>,
    search: Vec<(Path, bool)>,
    keys: Option<Vec<Box<str>>>,
    only: Option<Only>,
}

/// The part of a collection that its reader may know of.
struct Only {
    /// Differs between readers who may know of different things.
    tag: Box<str>,
    shows: Box<dyn Fn(&str) -> bool>,
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

    fn project(&self, wanted: &[Projection], out: &mut Vec<u8>) {
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
fn any_leaf<D: Document>(
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

/// What a document is sorted by: the first value at the path that is there.
fn sort_value<'a, D: Document>(document: &'a D, path: &Path) -> SortValue<'a> {
    let (raw, rest) = match document.leaf(path) {
        Leaf::Value(raw) => (raw, &[][..]),
        Leaf::Absent => return SortValue::Absent,
        Leaf::Unknown => match document.field(&path.parts[0]) {
            Some(raw) => (raw, &path.parts[1..]),
            None => return SortValue::Absent,
        },
    };
    match raw {
        Raw::Json(Cow::Borrowed(text)) => first_value(text, rest),
        Raw::Json(Cow::Owned(text)) => first_value(&text, rest).into_owned(),
        _ if !rest.is_empty() => SortValue::Absent,
        Raw::Text(text) => of_scalar(scan::text_or_absent(Cow::Borrowed(text))),
        Raw::Number(number) => SortValue::Number(number),
        Raw::Bool(value) => SortValue::Bool(value),
    }
}

fn first_value<'a>(text: &'a str, path: &[Box<str>]) -> SortValue<'a> {
    let mut first = SortValue::Absent;
    scan::any(text, path, false, &mut |value| {
        first = of_scalar(value);
        first != SortValue::Absent
    });
    first
}

fn of_scalar(value: Scalar<'_>) -> SortValue<'_> {
    match value {
        Scalar::Absent => SortValue::Absent,
        Scalar::Number(number) => SortValue::Number(number),
        Scalar::Text(text) => SortValue::text(text),
        Scalar::Bool(value) => SortValue::Bool(value),
        Scalar::Array(_) | Scalar::Object(_) => SortValue::Structure,
    }
}

impl Filter {
    fn matches<D: Document>(&self, document: &D) -> bool {
        let path = &self.path;
        match &self.test {
            Test::Among(values) => any_leaf(document, path, true, &mut |leaf| values.holds(&leaf)),
            Test::NotAmong(values) => {
                any_leaf(document, path, true, &mut |leaf| !values.holds(&leaf))
            }
            Test::Compare(operator, comparand) => any_leaf(document, path, true, &mut |leaf| {
                comparand
                    .order_of(&leaf)
                    .is_some_and(|order| match operator {
                        Operator::Greater => order == Ordering::Greater,
                        Operator::GreaterEqual => order != Ordering::Less,
                        Operator::Less => order == Ordering::Less,
                        _ => order != Ordering::Greater,
                    })
            }),
            Test::Contains(finder) => any_leaf(
                document,
                path,
                true,
                &mut |leaf| matches!(leaf, Scalar::Text(text) if finder.find(text.as_bytes()).is_some()),
            ),
            // An array is there even if it is empty, so these two look at the field itself.
            Test::Absent => any_leaf(document, path, false, &mut |leaf| {
                matches!(leaf, Scalar::Absent)
            }),
            Test::Present => any_leaf(document, path, false, &mut |leaf| {
                !matches!(leaf, Scalar::Absent)
            }),
        }
    }

    /// Equal for filters that ask the same.
    fn canonical(&self, out: &mut String) {
        encode_component(&self.path.text, out);
        match &self.test {
            Test::Among(values) => {
                out.push_str("==");
                values.canonical(out);
            }
            Test::NotAmong(values) => {
                out.push_str("!=");
                values.canonical(out);
            }
            Test::Compare(operator, comparand) => {
                out.push_str(match operator {
                    Operator::Greater => ">",
                    Operator::GreaterEqual => ">=",
                    Operator::Less => "<",
                    _ => "<=",
                });
                if let Some(text) = &comparand.text {
                    encode_component(text, out);
                }
                out.push('~');
                if let Some(number) = comparand.number {
                    write_number(number, out);
                }
                out.push('~');
                if let Some(truth) = comparand.truth {
                    out.push(if truth { '1' } else { '0' });
                }
            }
            Test::Contains(finder) => {
                out.push_str("*=");
                encode_component(&String::from_utf8_lossy(finder.needle()), out);
            }
            Test::Absent => out.push('!'),
            Test::Present => out.push('?'),
        }
    }
}

fn write_number(number: Number, out: &mut String) {
    let mut text = Vec::new();
    number.write(&mut text);
    out.push_str(&String::from_utf8_lossy(&text));
}

impl Values {
    fn parse(
        name: &str,
        text: &str,
        list: bool,
        field_type: FieldType,
    ) -> Result<Values, ApiError> {
        let mut values = Values::default();
        let pieces = text.split(if list { ',' } else { '\0' });
        for (i, piece) in pieces.enumerate() {
            if i == FILTER_VALUES_MAX {
                return Err(ApiError::bad_parameter(
                    name,
                    "too_many_items",
                    "The list has too many values",
                )
                .with("maximum", FILTER_VALUES_MAX));
            }
            let comparand = Comparand::parse(name, piece, field_type)?;
            values.texts.extend(comparand.text);
            values.numbers.extend(comparand.number);
            values.yes |= comparand.truth == Some(true);
            values.no |= comparand.truth == Some(false);
        }
        values.texts.sort_unstable();
        values.texts.dedup();
        values.numbers.sort_unstable();
        values.numbers.dedup();
        Ok(values)
    }

    #[inline]
    fn holds(&self, value: &Scalar<'_>) -> bool {
        match value {
            Scalar::Text(text) => match &self.texts[..] {
                [one] => **one == **text,
                many => many.binary_search_by(|one| (**one).cmp(text)).is_ok(),
            },
            Scalar::Number(number) => self.numbers.binary_search(number).is_ok(),
            Scalar::Bool(true) => self.yes,
            Scalar::Bool(false) => self.no,
            Scalar::Absent | Scalar::Array(_) | Scalar::Object(_) => false,
        }
    }

    fn canonical(&self, out: &mut String) {
        for text in &self.texts {
            encode_component(text, out);
            out.push(',');
        }
        out.push('~');
        for number in &self.numbers {
            write_number(*number, out);
            out.push(',');
        }
        out.push('~');
        out.push_str(match (self.no, self.yes) {
            (false, false) => "",
            (true, false) => "0",
            (false, true) => "1",
            (true, true) => "01",
        });
    }
}

impl Comparand {
    fn parse(name: &str, text: &str, field_type: FieldType) -> Result<Comparand, ApiError> {
        let refuse = |code, title| Err(ApiError::bad_parameter(name, code, title));
        let mut result = Comparand::default();
        match field_type {
            FieldType::Integer => match scan::number(text) {
                Some(number @ (Number::Unsigned(_) | Number::Negative(_))) => {
                    result.number = Some(number);
                }
                _ => return refuse("not_integer", "The field takes integers of 64 bits"),
            },
            FieldType::Number => match scan::number(text) {
                Some(number) => result.number = Some(number),
                None => return refuse("not_number", "The field takes numbers"),
            },
            FieldType::Boolean => match text {
                "true" => result.truth = Some(true),
                "false" => result.truth = Some(false),
                _ => return refuse("not_boolean", "The field takes true or false"),
            },
            FieldType::String => result.text = Some(text.into()),
            FieldType::Other => {
                result.number = scan::number(text);
                result.truth = match text {
                    "true" => Some(true),
                    "false" => Some(false),
                    _ => None,
                };
                result.text = Some(text.into());
            }
        }
        Ok(result)
    }

    /// How a value compares with this one, if they compare at all.
    #[inline]
    fn order_of(&self, value: &Scalar<'_>) -> Option<Ordering> {
        match value {
            Scalar::Number(number) => Some(number.cmp(self.number.as_ref()?)),
            Scalar::Text(text) => Some(text.as_bytes().cmp(self.text.as_ref()?.as_bytes())),
            Scalar::Bool(value) => Some(value.cmp(self.truth.as_ref()?)),
            Scalar::Absent | Scalar::Array(_) | Scalar::Object(_) => None,
        }
    }
}

/// Simple lower case: one character for one character.
fn lower(letter: char) -> char {
    letter.to_lowercase().next().unwrap_or(letter)
}

impl Needle {
    fn new(text: &str) -> Needle {
        // From frequent to rare, roughly, in names and URLs; what is not listed is rarer.
        const FREQUENT: &[u8] = b"eatsrnoimcpdl/10:.-2h3u";
        let lower: Box<str> = text.chars().map(lower).collect::<String>().into();
        let (at, byte) = lower
            .bytes()
            .enumerate()
            .max_by_key(|(_, byte)| {
                FREQUENT
                    .iter()
                    .position(|frequent| frequent == byte)
                    .unwrap_or(FREQUENT.len())
            })
            .unwrap_or((0, 0));
        Needle {
            lower,
            rare: (at, byte, byte.to_ascii_uppercase()),
        }
    }

    fn is_in(&self, text: &str) -> bool {
        if text.is_ascii() {
            // A needle with other letters is not found here, as it should be.
            return self.is_in_ascii(text.as_bytes());
        }
        let lower: String = text.chars().map(lower).collect();
        memchr::memmem::find(lower.as_bytes(), self.lower.as_bytes()).is_some()
    }

    fn is_in_ascii(&self, text: &[u8]) -> bool {
        let needle = self.lower.as_bytes();
        let (at, byte, upper) = self.rare;
        if text.len() < needle.len() || needle.is_empty() {
            return needle.is_empty();
        }
        // Every possible start, seen from its rarest byte.
        let places = &text[at..=at + text.len() - needle.len()];
        memchr::memchr2_iter(byte, upper, places)
            .any(|start| text[start..start + needle.len()].eq_ignore_ascii_case(needle))
    }

    /// False only if the needle is in none of the strings and URLs that this text has, canonical JSON or plain.
    fn may_be_in(&self, text: &str) -> bool {
        // Escapes hide quotes, backslashes and control characters; credentials may stand where a slash has to be followed by a host;
        // letters outside of ASCII may have lower case inside of it.
        let hidden = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
        !text.is_ascii()
            || self.lower.bytes().any(hidden)
            || self.is_in_ascii(text.as_bytes())
            || (self.lower.contains('/') && text.contains('@'))
    }

    fn is_in_url(&self, url: &str) -> bool {
        let Some((before, after)) = around_credentials(url) else {
            return self.is_in(url);
        };
        // Across the gap only what contains the slash before it can match.
        self.is_in(after)
            || self.is_in(before)
            || (self.lower.contains('/') && self.is_in(&format!("{before}{after}")))
    }
}

/// `rtsp://` and `host/path` of `rtsp://user:password@host/path`; `None` if there are no credentials.
fn around_credentials(url: &str) -> Option<(&str, &str)> {
    let start = url.find("://")? + 3;
    let authority = &url[start..];
    let authority = &authority[..authority.find(['/', '?', '#']).unwrap_or(authority.len())];
    let at = authority.rfind('@')?;
    Some((&url[..start], &url[start + at + 1..]))
}

// ---- reading the query string --------------------------------------------------------------------------------------------------

/// Pairs of a url-encoded query string; a name without `=` has no value. The error is the name of the pair that is broken.
pub(crate) fn pairs(
    raw: &str,
) -> impl Iterator<Item = Result<(Cow<'_, str>, Option<Cow<'_, str>>), String>> {
    raw.split('&')
        .filter(|piece| !piece.is_empty())
        .map(|piece| {
            let (raw_name, raw_value) = match piece.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (piece, None),
            };
            let name = decode_component(raw_name).ok_or_else(|| printable(raw_name))?;
            let value = raw_value
                .map(|value| decode_component(value).ok_or_else(|| printable(&name)))
                .transpose()?;
            Ok((name, value))
        })
}

/// A name as it may stand in an error.
fn printable(name: &str) -> String {
    name.chars()
        .filter(|letter| !letter.is_control())
        .take(64)
        .collect()
}

/// `None`: a percent sign without two hexadecimal digits, or bytes that are no UTF-8.
fn decode_component(raw: &str) -> Option<Cow<'_, str>> {
    if memchr::memchr2(b'%', b'+', raw.as_bytes()).is_none() {
        return Some(Cow::Borrowed(raw));
    }
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

impl Query {
    /// `own` are the parameters of the operation that are no filters; they are kept as they are.
    pub fn parse(raw: &str, kind: &'static Kind, own: &[&'static str]) -> Result<Query, ApiError> {
        let mut query = Query {
            kind,
            filters: Vec::new(),
            needle: None,
            sort: Vec::new(),
            select: None,
            limit: LIMIT_DEFAULT,
            limit_given: false,
            reversed: false,
            position: None,
            revision: None,
            own: Vec::new(),
            search: Vec::new(),
            keys: None,
            only: None,
        };
        let mut sort = None;
        let mut cursor = None;
        let mut filters_seen = 0;
        for pair in pairs(raw) {
            let (name, value) = pair.map_err(|name| {
                ApiError::bad_parameter(
                    name,
                    "wrong_format",
                    "The parameter is not percent-encoded UTF-8",
                )
            })?;
            let value_or_true = value.as_deref().unwrap_or("true");
            if let Some(name) = own.iter().find(|own| **own == name) {
                query.own.retain(|(known, _)| known != name);
                query.own.push((name, value_or_true.to_owned()));
                continue;
            }
            match &*name {
                "limit" => {
                    query.limit = parse_limit(value_or_true)?;
                    query.limit_given = true;
                }
                "sort" => sort = value,
                "cursor" => cursor = value,
                "select" => query.select = parse_select(value.as_deref().unwrap_or(""), kind)?,
                "$reversed" => {
                    query.reversed = Comparand::parse(&name, value_or_true, FieldType::Boolean)?
                        .truth
                        == Some(true);
                }
                "q" if !kind.search.is_empty() => {
                    let text = value.as_deref().unwrap_or("");
                    if text.len() > Q_BYTES_MAX {
                        return Err(ApiError::bad_parameter(
                            "q",
                            "too_long",
                            "The search is too long",
                        )
                        .with("maximum", Q_BYTES_MAX));
                    }
                    query.needle = (!text.is_empty()).then(|| Needle::new(text));
                }
                _ => {
                    filters_seen += 1;
                    if filters_seen > FILTERS_MAX {
                        return Err(ApiError::bad_parameter(
                            printable(&name),
                            "too_many_items",
                            "There are too many filters",
                        )
                        .with("maximum", FILTERS_MAX));
                    }
                    query.add_filter(&name, value.as_deref())?;
                }
            }
        }
        query.keys = query.keys_of_filters();
        query.sort = parse_sort(sort.as_deref().unwrap_or(""), kind)?;
        if query.needle.is_some() {
            query.search = kind
                .search
                .iter()
                .map(|search| (Path::new(search.path), search.url))
                .collect();
        }
        if let Some(text) = cursor.filter(|text| !text.is_empty()) {
            let question = query.question();
            let cursor = Cursor::decode(&text, &question).ok_or_else(|| {
                ApiError::bad_parameter(
                    "cursor",
                    "bad_cursor",
                    "The cursor is damaged or belongs to another query",
                )
            })?;
            query.reversed = cursor.reversed;
            query.revision = cursor.revision;
            query.position = Some(cursor.position);
        }
        Ok(query)
    }

    fn add_filter(&mut self, name: &str, value: Option<&str>) -> Result<(), ApiError> {
        const SUFFIXES: [(&str, Operator); 8] = [
            ("_ne", Operator::NotEqual),
            ("_gt", Operator::Greater),
            ("_lt", Operator::Less),
            ("_gte", Operator::GreaterEqual),
            ("_lte", Operator::LessEqual),
            ("_like", Operator::Like),
            ("_is", Operator::Is),
            ("_is_not", Operator::IsNot),
        ];
        let (path, operator) = SUFFIXES
            .iter()
            .find_map(|(suffix, operator)| Some((name.strip_suffix(suffix)?, *operator)))
            .filter(|(_, operator)| {
                !matches!(operator, Operator::Is | Operator::IsNot) || value == Some("null")
            })
            .unwrap_or((name, Operator::Equal));
        if (self.kind.secret)(path) {
            return Err(secret(name));
        }
        let Some(field_type) = (self.kind.field_type)(path) else {
            return Ok(());
        };
        let path = checked_path(path, name)?;
        let value = value.unwrap_or("true");
        let test = match operator {
            Operator::Equal => Test::Among(Values::parse(name, value, true, field_type)?),
            Operator::NotEqual => Test::NotAmong(Values::parse(name, value, true, field_type)?),
            Operator::Like => Test::Contains(Box::new(Finder::new(value).into_owned())),
            Operator::Is => Test::Absent,
            Operator::IsNot => Test::Present,
            _ => Test::Compare(operator, Comparand::parse(name, value, field_type)?),
        };
        self.filters
            .retain(|known| known.operator != operator || known.path != path);
        self.filters.push(Filter {
            path,
            operator,
            test,
        });
        Ok(())
    }

    /// Documents on a page.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// For operations whose list is not paged unless asked: the limit of a request that names none, 0 for the whole list.
    pub fn set_default_limit(&mut self, limit: usize) {
        if !self.limit_given {
            self.limit = if limit == 0 { usize::MAX } else { limit };
        }
    }

    /// Whether the request names a limit.
    pub fn has_limit(&self) -> bool {
        self.limit_given
    }

    /// Makes the cursors of the answer name a revision.
    pub fn pin_revision(&mut self, revision: u64) {
        self.revision = Some(revision);
    }

    /// The revision that the cursor of the request names.
    pub fn revision(&self) -> Option<u64> {
        self.revision
    }

    pub fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// A parameter of the operation; without value it is "true".
    pub fn own(&self, name: &str) -> Option<&str> {
        self.own
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.as_str())
    }

    /// If only documents with certain keys can match: these keys, sorted.
    pub fn keys(&self) -> Option<&[Box<str>]> {
        self.keys.as_deref()
    }

    fn keys_of_filters(&self) -> Option<Vec<Box<str>>> {
        self.filters.iter().find_map(|filter| match &filter.test {
            Test::Among(values) if &*filter.path.text == self.kind.key => {
                let mut keys = values.texts.clone();
                // Keys are texts for us, even where the documents have numbers.
                keys.extend(values.numbers.iter().map(|number| {
                    let mut text = String::new();
                    write_number(*number, &mut text);
                    text.into_boxed_str()
                }));
                keys.sort_unstable();
                keys.dedup();
                Some(keys)
            }
            _ => None,
        })
    }

    pub fn hints(&self) -> Hints<'_> {
        let mut hints = Hints::default();
        for filter in &self.filters {
            match &filter.test {
                Test::Compare(Operator::Greater | Operator::GreaterEqual, comparand)
                    if Some(&*filter.path.text) == self.kind.stamp =>
                {
                    if let Some(Number::Unsigned(stamp)) = comparand.number {
                        let more = u64::from(filter.operator == Operator::Greater);
                        let stamp = stamp.saturating_add(more);
                        hints.stamp_min = hints.stamp_min.max(Some(stamp));
                    }
                }
                Test::Among(values) if values.numbers.is_empty() && !values.yes && !values.no => {
                    hints.equal.push((&filter.path.text, &values.texts));
                }
                _ => {}
            }
        }
        hints
    }

    /// Leaves out everything whose key `shows` refuses, as if it did not exist. Two narrowed queries are the same question if their tags are equal.
    pub fn narrow(&mut self, tag: &str, shows: impl Fn(&str) -> bool + 'static) {
        self.only = Some(Only {
            tag: tag.into(),
            shows: Box::new(shows),
        });
    }

    /// Whether a document belongs on this or a later page: decides whether a change wakes a waiting poll.
    pub fn matches<D: Document>(&self, document: &D) -> bool {
        self.passes(document)
            && self.position.as_ref().is_none_or(|position| {
                self.order(document, &self.first_value(document), position) == Ordering::Greater
            })
    }

    /// Whether it depends on a top-level field which documents there are on this or a later page.
    pub fn depends_on(&self, field: &str) -> bool {
        let is_of = |path: &Path| path.parts().first().is_some_and(|first| **first == *field);
        let placed = self.position.is_some();
        self.filters.iter().any(|filter| is_of(&filter.path))
            || self.search.iter().any(|(path, _)| is_of(path))
            || placed && self.sort.iter().any(|key| is_of(&key.path))
    }

    /// Text that is equal for two requests that ask the same question, parameters of the operation apart.
    pub fn canonical(&self) -> String {
        let mut out = self.canonical_question();
        out.push_str("&limit=");
        out.push_str(itoa::Buffer::new().format(self.limit));
        if let Some(only) = &self.only {
            out.push_str("&only=");
            encode_component(&only.tag, &mut out);
        }
        if let Some(select) = &self.select {
            out.push_str("&select=");
            canonical_select(select, &mut out);
        }
        if self.reversed {
            out.push_str("&reversed");
        }
        if let Some(revision) = self.revision {
            out.push_str("&revision=");
            out.push_str(itoa::Buffer::new().format(revision));
        }
        if let Some(position) = &self.position {
            out.push_str("&cursor=");
            out.push_str(&self.cursor_at(position.clone(), self.reversed));
        }
        out
    }

    /// Which documents, in which order.
    fn canonical_question(&self) -> String {
        let mut out = String::from(self.kind.collection);
        out.push('?');
        let mut filters: Vec<String> = self
            .filters
            .iter()
            .map(|filter| {
                let mut out = String::new();
                filter.canonical(&mut out);
                out
            })
            .collect();
        filters.sort_unstable();
        for filter in filters {
            out.push_str(&filter);
            out.push('&');
        }
        if let Some(needle) = &self.needle {
            out.push_str("q=");
            encode_component(&needle.lower, &mut out);
        }
        out.push_str("&sort=");
        for sort in &self.sort {
            out.push(if sort.descending { '-' } else { '+' });
            encode_component(sort.path.as_str(), &mut out);
        }
        out
    }

    fn has_filters(&self) -> bool {
        !self.filters.is_empty() || self.needle.is_some()
    }

    /// Whether some documents may be left out.
    fn selective(&self) -> bool {
        self.has_filters() || self.only.is_some()
    }

    fn question(&self) -> Question<'_> {
        Question {
            sort: &self.sort,
            fingerprint: xxh3_64(self.canonical_question().as_bytes()),
            // Not of what the reader may see: a cursor is read before that is known, and names a place and nothing more.
            selective: self.has_filters(),
        }
    }

    fn cursor_at(&self, position: Position, reversed: bool) -> String {
        Cursor {
            position,
            reversed,
            revision: self.revision,
        }
        .encode(&self.question())
    }

    fn passes<D: Document>(&self, document: &D) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| (only.shows)(document.key()))
            && self.filters.iter().all(|filter| filter.matches(document))
            && self.needle.as_ref().is_none_or(|needle| {
                if let Some(texts) = document.texts()
                    && !texts.iter().any(|text| needle.may_be_in(text))
                {
                    return false;
                }
                self.search.iter().any(|(path, url)| {
                    any_leaf(document, path, true, &mut |leaf| match leaf {
                        Scalar::Text(text) if *url => needle.is_in_url(&text),
                        Scalar::Text(text) => needle.is_in(&text),
                        _ => false,
                    })
                })
            })
    }

    /// Sort keys but for the last, which is the key of the collection.
    fn value_sorts(&self) -> &[SortKey] {
        self.sort.split_last().map_or(&[], |(_, values)| values)
    }

    fn key_descending(&self) -> bool {
        self.sort.last().is_some_and(|key| key.descending) ^ self.reversed
    }

    #[inline]
    fn first_value<'a, D: Document>(&self, document: &'a D) -> SortValue<'a> {
        match self.value_sorts() {
            [] => SortValue::Absent,
            [first, ..] => sort_value(document, &first.path),
        }
    }

    /// Where a document is in the order of this page, seen from a position. `first` is its first sort value, read once per document.
    #[inline]
    fn order<D: Document>(
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

    fn order_of_positions(&self, a: &Position, b: &Position) -> Ordering {
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

    fn position_of<D: Document>(&self, document: &D, first: &SortValue<'_>) -> Position {
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

    /// The document as the request wants to see it.
    pub fn render<D: Document>(&self, document: &D, out: &mut Vec<u8>) {
        let Some(select) = &self.select else {
            return document.render(out);
        };
        out.push(b'{');
        for (i, want) in select.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_string(out, &want.name);
            out.push(b':');
            match document.field(&want.name) {
                Some(raw) => raw.project(&want.below, out),
                None => out.extend_from_slice(b"null"),
            }
        }
        out.push(b'}');
    }
}

fn directed(order: Ordering, descending: bool) -> Ordering {
    if descending { order.reverse() } else { order }
}

fn secret(parameter: &str) -> ApiError {
    ApiError::bad_parameter(
        printable(parameter),
        "secret_field",
        "Secrets can be neither filtered nor sorted by",
    )
}

fn checked_path(path: &str, parameter: &str) -> Result<Path, ApiError> {
    if path.split('.').nth(PATH_DEPTH_MAX).is_some() {
        return Err(ApiError::bad_parameter(
            printable(parameter),
            "too_deep",
            "The path has too many parts",
        )
        .with("maximum", PATH_DEPTH_MAX));
    }
    Ok(Path::new(path))
}

fn parse_limit(text: &str) -> Result<usize, ApiError> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ApiError::bad_parameter(
            "limit",
            "not_integer",
            "The limit is an integer",
        ));
    }
    text.parse()
        .ok()
        .filter(|limit| (1..=LIMIT_MAX).contains(limit))
        .ok_or_else(|| {
            ApiError::bad_parameter("limit", "input_out_of_range", "The limit is out of range")
                .with("minimum", 1)
                .with("maximum", LIMIT_MAX)
        })
}

/// The order as asked for, or else the default one; always total, by the key.
fn parse_sort(text: &str, kind: &Kind) -> Result<Vec<SortKey>, ApiError> {
    let mut sort: Vec<SortKey> = Vec::new();
    let asked = text.split(',').filter(|piece| !piece.is_empty());
    for (i, piece) in asked.enumerate() {
        if i == SORT_KEYS_MAX {
            return Err(ApiError::bad_parameter(
                "sort",
                "too_many_items",
                "There are too many sort keys",
            )
            .with("maximum", SORT_KEYS_MAX));
        }
        add_sort_key(piece, kind, &mut sort)?;
    }
    if sort.is_empty() {
        for piece in kind.default_sort.split(',') {
            add_sort_key(piece, kind, &mut sort)?;
        }
    }
    // The direction of the key where nobody asked for one is that of the default order.
    let descending = kind
        .default_sort
        .split(',')
        .any(|piece| piece.strip_prefix('-') == Some(kind.key));
    let end = sort
        .iter()
        .position(|sort| sort.path.as_str() == kind.key)
        .unwrap_or(sort.len());
    let descending = sort.get(end).map_or(descending, |key| key.descending);
    // What comes after the key decides nothing.
    sort.truncate(end);
    sort.push(SortKey {
        path: Path::new(kind.key),
        descending,
        numeric: false,
    });
    Ok(sort)
}

fn add_sort_key(piece: &str, kind: &Kind, sort: &mut Vec<SortKey>) -> Result<(), ApiError> {
    let (path, descending) = match piece.strip_prefix('-') {
        Some(path) => (path, true),
        None => (piece, false),
    };
    if (kind.secret)(path) {
        return Err(secret("sort"));
    }
    // As with filters: what no document has decides nothing.
    let Some(field_type) = (kind.field_type)(path) else {
        return Ok(());
    };
    let path = checked_path(path, "sort")?;
    if sort.iter().all(|known| known.path != path) {
        sort.push(SortKey {
            path,
            descending,
            numeric: matches!(field_type, FieldType::Integer | FieldType::Number),
        });
    }
    Ok(())
}

fn parse_select(text: &str, kind: &Kind) -> Result<Option<Vec<Projection>>, ApiError> {
    let mut tree = Vec::new();
    let mut paths = 0;
    for piece in text.split(',').filter(|piece| !piece.is_empty()) {
        paths += 1;
        if paths > SELECT_PATHS_MAX {
            return Err(ApiError::bad_parameter(
                "select",
                "too_many_items",
                "There are too many fields",
            )
            .with("maximum", SELECT_PATHS_MAX));
        }
        want(&mut tree, checked_path(piece, "select")?.parts());
    }
    if paths == 0 {
        return Ok(None);
    }
    for name in (kind.required)() {
        want(&mut tree, std::slice::from_ref(name));
    }
    Ok(Some(tree))
}

/// Adds a path to a selection; the whole of something includes its parts.
fn want(tree: &mut Vec<Projection>, path: &[Box<str>]) {
    let [name, rest @ ..] = path else { return };
    match tree.binary_search_by(|known| known.name.cmp(name)) {
        Ok(found) if rest.is_empty() => tree[found].below.clear(),
        Ok(found) if tree[found].below.is_empty() => {}
        Ok(found) => want(&mut tree[found].below, rest),
        Err(place) => {
            let mut below = Vec::new();
            want(&mut below, rest);
            tree.insert(
                place,
                Projection {
                    name: name.clone(),
                    below,
                },
            );
        }
    }
}

fn canonical_select(select: &[Projection], out: &mut String) {
    for want in select {
        encode_component(&want.name, out);
        if !want.below.is_empty() {
            out.push('(');
            canonical_select(&want.below, out);
            out.push(')');
        }
        out.push(',');
    }
}

// ---- answering ------------------------------------------------------------------------------------------------------------------

/// Answers one query from one revision, slice by slice.
pub struct Execution<Q> {
    query: Q,
    phase: Phase,
    place: Place,
    /// Documents that pass the filters.
    matched: u64,
    /// Whether some of them are at or before the position.
    behind: bool,
    /// Whether some of them come after the page.
    ahead: bool,
    best: Best,
    /// What has the same stamp as the end of the page, but no place on it.
    group: Vec<Position>,
    first: Option<Position>,
    last: Option<Position>,
    /// The beginning of the body: rendered documents, one after the other, and where each ends.
    list: Vec<u8>,
    ends: Vec<usize>,
    timing: Timing,
}

enum Phase {
    /// Reading the page itself, in key order.
    Ordered,
    /// Looking at everything that may match.
    Look,
    Sort,
    /// Looking once more, for the documents that share the last stamp.
    Group,
    /// Rendering, from the n-th document of the page.
    Render(usize),
    Finished,
}

/// Time spent on the parts of an answer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub filter: Duration,
    pub sort: Duration,
    pub limit: Duration,
    pub select: Duration,
    /// Getting the documents before there was a query to run; the caller's to fill.
    pub load: Duration,
}

/// One page of an answer.
#[derive(Debug)]
pub struct Page {
    pub estimated_count: u64,
    /// How many documents are on the page.
    pub items: usize,
    pub next: Option<String>,
    pub prev: Option<String>,
    pub timing: Timing,
    /// `{"COLLECTION":[...]`, without the rest of the envelope.
    body: Vec<u8>,
}

/// The smallest positions of all that were offered.
///
/// A buffer of twice the wanted size that is cut in half when full: constant time per position even if each is smaller than all before.
struct Best {
    wanted: usize,
    positions: Vec<Position>,
    /// The largest of the first `wanted` is at the end of them; nothing larger needs to be offered.
    bounded: bool,
}

impl Best {
    fn worst(&self) -> Option<&Position> {
        if self.bounded {
            self.positions.get(self.wanted - 1)
        } else {
            None
        }
    }

    fn offer(&mut self, position: Position, query: &Query) {
        self.positions.push(position);
        if self.positions.len() >= self.wanted.saturating_mul(2).max(64) {
            self.cut(query);
        }
    }

    fn cut(&mut self, query: &Query) {
        if self.positions.len() > self.wanted {
            self.positions
                .select_nth_unstable_by(self.wanted - 1, |a, b| query.order_of_positions(a, b));
            self.positions.truncate(self.wanted);
            self.bounded = true;
        }
    }
}

impl<Q: std::ops::Deref<Target = Query>> Execution<Q> {
    pub fn new(query: Q) -> Self {
        let phase = if query.selective() || query.sort.len() > 1 {
            Phase::Look
        } else {
            Phase::Ordered
        };
        let mut list = Vec::with_capacity(4096);
        list.push(b'{');
        write_string(&mut list, query.kind.collection);
        list.extend_from_slice(b":[");
        let wanted = query.limit.saturating_add(1);
        Execution {
            query,
            phase,
            place: Place::default(),
            matched: 0,
            behind: false,
            ahead: false,
            best: Best {
                wanted,
                positions: Vec::new(),
                bounded: false,
            },
            group: Vec::new(),
            first: None,
            last: None,
            list,
            ends: Vec::new(),
            timing: Timing::default(),
        }
    }

    pub fn query(&self) -> &Query {
        &self.query
    }

    /// Looks at up to `budget` more documents; the page once all is done, after which this must not be called again.
    pub fn step<S: Source>(&mut self, source: &S, budget: usize) -> Option<Page> {
        // Rendering a document costs about as much as looking at several.
        const RENDER_COST: usize = 4;
        let started = Instant::now();
        match self.phase {
            Phase::Ordered => {
                self.read_page(source, budget / RENDER_COST + 1);
                self.timing.select += started.elapsed();
            }
            Phase::Look => {
                self.look(source, budget);
                self.timing.filter += started.elapsed();
            }
            Phase::Sort => {
                self.sort();
                self.timing.sort += started.elapsed();
            }
            Phase::Group => {
                self.complete_group(source, budget);
                self.timing.limit += started.elapsed();
            }
            Phase::Render(from) => {
                self.render(source, from, budget / RENDER_COST + 1);
                self.timing.select += started.elapsed();
            }
            Phase::Finished => {}
        }
        matches!(self.phase, Phase::Finished).then(|| self.page())
    }

    /// All at once, for small lists.
    pub fn run<S: Source>(mut self, source: &S) -> Page {
        loop {
            if let Some(page) = self.step(source, usize::MAX) {
                return page;
            }
        }
    }

    fn read_page<S: Source>(&mut self, source: &S, budget: usize) {
        let descending = self.query.key_descending();
        if self.last.is_none() {
            self.matched = source.count();
            if let Some(position) = &self.query.position {
                let before = Bound::Included(&*position.key);
                self.behind = if descending {
                    source.ascending(before).next().is_some()
                } else {
                    source.descending(before).next().is_some()
                };
            }
        }
        let from = self.last.clone().or_else(|| self.query.position.clone());
        let bound = from
            .as_ref()
            .map_or(Bound::Unbounded, |from| Bound::Excluded(&*from.key));
        if descending {
            self.take(source.descending(bound), budget);
        } else {
            self.take(source.ascending(bound), budget);
        }
    }

    fn take<D: Document>(&mut self, documents: impl Iterator<Item = D>, budget: usize) {
        let mut last: Option<D> = None;
        self.phase = Phase::Finished;
        for (taken, document) in documents.enumerate() {
            if self.ends.len() == self.query.limit {
                self.ahead = true;
                break;
            }
            if taken == budget {
                self.phase = Phase::Ordered;
                break;
            }
            if self.ends.is_empty() {
                self.first = Some(self.query.position_of(&document, &SortValue::Absent));
            }
            self.add(&document);
            last = Some(document);
        }
        if let Some(document) = last {
            self.last = Some(self.query.position_of(&document, &SortValue::Absent));
        }
    }

    fn look<S: Source>(&mut self, source: &S, budget: usize) {
        let query = &*self.query;
        let done = visit(query, source, &mut self.place, budget, &mut |document| {
            if !query.passes(&document) {
                return;
            }
            self.matched += 1;
            let first = query.first_value(&document);
            if let Some(position) = &query.position
                && query.order(&document, &first, position) != Ordering::Greater
            {
                self.behind = true;
                return;
            }
            if let Some(worst) = self.best.worst()
                && query.order(&document, &first, worst) != Ordering::Less
            {
                return;
            }
            let position = query.position_of(&document, &first);
            self.best.offer(position, query);
        });
        if done {
            self.phase = Phase::Sort;
        }
    }

    fn sort(&mut self) {
        let query = &*self.query;
        let page = &mut self.best.positions;
        page.sort_unstable_by(|a, b| query.order_of_positions(a, b));
        self.ahead = page.len() > query.limit;
        self.phase = Phase::Render(0);
        if self.ahead {
            let by_stamp = Some(query.sort[0].path.as_str()) == query.kind.stamp;
            let stamps = (
                page[query.limit - 1].values.first(),
                page[query.limit].values.first(),
            );
            if by_stamp && stamps.0 == stamps.1 && matches!(stamps.0, Some(SortValue::Number(_))) {
                self.ahead = false;
                self.place = Place::default();
                self.phase = Phase::Group;
            }
            page.truncate(query.limit);
        }
    }

    fn complete_group<S: Source>(&mut self, source: &S, budget: usize) {
        let query = &*self.query;
        let end = self.best.positions.last().expect("a group has a beginning");
        let done = visit(query, source, &mut self.place, budget, &mut |document| {
            let first = query.first_value(&document);
            if query.order(&document, &first, end) != Ordering::Greater || !query.passes(&document)
            {
                return;
            }
            if end.values[0] == first {
                self.group.push(query.position_of(&document, &first));
            } else {
                self.ahead = true;
            }
        });
        if done {
            self.group
                .sort_unstable_by(|a, b| query.order_of_positions(a, b));
            self.best.positions.append(&mut self.group);
            self.phase = Phase::Render(0);
        }
    }

    fn render<S: Source>(&mut self, source: &S, from: usize, budget: usize) {
        let to = self.best.positions.len().min(from.saturating_add(budget));
        for i in from..to {
            // It is there, since all slices read one revision.
            if let Some(document) = source.get(&self.best.positions[i].key) {
                self.add(&document);
            }
        }
        if to < self.best.positions.len() {
            self.phase = Phase::Render(to);
            return;
        }
        let mut positions = std::mem::take(&mut self.best.positions);
        if positions.len() > 1 {
            self.last = positions.pop();
            self.first = Some(positions.swap_remove(0));
        } else {
            self.first = positions.pop();
            self.last.clone_from(&self.first);
        }
        self.phase = Phase::Finished;
    }

    fn add<D: Document>(&mut self, document: &D) {
        if !self.ends.is_empty() {
            self.list.push(b',');
        }
        self.query.render(document, &mut self.list);
        self.ends.push(self.list.len());
    }

    fn page(&mut self) -> Page {
        let started = Instant::now();
        let query = &*self.query;
        let mut body = std::mem::take(&mut self.list);
        let (mut first, mut last) = (self.first.take(), self.last.take());
        let (mut more_behind, mut more_ahead) = (self.behind, self.ahead);
        if query.reversed {
            // Read backwards, shown forwards.
            body = flipped(&body, &self.ends, query.kind.collection.len() + 5);
            std::mem::swap(&mut first, &mut last);
            std::mem::swap(&mut more_behind, &mut more_ahead);
        }
        body.push(b']');
        let cursor = |position: Option<Position>, more: bool, reversed: bool| {
            position
                .filter(|_| more)
                .map(|position| query.cursor_at(position, reversed))
        };
        let next = cursor(last, more_ahead, false);
        let prev = cursor(first, more_behind, true);
        self.timing.limit += started.elapsed();
        Page {
            estimated_count: self.matched,
            items: self.ends.len(),
            next,
            prev,
            timing: self.timing,
            body,
        }
    }
}

/// Enough to keep all of a core's outstanding loads busy, few enough to be still in its nearest cache when their turn comes.
const TOUCHED_AT_ONCE: usize = 16;

/// Shows documents that may match; true when all were shown.
fn visit<'a, S: Source>(
    query: &Query,
    source: &'a S,
    place: &mut Place,
    budget: usize,
    each: &mut dyn FnMut(S::Doc<'a>),
) -> bool {
    let Some(keys) = query.keys() else {
        let mut waiting = Vec::with_capacity(TOUCHED_AT_ONCE);
        let mut pass = |waiting: &mut Vec<S::Doc<'a>>| {
            let touched = waiting
                .iter()
                .fold(0, |sum, document: &S::Doc<'a>| sum ^ document.touch());
            std::hint::black_box(touched);
            waiting.drain(..).for_each(&mut *each);
        };
        let done = source.scan(&query.hints(), place, budget, &mut |document| {
            waiting.push(document);
            if waiting.len() == TOUCHED_AT_ONCE {
                pass(&mut waiting);
            }
        });
        pass(&mut waiting);
        return done;
    };
    let to = keys.len().min(place.part.saturating_add(budget.max(1)));
    for key in &keys[place.part..to] {
        if let Some(document) = source.get(key) {
            each(document);
        }
    }
    place.part = to;
    to == keys.len()
}

/// The same list in the opposite order; `head` bytes come before it.
fn flipped(body: &[u8], ends: &[usize], head: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 256);
    out.extend_from_slice(&body[..head]);
    for (i, &end) in ends.iter().enumerate().rev() {
        let start = if i == 0 { head } else { ends[i - 1] + 1 };
        out.extend_from_slice(&body[start..end]);
        if i > 0 {
            out.push(b',');
        }
    }
    out
}

impl Page {
    /// The whole envelope. `extra` are further members of it, as canonical JSON without braces (`"updated_at":5`), or nothing.
    pub fn into_body(self, extra: &str) -> Vec<u8> {
        let mut out = self.body;
        out.extend_from_slice(b",\"estimated_count\":");
        out.extend_from_slice(itoa::Buffer::new().format(self.estimated_count).as_bytes());
        for (name, cursor) in [("next", &self.next), ("prev", &self.prev)] {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            match cursor {
                Some(cursor) => write_string(&mut out, cursor),
                None => out.extend_from_slice(b"null"),
            }
        }
        let timing = &self.timing;
        out.extend_from_slice(
            format!(
                ",\"timing\":{{\"filter\":{:.3},\"limit\":{:.3},\"load\":{:.3},\"select\":{:.3},\"sort\":{:.3}}}",
                ms(timing.filter),
                ms(timing.limit),
                ms(timing.load),
                ms(timing.select),
                ms(timing.sort)
            )
            .as_bytes(),
        );
        if !extra.is_empty() {
            out.push(b',');
            out.extend_from_slice(extra.as_bytes());
        }
        out.push(b'}');
        out
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::{Value, json};

    use super::*;

    // ---- a small collection ---------------------------------------------------------------------------------------------------

    fn field_type(path: &str) -> Option<FieldType> {
        Some(match path {
            "updated_at" | "n" | "list.n" | "stats.bitrate" => FieldType::Integer,
            "f" | "matrix" => FieldType::Number,
            "b" => FieldType::Boolean,
            "name" | "s" | "tags" | "list.url" | "deep.a.b" | "title" | "secret" => {
                FieldType::String
            }
            "o" | "list" | "deep" | "deep.a" | "stats" => FieldType::Other,
            _ => return None,
        })
    }

    fn required() -> &'static [Box<str>] {
        static REQUIRED: std::sync::LazyLock<Vec<Box<str>>> =
            std::sync::LazyLock::new(|| vec!["name".into(), "updated_at".into()]);
        &REQUIRED
    }

    const THINGS: Kind = Kind {
        collection: "things",
        key: "name",
        key_order: KeyOrder::Text,
        default_sort: "name",
        stamp: Some("updated_at"),
        required,
        search: &[
            Search {
                path: "name",
                url: false,
            },
            Search {
                path: "title",
                url: false,
            },
            Search {
                path: "list.url",
                url: true,
            },
        ],
        field_type,
        secret: |path| path == "secret",
    };
    static KIND: Kind = THINGS;
    static KIND_DOWN: Kind = Kind {
        default_sort: "-name",
        ..THINGS
    };

    struct Thing {
        name: String,
        updated_at: u64,
        value: Value,
        text: String,
    }

    impl Thing {
        fn new(value: Value) -> Thing {
            Thing {
                name: value["name"]
                    .as_str()
                    .expect("things have names")
                    .to_owned(),
                updated_at: value["updated_at"].as_u64().unwrap_or(0),
                text: value.to_string(),
                value,
            }
        }
    }

    impl Document for &Thing {
        fn key(&self) -> &str {
            &self.name
        }

        fn field(&self, name: &str) -> Option<Raw<'_>> {
            match name {
                "name" => Some(Raw::Text(&self.name)),
                // Half of them typed, half as text, which must make no difference.
                "updated_at" if self.updated_at % 2 == 1 => Some(self.updated_at.into()),
                "deep" => scan::member(&self.text, name)
                    .map(|text| Raw::Json(Cow::Owned(text.to_owned()))),
                _ => scan::member(&self.text, name).map(|text| Raw::Json(Cow::Borrowed(text))),
            }
        }

        fn leaf(&self, path: &Path) -> Leaf<'_> {
            match path.as_str() {
                "stats.bitrate" if self.updated_at.is_multiple_of(3) => {
                    self.value["stats"]["bitrate"]
                        .as_u64()
                        .map_or(Leaf::Absent, |bitrate| Leaf::Value(bitrate.into()))
                }
                _ => Leaf::Unknown,
            }
        }

        fn texts(&self) -> Option<[&str; 2]> {
            self.updated_at
                .is_multiple_of(2)
                .then_some([&self.name, &self.text])
        }

        fn render(&self, out: &mut Vec<u8>) {
            out.extend_from_slice(self.text.as_bytes());
        }
    }

    #[derive(Default)]
    struct Things {
        all: BTreeMap<String, Thing>,
        /// Scans in the order of parts, as a sharded store would, rather than in key order.
        parts: usize,
    }

    impl Things {
        fn insert(&mut self, value: Value) {
            let thing = Thing::new(value);
            self.all.insert(thing.name.clone(), thing);
        }
    }

    impl Source for Things {
        type Doc<'a> = &'a Thing;

        fn count(&self) -> u64 {
            self.all.len() as u64
        }

        fn get(&self, key: &str) -> Option<&Thing> {
            self.all.get(key)
        }

        fn ascending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = &'a Thing> {
            self.all
                .range::<str, _>((from, Bound::Unbounded))
                .map(|(_, thing)| thing)
        }

        fn descending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = &'a Thing> {
            self.all
                .range::<str, _>((Bound::Unbounded, from))
                .rev()
                .map(|(_, thing)| thing)
        }

        fn scan<'a>(
            &'a self,
            hints: &Hints<'_>,
            place: &mut Place,
            budget: usize,
            each: &mut dyn FnMut(&'a Thing),
        ) -> bool {
            let mut budget = budget.max(1);
            while place.part < self.parts {
                let from = place.after.take();
                let from = from.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                for thing in self.ascending(from) {
                    if thing.name.len() % self.parts != place.part {
                        continue;
                    }
                    if budget == 0 {
                        return false;
                    }
                    budget -= 1;
                    place.after = Some(thing.name.as_str().into());
                    // What the hints rule out is ruled out by the filters.
                    if hints.stamp_min.is_none_or(|min| thing.updated_at >= min) {
                        each(thing);
                    }
                }
                place.after = None;
                place.part += 1;
            }
            true
        }
    }

    fn answer(things: &Things, kind: &'static Kind, raw: &str) -> Result<(Page, Value), ApiError> {
        let query = Query::parse(raw, kind, &["poll_timeout"])?;
        let page = Execution::new(&query).run(things);
        Ok(opened(page))
    }

    fn opened(page: Page) -> (Page, Value) {
        let copy = Page {
            body: page.body.clone(),
            next: page.next.clone(),
            prev: page.prev.clone(),
            ..page
        };
        let body = page.into_body("");
        (
            copy,
            serde_json::from_slice(&body).expect("an answer is JSON"),
        )
    }

    fn names(body: &Value) -> Vec<String> {
        body["things"]
            .as_array()
            .expect("the collection is a list")
            .iter()
            .map(|thing| {
                thing["name"]
                    .as_str()
                    .expect("names are required")
                    .to_owned()
            })
            .collect()
    }

    fn refused(raw: &str) -> ApiError {
        match Query::parse(raw, &KIND, &["poll_timeout"]) {
            Ok(_) => panic!("{raw} should be refused"),
            Err(error) => {
                assert_eq!(error.status, 400, "{raw}");
                error
            }
        }
    }

    // ---- the model: the rules once more, without any care for speed -------------------------------------------------------------

    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn below(&mut self, bound: usize) -> usize {
            (self.next() % bound as u64) as usize
        }

        fn of<T: Clone>(&mut self, items: &[T]) -> T {
            items[self.below(items.len())].clone()
        }

        fn number(&mut self) -> Value {
            self.of(&[
                json!(0),
                json!(1),
                json!(2),
                json!(-3),
                json!(u64::MAX),
                json!(9_007_199_254_740_993_u64),
                json!(2.5),
                json!(-0.5),
            ])
        }

        fn text(&mut self) -> Value {
            json!(self.of(&[
                "",
                "a",
                "ab",
                "B",
                "null",
                "undefined",
                "true",
                "2",
                "a\"b\\",
                "Ünï",
                "a b"
            ]))
        }

        fn any(&mut self) -> Value {
            match self.below(8) {
                0 => Value::Null,
                1 => json!(self.below(2) == 0),
                2 | 3 => self.number(),
                4 | 5 => self.text(),
                6 => json!([self.number(), self.text()]),
                _ => json!({"x": self.number()}),
            }
        }

        fn thing(&mut self, name: &str, updated_at: u64) -> Value {
            let mut thing = json!({"name": name, "updated_at": updated_at});
            let mut set = |name: &str, value: Value| thing[name] = value;
            if self.below(3) > 0 {
                set(
                    "n",
                    self.of(&[json!(1), json!(2), json!(u64::MAX), json!("2"), Value::Null]),
                );
            }
            if self.below(3) > 0 {
                set("f", self.number());
            }
            if self.below(2) > 0 {
                set("b", json!(self.below(2) == 0));
            }
            if self.below(3) > 0 {
                set("s", self.text());
            }
            if self.below(2) > 0 {
                set("o", self.any());
            }
            if self.below(2) > 0 {
                set("tags", (0..self.below(3)).map(|_| self.text()).collect());
            }
            if self.below(4) == 0 {
                set("matrix", json!([[1, 2.5], [], [self.number()]]));
            }
            if self.below(2) > 0 {
                let list: Vec<Value> = (0..self.below(3))
                    .map(|_| match self.below(4) {
                        0 => json!({}),
                        1 => json!({"n": self.below(3), "url": "rtsp://user:pass@Host/x"}),
                        2 => json!({"n": self.below(3), "url": "udp://239.0.0.1"}),
                        _ => json!({"url": null, "n": "x"}),
                    })
                    .collect();
                set("list", list.into());
            }
            if self.below(2) > 0 {
                set(
                    "deep",
                    self.of(&[json!({"a": {"b": "q"}}), json!({"a": 5}), json!({"a": {}})]),
                );
            }
            if self.below(2) > 0 {
                set("stats", json!({"bitrate": self.below(4) * 1000}));
            }
            if self.below(2) > 0 {
                set(
                    "title",
                    self.of(&[json!("Main STAGE"), json!("Größe"), json!("x")]),
                );
            }
            Value::Object(thing.as_object().expect("a thing is an object").clone())
        }
    }

    fn leaves(value: &Value, path: &[&str], flatten: bool, found: &mut Vec<Value>) {
        match (value, path) {
            (Value::Array(values), _) if flatten || !path.is_empty() => {
                for value in values {
                    leaves(value, path, flatten, found);
                }
            }
            (Value::String(text), []) if text == "null" || text == "undefined" => {
                found.push(Value::Null);
            }
            (value, []) => found.push(value.clone()),
            (Value::Object(members), [name, rest @ ..]) => {
                leaves(
                    members.get(*name).unwrap_or(&Value::Null),
                    rest,
                    flatten,
                    found,
                );
            }
            _ => found.push(Value::Null),
        }
    }

    fn model_leaves(thing: &Value, path: &str, flatten: bool) -> Vec<Value> {
        let path: Vec<&str> = path.split('.').collect();
        let mut found = Vec::new();
        leaves(thing, &path, flatten, &mut found);
        if found.is_empty() {
            found.push(Value::Null);
        }
        found
    }

    fn order_of_numbers(a: &Value, b: &Value) -> Ordering {
        let whole = |value: &Value| {
            value
                .as_u64()
                .map(i128::from)
                .or_else(|| value.as_i64().map(i128::from))
        };
        match (whole(a), whole(b)) {
            (Some(a), Some(b)) => a.cmp(&b),
            // The numbers of the model do not meet where floats are too coarse.
            _ => a
                .as_f64()
                .partial_cmp(&b.as_f64())
                .expect("numbers are finite"),
        }
    }

    /// A leaf against the text of a filter.
    fn model_order(leaf: &Value, text: &str, field_type: FieldType) -> Option<Ordering> {
        let other = field_type == FieldType::Other;
        match leaf {
            Value::Number(_)
                if other || matches!(field_type, FieldType::Integer | FieldType::Number) =>
            {
                let number: Value = serde_json::from_str(text).ok()?;
                number.is_number().then(|| order_of_numbers(leaf, &number))
            }
            Value::String(leaf) if other || field_type == FieldType::String => {
                Some(leaf.as_str().cmp(text))
            }
            Value::Bool(leaf) if other || field_type == FieldType::Boolean => {
                Some(leaf.cmp(&text.parse().ok()?))
            }
            _ => None,
        }
    }

    #[derive(Clone, Debug)]
    struct ModelFilter {
        path: &'static str,
        suffix: &'static str,
        text: String,
    }

    impl ModelFilter {
        fn matches(&self, thing: &Value) -> bool {
            let field_type = field_type(self.path).expect("the model knows its fields");
            let flatten = !self.suffix.starts_with("_is");
            let equal = |leaf: &Value| {
                self.text
                    .split(',')
                    .any(|text| model_order(leaf, text, field_type) == Some(Ordering::Equal))
            };
            model_leaves(thing, self.path, flatten)
                .iter()
                .any(|leaf| match self.suffix {
                    "" => equal(leaf),
                    "_ne" => !equal(leaf),
                    "_is" => leaf.is_null(),
                    "_is_not" => !leaf.is_null(),
                    "_like" => leaf.as_str().is_some_and(|leaf| leaf.contains(&self.text)),
                    comparison => model_order(leaf, &self.text, field_type).is_some_and(|order| {
                        match comparison {
                            "_gt" => order.is_gt(),
                            "_gte" => order.is_ge(),
                            "_lt" => order.is_lt(),
                            _ => order.is_le(),
                        }
                    }),
                })
        }
    }

    #[derive(Clone, Debug, Default)]
    struct Model {
        filters: Vec<ModelFilter>,
        q: Option<String>,
        sort: Vec<(&'static str, bool)>,
        limit: usize,
    }

    impl Model {
        fn random(random: &mut Random) -> Model {
            let mut model = Model {
                limit: 1 + random.below(6),
                ..Model::default()
            };
            for _ in 0..random.below(3) {
                let path = random.of(&[
                    "n",
                    "f",
                    "b",
                    "s",
                    "o",
                    "tags",
                    "matrix",
                    "list.n",
                    "list.url",
                    "deep.a.b",
                    "deep.a",
                    "list",
                    "stats.bitrate",
                    "title",
                    "updated_at",
                ]);
                let suffix = random.of(&[
                    "", "", "_ne", "_gt", "_gte", "_lt", "_lte", "_like", "_is", "_is_not",
                ]);
                let value = |random: &mut Random| match field_type(path) {
                    Some(FieldType::Integer) => random
                        .of(&["0", "1", "2", "1000", "105", "109", "18446744073709551615"])
                        .to_owned(),
                    Some(FieldType::Number) => random.number().to_string(),
                    Some(FieldType::Boolean) => random.of(&["true", "false"]).to_owned(),
                    _ => match random.below(3) {
                        0 => random.number().to_string(),
                        1 => random
                            .of(&["q", "udp://239.0.0.1", "Main STAGE"])
                            .to_owned(),
                        _ => random.text().as_str().unwrap_or("").to_owned(),
                    },
                };
                let mut text = value(random);
                if matches!(suffix, "" | "_ne") && random.below(2) == 0 {
                    text = format!("{text},{}", value(random));
                }
                if suffix.starts_with("_is") {
                    "null".clone_into(&mut text);
                }
                model
                    .filters
                    .retain(|known| (known.path, known.suffix) != (path, suffix));
                model.filters.push(ModelFilter { path, suffix, text });
            }
            if random.below(4) == 0 {
                model.q = Some(
                    random
                        .of(&[
                            "MAIN",
                            "stage",
                            "größe",
                            "rtsp://host",
                            "USER",
                            "user:pass",
                            "1",
                            "k00",
                        ])
                        .to_owned(),
                );
            }
            for _ in 0..random.below(4) {
                let path = random.of(&[
                    "n",
                    "f",
                    "b",
                    "s",
                    "o",
                    "tags",
                    "list.n",
                    "deep.a",
                    "stats.bitrate",
                    "updated_at",
                    "name",
                ]);
                if model.sort.iter().all(|(known, _)| *known != path) {
                    model.sort.push((path, random.below(2) == 0));
                }
            }
            model
        }

        fn raw(&self, random: &mut Random) -> String {
            let mut pieces = vec![format!("limit={}", self.limit)];
            for filter in &self.filters {
                let mut text = String::new();
                encode_component(&filter.text, &mut text);
                pieces.push(format!("{}{}={text}", filter.path, filter.suffix));
            }
            if let Some(q) = &self.q {
                let mut text = String::new();
                encode_component(q, &mut text);
                pieces.push(format!("q={text}"));
            }
            if !self.sort.is_empty() {
                let keys: Vec<String> = self
                    .sort
                    .iter()
                    .map(|(path, down)| format!("{}{path}", if *down { "-" } else { "" }))
                    .collect();
                pieces.push(format!("sort={}", keys.join(",")));
            }
            for i in (1..pieces.len()).rev() {
                pieces.swap(i, random.below(i + 1));
            }
            pieces.join("&")
        }

        fn matches(&self, thing: &Value) -> bool {
            self.filters.iter().all(|filter| filter.matches(thing))
                && self.q.as_ref().is_none_or(|q| {
                    let mut texts = model_leaves(thing, "name", true);
                    texts.extend(model_leaves(thing, "title", true));
                    texts.extend(model_leaves(thing, "list.url", true));
                    texts.iter().filter_map(Value::as_str).any(|text| {
                        text.replace("user:pass@", "")
                            .to_lowercase()
                            .contains(&q.to_lowercase())
                    })
                })
        }

        fn order(&self, a: &Value, b: &Value) -> Ordering {
            let class = |value: &Value| match value {
                Value::Null => 0,
                Value::Number(_) => 1,
                Value::String(_) => 2,
                Value::Bool(false) => 3,
                Value::Bool(true) => 4,
                _ => 5,
            };
            for (path, down) in self.sort.iter().copied().chain([("name", false)]) {
                let first = |thing: &Value| {
                    model_leaves(thing, path, false)
                        .into_iter()
                        .find(|leaf| !leaf.is_null())
                        .unwrap_or(Value::Null)
                };
                let (a, b) = (first(a), first(b));
                let order = match (&a, &b) {
                    (Value::Number(_), Value::Number(_)) => order_of_numbers(&a, &b),
                    (Value::String(a), Value::String(b)) => a.cmp(b),
                    _ => class(&a).cmp(&class(&b)),
                };
                let order = if down { order.reverse() } else { order };
                if order.is_ne() {
                    return order;
                }
            }
            Ordering::Equal
        }

        fn list(&self, things: &Things) -> Vec<Value> {
            let mut list: Vec<Value> = things
                .all
                .values()
                .map(|thing| thing.value.clone())
                .filter(|thing| self.matches(thing))
                .collect();
            list.sort_by(|a, b| self.order(a, b));
            list
        }

        fn grouped(&self) -> bool {
            self.sort
                .first()
                .is_some_and(|(path, _)| *path == "updated_at")
        }
    }

    fn random_things(random: &mut Random) -> Things {
        let mut things = Things {
            parts: 1 + random.below(3),
            ..Things::default()
        };
        for i in 0..random.below(40) {
            let name = format!("{}k{i:02}", "x".repeat(random.below(3)));
            let stamp = 100 + random.below(12) as u64;
            things.insert(random.thing(&name, stamp));
        }
        things
    }

    fn page_of(
        things: &Things,
        raw: &str,
        cursor: Option<&str>,
        random: &mut Random,
    ) -> (Page, Value) {
        let raw = match cursor {
            Some(cursor) => {
                let mut out = format!("{raw}&cursor=");
                encode_component(cursor, &mut out);
                out
            }
            None => raw.to_owned(),
        };
        let query = Query::parse(&raw, &KIND, &[])
            .unwrap_or_else(|error| panic!("{raw} was refused: {error:?}"));
        let again = Query::parse(&raw, &KIND, &[]).expect("it was taken once");
        assert_eq!(query.canonical(), again.canonical());
        let budget = 1 + random.below(20);
        let mut execution = Execution::new(&query);
        for _ in 0..10_000 {
            if let Some(page) = execution.step(things, budget) {
                return opened(page);
            }
        }
        panic!("{raw} never ends");
    }

    // ---- the properties -----------------------------------------------------------------------------------------------------------

    #[test]
    fn pages_forward_and_backward_are_the_list_that_the_model_makes() {
        for seed in 0..4000 {
            let mut random = Random(seed);
            let things = random_things(&mut random);
            let model = Model::random(&mut random);
            let raw = model.raw(&mut random);
            let expected = model.list(&things);
            let story = format!("seed {seed}: {raw}");

            let mut walked = Vec::new();
            let mut pages = Vec::new();
            let mut cursor: Option<String> = None;
            loop {
                let (page, body) = page_of(&things, &raw, cursor.as_deref(), &mut random);
                assert_eq!(page.estimated_count, expected.len() as u64, "{story}");
                assert_eq!(
                    page.prev.is_some(),
                    !pages.is_empty() && page.items > 0,
                    "{story}"
                );
                let items = body["things"].as_array().expect("a list").clone();
                assert_eq!(items.len(), page.items);
                if !model.grouped() {
                    assert!(items.len() <= model.limit, "{story}");
                }
                if let (true, Some(last)) = (model.grouped(), items.last()) {
                    let next = expected.get(walked.len() + items.len());
                    assert_ne!(
                        next.map(|next| &next["updated_at"]),
                        Some(&last["updated_at"]),
                        "{story}"
                    );
                }
                walked.extend(items.clone());
                pages.push((items, page.prev));
                assert!(pages.len() < 100, "{story}");
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(walked, expected, "{story}");

            // And back again.
            if model.grouped() {
                continue;
            }
            let mut prev = pages.last().and_then(|(_, prev)| prev.clone());
            for (items, _) in pages.iter().rev().skip(1) {
                let (page, body) = page_of(&things, &raw, prev.as_deref(), &mut random);
                assert_eq!(body["things"].as_array(), Some(items), "{story}");
                assert!(page.next.is_some(), "{story}");
                prev = page.prev;
            }
            assert_eq!(prev, None, "{story}");
        }
    }

    #[test]
    fn a_page_holds_the_first_of_many_whatever_order_they_are_found_in() {
        for (seed, sort) in ["-n", "n", "-updated_at", "s,-n", "-name"]
            .iter()
            .enumerate()
        {
            let mut random = Random(seed as u64);
            let mut things = Things {
                parts: 3,
                ..Things::default()
            };
            for i in 0..1500_u64 {
                let n = if seed % 2 == 0 {
                    i
                } else {
                    random.next() % 900
                };
                let name = format!("{i:0width$}", width = 5 + i as usize % 2);
                things.insert(json!({"name": name, "updated_at": 10_000 - i, "n": n, "s": i % 7}));
            }
            let mut expected: Vec<&Value> = things.all.values().map(|thing| &thing.value).collect();
            let model = Model {
                sort: sort
                    .split(',')
                    .map(|key| (key.trim_start_matches('-'), key.starts_with('-')))
                    .collect(),
                ..Model::default()
            };
            expected.sort_by(|a, b| model.order(a, b));
            // One document more than a page is remembered, and twice as many are held: cut in half many times here.
            let raw = format!("sort={sort}&limit=40&n_is_not=null");
            let mut walked = 0;
            let mut cursor: Option<String> = None;
            loop {
                let (page, body) = page_of(&things, &raw, cursor.as_deref(), &mut random);
                for thing in body["things"].as_array().expect("a list") {
                    assert_eq!(thing, expected[walked], "{raw}");
                    walked += 1;
                }
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(walked, expected.len(), "{raw}");
        }
    }

    #[test]
    fn what_exists_throughout_a_walk_is_seen_exactly_once_and_in_order() {
        for seed in 0..3000 {
            let mut random = Random(seed);
            let mut things = random_things(&mut random);
            let model = Model::random(&mut random);
            let raw = model.raw(&mut random);
            let story = format!("seed {seed}: {raw}");
            // Every second thing is left alone, all others come, change and go between pages.
            let stable: BTreeSet<String> = things.all.keys().step_by(2).cloned().collect();
            let expected: Vec<Value> = model
                .list(&things)
                .into_iter()
                .filter(|thing| stable.contains(thing["name"].as_str().unwrap_or("")))
                .collect();
            let backward = random.below(2) == 0;
            let start = if backward {
                format!("{raw}&$reversed=true")
            } else {
                raw.clone()
            };
            let mut walked = Vec::new();
            let mut cursor: Option<String> = None;
            for _ in 0..1000 {
                let (page, body) = match &cursor {
                    Some(cursor) => page_of(&things, &raw, Some(cursor), &mut random),
                    None => page_of(&things, &start, None, &mut random),
                };
                let items = body["things"].as_array().expect("a list");
                let kept = items
                    .iter()
                    .filter(|thing| stable.contains(thing["name"].as_str().unwrap_or("")))
                    .cloned();
                if backward {
                    walked.extend(kept.rev());
                } else {
                    walked.extend(kept);
                }
                cursor = if backward { page.prev } else { page.next };
                if cursor.is_none() {
                    break;
                }
                for _ in 0..random.below(4) {
                    let name = format!("{}k{:02}", "x".repeat(random.below(3)), random.below(50));
                    if stable.contains(&name) {
                        continue;
                    }
                    if random.below(3) == 0 {
                        things.all.remove(&name);
                    } else {
                        let stamp = 100 + random.below(12) as u64;
                        things.insert(random.thing(&name, stamp));
                    }
                }
            }
            assert_eq!(cursor, None, "{story}");
            if backward {
                walked.reverse();
            }
            assert_eq!(walked, expected, "{story}");
        }
    }

    #[test]
    fn a_client_that_continues_from_the_last_stamp_misses_nothing() {
        for seed in 0..500 {
            let mut random = Random(seed);
            let mut things = Things {
                parts: 2,
                ..Things::default()
            };
            let mut copy: BTreeMap<String, u64> = BTreeMap::new();
            let mut seen = 0;
            for stamp in 1..=20 {
                // A batch of writes shares a stamp.
                for _ in 0..random.below(9) {
                    let name = format!("k{:02}", random.below(20));
                    things.insert(json!({"name": name, "updated_at": stamp}));
                }
                let raw = format!(
                    "updated_at_gt={seen}&sort=updated_at&limit={}",
                    1 + random.below(3)
                );
                let (_, body) = page_of(&things, &raw, None, &mut random);
                for thing in body["things"].as_array().expect("a list") {
                    let stamp = thing["updated_at"].as_u64().expect("a stamp");
                    copy.insert(thing["name"].as_str().expect("a name").to_owned(), stamp);
                    seen = seen.max(stamp);
                }
            }
            for _ in 0..100 {
                let raw = format!("updated_at_gt={seen}&sort=updated_at&limit=2");
                let (page, body) = page_of(&things, &raw, None, &mut random);
                if page.items == 0 {
                    break;
                }
                for thing in body["things"].as_array().expect("a list") {
                    let stamp = thing["updated_at"].as_u64().expect("a stamp");
                    copy.insert(thing["name"].as_str().expect("a name").to_owned(), stamp);
                    seen = seen.max(stamp);
                }
            }
            let expected: BTreeMap<String, u64> = things
                .all
                .iter()
                .map(|(name, thing)| (name.clone(), thing.updated_at))
                .collect();
            assert_eq!(copy, expected, "seed {seed}");
        }
    }

    #[test]
    fn a_change_wakes_a_poll_if_and_only_if_its_answer_would_show_it() {
        for seed in 0..1500 {
            let mut random = Random(seed);
            let things = random_things(&mut random);
            let model = Model {
                limit: LIMIT_MAX,
                ..Model::random(&mut random)
            };
            let raw = model.raw(&mut random);
            let query = Query::parse(&raw, &KIND, &[]).expect("queries of the model are valid");
            for thing in things.all.values() {
                assert_eq!(
                    query.matches(&thing),
                    model.matches(&thing.value),
                    "seed {seed}: {raw}"
                );
            }
        }
    }

    // ---- single rules ---------------------------------------------------------------------------------------------------------

    fn three() -> Things {
        let mut things = Things {
            parts: 1,
            ..Things::default()
        };
        things.insert(json!({"name": "a", "updated_at": 1, "n": 1, "s": "Ab", "b": true, "list": [{"n": 1, "url": "rtsp://root:pw@cam-1/x"}, {"n": 7}], "deep": {"a": {"b": "q"}}}));
        things.insert(json!({"name": "b", "updated_at": 2, "s": "undefined", "b": false, "list": [], "title": "İstanbul \"K\"\u{212a}"}));
        things.insert(
            json!({"name": "c", "updated_at": 3, "n": 5, "s": "a,b", "o": "5", "list": "none"}),
        );
        things
    }

    fn found(raw: &str) -> String {
        let (_, body) =
            answer(&three(), &KIND, raw).unwrap_or_else(|error| panic!("{raw}: {error:?}"));
        names(&body).concat()
    }

    #[test]
    fn a_parameter_means_what_the_reference_says() {
        for (raw, expected) in [
            ("", "abc"),
            ("&&", "abc"),
            ("n=1", "a"),
            ("n=1,5", "ac"),
            ("n=1%2C5", "ac"),
            ("n_ne=1", "bc"),
            ("n_gt=1", "c"),
            ("n_gte=1", "ac"),
            ("n_lt=5", "a"),
            ("n_lte=5", "ac"),
            ("n_gt=0&n_lt=5", "a"),
            ("n=1&n=5", "c"),
            ("n_is=null", "b"),
            ("n_is_not=null", "ac"),
            ("s_is=null", "b"),
            ("s_like=b", "ac"),
            ("s_like=B", ""),
            ("n_like=1", ""),
            ("b", "a"),
            ("b=false", "b"),
            ("b_ne=true", "bc"),
            ("s=Ab", "a"),
            ("s=a%2Cb", ""),
            ("s_gt=Ab", "c"),
            ("o=5", "c"),
            ("list.n=7", "a"),
            ("list.n_ne=7", "abc"),
            ("list.url_like=cam-1", "a"),
            ("list.url_is=null", "abc"),
            ("list_is=null", ""),
            ("deep.a.b=q", "a"),
            ("unknown=1&unknown_gt=x&list.unknown=1", "abc"),
            ("n_is=5", "abc"),
            ("name=c,a,zzz", "ac"),
            ("name=", ""),
            ("updated_at_gt=1&sort=-updated_at", "cb"),
            ("sort=-n", "cab"),
            ("sort=n", "bac"),
            ("sort=,,-name", "cba"),
            ("sort=unknown", "abc"),
            ("q=CAM-1%2FX", "a"),
            ("q=rtsp://cam", "a"),
            ("q=root", ""),
            ("q=pw%40", ""),
            ("q=istanbul", "b"),
            ("q=%22kk", ""),
            ("q=%22k%22k", "b"),
            ("q=.*", ""),
            ("q=", "abc"),
            ("limit=1", "a"),
            ("limit=1&$reversed=true", "c"),
            ("poll_timeout=5", "abc"),
        ] {
            assert_eq!(found(raw), expected, "{raw}");
        }
        let (_, body) = answer(&three(), &KIND_DOWN, "").expect("the empty query is fine");
        assert_eq!(names(&body).concat(), "cba");
    }

    #[test]
    fn hostile_queries_are_refused_and_the_parameter_is_named() {
        let long = |piece: &str, count: usize| vec![piece; count].join(",");
        let filters: Vec<String> = (0..=FILTERS_MAX).map(|i| format!("x{i}=1")).collect();
        for (raw, parameter, code) in [
            ("limit=0", "limit", "input_out_of_range"),
            ("limit=-1", "limit", "input_out_of_range"),
            ("limit=10001", "limit", "input_out_of_range"),
            ("limit=9223372036854775808", "limit", "input_out_of_range"),
            (
                "limit=99999999999999999999999",
                "limit",
                "input_out_of_range",
            ),
            ("limit=ten", "limit", "not_integer"),
            ("limit=1.5", "limit", "not_integer"),
            ("limit=", "limit", "not_integer"),
            ("limit=-", "limit", "not_integer"),
            ("limit", "limit", "not_integer"),
            ("s=%", "s", "wrong_format"),
            ("s=%4", "s", "wrong_format"),
            ("s=%zz", "s", "wrong_format"),
            ("s=%+1", "s", "wrong_format"),
            ("s=%ff", "s", "wrong_format"),
            ("s=%c0%80", "s", "wrong_format"),
            ("s=%ed%a0%80", "s", "wrong_format"),
            ("%ff=1", "%ff", "wrong_format"),
            ("n=x", "n", "not_integer"),
            ("n=", "n", "not_integer"),
            ("n", "n", "not_integer"),
            ("n=1,x", "n", "not_integer"),
            ("n_gt=1.5", "n_gt", "not_integer"),
            ("n=18446744073709551616", "n", "not_integer"),
            ("f=1e999", "f", "not_number"),
            ("f=nan", "f", "not_number"),
            ("b=1", "b", "not_boolean"),
            ("secret=x", "secret", "secret_field"),
            ("secret_like=x", "secret_like", "secret_field"),
            ("sort=-secret", "sort", "secret_field"),
            ("sort=a,b,c,d,e", "sort", "too_many_items"),
            ("select=a.b.c.d.e.f.g.h.i", "select", "too_deep"),
            ("cursor=AAAA", "cursor", "bad_cursor"),
            ("cursor=%00", "cursor", "bad_cursor"),
            (
                "cursor=JTI0cG9zaXRpb25fZ3Q9MA%3D%3D",
                "cursor",
                "bad_cursor",
            ),
            ("$reversed=perhaps", "$reversed", "not_boolean"),
            (
                &format!("select={}", long("a", SELECT_PATHS_MAX + 1)),
                "select",
                "too_many_items",
            ),
            (
                &format!("s={}", long("a", FILTER_VALUES_MAX + 1)),
                "s",
                "too_many_items",
            ),
            (
                &format!("q={}", "a".repeat(Q_BYTES_MAX + 1)),
                "q",
                "too_long",
            ),
            (&filters.join("&"), "x64", "too_many_items"),
        ] {
            let error = refused(raw);
            assert_eq!(
                error.items[0].parameter.as_deref(),
                Some(parameter),
                "{raw:.80}"
            );
            assert_eq!(error.items[0].code, code, "{raw:.80}");
        }
        // At the bounds.
        for raw in [
            format!("select={}", long("a", SELECT_PATHS_MAX)),
            format!("s={}", long("a", FILTER_VALUES_MAX)),
            format!("q={}", "a".repeat(Q_BYTES_MAX)),
            filters[1..].join("&"),
            "limit=10000&sort=n,s,f,b&select=a.b.c.d.e.f.g.h".to_owned(),
        ] {
            assert!(Query::parse(&raw, &KIND, &[]).is_ok(), "{raw:.80}");
        }
    }

    #[test]
    fn random_bytes_as_a_query_are_answered_or_refused() {
        let things = three();
        for seed in 0..5000 {
            let mut random = Random(seed);
            const PIECES: [&str; 24] = [
                "n",
                "s",
                "list.n",
                "=",
                "=",
                "&",
                "&",
                "%",
                "%2",
                "%2C",
                "+",
                ",",
                ".",
                "_gt",
                "_ne",
                "_is=null",
                "sort=",
                "-",
                "select=",
                "limit=1",
                "cursor=",
                "bmFtZV9ndD1h",
                "q=",
                "\u{e9}",
            ];
            let raw: String = (0..random.below(14)).map(|_| random.of(&PIECES)).collect();
            if let Err(error) = answer(&things, &KIND, &raw) {
                assert_eq!(error.status, 400, "{raw}");
            }
        }
    }

    #[test]
    fn a_selection_has_what_was_asked_for_and_what_is_always_there() {
        let (_, body) = answer(
            &three(),
            &KIND,
            "select=list.url,deep.a,deep.a.b,n,nope,s.below,deep.x.y&name=a",
        )
        .expect("the query is fine");
        assert_eq!(
            body["things"][0],
            json!({
                "deep": {"a": {"b": "q"}, "x": null},
                "list": [{"url": "rtsp://root:pw@cam-1/x"}, {"url": null}],
                "n": 1, "name": "a", "nope": null, "s": null, "updated_at": 1
            })
        );
        let (_, body) = answer(&three(), &KIND, "select=n&name=b").expect("the query is fine");
        assert_eq!(
            body["things"][0],
            json!({"n": null, "name": "b", "updated_at": 2})
        );
    }

    #[test]
    fn the_envelope_is_that_of_the_reference() {
        let query = Query::parse("limit=2", &KIND, &[]).expect("the query is fine");
        let page = Execution::new(&query).run(&three());
        let body: Value =
            serde_json::from_slice(&page.into_body("\"updated_at\":9")).expect("an answer is JSON");
        assert_eq!(body["estimated_count"], 3);
        assert_eq!(body["next"], "bmFtZV9ndD1i");
        assert_eq!(body["prev"], Value::Null);
        assert_eq!(body["updated_at"], 9);
        for part in ["filter", "sort", "limit", "select", "load"] {
            assert!(body["timing"][part].is_f64(), "{part}");
        }
        let (page, _) = answer(&three(), &KIND, "limit=2&cursor=bmFtZV9ndD1i").expect("a cursor");
        assert_eq!((page.items, page.next), (1, None));
        assert_eq!(
            page.prev.as_deref(),
            Some("bmFtZV9sdD1jJiUyNHJldmVyc2VkPXRydWU=")
        );
        // Past the end there is nothing, in no direction.
        let (page, _) = answer(&three(), &KIND, "cursor=bmFtZV9ndD1j").expect("a cursor");
        assert_eq!((page.items, page.next, page.prev), (0, None, None));
    }

    #[test]
    fn a_cursor_is_taken_only_with_the_question_it_came_from() {
        let things = three();
        let next = |raw: &str| {
            answer(&things, &KIND, raw)
                .expect("valid")
                .0
                .next
                .expect("more")
        };
        let filtered = next("n_is_not=null&limit=1");
        for raw in [
            "",
            "n_is=null",
            "n_is_not=null&q=a",
            "n_is_not=null&sort=-name",
        ] {
            let error = refused(&format!("{raw}&cursor={}", filtered.replace('=', "%3D")));
            assert_eq!(error.items[0].code, "bad_cursor");
        }
        // How much of each page is wanted is no part of the question.
        for raw in ["n_is_not=null", "sort=name&n_is_not=null&limit=7&select=n"] {
            let raw = format!("{raw}&cursor={}", filtered.replace('=', "%3D"));
            assert_eq!(found(&raw), "c", "{raw}");
        }
    }

    #[test]
    fn the_revision_of_a_walk_travels_in_its_cursors() {
        let mut query = Query::parse("limit=1&n_is_not=null", &KIND, &[]).expect("valid");
        query.pin_revision(77);
        let next = Execution::new(&query)
            .run(&three())
            .next
            .expect("there is more");
        let raw = format!("limit=1&n_is_not=null&cursor={}", next.replace('=', "%3D"));
        let query = Query::parse(&raw, &KIND, &[]).expect("our own cursor");
        assert_eq!(query.revision(), Some(77));
    }

    #[test]
    fn equal_questions_have_equal_canonical_texts_and_others_have_not() {
        let canonical = |raw: &str| {
            Query::parse(raw, &KIND, &["poll_timeout"])
                .expect("valid")
                .canonical()
        };
        for (a, b) in [
            ("", "limit=100"),
            ("n=1,2&s=x", "s=%78&n=2,1,1&poll_timeout=3"),
            ("sort=name", ""),
            ("sort=n", "sort=n,name,s"),
            ("select=n,s", "select=s,n,name"),
            ("q=ABC", "q=abc"),
            ("b", "b=true"),
            ("unknown=1", ""),
        ] {
            assert_eq!(canonical(a), canonical(b), "{a} {b}");
        }
        let different = [
            "",
            "limit=1",
            "n=1",
            "n_ne=1",
            "n_gt=1",
            "n_gte=1",
            "n_lt=1",
            "n_lte=1",
            "s=1",
            "s_like=1",
            "n_is=null",
            "n_is_not=null",
            "n=1,2",
            "s=1,2",
            "s=1%26n=2",
            "sort=n",
            "sort=-n",
            "sort=n,s",
            "select=n",
            "select=deep.a",
            "select=deep",
            "q=1",
            "cursor=bmFtZV9ndD1i",
            "$reversed=true",
        ];
        let texts: BTreeSet<String> = different.iter().map(|raw| canonical(raw)).collect();
        assert_eq!(texts.len(), different.len());
    }

    #[test]
    fn hints_name_what_an_index_could_use() {
        let query = Query::parse(
            "updated_at_gt=5&updated_at_gte=4&s=b,a&s_ne=c&n=1&name=x,y&own=1",
            &KIND,
            &["own"],
        )
        .expect("valid");
        let hints = query.hints();
        assert_eq!(hints.stamp_min, Some(6));
        let texts = |path: &str| {
            let (_, texts) = hints.equal.iter().find(|(known, _)| *known == path)?;
            Some(texts.join(","))
        };
        assert_eq!(texts("s").as_deref(), Some("a,b"));
        assert_eq!(texts("n"), None);
        assert_eq!(
            query.keys().map(|keys| keys.join(",")).as_deref(),
            Some("x,y")
        );
        assert_eq!(query.own("own"), Some("1"));
    }

    #[test]
    fn numbers_as_keys_are_in_the_order_of_numbers() {
        static EPISODES: Kind = Kind {
            key_order: KeyOrder::Decimal,
            default_sort: "n",
            ..THINGS
        };
        let mut things = Things {
            parts: 1,
            ..Things::default()
        };
        for name in ["9", "10", "2", "100"] {
            things.insert(json!({"name": name, "updated_at": 1}));
        }
        let (page, body) = answer(&things, &EPISODES, "limit=3").expect("valid");
        assert_eq!(names(&body), ["2", "9", "10"]);
        let next = page.next.expect("one is left");
        let (_, body) = answer(
            &things,
            &EPISODES,
            &format!("cursor={}", next.replace('=', "%3D")),
        )
        .expect("valid");
        assert_eq!(names(&body), ["100"]);
    }

    #[test]
    fn a_whole_list_has_no_limit_unless_one_is_asked_for() {
        let mut things = Things {
            parts: 1,
            ..Things::default()
        };
        for i in 0..300 {
            things.insert(json!({"name": format!("{i:03}"), "updated_at": i}));
        }
        for (raw, items) in [("", 300), ("s_is=null&sort=-n", 300), ("limit=7", 7)] {
            let mut query = Query::parse(raw, &KIND, &[]).expect("valid");
            query.set_default_limit(0);
            let page = Execution::new(&query).run(&things);
            assert_eq!(
                (page.items, page.next.is_some()),
                (items, items == 7),
                "{raw}"
            );
        }
    }
}
