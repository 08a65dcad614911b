//! Planned moves make before they break: streamers that poll and report, and a stream that moves
//! from one to the other.

use serde_json::{Value, json};

use crate::calls::park;
use crate::faults::limit_files;
use crate::fleet::{Fleet, save_streamer};
use crate::metrics::Metrics;
use weir_testkit::{Response, TestServer, wait_until};

/// Longer than any test: a handover that ends before does not end by time.
const NEVER: &str = "1h";

/// Two streamers that poll, without a layouter, and the stream `a` on the first.
fn cluster(arguments: &[&str], config: Value) -> (TestServer, Fleet) {
    let server = TestServer::with(arguments);
    for host in ["s1", "s2"] {
        save_streamer(&server, host, json!({}));
    }
    let mut fleet = Fleet::new();
    fleet.start_all(&server, &["s1", "s2"]);
    let mut stream = config;
    stream["layout"] = json!({"ingest": "s1"});
    server.put("/streams/a", stream).expect(200);
    fleet.until(|fleet| fleet.has("s1") == 1 && fleet.has("s2") == 0);
    (server, fleet)
}

fn move_to(server: &TestServer, host: &str) -> Value {
    let layout = json!({"layout": {"ingest": host}});
    server.put("/streams/a", layout).expect(200).json()["layout"].take()
}

fn layout(server: &TestServer) -> Value {
    server.get("/streams/a").expect(200).json()["layout"].take()
}

/// A streamer reports the stream until the old one lets go of it.
#[track_caller]
fn report_until_over(server: &TestServer, host: &str) {
    let look = || {
        report(server, host, "running");
        layout(server)
    };
    wait_until("the handover is over", look, |layout| {
        layout["handover_from"].is_null()
    });
}

fn report(server: &TestServer, host: &str, status: &str) {
    let body = json!({"streams": [{"name": "a", "status": status}]});
    let path = format!("/streamers/{host}/stats");
    server.put(&path, body).expect(204);
}

fn metrics(server: &TestServer) -> Metrics {
    let answer = server.get("/cluster/stats?format=openmetrics");
    Metrics::read(&answer.expect(200))
}

fn ended(server: &TestServer, cause: &str) -> u64 {
    let name = "weir_layouter_handovers_ended_total";
    metrics(server).value(name, &[("cause", cause)]) as u64
}

/// The handover of the only stream that is counted as ended.
#[track_caller]
fn until_ended(server: &TestServer, cause: &str) {
    let look = || ended(server, cause);
    wait_until(cause, look, |count| *count == 1);
    assert!(metrics(server).value("weir_layouter_handovers", &[]) < 0.5);
}

/// The configuration of a streamer, if it is another one than with this tag.
fn config(server: &TestServer, host: &str, query: &str, tag: Option<&str>) -> Response {
    let known: Vec<_> = tag.map(|tag| ("If-None-Match", tag)).into_iter().collect();
    let path = format!("/streamers/{host}/streams{query}");
    server.call_with("GET", &path, &known, b"")
}

#[test]
fn old_streamer_keeps_a_stream_until_the_new_one_runs_it() {
    let (server, mut fleet) = cluster(&["--layouter-handover", NEVER], json!({"static": true}));
    report(&server, "s1", "running");
    let moved = move_to(&server, "s2");
    assert_eq!(
        (&moved["ingest"], &moved["handover_from"]),
        (&json!("s2"), &json!("s1"))
    );
    fleet.until(|fleet| fleet.has("s2") == 1);
    assert_eq!(fleet.has("s1"), 1);
    assert_eq!(layout(&server), moved);
    let history = server.get("/streams/a/layouts").expect(200).json();
    let history = history["layouts"].as_array().expect("a list");
    let kept: Vec<&Value> = history.iter().map(|it| &it["handover_from"]).collect();
    assert_eq!(kept, [&json!("s1"), &Value::Null]);
    for (query, count) in [
        ("layout.ingest=s1", 0),
        ("layout.ingest=s1,s2", 1),
        ("layout.handover_from=s1", 1),
        ("layout.handover_from=s2", 0),
    ] {
        let page = server.get(&format!("/streams?{query}")).expect(200).json();
        let found = page["streams"].as_array().expect("a list").len();
        assert_eq!(
            (found, &page["estimated_count"]),
            (count, &json!(count)),
            "{query}"
        );
    }
    // The new one is not there yet.
    report(&server, "s2", "waiting");
    report(&server, "s2", "error");
    assert_eq!(layout(&server)["handover_from"], "s1");
    report_until_over(&server, "s2");
    fleet.until(|fleet| fleet.has("s1") == 0);
    assert_eq!(fleet.has("s2"), 1);
    until_ended(&server, "running");
    let after = layout(&server);
    assert_eq!(
        (&after["ingest"], &after["handover_from"]),
        (&json!("s2"), &Value::Null)
    );
}

#[test]
fn configuration_of_the_old_streamer_changes_at_the_end_only() {
    // Goal: neither its list, nor a delta, nor a parked poll shows a handover to the old streamer.
    let (server, mut fleet) = cluster(&["--layouter-handover", NEVER], json!({}));
    let before = config(&server, "s1", "", None).expect(200);
    let tag = before.etag().expect("a tag").to_owned();
    let since = before.json()["revision"].as_u64().expect("a revision");
    let delta = format!("?changes_since={since}");
    let named = "/streamers/s1/update-streams?name=a";
    move_to(&server, "s2");
    fleet.until(|fleet| fleet.has("s2") == 1);
    config(&server, "s1", "", Some(&tag)).expect(304);
    config(&server, "s1", "?poll_timeout=1", Some(&tag)).expect(304);
    assert_eq!(
        config(&server, "s1", "", None).expect(200).text(),
        before.text()
    );
    assert_eq!(
        config(&server, "s1", &delta, None).expect(200).json()["removed"],
        json!([])
    );
    assert_eq!(
        server.get(named).expect(200).json()["streams"][0]["name"],
        "a"
    );
    report_until_over(&server, "s2");
    let after = config(&server, "s1", "", Some(&tag)).expect(200).json();
    assert_eq!(after["streams"], json!([]));
    let delta = config(&server, "s1", &delta, None).expect(200).json();
    assert_eq!(delta["removed"], json!(["a"]));
    assert_eq!(server.get(named).expect(200).json()["streams"], json!([]));
}

#[test]
fn parked_poll_of_the_old_streamer_is_answered_at_the_end() {
    // Goal: the move itself does not wake it. Method: of all answers during the handover only the
    // one at its end lacks the stream.
    let (server, mut fleet) = cluster(&["--layouter-handover", NEVER], json!({}));
    let before = config(&server, "s1", "", None).expect(200);
    let tag = before.etag().expect("a tag");
    let since = before.json()["revision"].as_u64().expect("a revision");
    let path = "/streamers/s1/streams?poll_timeout=50";
    let mut whole = park(&server, path, &format!("If-None-Match: {tag}\r\n"));
    let mut delta = park(&server, &format!("{path}&changes_since={since}"), "");
    move_to(&server, "s2");
    fleet.until(|fleet| fleet.has("s2") == 1);
    report_until_over(&server, "s2");
    let whole = whole.response(false).expect(200).json();
    assert_eq!(whole["streams"], json!([]));
    let delta = delta.response(false).expect(200).json();
    assert_eq!(delta["removed"], json!(["a"]));
}

#[test]
fn edit_reaches_both_streamers_and_keeps_the_handover() {
    let (server, mut fleet) = cluster(&["--layouter-handover", NEVER], json!({}));
    move_to(&server, "s2");
    server
        .put("/streams/a", json!({"title": "New"}))
        .expect(200);
    for host in ["s1", "s2"] {
        let list = config(&server, host, "", None).expect(200).json();
        assert_eq!(list["streams"][0]["title"], "New", "{host}");
    }
    // A document that was read and is sent back changes nothing, and nobody sets the member.
    let read = server.get("/streams/a").expect(200);
    server.put("/streams/a", read.json()).expect(200);
    let forged = json!({"layout": {"handover_from": "s2"}});
    server.put("/streams/a", forged).expect(200);
    assert_eq!(server.get("/streams/a").expect(200).etag(), read.etag());
    server
        .put("/streams/a", json!({"disabled": true}))
        .expect(200);
    fleet.until(|fleet| fleet.has("s1") == 0 && fleet.has("s2") == 0);
    assert_eq!(layout(&server)["handover_from"], Value::Null);
    server
        .put("/streams/a", json!({"disabled": false}))
        .expect(200);
    fleet.until(|fleet| fleet.has("s2") == 1);
    assert_eq!(fleet.has("s1"), 0);
}

#[test]
fn handover_survives_a_restart_and_ends_after_it() {
    let (mut server, fleet) = cluster(&["--layouter-handover", NEVER], json!({}));
    drop(fleet);
    let moved = move_to(&server, "s2");
    server.kill();
    server.start();
    assert_eq!(layout(&server), moved);
    let mut fleet = Fleet::new();
    fleet.start_all(&server, &["s1", "s2"]);
    assert_eq!((fleet.has("s1"), fleet.has("s2")), (1, 1));
    report_until_over(&server, "s2");
    fleet.until(|fleet| fleet.has("s1") == 0);
    assert_eq!(fleet.has("s2"), 1);
}

#[test]
fn handover_without_a_report_ends_by_time() {
    let (server, mut fleet) = cluster(&["--layouter-handover", "1s"], json!({}));
    let moved = move_to(&server, "s2");
    assert_eq!(moved["handover_from"], "s1");
    fleet.until(|fleet| fleet.has("s1") == 0 && fleet.has("s2") == 1);
    until_ended(&server, "timeout");
    let (server, mut fleet) = cluster(&["--layouter-handover", "0"], json!({}));
    assert_eq!(move_to(&server, "s2")["handover_from"], Value::Null);
    fleet.until(|fleet| fleet.has("s1") == 0 && fleet.has("s2") == 1);
}

#[test]
fn lost_streamer_keeps_nothing() {
    let arguments = [
        "--layouter-handover",
        NEVER,
        "--streamer-dead-timeout",
        "4s",
    ];
    let (server, mut fleet) = cluster(&arguments, json!({}));
    assert_eq!(move_to(&server, "s2")["handover_from"], "s1");
    fleet.stop("s1");
    until_ended(&server, "node_lost");
    assert_eq!(layout(&server)["handover_from"], Value::Null);
    // A move off a lost streamer hands nothing over.
    let state = || server.get("/streamers/s1").expect(200).json()["state"]["name"].take();
    fleet.start(&server, "s1");
    wait_until("its return", state, |name| name != "offline");
    move_to(&server, "s1");
    report_until_over(&server, "s1");
    fleet.stop("s1");
    wait_until("the loss", state, |name| name == "offline");
    assert_eq!(move_to(&server, "s2")["handover_from"], Value::Null);
}

#[test]
fn streams_that_must_not_run_twice_are_taken_at_once() {
    for config in [
        json!({"inputs": [{"url": "publish://"}]}),
        json!({"dvr": {"root": "/storage"}}),
        json!({"pushes": [{"url": "udp://239.0.0.1:5000"}]}),
    ] {
        let (server, mut fleet) = cluster(&["--layouter-handover", NEVER], config.clone());
        assert_eq!(
            move_to(&server, "s2")["handover_from"],
            Value::Null,
            "{config}"
        );
        fleet.until(|fleet| fleet.has("s1") == 0 && fleet.has("s2") == 1);
    }
}

#[test]
fn batches_of_layouts_hand_over_too() {
    let (server, mut fleet) = cluster(&["--layouter-handover", NEVER], json!({}));
    let body = json!({"layouts": [{"name": "a", "ingest": "s2"}]});
    server.post("/streams/layouts", body).expect(204);
    assert_eq!(layout(&server)["handover_from"], "s1");
    // Back again: the old one runs it still.
    let body = json!([{"name": "a", "layout": {"ingest": "s1"}}]);
    server.put("/streams/batch", body).expect(204);
    let back = layout(&server);
    assert_eq!(
        (&back["ingest"], &back["handover_from"]),
        (&json!("s1"), &Value::Null)
    );
    fleet.until(|fleet| fleet.has("s1") == 1 && fleet.has("s2") == 0);
}

#[test]
fn viewers_stay_with_the_streamer_that_runs_the_stream() {
    let (server, _fleet) = cluster(&["--layouter-handover", NEVER], json!({}));
    for host in ["s1", "s2"] {
        let url = format!("http://{host}.example.com");
        save_streamer(&server, host, json!({"public_payload_url": url}));
        let body = json!({"stats": {"total_clients": 1, "output_kbit": 1}});
        server
            .put(&format!("/streamers/{host}/stats"), body)
            .expect(204);
    }
    let servers = json!([{"name": "s1"}, {"name": "s2"}]);
    let balancer = json!({"mode": "clients", "servers": servers});
    server.put("/load-balancers/main", balancer).expect(200);
    let viewer = || {
        let answer = server.call_as("GET", "/lb/main/a/index.m3u8", None);
        let location = answer.header("location").expect("a redirect").to_owned();
        location.split('.').next().expect("a host").to_owned()
    };
    assert_eq!(viewer(), "http://s1");
    move_to(&server, "s2");
    assert_eq!(viewer(), "http://s1", "the new one may not run it yet");
    report_until_over(&server, "s2");
    assert_eq!(viewer(), "http://s2");
}

#[test]
fn end_of_a_handover_waits_for_a_full_disk() {
    // Goal: the end is written once there is room; until then both streamers keep the stream.
    let (server, mut fleet) = cluster(&["--layouter-handover", NEVER], json!({}));
    move_to(&server, "s2");
    fleet.until(|fleet| fleet.has("s2") == 1);
    limit_files(server.id(), Some(0));
    let look = || {
        report(&server, "s2", "running");
        server.call_as("GET", "/monitoring/readiness", None).status
    };
    wait_until("the end is refused", look, |status| *status == 503);
    assert_eq!(layout(&server)["handover_from"], "s1");
    let list = config(&server, "s1", "", None).expect(200).json();
    assert_eq!(list["streams"][0]["name"], "a");
    limit_files(server.id(), None);
    fleet.until(|fleet| fleet.has("s1") == 0);
    assert_eq!(fleet.has("s2"), 1);
}

#[test]
fn layouter_hands_over_what_it_moves_to_a_preferred_streamer() {
    let server = TestServer::with(&[
        "--layouter-enabled",
        "--layouter-sleeping-interval",
        "500ms",
        "--layouter-handover",
        NEVER,
    ]);
    save_streamer(&server, "s1", json!({}));
    let mut fleet = Fleet::new();
    fleet.join(&server, &["s1"]);
    let labels = json!({"labels": {"preferred.zone": "b"}});
    server.put("/streams/a", labels).expect(200);
    fleet.until(|fleet| fleet.has("s1") == 1);
    save_streamer(&server, "s2", json!({"labels": {"zone": "b"}}));
    fleet.join(&server, &["s2"]);
    fleet.until(|fleet| fleet.has("s2") == 1);
    let moved = layout(&server);
    assert_eq!(
        (&moved["ingest"], &moved["handover_from"]),
        (&json!("s2"), &json!("s1"))
    );
    assert_eq!(moved["change_reason"], "preferred_labels_better_match");
    fleet.rest(&server, 5);
    assert_eq!((fleet.has("s1"), fleet.has("s2")), (1, 1));
    // The layouter is switched off in mid-handover, which ends all the same.
    crate::fleet::set(&server, json!({"layouter_enabled": "false"}));
    report_until_over(&server, "s2");
    fleet.until(|fleet| fleet.has("s1") == 0);
    assert_eq!(fleet.has("s2"), 1);
}
