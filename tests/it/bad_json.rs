//! Bodies that are not JSON, or JSON that cannot be stored exactly, at every operation with a body;
//! unknown paths and methods.
//!
//! A case is a piece of JSON text. It is sent as the whole body, and as the value of an unknown
//! member: there, accepted text must have no effect, and refused text must be reported with code,
//! pointer and byte.

use std::collections::{BTreeMap, BTreeSet};

use weir::testing::api::OPERATIONS;

use crate::described::{Document, Operation};
use crate::round_trip::with_one_of_each;
use weir_testkit::{API_KEY, Client, PREFIX, Response, STREAMER_PREFIX, TestServer};

/// How the parser judges a piece of text.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    Accept,
    /// The code; the byte at which reading stops, counted from the start of the piece; the rest of
    /// the pointer.
    Refuse(&'static str, usize, &'static str),
}

use Verdict::{Accept, Refuse};

const fn broken(at: usize) -> Verdict {
    Refuse("invalid_json", at, "")
}

/// The value is whole and what follows it is wrong: the place is that of the object around it.
const fn after(at: usize) -> Verdict {
    Refuse("invalid_json", at, AFTER)
}

const AFTER: &str = "^";

const fn outside(at: usize) -> Verdict {
    Refuse("number_out_of_range", at, "")
}

const fn no_text(at: usize) -> Verdict {
    Refuse("invalid_utf8", at, "")
}

const fn lone(at: usize) -> Verdict {
    Refuse("lone_surrogate", at, "")
}

/// A piece of text, and the verdict on it as the value of a member: what follows it is `}`.
const PIECES: &[(&[u8], Verdict)] = &[
    // Words.
    (b"null", Accept),
    (b"true", Accept),
    (b"false", Accept),
    (b" \t\r\n null \t\r\n ", Accept),
    (b"nul", broken(0)),
    (b"nulll", after(4)),
    (b"NULL", broken(0)),
    (b"Null", broken(0)),
    (b"True", broken(0)),
    (b"TRUE", broken(0)),
    (b"fals", broken(0)),
    (b"undefined", broken(0)),
    (b"None", broken(0)),
    (b"NaN", broken(0)),
    (b"nan", broken(0)),
    (b"-NaN", broken(1)),
    (b"Infinity", broken(0)),
    (b"-Infinity", broken(1)),
    (b"+Infinity", broken(0)),
    (b"inf", broken(0)),
    (b"t", broken(0)),
    (b"truefalse", after(4)),
    (b"true false", after(5)),
    (b"", broken(0)),
    (b" ", broken(1)),
    (b"*", broken(0)),
    (b"@", broken(0)),
    (b"\x60\x60", broken(0)),
    // Numbers.
    (b"0", Accept),
    (b"-0", Accept),
    (b"-0.0", Accept),
    (b"-0e0", Accept),
    (b"0.0", Accept),
    (b"0e1", Accept),
    (b"0e+1", Accept),
    (b"0E-1", Accept),
    (b"1E22", Accept),
    (b"1e-2", Accept),
    (b"1.5e+9", Accept),
    (b"123.456e78", Accept),
    (b"-1", Accept),
    (b"9007199254740991", Accept),
    (b"9007199254740993", Accept),
    (b"2147483648", Accept),
    (b"-2147483649", Accept),
    (b"4294967296", Accept),
    (b"9223372036854775807", Accept),
    (b"9223372036854775808", Accept),
    (b"-9223372036854775808", Accept),
    (b"18446744073709551615", Accept),
    (b"1.7976931348623157e308", Accept),
    (b"-1.7976931348623157e308", Accept),
    (b"2.2250738585072014e-308", Accept),
    (b"5e-324", Accept),
    (b"0e999999999999", Accept),
    (b"0.000000000000000000000000000000000000000001", Accept),
    (b"100000000000000000000.0", Accept),
    (b"18446744073709551616", outside(0)),
    (b"-9223372036854775809", outside(0)),
    (b"100000000000000000000", outside(0)),
    (b"1e309", outside(0)),
    (b"1e400", outside(0)),
    (b"-1e400", outside(0)),
    (b"1.8e308", outside(0)),
    (b"1e-400", outside(0)),
    (b"1e999999999999999999999", outside(0)),
    (b"1e-999999999999999999999", outside(0)),
    (b"[0,1e400]", Refuse("number_out_of_range", 3, "/1")),
    (b"00", broken(0)),
    (b"01", broken(0)),
    (b"-01", broken(1)),
    (b"-00", broken(1)),
    (b"007", broken(0)),
    (b"00.5", broken(0)),
    (b"1.", broken(2)),
    (b"1.e1", broken(2)),
    (b".5", broken(0)),
    (b"-.5", broken(1)),
    (b"-", broken(1)),
    (b"--1", broken(1)),
    (b"-+1", broken(1)),
    (b"+1", broken(0)),
    (b"++1", broken(0)),
    (b"1e", broken(2)),
    (b"1e+", broken(3)),
    (b"1e-", broken(3)),
    (b"1E", broken(2)),
    (b"1ee2", broken(2)),
    (b"1e1.5", after(3)),
    (b"1.5.5", after(3)),
    (b"1.0e+-1", broken(5)),
    (b"1 000", after(2)),
    (b"1,000", after(2)),
    (b"1_000", after(1)),
    (b"0x1F", after(1)),
    (b"0b1", after(1)),
    (b"0o7", after(1)),
    (b"1f", after(1)),
    (b"1n", after(1)),
    (b"1/2", after(1)),
    (b"- 1", broken(1)),
    (b"0.1e", broken(4)),
    (b"\xef\xbc\x91", broken(0)),
    (b"\xd9\xa1", broken(0)),
    // Strings.
    (br#""""#, Accept),
    (br#"" ""#, Accept),
    (br#""plain""#, Accept),
    (br#""\"\\\/\b\f\n\r\t""#, Accept),
    (br#""\u0041\u00e9\u20AC\uFFFD""#, Accept),
    (br#""\ud83d\ude00""#, Accept),
    (br#""\uD800\uDC00""#, Accept),
    (br#""\uDBFF\uDFFF""#, Accept),
    (br#""\u0001\u001f\u007f""#, Accept),
    (br#""\u2028\u2029""#, Accept),
    (br#""\uFFFE\uFFFF\uFDD0""#, Accept),
    (br#""\uFEFF""#, Accept),
    (br#""\\u0000""#, Accept),
    (br#""\\ud800""#, Accept),
    (br#""\\\\""#, Accept),
    (b"\"\x7f\"", Accept),
    (b"\"\xc2\x80\"", Accept),
    (b"\"\xdf\xbf\"", Accept),
    (b"\"\xe0\xa0\x80\"", Accept),
    (b"\"\xe2\x80\xa8\"", Accept),
    (b"\"\xed\x9f\xbf\"", Accept),
    (b"\"\xee\x80\x80\"", Accept),
    (b"\"\xef\xbf\xbf\"", Accept),
    (b"\"\xf0\x90\x80\x80\"", Accept),
    (b"\"\xf4\x8f\xbf\xbf\"", Accept),
    (b"\"\xef\xbb\xbf\"", Accept),
    (b"'single'", broken(0)),
    (br"text", broken(0)),
    (br#""\x41""#, broken(1)),
    (br#""\'""#, broken(1)),
    (br#""\a""#, broken(1)),
    (br#""\v""#, broken(1)),
    (br#""\0""#, broken(1)),
    (br#""\8""#, broken(1)),
    (br#""\U0041""#, broken(1)),
    (br#""\ ""#, broken(1)),
    (b"\"\\\n\"", broken(1)),
    (br#""\u""#, broken(3)),
    (br#""\u1""#, broken(4)),
    (br#""\u123""#, broken(6)),
    (br#""\u12G4""#, broken(5)),
    (br#""\u 123""#, broken(3)),
    (br#""\u-123""#, broken(3)),
    (br#""\u{41}""#, broken(3)),
    (br#""\ud83d\u""#, broken(9)),
    (br#""\ud83d\uDEX0""#, broken(11)),
    (b"\"a\nb\"", broken(2)),
    (b"\"a\rb\"", broken(2)),
    (b"\"a\tb\"", broken(2)),
    (b"\"a\0b\"", broken(2)),
    (b"\"\x1f\"", broken(1)),
    (b"\"12345678\x01\"", broken(9)),
    (br#""a"b""#, after(3)),
    (br#""a""b""#, after(3)),
    (br#""a"+"b""#, after(3)),
    (br#""\u0000""#, Refuse("nul_character", 1, "")),
    (br#""a\u0000b""#, Refuse("nul_character", 2, "")),
    (br#"{"\u0000":1}"#, Refuse("nul_character", 2, "")),
    (br#""\ud800""#, lone(1)),
    (br#""\uDBFF""#, lone(1)),
    (br#""\udc00""#, lone(1)),
    (br#""\uDFFF""#, lone(1)),
    (br#""\ud800x""#, lone(1)),
    (br#""\ud800\n""#, lone(1)),
    (br#""\ud800\\udc00""#, lone(1)),
    (br#""\ud800\u0041""#, lone(1)),
    (br#""\ud800\ud800\udc00""#, lone(1)),
    (br#""\udc00\ud800""#, lone(1)),
    (br#""ok\udead""#, lone(3)),
    (br#"[["\udead"]]"#, Refuse("lone_surrogate", 3, "/0/0")),
    (br#"{"\ud800":1}"#, lone(2)),
    // Invalid UTF-8 is refused before parsing, so the error has a byte but no pointer.
    (b"\"\x80\"", no_text(1)),
    (b"\"\xbf\"", no_text(1)),
    (b"\"\xc0\x80\"", no_text(1)),
    (b"\"\xc0\xaf\"", no_text(1)),
    (b"\"\xc1\xbf\"", no_text(1)),
    (b"\"\xc3\"", no_text(1)),
    (b"\"\xc3(\"", no_text(1)),
    (b"\"\xe0\x80\x80\"", no_text(1)),
    (b"\"\xe0\x9f\xbf\"", no_text(1)),
    (b"\"\xe2\x82\"", no_text(1)),
    (b"\"\xed\xa0\x80\"", no_text(1)),
    (b"\"\xed\xbf\xbf\"", no_text(1)),
    (b"\"\xed\xa0\xbd\xed\xb8\x80\"", no_text(1)),
    (b"\"\xf0\x80\x80\x80\"", no_text(1)),
    (b"\"\xf0\x8f\xbf\xbf\"", no_text(1)),
    (b"\"\xf0\x9f\x98\"", no_text(1)),
    (b"\"\xf4\x90\x80\x80\"", no_text(1)),
    (b"\"\xf5\x80\x80\x80\"", no_text(1)),
    (b"\"\xf8\x88\x80\x80\x80\"", no_text(1)),
    (b"\"\xfe\"", no_text(1)),
    (b"\"\xff\"", no_text(1)),
    (b"\xff", no_text(0)),
    (b"\"caf\xe9\"", no_text(4)),
    (b"\xe9", no_text(0)),
    // Arrays.
    (b"[]", Accept),
    (b"[ ]", Accept),
    (b"[[]]", Accept),
    (b"[null,1,\"1\",{}]", Accept),
    (b"[1 , 2\n,\t3]", Accept),
    (b"[1,1]", Accept),
    (b"[1,]", Refuse("invalid_json", 3, "/1")),
    (b"[,1]", Refuse("invalid_json", 1, "/0")),
    (b"[,]", Refuse("invalid_json", 1, "/0")),
    (b"[1,,2]", Refuse("invalid_json", 3, "/1")),
    (b"[1 2]", broken(3)),
    (b"[1;2]", broken(2)),
    (b"[1:2]", broken(2)),
    (b"[1", broken(2)),
    (b"[1,[2]", broken(6)),
    (b"[", Refuse("invalid_json", 1, "/0")),
    (b"]", broken(0)),
    (b"[}", Refuse("invalid_json", 1, "/0")),
    (b"[1]]", after(3)),
    (b"[\"a\",\n4\n,1", broken(10)),
    (b"(1)", broken(0)),
    (b"[*]", Refuse("invalid_json", 1, "/0")),
    (b"[0,{\"a\":[1,2,x]}]", Refuse("invalid_json", 13, "/1/a/2")),
    // Objects.
    (b"{}", Accept),
    (b"{ }", Accept),
    (br#"{"":0}"#, Accept),
    (br#"{"a":{"a":{"a":{}}}}"#, Accept),
    (br#"{"a":1,"A":1}"#, Accept),
    (br#"{"a":[],"b":{}}"#, Accept),
    ("{\"é\":1,\"e\u{301}\":1}".as_bytes(), Accept),
    (br#"{"a":1,}"#, broken(7)),
    (br#"{,"a":1}"#, broken(1)),
    (br#"{"a":1,,"b":2}"#, broken(7)),
    (br#"{"a"}"#, Refuse("invalid_json", 4, "/a")),
    (br#"{"a":}"#, Refuse("invalid_json", 5, "/a")),
    (br#"{"a"::1}"#, Refuse("invalid_json", 5, "/a")),
    (br#"{"a" 1}"#, Refuse("invalid_json", 5, "/a")),
    (br#"{"a"=1}"#, Refuse("invalid_json", 4, "/a")),
    (br#"{"a","b"}"#, Refuse("invalid_json", 4, "/a")),
    (br#"{"a":1 "b":2}"#, broken(7)),
    (br#"{"a":1;"b":2}"#, broken(6)),
    (br"{a:1}", broken(1)),
    (br"{'a':1}", broken(1)),
    (br"{1:1}", broken(1)),
    (br"{null:1}", broken(1)),
    (br#"{["a"]:1}"#, broken(1)),
    (br#"{"a":1"#, after(7)),
    (br"{", after(2)),
    (br#"{"a":1]"#, broken(6)),
    (br#"{"a":1,"a":1}"#, Refuse("duplicate_key", 7, "/a")),
    (br#"{"a":1,"b":2,"a":3}"#, Refuse("duplicate_key", 13, "/a")),
    (br#"{"a":1,"\u0061":2}"#, Refuse("duplicate_key", 7, "/a")),
    (br#"{"":1,"":2}"#, Refuse("duplicate_key", 6, "/")),
    (
        br#"[{"k/1~":{},"k/1~":{}}]"#,
        Refuse("duplicate_key", 12, "/0/k~11~0"),
    ),
    // Text beside the value.
    (b"/* c */ 1", broken(0)),
    (b"1 // c", after(2)),
    (b"1 # c", after(2)),
    (b"<!-- c --> 1", broken(0)),
    (b"\x0c1", broken(0)),
    (b"\x0b1", broken(0)),
    (b"\xc2\xa01", broken(0)),
    (b"\xe2\x80\x8b1", broken(0)),
    (b"\xef\xbb\xbf1", broken(0)),
    (b"\xe2\x81\xa0", broken(0)),
    (b"1\0", after(1)),
    (b"\0", broken(0)),
    (b"\x1b[0m", broken(0)),
    (b"<a/>", broken(0)),
    (b"a=1&b=2", broken(0)),
    (b"--- 1", broken(1)),
];

/// Requests over a few connections at a time, so that the server can make several durable at once.
pub struct Pipeline {
    clients: Vec<Client>,
    bearer: String,
}

impl Pipeline {
    pub fn new(server: &TestServer) -> Self {
        Self {
            clients: (0..8).map(|_| server.connect()).collect(),
            bearer: format!("Bearer {API_KEY}"),
        }
    }

    /// The answers to all requests, in order.
    pub fn send(&mut self, requests: &[(String, String, Vec<u8>)]) -> Vec<Response> {
        let mut answers = Vec::with_capacity(requests.len());
        for window in requests.chunks(self.clients.len() * 4) {
            let clients = (0..self.clients.len()).cycle();
            for ((method, path, body), at) in window.iter().zip(clients.clone()) {
                let path = format!("{PREFIX}{path}");
                let fields = [("Authorization", self.bearer.as_str())];
                self.clients[at].send_request(method, &path, &fields, body);
            }
            let taken = clients.take(window.len());
            answers.extend(taken.map(|at| self.clients[at].response(false)));
        }
        answers
    }
}

/// Refuses unknown members, whatever the request prefers.
const STRICT_OPERATION: &str = "streams_batch_update_by_filter";

/// `before` and `after` of the value of an unknown member, and the pointer to the object
/// that holds it.
fn unknown_member(operation: &Operation) -> (&'static str, &'static str, &'static str) {
    if operation.is_batch() {
        ("[{\"x_none\":", "}]", "/0")
    } else {
        ("{\"x_none\":", "}", "")
    }
}

#[test]
fn every_body_is_parsed_as_strict_json() {
    assert!(PIECES.len() > 250, "{}", PIECES.len());
    let document = Document::new();
    let server = with_one_of_each(&document);
    let mut pipeline = Pipeline::new(&server);
    let operations = document.with_bodies();
    assert!(operations.len() >= 5);
    for operation in &operations {
        let (before, after, holder) = unknown_member(operation);
        let request = |body: &[&[u8]]| {
            (
                operation.method.clone(),
                operation.path_of(0),
                body.concat(),
            )
        };
        // The answer of the operation without such a member.
        let plain = before.replace("\"x_none\":", "") + after;
        let plain = pipeline.send(&[request(&[plain.as_bytes()])]).remove(0);
        let inside: Vec<_> = PIECES
            .iter()
            .map(|(piece, _)| request(&[before.as_bytes(), piece, after.as_bytes()]))
            .collect();
        for ((piece, verdict), answer) in PIECES.iter().zip(pipeline.send(&inside)) {
            let shown = format!("{} {}", operation.id, String::from_utf8_lossy(piece));
            match verdict {
                Accept if operation.id == STRICT_OPERATION => {
                    assert_eq!(answer.status, 400, "{shown}: {}", answer.text());
                    assert_eq!(answer.errors(), ["unknown_member /x_none"], "{shown}");
                }
                Accept => {
                    assert_eq!(answer.status, plain.status, "{shown}: {}", answer.text());
                    if answer.status >= 300 {
                        assert_eq!(answer.errors(), plain.errors(), "{shown}");
                    }
                    assert!(
                        !answer.text().contains("x_none"),
                        "{shown}: {}",
                        answer.text()
                    );
                }
                Refuse(code, at, place) => {
                    let place = match (*code, *place) {
                        // Refused before anything was read.
                        ("invalid_utf8", _) => String::new(),
                        (_, AFTER) => holder.to_owned(),
                        (_, rest) => format!("{holder}/x_none{rest}"),
                    };
                    assert_eq!(answer.status, 400, "{shown}: {}", answer.text());
                    assert_eq!(answer.errors(), [format!("{code} {place}")], "{shown}");
                    let error = &answer.json()["errors"][0];
                    let offset = (before.len() + at).to_string();
                    assert_eq!(error["meta"]["offset"], offset, "{shown}: {error}");
                }
            }
        }
        let whole: Vec<_> = PIECES.iter().map(|(piece, _)| request(&[piece])).collect();
        for ((piece, verdict), answer) in PIECES.iter().zip(pipeline.send(&whole)) {
            let shown = format!("{} {}", operation.id, String::from_utf8_lossy(piece));
            let wanted = match verdict {
                _ if piece.starts_with(b"\xef\xbb\xbf") => Some("byte_order_mark"),
                Refuse(code, ..) => Some(*code),
                Accept => None,
            };
            let Some(wanted) = wanted else {
                let unread = [
                    "invalid_",
                    "duplicate_key",
                    "number_out",
                    "json_",
                    "lone_",
                    "nul_",
                ];
                if answer.status >= 300 {
                    let errors = answer.errors();
                    assert!(
                        !unread.iter().any(|code| errors[0].starts_with(code)),
                        "{shown}: {errors:?}"
                    );
                }
                continue;
            };
            assert_eq!(answer.status, 400, "{shown}: {}", answer.text());
            let errors = answer.errors();
            assert!(errors[0].starts_with(wanted), "{shown}: {errors:?}");
        }
    }
}

#[test]
fn every_body_is_bounded_in_depth_and_length() {
    const DEPTH_MAX: usize = 64;
    let document = Document::new();
    let server = with_one_of_each(&document);
    let mut pipeline = Pipeline::new(&server);
    let mut operations = document.with_bodies();
    // Callers without credentials may send 4 KiB, bulk changes have 8 KiB: `browser_session` and
    // `bulk` hold that.
    operations.retain(|it| !["session_open", STRICT_OPERATION].contains(&it.id.as_str()));
    for operation in operations {
        let (before, after, _) = unknown_member(&operation);
        let around = before.matches(['{', '[']).count();
        let nested = |open: &str, close: &str, depth: usize| {
            format!("{}1{}", open.repeat(depth), close.repeat(depth))
        };
        let fits = DEPTH_MAX - around;
        let accepted = [
            "1".to_owned(),
            nested("[", "]", fits),
            nested("{\"a\":", "}", fits),
            format!("\"{}\"", "\u{10ffff}".repeat(50_000)),
            format!("\"{}\"", "\\n".repeat(100_000)),
            format!("{{\"{}\":1}}", "k".repeat(100_000)),
            format!("[{}1]", "1,".repeat(100_000)),
            format!("[{}1]", "[],".repeat(100_000)),
            format!(
                "{{{}\"z\":1}}",
                (0..20_000)
                    .map(|i| format!("\"{i}\":{i},"))
                    .collect::<String>()
            ),
            format!("1{}", " ".repeat(200_000)),
            format!("0.{}", "1".repeat(1_000)),
        ];
        let refused = [
            (nested("[", "]", fits + 1), "json_too_deep"),
            (nested("{\"a\":", "}", fits + 1), "json_too_deep"),
            (nested("[", "]", 100_000), "json_too_deep"),
            ("[".repeat(500_000), "json_too_deep"),
            ("{\"a\":".repeat(50_000), "json_too_deep"),
            ("1".repeat(500_000), "number_out_of_range"),
            (format!("0.{}", "1".repeat(2_000)), "number_out_of_range"),
            (format!("1e{}", "9".repeat(2_000)), "number_out_of_range"),
        ];
        let pieces = accepted
            .iter()
            .chain(refused.iter().map(|(piece, _)| piece));
        let requests: Vec<_> = pieces
            .map(|piece| {
                let body = format!("{before}{piece}{after}").into_bytes();
                (operation.method.clone(), operation.path_of(0), body)
            })
            .collect();
        let answers = pipeline.send(&requests);
        let (taken, others) = answers.split_at(accepted.len());
        for (i, answer) in taken.iter().enumerate() {
            let text = answer.text();
            assert_eq!(
                answer.status, taken[0].status,
                "{} {i}: {text}",
                operation.id
            );
        }
        for ((_, code), answer) in refused.iter().zip(others) {
            let shown = format!("{} {code}: {}", operation.id, answer.text());
            assert_eq!(answer.status, 400, "{shown}");
            assert!(answer.errors()[0].starts_with(code), "{shown}");
            assert!(
                answer.body.len() < 4096,
                "an answer no longer than it has to be: {shown}"
            );
        }
    }
}

#[test]
fn unknown_path_is_404_and_unknown_method_is_405() {
    let server = TestServer::new();
    // The methods of each path, from the table itself.
    let mut served: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for endpoint in OPERATIONS {
        let methods = served.entry(endpoint.route.template()).or_default();
        methods.extend([endpoint.route.method.as_str(), "OPTIONS"]);
        if endpoint.route.method.as_str() == "GET" {
            methods.insert("HEAD");
        }
    }
    let document = Document::new();
    let operations = document.operations();
    let mut client = server.connect();
    let bearer = format!("Bearer {API_KEY}");
    let fields = [("Authorization", bearer.as_str())];
    for (template, methods) in &served {
        let described = operations.iter().find(|it| it.template == *template);
        // What is no part of the HTTP API is served and not described there: its path is as it
        // stands.
        let named = described.map_or_else(|| template.clone(), |operation| operation.path_of(0));
        assert!(!named.contains('{'), "{template} is not described");
        for prefix in [PREFIX, STREAMER_PREFIX] {
            let path = format!("{prefix}{named}");
            for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
                if methods.contains(method) && method != "OPTIONS" {
                    continue;
                }
                let answer = client.request(method, &path, &fields, b"");
                let shown = format!("{method} {path}: {answer:?}");
                let allow = answer.header("allow").unwrap_or_else(|| panic!("{shown}"));
                let allowed: BTreeSet<&str> = allow.split(", ").collect();
                assert_eq!(allowed, *methods, "{shown}");
                if method == "OPTIONS" {
                    assert_eq!(answer.status, 204, "{shown}");
                } else {
                    assert_eq!(answer.status, 405, "{shown}");
                    if method != "HEAD" {
                        assert_eq!(answer.errors(), ["method_not_allowed"], "{shown}");
                    }
                }
            }
        }
    }
    for path in [
        "/",
        "/central",
        "/central/api",
        "/central/api/v3",
        "/central/api/v3/",
        "/central/api/v2/streams",
        "/streamer/api/v3",
        "/central/api/v3x/streams",
        "/api/v3/streams",
        "/central/api/v3/none",
        "/central/api/v3/STREAMS",
        "/central/api/v3/streams%2Fa",
        "//central/api/v3/streams",
        "/central//api/v3/streams",
        "/central/api/v3//streams",
        "/central/api/v3/streamers/a/none",
    ] {
        for method in ["GET", "PUT", "POST", "DELETE"] {
            let answer = client.request(method, path, &fields, b"");
            assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
            assert_eq!(answer.errors(), ["not_found"], "{method} {path}");
        }
    }
}
