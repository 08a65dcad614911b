//! Previews of saves and losses, explanations of layouts, and capacity.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::calls::poll_as_streamer;
use weir_testkit::{TestServer, encode_segment};

/// A cluster of three streamers that were seen, one of them in the north, with streams that are
/// placed.
fn cluster(streams: usize) -> TestServer {
    let server = TestServer::with(&["--layouter-enabled"]);
    for (host, labels) in [
        ("s1", json!({"zone": "north"})),
        ("s2", json!({})),
        ("s3", json!({})),
    ] {
        let body = json!({
            "role": "streamer", "cluster_key": "key", "labels": labels, "channel_limit": 100,
        });
        server.put(&format!("/streamers/{host}"), body).expect(200);
        poll_as_streamer(&server, host);
    }
    let items: Vec<Value> = (0..streams)
        .map(|i| json!({"name": format!("c{i:02}"), "static": true}))
        .collect();
    server
        .put("/streams/batch", Value::Array(items))
        .expect(204);
    wait_for(&server, "layout.ingest_is_not=null", streams);
    server
}

/// Waits until this many streams match. Each round waits for the next change.
fn wait_for(server: &TestServer, question: &str, count: usize) {
    let mut newest = 0;
    for _ in 0..200 {
        let list = server
            .get(&format!("/streams?{question}&limit=1000"))
            .expect(200);
        let list = list.json();
        if list["estimated_count"] == count {
            return;
        }
        let change =
            format!("/streams?updated_at_gt={newest}&sort=-updated_at&limit=1&poll_timeout=5");
        let change = server.get(&change).expect(200).json();
        newest = change["streams"][0]["updated_at"]
            .as_u64()
            .unwrap_or(newest);
    }
    panic!("it never comes to {count} streams with {question}");
}

fn layouts(server: &TestServer) -> BTreeMap<String, Value> {
    let list = server
        .get("/streams?limit=1000&select=name,layout")
        .expect(200)
        .json();
    let streams = list["streams"].as_array().expect("a list");
    let layout = |stream: &Value| {
        let name = stream["name"].as_str().expect("a name").to_owned();
        (name, stream["layout"]["ingest"].clone())
    };
    streams.iter().map(layout).collect()
}

fn changes(answer: &Value) -> &Vec<Value> {
    answer["changes"].as_array().expect("changes")
}

#[test]
fn preview_changes_nothing_and_predicts_the_save() {
    let server = cluster(9);
    let before = layouts(&server);
    let (name, _) = before
        .iter()
        .find(|(_, ingest)| **ingest != "s1")
        .expect("nine streams are spread over three nodes");
    let edit = json!({"labels": {"required.zone": "north"}});
    let path = format!("/streams/{name}/preview_layout_change");
    let preview = server.post(&path, edit.clone()).expect(200).json();
    let item = &changes(&preview)[0];
    assert_eq!(preview["estimated_count"], 1, "{preview}");
    assert_eq!(
        *item,
        json!({
            "name": name, "ingest": "s1", "originator": "layouter",
            "change_reason": "node_misses_stream_required_labels",
        })
    );
    assert_eq!(layouts(&server), before, "nothing was changed");
    let nothing = server.post(&path, json!({})).expect(200).json();
    assert_eq!(changes(&nothing).len(), 0, "{nothing}");

    let both = json!([{"name": name, "labels": {"required.zone": "north"}}, {"name": "new"}]);
    let batch = server
        .post("/streams/preview_layout_change", both)
        .expect(200)
        .json();
    assert_eq!(batch["estimated_count"], 2, "{batch}");

    server.put(&format!("/streams/{name}"), edit).expect(200);
    wait_for(&server, &format!("name={name}&layout.ingest=s1"), 1);
    let saved = server.get(&format!("/streams/{name}")).expect(200).json();
    assert_eq!(saved["layout"]["change_reason"], item["change_reason"]);
    assert_eq!(saved["layout"]["originator"], item["originator"]);
    let mut expected = before.clone();
    expected.insert(name.clone(), json!("s1"));
    assert_eq!(layouts(&server), expected, "and nothing else moved");
}

#[test]
fn preview_reports_loads_by_node_and_role_in_pages() {
    let server = cluster(12);
    let before = layouts(&server);
    let on = |host: &str| before.values().filter(|ingest| **ingest == host).count() as i64;
    let path = "/streamers/s2/preview_layout_change";
    let preview = server
        .post(path, json!({"channel_limit": 0}))
        .expect(200)
        .json();
    let mut deltas = 0;
    for item in changes(&preview) {
        let host = item["hostname"].as_str().expect("a host");
        assert_eq!(item["role"], "ingest");
        assert_eq!(item["before"], on(host));
        let (before, after) = (item["before"].as_i64(), item["after"].as_i64());
        let delta = item["delta"].as_i64().expect("a number");
        assert_eq!(after, before.map(|before| before + delta));
        deltas += delta;
    }
    assert_eq!((changes(&preview).len(), deltas), (3, 0), "{preview}");
    let mut walked = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = server.post(
            &format!("{path}?limit=1{cursor}"),
            json!({"channel_limit": 0}),
        );
        let page = page.expect(200).json();
        walked.extend(changes(&page).iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encode_segment(next)),
            None => break,
        }
    }
    assert_eq!(&walked, changes(&preview), "all pages are of one answer");
    let other = server.post(
        &format!("{path}?limit=1{cursor}"),
        json!({"channel_limit": 1}),
    );
    assert_eq!(other.expect(410).errors(), ["walk_expired cursor"]);
    let batch = json!([
        {"hostname": "s2", "channel_limit": 0},
        {"hostname": "s9", "role": "streamer", "cluster_key": "k"},
    ]);
    let preview = server
        .post("/streamers/preview_layout_change", batch)
        .expect(200)
        .json();
    let gone = changes(&preview)
        .iter()
        .find(|item| item["hostname"] == "s2");
    assert_eq!(gone.expect("s2 is emptied")["after"], 0);
    assert_eq!(layouts(&server), before, "nothing was changed");
    server.get("/streamers/s9").expect(404);
}

#[test]
fn cluster_preview_changes_nothing() {
    let server = cluster(12);
    let lost = json!({"events": [{"event": "streamer_lost", "hostname": "s1"}]});
    let preview = server.post("/cluster/preview", lost).expect(200).json();
    let on_s1 = layouts(&server)
        .values()
        .filter(|host| **host == "s1")
        .count();
    assert_eq!(
        (&preview["moves"], &preview["unplaced"]),
        (&json!(on_s1), &json!(0)),
        "{preview}"
    );
    let full = json!({"events": [
        {"event": "streamer_saved", "hostname": "s4", "channel_limit": 10},
        {"event": "streams_added", "count": 400, "stream": {"labels": {"tier": "gold"}}},
    ]});
    let preview = server.post("/cluster/preview", full).expect(200).json();
    // 310 channels, 12 of them taken.
    assert_eq!(
        (&preview["moves"], &preview["unplaced"]),
        (&json!(0), &json!(102)),
        "{preview}"
    );
    for (body, error) in [
        (json!({}), "missing_required /events"),
        (
            json!({"events": [{"event": "streamer_lost", "hostname": "s7"}]}),
            "streamer_not_found /events/0/hostname",
        ),
        (
            json!({
                "events": [{"event": "streams_added", "count": 1, "stream": {"labels": {"a": 5}}}],
            }),
            "not_string /events/0/stream/labels/a",
        ),
    ] {
        let answer = server.post("/cluster/preview", body);
        assert!(matches!(answer.status, 400 | 404), "{}", answer.text());
        assert_eq!(answer.errors(), [error]);
    }
}

#[test]
fn capacity_names_the_bottleneck() {
    let server = cluster(12);
    let capacity = server.get("/cluster/capacity").expect(200).json();
    let class = &capacity["classes"][0];
    assert_eq!(class["streams"], 12, "{capacity}");
    assert_eq!(
        (&class["nodes"], &class["streams_more"]),
        (&json!(3), &json!(288))
    );
    assert_eq!(
        (&class["bottleneck"], &class["unplaced"]),
        (&json!("channels"), &json!(0))
    );
    assert_eq!(capacity["survives_any_loss"], true, "{capacity}");
    let losses = capacity["losses"].as_array().expect("losses");
    assert_eq!(losses.len(), 3);
    let total: u64 = losses
        .iter()
        .filter_map(|loss| loss["streams"].as_u64())
        .sum();
    assert_eq!(total, 12, "{capacity}");
}

#[test]
fn explain_lists_a_decision_for_every_node() {
    let server = cluster(3);
    server
        .put("/streams/n", json!({"labels": {"required.zone": "north"}}))
        .expect(200);
    server
        .put("/streams/w", json!({"labels": {"required.zone": "south"}}))
        .expect(200);
    wait_for(&server, "name=n&layout.ingest=s1", 1);
    let why = server.get("/streams/n/layout/explain").expect(200).json();
    assert_eq!(why["layout"]["ingest"], "s1");
    let nodes = why["nodes"].as_array().expect("nodes");
    assert_eq!(nodes.len(), 3, "{why}");
    assert_eq!(nodes[0]["hostname"], "s1");
    assert_eq!(
        (&nodes[0]["current"], &nodes[0]["node_decision"]),
        (&json!(true), &json!(true))
    );
    for node in &nodes[1..] {
        assert_eq!(
            node["reasons"],
            json!(["node_misses_stream_required_labels"])
        );
        assert_eq!(node["node_decision"], false);
    }
    let why = server.get("/streams/w/layout/explain").expect(200).json();
    let summary = why["summary"].as_str().expect("words");
    assert!(
        summary.starts_with("Waiting: none of 3 nodes can take it"),
        "{summary}"
    );
    server.get("/streams/nobody/layout/explain").expect(404);

    let list = "/streams?select=name,layout.node_layout_decisions&name=n,w";
    let list = server.get(list).expect(200).json();
    for stream in list["streams"].as_array().expect("a list") {
        let decisions = &stream["layout"]["node_layout_decisions"];
        let decisions = decisions.as_array().expect("decisions");
        let allowed = decisions
            .iter()
            .filter(|one| one["node_decision"] == true)
            .count();
        let expected = usize::from(stream["name"] == "n");
        assert_eq!((decisions.len(), allowed), (3, expected), "{stream}");
        assert_eq!(decisions[0]["role"], "streamer");
    }
    let many = server.get("/streams?select=layout.node_layout_decisions&limit=101");
    assert_eq!(many.expect(400).errors(), ["input_out_of_range limit"]);
}

#[test]
fn previews_are_refused_while_the_layouter_is_off() {
    let server = TestServer::new();
    server.put("/streams/a", json!({})).expect(200);
    let body = json!({"role": "streamer", "cluster_key": "key"});
    server.put("/streamers/s1", body).expect(200);
    for (path, body) in [
        ("/streams/a/preview_layout_change", json!({})),
        ("/streams/preview_layout_change", json!([{"name": "a"}])),
        ("/streamers/s1/preview_layout_change", json!({})),
        (
            "/streamers/preview_layout_change",
            json!([{"hostname": "s1"}]),
        ),
        ("/cluster/preview", json!({"events": []})),
    ] {
        let answer = server.post(path, body).expect(409);
        assert_eq!(answer.errors(), ["layouter_disabled"], "{path}");
    }
    for path in [
        "/cluster/capacity",
        "/streams/a/layout/explain",
        "/streams?select=layout.node_layout_decisions",
    ] {
        assert_eq!(server.get(path).expect(409).errors(), ["layouter_disabled"]);
    }
    let bad = server.post("/streams/a/preview_layout_change", json!({"inputs": 1}));
    assert!(matches!(bad.status, 400 | 409), "{}", bad.text());
}

#[test]
fn losing_the_last_streamers_leaves_every_stream_unplaced() {
    // Goal: capacity and previews say what the layouter then does, also when no streamer is left.
    // Method: the losses in two events with one in between; a disabled stream counts nowhere.
    let server = cluster(12);
    server
        .put("/streams/off", json!({"disabled": true}))
        .expect(200);
    let all = json!({"events": [
        {"event": "streamer_lost", "hostname": "s1"},
        {"event": "streamer_saved", "hostname": "s2", "channel_limit": 100},
        {"event": "streamer_lost", "hostname": "s2"},
        {"event": "streamer_lost", "hostname": "s3"},
    ]});
    let preview = server.post("/cluster/preview", all).expect(200).json();
    let numbers = ["moves", "moves_pending", "unplaced", "unplaced_before"];
    let numbers = numbers.map(|member| preview[member].as_u64());
    assert_eq!(numbers, [0, 0, 12, 0].map(Some), "{preview}");
    // Two of three: nothing is left on them.
    let two = json!({"events": [
        {"event": "streamer_lost", "hostname": "s1"},
        {"event": "streams_added", "count": 1, "stream": {}},
        {"event": "streamer_lost", "hostname": "s2"},
    ]});
    let preview = server.post("/cluster/preview", two).expect(200).json();
    assert_eq!(preview["unplaced"], 0, "{preview}");
    for item in changes(&preview) {
        let left = if item["hostname"] == "s3" { 13 } else { 0 };
        assert_eq!(item["after"], left, "{preview}");
    }
    for host in ["s2", "s3"] {
        server.delete(&format!("/streamers/{host}")).expect(204);
    }
    wait_for(&server, "layout.ingest=s1", 12);
    let capacity = server.get("/cluster/capacity").expect(200).json();
    assert_eq!(capacity["survives_any_loss"], false, "{capacity}");
    assert_eq!(
        capacity["losses"],
        json!([{
            "copies": 0, "hostname": "s1", "streams": 12, "survives": false, "unplaced": 12,
            "unplaced_copies": 0,
        }])
    );
    let classes = capacity["classes"].as_array().expect("classes");
    let sum = |member: &str| -> u64 { classes.iter().filter_map(|it| it[member].as_u64()).sum() };
    assert_eq!((sum("streams"), sum("unplaced")), (12, 0), "{capacity}");
}
