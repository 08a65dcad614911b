//! Bulk changes: `POST /streams/batch_by_filter`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};

use serde_json::{Value, json};

use crate::calls::{lay_out, names, save_node};
use crate::faults::limit_files;
use crate::restricted::token;
use weir_testkit::{API_KEY, PREFIX, Response, TestServer, WAIT_MAX, wait_until};

const PATH: &str = "/streams/batch_by_filter";
/// Streams of a commit of a bulk change.
const BATCH: usize = 10_000;

fn call(server: &TestServer, filters: &str, body: Value) -> Response {
    server.post(&format!("{PATH}?{filters}"), body)
}

/// Makes a change with the expectation of its dry run.
#[track_caller]
fn apply(server: &TestServer, filters: &str, change: &Value) -> Value {
    let dry = call(server, filters, change.clone()).expect(200).json();
    let mut body = change.clone();
    body["expect"] = json!({"count": dry["count"], "revision": dry["revision"]});
    let filters = format!("{filters}&apply=true");
    call(server, &filters, body).expect(200).json()
}

fn streams(server: &TestServer, filters: &str) -> Vec<String> {
    let list = server.get(&format!("/streams?select=name&limit=10000&{filters}"));
    names(&list.expect(200).json())
}

fn count(server: &TestServer, filters: &str) -> u64 {
    let list = server.get(&format!("/streams?select=name&limit=1&{filters}"));
    list.expect(200).json()["estimated_count"]
        .as_u64()
        .expect("a count")
}

fn result(changed: u64, of: u64, skipped: u64) -> Value {
    json!({
        "changed": changed, "count": of, "done": of, "skipped": skipped, "ended": "complete",
    })
}

/// Streams `n00000`, `n00001` and so on.
fn save_many(server: &TestServer, count: usize) {
    for begin in (0..count).step_by(BATCH) {
        let mut body = String::from("[");
        for i in begin..count.min(begin + BATCH) {
            let comma = if i == begin { "" } else { "," };
            write!(body, r#"{comma}{{"name":"n{i:05}"}}"#).expect("a text");
        }
        body.push(']');
        server
            .call("PUT", "/streams/batch", body.as_bytes())
            .expect(204);
    }
}

#[test]
fn dry_run_counts_and_changes_nothing() {
    let server = TestServer::new();
    for i in 0..15 {
        let body = json!({"title": if i % 5 == 0 { "x" } else { "y" }});
        server.put(&format!("/streams/s{i:02}"), body).expect(200);
    }
    let before = server.get("/streams").expect(200).json()["streams"].clone();
    for change in [
        json!({"patch": {"disabled": true}}),
        json!({"delete": true}),
        json!({"patch": {"disabled": true}, "expect": {"count": 12}}),
    ] {
        let dry = call(&server, "title=y", change).expect(200).json();
        assert_eq!(dry["count"], 12);
        assert_eq!(dry["moves"], Value::Null, "the layouter is disabled");
        assert_eq!(dry.get("read_only"), None);
        assert!(dry["revision"].as_u64().is_some_and(|it| it < 1 << 53));
        let sample = dry["sample"].as_array().expect("names");
        let sample: Vec<&str> = sample.iter().filter_map(Value::as_str).collect();
        assert_eq!(sample, streams(&server, "title=y")[..10]);
    }
    let after = server.get("/streams").expect(200).json()["streams"].clone();
    assert_eq!(after, before);
    let none = call(&server, "title=z", json!({"delete": true})).expect(200);
    assert_eq!(none.json()["count"], 0);
    assert_eq!(none.json()["sample"], json!([]));
}

#[test]
fn change_is_made_to_all_that_match_and_to_no_other() {
    let server = TestServer::new();
    save_node(&server, "h1");
    save_node(&server, "h2");
    for name in ["a1", "a2", "b1", "b2"] {
        let labels = json!({"site": &name[..1], "keep": "1"});
        server
            .put(&format!("/streams/{name}"), json!({"labels": labels}))
            .expect(200);
    }
    lay_out(&server, &[("a1", "h1"), ("a2", "h1"), ("b1", "h1")]);
    let patch = json!({"patch": {"labels": {"site": null, "zone": "n"}, "title": "T"}});
    assert_eq!(apply(&server, "labels.site=a", &patch), result(2, 2, 0));
    assert_eq!(streams(&server, "title=T"), ["a1", "a2"]);
    let stored = server.get("/streams/a1").expect(200).json();
    assert_eq!(stored["labels"], json!({"keep": "1", "zone": "n"}));
    // The same again changes nothing, and no stamp.
    assert_eq!(apply(&server, "title=T", &patch), result(0, 2, 0));
    let again = server.get("/streams/a1").expect(200).json();
    assert_eq!(again["updated_at"], stored["updated_at"]);

    let to_h2 = json!({"move": {"ingest": "h2"}});
    assert_eq!(apply(&server, "layout.ingest=h1", &to_h2), result(3, 3, 0));
    assert_eq!(streams(&server, "layout.ingest=h2"), ["a1", "a2", "b1"]);
    let nowhere = json!({"move": {"ingest": null}});
    assert_eq!(apply(&server, "name=a1,b2", &nowhere), result(1, 2, 0));
    assert_eq!(streams(&server, "layout.ingest=h2"), ["a2", "b1"]);

    assert_eq!(
        apply(&server, "q=a", &json!({"delete": true})),
        result(2, 2, 0)
    );
    assert_eq!(streams(&server, ""), ["b1", "b2"]);
    let reset = json!({"patch": {"$reset": true, "template": "t"}});
    assert_eq!(apply(&server, "", &reset), result(2, 2, 0));
    let stored = server.get("/streams/b1").expect(200).json();
    let expected = json!({"name": "b1", "template": "t"});
    assert_eq!(stored["config_on_disk"], expected);
    assert_eq!(
        apply(&server, "template=t", &json!({"delete": true})),
        result(2, 2, 0)
    );
    assert_eq!(
        apply(&server, "", &json!({"delete": true})),
        result(0, 0, 0)
    );
}

#[test]
fn change_that_decides_the_match_is_made_once() {
    let server = TestServer::new();
    for name in ["a", "b", "c"] {
        let body = json!({"title": if name == "c" { "2" } else { "1" }});
        server.put(&format!("/streams/{name}"), body).expect(200);
    }
    let to_2 = json!({"patch": {"title": "2"}});
    assert_eq!(apply(&server, "title=1", &to_2), result(2, 2, 0));
    assert_eq!(count(&server, "title=2"), 3);
    // Changed streams come later in the order of stamps, and match again.
    let newest = server.get("/streams/a").expect(200).json()["updated_at"].clone();
    let filters = format!("updated_at_gt={}", newest.as_u64().expect("a stamp") - 1);
    let to_3 = json!({"patch": {"title": "3"}});
    assert_eq!(apply(&server, &filters, &to_3), result(2, 2, 0));
    assert_eq!(streams(&server, "title=3"), ["a", "b"]);
}

#[test]
fn other_match_than_expected_is_refused() {
    let server = TestServer::new();
    save_node(&server, "h1");
    for name in ["a", "b", "other"] {
        let body = json!({"comment": if name == "other" { "o" } else { "x" }});
        server.put(&format!("/streams/{name}"), body).expect(200);
    }
    let change = json!({"patch": {"disabled": true}});
    let dry = call(&server, "comment=x", change.clone())
        .expect(200)
        .json();
    let expecting = |count: &Value, revision: &Value| {
        let body = json!({
            "patch": {"disabled": true}, "expect": {"count": count, "revision": revision},
        });
        call(&server, "comment=x&apply=true", body)
    };
    let refused = |count: &Value, revision: &Value| {
        let answer = expecting(count, revision).expect(409);
        assert_eq!(answer.errors(), ["selection_changed"]);
        let meta = answer.json()["errors"][0]["meta"].clone();
        assert_eq!(count_disabled(&server), 0);
        meta
    };
    let meta = refused(&json!(3), &Value::Null);
    assert_eq!(meta["count"], "2");
    assert_eq!(meta["revision"], dry["revision"].to_string());
    refused(&json!(2), &json!(7));
    // One of them is saved differently.
    server.put("/streams/a", json!({"title": "t"})).expect(200);
    refused(&dry["count"], &dry["revision"]);
    server.put("/streams/a", json!({"title": null})).expect(200);
    // What other streams do, and where streams run, does not matter.
    server
        .put("/streams/other", json!({"title": "t"}))
        .expect(200);
    lay_out(&server, &[("a", "h1")]);
    expecting(&dry["count"], &dry["revision"]).expect(200);
    assert_eq!(count_disabled(&server), 2);

    // Nothing is changed by a request that expects nothing at all.
    let answer = call(&server, "apply=true", json!({"delete": true})).expect(400);
    assert_eq!(answer.errors(), ["missing_required /expect"]);
    assert_eq!(count(&server, ""), 3);
    let anything = json!({"delete": true, "expect": {}});
    let answer = call(&server, "apply=true", anything).expect(200);
    assert_eq!(answer.json(), result(3, 3, 0));
}

fn count_disabled(server: &TestServer) -> u64 {
    count(server, "disabled=true")
}

#[test]
fn unknown_and_impossible_requests_are_refused() {
    let server = TestServer::new();
    server.put("/streams/a", json!({})).expect(200);
    let delete = || json!({"delete": true});
    let force = json!({"move": {"ingest": "h", "force": 1}});
    for (filters, body, errors) in [
        ("titel=x", delete(), "unknown_parameter titel"),
        (
            "labels.x.y=1&limits=1",
            delete(),
            "unknown_parameter limits",
        ),
        ("limit=1", delete(), "unknown_parameter limit"),
        ("sort=name", delete(), "unknown_parameter sort"),
        ("cursor=x", delete(), "unknown_parameter cursor"),
        ("select=name", delete(), "unknown_parameter select"),
        ("poll_timeout=1", delete(), "unknown_parameter poll_timeout"),
        ("apply=maybe", delete(), "not_boolean apply"),
        ("inputs.url=x", json!({}), "not_one_change"),
        ("", json!({"delete": null}), "not_one_change"),
        ("", json!({"delete": true, "patch": {}}), "not_one_change"),
        ("", json!({"delete": false}), "not_const /delete"),
        ("", json!({"patch": 1}), "not_object /patch"),
        ("", json!([]), "not_object "),
        (
            "",
            json!({"patch": {"titel": "x"}}),
            "unknown_member /patch/titel",
        ),
        (
            "",
            json!({"delete": true, "expext": {}}),
            "unknown_member /expext",
        ),
        (
            "",
            json!({"patch": {"name": "b"}}),
            "key_mismatch /patch/name",
        ),
        (
            "",
            json!({"patch": {"inputs": 5}}),
            "not_array /patch/inputs",
        ),
        (
            "",
            json!({"delete": true, "expect": 5}),
            "not_object /expect",
        ),
        (
            "",
            json!({"delete": true, "expect": {"count": -1}}),
            "not_integer /expect/count",
        ),
        ("", json!({"move": "h"}), "not_object /move"),
        ("", json!({"move": {}}), "missing_required /move/ingest"),
        (
            "",
            json!({"move": {"ingest": 5}}),
            "not_string /move/ingest",
        ),
        (
            "",
            json!({"move": {"ingest": "nowhere"}}),
            "streamer_not_found /move/ingest",
        ),
        ("", force, "not_boolean /move/force"),
    ] {
        for also in ["", "&apply=true"] {
            let mut body = body.clone();
            if !also.is_empty() && body.is_object() && body.get("expect").is_none() {
                body["expect"] = json!({});
            }
            if filters.starts_with("apply") && !also.is_empty() {
                continue;
            }
            let answer = call(&server, &format!("{filters}{also}"), body.clone());
            assert_eq!(answer.status, 400, "{filters} {body}: {}", answer.text());
            assert_eq!(answer.errors(), [errors], "{filters} {body}");
        }
    }
    let near = call(&server, "titel=x", delete()).json();
    assert_eq!(near["errors"][0]["meta"]["nearest"], "title");
    let long = json!({"patch": {"comment": "x".repeat(8 * 1024)}});
    call(&server, "", long).expect(413);
    assert_eq!(streams(&server, ""), ["a"]);
}

#[test]
fn one_impossible_stream_leaves_all_as_they_are() {
    let server = TestServer::new();
    save_node(&server, "h1");
    let labels = json!({"labels": {"required.zone": "n"}});
    server.put("/streams/a", json!({})).expect(200);
    server.put("/streams/b", labels).expect(200);
    let mut change = json!({"move": {"ingest": "h1"}, "expect": {"count": 2}});
    for filters in ["", "apply=true"] {
        let answer = call(&server, filters, change.clone()).expect(409);
        assert_eq!(answer.errors(), ["illegal_layout /move/ingest"]);
        assert_eq!(answer.json()["errors"][0]["meta"]["name"], "b");
    }
    assert_eq!(count(&server, "placed=true"), 0);
    change["move"]["force"] = json!(true);
    let answer = call(&server, "apply=true", change).expect(200);
    assert_eq!(answer.json(), result(2, 2, 0));
    assert_eq!(streams(&server, "layout.ingest=h1"), ["a", "b"]);
}

#[test]
fn restricted_token_changes_what_it_may_write() {
    let server = TestServer::new();
    for name in ["mine/1", "mine/2", "read/1", "write/1", "hidden"] {
        server
            .put(&format!("/streams/{name}"), json!({"title": "t"}))
            .expect(200);
    }
    let permissions = json!({"permissions": [
        {"scopes": ["streams/mine/*"], "list": true, "write": true},
        {"scopes": ["streams/read/*"], "list": true, "read": true},
        {"scopes": ["streams/write/*"], "write": true},
    ]});
    let token = token(&server, "t", permissions);
    let as_token = |filters: &str, body: &Value| {
        let fields = [("Authorization", token.as_str())];
        let mut client = server.connect();
        let path = format!("{PREFIX}{PATH}?{filters}");
        client.request("POST", &path, &fields, body.to_string().as_bytes())
    };
    let dry = as_token("title=t", &json!({"delete": true})).expect(200);
    let dry = dry.json();
    assert_eq!(dry["count"], 2);
    assert_eq!(dry["read_only"], 1);
    assert_eq!(dry["sample"], json!(["mine/1", "mine/2"]));
    // Names do not widen it.
    let named = as_token("name=hidden,write/1", &json!({"delete": true}));
    assert_eq!(named.expect(200).json()["count"], 0);
    let body = json!({"delete": true, "expect": {"count": 2, "revision": dry["revision"]}});
    let done = as_token("title=t&apply=true", &body).expect(200);
    assert_eq!(done.json(), result(2, 2, 0));
    assert_eq!(streams(&server, ""), ["hidden", "read/1", "write/1"]);
    let event = server.get("/events?operation_id=streams_batch_update_by_filter");
    let event = event.expect(200).json()["events"][0].clone();
    assert_eq!(event["user"], "api_token:t");
    assert_eq!(event["entities_count"], 2);
    assert_eq!(event["entities"], json!(["mine/1", "mine/2"]));
}

/// Sends a change of all streams, to be answered in lines.
fn begin(server: &TestServer, change: &str) -> std::net::TcpStream {
    begin_as(server, change, &format!("Bearer {API_KEY}"))
}

fn begin_as(server: &TestServer, change: &str, authorization: &str) -> std::net::TcpStream {
    let body = format!("{{{change},\"expect\":{{}}}}");
    let mut stream = std::net::TcpStream::connect(server.address()).expect("it listens");
    stream.set_read_timeout(Some(WAIT_MAX)).expect("a socket");
    let request = format!(
        "POST {PREFIX}{PATH}?apply=true HTTP/1.1\r\nHost: t\r\nAuthorization: {authorization}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("it is read");
    stream
}

/// Reads up to the first line of progress. What was read.
fn first_line(stream: &mut std::net::TcpStream) -> Vec<u8> {
    let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
    while !seen.windows(7).any(|it| it == b"\"done\":") {
        let read = stream.read(&mut piece).expect("an answer within the bound");
        let shown = String::from_utf8_lossy(&seen).into_owned();
        assert!(read > 0 && seen.len() < 64 * 1024, "{shown}");
        seen.extend_from_slice(&piece[..read]);
    }
    seen
}

#[test]
fn many_streams_are_changed_in_several_commits() {
    let server = TestServer::new();
    let of = 2 * BATCH + 5;
    save_many(&server, of);
    let change = json!({"patch": {"title": "x"}});
    let dry = call(&server, "", change.clone()).expect(200).json();
    assert_eq!(dry["count"], of);
    let mut body = change;
    body["expect"] = json!({"count": dry["count"], "revision": dry["revision"]});
    let answer = call(&server, "apply=true", body).expect(200);
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let text = answer.text();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let lines: Vec<Value> = lines.collect();
    let mut done = 0;
    let (last, others) = lines.split_last().expect("lines");
    for line in others {
        assert_eq!(line.get("ended"), None, "{line}");
        let now = line["done"].as_u64().expect("a number");
        assert!(now >= done, "{text}");
        done = now;
    }
    assert!(others.len() >= 2, "{text}");
    assert_eq!(*last, result(of as u64, of as u64, 0));
    assert_eq!(count(&server, "title=x"), of as u64);
    let events = server.get("/events?operation_id=streams_batch_update_by_filter");
    let events = events.expect(200).json()["events"].clone();
    let events = events.as_array().expect("events");
    let mut counts: Vec<u64> = events
        .iter()
        .filter_map(|event| event["entities_count"].as_u64())
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, [5, 10_000, 10_000]);
    assert!(events.iter().all(|event| {
        event["entities"]
            .as_array()
            .is_some_and(|it| it.len() <= 100)
    }));
    // A client of HTTP/1.0 cannot be sent lines; nothing is changed for it.
    let mut old = std::net::TcpStream::connect(server.address()).expect("it listens");
    old.set_read_timeout(Some(WAIT_MAX)).expect("a socket");
    let body = r#"{"delete":true,"expect":{}}"#;
    let request = format!(
        "POST {PREFIX}{PATH}?apply=true HTTP/1.0\r\nHost: t\r\nAuthorization: Bearer {API_KEY}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    old.write_all(request.as_bytes()).expect("it is read");
    let mut answer = String::new();
    old.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains(" 505 "), "{answer}");
    assert_eq!(count(&server, ""), of as u64);
}

#[test]
fn kill_leaves_every_commit_whole() {
    let mut server = TestServer::new();
    save_many(&server, 3 * BATCH);
    let mut stream = begin(&server, r#""patch":{"title":"x"}"#);
    first_line(&mut stream);
    server.kill();
    server.start();
    let changed = count(&server, "title=x");
    assert!([10_000, 20_000, 30_000].contains(&changed), "{changed}");
    assert_eq!(count(&server, ""), 3 * BATCH as u64);
    // The same request changes the rest.
    let rest = json!({"patch": {"title": "x"}});
    let left = 30_000 - changed;
    let answer = apply_lines(&server, "title_ne=x", &rest);
    assert_eq!(answer, result(left, left, 0));
    assert_eq!(count(&server, "title=x"), 30_000);
}

/// Makes a change of any size. The last line of the answer.
fn apply_lines(server: &TestServer, filters: &str, change: &Value) -> Value {
    let mut body = change.clone();
    body["expect"] = json!({});
    let answer = call(server, &format!("{filters}&apply=true"), body).expect(200);
    let text = answer.text();
    serde_json::from_str(text.lines().last().expect("a line")).expect("JSON")
}

#[test]
fn stopping_server_ends_the_change_between_commits() {
    let mut server = TestServer::new();
    save_many(&server, 3 * BATCH);
    let mut stream = begin(&server, r#""patch":{"title":"x"}"#);
    let mut seen = first_line(&mut stream);
    server.terminate();
    // A connection that is reset has nothing more to read.
    let _ = stream.read_to_end(&mut seen);
    let text = String::from_utf8_lossy(&seen).into_owned();
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let lines: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let last = lines.last().expect("a line");
    server.start();
    let changed = count(&server, "title=x");
    assert!([10_000, 20_000, 30_000].contains(&changed), "{changed}");
    assert_eq!(last["done"], changed, "{text}");
    if last["ended"] != "complete" {
        assert_eq!(last["ended"], "error", "{text}");
        assert_eq!(last["errors"][0]["code"], "shutting_down", "{text}");
    }
}

#[test]
fn lost_right_ends_the_change_between_commits() {
    // Goal: what a token may not change any more is not changed. Method: its permission goes after
    // the first commit; whether others were made meanwhile depends on chance.
    let server = TestServer::new();
    save_many(&server, 3 * BATCH);
    let rights = |write: bool| json!({"permissions": [{"scopes": ["streams/*"], "list": true, "write": write}]});
    let token = token(&server, "t", rights(true));
    let mut stream = begin_as(&server, r#""patch":{"title":"x"}"#, &token);
    let mut seen = first_line(&mut stream);
    server.put("/api_tokens/t", rights(false)).expect(200);
    let changed = count(&server, "title=x");
    let mut piece = [0; 4096];
    while !seen.windows(8).any(|it| it == b"\"ended\":") {
        let read = stream.read(&mut piece).expect("an answer within the bound");
        let shown = String::from_utf8_lossy(&seen).into_owned();
        assert!(read > 0, "{shown}");
        seen.extend_from_slice(&piece[..read]);
    }
    let text = String::from_utf8_lossy(&seen).into_owned();
    assert_eq!(
        count(&server, "title=x"),
        changed,
        "nothing after that: {text}"
    );
    if changed < 30_000 {
        assert!(text.contains("\"ended\":\"error\""), "{text}");
        assert!(text.contains("\"needs\":\"write\""), "{text}");
    }
}

#[test]
fn match_by_health_is_decided_once() {
    let server = TestServer::new();
    save_node(&server, "h1");
    for name in ["a", "b", "c"] {
        server
            .put(&format!("/streams/{name}"), json!({}))
            .expect(200);
    }
    lay_out(&server, &[("a", "h1"), ("b", "h1")]);
    let sick = streams(&server, "health=outage");
    assert!(
        sick.contains(&"a".to_owned()),
        "no streamer reports it: {sick:?}"
    );
    let disable = json!({"patch": {"disabled": true}});
    let count_sick = sick.len() as u64;
    assert_eq!(
        apply(&server, "health=outage", &disable),
        result(count_sick, count_sick, 0)
    );
    assert_eq!(streams(&server, "health=outage"), [""; 0]);
    assert_eq!(streams(&server, "disabled=true"), sick);
}

#[test]
fn client_that_leaves_ends_the_change_between_commits() {
    let server = TestServer::new();
    save_many(&server, 3 * BATCH);
    let mut stream = begin(&server, r#""delete":true"#);
    first_line(&mut stream);
    drop(stream);
    let log = || {
        let log = server.log();
        let mut lines = log.lines();
        lines
            .find(|line| line.contains("bulk change ended"))
            .map(str::to_owned)
    };
    wait_until("the change has ended", log, Option::is_some);
    let left = count(&server, "");
    assert!([0, 10_000, 20_000].contains(&left), "{left}");
    // None of it goes on, and the next one can begin.
    assert_eq!(
        apply_lines(&server, "", &json!({"delete": true})),
        result(left, left, 0)
    );
}

#[test]
fn full_disk_ends_the_change_and_its_last_line_says_where() {
    let server = TestServer::with(&["--io-threads", "2"]);
    save_many(&server, 3 * BATCH);
    let used = std::fs::metadata(server.data_dir().join("weir.redb"));
    let used = used.expect("the store is a file").len();
    limit_files(server.id(), Some(used + (24 << 20)));
    let change = json!({"patch": {"comment": "x".repeat(1000)}, "expect": {}});
    let answer = call(&server, "apply=true", change);
    let text = answer.text();
    if answer.status == 503 {
        // There is no room for the first commit.
        assert_eq!(count(&server, "comment_is_not=null"), 0, "{text}");
        return;
    }
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["ended"], "error", "{text}");
    let code = last["errors"][0]["code"].as_str().expect("a code");
    assert!(
        ["storage_failed", "storage_unavailable"].contains(&code),
        "{text}"
    );
    let done = last["done"].as_u64().expect("a number");
    assert!(done < 30_000, "{text}");
    let changed = count(&server, "comment_is_not=null");
    assert!(
        changed == done || code == "storage_failed",
        "{changed}: {text}"
    );
    // Deletions are accepted.
    limit_files(server.id(), Some(used + (64 << 20)));
    let ready = || server.call_as("GET", "/monitoring/liveness", None).status;
    wait_until("the server answers", ready, |status| *status == 200);
    limit_files(server.id(), None);
    let ready = || server.call_as("GET", "/monitoring/readiness", None).status;
    wait_until("the store is back", ready, |status| *status == 200);
    let deleted = apply_lines(&server, "", &json!({"delete": true}));
    assert_eq!(deleted, result(30_000, 30_000, 0));
}

#[test]
fn streams_that_others_change_meanwhile_are_looked_at_again() {
    // Goal: a stream that does not match any more is not changed, and a deleted one is not created
    // again, whatever happens between the scan and the commits. Method: while titles are changed
    // by filter, other clients disable, delete and create streams.
    let server = TestServer::with(&["--io-threads", "2"]);
    save_many(&server, 2 * BATCH);
    let all = streams(&server, "limit=2000");
    std::thread::scope(|scope| {
        let (server, all) = (&server, &all);
        scope.spawn(move || {
            for (i, name) in all.iter().enumerate().step_by(7) {
                let path = format!("/streams/{name}");
                if i % 2 == 0 {
                    server.delete(&path).expect(204);
                } else {
                    server.put(&path, json!({"disabled": true})).expect(200);
                }
            }
        });
        let change = json!({"patch": {"title": "x"}});
        let last = apply_lines(server, "disabled=false", &change);
        let number = |member: &str| last[member].as_u64().expect("a number");
        assert_eq!(last["ended"], "complete", "{last}");
        assert_eq!(number("done"), number("count"), "{last}");
        assert_eq!(
            number("changed") + number("skipped"),
            number("count"),
            "{last}"
        );
    });
    for (i, name) in all.iter().enumerate().step_by(7) {
        let stream = server.get(&format!("/streams/{name}"));
        assert_eq!(stream.status, if i % 2 == 0 { 404 } else { 200 }, "{name}");
    }
    assert_eq!(count(&server, "disabled=false&title_ne=x"), 0);
}

#[test]
fn change_of_many_streams_reaches_polls_of_streamers() {
    let server = TestServer::new();
    save_node(&server, "h1");
    let hosts: BTreeMap<&str, &str> = [("a", "h1"), ("b", "h1")].into();
    for name in hosts.keys() {
        server
            .put(&format!("/streams/{name}"), json!({}))
            .expect(200);
    }
    let places: Vec<(&str, &str)> = hosts.into_iter().collect();
    lay_out(&server, &places);
    let before = server.get("/streamers/h1/streams").expect(200);
    let tag = before.etag().expect("a tag").to_owned();
    let fields = format!("If-None-Match: {tag}\r\n");
    let mut poll = crate::calls::park(&server, "/streamers/h1/streams?poll_timeout=50", &fields);
    apply(&server, "name=a", &json!({"delete": true}));
    let answer = poll.response(false).expect(200);
    assert_eq!(names(&answer.json()), ["b"]);
}

#[test]
fn previews_of_a_change_have_its_moves() {
    let server = TestServer::with(&["--layouter-enabled"]);
    for host in ["h1", "h2"] {
        let body = json!({"role": "streamer", "cluster_key": "key", "labels": {"zone": host}});
        server.put(&format!("/streamers/{host}"), body).expect(200);
        crate::calls::poll_as_streamer(&server, host);
    }
    for i in 0..6 {
        let body = json!({"static": true, "labels": {"required.zone": "h1"}});
        server.put(&format!("/streams/s{i}"), body).expect(200);
    }
    let placed = || count(&server, "layout.ingest=h1");
    wait_until("all are placed", placed, |placed| *placed == 6);
    let patch = json!({"patch": {"labels": {"required.zone": "h2"}}});
    let dry = call(&server, "", patch.clone()).expect(200).json();
    assert_eq!(dry["moves"]["moves_caused"], 6, "{dry}");
    assert_eq!(dry["moves"]["unplaced"], 0, "{dry}");
    let nowhere = json!({"patch": {"labels": {"required.zone": "h3"}}});
    let dry = call(&server, "name=s1", nowhere).expect(200).json();
    assert_eq!(dry["moves"]["unplaced"], 1, "{dry}");
    apply(&server, "", &patch);
    let moved = || count(&server, "layout.ingest=h2");
    wait_until("all are moved", moved, |moved| *moved == 6);
}
