//! The pause of the layouter: how it is requested, what it holds, and how it is shown.
//!
//! It is a record of the store and no setting: no flag overrides it, and a restart keeps it. What
//! the layouter decided before the pause and has not written is refused by the state itself, so
//! that nothing moves once the pause is on disk.

use std::time::Duration;

use super::State;
use super::invalid::invalid;
use super::record::{
    ArchivedLayouterPause, ArchivedPauseScope, LayouterPause, PauseScope, StreamRecord,
};
use crate::duration;
use crate::error::{self, ApiError};
use crate::json::{Number, Object, Value};
use crate::schema;

/// Longest pause with an end.
pub const PAUSE_MAX: Duration = Duration::from_hours(30 * 24);

/// A change of what the layouter does, from the body of `PUT /layouter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayouterRequest {
    Pause(PauseRequest),
    Resume,
    /// Takes back the improving moves that are not written yet.
    DropImproving,
}

/// A wanted pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PauseRequest {
    pub what: PauseScope,
    /// Absent: until it is ended.
    pub end: Option<PauseEnd>,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseEnd {
    After(Duration),
    /// UTC ms.
    At(u64),
}

impl LayouterRequest {
    /// Reads the body of `PUT /layouter`, which has exactly one member.
    pub fn from_body(body: Value) -> Result<Self, ApiError> {
        let mut body = body;
        let schema = schema::layouter_change();
        schema.prune(&mut body);
        let resumes = body.get("pause").is_some_and(Value::is_null);
        remove_nulls(&mut body);
        if let Some(pause) = body.get_mut("pause") {
            remove_nulls(pause);
        }
        let checked = schema.check(&body);
        checked.map_err(|violations| invalid(violations, ""))?;
        match (body.get("pause"), body.get("drop")) {
            (Some(pause), None) => PauseRequest::from_value(pause).map(Self::Pause),
            (None, None) if resumes => Ok(Self::Resume),
            (None, Some(_)) if !resumes => Ok(Self::DropImproving),
            _ => Err(error::WRONG_FORMAT.about("", "must have either `pause` or `drop`")),
        }
    }
}

fn remove_nulls(value: &mut Value) {
    if let Value::Object(object) = value {
        object.retain(|_, value| !value.is_null());
    }
}

impl PauseRequest {
    fn from_value(pause: &Value) -> Result<Self, ApiError> {
        let text = |field: &str| pause.get(field).and_then(Value::as_str);
        Ok(Self {
            what: match text("what") {
                Some("all") => PauseScope::All,
                _ => PauseScope::Improving,
            },
            end: text("until").map(pause_end).transpose()?,
            reason: text("reason").unwrap_or_default().to_owned(),
        })
    }

    /// The record of a pause that begins at `stamp_ms`.
    pub fn record(self, by: &str, revision: u64, stamp_ms: u64) -> Result<LayouterPause, ApiError> {
        let length_ms = match self.end {
            None => 0,
            Some(PauseEnd::After(length)) => length.as_millis() as u64,
            Some(PauseEnd::At(until_ms)) => until_ms.saturating_sub(stamp_ms),
        };
        if self.end.is_some() && length_ms == 0 {
            return Err(out_of_range("must be in the future"));
        }
        if u128::from(length_ms) > PAUSE_MAX.as_millis() {
            let most = format!("must be at most {} away", duration::text(PAUSE_MAX));
            return Err(out_of_range(&most));
        }
        Ok(LayouterPause {
            revision,
            since: stamp_ms,
            until: self.end.map_or(0, |_| stamp_ms + length_ms),
            length_ms,
            by: by.to_owned(),
            reason: self.reason,
            what: self.what,
        })
    }
}

fn out_of_range(what: &str) -> ApiError {
    error::INPUT_OUT_OF_RANGE.about("/pause/until", what)
}

/// A length of time, or a time.
fn pause_end(text: &str) -> Result<PauseEnd, ApiError> {
    if let Some(length) = duration::parse(text) {
        return Ok(PauseEnd::After(length));
    }
    let at = humantime::parse_rfc3339(text).ok();
    let since = at.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let since = since.ok_or_else(|| {
        let allowed = duration::ALLOWED;
        let wanted = format!("must be {allowed}, or a time such as 2026-12-01T08:30:00Z");
        error::WRONG_FORMAT.about("/pause/until", &wanted)
    })?;
    Ok(PauseEnd::At(since.as_millis() as u64))
}

impl ArchivedPauseScope {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Improving => "improving",
            Self::All => "all",
        }
    }
}

impl ArchivedLayouterPause {
    /// Nothing moves at all.
    pub fn holds_all(&self) -> bool {
        matches!(self.what, ArchivedPauseScope::All)
    }

    /// The time of its end, UTC ms; `None` if it lasts until it is ended.
    pub fn until_ms(&self) -> Option<u64> {
        Some(self.until.to_native()).filter(|until_ms| *until_ms > 0)
    }

    /// How much of it is left, by the wall clock at a start of the server. A clock that is not
    /// trusted, or was set back, makes it no longer than it was.
    pub fn left_ms(&self, wall_ms: u64, is_doubted: bool) -> Option<u64> {
        let until_ms = self.until_ms()?;
        let length_ms = self.length_ms.to_native();
        Some(if is_doubted {
            length_ms
        } else {
            until_ms.saturating_sub(wall_ms).min(length_ms)
        })
    }

    /// The pause as the API shows it.
    pub fn to_value(&self) -> Value {
        let number = |number: u64| Value::Number(Number::Unsigned(number));
        let mut shown = Object::default();
        shown.insert("by", Value::from(self.by.as_str()));
        shown.insert("reason", Value::from(self.reason.as_str()));
        shown.insert("since", number(self.since.to_native()));
        shown.insert("until", self.until_ms().map_or(Value::Null, number));
        shown.insert("what", Value::from(self.what.as_str()));
        Value::Object(shown)
    }
}

impl State {
    /// The begin of a pause in which nothing moves, UTC ms.
    pub fn paused_since(&self) -> Option<u64> {
        let pause = self.pause().filter(|pause| pause.holds_all())?;
        Some(pause.since.to_native())
    }

    /// Whether the pause holds a decision of the layouter. `improves`: the layout could stay.
    pub fn holds_placement(&self, improves: bool) -> bool {
        self.pause()
            .is_some_and(|pause| improves || pause.holds_all())
    }

    /// Whether the pause holds the end of a handover: of one that began before it. Later ones are
    /// moves of an operator.
    pub fn holds_handover(&self, stream: &StreamRecord) -> bool {
        let moved_at = stream.ingest_history().first().map_or(0, |(at, ..)| *at);
        self.paused_since().is_some_and(|since| moved_at < since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use crate::state::record::PauseRecord;

    const NOW_MS: u64 = 1_795_000_000_000;

    fn request(body: &str) -> Result<LayouterRequest, ApiError> {
        LayouterRequest::from_body(json::parse(body.as_bytes()).expect("JSON"))
    }

    fn pause(body: &str) -> Result<PauseRecord, ApiError> {
        let LayouterRequest::Pause(pause) = request(body)? else {
            panic!("not a pause: {body}");
        };
        let record = pause.record("anna", 7, NOW_MS)?;
        Ok(PauseRecord::new(&record))
    }

    #[test]
    fn pause_is_read_and_shown() {
        for (body, shown) in [
            (
                r#"{"pause":{"until":"30m","what":"all","reason":"new switch"}}"#,
                concat!(
                    r#"{"by":"anna","reason":"new switch","since":1795000000000,"#,
                    r#""until":1795001800000,"what":"all"}"#
                ),
            ),
            (
                r#"{"pause":{"until":"2026-11-18T11:06:41.5Z"}}"#,
                concat!(
                    r#"{"by":"anna","reason":"","since":1795000000000,"#,
                    r#""until":1795000001500,"what":"improving"}"#
                ),
            ),
            (
                r#"{"pause":{"until":null,"more":1}}"#,
                concat!(
                    r#"{"by":"anna","reason":"","since":1795000000000,"#,
                    r#""until":null,"what":"improving"}"#
                ),
            ),
        ] {
            let pause = pause(body).expect(body);
            assert_eq!(pause.to_value().to_text(), shown, "{body}");
        }
        assert_eq!(request(r#"{"pause":null}"#), Ok(LayouterRequest::Resume));
        let dropped = request(r#"{"drop":"improving","pause":null}"#);
        assert!(dropped.is_err(), "{dropped:?}");
        let dropped = request(r#"{"drop":"improving"}"#);
        assert_eq!(dropped, Ok(LayouterRequest::DropImproving));
    }

    #[test]
    fn wrong_pauses_are_refused_with_their_place() {
        for (body, pointer) in [
            ("{}", ""),
            (r#"{"drop":null}"#, ""),
            (r#"{"drop":"all"}"#, "/drop"),
            (r#"{"pause":{},"drop":"improving"}"#, ""),
            (r#"{"pause":true}"#, "/pause"),
            (r#"{"pause":{"what":"none"}}"#, "/pause/what"),
            (r#"{"pause":{"until":"soon"}}"#, "/pause/until"),
            (r#"{"pause":{"until":"0s"}}"#, "/pause/until"),
            (r#"{"pause":{"until":"31d"}}"#, "/pause/until"),
            (
                r#"{"pause":{"until":"2020-01-01T00:00:00Z"}}"#,
                "/pause/until",
            ),
            (
                r#"{"pause":{"until":"2999-01-01T00:00:00Z"}}"#,
                "/pause/until",
            ),
            (r#"{"pause":{"until":5}}"#, "/pause/until"),
        ] {
            let error = pause(body).expect_err(body);
            assert_eq!(error.status, 400, "{body}");
            let found = error.items[0].pointer.as_deref();
            assert_eq!(found.unwrap_or_default(), pointer, "{body}: {error:?}");
        }
        let long = format!(r#"{{"pause":{{"reason":"{}"}}}}"#, "x".repeat(501));
        assert!(pause(&long).is_err());
    }

    #[test]
    fn what_is_left_of_a_pause_is_never_longer_than_it_was() {
        let half_hour = pause(r#"{"pause":{"until":"30m"}}"#).expect("a pause");
        let minutes = |count: u64| count * 60_000;
        for (wall_ms, is_doubted, left_ms) in [
            (NOW_MS, false, minutes(30)),
            (NOW_MS + minutes(20), false, minutes(10)),
            (NOW_MS + minutes(31), false, 0),
            (NOW_MS - minutes(5), false, minutes(30)),
            (0, false, minutes(30)),
            (NOW_MS + minutes(1_000_000), true, minutes(30)),
        ] {
            assert_eq!(
                half_hour.left_ms(wall_ms, is_doubted),
                Some(left_ms),
                "{wall_ms}"
            );
        }
        let endless = pause(r#"{"pause":{}}"#).expect("a pause");
        assert_eq!(endless.left_ms(u64::MAX, true), None);
    }
}
