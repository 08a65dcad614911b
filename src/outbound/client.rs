//! One call on the calling thread: request, response, and name resolution under the egress policy.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read as _};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ureq::config::{AutoHeaderValue, Config};
use ureq::http::{HeaderName, HeaderValue, Request, Response, Uri};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Body, Error};

use super::STACK_BYTES;
use super::policy::EgressPolicy;
use super::target::{TargetUrl, literal_address};
use crate::authorities;

/// Longest head of a response, bytes.
const RESPONSE_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header fields of a response that are kept.
const RESPONSE_FIELDS_MAX: usize = 64;
/// How long the resolved addresses of a name are reused.
const NAME_CACHE_TTL: Duration = Duration::from_secs(10);
/// Names in the cache of resolved addresses.
const NAMES_MAX: usize = 1024;
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// An outbound HTTP request: a `GET`.
#[derive(Clone, Debug)]
pub struct OutboundCall {
    pub target: TargetUrl,
    /// Names and values; invalid fields are skipped.
    pub headers: Vec<(&'static str, String)>,
    /// The end of the whole call, waiting for a thread included.
    pub deadline: Instant,
    pub response_bytes_max: usize,
}

/// The response to an outbound call, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundResponse {
    pub status: u16,
    /// Names in lower case; values that are not visible text are skipped.
    pub headers: Vec<(Box<str>, Box<str>)>,
    pub body: Vec<u8>,
}

impl OutboundResponse {
    /// The first field of this name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| **known == *name);
        found.map(|(_, value)| &**value)
    }
}

/// Why a call got no response. Deliberately coarse: it must not reveal the network around this
/// server from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboundError {
    /// The queue of calls is full.
    Busy,
    /// The egress policy denies all addresses of the host.
    Forbidden,
    TimedOut,
    /// The name does not resolve, the connection was refused or broke, or TLS failed.
    Unreachable,
    /// The response is not HTTP, broke off, or is larger than allowed.
    BadResponse,
    /// The call was cancelled before it started.
    Cancelled,
}

/// The result of a call.
pub type CallResult = Result<OutboundResponse, OutboundError>;

/// The HTTP client of the pool. It connects only to addresses that `policy` allows.
pub(super) fn agent(threads: usize, policy: Arc<EgressPolicy>) -> Agent {
    let config = Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
        .accept("application/json, */*")
        .accept_encoding(AutoHeaderValue::None)
        .max_response_header_size(RESPONSE_HEAD_BYTES_MAX)
        .max_idle_connections(threads)
        .max_idle_connections_per_host(threads)
        // Any of its calls may need them.
        .tls_config(authorities::client_config("https://"))
        .build();
    let resolver = CheckedResolver {
        policy,
        names: Mutex::default(),
    };
    Agent::with_parts(config, DefaultConnector::default(), resolver)
}

/// Makes a call. One whose kept-alive connection turns out to be closed is tried once more.
pub(super) fn send(agent: &Agent, call: &OutboundCall) -> CallResult {
    match send_once(agent, call) {
        Err(AttemptError::Broken) => send_once(agent, call),
        result => result,
    }
    .map_err(|error| match error {
        AttemptError::Broken => OutboundError::Unreachable,
        AttemptError::Failed(error) => error,
    })
}

enum AttemptError {
    /// The connection broke before the response began.
    Broken,
    Failed(OutboundError),
}

impl From<Error> for AttemptError {
    fn from(error: Error) -> Self {
        Self::Failed(match error {
            Error::Timeout(_) => OutboundError::TimedOut,
            Error::Io(error) => return Self::from(error),
            Error::HostNotFound | Error::ConnectionFailed | Error::Tls(_) | Error::Rustls(_) => {
                OutboundError::Unreachable
            }
            _ => OutboundError::BadResponse,
        })
    }
}

impl From<io::Error> for AttemptError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof,
        };
        if error
            .get_ref()
            .is_some_and(<dyn std::error::Error + Send + Sync>::is::<DeniedByPolicy>)
        {
            return Self::Failed(OutboundError::Forbidden);
        }
        match error.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => Self::Broken,
            TimedOut => Self::Failed(OutboundError::TimedOut),
            _ => Self::Failed(OutboundError::Unreachable),
        }
    }
}

fn send_once(agent: &Agent, call: &OutboundCall) -> Result<OutboundResponse, AttemptError> {
    let left = call.deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(AttemptError::Failed(OutboundError::TimedOut));
    }
    let mut request = Request::get(call.target.uri.clone());
    let own = call.target.authorization.iter();
    let own = own.map(|value| ("authorization", value));
    let given = call.headers.iter().map(|(name, value)| (*name, value));
    for (name, value) in own.chain(given) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            request = request.header(name, value);
        }
    }
    let request = request.body(()).map_err(Error::from)?;
    let request = agent.configure_request(request).timeout_global(Some(left));
    let response = agent.run(request.build())?;
    read_response(response, call.response_bytes_max).map_err(AttemptError::Failed)
}

/// Reads a response whose head is here. An incomplete one is an error and never a reason to repeat
/// the request.
fn read_response(mut response: Response<Body>, bytes_max: usize) -> CallResult {
    let headers = response
        .headers()
        .iter()
        .take(RESPONSE_FIELDS_MAX)
        .filter_map(|(name, value)| Some((name.as_str().into(), value.to_str().ok()?.into())))
        .collect();
    let status = response.status().as_u16();
    let mut body = Vec::new();
    // One byte above the limit shows that the body is too large.
    let mut reader = response.body_mut().as_reader().take(bytes_max as u64 + 1);
    if let Err(error) = reader.read_to_end(&mut body) {
        let timed_out = error.kind() == io::ErrorKind::TimedOut
            || error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<Error>())
                .is_some_and(|error| matches!(error, Error::Timeout(_)));
        return Err(if timed_out {
            OutboundError::TimedOut
        } else {
            OutboundError::BadResponse
        });
    }
    if body.len() > bytes_max {
        return Err(OutboundError::BadResponse);
    }
    Ok(OutboundResponse {
        status,
        headers,
        body,
    })
}

/// The egress policy denies all addresses of a host.
#[derive(Debug)]
struct DeniedByPolicy;

impl fmt::Display for DeniedByPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the egress policy denies this address")
    }
}

impl std::error::Error for DeniedByPolicy {}

/// Resolves names and returns only addresses that the policy allows. The client connects to the
/// returned addresses and to no others.
struct CheckedResolver {
    policy: Arc<EgressPolicy>,
    names: Mutex<HashMap<String, (Instant, Vec<SocketAddr>)>>,
}

impl fmt::Debug for CheckedResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckedResolver")
    }
}

impl Resolver for CheckedResolver {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().unwrap_or_default();
        let tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let all = match literal_address(host) {
            Some(address) => vec![SocketAddr::new(address, port)],
            None => self.look_up(host, port, *timeout.after)?,
        };
        let mut result: ResolvedSocketAddrs = self.empty();
        let allowed = all.iter().filter(|address| self.policy.allows(**address));
        for address in allowed.take(ADDRESSES_MAX) {
            result.push(*address);
        }
        if result.is_empty() {
            return Err(if all.is_empty() {
                Error::HostNotFound
            } else {
                Error::Io(io::Error::other(DeniedByPolicy))
            });
        }
        Ok(result)
    }
}

impl CheckedResolver {
    /// Resolves a name. The cache holds unchecked addresses; the policy is applied at each use.
    fn look_up(&self, host: &str, port: u16, left: Duration) -> Result<Vec<SocketAddr>, Error> {
        let key = format!("{host}:{port}");
        let now = Instant::now();
        if let Some((until, known)) = self.names.lock().get(&key)
            && *until > now
        {
            return Ok(known.clone());
        }
        // The system's resolver has no timeout, so another thread waits for it.
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let name = key.clone();
        thread::Builder::new()
            .name("resolve".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let found = name.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
                // The receiver is gone after a timeout.
                let _ = sender.send(found);
            })?;
        let found = receiver
            .recv_timeout(left)
            .map_err(|_| Error::Timeout(ureq::Timeout::Resolve))?
            .map_err(|_| Error::HostNotFound)?;
        let mut names = self.names.lock();
        if names.len() >= NAMES_MAX {
            names.retain(|_, (until, _)| *until > now);
        }
        if names.len() < NAMES_MAX {
            names.insert(key, (now + NAME_CACHE_TTL, found.clone()));
        }
        Ok(found)
    }
}
