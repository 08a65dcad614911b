//! Entity tags and conditional requests in the document: made from the rows of the
//! operations, the same for all of them.

use serde_json::{Map, Value, json};

use super::model::{Content, HeaderDoc, ParamDoc, ParameterIn, ResponseDoc};
use super::render_response;
use crate::api::operation::{Conditions, Operation};
use crate::error;
use crate::http::Method;
use crate::query::params::{ParameterSpec, ValueKind};

/// The member of an item of a batch.
pub(super) const IF_MATCH: &str = "if_match";

const ETAG: HeaderDoc = HeaderDoc {
    name: "ETag",
    kind: ValueKind::Text,
    description: "Strong entity tag of the stored entity and of this form of it. It changes with \
         every stored change and stays the same over restarts; with reports of streamers, the \
         state of connections or masks in the body, it also changes with those.",
};

const fn header(name: &'static str, description: &'static str) -> ParamDoc {
    ParamDoc {
        location: ParameterIn::Header,
        spec: ParameterSpec {
            extension: true,
            ..ParameterSpec::new(name, ValueKind::Text, description)
        },
    }
}

const READ: &[ParamDoc] = &[
    header(
        "If-Match",
        "`*`, or entity tags. If the stored entity has none of them, the answer is 412.",
    ),
    header(
        "If-None-Match",
        "`*`, or entity tags. If one of them is the tag of this answer, the answer is 304 without \
         a body.",
    ),
];

const CHANGE: &[ParamDoc] = &[
    header(
        "If-Match",
        "`*`, or entity tags. Unless the stored entity has one of them, nothing is changed and the \
         answer is 412, so that no change of another client is lost. What is not stored, such as \
         reports, does not count. Judged in the step that makes the change.",
    ),
    header(
        "If-None-Match",
        "`*`, or entity tags. If the stored entity has one of them (`*`: if it exists), nothing is \
         changed and the answer is 412.",
    ),
];

const NOT_MODIFIED: ResponseDoc = ResponseDoc {
    status: 304,
    description: "The client has this answer: its tag is in `If-None-Match`.",
    content: Content::None,
    headers: &[ETAG],
};

const FAILED: ResponseDoc = ResponseDoc {
    status: error::PRECONDITION_FAILED.status,
    description: "The condition of the request is not met. Nothing was changed.",
    content: Content::Error(error::PRECONDITION_FAILED),
    headers: &[],
};

const ITEM_FAILED: ResponseDoc = ResponseDoc {
    description: "The `if_match` of at least one item is not met; the pointers and `meta.name` \
         name up to 20 of them. Nothing was changed.",
    ..FAILED
};

/// The header field that every operation takes.
pub(super) const PREFER: ParamDoc = header(
    "Prefer",
    "`handling=strict`: query parameters, fields in `select` and `sort`, and members of the body \
     that are unknown are refused with 400 and the nearest known name, instead of being ignored.",
);

/// The header fields that an operation takes for conditions.
pub(super) fn parameters(operation: &Operation) -> &'static [ParamDoc] {
    match (operation.conditions, operation.route.method) {
        (Conditions::Entity, Method::Get) => READ,
        (Conditions::Entity, _) => CHANGE,
        (Conditions::None | Conditions::Items, _) => &[],
    }
}

/// The answers of an operation to conditions.
pub(super) fn responses(operation: &Operation) -> &'static [ResponseDoc] {
    match (operation.conditions, operation.route.method) {
        (Conditions::Entity, Method::Get) => &[NOT_MODIFIED, FAILED],
        (Conditions::Entity, _) => &[FAILED],
        (Conditions::Items, _) => &[ITEM_FAILED],
        (Conditions::None, _) => &[],
    }
}

/// Adds the tag to the answers of an operation, and its answers to conditions.
pub(super) fn add_responses(operation: &Operation, responses: &mut Map<String, Value>) {
    for response in self::responses(operation) {
        responses.insert(response.status.to_string(), render_response(response));
    }
    if operation.conditions == Conditions::Entity
        && let Some(answer) = responses.get_mut("200")
    {
        answer["headers"][ETAG.name] = super::render_header(&ETAG);
    }
}

/// The member with the condition of an item of a batch.
pub(super) fn item_condition() -> Value {
    json!({
        "type": "string",
        "description": "`*`, or entity tags as in the header field `If-Match`: unless the stored \
            entity has one of them, nothing of the batch is changed. Not stored.",
        "examples": ["\"0123456789abcdef-17-192301a2b3c-811c9dc5\""],
        "x-since": "later",
    })
}
