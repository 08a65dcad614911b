//! Streamers that are lost: one, one after the other, again and again, most of them, all of them,
//! and with this server.
//!
//! Every test checks the exact moves: which streams, where to and why, and that no other stream
//! moved.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::auth::cluster as cluster_credential;
use crate::fleet::{
    Fleet, Ingests, Move, StreamNames, await_event, events, ingests, last_event, layouts, moves,
    on, pass, save_all, save_streamer, save_streams, server, set, states,
};
use weir_testkit::{PREFIX, TestServer, wait_until};

/// Rounds after which all optional moves are done.
const ROUNDS: u64 = 5;

fn cluster(server: &TestServer, hosts: &[&str], streams: usize) -> (Fleet, Ingests) {
    let mut fleet = Fleet::new();
    for host in hosts {
        save_streamer(server, host, json!({}));
    }
    fleet.join(server, hosts);
    let names = (0..streams).map(|i| format!("c{i:03}"));
    save_all(server, names, &json!({"static": true}));
    let ingests = fleet.settle(server);
    for host in hosts {
        let share = on(&ingests, host).len();
        assert_eq!(share, streams / hosts.len(), "{host}: {ingests:?}");
    }
    (fleet, ingests)
}

/// Streams that moved, as the layouter logs it, all for one reason, each once. Their places are
/// those of the layouts.
#[track_caller]
fn moved(server: &TestServer, after: u64, why: &str) -> StreamNames {
    let moves = moves(server, after);
    let now = ingests(server);
    for Move {
        name,
        to,
        why: logged,
    } in &moves
    {
        assert_eq!((logged.as_str(), to), (why, &now[name]), "{name}");
    }
    let names: StreamNames = moves.iter().map(|moved| moved.name.clone()).collect();
    assert_eq!(names.len(), moves.len(), "each once: {moves:?}");
    names
}

/// Checks that all streams but these kept their layout.
#[track_caller]
fn only(moved: &StreamNames, before: &Ingests, after: &Ingests) {
    let differ = before.iter().filter(|(name, host)| after[*name] != **host);
    let differ: StreamNames = differ.map(|(name, _)| name.clone()).collect();
    assert_eq!(&differ, moved);
}

#[test]
fn successive_losses_move_only_lost_streams_and_all_return() {
    // Goal: each loss moves exactly what was there, and a stream that moved twice returns to where
    // it was first. Method: four streamers, three are lost one after the other.
    let server = server(&[
        "--streamer-dead-timeout",
        "6s",
        "--layouter-sleeping-interval",
        "100ms",
        // Streams that are new on two lost streamers would be held.
        "--layouter-quarantine=false",
    ]);
    let hosts = ["s1", "s2", "s3", "s4"];
    let (mut fleet, first) = cluster(&server, &hosts, 12);
    let mut before = first.clone();
    for (lost, share) in [("s1", 4), ("s2", 6), ("s3", 12)] {
        let mark = last_event(&server);
        let own = on(&before, lost);
        fleet.stop(lost);
        let left: Vec<&str> = hosts.iter().copied().filter(|host| *host > lost).collect();
        let now = fleet.settle(&server);
        assert_eq!(moved(&server, mark, "node_become_offline"), own);
        only(&own, &before, &now);
        for host in left {
            assert_eq!(on(&now, host).len(), share, "{host}: {now:?}");
        }
        for (name, layout) in layouts(&server) {
            let home = first[&name].as_deref().expect("it was placed");
            let away = home <= lost;
            let expected = if away { json!(home) } else { Value::Null };
            assert_eq!(layout["failover_from"], expected, "{name} after {lost}");
        }
        assert_eq!(states(&server, mark), [format!("{lost} down silent")]);
        before = now;
    }
    let mark = last_event(&server);
    fleet.start_all(&server, &["s1", "s2", "s3"]);
    fleet.until(|fleet| fleet.agrees(&first));
    fleet.rest(&server, ROUNDS);
    assert_eq!(ingests(&server), first);
    let away: StreamNames = ["s1", "s2", "s3"]
        .iter()
        .flat_map(|host| on(&first, host))
        .collect();
    assert_eq!(moved(&server, mark, "restore"), away);
    for (name, layout) in layouts(&server) {
        assert_eq!(layout["failover_from"], Value::Null, "{name}");
    }
}

#[test]
fn ingests_take_the_place_of_their_backups() {
    // Goal: a stream that is recorded twice is not off the air where other streams go on. Method:
    // two streamers, half of the streams with a copy on the other one; one is lost and returns, and
    // this server is restarted in between.
    let arguments = [
        "--streamer-dead-timeout",
        "6s",
        "--layouter-sleeping-interval",
        "100ms",
    ];
    let mut server = server(&arguments);
    let mut fleet = Fleet::new();
    for host in ["s1", "s2"] {
        save_streamer(&server, host, json!({}));
    }
    fleet.join(&server, &["s1", "s2"]);
    save_all(
        &server,
        (0..4).map(|i| format!("c{i}")),
        &json!({"static": true}),
    );
    let twice = json!({"static": true, "dvr": {"expiration": 60, "redundancy_factor": 2}});
    save_all(&server, (0..4).map(|i| format!("r{i}")), &twice);
    // A streamer's list also has the streams that it keeps a backup of.
    fleet.until(|fleet| fleet.has("s1") == 6 && fleet.has("s2") == 6);
    let first = ingests(&server);
    let backups = |server: &TestServer| -> usize {
        let all = layouts(server).into_values();
        all.map(|layout| layout["dvr_backups"].as_array().map_or(0, Vec::len))
            .sum()
    };
    assert_eq!(backups(&server), 4);
    fleet.stop("s1");
    fleet.until(|fleet| fleet.has("s2") == 8 && on(&ingests(&server), "s2").len() == 8);
    for (name, layout) in layouts(&server) {
        if first[&name].as_deref() == Some("s1") {
            assert_eq!(layout["change_reason"], "node_become_offline", "{name}");
            assert_eq!(layout["failover_from"], "s1", "{name}: {layout}");
        }
    }
    fleet.stop("s2");
    server.restart();
    fleet.start_all(&server, &["s1", "s2"]);
    fleet.until(|fleet| fleet.has("s1") == 6 && ingests(&server) == first);
    fleet.until(|_| backups(&server) == 4);
}

#[test]
fn flapping_streamer_is_held_longer_each_time() {
    let server = server(&[
        "--streamer-dead-timeout",
        "6s",
        "--layouter-sleeping-interval",
        "100ms",
    ]);
    // So many that two more on one of them are no gap that balance closes.
    let (mut fleet, mut before) = cluster(&server, &["s1", "s2"], 24);
    let own = on(&before, "s1");
    for (turn, hold_ms) in [(0, 6000), (1, 12_000)] {
        let mark = last_event(&server);
        fleet.stop("s1");
        fleet.settle(&server);
        assert_eq!(moved(&server, mark, "node_become_offline"), own);
        let mark = last_event(&server);
        fleet.start(&server, "s1");
        let back = await_event(
            &server,
            mark,
            "event=layouter_streamer_state&state=probation",
        );
        assert_eq!(
            (&back["entity_id"], &back["hold_ms"]),
            (&json!("s1"), &json!(hold_ms))
        );
        // New streams are placed on the stable streamer.
        let new = format!("new{turn}");
        save_all(&server, [new.clone()], &json!({"static": true}));
        before.insert(new.clone(), Some("s2".into()));
        fleet.until(|fleet| fleet.agrees(&before));
        fleet.rest(&server, ROUNDS);
        let mut logged = states(&server, mark);
        // A streamer on probation that was silent starts over: one state, logged twice.
        logged.dedup();
        assert_eq!(logged, ["s1 probation returned", "s1 up hold_over"]);
        let up = await_event(&server, mark, "event=layouter_streamer_state&state=up");
        let up = up["event_id"].as_u64().expect("a number");
        assert_eq!(moved(&server, up, "restore"), own);
        let all = moves(&server, mark);
        let meanwhile = Move {
            name: new,
            to: Some("s2".into()),
            why: "not_distributed".into(),
        };
        assert_eq!(all[0], meanwhile);
        assert_eq!(all.len(), 1 + own.len(), "{all:?}");
    }
}

#[test]
fn silence_shorter_than_the_timeout_moves_nothing() {
    let server = server(&[
        "--streamer-dead-timeout",
        "20s",
        "--layouter-sleeping-interval",
        "200ms",
    ]);
    let (mut fleet, before) = cluster(&server, &["s1", "s2"], 6);
    let (mark, layouts_before) = (last_event(&server), layouts(&server));
    for _ in 0..3 {
        fleet.stop("s1");
        pass(&server, 1);
        fleet.start(&server, "s1");
        assert_eq!(fleet.lists["s1"], on(&before, "s1"));
    }
    fleet.rest(&server, ROUNDS);
    assert_eq!(states(&server, mark), [""; 0]);
    assert_eq!(moves(&server, mark), []);
    assert_eq!(layouts(&server), layouts_before);
    assert!(fleet.agrees(&before));
}

#[test]
fn streamers_cut_off_one_after_the_other_move_nothing() {
    // Goal: the brake does not come after the first losses. Method: of twelve streamers five fall
    // silent, and the others before these are lost; then all return.
    let server = server(&[
        "--streamer-dead-timeout",
        "8s",
        "--layouter-sleeping-interval",
        "100ms",
    ]);
    let hosts = [
        "s00", "s01", "s02", "s03", "s04", "s05", "s06", "s07", "s08", "s09", "s10", "s11",
    ];
    let (mut fleet, before) = cluster(&server, &hosts, 24);
    let mark = last_event(&server);
    fleet.stop_all(&hosts[..5]);
    pass(&server, 1);
    fleet.stop_all(&hosts[5..]);
    let brake = await_event(&server, mark, "event=layouter_brake_on");
    let facts = ["lost", "streamers"].map(|member| brake[member].as_u64());
    assert_eq!(facts, [Some(12), Some(12)], "{brake}");
    fleet.start_all(&server, &hosts);
    fleet.until(|fleet| fleet.agrees(&before));
    fleet.rest(&server, ROUNDS);
    assert_eq!(moves(&server, mark), []);
    assert_eq!(ingests(&server), before);
}

#[test]
fn overdue_streamer_takes_no_streams_of_a_lost_one() {
    // Goal: streams do not move to a streamer that is about to be lost, too. Method: two of four
    // fall silent, one a second after the other.
    let server = server(&[
        "--streamer-dead-timeout",
        "10s",
        "--layouter-sleeping-interval",
        "100ms",
    ]);
    let (mut fleet, before) = cluster(&server, &["s1", "s2", "s3", "s4"], 24);
    let mark = last_event(&server);
    fleet.stop("s1");
    pass(&server, 1);
    fleet.stop("s2");
    fleet.settle(&server);
    let lost: StreamNames = &on(&before, "s1") | &on(&before, "s2");
    assert_eq!(moved(&server, mark, "node_become_offline"), lost);
    let logged = moves(&server, mark);
    let to: BTreeSet<&str> = logged.iter().filter_map(|it| it.to.as_deref()).collect();
    assert_eq!(to, BTreeSet::from(["s3", "s4"]), "{logged:?}");
}

#[test]
fn mass_failure_moves_nothing_until_the_brake_is_off() {
    // Goal: a server that loses most streamers at once assumes for a while that it was cut off
    // itself. Method: six of eleven fall silent under a long timeout, which is then made short, so
    // that all six are lost at one moment; two return in time.
    let server = server(&["--layouter-sleeping-interval", "100ms"]);
    let hosts = [
        "s00", "s01", "s02", "s03", "s04", "s05", "s06", "s07", "s08", "s09", "s10",
    ];
    let (mut fleet, before) = cluster(&server, &hosts, 33);
    let layouts_before = layouts(&server);
    fleet.stop_all(&hosts[5..]);
    pass(&server, 4);
    let mark = last_event(&server);
    set(&server, json!({"streamer_dead_timeout": 5000}));
    let brake = await_event(&server, mark, "event=layouter_brake_on");
    let facts = ["lost", "streamers", "hold_ms"].map(|member| brake[member].as_u64());
    assert_eq!(facts, [Some(6), Some(11), Some(25_000)]);
    let shown = &server.get("/layouter").expect(200).json()["brake"];
    assert_eq!(shown["on"], true, "{shown}");
    assert_eq!(shown["why"], "6 of 11 streamers were lost at once");
    let [since, until] = ["since", "until"].map(|member| shown[member].as_u64());
    assert_eq!(until, since.map(|since| since + 25_000), "{shown}");
    // Each is braked after its usual interval.
    let look = || states(&server, mark);
    let logged = wait_until("six are braked", look, |logged| logged.len() >= 6);
    let lost = hosts[5..]
        .iter()
        .map(|host| format!("{host} unsure mass_failure_brake"));
    assert_eq!(
        logged.iter().cloned().collect::<BTreeSet<_>>(),
        lost.collect()
    );
    // New streams are placed on the remaining streamers.
    save_all(&server, ["new".to_owned()], &json!({"static": true}));
    fleet.until(|_| ingests(&server)["new"].is_some());
    let place = ingests(&server)["new"].clone().expect("it is placed");
    assert!(hosts[..5].contains(&place.as_str()), "{place}");
    fleet.rest(&server, ROUNDS);
    let mut now = layouts(&server);
    now.remove("new");
    assert_eq!(now, layouts_before, "and nothing else");
    fleet.start_all(&server, &hosts[5..7]);
    for host in &hosts[5..7] {
        assert_eq!(fleet.lists[*host], on(&before, host), "{host}");
    }
    let over = await_event(&server, mark, "event=layouter_brake_off");
    let over = over["event_id"].as_u64().expect("a number");
    let now = fleet.settle(&server);
    let gone: StreamNames = hosts[7..]
        .iter()
        .flat_map(|host| on(&before, host))
        .collect();
    assert_eq!(gone.len(), 12);
    assert_eq!(moved(&server, over, "node_become_offline"), gone);
    assert_eq!(
        moves(&server, mark).len(),
        1 + gone.len(),
        "nothing before that"
    );
    only(&gone, &before, &now);
    let down = hosts[7..].iter().map(|host| format!("{host} down silent"));
    assert_eq!(states(&server, over), down.collect::<Vec<_>>());
    assert_eq!(events(&server, "event=layouter_brake_on").len(), 1);
}

#[test]
fn loss_of_all_streamers_moves_nothing() {
    let server = server(&["--layouter-sleeping-interval", "100ms"]);
    let hosts = ["s1", "s2", "s3"];
    let (mut fleet, before) = cluster(&server, &hosts, 9);
    let layouts_before = layouts(&server);
    fleet.stop_all(&hosts);
    pass(&server, 3);
    let mark = last_event(&server);
    set(&server, json!({"streamer_dead_timeout": 2000}));
    for host in hosts {
        let query = format!("event=layouter_streamer_state&state=down&entity_id={host}");
        await_event(&server, mark, &query);
    }
    save_streams(&server, 0..1);
    fleet.rest(&server, ROUNDS);
    let mut now = layouts(&server);
    assert_eq!(now.remove("c00"), Some(Value::Null));
    assert_eq!(now, layouts_before);
    assert_eq!(moves(&server, mark), []);
    // They return, and streams that the first one received before the others returned go back.
    set(&server, json!({"streamer_dead_timeout": 5000}));
    fleet.start_all(&server, &hosts);
    for host in hosts {
        let query = format!("event=layouter_streamer_state&state=up&entity_id={host}");
        await_event(&server, mark, &query);
    }
    fleet.rest(&server, ROUNDS);
    let mut now = fleet.settle(&server);
    assert!(
        now.remove("c00").expect("it is there").is_some(),
        "it has a place now"
    );
    assert_eq!(now, before);
    for (name, layout) in layouts(&server) {
        assert_eq!(layout["failover_from"], Value::Null, "{name}");
    }
}

#[test]
fn restart_between_loss_and_return_changes_nothing() {
    // Goal: fail-back works over a restart. Method: a streamer is lost, the
    // server ends and begins again, the streamer returns.
    let mut server = server(&[
        "--streamer-dead-timeout",
        "6s",
        "--layouter-sleeping-interval",
        "100ms",
    ]);
    let hosts = ["s1", "s2", "s3"];
    let (mut fleet, before) = cluster(&server, &hosts, 9);
    let own = on(&before, "s1");
    fleet.stop("s1");
    let after = fleet.settle(&server);
    let layouts_after = layouts(&server);
    fleet.stop_all(&hosts[1..]);
    server.kill();
    server.start();
    let mark = last_event(&server);
    let mut fleet = Fleet::new();
    fleet.start_all(&server, &hosts[1..]);
    for host in &hosts[1..] {
        assert_eq!(fleet.lists[*host], on(&after, host), "{host}");
    }
    let gone = await_event(&server, mark, "event=layouter_streamer_state");
    assert_eq!(
        (&gone["entity_id"], &gone["why"]),
        (&json!("s1"), &json!("never_seen"))
    );
    fleet.rest(&server, ROUNDS);
    assert_eq!(layouts(&server), layouts_after);
    assert_eq!(moves(&server, mark), []);
    fleet.start(&server, "s1");
    fleet.until(|fleet| fleet.agrees(&before));
    fleet.rest(&server, ROUNDS);
    assert_eq!(ingests(&server), before);
    assert_eq!(moved(&server, mark, "restore"), own);
}

#[test]
fn streamer_lost_during_a_restart_is_detected_afterwards() {
    let mut server = server(&["--layouter-sleeping-interval", "100ms"]);
    let hosts = ["s1", "s2", "s3"];
    let (mut fleet, before) = cluster(&server, &hosts, 9);
    let own = on(&before, "s1");
    fleet.stop_all(&hosts);
    server.kill();
    server.start();
    let mut fleet = Fleet::new();
    fleet.start_all(&server, &hosts[1..]);
    fleet.until(|fleet| fleet.lists.len() == 2);
    fleet.rest(&server, ROUNDS);
    let mark = last_event(&server);
    assert_eq!(
        moves(&server, 0).len(),
        9,
        "the first places and nothing since"
    );
    set(&server, json!({"streamer_dead_timeout": 5000}));
    let now = fleet.settle(&server);
    assert_eq!(states(&server, mark), ["s1 down never_seen"]);
    assert_eq!(moved(&server, mark, "node_become_offline"), own);
    only(&own, &before, &now);
}

#[test]
fn interrupted_fail_over_completes_after_a_restart() {
    // Goal: what was moved before a sudden end stays, what was not moves then, and nothing moves
    // twice. Method: more streams than one batch takes; the server is killed as soon as it logs
    // that their streamer is lost.
    let mut server = server(&[
        "--streamer-dead-timeout",
        "6s",
        "--layouter-rebalance=false",
    ]);
    let mut fleet = Fleet::new();
    for host in ["s1", "s2"] {
        save_streamer(&server, host, json!({}));
    }
    fleet.join(&server, &["s1"]);
    for batch in 0..3 {
        let names = (0..1000).map(|i| format!("b{batch}{i:03}"));
        let streams: Vec<Value> = names
            .map(|name| json!({"name": name, "static": true}))
            .collect();
        server.put("/streams/batch", json!(streams)).expect(204);
    }
    fleet.until(|fleet| fleet.has("s1") == 3000);
    let all = fleet.lists["s1"].clone();
    fleet.join(&server, &["s2"]);
    let mark = last_event(&server);
    fleet.stop("s1");
    await_event(&server, mark, "event=layouter_streamer_state&state=down");
    drop(fleet);
    server.kill();
    server.start();
    let mut fleet = Fleet::new();
    fleet.start(&server, "s2");
    fleet.until(|fleet| fleet.has("s2") == 3000);
    assert_eq!(fleet.lists["s2"], all);
    // The events show some of the moves and count all; the streams have them all.
    let query = format!("event=layouter_processing_result&event_id_gt={mark}");
    let results = events(&server, &query);
    let counted: u64 = results
        .iter()
        .map(|event| {
            let whys = event["relayouts_why"].as_object().expect("an object");
            assert!(whys.keys().eq(["node_become_offline"]), "{whys:?}");
            whys["node_become_offline"].as_u64().expect("a count")
        })
        .sum();
    assert_eq!(counted, 3000);
    let path = "/streams?limit=10000&select=name,layout.ingest_history,layout.change_reason";
    let list = server.get(path).expect(200).json();
    let list = list["streams"].as_array().expect("a list");
    assert_eq!(list.len(), 3000);
    for stream in list {
        let layout = &stream["layout"];
        assert_eq!(layout["change_reason"], "node_become_offline", "{stream}");
        let history = layout["ingest_history"].as_array().expect("a list").iter();
        let places: Vec<&Value> = history.map(|place| &place["ingest"]).collect();
        assert_eq!(places, ["s2", "s1"], "{stream}");
    }
}

#[test]
fn loss_of_one_streamer_moves_only_its_streams() {
    // Goal: the least moves, and every account of them agrees: layouts, their history, the event
    // log and the configurations of streamers.
    let server = server(&[
        "--streamer-dead-timeout",
        "6s",
        "--layouter-sleeping-interval",
        "100ms",
    ]);
    let hosts = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"];
    let (mut fleet, before) = cluster(&server, &hosts, 400);
    let layouts_before = layouts(&server);
    let mark = last_event(&server);
    let own = on(&before, "s3");
    fleet.stop("s3");
    let left: Vec<&str> = hosts.iter().copied().filter(|host| *host != "s3").collect();
    let now = fleet.settle(&server);
    fleet.rest(&server, ROUNDS);
    assert_eq!(ingests(&server), now);
    assert_eq!(own.len(), 40);
    assert_eq!(moved(&server, mark, "node_become_offline"), own);
    only(&own, &before, &now);
    let shares: Vec<usize> = left.iter().map(|host| on(&now, host).len()).collect();
    assert!(
        shares.iter().all(|share| [44, 45].contains(share)),
        "{shares:?}"
    );
    let list = server
        .get("/streams?limit=1000&select=name,layout&include_ingest_history=true")
        .expect(200)
        .json();
    let list = list["streams"].as_array().expect("a list");
    assert_eq!(list.len(), 400);
    for stream in list {
        let name = stream["name"].as_str().expect("a name");
        let layout = &stream["layout"];
        let history = layout["ingest_history"].as_array().expect("a list");
        let places: Vec<&str> = history
            .iter()
            .filter_map(|place| place["ingest"].as_str())
            .collect();
        assert!(
            history
                .iter()
                .all(|place| place["originator"] == "layouter")
        );
        let (old, new) = (&before[name], &now[name]);
        if own.contains(name) {
            assert_eq!(places, [new.as_deref().expect("a place"), "s3"], "{name}");
            assert_eq!(layout["change_reason"], "node_become_offline");
            assert_eq!(layout["failover_from"], "s3");
            assert_eq!(history[0]["created_at"], layout["created_at"]);
            assert_eq!(history[1]["created_at"], layouts_before[name]["created_at"]);
        } else {
            assert_eq!(places, [old.as_deref().expect("a place")], "{name}");
            assert_eq!(*layout, layouts_before[name], "{name}");
        }
    }
}

#[test]
fn frozen_streamer_is_lost_though_its_poll_waits() {
    // Goal: the time a poll may wait does not delay the detection of a loss. Method: a streamer
    // that sends one poll with a long wait, keeps its connection and sends nothing more.
    let server = server(&["--streamer-dead-timeout", "5s", "--poll-wait-max", "10m"]);
    let (mut fleet, before) = cluster(&server, &["s1", "s2"], 4);
    let etag = server.get("/streamers/s2/streams").expect(200);
    let etag = etag.etag().expect("a tag").to_owned();
    let after = last_event(&server);
    fleet.stop("s2");
    let own = cluster_credential("key", 0);
    let path = format!("{PREFIX}/streamers/s2/streams?poll_timeout=600");
    let fields = [
        ("Authorization", own.as_str()),
        ("If-None-Match", etag.as_str()),
    ];
    let mut frozen = server.connect();
    frozen.send_request("GET", &path, &fields, b"");
    let lost = on(&before, "s2");
    let look = || ingests(&server);
    let now = wait_until("its streams move", look, |now| on(now, "s2").is_empty());
    assert_eq!(moved(&server, after, "node_become_offline"), lost);
    only(&lost, &before, &now);
    // It was answered in time to send another request.
    frozen.response(false).expect(304);
    fleet.stop("s1");
}

#[test]
fn stream_that_ends_its_streamers_is_held_until_an_edit() {
    // Goal: a stream that ends the streamer that captures it is not carried from one to the next.
    // Method: two streamers end as soon as they have received it; the server is restarted; the
    // stream is edited.
    let mut server = server(&[
        "--streamer-dead-timeout",
        "5s",
        "--layouter-sleeping-interval",
        "100ms",
    ]);
    // The others cannot leave their streamer, so that they come to none.
    let hosts = ["s1", "s2", "s3"];
    let mut fleet = Fleet::new();
    for host in hosts {
        save_streamer(&server, host, json!({"labels": {"own": host}}));
    }
    fleet.join(&server, &hosts);
    for host in hosts {
        let body = json!({"static": true, "labels": {"required.own": host}});
        save_all(&server, (0..3).map(|i| format!("{host}-{i}")), &body);
    }
    fleet.settle(&server);
    let mark = last_event(&server);
    save_all(&server, ["bad".to_owned()], &json!({"static": true}));
    let holder = |fleet: &Fleet| {
        let mut lists = fleet.lists.iter();
        let list = lists.find(|(_, names)| names.contains("bad"));
        list.map(|(host, _)| host.clone())
    };
    for _ in 0..2 {
        fleet.until(|fleet| holder(fleet).is_some());
        let host = holder(&fleet).expect("one has it");
        fleet.stop(&host);
    }
    let held = await_event(&server, mark, "event=layouter_stream_held");
    assert_eq!(
        (&held["entity_id"], &held["why"], &held["hold_ms"]),
        (&json!("bad"), &json!("quarantined"), &json!(3_600_000))
    );
    let third = fleet.streamers.keys().next().expect("one is left").clone();
    fleet.until(|fleet| fleet.has(&third) == 3);
    assert_eq!(holder(&fleet), None, "its streamer goes on without it");
    assert_eq!(ingests(&server)["bad"], None);
    let last = moves(&server, mark)
        .into_iter()
        .rfind(|it| it.name == "bad");
    let expected = Move {
        name: "bad".into(),
        to: None,
        why: "quarantined".into(),
    };
    assert_eq!(last, Some(expected));
    let why = server.get("/streams/bad/layout/explain").expect(200).json();
    let summary = why["summary"].as_str().expect("text");
    assert!(summary.starts_with("Held: "), "{summary}");

    fleet.stop(&third);
    server.restart();
    fleet.start(&server, &third);
    fleet.rest(&server, ROUNDS);
    assert_eq!(ingests(&server)["bad"], None, "a restart does not free it");
    let mended = json!({"title": "mended"});
    server.put("/streams/bad", mended).expect(200);
    fleet.until(|fleet| holder(fleet).as_ref() == Some(&third));
    let freed = await_event(&server, mark, "event=layouter_stream_released");
    assert_eq!(
        (&freed["entity_id"], &freed["why"]),
        (&json!("bad"), &json!("edited"))
    );
}
