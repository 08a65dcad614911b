//! JSON with large integers as strings, for clients whose numbers are doubles:
//! `Accept: application/json; ids=string`.
//!
//! Integers whose absolute value is above 2^53 - 1 are put in quotes; everything else keeps its
//! bytes. It is another form of the same body: its entity tag has a mark of its own, and `Vary`
//! names `Accept`. Whether a request may choose a form is decided by `core`.

use std::borrow::Cow;

use super::response::{Body, JSON, Response, VARY};

/// The media type of this form.
const MEDIA_TYPE: &str = "application/json; ids=string";
/// At the end of the entity tag of this form.
pub const TAG_MARK: &str = "-ids";
/// The largest integer that every smaller one of a double is distinguished from.
const EXACT_MAX: &[u8] = b"9007199254740991";

/// Whether a value of `Accept` names the form.
pub fn is_wanted(accept: &[u8]) -> bool {
    // What is usual is shorter.
    if accept.len() < b"application/json;ids=string".len() {
        return false;
    }
    accept.split(|byte| *byte == b',').any(|element| {
        let mut parts = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let is_json = parts
            .next()
            .is_some_and(|range| range.eq_ignore_ascii_case(b"application/json"));
        is_json && parts.any(|part| part.eq_ignore_ascii_case(b"ids=string"))
    })
}

/// Canonical JSON with large integers in quotes; `None` if it has none.
fn quoted(json: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    // What is copied so far, and the place that is looked at.
    let (mut copied, mut at) = (0, 0);
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => at = end_of_string(json, at),
            b'-' | b'0'..=b'9' => {
                let end = end_of_number(json, at);
                if is_large(&json[at..end]) {
                    out.extend_from_slice(&json[copied..at]);
                    out.push(b'"');
                    out.extend_from_slice(&json[at..end]);
                    out.push(b'"');
                    copied = end;
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    if copied == 0 {
        return None;
    }
    out.extend_from_slice(&json[copied..]);
    Some(out)
}

/// Behind the closing quote of the string that begins at `begin`.
fn end_of_string(json: &[u8], begin: usize) -> usize {
    let mut at = begin + 1;
    while let Some(offset) = memchr::memchr2(b'"', b'\\', &json[at.min(json.len())..]) {
        at += offset;
        if json[at] == b'"' {
            return at + 1;
        }
        // The escaped character is no end.
        at += 2;
    }
    json.len()
}

fn end_of_number(json: &[u8], begin: usize) -> usize {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let rest = &json[begin..];
    begin
        + rest
            .iter()
            .position(|byte| !is_part(byte))
            .unwrap_or(rest.len())
}

fn is_large(number: &[u8]) -> bool {
    let digits = number.strip_prefix(b"-").unwrap_or(number);
    digits.len() >= EXACT_MAX.len()
        && digits.iter().all(u8::is_ascii_digit)
        && (digits.len() > EXACT_MAX.len() || digits > EXACT_MAX)
}

impl Response {
    /// Whether it has this form.
    pub fn has_string_ids(&self) -> bool {
        self.content_type == MEDIA_TYPE
    }

    /// This response in the form with strings. One that has the form already stays as it is.
    #[must_use]
    pub fn with_string_ids(mut self) -> Self {
        let is_json = self.content_type == JSON && self.coding.is_none();
        if is_json {
            if let Some(body) = quoted(self.body.bytes()) {
                self.body = Body::Owned(body);
            }
            self.content_type = MEDIA_TYPE;
        } else if self.status != 304 {
            return self;
        }
        let mut varies = false;
        for (name, value) in &mut self.headers {
            if name.eq_ignore_ascii_case("ETag") {
                mark(value);
            } else if *name == VARY {
                varies = true;
                value.to_mut().push_str(", Accept");
            }
        }
        if varies {
            self
        } else {
            self.header(VARY, "Accept")
        }
    }
}

fn mark(tag: &mut Cow<'static, str>) {
    let marked = tag
        .strip_suffix('"')
        .map(|tag| format!("{tag}{TAG_MARK}\""));
    if let Some(marked) = marked {
        *tag = marked.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> String {
        let body = quoted(json.as_bytes()).unwrap_or_else(|| json.into());
        String::from_utf8(body).expect("it was text")
    }

    #[test]
    fn large_integers_are_quoted_and_nothing_else() {
        for (given, expected) in [
            ("9007199254740991", "9007199254740991"),
            ("9007199254740992", r#""9007199254740992""#),
            ("-9007199254740991", "-9007199254740991"),
            ("-9007199254740992", r#""-9007199254740992""#),
            ("18446744073709551615", r#""18446744073709551615""#),
            ("9999999999999999", r#""9999999999999999""#),
            ("1000000000000000", "1000000000000000"),
            ("9007199254740993.0", "9007199254740993.0"),
            ("1e20", "1e20"),
            ("12345678901234567890.5e-3", "12345678901234567890.5e-3"),
            (r#""9007199254740993""#, r#""9007199254740993""#),
            (r#"{"9007199254740993":1}"#, r#"{"9007199254740993":1}"#),
            (
                r#"{"a\"":9007199254740993,"\\":[9007199254740994,0,-1]}"#,
                r#"{"a\"":"9007199254740993","\\":["9007199254740994",0,-1]}"#,
            ),
            (r#""\\\"9007199254740993"#, r#""\\\"9007199254740993"#),
            ("", ""),
            ("\"\\", "\"\\"),
            ("-", "-"),
        ] {
            assert_eq!(text(given), expected);
        }
    }

    #[test]
    fn form_is_wanted_by_its_parameter_only() {
        for (accept, wanted) in [
            ("application/json; ids=string", true),
            ("text/html, Application/JSON;q=0.5;IDS=string", true),
            ("application/json", false),
            ("application/json; ids=number", false),
            ("text/plain; ids=string", false),
            ("*/*; ids=string", false),
            ("", false),
        ] {
            assert_eq!(is_wanted(accept.as_bytes()), wanted, "{accept}");
        }
    }

    #[test]
    fn form_has_its_own_tag_and_is_made_once() {
        let plain = Response::json(200, b"[9007199254740993]".to_vec()).header("ETag", "\"a-1\"");
        let once = plain.with_string_ids();
        assert_eq!(once.body.bytes(), br#"["9007199254740993"]"#);
        assert!(once.headers.contains(&("ETag", "\"a-1-ids\"".into())));
        assert!(once.headers.contains(&(VARY, "Accept".into())));
        assert_eq!(once.clone().with_string_ids(), once);
        let unchanged = Response::new(304)
            .header("ETag", "\"a-1\"")
            .with_string_ids();
        assert!(unchanged.headers.contains(&("ETag", "\"a-1-ids\"".into())));
        let text =
            Response::with_body(200, "text/plain", Body::Owned(b"9007199254740993".to_vec()));
        assert_eq!(text.clone().with_string_ids(), text);
    }
}
