//! Limits of streamers, in each dimension: what does not fit waits, a lower limit costs the fewest
//! streams, and room is made where none is.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::fleet::{Fleet, StreamNames, layouts, pass, save_streamer, server, until_all_may_take};
use weir_testkit::TestServer;

/// The limited resource of a node.
#[derive(Clone, Copy)]
enum Dimension {
    Channels,
    Bandwidth,
    Disk,
}

use Dimension::{Bandwidth, Channels, Disk};

/// Claim of one stream, kbit/s.
const KBPS: u64 = 1000;
/// Recording of one stream, bytes.
const RECORDING: u64 = 1 << 36;

impl Dimension {
    fn code(self) -> &'static str {
        match self {
            Channels => "node_channel_limit_exceeded",
            Bandwidth => "streamer_total_bandwidth_exceeded",
            Disk => "streamer_dvr_size_exceeded",
        }
    }

    /// Gives a streamer room for so many streams of [`save`]. Of bandwidth and disks 90 % are used,
    /// disks in steps of 256 MiB.
    fn set(self, server: &TestServer, host: &str, streams: u64) {
        match self {
            Channels => save_streamer(server, host, json!({"channel_limit": streams})),
            Bandwidth => {
                let kbps = (streams * KBPS).div_ceil(9) * 10;
                save_streamer(server, host, json!({"total_bandwidth": kbps}));
            }
            Disk => {
                if server.get(&format!("/streamers/{host}")).status == 404 {
                    save_streamer(server, host, json!({}));
                }
                let megabytes = (streams * (RECORDING >> 20)).div_ceil(9) * 10 + 1024;
                let disk = json!({"device": "sda1", "path": "/storage", "total_mb": megabytes});
                let report = json!({"stats": {"partitions": [disk]}, "streams": []});
                server
                    .put(&format!("/streamers/{host}/stats"), report)
                    .expect(204);
            }
        }
    }
}

fn stream() -> Value {
    json!({
        "static": true,
        "claims": {"bitrate": KBPS},
        "dvr": {"expiration": 864_000_000, "storage_limit": RECORDING, "reference": "main"},
    })
}

fn save(server: &TestServer, names: impl IntoIterator<Item = usize>) {
    for i in names {
        server
            .put(&format!("/streams/c{i:02}"), stream())
            .expect(200);
    }
}

fn numbered(names: impl IntoIterator<Item = usize>) -> StreamNames {
    names.into_iter().map(|i| format!("c{i:02}")).collect()
}

/// The reasons of each node against a stream without ingest.
fn why_it_waits(server: &TestServer, stream: &str) -> BTreeSet<String> {
    let why = server.get(&format!("/streams/{stream}/layout/explain"));
    let why = why.expect(200).json();
    assert_eq!(why["layout"]["ingest"], Value::Null, "{why}");
    let nodes = why["nodes"].as_array().expect("nodes");
    let reasons = nodes.iter().flat_map(|node| {
        assert_eq!(node["node_decision"], false, "{why}");
        node["reasons"].as_array().expect("reasons").clone()
    });
    reasons
        .map(|reason| reason.as_str().expect("a code").to_owned())
        .collect()
}

fn what_does_not_fit_waits(dimension: Dimension) {
    let server = server(&[]);
    dimension.set(&server, "s1", 4);
    let mut fleet = Fleet::new();
    fleet.start(&server, "s1");
    save(&server, 0..4);
    fleet.until(|fleet| fleet.has("s1") == 4);
    save(&server, 4..7);
    pass(&server, 2);
    assert_eq!(fleet.lists["s1"], numbered(0..4), "placed streams stay");
    for waiting in ["c04", "c05", "c06"] {
        let reasons = why_it_waits(&server, waiting);
        assert_eq!(reasons, BTreeSet::from([dimension.code().to_owned()]));
    }
    // Room for one after a stream is deleted; for another after the limit is raised.
    server.delete("/streams/c00").expect(204);
    fleet.until(|fleet| fleet.has("s1") == 4 && !fleet.lists["s1"].contains("c00"));
    assert!(fleet.lists["s1"].is_superset(&numbered(1..4)));
    dimension.set(&server, "s1", 5);
    fleet.until(|fleet| fleet.has("s1") == 5);
    assert!(fleet.lists["s1"].is_superset(&numbered(1..4)));
    dimension.set(&server, "s1", 9);
    fleet.until(|fleet| fleet.lists["s1"] == numbered(1..7));
    for layout in layouts(&server).values() {
        assert_eq!(layout["change_reason"], "not_distributed", "{layout}");
    }
}

#[test]
fn streams_beyond_the_channel_limit_wait() {
    what_does_not_fit_waits(Channels);
}

#[test]
fn streams_beyond_the_bandwidth_wait() {
    what_does_not_fit_waits(Bandwidth);
}

#[test]
fn streams_beyond_the_disk_size_wait() {
    what_does_not_fit_waits(Disk);
}

fn a_lowered_limit_costs_the_fewest(dimension: Dimension) {
    // Without balance, which would part a full streamer's streams between two limits.
    let server = server(&[
        "--layouter-sleeping-interval",
        "300ms",
        "--layouter-rebalance=false",
    ]);
    let mut fleet = Fleet::new();
    for host in ["s1", "s2"] {
        dimension.set(&server, host, 10);
        fleet.start(&server, host);
    }
    save(&server, 0..8);
    fleet.until(|fleet| fleet.has("s1") + fleet.has("s2") == 8);
    until_all_may_take(&server, "c00");
    // Where they were placed before that does not matter from here on.
    let layout = |i: usize| {
        let host = if i < 4 { "s1" } else { "s2" };
        json!({"name": format!("c{i:02}"), "ingest": host})
    };
    let by_hand: Vec<Value> = (0..8).map(layout).collect();
    let answer = server.post("/streams/layouts", json!({"layouts": by_hand}));
    answer.expect(204);
    fleet.until(|fleet| fleet.lists["s1"] == numbered(0..4) && fleet.lists["s2"] == numbered(4..8));

    // Two must go, and the other has room for them.
    dimension.set(&server, "s1", 2);
    fleet.until(|fleet| fleet.has("s1") == 2 && fleet.has("s2") == 6);
    assert!(fleet.lists["s1"].is_subset(&numbered(0..4)));
    assert!(fleet.lists["s2"].is_superset(&numbered(4..8)));
    let moved: StreamNames = fleet.lists["s2"]
        .difference(&numbered(4..8))
        .cloned()
        .collect();
    for (name, layout) in layouts(&server) {
        let says_so = layout["change_reason"] == dimension.code();
        assert_eq!(says_so, moved.contains(&name), "{name}: {layout}");
    }

    // Three must go, and no streamer has room: they wait, and come back when there is room. Disks
    // are measured, and a measurement may be wrong: then they stay.
    let stay = fleet.lists["s1"].clone();
    if matches!(dimension, Disk) {
        let before = layouts(&server);
        dimension.set(&server, "s2", 3);
        fleet.rest(&server, 3);
        assert_eq!(layouts(&server), before);
        return;
    }
    dimension.set(&server, "s2", 3);
    fleet.until(|fleet| fleet.has("s2") == 3);
    assert_eq!(fleet.lists["s1"], stay);
    let waiting: StreamNames = layouts(&server)
        .into_iter()
        .filter(|(_, layout)| layout["ingest"] == Value::Null)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(waiting.len(), 3);
    for name in &waiting {
        let reasons = why_it_waits(&server, name);
        assert_eq!(reasons, BTreeSet::from([dimension.code().to_owned()]));
    }
    let kept = fleet.lists["s2"].clone();
    dimension.set(&server, "s2", 6);
    fleet.until(|fleet| fleet.has("s2") == 6);
    assert!(fleet.lists["s2"].is_superset(&kept) && fleet.lists["s2"].is_superset(&waiting));
}

#[test]
fn lower_channel_limit_moves_the_fewest_streams() {
    a_lowered_limit_costs_the_fewest(Channels);
}

#[test]
fn lower_bandwidth_moves_the_fewest_streams() {
    a_lowered_limit_costs_the_fewest(Bandwidth);
}

#[test]
fn smaller_disk_moves_the_fewest_streams() {
    a_lowered_limit_costs_the_fewest(Disk);
}

/// Streamers with room for one stream each by default, all polling.
fn small(server: &TestServer, fleet: &mut Fleet, hosts: &[(&str, Value)]) {
    for (host, more) in hosts {
        let mut body = json!({"channel_limit": 1});
        let fields = more.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(fields);
        save_streamer(server, host, body);
        fleet.join(server, &[host]);
    }
}

fn save_labelled(server: &TestServer, name: &str, labels: Value) {
    let body = json!({"static": true, "labels": labels});
    server.put(&format!("/streams/{name}"), body).expect(200);
}

fn only(name: &str) -> StreamNames {
    StreamNames::from([name.to_owned()])
}

#[test]
fn smallest_sufficient_stream_is_moved() {
    let server = server(&[]);
    let kbps = |usable: u64| json!({"total_bandwidth": usable.div_ceil(9) * 10});
    save_streamer(&server, "s1", kbps(10_000));
    save_streamer(&server, "s2", kbps(10_000));
    let mut fleet = Fleet::new();
    fleet.join(&server, &["s1"]);
    fleet.join(&server, &["s2"]);
    let sizes = [("a", 900), ("b", 1000), ("c", 1100), ("d", 5000)];
    for (name, kbps) in sizes {
        let body = json!({"static": true, "claims": {"bitrate": kbps}, "layout": {"ingest": "s1"}});
        server.put(&format!("/streams/{name}"), body).expect(200);
    }
    fleet.until(|fleet| fleet.has("s1") == 4);
    until_all_may_take(&server, "a");
    // 8000 are used; 4000 must go: one stream is enough, and only that one.
    save_streamer(&server, "s1", kbps(4000));
    fleet.until(|fleet| fleet.has("s2") == 1 && fleet.has("s1") == 3);
    assert_eq!(fleet.lists["s2"], only("d"));
    // 3000 are used; 500 must go: the smallest that is enough.
    save_streamer(&server, "s1", kbps(2500));
    fleet.until(|fleet| fleet.has("s2") == 2 && fleet.has("s1") == 2);
    assert_eq!(
        fleet.lists["s2"],
        StreamNames::from(["a".into(), "d".into()])
    );
}

#[test]
fn waiting_stream_displaces_one_that_can_move() {
    let server = server(&[]);
    let mut fleet = Fleet::new();
    let north = json!({"labels": {"zone": "north"}});
    small(&server, &mut fleet, &[("s1", north)]);
    save_labelled(&server, "anywhere", json!({}));
    fleet.until(|fleet| fleet.has("s1") == 1);
    small(&server, &mut fleet, &[("s2", json!({}))]);
    until_all_may_take(&server, "anywhere");
    save_labelled(&server, "north", json!({"required.zone": "north"}));
    fleet.until(|fleet| fleet.lists["s1"] == only("north"));
    fleet.until(|fleet| fleet.lists["s2"] == only("anywhere"));
    let layouts = layouts(&server);
    let reason = |name: &str| layouts[name]["change_reason"].clone();
    assert_eq!(reason("anywhere"), "node_channel_limit_exceeded");
    assert_eq!(reason("north"), "not_distributed");
}

#[test]
fn chain_of_moves_touches_no_other_stream() {
    let server = server(&[]);
    let mut fleet = Fleet::new();
    // x may be on s1 or s2, y on s2 or s3; n on s1 alone.
    let hosts = [
        ("s1", json!({"labels": {"zone": "north", "pair": "12"}})),
        ("s2", json!({"labels": {"pair": "12", "other": "23"}})),
        ("s3", json!({"labels": {"other": "23"}})),
        ("s4", json!({"labels": {"far": "yes"}})),
    ];
    small(&server, &mut fleet, &hosts);
    let place = |name: &str, host: &str, labels: Value| {
        let body = json!({"static": true, "labels": labels, "layout": {"ingest": host}});
        server.put(&format!("/streams/{name}"), body).expect(200);
    };
    place("x", "s1", json!({"required.pair": "12"}));
    place("y", "s2", json!({"required.other": "23"}));
    place("z", "s4", json!({"required.far": "yes"}));
    fleet.until(|fleet| fleet.has("s1") + fleet.has("s2") + fleet.has("s4") == 3);
    save_labelled(&server, "n", json!({"required.zone": "north"}));
    fleet.until(|fleet| fleet.lists["s1"] == only("n") && fleet.lists["s2"] == only("x"));
    fleet.until(|fleet| fleet.lists["s3"] == only("y"));
    assert_eq!(fleet.lists["s4"], only("z"));
    // Now every place is taken: the next stream waits, and none is moved in vain.
    let before = layouts(&server);
    save_labelled(&server, "m", json!({"required.zone": "north"}));
    pass(&server, 2);
    let reasons = why_it_waits(&server, "m");
    assert!(
        reasons.contains("node_channel_limit_exceeded"),
        "{reasons:?}"
    );
    let after = layouts(&server);
    assert!(before.iter().all(|(name, layout)| after[name] == *layout));
}
