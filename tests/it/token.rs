//! API tokens: saving, visibility of keys, and immediate enforcement.

use serde_json::{Value, json};

use weir_testkit::{PREFIX, Response, TestServer, encode_segment};

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

/// Saves a token and returns its key.
fn token(server: &TestServer, name: &str, permissions: Value) -> String {
    let body = json!({"permissions": permissions});
    let saved = server.put(&format!("/api_tokens/{name}"), body).expect(200);
    saved.json()["key"].as_str().expect("a key").to_owned()
}

fn get(server: &TestServer, key: &str, path: &str) -> Response {
    server.call_as("GET", path, Some(&bearer(key)))
}

fn put(server: &TestServer, key: &str, path: &str, body: &Value) -> Response {
    let authorization = bearer(key);
    let fields = [("Authorization", authorization.as_str())];
    let path = format!("{PREFIX}{path}");
    let body = body.to_string();
    server
        .connect()
        .request("PUT", &path, &fields, body.as_bytes())
}

#[test]
fn token_key_is_shown_to_administrators_only() {
    let mut server = TestServer::new();
    let all =
        json!([{"scopes": ["*"], "list": true, "read": true, "write": true, "execute": true}]);
    let key = token(&server, "vision", all.clone());
    assert!(
        key.len() == 27 && key.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{key}"
    );
    assert_ne!(token(&server, "other", all.clone()), key);
    // Saved again without a key it keeps the one it has.
    assert_eq!(token(&server, "vision", all), key);
    let mut texts = vec![
        server.get("/api_tokens").text(),
        server.get("/api_tokens?select=key").text(),
        server.get("/events").text(),
        get(&server, &key, "/api_tokens/vision").expect(200).text(),
        get(&server, &key, "/api_tokens").expect(200).text(),
    ];
    texts.push(server.log());
    for text in texts {
        assert!(!text.contains(&key), "{text}");
    }
    let shown = server.get("/api_tokens/vision").expect(200).json();
    assert_eq!(shown["key"], key.as_str());
    // A mask that is written back keeps the key.
    server
        .put("/api_tokens/vision", json!({"key": "***"}))
        .expect(200);
    server.restart();
    get(&server, &key, "/streams").expect(200);
}

#[test]
fn contradictory_tokens_are_refused() {
    let server = TestServer::new();
    server
        .put("/api_tokens/a", json!({"key": "first-key"}))
        .expect(200);
    for (body, error) in [
        (json!({"key": "first-key"}), "not_unique /key"),
        (json!({"key": "with space"}), "nomatch_pattern /key"),
        (
            json!({"permissions": [{"read": true}]}),
            "missing_required /permissions/0/scopes",
        ),
        (
            json!({"permissions": [{"scopes": ["*", ""]}]}),
            "wrong_format /permissions/0/scopes/1",
        ),
        (
            json!({"permissions": [{"scopes": ["streams/%zz"]}]}),
            "wrong_format /permissions/0/scopes/0",
        ),
        (
            json!({"auth_scopes": ["/x"]}),
            "wrong_format /auth_scopes/0",
        ),
    ] {
        let answer = server.put("/api_tokens/b", body.clone()).expect(400);
        let errors = answer.errors();
        assert!(
            errors.iter().any(|found| found == error),
            "{body}: {errors:?}"
        );
    }
    server.get("/api_tokens/b").expect(404);
}

#[test]
fn token_grants_what_its_permissions_name() {
    let server = TestServer::new();
    for name in ["location1/a", "location1/b", "location2/a"] {
        let stream = json!({"inputs": [{"url": "rtsp://u:canary@cam/1"}]});
        server.put(&format!("/streams/{name}"), stream).expect(200);
    }
    let key = token(
        &server,
        "t",
        json!([
            {"scopes": ["streams/*"], "read": true},
            {"scopes": ["streams/location1%2F*"], "write": true},
        ]),
    );
    let read = get(&server, &key, "/streams/location2/a").expect(200);
    assert!(
        !read.text().contains("canary"),
        "secrets are for administrators: {}",
        read.text()
    );
    get(&server, &key, "/streams/location2%2Fa").expect(200);
    let saved = put(
        &server,
        &key,
        "/streams/location1/a",
        &json!({"title": "x"}),
    )
    .expect(200);
    assert!(!saved.text().contains("canary"), "{}", saved.text());
    // Masked values are kept by its save.
    put(
        &server,
        &key,
        "/streams/location1/a",
        &json!({"inputs": read.json()["inputs"]}),
    )
    .expect(200);
    let kept = server.get("/streams/location1/a").expect(200).text();
    assert!(kept.contains("canary"), "{kept}");
    put(&server, &key, "/streams/location2/a", &json!({})).expect(403);
    put(&server, &key, "/streams/location1x/a", &json!({})).expect(403);
    put(&server, &key, "/streams/batch", &json!([])).expect(403);
    get(&server, &key, "/streams").expect(403);
    get(&server, &key, "/streamers").expect(403);
    get(&server, &key, "/nothing").expect(404);
    server
        .call_as("DELETE", "/streams/location2/a", Some(&bearer(&key)))
        .expect(403);
    server
        .call_as("DELETE", "/streams/location1/b", Some(&bearer(&key)))
        .expect(204);
}

#[test]
fn token_cannot_extend_its_own_permissions() {
    let server = TestServer::new();
    let all =
        json!([{"scopes": ["*"], "list": true, "read": true, "write": true, "execute": true}]);
    let key = token(&server, "t", all);
    put(&server, &key, "/api_tokens/mine", &json!({})).expect(403);
    put(
        &server,
        &key,
        "/api_tokens/t",
        &json!({"auth_scopes": ["*"]}),
    )
    .expect(403);
    server
        .call_as("DELETE", "/api_tokens/t", Some(&bearer(&key)))
        .expect(403);
    server.get("/api_tokens/mine").expect(404);
    // Its cap holds whatever its permissions are.
    server
        .put("/api_tokens/t", json!({"auth_scopes": ["streams/*"]}))
        .expect(200);
    get(&server, &key, "/streams").expect(200);
    get(&server, &key, "/streamers").expect(403);
    server
        .put("/api_tokens/t", json!({"auth_scopes": ["user/15"]}))
        .expect(200);
    get(&server, &key, "/streams").expect(403);
}

#[test]
fn lists_contain_only_what_a_token_may_see() {
    let server = TestServer::new();
    let streams: Vec<Value> = (0..30)
        .map(|i| json!({"name": format!("location{}/{i:02}", i % 3), "title": format!("t{i}")}))
        .collect();
    server
        .put("/streams/batch", Value::Array(streams))
        .expect(204);
    let some = json!([{"scopes": ["streams/location1%2F*"], "list": true}]);
    let key = token(&server, "t", some);
    for sort in ["name", "-name", "title", "-updated_at"] {
        let mut names = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = get(
                &server,
                &key,
                &format!("/streams?limit=3&sort={sort}{cursor}"),
            )
            .expect(200)
            .json();
            assert_eq!(page["estimated_count"], 10, "{page}");
            for stream in page["streams"].as_array().expect("streams") {
                names.push(stream["name"].as_str().expect("a name").to_owned());
            }
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={}", encode_segment(next)),
                None => break,
            }
        }
        names.sort_unstable();
        let expected: Vec<String> = (0..10)
            .map(|i| format!("location1/{:02}", i * 3 + 1))
            .collect();
        assert_eq!(names, expected, "{sort}");
    }
    let named = get(&server, &key, "/streams?name=location2/02,location1/01")
        .expect(200)
        .json();
    assert_eq!(named["estimated_count"], 1);
    get(&server, &key, "/streams/location1/01").expect(403);
    // Polls of tokens with other permissions do not share an answer.
    let others = json!([{"scopes": ["streams/location2%2F*"], "list": true}]);
    let other = token(&server, "u", others);
    let since = server.get("/streams?sort=-updated_at&limit=1").json()["streams"][0]["updated_at"]
        .as_u64()
        .expect("a stamp");
    let mut polls: Vec<_> = [&key, &other]
        .into_iter()
        .map(|key| {
            let mut client = server.connect();
            let path = format!("{PREFIX}/streams?updated_at_gt={since}&poll_timeout=50");
            client.send_request("GET", &path, &[("Authorization", &bearer(key))], b"");
            client
        })
        .collect();
    server.put("/streams/location2/new", json!({})).expect(200);
    let list = polls[1].response(false).expect(200).json();
    assert_eq!(list["streams"][0]["name"], "location2/new");
    server.put("/streams/location1/new", json!({})).expect(200);
    let list = polls[0].response(false).expect(200).json();
    assert_eq!(list["estimated_count"], 1);
    assert_eq!(list["streams"][0]["name"], "location1/new");
}

#[test]
fn token_changes_apply_at_once_to_open_connections() {
    let server = TestServer::with(&["--io-threads", "2"]);
    let all = json!([{"scopes": ["*"], "list": true}]);
    let old = token(&server, "t", all);
    let mut clients: Vec<_> = (0..8).map(|_| server.connect()).collect();
    let path = format!("{PREFIX}/streams");
    let mut statuses = |key: &str| -> Vec<u16> {
        let authorization = bearer(key);
        let each = clients.iter_mut();
        each.map(|client| {
            let address = weir_testkit::new_client_address();
            let fields = [("Authorization", &*authorization), ("X-Real-IP", &*address)];
            client.request("GET", &path, &fields, b"").status
        })
        .collect()
    };
    assert_eq!(statuses(&old), [200; 8]);
    server
        .put("/api_tokens/t", json!({"key": "new-key"}))
        .expect(200);
    assert_eq!(statuses(&old), [401; 8]);
    assert_eq!(statuses("new-key"), [200; 8]);
    server
        .put(
            "/api_tokens/t",
            json!({"permissions": [{"scopes": ["*"], "read": true}]}),
        )
        .expect(200);
    assert_eq!(statuses("new-key"), [403; 8]);
    server.delete("/api_tokens/t").expect(204);
    assert_eq!(statuses("new-key"), [401; 8]);
}

#[test]
fn polls_end_when_their_token_does() {
    let server = TestServer::with(&["--io-threads", "2"]);
    let node = json!({"role": "streamer", "cluster_key": "k"});
    server.put("/streamers/s1", node).expect(200);
    let park = |key: &str, path: &str, fields: &[(&str, &str)]| {
        let mut client = server.connect();
        let authorization = bearer(key);
        let mut all = vec![("Authorization", authorization.as_str())];
        all.extend_from_slice(fields);
        client.send_request("GET", &format!("{PREFIX}{path}"), &all, b"");
        client
    };
    let permissions = json!([{"scopes": ["*"], "list": true, "execute": true}]);
    type End = (fn(&TestServer), u16);
    let ends: [End; 3] = [
        (
            |server| {
                server
                    .put("/api_tokens/t", json!({"key": "another"}))
                    .expect(200);
            },
            401,
        ),
        (
            |server| {
                let nothing = json!({"permissions": [{"scopes": ["persons/*"], "read": true}]});
                server.put("/api_tokens/t", nothing).expect(200);
            },
            403,
        ),
        (
            |server| {
                server.delete("/api_tokens/t").expect(204);
            },
            401,
        ),
    ];
    for (end, status) in ends {
        let key = token(&server, "t", permissions.clone());
        let bystander = token(&server, "bystander", permissions.clone());
        let config = get(&server, &key, "/streamers/s1/streams").expect(200);
        let etag = config.header("etag").expect("a tag").to_owned();
        let mut polls = Vec::new();
        for _ in 0..8 {
            polls.push(park(
                &key,
                "/streams?updated_at_gt=9000000000000&poll_timeout=50",
                &[],
            ));
            let tag = [("If-None-Match", etag.as_str())];
            polls.push(park(&key, "/streamers/s1/streams?poll_timeout=50", &tag));
        }
        let mut other = park(&bystander, "/streams?name=news&poll_timeout=50", &[]);
        // Everything sent before is waiting: an answer on each connection's core comes after what
        // came before it.
        for _ in 0..8 {
            server.get("/monitoring/liveness").expect(200);
        }
        end(&server);
        for poll in &mut polls {
            let answer = poll.response(false).expect(status);
            assert!(!answer.errors().is_empty());
        }
        server.put("/streams/news", json!({})).expect(200);
        let list = other.response(false).expect(200).json();
        assert_eq!(list["streams"][0]["name"], "news");
        server.delete("/streams/news").expect(204);
    }
}

#[test]
fn parked_list_is_evaluated_again_after_a_rights_change() {
    let server = TestServer::new();
    let some = |folder: &str| json!([{"scopes": [format!("streams/{folder}%2F*")], "list": true}]);
    let key = token(&server, "t", some("a"));
    let mut client = server.connect();
    let path = format!("{PREFIX}/streams?poll_timeout=50");
    client.send_request("GET", &path, &[("Authorization", &bearer(&key))], b"");
    server.get("/monitoring/liveness").expect(200);
    token(&server, "t", some("b"));
    let ended = client.response(false);
    if ended.status == 503 {
        // The list was still being run: its client repeats the request.
        assert_eq!(ended.json()["errors"][0]["code"], "too_expensive");
    } else {
        assert_eq!(ended.expect(200).json()["streams"], json!([]));
    }
    server.put("/streams/b/1", json!({})).expect(200);
    let list = get(&server, &key, "/streams?poll_timeout=50")
        .expect(200)
        .json();
    assert_eq!(list["streams"][0]["name"], "b/1");
}
