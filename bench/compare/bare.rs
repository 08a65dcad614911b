//! The bare loop: the least a long-poll server can do. It accepts, reads one request per waiter,
//! and on a publish sends the same bytes to every waiter, one `send` each. No timers, no state, no
//! parsing beyond the request line.
//!
//! Runs as its own process (`compare --bare-loop`), so that it is pinned and metered like any other
//! server.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use crate::load::send_all;
use crate::process::{Launch, Process};
use crate::{Bench, Failure};
use weir_testkit::sys::Poll;

pub struct Bare {
    pub process: Process,
    pub to: SocketAddrV4,
}

impl Bare {
    pub fn start(bench: &Bench) -> Result<Bare, Failure> {
        let program = std::env::current_exe()?;
        let mut process = Process::start(
            Launch {
                name: "bare loop",
                program: &program,
                arguments: vec!["--bare-loop".into()],
                user: None,
                log: bench.directory("bare")?.join("stderr.log"),
            },
            bench.cores,
        )?;
        let to = process.line()?.parse()?;
        Ok(Bare { process, to })
    }
}

/// `POST` publishes its body, a whole answer with its head, as it is; anything else waits.
pub fn serve() -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let SocketAddr::V4(address) = listener.local_addr()? else {
        return Err("bound to IPv4, got IPv6".into());
    };
    println!("{address}");
    listener.set_nonblocking(true)?;
    let mut poll = Poll::new()?;
    let mut connections: Vec<Option<TcpStream>> = Vec::new();
    let mut live = 0_usize;
    let mut waiting: Vec<usize> = Vec::new();
    let mut ready = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // Connections come in bursts before a measurement; the listener is looked at between
        // events.
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    poll.add(&stream, connections.len() as u64, false)?;
                    connections.push(Some(stream));
                    live += 1;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear();
        poll.wait(Duration::from_millis(1), &mut ready)?;
        for event in &ready {
            let token = event.token as usize;
            let Some(stream) = connections.get_mut(token).and_then(Option::as_mut) else {
                continue;
            };
            match stream.read(&mut buffer) {
                Ok(0) => {
                    connections[token] = None;
                    live -= 1;
                    if live == 0 {
                        connections.clear();
                        waiting.clear();
                    }
                }
                Ok(count) if buffer.starts_with(b"POST") => {
                    let end = memchr::memmem::find(&buffer[..count], b"\r\n\r\n")
                        .ok_or("a publish larger than one read")?
                        + 4;
                    let answer = &buffer[end..count];
                    for waiter in waiting.drain(..) {
                        if let Some(stream) = connections[waiter].as_mut() {
                            // A waiter's socket buffer is empty, so this is one send.
                            let _ = stream.write(answer);
                        }
                    }
                    if let Some(stream) = connections[token].as_mut() {
                        send_all(stream, b"HTTP/1.1 204 No Content\r\n\r\n")?;
                    }
                }
                Ok(_) => waiting.push(token),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
