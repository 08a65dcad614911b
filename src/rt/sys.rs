//! The system calls that move bytes, all of them non-blocking, none of them through the ring.
//!
//! Measured: with readiness from the ring, a direct `recv` and `send` is as fast as ring operations, and a connection needs no buffer.
#![allow(unsafe_code)] // libc calls; std has no flags for recv and send, and no accept that cannot block

use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::fd::{FromRawFd, RawFd};

/// How this machine is called; empty if it has no name.
pub fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

/// Which direction of a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The peer sees the end of our answers; what it still sends can be read.
    Write,
    /// A pending readiness of either kind completes.
    Both,
}

/// Takes what has arrived. `Ok(0)` is the end of input, `WouldBlock` means nothing is there.
pub fn recv(socket: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are those of one live exclusive slice; the kernel is done with it when the call returns.
    let got = unsafe {
        libc::recv(
            socket,
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_DONTWAIT,
        )
    };
    checked(got)
}

/// Hands over as much as the socket takes now.
pub fn send(socket: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are those of one live slice, only read by the kernel and only during the call.
    let sent = unsafe {
        libc::send(
            socket,
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    checked(sent)
}

/// The same for a head and a body that live apart.
pub fn send_two(socket: RawFd, head: &[u8], body: &[u8]) -> io::Result<usize> {
    let parts = [part(head), part(body)];
    // SAFETY: all-zero is a valid value of this C structure.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_ptr().cast_mut();
    message.msg_iovlen = parts.len();
    // SAFETY: the message points at two parts that live until the call returns; sendmsg does not write through them.
    let sent = unsafe {
        libc::sendmsg(
            socket,
            &raw const message,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    checked(sent)
}

fn part(bytes: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    }
}

fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Ends one or both directions. A socket whose peer is gone already needs no more, so errors are not reported.
pub fn shutdown(socket: RawFd, side: Side) {
    let how = match side {
        Side::Write => libc::SHUT_WR,
        Side::Both => libc::SHUT_RDWR,
    };
    // SAFETY: takes two integers.
    let _ = unsafe { libc::shutdown(socket, how) };
}

/// Answers must not wait for acknowledgements of earlier ones.
pub fn set_nodelay(socket: RawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option value is a C int that lives during the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A connection that has already arrived, or `None`. Makes the listening socket non-blocking for good, so it is meant for the moment
/// before that socket ends.
pub fn accept_now(listener: RawFd) -> Option<(TcpStream, IpAddr)> {
    // SAFETY: fcntl with integers; accept4 may be called with null addresses; a descriptor it returns is new and ours alone.
    let stream = unsafe {
        let flags = libc::fcntl(listener, libc::F_GETFL);
        libc::fcntl(listener, libc::F_SETFL, flags | libc::O_NONBLOCK);
        let fd = libc::accept4(
            listener,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        );
        if fd < 0 {
            return None;
        }
        TcpStream::from_raw_fd(fd)
    };
    let peer = stream
        .peer_addr()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
    Some((stream, plain(peer)))
}

/// An IPv4 address in its IPv6 coat is the IPv4 address.
pub fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Whether accepting failed because the process or the machine has no descriptor or memory left: wait, then go on.
pub fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// Whether accepting failed for good: the socket does not listen any more.
pub fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EBADF | libc::ENOTSOCK | libc::EOPNOTSUPP)
    )
}

/// Raises the number of descriptors this process may open as far as it is allowed, and tells how many that is.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls read or write the one struct they are given.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return 1024;
        }
        let wanted = libc::rlimit {
            rlim_cur: limit.rlim_max,
            ..limit
        };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) == 0 {
            limit = wanted;
        }
    }
    limit.rlim_cur
}

/// Asks for a better place in the processor's queue for the calling thread. Not being allowed to is fine.
pub fn raise_priority() {
    // SAFETY: takes three numbers; on Linux 0 means the calling thread.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, -10);
    }
}

/// Processors that the calling thread may use, ascending. At most as many as the CPU quota of the
/// process allows; empty if the kernel does not tell.
pub fn allowed_processors() -> Vec<usize> {
    // SAFETY: all-zero is the empty set, and the set lives during the call.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return Vec::new();
        }
        set
    };
    let quota = std::thread::available_parallelism().map_or(1, usize::from);
    // SAFETY: the index is below the size of the set.
    let is_allowed = |processor: &usize| unsafe { libc::CPU_ISSET(*processor, &set) };
    (0..libc::CPU_SETSIZE as usize)
        .filter(is_allowed)
        .take(quota)
        .collect()
}

/// Restricts the calling thread, and threads that it starts from now on, to these processors.
pub fn pin_thread(processors: &[usize]) -> io::Result<()> {
    if processors.is_empty() || processors.iter().any(|p| *p >= libc::CPU_SETSIZE as usize) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: all-zero is the empty set; the indexes were checked against the size of the set; the set
    // lives during the call.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for processor in processors {
            libc::CPU_SET(*processor, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Lets the close of this socket be a reset: the peer forgets the connection at once.
pub fn reset_on_close(socket: RawFd) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the option value is a C structure that lives during the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
