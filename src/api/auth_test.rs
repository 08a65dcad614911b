//! `POST /auth_backends/{name}/test`: the decision of a backend about an assumed viewer.
//!
//! The rules are those of `/auth`, in the same order, and HTTP backends are called with the same
//! parameters. Nothing is kept: no decision is cached, no session counts, and none is read, so the
//! answer is about a new session. Of the replies of HTTP backends only the decision and the status
//! are answered: their bodies may hold what is not for the caller.

use std::net::IpAddr;
use std::time::Duration;

use super::call::{Call, Context, Outcome, Pending, Step};
use super::session_auth::{NEW_SESSION, backends_wait, call_backends, query_text};
use super::shared::ApiSettings;
use crate::access::answer;
use crate::access::rules::{ListMatch, Viewer};
use crate::core::message::Reply;
use crate::error::{self, ApiError};
use crate::http::Response;
use crate::json::{Object, Value};
use crate::outbound::{CallResult, CancelToken, TargetUrl};
use crate::schema;
use crate::state::apply::checked;
use crate::state::entity::Kind;
use crate::subnet::parse_address;

/// The session of every test, by which HTTP backends can recognize tests.
const TEST_SESSION: &str = "00000000-0000-0000-0000-000000000000";

pub fn test(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let key = call.key(Kind::AuthBackend)?;
    let record = call.state.entities(Kind::AuthBackend).get(&key);
    let record = record.ok_or_else(|| error::AUTH_BACKEND_NOT_FOUND.error())?;
    let assumed = AssumedViewer::from_body(call.json()?)?;
    let rules = call.local.compiled.borrow_mut().rules(record);
    let country = call.shared.access.countries.of(assumed.address);
    let mut answer = TestAnswer {
        country: country.map(|code| String::from_utf8_lossy(&code).into_owned()),
        allow_default: rules.allow_default,
        replies: Vec::new(),
    };
    let matched = rules.match_viewer(assumed.viewer(), || country);
    if let Some(list) = matched.list() {
        let is_allowed = matches!(matched, ListMatch::Allow(_));
        return Ok(Outcome::Reply(answer.response(is_allowed, list)));
    }
    answer.replies = vec![BackendReply::None; rules.backends.len()];
    if rules.backends.is_empty() {
        return Ok(Outcome::Reply(answer.decided()));
    }
    Ok(Outcome::Pending(Box::new(TestedBackends {
        targets: rules.backends.clone(),
        query: assumed.query(),
        pending: rules.backends.len(),
        answer,
        trace_fields: call.trace_fields(),
        cancel: CancelToken::default(),
    })))
}

/// The viewer of the body.
struct AssumedViewer {
    address: IpAddr,
    token: String,
    user_agent: String,
    stream: String,
    proto: String,
}

impl AssumedViewer {
    fn from_body(body: Value) -> Result<Self, ApiError> {
        let body = checked(schema::auth_test(), body)?;
        let text = |field: &str| body.get(field).and_then(Value::as_str);
        let address = text("ip").ok_or_else(|| error::MISSING_REQUIRED.at("/ip"))?;
        let address = parse_address(address)
            .ok_or_else(|| error::WRONG_FORMAT.about("/ip", "must be an IPv4 or IPv6 address"))?;
        let text = |field| text(field).unwrap_or_default().to_owned();
        Ok(Self {
            address,
            token: text("token"),
            user_agent: text("user_agent"),
            stream: text("stream"),
            proto: match text("proto") {
                proto if proto.is_empty() => "hls".to_owned(),
                proto => proto,
            },
        })
    }

    fn viewer(&self) -> Viewer<'_> {
        Viewer {
            token: &self.token,
            address: self.address,
            user_agent: &self.user_agent,
        }
    }

    /// The query string that is sent to HTTP backends: that of the first request about a session.
    fn query(&self) -> String {
        let address = self.address.to_string();
        let always = [
            ("name", self.stream.as_str()),
            ("proto", &self.proto),
            ("ip", &address),
            ("request_type", NEW_SESSION),
            ("request_number", "0"),
            ("session_id", TEST_SESSION),
            ("stream_clients", "0"),
            ("total_clients", "0"),
        ];
        let given = [
            ("token", self.token.as_str()),
            ("user_agent", &self.user_agent),
        ];
        let given = given.into_iter().filter(|(_, value)| !value.is_empty());
        query_text(always.into_iter().chain(given))
    }
}

/// What an HTTP backend replied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BackendReply {
    /// Nothing in time.
    None,
    /// A status, and the decision if it is one.
    Status(u16, Option<bool>),
}

impl BackendReply {
    fn of(result: CallResult) -> Self {
        let Ok(reply) = result else {
            return Self::None;
        };
        let decision = answer::parse_response(reply.status, |name| reply.header(name), &reply.body);
        Self::Status(reply.status, decision.map(|decision| decision.is_allowed))
    }

    fn value(self) -> Value {
        let (reply, status) = match self {
            Self::None => ("none", None),
            Self::Status(status, Some(true)) => ("allowed", Some(status)),
            Self::Status(status, Some(false)) => ("denied", Some(status)),
            Self::Status(status, None) => ("failed", Some(status)),
        };
        let mut object = Object::default();
        object.insert("reply", Value::from(reply));
        if let Some(status) = status {
            object.insert("status", Value::from(u64::from(status)));
        }
        Value::Object(object)
    }
}

/// What is known of the answer.
struct TestAnswer {
    country: Option<String>,
    allow_default: bool,
    /// By the number of the backend.
    replies: Vec<BackendReply>,
}

impl TestAnswer {
    /// The answer if no list matched: one backend that allows is enough.
    fn decided(&self) -> Response {
        let is = |wanted| {
            let mut replies = self.replies.iter();
            replies.any(|reply| matches!(reply, BackendReply::Status(_, Some(is)) if *is == wanted))
        };
        if is(true) {
            self.response(true, "backends")
        } else if is(false) {
            self.response(false, "backends")
        } else {
            self.response(self.allow_default, "allow_default")
        }
    }

    fn response(&self, is_allowed: bool, by: &'static str) -> Response {
        let mut object = Object::default();
        if !self.replies.is_empty() {
            let replies = self.replies.iter().map(|reply| reply.value());
            object.insert("backends", Value::Array(replies.collect()));
        }
        object.insert("by", Value::from(by));
        if let Some(country) = &self.country {
            object.insert("country", Value::from(country.as_str()));
        }
        let decision = if is_allowed { "allowed" } else { "denied" };
        object.insert("decision", Value::from(decision));
        let text = Value::Object(object).to_text();
        Response::json(200, text.into_bytes()).header("Cache-Control", "no-store")
    }
}

/// A test that waits for all HTTP backends. Dropping it cancels its calls.
struct TestedBackends {
    targets: Vec<TargetUrl>,
    query: String,
    /// Backends that have not replied yet.
    pending: usize,
    answer: TestAnswer,
    trace_fields: Vec<(&'static str, String)>,
    cancel: CancelToken,
}

impl Drop for TestedBackends {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Pending for TestedBackends {
    fn wait(&self, settings: &ApiSettings) -> Duration {
        backends_wait(settings)
    }

    fn start(&mut self, context: &Context<'_>) -> Step {
        let (query, trace_fields) = (&self.query, &self.trace_fields);
        call_backends(context, &self.targets, query, trace_fields, &self.cancel);
        Step::Wait
    }

    fn on_reply(&mut self, part: usize, reply: Reply, _: &Context<'_>) -> Step {
        let Reply::Call(result) = reply else {
            return Step::Wait;
        };
        if let Some(known) = self.answer.replies.get_mut(part) {
            *known = BackendReply::of(result);
        }
        self.pending = self.pending.saturating_sub(1);
        if self.pending > 0 {
            return Step::Wait;
        }
        Step::Done(self.answer.decided())
    }

    fn on_timeout(&mut self, _: &Context<'_>) -> Response {
        self.answer.decided()
    }
}
