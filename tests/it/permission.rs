//! What a token may change: everything that a change reaches, and the credentials in it.

use serde_json::{Value, json};

use crate::auth::cluster;
use crate::restricted::token;
use crate::stub::{Stub, StubResponse};
use weir_testkit::{PREFIX, Response, TestServer};

/// Saves a token with every action on some scopes; its `Authorization` header.
fn everything_on(server: &TestServer, scopes: &[&str]) -> String {
    let actions = ["list", "read", "write", "execute"];
    allowed(server, scopes, &actions)
}

/// Saves a token with some actions on each of some scopes; its `Authorization` header.
fn allowed(server: &TestServer, scopes: &[&str], actions: &[&str]) -> String {
    let permission = |scope: &&str| {
        let mut permission = json!({"scopes": [scope]});
        for action in actions {
            permission[*action] = json!(true);
        }
        permission
    };
    let permissions: Vec<Value> = scopes.iter().map(permission).collect();
    token(server, "limited", json!({ "permissions": permissions }))
}

fn send(server: &TestServer, method: &str, path: &str, body: &Value, token: &str) -> Response {
    let target = format!("{PREFIX}{path}");
    let fields = [("Authorization", token)];
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    server
        .connect()
        .request(method, &target, &fields, body.as_bytes())
}

/// The response is 403 and names exactly these permissions; a number counts hidden entities.
#[track_caller]
fn lacks(answer: Response, missing: &[&str]) {
    let page = answer.expect(403).json();
    let named: Vec<String> = page["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .map(|error| {
            assert_eq!(error["code"], "forbidden", "{page}");
            let meta = &error["meta"];
            let text = |name: &str| meta[name].as_str().unwrap_or_default().to_owned();
            let hidden = text("hidden");
            let gap = if hidden.is_empty() { "" } else { " " };
            format!("{} {}{gap}{hidden}", text("needs"), text("on"))
        })
        .collect();
    assert_eq!(named, missing, "{page}");
}

fn node(key: &str) -> Value {
    json!({"role": "streamer", "cluster_key": key})
}

#[test]
fn deleting_an_agent_needs_the_right_to_its_streams() {
    for arguments in [&[][..], &["--layouter-enabled"]] {
        let mut server = TestServer::with(arguments);
        server
            .put("/agents/a1", json!({"key": "agent-key"}))
            .expect(200);
        let via = json!({"inputs": [{"url": "rtsp://10.0.0.1/", "via": "agent://a1"}]});
        for name in ["mine/1", "mine/2", "foreign"] {
            server
                .put(&format!("/streams/{name}"), via.clone())
                .expect(200);
        }
        let delete = |server: &TestServer, token: &str| {
            send(server, "DELETE", "/agents/a1", &Value::Null, token)
        };
        let agents = everything_on(&server, &["agents/*"]);
        lacks(delete(&server, &agents), &["write streams 3"]);
        // Streams that it may see are named.
        let some = everything_on(&server, &["agents/*", "streams/mine%2F1"]);
        assert_eq!(some, agents, "the key of the token stays");
        lacks(delete(&server, &some), &["write streams 2"]);
        allowed(&server, &["agents/*", "streams/mine%2F*"], &["write"]);
        lacks(delete(&server, &some), &["write streams 1"]);
        let body = json!({"permissions": [
            {"scopes": ["agents/*"], "write": true},
            {"scopes": ["streams/*"], "read": true},
        ]});
        token(&server, "limited", body);
        let all = [
            "write streams/foreign",
            "write streams/mine/1",
            "write streams/mine/2",
        ];
        lacks(delete(&server, &some), &all);
        server.restart();
        lacks(delete(&server, &some), &all);
        assert_eq!(server.get("/streams").json()["estimated_count"], 3);
        server.get("/agents/a1").expect(200);

        allowed(&server, &["agents/a1", "streams/*"], &["write"]);
        delete(&server, &some).expect(204);
        assert_eq!(server.get("/streams").json()["estimated_count"], 0);
    }
}

#[test]
fn batches_need_the_right_to_each_item() {
    // Goal: the right to a collection as a whole is none to its items. Method: a token with the
    // scope that only operations on the whole collection demand.
    let server = TestServer::new();
    let stored = json!({"inputs": [{"url": "rtsp://user:password@10.0.0.1/"}]});
    server.put("/streams/a", stored.clone()).expect(200);
    server.put("/streamers/h", node("k")).expect(200);
    server
        .put("/agents/d", json!({"key": "agent-key"}))
        .expect(200);
    let batches = [
        (
            "PUT",
            "/streams/batch",
            json!([{"name": "a", "title": "t"}]),
            "write streams/a",
        ),
        (
            "POST",
            "/streams/layouts",
            json!({"layouts": [{"name": "a", "ingest": "h"}]}),
            "write streams/a",
        ),
        (
            "PUT",
            "/streamers/batch",
            json!([{"hostname": "h", "channel_limit": 1}]),
            "write streamers/h",
        ),
        (
            "POST",
            "/agents/layouts",
            json!({"layouts": [{"id": "d", "ingest": "h"}]}),
            "write agents/d",
        ),
    ];
    let before = ["/streams/a", "/streamers/h", "/agents/d"].map(|path| server.get(path).json());
    let whole = everything_on(&server, &["streams", "streamers", "agents"]);
    for (method, path, body, missing) in &batches {
        lacks(send(&server, method, path, body, &whole), &[missing]);
    }
    // Neither is a guess of what is stored answered, nor whether something is.
    let mut guess = stored;
    guess["name"] = "a".into();
    let guess = json!([guess, {"name": "b", "disabled": true}]);
    let missing = ["write streams/a", "write streams/b"];
    lacks(
        send(&server, "PUT", "/streams/batch", &guess, &whole),
        &missing,
    );
    let unknown = json!({"layouts": [{"name": "nothing", "ingest": "h"}]});
    let refused = send(&server, "POST", "/streams/layouts", &unknown, &whole);
    lacks(refused, &["write streams/nothing"]);
    let after = ["/streams/a", "/streamers/h", "/agents/d"].map(|path| server.get(path).json());
    assert_eq!(before, after);

    everything_on(&server, &["streams/*", "streamers/*", "agents/*"]);
    for (method, path, body, _) in &batches {
        send(&server, method, path, body, &whole).expect(204);
    }
    // One foreign item refuses the whole batch.
    everything_on(&server, &["streams", "streams/a*"]);
    let batch = json!([{"name": "a", "title": "u"}, {"name": "b"}]);
    let refused = send(&server, "PUT", "/streams/batch", &batch, &whole);
    lacks(refused, &["write streams/b"]);
    assert_eq!(server.get("/streams/a").json()["title"], "t");
    let mine = json!([{"name": "a", "title": "u"}]);
    send(&server, "PUT", "/streams/batch", &mine, &whole).expect(204);
}

#[test]
fn setting_a_credential_needs_what_it_opens() {
    let server = TestServer::with(&["--outbound-loopback"]);
    let secret = json!({
        "inputs": [{"url": "rtsp://user:password@10.0.0.1/"}], "layout": {"ingest": "h"},
    });
    server.put("/streamers/h", node("stored-key")).expect(200);
    server.put("/streams/a", secret).expect(200);
    server
        .put("/agents/d", json!({"key": "agent-key"}))
        .expect(200);
    let writes = allowed(
        &server,
        &["streamers/*", "agents/*"],
        &["list", "read", "write"],
    );
    let put = |path: &str, body: Value| send(&server, "PUT", path, &body, &writes);

    let opens_h = ["execute streamers/h"];
    for body in [
        json!({"cluster_key": "mine"}),
        // A guess of the stored key is not confirmed.
        json!({"cluster_key": "stored-key"}),
        json!({"api_url": "http://10.0.0.9"}),
        json!({"config": {"rproxy": {"streampoint_key": "mine"}}}),
        json!({"config": {"cluster_key": "mine"}}),
    ] {
        lacks(put("/streamers/h", body.clone()), &opens_h);
        let mut item = body;
        item["hostname"] = "h".into();
        lacks(put("/streamers/batch", json!([item])), &opens_h);
    }
    lacks(
        put("/streamers/new", node("mine")),
        &["execute streamers/new"],
    );
    lacks(
        put("/agents/d", json!({"key": "mine"})),
        &["execute agents/d"],
    );
    lacks(
        put("/agents/new", json!({"key": "mine"})),
        &["execute agents/new"],
    );
    let config = "/streamers/h/streams";
    let signed = cluster("mine", 0);
    server.call_as("GET", config, Some(&signed)).expect(403);
    let signed = cluster("stored-key", 0);
    server.call_as("GET", config, Some(&signed)).expect(200);
    // A check is not made for a save that is not allowed.
    let node = Stub::new(StubResponse::with(200, "", "{}"));
    let body = json!({"cluster_key": "mine", "api_url": node.url("")});
    lacks(put("/streamers/h?checks_enable=true", body), &opens_h);
    assert_eq!(node.calls(), 0);

    // What was read is written back without the right.
    for path in ["/streamers/h", "/agents/d"] {
        let mut read = server
            .call_as("GET", path, Some(&writes))
            .expect(200)
            .json();
        read["comment"] = "edited".into();
        put(path, read).expect(200);
    }
    put("/streamers/h", json!({"channel_limit": 3})).expect(200);
    server.call_as("GET", config, Some(&signed)).expect(200);

    allowed(&server, &["streamers/*", "agents/*"], &["write", "execute"]);
    put("/streamers/h", json!({"cluster_key": "mine"})).expect(200);
    put("/agents/d", json!({"key": "mine"})).expect(200);
    let signed = cluster("mine", 0);
    server.call_as("GET", config, Some(&signed)).expect(200);
}
