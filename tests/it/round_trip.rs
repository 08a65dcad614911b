//! Every field of every body, made from the schemas: valid values are saved and read back as sent,
//! invalid ones are refused with their pointer, and read-only ones are ignored.

use serde_json::{Value, json};

use crate::bad_json::Pipeline;
use crate::described::{Document, Operation};
use crate::values::{Case, Conformance, Fate, cases};
use weir_testkit::{Response, TestServer};

/// Places at which an operation checks more than its schema. The rest of the table is the
/// reason.
const EXCUSED: &[(&str, &str, &str)] = &[
    (
        "stream_save",
        "/layout",
        "depends on roles of nodes, and what was not changed is not there",
    ),
    (
        "api_token_save",
        "/key",
        "visible ASCII, and no two tokens have the same",
    ),
    ("api_token_save", "/auth_scopes", "scopes have a form"),
    (
        "api_token_save",
        "/permissions/0/scopes",
        "scopes have a form",
    ),
    ("auth_backend_save", "/allow_ips", "addresses or subnets"),
    ("auth_backend_save", "/deny_ips", "addresses or subnets"),
    ("auth_backend_save", "/allow_countries", "two letters"),
    ("auth_backend_save", "/deny_countries", "two letters"),
    (
        "auth_backend_save",
        "/allow_tokens",
        "an empty token identifies no caller",
    ),
    (
        "auth_backend_save",
        "/deny_tokens",
        "an empty token identifies no caller",
    ),
    (
        "auth_backend_save",
        "/allow_uas",
        "an empty text is in every other",
    ),
    (
        "auth_backend_save",
        "/deny_uas",
        "an empty text is in every other",
    ),
    (
        "auth_backend_save",
        "/backends/0/url",
        "http and https, without fragment",
    ),
    (
        "agent_save",
        "/layout",
        "depends on streams of the agent, and what was not changed is not there",
    ),
    (
        "episode_save",
        "/updated_at",
        "the server's own stamp takes its place",
    ),
    (
        "person_save",
        "/updated_at",
        "the server's own stamp takes its place",
    ),
];

fn excused(operation: &Operation, pointer: &str) -> bool {
    EXCUSED.iter().any(|(id, place, _)| {
        *id == operation.id
            && pointer
                .strip_prefix(place)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// Names of the members that are the path's: a body for `/streams/{name}` need not repeat them.
pub fn keys(operation: &Operation) -> Vec<&str> {
    let path = operation
        .parameters
        .iter()
        .filter(|parameter| parameter["in"] == "path");
    path.filter_map(|parameter| parameter["name"].as_str())
        .collect()
}

/// The body of the nth entity: without the key if the path has it, with it in an item of a batch.
pub fn keyed(operation: &Operation, document: &Document, n: usize, body: &Value) -> Value {
    let mut body = body.clone();
    // Required and unique members.
    if body["key"] == "a" {
        body["key"] = json!(format!("key{n}"));
    }
    if let Some(object) = body.as_object_mut() {
        for key in keys(operation) {
            object.remove(key);
        }
        // The keys of tokens are unique.
        if operation.id == "api_token_save" && object.get("key") == Some(&json!("text")) {
            object.insert("key".to_owned(), json!(format!("text{n}")));
        }
    }
    if let Some(item) = body.get_mut(0).and_then(Value::as_object_mut)
        && operation.is_batch()
    {
        let described = document.flat(&operation.body.as_ref().expect("it has a body")["items"]);
        let hostname = described["discriminator"].is_object();
        item.insert(
            if hostname { "hostname" } else { "name" }.to_owned(),
            json!(format!("t{n}")),
        );
    }
    body
}

/// A server with the entity number 0 of every kind.
pub fn with_one_of_each(document: &Document) -> TestServer {
    with_one_of_each_and(document, &[])
}

/// Like `with_one_of_each`, with further arguments.
pub fn with_one_of_each_and(document: &Document, arguments: &[&str]) -> TestServer {
    // Saves of episodes are committed at once.
    let mut all = vec!["--episodes-buffer-delay", "0"];
    all.extend_from_slice(arguments);
    let server = TestServer::with(&all);
    let mut pipeline = Pipeline::new(&server);
    for operation in document.with_bodies() {
        if operation.is_save() {
            let body = document.flat(operation.body.as_ref().expect("it has a body"));
            let body = keyed(&operation, document, 0, &document.minimal(&body));
            let request = (
                "PUT".to_owned(),
                operation.path_of(0),
                body.to_string().into_bytes(),
            );
            let answer = pipeline.send(&[request]).remove(0);
            assert_eq!(
                answer.status,
                200,
                "{} {body}: {}",
                operation.id,
                answer.text()
            );
        }
    }
    server
}

/// Whether the key itself is what a case is about.
fn about_key(operation: &Operation, case: &Case) -> bool {
    let first = case
        .pointer
        .trim_start_matches("/0")
        .split('/')
        .nth(1)
        .unwrap_or_default();
    keys(operation).contains(&first) || operation.is_batch() && matches!(first, "name" | "hostname")
}

fn requests(
    operation: &Operation,
    document: &Document,
    cases: &[&Case],
) -> Vec<(String, String, Vec<u8>)> {
    let request = |(n, case): (usize, &&Case)| {
        // Other operations than saves need an existing entity.
        let n = if operation.is_save() || operation.is_batch() {
            n + 1
        } else {
            0
        };
        let mut body = keyed(operation, document, n, &case.body);
        if case.pointer == "/key" {
            body["key"] = case.value.clone();
        }
        (
            operation.method.clone(),
            operation.path_of(n),
            body.to_string().into_bytes(),
        )
    };
    cases.iter().enumerate().map(request).collect()
}

#[test]
fn every_valid_value_is_saved_and_read_back() {
    let document = Document::new();
    let server = with_one_of_each(&document);
    let mut pipeline = Pipeline::new(&server);
    let mut conformance = Conformance::default();
    let mut faults = Vec::new();
    let mut kept = 0;
    for operation in document.with_bodies() {
        if !operation.is_save() {
            continue;
        }
        let all = cases(&document, operation.body.as_ref().expect("it has a body"));
        let sent: Vec<&Case> = all
            .iter()
            // `$reset` controls the save and is not stored.
            .filter(|case| !matches!(case.fate, Fate::Refused(_)) && case.pointer != "/$reset")
            .filter(|case| !about_key(&operation, case) && !excused(&operation, &case.pointer))
            .collect();
        let answers = pipeline.send(&requests(&operation, &document, &sent));
        let read: Vec<_> = (0..sent.len())
            .map(|n| ("GET".to_owned(), operation.path_of(n + 1), Vec::new()))
            .collect();
        for ((case, saved), read) in sent.iter().zip(answers).zip(pipeline.send(&read)) {
            let shown = format!("{} {}", operation.id, case.body);
            if saved.status != 200 {
                faults.push(format!("{shown}: {}", saved.text()));
                continue;
            }
            let answer = saved.json();
            let found = answer.pointer(&case.pointer);
            match case.fate {
                Fate::Kept if found == Some(&case.value) => kept += 1,
                Fate::Dropped if found != Some(&case.value) => {}
                _ => faults.push(format!("{shown}: {:?} came back as {found:?}", case.fate)),
            }
            if read.status != 200 || read.json() != answer {
                faults.push(format!("{shown}: read as {}", read.text()));
            }
            let answer_schema = operation.answer.as_ref().expect("a save is answered");
            for fault in conformance.faults(&document, answer_schema, &answer) {
                faults.push(format!("{shown}: answered {fault}"));
            }
        }
    }
    report(&faults);
    assert!(kept > 3000, "{kept}");
}

/// Whether a report was used without an invalid value: a number that is rounded or clamped, or a
/// part that the response names as dropped.
fn is_repaired(case: &Case, answer: &Response) -> bool {
    let of_case = |dropped: &Value| {
        let pointer = dropped["pointer"].as_str();
        pointer.is_some_and(|pointer| case.pointer.starts_with(pointer))
    };
    match answer.status {
        204 => case.value.is_number(),
        200 => {
            let answer = answer.json();
            let dropped = answer["dropped"].as_array();
            dropped.is_some_and(|dropped| dropped.iter().any(of_case))
        }
        _ => false,
    }
}

#[test]
fn every_invalid_value_is_refused_with_its_pointer() {
    let document = Document::new();
    // Previews read their body only while the layouter is on.
    let server = with_one_of_each_and(&document, &["--layouter-enabled=true"]);
    let mut pipeline = Pipeline::new(&server);
    let mut faults = Vec::new();
    let (mut refused, mut repaired) = (0, 0);
    let mut operations = document.with_bodies();
    // One takes a credential and a header with it, the other has a short body whose patch is checked
    // for each stream: `browser_session` and `bulk` hold their errors.
    let excluded = ["session_open", "streams_batch_update_by_filter"];
    operations.retain(|operation| !excluded.contains(&operation.id.as_str()));
    for operation in operations {
        let all = cases(&document, operation.body.as_ref().expect("it has a body"));
        // Invalid values in an excused place are refused as well. Items of a batch and previews
        // are read by what reads a save, so a part of the cases is enough to show that.
        let again = operation.is_batch() || operation.template.contains("preview");
        let step = if again { 7 } else { 1 };
        let sent: Vec<&Case> = all
            .iter()
            .filter(|case| matches!(case.fate, Fate::Refused(_)))
            .filter(|case| !about_key(&operation, case))
            // Counts as not given: a key is generated.
            .filter(|case| operation.id != "api_token_save" || case.value != "")
            .step_by(step)
            .collect();
        let answers = pipeline.send(&requests(&operation, &document, &sent));
        for (case, answer) in sent.iter().zip(answers) {
            let Fate::Refused(code) = case.fate else {
                unreachable!("filtered")
            };
            let shown = format!(
                "{} {} wants {code:?} {}",
                operation.id,
                cut(&case.body.to_string()),
                case.pointer
            );
            if operation.id == "streamer_stats_report" && is_repaired(case, &answer) {
                repaired += 1;
                continue;
            }
            // The key of an item may be valid without an entity.
            if !matches!(answer.status, 400 | 404) {
                faults.push(format!(
                    "{shown}: {} {}",
                    answer.status,
                    cut(&answer.text())
                ));
                continue;
            }
            let errors = answer.errors();
            let is_it = |error: &String| {
                let (reported, place) = error.split_once(' ').unwrap_or((error, ""));
                // Null as a missing value and null as a wrong value are equivalent to the client.
                let null = code == "null_in_array_of_non_nullable" && reported.starts_with("not_");
                let absent = reported.ends_with("_not_found");
                let same = reported == code || code.is_empty() || null || absent;
                place == case.pointer && same
            };
            if errors.iter().any(is_it) {
                refused += 1;
            } else {
                faults.push(format!("{shown}: {errors:?}"));
            }
        }
    }
    report(&faults);
    assert!(refused > 2500 && repaired > 300, "{refused} {repaired}");
}

fn cut(text: &str) -> String {
    text.chars().take(300).collect()
}

#[track_caller]
pub fn report(faults: &[String]) {
    let shown: Vec<&str> = faults.iter().take(400).map(String::as_str).collect();
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        shown.join("\n")
    );
}

/// Answers as the reference gives them, one per operation: its names, its structure and its
/// numbers, with texts of our own.
const SAMPLES: &str = include_str!("samples.json");

#[test]
fn reference_responses_match_our_schemas() {
    let document = Document::new();
    let mut conformance = Conformance::default();
    let samples: Value = serde_json::from_str(SAMPLES).expect("samples are JSON");
    let samples = samples.as_object().expect("one per operation");
    assert!(samples.len() > 40);
    let mut checked = 0;
    let mut faults = Vec::new();
    for operation in document.operations() {
        let (Some(sample), Some(schema)) = (samples.get(&operation.id), &operation.answer) else {
            continue;
        };
        checked += 1;
        for fault in conformance.faults(&document, schema, sample) {
            // The samples leave away members that are required, as their programs do for what is
            // empty.
            if !fault.ends_with(" is missing") {
                faults.push(format!("{}: {fault}", operation.id));
            }
        }
    }
    report(&faults);
    assert!(checked >= 40, "{checked}");
}

#[test]
fn empty_and_zero_keys_in_a_body_count_as_not_given() {
    // Goal: a partial save by a generated client, which sends members without a value as "" or 0.
    let server = TestServer::new();
    let media = json!({"media": "a", "opened_at": 1_727_274_724_000_u64});
    for (path, key, unset, mut body) in [
        ("/streams/a", "name", json!(""), json!({"comment": "c"})),
        (
            "/streamers/s1",
            "hostname",
            json!(""),
            json!({"role": "streamer", "cluster_key": "k"}),
        ),
        ("/agents/a1", "id", json!(""), json!({"key": "k"})),
        ("/api_tokens/t", "name", json!(""), json!({"key": ""})),
        ("/auth_backends/b", "name", json!(""), json!({})),
        ("/load-balancers/l", "name", json!(""), json!({})),
        ("/episodes/7", "episode_id", json!(0), media),
        (
            "/persons/7",
            "person_id",
            json!(0),
            json!({"originator": "api"}),
        ),
    ] {
        let plain = body.clone();
        body[key] = unset;
        body["updated_at"] = json!(0);
        let created = server.put(path, body.clone()).expect(200).json();
        let stored = server.get(path).expect(200).json();
        assert!(
            path.ends_with(&stored[key].to_string().replace('"', "")),
            "{stored}"
        );
        // Saving it again changes nothing, the key of a token included.
        let again = server.put(path, body).expect(200).json();
        assert_eq!(again, created, "{path}");
        server.put(path, plain).expect(200);
        assert_eq!(server.get(path).expect(200).json(), stored, "{path}");
    }
}
