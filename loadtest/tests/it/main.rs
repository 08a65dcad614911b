//! Whole runs against a stub server: right ones pass, and every planted bug fails the run by its
//! name.

#![allow(clippy::unwrap_used)] // a test that unwraps says where it failed

mod stub;

use clap::Parser;
use serde_json::Value;
use stub::{Bug, Stub};
use weir_loadtest::{cli::Cli, scenario};

fn run(address: std::net::SocketAddr, arguments: &[&str]) -> (bool, Value) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("report.json");
    let url = format!("http://{address}");
    let mut all = vec!["weir-loadtest"];
    all.extend(arguments);
    all.extend([
        "--url",
        &url,
        "--api-key",
        "k",
        "--json",
        file.to_str().unwrap(),
    ]);
    let cli = Cli::try_parse_from(all).unwrap();
    let passed = scenario::run(&cli, cli.target().unwrap()).unwrap();
    let report =
        std::fs::read(&file).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
    (passed, report)
}

/// A prepared cluster: 8 streamers, 160 streams, a third of them with a backup.
fn cluster(bug: Bug) -> std::net::SocketAddr {
    let address = Stub::start(bug);
    let (passed, _) = run(
        address,
        &[
            "prepare",
            "--streamers",
            "8",
            "--streams",
            "160",
            "--backups",
            "0.3",
        ],
    );
    assert!(passed);
    address
}

const SHORT: &[&str] = &["--warm-up", "100ms", "--duration", "700ms"];

fn run_short(address: std::net::SocketAddr, arguments: &[&str]) -> (bool, Value) {
    run(address, &[arguments, SHORT].concat())
}

fn fault(report: &Value, kind: &str) -> u64 {
    report["faults"][kind].as_u64().unwrap()
}

fn total(report: &Value) -> u64 {
    report["faults"]
        .as_object()
        .unwrap()
        .values()
        .map(|count| count.as_u64().unwrap())
        .sum()
}

/// Every example names its streamer, and its stream unless the whole answer is meant.
fn assert_named(report: &Value, kind: &str) {
    let examples = report["fault_examples"].as_array().unwrap();
    let mut of_kind = examples
        .iter()
        .filter(|example| example["kind"] == kind)
        .peekable();
    assert!(of_kind.peek().is_some());
    for example in of_kind {
        assert!(
            example["streamer"]
                .as_str()
                .unwrap()
                .ends_with(".lt.example"),
            "{example}"
        );
        let stream = &example["stream"];
        assert!(
            stream.is_null() || stream.as_str().unwrap().starts_with("lt"),
            "{example}"
        );
    }
}

#[test]
fn a_right_server_passes_as_a_fleet_that_polls() {
    let address = cluster(Bug::None);
    let (passed, report) = run(address, &["verify"]);
    assert!(
        passed && report["proof"]["streams"].as_u64().unwrap() > 160,
        "{report}"
    );
    let polls = [
        "--interval",
        "100ms",
        "--edits",
        "50",
        "--moves",
        "20",
        "--answers",
        "full,etag,delta",
    ];
    let (passed, report) = run_short(
        address,
        &[&["fleet", "--encoding", "identity,gzip,zstd"][..], &polls].concat(),
    );
    assert!(passed, "{report}");
    assert!(report["proof"]["edits_acknowledged"].as_u64().unwrap() > 10);
    assert!(report["proof"]["moves_acknowledged"].as_u64().unwrap() > 5);
}

#[test]
fn a_right_server_passes_with_parked_streamers() {
    let address = cluster(Bug::None);
    for answers in ["etag", "delta", "etag,delta"] {
        let arguments = [
            "longpoll",
            "--answers",
            answers,
            "--edits",
            "100",
            "--moves",
            "10",
            "--streamers",
            "12",
        ];
        let (passed, report) = run_short(address, &arguments);
        assert!(passed, "{answers}: {report}");
        let wakes = report["wakes"]["edit until its streamer has it"]["count"]
            .as_u64()
            .unwrap();
        assert!(wakes > 0, "{answers}: {report}");
        assert_eq!(report["proof"]["streamers"], 12);
    }
}

#[test]
fn a_right_server_passes_when_one_edit_touches_every_streamer() {
    let arguments = [
        "longpoll",
        "--touch",
        "8",
        "--edits",
        "20",
        "--field",
        "input",
        "--threads",
        "2",
    ];
    let (passed, report) = run_short(cluster(Bug::None), &arguments);
    assert!(passed, "{report}");
    assert!(
        report["wakes"]["edit until the last of its streamers has it"]["count"]
            .as_u64()
            .unwrap()
            > 0
    );
}

#[test]
fn a_right_server_passes_single_requests() {
    let address = cluster(Bug::None);
    let (passed, report) = run_short(
        address,
        &[
            "get",
            "--rate",
            "500",
            "--connections",
            "4",
            "--threads",
            "2",
        ],
    );
    assert!(
        passed && report["series"]["get"]["statuses"]["200"] == 350,
        "every arrival of the window: {report}"
    );
    let (passed, report) = run_short(
        address,
        &[
            "get",
            "--rate",
            "max",
            "--requests",
            "300",
            "--pipeline",
            "4",
        ],
    );
    assert!(
        passed && report["series"]["get"]["statuses"]["200"] == 300,
        "{report}"
    );
    let (passed, report) = run_short(address, &["put", "--rate", "200", "--connections", "4"]);
    assert!(
        passed && report["proof"]["edits_acknowledged"].as_u64().unwrap() >= 140,
        "{report}"
    );
    let (passed, report) = run_short(address, &["list", "--limit", "7", "--rate", "100"]);
    assert!(
        passed && report["series"]["list"]["statuses"]["200"] == 70,
        "{report}"
    );
}

#[test]
fn a_right_server_passes_storms_and_everything_together() {
    let address = cluster(Bug::None);
    let (passed, report) = run(address, &["storm", "--rounds", "2", "--streamers", "24"]);
    assert!(
        passed && report["wakes"]["storm: until the last has its list"]["count"] == 1,
        "{report}"
    );
    let (passed, report) = run_short(address, &["mixed", "--interval", "200ms", "--gets", "50"]);
    assert!(passed, "{report}");
}

fn planted(bug: Bug, kind: &str, arguments: &[&str]) {
    let (passed, report) = run_short(cluster(bug), &[arguments, &["--settle", "2s"]].concat());
    assert!(
        !passed && fault(&report, kind) > 0,
        "{bug:?} must be found as {kind}: {report}"
    );
    assert_named(&report, kind);
}

#[test]
fn a_shortened_list_fails_the_run() {
    planted(
        Bug::Shortens,
        "shortened",
        &["fleet", "--interval", "50ms", "--answers", "full"],
    );
}

#[test]
fn a_stream_named_twice_fails_the_run() {
    planted(
        Bug::Duplicates,
        "duplicated",
        &["fleet", "--interval", "50ms", "--answers", "full"],
    );
}

#[test]
fn answer_older_than_an_edit_fails_the_run() {
    planted(
        Bug::AnswersOld,
        "stale",
        &[
            "fleet",
            "--interval",
            "50ms",
            "--answers",
            "full",
            "--edits",
            "100",
        ],
    );
}

#[test]
fn unsent_edit_fails_the_run() {
    planted(
        Bug::ForgetsToTell,
        "missed",
        &["longpoll", "--edits", "60", "--grace", "300ms"],
    );
}

#[test]
fn one_revision_with_two_contents_fails_the_run() {
    planted(
        Bug::KeepsRevision,
        "torn",
        &[
            "fleet",
            "--interval",
            "50ms",
            "--answers",
            "full",
            "--edits",
            "100",
        ],
    );
}

#[test]
fn lost_acknowledged_edit_fails_the_run() {
    planted(Bug::LosesWrites, "lost", &["put", "--rate", "100"]);
}

#[test]
fn a_body_that_ends_early_fails_the_run() {
    // The first lists come again until they are whole, so that the run begins; later cuts are
    // reported just the same.
    planted(
        Bug::CutsBodies,
        "torn",
        &["fleet", "--interval", "50ms", "--answers", "full"],
    );
}

#[test]
fn moved_stream_that_stays_in_its_old_list_fails_the_run() {
    let (passed, report) = run_short(
        cluster(Bug::KeepsMoved),
        &[
            "fleet",
            "--interval",
            "50ms",
            "--answers",
            "full,delta",
            "--moves",
            "40",
        ],
    );
    assert!(
        !passed && fault(&report, "stale") > 0 && total(&report) > 0,
        "{report}"
    );
}

#[test]
fn wrong_key_is_an_error_and_not_a_measurement() {
    let address = cluster(Bug::None);
    let cli = Cli::try_parse_from([
        "weir-loadtest",
        "get",
        "--url",
        &format!("http://{address}"),
        "--api-key",
        "x",
    ])
    .unwrap();
    let refused = scenario::run(&cli, cli.target().unwrap()).unwrap_err();
    assert!(
        refused.contains("401") && refused.contains("--api-key"),
        "{refused}"
    );
}
