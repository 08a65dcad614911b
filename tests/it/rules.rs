//! Rules that hold for every kind: what `$reset` replaces, which numbers and moments are possible,
//! how an unknown name is answered.

use serde_json::{Value, json};

use crate::calls::{names, save_node};
use crate::described::Document;
use weir_testkit::TestServer;

const OPENED_AT: u64 = 1_637_094_994_000;

#[test]
fn reset_replaces_the_layout_that_is_sent_with_it() {
    let server = TestServer::new();
    for host in ["s1", "s2", "s3"] {
        save_node(&server, host);
    }
    let node = json!({"role": "inference", "cluster_key": "k"});
    server.put("/streamers/v1", node).expect(200);
    let whole = json!({"ingest": "s1", "dvr_backups": ["s2"], "inference": "v1",
        "failover_from": "s3"});
    let placed = |layout: &Value| {
        let names = ["ingest", "dvr_backups", "inference", "failover_from"];
        let of = |name: &str| layout.get(name).cloned().filter(|it| *it != json!([]));
        names.map(|name| of(name).unwrap_or(Value::Null))
    };
    let only = [json!("s3"), Value::Null, Value::Null, Value::Null];
    let before = [json!("s1"), json!(["s2"]), json!("v1"), json!("s3")];
    let table = [
        (json!({"$reset": true, "layout": {"ingest": "s3"}}), &only),
        (json!({"layout": {"$reset": true, "ingest": "s3"}}), &only),
        (json!({"$reset": true, "title": "t"}), &before),
        (
            json!({"$reset": false, "layout": {"ingest": "s1"}}),
            &before,
        ),
        (
            json!({"layout": {"$reset": false, "ingest": "s1"}}),
            &before,
        ),
    ];
    let restore = || {
        let body = json!({"labels": {"a": "b"}, "layout": whole});
        server.put("/streams/a", body).expect(200);
    };
    for (body, expected) in table {
        restore();
        let saved = server.put("/streams/a", body.clone()).expect(200).json();
        assert_eq!(placed(&saved["layout"]), *expected, "{body}");
        restore();
        let mut item = body.clone();
        item["name"] = json!("a");
        server.put("/streams/batch", json!([item])).expect(204);
        let saved = server.get("/streams/a").expect(200).json();
        assert_eq!(placed(&saved["layout"]), *expected, "batch {body}");
    }
    restore();
    let items = json!({"layouts": [{"name": "a", "$reset": true, "ingest": "s3"}]});
    server.post("/streams/layouts", items).expect(204);
    let saved = server.get("/streams/a").expect(200).json();
    assert_eq!(placed(&saved["layout"]), only);

    for (id, body) in [
        (
            "1",
            json!({"$reset": true, "layout": {"failover_from": "s2"}}),
        ),
        ("2", json!({"layout": {"$reset": true}})),
    ] {
        let agent = json!({"layout": {"ingest": "s1"}});
        let path = format!("/agents/{id}");
        server.put(&path, agent).expect(200);
        assert_eq!(server.get(&path).json()["layout"]["ingest"], "s1");
        let saved = server.put(&path, body).expect(200).json();
        assert_eq!(saved["layout"].get("ingest"), None, "{saved}");
    }
    for (path, body, error) in [
        (
            "/streams/a",
            json!({"layout": {"$reset": 1}}),
            "not_boolean /layout/$reset",
        ),
        (
            "/agents/1",
            json!({"layout": {"$reset": 1}}),
            "not_boolean /layout/$reset",
        ),
    ] {
        assert_eq!(server.put(path, body).expect(400).errors(), [error]);
    }
    let items = json!({"layouts": [{"name": "a", "$reset": "x"}]});
    let answer = server.post("/streams/layouts", items).expect(400);
    assert_eq!(answer.errors(), ["not_boolean /layouts/0/$reset"]);
}

#[test]
fn episode_is_not_closed_before_it_was_opened() {
    let server = TestServer::with(&["--episodes-buffer-delay", "0"]);
    let episode = |members: &str| {
        let text = format!(r#"{{"media": "a", "opened_at": {OPENED_AT}{members}}}"#);
        serde_json::from_str::<Value>(&text).expect("JSON")
    };
    let early = episode(&format!(r#", "closed_at": {}"#, OPENED_AT - 1));
    let error = "input_out_of_range /closed_at";
    let put = |id: &str, body: Value| server.put(&format!("/episodes/{id}"), body);
    assert_eq!(put("1", early.clone()).expect(400).errors(), [error]);
    server.get("/episodes/1").expect(404);
    put("1", episode("")).expect(200);
    assert_eq!(put("1", early).expect(400).errors(), [error]);
    let at_once = json!({"closed_at": OPENED_AT});
    put("1", at_once).expect(200);
    // Not by moving the beginning either.
    let later = json!({"opened_at": OPENED_AT + 1});
    assert_eq!(put("1", later).expect(400).errors(), [error]);
}

#[test]
fn limits_and_durations_are_not_negative() {
    let server = TestServer::new();
    save_node(&server, "s1");
    for (path, body, pointer) in [
        (
            "/streamers/s1",
            json!({"channel_limit": -1}),
            "/channel_limit",
        ),
        (
            "/streamers/s1",
            json!({"total_bandwidth": -1}),
            "/total_bandwidth",
        ),
        (
            "/streamers/s1",
            json!({"fetch_timeout": -1}),
            "/fetch_timeout",
        ),
        ("/streams/a", json!({"retry_limit": -1}), "/retry_limit"),
        (
            "/streams/a",
            json!({"claims": {"bitrate": -1}}),
            "/claims/bitrate",
        ),
        (
            "/streams/a",
            json!({"dvr": {"storage_limit": -1}}),
            "/dvr/storage_limit",
        ),
        (
            "/streams/a",
            json!({"pushes": [{"url": "rtmp://h/a", "retry_limit": -1}]}),
            "/pushes/0/retry_limit",
        ),
    ] {
        let answer = server.put(path, body.clone()).expect(400);
        assert_eq!(
            answer.errors(),
            [format!("input_out_of_range {pointer}")],
            "{body}"
        );
    }
    server
        .put("/streams/a", json!({"position": -1}))
        .expect(200);
    let document = Document::new();
    let limit = &document.schema("central_streamer_node")["properties"]["channel_limit"];
    assert_eq!(limit["minimum"], 0);
}

#[test]
fn moments_in_queries_are_milliseconds() {
    let server = TestServer::with(&["--episodes-buffer-delay", "0"]);
    save_node(&server, "s1");
    server.put("/streams/a", json!({})).expect(200);
    for (path, field) in [
        ("/streams/a/layouts", "created_at_gt"),
        ("/streams/a/layouts", "created_at_lt"),
        ("/streams", "updated_at_gt"),
        ("/streams", "updated_at"),
        ("/streamers", "updated_at_gte"),
        ("/agents", "updated_at_lt"),
        ("/episodes", "opened_at_lte"),
        ("/episodes", "closed_at_gt"),
        ("/persons", "updated_at_gt"),
        ("/events", "utc_ms_gt"),
        ("/streamers/s1/episodes?media=a", "opened_at_lt"),
        ("/streamers/s1/episodes?media=a", "closed_at_gt"),
    ] {
        let joined = if path.contains('?') { '&' } else { '?' };
        let get = |value: &str| server.get(&format!("{path}{joined}{field}={value}"));
        for value in ["5", "1637094994", "-1", "1637094994000000"] {
            let answer = get(value).expect(400);
            let code = answer.errors()[0].clone();
            let is_refused = code == format!("input_out_of_range {field}")
                || value == "-1" && code == format!("not_integer {field}");
            assert!(is_refused, "{path} {field}={value}: {code}");
        }
        for value in ["0", "1637094994000", "10000000000000"] {
            get(value).expect(200);
        }
    }
}

#[test]
fn unknown_names_in_bodies_are_400_and_in_paths_404() {
    let server = TestServer::new();
    save_node(&server, "s1");
    for (path, key, code) in [
        ("/streams/layouts", "name", "stream_not_found"),
        ("/agents/layouts", "id", "agent_not_found"),
    ] {
        let items = json!({"layouts": [{key: "1", "ingest": "s1"}]});
        let answer = server.post(path, items).expect(400);
        assert_eq!(answer.errors(), [format!("{code} /layouts/0/{key}")]);
    }
    let layout = json!({"layout": {"ingest": "none"}});
    let answer = server.put("/streams/a", layout).expect(400);
    assert_eq!(answer.errors(), ["streamer_not_found /layout/ingest"]);
    server.get("/streams/none").expect(404);
    server.get("/agents/none").expect(404);
    server.get("/streamers/none").expect(404);
}

/// A batch of 50 items, of which every second one is bad.
fn half_bad(key: &str, good: &Value, bad: &Value) -> Value {
    let item = |i: usize| {
        let mut item = if i % 2 == 1 { bad } else { good }.clone();
        item[key] = json!(format!("{}", i + 1));
        item
    };
    (0..50).map(item).collect()
}

#[test]
fn first_twenty_bad_items_of_a_batch_are_named_in_order() {
    let server = TestServer::with(&["--layouter-enabled"]);
    save_node(&server, "s1");
    for i in 1..=50 {
        let layout = json!({"layout": {"ingest": "s1"}});
        server.put(&format!("/agents/{i}"), json!({})).expect(200);
        server.put(&format!("/streams/{i}"), layout).expect(200);
    }
    let streamer = json!({"role": "streamer", "cluster_key": "k"});
    let bad_streamer = json!({"role": "streamer", "cluster_key": 5});
    let layout = json!({"ingest": "s1"});
    for (method, path, member, key, good, bad, code, at) in [
        (
            "PUT",
            "/streams/batch",
            "",
            "name",
            json!({}),
            json!({"title": 5}),
            "not_string",
            "/title",
        ),
        (
            "POST",
            "/streams/preview_layout_change",
            "",
            "name",
            json!({}),
            json!({"title": 5}),
            "not_string",
            "/title",
        ),
        (
            "PUT",
            "/streams/batch",
            "",
            "name",
            json!({}),
            json!({"layout": {"ingest": "none"}}),
            "streamer_not_found",
            "/layout/ingest",
        ),
        (
            "PUT",
            "/streams/batch",
            "",
            "name",
            json!({}),
            json!({"if_match": 5}),
            "not_string",
            "/if_match",
        ),
        (
            "PUT",
            "/streams/batch",
            "",
            "name",
            json!({}),
            json!({"$reset": 5}),
            "not_boolean",
            "/$reset",
        ),
        (
            "PUT",
            "/streamers/batch",
            "",
            "hostname",
            streamer,
            bad_streamer,
            "not_string",
            "/cluster_key",
        ),
        (
            "POST",
            "/streams/layouts",
            "layouts",
            "name",
            layout.clone(),
            json!({"ingest": "none"}),
            "streamer_not_found",
            "/ingest",
        ),
        (
            "POST",
            "/streams/layouts",
            "layouts",
            "name",
            layout.clone(),
            json!({"ingest": 5}),
            "not_string",
            "/ingest",
        ),
        (
            "POST",
            "/agents/layouts",
            "layouts",
            "id",
            layout.clone(),
            json!({"ingest": "none"}),
            "streamer_not_found",
            "/ingest",
        ),
    ] {
        let items = half_bad(key, &good, &bad);
        let (body, before) = match member {
            "" => (items, String::new()),
            member => (json!({member: items}), format!("/{member}")),
        };
        let answer = server
            .call(method, path, body.to_string().as_bytes())
            .expect(400);
        let bad = (0..20).map(|n| format!("{code} {before}/{}{at}", 2 * n + 1));
        assert_eq!(answer.errors(), bad.collect::<Vec<_>>(), "{path} {at}");
    }
    // Every error of an item is there, and duplicates are bad items too.
    let body = json!([{"name": "a", "title": 5, "position": "x"}, {"name": "b", "title": 5}]);
    let answer = server.put("/streams/batch", body).expect(400);
    let errors = [
        "not_integer /0/position",
        "not_string /0/title",
        "not_string /1/title",
    ];
    assert_eq!(answer.errors(), errors);
    let body = json!([{"name": "a"}, {}, {"name": "a"}, null, {"name": "b,c"}]);
    let answer = server.put("/streams/batch", body).expect(400);
    let errors = [
        "missing_required /1/name",
        "duplicate_item /2/name",
        "null_in_array_of_non_nullable /3",
        "wrong_format /4/name",
    ];
    assert_eq!(answer.errors(), errors);
    server.get("/streams/a").expect(404);
    server.get("/streams/b").expect(404);
}

#[test]
fn batch_names_unreadable_and_refused_items_in_order() {
    // Goal: what is wrong with the form of an item does not hide what the rules refuse, and the
    // other way round. Method: both kinds in turns, in every batch, also in a preview.
    let server = TestServer::with(&["--layouter-enabled"]);
    save_node(&server, "s1");
    server.put("/streams/there", json!({})).expect(200);
    let streams = json!([
        {"name": "a", "title": 5}, {}, {"name": "b", "position": "x"}, {"name": "a"},
        {"name": "good"}, {"name": "c", "inputs": 1},
    ]);
    let errors_of_streams: &[&str] = &[
        "not_string /0/title",
        "missing_required /1/name",
        "not_integer /2/position",
        "duplicate_item /3/name",
        "not_array /5/inputs",
    ];
    for (method, path, body, errors) in [
        ("PUT", "/streams/batch", &streams, errors_of_streams),
        (
            "POST",
            "/streams/preview_layout_change",
            &streams,
            errors_of_streams,
        ),
        (
            "PUT",
            "/streamers/batch",
            &json!([
                {"hostname": "s2", "role": "none", "cluster_key": "k"}, null, {"hostname": "a b"},
                {"hostname": "s1", "channel_limit": "x"},
            ]),
            &[
                "discriminator_unmapped /0/role",
                "null_in_array_of_non_nullable /1",
                "wrong_format /2/hostname",
                "not_integer /3/channel_limit",
            ],
        ),
        (
            "POST",
            "/streams/layouts",
            &json!({"layouts": [
                {"name": "none", "ingest": "s1"}, {"name": 5}, {"name": "there", "ingest": "s1"},
                {"name": "there", "ingest": "none"}, {"name": "gone"},
            ]}),
            &[
                "stream_not_found /layouts/0/name",
                "not_string /layouts/1/name",
                "duplicate_item /layouts/3/name",
                "stream_not_found /layouts/4/name",
            ],
        ),
        (
            "POST",
            "/agents/layouts",
            &json!({"layouts": [{"id": "none", "ingest": "s1"}, {"id": 5}]}),
            &["agent_not_found /layouts/0/id", "not_string /layouts/1/id"],
        ),
    ] {
        let answer = server.call(method, path, body.to_string().as_bytes());
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        assert_eq!(answer.errors(), errors, "{path}");
    }
    for name in ["a", "b", "c", "good"] {
        server.get(&format!("/streams/{name}")).expect(404);
    }
    server.get("/streamers/s2").expect(404);
    let there = server.get("/streams/there").expect(200).json();
    assert!(there["layout"]["ingest"].is_null(), "{there}");
    // A token that may write none of the streams gets no errors of rules.
    let scopes = json!({"permissions": [{"scopes": ["streams"], "write": true}]});
    let authorization = crate::restricted::token(&server, "none", scopes);
    let fields = [("Authorization", authorization.as_str())];
    let target = format!("{}/streams/batch", weir_testkit::PREFIX);
    let body = streams.to_string();
    let answer = server
        .connect()
        .request("PUT", &target, &fields, body.as_bytes());
    let errors = answer.expect(403).errors();
    assert!(
        errors.iter().all(|error| error == "forbidden"),
        "{errors:?}"
    );
    // No more than twenty in all.
    let both = |i: usize| match i % 2 {
        0 => json!({}),
        _ => json!({"name": format!("n{i}"), "title": 5}),
    };
    let body = json!((0..100).map(both).collect::<Vec<_>>());
    let expected = (0..20).map(|i| match i % 2 {
        0 => format!("missing_required /{i}/name"),
        _ => format!("not_string /{i}/title"),
    });
    let answer = server.put("/streams/batch", body).expect(400);
    assert_eq!(answer.errors(), expected.collect::<Vec<_>>());
}

#[test]
fn root_of_a_recording_is_kept_shown_and_filtered() {
    let server = TestServer::new();
    save_node(&server, "s1");
    save_node(&server, "s2");
    let secret = "s3://key:canary@store.example/a";
    for (name, root) in [("a", "/b"), ("b", "/a"), ("c", secret)] {
        let layout = json!({"ingest": "s1", "dvr_backups": ["s2"]});
        let body = json!({"dvr": {"root": root, "redundancy_factor": 2}, "layout": layout});
        let saved = server
            .put(&format!("/streams/{name}"), body)
            .expect(200)
            .json();
        assert_eq!(saved["config_on_disk"]["dvr"]["root"], root);
        assert_eq!(saved["dvr"]["root"], root);
    }
    server.put("/streams/d", json!({})).expect(200);
    for (query, expected) in [
        ("dvr.root=%2Fa", vec!["b"]),
        ("dvr.root_is=null", vec!["d"]),
        ("dvr.root_like=%2F&sort=-dvr.root", vec!["c", "a", "b"]),
        ("dvr.root_like=canary", vec![]),
    ] {
        let page = server.get(&format!("/streams?{query}")).expect(200).json();
        assert_eq!(names(&page), expected, "{query}");
    }
    let page = server
        .get("/streams?select=name,dvr.root&sort=name")
        .expect(200)
        .json();
    let masked = "s3://key:***@store.example/a";
    let roots: Vec<&Value> = (0..3).map(|i| &page["streams"][i]["dvr"]["root"]).collect();
    assert_eq!(roots, ["/b", "/a", masked]);
    // The mask that was read keeps the secret, a storage elsewhere does not get it.
    server
        .put("/streams/c", json!({"dvr": {"root": masked}}))
        .expect(200);
    let other = json!({"dvr": {"root": "s3://key:***@other.example/a"}});
    server.put("/streams/c", other).expect(400);
    for host in ["s1", "s2"] {
        let config = server
            .get(&format!("/streamers/{host}/streams"))
            .expect(200)
            .json();
        let stream = config["streams"].as_array().expect("a list");
        let stream = stream
            .iter()
            .find(|it| it["name"] == "c")
            .expect("is there");
        assert_eq!(stream["dvr"]["root"], secret, "{host}");
    }
    server
        .put("/streams/a", json!({"dvr": {"root": "a b://"}}))
        .expect(400);
    server
        .put("/streams/a", json!({"dvr": {"root": null}}))
        .expect(200);
    let page = server.get("/streams?dvr.root_is=null").expect(200).json();
    assert_eq!(names(&page), ["a", "d"]);
}

#[test]
fn titles_of_errors_name_the_field() {
    let server = TestServer::new();
    save_node(&server, "s1");
    server.put("/streams/a", json!({})).expect(200);
    for (path, body, title) in [
        (
            "/streams/a",
            json!({"segment_duration": 5}),
            "`segment_duration` must be 1000 to 15000",
        ),
        (
            "/streams/a",
            json!({"title": 5}),
            "`title` must be a string",
        ),
        (
            "/streams/a",
            json!({"inputs": [null]}),
            "Item 0 of `inputs` must not be null",
        ),
        (
            "/streams/a",
            json!({"inputs": [5]}),
            "Item 0 of `inputs` must be an object",
        ),
        (
            "/streams/a",
            json!({"$reset": 5}),
            "`$reset` must be true or false",
        ),
        (
            "/streams/a",
            json!({"retry_limit": -1}),
            "`retry_limit` must be at least 0",
        ),
        (
            "/streamers/s2",
            json!({"role": "streamer"}),
            "`cluster_key` is required",
        ),
        (
            "/episodes/1",
            json!({"updated_at": "x"}),
            "`updated_at` must be an integer",
        ),
    ] {
        let errors = server.put(path, body.clone()).expect(400).json();
        assert_eq!(errors["errors"][0]["title"], title, "{path} {body}");
    }
    let config = json!({"api_key": weir_testkit::API_KEY, "layouter_enabled": 5});
    let errors = server.put("/config", config).expect(400).json();
    let title = errors["errors"][0]["title"].as_str().expect("a title");
    assert!(title.starts_with("`layouter_enabled` "), "{title}");
    for (query, title) in [
        (
            "position=x",
            "Parameter `position` takes integers of 64 bits",
        ),
        ("static=x", "Parameter `static` takes true or false"),
        (
            "poll_timeout=x",
            "Parameter `poll_timeout` must be a whole number of seconds",
        ),
    ] {
        let errors = server.get(&format!("/streams?{query}")).expect(400).json();
        assert_eq!(errors["errors"][0]["title"], title, "{query}");
    }
}

#[test]
fn errors_of_batches_have_the_name_and_the_value() {
    let server = TestServer::new();
    save_node(&server, "s1");
    server.put("/streams/a", json!({})).expect(200);
    let metas = |method: &str, path: &str, body: Value| -> Vec<(Value, Value)> {
        let body = body.to_string();
        let refused = server
            .call(method, path, body.as_bytes())
            .expect(400)
            .json();
        let errors = refused["errors"].as_array().expect("errors").clone();
        let meta = |error: &Value| {
            (
                error["meta"]["name"].clone(),
                error["meta"]["value"].clone(),
            )
        };
        errors.iter().map(meta).collect()
    };
    let bad_url = json!([
        {"name": "a"},
        {"name": "b/1", "inputs": [{"url": "nothing://user:secret@h"}], "title": 5},
    ]);
    let found = metas("PUT", "/streams/batch", bad_url);
    assert!(
        found.len() == 2 && found.iter().all(|(name, _)| name == "b/1"),
        "{found:?}"
    );
    let values: Vec<&str> = found
        .iter()
        .filter_map(|(_, value)| value.as_str())
        .collect();
    assert!(values.contains(&"5"), "{found:?}");
    assert!(
        values.iter().any(|value| value.contains("nothing://")),
        "{found:?}"
    );
    assert!(
        !values.iter().any(|value| value.contains("secret")),
        "{found:?}"
    );
    let long = json!([{"hostname": "s2", "cluster_key": 5, "comment": ["x".repeat(1000)]}]);
    let found = metas("PUT", "/streamers/batch", long);
    assert!(found.iter().all(|(name, _)| name == "s2"), "{found:?}");
    assert!(
        found
            .iter()
            .all(|(_, value)| value.as_str().is_none_or(|it| it.len() <= 200))
    );
    // What only the stored state can refuse.
    let layouts = json!({"layouts": [{"name": "a", "ingest": "gone"}]});
    assert_eq!(metas("POST", "/streams/layouts", layouts)[0].0, "a");
    let layouts = json!({"layouts": [{"name": "gone", "ingest": "s1"}]});
    assert_eq!(metas("POST", "/streams/layouts", layouts)[0].0, "gone");
}
