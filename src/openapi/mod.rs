//! The OpenAPI 3.1 document: the rows of the operations and the schema files become one JSON text.
//!
//! Promises a document that is valid, deterministic and complete: every endpoint given, every
//! schema of the data files, every response of the error form. `words` describes operations and the
//! data files describe fields; this file describes the API as a whole. Built once at start, so
//! clarity goes before speed.
//!
//! The data files serve validation and this document. Extensions with a standard equivalent are
//! replaced: `x-nullable` by a `null` type, `example` by an entry of `examples`. A union that is
//! discriminated by URL patterns keeps them as `x-discriminator`, because OpenAPI's `discriminator`
//! would make tools look for a fixed value.

mod bodies;
mod conditions;
mod errors;
pub mod model;
pub mod words;

use self::bodies::{Loose, loosen};
use self::model::{BodyDoc, Content, HeaderDoc, ParameterIn, ResponseDoc, Security, Shape};
use crate::api::endpoint::{Endpoint, OPERATIONS};
use crate::api::operation::{Conditions, Operation};
use crate::api::router::PREFIXES;
use crate::query::params::{self, ParameterSpec, ValueKind};
use crate::schema::data::{self, FILES};
use crate::state::command::BATCH_ITEMS_MAX;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Name and meaning of a group of operations.
pub const TAGS: &[(&str, &str)] = &[
    (
        "stream",
        "Streams of the cluster and where they are placed.",
    ),
    (
        "streamer",
        "Nodes of the cluster: streamers, inference and identification nodes.",
    ),
    (
        "config-external",
        "What a streamer polls: the configuration of the streams it has to run. These operations answer completely or not at all, \
         because a streamer stops whatever is missing from an answer.",
    ),
    (
        "agent",
        "Small programs on cameras and routers that make sources behind a NAT reachable.",
    ),
    (
        "episode",
        "Parts of streams that mean something: they protect recordings, and list what was seen.",
    ),
    ("vision", "People who are recognised."),
    ("dvr", "Storages for recordings."),
    (
        "auth",
        "Who may watch and publish: sets of rules, and the request of streamers about a session.",
    ),
    (
        "balancer",
        "Groups of streamers that share viewers, and the addresses that lead to the least loaded of them.",
    ),
    (
        "config",
        "The server's own settings and the keys of programs.",
    ),
    ("events", "The event log: changes and their authors."),
    (
        "cluster",
        "The cluster as a whole: statistics, free capacity, previews.",
    ),
    (
        "monitoring",
        "Probes for supervisors and load balancers. They need no credentials.",
    ),
    ("openapi", "This document."),
];

const ABOUT: &str = "\
Weir keeps the configuration of a cluster of video streaming servers, places the streams on them, \
and sends each server its configuration.

**Prefixes.** Every operation is served under `/central/api/v3` and under `/streamer/api/v3`.

**Credentials.** `Authorization: Bearer API_KEY`, or Basic with the editor's login. A node may \
read its own configuration with its cluster key. A browser that opened a session (`/session`) \
sends its cookie together with `X-Weir-UI: 1` instead.

**Saving.** A `PUT` is a JSON Merge Patch (RFC 7386): absent fields keep their values, objects are \
merged, arrays are replaced as a whole, `null` removes a field. An object with `\"$reset\": true` \
replaces the stored object; a `layout` that is sent with it is replaced as well, and stays if none \
is sent. Unknown and read-only fields are ignored, whatever they hold; an invalid value of a known \
field fails the whole request. What a body names and does not exist is 400 with its pointer, what \
a path names 404. Sizes, rates, durations, limits and counts are not negative. The response to a \
save is the effective configuration, with defaults filled in. It is sent when the change is on disk.

**Conditions.** `ETag` names the stored version of one entity. `If-Match` with it on `PUT` and \
`DELETE` (in a batch: the member `if_match` of an item) changes that version or none: 412 if \
another change came first. `If-None-Match: *` on `PUT` only creates. `If-None-Match` on `GET` is \
answered with 304 if the whole answer is the same, reports included.

**Collections.** Lists return `estimated_count`, `next`, `prev`, `timing` and the items. `limit` \
sets the page size, `cursor` selects the page. `sort` takes fields separated by commas, `-` before \
a field reverses its order; absent fields sort first. `select` takes the fields to return. Both \
may be repeated. Nested fields are written with dots, also through the elements of arrays. Below a \
map of free keys, such as `labels` or `meta`, the rest of the path is the key, dots included: \
`labels.required.zone`.

**Filters.** Any other query parameter filters by the field of that name. `field=a,b` matches any \
of the values; the suffixes `_ne`, `_gt`, `_gte`, `_lt`, `_lte`, `_like` (substring, \
case-sensitive), `_is=null` and `_is_not=null` select another comparison; `field` without a value \
means `true`. All filters must match. Parameters that name no field are ignored.

**Strict handling.** `Prefer: handling=strict` (RFC 7240) refuses what is ignored otherwise: \
unknown parameters, fields and members, with 400 `unknown_parameter`, `unknown_field` or \
`unknown_member` and the nearest known name in `meta.nearest`. The answer has `Preference-Applied`.

**Errors.** Every response with status 400 or above has `errors`, each with a stable `code`, a \
sentence in `title`, and in `source` the query parameter or the JSON pointer of the invalid \
value. `x-errors` of this document has all codes with the forms of their titles, in which `{...}` \
stands for a name or a value: `any` request may get them, all `changes`, all operations with \
`input`, or those that list them in their own `x-errors`. Those of a batch are the errors of its \
first 20 bad items, in order; nothing of it is saved.

**Secrets.** Passwords and keys are returned only when an administrator reads the object itself. \
Elsewhere they are masked as `***`, also inside URLs: the password, a user without a password, \
and parameters such as `token`, `key` or `api_key`. A mask that is sent back keeps the stored value.

**Numbers.** Integers are signed and have 64 bits. They are kept exactly, however they are written \
(`1e3`, `5.0`); one that does not fit, or that has a fraction, is refused, in bodies as in \
queries. With `Accept: application/json; ids=string` those beyond 2^53 - 1 are strings in the \
JSON of answers, for clients whose numbers are doubles: also in long polls, under an `ETag` of \
their own, and not compressed. Streamers are always sent numbers.

**Times.** Names that end in `_at` are milliseconds since 1970 UTC unless described otherwise; in \
queries they are 0 or 1000000000000 to 10000000000000, so that seconds are refused. \
`updated_at` grows in the order of commits and never repeats.";

/// The document of all operations, built once.
pub fn served() -> &'static str {
    static DOCUMENT: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| document(OPERATIONS, env!("CARGO_PKG_VERSION")));
    &DOCUMENT
}

/// The whole document as JSON text.
///
/// # Panics
/// When an example in the table is not JSON or two endpoints are the same, which tests exclude.
pub fn document(operations: &[Endpoint], server_version: &str) -> String {
    let mut paths = Map::new();
    let mut schemas = components();
    let mut used = BTreeSet::new();
    for operation in operations {
        used.insert(operation.doc.tag);
        let method = operation.route.method.as_str();
        let item = paths
            .entry(operation.route.template())
            .or_insert_with(|| Value::Object(Map::new()));
        let item = item.as_object_mut().expect("inserted as an object");
        let twice = item.insert(method.to_ascii_lowercase(), render(operation, &mut schemas));
        assert!(twice.is_none(), "{} is documented twice", operation.id);
    }
    let paths = Value::Object(paths);
    let needed = reachable(&paths, &schemas);
    schemas.retain(|name, _| needed.contains(name));
    let servers: Vec<Value> = PREFIXES
        .iter()
        .zip([
            "The usual prefix.",
            "The prefix of older clients; the same operations.",
        ])
        .map(|(url, description)| json!({ "url": url, "description": description }))
        .collect();
    let tags: Vec<Value> = TAGS
        .iter()
        .filter(|(name, _)| used.contains(name))
        .map(|(name, description)| json!({ "name": name, "description": description }))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Weir API",
            "version": server_version,
            "summary": "Control plane for clusters of video streaming servers.",
            "description": ABOUT,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "jsonSchemaDialect": "https://spec.openapis.org/oas/3.1/dialect/base",
        "servers": servers,
        "tags": tags,
        "security": security(Security::Administrator),
        "paths": paths,
        "components": { "schemas": schemas, "securitySchemes": security_schemes() },
        "x-errors": errors::table(),
    })
    .to_string()
}

fn security_schemes() -> Value {
    json!({
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "The configured API key, or the key of an API token.",
        },
        "basic": {
            "type": "http",
            "scheme": "basic",
            "description": "Login and password of the editor (`edit_auth`).",
        },
        "cluster": {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "`Cluster T:SIGNATURE`: T is the current time in seconds since 1970 \
                UTC, SIGNATURE the SHA-1 of `T:CLUSTER_KEY` in lower-case hexadecimal digits. \
                Valid only for operations of the node with this key. T may differ from the \
                server's clock by 300 seconds.",
        },
        "agent": {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "`Peeklio PROOF`, where PROOF is the response to the challenge of the \
                server. Valid only for the control connection of the agent.",
        },
    })
}

fn security(kind: Security) -> Value {
    match kind {
        Security::Open => json!([]),
        Security::Administrator => json!([{ "bearer": [] }, { "basic": [] }]),
        Security::Node => json!([{ "bearer": [] }, { "basic": [] }, { "cluster": [] }]),
        Security::Agent => json!([{ "agent": [] }]),
    }
}

fn render(operation: &Operation, schemas: &mut Map<String, Value>) -> Value {
    let mut responses = Map::new();
    let parameters = parameters(operation);
    let selects = parameters
        .iter()
        .any(|(_, spec)| spec.name == params::SELECT.name());
    for response in operation.doc.responses {
        let mut rendered = render_response(response);
        if selects && let Some(schema) = rendered.pointer_mut("/content/application~1json/schema") {
            loosen(schema, Loose::Selected, schemas, &mut Vec::new());
        }
        responses.insert(response.status.to_string(), rendered);
    }
    conditions::add_responses(operation, &mut responses);
    responses.insert(
        "default".to_owned(),
        json!({
            "description": "Any other failure, in the same form.",
            "content": { "application/json": { "schema": reference("error_response") } },
        }),
    );
    let mut out = Map::from_iter([
        ("operationId".to_owned(), json!(operation.id)),
        ("tags".to_owned(), json!([operation.doc.tag])),
        ("summary".to_owned(), json!(operation.doc.summary)),
        ("description".to_owned(), json!(operation.doc.description)),
        ("responses".to_owned(), Value::Object(responses)),
    ]);
    if !parameters.is_empty() {
        let parameters = parameters.into_iter();
        let parameters = parameters.map(|(location, spec)| parameter(location, spec));
        out.insert("parameters".to_owned(), parameters.collect());
    }
    if let Some(body) = &operation.doc.request {
        let is_conditional = operation.conditions == Conditions::Items;
        let body = request_body(body, is_conditional, schemas);
        out.insert("requestBody".to_owned(), body);
    }
    if operation.permission.security != Security::Administrator {
        out.insert(
            "security".to_owned(),
            security(operation.permission.security),
        );
    }
    let listed = errors::listed(operation);
    if !listed.is_empty() {
        out.insert("x-errors".to_owned(), json!(listed));
    }
    if operation.doc.extension {
        out.insert("x-since".to_owned(), json!("later"));
    }
    Value::Object(out)
}

/// The parameters of an operation: in the path and in headers, then of the query.
fn parameters(operation: &Operation) -> Vec<(ParameterIn, &'static ParameterSpec)> {
    let documented = operation.doc.parameters.iter();
    let documented = documented.chain(conditions::parameters(operation));
    let documented = documented.chain([&conditions::PREFER]);
    let documented = documented.map(|parameter| (parameter.location, &parameter.spec));
    let query = operation.query_parameters();
    let query = query.map(|parameter| (ParameterIn::Query, parameter.spec()));
    documented.chain(query).collect()
}

fn parameter(location: ParameterIn, spec: &ParameterSpec) -> Value {
    let location = match location {
        ParameterIn::Path => "path",
        ParameterIn::Query => "query",
        ParameterIn::Header => "header",
    };
    let mut out = Map::from_iter([
        ("name".to_owned(), json!(spec.name)),
        ("in".to_owned(), json!(location)),
        ("required".to_owned(), json!(spec.required)),
        ("description".to_owned(), json!(spec.description)),
        ("schema".to_owned(), kind_schema(spec.kind)),
    ]);
    match spec.kind {
        ValueKind::List => {
            out.insert("style".to_owned(), json!("form"));
            out.insert("explode".to_owned(), json!(false));
        }
        ValueKind::Filters => {
            out.insert("style".to_owned(), json!("form"));
            out.insert("explode".to_owned(), json!(true));
        }
        _ => {}
    }
    if let Some(example) = spec.example {
        out.insert("example".to_owned(), literal(spec.name, example));
    }
    if spec.extension {
        out.insert("x-since".to_owned(), json!("later"));
    }
    Value::Object(out)
}

fn kind_schema(kind: ValueKind) -> Value {
    match kind {
        ValueKind::Text => json!({ "type": "string" }),
        ValueKind::Flag { default: None } => json!({ "type": "boolean" }),
        ValueKind::Flag { default } => json!({ "type": "boolean", "default": default }),
        ValueKind::Choice(values) => json!({ "type": "string", "enum": values }),
        ValueKind::Integer {
            minimum,
            maximum,
            default,
        } => {
            let mut schema = json!({ "type": "integer", "minimum": minimum });
            if let Some(maximum) = maximum {
                schema["maximum"] = json!(maximum);
            }
            if let Some(default) = default {
                schema["default"] = json!(default);
            }
            schema
        }
        // Without bounds: filters compare with any moment.
        ValueKind::Moment => json!({ "type": "integer", "format": "utc_ms" }),
        ValueKind::List => json!({ "type": "array", "items": { "type": "string" } }),
        // Any name and text: values of the wrong type are refused, unknown fields ignored.
        ValueKind::Filters => json!({ "type": "object", "additionalProperties": true }),
    }
}

fn request_body(body: &BodyDoc, is_conditional: bool, schemas: &mut Map<String, Value>) -> Value {
    let schema = match body.shape {
        Shape::One(name) if body.partial => reference(&bodies::saved(name, schemas)),
        Shape::Batch { of, key } => json!({
            "type": "array",
            "maxItems": BATCH_ITEMS_MAX,
            "items": reference(&bodies::item(of, key, is_conditional, schemas)),
        }),
        Shape::One(name) if is_conditional => {
            bodies::add_conditions(name, schemas);
            reference(name)
        }
        Shape::One(name) => {
            bodies::loosen_patch(name, schemas);
            reference(name)
        }
        other => shape(other),
    };
    let mut out = json!({
        "description": body.description,
        "required": true,
        "content": { "application/json": { "schema": schema, "example": literal("body", body.example) } },
    });
    if body.partial {
        out["x-partial-update"] = json!(true);
    }
    out
}

fn render_response(response: &ResponseDoc) -> Value {
    let mut out = json!({ "description": response.description });
    let as_json =
        |of, example| json!({ "schema": shape(of), "example": literal("response", example) });
    let as_text = |example| json!({ "schema": { "type": "string" }, "example": example });
    match response.content {
        Content::None => {}
        Content::Json(of, example) => {
            out["content"] = json!({ "application/json": as_json(of, example) });
        }
        Content::JsonOr(of, example, media_type, text) => {
            out["content"] =
                json!({ "application/json": as_json(of, example), media_type: as_text(text) });
        }
        Content::Text(media_type, text) => {
            out["content"] = json!({ media_type: as_text(text) });
        }
        Content::Error(error) => {
            let (status, code) = (error.status.to_string(), error.code);
            let title = errors::example_title(error.title);
            let item = json!({ "id": null, "status": status, "code": code, "title": title });
            let schema = reference("error_response");
            let content = json!({ "schema": schema, "example": { "errors": [item] } });
            out["content"] = json!({ "application/json": content });
        }
    }
    for header in response.headers {
        out["headers"][header.name] = render_header(header);
    }
    out
}

fn render_header(header: &HeaderDoc) -> Value {
    json!({ "description": header.description, "schema": kind_schema(header.kind) })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn shape(of: Shape) -> Value {
    match of {
        Shape::One(name) => reference(name),
        Shape::Batch { of, .. } => json!({ "type": "array", "items": reference(of) }),
        Shape::AnyOf(names) => {
            let variants: Vec<Value> = names.iter().map(|name| reference(name)).collect();
            json!({ "anyOf": variants })
        }
        Shape::Openapi => json!({ "type": "object", "required": ["openapi", "info", "paths"] }),
    }
}

/// Names of the schemas that are referenced by operations, directly or indirectly. Items of lists
/// have a schema of their own, because `select` may omit members.
fn reachable(paths: &Value, schemas: &Map<String, Value>) -> BTreeSet<String> {
    fn named(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                let target = object.get("$ref").and_then(Value::as_str);
                found.extend(
                    target
                        .and_then(|target| target.rsplit('/').next())
                        .map(str::to_owned),
                );
                object.values().for_each(|inner| named(inner, found));
            }
            Value::Array(items) => items.iter().for_each(|inner| named(inner, found)),
            _ => {}
        }
    }
    let mut needed = BTreeSet::new();
    let mut open = Vec::new();
    named(paths, &mut open);
    while let Some(name) = open.pop() {
        if let Some(schema) = schemas.get(&name)
            && needed.insert(name)
        {
            named(schema, &mut open);
        }
    }
    needed
}

fn literal(what: &str, text: &str) -> Value {
    serde_json::from_str(text)
        .unwrap_or_else(|error| panic!("example of {what} is not JSON ({error}): {text}"))
}

/// All schemas of the data files in the form of the document.
fn components() -> Map<String, Value> {
    let mut all = Map::new();
    for (file, text) in FILES {
        let mut json: Value =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let Value::Object(schemas) = json["schemas"].take() else {
            panic!("{file} has no schemas");
        };
        for (name, mut schema) in schemas {
            data::add_minimums(&mut schema);
            publish(&mut schema);
            all.insert(name, schema);
        }
    }
    exclude_from_fallbacks(&mut all);
    restrict_discriminators(&mut all);
    all
}

/// A discriminator of `OpenAPI` leads to objects. One that leads to a further union is ours.
fn restrict_discriminators(all: &mut Map<String, Value>) {
    let unions: BTreeSet<String> = all
        .iter()
        .filter(|(_, schema)| schema.get("oneOf").or(schema.get("anyOf")).is_some())
        .map(|(name, _)| name.clone())
        .collect();
    let is_union = |target: &Value| {
        let name = target.as_str().and_then(|target| target.rsplit('/').next());
        name.is_some_and(|name| unions.contains(name))
    };
    for schema in all.values_mut().filter_map(Value::as_object_mut) {
        let mapping = schema.get("discriminator").map(|it| &it["mapping"]);
        let mut targets = mapping.and_then(Value::as_object).into_iter().flatten();
        if targets.any(|(_, target)| is_union(target)) {
            let ours = schema.remove("discriminator").expect("just seen");
            schema.insert("x-discriminator".to_owned(), ours);
        }
    }
}

/// Excludes from the fallback variant of a union the values of the others: without that, such a
/// value would match two variants.
fn exclude_from_fallbacks(all: &mut Map<String, Value>) {
    let unions: Vec<Value> = all
        .values()
        .filter_map(|schema| schema.get("x-discriminator"))
        .filter(|discriminator| discriminator["fallback"].is_string())
        .cloned()
        .collect();
    for union in unions {
        let fallback = union["fallback"].as_str().unwrap_or_default();
        let member = union["propertyName"].as_str().unwrap_or_default();
        let named: Vec<&String> = union["mapping"]
            .as_object()
            .into_iter()
            .flat_map(Map::keys)
            .collect();
        if let Some(Value::Object(rules)) = all
            .get_mut(fallback)
            .map(|schema| &mut schema["properties"][member])
        {
            rules.insert("not".to_owned(), json!({ "enum": named }));
        }
    }
}

/// Turns our extensions into their standard equivalents, at every level.
fn publish(schema: &mut Value) {
    let Value::Object(object) = schema else {
        return;
    };
    for (key, inner) in object.iter_mut() {
        match (key.as_str(), inner) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(publish),
            ("items" | "additionalProperties" | "propertyNames", inner) => publish(inner),
            ("oneOf" | "anyOf", Value::Array(variants)) => variants.iter_mut().for_each(publish),
            _ => {}
        }
    }
    if let Some(example) = object.remove("example") {
        object.insert("examples".to_owned(), json!([example]));
    }
    // A discriminator of OpenAPI has a fixed list of values.
    if object.get("discriminator").is_some_and(|discriminator| {
        discriminator.get("x-patterns").is_some() || discriminator.get("x-fallback").is_some()
    }) {
        let mut ours = object.remove("discriminator").expect("just seen");
        let named = ours.as_object_mut().expect("discriminators are objects");
        for name in ["patterns", "fallback", "absent"] {
            if let Some(value) = named.remove(&format!("x-{name}")) {
                named.insert(name.to_owned(), value);
            }
        }
        object.insert("x-discriminator".to_owned(), ours);
        // The first matching variant applies, so several may match.
        if let Some(variants) = object.remove("oneOf") {
            object.insert("anyOf".to_owned(), variants);
        }
    }
    split_by_type(object);
    if object.remove("x-nullable").is_some() {
        admit_null(object);
    }
    // `null` and absent are equivalent: in a patch `null` removes a member; in an item of a list it
    // is a selected member that is absent.
    let required: Vec<Value> = object
        .get("required")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        for (name, property) in properties {
            if let Value::Object(property) = property
                && !required.iter().any(|required| required == name)
            {
                admit_null(property);
            }
        }
    }
    if let Some(Value::Object(values)) = object.get_mut("additionalProperties") {
        admit_null(values);
    }
}

/// An enumeration of values of several types becomes a union of enumerations: generators of code
/// make one type of each.
fn split_by_type(object: &mut Map<String, Value>) {
    let Some(Value::Array(values)) = object.get("enum") else {
        return;
    };
    let mut by_type: Vec<(&str, Vec<Value>)> = Vec::new();
    for value in values {
        let kind = match value {
            Value::Bool(_) => "boolean",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            _ => return,
        };
        match by_type.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, values)) => values.push(value.clone()),
            None => by_type.push((kind, vec![value.clone()])),
        }
    }
    if by_type.len() < 2 {
        return;
    }
    let variant = |(kind, values): (&str, Vec<Value>)| match kind {
        "boolean" if values.len() == 2 => json!({ "type": kind }),
        _ => json!({ "type": kind, "enum": values }),
    };
    let variants: Vec<Value> = by_type.into_iter().map(variant).collect();
    object.remove("enum");
    object.remove("type");
    object.insert("anyOf".to_owned(), Value::Array(variants));
}

fn admit_null(object: &mut Map<String, Value>) {
    if object.get("type").is_some_and(Value::is_array) {
        return;
    }
    if let Some(constant) = object.remove("const") {
        object.insert("enum".to_owned(), json!([constant]));
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.push(Value::Null);
    }
    if let Some(kind) = object.get_mut("type") {
        *kind = json!([kind.take(), "null"]);
    } else if let Some(target) = object.remove("$ref") {
        object.insert(
            "anyOf".to_owned(),
            json!([{ "$ref": target }, { "type": "null" }]),
        );
    } else {
        for key in ["anyOf", "oneOf"] {
            if let Some(Value::Array(variants)) = object.get_mut(key)
                && !variants.contains(&json!({ "type": "null" }))
            {
                variants.push(json!({ "type": "null" }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::data::tests::Checker;

    fn parsed() -> Value {
        let text = document(OPERATIONS, "1.2.3");
        assert_eq!(
            text,
            document(OPERATIONS, "1.2.3"),
            "the document depends on chance"
        );
        serde_json::from_str(&text).expect("the document is JSON")
    }

    fn check_shape(checker: &mut Checker, of: Shape, value: &Value) -> Result<(), String> {
        match of {
            Shape::One(name) => checker.check_named(name, value),
            Shape::Batch { of, key } => value
                .as_array()
                .ok_or("not an array")?
                .iter()
                .try_for_each(|item| {
                    item.get(key).ok_or(format!("no {key}"))?;
                    checker.check_named(of, item)
                }),
            Shape::AnyOf(names) => names
                .iter()
                .map(|name| checker.check_named(name, value))
                .reduce(Result::or)
                .expect("a union has variants"),
            Shape::Openapi => ["openapi", "info", "paths"]
                .iter()
                .try_for_each(|name| value.get(name).map(drop).ok_or(format!("no {name}"))),
        }
    }

    #[test]
    fn every_reference_in_the_document_resolves() {
        fn walk(root: &Value, value: &Value, found: &mut usize) {
            match value {
                Value::Object(object) => {
                    if let Some(target) = object.get("$ref").and_then(Value::as_str) {
                        let pointer = target.strip_prefix('#').expect("local references only");
                        assert!(root.pointer(pointer).is_some(), "{target}");
                        *found += 1;
                    }
                    object.values().for_each(|inner| walk(root, inner, found));
                }
                Value::Array(items) => items.iter().for_each(|inner| walk(root, inner, found)),
                _ => {}
            }
        }
        let document = parsed();
        let mut found = 0;
        walk(&document, &document, &mut found);
        assert!(found > 400, "{found}");
    }

    #[test]
    fn every_reference_of_the_document_has_its_schema() {
        let document = parsed();
        let schemas = document["components"]["schemas"]
            .as_object()
            .expect("it has schemas");
        let text = document.to_string();
        let mut references = 0;
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().expect("a name");
            assert!(schemas.contains_key(name), "{name} is nowhere");
            references += 1;
        }
        assert!(references > schemas.len(), "each is referred to");
    }

    #[test]
    fn every_operation_is_documented_like_the_others() {
        let document = parsed();
        let mut ids = BTreeSet::new();
        for served in OPERATIONS {
            let id = served.id;
            assert!(ids.insert(id), "{id} twice");
            assert!(
                served.doc.summary.len() > 8 && !served.doc.summary.ends_with('.'),
                "{id}"
            );
            assert!(served.doc.description.ends_with('.'), "{id}");
            assert!(TAGS.iter().any(|(tag, _)| *tag == served.doc.tag), "{id}");
            let operation = &document["paths"][served.route.template()]
                [served.route.method.as_str().to_ascii_lowercase()];
            assert_eq!(operation["operationId"], id);
            assert!(operation["responses"]["default"].is_object(), "{id}");
            let template = served.route.template();
            let in_path: BTreeSet<_> = template
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
                .collect();
            let mut names = BTreeSet::new();
            for (location, spec) in parameters(served) {
                let is_new = names.insert((spec.name, location as u8));
                assert!(is_new, "{id}: {}", spec.name);
                assert!(spec.description.ends_with('.'), "{id}: {}", spec.name);
            }
            let documented: BTreeSet<_> = served
                .doc
                .parameters
                .iter()
                .filter(|parameter| parameter.location == ParameterIn::Path)
                .map(|parameter| parameter.spec.name)
                .collect();
            assert_eq!(in_path, documented, "{id}");
            let statuses: Vec<_> = served
                .doc
                .responses
                .iter()
                .map(|response| response.status)
                .collect();
            // An operation that is not implemented has the status 501 only.
            let succeeds = statuses[0] < 400 || statuses.contains(&501);
            assert!(statuses.is_sorted() && succeeds, "{id}: {statuses:?}");
            assert_eq!(
                statuses.contains(&401),
                // A session is opened with the credential in the body.
                served.permission.security != Security::Open || id == "session_open",
                "{id}"
            );
            // A command needs no body.
            match served.route.method.as_str() {
                "PUT" => assert!(served.doc.request.is_some(), "{id}"),
                "POST" => {}
                _ => assert!(served.doc.request.is_none(), "{id}"),
            }
            assert_eq!(
                operation["security"].as_array().map(Vec::len),
                match served.permission.security {
                    Security::Open => Some(0),
                    Security::Administrator => None,
                    Security::Node => Some(3),
                    Security::Agent => Some(1),
                },
                "{id}"
            );
        }
    }

    #[test]
    fn operations_have_the_names_clients_generate_code_from() {
        let mut names: Vec<_> = OPERATIONS.iter().map(|served| served.id).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "agent_delete",
                "agent_disconnect",
                "agent_get",
                "agent_logs_get",
                "agent_reboot",
                "agent_reset",
                "agent_save",
                "agents_list",
                "api_token_delete",
                "api_token_get",
                "api_token_save",
                "api_tokens_list",
                "auth_backend_delete",
                "auth_backend_get",
                "auth_backend_save",
                "auth_backend_test",
                "auth_backends_list",
                "auth_request",
                "backup_get",
                "batch_stream_layout_preview",
                "batch_streamer_layout_preview",
                "batch_update_agents_layouts",
                "batch_update_streams_layouts",
                "central_event_get",
                "central_events_list",
                "cluster_capacity_get",
                "cluster_history_get",
                "cluster_preview",
                "cluster_stats_get",
                "cluster_summary_get",
                "config_get",
                "config_save",
                "dvrs_list",
                "endpoint_connect",
                "episode_delete",
                "episode_get",
                "episode_save",
                "episodes_list",
                "external_episodes_list",
                "facets_get",
                "layouter_change",
                "layouter_get",
                "liveness_probe",
                "load_balancer_delete",
                "load_balancer_get",
                "load_balancer_save",
                "load_balancers_list",
                "openapi_get",
                "person_delete",
                "person_get",
                "person_save",
                "persons_list",
                "preview_layout_change_for_stream_config",
                "preview_layout_change_for_streamer_config",
                "readiness_probe",
                "session_close",
                "session_get",
                "session_open",
                "srt_port_resolve",
                "stream_delete",
                "stream_get",
                "stream_layout_explain",
                "stream_layouts_get",
                "stream_save",
                "streamer_auth_request",
                "streamer_delete",
                "streamer_dynamic_streams_list",
                "streamer_get",
                "streamer_history_get",
                "streamer_maintenance_save",
                "streamer_save",
                "streamer_stats_report",
                "streamer_streams_list",
                "streamer_update_streams_list",
                "streamers_batch_update",
                "streamers_histories_get",
                "streamers_list",
                "streaming_lb_playback",
                "streaming_lb_publish",
                "streams_batch_update",
                "streams_batch_update_by_filter",
                "streams_list",
            ]
        );
    }

    #[test]
    fn examples_of_operations_are_valid() {
        let mut checker = Checker::new();
        for served in OPERATIONS {
            let id = served.id;
            if let Some(body) = &served.doc.request {
                let example = literal(id, body.example);
                check_shape(&mut checker, body.shape, &example)
                    .unwrap_or_else(|error| panic!("{id}: {error}"));
            }
            for response in served.doc.responses {
                match response.content {
                    Content::None => assert!(response.status < 400, "{id}: {}", response.status),
                    Content::Text(_, text) => assert!(!text.is_empty(), "{id}"),
                    Content::Json(of, example) | Content::JsonOr(of, example, ..) => {
                        let example = literal(id, example);
                        check_shape(&mut checker, of, &example)
                            .unwrap_or_else(|error| panic!("{id}: {error}"));
                    }
                    Content::Error(_) => {
                        let rendered = render_response(response);
                        let example = &rendered["content"]["application/json"]["example"];
                        checker.check_named("error_response", example).expect(id);
                    }
                }
            }
        }
    }

    #[test]
    fn extensions_with_a_standard_equivalent_are_replaced() {
        let mut nullable =
            json!({ "type": "string", "enum": ["a"], "x-nullable": true, "example": "a" });
        publish(&mut nullable);
        assert_eq!(
            nullable,
            json!({ "type": ["string", "null"], "enum": ["a", null], "examples": ["a"] })
        );
        let mut nullable = json!({ "$ref": "#/x", "x-nullable": true, "description": "d" });
        publish(&mut nullable);
        assert_eq!(
            nullable,
            json!({ "anyOf": [{ "$ref": "#/x" }, { "type": "null" }], "description": "d" })
        );
        let schemas = components();
        let text = serde_json::to_string(&schemas).expect("it was JSON");
        assert!(!text.contains("x-nullable") && !text.contains("x-patterns"));
        assert!(schemas["stream_input"]["x-discriminator"]["patterns"]["^rtp://.*$"].is_string());
        assert!(schemas["streamer_config"]["discriminator"]["mapping"]["streamer"].is_string());
        assert_eq!(
            schemas["central_streams_list"]["properties"]["next"]["type"],
            json!(["string", "null"])
        );
    }

    #[test]
    fn what_is_added_to_the_reference_is_marked() {
        let document = parsed();
        assert_eq!(
            document["paths"]["/streams/batch"]["put"]["x-since"],
            "later"
        );
        assert!(
            document["paths"]["/streams"]["get"]
                .get("x-since")
                .is_none()
        );
        let parameters = &document["paths"]["/streamers/{hostname}/streams"]["get"]["parameters"];
        let marked: Vec<_> = parameters
            .as_array()
            .expect("it has parameters")
            .iter()
            .filter(|parameter| parameter["x-since"] == "later")
            .map(|parameter| parameter["name"].as_str().expect("it has a name"))
            .collect();
        let expected = ["If-None-Match", "Prefer", "poll_timeout", "changes_since"];
        assert_eq!(marked, expected);
    }
}
