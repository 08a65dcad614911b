//! Streams: saving, reading, deleting and placing them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::calls::names;
use weir_testkit::{STREAMER_PREFIX, SetOnDrop, TestServer};

/// Sends bytes and checks the status and every error with its place.
#[track_caller]
fn refused(server: &TestServer, call: (&str, &str), body: &[u8], status: u16, errors: &[&str]) {
    let answer = server.call(call.0, call.1, body);
    let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
    assert_eq!(answer.status, status, "{call:?} {shown}: {}", answer.text());
    assert_eq!(answer.errors(), errors, "{call:?} {shown}");
}

/// Two streamers `s1` and `s2`, an inference node `i1`, and `far`, a streamer of another namespace.
fn with_nodes() -> TestServer {
    let server = TestServer::new();
    let nodes = json!([
        {"hostname": "s1", "role": "streamer", "cluster_key": "k"},
        {"hostname": "s2", "role": "streamer", "cluster_key": "k"},
        {"hostname": "i1", "role": "inference", "cluster_key": "k"},
        {"hostname": "far", "role": "streamer", "cluster_key": "k", "namespace": "far"},
    ]);
    server.put("/streamers/batch", nodes).expect(204);
    server
}

#[test]
fn saved_stream_survives_restart_and_kill() {
    let mut server = TestServer::new();
    let stream = json!({"inputs": [{"url": "udp://239.0.0.1:5000"}], "title": "Гавань ⚓"});
    let saved = server.put("/streams/a", stream).expect(200).json();
    assert_eq!(saved["title"], "Гавань ⚓");
    assert_eq!(server.get("/streams/a").expect(200).json(), saved);
    server.restart();
    assert_eq!(server.get("/streams/a").expect(200).json(), saved);
    server.kill();
    server.start();
    assert_eq!(server.get("/streams/a").expect(200).json(), saved);
}

#[test]
fn a_save_merges_and_reset_replaces() {
    let server = TestServer::new();
    // The body of a save, and the stored configuration afterwards.
    let steps = [
        (
            json!({
                "title": "T", "labels": {"x": "1", "y": "2"},
                "inputs": [{"url": "udp://239.0.0.1:1"}, {"url": "udp://239.0.0.1:2"}],
            }),
            json!({
                "title": "T", "labels": {"x": "1", "y": "2"},
                "inputs": [{"url": "udp://239.0.0.1:1"}, {"url": "udp://239.0.0.1:2"}],
            }),
        ),
        (
            json!({"labels": {"x": null, "z": "3"}}),
            json!({
                "title": "T", "labels": {"y": "2", "z": "3"},
                "inputs": [{"url": "udp://239.0.0.1:1"}, {"url": "udp://239.0.0.1:2"}],
            }),
        ),
        (
            json!({"inputs": [{"url": "udp://239.0.0.1:3"}], "title": null}),
            json!({"labels": {"y": "2", "z": "3"}, "inputs": [{"url": "udp://239.0.0.1:3"}]}),
        ),
        (
            json!({"labels": {"$reset": true, "only": "4"}, "comment": null}),
            json!({"labels": {"only": "4"}, "inputs": [{"url": "udp://239.0.0.1:3"}]}),
        ),
        (
            json!({"$position": 1, "$index": 2, "labels": {"$delete": true}}),
            json!({"labels": {"only": "4"}, "inputs": [{"url": "udp://239.0.0.1:3"}]}),
        ),
        (
            json!({"$reset": true, "comment": "c"}),
            json!({"comment": "c"}),
        ),
        (json!({"$reset": true}), json!({})),
    ];
    for (patch, mut stored) in steps {
        let saved = server.put("/streams/a", patch.clone()).expect(200).json();
        stored["name"] = "a".into();
        assert_eq!(saved["config_on_disk"], stored, "after {patch}");
    }
}

#[test]
fn defaults_are_shown_and_not_stored() {
    let server = TestServer::new();
    let saved = server.put("/streams/a", json!({})).expect(200).json();
    assert_eq!(saved["static"], true, "the default");
    assert_eq!(saved["config_on_disk"], json!({"name": "a"}));
    assert_eq!(saved["named_by"], "config");
    assert!(saved.get("layout").is_none(), "never placed: {saved}");
    let saved = server
        .put("/streams/a", json!({"static": true}))
        .expect(200)
        .json();
    assert_eq!(
        saved["config_on_disk"],
        json!({"name": "a"}),
        "a given value that equals the default"
    );
}

#[test]
fn unknown_and_read_only_fields_are_dropped_silently() {
    let server = TestServer::new();
    let saved = server
        .put(
            "/streams/a",
            json!({
                "name": "a", "nonsense": {"deep": [1]}, "stats": {"alive": true}, "updated_at": 5,
                "named_by": "remote",
                "config_on_disk": {"title": "x"},
                "inputs": [{"url": "udp://239.0.0.1:1", "unheard_of": 1, "stats": {"bitrate": 1}}],
            }),
        )
        .expect(200)
        .json();
    assert_eq!(
        saved["config_on_disk"],
        json!({"name": "a", "inputs": [{"url": "udp://239.0.0.1:1"}]})
    );
    assert_eq!(saved["named_by"], "config");
    assert!(saved["updated_at"].as_u64() > Some(1_000_000_000_000));
    // The document of a stream can be sent back, which changes nothing.
    let again = server.put("/streams/a", saved.clone()).expect(200).json();
    assert_eq!(again, saved);
}

#[test]
fn stamps_change_only_with_the_stream() {
    let mut server = with_nodes();
    let mut last = 0;
    let mut stamp = |answer: Value| {
        let stamp = answer["updated_at"].as_u64().expect("a stamp");
        let moved = stamp > last;
        assert!(stamp >= last, "a stamp fell from {last} to {stamp}");
        last = stamp;
        moved
    };
    let save = |server: &TestServer, body: Value| server.put("/streams/a", body).expect(200).json();
    assert!(stamp(save(&server, json!({"title": "1"}))));
    assert!(stamp(save(&server, json!({"title": "2"}))));
    assert!(!stamp(save(&server, json!({"title": "2"}))), "nothing new");
    assert!(!stamp(save(&server, json!({}))), "nothing at all");
    assert!(
        !stamp(save(&server, json!({"comment": null}))),
        "was absent"
    );
    assert!(stamp(save(&server, json!({"layout": {"ingest": "s1"}}))));
    assert!(!stamp(save(&server, json!({"layout": {"ingest": "s1"}}))));
    server.restart();
    assert!(!stamp(save(&server, json!({"title": "2"}))));
    assert!(stamp(save(&server, json!({"title": "3"}))));
}

#[test]
fn name_and_namespace_cannot_change() {
    let server = TestServer::new();
    let put = ("PUT", "/streams/a");
    server
        .put("/streams/a", json!({"namespace": "n"}))
        .expect(200);
    refused(
        &server,
        put,
        br#"{"name":"b"}"#,
        400,
        &["key_mismatch /name"],
    );
    refused(&server, put, br#"{"name":5}"#, 400, &["key_mismatch /name"]);
    for other in [
        r#"{"namespace":"m"}"#,
        r#"{"namespace":null}"#,
        r#"{"$reset":true}"#,
    ] {
        refused(
            &server,
            put,
            other.as_bytes(),
            400,
            &["immutable_field /namespace"],
        );
    }
    server
        .put("/streams/a", json!({"namespace": "n", "name": "a"}))
        .expect(200);
}

#[test]
fn invalid_value_is_named_by_its_pointer() {
    let server = TestServer::new();
    let long = "x".repeat(41);
    let many: serde_json::Map<_, _> = (0..11).map(|i| (i.to_string(), json!("v"))).collect();
    let table = [
        (json!({"title": 5}), "not_string /title"),
        (json!({"inputs": {}}), "not_array /inputs"),
        (json!({"labels": []}), "not_object /labels"),
        (json!({"static": "yes"}), "not_boolean /static"),
        (json!({"position": 1.5}), "not_integer /position"),
        (json!({"position": 1e30}), "not_integer /position"),
        (json!({"position": "1"}), "not_integer /position"),
        (
            json!({"segment_duration": 999}),
            "input_out_of_range /segment_duration",
        ),
        (
            json!({"segment_duration": 15001}),
            "input_out_of_range /segment_duration",
        ),
        (
            json!({"segment_duration": u64::MAX}),
            "input_out_of_range /segment_duration",
        ),
        (
            json!({"dvr": {"redundancy_factor": -1}}),
            "input_out_of_range /dvr/redundancy_factor",
        ),
        (
            json!({"dvr": {"redundancy_factor": 18}}),
            "input_out_of_range /dvr/redundancy_factor",
        ),
        (
            json!({"inputs": [{"url": "udp://239.0.0.1:1"}, {"url": "nonsense"}]}),
            "discriminator_unmapped /inputs/1/url",
        ),
        (
            json!({"inputs": [{}]}),
            "discriminator_missing /inputs/0/url",
        ),
        (json!({"labels": {"a": 5}}), "not_string /labels/a"),
        (
            json!({"labels": {"a b": "v"}}),
            "nomatch_pattern /labels/a b",
        ),
        (
            json!({"labels": {"a/b~c": "v"}}),
            "nomatch_pattern /labels/a~1b~0c",
        ),
        (json!({"labels": {"a": long}}), "too_long /labels/a"),
        (json!({"labels": many}), "too_many_items /labels"),
        (json!([]), "not_object "),
        (json!("a"), "not_object "),
        (json!(null), "not_object "),
    ];
    for (body, error) in table {
        refused(
            &server,
            ("PUT", "/streams/a"),
            body.to_string().as_bytes(),
            400,
            &[error],
        );
    }
    // All errors are reported at once.
    let body = json!({"title": 5, "static": 3, "segment_duration": 1}).to_string();
    let errors = server
        .call("PUT", "/streams/a", body.as_bytes())
        .expect(400)
        .errors();
    assert_eq!(errors.len(), 3, "{errors:?}");
    server.get("/streams/a").expect(404);
}

#[test]
fn a_body_that_is_not_json_changes_nothing() {
    let server = TestServer::new();
    server
        .put("/streams/a", json!({"title": "before"}))
        .expect(200);
    let nested = format!("{{\"title\":{}", "[".repeat(100));
    let table: [(&[u8], &str); 19] = [
        (b"", "invalid_json "),
        (b" ", "invalid_json "),
        (b"{", "invalid_json "),
        (b"nul", "invalid_json "),
        (b"{} {}", "invalid_json "),
        (b"{'title':1}", "invalid_json "),
        (b"{\"title\":\"a\",}", "invalid_json "),
        (b"{\"position\":01}", "invalid_json /position"),
        (b"{\"position\":.5}", "invalid_json /position"),
        (b"{\"position\":NaN}", "invalid_json /position"),
        (b"{\"title\":\"a\nb\"}", "invalid_json /title"),
        (b"{\"title\":1,\"title\":2}", "duplicate_key /title"),
        (
            b"{\"labels\":{\"a\":\"1\",\"\\u0061\":\"2\"}}",
            "duplicate_key /labels/a",
        ),
        (b"{\"title\":\"\xff\"}", "invalid_utf8 "),
        (b"\xef\xbb\xbf{}", "byte_order_mark "),
        (b"{\"position\":1e400}", "number_out_of_range /position"),
        (
            b"{\"position\":99999999999999999999}",
            "number_out_of_range /position",
        ),
        (b"{\"title\":\"\\ud800\"}", "lone_surrogate /title"),
        (b"{\"title\":\"\\u0000\"}", "nul_character /title"),
    ];
    for (body, error) in table {
        let answer = server.call("PUT", "/streams/a", body).expect(400);
        assert_eq!(
            answer.errors(),
            [error],
            "{}",
            String::from_utf8_lossy(body)
        );
    }
    let answer = server
        .call("PUT", "/streams/a", nested.as_bytes())
        .expect(400);
    assert!(answer.errors()[0].starts_with("json_too_deep /title/0/0"));
    assert_eq!(
        server.get("/streams/a").expect(200).json()["title"],
        "before"
    );
}

#[test]
fn integers_are_kept_exactly() {
    let server = TestServer::new();
    for (sent, kept) in [
        ("9223372036854775807", "9223372036854775807"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("9007199254740993", "9007199254740993"),
        ("9007199254740992.0", "9007199254740992"),
        ("9007199254740993.0", "9007199254740993"),
        ("-9007199254740993.000", "-9007199254740993"),
        ("9223372036854775807.0", "9223372036854775807"),
        ("9.223372036854775807e18", "9223372036854775807"),
        ("-9223372036854775808.0e0", "-9223372036854775808"),
        ("100000e-2", "1000"),
        ("-0", "0"),
        ("1e3", "1000"),
        ("5.0", "5"),
    ] {
        let body = format!("{{\"position\":{sent}}}");
        let saved = server
            .call("PUT", "/streams/a", body.as_bytes())
            .expect(200);
        assert!(
            saved.text().contains(&format!("\"position\":{kept},")),
            "{sent}: {}",
            saved.text()
        );
    }
}

#[test]
fn integers_that_cannot_be_kept_are_refused() {
    let server = TestServer::new();
    server.put("/streams/a", json!({"position": 1})).expect(200);
    for (sent, error) in [
        ("9223372036854775808", "input_out_of_range /position"),
        ("18446744073709551615", "input_out_of_range /position"),
        ("9223372036854775808.0", "input_out_of_range /position"),
        ("-9223372036854775809.0", "not_integer /position"),
        ("1e30", "not_integer /position"),
        ("18446744073709551616", "number_out_of_range /position"),
        ("-9223372036854775809", "number_out_of_range /position"),
        ("1.5", "not_integer /position"),
        ("0.99999999999999999", "number_out_of_range /position"),
        ("4503599627370496.3", "number_out_of_range /position"),
        ("9007199254740993.5", "number_out_of_range /position"),
    ] {
        // Short and long bodies have different readers.
        for rest in ["", &" ".repeat(600)] {
            let body = format!("{{\"position\":{sent}{rest}}}");
            let answer = server.call("PUT", "/streams/a", body.as_bytes());
            assert_eq!(answer.expect(400).errors(), [error], "{sent}");
        }
        let batch = format!("[{{\"name\":\"a\",\"position\":{sent}}}]");
        let answer = server.call("PUT", "/streams/batch", batch.as_bytes());
        let at_item = error.replace(" /", " /0/");
        assert_eq!(answer.expect(400).errors(), [at_item], "{sent}");
    }
    let stored = server.get("/streams/a").expect(200).json();
    assert_eq!(stored["position"], 1);
}

#[test]
fn body_over_the_limit_is_refused_unread() {
    let server = TestServer::new();
    let mut client = server.connect();
    let head = format!(
        "PUT /central/api/v3/streams/a HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {}\r\n\
         Content-Length: 1048577\r\n\r\n",
        weir_testkit::API_KEY
    );
    client.send(head.as_bytes());
    let answer = client.response(false).expect(413);
    assert_eq!(answer.errors(), ["body_too_large"]);
    server.get("/streams/a").expect(404);
}

#[test]
fn deleted_stream_is_404_also_for_another_deletion() {
    let mut server = TestServer::new();
    server.put("/streams/a", json!({})).expect(200);
    let answer = server.delete("/streams/a").expect(204);
    assert!(answer.body.is_empty());
    for (method, path) in [
        ("GET", "/streams/a"),
        ("DELETE", "/streams/a"),
        ("GET", "/streams/a/layouts"),
    ] {
        refused(&server, (method, path), b"", 404, &["stream_not_found"]);
    }
    server.restart();
    server.get("/streams/a").expect(404);
    assert_eq!(server.get("/streams").json()["estimated_count"], 0);
}

#[test]
fn every_spelling_of_a_path_means_one_stream() {
    let server = TestServer::new();
    let table = [
        (
            "sports/hd/1",
            ["sports/hd/1", "sports%2Fhd%2f1", "sports/hd%2F1"],
        ),
        ("A b", ["A%20b", "%41%20b", "A%20%62"]),
        ("Первый", ["%D0%9F%D0%B5%D1%80%D0%B2%D1%8B%D0%B9"; 3]),
        ("1+1=2", ["1+1=2", "1%2B1%3D2", "1+1%3d2"]),
        ("a%2Fb", ["a%252Fb", "a%252Fb", "%61%252Fb"]),
        ("layouts/x", ["layouts/x", "layouts%2Fx", "layouts/%78"]),
        ("q?#&", ["q%3F%23%26"; 3]),
    ];
    for (name, paths) in table {
        let saved = server
            .put(&format!("/streams/{}", paths[0]), json!({"title": name}))
            .expect(200)
            .json();
        assert_eq!(saved["name"], name);
        for path in paths {
            assert_eq!(
                server.get(&format!("/streams/{path}")).expect(200).json(),
                saved
            );
            let other = server.get(&format!("{STREAMER_PREFIX}/streams/{path}"));
            assert_eq!(other.expect(200).json(), saved, "the other prefix");
            server.get(&format!("/streams/{path}/layouts")).expect(200);
        }
    }
    assert_eq!(
        server.get("/streams").json()["estimated_count"],
        table.len()
    );
}

#[test]
fn ambiguous_names_are_refused() {
    let server = TestServer::new();
    let long = "n".repeat(513);
    let names = [
        "/a",
        "a,b",
        "a//b",
        "a/",
        "%2e%2e",
        "a/../b",
        "%20a",
        "a%20",
        "a%00b",
        "a%0Ab",
        "x/layout",
        "x/batch",
        "a%2Flayouts",
        "a%2Flayout%2Fexplain",
        "a%2Flayout/explain",
        "layout/explain",
        &long,
    ];
    for name in names {
        refused(
            &server,
            ("PUT", &format!("/streams/{name}")),
            b"{}",
            400,
            &["wrong_format name"],
        );
    }
    for path in ["%ff", "a%2", "a%zz"] {
        refused(
            &server,
            ("PUT", &format!("/streams/{path}")),
            b"{}",
            400,
            &["wrong_format path"],
        );
    }
    let batch = json!([{"name": "x/layout/explain"}]);
    let answer = server.put("/streams/batch", batch).expect(400);
    assert_eq!(answer.errors(), ["wrong_format /0/name"]);
    server
        .put("/streams/x/layout/explain", json!({}))
        .expect(405);
    let answer = server.put("/streams/x/layouts", json!({})).expect(405);
    assert_eq!(answer.header("allow"), Some("GET, HEAD, OPTIONS"));
    server.put("/streams/", json!({})).expect(404);
    assert_eq!(server.get("/streams").json()["estimated_count"], 0);
}

#[test]
fn batch_of_streams_is_saved_completely_or_not_at_all() {
    let server = with_nodes();
    server
        .put("/streams/c", json!({"title": "old"}))
        .expect(200);
    let before = server.get("/streams").json()["streams"].clone();
    let put = ("PUT", "/streams/batch");
    let table = [
        (json!({}), 400, "not_array "),
        (json!([{"name": "a"}, 5]), 400, "not_object /1"),
        (json!([{"name": "a"}, {}]), 400, "missing_required /1/name"),
        (
            json!([{"name": "a"}, {"name": 5}]),
            400,
            "not_string /1/name",
        ),
        (
            json!([{"name": "a"}, {"name": "b,c"}]),
            400,
            "wrong_format /1/name",
        ),
        (
            json!([{"name": "a"}, {"name": "a"}]),
            400,
            "duplicate_item /1/name",
        ),
        (
            json!([{"name": "a"}, {"name": "b", "title": 5}]),
            400,
            "not_string /1/title",
        ),
        (
            json!([{"name": "a"}, {"name": "b", "inputs": [{"url": "x"}]}]),
            400,
            "discriminator_unmapped /1/inputs/0/url",
        ),
        (
            json!([{"name": "a"}, {"name": "c", "namespace": "n"}]),
            400,
            "immutable_field /1/namespace",
        ),
        (
            json!([{"name": "a"}, {"name": "b", "layout": {"ingest": "nobody"}}]),
            400,
            "streamer_not_found /1/layout/ingest",
        ),
    ];
    for (body, status, error) in table {
        refused(&server, put, body.to_string().as_bytes(), status, &[error]);
        assert_eq!(
            server.get("/streams").json()["streams"],
            before,
            "after {body}"
        );
    }
    let batch = json!([
        {"name": "a", "title": "A"}, {"name": "b/b"},
        {"name": "c", "title": null, "layout": {"ingest": "s1"}},
    ]);
    let answer = server.put("/streams/batch", batch.clone()).expect(204);
    assert!(answer.body.is_empty());
    let list = server.get("/streams").json();
    assert_eq!(names(&list), ["a", "b/b", "c"]);
    let stamps: Vec<&Value> = list["streams"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|stream| &stream["updated_at"])
        .collect();
    assert!(
        stamps.windows(2).all(|pair| pair[0] == pair[1]),
        "one change, one stamp: {list}"
    );
    server.put("/streams/batch", batch).expect(204);
    assert_eq!(
        server.get("/streams").json()["streams"],
        list["streams"],
        "the same again is no change"
    );
    server.put("/streams/batch", json!([])).expect(204);
}

#[test]
fn a_batch_has_an_upper_bound() {
    let server = TestServer::new();
    let items = |count: usize| -> Value {
        (0..count)
            .map(|i| json!({"name": format!("s{i:05}")}))
            .collect()
    };
    let body = items(10_001).to_string();
    let answer = server
        .call("PUT", "/streams/batch", body.as_bytes())
        .expect(413);
    assert_eq!(answer.errors(), ["too_many_items "]);
    assert_eq!(answer.json()["errors"][0]["meta"]["maximum"], "10000");
    assert_eq!(server.get("/streams?limit=1").json()["estimated_count"], 0);
    server.put("/streams/batch", items(10_000)).expect(204);
    assert_eq!(
        server.get("/streams?limit=1").json()["estimated_count"],
        10_000
    );
}

#[test]
fn layouts_are_set_completely_or_not_at_all() {
    let server = with_nodes();
    server
        .put(
            "/streams/batch",
            json!([{"name": "a"}, {"name": "b"}, {"name": "c", "namespace": "far"}]),
        )
        .expect(204);
    let before = server.get("/streams").json()["streams"].clone();
    let post = ("POST", "/streams/layouts");
    let second = |item: Value| json!({"layouts": [{"name": "a", "ingest": "s1"}, item]});
    let table = [
        (json!([]), 400, "not_object "),
        (json!({}), 400, "missing_required /layouts"),
        (json!({"layouts": {}}), 400, "not_array /layouts"),
        (second(json!(1)), 400, "not_object /layouts/1"),
        (
            second(json!({"ingest": "s1"})),
            400,
            "missing_required /layouts/1/name",
        ),
        (
            second(json!({"name": "a"})),
            400,
            "duplicate_item /layouts/1/name",
        ),
        (
            second(json!({"name": "nobody", "ingest": "s1"})),
            400,
            "stream_not_found /layouts/1/name",
        ),
        (
            second(json!({"name": "b", "ingest": "nobody"})),
            400,
            "streamer_not_found /layouts/1/ingest",
        ),
        (
            second(json!({"name": "b", "ingest": 5})),
            400,
            "not_string /layouts/1/ingest",
        ),
        (
            second(json!({"name": "b", "ingest": "a b"})),
            400,
            "wrong_format /layouts/1/ingest",
        ),
        (
            second(json!({"name": "b", "ingest": "i1"})),
            400,
            "wrong_node_role /layouts/1/ingest",
        ),
        (
            second(json!({"name": "b", "inference": "s1"})),
            400,
            "wrong_node_role /layouts/1/inference",
        ),
        (
            second(json!({"name": "b", "ingest": "far"})),
            400,
            "namespace_mismatch /layouts/1/ingest",
        ),
        (
            second(json!({"name": "c", "ingest": "s1"})),
            400,
            "namespace_mismatch /layouts/1/ingest",
        ),
        (
            second(json!({"name": "b", "dvr_backups": "s2"})),
            400,
            "not_array /layouts/1/dvr_backups",
        ),
        (
            second(json!({"name": "b", "dvr_backups": ["s2", "nobody"]})),
            400,
            "streamer_not_found /layouts/1/dvr_backups/1",
        ),
        (
            second(json!({"name": "b", "dvr_backups": ["s2", "s2"]})),
            400,
            "duplicate_node /layouts/1/dvr_backups/1",
        ),
        (
            second(json!({"name": "b", "ingest": "s1", "dvr_backups": ["s1"]})),
            400,
            "duplicate_node /layouts/1/dvr_backups/0",
        ),
        (
            second(json!({"name": "b", "ingest": "s1", "change_reason": "because"})),
            400,
            "unknown_enum_option /layouts/1/change_reason",
        ),
        (
            second(json!({"name": "b", "ingest": "s1", "originator": "me"})),
            400,
            "unknown_enum_option /layouts/1/originator",
        ),
    ];
    for (body, status, error) in table {
        refused(&server, post, body.to_string().as_bytes(), status, &[error]);
        assert_eq!(
            server.get("/streams").json()["streams"],
            before,
            "after {body}"
        );
    }
    let all = json!({"layouts": [
        {"name": "a", "ingest": "s1", "dvr_backups": ["s2"], "inference": "i1"},
        {"name": "b", "ingest": "s2"},
        {"name": "c", "ingest": "far"},
    ]});
    server.post("/streams/layouts", all).expect(204);
    let layout = server.get("/streams/a").json()["layout"].clone();
    assert_eq!(layout["ingest"], "s1");
    assert_eq!(layout["dvr_backups"], json!(["s2"]));
    assert_eq!(layout["inference"], "i1");
    assert_eq!(layout["originator"], "other");
    assert_eq!(layout["change_reason"], "relayout_by_api");
}

#[test]
fn layout_can_be_merged_by_a_save() {
    let server = with_nodes();
    let save = |layout: Value| {
        server
            .put("/streams/a", json!({"layout": layout}))
            .expect(200)
            .json()["layout"]
            .clone()
    };
    let first = save(json!({
        "ingest": "s1", "dvr_backups": ["s2"], "created_at": 5,
        "ingest_history": [{"ingest": "x"}],
    }));
    assert_eq!(
        (&first["ingest"], &first["dvr_backups"]),
        (&json!("s1"), &json!(["s2"]))
    );
    assert!(
        first["created_at"].as_u64() > Some(1_000_000_000_000),
        "the server's: {first}"
    );
    let second = save(json!({"inference": "i1", "failover_from": "s2"}));
    assert_eq!(
        (&second["ingest"], &second["failover_from"]),
        (&json!("s1"), &json!("s2"))
    );
    let third = save(json!({"ingest": null, "dvr_backups": null}));
    assert_eq!(
        (third.get("ingest"), third.get("dvr_backups")),
        (None, None)
    );
    assert_eq!(third["inference"], "i1");
    let fourth = save(json!(null));
    for member in ["ingest", "inference", "dvr_backups", "failover_from"] {
        assert_eq!(fourth.get(member), None, "{fourth}");
    }
    refused(
        &server,
        ("PUT", "/streams/a"),
        br#"{"layout":5}"#,
        400,
        &["not_object /layout"],
    );
    let body = br#"{"title":"new","layout":{"ingest":"nobody"}}"#;
    refused(
        &server,
        ("PUT", "/streams/a"),
        body,
        400,
        &["streamer_not_found /layout/ingest"],
    );
    assert_eq!(
        server.get("/streams/a").json().get("title"),
        None,
        "nothing of it"
    );
    refused(
        &server,
        ("PUT", "/streams/new"),
        body,
        400,
        &["streamer_not_found /layout/ingest"],
    );
    server.get("/streams/new").expect(404);
}

#[test]
fn layout_history_is_paged_newest_first() {
    let server = with_nodes();
    server.put("/streams/a", json!({})).expect(200);
    assert_eq!(
        server.get("/streams/a/layouts").expect(200).json()["layouts"],
        json!([])
    );
    let moves = ["s1", "s2", "s1", "s2", "s1"];
    for host in moves {
        server
            .post(
                "/streams/layouts",
                json!({
                    "layouts": [
                        {
                            "name": "a", "ingest": host, "change_reason": "node_become_offline",
                            "originator": "layouter",
                        },
                    ],
                }),
            )
            .expect(204);
    }
    let page = server.get("/streams/a/layouts").expect(200).json();
    let layouts = page["layouts"].as_array().expect("a list").clone();
    let hosts: Vec<&str> = layouts
        .iter()
        .map(|layout| layout["ingest"].as_str().expect("a host"))
        .collect();
    assert_eq!(hosts, ["s1", "s2", "s1", "s2", "s1"]);
    let stamps: Vec<u64> = layouts
        .iter()
        .map(|layout| layout["created_at"].as_u64().expect("a stamp"))
        .collect();
    assert!(
        stamps.windows(2).all(|pair| pair[0] > pair[1]),
        "{stamps:?}"
    );
    assert!(
        layouts
            .iter()
            .all(|layout| layout["originator"] == "layouter"
                && layout["change_reason"] == "node_become_offline")
    );
    assert!(
        layouts
            .iter()
            .all(|layout| layout.get("ingest_history").is_none()),
        "only the present one has it"
    );

    let history = server.get("/streams/a").json()["layout"]["ingest_history"].clone();
    let shown: Vec<(u64, &str)> = history
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| {
            (
                entry["created_at"].as_u64().expect("a stamp"),
                entry["ingest"].as_str().expect("a host"),
            )
        })
        .collect();
    let expected: Vec<(u64, &str)> = stamps.iter().copied().zip(hosts).collect();
    assert_eq!(shown, expected);

    // Every page size gives the same items in the same order, forward and back.
    for limit in 1..=6 {
        let mut seen = Vec::new();
        let mut path = format!("/streams/a/layouts?limit={limit}");
        loop {
            let page = server.get(&path).expect(200).json();
            assert_eq!(page["estimated_count"], 5);
            seen.extend(page["layouts"].as_array().expect("a list").clone());
            match page["next"].as_str() {
                Some(next) => path = format!("/streams/a/layouts?limit={limit}&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(seen, layouts, "limit {limit}");
    }
    for (filter, expected) in [
        (format!("created_at_gt={}", stamps[2]), &stamps[..2]),
        (format!("created_at_gte={}", stamps[2]), &stamps[..3]),
        (format!("created_at_lt={}", stamps[2]), &stamps[3..]),
        (
            format!("created_at_lte={}&created_at_gt={}", stamps[1], stamps[4]),
            &stamps[1..4],
        ),
        (format!("created_at={}", stamps[3]), &stamps[3..4]),
        (
            "ingest=s2&limit=1&sort=created_at".to_owned(),
            &stamps[3..4],
        ),
    ] {
        let page = server
            .get(&format!("/streams/a/layouts?{filter}"))
            .expect(200)
            .json();
        let found: Vec<u64> = page["layouts"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|layout| layout["created_at"].as_u64())
            .collect();
        assert_eq!(found, expected, "{filter}");
    }
    refused(
        &server,
        ("GET", "/streams/a/layouts?created_at_gt=x"),
        b"",
        400,
        &["not_integer created_at_gt"],
    );
}

#[test]
fn ingest_history_shows_the_last_placements() {
    let server = with_nodes();
    for turn in 0..8 {
        let host = if turn % 2 == 0 { "s1" } else { "s2" };
        server
            .put("/streams/a", json!({"layout": {"ingest": host}}))
            .expect(200);
    }
    // A change besides the ingest node begins no new stay.
    server
        .put("/streams/a", json!({"layout": {"inference": "i1"}}))
        .expect(200);
    let layout = server.get("/streams/a").json()["layout"].clone();
    let history = layout["ingest_history"].as_array().expect("a list");
    assert_eq!(history.len(), 5);
    assert_eq!(history[0]["ingest"], "s2");
    assert!(history[0]["created_at"].as_u64() < layout["created_at"].as_u64());
    for (query, shown) in [("", true), ("=true", true), ("=false", false)] {
        let flag = if query.is_empty() {
            ""
        } else {
            "include_ingest_history"
        };
        for select in ["", "&select=name,layout"] {
            let list = server.get(&format!("/streams?{flag}{query}{select}"));
            let layout = list.expect(200).json()["streams"][0]["layout"].clone();
            assert_eq!(layout["ingest"], "s2", "{query}{select}");
            assert_eq!(
                layout.get("ingest_history").is_some(),
                shown,
                "{query}{select}"
            );
        }
    }
    assert_eq!(
        server.get("/streams/a/layouts").json()["estimated_count"],
        9
    );
}

#[test]
fn masked_stream_secrets_sent_back_are_kept() {
    let server = TestServer::new();
    let stream = json!({
        "inputs": [{"url": "rtsp://user:s3cret@cam/1"}, {"url": "rtsp://user:other@cam/2"}],
    });
    server.put("/streams/a", stream).expect(200);
    assert_eq!(
        server.get("/streams/a").json()["inputs"][0]["url"],
        "rtsp://user:s3cret@cam/1"
    );
    let listed = server.get("/streams").json()["streams"][0].clone();
    assert_eq!(listed["inputs"][0]["url"], "rtsp://user:***@cam/1");
    assert_eq!(
        listed["config_on_disk"]["inputs"][1]["url"],
        "rtsp://user:***@cam/2"
    );
    // The list's view, reordered and with a title, is saved: nothing is lost.
    let inputs = json!([listed["inputs"][1], listed["inputs"][0]]);
    let saved = server
        .put("/streams/a", json!({"title": "t", "inputs": inputs}))
        .expect(200)
        .json();
    assert_eq!(saved["inputs"][0]["url"], "rtsp://user:other@cam/2");
    assert_eq!(saved["inputs"][1]["url"], "rtsp://user:s3cret@cam/1");
}

#[test]
fn readers_never_see_part_of_a_batch() {
    // Goal: a batch is one change for every reader. Method: a writer gives forty streams a new
    // title and a new node in one batch, repeatedly, while others read the list, one streamer's
    // configuration and its changes; each answer must be of one batch.
    let server = with_nodes();
    let batch = |turn: usize| -> Value {
        let host = if turn.is_multiple_of(2) { "s1" } else { "s2" };
        (0..40)
            .map(|i| json!({
                "name": format!("a{i:02}"), "title": turn.to_string(), "layout": {"ingest": host},
            }))
            .collect()
    };
    server.put("/streams/batch", batch(0)).expect(204);
    let written = AtomicBool::new(false);
    let read = |path: &str, counts: [usize; 2]| {
        let mut answers = 0;
        while !written.load(Ordering::Acquire) || answers == 0 {
            let list = server.get(path).expect(200).json();
            let streams = list["streams"].as_array().expect("a list").clone();
            assert!(counts.contains(&streams.len()), "{path}: {}", streams.len());
            let titles: BTreeSet<&str> = streams
                .iter()
                .filter_map(|stream| stream["title"].as_str())
                .collect();
            assert!(titles.len() <= 1, "{path}: {titles:?}");
            answers += 1;
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| read("/streams", [40, 40]));
        scope.spawn(|| read("/streams?sort=-title&title_is_not=null", [40, 40]));
        scope.spawn(|| read("/streamers/s1/streams", [0, 40]));
        scope.spawn(|| read("/streamers/s2/streams?limit=100", [0, 40]));
        // Set also when a write fails: the readers must end.
        let _written = SetOnDrop(&written);
        for turn in 1..=60 {
            server.put("/streams/batch", batch(turn)).expect(204);
        }
    });
}

#[test]
fn sources_of_other_media_servers_are_inputs() {
    let server = TestServer::new();
    let node = json!({"role": "streamer", "cluster_key": "k"});
    server.put("/streamers/s1", node).expect(200);
    let urls = [
        "http://h/live/a.flv?x=1",
        "https://cam/video",
        "http://h",
        "whep://h/a/whep",
        "wheps://h/a",
        "rist://h:5000",
        "udp+mpegts://239.0.0.1:1",
        "udp+rtp://239.0.0.1:1",
        "onvif://u:canary@10.0.0.1",
        "dvrip://10.0.0.2:34567?channel=0",
    ];
    let inputs = |url: &str, more: serde_json::Value| {
        let mut input = json!({"url": url, "priority": 2, "user_agent": "a"});
        if let Some(more) = more.as_object() {
            input
                .as_object_mut()
                .expect("an object")
                .extend(more.clone());
        }
        json!([input])
    };
    for url in urls {
        let body = json!({"inputs": inputs(url, json!({"pageUrl": "p", "headers": {"a": "canary"}})), "layout": {"ingest": "s1"}});
        let saved = server.put("/streams/a", body).expect(200).json();
        let stored = inputs(url, json!({"headers": {"a": "canary"}}));
        assert_eq!(
            saved["inputs"], stored,
            "members of other kinds of input are dropped"
        );
        let sent = server.get("/streamers/s1/streams").expect(200).json();
        assert_eq!(sent["streams"][0]["inputs"], stored);
        let list = server.get("/streams").expect(200);
        assert!(!list.text().contains("canary"), "{}", list.text());
    }
    // An address with a known ending is of the same kind as before.
    for (url, member) in [
        ("http://h/a.m3u8?x", "skip_stalled_check"),
        ("http://h/a.ts", "scte35"),
    ] {
        let body = json!({"inputs": inputs(url, json!({member: true}))});
        let answer = server.put("/streams/b", body);
        let known = match answer.status {
            200 => answer.json()["inputs"][0].get(member).is_some(),
            _ => answer.expect(400).errors()[0].contains(member),
        };
        assert!(known, "{url}: {member} belongs to it");
    }
    for url in [
        "exec://a",
        "exec:ffmpeg",
        "echo://a",
        "expr://a",
        "ffmpeg://a",
        "ffmpeg:a",
        "pipe://a",
        "unix://a",
        "unix+mpegts://a",
        "udp+exec://a",
        "HTTP://h/a",
        "ftp://h/a",
        "http:/h",
    ] {
        let body = json!({"inputs": inputs(url, json!(null))});
        let refused = ["discriminator_unmapped /inputs/0/url"];
        let answer = server.put("/streams/c", body.clone()).expect(400);
        assert_eq!(answer.errors(), refused, "{url}");
        let mut item = body;
        item["name"] = json!("c");
        let batch = server.put("/streams/batch", json!([item])).expect(400);
        assert_eq!(
            batch.errors(),
            ["discriminator_unmapped /0/inputs/0/url"],
            "{url}"
        );
    }
    let odd = json!({"inputs": inputs("http://h/a b", json!(null))});
    let answer = server.put("/streams/c", odd).expect(400);
    assert_eq!(answer.errors(), ["wrong_format /inputs/0/url"]);
}
