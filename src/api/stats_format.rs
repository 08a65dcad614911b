//! Statistics as JSON or as OpenMetrics.

use std::sync::Arc;

use super::Call;
use crate::error::ApiError;
use crate::http::{Body, Coding, Response, VARY, quality};
use crate::metrics::CONTENT_TYPE;
use crate::query::params::{Choice, ParameterValues as _};

/// The format of a response with statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatsFormat {
    Json,
    OpenMetrics,
}

pub const FORMAT: Choice = Choice::new(
    "format",
    &["openmetrics"],
    "`openmetrics` answers in the text format of OpenMetrics, as does that media type in \
     `Accept`. JSON when absent.",
)
.example(r#""openmetrics""#);

/// Reads the format from parameter `format` or, without it, from header `Accept`.
pub fn stats_format(call: &Call<'_>) -> Result<StatsFormat, ApiError> {
    let by_header = if prefers_openmetrics(call.request.headers.values("accept")) {
        StatsFormat::OpenMetrics
    } else {
        StatsFormat::Json
    };
    Ok(match call.choice(&FORMAT)? {
        Some(_) => StatsFormat::OpenMetrics,
        None => by_header,
    })
}

/// Whether `Accept` ranks OpenMetrics above JSON (RFC 9110, section 12.5.1). Of two equal ranks the
/// more specific one counts, then the one that is listed first.
fn prefers_openmetrics<'v>(accept: impl Iterator<Item = &'v [u8]>) -> bool {
    let mut ranks = [MediaRank::default(); 2];
    let elements = accept.flat_map(|value| value.split(|byte| *byte == b','));
    for (order, element) in elements.enumerate() {
        let mut parts = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let range = parts.next().unwrap_or_default();
        let quality = parts.find_map(quality).unwrap_or(1000);
        for (rank, media) in ranks.iter_mut().zip(MEDIA) {
            let specificity = if range.eq_ignore_ascii_case(media) {
                3
            } else if range.eq_ignore_ascii_case(b"application/*") {
                2
            } else if range == b"*/*" {
                1
            } else {
                continue;
            };
            if specificity > rank.specificity {
                *rank = MediaRank {
                    specificity,
                    quality,
                    order,
                };
            }
        }
    }
    let [metrics, json] = ranks;
    let by_rank = metrics.quality.cmp(&json.quality);
    let by_order = json.order.cmp(&metrics.order);
    let order = by_rank.then(metrics.specificity.cmp(&json.specificity));
    metrics.quality > 0 && order.then(by_order).is_gt()
}

/// The types of an answer.
const MEDIA: [&[u8]; 2] = [b"application/openmetrics-text", b"application/json"];

/// The rank of a type in `Accept`, by the most specific range that has it.
#[derive(Debug, Clone, Copy, Default)]
struct MediaRank {
    specificity: u8,
    /// In thousandths; 0: not acceptable.
    quality: u32,
    /// Place in the list.
    order: usize,
}

/// Marks a response as one whose type was chosen by `Accept`.
fn by_accept(response: Response) -> Response {
    response.header(VARY, "Accept")
}

/// A response with statistics as JSON that other callers get as well.
pub fn shared_json_response(coding: Option<Coding>, body: Arc<[u8]>) -> Response {
    by_accept(Response::shared(200, coding, body))
}

/// A response with statistics as JSON.
pub fn json_response(body: Vec<u8>) -> Response {
    by_accept(Response::json(200, body))
}

/// A response with metrics.
pub fn text_response(text: String) -> Response {
    by_accept(Response::with_body(
        200,
        CONTENT_TYPE,
        Body::Owned(text.into_bytes()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_type_with_the_highest_quality_is_preferred() {
        for (accept, expected) in [
            ("application/openmetrics-text", true),
            (
                "application/openmetrics-text; version=1.0.0,text/plain;q=0.5",
                true,
            ),
            ("Application/OpenMetrics-Text ;q=0.9, */*;q=0.8", true),
            ("application/openmetrics-text;q=0.9, */*", false),
            ("application/openmetrics-text, */*", true),
            ("*/*, application/openmetrics-text", true),
            ("application/*;q=0.3, application/json;q=0.2", true),
            ("application/json;q=0, */*", true),
            ("*/*", false),
            ("application/*", false),
            ("application/json", false),
            ("application/json, application/openmetrics-text", false),
            ("application/openmetrics-text, application/json", true),
            ("application/openmetrics-text;q=0.000", false),
            ("text/plain", false),
            ("", false),
        ] {
            let values = std::iter::once(accept.as_bytes());
            assert_eq!(prefers_openmetrics(values), expected, "{accept}");
        }
    }
}
