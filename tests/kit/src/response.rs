//! Responses from bytes: a framer that copies nothing and an incremental parser that returns owned
//! responses.
//!
//! Both take heads apart with httparse and follow one set of rules: a body has a `Content-Length`
//! or is chunked, never both and never neither (an end that is only a closed connection cannot be
//! distinguished from a broken one); lines end in CRLF; a repeated field is an error; heads, bodies
//! and chunk lines have limits.

use std::borrow::Cow;
use std::io::Read as _;

use serde_json::Value;

/// Longest status line plus header fields.
const HEAD_BYTES_MAX: usize = 64 << 10;
const FIELDS_MAX: usize = 64;
/// Longest body: a whole list of 1,000,000 streams is about 1 GiB.
const BODY_BYTES_MAX: u64 = 2 << 30;
/// Longest chunk-size or trailer line.
const LINE_BYTES_MAX: usize = 8 << 10;

/// A complete response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// The head as sent, with its final empty line.
    pub head: Box<[u8]>,
    /// As sent: still in its content coding, without its transfer coding.
    pub body: Vec<u8>,
    /// The server ends the connection after this response.
    pub close: bool,
    /// Bytes on the wire, head and framing included.
    pub wire_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Identity,
    Gzip,
    Zstd,
    Unknown,
}

impl Response {
    /// Header fields in the order sent; names as sent, values trimmed.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        fields(&self.head)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub fn etag(&self) -> Option<&str> {
        self.header("etag")
    }

    pub fn retry_after(&self) -> Option<u32> {
        self.header("retry-after")?.parse().ok()
    }

    pub fn encoding(&self) -> Encoding {
        match self.header("content-encoding") {
            None | Some("identity") => Encoding::Identity,
            Some("gzip") => Encoding::Gzip,
            Some("zstd") => Encoding::Zstd,
            Some(_) => Encoding::Unknown,
        }
    }

    /// The body without its content coding.
    pub fn decoded(&self) -> Result<Cow<'_, [u8]>, &'static str> {
        let mut plain = Vec::new();
        match self.encoding() {
            Encoding::Identity => return Ok(self.body.as_slice().into()),
            Encoding::Gzip => {
                let decoder = flate2::read::GzDecoder::new(self.body.as_slice());
                let read = decoder.take(BODY_BYTES_MAX).read_to_end(&mut plain);
                read.map_err(|_| "broken gzip body")?;
            }
            Encoding::Zstd => {
                let decoder = zstd::Decoder::with_buffer(self.body.as_slice())
                    .map_err(|_| "broken zstd body")?;
                let read = decoder.take(BODY_BYTES_MAX).read_to_end(&mut plain);
                read.map_err(|_| "broken zstd body")?;
            }
            Encoding::Unknown => return Err("content coding that was not requested"),
        }
        Ok(plain.into())
    }

    /// The decoded body as text; fails the test if it is not UTF-8.
    pub fn text(&self) -> String {
        let plain = self.decoded().unwrap_or_else(|error| panic!("{error}"));
        String::from_utf8(plain.into_owned()).expect("bodies are text")
    }

    /// The decoded body as JSON; fails the test if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text())
            .unwrap_or_else(|error| panic!("not JSON ({error}): {:?}", self.text()))
    }

    /// Fails unless the status is the given one; returns the response for more.
    #[track_caller]
    #[allow(clippy::return_self_not_must_use)] // most calls only check
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(
            self.status,
            status,
            "expected {status}, got {}: {}",
            self.status,
            self.text()
        );
        self
    }

    /// `code pointer-or-parameter` of each error, in order. Checks the form that every error has.
    #[track_caller]
    pub fn errors(&self) -> Vec<String> {
        let body = self.json();
        let errors = body["errors"]
            .as_array()
            .unwrap_or_else(|| panic!("no errors: {body}"));
        assert!(!errors.is_empty(), "an error without errors");
        errors
            .iter()
            .map(|error| {
                assert_eq!(error["status"], self.status.to_string(), "{body}");
                assert!(error["title"].is_string(), "{body}");
                let code = error["code"].as_str().expect("a code is a string");
                let source = &error["source"];
                match (source["pointer"].as_str(), source["parameter"].as_str()) {
                    (Some(place), _) | (None, Some(place)) => format!("{code} {place}"),
                    (None, None) => code.to_owned(),
                }
            })
            .collect()
    }
}

/// Value of a field of a head, by name in any case.
pub fn header<'h>(head: &'h [u8], name: &str) -> Option<&'h str> {
    fields(head).find_map(|(field, value)| field.eq_ignore_ascii_case(name).then_some(value))
}

/// Fields of a head that [`Head::parse`] accepted.
fn fields(head: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    head.split(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| {
            let colon = memchr::memchr(b':', line)?;
            let name = std::str::from_utf8(&line[..colon]).ok()?;
            Some((name, std::str::from_utf8(&line[colon + 1..]).ok()?.trim()))
        })
}

/// Where the body of a response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
}

/// The parsed head of a response.
struct Head {
    status: u16,
    bytes: usize,
    framing: Framing,
    close: bool,
}

impl Head {
    /// The head at the front of `input`, `None` while it is incomplete. `to_head`: the request's
    /// method was HEAD.
    fn parse(input: &[u8], to_head: bool) -> Result<Option<Head>, &'static str> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut fields);
        let bytes = match parsed.parse(input) {
            Ok(httparse::Status::Complete(bytes)) if bytes <= HEAD_BYTES_MAX => bytes,
            Ok(httparse::Status::Partial) if input.len() <= HEAD_BYTES_MAX => return Ok(None),
            Ok(_) => return Err("head too long"),
            Err(httparse::Error::TooManyHeaders) => return Err("too many header fields"),
            Err(_) => return Err("not a response of HTTP/1"),
        };
        let head = &input[..bytes];
        if memchr::memchr_iter(b'\n', head).any(|at| at == 0 || head[at - 1] != b'\r') {
            return Err("bare line feed");
        }
        let status = parsed.code.ok_or("no status")?;
        let (mut length, mut chunked, mut close) = (None, false, parsed.version == Some(0));
        for (at, field) in parsed.headers.iter().enumerate() {
            let mut before = parsed.headers[..at].iter();
            if before.any(|other| other.name.eq_ignore_ascii_case(field.name)) {
                return Err("a header field twice");
            }
            let value = std::str::from_utf8(field.value).map_err(|_| "head is not UTF-8")?;
            if field.name.eq_ignore_ascii_case("content-length") {
                length = Some(content_length(value)?);
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                if !value.eq_ignore_ascii_case("chunked") {
                    return Err("unknown transfer coding");
                }
                chunked = true;
            } else if field.name.eq_ignore_ascii_case("connection") {
                let mut options = value.split(',').map(str::trim);
                close |= options.any(|option| option.eq_ignore_ascii_case("close"));
            }
        }
        let framing = match (status, chunked, length) {
            (100..=199 | 204 | 304, _, _) => Framing::Length(0),
            (_, true, Some(_)) => return Err("both content-length and transfer-encoding"),
            (_, false, None) => return Err("body without a length"),
            _ if to_head => Framing::Length(0),
            (_, true, None) => Framing::Chunked,
            (_, false, Some(length)) => Framing::Length(length),
        };
        Ok(Some(Head {
            status,
            bytes,
            framing,
            close,
        }))
    }
}

fn content_length(value: &str) -> Result<u64, &'static str> {
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("bad content-length");
    }
    match value.parse() {
        Ok(length) if length <= BODY_BYTES_MAX => Ok(length),
        Ok(_) => Err("body too long"),
        Err(_) => Err("bad content-length"),
    }
}

/// Decoder of the chunked transfer coding, for one body.
#[derive(Default)]
struct Chunks {
    state: ChunkState,
    /// An unfinished chunk-size or trailer line.
    line: Vec<u8>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum ChunkState {
    #[default]
    Size,
    Data {
        left: u64,
    },
    DataEnd,
    Trailer,
    Done,
}

impl Chunks {
    /// Consumes bytes up to the end of the body, passes on its data and returns how many bytes it
    /// used.
    fn feed(
        &mut self,
        bytes: &[u8],
        data: &mut dyn FnMut(&[u8]) -> Result<(), &'static str>,
    ) -> Result<usize, &'static str> {
        let mut used = 0;
        while used < bytes.len() && self.state != ChunkState::Done {
            let rest = &bytes[used..];
            if let ChunkState::Data { left } = self.state {
                let take = left.min(rest.len() as u64);
                data(&rest[..take as usize])?;
                used += take as usize;
                self.state = match left - take {
                    0 => ChunkState::DataEnd,
                    left => ChunkState::Data { left },
                };
                continue;
            }
            let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            self.line.extend_from_slice(&rest[..end]);
            used += end;
            if self.line.len() > LINE_BYTES_MAX {
                return Err("line of the chunked coding too long");
            }
            if self.line.last() == Some(&b'\n') {
                self.end_line()?;
            }
        }
        Ok(used)
    }

    /// Acts on a complete line of the coding.
    fn end_line(&mut self) -> Result<(), &'static str> {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r\n").ok_or("bare line feed")?;
        self.state = match self.state {
            ChunkState::Size => match chunk_size(line)? {
                0 => ChunkState::Trailer,
                left => ChunkState::Data { left },
            },
            ChunkState::DataEnd if line.is_empty() => ChunkState::Size,
            ChunkState::DataEnd => return Err("chunk longer than its size"),
            ChunkState::Trailer if line.is_empty() => ChunkState::Done,
            same => same,
        };
        Ok(())
    }
}

/// The hexadecimal size at the front of a chunk-size line; extensions follow a semicolon or blanks.
fn chunk_size(line: &[u8]) -> Result<u64, &'static str> {
    let mut parts = line.splitn(2, |byte| matches!(byte, b';' | b' ' | b'\t'));
    let digits = parts.next().unwrap_or_default();
    if !(1..=15).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err("bad chunk size");
    }
    let text = std::str::from_utf8(digits).map_err(|_| "bad chunk size")?;
    u64::from_str_radix(text, 16).map_err(|_| "bad chunk size")
}

/// Where one response lies at the front of the bytes read so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub status: u16,
    /// Bytes of the head.
    pub head: usize,
    /// Bytes of the head and the body.
    pub total: usize,
}

/// Finds the end of the response at the front of `input`; `None` while it is incomplete.
pub fn frame(input: &[u8]) -> Result<Option<Frame>, &'static str> {
    let Some(head) = Head::parse(input, false)? else {
        return Ok(None);
    };
    let total = match head.framing {
        Framing::Length(length) => head.bytes + length as usize,
        Framing::Chunked => {
            let mut chunks = Chunks::default();
            let used = chunks.feed(&input[head.bytes..], &mut |_| Ok(()))?;
            if chunks.state != ChunkState::Done {
                return Ok(None);
            }
            head.bytes + used
        }
    };
    Ok((total <= input.len()).then_some(Frame {
        status: head.status,
        head: head.bytes,
        total,
    }))
}

enum BodyState {
    Head,
    Length { left: u64 },
    Chunked(Chunks),
}

/// Finds responses in a stream of bytes, however they are cut into reads.
///
/// A response that did not arrive whole is never returned. Between responses it holds no buffer.
pub struct ResponseParser {
    state: BodyState,
    /// An unfinished head.
    held: Vec<u8>,
    response: Response,
    to_head: bool,
}

impl Default for ResponseParser {
    fn default() -> Self {
        Self {
            state: BodyState::Head,
            held: Vec::new(),
            response: Response::default(),
            to_head: false,
        }
    }
}

impl ResponseParser {
    /// No byte of a response has arrived yet: the connection may end here without loss.
    pub fn is_between_responses(&self) -> bool {
        matches!(self.state, BodyState::Head) && self.held.is_empty()
    }

    /// Whether the next response answers a HEAD request, so that it has no body.
    pub fn set_to_head(&mut self, to_head: bool) {
        self.to_head = to_head;
    }

    /// Consumes bytes up to the end of one response. Returns how many it used, and the response
    /// once it is complete.
    ///
    /// Interim responses (1xx) are returned like others.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Response>), &'static str> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            match &mut self.state {
                BodyState::Head => {
                    used += self.feed_head(rest)?;
                    if matches!(self.state, BodyState::Head) {
                        return Ok((used, None));
                    }
                }
                BodyState::Length { left } => {
                    let take = (*left).min(rest.len() as u64) as usize;
                    self.response.body.extend_from_slice(&rest[..take]);
                    used += take;
                    *left -= take as u64;
                    self.response.wire_bytes += take as u64;
                    let response = (*left == 0).then(|| self.finish());
                    return Ok((used, response));
                }
                BodyState::Chunked(chunks) => {
                    let body = &mut self.response.body;
                    let taken = chunks.feed(rest, &mut |data| {
                        if (body.len() + data.len()) as u64 > BODY_BYTES_MAX {
                            return Err("body too long");
                        }
                        body.extend_from_slice(data);
                        Ok(())
                    })?;
                    used += taken;
                    self.response.wire_bytes += taken as u64;
                    let is_done = chunks.state == ChunkState::Done;
                    let response = is_done.then(|| self.finish());
                    return Ok((used, response));
                }
            }
        }
    }

    fn finish(&mut self) -> Response {
        self.state = BodyState::Head;
        std::mem::take(&mut self.response)
    }

    /// Consumes bytes of a head; the state changes when it is complete.
    fn feed_head(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let before = self.held.len();
        let whole: &[u8] = if before == 0 {
            bytes
        } else {
            let take = bytes.len().min(HEAD_BYTES_MAX);
            self.held.extend_from_slice(&bytes[..take]);
            &self.held
        };
        let Some(head) = Head::parse(whole, self.to_head)? else {
            let used = if before == 0 {
                self.held.extend_from_slice(bytes);
                bytes.len()
            } else {
                self.held.len() - before
            };
            return Ok(used);
        };
        self.response = Response {
            status: head.status,
            head: whole[..head.bytes].into(),
            body: Vec::new(),
            close: head.close,
            wire_bytes: head.bytes as u64,
        };
        self.held = Vec::new();
        self.state = match head.framing {
            Framing::Length(left) => {
                self.response.body.reserve(left.min(1 << 20) as usize);
                BodyState::Length { left }
            }
            Framing::Chunked => BodyState::Chunked(Chunks::default()),
        };
        Ok(head.bytes - before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"7-1\"\r\n\r\nhello\
        HTTP/1.1 304 Not Modified\r\nETag: \"7-2\"\r\nContent-Length: 900\r\n\r\n\
        HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n\
        HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\ncontent-encoding: gzip\r\n\r\n\
        3;x=y\r\nabc\r\n0a\r\n0123456789\r\n0\r\nT: 1\r\n\r\n\
        HTTP/1.1 204 No Content\r\n\r\n\
        HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

    fn parse(pieces: &[&[u8]]) -> Result<Vec<Response>, &'static str> {
        let mut parser = ResponseParser::default();
        let mut found = Vec::new();
        for piece in pieces {
            let mut bytes = *piece;
            while !bytes.is_empty() {
                let (used, response) = parser.feed(bytes)?;
                found.extend(response);
                bytes = &bytes[used..];
            }
        }
        if parser.is_between_responses() {
            Ok(found)
        } else {
            Err("incomplete")
        }
    }

    #[test]
    fn responses_are_read_with_their_framing_and_fields() {
        let found = parse(&[STREAM]).expect("valid");
        let statuses: Vec<u16> = found.iter().map(|response| response.status).collect();
        assert_eq!(statuses, [200, 304, 103, 200, 204, 503]);
        assert_eq!(found[0].body, b"hello");
        assert_eq!(found[0].etag(), Some("\"7-1\""));
        assert_eq!(found[1].etag(), Some("\"7-2\""));
        assert_eq!(found[3].body, b"abc0123456789");
        assert_eq!(found[3].encoding(), Encoding::Gzip);
        assert!(found[5].close && !found[0].close);
        assert_eq!(found[5].retry_after(), Some(3));
        let wire: u64 = found.iter().map(|response| response.wire_bytes).sum();
        assert_eq!(wire, STREAM.len() as u64);
    }

    #[test]
    fn responses_do_not_depend_on_how_bytes_are_cut() {
        let whole = parse(&[STREAM]).expect("valid");
        for cut in 0..STREAM.len() {
            let (first, second) = STREAM.split_at(cut);
            assert_eq!(parse(&[first, second]).as_ref(), Ok(&whole), "cut at {cut}");
        }
        let single: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(parse(&single), Ok(whole));
    }

    #[test]
    fn framer_agrees_with_the_parser_on_every_prefix() {
        let mut rest = STREAM;
        for response in parse(&[STREAM]).expect("valid") {
            let length = response.wire_bytes as usize;
            for cut in 0..length {
                assert_eq!(frame(&rest[..cut]), Ok(None), "cut at {cut}");
            }
            let found = frame(rest).expect("valid").expect("whole");
            assert_eq!((found.status, found.total), (response.status, length));
            assert_eq!(rest[..found.head], *response.head);
            rest = &rest[length..];
        }
    }

    #[test]
    fn malformed_responses_are_errors() {
        for (bytes, error) in [
            ("HTTP/1.1 200 OK\r\n\r\n", "body without a length"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
                "bad content-length",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
                "bad content-length",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
                "body too long",
            ),
            (
                "HTTP/1.1 200 OK\r\nA: 1\r\na: 1\r\n\r\n",
                "a header field twice",
            ),
            ("HTTP/1.1 200 OK\nContent-Length: 0\n\n", "bare line feed"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: br\r\n\r\n",
                "unknown transfer coding",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
                "both content-length and transfer-encoding",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
                "bad chunk size",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
                "chunk longer than its size",
            ),
            ("SSH-2.0-OpenSSH\r\n\r\n", "not a response of HTTP/1"),
        ] {
            assert_eq!(parse(&[bytes.as_bytes()]), Err(error), "{bytes:?}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(HEAD_BYTES_MAX));
        assert_eq!(parse(&[long.as_bytes()]), Err("head too long"));
    }

    #[test]
    fn response_to_head_has_no_body() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        let mut parser = ResponseParser::default();
        parser.set_to_head(true);
        let (used, response) = parser.feed(bytes).expect("valid");
        assert_eq!(
            (used, response.map(|found| found.body)),
            (bytes.len(), Some(Vec::new()))
        );
    }

    #[test]
    fn fields_are_found_in_any_case_and_trimmed() {
        let head = b"HTTP/1.1 200 OK\r\nETag:  \"a:b\" \r\nX: y\r\n\r\n";
        assert_eq!(header(head, "etag"), Some("\"a:b\""));
        assert_eq!(header(head, "none"), None);
    }
}
