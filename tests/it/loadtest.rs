//! The load tool against the real server: short runs that must pass.
//!
//! The tool is a program of its own, built with the workspace; where only this package was built it
//! is missing and these tests are skipped with a message.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use weir_testkit::{API_KEY, TestServer};

fn tool() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_BIN_EXE_weir")).with_file_name("weir-loadtest");
    if !beside.exists() {
        println!("skipped: {} is not here", beside.display());
        return None;
    }
    Some(beside)
}

/// Runs the tool to its end and returns its report; fails unless it passed.
fn passes(server: &TestServer, tool: &Path, arguments: &[&str]) -> Value {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let report = scratch.path().join("report.json");
    let page = scratch.path().join("report.html");
    let output = Command::new(tool)
        .env_clear()
        .args(arguments)
        .args(["--url", &format!("http://{}", server.address())])
        .args(["--api-key", API_KEY, "--threads", "1"])
        // On a busy machine the figures are bad; what is proven does not change.
        .args(["--timeout", "60s", "--settle", "60s", "--grace", "5s"])
        .arg("--json")
        .arg(&report)
        .arg("--html")
        .arg(&page)
        .stdin(Stdio::null())
        .output()
        .expect("the tool can be started");
    let text = std::fs::read_to_string(&report).unwrap_or_default();
    assert!(
        output.status.success(),
        "{arguments:?}: {}\n{}\n{}\n{text}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    let named = |member: &str| report[member].as_object().map_or(0, serde_json::Map::len);
    if named("series") + named("wakes") > 0 {
        let page = std::fs::read_to_string(&page).expect("a page is written");
        assert!(page.contains("<svg") && page.ends_with('\n'), "{page}");
    }
    report
}

fn cluster(tool: &Path) -> TestServer {
    // The tool proves that a moved stream has left the list of its old streamer.
    let server = TestServer::with(&["--io-threads", "2", "--layouter-handover", "0"]);
    passes(
        &server,
        tool,
        &[
            "prepare",
            "--streamers",
            "8",
            "--streams",
            "200",
            "--backups",
            "0.3",
        ],
    );
    passes(&server, tool, &["verify"]);
    server
}

const SHORT: &[&str] = &["--warm-up", "100ms", "--duration", "1s"];

#[test]
fn parked_streamers_receive_every_edit() {
    let Some(tool) = tool() else { return };
    let server = cluster(&tool);
    let arguments = [
        "longpoll",
        "--answers",
        "etag,delta",
        "--edits",
        "40",
        "--moves",
        "10",
        "--streamers",
        "12",
        "--wait",
        "1",
    ];
    let report = passes(&server, &tool, &[&arguments[..], SHORT].concat());
    assert!(
        report["proof"]["edits_acknowledged"].as_u64() > Some(0),
        "{report}"
    );
    passes(&server, &tool, &["verify"]);
}

#[test]
fn polling_fleet_ends_with_the_stored_state() {
    let Some(tool) = tool() else { return };
    let server = cluster(&tool);
    let arguments = [
        "fleet",
        "--interval",
        "100ms",
        "--edits",
        "40",
        "--moves",
        "10",
        "--answers",
        "full,etag,delta",
        "--encoding",
        "identity,gzip,zstd",
        "--cluster-auth",
    ];
    let report = passes(&server, &tool, &[&arguments[..], SHORT].concat());
    assert!(
        report["proof"]["edits_acknowledged"].as_u64() > Some(0),
        "{report}"
    );
    passes(&server, &tool, &["verify"]);
}

#[test]
fn all_loads_together_pass() {
    let Some(tool) = tool() else { return };
    let server = cluster(&tool);
    passes(
        &server,
        &tool,
        &[&["mixed", "--wait", "1", "--interval", "100ms"][..], SHORT].concat(),
    );
    passes(&server, &tool, &["verify"]);
}

#[test]
fn every_command_reaches_its_agent() {
    let Some(tool) = tool() else { return };
    let server = TestServer::with(&["--io-threads", "3"]);
    let arguments = [
        "agents",
        "--agents",
        "150",
        "--streamers",
        "3",
        "--commands",
        "200",
        "--connections",
        "8",
        "--moves",
        "20",
        "--touch",
        "30",
        "--source",
        "127.0.0.2",
        "--source",
        "127.0.0.3",
    ];
    let report = passes(&server, &tool, &[&arguments[..], SHORT].concat());
    let counters = &report["counters"];
    assert_eq!(counters["agents connected"], 150, "{report}");
    assert!(
        counters["commands compared with what agents did"].as_u64() > Some(0),
        "{report}"
    );
    let moved = &report["wakes"]["layout change until the agent knows"]["count"];
    assert!(moved.as_u64() > Some(0), "{report}");
}

#[test]
fn streams_of_a_lost_streamer_reach_the_others() {
    let Some(tool) = tool() else { return };
    let server = TestServer::with(&["--layouter-enabled", "--streamer-dead-timeout", "5s"]);
    let arguments = [
        "failover",
        "--streamers",
        "12",
        "--streams",
        "400",
        "--losses",
        "2",
        "--backups",
        "0.3",
        "--warm-up",
        "1s",
    ];
    let report = passes(&server, &tool, &arguments);
    let notified = &report["wakes"]["detection until all streamers have the list"];
    assert_eq!(notified["count"], 2, "{report}");
    let moved = &report["counters"]["copies of streams on lost streamers"];
    assert!(moved.as_u64() > Some(0), "{report}");
}

#[test]
fn queried_fleet_lives_through_a_story() {
    let Some(tool) = tool() else { return };
    let server = TestServer::with(&[
        "--layouter-enabled",
        "--streamer-dead-timeout",
        "5s",
        "--streamer-queries",
        "--outbound-loopback",
        "--cluster-node-config-provision-enabled=true",
        "--config-external-reconciliation-interval=1s",
        "--api-url=http://weir.example.com:9019",
    ]);
    let story = server.data_dir().join("story");
    // Bad answers take no streamer away: they go on polling.
    let text = "1s lose region=r3\n1s hang s00004.lt.example\n1s trickle s00001.lt.example\n\
                1s flood s00002.lt.example\n1s lie s00005.lt.example\n20s return all\n";
    std::fs::write(&story, text).expect("the file can be written");
    let arguments = [
        "fleet",
        "--story",
        story.to_str().expect("UTF-8"),
        "--streamers",
        "24",
        "--streams",
        "480",
        "--warm-up",
        "1s",
    ];
    let report = passes(&server, &tool, &arguments);
    let incidents = report["incidents"].as_array().expect("one per moment");
    let number = |name: &str| incidents[0][name].as_u64();
    assert_eq!(number("streamers"), Some(7), "{report}");
    assert_eq!(number("unnoticed"), Some(0), "{report}");
    assert!(number("lost") > Some(0), "{report}");
    assert!(number("came") >= number("lost"), "{report}");
    assert!(number("missing_max") >= number("lost"), "{report}");
    assert!(number("mended_ms").is_some(), "{report}");
    let counted = |name: &str| report["counters"][name].as_u64();
    assert!(counted("queries of stats") > Some(0), "{report}");
    let written = counted("configurations that were written");
    assert!(written >= Some(24), "each of them: {report}");
    assert_eq!(
        report["counters"]["queries that were refused"], 0,
        "{report}"
    );
}
