//! Where requests end. A naive and strict second reader must see the same requests in everything
//! that the server accepts: two readers that disagree about the end of a request are how requests
//! are smuggled. The server may refuse more than the second reader, never less. The last byte of
//! the input seeds the sizes of the reads.
#![no_main]

mod pieces;

use libfuzzer_sys::fuzz_target;
use pieces::{Seen, first_request, sizes};

const BODY_BYTES_MAX: u64 = 1 << 20;

/// The requests of one connection, up to the first that is refused or incomplete.
fn accepted(data: &[u8]) -> Vec<Seen> {
    let seed = data.last().copied().unwrap_or(0);
    let (mut seen, mut at) = (Vec::new(), 0);
    loop {
        let rest = &data[at..];
        let whole = first_request(rest, BODY_BYTES_MAX, || rest.len());
        let in_pieces = first_request(rest, BODY_BYTES_MAX, sizes(seed));
        assert_eq!(in_pieces, whole, "it depends on the sizes of the reads");
        let Ok(Some(mut request)) = whole else {
            return seen;
        };
        at += request.end;
        request.end = at;
        seen.push(request);
    }
}

/// The request at the start of `data` by RFC 9112, lenient only about one empty line before it.
fn oracle(data: &[u8]) -> Option<(Seen, usize)> {
    let blank = if data.starts_with(b"\r\n") { 2 } else { 0 };
    let data_after = &data[blank..];
    let head_len = data_after.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = &data_after[..head_len - 4];
    let mut lines = Vec::new();
    let mut rest = head;
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    if lines
        .iter()
        .any(|line| line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)))
    {
        return None;
    }
    let words: Vec<&[u8]> = lines[0].split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else {
        return None;
    };
    if !matches!(version, b"HTTP/1.1" | b"HTTP/1.0")
        || target.is_empty()
        || !method.iter().all(|byte| is_token(*byte))
    {
        return None;
    }
    let (lengths, codings) = framing_fields(&lines[1..])?;
    let body_at = blank + head_len;
    let (body, end) = match (&lengths[..], &codings[..]) {
        ([], []) => (Vec::new(), body_at),
        ([length], []) => {
            if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
                return None;
            }
            let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
            let end = body_at.checked_add(length)?;
            (data.get(body_at..end)?.to_vec(), end)
        }
        ([], [coding]) if coding == b"chunked" && version == b"HTTP/1.1" => {
            let (body, used) = chunked(&data[body_at..])?;
            (body, body_at + used)
        }
        _ => return None,
    };
    // The target in absolute form means its path.
    let mut target = String::from_utf8(target.to_vec()).ok()?;
    if !target.starts_with('/') && target != "*" {
        let (_, after) = target.split_once("://")?;
        target = match after.find(['/', '?']) {
            None => "/".into(),
            Some(at) if after[at..].starts_with('?') => format!("/{}", &after[at..]),
            Some(at) => after[at..].to_owned(),
        };
    }
    // An empty query is no query.
    if let Some((path, "")) = target.split_once('?') {
        target = path.to_owned();
    }
    let seen = Seen {
        method: String::from_utf8(method.to_vec()).ok()?,
        target,
        body,
        end,
    };
    Some((seen, end))
}

/// The values of `Content-Length` and of `Transfer-Encoding`.
#[allow(clippy::type_complexity)]
fn framing_fields(lines: &[&[u8]]) -> Option<(Vec<Vec<u8>>, Vec<Vec<u8>>)> {
    let (mut lengths, mut codings) = (Vec::new(), Vec::new());
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return None;
        }
        if value
            .iter()
            .any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f)
        {
            return None;
        }
        match name.to_ascii_lowercase().as_slice() {
            b"content-length" => lengths.push(value.to_vec()),
            b"transfer-encoding" => codings.push(value.to_ascii_lowercase()),
            _ => {}
        }
    }
    Some((lengths, codings))
}

fn chunked(data: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    let line = |at: usize| -> Option<(&[u8], usize)> {
        let end = data[at..].windows(2).position(|two| two == b"\r\n")? + at;
        let line = &data[at..end];
        line.iter()
            .all(|byte| !matches!(byte, b'\r' | b'\n'))
            .then_some((line, end + 2))
    };
    loop {
        let (size, next) = line(at)?;
        let digits = size.split(|byte| *byte == b';').next()?;
        // White space between the size and an extension is allowed (BWS), not without one.
        let digits = if size.contains(&b';') {
            digits.trim_ascii_end()
        } else {
            digits
        };
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        at = next;
        if size == 0 {
            break;
        }
        body.extend_from_slice(data.get(at..at.checked_add(size)?)?);
        at += size;
        if data.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    loop {
        let (trailer, next) = line(at)?;
        at = next;
        if trailer.is_empty() {
            return Some((body, at));
        }
        let colon = trailer.iter().position(|byte| *byte == b':')?;
        if colon == 0 || !trailer[..colon].iter().all(|byte| is_token(*byte)) {
            return None;
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fuzz_target!(|data: &[u8]| {
    let mut at = 0;
    for request in accepted(data) {
        let Some((mut expected, used)) = oracle(&data[at..]) else {
            panic!("accepted what is no request: {request:?}");
        };
        expected.end += at;
        at += used;
        assert_eq!(request, expected);
    }
});
