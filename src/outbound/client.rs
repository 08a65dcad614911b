//! One call: a request, and what came back.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read as _};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ureq::config::{AutoHeaderValue, Config};
use ureq::http::{HeaderName, HeaderValue, Method as HttpMethod, Request as HttpRequest, Uri};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};

use super::policy::Reach;
use super::pool::STACK_BYTES;
use super::target::{Target, literal};

/// Head of an answer, bytes.
const ANSWER_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Fields of an answer that are told to the asker.
const ANSWER_FIELDS_MAX: usize = 64;
/// How long the addresses of a name are used without asking again.
const NAME_KEPT: Duration = Duration::from_secs(10);
/// Names kept at once.
const NAMES_MAX: usize = 1024;

/// What to ask.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: Method,
    pub target: Target,
    /// Names and values; what cannot be a field is left away by whoever makes the call.
    pub headers: Vec<(&'static str, String)>,
    /// Sent with `PUT` and `POST`, as JSON.
    pub body: Vec<u8>,
    /// Everything must be over by then.
    pub deadline: Instant,
    pub answer_bytes_max: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    Get,
    Put,
    Post,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case; values that are no visible text are left away.
    pub headers: Vec<(Box<str>, Box<str>)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The first field of this name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| **known == *name);
        found.map(|(_, value)| &**value)
    }
}

/// Why nothing came back. Deliberately no finer: what a server can tell about the network around it is nobody's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// More calls wait than threads can make in time.
    Busy,
    /// The settings do not let this address be called.
    Forbidden,
    TimedOut,
    /// No such name, nobody there, or the connection or TLS broke.
    Unreachable,
    /// Not HTTP, or larger than was asked for.
    BadAnswer,
    /// Nobody waits any more.
    Cancelled,
}

/// The client of all calls, which connects to nothing but what `reach` allows.
pub(super) fn agent(threads: usize, reach: Arc<Reach>) -> Agent {
    let config = Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
        .accept("application/json, */*")
        .accept_encoding(AutoHeaderValue::None)
        .max_response_header_size(ANSWER_HEAD_BYTES_MAX)
        .max_idle_connections(threads)
        .max_idle_connections_per_host(threads)
        .build();
    let resolver = CheckedResolver {
        reach,
        names: Mutex::default(),
    };
    Agent::with_parts(config, DefaultConnector::default(), resolver)
}

pub(super) fn ask(agent: &Agent, call: &Call) -> Result<Answer, Failure> {
    match ask_once(agent, call) {
        // A kept connection that its other end had just closed. Only what changes nothing is asked again.
        Err(Trouble::Broken) if call.method == Method::Get => ask_once(agent, call),
        outcome => outcome,
    }
    .map_err(|trouble| match trouble {
        Trouble::Broken => Failure::Unreachable,
        Trouble::Failed(failure) => failure,
    })
}

enum Trouble {
    /// The connection broke before there was an answer.
    Broken,
    Failed(Failure),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Failed(match error {
            Error::Timeout(_) => Failure::TimedOut,
            Error::Io(error) => return Self::from(error),
            Error::HostNotFound | Error::ConnectionFailed | Error::Tls(_) | Error::Rustls(_) => {
                Failure::Unreachable
            }
            _ => Failure::BadAnswer,
        })
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof,
        };
        if error
            .get_ref()
            .is_some_and(<dyn std::error::Error + Send + Sync>::is::<NotAllowed>)
        {
            return Self::Failed(Failure::Forbidden);
        }
        match error.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => Self::Broken,
            TimedOut => Self::Failed(Failure::TimedOut),
            _ => Self::Failed(Failure::Unreachable),
        }
    }
}

fn ask_once(agent: &Agent, call: &Call) -> Result<Answer, Trouble> {
    let left = call.deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Trouble::Failed(Failure::TimedOut));
    }
    let method = match call.method {
        Method::Get => HttpMethod::GET,
        Method::Put => HttpMethod::PUT,
        Method::Post => HttpMethod::POST,
    };
    let mut request = HttpRequest::builder()
        .method(method)
        .uri(call.target.uri.clone());
    let own = call.target.authorization.iter();
    let own = own.map(|value| ("authorization", value));
    let given = call.headers.iter().map(|(name, value)| (*name, value));
    for (name, value) in own.chain(given) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            request = request.header(name, value);
        }
    }
    let mut response = if call.method == Method::Get {
        let request = request.body(()).map_err(Error::from)?;
        let request = agent.configure_request(request).timeout_global(Some(left));
        agent.run(request.build())?
    } else {
        let request = request.header("content-type", "application/json");
        let request = request.body(&call.body[..]).map_err(Error::from)?;
        let request = agent.configure_request(request).timeout_global(Some(left));
        agent.run(request.build())?
    };
    let headers = response
        .headers()
        .iter()
        .take(ANSWER_FIELDS_MAX)
        .filter_map(|(name, value)| Some((name.as_str().into(), value.to_str().ok()?.into())))
        .collect();
    let status = response.status().as_u16();
    let mut body = Vec::new();
    // One byte more than is wanted tells that there is more.
    let most = call.answer_bytes_max as u64 + 1;
    // Half an answer is no reason to ask again: something is wrong with it.
    response
        .body_mut()
        .as_reader()
        .take(most)
        .read_to_end(&mut body)
        .map_err(|error| {
            let slow = error.kind() == io::ErrorKind::TimedOut
                || error.get_ref().is_some_and(|inner| {
                    inner
                        .downcast_ref::<Error>()
                        .is_some_and(|error| matches!(error, Error::Timeout(_)))
                });
            Trouble::Failed(if slow {
                Failure::TimedOut
            } else {
                Failure::BadAnswer
            })
        })?;
    if body.len() > call.answer_bytes_max {
        return Err(Trouble::Failed(Failure::BadAnswer));
    }
    Ok(Answer {
        status,
        headers,
        body,
    })
}

/// None of the addresses of a host may be called.
#[derive(Debug)]
struct NotAllowed;

impl fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the settings do not let this address be called")
    }
}

impl std::error::Error for NotAllowed {}

/// Resolves names and gives away only addresses that may be called. The client connects to what it is given here and to nothing else.
struct CheckedResolver {
    reach: Arc<Reach>,
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
        let all = match literal(host) {
            Some(address) => vec![SocketAddr::new(address, port)],
            None => self.look_up(host, port, *timeout.after)?,
        };
        let mut result: ResolvedSocketAddrs = self.empty();
        let room = 8;
        for address in all.iter().filter(|address| self.reach.allows(**address)) {
            if result.len() < room {
                result.push(*address);
            }
        }
        if result.is_empty() {
            return Err(if all.is_empty() {
                Error::HostNotFound
            } else {
                Error::Io(io::Error::other(NotAllowed))
            });
        }
        Ok(result)
    }
}

impl CheckedResolver {
    /// What is kept is what the resolver said; it is checked each time it is used.
    fn look_up(&self, host: &str, port: u16, left: Duration) -> Result<Vec<SocketAddr>, Error> {
        let key = format!("{host}:{port}");
        let now = Instant::now();
        if let Some((until, known)) = self.names.lock().get(&key)
            && *until > now
        {
            return Ok(known.clone());
        }
        // The system's resolver cannot be told when to stop, so that somebody else waits for it.
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let asked = key.clone();
        thread::Builder::new()
            .name("resolve".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let found = asked.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
                // Nobody may be waiting any more.
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
            names.insert(key, (now + NAME_KEPT, found.clone()));
        }
        Ok(found)
    }
}
