//! Head: the request line and the fields of a request, a strict profile of RFC 9112 over httparse.
//!
//! A pure function of bytes. Promises: how the bytes were cut into reads does not change the
//! result; no request is accepted whose end two readers could see in different places (a bare LF,
//! a folded line, two lengths, a transfer coding other than `chunked`); every loop is bounded by
//! `limits`. httparse finds the tokens; what it is lenient about is checked here. Meaning is left
//! to others: paths and queries stay as they were sent, `api` decodes them once.

use std::mem::MaybeUninit;
use std::net::Ipv6Addr;

use super::refusal::Refusal;
use super::string_ids;
use crate::limits::{
    CONTENT_LENGTH_DIGITS_MAX, FIELDS_MAX, HEAD_BYTES_MAX, HOST_BYTES_MAX, TARGET_BYTES_MAX,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

impl Method {
    /// The method that it is answered as: `HEAD` is `GET` without content.
    #[must_use]
    pub fn without_head(self) -> Self {
        match self {
            Method::Head => Method::Get,
            other => other,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
        }
    }
}

/// How a head announces its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    Length(u64),
    Chunked,
}

/// Room for the fields of one head. Uninitialized, so it costs only stack.
pub type Fields<'a> = [MaybeUninit<httparse::Header<'a>>; FIELDS_MAX];

pub const fn fields<'a>() -> Fields<'a> {
    [const { MaybeUninit::uninit() }; FIELDS_MAX]
}

/// A request head that obeys every rule.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    pub method: Method,
    /// As sent. Begins with `/`, or is `*` with `OPTIONS`.
    pub path: &'a str,
    /// As sent, without the `?`.
    pub query: &'a str,
    pub headers: Headers<'a>,
    pub framing: Framing,
    /// HTTP/1.0 keeps a connection only if the client requests it.
    pub is_1_0: bool,
    /// The client wants to send more on this connection.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Bytes of the head, an empty line before it included.
    pub len: usize,
}

/// Indices of the fields that every request needs, found in the pass that checks framing.
#[derive(Debug, Clone, Copy)]
struct Known {
    host: u8,
    authorization: u8,
    accept_encoding: u8,
    if_none_match: u8,
    if_match: u8,
    /// Whether there is a field that names the client of a proxy.
    forwarded: bool,
    prefer: bool,
    /// Whether `Accept` wants JSON with large integers as strings.
    string_ids: bool,
}

const ABSENT: u8 = u8::MAX;

/// The fields of a request, in the order they were sent.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'a> {
    all: &'a [httparse::Header<'a>],
    known: Known,
}

impl<'a> Headers<'a> {
    fn at(&self, index: u8) -> Option<&'a [u8]> {
        self.all.get(usize::from(index)).map(|field| field.value)
    }

    /// A head has at most one.
    pub fn authorization(&self) -> Option<&'a [u8]> {
        self.at(self.known.authorization)
    }

    pub fn if_none_match(&self) -> Option<&'a [u8]> {
        self.at(self.known.if_none_match)
    }

    /// Whether it has `If-Match` or `If-None-Match`.
    pub fn has_conditions(&self) -> bool {
        self.known.if_match != ABSENT || self.known.if_none_match != ABSENT
    }

    /// Whether it has `X-Real-IP` or `X-Forwarded-For`.
    pub(super) fn has_forwarded(&self) -> bool {
        self.known.forwarded
    }

    /// Whether it has `Prefer`.
    pub fn has_preferences(&self) -> bool {
        self.known.prefer
    }

    /// The values of all fields of this name, in their order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let fields = self.all.iter();
        fields
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value)
    }

    pub fn accept_encoding(&self) -> Option<&'a [u8]> {
        self.at(self.known.accept_encoding)
    }

    /// Whether `Accept` wants JSON with large integers as strings.
    pub fn wants_string_ids(&self) -> bool {
        self.known.string_ids
    }

    /// The codings of `Accept-Encoding`; none for JSON in another form, which is made of the plain
    /// one.
    pub fn accepts(&self) -> super::Accepts {
        if self.accept_encoding().is_none() || self.wants_string_ids() {
            return super::Accepts::NONE;
        }
        super::Accepts::parse_all(self.values("accept-encoding"))
    }

    /// The first field of this name; case does not matter.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.all
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value)
    }

    /// The values of all fields of this name, which are one list.
    pub fn values(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        let is_it = move |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case(name);
        self.all.iter().filter(is_it).map(|field| field.value)
    }

    /// `Connection: upgrade` together with `Upgrade: protocol`. Both are lists, which may be
    /// divided among several fields.
    pub fn offers_upgrade(&self, protocol: &str) -> bool {
        let lists = |name: &str, wanted: &str| {
            self.iter().any(|(field, value)| {
                field.eq_ignore_ascii_case(name)
                    && list(value).any(|element| element.eq_ignore_ascii_case(wanted.as_bytes()))
            })
        };
        lists("connection", "upgrade") && lists("upgrade", protocol)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        self.all.iter().map(|field| (field.name, field.value))
    }
}

/// Reads the head at the start of `bytes`. `None`: more bytes are needed.
pub fn parse<'a>(bytes: &'a [u8], fields: &'a mut Fields<'a>) -> Result<Option<Head<'a>>, Refusal> {
    // One empty line before a request is ignored (RFC 9112 section 2.2); httparse would ignore any
    // number, and bare LFs.
    let start = match bytes {
        [b'\r', b'\n', ..] => 2,
        [b'\r'] | [] => return Ok(None),
        [b'\r' | b'\n', ..] => return Err(Refusal::LineEnd),
        _ => 0,
    };
    let text = &bytes[start..bytes.len().min(start + HEAD_BYTES_MAX)];
    if let Some(b'\r' | b'\n') = text.first() {
        return Err(Refusal::LineEnd);
    }
    if text.len() > TARGET_BYTES_MAX && target_is_long(text) {
        return Err(Refusal::TargetLong);
    }
    let mut request = httparse::Request::new(&mut []);
    let len = match request.parse_with_uninit_headers(text, fields) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return need_more(text),
        Err(httparse::Error::Version) => {
            return match version_is_foreign(text) {
                Some(true) => Err(Refusal::Version),
                Some(false) => Err(Refusal::RequestLine),
                None => need_more(text),
            };
        }
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::FieldsMany),
        Err(httparse::Error::HeaderName | httparse::Error::HeaderValue) => {
            return Err(Refusal::Field);
        }
        Err(httparse::Error::NewLine) => return Err(Refusal::LineEnd),
        Err(httparse::Error::Token | httparse::Error::Status) => return Err(Refusal::RequestLine),
    };
    // httparse accepts a bare LF as a line end; other servers do not, and that difference is how
    // requests are smuggled.
    if !lines_end_with_cr(&text[..len], request.headers) {
        return Err(Refusal::LineEnd);
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(Refusal::RequestLine);
    };
    check(method, target, minor, request.headers, start + len).map(Some)
}

/// Whether every LF of a head follows a CR. httparse lets a LF only end a line, so each is before
/// the name of a field or at the end of the head.
fn lines_end_with_cr(head: &[u8], fields: &[httparse::Header<'_>]) -> bool {
    let starts = fields
        .iter()
        .map(|field| field.name.as_ptr().addr() - head.as_ptr().addr());
    let ends_in_empty_line = head.ends_with(b"\r\n\r\n");
    ends_in_empty_line && starts.into_iter().all(|at| head[..at].ends_with(b"\r\n"))
}

fn need_more<T>(text: &[u8]) -> Result<Option<T>, Refusal> {
    if text.len() >= HEAD_BYTES_MAX {
        Err(Refusal::HeadLong)
    } else {
        Ok(None)
    }
}

/// Checked before the tokens, so that the refusal does not depend on how much of the rest has
/// arrived.
fn target_is_long(text: &[u8]) -> bool {
    let method = text.iter().take_while(|byte| is_token(**byte)).count();
    if method == 0 || text.get(method) != Some(&b' ') {
        return false;
    }
    let target = &text[method + 1..];
    target.len() > TARGET_BYTES_MAX
        && target[..=TARGET_BYTES_MAX]
            .iter()
            .all(|byte| *byte > b' ' && *byte != 0x7f)
}

/// Whether the version of a request line that httparse does not know is `HTTP/` digit `.` digit.
/// `None`: too little of it has arrived.
fn version_is_foreign(text: &[u8]) -> Option<bool> {
    let mut spaces = memchr::memchr_iter(b' ', text);
    spaces.next()?;
    let version = &text[spaces.next()? + 1..];
    for (i, pattern) in b"HTTP/0.0".iter().enumerate() {
        let byte = *version.get(i)?;
        let fits = match pattern {
            b'0' => byte.is_ascii_digit(),
            _ => byte == *pattern,
        };
        if !fits {
            return Some(false);
        }
    }
    Some(true)
}

/// Checks the tokens that httparse has found.
fn check<'a>(
    method: &str,
    target: &'a str,
    minor: u8,
    all: &'a [httparse::Header<'a>],
    len: usize,
) -> Result<Head<'a>, Refusal> {
    let is_1_0 = minor == 0;
    let facts = FieldFacts::read(all, is_1_0)?;
    let framing = facts.framing()?;
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "PATCH" => Method::Patch,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        "CONNECT" | "QUERY" | "TRACE" => return Err(Refusal::MethodRefused),
        _ => return Err(Refusal::MethodUnknown),
    };
    let (path, query) = split_target(method, target)?;
    let has_body = !matches!(framing, Framing::None | Framing::Length(0));
    if facts.coded && has_body {
        return Err(Refusal::ContentCoding);
    }
    Ok(Head {
        method,
        path,
        query,
        headers: Headers {
            all,
            known: facts.known,
        },
        framing,
        is_1_0,
        keep_alive: !facts.close && (!is_1_0 || facts.keep),
        expects_continue: facts.expects_continue && has_body,
        len,
    })
}

/// The properties of a request that the fields of its head determine.
#[allow(clippy::struct_excessive_bools)] // independent facts
struct FieldFacts {
    known: Known,
    length: Option<u64>,
    chunked: bool,
    /// `Connection: close` and `Connection: keep-alive`.
    close: bool,
    keep: bool,
    expects_continue: bool,
    /// The body has a content coding.
    coded: bool,
}

impl FieldFacts {
    /// One pass over the fields.
    fn read(all: &[httparse::Header<'_>], is_1_0: bool) -> Result<Self, Refusal> {
        let mut facts = Self {
            known: Known {
                host: ABSENT,
                authorization: ABSENT,
                accept_encoding: ABSENT,
                if_none_match: ABSENT,
                if_match: ABSENT,
                forwarded: false,
                prefer: false,
                string_ids: false,
            },
            length: None,
            chunked: false,
            close: false,
            keep: false,
            expects_continue: false,
            coded: false,
        };
        for (i, field) in all.iter().enumerate() {
            facts.add(i as u8, field, is_1_0)?;
        }
        if facts.known.host == ABSENT && !is_1_0 {
            return Err(Refusal::Host);
        }
        Ok(facts)
    }

    #[inline]
    fn add(
        &mut self,
        index: u8,
        field: &httparse::Header<'_>,
        is_1_0: bool,
    ) -> Result<(), Refusal> {
        let known = &mut self.known;
        let value = field.value;
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        // The length of the name distinguishes nearly all of them before a byte is compared.
        match field.name.len() {
            4 if is("host") => {
                if known.host != ABSENT || !is_host(value) {
                    return Err(Refusal::Host);
                }
                known.host = index;
            }
            6 if is("expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::Expectation);
                }
                self.expects_continue = !is_1_0;
            }
            6 if is("prefer") => known.prefer = true,
            6 if is("accept") => known.string_ids |= string_ids::is_wanted(value),
            8 if is("if-match") => known.if_match = index,
            9 if is("x-real-ip") => known.forwarded = true,
            10 if is("connection") => {
                for option in list(value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            13 if is("authorization") => {
                if known.authorization != ABSENT {
                    return Err(Refusal::AuthorizationTwice);
                }
                known.authorization = index;
            }
            13 if is("if-none-match") && known.if_none_match == ABSENT => {
                known.if_none_match = index;
            }
            14 if is("content-length") => {
                if self.length.is_some() {
                    return Err(Refusal::ContentLength);
                }
                self.length = Some(content_length(value)?);
            }
            15 if is("accept-encoding") && known.accept_encoding == ABSENT => {
                known.accept_encoding = index;
            }
            15 if is("x-forwarded-for") => known.forwarded = true,
            16 if is("content-encoding") => self.coded |= !value.eq_ignore_ascii_case(b"identity"),
            17 if is("transfer-encoding") => {
                if self.chunked || is_1_0 {
                    return Err(Refusal::TransferEncoding);
                }
                transfer_encoding(value)?;
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn framing(&self) -> Result<Framing, Refusal> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Refusal::LengthAndChunked),
            (true, None) => Ok(Framing::Chunked),
            (false, Some(bytes)) => Ok(Framing::Length(bytes)),
            (false, None) => Ok(Framing::None),
        }
    }
}

/// The elements of a comma-separated list, without the white space around them.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim)
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Decimal digits only: no sign, no list, no space. Leading zeros are allowed.
fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() || value.len() > CONTENT_LENGTH_DIGITS_MAX {
        return Err(Refusal::ContentLength);
    }
    let mut length = 0_u64;
    for byte in value {
        if !byte.is_ascii_digit() {
            return Err(Refusal::ContentLength);
        }
        // Nineteen digits fit.
        length = length * 10 + u64::from(byte - b'0');
    }
    Ok(length)
}

/// `chunked`, once and alone. Another coding before it is "not implemented", everything else is a
/// framing error.
fn transfer_encoding(value: &[u8]) -> Result<(), Refusal> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut codings = 0;
    let mut chunked = 0;
    let mut last_is_chunked = false;
    for coding in list(value) {
        if coding.is_empty() || !coding.iter().all(|byte| is_token(*byte)) {
            return Err(Refusal::TransferEncoding);
        }
        last_is_chunked = coding.eq_ignore_ascii_case(b"chunked");
        chunked += u32::from(last_is_chunked);
        codings += 1;
    }
    if codings > 1 && chunked == 1 && last_is_chunked {
        Err(Refusal::TransferCoding)
    } else {
        Err(Refusal::TransferEncoding)
    }
}

/// A registered name or an IPv6 address in brackets, with an optional port (RFC 3986 3.2.2).
/// Stricter than the grammar, which allows an empty name, a comma and future address formats.
fn is_host(value: &[u8]) -> bool {
    if value.len() > HOST_BYTES_MAX {
        return false;
    }
    let (fits, port) = if let [b'[', rest @ ..] = value {
        let Some(end) = memchr::memchr(b']', rest) else {
            return false;
        };
        let address = std::str::from_utf8(&rest[..end]).ok();
        let is_address = address.is_some_and(|text| text.parse::<Ipv6Addr>().is_ok());
        (is_address, &rest[end + 1..])
    } else {
        // A host is short: a search by words would cost more than it saves.
        let end = value.iter().position(|byte| *byte == b':');
        let (name, port) = value.split_at(end.unwrap_or(value.len()));
        (is_registered_name(name), port)
    };
    let port_fits = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    fits && port_fits
}

/// Bytes of a registered name that need no escape.
static REGISTERED_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = matches!(byte as u8,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'!' | b'$'
            | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=');
        byte += 1;
    }
    table
};

/// No comma: a list of hosts is a way to smuggle requests.
fn is_registered_name(name: &[u8]) -> bool {
    let mut rest = name;
    while let [byte, after @ ..] = rest {
        rest = match (byte, after) {
            (b'%', [high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                after
            }
            (byte, after) if REGISTERED_NAME[usize::from(*byte)] => after,
            _ => return false,
        };
    }
    !name.is_empty()
}

/// Where in a target a byte is allowed.
const NEVER: u8 = 0;
const IN_QUERY: u8 = 1;
const ANYWHERE: u8 = 2;

/// The grammar of RFC 3986, and in queries also the visible characters that clients forget to
/// escape.
static TARGET: [u8; 256] = {
    let mut table = [NEVER; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] = match byte as u8 {
            b'#' => NEVER,
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'[' | b']' => IN_QUERY,
            _ => ANYWHERE,
        };
        byte += 1;
    }
    table
};

fn split_target(method: Method, target: &str) -> Result<(&str, &str), Refusal> {
    let local = match target.as_bytes().first() {
        Some(b'/') => target,
        Some(b'*') if target == "*" && method == Method::Options => return Ok(("*", "")),
        _ => absolute(target)?,
    };
    let (path, query) = match memchr::memchr(b'?', local.as_bytes()) {
        Some(at) => (&local[..at], &local[at + 1..]),
        None => (local, ""),
    };
    let path_fits = path
        .bytes()
        .all(|byte| TARGET[usize::from(byte)] == ANYWHERE);
    let query_fits = query.bytes().all(|byte| TARGET[usize::from(byte)] != NEVER);
    if path_fits && query_fits {
        Ok((if path.is_empty() { "/" } else { path }, query))
    } else {
        Err(Refusal::Target)
    }
}

/// The part of `http://host/path` after the host. Proxies send targets in this form, and every
/// server has to accept it (RFC 9112 section 3.2.2). The host replaces `Host`; as this server has
/// one host under every name, only its form matters.
fn absolute(target: &str) -> Result<&str, Refusal> {
    let bytes = target.as_bytes();
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| {
            bytes.len() >= scheme.len() && bytes[..scheme.len()].eq_ignore_ascii_case(scheme)
        })
        .ok_or(Refusal::Target)?;
    let rest = &bytes[scheme.len()..];
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
        .unwrap_or(rest.len());
    if !is_host(&rest[..end]) {
        return Err(Refusal::Target);
    }
    // A host is ASCII, so this is a character boundary.
    Ok(&target[scheme.len() + end..])
}

/// `token` of RFC 9110: names of methods, fields and codings.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Bytes of field values and chunk extensions: no control characters but the tab.
pub(super) fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn bare_lf_is_refused_wherever_it_is(
            line in "(GET|PUT) /[a-z?]{0,9} HTTP/1[.][01]",
            lines in proptest::collection::vec("[A-Z][a-z-]{0,8}: ?[a-z ]{0,9}", 0..5),
            ends in proptest::collection::vec(0..8_usize, 8),
            after in "(|\n|\r\n|GET / HTTP/1.1\r\n)",
        ) {
            let mut text = String::new();
            let lines = std::iter::once(&line).chain(&lines).map(String::as_str).chain([""]);
            for (line, end) in lines.zip(&ends) {
                text.push_str(line);
                text.push_str(if *end == 0 { "\n" } else { "\r\n" });
            }
            let head = text.len();
            text.push_str(&after);
            let bytes = text.as_bytes();
            let mut fields = fields();
            let mut request = httparse::Request::new(&mut []);
            let parsed = request.parse_with_uninit_headers(bytes, &mut fields);
            proptest::prop_assert_eq!(parsed, Ok(httparse::Status::Complete(head)));
            let mut ends = memchr::memchr_iter(b'\n', &bytes[..head]);
            let all_after_cr = ends.all(|at| at > 0 && bytes[at - 1] == b'\r');
            let found = lines_end_with_cr(&bytes[..head], request.headers);
            proptest::prop_assert_eq!(found, all_after_cr, "{:?}", text);
        }
    }
}
