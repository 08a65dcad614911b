//! Blocking connections: one request after the other, pipelined if the caller sends ahead.
//!
//! [`Client`] is one connection. It reads exactly one response per request, so that a wrong length
//! or a response too many is noticed, and every read has a deadline. [`KeepAlive`] is a client that
//! connects when it must.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::documented;
use crate::request;
use crate::response::{Response, ResponseParser};
use crate::wait::WAIT_MAX;

const READ_BYTES: usize = 64 << 10;
/// Most received bytes that an error shows.
const SHOWN_BYTES_MAX: usize = 400;

/// Why a request has no response.
#[derive(Debug)]
pub enum ClientError {
    /// The connection ended before the first byte of the response.
    Closed,
    /// The connection ended inside the response; the text is what came of it.
    Truncated(String),
    /// The deadline passed; the text is what came of the response.
    Timeout(String),
    /// The response is not HTTP/1.1 as the parser demands it.
    Malformed {
        reason: &'static str,
        seen: String,
    },
    Io(io::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => out.write_str("connection closed before a response"),
            Self::Truncated(seen) => write!(out, "connection closed inside a response: {seen:?}"),
            Self::Timeout(seen) => write!(out, "timeout; received so far: {seen:?}"),
            Self::Malformed { reason, seen } => write!(out, "malformed ({reason}): {seen:?}"),
            Self::Io(error) => error.fmt(out),
        }
    }
}

impl std::error::Error for ClientError {}

/// One connection.
pub struct Client {
    stream: TcpStream,
    /// Longest wait for one response or line.
    longest: Duration,
    /// Received and not yet part of a response.
    received: Vec<u8>,
    /// Errors are compared with the API document.
    is_checked: bool,
    /// Method and target of the requests without a response yet. `None`: bytes that a test wrote.
    sent: VecDeque<Option<(String, String)>>,
}

impl Client {
    /// Connects; fails the test if that fails.
    pub fn new(address: SocketAddr) -> Self {
        Self::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect(address)?)
    }

    /// A client on a connection that exists.
    pub fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            longest: WAIT_MAX,
            received: Vec::new(),
            is_checked: false,
            sent: VecDeque::new(),
        })
    }

    /// Compares every error from now on with the API document of the program.
    #[must_use]
    pub fn checked(mut self) -> Self {
        self.is_checked = true;
        self
    }

    /// Bounds the wait for each response from now on.
    pub fn set_longest(&mut self, longest: Duration) {
        self.longest = longest;
    }

    /// The same connection for another thread, to end it from there.
    pub fn stream(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// Sends one request and reads its response; fails the test without a response. `path` is the
    /// whole target.
    #[track_caller]
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        self.try_request(method, path, fields, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Sends one request and reads its response.
    pub fn try_request(
        &mut self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, ClientError> {
        self.send_request(method, path, fields, body);
        self.try_response(method == "HEAD")
    }

    /// Sends a request and leaves its response for later.
    pub fn send_request(&mut self, method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) {
        let lines: String = fields
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let has_body = !body.is_empty() || matches!(method, "PUT" | "POST");
        let mut bytes = Vec::new();
        request::write(
            &mut bytes,
            method,
            path,
            "test",
            &lines,
            has_body.then_some(body),
        );
        self.sent
            .push_back(Some((method.to_owned(), path.to_owned())));
        self.write(&bytes);
    }

    /// Sends bytes as they are. A server that closed the connection meanwhile shows in its
    /// response, not here.
    pub fn send(&mut self, bytes: &[u8]) {
        self.sent.push_back(None);
        self.write(bytes);
    }

    fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Announces that no more will be sent.
    pub fn shut_down_write(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next response, interim ones (1xx) included; fails the test if there is none.
    #[track_caller]
    pub fn response(&mut self, to_head: bool) -> Response {
        self.try_response(to_head)
            .unwrap_or_else(|error| panic!("no response: {error}"))
    }

    pub fn try_response(&mut self, to_head: bool) -> Result<Response, ClientError> {
        let deadline = Instant::now() + self.longest;
        let mut parser = ResponseParser::default();
        parser.set_to_head(to_head);
        // For errors only: the beginning of what this response was parsed from.
        let mut seen = Vec::new();
        loop {
            let shown = self.received.len().min(SHOWN_BYTES_MAX - seen.len());
            seen.extend_from_slice(&self.received[..shown]);
            let text = || String::from_utf8_lossy(&seen).into_owned();
            let (used, response) =
                parser
                    .feed(&self.received)
                    .map_err(|reason| ClientError::Malformed {
                        reason,
                        seen: text(),
                    })?;
            self.received.drain(..used);
            if let Some(response) = response {
                self.on_response(&response);
                return Ok(response);
            }
            match self.receive(deadline) {
                Ok(0) if parser.is_between_responses() => return Err(ClientError::Closed),
                Ok(0) => return Err(ClientError::Truncated(text())),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => return Err(ClientError::Timeout(text())),
                Err(error) => return Err(ClientError::Io(error)),
            }
        }
    }

    #[track_caller]
    fn on_response(&mut self, response: &Response) {
        let is_interim = response.status < 200;
        if !self.is_checked || is_interim {
            return;
        }
        // Bytes that a test wrote may be parts of a request, or several requests.
        let is_known = self.sent.iter().all(Option::is_some);
        let request = self.sent.pop_front().flatten();
        documented::check(request.as_ref().filter(|_| is_known), response);
    }

    /// The next line, once the connection carries lines; `None` when it has ended. Fails the test
    /// inside a line.
    #[track_caller]
    pub fn line(&mut self) -> Option<String> {
        let deadline = Instant::now() + self.longest;
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.received) {
                let mut line: Vec<u8> = self.received.drain(..=end).collect();
                line.pop();
                return Some(String::from_utf8(line).expect("a line is text"));
            }
            let seen = String::from_utf8_lossy(&self.received).into_owned();
            match self.receive(deadline) {
                Ok(0) if seen.is_empty() => return None,
                Ok(0) => panic!("connection closed inside a line: {seen:?}"),
                Ok(_) => {}
                Err(error) => panic!("no line ({error}); received so far: {seen:?}"),
            }
        }
    }

    /// Whether the server closes the connection without sending anything more.
    #[track_caller]
    pub fn is_ended(&mut self) -> bool {
        let deadline = Instant::now() + self.longest;
        let open = "the connection stays open and silent";
        self.received.is_empty() && self.receive(deadline).expect(open) == 0
    }

    /// Reads once. 0: the connection has ended, by a reset too.
    fn receive(&mut self, deadline: Instant) -> io::Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        // A timeout of 0 would mean none.
        self.stream
            .set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let before = self.received.len();
        self.received.resize(before + READ_BYTES, 0);
        let result = loop {
            match self.stream.read(&mut self.received[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_closed(&error) => break Ok(0),
                result => break result,
            }
        };
        let count = *result.as_ref().unwrap_or(&0);
        self.received.truncate(before + count);
        result
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

/// A client that keeps its connection and opens a new one when there is none.
pub struct KeepAlive {
    address: SocketAddr,
    longest: Duration,
    client: Option<Client>,
}

impl KeepAlive {
    /// `longest`: the bound of the wait for each response.
    pub fn new(address: SocketAddr, longest: Duration) -> Self {
        Self {
            address,
            longest,
            client: None,
        }
    }

    /// Sends one request (not HEAD) and reads its response.
    ///
    /// The server may have closed a kept connection meanwhile: then, and only then, the request is
    /// sent once more.
    pub fn exchange(&mut self, request: &[u8]) -> Result<Response, ClientError> {
        if let Some(client) = self.client.take() {
            match self.attempt(client, request) {
                Err(ClientError::Closed) => {}
                result => return result,
            }
        }
        let mut client = Client::connect(self.address).map_err(ClientError::Io)?;
        client.set_longest(self.longest);
        self.attempt(client, request)
    }

    fn attempt(&mut self, mut client: Client, request: &[u8]) -> Result<Response, ClientError> {
        client.send(request);
        let response = loop {
            let response = client.try_response(false)?;
            if response.status >= 200 {
                break response;
            }
        };
        if !response.close {
            self.client = Some(client);
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    /// A server that answers the n-th connection with the n-th bytes, after one read, and closes
    /// it.
    fn serve(answers: Vec<&'static [u8]>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("a connection");
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(answer);
            }
        });
        address
    }

    #[test]
    fn pipelined_responses_are_read_one_by_one() {
        let mut client = Client::new(serve(vec![
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 404 No\r\n\
             Content-Length: 0\r\n\r\n",
        ]));
        client.send_request("GET", "/", &[], b"");
        assert_eq!(client.response(false).expect(200).body, b"ok");
        client.response(false).expect(404);
        assert!(client.is_ended());
    }

    #[test]
    fn truncated_response_is_an_error_that_shows_it() {
        let mut client = Client::new(serve(vec![&OK[..OK.len() - 1]]));
        let error = client
            .try_request("GET", "/", &[], b"")
            .expect_err("it is cut");
        let text = error.to_string();
        assert!(
            text.starts_with("connection closed inside a response: \"HTTP/1.1 200 OK"),
            "{text}"
        );
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut client = Client::new(listener.local_addr().expect("it is bound"));
        client.set_longest(Duration::from_millis(1));
        let error = client
            .try_request("GET", "/", &[], b"")
            .expect_err("no server answers");
        assert_eq!(error.to_string(), "timeout; received so far: \"\"");
    }

    #[test]
    fn closed_kept_connection_is_replaced_once() {
        let address = serve(vec![OK, OK, b""]);
        let mut client = KeepAlive::new(address, WAIT_MAX);
        for _ in 0..2 {
            let response = client
                .exchange(b"GET / HTTP/1.1\r\n\r\n")
                .expect("an answer");
            assert_eq!(response.body, b"ok");
        }
        let error = client
            .exchange(b"GET / HTTP/1.1\r\n\r\n")
            .expect_err("closed");
        assert!(matches!(error, ClientError::Closed), "{error}");
    }
}
