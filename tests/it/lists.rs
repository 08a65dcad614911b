//! Every list, queried by every field of its items: filters, order, selection and pages agree with
//! a plain reading of the whole list.
//!
//! The entities are made from the schemas of bodies. The expected answer of a list is computed here
//! from its own items, so the test has the rules of the query language and is independent of
//! resources.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::bad_json::Pipeline;
use crate::described::{Document, Operation};
use crate::round_trip::{keyed, with_one_of_each};
use crate::values::{Fate, cases};
use weir_testkit::{TestServer, encode_segment};

/// Entities of each kind. Few enough for one page.
const THINGS: usize = 60;

/// An operation that answers a collection, and the name of the member with the items.
pub fn collections(document: &Document) -> Vec<(Operation, String)> {
    let lists = document.operations().into_iter().filter_map(|operation| {
        let answer = document.flat(operation.answer.as_ref()?);
        answer["properties"].get("estimated_count")?;
        let properties = answer["properties"].as_object()?.clone();
        let named = properties
            .iter()
            .find(|(_, property)| document.flat(property)["type"] == "array")?;
        let name = named.0.clone();
        let plain = operation.method == "GET" && !operation.template.contains('{');
        plain.then_some((operation, name))
    });
    lists.collect()
}

/// Everything a path with dots leads to, arrays mapped through.
fn at<'a>(item: &'a Value, path: &str) -> Vec<&'a Value> {
    let leaves = ends(item, path).into_iter().flat_map(|value| match value {
        Value::Array(items) => items.iter().collect(),
        value => vec![value],
    });
    leaves.filter(|value| !value.is_null()).collect()
}

/// Like `at`, without mapping an array at the end.
fn ends<'a>(item: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = Vec::new();
    follow(item, path, &mut found);
    found.retain(|value| !value.is_null());
    found
}

fn follow<'a>(value: &'a Value, path: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| follow(item, path, found)),
        value => match member(value, path) {
            Some((member, "")) => found.push(member),
            Some((member, rest)) => follow(member, rest, found),
            None => {}
        },
    }
}

/// The member with the longest name that the path begins with, and the rest of the path.
fn member<'a, 'p>(value: &'a Value, path: &'p str) -> Option<(&'a Value, &'p str)> {
    let dots = path.rmatch_indices('.');
    let names = dots.map(|(dot, _)| (&path[..dot], &path[dot + 1..]));
    let mut names = std::iter::once((path, "")).chain(names);
    names.find_map(|(name, rest)| Some((value.get(name)?, rest)))
}

/// Whether the path goes through an array.
fn path_has_array(item: &Value, path: &str) -> bool {
    let (mut value, mut path) = (item, path);
    while !path.is_empty() {
        if value.is_array() {
            return true;
        }
        let Some((below, rest)) = member(value, path) else {
            return false;
        };
        (value, path) = (below, rest);
    }
    false
}

/// Scalar fields that occur in the items, by path: what type all of their values have.
fn fields(items: &[Value]) -> BTreeMap<String, &'static str> {
    fn walk(value: &Value, path: &str, into: &mut BTreeMap<String, Option<&'static str>>) {
        let mut note = |kind| {
            let held = into.entry(path.to_owned()).or_insert(Some(kind));
            if *held != Some(kind) {
                *held = None;
            }
        };
        match value {
            Value::Object(object) => {
                note("object");
                for (name, member) in object {
                    let below = if path.is_empty() {
                        name.clone()
                    } else {
                        format!("{path}.{name}")
                    };
                    walk(member, &below, into);
                }
            }
            // No path leads into an array in an array.
            Value::Array(items) if items.iter().any(Value::is_array) => {
                into.insert(path.to_owned(), None);
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, path, into)),
            Value::String(_) => note("string"),
            Value::Bool(_) => note("boolean"),
            Value::Number(number) if number.is_f64() => note("float"),
            Value::Number(_) => note("integer"),
            Value::Null => {}
        }
    }
    let mut all = BTreeMap::new();
    for item in items {
        walk(item, "", &mut all);
    }
    let scalar = |(path, kind): (String, Option<&'static str>)| Some((path, kind?));
    all.into_iter()
        .filter_map(scalar)
        .filter(|(_, kind)| *kind != "object")
        .collect()
}

/// The name of the member that is the key of the items: the parameter of the path of a single one.
pub fn key_of(document: &Document, list: &Operation) -> Option<(String, Operation)> {
    document.with_bodies().into_iter().find_map(|save| {
        let parameter = save
            .template
            .strip_prefix(&list.template)?
            .strip_prefix("/{")?;
        let key = parameter.strip_suffix('}')?.to_owned();
        save.is_save().then_some((key, save))
    })
}

/// Saves entities that differ in every field: the nth has the nth valid value of each member, and
/// every third time none.
fn fill(server: &TestServer, document: &Document, save: &Operation) {
    let mut members: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let all = cases(document, save.body.as_ref().expect("it has a body"));
    for case in all.iter().filter(|case| case.fate == Fate::Kept) {
        let first = case
            .pointer
            .split('/')
            .nth(1)
            .unwrap_or_default()
            .to_owned();
        // Where a stream runs is decided by more than its schema.
        if first != "layout" && !first.starts_with('$') {
            members.entry(first).or_default().push(case.body.clone());
        }
    }
    let mut pipeline = Pipeline::new(server);
    for n in 1..=THINGS {
        let mut body = json!({});
        for (i, bodies) in members.values().enumerate() {
            let other = &bodies[(n * 7 + i) % bodies.len()];
            for (name, value) in other.as_object().expect("bodies are objects") {
                if (n + i) % 3 != 0 || body.get(name).is_none() {
                    body[name] = value.clone();
                }
            }
        }
        let body = keyed(save, document, n, &body);
        let request = |body: &Value| {
            (
                "PUT".to_owned(),
                save.path_of(n),
                body.to_string().into_bytes(),
            )
        };
        let answer = pipeline.send(&[request(&body)]).remove(0);
        if answer.status != 200 {
            // Members of different variants do not always go together: then each by itself.
            let bodies = members
                .values()
                .nth(n % members.len())
                .expect("there are members");
            let one = keyed(save, document, n, &bodies[n % bodies.len()]);
            let answer = pipeline.send(&[request(&one)]).remove(0);
            assert_eq!(answer.status, 200, "{} {one}: {}", save.id, answer.text());
        }
    }
}

fn text_of(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// The order of the language among values of one type.
fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::String(a), Value::String(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Value::Number(a), Value::Number(b)) => match (a.as_i128(), b.as_i128()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a
                .as_f64()
                .partial_cmp(&b.as_f64())
                .expect("numbers are finite"),
        },
        _ => Ordering::Equal,
    }
}

const SUFFIXES: [&str; 9] = [
    "", "_ne", "_gt", "_gte", "_lt", "_lte", "_like", "_is", "_is_not",
];

/// Whether an item passes a filter, by the rules of the language. `None`: the rules leave it open.
fn passes(
    values: &[&Value],
    is_there: bool,
    kind: &str,
    suffix: &str,
    wanted: &Value,
) -> Option<bool> {
    let any = |ok: &dyn Fn(Ordering) -> bool| values.iter().any(|value| ok(compare(value, wanted)));
    let ordered = kind != "boolean";
    Some(match suffix {
        "" => values.contains(&wanted),
        "_ne" if values.len() <= 1 => !values.contains(&wanted),
        "_gt" if ordered => any(&Ordering::is_gt),
        "_gte" if ordered => any(&Ordering::is_ge),
        "_lt" if ordered => any(&Ordering::is_lt),
        "_lte" if ordered => any(&Ordering::is_le),
        "_like" if kind == "string" => {
            let part = wanted.as_str().expect("a text");
            values
                .iter()
                .any(|value| value.as_str().is_some_and(|text| text.contains(part)))
        }
        "_is" => !is_there,
        "_is_not" => is_there,
        _ => return None,
    })
}

#[test]
fn every_list_query_agrees_with_its_items() {
    let document = Document::new();
    let server = with_one_of_each(&document);
    let mut pipeline = Pipeline::new(&server);
    let mut faults = Vec::new();
    let mut lists = 0;
    for (list, member) in collections(&document) {
        let Some((key, save)) = key_of(&document, &list) else {
            continue;
        };
        lists += 1;
        fill(&server, &document, &save);
        let mut ask = |query: &str| {
            let target = format!("{}?{query}", list.template);
            pipeline
                .send(&[("GET".to_owned(), target, Vec::new())])
                .remove(0)
        };
        let whole = ask("limit=10000").expect(200).json();
        let items = whole[&member].as_array().expect("a list").clone();
        assert!(items.len() > THINGS, "{}", list.id);
        let keys = |page: &Value| -> Vec<Value> {
            let items = page[&member].as_array().expect("a list");
            items.iter().map(|item| item[&key].clone()).collect()
        };
        let mut sorts = Vec::new();
        let (mut query_count, mut secret) = (0, 0);
        for (i, (path, kind)) in fields(&items).iter().enumerate() {
            let values: Vec<Vec<&Value>> = items.iter().map(|item| at(item, path)).collect();
            let named: Vec<&Value> = values.iter().flatten().copied().collect();
            let wanted = named[i * 13 % named.len()];
            let text = text_of(wanted);
            let open = text.is_empty() || text.contains(',');
            // Every operator on every tenth field, three of them on the others.
            let rotating = (0..9).filter(|j| i % 10 == 0 || (i + j) % 3 == 0);
            for suffix in rotating.map(|j| SUFFIXES[j]) {
                let null = suffix.starts_with("_is");
                if open && !null {
                    continue;
                }
                let text = match suffix {
                    "_is" | "_is_not" => "null".to_owned(),
                    "_like" => text.chars().skip(1).take(5).collect(),
                    _ => text.clone(),
                };
                let part = json!(text);
                let wanted = if suffix == "_like" { &part } else { wanted };
                let expected: Option<Vec<Value>> = items
                    .iter()
                    .zip(&values)
                    .map(|(item, values)| {
                        let is_there = !ends(item, path).is_empty();
                        Some((item, passes(values, is_there, kind, suffix, wanted)?))
                    })
                    .collect::<Option<Vec<_>>>()
                    .map(|all| {
                        let passed = all.into_iter().filter(|(_, passes)| *passes);
                        passed.map(|(item, _)| item[&key].clone()).collect()
                    });
                let Some(expected) = expected.filter(|_| !text.is_empty()) else {
                    continue;
                };
                let query = format!("{}{suffix}={}", encoded_path(path), encode_segment(&text));
                let answer = ask(&format!("{query}&select={key}&limit=10000"));
                if answer.status == 400 && answer.errors()[0].starts_with("secret_field") {
                    secret += 1;
                    continue;
                }
                if answer.status != 200 {
                    faults.push(format!("{} {query}: {}", list.id, answer.text()));
                    continue;
                }
                query_count += 1;
                let page = answer.json();
                if keys(&page) != expected || page["estimated_count"] != expected.len() {
                    let found = keys(&page).len();
                    let wants = expected.len();
                    faults.push(format!("{} {query}: found {found}, not {wants}", list.id));
                }
            }
            let one_each = items.iter().all(|item| {
                // Through an array there may be several; an array itself sorts behind all scalars.
                let ends = ends(item, path);
                ends.len() <= 1
                    && !ends.iter().any(|end| end.is_array())
                    && !path_has_array(item, path)
            });
            if one_each && i % 4 == 0 {
                sorts.push((path.clone(), *kind));
            }
            if i % 3 == 0 {
                let page = ask(&format!("select={}&limit=10000", encoded_path(path)))
                    .expect(200)
                    .json();
                let shown = page[&member].as_array().expect("a list");
                let same = shown
                    .iter()
                    .zip(&values)
                    .all(|(item, values)| at(item, path) == *values);
                if !same || shown.len() != items.len() {
                    faults.push(format!("{} select={path}", list.id));
                }
            }
        }
        for (i, (path, kind)) in sorts.iter().enumerate() {
            for sign in ["", "-"] {
                let query = format!("sort={sign}{}", encoded_path(path));
                let answer = ask(&format!("{query}&limit=10000"));
                if answer.status == 400 && answer.errors()[0].starts_with("secret_field") {
                    secret += 1;
                    continue;
                }
                let page = answer.expect(200).json();
                let sorted = page[&member].as_array().expect("a list");
                let in_order = |a: &Value, b: &Value| {
                    let order = match (at(a, path).first(), at(b, path).first()) {
                        (None, None) => Ordering::Equal,
                        (None, Some(_)) => Ordering::Less,
                        (Some(_), None) => Ordering::Greater,
                        (Some(a), Some(b)) => compare(a, b),
                    };
                    if sign.is_empty() {
                        order.is_le()
                    } else {
                        order.is_ge()
                    }
                };
                if sorted.len() != items.len() || !sorted.is_sorted_by(in_order) {
                    faults.push(format!("{} {query}: not in order ({kind})", list.id));
                }
                // A walk there and back is the whole, in pieces.
                if i % 5 == 0 {
                    let whole = keys(&page);
                    let (there, back) = walk(&mut ask, &keys, &format!("{query}&limit=7"));
                    if there != whole || back != whole[..whole.len() - (whole.len() - 1) % 7 - 1] {
                        faults.push(format!("{} {query}: pages are not the whole", list.id));
                    }
                }
            }
        }
        assert!(query_count > 5, "{}: {query_count} questions", list.id);
        println!(
            "{}: {} items, {query_count} questions, {secret} about secrets",
            list.id,
            items.len()
        );
    }
    crate::round_trip::report(&faults);
    assert!(lists >= 2);
}

/// The keys of all pages from the first to the last, and of all pages before the last, found by
/// going back.
fn walk(
    ask: &mut dyn FnMut(&str) -> weir_testkit::Response,
    keys: &dyn Fn(&Value) -> Vec<Value>,
    query: &str,
) -> (Vec<Value>, Vec<Value>) {
    let mut page = ask(query).expect(200).json();
    let mut there = keys(&page);
    assert!(page["prev"].is_null(), "nothing is before the first page");
    while let Some(next) = page["next"].as_str() {
        page = ask(&format!("{query}&cursor={}", encode_segment(next)))
            .expect(200)
            .json();
        there.extend(keys(&page));
    }
    let mut back = Vec::new();
    while let Some(previous) = page["prev"].as_str() {
        page = ask(&format!("{query}&cursor={}", encode_segment(previous)))
            .expect(200)
            .json();
        back.splice(0..0, keys(&page));
    }
    (there, back)
}

/// Names of fields may hold anything, and dots are steps.
fn encoded_path(path: &str) -> String {
    path.split('.')
        .map(encode_segment)
        .collect::<Vec<_>>()
        .join(".")
}
