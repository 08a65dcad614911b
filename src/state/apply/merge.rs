//! Merge patches: applied to the stored configuration, and the result checked against its schema.

use super::{invalid, with_values};
use crate::error::{self, ApiError};
use crate::json::{self, Object, Value, patch};
use crate::schema::{self, Schema};

/// Merges a patch into a stored configuration and validates the result.
pub(super) fn merge(
    schema: &Schema,
    config: &str,
    filled: &[(u32, u32)],
    patch: Object,
    pointer: &str,
) -> Result<Object, ApiError> {
    merge_with(schema, config, filled, patch, &[], pointer)
}

/// Merges and validates like [`merge`]; `own` are members that the server adds before the check.
pub(super) fn merge_with(
    schema: &Schema,
    config: &str,
    filled: &[(u32, u32)],
    mut patch: Object,
    own: &[(&str, Value)],
    pointer: &str,
) -> Result<Object, ApiError> {
    let mut stored_text = Vec::new();
    schema::without_filled(config, filled.iter().copied(), &mut stored_text);
    let before = || -> Value {
        if stored_text.is_empty() {
            return Value::Object(Object::default());
        }
        json::parse(&stored_text).expect("a stored configuration is JSON that was written here")
    };
    let mut stored = before();
    let outline = stored.outline();
    let mut patch_value = Value::Object(std::mem::take(&mut patch));
    schema.unmask(&mut patch_value, &stored);
    patch::merge(&mut stored, patch_value);
    schema.name_variant(&mut stored);
    // A patch that chooses another variant of a union leaves members of the former one behind.
    schema.prune(&mut stored);
    if let Value::Object(object) = &mut stored {
        for (name, value) in own {
            object.insert(*name, value.clone());
        }
    }
    schema.check(&stored).map_err(|violations| {
        invalid(with_values(violations, schema, &before(), &stored), pointer)
    })?;
    schema.drop_defaults(&mut stored, &outline);
    match stored {
        Value::Object(object) => Ok(object),
        _ => Err(error::NOT_OBJECT.at(pointer)),
    }
}

/// A merged configuration as a record stores it.
pub(super) struct Stored {
    pub config: String,
    pub filled: Vec<(u32, u32)>,
    pub has_secrets: bool,
}

pub(super) fn stored(schema: &Schema, merged: Object) -> Stored {
    let merged = Value::Object(merged);
    let effective = schema.effective(&merged);
    let has_secrets = schema.may_have_secrets(&effective.text) && schema.has_secrets(&merged);
    Stored {
        config: effective.text,
        filled: effective.filled,
        has_secrets,
    }
}

/// The namespace of a merged configuration. An entity that `exists` must keep the one from
/// `before`.
pub(super) fn namespace(
    merged: &Object,
    exists: bool,
    before: Option<&str>,
    pointer: &str,
) -> Result<Option<String>, ApiError> {
    let namespace = merged.get("namespace").and_then(Value::as_str);
    if exists && before != namespace {
        return Err(namespace_is_fixed(pointer));
    }
    Ok(namespace.map(str::to_owned))
}

fn namespace_is_fixed(pointer: &str) -> ApiError {
    error::IMMUTABLE_FIELD.at(format!("{pointer}/namespace"))
}
