//! The error for an invalid document.

use crate::error::{self, ApiError, ErrorItem};
use crate::json::Value;
use crate::schema::Schema;
use crate::schema::{Violation, WHOLE};

/// The error for a document that violates its schema.
pub fn invalid(violations: Vec<Violation>, pointer: &str) -> ApiError {
    let item = |violation: Violation| {
        // The schema does not know where in the body its document is.
        let title = match (violation.title.strip_prefix(WHOLE), &*violation.pointer) {
            (Some(predicate), "") => format!("{}{predicate}", error::subject(pointer)),
            _ => violation.title,
        };
        ErrorItem {
            code: violation.code,
            title: title.into(),
            pointer: Some(format!("{pointer}{}", violation.pointer)),
            parameter: None,
            meta: violation.meta,
        }
    };
    let items = violations.into_iter().map(item).collect();
    ApiError {
        status: 400,
        items,
        retry_after_seconds: None,
    }
}

/// The body of a request that is no patch, checked, without the members that are null or that a
/// client may not set.
pub fn checked(schema: &Schema, mut body: Value) -> Result<Value, ApiError> {
    schema.prune(&mut body);
    if let Value::Object(object) = &mut body {
        object.retain(|_, value| !value.is_null());
    }
    match schema.check(&body) {
        Ok(()) => Ok(body),
        Err(violations) => Err(invalid(violations, "")),
    }
}

/// Longest value in an error, bytes.
const VALUE_BYTES_MAX: usize = 200;

/// Adds the refused values to an error: those that the request brought, so that nothing of what is
/// `stored` is shown, and masked. Objects and arrays are left out.
pub fn with_values(
    mut violations: Vec<Violation>,
    schema: &Schema,
    stored: &Value,
    merged: &Value,
) -> Vec<Violation> {
    let mut shown = merged.clone();
    schema.mask_value(&mut shown);
    for violation in &mut violations {
        // A text that is no URL, where passwords in URLs are masked, may be a password itself.
        let is_url = |(name, value): &(&str, String)| *name == "format" && value == "url";
        let given = at(merged, &violation.pointer);
        if violation.meta.iter().any(is_url)
            || given.is_none()
            || given == at(stored, &violation.pointer)
        {
            continue;
        }
        let text = match at(&shown, &violation.pointer) {
            Some(Value::String(text)) => text.to_string(),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_text(),
            _ => continue,
        };
        let end = text.floor_char_boundary(VALUE_BYTES_MAX);
        violation.meta.push(("value", text[..end].to_owned()));
    }
    violations
}

/// The value at a JSON pointer.
fn at<'v>(value: &'v Value, pointer: &str) -> Option<&'v Value> {
    pointer.split('/').skip(1).try_fold(value, |value, step| {
        let step = step.replace("~1", "/").replace("~0", "~");
        match value {
            Value::Array(items) => items.get(step.parse::<usize>().ok()?),
            _ => value.get(&step),
        }
    })
}
