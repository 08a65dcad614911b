//! One connection of an io core to another server, for one request after the other.
//!
//! Bytes move by direct system calls and readiness of `rt`, as those of clients do; TLS is a state
//! machine between them (rustls). Promises: only addresses that the egress policy allows are
//! connected to; redirects are returned, never followed; a call ends at its deadline; what is kept
//! of replies is bounded per reply and for all calls of the core.

use std::cell::{Cell, RefCell};
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::rc::Rc;
use std::sync::Arc;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::client::OutboundError;
use super::deadlines::{CallDeadline, Deadlines};
use super::dial::Dialer;
use super::target::TargetUrl;
use crate::http::reply::{ReplyError, ReplyReader, ServerReply};
use crate::limits::{QUERY_BUFFERS_BYTES_MAX, READ_BYTES};
use crate::rt::{self, Socket, sys};

/// What the calls of one core share.
pub struct CallContext {
    dialer: Arc<Dialer>,
    pub deadlines: Rc<Deadlines>,
    /// Bytes of replies that are arriving.
    held_bytes: Cell<usize>,
    scratch: RefCell<Box<[u8]>>,
}

/// Why a request got no reply.
#[derive(Debug, PartialEq, Eq)]
pub enum ExchangeError {
    /// The connection was closed before the reply began: a kept one may have been closed meanwhile.
    Closed,
    Failed(OutboundError),
}

impl From<OutboundError> for ExchangeError {
    fn from(error: OutboundError) -> Self {
        Self::Failed(error)
    }
}

impl CallContext {
    pub fn new(dialer: Arc<Dialer>) -> Self {
        Self {
            dialer,
            deadlines: Rc::default(),
            held_bytes: Cell::new(0),
            scratch: RefCell::new(vec![0; READ_BYTES].into()),
        }
    }

    /// Resolves the name of a target again when its addresses are not used any more. A connection
    /// that leads to another address is replaced by the next request.
    pub async fn follow_name(&self, target: &TargetUrl, deadline: &CallDeadline) {
        // Without an answer the connection stays.
        let _ = self.addresses(target, deadline).await;
    }

    /// The addresses of a target that may be connected to.
    async fn addresses(
        &self,
        target: &TargetUrl,
        deadline: &CallDeadline,
    ) -> Result<Vec<SocketAddr>, OutboundError> {
        if let Some(known) = self.dialer.known(target) {
            return self.dialer.allowed(&known?);
        }
        let found = Arc::default();
        self.dialer.look_up(target, &found);
        let found = deadline.receive(&found).await;
        self.dialer
            .allowed(&found.unwrap_or(Err(OutboundError::TimedOut))?)
    }
}

/// Bytes that one reply keeps, as part of those of the core.
struct HeldBytes<'a> {
    all: &'a Cell<usize>,
    own: usize,
}

impl HeldBytes<'_> {
    fn set(&mut self, own: usize) -> Result<(), OutboundError> {
        let all = self.all.get() - self.own + own;
        if all > QUERY_BUFFERS_BYTES_MAX {
            return Err(OutboundError::Busy);
        }
        self.all.set(all);
        self.own = own;
        Ok(())
    }
}

impl Drop for HeldBytes<'_> {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.own);
    }
}

/// An open connection. Dropping it closes it.
pub struct PeerConnection {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
    peer: Box<str>,
    address: SocketAddr,
}

impl PeerConnection {
    /// Connects to the server of a target: to its addresses in turn, until one accepts.
    pub async fn open(
        context: &CallContext,
        target: &TargetUrl,
        deadline: &CallDeadline,
    ) -> Result<Self, OutboundError> {
        let addresses = context.addresses(target, deadline).await?;
        let connected = connect(&addresses, deadline).await;
        if matches!(
            connected,
            Err(OutboundError::Unreachable | OutboundError::TimedOut)
        ) {
            context.dialer.forget(target);
        }
        let (socket, address) = connected?;
        let tls = if target.is_tls() {
            let host = target.host().trim_matches(['[', ']']).to_owned();
            let name = ServerName::try_from(host).map_err(|_| OutboundError::Unreachable)?;
            let tls = ClientConnection::new(context.dialer.tls(), name);
            Some(Box::new(tls.map_err(|_| OutboundError::Unreachable)?))
        } else {
            None
        };
        let peer = target.peer();
        Ok(Self {
            socket,
            tls,
            peer,
            address,
        })
    }

    /// Whether it leads to the server of a target, whose name may lead to another address by now.
    pub fn is_to(&self, context: &CallContext, target: &TargetUrl) -> bool {
        self.peer == target.peer() && !context.dialer.has_moved(target, self.address)
    }

    /// Sends a request and receives the reply to it. After an error, or a reply that does not keep
    /// it open, the connection is of no use.
    pub async fn exchange(
        &mut self,
        context: &CallContext,
        request: &[u8],
        reply_bytes_max: usize,
        deadline: &CallDeadline,
    ) -> Result<ServerReply, ExchangeError> {
        let mut reader = ReplyReader::new(reply_bytes_max);
        let mut held = HeldBytes {
            all: &context.held_bytes,
            own: 0,
        };
        let result = async {
            self.send(request, deadline).await?;
            let mut plain = Vec::new();
            loop {
                let fed = if self.tls.is_some() {
                    plain.clear();
                    let more = self.receive_tls(context, &mut plain, deadline).await?;
                    more.then(|| reader.feed(&plain))
                } else {
                    wait_readable(&self.socket, deadline).await?;
                    let mut scratch = context.scratch.borrow_mut();
                    match sys::recv(self.socket.as_raw_fd(), &mut scratch) {
                        Ok(0) => None,
                        Ok(got) => Some(reader.feed(&scratch[..got])),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(error) => return Err(error.into()),
                    }
                };
                match fed {
                    Some(Ok(Some(reply))) => return Ok(reply),
                    Some(Ok(None)) => held.set(reader.held_bytes() + plain.capacity())?,
                    Some(Err(_)) => return Err(OutboundError::BadResponse.into()),
                    None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                }
            }
        };
        let result: Result<ServerReply, ConnectionError> = result.await;
        let has_begun = reader.has_begun();
        match result {
            // What arrived before the deadline is not looked at any more.
            _ if deadline.is_over() => Err(OutboundError::TimedOut.into()),
            Ok(reply) => Ok(reply),
            Err(ConnectionError::Failed(error)) => Err(error.into()),
            Err(ConnectionError::Closed) if !has_begun => Err(ExchangeError::Closed),
            Err(ConnectionError::Closed) => match reader.end() {
                Ok(reply) => Ok(reply),
                Err(ReplyError::Incomplete | ReplyError::Malformed | ReplyError::TooLong) => {
                    Err(OutboundError::BadResponse.into())
                }
            },
        }
    }

    async fn send(&mut self, bytes: &[u8], deadline: &CallDeadline) -> Result<(), ConnectionError> {
        let Some(tls) = &mut self.tls else {
            return send_all(&self.socket, bytes, deadline).await;
        };
        // Kept until the handshake is done.
        tls.writer().write_all(bytes)?;
        self.send_records(deadline).await
    }

    /// Sends the records that TLS has made.
    async fn send_records(&mut self, deadline: &CallDeadline) -> Result<(), ConnectionError> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        let mut records = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut records)?;
        }
        send_all(&self.socket, &records, deadline).await
    }

    /// Receives bytes by TLS. Returns false at the end of the connection.
    async fn receive_tls(
        &mut self,
        context: &CallContext,
        plain: &mut Vec<u8>,
        deadline: &CallDeadline,
    ) -> Result<bool, ConnectionError> {
        loop {
            wait_readable(&self.socket, deadline).await?;
            let is_open = {
                let mut scratch = context.scratch.borrow_mut();
                match sys::recv(self.socket.as_raw_fd(), &mut scratch) {
                    Ok(0) => false,
                    Ok(got) => self.decrypt(&scratch[..got], plain)?,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error.into()),
                }
            };
            self.send_records(deadline).await?;
            if !plain.is_empty() || !is_open {
                return Ok(!plain.is_empty());
            }
        }
    }

    /// Takes records that have arrived. Returns false after the last one of the peer.
    fn decrypt(&mut self, mut records: &[u8], plain: &mut Vec<u8>) -> Result<bool, OutboundError> {
        let Some(tls) = &mut self.tls else {
            return Ok(true);
        };
        while !records.is_empty() {
            tls.read_tls(&mut records)
                .map_err(|_| OutboundError::BadResponse)?;
            let state = tls.process_new_packets();
            let state = state.map_err(|_| OutboundError::Unreachable)?;
            let begin = plain.len();
            plain.resize(begin + state.plaintext_bytes_to_read(), 0);
            let read = tls.reader().read_exact(&mut plain[begin..]);
            read.map_err(|_| OutboundError::BadResponse)?;
            if state.peer_has_closed() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Why the bytes of a connection end.
enum ConnectionError {
    Closed,
    Failed(OutboundError),
}

impl From<OutboundError> for ConnectionError {
    fn from(error: OutboundError) -> Self {
        Self::Failed(error)
    }
}

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        match error.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => Self::Closed,
            _ => Self::Failed(OutboundError::Unreachable),
        }
    }
}

/// Connects to the first address that accepts. Each but the last one gets half of the time that is
/// left: one that does not answer must not hide the others.
async fn connect(
    addresses: &[SocketAddr],
    deadline: &CallDeadline,
) -> Result<(Socket, SocketAddr), OutboundError> {
    for (index, address) in addresses.iter().enumerate() {
        let socket = match rt::begin_connect(*address) {
            Ok(socket) => socket,
            // The lack is of this server: no other address would help.
            Err(error) if sys::is_exhausted(&error) => return Err(OutboundError::Busy),
            Err(_) => continue,
        };
        let number = socket.as_raw_fd();
        let has_next = index + 1 < addresses.len();
        let part = has_next.then(|| deadline.half(rt::uptime_ms()));
        let part = part.as_ref().unwrap_or(deadline);
        part.wait_for(number, socket.writable()).await;
        if deadline.is_over() {
            return Err(OutboundError::TimedOut);
        }
        if part.is_over() {
            continue;
        }
        if sys::connect_result(number).is_ok() {
            return Ok((socket, *address));
        }
    }
    Err(OutboundError::Unreachable)
}

async fn wait_readable(socket: &Socket, deadline: &CallDeadline) -> Result<(), OutboundError> {
    let readable = deadline.wait_for(socket.as_raw_fd(), socket.readable());
    // An error is the result of the next call on the socket, too.
    let _ = readable.await;
    if deadline.is_over() {
        return Err(OutboundError::TimedOut);
    }
    Ok(())
}

async fn send_all(
    socket: &Socket,
    mut bytes: &[u8],
    deadline: &CallDeadline,
) -> Result<(), ConnectionError> {
    while !bytes.is_empty() {
        match sys::send(socket.as_raw_fd(), bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let writable = deadline.wait_for(socket.as_raw_fd(), socket.writable());
                writable.await;
                if deadline.is_over() {
                    return Err(OutboundError::TimedOut.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The bytes of a `GET` request.
pub fn get_request(target: &TargetUrl, headers: &[(&'static str, String)]) -> Vec<u8> {
    request("GET", target, headers, None)
}

/// The bytes of a `PUT` request with a JSON body.
pub fn put_request(target: &TargetUrl, headers: &[(&'static str, String)], body: &str) -> Vec<u8> {
    request("PUT", target, headers, Some(body))
}

fn request(
    method: &str,
    target: &TargetUrl,
    headers: &[(&'static str, String)],
    body: Option<&str>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(512 + body.map_or(0, str::len));
    let mut add = |parts: &[&str]| {
        for part in parts {
            out.extend_from_slice(part.as_bytes());
        }
    };
    add(&[method, " ", target.path_and_query(), " HTTP/1.1\r\n"]);
    add(&["Host: ", target.authority(), "\r\n"]);
    add(&["User-Agent: weir/", env!("CARGO_PKG_VERSION"), "\r\n"]);
    add(&["Accept: application/json\r\n"]);
    if let Some(body) = body {
        let length = body.len().to_string();
        add(&[
            "Content-Type: application/json\r\nContent-Length: ",
            &length,
            "\r\n",
        ]);
    }
    let own = target.authorization().map(|value| ("authorization", value));
    let given = headers.iter().map(|(name, value)| (*name, value.as_str()));
    for (name, value) in own.into_iter().chain(given) {
        // A value with a line end would begin another field.
        if value.bytes().all(|byte| (b' '..0x7f).contains(&byte)) {
            add(&[name, ": ", value, "\r\n"]);
        }
    }
    add(&["\r\n", body.unwrap_or_default()]);
    out
}

#[cfg(test)]
mod tests;
