//! Streams that are more than one ingest: groups of an agent, backups of an archive, analytics. And
//! layouts that were set by hand.

use serde_json::{Value, json};

use crate::fleet::StreamNames;
use crate::placement::{Cluster, Layouts, on, set, touched, verdicts};

const FIRST: &str = "not_distributed";
const OFFLINE: &str = "node_become_offline";
const NODE_MISSES: &str = "node_misses_stream_required_labels";
const FULL: &str = "node_channel_limit_exceeded";
const TOGETHER: &str = "multistream_agent_ingest_conflict";
const REDUNDANCY: &str = "dvr_redundancy_adjust";

/// A stream that comes through these agents.
fn through(agents: &[&str]) -> Value {
    let input =
        |agent: &&str| json!({"url": "rtsp://10.0.0.9/", "via": format!("agent://{agent}")});
    json!({"static": true, "inputs": agents.iter().map(input).collect::<Vec<_>>()})
}

/// A stream that is recorded so many times.
fn recorded(copies: u32) -> Value {
    json!({"static": true, "dvr": {"expiration": 3600, "redundancy_factor": copies}})
}

fn analysed() -> Value {
    json!({"static": true, "vision": {"alg": "faces"}})
}

/// Hosts of a stream's backups.
fn backups(layout: &Value) -> StreamNames {
    let hosts = layout["dvr_backups"].as_array().into_iter().flatten();
    hosts
        .map(|host| host.as_str().expect("a host").to_owned())
        .collect()
}

fn host(layouts: &Layouts, name: &str) -> String {
    let ingest = layouts[name]["ingest"].as_str();
    ingest.expect("it is placed").to_owned()
}

/// The one of `hosts` that is not in `than`.
fn other<'h>(hosts: &[&'h str], than: &[&str]) -> &'h str {
    let mut left = hosts.iter().filter(|host| !than.contains(*host));
    let host = left.next().expect("one is left");
    assert!(left.next().is_none(), "{hosts:?} without {than:?}");
    host
}

// ---- agents ----

#[test]
fn streams_of_an_agent_stay_together() {
    let mut cluster = Cluster::new(&["--streamer-dead-timeout", "6s"]);
    for host in ["s1", "s2", "s3"] {
        cluster.streamer(host, json!({}));
    }
    for name in ["a1", "a2", "a3"] {
        cluster.stream(name, through(&["cam"]));
    }
    cluster.fleet.until(|fleet| {
        fleet
            .lists
            .values()
            .any(|names| *names == set(&["a1", "a2", "a3"]))
    });
    // The others have room for all other streams.
    cluster.labelled(&["p1", "p2", "p3", "p4"], &json!({}));
    let before = cluster.rest();
    let home = host(&before, "a1");
    assert_eq!(on(&before, &home), ["a1", "a2", "a3"]);
    for host in ["s1", "s2", "s3"] {
        let expected = if host == home { 3 } else { 2 };
        assert_eq!(on(&before, host).len(), expected);
    }

    // They leave a lost streamer for the same one, and return together.
    cluster.fleet.stop(&home);
    let group = set(&["a1", "a2", "a3"]);
    cluster
        .fleet
        .until(|fleet| fleet.lists.values().any(|names| names.is_superset(&group)));
    let away = cluster.rest();
    assert_eq!(touched(&before, &away), group);
    let refuge = host(&away, "a1");
    assert_ne!(refuge, home);
    for name in ["a1", "a2", "a3"] {
        cluster.is(name, &refuge, OFFLINE);
        assert_eq!(away[name]["failover_from"], home.as_str());
    }
    cluster.fleet.start(&cluster.server, &home);
    cluster.until(&[(&home, &["a1", "a2", "a3"])]);
    let after = cluster.rest();
    assert_eq!(touched(&away, &after), group);
    for name in ["a1", "a2", "a3"] {
        cluster.is(name, &home, "");
        assert_eq!(after[name]["failover_from"], Value::Null);
    }
}

#[test]
fn joining_two_groups_takes_the_fewest_moves() {
    let mut cluster = Cluster::new(&[]);
    cluster.streamer("s1", json!({}));
    cluster.streamer("s2", json!({}));
    for name in ["a1", "a2"] {
        cluster.stream(name, through(&["cam-a"]));
    }
    cluster.stream("b1", through(&["cam-b"]));
    cluster.labelled(&["plain"], &json!({}));
    let before = cluster.rest();
    let (home, apart) = (host(&before, "a1"), host(&before, "b1"));
    assert_eq!(on(&before, &home), ["a1", "a2"]);
    assert_eq!(on(&before, &apart), ["b1", "plain"]);

    cluster.stream("bridge", through(&["cam-a", "cam-b"]));
    cluster.until(&[(&home, &["a1", "a2", "b1", "bridge"]), (&apart, &["plain"])]);
    cluster.is("b1", &home, TOGETHER);
    cluster.is("bridge", &home, FIRST);
    let joined = cluster.rest();
    assert_eq!(touched(&before, &joined), set(&["b1", "bridge"]));

    // The whole group follows the demands of one member.
    let from = other(&["s1", "s2"], &[&home]);
    cluster.edit(from, json!({"labels": {"zone": "north"}}));
    cluster.stream("b1", json!({"labels": {"required.zone": "north"}}));
    cluster.until(&[(&home, &[]), (from, &["a1", "a2", "b1", "bridge", "plain"])]);
    let moved = cluster.rest();
    let group = set(&["a1", "a2", "b1", "bridge"]);
    assert_eq!(touched(&joined, &moved), group);
    let expected = verdicts(&[(&home, &[NODE_MISSES]), (from, &[])]);
    assert_eq!(
        cluster.against("a1", "ingest"),
        expected,
        "though it demands nothing itself"
    );

    // Without the bridge they are two groups again, and no stream has a reason to move.
    cluster.server.delete("/streams/bridge").expect(204);
    let split = cluster.rest();
    assert_eq!(touched(&moved, &split), set(&["bridge"]));
    let expected = verdicts(&[(&home, &[]), (from, &[])]);
    assert_eq!(cluster.against("a1", "ingest"), expected);
}

#[test]
fn group_too_large_for_any_streamer_is_placed_in_part() {
    let mut cluster = Cluster::new(&[]);
    cluster.streamer("s1", json!({"channel_limit": 2}));
    cluster.streamer("s2", json!({"channel_limit": 2}));
    for name in ["a1", "a2", "a3"] {
        cluster.stream(name, through(&["cam"]));
    }
    cluster
        .fleet
        .until(|fleet| fleet.has("s1") + fleet.has("s2") == 2);
    let part = cluster.rest();
    let waiting = part
        .iter()
        .find(|(_, layout)| layout["ingest"] == Value::Null);
    let waiting = waiting.expect("one waits").0.clone();
    let placed: Vec<&str> = ["a1", "a2", "a3"]
        .into_iter()
        .filter(|name| *name != waiting)
        .collect();
    let home = host(&part, placed[0]);
    let empty = other(&["s1", "s2"], &[&home]);
    assert_eq!(on(&part, &home), placed);
    // The whole of it must fit, and of that each streamer lacks channels.
    cluster.waits(&waiting, &[("s1", &[FULL]), ("s2", &[FULL])]);
    let there = verdicts(&[(&home, &[]), (empty, &[])]);
    assert_eq!(cluster.against(placed[0], "ingest"), there);

    // With room for all of them elsewhere they go there, all.
    cluster.edit(empty, json!({"channel_limit": 3}));
    cluster.until(&[(&home, &[]), (empty, &["a1", "a2", "a3"])]);
    let whole = cluster.rest();
    for name in ["a1", "a2", "a3"] {
        assert_eq!(host(&whole, name), empty);
    }
}

// ---- backups ----

#[test]
fn lost_ingest_returns_and_its_backup_stays() {
    let mut cluster = Cluster::new(&["--streamer-dead-timeout", "6s"]);
    let hosts = ["s1", "s2", "s3"];
    for host in hosts {
        cluster.streamer(host, json!({}));
    }
    cluster.stream("r", recorded(2));
    cluster
        .fleet
        .until(|fleet| hosts.iter().map(|host| fleet.has(host)).sum::<usize>() == 2);
    let before = cluster.rest();
    let home = host(&before, "r");
    let kept = backups(&before["r"]);
    assert_eq!(kept.len(), 1, "{before:?}");
    assert!(!kept.contains(&home));
    let keeper = kept.first().expect("one").clone();
    let third = other(&hosts, &[&home, &keeper]);
    cluster.until(&[(&home, &["r"]), (&keeper, &["r"]), (third, &[])]);
    cluster.labelled(&["plain"], &json!({}));
    cluster.until(&[(third, &["plain"])]);

    cluster.fleet.stop(&home);
    cluster.until(&[(&keeper, &["r"]), (third, &["plain", "r"])]);
    cluster.is("r", third, OFFLINE);
    let away = cluster.layout("r");
    assert_eq!(away["failover_from"], home.as_str());
    assert_eq!(backups(&away), kept);

    cluster.fleet.start(&cluster.server, &home);
    cluster.until(&[(&home, &["r"]), (&keeper, &["r"]), (third, &["plain"])]);
    cluster.is("r", &home, "");
    let back = cluster.rest();
    assert_eq!(back["r"]["failover_from"], Value::Null);
    assert_eq!(backups(&back["r"]), kept);
    assert_eq!(back["plain"]["ingest"], third);
}

/// Three streamers and one stream `r` that is recorded twice: where it is captured, where it is
/// copied, and the third streamer.
fn recorded_twice(cluster: &mut Cluster) -> (String, String, &'static str) {
    let hosts = ["s1", "s2", "s3"];
    for host in hosts {
        cluster.streamer(host, json!({}));
    }
    cluster.stream("r", recorded(2));
    cluster
        .fleet
        .until(|fleet| hosts.iter().map(|host| fleet.has(host)).sum::<usize>() == 2);
    let before = cluster.rest();
    let home = host(&before, "r");
    let keeper = backups(&before["r"]).first().expect("one").clone();
    let third = other(&hosts, &[&home, &keeper]);
    (home, keeper, third)
}

#[test]
fn lost_backup_is_replaced_without_moving_the_ingest() {
    let mut cluster = Cluster::new(&["--streamer-dead-timeout", "6s"]);
    let (home, keeper, third) = recorded_twice(&mut cluster);
    cluster.fleet.stop(&keeper);
    cluster.until(&[(&home, &["r"]), (third, &["r"])]);
    let away = cluster.layout("r");
    assert_eq!(away["ingest"], home.as_str());
    assert_eq!(away["failover_from"], Value::Null, "not set for a backup");
    assert_eq!(away["change_reason"], OFFLINE);
    assert_eq!(backups(&away), set(&[third]));
    cluster.fleet.start(&cluster.server, &keeper);
    cluster.until(&[(&home, &["r"]), (&keeper, &["r"]), (third, &[])]);
    let back = cluster.rest();
    assert_eq!(host(&back, "r"), home);
    assert_eq!(backups(&back["r"]), set(&[&keeper]));
}

#[test]
fn backup_takes_over_if_failover_to_backup_is_on() {
    let mut cluster = Cluster::new(&[
        "--streamer-dead-timeout",
        "6s",
        "--layouter-failover-to-backup",
    ]);
    let (home, keeper, third) = recorded_twice(&mut cluster);
    cluster.fleet.stop(&home);
    cluster.until(&[(&keeper, &["r"]), (third, &["r"])]);
    cluster.is("r", &keeper, OFFLINE);
    let away = cluster.layout("r");
    assert_eq!(away["failover_from"], home.as_str());
    assert_eq!(backups(&away), set(&[third]));
}

#[test]
fn backups_follow_the_redundancy_factor_and_the_nodes() {
    let mut cluster = Cluster::new(&[]);
    cluster.streamer("s1", json!({}));
    cluster.stream("r", recorded(2));
    cluster.until(&[("s1", &["r"])]);
    let alone = cluster.rest();
    assert_eq!(
        backups(&alone["r"]),
        set(&[]),
        "no node holds a stream twice"
    );

    cluster.streamer("s2", json!({"channel_limit": 0}));
    cluster.streamer("s3", json!({"labels": {"required.tenant": "t"}}));
    assert_eq!(touched(&alone, &cluster.rest()), set(&[]));
    let expected = verdicts(&[
        ("s1", &["holds_another_copy"]),
        ("s2", &[FULL]),
        ("s3", &["stream_misses_node_required_labels"]),
    ]);
    assert_eq!(cluster.against("r", "dvr_backup"), expected);

    // A copy takes a channel.
    cluster.edit("s2", json!({"channel_limit": 1}));
    cluster.until(&[("s1", &["r"]), ("s2", &["r"]), ("s3", &[])]);
    assert_eq!(backups(&cluster.layout("r")), set(&["s2"]));
    cluster.labelled(&["far"], &json!({"tenant": "t"}));
    cluster.edit("s3", json!({"labels": {"required.tenant": null}}));
    cluster.stream("r", json!({"dvr": {"redundancy_factor": 3}}));
    cluster.fleet.until(|fleet| fleet.lists["s3"].contains("r"));
    let three = cluster.rest();
    assert_eq!(host(&three, "r"), "s1");
    assert_eq!(backups(&three["r"]), set(&["s2", "s3"]));

    // Fewer: the ingest and one of the copies stay.
    cluster.stream("r", json!({"dvr": {"redundancy_factor": 2}}));
    cluster
        .fleet
        .until(|fleet| fleet.lists["s2"].contains("r") != fleet.lists["s3"].contains("r"));
    let two = cluster.rest();
    assert_eq!(host(&two, "r"), "s1");
    assert_eq!(backups(&two["r"]).len(), 1);
    assert_eq!(two["r"]["change_reason"], REDUNDANCY);
    assert_eq!(touched(&three, &two), set(&["r"]));
    cluster.stream("r", json!({"dvr": {"redundancy_factor": 1}}));
    cluster
        .fleet
        .until(|fleet| !fleet.lists["s2"].contains("r") && !fleet.lists["s3"].contains("r"));
    let one = cluster.rest();
    assert_eq!(
        (host(&one, "r"), backups(&one["r"])),
        ("s1".to_owned(), set(&[]))
    );
}

#[test]
fn backups_go_to_media_servers_that_record() {
    let mut cluster = Cluster::new(&[]);
    cluster.streamer("s1", json!({}));
    cluster.streamer("s2", json!({"kind": "mediamtx"}));
    let mut stream = recorded(2);
    stream["layout"] = json!({"ingest": "s1"});
    cluster.stream("r", stream);
    cluster.until(&[("s1", &["r"]), ("s2", &[])]);
    let expected = verdicts(&[("s1", &["holds_another_copy"]), ("s2", &["node_role"])]);
    assert_eq!(cluster.against("r", "dvr_backup"), expected);
    cluster.edit("s2", json!({"kind": null}));
    cluster.until(&[("s1", &["r"]), ("s2", &["r"])]);
    assert_eq!(backups(&cluster.layout("r")), set(&["s2"]));
    cluster.edit("s2", json!({"kind": "go2rtc"}));
    cluster.until(&[("s1", &["r"]), ("s2", &[])]);
    assert_eq!(backups(&cluster.layout("r")), set(&[]));
}

// ---- inference ----

fn inference(cluster: &mut Cluster, host: &str, more: &[(&str, Value)]) {
    let mut body = json!({"role": "inference"});
    for (key, value) in more {
        body[*key] = value.clone();
    }
    cluster.streamer(host, body);
}

#[test]
fn inference_nodes_run_analytics_only() {
    let mut cluster = Cluster::new(&[]);
    cluster.streamer("s1", json!({"labels": {"zone": "north"}}));
    inference(&mut cluster, "i1", &[("channel_limit", json!(1))]);
    let labels = json!({"required.tenant": "t", "zone": "north"});
    inference(&mut cluster, "i2", &[("labels", labels)]);
    cluster.labelled(&["plain"], &json!({}));
    cluster.stream("v1", analysed());
    cluster.until(&[("s1", &["plain", "v1"]), ("i1", &["v1"]), ("i2", &[])]);
    let first = cluster.layout("v1");
    assert_eq!(
        (&first["ingest"], &first["inference"]),
        (&json!("s1"), &json!("i1"))
    );

    // The next one is captured, and its analytics wait.
    cluster.stream("v2", analysed());
    cluster.until(&[("s1", &["plain", "v1", "v2"]), ("i1", &["v1"]), ("i2", &[])]);
    let before = cluster.rest();
    assert_eq!(before["v2"]["inference"], Value::Null);
    let stranger: &[&str] = &["stream_misses_node_required_labels"];
    let expected = verdicts(&[("i1", &[FULL]), ("i2", stranger)]);
    assert_eq!(cluster.against("v2", "inference"), expected);
    assert_eq!(cluster.against("v2", "ingest"), verdicts(&[("s1", &[])]));

    // The demands of the node and of the stream count for analytics, too.
    let tenant = json!({
        "static": true, "vision": {"alg": "faces"},
        "labels": {"tenant": "t", "required.zone": "north"},
    });
    cluster.stream("v3", tenant);
    cluster.until(&[
        ("s1", &["plain", "v1", "v2", "v3"]),
        ("i1", &["v1"]),
        ("i2", &["v3"]),
    ]);

    // A free place is taken by a waiting stream.
    cluster.stream("v1", json!({"vision": null}));
    cluster.until(&[
        ("s1", &["plain", "v1", "v2", "v3"]),
        ("i1", &["v2"]),
        ("i2", &["v3"]),
    ]);
    let after = cluster.rest();
    assert_eq!(after["v1"]["inference"], Value::Null);
    assert_eq!(after["v2"]["inference"], "i1");
    assert_eq!(after["plain"], before["plain"]);
    for name in ["plain", "v1", "v2", "v3"] {
        assert_eq!(after[name]["ingest"], "s1", "{name}");
    }
}

#[test]
fn a_lost_inference_node_costs_no_ingest() {
    let mut cluster = Cluster::new(&["--streamer-dead-timeout", "6s"]);
    cluster.streamer("s1", json!({}));
    inference(&mut cluster, "i1", &[]);
    inference(&mut cluster, "i2", &[]);
    for name in ["v1", "v2", "v3", "v4"] {
        cluster.stream(name, analysed());
    }
    cluster
        .fleet
        .until(|fleet| fleet.has("s1") == 4 && fleet.has("i1") == 2 && fleet.has("i2") == 2);
    let before = cluster.rest();
    let lost = cluster.fleet.lists["i1"].clone();
    cluster.fleet.stop("i1");
    cluster.until(&[("i2", &["v1", "v2", "v3", "v4"])]);
    let away = cluster.rest();
    assert_eq!(touched(&before, &away), lost);
    for name in &lost {
        let layout = &away[name];
        assert_eq!(
            (&layout["ingest"], &layout["inference"]),
            (&json!("s1"), &json!("i2"))
        );
        assert_eq!(
            layout["failover_from"],
            Value::Null,
            "not set for analytics"
        );
        assert_eq!(layout["change_reason"], OFFLINE);
    }
    // A lost ingest takes no analytics with it either, and analytics cannot capture.
    cluster.streamer("s2", json!({}));
    let before = cluster.rest();
    cluster.fleet.stop("s1");
    cluster.until(&[
        ("s2", &["v1", "v2", "v3", "v4"]),
        ("i2", &["v1", "v2", "v3", "v4"]),
    ]);
    for (name, layout) in cluster.rest() {
        cluster.is(&name, "s2", OFFLINE);
        assert_eq!(layout["failover_from"], "s1");
        assert_eq!(layout["inference"], before[&name]["inference"]);
    }
}

// ---- by hand ----

#[test]
fn manual_placement_stays_while_it_is_legal() {
    // Goal: a manual placement stays, even against balance, until it is illegal.
    // Method: two of four are placed beside the other two; only these others are balanced away.
    let mut cluster = Cluster::new(&[]);
    cluster.streamer(
        "s1",
        json!({"channel_limit": 10, "labels": {"zone": "north"}}),
    );
    cluster.streamer("s2", json!({"channel_limit": 10}));
    cluster.labelled(&["a", "b", "c", "d"], &json!({}));
    cluster
        .fleet
        .until(|fleet| fleet.has("s1") == 2 && fleet.has("s2") == 2);
    let first = cluster.rest();
    let (by_hand, own) = (on(&first, "s1"), on(&first, "s2"));
    cluster.place(&[(by_hand[0], "s2"), (by_hand[1], "s2")]);
    cluster.until(&[("s1", &own), ("s2", &by_hand)]);
    let placed = cluster.rest();
    for name in &by_hand {
        let layout = &placed[*name];
        assert_eq!(layout["originator"], "other", "{layout}");
        assert_eq!(layout["change_reason"], "relayout_by_api", "{layout}");
    }
    for name in &own {
        cluster.is(name, "s1", "");
    }

    // No longer legal: only this stream moves, and the layouter decides about it from then on.
    cluster.stream(by_hand[0], json!({"labels": {"required.zone": "north"}}));
    cluster.until(&[("s1", &[own[0], own[1], by_hand[0]]), ("s2", &[by_hand[1]])]);
    cluster.is(by_hand[0], "s1", NODE_MISSES);
    let relabelled = cluster.rest();
    assert_eq!(touched(&placed, &relabelled), set(&[by_hand[0]]));
    cluster.edit("s2", json!({"channel_limit": 0}));
    cluster.until(&[("s1", &["a", "b", "c", "d"]), ("s2", &[])]);
    cluster.is(by_hand[1], "s1", FULL);
    assert_eq!(touched(&relabelled, &cluster.rest()), set(&[by_hand[1]]));
}

#[test]
fn illegal_manual_placement_is_corrected() {
    let mut cluster = Cluster::new(&[]);
    cluster.streamer("s1", json!({"labels": {"zone": "north"}}));
    cluster.streamer("s2", json!({"channel_limit": 1}));
    cluster.labelled(&["n"], &json!({"required.zone": "north"}));
    cluster.labelled(&["p"], &json!({}));
    cluster.until(&[("s1", &["n"]), ("s2", &["p"])]);
    let before = cluster.rest();
    // Labels first: what is missing there would be missing with room, too.
    for (name, why) in [("n", NODE_MISSES), ("q", FULL)] {
        if name == "q" {
            cluster.stream("q", json!({"static": true}));
            cluster.until(&[("s1", &["n", "q"])]);
        }
        cluster.place(&[(name, "s2")]);
        let after = cluster.rest();
        cluster.is(name, "s1", why);
        assert_eq!(after["p"], before["p"]);
    }
    cluster.until(&[("s1", &["n", "q"]), ("s2", &["p"])]);

    // A place that is taken away is given again.
    cluster
        .server
        .post(
            "/streams/layouts",
            json!({"layouts": [{"name": "p", "ingest": null}]}),
        )
        .expect(204);
    let after = cluster.rest();
    assert_ne!(after["p"]["ingest"], Value::Null);
    assert_eq!(after["p"]["change_reason"], FIRST);
    assert_eq!(after["p"]["originator"], "layouter");
}
