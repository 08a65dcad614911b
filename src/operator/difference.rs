//! Differences of two objects, as a merge patch and as lines.

use serde_json::{Map, Value};

use super::words;

/// Merges a patch into another, so that both are applied by one. `null` removes, as in RFC 7396.
pub fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                match target.get_mut(&key) {
                    Some(known) => merge(known, value),
                    None => {
                        target.insert(key, value);
                    }
                }
            }
        }
        (target, patch) => *target = patch,
    }
}

/// The merge patch (RFC 7396) that makes `from` equal to `to`; `None` if they are equal. Absent and
/// `null` are the same.
pub fn patch_between(from: &Value, to: &Value) -> Option<Value> {
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => {
            let mut patch = Map::new();
            let keys = from
                .keys()
                .chain(to.keys().filter(|key| !from.contains_key(*key)));
            for key in keys {
                let of = |object: &Map<String, Value>| object.get(key).cloned();
                let (before, after) = (of(from).unwrap_or_default(), of(to).unwrap_or_default());
                if let Some(change) = patch_between(&before, &after) {
                    patch.insert(key.clone(), change);
                }
            }
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        _ => (from != to).then(|| to.clone()),
    }
}

/// One line per field that differs, `title: "old" -> "new"`; `before` and `after` are masked.
pub fn lines(before: &Value, after: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    add_lines(&mut lines, "", before, after);
    lines
}

fn add_lines(lines: &mut Vec<String>, path: &str, before: &Value, after: &Value) {
    let members = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let is_object = |value: &Value| value.is_object() || value.is_null();
    if is_object(before) && is_object(after) && (before.is_object() || after.is_object()) {
        let (before, after) = (members(before), members(after));
        let keys = before
            .keys()
            .chain(after.keys().filter(|key| !before.contains_key(*key)));
        for key in keys {
            let dot = if path.is_empty() { "" } else { "." };
            let path = format!("{path}{dot}{key}");
            let of = |object: &Map<String, Value>| object.get(key).cloned().unwrap_or_default();
            add_lines(lines, &path, &of(&before), &of(&after));
        }
    } else if before != after {
        let shown = |value: &Value| match value {
            Value::Null => "-".to_owned(),
            other => words::printable(&other.to_string()).into_owned(),
        };
        let path = words::printable(path);
        lines.push(format!("{path}: {} -> {}", shown(before), shown(after)));
    }
}

/// Whether a value holds this text anywhere.
pub fn holds(value: &Value, text: &str) -> bool {
    match value {
        Value::String(own) => own.contains(text),
        Value::Array(items) => items.iter().any(|item| holds(item, text)),
        Value::Object(members) => members.values().any(|member| holds(member, text)),
        _ => false,
    }
}
