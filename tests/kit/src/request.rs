//! Requests as bytes.

use std::io::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything but the unreserved characters of RFC 3986; `/` is encoded.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Percent-encodes one path segment or one value of a query.
pub fn encode_segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// Appends one request. `fields` are further header lines, each with its CRLF; a body is JSON and
/// brings its fields.
pub fn write(
    out: &mut Vec<u8>,
    method: &str,
    target: &str,
    host: &str,
    fields: &str,
    body: Option<&[u8]>,
) {
    let head = format_args!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}");
    out.write_fmt(head).expect("a vector takes everything");
    if let Some(body) = body {
        let length = body.len();
        let lines = format_args!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
        out.write_fmt(lines).expect("a vector takes everything");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_brings_its_fields() {
        let mut out = Vec::new();
        write(&mut out, "PUT", "/a", "h", "A: 1\r\n", Some(b"{}"));
        write(&mut out, "GET", "/b", "h", "", None);
        let expected = "PUT /a HTTP/1.1\r\nHost: h\r\nA: 1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}\
             GET /b HTTP/1.1\r\nHost: h\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn segments_are_percent_encoded() {
        assert_eq!(encode_segment("a/b c~\u{e9}"), "a%2Fb%20c~%C3%A9");
    }
}
