//! Entity tags: the name of one stored version of one entity, and conditions on it (RFC 9110,
//! sections 8.8.3 and 13.1).
//!
//! A tag has the id of the store, and the revision and stamp of the entity's last change: it is the
//! same after a restart, and no other version gets it, in a restored store either. What follows in
//! the text names a form of the body, which conditions on changes ignore: a change is made to what
//! is stored. Conditions are judged by the writer in the step that applies the change, so no change
//! comes in between.

use std::borrow::Cow;

use super::State;
use super::entity::{Key, Kind};
use super::name::{Hostname, StreamName};
use super::record::{EntityRecord, EventChunkRecord, StreamRecord, StreamerRecord};
use crate::error::{self, ApiError, BatchErrors};
use crate::json::Value;

/// The member of an item of a batch that has its condition.
pub const IF_MATCH_MEMBER: &str = "if_match";
/// Most failed conditions of a batch that an error names.
const NAMED_MAX: usize = 20;
/// Quotes, a version, a dash, and a number in hexadecimal digits.
const TEXT_BYTES_MAX: usize = 1 + PLAIN_BYTES_MAX + 1 + 16 + 1;
/// Two numbers in hexadecimal digits, one in decimal digits, two dashes.
const PLAIN_BYTES_MAX: usize = 16 + 1 + 20 + 1 + 16;

/// One entity of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntityName {
    Stream(StreamName),
    Streamer(Hostname),
    Entity(Kind, Key),
}

impl EntityName {
    fn key(&self) -> Cow<'_, str> {
        match self {
            Self::Stream(name) => Cow::Borrowed(name),
            Self::Streamer(hostname) => Cow::Borrowed(hostname),
            Self::Entity(_, key) => Cow::Owned(key.to_string()),
        }
    }
}

/// A record of an entity.
pub trait Versioned {
    /// The tag of this version.
    fn tag(&self, state: &State) -> EntityTag;
}

macro_rules! versioned {
    ($($record:ident),*) => {$(
        impl Versioned for $record {
            fn tag(&self, state: &State) -> EntityTag {
                EntityTag {
                    store_id: state.store_id(),
                    revision: self.revision.to_native(),
                    stamp_ms: self.updated_at.to_native(),
                }
            }
        }
    )*};
}
versioned!(StreamRecord, StreamerRecord, EntityRecord);

/// Events never change: all of a batch are of its version.
impl Versioned for EventChunkRecord {
    fn tag(&self, state: &State) -> EntityTag {
        EntityTag {
            store_id: state.store_id(),
            revision: self.revision.to_native(),
            stamp_ms: self.stamp_ms.to_native(),
        }
    }
}

/// One stored version of one entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntityTag {
    store_id: u64,
    revision: u64,
    stamp_ms: u64,
}

impl EntityTag {
    /// The tag of the stored version of an entity, if there is one.
    fn of(state: &State, name: &EntityName) -> Option<Self> {
        match name {
            EntityName::Stream(name) => state.stream(name).map(|it| it.tag(state)),
            EntityName::Streamer(hostname) => state.streamer(hostname).map(|it| it.tag(state)),
            EntityName::Entity(kind, key) => {
                let entity = state.entities(*kind).get(key);
                entity.map(|it| it.tag(state))
            }
        }
    }

    /// The value of `ETag` for a body of this form.
    pub fn text(&self, form: u64) -> String {
        let text = self.write(TagText::new().push(b"\""));
        text.push(b"-").hex(form, 1).push(b"\"").as_str().to_owned()
    }

    /// Whether a tag without its quotes names this version, in any form.
    fn is_named_by(&self, opaque: &[u8]) -> bool {
        let plain = self.plain();
        let rest = opaque.strip_prefix(plain.as_str().as_bytes());
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'-')))
    }

    fn plain(&self) -> TagText {
        self.write(TagText::new())
    }

    fn write(&self, text: TagText) -> TagText {
        let text = text.hex(self.store_id, 16).push(b"-");
        let text = text.push(itoa::Buffer::new().format(self.revision).as_bytes());
        text.push(b"-").hex(self.stamp_ms, 1)
    }
}

/// A tag, or the start of one, on the stack.
struct TagText {
    bytes: [u8; TEXT_BYTES_MAX],
    len: usize,
}

impl TagText {
    fn new() -> Self {
        Self {
            bytes: [0; TEXT_BYTES_MAX],
            len: 0,
        }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).expect("digits, dashes and quotes")
    }

    fn push(mut self, text: &[u8]) -> Self {
        let end = self.len + text.len();
        self.bytes[self.len..end].copy_from_slice(text);
        self.len = end;
        self
    }

    /// Lower-case digits, with zeros in front of them up to `digits_min`.
    fn hex(mut self, number: u64, digits_min: u32) -> Self {
        let digits = (16 - number.leading_zeros() / 4).max(digits_min);
        let end = self.len + digits as usize;
        let mut number = number;
        for byte in self.bytes[self.len..end].iter_mut().rev() {
            *byte = b"0123456789abcdef"[(number & 0xf) as usize];
            number >>= 4;
        }
        self.len = end;
        self
    }
}

/// The value of `If-Match` or `If-None-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagList {
    /// `*`: any version.
    Any,
    Tags(Vec<ListedTag>),
}

/// A tag as a client sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedTag {
    weak: bool,
    /// Without its quotes.
    opaque: Box<[u8]>,
}

impl TagList {
    /// Reads the values of all fields of one name, which are one list. `None` if it is malformed.
    pub fn parse<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let (mut any, mut tags) = (false, Vec::new());
        for value in values {
            let value = value.trim_ascii();
            if value == b"*" {
                if any {
                    return None;
                }
                any = true;
                continue;
            }
            parse_tags(value, &mut tags)?;
        }
        match (any, tags.is_empty()) {
            (true, true) => Some(Self::Any),
            (false, false) => Some(Self::Tags(tags)),
            _ => None,
        }
    }

    /// The tags with a mark at their end, without it: those of a form that has this mark.
    #[must_use]
    pub fn of_form(self, mark: &str) -> Self {
        let Self::Tags(tags) = self else {
            return self;
        };
        let tags = tags.into_iter().filter_map(|tag| {
            let opaque = tag.opaque.strip_suffix(mark.as_bytes())?.into();
            Some(ListedTag { opaque, ..tag })
        });
        Self::Tags(tags.collect())
    }

    /// The listed tag that names this form of this version; compared weakly.
    pub fn find(&self, text: &str) -> Option<Cow<'_, str>> {
        let Self::Tags(tags) = self else {
            return None;
        };
        let opaque = text.trim_matches('"').as_bytes();
        let is_it = |tag: &&ListedTag| without_coding(&tag.opaque) == opaque;
        let found = tags.iter().find(is_it)?;
        Some(String::from_utf8_lossy(&found.opaque))
    }

    /// Whether it names the stored version. `strong`: weak tags name nothing.
    pub fn names(&self, stored: Option<EntityTag>, strong: bool) -> bool {
        let Some(stored) = stored else {
            return false;
        };
        match self {
            Self::Any => true,
            Self::Tags(tags) => tags
                .iter()
                .any(|tag| !(strong && tag.weak) && stored.is_named_by(&tag.opaque)),
        }
    }
}

/// Reads `"a", W/"b"`. Empty elements are allowed (RFC 9110, section 5.6.1.2).
fn parse_tags(value: &[u8], tags: &mut Vec<ListedTag>) -> Option<()> {
    let mut rest = value;
    loop {
        while let [b' ' | b'\t' | b',', after @ ..] = rest {
            rest = after;
        }
        if rest.is_empty() {
            return Some(());
        }
        let (weak, quoted) = match rest {
            [b'W', b'/', after @ ..] => (true, after),
            _ => (false, rest),
        };
        let begin = quoted.strip_prefix(b"\"")?;
        let end = memchr::memchr(b'"', begin)?;
        let opaque = &begin[..end];
        if opaque.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
            return None;
        }
        tags.push(ListedTag {
            weak,
            opaque: opaque.into(),
        });
        rest = begin[end + 1..].trim_ascii_start();
        if !matches!(rest.first(), None | Some(b',')) {
            return None;
        }
    }
}

/// A tag without the mark of the coding of its body.
fn without_coding(opaque: &[u8]) -> &[u8] {
    let marks: [&[u8]; 2] = [b"-gzip", b"-zstd"];
    let mut marks = marks.iter();
    marks
        .find_map(|mark| opaque.strip_suffix(*mark))
        .unwrap_or(opaque)
}

/// The kind of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionKind {
    IfMatch,
    IfNoneMatch,
}

impl ConditionKind {
    pub const ALL: [Self; 2] = [Self::IfMatch, Self::IfNoneMatch];

    /// The header field.
    pub const fn field(self) -> &'static str {
        match self {
            Self::IfMatch => "If-Match",
            Self::IfNoneMatch => "If-None-Match",
        }
    }

    /// The error for a condition that is not met.
    pub fn failed(self) -> ApiError {
        match self {
            Self::IfMatch => error::PRECONDITION_FAILED.error(),
            Self::IfNoneMatch => error::PRECONDITION_FAILED.titled(
                "The stored version is in `If-None-Match`, or that is `*` and the entity exists",
            ),
        }
    }

    /// The error for a value that is no list of tags.
    pub fn malformed(self) -> ApiError {
        let field = self.field();
        error::BAD_FIELD.titled(format!(
            "`{field}` must be `*` or a list of entity tags in double quotes"
        ))
    }
}

/// What must be true of an entity when a change of it is applied.
#[derive(Debug, Clone)]
pub struct Precondition {
    pub of: EntityName,
    pub kind: ConditionKind,
    pub tags: TagList,
    /// Pointer to the member of an item of a batch; `None`: a header field.
    pub pointer: Option<String>,
}

impl Precondition {
    fn is_met(&self, stored: Option<EntityTag>) -> bool {
        match self.kind {
            ConditionKind::IfMatch => self.tags.names(stored, true),
            ConditionKind::IfNoneMatch => !self.tags.names(stored, false),
        }
    }

    fn failed(&self) -> ApiError {
        let Some(pointer) = &self.pointer else {
            return self.kind.failed();
        };
        let title = "The stored version is not in `if_match`: the entity was changed or does not \
                     exist. Nothing was changed";
        let error = error::PRECONDITION_FAILED.titled(title);
        error.at_pointer(pointer).with("name", self.of.key())
    }
}

/// Judges the conditions of one command on the state that it is applied to.
pub fn judge(state: &State, conditions: &[Precondition]) -> Result<(), ApiError> {
    let mut failed = conditions
        .iter()
        .filter(|it| !it.is_met(EntityTag::of(state, &it.of)));
    let Some(first) = failed.next() else {
        return Ok(());
    };
    let mut error = first.failed();
    for other in failed.take(NAMED_MAX - 1) {
        error.items.append(&mut other.failed().items);
    }
    Err(error)
}

/// Takes the conditions out of the items of a batch. `pointer` leads to the array of items, `key`
/// is the member with their key. Items without a valid key are left to the reader of the items.
pub fn take_item_conditions(
    body: &mut Value,
    pointer: &'static str,
    key: &str,
    name_of: impl Fn(&str) -> Option<EntityName>,
) -> Result<Vec<Precondition>, ApiError> {
    let items = match (body, pointer.strip_prefix('/')) {
        (Value::Object(object), Some(member)) => object.get_mut(member),
        (body, _) => Some(body),
    };
    let Some(Value::Array(items)) = items else {
        return Ok(Vec::new());
    };
    let mut conditions = Vec::new();
    let mut errors = BatchErrors::default();
    for (i, item) in items.iter_mut().enumerate() {
        let Value::Object(item) = item else {
            continue;
        };
        let Some(given) = item
            .remove(IF_MATCH_MEMBER)
            .filter(|it| !it.is_null() && it.as_str() != Some(""))
        else {
            continue;
        };
        let at = format!("{pointer}/{i}/{IF_MATCH_MEMBER}");
        let tags = errors.keep(item_tags(&given, &at));
        let of = item.get(key).and_then(Value::as_str).and_then(&name_of);
        if let Some((of, tags)) = of.zip(tags) {
            conditions.push(Precondition {
                of,
                kind: ConditionKind::IfMatch,
                tags,
                pointer: Some(at),
            });
        }
        if errors.is_full() {
            break;
        }
    }
    errors.finish()?;
    Ok(conditions)
}

fn item_tags(given: &Value, at: &str) -> Result<TagList, ApiError> {
    let Some(text) = given.as_str() else {
        let title = "`if_match` must be a string, as in the field `If-Match`";
        return Err(error::NOT_STRING.titled(title).at_pointer(at));
    };
    TagList::parse([text.as_bytes()].into_iter()).ok_or_else(|| {
        let title = "`if_match` must be `*` or a list of entity tags in double quotes";
        error::WRONG_FORMAT.titled(title).at_pointer(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(value: &str) -> Option<TagList> {
        TagList::parse([value.as_bytes()].into_iter())
    }

    #[test]
    fn lists_of_tags_follow_the_grammar() {
        for good in [
            "*",
            " * ",
            "\"\"",
            "\"a\"",
            "W/\"a\"",
            "\"a\",\"b\"",
            ", \"a\" ,, W/\"b,c\" ,",
            "\"!#\u{e4}\"",
        ] {
            assert!(list(good).is_some(), "{good}");
        }
        for bad in [
            "",
            ",",
            "a",
            "\"a",
            "a\"",
            "\"a\" \"b\"",
            "\"a\"b",
            "*, \"a\"",
            "\"a\", *",
            "**",
            "w/\"a\"",
            "W/",
            "W/ \"a\"",
            "\"a b\"",
            "\"a\tb\"",
            "\"a\u{7f}\"",
        ] {
            assert!(list(bad).is_none(), "{bad}");
        }
        let both = [&b"*"[..], b"\"a\""];
        assert_eq!(TagList::parse(both.into_iter()), None);
        let two = [&b"\"a\""[..], b"\"b\""];
        assert_eq!(TagList::parse(two.into_iter()), list("\"a\", \"b\""));
    }

    #[test]
    fn tag_names_one_version_of_one_store() {
        let tag = |store_id, revision, stamp_ms| EntityTag {
            store_id,
            revision,
            stamp_ms,
        };
        let stored = tag(0xab, 7, 0x18f);
        assert_eq!(stored.text(0x1f), "\"00000000000000ab-7-18f-1f\"");
        let longest = tag(u64::MAX, u64::MAX, u64::MAX).text(u64::MAX);
        assert_eq!(longest.len(), TEXT_BYTES_MAX);
        let names = |text: &str, strong| list(text).expect("a list").names(Some(stored), strong);
        for form in ["", "-0", "-1f", "-1f-gzip", "-1f-zstd"] {
            let text = format!("\"00000000000000ab-7-18f{form}\"");
            assert!(names(&text, true), "{text}");
            assert!(!names(&format!("W/{text}"), true), "weak tags never match");
            assert!(names(&format!("\"x\", W/{text}"), false));
        }
        for other in [
            tag(0xac, 7, 0x18f),
            tag(0xab, 8, 0x18f),
            tag(0xab, 7, 0x190),
            tag(0xab, 7, 0x18),
        ] {
            assert!(!names(&other.text(0x1f), false), "{other:?}");
        }
        assert!(
            !list("*").expect("any").names(None, true),
            "nothing is stored"
        );
    }

    #[test]
    fn form_and_coding_decide_what_is_not_modified() {
        let tag = EntityTag {
            store_id: 1,
            revision: 7,
            stamp_ms: 5,
        };
        let text = tag.text(3);
        let found = |header: String| {
            list(&header)
                .expect("a list")
                .find(&text)
                .map(Cow::into_owned)
        };
        let opaque = text.trim_matches('"');
        assert_eq!(found(text.clone()).as_deref(), Some(opaque));
        assert_eq!(found(format!("\"x\", W/{text}")).as_deref(), Some(opaque));
        let coded = format!("{opaque}-gzip");
        assert_eq!(found(format!("\"{coded}\"")).as_deref(), Some(&*coded));
        assert_eq!(found(tag.text(4)), None);
    }
}
