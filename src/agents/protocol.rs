//! What is spoken with agents: `weir-agent/1`, a state machine without I/O.
//!
//! The vendor's control protocol is not public; this one is open and simple enough to implement in an afternoon. The handshake is the
//! documented one.
//!
//! # Connecting
//!
//! The agent asks `POST /endpoint/connect` (also below either prefix of the API) with `X-Peeklio-Id: ID`:
//!
//! | answer | when | carries |
//! |---|---|---|
//! | 403 | the id is missing or unknown, the agent has no key, or the proof is wrong | an error |
//! | 401 | no `Authorization` or no `X-Nonce` yet, or the nonce is unknown, older than 60 s, or used | `X-Nonce`, `X-Salt`, `X-Agentauth` |
//! | 200 | the proof holds and no upgrade was asked for, or the agent was deleted | `X-Streampoint-Url` if there is one; `X-Force-Reset: true` if deleted |
//! | 101 | the proof holds and the request has `Connection: Upgrade` and `Upgrade: weir-agent/1` | `X-Streampoint-Url` if there is one |
//!
//! With `H(x)` the SHA-512 of a text in lower-case hex, the agent proves that it knows its key with
//! `Authorization: Peeklio H(nonce ":" H(salt ":" key))` and `X-Nonce: nonce`. The server proves the same before:
//! `X-Agentauth` is `H(H(salt ":" key) ":" nonce)`; an agent that sends an `X-Nonce` of its own with its first request gets
//! `H(H(salt ":" key) ":" nonce ":" own)`, which nobody can have recorded earlier. A nonce is good for one connection, and spends those that
//! the agent was given before. An agent that is told `X-Force-Reset` forgets its key and this server.
//!
//! # Lines
//!
//! After 101 both sides send JSON objects, one per line, ended by LF (CR LF is accepted), at most 64 KiB each. Every object has a
//! `command`. What asks for an answer has an `id`; the answer repeats it as `reply_to`. Unknown members are ignored, so that either
//! side can grow.
//!
//! From the server:
//!
//! | `command` | members | what the agent does |
//! |---|---|---|
//! | `hello` | `protocol`, `server_version`, `ping_interval_ms`, `ping_timeout_ms`, `now_ms` | answers `hello`; this is the first line |
//! | `streampoint_connect` | `id`, `url`, `hostname` | connects to the streamer, keeps trying until told otherwise; answers `streampoint_connected` or `streampoint_connect_failure` |
//! | `streampoint_disconnect` | `id` | ends that connection; answers `streampoint_disconnected` |
//! | `reboot`, `reset` | `id` | answers the same command or `error`, then reboots, or forgets its key and settings |
//! | `logs` | `id` | answers `logs` with `logs`: an object of the fields of `watcher_agent_logs` |
//! | `pong` | `reply_to` if the ping had an `id`, `now_ms` | |
//! | `disconnect` | `reason` | nothing: the connection ends; it may connect again |
//! | `error` | `code`, `message`, `reply_to` if the line had an `id` | |
//!
//! From the agent:
//!
//! | `command` | members | |
//! |---|---|---|
//! | `hello` | what `description` has | the first line |
//! | `description` | any of `version`, `agent_type` (`single`, `router`), `local_ip`, `mac_address` | what is left out stays as it was |
//! | `ping` | `id`; any of `connections_requested`, `connections_established`, `bytes_from_server`, `bytes_to_server`, `connections_attempted`, `connections_opened`, `connections_current` | at least every `ping_interval_ms`; the last five are about the streampoint |
//! | `streampoint_connected`, `streampoint_disconnected` | `reply_to` | also when that happens later on its own |
//! | `streampoint_connect_failure` | `reply_to`, `reason` | |
//! | `reboot`, `reset`, `logs` | `reply_to`, for `logs` also `logs` | done |
//! | `error` | `reply_to`, `reason` | refused |
//! | `disconnect` | | it is about to leave |
//!
//! A line that is not understood is answered with `error`; after [`ERRORS_MAX`] of them the connection ends. Without a complete line for
//! `ping_timeout_ms` it ends with `disconnect`.
//!
//! # Promises
//!
//! Pure: lines and wishes in, lines and facts out. Whatever an agent sends is bounded in what it makes us keep and answer, and ends no more
//! than its own connection. Commands of the API that wait for this agent are at most [`PENDING_MAX`].

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::json::{self, Number, Object, Value, write_string};

/// What the upgrade is called.
pub const PROTOCOL: &str = "weir-agent/1";
/// How often an agent is asked to ping: three may get lost.
pub const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Lines that are not understood before the connection ends.
pub const ERRORS_MAX: u8 = 16;
/// Commands that may wait for one agent. More operators at once are told that it is busy.
pub const PENDING_MAX: usize = 16;
/// Longest text of an agent that is kept or passed on, bytes.
pub const TEXT_BYTES_MAX: usize = 256;
/// Counters above this are no counters: what a double holds exactly.
const COUNT_MAX: u64 = 1 << 53;

/// What the API asks of an agent and waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Reboot,
    Reset,
    Logs,
}

impl Request {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reboot => "reboot",
            Self::Reset => "reset",
            Self::Logs => "logs",
        }
    }
}

/// How an agent answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Done,
    Logs(Object),
    /// With the agent's own words, cut to [`TEXT_BYTES_MAX`].
    Refused(Box<str>),
}

/// Why the server ends a control connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// An operator wanted it.
    Requested,
    /// The agent has connected anew.
    Replaced,
    Deleted,
    KeyChanged,
    PingTimeout,
    LineTooLong,
    TooManyErrors,
    HelloExpected,
    ServerStopping,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
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

/// What an agent tells of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    pub version: Option<Box<str>>,
    /// `single` or `router`.
    pub agent_type: Option<&'static str>,
    pub local_ip: Option<Ipv4Addr>,
    pub mac_address: Option<Box<str>>,
}

impl Description {
    /// What is not told is as it was.
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

/// What an agent counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub connections_requested: u64,
    pub connections_established: u64,
    pub bytes_from_server: u64,
    pub bytes_to_server: u64,
    pub connections_attempted: u64,
    pub connections_opened: u64,
    pub connections_current: u64,
}

/// What a line came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact<T> {
    /// The first line: now the agent can be told things.
    Hello(Description),
    Described(Description),
    Counted(Counters),
    StreampointUp,
    /// The agent's own words.
    StreampointFailed(Box<str>),
    StreampointDown,
    Replied {
        token: T,
        request: Request,
        reply: Reply,
    },
    /// The agent is leaving.
    Goodbye,
}

/// What the caller has to do about a line.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard<T> {
    pub fact: Option<Fact<T>>,
    /// The connection is to end when what was said is sent.
    pub ends: Option<Reason>,
}

struct Pending<T> {
    id: u64,
    request: Request,
    token: T,
    until_ms: u64,
}

/// One control connection after the handshake. `T` names who waits for an answer.
pub struct Session<T> {
    greeted: bool,
    errors: u8,
    last_id: u64,
    /// Where the agent was sent, and the number of that command.
    streampoint: Option<(Box<str>, u64)>,
    pending: Vec<Pending<T>>,
}

impl<T> Default for Session<T> {
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
pub fn greeting(server_version: &str, silence_max: Duration, now_ms: u64) -> Vec<u8> {
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

/// The last line of the server.
pub fn farewell(reason: Reason, out: &mut Vec<u8>) {
    Line::new(out, "disconnect")
        .text("reason", reason.as_str())
        .end();
}

/// What is wrong with a line.
struct Mistake {
    code: &'static str,
    message: &'static str,
}

const fn mistake(code: &'static str, message: &'static str) -> Mistake {
    Mistake { code, message }
}

impl<T> Session<T> {
    /// Whether the agent has said hello.
    pub fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Where the agent was sent.
    pub fn streampoint(&self) -> Option<&str> {
        self.streampoint.as_ref().map(|(url, _)| &**url)
    }

    /// A line of the agent. Answers to it are appended to `out`.
    pub fn line(&mut self, line: &[u8], now_ms: u64, out: &mut Vec<u8>) -> Heard<T> {
        if line.is_empty() {
            // Keeps a connection alive through boxes that forget quiet ones; it counts as a sign of life.
            return Heard {
                fact: None,
                ends: None,
            };
        }
        let parsed = match json::parse(line) {
            Ok(Value::Object(object)) => Ok(object),
            Ok(_) => Err(mistake("not_object", "A line is a JSON object")),
            Err(_) => Err(mistake("bad_json", "A line is one JSON object in UTF-8")),
        };
        let id = match &parsed {
            Ok(object) => object.get("id").and_then(Value::as_u64),
            Err(_) => None,
        };
        let heard = parsed.and_then(|object| self.understand(&object, id, now_ms, out));
        match heard {
            Ok(Some(Fact::Goodbye)) => Heard {
                fact: Some(Fact::Goodbye),
                ends: Some(Reason::Requested),
            },
            Ok(fact) => Heard { fact, ends: None },
            Err(Mistake { code, message }) => {
                self.errors += 1;
                Line::new(out, "error")
                    .text("code", code)
                    .text("message", message)
                    .maybe_number("reply_to", id)
                    .end();
                let ends = if !self.greeted {
                    Some(Reason::HelloExpected)
                } else if self.errors >= ERRORS_MAX {
                    Some(Reason::TooManyErrors)
                } else {
                    None
                };
                if let Some(reason) = ends {
                    farewell(reason, out);
                }
                Heard { fact: None, ends }
            }
        }
    }

    fn understand(
        &mut self,
        object: &Object,
        id: Option<u64>,
        now_ms: u64,
        out: &mut Vec<u8>,
    ) -> Result<Option<Fact<T>>, Mistake> {
        let command = object
            .get("command")
            .and_then(Value::as_str)
            .ok_or(mistake(
                "no_command",
                "A line names its command in `command`",
            ))?;
        if command == "hello" {
            if self.greeted {
                return Err(mistake("hello_twice", "Hello is said once"));
            }
            let description = describe(object)?;
            self.greeted = true;
            return Ok(Some(Fact::Hello(description)));
        }
        if !self.greeted {
            return Err(mistake("hello_expected", "The first line is hello"));
        }
        let reply_to = object.get("reply_to").and_then(Value::as_u64);
        match command {
            "description" => describe(object).map(|told| Some(Fact::Described(told))),
            "ping" => {
                let counters = count(object)?;
                Line::new(out, "pong")
                    .maybe_number("reply_to", id)
                    .number("now_ms", now_ms)
                    .end();
                Ok(counters.map(Fact::Counted))
            }
            "pong" => Ok(None),
            "disconnect" => Ok(Some(Fact::Goodbye)),
            "streampoint_connected" => Ok(self
                .is_about_streampoint(reply_to)
                .then_some(Fact::StreampointUp)),
            "streampoint_connect_failure" => Ok(self
                .is_about_streampoint(reply_to)
                .then(|| Fact::StreampointFailed(words(object)))),
            // The end of a former one is no news: the agent was sent elsewhere since.
            "streampoint_disconnected" => Ok(self
                .is_about_streampoint(reply_to)
                .then_some(Fact::StreampointDown)),
            "reboot" => Ok(self.answer(reply_to, Request::Reboot, Reply::Done)),
            "reset" => Ok(self.answer(reply_to, Request::Reset, Reply::Done)),
            "logs" => {
                let logs = object.get("logs").and_then(Value::as_object);
                let logs = logs.ok_or(mistake("bad_logs", "The answer has `logs`, an object"))?;
                Ok(self.answer(reply_to, Request::Logs, Reply::Logs(logs.clone())))
            }
            "error" => {
                let asked = self
                    .pending
                    .iter()
                    .find(|pending| Some(pending.id) == reply_to);
                Ok(asked.map(|pending| pending.request).and_then(|request| {
                    self.answer(reply_to, request, Reply::Refused(words(object)))
                }))
            }
            _ => Err(mistake("unknown_command", "This command is not known here")),
        }
    }

    /// Of several streamers an agent was sent to one after the other, only the last is of interest.
    fn is_about_streampoint(&self, reply_to: Option<u64>) -> bool {
        match (&self.streampoint, reply_to) {
            (Some((_, sent)), Some(reply_to)) => *sent == reply_to,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    /// An answer that nobody waits for (any more) is no fact.
    fn answer(&mut self, reply_to: Option<u64>, request: Request, reply: Reply) -> Option<Fact<T>> {
        let at = self
            .pending
            .iter()
            .position(|pending| Some(pending.id) == reply_to && pending.request == request)?;
        let Pending { token, .. } = self.pending.swap_remove(at);
        Some(Fact::Replied {
            token,
            request,
            reply,
        })
    }

    /// Sends the agent to a streamer (`url` and the streamer's name), or away from where it is. Says nothing if it is there, or has not said
    /// hello. True if something was said.
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

    /// Asks for something whose answer will carry `token`. Gives the token back if too much is waiting already, or the agent has not said hello.
    pub fn ask(
        &mut self,
        request: Request,
        token: T,
        now_ms: u64,
        until_ms: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), T> {
        // Who waited for these has been told that it took too long.
        self.pending.retain(|pending| pending.until_ms > now_ms);
        if !self.greeted || self.pending.len() >= PENDING_MAX {
            return Err(token);
        }
        let id = self.next_id();
        Line::new(out, request.as_str()).number("id", id).end();
        self.pending.push(Pending {
            id,
            request,
            token,
            until_ms,
        });
        Ok(())
    }

    /// Whoever still waits when the connection is over.
    pub fn end(self) -> impl Iterator<Item = (T, Request)> {
        self.pending
            .into_iter()
            .map(|pending| (pending.token, pending.request))
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

fn describe(object: &Object) -> Result<Description, Mistake> {
    let text = |name: &str| match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text))
            if text.len() <= TEXT_BYTES_MAX && !text.contains(char::is_control) =>
        {
            Ok(Some(text.clone()))
        }
        Some(_) => Err(mistake(
            "bad_text",
            "A description has texts of at most 256 bytes without control characters",
        )),
    };
    let agent_type = match text("agent_type")?.as_deref() {
        None => None,
        Some("single") => Some("single"),
        Some("router") => Some("router"),
        Some(_) => {
            return Err(mistake(
                "bad_agent_type",
                "An agent is `single` or `router`",
            ));
        }
    };
    let local_ip = match text("local_ip")? {
        None => None,
        Some(ip) => Some(
            ip.parse()
                .map_err(|_| mistake("bad_local_ip", "An address is four numbers"))?,
        ),
    };
    Ok(Description {
        version: text("version")?,
        agent_type,
        local_ip,
        mac_address: text("mac_address")?,
    })
}

fn count(object: &Object) -> Result<Option<Counters>, Mistake> {
    let mut counters = Counters::default();
    let mut any = false;
    for (name, counter) in [
        ("connections_requested", &mut counters.connections_requested),
        (
            "connections_established",
            &mut counters.connections_established,
        ),
        ("bytes_from_server", &mut counters.bytes_from_server),
        ("bytes_to_server", &mut counters.bytes_to_server),
        ("connections_attempted", &mut counters.connections_attempted),
        ("connections_opened", &mut counters.connections_opened),
        ("connections_current", &mut counters.connections_current),
    ] {
        match object.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::Number(Number::Unsigned(count))) if *count <= COUNT_MAX => {
                *counter = *count;
                any = true;
            }
            Some(_) => {
                return Err(mistake(
                    "bad_count",
                    "A count is a whole number of 0 or more",
                ));
            }
        }
    }
    Ok(any.then_some(counters))
}

/// `reason`, cut and without control characters.
fn words(object: &Object) -> Box<str> {
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

/// The fields of an agent's logs that are passed on, checked: whatever else it sends is left out. `id` is who it is for us.
pub fn logs(object: &Object, id: &str) -> Value {
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

/// One line in the making.
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

    /// A session and what it says.
    struct Sut(Session<u32>);

    impl Sut {
        fn greeted() -> Self {
            let mut sut = Self(Session::default());
            let (heard, said) = sut.hear(r#"{"command":"hello","version":"1"}"#);
            assert!(matches!(heard.fact, Some(Fact::Hello(_))) && said.is_empty());
            sut
        }

        fn hear(&mut self, line: &str) -> (Heard<u32>, Vec<serde_json::Value>) {
            let mut out = Vec::new();
            let heard = self.0.line(line.as_bytes(), 1000, &mut out);
            (heard, lines(&out))
        }

        fn fact(&mut self, line: &str) -> Option<Fact<u32>> {
            let (heard, said) = self.hear(line);
            assert_eq!((heard.ends, said), (None, vec![]), "{line}");
            heard.fact
        }

        /// The code of the error that answers a line.
        fn error(&mut self, line: &str) -> String {
            let (heard, said) = self.hear(line);
            assert_eq!((heard.fact, heard.ends), (None, None), "{line}");
            assert_eq!(said.len(), 1, "{line}");
            assert_eq!(said[0]["command"], "error", "{line}");
            said[0]["code"].as_str().expect("a code").to_owned()
        }

        fn send_to(&mut self, wanted: Option<(&str, &str)>) -> Vec<serde_json::Value> {
            let mut out = Vec::new();
            let said = self.0.send_to(wanted, &mut out);
            assert_eq!(said, !out.is_empty());
            lines(&out)
        }

        fn ask(&mut self, request: Request, token: u32) -> Option<u64> {
            let mut out = Vec::new();
            self.0.ask(request, token, 1000, 2000, &mut out).ok()?;
            let said = lines(&out);
            assert_eq!(said[0]["command"], request.as_str());
            said[0]["id"].as_u64()
        }
    }

    fn lines(out: &[u8]) -> Vec<serde_json::Value> {
        let text = std::str::from_utf8(out).expect("we send text");
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines()
            .map(|line| serde_json::from_str(line).expect("we send JSON"))
            .collect()
    }

    #[test]
    fn the_first_line_is_hello_and_is_said_once() {
        for line in [
            r#"{"command":"ping"}"#,
            r#"{"command":"hello","version":5}"#,
            "not json",
            "[]",
            "{}",
        ] {
            let mut sut = Sut(Session::default());
            let (heard, said) = sut.hear(line);
            assert_eq!(heard.ends, Some(Reason::HelloExpected), "{line}");
            assert_eq!(said[0]["command"], "error");
            assert_eq!(said[1]["reason"], "hello_expected");
            assert!(sut.send_to(Some(("http://s", "s"))).is_empty());
            assert_eq!(sut.ask(Request::Logs, 1), None);
        }
        let mut sut = Sut::greeted();
        assert_eq!(sut.error(r#"{"command":"hello"}"#), "hello_twice");
    }

    #[test]
    fn a_description_is_checked_field_by_field() {
        let mut sut = Sut::greeted();
        let told = sut.fact(
            r#"{"command":"description","version":"v2","agent_type":"router","local_ip":"10.0.0.7","mac_address":"F0-23","else":[1]}"#,
        );
        let expected = Description {
            version: Some("v2".into()),
            agent_type: Some("router"),
            local_ip: Some(Ipv4Addr::new(10, 0, 0, 7)),
            mac_address: Some("F0-23".into()),
        };
        assert_eq!(told, Some(Fact::Described(expected.clone())));
        let later = Description {
            version: Some("v3".into()),
            ..Description::default()
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
            assert_eq!(sut.error(&line), code, "{line}");
        }
    }

    #[test]
    fn a_ping_is_answered_and_may_carry_counters() {
        let mut sut = Sut::greeted();
        let (heard, said) =
            sut.hear(r#"{"command":"ping","id":9,"bytes_to_server":5,"connections_current":2}"#);
        let counters = Counters {
            bytes_to_server: 5,
            connections_current: 2,
            ..Counters::default()
        };
        assert_eq!(heard.fact, Some(Fact::Counted(counters)));
        assert_eq!(
            said,
            [serde_json::json!({"command":"pong","reply_to":9,"now_ms":1000})]
        );
        let (heard, said) = sut.hear(r#"{"command":"ping"}"#);
        assert_eq!((heard.fact, said.len()), (None, 1));
        assert_eq!(
            sut.hear(""),
            (
                Heard {
                    fact: None,
                    ends: None
                },
                vec![]
            )
        );
        for bad in ["-1", "1.5", "\"1\"", "18446744073709551615"] {
            let line = format!(r#"{{"command":"ping","bytes_to_server":{bad}}}"#);
            assert_eq!(sut.error(&line), "bad_count", "{line}");
        }
    }

    #[test]
    fn an_agent_is_sent_where_it_is_wanted_and_old_news_is_no_news() {
        let mut sut = Sut::greeted();
        assert_eq!(sut.fact(r#"{"command":"streampoint_connected"}"#), None);
        let said = sut.send_to(Some(("http://s1/?k", "s1")));
        assert_eq!(said[0]["command"], "streampoint_connect");
        assert_eq!(
            (&said[0]["url"], &said[0]["hostname"]),
            (&"http://s1/?k".into(), &"s1".into())
        );
        let first = said[0]["id"].as_u64().expect("a number");
        assert!(
            sut.send_to(Some(("http://s1/?k", "s1"))).is_empty(),
            "it is there"
        );
        let up = |id: u64| format!(r#"{{"command":"streampoint_connected","reply_to":{id}}}"#);
        assert_eq!(sut.fact(&up(first)), Some(Fact::StreampointUp));
        let said = sut.send_to(Some(("http://s2/?k", "s2")));
        assert_eq!(said[0]["command"], "streampoint_disconnect");
        assert_eq!(said[1]["url"], "http://s2/?k");
        let second = said[1]["id"].as_u64().expect("a number");
        assert_eq!(sut.fact(&up(first)), None, "about the former one");
        let failed = format!(
            r#"{{"command":"streampoint_connect_failure","reply_to":{second},"reason":"no\u0007route"}}"#
        );
        assert_eq!(
            sut.fact(&failed),
            Some(Fact::StreampointFailed("no route".into()))
        );
        let down = format!(r#"{{"command":"streampoint_disconnected","reply_to":{second}}}"#);
        assert_eq!(sut.fact(&down), Some(Fact::StreampointDown));
        let said = sut.send_to(None);
        assert_eq!(
            (said.len(), &said[0]["command"]),
            (1, &"streampoint_disconnect".into())
        );
        assert_eq!(sut.fact(&down), None);
        assert!(sut.send_to(None).is_empty());
    }

    #[test]
    fn answers_find_who_asked_and_nobody_else() {
        let mut sut = Sut::greeted();
        let reboot = sut.ask(Request::Reboot, 1).expect("room");
        let logs = sut.ask(Request::Logs, 2).expect("room");
        let reset = sut.ask(Request::Reset, 3).expect("room");
        let reply = |command: &str, id: u64, more: &str| {
            format!(r#"{{"command":"{command}","reply_to":{id}{more}}}"#)
        };
        assert_eq!(
            sut.fact(&reply("reboot", logs, "")),
            None,
            "another question"
        );
        assert_eq!(sut.fact(&reply("reboot", 999, "")), None);
        assert_eq!(sut.error(&reply("logs", logs, "")), "bad_logs");
        assert_eq!(
            sut.fact(&reply("logs", logs, r#","logs":{"status":"ok"}"#)),
            Some(Fact::Replied {
                token: 2,
                request: Request::Logs,
                reply: Reply::Logs(
                    [("status", Value::String("ok".into()))]
                        .into_iter()
                        .collect()
                ),
            })
        );
        assert_eq!(
            sut.fact(&reply("error", reset, r#","reason":"no""#)),
            Some(Fact::Replied {
                token: 3,
                request: Request::Reset,
                reply: Reply::Refused("no".into()),
            })
        );
        assert_eq!(
            sut.fact(&reply("reboot", reboot, "")),
            Some(Fact::Replied {
                token: 1,
                request: Request::Reboot,
                reply: Reply::Done,
            })
        );
        assert_eq!(
            sut.fact(&reply("reboot", reboot, "")),
            None,
            "answered already"
        );
        sut.ask(Request::Logs, 4).expect("room");
        assert_eq!(sut.0.end().collect::<Vec<_>>(), [(4, Request::Logs)]);
    }

    #[test]
    fn only_so_many_may_wait_and_those_whose_time_is_over_make_room() {
        let mut sut = Sut::greeted();
        for token in 0..PENDING_MAX as u32 {
            assert!(sut.ask(Request::Logs, token).is_some());
        }
        assert_eq!(sut.ask(Request::Logs, 99), None);
        let mut out = Vec::new();
        assert_eq!(sut.0.ask(Request::Logs, 99, 2000, 3000, &mut out), Ok(()));
        assert_eq!(sut.0.end().count(), 1);
    }

    #[test]
    fn too_many_mistakes_end_the_connection() {
        let mut sut = Sut::greeted();
        for i in 1..ERRORS_MAX {
            assert_eq!(
                sut.error(r#"{"command":"dance","id":7}"#),
                "unknown_command",
                "{i}"
            );
        }
        let (heard, said) = sut.hear("{");
        assert_eq!(heard.ends, Some(Reason::TooManyErrors));
        assert_eq!(said[1]["reason"], "too_many_errors");
    }

    #[test]
    fn a_goodbye_ends_the_connection() {
        let (heard, said) = Sut::greeted().hear(r#"{"command":"disconnect"}"#);
        assert_eq!(heard.fact, Some(Fact::Goodbye));
        assert!(heard.ends.is_some() && said.is_empty());
    }

    #[test]
    fn logs_pass_on_known_fields_of_the_right_kind() {
        let Ok(Value::Object(sent)) = json::parse(
            br#"{"a":"x","b":5,"agent_id":"somebody else","buffer_size":7,"buffer_limit":1.5,"secret":"s","version":null}"#,
        ) else {
            panic!("an object")
        };
        assert_eq!(
            logs(&sent, "me").to_text(),
            r#"{"a":"x","agent_id":"me","buffer_size":7}"#
        );
    }

    proptest! {
        #![proptest_config(crate::proptests::config())]
        #[test]
        fn whatever_is_sent_is_answered_with_few_whole_lines(
            sent in prop::collection::vec(prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                "[{}\\[\\]\":,a-z0-9 ]{0,40}".prop_map(String::into_bytes),
                ("(hello|ping|description|logs|error|reboot|streampoint_connected|x)", "(reply_to|id|logs|version)", "(1|\"1\"|\\{\\}|null|-5|1e9)")
                    .prop_map(|(command, field, value)| {
                        format!(r#"{{"command":"{command}","{field}":{value}}}"#).into_bytes()
                    }),
            ], 0..60),
        ) {
            let mut session = Session::<u32>::default();
            let mut said = 0;
            for line in sent {
                let mut out = Vec::new();
                let asked = session.ask(Request::Logs, 1, 0, 1, &mut out).is_ok();
                prop_assert_eq!(asked, session.is_greeted() && session.pending.len() <= PENDING_MAX && !out.is_empty());
                out.clear();
                let heard = session.line(&line, 0, &mut out);
                let lines = lines(&out);
                prop_assert!(lines.len() <= 2 && out.len() <= 512);
                said += usize::from(lines.first().is_some_and(|line| line["command"] == "error"));
                prop_assert!(said <= usize::from(ERRORS_MAX));
                if heard.ends.is_some() {
                    break;
                }
            }
        }
    }
}
