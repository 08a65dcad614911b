//! Errors as the API document of the program has them: every error that a test sees is compared.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use serde_json::Value;

use crate::response::Response;
use crate::server::{PREFIX, STREAMER_PREFIX, run};

/// One error of the table `x-errors`.
struct DocumentedError {
    titles: Vec<String>,
    /// `any`, `changes`, `input` or `listed`.
    operations: String,
}

/// One operation: its path in segments, and the errors that it lists.
struct DocumentedOperation {
    method: String,
    template: String,
    has_input: bool,
    listed: BTreeSet<(u64, String)>,
}

struct DocumentedErrors {
    errors: BTreeMap<(u64, String), DocumentedError>,
    operations: Vec<DocumentedOperation>,
}

static DOCUMENT: LazyLock<DocumentedErrors> = LazyLock::new(|| {
    let printed = run(&["print", "openapi"], &[], Path::new("/"));
    assert!(printed.status.success(), "the document is printed");
    let document = serde_json::from_slice(&printed.stdout).expect("the document is JSON");
    DocumentedErrors::read(&document)
});

/// Errors about the syntax of a body have the offset instead of a name.
const WITHOUT_SUBJECT: [&str; 8] = [
    "invalid_json",
    "invalid_utf8",
    "byte_order_mark",
    "json_too_deep",
    "duplicate_key",
    "lone_surrogate",
    "nul_character",
    "number_out_of_range",
];

/// Fails the test if an answer has an error that the document does not have for its operation, or
/// not with this title, or whose title does not name the value that it is about. `request`: method
/// and target, unless the test wrote the bytes of its request itself.
#[track_caller]
pub(crate) fn check(request: Option<&(String, String)>, response: &Response) {
    if response.status < 400 || response.body.is_empty() {
        return;
    }
    let body = response.json();
    let errors = body["errors"].as_array().expect("a failure has errors");
    for error in errors {
        if let Err(why) = DOCUMENT.check(request, response.status.into(), error) {
            panic!("{why}: {request:?} {error}");
        }
    }
}

fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().expect("a list").iter();
    items
        .map(|item| item.as_str().expect("a text").to_owned())
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

impl DocumentedErrors {
    fn read(document: &Value) -> Self {
        let table = document["x-errors"].as_array().expect("a table of errors");
        let errors = table.iter().map(|error| {
            let status = error["status"].as_u64().expect("a status");
            let documented = DocumentedError {
                titles: texts(&error["titles"]),
                operations: text(&error["operations"]),
            };
            ((status, text(&error["code"])), documented)
        });
        let paths = document["paths"].as_object().expect("paths");
        let operations = paths.iter().flat_map(|(template, item)| {
            let methods = item.as_object().expect("a path item").iter();
            methods
                .map(|(method, operation)| DocumentedOperation::read(template, method, operation))
        });
        Self {
            errors: errors.collect(),
            operations: operations.collect(),
        }
    }

    fn check(
        &self,
        request: Option<&(String, String)>,
        status: u64,
        error: &Value,
    ) -> Result<(), String> {
        let title = error["title"].as_str().ok_or("no title")?;
        let key = (status, text(&error["code"]));
        let known = self.errors.get(&key).ok_or("not a documented error")?;
        if !known.titles.iter().any(|form| has_form(title, form)) {
            return Err(format!("not a documented title, known: {:?}", known.titles));
        }
        if !WITHOUT_SUBJECT.contains(&&*key.1) {
            check_subject(error, title)?;
        }
        let operation = request.and_then(|(method, target)| self.operation(method, target));
        let Some(operation) = operation else {
            return Ok(());
        };
        let is_possible = match &*known.operations {
            "any" => true,
            "changes" => operation.method != "GET",
            "input" => operation.has_input,
            _ => operation.listed.contains(&key),
        };
        let name = format!("{} {}", operation.method, operation.template);
        is_possible
            .then_some(())
            .ok_or(format!("not documented for {name}"))
    }

    /// The operation with the most literal text among those that the path fits.
    fn operation(&self, method: &str, target: &str) -> Option<&DocumentedOperation> {
        let path = target.split('?').next().unwrap_or_default();
        let path = [PREFIX, STREAMER_PREFIX]
            .iter()
            .find_map(|prefix| path.strip_prefix(prefix))?;
        let method = if method == "HEAD" { "GET" } else { method };
        let fits = |operation: &&DocumentedOperation| {
            operation.method == method && has_form(path, &operation.template)
        };
        let literal = |operation: &&DocumentedOperation| {
            let parts = operation.template.split(['{', '}']).step_by(2);
            parts.map(str::len).sum::<usize>()
        };
        self.operations.iter().filter(fits).max_by_key(literal)
    }
}

impl DocumentedOperation {
    fn read(template: &str, method: &str, operation: &Value) -> Self {
        let parameters = operation["parameters"].as_array();
        let mut parameters = parameters.into_iter().flatten();
        let has_parameter = parameters.any(|parameter| parameter["in"] != "header");
        let by_status = operation["x-errors"].as_object().into_iter().flatten();
        let listed = by_status.flat_map(|(status, codes)| {
            let status: u64 = status.parse().expect("a status");
            texts(codes).into_iter().map(move |code| (status, code))
        });
        Self {
            method: method.to_uppercase(),
            template: template.to_owned(),
            has_input: has_parameter || operation["requestBody"].is_object(),
            listed: listed.collect(),
        }
    }
}

/// The title of an error with a source names it: the last part of the pointer, or the parameter.
fn check_subject(error: &Value, title: &str) -> Result<(), String> {
    let source = &error["source"];
    let place = source["pointer"].as_str().or(source["parameter"].as_str());
    let Some(place) = place.filter(|place| !place.is_empty()) else {
        return Ok(());
    };
    let last = place.rsplit('/').next().unwrap_or_default();
    let name = last.replace("~1", "/").replace("~0", "~");
    // A title has a bounded part of a long name, without control characters.
    let name: String = name
        .chars()
        .take_while(|c| !c.is_control())
        .take(50)
        .collect();
    let is_named = title.contains(&name);
    is_named
        .then_some(())
        .ok_or(format!("the title does not name {last}"))
}

/// Whether a text is a form with something in all of its places `{...}`.
fn has_form(text: &str, form: &str) -> bool {
    let mut parts = form.split(['{', '}']).step_by(2);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        let Some(filled) = rest.chars().next().map(char::len_utf8) else {
            return false;
        };
        let end = rest[filled..].len().checked_sub(part.len());
        let at = match parts.peek() {
            Some(_) => rest[filled..].find(part),
            None => end.filter(|_| rest[filled..].ends_with(part)),
        };
        let Some(at) = at else { return false };
        rest = &rest[filled + at + part.len()..];
    }
    rest.is_empty()
}
