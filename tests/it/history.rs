//! Numbers of the past: of the cluster, of one streamer, of many.

use serde_json::{Value, json};

use crate::cluster::cluster;
use crate::fleet::{fleet_of, save_streams, server};
use crate::restricted::token;
use weir_testkit::{TestServer, wait_until};

fn table(server: &TestServer, path: &str) -> Value {
    server.get(path).expect(200).json()
}

/// A column of a table without the rows in which it is not known.
fn known(table: &Value, field: &str) -> Vec<Value> {
    let fields = table["fields"].as_array().expect("columns");
    let column = fields.iter().position(|it| it == field);
    let column = column.unwrap_or_else(|| panic!("no {field} in {table}"));
    let rows = table["points"].as_array().expect("rows").iter();
    let numbers = rows.map(|row| row[column].clone());
    numbers.filter(|number| !number.is_null()).collect()
}

/// The history of a streamer as soon as it has a report.
fn reported(server: &TestServer, hostname: &str) -> Value {
    let path = format!("/streamers/{hostname}/history");
    let look = || table(server, &path);
    wait_until("a report in the history", look, |table| {
        !known(table, "cpu").is_empty()
    })
}

/// The history of the cluster as soon as it has samples after the summary was requested.
fn counted(server: &TestServer, field: &str) -> Value {
    let look = || {
        server.get("/cluster/summary").expect(200);
        table(server, "/cluster/history?step=10")
    };
    wait_until("counts in the history", look, |table| {
        !known(table, field).is_empty()
    })
}

fn report(server: &TestServer, hostname: &str, cpu: u64) {
    let body = json!({"stats": {"cpu_usage": cpu}});
    let path = format!("/streamers/{hostname}/stats");
    server.put(&path, body).expect(204);
}

#[test]
fn histories_have_what_was_reported_and_counted() {
    let mut server = cluster();
    let began = table(&server, "/cluster/summary")["at"].as_u64();
    let of_node = reported(&server, "s1");
    for (field, number) in [
        ("cpu", 85),
        ("memory", 10),
        ("input_kbit", 100),
        ("output_kbit", 960),
        ("clients", 9),
    ] {
        assert_eq!(known(&of_node, field), [number], "{field}: {of_node}");
    }
    assert_eq!(
        known(&of_node, "at").first(),
        Some(&of_node["points"][0][0])
    );
    assert_eq!(table(&server, "/streamers/s2/history")["points"], json!([]));
    server.get("/streamers/s3/history").expect(404);

    let of_cluster = counted(&server, "streams_operational");
    let summary = table(&server, "/cluster/summary");
    let (streams, streamers) = (&summary["streams"], &summary["streamers"]);
    for (field, number) in [
        ("streams", &streams["total"]),
        ("streams_operational", &streams["operational"]),
        ("streams_degradated", &streams["degradated"]),
        ("streams_outage", &streams["outage"]),
        ("streams_unplaced", &streams["unplaced"]),
        ("streamers", &streamers["total"]),
        ("streamers_up", &streamers["states"]["up"]),
        ("input_kbit", &summary["traffic"]["input_kbit"]),
        ("output_kbit", &summary["traffic"]["output_kbit"]),
        ("clients", &summary["traffic"]["clients"]),
    ] {
        let last = known(&of_cluster, field).pop();
        assert_eq!(last.as_ref(), Some(number), "{field}: {of_cluster}");
    }
    for field in ["streams_more", "moves_1h"] {
        assert_eq!(known(&of_cluster, field), [""; 0], "the layouter is off");
    }
    let rows = of_cluster["points"].as_array().expect("rows");
    let times: Vec<u64> = rows.iter().filter_map(|row| row[0].as_u64()).collect();
    assert!(times.is_sorted_by(|a, b| a + 10_000 == *b), "{times:?}");
    assert!(times.last().copied() >= began, "{times:?} {began:?}");
    let since = times[times.len() - 1];
    let path = format!("/cluster/history?step=10&since={since}");
    let later = table(&server, &path);
    assert_eq!(later["points"][0][0], since, "{later}");
    let future = table(&server, "/cluster/history?since=9000000000000");
    assert_eq!(future["points"], json!([]));
    for step in [60, 300, 900, 3600] {
        let table = table(&server, &format!("/cluster/history?step={step}&since=0"));
        assert_eq!(
            known(&table, "output_kbit").last(),
            Some(&json!(960)),
            "{table}"
        );
        let rows = table["points"].as_array().map(Vec::len);
        assert!(rows <= Some(2 + 120 / step), "{table}");
    }
    server.restart();
    for path in ["/streamers/s1/history", "/streamers/histories"] {
        assert_eq!(table(&server, path)["points"], json!([]), "{path}");
    }
    let rows = table(&server, "/cluster/history?step=10&since=0");
    let rows = rows["points"].as_array().expect("rows");
    assert!(
        rows.len() <= 2 && rows[0][0].as_u64() >= Some(since),
        "{rows:?}"
    );
}

#[test]
fn deleted_streamer_begins_anew() {
    let server = cluster();
    reported(&server, "s1");
    let node = json!({"role": "streamer", "cluster_key": "k"});
    server.delete("/streamers/s1").expect(204);
    server.get("/streamers/s1/history").expect(404);
    server.put("/streamers/s1", node.clone()).expect(200);
    let look = || table(&server, "/streamers/s1/history");
    let is_empty = |table: &Value| table["points"] == json!([]);
    wait_until("an empty history", look, is_empty);
    // Its last report is still current, and not of the new one.
    let samples = || known(&table(&server, "/cluster/history?step=10"), "streams").len();
    let before = samples();
    wait_until("two more samples", samples, |now| *now > before + 1);
    assert_eq!(look()["points"], json!([]));
    report(&server, "s1", 7);
    let cpu = known(&reported(&server, "s1"), "cpu");
    assert!(cpu.iter().all(|percent| *percent == 7), "{cpu:?}");
}

#[test]
fn histories_of_many_streamers_are_read_by_name_and_in_parts() {
    let server = cluster();
    for host in ["s3", "s4"] {
        let node = json!({"role": "streamer", "cluster_key": "k"});
        server.put(&format!("/streamers/{host}"), node).expect(200);
    }
    report(&server, "s3", 40);
    reported(&server, "s3");
    reported(&server, "s1");
    let get = |query: &str| table(&server, &format!("/streamers/histories?{query}"));
    let fields = |table: &Value| table["fields"].clone();
    let all = get("");
    assert_eq!(fields(&all), json!(["at", "s1", "s2", "s3", "s4"]));
    for (host, percent) in [("s1", Some(85)), ("s2", None), ("s3", Some(40))] {
        let last = known(&all, host).pop();
        assert_eq!(last, percent.map(Value::from), "{host}: {all}");
    }
    assert_eq!(all["next"], Value::Null);
    let page = get("limit=3");
    assert_eq!(fields(&page), json!(["at", "s1", "s2", "s3"]));
    assert_eq!(page["next"], "s3");
    let rest = get("limit=3&after=s3");
    assert_eq!(fields(&rest), json!(["at", "s4"]));
    assert_eq!((&rest["points"], &rest["next"]), (&json!([]), &Value::Null));
    let named = get("hostname=s3,s9,s1,s3&hostname=s2&field=output_kbit&step=60");
    assert_eq!(fields(&named), json!(["at", "s3", "s1", "s2"]));
    assert_eq!(known(&named, "s1"), [960]);
    assert_eq!(known(&named, "s3"), [""; 0], "it did not report that");
    let points = get("points=1")["points"].as_array().map(Vec::len);
    assert!(points <= Some(1), "{points:?}");
    assert_eq!(fields(&get("hostname=s9")), json!(["at"]));
}

#[test]
fn parameters_of_histories_are_bounded() {
    let server = TestServer::new();
    let node = json!({"role": "streamer", "cluster_key": "k"});
    server.put("/streamers/s1", node).expect(200);
    let many = vec!["s1"; 251].join(",");
    for (path, name) in [
        ("/cluster/history?step=7", "step"),
        ("/cluster/history?step=30", "step"),
        ("/cluster/history?step=", "step"),
        ("/cluster/history?since=1795888320", "since"),
        ("/cluster/history?since=x", "since"),
        ("/streamers/s1/history?step=10", "step"),
        ("/streamers/s1/history?since=-1", "since"),
        ("/streamers/histories?field=at", "field"),
        ("/streamers/histories?points=0", "points"),
        ("/streamers/histories?points=61", "points"),
        ("/streamers/histories?limit=251", "limit"),
        ("/streamers/histories?step=300", "step"),
        (&format!("/streamers/histories?hostname={many}"), "hostname"),
    ] {
        let refused = server.get(path).expect(400).json();
        let parameter = &refused["errors"][0]["source"]["parameter"];
        assert_eq!(parameter, name, "{path}: {refused}");
    }
    let strict = [("Prefer", "handling=strict")];
    for path in [
        "/cluster/history?points=1",
        "/streamers/s1/history?field=cpu",
        "/streamers/histories?since=0",
    ] {
        let refused = server
            .call_with("GET", path, &strict, b"")
            .expect(400)
            .json();
        let code = &refused["errors"][0]["code"];
        assert_eq!(code, "unknown_parameter", "{path}: {refused}");
    }
    let hostname = json!({"role": "streamer", "cluster_key": "k"});
    server
        .put("/streamers/histories", hostname.clone())
        .expect(405);
    let mut batch = json!([hostname]);
    batch[0]["hostname"] = json!("histories");
    server.put("/streamers/batch", batch).expect(400);
    server
        .put("/streams/live%2Fhistories", json!({}))
        .expect(200);
}

#[test]
fn token_gets_the_history_of_what_it_may_read() {
    let server = cluster();
    reported(&server, "s1");
    let with = |name: &str, permissions: Value| {
        token(&server, name, json!({ "permissions": permissions }))
    };
    let read = |scope: &str| json!({"scopes": [scope], "read": true, "list": true});
    let s2 = with("s2", json!([read("streamers/s2")]));
    let cluster = with("cluster", json!([read("cluster")]));
    let all = with("all", json!([read("*")]));
    for (path, token, status) in [
        ("/cluster/history", &s2, 403),
        ("/cluster/history", &cluster, 200),
        ("/streamers/s1/history", &s2, 403),
        ("/streamers/s2/history", &s2, 200),
        ("/streamers/s1/history", &all, 200),
        ("/streamers/histories", &cluster, 403),
    ] {
        server.call_as("GET", path, Some(token)).expect(status);
    }
    for (query, token, expected) in [
        ("", &s2, json!(["at", "s2"])),
        ("?hostname=s1,s2", &s2, json!(["at", "s2"])),
        ("?after=s1", &s2, json!(["at", "s2"])),
        ("?limit=1", &s2, json!(["at", "s2"])),
        ("", &all, json!(["at", "s1", "s2"])),
    ] {
        let path = format!("/streamers/histories{query}");
        let table = server.call_as("GET", &path, Some(token)).expect(200).json();
        assert_eq!(table["fields"], expected, "{query}: {table}");
        assert_eq!(table["next"], Value::Null, "{query}: {table}");
    }
}

#[test]
fn history_has_the_work_of_the_layouter_and_the_free_capacity() {
    let server = server(&[]);
    let mut fleet = fleet_of(&server, &["s1", "s2"]);
    save_streams(&server, 0..6);
    fleet.until(|fleet| fleet.has("s1") == 3 && fleet.has("s2") == 3);
    let look = || {
        let summary = table(&server, "/cluster/summary");
        (table(&server, "/cluster/history?step=10"), summary)
    };
    let is_settled = |(table, summary): &(Value, Value)| {
        let more = &summary["capacity"]["streams_more"];
        known(table, "streams_more").last() == Some(more)
            && known(table, "moves_1h").last() == Some(&json!(6))
    };
    wait_until("capacity and moves in the history", look, is_settled);
    let read = |scope: &str| json!({"scopes": [scope], "read": true});
    for (name, scopes, sees) in [
        ("cluster", vec!["cluster"], false),
        ("layouter", vec!["cluster", "layouter"], true),
    ] {
        let permissions: Vec<Value> = scopes.into_iter().map(read).collect();
        let token = token(&server, name, json!({ "permissions": permissions }));
        let seen = server.call_as("GET", "/cluster/history", Some(&token));
        let seen = seen.expect(200).json();
        assert_eq!(known(&seen, "moves_1h").is_empty(), !sees, "{seen}");
        assert!(!known(&seen, "streams_more").is_empty(), "{seen}");
    }
}
