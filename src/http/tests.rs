//! Connections over real sockets: a small service on a runtime of its own thread, blocking clients in the test.
//!
//! Every story runs on the ring and on epoll. Nobody sleeps: a test waits for bytes, for an end of input, or asks the server for its
//! counters until they say what must come to be said. Time limits are injected short where a test is about them.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::*;
use crate::http::error::ApiError;
use crate::limits::Limits;
use crate::rt::{self, Inbox};

/// What a test can ask of the core it talks to.
enum Order {
    Counters(mpsc::Sender<Counters>),
    /// Answers everything that waits, in the order of arrival, and says how many there were.
    Complete(Vec<u8>, mpsc::Sender<usize>),
    CompleteShared(Vec<u8>, mpsc::Sender<usize>),
    /// Tries tickets that were done for.
    CompleteStale(mpsc::Sender<usize>),
    Drain,
}

#[derive(Default)]
struct Told {
    waiting: Vec<Ticket>,
    done: Vec<Ticket>,
    abandoned: usize,
}

struct TestService {
    told: RefCell<Told>,
}

impl Service for TestService {
    fn admit(&self, head: &Head<'_>, _peer: IpAddr) -> Result<Admission, Response> {
        match head.path {
            "/denied" => Err(ApiError::unauthorized("No credentials").into()),
            "/panic-admit" => panic!("admit went wrong"),
            "/small" => Ok(Admission { body_bytes_max: 10 }),
            _ => Ok(Admission {
                body_bytes_max: 16 * 1024 * 1024,
            }),
        }
    }

    fn call(&self, request: &Request<'_>, ticket: Ticket) -> Answer {
        let text = |text: String| Answer::Reply(Response::json(200, text.into_bytes()));
        match request.path {
            "/hello" | "/small" => text(format!("{{\"query\":\"{}\"}}", request.query)),
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
                self.told.borrow_mut().waiting.push(ticket);
                let deadline = request.query.parse().ok().map(Duration::from_millis);
                Answer::Wait { deadline }
            }
            "/last" => Answer::Reply(Response {
                close: true,
                ..Response::no_content()
            }),
            "/panic" => panic!("call went wrong"),
            _ => Answer::Reply(ApiError::not_found("no_path", "There is no such path").into()),
        }
    }

    fn expired(&self, ticket: Ticket) -> Response {
        self.told.borrow_mut().done.push(ticket);
        Response::json(200, b"\"expired\"".to_vec())
    }

    fn abandoned(&self, ticket: Ticket) {
        let mut told = self.told.borrow_mut();
        told.abandoned += 1;
        told.done.push(ticket);
        told.waiting.retain(|other| *other != ticket);
    }

    fn half_closed(&self, _ticket: Ticket) -> bool {
        // The test decides by what it has asked the server before.
        HALF_CLOSED_KEEPS.get()
    }
}

thread_local! {
    static HALF_CLOSED_KEEPS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

struct Server {
    address: SocketAddr,
    orders: Arc<Inbox<Order>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Setup {
    limits: Limits,
    epoll: bool,
    half_closed_keeps: bool,
}

impl Server {
    fn start(setup: Setup) -> Self {
        let orders = Arc::new(Inbox::new());
        let inbox = orders.clone();
        let (told, address) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let options = rt::Options {
                force_epoll: setup.epoll,
                ..rt::Options::default()
            };
            rt::run(&options, async move {
                HALF_CLOSED_KEEPS.set(setup.half_closed_keeps);
                let listener = rt::listen("127.0.0.1:0".parse().expect("an address"))
                    .expect("a free port");
                let service = Rc::new(TestService {
                    told: RefCell::default(),
                });
                let connections = Connections::new(Options {
                    limits: setup.limits,
                    ..Options::default()
                });
                rt::spawn(obey(inbox, service.clone(), connections.clone()));
                told.send(listener.local_addr()).expect("the test waits");
                serve(listener, service, connections.clone()).await;
                connections.drained().await;
                assert_eq!(connections.counters().open, 0);
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

    fn ask<T>(&self, order: impl FnOnce(mpsc::Sender<T>) -> Order) -> T {
        let (told, answer) = mpsc::channel();
        self.orders.push(order(told));
        answer.recv().expect("the core obeys")
    }

    fn counters(&self) -> Counters {
        self.ask(Order::Counters)
    }

    /// Until the counters say so.
    fn wait_for(&self, reached: impl Fn(&Counters) -> bool) -> Counters {
        loop {
            let counters = self.counters();
            if reached(&counters) {
                return counters;
            }
            std::thread::yield_now();
        }
    }

    fn client(&self) -> Client {
        let stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        Client {
            stream,
            read: Vec::new(),
        }
    }

    /// Drains and checks that the core has nothing left.
    fn stop(mut self) {
        self.orders.push(Order::Drain);
        let thread = self.thread.take().expect("stopped once");
        thread.join().expect("the core did not panic");
    }
}

async fn obey(inbox: Arc<Inbox<Order>>, service: Rc<TestService>, connections: Rc<Connections>) {
    loop {
        match inbox.recv().await {
            Order::Counters(told) => told.send(connections.counters()).expect("the test waits"),
            Order::Complete(body, told) => {
                let tickets = std::mem::take(&mut service.told.borrow_mut().waiting);
                let mut count = 0;
                for ticket in tickets {
                    count += usize::from(
                        connections.complete(ticket, Response::json(200, body.clone())),
                    );
                    assert!(!connections.complete(ticket, Response::no_content()));
                    service.told.borrow_mut().done.push(ticket);
                }
                told.send(count).expect("the test waits");
            }
            Order::CompleteShared(body, told) => {
                let tickets = std::mem::take(&mut service.told.borrow_mut().waiting);
                let prepared = connections.prepare(Response::json(200, body), Accepts::NONE);
                let mut count = 0;
                for ticket in tickets {
                    count += usize::from(connections.complete_shared(ticket, &prepared));
                    assert!(!connections.complete_shared(ticket, &prepared));
                }
                told.send(count).expect("the test waits");
            }
            Order::CompleteStale(told) => {
                let done = service.told.borrow().done.clone();
                let count = done
                    .into_iter()
                    .filter(|ticket| connections.complete(*ticket, Response::no_content()))
                    .count();
                told.send(count).expect("the test waits");
            }
            Order::Drain => connections.drain(),
        }
    }
}

struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("our answers are text")
    }
}

impl Client {
    fn send(&mut self, text: impl AsRef<[u8]>) -> &mut Self {
        self.stream
            .write_all(text.as_ref())
            .expect("the connection is open");
        self
    }

    fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let got = self.stream.read(&mut buffer).expect("no reset");
        self.read.extend_from_slice(&buffer[..got]);
        got > 0
    }

    /// The next answer, `with_body` unless it answers `HEAD`.
    fn reply_to(&mut self, with_body: bool) -> Reply {
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
        Reply { status, head, body }
    }

    fn reply(&mut self) -> Reply {
        self.reply_to(true)
    }

    fn get(&mut self, path: &str) -> Reply {
        self.send(get(path)).reply()
    }

    /// The server has ended the connection and sent nothing more.
    fn is_over(&mut self) {
        while self.fill() {}
        assert_eq!(self.read.escape_ascii().to_string(), "");
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn put(path: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// A server of each kind.
fn each(limits: &Limits, story: impl Fn(&Server)) {
    for epoll in [false, true] {
        let server = Server::start(Setup {
            limits: limits.clone(),
            epoll,
            half_closed_keeps: false,
        });
        story(&server);
        server.stop();
    }
}

/// Limits that no test reaches by accident, with a quick tick for drains.
fn patient() -> Limits {
    Limits {
        tick_ms: 10,
        linger_ms: 100,
        ..Limits::DEFAULT
    }
}

#[test]
fn a_request_is_answered_and_the_connection_stays_open() {
    each(&patient(), |server| {
        let mut client = server.client();
        for i in 0..3 {
            let reply = client.get(&format!("/hello?{i}"));
            assert_eq!(reply.status, 200);
            assert_eq!(reply.text(), format!("{{\"query\":\"{i}\"}}"));
            assert!(reply.head.contains("\r\nDate: "));
            assert!(reply.head.contains("\r\nX-Content-Type-Options: nosniff\r\n"));
            assert!(reply.head.contains("\r\nAccess-Control-Allow-Origin: *\r\n"));
            assert!(!reply.head.contains("\r\nConnection: "));
        }
        assert_eq!(client.get("/nowhere").status, 404);
        assert_eq!(client.send(put("/echo", b"[1,2]")).reply().text(), "[1,2]");
        let counters = server.counters();
        assert_eq!((counters.accepted, counters.open, counters.requests), (1, 1, 5));
    });
}
