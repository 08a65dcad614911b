//! Reports of streamers: where they are shown, and which callers may report.

use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use crate::calls::keys;
use weir_testkit::{TestServer, encode_segment, wait_until};

/// Two streamers, one stream on each and one on none.
fn cluster() -> TestServer {
    let server = TestServer::new();
    for host in ["s1", "s2"] {
        let node = json!({"role": "streamer", "cluster_key": format!("key-{host}")});
        server.put(&format!("/streamers/{host}"), node).expect(200);
    }
    for (name, host) in [("a", Some("s1")), ("b", Some("s2")), ("c", None)] {
        let mut body = json!({"inputs": [{"url": "udp://239.0.0.1:1234"}]});
        if let Some(host) = host {
            body["layout"] = json!({"ingest": host});
        }
        server.put(&format!("/streams/{name}"), body).expect(200);
    }
    server
}

/// `Authorization` of a streamer with this key, now.
pub fn signed(key: &str) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("it is after 1970")
        .as_secs();
    let digest = Sha1::digest(format!("{now}:{key}"));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("Cluster {now}:{hex}")
}

#[test]
fn a_report_is_shown_on_the_streamer_and_on_its_streams() {
    let server = cluster();
    let streamer = server.get("/streamers/s1").expect(200).json();
    assert_eq!(streamer["stats"], Value::Null);
    assert!(streamer.get("dvrs").is_none());
    assert!(
        server
            .get("/streams/a")
            .expect(200)
            .json()
            .get("stats")
            .is_none()
    );
    let report = json!({
        "stats": {
            "cpu_usage": 48, "license_txt": "canary-license", "server_version": "24.11",
            "transcoder": true, "nonsense": 1,
        },
        "dvrs": [
            {"name": "main", "root": "/storage"},
            {"name": "cloud", "root": "s3://user:canary-pass@host/bucket"},
        ],
        "streams": [
            {
                "name": "a", "status": "running", "alive": true, "bitrate": 2543,
                "online_clients": 3, "bytes_out": 7, "last_dts_at": 1_700_000_000_000_u64,
            },
            {"name": "never configured", "bitrate": 1},
        ],
    });
    server.put("/streamers/s1/stats", report).expect(204);
    server
        .put(
            "/streamers/s2/stats",
            json!({
                "streams": [
                    {"name": "b", "status": "error", "bitrate": 90},
                    {"name": "a", "online_clients": 4, "status": "running"},
                ],
            }),
        )
        .expect(204);

    let mut streamer = server.get("/streamers/s1").expect(200).json();
    let stats = streamer["stats"].as_object_mut().expect("stats");
    let check = stats.remove("healthcheck_status").expect("is made here");
    assert_eq!(check["status"], "ok");
    assert_eq!(
        streamer["stats"],
        json!({
            "cpu_usage": 48, "license_txt": "canary-license", "server_version": "24.11",
            "transcoder": true,
        })
    );
    assert_eq!(
        streamer["dvrs"][0],
        json!({"name": "main", "root": "/storage"})
    );
    let list = server.get("/streamers?select=stats,dvrs").expect(200);
    assert!(!list.text().contains("canary"), "{}", list.text());
    let list = list.json();
    assert_eq!(list["streamers"][0]["stats"]["license_txt"], "***");
    assert_eq!(
        list["streamers"][1],
        json!({"hostname": "s2", "stats": null, "dvrs": null})
    );

    // The values of the ingest node are shown; viewers are summed over all nodes.
    let stream = server.get("/streams/a").expect(200).json();
    assert_eq!(
        stream["stats"],
        json!({
            "status": "running", "alive": true, "bitrate": 2543, "online_clients": 7,
            "bytes_out": 7,
            "last_dts_at": 1_700_000_000_000_u64, "running_on": ["s1", "s2"],
        })
    );
    for (query, expected) in [
        ("sort=-stats.bitrate", vec!["a", "b", "c"]),
        ("sort=stats.bitrate", vec!["c", "b", "a"]),
        ("stats.bitrate_gt=90", vec!["a"]),
        ("stats.bitrate_lte=90", vec!["b"]),
        ("stats.status=error", vec!["b"]),
        ("stats.alive=true", vec!["a"]),
        ("stats_is=null", vec!["c"]),
        ("stats.running_on=s2", vec!["a"]),
        ("stats.online_clients_gte=7", vec!["a"]),
    ] {
        let list = server
            .get(&format!("/streams?select=name&{query}"))
            .expect(200);
        assert_eq!(keys(&list.json(), "streams", "name"), expected, "{query}");
    }
    let list = server.get("/streamers?stats.cpu_usage_gt=40&select=stats.cpu_usage");
    assert_eq!(
        list.expect(200).json()["streamers"],
        json!([{"hostname": "s1", "stats": {"cpu_usage": 48}}])
    );

    // Streams missing from a report have stopped; members missing from it stay.
    server
        .put("/streamers/s1/stats", json!({"streams": []}))
        .expect(204);
    let stream = server.get("/streams/a").expect(200).json();
    assert_eq!(stream["stats"]["online_clients"], 4);
    assert_eq!(stream["stats"]["running_on"], json!(["s2"]));
    let streamer = server.get("/streamers/s1").expect(200).json();
    assert_eq!(streamer["stats"]["cpu_usage"], 48);
}

#[test]
fn storages_are_the_union_of_all_streamers() {
    let server = cluster();
    let empty = server.get("/dvrs").expect(200).json();
    assert_eq!(
        (&empty["dvrs"], &empty["estimated_count"]),
        (&json!([]), &json!(0))
    );
    for (host, dvrs) in [("s1", ["d1", "d3"]), ("s2", ["d2", "d3"])] {
        let dvrs: Vec<Value> = dvrs.iter().map(|name| json!({"name": name})).collect();
        server
            .put(&format!("/streamers/{host}/stats"), json!({"dvrs": dvrs}))
            .expect(204);
    }
    let list = server.get("/dvrs").expect(200).json();
    assert_eq!(keys(&list, "dvrs", "name"), ["d1", "d2", "d3"]);
    let list = server.get("/dvrs?sort=-name&limit=2").expect(200).json();
    assert_eq!(keys(&list, "dvrs", "name"), ["d3", "d2"]);
    let next = list["next"].as_str().expect("there is more");
    let next = encode_segment(next);
    let page = format!("/dvrs?sort=-name&limit=2&cursor={next}");
    let list = server.get(&page).expect(200).json();
    assert_eq!(keys(&list, "dvrs", "name"), ["d1"]);
    assert_eq!(list["next"], Value::Null);
    let list = server
        .get("/dvrs?name_like=2&select=name")
        .expect(200)
        .json();
    assert_eq!(keys(&list, "dvrs", "name"), ["d2"]);
    server.delete("/streamers/s2").expect(204);
    let list = server.get("/dvrs").expect(200).json();
    assert_eq!(keys(&list, "dvrs", "name"), ["d1", "d3"]);
    let errors = server.get("/dvrs?limit=0").expect(400).errors();
    assert_eq!(errors, ["input_out_of_range limit"]);
}

#[test]
fn a_streamer_reports_for_itself_only() {
    let server = cluster();
    let report = |authorization: &str| {
        let mut client = server.connect();
        let fields = [("Authorization", authorization)];
        let path = "/central/api/v3/streamers/s1/stats";
        client.request("PUT", path, &fields, br#"{"stats":{"cpu_usage":5}}"#)
    };
    report(&signed("key-s2")).expect(403);
    report("Bearer wrong").expect(401);
    let streamer = server.get("/streamers/s1").expect(200).json();
    assert_eq!(streamer["stats"], Value::Null);
    report(&signed("key-s1")).expect(204);
    let streamer = server.get("/streamers/s1").expect(200).json();
    assert_eq!(streamer["stats"]["cpu_usage"], 5);
    let errors = server
        .put("/streamers/nobody/stats", json!({}))
        .expect(404)
        .errors();
    assert_eq!(errors, ["streamer_not_found"]);
}

#[test]
fn invalid_values_are_dropped_and_the_rest_is_kept() {
    let server = cluster();
    let bodies = [
        (
            json!({"stats": {"cpu_usage": "much"}}),
            "not_integer /stats/cpu_usage",
        ),
        (
            json!({"stats": {"memory_usage": 9}, "streams": [{"name": "a", "status": "x"}]}),
            "unknown_enum_option /streams/0/status",
        ),
        (
            json!({"streams": [{"bitrate": 1}]}),
            "missing_required /streams/0/name",
        ),
        (
            json!({"stats": {"cpu_usage": 55.5}, "dvrs": [{"root": "/"}]}),
            "missing_required /dvrs/0/name",
        ),
    ];
    for (body, dropped) in bodies {
        let answer = server.put("/streamers/s1/stats", body.clone()).expect(200);
        let answer = answer.json();
        assert_eq!(answer["dropped_count"], 1, "{body}: {answer}");
        let part = &answer["dropped"][0];
        let text = |member: &str| part[member].as_str().expect("text").to_owned();
        assert_eq!(format!("{} {}", text("code"), text("pointer")), dropped);
    }
    let streamer = server.get("/streamers/s1").expect(200).json();
    assert_eq!(streamer["stats"]["cpu_usage"], 56);
    server
        .put("/streamers/s1/stats", json!({"stats": {"cpu_usage": 101}}))
        .expect(204);
    let streamer = server.get("/streamers/s1").expect(200).json();
    assert_eq!(streamer["stats"]["cpu_usage"], 100);
    let errors = server.put("/streamers/s1/stats", json!([])).expect(400);
    assert_eq!(errors.errors(), ["not_object "]);
}

/// Reports of stream `a` with one odd value each: the member, and what is dropped.
fn odd_values() -> Vec<(Value, &'static str)> {
    let track = |track: Value| json!({"media_info": {"title": "t", "tracks": [track]}});
    vec![
        // Fractions are rounded, and no part of the report is dropped.
        (json!({"last_dts_at": 1_700_000_000_000.4}), ""),
        (track(json!({"content": "video", "width": 1920.2})), ""),
        (
            track(json!({"content": "video", "codec": "H264"})),
            "unmatched_any /streams/0/media_info/tracks/0/codec",
        ),
        (
            track(json!({"content": "pictures"})),
            "discriminator_unmapped /streams/0/media_info/tracks/0",
        ),
        (
            track(json!({"codec": "aac"})),
            "discriminator_missing /streams/0/media_info/tracks/0",
        ),
        (
            json!({"media_info": {"tracks": {"content": "video"}}}),
            "not_array /streams/0/media_info/tracks",
        ),
        (
            json!({"media_info": []}),
            "not_object /streams/0/media_info",
        ),
        (
            json!({"media_info": "h264"}),
            "not_object /streams/0/media_info",
        ),
        (
            json!({"status": "fine"}),
            "unknown_enum_option /streams/0/status",
        ),
        (json!({"alive": "yes"}), "not_boolean /streams/0/alive"),
        (
            json!({"bytes_out": "7"}),
            "not_integer /streams/0/bytes_out",
        ),
        (
            json!({"online_clients": [3]}),
            "not_integer /streams/0/online_clients",
        ),
        (
            json!({"bytes_out": -1}),
            "input_out_of_range /streams/0/bytes_out",
        ),
        (
            json!({"last_dts_at": 5}),
            "input_out_of_range /streams/0/last_dts_at",
        ),
        (
            json!({"opened_at": "now"}),
            "not_integer /streams/0/opened_at",
        ),
        (
            json!({"streaming_endpoint": "x".repeat(20_000)}),
            "wrong_format /streams/0/streaming_endpoint",
        ),
    ]
}

/// The parts that an answer lists as dropped.
fn dropped(answer: weir_testkit::Response) -> Vec<String> {
    if answer.status == 204 {
        return Vec::new();
    }
    let answer = answer.expect(200).json();
    let parts = answer["dropped"].as_array().expect("a list");
    let text = |part: &Value, member: &str| part[member].as_str().expect("text").to_owned();
    let part = |part: &Value| format!("{} {}", text(part, "code"), text(part, "pointer"));
    parts.iter().map(part).collect()
}

#[test]
fn odd_value_is_dropped_alone_and_counted() {
    let server = cluster();
    let counted = || {
        let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
        crate::metrics::Metrics::read(&answer).value("weir_report_values_dropped_total", &[])
    };
    let mut sum = 0.0;
    for (bitrate, (odd, expected)) in (1..).zip(odd_values()) {
        let mut stream = odd.clone();
        stream["name"] = json!("a");
        stream["bitrate"] = json!(bitrate);
        let second = json!({"name": "b", "bitrate": bitrate, "status": "running"});
        let report = json!({"stats": {"cpu_usage": 100.4}, "streams": [stream, second]});
        let answer = server.put("/streamers/s2/stats", report);
        let listed = dropped(answer);
        assert_eq!(listed.join(", "), expected, "{odd}");
        for name in ["a", "b"] {
            let shown = server.get(&format!("/streams/{name}")).expect(200).json();
            assert_eq!(shown["stats"]["bitrate"], bitrate, "{odd} {name}");
        }
        let streamer = server.get("/streamers/s2").expect(200).json();
        assert_eq!(streamer["stats"]["cpu_usage"], 100, "{odd}");
        sum += listed.len() as f64;
        assert!((counted() - sum).abs() < 0.5, "{odd}: {}", counted());
    }
}

#[test]
fn odd_shapes_of_reports_are_bounded() {
    let server = cluster();
    let shown = |name: &str| server.get(&format!("/streams/{name}")).expect(200).json();
    // A stream that is named twice is used once; others are kept.
    let twice = json!({"streams": [
        {"name": "a", "bitrate": 1}, {"name": "a", "bitrate": 2}, {"name": "b", "bitrate": 3}, 5,
    ]});
    let answer = server.put("/streamers/s1/stats", twice);
    let expected = ["duplicate_item /streams/1/name", "not_object /streams/3"];
    assert_eq!(dropped(answer), expected);
    assert_eq!(shown("a")["stats"]["bitrate"], 1);
    assert_eq!(shown("b")["stats"]["bitrate"], 3);
    // Very many odd values: the list is bounded, the count is not.
    let odd = json!({"name": "a", "bitrate": "much"});
    let many = |i: usize| json!({"name": format!("x{i}"), "bitrate": "much"});
    let streams: Vec<Value> = std::iter::once(odd).chain((0..1000).map(many)).collect();
    let answer = server.put("/streamers/s1/stats", json!({"streams": streams}));
    let answer = answer.expect(200).json();
    assert_eq!(answer["dropped"].as_array().map(Vec::len), Some(100));
    assert_eq!(answer["dropped_count"], 1001);
    // Nesting and size are bounded before anything is read.
    let path = "/streamers/s1/stats";
    for (depth, status) in [(40, 204), (1000, 400)] {
        let nested = format!(
            r#"{{"streams":[{{"name":"a","bitrate":9,"unknown":{}{}}}]}}"#,
            "[".repeat(depth),
            "]".repeat(depth)
        );
        let answer = server.call("PUT", path, nested.as_bytes()).expect(status);
        assert!(status != 400 || answer.errors()[0].starts_with("json_too_deep"));
    }
    assert_eq!(
        shown("a")["stats"]["bitrate"],
        9,
        "the refused report changes nothing"
    );
    for (body, error) in [
        (&b"[]"[..], "not_object "),
        (b"5", "not_object "),
        (b"", "invalid_json "),
    ] {
        let errors = server.call("PUT", path, body).expect(400).errors();
        assert_eq!(errors, [error]);
    }
    let long = vec![b' '; 16 * 1024 * 1024 + 1];
    server.call("PUT", path, &long).expect(413);
    assert_eq!(shown("a")["stats"]["bitrate"], 9);
}

#[test]
fn all_forms_of_a_stream_show_the_same_facts() {
    // Goal: a stream alone, in a list, member by member and in filters has the same facts.
    // Method: streams in each state of their reports, whose healths are known.
    let server = cluster();
    let inputs = json!([{"url": "udp://239.0.0.1:1234"}]);
    let relayed = json!([{"url": "rtsp://c/", "via": "agent://a1"}]);
    for (name, body) in [
        (
            "called",
            json!({"inputs": inputs, "static": false, "layout": {"ingest": "s2"}}),
        ),
        (
            "idle",
            json!({"inputs": inputs, "static": false, "layout": {"ingest": "s1"}}),
        ),
        (
            "off",
            json!({"inputs": inputs, "disabled": true, "layout": {"ingest": "s1"}}),
        ),
        (
            "relayed",
            json!({"inputs": relayed, "layout": {"ingest": "s2"}}),
        ),
    ] {
        server.put(&format!("/streams/{name}"), body).expect(200);
    }
    let error = json!({"code": "no_picture", "since": 1_700_000_000_000_u64});
    for (host, streams) in [
        (
            "s1",
            json!([
                {"name": "a", "status": "running", "bitrate": 7, "online_clients": 3},
                {"name": "b", "status": "running", "bitrate": 8, "alive": false},
            ]),
        ),
        (
            "s2",
            json!([
                {"name": "a", "status": "error", "error": error, "bytes_out": 5},
                {"name": "b", "status": "waiting", "error": error},
                {"name": "idle", "status": "waiting", "ts_delay": 4},
                {"name": "relayed", "status": "running", "alive": true, "online_clients": 2},
            ]),
        ),
    ] {
        let report = json!({"stats": {"cpu_usage": 1}, "streams": streams});
        let path = format!("/streamers/{host}/stats");
        server.put(&path, report).expect(204);
    }
    let list = server.get("/streams").expect(200).json();
    let mut healths = Vec::new();
    for item in list["streams"].as_array().expect("a list") {
        let name = item["name"].as_str().expect("a name");
        let alone = server.get(&format!("/streams/{name}")).expect(200).json();
        assert_eq!(&alone, item);
        let members: Vec<&str> = alone
            .as_object()
            .expect("a stream")
            .keys()
            .map(|it| &**it)
            .collect();
        let select = format!("/streams?name={name}&select={}", members.join(","));
        let selected = server.get(&select).expect(200).json();
        assert_eq!(selected["streams"], json!([alone]), "{select}");
        let health = item["health"].as_str().expect("a health");
        healths.push((name, health));
        let mut filters = vec![
            format!("health={health}"),
            format!("placed={}", alone["placed"]),
        ];
        for leaf in [
            "alive",
            "agent_status",
            "bitrate",
            "bytes_out",
            "online_clients",
            "status",
        ] {
            filters.push(match &alone["stats"][leaf] {
                Value::Null => format!("stats.{leaf}_is=null"),
                Value::String(text) => format!("stats.{leaf}={text}"),
                other => format!("stats.{leaf}={other}"),
            });
        }
        let path = format!("/streams?select=name&{}", filters.join("&"));
        let found = server.get(&path).expect(200).json();
        assert!(
            keys(&found, "streams", "name").contains(&name.to_owned()),
            "{path}"
        );
    }
    assert_eq!(
        healths,
        [
            ("a", "operational"),
            ("b", "degradated"),
            ("c", "outage"),
            ("called", "operational"),
            ("idle", "operational"),
            ("off", "disabled"),
            ("relayed", "operational"),
        ]
    );
    let shown =
        |name: &str| server.get(&format!("/streams/{name}")).expect(200).json()["stats"].take();
    assert_eq!(
        shown("a"),
        json!({
            "bitrate": 7, "bytes_out": 5, "online_clients": 3, "running_on": ["s1"],
            "status": "running",
        })
    );
    assert_eq!(
        shown("b"),
        json!({"error": error, "running_on": ["s1"], "status": "waiting"})
    );
    assert_eq!(shown("idle"), json!({"status": "waiting", "ts_delay": 4}));
    assert_eq!(
        shown("relayed"),
        json!({
            "agent_status": "rproxy_not_configured", "alive": true, "current_agent_id": "a1",
            "online_clients": 2, "running_on": ["s2"], "status": "running",
        })
    );
    assert_eq!(shown("called"), Value::Null);
}

#[test]
fn error_of_a_stream_is_shown_counted_and_goes() {
    let server = cluster();
    let report = |host: &str, streams: Value| {
        let body = json!({"streams": streams});
        let answer = server.put(&format!("/streamers/{host}/stats"), body);
        dropped(answer)
    };
    let error = || server.get("/streams/a").expect(200).json()["stats"]["error"].take();
    let since = 1_700_000_000_000_u64;
    let text = "connect to rtsp://u:canary@10.1.2.3:554/s?password=canary failed";
    let reported = json!({"code": "source_unreachable", "since": since, "text": text});
    let waiting = |error: Value| json!([{"name": "a", "status": "waiting", "error": error}]);
    assert_eq!(report("s1", waiting(reported)), [""; 0]);
    let shown = json!({
        "code": "source_unreachable", "since": since,
        "text": "connect to rtsp://u:***@10.1.2.3:554/s?password=*** failed",
    });
    assert_eq!(error(), shown);
    report("s2", json!([{"name": "b", "error": {"code": "my_own"}}]));
    for (query, expected) in [
        ("stats.error.code=source_unreachable", vec!["a"]),
        ("stats.error.code_ne=source_unreachable", vec!["b", "c"]),
        ("stats.error.code=my_own,source_unreachable", vec!["a", "b"]),
        ("stats.error_is=null", vec!["c"]),
        (
            "stats.error_is_not=null&sort=-stats.error.code",
            vec!["a", "b"],
        ),
        ("stats.error.since_lte=1700000000000", vec!["a"]),
        ("stats.error.text_like=10.1.2.3", vec!["a"]),
    ] {
        let list = server.get(&format!("/streams?select=name,stats.error.code&{query}"));
        let list = list.expect(200).json();
        assert_eq!(keys(&list, "streams", "name"), expected, "{query}");
    }
    let list = server.get("/streams?select=stats.error").expect(200);
    assert!(!list.text().contains("canary"), "{}", list.text());
    assert_eq!(list.json()["streams"][0]["stats"]["error"], shown);
    let stats = server.get("/cluster/stats").expect(200).json();
    let counted = json!({"other": 1, "source_unreachable": 1});
    assert_eq!(stats["stream_errors"], counted);
    let metrics = server.get("/cluster/stats?format=openmetrics").expect(200);
    let metrics = crate::metrics::Metrics::read(&metrics);
    for (code, count) in [
        ("source_unreachable", 1.0),
        ("other", 1.0),
        ("no_picture", 0.0),
    ] {
        let found = metrics.value("weir_stream_errors", &[("code", code)]);
        assert!((found - count).abs() < 0.5, "{code}: {found}");
    }
    // The time of an error without one is that of its first report.
    report("s1", waiting(json!({"code": "no_picture"})));
    let first = error();
    assert!(first["since"].as_u64() > Some(since), "{first}");
    report(
        "s1",
        waiting(json!({"code": "no_picture", "text": "black"})),
    );
    assert_eq!(error()["since"], first["since"]);
    // What is odd in it is dropped, the stream is not.
    for (odd, expected, kept) in [
        (json!("timeout"), "not_object /streams/0/error", false),
        (
            json!({"text": "t"}),
            "missing_required /streams/0/error/code",
            false,
        ),
        (
            json!({"code": "x", "since": "now", "text": 5, "more": 1}),
            "not_string /streams/0/error/text, not_integer /streams/0/error/since",
            true,
        ),
        (json!({"code": "x", "since": null, "text": null}), "", true),
        (json!({"code": "x", "text": "t".repeat(100_000)}), "", true),
    ] {
        let cut = odd.to_string().chars().take(60).collect::<String>();
        assert_eq!(report("s1", waiting(odd)).join(", "), expected, "{cut}");
        let shown = server.get("/streams/a").expect(200).json();
        assert_eq!(shown["stats"]["status"], "waiting", "{cut}");
        assert_eq!(shown["stats"]["error"]["code"] == "x", kept, "{cut}");
        assert!(shown["stats"]["error"].to_string().len() < 1100, "{cut}");
    }
    let odd = json!({"code": "Not A Code"});
    let nomatch = report("s1", waiting(odd)).join(", ");
    assert!(
        nomatch.starts_with("nomatch_pattern /streams/0/error/code"),
        "{nomatch}"
    );
    // It is gone with a report without it.
    report("s1", waiting(Value::Null));
    assert_eq!(error(), Value::Null);
    let list = server.get("/streams?stats.error.code=x").expect(200).json();
    assert_eq!(keys(&list, "streams", "name"), [""; 0]);
}

#[test]
fn parked_list_is_woken_by_an_error() {
    // Goal: a list that waits for an error gets it with the report. Method: the request is sent
    // before the report, on its own connection.
    let server = cluster();
    let path = format!(
        "{}/streams?stats.error.code=no_picture&poll_timeout=50&select=name",
        weir_testkit::PREFIX
    );
    let waiting = std::thread::scope(|scope| {
        let list = scope.spawn(|| {
            let bearer = format!("Bearer {}", weir_testkit::API_KEY);
            let fields = [("Authorization", bearer.as_str())];
            server.connect().request("GET", &path, &fields, b"")
        });
        let report = json!({"streams": [{"name": "a", "error": {"code": "no_picture"}}]});
        server.put("/streamers/s1/stats", report).expect(204);
        list.join().expect("the request is answered")
    });
    let list = waiting.expect(200).json();
    assert_eq!(keys(&list, "streams", "name"), ["a"]);
}

#[test]
fn error_goes_with_its_streamer() {
    let server = TestServer::with(&["--streamer-dead-timeout", "1s"]);
    let node = json!({"role": "streamer", "cluster_key": "k"});
    server.put("/streamers/s1", node).expect(200);
    server.put("/streams/a", json!({})).expect(200);
    let report = json!({"streams": [{"name": "a", "error": {"code": "no_picture"}}]});
    server.put("/streamers/s1/stats", report).expect(204);
    let look = || {
        server
            .get("/streams?stats.error.code=no_picture")
            .expect(200)
            .json()
    };
    wait_until("the error is gone", look, |list| {
        list["streams"].as_array().is_some_and(Vec::is_empty)
    });
    let stats = server.get("/cluster/stats").expect(200).json();
    assert_eq!(stats["stream_errors"], json!({}));
}

#[test]
fn refused_report_is_a_sign_of_life() {
    // Goal: a streamer that reports nonsense is not lost. Method: a streamer that never polls and
    // whose report is not even an object takes a stream.
    let server = TestServer::with(&["--layouter-enabled"]);
    let body = json!({"role": "streamer", "cluster_key": "k"});
    server.put("/streamers/s1", body).expect(200);
    server
        .put("/streams/c", json!({"static": true}))
        .expect(200);
    server.put("/streamers/s1/stats", json!([])).expect(400);
    let look = || server.get("/streams/c").expect(200).json()["layout"].take();
    weir_testkit::wait_until("the stream is placed", look, |layout| {
        layout["ingest"] == "s1"
    });
}

#[test]
fn stats_expire_after_the_dead_timeout() {
    // Goal: the stats of a silent streamer expire after the dead timeout, and a restart forgets
    // them. Method: a timeout of a second, read until they are gone.
    let mut server = TestServer::with(&["--streamer-dead-timeout", "1s"]);
    let node = json!({"role": "streamer", "cluster_key": "k"});
    server.put("/streamers/s1", node).expect(200);
    let report = json!({"stats": {"cpu_usage": 5}, "dvrs": [{"name": "d"}]});
    server
        .put("/streamers/s1/stats", report.clone())
        .expect(204);
    let look = || server.get("/streamers/s1").expect(200).json();
    let streamer = wait_until("stats expire", look, |streamer| streamer["stats"].is_null());
    assert_eq!(
        streamer["dvrs"],
        json!([{"name": "d"}]),
        "what is configured there is still so"
    );
    server.put("/streamers/s1/stats", report).expect(204);
    server.restart();
    let streamer = server.get("/streamers/s1").expect(200).json();
    assert_eq!(
        (&streamer["stats"], streamer.get("dvrs")),
        (&Value::Null, None)
    );
}
