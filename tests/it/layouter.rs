//! The layouter from the outside: simulated streamers poll the real program; placement, fail-over
//! and fail-back.

use serde_json::{Value, json};

use crate::fleet::{Fleet, ingests, layouts, on, pass, save_streamer, save_streams, server};
use crate::metrics::Metrics;
use weir_testkit::{TestServer, wait_until};

#[test]
fn streams_are_placed_and_leave_a_lost_streamer() {
    // Goal: a saved stream reaches the poll of a streamer, and after its loss the poll of the
    // other. Method: two streamers, one ends.
    let server = server(&["--streamer-dead-timeout", "4s"]);
    save_streamer(&server, "s1", json!({}));
    save_streamer(&server, "s2", json!({}));
    let mut fleet = Fleet::new();
    fleet.join(&server, &["s1"]);
    fleet.join(&server, &["s2"]);
    save_streams(&server, 0..10);
    fleet.until(|fleet| fleet.has("s1") == 5 && fleet.has("s2") == 5);
    for (name, layout) in layouts(&server) {
        let host = layout["ingest"].as_str().expect("it is placed");
        assert!(fleet.lists[host].contains(&name));
        assert_eq!(layout["originator"], "layouter", "{layout}");
        assert_eq!(layout["change_reason"], "not_distributed", "{layout}");
    }
    let lost = fleet.lists["s1"].clone();
    fleet.stop("s1");
    fleet.until(|fleet| fleet.has("s2") == 10);
    for (name, layout) in layouts(&server) {
        assert_eq!(layout["ingest"], "s2");
        let expected = if lost.contains(&name) {
            ("node_become_offline", json!("s1"))
        } else {
            ("not_distributed", Value::Null)
        };
        assert_eq!(layout["change_reason"], expected.0, "{name}");
        assert_eq!(layout["failover_from"], expected.1, "{name}");
    }
    let events = server.get("/events?limit=1000").expect(200).json();
    let events = events["events"].as_array().expect("a list");
    let down = events
        .iter()
        .find(|event| event["event"] == "layouter_streamer_state")
        .expect("the loss is in the log");
    assert_eq!(
        (&down["entity_id"], &down["state"], &down["why"]),
        (&json!("s1"), &json!("down"), &json!("silent"))
    );
}

#[test]
fn layouter_metrics_count_runs_and_changes() {
    let server = server(&["--layouter-sleeping-interval", "500ms"]);
    save_streamer(&server, "s1", json!({"channel_limit": 5}));
    let mut fleet = Fleet::new();
    fleet.start(&server, "s1");
    save_streams(&server, 0..7);
    fleet.until(|fleet| fleet.has("s1") == 5);
    let read = || {
        let answer = server.get("/cluster/stats?format=openmetrics");
        Metrics::read(&answer.expect(200))
    };
    let counted = |metrics: &Metrics, name: &str| metrics.value(name, &[]);
    // Decided, written, counted: in this order, and by a thread of its own.
    let metrics = wait_until("five layouts and two runs", read, |metrics| {
        counted(metrics, "weir_layouter_layouts_written_total") >= 5.0
            && counted(metrics, "weir_layouter_runs_total") >= 2.0
    });
    for (name, expected) in [
        ("weir_layouter_enabled", 1.0),
        ("weir_layouter_layouts_written_total", 5.0),
        ("weir_layouter_layouts_overruled_total", 0.0),
        ("weir_layouter_batches_failed_total", 0.0),
        ("weir_layouter_layouts_waiting", 0.0),
        ("weir_layouter_slots_waiting", 2.0),
        ("weir_layouter_restarts_total", 0.0),
    ] {
        assert!((counted(&metrics, name) - expected).abs() < 0.5, "{name}");
    }
    let why = |reason| metrics.value("weir_layouter_changes_total", &[("reason", reason)]);
    assert!((why("not_distributed") - 5.0).abs() < 0.5);
    assert!(why("node_become_offline").abs() < 0.5);
    let last = counted(&metrics, "weir_layouter_last_run_seconds");
    assert!(last > 0.0, "a round takes time: {last}");
}

#[test]
fn metrics_are_zero_while_the_layouter_is_off() {
    let server = TestServer::new();
    save_streamer(&server, "s1", json!({}));
    save_streams(&server, 0..3);
    let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
    let metrics = Metrics::read(&answer);
    for name in [
        "weir_layouter_enabled",
        "weir_layouter_runs_total",
        "weir_layouter_slots_waiting",
    ] {
        assert!(metrics.value(name, &[]).abs() < 0.5, "{name}");
    }
}

#[test]
fn returning_streamer_takes_its_streams_back() {
    let server = server(&[
        "--streamer-dead-timeout",
        "6s",
        "--layouter-sleeping-interval",
        "500ms",
    ]);
    save_streamer(&server, "s1", json!({}));
    save_streamer(&server, "s2", json!({}));
    let mut fleet = Fleet::new();
    fleet.join(&server, &["s1"]);
    fleet.join(&server, &["s2"]);
    save_streams(&server, 0..6);
    fleet.until(|fleet| fleet.has("s1") == 3 && fleet.has("s2") == 3);
    let own = fleet.lists["s1"].clone();
    fleet.stop("s1");
    fleet.until(|fleet| fleet.has("s2") == 6);
    fleet.start(&server, "s1");
    fleet.until(|fleet| fleet.lists["s1"] == own && fleet.has("s2") == 3);
    for (name, layout) in layouts(&server) {
        assert_eq!(layout["failover_from"], Value::Null, "{name}");
        if own.contains(&name) {
            assert_eq!(
                layout["change_reason"],
                Value::Null,
                "there is no word for it"
            );
        }
    }
}

#[test]
fn nothing_is_placed_on_a_streamer_before_it_is_seen() {
    let server = server(&[]);
    save_streamer(&server, "s1", json!({}));
    save_streamer(&server, "s2", json!({}));
    save_streams(&server, 0..4);
    let mut fleet = Fleet::new();
    fleet.start(&server, "s2");
    fleet.until(|fleet| fleet.has("s2") == 4);
    assert!(
        layouts(&server)
            .values()
            .all(|layout| layout["ingest"] == "s2")
    );
}

#[test]
fn disabled_layouter_moves_nothing() {
    let server = TestServer::with(&["--streamer-dead-timeout", "1s"]);
    save_streamer(&server, "s1", json!({}));
    save_streamer(&server, "s2", json!({}));
    let mut fleet = Fleet::new();
    fleet.start(&server, "s1");
    save_streams(&server, 0..3);
    server
        .post(
            "/streams/layouts",
            json!({"layouts": [{"name": "c00", "ingest": "s2"}]}),
        )
        .expect(204);
    pass(&server, 3);
    assert_eq!(fleet.has("s1"), 0);
    let layouts = layouts(&server);
    assert_eq!(layouts["c00"]["ingest"], "s2");
    assert_eq!(layouts["c01"]["ingest"], Value::Null);
}

#[test]
fn restart_changes_no_layout() {
    let mut server = server(&["--layouter-sleeping-interval", "200ms"]);
    for host in ["s1", "s2", "s3"] {
        save_streamer(&server, host, json!({}));
    }
    let mut fleet = Fleet::new();
    for host in ["s1", "s2", "s3"] {
        fleet.join(&server, &[host]);
    }
    save_streams(&server, 0..9);
    fleet.until(|fleet| ["s1", "s2", "s3"].iter().all(|host| fleet.has(host) == 3));
    let before = layouts(&server);
    for host in ["s1", "s2", "s3"] {
        fleet.stop(host);
    }
    server.restart();
    let mut fleet = Fleet::new();
    for host in ["s1", "s2", "s3"] {
        fleet.start(&server, host);
    }
    fleet.rest(&server, 5);
    assert_eq!(layouts(&server), before);
    // It works: what is new is placed.
    save_streams(&server, 9..12);
    fleet.until(|fleet| ["s1", "s2", "s3"].iter().all(|host| fleet.has(host) == 4));
    let after = layouts(&server);
    assert!(before.iter().all(|(name, layout)| after[name] == *layout));
}

#[test]
fn stream_moves_when_an_edit_forbids_its_place() {
    let server = server(&[]);
    save_streamer(&server, "s1", json!({"labels": {"zone": "north"}}));
    save_streamer(&server, "s2", json!({"labels": {"zone": "south"}}));
    let mut fleet = Fleet::new();
    fleet.join(&server, &["s1"]);
    fleet.join(&server, &["s2"]);
    server
        .put("/streams/a", json!({"labels": {"required.zone": "north"}}))
        .expect(200);
    fleet.until(|fleet| fleet.has("s1") == 1);
    server
        .put("/streams/a", json!({"labels": {"required.zone": "south"}}))
        .expect(200);
    fleet.until(|fleet| fleet.has("s1") == 0 && fleet.has("s2") == 1);
    let layout = &layouts(&server)["a"];
    assert_eq!(
        layout["change_reason"],
        "node_misses_stream_required_labels"
    );
    server
        .put("/streams/a", json!({"disabled": true}))
        .expect(200);
    fleet.until(|fleet| fleet.has("s2") == 0);
    server
        .put("/streams/a", json!({"disabled": false}))
        .expect(200);
    fleet.until(|fleet| fleet.has("s2") == 1);
}

#[test]
fn measured_bitrates_make_room_for_waiting_streams() {
    // Goal: bitrates in reports count where no stream claims one. Method: bandwidth for four
    // assumed streams of 2,000 kbit/s; these turn out to take 500.
    let server = server(&["--layouter-sleeping-interval", "500ms"]);
    save_streamer(&server, "s1", json!({"total_bandwidth": 9000}));
    let mut fleet = Fleet::new();
    fleet.start(&server, "s1");
    save_streams(&server, 0..9);
    fleet.until(|fleet| fleet.has("s1") == 4);
    let measured: Vec<Value> = fleet.lists["s1"]
        .iter()
        .map(|name| json!({"name": name, "bitrate": 500, "status": "running"}))
        .collect();
    let report = json!({"streams": measured});
    server.put("/streamers/s1/stats", report).expect(204);
    fleet.until(|fleet| fleet.has("s1") == 7);
    for layout in layouts(&server).values() {
        assert_eq!(layout["failover_from"], Value::Null, "{layout}");
    }
    // An edit keeps the measured bitrate, so no stream has to leave.
    let name = measured[0]["name"].as_str().expect("a name");
    let path = format!("/streams/{name}");
    server.put(&path, json!({"title": "edited"})).expect(200);
    fleet.rest(&server, 3);
    assert_eq!(fleet.has("s1"), 7);
}

#[test]
fn wrong_bitrate_takes_no_stream_off_the_air() {
    // Goal: a streamer that reports nonsense once costs no stream its place, neither at once nor
    // after the loss of the streamer. Method: a bitrate above what any streamer can send, and one
    // beyond all bounds.
    for wrong in [60_000_u64, 1_000_000_000_000] {
        let server = server(&[
            "--streamer-dead-timeout",
            "6s",
            "--layouter-sleeping-interval",
            "200ms",
        ]);
        for host in ["s1", "s2"] {
            save_streamer(&server, host, json!({"total_bandwidth": 50_000}));
        }
        let mut fleet = Fleet::new();
        fleet.join(&server, &["s1", "s2"]);
        save_streams(&server, 0..4);
        let before = fleet.settle(&server);
        let own = on(&before, "s1");
        let report = |bitrate: u64| {
            let streams = own
                .iter()
                .map(|name| json!({"name": name, "bitrate": bitrate}));
            let report = json!({"streams": streams.collect::<Vec<Value>>()});
            server.put("/streamers/s1/stats", report).expect(204);
        };
        report(wrong);
        fleet.rest(&server, 3);
        report(3000);
        fleet.rest(&server, 3);
        // Balancing may move one of them; none is without a streamer.
        let now = ingests(&server);
        assert!(now.values().all(Option::is_some), "{wrong} kbit/s: {now:?}");
        fleet.stop("s1");
        fleet.until(|fleet| fleet.has("s2") == 4);
    }
}
