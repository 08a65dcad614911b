//! What a streamer reports about the recordings of a stream, and how much of an episode they cover.

use crate::json::{self, Value};

/// Longest gap between two segments of a continuous recording.
const GAP_MS_MAX: u64 = 1_000;

/// A period in UTC ms, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub from: u64,
    pub to: u64,
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
            let number = |name| range.get(name).and_then(Value::as_u64);
            let span = if let Some(from) = number("opened_at") {
                // Without an end, the recording continues.
                let to = number("closed_at").unwrap_or(u64::MAX);
                Span { from, to }
            } else {
                let from = number("from")?.checked_mul(1000)?;
                let length = number("duration")?.checked_mul(1000)?;
                let to = from.checked_add(length)?;
                Span { from, to }
            };
            spans.push(span);
        }
        let is_complete = body.get("next").is_none_or(Value::is_null);
        Some(Self {
            spans: joined(spans),
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

fn joined(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable_by_key(|span| span.from);
    let mut joined: Vec<Span> = Vec::new();
    for span in spans.into_iter().filter(|span| span.from <= span.to) {
        match joined.last_mut() {
            Some(last) if span.from <= last.to.saturating_add(GAP_MS_MAX) => {
                last.to = last.to.max(span.to);
            }
            _ => joined.push(span),
        }
    }
    joined
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
}
