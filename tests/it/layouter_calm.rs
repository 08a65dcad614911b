//! The layouter from the outside: long chains, deleted streamers, layouts that labels forbid, and
//! what is a sign of life.

use serde_json::{Value, json};

use crate::auth::cluster;
use crate::fleet::{Fleet, ingests, save_all, save_streamer, server};
use weir_testkit::{API_KEY, PREFIX, TestServer, wait_until};

fn ingest(server: &TestServer, name: &str) -> Value {
    let stream = server.get(&format!("/streams/{name}")).expect(200).json();
    stream["layout"]["ingest"].clone()
}

#[test]
fn wishes_of_all_streams_are_met() {
    let server = server(&[]);
    let mut fleet = Fleet::new();
    for n in 0..4 {
        let mine = (n..400).step_by(4);
        let labels: serde_json::Map<String, Value> =
            mine.map(|s| (format!("wish{s}"), json!("1"))).collect();
        save_streamer(&server, &format!("s{n}"), json!({"labels": labels}));
    }
    fleet.join(&server, &["s0", "s1", "s2", "s3"]);
    let wishing = |s: usize| {
        let labels = json!({format!("preferred.wish{s}"): "1"});
        json!({"name": format!("w{s}"), "labels": labels})
    };
    let batch: Vec<Value> = (0..400).map(wishing).collect();
    server.put("/streams/batch", json!(batch)).expect(204);
    let all = fleet.settle(&server);
    for s in 0..400 {
        let host = all[&format!("w{s}")].as_deref();
        assert_eq!(host, Some(&*format!("s{}", s % 4)), "w{s}");
    }
}

#[test]
fn chain_of_four_moves_places_one_more_stream() {
    let server = server(&[]);
    for n in 0..5_usize {
        let mut labels = json!({format!("p{n}"): "1"});
        labels[format!("p{}", n.saturating_sub(1))] = json!("1");
        if n == 0 {
            labels["first"] = json!("1");
        }
        let more = json!({"channel_limit": 1, "labels": labels});
        save_streamer(&server, &format!("s{n}"), more);
    }
    let mut fleet = Fleet::new();
    fleet.join(&server, &["s0", "s1", "s2", "s3", "s4"]);
    for i in 0..4 {
        let labels = json!({format!("required.p{i}"): "1"});
        let layout = json!({"ingest": format!("s{i}")});
        let body = json!({"labels": labels, "layout": layout});
        server.put(&format!("/streams/c{i}"), body).expect(200);
    }
    let body = json!({"labels": {"required.first": "1"}});
    server.put("/streams/last", body).expect(200);
    let all = fleet.settle(&server);
    assert_eq!(all["last"].as_deref(), Some("s0"), "{all:?}");
}

#[test]
fn streams_of_deleted_streamers_have_no_ingest() {
    let server = server(&[]);
    for host in ["s1", "s2"] {
        save_streamer(&server, host, json!({"channel_limit": 30}));
    }
    let mut fleet = Fleet::new();
    fleet.join(&server, &["s1", "s2"]);
    save_all(&server, (0..50).map(|i| format!("c{i}")), &json!({}));
    fleet.settle(&server);
    fleet.stop_all(&["s1", "s2"]);
    for host in ["s1", "s2"] {
        server.delete(&format!("/streamers/{host}")).expect(204);
    }
    wait_until(
        "no stream has an ingest",
        || ingests(&server),
        |all| all.values().all(Option::is_none),
    );
}

#[test]
fn layouts_that_labels_forbid_need_force() {
    // The rule is the same with and without the layouter.
    let server = TestServer::new();
    save_streamer(&server, "north", json!({"labels": {"zone": "north"}}));
    save_streamer(
        &server,
        "south",
        json!({"labels": {"required.tenant": "t"}}),
    );
    let body = json!({"labels": {"required.zone": "north"}});
    server.put("/streams/a", body).expect(200);
    server.put("/streams/b", json!({})).expect(200);
    let place = |layout: Value| server.post("/streams/layouts", json!({"layouts": [layout]}));
    for (name, reason) in [
        ("a", "node_misses_stream_required_labels"),
        ("b", "stream_misses_node_required_labels"),
    ] {
        let refused = place(json!({"name": name, "ingest": "south"})).expect(409);
        let error = &refused.json()["errors"][0];
        assert_eq!(error["code"], "illegal_layout", "{error}");
        assert_eq!(error["source"]["pointer"], "/layouts/0/ingest", "{error}");
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(ingest(&server, name), Value::Null);
    }
    place(json!({"name": "a", "ingest": "north"})).expect(204);
    place(json!({"name": "a", "ingest": "south", "force": true})).expect(204);
    assert_eq!(ingest(&server, "a"), "south");
    place(json!({"name": "a", "ingest": "north", "force": "yes"})).expect(400);
    // What is there already is not judged again.
    place(json!({"name": "a", "ingest": "south", "dvr_backups": ["north"]})).expect(204);
}

#[test]
fn one_look_of_a_person_is_no_sign_of_life() {
    look_once("/streamers/s1/streams");
    // Nor if the handler is called again on another thread.
    let names: Vec<String> = (0..600).map(|n| format!("stream{n}")).collect();
    look_once(&format!(
        "/streamers/s1/update-streams?name={}",
        names.join(",")
    ));
}

/// Looks at a streamer that does not poll, and sees that it gets no stream.
fn look_once(path: &str) {
    let server = server(&[]);
    save_streamer(&server, "s1", json!({}));
    save_streamer(&server, "s2", json!({}));
    server.put("/streams/c", json!({})).expect(200);
    let mut client = server.connect();
    let path = format!("{PREFIX}{path}");
    let bearer = format!("Bearer {API_KEY}");
    let administrator = ("Authorization", bearer.as_str());
    client
        .request("GET", &path, &[administrator], b"")
        .expect(200);
    for _ in 0..3 {
        let fields = [administrator, ("X-Weir-UI", "1")];
        client.request("GET", &path, &fields, b"").expect(200);
    }
    // The streamer that does poll gets the stream; if s1 were alive, it would have got it before.
    let own = cluster("key", 0);
    let path = format!("{PREFIX}/streamers/s2/streams");
    client
        .request("GET", &path, &[("Authorization", own.as_str())], b"")
        .expect(200);
    let look = || ingest(&server, "c");
    wait_until("the stream is placed", look, |host| host == "s2");
    let why = server.get("/streams/c/layout/explain").expect(200).json();
    let nodes = why["nodes"].as_array().expect("nodes");
    let s1 = nodes.iter().find(|node| node["hostname"] == "s1");
    let reasons = &s1.expect("s1 is explained")["reasons"];
    assert_eq!(*reasons, json!(["node_offline"]), "{why}");
}
