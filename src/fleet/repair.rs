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

    fn add_violation(&mut self, violation: Violation, pointer: &str) {
        self.add(ErrorItem {
            code: violation.code,
            title: violation.title.into(),
            pointer: Some(format!("{pointer}{}", violation.pointer)),
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
            last = Some(violation.pointer.clone());
            let position: Vec<String> = violation
                .pointer
                .split('/')
                .skip(1)
                .map(unescaped)
                .collect();
            if position.is_empty() {
                dropped.add_violation(violation, pointer);
                return None;
            }
            if !repair(&mut value, &position, &violation) {
                remove(&mut value, &position);
                dropped.add_violation(violation, pointer);
            }
        }
    }
    None
}

fn unescaped(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

fn child<'v>(value: &'v mut Value, token: &str) -> Option<&'v mut Value> {
    match value {
        Value::Object(object) => object.get_mut(token),
        Value::Array(items) => items.get_mut(token.parse::<usize>().ok()?),
        _ => None,
    }
}

/// Rounds a fraction or clamps a percentage. Returns whether it did.
fn repair(value: &mut Value, position: &[String], violation: &Violation) -> bool {
    let mut found = Some(value);
    for token in position {
        found = found.and_then(|value| child(value, token));
    }
    let Some(Value::Number(number)) = found else {
        return false;
    };
    match violation.code {
        "not_integer" => {
            let rounded = Number::from_float(number.as_f64().round());
            match rounded.and_then(Number::to_integer) {
                Some(integer) => *number = integer,
                None => return false,
            }
        }
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

fn remove(value: &mut Value, position: &[String]) {
    let Some((last, parents)) = position.split_last() else {
        return;
    };
    let mut found = Some(value);
    for token in parents {
        found = found.and_then(|value| child(value, token));
    }
    match found {
        Some(Value::Object(object)) => {
            object.remove(last);
        }
        Some(Value::Array(items)) => {
            if let Some(at) = last.parse::<usize>().ok().filter(|at| *at < items.len()) {
                items.remove(at);
            }
        }
        _ => {}
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
