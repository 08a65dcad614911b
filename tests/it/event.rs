//! The event log: its contents, retention and secrets.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use weir::testing::state::command::Command;
use weir::testing::state::event::{EventLimits, NewEvent};
use weir::testing::state::node::RenderSettings;
use weir::testing::writer::StateMachine;
use weir::testing::writer::load;
use weir_storage::Store;

use crate::metrics::Metrics;
use weir_testkit::{API_KEY, Client, SetOnDrop, TestServer, wait_until};

pub fn stream(title: &str) -> Value {
    json!({"title": title, "inputs": [{"url": "udp://239.0.0.1:1234"}]})
}

pub fn events(server: &TestServer, query: &str) -> Vec<Value> {
    let list = server
        .get(&format!("/events?limit=10000&sort=event_id&{query}"))
        .expect(200)
        .json();
    list["events"].as_array().expect("a list").clone()
}

pub fn check_form(events: &[Value]) {
    for event in events {
        let value = weir::testing::json::parse(event.to_string().as_bytes()).expect("JSON");
        let checked = weir::testing::schema::event().check(&value);
        assert_eq!(checked, Ok(()), "{event}");
    }
}

#[test]
fn every_change_is_logged_with_its_originator() {
    let server = TestServer::new();
    let fields = [
        ("X-Originator", "panel"),
        ("X-Trace-Id", "05cec7ee-fbd0-11ed-be56-0242ac120002"),
        ("User-Agent", "test/1"),
    ];
    let body = stream("one").to_string();
    server
        .call_with("PUT", "/streams/a%2Fb", &fields, body.as_bytes())
        .expect(200);
    server
        .put(
            "/streamers/s1",
            json!({"role": "streamer", "cluster_key": "k"}),
        )
        .expect(200);
    server.delete("/streams/a/b").expect(204);
    server.get("/streams/a/b").expect(404);
    server.delete("/streams/a/b").expect(404);
    let all = events(&server, "event=api_call");
    check_form(&all);
    let logged: Vec<_> = all
        .iter()
        .map(|it| {
            (
                it["operation_id"].as_str().expect("an id"),
                it["status"].as_u64(),
            )
        })
        .collect();
    assert_eq!(
        logged,
        [
            ("stream_save", Some(200)),
            ("streamer_save", Some(200)),
            ("stream_delete", Some(204))
        ],
        "what changes nothing is no event"
    );
    let first = &all[0];
    for (member, value) in [
        ("entity_id", json!("a/b")),
        ("entity_type", json!("stream")),
        ("originator", json!("panel")),
        ("trace_id", json!("05cec7ee-fbd0-11ed-be56-0242ac120002")),
        ("user", json!("api_key")),
        ("user_agent", json!("test/1")),
        ("ip", json!("127.0.0.1")),
        ("path", json!("/central/api/v3/streams/a%2Fb")),
    ] {
        assert_eq!(first[member], value, "{member}");
    }
    let saved = events(&server, "operation_id=streamer_save&select=entity_id");
    assert_eq!(saved.len(), 1);
    assert_eq!(saved[0]["entity_id"], "s1");
    let ids: Vec<u64> = all
        .iter()
        .filter_map(|it| it["event_id"].as_u64())
        .collect();
    assert!(ids.is_sorted() && ids.len() == 3, "{ids:?}");
    let last = server.get("/events?limit=1").expect(200).json();
    assert_eq!(last["events"][0]["event_id"].as_u64(), ids.last().copied());
}

#[test]
fn reads_and_refused_changes_are_not_logged() {
    let server = TestServer::new();
    server.put("/streams/a", stream("one")).expect(200);
    let all = |query: &str| events(&server, query).len();
    let before = all("event=api_call");
    assert_eq!(before, 1);
    server.get("/streams").expect(200);
    server.put("/streams/a", stream("one")).expect(200);
    for (method, path, body, status) in [
        ("PUT", "/streams/a", "{", 400),
        ("PUT", "/streams/a", r#"{"inputs":5}"#, 400),
        ("PUT", "/streamers/s1", "{}", 400),
        (
            "PUT",
            "/streams/batch",
            r#"[{"name":"b"},{"name":"c","inputs":5}]"#,
            400,
        ),
        (
            "POST",
            "/streams/layouts",
            r#"{"layouts":[{"name":"zzz","ingest":"s1"}]}"#,
            400,
        ),
        ("DELETE", "/agents/nobody", "", 404),
        ("POST", "/agents/nobody/reboot", "", 404),
        ("PUT", "/config", r#"{"layouter_enabled":5}"#, 400),
    ] {
        let answer = server.call(method, path, body.as_bytes());
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
    }
    server.call_as("DELETE", "/streams/a", None).expect(401);
    // The next change has the next event.
    server.delete("/streams/a").expect(204);
    let logged = events(&server, "event=api_call");
    assert_eq!(logged.len(), before + 1, "{logged:?}");
    assert_eq!(logged[1]["operation_id"], "stream_delete");
}

#[test]
fn event_polls_wake_on_new_events() {
    let server = TestServer::new();
    server.put("/streams/a", stream("one")).expect(200);
    let last = events(&server, "")
        .last()
        .and_then(|it| it["event_id"].as_u64())
        .expect("an event");
    let mut client = server.connect();
    let bearer = format!("Bearer {API_KEY}");
    let path = format!("/central/api/v3/events?event_id_gt={last}&poll_timeout=50");
    client.send_request("GET", &path, &[("Authorization", &bearer)], b"");
    server.put("/streams/b", stream("two")).expect(200);
    let news = client.response(false).expect(200).json();
    assert_eq!(news["events"][0]["entity_id"], "b");
    let none = server
        .get(&format!(
            "/events?event_id_gt={last}&poll_timeout=1&entity_id=zzz"
        ))
        .expect(200);
    assert_eq!(none.json()["events"], json!([]));
}

#[test]
fn start_event_records_how_the_previous_run_ended() {
    let mut server = TestServer::new();
    server.put("/streams/a", stream("one")).expect(200);
    server.restart();
    server.put("/streams/a", stream("two")).expect(200);
    server.kill();
    server.start();
    // The event of a start is written while the first requests are served.
    let look = || events(&server, "event=server_started");
    let starts = wait_until("three starts", look, |starts| starts.len() >= 3);
    check_form(&starts);
    let states: Vec<_> = starts
        .iter()
        .filter_map(|it| it["previous_state"].as_str())
        .collect();
    assert_eq!(states, ["none", "shutdown", "killed"]);
    assert!(starts[1]["revision"].as_u64() < starts[2]["revision"].as_u64());
    assert_eq!(starts[0]["instance_id"], starts[2]["instance_id"]);
    assert_eq!(events(&server, "event=server_starting").len(), 3);
}

#[test]
fn changes_and_their_events_are_committed_together() {
    // Goal: change and event are one. Method: several writers create streams until the process is
    // killed under them; then the streams that exist are compared with the events, and both with
    // what was acknowledged.
    let mut server = TestServer::new();
    let acknowledged = Mutex::new(BTreeSet::new());
    let (stop, address) = (AtomicBool::new(false), server.address());
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (acknowledged, stop) = (&acknowledged, &stop);
            scope.spawn(move || {
                for i in 0.. {
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    let name = format!("w{writer}-{i}");
                    if save(address, &name) {
                        acknowledged.lock().expect("no panic").insert(name);
                    }
                }
            });
        }
        let _stop = SetOnDrop(&stop);
        let count = || acknowledged.lock().expect("no panic").len();
        wait_until("100 acknowledged saves", count, |count| *count >= 100);
        server.kill();
    });
    server.start();
    let list = server
        .get("/streams?select=name&limit=10000")
        .expect(200)
        .json();
    let list = list["streams"].as_array().expect("a list");
    let streams: BTreeSet<String> = list
        .iter()
        .filter_map(|it| it["name"].as_str())
        .map(str::to_owned)
        .collect();
    let logged = events(&server, "operation_id=stream_save");
    let logged: Vec<String> = logged
        .iter()
        .filter_map(|it| it["entity_id"].as_str())
        .map(str::to_owned)
        .collect();
    let set: BTreeSet<String> = logged.iter().cloned().collect();
    assert_eq!(set.len(), logged.len(), "each event is logged once");
    assert_eq!(set, streams);
    assert!(acknowledged.into_inner().expect("no panic").is_subset(&set));
}

/// One save on a connection of its own; false if the server is gone before it answers.
fn save(address: std::net::SocketAddr, name: &str) -> bool {
    let Ok(mut client) = Client::connect(address) else {
        return false;
    };
    let bearer = format!("Bearer {API_KEY}");
    let path = format!("/central/api/v3/streams/{name}");
    let body = stream("x").to_string();
    let fields = [("Authorization", bearer.as_str())];
    let saved = client.try_request("PUT", &path, &fields, body.as_bytes());
    saved.is_ok_and(|answer| answer.status == 200)
}

#[test]
fn event_log_is_bounded_and_drops_the_oldest() {
    let server = TestServer::with(&["--events-size", "16KiB"]);
    for i in 0..200 {
        server
            .put(&format!("/streams/s{i}"), stream("x"))
            .expect(200);
    }
    let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
    let bytes = Metrics::read(&answer).value("weir_events_bytes", &[]);
    assert!(bytes <= 16.0 * 1024.0, "{bytes}");
    let all = events(&server, "event=api_call");
    assert!(all.len() > 10 && all.len() < 200, "{}", all.len());
    assert_eq!(
        all.last().map(|it| it["entity_id"].clone()),
        Some(json!("s199"))
    );
    let none = TestServer::with(&["--events-size", "0"]);
    none.put("/streams/a", stream("x")).expect(200);
    assert!(events(&none, "").is_empty());
}

/// Fills a store with one event per age.
fn store_of(directory: &Path, ages: &[(&'static str, Duration)]) {
    let options = weir_storage::Options::default();
    let (store, opened) = Store::open(directory, &options).expect("an empty store");
    let state = load(&store, &opened, RenderSettings::default()).expect("loads");
    let all = EventLimits {
        age_ms_max: u64::MAX,
        ..EventLimits::default()
    };
    let mut machine = StateMachine::new(state, store).with_events(all, "earlier");
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is after 1970");
    for (name, age) in ages {
        let events = vec![NewEvent::new(name)];
        let at_ms = now.saturating_sub(*age).as_millis() as u64;
        machine
            .batch(vec![Command::AppendEvents { events }], at_ms)
            .expect("commits");
    }
}

#[test]
fn events_expire_after_their_retention() {
    // Method: a store whose events were written at times that are long ago; the start of the server
    // is the first new event.
    let ages = [
        ("layouter_brake_on", 400 * 24),
        ("layouter_brake_off", 30 * 24 + 1),
        ("agent_connected", 30 * 24 - 1),
        ("agent_disconnected", 1),
    ];
    let ages = ages.map(|(name, hours)| (name, Duration::from_hours(hours)));
    let names = |server: &TestServer| {
        let all = events(server, "event_ne=server_started,server_starting");
        let names = all.iter().map(|it| it["event"].as_str().map(str::to_owned));
        names.collect::<Option<Vec<_>>>().expect("names")
    };
    let started = |server: &TestServer| {
        let wait = "/events?event=server_started&poll_timeout=50";
        let list = server.get(wait).expect(200).json();
        assert_eq!(list["estimated_count"], 1, "{list}");
    };
    let mut server = TestServer::on(|directory| store_of(directory, &ages), &[]);
    started(&server);
    let young = ["agent_connected", "agent_disconnected"];
    assert_eq!(names(&server), young, "30 days by default");
    // Off the disk as well.
    server.kill();
    server.start();
    assert_eq!(names(&server), young);

    let longer = ["--events-age", "3650d"];
    let server = TestServer::on(|directory| store_of(directory, &ages), &longer);
    started(&server);
    assert_eq!(names(&server).len(), 4);
    let shorter = ["--events-age", "1m"];
    let server = TestServer::on(|directory| store_of(directory, &ages), &shorter);
    started(&server);
    assert!(names(&server).is_empty());
}

#[test]
fn event_log_contains_no_secret() {
    let server = TestServer::new();
    let canary = "canary-5f3a";
    let node = json!({"role": "streamer", "cluster_key": canary});
    server.put("/streamers/s1", node).expect(200);
    let body = json!({
        "inputs": [{"url": format!("rtsp://user:{canary}@10.0.0.1/x")}], "password": canary,
    });
    server.put("/streams/a", body).expect(200);
    server
        .put("/streams/a?key=canary-5f3a", stream("x"))
        .expect(200);
    let mut client: Client = server.connect();
    let bearer = format!("Bearer {canary}");
    client
        .request(
            "PUT",
            "/central/api/v3/streams/b",
            &[("Authorization", &bearer)],
            b"{}",
        )
        .expect(401);
    let text = server.get("/events?limit=10000").expect(200).text();
    assert!(
        text.contains("stream_save") && !text.contains(canary),
        "{text}"
    );
    assert!(!text.contains(API_KEY), "{text}");
}
