//! `GET /cluster/summary`: its numbers are those of the lists, for every caller its part.

use serde_json::{Value, json};

use crate::cluster::{HEALTHS, cluster, count};
use crate::faults::limit_files;
use crate::fleet::{fleet_of, save_streams, server};
use crate::pausing::fill_disk;
use crate::restricted::token;
use weir_testkit::{TestServer, wait_until};

const STATES: [&str; 7] = [
    "up",
    "probation",
    "down",
    "unsure",
    "draining",
    "drained",
    "cordoned",
];

fn summary(server: &TestServer) -> Value {
    server.get("/cluster/summary").expect(200).json()
}

/// Checks each number against the count of the list that shows what it counts.
fn numbers_are_those_of_the_lists(server: &TestServer) {
    let summary = summary(server);
    let streams = &summary["streams"];
    for health in HEALTHS {
        assert_eq!(
            count(server, &format!("health={health}")),
            streams[health],
            "{health}"
        );
    }
    assert_eq!(count(server, "sort=name"), streams["total"]);
    let unplaced = count(server, "placed=false&health_ne=disabled");
    assert_eq!(unplaced, streams["unplaced"]);
    let of_streamers = |query: &str| {
        let list = server.get(&format!("/streamers?{query}&limit=1"));
        list.expect(200).json()["estimated_count"].take()
    };
    let streamers = &summary["streamers"];
    for health in HEALTHS {
        let found = of_streamers(&format!("health={health}"));
        assert_eq!(found, streamers[health], "{health}");
    }
    for state in STATES {
        let found = of_streamers(&format!("state.code={state}"));
        assert_eq!(found, streamers["states"][state], "{state}");
    }
    assert_eq!(of_streamers("sort=hostname"), streamers["total"]);
}

/// The lines of one kind: subject, severity and count.
fn lines(summary: &Value, kind: &str) -> Vec<(Value, Value, Value)> {
    let lines = summary["attention"].as_array().expect("lines");
    let of_kind = lines.iter().filter(|line| line["kind"] == kind);
    of_kind
        .map(|line| {
            let member = |name: &str| line[name].clone();
            (member("subject"), member("severity"), member("count"))
        })
        .collect()
}

#[test]
fn numbers_of_the_summary_are_those_of_the_lists() {
    let mut server = cluster();
    numbers_are_those_of_the_lists(&server);
    let mode = json!({"mode": "cordon", "reason": "disks"});
    server.put("/streamers/s2/maintenance", mode).expect(200);
    server
        .put("/streams/lost", json!({"disabled": true}))
        .expect(200);
    server.delete("/streams/weak").expect(204);
    numbers_are_those_of_the_lists(&server);
    server.restart();
    numbers_are_those_of_the_lists(&server);
}

#[test]
fn attention_names_what_is_wrong_the_worst_first() {
    let server = cluster();
    let summary = summary(&server);
    let null = Value::Null;
    let of = |kind: &str| lines(&summary, kind);
    assert_eq!(of("unplaced"), [(null.clone(), json!(3), json!(1))]);
    assert_eq!(of("layouter_off"), [(null, json!(2), json!(1))]);
    assert_eq!(of("streamer_cpu"), [(json!("s1"), json!(1), json!(85))]);
    assert_eq!(
        of("streamer_bandwidth"),
        [(json!("s1"), json!(2), json!(96))]
    );
    assert_eq!(of("streamer_streams"), [(json!("s1"), json!(2), json!(1))]);
    for kind in ["streamer_memory", "streamer_disk", "store", "brake", "loss"] {
        assert_eq!(of(kind), [], "{kind}");
    }
    let all = summary["attention"].as_array().expect("lines");
    let severities: Vec<u64> = all
        .iter()
        .filter_map(|it| it["severity"].as_u64())
        .collect();
    assert!(severities.is_sorted_by(|a, b| a >= b), "{severities:?}");
    assert_eq!(summary["attention_total"], json!(all.len()));
    let kinds = summary["attention_kinds"].as_object().expect("kinds");
    assert_eq!(kinds.len(), all.len(), "one line of each kind: {kinds:?}");
    let traffic = json!({"clients": 9, "input_kbit": 100, "output_kbit": 960});
    assert_eq!(summary["traffic"], traffic);
    assert_eq!(summary["capacity"], Value::Null, "the layouter is off");
    assert_eq!(summary["layouter"]["enabled"], false);
    assert!(summary["store"]["bytes"].as_u64() > Some(0), "{summary}");
    assert!(
        summary["store"]["fsync_p99_us"].as_u64() > Some(0),
        "{summary}"
    );
}

#[test]
fn summary_has_the_capacity_and_the_work_of_the_layouter() {
    let server = server(&[]);
    let mut fleet = fleet_of(&server, &["s1", "s2"]);
    save_streams(&server, 0..6);
    fleet.until(|fleet| fleet.has("s1") == 3 && fleet.has("s2") == 3);
    let settled = wait_until(
        "the capacity of six placed streams",
        || summary(&server),
        |summary| {
            summary["capacity"]["classes"][0]["streams"] == 6
                && summary["layouter"]["moves_1h"] == 6
        },
    );
    let capacity = server.get("/cluster/capacity").expect(200).json();
    let plain = &capacity["classes"][0];
    for member in ["bottleneck", "streams_more"] {
        assert_eq!(settled["capacity"][member], plain[member], "{member}");
    }
    let survives = &capacity["survives_any_loss"];
    assert_eq!(settled["capacity"]["survives_any_loss"], *survives);
    let layouter = &settled["layouter"];
    assert_eq!(layouter["enabled"], true);
    assert_eq!(layouter["paused_until"], Value::Null);
    assert_eq!(layouter["paused"], Value::Null);
    assert_eq!(layouter["waiting"], json!({"improving": 0, "urgent": 0}));
    assert_eq!(layouter["from"], "flag");
    numbers_are_those_of_the_lists(&server);
}

#[test]
fn token_gets_names_of_its_streamers_only() {
    let server = cluster();
    let with = |name: &str, permissions: Value| {
        token(&server, name, json!({ "permissions": permissions }))
    };
    let read = |scope: &str| json!({"scopes": [scope], "read": true});
    let streams = with("streams", json!([{"scopes": ["streams/*"], "list": true}]));
    let refused = server.call_as("GET", "/cluster/summary", Some(&streams));
    let refused = refused.expect(403).json();
    assert_eq!(refused["errors"][0]["meta"]["needs"], "read", "{refused}");
    let get = |token: &str| {
        let answer = server.call_as("GET", "/cluster/summary", Some(token));
        answer.expect(200).json()
    };
    let whole = summary(&server);
    for (name, permissions, sees_s1, sees_layouter) in [
        ("none", json!([read("cluster")]), false, false),
        (
            "s2",
            json!([read("cluster"), read("streamers/s2")]),
            false,
            false,
        ),
        (
            "s1",
            json!([read("cluster"), read("streamers/s1")]),
            true,
            false,
        ),
        (
            "layouter",
            json!([read("cluster"), read("layouter")]),
            false,
            true,
        ),
        ("all", json!([read("*")]), true, true),
    ] {
        let seen = get(&with(name, permissions));
        assert_eq!(seen["streams"], whole["streams"], "{name}");
        assert_eq!(
            seen["layouter"].is_object(),
            sees_layouter,
            "{name}: {seen}"
        );
        assert_eq!(
            seen.to_string().contains("\"s1\""),
            sees_s1,
            "{name}: {seen}"
        );
        let shown = seen["attention"].as_array().map(Vec::len);
        assert_eq!(seen["attention_total"], json!(shown), "{name}: {seen}");
        let same = seen["attention"] == whole["attention"];
        assert_eq!(same, sees_s1, "{name}: {seen}");
    }
}

#[test]
fn client_that_has_the_summary_gets_304() {
    // A count of so many streams costs enough to be reused.
    let server = TestServer::new();
    for part in 0..3 {
        let streams = (0..8000).map(|n| json!({"name": format!("part{part}/c{n}")}));
        let streams: Vec<Value> = streams.collect();
        server.put("/streams/batch", json!(streams)).expect(204);
    }
    for coding in ["identity", "gzip", "zstd"] {
        let answers = || {
            let accepts = ("Accept-Encoding", coding);
            let path = "/cluster/summary";
            let first = server.call_with("GET", path, &[accepts], b"").expect(200);
            let etag = first.header("etag").expect("a tag").to_owned();
            let fields = [accepts, ("If-None-Match", &etag)];
            (etag.clone(), server.call_with("GET", path, &fields, b""))
        };
        let is_known = |(_, answer): &(String, weir_testkit::Response)| answer.status == 304;
        let (etag, answer) = wait_until("two answers with one count", answers, is_known);
        assert_eq!(answer.header("etag"), Some(&*etag));
        assert!(answer.body.is_empty(), "{answer:?}");
    }
    let other = [("If-None-Match", "\"1\"")];
    let answer = server.call_with("GET", "/cluster/summary", &other, b"");
    assert_eq!(answer.expect(200).json()["streams"]["total"], 24_000);
    let bad = [("If-None-Match", "x")];
    server
        .call_with("GET", "/cluster/summary", &bad, b"")
        .expect(400);
}

#[test]
fn rare_streams_of_a_large_cluster_are_listed_as_saved() {
    // Goal: a list of rare streams takes names from the last count, and still has every save at
    // once and every report soon. Method: a cluster in which counts are reused, lists after each
    // kind of change, against what was changed.
    let server = TestServer::with(&["--streamer-dead-timeout", "10m"]);
    let node = json!({"role": "streamer", "cluster_key": "k"});
    server.put("/streamers/s1", node).expect(200);
    let mut reported = Vec::new();
    for part in 0..3 {
        let names = (0..8000).map(|n| format!("part{part}/c{n:04}"));
        let streams: Vec<Value> = names
            .map(|name| {
                reported.push(json!({"name": name, "status": "running", "alive": true}));
                json!({"name": name, "layout": {"ingest": "s1"}})
            })
            .collect();
        server.put("/streams/batch", json!(streams)).expect(204);
    }
    let report = |reported: &[Value]| {
        let body = json!({"stats": {"cpu_usage": 1}, "streams": reported});
        server.put("/streamers/s1/stats", body).expect(204);
    };
    report(&reported);
    let of = |query: &str| -> Vec<String> {
        let list = server.get(&format!("/streams?{query}&select=name"));
        let list = list.expect(200).json();
        let rows = list["streams"].as_array().expect("a list");
        assert_eq!(list["estimated_count"], json!(rows.len()), "{query}");
        let names = rows.iter().filter_map(|row| row["name"].as_str());
        names.map(str::to_owned).collect()
    };
    // A count, which the lists below may use. One that is not much older may be there already.
    let counted = || summary(&server)["streams"]["operational"].clone();
    wait_until("all are counted", counted, |count| *count == 24_000);
    let save = |name: &str, body: Value| server.put(&format!("/streams/{name}"), body).expect(200);
    assert_eq!(of("health=disabled"), [""; 0]);
    save("part0/c0001", json!({"disabled": true}));
    save("new", json!({"disabled": true}));
    assert_eq!(of("health=disabled"), ["new", "part0/c0001"]);
    assert_eq!(
        of("health=disabled,outage&sort=-name"),
        ["part0/c0001", "new"]
    );
    assert_eq!(of("placed=false"), ["new"]);
    assert_eq!(of("placed=false&health_ne=disabled"), [""; 0]);
    let layouts = json!({"layouts": [{"name": "part1/c0002", "ingest": null}]});
    server.post("/streams/layouts", layouts).expect(204);
    assert_eq!(of("placed=false"), ["new", "part1/c0002"]);
    summary(&server);
    save("part0/c0001", json!({"disabled": false}));
    server.delete("/streams/new").expect(204);
    assert_eq!(of("health=disabled"), [""; 0]);
    assert_eq!(of("placed=false"), ["part1/c0002"]);
    assert_eq!(of("health=bad"), [""; 0]);
    // What a report changes is found with a later count, and what it changes back is not shown.
    reported[5]["status"] = json!("error");
    reported[9]["status"] = json!("waiting");
    report(&reported);
    let broken = ["part0/c0005".to_owned()];
    let found = || {
        summary(&server);
        of("health=outage")
    };
    wait_until("the outage", found, |found| *found == broken);
    assert_eq!(of("health=degradated"), ["part0/c0009"]);
    reported[5]["status"] = json!("running");
    report(&reported);
    assert_eq!(of("health=outage"), [""; 0], "it is checked again");
    let token = token(
        &server,
        "part1",
        json!({"permissions": [{"scopes": ["streams/part1%2F*"], "list": true}]}),
    );
    for (query, total) in [("placed=false", 1), ("health=degradated", 0)] {
        let list = server.call_as("GET", &format!("/streams?{query}"), Some(&token));
        assert_eq!(list.expect(200).json()["estimated_count"], total, "{query}");
    }
}

#[test]
fn pause_of_the_layouter_needs_attention() {
    let server = TestServer::with(&["--layouter-enabled=true"]);
    let pause = json!({"pause": {"what": "all", "reason": "new switch"}});
    server.put("/layouter", pause).expect(200);
    let shown = |fits: fn(&Value) -> bool| {
        wait_until(
            "the summary",
            || summary(&server),
            |all| fits(&all["layouter"]["paused"]),
        )
    };
    let paused = shown(|what| what == "all");
    assert_eq!(paused["layouter"]["paused_until"], Value::Null);
    let line = [(Value::Null, json!(1), json!(1))];
    assert_eq!(lines(&paused, "layouter_paused"), line);
    let pause = json!({"pause": {"until": "1h"}});
    let until = server.put("/layouter", pause).expect(200).json()["paused"]["until"].take();
    let paused = shown(|what| what == "improving");
    assert_eq!(paused["layouter"]["paused_until"], until);
    server.put("/layouter", json!({"pause": null})).expect(200);
    assert_eq!(lines(&shown(Value::is_null), "layouter_paused"), []);
}

#[test]
fn store_without_space_needs_attention_until_there_is_some() {
    let server = TestServer::new();
    fill_disk(&server);
    let refuse = || {
        let body = json!({"comment": "x".repeat(100_000)});
        server.put("/streams/more", body).expect(503);
        lines(&summary(&server), "store")
    };
    let line = [(Value::Null, json!(3), json!(1))];
    wait_until("the line of the store", refuse, |lines| *lines == line);
    limit_files(server.id(), None);
    let gone = || lines(&summary(&server), "store");
    wait_until("no line of the store", gone, Vec::is_empty);
}

#[test]
fn streamer_that_may_not_fail_needs_attention() {
    let server = server(&[]);
    let mut fleet = fleet_of(&server, &["s1", "s2"]);
    save_streams(&server, 0..4);
    fleet.until(|fleet| fleet.has("s1") == 2 && fleet.has("s2") == 2);
    let losses = || lines(&summary(&server), "loss");
    wait_until("any one may fail", losses, Vec::is_empty);
    let full = json!({"channel_limit": 3});
    for host in ["s1", "s2"] {
        server
            .put(&format!("/streamers/{host}"), full.clone())
            .expect(200);
    }
    let of = |host: &str| (json!(host), json!(2), json!(1));
    let both =
        |lines: &Vec<_>| lines.len() == 2 && ["s1", "s2"].iter().all(|it| lines.contains(&of(it)));
    wait_until("either leaves one stream without a place", losses, both);
}
