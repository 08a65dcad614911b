//! Visibility: restricted tokens on every list, and previews beyond the scope of a token.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bad_json::Pipeline;
use crate::calls::poll_as_streamer;
use crate::described::Document;
use crate::lists::{collections, key_of};
use crate::round_trip::{keyed, with_one_of_each_and};
use weir_testkit::{API_KEY, PREFIX, TestServer, encode_segment};

/// Entities of each kind. Those whose number ends in 1 are within the scope of the restricted
/// token.
const ENTITIES: usize = 30;

/// Saves a token; its `Authorization` header.
pub fn token(server: &TestServer, name: &str, body: Value) -> String {
    let saved = server.put(&format!("/api_tokens/{name}"), body).expect(200);
    let key = saved.json()["key"].as_str().expect("a key").to_owned();
    format!("Bearer {key}")
}

/// One text member of each item of a list, in its order.
pub fn strings<'a>(page: &'a Value, list: &str, member: &str) -> Vec<&'a str> {
    let items = page[list]
        .as_array()
        .unwrap_or_else(|| panic!("no {list} in {page}"));
    items
        .iter()
        .filter_map(|item| item[member].as_str())
        .collect()
}

/// Reads a list page by page; the keys that it shows.
fn walk(server: &TestServer, path: &str, key: &str, member: &str, as_token: &str) -> Vec<Value> {
    let mut keys = Vec::new();
    let mut cursor = String::new();
    for _ in 0..100 {
        let page = server.call_as("GET", &format!("{path}{cursor}"), Some(as_token));
        let page = page.expect(200).json();
        let items = page[member].as_array().expect("a list");
        keys.extend(items.iter().map(|item| item[key].clone()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encode_segment(next)),
            None => return keys,
        }
    }
    panic!("{path}: more than 100 pages");
}

#[test]
fn restricted_token_sees_its_part_of_every_list() {
    // Goal: no parameter of any list leads a token past its scope. Method: the lists and their
    // parameters come from the document; each is read by a token for keys that end in 1.
    let document = Document::new();
    for layouter in [&["--layouter-enabled"][..], &[]] {
        let server = with_one_of_each_and(&document, layouter);
        let mut pipeline = Pipeline::new(&server);
        let mut lists = 0;
        for (list, member) in collections(&document) {
            let collection = list.template.trim_start_matches('/').to_owned();
            let scopes = json!([{"scopes": [format!("{collection}/*1")], "list": true}]);
            let restricted = token(&server, "restricted", json!({"permissions": scopes}));
            let Some((key, save)) = key_of(&document, &list) else {
                // Of what is not saved by a key of its own, a token for another key sees nothing.
                let scopes = json!([{"scopes": [format!("{collection}/none")], "list": true}]);
                let restricted = token(&server, "restricted", json!({"permissions": scopes}));
                let answer = server.call_as("GET", &list.template, Some(&restricted));
                let shows_nothing = answer.status == 403
                    || answer.json()[&member].as_array().is_some_and(Vec::is_empty);
                assert!(shows_nothing, "{}: {answer:?}", list.id);
                continue;
            };
            lists += 1;
            let described = document.flat(save.body.as_ref().expect("a save has a body"));
            let saves: Vec<_> = (1..=ENTITIES)
                .map(|n| {
                    let body = keyed(&save, &document, n, &document.minimal(&described));
                    (
                        "PUT".to_owned(),
                        save.path_of(n),
                        body.to_string().into_bytes(),
                    )
                })
                .collect();
            for answer in pipeline.send(&saves) {
                answer.expect(200);
            }
            let is_visible = |key: &Value| {
                let text = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                text.ends_with('1')
            };
            let whole = server.get(&format!("{}?limit=1000", list.template));
            let all: Vec<Value> = whole.expect(200).json()[&member]
                .as_array()
                .expect("a list")
                .iter()
                .map(|item| item[&key].clone())
                .collect();
            let visible = all.iter().filter(|key| is_visible(key)).count();
            assert!(visible >= 3 && visible < all.len(), "{}: {all:?}", list.id);
            let hidden = save.path_of(2);
            let hidden = hidden.rsplit('/').next().expect("a path");
            let mut queries = vec![
                String::new(),
                format!("sort=-{key}"),
                format!("{key}={hidden}"),
                format!("{key}_like={}", &hidden[..1]),
                format!("q={}", &hidden[..1]),
                format!("select={key}"),
            ];
            for parameter in &list.parameters {
                let name = parameter["name"].as_str().unwrap_or_default();
                let values: &[&str] = match parameter["schema"]["type"].as_str() {
                    Some("boolean") => &["true", "false"],
                    _ if name == "poll_timeout" => &["1"],
                    _ => continue,
                };
                queries.extend(values.iter().map(|value| format!("{name}={value}")));
            }
            if collection == "streams" && !layouter.is_empty() {
                let decisions = "select=name,inputs,layout.node_layout_decisions";
                queries.push(decisions.to_owned());
                queries.push(format!("{decisions}&q=t"));
                queries.push(format!("{decisions}&name={hidden}"));
                queries.push(format!("{decisions}&sort=-name&poll_timeout=1"));
            }
            for query in &queries {
                let path = format!("{}?limit=2&{query}", list.template);
                let page = server.call_as("GET", &path, Some(&restricted)).expect(200);
                let count = page.json()["estimated_count"].as_u64().expect("a count");
                assert!(count <= visible as u64, "{path}: {}", page.text());
                // Other items that a search excludes are not the subject of this test.
                let is_search = query.contains("_like") || query.contains("q=");
                let keys = walk(&server, &path, &key, &member, &restricted);
                assert!(keys.iter().all(is_visible), "{path}: {keys:?}");
                assert!(
                    keys.len() == visible || query.contains(hidden) || is_search,
                    "{path}: {} of {visible}: {keys:?}",
                    keys.len()
                );
            }
        }
        assert!(lists >= 7, "{lists}");
    }
}

/// A cluster with a layouter and three streamers that were seen.
fn three_streamers() -> TestServer {
    let server = TestServer::with(&["--layouter-enabled"]);
    for host in ["a1", "b1", "b2"] {
        let body = json!({"role": "streamer", "cluster_key": "key", "channel_limit": 50});
        server.put(&format!("/streamers/{host}"), body).expect(200);
        poll_as_streamer(&server, host);
    }
    let names = ["a", "b"]
        .iter()
        .flat_map(|zone| (0..9).map(move |i| format!("{zone}{i}")));
    let streams: Vec<Value> = names
        .map(|name| json!({"name": name, "static": true}))
        .collect();
    server
        .put("/streams/batch", Value::Array(streams))
        .expect(204);
    until(&server, "/streams?layout.ingest_is_not=null", |page| {
        page["estimated_count"] == 18
    });
    server
}

/// Reads a list until it is as expected. Each round waits for the next change of any stream.
fn until(server: &TestServer, path: &str, is_reached: impl Fn(&Value) -> bool) -> Value {
    let mut newest = 0;
    let began = Instant::now();
    loop {
        let page = server.get(path).expect(200).json();
        if is_reached(&page) {
            return page;
        }
        assert!(
            began.elapsed() < Duration::from_mins(2),
            "{path} stays at {page}"
        );
        let change =
            format!("/streams?updated_at_gt={newest}&sort=-updated_at&limit=1&poll_timeout=1");
        let change = server.get(&change).expect(200).json();
        newest = change["streams"][0]["updated_at"]
            .as_u64()
            .unwrap_or(newest);
    }
}

#[test]
fn decisions_are_a_field_of_the_one_list() {
    let server = three_streamers();
    let select = "select=name,layout.node_layout_decisions,layout.ingest_history";
    let page = server
        .get(&format!("/streams?{select}&name=a1"))
        .expect(200)
        .json();
    let layout = &page["streams"][0]["layout"];
    let hosts: BTreeSet<&str> = strings(layout, "node_layout_decisions", "hostname")
        .into_iter()
        .collect();
    assert_eq!(hosts, BTreeSet::from(["a1", "b1", "b2"]), "{page}");
    assert!(layout["ingest_history"].is_array(), "{page}");
    // Parameters of the list work beside it.
    let path = format!("/streams?{select}&name=a1&include_ingest_history=false");
    let page = server.get(&path).expect(200).json();
    let layout = &page["streams"][0]["layout"];
    assert!(layout["node_layout_decisions"].is_array(), "{page}");
    assert!(layout["ingest_history"].is_null(), "{page}");
    // A poll waits for its match and then has the field.
    let path = format!("{PREFIX}/streams?{select}&name=new&poll_timeout=50");
    let mut poll = server.connect();
    let bearer = format!("Bearer {API_KEY}");
    poll.send_request("GET", &path, &[("Authorization", &bearer)], b"");
    server
        .put("/streams/new", json!({"static": true}))
        .expect(200);
    let page = poll.response(false).expect(200).json();
    let layout = &page["streams"][0]["layout"];
    let hosts = strings(layout, "node_layout_decisions", "hostname");
    assert_eq!(hosts.len(), 3, "{page}");
    let refused = server
        .get(&format!("/streams?{select}&limit=101"))
        .expect(400);
    assert_eq!(refused.errors(), ["input_out_of_range limit"]);
    let off = TestServer::new();
    let refused = off.get(&format!("/streams?{select}")).expect(409);
    assert_eq!(refused.errors(), ["layouter_disabled"]);
}

#[test]
fn previews_count_what_the_caller_may_not_see() {
    let server = three_streamers();
    let restricted = |server: &TestServer, scope: &str| {
        let permissions = json!([{"scopes": [scope], "list": true, "execute": true}]);
        token(server, "restricted", json!({ "permissions": permissions }))
    };
    let post = |path: &str, body: &Value, authorization: &str| {
        let fields = [("Authorization", authorization)];
        let target = format!("{PREFIX}{path}");
        let body = body.to_string();
        let answer = server
            .connect()
            .request("POST", &target, &fields, body.as_bytes());
        answer.expect(200).json()
    };
    let admin = format!("Bearer {API_KEY}");

    // One more demand than the node has room for: streams out of the token's sight make way.
    for host in ["b1", "b2"] {
        let full = json!({"channel_limit": 6});
        server.put(&format!("/streamers/{host}"), full).expect(200);
    }
    let fits = json!({"channel_limit": 6, "labels": {"zone": "x"}});
    server.put("/streamers/a1", fits).expect(200);
    let others = until(&server, "/streams?layout.ingest=a1&limit=100", |page| {
        page["estimated_count"] == 6
    });
    assert!(
        strings(&others, "streams", "name")
            .iter()
            .any(|name| name.starts_with('b'))
    );
    let elsewhere = until(
        &server,
        "/streams?layout.ingest_ne=a1&name_like=a&limit=100",
        |page| page["estimated_count"].as_u64() >= Some(1),
    );
    let name = strings(&elsewhere, "streams", "name")[0].to_owned();
    let path = format!("/streams/{name}/preview_layout_change?limit=1");
    let edit = json!({"labels": {"required.zone": "x"}});
    let whole = post(&path, &edit, &admin);
    assert_eq!(
        whole["estimated_count"], 2,
        "one stream makes way for another: {whole}"
    );
    assert!(whole["hidden"].is_null(), "{whole}");
    let token = restricted(&server, &format!("streams/{name}"));
    let part = post(&path, &edit, &token);
    assert_eq!(strings(&part, "changes", "name"), [&name], "{part}");
    assert_eq!(
        (&part["estimated_count"], &part["hidden"]),
        (&json!(1), &json!(1))
    );
    // The pages of another caller's answer are not to be had with its cursor.
    let cursor = encode_segment(whole["next"].as_str().expect("two pages"));
    let target = format!("{PREFIX}{path}&cursor={cursor}");
    let fields = [("Authorization", token.as_str())];
    let body = edit.to_string();
    let stolen = server
        .connect()
        .request("POST", &target, &fields, body.as_bytes());
    assert_eq!(stolen.expect(410).errors(), ["walk_expired cursor"]);

    // The loads of streamers out of sight are counted as well.
    let path = "/streamers/a1/preview_layout_change";
    let empty = json!({"channel_limit": 0});
    let whole = post(path, &empty, &admin);
    let hosts: BTreeSet<&str> = strings(&whole, "changes", "hostname").into_iter().collect();
    assert!(hosts.contains("a1"), "{whole}");
    let token = restricted(&server, "streamers/a*");
    let part = post(path, &empty, &token);
    assert_eq!(strings(&part, "changes", "hostname"), ["a1"], "{part}");
    let all = whole["estimated_count"].as_u64().expect("a count");
    let hidden = part["hidden"].as_u64().unwrap_or_default();
    assert_eq!(hidden + 1, all, "{whole} {part}");
}
