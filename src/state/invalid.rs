//! The error for an invalid document.

use crate::error::{ApiError, ErrorItem};
use crate::schema::Violation;

/// The error for a document that violates its schema.
pub fn invalid(violations: Vec<Violation>, pointer: &str) -> ApiError {
    let items = violations
        .into_iter()
        .map(|violation| ErrorItem {
            code: violation.code,
            title: violation.title.into(),
            pointer: Some(format!("{pointer}{}", violation.pointer)),
            parameter: None,
            meta: violation.meta,
        })
        .collect();
    ApiError {
        status: 400,
        items,
        retry_after_seconds: None,
    }
}
