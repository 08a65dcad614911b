//! System calls: the only place of the server that makes them directly, by `rustix`.
//!
//! The calls on sockets never block and do not go through the ring. Measured: with readiness from
//! the ring, a direct `recv` and `send` is as fast as ring operations, and a connection needs no
//! buffer. When to call them is left to `http`.
#![allow(unsafe_code)] // sockets are kept as numbers, see `borrowed`

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{
    self, AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType,
    sockopt,
};
use rustix::process::{self, Resource, Rlimit, Signal};
use rustix::system::uname;
use rustix::thread::{
    CpuSet, disable_transparent_huge_pages, sched_getaffinity, sched_setaffinity,
};
use rustix::time::{ClockId, clock_gettime};

use crate::limits::{KEEPALIVE_IDLE_SECONDS, KEEPALIVE_PAUSE_SECONDS, KEEPALIVE_PROBES};

/// The signal of a write beyond the limit on the size of files.
pub const FILE_TOO_LARGE: i32 = Signal::XFSZ.as_raw();

const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// Which direction of a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The peer sees the end of our answers; what it still sends can be read.
    Write,
    /// A pending readiness of either kind completes.
    Both,
}

/// A connection keeps its socket as a number, because the owner of the socket is its task.
fn borrowed(socket: RawFd) -> BorrowedFd<'static> {
    // SAFETY: used for the time of one system call in this module. The table of connections removes
    // the number before the task closes the socket, and a listening socket is removed likewise.
    unsafe { BorrowedFd::borrow_raw(socket) }
}

/// Takes what has arrived. `Ok(0)` is the end of input, `WouldBlock` that nothing has arrived.
pub fn recv(socket: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (got, _) = net::recv(borrowed(socket), buffer, RecvFlags::DONTWAIT)?;
    Ok(got)
}

/// Bytes of one system call. A peer that reads at the same time makes room for ever more, and a
/// call with 100 MB may copy all of them: 1 MiB takes a fraction of a millisecond.
pub const SEND_BYTES_MAX: usize = 1 << 20;

/// Sends as much as the socket takes now, at most [`SEND_BYTES_MAX`].
pub fn send(socket: RawFd, bytes: &[u8]) -> io::Result<usize> {
    let bytes = &bytes[..bytes.len().min(SEND_BYTES_MAX)];
    Ok(net::send(borrowed(socket), bytes, SEND)?)
}

/// Sends as much as the socket takes now of a head and a body that live apart, at most
/// [`SEND_BYTES_MAX`] of each.
pub fn send_two(socket: RawFd, head: &[u8], body: &[u8]) -> io::Result<usize> {
    if head.len() > SEND_BYTES_MAX {
        return send(socket, head);
    }
    let body = &body[..body.len().min(SEND_BYTES_MAX)];
    let parts = [IoSlice::new(head), IoSlice::new(body)];
    let mut control = SendAncillaryBuffer::default();
    Ok(net::sendmsg(borrowed(socket), &parts, &mut control, SEND)?)
}

/// Ends one or both directions. Errors are not reported: the peer has closed the socket already.
pub fn shutdown(socket: RawFd, side: Side) {
    let how = match side {
        Side::Write => net::Shutdown::Write,
        Side::Both => net::Shutdown::Both,
    };
    let _ = net::shutdown(borrowed(socket), how);
}

/// Begins to connect, without waiting. Writability ends the attempt; its result is that of
/// [`connect_result`].
pub fn begin_connect(address: SocketAddr) -> io::Result<TcpStream> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

/// The result of an attempt to connect that has ended.
pub fn connect_result(socket: RawFd) -> io::Result<()> {
    let result = sockopt::socket_error(borrowed(socket))?;
    result?;
    // One that was shut down before it was connected has no error.
    net::getpeername(borrowed(socket))?;
    Ok(())
}

/// Sends answers without waiting for the acknowledgement of earlier ones.
pub fn set_nodelay(socket: RawFd) -> io::Result<()> {
    Ok(sockopt::set_tcp_nodelay(borrowed(socket), true)?)
}

/// Ends connections whose peer is gone without a word: after [`KEEPALIVE_IDLE_SECONDS`] of silence
/// it is probed, and a connection whose probes are not answered has failed. A parked poll sends
/// nothing, so that nothing else would notice.
pub fn set_keepalive(socket: RawFd) -> io::Result<()> {
    let socket = borrowed(socket);
    sockopt::set_tcp_keepidle(socket, Duration::from_secs(KEEPALIVE_IDLE_SECONDS))?;
    sockopt::set_tcp_keepintvl(socket, Duration::from_secs(KEEPALIVE_PAUSE_SECONDS))?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
    Ok(sockopt::set_socket_keepalive(socket, true)?)
}

/// A connection that has already arrived, or `None`. Makes the listening socket non-blocking for
/// good, so it is meant for the moment before that socket ends.
pub fn accept_now(listener: RawFd) -> Option<(TcpStream, IpAddr)> {
    let listener = borrowed(listener);
    ioctl_fionbio(listener, true).ok()?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let stream = TcpStream::from(net::accept_with(listener, flags).ok()?);
    let peer = stream
        .peer_addr()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
    Some((stream, unmapped(peer)))
}

/// The IPv4 address that an IPv4-mapped IPv6 address stands for; other addresses as they are.
pub fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Whether accepting failed because the process or the machine has no descriptor or memory left.
/// It may succeed later.
pub fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

/// Whether accepting failed permanently: the socket does not listen any more.
pub fn is_closed(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::INVAL | Errno::BADF | Errno::NOTSOCK | Errno::OPNOTSUPP)
    )
}

/// The name of this machine; empty if it is not UTF-8.
pub fn hostname() -> String {
    let name = uname();
    name.nodename().to_str().unwrap_or_default().to_owned()
}

/// Raises the number of descriptors this process may open as far as it is allowed, and returns it.
pub fn raise_descriptor_limit() -> u64 {
    let limit = process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let current = match process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    current.unwrap_or(u64::MAX)
}

/// Raises the scheduling priority of the calling thread, if permitted. One that was started with a
/// higher priority keeps it.
pub fn raise_priority() {
    const NICENESS: i32 = -10;
    // To Linux, no process means the calling thread.
    if process::getpriority_process(None).is_ok_and(|current| current > NICENESS) {
        let _ = process::setpriority_process(None, NICENESS);
    }
}

/// Niceness of threads that work while clients wait for them.
pub const NICENESS_OF_WORKERS: i32 = 5;
/// Niceness of threads that use all processors. Beside a busy core they get a tenth of its time.
pub const NICENESS_OF_SCANS: i32 = 10;

/// Lowers the scheduling priority of the calling thread: the cores come first.
pub fn lower_priority(niceness: i32) {
    if process::getpriority_process(None).is_ok_and(|current| current < niceness) {
        let _ = process::setpriority_process(None, niceness);
    }
}

/// The processor time that the calling thread has used. Waiting for a processor takes none.
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Lets this process have pages of the usual size only. The allocator requests huge ones, of which
/// a small process has more than it uses. A system that cannot keeps them.
pub fn use_small_pages() {
    // Failure only means more memory.
    let _ = disable_transparent_huge_pages(true);
}

/// Processors that the calling thread may use, ascending. At most as many as the CPU quota of the
/// process allows; empty if the kernel does not report them.
pub fn allowed_processors() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else {
        return Vec::new();
    };
    let quota = std::thread::available_parallelism().map_or(1, usize::from);
    (0..CpuSet::MAX_CPU)
        .filter(|processor| set.is_set(*processor))
        .take(quota)
        .collect()
}

/// Restricts the calling thread, and threads that it starts from now on, to these processors.
pub fn pin_thread(processors: &[usize]) -> io::Result<()> {
    if processors.is_empty() || processors.iter().any(|p| *p >= CpuSet::MAX_CPU) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor);
    }
    Ok(sched_setaffinity(None, &set)?)
}
