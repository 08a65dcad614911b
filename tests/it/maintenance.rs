//! Maintenance of streamers: one that is cordoned keeps its streams and takes no new ones.

use serde_json::{Value, json};

use crate::fleet::{StreamNames, fleet_of, ingests, on, save_streamer, save_streams, server};
use weir_testkit::TestServer;

const PATH: &str = "/streamers/s1/maintenance";

fn cordon(server: &TestServer) -> Value {
    let body = json!({"mode": "cordon", "reason": "new \"disks\""});
    server.put(PATH, body).expect(200).json()
}

fn end(server: &TestServer) -> Value {
    server.put(PATH, json!({"mode": "none"})).expect(200).json()
}

#[test]
fn cordoned_streamer_keeps_its_streams_and_takes_no_others() {
    let server = server(&[]);
    let mut fleet = fleet_of(&server, &["s1", "s2"]);
    save_streams(&server, 0..4);
    fleet.until(|fleet| fleet.has("s1") == 2 && fleet.has("s2") == 2);
    let own = on(&ingests(&server), "s1");
    assert_eq!(cordon(&server)["state"]["code"], "cordoned");
    save_streams(&server, 4..8);
    fleet.until(|fleet| fleet.has("s2") == 6);
    assert_eq!(fleet.lists["s1"], own);
    let why = server.get("/streams/c04/layout/explain").expect(200).json();
    let nodes = why["nodes"].as_array().expect("nodes");
    let s1 = nodes.iter().find(|node| node["hostname"] == "s1");
    let s1 = s1.expect("every node is named");
    assert_eq!(
        (&s1["node_decision"], &s1["reasons"]),
        (&json!(false), &json!(["node_cordoned"]))
    );
    let summary = s1["summary"].as_str().expect("a sentence");
    assert!(summary.contains("the node is in maintenance"), "{summary}");
    // An operator may place a stream there all the same.
    let layout = json!({"layout": {"ingest": "s1"}});
    server.put("/streams/c04", layout).expect(200);
    fleet.until(|fleet| fleet.has("s1") == 3 && fleet.has("s2") == 5);
    end(&server);
    save_streams(&server, 8..10);
    fleet.until(|fleet| fleet.has("s1") == 5 && fleet.has("s2") == 5);
    let all: StreamNames = on(&ingests(&server), "s1");
    assert!(all.is_superset(&own));
}

#[test]
fn maintenance_is_stored_shown_and_logged() {
    let mut server = TestServer::new();
    save_streamer(&server, "s1", json!({"labels": {"a": "b"}}));
    server
        .put("/streams/a", json!({"layout": {"ingest": "s1"}}))
        .expect(200);
    let list = server.get("/streamers/s1/streams").expect(200);
    let before = server.get("/streamers/s1").expect(200);
    assert_eq!(before.json()["state"]["maintenance"], Value::Null);
    let state = cordon(&server)["state"]["maintenance"].take();
    assert_eq!(
        (&state["mode"], &state["reason"]),
        (&json!("cordon"), &json!("new \"disks\""))
    );
    let since = state["since"].as_u64().expect("a time");
    let read = server.get("/streamers/s1").expect(200);
    assert_ne!(read.etag(), before.etag());
    assert_eq!(read.json()["state"]["maintenance"], state);
    assert_eq!(read.json()["state"]["code"], "unsure", "it was never seen");
    let page = server
        .get("/streamers?select=state.maintenance.mode")
        .expect(200)
        .json();
    assert_eq!(
        page["streamers"][0]["state"],
        json!({"maintenance": {"mode": "cordon"}})
    );
    // Again, with another reason: it goes on.
    let again = json!({"mode": "cordon", "reason": null});
    let again = server.put(PATH, again).expect(200).json()["state"]["maintenance"].take();
    assert_eq!(
        again,
        json!({"mode": "cordon", "reason": "", "since": since})
    );
    // An edit, and a document that is sent back, keep it.
    server
        .put("/streamers/s1", json!({"state": null, "channel_limit": 5}))
        .expect(200);
    let document = server.get("/streamers/s1").expect(200).json();
    server.put("/streamers/s1", document).expect(200);
    server.restart();
    let kept = server.get("/streamers/s1").expect(200).json();
    assert_eq!(kept["state"]["maintenance"], again);
    assert_eq!(
        (&kept["labels"], &kept["channel_limit"]),
        (&json!({"a": "b"}), &json!(5))
    );
    assert_eq!(
        server.get("/streamers/s1/streams").expect(200).text(),
        list.text()
    );
    assert_eq!(end(&server)["state"]["maintenance"], Value::Null);
    let query = "/events?operation_id=streamer_maintenance_save&sort=event_id";
    let events = server.get(query).expect(200).json();
    let events = events["events"].as_array().expect("a list").clone();
    assert_eq!(events.len(), 3, "{events:?}");
    for event in &events {
        assert_eq!(
            (&event["entity_id"], &event["changed"]),
            (&json!("s1"), &json!(["/state/maintenance"]))
        );
    }
    // Ended again it changes nothing, and a new streamer of the name has none.
    let before = server.get("/streamers/s1").expect(200);
    end(&server);
    assert_eq!(
        server.get("/streamers/s1").expect(200).etag(),
        before.etag()
    );
    cordon(&server);
    server.delete("/streamers/s1").expect(204);
    save_streamer(&server, "s1", json!({}));
    let new = server.get("/streamers/s1").expect(200).json();
    assert_eq!(new["state"]["maintenance"], Value::Null);
}

#[test]
fn bad_maintenance_is_refused() {
    let server = TestServer::new();
    save_streamer(&server, "s1", json!({}));
    for (body, error) in [
        (json!({}), "missing_required /mode"),
        (json!({"mode": null}), "missing_required /mode"),
        (json!({"mode": "away"}), "unknown_enum_option /mode"),
        (json!({"mode": 1}), "not_string /mode"),
        (json!({"mode": "cordon", "reason": 5}), "not_string /reason"),
        (
            json!({"mode": "cordon", "reason": "x".repeat(501)}),
            "too_long /reason",
        ),
        (json!([]), "not_object "),
    ] {
        let answer = server.put(PATH, body.clone()).expect(400);
        assert_eq!(answer.errors(), [error], "{body}");
    }
    let missing = server.put("/streamers/nobody/maintenance", json!({"mode": "none"}));
    assert_eq!(missing.expect(404).errors(), ["streamer_not_found"]);
    let stale = [("If-Match", "\"other\"")];
    let answer = server.call_with("PUT", PATH, &stale, br#"{"mode":"cordon"}"#);
    answer.expect(412);
    let state = server.get("/streamers/s1").expect(200).json()["state"].take();
    assert_eq!(state["maintenance"], Value::Null);
}
