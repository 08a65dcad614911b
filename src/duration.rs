//! Durations as text: `30s`, `1m30s`, `500ms`, `1.5h`, `2h`, or a plain number of milliseconds.
//!
//! The form is Go's, which the reference's environment uses, plus `d` for days. A number without a
//! unit is milliseconds, the unit of the API's members. [`text`] writes the shortest form that
//! [`parse`] reads back as the same duration. Limits are the caller's.

use std::fmt::Write as _;
use std::time::Duration;

/// The accepted forms, for error messages.
pub const ALLOWED: &str =
    "a length of time such as 30s, 1m30s, 500ms, 2h or a number of milliseconds";

/// Milliseconds of each unit, longest first.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// `None` if the text is not a duration or does not fit 64 bits of milliseconds.
pub fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_millis);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(milliseconds(number, *unit_ms)?)?;
        rest = tail;
    }
    Some(Duration::from_millis(total))
}

/// `1.5` hours in milliseconds, calculated with integers: at most nine digits of fraction, rounded
/// down to the millisecond.
fn milliseconds(number: &str, unit_ms: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit_ms)?;
    let scale = 10_u64.pow(fraction.len() as u32);
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(unit_ms) / u128::from(scale);
    whole.checked_add(u64::try_from(part).ok()?)
}

/// The shortest text that reads back as the same whole milliseconds: `1m30s`, `500ms`, `0s`.
pub fn text(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, unit_ms) in UNITS {
        if rest >= unit_ms {
            _ = write!(out, "{}{unit}", rest / unit_ms);
            rest %= unit_ms;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn written_durations_are_parsed() {
        for (text, ms) in [
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("2h", 7_200_000),
            ("1h0m0s", 3_600_000),
            ("1.5s", 1_500),
            ("0.25h", 900_000),
            ("1d", 86_400_000),
            ("5000", 5_000),
            ("0", 0),
            (" 10s ", 10_000),
            ("0.0009s", 0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            " ",
            "s",
            "1x",
            "1 s",
            "-5s",
            "+5s",
            "1.s",
            ".5s",
            "1..5s",
            "1.5",
            "10s5",
            "1e3",
            "1S",
            "30sec",
            "५s",
            "99999999999999999999",
            "213503982335d",
            "1.1234567890s",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(crate::proptests::config())]
        #[test]
        fn written_text_is_parsed_back(ms in any::<u64>()) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse(&text(duration)), Some(duration));
        }

        #[test]
        fn no_text_panics(text in "[0-9.dhms]{0,24}") {
            let _ = parse(&text);
        }
    }
}
