//! Runtime of one core: the only module that uses monoio.
//!
//! Promises: the ring is built on the thread that uses it, and only a ring that was built counts
//! (with a fallback to epoll); messages of other threads arrive by `inbox`; bytes move by direct
//! non-blocking system calls (`sys`).
//!
//! Known defects of monoio: a dropped pending read loses bytes, a dropped pending accept leaks the
//! descriptor, a task that wakes itself starves its core, a panic in a task ends the runtime. The
//! callers avoid them: they never drop what is pending, keep one accept task for life, put
//! `catch_unwind` around foreign code, and let other tasks run by `yield_now`, never by
//! `wake_by_ref`.

mod inbox;
mod net;
pub mod processors;
mod stalls;
pub mod sys;

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::unix::net::UnixStream;
use std::pin::{Pin, pin};
use std::sync::LazyLock;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

pub use inbox::Inbox;
pub use net::{Listener, Socket, begin_connect, is_free, listen};
pub use stalls::stalls;

/// Submission entries of one ring. More would only help if more than this many operations started
/// between two visits of the kernel; a ring of this size is charged about 105 KB of locked memory.
const RING_ENTRIES: u32 = 1024;

/// Interface of a core to the kernel, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// `io_uring` whose completions run on request: 1.7 times the throughput of plain flags.
    RingDefer,
    /// `io_uring` of Linux 5.19: completions run at the next system call.
    RingCoop,
    /// `io_uring` with default flags.
    RingPlain,
    /// No usable `io_uring` (old kernel, seccomp, locked-memory limit).
    Epoll,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Driver::RingDefer => "io_uring (defer_taskrun)",
            Driver::RingCoop => "io_uring (coop_taskrun)",
            Driver::RingPlain => "io_uring",
            Driver::Epoll => "epoll",
        })
    }
}

/// How to run one core.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Pin the thread to this processor.
    pub processor: Option<usize>,
    /// Skip the ring. Also switched on by `WEIR_RUNTIME=epoll` and `MONOIO_FORCE_LEGACY_DRIVER=1`.
    pub force_epoll: bool,
}

/// Milliseconds since the first call, on a clock that never steps back.
pub fn uptime_ms() -> u64 {
    static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGINNING.elapsed().as_millis() as u64
}

/// A time of [`uptime_ms`] as UTC milliseconds, by the wall clock at the first call: the same time
/// always gives the same number.
pub fn utc_ms_of(uptime_at_ms: u64) -> u64 {
    static BEGINNING: LazyLock<u64> = LazyLock::new(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        (now.unwrap_or_default().as_millis() as u64).saturating_sub(uptime_ms())
    });
    *BEGINNING + uptime_at_ms
}

thread_local! {
    static DRIVER: Cell<Option<Driver>> = const { Cell::new(None) };
    static YIELD: OnceCell<Yielder> = const { OnceCell::new() };
}

/// Runs `future` to its end on this thread, with a runtime built on this thread. Fails only if not
/// even epoll can be built.
pub fn run<F: Future>(options: &Options, future: F) -> io::Result<F::Output> {
    if let Some(processor) = options.processor
        && let Err(error) = sys::pin_thread(&[processor])
    {
        tracing::warn!(processor, %error, "io thread not pinned");
    }
    if !(options.force_epoll || epoll_is_forced()) {
        for driver in [Driver::RingDefer, Driver::RingCoop, Driver::RingPlain] {
            match ring(driver) {
                Ok(mut runtime) => {
                    started(driver);
                    return Ok(runtime.block_on(future));
                }
                // Unknown flags (old kernel), EPERM (seccomp), ENOMEM (locked memory): they show up
                // only when the ring is built.
                Err(error) => {
                    tracing::info!(%driver, %error, "io_uring driver unavailable");
                }
            }
        }
    }
    let mut runtime = RuntimeBuilder::<LegacyDriver>::new()
        .enable_timer()
        .build()?;
    started(Driver::Epoll);
    Ok(runtime.block_on(future))
}

fn ring(driver: Driver) -> io::Result<monoio::Runtime<monoio::time::TimeDriver<IoUringDriver>>> {
    let mut ring = io_uring::IoUring::builder();
    ring.setup_submit_all();
    match driver {
        Driver::RingDefer => {
            ring.setup_single_issuer().setup_defer_taskrun();
        }
        Driver::RingCoop => {
            ring.setup_coop_taskrun();
        }
        Driver::RingPlain => ring = io_uring::IoUring::builder(),
        Driver::Epoll => unreachable!("epoll has no ring"),
    }
    RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(RING_ENTRIES)
        .uring_builder(ring)
        .enable_timer()
        .build()
}

fn epoll_is_forced() -> bool {
    let is = |name: &str, value: &str| std::env::var_os(name).is_some_and(|found| found == value);
    is("WEIR_RUNTIME", "epoll") || is("MONOIO_FORCE_LEGACY_DRIVER", "1")
}

fn started(driver: Driver) {
    DRIVER.set(Some(driver));
    tracing::info!(%driver, "core started");
}

/// The driver of the runtime of this thread; `None` if it has none.
pub fn driver() -> Option<Driver> {
    DRIVER.get()
}

/// Starts a task on this core. A panic in it ends the runtime, so foreign code in it needs a
/// `catch_unwind`.
pub fn spawn<F: Future<Output = ()> + 'static>(future: F) {
    drop(monoio::spawn(stalls::Timed::new(future)));
}

/// Waits for a time, rounded up by 1-2 ms. Costs several hundred bytes while armed: for a few tasks
/// per core, never one per connection.
pub async fn sleep(duration: Duration) {
    monoio::time::sleep(duration).await;
}

/// Waits for a future for some time. `None`: it goes on and can be waited for again.
pub async fn within<T>(
    pause: Duration,
    mut future: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    let mut pause = pin!(sleep(pause));
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => pause.as_mut().poll(context).map(|()| None),
    })
    .await
}

/// Runs everything that is ready on this core before the caller.
///
/// A task that wakes itself is put at the front of the queue of the runtime. So the yield goes
/// through the kernel: a readiness operation on a socket that is always readable.
pub async fn yield_now() {
    if driver() == Some(Driver::Epoll) {
        // Readiness is cached with epoll: the operation would complete without yielding.
        sleep(Duration::from_millis(1)).await;
        return;
    }
    let stream = YIELD.with(|cell| {
        if cell.get().is_none()
            && let Ok(yielder) = Yielder::new()
        {
            let _ = cell.set(yielder);
        }
        cell.get().map(|yielder| yielder.readable.clone())
    });
    match stream {
        Some(stream) => drop(stream.readable(false).await),
        None => sleep(Duration::from_millis(1)).await,
    }
}

/// One end of a socket pair whose other end has written a byte that is never read.
struct Yielder {
    readable: std::rc::Rc<monoio::net::UnixStream>,
    _writer: UnixStream,
}

impl Yielder {
    fn new() -> io::Result<Self> {
        let (reader, mut writer) = UnixStream::pair()?;
        io::Write::write_all(&mut writer, b"y")?;
        Ok(Self {
            readable: std::rc::Rc::new(monoio::net::UnixStream::from_std(reader)?),
            _writer: writer,
        })
    }
}

/// Wakes a task after all tasks that are runnable now. For a task that has used up its budget:
/// waking itself would put it in front of them.
pub fn wake_later(waker: std::task::Waker) {
    spawn(async move { waker.wake() });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::rc::Rc;
    use std::sync::Arc;

    fn both(test: impl Fn(&Options)) {
        test(&Options::default());
        test(&Options {
            force_epoll: true,
            ..Options::default()
        });
    }

    #[test]
    fn epoll_can_be_forced() {
        let options = Options {
            force_epoll: true,
            ..Options::default()
        };
        let found = run(&options, async { driver() }).expect("epoll builds everywhere");
        assert_eq!(found, Some(Driver::Epoll));
    }

    #[test]
    fn cores_share_one_port() {
        both(|options| {
            run(options, async {
                let first =
                    listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
                let second = listen(first.local_addr()).expect("the same port");
                assert_eq!(first.local_addr(), second.local_addr());
                assert!(is_free(first.local_addr()).is_err());
            })
            .expect("a runtime");
        });
    }

    #[test]
    fn shutdown_of_a_listening_socket_ends_its_accept() {
        both(|options| {
            run(options, async {
                let listener =
                    Rc::new(listen("127.0.0.1:0".parse().expect("an address")).expect("a port"));
                let pending = listener.clone();
                let ended = Rc::new(Cell::new(false));
                let seen = ended.clone();
                spawn(async move {
                    assert!(pending.accept().await.is_err());
                    seen.set(true);
                });
                yield_now().await;
                assert!(!ended.get());
                sys::shutdown(listener.as_raw_fd(), sys::Side::Both);
                while !ended.get() {
                    yield_now().await;
                }
            })
            .expect("a runtime");
        });
    }

    #[test]
    fn bytes_and_end_of_input_make_a_socket_readable() {
        both(|options| {
            run(options, async {
                let listener = listen("127.0.0.1:0".parse().expect("an address")).expect("a port");
                let mut client =
                    std::net::TcpStream::connect(listener.local_addr()).expect("we listen");
                let (socket, peer) = listener.accept().await.expect("a client");
                assert_eq!(peer, client.local_addr().expect("it is connected"));
                client.write_all(b"hello").expect("it is connected");
                let _ = socket.readable().await;
                let mut buffer = [0; 16];
                let got = sys::recv(socket.as_raw_fd(), &mut buffer).expect("it is readable");
                assert_eq!(&buffer[..got], b"hello");
                let empty = sys::recv(socket.as_raw_fd(), &mut buffer);
                assert_eq!(
                    empty.expect_err("nothing is there").kind(),
                    io::ErrorKind::WouldBlock
                );
                sys::send_two(socket.as_raw_fd(), b"good", b"bye").expect("room");
                sys::shutdown(socket.as_raw_fd(), sys::Side::Write);
                let mut answer = String::new();
                client.read_to_string(&mut answer).expect("an end");
                assert_eq!(answer, "goodbye");
                drop(client);
                let _ = socket.readable().await;
                assert_eq!(sys::recv(socket.as_raw_fd(), &mut buffer).expect("EOF"), 0);
            })
            .expect("a runtime");
        });
    }

    #[test]
    fn connections_are_made_refused_and_given_up() {
        both(|options| {
            run(options, async {
                let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
                let address = listener.local_addr().expect("it is bound");
                let socket = begin_connect(address).expect("a socket");
                socket.writable().await;
                sys::connect_result(socket.as_raw_fd()).expect("it listens");
                drop(listener);
                if let Ok(socket) = begin_connect(address) {
                    socket.writable().await;
                    let result = sys::connect_result(socket.as_raw_fd());
                    let kind = result.expect_err("nothing listens").kind();
                    assert_eq!(kind, io::ErrorKind::ConnectionRefused);
                }
                // A listener whose queue is full drops attempts to connect.
                let full = sys_listener();
                let mut waiting = Vec::new();
                for _ in 0..8 {
                    let socket = Rc::new(begin_connect(full.1).expect("a socket"));
                    let (ended, seen) = (Rc::new(Cell::new(false)), socket.clone());
                    let flag = ended.clone();
                    spawn(async move {
                        seen.writable().await;
                        flag.set(true);
                    });
                    waiting.push((socket, ended));
                }
                for (socket, _) in &waiting {
                    sys::shutdown(socket.as_raw_fd(), sys::Side::Both);
                }
                while waiting.iter().any(|(_, ended)| !ended.get()) {
                    yield_now().await;
                }
                let (last, _) = waiting.last().expect("eight of them");
                assert!(sys::connect_result(last.as_raw_fd()).is_err());
                drop(full);
            })
            .expect("a runtime");
        });
    }

    /// A listener with room for one connection.
    fn sys_listener() -> (std::os::fd::OwnedFd, std::net::SocketAddr) {
        use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
        let listener = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
        bind(&listener, &any).expect("a free port");
        listen(&listener, 0).expect("it is bound");
        let address = rustix::net::getsockname(&listener).expect("it is bound");
        (listener, address.try_into().expect("an IP address"))
    }

    #[test]
    fn yield_now_runs_other_tasks() {
        both(|options| {
            run(options, async {
                let order = Rc::new(RefCell::new(Vec::new()));
                let other = order.clone();
                spawn(async move {
                    other.borrow_mut().push("task");
                });
                yield_now().await;
                order.borrow_mut().push("caller");
                assert_eq!(*order.borrow(), ["task", "caller"]);
            })
            .expect("a runtime");
        });
    }

    #[test]
    fn inbox_keeps_order_and_wakes_a_sleeping_core() {
        both(|options| {
            let inbox = Arc::new(Inbox::new());
            let sender = inbox.clone();
            let thread = std::thread::spawn(move || {
                for i in 0..10_000_u32 {
                    sender.push(i);
                }
            });
            run(options, async {
                for expected in 0..10_000 {
                    assert_eq!(inbox.recv().await, expected);
                }
                assert_eq!(inbox.try_recv(), None);
            })
            .expect("a runtime");
            thread.join().expect("the sender does not panic");
        });
    }
}
