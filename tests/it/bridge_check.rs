//! `weir bridge check` names what the configuration of a media server lacks, for each kind, and so
//! does the log of a bridge that runs.

use std::fs;

use serde_json::json;

use crate::bridges::{Bridge, looking};
use weir_testkit::fake::{
    FakeGo2rtc, FakeKind, FakeMediaMtx, FakeNodeMediaServer, FakeServer, FakeSrs, FakeWeir,
    unused_address,
};

/// A bridge with a hook at port 9100.
fn bridge<K: FakeKind>(
    kind: &str,
    weir: &FakeServer<FakeWeir>,
    server: &FakeServer<K>,
    more: &[&str],
) -> Bridge {
    let more = [&["--listen", "9100"], more].concat();
    Bridge::unstarted(kind, &weir.url(), server, "m1", &more)
}

/// What `weir bridge check` names as missing.
#[track_caller]
fn missing(bridge: &Bridge) -> Vec<String> {
    let (code, printed) = bridge.run(&["check"], &[]);
    let lines = printed.lines();
    let missing = lines.filter_map(|line| line.trim().strip_prefix("MISSING "));
    let missing: Vec<String> = missing.map(str::to_owned).collect();
    assert_eq!(code, Some(i32::from(!missing.is_empty())), "{printed}");
    missing
}

#[track_caller]
fn assert_missing(bridge: &Bridge, expected: &[&str]) {
    let found = missing(bridge);
    let mut pairs = found.iter().zip(expected);
    let is_same = pairs.all(|(found, begin)| found.starts_with(begin));
    assert!(
        is_same && found.len() == expected.len(),
        "{found:?} is not {expected:?}"
    );
}

#[test]
fn check_names_what_mediamtx_lacks() {
    let weir = FakeServer::new(FakeWeir::default());
    let server = FakeServer::new(FakeMediaMtx::default());
    let bridge = bridge("mediamtx", &weir, &server, &[]);
    assert_missing(
        &bridge,
        &["authMethod: http with authHTTPAddress: http://127.0.0.1:9100;"],
    );
    server.kind().auth_http_address = "http://127.0.0.1:9101/auth".to_owned();
    assert_missing(&bridge, &["authMethod: http"]);
    server.kind().auth_http_address = "http://127.0.0.1:9100/auth".to_owned();
    server.kind().has_no_playback = true;
    assert_missing(&bridge, &[]);
    let recorded = json!({"name": "a", "inputs": [], "dvr": {"expiration": 60}});
    weir.kind().streams.insert("a".to_owned(), recorded);
    assert_missing(&bridge, &["playback: yes;"]);
}

#[test]
fn check_names_what_go2rtc_lacks() {
    let weir = FakeServer::new(FakeWeir::default());
    let server = FakeServer::new(FakeGo2rtc::default());
    let bridge = bridge("go2rtc", &weir, &server, &[]);
    assert_missing(&bridge, &["a configuration file (status 410)"]);
    let open = "a password of the API, or api: listen: 127.0.0.1:1984;";
    for (config, expected) in [
        ("", &[open][..]),
        ("api:\n  listen: \":1984\"\n", &[open]),
        ("rtsp:\n  password: x\napi:\n  origin: '*'\n", &[open]),
        ("# api:\n#  password: x\n", &[open]),
        ("api:\n  listen: \"127.0.0.1:1984\" # here\n", &[]),
        (
            "api:\n  username: a\n  password: \"b\"\nrtsp:\n  listen: \"\"\n",
            &[],
        ),
    ] {
        server.kind().config = Some(config);
        assert_missing(&bridge, expected);
    }
    assert!(!server.kind().is_dead, "calls overlapped");
}

#[test]
fn check_names_what_node_media_server_lacks() {
    let weir = FakeServer::new(FakeWeir::default());
    let server = FakeServer::new(FakeNodeMediaServer::default());
    let directory = tempfile::tempdir().expect("a scratch directory");
    let password = directory.path().join("password");
    fs::write(&password, FakeNodeMediaServer::PASSWORD).expect("a file");
    let more = ["--password-file", password.to_str().expect("UTF-8")];
    let bridge = bridge("node-media-server", &weir, &server, &more);
    // This version does not show its configuration.
    assert_missing(&bridge, &[]);
    server.kind().notify_url = Some(String::new());
    server.kind().signs_players = true;
    assert_missing(
        &bridge,
        &["notify.url: http://127.0.0.1:9100;", "auth.play: false;"],
    );
    server.kind().notify_url = Some("http://127.0.0.1:9100".to_owned());
    server.kind().signs_players = false;
    assert_missing(&bridge, &[]);
}

#[test]
fn check_names_what_srs_lacks() {
    let weir = FakeServer::new(FakeWeir::default());
    let directory = tempfile::tempdir().expect("a scratch directory");
    let at = |name: &str| directory.path().join(name);
    let ingests = at("ingest.conf");
    let server = FakeServer::new(FakeSrs::with_file(&ingests));
    let more = ["--ingest-file", ingests.to_str().expect("UTF-8")];
    let bridge = bridge("srs", &weir, &server, &more);
    server.kind().is_raw_off = true;
    // The file that it was started with is not on this machine.
    assert_missing(
        &bridge,
        &["http_api { raw_api { enabled on; allow_reload on; } };"],
    );
    server.kind().is_raw_off = false;
    server.kind().started_with = ("conf/srs.conf".into(), directory.path().to_owned());
    fs::create_dir(at("conf")).expect("a directory");
    let include = format!("include {};", ingests.display());
    let log = "ff_log_dir ./objs;\n";
    for (text, expected) in [
        (
            "vhost x { include other.conf; }\n# ff_log_dir y;\n",
            &[&*include, "ff_log_dir;", "on_play http://127.0.0.1:9100;"][..],
        ),
        (
            "vhost x {\n  include ./ingest.conf;\n http_hooks { on_play http://h:9101/x; }\n}\n",
            &["ff_log_dir;", "on_play"],
        ),
        (
            "vhost x { include ingest.conf; http_hooks { on_play http://127.0.0.1:9100; } }\n",
            &["ff_log_dir;"],
        ),
    ] {
        fs::write(at("conf/srs.conf"), text).expect("a file");
        assert_missing(&bridge, expected);
        fs::write(at("conf/srs.conf"), [text, log].concat()).expect("a file");
        let others: Vec<&str> = expected
            .iter()
            .copied()
            .filter(|it| *it != "ff_log_dir;")
            .collect();
        assert_missing(&bridge, &others);
    }
}

#[test]
fn running_bridge_logs_what_is_missing_once() {
    let weir = FakeServer::new(FakeWeir::default());
    let server = FakeServer::new(FakeMediaMtx::default());
    let listen = unused_address().to_string();
    let more = ["--listen", &listen];
    let mut bridge = Bridge::unstarted("mediamtx", &weir.url(), &server, "m1", &more);
    bridge.start();
    let text = "the media server lacks authMethod: http";
    bridge.wait_for_log(text, 1);
    let before = weir.kind().reports.len();
    looking(
        "reports go on",
        || weir.kind().reports.len(),
        |reports| *reports >= before + 2,
    );
    assert_eq!(bridge.log().matches(text).count(), 1);
}
