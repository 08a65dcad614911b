//! `/auth`: may this session play?
//!
//! Asked by streamers, about a stream that names its authorization backend in `on_play.url`:
//! `auth://NAME` is a saved one, `http://...` is a backend that is this one URL, `true` and nothing
//! let everybody in. The backend's lists decide first (`access::rules`), then what its HTTP
//! backends said about this session before and for how long (`access::sessions`), then those
//! backends, asked all at once: the first that allows wins; when none does, one that denies counts
//! more than silence. When all are silent, a session that is known goes on as it was, a new one is
//! let in if `allow_default` says so, any other is denied. A stream, a backend or a URL that is not
//! there denies: what is missing must not open what it protected.
//!
//! A verdict is for one session: stream, session id, address, token and protocol together. It falls
//! with the rules it was made under.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::call::{Call, Context, Outcome, Pending, Step};
use super::shared::ApiSettings;
use crate::access::answer::{self, SessionDecision};
use crate::access::rules::{ListMatch, Rules, Viewer};
use crate::access::sessions::{CachedSession, SessionKey, Sessions, UserKey};
use crate::core::message::Reply;
use crate::error::{self, ApiError, ErrorCode};
use crate::http::Response;
use crate::json::{self, Object, Value, scan};
use crate::outbound::{CallMethod, CallResult, CancelToken, OutboundCall, TargetUrl};
use crate::state::State;
use crate::state::entity::{Key, Kind};
use crate::state::record::EntityRecord;
use crate::subnet::parse_address;

/// Backends that a core keeps compiled.
const COMPILED_MAX: usize = 1024;
/// Longest value of a parameter, bytes.
const VALUE_BYTES_MAX: usize = 4096;

/// What of a value goes into a query as it is.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// How the value of a parameter looks.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Count,
    Flag,
    Address,
    Uuid,
    RequestType,
}

/// The parameters of the reference: name, whether it must be there, form. All of them are passed
/// on.
const PARAMETERS: [(&str, bool, Form); 16] = [
    ("name", true, Form::Text),
    ("proto", true, Form::Text),
    ("ip", true, Form::Address),
    ("request_type", true, Form::RequestType),
    ("request_number", true, Form::Count),
    ("session_id", true, Form::Uuid),
    ("stream_clients", true, Form::Count),
    ("total_clients", true, Form::Count),
    ("token", false, Form::Text),
    ("duration", false, Form::Count),
    ("bytes", false, Form::Count),
    ("qs", false, Form::Text),
    ("dvr", false, Form::Flag),
    ("user_agent", false, Form::Text),
    ("referer", false, Form::Text),
    ("host", false, Form::Text),
];

impl Form {
    /// Why a value has not this form.
    fn refuses(self, value: &str) -> Option<(ErrorCode, &'static str)> {
        let fits = match self {
            Self::Text => true,
            Self::Count => {
                !value.is_empty()
                    && value.bytes().all(|byte| byte.is_ascii_digit())
                    && value.parse::<u64>().is_ok()
            }
            Self::Flag => matches!(value, "" | "true" | "false" | "1" | "0"),
            Self::Address => parse_address(value).is_some(),
            Self::Uuid => is_uuid(value),
            Self::RequestType => matches!(value, "new_session" | "update_session"),
        };
        (!fits).then_some(match self {
            Self::Text => (error::NOT_STRING, "Must be a text"),
            Self::Count => (error::NOT_INTEGER, "Must be a whole number from 0"),
            Self::Flag => (error::NOT_BOOLEAN, "Must be true or false"),
            Self::Address => (error::WRONG_FORMAT, "Must be an IPv4 or IPv6 address"),
            Self::Uuid => (error::WRONG_FORMAT, "Must be a UUID"),
            Self::RequestType => (
                error::UNKNOWN_ENUM_OPTION,
                "Must be new_session or update_session",
            ),
        })
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// The parameters of a request, by their place in [`PARAMETERS`].
struct Asked<'q> {
    values: [Option<Cow<'q, str>>; PARAMETERS.len()],
}

impl<'q> Asked<'q> {
    fn parse(raw: &'q str) -> Result<Self, ApiError> {
        let mut asked = Self {
            values: std::array::from_fn(|_| None),
        };
        for pair in crate::query::pairs(raw) {
            let (name, value) = pair.map_err(|name| {
                error::WRONG_FORMAT
                    .titled("This is not percent-encoded UTF-8")
                    .at_parameter(name)
            })?;
            // What the reference does not know is neither a mistake nor passed on.
            if let Some(place) = PARAMETERS.iter().position(|(known, ..)| *known == name) {
                asked.values[place] = Some(value.unwrap_or_default());
            }
        }
        for ((name, is_required, form), value) in PARAMETERS.iter().zip(&asked.values) {
            match value {
                None if *is_required => {
                    let title = "This parameter must be given";
                    return Err(error::MISSING_REQUIRED.titled(title).at_parameter(*name));
                }
                Some(value) if value.len() > VALUE_BYTES_MAX => {
                    let title = "The value has more than 4096 bytes";
                    return Err(error::TOO_LONG.titled(title).at_parameter(*name));
                }
                Some(value) => {
                    if let Some((code, title)) = form.refuses(value) {
                        return Err(code.titled(title).at_parameter(*name));
                    }
                }
                None => {}
            }
        }
        Ok(asked)
    }

    /// Empty if it was not given.
    fn get(&self, name: &str) -> &str {
        let place = PARAMETERS.iter().position(|(known, ..)| *known == name);
        place
            .and_then(|place| self.values[place].as_deref())
            .unwrap_or_default()
    }

    /// The same question for an HTTP backend.
    fn to_query(&self) -> String {
        let mut out = String::new();
        for ((name, ..), value) in PARAMETERS.iter().zip(&self.values) {
            if let Some(value) = value {
                let glue = if out.is_empty() { "" } else { "&" };
                let value = utf8_percent_encode(value, KEPT);
                out.extend([glue, name, "="]);
                out.extend(value);
            }
        }
        out
    }
}

/// Rules of saved backends, compiled when they are first asked; a core's own.
#[derive(Default)]
pub struct Compiled {
    by_name: HashMap<Box<str>, (EntityRecord, Rc<Rules>)>,
}

impl Compiled {
    fn rules(&mut self, record: &EntityRecord) -> Rc<Rules> {
        let name: &str = &record.key;
        if let Some((of, rules)) = self.by_name.get(name)
            && Arc::ptr_eq(of.bytes(), record.bytes())
        {
            return rules.clone();
        }
        let config = match json::parse(record.config.as_bytes()) {
            Ok(Value::Object(config)) => config,
            _ => Object::new(),
        };
        // Checked when it was saved; rules that cannot be read admit no session.
        let rules = Rc::new(Rules::parse(&config, "").unwrap_or_default());
        if self.by_name.len() >= COMPILED_MAX {
            self.by_name.clear();
        }
        self.by_name
            .insert(name.into(), (record.clone(), rules.clone()));
        rules
    }
}

/// What a stream says about who may play it.
enum Policy {
    Open,
    Closed,
    Rules {
        /// Whose users these are.
        backend: Box<str>,
        rules: Rc<Rules>,
        /// Differs when anything differs that verdicts depend on.
        version: u64,
    },
}

fn policy(state: &State, on_play: Option<&str>, compiled: &mut Compiled) -> Policy {
    let url = on_play
        .and_then(|text| scan::member(text, "url"))
        .and_then(|text| json::parse(text.as_bytes()).ok());
    let url = match &url {
        None | Some(Value::Null) => return Policy::Open,
        Some(value) => value.as_str().unwrap_or_default(),
    };
    if let Some(name) = url.strip_prefix("auth://") {
        let record = Key::parse(Kind::AuthBackend, name)
            .ok()
            .and_then(|key| state.entities(Kind::AuthBackend).get(&key));
        return record.map_or(Policy::Closed, |record| Policy::Rules {
            backend: name.into(),
            rules: compiled.rules(record),
            version: xxh3_64_with_seed(name.as_bytes(), record.revision.to_native()),
        });
    }
    match url {
        "" | "true" => Policy::Open,
        _ => TargetUrl::parse(url).map_or(Policy::Closed, |target| Policy::Rules {
            backend: url.into(),
            rules: Rc::new(Rules::of_url(target)),
            version: xxh3_64_with_seed(url.as_bytes(), 0),
        }),
    }
}

/// A session about which HTTP backends have to be asked.
struct AuthQuestion {
    session: SessionKey,
    version: u64,
    backend: Box<str>,
    rules: Rc<Rules>,
    is_new: bool,
    /// What was decided before and has run out.
    before: Option<Arc<SessionDecision>>,
    /// For the backends.
    query: String,
}

pub fn request(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let asked = Asked::parse(call.request.query)?;
    let Some(stream) = call.state.stream(asked.get("name")) else {
        return Ok(reply_denied(error::SESSION_STREAM_NOT_FOUND.error()));
    };
    let on_play = scan::member(stream.config.as_str(), "on_play");
    let policy = policy(call.state, on_play, &mut call.local.compiled.borrow_mut());
    let (backend, rules, version) = match policy {
        Policy::Open => return Ok(Outcome::Reply(reply(&SessionDecision::plain(true), None))),
        Policy::Closed => {
            let title = "What decides about this stream is not there";
            return Ok(reply_denied(error::SESSION_BACKEND_NOT_FOUND.titled(title)));
        }
        Policy::Rules {
            backend,
            rules,
            version,
        } => (backend, rules, version),
    };
    let address = parse_address(asked.get("ip")).unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let viewer = Viewer {
        token: asked.get("token"),
        address,
        user_agent: asked.get("user_agent"),
    };
    let shared = call.shared;
    match rules.match_viewer(viewer, || shared.countries.of(address)) {
        ListMatch::Allow(_) => {
            return Ok(Outcome::Reply(reply(&SessionDecision::plain(true), None)));
        }
        ListMatch::Deny(_) => return Ok(reply_denied(session_denied())),
        ListMatch::None => {}
    }
    if rules.backends.is_empty() {
        let verdict = SessionDecision::plain(rules.allow_default);
        return Ok(Outcome::Reply(reply(&verdict, None)));
    }
    let session = SessionKey::new(&[
        asked.get("name"),
        asked.get("session_id"),
        &address.to_string(),
        asked.get("token"),
        asked.get("proto"),
    ]);
    let before = match shared.sessions.lookup(session, version, Instant::now()) {
        CachedSession::Valid(verdict, seconds) => {
            return Ok(Outcome::Reply(reply(&verdict, Some(seconds))));
        }
        CachedSession::Interrupted => return Ok(reply_denied(too_many_sessions())),
        CachedSession::Stale(verdict) => Some(verdict),
        CachedSession::Nothing => None,
    };
    let question = AuthQuestion {
        session,
        version,
        backend,
        rules,
        is_new: asked.get("request_type") == "new_session",
        before,
        query: asked.to_query(),
    };
    Ok(Outcome::Pending(Box::new(AuthBackends {
        pending: question.rules.backends.len(),
        question,
        denied: None,
        trace_id: call.trace_id(),
        cancel: CancelToken::default(),
    })))
}

/// The HTTP backends of a session being asked, all at once. Dropped, it cancels its calls.
struct AuthBackends {
    question: AuthQuestion,
    /// Backends that have not replied yet.
    pending: usize,
    denied: Option<SessionDecision>,
    trace_id: Box<str>,
    cancel: CancelToken,
}

impl Drop for AuthBackends {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Pending for AuthBackends {
    fn wait(&self, settings: &ApiSettings) -> Duration {
        // The calls end by themselves; this is for when the threads that make them do not.
        settings.auth_backend_timeout + Duration::from_secs(1)
    }

    fn start(&mut self, context: &Context<'_>) -> Step {
        let deadline = Instant::now() + context.shared.settings.auth_backend_timeout;
        for (part, target) in self.question.rules.backends.iter().enumerate() {
            let call = OutboundCall {
                method: CallMethod::Get,
                target: target.with_query(&self.question.query),
                headers: vec![("x-trace-id", self.trace_id.to_string())],
                body: Vec::new(),
                deadline,
                response_bytes_max: answer::BODY_BYTES_MAX,
            };
            context.call(part, call, &self.cancel);
        }
        Step::Wait
    }

    fn on_reply(&mut self, _: usize, reply: Reply, context: &Context<'_>) -> Step {
        let Reply::Call(result) = reply else {
            return Step::Wait;
        };
        match self.receive(result) {
            None => Step::Wait,
            Some(verdict) => Step::Done(self.conclude(verdict, &context.shared.sessions)),
        }
    }

    /// The replies so far decide.
    fn on_timeout(&mut self, context: &Context<'_>) -> Response {
        let verdict = self.denied.take();
        self.conclude(verdict, &context.shared.sessions)
    }
}

impl AuthBackends {
    /// Takes the result of one call: the verdict of all once it is certain, `Some(None)` if there
    /// is none.
    #[allow(clippy::option_option)] // not yet, none, or one
    fn receive(&mut self, result: CallResult) -> Option<Option<SessionDecision>> {
        self.pending = self.pending.saturating_sub(1);
        let verdict = result.ok().and_then(|answer| {
            answer::parse_response(answer.status, |name| answer.header(name), &answer.body)
        });
        match verdict {
            Some(verdict) if verdict.is_allowed => return Some(Some(verdict)),
            Some(verdict) => {
                self.denied.get_or_insert(verdict);
            }
            None => {}
        }
        (self.pending == 0).then(|| self.denied.take())
    }

    /// Remembers the verdict and renders it.
    fn conclude(&self, verdict: Option<SessionDecision>, sessions: &Sessions) -> Response {
        let question = &self.question;
        let verdict = match (verdict, &question.before) {
            (Some(verdict), _) => Arc::new(verdict),
            (None, Some(before)) => before.clone(),
            (None, None) if question.is_new && question.rules.allow_default => {
                Arc::new(SessionDecision::plain(true))
            }
            // Not remembered: a backend may reply to the next request.
            (None, None) => return Response::from(session_denied()),
        };
        let user = verdict.user_id.as_deref();
        let user = user.map(|user| UserKey::new(&question.backend, user));
        let stays = sessions.store(
            question.session,
            question.version,
            &verdict,
            user,
            Instant::now(),
        );
        if stays {
            reply(&verdict, None)
        } else {
            Response::from(too_many_sessions())
        }
    }
}

fn session_denied() -> ApiError {
    error::SESSION_DENIED.error()
}

fn too_many_sessions() -> ApiError {
    let title = "The user has opened newer sessions than this one, and may have no more";
    error::TOO_MANY_SESSIONS.titled(title)
}

fn reply_denied(error: ApiError) -> Outcome {
    Outcome::Reply(Response::from(error).header("Cache-Control", "no-store"))
}

/// Tells a verdict; `seconds` is how long it still holds, if that is not its whole time.
fn reply(verdict: &SessionDecision, seconds: Option<u32>) -> Response {
    let mut response = match &verdict.location {
        _ if !verdict.is_allowed => Response::from(session_denied()),
        Some(location) => Response::new(302).header("Location", location.to_string()),
        None => Response::json(200, verdict.body.to_vec()),
    };
    let seconds = seconds.unwrap_or(verdict.duration_seconds);
    response = response
        .header("Cache-Control", "no-store")
        .header("X-AuthDuration", seconds.to_string());
    if let Some(user) = &verdict.user_id {
        response = response.header("X-UserId", user.to_string());
    }
    if let Some(max) = verdict.max_sessions {
        response = response.header("X-Max-Sessions", max.to_string());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::{OutboundError, OutboundResponse};

    const GOOD: &str = "name=a%2Fb&proto=hls&ip=10.77.0.150&request_type=new_session&request_number=0&session_id=6217fd62-16da-4206-9da9-0173d7552a14&stream_clients=1&total_clients=2";

    #[test]
    fn parameters_are_checked_and_passed_on_in_one_form() {
        let raw = format!("{GOOD}&token=t+1%26&dvr&user_agent=%D0%B6&unknown=x");
        let asked = Asked::parse(&raw)
            .map_err(|error| error.items)
            .expect("good");
        assert_eq!(asked.get("name"), "a/b");
        assert_eq!(asked.get("token"), "t 1&");
        assert_eq!(asked.get("referer"), "");
        assert_eq!(
            asked.to_query(),
            GOOD.to_owned() + "&token=t%201%26&dvr=&user_agent=%D0%B6"
        );
    }

    #[test]
    fn every_parameter_that_is_missing_or_wrong_is_named() {
        let refused = |raw: &str| {
            let error = Asked::parse(raw).err().unwrap_or_else(|| panic!("{raw}"));
            assert_eq!(error.status, 400);
            (
                error.items[0].parameter.clone().expect("a name"),
                error.items[0].code,
            )
        };
        for (name, is_required, form) in PARAMETERS {
            let others = GOOD
                .split('&')
                .filter(|pair| !pair.starts_with(&format!("{name}=")));
            let others = others.collect::<Vec<_>>().join("&");
            if is_required {
                assert_eq!(refused(&others), (name.to_owned(), "missing_required"));
            }
            if !matches!(form, Form::Text) {
                for bad in ["x", "-1", "1.5", "10.0.0.256", "18446744073709551616"] {
                    let (found, code) = refused(&format!("{others}&{name}={bad}"));
                    assert_eq!(found, name, "{bad}");
                    assert_ne!(code, "missing_required");
                }
            }
            let long = "a".repeat(VALUE_BYTES_MAX + 1);
            assert_eq!(
                refused(&format!("{others}&{name}={long}")),
                (name.to_owned(), "too_long")
            );
            assert_eq!(refused(&format!("{others}&{name}=%zz")).0, name);
        }
    }

    fn asking(
        before: Option<SessionDecision>,
        is_new: bool,
        allow_default: bool,
        backends: usize,
    ) -> AuthBackends {
        let mut rules = Rules::of_url(TargetUrl::parse("http://h/").expect("a URL"));
        rules.backends = vec![rules.backends[0].clone(); backends];
        rules.allow_default = allow_default;
        AuthBackends {
            pending: rules.backends.len(),
            question: AuthQuestion {
                session: SessionKey::new(&["s"]),
                version: 1,
                backend: "b".into(),
                rules: Rc::new(rules),
                is_new,
                before: before.map(Arc::new),
                query: "name=a".into(),
            },
            denied: None,
            trace_id: "t".into(),
            cancel: CancelToken::default(),
        }
    }

    #[allow(clippy::unnecessary_wraps)] // an outcome as the pool gives it
    fn says(status: u16) -> CallResult {
        let found = OutboundResponse {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        };
        Ok(found)
    }

    const SILENT: CallResult = Err(OutboundError::TimedOut);

    /// What is decided, and after how many answers.
    fn decided(mut asking: AuthBackends, answers: &[CallResult]) -> (u16, usize) {
        for (received, answer) in (1..).zip(answers) {
            if let Some(verdict) = asking.receive(answer.clone()) {
                let cancel = asking.cancel.clone();
                let status = asking.conclude(verdict, &Sessions::new(1 << 20)).status;
                drop(asking);
                assert!(
                    cancel.is_cancelled(),
                    "the other backends are not waited for"
                );
                return (status, received);
            }
        }
        panic!("not decided")
    }

    #[test]
    fn the_first_who_allows_wins_and_silence_is_no_denial() {
        let cases: [(&[_], (u16, usize)); 6] = [
            (&[says(403), says(200), says(403)], (200, 2)),
            (&[says(200), says(403), says(403)], (200, 1)),
            (&[says(403), says(403), says(403)], (403, 3)),
            (&[SILENT, says(403), says(500)], (403, 3)),
            (&[SILENT, says(500), says(200)], (200, 3)),
            (&[SILENT, SILENT, says(404)], (403, 3)),
        ];
        for (answers, expected) in cases {
            assert_eq!(decided(asking(None, true, false, 3), answers), expected);
        }
        // Denied is not silence: the default does not come to it.
        assert_eq!(
            decided(asking(None, true, true, 2), &[says(403), SILENT]),
            (403, 2)
        );
    }

    #[test]
    fn when_all_are_silent_known_sessions_go_on_and_new_ones_follow_the_default() {
        for (before, is_new, allow_default, status) in [
            (None, true, true, 200),
            (None, true, false, 403),
            (None, false, true, 403),
            (None, false, false, 403),
            (Some(true), false, false, 200),
            (Some(false), false, true, 403),
            (Some(false), true, true, 403),
        ] {
            let asking = asking(before.map(SessionDecision::plain), is_new, allow_default, 1);
            assert_eq!(
                decided(asking, &[SILENT]).0,
                status,
                "{before:?} {is_new} {allow_default}"
            );
        }
    }

    #[test]
    fn replies_so_far_decide_at_timeout() {
        let sessions = Sessions::new(1 << 20);
        let at_timeout = |mut asking: AuthBackends| {
            let verdict = asking.denied.take();
            asking.conclude(verdict, &sessions).status
        };
        let mut denied = asking(None, true, true, 2);
        assert!(denied.receive(says(403)).is_none());
        assert_eq!(at_timeout(denied), 403);
        assert_eq!(at_timeout(asking(None, true, true, 2)), 200);
    }
}
