//! Requests: every rule of the strict profile by example, then against an oracle.
//!
//! The oracle is the same profile written a second time, as naively as possible: it sees all bytes
//! at once, splits at CR LF, and is independent of httparse and of states. Both have to agree on
//! every accepted request, its body and its length, for every octet at every interesting place and
//! for random mutations; and the reader has to come to the same end for every cut of its input.

use proptest::prelude::*;

use super::{Input, NextRequest, Progress, next_request};
use crate::http::Coding;
use crate::http::head::{self, Head, Method};
use crate::http::refusal::Refusal;
use crate::limits::{
    CHUNK_EXTENSION_BYTES_MAX, CHUNK_EXTENSIONS_BYTES_MAX, FIELDS_MAX, HEAD_BYTES_MAX,
    TARGET_BYTES_MAX,
};

const BODY_MAX: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Accepted {
    method: Method,
    path: String,
    query: String,
    fields: Vec<(String, Vec<u8>)>,
    keep_alive: bool,
    body: Vec<u8>,
    used: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Accepted(Accepted),
    Partial,
    Refused(Refusal),
}

fn accepted(head: &Head<'_>, body: &[u8], used: usize) -> Outcome {
    Outcome::Accepted(Accepted {
        method: head.method,
        path: head.path.to_owned(),
        query: head.query.to_owned(),
        fields: head
            .headers
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        keep_alive: head.keep_alive,
        body: body.to_vec(),
        used,
    })
}

/// All bytes in one read.
fn whole(bytes: &[u8]) -> Outcome {
    in_pieces(bytes, std::iter::once(bytes.len()))
}

/// In reads of these sizes, kept between them as by a connection. A head whose parsing was put off
/// to the end of its line is parsed at the end.
fn in_pieces(bytes: &[u8], mut cuts: impl Iterator<Item = usize>) -> Outcome {
    let mut kept: Option<Box<Input<()>>> = None;
    let mut end = 0;
    while end < bytes.len() {
        let start = end;
        end = (start + cuts.next().unwrap_or(1).max(1)).min(bytes.len());
        let piece = &bytes[start..end];
        let (buffer, progress) = match kept.take() {
            None => (piece.to_vec(), Progress::Head),
            Some(mut input) => match input.add(piece) {
                Ok(true) => input.into_parts(),
                Ok(false) => {
                    kept = Some(input);
                    continue;
                }
                Err(refusal) => return Outcome::Refused(refusal),
            },
        };
        let admit = |_: &Head<'_>| Ok::<_, ()>((BODY_MAX, ()));
        match next_request(&buffer, progress, &mut head::fields(), admit) {
            Ok(NextRequest::Complete {
                head, body, len, ..
            }) => return accepted(&head, &body, end - (buffer.len() - len)),
            Ok(NextRequest::Incomplete { input, .. }) => kept = Some(input),
            Ok(NextRequest::Rejected { .. }) => unreachable!("everything is admitted"),
            Err(refusal) => return Outcome::Refused(refusal),
        }
    }
    match kept.map(|input| input.into_parts()) {
        Some((buffer, Progress::Head)) => match head::parse(&buffer, &mut head::fields()) {
            Ok(head) => {
                assert!(head.is_none(), "a complete head was not noticed");
                Outcome::Partial
            }
            Err(refusal) => Outcome::Refused(refusal),
        },
        _ => Outcome::Partial,
    }
}

/// The same rules, naively.
mod oracle {
    use super::{Accepted, BODY_MAX, Method};

    const TOKEN: &str =
        "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    const PATH: &str =
        "!$%&'()*+,-./0123456789:;=@ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";
    const HOST: &str =
        "!$%&'()*+-.0123456789;=ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

    pub(super) enum OracleResult {
        Accept(Accepted),
        Reject,
        /// The end of head or body is missing; the parser may refuse already, but not accept.
        Incomplete,
    }

    fn only(bytes: &[u8], set: &str) -> bool {
        bytes.iter().all(|b| set.as_bytes().contains(b))
    }

    fn text(bytes: &[u8]) -> bool {
        bytes.iter().all(|b| *b == 9 || (*b >= 32 && *b != 127))
    }

    fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
        bytes.windows(what.len()).position(|w| w == what)
    }

    fn strip(mut value: &[u8]) -> &[u8] {
        while value.first().is_some_and(|b| *b == 32 || *b == 9) {
            value = &value[1..];
        }
        while value.last().is_some_and(|b| *b == 32 || *b == 9) {
            value = &value[..value.len() - 1];
        }
        value
    }

    fn host(value: &[u8]) -> bool {
        let value = String::from_utf8_lossy(value).into_owned();
        let (name, port) = if value.starts_with('[') {
            let Some(end) = value.find(']') else {
                return false;
            };
            let inner = &value[1..end];
            if inner.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            (inner.to_owned(), value[end + 1..].to_owned())
        } else {
            let end = value.find(':').unwrap_or(value.len());
            if !only(&value.as_bytes()[..end], HOST) {
                return false;
            }
            let mut escapes = value[..end].split('%').skip(1);
            let is_byte = |escape: &str| {
                let digits = escape.as_bytes().get(..2);
                digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            };
            if !escapes.all(is_byte) {
                return false;
            }
            (value[..end].to_owned(), value[end..].to_owned())
        };
        let port_fits = port.is_empty()
            || port.starts_with(':')
                && port.len() <= 6
                && only(&port.as_bytes()[1..], "0123456789");
        !name.is_empty() && port_fits && value.len() <= 320
    }

    fn target(method: Method, target: &str) -> Option<(String, String)> {
        if target == "*" {
            return (method == Method::Options).then(|| ("*".to_owned(), String::new()));
        }
        let mut rest = target.to_owned();
        let lower = target.to_ascii_lowercase();
        for scheme in ["http://", "https://"] {
            if lower.starts_with(scheme) {
                let after = &target[scheme.len()..];
                let end = after.find(['/', '?', '#']).unwrap_or(after.len());
                if !host(&after.as_bytes()[..end]) {
                    return None;
                }
                rest = after[end..].to_owned();
                if !rest.starts_with('/') {
                    rest.insert(0, '/');
                }
            }
        }
        if !rest.starts_with('/') {
            return None;
        }
        let (path, query) = rest.split_once('?').unwrap_or((&rest, ""));
        let query_fits = query.bytes().all(|b| b > 32 && b < 127 && b != b'#');
        (only(path.as_bytes(), PATH) && query_fits).then(|| (path.to_owned(), query.to_owned()))
    }

    /// Extensions of a chunk from the semicolon on, cut at the semicolons outside quotes.
    fn is_extension(text: &[u8]) -> bool {
        let text: Vec<char> = text.iter().map(|byte| char::from(*byte)).collect();
        let mut parts = vec![String::new()];
        let (mut quoted, mut escaped) = (false, false);
        for letter in text {
            match letter {
                ';' if !quoted => parts.push(String::new()),
                _ => parts.last_mut().expect("one").push(letter),
            }
            match letter {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                _ => {}
            }
        }
        let space = |letter: char| letter == ' ' || letter == '\t';
        let token = |text: &str| {
            let marks = "!#$%&'*+-.^_`|~";
            let fits = |letter: char| letter.is_ascii_alphanumeric() || marks.contains(letter);
            !text.is_empty() && text.chars().all(fits)
        };
        let string = |text: &str| {
            let inside = text
                .strip_prefix('"')
                .and_then(|text| text.strip_suffix('"'));
            let is_plain = |letter: char| letter == '\t' || (letter >= ' ' && letter != '\x7f');
            inside.is_some_and(|inside| {
                let mut letters = inside.chars();
                while let Some(letter) = letters.next() {
                    let fits = match letter {
                        '"' => false,
                        '\\' => letters.next().is_some_and(is_plain),
                        letter => is_plain(letter),
                    };
                    if !fits {
                        return false;
                    }
                }
                true
            })
        };
        let last = parts.len() - 1;
        // White space may stand before a semicolon, not before the end of the line.
        let ends = !parts[last].ends_with(space);
        let before = parts[0].chars().all(space);
        let extension = |part: &String| match part.trim_matches(space).split_once('=') {
            Some((name, value)) => {
                let value = value.trim_start_matches(space);
                token(name.trim_end_matches(space)) && (token(value) || string(value))
            }
            None => token(part.trim_matches(space)),
        };
        last > 0 && ends && before && !quoted && parts[1..].iter().all(extension)
    }

    #[allow(clippy::option_option)] // refused, or incomplete: two kinds of nothing
    fn chunks(mut rest: &[u8]) -> Option<Option<(Vec<u8>, usize)>> {
        let all = rest.len();
        let mut body = Vec::new();
        loop {
            // Size, perhaps an extension.
            let Some(end) = find(rest, b"\r\n") else {
                return Some(None);
            };
            let line = &rest[..end];
            let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
            let significant = String::from_utf8_lossy(&line[..digits]).into_owned();
            let significant = significant.trim_start_matches('0');
            if digits == 0 || significant.len() > 16 {
                return None;
            }
            let extension = &line[digits..];
            if !extension.is_empty() && !is_extension(extension) {
                return None;
            }
            let size = if significant.is_empty() {
                0
            } else {
                u64::from_str_radix(significant, 16).ok()?
            };
            rest = &rest[end + 2..];
            if size == 0 {
                break;
            }
            if size > BODY_MAX || body.len() as u64 + size > BODY_MAX {
                return None;
            }
            let size = size as usize;
            if rest.len() < size + 2 {
                return Some(None);
            }
            body.extend_from_slice(&rest[..size]);
            if &rest[size..size + 2] != b"\r\n" {
                return None;
            }
            rest = &rest[size + 2..];
        }
        loop {
            let Some(end) = find(rest, b"\r\n") else {
                return Some(None);
            };
            let line = &rest[..end];
            rest = &rest[end + 2..];
            if line.is_empty() {
                return Some(Some((body, all - rest.len())));
            }
            let colon = line.iter().position(|b| *b == b':')?;
            if colon == 0 || !only(&line[..colon], TOKEN) || !text(&line[colon + 1..]) {
                return None;
            }
        }
    }

    pub(super) fn judge(bytes: &[u8]) -> OracleResult {
        let skipped = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
        let Some(end) = find(&bytes[skipped..], b"\r\n\r\n") else {
            return OracleResult::Incomplete;
        };
        let head = &bytes[skipped..skipped + end];
        let used = skipped + end + 4;
        match judge_head(head, &bytes[used..]) {
            Some(Some(mut accepted)) => {
                accepted.used += used;
                OracleResult::Accept(accepted)
            }
            Some(None) => OracleResult::Incomplete,
            None => OracleResult::Reject,
        }
    }

    fn method_of(method: &[u8]) -> Option<Method> {
        Some(match method {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"PATCH" => Method::Patch,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            _ => return None,
        })
    }

    fn fields_of(lines: &[&[u8]]) -> Option<Vec<(String, Vec<u8>)>> {
        let mut fields = Vec::new();
        for line in lines {
            let colon = line.iter().position(|b| *b == b':')?;
            let (name, value) = (&line[..colon], strip(&line[colon + 1..]));
            if name.is_empty() || !only(name, TOKEN) || !text(value) {
                return None;
            }
            fields.push((String::from_utf8(name.to_vec()).ok()?, value.to_vec()));
        }
        Some(fields)
    }

    #[allow(clippy::option_option)]
    fn body_of(
        lengths: &[Vec<u8>],
        codings: &[Vec<u8>],
        is_1_0: bool,
        after: &[u8],
    ) -> Option<Option<(Vec<u8>, usize)>> {
        Some(match (lengths, codings) {
            ([], []) => Some((Vec::new(), 0)),
            ([length], []) => {
                if length.is_empty() || length.len() > 19 || !only(length, "0123456789") {
                    return None;
                }
                let length: u64 = String::from_utf8(length.clone()).ok()?.parse().ok()?;
                if length > BODY_MAX {
                    return None;
                }
                after
                    .get(..length as usize)
                    .map(|body| (body.to_vec(), body.len()))
            }
            ([], [coding]) if coding == b"chunked" && !is_1_0 => chunks(after)?,
            _ => return None,
        })
    }

    #[allow(clippy::option_option)]
    fn judge_head(head: &[u8], after: &[u8]) -> Option<Option<Accepted>> {
        let mut lines = Vec::new();
        let mut rest = head;
        while let Some(at) = find(rest, b"\r\n") {
            lines.push(&rest[..at]);
            rest = &rest[at + 2..];
        }
        lines.push(rest);
        if lines
            .iter()
            .any(|line| line.contains(&b'\r') || line.contains(&b'\n'))
        {
            return None;
        }
        let words: Vec<&[u8]> = lines[0].split(|b| *b == b' ').collect();
        let [method, raw_target, version] = words[..] else {
            return None;
        };
        let is_1_0 = match version {
            b"HTTP/1.0" => true,
            b"HTTP/1.1" => false,
            _ => return None,
        };
        let method = method_of(method)?;
        let (path, query) = target(method, std::str::from_utf8(raw_target).ok()?)?;
        let fields = fields_of(&lines[1..])?;
        let values = |name: &str| -> Vec<Vec<u8>> {
            fields
                .iter()
                .filter(|(other, _)| other.to_ascii_lowercase() == name)
                .map(|(_, value)| value.to_ascii_lowercase())
                .collect()
        };
        let hosts = values("host");
        if hosts.len() > 1 || hosts.is_empty() && !is_1_0 || hosts.iter().any(|v| !host(v)) {
            return None;
        }
        if values("authorization").len() > 1
            || values("expect").iter().any(|v| v != b"100-continue")
        {
            return None;
        }
        let options: Vec<Vec<u8>> = values("connection")
            .iter()
            .flat_map(|v| {
                v.split(|b| *b == b',')
                    .map(|o| strip(o).to_vec())
                    .collect::<Vec<_>>()
            })
            .collect();
        let close = options.iter().any(|o| o == b"close");
        let keep = options.iter().any(|o| o == b"keep-alive");
        let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
        let body = body_of(&lengths, &codings, is_1_0, after)?;
        let has_body = !codings.is_empty() || lengths.iter().any(|l| l.iter().any(|b| *b != b'0'));
        if has_body && values("content-encoding").iter().any(|v| v != b"identity") {
            return None;
        }
        Some(body.map(|(body, used)| Accepted {
            method,
            path,
            query,
            fields,
            keep_alive: !close && (!is_1_0 || keep),
            body,
            used,
        }))
    }
}

/// Both agree, and the reader agrees with itself for every cut.
fn check(bytes: &[u8]) -> Result<Outcome, String> {
    let found = whole(bytes);
    let shown = || bytes.escape_ascii().to_string();
    match (oracle::judge(bytes), &found) {
        (oracle::OracleResult::Accept(expected), Outcome::Accepted(accepted))
            if expected == *accepted => {}
        (oracle::OracleResult::Accept(expected), _) => {
            return Err(format!(
                "{}\nexpected {expected:?}\nfound {found:?}",
                shown()
            ));
        }
        (oracle::OracleResult::Reject, Outcome::Refused(_))
        | (oracle::OracleResult::Incomplete, Outcome::Refused(_) | Outcome::Partial) => {}
        (oracle::OracleResult::Reject, _) => {
            return Err(format!("{}\nto be refused, found {found:?}", shown()));
        }
        (oracle::OracleResult::Incomplete, _) => {
            return Err(format!("{}\nis incomplete, found {found:?}", shown()));
        }
    }
    for size in [1, 2, 3, 7, 16] {
        let pieces = in_pieces(bytes, std::iter::repeat(size));
        if pieces != found {
            return Err(format!(
                "{}\nin pieces of {size}: {pieces:?}\nwhole: {found:?}",
                shown()
            ));
        }
    }
    Ok(found)
}

fn checked(bytes: impl AsRef<[u8]>) -> Outcome {
    check(bytes.as_ref()).unwrap_or_else(|difference| panic!("{difference}"))
}

fn refusal(bytes: impl AsRef<[u8]>) -> Refusal {
    match checked(&bytes) {
        Outcome::Refused(refusal) => refusal,
        other => panic!("{} gave {other:?}", bytes.as_ref().escape_ascii()),
    }
}

fn acceptance(bytes: impl AsRef<[u8]>) -> Accepted {
    match checked(&bytes) {
        Outcome::Accepted(accepted) => accepted,
        other => panic!("{} gave {other:?}", bytes.as_ref().escape_ascii()),
    }
}

fn with_fields(fields: &str) -> String {
    format!("PUT /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
}

fn chunked(body: &str) -> String {
    with_fields("Transfer-Encoding: chunked\r\n") + body
}

#[test]
fn request_is_split_into_its_parts() {
    let request = "GET /streams/a%2Fb?q=1&x=%20 HTTP/1.1\r\nhOsT: example.com:9019\r\n\
      X-A:\t b c \t\r\n\r\nGET";
    let found = acceptance(request);
    assert_eq!((found.method, found.used), (Method::Get, request.len() - 3));
    assert_eq!(
        (found.path.as_str(), found.query.as_str()),
        ("/streams/a%2Fb", "q=1&x=%20")
    );
    assert_eq!(found.fields[1], ("X-A".to_owned(), b"b c".to_vec()));
    assert!(found.keep_alive && found.body.is_empty());
}

#[test]
fn known_fields_are_found_by_name() {
    let bytes = b"GET / HTTP/1.1\r\nIf-None-Match: \"1\"\r\nHOST: h\r\nauthorization: Bearer x\r\n\
                  accept-Encoding: gzip\r\ncontent-type: a/b\r\nX: y\r\n\r\n";
    let mut fields = head::fields();
    let head = head::parse(bytes, &mut fields)
        .expect("valid")
        .expect("complete");
    assert_eq!(head.headers.if_none_match(), Some(&b"\"1\""[..]));
    assert_eq!(head.headers.authorization(), Some(&b"Bearer x"[..]));
    assert_eq!(head.headers.get("content-type"), Some(&b"a/b"[..]));
    assert!(head.headers.accepts().contains(Coding::Gzip));
    assert_eq!(head.headers.get("x"), Some(&b"y"[..]));
    assert_eq!(head.headers.get("z"), None);
    assert_eq!(head.headers.iter().count(), 6);
}

#[test]
fn lines_end_with_cr_lf_and_nothing_else() {
    assert_eq!(refusal("GET / HTTP/1.1\nHost: h\r\n\r\n"), Refusal::LineEnd);
    assert_eq!(refusal("GET / HTTP/1.1\r\nHost: h\n\r\n"), Refusal::LineEnd);
    assert_eq!(
        refusal("GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n\n\r\n\r\n"),
        Refusal::LineEnd
    );
    assert_eq!(refusal("GET / HTTP/1.1\rHost: h\r\n\r\n"), Refusal::LineEnd);
    refusal("GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n");
    refusal("GET / HTTP/1.1\r\nHost: h\r\nA: b\r\r\n\r\n");
}

#[test]
fn one_empty_line_before_a_request_is_ignored() {
    let request = "\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(acceptance(request).used, request.len());
    assert_eq!(
        refusal("\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
        Refusal::LineEnd
    );
    assert_eq!(
        refusal("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
        Refusal::LineEnd
    );
    assert_eq!(
        refusal("\rGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
        Refusal::LineEnd
    );
    assert_eq!(
        refusal("\r\n\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
        Refusal::LineEnd
    );
    assert_eq!(checked("\r\n"), Outcome::Partial);
}

#[test]
fn request_line_has_two_single_spaces() {
    for line in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / HTTP/1.1\t",
        "GET /",
        "GET /a b HTTP/1.1",
        "GE(T / HTTP/1.1",
    ] {
        let found = refusal(format!("{line}\r\nHost: h\r\n\r\n"));
        assert!(
            matches!(found, Refusal::RequestLine | Refusal::LineEnd),
            "{line}: {found:?}"
        );
    }
}

#[test]
fn versions_are_1_1_and_1_0() {
    for version in ["HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/9.9"] {
        assert_eq!(
            refusal(format!("GET / {version}\r\nHost: h\r\n\r\n")),
            Refusal::Version
        );
    }
    for version in [
        "HTTP/1",
        "http/1.1",
        "HTTP/11",
        "HTTP/1,1",
        "HTTPS/1.1",
        "HTTP/1.",
        "HTTP /1.1",
    ] {
        assert_eq!(
            refusal(format!("GET / {version}\r\nHost: h\r\n\r\n")),
            Refusal::RequestLine
        );
    }
    // The preface of HTTP/2 is not a request of ours.
    assert_eq!(
        refusal("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        Refusal::Version
    );
}

#[test]
fn methods_are_case_sensitive() {
    for method in ["get", "BREW", "PROPFIND", "G"] {
        assert_eq!(
            refusal(format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n")),
            Refusal::MethodUnknown
        );
    }
    assert_eq!(
        refusal("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n"),
        Refusal::MethodRefused
    );
    assert_eq!(
        refusal("CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n"),
        Refusal::MethodRefused
    );
}

#[test]
fn targets_are_paths_or_whole_urls() {
    let target = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
    for (sent, path, query) in [
        ("/", "/", ""),
        ("//a/../b", "//a/../b", ""),
        ("/a?", "/a", ""),
        ("/a?b?c=[1]&d={\"x\"}|^`", "/a", "b?c=[1]&d={\"x\"}|^`"),
        ("http://other.example/a?b", "/a", "b"),
        ("HTTPS://u:8080", "/", ""),
        ("http://[::1]:80?x", "/", "x"),
    ] {
        let found = acceptance(target(sent));
        assert_eq!(
            (found.path.as_str(), found.query.as_str()),
            (path, query),
            "{sent}"
        );
    }
    for bad in [
        "a",
        "*",
        "h:80",
        "/a#b",
        "/a?b#c",
        "/a\\b",
        "/{a}",
        "/a\"",
        "ftp://h/",
        "http://",
        "http:///a",
        "http://u@h/",
        "http://u:p@h/",
        "http://h:x/",
        "http://h,i/",
        "/ü",
        "/a?ü",
    ] {
        assert_eq!(refusal(target(bad)), Refusal::Target, "{bad}");
    }
    let everything = acceptance("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(everything.path, "*");
}

#[test]
fn exactly_one_valid_host_is_required() {
    let host = |value: &str| format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n");
    for good in [
        "h",
        "h:",
        "h:9019",
        "a_b.example",
        "127.0.0.1:1",
        "[::1]",
        "[fe80::1]:80",
        "a%20b",
        "%C3%a4:80",
        "[::ffff:1.2.3.4]:80",
    ] {
        acceptance(host(good));
    }
    for bad in [
        "",
        ":80",
        "h:123456",
        "h:a",
        "h:1:2",
        "a b",
        "a,b",
        "u@h",
        "h/",
        "h?",
        "[]",
        "[::1",
        "a%zz",
        "a%2",
        "%",
        "[1.2.3.4]",
        "[:::]",
        "[v1.a]",
        "[fe80::1%25eth0]",
        "[::1]x",
        "[g::]",
        "h\tx",
        "http://h",
    ] {
        assert_eq!(refusal(host(bad)), Refusal::Host, "{bad}");
    }
    assert_eq!(refusal(host(&"h".repeat(400))), Refusal::Host);
    assert_eq!(refusal("GET / HTTP/1.1\r\n\r\n"), Refusal::Host);
    assert_eq!(
        refusal("GET / HTTP/1.1\r\nHost: h\r\nhost: h\r\n\r\n"),
        Refusal::Host
    );
    assert_eq!(refusal("GET http://h/ HTTP/1.1\r\n\r\n"), Refusal::Host);
    acceptance("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(
        refusal("GET / HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n"),
        Refusal::Host
    );
}

#[test]
fn fields_are_names_and_values_on_one_line() {
    for bad in [
        "Host : h\r\n",
        " Host: h\r\n",
        "A: b\r\n folded\r\n",
        "A: b\r\n\tfolded\r\n",
        "A\r\n",
        ": b\r\n",
        "A b: c\r\n",
        "A\0: b\r\n",
        "A: b\0\r\n",
        "A: \u{7f}\r\n",
        "A: \u{1b}[1m\r\n",
        "A[1]: b\r\n",
        "\u{e4}: b\r\n",
    ] {
        assert_eq!(refusal(with_fields(bad)), Refusal::Field, "{bad:?}");
    }
    acceptance(with_fields(
        "A:\r\nB: \r\nC:\"; \u{e4} , \t x\r\n!#$%&'*+-.^_`|~1: x\r\n",
    ));
}

#[test]
fn content_length_is_decimal_digits_once() {
    let length =
        |value: &str, body: &str| with_fields(&format!("Content-Length: {value}\r\n")) + body;
    assert_eq!(acceptance(length("3", "abcd")).body, b"abc");
    assert_eq!(acceptance(length("0003", "abcd")).body, b"abc");
    assert_eq!(acceptance(length("0", "abcd")).body, b"");
    assert_eq!(checked(length("5", "abcd")), Outcome::Partial);
    for bad in [
        "",
        "+1",
        "-1",
        "1.0",
        "0x1",
        "1 1",
        "1,1",
        "1, 1",
        "one",
        "1;",
        "\u{661}",
        "18446744073709551615",
        "18446744073709551616",
        "00000000000000000001",
    ] {
        assert_eq!(refusal(length(bad, "a")), Refusal::ContentLength, "{bad:?}");
    }
    assert_eq!(refusal(length("1048577", "")), Refusal::BodyLong);
    assert_eq!(
        refusal(length("9999999999999999999", "")),
        Refusal::BodyLong
    );
    let twice = with_fields("Content-Length: 1\r\nContent-Length: 1\r\n") + "a";
    assert_eq!(refusal(twice), Refusal::ContentLength);
}

#[test]
fn the_only_transfer_coding_is_chunked_once() {
    let coding =
        |value: &str| with_fields(&format!("Transfer-Encoding: {value}\r\n")) + "0\r\n\r\n";
    acceptance(coding("chunked"));
    acceptance(coding("Chunked"));
    for bad in [
        "",
        "identity",
        "xchunked",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "chunked, gzip",
        "chunked;q=1",
        "\"chunked\"",
        "chunked\u{b}",
        "chunked x",
        "gzip",
    ] {
        let found = refusal(coding(bad));
        assert!(
            matches!(found, Refusal::TransferEncoding | Refusal::Field),
            "{bad:?}: {found:?}"
        );
    }
    assert_eq!(refusal(coding("gzip, chunked")), Refusal::TransferCoding);
    for both in [
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    ] {
        assert_eq!(
            refusal(with_fields(both) + "0\r\n\r\n"),
            Refusal::LengthAndChunked
        );
    }
    let twice = with_fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n");
    assert_eq!(refusal(twice + "0\r\n\r\n"), Refusal::TransferEncoding);
    let old = "PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(refusal(old), Refusal::TransferEncoding);
}

#[test]
fn chunks_are_hex_sizes_and_exact_ends() {
    let body = "3\r\nabc\r\n00000a;x=\"y;\\\"\"\r\n0123456789\r\n0;z\r\nT: u\r\n\r\nrest";
    let found = acceptance(chunked(body));
    assert_eq!(found.body, b"abc0123456789");
    acceptance(chunked("1 ; a = b\r\nx\r\n0\r\n\r\n"));
    acceptance(chunked("000000000000000000000000001\r\nx\r\n000\r\n\r\n"));
    for bad in [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "+1\r\n",
        "0x1\r\n",
        "1 \r\nx\r\n",
        " 1\r\nx\r\n",
        "1\nx\r\n",
        "1\rx\r\n",
        "1,\r\n",
        "1_0\r\n",
        "11111111111111111\r\n",
        "G\r\n",
    ] {
        assert_eq!(
            refusal(chunked(bad) + "\r\n0\r\n\r\n"),
            Refusal::ChunkSize,
            "{bad:?}"
        );
    }
    for bad in [
        "1\r\nxy\r\n",
        "1\r\nx\n0\r\n\r\n",
        "1\r\nx\r0\r\n",
        "1\r\nx0\r\n\r\n",
    ] {
        assert_eq!(
            refusal(chunked(bad) + "0\r\n\r\n"),
            Refusal::ChunkEnd,
            "{bad:?}"
        );
    }
    for good in [
        "1;a;b=c",
        "1\t;\ta=\"\"",
        "1;a=\"\\\\\"",
        "1;a=\"\t \u{e4};=\" ; b",
    ] {
        acceptance(chunked(&format!("{good}\r\nx\r\n0\r\n\r\n")));
    }
    for bad in [
        "1;a\nb\r\nx\r\n",
        "1;a\0\r\nx\r\n",
        "1;\u{7f}\r\nx\r\n",
        "1;\r\nx\r\n",
        "1;=b\r\nx\r\n",
        "1;a=\r\nx\r\n",
        "1;a= \r\nx\r\n",
        "1;a \r\nx\r\n",
        "1;a=b \r\nx\r\n",
        "1;a b\r\nx\r\n",
        "1;a=b c\r\nx\r\n",
        "1;a=\"b\"c\r\nx\r\n",
        "1;a=\"b\\\"\r\nx\r\n",
        "1;;a\r\nx\r\n",
        // Another receiver reads on to the closing quote.
        "1;a=\"\r\nx\r\n0\r\n\r\nGET /\"",
    ] {
        assert_eq!(
            refusal(chunked(bad) + "0\r\n\r\n"),
            Refusal::ChunkExtension,
            "{bad:?}"
        );
    }
    for bad in [
        "0\r\n\n",
        "0\r\nT\r\n\r\n",
        "0\r\n: u\r\n\r\n",
        "0\r\nT : u\r\n\r\n",
        "0\r\n T: u\r\n\r\n",
        "0\r\nT: u\n\r\n",
        "0\r\nT: \0\r\n\r\n",
        "0\r\nT: u\r\n\rx",
    ] {
        assert_eq!(
            refusal(chunked(bad) + "\r\n\r\n"),
            Refusal::Trailer,
            "{bad:?}"
        );
    }
    assert_eq!(refusal(chunked("100001\r\n")), Refusal::BodyLong);
    assert_eq!(refusal(chunked("FFFFFFFFFFFFFFFF\r\n")), Refusal::BodyLong);
    // Two sizes whose sum overflows.
    assert_eq!(
        refusal(chunked("1\r\nx\r\nFFFFFFFFFFFFFFFF\r\n")),
        Refusal::BodyLong
    );
}

#[test]
fn extensions_and_trailers_have_limits() {
    let extension = |bytes: u32| format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(bytes as usize - 1));
    assert!(matches!(
        whole(chunked(&extension(CHUNK_EXTENSION_BYTES_MAX)).as_bytes()),
        Outcome::Accepted(_)
    ));
    assert_eq!(
        whole(chunked(&extension(CHUNK_EXTENSION_BYTES_MAX + 1)).as_bytes()),
        Outcome::Refused(Refusal::ChunkExtension)
    );
    let zeros = format!(
        "{}1\r\nx\r\n0\r\n\r\n",
        "0".repeat(CHUNK_EXTENSION_BYTES_MAX as usize + 1)
    );
    assert_eq!(
        whole(chunked(&zeros).as_bytes()),
        Outcome::Refused(Refusal::ChunkExtension)
    );
    let one = format!("1;{}\r\nx\r\n", "a".repeat(99));
    let many = one.repeat(CHUNK_EXTENSIONS_BYTES_MAX as usize / 100) + "0\r\n\r\n";
    assert!(
        matches!(whole(chunked(&many).as_bytes()), Outcome::Accepted(_)),
        "100 each"
    );
    let more = one.repeat(CHUNK_EXTENSIONS_BYTES_MAX as usize / 100 + 1) + "0\r\n\r\n";
    assert_eq!(
        whole(chunked(&more).as_bytes()),
        Outcome::Refused(Refusal::ChunkExtension)
    );
    let trailers = |count: usize| format!("0\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert!(matches!(
        whole(chunked(&trailers(FIELDS_MAX)).as_bytes()),
        Outcome::Accepted(_)
    ));
    assert_eq!(
        whole(chunked(&trailers(FIELDS_MAX + 1)).as_bytes()),
        Outcome::Refused(Refusal::FieldsMany)
    );
    let long = format!("0\r\na: {}\r\n\r\n", "b".repeat(HEAD_BYTES_MAX));
    assert_eq!(
        whole(chunked(&long).as_bytes()),
        Outcome::Refused(Refusal::HeadLong)
    );
}

#[test]
fn limits_of_heads_do_not_depend_on_the_cuts() {
    let both = |bytes: &[u8], expected: Option<Refusal>| {
        for outcome in [
            whole(bytes),
            in_pieces(bytes, std::iter::repeat(1000)),
            in_pieces(bytes, std::iter::repeat(16 * 1024)),
        ] {
            match expected {
                None => assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}"),
                Some(refusal) => assert_eq!(outcome, Outcome::Refused(refusal)),
            }
        }
    };
    let target =
        |bytes: usize, end: &str| format!("GET /{} {end}", "a".repeat(bytes - 1)).into_bytes();
    let rest = "HTTP/1.1\r\nHost: h\r\n\r\n";
    both(&target(TARGET_BYTES_MAX, rest), None);
    both(
        &target(TARGET_BYTES_MAX + 1, rest),
        Some(Refusal::TargetLong),
    );
    // Long comes before wrong, since wrong may not have arrived.
    both(
        &target(TARGET_BYTES_MAX + 1, "HTTP/9.9\r\n"),
        Some(Refusal::TargetLong),
    );
    let fields = |count: usize| with_fields(&"a: b\r\n".repeat(count - 1)).into_bytes();
    both(&fields(FIELDS_MAX), None);
    both(&fields(FIELDS_MAX + 1), Some(Refusal::FieldsMany));
    let head = |bytes: usize| {
        let frame = with_fields("X: \r\n").len();
        with_fields(&format!("X: {}\r\n", "y".repeat(bytes - frame))).into_bytes()
    };
    assert_eq!(head(HEAD_BYTES_MAX).len(), HEAD_BYTES_MAX);
    both(&head(HEAD_BYTES_MAX), None);
    both(&head(HEAD_BYTES_MAX + 1), Some(Refusal::HeadLong));
}

#[test]
fn unsupported_requests_are_refused_before_the_body() {
    assert_eq!(
        refusal(with_fields("Expect: 200-ok\r\n")),
        Refusal::Expectation
    );
    assert_eq!(
        refusal(with_fields(
            "Authorization: Basic a\r\nAuthorization: Basic a\r\n"
        )),
        Refusal::AuthorizationTwice
    );
    for coding in ["gzip", "br", "identity, gzip", ""] {
        let bytes = with_fields(&format!(
            "Content-Encoding: {coding}\r\nContent-Length: 1\r\n"
        ));
        assert_eq!(refusal(bytes + "x"), Refusal::ContentCoding);
    }
    acceptance(with_fields("Content-Encoding: Identity\r\nContent-Length: 1\r\n") + "x");
    acceptance(with_fields("Content-Encoding: gzip\r\n"));
}

#[test]
fn keep_alive_follows_from_version_and_options() {
    for (version, option, keep_alive) in [
        ("1.1", "", true),
        ("1.1", "close", false),
        ("1.1", "Keep-Alive, CLOSE", false),
        ("1.1", "upgrade", true),
        ("1.0", "", false),
        ("1.0", "keep-alive", true),
        ("1.0", "keep-alive, close", false),
    ] {
        let bytes = format!("GET / HTTP/{version}\r\nHost: h\r\nConnection: {option}\r\n\r\n");
        assert_eq!(
            acceptance(bytes).keep_alive,
            keep_alive,
            "{version} {option}"
        );
    }
}

/// Requests that are changed at every place.
const SEEDS: [&str; 6] = [
    "GET /a/b?c=d HTTP/1.1\r\nHost: h:80\r\nX-Y: z w\r\n\r\n",
    "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\nConnection: close\r\n\r\nhello, world",
    "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;e=f\r\nhello\r\n0a\r\n\
      0123456789\r\n0\r\nT: u\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: [::1]:9\r\nExpect: 100-continue\r\n\r\n",
    "\r\nPOST http://h/a HTTP/1.1\r\nhost:h\r\nContent-Encoding: identity\r\n\
      content-length: 0\r\n\r\n",
    "GET / HTTP/1.0\r\nConnection: keep-alive\r\nAuthorization: a\r\n\r\n",
];

#[test]
fn oracle_agrees_for_every_octet_at_every_place() {
    let mut counts = [0_u32; 3];
    for seed in SEEDS {
        acceptance(seed);
        for at in 0..=seed.len() {
            for octet in 0..=255_u8 {
                let mut inserted = seed.as_bytes().to_vec();
                inserted.insert(at, octet);
                let mut replaced = seed.as_bytes().to_vec();
                if at < seed.len() {
                    replaced[at] = octet;
                }
                for bytes in [inserted, replaced] {
                    match check(&bytes).unwrap_or_else(|difference| panic!("{difference}")) {
                        Outcome::Accepted(_) => counts[0] += 1,
                        Outcome::Partial => counts[1] += 1,
                        Outcome::Refused(_) => counts[2] += 1,
                    }
                }
            }
        }
    }
    // The sweep has met all three in numbers; otherwise it proves nothing.
    assert!(counts.iter().all(|count| *count > 200), "{counts:?}");
}

#[test]
fn oracle_agrees_for_numbers_at_the_edges_of_types() {
    for number in [
        "",
        "0",
        "00",
        "2147483648",
        "4294967295",
        "4294967296",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "+1",
        "-1",
        "0x1",
        " 1",
        "1 ",
        "80000000",
        "FFFFFFFF",
        "7FFFFFFFFFFFFFFF",
        "8000000000000000",
        "FFFFFFFFFFFFFFFF",
        "10000000000000000",
    ] {
        checked(with_fields(&format!("Content-Length: {number}\r\n")) + "x");
        checked(chunked(&format!("{number}\r\nx\r\n0\r\n\r\n")));
        checked(format!("GET / HTTP/1.1\r\nHost: h:{number}\r\n\r\n"));
    }
}

#[test]
fn pipelined_requests_are_separate() {
    let first = SEEDS[2].to_owned();
    let bytes = first.clone() + SEEDS[1];
    assert_eq!(acceptance(&bytes).used, first.len());
    assert_eq!(acceptance(&bytes[first.len()..]).body, b"hello, world");
}

/// Pieces that requests are made of, right and wrong.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "GET ",
        "PUT ",
        "/",
        "/a?b",
        "*",
        "http://h/",
        " HTTP/1.1",
        " HTTP/1.0",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        ":",
        " ",
        "\t",
        "Host: h\r\n",
        "Host:",
        "Content-Length: 3\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding:",
        "chunked",
        ", ",
        "Connection: close\r\n",
        "Expect: 100-continue\r\n",
        "3\r\nabc\r\n",
        "0\r\n",
        "0\r\n\r\n",
        "0",
        "a",
        ";x",
        "X: y\r\n",
        "abc",
    ]);
    prop_oneof![
        8 => known.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ]
}

proptest! {
    #![proptest_config(crate::proptests::config_with_cases(2000))]

    #[test]
    fn oracle_agrees_for_random_pieces(
        pieces in prop::collection::vec(piece(), 0..14),
        start in 0_usize..4,
    ) {
        let mut bytes = match start {
            0 => Vec::new(),
            1 => b"GET / HTTP/1.1\r\nHost: h\r\n".to_vec(),
            2 => b"PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
            _ => b"PUT /a HTTP/1.1\r\nHost: h\r\n".to_vec(),
        };
        bytes.extend(pieces.concat());
        if let Err(difference) = check(&bytes) {
            return Err(TestCaseError::fail(difference));
        }
    }

    #[test]
    fn oracle_agrees_for_random_changes_and_cuts(
        seed in 0..SEEDS.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..4), 0..5),
        cuts in prop::collection::vec(1_usize..40, 1..30),
    ) {
        let mut bytes = SEEDS[seed].as_bytes().to_vec();
        for (at, octet, kind) in edits {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes.insert(at, octet),
                1 => bytes[at] = octet,
                2 if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => {
                    let copy = bytes[at..].to_vec();
                    bytes.extend(copy);
                }
            }
        }
        let found = match check(&bytes) {
            Ok(found) => found,
            Err(difference) => return Err(TestCaseError::fail(difference)),
        };
        prop_assert_eq!(in_pieces(&bytes, cuts.into_iter().cycle()), found);
    }
}
