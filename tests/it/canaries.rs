//! Secrets are returned only when an administrator reads the entity itself.
//!
//! Each secret of each schema gets a unique number, in an entity of its own. Then every query is
//! sent, and every response is searched for the numbers: lists in every form, errors, events,
//! statistics, the OpenAPI document, the log.

use serde_json::{Value, json};

use crate::bad_json::Pipeline;
use crate::described::{Document, Operation};
use crate::round_trip::{keyed, report, with_one_of_each_and};
use crate::values::{Fate, cases};
use weir_testkit::encode_segment;

/// Begins every planted secret: digits only, because some addresses allow nothing else where a
/// password could be.
const MARK: &str = "77314159265";

/// Formats of addresses, whose password is secret.
const ADDRESSES: &[&str] = &["url", "input_url", "agent_url", "dvr_url", "url_or_empty"];

/// One planted secret.
struct Canary {
    operation: String,
    path: String,
    list: String,
    /// The field, as queries name it.
    field: String,
    secret: String,
}

/// The secrets of what one operation saves: place, and the body with the secret in it.
fn plantable(document: &Document, save: &Operation) -> Vec<(String, Value)> {
    let mut found: Vec<(String, Value)> = Vec::new();
    for case in cases(document, save.body.as_ref().expect("it has a body")) {
        let Value::String(text) = &case.value else {
            continue;
        };
        let address = case
            .format
            .as_deref()
            .is_some_and(|it| ADDRESSES.contains(&it));
        if case.fate != Fate::Kept || !(case.secret || address) {
            continue;
        }
        // One for each place; of an address, the first form that has a host.
        if found.iter().any(|(pointer, body)| {
            *pointer == case.pointer && same_variant(body, &case.body, &case.pointer)
        }) {
            continue;
        }
        let planted = if address {
            let Some((scheme, rest)) = text.split_once("://").filter(|(_, rest)| !rest.is_empty())
            else {
                continue;
            };
            format!("{scheme}://u:{MARK}@{rest}")
        } else {
            MARK.to_owned()
        };
        let mut body = case.body.clone();
        *body.pointer_mut(&case.pointer).expect("the value is there") = json!(planted);
        found.push((case.pointer, body));
    }
    found
}

/// Whether two bodies differ only in the value at one pointer: a URL may also determine the variant
/// of its object.
fn same_variant(a: &Value, b: &Value, pointer: &str) -> bool {
    let scheme = |body: &Value| {
        let text = body
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default();
        text.split("://").next().unwrap_or_default().to_owned()
    };
    let without = |body: &Value| {
        let mut body = body.clone();
        if let Some(value) = body.pointer_mut(pointer) {
            *value = Value::Null;
        }
        body
    };
    without(a) == without(b) && scheme(a) == scheme(b)
}

fn field_of(pointer: &str) -> String {
    let steps = pointer.split('/').skip(1).filter(|step| *step != "0");
    steps.collect::<Vec<_>>().join(".")
}

#[test]
fn no_response_reveals_a_secret_of_another_entity() {
    let document = Document::new();
    let arguments = ["--log-level", "debug", "--log-requests=true"];
    let server = with_one_of_each_and(&document, &arguments);
    let mut pipeline = Pipeline::new(&server);
    let mut canaries: Vec<Canary> = Vec::new();
    let mut faults = Vec::new();
    let operations = document.operations();
    for save in document.with_bodies() {
        if !save.is_save() {
            continue;
        }
        let list = save
            .template
            .rsplit_once("/{")
            .expect("it has a key")
            .0
            .to_owned();
        for (pointer, body) in plantable(&document, &save) {
            let n = canaries.len() + 1;
            let secret = format!("{MARK}{n:05}");
            let body = body.to_string().replace(MARK, &secret);
            let body = keyed(
                &save,
                &document,
                n,
                &serde_json::from_str(&body).expect("it was JSON"),
            );
            let request = (
                "PUT".to_owned(),
                save.path_of(n),
                body.to_string().into_bytes(),
            );
            let saved = pipeline.send(&[request]).remove(0);
            // Some forms of addresses have no place for a password.
            if saved.status == 400 && saved.errors()[0].ends_with(&pointer) {
                assert!(!saved.text().contains(MARK), "{}", saved.text());
                continue;
            }
            assert_eq!(saved.status, 200, "{} {body}: {}", save.id, saved.text());
            if !saved.text().contains(&secret) {
                faults.push(format!(
                    "{} {pointer}: not shown to the caller that saved it",
                    save.id
                ));
            }
            canaries.push(Canary {
                operation: save.id.clone(),
                path: save.path_of(n),
                list: list.clone(),
                field: field_of(&pointer),
                secret,
            });
        }
    }
    assert!(canaries.len() > 60, "{}", canaries.len());
    let get = |path: &str| ("GET".to_owned(), path.to_owned(), Vec::new());

    // Every query about one secret.
    let mut questions: Vec<String> = Vec::new();
    for Canary {
        list,
        field,
        secret,
        ..
    } in &canaries
    {
        let half = &secret[..secret.len() - 2];
        for query in [
            format!("select={field}"),
            format!("sort={field}"),
            format!("sort=-{field}&limit=3"),
            format!("{field}_like={half}"),
            format!("{field}={secret}"),
            format!("q={secret}"),
            format!("select=config_on_disk.{field}"),
        ] {
            questions.push(format!("{list}?{query}"));
        }
    }
    // Every query, except for the entity itself, the configuration of a streamer, and a backup,
    // which has all secrets.
    for operation in &operations {
        let own = operation.template.starts_with("/streamers/{")
            || operation.id == "backup_get"
            || canaries.iter().any(|canary| {
                operation.template.starts_with(&canary.list) && operation.template.ends_with('}')
            });
        if operation.method == "GET" && !own {
            let path = operation.path_of(0);
            questions.push(path.clone());
            questions.push(format!("{path}?limit=10000"));
            questions.push(format!("{path}?format=openmetrics"));
        }
    }
    // Pages, there and back.
    for list in canaries
        .iter()
        .map(|canary| &canary.list)
        .collect::<std::collections::BTreeSet<_>>()
    {
        let mut query = format!("{list}?limit=10");
        loop {
            let page = pipeline.send(&[get(&query)]).remove(0).expect(200);
            if page.text().contains(MARK) {
                faults.push(query.clone());
            }
            let page = page.json();
            let Some(next) = page["next"].as_str() else {
                break;
            };
            query = format!("{list}?limit=10&cursor={}", encode_segment(next));
        }
    }
    let requests: Vec<_> = questions.iter().map(|question| get(question)).collect();
    for (question, answer) in questions.iter().zip(pipeline.send(&requests)) {
        let heads: String = answer.headers().map(|(_, value)| value).collect();
        if answer.text().contains(MARK) || heads.contains(MARK) {
            faults.push(format!("GET {question}: {}", answer.status));
        }
        // A question finds the same whatever the secret is: everything or nothing.
        let secretive = question.contains("_like=") || question.contains(&format!("={MARK}"));
        if answer.status == 200 && secretive && answer.json()["estimated_count"] == 1 {
            faults.push(format!("GET {question} finds what is hidden"));
        }
    }
    // Wrong values beside secrets: errors repeat neither.
    let wrong: Vec<_> = canaries
        .iter()
        .map(|canary| {
            let mut body = json!({"key": {}, "name": [], "x": canary.secret});
            let first = canary.field.split('.').next().unwrap_or_default();
            body[first] = json!([{"url": canary.secret}, canary.secret, [canary.secret]]);
            (
                "PUT".to_owned(),
                canary.path.clone(),
                body.to_string().into_bytes(),
            )
        })
        .collect();
    for (canary, answer) in canaries.iter().zip(pipeline.send(&wrong)) {
        if answer.status >= 400 && answer.text().contains(MARK) {
            faults.push(format!(
                "an error of {} {}: {}",
                canary.operation,
                canary.field,
                answer.text()
            ));
        }
    }
    // An item of a list that is sent back keeps the masked values.
    for canary in &canaries {
        let whole = pipeline.send(&[get(&canary.path)]).remove(0).expect(200);
        if !whole.text().contains(&canary.secret) {
            faults.push(format!("{} {} is lost", canary.operation, canary.field));
            continue;
        }
        let key = canary.path.rsplit('/').next().unwrap_or_default();
        let shown = pipeline
            .send(&[get(&format!("{}?limit=10000", canary.list))])
            .remove(0)
            .json();
        let items = shown
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(_, it)| it.as_array());
        let is_it = |item: &&Value| {
            let names = ["name", "hostname", "id", "episode_id", "person_id"];
            names.iter().any(|name| item[*name] == key)
        };
        let masked = items
            .flatten()
            .find(is_it)
            .unwrap_or_else(|| panic!("{key} is in no list"));
        let body = masked.to_string().into_bytes();
        let saved = pipeline
            .send(&[("PUT".to_owned(), canary.path.clone(), body)])
            .remove(0);
        if saved.status != 200 || !saved.text().contains(&canary.secret) {
            faults.push(format!(
                "{} {}: a mask sent back gave {}",
                canary.operation,
                canary.field,
                saved.text()
            ));
        }
    }
    let log = server.log();
    assert!(log.contains("/streams/t"), "requests are in the log");
    let leaks = log.lines().filter(|line| line.contains(MARK));
    faults.extend(leaks.map(|line| format!("log: {line}")));
    report(&faults);
}
