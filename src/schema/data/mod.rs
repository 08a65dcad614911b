//! The embedded schema files of this folder: the single description of all documents of the API.
//!
//! Each file is `{"schemas": {NAME: SCHEMA}}` and has one subject. The schemas are JSON Schema
//! 2020-12 with `$ref` to `#/components/schemas/NAME` and these extensions:
//!
//! * `x-nullable`: `null` is a value of the field too.
//! * `x-secret`: `true` means that the value is masked in responses.
//! * `x-doc-default`: the value used if the field is absent. Unlike `default` it is not filled into
//!   the effective configuration.
//! * `discriminator.x-patterns`: the URL in a member selects the variant by pattern instead of by a
//!   fixed value.
//! * `discriminator.x-fallback`, `discriminator.x-absent`: the variant of every other value, and
//!   that of an object without the member.
//! * `x-since: "later"`: an addition to the reference API; `x-delete-at`: version of the reference
//!   after which a deprecated field may go.
//! * `x-openmetrics-metric`, `x-openmetrics-label`, `x-metric-type`: name and kind of a number as a
//!   metric; `x-openmetrics-metric-segment` is put before the names in that object.
//!
//! `common.json` also has `formats`: what each `format` means, its unit, and which of them may hold
//! a password (`x-secret: "password"`). `fields.txt` lists every `schema.property` that must exist,
//! `facts.txt` the facts of the reference about each. The parent module compiles the files for
//! validation, masking and defaults, and `openapi` makes the public document of them.

use serde_json::Value;

/// File name (without `.json`) and contents, in the order a reader should meet them.
pub const FILES: &[(&str, &str)] = &[
    ("stream", include_str!("stream.json")),
    ("config_external", include_str!("config_external.json")),
    ("input", include_str!("input.json")),
    ("input_stats", include_str!("input_stats.json")),
    ("push", include_str!("push.json")),
    ("transcoder", include_str!("transcoder.json")),
    ("media_info", include_str!("media_info.json")),
    ("mpegts", include_str!("mpegts.json")),
    ("dvr", include_str!("dvr.json")),
    ("layout", include_str!("layout.json")),
    ("bulk", include_str!("bulk.json")),
    ("stream_stats", include_str!("stream_stats.json")),
    ("play", include_str!("play.json")),
    ("drm", include_str!("drm.json")),
    ("vision", include_str!("vision.json")),
    ("streamer", include_str!("streamer.json")),
    ("streamer_stats", include_str!("streamer_stats.json")),
    ("agent", include_str!("agent.json")),
    ("token", include_str!("token.json")),
    ("auth_backend", include_str!("auth_backend.json")),
    ("balancer", include_str!("balancer.json")),
    ("episode", include_str!("episode.json")),
    ("detection", include_str!("detection.json")),
    ("person", include_str!("person.json")),
    ("layout_preview", include_str!("layout_preview.json")),
    ("cluster", include_str!("cluster.json")),
    ("config", include_str!("config.json")),
    ("event", include_str!("event.json")),
    ("common", include_str!("common.json")),
];

/// Formats of integers that measure something, which is never less than nothing.
const MEASURES: [&str; 5] = ["bytes", "microseconds", "milliseconds", "seconds", "speed"];
/// Ends of the names of limits, counts and durations that have no format.
const COUNTS: [&str; 16] = [
    "_count",
    "_delay",
    "_depth",
    "_limit",
    "_retries",
    "_sessions",
    "_size",
    "_timeout",
    "bitrate",
    "channels",
    "connections",
    "expires",
    "height",
    "sample_rate",
    "timeout",
    "width",
];
/// Differences, which may be negative.
const DIFFERENCES: [&str; 2] = ["ahead_ms", "audio_add"];

/// Gives sizes, rates, durations, limits and counts the minimum 0, unless they have their own.
pub fn add_minimums(schema: &mut Value) {
    add_minimums_to(schema, "");
}

fn add_minimums_to(schema: &mut Value, name: &str) {
    if let Value::Array(variants) = schema {
        for variant in variants {
            add_minimums_to(variant, name);
        }
        return;
    }
    let Value::Object(members) = schema else {
        return;
    };
    let is_measure = match members.get("format").and_then(Value::as_str) {
        Some(format) => MEASURES.contains(&format),
        None => COUNTS.iter().any(|end| name.ends_with(end)),
    };
    let is_number = matches!(
        members.get("type").and_then(Value::as_str),
        Some("integer" | "number")
    );
    if is_number
        && is_measure
        && !DIFFERENCES.contains(&name)
        && ["minimum", "enum", "const"]
            .iter()
            .all(|key| !members.contains_key(*key))
    {
        members.insert("minimum".to_owned(), Value::from(0));
    }
    for (key, below) in members {
        match (key.as_str(), below) {
            ("properties", Value::Object(properties)) => {
                for (name, property) in properties {
                    add_minimums_to(property, name);
                }
            }
            ("items" | "additionalProperties" | "oneOf" | "anyOf" | "allOf", below) => {
                add_minimums_to(below, name);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod facts;

#[cfg(test)]
pub(crate) mod tests {
    use super::FILES;
    use regex_automata::meta::Regex;
    use serde_json::{Map, Value};
    use std::collections::{BTreeSet, HashMap};

    const REF: &str = "#/components/schemas/";

    pub(crate) fn schemas() -> Map<String, Value> {
        let mut all = Map::new();
        for (file, text) in FILES {
            let mut json: Value = serde_json::from_str(text).expect(file);
            for (name, schema) in json["schemas"].as_object_mut().expect(file) {
                let before = all.insert(name.clone(), schema.take());
                assert!(before.is_none(), "{name} is defined twice");
            }
        }
        all
    }

    /// Calls `each` with every schema, also inner ones, and the path to it.
    fn walk(way: &str, schema: &Value, each: &mut dyn FnMut(&str, &Value)) {
        each(way, schema);
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{way}.{name}"), inner, each);
        }
        for key in ["items", "additionalProperties", "propertyNames"] {
            if schema[key].is_object() {
                walk(&format!("{way}[{key}]"), &schema[key], each);
            }
        }
        for key in ["oneOf", "anyOf"] {
            for (i, inner) in schema[key].as_array().into_iter().flatten().enumerate() {
                walk(&format!("{way}[{key}/{i}]"), inner, each);
            }
        }
    }

    fn walk_all(mut each: impl FnMut(&str, &Value)) {
        for (name, schema) in &schemas() {
            walk(name, schema, &mut each);
        }
    }

    /// A small, slow checker of the used subset of JSON Schema: whether a value is valid.
    pub(crate) struct Checker {
        schemas: Map<String, Value>,
        patterns: HashMap<String, Regex>,
    }

    impl Checker {
        pub(crate) fn new() -> Self {
            Self {
                schemas: schemas(),
                patterns: HashMap::new(),
            }
        }

        pub(crate) fn check_named(&mut self, name: &str, value: &Value) -> Result<(), String> {
            let schema = self.schemas[name].clone();
            self.check(&schema, value)
        }

        fn matches(&mut self, pattern: &str, text: &str) -> bool {
            self.patterns
                .entry(pattern.to_owned())
                .or_insert_with(|| Regex::new(pattern).expect("patterns compile"))
                .is_match(text)
        }

        fn check(&mut self, schema: &Value, value: &Value) -> Result<(), String> {
            if value.is_null() && schema["x-nullable"] == true {
                return Ok(());
            }
            let fail = |what: &str| Err(format!("{value} against {what}"));
            if let Some(target) = schema["$ref"].as_str() {
                let name = target.strip_prefix(REF).expect("local references only");
                self.check_named(name, value)
                    .map_err(|error| format!("{name}: {error}"))?;
            }
            let right = match schema["type"].as_str() {
                None => true,
                Some("string") => value.is_string(),
                Some("integer") => value.is_i64() || value.is_u64(),
                Some("number") => value.is_number(),
                Some("boolean") => value.is_boolean(),
                Some("array") => value.is_array(),
                Some("object") => value.is_object(),
                Some(other) => panic!("unknown type {other}"),
            };
            if !right {
                return fail(schema["type"].as_str().unwrap_or_default());
            }
            if schema["enum"]
                .as_array()
                .is_some_and(|a| !a.contains(value))
            {
                return fail("enum");
            }
            if schema
                .get("const")
                .is_some_and(|constant| constant != value)
            {
                return fail("const");
            }
            if let Some(text) = value.as_str() {
                let length = text.chars().count() as u64;
                if schema["minLength"]
                    .as_u64()
                    .is_some_and(|least| length < least)
                    || schema["maxLength"]
                        .as_u64()
                        .is_some_and(|most| length > most)
                {
                    return fail("length");
                }
                if let Some(pattern) = schema["pattern"].as_str()
                    && !self.matches(pattern, text)
                {
                    return fail(pattern);
                }
            }
            if let Some(number) = value.as_f64()
                && (schema["minimum"]
                    .as_f64()
                    .is_some_and(|least| number < least)
                    || schema["maximum"].as_f64().is_some_and(|most| number > most))
            {
                return fail("range");
            }
            if let Some(items) = value.as_array() {
                if schema["maxItems"]
                    .as_u64()
                    .is_some_and(|most| items.len() as u64 > most)
                {
                    return fail("maxItems");
                }
                for item in items {
                    self.check(&schema["items"], item)?;
                }
            }
            if let Some(object) = value.as_object() {
                if schema["maxProperties"]
                    .as_u64()
                    .is_some_and(|most| object.len() as u64 > most)
                {
                    return fail("maxProperties");
                }
                for name in schema["required"].as_array().into_iter().flatten() {
                    let name = name.as_str().expect("names are strings");
                    // Members that only the server sets may be absent in an example of a request.
                    if !object.contains_key(name) && schema["properties"][name]["readOnly"] != true
                    {
                        return fail(&format!("required {name}"));
                    }
                }
                for (name, member) in object {
                    if schema["propertyNames"].is_object() {
                        self.check(&schema["propertyNames"], &Value::from(name.as_str()))?;
                    }
                    match schema["properties"].get(name) {
                        Some(inner) => self
                            .check(inner, member)
                            .map_err(|error| format!("{name}: {error}"))?,
                        None if schema["additionalProperties"].is_object() => {
                            self.check(&schema["additionalProperties"], member)?;
                        }
                        // An example must not use an unknown field.
                        None if schema["properties"].is_object() => {
                            return fail(&format!("unknown field {name}"));
                        }
                        None => {}
                    }
                }
            }
            for (key, most) in [("oneOf", 1), ("anyOf", usize::MAX)] {
                let Some(variants) = schema[key].as_array() else {
                    continue;
                };
                let count = variants
                    .clone()
                    .iter()
                    .filter(|variant| self.check(variant, value).is_ok())
                    .count();
                if count == 0 || count > most {
                    return fail(&format!("{count} variants of {key}"));
                }
            }
            Ok(())
        }
    }

    #[test]
    fn exactly_the_listed_fields_exist() {
        let expected: BTreeSet<&str> = include_str!("fields.txt").lines().collect();
        let mut found = BTreeSet::new();
        for (name, schema) in &schemas() {
            match schema["properties"].as_object() {
                Some(properties) => {
                    found.extend(properties.keys().map(|field| format!("{name}.{field}")));
                }
                None => {
                    found.insert(name.clone());
                }
            }
        }
        let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
        let missing: Vec<_> = expected.difference(&found).collect();
        let extra: Vec<_> = found.difference(&expected).collect();
        assert!(
            missing.is_empty() && extra.is_empty(),
            "missing {missing:?}, extra {extra:?}"
        );
        assert!(found.len() > 1900, "the list itself was cut");
    }

    #[test]
    fn every_schema_and_property_has_a_description() {
        let words = |text: &str| {
            let mut words: Vec<_> = text
                .split(|c: char| !c.is_alphanumeric())
                .filter(|w| !w.is_empty() && !["the", "of", "a", "an"].contains(w))
                .map(str::to_lowercase)
                .collect();
            words.sort();
            words.dedup();
            words
        };
        let mut described = 0;
        for (name, schema) in &schemas() {
            let title = schema["title"].as_str().unwrap_or_default();
            assert!(
                !title.is_empty() && !title.ends_with('.'),
                "{name}: title {title:?}"
            );
            let properties = schema["properties"].as_object().into_iter().flatten();
            for (field, schema) in properties.chain(std::iter::once((name, schema))) {
                let text = schema["description"].as_str().unwrap_or_default();
                assert!(text.len() >= 10, "{name}.{field}: {text:?}");
                assert!(
                    text.ends_with('.'),
                    "{name}.{field}: {text:?} is not a sentence"
                );
                assert_ne!(words(text), words(field), "{name}.{field} repeats its name");
                assert!(
                    !text.contains("  ") && text.trim() == text,
                    "{name}.{field}: spaces"
                );
                described += 1;
            }
        }
        assert!(described > 2000, "{described}");
    }

    #[test]
    fn every_reference_and_discriminator_resolves() {
        let all = schemas();
        let exists = |target: &str| all.contains_key(target.strip_prefix(REF).unwrap_or(target));
        walk_all(|way, schema| {
            if let Some(target) = schema["$ref"].as_str() {
                assert!(
                    target.starts_with(REF) && exists(target),
                    "{way} -> {target}"
                );
            }
            let discriminator = &schema["discriminator"];
            if discriminator.is_object() {
                // A fallback variant matches together with the intended one, which needs `anyOf`.
                let union = if discriminator["x-fallback"].is_string() {
                    "anyOf"
                } else {
                    "oneOf"
                };
                let variants: BTreeSet<_> = schema[union]
                    .as_array()
                    .expect(way)
                    .iter()
                    .map(|v| {
                        v["$ref"]
                            .as_str()
                            .expect(way)
                            .trim_start_matches(REF)
                            .to_owned()
                    })
                    .collect();
                let key = if discriminator["mapping"].is_object() {
                    "mapping"
                } else {
                    "x-patterns"
                };
                let targets: BTreeSet<_> = discriminator[key]
                    .as_object()
                    .expect(way)
                    .values()
                    .chain(discriminator.get("x-fallback"))
                    .map(|v| v.as_str().expect(way).trim_start_matches(REF).to_owned())
                    .collect();
                assert_eq!(
                    variants, targets,
                    "{way}: variants and their selection differ"
                );
            }
        });
    }

    #[test]
    fn examples_and_defaults_are_valid_values() {
        let mut checker = Checker::new();
        let mut checked = 0;
        walk_all(|way, schema| {
            for key in ["example", "default"] {
                if let Some(value) = schema.get(key) {
                    if let Err(error) = checker.check(schema, value) {
                        panic!("{key} of {way}: {error}");
                    }
                    checked += 1;
                }
            }
        });
        assert!(checked > 800, "{checked}");
    }

    #[test]
    fn checker_refuses_invalid_values() {
        let mut checker = Checker::new();
        for (name, wrong) in [
            ("stream_input", r#"{"url":"gopher://x"}"#),
            ("stream_input", r#"{"url":"rtsp://x","priority":"first"}"#),
            ("stream_input", r#"{"url":"rtsp://x","unknown":1}"#),
            ("streamer_config", r#"{"role":"streamer"}"#),
            (
                "streamer_config",
                r#"{"role":"streamer","cluster_key":"k","cpu_limit":101}"#,
            ),
            ("central_stream_config", r#"{"labels":{"a":"not allowed"}}"#),
            ("central_stream_config", r#"{"segment_duration":999}"#),
            ("drm_spec", r#"{"vendor":"nobody"}"#),
        ] {
            let value: Value = serde_json::from_str(wrong).expect("test data");
            assert!(
                checker.check_named(name, &value).is_err(),
                "{name}: {wrong}"
            );
        }
    }

    #[test]
    fn only_documented_keywords_and_formats_are_used() {
        const KEYWORDS: &[&str] = &[
            "title",
            "description",
            "$ref",
            "type",
            "format",
            "contentEncoding",
            "enum",
            "const",
            "pattern",
            "minLength",
            "maxLength",
            "minimum",
            "maximum",
            "maxProperties",
            "maxItems",
            "default",
            "example",
            "readOnly",
            "deprecated",
            "items",
            "propertyNames",
            "additionalProperties",
            "required",
            "oneOf",
            "anyOf",
            "discriminator",
            "properties",
            "x-doc-default",
            "x-delete-at",
            "x-nullable",
            "x-secret",
            "x-since",
            "x-openmetrics-metric",
            "x-openmetrics-metric-segment",
            "x-openmetrics-label",
            "x-metric-type",
        ];
        let common = FILES
            .iter()
            .find(|(file, _)| *file == "common")
            .expect("it is listed")
            .1;
        let common: Value = serde_json::from_str(common).expect("valid JSON");
        let formats = common["formats"].as_object().expect("it has formats");
        let mut used = BTreeSet::new();
        walk_all(|way, schema| {
            for keyword in schema.as_object().expect(way).keys() {
                assert!(KEYWORDS.contains(&keyword.as_str()), "{way}: {keyword}");
            }
            if let Some(format) = schema["format"].as_str() {
                let known = formats
                    .get(format)
                    .unwrap_or_else(|| panic!("{way}: format {format}"));
                // Configured durations are integers; measured ones may have a fraction.
                let measured = known["type"] == "integer" && schema["type"] == "number";
                assert!(
                    measured || known["type"] == schema["type"],
                    "{way}: type of {format}"
                );
                used.insert(format.to_owned());
            }
        });
        for (format, about) in formats {
            assert!(used.contains(format), "nothing uses the format {format}");
            assert!(
                about["description"].as_str().is_some_and(|d| d.len() > 10),
                "{format}"
            );
        }
    }

    #[test]
    fn secret_names_are_marked_secret() {
        const NAMES: &[&str] = &[
            "api_key",
            "edit_auth",
            "cluster_key",
            "passphrase",
            "password",
            "secret",
            "jpeg_snapshot_sign_key",
            "streampoint_key",
            "management_key",
            "end_user_private_key",
            "aes_key",
            "keyseed",
            "enc_token",
            "userkey",
        ];
        let mut marked = BTreeSet::new();
        walk_all(|way, schema| {
            let Some((_, field)) = way.rsplit_once('.') else {
                return;
            };
            if NAMES.contains(&field) {
                assert_eq!(schema["x-secret"], true, "{way} is not marked");
                marked.insert(field.to_owned());
            }
            if (field == "url" || field.ends_with("_url")) && schema["type"] == "string" {
                assert!(
                    ["url", "input_url", "url_or_empty"]
                        .contains(&schema["format"].as_str().unwrap_or_default()),
                    "{way} may hold a password but has no URL format"
                );
            }
        });
        assert_eq!(marked.len(), NAMES.len());
    }
}
