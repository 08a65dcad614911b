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

use super::sizes;
use crate::error;
use crate::http::{
    Accepts, Admission, Answer, Body, ConnectionOptions, Connections, Counters, Ended, Head, Lines,
    Request, Response, Service, Ticket, Upgrade, serve,
};
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
    /// Says something on every connection of lines, and tells how many took it.
    Say(Vec<u8>, mpsc::Sender<usize>),
    /// Ends every connection of lines, and tells how many there were.
    EndLines(Vec<u8>, mpsc::Sender<usize>),
    /// Why connections of lines ended, in that order.
    Ended(mpsc::Sender<Vec<Ended>>),
    Drain,
}

#[derive(Default)]
struct Told {
    waiting: Vec<Ticket>,
    done: Vec<Ticket>,
    abandoned: usize,
    upgraded: Vec<Ticket>,
    ended: Vec<Ended>,
}

struct TestService {
    told: RefCell<Told>,
}

impl Service for TestService {
    type Admitted = ();

    fn admit(&self, head: &Head<'_>, _peer: IpAddr) -> Result<Admission<()>, Response> {
        match head.path {
            "/denied" => Err(error::UNAUTHORIZED.titled("No credentials").into()),
            "/panic-admit" => panic!("admit went wrong"),
            "/small" => Ok(Admission {
                body_bytes_max: 10,
                admitted: (),
            }),
            _ => Ok(Admission {
                body_bytes_max: 16 * 1024 * 1024,
                admitted: (),
            }),
        }
    }

    fn call(&self, request: &Request<'_>, (): (), ticket: Ticket) -> Answer {
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
            "/lines" if request.asks_for("test/1") => {
                self.told.borrow_mut().upgraded.push(ticket);
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
        self.told.borrow_mut().done.push(ticket);
        Response::json(200, b"\"expired\"".to_vec())
    }

    fn on_abandoned(&self, ticket: Ticket) {
        let mut told = self.told.borrow_mut();
        told.abandoned += 1;
        told.done.push(ticket);
        told.waiting.retain(|other| *other != ticket);
    }

    fn on_line(&self, ticket: Ticket, line: &[u8], out: &mut Vec<u8>) -> Lines {
        assert!(self.told.borrow().upgraded.contains(&ticket));
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
        let mut told = self.told.borrow_mut();
        told.upgraded.retain(|other| *other != ticket);
        told.done.push(ticket);
        told.ended.push(why);
    }

    fn keeps_half_closed(&self, _ticket: Ticket) -> bool {
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
                let listener =
                    rt::listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
                let service = Rc::new(TestService {
                    told: RefCell::default(),
                });
                let connections = Connections::new(ConnectionOptions {
                    limits: setup.limits,
                    ..ConnectionOptions::default()
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

async fn obey(
    inbox: Arc<Inbox<Order>>,
    service: Rc<TestService>,
    connections: Rc<Connections<()>>,
) {
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
            Order::Say(line, told) => {
                let upgraded = service.told.borrow().upgraded.clone();
                let took = |ticket: &&Ticket| connections.send_line(**ticket, &line);
                told.send(upgraded.iter().filter(took).count())
                    .expect("the test waits");
            }
            Order::EndLines(last, told) => {
                let upgraded = service.told.borrow().upgraded.clone();
                let ended = |ticket: &&Ticket| connections.end_lines(**ticket, &last);
                told.send(upgraded.iter().filter(ended).count())
                    .expect("the test waits");
            }
            Order::Ended(told) => told
                .send(service.told.borrow().ended.clone())
                .expect("the test waits"),
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
            assert!(
                reply
                    .head
                    .contains("\r\nX-Content-Type-Options: nosniff\r\n")
            );
            assert!(
                reply
                    .head
                    .contains("\r\nAccess-Control-Allow-Origin: *\r\n")
            );
            assert!(!reply.head.contains("\r\nConnection: "));
        }
        assert_eq!(client.get("/nowhere").status, 404);
        assert_eq!(client.send(put("/echo", b"[1,2]")).reply().text(), "[1,2]");
        let counters = server.counters();
        assert_eq!(
            (counters.accepted, counters.open, counters.requests),
            (1, 1, 5)
        );
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    each(&patient(), |server| {
        let mut client = server.client();
        let requests: String = (0..100).map(|i| get(&format!("/hello?{i}"))).collect();
        client.send(requests);
        for i in 0..100 {
            assert_eq!(client.reply().text(), format!("{{\"query\":\"{i}\"}}"));
        }
    });
}

#[test]
fn a_client_that_sends_much_and_reads_late_gets_everything_in_order() {
    each(&patient(), |server| {
        // More answers than all buffers between the two hold, so the server has to stop reading for a while.
        let count = 3000;
        let mut client = server.client();
        let mut writer = client.stream.try_clone().expect("a socket");
        let sender = std::thread::spawn(move || {
            for i in 0..count {
                let path = if i % 3 == 0 {
                    "/owned?20000"
                } else {
                    "/owned?900"
                };
                writer
                    .write_all(get(path).as_bytes())
                    .expect("the server reads on");
            }
        });
        for i in 0..count {
            let expected = if i % 3 == 0 { 20_000 } else { 900 };
            let reply = client.reply();
            assert_eq!(reply.body.len(), expected, "answer {i}");
            assert!(reply.body.starts_with(b"abcdefghijklmnopqrstuvwabc"));
        }
        sender.join().expect("all requests were taken");
    });
}

#[test]
fn large_bodies_arrive_whole_at_a_slow_reader() {
    each(&patient(), |server| {
        let mut client = server.client();
        client.send(get("/owned?3000001") + &get("/shared?5000002") + &get("/hello?end"));
        for expected in [3_000_001_usize, 5_000_002] {
            let body = client.reply().body;
            assert_eq!(body.len(), expected);
            let intact = body
                .iter()
                .enumerate()
                .all(|(i, byte)| *byte == b'a' + (i % 23) as u8);
            assert!(intact);
        }
        assert_eq!(client.reply().text(), "{\"query\":\"end\"}");
    });
}

#[test]
fn a_request_that_waits_is_answered_later_and_the_connection_goes_on() {
    each(&patient(), |server| {
        let mut client = server.client();
        for round in 0..5 {
            client.send(get("/wait"));
            let counters = server.wait_for(|counters| counters.waiting == 1);
            assert_eq!(counters.waits, round);
            let body = format!("\"round {round}\"");
            let done = server.ask(|told| Order::Complete(body.clone().into_bytes(), told));
            assert_eq!(done, 1);
            assert_eq!(client.reply().text(), body);
        }
        assert_eq!(client.get("/hello?x").status, 200);
    });
}

#[test]
fn what_is_sent_while_a_request_waits_is_answered_after_it() {
    each(&patient(), |server| {
        let ahead = get("/hello?1") + &get("/wait") + &get("/hello?2");
        // Cut at every place between "arrives with the first request" and "arrives while it waits".
        for cut in (0..=ahead.len()).step_by(3) {
            let mut client = server.client();
            client.send(get("/wait") + &ahead[..cut]);
            server.wait_for(|counters| counters.waiting == 1);
            let before = server.counters().bytes_in;
            client.send(&ahead[cut..]);
            server.wait_for(|counters| counters.bytes_in == before + (ahead.len() - cut) as u64);
            for body in ["\"first\"", "\"second\""] {
                let done = server.ask(|told| Order::Complete(body.as_bytes().to_vec(), told));
                assert_eq!(done, 1);
                assert_eq!(client.reply().text(), body);
                if body == "\"first\"" {
                    assert_eq!(client.reply().text(), "{\"query\":\"1\"}");
                    server.wait_for(|counters| counters.waiting == 1);
                }
            }
            assert_eq!(client.reply().text(), "{\"query\":\"2\"}");
        }
    });
}

#[test]
fn a_waiting_client_cannot_make_us_keep_more_than_the_limit() {
    each(&patient(), |server| {
        let mut client = server.client();
        client.send(get("/wait"));
        server.wait_for(|counters| counters.waiting == 1);
        let requests = 20_000;
        let mut writer = client.stream.try_clone().expect("a socket");
        let sender = std::thread::spawn(move || {
            for _ in 0..requests {
                writer
                    .write_all(get("/hello?").as_bytes())
                    .expect("the server reads again later");
            }
        });
        let kept = crate::limits::AHEAD_BYTES_MAX as u64;
        let full = server.wait_for(|counters| counters.bytes_in >= kept);
        assert!(full.bytes_in <= kept + 1000, "{}", full.bytes_in);
        assert_eq!(server.ask(|told| Order::Complete(b"1".to_vec(), told)), 1);
        assert_eq!(client.reply().text(), "1");
        for _ in 0..requests {
            assert_eq!(client.reply().status, 200);
        }
        sender.join().expect("all requests were taken");
    });
}

#[test]
fn a_wait_ends_at_its_deadline() {
    each(&patient(), |server| {
        let mut client = server.client();
        assert_eq!(client.get("/wait?20").text(), "\"expired\"");
        assert_eq!(
            server.ask(Order::CompleteStale),
            0,
            "the ticket is done for"
        );
        assert_eq!(client.get("/hello?").status, 200);
    });
}

#[test]
fn no_wait_is_longer_than_the_limit() {
    let limits = Limits {
        wait_ms_max: 30,
        ..patient()
    };
    each(&limits, |server| {
        let mut client = server.client();
        assert_eq!(client.get("/wait").text(), "\"expired\"");
        assert_eq!(client.get("/wait?999999999999").text(), "\"expired\"");
    });
}

#[test]
fn a_client_that_leaves_while_it_waits_is_noticed() {
    each(&patient(), |server| {
        for reset in [false, true] {
            let before = server.counters().abandoned;
            let mut client = server.client();
            client.send(get("/wait"));
            server.wait_for(|counters| counters.waiting == 1);
            if reset {
                reset_on_close(&client.stream);
            }
            drop(client);
            server.wait_for(|counters| {
                counters.waiting == 0 && counters.open == 0 && counters.abandoned == before + 1
            });
        }
        let mut next = server.client();
        next.send(get("/wait"));
        server.wait_for(|counters| counters.waiting == 1);
        assert_eq!(
            server.ask(Order::CompleteStale),
            0,
            "a late answer does not reach the next client of the slot"
        );
        server.ask(|told| Order::Complete(b"1".to_vec(), told));
        assert_eq!(next.reply().text(), "1");
    });
}

#[test]
fn a_service_may_answer_a_client_that_only_ended_its_side() {
    for epoll in [false, true] {
        let server = Server::start(Setup {
            limits: patient(),
            epoll,
            half_closed_keeps: true,
        });
        let mut client = server.client();
        client.send(get("/wait") + &get("/hello?after"));
        server.wait_for(|counters| counters.waiting == 1);
        client.stream.shutdown(Shutdown::Write).expect("it is open");
        // Without a second request the answer is the last one.
        let mut other = server.client();
        other.send(get("/wait"));
        server.wait_for(|counters| counters.waiting == 2);
        other.stream.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(server.ask(|told| Order::Complete(b"1".to_vec(), told)), 2);
        assert_eq!(client.reply().text(), "1");
        assert_eq!(client.reply().text(), "{\"query\":\"after\"}");
        client.is_over();
        assert_eq!(other.reply().text(), "1");
        other.is_over();
        server.stop();
    }
}

#[test]
fn a_half_closed_connection_gets_the_answers_of_what_it_sent() {
    each(&patient(), |server| {
        let mut client = server.client();
        client.send(get("/hello?1") + &get("/owned?300000") + &get("/hello?2"));
        client.stream.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(client.reply().text(), "{\"query\":\"1\"}");
        assert_eq!(client.reply().body.len(), 300_000);
        assert_eq!(client.reply().text(), "{\"query\":\"2\"}");
        client.is_over();
    });
}

fn reset_on_close(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).expect("a socket");
}

#[test]
fn many_waiters_share_one_answer_each_in_its_own_form() {
    each(&patient(), |server| {
        let mut plain: Vec<Client> = (0..50).map(|_| server.client()).collect();
        for client in &mut plain {
            client.send(get("/wait"));
        }
        let mut old = server.client();
        old.send("GET /wait HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let mut older = server.client();
        older.send("GET /wait HTTP/1.0\r\n\r\n");
        let mut last = server.client();
        last.send("GET /wait HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let mut head = server.client();
        head.send("HEAD /wait HTTP/1.1\r\nHost: a\r\n\r\n");
        server.wait_for(|counters| counters.waiting == 54);
        let body = b"[1,2,3]".repeat(5000);
        let done = server.ask(|told| Order::CompleteShared(body.clone(), told));
        assert_eq!(done, 54);
        for client in &mut plain {
            let reply = client.reply();
            assert!(!reply.head.contains("Connection: "));
            assert!(reply.body == body);
            assert_eq!(client.get("/hello?").status, 200);
        }
        let reply = old.reply();
        assert!(reply.head.contains("Connection: keep-alive\r\n") && reply.body == body);
        assert_eq!(old.get("/hello?").status, 200);
        for client in [&mut older, &mut last] {
            let reply = client.reply();
            assert!(reply.head.contains("Connection: close\r\n") && reply.body == body);
            client.is_over();
        }
        let reply = head.reply_to(false);
        assert!(reply.head.contains("Content-Length: 35000\r\n"));
        assert_eq!(head.get("/hello?").status, 200);
    });
}

#[test]
fn a_head_that_takes_too_long_is_given_up() {
    let limits = Limits {
        head_ms: 60,
        ..patient()
    };
    each(&limits, |server| {
        let mut client = server.client();
        assert_eq!(client.get("/hello?").status, 200);
        client.send("GET /hello HTTP/1.1\r\nHo");
        let reply = client.reply();
        assert_eq!(reply.status, 408);
        assert!(reply.head.contains("Connection: close\r\n"));
        client.is_over();
        assert_eq!(server.counters().too_slow, 1);
        // A byte now and then does not help: the limit is for the whole head.
        let mut dripping = server.client();
        let mut writer = dripping.stream.try_clone().expect("a socket");
        let drip = std::thread::spawn(move || {
            while writer.write_all(b"G").is_ok() {
                std::thread::yield_now();
                if writer.write_all(b"\n").is_err() {
                    break;
                }
            }
        });
        drop(dripping.stream.read(&mut [0; 64]));
        reset_on_close(&dripping.stream);
        dripping.stream.shutdown(Shutdown::Both).ok();
        drop(dripping);
        drip.join().expect("it ends with an error");
    });
}

#[test]
fn idle_connections_are_closed_without_a_word() {
    let limits = Limits {
        first_byte_ms: 30,
        idle_ms: 40,
        head_ms: 40,
        ..patient()
    };
    each(&limits, |server| {
        server.client().is_over();
        let mut client = server.client();
        assert_eq!(client.get("/hello?").status, 200);
        client.is_over();
        server.wait_for(|counters| counters.open == 0);
    });
}

#[test]
fn a_body_below_the_minimum_rate_is_given_up() {
    let limits = Limits {
        body_grace_ms: 50,
        ..patient()
    };
    each(&limits, |server| {
        for request in [
            "PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc",
            "PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabc",
        ] {
            let mut client = server.client();
            client.send(request);
            assert_eq!(client.reply().status, 408);
            client.is_over();
        }
        assert_eq!(server.counters().too_slow, 2);
    });
}

#[test]
fn a_body_that_comes_fast_enough_may_take_its_time() {
    let limits = Limits {
        body_grace_ms: 0,
        body_bytes_per_second_min: 1,
        ..patient()
    };
    each(&limits, |server| {
        // At one byte per second each piece earns a thousand seconds.
        let body = vec![b'x'; 200_000];
        let request = put("/echo", &body);
        let mut client = server.client();
        for piece in request.chunks(1000) {
            client.send(piece);
        }
        assert!(client.reply().body == body);
    });
}

#[test]
fn a_client_that_does_not_take_its_answer_is_dropped() {
    let limits = Limits {
        send_ms: 50,
        ..patient()
    };
    each(&limits, |server| {
        let mut client = server.client();
        client.send(get("/owned?16000000"));
        server.wait_for(|counters| counters.stalled == 1 && counters.open == 0);
    });
}

#[test]
fn chunked_bodies_arrive_decoded_however_they_are_cut() {
    each(&patient(), |server| {
        let request = "PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                       5;ext=\"1\"\r\nhello\r\n1\r\n,\r\n00A\r\n0123456789\r\n0\r\nX-Trailer: 1\r\n\r\n";
        let mut client = server.client();
        for size in [1, 2, 3, 7, 1000] {
            for piece in request.as_bytes().chunks(size) {
                client.send(piece);
            }
            client.send(get("/hello?next"));
            assert_eq!(client.reply().text(), "hello,0123456789");
            assert_eq!(client.reply().text(), "{\"query\":\"next\"}");
        }
    });
}

#[test]
fn head_is_get_without_the_body() {
    each(&patient(), |server| {
        let mut client = server.client();
        client.send("HEAD /method HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = client.reply_to(false);
        assert!(
            head.head.contains("Content-Length: 3\r\n"),
            "the service saw GET"
        );
        client.send("HEAD /owned?100000 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(
            client
                .reply_to(false)
                .head
                .contains("Content-Length: 100000\r\n")
        );
        assert_eq!(client.get("/method").text(), "GET");
    });
}

#[test]
fn a_body_is_asked_for_only_after_admission() {
    each(&patient(), |server| {
        let expecting = |path: &str| {
            format!(
                "PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nExpect: 100-Continue\r\n\r\n"
            )
        };
        let mut client = server.client();
        assert_eq!(client.send(expecting("/echo")).reply().status, 100);
        assert_eq!(client.send("hello world").reply().text(), "hello world");
        // Not asked when the body is under way.
        client.send(expecting("/echo") + "hello world");
        assert_eq!(client.reply().text(), "hello world");
        for (path, status) in [("/denied", 401), ("/small", 413)] {
            let mut client = server.client();
            let reply = client.send(expecting(path)).reply();
            assert_eq!(reply.status, status);
            assert!(reply.head.contains("Connection: close\r\n"));
            client.is_over();
        }
        let mut client = server.client();
        client.send("PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: tea\r\n\r\n");
        assert_eq!(client.reply().status, 417);
    });
}

#[test]
fn a_refused_request_whose_body_is_here_leaves_the_connection_open() {
    each(&patient(), |server| {
        let mut client = server.client();
        let reply = client.send(put("/denied", b"{\"a\":1}")).reply();
        assert_eq!(reply.status, 401);
        assert!(reply.head.contains("WWW-Authenticate: "));
        client.send(get("/denied") + &get("/hello?"));
        assert_eq!(client.reply().status, 401);
        assert_eq!(client.reply().status, 200);
    });
}

#[test]
fn a_refused_upload_in_progress_reads_its_answer_and_no_reset() {
    each(&patient(), |server| {
        for path in ["/denied", "/small"] {
            let mut client = server.client();
            client.send(format!(
                "PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n"
            ));
            // The rest is still on its way when the answer is sent.
            client.send(vec![b'x'; 30_000]);
            let status = client.reply().status;
            assert!(status == 401 || status == 413, "{status}");
            client.is_over();
        }
    });
}

#[test]
fn what_is_not_http_is_refused_in_the_form_of_errors() {
    each(&patient(), |server| {
        let cases: [(&[u8], u16); 15] = [
            (b"nonsense\r\n\r\n", 400),
            (b"GET / HTTP/1.1\nHost: a\n\n", 400),
            (b"GET / HTTP/1.1\r\n\r\n", 400),
            (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
            (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
            (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            (b"QUERY / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
            (b"PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            (b"PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n", 400),
            (b"PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400),
            (b"PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Encoding: gzip\r\n\r\nxx", 415),
            (b"PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", 413),
        ];
        for (request, status) in cases {
            let mut client = server.client();
            // What comes before is answered all the same.
            client.send(get("/hello?")).send(request);
            assert_eq!(client.reply().status, 200);
            let reply = client.reply();
            assert_eq!(reply.status, status, "{}", request.escape_ascii());
            assert!(reply.head.contains("Connection: close\r\n"));
            assert_eq!(reply.head.contains("Allow: GET, "), status == 405);
            let json: serde_json::Value =
                serde_json::from_slice(&reply.body).expect("errors are JSON");
            assert_eq!(json["errors"][0]["status"], status.to_string());
            client.is_over();
        }
        assert_eq!(server.counters().refused, cases.len() as u64);
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(20_000));
        assert_eq!(server.client().send(long).reply().status, 414);
        let large = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "a".repeat(70_000)
        );
        assert_eq!(server.client().send(large).reply().status, 431);
    });
}

#[test]
fn a_head_may_come_byte_by_byte() {
    each(&patient(), |server| {
        let mut client = server.client();
        for byte in get("/hello?slow").bytes() {
            client.send([byte]);
        }
        assert_eq!(client.reply().text(), "{\"query\":\"slow\"}");
        // Refused, and the answer is not overtaken by a reset while bytes still come.
        for byte in b"GET / HTTP/1.1\r\nHost : a\r\n" {
            client.send([*byte]);
        }
        assert_eq!(client.reply().status, 400);
    });
}

#[test]
fn connections_live_as_long_as_the_versions_and_the_client_say() {
    each(&patient(), |server| {
        let lives = [
            ("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", true),
            (
                "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
                true,
            ),
            (
                "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: te, Close\r\n\r\n",
                false,
            ),
            ("GET /hello HTTP/1.0\r\n\r\n", false),
            (
                "GET /hello HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
                true,
            ),
            ("GET /last HTTP/1.1\r\nHost: a\r\n\r\n", false),
        ];
        for (request, stays) in lives {
            let mut client = server.client();
            let reply = client.send(request).reply();
            assert_eq!(
                reply.head.contains("Connection: close\r\n"),
                !stays,
                "{request}"
            );
            let is_1_0 = request.contains("HTTP/1.0");
            assert_eq!(
                reply.head.contains("Connection: keep-alive\r\n"),
                is_1_0 && stays
            );
            if stays {
                assert_eq!(client.get("/hello?").status, 200);
            } else {
                client.is_over();
            }
        }
    });
}

#[test]
fn a_panic_of_the_service_costs_one_connection() {
    each(&patient(), |server| {
        let mut bystander = server.client();
        bystander.send(get("/wait"));
        for path in ["/panic", "/panic-admit"] {
            let mut client = server.client();
            let reply = client.send(get(path) + &get("/hello?")).reply();
            assert_eq!(reply.status, 500);
            assert!(reply.text().contains("\"id\":\"") && !reply.text().contains("wrong"));
            client.is_over();
        }
        assert_eq!(server.counters().panics, 2);
        server.wait_for(|counters| counters.waiting == 1);
        server.ask(|told| Order::Complete(b"1".to_vec(), told));
        assert_eq!(bystander.reply().text(), "1");
    });
}

#[test]
fn one_connection_too_many_is_told_so() {
    let limits = Limits {
        connections_max: 2,
        ..patient()
    };
    each(&limits, |server| {
        let mut first = server.client();
        assert_eq!(first.get("/hello?").status, 200);
        let mut second = server.client();
        assert_eq!(second.get("/hello?").status, 200);
        let mut third = server.client();
        let reply = third.reply();
        assert_eq!(reply.status, 503);
        assert!(reply.head.contains("Retry-After: 1\r\n"));
        third.is_over();
        assert_eq!(first.get("/hello?").status, 200);
        drop(second);
        server.wait_for(|counters| counters.open == 1);
        assert_eq!(server.client().get("/hello?").status, 200);
    });
}

#[test]
fn browsers_may_ask_before_they_send() {
    each(&patient(), |server| {
        let mut client = server.client();
        client.send(
            "OPTIONS /denied HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\n\
             Access-Control-Request-Method: PUT\r\n\r\n",
        );
        let reply = client.reply();
        assert_eq!(reply.status, 204);
        assert!(reply.head.contains("Access-Control-Allow-Origin: *\r\n"));
        assert!(reply.head.contains("Access-Control-Allow-Methods: GET, "));
        assert!(
            reply
                .head
                .contains("Access-Control-Allow-Headers: Authorization")
        );
        client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
        let reply = client.reply();
        assert!(reply.status == 204 && reply.head.contains("Allow: GET, "));
        assert!(!reply.head.contains("Access-Control-Allow-Methods"));
    });
}

#[test]
fn bodies_are_compressed_for_clients_that_like_it() {
    each(&patient(), |server| {
        let body = b"{\"a\":1},".repeat(1000);
        let mut client = server.client();
        let mut request = format!(
            "PUT /echo HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip;q=1.0, br\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(&body);
        let reply = client.send(request).reply();
        assert!(reply.head.contains("Content-Encoding: gzip\r\n"));
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&reply.body[..])
            .read_to_end(&mut plain)
            .expect("gzip");
        assert!(plain == body);
        // A waiting request is remembered with what its client takes.
        client.send("GET /wait HTTP/1.1\r\nHost: a\r\nAccept-Encoding: zstd\r\n\r\n");
        server.wait_for(|counters| counters.waiting == 1);
        server.ask(|told| Order::Complete(body.clone(), told));
        let reply = client.reply();
        assert!(reply.head.contains("Content-Encoding: zstd\r\n"));
        assert!(zstd::decode_all(&reply.body[..]).expect("zstd") == body);
    });
}

#[test]
fn a_drain_ends_what_is_idle_and_finishes_what_is_in_flight() {
    for epoll in [false, true] {
        let server = Server::start(Setup {
            limits: patient(),
            epoll,
            half_closed_keeps: false,
        });
        let mut fresh = server.client();
        let mut idle = server.client();
        assert_eq!(idle.get("/hello?").status, 200);
        let mut waiting = server.client();
        waiting.send(get("/wait"));
        let mut uploading = server.client();
        uploading.send("PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab");
        server.wait_for(|counters| counters.waiting == 1 && counters.open == 4);
        server.orders.push(Order::Drain);
        fresh.is_over();
        idle.is_over();
        uploading.send("cd");
        let reply = uploading.reply();
        assert_eq!(reply.text(), "abcd");
        assert!(reply.head.contains("Connection: close\r\n"));
        uploading.is_over();
        server.ask(|told| Order::Complete(b"1".to_vec(), told));
        let reply = waiting.reply();
        assert!(reply.text() == "1" && reply.head.contains("Connection: close\r\n"));
        waiting.is_over();
        assert!(
            TcpStream::connect(server.address).is_err(),
            "nobody listens"
        );
        server.stop();
    }
}

#[test]
fn a_request_that_meets_a_drain_is_answered_or_never_taken() {
    for epoll in [false, true] {
        for _ in 0..20 {
            let server = Server::start(Setup {
                limits: patient(),
                epoll,
                half_closed_keeps: false,
            });
            let mut clients: Vec<Client> = (0..20).map(|_| server.client()).collect();
            for client in &mut clients {
                client.send(get("/hello?"));
            }
            // Connected and sent before the drain, accepted or not: all of them are answered.
            server.orders.push(Order::Drain);
            for client in &mut clients {
                assert_eq!(client.reply().status, 200);
            }
            server.stop();
        }
    }
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    each(&patient(), |server| {
        let before = descriptors();
        for _ in 0..50 {
            let mut clients: Vec<Client> = (0..100).map(|_| server.client()).collect();
            for (i, client) in clients.iter_mut().enumerate() {
                match i % 4 {
                    0 => drop(client.send(get("/hello?"))),
                    1 => drop(client.send("GET /hello HT")),
                    2 => drop(client.send(get("/wait"))),
                    _ => {}
                }
                if i % 2 == 0 {
                    reset_on_close(&client.stream);
                }
            }
        }
        server.wait_for(|counters| counters.open == 0 && counters.accepted == 5000);
        let counters = server.counters();
        assert_eq!(counters.waiting, 0);
        // Other tests of this process have some open; a leak would have thousands.
        assert!(
            descriptors() < before + 1500,
            "{before} -> {}",
            descriptors()
        );
    });
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("Linux").count()
}

const UPGRADE: &str =
    "GET /lines HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: test/1\r\n\r\n";

impl Client {
    /// The next line, without its end.
    fn line(&mut self) -> String {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.read) {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return String::from_utf8(line[..end].to_vec()).expect("lines are text");
            }
            assert!(self.fill(), "the connection ended inside of a line");
        }
    }

    fn upgrade(&mut self) -> &mut Self {
        let reply = self.send(UPGRADE).reply();
        assert_eq!(reply.status, 101);
        assert_eq!(self.line(), "hi");
        self
    }
}

fn ended(server: &Server) -> Vec<Ended> {
    server.ask(Order::Ended)
}

#[test]
fn only_a_client_that_asks_for_the_protocol_is_upgraded() {
    each(&patient(), |server| {
        let asks = |version: &str, fields: &str| {
            format!("GET /lines HTTP/{version}\r\nHost: a\r\n{fields}\r\n")
        };
        for (version, fields, status) in [
            ("1.1", "Connection: upgrade\r\nUpgrade: TEST/1\r\n", 101),
            (
                "1.1",
                "Upgrade: h2c, test/1\r\nConnection: keep-alive, Upgrade\r\n",
                101,
            ),
            ("1.1", "", 200),
            ("1.1", "Upgrade: test/1\r\n", 200),
            ("1.1", "Connection: upgrade\r\n", 200),
            ("1.1", "Connection: upgrade\r\nUpgrade: test/2\r\n", 200),
            (
                "1.1",
                "Connection: upgrade, close\r\nUpgrade: test/1\r\n",
                200,
            ),
            ("1.0", "Connection: upgrade\r\nUpgrade: test/1\r\n", 200),
        ] {
            let mut client = server.client();
            let reply = client.send(asks(version, fields)).reply();
            assert_eq!(reply.status, status, "{version} {fields:?}");
            if status == 101 {
                let head = reply.head;
                assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
                for field in ["Connection: Upgrade", "Upgrade: test/1", "X-Greeting: hi"] {
                    assert!(head.contains(&format!("\r\n{field}\r\n")), "{head}");
                }
                assert!(!head.contains("Content-Length"), "{head}");
                assert_eq!(client.line(), "hi");
            } else {
                assert_eq!(reply.text(), "\"requests\"");
            }
        }
    });
}

#[test]
fn lines_are_heard_however_they_are_cut() {
    // Goal: what is pipelined behind the request, and every cut of the bytes, gives the same lines. Method: all cuts of one conversation.
    each(&patient(), |server| {
        let text = format!("{UPGRADE}one\r\n\ntwo\nthree\n");
        for cut in 0..=text.len() {
            let mut client = server.client();
            client.send(&text[..cut]);
            let before = server.counters().lines_in;
            server.wait_for(|counters| counters.open == 1 && counters.lines_in >= before);
            client.send(&text[cut..]);
            assert_eq!(client.reply().status, 101);
            for line in ["hi", "one", "", "two", "three"] {
                assert_eq!(client.line(), line, "cut at {cut}");
            }
            client.stream.shutdown(Shutdown::Write).expect("a socket");
            client.is_over();
            server.wait_for(|counters| counters.open == 0);
        }
        let all = ended(server);
        assert_eq!(all, vec![Ended::ByPeer; text.len() + 1]);
        assert_eq!(server.counters().upgraded, 0);
        assert_eq!(server.ask(Order::CompleteStale), 0);
    });
}

#[test]
fn the_server_speaks_when_it_likes_and_ends_when_it_likes() {
    each(&patient(), |server| {
        let mut clients: Vec<Client> = (0..3).map(|_| server.client()).collect();
        for client in &mut clients {
            client.upgrade();
        }
        assert_eq!(server.counters().upgraded, 3);
        assert_eq!(server.ask(|told| Order::Say(b"news\n".to_vec(), told)), 3);
        for client in &mut clients {
            assert_eq!(client.line(), "news");
            assert_eq!(client.send("ok\n").line(), "ok");
        }
        clients[0].send("last\nend\nnever\n");
        assert_eq!(clients[0].line(), "last");
        clients[0].is_over();
        server.wait_for(|counters| counters.upgraded == 2);
        let told = server.ask(|told| Order::EndLines(b"bye\n".to_vec(), told));
        assert_eq!(told, 2);
        assert_eq!(server.ask(|told| Order::Say(b"late\n".to_vec(), told)), 0);
        for client in &mut clients[1..] {
            assert_eq!(client.line(), "bye");
            client.is_over();
        }
        server.wait_for(|counters| counters.open == 0);
        assert_eq!(ended(server), [Ended::ByService; 3]);
    });
}

#[test]
fn a_line_without_an_end_and_silence_end_the_connection() {
    let limits = Limits {
        tick_ms: 5,
        ..patient()
    };
    each(&limits, |server| {
        let long = vec![b'a'; crate::limits::LINE_BYTES_MAX];
        let mut client = server.client();
        client.upgrade().send(&long).send("\n");
        assert_eq!(
            client.line().len(),
            long.len(),
            "a line may be as long as that"
        );
        client.send(&long).send("a");
        assert_eq!(client.line(), "bye LineLong");
        client.is_over();
        server.wait_for(|counters| counters.open == 0);

        let mut client = server.client();
        client.send(UPGRADE.replace("/lines", "/lines?50"));
        assert_eq!((client.reply().status, client.line()), (101, "hi".into()));
        // The bytes of a line that never ends are no sign of life.
        let mut writer = client.stream.try_clone().expect("a socket");
        let drip = std::thread::spawn(move || {
            (1..crate::limits::LINE_BYTES_MAX).all(|_| writer.write_all(b"z").is_ok())
        });
        assert_eq!(client.line(), "bye Silent");
        drop(client);
        drip.join().expect("it ends");
        server.wait_for(|counters| counters.open == 0);

        let mut client = server.client();
        client.send(UPGRADE.replace("/lines", "/lines?50"));
        assert_eq!((client.reply().status, client.line()), (101, "hi".into()));
        client.send("unfinished");
        assert_eq!(client.line(), "bye Silent");
        client.is_over();
        server.wait_for(|counters| counters.open == 0);
        let all = ended(server);
        assert_eq!(all, [Ended::LineLong, Ended::Silent, Ended::Silent],);
    });
}

#[test]
fn a_peer_that_does_not_read_is_not_kept_in_memory() {
    let limits = Limits {
        send_ms: 50,
        ..patient()
    };
    each(&limits, |server| {
        // It asks for more than all buffers hold and reads nothing: the server stops reading, then ends it.
        let mut client = server.client();
        client.upgrade();
        let mut writer = client.stream.try_clone().expect("a socket");
        let asker = std::thread::spawn(move || {
            while writer
                .write_all("fill 60000\n".repeat(1000).as_bytes())
                .is_ok()
            {}
        });
        server.wait_for(|counters| counters.stalled == 1);
        asker.join().expect("the connection ended");
        server.wait_for(|counters| counters.open == 0);

        // It is told more than may be queued.
        let mut client = server.client();
        client.upgrade();
        let news = [vec![b'n'; 60_000], b"\n".to_vec()].concat();
        while server.ask(|told| Order::Say(news.clone(), told)) == 1 {}
        server.wait_for(|counters| counters.open == 0);
        assert_eq!(ended(server), [Ended::Stalled, Ended::Stalled]);
    });
}

#[test]
fn much_is_said_to_a_slow_reader_in_order() {
    each(&patient(), |server| {
        let mut client = server.client();
        client.upgrade();
        let mut writer = client.stream.try_clone().expect("a socket");
        let asker = std::thread::spawn(move || {
            for i in 0..400 {
                let lines = format!("fill 20000\n{i}\n");
                writer.write_all(lines.as_bytes()).expect("it reads on");
            }
        });
        for i in 0..400 {
            assert_eq!(client.line().len(), 20_000);
            assert_eq!(client.line(), i.to_string());
        }
        asker.join().expect("all was taken");
        assert_eq!(server.counters().lines_in, 800);
    });
}

#[test]
fn a_drain_says_farewell_to_upgraded_connections() {
    for epoll in [false, true] {
        let server = Server::start(Setup {
            limits: patient(),
            epoll,
            half_closed_keeps: false,
        });
        let mut quiet = server.client();
        quiet.upgrade();
        let mut partial = server.client();
        partial.upgrade().send("half a");
        let before = server.counters();
        server.wait_for(|counters| counters.bytes_in >= before.bytes_in);
        server.orders.push(Order::Drain);
        for client in [&mut quiet, &mut partial] {
            assert_eq!(client.line(), "bye Draining");
            client.is_over();
        }
        drop((quiet, partial));
        server.stop();
    }
}

#[test]
fn a_panic_over_a_line_ends_one_connection() {
    each(&patient(), |server| {
        let mut other = server.client();
        other.upgrade();
        let mut client = server.client();
        client.upgrade().send("panic\n");
        client.is_over();
        server.wait_for(|counters| counters.panics == 1 && counters.upgraded == 1);
        assert_eq!(other.send("still\n").line(), "still");
        assert_eq!(ended(server), [Ended::ByPeer]);
    });
}

#[test]
fn an_idle_connection_is_small() {
    let (conn, task) = sizes::<TestService>();
    assert!(conn <= 112, "the entry has {conn} bytes");
    assert!(task <= 280, "the task has {task} bytes");
}
