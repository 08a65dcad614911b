//! What a refused request is told: one status, one or more facts, always in the same JSON form.
//!
//! The form is `{"errors":[{"status","code","title","source":{"pointer"|"parameter"},"meta"}]}` with `status` and every value of `meta` a
//! string, because clients of the reference decode them as such. Status codes of errors appear in this file only; the cause of
//! a server error goes to the log, never to the client.

use std::borrow::Cow;

use super::parse::Refusal;
use crate::json::write_string;

/// Why a request was refused. Cheap to build, rendered once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    pub status: u16,
    /// Never empty. The status belongs to all of them.
    pub items: Vec<ErrorItem>,
    /// Seconds for `Retry-After`, on 429 and 503.
    pub retry_after_seconds: Option<u32>,
}

/// One fact about what was wrong and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorItem {
    /// Stable, for programs.
    pub code: &'static str,
    /// One sentence, for people. Never contains a secret or an internal name.
    pub title: Cow<'static, str>,
    /// JSON pointer into the body.
    pub pointer: Option<String>,
    /// Name of the query parameter or path segment.
    pub parameter: Option<String>,
    pub meta: Vec<(&'static str, String)>,
}

impl ErrorItem {
    pub fn new(code: &'static str, title: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            title: title.into(),
            pointer: None,
            parameter: None,
            meta: Vec::new(),
        }
    }
}

impl ApiError {
    pub fn new(status: u16, code: &'static str, title: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            items: vec![ErrorItem::new(code, title)],
            retry_after_seconds: None,
        }
    }

    pub fn bad_request(code: &'static str, title: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, code, title)
    }

    /// A query parameter or path segment that cannot be used.
    pub fn bad_parameter(
        name: impl Into<String>,
        code: &'static str,
        title: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::bad_request(code, title).at_parameter(name)
    }

    /// A place in the body that cannot be used.
    pub fn bad_body(
        pointer: impl Into<String>,
        code: &'static str,
        title: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::bad_request(code, title).at_pointer(pointer)
    }

    pub fn unauthorized(title: &'static str) -> Self {
        Self::new(401, "unauthorized", title)
    }

    pub fn forbidden(code: &'static str, title: impl Into<Cow<'static, str>>) -> Self {
        Self::new(403, code, title)
    }

    pub fn not_found(code: &'static str, title: impl Into<Cow<'static, str>>) -> Self {
        Self::new(404, code, title)
    }

    pub fn conflict(code: &'static str, title: impl Into<Cow<'static, str>>) -> Self {
        Self::new(409, code, title)
    }

    pub fn gone(code: &'static str, title: impl Into<Cow<'static, str>>) -> Self {
        Self::new(410, code, title)
    }

    pub fn internal(id: &str) -> Self {
        let mut error = Self::new(
            500,
            "internal_error",
            "The server failed on this request; the id finds the cause in its log",
        );
        error.items[0].meta.push(("id", id.to_owned()));
        error
    }

    pub fn unavailable(
        code: &'static str,
        title: impl Into<Cow<'static, str>>,
        retry_after_seconds: u32,
    ) -> Self {
        Self {
            retry_after_seconds: Some(retry_after_seconds),
            ..Self::new(503, code, title)
        }
    }

    /// A request that is refused for its form, before anybody asked what it means.
    pub fn refused(refusal: Refusal) -> Self {
        let (status, code, title) = match refusal {
            Refusal::RequestLine => (
                400,
                "bad_request_line",
                "The request line is not METHOD SP TARGET SP VERSION",
            ),
            Refusal::Version => (
                505,
                "http_version",
                "This server speaks HTTP/1.1 and HTTP/1.0",
            ),
            Refusal::MethodUnknown => (
                501,
                "method_unknown",
                "This server does not know this method",
            ),
            Refusal::MethodRefused => (
                405,
                "method_not_allowed",
                "This server does not serve this method",
            ),
            Refusal::Target => (
                400,
                "bad_target",
                "The request target contains characters that do not belong there",
            ),
            Refusal::TargetLong => (414, "target_too_long", "The request target is too long"),
            Refusal::HeadLong => (431, "head_too_large", "The header fields are too large"),
            Refusal::FieldsMany => (431, "too_many_fields", "There are too many header fields"),
            Refusal::Field => (400, "bad_field", "A header field is malformed"),
            Refusal::LineEnd => (400, "bad_line_end", "Lines must end with CR LF"),
            Refusal::Host => (
                400,
                "bad_host",
                "There must be exactly one valid Host field",
            ),
            Refusal::ContentLength => (
                400,
                "bad_content_length",
                "Content-Length must be one decimal number",
            ),
            Refusal::TransferEncoding => (
                400,
                "bad_transfer_encoding",
                "Transfer-Encoding must be `chunked` and nothing else",
            ),
            Refusal::TransferCoding => (
                501,
                "transfer_coding_unknown",
                "The only transfer coding served is `chunked`",
            ),
            Refusal::LengthAndChunked => (
                400,
                "ambiguous_length",
                "Content-Length and Transfer-Encoding exclude each other",
            ),
            Refusal::AuthorizationTwice => (
                400,
                "bad_authorization",
                "There must be at most one Authorization field",
            ),
            Refusal::Expectation => (
                417,
                "expectation_unknown",
                "The only expectation served is `100-continue`",
            ),
            Refusal::ContentCoding => (
                415,
                "content_coding_unknown",
                "Bodies must be sent without a content coding",
            ),
            Refusal::ChunkSize => (400, "bad_chunk_size", "A chunk size is malformed"),
            Refusal::ChunkExtension => (
                400,
                "bad_chunk_extension",
                "A chunk extension is malformed or too long",
            ),
            Refusal::ChunkEnd => (
                400,
                "bad_chunk_end",
                "A chunk does not end where its size says",
            ),
            Refusal::Trailer => (400, "bad_trailer", "A trailer field is malformed"),
            Refusal::BodyLong => (
                413,
                "body_too_large",
                "The body is larger than this operation accepts",
            ),
        };
        Self::new(status, code, title)
    }

    /// A request that did not arrive in time.
    pub fn too_slow() -> Self {
        Self::new(408, "request_timeout", "The request did not arrive in time")
    }

    #[must_use]
    pub fn at_parameter(mut self, name: impl Into<String>) -> Self {
        self.items[0].parameter = Some(name.into());
        self
    }

    #[must_use]
    pub fn at_pointer(mut self, pointer: impl Into<String>) -> Self {
        self.items[0].pointer = Some(pointer.into());
        self
    }

    #[must_use]
    #[allow(clippy::needless_pass_by_value)] // numbers and texts alike
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.items[0].meta.push((key, value.to_string()));
        self
    }

    /// The body. Secrets never get in here: titles are ours and pointers and parameters name places, not values.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"errors\":[");
        for (i, item) in self.items.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(b"{\"id\":null,\"status\":\"");
            out.extend_from_slice(itoa::Buffer::new().format(self.status).as_bytes());
            out.extend_from_slice(b"\",\"code\":");
            write_string(out, item.code);
            out.extend_from_slice(b",\"title\":");
            write_string(out, &item.title);
            if item.pointer.is_some() || item.parameter.is_some() {
                out.extend_from_slice(b",\"source\":{");
                if let Some(pointer) = &item.pointer {
                    out.extend_from_slice(b"\"pointer\":");
                    write_string(out, pointer);
                }
                if let Some(parameter) = &item.parameter {
                    if item.pointer.is_some() {
                        out.push(b',');
                    }
                    out.extend_from_slice(b"\"parameter\":");
                    write_string(out, parameter);
                }
                out.push(b'}');
            }
            if !item.meta.is_empty() {
                out.extend_from_slice(b",\"meta\":{");
                for (j, (key, value)) in item.meta.iter().enumerate() {
                    if j > 0 {
                        out.push(b',');
                    }
                    write_string(out, key);
                    out.push(b':');
                    write_string(out, value);
                }
                out.push(b'}');
            }
            out.push(b'}');
        }
        out.extend_from_slice(b"]}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_json_whose_values_are_strings() {
        let mut out = Vec::new();
        ApiError::bad_body(
            "/inputs/0/url",
            "nomatch_pattern",
            "No input type has this \"url\"\u{1}",
        )
        .with("index", 0)
        .write(&mut out);
        let json: serde_json::Value = serde_json::from_slice(&out).expect("errors are JSON");
        let item = &json["errors"][0];
        assert_eq!(item["status"], "400");
        assert_eq!(item["code"], "nomatch_pattern");
        assert_eq!(item["source"]["pointer"], "/inputs/0/url");
        assert_eq!(item["meta"]["index"], "0");
        assert_eq!(item["title"], "No input type has this \"url\"\u{1}");
    }
}
