//! Repairs of reports: a report with an invalid value is used without it.
//!
//! A report is a sign of life whatever it contains, and one wrong number must not hide all others.
//! Fractions of integers are rounded and percentages clamped; everything else that violates the
//! schema is dropped, and the response lists what was.

use crate::error::{ApiError, ErrorItem};
use crate::json::{Number, Object, Value};
use crate::schema::{Schema, Violation};

/// Dropped parts that the response lists; more are only counted.
const LISTED_MAX: usize = 100;
/// Each pass checks the whole value and repairs as many violations as the schema reports at once.
/// A value that has more than all passes repair is dropped as a whole: a report may have 16 MiB,
/// and the core does nothing else meanwhile.
const PASSES_MAX: usize = 8;

/// What was dropped from a report.
#[derive(Debug, Clone, Default)]
pub struct Dropped {
    items: Vec<ErrorItem>,
    count: u64,
}

impl Dropped {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Number of dropped parts, also of those that are not listed.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn add(&mut self, item: ErrorItem) {
        self.count += 1;
        if self.items.len() < LISTED_MAX {
            self.items.push(item);
        }
    }

    /// Drops a part as a whole, because of the first error in it.
    pub(super) fn add_error(&mut self, error: ApiError) {
        if let Some(item) = error.items.into_iter().next() {
            self.add(item);
        }
    }

    /// Adds what was dropped from another part of the same report.
    pub(super) fn append(&mut self, other: Self) {
        self.count += other.count;
        let room = LISTED_MAX - self.items.len();
        self.items.extend(other.items.into_iter().take(room));
    }

    fn add_violation(&mut self, violation: Violation, pointer: String) {
        self.add(ErrorItem {
            code: violation.code,
            title: violation.title.into(),
            pointer: Some(pointer),
            parameter: None,
            meta: Vec::new(),
        });
    }

    /// The body of the response.
    pub fn to_body(&self) -> Vec<u8> {
        let items = self.items.iter().map(|item| {
            let mut part = Object::default();
            part.insert("code", Value::from(item.code));
            part.insert(
                "pointer",
                Value::from(item.pointer.as_deref().unwrap_or("")),
            );
            part.insert("title", Value::from(&*item.title));
            Value::Object(part)
        });
        let mut body = Object::default();
        body.insert("dropped", Value::Array(items.collect()));
        let count = Value::Number(Number::Unsigned(self.count));
        body.insert("dropped_count", count);
        let mut out = Vec::new();
        Value::Object(body).write(&mut out);
        out
    }
}

/// Repairs a value until it matches the schema; `None` if nothing of it can be kept.
pub(super) fn repaired(
    mut value: Value,
    schema: &Schema,
    pointer: &str,
    dropped: &mut Dropped,
) -> Option<Value> {
    for _ in 0..PASSES_MAX {
        let Err(mut violations) = schema.check(&value) else {
            return Some(value);
        };
        // A report need not repeat members that a configuration requires, such as the root of a
        // storage.
        violations.retain(|violation| violation.code != "missing_required");
        if violations.is_empty() {
            return Some(value);
        }
        // From the end, so that the indexes of earlier items stay valid.
        let mut last: Option<String> = None;
        for violation in violations.into_iter().rev() {
            // A value that was repaired or dropped is checked again before anything else in it.
            if last
                .as_ref()
                .is_some_and(|last| last.starts_with(&violation.pointer))
            {
                continue;
            }
            if repair(&mut value, &violation) {
                last = Some(violation.pointer);
                continue;
            }
            let part = remove(&mut value, &violation);
            last = Some(part.clone());
            let is_whole = part.is_empty();
            dropped.add_violation(violation, format!("{pointer}{part}"));
            if is_whole {
                return None;
            }
        }
    }
    None
}

/// The members and indexes on the way to the value at a pointer.
fn position(pointer: &str) -> impl Iterator<Item = String> {
    let tokens = pointer.split('/').skip(1);
    tokens.map(|token| token.replace("~1", "/").replace("~0", "~"))
}

fn child<'v>(value: &'v mut Value, token: &str) -> Option<&'v mut Value> {
    match value {
        Value::Object(object) => object.get_mut(token),
        Value::Array(items) => items.get_mut(token.parse::<usize>().ok()?),
        _ => None,
    }
}

/// Rounds a fraction or clamps a percentage. Returns whether it did.
fn repair(value: &mut Value, violation: &Violation) -> bool {
    let mut found = Some(value);
    for token in position(&violation.pointer) {
        found = found.and_then(|value| child(value, &token));
    }
    let Some(Value::Number(number)) = found else {
        return false;
    };
    match violation.code {
        "not_integer" => match rounded(*number) {
            Some(integer) => *number = integer,
            None => return false,
        },
        "input_out_of_range" => {
            let bound = |name| {
                let mut meta = violation.meta.iter();
                meta.find(|(key, _)| *key == name)
                    .map(|(_, text)| text.as_str())
            };
            if (bound("minimum"), bound("maximum")) != (Some("0"), Some("100")) {
                return false;
            }
            *number = Number::Unsigned(if number.as_f64() < 0.0 { 0 } else { 100 });
        }
        _ => return false,
    }
    true
}

/// The integer next to a number, if there is one in range.
pub(super) fn rounded(number: Number) -> Option<Number> {
    Number::from_float(number.as_f64().round()).and_then(Number::to_integer)
}

/// Removes what a violation is about, and returns the pointer to what was removed; an empty one if
/// nothing can be kept. An object whose variant is unknown is removed as a whole, and what cannot
/// be removed goes with the value that it is in.
fn remove(value: &mut Value, violation: &Violation) -> String {
    let mut part = violation.pointer.as_str();
    if violation.code.starts_with("discriminator_") {
        part = parent(part);
    }
    while !part.is_empty() && !remove_at(value, part) {
        part = parent(part);
    }
    part.to_owned()
}

fn parent(pointer: &str) -> &str {
    pointer.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Removes the value at a pointer. Returns whether there was one.
fn remove_at(value: &mut Value, pointer: &str) -> bool {
    let position: Vec<String> = position(pointer).collect();
    let Some((last, parents)) = position.split_last() else {
        return false;
    };
    let mut found = Some(value);
    for token in parents {
        found = found.and_then(|value| child(value, token));
    }
    match found {
        Some(Value::Object(object)) => object.remove(last).is_some(),
        Some(Value::Array(items)) => {
            let at = last.parse::<usize>().ok().filter(|at| *at < items.len());
            at.map(|at| items.remove(at)).is_some()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use crate::schema;

    /// Partitions of a streamer, some of them invalid; how many are kept, and how many dropped.
    fn partitions(valid: usize, invalid: usize) -> (Option<usize>, u64) {
        let invalid = vec![r#"{"usage":"full"}"#; invalid];
        let all = [vec![r#"{"usage":5}"#; valid], invalid].concat().join(",");
        let body = format!(r#"{{"partitions":[{all}]}}"#);
        let stats = json::parse(body.as_bytes()).expect("JSON");
        let mut dropped = Dropped::default();
        let kept = repaired(stats, schema::streamer_stats(), "/stats", &mut dropped);
        let kept = kept.map(|stats| {
            let partitions = stats.get("partitions").and_then(Value::as_array);
            partitions.expect("partitions").len()
        });
        (kept, dropped.count)
    }

    /// What is kept of the tracks of a stream, and the pointers to what is dropped.
    fn tracks(text: &str) -> (String, Vec<String>) {
        let body = format!(r#"{{"bitrate":5,"media_info":{{"title":"a","tracks":[{text}]}}}}"#);
        let stats = json::parse(body.as_bytes()).expect("JSON");
        let mut dropped = Dropped::default();
        let kept = repaired(stats, schema::stream_stats(), "/s", &mut dropped).expect("the rest");
        assert_eq!(kept.get("bitrate").and_then(Value::as_u64), Some(5));
        let info = kept.get("media_info").expect("the contents");
        assert!(info.get("title").is_some());
        let pointers = dropped.items.iter().map(|item| item.pointer.clone());
        let pointers = pointers.map(|pointer| pointer.expect("a pointer"));
        let kept = info.get("tracks").expect("the tracks").to_text();
        (kept, pointers.collect())
    }

    #[test]
    fn track_of_an_unknown_kind_is_dropped_alone() {
        let video = r#"{"codec":"h264","content":"video"}"#;
        for (odd, pointer, kept) in [
            (r#"{"content":"data"}"#, "/s/media_info/tracks/0", ""),
            (r#"{"codec":"aac"}"#, "/s/media_info/tracks/0", ""),
            (
                r#"{"content":5}"#,
                "/s/media_info/tracks/0/content /s/media_info/tracks/0",
                "",
            ),
            ("[]", "/s/media_info/tracks/0", ""),
            ("null", "/s/media_info/tracks/0", ""),
            (
                r#"{"content":"video","codec":"H264","width":"wide"}"#,
                "/s/media_info/tracks/0/width /s/media_info/tracks/0/codec",
                r#"{"content":"video"},"#,
            ),
        ] {
            let (found, pointers) = tracks(&format!("{odd},{video}"));
            assert_eq!(found, format!("[{kept}{video}]"), "{odd}");
            assert_eq!(pointers.join(" "), pointer, "{odd}");
        }
    }

    #[test]
    fn value_with_very_many_faults_is_dropped_as_a_whole() {
        assert_eq!(partitions(3, 0), (Some(3), 0));
        assert_eq!(
            partitions(3, 100),
            (Some(103), 100),
            "only the wrong members"
        );
        let (kept, dropped) = partitions(3, 10_000);
        assert_eq!(kept, None);
        assert!((100..1000).contains(&dropped), "{dropped}");
    }
}
