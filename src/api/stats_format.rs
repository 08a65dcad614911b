//! Statistics as JSON or as OpenMetrics.

use super::Call;
use crate::error::ApiError;
use crate::http::{Body, Response};
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
    let by_header = match call.request.headers.get("accept") {
        Some(accept) if wants_openmetrics(accept) => StatsFormat::OpenMetrics,
        _ => StatsFormat::Json,
    };
    Ok(match call.choice(&FORMAT)? {
        Some(_) => StatsFormat::OpenMetrics,
        None => by_header,
    })
}

/// Whether the first media type in `Accept` is OpenMetrics. Scrapers list it first; browsers and
/// API clients do not list it.
fn wants_openmetrics(accept: &[u8]) -> bool {
    let first = accept.split(|byte| *byte == b',').next();
    first.is_some_and(|first| {
        let media = first.split(|byte| *byte == b';').next().unwrap_or_default();
        media
            .trim_ascii()
            .eq_ignore_ascii_case(b"application/openmetrics-text")
    })
}

/// A response with metrics.
pub fn text_response(text: String) -> Response {
    Response::with_body(200, CONTENT_TYPE, Body::Owned(text.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_must_be_first_in_accept() {
        for (accept, expected) in [
            ("application/openmetrics-text", true),
            (
                "application/openmetrics-text; version=1.0.0,text/plain;q=0.5",
                true,
            ),
            ("Application/OpenMetrics-Text ;q=0.9, */*", true),
            ("*/*", false),
            ("application/json", false),
            ("application/json, application/openmetrics-text", false),
            ("text/plain", false),
            ("", false),
        ] {
            assert_eq!(wants_openmetrics(accept.as_bytes()), expected, "{accept}");
        }
    }
}
