//! `POST /auth_backends/{name}/test`: decisions about assumed viewers.

use std::fs;

use serde_json::{Value, json};

use crate::mmdb;
use crate::restricted::token;
use crate::stub::{Stub, StubResponse};
use weir_testkit::{Response, TestServer, new_client_address};

const PATH: &str = "/auth_backends/viewers/test";

fn server() -> TestServer {
    TestServer::with(&["--outbound-loopback=true", "--auth-backend-timeout", "20s"])
}

fn save(server: &TestServer, rules: Value) {
    server.put("/auth_backends/viewers", json!({"$reset": true}));
    server.put("/auth_backends/viewers", rules).expect(200);
}

fn test(server: &TestServer, viewer: Value) -> Value {
    let answer = server.post(PATH, viewer).expect(200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.json()
}

#[test]
fn list_that_decides_is_named() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("countries.mmdb");
    fs::write(&file, mmdb::database(&[("10.77.0.0/16", "RS")])).expect("a file");
    let file = file.to_str().expect("a plain path");
    let server = TestServer::with(&["--outbound-loopback=true", "--geoip-database", file]);
    let stub = Stub::new(StubResponse::status(200));
    let backends = json!([{"url": stub.url("/auth")}]);
    let viewer = json!({"ip": "10.77.0.150", "token": "t", "user_agent": "VLC/3"});
    for (list, entry, decision) in [
        ("allow_tokens", "t", "allowed"),
        ("deny_tokens", "t", "denied"),
        ("allow_ips", "10.0.0.0/8", "allowed"),
        ("deny_ips", "10.77.0.150", "denied"),
        ("allow_countries", "RS", "allowed"),
        ("deny_countries", "RS", "denied"),
        ("allow_uas", "VLC", "allowed"),
        ("deny_uas", "VLC", "denied"),
    ] {
        save(&server, json!({"backends": backends, list: [entry]}));
        let expected = json!({"by": list, "country": "RS", "decision": decision});
        assert_eq!(test(&server, viewer.clone()), expected);
    }
    assert_eq!(stub.calls(), 0, "no backend is called");
    for (allow, decision) in [(true, "allowed"), (false, "denied")] {
        save(
            &server,
            json!({"allow_default": allow, "allow_ips": ["192.0.2.1"]}),
        );
        let expected = json!({"by": "allow_default", "decision": decision});
        assert_eq!(test(&server, json!({"ip": "::1"})), expected);
    }
}

#[test]
fn every_backend_is_called_and_its_reply_named() {
    let server = server();
    let [allows, denies, fails, closes] = [
        StubResponse::with(200, "X-UserId: u\r\n", r#"{"secret":"of the backend"}"#),
        StubResponse::status(403),
        StubResponse::status(500),
        StubResponse::Close,
    ]
    .map(Stub::new);
    let reply = |of: &Stub| match () {
        () if std::ptr::eq(of, &raw const allows) => json!({"reply": "allowed", "status": 200}),
        () if std::ptr::eq(of, &raw const denies) => json!({"reply": "denied", "status": 403}),
        () if std::ptr::eq(of, &raw const fails) => json!({"reply": "failed", "status": 500}),
        () => json!({"reply": "none"}),
    };
    for (stubs, allow_default, by, decision) in [
        (
            vec![&denies, &closes, &allows, &fails],
            false,
            "backends",
            "allowed",
        ),
        (vec![&fails, &denies, &closes], true, "backends", "denied"),
        (vec![&fails, &closes], true, "allow_default", "allowed"),
        (vec![&closes], false, "allow_default", "denied"),
    ] {
        let urls = stubs.iter().map(|stub| json!({"url": stub.url("/auth")}));
        let urls: Value = urls.collect();
        save(
            &server,
            json!({"backends": urls, "allow_default": allow_default}),
        );
        let replies: Value = stubs.iter().map(|stub| reply(stub)).collect();
        let expected = json!({"backends": replies, "by": by, "decision": decision});
        assert_eq!(test(&server, json!({"ip": "10.0.0.1"})), expected);
    }
    let first = allows.call();
    assert_eq!(first.path, "/auth");
    let sent = |name: &str| first.query.get(name).map(String::as_str);
    assert_eq!(sent("ip"), Some("10.0.0.1"));
    assert_eq!(sent("proto"), Some("hls"));
    assert_eq!(sent("request_type"), Some("new_session"));
    assert_eq!(
        sent("session_id"),
        Some("00000000-0000-0000-0000-000000000000")
    );
    assert_eq!((sent("name"), sent("token")), (Some(""), None));
    let viewer = json!({
        "ip": "10.0.0.1", "stream": "a/ä &b", "token": "t=&", "user_agent": "U", "proto": "dash",
    });
    save(&server, json!({"backends": [{"url": denies.url("/auth")}]}));
    denies.calls();
    test(&server, viewer);
    let call = denies.call();
    let sent = |name: &str| call.query.get(name).map(String::as_str);
    assert_eq!(sent("name"), Some("a/ä &b"));
    assert_eq!(sent("token"), Some("t=&"));
    assert_eq!(
        (sent("user_agent"), sent("proto")),
        (Some("U"), Some("dash"))
    );
}

#[test]
fn test_keeps_nothing() {
    let server = server();
    let stub = Stub::new(StubResponse::with(
        200,
        "X-UserId: u\r\nX-Max-Sessions: 1\r\n",
        "",
    ));
    save(&server, json!({"backends": [{"url": stub.url("/auth")}]}));
    let stream = json!({"on_play": {"url": "auth://viewers"}});
    server.put("/streams/hd", stream).expect(200);
    let session = "00000000-0000-0000-0000-000000000000";
    let question = format!(
        "/auth?name=hd&proto=hls&ip=10.0.0.1&request_type=new_session&request_number=0\
         &session_id={session}&stream_clients=0&total_clients=0"
    );
    // The decision about the same session is cached by `/auth`, and not by a test.
    let viewer = json!({"ip": "10.0.0.1", "stream": "hd"});
    for _ in 0..3 {
        assert_eq!(test(&server, viewer.clone())["decision"], "allowed");
        stub.call();
    }
    let other = question.replace(session, "6217fd62-16da-4206-9da9-0173d7552a14");
    server.get(&other).expect(200);
    stub.call();
    // One session per user: another test neither ends it nor takes its place.
    assert_eq!(test(&server, viewer.clone())["decision"], "allowed");
    stub.call();
    server.get(&other).expect(200);
    assert_eq!(stub.calls(), 0, "it is cached as before");
    // A test reads no cached decision either.
    server.get(&question).expect(200);
    stub.call();
    stub.respond_with(StubResponse::status(403));
    assert_eq!(test(&server, viewer)["decision"], "denied");
    let events = server
        .get("/events?operation_id=auth_backend_test")
        .expect(200);
    assert_eq!(events.json()["estimated_count"], 0, "{}", events.text());
}

#[test]
fn refused_tests_name_the_reason() {
    let server = server();
    let errors = |answer: Response, status: u16| answer.expect(status).errors();
    assert_eq!(
        errors(server.post(PATH, json!({"ip": "10.0.0.1"})), 404),
        ["auth_backend_not_found"]
    );
    save(&server, json!({}));
    for (body, error) in [
        (json!({}), "missing_required /ip"),
        (json!({"ip": null}), "missing_required /ip"),
        (json!({"ip": "10.0.0.256"}), "wrong_format /ip"),
        (json!({"ip": 1}), "not_string /ip"),
        (
            json!({"ip": "10.0.0.1", "token": "x".repeat(4097)}),
            "too_long /token",
        ),
        (json!([]), "not_object "),
    ] {
        assert_eq!(
            errors(server.post(PATH, body.clone()), 400),
            [error],
            "{body}"
        );
    }
    server.get(PATH).expect(405);
    let fields = [("Authorization", "Bearer nobody")];
    let stranger = server
        .connect()
        .request("POST", &below(PATH), &fields, b"{}");
    stranger.expect(401);
    // The right to see a backend is not the right to use it.
    let client = new_client_address();
    for (name, scope, action, status) in [
        ("reads", "auth_backends/*", "read", 403),
        ("others", "auth_backends/other", "execute", 403),
        ("uses", "auth_backends/viewers", "execute", 200),
    ] {
        let permission = json!({"permissions": [{"scopes": [scope], action: true}]});
        let key = token(&server, name, permission);
        let fields = [
            ("X-Real-IP", client.as_str()),
            ("Authorization", key.as_str()),
        ];
        let body = br#"{"ip":"10.0.0.1"}"#;
        let answer = server
            .connect()
            .request("POST", &below(PATH), &fields, body);
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
    }
}

fn below(path: &str) -> String {
    format!("{}{path}", weir_testkit::PREFIX)
}
