//! System calls that std does not offer, in safe wrappers: epoll, sockets bound to a source
//! address, limits, affinity, priority, signals, CPU time, terminals.
//!
//! They go through rustix. The four that rustix lacks are the only unsafe code here:
//! `IP_BIND_ADDRESS_NO_PORT`, the CPU clock of another process, `getrusage`, and `openpty`.
//!
//! An own epoll loop instead of `mio`: an open-loop generator needs nanosecond timeouts (one that
//! wakes on whole milliseconds measures its own lateness; hence Linux 5.11) and sockets bound
//! before they connect.
#![allow(unsafe_code)] // the four calls above; each block explains why it is sound

use std::fs::File;
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit};
use rustix::thread::CpuSet;
use rustix::time::{ClockId, clock_gettime};

pub use rustix::process::Signal;

/// Readiness events are fetched at most this many at a time.
const EVENTS_MAX: usize = 1024;

/// One ready connection.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub token: u64,
    pub readable: bool,
    pub writable: bool,
}

/// An epoll instance, level-triggered.
pub struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

fn interest(writable: bool) -> epoll::EventFlags {
    let read = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
    if writable {
        read | epoll::EventFlags::OUT
    } else {
        read
    }
}

impl Poll {
    pub fn new() -> io::Result<Poll> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Failure only means coarser timers.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        Ok(Poll {
            epoll,
            events: Vec::with_capacity(EVENTS_MAX),
        })
    }

    pub fn add(&self, stream: impl AsFd, token: u64, writable: bool) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token);
        Ok(epoll::add(&self.epoll, stream, data, interest(writable))?)
    }

    pub fn change(&self, stream: &TcpStream, token: u64, writable: bool) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token);
        Ok(epoll::modify(
            &self.epoll,
            stream,
            data,
            interest(writable),
        )?)
    }

    /// Waits at most `timeout` and appends what is ready to `out`.
    pub fn wait(&mut self, timeout: Duration, out: &mut Vec<Event>) -> io::Result<()> {
        let limit = timespec(timeout);
        self.events.clear();
        let room = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, room, Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        out.extend(self.events.iter().map(|event| {
            let flags = event.flags;
            let any = |of: epoll::EventFlags| flags.intersects(of);
            let is_broken = any(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            Event {
                token: event.data.u64(),
                readable: is_broken || any(interest(false)),
                writable: is_broken || any(epoll::EventFlags::OUT),
            }
        }));
        Ok(())
    }
}

/// Waits until there is something to read, or an end; false if `timeout` passes first.
pub fn wait_readable(source: &impl AsFd, timeout: Duration) -> io::Result<bool> {
    let limit = timespec(timeout);
    let mut one = [PollFd::new(source, PollFlags::IN)];
    Ok(rustix::event::poll(&mut one, Some(&limit))? > 0)
}

/// Waits for the end of a child; false if `timeout` passes first. Its status is still to be read.
pub fn wait_for_end(child: u32, timeout: Duration) -> io::Result<bool> {
    let process = rustix::process::pidfd_open(pid(child), PidfdFlags::empty())?;
    wait_readable(&process, timeout)
}

fn timespec(timeout: Duration) -> Timespec {
    Timespec {
        tv_sec: timeout.as_secs().min(3600) as i64,
        tv_nsec: timeout.subsec_nanos().into(),
    }
}

/// Begins a connection from a source address and returns at once: the socket turns writable when
/// the connection is established or has failed.
pub fn connect(target: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = socket(target, source, SocketFlags::NONBLOCK)?;
    match rustix::net::connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects from a source address and waits for it: with many addresses, the 28,000 ports of one
/// are no limit.
pub fn connect_blocking(target: SocketAddr, source: IpAddr) -> io::Result<TcpStream> {
    let socket = socket(target, Some(source), SocketFlags::empty())?;
    rustix::net::connect(&socket, &target)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn socket(target: SocketAddr, source: Option<IpAddr>, flags: SocketFlags) -> io::Result<OwnedFd> {
    let family = match target {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = flags | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    if let Some(source) = source {
        choose_port_when_connecting(&socket);
        rustix::net::bind(&socket, &SocketAddr::new(source, 0))?;
    }
    Ok(socket)
}

/// `IP_BIND_ADDRESS_NO_PORT`, which rustix lacks: without it `bind` itself takes a port that no
/// other destination can share. Failure only costs ports.
fn choose_port_when_connecting(socket: &OwnedFd) {
    let one: libc::c_int = 1;
    // SAFETY: `one` lives across the call and its size is given.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const one).cast(),
            mem::size_of_val(&one) as libc::socklen_t,
        );
    }
}

/// Raises the soft limit of descriptors to the hard one and returns it.
pub fn descriptors_max() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let done = rustix::process::setrlimit(Resource::Nofile, raised);
    let limit = if done.is_ok() { raised } else { limit };
    limit.current.unwrap_or(u64::MAX)
}

/// Bounds the size of files that a process may write; `None` lifts the bound.
pub fn limit_file_size(process: u32, bytes: Option<u64>) -> io::Result<()> {
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    rustix::process::prlimit(Some(pid(process)), Resource::Fsize, limit)?;
    Ok(())
}

/// Pins the calling thread to one processor, or to the first `count` of them.
pub fn pin(processor: Option<usize>, count: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    for each in 0..count {
        if processor.is_none_or(|only| only == each) {
            set.set(each);
        }
    }
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

const AUTOGROUP: &str = "/proc/self/autogroup";

/// A raised priority. The autogroup is that of the whole session, which goes on after this process:
/// it gets its former priority back with the end of this value.
#[must_use]
pub struct RaisedPriority {
    autogroup: Option<String>,
}

/// Raises the priority of this process and of its autogroup as far as permitted. Failure only makes
/// figures noisier.
pub fn raise_priority() -> RaisedPriority {
    let _ = rustix::process::setpriority_process(None, -19);
    // `/autogroup-7 nice 0`
    let before = std::fs::read_to_string(AUTOGROUP).unwrap_or_default();
    let autogroup = before.split_whitespace().last().map(str::to_owned);
    let _ = std::fs::write(AUTOGROUP, "-19");
    RaisedPriority { autogroup }
}

impl Drop for RaisedPriority {
    fn drop(&mut self) {
        if let Some(before) = &self.autogroup {
            let _ = std::fs::write(AUTOGROUP, before);
        }
    }
}

/// Sends a signal to a process that may have ended.
pub fn signal(process: u32, signal: Signal) -> io::Result<()> {
    Ok(rustix::process::kill_process(pid(process), signal)?)
}

fn pid(process: u32) -> Pid {
    Pid::from_raw(process as i32).expect("a child has a positive id")
}

/// CPU time of a process in seconds, exact to the nanosecond, which the ticks of `/proc/stat` are
/// not; 0 if it is gone.
///
/// rustix has no `clock_getcpuclockid`.
pub fn cpu_seconds(process: u32) -> f64 {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: both out-pointers are valid for their calls.
    let done = unsafe {
        libc::clock_getcpuclockid(process as libc::pid_t, &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    if done {
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    } else {
        0.0
    }
}

/// CPU time of the calling thread: other load on the machine does not count.
pub fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// CPU time this process has used: user, system. rustix has no `getrusage`.
pub fn cpu_time() -> (Duration, Duration) {
    // SAFETY: all zeroes is a valid rusage, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let duration = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    (duration(usage.ru_utime), duration(usage.ru_stime))
}

/// A new terminal of 100 columns: what reads it, and the end of the program that it shows.
pub fn terminal() -> io::Result<(File, OwnedFd)> {
    let (mut reader, mut shown) = (-1, -1);
    let size = libc::winsize {
        ws_row: 40,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptors and the size are valid for the call, which keeps no pointer; a name
    // and attributes are not wanted.
    let made = unsafe {
        libc::openpty(
            &raw mut reader,
            &raw mut shown,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            (&raw const size).cast_mut(),
        )
    };
    if made != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just opened both, and nothing else owns them.
    Ok(unsafe { (File::from_raw_fd(reader), OwnedFd::from_raw_fd(shown)) })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn connection_from_a_source_turns_writable_then_readable() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let target = listener.local_addr().expect("it is bound");
        let source: IpAddr = "127.0.0.7".parse().expect("an address");
        let mut client = connect(target, Some(source)).expect("connecting begins");
        let mut poll = Poll::new().expect("epoll");
        poll.add(&client, 42, true).expect("a new descriptor");
        let (mut server, peer) = listener.accept().expect("a connection");
        assert_eq!(peer.ip(), source);
        let mut wait = || {
            let mut events = Vec::new();
            poll.wait(Duration::from_mins(1), &mut events)
                .expect("epoll");
            let [event] = events[..] else {
                panic!("{events:?}")
            };
            poll.change(&client, 42, false).expect("it is known");
            (event.token, event.readable, event.writable)
        };
        assert_eq!(wait(), (42, false, true));
        server.write_all(b"hello").expect("it is open");
        assert_eq!(wait(), (42, true, false));
        let mut received = [0; 5];
        client.read_exact(&mut received).expect("it is there");
        assert_eq!(&received, b"hello");
    }

    #[test]
    fn end_of_a_child_is_noticed() {
        let mut cat = Command::new("cat");
        let piped = cat.stdin(Stdio::piped()).spawn();
        let mut child = piped.expect("the program can be started");
        assert!(!wait_for_end(child.id(), Duration::ZERO).expect("a child"));
        drop(child.stdin.take());
        assert!(wait_for_end(child.id(), Duration::from_mins(1)).expect("a child"));
        assert!(child.wait().expect("it has ended").success());
    }

    #[test]
    fn cpu_time_of_this_process_is_known() {
        assert!(cpu_seconds(std::process::id()) > 0.0);
        let (user, system) = cpu_time();
        assert!(user + system > Duration::ZERO);
    }
}
