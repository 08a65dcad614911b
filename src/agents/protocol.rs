//! The control protocol of agents, `weir-agent/1`, as a state machine without I/O.
//!
//! The vendor's control protocol is not public; this one is open and small. The handshake is the
//! documented one.
//!
//! # Connecting
//!
//! The agent sends `POST /endpoint/connect` (also served below either prefix of the API) with
//! `X-Peeklio-Id: ID`. The response is one of:
//!
//! * 403: the id is missing or unknown, the agent has no key, or the proof is wrong.
//! * 401 with `X-Nonce`, `X-Salt` and `X-Agentauth`: `Authorization` or `X-Nonce` is missing, or
//!   the nonce is unknown, older than 60 s, or used.
//! * 200: the proof is right, and either the agent was deleted (`X-Force-Reset: true`), or it did
//!   not request an upgrade (`X-Streampoint-Url`, if it has one).
//! * 101: the proof is right, and the request has `Connection: Upgrade` and
//!   `Upgrade: weir-agent/1` (`X-Streampoint-Url`, if the agent has one).
//!
//! With `H(x)` the SHA-512 of a text in lower-case hex, the agent proves that it knows its key with
//! `Authorization: Peeklio H(nonce ":" H(salt ":" key))` and `X-Nonce: nonce`. The server proves
//! the same before: `X-Agentauth` is `H(H(salt ":" key) ":" nonce)`. An agent that sends its own
//! `X-Nonce` with the first request gets `H(H(salt ":" key) ":" nonce ":" own)`, which cannot have
//! been recorded earlier. A nonce is valid for one connection; using it spends all nonces that the
//! agent was given before. `X-Force-Reset` makes the agent forget its key and this server.
//!
//! # Lines
//!
//! After 101 both sides send JSON objects, one per line, ended by LF (CR LF is accepted), at most
//! 64 KiB each. Every object has a `command`. A command that expects an answer has an `id`; the
//! answer repeats it as `reply_to`. Unknown members are ignored, so that either side can evolve.
//!
//! From the server:
//!
//! * `hello`, the first line, with `protocol`, `server_version`, `ping_interval_ms`,
//!   `ping_timeout_ms` and `now_ms`: the agent answers `hello`.
//! * `streampoint_connect` with `id`, `url` and `hostname`: the agent connects to the streamer,
//!   retries until it gets another command, and answers `streampoint_connected` or
//!   `streampoint_connect_failure`.
//! * `streampoint_disconnect` with `id`: the agent ends that connection and answers
//!   `streampoint_disconnected`.
//! * `reboot` and `reset` with `id`: the agent answers with the same command or `error`; then it
//!   reboots, or forgets its key and settings.
//! * `logs` with `id`: the agent answers `logs` with `logs`, an object with the fields of
//!   `watcher_agent_logs`.
//! * `pong` with `now_ms`, and `reply_to` if the ping had an `id`.
//! * `disconnect` with `reason`: the connection ends; the agent may connect again.
//! * `error` with `code`, `message`, and `reply_to` if the line had an `id`.
//!
//! From the agent:
//!
//! * `hello`, the first line, with the members of `description`.
//! * `description` with any of `version`, `agent_type` (`single`, `router`), `local_ip` and
//!   `mac_address`; absent members keep their values.
//! * `ping` with `id`, at least every `ping_interval_ms`, with any of `connections_requested`,
//!   `connections_established`, and about the streampoint `bytes_from_server`, `bytes_to_server`,
//!   `connections_attempted`, `connections_opened`, `connections_current`.
//! * `streampoint_connected` and `streampoint_disconnected` with `reply_to`, also when it happens
//!   later without a command.
//! * `streampoint_connect_failure` with `reply_to` and `reason`.
//! * `reboot`, `reset` and `logs` with `reply_to`, and for `logs` the member `logs`: done.
//! * `error` with `reply_to` and `reason`: the command is refused.
//! * `disconnect`: the agent is about to close the connection.
//!
//! An invalid line is answered with `error`; after [`ERRORS_MAX`] of them the connection ends.
//! Without a complete line for `ping_timeout_ms` it ends with `disconnect`.
//!
//! # Promises
//!
//! The state machine is pure. What an agent sends can end its own connection only, and what is
//! stored and answered because of it is bounded. At most [`PENDING_MAX`] commands of the API wait
//! for one agent.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::json::{self, Number, Object, Value, write_string};

/// The name of the protocol in the `Upgrade` field.
pub const PROTOCOL: &str = "weir-agent/1";
/// The interval between pings. The timeout is at least three intervals.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Invalid lines before the connection ends.
pub const ERRORS_MAX: u8 = 16;
/// Commands of the API that may wait for one agent; further ones get `agent_busy`.
pub const PENDING_MAX: usize = 16;
/// Longest text of an agent that is stored or passed on, bytes.
const TEXT_BYTES_MAX: usize = 256;
/// Largest counter of an agent: the largest integer that a double represents exactly.
const COUNT_MAX: u64 = 1 << 53;

/// A command of the API that an agent answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentRequest {
    Reboot,
    Reset,
    Logs,
}

impl AgentRequest {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reboot => "reboot",
            Self::Reset => "reset",
            Self::Logs => "logs",
        }
    }
}

/// The answer of an agent to an [`AgentRequest`].
#[derive(Debug, Clone, PartialEq)]
pub enum AgentReply {
    Done,
    Logs(Object),
    /// With the reason that the agent gave, cut to [`TEXT_BYTES_MAX`].
    Refused(Box<str>),
}

/// Why the server ends a control connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// An operator or the agent requested it.
    Requested,
    /// The agent has opened a newer connection.
    Replaced,
    Deleted,
    KeyChanged,
    PingTimeout,
    LineTooLong,
    TooManyErrors,
    HelloExpected,
    ServerStopping,
}

impl CloseReason {
    fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Replaced => "replaced",
            Self::Deleted => "agent_deleted",
            Self::KeyChanged => "key_changed",
            Self::PingTimeout => "ping_timeout",
            Self::LineTooLong => "line_too_long",
            Self::TooManyErrors => "too_many_errors",
            Self::HelloExpected => "hello_expected",
            Self::ServerStopping => "server_stopping",
        }
    }
}

/// What an agent reports about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentDescription {
    pub version: Option<Box<str>>,
    /// `single` or `router`.
    pub agent_type: Option<&'static str>,
    pub local_ip: Option<Ipv4Addr>,
    pub mac_address: Option<Box<str>>,
}

impl AgentDescription {
    /// Fills absent members from an earlier description.
    #[must_use]
    pub fn or(self, known: &Self) -> Self {
        Self {
            version: self.version.or_else(|| known.version.clone()),
            agent_type: self.agent_type.or(known.agent_type),
            local_ip: self.local_ip.or(known.local_ip),
            mac_address: self.mac_address.or_else(|| known.mac_address.clone()),
        }
    }
}

/// The counters in the pings of an agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AgentCounters {
    pub connections_requested: u64,
    pub connections_established: u64,
    pub bytes_from_server: u64,
    pub bytes_to_server: u64,
    pub connections_attempted: u64,
    pub connections_opened: u64,
    pub connections_current: u64,
}

/// What a line of an agent reports.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentEvent<T> {
    /// The first line; from now on the agent accepts commands.
    Hello(AgentDescription),
    Described(AgentDescription),
    Counted(AgentCounters),
    StreampointUp,
    /// With the reason that the agent gave.
    StreampointFailed(Box<str>),
    StreampointDown,
    Replied {
        token: T,
        request: AgentRequest,
        reply: AgentReply,
    },
    /// The agent is about to close the connection.
    Goodbye,
}

/// The result of a line.
#[derive(Debug, Clone, PartialEq)]
pub struct LineResult<T> {
    pub event: Option<AgentEvent<T>>,
    /// Set if the connection must end once the output is sent.
    pub close: Option<CloseReason>,
}

struct PendingReply<T> {
    id: u64,
    request: AgentRequest,
    token: T,
    until_ms: u64,
}

/// One control connection after the handshake. `T` identifies the request that waits for a reply.
pub struct AgentSession<T> {
    greeted: bool,
    errors: u8,
    last_id: u64,
    /// The URL the agent was sent to, and the id of that command.
    streampoint: Option<(Box<str>, u64)>,
    pending: Vec<PendingReply<T>>,
}

impl<T> Default for AgentSession<T> {
    fn default() -> Self {
        Self {
            greeted: false,
            errors: 0,
            last_id: 0,
            streampoint: None,
            pending: Vec::new(),
        }
    }
}

/// The first line of the server.
pub fn hello_line(server_version: &str, silence_max: Duration, now_ms: u64) -> Vec<u8> {
    let interval = PING_INTERVAL.min(silence_max / 3);
    let mut out = Vec::with_capacity(160);
    Line::new(&mut out, "hello")
        .text("protocol", PROTOCOL)
        .text("server_version", server_version)
        .number("ping_interval_ms", interval.as_millis() as u64)
        .number("ping_timeout_ms", silence_max.as_millis() as u64)
        .number("now_ms", now_ms)
        .end();
    out
}

/// Appends the last line of the server to `out`.
pub fn write_disconnect(reason: CloseReason, out: &mut Vec<u8>) {
    Line::new(out, "disconnect")
        .text("reason", reason.as_str())
        .end();
}

/// Why a line is invalid.
struct LineError {
    code: &'static str,
    message: &'static str,
}

const fn line_error(code: &'static str, message: &'static str) -> LineError {
    LineError { code, message }
}

impl<T> AgentSession<T> {
    /// Whether the agent has sent its `hello`.
    #[cfg(any(test, feature = "testing"))]
    pub fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// The URL of the streamer that the agent was sent to.
    fn streampoint(&self) -> Option<&str> {
        self.streampoint.as_ref().map(|(url, _)| &**url)
    }

    /// Handles a line of the agent. Answers to it are appended to `out`.
    pub fn on_line(&mut self, line: &[u8], now_ms: u64, out: &mut Vec<u8>) -> LineResult<T> {
        if line.is_empty() {
            // A keep-alive for middleboxes; it counts as a sign of life.
            return LineResult {
                event: None,
                close: None,
            };
        }
        let parsed = match json::parse(line) {
            Ok(Value::Object(object)) => Ok(object),
            Ok(_) => Err(line_error("not_object", "A line must be a JSON object")),
            Err(_) => Err(line_error(
                "bad_json",
                "A line must be one JSON object in UTF-8",
            )),
        };
        let id = match &parsed {
            Ok(object) => object.get("id").and_then(Value::as_u64),
            Err(_) => None,
        };
        match parsed.and_then(|object| self.on_command(&object, id, now_ms, out)) {
            Ok(Some(AgentEvent::Goodbye)) => LineResult {
                event: Some(AgentEvent::Goodbye),
                close: Some(CloseReason::Requested),
            },
            Ok(event) => LineResult { event, close: None },
            Err(error) => LineResult {
                event: None,
                close: self.on_invalid_line(&error, id, out),
            },
        }
    }

    /// Answers an invalid line. Returns why the connection must end, if it must.
    fn on_invalid_line(
        &mut self,
        error: &LineError,
        id: Option<u64>,
        out: &mut Vec<u8>,
    ) -> Option<CloseReason> {
        self.errors += 1;
        Line::new(out, "error")
            .text("code", error.code)
            .text("message", error.message)
            .maybe_number("reply_to", id)
            .end();
        let close = if !self.greeted {
            CloseReason::HelloExpected
        } else if self.errors >= ERRORS_MAX {
            CloseReason::TooManyErrors
        } else {
            return None;
        };
        write_disconnect(close, out);
        Some(close)
    }

    fn on_command(
        &mut self,
        object: &Object,
        id: Option<u64>,
        now_ms: u64,
        out: &mut Vec<u8>,
    ) -> Result<Option<AgentEvent<T>>, LineError> {
        let command = object
            .get("command")
            .and_then(Value::as_str)
            .ok_or(line_error("no_command", "`command` is required"))?;
        if command == "hello" {
            if self.greeted {
                return Err(line_error("hello_twice", "`hello` must be sent only once"));
            }
            let description = parse_description(object)?;
            self.greeted = true;
            return Ok(Some(AgentEvent::Hello(description)));
        }
        if !self.greeted {
            return Err(line_error(
                "hello_expected",
                "The first line must be `hello`",
            ));
        }
        let reply_to = object.get("reply_to").and_then(Value::as_u64);
        let about_streampoint = |event| Ok(self.is_about_streampoint(reply_to).then_some(event));
        match command {
            "description" => parse_description(object).map(|it| Some(AgentEvent::Described(it))),
            "ping" => {
                let counters = parse_counters(object)?;
                Line::new(out, "pong")
                    .maybe_number("reply_to", id)
                    .number("now_ms", now_ms)
                    .end();
                Ok(counters.map(AgentEvent::Counted))
            }
            "pong" => Ok(None),
            "disconnect" => Ok(Some(AgentEvent::Goodbye)),
            "streampoint_connected" => about_streampoint(AgentEvent::StreampointUp),
            "streampoint_connect_failure" => {
                about_streampoint(AgentEvent::StreampointFailed(parse_reason(object)))
            }
            // The end of an earlier streampoint connection is ignored.
            "streampoint_disconnected" => about_streampoint(AgentEvent::StreampointDown),
            "reboot" => Ok(self.on_reply(reply_to, AgentRequest::Reboot, AgentReply::Done)),
            "reset" => Ok(self.on_reply(reply_to, AgentRequest::Reset, AgentReply::Done)),
            "logs" => {
                let logs = object.get("logs").and_then(Value::as_object);
                let logs = logs.ok_or(line_error("bad_logs", "`logs` must be an object"))?;
                Ok(self.on_reply(reply_to, AgentRequest::Logs, AgentReply::Logs(logs.clone())))
            }
            "error" => {
                let mut pending = self.pending.iter();
                let pending = pending.find(|pending| Some(pending.id) == reply_to);
                Ok(pending.map(|pending| pending.request).and_then(|request| {
                    self.on_reply(reply_to, request, AgentReply::Refused(parse_reason(object)))
                }))
            }
            _ => Err(line_error("unknown_command", "Unknown command")),
        }
    }

    /// Whether a line is about the streamer that the agent was sent to last.
    fn is_about_streampoint(&self, reply_to: Option<u64>) -> bool {
        match (&self.streampoint, reply_to) {
            (Some((_, sent)), Some(reply_to)) => *sent == reply_to,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    /// Matches a reply with its pending request. A reply without one is ignored.
    fn on_reply(
        &mut self,
        reply_to: Option<u64>,
        request: AgentRequest,
        reply: AgentReply,
    ) -> Option<AgentEvent<T>> {
        let at = self
            .pending
            .iter()
            .position(|pending| Some(pending.id) == reply_to && pending.request == request)?;
        let PendingReply { token, .. } = self.pending.swap_remove(at);
        Some(AgentEvent::Replied {
            token,
            request,
            reply,
        })
    }

    /// Sends the agent to a streamer (`url` and the streamer's name), or away from its current one.
    /// Writes nothing if it is there already or has not sent `hello`. Returns whether it wrote.
    pub fn send_to(&mut self, wanted: Option<(&str, &str)>, out: &mut Vec<u8>) -> bool {
        if !self.greeted || self.streampoint() == wanted.map(|(url, _)| url) {
            return false;
        }
        if self.streampoint.take().is_some() {
            let id = self.next_id();
            Line::new(out, "streampoint_disconnect")
                .number("id", id)
                .end();
        }
        if let Some((url, hostname)) = wanted {
            let id = self.next_id();
            Line::new(out, "streampoint_connect")
                .number("id", id)
                .text("url", url)
                .text("hostname", hostname)
                .end();
            self.streampoint = Some((url.into(), id));
        }
        true
    }

    /// Sends a request whose reply will carry `token`. Returns the token if too many requests are
    /// pending or the agent has not sent `hello`.
    pub fn request(
        &mut self,
        request: AgentRequest,
        token: T,
        now_ms: u64,
        until_ms: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), T> {
        // Expired requests have been answered with a timeout.
        self.pending.retain(|pending| pending.until_ms > now_ms);
        if !self.greeted || self.pending.len() >= PENDING_MAX {
            return Err(token);
        }
        let id = self.next_id();
        Line::new(out, request.as_str()).number("id", id).end();
        self.pending.push(PendingReply {
            id,
            request,
            token,
            until_ms,
        });
        Ok(())
    }

    /// Ends the session. Returns the tokens of the requests that were still pending.
    pub fn end(self) -> impl Iterator<Item = T> {
        self.pending.into_iter().map(|pending| pending.token)
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

fn parse_description(object: &Object) -> Result<AgentDescription, LineError> {
    let text = |name: &str| match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text))
            if text.len() <= TEXT_BYTES_MAX && !text.contains(char::is_control) =>
        {
            Ok(Some(text.clone()))
        }
        Some(_) => Err(line_error(
            "bad_text",
            "Must be a text of at most 256 bytes without control characters",
        )),
    };
    let agent_type = match text("agent_type")?.as_deref() {
        None => None,
        Some("single") => Some("single"),
        Some("router") => Some("router"),
        Some(_) => {
            let message = "`agent_type` must be `single` or `router`";
            return Err(line_error("bad_agent_type", message));
        }
    };
    let local_ip = match text("local_ip")? {
        None => None,
        Some(ip) => Some(
            ip.parse()
                .map_err(|_| line_error("bad_local_ip", "`local_ip` must be an IPv4 address"))?,
        ),
    };
    Ok(AgentDescription {
        version: text("version")?,
        agent_type,
        local_ip,
        mac_address: text("mac_address")?,
    })
}

/// Parses the counters of a ping. `None` if it has none.
fn parse_counters(object: &Object) -> Result<Option<AgentCounters>, LineError> {
    let mut counters = AgentCounters::default();
    let mut found = false;
    #[rustfmt::skip]
    let members = [
        ("connections_requested", &mut counters.connections_requested),
        ("connections_established", &mut counters.connections_established),
        ("bytes_from_server", &mut counters.bytes_from_server),
        ("bytes_to_server", &mut counters.bytes_to_server),
        ("connections_attempted", &mut counters.connections_attempted),
        ("connections_opened", &mut counters.connections_opened),
        ("connections_current", &mut counters.connections_current),
    ];
    for (name, counter) in members {
        match object.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::Number(Number::Unsigned(count))) if *count <= COUNT_MAX => {
                *counter = *count;
                found = true;
            }
            Some(_) => {
                let message = "A counter must be an integer from 0 to 2^53";
                return Err(line_error("bad_count", message));
            }
        }
    }
    Ok(found.then_some(counters))
}

/// The member `reason`, cut and without control characters.
fn parse_reason(object: &Object) -> Box<str> {
    let reason = object
        .get("reason")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let reason = &reason[..reason.floor_char_boundary(TEXT_BYTES_MAX)];
    reason
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .into()
}

/// The known fields of an agent's logs that have the right type. `id` is the agent's id here,
/// whatever it calls itself.
pub fn filter_logs(object: &Object, id: &str) -> Value {
    const TEXTS: [&str; 9] = [
        "a", "b", "cid", "main_url", "meminfo", "mid", "serial", "status", "version",
    ];
    const NUMBERS: [&str; 2] = ["buffer_limit", "buffer_size"];
    let texts = TEXTS.iter().filter_map(|name| match object.get(name) {
        Some(text @ Value::String(_)) => Some((*name, text.clone())),
        _ => None,
    });
    let numbers = NUMBERS.iter().filter_map(|name| match object.get(name) {
        Some(number @ Value::Number(Number::Unsigned(_) | Number::Negative(_))) => {
            Some((*name, number.clone()))
        }
        _ => None,
    });
    let id = std::iter::once(("agent_id", Value::String(id.into())));
    Value::Object(texts.chain(numbers).chain(id).collect())
}

/// A line being written.
struct Line<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> Line<'o> {
    fn new(out: &'o mut Vec<u8>, command: &str) -> Self {
        out.extend_from_slice(b"{\"command\":");
        write_string(out, command);
        Self { out }
    }

    fn member(&mut self, name: &str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn text(mut self, name: &str, value: &str) -> Self {
        self.member(name);
        write_string(self.out, value);
        self
    }

    fn number(mut self, name: &str, value: u64) -> Self {
        self.member(name);
        self.out
            .extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self
    }

    fn maybe_number(self, name: &str, value: Option<u64>) -> Self {
        match value {
            Some(value) => self.number(name, value),
            None => self,
        }
    }

    fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A session under test, with its output parsed.
    struct TestSession(AgentSession<u32>);

    impl TestSession {
        fn greeted() -> Self {
            let mut session = Self(AgentSession::default());
            let (result, sent) = session.line(r#"{"command":"hello","version":"1"}"#);
            assert!(matches!(result.event, Some(AgentEvent::Hello(_))) && sent.is_empty());
            session
        }

        fn line(&mut self, line: &str) -> (LineResult<u32>, Vec<serde_json::Value>) {
            let mut out = Vec::new();
            let result = self.0.on_line(line.as_bytes(), 1000, &mut out);
            (result, lines(&out))
        }

        fn event(&mut self, line: &str) -> Option<AgentEvent<u32>> {
            let (result, sent) = self.line(line);
            assert_eq!((result.close, sent), (None, vec![]), "{line}");
            result.event
        }

        /// The code of the error that answers a line.
        fn error(&mut self, line: &str) -> String {
            let (result, sent) = self.line(line);
            assert_eq!((result.event, result.close), (None, None), "{line}");
            assert_eq!(sent.len(), 1, "{line}");
            assert_eq!(sent[0]["command"], "error", "{line}");
            sent[0]["code"].as_str().expect("a code").to_owned()
        }

        fn send_to(&mut self, wanted: Option<(&str, &str)>) -> Vec<serde_json::Value> {
            let mut out = Vec::new();
            let sent = self.0.send_to(wanted, &mut out);
            assert_eq!(sent, !out.is_empty());
            lines(&out)
        }

        fn request(&mut self, request: AgentRequest, token: u32) -> Option<u64> {
            let mut out = Vec::new();
            self.0.request(request, token, 1000, 2000, &mut out).ok()?;
            let sent = lines(&out);
            assert_eq!(sent[0]["command"], request.as_str());
            sent[0]["id"].as_u64()
        }
    }

    fn lines(out: &[u8]) -> Vec<serde_json::Value> {
        let text = std::str::from_utf8(out).expect("output is text");
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines()
            .map(|line| serde_json::from_str(line).expect("output is JSON"))
            .collect()
    }

    #[test]
    fn hello_is_the_first_line_and_sent_once() {
        for line in [
            r#"{"command":"ping"}"#,
            r#"{"command":"hello","version":5}"#,
            "not json",
            "[]",
            "{}",
        ] {
            let mut session = TestSession(AgentSession::default());
            let (result, sent) = session.line(line);
            assert_eq!(result.close, Some(CloseReason::HelloExpected), "{line}");
            assert_eq!(sent[0]["command"], "error");
            assert_eq!(sent[1]["reason"], "hello_expected");
            assert!(session.send_to(Some(("http://s", "s"))).is_empty());
            assert_eq!(session.request(AgentRequest::Logs, 1), None);
        }
        let mut session = TestSession::greeted();
        assert_eq!(session.error(r#"{"command":"hello"}"#), "hello_twice");
    }

    #[test]
    fn description_is_checked_member_by_member() {
        let mut session = TestSession::greeted();
        let event = session.event(
            r#"{"command":"description","version":"v2","agent_type":"router","local_ip":"10.0.0.7","mac_address":"F0-23","else":[1]}"#,
        );
        let expected = AgentDescription {
            version: Some("v2".into()),
            agent_type: Some("router"),
            local_ip: Some(Ipv4Addr::new(10, 0, 0, 7)),
            mac_address: Some("F0-23".into()),
        };
        assert_eq!(event, Some(AgentEvent::Described(expected.clone())));
        let later = AgentDescription {
            version: Some("v3".into()),
            ..AgentDescription::default()
        };
        let both = later.or(&expected);
        assert_eq!(both.version.as_deref(), Some("v3"));
        assert_eq!(both.agent_type, Some("router"));
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        for (field, value, code) in [
            ("version", "7".to_owned(), "bad_text"),
            ("version", format!("{long:?}"), "bad_text"),
            ("mac_address", r#""a\u0007b""#.to_owned(), "bad_text"),
            ("agent_type", r#""double""#.to_owned(), "bad_agent_type"),
            ("local_ip", r#""::1""#.to_owned(), "bad_local_ip"),
            ("local_ip", r#""10.0.0""#.to_owned(), "bad_local_ip"),
        ] {
            let line = format!(r#"{{"command":"description","{field}":{value}}}"#);
            assert_eq!(session.error(&line), code, "{line}");
        }
    }

    #[test]
    fn ping_is_answered_and_may_carry_counters() {
        let mut session = TestSession::greeted();
        let (result, sent) = session
            .line(r#"{"command":"ping","id":9,"bytes_to_server":5,"connections_current":2}"#);
        let counters = AgentCounters {
            bytes_to_server: 5,
            connections_current: 2,
            ..AgentCounters::default()
        };
        assert_eq!(result.event, Some(AgentEvent::Counted(counters)));
        assert_eq!(
            sent,
            [serde_json::json!({"command":"pong","reply_to":9,"now_ms":1000})]
        );
        let (result, sent) = session.line(r#"{"command":"ping"}"#);
        assert_eq!((result.event, sent.len()), (None, 1));
        assert_eq!(
            session.line(""),
            (
                LineResult {
                    event: None,
                    close: None
                },
                vec![]
            )
        );
        for bad in ["-1", "1.5", "\"1\"", "18446744073709551615"] {
            let line = format!(r#"{{"command":"ping","bytes_to_server":{bad}}}"#);
            assert_eq!(session.error(&line), "bad_count", "{line}");
        }
    }

    #[test]
    fn lines_about_an_earlier_streampoint_are_ignored() {
        let mut session = TestSession::greeted();
        assert_eq!(
            session.event(r#"{"command":"streampoint_connected"}"#),
            None
        );
        let sent = session.send_to(Some(("http://s1/?k", "s1")));
        assert_eq!(sent[0]["command"], "streampoint_connect");
        assert_eq!(
            (&sent[0]["url"], &sent[0]["hostname"]),
            (&"http://s1/?k".into(), &"s1".into())
        );
        let first = sent[0]["id"].as_u64().expect("a number");
        assert!(
            session.send_to(Some(("http://s1/?k", "s1"))).is_empty(),
            "already there"
        );
        let up = |id: u64| format!(r#"{{"command":"streampoint_connected","reply_to":{id}}}"#);
        assert_eq!(session.event(&up(first)), Some(AgentEvent::StreampointUp));
        let sent = session.send_to(Some(("http://s2/?k", "s2")));
        assert_eq!(sent[0]["command"], "streampoint_disconnect");
        assert_eq!(sent[1]["url"], "http://s2/?k");
        let second = sent[1]["id"].as_u64().expect("a number");
        assert_eq!(session.event(&up(first)), None, "about the earlier one");
        let failed = format!(
            r#"{{"command":"streampoint_connect_failure","reply_to":{second},"reason":"no\u0007route"}}"#
        );
        assert_eq!(
            session.event(&failed),
            Some(AgentEvent::StreampointFailed("no route".into()))
        );
        let down = format!(r#"{{"command":"streampoint_disconnected","reply_to":{second}}}"#);
        assert_eq!(session.event(&down), Some(AgentEvent::StreampointDown));
        let sent = session.send_to(None);
        assert_eq!(
            (sent.len(), &sent[0]["command"]),
            (1, &"streampoint_disconnect".into())
        );
        assert_eq!(session.event(&down), None);
        assert!(session.send_to(None).is_empty());
    }

    #[test]
    fn reply_reaches_only_the_request_it_belongs_to() {
        let mut session = TestSession::greeted();
        let reboot = session.request(AgentRequest::Reboot, 1).expect("room");
        let logs = session.request(AgentRequest::Logs, 2).expect("room");
        let reset = session.request(AgentRequest::Reset, 3).expect("room");
        let reply = |command: &str, id: u64, more: &str| {
            format!(r#"{{"command":"{command}","reply_to":{id}{more}}}"#)
        };
        assert_eq!(
            session.event(&reply("reboot", logs, "")),
            None,
            "another request"
        );
        assert_eq!(session.event(&reply("reboot", 999, "")), None);
        assert_eq!(session.error(&reply("logs", logs, "")), "bad_logs");
        assert_eq!(
            session.event(&reply("logs", logs, r#","logs":{"status":"ok"}"#)),
            Some(AgentEvent::Replied {
                token: 2,
                request: AgentRequest::Logs,
                reply: AgentReply::Logs(
                    [("status", Value::String("ok".into()))]
                        .into_iter()
                        .collect()
                ),
            })
        );
        assert_eq!(
            session.event(&reply("error", reset, r#","reason":"no""#)),
            Some(AgentEvent::Replied {
                token: 3,
                request: AgentRequest::Reset,
                reply: AgentReply::Refused("no".into()),
            })
        );
        assert_eq!(
            session.event(&reply("reboot", reboot, "")),
            Some(AgentEvent::Replied {
                token: 1,
                request: AgentRequest::Reboot,
                reply: AgentReply::Done,
            })
        );
        assert_eq!(
            session.event(&reply("reboot", reboot, "")),
            None,
            "already answered"
        );
        session.request(AgentRequest::Logs, 4).expect("room");
        assert_eq!(session.0.end().collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn expired_requests_make_room_for_new_ones() {
        let mut session = TestSession::greeted();
        for token in 0..PENDING_MAX as u32 {
            assert!(session.request(AgentRequest::Logs, token).is_some());
        }
        assert_eq!(session.request(AgentRequest::Logs, 99), None);
        let mut out = Vec::new();
        assert_eq!(
            session
                .0
                .request(AgentRequest::Logs, 99, 2000, 3000, &mut out),
            Ok(())
        );
        assert_eq!(session.0.end().count(), 1);
    }

    #[test]
    fn too_many_invalid_lines_end_the_connection() {
        let mut session = TestSession::greeted();
        for i in 1..ERRORS_MAX {
            assert_eq!(
                session.error(r#"{"command":"dance","id":7}"#),
                "unknown_command",
                "{i}"
            );
        }
        let (result, sent) = session.line("{");
        assert_eq!(result.close, Some(CloseReason::TooManyErrors));
        assert_eq!(sent[1]["reason"], "too_many_errors");
    }

    #[test]
    fn disconnect_line_ends_the_connection() {
        let (result, sent) = TestSession::greeted().line(r#"{"command":"disconnect"}"#);
        assert_eq!(result.event, Some(AgentEvent::Goodbye));
        assert!(result.close.is_some() && sent.is_empty());
    }

    #[test]
    fn logs_keep_known_fields_of_the_right_type() {
        let Ok(Value::Object(sent)) = json::parse(
            br#"{"a":"x","b":5,"agent_id":"another","buffer_size":7,"buffer_limit":1.5,"secret":"s","version":null}"#,
        ) else {
            panic!("an object")
        };
        assert_eq!(
            filter_logs(&sent, "me").to_text(),
            r#"{"a":"x","agent_id":"me","buffer_size":7}"#
        );
    }

    proptest! {
        #![proptest_config(crate::proptests::config())]
        #[test]
        fn any_input_is_answered_with_few_complete_lines(
            sent in prop::collection::vec(prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                "[{}\\[\\]\":,a-z0-9 ]{0,40}".prop_map(String::into_bytes),
                (
                    "(hello|ping|description|logs|error|reboot|streampoint_connected|x)",
                    "(reply_to|id|logs|version)",
                    "(1|\"1\"|\\{\\}|null|-5|1e9)",
                )
                    .prop_map(|(command, field, value)| {
                        format!(r#"{{"command":"{command}","{field}":{value}}}"#).into_bytes()
                    }),
            ], 0..60),
        ) {
            let mut session = AgentSession::<u32>::default();
            let mut errors = 0;
            for line in sent {
                let mut out = Vec::new();
                let accepted = session.request(AgentRequest::Logs, 1, 0, 1, &mut out).is_ok();
                let has_room = session.pending.len() <= PENDING_MAX;
                prop_assert_eq!(accepted, session.is_greeted() && has_room && !out.is_empty());
                out.clear();
                let result = session.on_line(&line, 0, &mut out);
                let lines = lines(&out);
                prop_assert!(lines.len() <= 2 && out.len() <= 512);
                errors += usize::from(lines.first().is_some_and(|line| line["command"] == "error"));
                prop_assert!(errors <= usize::from(ERRORS_MAX));
                if result.close.is_some() {
                    break;
                }
            }
        }
    }
}
