//! Replies: from the bytes that another server sends to its answer to one request.
//!
//! Pure functions of bytes, as `input` for requests. Promises: the result does not depend on how
//! the bytes were cut into reads; head and body are bounded before they are kept; a reply whose
//! length is ambiguous (two lengths, a length and chunks) is refused, because what follows it would
//! be taken for the next reply; a content coding is refused, so there is nothing to inflate.

use super::framing::Chunked;
use crate::limits::{REPLY_FIELDS_MAX, REPLY_HEAD_BYTES_MAX, REPLY_INTERIM_MAX};

/// A complete answer of another server.
#[derive(Debug, PartialEq, Eq)]
pub struct ServerReply {
    pub status: u16,
    pub body: Vec<u8>,
    /// The connection can carry another request.
    pub keeps_open: bool,
}

/// Why bytes are no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyError {
    /// They are not HTTP/1, or their framing is ambiguous.
    Malformed,
    /// Head or body are longer than allowed.
    TooLong,
    /// The server closed the connection before the end.
    Incomplete,
}

/// Reads one reply from bytes as they arrive.
#[derive(Debug)]
pub struct ReplyReader {
    head: Vec<u8>,
    /// Final statuses come after a few interim ones.
    interim: u32,
    reply: Option<ServerReply>,
    body: ReplyBody,
    body_bytes_max: usize,
}

/// Where the body ends.
#[derive(Debug)]
enum ReplyBody {
    Length(usize),
    Chunked(Box<Chunked>),
    /// With the connection, as HTTP/1.0 has it.
    UntilEnd,
}

impl ReplyReader {
    pub fn new(body_bytes_max: usize) -> Self {
        Self {
            head: Vec::new(),
            interim: 0,
            reply: None,
            body: ReplyBody::Length(0),
            body_bytes_max,
        }
    }

    /// Whether a byte of the reply has arrived.
    pub fn has_begun(&self) -> bool {
        self.reply.is_some() || self.interim > 0 || !self.head.is_empty()
    }

    /// Bytes that are kept of it.
    pub fn held_bytes(&self) -> usize {
        let body = self.reply.as_ref().map_or(0, |it| it.body.capacity());
        self.head.capacity() + body
    }

    /// Takes bytes that have arrived. Returns the reply with its last byte.
    pub fn feed(&mut self, fresh: &[u8]) -> Result<Option<ServerReply>, ReplyError> {
        if self.reply.is_some() {
            return self.feed_body(fresh);
        }
        self.head.extend_from_slice(fresh);
        // Nothing of a head is decided within a line.
        if memchr::memchr(b'\n', fresh).is_none() {
            return self.bounded_head();
        }
        loop {
            let head = std::mem::take(&mut self.head);
            let Some((parsed, length)) = parse_head(&head)? else {
                self.head = head;
                return self.bounded_head();
            };
            let rest = &head[length..];
            if parsed.status < 200 {
                self.interim += 1;
                if parsed.status == 101 || self.interim > REPLY_INTERIM_MAX {
                    return Err(ReplyError::Malformed);
                }
                self.head = rest.to_vec();
                continue;
            }
            self.begin_body(&parsed)?;
            return self.feed_body(rest);
        }
    }

    fn bounded_head(&self) -> Result<Option<ServerReply>, ReplyError> {
        if self.head.len() > REPLY_HEAD_BYTES_MAX {
            return Err(ReplyError::TooLong);
        }
        Ok(None)
    }

    fn begin_body(&mut self, head: &ReplyHead) -> Result<(), ReplyError> {
        let has_body = head.status != 204 && head.status != 304;
        self.body = match (head.is_chunked, head.length) {
            (true, Some(_)) => return Err(ReplyError::Malformed),
            _ if !has_body => ReplyBody::Length(0),
            (true, None) => ReplyBody::Chunked(Box::new(Chunked::new(self.body_bytes_max as u64))),
            (false, Some(length)) if length > self.body_bytes_max as u64 => {
                return Err(ReplyError::TooLong);
            }
            (false, Some(length)) => ReplyBody::Length(length as usize),
            (false, None) => ReplyBody::UntilEnd,
        };
        self.reply = Some(ServerReply {
            status: head.status,
            body: Vec::new(),
            keeps_open: head.keeps_open && !matches!(self.body, ReplyBody::UntilEnd),
        });
        Ok(())
    }

    fn feed_body(&mut self, fresh: &[u8]) -> Result<Option<ServerReply>, ReplyError> {
        let Some(reply) = &mut self.reply else {
            return Err(ReplyError::Malformed);
        };
        let body = &mut reply.body;
        let used = match &mut self.body {
            ReplyBody::Length(length) => {
                let used = fresh.len().min(*length - body.len());
                body.extend_from_slice(&fresh[..used]);
                (body.len() == *length).then_some(used)
            }
            ReplyBody::Chunked(decoder) => {
                let fed = decoder.feed(fresh, body).map_err(|refusal| match refusal {
                    super::refusal::Refusal::BodyLong => ReplyError::TooLong,
                    _ => ReplyError::Malformed,
                })?;
                fed.complete.then_some(fed.used)
            }
            ReplyBody::UntilEnd => {
                body.extend_from_slice(fresh);
                if body.len() > self.body_bytes_max {
                    return Err(ReplyError::TooLong);
                }
                None
            }
        };
        let Some(used) = used else { return Ok(None) };
        let mut reply = self.reply.take().ok_or(ReplyError::Malformed)?;
        // Bytes that nothing was requested for.
        reply.keeps_open &= used == fresh.len();
        Ok(Some(reply))
    }

    /// The server has closed the connection.
    pub fn end(self) -> Result<ServerReply, ReplyError> {
        match (self.reply, self.body) {
            (Some(reply), ReplyBody::UntilEnd) => Ok(reply),
            _ => Err(ReplyError::Incomplete),
        }
    }
}

/// The facts of a head that are used.
#[derive(Debug)]
struct ReplyHead {
    status: u16,
    length: Option<u64>,
    is_chunked: bool,
    keeps_open: bool,
}

/// The head at the beginning of some bytes and its length; `None` if it is incomplete.
fn parse_head(bytes: &[u8]) -> Result<Option<(ReplyHead, usize)>, ReplyError> {
    let mut fields = [httparse::EMPTY_HEADER; REPLY_FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(ReplyError::TooLong),
        Err(_) => return Err(ReplyError::Malformed),
    };
    if length > REPLY_HEAD_BYTES_MAX {
        return Err(ReplyError::TooLong);
    }
    let is_1_1 = response.version == Some(1);
    let mut head = ReplyHead {
        status: response.code.ok_or(ReplyError::Malformed)?,
        length: None,
        is_chunked: false,
        keeps_open: is_1_1,
    };
    for field in response.headers.iter() {
        head.add(field.name, field.value)?;
    }
    // A length that the sender did not know is unknown to HTTP/1.0.
    if head.is_chunked && !is_1_1 || !(100..600).contains(&head.status) {
        return Err(ReplyError::Malformed);
    }
    Ok(Some((head, length)))
}

impl ReplyHead {
    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), ReplyError> {
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case("content-length") {
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(value).ok().filter(|_| digits);
            let length = length.and_then(|length| length.parse().ok());
            if self.length.is_some() || length.is_none() {
                return Err(ReplyError::Malformed);
            }
            self.length = length;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(ReplyError::Malformed);
            }
            self.is_chunked = true;
        } else if name.eq_ignore_ascii_case("content-encoding") {
            if !value.is_empty() && !value.eq_ignore_ascii_case(b"identity") {
                return Err(ReplyError::Malformed);
            }
        } else if name.eq_ignore_ascii_case("connection") {
            let mut options = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            let closes = options.any(|option| option.eq_ignore_ascii_case(b"close"));
            self.keeps_open &= !closes;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 64;

    /// The reply in bytes that arrive in pieces of a size, and then the end of the connection.
    fn read(bytes: &[u8], piece: usize) -> Result<ServerReply, ReplyError> {
        let mut reader = ReplyReader::new(MAX);
        for piece in bytes.chunks(piece) {
            if let Some(reply) = reader.feed(piece)? {
                return Ok(reply);
            }
            assert!(reader.held_bytes() <= 2 * (REPLY_HEAD_BYTES_MAX + piece.len() + MAX));
        }
        reader.end()
    }

    fn reply(status: u16, body: &str, keeps_open: bool) -> ServerReply {
        ServerReply {
            status,
            body: body.as_bytes().to_vec(),
            keeps_open,
        }
    }

    #[test]
    fn every_framing_is_read_in_pieces_of_any_size() {
        for (text, expected) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
                reply(200, "hi", true),
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nConnection: x, Close\r\n\r\nhi",
                reply(200, "hi", false),
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
                reply(200, "hi", false),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1;a=b\r\ni\r\n\
                 0\r\nT: x\r\n\r\n",
                reply(200, "hi", true),
            ),
            ("HTTP/1.1 200 OK\r\n\r\nhi", reply(200, "hi", false)),
            ("HTTP/1.1 204 No Content\r\n\r\n", reply(204, "", true)),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: a\r\n\r\n\
                 HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
                reply(404, "", true),
            ),
            (
                "HTTP/1.1 302 Found\r\nLocation: http://a/\r\nContent-Length: 0\r\n\r\n",
                reply(302, "", true),
            ),
        ] {
            for piece in 1..=text.len() {
                let found = read(text.as_bytes(), piece);
                assert_eq!(found.as_ref(), Ok(&expected), "{text:?} by {piece}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_read_the_same_in_any_pieces(
            parts in proptest::collection::vec(0..PARTS.len(), 0..12),
            piece in 1..40_usize,
        ) {
            let text: String = parts.iter().map(|part| PARTS[*part]).collect();
            let facts = |found: Result<ServerReply, ReplyError>| {
                // Whether bytes after the reply are there is known in the same read only.
                found.map(|reply| (reply.status, reply.body)).map_err(|_| ())
            };
            let whole = facts(read(text.as_bytes(), text.len().max(1)));
            proptest::prop_assert_eq!(facts(read(text.as_bytes(), piece)), whole, "{:?}", text);
        }
    }

    const PARTS: [&str; 16] = [
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 404 Not Found\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n",
        "Content-Length: 3\r\n",
        "Content-Length: 99\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "Content-Encoding: gzip\r\n",
        "\r\n",
        "\n",
        "abc",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "0\r\nA: b\r\n\r\n",
        "\0",
    ];

    #[test]
    fn connection_with_more_than_the_reply_is_not_kept() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n";
        assert_eq!(read(text, text.len()), Ok(reply(200, "hi", false)));
    }

    #[test]
    fn ambiguous_long_and_incomplete_replies_are_errors() {
        use ReplyError::{Incomplete, Malformed, TooLong};
        let head = "HTTP/1.1 200 OK\r\n";
        let long = format!("{head}a: {}\r\n\r\n", "x".repeat(REPLY_HEAD_BYTES_MAX));
        let endless = format!("{head}a: {}", "x".repeat(REPLY_HEAD_BYTES_MAX));
        let many = format!("{head}{}\r\n", "a: b\r\n".repeat(REPLY_FIELDS_MAX + 1));
        let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(REPLY_INTERIM_MAX as usize + 1);
        let over = format!("{head}\r\n{}", "x".repeat(MAX + 1));
        for (text, error) in [
            ("SSH-2.0-OpenSSH_9.2\r\n\r\n", Malformed),
            ("HTTP/2 200 OK\r\n\r\n", Malformed),
            ("HTTP/1.1 999 Odd\r\n\r\n", Malformed),
            ("HTTP/1.1 101 Switching\r\n\r\n", Malformed),
            (&interim, Malformed),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
                Malformed,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
                Malformed,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                Malformed,
            ),
            (
                "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                Malformed,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
                Malformed,
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", Malformed),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
                Malformed,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                Malformed,
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 65\r\n\r\n", TooLong),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n41\r\n",
                TooLong,
            ),
            (&long, TooLong),
            (&endless, TooLong),
            (&many, TooLong),
            (&over, TooLong),
            ("", Incomplete),
            ("HTTP/1.1 200 OK\r\n", Incomplete),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", Incomplete),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n",
                Incomplete,
            ),
        ] {
            let shown = &text[..text.len().min(80)];
            for piece in [1, 7, text.len().max(1)] {
                assert_eq!(
                    read(text.as_bytes(), piece),
                    Err(error),
                    "{shown:?} by {piece}"
                );
            }
        }
    }
}
