//! The form of answers: `HEAD`, content codings and types by quality, `Vary`, other origins.

use serde_json::json;
use weir_testkit::{API_KEY, PREFIX, Response, TestServer};

use crate::calls::{etag, lay_out, save_node};
use crate::described::Document;

fn with_streams() -> TestServer {
    let server = TestServer::new();
    save_node(&server, "s1");
    for n in 0..40 {
        let body = json!({"inputs": [{"url": format!("udp://239.0.0.1:{}", 1000 + n)}]});
        server.put(&format!("/streams/a{n}"), body).expect(200);
    }
    lay_out(&server, &[("a0", "s1"), ("a1", "s1")]);
    server
}

fn varies_by(answer: &Response, field: &str) -> bool {
    answer.headers().any(|(name, value)| {
        let mut listed = value.split(',').map(str::trim);
        name.eq_ignore_ascii_case("vary") && listed.any(|it| it.eq_ignore_ascii_case(field))
    })
}

#[test]
fn head_is_get_without_content_for_every_caller() {
    let server = with_streams();
    let cluster = crate::stats::signed("key");
    let admin = format!("Bearer {API_KEY}");
    let callers = [
        None,
        Some(admin.as_str()),
        Some(&cluster),
        Some("Bearer wrong"),
    ];
    let mut paths = vec!["/lb/b/a0/index.m3u8".to_owned(), "/none".to_owned()];
    for operation in Document::new().operations() {
        if operation.method == "GET" && !operation.template.starts_with("/lb/") {
            let name = |name: &str, number: bool| match (name, number) {
                ("hostname", _) => "s1".to_owned(),
                (_, true) => "7".to_owned(),
                _ => "a0".to_owned(),
            };
            paths.push(operation.path(name));
        }
    }
    assert!(paths.len() > 25);
    for path in &paths {
        for caller in callers {
            let get = server.call_as("GET", path, caller);
            let head = server.call_as("HEAD", path, caller);
            let shown = format!("{path} {}", caller.unwrap_or("without credentials"));
            assert_eq!(head.status, get.status, "{shown}");
            assert!(head.body.is_empty(), "{shown}: {}", head.text());
            let media = |answer: &Response| answer.header("content-type").map(str::to_owned);
            assert_eq!(media(&head), media(&get), "{shown}");
            if path == "/cluster/summary" {
                // Each request to a small cluster gets a count of its own.
                assert_eq!(head.etag().is_some(), get.etag().is_some(), "{shown}");
            } else {
                assert_eq!(head.etag(), get.etag(), "{shown}");
            }
        }
    }
}

#[test]
fn refusals_of_head_have_no_content() {
    let server = TestServer::new();
    for (request, status) in [
        (format!("HEAD {PREFIX}/streams HTTP/1.1\r\n\r\n"), 400),
        (format!("\r\nHEAD {PREFIX}/streams HTTP/1.1\r\n\r\n"), 400),
        (
            format!("HEAD {PREFIX}/streams HTTP/1.1\r\nHost: a\r\n b: c\r\n\r\n"),
            400,
        ),
        (
            format!("HEAD /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(40_000)),
            414,
        ),
        (
            format!(
                "HEAD / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
                "x".repeat(70_000)
            ),
            431,
        ),
        (
            format!(
                "HEAD {PREFIX}/monitoring/liveness HTTP/1.1\r\nHost: a\r\n\
                 Content-Length: 99999999\r\n\r\n"
            ),
            413,
        ),
    ] {
        let mut client = server.connect();
        client.send(request.as_bytes());
        let answer = client.response(true);
        let shown = &request[..request.len().min(80)];
        assert_eq!(answer.status, status, "{shown}");
        assert!(client.is_ended(), "{shown}: content follows the head");
    }
}

#[test]
fn answers_name_the_fields_that_they_depend_on() {
    let server = with_streams();
    for path in [
        "/streamers/s1/streams",
        "/openapi.json",
        "/streams",
        "/streamers/s1/episodes?media=a0",
    ] {
        for accept in ["identity", "gzip", "zstd"] {
            let fields = [("Accept-Encoding", accept)];
            let answer = server.call_with("GET", path, &fields, b"").expect(200);
            // A short answer is the same for every client.
            let is_large = answer.body.len() >= 1024;
            let is_coded = answer.header("content-encoding").is_some();
            if is_large || is_coded || path == "/streamers/s1/streams" {
                assert!(varies_by(&answer, "Accept-Encoding"), "{path} {accept}");
            }
            if answer.etag().is_some() {
                let tag = etag(&answer);
                let fields = [("Accept-Encoding", accept), ("If-None-Match", &tag)];
                let answer = server.call_with("GET", path, &fields, b"").expect(304);
                assert!(
                    varies_by(&answer, "Accept-Encoding"),
                    "304 of {path} {accept}"
                );
            }
        }
    }
    for path in ["/config", "/cluster/stats"] {
        let answer = server.get(path).expect(200);
        assert!(varies_by(&answer, "Accept"), "{path}");
    }
}

#[test]
fn media_type_with_the_highest_quality_is_sent() {
    let server = TestServer::new();
    const METRICS: &str = "application/openmetrics-text";
    for (accept, is_metrics) in [
        ("application/openmetrics-text", true),
        (
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.5,*/*;q=0.1",
            true,
        ),
        ("application/json;q=0.5, application/openmetrics-text", true),
        (
            "application/openmetrics-text;q=0.5, application/json",
            false,
        ),
        ("application/openmetrics-text;q=0", false),
        ("application/openmetrics-text;q=0.9, */*", false),
        ("*/*", false),
    ] {
        for path in ["/config", "/cluster/stats"] {
            let answer = server
                .call_with("GET", path, &[("Accept", accept)], b"")
                .expect(200);
            let media = answer.header("content-type").expect("a type");
            assert_eq!(
                media.starts_with(METRICS),
                is_metrics,
                "{path} {accept}: {media}"
            );
        }
    }
    let fields = [("Accept", "application/json;q=0.1"), ("Accept", METRICS)];
    let answer = server.call_with("GET", "/config", &fields, b"").expect(200);
    assert!(
        answer
            .header("content-type")
            .is_some_and(|it| it.starts_with(METRICS)),
        "two lines"
    );
}

fn preflight(server: &TestServer, path: &str, origin: &str) -> Response {
    let fields = [
        ("Origin", origin),
        ("Access-Control-Request-Method", "GET"),
        ("Access-Control-Request-Headers", "x-trace-id,x-originator"),
    ];
    server.call_with("OPTIONS", path, &fields, b"")
}

#[test]
fn web_pages_may_follow_public_redirects() {
    let path = "/lb/none/a/index.m3u8";
    let origin = "https://player.example";
    for arguments in [
        &[][..],
        &["--cors-origins", "*"],
        &["--cors-origins", "https://ui.example"],
        &["--cors-origins", origin],
    ] {
        let server = TestServer::with(arguments);
        for method in ["GET", "HEAD"] {
            let answer = server
                .call_with(method, path, &[("Origin", origin)], b"")
                .expect(404);
            let allowed: Vec<&str> = answer
                .headers()
                .filter(|(name, _)| name.eq_ignore_ascii_case("access-control-allow-origin"))
                .map(|(_, value)| value)
                .collect();
            assert!(
                matches!(allowed[..], ["*" | "https://player.example"]),
                "{allowed:?}"
            );
        }
        let answer = preflight(&server, path, origin).expect(204);
        assert!(answer.header("access-control-allow-origin").is_some());
        assert!(answer.header("access-control-allow-methods").is_some());
        let other = server.call_with("GET", "/streams", &[("Origin", "https://x")], b"");
        let allowed = other.header("access-control-allow-origin");
        assert_eq!(allowed.is_some(), arguments.contains(&"*"));
    }
}

#[test]
fn preflights_allow_the_fields_of_our_clients() {
    let server = TestServer::with(&["--cors-origins", "https://ui.example"]);
    let answer = preflight(&server, "/streams", "https://ui.example").expect(204);
    let allowed = answer
        .header("access-control-allow-headers")
        .expect("allowed");
    for field in [
        "X-Trace-Id",
        "X-Originator",
        "traceparent",
        "tracestate",
        "Authorization",
        "If-Match",
        "Prefer",
    ] {
        assert!(allowed.contains(field), "{field} in {allowed}");
    }
}

#[test]
fn kept_connections_have_an_idle_timeout_that_is_sent() {
    for (arguments, seconds) in [(&[][..], 75), (&["--connection-idle-timeout", "1s"], 1)] {
        let server = TestServer::with(arguments);
        let mut client = server.connect();
        client.send(crate::calls::get_request("/streams", "").as_bytes());
        let kept = client.response(false).expect(200);
        let timeout = format!("timeout={seconds}");
        assert_eq!(kept.header("keep-alive"), Some(timeout.as_str()));
        assert_eq!(kept.header("connection"), Some("keep-alive"));
        if seconds == 1 {
            assert!(client.is_ended(), "idle connections are closed");
        }
        let mut client = server.connect();
        client.send(crate::calls::get_request("/streams", "Connection: close\r\n").as_bytes());
        let last = client.response(false).expect(200);
        assert_eq!(last.header("connection"), Some("close"));
        assert_eq!(last.header("keep-alive"), None);
    }
}
