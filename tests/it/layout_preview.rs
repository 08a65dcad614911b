//! Previews of saves and losses, explanations of layouts, and capacity.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::calls::{lay_out, poll_as_streamer};
use crate::fleet::{self, Fleet, Ingests, fleet_of, ingests, moved, save_streams, server};
use crate::restricted::{strings, token};
use weir_testkit::{PREFIX, TestServer, encode_segment, wait_until};

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
    let revision = &server.get("/cluster/summary").expect(200).json()["revision"];
    let based_on = preview["revision"].as_u64();
    assert!(
        based_on > Some(0) && based_on <= revision.as_u64(),
        "{preview}"
    );
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

const HOSTS: [&str; 3] = ["s1", "s2", "s3"];

/// Three streamers with eight streams each, half of those of s1 with a wish for gold. The layouter
/// moves nothing for a wish before its interval is shortened.
fn fleet_of_three(channel_limit: u64) -> (TestServer, Fleet) {
    let server = fleet::server(&[
        "--streamer-dead-timeout",
        "5s",
        "--layouter-rebalance=false",
        "--layouter-quarantine=false",
    ]);
    fleet::set(&server, json!({"layouter_sleeping_interval": 3_600_000}));
    let mut fleet = Fleet::new();
    for host in HOSTS {
        fleet::save_streamer(&server, host, json!({"channel_limit": channel_limit}));
    }
    fleet.join(&server, &HOSTS);
    let item = |i: usize| {
        let labels = match i % 6 {
            0 => json!({"preferred.metal": "gold"}),
            _ => json!({}),
        };
        json!({"name": format!("c{i:02}"), "static": true, "labels": labels})
    };
    let items: Vec<Value> = (0..24).map(item).collect();
    server.put("/streams/batch", json!(items)).expect(204);
    fleet.settle(&server);
    let names: Vec<String> = (0..24).map(|i| format!("c{i:02}")).collect();
    let places = names.iter().zip(HOSTS.iter().cycle());
    let places: Vec<(&str, &str)> = places.map(|(name, host)| (&**name, *host)).collect();
    lay_out(&server, &places);
    let at: Ingests = names
        .iter()
        .zip(HOSTS.iter().cycle())
        .map(|(name, host)| (name.clone(), Some((*host).to_owned())))
        .collect();
    fleet.until(|fleet| fleet.agrees(&at));
    assert_eq!(ingests(&server), at);
    (server, fleet)
}

fn lose(hosts: &[&str]) -> Value {
    let events = hosts.iter();
    let events = events.map(|host| json!({"event": "streamer_lost", "hostname": host}));
    json!({"events": events.collect::<Vec<Value>>()})
}

fn preview(server: &TestServer, path: &str, body: &Value) -> Value {
    server.post(path, body.clone()).expect(200).json()
}

/// Moves caused and pending, streams without a place with and without the change.
fn numbers(preview: &Value) -> [u64; 4] {
    let members = [
        "moves_caused",
        "moves_pending",
        "unplaced",
        "unplaced_before",
    ];
    members.map(|member| {
        let number = preview[member].as_u64();
        number.unwrap_or_else(|| panic!("no {member} in {preview}"))
    })
}

/// Streams that no running streamer has.
fn off_air(ingests: &Ingests, fleet: &Fleet) -> u64 {
    let runs = |host: &&Option<String>| {
        let host = host.as_deref();
        host.is_some_and(|host| fleet.streamers.contains_key(host))
    };
    (ingests.len() - ingests.values().filter(runs).count()) as u64
}

/// Waits until so many streams have moved, and so many are off the air.
#[track_caller]
fn until_moved(server: &TestServer, fleet: &Fleet, before: &Ingests, moves: u64, unplaced: u64) {
    let look = || {
        let now = ingests(server);
        (moved(before, &now), off_air(&now, fleet))
    };
    wait_until("moves and streams off the air", look, |seen| {
        *seen == (moves, unplaced)
    });
}

/// Stops a streamer, and waits until its loss is logged.
#[track_caller]
fn stop(server: &TestServer, fleet: &mut Fleet, host: &str) {
    let newest = fleet::last_event(server);
    fleet.stop(host);
    let query = format!("event=layouter_streamer_state&entity_id={host}");
    let event = fleet::await_event(server, newest, &query);
    assert_eq!(event["state"], "down", "{event}");
}

#[test]
fn caused_and_pending_moves_are_those_that_follow() {
    // Goal: moves that are due anyway are not taken for consequences, and both happen as counted.
    // Method: s3 becomes gold, which four streams of s1 wait for; then s2 is lost.
    let (server, mut fleet) = fleet_of_three(20);
    let gold = json!({"labels": {"metal": "gold"}, "channel_limit": 20});
    let path = "/streamers/s3/preview_layout_change";
    let before = preview(&server, path, &gold);
    assert_eq!(numbers(&before), [4, 0, 0, 0], "{before}");
    assert_eq!(
        changes(&before),
        &[
            json!({"hostname": "s1", "role": "ingest", "before": 8, "after": 4, "delta": -4,
                "capacity": 20}),
            json!({"hostname": "s3", "role": "ingest", "before": 8, "after": 12, "delta": 4,
                "capacity": 20}),
        ]
    );
    server.put("/streamers/s3", gold.clone()).expect(200);
    let pending = preview(&server, path, &gold);
    assert_eq!(
        numbers(&pending),
        [0, 4, 0, 0],
        "now they are due: {pending}"
    );
    assert_eq!(changes(&pending).len(), 0, "{pending}");
    let path = "/streams/c01/preview_layout_change";
    let pending = preview(&server, path, &json!({"title": "new"}));
    assert_eq!(numbers(&pending), [0, 4, 0, 0], "{pending}");
    let all = preview(&server, "/cluster/preview", &lose(&HOSTS));
    assert_eq!(
        numbers(&all),
        [0, 4, 24, 0],
        "what stays on a lost streamer does not move: {all}"
    );

    let lost = preview(&server, "/cluster/preview", &lose(&["s2"]));
    assert_eq!(numbers(&lost), [8, 4, 0, 0], "{lost}");
    assert_eq!(lost["moves"], 8, "{lost}");
    let placed = ingests(&server);
    stop(&server, &mut fleet, "s2");
    until_moved(&server, &fleet, &placed, 8, 0);
    let again = preview(&server, "/cluster/preview", &lose(&["s2"]));
    assert_eq!(numbers(&again), [0, 4, 0, 0], "it is down already: {again}");
    let placed = ingests(&server);
    fleet::set(&server, json!({"layouter_sleeping_interval": 100}));
    until_moved(&server, &fleet, &placed, 4, 0);
    fleet.rest(&server, 5);
    until_moved(&server, &fleet, &placed, 4, 0);
    let after = preview(&server, "/cluster/preview", &lose(&["s2"]));
    assert_eq!(numbers(&after), [0, 0, 0, 0], "{after}");
}

#[test]
fn losses_happen_as_previewed_until_no_streamer_is_left() {
    let (server, mut fleet) = fleet_of_three(10);
    let (full, offline) = ("node_channel_limit_exceeded", "node_offline");
    for (gone, expected, reason) in [
        (&["s2"][..], [8, 0, 4, 0], full),
        (&["s2"], [0, 0, 4, 4], full),
        (&["s2", "s1"], [10, 0, 14, 4], offline),
        (&["s1", "s2"], [0, 0, 14, 14], offline),
        (&["s1", "s2", "s3"], [0, 0, 24, 14], offline),
        (&["s3"], [0, 0, 24, 24], offline),
    ] {
        let before = ingests(&server);
        let preview = preview(&server, "/cluster/preview", &lose(gone));
        assert_eq!(numbers(&preview), expected, "{gone:?}: {preview}");
        let sample = preview["unplaced_sample"].as_array().expect("a sample");
        assert_eq!(sample.len() as u64, expected[2].min(10), "{preview}");
        for stream in sample {
            assert_eq!(stream["reasons"][0], *reason, "{preview}");
        }
        for host in gone {
            if fleet.streamers.contains_key(*host) {
                stop(&server, &mut fleet, host);
            }
        }
        until_moved(&server, &fleet, &before, expected[0], expected[2]);
        // Those that lose their place now are named before those that have none already.
        let now = ingests(&server);
        let is_new = |name: &&str| expected[2] == expected[3] || before[*name].is_some();
        let names = strings(&preview, "unplaced_sample", "name");
        assert!(names.iter().all(is_new), "{preview}");
        let runs = |name: &&str| {
            let host = now[*name].as_deref();
            host.is_some_and(|host| fleet.streamers.contains_key(host))
        };
        assert!(!names.iter().any(runs), "{preview} {now:?}");
    }
}

#[test]
fn preview_of_a_stream_counts_as_its_save_does() {
    let (server, fleet) = fleet_of_three(20);
    let nowhere = json!({"labels": {"required.zone": "moon"}});
    let path = "/streams/c01/preview_layout_change";
    let one = preview(&server, path, &nowhere);
    assert_eq!(numbers(&one), [1, 0, 1, 0], "{one}");
    let reasons = json!(["node_misses_stream_required_labels"]);
    let expected = json!([{"name": "c01", "reasons": reasons}]);
    assert_eq!(one["unplaced_sample"], expected);
    assert_eq!(one["estimated_count"], 1, "{one}");
    let batch = json!([
        {"name": "c01", "labels": {"required.zone": "moon"}}, {"name": "new"},
        {"name": "off", "disabled": true},
    ]);
    let batch = preview(&server, "/streams/preview_layout_change", &batch);
    assert_eq!(
        numbers(&batch),
        [1, 0, 1, 0],
        "a new stream does not move: {batch}"
    );
    let before = ingests(&server);
    server.put("/streams/c01", nowhere).expect(200);
    until_moved(&server, &fleet, &before, 1, 1);
    // Streams that do not exist have no name, and those of one kind are one entry.
    let added = json!({"events": [
        {"event": "streams_added", "count": 30, "stream": {"labels": {"required.zone": "moon"}}},
    ]});
    let added = preview(&server, "/cluster/preview", &added);
    assert_eq!(numbers(&added), [0, 0, 31, 1], "{added}");
    assert_eq!(added["unplaced_sample"][0], json!({ "reasons": reasons }));
    server.put("/streams/new", json!({})).expect(200);
}

#[test]
fn preview_names_only_what_its_caller_may_see() {
    let (server, _fleet) = fleet_of_three(10);
    let post = |scopes: &[&str], path: &str, body: &Value| {
        let permissions = scopes.iter();
        let permissions = permissions.map(|scope| json!({"scopes": [scope], "execute": true}));
        let body_of_token = json!({"permissions": permissions.collect::<Vec<Value>>()});
        let authorization = token(&server, "restricted", body_of_token);
        let fields = [("Authorization", authorization.as_str())];
        let path = format!("{PREFIX}{path}");
        let body = body.to_string();
        let answer = server.connect();
        let mut answer = answer;
        answer
            .request("POST", &path, &fields, body.as_bytes())
            .expect(200)
            .json()
    };
    let scopes = ["cluster", "cluster/*", "streams/c1*", "streamers/s1"];
    let whole = preview(&server, "/cluster/preview", &lose(&["s2"]));
    assert_eq!(
        strings(&whole, "unplaced_sample", "name").len(),
        4,
        "{whole}"
    );
    assert!(whole["hidden"].is_null(), "{whole}");
    let part = post(&scopes, "/cluster/preview", &lose(&["s2"]));
    assert_eq!(
        numbers(&part),
        numbers(&whole),
        "numbers name no one: {part}"
    );
    assert_eq!(strings(&part, "changes", "hostname"), ["s1"], "{part}");
    assert_eq!(part["hidden"], 2, "{part}");
    let visible = strings(&whole, "unplaced_sample", "name").into_iter();
    let visible: Vec<&str> = visible.filter(|name| name.starts_with("c1")).collect();
    assert_eq!(
        strings(&part, "unplaced_sample", "name"),
        visible,
        "{whole} {part}"
    );
    assert!(visible.len() < 4 && !visible.is_empty(), "{whole}");

    let drained = json!({"events": [{"event": "streamer_drained", "hostname": "s2"}]});
    for question in [lose(&["s2"]), drained] {
        let whole = preview(&server, "/cluster/preview", &question);
        let part = post(&scopes, "/cluster/preview", &question);
        for member in ["moves_sample", "no_place_sample"] {
            let names = |preview: &Value| -> Vec<String> {
                let items = preview[member].as_array().into_iter().flatten();
                let name =
                    |item: &Value| item["name"].as_str().or(item.as_str()).map(str::to_owned);
                items.filter_map(name).collect()
            };
            let visible = names(&whole).into_iter();
            let visible: Vec<String> = visible.filter(|name| name.starts_with("c1")).collect();
            assert_eq!(names(&part), visible, "{member}: {whole} {part}");
        }
        let nodes = |preview: &Value, member: &str| strings(preview, "moves_sample", member).len();
        assert_eq!(nodes(&part, "from"), 0, "s2 is not visible: {part}");
        let moves = whole["moves_sample"].as_array().expect("moves").len();
        let named = part["moves_sample"].as_array().expect("moves").len()
            + part["no_place_sample"].as_array().map_or(0, Vec::len);
        assert!(moves == 0 || nodes(&whole, "from") == moves, "{whole}");
        assert!(named > 0, "{part}");
    }

    let less = json!({"channel_limit": 0});
    let path = "/streamers/s1/preview_layout_change";
    let part = post(&scopes, path, &less);
    assert_eq!(numbers(&part), [8, 0, 4, 0], "{part}");
    assert_eq!(strings(&part, "changes", "hostname"), ["s1"], "{part}");
    assert_eq!(part["changes"][0]["capacity"], 0, "{part}");
    let names = strings(&part, "unplaced_sample", "name");
    assert!(names.iter().all(|name| name.starts_with("c1")), "{part}");
}

#[test]
fn explanation_names_a_better_node_and_what_holds_the_move() {
    let server = server(&[]);
    let _fleet = fleet_of(&server, &["s1", "s2"]);
    for host in ["s1", "s2"] {
        fleet::save_streamer(&server, host, json!({"channel_limit": 40}));
    }
    let place = |names: std::ops::Range<usize>| {
        let layout = json!({"ingest": "s1"});
        let items =
            names.map(|n| json!({"name": format!("c{n:02}"), "static": true, "layout": layout}));
        let items = Value::Array(items.collect());
        server.put("/streams/batch", items).expect(204);
    };
    let better = |query: &str, is_it: &dyn Fn(&str) -> bool| {
        let path = format!("/streams/c00/layout/explain{query}");
        let look = || server.get(&path).expect(200).json();
        wait_until("a better node", look, |why| {
            let why_not = why["better"]["why_not_now"].as_str();
            why["better"]["hostname"] == "s2" && why_not.is_some_and(is_it)
        });
    };
    place(0..3);
    better("", &|why| why == "gap 7.5 < 10 points");
    let why = server.get("/streams/c00/layout/explain").expect(200).json();
    let loads = why["nodes"].as_array().expect("nodes").iter();
    let loads = loads.map(|node| (node["hostname"].clone(), node["load_percent"].clone()));
    let expected = [("s1", 7), ("s2", 0)].map(|(host, percent)| (json!(host), json!(percent)));
    assert_eq!(loads.collect::<Vec<_>>(), expected, "{why}");
    better("?group=reasons", &|why| why == "gap 7.5 < 10 points");
    // An operator placed them just now.
    place(3..6);
    better("", &|why| {
        why.starts_with("hold until 2") && why.ends_with('Z')
    });
    // Elsewhere it is no better.
    let layout = json!({"layout": {"ingest": "s2"}});
    server.put("/streams/c00", layout).expect(200);
    let look = || server.get("/streams/c00/layout/explain").expect(200).json();
    wait_until("nothing better", look, |why| {
        why["layout"]["ingest"] == "s2" && why["better"].is_null()
    });
}

#[test]
fn dry_run_of_layouts_tells_apart_what_would_be_undone() {
    let server = server(&[]);
    let _fleet = fleet_of(&server, &["s1", "s2"]);
    fleet::save_streamer(
        &server,
        "s2",
        json!({"channel_limit": 2, "labels": {"a": "b"}}),
    );
    for name in ["a", "b", "c", "off", "wants"] {
        let body = match name {
            "off" => json!({"disabled": true}),
            "wants" => json!({"labels": {"required.a": "other"}}),
            _ => json!({"layout": {"ingest": "s1"}}),
        };
        server.put(&format!("/streams/{name}"), body).expect(200);
    }
    let before = layouts(&server);
    let dry_run = |names: &[&str]| {
        let items = names
            .iter()
            .map(|name| json!({"name": name, "ingest": "s2"}));
        let body = json!({"layouts": items.collect::<Vec<_>>()});
        server.post("/streams/layouts?dry_run=true", body)
    };
    let verdicts = |names: &[&str]| -> Vec<String> {
        let body = dry_run(names).expect(200).json();
        let items = body["layouts"].as_array().expect("a list");
        let text = |item: &Value| {
            assert_eq!(item["ingest"], "s2", "{item}");
            let reasons = item["reasons"].as_array().expect("reasons");
            let reasons: Vec<&str> = reasons.iter().filter_map(Value::as_str).collect();
            let (name, verdict) = (item["name"].as_str(), item["verdict"].as_str());
            format!(
                "{} {} {}",
                name.expect("a name"),
                verdict.expect("one"),
                reasons.join(",")
            )
        };
        items.iter().map(text).collect()
    };
    assert_eq!(verdicts(&["b", "a"]), ["b ok ", "a ok "]);
    assert_eq!(
        verdicts(&["off", "wants"]),
        [
            "off will_be_undone stream_disabled",
            "wants will_be_undone node_misses_stream_required_labels",
        ]
    );
    // Together they are one too many.
    let many = verdicts(&["a", "b", "c"]);
    let undone = |it: &&String| it.contains(" will_be_undone node_channel_limit_exceeded");
    assert_eq!(many.iter().filter(undone).count(), 1, "{many:?}");
    assert_eq!(layouts(&server), before, "nothing was changed");
    // What the real call refuses, the dry run refuses as well, apart from labels.
    assert_eq!(
        dry_run(&["nobody"]).expect(400).errors(),
        ["stream_not_found /layouts/0/name"]
    );
    let stale = json!({"layouts": [{"name": "a", "ingest": "s2", "if_match": "\"x\""}]});
    server
        .post("/streams/layouts?dry_run=true", stale)
        .expect(412);
    let some = json!([{"scopes": ["streams/*"], "read": true}]);
    let some = token(&server, "some", json!({"permissions": some}));
    let mut client = server.connect();
    let path = format!("{PREFIX}/streams/layouts?dry_run=true");
    let fields = [("Authorization", some.as_str())];
    let refused = client.request("POST", &path, &fields, br#"{"layouts":[]}"#);
    let _ = refused.expect(403);
    let off = TestServer::new();
    let body = json!({"layouts": []});
    let refused = off.post("/streams/layouts?dry_run=true", body).expect(409);
    assert_eq!(refused.errors(), ["layouter_disabled"]);
}

#[test]
fn grouped_explanation_does_not_grow_with_the_cluster() {
    let server = server(&[]);
    let mut fleet = fleet_of(&server, &["s1", "s2"]);
    save_streams(&server, 0..1);
    fleet.until(|fleet| fleet.has("s1") + fleet.has("s2") == 1);
    for count in [20, 60] {
        let more = (0..count).map(
            |n| json!({"hostname": format!("x{n:02}"), "role": "streamer", "cluster_key": "k"}),
        );
        let more = Value::Array(more.collect());
        server.put("/streamers/batch", more).expect(204);
        let path = "/streams/c00/layout/explain?group=reasons";
        let explained = wait_until(
            "all nodes to be counted",
            || server.get(path).expect(200).json(),
            |explained| {
                let groups = explained["groups"].as_array().expect("groups");
                let nodes = groups.iter().map(|group| group["nodes"].as_u64());
                nodes.flatten().sum::<u64>() == count + 2
            },
        );
        assert_eq!(
            explained["nodes"].as_array().map(Vec::len),
            Some(2),
            "{explained}"
        );
        assert!(
            explained["nodes"][1]["load_percent"].is_u64(),
            "{explained}"
        );
        let groups = &explained["groups"];
        assert_eq!(groups.as_array().map(Vec::len), Some(2), "{explained}");
        assert_eq!(groups[0]["nodes"], count, "{explained}");
        assert_eq!(groups[0]["reasons"], json!(["node_offline"]));
        assert_eq!(groups[0]["hostnames"].as_array().map(Vec::len), Some(5));
        assert_eq!(groups[1]["reasons"], json!([]));
    }
    let refused = server.get("/streams/c00/layout/explain?group=names");
    refused.expect(400);
}
