//! `weir bridge` between the real program and a fake MediaMTX: streams are given, changed and
//! removed, and nothing is touched in doubt.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::bridges::{Bridge, looking, save_stream, save_streamers, stats_of};
use crate::restricted::token;
use weir_testkit::fake::{FakeFault, FakeMediaMtx, FakeServer};
use weir_testkit::{TestServer, encode_segment, run, wait_until};

type Fake = FakeServer<FakeMediaMtx>;

fn fake() -> Fake {
    FakeServer::new(FakeMediaMtx::default())
}

/// Waits until the server has these paths with these sources.
#[track_caller]
fn wait_for_paths(fake: &Fake, expected: &[(&str, &str)]) {
    let pairs = expected.iter();
    let pairs = pairs.map(|(name, source)| ((*name).to_owned(), (*source).to_owned()));
    let expected: BTreeMap<String, String> = pairs.collect();
    looking(
        &format!("the server has {expected:?}"),
        || fake.kind().paths.clone(),
        |paths| *paths == expected,
    );
}

/// Waits until the bridge has looked at the server several times since.
fn wait_for_looks(fake: &Fake) {
    let before = fake.request_count();
    looking(
        "the bridge looks again",
        || fake.request_count(),
        |count| *count >= before + 12,
    );
}

#[test]
fn bridge_gives_changes_and_removes_streams() {
    let server = TestServer::new();
    let fake = fake();
    save_streamers(&server, &["m1"]);
    save_stream(&server, "m1", "a", "rtsp://10.0.0.1/a?x=1");
    save_stream(&server, "m1", "dir/b ü", "rtmp://10.0.0.2/b");
    save_stream(&server, "m1", "own", "publish://");
    let bridge = Bridge::new("mediamtx", &server, &fake, "m1", &[]);
    let second = "dir/b_x20__xC3BC_";
    wait_for_paths(
        &fake,
        &[
            ("a", "rtsp://10.0.0.1/a?x=1"),
            (second, "rtmp://10.0.0.2/b"),
            ("own", "publisher"),
        ],
    );
    let running = |name: &str| stats_of(&server, name)["status"] == "running";
    looking(
        "both streams run",
        || (running("a"), running("dir/b ü")),
        |(first, second)| *first && *second,
    );
    assert_eq!(stats_of(&server, "own")["status"], "waiting");
    assert_eq!(stats_of(&server, "a")["online_clients"], 1);
    assert!(stats_of(&server, "a")["error"].is_null());
    fake.take_changes();

    // What the server does not use is no change for it.
    server
        .put("/streams/a", json!({"title": "A", "labels": {"x": "y"}}))
        .expect(200);
    server
        .put("/streams/a", json!({"dvr": {"expiration": 60}}))
        .expect(200);
    save_stream(&server, "m1", "dir/b ü", "rtmp://10.0.0.2/other");
    wait_for_paths(
        &fake,
        &[
            ("a", "rtsp://10.0.0.1/a?x=1"),
            (second, "rtmp://10.0.0.2/other"),
            ("own", "publisher"),
        ],
    );
    server.delete("/streams/own").expect(204);
    wait_for_paths(
        &fake,
        &[
            ("a", "rtsp://10.0.0.1/a?x=1"),
            (second, "rtmp://10.0.0.2/other"),
        ],
    );
    // A recording, which no bridge configures, is an error of a stream that runs.
    let seen = looking(
        "the missing recording is reported",
        || stats_of(&server, "a"),
        |stats| stats["error"]["code"] == "dvr_not_supported",
    );
    assert_eq!(seen["status"], "running");
    let changes = fake.take_changes();
    assert_eq!(changes.len(), 2, "one change and one removal: {changes:?}");
    assert_eq!(fake.kind().overlapping_changes, 0, "one write at a time");
    assert_eq!(fake.kind().starts["a"], 1);
    drop(bridge);
}

#[test]
fn bridge_joins_with_the_right_of_a_token() {
    let server = TestServer::new();
    let fake = fake();
    let permission = json!({
        "scopes": ["streamers/mtx-*"], "read": true, "write": true, "execute": true,
    });
    let bearer = token(&server, "join", json!({"permissions": [permission]}));
    let directory = tempfile::tempdir().expect("a scratch directory");
    let file = directory.path().join("token");
    fs::write(&file, bearer.trim_start_matches("Bearer ")).expect("a file");
    let path = file.to_str().expect("UTF-8");
    let more = [
        "--join-token-file",
        path,
        "--labels",
        "zone=north",
        "--channel-limit",
        "40",
        "--host",
        "10.1.2.3",
    ];
    let mut bridge = Bridge::new("mediamtx", &server, &fake, "mtx-7", &more);
    let saved = wait_until(
        "the streamer is saved",
        || server.get("/streamers/mtx-7"),
        |answer| answer.status == 200,
    );
    let saved = saved.json();
    assert_eq!(saved["labels"], json!({"zone": "north"}));
    assert_eq!(saved["channel_limit"], 40);
    assert_eq!(saved["kind"], "mediamtx");
    let port = fake.media().rsplit(':').next().expect("a port").to_owned();
    let payload = format!("rtsp://10.1.2.3:{port}");
    assert_eq!(saved["private_payload_url"], payload);
    let playlist = "http://10.1.2.3:8888/{native}/index.m3u8";
    assert_eq!(saved["play_urls"], json!({"index.m3u8": playlist}));
    save_stream(&server, "mtx-7", "a", "rtsp://10.0.0.1/a");
    wait_for_paths(&fake, &[("a", "rtsp://10.0.0.1/a")]);
    let key = |server: &TestServer| {
        let streamer = server.get("/streamers/mtx-7").expect(200).json();
        streamer["cluster_key"].clone()
    };
    let first = key(&server);

    // A deleted streamer does not save itself again, and goes on with its streams.
    server.delete("/streams/a").expect(204);
    save_stream(&server, "mtx-7", "b", "rtsp://10.0.0.1/b");
    wait_for_paths(&fake, &[("b", "rtsp://10.0.0.1/b")]);
    server
        .put("/streams/b", json!({"layout": null}))
        .expect(200);
    wait_for_paths(&fake, &[]);
    save_stream(&server, "mtx-7", "b", "rtsp://10.0.0.1/b");
    wait_for_paths(&fake, &[("b", "rtsp://10.0.0.1/b")]);
    bridge.terminate();
    fake.take_changes();
    server.delete("/streamers/mtx-7").expect(204);
    let refused = "no configuration from Weir";
    let before = bridge.log().matches(refused).count();
    bridge.start();
    bridge.wait_for_log(refused, before + 1);
    assert_eq!(server.get("/streamers/mtx-7").status, 404);
    assert!(fake.take_changes().is_empty(), "streams go on");
    bridge.terminate();

    let (code, printed) = bridge.run(&[], &["--rejoin", "--once"]);
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!(key(&server), first, "the key of the first time");
    let state = fs::metadata(bridge.state_path("mtx-7")).expect("the state is kept");
    let mode = std::os::unix::fs::PermissionsExt::mode(&state.permissions());
    assert_eq!(mode & 0o777, 0o600, "it holds passwords");
}

#[test]
fn bridge_that_never_knew_makes_no_change() {
    // Weir is away, and there is no file: the paths of an operator stay.
    let fake = fake();
    fake.kind()
        .paths
        .insert("mine".into(), "rtsp://10.0.0.9/m".into());
    let nowhere = weir_testkit::fake::unused_address();
    let weir = format!("http://{nowhere}");
    let mut bridge = Bridge::unstarted("mediamtx", &weir, &fake, "m1", &["--exclusive"]);
    bridge.start();
    bridge.wait_for_log("no configuration from Weir", 1);
    wait_for_looks(&fake);
    bridge.kill();
    // A torn file is no knowledge either.
    let path = bridge.state_path("m1");
    fs::write(
        &path,
        "weir-bridge 1 0000000000000000\n{\"wanted\":{},\"owned\":{}}\n",
    )
    .expect("a file");
    bridge.start();
    bridge.wait_for_log("unreadable", 1);
    bridge.wait_for_log("no configuration from Weir", 2);
    wait_for_looks(&fake);
    assert!(fake.take_changes().is_empty());
}

#[test]
fn nothing_stops_or_restarts_while_parts_are_away() {
    let mut server = TestServer::new();
    let mut fake = fake();
    save_streamers(&server, &["m1"]);
    for name in ["a", "b", "c"] {
        save_stream(&server, "m1", name, &format!("rtsp://10.0.0.1/{name}"));
    }
    let given = ["a", "b", "c"].map(|name| (name, format!("rtsp://10.0.0.1/{name}")));
    let given: Vec<(&str, &str)> = given.iter().map(|(name, url)| (*name, &**url)).collect();
    let mut bridge = Bridge::new("mediamtx", &server, &fake, "m1", &[]);
    wait_for_paths(&fake, &given);
    fake.take_changes();
    for _ in 0..3 {
        bridge.kill();
        bridge.start();
        bridge.wait_for_log("bridge starts", 1);
        wait_for_looks(&fake);
    }
    bridge.terminate();
    server.kill();
    bridge.start();
    bridge.wait_for_log("no configuration from Weir", 1);
    wait_for_looks(&fake);
    assert!(fake.take_changes().is_empty(), "no call without a change");
    // Both are away and the media server starts again: it runs what was wanted last.
    bridge.kill();
    fake.stop();
    fake.start();
    bridge.start();
    wait_for_paths(&fake, &given);
    // The answers of Weir that are none change nothing.
    fake.take_changes();
    server.start();
    wait_for_looks(&fake);
    assert!(fake.take_changes().is_empty());
}

#[test]
fn answers_of_the_server_that_are_none_change_nothing() {
    let server = TestServer::new();
    let mut fake = fake();
    save_streamers(&server, &["m1"]);
    save_stream(&server, "m1", "a", "rtsp://10.0.0.1/a");
    let bridge = Bridge::new("mediamtx", &server, &fake, "m1", &[]);
    wait_for_paths(&fake, &[("a", "rtsp://10.0.0.1/a")]);
    fake.take_changes();
    for fault in [
        FakeFault::Status(500),
        FakeFault::Status(401),
        FakeFault::Garbage,
        FakeFault::Cut,
        FakeFault::Redirect,
        FakeFault::Huge,
    ] {
        fake.set_fault(Some(fault));
        let before = fake.request_count();
        looking(
            "the bridge calls the server",
            || fake.request_count(),
            |count| *count >= before + 3,
        );
        fake.set_fault(None);
        wait_for_looks(&fake);
        let changes = fake.take_changes();
        assert!(changes.is_empty(), "{fault:?}: {changes:?}");
    }
    // A list that lacks everything once is not believed.
    fake.kind().lies = 1;
    wait_for_looks(&fake);
    assert_eq!(fake.kind().lies, 0);
    assert!(fake.take_changes().is_empty());
    // The API refuses connections and media flows: the streamer stays, and says why.
    fake.stop_api();
    let status = |server: &TestServer| {
        let streamer = server.get("/streamers/m1").expect(200).json();
        streamer["stats"]["config_external_status"].clone()
    };
    let seen = looking(
        "an error is reported",
        || status(&server),
        |status| status["status"] == "error",
    );
    assert_eq!(seen["while"], "refresh");
    fake.start_api();
    looking(
        "the error is over",
        || status(&server),
        |status| status["status"] == "loaded",
    );
    assert!(fake.take_changes().is_empty());
    drop(bridge);
}

#[test]
fn file_describes_several_servers_of_one_process() {
    let server = TestServer::new();
    let fakes = [fake(), fake()];
    save_streamers(&server, &["m1", "m2"]);
    for (i, hostname) in ["m1", "m2"].iter().enumerate() {
        save_stream(&server, hostname, &format!("s{i}"), "rtsp://10.0.0.1/a");
    }
    let directory = tempfile::tempdir().expect("a scratch directory");
    let at = |name: &str| directory.path().join(name);
    let mut text = format!(
        "kind = \"mediamtx\"\ncentral = \"http://{}\"\nstate_dir = {:?}\n",
        server.address(),
        at("state")
    );
    for (hostname, fake) in ["m1", "m2"].iter().zip(&fakes) {
        let key = at(hostname);
        fs::write(&key, format!("key-{hostname}\n")).expect("a file");
        text.push_str(&format!(
            "[[server]]\nhostname = {hostname:?}\napi = {:?}\nmedia = {:?}\ncluster_key_file = {key:?}\n",
            fake.url(),
            fake.media()
        ));
    }
    let file = at("bridge.toml");
    fs::write(&file, &text).expect("a file");
    let path = file.to_str().expect("UTF-8");
    let bridge = |arguments: &[&str], environment: &[(&str, &str)]| {
        let arguments = [&["bridge", "--config", path], arguments].concat();
        let output = run(&arguments, environment, directory.path());
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed).into_owned();
        (output.status.code(), printed)
    };
    let (code, printed) = bridge(&["--once"], &[]);
    assert_eq!(code, Some(0), "{printed}");
    wait_for_paths(&fakes[0], &[("s0", "rtsp://10.0.0.1/a")]);
    wait_for_paths(&fakes[1], &[("s1", "rtsp://10.0.0.1/a")]);

    // What belongs to one server cannot be given for all, and nothing is guessed.
    let of_one = [("WEIR_BRIDGE_HOSTNAME", "m1")];
    for (arguments, environment, expected) in [
        (
            &["--hostname", "m1"][..],
            &[][..],
            "belongs into the [[server]] tables",
        ),
        (&[], &of_one, "belongs into the [[server]] tables"),
        (
            &[],
            &[("WEIR_BRIDGE_HOST_NAME", "m1")],
            "WEIR_BRIDGE_HOST_NAME is no option",
        ),
    ] {
        let (code, printed) = bridge(arguments, environment);
        assert!(
            code != Some(0) && printed.contains(expected),
            "{expected}: {printed}"
        );
    }
    for (wrong, expected) in [
        ("server = 1\n".to_owned(), "server must be [[server]]"),
        (
            text.replace("hostname = \"m2\"", "hostname = \"m1\""),
            "is that of two servers",
        ),
        (format!("keeps = \"x\"\n{text}"), "\"keeps\" is no option"),
        (
            format!("keep = [1]\n{text}"),
            "keep must be a text, a number or a switch",
        ),
        (format!("config = \"x\"\n{text}"), "\"config\" is no option"),
        (format!("{text}keep =\n"), "bridge.toml line 14: "),
    ] {
        fs::write(&file, wrong).expect("a file");
        let (code, printed) = bridge(&[], &[]);
        assert!(
            code != Some(0) && printed.contains(expected),
            "{expected}: {printed}"
        );
    }
}

#[test]
fn hung_server_is_dead_although_its_ports_accept() {
    let server = TestServer::new();
    let fake = fake();
    save_streamers(&server, &["m1"]);
    save_stream(&server, "m1", "a", "rtsp://10.0.0.1/a");
    let bridge = Bridge::new("mediamtx", &server, &fake, "m1", &[]);
    wait_for_paths(&fake, &[("a", "rtsp://10.0.0.1/a")]);
    fake.take_changes();
    fake.set_frozen(true);
    bridge.wait_for_log("media server is down", 1);
    fake.set_frozen(false);
    bridge.wait_for_log("media server is up", 2);
    wait_for_looks(&fake);
    assert!(fake.take_changes().is_empty(), "its streams went on");
}

#[test]
fn foreign_streams_and_hostile_urls_are_left_alone() {
    let server = TestServer::new();
    let fake = fake();
    fake.kind()
        .paths
        .insert("mine".into(), "rtsp://10.0.0.9/m".into());
    save_streamers(&server, &["m1"]);
    save_stream(&server, "m1", "mine", "rtsp://10.0.0.1/a");
    save_stream(&server, "m1", "evil", "rtsp://10.0.0.1/a\";}");
    save_stream(&server, "m1", "file", "file://vod/a.mp4");
    save_stream(&server, "m1", "good", "rtsp://10.0.0.1/g");
    let bridge = Bridge::new("mediamtx", &server, &fake, "m1", &[]);
    let paths = [("good", "rtsp://10.0.0.1/g"), ("mine", "rtsp://10.0.0.9/m")];
    wait_for_paths(&fake, &paths);
    wait_for_looks(&fake);
    let changes = fake.take_changes();
    assert_eq!(changes.len(), 1, "{changes:?}");
    for name in ["evil", "file"] {
        let status = looking(
            &format!("{name} is in error"),
            || stats_of(&server, name)["status"].clone(),
            |status| *status == "error",
        );
        assert_eq!(status, "error");
    }
    // A stream that leaves Weir takes nothing foreign with it.
    for name in ["mine", "evil", "file", "good"] {
        server.delete(&format!("/streams/{name}")).expect(204);
    }
    wait_for_paths(&fake, &[("mine", "rtsp://10.0.0.9/m")]);
    drop(bridge);
}

#[test]
fn recordings_follow_without_a_restart() {
    let server = TestServer::new();
    let mut fake = fake();
    save_streamers(&server, &["m1"]);
    let put = |name: &str, dvr: Value| {
        let path = format!("/streams/{name}");
        server.put(&path, json!({"dvr": dvr})).expect(200);
    };
    for name in ["a", "b", "c", "evil"] {
        save_stream(&server, "m1", name, &format!("rtsp://10.0.0.1/{name}"));
    }
    put("b", json!({"root": "/rec/b", "expiration": 86400}));
    put("c", json!({"expiration": 60}));
    put("evil", json!({"root": "/rec/../etc", "expiration": 60}));
    let records = |expected: &[(&str, &str, u64)]| {
        let pairs = expected.iter().map(|(name, root, seconds)| {
            let path = format!("{root}/%path/%Y-%m-%d_%H-%M-%S-%f");
            ((*name).to_owned(), (path, *seconds))
        });
        let expected: BTreeMap<String, (String, u64)> = pairs.collect();
        looking(
            &format!("the server records {expected:?}"),
            || fake.kind().records.clone(),
            |records| *records == expected,
        );
    };
    let mut bridge = Bridge::new("mediamtx", &server, &fake, "m1", &["--record-dir", "/rec/"]);
    records(&[("b", "/rec/b", 86400), ("c", "/rec", 60)]);
    looking(
        "a stream that cannot be recorded runs",
        || stats_of(&server, "evil"),
        |stats| stats["status"] == "running" && stats["error"]["code"] == "dvr_not_supported",
    );
    fake.take_changes();
    put("a", json!({"expiration": 7200}));
    records(&[
        ("a", "/rec", 7200),
        ("b", "/rec/b", 86400),
        ("c", "/rec", 60),
    ]);
    put("b", Value::Null);
    records(&[("a", "/rec", 7200), ("c", "/rec", 60)]);
    server.delete("/streams/c").expect(204);
    records(&[("a", "/rec", 7200)]);
    wait_for_looks(&fake);
    bridge.terminate();
    bridge.start();
    bridge.wait_for_log("media server is up", 2);
    wait_for_looks(&fake);
    let changes = fake.take_changes();
    let paths: Vec<&str> = changes.iter().map(|call| &*call.path).collect();
    let expected = ["replace/a", "replace/b", "delete/c"];
    let expected = expected.map(|call| format!("/v3/config/paths/{call}"));
    assert_eq!(
        paths, expected,
        "no recording is deleted, nothing else is touched"
    );
    let starts = fake.kind().starts.clone();
    assert!(starts.values().all(|starts| *starts == 1), "{starts:?}");
    // A server that starts again records again.
    fake.stop();
    bridge.wait_for_log("media server is down", 1);
    fake.start();
    let seen = looking(
        "it records again",
        || fake.kind().records.clone(),
        |records| records.len() == 1,
    );
    assert!(seen.contains_key("a"));
}

#[test]
fn inputs_of_open_servers_are_given() {
    let server = TestServer::new();
    let fake = fake();
    save_streamers(&server, &["m1"]);
    let streams = [
        ("cast", "udp+mpegts://239.0.0.1:5000"),
        ("web", "wheps://10.0.0.1/web/whep"),
        ("flv", "http://10.0.0.1/live/a.flv"),
    ];
    for (name, url) in streams {
        save_stream(&server, "m1", name, url);
    }
    // What MediaMTX does not take is left to the next input, and is an error without one.
    let inputs = json!([{"url": "rist://10.0.0.2:5000"}, {"url": "rtsp://10.0.0.2/b"}]);
    let body = json!({"inputs": inputs, "layout": {"ingest": "m1"}});
    server.put("/streams/second", body).expect(200);
    save_stream(&server, "m1", "camera", "onvif://10.0.0.3");
    let bridge = Bridge::new("mediamtx", &server, &fake, "m1", &[]);
    let second = [("second", "rtsp://10.0.0.2/b")];
    wait_for_paths(&fake, &[&streams[..], &second].concat());
    looking(
        "the camera has its error",
        || stats_of(&server, "camera")["error"]["code"].clone(),
        |code| *code == "no_input_for_this_server",
    );
    drop(bridge);
}

#[test]
fn nothing_is_made_that_cannot_be_recorded() {
    let server = TestServer::new();
    let fake = fake();
    save_streamers(&server, &["m1"]);
    save_stream(&server, "m1", "a", "rtsp://10.0.0.1/a");
    let weir = format!("http://{}", server.address());
    let mut bridge = Bridge::unstarted("mediamtx", &weir, &fake, "m1", &[]);
    // Where the new file would be written is a directory, as good as a full disk.
    let blocked = bridge.state_path("m1").with_extension("bridge.tmp");
    fs::create_dir_all(blocked.join("x")).expect("a directory");
    bridge.start();
    bridge.wait_for_log("cannot write the state", 1);
    wait_for_looks(&fake);
    assert!(
        fake.take_changes().is_empty(),
        "what is not recorded is not made"
    );
    fs::remove_dir_all(&blocked).expect("it is there");
    wait_for_paths(&fake, &[("a", "rtsp://10.0.0.1/a")]);
    drop(bridge);
}

#[test]
fn exclusive_bridge_takes_over_all_but_what_it_keeps() {
    let server = TestServer::new();
    let fake = fake();
    for name in ["mine", "old", "keep-1"] {
        fake.kind()
            .paths
            .insert(name.into(), "rtsp://10.0.0.9/m".into());
    }
    save_streamers(&server, &["m1"]);
    save_stream(&server, "m1", "mine", "rtsp://10.0.0.1/a");
    let more = ["--exclusive", "--keep", "keep-*"];
    let bridge = Bridge::new("mediamtx", &server, &fake, "m1", &more);
    let paths = [
        ("keep-1", "rtsp://10.0.0.9/m"),
        ("mine", "rtsp://10.0.0.1/a"),
    ];
    wait_for_paths(&fake, &paths);
    drop(bridge);
}

#[test]
fn old_server_that_does_not_replace_is_given_streams() {
    let server = TestServer::new();
    let fake = fake();
    fake.kind().is_old = true;
    save_streamers(&server, &["m1"]);
    for number in 0..7 {
        let url = format!("rtsp://10.0.0.{number}/a");
        save_stream(&server, "m1", &format!("s{number}"), &url);
    }
    let bridge = Bridge::new("mediamtx", &server, &fake, "m1", &[]);
    looking(
        "all are there",
        || fake.kind().paths.len(),
        |count| *count == 7,
    );
    looking(
        "old counters are read",
        || stats_of(&server, "s0")["status"].clone(),
        |status| *status == "running",
    );
    drop(bridge);
}

#[test]
fn one_round_can_be_shown_checked_and_made() {
    let server = TestServer::new();
    let mut fake = fake();
    save_streamers(&server, &["m1"]);
    save_stream(&server, "m1", "a", "rtsp://user:canary@10.0.0.1/a?p=canary");
    let weir = format!("http://{}", server.address());
    let bridge = Bridge::unstarted("mediamtx", &weir, &fake, "m1", &[]);
    let (code, printed) = bridge.run(&[], &["--dry-run"]);
    assert_eq!(code, Some(0), "{printed}");
    assert!(
        printed.contains("add a from rtsp://10.0.0.1/a\n"),
        "{printed}"
    );
    let (code, printed) = bridge.run(&["check"], &[]);
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("Weir has 1 streams"), "{printed}");
    assert!(fake.take_changes().is_empty());
    let (code, printed) = bridge.run(&[], &["--once"]);
    assert_eq!(code, Some(0), "{printed}");
    let path = ("a", "rtsp://user:canary@10.0.0.1/a?p=canary");
    wait_for_paths(&fake, &[path]);
    assert_eq!(fake.take_changes().len(), 1);
    let (code, printed) = bridge.run(&[], &["--once"]);
    assert_eq!(code, Some(0), "{printed}");
    assert!(fake.take_changes().is_empty(), "nothing is left to do");
    fake.stop();
    let (code, printed) = bridge.run(&["check"], &[]);
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("MISSING"), "{printed}");
    assert!(!printed.contains("canary"), "no credentials: {printed}");
}

#[test]
fn streams_of_a_dead_server_move_and_move_back_once() {
    // The layouter learns of the death from silence, and the parked poll does not hide it.
    let server = TestServer::with(&["--layouter-enabled", "--streamer-dead-timeout", "10s"]);
    let (mut first, second) = (fake(), fake());
    save_streamers(&server, &["m1", "m2"]);
    let bridges = [
        Bridge::new("mediamtx", &server, &first, "m1", &[]),
        Bridge::new("mediamtx", &server, &second, "m2", &[]),
    ];
    for number in 0..4 {
        let name = format!("s{number}");
        let body = json!({"inputs": [{"url": format!("rtsp://10.0.0.{number}/a")}]});
        let path = format!("/streams/{}", encode_segment(&name));
        server.put(&path, body).expect(200);
    }
    let count = |fake: &Fake| fake.kind().paths.len();
    looking(
        "all streams run",
        || (count(&first), count(&second)),
        |(first, second)| first + second == 4,
    );
    first.stop();
    looking(
        "the streams of the dead server are on the other",
        || count(&second),
        |count| *count == 4,
    );
    // It comes back with nothing, and is given nothing that runs elsewhere.
    first.take_changes();
    first.start();
    bridges[0].wait_for_log("media server is up", 2);
    let placed = |server: &TestServer| {
        let list = server
            .get("/streams?select=name,layout.ingest")
            .expect(200)
            .json();
        let streams = list["streams"].as_array().cloned().unwrap_or_default();
        let hosts = streams
            .iter()
            .map(|stream| stream["layout"]["ingest"].clone());
        hosts.filter(|host| host.as_str() == Some("m1")).count()
    };
    looking(
        "each stream is on one server",
        || (count(&first), count(&second), placed(&server)),
        |(first, second, placed)| first + second == 4 && first == placed,
    );
}
