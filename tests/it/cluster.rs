//! Statistics of the cluster, as JSON and as metrics.
#![allow(clippy::float_cmp)] // counts and whole percents, exact in a double

use serde_json::{Value, json};

use crate::calls::{body_text, etag, keys, names, park};
use crate::metrics::{Metrics, check_with_client_library};
use crate::restricted::token;
use weir_testkit::{TestServer, wait_until};

pub const HEALTHS: [&str; 5] = [
    "operational",
    "degradated",
    "partial_outage",
    "outage",
    "disabled",
];

/// The number of streams that match a query.
pub fn count(server: &TestServer, query: &str) -> Value {
    let list = server.get(&format!("/streams?{query}&limit=1")).expect(200);
    list.json()["estimated_count"].take()
}

pub fn cluster() -> TestServer {
    let server = TestServer::with(&["--streamer-dead-timeout", "10m"]);
    for (host, bandwidth) in [("s1", 1000), ("s2", 1000)] {
        let node = json!({"role": "streamer", "cluster_key": "k", "total_bandwidth": bandwidth});
        server.put(&format!("/streamers/{host}"), node).expect(200);
    }
    for (name, host, disabled, permanent) in [
        ("runs", Some("s1"), false, true),
        ("weak", Some("s1"), false, true),
        ("broken", Some("s1"), false, true),
        ("off", Some("s1"), true, true),
        ("idle", Some("s1"), false, false),
        ("lost", Some("s2"), false, true),
        ("nowhere", None, false, true),
    ] {
        let mut body = json!({
            "inputs": [{"url": "udp://239.0.0.1:1234"}], "disabled": disabled, "static": permanent,
        });
        if let Some(host) = host {
            body["layout"] = json!({"ingest": host});
        }
        server.put(&format!("/streams/{name}"), body).expect(200);
    }
    let report = json!({
        "stats": {
            "cpu_usage": 85, "memory_usage": 10, "input_kbit": 100, "output_kbit": 960,
            "uptime": 77, "started_at": 1_700_000_000,
            "server_version": "24.11", "build": 5, "online_streams": 2, "total_clients": 9,
            "partitions": [
                {"device": "sda1", "path": "/a \"b\"", "usage": 50, "total_mb": 7},
                {"device": "sdb1", "path": "/b", "usage": 60},
            ],
        },
        "streams": [
            {"name": "runs", "status": "running", "alive": true},
            {"name": "weak", "status": "running", "alive": false},
            {"name": "broken", "status": "error"},
        ],
    });
    server.put("/streamers/s1/stats", report).expect(204);
    server.put("/agents/cam1", json!({})).json();
    server
}

#[test]
fn streams_and_streamers_are_counted_by_state() {
    let server = cluster();
    let stats = server.get("/cluster/stats").expect(200).json();
    assert_eq!(
        stats["stream_metrics_total"],
        json!({
            "operational": 2, "degradated": 1, "partial_outage": 0, "outage": 3, "disabled": 1,
            "total": 7,
        })
    );
    assert_eq!(
        stats["streamer_metrics_total"],
        json!({
            "operational": 0, "degradated": 0, "partial_outage": 1, "outage": 1, "disabled": 0,
            "total": 2,
        })
    );
    assert_eq!(
        stats["streamer_bitrate_metrics_total"],
        json!({"input_kbit": 100, "output_kbit": 960})
    );
    let s1 = &stats["streamer_metrics"][0];
    assert_eq!(s1["hostname"], "s1");
    assert_eq!(s1["cpu"], json!({"status": "degradated", "usage": 85}));
    assert_eq!(s1["memory"], json!({"status": "operational", "usage": 10}));
    assert_eq!(s1["storage"], json!({"status": "operational", "usage": 60}));
    assert_eq!(
        s1["network"]["out_kbit"],
        json!({"status": "partial_outage", "usage": 960})
    );
    assert_eq!(
        (&s1["status"], &s1["uptime"]),
        (&json!("partial_outage"), &json!(77))
    );
    assert_eq!(
        s1["stream_metrics"],
        json!({
            "operational": 2, "degradated": 1, "partial_outage": 0, "outage": 1, "disabled": 1,
            "total": 5, "status": "partial_outage",
        })
    );
    let s2 = &stats["streamer_metrics"][1];
    assert_eq!((&s2["status"], s2.get("cpu")), (&json!("outage"), None));
    assert_eq!(s2["stream_metrics"]["outage"], 1);
    let config = server.get("/config").expect(200).json();
    assert_eq!(stats["server_id"], config["server_id"]);
    let text = stats.to_string();
    let value = weir::testing::json::parse(text.as_bytes()).expect("JSON");
    weir::testing::schema::cluster_stats()
        .check(&value)
        .expect("a document of the schema");
}

#[test]
fn callers_of_one_moment_all_get_their_form_of_the_counts() {
    // Goal: counts are shared by all callers and still right for each. Method: many callers at
    // once, of each form and coding, while streams are saved; then one reads what was saved last.
    let server = cluster();
    let forms: [(&str, &[(&str, &str)]); 4] = [
        ("/cluster/stats", &[]),
        ("/cluster/stats", &[("Accept-Encoding", "gzip")]),
        ("/cluster/stats", &[("Accept-Encoding", "zstd")]),
        ("/cluster/stats?format=openmetrics", &[]),
    ];
    std::thread::scope(|scope| {
        for caller in 0..12 {
            let (path, headers) = forms[caller % forms.len()];
            let server = &server;
            scope.spawn(move || {
                for _ in 0..10 {
                    let answer = server.call_with("GET", path, headers, b"").expect(200);
                    match headers.first() {
                        Some((_, coding)) => {
                            assert_eq!(answer.header("content-encoding"), Some(*coding));
                        }
                        None if path.contains('?') => {
                            assert!(answer.text().ends_with("# EOF\n"), "{}", answer.text());
                        }
                        None => {
                            let counts = &answer.json()["stream_metrics_total"];
                            assert!(counts["total"].as_u64() >= Some(7), "{counts}");
                        }
                    }
                }
            });
        }
        for n in 0..20 {
            let body = json!({"inputs": [{"url": "udp://239.0.0.1:1234"}]});
            server.put(&format!("/streams/more{n}"), body).expect(200);
            let stats = server.get("/cluster/stats").expect(200).json();
            let total = &stats["stream_metrics_total"]["total"];
            assert_eq!(*total, json!(8 + n), "the count began after the save");
        }
    });
}

#[test]
fn list_of_a_health_has_the_counted_streams() {
    // Goal: a number of the statistics is the length of the list of its streams. Method: each
    // number against the count of the list with the filter, before and after a restart.
    let mut server = cluster();
    let agree = |server: &TestServer| {
        let stats = server.get("/cluster/stats").expect(200).json();
        for health in HEALTHS {
            let query = format!("health={health}");
            let total = &stats["stream_metrics_total"][health];
            assert_eq!(&count(server, &query), total, "{health}");
            for node in stats["streamer_metrics"].as_array().expect("streamers") {
                let host = node["hostname"].as_str().expect("a name");
                let of_node = count(server, &format!("{query}&layout.ingest={host}"));
                assert_eq!(
                    of_node, node["stream_metrics"][health],
                    "{health} on {host}"
                );
            }
        }
    };
    agree(&server);
    // Streamers are counted likewise.
    let stats = server.get("/cluster/stats").expect(200).json();
    for health in HEALTHS {
        let path = format!("/streamers?health={health}&limit=1");
        let found = server.get(&path).expect(200).json()["estimated_count"].take();
        assert_eq!(found, stats["streamer_metrics_total"][health], "{health}");
    }
    let list = server
        .get("/streamers?sort=-health&select=health")
        .expect(200)
        .json();
    let healths = keys(&list, "streamers", "health");
    assert_eq!(healths, ["partial_outage", "outage"]);
    let one = server.get("/streamers/s1").expect(200).json();
    assert_eq!(one["health"], "partial_outage");
    let list = |server: &TestServer, query: &str| {
        names(
            &server
                .get(&format!("/streams?select=name&{query}"))
                .expect(200)
                .json(),
        )
    };
    assert_eq!(
        list(&server, "health=outage"),
        ["broken", "lost", "nowhere"]
    );
    assert_eq!(list(&server, "health=degradated,disabled"), ["off", "weak"]);
    assert_eq!(
        list(&server, "sort=health,-name"),
        ["weak", "off", "runs", "idle", "nowhere", "lost", "broken"]
    );
    assert_eq!(list(&server, "placed=false"), ["nowhere"]);
    assert_eq!(
        list(&server, "placed=false&health_ne=disabled"),
        ["nowhere"]
    );
    for (name, health, placed) in [("nowhere", "outage", false), ("weak", "degradated", true)] {
        let path = format!("/streams?select=health,placed&name={name}");
        let shown = server.get(&path).expect(200).json()["streams"][0].take();
        let found = (&shown["health"], &shown["placed"], shown.get("title"));
        assert_eq!(found, (&json!(health), &json!(placed), None), "{name}");
    }
    // Until the streamers have reported again nothing is known to run.
    server.restart();
    agree(&server);
    assert_eq!(list(&server, "health=operational"), [""; 0]);
    assert_eq!(list(&server, "health=disabled"), ["off"]);
}

#[test]
fn health_moves_with_reports_and_saves_stay_possible() {
    // Goal: the health of one stream is that of its list, and its tag still names what is stored.
    // Method: a report between reading the stream and saving it with `If-Match`.
    let server = cluster();
    let before = server.get("/streams/runs").expect(200);
    let shown = before.json();
    assert_eq!(
        (&shown["health"], &shown["placed"]),
        (&json!("operational"), &json!(true))
    );
    let report = json!({"streams": [{"name": "runs", "status": "error"}]});
    server.put("/streamers/s1/stats", report).expect(204);
    let after = server.get("/streams/runs").expect(200);
    let shown_after = after.json();
    assert_eq!(shown_after["health"], "outage");
    assert_eq!(
        shown_after["updated_at"], shown["updated_at"],
        "nothing stored has changed"
    );
    assert_ne!(etag(&after), etag(&before), "another body");
    let known = [("If-None-Match", etag(&before))];
    let known = known
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    server
        .call_with("GET", "/streams/runs", &known, b"")
        .expect(200);
    let tag = etag(&before);
    let fields = [("If-Match", tag.as_str())];
    let title = body_text(&json!({"title": "t"}));
    let saved = server.call_with("PUT", "/streams/runs", &fields, title.as_bytes());
    assert_eq!(saved.expect(200).json()["health"], "outage");
    server
        .call_with("PUT", "/streams/runs", &fields, title.as_bytes())
        .expect(412);
    // What is shown can be sent back.
    let mut sent = server.get("/streams/nowhere").expect(200).json();
    sent["health"] = json!("operational");
    sent["placed"] = json!(true);
    let saved = server.put("/streams/nowhere", sent).expect(200).json();
    assert_eq!(
        (&saved["health"], &saved["placed"]),
        (&json!("outage"), &json!(false))
    );
    // A save moves it, too.
    server
        .put("/streams/nowhere", json!({"disabled": true}))
        .expect(200);
    assert_eq!(count(&server, "health=disabled"), 2);
    server
        .put(
            "/streams/batch",
            json!([{"name": "runs", "disabled": true}]),
        )
        .expect(204);
    assert_eq!(count(&server, "health=disabled"), 3);
}

#[test]
fn list_that_waits_for_a_health_is_woken() {
    let server = cluster();
    let path = "/streams?health=outage&name=runs,weak&poll_timeout=50&select=name";
    for (name, change) in [("runs", "report"), ("weak", "save")] {
        let mut waiting = park(&server, path, "");
        if change == "report" {
            let report = json!({"streams": [
                {"name": "runs", "status": "error"}, {"name": "weak", "status": "running"},
            ]});
            server.put("/streamers/s1/stats", report).expect(204);
        } else {
            server
                .put("/streams/weak", json!({"disabled": false}))
                .expect(200);
        }
        let list = waiting.response(false).expect(200).json();
        assert_eq!(names(&list), [name], "{change}");
        server
            .put("/streams/weak", json!({"disabled": true}))
            .expect(200);
        let report = json!({"streams": [{"name": "runs", "status": "running"}]});
        server.put("/streamers/s1/stats", report).expect(204);
    }
}

#[test]
fn restricted_token_counts_its_own_streams_by_health() {
    let server = cluster();
    let permissions = ["streams/los*", "streams/we*"]
        .map(|scope| json!({"scopes": [scope], "read": true, "list": true}));
    let body = json!({"permissions": permissions});
    let as_token = token(&server, "t", body);
    for (health, expected) in HEALTHS.into_iter().zip([0, 1, 0, 1, 0]) {
        let path = format!("/streams?health={health}&limit=1");
        let list = server
            .call_as("GET", &path, Some(&as_token))
            .expect(200)
            .json();
        assert_eq!(list["estimated_count"], expected, "{health}");
    }
}

#[test]
fn cluster_stats_and_metrics_agree() {
    let server = cluster();
    let metrics = Metrics::read(&server.get("/cluster/stats?format=openmetrics").expect(200));
    assert_eq!(metrics.value("stream_operational_count", &[]), 2.0);
    assert_eq!(metrics.value("stream_total_count", &[]), 7.0);
    assert_eq!(metrics.value("streamer_outage_count", &[]), 1.0);
    assert_eq!(metrics.value("streamer_outbound_kbit_total", &[]), 960.0);
    assert_eq!(metrics.value("cpu_usage", &[("hostname", "s1")]), 85.0);
    assert_eq!(
        metrics.count("cpu_usage"),
        1,
        "nothing is known of the silent one"
    );
    assert_eq!(
        metrics.value("network_usage_out", &[("hostname", "s1")]),
        960.0
    );
    assert_eq!(
        metrics.value(
            "partition_usage",
            &[("device", "sda1"), ("path", "/a \\\"b\\\"")]
        ),
        50.0
    );
    assert_eq!(
        metrics.value("server_started_at", &[("version", "24.11"), ("build", "5")]),
        1_700_000_000.0
    );
    assert_eq!(metrics.value("weir_entities", &[("kind", "stream")]), 7.0);
    assert!(metrics.value("weir_writer_commands_total", &[]) >= 9.0);
    assert_eq!(
        metrics.value("weir_writer_commit_seconds_count", &[]),
        metrics.value("weir_writer_batches_total", &[])
    );
    assert!(metrics.value("weir_store_bytes", &[]) > 0.0);
    assert!(metrics.value("process_resident_memory_bytes", &[]) > 1e6);
    assert_eq!(metrics.value("weir_store_writable", &[]), 1.0);
    // The tables follow the log.
    let applied = || {
        let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
        let metrics = Metrics::read(&answer);
        let value = |name| metrics.value(name, &[]);
        (value("weir_store_applied_revision"), value("weir_revision"))
    };
    wait_until("an applied log", applied, |(applied, all)| applied == all);

    let accept = [(
        "Accept",
        "application/openmetrics-text; version=1.0.0,text/plain;q=0.5",
    )];
    let negotiated = server
        .call_with("GET", "/cluster/stats", &accept, b"")
        .expect(200);
    let negotiated = Metrics::read(&negotiated);
    assert!(
        negotiated.value("weir_http_responses_total", &[("class", "2xx")])
            > metrics.value("weir_http_responses_total", &[("class", "2xx")])
    );
    let refused = metrics.value("weir_http_responses_total", &[("class", "4xx")]);
    server.get("/streams/missing").expect(404);
    server.call_as("GET", "/streams", None).expect(401);
    let after = Metrics::read(&server.get("/cluster/stats?format=openmetrics").expect(200));
    assert_eq!(
        after.value("weir_http_responses_total", &[("class", "4xx")]),
        refused + 2.0
    );
    let errors = server.get("/cluster/stats?format=xml").expect(400).errors();
    assert_eq!(errors, ["unknown_enum_option format"]);
    let json = [("Accept", "application/json")];
    let answer = server
        .call_with("GET", "/cluster/stats", &json, b"")
        .expect(200);
    assert!(answer.json()["collected_at"].as_u64() > Some(1_000_000_000_000));
}

#[test]
fn client_library_parses_the_metrics() {
    let server = cluster();
    for path in ["/cluster/stats", "/config"] {
        let answer = server.get(&format!("{path}?format=openmetrics"));
        check_with_client_library(&answer.expect(200));
    }
}

#[test]
fn parked_polls_are_counted() {
    let server = TestServer::new();
    let parked = || {
        let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
        Metrics::read(&answer).value("weir_polls_parked", &[])
    };
    assert_eq!(parked(), 0.0);
    let mut client = server.connect();
    let bearer = format!("Bearer {}", weir_testkit::API_KEY);
    let fields = [("Authorization", bearer.as_str())];
    client.send_request(
        "GET",
        "/central/api/v3/streams?poll_timeout=50",
        &fields,
        b"",
    );
    wait_until("a parked poll", parked, |count| *count == 1.0);
    server
        .put(
            "/streams/a",
            json!({"inputs": [{"url": "udp://239.0.0.1:1234"}]}),
        )
        .expect(200);
    let answer = client.response(false).expect(200).json();
    assert_eq!(answer["streams"].as_array().map(Vec::len), Some(1));
    wait_until("no parked poll", parked, |count| *count == 0.0);
    assert_ne!(answer["streams"][0], Value::Null);
}
