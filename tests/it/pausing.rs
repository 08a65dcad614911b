//! Pauses of the layouter: nothing moves once one is answered, and what is due happens at its end.

use serde_json::{Value, json};

use crate::faults::limit_files;
use crate::fleet::{
    await_event, events, fleet_of, ingests, last_event, layouts, on, save_streamer, save_streams,
    server, set,
};
use crate::metrics::Metrics;
use crate::restricted::token;
use weir_testkit::{PREFIX, TestServer, wait_until};

const ALL: &str = "all";
const IMPROVING: &str = "improving";

fn pause(server: &TestServer, what: &str) -> Value {
    let body = json!({"pause": {"what": what, "reason": "new switch"}});
    server.put("/layouter", body).expect(200).json()["paused"].take()
}

fn resume(server: &TestServer) {
    let ended = server.put("/layouter", json!({"pause": null})).expect(200);
    assert_eq!(ended.json(), json!({"paused": null}));
}

fn status(server: &TestServer) -> Value {
    server.get("/layouter").expect(200).json()
}

fn paused(server: &TestServer) -> Value {
    status(server)["paused"].take()
}

fn until_waiting(server: &TestServer, urgent: u64) {
    let look = || status(server)["waiting"].take();
    wait_until("decisions wait", look, |waiting| {
        waiting["urgent"] == urgent
    });
}

fn gauge(server: &TestServer, name: &str, labels: &[(&str, &str)]) -> u64 {
    let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
    Metrics::read(&answer).value(name, labels) as u64
}

#[test]
fn nothing_moves_in_a_pause_of_everything_until_its_end() {
    let server = server(&["--streamer-dead-timeout", "3s"]);
    let mut fleet = fleet_of(&server, &["s1", "s2"]);
    save_streams(&server, 0..6);
    fleet.until(|fleet| fleet.has("s1") == 3 && fleet.has("s2") == 3);
    let before = ingests(&server);
    let list = |host: &str| {
        server
            .get(&format!("/streamers/{host}/streams"))
            .expect(200)
    };
    let tag = list("s2").etag().expect("a tag").to_owned();
    let mark = last_event(&server);
    let begun = pause(&server, ALL);
    assert_eq!(
        (&begun["by"], &begun["what"]),
        (&json!("api_key"), &json!(ALL))
    );
    assert_eq!(
        (&begun["reason"], &begun["until"]),
        (&json!("new switch"), &Value::Null)
    );
    assert_eq!(paused(&server), begun);
    let event = await_event(&server, mark, "event=layouter_paused");
    assert_eq!(
        (&event["user"], &event["what"]),
        (&begun["by"], &json!(ALL))
    );
    fleet.stop("s1");
    until_waiting(&server, 3);
    save_streams(&server, 6..7);
    until_waiting(&server, 4);
    let why = server.get("/streams/c06/layout/explain").expect(200).json();
    assert_eq!(
        (&why["held_by"], &why["layout"]),
        (&json!("layouter_paused"), &json!({}))
    );
    let summary = "The layouter is paused: the stream has no node, s2 is chosen for it.";
    assert_eq!(why["summary"], summary);
    let better = json!({"hostname": "s2", "why_not_now": "the layouter is paused"});
    assert_eq!(why["better"], better);
    let nodes = why["nodes"].as_array().expect("nodes");
    assert!(nodes.iter().all(|node| node["current"] == false), "{why}");
    let mut now = ingests(&server);
    assert_eq!(now.remove("c06"), Some(None));
    assert_eq!(now, before);
    assert_eq!(list("s2").etag(), Some(&*tag), "nothing was sent");
    fleet.take_news();
    assert_eq!(fleet.has("s2"), 3, "its parked poll was not answered");
    let held = |what| gauge(&server, "weir_layouter_paused", &[("what", what)]);
    assert_eq!((held(ALL), held(IMPROVING)), (1, 1));
    assert_eq!(gauge(&server, "weir_layouter_pauses_total", &[]), 1);
    assert!(
        events(
            &server,
            &format!("event=layouter_processing_result&event_id_gt={mark}")
        )
        .is_empty()
    );
    resume(&server);
    fleet.until(|fleet| fleet.has("s2") == 7);
    let event = await_event(&server, mark, "event=layouter_resumed");
    assert_eq!(
        (&event["user"], &event["why"]),
        (&begun["by"], &json!("api"))
    );
    assert_eq!(paused(&server), Value::Null);
    let gone = || gauge(&server, "weir_layouter_paused", &[("what", ALL)]);
    wait_until("the gauge follows", gone, |held| *held == 0);
}

#[test]
fn operators_and_previews_work_during_a_pause() {
    let server = server(&[]);
    let mut fleet = fleet_of(&server, &["s1", "s2"]);
    save_streams(&server, 0..4);
    fleet.until(|fleet| fleet.has("s1") == 2 && fleet.has("s2") == 2);
    let name = on(&ingests(&server), "s1").into_iter().next().expect("one");
    let question = json!({"events": [{"event": "streamer_lost", "hostname": "s1"}]});
    let preview = || {
        server
            .post("/cluster/preview", question.clone())
            .expect(200)
            .json()
    };
    let free = preview();
    pause(&server, ALL);
    let mut held = preview();
    assert_eq!(held["moves_caused"], free["moves_caused"]);
    assert_eq!(held["changes"].take(), free["changes"], "{free}");
    let wanted = json!({"layouts": [{"name": name, "ingest": "s2"}]});
    let dry = server.post("/streams/layouts?dry_run=true", wanted.clone());
    assert_eq!(dry.expect(200).json()["layouts"][0]["verdict"], "ok");
    server.post("/streams/layouts", wanted).expect(204);
    fleet.until(|fleet| fleet.has("s2") == 3);
    let path = "/streamers/s2/maintenance?dry_run=true";
    let drain = json!({"mode": "drain"});
    server.put(path, drain).expect(200);
    let batch = json!([{"name": "new1"}, {"name": name, "title": "t"}, {"name": "c99", "layout": {"ingest": "s1"}}]);
    server.put("/streams/batch", batch).expect(204);
    until_waiting(&server, 1);
    assert_eq!(layouts(&server)["new1"], Value::Null);
    assert_eq!(layouts(&server)["c99"]["ingest"], "s1");
    server
        .put("/streams/new1", json!({"disabled": true}))
        .expect(200);
    until_waiting(&server, 0);
    server
        .put("/streams/new1", json!({"disabled": false}))
        .expect(200);
    until_waiting(&server, 1);
    server.delete("/streams/new1").expect(204);
    until_waiting(&server, 0);
    resume(&server);
    save_streams(&server, 10..11);
    fleet.until(|fleet| fleet.has("s1") + fleet.has("s2") == 6);
    assert_eq!(layouts(&server)[&name]["ingest"], "s2");
}

#[test]
fn improving_moves_are_dropped_and_the_pause_leaves_new_streams() {
    let server = server(&[]);
    let mut fleet = fleet_of(&server, &["s1"]);
    pause(&server, IMPROVING);
    save_streams(&server, 0..2);
    fleet.until(|fleet| fleet.has("s1") == 2);
    let dropped = server
        .put("/layouter", json!({"drop": "improving"}))
        .expect(200);
    assert_eq!(dropped.json(), json!({"dropped": 0}));
    assert_eq!(paused(&server)["what"], IMPROVING);
    // Another pause takes its place.
    pause(&server, ALL);
    assert_eq!(paused(&server)["what"], ALL);
}

#[test]
fn pause_ends_by_itself_and_survives_a_kill() {
    let mut server = server(&[]);
    save_streamer(&server, "s1", json!({}));
    let body = json!({"pause": {"until": "1h", "what": ALL}});
    let begun = server.put("/layouter", body).expect(200).json()["paused"].take();
    let (since, until) = (begun["since"].as_u64(), begun["until"].as_u64());
    assert_eq!(
        since.zip(until).map(|(since, until)| until - since),
        Some(3_600_000)
    );
    server.kill();
    server.start();
    assert_eq!(paused(&server), begun);
    let mut fleet = fleet_of(&server, &["s1"]);
    save_streams(&server, 0..1);
    until_waiting(&server, 1);
    let mark = last_event(&server);
    let body = json!({"pause": {"until": "1s", "what": ALL}});
    server.put("/layouter", body).expect(200);
    fleet.until(|fleet| fleet.has("s1") == 1);
    let event = await_event(&server, mark, "event=layouter_resumed");
    assert_eq!(
        (&event["why"], &event["user"]),
        (&json!("time"), &Value::Null)
    );
    assert_eq!(paused(&server), Value::Null);
}

#[test]
fn pause_needs_the_layouter_and_its_end_does_not() {
    let server = TestServer::new();
    for body in [json!({"pause": {}}), json!({"drop": "improving"})] {
        let refused = server.put("/layouter", body).expect(409);
        assert_eq!(refused.errors(), ["layouter_disabled"]);
    }
    resume(&server);
    set(&server, json!({"layouter_enabled": "true"}));
    pause(&server, ALL);
    set(&server, json!({"layouter_enabled": "false"}));
    assert_eq!(paused(&server)["what"], ALL);
    set(&server, json!({"layouter_enabled": "true"}));
    let mut fleet = fleet_of(&server, &["s1"]);
    save_streams(&server, 0..1);
    until_waiting(&server, 1);
    set(&server, json!({"layouter_enabled": "false"}));
    resume(&server);
    set(&server, json!({"layouter_enabled": "true"}));
    fleet.until(|fleet| fleet.has("s1") == 1);
}

#[test]
fn pause_needs_the_right_to_write_the_layouter() {
    let server = server(&[]);
    let body = |actions: &[&str], scope: &str| {
        let mut permission = json!({"scopes": [scope]});
        for action in actions {
            permission[*action] = json!(true);
        }
        json!({"permissions": [permission]})
    };
    let request = br#"{"pause":{"what":"all"}}"#;
    let put = |key: &str| {
        let path = format!("{PREFIX}/layouter");
        let fields = [("Authorization", key)];
        server.connect().request("PUT", &path, &fields, request)
    };
    for (name, permission) in [
        ("reader", body(&["read"], "layouter")),
        (
            "streams",
            body(&["list", "read", "write", "execute"], "streams/*"),
        ),
    ] {
        let refused = put(&token(&server, name, permission)).expect(403).json();
        let meta = &refused["errors"][0]["meta"];
        assert_eq!(
            (&meta["needs"], &meta["on"]),
            (&json!("write"), &json!("layouter"))
        );
    }
    assert_eq!(paused(&server), Value::Null);
    let writer = token(&server, "writer", body(&["write"], "layouter"));
    put(&writer).expect(200);
    assert_eq!(paused(&server)["by"], "api_token:writer");
}

#[test]
fn wrong_pauses_name_the_member() {
    let server = server(&[]);
    for (body, pointer) in [
        (json!({}), json!("")),
        (
            json!({"pause": {"until": "yesterday"}}),
            json!("/pause/until"),
        ),
        (json!({"pause": {"what": "some"}}), json!("/pause/what")),
        (json!({"pause": {"until": "31d"}}), json!("/pause/until")),
    ] {
        let refused = server.put("/layouter", body).expect(400).json();
        let source = &refused["errors"][0]["source"];
        assert_eq!(source["pointer"], pointer, "{refused}");
    }
    assert_eq!(paused(&server), Value::Null);
}

/// Limits the store to its size, and saves until a save is refused.
pub fn fill_disk(server: &TestServer) {
    let store = server.data_dir().join("weir.redb");
    let used = std::fs::metadata(store).expect("the store is a file").len();
    limit_files(server.id(), Some(used));
    let body = json!({"comment": "x".repeat(100_000)});
    let save = |n: u32| server.put(&format!("/streams/s{n}"), body.clone()).status;
    let saved = (0..1000).take_while(|n| save(*n) == 200).count();
    assert!(saved < 1000, "the disk does not fill");
}

#[test]
fn full_disk_refuses_a_pause_and_takes_its_end() {
    let server = server(&[]);
    pause(&server, IMPROVING);
    fill_disk(&server);
    let body = json!({"pause": {"what": ALL, "reason": "x".repeat(500)}});
    let refused = server.put("/layouter", body).expect(503);
    assert!(refused.retry_after().is_some(), "{}", refused.text());
    assert_eq!(paused(&server)["what"], IMPROVING);
    // The store may be opened again first.
    let resume = || server.put("/layouter", json!({"pause": null})).status;
    wait_until("the end is saved", resume, |status| *status == 200);
    assert_eq!(paused(&server), Value::Null);
    let save = server.put("/streams/more", json!({"comment": "x".repeat(100_000)}));
    assert_eq!(save.status, 503, "the disk is still full");
}
