//! What a streamer reports about the recordings of a stream, and how much of an episode they cover.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::json::{self, Value};
use crate::state::report_gap::{Span, joined};

/// Longest gap between two segments of a continuous recording.
const GAP_MS_MAX: u64 = 1_000;
/// Earliest valid time of a streamer, UTC ms.
const MS_MIN: u64 = 1_000_000_000_000;
/// No time and no length is as long as this, seconds.
const SECONDS_MAX: f64 = 1e12;

/// The path at which a streamer lists the recorded times of a stream.
pub fn ranges_path(stream: &str) -> String {
    let name = utf8_percent_encode(stream, NON_ALPHANUMERIC);
    format!("/streamer/api/v3/streams/{name}/dvr/ranges")
}

/// The recorded times of a stream on a streamer.
#[derive(Debug, PartialEq, Eq)]
pub struct Recorded {
    /// In ascending order, disjoint.
    spans: Vec<Span>,
    /// False: the streamer has more than it reported.
    is_complete: bool,
}

/// The part of an episode that is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    Full,
    Part,
    None,
    /// Recorded, to an unknown extent.
    Some,
}

impl Coverage {
    pub fn has_dvr(self) -> bool {
        self != Self::None
    }

    /// The word of the API; `None` if the extent is unknown.
    pub fn status(self) -> Option<&'static str> {
        match self {
            Self::Full => Some("fully_recorded"),
            Self::Part => Some("partially_recorded"),
            Self::None => Some("not_recorded"),
            Self::Some => None,
        }
    }
}

impl Recorded {
    /// Parses `{"ranges":[{"opened_at","closed_at"}]}` in milliseconds, or the older form with
    /// `from` and `duration` in seconds.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let body = json::parse(body).ok()?;
        let mut spans = Vec::new();
        for range in body.get("ranges")?.as_array()? {
            spans.push(span(range)?);
        }
        let is_complete = body.get("next").is_none_or(Value::is_null);
        Some(Self {
            spans: joined(spans, GAP_MS_MAX),
            is_complete,
        })
    }

    /// How much of an episode is recorded; `None` if the report does not cover its time.
    pub fn coverage(&self, episode: Span) -> Option<Coverage> {
        let touching = |span: &&Span| span.from <= episode.to && span.to >= episode.from;
        let covers = |span: &Span| {
            span.from <= episode.from.saturating_add(GAP_MS_MAX)
                && span.to.saturating_add(GAP_MS_MAX) >= episode.to
        };
        let mut spans = self.spans.iter().filter(touching);
        Some(match (spans.next(), self.is_complete) {
            (Some(span), _) if covers(span) => Coverage::Full,
            (Some(_), true) => Coverage::Part,
            (Some(_), false) => Coverage::Some,
            (None, true) => Coverage::None,
            (None, false) => return None,
        })
    }
}

/// A recorded time. Without an end, the recording continues.
fn span(range: &Value) -> Option<Span> {
    let number = |name| range.get(name).and_then(Value::as_u64);
    if let Some(from) = number("opened_at") {
        let to = number("closed_at").unwrap_or(u64::MAX);
        return Some(Span { from, to });
    }
    let from = number("from")?.checked_mul(1000)?;
    let length = number("duration")?.checked_mul(1000)?;
    let to = from.checked_add(length)?;
    Some(Span { from, to })
}

/// A page of recorded times, as far as they make sense: between the earliest valid time and
/// `until_ms`. A fraction of a second does not count.
pub struct RecordedPage {
    pub spans: Vec<Span>,
    /// Where the next page begins.
    pub next: Option<Box<str>>,
}

impl RecordedPage {
    /// Parses the same answers as [`Recorded::parse`]; a time that is none is left out, so that it
    /// does not keep the others from being used.
    pub fn parse(body: &[u8], until_ms: u64) -> Option<Self> {
        let body = json::parse(body).ok()?;
        let spans = body.get("ranges")?.as_array()?.iter();
        let spans = spans
            .filter_map(lenient_span)
            .filter_map(|Span { from, to }| {
                let to = to.min(until_ms);
                (from >= MS_MIN && from < to).then_some(Span { from, to })
            });
        let next = body.get("next").and_then(Value::as_str);
        let next = next.filter(|next| !next.is_empty());
        Some(Self {
            spans: spans.collect(),
            next: next.map(Box::from),
        })
    }
}

/// A recorded time whose numbers may have fractions.
fn lenient_span(range: &Value) -> Option<Span> {
    if let Some(span) = span(range) {
        return Some(span);
    }
    let number = |name| match range.get(name) {
        Some(Value::Number(number)) => Some(number.as_f64()),
        _ => None,
    };
    let whole = |value: f64| (0.0..SECONDS_MAX).contains(&value).then_some(value as u64);
    let from = whole(number("from")?)? * 1000;
    let length = whole(number("duration")?)? * 1000;
    Some(Span {
        from,
        to: from + length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(body: &str) -> Recorded {
        Recorded::parse(body.as_bytes()).expect("can be read")
    }

    fn coverage(of: &Recorded, from: u64, to: u64) -> Option<Coverage> {
        of.coverage(Span { from, to })
    }

    #[test]
    fn coverage_is_full_part_or_none() {
        let of = recorded(
            r#"{"ranges":[{"opened_at":50000,"closed_at":60000},
                {"opened_at":10000,"closed_at":20000},{"opened_at":20500,"closed_at":30000}]}"#,
        );
        assert_eq!(coverage(&of, 11_000, 29_000), Some(Coverage::Full));
        assert_eq!(
            coverage(&of, 9_500, 30_500),
            Some(Coverage::Full),
            "segments"
        );
        assert_eq!(coverage(&of, 25_000, 55_000), Some(Coverage::Part));
        assert_eq!(coverage(&of, 35_000, 45_000), Some(Coverage::None));
        assert_eq!(
            coverage(&of, 15_000, 15_000),
            Some(Coverage::Full),
            "zero length"
        );
        let unfinished = recorded(r#"{"ranges":[{"opened_at":10000}],"next":null}"#);
        assert_eq!(coverage(&unfinished, 11_000, 99_000), Some(Coverage::Full));
        let older = recorded(r#"{"ranges":[{"from":10,"duration":5}]}"#);
        assert_eq!(coverage(&older, 11_000, 12_000), Some(Coverage::Full));
    }

    #[test]
    fn incomplete_report_proves_no_absence() {
        let of = recorded(r#"{"ranges":[{"opened_at":10000,"closed_at":20000}],"next":"x"}"#);
        assert_eq!(coverage(&of, 11_000, 12_000), Some(Coverage::Full));
        assert_eq!(coverage(&of, 11_000, 90_000), Some(Coverage::Some));
        assert_eq!(coverage(&of, 50_000, 90_000), None);
    }

    #[test]
    fn malformed_reports_are_ignored() {
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"ranges":{}}"#,
            r#"{"ranges":[{}]}"#,
            r#"{"ranges":[{"from":18446744073709551615,"duration":1}]}"#,
            r#"{"ranges":[{"from":1}]}"#,
        ] {
            assert_eq!(Recorded::parse(bad.as_bytes()), None, "{bad}");
        }
        // A time that ends before it begins covers nothing.
        let of = recorded(r#"{"ranges":[{"opened_at":20000,"closed_at":10000}]}"#);
        assert_eq!(coverage(&of, 15_000, 15_000), Some(Coverage::None));
    }

    #[test]
    fn page_keeps_the_times_that_make_sense() {
        let until_ms = 1_800_000_100_000;
        let page = |body: &str| RecordedPage::parse(body.as_bytes(), until_ms);
        let read = page(
            r#"{"ranges":[{"from":1800000000,"duration":50},{"from":1800000090,"duration":99},
                {"opened_at":1800000001000},{"from":1800000000.9,"duration":2.5},
                {"from":-5,"duration":9},{"from":5,"duration":9},{"from":1800000200,"duration":9},
                {"from":1800000000,"duration":-1},{"from":1800000000,"duration":0},
                {"from":1e300,"duration":1e300},{"from":"1800000000","duration":1},{},5,null,
                {"from":18446744073709551615,"duration":18446744073709551615}],"next":"c"}"#,
        );
        let read = read.expect("a page");
        let span = |from: u64, to: u64| Span {
            from: 1_800_000_000_000 + from,
            to: 1_800_000_000_000 + to,
        };
        let expected = [
            span(0, 50_000),
            span(90_000, 100_000),
            span(1_000, 100_000),
            span(0, 2_000),
        ];
        assert_eq!(read.spans, expected);
        assert_eq!(read.next.as_deref(), Some("c"));
        for last in [
            r#"{"ranges":[]}"#,
            r#"{"ranges":[],"next":null}"#,
            r#"{"ranges":[],"next":""}"#,
        ] {
            assert_eq!(page(last).expect(last).next, None, "{last}");
        }
        for bad in ["", "[]", "{}", r#"{"ranges":5}"#, r#"{"ranges":[NaN]}"#] {
            assert!(page(bad).is_none(), "{bad}");
        }
    }
}
