//! `streams` of streamers: those that they ingest, by health.

use serde_json::{Value, json};

use crate::cluster::{HEALTHS, cluster, count};
use crate::fleet::{fleet_of, save_streams};
use crate::restricted::token;
use weir_testkit::{TestServer, wait_until};

fn streams(server: &TestServer, host: &str) -> Value {
    let path = format!("/streamers/{host}");
    server.get(&path).expect(200).json()["streams"].take()
}

/// Checks the counts of a streamer against the lists of its streams.
#[track_caller]
fn counts_are_those_of_lists(server: &TestServer, host: &str) -> Value {
    let streams = streams(server, host);
    for health in HEALTHS {
        let listed = count(server, &format!("layout.ingest={host}&health={health}"));
        assert_eq!(streams[health], listed, "{host} {health}: {streams}");
    }
    let listed = count(server, &format!("layout.ingest={host}"));
    assert_eq!(streams["total"], listed, "{host}: {streams}");
    let list = server.get(&format!("/streamers?hostname={host}&select=streams"));
    assert_eq!(list.expect(200).json()["streamers"][0]["streams"], streams);
    streams
}

/// The hostnames of a list of streamers.
fn hosts(server: &TestServer, query: &str) -> Vec<String> {
    let list = server
        .get(&format!("/streamers?{query}"))
        .expect(200)
        .json();
    let rows = list["streamers"].as_array().expect("a list").iter();
    let names = rows.filter_map(|row| row["hostname"].as_str());
    names.map(str::to_owned).collect()
}

#[test]
fn streams_of_a_streamer_are_those_of_the_lists() {
    let mut server = cluster();
    let of_s1 = counts_are_those_of_lists(&server, "s1");
    let expected = json!({
        "operational": 2, "degradated": 1, "partial_outage": 0, "outage": 1, "disabled": 1,
        "total": 5,
    });
    assert_eq!(of_s1, expected);
    assert_eq!(counts_are_those_of_lists(&server, "s2")["outage"], 1);
    for (query, expected) in [
        ("streams.outage_gt=0", vec!["s1", "s2"]),
        ("streams.degradated=1", vec!["s1"]),
        ("streams.disabled=0", vec!["s2"]),
        ("sort=-streams.total", vec!["s1", "s2"]),
        ("sort=streams.total&select=streams.total", vec!["s2", "s1"]),
    ] {
        assert_eq!(hosts(&server, query), expected, "{query}");
    }
    // Read-only, and what is saved shows at once.
    let body = json!({"streams": {"total": 9}});
    let saved = server.put("/streamers/s1", body).expect(200).json();
    assert_eq!(saved["streams"], expected);
    server.delete("/streams/broken").expect(204);
    let lost = json!({"disabled": true, "layout": {"ingest": "s1"}});
    server.put("/streams/lost", lost).expect(200);
    let of_s1 = counts_are_those_of_lists(&server, "s1");
    assert_eq!(
        (&of_s1["outage"], &of_s1["disabled"]),
        (&json!(0), &json!(2))
    );
    assert_eq!(counts_are_those_of_lists(&server, "s2")["total"], 0);
    let permissions = json!([{"scopes": ["streamers/s2"], "list": true, "read": true}]);
    let token = token(&server, "s2", json!({ "permissions": permissions }));
    let seen = server.call_as("GET", "/streamers?streams.total_gte=0", Some(&token));
    assert_eq!(seen.expect(200).json()["estimated_count"], 1);
    server.restart();
    let of_s1 = counts_are_those_of_lists(&server, "s1");
    assert_eq!(of_s1["operational"], 0, "nothing was reported: {of_s1}");
}

#[test]
fn streams_that_are_handed_over_count_once() {
    let server = TestServer::with(&["--layouter-enabled", "--layouter-handover", "1h"]);
    let mut fleet = fleet_of(&server, &["s1", "s2"]);
    save_streams(&server, 0..6);
    fleet.until(|fleet| fleet.has("s1") == 3 && fleet.has("s2") == 3);
    let drain = json!({"mode": "drain", "reason": "disks", "pace": 0});
    server.put("/streamers/s1/maintenance", drain).expect(200);
    fleet.until(|fleet| fleet.has("s2") == 6);
    let left =
        || ["s1", "s2"].map(|host| counts_are_those_of_lists(&server, host)["total"].clone());
    wait_until("all are laid out on the other one", left, |left| {
        *left == [json!(0), json!(6)]
    });
}

#[test]
fn streams_in_a_large_cluster_are_those_of_the_last_count() {
    let server = TestServer::with(&["--streamer-dead-timeout", "10m"]);
    for host in ["s1", "s2"] {
        let node = json!({"role": "streamer", "cluster_key": "k"});
        server.put(&format!("/streamers/{host}"), node).expect(200);
        let report = json!({"stats": {"cpu_usage": 1}});
        server
            .put(&format!("/streamers/{host}/stats"), report)
            .expect(204);
    }
    for part in 0..3 {
        let names = (0..8000).map(|n| format!("part{part}/c{n}"));
        let streams = names.map(|name| json!({"name": name, "layout": {"ingest": "s1"}}));
        let streams: Vec<Value> = streams.collect();
        server.put("/streams/batch", json!(streams)).expect(204);
    }
    // A request starts a count, which a later one shows.
    let look = || streams(&server, "s1");
    let shown = wait_until("a count", look, |streams| streams["total"] == 24_000);
    assert_eq!(shown["outage"], 24_000);
    assert_eq!(streams(&server, "s2")["total"], 0);
    let off = json!({"disabled": true});
    server.put("/streams/part1%2Fc7", off).expect(200);
    let look = || hosts(&server, "streams.disabled=1");
    wait_until("the next count", look, |hosts| *hosts == ["s1"]);
    counts_are_those_of_lists(&server, "s2");
}
