//! `/auth` against real HTTP backends on this machine.

use std::fs;

use serde_json::{Value, json};

use crate::mmdb;
use crate::stats::signed;
use crate::stub::{Stub, StubResponse};
use weir_testkit::{Response, TestServer};

const SESSION: &str = "6217fd62-16da-4206-9da9-0173d7552a14";
const OTHER: &str = "00000000-16da-4206-9da9-0173d7552a14";
const THIRD: &str = "11111111-16da-4206-9da9-0173d7552a14";

fn server() -> TestServer {
    TestServer::with(&["--outbound-loopback=true", "--auth-backend-timeout", "20s"])
}

fn question(kind: &str, session: &str, more: &str) -> String {
    format!(
        "/auth?name=sports%2Fhd1&proto=hls&ip=10.77.0.150&request_type={kind}&request_number=0&session_id={session}&stream_clients=1&total_clients=2{more}"
    )
}

fn authorize(server: &TestServer, session: &str, more: &str) -> Response {
    server.get(&question("new_session", session, more))
}

fn authorize_again(server: &TestServer, session: &str) -> Response {
    server.get(&question("update_session", session, ""))
}

/// Saves a backend and a stream that uses it.
fn protect(server: &TestServer, backend: Value) {
    server.put("/auth_backends/viewers", backend).expect(200);
    let stream = json!({"on_play": {"url": "auth://viewers"}});
    server.put("/streams/sports/hd1", stream).expect(200);
}

fn by(stub: &Stub) -> Value {
    json!({"backends": [{"url": stub.url("/auth")}]})
}

#[test]
fn streams_name_their_auth_backend() {
    let server = server();
    let denied = |answer: Response, code: &str| {
        assert_eq!(answer.expect(403).errors(), [code]);
    };
    denied(authorize(&server, SESSION, ""), "stream_not_found");
    for open in [
        json!({}),
        json!({"on_play": {}}),
        json!({"on_play": {"url": "true"}}),
        json!({"on_play": null}),
    ] {
        server.put("/streams/sports/hd1", open).expect(200);
        let answer = authorize(&server, SESSION, "").expect(200);
        assert_eq!(answer.json(), json!({}));
        assert_eq!(answer.header("x-authduration"), Some("180"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    let missing = json!({"on_play": {"url": "auth://nobody"}});
    server.put("/streams/sports/hd1", missing).expect(200);
    denied(authorize(&server, SESSION, ""), "auth_backend_not_found");
    let stub = Stub::new(StubResponse::status(200));
    let direct = json!({"on_play": {"url": stub.url("/direct?x=1")}});
    server.put("/streams/sports/hd1", direct).expect(200);
    authorize(&server, SESSION, "").expect(200);
    let call = stub.call();
    assert_eq!(call.path, "/direct");
    assert_eq!(
        (call.query["x"].as_str(), call.query["name"].as_str()),
        ("1", "sports/hd1")
    );
}

#[test]
fn allow_and_deny_lists_decide_before_backends() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("countries.mmdb");
    let database = mmdb::database(&[("10.77.0.0/16", "RS"), ("10.78.0.0/16", "DE")]);
    fs::write(&file, database).expect("a file");
    let file = file.to_str().expect("a plain path");
    let server = TestServer::with(&["--outbound-loopback=true", "--geoip-database", file]);
    let stub = Stub::new(StubResponse::status(200));
    for (rules, more, status) in [
        (
            json!({"allow_tokens": ["t"], "deny_ips": ["10.0.0.0/8"]}),
            "&token=t",
            200,
        ),
        (
            json!({"deny_tokens": ["t"], "allow_ips": ["10.0.0.0/8"]}),
            "&token=t",
            403,
        ),
        (
            json!({"allow_ips": ["10.77.0.150"], "deny_countries": ["RS"]}),
            "",
            200,
        ),
        (
            json!({"deny_ips": ["10.77.0.0/24"], "allow_countries": ["RS"]}),
            "",
            403,
        ),
        (
            json!({"allow_countries": ["RS"], "deny_uas": ["VLC"]}),
            "&user_agent=VLC%2F3",
            200,
        ),
        (
            json!({"deny_countries": ["RS"], "allow_uas": ["VLC"]}),
            "&user_agent=VLC%2F3",
            403,
        ),
        (
            json!({"deny_countries": ["DE"], "allow_uas": ["VLC"]}),
            "&user_agent=VLC%2F3",
            200,
        ),
        (json!({"deny_uas": ["VLC"]}), "&user_agent=My%20VLC", 403),
    ] {
        server
            .put("/auth_backends/viewers", json!({"$reset": true}))
            .expect(200);
        let mut rules = rules;
        rules["backends"] = json!([{"url": stub.url("/auth")}]);
        protect(&server, rules.clone());
        assert_eq!(
            authorize(&server, SESSION, more).status,
            status,
            "{rules} {more}"
        );
    }
    assert_eq!(stub.calls(), 0);
    // On no list, and without a backend.
    for (allow, status) in [(false, 403), (true, 200)] {
        let rules = json!({"$reset": true, "deny_ips": ["10.99.0.0/16"], "allow_default": allow});
        protect(&server, rules);
        assert_eq!(authorize(&server, SESSION, "").status, status);
    }
}

#[test]
fn country_rules_match_nothing_without_a_database() {
    let server = server();
    protect(
        &server,
        json!({"allow_countries": ["RS"], "allow_default": false}),
    );
    authorize(&server, SESSION, "").expect(403);
    protect(
        &server,
        json!({"allow_countries": null, "deny_countries": ["RS"], "allow_default": true}),
    );
    authorize(&server, SESSION, "").expect(200);
}

#[test]
fn invalid_country_database_is_reported_at_start() {
    let folder = tempfile::tempdir().expect("a directory");
    let data = folder.path().join("data");
    let data = data.to_str().expect("a plain path");
    let arguments = [
        "--data-dir",
        data,
        "--listen",
        "127.0.0.1:0",
        "--geoip-database",
        "/nonexistent.mmdb",
    ];
    let output = weir_testkit::run(&arguments, &[], folder.path());
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("geoip_database"), "{stderr}");
}

#[test]
fn backend_gets_every_parameter_and_its_answer_is_relayed() {
    let server = server();
    let fields = "X-AuthDuration: 60\r\nX-UserId: user 7\r\nX-Max-Sessions: 3\r\nX-Other: no\r\n";
    let body = r#"{"allowed_dvr_ranges":[{"opened_at":1710010000}],"ad_inject":{"v":2,"preroll":["a.mp4"]},"other":1}"#;
    let stub = Stub::new(StubResponse::with(200, fields, body));
    protect(&server, by(&stub));
    let path = question(
        "new_session",
        SESSION,
        "&token=t%2B1&user_agent=VLC%203&dvr=true&mine=1",
    );
    let answer = server
        .call_with("GET", &path, &[("X-Trace-Id", "trace-1")], b"")
        .expect(200);
    assert_eq!(
        answer.json(),
        json!({
            "allowed_dvr_ranges": [{"opened_at": 1_710_010_000}],
            "ad_inject": {"v": 2, "preroll": ["a.mp4"]},
        })
    );
    assert_eq!(answer.header("x-authduration"), Some("60"));
    assert_eq!(answer.header("x-userid"), Some("user 7"));
    assert_eq!(answer.header("x-max-sessions"), Some("3"));
    assert_eq!(answer.header("x-other"), None);
    let call = stub.call();
    assert_eq!(call.path, "/auth");
    let expected = [
        ("dvr", "true"),
        ("ip", "10.77.0.150"),
        ("name", "sports/hd1"),
        ("proto", "hls"),
        ("request_number", "0"),
        ("request_type", "new_session"),
        ("session_id", SESSION),
        ("stream_clients", "1"),
        ("token", "t+1"),
        ("total_clients", "2"),
        ("user_agent", "VLC 3"),
    ];
    let parameters: Vec<(&str, &str)> = call
        .query
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(parameters, expected);
    assert_eq!(call.headers["x-trace-id"], "trace-1");
    assert!(!call.headers.contains_key("authorization"));
}

#[test]
fn verdict_is_cached_until_the_rules_change() {
    let server = server();
    let stub = Stub::new(StubResponse::with(200, "X-AuthDuration: 1000\r\n", ""));
    protect(&server, by(&stub));
    authorize(&server, SESSION, "").expect(200);
    stub.respond_with(StubResponse::status(403));
    let again = authorize_again(&server, SESSION).expect(200);
    let left: u32 = again
        .header("x-authduration")
        .and_then(|text| text.parse().ok())
        .expect("a number");
    assert!((1..=1000).contains(&left));
    assert_eq!(stub.calls(), 1);
    // A session that differs in any parameter is another one; a denial is cached as well.
    for more in ["&token=x", "&token=x"] {
        authorize(&server, SESSION, more).expect(403);
    }
    authorize(&server, OTHER, "").expect(403);
    assert_eq!(stub.calls(), 2);
    stub.respond_with(StubResponse::status(200));
    authorize(&server, OTHER, "").expect(403);
    assert_eq!(stub.calls(), 0);
    // A change of the rules invalidates earlier decisions.
    protect(&server, json!({"deny_uas": ["x"]}));
    authorize(&server, OTHER, "").expect(200);
    stub.respond_with(StubResponse::status(403));
    protect(&server, json!({"deny_uas": null}));
    authorize_again(&server, SESSION).expect(403);
    assert_eq!(stub.calls(), 2);
    // Lists override cached decisions.
    protect(&server, json!({"allow_ips": ["10.77.0.150"]}));
    authorize_again(&server, SESSION).expect(200);
    assert_eq!(stub.calls(), 0);
}

#[test]
fn verdict_with_zero_duration_is_not_cached() {
    let server = server();
    let stub = Stub::new(StubResponse::with(200, "X-AuthDuration: 0\r\n", ""));
    protect(&server, by(&stub));
    for _ in 0..3 {
        let answer = authorize_again(&server, SESSION).expect(200);
        assert_eq!(answer.header("x-authduration"), Some("0"));
    }
    assert_eq!(stub.calls(), 3);
}

#[test]
fn redirect_is_relayed_and_not_followed() {
    let server = server();
    let elsewhere = Stub::new(StubResponse::status(200));
    let location = elsewhere.url("/other/index.m3u8");
    let fields = format!("Location: {location}\r\n");
    let stub = Stub::new(StubResponse::with(302, &fields, ""));
    protect(&server, by(&stub));
    for _ in 0..2 {
        let answer = authorize(&server, SESSION, "").expect(302);
        assert_eq!(answer.header("location"), Some(location.as_str()));
        assert_eq!(answer.body, b"");
    }
    assert_eq!((stub.calls(), elsewhere.calls()), (1, 0));
}

#[test]
fn one_allowing_backend_is_enough() {
    let server = server();
    let (silent, denies, allows) = (
        Stub::new(StubResponse::Silence),
        Stub::new(StubResponse::status(403)),
        Stub::new(StubResponse::status(200)),
    );
    let all = json!({
        "backends": [
            {"url": silent.url("/1")}, {"url": denies.url("/2")}, {"url": allows.url("/3")},
        ],
    });
    protect(&server, all);
    // The response does not wait for the silent one: its timeout is longer than any test.
    authorize(&server, SESSION, "").expect(200);
    for (stub, path) in [(&silent, "/1"), (&denies, "/2"), (&allows, "/3")] {
        assert_eq!(stub.call().path, path);
    }
    // A backend that denies counts more than one that fails.
    allows.respond_with(StubResponse::status(500));
    silent.respond_with(StubResponse::Close);
    authorize(&server, OTHER, "").expect(403);
}

#[test]
fn default_applies_to_new_sessions_if_all_backends_fail() {
    let server = server();
    for response in [
        StubResponse::status(500),
        StubResponse::Close,
        StubResponse::with(200, "", r#"{"allowed_dvr_ranges":"all"}"#),
        StubResponse::with(200, "", &"x".repeat(70_000)),
        StubResponse::with(302, "", ""),
    ] {
        let stub = Stub::new(response);
        let mut rules = by(&stub);
        rules["allow_default"] = json!(false);
        protect(&server, rules.clone());
        authorize(&server, SESSION, "").expect(403);
        authorize_again(&server, SESSION).expect(403);
        rules["allow_default"] = json!(true);
        protect(&server, rules);
        authorize_again(&server, OTHER).expect(403);
        authorize(&server, SESSION, "").expect(200);
        // Allowed by default, its decision is cached.
        authorize_again(&server, SESSION).expect(200);
    }
}

#[test]
fn refusal_by_a_backend_is_no_failure() {
    // Goal: a 4xx refuses a viewer whatever the default is, and ends a running session.
    let server = server();
    let stub = Stub::new(StubResponse::status(200));
    let mut rules = by(&stub);
    rules["allow_default"] = json!(true);
    protect(&server, rules);
    for (n, status) in [400, 401, 402, 404, 410, 429, 451].into_iter().enumerate() {
        let session = format!("{n:08}-16da-4206-9da9-0173d7552a14");
        let short = "X-AuthDuration: 0\r\n";
        stub.respond_with(StubResponse::with(200, short, ""));
        authorize(&server, &session, "").expect(200);
        stub.respond_with(StubResponse::status(status));
        authorize_again(&server, &session).expect(403);
        let unknown = format!("{n:08}-26da-4206-9da9-0173d7552a14");
        authorize(&server, &unknown, "").expect(403);
    }
    // A failure is no refusal.
    stub.respond_with(StubResponse::status(500));
    authorize(&server, SESSION, "").expect(200);
}

#[test]
fn backend_slower_than_the_timeout_counts_as_failed() {
    let server = TestServer::with(&[
        "--outbound-loopback=true",
        "--auth-backend-timeout",
        "200ms",
    ]);
    let stub = Stub::new(StubResponse::Silence);
    protect(&server, by(&stub));
    authorize(&server, SESSION, "").expect(403);
    stub.call();
    let mut rules = by(&stub);
    rules["allow_default"] = json!(true);
    protect(&server, rules);
    authorize(&server, OTHER, "").expect(200);
}

#[test]
fn oldest_session_over_the_user_limit_is_refused() {
    let server = server();
    let fields = "X-UserId: u1\r\nX-Max-Sessions: 2\r\nX-AuthDuration: 1000\r\n";
    let stub = Stub::new(StubResponse::with(200, fields, ""));
    protect(&server, by(&stub));
    authorize(&server, SESSION, "").expect(200);
    authorize(&server, OTHER, "").expect(200);
    authorize(&server, THIRD, "").expect(200);
    let interrupted = authorize_again(&server, SESSION).expect(403);
    assert_eq!(interrupted.errors(), ["too_many_sessions"]);
    authorize_again(&server, OTHER).expect(200);
    authorize_again(&server, THIRD).expect(200);
    assert_eq!(stub.calls(), 3, "all the rest was remembered");
}

#[test]
fn loopback_backend_is_called_only_if_allowed() {
    let stub = Stub::new(StubResponse::status(200));
    let strict = TestServer::new();
    protect(&strict, by(&stub));
    authorize(&strict, SESSION, "").expect(403);
    let denying = TestServer::with(&["--outbound-loopback=true", "--outbound-deny", "127.0.0.0/8"]);
    protect(&denying, by(&stub));
    authorize(&denying, SESSION, "").expect(403);
    assert_eq!(stub.calls(), 0);
    // The server does not call itself, or one request would become many.
    let own = server();
    let url = format!(
        "http://{}/central/api/v3/monitoring/liveness",
        own.address()
    );
    protect(&own, json!({"backends": [{"url": url}]}));
    authorize(&own, SESSION, "").expect(403);
}

#[test]
fn invalid_auth_requests_name_the_parameter() {
    let server = server();
    protect(&server, json!({"allow_default": true}));
    let good = question("new_session", SESSION, "");
    for (from, to, error) in [
        ("name=sports%2Fhd1&", "", "missing_required name"),
        ("&ip=10.77.0.150", "", "missing_required ip"),
        ("ip=10.77.0.150", "ip=10.77.0", "wrong_format ip"),
        (
            "new_session",
            "first_session",
            "unknown_enum_option request_type",
        ),
        (
            "request_number=0",
            "request_number=-1",
            "not_integer request_number",
        ),
        (SESSION, "1234", "wrong_format session_id"),
        (
            "stream_clients=1",
            "stream_clients=many",
            "not_integer stream_clients",
        ),
        (
            "total_clients=2",
            "total_clients=2&dvr=perhaps",
            "not_boolean dvr",
        ),
        ("proto=hls", "proto=%ff", "wrong_format proto"),
    ] {
        let answer = server.get(&good.replace(from, to)).expect(400);
        assert_eq!(answer.errors(), [error]);
    }
    server.get(&good).expect(200);
}

#[test]
fn disconnected_viewer_ends_its_auth_request() {
    // Goal: an abandoned request leaves nothing behind and the next one is answered. Method: query
    // a silent backend, close the connection, then let the backend answer another client on a
    // server with few threads.
    let server = TestServer::with(&["--outbound-loopback=true", "--outbound-threads", "2"]);
    let silent = Stub::new(StubResponse::Silence);
    protect(&server, by(&silent));
    for n in 0..8 {
        let mut client = server.connect();
        let path = question("new_session", SESSION, &format!("&token={n}"));
        client.send_request(
            "GET",
            &format!("{}{path}", weir_testkit::PREFIX),
            &[(
                "Authorization",
                &format!("Bearer {}", weir_testkit::API_KEY),
            )],
            b"",
        );
    }
    silent.call();
    let quick = Stub::new(StubResponse::status(200));
    protect(&server, by(&quick));
    authorize(&server, OTHER, "").expect(200);
}

/// A question about `sports/hd1` that a streamer sends with these credentials.
fn request_as(
    server: &TestServer,
    host: &str,
    authorization: Option<&str>,
    more: &str,
) -> Response {
    let question = question("new_session", SESSION, more);
    let path = format!("{}/streamers/{host}{question}", weir_testkit::PREFIX);
    let fields = authorization.map(|value| ("Authorization", value));
    let fields: Vec<_> = fields.into_iter().collect();
    server.connect().request("GET", &path, &fields, b"")
}

/// The stream of [`question`] with a list of tokens, captured by `s1`, and streamers without it.
fn guarded() -> TestServer {
    let server = server();
    for host in ["s1", "s2", "i1"] {
        let role = if host == "i1" {
            "inference"
        } else {
            "streamer"
        };
        let node = json!({"role": role, "cluster_key": format!("key-{host}")});
        server.put(&format!("/streamers/{host}"), node).expect(200);
    }
    protect(
        &server,
        json!({"allow_tokens": ["right"], "allow_default": false}),
    );
    let layout = json!({"layout": {"ingest": "s1"}});
    server.put("/streams/sports/hd1", layout).expect(200);
    server
}

#[test]
fn streamers_authorize_sessions_with_their_cluster_key() {
    let server = guarded();
    let own = signed("key-s1");
    let refused = |answer: Response, status: u16, code: &str| {
        assert_eq!(answer.expect(status).errors(), [code]);
    };
    let allowed = request_as(&server, "s1", Some(&own), "&token=right").expect(200);
    assert_eq!(allowed.header("x-authduration"), Some("180"));
    assert_eq!(allowed.header("cache-control"), Some("no-store"));
    let wrong = request_as(&server, "s1", Some(&own), "&token=wrong");
    refused(wrong, 403, "session_denied");
    // The same as for an administrator, and the parameters are checked.
    let bearer = format!("Bearer {}", weir_testkit::API_KEY);
    request_as(&server, "s1", Some(&bearer), "&token=right").expect(200);
    let missing = server
        .get("/streamers/s1/auth?name=sports%2Fhd1")
        .expect(400);
    assert!(
        missing
            .errors()
            .contains(&"missing_required proto".to_owned())
    );
    // Of a streamer in the path only, and by its key only.
    let other = signed("key-s2");
    refused(
        request_as(&server, "s1", Some(&other), "&token=right"),
        403,
        "wrong_cluster_key",
    );
    refused(request_as(&server, "s1", None, ""), 401, "unauthorized");
    let unknown = request_as(&server, "nowhere", Some(&bearer), "");
    refused(unknown, 404, "streamer_not_found");
    // `/auth` itself is not for cluster keys.
    let path = format!(
        "{}{}",
        weir_testkit::PREFIX,
        question("new_session", SESSION, "")
    );
    let fields = [("Authorization", own.as_str())];
    let answer = server.connect().request("GET", &path, &fields, b"");
    refused(answer, 403, "forbidden");
}

#[test]
fn streamer_learns_nothing_about_streams_of_others() {
    let server = guarded();
    let other = signed("key-s2");
    let code = |host: &str| {
        let own = signed(&format!("key-{host}"));
        let answer = request_as(&server, host, Some(&own), "&token=right");
        if answer.status == 200 {
            "allowed".to_owned()
        } else {
            answer.expect(403).errors().join(" ")
        }
    };
    assert_eq!(code("s2"), "stream_not_found");
    // Exactly the answer about a stream that does not exist.
    let text = |answer: Response| {
        let errors = answer.expect(403).json()["errors"].take();
        errors[0]["title"].clone()
    };
    let existing = text(request_as(&server, "s2", Some(&other), "&token=right"));
    let question = question("new_session", SESSION, "").replace("hd1", "hd2");
    let path = format!("{}/streamers/s2{question}", weir_testkit::PREFIX);
    let fields = [("Authorization", other.as_str())];
    let absent = server.connect().request("GET", &path, &fields, b"");
    assert_eq!(existing, text(absent));
    // A restreamer may have it, and an inference node that holds it.
    server
        .put("/streamers/s2", json!({"is_restreamer": true}))
        .expect(200);
    assert_eq!(code("s2"), "allowed");
    assert_eq!(code("i1"), "stream_not_found");
    let layout = json!({"layout": {"ingest": "s1", "inference": "i1"}, "vision": {}});
    server.put("/streams/sports/hd1", layout).expect(200);
    assert_eq!(code("i1"), "allowed");
    // Not without a source, nor across namespaces.
    server
        .put("/streams/sports/hd1", json!({"disabled": true}))
        .expect(200);
    assert_eq!(
        (code("s2"), code("s1")),
        ("stream_not_found".into(), "allowed".into())
    );
    server
        .put(
            "/streams/sports/hd1",
            json!({"disabled": false, "layout": null}),
        )
        .expect(200);
    assert_eq!(code("s2"), "stream_not_found");
    assert_eq!(code("s1"), "stream_not_found", "it was taken away");
}

#[test]
fn streamers_share_the_decisions_of_http_backends() {
    let stub = Stub::new(StubResponse::status(200));
    let server = guarded();
    server.put("/auth_backends/viewers", by(&stub)).expect(200);
    server
        .put("/auth_backends/viewers", json!({"allow_tokens": null}))
        .expect(200);
    let own = signed("key-s1");
    request_as(&server, "s1", Some(&own), "&token=t").expect(200);
    authorize(&server, SESSION, "&token=t").expect(200);
    assert_eq!(stub.calls(), 1, "one session, one question");
}
