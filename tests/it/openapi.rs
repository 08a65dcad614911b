//! The OpenAPI document and the help of the command line agree with the running server.

use std::collections::BTreeMap;

use serde_json::Value;
use weir::testing::api::OPERATIONS;

use weir_testkit::{STREAMER_PREFIX, TestServer, run};

/// `METHOD template` of every documented operation, with its operationId.
fn documented(document: &Value) -> BTreeMap<String, String> {
    let mut operations = BTreeMap::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("a path item") {
            if let Some(id) = operation["operationId"].as_str() {
                operations.insert(format!("{} {path}", method.to_uppercase()), id.to_owned());
            }
        }
    }
    operations
}

#[test]
fn document_matches_the_served_operations() {
    let server = TestServer::new();
    let document = server.get("/openapi.json").expect(200).json();
    let served: BTreeMap<String, String> = OPERATIONS
        .iter()
        .map(|endpoint| {
            let route = endpoint.route;
            (
                format!("{} {}", route.method.as_str(), route.template()),
                endpoint.id.to_owned(),
            )
        })
        .collect();
    assert_eq!(documented(&document), served);
    for operation in served.keys() {
        let (method, template) = operation.split_once(' ').expect("made above");
        let path = template
            .replace("{name}", "nobody")
            .replace("{hostname}", "nobody");
        for path in [path.clone(), format!("{STREAMER_PREFIX}{path}")] {
            let answer = server.call(method, &path, b"");
            // Nothing of this name is a 404 of the resource; nothing at this path would be a 404 of
            // the router.
            let missing = answer.status == 404 && answer.errors() == ["not_found"];
            assert!(
                !missing && answer.status != 405 && answer.status != 501,
                "{method} {path}: {answer:?}"
            );
        }
    }
}

#[test]
fn every_reference_in_the_document_resolves() {
    fn check(value: &Value, document: &Value) {
        match value {
            Value::Object(object) => {
                if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
                    let pointer = reference.strip_prefix('#').expect("references are local");
                    assert!(
                        document.pointer(pointer).is_some(),
                        "{reference} is not there"
                    );
                }
                object.values().for_each(|value| check(value, document));
            }
            Value::Array(items) => items.iter().for_each(|value| check(value, document)),
            _ => {}
        }
    }
    let server = TestServer::new();
    let document = server.get("/openapi.json").expect(200).json();
    check(&document, &document);
}

#[test]
fn the_program_prints_the_document_it_serves() {
    let server = TestServer::new();
    let directory = tempfile::tempdir().expect("a scratch directory can be made");
    let printed = run(&["print", "openapi"], &[], directory.path());
    assert!(printed.status.success());
    let printed = String::from_utf8(printed.stdout).expect("the document is text");
    assert_eq!(
        printed.trim_end(),
        server.get("/openapi.json").expect(200).text().trim_end()
    );
}

#[test]
fn every_setting_of_the_help_is_in_the_printed_configuration() {
    let directory = tempfile::tempdir().expect("a scratch directory can be made");
    let text = |arguments: &[&str]| {
        let output = run(arguments, &[], directory.path());
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).expect("what is printed is text")
    };
    let help = text(&["serve", "--help"]);
    let config = text(&["print", "config"]);
    let settings: Vec<String> = help
        .lines()
        .filter_map(|line| {
            let variable = line.trim().strip_prefix("[env: CENTRAL_")?;
            Some(variable.split(']').next()?.to_lowercase())
        })
        .collect();
    assert!(settings.len() > 10, "{help}");
    for setting in &settings {
        let known = config.lines().any(|line| {
            let line = line.trim_start_matches(['#', ' ']);
            line.split_once('=')
                .is_some_and(|(key, _)| key.trim() == setting)
        });
        assert!(known, "{setting} is not in the printed configuration");
        assert!(
            help.contains(&format!("--{}", setting.replace('_', "-"))),
            "{setting} has no flag"
        );
    }
    // And the printed configuration is one that the program accepts.
    let file = directory.path().join("weir.toml");
    std::fs::write(&file, &config).expect("a file can be written");
    text(&[
        "check-config",
        "--config",
        file.to_str().expect("the path is text"),
    ]);
}
