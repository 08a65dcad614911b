//! The document under third-party validators: of OpenAPI 3.1 documents, and of JSON Schema for
//! every example in it.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};
use weir::testing::api::OPERATIONS;
use weir::testing::openapi;

use crate::python::{python, script};
use weir_testkit::run;

/// The result of the validators for a document: the report, or the findings.
fn judge(document: &str) -> Result<String, String> {
    let mut process = python()
        .arg(script("validate.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the interpreter starts");
    let mut stdin = process.stdin.take().expect("it is a pipe");
    // It reads everything before it prints. If it dies early, its status shows it.
    let _ = stdin.write_all(document.as_bytes());
    drop(stdin);
    let output = process.wait_with_output().expect("it ends");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(report)
    } else {
        Err(report + &String::from_utf8_lossy(&output.stderr))
    }
}

/// The count of a kind in the last line of the report.
fn count(report: &str, what: &str) -> usize {
    report
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(what)?.strip_prefix('=')?.parse().ok())
        .unwrap_or_else(|| panic!("no count of {what} in {report}"))
}

#[test]
fn printed_document_and_its_examples_are_valid() {
    let directory = tempfile::tempdir().expect("a scratch directory can be made");
    let printed = run(&["print", "openapi"], &[], directory.path());
    assert!(printed.status.success());
    let text = String::from_utf8(printed.stdout).expect("the document is text");
    let report = judge(&text).unwrap_or_else(|findings| panic!("{findings}"));
    assert_eq!(count(&report, "operations"), OPERATIONS.len());
    assert!(count(&report, "examples") > 1000, "{report}");
}

#[test]
fn validators_detect_invalid_documents() {
    let good: Value =
        serde_json::from_str(&openapi::document(OPERATIONS, "0.0.0")).expect("it is JSON");
    let cases: [(&str, Value, &str); 4] = [
        ("/info", json!({}), "\"title\" is a required property"),
        ("/paths/~1streams/get/responses", json!(5), "document"),
        (
            "/components/schemas/error/properties/code/examples/0",
            json!(7),
            "/components/schemas/error/properties/code",
        ),
        (
            "/paths/~1streams~1batch/put/requestBody/content/application~1json/example",
            json!([{ "title": "no name" }]),
            "'name' is a required property",
        ),
    ];
    for (pointer, value, expected) in cases {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).expect("there is such a place") = value;
        let findings = judge(&bad.to_string()).expect_err(pointer);
        assert!(findings.contains(expected), "{pointer}: {findings}");
    }
}
