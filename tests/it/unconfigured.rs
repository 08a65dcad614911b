//! Streams that streamers report and the server has no configuration of.

use serde_json::{Value, json};

use crate::calls::{keys, names};
use crate::connector;
use crate::metrics::Metrics;
use crate::restricted::token;
use weir_testkit::{TestServer, wait_until};

const LIST: &str = "/streams?named_by=remote";

fn report(server: &TestServer, host: &str, streams: &[&str]) {
    let streams: Vec<Value> = streams
        .iter()
        .map(|name| json!({"name": name, "status": "running", "bitrate": 500}))
        .collect();
    let body = json!({"streams": streams});
    server
        .put(&format!("/streamers/{host}/stats"), body)
        .expect(204);
}

fn cluster(more: &[&str]) -> TestServer {
    let server = TestServer::with(more);
    for host in ["s1", "s2"] {
        let body = json!({"role": "streamer", "cluster_key": format!("key-{host}")});
        server.put(&format!("/streamers/{host}"), body).expect(200);
    }
    connector::save_stream(&server, "cam/configured", "s1");
    server
}

fn listed(server: &TestServer) -> Vec<String> {
    names(&server.get(LIST).expect(200).json())
}

#[test]
fn they_are_in_a_list_of_their_own() {
    // Goal: what runs without a configuration is seen, found by its fields, and changes nothing
    // about the streams of the cluster.
    let server = cluster(&[]);
    assert_eq!(server.get(LIST).expect(200).json()["streams"], json!([]));
    let before = server.get("/streamers/s1/streams").expect(200).json();
    report(&server, "s1", &["cam/configured", "local/b", "local/a"]);
    report(&server, "s2", &["local/b", "pub lic"]);
    let list = server.get(LIST).expect(200).json();
    assert_eq!(names(&list), ["local/a", "local/b", "pub lic"]);
    assert_eq!(list["estimated_count"], 3);
    let both = json!({
        "name": "local/b", "named_by": "remote",
        "stats": {"bitrate": 500, "running_on": ["s1", "s2"], "status": "running"},
    });
    assert_eq!(list["streams"][1], both);
    for (query, expected) in [
        ("sort=-name&limit=2", vec!["pub lic", "local/b"]),
        ("stats.running_on=s2", vec!["local/b", "pub lic"]),
        ("stats.status=error", vec![]),
        ("name_like=local", vec!["local/a", "local/b"]),
        ("name=local/b", vec!["local/b"]),
        ("name=cam/configured", vec![]),
        ("q=PUB", vec!["pub lic"]),
        (
            "stats.bitrate_gte=500&sort=stats.bitrate,name",
            vec!["local/a", "local/b", "pub lic"],
        ),
        ("title_is=null&limit=1", vec!["local/a"]),
        ("stats_is=null", vec![]),
    ] {
        let list = server
            .get(&format!("{LIST}&select=name&{query}"))
            .expect(200);
        assert_eq!(names(&list.json()), expected, "{query}");
    }
    let page = server.get(&format!("{LIST}&limit=1")).expect(200).json();
    let next = page["next"].as_str().expect("there is more");
    let next = weir_testkit::encode_segment(next);
    let page = server
        .get(&format!("{LIST}&limit=1&cursor={next}"))
        .expect(200)
        .json();
    assert_eq!(names(&page), ["local/b"]);

    for query in ["", "?named_by=config", "?named_by=config,remote"] {
        let list = server.get(&format!("/streams{query}")).expect(200).json();
        assert_eq!(names(&list), ["cam/configured"], "{query}");
    }
    server.get("/streams/local%2Fa").expect(404);
    let after = server.get("/streamers/s1/streams").expect(200).json();
    assert_eq!(names(&after), ["cam/configured"]);
    assert_eq!(after["updated_at"], before["updated_at"], "nothing is sent");
    let counts = server.get("/cluster/stats").expect(200).json();
    assert_eq!(counts["stream_metrics_total"]["total"], 1, "{counts}");
    let errors = server
        .get(&format!("{LIST}&poll_timeout=5"))
        .expect(400)
        .errors();
    assert_eq!(errors, ["wrong_format poll_timeout"]);
    server.get(&format!("{LIST}&poll_timeout=0")).expect(200);
}

#[test]
fn they_are_gone_when_nothing_reports_them() {
    let server = cluster(&[]);
    report(&server, "s1", &["a", "b", "c"]);
    report(&server, "s2", &["b", "d"]);
    // A report that does not list one.
    report(&server, "s1", &["a", "b"]);
    assert_eq!(listed(&server), ["a", "b", "d"]);
    // A report without streams about the rest of the node.
    let rest = json!({"stats": {"cpu_usage": 5}});
    server.put("/streamers/s1/stats", rest).expect(204);
    assert_eq!(listed(&server), ["a", "b", "d"]);
    // One is configured now, and its stats are known at once.
    connector::save_stream(&server, "a", "s1");
    assert_eq!(listed(&server), ["b", "d"]);
    assert_eq!(connector::stats(&server, "/streams/a")["status"], "running");
    // It is deleted and still runs.
    server.delete("/streams/a").expect(204);
    report(&server, "s1", &["a", "b"]);
    assert_eq!(listed(&server), ["a", "b", "d"]);
    // A streamer is deleted.
    server.delete("/streamers/s2").expect(204);
    assert_eq!(listed(&server), ["a", "b"]);
    server.delete("/streamers/s1").expect(204);
    assert_eq!(listed(&server), [""; 0]);
}

#[test]
fn token_sees_those_in_its_scope() {
    let server = cluster(&[]);
    report(&server, "s1", &["mine/a", "other/a"]);
    let permissions = json!([{"scopes": ["streams/mine/*"], "list": true, "read": true}]);
    let token = token(&server, "t", json!({"permissions": permissions}));
    let list = server.call_as("GET", LIST, Some(&token)).expect(200).json();
    assert_eq!(keys(&list, "streams", "name"), ["mine/a"]);
    assert_eq!(list["estimated_count"], 1);
    let path = format!("{LIST}&name=other/a");
    let list = server
        .call_as("GET", &path, Some(&token))
        .expect(200)
        .json();
    assert_eq!(keys(&list, "streams", "name"), [""; 0]);
}

#[test]
fn they_are_known_again_after_the_next_report() {
    let mut server = cluster(&["--layouter-enabled=true"]);
    report(&server, "s1", &["local"]);
    assert_eq!(listed(&server), ["local"]);
    server.restart();
    assert_eq!(listed(&server), [""; 0]);
    report(&server, "s1", &["local"]);
    assert_eq!(listed(&server), ["local"]);
}

#[test]
fn streamers_that_are_asked_have_them_too() {
    let server = connector::server(&[]);
    let streamer = connector::fake();
    for name in ["known", "local"] {
        streamer.kind().run(name, 700);
    }
    connector::save(&server, "s1", &streamer.url());
    connector::save_stream(&server, "known", "s1");
    let found = wait_until("the list", || listed(&server), |names| !names.is_empty());
    assert_eq!(found, ["local"]);
    streamer.kind().streams.remove("local");
    wait_until("the list", || listed(&server), Vec::is_empty);
}

#[test]
fn more_than_fit_are_counted() {
    // Goal: a streamer that lists more than are kept keeps the first ones by name, at any order of
    // its report, and shows that there are others.
    let server = cluster(&[]);
    let names: Vec<String> = (0..10_050).rev().map(|i| format!("n{i:05}")).collect();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    report(&server, "s1", &names);
    let count = |state| {
        let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
        let labels = [("state", state)];
        Metrics::read(&answer).value("weir_unconfigured_streams", &labels) as u64
    };
    assert_eq!((count("kept"), count("left_out")), (10_000, 50));
    let list = server
        .get(&format!("{LIST}&limit=1&sort=-name"))
        .expect(200)
        .json();
    assert_eq!(list["streams"][0]["name"], "n09999");
    report(&server, "s1", &["n00001"]);
    assert_eq!((count("kept"), count("left_out")), (1, 0));
}
