//! Errors: rendering of an [`ApiError`] as the JSON body that clients see.
//!
//! The form is `{"errors":[{"status","code","title","source":{"pointer"|"parameter"},"meta"}]}`
//! with `status` and every value of `meta` a string, because clients of the reference decode them
//! as such. Statuses and codes are constants of `crate::error`.

use crate::error::ApiError;
use crate::json::write_string;

/// Appends the body of an error. Titles are constant; pointers and parameters name places, not
/// values, so no secret of a request is repeated.
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
    use crate::error;

    #[test]
    fn error_is_json_whose_values_are_strings() {
        let mut out = Vec::new();
        let error = error::NOMATCH_PATTERN
            .titled("The \"url\"\u{1} must match the pattern x")
            .at_pointer("/inputs/0/url")
            .with("index", 0);
        write(&error, &mut out);
        let json: serde_json::Value = serde_json::from_slice(&out).expect("errors are JSON");
        let item = &json["errors"][0];
        assert_eq!(item["status"], "400");
        assert_eq!(item["code"], "nomatch_pattern");
        assert_eq!(item["source"]["pointer"], "/inputs/0/url");
        assert_eq!(item["meta"]["index"], "0");
        assert_eq!(item["title"], "The \"url\"\u{1} must match the pattern x");
    }
}
