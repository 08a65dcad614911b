//! Media servers for tests of the bridge and of the connector: each behaves like the real one where
//! that matters to a client of its control API, and has faults that a test switches on.
//!
//! One request per connection, unless the kind keeps connections. Ports are below those of outgoing
//! connections, so that no other process takes one while its server is away.

mod go2rtc;
mod mediamtx;
mod node_media_server;
mod srs;
mod streamer;
mod weir;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

pub use go2rtc::FakeGo2rtc;
pub use mediamtx::FakeMediaMtx;
pub use node_media_server::FakeNodeMediaServer;
pub use srs::FakeSrs;
pub use streamer::{FakePages, FakeStreamer};
pub use weir::FakeWeir;

/// Ports that no outgoing connection gets.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// A client that sends nothing is dropped after this.
const READ_WITHIN: Duration = Duration::from_secs(20);
/// Pause between the bytes of [`FakeFault::Drip`].
const DRIP_EVERY: Duration = Duration::from_millis(20);
/// Body of [`FakeFault::Huge`].
const HUGE_BYTES: usize = 100 << 20;

/// A request as a server sees it.
#[derive(Debug, Clone)]
pub struct FakeRequest {
    pub method: String,
    /// Decoded.
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub authorization: Option<String>,
    pub body: Vec<u8>,
    /// Another request was being answered when this one came.
    pub overlaps: bool,
    /// This one changes something, and so did another that was being answered.
    pub overlaps_change: bool,
}

impl FakeRequest {
    pub fn is_change(&self) -> bool {
        self.method != "GET"
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A parameter of the query; empty if it is absent.
    pub fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }
}

#[derive(Debug, Clone)]
pub struct FakeAnswer {
    pub status: u16,
    /// Further fields, each with its line end.
    pub fields: String,
    pub body: Vec<u8>,
}

impl FakeAnswer {
    pub fn json(status: u16, body: &Value) -> Self {
        Self::text(status, &body.to_string())
    }

    pub fn text(status: u16, body: &str) -> Self {
        Self {
            status,
            fields: String::new(),
            body: body.as_bytes().to_vec(),
        }
    }
}

/// What goes wrong with an answer. The request has had its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FakeFault {
    Status(u16),
    /// The connection breaks in the middle of the body.
    Cut,
    /// 200 with a body of another form.
    Garbage,
    /// 200 with 100 MB.
    Huge,
    /// 302 to another path of this server.
    Redirect,
    /// No answer, and the connection stays open.
    Hang,
    /// A head that announces a body, and then byte by byte.
    Drip,
    /// The body never ends.
    Endless,
    /// A body with a content coding.
    Coded,
    /// The connection is closed after a whole answer that does not announce it.
    Closes,
}

/// The part of a server that is its own.
pub trait FakeKind: Send + 'static {
    fn answer(&mut self, request: &FakeRequest) -> FakeAnswer;

    /// The process starts again: what it does not keep is lost.
    fn restart(&mut self);

    /// Connections carry one request after the other.
    fn keeps_alive(&self) -> bool {
        false
    }

    /// The process ended by itself: it answers no more.
    fn is_dead(&self) -> bool {
        false
    }
}

struct FakeState<K> {
    kind: Mutex<K>,
    requests: Mutex<Vec<FakeRequest>>,
    fault: Mutex<Option<FakeFault>>,
    /// Answers to this path are held until another is set.
    held: Mutex<Option<&'static str>>,
    released: Condvar,
    in_flight: AtomicUsize,
    changes_in_flight: AtomicUsize,
    connections: AtomicUsize,
    is_stopped: AtomicBool,
    is_frozen: Arc<AtomicBool>,
}

/// A running server of one kind.
pub struct FakeServer<K> {
    address: SocketAddr,
    media: SocketAddr,
    state: Arc<FakeState<K>>,
    acceptor: Option<JoinHandle<()>>,
    media_port: Option<FakeMedia>,
}

/// The port at which a fake serves media: it answers the first bytes of a client with one, and
/// then ends the connection.
struct FakeMedia {
    address: SocketAddr,
    is_stopped: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl FakeMedia {
    fn new(listener: TcpListener, is_frozen: Arc<AtomicBool>) -> Self {
        let address = listener.local_addr().expect("it is bound");
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = is_stopped.clone();
        let acceptor = thread::spawn(move || {
            // A process that hangs accepts no connection: the system does, and holds them.
            let mut held = Vec::new();
            for socket in listener.incoming().flatten() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                if is_frozen.load(Ordering::Acquire) {
                    held.push(socket);
                    continue;
                }
                let limited = socket.set_read_timeout(Some(READ_WITHIN));
                limited.expect("the time is not zero");
                // The client may have gone.
                if (&socket).read(&mut [0; 64]).is_ok_and(|count| count > 0) {
                    let _ = (&socket).write_all(b"R");
                }
            }
        });
        Self {
            address,
            is_stopped,
            acceptor: Some(acceptor),
        }
    }
}

impl Drop for FakeMedia {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Release);
        // Wakes the thread; it may have ended already.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// A listener on a port of its own.
fn listen() -> TcpListener {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = (std::process::id() % 1_000) as u16 * 11;
    for _ in PORTS {
        let step = own.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + step % (PORTS.end - PORTS.start);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener;
        }
    }
    panic!("no port in {PORTS:?} is free");
}

/// An address that refuses connections.
pub fn unused_address() -> SocketAddr {
    listen().local_addr().expect("it is bound")
}

impl<K: FakeKind> FakeServer<K> {
    pub fn new(kind: K) -> Self {
        let (api, media_port) = (listen(), listen());
        let address = api.local_addr().expect("it is bound");
        let is_frozen = Arc::new(AtomicBool::new(false));
        let mut server = Self {
            address,
            media: media_port.local_addr().expect("it is bound"),
            state: Arc::new(FakeState {
                kind: Mutex::new(kind),
                requests: Mutex::default(),
                fault: Mutex::default(),
                held: Mutex::default(),
                released: Condvar::new(),
                in_flight: AtomicUsize::new(0),
                changes_in_flight: AtomicUsize::new(0),
                connections: AtomicUsize::new(0),
                is_stopped: AtomicBool::new(false),
                is_frozen: is_frozen.clone(),
            }),
            acceptor: None,
            media_port: Some(FakeMedia::new(media_port, is_frozen)),
        };
        server.serve(api);
        server
    }

    fn serve(&mut self, listener: TcpListener) {
        self.state.is_stopped.store(false, Ordering::Release);
        let state = self.state.clone();
        self.acceptor = Some(thread::spawn(move || {
            for socket in listener.incoming() {
                if state.is_stopped.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(socket), state) = (socket, state.clone()) else {
                    continue;
                };
                thread::spawn(move || serve(&socket, &state));
            }
        }));
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it serves media.
    pub fn media(&self) -> String {
        self.media.to_string()
    }

    /// The state of the server, to look at and to change.
    pub fn kind(&self) -> MutexGuard<'_, K> {
        self.state.kind.lock().expect("no thread panics here")
    }

    /// The requests that changed something, and forgets them.
    pub fn take_changes(&self) -> Vec<FakeRequest> {
        let mut requests = self.state.requests.lock().expect("no thread panics here");
        let all = std::mem::take(&mut *requests);
        all.into_iter().filter(FakeRequest::is_change).collect()
    }

    /// The number of requests of any kind since the last take.
    pub fn request_count(&self) -> usize {
        let requests = self.state.requests.lock();
        requests.expect("no thread panics here").len()
    }

    /// The number of connections so far.
    pub fn connection_count(&self) -> usize {
        self.state.connections.load(Ordering::Acquire)
    }

    /// The requests of any kind since the last take, which are forgotten.
    pub fn take_requests(&self) -> Vec<FakeRequest> {
        let requests = self.state.requests.lock();
        std::mem::take(&mut *requests.expect("no thread panics here"))
    }

    /// All answers have this fault, until another is set.
    pub fn set_fault(&self, fault: Option<FakeFault>) {
        *self.state.fault.lock().expect("no thread panics here") = fault;
    }

    /// Answers to a path are made, and sent only when another path, or none, is set.
    pub fn hold(&self, path: Option<&'static str>) {
        *self.state.held.lock().expect("no thread panics here") = path;
        self.state.released.notify_all();
    }

    /// The control API refuses connections.
    pub fn stop_api(&mut self) {
        self.state.is_stopped.store(true, Ordering::Release);
        if let Some(acceptor) = self.acceptor.take() {
            // Wakes the thread, which sees that it is over.
            let _ = TcpStream::connect(self.address);
            acceptor.join().expect("the thread does not panic");
        }
    }

    /// The control API and the media port refuse connections.
    pub fn stop(&mut self) {
        self.stop_api();
        self.media_port = None;
    }

    /// The process hangs, or goes on: connections are accepted, and nothing is answered.
    pub fn set_frozen(&self, is_frozen: bool) {
        self.state.is_frozen.store(is_frozen, Ordering::Release);
    }

    /// Starts again as a new process on the same ports.
    pub fn start(&mut self) {
        self.kind().restart();
        self.start_api();
        if self.media_port.is_none() {
            let listener = bind_again(self.media);
            self.media_port = Some(FakeMedia::new(listener, self.state.is_frozen.clone()));
        }
    }

    /// The control API accepts connections again.
    pub fn start_api(&mut self) {
        assert!(self.acceptor.is_none(), "the server is running already");
        self.serve(bind_again(self.address));
    }
}

/// Connections of the earlier listener may not be over yet.
fn bind_again(address: SocketAddr) -> TcpListener {
    crate::wait::wait_until(
        "the port is free again",
        || TcpListener::bind(address),
        Result::is_ok,
    )
    .expect("waited for")
}

impl<K> Drop for FakeServer<K> {
    fn drop(&mut self) {
        self.state.is_stopped.store(true, Ordering::Release);
        // Wakes the thread; it may have ended already.
        let _ = TcpStream::connect(self.address);
    }
}

/// Counts a request as being answered.
struct InFlight<'c> {
    count: &'c AtomicUsize,
    overlaps: bool,
}

impl<'c> InFlight<'c> {
    fn new(count: &'c AtomicUsize) -> Self {
        let overlaps = count.fetch_add(1, Ordering::AcqRel) > 0;
        Self { count, overlaps }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}

fn serve<K: FakeKind>(socket: &TcpStream, state: &FakeState<K>) {
    let limited = socket.set_read_timeout(Some(READ_WITHIN));
    limited.expect("the time is not zero");
    state.connections.fetch_add(1, Ordering::AcqRel);
    let mut lines = BufReader::new(socket);
    while let Some(mut request) = read(&mut lines) {
        if state.is_frozen.load(Ordering::Acquire) {
            // Until the client gives up.
            let _ = read(&mut lines);
            return;
        }
        let in_flight = InFlight::new(&state.in_flight);
        request.overlaps = in_flight.overlaps;
        let change = request
            .is_change()
            .then(|| InFlight::new(&state.changes_in_flight));
        request.overlaps_change = change.as_ref().is_some_and(|change| change.overlaps);
        let kind = state.kind.lock();
        let mut kind = kind.expect("no thread panics here");
        if state.is_stopped.load(Ordering::Acquire) && kind.keeps_alive() {
            return;
        }
        let requests = state.requests.lock();
        requests
            .expect("no thread panics here")
            .push(request.clone());
        let answer = kind.answer(&request);
        let (is_dead, keeps_alive) = (kind.is_dead(), kind.keeps_alive());
        drop(kind);
        let held = state.held.lock().expect("no thread panics here");
        let is_held = |held: &mut Option<&str>| *held == Some(&*request.path);
        let released = state
            .released
            .wait_timeout_while(held, READ_WITHIN, is_held);
        drop(released.expect("no thread panics here"));
        // Before the answer: its client may send the next request at once.
        drop((in_flight, change));
        let fault = *state.fault.lock().expect("no thread panics here");
        if is_dead {
            return;
        }
        if fault == Some(FakeFault::Hang) {
            // Until the client gives up.
            let _ = read(&mut lines);
            return;
        }
        // The client may have given up.
        let written = write(socket, answer, fault, keeps_alive);
        if written.is_err() || !keeps_alive || fault.is_some() {
            return;
        }
    }
}

fn read(lines: &mut BufReader<&TcpStream>) -> Option<FakeRequest> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        head.push(line.to_owned());
    }
    let field = |name: &str| {
        let fields = head.iter().filter_map(|line| line.split_once(':'));
        let mut found = fields.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim().to_owned())
    };
    let length = field("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    lines.read_exact(&mut body).ok()?;
    let mut words = head.first()?.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let decoded = |text: &str| {
        let text = text.replace('+', " ");
        let decoded = percent_encoding::percent_decode_str(&text);
        decoded.decode_utf8_lossy().into_owned()
    };
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    Some(FakeRequest {
        method: method.to_owned(),
        path: decoded(path),
        query: pairs
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect(),
        authorization: field("authorization"),
        body,
        overlaps: false,
        overlaps_change: false,
    })
}

fn write(
    mut socket: &TcpStream,
    answer: FakeAnswer,
    fault: Option<FakeFault>,
    keeps_alive: bool,
) -> std::io::Result<()> {
    let answer = match fault {
        None | Some(FakeFault::Closes | FakeFault::Cut | FakeFault::Hang | FakeFault::Drip) => {
            answer
        }
        Some(FakeFault::Status(status)) => FakeAnswer::text(status, "fault"),
        Some(FakeFault::Garbage) => FakeAnswer::text(200, "<html>not what you expect</html>"),
        Some(FakeFault::Huge) => FakeAnswer {
            status: 200,
            fields: String::new(),
            body: vec![b' '; HUGE_BYTES],
        },
        Some(FakeFault::Redirect) => FakeAnswer {
            status: 302,
            fields: "Location: /redirected\r\n".to_owned(),
            body: Vec::new(),
        },
        Some(FakeFault::Coded) => FakeAnswer {
            fields: "Content-Encoding: gzip\r\n".to_owned(),
            ..answer
        },
        Some(FakeFault::Endless) => {
            socket.write_all(b"HTTP/1.1 200 Fake\r\n\r\n{\"a\":\"")?;
            let part = [b'x'; 8 * 1024];
            loop {
                socket.write_all(&part)?;
            }
        }
    };
    let connection = if keeps_alive { "keep-alive" } else { "close" };
    let head = format!(
        "HTTP/1.1 {} Fake\r\nConnection: {connection}\r\nContent-Length: {}\r\n{}\r\n",
        answer.status,
        answer.body.len(),
        answer.fields
    );
    if fault == Some(FakeFault::Drip) {
        socket.write_all(head.as_bytes())?;
        // Nothing is ever sent on it: it only paces.
        let (_keep, never) = std::sync::mpsc::channel::<()>();
        for byte in &answer.body {
            let _ = never.recv_timeout(DRIP_EVERY);
            socket.write_all(&[*byte])?;
        }
        return Ok(());
    }
    let end = if fault == Some(FakeFault::Cut) {
        answer.body.len() / 2
    } else {
        answer.body.len()
    };
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&answer.body[..end]);
    socket.write_all(&bytes)
}
