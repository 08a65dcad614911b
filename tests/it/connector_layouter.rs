//! Streamers that never call this server, and the layouter: answers to queries are their only signs
//! of life.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::connector::{KEY, LIST, queries, until_queries};
use crate::fleet::{
    Fleet, Ingests, ingests, last_event, moves, on, pass, runs, save_all, save_streamer, states,
};
use weir_testkit::fake::{FakeFault, FakeServer, FakeStreamer, unused_address};
use weir_testkit::{Signal, TestServer, wait_until};

/// More rounds than any move waits for.
const ROUNDS: u64 = 5;

fn server(dead_timeout: &str) -> TestServer {
    TestServer::with(&[
        "--streamer-queries=true",
        "--outbound-loopback=true",
        "--layouter-enabled",
        "--layouter-sleeping-interval",
        "100ms",
        // Streams that are new on two lost streamers would be held.
        "--layouter-quarantine=false",
        "--streamer-dead-timeout",
        dead_timeout,
    ])
}

type Fakes = BTreeMap<&'static str, FakeServer<FakeStreamer>>;

fn save(server: &TestServer, host: &str, url: &str) {
    let body = json!({"cluster_key": KEY, "api_url": url, "fetch_timeout": 200});
    save_streamer(server, host, body);
}

/// Waits until a streamer is in one of these states.
#[track_caller]
fn until_state(server: &TestServer, host: &str, name: &str) {
    let look = || server.get(&format!("/streamers/{host}")).expect(200).json()["state"].take();
    wait_until(host, look, |state| state["name"] == name);
}

/// Three streamers that answer, with two streams each.
fn cluster(server: &TestServer) -> (Fakes, Ingests) {
    let mut fakes = Fakes::new();
    for host in ["s1", "s2", "s3"] {
        let fake = FakeServer::new(FakeStreamer::new(KEY));
        save(server, host, &fake.url());
        fakes.insert(host, fake);
    }
    for host in fakes.keys() {
        until_state(server, host, "up");
    }
    let names = (0..6).map(|i| format!("c{i}"));
    save_all(server, names, &json!({"static": true}));
    let all_placed = |ingests: &Ingests| ingests.values().all(Option::is_some);
    let placed = wait_until("streams are placed", || ingests(server), all_placed);
    for host in fakes.keys() {
        assert_eq!(on(&placed, host).len(), 2, "{placed:?}");
    }
    (fakes, placed)
}

/// Lets the layouter run more often than any move waits for.
#[track_caller]
fn rest(server: &TestServer) {
    let until = runs(server) + ROUNDS;
    wait_until("rounds", || runs(server), |count| *count >= until);
}

#[test]
fn streams_of_dead_and_hung_streamers_move() {
    // Goal: a streamer whose process ended and one that accepts and never answers are lost, each
    // with its own streams and no others. Method: one after the other, of three.
    let server = server("6s");
    let (mut fakes, first) = cluster(&server);
    let mark = last_event(&server);
    fakes.get_mut("s1").expect("one of three").stop();
    until_state(&server, "s1", "offline");
    let is_left = |ingests: &Ingests| on(ingests, "s1").is_empty();
    let second = wait_until("s1 is left", || ingests(&server), is_left);
    let why = |mark| {
        let moves = moves(&server, mark);
        let names = moves.iter().map(|moved| {
            assert_eq!(moved.why, "node_become_offline", "{moved:?}");
            moved.name.clone()
        });
        names.collect()
    };
    assert_eq!(on(&first, "s1"), why(mark));
    assert_eq!(states(&server, mark), ["s1 down silent"]);

    let mark = last_event(&server);
    fakes["s2"].set_fault(Some(FakeFault::Hang));
    until_state(&server, "s2", "offline");
    let is_left = |ingests: &Ingests| on(ingests, "s3").len() == 6;
    wait_until("all are on s3", || ingests(&server), is_left);
    assert_eq!(on(&second, "s2"), why(mark));

    let mark = last_event(&server);
    fakes.get_mut("s1").expect("one of three").start();
    fakes["s2"].set_fault(None);
    for host in ["s1", "s2"] {
        until_state(&server, host, "up");
    }
    rest(&server);
    let lost = moves(&server, mark);
    let lost = lost.iter().filter(|it| it.why == "node_become_offline");
    assert_eq!(lost.count(), 0);
    let returned = ingests(&server);
    assert!(!on(&returned, "s1").is_empty() && !on(&returned, "s2").is_empty());
}

#[test]
fn pause_of_this_server_moves_nothing() {
    // Goal: silence while this server did not run does not count. Method: it is stopped for longer
    // than the dead timeout, and continued.
    let server = server("3s");
    let (_fakes, placed) = cluster(&server);
    let mark = last_event(&server);
    server.signal(Signal::STOP);
    // The pause is what is tested: nothing is ever sent.
    let (_keep, never) = mpsc::channel::<()>();
    let _ = never.recv_timeout(Duration::from_secs(5));
    server.signal(Signal::CONT);
    until_queries(&server, "answered", 6);
    rest(&server);
    assert_eq!(moves(&server, mark), []);
    assert_eq!(ingests(&server), placed);
}

#[test]
fn restart_shows_unknown_and_moves_nothing() {
    // Goal: after a start nothing is known of streamers, and nothing moves until a dead timeout is
    // over. Method: all are silent during a restart, within a long timeout; then they answer.
    let mut server = server("600s");
    let (fakes, placed) = cluster(&server);
    for fake in fakes.values() {
        fake.set_fault(Some(FakeFault::Hang));
    }
    server.restart();
    let mark = last_event(&server);
    wait_until(
        "silence",
        || queries(&server, "timed_out"),
        |count| *count >= 6,
    );
    for host in fakes.keys() {
        let streamer = server.get(&format!("/streamers/{host}")).expect(200).json();
        assert_eq!(streamer["state"]["name"], "unknown", "{host}");
        assert_eq!(streamer["stats"], Value::Null, "{host}");
    }
    rest(&server);
    for (host, fake) in &fakes {
        fake.set_fault(None);
        until_state(&server, host, "up");
    }
    rest(&server);
    assert_eq!(moves(&server, mark), []);
    assert_eq!(ingests(&server), placed);
}

#[test]
fn streamer_that_polls_is_alive_without_answers() {
    // Goal: a failed query takes no life away. Method: a streamer polls its configuration, and
    // nothing listens at its `api_url`, for longer than the dead timeout.
    let server = server("6s");
    let mut fleet = Fleet::new();
    let url = format!("http://{}", unused_address());
    save_streamer(&server, "s1", json!({"api_url": url, "fetch_timeout": 200}));
    fleet.join(&server, &["s1"]);
    let mark = last_event(&server);
    let before = queries(&server, "unreachable");
    pass(&server, 8);
    assert!(queries(&server, "unreachable") > before);
    assert_eq!(states(&server, mark), [""; 0]);
    let lines = server.log();
    assert!(
        lines.matches("streamer does not answer queries").count() <= 1,
        "{lines}"
    );
}

#[test]
fn streamer_with_a_hanging_list_is_alive() {
    // Goal: a streamer that answers about itself at once, and never with its list of
    // streams, is not silent too often. Method: its `fetch_timeout` is longer than any query may
    // take, so each query takes all its time, and time passes for all silences that would count.
    let server = server("6s");
    let (fakes, placed) = cluster(&server);
    let hanging = &fakes["s1"];
    hanging.hold(Some(LIST));
    let body = json!({"fetch_timeout": 60_000});
    server.put("/streamers/s1", body).expect(200);
    let mark = last_event(&server);
    until_queries(&server, "partial", 16);
    hanging.hold(None);
    assert_eq!(states(&server, mark), [""; 0]);
    assert_eq!(moves(&server, mark), []);
    assert_eq!(ingests(&server), placed);
}
