//! Requests that Schemathesis makes up from the served document, against the server that serves it.
//!
//! Checked for every answer: no server error; status, content type, headers and body as documented;
//! what violates the document is refused; methods that are none are 405 with `Allow`; no operation
//! works without its credentials; what was deleted is gone. A run is the same each time: the seed
//! is fixed and counts bound it, not time. `WEIR_SCHEMATHESIS_SECONDS=600 cargo test --test it
//! schemathesis` goes on for that long, with every value at its bounds also in what is saved; at
//! its end the report lists what was covered.
//!
//! Left out: `positive_data_acceptance`. The document cannot describe which nodes and streams
//! exist, nor that a key is unique, so a body it allows may be refused. `round_trip` shows that
//! every valid value is accepted.

use std::fs;
use std::process::Stdio;

use serde_json::json;

use crate::python;
use weir_testkit::{API_KEY, PREFIX, TestServer};

const SEED: &str = "24110";
/// Cases of one operation in one phase.
const CASES: &str = "8";
/// Saves have thousands of fields. Each at and beyond all its bounds takes many minutes, and
/// `round_trip` has those one by one.
const BRIEF: &str = r#"
[[operations]]
include-method = ["PUT", "POST"]
phases.coverage.enabled = false
"#;

#[test]
fn fuzzed_requests_get_documented_responses() {
    let server = TestServer::with(&["--poll-wait-max", "1s"]);
    populate(&server);
    let root = format!("http://{}{PREFIX}", server.address());
    let hooks = python::script("");
    let seconds = std::env::var("WEIR_SCHEMATHESIS_SECONDS");
    let mut config = fs::read_to_string(hooks.join("schemathesis.toml")).expect("it is there");
    if seconds.is_err() {
        config.push_str(BRIEF);
    }
    let config_file = server.data_dir().join("schemathesis.toml");
    fs::write(&config_file, config).expect("the file can be written");
    let mut command = python::program("schemathesis");
    command
        .env("SCHEMATHESIS_HOOKS", "schemathesis_hooks")
        .env("PYTHONPATH", &hooks)
        .current_dir(server.data_dir())
        .arg("--config-file")
        .arg(&config_file)
        .arg("run")
        .arg(format!("{root}/openapi.json"))
        .args(["--url", &root])
        .args(["--header", &format!("Authorization: Bearer {API_KEY}")])
        .args(["--seed", SEED, "--continue-on-failure", "--warnings", "off"])
        .args(["--exclude-checks", "positive_data_acceptance"]);
    match seconds {
        Ok(seconds) => command.args(["--max-time", &seconds]),
        Err(_) => command.args([
            "--phases",
            "examples,coverage,fuzzing,stateful",
            "--max-examples",
            CASES,
            "--no-shrink",
        ]),
    };
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("the program can be started");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}\n{stdout}\n{log}",
        output.status
    );
    println!("{stdout}");
    let errors: String = server
        .log()
        .lines()
        .filter(|line| line.contains("\"ERROR\"") || line.contains("panicked"))
        .collect();
    assert_eq!(errors, "", "the server is unharmed");
}

/// Saves the entities whose names the document's examples and the hooks use.
fn populate(server: &TestServer) {
    let node = |hostname: &str, role: &str| {
        json!({
            "hostname": hostname, "role": role, "cluster_key": "secret",
        })
    };
    let nodes = json!([
        node("streamer1.example.com", "streamer"),
        node("streamer2.example.com", "streamer"),
        node("streamer3.example.com", "streamer"),
        node("vision1.example.com", "inference"),
        node("s1", "streamer"),
        node("s2", "streamer"),
    ]);
    server.put("/streamers/batch", nodes).expect(204);
    let stream = |name: &str| {
        json!({
            "name": name, "inputs": [{"url": "udp://239.0.0.1:1234"}], "labels": {"zone": "north"},
        })
    };
    let streams = ["a0", "a1", "a2", "harbour/cam1", "harbour/cam2"].map(stream);
    server.put("/streams/batch", json!(streams)).expect(204);
    let layouts = json!({"layouts": [{"name": "harbour/cam1", "ingest": "streamer1.example.com"}]});
    server.post("/streams/layouts", layouts).expect(204);
}
