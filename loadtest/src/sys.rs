//! The kernel: epoll, connecting without waiting, descriptor limit, CPU time.
//!
//! What std does not offer, in safe wrappers, and nothing else. Reading and writing sockets is std's `TcpStream`.
//! An own epoll loop instead of `mio`: we need nanosecond timeouts (`epoll_pwait2`: an open-loop generator that wakes on
//! whole milliseconds measures its own lateness) and sockets bound to a chosen source address before connecting, so that
//! mio would have saved us only the four calls below.
#![allow(unsafe_code)] // system calls without a std equivalent; each block says why it is sound

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Readiness events are fetched at most this many at a time.
const EVENTS_MAX: usize = 1024;
/// `IP_BIND_ADDRESS_NO_PORT`: choose the port at connect time, so that one source address can reach every destination.
const IP_BIND_ADDRESS_NO_PORT: libc::c_int = 24;

/// One ready connection.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub token: u64,
    pub readable: bool,
    pub writable: bool,
}

/// An epoll instance.
pub struct Poll {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
    /// False after the kernel said it has no `epoll_pwait2` (before 5.11): whole milliseconds from then on.
    precise: bool,
}

fn checked(code: libc::c_int) -> io::Result<libc::c_int> {
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(code)
    }
}

impl Poll {
    pub fn new() -> io::Result<Poll> {
        // SAFETY: no pointers; the descriptor it returns is ours alone.
        let epoll =
            unsafe { OwnedFd::from_raw_fd(checked(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        // SAFETY: plain integer arguments. Failure only means coarser timers.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
        Ok(Poll {
            epoll,
            events: Vec::with_capacity(EVENTS_MAX),
            precise: true,
        })
    }

    fn control(
        &self,
        operation: libc::c_int,
        fd: RawFd,
        token: u64,
        writable: bool,
    ) -> io::Result<()> {
        let wanted = libc::EPOLLIN | libc::EPOLLRDHUP | if writable { libc::EPOLLOUT } else { 0 };
        let mut event = libc::epoll_event {
            events: wanted as u32,
            u64: token,
        };
        // SAFETY: `event` lives across the call, which only reads it.
        checked(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &raw mut event) })?;
        Ok(())
    }

    pub fn add(&self, stream: &TcpStream, token: u64, writable: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, stream.as_raw_fd(), token, writable)
    }

    pub fn change(&self, stream: &TcpStream, token: u64, writable: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, stream.as_raw_fd(), token, writable)
    }

    /// Waits at most `timeout` and appends what is ready to `out`.
    pub fn wait(&mut self, timeout: Duration, out: &mut Vec<Event>) -> io::Result<()> {
        let capacity = EVENTS_MAX as libc::c_int;
        let mut count = -1;
        if self.precise {
            let limit = libc::timespec {
                tv_sec: timeout.as_secs().min(3600) as libc::time_t,
                tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
            };
            // SAFETY: `events` has room for EVENTS_MAX entries, `limit` lives across the call, the signal mask is absent.
            count = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    self.epoll.as_raw_fd(),
                    self.events.as_mut_ptr(),
                    capacity,
                    &raw const limit,
                    std::ptr::null::<libc::sigset_t>(),
                    0usize,
                )
            } as libc::c_int;
            if count < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
                self.precise = false;
            }
        }
        if !self.precise {
            let millis = timeout.as_millis().min(3_600_000) as libc::c_int;
            // SAFETY: `events` has room for EVENTS_MAX entries.
            count = unsafe {
                libc::epoll_wait(
                    self.epoll.as_raw_fd(),
                    self.events.as_mut_ptr(),
                    capacity,
                    millis,
                )
            };
        }
        if count < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted {
                Ok(())
            } else {
                Err(error)
            };
        }
        // SAFETY: the kernel filled the first `count` entries, and `count` is at most the capacity.
        unsafe { self.events.set_len(count as usize) };
        for event in &self.events {
            let bits = event.events as libc::c_int;
            let broken = bits & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
            out.push(Event {
                token: event.u64,
                readable: broken || bits & (libc::EPOLLIN | libc::EPOLLRDHUP) != 0,
                writable: broken || bits & libc::EPOLLOUT != 0,
            });
        }
        Ok(())
    }
}

/// A socket address as the kernel wants it.
enum RawAddress {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl RawAddress {
    fn new(address: SocketAddr) -> RawAddress {
        match address {
            SocketAddr::V4(address) => {
                // SAFETY: all zeroes is a valid sockaddr_in.
                let mut raw: libc::sockaddr_in = unsafe { mem::zeroed() };
                raw.sin_family = libc::AF_INET as libc::sa_family_t;
                raw.sin_port = address.port().to_be();
                raw.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
                RawAddress::V4(raw)
            }
            SocketAddr::V6(address) => {
                // SAFETY: all zeroes is a valid sockaddr_in6.
                let mut raw: libc::sockaddr_in6 = unsafe { mem::zeroed() };
                raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                raw.sin6_port = address.port().to_be();
                raw.sin6_addr.s6_addr = address.ip().octets();
                raw.sin6_scope_id = address.scope_id();
                RawAddress::V6(raw)
            }
        }
    }

    fn parts(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        match self {
            RawAddress::V4(raw) => (
                (&raw const *raw).cast(),
                mem::size_of_val(raw) as libc::socklen_t,
            ),
            RawAddress::V6(raw) => (
                (&raw const *raw).cast(),
                mem::size_of_val(raw) as libc::socklen_t,
            ),
        }
    }
}

/// Begins a connection and returns at once: the socket turns writable when it stands or has failed.
pub fn connect(target: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let family = if target.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: no pointers; the descriptor it returns is ours alone.
    let socket = unsafe {
        OwnedFd::from_raw_fd(checked(libc::socket(
            family,
            libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            0,
        ))?)
    };
    if let Some(source) = source {
        let one: libc::c_int = 1;
        // SAFETY: `one` lives across the call and its size is given. Failure only costs ports.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                IP_BIND_ADDRESS_NO_PORT,
                (&raw const one).cast(),
                mem::size_of_val(&one) as libc::socklen_t,
            );
        }
        let raw = RawAddress::new(SocketAddr::new(source, 0));
        let (address, len) = raw.parts();
        // SAFETY: `raw` lives across the call and `len` is its size.
        checked(unsafe { libc::bind(socket.as_raw_fd(), address, len) })?;
    }
    let raw = RawAddress::new(target);
    let (address, len) = raw.parts();
    // SAFETY: `raw` lives across the call and `len` is its size.
    if unsafe { libc::connect(socket.as_raw_fd(), address, len) } != 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINPROGRESS) {
            return Err(error);
        }
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Raises the soft limit of descriptors to the hard one and returns it.
pub fn descriptors_max() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls read or write `limit`, which lives across them.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return 1024;
        }
        limit.rlim_cur = limit.rlim_max;
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0 {
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        }
    }
    limit.rlim_cur
}

/// CPU time this process has used: user, system.
pub fn cpu_time() -> (Duration, Duration) {
    // SAFETY: all zeroes is a valid rusage, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let duration = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64)
    };
    (duration(usage.ru_utime), duration(usage.ru_stime))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn a_connection_from_a_chosen_source_address_becomes_writable_and_then_readable() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let source: IpAddr = "127.0.0.7".parse().unwrap();
        let mut client = connect(listener.local_addr().unwrap(), Some(source)).unwrap();
        let mut poll = Poll::new().unwrap();
        poll.add(&client, 42, true).unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), source);
        let mut events = Vec::new();
        while events.is_empty() {
            poll.wait(Duration::from_secs(10), &mut events).unwrap();
        }
        assert!(events[0].token == 42 && events[0].writable && !events[0].readable);
        poll.change(&client, 42, false).unwrap();
        server.write_all(b"hello").unwrap();
        events.clear();
        while events.is_empty() {
            poll.wait(Duration::from_secs(10), &mut events).unwrap();
        }
        assert!(events[0].readable && !events[0].writable);
        let mut got = [0; 5];
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
    }
}
