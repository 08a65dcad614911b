//! The members that a change touches, as JSON pointers (RFC 6901) without values.
//!
//! Compared is what was saved, without defaults. Objects and arrays of equal length are entered; an
//! array of another length is named as a whole. A mask that was written back changed nothing, so
//! nothing names it.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashSet;

use xxhash_rust::xxh3::xxh3_64;

use super::event::{EventList, NewEvent};
use super::record::{
    ArchivedEntity, ArchivedFacts, ArchivedLayout, ArchivedStream, ArchivedStreamer, Role,
};
use crate::json::{push_pointer, scan, write_string};
use crate::schema;

/// Pointers in an event, and their bytes.
pub const CHANGED_MAX: usize = 50;
const CHANGED_BYTES_MAX: usize = 2048;
/// Most distinct pointers that are counted: a batch can have as many as its body has members.
pub const CHANGED_COUNT_MAX: usize = 10_000;
/// A longer pointer is cut to the member that holds what changed.
const POINTER_BYTES_MAX: usize = 256;

/// The members that one request changed; for a batch those of all its items.
pub struct ChangedMembers {
    shown: EventList,
    seen: HashSet<u64>,
}

impl Default for ChangedMembers {
    fn default() -> Self {
        Self {
            shown: EventList::new(CHANGED_MAX, CHANGED_BYTES_MAX),
            seen: HashSet::new(),
        }
    }
}

impl ChangedMembers {
    pub fn add(&mut self, pointer: &str) {
        if self.seen.len() < CHANGED_COUNT_MAX && self.seen.insert(xxh3_64(pointer.as_bytes())) {
            self.shown.push(|out| write_string(out, pointer));
        }
    }

    /// Adds `changed`, and the number of all if it leaves some out.
    pub fn add_to(self, event: NewEvent) -> NewEvent {
        let (count, is_cut) = (self.shown.count(), self.shown.is_cut());
        if count == 0 {
            return event;
        }
        let event = event.json("changed", &self.shown.finish());
        if is_cut {
            event.number("changed_count", count)
        } else {
            event
        }
    }

    pub fn compare_streams(&mut self, old: Option<&ArchivedStream>, new: &ArchivedStream) {
        // A batch of layouts changes no configuration.
        let is_same = old.is_some_and(|old| old.config == new.config && old.filled == new.filled);
        if !is_same {
            let before = old.map(|old| saved(&old.config, old.filled_spans()));
            self.compare(before.as_deref(), &saved(&new.config, new.filled_spans()));
        }
        self.compare_layouts(old.and_then(ArchivedStream::layout), new.layout());
        if old.is_some_and(|old| old.pinned) != new.pinned {
            self.add("/layout/pinned");
        }
    }

    pub fn compare_streamers(&mut self, old: Option<&ArchivedStreamer>, new: &ArchivedStreamer) {
        let before = old.map(|old| saved(&old.config, old.filled_spans()));
        self.compare(before.as_deref(), &saved(&new.config, new.filled_spans()));
        if old.is_some_and(|old| old.cordon != new.cordon) {
            self.add("/state/maintenance");
        }
    }

    pub fn compare_entities(&mut self, old: Option<&ArchivedEntity>, new: &ArchivedEntity) {
        let before = old.map(|old| saved(&old.config, old.filled_spans()));
        self.compare(before.as_deref(), &saved(&new.config, new.filled_spans()));
        self.compare_layouts(old.and_then(agent_layout), agent_layout(new));
    }

    fn compare_layouts(&mut self, old: Option<&ArchivedLayout>, new: Option<&ArchivedLayout>) {
        let backups = |layout: Option<&ArchivedLayout>| -> Vec<String> {
            let backups = layout.into_iter().flat_map(|it| it.dvr_backups.iter());
            backups.map(ToString::to_string).collect()
        };
        for (pointer, differs) in [
            (
                "/layout/ingest",
                host(old, Role::Ingest) != host(new, Role::Ingest),
            ),
            (
                "/layout/inference",
                host(old, Role::Inference) != host(new, Role::Inference),
            ),
            ("/layout/dvr_backups", backups(old) != backups(new)),
            ("/layout/failover_from", origin(old) != origin(new)),
        ] {
            if differs {
                self.add(pointer);
            }
        }
    }

    /// Compares two objects in canonical text.
    fn compare(&mut self, old: Option<&str>, new: &str) {
        if old != Some(new) {
            self.walk(old.unwrap_or("{}"), new, &mut String::new());
        }
    }

    fn walk(&mut self, old: &str, new: &str, pointer: &mut String) {
        let is_object = |text: &str| text.starts_with('{');
        let is_array = |text: &str| text.starts_with('[');
        if is_object(old) && is_object(new) {
            self.walk_objects(old, new, pointer);
        } else if is_array(old) && is_array(new) {
            if scan::elements(old).count() != scan::elements(new).count() {
                return self.add(pointer);
            }
            let pairs = scan::elements(old).zip(scan::elements(new));
            for (i, (old, new)) in pairs.enumerate() {
                self.enter(old, new, itoa::Buffer::new().format(i), pointer);
            }
        } else {
            self.add(pointer);
        }
    }

    fn walk_objects(&mut self, old: &str, new: &str, pointer: &mut String) {
        // A missing object has no members, unless the other one has none either.
        let missing = |other: &str| {
            if other.starts_with('{') && other != "{}" {
                "{}"
            } else {
                ""
            }
        };
        let mut old_members = scan::members(old).peekable();
        let mut new_members = scan::members(new).peekable();
        loop {
            // Canonical text is in the order of the names without escapes.
            let order = match (old_members.peek(), new_members.peek()) {
                (None, None) => return,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((old, _)), Some((new, _))) if old == new => Ordering::Equal,
                (Some((old, _)), Some((new, _))) => unescaped(old).cmp(&unescaped(new)),
            };
            let old = old_members.next_if(|_| order != Ordering::Greater);
            let new = new_members.next_if(|_| order != Ordering::Less);
            let (name, old, new) = match (old, new) {
                (Some((name, old)), Some((_, new))) if old != new => (name, old, new),
                (Some((name, old)), None) => (name, old, missing(old)),
                (None, Some((name, new))) => (name, missing(new), new),
                _ => continue,
            };
            self.enter(old, new, &unescaped(name), pointer);
        }
    }

    fn enter(&mut self, old: &str, new: &str, step: &str, pointer: &mut String) {
        if old == new {
            return;
        }
        let length = pointer.len();
        push_pointer(pointer, step);
        if pointer.len() > POINTER_BYTES_MAX {
            pointer.truncate(length);
            return self.add(pointer);
        }
        self.walk(old, new, pointer);
        pointer.truncate(length);
    }
}

/// The configuration without the defaults that were filled in.
fn saved(config: &str, filled: impl Iterator<Item = (u32, u32)>) -> String {
    let mut text = Vec::with_capacity(config.len());
    schema::without_filled(config, filled, &mut text);
    String::from_utf8(text).expect("JSON without some of its members")
}

/// The name of a member as written, without its escapes.
fn unescaped(name: &str) -> Cow<'_, str> {
    if name.contains('\\') {
        let text = scan::string(&format!("\"{name}\"")).map(Cow::into_owned);
        text.unwrap_or_default().into()
    } else {
        name.into()
    }
}

fn agent_layout(entity: &ArchivedEntity) -> Option<&ArchivedLayout> {
    match &entity.facts {
        ArchivedFacts::Agent { layout } => layout.as_ref(),
        _ => None,
    }
}

fn host(layout: Option<&ArchivedLayout>, role: Role) -> Option<&str> {
    let host = match role {
        Role::Ingest => layout?.ingest.as_ref(),
        Role::Inference => layout?.inference.as_ref(),
        Role::Backup => None,
    };
    host.map(rkyv::string::ArchivedString::as_str)
}

fn origin(layout: Option<&ArchivedLayout>) -> Option<&str> {
    let origin = layout?.failover_from.as_ref();
    origin.map(rkyv::string::ArchivedString::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(old: Option<&str>, new: &str) -> String {
        let mut changed = ChangedMembers::default();
        changed.compare(old, new);
        changed.add_to(NewEvent::new("api_call")).text_of_members()
    }

    #[test]
    fn changed_members_are_named_by_pointer_without_values() {
        for (old, new, expected) in [
            (None, "{}", ""),
            (None, r#"{"a":1,"b":{"c":[1]}}"#, r#""/a","/b/c""#),
            (Some(r#"{"a":1}"#), r#"{"a":1}"#, ""),
            (Some(r#"{"a":1}"#), r#"{"a":2}"#, r#""/a""#),
            (Some(r#"{"a":1}"#), "{}", r#""/a""#),
            (
                Some(r#"{"a":{"b":1,"c":2}}"#),
                r#"{"a":{"b":1,"d":2}}"#,
                r#""/a/c","/a/d""#,
            ),
            (Some(r#"{"a":{"b":1}}"#), "{}", r#""/a/b""#),
            (Some(r#"{"a":{}}"#), "{}", r#""/a""#),
            (Some("{}"), r#"{"a":{}}"#, r#""/a""#),
            (Some(r#"{"a":{"b":1}}"#), r#"{"a":5}"#, r#""/a""#),
            (
                Some(r#"{"a":[{"u":1},{"u":2}]}"#),
                r#"{"a":[{"u":1},{"u":3}]}"#,
                r#""/a/1/u""#,
            ),
            (Some(r#"{"a":[1]}"#), r#"{"a":[1,2]}"#, r#""/a""#),
            (Some(r#"{"a\"/~":1}"#), r#"{"a\"/~":2}"#, r#""/a\"~1~0""#),
            (
                Some(r#"{"a":"x,\"b\":1"}"#),
                r#"{"a":"x,\"b\":2"}"#,
                r#""/a""#,
            ),
        ] {
            let expected = match expected {
                "" => "{}".to_owned(),
                list => format!("{{\"changed\":[{list}]}}"),
            };
            assert_eq!(changed(old, new), expected, "{old:?} {new}");
        }
    }

    #[test]
    fn changed_members_are_bounded_and_counted() {
        let members = (0..20_000).map(|i| format!("\"k{i:05}\":1"));
        let many = format!("{{{}}}", members.collect::<Vec<_>>().join(","));
        let text = changed(None, &many);
        assert!(text.len() < 1024, "{} bytes", text.len());
        assert_eq!(text.matches("/k").count(), CHANGED_MAX);
        assert!(text.contains("\"changed_count\":10000"), "{text}");
        let long = format!("{{\"a\":{{\"{}\":1}}}}", "x".repeat(1000));
        assert_eq!(changed(None, &long), r#"{"changed":["/a"]}"#);
        let members = (0..40).map(|i| format!("\"{}{i}\":1", "x".repeat(200)));
        let wide = format!("{{{}}}", members.collect::<Vec<_>>().join(","));
        let text = changed(None, &wide);
        assert!(text.len() < 2048 + 300, "{} bytes", text.len());
        assert!(text.contains("\"changed_count\":40"), "{text}");
    }
}
