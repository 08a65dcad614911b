//! Clients that generators make from the served document, against the server that serves it.
//!
//! openapi-python-client and openapi-typescript take the document as it is, without a warning; the
//! TypeScript client is checked with `tsc --strict`. Each client then does what an operator's
//! program does: it saves a streamer, streams and a layout, reads what the streamer has to run,
//! lists with filters and a cursor, changes several streams at once, reads the event log, and
//! deletes what it made.

use std::fs;
use std::path::Path;
use std::process::Command;

use weir::testing::api::OPERATIONS;
use weir_testkit::{API_KEY, PREFIX, TestServer};

use crate::environment::run;
use crate::{node, python};

/// Runs a command that has to succeed; returns what it printed.
fn done(command: &mut Command) -> String {
    run(command).unwrap_or_else(|error| panic!("{error}"))
}

/// Writes the document that the server serves into a directory.
fn save_document(server: &TestServer, directory: &Path) {
    let document = server.get("/openapi.json").expect(200);
    fs::write(directory.join("openapi.json"), document.text()).expect("it can be written");
}

fn root(server: &TestServer) -> String {
    format!("http://{}{PREFIX}", server.address())
}

#[test]
fn generated_python_client_does_the_main_job() {
    let server = TestServer::new();
    let scratch = tempfile::tempdir().expect("a scratch directory can be made");
    let directory = scratch.path();
    save_document(&server, directory);
    fs::write(directory.join("config.yml"), "post_hooks: []\n").expect("it can be written");
    let printed = done(
        python::program("openapi-python-client")
            .current_dir(directory)
            .args(["generate", "--path", "openapi.json", "--meta", "none"])
            .args(["--config", "config.yml", "--output-path", "weir_client"]),
    );
    assert_eq!(printed.trim(), "Generating weir_client", "no warnings");
    let ids: Vec<&str> = OPERATIONS.iter().map(|operation| operation.id).collect();
    let printed = done(
        python::python()
            .current_dir(directory)
            .env("PYTHONPATH", directory)
            .arg(python::script("client.py"))
            .args([&root(&server), API_KEY])
            .args(&ids),
    );
    assert_eq!(printed.trim(), format!("{} operations", ids.len()));
}

#[test]
fn generated_typescript_client_does_the_main_job() {
    let server = TestServer::new();
    let packages = node::packages();
    // Below the packages, where their types and modules are found.
    let scratch = tempfile::tempdir_in(&packages).expect("a scratch directory can be made");
    let directory = scratch.path();
    save_document(&server, directory);
    let program = |name: &str| {
        let mut command = Command::new(packages.join("node_modules/.bin").join(name));
        command.current_dir(directory).env("NO_COLOR", "1");
        command
    };
    let printed = done(program("openapi-typescript").args(["openapi.json", "-o", "api.d.ts"]));
    assert!(
        !printed.contains('⚠') && !printed.contains("arning"),
        "{printed}"
    );
    let types = fs::read_to_string(directory.join("api.d.ts")).expect("it was written");
    for operation in OPERATIONS {
        let member = format!("\n    {}: {{", operation.id);
        assert!(types.contains(&member), "{} is missing", operation.id);
    }
    for name in ["client.ts", "tsconfig.json"] {
        fs::copy(node::source(name), directory.join(name)).expect("it can be copied");
    }
    let printed = done(&mut program("tsc"));
    assert_eq!(printed, "", "nothing to complain about");
    let printed = done(Command::new("node").current_dir(directory).args([
        "client.js",
        &root(&server),
        API_KEY,
    ]));
    assert_eq!(printed.trim(), "done");
}
