//! Entity tags and conditional requests, for every operation that names one entity.

use std::collections::BTreeSet;
use std::thread;

use serde_json::{Value, json};

use crate::calls::{
    body_text, etag, get_request, lay_out, park_request, save_episodes_together, save_node,
};
use crate::described::{Document, Operation};
use crate::restricted::token;
use crate::round_trip::{keyed, with_one_of_each};
use weir_testkit::{API_KEY, PREFIX, Response, TestServer};

/// Sends a request as an administrator, with further fields.
fn send(
    server: &TestServer,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &Value,
) -> Response {
    let body = body_text(body);
    server.call_with(method, path, fields, body.as_bytes())
}

fn put_if(server: &TestServer, path: &str, field: (&str, &str), body: &Value) -> Response {
    send(server, "PUT", path, &[field], body)
}

/// The saves of single entities.
fn saves(document: &Document) -> Vec<Operation> {
    let mut saves = document.with_bodies();
    saves.retain(Operation::is_save);
    assert!(saves.len() >= 8);
    saves
}

/// A small change of the nth entity of a kind.
fn change(operation: &Operation, n: usize) -> Value {
    match operation.id.as_str() {
        "stream_save" => json!({"title": format!("title {n}")}),
        "streamer_save" => json!({"channel_limit": 100 + n}),
        "agent_save" => json!({"key": format!("key {n}")}),
        "api_token_save" => json!({"key": format!("key{n}")}),
        "auth_backend_save" => json!({"allow_tokens": [format!("t{n}")]}),
        "load_balancer_save" => json!({"servers": [{"name": format!("s{n}")}]}),
        "episode_save" => json!({"opened_at": 1_700_000_000_000_u64 + n as u64}),
        "person_save" => json!({"external_id": format!("id {n}")}),
        other => panic!("{other} is not known to this test"),
    }
}

#[test]
fn every_entity_has_a_tag_that_changes_with_it() {
    let document = Document::new();
    let mut server = with_one_of_each(&document);
    let mut tags = BTreeSet::new();
    let mut last = Vec::new();
    for save in saves(&document) {
        let path = save.path_of(0);
        let read = server.get(&path).expect(200);
        let tag = etag(&read);
        assert!(tag.starts_with('"') && tag.ends_with('"'), "{path}: {tag}");
        let head = send(&server, "HEAD", &path, &[], &Value::Null).expect(200);
        assert_eq!(etag(&head), tag, "{path}");
        let saved = server.put(&path, change(&save, 1)).expect(200);
        assert_ne!(etag(&saved), tag, "{path}");
        let read = server.get(&path).expect(200);
        assert_eq!(etag(&read), etag(&saved), "{path}");
        let again = server.put(&path, change(&save, 1)).expect(200);
        assert_eq!(etag(&again), etag(&saved), "{path}: nothing has changed");
        assert!(tags.insert(tag) && tags.insert(etag(&saved)), "{path}");
        last.push((path, etag(&saved)));
    }
    server.restart();
    for (path, tag) in last {
        assert_eq!(etag(&server.get(&path)), tag, "{path} after a restart");
    }
}

#[test]
fn unchanged_entity_is_answered_with_304() {
    let document = Document::new();
    let server = with_one_of_each(&document);
    for save in saves(&document) {
        let path = save.path_of(0);
        let tag = etag(&server.get(&path));
        for method in ["GET", "HEAD"] {
            for known in [
                tag.clone(),
                format!("W/{tag}"),
                format!("\"x\" ,{tag}, W/\"y\""),
                "*".to_owned(),
            ] {
                let fields = [("If-None-Match", known.as_str())];
                let answer = send(&server, method, &path, &fields, &Value::Null);
                assert_eq!(answer.status, 304, "{method} {path} {known}");
                assert_eq!(etag(&answer), tag, "{method} {path} {known}");
                assert!(answer.body.is_empty());
            }
            let other = [("If-None-Match", "\"other\"")];
            send(&server, method, &path, &other, &Value::Null).expect(200);
        }
        // Two lines are one list.
        let fields = [("If-None-Match", "\"x\""), ("If-None-Match", &tag)];
        send(&server, "GET", &path, &fields, &Value::Null).expect(304);
        server.put(&path, change(&save, 1)).expect(200);
        let fields = [("If-None-Match", tag.as_str())];
        send(&server, "GET", &path, &fields, &Value::Null).expect(200);
        let fields = [("If-Match", tag.as_str())];
        send(&server, "GET", &path, &fields, &Value::Null).expect(412);
    }
}

#[test]
fn stale_tag_refuses_every_save_and_deletion() {
    let document = Document::new();
    let server = with_one_of_each(&document);
    for save in saves(&document) {
        let path = save.path_of(0);
        let tag = etag(&server.get(&path));
        let stale = ("If-Match", tag.as_str());
        let saved = put_if(&server, &path, stale, &change(&save, 1)).expect(200);
        for method in ["PUT", "DELETE"] {
            let body = match method {
                "PUT" => change(&save, 2),
                _ => Value::Null,
            };
            let refused = |field: (&str, &str)| {
                let answer = send(&server, method, &path, &[field], &body);
                assert_eq!(answer.status, 412, "{method} {path} {field:?}");
                assert_eq!(answer.errors(), ["precondition_failed"]);
                let title = answer.json()["errors"][0]["title"].to_string();
                assert!(title.contains(field.0), "{title}");
            };
            refused(stale);
            let new = etag(&saved);
            refused(("If-Match", &format!("W/{new}")));
            refused(("If-Match", "\"\""));
            refused(("If-None-Match", &new));
            refused(("If-None-Match", &format!("W/{new}")));
            refused(("If-None-Match", "*"));
            assert_eq!(etag(&server.get(&path)), new, "{method} {path}");
        }
        let any = put_if(&server, &path, ("If-Match", "*"), &change(&save, 3)).expect(200);
        let list = format!("\"x\", {tag},{}", etag(&any));
        send(
            &server,
            "DELETE",
            &path,
            &[("If-Match", &list)],
            &Value::Null,
        )
        .expect(204);
        // The 77th does not exist.
        let path = save.path_of(77);
        let described = document.flat(save.body.as_ref().expect("a body"));
        let body = keyed(&save, &document, 77, &document.minimal(&described));
        put_if(&server, &path, ("If-Match", "*"), &body).expect(412);
        put_if(&server, &path, stale, &body).expect(412);
        send(&server, "DELETE", &path, &[stale], &Value::Null).expect(404);
        server.get(&path).expect(404);
        put_if(&server, &path, ("If-None-Match", "*"), &body).expect(200);
        put_if(&server, &path, ("If-None-Match", "*"), &body).expect(412);
    }
}

#[test]
fn malformed_condition_is_refused() {
    let server = TestServer::new();
    server.put("/streams/a", json!({})).expect(200);
    for field in ["If-Match", "If-None-Match"] {
        for value in [
            "",
            "x",
            "\"x",
            "x\"",
            "\"x\" \"y\"",
            "*, \"x\"",
            "w/\"x\"",
            "\"a b\"",
            ",",
        ] {
            for method in ["GET", "PUT", "DELETE"] {
                let body = if method == "PUT" {
                    json!({})
                } else {
                    Value::Null
                };
                let answer = send(&server, method, "/streams/a", &[(field, value)], &body);
                assert_eq!(answer.status, 400, "{method} {field}: {value}");
                assert_eq!(answer.errors(), ["bad_field"], "{method} {field}: {value}");
                let title = answer.json()["errors"][0]["title"].to_string();
                assert!(title.contains(field), "{title}");
            }
        }
        let twice = [(field, "*"), (field, "\"x\"")];
        send(&server, "GET", "/streams/a", &twice, &Value::Null).expect(400);
    }
}

#[test]
fn invalid_body_comes_before_a_stale_tag() {
    let server = TestServer::new();
    server.put("/streams/a", json!({})).expect(200);
    let stale = ("If-Match", "\"stale\"");
    put_if(&server, "/streams/a", stale, &json!({"title": 5})).expect(400);
    put_if(&server, "/streams/a", stale, &json!({"title": "t"})).expect(412);
}

#[test]
fn no_update_is_lost_under_concurrent_writers() {
    // Goal: every accepted change is made on the version that its writer read. Method: writers
    // append to a list, each to what it read; an update that is lost is missing from the list.
    const WRITERS: usize = 6;
    const ROUNDS: usize = 12;
    let server = TestServer::with(&["--episodes-buffer-delay", "20ms"]);
    for path in ["/streams/a", "/auth_backends/a"] {
        server.put(path, json!({})).expect(200);
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let server = &server;
                scope.spawn(move || append(server, path, writer, ROUNDS));
            }
        });
        let list = list_of(path, &server.get(path).expect(200).json());
        assert_eq!(list.len(), WRITERS * ROUNDS, "{path}: {list:?}");
    }
}

fn list_of(path: &str, entity: &Value) -> Vec<String> {
    let texts = |list: &Value, key: Option<&str>| -> Vec<String> {
        let items = list.as_array().into_iter().flatten();
        let text = |item: &Value| {
            let item = key.map_or(item, |key| &item[key]);
            item.as_str().expect("a text").to_owned()
        };
        items.map(text).collect()
    };
    match path {
        "/streams/a" => texts(&entity["inputs"], Some("url")),
        _ => texts(&entity["allow_tokens"], None),
    }
}

fn append(server: &TestServer, path: &str, writer: usize, rounds: usize) {
    for round in 0..rounds {
        loop {
            let read = server.get(path).expect(200);
            let mut list = list_of(path, &read.json());
            let body = match path {
                "/streams/a" => {
                    list.push(format!("udp://239.0.{writer}.{round}:1"));
                    let url = |url: &String| json!({"url": url});
                    json!({"inputs": list.iter().map(url).collect::<Vec<_>>()})
                }
                _ => {
                    list.push(format!("{writer}-{round}"));
                    json!({"allow_tokens": list})
                }
            };
            let tag = etag(&read);
            let saved = put_if(server, path, ("If-Match", &tag), &body);
            if saved.status == 200 {
                break;
            }
            saved.expect(412);
        }
    }
}

#[test]
fn saves_of_one_batch_do_not_share_a_tag() {
    // Goal: of two saves that are committed together, the answer to the first does not give its
    // client the tag of the second. Method: the buffer of episodes commits both at once.
    let server = TestServer::with(&["--episodes-buffer-delay", "400ms"]);
    save_episodes_together(&server);
    let body = |n: u64| json!({"media": "a", "opened_at": 1_700_000_000_000_u64 + n});
    let request = |n: u64| {
        let body = body(n).to_string();
        format!(
            "PUT {PREFIX}/episodes/7 HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {API_KEY}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let mut first = park_request(&server, &request(1));
    let mut second = park_request(&server, &request(2));
    let (first, second) = (first.response(false), second.response(false));
    let (first, second) = (first.expect(200), second.expect(200));
    let same_batch = first.json()["updated_at"] == second.json()["updated_at"];
    assert!(same_batch, "{} {}", first.text(), second.text());
    let read = server.get("/episodes/7").expect(200);
    assert_eq!(read.json()["opened_at"], 1_700_000_000_002_u64);
    assert_eq!(etag(&read), etag(&second));
    if let Some(tag) = first.etag() {
        put_if(&server, "/episodes/7", ("If-Match", tag), &body(3)).expect(412);
    }
}

#[test]
fn tag_follows_the_layout_and_run_time_facts_prevent_304() {
    let server = TestServer::new();
    for host in ["s1", "s2"] {
        save_node(&server, host);
    }
    server
        .put(
            "/streams/a",
            json!({"inputs": [{"url": "udp://239.0.0.1:1"}]}),
        )
        .expect(200);
    let unplaced = etag(&server.get("/streams/a"));
    lay_out(&server, &[("a", "s1")]);
    let placed = etag(&server.get("/streams/a"));
    assert_ne!(placed, unplaced);
    let known = [("If-None-Match", placed.as_str())];
    send(&server, "GET", "/streams/a", &known, &Value::Null).expect(304);
    // A report of the node changes what is shown, not what is stored.
    let report = |bitrate: u64| {
        let stats = json!({"name": "a", "alive": true, "bitrate": bitrate});
        let body = json!({"stats": {"cpu_usage": bitrate / 100}, "streams": [stats]});
        let answer = server.put("/streamers/s1/stats", body);
        assert!(matches!(answer.status, 200 | 204), "{}", answer.text());
    };
    for path in ["/streams/a", "/streamers/s1"] {
        let before = server.get(path).expect(200);
        report(1000);
        let known = etag(&before);
        let answer = send(
            &server,
            "GET",
            path,
            &[("If-None-Match", &known)],
            &Value::Null,
        );
        let answer = answer.expect(200);
        assert_ne!(etag(&answer), known, "{path}: another body");
        report(2000);
        let known = etag(&answer);
        let newer = send(
            &server,
            "GET",
            path,
            &[("If-None-Match", &known)],
            &Value::Null,
        );
        assert_ne!(etag(&newer.expect(200)), known, "{path}: another body");
        // The stored entity is the same.
        let body = json!({"labels": {"x": "y"}});
        put_if(&server, path, ("If-Match", &etag(&before)), &body).expect(200);
    }
}

#[test]
fn items_of_batches_have_conditions() {
    let server = TestServer::new();
    for host in ["s1", "s2"] {
        save_node(&server, host);
    }
    for name in ["a", "b", "c"] {
        server
            .put(&format!("/streams/{name}"), json!({}))
            .expect(200);
    }
    server.put("/agents/1", json!({"key": "k"})).expect(200);
    let tag = |path: &str| etag(&server.get(path));
    let stale = json!("\"stale\"");
    let a = tag("/streams/a");
    let batch = |items: Value| server.put("/streams/batch", items);
    let refused = batch(json!([
        {"name": "a", "title": "1", "if_match": a},
        {"name": "b", "title": "1", "if_match": stale},
        {"name": "new", "title": "1", "if_match": "*"},
        {"name": "c", "title": "1", "if_match": ""},
    ]));
    let errors = [
        "precondition_failed /1/if_match",
        "precondition_failed /2/if_match",
    ];
    assert_eq!(refused.errors(), errors);
    let refused = refused.expect(412).json();
    assert_eq!(refused["errors"][0]["meta"]["name"], "b");
    assert_eq!(tag("/streams/a"), a, "nothing was changed");
    batch(json!([{"name": "a", "title": "1", "if_match": a}, {"name": "b", "if_match": "*"}]))
        .expect(204);
    assert!(server.get("/streams/a").json()["config_on_disk"]["if_match"].is_null());
    for (value, code) in [(json!(5), "not_string"), (json!("x"), "wrong_format")] {
        let answer = batch(json!([{"name": "a", "if_match": value}])).expect(400);
        assert_eq!(answer.errors(), [format!("{code} /0/if_match")]);
    }
    let nodes = json!([{"hostname": "s1", "if_match": stale}]);
    let answer = server.put("/streamers/batch", nodes).expect(412);
    assert_eq!(answer.errors(), ["precondition_failed /0/if_match"]);
    let nodes = json!([{"hostname": "s1", "channel_limit": 7, "if_match": tag("/streamers/s1")}]);
    server.put("/streamers/batch", nodes).expect(204);
    for (path, key, of) in [
        ("/streams/layouts", "name", "a"),
        ("/agents/layouts", "id", "1"),
    ] {
        let entity = if key == "id" {
            "/agents/1"
        } else {
            "/streams/a"
        };
        let layouts = |tag: &Value| {
            let mut item = json!({"ingest": "s1", "if_match": tag});
            item[key] = of.into();
            json!({"layouts": [item]})
        };
        let before = tag(entity);
        let answer = server.post(path, layouts(&stale)).expect(412);
        assert_eq!(answer.errors(), ["precondition_failed /layouts/0/if_match"]);
        assert_eq!(tag(entity), before);
        server.post(path, layouts(&json!(before))).expect(204);
        assert_ne!(tag(entity), before);
    }
}

#[test]
fn conditions_reveal_nothing_to_restricted_tokens() {
    let server = TestServer::new();
    server.put("/streams/mine", json!({})).expect(200);
    server.put("/streams/other", json!({})).expect(200);
    let scopes = json!([{"scopes": ["streams/mine"], "read": true, "write": true}]);
    let restricted = token(&server, "restricted", json!({"permissions": scopes}));
    for name in ["other", "absent"] {
        for field in ["If-Match", "If-None-Match"] {
            for value in ["*", "\"x\"", "nonsense"] {
                for (method, body) in [("GET", ""), ("PUT", "{}"), ("DELETE", "")] {
                    let path = format!("{PREFIX}/streams/{name}");
                    let fields = [("Authorization", restricted.as_str()), (field, value)];
                    let answer = server
                        .connect()
                        .request(method, &path, &fields, body.as_bytes());
                    assert_eq!(answer.status, 403, "{method} {name} {field}: {value}");
                    assert_eq!(answer.etag(), None);
                }
            }
        }
    }
    let items = json!([{"name": "mine"}, {"name": "other", "if_match": "\"x\""}]);
    let path = format!("{PREFIX}/streams/batch");
    let fields = [("Authorization", restricted.as_str())];
    let body = items.to_string();
    server
        .connect()
        .request("PUT", &path, &fields, body.as_bytes())
        .expect(403);
}

#[test]
fn masked_answers_have_a_form_of_their_own() {
    // Goal: a cache that serves two callers does not give one the 304 of the other's body.
    let server = TestServer::new();
    let body = json!({"inputs": [{"url": "rtsp://u:secret@10.0.0.1/a"}]});
    server.put("/streams/a", body).expect(200);
    let scopes = json!([{"scopes": ["streams/a"], "read": true, "write": true}]);
    let reader = token(&server, "reader", json!({"permissions": scopes}));
    let path = format!("{PREFIX}/streams/a");
    let shown = etag(&server.get("/streams/a"));
    let send = |method: &str, field: (&str, &str), body: &str| {
        let fields = [("Authorization", reader.as_str()), field];
        server
            .connect()
            .request(method, &path, &fields, body.as_bytes())
    };
    let masked = send("GET", ("If-None-Match", &shown), "").expect(200);
    assert!(masked.text().contains("***"));
    send("GET", ("If-None-Match", &etag(&masked)), "").expect(304);
    // Both name the same stored stream.
    let saved = send("PUT", ("If-Match", &etag(&masked)), r#"{"title":"t"}"#).expect(200);
    send("PUT", ("If-Match", &etag(&saved)), r#"{"title":"u"}"#).expect(200);
}

#[test]
fn compressed_answer_has_a_strong_tag_for_if_match() {
    let server = TestServer::new();
    let body = json!({"comment": "long ".repeat(2000)});
    let plain = server.put("/streams/a", body).expect(200);
    for coding in ["gzip", "zstd"] {
        let fields = [("Accept-Encoding", coding)];
        let read = send(&server, "GET", "/streams/a", &fields, &Value::Null).expect(200);
        assert_eq!(read.header("content-encoding"), Some(coding));
        let tag = etag(&read);
        assert!(tag.starts_with('"') && tag != etag(&plain), "{tag}");
        let fields = [("Accept-Encoding", coding), ("If-None-Match", tag.as_str())];
        let answer = send(&server, "GET", "/streams/a", &fields, &Value::Null).expect(304);
        assert_eq!(etag(&answer), tag);
        put_if(&server, "/streams/a", ("If-Match", &tag), &json!({})).expect(200);
    }
}

#[test]
fn checked_save_of_a_streamer_is_conditional() {
    let server = TestServer::new();
    save_node(&server, "s1");
    let path = "/streamers/s1?checks_enable=true";
    // Refused before the node is called, which would fail.
    put_if(
        &server,
        path,
        ("If-Match", "\"x\""),
        &json!({"channel_limit": 7}),
    )
    .expect(412);
    put_if(
        &server,
        path,
        ("If-Match", "*"),
        &json!({"channel_limit": 7}),
    )
    .expect(400);
}

#[test]
fn web_pages_may_read_tags_and_send_conditions() {
    let origin = "https://ui.example";
    let server = TestServer::with(&["--cors-origins", origin]);
    server.put("/streams/a", json!({})).expect(200);
    let fields = [("Origin", origin)];
    let answer = send(&server, "GET", "/streams/a", &fields, &Value::Null).expect(200);
    assert!(answer.etag().is_some());
    let exposed = answer.header("access-control-expose-headers");
    assert!(exposed.is_some_and(|exposed| exposed == "*" || exposed.contains("ETag")));
    let request = get_request("/streams/a", "").replace("GET", "OPTIONS");
    let request = request.replace(
        "\r\n\r\n",
        &format!("\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: PUT\r\n\r\n"),
    );
    let mut client = server.connect();
    client.send(request.as_bytes());
    let preflight = client.response(false).expect(204);
    let allowed = preflight
        .header("access-control-allow-headers")
        .expect("allowed");
    for field in ["If-Match", "If-None-Match"] {
        assert!(allowed.contains(field), "{allowed}");
    }
}

#[test]
fn document_describes_conditions_of_every_entity() {
    let document: Value = serde_json::from_str(weir::testing::openapi::served()).expect("JSON");
    for save in saves(&Document::new()) {
        let item = &document["paths"][&save.template];
        for method in ["get", "put", "delete"] {
            let operation = &item[method];
            let shown = format!("{method} {}", save.template);
            let responses = &operation["responses"];
            if method != "delete" {
                assert!(responses["200"]["headers"]["ETag"].is_object(), "{shown}");
            }
            assert!(responses["412"].is_object(), "{shown}");
            assert_eq!(responses["304"].is_object(), method == "get", "{shown}");
            let names: Vec<&str> = operation["parameters"]
                .as_array()
                .expect("parameters")
                .iter()
                .filter(|parameter| parameter["in"] == "header")
                .filter_map(|parameter| parameter["name"].as_str())
                .collect();
            assert_eq!(names, ["If-Match", "If-None-Match", "Prefer"], "{shown}");
        }
    }
    for (path, item) in [
        ("/streams/batch", "central_stream_config_batch_item"),
        ("/streamers/batch", "streamer_config_batch_item"),
    ] {
        let operation = &document["paths"][path]["put"];
        assert!(operation["responses"]["412"].is_object(), "{path}");
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        let named = format!("#/components/schemas/{item}");
        assert_eq!(schema["items"]["$ref"], named, "{path}");
    }
    let schemas = &document["components"]["schemas"];
    for item in [
        "central_stream_config_batch_item",
        "central_streamer_node_batch_item",
        "central_inference_node_batch_item",
        "central_identification_node_batch_item",
        "central_stream_layout_list_item_batch_item",
        "central_agent_layout_list_item_batch_item",
    ] {
        let condition = &schemas[item]["properties"]["if_match"];
        assert_eq!(condition["type"], "string", "{item}");
    }
}
