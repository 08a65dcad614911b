//! `weir bridge` between a Weir and a media server of which one hangs, lies or is slow: what runs
//! goes on, nothing is changed in doubt, and a server that may be dead is not reported.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::Value;

use crate::bridges::{Bridge, looking};
use weir_testkit::fake::{FakeFault, FakeGo2rtc, FakeKind, FakeMediaMtx, FakeServer, FakeWeir};

type Weir = FakeServer<FakeWeir>;
type MediaMtx = FakeServer<FakeMediaMtx>;

const SOURCE: &str = "rtsp://10.0.0.1/a";

/// A bridge of streamer `m1`, and both sides of it.
fn start(kind: &str, weir: &Weir, server: &FakeServer<impl FakeKind>) -> Bridge {
    let mut bridge = Bridge::unstarted(kind, &weir.url(), server, "m1", &[]);
    bridge.start();
    bridge
}

/// A MediaMTX with one stream.
fn running() -> (Weir, MediaMtx, Bridge) {
    let weir = FakeServer::new(FakeWeir::default());
    weir.kind().run("a", SOURCE);
    let server = FakeServer::new(FakeMediaMtx::default());
    let bridge = start("mediamtx", &weir, &server);
    looking(
        "the stream runs and is reported",
        || last_status(&weir),
        |status| status == "running",
    );
    server.take_changes();
    (weir, server, bridge)
}

/// The status of the stream in the last report.
fn last_status(weir: &Weir) -> Value {
    let kind = weir.kind();
    let last = kind.reports.last().cloned().unwrap_or_default();
    last["streams"][0]["status"].clone()
}

fn polls_and_reports(weir: &Weir) -> (usize, usize) {
    let kind = weir.kind();
    (kind.polls, kind.reports.len())
}

/// Waits until the server has been connected to several times since.
fn wait_for_connections(server: &FakeServer<impl FakeKind>) {
    let before = server.connection_count();
    looking(
        "the server is looked at",
        || server.connection_count(),
        |count| *count >= before + 4,
    );
}

/// Waits for two more lists and two more reports.
fn wait_for_both(weir: &Weir) {
    let before = polls_and_reports(weir);
    looking(
        "Weir is polled and gets reports",
        || polls_and_reports(weir),
        |(polls, reports)| *polls >= before.0 + 2 && *reports >= before.1 + 2,
    );
}

#[test]
fn frozen_server_is_not_reported_until_it_thaws() {
    let (weir, server, bridge) = running();
    server.set_frozen(true);
    bridge.wait_for_log("media server is down", 1);
    let before = polls_and_reports(&weir);
    wait_for_connections(&server);
    let (polls, reports) = polls_and_reports(&weir);
    assert_eq!(reports, before.1, "silence is the sign");
    assert!(polls <= before.0 + 1, "one may have been on its way");
    server.set_frozen(false);
    bridge.wait_for_log("media server is up", 2);
    wait_for_both(&weir);
    assert!(server.take_changes().is_empty(), "its streams went on");
}

#[test]
fn death_is_noticed_while_a_call_waits() {
    // go2rtc gets one call at a time, and each may take long: its list does not end here. The death
    // must be noticed without another call.
    let weir = FakeServer::new(FakeWeir::default());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    weir.kind().run("a", &format!("rtsp://{address}/a"));
    let server = FakeServer::new(FakeGo2rtc::default());
    let bridge = start("go2rtc", &weir, &server);
    looking(
        "the stream runs",
        || last_status(&weir),
        |status| status == "running",
    );
    server.take_requests();
    server.hold(Some("/api/streams"));
    looking(
        "a list is on its way",
        || server.take_requests(),
        |requests| requests.iter().any(|it| it.path == "/api/streams"),
    );
    let before = server.connection_count();
    server.set_frozen(true);
    bridge.wait_for_log("media server is down", 1);
    assert_eq!(server.connection_count(), before, "by the media port alone");
    server.hold(None);
    server.set_frozen(false);
    bridge.wait_for_log("media server is up", 2);
    wait_for_both(&weir);
    assert!(!server.kind().is_dead, "calls overlapped");
}

#[test]
fn slow_call_is_no_death_while_media_flows() {
    let (weir, server, bridge) = running();
    // The control API alone hangs, as in a deadlock: the streamer stays, and its reports are about
    // itself.
    server.set_fault(Some(FakeFault::Hang));
    let seen = looking(
        "the API is reported as lost",
        || weir.kind().reports.last().cloned().unwrap_or_default(),
        |report| report["stats"]["config_external_status"]["status"] == "error",
    );
    assert_eq!(
        seen["stats"]["config_external_status"]["error"],
        "control_api"
    );
    assert_eq!(seen["streams"], Value::Null, "nothing is known of them");
    wait_for_both(&weir);
    server.set_fault(None);
    looking(
        "the stream runs",
        || last_status(&weir),
        |status| status == "running",
    );
    assert!(!bridge.log().contains("media server is down"));
    assert_eq!(server.kind().starts["a"], 1);
}

#[test]
fn slow_and_coded_answers_of_the_server_change_nothing() {
    let (weir, server, bridge) = running();
    for fault in [FakeFault::Coded, FakeFault::Drip, FakeFault::Hang] {
        server.set_fault(Some(fault));
        wait_for_connections(&server);
        server.set_fault(None);
        wait_for_both(&weir);
        looking(
            "the stream runs",
            || last_status(&weir),
            |status| status == "running",
        );
        let changes = server.take_changes();
        assert!(changes.is_empty(), "{fault:?}: {changes:?}");
    }
    drop(bridge);
}

/// Weir has faults, one after the other, while it has no stream: nothing stops.
#[track_caller]
fn assert_changes_nothing(faults: &[(FakeFault, &str)]) {
    let (weir, server, bridge) = running();
    for (round, (fault, why)) in faults.iter().enumerate() {
        let logged = format!("no configuration from Weir: {why}");
        let before = bridge.log().matches(&logged).count();
        weir.set_fault(Some(*fault));
        // It would stop the stream, if it were believed.
        weir.kind().streams.clear();
        bridge.wait_for_log(&logged, before + 1);
        weir.kind().run("a", SOURCE);
        weir.set_fault(None);
        bridge.wait_for_log("Weir answers again", round + 1);
        wait_for_both(&weir);
        let changes = server.take_changes();
        assert!(changes.is_empty(), "{fault:?}: {changes:?}");
    }
    assert_eq!(server.kind().starts["a"], 1);
}

#[test]
fn answers_of_weir_that_are_none_change_nothing() {
    assert_changes_nothing(&[
        (FakeFault::Status(500), "status 500"),
        (FakeFault::Status(404), "status 404"),
        (FakeFault::Cut, ""),
        (FakeFault::Redirect, "status 302"),
        (FakeFault::Garbage, "unexpected answer: not the known JSON"),
        (FakeFault::Coded, "unexpected answer: a content coding"),
    ]);
}

#[test]
fn huge_answer_of_weir_changes_nothing() {
    assert_changes_nothing(&[(FakeFault::Huge, "unexpected answer: more than 64 MiB")]);
}

#[test]
fn slow_weir_stops_nothing() {
    let (weir, server, bridge) = running();
    weir.set_fault(Some(FakeFault::Hang));
    weir.kind().streams.clear();
    wait_for_connections(&server);
    weir.kind().run("a", SOURCE);
    // Byte by byte, and whole in the end.
    weir.set_fault(Some(FakeFault::Drip));
    wait_for_both(&weir);
    weir.set_fault(None);
    wait_for_both(&weir);
    assert!(server.take_changes().is_empty());
    assert_eq!(last_status(&weir), "running");
    drop(bridge);
}

#[test]
fn one_refusal_between_good_lists_changes_nothing() {
    let (weir, server, bridge) = running();
    weir.kind().refusals = 1;
    bridge.wait_for_log("invalid_authorization", 1);
    bridge.wait_for_log("Weir answers again", 1);
    wait_for_both(&weir);
    assert!(server.take_changes().is_empty());
}

#[test]
fn wrong_clock_stops_nothing_and_is_named() {
    let (weir, server, bridge) = running();
    weir.kind().clock_ahead = Duration::from_hours(1);
    bridge.wait_for_log("the clock of this machine is 60 min behind that of Weir", 1);
    weir.kind().streams.clear();
    wait_for_connections(&server);
    weir.kind().run("a", SOURCE);
    weir.kind().clock_ahead = Duration::ZERO;
    bridge.wait_for_log("Weir answers again", 1);
    wait_for_both(&weir);
    assert!(server.take_changes().is_empty());
}
