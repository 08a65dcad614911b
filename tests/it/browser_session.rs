//! Sessions of browsers: the rules of the cookie, what a session permits, and how it ends.

use serde_json::{Value, json};
use weir_testkit::{API_KEY, EDIT_AUTH, PREFIX, Response, TestServer, new_client_address};

use crate::calls::{body_text, names, park_request};

const PAGE: (&str, &str) = ("X-Weir-UI", "1");

/// Sends a request of the page, with more fields.
fn send(
    server: &TestServer,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &Value,
) -> Response {
    let fields = [&[PAGE], fields].concat();
    let body = body_text(body);
    let path = format!("{PREFIX}{path}");
    server
        .connect()
        .request(method, &path, &fields, body.as_bytes())
}

/// `weir_session=VALUE` of a new session.
fn log_in(server: &TestServer, credential: &Value) -> String {
    let answer = send(server, "POST", "/session", &[], credential).expect(200);
    let cookie = answer.header("set-cookie").expect("a cookie");
    cookie.split(';').next().expect("a pair").to_owned()
}

fn get(server: &TestServer, path: &str, cookie: &str) -> Response {
    send(server, "GET", path, &[("Cookie", cookie)], &Value::Null)
}

fn put(server: &TestServer, path: &str, cookie: &str, body: &Value) -> Response {
    send(server, "PUT", path, &[("Cookie", cookie)], body)
}

/// The key of a new token with these permissions.
fn token(server: &TestServer, name: &str, permissions: &Value) -> String {
    let body = json!({"permissions": permissions});
    let saved = server.put(&format!("/api_tokens/{name}"), body).expect(200);
    saved.json()["key"].as_str().expect("a key").to_owned()
}

fn is_without_challenge(response: &Response) -> bool {
    response.status == 401 && response.header("www-authenticate").is_none()
}

#[test]
fn session_stands_for_the_key_and_for_the_login() {
    let server = TestServer::new();
    let (login, password) = EDIT_AUTH.split_once(':').expect("a pair");
    for (credential, user) in [
        (json!({"key": API_KEY}), "api_key"),
        (json!({"login": login, "password": password}), "edit_auth"),
    ] {
        let answer = send(&server, "POST", "/session", &[], &credential).expect(200);
        let set = answer.header("set-cookie").expect("a cookie");
        let (pair, attributes) = set.split_once("; ").expect("attributes");
        assert_eq!(
            attributes,
            "HttpOnly; SameSite=Strict; Path=/; Max-Age=43200"
        );
        assert_eq!(pair.len(), "weir_session=".len() + 43, "256 random bits");
        let opened = answer.json();
        let all = json!({"read": true, "write": true, "execute": true, "admin": true});
        assert_eq!(opened["user"], user);
        assert_eq!(opened["may"], all);
        assert_eq!(opened["scopes"], json!(["*"]));
        assert!(
            opened["expires_at"]
                .as_u64()
                .is_some_and(|at| at > 1_000_000_000_000)
        );
        assert_eq!(opened["features"], json!([]));
        assert_eq!(get(&server, "/session", pair).expect(200).json(), opened);
        put(&server, "/streams/a", pair, &json!({"title": user})).expect(200);
        let events = get(&server, "/events?event=api_call&limit=1", pair).expect(200);
        assert_eq!(events.json()["events"][0]["user"], user);
    }
    let body = json!({"key": API_KEY});
    let tls = [("X-Forwarded-Proto", "https")];
    let answer = send(&server, "POST", "/session", &tls, &body).expect(200);
    assert!(
        answer
            .header("set-cookie")
            .expect("a cookie")
            .ends_with("; Secure")
    );
}

#[test]
fn session_of_other_credentials_is_described_as_well() {
    let server = TestServer::with(&["--layouter-enabled"]);
    let permissions = json!([{"scopes": ["streams/a%2F*"], "list": true, "read": true}]);
    let key = token(&server, "anna", &permissions);
    let answer = server.call_as("GET", "/session", Some(&format!("Bearer {key}")));
    let body = answer.expect(200).json();
    assert_eq!(body["user"], "api_token:anna");
    assert_eq!(body["expires_at"], Value::Null);
    assert_eq!(body["features"], json!(["layouter"]));
    assert_eq!(body["scopes"], json!(["streams/a%2F*"]));
    let may = json!({"read": true, "write": false, "execute": false, "admin": false});
    assert_eq!(body["may"], may);
    server.call_as("GET", "/session", None).expect(401);
    server.call_as("DELETE", "/session", None).expect(401);
}

#[test]
fn cookie_counts_for_requests_of_the_own_page_only() {
    let server = TestServer::new();
    let cookie = log_in(&server, &json!({"key": API_KEY}));
    let cookie = ("Cookie", &*cookie);
    let path = format!("{PREFIX}/streams");
    let status = |fields: &[(&str, &str)]| {
        let answer = server.connect().request("GET", &path, fields, b"");
        answer.status
    };
    for (fields, expected) in [
        (vec![cookie, PAGE], 200),
        (vec![cookie, PAGE, ("Sec-Fetch-Site", "same-origin")], 200),
        (vec![cookie, PAGE, ("Sec-Fetch-Site", "none")], 200),
        (vec![cookie, PAGE, ("Sec-Fetch-Site", "same-site")], 401),
        (vec![cookie, PAGE, ("Sec-Fetch-Site", "cross-site")], 401),
        (vec![cookie], 401),
        (vec![cookie, ("X-Weir-UI", "0")], 401),
        // Credentials beat the cookie.
        (vec![cookie, PAGE, ("Authorization", "Bearer wrong")], 401),
        (vec![("Cookie", "weir_session="), PAGE], 401),
        (vec![("Cookie", "other=1; weir_session=abc"), PAGE], 401),
    ] {
        assert_eq!(status(&fields), expected, "{fields:?}");
    }
    let among = format!("a=b; {}; c=d", cookie.1);
    assert_eq!(status(&[("Cookie", &*among), PAGE]), 200);
    // A page of another origin may not send the header.
    let open = TestServer::with(&["--cors-origins", "https://panel.example.com"]);
    let preflight = [
        ("Origin", "https://panel.example.com"),
        ("Access-Control-Request-Method", "GET"),
        ("Access-Control-Request-Headers", "x-weir-ui"),
    ];
    let answer = open
        .connect()
        .request("OPTIONS", &path, &preflight, b"")
        .expect(204);
    let allowed = answer
        .header("access-control-allow-headers")
        .expect("fields");
    assert!(!allowed.to_lowercase().contains("x-weir-ui"), "{allowed}");
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}

#[test]
fn session_never_opens_the_configuration_of_a_streamer() {
    let server = TestServer::new();
    let node = json!({"role": "streamer", "cluster_key": "k"});
    server.put("/streamers/s1", node).expect(200);
    let cookie = log_in(&server, &json!({"key": API_KEY}));
    for path in [
        "/streamers/s1/streams",
        "/streamers/s1/update-streams",
        "/streamers/s1/episodes?updated_at_gt=0",
        "/streamers/s1/auth?name=a",
    ] {
        assert!(is_without_challenge(&get(&server, path, &cookie)), "{path}");
    }
    let report = put(&server, "/streamers/s1/stats", &cookie, &json!({}));
    assert!(is_without_challenge(&report));
    get(&server, "/streamers/s1", &cookie).expect(200);
}

#[test]
fn refusals_of_the_page_have_no_challenge() {
    let server = TestServer::new();
    assert!(is_without_challenge(&get(
        &server,
        "/streams",
        "weir_session=x"
    )));
    assert!(is_without_challenge(&get(&server, "/nothing", "")));
    let wrong = send(&server, "POST", "/session", &[], &json!({"key": "wrong"}));
    assert!(is_without_challenge(&wrong));
    let other = server.call_as("GET", "/streams", None).expect(401);
    assert!(other.header("www-authenticate").is_some(), "others get one");
}

#[test]
fn opening_needs_the_header_and_a_complete_credential() {
    let server = TestServer::new();
    let open = |fields: &[(&str, &str)], body: &str| {
        let path = format!("{PREFIX}/session");
        server
            .connect()
            .request("POST", &path, fields, body.as_bytes())
    };
    let key = json!({"key": API_KEY}).to_string();
    assert_eq!(open(&[], &key).expect(400).errors(), ["missing_required"]);
    let cross = [PAGE, ("Sec-Fetch-Site", "cross-site")];
    assert_eq!(open(&cross, &key).expect(403).errors(), ["forbidden"]);
    for (body, error) in [
        ("{}", "missing_required /key"),
        (r#"{"key":1}"#, "not_string /key"),
        (r#"{"login":"a"}"#, "missing_required /password"),
        (r#"{"password":"a"}"#, "missing_required /login"),
        ("[]", "not_object "),
        ("{", "invalid_json "),
    ] {
        assert_eq!(open(&[PAGE], body).expect(400).errors(), [error], "{body}");
    }
    let long = format!("{{\"key\":\"{}\"}}", "x".repeat(5000));
    open(&[PAGE], &long).expect(413);
}

#[test]
fn eleventh_wrong_login_of_a_minute_is_refused() {
    let server = TestServer::new();
    let client = new_client_address();
    let from = [("X-Real-IP", &*client)];
    let wrong = json!({"key": "wrong"});
    for _ in 0..10 {
        send(&server, "POST", "/session", &from, &wrong).expect(401);
    }
    // The right key as well: otherwise one could go on to guess.
    for body in [&wrong, &json!({"key": API_KEY})] {
        let refused = send(&server, "POST", "/session", &from, body).expect(429);
        assert_eq!(refused.errors(), ["too_many_failures"]);
        let seconds = refused.retry_after().expect("seconds");
        assert!((1..=61).contains(&seconds), "{seconds}");
    }
    // Others are not affected, and neither are credentials of requests.
    log_in(&server, &json!({"key": API_KEY}));
    server.get("/streams").expect(200);
}

#[test]
fn wrong_logins_wait_without_holding_a_core() {
    // Goal: the delay of a refusal delays nobody else. Method: one core, many wrong logins whose
    // responses are outstanding, and requests meanwhile.
    let server = TestServer::with(&["--io-threads", "1"]);
    let body = json!({"key": "wrong"}).to_string();
    let path = format!("{PREFIX}/session");
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let client = new_client_address();
        let mut connection = server.connect();
        let fields = [PAGE, ("X-Real-IP", &*client)];
        connection.send_request("POST", &path, &fields, body.as_bytes());
        waiting.push(connection);
    }
    server.get("/streams").expect(200);
    for connection in &mut waiting {
        connection.response(false).expect(401);
    }
}

#[test]
fn session_sees_and_changes_what_its_token_may() {
    let server = TestServer::new();
    for name in ["a/1", "a/2", "b/1"] {
        let path = format!("/streams/{}", name.replace('/', "%2F"));
        server.put(&path, json!({})).expect(200);
    }
    let permissions = json!([{"scopes": ["streams/a%2F*"], "list": true, "read": true}]);
    let key = token(&server, "folder", &permissions);
    let cookie = log_in(&server, &json!({"key": key}));
    let listed = get(&server, "/streams?select=name", &cookie).expect(200);
    assert_eq!(names(&listed.json()), ["a/1", "a/2"]);
    get(&server, "/streams/a%2F1", &cookie).expect(200);
    get(&server, "/streams/b%2F1", &cookie).expect(403);
    get(&server, "/api_tokens", &cookie).expect(403);
    let refused = put(&server, "/streams/a%2F1", &cookie, &json!({"title": "x"}));
    assert_eq!(refused.expect(403).errors(), ["forbidden"]);
    // The rights are those that the token has now.
    let write = json!([{"scopes": ["streams/a%2F*"], "list": true, "read": true, "write": true}]);
    server
        .put("/api_tokens/folder", json!({"permissions": write}))
        .expect(200);
    put(&server, "/streams/a%2F1", &cookie, &json!({"title": "x"})).expect(200);
    let user = get(&server, "/session", &cookie).expect(200).json();
    assert_eq!(user["user"], "api_token:folder");
}

#[test]
fn session_ends_with_its_token() {
    let server = TestServer::new();
    let all = json!([{"scopes": ["*"], "list": true, "read": true}]);
    let delete = |server: &TestServer| {
        server.delete("/api_tokens/t").expect(204);
    };
    let replace = |server: &TestServer| {
        let key = json!({"key": "another-key-0001"});
        server.put("/api_tokens/t", key).expect(200);
    };
    let ends: [fn(&TestServer); 2] = [delete, replace];
    for end in ends {
        let key = token(&server, "t", &all);
        let cookie = log_in(&server, &json!({"key": key}));
        get(&server, "/streams", &cookie).expect(200);
        end(&server);
        // The same key again does not bring the session back, also if it was not used meanwhile.
        server
            .put("/api_tokens/t", json!({"key": key, "permissions": all}))
            .expect(200);
        assert!(is_without_challenge(&get(&server, "/streams", &cookie)));
        // Nor does another token with that key.
        let cookie = log_in(&server, &json!({"key": key}));
        server.delete("/api_tokens/t").expect(204);
        server
            .put("/api_tokens/u", json!({"key": key, "permissions": all}))
            .expect(200);
        assert!(is_without_challenge(&get(&server, "/streams", &cookie)));
        // A change of its rights ends no session.
        let cookie = log_in(&server, &json!({"key": key}));
        server
            .put("/api_tokens/u", json!({"permissions": all}))
            .expect(200);
        get(&server, "/streams", &cookie).expect(200);
        server.delete("/api_tokens/u").expect(204);
    }
}

#[test]
fn session_ends_when_the_key_is_rotated() {
    let server = TestServer::with_file("api_key = \"first-key-of-the-file\"\n");
    let cookie = log_in(&server, &json!({"key": "first-key-of-the-file"}));
    let saved = put(
        &server,
        "/config",
        &cookie,
        &json!({"api_key": "second-key-of-the-file"}),
    );
    saved.expect(200);
    // Also if the first key returns before the session is used.
    let second = log_in(&server, &json!({"key": "second-key-of-the-file"}));
    let first = json!({"api_key": "first-key-of-the-file"});
    put(&server, "/config", &second, &first).expect(200);
    for cookie in [cookie, second] {
        assert!(is_without_challenge(&get(&server, "/streams", &cookie)));
    }
    log_in(&server, &json!({"key": "first-key-of-the-file"}));
}

#[test]
fn session_ends_by_logging_out_and_with_the_process() {
    let mut server = TestServer::new();
    let credential = json!({"key": API_KEY});
    let cookie = log_in(&server, &credential);
    let other = log_in(&server, &credential);
    let fields = [("Cookie", &*cookie)];
    let closed = send(&server, "DELETE", "/session", &fields, &Value::Null).expect(204);
    let set = closed.header("set-cookie").expect("a cookie");
    assert!(
        set.starts_with("weir_session=;") && set.contains("Max-Age=0"),
        "{set}"
    );
    assert!(is_without_challenge(&get(&server, "/session", &cookie)));
    get(&server, "/session", &other).expect(200);
    // A new session replaces that of the browser.
    let fields = [("Cookie", &*other)];
    send(&server, "POST", "/session", &fields, &credential).expect(200);
    assert!(is_without_challenge(&get(&server, "/session", &other)));
    let kept = log_in(&server, &credential);
    server.restart();
    assert!(is_without_challenge(&get(&server, "/session", &kept)));
}

#[test]
fn poll_of_a_session_ends_with_its_token() {
    let server = TestServer::new();
    let all = json!([{"scopes": ["*"], "list": true, "read": true}]);
    let key = token(&server, "t", &all);
    let cookie = log_in(&server, &json!({"key": key}));
    let request = format!(
        "GET {PREFIX}/streams?updated_at_gt=0&poll_timeout=40 HTTP/1.1\r\nHost: h\r\n\
         X-Weir-UI: 1\r\nCookie: {cookie}\r\n\r\n"
    );
    let mut poll = park_request(&server, &request);
    server.delete("/api_tokens/t").expect(204);
    let ended = poll.response(false);
    assert!(
        is_without_challenge(&ended),
        "{}: {}",
        ended.status,
        ended.text()
    );
}
