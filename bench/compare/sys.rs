//! The few system calls that the standard library does not offer: epoll, a socket bound to a chosen source
//! address, affinity, priority, signals, and the exact CPU time of another process.
//!
//! Promises owned descriptors and plain `io::Error`s; everything above this file is safe code.
#![allow(unsafe_code)] // thin wrappers over libc; every block says why it is sound

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Readiness of many sockets, level triggered, read side only: the generators write small requests at once.
pub struct Epoll {
    descriptor: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: no pointers; the result is checked before it becomes an owner.
        let raw = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` is a fresh descriptor that nobody else owns.
        let descriptor = unsafe { OwnedFd::from_raw_fd(raw) };
        Ok(Epoll {
            descriptor,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; 1024],
        })
    }

    pub fn add(&self, socket: &TcpStream, token: u64) -> io::Result<()> {
        let interest = libc::EPOLLIN | libc::EPOLLRDHUP;
        let mut event = libc::epoll_event {
            events: interest as u32,
            u64: token,
        };
        // SAFETY: both descriptors are open and `event` lives across the call.
        let done = unsafe {
            libc::epoll_ctl(
                self.descriptor.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                socket.as_raw_fd(),
                &raw mut event,
            )
        };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Appends the tokens of ready sockets to `ready` (cleared first). `None` waits without end.
    pub fn wait(&mut self, ready: &mut Vec<u64>, timeout: Option<Duration>) -> io::Result<()> {
        ready.clear();
        let millis = timeout.map_or(-1, |wait| {
            i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)
        });
        // SAFETY: the buffer holds `len` events and outlives the call.
        let count = unsafe {
            libc::epoll_wait(
                self.descriptor.as_raw_fd(),
                self.events.as_mut_ptr(),
                i32::try_from(self.events.len()).expect("the buffer is small"),
                millis,
            )
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted {
                Ok(())
            } else {
                Err(error)
            };
        }
        ready.extend(self.events[..count as usize].iter().map(|event| event.u64));
        Ok(())
    }
}

fn address(of: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: of.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*of.ip()).to_be(),
        },
        sin_zero: [0; 8],
    }
}

/// Connects from a chosen loopback address, so that the 28,000 ports of one address are no limit.
pub fn connect(from: Ipv4Addr, to: SocketAddrV4) -> io::Result<TcpStream> {
    let length = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
    let one: libc::c_int = 1;
    let source = address(SocketAddrV4::new(from, 0));
    let target = address(to);
    // SAFETY: plain socket calls on a descriptor created here; all pointed-to values live across their calls.
    unsafe {
        let raw = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        let stream = TcpStream::from_raw_fd(raw);
        // The port is chosen at connect, per destination: otherwise bind itself runs out of ports.
        let size = mem::size_of_val(&one) as libc::socklen_t;
        if libc::setsockopt(
            raw,
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const one).cast(),
            size,
        ) != 0
            || libc::bind(raw, (&raw const source).cast(), length) != 0
            || libc::connect(raw, (&raw const target).cast(), length) != 0
        {
            return Err(io::Error::last_os_error());
        }
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Pins the calling thread to one core, or gives it all of them.
pub fn pin(core: Option<usize>, cores: usize) -> io::Result<()> {
    // SAFETY: `cpu_set_t` is a plain bit set for which all zeroes is the empty set; 0 names the calling thread.
    let done = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        for each in 0..cores {
            if core.is_none_or(|only| only == each) {
                libc::CPU_SET(each, &mut set);
            }
        }
        libc::sched_setaffinity(0, mem::size_of_val(&set), &raw const set)
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Raises the priority of the whole process and of its autogroup, as far as we are allowed to.
pub fn raise_priority() {
    // SAFETY: no pointers; failing only means that the figures are noisier.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -19) };
    let _ = std::fs::write("/proc/self/autogroup", "-19");
}

pub fn signal(pid: u32, signal: i32) {
    // SAFETY: no pointers; the pid is that of a child we have not yet waited for.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// CPU time of a whole process in seconds, exact to the nanosecond, which the ticks of `/proc/stat` are not.
pub fn cpu_seconds(pid: u32) -> f64 {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: both out-pointers are valid for their calls.
    let done = unsafe {
        libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    if done {
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    } else {
        0.0
    }
}
