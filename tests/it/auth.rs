//! Authorization: every documented operation with every kind of credential, and where secrets must
//! never show.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use weir_testkit::{API_KEY, EDIT_AUTH, Response, STREAMER_PREFIX, TestServer};

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

pub fn basic(login: &str) -> String {
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(login)
    )
}

/// `Authorization` of a streamer whose clock is off by `seconds_off`.
pub fn cluster(key: &str, seconds_off: i64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let time = now
        .checked_add_signed(seconds_off)
        .expect("near now")
        .to_string();
    let mut signed = format!("Cluster {time}:");
    for byte in Sha1::digest(format!("{time}:{key}")) {
        write!(signed, "{byte:02x}").expect("a string takes everything");
    }
    signed
}

/// The credentials that an operation requires, derived from its path alone: this is the rule,
/// independent of the server's own table.
#[derive(Clone, Copy, PartialEq, Debug)]
enum AuthRule {
    Anybody,
    Administrator,
    AdministratorOrOwnStreamer,
}

fn rule(path: &str) -> AuthRule {
    if path.starts_with("/monitoring/") || path.starts_with("/lb/") {
        AuthRule::Anybody
    } else if path.starts_with("/streamers/{hostname}/")
        && !path.ends_with("_change")
        && !path.ends_with("/maintenance")
        && !path.ends_with("/history")
    {
        AuthRule::AdministratorOrOwnStreamer
    } else {
        AuthRule::Administrator
    }
}

fn operations(server: &TestServer) -> Vec<(String, String)> {
    let document = server.get("/openapi.json").expect(200).json();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("a path item").keys() {
            // Agents authenticate in a handshake of their own, and a session is opened with the
            // credential in the body.
            let has_credential =
                path.starts_with("/endpoint/") || (path == "/session" && method == "post");
            if item[method]["operationId"].is_string() && !has_credential {
                operations.push((method.to_uppercase(), path.clone()));
            }
        }
    }
    assert!(operations.len() >= 18, "{operations:?}");
    operations
}

fn nodes() -> Value {
    json!([
        {"hostname": "s1", "role": "streamer", "cluster_key": "own-key"},
        {"hostname": "s2", "role": "streamer", "cluster_key": "foreign-key"},
    ])
}

#[test]
fn every_operation_requires_its_documented_credentials() {
    let server = TestServer::new();
    server.put("/streamers/batch", nodes()).expect(204);
    // Status of public operations, of those for administrators, and of those for the streamer in
    // the path as well; 0: authorized.
    let credentials: [(&str, Option<String>, [u16; 3]); 16] = [
        ("none", None, [0, 401, 401]),
        ("empty", Some(String::new()), [0, 401, 401]),
        ("no scheme", Some(API_KEY.to_owned()), [0, 401, 401]),
        (
            "unknown scheme",
            Some(format!("Digest {API_KEY}")),
            [0, 401, 401],
        ),
        (
            "wrong key",
            Some(bearer("it-admin-key-012345678g")),
            [0, 401, 401],
        ),
        ("empty key", Some("Bearer ".to_owned()), [0, 401, 401]),
        (
            "a streamer's key as key",
            Some(bearer("own-key")),
            [0, 401, 401],
        ),
        ("wrong login", Some(basic("operator:wrong")), [0, 401, 401]),
        ("broken login", Some("Basic !!!".to_owned()), [0, 401, 401]),
        ("key", Some(bearer(API_KEY)), [0, 0, 0]),
        ("login", Some(basic(EDIT_AUTH)), [0, 0, 0]),
        ("own cluster key", Some(cluster("own-key", 0)), [0, 403, 0]),
        (
            "own cluster key, clock off a little",
            Some(cluster("own-key", -200)),
            [0, 403, 0],
        ),
        (
            "own cluster key, stale",
            Some(cluster("own-key", -1000)),
            [0, 403, 403],
        ),
        (
            "own cluster key, from the future",
            Some(cluster("own-key", 1000)),
            [0, 403, 403],
        ),
        (
            "foreign cluster key",
            Some(cluster("foreign-key", 0)),
            [0, 403, 403],
        ),
    ];
    for (method, template) in operations(&server) {
        let rule = rule(&template);
        // Nothing of this name exists, so that what is let through changes nothing.
        let own: String = template
            .split_inclusive('/')
            .map(|segment| match segment.trim_end_matches('/') {
                "{hostname}" => segment.replace("{hostname}", "s1"),
                "{name}" => segment.replace("{name}", "nobody"),
                // A number is a valid key of every kind.
                open if open.starts_with('{') => segment.replace(open, "7"),
                _ => segment.to_owned(),
            })
            .collect();
        let unknown = own.replace("/s1", "/nobody");
        let own = if rule == AuthRule::Administrator {
            unknown.clone()
        } else {
            own
        };
        for (what, credential, statuses) in &credentials {
            for path in [own.clone(), format!("{STREAMER_PREFIX}{own}")] {
                let answer = server.call_as(&method, &path, credential.as_deref());
                let expected = statuses[rule as usize];
                let refused = matches!(answer.status, 401 | 403);
                if expected == 0 {
                    assert!(
                        !refused && (answer.status < 500 || template.ends_with("/episodes")),
                        "{method} {path} with {what}: {answer:?}"
                    );
                } else {
                    assert_eq!(answer.status, expected, "{method} {path} with {what}");
                }
                let asks = answer.header("www-authenticate").is_some();
                assert_eq!(asks, answer.status == 401, "{method} {path} with {what}");
            }
            if rule == AuthRule::AdministratorOrOwnStreamer {
                // An unknown hostname: an administrator gets 404, and no cluster key
                // fits.
                let answer = server.call_as(&method, &unknown, credential.as_deref());
                // An operation with a body or parameters may refuse those first.
                let is_expected = match statuses[AuthRule::Administrator as usize] {
                    0 => matches!(answer.status, 400 | 404),
                    refused => answer.status == refused,
                };
                assert!(is_expected, "{method} {unknown} with {what}: {answer:?}");
            }
        }
    }
}

#[test]
fn refusals_reveal_neither_the_cause_nor_what_exists() {
    let server = TestServer::new();
    server.put("/streamers/batch", nodes()).expect(204);
    server.put("/streams/a", json!({})).expect(200);
    let same = |answers: Vec<Response>| {
        for answer in &answers {
            assert_eq!(answer.body, answers[0].body, "{}", answer.text());
            assert_eq!(
                answer.header("www-authenticate"),
                answers[0].header("www-authenticate")
            );
        }
    };
    // Wrong in different ways, at places that exist and at others.
    let mut answers = Vec::new();
    for credential in [
        bearer("x"),
        basic("operator:x"),
        basic("nobody:it-password"),
        "Basic ?".to_owned(),
        "Other x".to_owned(),
    ] {
        for path in [
            "/streams/a",
            "/streams/nobody",
            "/streams",
            "/streamers/nobody/streams",
            "/streamers/s1/streams",
        ] {
            answers.push(server.call_as("GET", path, Some(&credential)).expect(401));
        }
    }
    same(answers);
    // An unknown hostname has the same response as a known one with another key.
    let key = cluster("own-key", 0);
    same(vec![
        server
            .call_as("GET", "/streamers/nobody/streams", Some(&key))
            .expect(403),
        server
            .call_as("GET", "/streamers/s2/streams", Some(&key))
            .expect(403),
        server
            .call_as(
                "GET",
                "/streamers/s1/streams",
                Some(&cluster("own-key", -1000)),
            )
            .expect(403),
    ]);
    // An empty key signs nothing.
    server
        .call_as("GET", "/streamers/nobody/streams", Some(&cluster("", 0)))
        .expect(403);
}

#[test]
fn only_callers_with_credentials_learn_which_paths_exist() {
    let server = TestServer::new();
    for (method, path) in [
        ("GET", "/nothing"),
        ("PUT", "/streams/a/layouts"),
        ("POST", "/streams"),
        ("DELETE", "/monitoring/liveness"),
    ] {
        for credential in [None, Some(bearer("x"))] {
            let answer = server.call_as(method, path, credential.as_deref());
            assert_eq!(answer.status, 401, "{method} {path}");
            assert_eq!(answer.header("allow"), None);
        }
        let known = server.call(method, path, b"").status;
        assert!(matches!(known, 404 | 405), "{method} {path}: {known}");
    }
}

#[test]
fn body_of_an_unauthorized_request_is_not_read() {
    let server = TestServer::new();
    let mut client = server.connect();
    client.send(
        b"PUT /central/api/v3/streams/batch HTTP/1.1\r\nHost: t\r\n\
     Expect: 100-continue\r\nContent-Length: 60000000\r\n\r\n",
    );
    client.response(false).expect(401);
    let mut client = server.connect();
    let head = format!(
        "PUT /central/api/v3/streams/a HTTP/1.1\r\nHost: t\r\n\
         Authorization: Bearer {API_KEY}\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    );
    client.send(head.as_bytes());
    client.response(false).expect(100);
    client.send(b"{}");
    client.response(false).expect(200);
}

#[test]
fn new_cluster_key_takes_effect_when_saved() {
    let mut server = TestServer::new();
    server.put("/streamers/batch", nodes()).expect(204);
    let ask = |server: &TestServer, key: &str| {
        server
            .call_as("GET", "/streamers/s1/streams", Some(&cluster(key, 0)))
            .status
    };
    assert_eq!(ask(&server, "own-key"), 200);
    server
        .put("/streamers/s1", json!({"cluster_key": "new-key"}))
        .expect(200);
    assert_eq!(
        (ask(&server, "own-key"), ask(&server, "new-key")),
        (403, 200)
    );
    server.restart();
    assert_eq!(
        (ask(&server, "own-key"), ask(&server, "new-key")),
        (403, 200)
    );
    server.delete("/streamers/s1").expect(204);
    assert_eq!(ask(&server, "new-key"), 403);
}

#[test]
fn login_must_match_completely() {
    let server = TestServer::new();
    for login in ["", ":", "operator", "operator:", ":it-password"] {
        server
            .call_as("GET", "/streams", Some(&basic(login)))
            .expect(401);
    }
}

#[test]
fn secrets_show_only_on_their_own_entity() {
    let mut server = TestServer::with(&["--log-level", "debug", "--log-requests=true"]);
    let greeting = server.greeting_line();
    assert!(greeting.contains("curl"), "{greeting}");
    assert!(
        !greeting.contains(API_KEY),
        "a key that was given is not repeated"
    );
    let node = json!({
        "hostname": "s1", "role": "streamer", "cluster_key": "canary-a",
        "api_url": "http://u:canary-b@10.0.0.1",
    });
    server.put("/streamers/batch", json!([node])).expect(204);
    let stream = json!({
        "name": "a", "inputs": [{"url": "rtsp://u:canary-c@cam/1"}],
        "jpeg_snapshot_sign_key": "canary-d",
        "pushes": [{"url": "rtmp://u:canary-e@out/1"}], "layout": {"ingest": "s1"},
    });
    server.put("/streams/batch", json!([stream])).expect(204);
    let shown = server.get("/streams/a").expect(200).text();
    for canary in ["canary-c", "canary-d", "canary-e"] {
        assert!(
            shown.contains(canary),
            "an administrator sees {canary} on the stream itself: {shown}"
        );
    }
    let mut texts = Vec::new();
    for path in [
        "/streams",
        "/streams?select=inputs,pushes,jpeg_snapshot_sign_key,config_on_disk",
        "/streams?q=canary",
        "/streams?name=a&sort=-inputs.url",
        "/streams?inputs.url_like=canary&limit=1",
        "/streams?jpeg_snapshot_sign_key=canary-d",
        "/streams?sort=jpeg_snapshot_sign_key",
        "/streams/a/layouts",
        "/streamers",
        "/streamers?select=cluster_key",
        "/streamers?cluster_key_like=canary",
        "/openapi.json",
        "/monitoring/liveness",
        "/monitoring/readiness",
    ] {
        let answer = server.get(path);
        for field in answer.headers().map(|(_, value)| value.to_owned()) {
            texts.push((path.to_owned(), field));
        }
        texts.push((path.to_owned(), answer.text()));
    }
    for body in [
        json!({"jpeg_snapshot_sign_key": {"canary-d": 1}}),
        json!({"inputs": [{"url": "nonsense://u:canary-c@x"}]}),
        json!({"inputs": [{"url": "rtsp://u:canary-c@cam/1", "priority": "x"}]}),
    ] {
        let answer = server.put("/streams/a", body.clone()).expect(400);
        let places = answer.errors();
        // Places name what the client sent as a key; values never show.
        if !body.to_string().contains("{\"canary-d\"") {
            texts.push((format!("{body} {places:?}"), answer.text()));
        }
    }
    for credential in [
        bearer("canary-f"),
        basic("u:canary-g"),
        cluster("canary-h", 0),
    ] {
        texts.push((
            credential.clone(),
            server.call_as("GET", "/streams", Some(&credential)).text(),
        ));
    }
    for (what, text) in texts {
        assert!(!text.contains("canary-"), "{what}: {text}");
    }
    let log: String = server
        .log()
        .lines()
        .filter(|line| line.contains("canary-") || line.contains(API_KEY))
        .collect();
    assert_eq!(log, "", "the log holds secrets");
    assert!(
        server.log().contains("/central/api/v3/streams/a"),
        "requests are in the log"
    );
}

#[test]
fn answers_with_secrets_are_not_cached() {
    let server = TestServer::new();
    server.put("/streamers/batch", nodes()).expect(204);
    server
        .put("/agents/a", json!({"key": "agent-key"}))
        .expect(200);
    server.put("/api_tokens/t", json!({})).expect(200);
    server.put("/streams/s", json!({})).expect(200);
    let lists = [
        "/config",
        "/api_tokens",
        "/streamers",
        "/agents",
        "/streams",
        "/auth_backends",
    ];
    let single = [
        "/api_tokens/t",
        "/agents/a",
        "/streams/s",
        "/streamers/nothing",
    ];
    for path in lists.iter().chain(&single) {
        let answer = server.get(path);
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
    }
    // Also those that come later: of the writer, and of a poll.
    let saved = server.put("/streams/s", json!({"title": "t"})).expect(200);
    assert_eq!(saved.header("cache-control"), Some("no-store"));
    let poll = server
        .get("/streams?name=nothing&poll_timeout=1")
        .expect(200);
    assert_eq!(poll.header("cache-control"), Some("no-store"));
}
