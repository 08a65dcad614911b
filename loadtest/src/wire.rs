//! HTTP/1.1 as the load tool speaks it: requests out, responses in.
//!
//! Promises that the responses found do not depend on how their bytes were cut into reads, that a response which did not
//! arrive whole is never taken for one that did (a body without a length is refused: its end cannot be told from a
//! broken connection), and that a hostile server cannot make us hold more than the limits below.

use std::fmt::Write as _;
use std::io::Write as _;

/// Longest status line plus header fields.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Longest body: a whole list of 1,000,000 streams is about 1 GiB.
const BODY_BYTES_MAX: u64 = 2 << 30;
/// Longest chunk-size line or trailer section.
const LINE_BYTES_MAX: usize = 8 << 10;

/// A complete response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub etag: Option<Box<str>>,
    pub encoding: Encoding,
    /// The server ends the connection after this response.
    pub close: bool,
    pub retry_after: Option<u32>,
    /// As sent: still in its content coding.
    pub body: Vec<u8>,
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
    /// The body without its content coding.
    pub fn decoded(&self) -> Result<std::borrow::Cow<'_, [u8]>, &'static str> {
        use std::io::Read as _;
        let mut plain = Vec::new();
        match self.encoding {
            Encoding::Identity => return Ok(self.body.as_slice().into()),
            Encoding::Gzip => {
                let mut reader =
                    flate2::read::GzDecoder::new(self.body.as_slice()).take(BODY_BYTES_MAX);
                reader
                    .read_to_end(&mut plain)
                    .map_err(|_| "broken gzip body")?;
            }
            Encoding::Zstd => {
                let decoder = zstd::Decoder::with_buffer(self.body.as_slice())
                    .map_err(|_| "broken zstd body")?;
                decoder
                    .take(BODY_BYTES_MAX)
                    .read_to_end(&mut plain)
                    .map_err(|_| "broken zstd body")?;
            }
            Encoding::Unknown => return Err("content coding we did not ask for"),
        }
        Ok(plain.into())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Body { left: u64 },
    ChunkSize,
    ChunkData { left: u64 },
    ChunkEnd,
    Trailer,
}

/// Finds responses in a stream of bytes.
pub struct Parser {
    state: State,
    /// An unfinished head, chunk line or trailer: nothing is held between responses.
    held: Vec<u8>,
    response: Response,
}

impl Default for Parser {
    fn default() -> Parser {
        Parser {
            state: State::Head,
            held: Vec::new(),
            response: Response::default(),
        }
    }
}

impl Parser {
    /// Nothing of a response has arrived yet: the connection may end here without loss.
    pub fn is_between_responses(&self) -> bool {
        self.state == State::Head && self.held.is_empty()
    }

    /// Takes bytes and calls `each` for every response that is complete.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        each: &mut dyn FnMut(Response),
    ) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            let used = match self.state {
                State::Head => self.head(bytes, each)?,
                State::Body { left } => {
                    let take = left.min(bytes.len() as u64) as usize;
                    self.response.body.extend_from_slice(&bytes[..take]);
                    self.response.wire_bytes += take as u64;
                    self.state = State::Body {
                        left: left - take as u64,
                    };
                    if left == take as u64 {
                        self.finish(each);
                    }
                    take
                }
                State::ChunkSize => match self.line(bytes)? {
                    (used, None) => used,
                    (used, Some(line)) => {
                        self.chunk_size(&line)?;
                        used
                    }
                },
                State::ChunkData { left } => {
                    let take = left.min(bytes.len() as u64) as usize;
                    if self.response.body.len() as u64 + take as u64 > BODY_BYTES_MAX {
                        return Err("body too long");
                    }
                    self.response.body.extend_from_slice(&bytes[..take]);
                    self.response.wire_bytes += take as u64;
                    self.state = if left == take as u64 {
                        State::ChunkEnd
                    } else {
                        State::ChunkData {
                            left: left - take as u64,
                        }
                    };
                    take
                }
                State::ChunkEnd => match self.line(bytes)? {
                    (used, None) => used,
                    (used, Some(line)) if line.is_empty() => {
                        self.state = State::ChunkSize;
                        used
                    }
                    _ => return Err("chunk longer than its size"),
                },
                State::Trailer => match self.line(bytes)? {
                    (used, None) => used,
                    (used, Some(line)) => {
                        if line.is_empty() {
                            self.finish(each);
                        }
                        used
                    }
                },
            };
            bytes = &bytes[used..];
        }
        Ok(())
    }

    fn finish(&mut self, each: &mut dyn FnMut(Response)) {
        self.state = State::Head;
        self.held = Vec::new();
        each(std::mem::take(&mut self.response));
    }

    /// One line up to CRLF, possibly over several calls.
    fn line(&mut self, bytes: &[u8]) -> Result<(usize, Option<Vec<u8>>), &'static str> {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.held.extend_from_slice(bytes);
            self.response.wire_bytes += bytes.len() as u64;
            return if self.held.len() > LINE_BYTES_MAX {
                Err("line of the chunked coding too long")
            } else {
                Ok((bytes.len(), None))
            };
        };
        self.held.extend_from_slice(&bytes[..=end]);
        self.response.wire_bytes += end as u64 + 1;
        let mut line = std::mem::take(&mut self.held);
        if line.len() > LINE_BYTES_MAX {
            return Err("line of the chunked coding too long");
        }
        if !line.ends_with(b"\r\n") {
            return Err("bare line feed");
        }
        line.truncate(line.len() - 2);
        Ok((end + 1, Some(line)))
    }

    fn chunk_size(&mut self, line: &[u8]) -> Result<(), &'static str> {
        let digits = line
            .iter()
            .position(|b| !b.is_ascii_hexdigit())
            .unwrap_or(line.len());
        if digits == 0
            || digits > 15
            || !matches!(line.get(digits), None | Some(b';' | b' ' | b'\t'))
        {
            return Err("bad chunk size");
        }
        let text = std::str::from_utf8(&line[..digits]).map_err(|_| "bad chunk size")?;
        let size = u64::from_str_radix(text, 16).map_err(|_| "bad chunk size")?;
        self.state = if size == 0 {
            State::Trailer
        } else {
            State::ChunkData { left: size }
        };
        Ok(())
    }

    fn head(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(Response),
    ) -> Result<usize, &'static str> {
        let end_of = |bytes: &[u8]| memchr::memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4);
        let (used, held);
        let head: &[u8] = if self.held.is_empty() {
            let Some(end) = end_of(bytes) else {
                self.held.extend_from_slice(bytes);
                return if self.held.len() > HEAD_BYTES_MAX {
                    Err("head too long")
                } else {
                    Ok(bytes.len())
                };
            };
            used = end;
            &bytes[..end]
        } else {
            // The terminator may begin in what is held: search again from three bytes before the seam.
            let before = self.held.len();
            let take = bytes.len().min(HEAD_BYTES_MAX);
            self.held.extend_from_slice(&bytes[..take]);
            let from = before.saturating_sub(3);
            let Some(end) = end_of(&self.held[from..]).map(|end| from + end) else {
                return if self.held.len() > HEAD_BYTES_MAX {
                    Err("head too long")
                } else {
                    Ok(take)
                };
            };
            used = end - before;
            held = std::mem::take(&mut self.held);
            &held[..end]
        };
        if head.len() > HEAD_BYTES_MAX {
            return Err("head too long");
        }
        let (response, framing) = parse_head(head)?;
        if response.status < 200 {
            return Ok(used); // interim: the real one follows
        }
        self.response = response;
        match framing {
            Framing::Length(0) => self.finish(each),
            Framing::Length(length) => {
                self.response.body = Vec::with_capacity(length.min(1 << 20) as usize);
                self.state = State::Body { left: length };
            }
            Framing::Chunked => self.state = State::ChunkSize,
        }
        Ok(used)
    }
}

enum Framing {
    Length(u64),
    Chunked,
}

fn parse_head(head: &[u8]) -> Result<(Response, Framing), &'static str> {
    let text = std::str::from_utf8(head).map_err(|_| "head is not UTF-8")?;
    let mut lines = text.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let rest = status_line.strip_prefix("HTTP/1.").ok_or("not HTTP/1")?;
    let (minor, rest) = rest.split_once(' ').ok_or("bad status line")?;
    let digits = rest
        .get(..3)
        .filter(|d| d.bytes().all(|b| b.is_ascii_digit()))
        .ok_or("bad status line")?;
    let mut response = Response {
        status: digits.parse().map_err(|_| "bad status line")?,
        wire_bytes: head.len() as u64,
        close: minor == "0",
        ..Response::default()
    };
    let (mut length, mut chunked) = (None, false);
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or("header field without a colon")?;
        let value = value.trim_matches([' ', '\t']);
        if name.eq_ignore_ascii_case("content-length") {
            let parsed = value.parse::<u64>().map_err(|_| "bad content-length")?;
            if !value.bytes().all(|b| b.is_ascii_digit()) || length.is_some_and(|l| l != parsed) {
                return Err("bad content-length");
            }
            if parsed > BODY_BYTES_MAX {
                return Err("body too long");
            }
            length = Some(parsed);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") {
                return Err("unknown transfer coding");
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case("connection") {
            response.close |= value
                .split(',')
                .any(|option| option.trim().eq_ignore_ascii_case("close"));
        } else if name.eq_ignore_ascii_case("etag") {
            response.etag = Some(value.into());
        } else if name.eq_ignore_ascii_case("retry-after") {
            response.retry_after = value.parse().ok();
        } else if name.eq_ignore_ascii_case("content-encoding") {
            response.encoding = match value {
                "gzip" => Encoding::Gzip,
                "zstd" => Encoding::Zstd,
                "identity" => Encoding::Identity,
                _ => Encoding::Unknown,
            };
        }
    }
    let framing = match (response.status, chunked, length) {
        (100..=199 | 204 | 304, _, _) => Framing::Length(0),
        (_, true, Some(_)) => return Err("both content-length and transfer-encoding"),
        (_, true, None) => Framing::Chunked,
        (_, false, Some(length)) => Framing::Length(length),
        (_, false, None) => return Err("body without a length"),
    };
    Ok((response, framing))
}

/// Writes one request. `fields` are further header lines, each ended by CRLF.
pub fn write_request(
    out: &mut Vec<u8>,
    method: &str,
    target: &str,
    host: &str,
    fields: &str,
    body: Option<&[u8]>,
) {
    let _ = write!(
        out,
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}"
    );
    if let Some(body) = body {
        let _ = write!(
            out,
            "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        out.extend_from_slice(body);
    } else {
        out.extend_from_slice(b"\r\n");
    }
}

/// Percent-encodes everything but the unreserved characters, `/` included.
pub fn encode_segment(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Random;

    const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"7-1\"\r\n\r\nhello\
        HTTP/1.1 304 Not Modified\r\nETag: \"7-2\"\r\nContent-Length: 900\r\n\r\n\
        HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n\
        HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\ncontent-encoding: gzip\r\n\r\n3;x=y\r\nabc\r\n0a\r\n0123456789\r\n0\r\nT: 1\r\n\r\n\
        HTTP/1.1 204 No Content\r\n\r\n\
        HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

    fn parse(pieces: &[&[u8]]) -> Result<Vec<Response>, &'static str> {
        let mut parser = Parser::default();
        let mut found = Vec::new();
        for piece in pieces {
            parser.feed(piece, &mut |response| found.push(response))?;
        }
        assert!(parser.is_between_responses());
        Ok(found)
    }

    #[test]
    fn responses_are_read_with_their_framing_and_fields() {
        let found = parse(&[STREAM]).unwrap();
        assert_eq!(
            found.iter().map(|r| r.status).collect::<Vec<_>>(),
            [200, 304, 200, 204, 503]
        );
        assert_eq!(found[0].body, b"hello");
        assert_eq!(found[0].etag.as_deref(), Some("\"7-1\""));
        assert_eq!(found[1].etag.as_deref(), Some("\"7-2\""));
        assert_eq!(found[2].body, b"abc0123456789");
        assert_eq!(found[2].encoding, Encoding::Gzip);
        assert!(found[4].close && !found[0].close);
        assert_eq!(found[4].retry_after, Some(3));
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n".len();
        assert_eq!(
            found.iter().map(|r| r.wire_bytes).sum::<u64>() as usize,
            STREAM.len() - interim
        );
    }

    #[test]
    fn the_responses_do_not_depend_on_how_the_bytes_are_cut() {
        let whole = parse(&[STREAM]).unwrap();
        let bytes: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(parse(&bytes).unwrap(), whole, "byte by byte");
        for cut in 0..=STREAM.len() {
            assert_eq!(
                parse(&[&STREAM[..cut], &STREAM[cut..]]).unwrap(),
                whole,
                "cut at {cut}"
            );
        }
        let mut random = Random::new(1);
        for round in 0..300 {
            let (mut rest, mut pieces) = (STREAM, Vec::new());
            while !rest.is_empty() {
                let (piece, tail) =
                    rest.split_at(1 + random.below(rest.len().min(1 + round) as u64) as usize);
                pieces.push(piece);
                rest = tail;
            }
            assert_eq!(parse(&pieces).unwrap(), whole, "round {round}");
        }
    }

    #[test]
    fn answers_that_are_not_whole_or_not_clear_are_refused() {
        for bad in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nab\r\n",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 20\r\n\r\n",
        ] {
            for pieces in [vec![bad.as_bytes()], bad.as_bytes().chunks(1).collect()] {
                let mut parser = Parser::default();
                let result: Result<(), _> =
                    pieces.iter().try_for_each(|p| parser.feed(p, &mut |_| ()));
                assert!(result.is_err(), "{bad:?}");
            }
        }
        let mut parser = Parser::default();
        parser
            .feed(
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
                &mut |_| panic!("not whole"),
            )
            .unwrap();
        assert!(
            !parser.is_between_responses(),
            "the end of the connection here is a loss"
        );
    }

    #[test]
    fn names_are_encoded_for_a_path() {
        let mut out = String::new();
        encode_segment(&mut out, "a/b c\u{e9}~1.2_3-4");
        assert_eq!(out, "a%2Fb%20c%C3%A9~1.2_3-4");
    }
}
