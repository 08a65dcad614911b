//! HTTP/1.1 as the generators need it: framing of answers, headers by name, and a small blocking client for set-up.
//!
//! Strict where a mistake of a server would flatter it: an answer without a length, a short body or an unexpected
//! status is an error, never a sample.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::Duration;

use memchr::memmem;

use crate::{Failure, sys};

/// Where one answer lies at the front of the bytes read so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub status: u16,
    pub head: usize,
    pub total: usize,
    pub chunked: bool,
}

/// `None`: not all of it is here yet.
pub fn frame(input: &[u8]) -> Result<Option<Frame>, Failure> {
    let Some(end) = memmem::find(input, b"\r\n\r\n") else {
        return if input.len() > 64 * 1024 {
            Err("an answer head above 64 KiB".into())
        } else {
            Ok(None)
        };
    };
    let head = end + 4;
    let status = status(input)?;
    if status < 200 || status == 204 || status == 304 {
        return Ok(Some(Frame {
            status,
            head,
            total: head,
            chunked: false,
        }));
    }
    if let Some(length) = header(&input[..head], "content-length") {
        let length: usize = length
            .parse()
            .map_err(|_| format!("Content-Length {length:?}"))?;
        let total = head + length;
        return Ok((input.len() >= total).then_some(Frame {
            status,
            head,
            total,
            chunked: false,
        }));
    }
    if header(&input[..head], "transfer-encoding")
        .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    {
        return Ok(chunks_end(&input[head..])?.map(|length| Frame {
            status,
            head,
            total: head + length,
            chunked: true,
        }));
    }
    Err(format!("an answer {status} without a length").into())
}

pub fn status(input: &[u8]) -> Result<u16, Failure> {
    let digits = input
        .strip_prefix(b"HTTP/1.1 ")
        .and_then(|rest| rest.get(..3));
    digits
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| {
            format!(
                "not an HTTP/1.1 answer: {:?}",
                String::from_utf8_lossy(&input[..input.len().min(60)])
            )
            .into()
        })
}

/// Value of a header in a head, by name in any case.
pub fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    head.split(|&byte| byte == b'\n').skip(1).find_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        if !line[..colon].eq_ignore_ascii_case(name.as_bytes()) {
            return None;
        }
        std::str::from_utf8(&line[colon + 1..]).ok().map(str::trim)
    })
}

/// Length of a whole chunked body, terminator included.
fn chunks_end(body: &[u8]) -> Result<Option<usize>, Failure> {
    let mut at = 0;
    loop {
        let Some(line) = memmem::find(&body[at..], b"\r\n") else {
            return Ok(None);
        };
        let size = std::str::from_utf8(&body[at..at + line])
            .ok()
            .and_then(|text| usize::from_str_radix(text.split(';').next()?.trim(), 16).ok())
            .ok_or("a chunk without a size")?;
        at += line + 2 + size + 2;
        if at > body.len() {
            return Ok(None);
        }
        if size == 0 {
            return Ok(Some(at));
        }
    }
}

fn unchunk(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(line) = memmem::find(&body[at..], b"\r\n") {
        let size = std::str::from_utf8(&body[at..at + line])
            .ok()
            .and_then(|text| usize::from_str_radix(text.split(';').next()?.trim(), 16).ok())
            .unwrap_or(0);
        if size == 0 {
            break;
        }
        at += line + 2;
        out.extend_from_slice(&body[at..at + size]);
        at += size + 2;
    }
    out
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: Vec<u8>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Header names and values in the order sent, without the two that frame and date every answer.
    pub fn fields(&self) -> Vec<(String, String)> {
        String::from_utf8_lossy(&self.head)
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect()
    }

    pub fn json(&self) -> Result<serde_json::Value, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|error| format!("answer is not JSON ({error}): {}", self.text()).into())
    }

    pub fn expect(self, statuses: &[u16], what: &str) -> Result<Answer, Failure> {
        if statuses.contains(&self.status) {
            return Ok(self);
        }
        let text = self.text();
        let shown: String = text.chars().take(300).collect();
        Err(format!(
            "{what}: status {} instead of {statuses:?}: {shown}",
            self.status
        )
        .into())
    }
}

/// Blocking, keep-alive; for preparing and for checking, never for timing under load.
pub struct Client {
    to: SocketAddrV4,
    authorization: String,
    stream: Option<TcpStream>,
}

/// Set-up requests may write 10,000 records; nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_mins(2);

impl Client {
    pub fn new(to: SocketAddrV4, authorization: &str) -> Client {
        Client {
            to,
            authorization: authorization.to_owned(),
            stream: None,
        }
    }

    pub fn get(&mut self, target: &str) -> Result<Answer, Failure> {
        self.call("GET", target, "", b"")
    }

    pub fn call(
        &mut self,
        method: &str,
        target: &str,
        extra: &str,
        body: &[u8],
    ) -> Result<Answer, Failure> {
        let bytes = request(method, target, &self.authorization, extra, body);
        self.exchange(&bytes)
    }

    /// A kept connection may have been closed by the server meanwhile: then, and only then, once more on a new one.
    pub fn exchange(&mut self, request: &[u8]) -> Result<Answer, Failure> {
        if let Some(stream) = self.stream.take()
            && let Some(answer) = self.attempt(stream, request)?
        {
            return Ok(answer);
        }
        let stream = sys::connect(Ipv4Addr::LOCALHOST, self.to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        self.attempt(stream, request)?
            .ok_or_else(|| "the server closed the connection instead of answering".into())
    }

    /// `None`: the connection ended before the first byte of an answer.
    fn attempt(
        &mut self,
        mut stream: TcpStream,
        request: &[u8],
    ) -> Result<Option<Answer>, Failure> {
        let gone = |error: &std::io::Error| {
            matches!(
                error.kind(),
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
            )
        };
        match stream.write_all(request) {
            Err(error) if gone(&error) => return Ok(None),
            other => other?,
        }
        let mut input = Vec::new();
        let mut buffer = vec![0; 256 * 1024];
        let found = loop {
            let count = match stream.read(&mut buffer) {
                Err(error) if gone(&error) => 0,
                other => other?,
            };
            if count == 0 && input.is_empty() {
                return Ok(None);
            }
            if count == 0 {
                return Err("the server closed the connection in the middle of an answer".into());
            }
            input.extend_from_slice(&buffer[..count]);
            if let Some(found) = frame(&input)? {
                break found;
            }
        };
        let head = input[..found.head].to_vec();
        let body = &input[found.head..found.total];
        let body = if found.chunked {
            unchunk(body)
        } else {
            body.to_vec()
        };
        if !header(&head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.stream = Some(stream);
        }
        Ok(Some(Answer {
            status: found.status,
            head,
            body,
        }))
    }
}

/// One request as every generator sends it. `extra` is whole header lines, each with its CRLF.
pub fn request(
    method: &str,
    target: &str,
    authorization: &str,
    extra: &str,
    body: &[u8],
) -> Vec<u8> {
    let mut out = format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n").into_bytes();
    if !authorization.is_empty() {
        out.extend_from_slice(format!("Authorization: {authorization}\r\n").as_bytes());
    }
    out.extend_from_slice(extra.as_bytes());
    if !body.is_empty() {
        out.extend_from_slice(
            format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            )
            .as_bytes(),
        );
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_only_with_its_last_byte() {
        let bytes =
            b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 3\r\n\r\nabcHTTP/1.1 204 No Content\r\n\r\n";
        for cut in 0..41 {
            assert_eq!(
                frame(&bytes[..cut]).expect("a prefix is no error"),
                None,
                "cut {cut}"
            );
        }
        let first = frame(&bytes[..]).expect("valid").expect("whole");
        assert_eq!((first.status, first.head, first.total), (200, 38, 41));
        let second = frame(&bytes[41..]).expect("valid").expect("whole");
        assert_eq!((second.status, second.head, second.total), (204, 27, 27));
    }

    #[test]
    fn chunked_bodies_end_with_the_last_chunk() {
        let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\nREST";
        let found = frame(bytes).expect("valid").expect("whole");
        assert_eq!(&bytes[found.total..], b"REST");
        assert_eq!(unchunk(&bytes[found.head..found.total]), b"abcde");
        assert_eq!(
            frame(&bytes[..found.total - 1]).expect("a prefix is no error"),
            None
        );
    }

    #[test]
    fn an_answer_without_a_length_or_with_garbage_is_refused() {
        assert!(frame(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(frame(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").is_err());
        assert!(frame(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n").is_err());
    }

    #[test]
    fn headers_are_found_in_any_case_and_trimmed() {
        let head = b"HTTP/1.1 200 OK\r\nETag:  \"a:b\" \r\nX: y\r\n\r\n";
        assert_eq!(header(head, "etag"), Some("\"a:b\""));
        assert_eq!(header(head, "none"), None);
    }
}
