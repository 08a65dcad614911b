//! Test kit: a small service on a runtime of its own thread, and blocking clients.
//!
//! Every test runs on the ring and on epoll. No test sleeps: it waits for bytes, for the end of
//! input, or queries the counters of the server until they are as wanted. Tests about time limits
//! set short ones.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error;
use crate::http::{
    Accepts, Admission, Answer, Body, ConnectionOptions, Connections, Counters, Ended, Head, Lines,
    Request, Response, Service, Ticket, Upgrade, serve,
};
use crate::limits::Limits;
use crate::rt::{self, Inbox};

/// An order of a test to the core that it is connected to.
pub(super) enum TestOrder {
    Counters(mpsc::Sender<Counters>),
    /// Answers every waiting request in the order of arrival; replies how many there were.
    Complete(Vec<u8>, mpsc::Sender<usize>),
    CompleteShared(Vec<u8>, mpsc::Sender<usize>),
    /// Tries to complete invalid tickets; replies how many it could.
    CompleteStale(mpsc::Sender<usize>),
    /// Sends a line on every upgraded connection; replies how many took it.
    SendLine(Vec<u8>, mpsc::Sender<usize>),
    /// Ends every upgraded connection; replies how many there were.
    EndLines(Vec<u8>, mpsc::Sender<usize>),
    /// Why upgraded connections ended, in that order.
    Ended(mpsc::Sender<Vec<Ended>>),
    Drain,
}

#[derive(Default)]
pub(super) struct ServiceLog {
    pub(super) waiting: Vec<Ticket>,
    pub(super) done: Vec<Ticket>,
    pub(super) abandoned: usize,
    pub(super) upgraded: Vec<Ticket>,
    pub(super) ended: Vec<Ended>,
}

pub(super) struct TestService {
    pub(super) log: RefCell<ServiceLog>,
}

impl Service for TestService {
    /// The path, as `admit` saw it.
    type Admitted = Box<str>;

    fn admit(&self, head: &Head<'_>, _peer: IpAddr) -> Result<Admission<Box<str>>, Response> {
        match head.path {
            "/denied" => Err(error::UNAUTHORIZED.error().into()),
            "/panic-admit" => panic!("admit went wrong"),
            "/small" => Ok(Admission {
                body_bytes_max: 10,
                admitted: head.path.into(),
            }),
            _ => Ok(Admission {
                body_bytes_max: 16 * 1024 * 1024,
                admitted: head.path.into(),
            }),
        }
    }

    fn call(&self, request: &Request<'_>, admitted: Box<str>, ticket: Ticket) -> Answer {
        assert_eq!(*admitted, *request.path);
        let text = |text: String| Answer::Reply(Response::json(200, text.into_bytes()));
        match request.path {
            "/hello" | "/small" => text(format!("{{\"query\":\"{}\"}}", request.query)),
            "/late" => text(request.body_late.to_string()),
            "/echo" => Answer::Reply(Response::json(200, request.body.to_vec())),
            "/method" => text(request.method.as_str().to_owned()),
            "/owned" => {
                let bytes = request.query.parse().expect("a number");
                let body = (0..bytes).map(|i: usize| b'a' + (i % 23) as u8).collect();
                Answer::Reply(Response::with_body(200, "text/x", Body::Owned(body)))
            }
            "/shared" => {
                let bytes = request.query.parse().expect("a number");
                let body: Vec<u8> = (0..bytes).map(|i: usize| b'a' + (i % 23) as u8).collect();
                Answer::Reply(Response::shared(200, None, body.into()))
            }
            "/wait" | "/keep" => {
                self.log.borrow_mut().waiting.push(ticket);
                let deadline = request.query.parse().ok().map(Duration::from_millis);
                Answer::Wait { deadline }
            }
            "/lines" if request.offers("test/1") => {
                self.log.borrow_mut().upgraded.push(ticket);
                let silence = request.query.parse().unwrap_or(60_000);
                Answer::Upgrade(Upgrade {
                    protocol: "test/1",
                    headers: vec![("X-Greeting", "hi".into())],
                    greeting: b"hi\n".to_vec(),
                    silence_max: Duration::from_millis(silence),
                })
            }
            "/lines" => text("\"requests\"".to_owned()),
            "/last" => Answer::Reply(Response {
                close: true,
                ..Response::no_content()
            }),
            "/panic" => panic!("call went wrong"),
            _ => Answer::Reply(error::NOT_FOUND.error().into()),
        }
    }

    fn timeout_response(&self, ticket: Ticket) -> Response {
        self.log.borrow_mut().done.push(ticket);
        Response::json(200, b"\"expired\"".to_vec())
    }

    fn on_abandoned(&self, ticket: Ticket) {
        let mut log = self.log.borrow_mut();
        log.abandoned += 1;
        log.done.push(ticket);
        log.waiting.retain(|other| *other != ticket);
    }

    fn on_line(&self, ticket: Ticket, line: &[u8], out: &mut Vec<u8>) -> Lines {
        assert!(self.log.borrow().upgraded.contains(&ticket));
        let text = std::str::from_utf8(line).expect("the tests send text");
        match text.split_once(' ') {
            Some(("fill", count)) => {
                let count = count.parse().expect("a number");
                out.extend(std::iter::repeat_n(b'x', count));
                out.push(b'\n');
            }
            None if text == "end" => return Lines::End,
            None if text == "panic" => panic!("a line went wrong"),
            _ => {
                out.extend_from_slice(line);
                out.push(b'\n');
            }
        }
        Lines::Continue
    }

    fn on_close(&self, _ticket: Ticket, why: Ended, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("bye {why:?}\n").as_bytes());
    }

    fn on_closed(&self, ticket: Ticket, why: Ended) {
        let mut log = self.log.borrow_mut();
        log.upgraded.retain(|other| *other != ticket);
        log.done.push(ticket);
        log.ended.push(why);
    }

    fn keeps_half_closed(&self, _ticket: Ticket) -> bool {
        // Set when the server starts.
        HALF_CLOSED_KEEPS.get()
    }
}

thread_local! {
    static HALF_CLOSED_KEEPS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

pub(super) struct TestServer {
    pub(super) address: SocketAddr,
    pub(super) orders: Arc<Inbox<TestOrder>>,
    pub(super) thread: Option<JoinHandle<()>>,
}

#[derive(Clone)]
pub(super) struct Setup {
    pub(super) limits: Limits,
    pub(super) epoll: bool,
    pub(super) half_closed_keeps: bool,
}

impl TestServer {
    pub(super) fn start(setup: Setup) -> Self {
        let orders = Arc::new(Inbox::new());
        let inbox = orders.clone();
        let (reply, address) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let options = rt::Options {
                force_epoll: setup.epoll,
                ..rt::Options::default()
            };
            rt::run(&options, async move {
                HALF_CLOSED_KEEPS.set(setup.half_closed_keeps);
                let listener =
                    rt::listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
                let service = Rc::new(TestService {
                    log: RefCell::default(),
                });
                let connections = Connections::new(ConnectionOptions {
                    limits: setup.limits,
                    ..ConnectionOptions::default()
                });
                rt::spawn(run_orders(inbox, service.clone(), connections.clone()));
                reply.send(listener.local_addr()).expect("the test waits");
                serve(listener, service, connections.clone()).await;
                connections.drained().await;
                assert_eq!(connections.counters().connections.open, 0);
                assert_eq!(connections.counters().waiting, 0);
            })
            .expect("a runtime");
        });
        Self {
            address: address.recv().expect("the server starts"),
            orders,
            thread: Some(thread),
        }
    }

    pub(super) fn query<T>(&self, order: impl FnOnce(mpsc::Sender<T>) -> TestOrder) -> T {
        let (reply, answer) = mpsc::channel();
        self.orders.push(order(reply));
        answer.recv().expect("the core answers")
    }

    pub(super) fn counters(&self) -> Counters {
        self.query(TestOrder::Counters)
    }

    /// Waits until the counters are as wanted.
    pub(super) fn wait_for(&self, reached: impl Fn(&Counters) -> bool) -> Counters {
        loop {
            let counters = self.counters();
            if reached(&counters) {
                return counters;
            }
            std::thread::yield_now();
        }
    }

    pub(super) fn client(&self) -> TestClient {
        let stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        TestClient {
            stream,
            read: Vec::new(),
        }
    }

    /// Drains, and checks that the core has nothing left.
    pub(super) fn stop(mut self) {
        self.orders.push(TestOrder::Drain);
        let thread = self.thread.take().expect("stopped once");
        thread.join().expect("the core did not panic");
    }
}

pub(super) async fn run_orders(
    inbox: Arc<Inbox<TestOrder>>,
    service: Rc<TestService>,
    connections: Rc<Connections<Box<str>>>,
) {
    loop {
        match inbox.recv().await {
            TestOrder::Counters(reply) => {
                reply.send(connections.counters()).expect("the test waits");
            }
            TestOrder::Complete(body, reply) => {
                let tickets = std::mem::take(&mut service.log.borrow_mut().waiting);
                let mut count = 0;
                for ticket in tickets {
                    count += usize::from(
                        connections.complete(ticket, Response::json(200, body.clone())),
                    );
                    assert!(!connections.complete(ticket, Response::no_content()));
                    service.log.borrow_mut().done.push(ticket);
                }
                reply.send(count).expect("the test waits");
            }
            TestOrder::CompleteShared(body, reply) => {
                let tickets = std::mem::take(&mut service.log.borrow_mut().waiting);
                let prepared = connections.prepare(Response::json(200, body), Accepts::NONE);
                let mut count = 0;
                for ticket in tickets {
                    count += usize::from(connections.complete_shared(ticket, &prepared));
                    assert!(!connections.complete_shared(ticket, &prepared));
                }
                reply.send(count).expect("the test waits");
            }
            TestOrder::CompleteStale(reply) => {
                let done = service.log.borrow().done.clone();
                let count = done
                    .into_iter()
                    .filter(|ticket| connections.complete(*ticket, Response::no_content()))
                    .count();
                reply.send(count).expect("the test waits");
            }
            TestOrder::SendLine(line, reply) => {
                let upgraded = service.log.borrow().upgraded.clone();
                let took = |ticket: &&Ticket| connections.send_line(**ticket, &line);
                reply
                    .send(upgraded.iter().filter(took).count())
                    .expect("the test waits");
            }
            TestOrder::EndLines(last, reply) => {
                let upgraded = service.log.borrow().upgraded.clone();
                let ended = |ticket: &&Ticket| connections.end_lines(**ticket, &last);
                reply
                    .send(upgraded.iter().filter(ended).count())
                    .expect("the test waits");
            }
            TestOrder::Ended(reply) => reply
                .send(service.log.borrow().ended.clone())
                .expect("the test waits"),
            TestOrder::Drain => connections.drain(),
        }
    }
}

pub(super) struct TestClient {
    pub(super) stream: TcpStream,
    pub(super) read: Vec<u8>,
}

pub(super) struct TestReply {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl TestReply {
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("our answers are text")
    }
}

impl TestClient {
    pub(super) fn send(&mut self, text: impl AsRef<[u8]>) -> &mut Self {
        self.stream
            .write_all(text.as_ref())
            .expect("the connection is open");
        self
    }

    pub(super) fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let got = self.stream.read(&mut buffer).expect("no reset");
        self.read.extend_from_slice(&buffer[..got]);
        got > 0
    }

    /// The next answer, `with_body` unless it answers `HEAD`.
    pub(super) fn reply_to(&mut self, with_body: bool) -> TestReply {
        let head_len = loop {
            match memchr::memmem::find(&self.read, b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => assert!(
                    self.fill(),
                    "the connection ended inside of {:?}",
                    self.read.escape_ascii().to_string()
                ),
            }
        };
        let head = String::from_utf8(self.read[..head_len].to_vec()).expect("a head is ASCII");
        let status = head[9..12].parse().expect("a status");
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .map_or(0, |length| length.parse().expect("a number"));
        let length = if with_body { length } else { 0 };
        while self.read.len() < head_len + length {
            assert!(self.fill(), "the connection ended inside a body");
        }
        let body = self.read[head_len..head_len + length].to_vec();
        self.read.drain(..head_len + length);
        TestReply { status, head, body }
    }

    pub(super) fn reply(&mut self) -> TestReply {
        self.reply_to(true)
    }

    pub(super) fn get(&mut self, path: &str) -> TestReply {
        self.send(get(path)).reply()
    }

    /// Checks that the server has ended the connection and sent nothing more.
    pub(super) fn is_over(&mut self) {
        while self.fill() {}
        assert_eq!(self.read.escape_ascii().to_string(), "");
    }
}

pub(super) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

pub(super) fn put(path: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// Runs a test on the ring and on epoll.
pub(super) fn each(limits: &Limits, test: impl Fn(&TestServer)) {
    for epoll in [false, true] {
        let server = TestServer::start(Setup {
            limits: limits.clone(),
            epoll,
            half_closed_keeps: false,
        });
        test(&server);
        server.stop();
    }
}

/// Limits that no test reaches by accident, with a short tick for drains.
pub(super) fn patient() -> Limits {
    Limits {
        tick_ms: 10,
        linger_ms: 100,
        drain_delay_ms: 50,
        ..Limits::DEFAULT
    }
}
