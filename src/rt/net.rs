//! Sockets: listening, accepting and waiting for readiness.
//!
//! Promises: `accept` and readiness futures lose nothing as long as they are not dropped while
//! pending. Bytes move through `sys`, so a connection owns no buffer the kernel could write into.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

use monoio::net::{ListenerOpts, TcpListener, TcpStream};

use super::sys;

/// Connections the kernel may hold before they are accepted; it clamps this to
/// `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// A listening socket of this core.
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

/// Listens on `address` with `SO_REUSEPORT`, so that every core can have its own socket on the same
/// port. Port 0 binds a free port: the first core uses it, the others listen on the `local_addr` of
/// the first.
pub fn listen(address: SocketAddr) -> io::Result<Listener> {
    let options = ListenerOpts::new()
        .reuse_addr(true)
        .reuse_port(true)
        .backlog(BACKLOG);
    let listener = TcpListener::bind_with_config(address, &options)?;
    // Accepted sockets inherit both: no system calls for each of them.
    sys::set_nodelay(listener.as_raw_fd())?;
    sys::set_keepalive(listener.as_raw_fd())?;
    let address = listener.local_addr()?;
    Ok(Listener { listener, address })
}

/// Fails if `address` is in use. `SO_REUSEPORT` would silently let a second server of the same user
/// share the port, so the first core checks here before it listens.
pub fn is_free(address: SocketAddr) -> io::Result<()> {
    std::net::TcpListener::bind(address).map(drop)
}

impl Listener {
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next connection. One task awaits it until it fails: a pending accept that is dropped
    /// leaks a descriptor.
    pub async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        let (stream, peer) = self.listener.accept().await?;
        Ok((Socket { stream }, peer))
    }

    /// Takes a connection accepted by `sys::accept_now`.
    pub fn adopt(stream: std::net::TcpStream) -> io::Result<Socket> {
        stream.set_nonblocking(true)?;
        Ok(Socket {
            stream: TcpStream::from_std(stream)?,
        })
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

/// Begins to connect to another server, without waiting: [`Socket::writable`] completes when the
/// attempt has ended, and `sys::connect_result` has its result. `sys::shutdown` ends it earlier.
pub fn begin_connect(address: SocketAddr) -> io::Result<Socket> {
    Ok(Socket {
        stream: TcpStream::from_std(sys::begin_connect(address)?)?,
    })
}

/// A connected socket. It waits and closes; bytes move through `sys` on its descriptor.
pub struct Socket {
    stream: TcpStream,
}

impl Socket {
    /// Completes when a `recv` would not block: bytes, end of input or an error, which `recv`
    /// returns as well. Must be kept until it completes.
    // No async fn: a second future around the first would be 100 bytes of every idle connection.
    pub fn readable(&self) -> impl Future<Output = io::Result<()>> {
        self.stream.readable(false)
    }

    /// Completes when a `send` would not block. Must be kept until it completes.
    pub async fn writable(&self) {
        drop(self.stream.writable(false).await);
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}
