//! `/auth`: authorization of a viewer's session, for streamers.
//!
//! `on_play.url` of the stream names the authorization backend: `auth://NAME` is a saved one,
//! `http://...` is a backend with this URL only, `true` or no URL allows all sessions. The decision
//! is made in this order:
//!
//! 1. The lists of the backend (`access::rules`).
//! 2. The cached decision of its HTTP backends about this session (`access::sessions`).
//! 3. A query to all HTTP backends at once. The first that allows decides; if none allows, a denial
//!    decides.
//! 4. If none replies: the expired decision about this session; `allow_default` for a new session;
//!    denial for others.
//!
//! If the stream, the backend or the URL is missing, the session is denied (fail closed).
//!
//! A streamer may send the request below its own path, with its cluster key: then it is answered
//! about the streams that the streamer is sent only, others do not exist for it. A request is no
//! sign of life of the streamer: it follows from viewers.
//!
//! A session is identified by stream, session id, address, token and protocol together. Its
//! decision is invalid once the rules have changed.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::call::{Call, Context, Outcome, Pending, Step};
use super::config_external::{is_sent, known_node};
use super::shared::ApiSettings;
use crate::access::answer::{self, SessionDecision};
use crate::access::compiled::CompiledRules;
use crate::access::rules::{ListMatch, Rules, Viewer};
use crate::access::sessions::{CachedSession, SessionKey, Sessions, UserKey};
use crate::core::message::Reply;
use crate::error::{self, ApiError};
use crate::http::Response;
use crate::json::{self, Value, scan};
use crate::outbound::{CallResult, CancelToken, OutboundCall, TargetUrl};
use crate::query::params::{Choice, Flag, Integer, Parameter, Text, check_listed};
use crate::state::State;
use crate::state::entity::{Key, Kind};
use crate::subnet::parse_address;

/// Longest value of a parameter, bytes.
const VALUE_BYTES_MAX: usize = 4096;

/// Characters that are not escaped in the query to a backend (unreserved, RFC 3986).
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Parameters of `GET /auth`, all of the reference. All are forwarded, in this order.
pub const PARAMETERS: &[&dyn Parameter] = &[
    &NAME,
    &PROTO,
    &IP,
    &REQUEST_TYPE,
    &REQUEST_NUMBER,
    &SESSION_ID,
    &STREAM_CLIENTS,
    &TOTAL_CLIENTS,
    &TOKEN,
    &DURATION,
    &BYTES,
    &QS,
    &DVR,
    &USER_AGENT,
    &REFERER,
    &HOST,
];

const NAME: Text = Text::new("name", "Name of the stream.")
    .example(r#""harbour/cam1""#)
    .required();
const PROTO: Text = Text::new("proto", "Protocol of the session.")
    .example(r#""hls""#)
    .required();
const IP: Text = Text::new("ip", "Address of the viewer.")
    .format(is_address, "must be an IPv4 or IPv6 address")
    .example(r#""192.0.2.31""#)
    .required();
pub(super) const NEW_SESSION: &str = "new_session";
const REQUEST_TYPE: Choice = Choice::new(
    "request_type",
    &[NEW_SESSION, "update_session"],
    "`new_session` for the first request about a session, `update_session` for the following \
     ones.",
)
.example(r#""new_session""#)
.required();
const REQUEST_NUMBER: Integer = Integer::new(
    "request_number",
    "Number of earlier requests about this session: 0 at first.",
)
.example("0")
.required();
const SESSION_ID: Text = Text::new(
    "session_id",
    "Identifier of the session, a UUID. The same in all requests about it.",
)
.format(is_uuid, "must be a UUID")
.example(r#""4f1c6bd2-2f0a-4f5b-9d39-0d6a1f6f6a10""#)
.required();
const STREAM_CLIENTS: Integer =
    Integer::new("stream_clients", "Viewers of the stream on this streamer.")
        .example("12")
        .required();
const TOTAL_CLIENTS: Integer =
    Integer::new("total_clients", "Viewers of all streams on this streamer.")
        .example("340")
        .required();
const TOKEN: Text = Text::new("token", "Token in the viewer's request.").example(r#""let-me-in""#);
const DURATION: Integer =
    Integer::new("duration", "Seconds the session has lasted.").example("180");
const BYTES: Integer = Integer::new("bytes", "Bytes the session has received.").example("1048576");
const QS: Text =
    Text::new("qs", "Query string of the viewer's request.").example(r#""token=let-me-in""#);
const DVR: Flag = Flag::new("dvr", false, "Whether the session plays from the archive.")
    .lenient()
    .example("false");
const USER_AGENT: Text = Text::new("user_agent", "Text of the viewer's `User-Agent` header.")
    .example(r#""VLC/3.0.20 LibVLC/3.0.20""#);
const REFERER: Text = Text::new("referer", "Value of the viewer's `Referer` header.")
    .example(r#""https://tv.example.com/""#);
const HOST: Text =
    Text::new("host", "Host name in the viewer's request.").example(r#""streamer1.example.com""#);

fn is_address(text: &str) -> bool {
    parse_address(text).is_some()
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// The values of the parameters that the row of the operation names: [`PARAMETERS`].
struct AuthParameters<'q> {
    parameters: &'static [&'static dyn Parameter],
    values: Vec<Option<Cow<'q, str>>>,
}

impl<'q> AuthParameters<'q> {
    fn parse(
        raw: &'q str,
        parameters: &'static [&'static dyn Parameter],
    ) -> Result<Self, ApiError> {
        let mut values = vec![None; parameters.len()];
        for pair in crate::query::pairs(raw) {
            let (name, value) = pair.map_err(|name| {
                error::WRONG_FORMAT.about_parameter(&name, "is not percent-encoded UTF-8")
            })?;
            // Other parameters are ignored and not forwarded.
            if let Some(index) = index_of(parameters, &name) {
                // A backend receives a missing value as an empty one.
                values[index] = Some(value.unwrap_or_default());
            }
        }
        for (parameter, value) in parameters.iter().zip(&values) {
            let value: Option<&str> = value.as_deref();
            if value.is_some_and(|value| value.len() > VALUE_BYTES_MAX) {
                let allowed = format!("must have at most {VALUE_BYTES_MAX} bytes");
                return Err(error::TOO_LONG.about_parameter(parameter.spec().name, allowed));
            }
            parameter.check(value)?;
        }
        Ok(Self { parameters, values })
    }

    /// The value of a parameter; empty if it is absent.
    fn get(&self, parameter: &dyn Parameter) -> &str {
        check_listed(self.parameters, parameter.spec());
        let index = index_of(self.parameters, parameter.spec().name);
        let value = index.and_then(|index| self.values[index].as_deref());
        value.unwrap_or_default()
    }

    /// The query string that is sent to HTTP backends.
    fn to_query(&self) -> String {
        let pairs = self.parameters.iter().zip(&self.values);
        query_text(pairs.filter_map(|(parameter, value)| {
            let value: &str = value.as_deref()?;
            Some((parameter.spec().name, value))
        }))
    }
}

/// A query string to an HTTP backend.
pub(super) fn query_text<'v>(pairs: impl Iterator<Item = (&'static str, &'v str)>) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        let glue = if out.is_empty() { "" } else { "&" };
        out.extend([glue, name, "="]);
        out.extend(utf8_percent_encode(value, KEPT));
    }
    out
}

fn index_of(parameters: &[&dyn Parameter], name: &str) -> Option<usize> {
    let mut names = parameters.iter().map(|parameter| parameter.spec().name);
    names.position(|known| known == name)
}

/// How the sessions of a stream are authorized.
enum Policy {
    Open,
    Closed,
    Rules {
        /// The namespace of user ids.
        backend: Box<str>,
        rules: Arc<Rules>,
        /// Changes with the rules; decisions of another version are not reused.
        version: u64,
    },
}

fn policy(state: &State, on_play: Option<&str>, compiled: &mut CompiledRules) -> Policy {
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
            rules: Arc::new(Rules::of_url(target)),
            version: xxh3_64_with_seed(url.as_bytes(), 0),
        }),
    }
}

/// A session that HTTP backends decide about.
struct AuthQuestion {
    session: SessionKey,
    version: u64,
    backend: Box<str>,
    rules: Arc<Rules>,
    is_new: bool,
    /// The expired decision.
    before: Option<Arc<SessionDecision>>,
    /// Query string of the calls.
    query: String,
}

pub fn request(call: &Call<'_>) -> Result<Outcome, ApiError> {
    authorize(call, |_| true)
}

/// `GET /streamers/{hostname}/auth`.
pub fn request_of_streamer(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let hostname = call.hostname()?;
    let node = known_node(call.state, &hostname)?;
    authorize(call, |name| is_sent(call.state, node, &hostname, name))
}

/// Authorizes a session of a stream that the caller may know.
fn authorize(call: &Call<'_>, is_known: impl Fn(&str) -> bool) -> Result<Outcome, ApiError> {
    let parameters = AuthParameters::parse(call.request.query, call.operation.parameters)?;
    let stream = call.state.stream(parameters.get(&NAME));
    let Some(stream) = stream.filter(|stream| is_known(&stream.name)) else {
        return Ok(reply_denied(error::SESSION_STREAM_NOT_FOUND.error()));
    };
    let on_play = scan::member(stream.config.as_str(), "on_play");
    let policy = policy(call.state, on_play, &mut call.local.compiled.borrow_mut());
    let (backend, rules, version) = match policy {
        Policy::Open => return Ok(Outcome::Reply(reply(&SessionDecision::plain(true), None))),
        Policy::Closed => {
            return Ok(reply_denied(error::SESSION_BACKEND_NOT_FOUND.error()));
        }
        Policy::Rules {
            backend,
            rules,
            version,
        } => (backend, rules, version),
    };
    let address = parse_address(parameters.get(&IP)).unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let viewer = Viewer {
        token: parameters.get(&TOKEN),
        address,
        user_agent: parameters.get(&USER_AGENT),
    };
    let access = &call.shared.access;
    match rules.match_viewer(viewer, || access.countries.of(address)) {
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
        parameters.get(&NAME),
        parameters.get(&SESSION_ID),
        &address.to_string(),
        parameters.get(&TOKEN),
        parameters.get(&PROTO),
    ]);
    let before = match access.sessions.lookup(session, version, Instant::now()) {
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
        is_new: parameters.get(&REQUEST_TYPE) == NEW_SESSION,
        before,
        query: parameters.to_query(),
    };
    Ok(Outcome::Pending(Box::new(AuthBackends {
        pending: question.rules.backends.len(),
        question,
        denied: None,
        trace_fields: call.trace_fields(),
        cancel: CancelToken::default(),
    })))
}

/// Calls all HTTP backends at once. The part of a reply is the number of its backend.
pub(super) fn call_backends(
    context: &Context<'_>,
    targets: &[TargetUrl],
    query: &str,
    trace_fields: &[(&'static str, String)],
    cancel: &CancelToken,
) {
    let deadline = Instant::now() + context.shared.settings.api.auth_backend_timeout;
    for (part, target) in targets.iter().enumerate() {
        let call = OutboundCall {
            target: target.with_query(query),
            headers: trace_fields.to_vec(),
            deadline,
            response_bytes_max: answer::BODY_BYTES_MAX,
        };
        context.call(part, call, cancel);
    }
}

/// How long the replies of HTTP backends are waited for: their calls have a deadline of their own,
/// and this covers stalled threads.
pub(super) fn backends_wait(settings: &ApiSettings) -> Duration {
    settings.auth_backend_timeout + Duration::from_secs(1)
}

/// A request that waits for HTTP backends. Dropping it cancels its calls.
struct AuthBackends {
    question: AuthQuestion,
    /// Backends that have not replied yet.
    pending: usize,
    denied: Option<SessionDecision>,
    trace_fields: Vec<(&'static str, String)>,
    cancel: CancelToken,
}

impl Drop for AuthBackends {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Pending for AuthBackends {
    fn wait(&self, settings: &ApiSettings) -> Duration {
        backends_wait(settings)
    }

    fn start(&mut self, context: &Context<'_>) -> Step {
        let (targets, query) = (&self.question.rules.backends, &self.question.query);
        call_backends(context, targets, query, &self.trace_fields, &self.cancel);
        Step::Wait
    }

    fn on_reply(&mut self, _: usize, reply: Reply, context: &Context<'_>) -> Step {
        let Reply::Call(result) = reply else {
            return Step::Wait;
        };
        match self.receive(result) {
            None => Step::Wait,
            Some(verdict) => Step::Done(self.conclude(verdict, &context.shared.access.sessions)),
        }
    }

    /// Decides by the replies received so far.
    fn on_timeout(&mut self, context: &Context<'_>) -> Response {
        let verdict = self.denied.take();
        self.conclude(verdict, &context.shared.access.sessions)
    }
}

impl AuthBackends {
    /// Handles the result of one call. `None`: not decided yet; `Some(None)`: no backend decided.
    #[allow(clippy::option_option)] // three cases
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

    /// Caches the decision and renders it.
    fn conclude(&self, verdict: Option<SessionDecision>, sessions: &Sessions) -> Response {
        let question = &self.question;
        let verdict = match (verdict, &question.before) {
            (Some(verdict), _) => Arc::new(verdict),
            (None, Some(before)) => before.clone(),
            (None, None) if question.is_new && question.rules.allow_default => {
                Arc::new(SessionDecision::plain(true))
            }
            // Not cached: a backend may reply to the next request.
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
    error::TOO_MANY_SESSIONS.error()
}

fn reply_denied(error: ApiError) -> Outcome {
    Outcome::Reply(Response::from(error).header("Cache-Control", "no-store"))
}

/// The response for a decision. `seconds` is its remaining time, by default its whole duration.
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
    use crate::outbound::OutboundError;
    use crate::outbound::client::OutboundResponse;
    use crate::query::params::ValueKind;

    const GOOD: &str = "name=a%2Fb&proto=hls&ip=10.77.0.150&request_type=new_session\
        &request_number=0&session_id=6217fd62-16da-4206-9da9-0173d7552a14&stream_clients=1\
        &total_clients=2";

    #[test]
    fn parameters_are_checked_and_forwarded_normalized() {
        let raw = format!("{GOOD}&token=t+1%26&dvr&user_agent=%D0%B6&unknown=x");
        let parameters = AuthParameters::parse(&raw, PARAMETERS)
            .map_err(|error| error.items)
            .expect("valid");
        assert_eq!(parameters.get(&NAME), "a/b");
        assert_eq!(parameters.get(&TOKEN), "t 1&");
        assert_eq!(parameters.get(&REFERER), "");
        assert_eq!(
            parameters.to_query(),
            GOOD.to_owned() + "&token=t%201%26&dvr=&user_agent=%D0%B6"
        );
    }

    #[test]
    fn errors_name_the_missing_or_invalid_parameter() {
        let refused = |raw: &str| {
            let refused = AuthParameters::parse(raw, PARAMETERS).err();
            let error = refused.unwrap_or_else(|| panic!("{raw}"));
            assert_eq!(error.status, 400);
            (
                error.items[0].parameter.clone().expect("a name"),
                error.items[0].code,
            )
        };
        for spec in PARAMETERS.iter().map(|parameter| parameter.spec()) {
            let name = spec.name;
            let others = GOOD
                .split('&')
                .filter(|pair| !pair.starts_with(&format!("{name}=")));
            let others = others.collect::<Vec<_>>().join("&");
            if spec.required {
                assert_eq!(refused(&others), (name.to_owned(), "missing_required"));
            }
            if spec.kind != ValueKind::Text || ["ip", "session_id"].contains(&name) {
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

    fn pending(
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
                rules: Arc::new(rules),
                is_new,
                before: before.map(Arc::new),
                query: "name=a".into(),
            },
            denied: None,
            trace_fields: Vec::new(),
            cancel: CancelToken::default(),
        }
    }

    #[allow(clippy::unnecessary_wraps)] // the type of the pool's results
    fn status(status: u16) -> CallResult {
        Ok(OutboundResponse {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        })
    }

    const SILENT: CallResult = Err(OutboundError::TimedOut);

    /// The status of the response, and the number of replies after which it is sent.
    fn decided(mut request: AuthBackends, replies: &[CallResult]) -> (u16, usize) {
        for (received, reply) in (1..).zip(replies) {
            if let Some(verdict) = request.receive(reply.clone()) {
                let cancel = request.cancel.clone();
                let status = request.conclude(verdict, &Sessions::new(1 << 20)).status;
                drop(request);
                assert!(cancel.is_cancelled(), "the other calls are cancelled");
                return (status, received);
            }
        }
        panic!("not decided")
    }

    #[test]
    fn first_backend_that_allows_decides() {
        let cases: [(&[_], (u16, usize)); 6] = [
            (&[status(403), status(200), status(403)], (200, 2)),
            (&[status(200), status(403), status(403)], (200, 1)),
            (&[status(403), status(403), status(403)], (403, 3)),
            (&[SILENT, status(403), status(500)], (403, 3)),
            (&[SILENT, status(500), status(200)], (200, 3)),
            (&[SILENT, SILENT, status(404)], (403, 3)),
        ];
        for (replies, expected) in cases {
            assert_eq!(decided(pending(None, true, false, 3), replies), expected);
        }
        // `allow_default` does not override a denial.
        assert_eq!(
            decided(pending(None, true, true, 2), &[status(403), SILENT]),
            (403, 2)
        );
    }

    #[test]
    fn without_replies_the_last_decision_or_the_default_is_used() {
        for (before, is_new, allow_default, expected) in [
            (None, true, true, 200),
            (None, true, false, 403),
            (None, false, true, 403),
            (None, false, false, 403),
            (Some(true), false, false, 200),
            (Some(false), false, true, 403),
            (Some(false), true, true, 403),
        ] {
            let request = pending(before.map(SessionDecision::plain), is_new, allow_default, 1);
            assert_eq!(
                decided(request, &[SILENT]).0,
                expected,
                "{before:?} {is_new} {allow_default}"
            );
        }
    }

    #[test]
    fn replies_so_far_decide_at_timeout() {
        let sessions = Sessions::new(1 << 20);
        let at_timeout = |mut request: AuthBackends| {
            let verdict = request.denied.take();
            request.conclude(verdict, &sessions).status
        };
        let mut denied = pending(None, true, true, 2);
        assert!(denied.receive(status(403)).is_none());
        assert_eq!(at_timeout(denied), 403);
        assert_eq!(at_timeout(pending(None, true, true, 2)), 200);
    }
}
