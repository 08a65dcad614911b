//! The API as its own document describes it, for tests that are made from the description instead
//! of being written by hand.
//!
//! Later operations are covered without a change here: operations come from the document, values
//! from the schemas. Supports JSON Schema as far as the document uses it; independent of resources.

use serde_json::{Map, Value, json};

/// The document that the program under test serves.
pub struct Document {
    root: Value,
}

/// One operation of the document.
pub struct Operation {
    /// In upper case.
    pub method: String,
    /// Without prefix, parameters in braces.
    pub template: String,
    pub id: String,
    /// Schema of the JSON body, if it has one.
    pub body: Option<Value>,
    /// Schema of the response with 200, if that is JSON.
    pub answer: Option<Value>,
    pub parameters: Vec<Value>,
}

impl Document {
    pub fn new() -> Self {
        let text = weir::testing::openapi::served();
        let root = serde_json::from_str(text).expect("the document is JSON");
        Self { root }
    }

    pub fn operations(&self) -> Vec<Operation> {
        let mut all = Vec::new();
        for (template, item) in self.root["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("a path item") {
                let Some(id) = operation["operationId"].as_str() else {
                    continue;
                };
                let schema = |at: &Value| at["content"]["application/json"].get("schema").cloned();
                let body = schema(&operation["requestBody"]).map(|schema| self.whole(&schema));
                all.push(Operation {
                    method: method.to_uppercase(),
                    template: template.clone(),
                    id: id.to_owned(),
                    body,
                    answer: schema(&operation["responses"]["200"]),
                    parameters: operation["parameters"]
                        .as_array()
                        .cloned()
                        .unwrap_or_default(),
                });
            }
        }
        all
    }

    /// The schema of a body with the whole entity in place of its patch: a patch may omit required
    /// members, its values are those of the entity.
    fn whole(&self, body: &Value) -> Value {
        if body["items"].is_object() {
            let mut list = body.clone();
            list["items"] = self.whole(&body["items"]);
            return list;
        }
        let target = body["$ref"].as_str().unwrap_or_default();
        let uses = ["_save", "_batch_item", "_preview_item"];
        let Some(whole) = uses.iter().find_map(|suffix| target.strip_suffix(suffix)) else {
            return body.clone();
        };
        let patch = self.flat(body);
        let patch = self.variants(&patch).into_iter().next().unwrap_or(patch);
        let members = ["$reset", "if_match"];
        let added = members.iter().filter_map(|member| {
            let schema = patch["properties"].get(member)?;
            Some(((*member).to_owned(), schema.clone()))
        });
        let added: Map<String, Value> = added.collect();
        let required = patch["required"].as_array().cloned().unwrap_or_default();
        json!({"allOf": [{"$ref": whole}, {"properties": added, "required": required}]})
    }

    /// Operations that take a JSON body.
    pub fn with_bodies(&self) -> Vec<Operation> {
        let mut all = self.operations();
        all.retain(|operation| operation.body.is_some());
        all
    }

    pub fn schema(&self, name: &str) -> &Value {
        &self.root["components"]["schemas"][name]
    }

    /// The schema with its references followed and its `allOf` joined, one level deep: members
    /// beside a reference override it.
    pub fn flat(&self, schema: &Value) -> Value {
        let mut out = schema.as_object().cloned().unwrap_or_default();
        if let Some(Value::String(target)) = out.remove("$ref") {
            let pointer = target.strip_prefix('#').expect("references are local");
            let target = self
                .root
                .pointer(pointer)
                .expect("references lead somewhere");
            join(&mut out, self.flat(target));
        }
        if let Some(Value::Array(parts)) = out.remove("allOf") {
            for part in &parts {
                join(&mut out, self.flat(part));
            }
        }
        // A reference that may be null is a union in the document and an optional value in the API.
        if let Some(Value::Array(variants)) = out.get("anyOf").cloned() {
            let (nulls, others): (Vec<_>, Vec<_>) = variants
                .into_iter()
                .partition(|variant| variant["type"] == "null");
            if !nulls.is_empty() {
                if let [other] = &others[..] {
                    out.remove("anyOf");
                    join(&mut out, self.flat(other));
                } else {
                    out.insert("anyOf".into(), Value::Array(others));
                }
                out.insert("nullable".into(), json!(true));
            }
        }
        if let Some(Value::Array(variants)) = out.get_mut("oneOf") {
            variants.retain(|variant| variant["type"] != "null");
        }
        if let Some(Value::Array(kinds)) = out.get("type").cloned() {
            let (nulls, others): (Vec<_>, Vec<_>) =
                kinds.into_iter().partition(|kind| kind == "null");
            assert_eq!((nulls.len(), others.len()), (1, 1), "{out:?}");
            out.insert("type".into(), others[0].clone());
            out.insert("nullable".into(), json!(true));
        }
        Value::Object(out)
    }

    /// The variants of a union.
    pub fn variants(&self, flat: &Value) -> Vec<Value> {
        ["oneOf", "anyOf"]
            .iter()
            .filter_map(|key| flat[*key].as_array())
            .flatten()
            .map(|variant| self.flat(variant))
            .collect()
    }
}

/// Adds what is not there yet; properties and required members come together from both.
fn join(into: &mut Map<String, Value>, from: Value) {
    let Value::Object(from) = from else { return };
    for (key, value) in from {
        match (key.as_str(), into.get_mut(&key), value) {
            ("properties", Some(Value::Object(held)), Value::Object(more)) => held.extend(more),
            ("required", Some(Value::Array(held)), Value::Array(more)) => held.extend(more),
            (_, None, value) => {
                into.insert(key, value);
            }
            _ => {}
        }
    }
}

impl Operation {
    /// A path of this operation: each parameter replaced by a value that `value` makes from the
    /// parameter's name and type.
    pub fn path(&self, value: impl Fn(&str, bool) -> String) -> String {
        let mut path = self.template.clone();
        for parameter in &self.parameters {
            if parameter["in"] == "path" {
                let name = parameter["name"].as_str().expect("a parameter has a name");
                let number = parameter["schema"]["type"] == "integer";
                path = path.replace(&format!("{{{name}}}"), &value(name, number));
            }
        }
        assert!(!path.contains('{'), "{path}: a parameter is not described");
        path
    }

    /// The path of the nth entity of its kind, which need not exist.
    pub fn path_of(&self, n: usize) -> String {
        self.path(|_, number| {
            if number {
                (1_000_000 + n).to_string()
            } else {
                format!("t{n}")
            }
        })
    }

    /// Whether it saves the entity that is named by the end of the path.
    pub fn is_save(&self) -> bool {
        self.method == "PUT" && self.body.is_some() && self.template.ends_with('}')
    }

    /// Whether the body is a list of bare items.
    pub fn is_batch(&self) -> bool {
        self.body
            .as_ref()
            .is_some_and(|body| body["type"] == "array")
    }
}
