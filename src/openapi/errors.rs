//! The errors in the document: all of them with the forms of their titles, and those of each
//! operation.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::conditions;
use super::model::{Content, ResponseDoc, Security};
use crate::api::operation::Operation;
use crate::error::{self, ErrorCode, ErrorReach};

/// All errors, with every form of their titles.
pub(super) fn table() -> Value {
    let item = |error: &ErrorCode| {
        json!({
            "status": error.status,
            "code": error.code,
            "titles": error.titles().collect::<Vec<_>>(),
            "operations": error.reach.as_str(),
        })
    };
    error::ALL.iter().map(item).collect()
}

/// The errors of an operation that not every operation has, by status.
pub(super) fn listed(operation: &Operation) -> BTreeMap<String, BTreeSet<&'static str>> {
    let of_response = |response: &ResponseDoc| match response.content {
        Content::Error(error) => Some(error),
        _ => None,
    };
    let documented = operation.doc.responses.iter();
    let documented = documented.chain(conditions::responses(operation));
    let documented = documented.filter_map(of_response);
    let mut listed: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    let named = documented.chain(operation.doc.errors.iter().copied());
    let mut list = |error: ErrorCode| {
        if error.reach == ErrorReach::Named {
            let of_status = listed.entry(error.status.to_string()).or_default();
            of_status.insert(error.code);
        }
    };
    for error in named {
        list(error);
        if error == error::LAYOUTER_DISABLED {
            list(error::LAYOUTER_BUSY);
        }
    }
    if operation.permission.security == Security::Node {
        list(error::WRONG_CLUSTER_KEY);
    }
    listed
}

/// A title of this form, as an example.
pub(super) fn example_title(form: &str) -> String {
    let places = [
        ("{subject}", "`channel_limit`"),
        ("{allowed}", "1 to 10000"),
        ("{pattern}", "^[a-zA-Z0-9_.-]+$"),
    ];
    let filled = |title: String, (place, text): (&str, &str)| title.replace(place, text);
    places.into_iter().fold(form.to_owned(), filled)
}
