//! Pins: `layout.pinned` keeps a stream on its ingest node while that is legal.

use serde_json::{Value, json};

use crate::calls::{names, save_node};
use crate::fleet::{self, save_streamer};
use weir_testkit::{TestServer, wait_until};

fn layout(server: &TestServer, name: &str) -> Value {
    let stream = server.get(&format!("/streams/{name}")).expect(200);
    stream.json()["layout"].clone()
}

fn pinned(server: &TestServer) -> Vec<String> {
    let list = server.get("/streams?layout.pinned=true&select=name");
    names(&list.expect(200).json())
}

fn set(server: &TestServer, item: Value) {
    let body = json!({ "layouts": [item] });
    server.post("/streams/layouts", body).expect(204);
}

#[test]
fn pin_is_stored_shown_and_ended_by_another_node() {
    let mut server = TestServer::new();
    for host in ["h1", "h2"] {
        save_node(&server, host);
    }
    for name in ["a", "b"] {
        server
            .put(&format!("/streams/{name}"), json!({}))
            .expect(200);
    }
    set(&server, json!({"name": "a", "ingest": "h1"}));
    assert_eq!(layout(&server, "a").get("pinned"), None);
    let sent = server.get("/streamers/h1/streams").expect(200);
    set(&server, json!({"name": "a", "pinned": true}));
    assert_eq!(layout(&server, "a")["pinned"], true);
    assert_eq!(pinned(&server), ["a"]);
    let others = server.get("/streams?layout.pinned_ne=true&select=name");
    assert_eq!(names(&others.expect(200).json()), ["b"]);
    let again = server.get("/streamers/h1/streams").expect(200);
    assert_eq!(again.etag(), sent.etag(), "it is not sent to the streamer");
    assert_eq!(again.body, sent.body);
    let event = server.get("/events?operation_id=batch_update_streams_layouts&sort=-event_id");
    let event = event.expect(200).json()["events"][0].clone();
    assert_eq!(event["changed"], json!(["/layout/pinned"]));
    let history = server.get("/streams/a/layouts").expect(200).json();
    assert_eq!(history["layouts"][0]["pinned"], true);

    server.restart();
    assert_eq!(layout(&server, "a")["pinned"], true);
    server.kill();
    server.start();
    assert_eq!(pinned(&server), ["a"]);

    // Saves of other members keep it, and so does the same node again.
    server.put("/streams/a", json!({"title": "t"})).expect(200);
    set(&server, json!({"name": "a", "ingest": "h1"}));
    assert_eq!(pinned(&server), ["a"]);
    set(&server, json!({"name": "a", "pinned": false}));
    assert_eq!(pinned(&server), [""; 0]);
    let body = json!({"layout": {"ingest": "h2", "pinned": true}});
    server.put("/streams/a", body).expect(200);
    assert_eq!(pinned(&server), ["a"]);
    set(&server, json!({"name": "a", "ingest": "h1"}));
    assert_eq!(pinned(&server), [""; 0], "it was put elsewhere");
    let history = server.get("/streams/a/layouts").expect(200).json();
    assert!(!history.to_string().contains("pinned"), "{history}");
    // Without a node there is nothing to keep.
    set(&server, json!({"name": "b", "pinned": true}));
    assert_eq!(pinned(&server), [""; 0]);
    for end in [json!({"pinned": null}), json!(null)] {
        set(
            &server,
            json!({"name": "b", "ingest": "h1", "pinned": true}),
        );
        assert_eq!(pinned(&server), ["b"], "before {end}");
        server
            .put("/streams/b", json!({ "layout": end }))
            .expect(200);
        assert_eq!(pinned(&server), [""; 0]);
    }
    let wrong = json!({"layouts": [{"name": "a", "pinned": "yes"}]});
    let answer = server.post("/streams/layouts", wrong).expect(400);
    assert_eq!(answer.errors(), ["not_boolean /layouts/0/pinned"]);

    let all = json!({"move": {"ingest": "h2", "pinned": true}, "expect": {"count": 2}});
    let moved = server.post("/streams/batch_by_filter?apply=true", all);
    assert_eq!(moved.expect(200).json()["changed"], 2);
    assert_eq!(pinned(&server), ["a", "b"]);
}

/// A layouter that ticks often and moves a stream again at once.
fn eager() -> TestServer {
    let often = ["--layouter-sleeping-interval", "100ms"];
    fleet::server(&[&often[..], &["--layouter-stream-pause", "0s"]].concat())
}

#[test]
fn pinned_stream_stays_until_it_has_to_move() {
    let server = eager();
    save_streamer(&server, "s1", json!({}));
    save_streamer(&server, "s2", json!({"labels": {"zone": "n"}}));
    let mut fleet = fleet::Fleet::new();
    fleet.join(&server, &["s1", "s2"]);
    let on = |name: &str| layout(&server, name)["ingest"].clone();
    let body = json!({
        "static": true, "labels": {"preferred.zone": "n"},
        "layout": {"ingest": "s1", "pinned": true},
    });
    server.put("/streams/kept", body.clone()).expect(200);
    let explain = || {
        let explained = server.get("/streams/kept/layout/explain");
        explained.expect(200).json()
    };
    let explained = wait_until("a better node", explain, |it| {
        it["better"]["hostname"] == "s2"
    });
    assert_eq!(explained["better"]["why_not_now"], "pinned", "{explained}");
    assert_eq!(explained["layout"]["pinned"], true);
    // One that is not pinned moves, after which the next run has looked at both.
    let mut free = body;
    free["layout"]["pinned"] = json!(false);
    server.put("/streams/free", free).expect(200);
    wait_until("it moves", || on("free"), |host| *host == "s2");
    assert_eq!(on("kept"), "s1");
    // What would undo a move without the pin does not undo it with one.
    let verdict = |pinned: bool| {
        let item = json!({"name": "free", "ingest": "s1", "pinned": pinned});
        let body = json!({ "layouts": [item] });
        let answer = server.post("/streams/layouts?dry_run=true", body);
        answer.expect(200).json()["layouts"][0]["verdict"].clone()
    };
    assert_eq!(verdict(true), "ok");
    assert_eq!(verdict(false), "will_be_undone");

    server.delete("/streamers/s1").expect(204);
    let gone = || layout(&server, "kept");
    let moved = wait_until("it moves", gone, |layout| layout["ingest"] == "s2");
    assert_eq!(moved.get("pinned"), None, "{moved}");
    assert_eq!(pinned(&server), [""; 0]);
}

#[test]
fn pin_that_is_ended_lets_the_stream_move() {
    let server = eager();
    save_streamer(&server, "s1", json!({}));
    save_streamer(&server, "s2", json!({"labels": {"zone": "n"}}));
    let mut fleet = fleet::Fleet::new();
    fleet.join(&server, &["s1", "s2"]);
    let body = json!({
        "static": true, "labels": {"preferred.zone": "n"},
        "layout": {"ingest": "s1", "pinned": true},
    });
    server.put("/streams/a", body).expect(200);
    set(&server, json!({"name": "a", "pinned": false}));
    let on = || layout(&server, "a")["ingest"].clone();
    wait_until("it moves", on, |host| *host == "s2");
}
