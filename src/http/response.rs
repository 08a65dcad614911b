//! Response: an answer, and the only writer of status lines and header fields.
//!
//! Promises: every response has a date, a length where the status allows one, `nosniff` and the
//! configured cross-origin permission; a field value cannot break out of its line; a body for many
//! connections is formatted once (`Prepared`). When it is sent is left to `conn`.

use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use httpdate::HttpDate;

use super::Upgrade;
use super::cors::Cors;
use super::encoding::{self, Accepts, Coding};
use crate::error::{self, ApiError};
use crate::limits::{BODY_COPY_BYTES_MAX, COMPRESS_BYTES_MAX, COMPRESS_BYTES_MIN};

pub const JSON: &str = "application/json";
pub const TEXT: &str = "text/plain; charset=utf-8";
/// `Allow` of a path that serves every method.
pub const ALLOW_ALL: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// The field that names the request fields that a response depends on.
pub const VARY: &str = "Vary";
/// The request fields that web pages may send.
pub const ALLOWED_FIELDS: &str = "Authorization, Content-Type, If-None-Match, If-Match, Prefer, \
                                  X-Trace-Id, X-Originator, traceparent, \
                                  tracestate";

/// The end of the year 9999, which is the last that the format of dates can express.
const DATE_MAX: Duration = Duration::from_secs(253_402_300_799);

/// The credentials a client may send. RFC 9110 section 11.6.1 requires them with every 401.
const CHALLENGE: &str = "Bearer realm=\"weir\", Basic realm=\"weir\", charset=\"UTF-8\"";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    Empty,
    Owned(Vec<u8>),
    /// A large one is never copied per connection.
    Shared(Arc<[u8]>),
}

impl Body {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Body::Empty => &[],
            Body::Owned(bytes) => bytes,
            Body::Shared(bytes) => bytes,
        }
    }
}

/// An answer as the service decides it. Its form on the wire (compressed, without body for `HEAD`,
/// last of its connection) is decided when it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Empty: no such field.
    pub content_type: &'static str,
    /// The coding the body is in already. Without one, an owned body may be compressed for clients
    /// that accept it.
    pub coding: Option<Coding>,
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    pub body: Body,
    /// Compressing it was tried, or is not worth it.
    pub is_coded: bool,
    /// Web pages of every origin may read it, whatever is configured.
    pub for_any_origin: bool,
    /// End the connection after it.
    pub close: bool,
    /// How long a refusal by `Service::admit` is delayed.
    pub delay: Option<Duration>,
}

impl Response {
    pub fn new(status: u16) -> Self {
        Self {
            status,
            content_type: "",
            coding: None,
            headers: Vec::new(),
            body: Body::Empty,
            is_coded: false,
            for_any_origin: false,
            close: false,
            delay: None,
        }
    }

    pub fn json(status: u16, body: Vec<u8>) -> Self {
        Self::with_body(status, JSON, Body::Owned(body))
    }

    /// A body that other requests get as well, and the coding it is in.
    pub fn shared(status: u16, coding: Option<Coding>, body: Arc<[u8]>) -> Self {
        Self {
            coding,
            ..Self::with_body(status, JSON, Body::Shared(body))
        }
    }

    pub fn with_body(status: u16, content_type: &'static str, body: Body) -> Self {
        Self {
            content_type,
            body,
            ..Self::new(status)
        }
    }

    pub fn no_content() -> Self {
        Self::new(204)
    }

    /// The path does not serve the method of the request. `allow`: the methods it serves.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self::from(&error::METHOD_NOT_ALLOWED.error()).header("Allow", allow)
    }

    /// Adds a field. A control character in the value is a bug of the server: it panics, which the
    /// client sees as 500.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        let value = value.into();
        assert!(
            is_field_value(&value),
            "a field value has no control characters"
        );
        if self.headers.capacity() == 0 {
            self.headers.reserve_exact(FIELDS_USUAL);
        }
        self.headers.push((name, value));
        self
    }
}

impl From<&ApiError> for Response {
    fn from(error: &ApiError) -> Self {
        let mut body = Vec::with_capacity(192);
        super::error::write(error, &mut body);
        let mut response = Response::json(error.status, body);
        if let Some(seconds) = error.retry_after_seconds {
            response = response.header("Retry-After", seconds.to_string());
        }
        if error.status == 401 {
            response = response.header("WWW-Authenticate", CHALLENGE);
        }
        response
    }
}

impl From<ApiError> for Response {
    fn from(error: ApiError) -> Self {
        Response::from(&error)
    }
}

/// Fields of most responses, so that their list is allocated once.
const FIELDS_USUAL: usize = 4;

/// Whether a value cannot end its line. Looks at all bytes, many at a time: a good value is read to
/// its end anyway.
fn is_field_value(value: &str) -> bool {
    let is_bad = |byte: u8| u8::from(byte < b' ') | u8::from(byte == 0x7f);
    value.bytes().fold(0, |any, byte| any | is_bad(byte)) == 0
}

/// The properties of the connection that the form of a response depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style<'a> {
    pub(super) head_only: bool,
    pub(super) close: bool,
    pub(super) accepts: Accepts,
    /// The origin that may read this response, if a list of origins is configured.
    pub(super) origin: Option<&'a str>,
    pub(super) cors: &'a Cors,
    /// How long the connection is kept open without a request.
    pub(super) idle_seconds: u32,
}

impl Style<'_> {
    /// The end of a head.
    fn write_end(&self, out: &mut Vec<u8>) {
        if let Some(origin) = self.origin {
            field(out, "Access-Control-Allow-Origin", origin);
            field(out, "Access-Control-Expose-Headers", "*");
        }
        if self.close {
            out.extend_from_slice(b"Connection: close\r\n");
        } else {
            // Proxies close before this time is over, instead of sending into a closed connection.
            out.extend_from_slice(b"Connection: keep-alive\r\nKeep-Alive: timeout=");
            let mut seconds = itoa::Buffer::new();
            out.extend_from_slice(seconds.format(self.idle_seconds).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends `response` to `out`. A large body is returned instead, to be sent after `out` from where
/// it is.
pub(super) fn write(
    mut response: Response,
    style: Style<'_>,
    common: &[u8],
    out: &mut Vec<u8>,
) -> Option<Body> {
    let bodiless = matches!(response.status, 204 | 304);
    // A body that others get as well was chosen by the codings, and a 304 has the fields that the
    // answer with content would have.
    let by_coding = response.coding.is_some()
        || response.status == 304
        || response.is_compressible()
        || matches!(response.body, Body::Shared(_));
    if !response.is_coded
        && response.body.bytes().len() <= COMPRESS_BYTES_MAX
        && response.is_compressible()
    {
        response.compress(style.accepts);
    }
    let end = match &response.body {
        _ if bodiless => BodyEnd::NoBody,
        body => BodyEnd::Length(body.bytes().len()),
    };
    write_head(&response, end, by_coding, style, common, out);
    if bodiless || style.head_only {
        return None;
    }
    if response.body.bytes().len() < BODY_COPY_BYTES_MAX {
        out.extend_from_slice(response.body.bytes());
        None
    } else {
        Some(response.body)
    }
}

/// How the client finds the end of a response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BodyEnd {
    NoBody,
    Length(usize),
    Chunked,
}

/// Appends the head of an answer that is sent in chunks, in the coding of the response.
pub(super) fn write_chunked_head(
    response: &Response,
    style: Style<'_>,
    common: &[u8],
    out: &mut Vec<u8>,
) {
    write_head(response, BodyEnd::Chunked, true, style, common, out);
}

/// `by_coding`: other clients may get another coding of it.
fn write_head(
    response: &Response,
    end: BodyEnd,
    by_coding: bool,
    style: Style<'_>,
    common: &[u8],
    out: &mut Vec<u8>,
) {
    status_line(response.status, out);
    out.extend_from_slice(common);
    if end != BodyEnd::NoBody && !response.content_type.is_empty() {
        field(out, "Content-Type", response.content_type);
    }
    match end {
        BodyEnd::NoBody => {}
        BodyEnd::Length(bytes) => {
            out.extend_from_slice(b"Content-Length: ");
            out.extend_from_slice(itoa::Buffer::new().format(bytes).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        BodyEnd::Chunked => field(out, "Transfer-Encoding", "chunked"),
    }
    if let Some(coding) = response.coding {
        field(out, "Content-Encoding", coding.as_str());
    }
    vary(response, by_coding, style.cors, out);
    if response.for_any_origin && style.origin.is_none() && *style.cors != Cors::Any {
        field(out, "Access-Control-Allow-Origin", "*");
    }
    for (name, value) in &response.headers {
        if *name != VARY {
            field(out, name, value);
        }
    }
    style.write_end(out);
}

/// Appends the names of the request fields that the response depends on, in one line.
fn vary(response: &Response, by_coding: bool, cors: &Cors, out: &mut Vec<u8>) {
    let own = response.headers.iter().find(|(name, _)| *name == VARY);
    let named = [
        matches!(cors, Cors::Origins(_)).then_some("Origin"),
        by_coding.then_some("Accept-Encoding"),
        own.map(|(_, value)| &**value),
    ];
    let mut separator: &[u8] = b"Vary: ";
    for name in named.into_iter().flatten() {
        out.extend_from_slice(separator);
        out.extend_from_slice(name.as_bytes());
        separator = b", ";
    }
    if separator == b", " {
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the head that ends HTTP on a connection, and the first lines after it.
pub(super) fn write_upgrade(upgrade: &Upgrade, common: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
    out.extend_from_slice(common);
    field(out, "Connection", "Upgrade");
    field(out, "Upgrade", upgrade.protocol);
    for (name, value) in &upgrade.headers {
        assert!(
            is_field_value(value),
            "a field value has no control characters"
        );
        field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&upgrade.greeting);
}

fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

impl Response {
    /// The response in a coding that the client accepts, for a thread that may take its time. A
    /// response that is not compressed here is compressed when it is sent, if it is small.
    pub fn compressed(mut self, accepts: Accepts) -> Self {
        if self.is_compressible() {
            self.compress(accepts);
        }
        self.is_coded = true;
        self
    }

    /// Whether compressing it for such a client takes too long for a core.
    pub fn is_long_to_compress(&self, accepts: Accepts) -> bool {
        !self.is_coded
            && self.body.bytes().len() > COMPRESS_BYTES_MAX
            && accepts.best().is_some()
            && self.is_compressible()
    }

    /// Whether other clients may get another coding of it.
    fn is_compressible(&self) -> bool {
        let is_text = self.content_type == JSON || self.content_type.starts_with("text/");
        self.status == 200
            && self.coding.is_none()
            && is_text
            && matches!(&self.body, Body::Owned(body) if body.len() >= COMPRESS_BYTES_MIN)
    }

    fn compress(&mut self, accepts: Accepts) {
        let coded = accepts
            .best()
            .and_then(|coding| Some((coding, encoding::compress(self.body.bytes(), coding)?)));
        let Some((coding, small)) = coded else { return };
        self.coding = Some(coding);
        self.body = Body::Owned(small);
        // A strong tag names one sequence of bytes, and compression has made another one.
        for (name, value) in &mut self.headers {
            if *name == "ETag"
                && let Some(opened) = value.strip_suffix('"')
            {
                *value = format!("{opened}-{}\"", coding.as_str()).into();
            }
        }
    }
}

/// A response for many connections: formatted once, head and body in one piece, for the usual
/// client. The variants for other clients (HTTP/1.0, `HEAD`, last response of a connection) are cut
/// out of it.
#[derive(Debug)]
pub struct Prepared {
    whole: Vec<u8>,
    head_len: usize,
    /// The part of the head that is the same for every client.
    fields_len: usize,
}

impl Prepared {
    /// `accepts`: codings all receivers take.
    pub(super) fn new(
        response: Response,
        accepts: Accepts,
        (cors, idle_seconds): (&Cors, u32),
        common: &[u8],
    ) -> Self {
        let style = Style {
            head_only: false,
            close: false,
            accepts,
            origin: None,
            cors,
            idle_seconds,
        };
        let mut end = Vec::new();
        style.write_end(&mut end);
        let mut whole = Vec::new();
        let large = write(response, style, common, &mut whole);
        let head_len = memchr::memmem::find(&whole, b"\r\n\r\n")
            .map(|at| at + 4)
            .expect("every head ends with an empty line");
        if let Some(body) = large {
            whole.extend_from_slice(body.bytes());
        }
        Self {
            whole,
            head_len,
            fields_len: head_len - end.len(),
        }
    }

    pub fn whole(&self) -> &[u8] {
        &self.whole
    }

    pub(super) fn write_variant(&self, style: Style<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.whole[..self.fields_len]);
        style.write_end(out);
        if !style.head_only {
            out.extend_from_slice(&self.whole[self.head_len..]);
        }
    }
}

/// The fields of every response of a core, formatted once per second.
pub(super) fn common(now: SystemTime, cors: &Cors) -> Vec<u8> {
    let mut out = Vec::with_capacity(192);
    // A clock outside of these years is wrong; it must not end the core.
    let now = now.clamp(UNIX_EPOCH, UNIX_EPOCH + DATE_MAX);
    write!(out, "Date: {}\r\n", HttpDate::from(now)).expect("a Vec takes everything");
    out.extend_from_slice(b"X-Content-Type-Options: nosniff\r\n");
    match cors {
        Cors::Any => {
            field(&mut out, "Access-Control-Allow-Origin", "*");
            field(&mut out, "Access-Control-Expose-Headers", "*");
        }
        // Depends on the request.
        Cors::Off | Cors::Origins(_) => {}
    }
    out
}

fn status_line(status: u16, out: &mut Vec<u8>) {
    let line: &[u8] = match status {
        200 => b"HTTP/1.1 200 OK\r\n",
        201 => b"HTTP/1.1 201 Created\r\n",
        202 => b"HTTP/1.1 202 Accepted\r\n",
        204 => b"HTTP/1.1 204 No Content\r\n",
        206 => b"HTTP/1.1 206 Partial Content\r\n",
        301 => b"HTTP/1.1 301 Moved Permanently\r\n",
        302 => b"HTTP/1.1 302 Found\r\n",
        303 => b"HTTP/1.1 303 See Other\r\n",
        304 => b"HTTP/1.1 304 Not Modified\r\n",
        307 => b"HTTP/1.1 307 Temporary Redirect\r\n",
        308 => b"HTTP/1.1 308 Permanent Redirect\r\n",
        400 => b"HTTP/1.1 400 Bad Request\r\n",
        401 => b"HTTP/1.1 401 Unauthorized\r\n",
        403 => b"HTTP/1.1 403 Forbidden\r\n",
        404 => b"HTTP/1.1 404 Not Found\r\n",
        405 => b"HTTP/1.1 405 Method Not Allowed\r\n",
        406 => b"HTTP/1.1 406 Not Acceptable\r\n",
        408 => b"HTTP/1.1 408 Request Timeout\r\n",
        409 => b"HTTP/1.1 409 Conflict\r\n",
        410 => b"HTTP/1.1 410 Gone\r\n",
        412 => b"HTTP/1.1 412 Precondition Failed\r\n",
        413 => b"HTTP/1.1 413 Content Too Large\r\n",
        414 => b"HTTP/1.1 414 URI Too Long\r\n",
        415 => b"HTTP/1.1 415 Unsupported Media Type\r\n",
        417 => b"HTTP/1.1 417 Expectation Failed\r\n",
        422 => b"HTTP/1.1 422 Unprocessable Content\r\n",
        429 => b"HTTP/1.1 429 Too Many Requests\r\n",
        431 => b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
        500 => b"HTTP/1.1 500 Internal Server Error\r\n",
        501 => b"HTTP/1.1 501 Not Implemented\r\n",
        502 => b"HTTP/1.1 502 Bad Gateway\r\n",
        503 => b"HTTP/1.1 503 Service Unavailable\r\n",
        504 => b"HTTP/1.1 504 Gateway Timeout\r\n",
        505 => b"HTTP/1.1 505 HTTP Version Not Supported\r\n",
        507 => b"HTTP/1.1 507 Insufficient Storage\r\n",
        _ => {
            assert!((200..600).contains(&status), "a final status");
            out.extend_from_slice(b"HTTP/1.1 ");
            out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
            out.extend_from_slice(b" \r\n");
            return;
        }
    };
    out.extend_from_slice(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style<'static> = Style {
        head_only: false,
        close: false,
        accepts: Accepts::NONE,
        origin: None,
        cors: &Cors::Off,
        idle_seconds: 75,
    };

    fn text(response: Response, style: Style<'_>) -> String {
        let mut out = Vec::new();
        let large = write(response, style, b"Date: D\r\n", &mut out);
        if let Some(body) = large {
            out.extend_from_slice(body.bytes());
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn date_is_formatted_even_if_the_clock_is_wrong() {
        let date = |time| String::from_utf8(common(time, &Cors::Off)).expect("fields are text");
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        for (time, expected) in [
            (
                UNIX_EPOCH - Duration::from_secs(1),
                "Thu, 01 Jan 1970 00:00:00 GMT",
            ),
            (at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT"),
            (at(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT"),
            (at(4_107_542_400), "Mon, 01 Mar 2100 00:00:00 GMT"),
            (at(1 << 40), "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert!(date(time).starts_with(&format!("Date: {expected}\r\n")));
        }
    }

    #[test]
    fn response_has_a_length_and_its_body() {
        assert_eq!(
            text(Response::json(200, b"{}".to_vec()), PLAIN),
            "HTTP/1.1 200 OK\r\nDate: D\r\nContent-Type: application/json\r\n\
             Content-Length: 2\r\nConnection: keep-alive\r\nKeep-Alive: timeout=75\r\n\r\n{}"
        );
    }

    #[test]
    fn no_content_and_not_modified_have_no_body() {
        assert_eq!(
            text(Response::no_content(), PLAIN),
            "HTTP/1.1 204 No Content\r\nDate: D\r\n\
             Connection: keep-alive\r\nKeep-Alive: timeout=75\r\n\r\n"
        );
        assert_eq!(
            text(Response::new(304).header("ETag", "\"7\""), PLAIN),
            "HTTP/1.1 304 Not Modified\r\nDate: D\r\nVary: Accept-Encoding\r\n\
             ETag: \"7\"\r\nConnection: keep-alive\r\nKeep-Alive: timeout=75\r\n\r\n"
        );
        let with_body = Response {
            body: Body::Owned(b"x".to_vec()),
            ..Response::no_content()
        };
        assert!(text(with_body, PLAIN).ends_with("\r\n\r\n"));
    }

    #[test]
    fn head_has_the_length_of_get_and_no_body() {
        let head = text(
            Response::json(200, vec![b'x'; 500]),
            Style {
                head_only: true,
                ..PLAIN
            },
        );
        assert!(head.contains("Content-Length: 500\r\n") && head.ends_with("\r\n\r\n"));
        let large = text(
            Response::json(200, vec![b'x'; BODY_COPY_BYTES_MAX]),
            Style {
                head_only: true,
                ..PLAIN
            },
        );
        assert!(large.ends_with("\r\n\r\n"));
    }

    #[test]
    fn response_announces_the_end_of_the_connection() {
        let answer = |style: Style<'_>| text(Response::no_content(), style);
        assert!(
            answer(Style {
                close: true,
                ..PLAIN
            })
            .contains("Connection: close\r\n")
        );
        let open = answer(PLAIN);
        assert!(open.contains("Connection: keep-alive\r\nKeep-Alive: timeout=75\r\n"));
        assert!(!open.contains("close"));
    }

    #[test]
    fn response_names_the_origin_of_its_request() {
        let common = |cors| String::from_utf8(common(UNIX_EPOCH, cors)).expect("ASCII");
        assert!(!common(&Cors::Off).contains("Origin"));
        assert!(common(&Cors::Any).contains("Access-Control-Allow-Origin: *\r\n"));
        let several = Cors::Origins(vec!["https://a".into(), "https://b".into()]);
        assert!(!common(&several).contains("https"));
        let style = Style {
            origin: Some("https://b"),
            cors: &several,
            ..PLAIN
        };
        let answer = text(Response::new(304).header(VARY, "Accept"), style);
        assert!(answer.contains("\r\nVary: Origin, Accept-Encoding, Accept\r\n"));
        assert!(answer.contains("Access-Control-Allow-Origin: https://b\r\n"));
    }

    #[test]
    fn only_owned_text_of_enough_bytes_is_compressed() {
        let accepts = Accepts::parse(b"gzip");
        let style = Style { accepts, ..PLAIN };
        let body = b"{\"a\":1}".repeat(1000);
        let compressed = text(
            Response::json(200, body.clone()).header("ETag", "\"5\""),
            style,
        );
        assert!(compressed.contains("Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n"));
        assert!(
            compressed.contains("ETag: \"5-gzip\"\r\n"),
            "the bytes are not those of the tag"
        );
        let plain = text(
            Response::json(200, body.clone()).header("ETag", "\"5\""),
            PLAIN,
        );
        assert!(!plain.contains("Content-Encoding") && plain.contains("Vary: Accept-Encoding"));
        assert!(plain.contains("ETag: \"5\"\r\n"));
        for untouched in [
            Response::shared(200, None, body.clone().into()),
            Response::json(400, body.clone()),
            Response::json(200, b"{}".to_vec()),
            Response::with_body(200, "image/png", Body::Owned(body.clone())),
        ] {
            let untouched = text(untouched, style);
            assert!(!untouched.contains("Content-Encoding"));
        }
        let ready = text(
            Response::shared(200, Some(Coding::Zstd), body.clone().into()).header("ETag", "\"5\""),
            style,
        );
        assert!(ready.contains("Content-Encoding: zstd\r\nVary: Accept-Encoding\r\n"));
        assert!(ready.contains("ETag: \"5\"\r\n") && ready.contains("Content-Length: 7000\r\n"));
    }

    #[test]
    fn errors_have_the_fields_of_their_status() {
        let busy = text(error::WRITER_BUSY.error().retry_after(3).into(), PLAIN);
        assert!(busy.starts_with("HTTP/1.1 503 ") && busy.contains("Retry-After: 3\r\n"));
        let unknown = text(error::UNAUTHORIZED.error().into(), PLAIN);
        assert!(unknown.contains("WWW-Authenticate: Bearer "));
        let method = text(Response::method_not_allowed("GET, HEAD"), PLAIN);
        assert!(method.contains("Allow: GET, HEAD\r\n"));
    }

    #[test]
    #[should_panic(expected = "control characters")]
    fn a_field_value_cannot_start_another_field() {
        let _ = Response::new(200).header("X", "a\r\nSet-Cookie: b".to_owned());
    }

    #[test]
    fn prepared_response_is_the_same_response() {
        let response = || Response::json(200, b"{\"a\":1}".repeat(200)).header("ETag", "\"1\"");
        for accepts in [Accepts::NONE, Accepts::parse(b"gzip")] {
            let prepared = Prepared::new(response(), accepts, (&Cors::Off, 75), b"Date: D\r\n");
            for close in [false, true] {
                for head_only in [false, true] {
                    let style = Style {
                        head_only,
                        close,
                        accepts,
                        origin: head_only.then_some("https://a"),
                        ..PLAIN
                    };
                    let mut direct = Vec::new();
                    write(response(), style, b"Date: D\r\n", &mut direct);
                    let mut variant = Vec::new();
                    prepared.write_variant(style, &mut variant);
                    assert_eq!(variant, direct);
                    if !close && !head_only {
                        assert_eq!(prepared.whole(), direct);
                    }
                }
            }
        }
        let large = Prepared::new(
            Response::json(200, vec![b' '; BODY_COPY_BYTES_MAX * 2]),
            Accepts::NONE,
            (&Cors::Off, 75),
            b"",
        );
        assert!(large.whole().len() > BODY_COPY_BYTES_MAX * 2);
    }
}
