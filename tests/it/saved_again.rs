//! Saving what was read changes nothing: no stamp, no tag, no event, nothing stored. For every
//! resource, with documents made from the schemas of the API document.

use serde_json::{Value, json};

use crate::bad_json::Pipeline;
use crate::calls::{etag, lay_out, save_node};
use crate::described::{Document, Operation};
use crate::round_trip::{keyed, report, with_one_of_each};
use crate::values::{Case, Fate, cases};
use weir_testkit::{Response, TestServer};

type Request = (String, String, Vec<u8>);

fn events_count(server: &TestServer) -> u64 {
    let list = server.get("/events?limit=1").expect(200).json();
    list["estimated_count"].as_u64().expect("a count")
}

/// Paths of the saved documents of a kind.
fn save_all(pipeline: &mut Pipeline, document: &Document, operation: &Operation) -> Vec<String> {
    let all = cases(document, operation.body.as_ref().expect("it has a body"));
    let sent = all.iter().filter(|case| {
        let is_valid = !matches!(case.fate, Fate::Refused(_)) && case.pointer != "/$reset";
        is_valid && !["/name", "/hostname", "/id"].contains(&case.pointer.as_str())
    });
    let requests: Vec<Request> = sent
        .enumerate()
        .map(|(n, case): (usize, &Case)| {
            let body = keyed(operation, document, n + 1, &case.body);
            let path = operation.path_of(n + 1);
            ("PUT".to_owned(), path, body.to_string().into_bytes())
        })
        .collect();
    let answers = pipeline.send(&requests);
    let saved = requests.into_iter().zip(answers);
    saved
        .filter(|(_, answer)| answer.status == 200)
        .map(|((_, path, _), _)| path)
        .collect()
}

fn read_all(pipeline: &mut Pipeline, paths: &[String]) -> Vec<Response> {
    let read = |path: &String| ("GET".to_owned(), path.clone(), Vec::new());
    pipeline.send(&paths.iter().map(read).collect::<Vec<_>>())
}

/// The documents of the whole list of a kind, by the path of each.
fn listed(server: &TestServer, operation: &Operation) -> Vec<(String, Value)> {
    let (list, parameter) = operation.template.rsplit_once('/').expect("a path");
    let key = parameter.trim_matches(['{', '}']);
    let answer = server
        .get(&format!("{list}?limit=10000"))
        .expect(200)
        .json();
    assert!(answer["next"].is_null(), "one page is enough: {list}");
    let is_item = |it: &Value| it.get(key).is_some();
    let mut members = answer.as_object().expect("an object").values();
    let items = members.find_map(|it| it.as_array().filter(|it| it.first().is_some_and(is_item)));
    let path = |item: &Value| match &item[key] {
        Value::String(text) => format!("{list}/{text}"),
        number => format!("{list}/{number}"),
    };
    let items = items.unwrap_or_else(|| panic!("no items in {list}"));
    items.iter().map(|it| (path(it), it.clone())).collect()
}

fn put(path: &str, body: &[u8]) -> Request {
    ("PUT".to_owned(), path.to_owned(), body.to_vec())
}

#[test]
fn saving_what_was_read_changes_nothing() {
    let document = Document::new();
    let server = with_one_of_each(&document);
    let mut pipeline = Pipeline::new(&server);
    let mut faults = Vec::new();
    let mut saved = 0;
    for operation in document.with_bodies() {
        if !operation.is_save() {
            continue;
        }
        let paths = save_all(&mut pipeline, &document, &operation);
        saved += paths.len();
        let events = events_count(&server);
        let read = read_all(&mut pipeline, &paths);
        let again: Vec<Request> = paths
            .iter()
            .zip(&read)
            .map(|(p, r)| put(p, &r.body))
            .collect();
        for ((path, before), after) in paths.iter().zip(&read).zip(pipeline.send(&again)) {
            let shown = format!("{} {path} {}", operation.id, before.text());
            if after.status != 200 {
                faults.push(format!("{shown}: {}", after.text()));
            } else if after.json() != before.json() || etag(&after) != etag(before) {
                faults.push(format!("{shown}: became {}", after.text()));
            }
        }
        let listed = listed(&server, &operation);
        let again: Vec<Request> = listed
            .iter()
            .map(|(path, item)| put(path, item.to_string().as_bytes()))
            .collect();
        for ((path, item), after) in listed.iter().zip(pipeline.send(&again)) {
            if after.status != 200 {
                faults.push(format!("{} {path} {item}: {}", operation.id, after.text()));
            }
        }
        for (before, after) in read.iter().zip(read_all(&mut pipeline, &paths)) {
            if before.text() != after.text() || etag(before) != etag(&after) {
                let (before, after) = (before.text(), after.text());
                faults.push(format!(
                    "{} {before}: became {after} by its list",
                    operation.id
                ));
            }
        }
        if events_count(&server) != events {
            faults.push(format!("{}: events were logged", operation.id));
        }
    }
    report(&faults);
    assert!(saved > 3000, "{saved}");
}

#[test]
fn batch_of_what_was_listed_changes_nothing() {
    let server = TestServer::new();
    save_node(&server, "s1");
    save_node(&server, "s2");
    let body = json!({
        "inputs": [{"url": "rtsp://u:p@h/1"}, {"url": "publish://", "scte35": true}],
        "thumbnails": {"enabled": true}, "dvr": {"reference": "d", "expiration": 60},
    });
    for name in ["a", "b", "c/d"] {
        server
            .put(&format!("/streams/{name}"), body.clone())
            .expect(200);
    }
    lay_out(&server, &[("a", "s1"), ("c/d", "s2")]);
    let events = events_count(&server);
    for (path, member) in [("/streams", "streams"), ("/streamers", "streamers")] {
        let before = server.get(path).expect(200).json();
        let items = before[member].clone();
        server.put(&format!("{path}/batch"), items).expect(204);
        assert_eq!(server.get(path).expect(200).json()[member], before[member]);
    }
    let before = server.get("/streams").expect(200).json();
    let streams = before["streams"].as_array().expect("a list").iter();
    let layouts: Vec<Value> = streams
        .filter_map(|stream| {
            let mut layout = stream.get("layout")?.clone();
            layout["name"] = stream["name"].clone();
            Some(layout)
        })
        .collect();
    assert_eq!(layouts.len(), 2);
    server
        .post("/streams/layouts", json!({"layouts": layouts}))
        .expect(204);
    let after = server.get("/streams").expect(200).json();
    assert_eq!(after["streams"], before["streams"]);
    assert_eq!(events_count(&server), events);
}

#[test]
fn default_of_the_new_variant_is_not_stored() {
    let server = TestServer::new();
    // What was saved on purpose stays when it is the default.
    let on_purpose = server
        .put("/streams/a", json!({"static": false}))
        .expect(200)
        .json();
    assert_eq!(on_purpose["config_on_disk"]["static"], false);
    let on_purpose = server
        .put("/streams/a", json!({"static": true}))
        .expect(200)
        .json();
    assert_eq!(on_purpose["config_on_disk"]["static"], true);
    let read = server.get("/streams/a").expect(200);
    let again = server.put("/streams/a", read.json()).expect(200);
    assert_eq!(again.json(), read.json());
    // The url selects the variant of an input and so its defaults.
    let inputs =
        json!([{"url": "publish://", "scte35": true}, {"url": "rtsp://h", "comment": "t"}]);
    let saved = server
        .put("/streams/b", json!({"inputs": inputs}))
        .expect(200)
        .json();
    let stored = json!([{"url": "publish://"}, {"url": "rtsp://h", "comment": "t"}]);
    assert_eq!(saved["config_on_disk"]["inputs"], stored);
    assert_eq!(saved["inputs"][0]["scte35"], true);
}
