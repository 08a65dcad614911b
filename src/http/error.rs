//! Errors as clients see them: one status, one or more items, always in the same JSON form.
//!
//! The form is `{"errors":[{"status","code","title","source":{"pointer"|"parameter"},"meta"}]}` with `status`
//! and every value of `meta` a string, because clients of the reference decode them as such.

use super::parse::Refusal;
use crate::error::{self, ApiError, ErrorCode};
use crate::json::write_string;

/// The error for a request that is refused for its form, before its meaning is looked at.
pub fn refused(refusal: Refusal) -> ApiError {
    refusal_code(refusal).error()
}

fn refusal_code(refusal: Refusal) -> ErrorCode {
    match refusal {
        Refusal::RequestLine => error::BAD_REQUEST_LINE,
        Refusal::Version => error::HTTP_VERSION,
        Refusal::MethodUnknown => error::METHOD_UNKNOWN,
        Refusal::MethodRefused => error::METHOD_NOT_ALLOWED,
        Refusal::Target => error::BAD_TARGET,
        Refusal::TargetLong => error::TARGET_TOO_LONG,
        Refusal::HeadLong => error::HEAD_TOO_LARGE,
        Refusal::FieldsMany => error::TOO_MANY_FIELDS,
        Refusal::Field => error::BAD_FIELD,
        Refusal::LineEnd => error::BAD_LINE_END,
        Refusal::Host => error::BAD_HOST,
        Refusal::ContentLength => error::BAD_CONTENT_LENGTH,
        Refusal::TransferEncoding => error::BAD_TRANSFER_ENCODING,
        Refusal::TransferCoding => error::TRANSFER_CODING_UNKNOWN,
        Refusal::LengthAndChunked => error::AMBIGUOUS_LENGTH,
        Refusal::AuthorizationTwice => error::BAD_AUTHORIZATION,
        Refusal::Expectation => error::EXPECTATION_UNKNOWN,
        Refusal::ContentCoding => error::CONTENT_CODING_UNKNOWN,
        Refusal::ChunkSize => error::BAD_CHUNK_SIZE,
        Refusal::ChunkExtension => error::BAD_CHUNK_EXTENSION,
        Refusal::ChunkEnd => error::BAD_CHUNK_END,
        Refusal::Trailer => error::BAD_TRAILER,
        Refusal::BodyLong => error::BODY_TOO_LARGE,
    }
}

/// Appends the body of an error. Titles are ours; pointers and parameters name places, not values, so no
/// secret of a request is repeated.
pub fn write(error: &ApiError, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"errors\":[");
    for (i, item) in error.items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"id\":null,\"status\":\"");
        out.extend_from_slice(itoa::Buffer::new().format(error.status).as_bytes());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_json_whose_values_are_strings() {
        let mut out = Vec::new();
        let error = error::NOMATCH_PATTERN
            .titled("No input type has this \"url\"\u{1}")
            .at_pointer("/inputs/0/url")
            .with("index", 0);
        write(&error, &mut out);
        let json: serde_json::Value = serde_json::from_slice(&out).expect("errors are JSON");
        let item = &json["errors"][0];
        assert_eq!(item["status"], "400");
        assert_eq!(item["code"], "nomatch_pattern");
        assert_eq!(item["source"]["pointer"], "/inputs/0/url");
        assert_eq!(item["meta"]["index"], "0");
        assert_eq!(item["title"], "No input type has this \"url\"\u{1}");
    }
}
