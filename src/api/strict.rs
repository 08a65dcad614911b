//! `Prefer: handling=strict` (RFC 7240): unknown names are refused instead of ignored.

use super::call::Call;
use super::operation::Conditions;
use crate::error::{self, ApiError};
use crate::http::Request;
use crate::json;
use crate::openapi::model::Shape;
use crate::query::{pairs, unknown_name};
use crate::schema;
use crate::state::tag::IF_MATCH_MEMBER;

/// The preference as `Preference-Applied` repeats it.
pub const APPLIED: &str = "handling=strict";

/// Whether the request prefers strict handling. Of several preferences of one name the first
/// counts.
pub fn is_preferred(request: &Request<'_>) -> bool {
    if !request.headers.has_preferences() {
        return false;
    }
    let elements = request.headers.values("prefer");
    let elements = elements.flat_map(|value| value.split(|byte| *byte == b','));
    let mut handling = elements.filter_map(|element| {
        let preference = element.split(|byte| *byte == b';').next()?;
        let mut parts = preference
            .splitn(2, |byte| *byte == b'=')
            .map(<[u8]>::trim_ascii);
        let name = parts.next()?;
        let value = parts.next().unwrap_or_default();
        name.eq_ignore_ascii_case(b"handling").then_some(value)
    });
    handling.next().is_some_and(|value| {
        let quoted = value
            .strip_prefix(b"\"")
            .and_then(|rest| rest.strip_suffix(b"\""));
        quoted.unwrap_or(value).eq_ignore_ascii_case(b"strict")
    })
}

/// [`check`]s a request that prefers strict handling.
pub fn check_preferred(call: &Call<'_>) -> Result<(), ApiError> {
    if is_preferred(call.request) {
        check(call)?;
    }
    Ok(())
}

/// Refuses query parameters and members of the body that the operation does not know. The names in
/// the query of a list are checked by [`Call::query`], which knows its fields.
fn check(call: &Call<'_>) -> Result<(), ApiError> {
    if call.operation.list_parameters.is_empty() {
        let known = || call.operation.query_parameters().map(|it| it.spec().name);
        for (name, _) in pairs(call.request.query).flatten() {
            if !known().any(|known| known == name) {
                return Err(unknown_name(
                    error::UNKNOWN_PARAMETER,
                    &name,
                    &name,
                    known(),
                ));
            }
        }
    }
    check_body(call)
}

/// Refuses members of the body that the operation does not know.
pub(super) fn check_body(call: &Call<'_>) -> Result<(), ApiError> {
    let Some(body) = call.operation.doc.request else {
        return Ok(());
    };
    let (name, is_batch) = match body.shape {
        Shape::One(name) => (name, false),
        Shape::Batch { of, .. } => (of, true),
        Shape::AnyOf(_) | Shape::Openapi => return Ok(()),
    };
    // What is no JSON is reported by the handler.
    let (Some(schema), Ok(body)) = (schema::of_body(name), json::parse(call.request.body)) else {
        return Ok(());
    };
    let also = (call.operation.conditions == Conditions::Items).then_some(IF_MATCH_MEMBER);
    let mut unknown = Vec::new();
    match body.as_array().filter(|_| is_batch) {
        Some(items) => {
            for (i, item) in items.iter().enumerate() {
                let found = schema.unknown_members(item, also);
                unknown.extend(found.into_iter().map(|member| (format!("/{i}"), member)));
                if unknown.len() >= UNKNOWN_MAX {
                    break;
                }
            }
        }
        None => {
            let found = schema.unknown_members(&body, also);
            unknown.extend(found.into_iter().map(|member| (String::new(), member)));
        }
    }
    unknown.truncate(UNKNOWN_MAX);
    let errors = unknown.into_iter().map(|(at, member)| {
        let pointer = format!("{at}{}", member.pointer);
        let near = member.nearest.as_deref();
        let error = unknown_name(error::UNKNOWN_MEMBER, &member.name, "", near.into_iter());
        let mut error = error.at_pointer(pointer);
        error.items[0].parameter = None;
        error
    });
    errors
        .reduce(|mut all, next| {
            all.items.extend(next.items);
            all
        })
        .map_or(Ok(()), Err)
}

/// Most unknown members that one answer names.
const UNKNOWN_MAX: usize = 20;
