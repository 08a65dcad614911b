//! Query parameters: one constant is checked, read and documented by itself.
//!
//! A handler reads `call.flag(&INCLUDE_INGEST_HISTORY)?`. The same constant stands in the row of
//! its operation: from there the parser of lists knows that its name is not a filter, and the API
//! document takes schema, default and description. A handler that reads a parameter which its row
//! does not name panics in debug builds, and so fails its test ([`check_listed`]).
//!
//! Of a parameter that is given several times the last one counts; lists are joined. Without `=`
//! its value is `true`.

use std::borrow::Cow;
use std::time::Duration;

use super::filter::{MOMENT_MS_MAX, MOMENT_MS_MIN, MOMENTS};
use super::pairs::pairs;
use super::{LIMIT_DEFAULT, LIMIT_MAX};
use crate::error::{self, ApiError, ErrorCode};

/// A query parameter of any type, as the row of an operation lists it.
pub trait Parameter: Sync {
    fn spec(&self) -> &ParameterSpec;

    /// Why a value is refused; parameters of the engine are checked by the engine.
    fn check(&self, value: Option<&str>) -> Result<(), ApiError>;
}

/// The description of a parameter in the API document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // four independent facts, set by name
pub struct ParameterSpec {
    pub name: &'static str,
    pub kind: ValueKind,
    /// One or two sentences of Markdown.
    pub description: &'static str,
    /// JSON text.
    pub example: Option<&'static str>,
    pub required: bool,
    /// Not in the reference; marked as such in the document.
    pub extension: bool,
    /// The query engine reads it by itself: parameters of every list, and filters with a
    /// description.
    pub of_engine: bool,
    /// Whether two requests with different values may have different answers. Parked polls share
    /// one answer only if all these values are equal.
    pub changes_answer: bool,
}

/// The values that a parameter or header takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    Text,
    Flag {
        default: Option<bool>,
    },
    Choice(&'static [&'static str]),
    Integer {
        minimum: u64,
        maximum: Option<u64>,
        default: Option<u64>,
    },
    /// Milliseconds since 1970.
    Moment,
    /// Values joined by commas.
    List,
    /// Any further query parameters: the filters of a collection.
    Filters,
}

impl ParameterSpec {
    pub const fn new(name: &'static str, kind: ValueKind, description: &'static str) -> Self {
        Self {
            name,
            kind,
            description,
            example: None,
            required: false,
            extension: false,
            of_engine: false,
            changes_answer: true,
        }
    }
}

/// The builders that all typed parameters share.
macro_rules! parameter {
    ($type:ident) => {
        #[allow(dead_code)] // not every type is used with every builder
        impl $type {
            /// An example for the document, as JSON text.
            #[must_use]
            pub const fn example(mut self, example: &'static str) -> Self {
                self.spec.example = Some(example);
                self
            }

            /// Refuses a request without it; the value read is never `None` then.
            #[must_use]
            pub const fn required(mut self) -> Self {
                self.spec.required = true;
                self
            }

            /// Marks it as not in the reference.
            #[must_use]
            pub const fn extension(mut self) -> Self {
                self.spec.extension = true;
                self
            }

            /// Marks it as without effect on the answer.
            #[must_use]
            pub const fn without_effect(mut self) -> Self {
                self.spec.changes_answer = false;
                self
            }

            pub const fn name(&self) -> &'static str {
                self.spec.name
            }
        }

        impl Parameter for $type {
            fn spec(&self) -> &ParameterSpec {
                &self.spec
            }

            fn check(&self, value: Option<&str>) -> Result<(), ApiError> {
                self.read(value).map(drop)
            }
        }
    };
}

/// `true` or `false`.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    spec: ParameterSpec,
    default: bool,
    is_lenient: bool,
}

/// One of a few words.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    spec: ParameterSpec,
    values: &'static [&'static str],
}

/// A duration in whole seconds.
#[derive(Debug, Clone, Copy)]
pub struct Seconds {
    spec: ParameterSpec,
}

/// A whole number that is not negative.
#[derive(Debug, Clone, Copy)]
pub struct Integer {
    spec: ParameterSpec,
    minimum: u64,
    maximum: u64,
}

/// Any text, or a list of texts that the handler splits.
#[derive(Debug, Clone, Copy)]
pub struct Text {
    spec: ParameterSpec,
    format: Option<Format>,
}

/// Whether a text has a format, and the words of the error if it has not.
type Format = (fn(&str) -> bool, &'static str);

/// A parameter that the query engine reads: `sort`, `limit`, a filter. It is listed for the
/// document only.
#[derive(Debug, Clone, Copy)]
pub struct EngineParameter {
    spec: ParameterSpec,
}

parameter!(Flag);
parameter!(Choice);
parameter!(Seconds);
parameter!(Integer);
parameter!(Text);
parameter!(EngineParameter);

impl Flag {
    pub const fn new(name: &'static str, default: bool, description: &'static str) -> Self {
        let kind = ValueKind::Flag {
            default: Some(default),
        };
        Self {
            spec: ParameterSpec::new(name, kind, description),
            default,
            is_lenient: false,
        }
    }

    /// Accepts `1`, `0` and no value too.
    #[must_use]
    pub const fn lenient(mut self) -> Self {
        self.is_lenient = true;
        self
    }

    pub fn read(&self, value: Option<&str>) -> Result<bool, ApiError> {
        match present(&self.spec, value)? {
            None => Ok(self.default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some("" | "1") if self.is_lenient => Ok(true),
            Some("0") if self.is_lenient => Ok(false),
            Some(_) => Err(refuse(
                &self.spec,
                error::NOT_BOOLEAN,
                "must be true or false",
            )),
        }
    }
}

impl Choice {
    pub const fn new(
        name: &'static str,
        values: &'static [&'static str],
        description: &'static str,
    ) -> Self {
        Self {
            spec: ParameterSpec::new(name, ValueKind::Choice(values), description),
            values,
        }
    }

    pub fn read(&self, value: Option<&str>) -> Result<Option<&'static str>, ApiError> {
        let Some(value) = present(&self.spec, value)? else {
            return Ok(None);
        };
        let known = self.values.iter().find(|known| **known == value);
        known.map(|known| Some(*known)).ok_or_else(|| {
            let allowed = format!("must be one of: {}", self.values.join(", "));
            refuse(&self.spec, error::UNKNOWN_ENUM_OPTION, &allowed)
        })
    }
}

impl Seconds {
    pub const fn new(name: &'static str, description: &'static str) -> Self {
        let kind = ValueKind::Integer {
            minimum: 0,
            maximum: None,
            default: None,
        };
        Self {
            spec: ParameterSpec::new(name, kind, description),
        }
    }

    /// `None` also for 0.
    pub fn read(&self, value: Option<&str>) -> Result<Option<Duration>, ApiError> {
        let Some(value) = present(&self.spec, value)? else {
            return Ok(None);
        };
        let seconds = whole_number(value).ok_or_else(|| {
            refuse(
                &self.spec,
                error::NOT_INTEGER,
                "must be a whole number of seconds",
            )
        })?;
        Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
    }
}

impl Integer {
    pub const fn new(name: &'static str, description: &'static str) -> Self {
        let kind = ValueKind::Integer {
            minimum: 0,
            maximum: None,
            default: None,
        };
        Self {
            spec: ParameterSpec::new(name, kind, description),
            minimum: 0,
            maximum: i64::MAX as u64,
        }
    }

    /// Within these bounds, both included.
    #[must_use]
    pub const fn between(mut self, minimum: u64, maximum: u64) -> Self {
        self.spec.kind = ValueKind::Integer {
            minimum,
            maximum: Some(maximum),
            default: None,
        };
        self.minimum = minimum;
        self.maximum = maximum;
        self
    }

    /// A time in milliseconds since 1970, within bounds that exclude one in seconds.
    pub const fn moment(name: &'static str, description: &'static str) -> Self {
        Self {
            spec: ParameterSpec::new(name, ValueKind::Moment, description),
            minimum: MOMENT_MS_MIN,
            maximum: MOMENT_MS_MAX,
        }
    }

    pub fn read(&self, value: Option<&str>) -> Result<Option<u64>, ApiError> {
        let Some(value) = present(&self.spec, value)? else {
            return Ok(None);
        };
        let number = whole_number(value)
            .ok_or_else(|| refuse(&self.spec, error::NOT_INTEGER, "must be a whole number"))?;
        let is_moment_kind = matches!(self.spec.kind, ValueKind::Moment);
        if (self.minimum..=self.maximum).contains(&number) || is_moment_kind && number == 0 {
            return Ok(Some(number));
        }
        let allowed = if is_moment_kind {
            format!("must be {MOMENTS}")
        } else {
            format!("must be between {} and {}", self.minimum, self.maximum)
        };
        Err(refuse(&self.spec, error::INPUT_OUT_OF_RANGE, &allowed)
            .with("minimum", self.minimum)
            .with("maximum", self.maximum))
    }
}

impl Text {
    pub const fn new(name: &'static str, description: &'static str) -> Self {
        Self {
            spec: ParameterSpec::new(name, ValueKind::Text, description),
            format: None,
        }
    }

    /// A list of texts joined by commas.
    pub const fn list(name: &'static str, description: &'static str) -> Self {
        Self {
            spec: ParameterSpec::new(name, ValueKind::List, description),
            format: None,
        }
    }

    /// Refuses texts that `accepts` does not accept; `allowed` describes what it accepts: `must be
    /// a UUID`.
    #[must_use]
    pub const fn format(mut self, accepts: fn(&str) -> bool, allowed: &'static str) -> Self {
        self.format = Some((accepts, allowed));
        self
    }

    pub fn read<'v>(&self, value: Option<&'v str>) -> Result<Option<&'v str>, ApiError> {
        let value = present(&self.spec, value)?;
        match (value, self.format) {
            (Some(text), Some((accepts, allowed))) if !accepts(text) => {
                Err(refuse(&self.spec, error::WRONG_FORMAT, allowed))
            }
            _ => Ok(value),
        }
    }
}

impl EngineParameter {
    pub const fn new(name: &'static str, kind: ValueKind, description: &'static str) -> Self {
        let mut spec = ParameterSpec::new(name, kind, description);
        spec.of_engine = true;
        Self { spec }
    }

    #[allow(clippy::unnecessary_wraps, clippy::unused_self)] // like the `read` of the others
    const fn read(&self, _: Option<&str>) -> Result<(), ApiError> {
        Ok(())
    }
}

/// Panics in debug builds if a parameter is not among those that the row of the operation names.
/// Otherwise the document would not have it, and a list would take it for a filter.
pub fn check_listed(listed: &[&dyn Parameter], spec: &ParameterSpec) {
    debug_assert!(
        listed.iter().any(|parameter| parameter.spec() == spec),
        "the row of the operation does not name the parameter `{}`",
        spec.name
    );
}

/// The parameters of one request. An implementation calls [`check_listed`].
pub trait ParameterValues {
    /// The last value of the parameter.
    fn value(&self, spec: &ParameterSpec) -> Option<Cow<'_, str>>;

    /// Whether the request has the parameter.
    fn has(&self, parameter: &dyn Parameter) -> bool {
        self.value(parameter.spec()).is_some()
    }

    fn flag(&self, flag: &Flag) -> Result<bool, ApiError> {
        flag.read(self.value(&flag.spec).as_deref())
    }

    fn choice(&self, choice: &Choice) -> Result<Option<&'static str>, ApiError> {
        choice.read(self.value(&choice.spec).as_deref())
    }

    fn seconds(&self, seconds: &Seconds) -> Result<Option<Duration>, ApiError> {
        seconds.read(self.value(&seconds.spec).as_deref())
    }

    fn integer(&self, integer: &Integer) -> Result<Option<u64>, ApiError> {
        integer.read(self.value(&integer.spec).as_deref())
    }

    fn text(&self, text: &Text) -> Result<Option<Cow<'_, str>>, ApiError> {
        let value = self.value(&text.spec);
        text.read(value.as_deref())?;
        Ok(value)
    }
}

/// The last value of a parameter in a query string, or all values of a list. Pairs that are not
/// percent-encoded UTF-8 are ignored.
pub fn value_in<'q>(raw: &'q str, spec: &ParameterSpec) -> Option<Cow<'q, str>> {
    pairs(raw)
        .filter_map(Result::ok)
        .filter(|(given, _)| given == spec.name)
        .map(|(_, value)| value.unwrap_or(Cow::Borrowed("true")))
        .reduce(|before, value| match spec.kind {
            ValueKind::List => Cow::Owned(format!("{before},{value}")),
            _ => value,
        })
}

/// The value, unless it is missing though required.
fn present<'v>(spec: &ParameterSpec, value: Option<&'v str>) -> Result<Option<&'v str>, ApiError> {
    if value.is_some() || !spec.required {
        return Ok(value);
    }
    let allowed = match spec.kind {
        ValueKind::Choice(values) => format!("is required: {}", values.join(" or ")),
        _ => "is required".to_owned(),
    };
    Err(refuse(spec, error::MISSING_REQUIRED, &allowed))
}

/// Digits alone: the standard library also reads `+1`.
fn whole_number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// An error whose sentence names the parameter and what is allowed.
fn refuse(spec: &ParameterSpec, code: ErrorCode, allowed: &str) -> ApiError {
    code.about_parameter(spec.name, allowed)
}

// ---- parameters of every list ------------------------------------------------------------------

pub const SELECT: EngineParameter = EngineParameter::new(
    "select",
    ValueKind::List,
    "Fields to return, joined by commas; nested ones with dots. The key of the item is always \
     returned. A selected field an item does not have is `null`.",
)
.example(r#"["name","inputs.url","dvr.expiration"]"#);

pub const SORT: EngineParameter = EngineParameter::new(
    "sort",
    ValueKind::List,
    "Fields to sort by, joined by commas; `-` before a field sorts it downwards. The key of the \
     collection decides among equals.",
)
.example(r#"["-updated_at"]"#);

pub const LIMIT: EngineParameter = EngineParameter::new(
    "limit",
    ValueKind::Integer {
        minimum: 1,
        maximum: Some(LIMIT_MAX as u64),
        default: Some(LIMIT_DEFAULT as u64),
    },
    "Largest number of items on the page. A page also ends with the item that reaches a size (4 MiB, \
     setting `list_page_bytes`); `next` leads to the rest.",
)
.example("100");

pub const CURSOR: EngineParameter = EngineParameter::new(
    "cursor",
    ValueKind::Text,
    "`next` or `prev` of an earlier response to the same query. Opaque; filters and `sort` must be \
     repeated with it.",
)
.example(r#""bmFtZV9ndD1jYW0rMQ==""#);

pub const FILTERS: EngineParameter = EngineParameter::new(
    "filters",
    ValueKind::Filters,
    "Any further parameters, each a filter on the field it names, with an optional suffix for the \
     comparison: `layout.ingest=a,b`, `stats.bitrate_gt=1000`, `layout.ingest_is=null`, \
     `inputs.url_like=10.0.`, `disabled`.",
)
.example(r#"{"layout.ingest":"streamer1.example.com"}"#);

/// Seconds a request may be parked while no document passes the filters.
pub const POLL_TIMEOUT: Seconds = Seconds::new(
    "poll_timeout",
    "Seconds to wait for an item that passes the filters. The response is sent as soon as one \
     does, after a change or, if the query uses `stats`, after a report of a streamer; or with an \
     empty page at the end. Waits longer than the server allows are shortened.",
)
.example("30")
.without_effect();

/// The parameters that every list reads by itself, in the order of the document.
pub const LIST: &[&dyn Parameter] = &[&SELECT, &SORT, &LIMIT, &CURSOR, &FILTERS];
/// Those of a computed list, which has no field to filter by.
pub const PAGE: &[&dyn Parameter] = &[&SELECT, &SORT, &LIMIT, &CURSOR];

#[cfg(test)]
mod tests {
    use super::*;

    /// A query string whose operation names all constants below.
    struct QueryString<'q>(&'q str);

    const NAMED: &[&dyn Parameter] = &[
        &FLAG,
        &LENIENT,
        &MODE,
        &MODE_REQUIRED,
        &WAIT,
        &SINCE,
        &BEFORE,
        &FEW,
        &NAME,
        &UPPER,
    ];

    impl ParameterValues for QueryString<'_> {
        fn value(&self, spec: &ParameterSpec) -> Option<Cow<'_, str>> {
            check_listed(NAMED, spec);
            value_in(self.0, spec)
        }
    }

    const FLAG: Flag = Flag::new("with_history", true, "`false` leaves the history out.");
    const MODE: Choice = Choice::new("mode", &["play", "publish"], "What the port is for.");
    const WAIT: Seconds = Seconds::new("wait", "Seconds to wait.");
    const SINCE: Integer = Integer::new("since", "Revision to start from.");
    const BEFORE: Integer = Integer::moment("before", "Upper bound of the time.");
    const FEW: Integer = Integer::new("few", "How many.").between(1, 9);
    const NAME: Text = Text::new("name", "Name of the stream.").required();
    const UPPER: Text = Text::new("upper", "Upper case.").format(is_upper, "must be in upper case");
    const LENIENT: Flag = Flag::new("lenient", false, "Whether it is so.").lenient();
    const MODE_REQUIRED: Choice = MODE.required();

    fn is_upper(text: &str) -> bool {
        text.bytes().all(|byte| byte.is_ascii_uppercase())
    }

    fn refused<T: std::fmt::Debug>(result: Result<T, ApiError>) -> (String, &'static str, String) {
        let error = result.expect_err("the value is not allowed");
        let item = &error.items[0];
        assert_eq!(error.status, 400);
        let name = item.parameter.clone().expect("errors name the parameter");
        (name, item.code, item.title.to_string())
    }

    #[test]
    fn values_are_read_by_type_and_defaults_fill_in() {
        assert!(matches!(QueryString("").flag(&FLAG), Ok(true)));
        assert!(matches!(
            QueryString("with_history=false").flag(&FLAG),
            Ok(false)
        ));
        assert!(matches!(
            QueryString("with_history=x&with_history").flag(&FLAG),
            Ok(true)
        ));
        assert_eq!(
            QueryString("mode=publish").choice(&MODE).expect("ok"),
            Some("publish")
        );
        assert_eq!(QueryString("").choice(&MODE).expect("ok"), None);
        let five = Some(Duration::from_secs(5));
        assert_eq!(QueryString("wait=%35").seconds(&WAIT).expect("ok"), five);
        assert_eq!(QueryString("wait=0").seconds(&WAIT).expect("ok"), None);
        assert_eq!(QueryString("since=7").integer(&SINCE).expect("ok"), Some(7));
        assert_eq!(
            QueryString("before=1637094994000")
                .integer(&BEFORE)
                .expect("ok"),
            Some(1_637_094_994_000)
        );
        for (raw, expected) in [
            ("lenient=", true),
            ("lenient=1", true),
            ("lenient=0", false),
        ] {
            assert_eq!(QueryString(raw).flag(&LENIENT).expect("ok"), expected);
        }
        assert!(QueryString("upper=AB").text(&UPPER).is_ok());
        let query = QueryString("name=a%2Fb");
        let name = query.text(&NAME).expect("ok");
        assert_eq!(name.as_deref(), Some("a/b"));
    }

    #[test]
    fn bad_values_name_the_parameter_and_what_is_allowed() {
        for (result, name, code, title) in [
            (
                refused(QueryString("with_history=1").flag(&FLAG)),
                "with_history",
                "not_boolean",
                "Parameter `with_history` must be true or false",
            ),
            (
                refused(QueryString("mode=x").choice(&MODE)),
                "mode",
                "unknown_enum_option",
                "Parameter `mode` must be one of: play, publish",
            ),
            (
                refused(QueryString("").choice(&MODE_REQUIRED)),
                "mode",
                "missing_required",
                "Parameter `mode` is required: play or publish",
            ),
            (
                refused(QueryString("wait").seconds(&WAIT)),
                "wait",
                "not_integer",
                "Parameter `wait` must be a whole number of seconds",
            ),
            (
                refused(QueryString("since=-1").integer(&SINCE)),
                "since",
                "not_integer",
                "Parameter `since` must be a whole number",
            ),
            (
                refused(QueryString("since=%2B1").integer(&SINCE)),
                "since",
                "not_integer",
                "Parameter `since` must be a whole number",
            ),
            (
                refused(QueryString("upper=Ab").text(&UPPER)),
                "upper",
                "wrong_format",
                "Parameter `upper` must be in upper case",
            ),
            (
                refused(QueryString("before=999").integer(&BEFORE)),
                "before",
                "input_out_of_range",
                "Parameter `before` must be milliseconds since 1970: 0, or 1000000000000 to \
                 10000000000000",
            ),
            (
                refused(QueryString("few=10").integer(&FEW)),
                "few",
                "input_out_of_range",
                "Parameter `few` must be between 1 and 9",
            ),
            (
                refused(QueryString("other=1").text(&NAME)),
                "name",
                "missing_required",
                "Parameter `name` is required",
            ),
        ] {
            assert_eq!(result, (name.to_owned(), code, title.to_owned()));
        }
    }

    #[test]
    fn specs_describe_what_the_constants_read() {
        let default = Some(true);
        assert_eq!(FLAG.spec().kind, ValueKind::Flag { default });
        assert!(NAME.spec().required && !NAME.spec().of_engine);
        assert!(LIST.iter().all(|parameter| parameter.spec().of_engine));
        assert!(!POLL_TIMEOUT.spec().changes_answer);
    }

    #[test]
    #[should_panic(expected = "does not name the parameter `mode`")]
    fn reading_an_unlisted_parameter_panics() {
        const OTHER: Choice = Choice::new("mode", &["play"], "Another constant of this name.");
        let _refused = QueryString("mode=play").choice(&OTHER);
    }
}
