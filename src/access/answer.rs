//! Responses of HTTP authorization backends, parsed into decisions about sessions.
//!
//! 200 allows a session, 301 and 302 redirect it, 400 to 499 deny it; any other status is no
//! decision: the backend has failed. A body that is not a JSON object is ignored. Known members of
//! the body are passed on to the streamer. Archive ranges that cannot be parsed make the response
//! no decision, because without them the whole archive would be open.

use crate::json::{self, Number, Object, Value};

/// How long a decision is valid by default, seconds.
pub const DURATION_SECONDS_DEFAULT: u32 = 180;
/// Longest validity of a decision, seconds; later the backends are called again.
const DURATION_SECONDS_MAX: u32 = 24 * 3600;
/// Largest response body that is read, bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Longest `Location` and `X-UserId` that are passed on, bytes.
const FIELD_BYTES_MAX: usize = 2048;
/// Largest limit of sessions per user; a larger one is no limit.
const SESSIONS_MAX: u32 = 10_000;

/// A decision about a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionDecision {
    pub is_allowed: bool,
    /// The URL to play instead.
    pub location: Option<Box<str>>,
    pub user_id: Option<Box<str>>,
    pub max_sessions: Option<u32>,
    pub duration_seconds: u32,
    /// A JSON object for the streamer.
    pub body: Box<[u8]>,
}

impl SessionDecision {
    /// A decision without the details that only a backend can provide.
    pub fn plain(is_allowed: bool) -> Self {
        Self {
            is_allowed,
            location: None,
            user_id: None,
            max_sessions: None,
            duration_seconds: DURATION_SECONDS_DEFAULT,
            body: Box::from(&b"{}"[..]),
        }
    }

    /// Roughly the bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        let text = |field: &Option<Box<str>>| field.as_ref().map_or(0, |text| text.len());
        size_of::<Self>() + self.body.len() + text(&self.location) + text(&self.user_id)
    }
}

/// Parses a response; `header` finds a field by its lower-case name. `None` if it decides nothing.
pub fn parse_response<'h>(
    status: u16,
    header: impl Fn(&str) -> Option<&'h str>,
    body: &[u8],
) -> Option<SessionDecision> {
    let mut decision = SessionDecision::plain(matches!(status, 200 | 301 | 302));
    match status {
        200 | 400..=499 => {}
        301 | 302 => decision.location = Some(field_text(header("location"))?),
        _ => return None,
    }
    let number = |name| header(name).and_then(|value| value.trim().parse::<u64>().ok());
    if let Some(seconds) = number("x-authduration") {
        decision.duration_seconds = u32::try_from(seconds)
            .unwrap_or(u32::MAX)
            .min(DURATION_SECONDS_MAX);
    }
    if !decision.is_allowed {
        return Some(decision);
    }
    decision.user_id = field_text(header("x-userid"));
    let unique = header("x-unique").is_some_and(|value| value.trim().eq_ignore_ascii_case("true"));
    decision.max_sessions = match number("x-max-sessions") {
        Some(count) => u32::try_from(count)
            .ok()
            .filter(|count| *count <= SESSIONS_MAX),
        None => unique.then_some(1),
    };
    if status == 200
        && let Ok(Value::Object(body)) = json::parse(body)
    {
        let mut passed = Object::new();
        if let Some(ranges) = body.get("allowed_dvr_ranges").filter(|v| !v.is_null()) {
            passed.insert("allowed_dvr_ranges", dvr_ranges(ranges)?);
        }
        if let Some(ads) = body.get("ad_inject").and_then(ads) {
            passed.insert("ad_inject", ads);
        }
        let mut text = Vec::new();
        passed.write(&mut text);
        decision.body = text.into();
    }
    Some(decision)
}

/// A header value that can be passed on.
fn field_text(value: Option<&str>) -> Option<Box<str>> {
    let value = value?.trim();
    let fits = !value.is_empty()
        && value.len() <= FIELD_BYTES_MAX
        && value.bytes().all(|byte| (b' '..0x7f).contains(&byte));
    fits.then(|| value.into())
}

/// Ranges, either end of which may be open; `None` if any of them is invalid.
fn dvr_ranges(value: &Value) -> Option<Value> {
    let ranges = value.as_array()?.iter().map(|range| {
        let range = range.as_object()?;
        let mut passed = Object::new();
        for field in ["opened_at", "closed_at"] {
            match range.get(field) {
                None | Some(Value::Null) => {}
                Some(Value::Number(Number::Unsigned(at)))
                    if (1_000_000_000..=10_000_000_000).contains(at) =>
                {
                    passed.insert(field, Value::from(*at));
                }
                Some(_) => return None,
            }
        }
        Some(Value::Object(passed))
    });
    ranges.collect::<Option<Vec<_>>>().map(Value::Array)
}

/// The valid members of the advertising settings.
fn ads(value: &Value) -> Option<Value> {
    let ads = value.as_object()?;
    let mut passed = Object::new();
    for (name, value) in ads.iter() {
        let is_texts = |value: &Value| {
            let items = value.as_array();
            items.is_some_and(|items| items.iter().all(|item| item.as_str().is_some()))
        };
        let is_known = match name {
            "v" | "midroll_interval" | "midroll_program_id" => value.as_i64().is_some(),
            "preroll" | "midroll" => is_texts(value),
            "midroll_insert_by" => matches!(value.as_str(), Some("interval" | "splicing")),
            _ => false,
        };
        if is_known {
            passed.insert(name, value.clone());
        }
    }
    (!passed.is_empty()).then_some(Value::Object(passed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(status: u16, headers: &[(&str, &'static str)], body: &str) -> Option<SessionDecision> {
        let find = |name: &str| {
            let found = headers.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| *value)
        };
        parse_response(status, find, body.as_bytes())
    }

    fn body(decision: &SessionDecision) -> &str {
        std::str::from_utf8(&decision.body).expect("JSON is text")
    }

    #[test]
    fn only_allow_redirect_and_deny_decide() {
        for status in [100, 201, 204, 304, 307, 399, 500, 502, 503] {
            assert_eq!(parse(status, &[("location", "/x")], "{}"), None, "{status}");
        }
        assert!(parse(200, &[], "").expect("allowed").is_allowed);
        for status in [400, 401, 403, 404, 429, 499] {
            assert!(!parse(status, &[], "").expect("denied").is_allowed);
        }
        for status in [301, 302] {
            let decision =
                parse(status, &[("location", " /other/index.m3u8 ")], "").expect("moved");
            assert!(decision.is_allowed);
            assert_eq!(decision.location.as_deref(), Some("/other/index.m3u8"));
            assert_eq!(parse(status, &[], ""), None, "no location");
            assert_eq!(parse(status, &[("location", "/a\u{e9}")], ""), None);
        }
    }

    #[test]
    fn header_fields_are_parsed_within_bounds() {
        let plain = parse(200, &[], "OK").expect("allowed");
        assert_eq!(plain, SessionDecision::plain(true));
        assert_eq!(plain.duration_seconds, 180);
        for (text, seconds) in [
            ("60", 60),
            (" 5 ", 5),
            ("0", 0),
            ("99999999999", DURATION_SECONDS_MAX),
            ("99999999999999999999999", 180),
            ("-1", 180),
            ("1.5", 180),
            ("", 180),
        ] {
            for status in [200, 403] {
                let decision = parse(status, &[("x-authduration", text)], "").expect("decided");
                assert_eq!(decision.duration_seconds, seconds, "{text:?}");
            }
        }
        let of = |headers: &[(&str, &'static str)]| {
            let decision = parse(200, headers, "").expect("allowed");
            (decision.user_id, decision.max_sessions)
        };
        let user = Some(Box::from("u 1"));
        assert_eq!(
            of(&[("x-userid", "u 1"), ("x-max-sessions", "3")]),
            (user.clone(), Some(3))
        );
        assert_eq!(
            of(&[("x-userid", "u 1"), ("x-unique", "True")]),
            (user.clone(), Some(1))
        );
        assert_eq!(
            of(&[
                ("x-userid", "u 1"),
                ("x-unique", "true"),
                ("x-max-sessions", "2")
            ]),
            (user.clone(), Some(2))
        );
        assert_eq!(
            of(&[("x-userid", "u 1"), ("x-unique", "false")]),
            (user, None)
        );
        assert_eq!(of(&[("x-max-sessions", "99999")]), (None, None));
        assert_eq!(of(&[("x-userid", "")]), (None, None));
    }

    #[test]
    fn valid_members_of_the_body_are_passed_on() {
        let decide = |text: &str| parse(200, &[], text);
        for (given, passed) in [
            ("", "{}"),
            ("<html>", "{}"),
            ("[1]", "{}"),
            (r#"{"unknown":1}"#, "{}"),
            (
                r#"{"allowed_dvr_ranges":[]}"#,
                r#"{"allowed_dvr_ranges":[]}"#,
            ),
            (r#"{"allowed_dvr_ranges":null}"#, "{}"),
            (
                r#"{"allowed_dvr_ranges":[{"opened_at":1710010000,"closed_at":1710020000,"x":1},{"opened_at":1710010000},{}]}"#,
                r#"{"allowed_dvr_ranges":[{"closed_at":1710020000,"opened_at":1710010000},{"opened_at":1710010000},{}]}"#,
            ),
            (
                r#"{"ad_inject":{"v":2,"preroll":["a.mp4"],"midroll":[1],"midroll_insert_by":"never","evil":{}}}"#,
                r#"{"ad_inject":{"preroll":["a.mp4"],"v":2}}"#,
            ),
            (r#"{"ad_inject":"x"}"#, "{}"),
        ] {
            assert_eq!(body(&decide(given).expect(given)), passed, "{given}");
        }
        for unclear in [
            r#"{"allowed_dvr_ranges":{}}"#,
            r#"{"allowed_dvr_ranges":[1]}"#,
            r#"{"allowed_dvr_ranges":[{"opened_at":"1710010000"}]}"#,
            r#"{"allowed_dvr_ranges":[{"closed_at":5}]}"#,
            r#"{"allowed_dvr_ranges":[{"closed_at":1710010000.5}]}"#,
        ] {
            assert_eq!(decide(unclear), None, "{unclear}");
        }
    }
}
