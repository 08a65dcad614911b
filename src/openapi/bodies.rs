//! Schemas of bodies and of selected members, made from those of whole entities: merge patches,
//! items of batches, items of lists.

use serde_json::{Map, Value, json};

use super::{admit_null, conditions, reference};

/// Variants of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loose {
    /// A merge patch. It has no defaults: an absent member keeps its value. Elements of arrays are
    /// not merged and keep their required members.
    Patch,
    /// An element of an array of a body: what it requires stays, but a client need not send
    /// defaults, which generated types would make it do.
    Element,
    /// An item of a list with selected members, at every depth.
    Selected,
}

impl Loose {
    fn name(self, whole: &str) -> String {
        match self {
            Self::Patch => format!("{whole}_patch"),
            Self::Element => format!("{whole}_element"),
            Self::Selected => format!("{whole}_selected"),
        }
    }

    fn title(self, whole: &str) -> String {
        match self {
            Self::Patch => format!("{whole}, as a patch"),
            Self::Element => format!("{whole}, in a body"),
            Self::Selected => format!("{whole}, selected members"),
        }
    }
}

/// Name of the schema of merge patches of `name`, which is created if absent; `name` itself if it
/// requires nothing.
fn patch_of(name: &str, schemas: &mut Map<String, Value>, open: &mut Vec<String>) -> String {
    loose_of(name, Loose::Patch, schemas, open)
}

fn loose_of(
    name: &str,
    how: Loose,
    schemas: &mut Map<String, Value>,
    open: &mut Vec<String>,
) -> String {
    let loose = how.name(name);
    if schemas.contains_key(&loose) {
        return loose;
    }
    if open.iter().any(|outer| outer == name) || name == "error_response" {
        return name.to_owned();
    }
    open.push(name.to_owned());
    let mut schema = schemas[name].clone();
    let changed = loosen(&mut schema, how, schemas, open);
    open.pop();
    if !changed {
        return name.to_owned();
    }
    if let Some(title) = schema["title"].as_str() {
        schema["title"] = json!(how.title(title));
    }
    schemas.insert(loose.clone(), schema);
    loose
}

/// Makes a schema loose at every level. Returns whether that changed it.
pub(super) fn loosen(
    schema: &mut Value,
    how: Loose,
    schemas: &mut Map<String, Value>,
    open: &mut Vec<String>,
) -> bool {
    let Value::Object(object) = schema else {
        return false;
    };
    let required = match how {
        Loose::Element => None,
        Loose::Patch | Loose::Selected => object.remove("required"),
    };
    let mut changed = required.is_some();
    if how != Loose::Selected {
        changed |= object.remove("default").is_some();
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        for (name, property) in properties {
            changed |= loosen(property, how, schemas, open);
            // Optional members may be null.
            if let Some(Value::Array(required)) = &required
                && required.iter().any(|required| required == name)
                && let Value::Object(property) = property
            {
                admit_null(property);
            }
        }
    }
    let inside = match how {
        Loose::Selected => how,
        Loose::Patch | Loose::Element => Loose::Element,
    };
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(key) {
            changed |= loosen(inner, inside, schemas, open);
        }
    }
    for key in ["oneOf", "anyOf"] {
        let Some(Value::Array(mut variants)) = object.remove(key) else {
            continue;
        };
        let mut differ = false;
        for variant in &mut variants {
            differ |= loosen(variant, how, schemas, open);
        }
        changed |= differ;
        if differ && how == Loose::Element {
            for name in ["discriminator", "x-discriminator"] {
                if let Some(discriminator) = object.get_mut(name) {
                    rename(discriminator, how, schemas);
                }
            }
        }
        // Without a required discriminator, several variants may match.
        let loses = differ && how != Loose::Element;
        let key = if loses { "anyOf" } else { key };
        if loses {
            object.remove("discriminator");
            object.remove("x-discriminator");
        }
        object.insert(key.to_owned(), Value::Array(variants));
    }
    if let Some(Value::String(target)) = object.get_mut("$ref") {
        let name = target.rsplit('/').next().unwrap_or_default().to_owned();
        let loose = loose_of(&name, how, schemas, open);
        changed |= loose != name;
        *target = format!("#/components/schemas/{loose}");
    }
    changed
}

/// Lets a discriminator name the loose variants where they exist.
fn rename(value: &mut Value, how: Loose, schemas: &Map<String, Value>) {
    match value {
        Value::Object(object) => {
            for inner in object.values_mut() {
                rename(inner, how, schemas);
            }
        }
        Value::String(target) => {
            let whole = target.rsplit('/').next().unwrap_or_default();
            let loose = how.name(whole);
            if schemas.contains_key(&loose) {
                let path = target.len() - whole.len();
                *target = format!("{}{loose}", &target[..path]);
            }
        }
        _ => {}
    }
}

/// What a body has besides the members of a patch.
#[derive(Clone, Copy)]
enum PatchUse {
    /// The body of a `PUT`.
    Save,
    /// An item of an array, named by this member.
    Item {
        key: &'static str,
        is_conditional: bool,
    },
}

impl PatchUse {
    fn name(self, whole: &str) -> String {
        match self {
            Self::Save => format!("{whole}_save"),
            Self::Item {
                is_conditional: true,
                ..
            } => format!("{whole}_batch_item"),
            Self::Item { .. } => format!("{whole}_preview_item"),
        }
    }

    fn title(self, whole: &str) -> String {
        match self {
            Self::Save => format!("{whole}, to save"),
            Self::Item {
                is_conditional: true,
                ..
            } => format!("{whole}, batch item"),
            Self::Item { .. } => format!("{whole}, preview item"),
        }
    }
}

/// Name of the schema of a body that saves the entity `name`.
pub(super) fn saved(name: &str, schemas: &mut Map<String, Value>) -> String {
    used_as(PatchUse::Save, name, schemas)
}

/// Name of the schema of an item of a batch of entities `name`, with a condition or without.
pub(super) fn item(
    name: &str,
    key: &'static str,
    is_conditional: bool,
    schemas: &mut Map<String, Value>,
) -> String {
    let item = PatchUse::Item {
        key,
        is_conditional,
    };
    used_as(item, name, schemas)
}

/// Name of a schema with the members of the patch and those of its use; in a union, each variant
/// has them: generators of code do not combine a union with members.
fn used_as(patch_use: PatchUse, whole: &str, schemas: &mut Map<String, Value>) -> String {
    let name = patch_use.name(whole);
    if schemas.contains_key(&name) {
        return name;
    }
    let patch = patch_of(whole, schemas, &mut Vec::new());
    let mut schema = schemas[&patch].clone();
    let object = schema.as_object_mut().expect("schemas are objects");
    if let Some(title) = schemas[whole]["title"].as_str() {
        object.insert("title".to_owned(), json!(patch_use.title(title)));
    }
    let union = object.remove("oneOf").or_else(|| object.remove("anyOf"));
    if let Some(Value::Array(variants)) = union {
        object.remove("discriminator");
        object.remove("x-discriminator");
        let variants = variants.iter().map(|variant| {
            let target = variant["$ref"].as_str().expect("variants are references");
            let variant = target.rsplit('/').next().unwrap_or_default();
            let whole = variant.strip_suffix("_patch").unwrap_or(variant);
            reference(&used_as(patch_use, whole, schemas))
        });
        object.insert("anyOf".to_owned(), variants.collect());
    } else {
        let properties = object.get_mut("properties").expect("it has members");
        match patch_use {
            PatchUse::Save => {
                properties["$reset"] = json!({
                    "type": "boolean",
                    "description": "`true` replaces what is stored with this body instead of \
                        merging the two.",
                });
            }
            PatchUse::Item {
                key,
                is_conditional,
            } => {
                let mut named = schemas[whole]["properties"][key].clone();
                if let Some(named) = named.as_object_mut() {
                    named.remove("readOnly");
                    if let Some(Value::Array(kinds)) = named.get("type") {
                        let kind = kinds[0].clone();
                        named.insert("type".to_owned(), kind);
                    }
                }
                properties[key] = named;
                if is_conditional {
                    properties[conditions::IF_MATCH] = conditions::item_condition();
                }
                object.insert("required".to_owned(), json!([key]));
            }
        }
    }
    schemas.insert(name.clone(), schema);
    name
}

/// Makes the member `patch` of the schema `name`, if it has one, what the body of a save is.
pub(super) fn loosen_patch(name: &str, schemas: &mut Map<String, Value>) {
    let target = |schema: &mut Value| {
        let member = schema.pointer_mut("/properties/patch")?;
        let path = if member.get("anyOf").is_some() {
            "/anyOf/0/$ref"
        } else {
            "/$ref"
        };
        Some(member.pointer_mut(path)?.take())
    };
    let Some(Value::String(whole)) = schemas.get_mut(name).and_then(target) else {
        return;
    };
    let whole = whole.rsplit('/').next().unwrap_or_default();
    let saved = saved(whole, schemas);
    let member = &mut schemas[name]["properties"]["patch"];
    *member = json!({
        "description": member["description"],
        "anyOf": [reference(&saved), { "type": "null" }],
    });
}

/// Adds the condition to the items of the array that is the only member of the schema `name`.
pub(super) fn add_conditions(name: &str, schemas: &mut Map<String, Value>) {
    let list = schemas[name]["properties"].as_object();
    let items = list.and_then(|members| members.values().next()?["items"]["$ref"].as_str());
    let whole = items.and_then(|target| target.rsplit('/').next());
    let whole = whole
        .expect("a batch has a member with its items")
        .to_owned();
    let batch_item = format!("{whole}_batch_item");
    let mut item = schemas[&whole].clone();
    item["properties"][conditions::IF_MATCH] = conditions::item_condition();
    if let Some(title) = item["title"].as_str() {
        item["title"] = json!(format!("{title}, batch item"));
    }
    schemas.insert(batch_item.clone(), item);
    let members = schemas[name]["properties"].as_object_mut();
    let member = members.and_then(|members| members.values_mut().next());
    member.expect("just seen")["items"] = reference(&batch_item);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openapi::served;
    use std::collections::BTreeMap;

    fn parsed() -> Value {
        serde_json::from_str(served()).expect("the document is JSON")
    }

    /// Calls `look` with every schema below a value, and its path.
    fn every(value: &Value, path: &str, look: &mut dyn FnMut(&str, &Map<String, Value>)) {
        match value {
            Value::Object(object) => {
                look(path, object);
                for (key, inner) in object {
                    if !matches!(key.as_str(), "example" | "examples" | "enum" | "mapping") {
                        every(inner, &format!("{path}/{key}"), look);
                    }
                }
            }
            Value::Array(items) => {
                for (i, inner) in items.iter().enumerate() {
                    every(inner, &format!("{path}/{i}"), look);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn titles_are_unique() {
        let mut titles: BTreeMap<String, Vec<String>> = BTreeMap::new();
        every(&parsed()["components"], "", &mut |path, schema| {
            if let Some(title) = schema.get("title").and_then(Value::as_str) {
                let letters = title.chars().filter(|letter| letter.is_alphanumeric());
                let class: String = letters.collect::<String>().to_lowercase();
                titles.entry(class).or_default().push(path.to_owned());
            }
        });
        titles.retain(|_, paths| paths.len() > 1);
        assert!(titles.is_empty(), "{titles:?}");
    }

    #[test]
    fn no_schema_joins_others_or_mixes_types() {
        every(&parsed(), "", &mut |path, schema| {
            assert!(!schema.contains_key("allOf"), "{path}");
            let Some(Value::Array(values)) = schema.get("enum") else {
                return;
            };
            let kinds = values.iter().filter(|value| !value.is_null());
            let kinds = kinds.map(|value| (value.is_string(), value.is_number()));
            let kinds: std::collections::BTreeSet<_> = kinds.collect();
            assert!(kinds.len() < 2, "{path}: {values:?}");
        });
    }

    #[test]
    fn bodies_that_are_merged_have_no_defaults() {
        let document = parsed();
        let schemas = document["components"]["schemas"].as_object();
        let mut bodies = 0;
        for (name, schema) in schemas.expect("it has schemas") {
            let ends = ["_patch", "_save", "_item", "_element"];
            if !ends.iter().any(|end| name.ends_with(end)) || name.ends_with("_list_item") {
                continue;
            }
            bodies += 1;
            every(schema, name, &mut |path, schema| {
                let is_default = schema.contains_key("default") && !path.ends_with("/properties");
                assert!(!is_default, "{path}");
            });
        }
        assert!(bodies > 50, "{bodies}");
    }

    #[test]
    fn items_of_batches_require_their_name() {
        let document = parsed();
        let schemas = &document["components"]["schemas"];
        for (name, key) in [
            ("central_stream_config_batch_item", "name"),
            ("central_stream_config_preview_item", "name"),
            ("central_streamer_node_batch_item", "hostname"),
            ("central_inference_node_preview_item", "hostname"),
        ] {
            let item = &schemas[name];
            assert_eq!(item["required"], json!([key]), "{name}");
            let member = &item["properties"][key];
            assert_eq!(member["type"], "string", "{name}");
            assert_eq!(member.get("readOnly"), None, "{name}");
        }
    }
}
