//! The pool of calling threads, and the queue that gives peers their turns.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use parking_lot::{Condvar, Mutex};
use ureq::Agent;

use super::STACK_BYTES;
use super::client::{CallResult, OutboundCall, OutboundError, agent, send};
use super::policy::EgressPolicy;

/// Calls that may wait for a thread. A longer queue would outlast every deadline.
const CALLS_WAITING_MAX: usize = 4096;

/// Cancels calls that have not started. Dropping it cancels nothing.
#[derive(Clone, Default, Debug)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Receives the result of a call. Called once, on a thread of the pool; must not block.
type OnResult = Box<dyn FnOnce(CallResult) + Send>;

/// The pool of calling threads. They end when it is dropped.
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
    call: OutboundCall,
    cancel: CancelToken,
    on_result: OnResult,
}

/// Jobs by peer. A peer is in line if it has jobs and may have another one running.
#[derive(Default)]
struct Queue {
    peers: HashMap<Box<str>, PeerQueue>,
    line: VecDeque<Box<str>>,
    waiting: usize,
    closed: bool,
}

#[derive(Default)]
struct PeerQueue {
    jobs: VecDeque<Job>,
    running: usize,
    in_line: bool,
}

impl Queue {
    /// Puts a peer into the line if it belongs there; removes it if it has no jobs at all.
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

    /// Takes the next job of the first peer in line.
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
    /// Starts `threads` calling threads, at least two.
    pub fn start(threads: usize, policy: Arc<EgressPolicy>) -> io::Result<Self> {
        let threads = threads.max(2);
        let inner = Arc::new(Inner {
            queue: Mutex::default(),
            work: Condvar::new(),
            agent: agent(threads, policy),
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
                .spawn(move || inner.run())?;
        }
        Ok(pool)
    }

    /// Queues a call without blocking. `on_result` is called exactly once, possibly before this
    /// function returns.
    pub fn call(&self, call: OutboundCall, cancel: CancelToken, on_result: OnResult) {
        let mut queue = self.inner.queue.lock();
        if queue.waiting >= CALLS_WAITING_MAX || queue.closed {
            drop(queue);
            return on_result(Err(OutboundError::Busy));
        }
        let peer = call.target.peer();
        let job = Job {
            call,
            cancel,
            on_result,
        };
        queue.push(peer, job, self.inner.running_per_peer_max);
        drop(queue);
        self.inner.work.notify_one();
    }

    /// Calls that wait for a thread.
    #[cfg(test)]
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
    /// The loop of a calling thread.
    fn run(&self) {
        while let Some((peer, job)) = self.next_job() {
            let Job {
                call,
                cancel,
                on_result,
            } = job;
            let result = if cancel.is_cancelled() {
                Err(OutboundError::Cancelled)
            } else {
                // A panic of the client library must cost one call and not the thread.
                catch_unwind(AssertUnwindSafe(|| send(&self.agent, &call)))
                    .unwrap_or(Err(OutboundError::BadResponse))
            };
            on_result(result);
            self.queue.lock().done(&peer, self.running_per_peer_max);
            // A peer that was at its limit may be in line again.
            self.work.notify_one();
        }
    }

    /// Waits for a job. Returns `None` when the pool is closed and the queue is empty.
    fn next_job(&self) -> Option<(Box<str>, Job)> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(found) = queue.take(self.running_per_peer_max) {
                return Some(found);
            }
            if queue.closed {
                return None;
            }
            self.work.wait(&mut queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::TargetUrl;
    use super::*;
    use crate::subnet::Subnets;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Serves each connection on its own thread: `answer` gets the lines of each request head and
    /// the socket, until it returns false.
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

    fn server_sending(text: &'static str) -> SocketAddr {
        server(move |_, socket| socket.write_all(text.as_bytes()).is_ok())
    }

    fn pool(threads: usize) -> Outbound {
        let policy = Arc::new(EgressPolicy::new(true, Subnets::default()));
        Outbound::start(threads, policy).expect("threads")
    }

    fn call_to(url: &str, wait: Duration) -> OutboundCall {
        OutboundCall {
            target: TargetUrl::parse(url).expect("a good URL"),
            headers: Vec::new(),
            deadline: Instant::now() + wait,
            response_bytes_max: 64,
        }
    }

    fn begin(
        pool: &Outbound,
        call: OutboundCall,
        cancel: CancelToken,
    ) -> mpsc::Receiver<CallResult> {
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

    fn finish(receiver: &mpsc::Receiver<CallResult>) -> CallResult {
        receiver.recv_timeout(PATIENCE).expect("an outcome")
    }

    fn run(url: &str) -> CallResult {
        let pool = pool(2);
        finish(&begin(
            &pool,
            call_to(url, PATIENCE),
            CancelToken::default(),
        ))
    }

    #[test]
    fn response_is_complete_and_its_connection_is_reused() {
        let (sender, heads) = mpsc::channel();
        let address = server(move |head, socket| {
            let peer = socket.peer_addr().expect("it is connected");
            sender
                .send((head.to_vec(), peer))
                .expect("the test receives");
            let text = "HTTP/1.1 403 Forbidden\r\nX-UserId: u1\r\nContent-Length: 4\r\n\r\nnope";
            socket.write_all(text.as_bytes()).is_ok()
        });
        let pool = pool(2);
        let mut call = call_to(&format!("http://u:p%40ss@{address}/a?b=c"), PATIENCE);
        call.target = call.target.with_query("name=x%20y");
        call.headers.push(("x-trace-id", "t1".into()));
        let answer =
            finish(&begin(&pool, call.clone(), CancelToken::default())).expect("an answer");
        assert_eq!((answer.status, &answer.body[..]), (403, &b"nope"[..]));
        assert_eq!(answer.header("x-userid"), Some("u1"));
        finish(&begin(&pool, call, CancelToken::default())).expect("another answer");
        let (head, first) = heads.recv().expect("a request");
        assert_eq!(head[0], "GET /a?b=c&name=x%20y HTTP/1.1");
        let has = |field: &str| head.iter().any(|line| line.eq_ignore_ascii_case(field));
        assert!(has("authorization: Basic dTpwQHNz"), "{head:?}");
        assert!(has("x-trace-id: t1"), "{head:?}");
        assert!(
            !head.iter().any(|line| line.contains("accept-encoding")),
            "{head:?}"
        );
        assert_eq!(
            heads.recv().expect("a second request").1,
            first,
            "one connection"
        );
    }

    #[test]
    fn redirect_is_returned_and_not_followed() {
        let (sender, asked) = mpsc::channel();
        let elsewhere = server(move |_, _| {
            sender.send(()).expect("the test receives");
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
        assert!(asked.try_recv().is_err(), "not followed");
    }

    #[test]
    fn oversized_or_invalid_responses_are_errors() {
        for (text, failure) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 65\r\n\r\n01234567890123456789012345678901234567890123456789012345678901234",
                OutboundError::BadResponse,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n01234567890123456789012345678901234567890123456789012345678901234",
                OutboundError::BadResponse,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                OutboundError::BadResponse,
            ),
            ("SSH-2.0-OpenSSH_9.2\r\n\r\n", OutboundError::BadResponse),
        ] {
            assert_eq!(
                run(&format!("http://{}/", server_sending(text))),
                Err(failure),
                "{text:?}"
            );
        }
        // The largest allowed body.
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n\
                    0123456789012345678901234567890123456789012345678901234567890123";
        assert!(run(&format!("http://{}/", server_sending(text))).is_ok());
    }

    #[test]
    fn incomplete_response_is_an_error_without_a_retry() {
        let (sender, asked) = mpsc::channel();
        let address = server(move |_, socket| {
            sender.send(()).expect("the test receives");
            socket
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
                .expect("it listens");
            false
        });
        assert_eq!(
            run(&format!("http://{address}/")),
            Err(OutboundError::BadResponse)
        );
        assert_eq!(asked.try_iter().count(), 1);
    }

    #[test]
    fn deadline_ends_silent_and_dripping_responses() {
        // Goal: neither silence nor a drip of bytes outlives the deadline. Method: a server that
        // never responds and one that keeps sending single bytes; both calls must end.
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
            let outcome = finish(&begin(&pool, call, CancelToken::default()));
            assert_eq!(outcome, Err(OutboundError::TimedOut));
        }
        let late = call_to(&format!("http://{silent}/"), Duration::ZERO);
        assert_eq!(
            finish(&begin(&pool, late, CancelToken::default())),
            Err(OutboundError::TimedOut)
        );
    }

    #[test]
    fn silent_peer_leaves_threads_for_other_peers() {
        // Goal: calls to a dead server leave threads for others. Method: many more calls to a
        // silent server than threads, then one to another server; it must end before any of the
        // first.
        let silent = server(|_, _| true);
        let quick = server_sending("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
        let pool = pool(4);
        let cancel = CancelToken::default();
        let pending: Vec<_> = (0..50)
            .map(|_| {
                let call = call_to(&format!("http://{silent}/"), Duration::from_mins(5));
                begin(&pool, call, cancel.clone())
            })
            .collect();
        let call = call_to(&format!("http://{quick}/"), PATIENCE);
        let answer = finish(&begin(&pool, call, CancelToken::default())).expect("an answer");
        assert_eq!(answer.body, b"hi");
        assert!(pending.iter().all(|receiver| receiver.try_recv().is_err()));
        assert!(pool.waiting() >= 48, "at most two of them run");
    }

    #[test]
    fn cancelled_call_is_not_sent() {
        let (sender, asked) = mpsc::channel();
        let address = server(move |head, socket| {
            sender.send(head[0].clone()).expect("the test receives");
            socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").is_ok()
        });
        let pool = pool(2);
        let cancel = CancelToken::default();
        cancel.cancel();
        let call = call_to(&format!("http://{address}/a"), PATIENCE);
        assert_eq!(
            finish(&begin(&pool, call, cancel)),
            Err(OutboundError::Cancelled)
        );
        let call = call_to(&format!("http://{address}/b"), PATIENCE);
        finish(&begin(&pool, call, CancelToken::default())).expect("an answer");
        assert_eq!(asked.try_iter().collect::<Vec<_>>(), ["GET /b HTTP/1.1"]);
    }

    #[test]
    fn call_is_refused_at_once_when_the_queue_is_full() {
        let silent = server(|_, _| true);
        let pool = pool(2);
        let url = format!("http://{silent}/");
        let pending: Vec<_> = (0..CALLS_WAITING_MAX + 2)
            .map(|_| {
                begin(
                    &pool,
                    call_to(&url, Duration::from_mins(5)),
                    CancelToken::default(),
                )
            })
            .collect();
        let refused = || {
            let outcomes = pending
                .iter()
                .filter_map(|receiver| receiver.try_recv().ok());
            outcomes
                .filter(|outcome| *outcome == Err(OutboundError::Busy))
                .count()
        };
        // One call runs; it may not have started when the last two came.
        assert!((1..=2).contains(&refused()));
    }

    #[test]
    fn refused_and_closed_connections_are_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let closed = listener.local_addr().expect("it is bound");
        drop(listener);
        let hanging_up = server(|_, _| false);
        for address in [closed, hanging_up] {
            assert_eq!(
                run(&format!("http://{address}/")),
                Err(OutboundError::Unreachable)
            );
        }
    }

    #[test]
    fn server_without_tls_is_unreachable_by_https() {
        let plain = server_sending("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(
            run(&format!("https://{plain}/")),
            Err(OutboundError::Unreachable)
        );
    }

    #[test]
    fn denied_address_is_refused_before_connecting() {
        let (sender, asked) = mpsc::channel();
        let address = server(move |_, _| {
            sender.send(()).expect("the test receives");
            false
        });
        let port = address.port();
        let policy = Arc::new(EgressPolicy::new(false, Subnets::default()));
        let pool = Outbound::start(2, policy).expect("threads");
        // Loopback in every notation that the system's resolver understands.
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
                finish(&begin(&pool, call, CancelToken::default())),
                Err(OutboundError::Forbidden),
                "{host}"
            );
        }
        assert!(asked.try_recv().is_err());
    }
}
