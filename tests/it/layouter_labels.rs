//! Constraints between streams and streamers: required labels of both sides, namespaces, preferred
//! labels and transcoding, and the moves after edits of either side.

use serde_json::{Value, json};

use crate::placement::{Cluster, on, set, touched, verdicts};

const NODE_MISSES: &str = "node_misses_stream_required_labels";
const STREAM_MISSES: &str = "stream_misses_node_required_labels";
const NAMESPACE: &str = "namespace_mismatch";
const TRANSCODING: &str = "node_not_available_for_transcoding";
const PREFERRED: &str = "preferred_labels_better_match";
const FIRST: &str = "not_distributed";

fn labels(labels: Value) -> Value {
    json!({ "labels": labels })
}

// ---- required labels ----

#[test]
fn stream_goes_only_to_nodes_with_all_required_labels() {
    let mut cluster = Cluster::new(&[]);
    cluster.streamer("s1", labels(json!({"zone": "north"})));
    cluster.streamer("s2", labels(json!({"zone": "south", "disk": "ssd"})));
    cluster.streamer("s3", json!({}));
    cluster.labelled(&["n1", "n2"], &json!({"required.zone": "north"}));
    let both = json!({"required.zone": "south", "required.disk": "ssd"});
    cluster.labelled(&["d1", "d2"], &both);
    cluster.labelled(&["plain"], &json!({"zone": "north", "other": "x"}));
    let nowhere = json!({"required.zone": "north", "required.disk": "ssd"});
    cluster.labelled(&["w"], &nowhere);
    // A property that both have is an attraction, not a demand.
    cluster.until(&[
        ("s1", &["n1", "n2", "plain"]),
        ("s2", &["d1", "d2"]),
        ("s3", &[]),
    ]);
    let misses: &[&str] = &[NODE_MISSES];
    cluster.waits("w", &[("s1", misses), ("s2", misses), ("s3", misses)]);
    let before = cluster.rest();

    cluster.edit("s1", labels(json!({"disk": "ssd"})));
    cluster.until(&[("s1", &["n1", "n2", "plain", "w"])]);
    cluster.is("w", "s1", FIRST);
    let after = cluster.rest();
    assert_eq!(touched(&before, &after), set(&["w"]));
}

#[test]
fn streamer_takes_only_streams_with_its_required_labels() {
    let mut cluster = Cluster::new(&[]);
    cluster.streamer("s1", labels(json!({"required.tenant": "t1"})));
    cluster.streamer(
        "s2",
        labels(json!({"required.tenant": "t2", "zone": "north"})),
    );
    cluster.labelled(&["a", "b"], &json!({"tenant": "t1"}));
    cluster.labelled(&["c"], &json!({"tenant": "t2", "required.zone": "north"}));
    cluster.labelled(&["stranger"], &json!({"tenant": "t3"}));
    // Both sides refuse, and both reasons are shown.
    cluster.labelled(&["demanding"], &json!({"required.zone": "south"}));
    cluster.until(&[("s1", &["a", "b"]), ("s2", &["c"])]);
    let refused: &[&str] = &[STREAM_MISSES];
    cluster.waits("stranger", &[("s1", refused), ("s2", refused)]);
    let both: &[&str] = &[NODE_MISSES, STREAM_MISSES];
    cluster.waits("demanding", &[("s1", both), ("s2", both)]);
    let before = cluster.rest();

    cluster.streamer("s3", json!({}));
    cluster.until(&[("s1", &["a", "b"]), ("s2", &["c"]), ("s3", &["stranger"])]);
    cluster.waits(
        "demanding",
        &[("s1", both), ("s2", both), ("s3", &[NODE_MISSES])],
    );
    let after = cluster.rest();
    assert_eq!(touched(&before, &after), set(&["stranger"]));
    cluster.is("stranger", "s3", FIRST);
}

// ---- namespaces ----

#[test]
fn namespaces_must_match() {
    let mut cluster = Cluster::new(&[]);
    cluster.streamer("s1", json!({"namespace": "n1"}));
    cluster.streamer("s2", json!({"namespace": "n2"}));
    cluster.streamer("s3", json!({}));
    for (name, namespace) in [
        ("a1", json!("n1")),
        ("a2", json!("n1")),
        ("b1", json!("n2")),
        ("c1", Value::Null),
        ("w", json!("n3")),
    ] {
        cluster.stream(name, json!({"static": true, "namespace": namespace}));
    }
    cluster.until(&[("s1", &["a1", "a2"]), ("s2", &["b1"]), ("s3", &["c1"])]);
    let foreign: &[&str] = &[NAMESPACE];
    cluster.waits("w", &[("s1", foreign), ("s2", foreign), ("s3", foreign)]);
    // Not by hand either.
    let by_hand = json!({"layouts": [{"name": "a1", "ingest": "s3"}]});
    let refused = cluster.server.post("/streams/layouts", by_hand).expect(400);
    assert_eq!(refused.errors(), ["namespace_mismatch /layouts/0/ingest"]);
    let before = cluster.rest();

    cluster.streamer("s4", json!({"namespace": "n3"}));
    cluster.until(&[("s4", &["w"])]);
    cluster.is("w", "s4", FIRST);
    assert_eq!(touched(&before, &cluster.rest()), set(&["w"]));

    // Without a streamer of their namespace streams wait.
    let before = cluster.rest();
    cluster.fleet.stop("s1");
    cluster.server.delete("/streamers/s1").expect(204);
    let after = cluster.rest();
    assert_eq!(touched(&before, &after), set(&["a1", "a2"]));
    for name in ["a1", "a2"] {
        cluster.waits(name, &[("s2", foreign), ("s3", foreign), ("s4", foreign)]);
        assert_eq!(after[name]["ingest"], Value::Null, "{}", after[name]);
        assert_eq!(
            after[name]["change_reason"], "node_deleted",
            "{}",
            after[name]
        );
    }
    cluster.until(&[("s2", &["b1"]), ("s3", &["c1"]), ("s4", &["w"])]);
}

// ---- preferred labels ----

#[test]
fn preferred_streamer_is_filled_first() {
    let mut cluster = Cluster::new(&[]);
    cluster.streamer("s1", json!({"labels": {"dc": "here"}, "channel_limit": 3}));
    cluster.streamer("s2", json!({}));
    let wish = json!({"preferred.dc": "here"});
    cluster.labelled(&["p1", "p2", "p3"], &wish);
    cluster.until(&[("s1", &["p1", "p2", "p3"]), ("s2", &[])]);
    cluster.labelled(&["p4", "p5"], &wish);
    cluster.until(&[("s1", &["p1", "p2", "p3"]), ("s2", &["p4", "p5"])]);
    let before = cluster.rest();
    for name in ["p4", "p5"] {
        cluster.is(name, "s2", FIRST);
        let full: &[&str] = &["node_channel_limit_exceeded"];
        let expected = verdicts(&[("s1", full), ("s2", &[])]);
        assert_eq!(cluster.against(name, "ingest"), expected);
    }

    // Room for one: one of the two moves.
    cluster.server.delete("/streams/p2").expect(204);
    cluster
        .fleet
        .until(|fleet| fleet.has("s1") == 3 && fleet.has("s2") == 1);
    let after = cluster.rest();
    let first = if on(&after, "s1").contains(&"p4") {
        "p4"
    } else {
        "p5"
    };
    assert_eq!(touched(&before, &after), set(&["p2", first]));
    cluster.is(first, "s1", PREFERRED);

    // Room for many: the other one, too.
    let before = after;
    cluster.edit("s1", json!({"channel_limit": 100}));
    cluster.until(&[("s1", &["p1", "p3", "p4", "p5"]), ("s2", &[])]);
    let after = cluster.rest();
    let second = if first == "p4" { "p5" } else { "p4" };
    assert_eq!(touched(&before, &after), set(&[second]));
    cluster.is(second, "s1", PREFERRED);
}

#[test]
fn streams_move_to_a_node_with_more_preferred_labels() {
    // Twice within minutes.
    let mut cluster = Cluster::new(&["--layouter-stream-pause", "0s"]);
    cluster.streamer("s1", json!({}));
    cluster.labelled(
        &["a", "b"],
        &json!({"preferred.dc": "here", "preferred.disk": "ssd"}),
    );
    cluster.labelled(&["plain"], &json!({"dc": "there"}));
    cluster.until(&[("s1", &["a", "b", "plain"])]);
    let before = cluster.rest();
    for (host, has) in [
        ("s2", json!({"dc": "here"})),
        ("s3", json!({"dc": "here", "disk": "ssd"})),
    ] {
        cluster.streamer(host, labels(has));
        cluster.until(&[("s1", &["plain"]), (host, &["a", "b"])]);
        for name in ["a", "b"] {
            cluster.is(name, host, PREFERRED);
        }
    }
    // An equivalent streamer is no reason to move.
    cluster.streamer("s4", labels(json!({"dc": "here", "disk": "ssd"})));
    let settled = cluster.rest();
    assert_eq!(on(&settled, "s3"), ["a", "b"]);
    assert_eq!(touched(&before, &settled), set(&["a", "b"]));
    cluster.labelled(
        &["c"],
        &json!({"preferred.dc": "here", "preferred.disk": "ssd"}),
    );
    cluster.until(&[("s2", &[]), ("s3", &["a", "b"]), ("s4", &["c"])]);
    assert_eq!(touched(&settled, &cluster.rest()), set(&["c"]));
}

#[test]
fn returning_preferred_node_takes_its_streams_back() {
    let mut cluster = Cluster::new(&["--streamer-dead-timeout", "6s"]);
    cluster.streamer("s1", labels(json!({"dc": "here"})));
    cluster.streamer("s2", json!({}));
    let wish = json!({"preferred.dc": "here"});
    cluster.labelled(&["a", "b"], &wish);
    cluster.labelled(&["plain"], &json!({}));
    cluster.until(&[("s1", &["a", "b"]), ("s2", &["plain"])]);
    cluster.fleet.stop("s1");
    cluster.until(&[("s2", &["a", "b", "plain"])]);
    for name in ["a", "b"] {
        cluster.is(name, "s2", "node_become_offline");
        assert_eq!(cluster.layout(name)["failover_from"], "s1");
    }
    cluster.labelled(&["new"], &wish);
    cluster.until(&[("s2", &["a", "b", "new", "plain"])]);
    let offline: &[&str] = &["node_offline"];
    let expected = verdicts(&[("s1", offline), ("s2", &[])]);
    assert_eq!(cluster.against("new", "ingest"), expected);
    let before = cluster.rest();
    cluster.fleet.start(&cluster.server, "s1");
    cluster.until(&[("s1", &["a", "b", "new"]), ("s2", &["plain"])]);
    let after = cluster.rest();
    assert_eq!(touched(&before, &after), set(&["a", "b", "new"]));
    for (name, why) in [("a", ""), ("b", ""), ("new", PREFERRED)] {
        cluster.is(name, "s1", why);
        assert_eq!(after[name]["failover_from"], Value::Null);
    }
}

#[test]
fn streams_swap_full_streamers_when_both_gain() {
    let mut cluster = Cluster::new(&[]);
    for (host, dc) in [("s1", "x"), ("s2", "y"), ("s3", "x")] {
        cluster.streamer(host, json!({"labels": {"dc": dc}, "channel_limit": 1}));
    }
    // In one commit: between two saves a stream could move to the streamer that is still free.
    let wishes = [("a", "y", "s1"), ("b", "x", "s2"), ("c", "x", "s3")].map(|(name, dc, host)| {
        json!({
            "name": name,
            "static": true,
            "labels": {"preferred.dc": dc},
            "layout": {"ingest": host},
        })
    });
    cluster
        .server
        .put("/streams/batch", json!(wishes))
        .expect(204);
    cluster.until(&[("s1", &["b"]), ("s2", &["a"]), ("s3", &["c"])]);
    let after = cluster.rest();
    assert_eq!(
        after["c"]["change_reason"], "relayout_by_api",
        "it has what it wants"
    );
    let reason = |name: &str| after[name]["change_reason"].as_str().map(str::to_owned);
    let reasons = [reason("a"), reason("b")];
    assert!(reasons.contains(&Some(PREFERRED.to_owned())), "{reasons:?}");
}

// ---- transcoding ----

#[test]
fn transcoded_streams_go_to_nodes_with_a_transcoder() {
    let mut cluster = Cluster::new(&[]);
    for host in ["s1", "s2", "s3"] {
        cluster.streamer(host, json!({}));
    }
    cluster.report("s1", json!({"transcoder": false}));
    cluster.report("s2", json!({"transcoder": true}));
    cluster.report("s3", json!({"transcoder": false}));
    let transcoded = json!({"static": true, "transcoder": {"global": {"hw": "cpu"}}});
    for name in ["t1", "t2", "t3"] {
        cluster.stream(name, transcoded.clone());
    }
    cluster.labelled(&["plain1", "plain2"], &json!({}));
    cluster.until(&[("s2", &["t1", "t2", "t3"])]);
    cluster
        .fleet
        .until(|fleet| fleet.has("s1") == 1 && fleet.has("s3") == 1);
    let cannot: &[&str] = &[TRANSCODING];
    let expected = verdicts(&[("s1", cannot), ("s2", &[]), ("s3", cannot)]);
    assert_eq!(cluster.against("t1", "ingest"), expected);

    // It loses the ability, and another one gets it later: meanwhile they wait.
    let before = cluster.rest();
    cluster.report("s2", json!({"transcoder": false}));
    cluster.until(&[("s2", &[])]);
    for name in ["t1", "t2", "t3"] {
        cluster.waits(name, &[("s1", cannot), ("s2", cannot), ("s3", cannot)]);
    }
    let during = cluster.rest();
    assert_eq!(touched(&before, &during), set(&["t1", "t2", "t3"]));
    assert_eq!(
        during["t1"]["change_reason"],
        Value::Null,
        "there is no word for it"
    );
    cluster.report("s3", json!({"transcoder": true}));
    cluster.fleet.until(|fleet| fleet.has("s3") == 4);
    let after = cluster.rest();
    assert_eq!(touched(&during, &after), set(&["t1", "t2", "t3"]));
    for name in ["t1", "t2", "t3"] {
        cluster.is(name, "s3", FIRST);
    }

    // A stream that is no longer transcoded may stay; one that is transcoded now must move.
    cluster.stream("t1", json!({"transcoder": null}));
    let placed = on(&after, "s1");
    let [plain] = placed[..] else {
        panic!("{placed:?}")
    };
    cluster.stream(plain, transcoded);
    cluster.until(&[("s1", &[])]);
    cluster.fleet.until(|fleet| fleet.has("s3") == 5);
    cluster.is(plain, "s3", "");
    assert_eq!(touched(&after, &cluster.rest()), set(&[plain]));
}

// ---- edits ----

#[test]
fn only_relabelled_streams_move() {
    let mut cluster = Cluster::new(&[]);
    cluster.streamer("s1", labels(json!({"zone": "north"})));
    cluster.streamer("s2", labels(json!({"zone": "south"})));
    let names = ["a", "b", "c", "d", "e", "f"];
    cluster.labelled(&names[..4], &json!({"required.zone": "north"}));
    cluster.labelled(&names[4..], &json!({"required.zone": "south"}));
    cluster.until(&[("s1", &["a", "b", "c", "d"]), ("s2", &["e", "f"])]);
    let before = cluster.rest();

    // Labels that no stream refers to.
    cluster.stream(
        "a",
        labels(json!({"camera": "17", "preferred.dc": "nowhere"})),
    );
    assert_eq!(touched(&before, &cluster.rest()), set(&[]));

    // Several at once, one of them in a way that changes nothing.
    let batch = json!([
        {"name": "a", "labels": {"required.zone": "south"}},
        {"name": "b", "labels": {"required.zone": null}},
        {"name": "c", "labels": {"required.zone": "south"}},
        {"name": "e", "labels": {"required.zone": "north"}},
    ]);
    cluster.server.put("/streams/batch", batch).expect(204);
    cluster.until(&[("s1", &["b", "d", "e"]), ("s2", &["a", "c", "f"])]);
    for (name, host) in [("a", "s2"), ("c", "s2"), ("e", "s1")] {
        cluster.is(name, host, NODE_MISSES);
    }
    let after = cluster.rest();
    assert_eq!(touched(&before, &after), set(&["a", "c", "e"]));

    // To a zone without streamers: it stays without a place, and comes back from there.
    cluster.stream("d", labels(json!({"required.zone": "east"})));
    cluster.until(&[("s1", &["b", "e"]), ("s2", &["a", "c", "f"])]);
    cluster.waits("d", &[("s1", &[NODE_MISSES]), ("s2", &[NODE_MISSES])]);
    let waiting = cluster.rest();
    assert_eq!(touched(&after, &waiting), set(&["d"]));
    assert_eq!(waiting["d"]["change_reason"], NODE_MISSES);
    cluster.stream("d", labels(json!({"required.zone": "north"})));
    cluster.until(&[("s1", &["b", "d", "e"]), ("s2", &["a", "c", "f"])]);
    cluster.is("d", "s1", FIRST);
}

#[test]
fn relabelled_streamer_loses_only_unfit_streams() {
    let mut cluster = Cluster::new(&[]);
    cluster.streamer("s1", labels(json!({"zone": "north"})));
    cluster.streamer("s2", labels(json!({"zone": "north"})));
    let north = json!({"required.zone": "north", "tenant": "t"});
    cluster.labelled(&["n1", "n2", "n3", "n4"], &north);
    cluster.labelled(&["p1", "p2", "p3", "p4"], &json!({}));
    let own: [(&str, &[&str]); 2] = [
        ("s1", &["n1", "n2", "p1", "p2"]),
        ("s2", &["n3", "n4", "p3", "p4"]),
    ];
    for (host, names) in own {
        let places: Vec<_> = names.iter().map(|name| (*name, host)).collect();
        cluster.place(&places);
    }
    cluster.until(&own);
    let before = cluster.rest();
    assert_eq!(on(&before, "s1"), own[0].1);

    // A label that no stream requires.
    cluster.edit("s1", labels(json!({"color": "red"})));
    assert_eq!(touched(&before, &cluster.rest()), set(&[]));

    // A label that streams require is removed.
    cluster.edit("s1", labels(json!({"zone": "south"})));
    cluster.until(&[
        ("s1", &["p1", "p2"]),
        ("s2", &["n1", "n2", "n3", "n4", "p3", "p4"]),
    ]);
    for name in ["n1", "n2"] {
        cluster.is(name, "s2", NODE_MISSES);
    }
    let moved = cluster.rest();
    assert_eq!(touched(&before, &moved), set(&["n1", "n2"]));

    // The label is back, and no stream has a reason to move.
    cluster.edit("s1", labels(json!({"zone": "north"})));
    assert_eq!(touched(&moved, &cluster.rest()), set(&[]));

    // The streamer requires a label.
    cluster.edit("s2", labels(json!({"required.tenant": "t"})));
    cluster.until(&[
        ("s1", &["p1", "p2", "p3", "p4"]),
        ("s2", &["n1", "n2", "n3", "n4"]),
    ]);
    for name in ["p3", "p4"] {
        cluster.is(name, "s1", STREAM_MISSES);
    }
    let demanded = cluster.rest();
    assert_eq!(touched(&moved, &demanded), set(&["p3", "p4"]));

    // Both at once, without another streamer.
    cluster.edit("s1", labels(json!({"required.tenant": "u", "zone": null})));
    cluster.until(&[("s1", &[]), ("s2", &["n1", "n2", "n3", "n4"])]);
    for name in ["p1", "p2", "p3", "p4"] {
        cluster.waits(name, &[("s1", &[STREAM_MISSES]), ("s2", &[STREAM_MISSES])]);
    }
    let waiting = cluster.rest();
    assert_eq!(touched(&demanded, &waiting), set(&["p1", "p2", "p3", "p4"]));
    cluster.edit("s1", labels(json!({"required.tenant": null})));
    cluster.until(&[("s1", &["p1", "p2", "p3", "p4"])]);
    assert_eq!(
        touched(&waiting, &cluster.rest()),
        set(&["p1", "p2", "p3", "p4"])
    );
}
