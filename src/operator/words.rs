//! Texts of values for people: counts, rates, times, and what a terminal must not interpret.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// `1234567` as `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 stream`, `2,000 streams`.
pub fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// A rate in kbit/s as `321.6Gbit/s`.
pub fn rate(kbit: f64) -> String {
    let (scaled, unit) = [(1e9, "Tbit/s"), (1e6, "Gbit/s"), (1e3, "Mbit/s")]
        .into_iter()
        .find(|(factor, _)| kbit >= *factor)
        .map_or((kbit, "kbit/s"), |(factor, unit)| (kbit / factor, unit));
    if scaled.fract() == 0.0 || unit == "kbit/s" {
        format!("{scaled:.0}{unit}")
    } else {
        format!("{scaled:.1}{unit}")
    }
}

/// Milliseconds since 1970 as `2026-11-28T18:26:29Z`. Empty for what is no time of this era.
pub fn time(ms: u64) -> String {
    UNIX_EPOCH
        .checked_add(Duration::from_millis(ms))
        .filter(|_| ms < 253_402_300_800_000)
        .map_or_else(String::new, |at| {
            humantime::format_rfc3339_seconds(at).to_string()
        })
}

/// How long ago a time in milliseconds was, in its two largest units: `3m 20s`.
pub fn age(ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    let age = humantime::format_duration(Duration::from_secs(now.saturating_sub(ms / 1000)));
    let age = age.to_string();
    let mut units = age.split(' ');
    [units.next(), units.next()]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ")
}

/// A text without characters that a terminal interprets or that change the order of others: each is
/// written as an escape, so a title can neither clear the screen nor look like another.
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_direction = |c: char| {
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2066}'..='\u{2069}')
    };
    let is_unsafe = |c: char| c.is_control() || is_direction(c);
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unsafe(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// A value as the cell of a table: text as it is, a list or an object in one line, nothing for what
/// is absent.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text).into_owned(),
        Value::Object(members) => {
            let pairs = members
                .iter()
                .map(|(key, value)| format!("{}={}", printable(key), cell(value)));
            pairs.collect::<Vec<_>>().join(",")
        }
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// The value at a dotted path. A key with dots is found before a shorter one, as in the API.
pub fn at<'v>(value: &'v Value, path: &str) -> &'v Value {
    const ABSENT: &Value = &Value::Null;
    if let Some(found) = value.get(path) {
        return found;
    }
    let dots = path.rmatch_indices('.');
    dots.map(|(dot, _)| (value.get(&path[..dot]), &path[dot + 1..]))
        .find_map(|(found, rest)| Some(at(found?, rest)).filter(|found| !found.is_null()))
        .unwrap_or(ABSENT)
}

/// The number of a member, 0 if it is absent.
pub fn number(value: &Value, path: &str) -> u64 {
    at(value, path).as_u64().unwrap_or(0)
}

/// The text of a member, empty if it is absent.
pub fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    at(value, path).as_str().unwrap_or("")
}

/// Members of a list, none if it is absent.
pub fn items<'v>(value: &'v Value, path: &str) -> &'v [Value] {
    at(value, path).as_array().map_or(&[], Vec::as_slice)
}
