//! Calls to other servers, made while a request waits for them.
//!
//! A bounded pool of threads with a blocking client, because an io core never blocks and never trusts: a call has one deadline for
//! everything (waiting for a thread, names, connecting, TLS, the whole answer), its answer a largest size, redirects are answers and
//! nothing more. Targets take turns, and one that does not answer holds at most half of the threads. Results go to a closure that hands
//! them to the asking core; what nobody waits for any more is not called.
//!
//! What may be reached is decided on the addresses that a name resolved to, and those same addresses are connected to: a name
//! that answers differently the second time gains nothing. Link-local and metadata addresses are never called, loopback only when
//! the settings say so, our own listeners not even then, private ranges unless the settings deny them.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use parking_lot::{Condvar, Mutex, RwLock};
use percent_encoding::percent_decode_str;
use ureq::config::{AutoHeaderValue, Config};
use ureq::http::{HeaderName, HeaderValue, Method as HttpMethod, Request as HttpRequest, Uri};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};

use crate::access::subnet::{Subnets, hidden_v4};

/// Longest URL that is called.
pub const URL_BYTES_MAX: usize = 2048;
/// Calls that may wait for a thread. Waiting longer than this many calls take would miss any deadline.
pub const CALLS_WAITING_MAX: usize = 4096;
/// Head of an answer, bytes.
const ANSWER_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Fields of an answer that are told to the asker.
const ANSWER_FIELDS_MAX: usize = 64;
/// How long the addresses of a name are used without asking again.
const NAME_KEPT: Duration = Duration::from_secs(10);
/// Names kept at once.
const NAMES_MAX: usize = 1024;
/// Stack of a calling thread: TLS and the client need about 200 KiB.
const STACK_BYTES: usize = 1024 * 1024;

/// Hosts whose only use is to tell a cloud machine its secrets.
const METADATA_NAMES: [&str; 5] = [
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
];

/// Where a call goes: an `http` or `https` URL that was checked once.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    uri: Uri,
    /// From the URL's user and password; sent to this target only.
    authorization: Option<String>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uri)
    }
}

impl Target {
    /// The sentence of the error says what is wrong, never what the URL holds.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        if url.len() > URL_BYTES_MAX {
            return Err("The URL has more than 2048 bytes");
        }
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("A URL has no spaces, control characters or characters beyond ASCII");
        }
        let (scheme, rest) = url
            .split_once("://")
            .ok_or("A URL begins with http:// or https://")?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err("Only http and https are called");
        }
        if rest.contains('#') {
            return Err("A URL that is called has no fragment");
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('\\') || path.starts_with('\\') {
            return Err("The host of the URL is malformed");
        }
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let slash = if path.starts_with('/') { "" } else { "/" };
        let uri: Uri = format!("{}://{host}{slash}{path}", scheme.to_ascii_lowercase())
            .parse()
            .map_err(|_| "The URL is malformed")?;
        let parsed = uri.host().unwrap_or_default();
        let name = parsed.trim_end_matches('.').to_ascii_lowercase();
        if name.is_empty() || uri.authority().is_none_or(|a| a.as_str() != host) {
            return Err("The host of the URL is malformed");
        }
        let port = host.rsplit_once(':').map(|(_, port)| port);
        if let Some(port) = port.filter(|port| !port.ends_with(']'))
            && !port.parse::<u16>().is_ok_and(|number| number > 0)
        {
            return Err("The port of the URL is malformed");
        }
        if METADATA_NAMES.contains(&name.as_str()) {
            return Err("This host is never called");
        }
        if let Some(literal) = literal(parsed)
            && let Some(why) = never(literal)
        {
            return Err(why);
        }
        let authorization = user.map(|user| {
            let plain: Vec<u8> = percent_decode_str(user).collect();
            let plain = if plain.contains(&b':') {
                plain
            } else {
                [plain, vec![b':']].concat()
            };
            let encoded = base64::engine::general_purpose::STANDARD.encode(plain);
            format!("Basic {encoded}")
        });
        Ok(Self { uri, authorization })
    }

    /// The same target with more behind its `?`. `pairs` is a query that is already encoded.
    #[must_use]
    pub fn with_query(&self, pairs: &str) -> Self {
        let glue = match self.uri.query() {
            None => "?",
            Some("") => "",
            Some(_) => "&",
        };
        let uri = format!("{}{glue}{pairs}", self.uri)
            .parse()
            .unwrap_or_else(|_| self.uri.clone());
        Self {
            uri,
            authorization: self.authorization.clone(),
        }
    }

    /// What turns are taken by: scheme, host and port.
    fn peer(&self) -> Box<str> {
        let host = self.uri.host().unwrap_or_default();
        let port = self.uri.port_u16().unwrap_or_default();
        let tls = u8::from(self.uri.scheme_str() == Some("https"));
        format!("{tls} {port} {}", host.to_ascii_lowercase()).into()
    }
}

/// A host that is written as an address.
fn literal(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    bare.parse().ok()
}

/// Why an address is never called, whatever the settings say.
fn never(address: IpAddr) -> Option<&'static str> {
    let v4 = match address {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(v6) => {
            let segments = v6.segments();
            let local = (segments[0] & 0xffc0) == 0xfe80 || (segments[0] & 0xffc0) == 0xfec0;
            // Teredo hides its IPv4 address behind a mask, and nobody serves an API through it.
            let teredo = segments[0] == 0x2001 && segments[1] == 0;
            let metadata = v6.to_bits() == 0xfd00_0ec2_0000_0000_0000_0000_0000_0254;
            if v6.is_unspecified() || v6.is_multicast() || local || teredo || metadata {
                return Some("This address is never called");
            }
            hidden_v4(v6)?
        }
    };
    let octets = v4.octets();
    let metadata = [[100, 100, 100, 200], [192, 0, 0, 192], [168, 63, 129, 16]].contains(&octets);
    (octets[0] == 0 || v4.is_link_local() || octets[0] >= 224 || metadata)
        .then_some("This address is never called")
}

/// Which addresses may be called.
#[derive(Debug, Default)]
pub struct Reach {
    /// Whether this machine itself may be called.
    loopback: bool,
    denied: Subnets,
    /// Where this server listens; it does not call itself.
    own: RwLock<Vec<SocketAddr>>,
}

impl Reach {
    pub fn new(loopback: bool, denied: Subnets) -> Self {
        Self {
            loopback,
            denied,
            own: RwLock::default(),
        }
    }

    /// Tells where this server listens, once it is known.
    pub fn listening_on(&self, own: Vec<SocketAddr>) {
        *self.own.write() = own;
    }

    /// Asked for every address right before a connection to it.
    pub fn allows(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        let plain = match ip {
            IpAddr::V6(v6) => hidden_v4(v6).map_or(ip, IpAddr::V4),
            IpAddr::V4(_) => ip,
        };
        never(ip).is_none()
            && (self.loopback || !plain.is_loopback())
            && !self.denied.contains(ip)
            && !self.denied.contains(plain)
            && !self.is_own(plain, address.port())
    }

    fn is_own(&self, ip: IpAddr, port: u16) -> bool {
        self.own.read().iter().any(|own| {
            own.port() == port
                && if own.ip().is_unspecified() {
                    // An address that can be bound is one of this machine.
                    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
                } else {
                    own.ip().to_canonical() == ip
                }
        })
    }
}

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

/// Ends calls that are no longer wanted. Dropping it changes nothing.
#[derive(Clone, Default, Debug)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Takes the result to whoever asked. Called once, on a thread of the pool; must not block.
pub type Deliver = Box<dyn FnOnce(Result<Answer, Failure>) + Send>;

/// How many calls at once.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub threads: usize,
}

/// The pool. Its threads end when it is dropped.
pub struct Outbound {
    inner: Arc<Inner>,
}

struct Inner {
    queue: Mutex<Queue>,
    work: Condvar,
    agent: Agent,
    running_per_peer_max: usize,
}

struct Job {
    call: Call,
    cancel: Cancel,
    deliver: Deliver,
}

/// Jobs by peer. A peer stands in line when it has jobs and may have one more of them running.
#[derive(Default)]
struct Queue {
    peers: HashMap<Box<str>, Peer>,
    line: VecDeque<Box<str>>,
    waiting: usize,
    closed: bool,
}

#[derive(Default)]
struct Peer {
    jobs: VecDeque<Job>,
    running: usize,
    in_line: bool,
}

impl Queue {
    /// Puts a peer into the line if it belongs there, forgets it if nothing is left of it.
    fn settle(&mut self, name: &str, running_max: usize) {
        let Some(peer) = self.peers.get_mut(name) else {
            return;
        };
        if peer.jobs.is_empty() {
            if peer.running == 0 && !peer.in_line {
                self.peers.remove(name);
            }
        } else if !peer.in_line && peer.running < running_max {
            peer.in_line = true;
            self.line.push_back(name.into());
        }
    }

    fn push(&mut self, name: Box<str>, job: Job, running_max: usize) {
        self.peers
            .entry(name.clone())
            .or_default()
            .jobs
            .push_back(job);
        self.waiting += 1;
        self.settle(&name, running_max);
    }

    /// The next job, of the peer whose turn it is.
    fn take(&mut self, running_max: usize) -> Option<(Box<str>, Job)> {
        while let Some(name) = self.line.pop_front() {
            let Some(peer) = self.peers.get_mut(&name) else {
                continue;
            };
            peer.in_line = false;
            let job = peer.jobs.pop_front();
            if job.is_some() {
                peer.running += 1;
                self.waiting -= 1;
            }
            self.settle(&name, running_max);
            if let Some(job) = job {
                return Some((name, job));
            }
        }
        None
    }

    fn done(&mut self, name: &str, running_max: usize) {
        if let Some(peer) = self.peers.get_mut(name) {
            peer.running -= 1;
        }
        self.settle(name, running_max);
    }
}

impl Outbound {
    pub fn start(options: Options, reach: Arc<Reach>) -> io::Result<Self> {
        let threads = options.threads.max(2);
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
        let inner = Arc::new(Inner {
            queue: Mutex::default(),
            work: Condvar::new(),
            agent: Agent::with_parts(config, DefaultConnector::default(), resolver),
            running_per_peer_max: threads.div_ceil(2),
        });
        let pool = Self {
            inner: inner.clone(),
        };
        for index in 0..threads {
            let inner = inner.clone();
            thread::Builder::new()
                .name(format!("call-{index}"))
                .stack_size(STACK_BYTES)
                .spawn(move || inner.work())?;
        }
        Ok(pool)
    }

    /// Never blocks. `deliver` is called exactly once, possibly before this returns.
    pub fn call(&self, call: Call, cancel: Cancel, deliver: Deliver) {
        let mut queue = self.inner.queue.lock();
        if queue.waiting >= CALLS_WAITING_MAX || queue.closed {
            drop(queue);
            return deliver(Err(Failure::Busy));
        }
        let job = Job {
            call,
            cancel,
            deliver,
        };
        let peer = job.call.target.peer();
        queue.push(peer, job, self.inner.running_per_peer_max);
        drop(queue);
        self.inner.work.notify_one();
    }

    /// Calls that wait for a thread.
    pub fn waiting(&self) -> usize {
        self.inner.queue.lock().waiting
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        self.inner.queue.lock().closed = true;
        self.inner.work.notify_all();
    }
}

impl Inner {
    fn work(&self) {
        loop {
            let (peer, job) = {
                let mut queue = self.queue.lock();
                loop {
                    if let Some(found) = queue.take(self.running_per_peer_max) {
                        break found;
                    }
                    if queue.closed {
                        return;
                    }
                    self.work.wait(&mut queue);
                }
            };
            let Job {
                call,
                cancel,
                deliver,
            } = job;
            let outcome = if cancel.is_cancelled() {
                Err(Failure::Cancelled)
            } else {
                // The client is not ours; a bug of it must cost one call and not the thread.
                catch_unwind(AssertUnwindSafe(|| ask(&self.agent, &call)))
                    .unwrap_or(Err(Failure::BadAnswer))
            };
            deliver(outcome);
            self.queue.lock().done(&peer, self.running_per_peer_max);
            // A peer that was at its limit may be in line again.
            self.work.notify_one();
        }
    }
}

fn ask(agent: &Agent, call: &Call) -> Result<Answer, Failure> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Serves each connection on a thread of its own: `answer` gets the lines of every head and the socket, until it returns false.
    fn server(
        answer: impl Fn(&[String], &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for socket in listener.incoming() {
                let (Ok(mut socket), answer) = (socket, answer.clone()) else {
                    return;
                };
                thread::spawn(move || {
                    let mut lines = BufReader::new(socket.try_clone().expect("a descriptor"));
                    loop {
                        let mut head = Vec::new();
                        loop {
                            let mut line = String::new();
                            if lines.read_line(&mut line).unwrap_or(0) == 0 {
                                return;
                            }
                            let line = line.trim_end().to_owned();
                            if line.is_empty() {
                                break;
                            }
                            head.push(line);
                        }
                        if !answer(&head, &mut socket) {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    fn says(text: &'static str) -> SocketAddr {
        server(move |_, socket| socket.write_all(text.as_bytes()).is_ok())
    }

    fn pool(threads: usize) -> Outbound {
        let reach = Arc::new(Reach::new(true, Subnets::default()));
        Outbound::start(Options { threads }, reach).expect("threads")
    }

    fn call_to(url: &str, wait: Duration) -> Call {
        Call {
            method: Method::Get,
            target: Target::parse(url).expect("a good URL"),
            headers: Vec::new(),
            body: Vec::new(),
            deadline: Instant::now() + wait,
            answer_bytes_max: 64,
        }
    }

    fn begin(pool: &Outbound, call: Call, cancel: Cancel) -> mpsc::Receiver<Outcome> {
        let (sender, receiver) = mpsc::channel();
        pool.call(
            call,
            cancel,
            Box::new(move |outcome| {
                let _ = sender.send(outcome);
            }),
        );
        receiver
    }

    type Outcome = Result<Answer, Failure>;

    fn finish(receiver: &mpsc::Receiver<Outcome>) -> Outcome {
        receiver.recv_timeout(PATIENCE).expect("an outcome")
    }

    fn run(url: &str) -> Outcome {
        let pool = pool(2);
        finish(&begin(&pool, call_to(url, PATIENCE), Cancel::default()))
    }

    #[test]
    fn an_answer_comes_with_status_fields_and_body_and_the_connection_is_kept() {
        let (sender, heads) = mpsc::channel();
        let address = server(move |head, socket| {
            let peer = socket.peer_addr().expect("it is connected");
            sender
                .send((head.to_vec(), peer))
                .expect("the test listens");
            let text = "HTTP/1.1 403 Forbidden\r\nX-UserId: u1\r\nContent-Length: 4\r\n\r\nnope";
            socket.write_all(text.as_bytes()).is_ok()
        });
        let pool = pool(2);
        let mut call = call_to(&format!("http://u:p%40ss@{address}/a?b=c"), PATIENCE);
        call.target = call.target.with_query("name=x%20y");
        call.headers.push(("x-trace-id", "t1".into()));
        let answer = finish(&begin(&pool, call.clone(), Cancel::default())).expect("an answer");
        assert_eq!((answer.status, &answer.body[..]), (403, &b"nope"[..]));
        assert_eq!(answer.header("x-userid"), Some("u1"));
        finish(&begin(&pool, call, Cancel::default())).expect("another answer");
        let (head, first) = heads.recv().expect("it was asked");
        assert_eq!(head[0], "GET /a?b=c&name=x%20y HTTP/1.1");
        let has = |field: &str| head.iter().any(|line| line.eq_ignore_ascii_case(field));
        assert!(has("authorization: Basic dTpwQHNz"), "{head:?}");
        assert!(has("x-trace-id: t1"), "{head:?}");
        assert!(
            !head.iter().any(|line| line.contains("accept-encoding")),
            "{head:?}"
        );
        assert_eq!(
            heads.recv().expect("asked twice").1,
            first,
            "one connection"
        );
    }

    #[test]
    fn bodies_are_sent() {
        let (sender, heads) = mpsc::channel();
        let address = server(move |head, socket| {
            sender.send(head.to_vec()).expect("the test listens");
            // What follows the head is the body; it has no line end, so the next look for a head would wait for it.
            socket
                .write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                .expect("it listens");
            false
        });
        let call = Call {
            method: Method::Put,
            body: b"{}".to_vec(),
            ..call_to(&format!("http://{address}/config"), PATIENCE)
        };
        let pool = pool(2);
        let answer = finish(&begin(&pool, call, Cancel::default())).expect("an answer");
        assert_eq!(answer.status, 204);
        let head = heads.recv().expect("it was asked");
        assert_eq!(head[0], "PUT /config HTTP/1.1");
        assert!(
            head.iter()
                .any(|line| line.eq_ignore_ascii_case("content-length: 2"))
        );
    }

    #[test]
    fn a_redirect_is_an_answer() {
        let (sender, asked) = mpsc::channel();
        let elsewhere = server(move |_, _| {
            sender.send(()).expect("the test listens");
            false
        });
        let address = server(move |_, socket| {
            let text = format!(
                "HTTP/1.1 302 Found\r\nLocation: http://{elsewhere}/\r\nContent-Length: 0\r\n\r\n"
            );
            socket.write_all(text.as_bytes()).is_ok()
        });
        let answer = run(&format!("http://{address}/")).expect("an answer");
        assert_eq!(answer.status, 302);
        assert_eq!(
            answer.header("location"),
            Some(&*format!("http://{elsewhere}/"))
        );
        assert!(asked.try_recv().is_err(), "nobody went there");
    }

    #[test]
    fn answers_that_are_too_large_or_no_http_are_failures() {
        for (text, failure) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 65\r\n\r\n01234567890123456789012345678901234567890123456789012345678901234",
                Failure::BadAnswer,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n01234567890123456789012345678901234567890123456789012345678901234",
                Failure::BadAnswer,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                Failure::BadAnswer,
            ),
            ("SSH-2.0-OpenSSH_9.2\r\n\r\n", Failure::BadAnswer),
        ] {
            assert_eq!(
                run(&format!("http://{}/", says(text))),
                Err(failure),
                "{text:?}"
            );
        }
        // The largest that is wanted still fits.
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n0123456789012345678901234567890123456789012345678901234567890123";
        assert!(run(&format!("http://{}/", says(text))).is_ok());
    }

    #[test]
    fn half_an_answer_is_a_failure_and_is_not_asked_for_again() {
        let (sender, asked) = mpsc::channel();
        let address = server(move |_, socket| {
            sender.send(()).expect("the test listens");
            socket
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
                .expect("it listens");
            false
        });
        assert_eq!(run(&format!("http://{address}/")), Err(Failure::BadAnswer));
        assert_eq!(asked.try_iter().count(), 1);
    }

    #[test]
    fn one_deadline_is_for_everything() {
        // Goal: neither silence nor a drip of bytes outlives the deadline. Method: a server that never answers and one that sends a byte of its
        // body again and again; both calls must end by themselves.
        let silent = server(|_, _| true);
        let dripping = server(|_, socket| {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n";
            let mut open = socket.write_all(head).is_ok();
            let (_keep, never) = mpsc::channel::<()>();
            while open {
                let _ = never.recv_timeout(Duration::from_millis(20));
                open = socket.write_all(b"x").is_ok();
            }
            false
        });
        let pool = pool(2);
        for address in [silent, dripping] {
            let call = call_to(&format!("http://{address}/"), Duration::from_millis(200));
            let outcome = finish(&begin(&pool, call, Cancel::default()));
            assert_eq!(outcome, Err(Failure::TimedOut));
        }
        let late = call_to(&format!("http://{silent}/"), Duration::ZERO);
        assert_eq!(
            finish(&begin(&pool, late, Cancel::default())),
            Err(Failure::TimedOut)
        );
    }

    #[test]
    fn who_does_not_answer_does_not_hold_up_the_others() {
        // Goal: calls to a dead server leave threads for the rest. Method: many more calls to a silent server than there are threads, then one to
        // another; it must be answered while none of the first is over.
        let silent = server(|_, _| true);
        let quick = says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
        let pool = pool(4);
        let cancel = Cancel::default();
        let pending: Vec<_> = (0..50)
            .map(|_| {
                let call = call_to(&format!("http://{silent}/"), Duration::from_mins(5));
                begin(&pool, call, cancel.clone())
            })
            .collect();
        let call = call_to(&format!("http://{quick}/"), PATIENCE);
        let answer = finish(&begin(&pool, call, Cancel::default())).expect("an answer");
        assert_eq!(answer.body, b"hi");
        assert!(pending.iter().all(|receiver| receiver.try_recv().is_err()));
        assert!(pool.waiting() >= 48, "at most two of them run");
    }

    #[test]
    fn what_is_cancelled_is_not_called() {
        let (sender, asked) = mpsc::channel();
        let address = server(move |head, socket| {
            sender.send(head[0].clone()).expect("the test listens");
            socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").is_ok()
        });
        let pool = pool(2);
        let cancel = Cancel::default();
        cancel.cancel();
        let call = call_to(&format!("http://{address}/a"), PATIENCE);
        assert_eq!(finish(&begin(&pool, call, cancel)), Err(Failure::Cancelled));
        let call = call_to(&format!("http://{address}/b"), PATIENCE);
        finish(&begin(&pool, call, Cancel::default())).expect("an answer");
        assert_eq!(asked.try_iter().collect::<Vec<_>>(), ["GET /b HTTP/1.1"]);
    }

    #[test]
    fn more_calls_than_can_wait_are_refused_at_once() {
        let silent = server(|_, _| true);
        let pool = pool(2);
        let url = format!("http://{silent}/");
        let pending: Vec<_> = (0..CALLS_WAITING_MAX + 2)
            .map(|_| {
                begin(
                    &pool,
                    call_to(&url, Duration::from_mins(5)),
                    Cancel::default(),
                )
            })
            .collect();
        let refused = || {
            let outcomes = pending
                .iter()
                .filter_map(|receiver| receiver.try_recv().ok());
            outcomes
                .filter(|outcome| *outcome == Err(Failure::Busy))
                .count()
        };
        // One runs, and perhaps it had not begun when the last two came.
        assert!((1..=2).contains(&refused()));
    }

    #[test]
    fn nobody_there_is_one_kind_of_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let closed = listener.local_addr().expect("it is bound");
        drop(listener);
        let hanging_up = server(|_, _| false);
        for address in [closed, hanging_up] {
            assert_eq!(
                run(&format!("http://{address}/")),
                Err(Failure::Unreachable)
            );
        }
    }

    #[test]
    fn who_speaks_no_tls_is_not_trusted() {
        let plain = says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(run(&format!("https://{plain}/")), Err(Failure::Unreachable));
    }

    #[test]
    fn what_must_not_be_reached_is_refused_before_a_connection() {
        let (sender, asked) = mpsc::channel();
        let address = server(move |_, _| {
            sender.send(()).expect("the test listens");
            false
        });
        let port = address.port();
        let reach = Arc::new(Reach::new(false, Subnets::default()));
        let pool = Outbound::start(Options { threads: 2 }, reach).expect("threads");
        // Loopback in every spelling that the system's resolver understands.
        for host in [
            "127.0.0.1",
            "localhost",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "[::ffff:127.0.0.1]",
            "[::1]",
            "127.255.255.254",
        ] {
            let call = call_to(&format!("http://{host}:{port}/"), PATIENCE);
            assert_eq!(
                finish(&begin(&pool, call, Cancel::default())),
                Err(Failure::Forbidden),
                "{host}"
            );
        }
        assert!(asked.try_recv().is_err());
    }

    #[test]
    fn addresses_are_judged_the_same_however_they_are_written() {
        let at = |text: &str, port| SocketAddr::new(text.parse().expect("an address"), port);
        let strict = Reach::new(false, Subnets::parse(["10.66.0.0/16"]).expect("a subnet"));
        let open = Reach::new(true, Subnets::default());
        for never in [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "::",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "2001:0:a9fe:a9fe::1",
        ] {
            assert!(!strict.allows(at(never, 80)), "{never}");
            assert!(!open.allows(at(never, 80)), "{never}, even so");
        }
        for fine in [
            "10.0.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "93.184.216.34",
            "fd00::1",
            "2606::1",
        ] {
            assert!(strict.allows(at(fine, 80)), "{fine}");
        }
        for denied in ["10.66.1.1", "::ffff:10.66.1.1", "64:ff9b::10.66.1.1"] {
            assert!(!strict.allows(at(denied, 80)), "{denied}");
            assert!(open.allows(at(denied, 80)), "{denied}, not by all");
        }
        assert!(open.allows(at("127.0.0.1", 80)) && open.allows(at("::1", 80)));
        // Ourselves.
        let address = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = address.local_addr().expect("it is bound");
        open.listening_on(vec![address, at("0.0.0.0", 7)]);
        assert!(!open.allows(address));
        assert!(open.allows(at("127.0.0.2", address.port())));
        assert!(!open.allows(at("::ffff:127.0.0.1", address.port())));
        assert!(!open.allows(at("127.0.0.1", 7)) && open.allows(at("10.255.255.1", 7)));
    }

    #[test]
    fn only_plain_urls_of_http_are_targets() {
        for good in [
            "http://10.0.0.1",
            "https://auth.example.com/a/b?c=d",
            "HTTP://user:pass@auth.example.com:8080/auth",
            "http://[2001:db8::1]:80/",
            "http://x?y",
        ] {
            assert!(Target::parse(good).is_ok(), "{good}");
        }
        let long = format!("http://x/{}", "a".repeat(URL_BYTES_MAX));
        for bad in [
            "",
            "/relative",
            "auth.example.com",
            "file:///etc/passwd",
            "gopher://x/",
            "ftp://x/",
            "auth://other",
            "http://",
            "http:///path",
            "http://?x",
            "http://a b/",
            "http://a/\r\nHost: b",
            "http://a/\0",
            "http://b\u{fc}cher.example/",
            "http://a/#fragment",
            "http://a:x/",
            "http://a:99999/",
            "http://a:0/",
            "http://a:/",
            "http://a\\@b/",
            "http://metadata.google.internal/computeMetadata/v1/",
            "http://METADATA.google.internal./",
            "http://169.254.169.254/latest/",
            "http://[::ffff:169.254.169.254]/",
            "http://0.0.0.0/",
            "http://user@169.254.169.254/",
            &long,
        ] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
        let shown = format!("{:?}", Target::parse("http://u:secret@h/p").expect("good"));
        assert_eq!(shown, "http://h/p", "a log shows no password");
    }
}
