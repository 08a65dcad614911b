//! Waiting requests whose caller loses its credential, or a part of its permissions.

use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::auth::cluster;
use crate::restricted::{strings, token};
use crate::stub::{Stub, StubResponse};
use weir_testkit::{API_KEY, Client, EDIT_AUTH, PREFIX, Response, TestServer};

/// A way to hold a request open.
struct Hold {
    what: &'static str,
    path: &'static str,
    /// Only a change that the request waits for ends it; else it may have been answered before.
    by: &'static [HeldCredential],
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum HeldCredential {
    Token,
    ClusterKey,
    ApiKey,
    Login,
}

/// The administrator's key after its replacement.
const ROTATED_KEY: &str = "rotated-key-0123456789";

const HOLDS: &[Hold] = &[
    Hold {
        what: "a configuration",
        path: "/streamers/s1/streams?poll_timeout=50",
        by: &[
            HeldCredential::Token,
            HeldCredential::ClusterKey,
            HeldCredential::ApiKey,
            HeldCredential::Login,
        ],
    },
    Hold {
        what: "changes of a configuration",
        path: "/streamers/s1/streams?poll_timeout=50&changes_since=",
        by: &[
            HeldCredential::Token,
            HeldCredential::ClusterKey,
            HeldCredential::ApiKey,
            HeldCredential::Login,
        ],
    },
    Hold {
        what: "a list of streams",
        path: "/streams?updated_at_gt=9000000000000&poll_timeout=50",
        by: &[
            HeldCredential::Token,
            HeldCredential::ApiKey,
            HeldCredential::Login,
        ],
    },
    Hold {
        what: "a list of episodes",
        path: "/episodes?updated_at_gt=9000000000000&poll_timeout=50",
        by: &[
            HeldCredential::Token,
            HeldCredential::ApiKey,
            HeldCredential::Login,
        ],
    },
    Hold {
        what: "a list of events",
        path: "/events?event=layouter_fetching_started&poll_timeout=50",
        by: &[
            HeldCredential::Token,
            HeldCredential::ApiKey,
            HeldCredential::Login,
        ],
    },
];

const TOKEN_LOSSES: &[(&str, u16)] = &[("replaced", 401), ("deleted", 401), ("restricted", 403)];

/// The ways to lose a credential, and the status of what it held open.
fn losses(credential: HeldCredential) -> &'static [(&'static str, u16)] {
    match credential {
        HeldCredential::Token => TOKEN_LOSSES,
        HeldCredential::ClusterKey => &[("replaced", 401), ("deleted", 404)],
        // Answered early with what it has, and to be repeated with what holds now.
        HeldCredential::ApiKey | HeldCredential::Login => &[("replaced", 0)],
    }
}

fn authorization(credential: HeldCredential, token: &str) -> String {
    let login = || base64::engine::general_purpose::STANDARD.encode(EDIT_AUTH);
    match credential {
        HeldCredential::Token => token.to_owned(),
        HeldCredential::ClusterKey => cluster("first", 0),
        HeldCredential::ApiKey => format!("Bearer {API_KEY}"),
        HeldCredential::Login => format!("Basic {}", login()),
    }
}

fn config_file(key: &str, password: &str) -> String {
    format!("api_key = \"{key}\"\nedit_auth = \"operator {password}\"\nio_threads = 2\n")
}

fn lose(server: &TestServer, credential: HeldCredential, how: &str, admin: &str) {
    let call = |method: &str, path: &str, body: &Value| {
        let fields = [("Authorization", admin)];
        let target = format!("{PREFIX}{path}");
        let body = if *body == Value::Null {
            String::new()
        } else {
            body.to_string()
        };
        let answer = server
            .connect()
            .request(method, &target, &fields, body.as_bytes());
        assert!(answer.status < 300, "{method} {path}: {answer:?}");
    };
    match (credential, how) {
        (HeldCredential::Token, "replaced") => {
            call("PUT", "/api_tokens/t", &json!({"key": "another-key"}));
        }
        (HeldCredential::Token, "deleted") => call("DELETE", "/api_tokens/t", &Value::Null),
        (HeldCredential::Token, "narrowed") => narrow(server, &["episodes/1"]),
        (HeldCredential::Token, _) => {
            let persons = json!([{"scopes": ["persons/*"], "list": true}]);
            call("PUT", "/api_tokens/t", &json!({ "permissions": persons }));
        }
        (HeldCredential::ClusterKey, "replaced") => {
            call("PUT", "/streamers/s1", &json!({"cluster_key": "other"}));
        }
        (HeldCredential::ClusterKey, _) => call("DELETE", "/streamers/s1", &Value::Null),
        (HeldCredential::ApiKey | HeldCredential::Login, _) => {
            let body = json!({
                "api_key": ROTATED_KEY,
                "edit_auth": {"login": "operator", "password": "rotated-password"},
            });
            call("PUT", "/config", &body);
        }
    }
}

/// Sends a request and returns when it is held: a probe in the same piece was answered.
fn hold(server: &TestServer, path: &str, authorization: &str, fields: &str) -> Client {
    let mut client = server.connect();
    let head = |path: &str, more: &str| {
        format!(
            "GET {PREFIX}{path} HTTP/1.1\r\nHost: t\r\nAuthorization: {authorization}\r\n{more}\r\n"
        )
    };
    let both = head("/monitoring/liveness", "") + &head(path, fields);
    client.send(both.as_bytes());
    client.response(false).expect(200);
    client
}

#[test]
fn held_requests_end_with_their_credential() {
    // Goal: a waiting request ends when its caller loses the right. Method: every kind of waiting
    // request, with every credential that it accepts, and every way to lose that credential.
    for way in HOLDS {
        for &credential in way.by {
            for (how, status) in losses(credential) {
                ends_with(way, credential, how, *status);
            }
        }
    }
}

fn ends_with(way: &Hold, credential: HeldCredential, how: &str, status: u16) {
    let server = TestServer::with_file(&config_file(API_KEY, "it-password"));
    let admin = format!("Bearer {API_KEY}");
    let node = json!({"role": "streamer", "cluster_key": "first"});
    server.put("/streamers/s1", node).expect(200);
    let all = json!([{"scopes": ["*"], "list": true, "execute": true}]);
    let token = token(&server, "t", json!({ "permissions": all }));
    let authorization = authorization(credential, &token);
    let config = server.get("/streamers/s1/streams").expect(200);
    let tag = config.header("etag").expect("a tag").to_owned();
    let mut path = way.path.to_owned();
    let mut fields = String::new();
    if path.ends_with('=') {
        path.push_str(&config.json()["revision"].to_string());
    } else if path.starts_with("/streamers/") {
        fields = format!("If-None-Match: {tag}\r\n");
    }
    let mut held: Vec<Client> = (0..4)
        .map(|_| hold(&server, &path, &authorization, &fields))
        .collect();
    lose(&server, credential, how, &admin);
    for client in &mut held {
        let answer = client.response(false);
        let what = format!("{} by {credential:?}, {how}: {answer:?}", way.what);
        match status {
            0 => assert!(matches!(answer.status, 200 | 304), "{what}"),
            status => assert_eq!(answer.status, status, "{what}"),
        }
        assert!(!answer.text().contains("\"name\""), "{what}");
    }
}

/// Gives the token `t` these scopes to list and read.
fn narrow(server: &TestServer, scopes: &[&str]) {
    let one = |scope: &&str| json!({"scopes": [scope], "list": true, "read": true});
    let permissions: Vec<Value> = scopes.iter().map(one).collect();
    let body = json!({ "permissions": permissions });
    server.put("/api_tokens/t", body).expect(200);
}

#[test]
fn poll_of_a_narrowed_token_shows_no_more_than_its_part() {
    // Goal: a list never shows what the newest permissions hide. Method: a token with more
    // permissions waits for a stream, loses some of them, then a stream outside of them is saved.
    for before in [&["*"][..], &["streams/*"], &["streams/a*", "streams/b*"]] {
        let server = TestServer::with(&["--io-threads", "2"]);
        let token = token(&server, "t", json!({}));
        narrow(&server, before);
        let path = "/streams?name_like=1&poll_timeout=50";
        let mut held: Vec<Client> = (0..4).map(|_| hold(&server, path, &token, "")).collect();
        narrow(&server, &["streams/a*"]);
        server.put("/streams/b1", json!({})).expect(200);
        for client in &mut held {
            let page = client.response(false).expect(200).json();
            assert_eq!(page["streams"], json!([]), "{before:?}");
        }
        let mut again = hold(&server, path, &token, "");
        let change = json!({"title": "t"});
        server.put("/streams/b1", change).expect(200);
        server.put("/streams/a1", json!({})).expect(200);
        let page = again.response(false).expect(200).json();
        assert_eq!(strings(&page, "streams", "name"), ["a1"], "{page}");
    }
}

// ---- requests that wait for other servers -------------------------------------------------------

/// Deadline of the calls for `dvr_presence_check`.
const PRESENCE_WAIT: Duration = Duration::from_secs(3);

/// The loss of a credential by which a request waits.
#[derive(Clone, Copy, Debug)]
struct Loss {
    credential: HeldCredential,
    how: &'static str,
    status: u16,
}

/// Every loss of a credential of `/auth` and of the episodes. Administrators repeat the request
/// with the new credentials.
fn all_losses() -> impl Iterator<Item = Loss> {
    let of_token = TOKEN_LOSSES.iter().map(|&(how, status)| Loss {
        credential: HeldCredential::Token,
        how,
        status,
    });
    let of_administrator = [HeldCredential::ApiKey, HeldCredential::Login];
    of_token.chain(of_administrator.map(|credential| Loss {
        credential,
        how: "replaced",
        status: 503,
    }))
}

/// A server with the token `t` for everything, and further settings; the token's `Authorization`.
fn with_token(settings: &str) -> (TestServer, String) {
    let file = config_file(API_KEY, "it-password") + settings;
    let server = TestServer::with_file(&file);
    let all = json!([{"scopes": ["*"], "list": true, "read": true, "execute": true}]);
    let token = token(&server, "t", json!({ "permissions": all }));
    (server, token)
}

/// Two streams of a streamer, with an episode each.
fn save_episodes(server: &TestServer, node: &Stub) -> u64 {
    let streamer = json!({"role": "streamer", "cluster_key": "k", "api_url": node.url("")});
    server.put("/streamers/s1", streamer).expect(200);
    let mut newest = 0;
    for (id, name) in [(1, "a"), (2, "b")] {
        let stream = json!({"layout": {"ingest": "s1"}});
        server.put(&format!("/streams/{name}"), stream).expect(200);
        let episode = json!({"media": name, "opened_at": 1_727_274_724_000_u64});
        let saved = server.put(&format!("/episodes/{id}"), episode).expect(200);
        newest = saved.json()["updated_at"].as_u64().expect("a stamp");
    }
    newest
}

/// Sends requests that wait for a streamer while a credential is lost; their responses. `None`: the
/// machine was so busy that the deadline of the calls may have come first.
fn lose_during_presence_check(path: &str, loss: Loss) -> Option<Vec<Response>> {
    let node = Stub::new(StubResponse::Hold);
    let (server, token) = with_token("outbound_loopback = true\nepisodes_buffer_delay = \"0s\"\n");
    let newest = save_episodes(&server, &node);
    let path = path.replace("NEWEST", &newest.to_string());
    let authorization = authorization(loss.credential, &token);
    let began = Instant::now();
    let hold_one = |_| hold(&server, &path, &authorization, "");
    let mut held: Vec<Client> = (0..4).map(hold_one).collect();
    // What a poll waits for.
    let change = json!({"closed_at": 1_727_274_725_000_u64});
    server.put("/episodes/2", change).expect(200);
    node.call();
    lose(
        &server,
        loss.credential,
        loss.how,
        &format!("Bearer {API_KEY}"),
    );
    let is_in_time = began.elapsed() < PRESENCE_WAIT;
    let responses = held.iter_mut().map(|client| client.response(false));
    let responses = responses.collect();
    if loss.credential == HeldCredential::Token {
        // The calls that were held are over; new ones are answered.
        node.respond_with(StubResponse::with(200, "", r#"{"ranges":[]}"#));
        let again = server.get("/episodes/1?dvr_presence_check=true");
        assert_eq!(again.expect(200).json()["has_dvr"], false);
    }
    is_in_time.then_some(responses)
}

#[test]
fn episodes_that_wait_for_streamers_end_with_their_credential() {
    // Goal: a page that waits for streamers is not sent to a caller who has lost the right to it.
    // Method: the streamer holds its calls until the credential is lost.
    let narrowed = Loss {
        credential: HeldCredential::Token,
        how: "narrowed",
        status: 503,
    };
    for path in [
        "/episodes?dvr_presence_check=true",
        "/episodes?updated_at_gt=NEWEST&poll_timeout=50&dvr_presence_check=true",
        "/episodes/2?dvr_presence_check=true",
    ] {
        let is_list = path.contains("/episodes?");
        let narrowed = Loss {
            status: if is_list { 503 } else { 403 },
            ..narrowed
        };
        for loss in all_losses().chain([narrowed]) {
            let responses = (0..10).find_map(|_| lose_during_presence_check(path, loss));
            let responses = responses.expect("the credential is lost within the deadline");
            for response in responses {
                assert_eq!(
                    response.status,
                    loss.status,
                    "{path} {loss:?}: {}",
                    response.text()
                );
                assert!(
                    !response.text().contains("media"),
                    "{path} {loss:?}: {}",
                    response.text()
                );
            }
        }
    }
}

/// A request for a new session of the stream `a`.
const SESSION: &str = "/auth?name=a&proto=hls&ip=10.77.0.150&request_type=new_session\
    &request_number=0&session_id=6217fd62-16da-4206-9da9-0173d7552a14&stream_clients=1\
    &total_clients=2";
const SESSION_SETTINGS: &str = "outbound_loopback = true\nauth_backend_timeout = \"30s\"\n";

/// Saves the authorization backend `b`, which allows new sessions if it does not reply.
fn save_backend(server: &TestServer, backend: &Stub) {
    let rules = json!({"backends": [{"url": backend.url("/")}], "allow_default": true});
    server.put("/auth_backends/b", rules).expect(200);
}

fn save_protected_stream(server: &TestServer) {
    let stream = json!({"on_play": {"url": "auth://b"}});
    server.put("/streams/a", stream).expect(200);
}

#[test]
fn session_that_waits_for_backends_ends_with_its_credential() {
    // Goal: no decision for a caller who has lost the right to it, not even a cached one. Method:
    // the backend holds its call until the credential is lost, then denies.
    for loss in all_losses() {
        let backend = Stub::new(StubResponse::Hold);
        let (server, token) = with_token(SESSION_SETTINGS);
        save_backend(&server, &backend);
        save_protected_stream(&server);
        let mut client = hold(
            &server,
            SESSION,
            &authorization(loss.credential, &token),
            "",
        );
        backend.call();
        lose(
            &server,
            loss.credential,
            loss.how,
            &format!("Bearer {API_KEY}"),
        );
        let response = client.response(false);
        assert_eq!(
            response.status,
            loss.status,
            "{loss:?}: {}",
            response.text()
        );
        assert_eq!(
            response.header("x-authduration"),
            None,
            "{loss:?}: {}",
            response.text()
        );
        backend.respond_with(StubResponse::status(403));
        let key = match loss.credential {
            HeldCredential::Token => API_KEY,
            _ => ROTATED_KEY,
        };
        let again = server.call_as("GET", SESSION, Some(&format!("Bearer {key}")));
        assert_eq!(again.expect(403).errors(), ["session_denied"], "{loss:?}");
        backend.call();
    }
}

#[test]
fn decision_of_a_backend_deleted_meanwhile_is_not_cached() {
    // Goal: the reply of a backend decides what was requested before its deletion, and nothing
    // after it. Method: the backend holds its call until it, or the stream, is deleted.
    for (deleted, code) in [
        ("/auth_backends/b", "auth_backend_not_found"),
        ("/streams/a", "stream_not_found"),
    ] {
        let backend = Stub::new(StubResponse::Hold);
        let (server, token) = with_token(SESSION_SETTINGS);
        save_backend(&server, &backend);
        save_protected_stream(&server);
        let mut client = hold(&server, SESSION, &token, "");
        backend.call();
        server.delete(deleted).expect(204);
        backend.respond_with(StubResponse::with(200, "X-AuthDuration: 1000\r\n", ""));
        client.response(false).expect(200);
        let denied = server.get(SESSION).expect(403);
        assert_eq!(denied.errors(), [code]);
        if deleted.starts_with("/auth_backends/") {
            // A backend of the same name is another one: its decision is not that of the first.
            backend.respond_with(StubResponse::status(403));
            save_backend(&server, &backend);
            let denied = server.get(SESSION).expect(403);
            assert_eq!(denied.errors(), ["session_denied"]);
            backend.call();
        }
    }
}

// ---- requests whose body is late ----------------------------------------------------------------

#[test]
fn body_sent_after_the_key_was_replaced_is_refused() {
    // Goal: a request is authorised again when its body is complete. Method: the head with each
    // credential, then the loss of that credential, then the body.
    for credential in [
        HeldCredential::Token,
        HeldCredential::ClusterKey,
        HeldCredential::ApiKey,
    ] {
        let server = TestServer::with_file(&config_file(API_KEY, "it-password"));
        let admin = format!("Bearer {API_KEY}");
        let node = json!({"role": "streamer", "cluster_key": "first"});
        server.put("/streamers/s1", node).expect(200);
        let all = json!([{"scopes": ["*"], "list": true, "execute": true, "write": true}]);
        let token = token(&server, "t", json!({ "permissions": all }));
        let authorization = authorization(credential, &token);
        let mut client = server.connect();
        let head = |method: &str, path: &str, more: &str| {
            format!(
                "{method} {PREFIX}{path} HTTP/1.1\r\nHost: t\r\n\
                 Authorization: {authorization}\r\n{more}\r\n"
            )
        };
        let report = head("PUT", "/streamers/s1/stats", "Content-Length: 2\r\n");
        let both = head("GET", "/monitoring/liveness", "") + &report;
        client.send(both.as_bytes());
        client.response(false).expect(200);
        lose(&server, credential, "replaced", &admin);
        client.send(b"{}");
        let answer = client.response(false);
        assert!(
            matches!(answer.status, 401 | 403),
            "{credential:?}: {answer:?}"
        );
    }
}
