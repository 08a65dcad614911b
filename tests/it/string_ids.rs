//! `Accept: application/json; ids=string`: answers with large integers as strings.

use serde_json::{Value, json};

use crate::calls::{etag, lay_out, park, save_node};
use weir_testkit::{Client, Response, TestServer};

const FORM: (&str, &str) = ("Accept", "application/json; ids=string");
const MEDIA_TYPE: &str = "application/json; ids=string";
/// 2^53 + 1: the first integer that a double does not hold.
const LARGE: i64 = 9_007_199_254_740_993;
/// Longer than any test: only what is asserted may end the wait.
const LONG: &str = "poll_timeout=50";

fn get(server: &TestServer, path: &str, fields: &[(&str, &str)]) -> Response {
    server.call_with("GET", path, fields, b"")
}

/// A value as the form has it.
fn in_form(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_i64() {
            Some(integer) if integer.unsigned_abs() >= 1 << 53 => json!(integer.to_string()),
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(in_form).collect(),
        Value::Object(members) => {
            let members = members.into_iter();
            Value::Object(members.map(|(name, of)| (name, in_form(of))).collect())
        }
        other => other,
    }
}

fn has_form(answer: &Response) {
    assert_eq!(answer.header("content-type"), Some(MEDIA_TYPE));
    let vary = answer.header("vary").unwrap_or_default();
    assert!(vary.split(", ").any(|name| name == "Accept"), "{vary}");
}

fn is_plain(answer: &Response) {
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let vary = answer.header("vary").unwrap_or_default();
    assert!(!vary.split(", ").any(|name| name == "Accept"), "{vary}");
}

#[test]
fn integers_of_an_entity_are_strings_under_another_tag() {
    let server = TestServer::new();
    let body = json!({"position": LARGE, "title": LARGE.to_string()});
    server.put("/streams/a", body).expect(200);
    let plain = get(&server, "/streams/a", &[]).expect(200);
    is_plain(&plain);
    let text = get(&server, "/streams/a", &[FORM]).expect(200);
    has_form(&text);
    assert_eq!(text.json()["position"], json!(LARGE.to_string()));
    assert_eq!(text.json(), in_form(plain.json()));
    let (plain_tag, text_tag) = (etag(&plain), etag(&text));
    assert_ne!(plain_tag, text_tag);
    // Each form is known by its own tag only.
    let known = |fields: &[(&str, &str)]| get(&server, "/streams/a", fields);
    for (tag, form, status) in [
        (&plain_tag, None, 304),
        (&text_tag, None, 200),
        (&plain_tag, Some(FORM), 200),
        (&text_tag, Some(FORM), 304),
    ] {
        let mut fields = vec![("If-None-Match", tag.as_str())];
        fields.extend(form);
        let answer = known(&fields).expect(status);
        let expected = if form.is_some() {
            &text_tag
        } else {
            &plain_tag
        };
        assert_eq!(&etag(&answer), expected, "{fields:?}");
    }
    let both = format!("{plain_tag}, {text_tag}");
    let answer = known(&[("If-None-Match", &both), FORM]).expect(304);
    assert_eq!(etag(&answer), text_tag);
    // `HEAD` has the fields of `GET`.
    let head = server
        .call_with("HEAD", "/streams/a", &[FORM], b"")
        .expect(200);
    assert_eq!(etag(&head), text_tag);
    assert_eq!(head.header("content-length"), text.header("content-length"));
    // Conditions on changes are about what is stored, whatever the form of its tag.
    let change = |tag: &str, form: &[(&str, &str)]| {
        let mut fields = vec![("If-Match", tag)];
        fields.extend(form);
        server.call_with("PUT", "/streams/a", &fields, br#"{"title":"t"}"#)
    };
    let saved = change(&text_tag, &[FORM]).expect(200);
    has_form(&saved);
    assert_eq!(saved.json()["position"], json!(LARGE.to_string()));
    change(&text_tag, &[FORM]).expect(412);
    let again = known(&[("If-None-Match", &etag(&saved)), FORM]);
    assert_eq!(again.status, 304, "the tag of a save is that of its body");
    change(&etag(&saved), &[]).expect(200);
}

#[test]
fn lists_of_every_size_have_the_form() {
    let server = TestServer::new();
    let streams = (0..4000).map(|number| {
        let title = "\"9007199254740993,\\".repeat(4);
        json!({"name": format!("s{number:04}"), "position": LARGE + number, "title": title})
    });
    server.put("/streams/batch", streams.collect()).expect(204);
    for limit in ["1", "100", "400", "4000"] {
        let path = format!("/streams?limit={limit}&select=name,position,title");
        let plain = get(&server, &path, &[]).expect(200);
        let text = get(&server, &path, &[FORM, ("Accept-Encoding", "gzip")]).expect(200);
        has_form(&text);
        // The cursors and the timing are their own.
        let list = |answer: &Response| answer.json()["streams"].clone();
        assert_eq!(list(&text), in_form(list(&plain)), "{limit}");
        assert_eq!(list(&text)[0]["position"], json!(LARGE.to_string()));
    }
    let mut next = get(&server, "/streams?limit=400", &[FORM])
        .expect(200)
        .json()["next"]
        .clone();
    let mut pages = 1;
    while let Some(cursor) = next.as_str() {
        let path = format!(
            "/streams?limit=400&cursor={}",
            weir_testkit::encode_segment(cursor)
        );
        let page = get(&server, &path, &[FORM]).expect(200);
        has_form(&page);
        next = page.json()["next"].clone();
        pages += 1;
    }
    assert_eq!(pages, 10);
    let refused = get(&server, "/streams?limit=x", &[FORM]).expect(400);
    has_form(&refused);
    assert_eq!(refused.errors(), ["not_integer limit"]);
}

#[test]
fn polls_are_answered_in_their_own_forms() {
    // One core, so that the polls are parked side by side.
    let server = TestServer::with(&["--io-threads", "1"]);
    server.put("/streams/other", json!({})).expect(200);
    let path = format!("/streams?name=a&select=name,position&{LONG}");
    let field = format!("Accept: {MEDIA_TYPE}\r\n");
    let fields = ["", &field, "", &field];
    let mut polls = fields.map(|fields| park(&server, &path, fields));
    server
        .put("/streams/a", json!({"position": LARGE}))
        .expect(200);
    for (poll, fields) in polls.iter_mut().zip(fields) {
        let answer = poll.response(false).expect(200);
        let position = answer.json()["streams"][0]["position"].clone();
        if fields.is_empty() {
            is_plain(&answer);
            assert_eq!(position, json!(LARGE));
        } else {
            has_form(&answer);
            assert_eq!(position, json!(LARGE.to_string()));
        }
    }
    // At the deadline it is an empty list in the form.
    let none = get(&server, "/streams?name=none&poll_timeout=1", &[FORM]).expect(200);
    has_form(&none);
    assert_eq!(none.json()["streams"], json!([]));
}

#[test]
fn answers_of_other_threads_have_the_form() {
    let server = TestServer::with(&["--layouter-enabled"]);
    let summary = get(&server, "/cluster/summary", &[FORM]).expect(200);
    has_form(&summary);
    let tag = etag(&summary);
    let again = get(
        &server,
        "/cluster/summary",
        &[FORM, ("If-None-Match", &tag)],
    );
    // It is counted again every few seconds.
    assert!([200, 304].contains(&again.status), "{}", again.status);
    save_node(&server, "s1");
    let large = "x".repeat(200_000);
    let body = json!({"position": LARGE, "comment": large}).to_string();
    let fields = [FORM];
    let saved = server.call_with("PUT", "/streams/a", &fields, body.as_bytes());
    has_form(&saved.expect(200));
    let read = get(&server, "/streams/a", &[FORM]).expect(200);
    has_form(&read);
    assert_eq!(read.json()["position"], json!(LARGE.to_string()));
    let explained = get(&server, "/streams/a/layout/explain", &[FORM]).expect(200);
    has_form(&explained);
}

#[test]
fn streamers_are_sent_one_form() {
    let server = TestServer::new();
    save_node(&server, "s1");
    server
        .put("/streams/a", json!({"dvr": {"storage_limit": LARGE}}))
        .expect(200);
    lay_out(&server, &[("a", "s1")]);
    for path in [
        "/streamers/s1/streams",
        "/streamers/s1/update-streams",
        "/streamers/s1/dynamic-streams?name=a",
        "/streamers/s1/episodes",
    ] {
        let plain = get(&server, path, &[]);
        let same = get(&server, path, &[FORM]).expect(plain.status);
        // Lists that are no configuration have the time that they took.
        let streams = |answer: &Response| answer.json()["streams"].clone();
        assert_eq!(streams(&same), streams(&plain), "{path}");
        assert_eq!(
            same.header("content-type"),
            plain.header("content-type"),
            "{path}"
        );
        assert_eq!(same.header("etag"), plain.header("etag"), "{path}");
        assert_eq!(same.header("vary"), plain.header("vary"), "{path}");
    }
    let sent = get(&server, "/streamers/s1/streams", &[FORM]).expect(200);
    assert_eq!(
        sent.json()["streams"][0]["dvr"]["storage_limit"],
        json!(LARGE)
    );
    let tag = etag(&get(&server, "/streamers/s1/streams", &[]).expect(200));
    let field = format!("Accept: {MEDIA_TYPE}\r\nIf-None-Match: {tag}\r\n");
    let path = format!("/streamers/s1/streams?{LONG}");
    let mut poll: Client = park(&server, &path, &field);
    server
        .put("/streams/a", json!({"title": "new"}))
        .expect(200);
    let answer = poll.response(false).expect(200);
    let plain = get(&server, "/streamers/s1/streams", &[]).expect(200);
    assert_eq!(answer.body, plain.body);
    assert_eq!(etag(&answer), etag(&plain));
}
