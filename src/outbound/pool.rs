//! The threads that make calls, and whose turn it is.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use parking_lot::{Condvar, Mutex};
use ureq::Agent;

use super::client::{Answer, Call, Failure, agent, ask};
use super::policy::Reach;

/// Calls that may wait for a thread. Waiting longer than this many calls take would miss any deadline.
pub const CALLS_WAITING_MAX: usize = 4096;
/// Stack of a calling thread: TLS and the client need about 200 KiB.
pub(super) const STACK_BYTES: usize = 1024 * 1024;

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
        let inner = Arc::new(Inner {
            queue: Mutex::default(),
            work: Condvar::new(),
            agent: agent(threads, reach),
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

#[cfg(test)]
mod tests {
    use super::super::{Method, Target};
    use super::*;
    use crate::access::subnet::Subnets;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

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
}
