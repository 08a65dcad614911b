//! `weir bridge` beside fakes of go2rtc, node-media-server and SRS, each with the traps of the real
//! one.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;

use serde_json::json;

use crate::bridges::{Bridge, looking, save_stream, save_streamers, stats_of};
use weir_testkit::TestServer;
use weir_testkit::fake::{FakeGo2rtc, FakeKind, FakeNodeMediaServer, FakeServer, FakeSrs};

/// Waits until the bridge has called the server so often again.
fn wait_for_requests<K: FakeKind>(fake: &FakeServer<K>, count: usize) {
    let before = fake.request_count();
    looking(
        "the bridge calls the server",
        || fake.request_count(),
        |seen| *seen >= before + count,
    );
}

#[track_caller]
fn wait_for_status(server: &TestServer, name: &str, status: &str) {
    looking(
        &format!("{name} is {status}"),
        || stats_of(server, name)["status"].clone(),
        |seen| *seen == status,
    );
}

/// A source that accepts connections, and its URL.
fn source(path: &str) -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, format!("rtsp://u:p@{address}/{path}"))
}

#[test]
fn go2rtc_streams_are_preloaded_changed_and_removed() {
    let server = TestServer::new();
    let mut fake = FakeServer::new(FakeGo2rtc::default());
    save_streamers(&server, &["g1"]);
    let (_first, a) = source("a");
    let (_second, b) = source("b?x=1");
    save_stream(&server, "g1", "a", &a);
    save_stream(&server, "g1", "dir/b", &b);
    fake.kind().failing_preloads = 1;
    let mut bridge = Bridge::new("go2rtc", &server, &fake, "g1", &[]);
    // A preload that failed is made again, later.
    wait_for_status(&server, "a", "running");
    wait_for_status(&server, "dir/b", "running");
    assert_eq!(
        stats_of(&server, "a")["online_clients"],
        1,
        "preloads are no viewers"
    );
    assert_eq!(fake.kind().streams["dir/b"], b);
    fake.take_changes();

    // A restart of the bridge replaces no stream by an idle one.
    bridge.kill();
    bridge.start();
    wait_for_requests(&fake, 12);
    assert!(fake.take_changes().is_empty());
    // It comes back with what is in its file.
    fake.stop();
    bridge.wait_for_log("media server is down", 1);
    fake.start();
    bridge.wait_for_log("media server is up", 3);
    wait_for_requests(&fake, 12);
    assert!(fake.take_changes().is_empty());

    let (_third, changed) = source("c");
    save_stream(&server, "g1", "a", &changed);
    looking(
        "the changed stream runs",
        || {
            let kind = fake.kind();
            (kind.streams["a"].clone(), kind.preloads.len())
        },
        |(source, preloads)| *source == changed && *preloads == 2,
    );
    assert_eq!(fake.kind().unlisted, 0, "no old stream goes on unlisted");
    server.delete("/streams/dir%2Fb").expect(204);
    looking(
        "it is removed",
        || fake.kind().streams.len(),
        |count| *count == 1,
    );
    assert_eq!(fake.kind().preloads.len(), 1);
    assert!(!fake.kind().is_dead, "calls overlapped");
}

#[test]
fn go2rtc_does_not_wait_for_sources_that_are_away() {
    let server = TestServer::new();
    let fake = FakeServer::new(FakeGo2rtc::default());
    fake.kind().is_read_only = true;
    save_streamers(&server, &["g1"]);
    let address = weir_testkit::fake::unused_address();
    let away = format!("rtsp://{address}/a");
    let (_open, here) = source("b");
    save_stream(&server, "g1", "a", &away);
    save_stream(&server, "g1", "b", &here);
    let bridge = Bridge::new("go2rtc", &server, &fake, "g1", &[]);
    wait_for_status(&server, "b", "running");
    wait_for_status(&server, "a", "waiting");
    let listener = TcpListener::bind(address).expect("the port is free");
    wait_for_status(&server, "a", "running");
    assert_eq!(fake.kind().blocked, 0, "the source is connected to first");
    assert_eq!(fake.kind().starts["a"], 1);
    drop((bridge, listener));
}

#[test]
fn go2rtc_names_what_is_wrong_with_sources() {
    let server = TestServer::new();
    let fake = FakeServer::new(FakeGo2rtc::default());
    save_streamers(&server, &["g1"]);
    let table = [
        ("a", "wrong user/pass", "source_unauthorized"),
        ("b", "wrong response on DESCRIBE", "source_refused"),
        ("c", "EOF", "source_unreachable"),
        ("d", "403 Forbidden", "source_unauthorized"),
        ("e", "404 Not Found", "source_refused"),
    ];
    let mut sources = Vec::new();
    for (host, (name, error, _)) in (2..).zip(table) {
        // Of one host, two streams are started at a time.
        let listener = TcpListener::bind(format!("127.0.0.{host}:0")).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        save_stream(&server, "g1", name, &format!("rtsp://u:p@{address}/{name}"));
        fake.kind().source_errors.insert(name.into(), error);
        sources.push(listener);
    }
    let bridge = Bridge::new("go2rtc", &server, &fake, "g1", &[]);
    for (name, _, code) in table {
        looking(
            &format!("{name} has its error"),
            || stats_of(&server, name)["error"]["code"].clone(),
            |seen| *seen == code,
        );
        wait_for_status(&server, name, "waiting");
        let text = stats_of(&server, name)["error"]["text"].to_string();
        assert!(!text.contains("u:p"), "no credentials: {text}");
    }
    drop((bridge, sources));
}

#[test]
fn node_media_server_relays_follow() {
    let server = TestServer::new();
    let mut fake = FakeServer::new(FakeNodeMediaServer::default());
    let directory = tempfile::tempdir().expect("a scratch directory");
    let password = directory.path().join("password");
    fs::write(&password, FakeNodeMediaServer::PASSWORD).expect("a file");
    let more = ["--password-file", password.to_str().expect("UTF-8")];
    save_streamers(&server, &["n1"]);
    save_stream(&server, "n1", "a", "rtmp://10.0.0.1/live/a");
    save_stream(&server, "n1", "app/b", "rtsp://10.0.0.2/b");
    save_stream(&server, "n1", "asked", "rtsp://10.0.0.3/b?channel=1");
    save_stream(&server, "n1", "dark", "rtmp://10.0.0.4/dark");
    fake.kind().ghosts.insert("/live/ghost".into());
    // One that an operator made and that reads back equal is adopted.
    fake.kind()
        .relays
        .insert("/live/a".into(), "rtmp://10.0.0.1/live/a".into());
    fake.kind().starts.insert("/live/a".into(), 1);
    let bridge = Bridge::new("node-media-server", &server, &fake, "n1", &more);
    wait_for_status(&server, "a", "running");
    wait_for_status(&server, "app/b", "running");
    // Bytes without a picture are no picture: it is started again once.
    wait_for_status(&server, "dark", "running");
    assert_eq!(fake.kind().starts["/live/dark"], 2);
    // A query in an RTSP URL fails there, so it is not given.
    wait_for_status(&server, "asked", "error");
    assert!(!fake.kind().relays.contains_key("/live/asked"));
    assert_eq!(fake.kind().starts["/live/a"], 1, "adopted without a call");

    save_stream(&server, "n1", "app/b", "rtsp://10.0.0.2/other");
    looking(
        "the relay has the other source",
        || fake.kind().relays.get("/app/b").cloned(),
        |source| source.as_deref() == Some("rtsp://10.0.0.2/other"),
    );
    fake.kind().expire_token();
    server.delete("/streams/a").expect(204);
    looking(
        "the adopted relay is removed",
        || fake.kind().relays.contains_key("/live/a"),
        |is_there| !is_there,
    );
    wait_for_requests(&fake, 12);
    assert!(fake.kind().logins <= 2, "{} logins", fake.kind().logins);
    // Relays start with the server; nothing is given twice, and what left meanwhile goes.
    fake.take_changes();
    fake.stop();
    bridge.wait_for_log("media server is down", 1);
    server.delete("/streams/dark").expect(204);
    fake.start();
    looking(
        "only what is wanted is left",
        || fake.kind().relays.keys().cloned().collect::<Vec<_>>(),
        |paths| *paths == ["/app/b"],
    );
    assert_eq!(
        fake.take_changes()
            .iter()
            .filter(|call| call.path.ends_with("/relay"))
            .count(),
        1
    );
}

#[test]
fn refused_login_is_not_repeated() {
    let server = TestServer::new();
    let fake = FakeServer::new(FakeNodeMediaServer::default());
    save_streamers(&server, &["n1"]);
    save_stream(&server, "n1", "a", "rtmp://10.0.0.1/live/a");
    let bridge = Bridge::new("node-media-server", &server, &fake, "n1", &[]);
    bridge.wait_for_log("cannot configure the media server", 1);
    wait_for_requests(&fake, 12);
    assert_eq!(fake.kind().logins, 1, "five wrong ones would lock it");
    assert_eq!(fake.kind().wrong_logins, 1);
}

#[test]
fn srs_is_called_with_its_login_and_reports_what_flows() {
    let server = TestServer::new();
    let directory = tempfile::tempdir().expect("a scratch directory");
    let (file, password) = (directory.path().join("i.conf"), directory.path().join("p"));
    fs::write(&password, "secret").expect("a file");
    let fake = FakeServer::new(FakeSrs::with_file(&file));
    fake.kind().login = Some("weir:secret");
    fake.kind().has_no_log_dir = true;
    save_streamers(&server, &["s1"]);
    save_stream(&server, "s1", "a", "rtmp://10.0.0.1/live/a");
    let text = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let (file, password) = (text(&file), text(&password));
    let more = ["--ingest-file", &*file];
    let bridge = Bridge::new("srs", &server, &fake, "s1", &more);
    bridge.wait_for_log("bridge starts", 1);
    wait_for_requests(&fake, 4);
    assert_eq!(fake.kind().reloads, 0, "not without its password");
    drop(bridge);
    let more = [&more[..], &["--user", "weir", "--password-file", &password]].concat();
    let bridge = Bridge::new("srs", &server, &fake, "s1", &more);
    looking(
        "the ingest is given",
        || fake.kind().ingests.len(),
        |count| *count == 1,
    );
    // Without a directory for its logs ffmpeg does not start: the file has it, and nothing flows.
    wait_for_status(&server, "a", "waiting");
    fake.kind().has_no_log_dir = false;
    wait_for_status(&server, "a", "running");
    drop(bridge);
}

#[test]
fn srs_ingests_are_one_file_and_one_reload() {
    let server = TestServer::new();
    let directory = tempfile::tempdir().expect("a scratch directory");
    let file = directory.path().join("ingest.conf");
    let mut fake = FakeServer::new(FakeSrs::with_file(&file));
    save_streamers(&server, &["s1"]);
    let more = ["--ingest-file", file.to_str().expect("UTF-8")];
    for number in 0..9 {
        let url = format!("rtmp://10.0.0.{number}/live/a?x={number}&y=1");
        save_stream(&server, "s1", &format!("s{number}"), &url);
    }
    save_stream(&server, "s1", "c/d", "rtsp://10.0.1.1/a");
    save_stream(&server, "s1", "evil", "rtmp://10.0.1.2/a\";}ffmpeg");
    let mut bridge = Bridge::new("srs", &server, &fake, "s1", &more);
    wait_for_status(&server, "c/d", "running");
    wait_for_status(&server, "s8", "running");
    wait_for_status(&server, "evil", "error");
    assert_eq!(
        stats_of(&server, "s8")["online_clients"],
        2,
        "without the publisher"
    );
    let first = fake.kind().reloads;
    assert!(first <= 3, "{first} reloads for ten streams");
    // More than the ten that a list shows by default.
    for number in 9..15 {
        let url = format!("rtmp://10.0.0.{number}/live/a");
        save_stream(&server, "s1", &format!("s{number}"), &url);
    }
    for number in 9..15 {
        wait_for_status(&server, &format!("s{number}"), "running");
    }
    save_stream(&server, "s1", "s3", "rtmp://10.0.0.3/live/other");
    server.delete("/streams/s4").expect(204);
    looking(
        "the file has the change",
        || {
            let kind = fake.kind();
            (
                kind.ingests.get("/live/s3").cloned(),
                kind.ingests.contains_key("/live/s4"),
            )
        },
        |(source, is_there)| source.as_deref() == Some("rtmp://10.0.0.3/live/other") && !is_there,
    );
    let starts: BTreeMap<String, usize> = fake.kind().starts.clone();
    let twice: Vec<&String> = starts
        .iter()
        .filter(|(_, n)| **n > 1)
        .map(|(n, _)| n)
        .collect();
    assert_eq!(twice, ["/live/s3"], "others are not touched");
    assert_eq!(fake.kind().refused, 0, "the file is never broken");
    // The bridge ends and starts; SRS starts again with the file.
    bridge.kill();
    fake.stop();
    fake.start();
    let ingests = fake.kind().ingests.clone();
    assert_eq!(ingests.len(), 15);
    bridge.start();
    wait_for_requests(&fake, 12);
    assert_eq!(fake.kind().ingests, ingests);
    drop(bridge);
}

#[test]
fn file_of_ingests_of_an_operator_is_not_overwritten() {
    let server = TestServer::new();
    let directory = tempfile::tempdir().expect("a scratch directory");
    let file = directory.path().join("ingest.conf");
    let own = "ingest mine { enabled on; }\n";
    fs::write(&file, own).expect("a file");
    let fake = FakeServer::new(FakeSrs::default());
    save_streamers(&server, &["s1"]);
    save_stream(&server, "s1", "a", "rtmp://10.0.0.1/live/a");
    let more = ["--ingest-file", file.to_str().expect("UTF-8")];
    let bridge = Bridge::new("srs", &server, &fake, "s1", &more);
    bridge.wait_for_log("not the bridge's own", 1);
    wait_for_requests(&fake, 12);
    assert_eq!(fs::read_to_string(&file).expect("it is there"), own);
    let streamer = server.get("/streamers/s1").expect(200).json();
    assert_eq!(streamer["hostname"], json!("s1"));
}
