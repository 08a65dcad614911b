//! Drains: a streamer is emptied without a gap, by its own report, and gets its streams back.

use serde_json::{Value, json};

use crate::faults::limit_files;
use crate::fleet::{
    Fleet, await_event, events, fleet_of, ingests, last_event, on, save_streamer, save_streams,
    set, until_all_may_take,
};
use crate::restricted::token;
use weir_testkit::{PREFIX, TestServer, wait_until};

/// Longer than any test: nothing ends by time.
const NEVER: &str = "1h";

fn server(handover: &str) -> TestServer {
    TestServer::with(&["--layouter-enabled", "--layouter-handover", handover])
}

fn drain_with(server: &TestServer, host: &str, more: Value) -> Value {
    let mut body = json!({"mode": "drain"});
    let more = more.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(more);
    let path = format!("/streamers/{host}/maintenance");
    let saved = server.put(&path, body).expect(200);
    saved.json()["state"]["maintenance"].take()
}

fn drain(server: &TestServer, host: &str) -> Value {
    drain_with(server, host, json!({"pace": 0}))
}

fn end(server: &TestServer, host: &str) {
    let path = format!("/streamers/{host}/maintenance");
    server.put(&path, json!({"mode": "none"})).expect(200);
}

fn maintenance(server: &TestServer, host: &str) -> Value {
    let streamer = server.get(&format!("/streamers/{host}")).expect(200);
    streamer.json()["state"]["maintenance"].take()
}

/// A streamer reports that it runs these streams.
fn report(server: &TestServer, host: &str, names: &[&str]) {
    let running = |name: &&str| json!({"name": name, "status": "running"});
    let streams: Vec<Value> = names.iter().map(running).collect();
    let path = format!("/streamers/{host}/stats");
    server.put(&path, json!({"streams": streams})).expect(204);
}

/// Reports until what is left on a drained streamer is so.
#[track_caller]
fn report_until(
    server: &TestServer,
    (host, names): (&str, &[&str]),
    drained: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Value {
    let look = || {
        report(server, host, names);
        maintenance(server, drained)
    };
    wait_until(drained, look, |left| is_so(left))
}

/// The streamers that a list finds by the code of their state.
fn with_code(server: &TestServer, code: &str) -> Vec<String> {
    let path = format!("/streamers?state.code={code}&select=hostname,state.code");
    let page = server.get(&path).expect(200).json();
    let found = page["streamers"].as_array().expect("a list").iter();
    let found = found.map(|it| {
        assert_eq!(it["state"]["code"], code);
        it["hostname"].as_str().expect("a name").to_owned()
    });
    found.collect()
}

/// Two streamers with two streams each.
fn two(server: &TestServer) -> Fleet {
    let mut fleet = fleet_of(server, &["s1", "s2"]);
    save_streams(server, 0..4);
    fleet.until(|fleet| fleet.has("s1") == 2 && fleet.has("s2") == 2);
    fleet
}

#[test]
fn drained_streamer_is_emptied_and_gets_its_streams_back() {
    let server = server(NEVER);
    let mut fleet = two(&server);
    let own = on(&ingests(&server), "s1");
    let names: Vec<&str> = own.iter().map(String::as_str).collect();
    let begin = last_event(&server);
    drain(&server, "s1");
    fleet.until(|fleet| fleet.has("s2") == 4);
    assert_eq!(fleet.lists["s1"], own, "it runs them until the other does");
    let all = ["c00", "c01", "c02", "c03"];
    let left = report_until(&server, ("s2", &all), "s1", |left| left["ingests"] == 0);
    assert_eq!(
        (&left["mode"], &left["no_place"], &left["drained_at"]),
        (&json!("drain"), &json!(0), &Value::Null)
    );
    fleet.until(|fleet| fleet.has("s1") == 0);
    // What it runs by itself counts, whatever it was sent.
    report(&server, "s1", &names[..1]);
    assert_eq!(maintenance(&server, "s1")["drained_at"], Value::Null);
    assert_eq!(with_code(&server, "draining"), ["s1"]);
    report_until(&server, ("s1", &[]), "s1", |left| {
        left["drained_at"].is_u64()
    });
    assert_eq!(with_code(&server, "drained"), ["s1"]);
    assert_eq!(with_code(&server, "up"), ["s2"]);
    let event = await_event(&server, begin, "event=layouter_streamer_drained");
    assert_eq!(event["entity_id"], "s1");
    let moves = events(
        &server,
        &format!("event=layouter_processing_result&event_id_gt={begin}"),
    );
    let by_drain: u64 = moves
        .iter()
        .filter_map(|event| event["relayouts_why"]["drain"].as_u64())
        .sum();
    assert_eq!(by_drain, 2, "{moves:?}");
    // It runs one again by itself.
    report_until(&server, ("s1", &names[..1]), "s1", |left| {
        left["drained_at"].is_null()
    });
    end(&server, "s1");
    fleet.until(|fleet| fleet.lists["s1"] == own);
    assert_eq!(on(&ingests(&server), "s1"), own);
    assert_eq!(maintenance(&server, "s1"), Value::Null);
}

#[test]
fn drain_goes_on_after_a_restart() {
    let mut server = server("0");
    let mut fleet = two(&server);
    // One leaves at once, the other after half an hour.
    drain_with(
        &server,
        "s1",
        json!({"pace": 0, "return": true, "deadline": "2d"}),
    );
    fleet.until(|fleet| fleet.has("s2") == 4);
    let before = maintenance(&server, "s1");
    drop(fleet);
    server.restart();
    let after = maintenance(&server, "s1");
    for member in ["mode", "pace", "deadline", "return", "since", "reason"] {
        assert_eq!(after[member], before[member], "{member}");
    }
    let mut fleet = Fleet::new();
    fleet.start_all(&server, &["s1", "s2"]);
    let left = report_until(&server, ("s1", &[]), "s1", |left| {
        left["drained_at"].is_u64()
    });
    assert_eq!(left["ingests"], 0);
    end(&server, "s1");
    fleet.until(|fleet| fleet.has("s1") == 2 && fleet.has("s2") == 2);
}

#[test]
fn pace_of_a_drain_is_kept_and_can_be_changed() {
    let server = server("0");
    let mut fleet = two(&server);
    let begun = drain_with(&server, "s1", json!({"pace": 1, "reason": "new \"disks\""}));
    assert_eq!(
        (
            &begun["pace"],
            &begun["return"],
            &begun["reason"],
            &begun["deadline"]
        ),
        (
            &json!(1),
            &json!(true),
            &json!("new \"disks\""),
            &Value::Null
        )
    );
    fleet.until(|fleet| fleet.has("s2") == 3);
    let path = "/streamers?state.maintenance.mode=drain&select=state.maintenance.ingests";
    wait_until(
        "one is left",
        || server.get(path).expect(200).json(),
        |page| page["streamers"][0]["state"]["maintenance"]["ingests"] == 1,
    );
    let again = drain(&server, "s1");
    assert_eq!(
        (&again["since"], &again["pace"]),
        (&begun["since"], &json!(0))
    );
    fleet.until(|fleet| fleet.has("s2") == 4);
}

#[test]
fn copy_on_a_drained_streamer_is_kept_until_the_new_one_runs() {
    let server = server(NEVER);
    let mut fleet = fleet_of(&server, &["s1", "s2", "s3"]);
    let recorded = json!({"static": true, "dvr": {"reference": "d", "redundancy_factor": 2}});
    save_streams(&server, 0..1);
    until_all_may_take(&server, "c00");
    server.delete("/streams/c00").expect(204);
    server.put("/streams/a", recorded).expect(200);
    let layout = json!({"layouts": [{"name": "a", "ingest": "s2", "dvr_backups": ["s1"]}]});
    server.post("/streams/layouts", layout).expect(204);
    fleet.until(|fleet| fleet.has("s1") == 1 && fleet.has("s2") == 1 && fleet.has("s3") == 0);
    drain(&server, "s1");
    fleet.until(|fleet| fleet.has("s3") == 1);
    let copies = || server.get("/streams/a").expect(200).json()["layout"]["dvr_backups"].take();
    assert_eq!(copies(), json!(["s1", "s3"]));
    assert_eq!(fleet.has("s1"), 1);
    report_until(&server, ("s3", &["a"]), "s1", |left| left["backups"] == 0);
    fleet.until(|fleet| fleet.has("s1") == 0);
    assert_eq!(copies(), json!(["s3"]));
}

#[test]
fn stream_without_another_place_stays_on_a_drained_streamer() {
    let server = server("0");
    let mut fleet = fleet_of(&server, &["s1"]);
    save_streamer(&server, "s2", json!({"channel_limit": 1}));
    fleet.join(&server, &["s2"]);
    save_streams(&server, 0..3);
    wait_until(
        "all have a place",
        || ingests(&server),
        |all| all.len() == 3 && all.values().all(Option::is_some),
    );
    let before = ingests(&server);
    let stay = on(&before, "s1").len() + on(&before, "s2").len() - 1;
    let preview = server.put(
        "/streamers/s1/maintenance?dry_run=true",
        json!({"mode": "drain", "pace": 1}),
    );
    let preview = preview.expect(200).json();
    assert_eq!(preview["no_place"], stay);
    let summary = preview["summary"].as_str().expect("a sentence");
    assert!(summary.contains("2 streams would stay there"), "{summary}");
    let named = preview["no_place_sample"].as_array().expect("names");
    assert_eq!(named.len(), stay);
    assert_eq!(ingests(&server), before, "nothing was changed");
    assert_eq!(maintenance(&server, "s1"), Value::Null);
    drain(&server, "s1");
    wait_until(
        "the others stay",
        || maintenance(&server, "s1"),
        |left| left["no_place"] == stay && left["ingests"] == stay,
    );
    server
        .put("/streamers/s2", json!({"channel_limit": 5}))
        .expect(200);
    fleet.until(|fleet| fleet.has("s1") == 0 && fleet.has("s2") == 3);
}

#[test]
fn drain_needs_the_layouter_and_waits_while_it_is_off() {
    let server = TestServer::with(&["--layouter-handover", "0"]);
    set(&server, json!({"layouter_enabled": "true"}));
    let mut fleet = two(&server);
    drain_with(&server, "s1", json!({"pace": 1}));
    fleet.until(|fleet| fleet.has("s2") == 3);
    set(&server, json!({"layouter_enabled": "false"}));
    for query in ["", "?dry_run=true"] {
        let path = format!("/streamers/s2/maintenance{query}");
        let refused = server.put(&path, json!({"mode": "drain"})).expect(409);
        assert_eq!(refused.errors(), ["layouter_disabled"]);
    }
    wait_until(
        "nothing is known of it",
        || maintenance(&server, "s1"),
        |left| left["mode"] == "drain" && left["ingests"].is_null(),
    );
    set(&server, json!({"layouter_enabled": "true"}));
    wait_until(
        "it goes on",
        || maintenance(&server, "s1"),
        |left| left["ingests"].is_u64(),
    );
    drain(&server, "s1");
    fleet.until(|fleet| fleet.has("s1") == 0);
    set(&server, json!({"layouter_enabled": "false"}));
    end(&server, "s1");
    assert_eq!(maintenance(&server, "s1"), Value::Null);
}

#[test]
fn restricted_token_is_shown_its_part_of_a_drain_only() {
    let server = server(NEVER);
    let _fleet = two(&server);
    let scopes = json!([{"scopes": ["streamers/s1"], "write": true}]);
    let writer = token(&server, "writer", json!({"permissions": scopes}));
    let put = |path: &str, key: &str| {
        let body = br#"{"mode":"drain","pace":1}"#;
        let fields = [("Authorization", key)];
        let target = format!("{PREFIX}{path}");
        server.connect().request("PUT", &target, &fields, body)
    };
    let preview = put("/streamers/s1/maintenance?dry_run=true", &writer).expect(200);
    let hosts = preview.json()["changes"].take();
    let hosts = hosts.as_array().expect("a list").iter();
    let hosts: Vec<&Value> = hosts.map(|change| &change["hostname"]).collect();
    assert!(hosts.iter().all(|host| **host == "s1"), "{hosts:?}");
    assert_eq!(preview.json()["hidden"], 1);
    put("/streamers/s2/maintenance?dry_run=true", &writer).expect(403);
    put("/streamers/s2/maintenance", &writer).expect(403);
    put("/streamers/s1/maintenance", &writer).expect(200);
    let reader = json!([{"scopes": ["streamers/*"], "read": true, "list": true}]);
    let reader = token(&server, "reader", json!({"permissions": reader}));
    put("/streamers/s1/maintenance", &reader).expect(403);
}

#[test]
fn bad_drain_is_refused_and_changes_nothing() {
    let server = server(NEVER);
    save_streamer(&server, "s1", json!({}));
    for (body, error) in [
        (
            json!({"mode": "drain", "pace": -1}),
            "input_out_of_range /pace",
        ),
        (
            json!({"mode": "drain", "pace": 60_001}),
            "input_out_of_range /pace",
        ),
        (json!({"mode": "drain", "pace": "1"}), "not_integer /pace"),
        (
            json!({"mode": "drain", "deadline": "soon"}),
            "wrong_format /deadline",
        ),
        (
            json!({"mode": "drain", "deadline": "31d"}),
            "input_out_of_range /deadline",
        ),
        (
            json!({"mode": "drain", "deadline": 5}),
            "not_string /deadline",
        ),
        (
            json!({"mode": "drain", "return": "no"}),
            "not_boolean /return",
        ),
        (json!({"mode": "cordon", "pace": 5}), "wrong_format /pace"),
        (
            json!({"mode": "none", "return": false}),
            "wrong_format /return",
        ),
        (
            json!({"mode": "cordon", "deadline": "5m"}),
            "wrong_format /deadline",
        ),
    ] {
        let path = "/streamers/s1/maintenance";
        let answer = server.put(path, body.clone()).expect(400);
        assert_eq!(answer.errors(), [error], "{body}");
    }
    for query in ["", "?dry_run=true"] {
        let path = format!("/streamers/s9/maintenance{query}");
        let missing = server.put(&path, json!({"mode": "drain"})).expect(404);
        assert_eq!(missing.errors(), ["streamer_not_found"]);
    }
    let path = "/streamers/s1/maintenance?dry_run=maybe";
    server.put(path, json!({"mode": "drain"})).expect(400);
    assert_eq!(maintenance(&server, "s1"), Value::Null);
}

#[test]
fn drain_on_a_full_disk_begins_once_there_is_room() {
    let server = server("0");
    let mut fleet = two(&server);
    let before = ingests(&server);
    limit_files(server.id(), Some(0));
    let body = json!({"mode": "drain", "pace": 0});
    server.put("/streamers/s1/maintenance", body).expect(503);
    assert_eq!(maintenance(&server, "s1"), Value::Null);
    assert_eq!(ingests(&server), before);
    limit_files(server.id(), None);
    wait_until(
        "there is room",
        || {
            server
                .put(
                    "/streamers/s1/maintenance",
                    json!({"mode": "drain", "pace": 0}),
                )
                .status
        },
        |status| *status == 200,
    );
    fleet.until(|fleet| fleet.has("s1") == 0 && fleet.has("s2") == 4);
}
