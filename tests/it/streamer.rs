//! Streamers: saving, reading and deleting nodes of every role.

use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use crate::auth::cluster;
use crate::calls::{keys, poll_as_streamer, save_node};
use crate::restricted::token;
use crate::stub::{Call, Stub, StubResponse};
use weir_testkit::{PREFIX, Response, TestServer, wait_until};

#[test]
fn a_node_needs_role_and_key_at_creation_only() {
    let server = TestServer::new();
    let table = [
        (json!({}), "discriminator_missing /role"),
        (json!({"cluster_key": "k"}), "discriminator_missing /role"),
        (json!({"role": "streamer"}), "missing_required /cluster_key"),
        (
            json!({"role": "inference"}),
            "missing_required /cluster_key",
        ),
        (
            json!({"role": "boss", "cluster_key": "k"}),
            "discriminator_unmapped /role",
        ),
        (json!({"role": 5, "cluster_key": "k"}), "not_string /role"),
        (
            json!({"role": "streamer", "cluster_key": 5}),
            "not_string /cluster_key",
        ),
        (
            json!({"role": "streamer", "cluster_key": "k", "channel_limit": "many"}),
            "not_integer /channel_limit",
        ),
        (
            json!({"role": "streamer", "cluster_key": "k", "labels": {"a": "b c"}}),
            "nomatch_pattern /labels/a",
        ),
        (
            json!({"role": "streamer", "cluster_key": "k", "hostname": "s2"}),
            "key_mismatch /hostname",
        ),
        (json!([]), "not_object "),
    ];
    for (body, error) in table {
        let answer = server.put("/streamers/s1", body.clone()).expect(400);
        assert_eq!(answer.errors(), [error], "{body}");
    }
    server.get("/streamers/s1").expect(404);
    server
        .put(
            "/streamers/s1",
            json!({"role": "streamer", "cluster_key": "k"}),
        )
        .expect(200);
    let saved = server
        .put("/streamers/s1", json!({"channel_limit": 5}))
        .expect(200)
        .json();
    assert_eq!(saved["role"], "streamer");
    assert_eq!(saved["channel_limit"], 5);
    let answer = server
        .put("/streamers/s1", json!({"role": null}))
        .expect(400);
    assert_eq!(answer.errors(), ["discriminator_missing /role"]);
    let answer = server
        .put("/streamers/s1", json!({"cluster_key": null}))
        .expect(400);
    assert_eq!(answer.errors(), ["missing_required /cluster_key"]);
}

#[test]
fn every_role_can_be_saved_and_keeps_to_its_fields() {
    let mut server = TestServer::new();
    for role in ["streamer", "inference", "identification"] {
        let path = format!("/streamers/{role}.example.com:8080");
        let node = json!({
            "role": role, "cluster_key": "k", "api_url": "http://10.0.0.1:8080", "channel_limit": 7,
            "nonsense": 1,
            "updated_at": 5, "stats": {"status": "running"}, "dvrs": [{"root": "/"}],
        });
        let saved = server.put(&path, node).expect(200).json();
        assert_eq!(saved["hostname"], format!("{role}.example.com:8080"));
        assert_eq!(
            (&saved["role"], &saved["channel_limit"]),
            (&json!(role), &json!(7))
        );
        assert_eq!(saved["stats"], Value::Null, "it has not reported yet");
        assert_eq!((saved.get("nonsense"), saved.get("dvrs")), (None, None));
        assert!(saved["updated_at"].as_u64() > Some(1_000_000_000_000));
        let same = server
            .put(&path, json!({"channel_limit": 7}))
            .expect(200)
            .json();
        assert_eq!(same, saved, "no change, no stamp");
    }
    let before = server.get("/streamers").json()["streamers"].clone();
    server.restart();
    assert_eq!(server.get("/streamers").json()["streamers"], before);
}

#[test]
fn hostnames_are_checked() {
    let server = TestServer::new();
    let node = json!({"role": "streamer", "cluster_key": "k"});
    let long = "h".repeat(254);
    for hostname in ["a%20b", "%C3%A9", "a%2Fb", "..", "layouts", "a,b", &long] {
        let answer = server
            .put(&format!("/streamers/{hostname}"), node.clone())
            .expect(400);
        assert_eq!(answer.errors(), ["wrong_format hostname"], "{hostname}");
    }
    server.put("/streamers/a/b", node).expect(404);
}

#[test]
fn batch_of_nodes_is_saved_completely_or_not_at_all() {
    let server = TestServer::new();
    server
        .put(
            "/streamers/old",
            json!({"role": "streamer", "cluster_key": "k"}),
        )
        .expect(200);
    let before = server.get("/streamers").json()["streamers"].clone();
    let good = json!({"hostname": "s1", "role": "streamer", "cluster_key": "k"});
    let table = [
        (json!({}), 400, "not_array "),
        (json!([good, 1]), 400, "not_object /1"),
        (
            json!([good, {"role": "streamer"}]),
            400,
            "missing_required /1/hostname",
        ),
        (json!([good, good]), 400, "duplicate_item /1/hostname"),
        (
            json!([good, {"hostname": "a b"}]),
            400,
            "wrong_format /1/hostname",
        ),
        (
            json!([good, {"hostname": "s2", "role": "streamer"}]),
            400,
            "missing_required /1/cluster_key",
        ),
        (
            json!([good, {"hostname": "old", "channel_limit": {}}]),
            400,
            "not_integer /1/channel_limit",
        ),
        (
            json!([good, {"hostname": "old", "namespace": "n"}]),
            400,
            "immutable_field /1/namespace",
        ),
    ];
    for (body, status, error) in table {
        let answer = server.put("/streamers/batch", body.clone()).expect(status);
        assert_eq!(answer.errors(), [error], "{body}");
        assert_eq!(
            server.get("/streamers").json()["streamers"],
            before,
            "after {body}"
        );
    }
    let many: Value = (0..10_001)
        .map(|i| json!({"hostname": format!("h{i}"), "role": "streamer", "cluster_key": "k"}))
        .collect();
    assert_eq!(
        server.put("/streamers/batch", many).expect(413).errors(),
        ["too_many_items "]
    );
    assert_eq!(server.get("/streamers").json()["streamers"], before);
    server
        .put(
            "/streamers/batch",
            json!([good, {"hostname": "old", "channel_limit": 1}]),
        )
        .expect(204);
    assert_eq!(server.get("/streamers").json()["estimated_count"], 2);
    assert_eq!(server.get("/streamers/old").json()["channel_limit"], 1);
}

#[test]
fn masked_cluster_key_sent_back_is_kept() {
    let server = TestServer::new();
    let node = json!({
        "role": "streamer", "cluster_key": "canary-key",
        "api_url": "http://u:canary-pw@10.0.0.1:8080",
    });
    let saved = server.put("/streamers/s1", node).expect(200).json();
    assert_eq!(saved["cluster_key"], "canary-key");
    let listed = server.get("/streamers").json()["streamers"][0].clone();
    assert_eq!(listed["cluster_key"], "***");
    assert_eq!(listed["api_url"], "http://u:***@10.0.0.1:8080");
    let mut edited = listed;
    edited["channel_limit"] = 9.into();
    let again = server.put("/streamers/s1", edited).expect(200).json();
    assert_eq!(again["cluster_key"], "canary-key");
    assert_eq!(again["api_url"], "http://u:canary-pw@10.0.0.1:8080");
    assert_eq!(again["channel_limit"], 9);
}

#[test]
fn deleting_a_node_leaves_its_layouts() {
    let server = TestServer::new();
    let node = json!({"role": "streamer", "cluster_key": "k"});
    server.put("/streamers/s1", node.clone()).expect(200);
    server
        .put("/streams/a", json!({"layout": {"ingest": "s1"}}))
        .expect(200);
    let placed = server.get("/streams/a").json();
    server.delete("/streamers/s1").expect(204);
    for (method, path) in [
        ("GET", "/streamers/s1"),
        ("DELETE", "/streamers/s1"),
        ("GET", "/streamers/s1/streams"),
    ] {
        assert_eq!(
            server.call(method, path, b"").expect(404).errors(),
            ["streamer_not_found"]
        );
    }
    assert_eq!(server.get("/streams/a").json(), placed);
    // Saving the stream again is possible; placing another one there is not.
    server.put("/streams/a", json!({"title": "t"})).expect(200);
    server
        .put("/streams/b", json!({"layout": {"ingest": "s1"}}))
        .expect(400);
    server.put("/streamers/s1", node).expect(200);
    assert_eq!(
        server.get("/streamers/s1/streams").expect(200).json()["streams"][0]["name"],
        "a"
    );
}

// ---- checks before a save -----------------------------------------------------------------------

const CONFIG: &str = r#"{"listeners":{"http":[{"port":8080}]}}"#;

#[track_caller]
fn refused(answer: &Response, reason: &str) {
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(answer.errors(), ["streamer_check_failed checks_enable"]);
    assert_eq!(answer.json()["errors"][0]["meta"]["reason"], reason);
}

/// The call read the configuration of a node with this key.
#[track_caller]
fn expect_config_request(call: &Call, key: &str) {
    assert_eq!(call.path, "/streamer/api/v3/config");
    let given = call.headers["authorization"].strip_prefix("Cluster ");
    let (time, hash) = given.and_then(|it| it.split_once(':')).expect("a key");
    let expected: String = Sha1::digest(format!("{time}:{key}"))
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hash, expected, "the key {key}");
}

#[test]
fn node_is_saved_if_the_check_reads_its_configuration() {
    let server = TestServer::with(&["--outbound-loopback"]);
    let node = Stub::new(StubResponse::with(200, "", CONFIG));
    let body = json!({"role": "streamer", "cluster_key": "k1", "api_url": node.url("/")});
    server
        .put("/streamers/s1?checks_enable=false", body.clone())
        .expect(200);
    assert_eq!(node.calls(), 0, "no check was requested");
    server.delete("/streamers/s1").expect(204);

    let path = "/streamers/s1?checks_enable=true";
    let saved = server.put(path, body.clone()).expect(200).json();
    assert_eq!(saved, server.get("/streamers/s1").json());
    expect_config_request(&node.call(), "k1");

    // The call uses the node as it is after the save: from the body, the rest from the store.
    server.put(path, json!({"cluster_key": "k2"})).expect(200);
    expect_config_request(&node.call(), "k2");
    let elsewhere = Stub::new(StubResponse::with(200, "", CONFIG));
    let moved = json!({"api_url": elsewhere.url(""), "cluster_key": "k2"});
    server.put(path, moved).expect(200);
    expect_config_request(&elsewhere.call(), "k2");
    assert_eq!(node.calls(), 0);

    let other = server.put("/streamers/s1?checks_enable=perhaps", body);
    assert_eq!(other.expect(400).errors(), ["not_boolean checks_enable"]);
}

#[test]
fn node_is_not_saved_if_the_check_fails() {
    let server = TestServer::with(&["--outbound-loopback"]);
    let node = Stub::new(StubResponse::Close);
    let body = json!({"role": "streamer", "cluster_key": "k1", "api_url": node.url("")});
    let path = "/streamers/s1?checks_enable=true";
    let bad = [
        (StubResponse::Close, "unreachable"),
        (StubResponse::status(403), "status"),
        (StubResponse::with(302, "Location: /\r\n", CONFIG), "status"),
        (
            StubResponse::with(200, "", "<html>a page</html>"),
            "bad_answer",
        ),
        (StubResponse::with(200, "", "[]"), "bad_answer"),
    ];
    for (response, reason) in &bad {
        node.respond_with(response.clone());
        refused(&server.put(path, body.clone()), reason);
        server.get("/streamers/s1").expect(404);
    }
    let nobody = json!({"role": "streamer", "cluster_key": "k1", "api_url": "http://127.0.0.1:1"});
    refused(&server.put(path, nobody), "unreachable");
    node.calls();

    node.respond_with(StubResponse::with(200, "", CONFIG));
    let saved = server.put(path, body).expect(200).json();
    node.call();
    for (response, reason) in bad {
        node.respond_with(response);
        let change = json!({"cluster_key": "wrong", "channel_limit": 7});
        refused(&server.put(path, change), reason);
        assert_eq!(server.get("/streamers/s1").json(), saved, "{reason}");
    }
    let log = server.get("/events?operation_id=streamer_save").json();
    assert_eq!(log["estimated_count"], 1, "of what was saved: {log}");

    // An invalid save is refused without an outbound call.
    node.calls();
    let answer = server.put(path, json!({"channel_limit": "many"}));
    assert_eq!(answer.expect(400).errors(), ["not_integer /channel_limit"]);
    assert_eq!(node.calls(), 0);
}

#[test]
fn stored_key_is_not_sent_to_an_address_in_the_same_request() {
    let mut server = TestServer::with(&["--outbound-loopback"]);
    let node = Stub::new(StubResponse::with(200, "", CONFIG));
    let elsewhere = Stub::new(StubResponse::with(200, "", CONFIG));
    let stored = json!({"role": "streamer", "cluster_key": "k1", "api_url": node.url("")});
    server.put("/streamers/s1", stored).expect(200);
    let path = "/streamers/s1?checks_enable=true";
    for round in ["before", "after a restart"] {
        for key in [json!({}), json!({"cluster_key": "***"})] {
            for url in [
                json!(elsewhere.url("")),
                json!(elsewhere.url("/below")),
                json!(node.url("/tenant")),
                json!(null),
            ] {
                let mut body = key.clone();
                body["api_url"] = url;
                let answer = server.put(path, body).expect(400);
                let error = ["key_needed_for_check /cluster_key"];
                assert_eq!(answer.errors(), error, "{round}");
            }
        }
        assert_eq!((node.calls(), elsewhere.calls()), (0, 0), "{round}");
        server.restart();
    }
    // A check at the stored address needs no key; a user in the URL replaces it.
    server.put(path, json!({"channel_limit": 5})).expect(200);
    expect_config_request(&node.call(), "k1");
    let own = elsewhere.url("").replace("http://", "http://user:pw@");
    server.put(path, json!({"api_url": own})).expect(200);
    let sent = elsewhere.call().headers["authorization"].clone();
    assert!(sent.starts_with("Basic "), "{sent}");
    // The key was not sent there, so a URL without the user is a new address for it.
    let bare = json!({"api_url": elsewhere.url("")});
    let answer = server.put(path, bare).expect(400);
    assert_eq!(answer.errors(), ["key_needed_for_check /cluster_key"]);
    assert_eq!(elsewhere.calls(), 0);
}

#[test]
fn failed_checks_look_alike_to_tokens() {
    let server = TestServer::with(&["--outbound-loopback"]);
    let body =
        json!({"permissions": [{"scopes": ["streamers/*"], "write": true, "execute": true}]});
    let token = crate::restricted::token(&server, "t", body);
    let save = |url: String| {
        let body = json!({"role": "streamer", "cluster_key": "k1", "api_url": url}).to_string();
        let path = format!("{PREFIX}/streamers/s1?checks_enable=true");
        let fields = [("Authorization", token.as_str())];
        let answer = server
            .connect()
            .request("PUT", &path, &fields, body.as_bytes());
        answer.expect(400).json()["errors"].clone()
    };
    let node = Stub::new(StubResponse::Close);
    let mut seen = vec![
        save("http://127.0.0.1:1".to_owned()),
        save("http://169.254.169.254".to_owned()),
    ];
    for response in [
        StubResponse::Close,
        StubResponse::status(403),
        StubResponse::with(200, "", "[]"),
    ] {
        node.respond_with(response);
        seen.push(save(node.url("")));
    }
    // A call whose connection breaks is repeated.
    assert!(node.calls() >= 3);
    for errors in &seen {
        assert_eq!(errors[0]["code"], "streamer_check_failed", "{errors}");
        assert_eq!(errors, &seen[0]);
    }
}

#[test]
fn check_respects_the_egress_policy() {
    let server = TestServer::new();
    let node = Stub::new(StubResponse::with(200, "", CONFIG));
    let body = json!({"role": "streamer", "cluster_key": "k1", "api_url": node.url("")});
    let answer = server.put("/streamers/s1?checks_enable=true", body);
    refused(&answer, "address_not_allowed");
    assert_eq!(node.calls(), 0);
    server.get("/streamers/s1").expect(404);
}

/// The state of a streamer, as the list shows it.
fn state_of(server: &TestServer, host: &str) -> Value {
    let list = server.get(&format!("/streamers?hostname={host}&select=state"));
    list.expect(200).json()["streamers"][0]["state"].take()
}

/// Waits until a filter of the list finds the streamer in a state, which is returned.
fn until_state(server: &TestServer, name: &str, cause: &str) -> Value {
    let path = format!("/streamers?state.name={name}&state.cause={cause}&select=state");
    let look = || server.get(&path).expect(200).json();
    let list = wait_until(&path, look, |list| list["estimated_count"] == 1);
    list["streamers"][0]["state"].clone()
}

fn name_and_cause(state: &Value) -> (&str, &str) {
    let text = |member: &str| state[member].as_str().unwrap_or("");
    (text("name"), text("cause"))
}

#[test]
fn state_shows_whether_a_streamer_is_relied_on() {
    // Goal: every state with its times, in lists and filters, with the layouter off. Method: a
    // streamer is saved, seen, silent, back and trusted again; the server is restarted.
    let mut server = TestServer::with(&["--streamer-dead-timeout", "4s"]);
    save_node(&server, "s1");
    assert_eq!(
        server.get("/streamers/s1").expect(200).json()["state"],
        json!({"name": "unknown", "cause": "not_seen_yet", "code": "unsure"})
    );
    poll_as_streamer(&server, "s1");
    let state = until_state(&server, "up", "seen");
    let seen_at = state["seen_at"].as_u64().expect("a time");
    assert!(state["since"].as_u64() <= Some(seen_at), "{state}");
    assert_eq!(state["hold_until"], Value::Null);

    let state = until_state(&server, "offline", "silent");
    assert_eq!(state["code"], "down");
    assert_eq!(state["seen_at"], seen_at);
    assert!(state["since"].as_u64() > Some(seen_at), "{state}");
    poll_as_streamer(&server, "s1");
    let state = until_state(&server, "held", "returned");
    assert_eq!(state["code"], "probation");
    let time = |member: &str| state[member].as_u64().expect("a time");
    assert_eq!(time("hold_until") - time("since"), 4000);
    wait_until(
        "it is trusted again",
        || {
            poll_as_streamer(&server, "s1");
            state_of(&server, "s1")
        },
        |state| name_and_cause(state) == ("up", "hold_over"),
    );

    server.restart();
    let state = state_of(&server, "s1");
    assert_eq!(
        state,
        json!({"name": "unknown", "cause": "not_seen_yet", "code": "unsure"})
    );
    let look = || state_of(&server, "s1");
    let lost = wait_until("it did not come back", look, |state| {
        name_and_cause(state).0 != "unknown"
    });
    assert_eq!(name_and_cause(&lost), ("offline", "never_seen"));
    assert_eq!(lost["seen_at"], Value::Null);
    // A saved document is written back as it was read.
    let read = server.get("/streamers/s1").expect(200).json();
    server.put("/streamers/s1", read).expect(200);
}

#[test]
fn restricted_token_sees_the_state_of_its_streamers_only() {
    let server = TestServer::new();
    for host in ["s1", "s2"] {
        save_node(&server, host);
        poll_as_streamer(&server, host);
    }
    wait_until(
        "both are up",
        || (state_of(&server, "s1"), state_of(&server, "s2")),
        |(a, b)| a["name"] == "up" && b["name"] == "up",
    );
    let scopes = json!([{"scopes": ["streamers/s1"], "list": true, "read": true}]);
    let own = token(&server, "own", json!({"permissions": scopes}));
    let list = server.call_as(
        "GET",
        "/streamers?state.name=up&sort=state.since",
        Some(&own),
    );
    let list = list.expect(200).json();
    assert_eq!(
        (&list["estimated_count"], &list["streamers"][0]["hostname"]),
        (&json!(1), &json!("s1"))
    );
    server
        .call_as("GET", "/streamers/s2", Some(&own))
        .expect(403);
}

#[test]
fn health_check_follows_from_the_report() {
    // Goal: `healthcheck_status` is made by the server, from what it knows, and can be searched.
    // Method: reports with and without faults, by the streamer itself and by an administrator.
    let server = TestServer::new();
    save_node(&server, "s1");
    let check =
        || server.get("/streamers/s1").expect(200).json()["stats"]["healthcheck_status"].take();
    let report = |stats: Value| {
        server
            .put("/streamers/s1/stats", json!({"stats": stats}))
            .expect(204);
    };
    let utc_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let utc_ms = utc_ms.expect("after 1970").as_millis() as u64;
    report(json!({
        "now": utc_ms, "streamer_status": "running",
        "healthcheck_status": {"status": "error"},
    }));
    let good = check();
    let checks = json!({
        "config_ok": true, "errors_details": [], "reachable": true, "running": true,
        "time_synchronized": true,
    });
    assert_eq!((&good["status"], &good["checks"]), (&json!("ok"), &checks));
    report(json!({"now": utc_ms, "streamer_status": "running", "cpu_usage": 5}));
    assert_eq!(check(), good, "the same result, since the same time");
    let failed = json!({
        "now": utc_ms - 3_600_000, "streamer_status": "starting",
        "config_external_status": {"status": "error"}, "rproxy": true, "rproxy_running": false,
    });
    let own = cluster("key", 0);
    let body = json!({"stats": failed}).to_string();
    let path = format!("{PREFIX}/streamers/s1/stats");
    let fields = [("Authorization", own.as_str())];
    let mut client = server.connect();
    client
        .request("PUT", &path, &fields, body.as_bytes())
        .expect(204);
    let bad = check();
    assert_eq!(bad["status"], "error");
    assert_eq!(bad["checks"]["valid_cluster_key"], true);
    let rules = bad["checks"]["errors_details"]
        .as_array()
        .expect("a list")
        .iter();
    let rules: Vec<&str> = rules.filter_map(|it| it["rule"].as_str()).collect();
    assert_eq!(
        rules,
        [
            "config_external_ok",
            "rproxy_ok",
            "running",
            "time_synchronized"
        ]
    );
    let search = "/streamers?stats.healthcheck_status.status=error&select=hostname";
    assert_eq!(
        keys(
            &server.get(search).expect(200).json(),
            "streamers",
            "hostname"
        ),
        ["s1"]
    );
}
