//! Compares the schema files with the facts of the reference API: type, format, range, options,
//! default, null and so on, of every field.
//!
//! `facts.txt` has one line per schema and field: its name and the facts of the reference, in the
//! form of `facts_of`. If ours differ, the next line begins with `ours:` and ends with the reason.
//! So the schema cannot drift from the reference unnoticed, and every intended difference is listed
//! in one place.

use super::tests::schemas;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The facts of a schema, without descriptions and examples, in the order of the file.
fn facts_of(schema: &Value, required: bool) -> String {
    let mut parts = Vec::new();
    push_type(schema, &mut parts);
    push_bounds(schema, &mut parts);
    push_inner(schema, &mut parts);
    push_defaults_and_flags(schema, required, &mut parts);
    parts.join(" ")
}

fn union_of(schema: &Value) -> Option<&Vec<Value>> {
    schema["oneOf"].as_array().or(schema["anyOf"].as_array())
}

/// The texts of `(word, key)` pairs.
fn push_texts(schema: &Value, keys: &[(&str, &str)], parts: &mut Vec<String>) {
    for (word, key) in keys {
        if let Some(text) = schema[key].as_str() {
            parts.push(format!("{word} {text}"));
        }
    }
}

fn push_type(schema: &Value, parts: &mut Vec<String>) {
    match (schema["$ref"].as_str(), schema["type"].as_str()) {
        (Some(target), _) => parts.push(format!("-> {}", name_of(target))),
        (None, Some(kind)) => parts.push(kind.to_owned()),
        (None, None) if union_of(schema).is_none() => parts.push("any".to_owned()),
        (None, None) => {}
    }
    let texts = [("format", "format"), ("encoding", "contentEncoding")];
    push_texts(schema, &texts, parts);
}

fn push_bounds(schema: &Value, parts: &mut Vec<String>) {
    for (word, least, most) in [
        ("range", "minimum", "maximum"),
        ("length", "minLength", "maxLength"),
        ("items", "minItems", "maxItems"),
        ("members", "minProperties", "maxProperties"),
    ] {
        if schema.get(least).is_some() || schema.get(most).is_some() {
            parts.push(format!(
                "{word} {}..{}",
                number(&schema[least]),
                number(&schema[most])
            ));
        }
    }
    push_texts(schema, &[("pattern", "pattern")], parts);
    if let Some(options) = schema["enum"].as_array() {
        let options: Vec<String> = options
            .iter()
            .map(|option| {
                option
                    .as_str()
                    .map_or_else(|| option.to_string(), str::to_owned)
            })
            .collect();
        parts.push(format!("enum {}", options.join("|")));
    }
    if let Some(constant) = schema.get("const") {
        parts.push(format!("const {constant}"));
    }
}

fn push_inner(schema: &Value, parts: &mut Vec<String>) {
    for (word, key) in [
        ("of", "items"),
        ("keys", "propertyNames"),
        ("values", "additionalProperties"),
    ] {
        if schema[key].is_object() {
            parts.push(format!("{word} ({})", facts_of(&schema[key], false)));
        }
    }
    if let Some(variants) = union_of(schema) {
        let variants: Vec<String> = variants
            .iter()
            .map(|variant| facts_of(variant, false))
            .collect();
        parts.push(format!("union ({})", variants.join(" | ")));
    }
    if schema["discriminator"].is_object() {
        parts.push(discriminator_text(&schema["discriminator"]));
    }
}

fn push_defaults_and_flags(schema: &Value, required: bool, parts: &mut Vec<String>) {
    if let Some(default) = schema.get("default") {
        parts.push(format!("default {default}"));
    }
    if let Some(default) = schema.get("x-doc-default") {
        parts.push(format!("absent-means {default}"));
    }
    for (word, set) in [
        ("nullable", schema["x-nullable"] == true),
        ("read-only", schema["readOnly"] == true),
        ("required", required),
        ("deprecated", schema["deprecated"] == true),
    ] {
        if set {
            parts.push(word.to_owned());
        }
    }
    push_texts(schema, &[("delete-at", "x-delete-at")], parts);
    if schema["x-since"] == "later" {
        parts.push("later".to_owned());
    }
    let metrics = [
        ("metric", "x-openmetrics-metric"),
        ("segment", "x-openmetrics-metric-segment"),
        ("label", "x-openmetrics-label"),
        ("kind", "x-metric-type"),
    ];
    push_texts(schema, &metrics, parts);
}

fn discriminator_text(discriminator: &Value) -> String {
    let member = discriminator["propertyName"].as_str().unwrap_or_default();
    let variants: BTreeMap<&str, &str> = ["mapping", "x-patterns"]
        .iter()
        .filter_map(|key| discriminator[key].as_object())
        .flatten()
        .map(|(value, target)| (value.as_str(), name_of(target.as_str().unwrap_or_default())))
        .collect();
    let variants: Vec<String> = variants
        .iter()
        .map(|(value, target)| format!("{value}: {target}"))
        .collect();
    let fallback = discriminator["x-fallback"]
        .as_str()
        .map(|name| format!(" else {name}"));
    format!(
        "by {member} {{{}}}{}",
        variants.join(", "),
        fallback.unwrap_or_default()
    )
}

fn name_of(target: &str) -> &str {
    target.rsplit('/').next().unwrap_or(target)
}

/// 0.0 and 0 are the same bound.
fn number(bound: &Value) -> String {
    match bound.as_f64() {
        Some(whole) if bound.is_f64() && whole.fract() == 0.0 => format!("{whole:.0}"),
        Some(_) => bound.to_string(),
        None => String::new(),
    }
}

fn recorded_facts(all: &Map<String, Value>) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    for (name, schema) in all {
        lines.insert(name.clone(), facts_of(schema, false));
        for (field, inner) in schema["properties"].as_object().into_iter().flatten() {
            let required = schema["required"]
                .as_array()
                .is_some_and(|names| names.iter().any(|name| name == field));
            lines.insert(format!("{name}.{field}"), facts_of(inner, required));
        }
    }
    lines
}

#[test]
fn every_field_follows_the_reference_or_has_a_reason() {
    let mut expected: BTreeMap<String, String> = BTreeMap::new();
    let mut last = "";
    let mut ours = 0;
    for line in include_str!("facts.txt").lines() {
        if let Some(deviation) = line.strip_prefix("  ours: ") {
            let (rule, reason) = deviation.rsplit_once(" # ").expect(line);
            assert!(reason.len() > 10, "{line}: no reason");
            let fact = expected.insert(last.to_owned(), rule.to_owned());
            assert_ne!(fact.as_deref(), Some(rule), "{last}: nothing differs");
            ours += usize::from(fact.as_deref() != Some("(none)"));
        } else {
            let (name, fact) = line.split_once(": ").expect(line);
            let twice = expected.insert(name.to_owned(), fact.to_owned());
            assert!(twice.is_none(), "{name} twice");
            last = name;
        }
    }
    let found = recorded_facts(&schemas());
    let mut wrong = Vec::new();
    for (name, fact) in &expected {
        let ours = found.get(name).map_or("(none)", String::as_str);
        if ours != fact {
            wrong.push(format!("{name}\n  expected {fact}\n  found    {ours}"));
        }
    }
    let extra = found.keys().filter(|name| !expected.contains_key(*name));
    wrong.extend(extra.map(|name| format!("{name} is not in the list")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        expected.len() > 2800,
        "the list was cut: {}",
        expected.len()
    );
    // Additions are free; deviations from the reference should stay rare.
    assert!(ours < 100, "{ours} fields deviate from the reference");
}

#[test]
fn facts_include_every_keyword() {
    let schema: Value = serde_json::from_str(
        r##"{"type":"object","description":"d","example":{},"minimum":0.0,"maximum":5,"enum":["a",1],"default":{"a":[]},"x-doc-default":2,"readOnly":true,
        "x-nullable":true,"deprecated":true,"x-delete-at":"23.09","x-since":"later","items":{"$ref":"#/components/schemas/x","format":"url"},"maxLength":3,
        "oneOf":[{"type":"integer"},{"const":false}],"additionalProperties":{"type":"string"},"discriminator":{"propertyName":"t","mapping":{"a":"x"},"x-fallback":"y"}}"##,
    )
    .expect("test data");
    assert_eq!(
        facts_of(&schema, true),
        "object range 0..5 length ..3 enum a|1 of (-> x format url) values (string) \
         union (integer | any const false) by t {a: x} else y default {\"a\":[]} absent-means 2 \
         nullable read-only required deprecated delete-at 23.09 later"
    );
}
