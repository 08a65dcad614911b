//! HTTP calls of the bridge: blocking, with a deadline for the whole call, without redirects and
//! proxies, and with bounded answers.

use std::fmt;
use std::io::Read as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use ureq::config::{AutoHeaderValue, Config};
use ureq::http::{HeaderMap, Request};
use ureq::{Agent, Error};

use crate::authorities;

/// Largest body of an answer.
pub const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Longest text of an error that is kept.
const FAULT_CHARACTERS_MAX: usize = 200;
/// Largest head of an answer.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Buffers of a connection, one for each direction.
const BUFFER_BYTES: usize = 32 << 10;
const _: () = assert!(HEAD_BYTES_MAX < BUFFER_BYTES, "a head is read as a whole");
/// A body is read into memory of the length that was announced, if that is not more.
const EXACT_BODY_BYTES_MAX: u64 = 8 << 20;

/// Why a call had no effect, or none that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallFault {
    /// No answer: whether the call had an effect is unknown.
    Unreachable(String),
    /// An answer that is no success.
    Status(u16, String),
    /// An answer that this API does not send.
    Unexpected(&'static str),
}

impl CallFault {
    /// Whether the other side received the call and refused it.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Status(status, _) if (400..500).contains(status))
    }

    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status(status, _) => Some(*status),
            _ => None,
        }
    }
}

impl fmt::Display for CallFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(cause) => f.write_str(cause),
            Self::Status(status, text) if text.is_empty() => write!(f, "status {status}"),
            Self::Status(status, text) => write!(f, "status {status}: {text}"),
            Self::Unexpected(what) => write!(f, "unexpected answer: {what}"),
        }
    }
}

/// An answer of any status.
#[derive(Debug)]
pub struct CallAnswer {
    pub status: u16,
    headers: HeaderMap,
    pub body: Vec<u8>,
}

impl CallAnswer {
    #[cfg(test)]
    pub fn of(status: u16, body: &[u8]) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: body.to_vec(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The answer if it is a success.
    pub fn success(self) -> Result<Self, CallFault> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let text = String::from_utf8_lossy(&self.body);
        let plain = text.chars().filter(|letter| !letter.is_control());
        Err(CallFault::Status(
            self.status,
            plain.take(FAULT_CHARACTERS_MAX).collect(),
        ))
    }

    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, CallFault> {
        serde_json::from_slice(&self.body).map_err(|_| CallFault::Unexpected("not the known JSON"))
    }
}

/// One call.
#[derive(Debug, Clone, Copy)]
pub struct OutgoingCall<'a> {
    pub method: &'a str,
    pub url: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
    pub deadline: Duration,
}

/// Makes calls, from any thread.
pub struct HttpCaller {
    agent: Mutex<Agent>,
    config: Config,
    in_flight: AtomicUsize,
}

impl HttpCaller {
    /// Calls the server with this base URL. Connections are closed after each call if
    /// `connections_kept` is 0.
    pub fn new(base: &str, connections_kept: usize) -> Self {
        let config = config(base, connections_kept);
        Self {
            agent: Mutex::new(config.new_agent()),
            config,
            in_flight: AtomicUsize::new(0),
        }
    }

    pub fn call(&self, call: &OutgoingCall<'_>) -> Result<CallAnswer, CallFault> {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        let result = self.send(call);
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        result
    }

    fn send(&self, call: &OutgoingCall<'_>) -> Result<CallAnswer, CallFault> {
        let unreachable = |error: Error| {
            let text = error.to_string();
            CallFault::Unreachable(text.chars().take(FAULT_CHARACTERS_MAX).collect())
        };
        let mut request = Request::builder().method(call.method).uri(call.url);
        for (name, value) in call.headers {
            request = request.header(*name, *value);
        }
        let request = request.body(call.body);
        let request = request.map_err(|error| unreachable(error.into()))?;
        let agent = self.agent.lock().clone();
        let request = agent.configure_request(request);
        let request = request
            .timeout_global(Some(call.deadline))
            .allow_non_standard_methods(true)
            .build();
        let mut response = agent.run(request).map_err(unreachable)?;
        // A body with a content coding, which was not requested, is not what it seems to be.
        let coding = response.headers().get("content-encoding");
        if coding.is_some_and(|coding| coding != "identity") {
            return Err(CallFault::Unexpected("a content coding"));
        }
        let length = response.body().content_length().unwrap_or(0);
        // A vector that grows takes up to three times as much.
        let mut body = Vec::with_capacity(length.min(EXACT_BODY_BYTES_MAX) as usize + 1);
        // One byte above the limit shows that the body is too large.
        let mut reader = response.body_mut().as_reader().take(ANSWER_BYTES_MAX + 1);
        let read = reader.read_to_end(&mut body);
        read.map_err(|error| CallFault::Unreachable(error.to_string()))?;
        if body.len() as u64 > ANSWER_BYTES_MAX {
            return Err(CallFault::Unexpected("more than 64 MiB"));
        }
        let (parts, _) = response.into_parts();
        Ok(CallAnswer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        })
    }

    /// Ends the calls that are in progress; later calls work.
    pub fn cut(&self) {
        if self.in_flight.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut current = self.agent.lock();
        let old = std::mem::replace(&mut *current, self.config.new_agent());
        old.shutdown();
    }
}

fn config(base: &str, connections_kept: usize) -> Config {
    Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("weir-bridge/", env!("CARGO_PKG_VERSION")))
        .accept_encoding(AutoHeaderValue::None)
        .timeout_connect(Some(Duration::from_secs(3)))
        .max_response_header_size(HEAD_BYTES_MAX)
        .input_buffer_size(BUFFER_BYTES)
        .output_buffer_size(BUFFER_BYTES)
        .max_idle_connections(connections_kept)
        .max_idle_connections_per_host(connections_kept)
        .tls_config(authorities::client_config(base))
        .build()
}
