//! What events are about: the members that a call changed, the entities of a batch, the moves of
//! the layouter, and the filter that finds all of one stream.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::calls::{etag, park, park_request};
use crate::event::{check_form, events, stream};
use crate::faults::limit_files;
use crate::fleet;
use crate::restricted::token;
use weir_testkit::{API_KEY, PREFIX, TestServer, encode_segment, wait_until};

/// Elements of a list in an event.
const SHOWN: usize = 100;
/// Ids of the events of one commit.
const IDS_PER_COMMIT: u64 = 1 << 16;

/// The operations of these events, with the reason of a move.
fn operations(events: &[Value]) -> Vec<&str> {
    let operation = |event: &Value| match &event["operation_id"] {
        Value::String(_) => "operation_id",
        _ => "event",
    };
    let names = events.iter().map(|event| event[operation(event)].as_str());
    names.collect::<Option<Vec<_>>>().expect("names")
}

fn last(server: &TestServer) -> Value {
    let page = server.get("/events?limit=1").expect(200).json();
    page["events"][0].clone()
}

fn id(event: &Value) -> u64 {
    event["event_id"].as_u64().expect("an id")
}

#[test]
fn changed_members_are_in_the_event_without_their_values() {
    let server = TestServer::new();
    let secret = "canary-77";
    let saw = |path: &str, body: Value, changed: Value| {
        let answer = server.put(path, body);
        assert!(
            matches!(answer.status, 200 | 204),
            "{path}: {}",
            answer.text()
        );
        let event = last(&server);
        check_form(std::slice::from_ref(&event));
        assert_eq!(event["changed"], changed, "{path}: {event}");
        assert_eq!(event["changed_count"], Value::Null, "{event}");
        let text = event.to_string();
        assert!(!text.contains(secret), "{text}");
    };
    let created = json!({"title": "one", "inputs": [{"url": "udp://239.0.0.1:1234"}]});
    saw("/streams/a", created, json!(["/inputs", "/title"]));
    let edit = json!({"labels": {"site": "x"}, "disabled": true});
    saw("/streams/a", edit, json!(["/disabled", "/labels/site"]));
    let edit = json!({"labels": {"site": null, "zone": "y"}});
    saw("/streams/a", edit, json!(["/labels/site", "/labels/zone"]));
    let url = format!("rtsp://user:{secret}@10.0.0.1/x");
    let edit = json!({"inputs": [{"url": url}], "jpeg_snapshot_sign_key": secret});
    let secrets = json!(["/inputs/0/url", "/jpeg_snapshot_sign_key"]);
    saw("/streams/a", edit, secrets);
    // A mask keeps what is stored: only the title changes.
    let inputs = json!([{"url": "rtsp://user:***@10.0.0.1/x"}]);
    let edit = json!({"title": "two", "jpeg_snapshot_sign_key": "***", "inputs": inputs});
    saw("/streams/a", edit, json!(["/title"]));
    let node = json!({"role": "streamer", "cluster_key": secret});
    saw("/streamers/s1", node, json!(["/cluster_key", "/role"]));
    let edit = json!({"cluster_key": "***", "channel_limit": 5});
    saw("/streamers/s1", edit, json!(["/channel_limit"]));
    let edit = json!({"layout": {"ingest": "s1"}});
    saw("/streams/a", edit, json!(["/layout/ingest"]));
    let agent = json!({"key": secret});
    saw("/agents/a1", agent, json!(["/key"]));
    let edit = json!({"layout": {"ingest": "s1"}});
    saw("/agents/a1", edit, json!(["/layout/ingest"]));
    // A batch has those of all its items.
    let batch = json!([{"name": "a", "title": "three"}, {"name": "b", "disabled": true}]);
    saw("/streams/batch", batch, json!(["/title", "/disabled"]));
    let batch = json!([{"hostname": "s1", "cluster_key": "***", "is_restreamer": true}]);
    saw("/streamers/batch", batch, json!(["/is_restreamer"]));
    let layouts = json!({"layouts": [{"id": "a1", "ingest": null}]});
    server.post("/agents/layouts", layouts).expect(204);
    let event = last(&server);
    assert_eq!(event["changed"], json!(["/layout/ingest"]), "{event}");
    assert_eq!(event["entities"], json!(["a1"]), "{event}");
    assert_eq!(event["entity_type"], "agent", "{event}");
    server.delete("/streams/a").expect(204);
    assert_eq!(last(&server)["changed"], Value::Null);
    let inputs = |port: usize| -> Value {
        let url = |i: usize| format!("udp://239.0.0.1:{}", port + i);
        let inputs = (0..80).map(|i| json!({ "url": url(i) }));
        json!({"inputs": inputs.collect::<Vec<_>>()})
    };
    server.put("/streams/c", inputs(1000)).expect(200);
    server.put("/streams/c", inputs(2000)).expect(200);
    let event = last(&server);
    assert_eq!(
        event["changed"].as_array().map(Vec::len),
        Some(50),
        "{event}"
    );
    assert_eq!(event["changed_count"], 80, "{event}");
    check_form(&[event]);
}

#[test]
fn changed_settings_are_in_the_event_also_after_a_restart() {
    let key = "changed-key-0123456789";
    let mut server = TestServer::with_file(&format!("api_key = \"{key}\"\n"));
    let bearer = format!("Bearer {key}");
    let call = |server: &TestServer, method: &str, path: &str, body: &str| {
        let fields = [("Authorization", bearer.as_str())];
        let path = format!("{PREFIX}{path}");
        let mut client = server.connect();
        client
            .request(method, &path, &fields, body.as_bytes())
            .expect(200)
    };
    let body = json!({"api_key": "***", "episodes_buffer_limit": 7, "layouter_failback": "false"});
    call(&server, "PUT", "/config", &body.to_string());
    let body = json!({"api_key": key, "episodes_buffer_limit": 8, "layouter_failback": "false"});
    call(&server, "PUT", "/config", &body.to_string());
    for _ in 0..2 {
        let path = "/events?operation_id=config_save&sort=event_id";
        let list = call(&server, "GET", path, "").json();
        let changed: Vec<&Value> = list["events"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|event| &event["changed"])
            .collect();
        let first = json!(["/episodes_buffer_limit", "/layouter_failback"]);
        let second = json!(["/episodes_buffer_limit"]);
        let sorted = |value: &Value| {
            let list = value.as_array().expect("a list").iter();
            list.map(ToString::to_string).collect::<BTreeSet<_>>()
        };
        let changed: Vec<_> = changed.into_iter().map(sorted).collect();
        assert_eq!(changed, [sorted(&first), sorted(&second)], "{list}");
        server.kill();
        server.start();
    }
}

#[test]
fn batch_is_found_by_streams_that_its_event_does_not_show() {
    let mut server = TestServer::new();
    let items = |numbers: std::ops::Range<usize>, title: &str| -> Value {
        let items = numbers.map(|i| json!({"name": format!("b{i:03}"), "title": title}));
        items.collect()
    };
    server
        .put("/streams/batch", items(0..150, "one"))
        .expect(204);
    // Of this one two items change.
    let mut second = items(0..150, "one");
    second[7]["title"] = json!("two");
    second[149]["title"] = json!("two");
    server.put("/streams/batch", second).expect(204);
    // And of this one none: it is no event.
    server
        .put("/streams/batch", items(10..20, "one"))
        .expect(204);
    let refused = json!([{"name": "b000", "title": "x"}, {"name": "b001", "inputs": 5}]);
    server.put("/streams/batch", refused).expect(400);
    for _ in 0..2 {
        let all = events(&server, "event=api_call");
        check_form(&all);
        assert_eq!(all.len(), 2, "{all:?}");
        let shown = all[0]["entities"].as_array().expect("a list");
        assert_eq!(
            (shown.len(), &all[0]["entities_count"]),
            (SHOWN, &json!(150))
        );
        assert_eq!((&shown[0], &shown[99]), (&json!("b000"), &json!("b099")));
        assert_eq!(all[0]["entity_type"], "stream");
        assert_eq!(all[1]["entities"], json!(["b007", "b149"]));
        assert_eq!(all[1]["entities_count"], 2);
        for (name, found) in [("b007", 2), ("b050", 1), ("b149", 2), ("b120", 1), ("c", 0)] {
            let list = events(&server, &format!("stream={name}"));
            assert_eq!(list.len(), found, "{name}");
        }
        assert_eq!(events(&server, "stream=b149,c&stream_ne=b120").len(), 1);
        assert_eq!(events(&server, "stream_ne=b149&event=api_call").len(), 0);
        server.restart();
    }
}

#[test]
fn stream_filter_finds_everything_about_a_stream() {
    let mut server = fleet::server(&["--layouter-sleeping-interval", "100ms"]);
    fleet::save_streamer(&server, "s1", json!({}));
    let mut streamers = fleet::Fleet::new();
    streamers.join(&server, &["s1"]);
    for name in ["harbour/cam1", "harbour/cam10", "other"] {
        let path = format!("/streams/{}", encode_segment(name));
        server.put(&path, json!({"static": true})).expect(200);
    }
    let found = |server: &TestServer, name: &str, query: &str| {
        events(server, &format!("stream={}&{query}", encode_segment(name)))
    };
    let moved = |list: &Vec<Value>| list.iter().any(|it| it["relayouts"].is_array());
    let look = || found(&server, "harbour/cam1", "");
    wait_until("it is placed", look, moved);
    let batch = json!([{"name": "harbour/cam1", "title": "x"}, {"name": "other", "title": "y"}]);
    server.put("/streams/batch", batch).expect(204);
    let layouts = json!({"layouts": [{"name": "harbour/cam1", "ingest": null}]});
    server.post("/streams/layouts", layouts).expect(204);
    let places = |list: &Vec<Value>| list.iter().filter(|it| it["relayouts"].is_array()).count();
    wait_until("it is placed again", look, |list| places(list) == 2);
    server.delete("/streams/harbour/cam1").expect(204);
    let expected = [
        "stream_save",
        "layouter_processing_result",
        "streams_batch_update",
        "batch_update_streams_layouts",
        "layouter_processing_result",
        "stream_delete",
    ];
    for _ in 0..2 {
        let list = found(&server, "harbour/cam1", "");
        check_form(&list);
        assert_eq!(operations(&list), expected);
        let first = &list[1];
        let placed = first["relayouts"].as_array().expect("a list").iter();
        let placed = placed.filter(|it| it["name"] == "harbour/cam1");
        let wanted = json!({"ingest": "s1", "name": "harbour/cam1", "why": "not_distributed"});
        assert_eq!(placed.collect::<Vec<_>>(), [&wanted]);
        // Together with other parameters of a list.
        assert_eq!(found(&server, "harbour/cam1", "event=api_call").len(), 4);
        let selected = found(
            &server,
            "harbour/cam1",
            "select=operation_id,stream&status=204",
        );
        assert_eq!(selected.len(), 3, "{selected:?}");
        let keys: Vec<_> = selected[0].as_object().expect("an event").keys().collect();
        assert_eq!(keys, ["event", "event_id", "operation_id", "stream"]);
        let mut walked = Vec::new();
        let mut path = "/events?stream=harbour/cam1&limit=4".to_owned();
        loop {
            let page = server.get(&path).expect(200).json();
            walked.extend(page["events"].as_array().expect("a list").clone());
            assert_eq!(page["estimated_count"], expected.len());
            let Some(next) = page["next"].as_str() else {
                break;
            };
            // The order of the first page goes on, with and without its limit.
            path = format!(
                "/events?stream=harbour/cam1&cursor={}",
                encode_segment(next)
            );
        }
        walked.reverse();
        assert_eq!(walked, list);
        assert_eq!(found(&server, "harbour", "").len(), 0);
        assert_eq!(
            found(&server, "harbour/cam10", "operation_id=stream_delete").len(),
            0
        );
        server.restart();
    }
    for operator in ["_like", "_gt", "_lte"] {
        let path = format!("/events?stream{operator}=harbour");
        let refused = server.get(&path).expect(400);
        assert_eq!(
            refused.errors(),
            [format!("unknown_parameter stream{operator}")]
        );
    }
}

#[test]
fn agent_deletion_is_found_by_the_streams_that_it_deletes() {
    let server = TestServer::new();
    server.put("/agents/a1", json!({"key": "k"})).expect(200);
    let input = json!({"inputs": [{"url": "rtsp://10.0.0.1/", "via": "agent://a1"}]});
    server.put("/streams/relayed", input).expect(200);
    server.delete("/agents/a1").expect(204);
    assert_eq!(server.get("/streams/relayed").status, 404);
    let list = events(&server, "stream=relayed");
    assert_eq!(operations(&list), ["stream_save", "agent_delete"]);
    assert_eq!(list[1]["entity_id"], "a1");
}

#[test]
fn moves_of_a_large_failover_are_counted_and_found() {
    // Goal: a loss of many streams makes no event of megabytes, and hides no stream. Method: both
    // streamers have room for all; the one with all of them is lost.
    let count = 1200_u64;
    let server = fleet::server(&[
        "--streamer-dead-timeout",
        "6s",
        "--layouter-sleeping-interval",
        "100ms",
        "--layouter-rebalance=false",
    ]);
    let room = json!({"channel_limit": 2 * count});
    fleet::save_streamer(&server, "s1", room.clone());
    let mut streamers = fleet::Fleet::new();
    streamers.join(&server, &["s1"]);
    let names = (0..count).map(|i| format!("c{i:04}"));
    fleet::save_all(&server, names, &json!({"static": true}));
    streamers.until(|fleet| fleet.has("s1") as u64 == count);
    fleet::save_streamer(&server, "s2", room);
    streamers.join(&server, &["s2"]);
    let before = fleet::last_event(&server);
    streamers.stop("s1");
    streamers.until(|fleet| fleet.has("s2") as u64 == count);
    let query = format!("event=layouter_processing_result&event_id_gt={before}");
    let moves = events(&server, &query);
    check_form(&moves);
    let mut counted = 0;
    for event in &moves {
        let shown = event["relayouts"].as_array().expect("a list");
        let all = event["relayouts_count"].as_u64().expect("a count");
        assert_eq!(shown.len() as u64, all.min(SHOWN as u64), "{event}");
        let lost = event["relayouts_why"]["node_become_offline"].as_u64();
        let whys = event["relayouts_why"].as_object().expect("an object");
        let whys = whys.values().filter_map(Value::as_u64).sum::<u64>();
        assert_eq!(whys, all, "{event}");
        counted += lost.unwrap_or(0);
        for moved in shown.iter().filter(|it| it["why"] == "node_become_offline") {
            assert_eq!(
                (&moved["from"], &moved["ingest"]),
                (&json!("s1"), &json!("s2"))
            );
        }
        let bytes = event.to_string().len();
        assert!(bytes < 20_000, "{bytes} bytes: {event}");
    }
    let counts = moves.iter().map(|it| it["relayouts_count"].as_u64());
    assert!(counts.max() > Some(Some(SHOWN as u64)), "{moves:?}");
    assert_eq!(counted, count, "each stream moved once");
    let shown: BTreeSet<&str> = moves
        .iter()
        .flat_map(|event| event["relayouts"].as_array().expect("a list"))
        .filter_map(|moved| moved["name"].as_str())
        .collect();
    let mut hidden = (0..count).map(|i| format!("c{i:04}")).filter(|name| {
        let layouts = server.get(&format!("/streams/{name}/layouts")).expect(200);
        assert_eq!(layouts.json()["estimated_count"], 2, "{name}");
        !shown.contains(&**name)
    });
    let name = hidden.next().expect("a stream that no event shows");
    let found = events(&server, &format!("stream={name}&{query}"));
    assert_eq!(found.len(), 1, "{name}");
}

#[test]
fn poll_for_a_stream_wakes_only_for_what_its_token_sees() {
    // Goal: an event out of the sight of a token wakes no poll of it and cannot be read by its id.
    // Method: the token sees only the second of the next events about the stream.
    let server = TestServer::new();
    server.put("/streams/a", stream("zero")).expect(200);
    let saved = id(&last(&server)) / IDS_PER_COMMIT + 1;
    let [other, first, second] = [1, 2, 3].map(|next| (saved + next) * IDS_PER_COMMIT);
    let scopes = json!([{"scopes": [format!("events/{second}")], "list": true, "read": true}]);
    let restricted = token(&server, "restricted", json!({"permissions": scopes}));
    let request = format!(
        "GET {PREFIX}/events?stream=a&poll_timeout=50 HTTP/1.1\r\nHost: t\r\n\
         Authorization: {restricted}\r\n\r\n"
    );
    let mut poll = park_request(&server, &request);
    let newest = format!("/events?stream=a&event_id_gt={first}&poll_timeout=50");
    let mut poll_of_all = park(&server, &newest, "");
    server.put("/streams/b", stream("one")).expect(200);
    server.put("/streams/a", stream("one")).expect(200);
    server.put("/streams/a", stream("two")).expect(200);
    for poll in [&mut poll, &mut poll_of_all] {
        let page = poll.response(false).expect(200).json();
        let ids: Vec<u64> = page["events"]
            .as_array()
            .expect("a list")
            .iter()
            .map(id)
            .collect();
        assert_eq!(ids, [second], "{page}");
        assert_eq!(page["estimated_count"], 1, "{page}");
    }
    let read = |id: &str| server.call_as("GET", &format!("/events/{id}"), Some(&restricted));
    assert_eq!(id(&read(&second.to_string()).expect(200).json()), second);
    for hidden in [first, other, first + 1, u64::MAX] {
        read(&hidden.to_string()).expect(403);
    }
    // Another text for the same number is no way around.
    read(&format!("0{second}")).expect(403);
    let list = json!([{"scopes": ["events/*"], "list": true}]);
    let list = token(&server, "list", json!({"permissions": list}));
    server
        .call_as("GET", "/events?stream=a", Some(&list))
        .expect(200);
    server
        .call_as("GET", &format!("/events/{second}"), Some(&list))
        .expect(403);
    let streams = json!([{"scopes": ["streams/*"], "list": true, "read": true}]);
    let streams = token(&server, "streams", json!({"permissions": streams}));
    server
        .call_as("GET", "/events?stream=a", Some(&streams))
        .expect(403);
}

#[test]
fn one_event_is_read_by_its_id() {
    let mut server = TestServer::new();
    server.put("/streams/a", stream("one")).expect(200);
    let event = last(&server);
    let path = format!("/events/{}", event["event_id"]);
    let read = server.get(&path).expect(200);
    assert_eq!(read.json(), event);
    let tag = etag(&read);
    let bearer = format!("Bearer {API_KEY}");
    let cached = |server: &TestServer| {
        let fields = [("Authorization", &*bearer), ("If-None-Match", &*tag)];
        let answer = server
            .connect()
            .request("GET", &format!("{PREFIX}{path}"), &fields, b"");
        answer.status
    };
    assert_eq!(cached(&server), 304);
    server.restart();
    assert_eq!(cached(&server), 304, "the same after a restart");
    for absent in ["0", "1", "9223372036854775807"] {
        let answer = server.get(&format!("/events/{absent}")).expect(404);
        assert_eq!(answer.errors(), ["event_not_found"]);
    }
    let next = event["event_id"].as_u64().expect("an id") + 1;
    server.get(&format!("/events/{next}")).expect(404);
    for malformed in ["x", "-1", "00", "+1", "9223372036854775808"] {
        let answer = server.get(&format!("/events/{malformed}")).expect(400);
        assert_eq!(answer.errors(), ["wrong_format event_id"], "{malformed}");
    }
    server.call("DELETE", &path, b"").expect(405);
    server.call_as("GET", &path, None).expect(401);
}

#[test]
fn unknown_kind_of_event_is_refused_with_the_known_ones() {
    let server = TestServer::new();
    for query in [
        "event=x",
        "event=api_call,x",
        "event_ne=x",
        "event=",
        "event",
        "event=x&event=api_call",
    ] {
        let refused = server.get(&format!("/events?{query}")).expect(400);
        let parameter = if query.starts_with("event_ne") {
            "event_ne"
        } else {
            "event"
        };
        assert_eq!(
            refused.errors(),
            [format!("unknown_enum_option {parameter}")],
            "{query}"
        );
        let title = refused.json()["errors"][0]["title"].to_string();
        for known in ["api_call", "layouter_processing_result", "clock_doubted"] {
            assert!(title.contains(known), "{title}");
        }
    }
    // Every kind of the schema is known, and every known kind is described.
    let document = server.get("/openapi.json").expect(200).json();
    let schemas = &document["components"]["schemas"];
    let kinds = &schemas["central_event"]["x-discriminator"]["mapping"];
    let kinds = kinds.as_object().expect("kinds");
    let others = schemas["other_event"]["properties"]["event"]["description"].to_string();
    let refused = server.get("/events?event=x").expect(400).json();
    let title = refused["errors"][0]["title"].as_str().expect("a title");
    let (_, known) = title.rsplit_once(": ").expect("a list");
    for kind in known.split(", ") {
        let is_described = kinds.contains_key(kind) || others.contains(&format!("`{kind}`"));
        assert!(is_described, "{kind}");
    }
    for kind in kinds.keys() {
        server
            .get(&format!("/events?event={kind}&event_ne={kind}"))
            .expect(200);
    }
}

#[test]
fn limit_alone_begins_with_the_newest_event() {
    let server = TestServer::new();
    for i in 0..5 {
        server
            .put(&format!("/streams/s{i}"), stream("x"))
            .expect(200);
    }
    let names = |query: &str| {
        let page = server
            .get(&format!("/events?event=api_call&{query}"))
            .expect(200)
            .json();
        let events = page["events"].as_array().expect("a list").iter();
        let name = |event: &Value| event["entity_id"].as_str().expect("a name").to_owned();
        events.map(name).collect::<Vec<_>>().join(" ")
    };
    let all = events(&server, "event=api_call");
    let second = id(&all[1]);
    for (query, expected) in [
        (String::new(), "s0 s1 s2 s3 s4"),
        ("limit=2".to_owned(), "s4 s3"),
        ("limit=2&sort=event_id".to_owned(), "s0 s1"),
        ("limit=2&sort=-event_id".to_owned(), "s4 s3"),
        (format!("limit=2&event_id_gt={second}"), "s2 s3"),
        (format!("limit=2&event_id_gte={second}"), "s1 s2"),
        (format!("limit=2&event_id_lt={second}"), "s0"),
        (format!("event_id_gt={second}"), "s2 s3 s4"),
        (
            format!("limit=2&sort=-event_id&event_id_gt={second}"),
            "s4 s3",
        ),
    ] {
        assert_eq!(names(&query), expected, "{query}");
    }
}

#[test]
fn batch_on_a_full_disk_is_no_event() {
    let server = TestServer::new();
    let title = |title: &str| json!([{"name": "a", "title": title}, {"name": "b", "title": title}]);
    server.put("/streams/batch", title("one")).expect(204);
    limit_files(server.id(), Some(0));
    server.put("/streams/batch", title("two")).expect(503);
    server.put("/streams/batch", title("three")).expect(503);
    let during = events(&server, "stream=a");
    assert_eq!(during.len(), 1, "{during:?}");
    limit_files(server.id(), None);
    let status = || server.put("/streams/batch", title("four")).status;
    wait_until("the store comes back", status, |status| *status == 204);
    // No byte of the others was written.
    for name in ["a", "b"] {
        let list = events(&server, &format!("stream={name}"));
        assert_eq!(operations(&list), ["streams_batch_update"; 2], "{list:?}");
        assert_eq!(list[1]["changed"], json!(["/title"]));
    }
}
