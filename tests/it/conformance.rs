//! The strict HTTP profile as the real program serves it: what each request is answered with, and
//! whether the connection lives on.
//!
//! The parser has its own tests; here the wiring is proven: credentials before bodies, limits of
//! each operation, methods of each path, and that nothing after a framing error is ever taken for a
//! request.

use serde_json::json;

use weir_testkit::{API_KEY, Client, PREFIX, Response, TestServer};

const STREAMS: &str = "/central/api/v3/streams";

fn auth() -> String {
    format!("Authorization: Bearer {API_KEY}\r\n")
}

/// One case: the request, and the status and fate of the connection that are expected.
struct RequestCase {
    request: Vec<u8>,
    status: u16,
    stays: bool,
}

fn case(request: impl AsRef<[u8]>, status: u16, stays: bool) -> RequestCase {
    RequestCase {
        request: request.as_ref().to_vec(),
        status,
        stays,
    }
}

/// A probe that shows whether the connection still serves, and that nothing of the case before was
/// left over.
fn probe() -> String {
    format!("GET {PREFIX}/monitoring/liveness HTTP/1.1\r\nHost: probe\r\n\r\n")
}

fn check(server: &TestServer, case: &RequestCase) {
    let shown = case.request.escape_ascii().to_string();
    let shown = &shown[..shown.len().min(300)];
    let mut client = server.connect();
    client.send(&case.request);
    let is_head = case.request.starts_with(b"HEAD ");
    let answer = client.response(is_head);
    assert_eq!(answer.status, case.status, "{shown}: {}", answer.text());
    if case.status >= 400 && !is_head {
        answer.errors();
    }
    let says_close = answer.header("connection") == Some("close");
    assert_eq!(says_close, !case.stays, "{shown}: {answer:?}");
    client.send(probe().as_bytes());
    if case.stays {
        let probed = client.response(false);
        assert_eq!(probed.status, 200, "{shown}: {}", probed.text());
        assert!(probed.json()["server_version"].is_string());
    } else {
        assert!(
            client.is_ended(),
            "{shown}: more came after the last answer"
        );
    }
}

/// A GET with a valid credential and one more line or none.
fn get(extra: &str) -> String {
    format!("GET {STREAMS} HTTP/1.1\r\nHost: a\r\n{}{extra}\r\n", auth())
}

fn put(fields: &str, body: &str) -> String {
    format!(
        "PUT {STREAMS}/x HTTP/1.1\r\nHost: a\r\n{}{fields}\r\n{body}",
        auth()
    )
}

fn chunked(body: &str) -> String {
    put("Transfer-Encoding: chunked\r\n", body)
}

#[test]
fn every_form_of_request_head_has_a_defined_response() {
    let server = TestServer::new();
    let auth = auth();
    let line = |line: &str| format!("{line}\r\nHost: a\r\n{auth}\r\n");
    let long = "a".repeat(20_000);
    let many: String = (0..101).map(|i| format!("X-{i}: v\r\n")).collect();
    let hundred: String = (0..98).map(|i| format!("X-{i}: v\r\n")).collect();
    let cases = [
        // Request lines.
        case(line(&format!("GET {STREAMS} HTTP/1.1")), 200, true),
        case(
            format!("\r\n{}", line(&format!("GET {STREAMS} HTTP/1.1"))),
            200,
            true,
        ),
        case(line(&format!("GET {STREAMS} HTTP/1.0")), 200, false),
        case(line(&format!("GET  {STREAMS} HTTP/1.1")), 400, false),
        case(line(&format!("GET {STREAMS}  HTTP/1.1")), 400, false),
        case(line(&format!("GET {STREAMS}\tHTTP/1.1")), 400, false),
        case(line(&format!("GET {STREAMS} HTTP/1.1 ")), 400, false),
        case(line(&format!(" GET {STREAMS} HTTP/1.1")), 400, false),
        case(line(&format!("GET {STREAMS}")), 400, false),
        case(line("GET"), 400, false),
        case(line(&format!("GET {STREAMS} HTTP/1.2")), 505, false),
        case(line(&format!("GET {STREAMS} HTTP/2.0")), 505, false),
        case(line(&format!("GET {STREAMS} HTTP/0.9")), 505, false),
        case(line(&format!("GET {STREAMS} http/1.1")), 400, false),
        case(line(&format!("GET {STREAMS} HTTP/1.1x")), 400, false),
        case(line(&format!("get {STREAMS} HTTP/1.1")), 501, false),
        case(line(&format!("BREW {STREAMS} HTTP/1.1")), 501, false),
        case(line(&format!("G@T {STREAMS} HTTP/1.1")), 400, false),
        case(line(&format!("TRACE {STREAMS} HTTP/1.1")), 405, false),
        case(line("CONNECT a:80 HTTP/1.1"), 405, false),
        case(line(&format!("GET {STREAMS}#part HTTP/1.1")), 400, false),
        case(line(&format!("GET {STREAMS}\u{1}x HTTP/1.1")), 400, false),
        case(
            line(&format!("GET {STREAMS}?q=\u{e9} HTTP/1.1")),
            400,
            false,
        ),
        case(line("GET streams HTTP/1.1"), 400, false),
        case(line(&format!("GET http://a{STREAMS} HTTP/1.1")), 200, true),
        case(line(&format!("GET {STREAMS}/{long} HTTP/1.1")), 414, false),
        case(
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 tls \r\n\r\n",
            400,
            false,
        ),
        case(b"\0\r\n\r\n", 400, false),
        // Line ends.
        case(get("").replace("\r\n", "\n"), 400, false),
        case(
            format!("GET {STREAMS} HTTP/1.1\r\nHost: a\n{auth}\r\n"),
            400,
            false,
        ),
        case(
            format!("GET {STREAMS} HTTP/1.1\rHost: a\r\n{auth}\r\n"),
            400,
            false,
        ),
        case(
            format!("GET {STREAMS} HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"),
            400,
            false,
        ),
        // Host.
        case(format!("GET {STREAMS} HTTP/1.1\r\n{auth}\r\n"), 400, false),
        case(get("Host: a\r\n"), 400, false),
        case(
            format!("GET {STREAMS} HTTP/1.1\r\nHost: a b\r\n{auth}\r\n"),
            400,
            false,
        ),
        case(
            format!("GET {STREAMS} HTTP/1.1\r\nHost: a@b\r\n{auth}\r\n"),
            400,
            false,
        ),
        case(
            format!("GET {STREAMS} HTTP/1.1\r\nHost: a/b\r\n{auth}\r\n"),
            400,
            false,
        ),
        case(
            format!("GET {STREAMS} HTTP/1.1\r\nHost: [::1]:80\r\n{auth}\r\n"),
            200,
            true,
        ),
        case(format!("GET {STREAMS} HTTP/1.0\r\n{auth}\r\n"), 200, false),
        // Fields.
        case(get("X: 1\r\n"), 200, true),
        case(get("X:\r\n"), 200, true),
        case(get("X:\t1 \t\r\n"), 200, true),
        case(get("X : 1\r\n"), 400, false),
        case(get(": 1\r\n"), 400, false),
        case(get("X\r\n"), 400, false),
        case(get(" X: 1\r\n"), 400, false),
        case(get("X: 1\r\n folded\r\n"), 400, false),
        case(get("X\u{7f}: 1\r\n"), 400, false),
        case(get("X: \0\r\n"), 400, false),
        case(get("X: \u{1}\r\n"), 400, false),
        case(get("X: \u{e9}\r\n"), 200, true),
        case(get("X(y): 1\r\n"), 400, false),
        case(get(&hundred), 200, true),
        case(get(&many), 431, false),
        case(get(&format!("X: {}\r\n", "v".repeat(70_000))), 431, false),
        case(get(&auth), 400, false),
        case(get("Expect: tea\r\n"), 417, false),
        case(
            get("Upgrade: websocket\r\nConnection: upgrade\r\n"),
            200,
            true,
        ),
        case(
            get("Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\
                 Connection: Upgrade, HTTP2-Settings\r\n"),
            200,
            true,
        ),
        // Persistence.
        case(get("Connection: close\r\n"), 200, false),
        case(get("Connection: Close, x\r\n"), 200, false),
        case(get("Connection: keep-alive\r\n"), 200, true),
        case(
            format!("GET {STREAMS} HTTP/1.0\r\nConnection: keep-alive\r\n{auth}\r\n"),
            200,
            true,
        ),
    ];
    for case in &cases {
        check(&server, case);
    }
}

#[test]
fn framing_errors_close_the_connection() {
    let server = TestServer::new();
    let body = r#"{"title":"T"}"#;
    let with_length = |length: &str| put(&format!("Content-Length: {length}\r\n"), body);
    let chunk = format!("{:x}\r\n{body}\r\n", body.len());
    let whole = format!("{chunk}0\r\n\r\n");
    let transfer = |fields: &str| put(fields, &whole);
    let cases = [
        case(with_length("13"), 200, true),
        case(with_length("0000000000013"), 200, true),
        case(with_length(" 13 "), 200, true),
        case(with_length("+13"), 400, false),
        case(with_length("-13"), 400, false),
        case(with_length("0x0d"), 400, false),
        case(with_length("13.0"), 400, false),
        case(with_length("1 3"), 400, false),
        case(with_length(""), 400, false),
        case(with_length("13, 13"), 400, false),
        case(with_length("13\r\nContent-Length: 13"), 400, false),
        case(with_length("13\r\nContent-Length: 5"), 400, false),
        case(with_length("18446744073709551616"), 400, false),
        case(with_length("13\r\nContent-Encoding: gzip"), 415, false),
        case(with_length("13\r\nContent-Encoding: identity"), 200, true),
        case(with_length("13\r\nTransfer-Encoding: chunked"), 400, false),
        case(put("", ""), 400, true),
        case(put("Content-Length: 0\r\n", ""), 400, true),
        // Chunks.
        case(chunked(&whole), 200, true),
        case(
            chunked(&format!(
                "1\r\n{{\r\n{:x}\r\n{}\r\n0\r\n\r\n",
                body.len() - 1,
                &body[1..]
            )),
            200,
            true,
        ),
        case(
            chunked(&format!("00000d\r\n{body}\r\n000\r\n\r\n")),
            200,
            true,
        ),
        case(chunked(&format!("D\r\n{body}\r\n0\r\n\r\n")), 200, true),
        case(
            chunked(&format!("d;a=b\r\n{body}\r\n0;c\r\n\r\n")),
            200,
            true,
        ),
        case(
            chunked(&format!("{chunk}0\r\nX-Trailer: 1\r\n\r\n")),
            200,
            true,
        ),
        case(
            chunked(&format!("{chunk}0\r\nContent-Length: 1\r\n\r\n")),
            200,
            true,
        ),
        case(
            chunked(&format!("{chunk}0\r\nbad trailer\r\n\r\n")),
            400,
            false,
        ),
        case(chunked(&format!("d \r\n{body}\r\n0\r\n\r\n")), 400, false),
        case(chunked(&format!(" d\r\n{body}\r\n0\r\n\r\n")), 400, false),
        case(chunked(&format!("0xd\r\n{body}\r\n0\r\n\r\n")), 400, false),
        case(chunked(&format!("g\r\n{body}\r\n0\r\n\r\n")), 400, false),
        case(chunked(&format!("-d\r\n{body}\r\n0\r\n\r\n")), 400, false),
        case(chunked(&format!("\r\n{body}\r\n0\r\n\r\n")), 400, false),
        case(
            chunked(&format!("10000000000000000\r\n{body}\r\n0\r\n\r\n")),
            400,
            false,
        ),
        case(chunked(&format!("d\n{body}\r\n0\r\n\r\n")), 400, false),
        case(chunked(&format!("d\r\n{body}\n0\r\n\r\n")), 400, false),
        case(chunked(&format!("c\r\n{body}\r\n0\r\n\r\n")), 400, false),
        case(
            chunked(&format!("d;a=\"\n\"\r\n{body}\r\n0\r\n\r\n")),
            400,
            false,
        ),
        case(
            chunked(&format!("d;{}\r\n{body}\r\n0\r\n\r\n", "e".repeat(300))),
            400,
            false,
        ),
        case(chunked("ffffffff\r\n"), 413, false),
        // Transfer codings.
        case(transfer("Transfer-Encoding: Chunked\r\n"), 200, true),
        case(
            transfer("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            400,
            false,
        ),
        case(
            transfer("Transfer-Encoding: chunked, chunked\r\n"),
            400,
            false,
        ),
        case(transfer("Transfer-Encoding: gzip, chunked\r\n"), 501, false),
        case(transfer("Transfer-Encoding: xchunked\r\n"), 400, false),
        case(
            transfer("Transfer-Encoding: chunked, identity\r\n"),
            400,
            false,
        ),
        case(transfer("Transfer-Encoding:\r\n"), 400, false),
        case(transfer("Transfer-Encoding: \u{b}chunked\r\n"), 400, false),
        case(
            format!(
                "PUT {STREAMS}/x HTTP/1.0\r\nHost: a\r\n{}Transfer-Encoding: chunked\r\n\r\n{whole}",
                auth()
            ),
            400,
            false,
        ),
    ];
    for case in &cases {
        check(&server, case);
    }
    // A second request inside a refused one is never executed.
    let hidden = format!(
        "PUT {STREAMS}/smuggled HTTP/1.1\r\nHost: a\r\n{}Content-Length: 2\r\n\r\n{{}}",
        auth()
    );
    for front in [
        put(
            "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        chunked("0\n\n"),
        chunked("0 \r\n\r\n"),
        put("Content-Length: 0\r\nContent-Length: 5\r\n", ""),
        put("Transfer-Encoding: chunked, x\r\n", "0\r\n\r\n"),
        get("X: 1\n\r\n"),
    ] {
        let mut client = server.connect();
        client.send((front.clone() + &hidden).as_bytes());
        let status = client.response(false).status;
        assert!(
            matches!(status, 400 | 501),
            "{status}: {}",
            front.escape_debug()
        );
        assert!(client.is_ended(), "{}", front.escape_debug());
    }
    server.get("/streams/smuggled").expect(404);
}

#[test]
fn credentials_are_checked_before_the_body_is_read() {
    let server = TestServer::new();
    let expecting = |path: &str, fields: &str| {
        format!("PUT {PREFIX}{path} HTTP/1.1\r\nHost: a\r\n{fields}Expect: 100-continue\r\n\r\n")
    };
    for authorization in [
        "",
        "Authorization: Bearer wrong\r\n",
        "Authorization: Basic eDp5\r\n",
    ] {
        for length in [
            "Content-Length: 2\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Content-Length: 60000000\r\n",
        ] {
            for path in ["/streams/a", "/streams/batch", "/streamers/a"] {
                // Wrong credentials are counted by client.
                let address = weir_testkit::new_client_address();
                let fields = format!("X-Real-IP: {address}\r\n{authorization}{length}");
                let mut client = server.connect();
                client.send(expecting(path, &fields).as_bytes());
                let answer = client.response(false).expect(401);
                assert!(answer.header("www-authenticate").is_some());
                assert!(client.is_ended());
            }
        }
    }
    // A body above the bound of its operation is refused before its first byte.
    let auth = auth();
    let over = |path: &str, bytes: u64| {
        let mut client = server.connect();
        client.send(expecting(path, &format!("{auth}Content-Length: {bytes}\r\n")).as_bytes());
        let answer = client.response(false);
        if answer.status != 100 {
            assert!(client.is_ended());
        }
        answer.status
    };
    let mib = 1024 * 1024;
    assert_eq!(over("/streams/a", mib), 100);
    assert_eq!(over("/streams/a", mib + 1), 413);
    assert_eq!(over("/streamers/a", mib + 1), 413);
    assert_eq!(over("/streams/batch", mib + 1), 100);
    assert_eq!(over("/streams/batch", 64 * mib + 1), 413);
    assert_eq!(over("/streams/a", 9_999_999_999_999_999_999), 413);
    // A valid one gets 100 Continue and is served.
    let mut client = server.connect();
    client.send(expecting("/streams/a", &format!("{auth}Content-Length: 2\r\n")).as_bytes());
    client.response(false).expect(100);
    client.send(b"{}");
    client.response(false).expect(200);
    // Also when it comes in chunks that become too many.
    let mut client = server.connect();
    client.send(
        format!("PUT {STREAMS}/a HTTP/1.1\r\nHost: a\r\n{auth}Transfer-Encoding: chunked\r\n\r\n")
            .as_bytes(),
    );
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(65_536));
    for _ in 0..17 {
        client.send(chunk.as_bytes());
    }
    client.response(false).expect(413);
}

#[test]
fn options_lists_the_methods_of_a_path() {
    let server = TestServer::new();
    server
        .put("/streams/a", json!({"title": "One"}))
        .expect(200);
    server
        .put(
            "/streamers/s1",
            json!({"role": "streamer", "cluster_key": "k", "api_url": "http://s1"}),
        )
        .expect(200);
    let all = ["GET", "PUT", "POST", "DELETE"];
    for (path, allow) in [
        ("/streams", "GET, HEAD, OPTIONS"),
        ("/streams/a", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("/streams/a/b", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("/streams/a/layouts", "GET, HEAD, OPTIONS"),
        ("/streams/batch", "PUT, OPTIONS"),
        ("/streams/layouts", "POST, OPTIONS"),
        ("/streamers", "GET, HEAD, OPTIONS"),
        ("/streamers/s1", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("/streamers/s1/streams", "GET, HEAD, OPTIONS"),
        ("/streamers/batch", "PUT, OPTIONS"),
        ("/monitoring/liveness", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
    ] {
        let options = server.call("OPTIONS", path, b"");
        assert!(
            matches!(options.status, 200 | 204),
            "{path}: {}",
            options.status
        );
        assert_eq!(options.header("allow"), Some(allow), "OPTIONS {path}");
        for method in all.iter().filter(|method| !allow.contains(**method)) {
            let answer = server.call(method, path, b"{}");
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
            assert_eq!(answer.errors(), ["method_not_allowed"]);
        }
    }
    // Nothing was touched by any of that.
    assert_eq!(server.get("/streams/a").expect(200).json()["title"], "One");
    for path in ["/nothing", "/streamers/a/b/c", "/streams/"] {
        assert_eq!(
            server.get(path).expect(404).errors(),
            ["not_found"],
            "{path}"
        );
    }
}

#[test]
fn head_is_get_without_the_body() {
    let server = TestServer::new();
    server
        .put("/streams/a", json!({"comment": "c".repeat(5000)}))
        .expect(200);
    server
        .put(
            "/streamers/s1",
            json!({"role": "streamer", "cluster_key": "k", "api_url": "http://s1"}),
        )
        .expect(200);
    // A list contains its own duration, so its length differs from request to request.
    let fields = |answer: &Response, timed: bool| -> Vec<(String, String)> {
        let owned = |(name, value): (&str, &str)| (name.to_ascii_lowercase(), value.to_owned());
        let mut fields: Vec<_> = answer.headers().map(owned).collect();
        fields.retain(|(name, _)| name != "date" && !(timed && name == "content-length"));
        fields
    };
    for path in [
        "/streams",
        "/streams/a",
        "/streams/none",
        "/streams/a/layouts",
        "/streamers/s1/streams",
        "/streamers/none/streams",
        "/openapi.json",
        "/streams?limit=x",
    ] {
        for accept in ["identity", "gzip", "zstd"] {
            let extra = [("Accept-Encoding", accept)];
            let get = server.call_with("GET", path, &extra, b"");
            let head = server.call_with("HEAD", path, &extra, b"");
            assert_eq!(head.status, get.status, "{path}");
            let timed = get.text().contains("\"timing\"") || accept != "identity";
            assert_eq!(fields(&head, timed), fields(&get, timed), "{path} {accept}");
            assert!(head.header("content-length").is_some(), "{path} {accept}");
            assert!(head.body.is_empty());
        }
    }
    let unauthorized = server.call_as("HEAD", "/streams", None);
    assert_eq!(unauthorized.status, 401);
}

#[test]
fn lists_are_compressed_if_the_client_accepts_it() {
    let server = TestServer::new();
    let batch: Vec<_> = (0..100)
        .map(|i| json!({"name": format!("s{i}"), "comment": "some words that repeat".repeat(5)}))
        .collect();
    server.put("/streams/batch", json!(batch)).expect(204);
    let plain = server.get("/streams?limit=100").expect(200);
    assert_eq!(plain.header("content-encoding"), None);
    for (accept, coding) in [
        ("gzip", Some("gzip")),
        ("zstd", Some("zstd")),
        ("gzip;q=0.5, zstd;q=0.9", Some("zstd")),
        ("gzip;q=0", None),
        ("identity", None),
        ("br", None),
    ] {
        let answer = server
            .call_with(
                "GET",
                "/streams?limit=100",
                &[("Accept-Encoding", accept)],
                b"",
            )
            .expect(200);
        assert_eq!(answer.header("content-encoding"), coding, "{accept}");
        assert_eq!(
            answer.json()["streams"],
            plain.json()["streams"],
            "{accept}"
        );
        if coding.is_some() {
            assert!(answer.body.len() * 3 < plain.body.len());
        }
        let vary = answer
            .header("vary")
            .unwrap_or_default()
            .to_ascii_lowercase();
        assert!(vary.contains("accept-encoding"), "{accept}: {vary}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    // Writes wait for the disk, reads do not: the order of answers is that of requests all the
    // same.
    let server = TestServer::with(&["--io-threads", "2"]);
    let mut client: Client = server.connect();
    let auth = auth();
    let mut requests = String::new();
    const COUNT: usize = 60;
    for i in 0..COUNT {
        let body = json!({"title": i.to_string()}).to_string();
        requests += &format!(
            "PUT {STREAMS}/p HTTP/1.1\r\nHost: a\r\n{auth}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        requests += &format!("GET {STREAMS}/p HTTP/1.1\r\nHost: a\r\n{auth}\r\n");
        requests += &format!("DELETE {STREAMS}/none-{i} HTTP/1.1\r\nHost: a\r\n{auth}\r\n");
    }
    client.send(requests.as_bytes());
    for i in 0..COUNT {
        assert_eq!(
            client.response(false).expect(200).json()["title"],
            i.to_string()
        );
        assert_eq!(
            client.response(false).expect(200).json()["title"],
            i.to_string()
        );
        client.response(false).expect(404);
    }
}

#[test]
fn responses_reveal_no_server_details() {
    let server = TestServer::new();
    for (method, path) in [
        ("GET", "/streams"),
        ("GET", "/streams/none"),
        ("PUT", "/streams/batch"),
        ("GET", "/streamers/s1/streams"),
        ("GET", "/openapi.json"),
    ] {
        let none = server.call_as(method, path, None).expect(401);
        let wrong = server
            .call_as(method, path, Some("Bearer wrong"))
            .expect(401);
        for answer in [&none, &wrong] {
            assert!(
                answer
                    .header("server")
                    .is_none_or(|name| !name.contains(|c: char| c.is_ascii_digit()))
            );
            assert_eq!(
                answer.header("x-content-type-options"),
                Some("nosniff"),
                "{path}"
            );
            assert!(!answer.text().contains("src/"));
        }
    }
    let unknown = server
        .call_as("GET", "/streams", Some("Basic eDp5"))
        .expect(401);
    let password = server
        .call_as("GET", "/streams", Some("Basic b3BlcmF0b3I6eA=="))
        .expect(401);
    assert_eq!(unknown.body, password.body);
}
