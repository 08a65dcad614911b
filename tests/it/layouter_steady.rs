//! A cluster at work: streamers come and go by an operator's hand, streams are deleted, settings
//! change, and in between nothing moves.

use serde_json::{Value, json};

use crate::fleet::{
    Fleet, Ingests, Move, StreamNames, await_event, events, ingests, last_event, layouts, moves,
    on, pass, runs, save_all, save_streamer, server, set, states,
};
use weir_testkit::TestServer;

/// Rounds after which all optional moves are done.
const ROUNDS: u64 = 5;

fn numbered(count: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    count.map(|i| format!("c{i:03}"))
}

fn is_on(server: &TestServer, name: &str, host: &str) -> bool {
    ingests(server)[name].as_deref() == Some(host)
}

/// Streams that are nowhere.
fn waiting(ingests: &Ingests) -> StreamNames {
    let waiting = ingests.iter().filter(|(_, host)| host.is_none());
    waiting.map(|(name, _)| name.clone()).collect()
}

fn moved(name: &str, to: &str, why: &str) -> Move {
    Move {
        name: name.into(),
        to: Some(to.into()),
        why: why.into(),
    }
}

#[test]
fn waiting_stream_is_placed_when_room_is_free() {
    // Goal: each place that becomes free is taken by a waiting stream, and no other moves. Method:
    // full streamers; a stream is deleted, one is disabled, a limit is raised.
    let server = server(&[]);
    let mut fleet = Fleet::new();
    for host in ["s1", "s2"] {
        save_streamer(&server, host, json!({"channel_limit": 3}));
        fleet.join(&server, &[host]);
    }
    save_all(&server, numbered(0..9), &json!({"static": true}));
    fleet.until(|fleet| fleet.has("s1") == 3 && fleet.has("s2") == 3);
    let mut before = ingests(&server);
    assert_eq!(waiting(&before).len(), 3);
    type Act = fn(&TestServer, &str, &mut Ingests);
    let acts: [(&str, Act); 3] = [
        ("s1", |server, name, before| {
            server.delete(&format!("/streams/{name}")).expect(204);
            before.remove(name);
        }),
        ("s2", |server, name, before| {
            let path = format!("/streams/{name}");
            server.put(&path, json!({"disabled": true})).expect(200);
            before.insert(name.to_owned(), None);
        }),
        ("s1", |server, _, _| {
            save_streamer(server, "s1", json!({"channel_limit": 4}));
        }),
    ];
    for (turn, (host, act)) in acts.into_iter().enumerate() {
        let mark = last_event(&server);
        let victim = on(&before, host).pop_first().expect("it is full");
        let had = waiting(&before);
        act(&server, &victim, &mut before);
        fleet.until(|_| {
            moves(&server, mark)
                .iter()
                .any(|logged| logged.to.is_some())
        });
        fleet.until(|fleet| fleet.agrees(&ingests(&server)));
        let now = ingests(&server);
        let came: StreamNames = had.difference(&waiting(&now)).cloned().collect();
        let came = came.first().expect("one of them").clone();
        let mut logged = moves(&server, mark);
        // The place of a disabled one is given up by the same hand.
        logged.retain(|logged| logged.why != "stream_disabled");
        assert_eq!(logged, [moved(&came, host, "not_distributed")], "{turn}");
        before.insert(came, Some(host.to_owned()));
        assert_eq!(now, before, "{turn}");
    }
}

#[test]
fn deleted_streamer_is_emptied_and_a_new_one_takes_a_share() {
    let server = server(&["--layouter-sleeping-interval", "200ms"]);
    let mut fleet = Fleet::new();
    for host in ["s1", "s2", "s3"] {
        save_streamer(&server, host, json!({"channel_limit": 4}));
        fleet.join(&server, &[host]);
    }
    save_all(&server, numbered(0..9), &json!({"static": true}));
    let before = fleet.settle(&server);
    let own = on(&before, "s2");
    assert_eq!(own.len(), 3);
    let mark = last_event(&server);
    fleet.stop("s2");
    server.delete("/streamers/s2").expect(204);
    fleet.until(|fleet| fleet.has("s1") == 4 && fleet.has("s3") == 4);
    fleet.rest(&server, ROUNDS);
    let after = ingests(&server);
    assert_eq!(waiting(&after).len(), 1, "no room for it");
    let logged = moves(&server, mark);
    let gone: StreamNames = logged.iter().map(|logged| logged.name.clone()).collect();
    assert_eq!((&gone, logged.len()), (&own, own.len()));
    for Move { name, to, why } in &logged {
        assert_eq!((to, why.as_str()), (&after[name], "node_deleted"));
        assert_eq!(layouts(&server)[name]["failover_from"], Value::Null);
    }
    for (name, host) in &before {
        assert!(own.contains(name) || after[name] == *host, "{name}");
    }
    // One of its name comes: it is new.
    let mark = last_event(&server);
    save_streamer(&server, "s2", json!({"channel_limit": 4}));
    fleet.start(&server, "s2");
    fleet.until(|fleet| ["s1", "s2", "s3"].iter().all(|host| fleet.has(host) == 3));
    fleet.rest(&server, ROUNDS);
    let logged = moves(&server, mark);
    let waited = waiting(&after).pop_first().expect("one of them");
    assert_eq!(logged[0], moved(&waited, "s2", "not_distributed"));
    for logged in &logged[1..] {
        assert_eq!(*logged, moved(&logged.name, "s2", "rebalance"));
    }
    assert_eq!(logged.len(), 3, "{logged:?}");
}

#[test]
fn joining_streamer_takes_its_share_then_nothing_moves() {
    // Goal: only the new streamer receives, and a cluster at rest writes nothing at all, however
    // often the layouter looks.
    let server = server(&["--layouter-sleeping-interval", "100ms"]);
    let mut fleet = Fleet::new();
    for host in ["s1", "s2"] {
        save_streamer(&server, host, json!({"channel_limit": 20}));
        fleet.join(&server, &[host]);
    }
    save_all(&server, numbered(0..24), &json!({"static": true}));
    let before = fleet.settle(&server);
    fleet.rest(&server, ROUNDS);
    assert_eq!((fleet.has("s1"), fleet.has("s2")), (12, 12));
    let mark = last_event(&server);
    assert_eq!(ingests(&server), before);
    save_streamer(&server, "s3", json!({"channel_limit": 20}));
    fleet.start(&server, "s3");
    // Two streamers differ by a stream at most when moving one more would only swap them.
    fleet.until(|fleet| {
        let shares = ["s1", "s2", "s3"].map(|host| fleet.has(host));
        shares.iter().sum::<usize>() == 24 && shares.iter().all(|share| (7..=9).contains(share))
    });
    fleet.rest(&server, ROUNDS);
    let now = fleet.settle(&server);
    let logged = moves(&server, mark);
    let new = on(&now, "s3");
    assert!((7..=9).contains(&new.len()), "{now:?}");
    for logged in &logged {
        assert_eq!(*logged, moved(&logged.name, "s3", "rebalance"));
    }
    assert_eq!(logged.len(), new.len(), "each once: {logged:?}");
    for (name, host) in &before {
        assert!(new.contains(name) || now[name] == *host, "{name}");
    }

    let (mark, rested) = (last_event(&server), layouts(&server));
    let logged = fleet.lists.clone();
    fleet.rest(&server, 30);
    assert_eq!(last_event(&server), mark, "nothing happened");
    assert_eq!(layouts(&server), rested);
    assert_eq!(fleet.lists, logged);
}

#[test]
fn streamers_that_start_one_after_another_share_the_streams() {
    // Goal: streamers that are saved together have equal shares without a move, and one that is
    // saved later gets its share with the fewest moves, though none has a channel limit.
    for count in [12, 600] {
        let server = server(&[
            "--layouter-sleeping-interval",
            "100ms",
            "--layouter-moves-per-hour",
            "100",
        ]);
        let mut fleet = Fleet::new();
        let hosts = ["s1", "s2", "s3"];
        for host in hosts {
            save_streamer(&server, host, json!({}));
        }
        save_all(&server, numbered(0..count), &json!({"static": true}));
        for host in hosts {
            fleet.start(&server, host);
        }
        let before = fleet.settle(&server);
        assert_eq!(hosts.map(|host| on(&before, host).len()), [count / 3; 3]);
        fleet.rest(&server, ROUNDS);
        let placed = events(&server, "event=layouter_processing_result");
        let whys = placed.iter().map(|event| &event["relayouts_why"]);
        let first: u64 = whys.filter_map(|why| why["not_distributed"].as_u64()).sum();
        let all = placed
            .iter()
            .filter_map(|event| event["relayouts_count"].as_u64());
        assert_eq!(
            (first, all.sum()),
            (count as u64, count as u64),
            "each once"
        );
        let mark = last_event(&server);
        save_streamer(&server, "s4", json!({}));
        fleet.start(&server, "s4");
        // A gap of a quarter of the mean is left, or of one stream.
        fleet.until(|fleet| {
            let (new, old) = (fleet.has("s4"), hosts.map(|host| fleet.has(host)));
            let most = old.into_iter().max().expect("three");
            new + old.iter().sum::<usize>() == count && (most - new) * 8 <= (most + new).max(8)
        });
        fleet.rest(&server, ROUNDS);
        let now = fleet.settle(&server);
        let logged = moves(&server, mark);
        assert!(logged.len() <= count / 4, "{} moves", logged.len());
        assert_eq!(on(&now, "s4").len(), logged.len(), "each once");
        for logged in &logged {
            assert_eq!(*logged, moved(&logged.name, "s4", "rebalance"));
        }
    }
}

#[test]
fn switching_the_layouter_takes_effect_at_once() {
    let server = TestServer::new();
    set(&server, json!({"streamer_dead_timeout": 6000}));
    let mut fleet = Fleet::new();
    for host in ["s1", "s2"] {
        save_streamer(&server, host, json!({}));
        fleet.start(&server, host);
    }
    save_all(&server, numbered(0..4), &json!({"static": true}));
    pass(&server, 1);
    assert_eq!(waiting(&ingests(&server)).len(), 4);
    let hour = 3_600_000;
    set(
        &server,
        json!({"layouter_enabled": "true", "layouter_sleeping_interval": hour}),
    );
    let before = fleet.settle(&server);
    assert_eq!((fleet.has("s1"), fleet.has("s2")), (2, 2));
    assert_eq!(runs(&server), 0, "its interval is not over yet");
    set(&server, json!({"layouter_enabled": "false"}));
    let mark = last_event(&server);
    fleet.stop("s1");
    let lost = await_event(&server, mark, "event=layouter_streamer_state");
    assert_eq!(
        (&lost["entity_id"], &lost["state"]),
        (&json!("s1"), &json!("down"))
    );
    save_all(&server, ["new".to_owned()], &json!({"static": true}));
    pass(&server, 1);
    let now = ingests(&server);
    assert_eq!(waiting(&now), StreamNames::from(["new".to_owned()]));
    assert_eq!(on(&now, "s1"), on(&before, "s1"), "off is off");
    assert_eq!(moves(&server, mark), []);
    set(&server, json!({"layouter_enabled": "true"}));
    fleet.settle(&server);
    assert_eq!(fleet.has("s2"), 5);
    let logged = moves(&server, mark);
    for logged in &logged {
        let why = if logged.name == "new" {
            "not_distributed"
        } else {
            "node_become_offline"
        };
        assert_eq!(*logged, moved(&logged.name, "s2", why));
    }
    assert_eq!(logged.len(), 3, "{logged:?}");
}

#[test]
fn interval_and_fail_back_are_settings() {
    // Goal: what is urgent does not wait for the interval, what improves does; a shorter interval
    // counts at once; and a switch forbids the return and allows it again.
    let server = server(&[
        "--streamer-dead-timeout",
        "6s",
        "--layouter-rebalance=false",
    ]);
    let (hour, moment) = (
        json!({"layouter_sleeping_interval": 3_600_000}),
        json!({"layouter_sleeping_interval": 100}),
    );
    set(&server, hour);
    let mut fleet = Fleet::new();
    for host in ["s1", "s2"] {
        save_streamer(&server, host, json!({}));
        fleet.join(&server, &[host]);
    }
    save_all(&server, numbered(0..4), &json!({"static": true}));
    let before = fleet.settle(&server);
    let own = on(&before, "s1");
    fleet.stop("s1");
    fleet.settle(&server);
    let looked = runs(&server);
    let mark = last_event(&server);
    fleet.start(&server, "s1");
    let up = "event=layouter_streamer_state&state=up";
    await_event(&server, mark, up);
    pass(&server, 1);
    assert_eq!(moves(&server, mark), []);
    assert_eq!(runs(&server), looked, "the interval is an hour");
    save_all(&server, ["new".to_owned()], &json!({"static": true}));
    fleet.settle(&server);
    assert!(is_on(&server, "new", "s1"), "a new stream does not wait");
    set(&server, json!({"layouter_failback": "false"}));
    set(&server, moment);
    fleet.rest(&server, ROUNDS);
    assert_eq!(moves(&server, mark).len(), 1, "only the new one");
    set(&server, json!({"layouter_failback": "true"}));
    fleet.until(|fleet| fleet.has("s1") == 1 + own.len());
    let back: StreamNames = own.clone();
    let logged = moves(&server, mark);
    assert_eq!(logged.len(), 1 + own.len(), "{logged:?}");
    for logged in &logged[1..] {
        assert!(back.contains(&logged.name));
        assert_eq!(*logged, moved(&logged.name, "s1", "restore"));
    }
    assert_eq!(
        states(&server, mark).last().map(String::as_str),
        Some("s1 up hold_over")
    );
}

#[test]
fn balance_and_channel_counting_are_settings() {
    let server = server(&["--layouter-sleeping-interval", "100ms"]);
    set(&server, json!({"layouter_rebalance": "false"}));
    let mut fleet = Fleet::new();
    save_streamer(&server, "s1", json!({"channel_limit": 4}));
    fleet.join(&server, &["s1"]);
    save_all(&server, numbered(0..4), &json!({"static": true}));
    fleet.settle(&server);
    save_streamer(&server, "s2", json!({"channel_limit": 4}));
    fleet.join(&server, &["s2"]);
    fleet.rest(&server, ROUNDS);
    assert_eq!((fleet.has("s1"), fleet.has("s2")), (4, 0));
    set(&server, json!({"layouter_rebalance": "true"}));
    fleet.until(|fleet| fleet.has("s1") == 2 && fleet.has("s2") == 2);
    fleet.rest(&server, ROUNDS);
    // A copy on the other streamer for each of the last two: all eight channels are taken.
    let copied =
        json!({"static": true, "dvr": {"root": "/d", "expiration": 60, "redundancy_factor": 2}});
    save_all(&server, numbered(4..6), &copied);
    let backups = |server: &TestServer| {
        let layouts = layouts(server).into_values();
        let copies = layouts.filter(|layout| layout["dvr_backups"][0].is_string());
        copies.count()
    };
    fleet.until(|_| backups(&server) == 2);
    save_all(&server, ["new".to_owned()], &json!({"static": true}));
    fleet.rest(&server, ROUNDS);
    // A copy gives way to a capture.
    assert!(ingests(&server)["new"].is_some() && backups(&server) == 1);
    let (mark, before) = (last_event(&server), ingests(&server));
    let channels = json!({"layouter_backups_count_as_channels": "false"});
    set(&server, channels);
    fleet.until(|_| backups(&server) == 2);
    fleet.rest(&server, ROUNDS);
    assert_eq!(ingests(&server), before);
    let logged = moves(&server, mark);
    assert_eq!(logged.len(), 1, "{logged:?}");
}

#[test]
fn streamer_under_cpu_pressure_sheds_a_tenth_once() {
    // Goal: a hot streamer gets nothing new and gives a tenth away, once; a cool one is like any
    // other again. Method: reports at every answer.
    let server = server(&[
        "--streamer-dead-timeout",
        "6s",
        "--layouter-sleeping-interval",
        "100ms",
    ]);
    let mut fleet = Fleet::new();
    for host in ["s1", "s2"] {
        save_streamer(&server, host, json!({"cpu_limit": 80}));
        fleet.join(&server, &[host]);
    }
    save_all(&server, numbered(0..40), &json!({"static": true}));
    let before = fleet.settle(&server);
    assert_eq!((fleet.has("s1"), fleet.has("s2")), (20, 20));
    let report = |host: &str, cpu: u32| {
        let stats = json!({"stats": {"cpu_usage": cpu, "online_streams": 20}});
        server
            .put(&format!("/streamers/{host}/stats"), stats)
            .expect(204);
    };
    let logged = |pressed: bool| {
        let logged = events(&server, "event=layouter_cpu_pressure");
        let of = |event: &&Value| event["pressed"] == json!(pressed);
        logged
            .iter()
            .filter(of)
            .map(|event| event["entity_id"].clone())
            .collect::<Vec<_>>()
    };
    let mark = last_event(&server);
    fleet.until(|_| {
        report("s1", 95);
        report("s2", 30);
        !logged(true).is_empty()
    });
    report("s1", 10);
    save_all(&server, ["new".to_owned()], &json!({"static": true}));
    let hot = fleet.settle(&server);
    assert!(is_on(&server, "new", "s2"), "it has more, but it is cool");
    assert_eq!(logged(false), [Value::Null; 0]);
    fleet.until(|_| {
        report("s1", 10);
        report("s2", 30);
        !logged(false).is_empty()
    });
    fleet.rest(&server, ROUNDS);
    assert_eq!(ingests(&server), hot);
    let left: StreamNames = on(&before, "s1")
        .difference(&on(&hot, "s1"))
        .cloned()
        .collect();
    assert_eq!(left.len(), 2, "a tenth");
    let mut moves = moves(&server, mark);
    moves.sort();
    let mut expected: Vec<Move> = left
        .iter()
        .map(|name| moved(name, "s2", "node_cpu_pressure"))
        .collect();
    expected.push(moved("new", "s2", "not_distributed"));
    assert_eq!(moves, expected);
    save_all(&server, ["newer".to_owned()], &json!({"static": true}));
    fleet.settle(&server);
    assert!(is_on(&server, "newer", "s1"), "it has less");
    assert_eq!(
        (logged(true), logged(false)),
        (vec![json!("s1")], vec![json!("s1")])
    );
}
