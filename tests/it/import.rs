//! `weir import` against the real server: the streams of a playlist are stored afterwards, once,
//! and a second run changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use weir_testkit::{API_KEY, TestServer, encode_segment, run};

/// Every nastiness of the playlists we met.
const NASTY: &[u8] = include_bytes!("../../src/import/nasty.m3u8");

fn file(directory: &TempDir, bytes: &[u8]) -> PathBuf {
    let path = directory.path().join("list.m3u8");
    fs::write(&path, bytes).expect("a file");
    path
}

fn import(server: &TestServer, file: &Path, flags: &[&str]) -> Output {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let url = format!("http://{}", server.address());
    let mut arguments = vec![
        "import",
        file.to_str().expect("a path of text"),
        "--url",
        &url,
    ];
    if !flags.contains(&"--output") {
        arguments.extend(["--output", "json"]);
    }
    arguments.extend_from_slice(flags);
    run(&arguments, &[("CENTRAL_API_KEY", API_KEY)], scratch.path())
}

#[track_caller]
fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    })
}

/// The number of events.
fn events(server: &TestServer) -> Value {
    server.get("/events?limit=1").expect(200).json()["estimated_count"].clone()
}

/// A stream as it is stored, without what the server and the importer note about it.
fn stored(server: &TestServer, name: &str) -> Value {
    let path = format!("/streams/{}", encode_segment(name));
    let mut stream = server.get(&path).expect(200).json()["config_on_disk"].take();
    let members = stream.as_object_mut().expect("a stream");
    members.retain(|key, _| !["name", "updated_at", "meta"].contains(&key.as_str()));
    stream
}

/// One playlist per convention, and beside it what becomes of it.
#[test]
fn playlists_of_every_convention_are_read() {
    let server = TestServer::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/playlists");
    let mut playlists: Vec<PathBuf> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "m3u8")
        })
        .collect();
    playlists.sort();
    assert!(playlists.len() >= 18, "{playlists:?}");
    for path in playlists {
        let expected = fs::read(path.with_extension("json")).expect("what becomes of it");
        let expected: Value = serde_json::from_slice(&expected).expect("JSON");
        let stem = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("a name");
        let prefix = format!("{stem}/");
        let output = import(&server, &path, &["--prefix", &prefix]);
        assert_eq!(json!(output.status.code()), expected["exit"], "{stem}");
        let first = report(&output);
        let error = first["error"].as_str().unwrap_or_default();
        let wanted = expected["error"].as_str().unwrap_or_default();
        assert!(
            error.contains(wanted) && error.is_empty() == wanted.is_empty(),
            "{stem}: {error}"
        );
        let none = json!({});
        let skipped = expected.get("skipped").unwrap_or(&none);
        assert_eq!(&first["skipped_by_reason"], skipped, "{stem}: {first}");
        let ignored = expected["player_options_ignored"].as_u64().unwrap_or(0);
        assert_eq!(first["player_options_ignored"], ignored, "{stem}");
        let streams = expected["streams"].as_object().cloned().unwrap_or_default();
        let made: BTreeSet<&str> = first["changes"]
            .as_array()
            .expect("changes")
            .iter()
            .map(|change| change["name"].as_str().expect("a name"))
            .collect();
        let names: Vec<String> = streams
            .keys()
            .map(|name| format!("{prefix}{name}"))
            .collect();
        assert_eq!(made, names.iter().map(String::as_str).collect(), "{stem}");
        for (name, (_, stream)) in names.iter().zip(&streams) {
            assert_eq!(&stored(&server, name), stream, "{name}");
        }
        let (before, count) = (self::streams(&server), events(&server));
        let again = report(&import(&server, &path, &["--prefix", &prefix]));
        assert_eq!(again["unchanged"], streams.len(), "{stem}: {again}");
        assert_eq!(self::streams(&server), before, "{stem}: the same stamps");
        assert_eq!(events(&server), count, "{stem}: no event");
    }
}

#[test]
fn additions_of_an_operator_survive_a_changed_url() {
    let (server, scratch) = (TestServer::new(), tempfile::tempdir().expect("a directory"));
    let list = |url: &str| format!("#EXTINF:-1,One\n{url}\n#EXTINF:-1,Two\nudp://239.0.0.2:1\n");
    let import = |url: &str, flags: &[&str]| {
        let path = file(&scratch, list(url).as_bytes());
        report(&import(&server, &path, flags))
    };
    import("http://u:old@h/one.m3u8", &[]);
    let spare = json!({"url": "udp://239.0.0.9:1", "headers": {"X-Key": "secret"}});
    let body = json!({"comment": "mine", "inputs": [
        spare,
        {"url": "http://u:old@h/one.m3u8", "user_agent": "Mine", "headers": {"Cookie": "c"}},
    ]});
    server.put("/streams/One", body).expect(200);
    let inputs =
        |url: &str| json!([spare, {"url": url, "user_agent": "Mine", "headers": {"Cookie": "c"}}]);
    let dry = import("http://u:new@h/two.m3u8", &["--dry-run"]);
    let change = &dry["changes"][0];
    assert_eq!(dry["changes"].as_array().map(Vec::len), Some(1), "{dry}");
    assert_eq!(
        (&change["before"], &change["after"]),
        (
            &json!({"inputs.1.url": "http://u:***@h/one.m3u8",
                    "meta.weir_import": "- http://u:***@h/one.m3u8"}),
            &json!({"inputs.1.url": "http://u:***@h/two.m3u8",
                    "meta.weir_import": "- http://u:***@h/two.m3u8"}),
        ),
        "every member that changes, and no other"
    );
    assert_eq!(
        stored(&server, "One")["inputs"],
        inputs("http://u:old@h/one.m3u8")
    );
    let done = import("http://u:new@h/two.m3u8", &[]);
    assert_eq!(
        (&done["changed"], &done["unchanged"]),
        (&json!(1), &json!(1))
    );
    let one = stored(&server, "One");
    assert_eq!(one["inputs"], inputs("http://u:new@h/two.m3u8"));
    assert_eq!(one["comment"], "mine");
}

#[test]
fn a_file_without_a_channel_fails_the_import() {
    let (server, scratch) = (TestServer::new(), tempfile::tempdir().expect("a directory"));
    let output = import(
        &server,
        &file(&scratch, b"<html>busy</html>"),
        &["--output", "table"],
    );
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        message.contains("list.m3u8 line 1: the file is an HTML page"),
        "{message}"
    );
}

/// Everything stored, walked page by page.
fn streams(server: &TestServer) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let page = server
            .get(&format!("/streams?limit=1000{cursor}"))
            .expect(200)
            .json();
        for stream in page["streams"].as_array().expect("streams") {
            let name = stream["name"].as_str().expect("a name").to_owned();
            assert!(
                all.insert(name.clone(), stream.clone()).is_none(),
                "{name} came twice"
            );
        }
        let Some(next) = page["next"].as_str() else {
            return all;
        };
        let next = encode_segment(next);
        cursor = format!("&cursor={next}");
    }
}

#[test]
fn malformed_playlist_is_imported_once() {
    let (server, scratch) = (TestServer::new(), tempfile::tempdir().expect("a directory"));
    let path = file(&scratch, NASTY);
    let dry = import(&server, &path, &["--dry-run"]);
    assert!(dry.status.success());
    assert!(streams(&server).is_empty(), "--dry-run saved something");

    let first = import(&server, &path, &[]);
    assert!(
        first.status.success(),
        "{}",
        String::from_utf8_lossy(&first.stderr)
    );
    let (dry, first) = (report(&dry), report(&first));
    assert_eq!(
        first["changes"], dry["changes"],
        "the report matches the outcome"
    );
    assert_eq!(first["skipped"], dry["skipped"]);
    let stored = streams(&server);
    assert_eq!(first["created"], stored.len());
    let one = &stored["One.it"];
    assert_eq!(
        one["inputs"][0]["url"],
        "http://one.example.com/live/index.m3u8"
    );
    assert_eq!(one["labels"], json!({"country": "IT", "group": "Italy"}));
    // Only an administrator who reads the stream sees the password.
    let (name, delta) = stored
        .iter()
        .find(|(_, stream)| {
            stream["inputs"][0]["url"]
                .as_str()
                .is_some_and(|url| url.starts_with("rtsp:"))
        })
        .expect("an input with a password");
    assert_eq!(
        delta["inputs"][0]["url"],
        "rtsp://viewer:***@gr.example.com:554/delta"
    );
    let name = encode_segment(name);
    let full = server.get(&format!("/streams/{name}")).expect(200).json();
    assert_eq!(
        full["inputs"][0]["url"],
        "rtsp://viewer:hidden@gr.example.com:554/delta"
    );
    assert!(!first.to_string().contains("hidden"));
    // Nothing was left to the server to refuse: both use one check.
    for skipped in first["skipped"].as_array().expect("skipped") {
        let reason = skipped["reason"].as_str().expect("a reason");
        assert!(!reason.contains("the server refuses"), "{reason}");
    }

    let again = import(&server, &path, &[]);
    assert!(again.status.success());
    let again = report(&again);
    assert_eq!(
        (&again["created"], &again["changed"]),
        (&json!(0), &json!(0)),
        "{again}"
    );
    assert_eq!(again["unchanged"], stored.len());
    assert_eq!(streams(&server), stored, "the second run changed something");

    // Fields that an operator added stay, those of the file are restored.
    server
        .put(
            "/streams/One.it",
            json!({"title": "Mine", "comment": "kept", "labels": {"rack": "3"}}),
        )
        .expect(200);
    let third = report(&import(&server, &path, &[]));
    assert_eq!(
        (&third["created"], &third["changed"]),
        (&json!(0), &json!(1)),
        "{third}"
    );
    let one = server.get("/streams/One.it").json();
    assert_eq!(one["title"], stored["One.it"]["title"]);
    assert_eq!(
        (&one["comment"], &one["labels"]["rack"]),
        (&json!("kept"), &json!("3"))
    );
}

#[test]
fn strict_import_saves_everything_or_nothing() {
    let (server, scratch) = (TestServer::new(), tempfile::tempdir().expect("a directory"));
    let output = import(&server, &file(&scratch, NASTY), &["--strict"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(streams(&server).is_empty());
    // An error that only the server finds: a field that is not in the file no longer fits.
    let mut good = String::from("#EXTM3U\n");
    for i in 0..50 {
        good += &format!("#EXTINF:-1 tvg-id=\"c{i}\",Channel {i}\nudp://239.0.0.{i}:5000\n");
    }
    let output = import(
        &server,
        &file(&scratch, good.as_bytes()),
        &["--strict", "--prefix", "tv/"],
    );
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(streams(&server).len(), 50);
    assert_eq!(
        server.get("/streams/tv/c7").expect(200).json()["title"],
        "Channel 7"
    );
}

#[test]
fn rows_of_a_table_become_streams() {
    let (server, scratch) = (TestServer::new(), tempfile::tempdir().expect("a directory"));
    let path = scratch.path().join("list.CSV");
    let table = "name;title;url;url;label.zone;position;disabled;header.X-Key;template\n\
                 \"tv/1\";\"One; two\";udp://239.0.0.1:5000;udp://239.0.0.2:5000;north;7;true;k;\n\
                 ;Second;udp://239.0.0.3:5000;;;;false;;\n\
                 ;Second;udp://239.0.0.4:5000;;;;;;\n\
                 tv/1;Again;udp://239.0.0.5:5000;;;;;;\n\
                 tv/3;;udp://239.0.0.6:5000;;not a label;;;;\n";
    fs::write(&path, table).expect("a file");
    let first = import(&server, &path, &["--prefix", "x/"]);
    assert!(first.status.success(), "{first:?}");
    let first = report(&first);
    assert_eq!(first["created"], 3, "{first}");
    assert_eq!(
        first["skipped_by_reason"],
        json!({"duplicate_name": 1, "invalid_value": 1}),
        "{first}"
    );
    assert_eq!(
        stored(&server, "x/tv/1"),
        json!({
            "title": "One; two", "position": 7, "disabled": true, "labels": {"zone": "north"},
            "inputs": [
                {"url": "udp://239.0.0.1:5000", "headers": {"X-Key": "k"}},
                {"url": "udp://239.0.0.2:5000", "headers": {"X-Key": "k"}},
            ],
        })
    );
    let names: Vec<String> = streams(&server).into_keys().collect();
    assert_eq!(names, ["x/Second", "x/Second-2", "x/tv/1"]);
    let (before, count) = (streams(&server), events(&server));
    let again = report(&import(&server, &path, &["--prefix", "x/"]));
    assert_eq!(again["unchanged"], 3, "{again}");
    assert_eq!((streams(&server), events(&server)), (before, count));
    // Another stream has the address by now, and the name in the table decides.
    let other = json!({"inputs": [{"url": "udp://239.0.0.9:5000"}]});
    server.put("/streams/a-2", other).expect(200);
    fs::write(&path, "name,url\na,udp://239.0.0.9:5000\n").expect("a file");
    assert_eq!(report(&import(&server, &path, &[]))["created"], 1);
    // An own addition stays, an empty cell changes nothing.
    server
        .put(
            "/streams/a",
            json!({"title": "Mine", "labels": {"zone": "south"}}),
        )
        .expect(200);
    fs::write(
        &path,
        "name,url,title,label.rack\na,udp://239.0.0.8:5000,,3\n",
    )
    .expect("a file");
    assert_eq!(report(&import(&server, &path, &[]))["changed"], 1);
    assert_eq!(
        stored(&server, "a"),
        json!({"title": "Mine", "labels": {"rack": "3", "zone": "south"},
               "inputs": [{"url": "udp://239.0.0.8:5000"}]})
    );
}

#[test]
fn skipped_lines_are_grouped_with_five_examples_of_each() {
    let (server, scratch) = (TestServer::new(), tempfile::tempdir().expect("a directory"));
    let path = scratch.path().join("list.csv");
    let pages = (0..7).map(|at| format!("p{at},http://h/page{at}\n"));
    let table = format!(
        "name,url\n{}a,udp://239.0.0.1:1\nb,\n",
        pages.collect::<String>()
    );
    fs::write(&path, table).expect("a file");
    let words = |flags: &[&str]| {
        let flags = [&["--output", "table", "--dry-run"], flags].concat();
        let output = import(&server, &path, &flags);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    let some = words(&[]);
    let lines: Vec<&str> = some.lines().collect();
    assert_eq!(lines[0], "1 skipped: no_url");
    assert_eq!(lines[1], "  line 10: has no URL");
    assert_eq!(lines[2], "7 skipped: not_an_input");
    assert!(lines[7].starts_with("  line 6: "), "{some}");
    assert_eq!(lines[8], "  2 more; -v prints all");
    assert!(lines[9].starts_with("Write HLS"), "{some}");
    let all = words(&["-v"]);
    assert!(
        all.contains("  line 8: ") && !all.contains("more;"),
        "{all}"
    );
    assert_eq!(words(&["-q"]), "");
    // A server that is not there is reported before the file is.
    let scratch = scratch.path();
    let arguments = [
        "import",
        "missing.csv",
        "--url",
        "http://127.0.0.1:1",
        "--timeout",
        "5s",
    ];
    let output = run(&arguments, &[("CENTRAL_API_KEY", API_KEY)], scratch);
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        words.starts_with("weir: http://127.0.0.1:1/") && !words.contains("missing.csv"),
        "{words}"
    );
    assert_eq!(output.stdout, b"");
}

#[test]
fn ambiguous_names_and_addresses_stay_distinct() {
    let (server, scratch) = (TestServer::new(), tempfile::tempdir().expect("a directory"));
    let mut list = String::from("#EXTM3U\n");
    let titles = [
        "batch",
        "layouts",
        "layout",
        "preview_layout_change",
        "null",
        "undefined",
        "..",
        "a,b",
        "日本",
        "a/b",
    ];
    for title in titles {
        list += &format!("#EXTINF:-1,{title}\nudp://239.0.0.1:5000\n");
    }
    let urls = [
        "http://h/a b.m3u8",
        "http://h/a.mpd",
        "mms://h/a",
        "rtp://",
        "HTTP://h/a.m3u8",
        "http:///a.m3u8",
        "udp://h",
        "srt://h:1?streamid=a",
        "fake://fake",
        "file://vod/a.mp4",
        "publish://",
        "http://h/a.m3u8?x=%00",
    ];
    for (i, url) in urls.iter().enumerate() {
        list += &format!("#EXTINF:-1,url-{i}\n{url}\n");
    }
    let output = import(&server, &file(&scratch, list.as_bytes()), &[]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let reported = report(&output);
    for skipped in reported["skipped"].as_array().expect("skipped") {
        let reason = skipped["reason"].as_str().expect("a reason");
        assert!(
            !reason.contains("the server refuses"),
            "the importer let through what the server does not take: {reason}"
        );
    }
    let stored = streams(&server);
    for name in [
        "batch-2",
        "layouts-2",
        "layout-2",
        "preview_layout_change-2",
        "null-2",
        "undefined-2",
        "a-b",
        "a-b-2",
        "日本",
    ] {
        assert!(
            stored.contains_key(name),
            "{name} is missing in {:?}",
            stored.keys()
        );
    }
    // And nothing was held back that the server takes. A scheme in capitals is written in lower
    // case, which the server does not do.
    for (i, url) in urls
        .iter()
        .enumerate()
        .filter(|(_, url)| !url.starts_with("HTTP:"))
    {
        let taken = server
            .put(
                &format!("/streams/direct-{i}"),
                json!({"inputs": [{"url": url}]}),
            )
            .status
            == 200;
        assert_eq!(stored.contains_key(&format!("url-{i}")), taken, "{url}");
    }
}

#[test]
fn imported_playlist_is_placed_and_sent_to_streamers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/free-tv.m3u8");
    if !path.exists() {
        println!("skipped: {} is not here", path.display());
        return;
    }
    let server = TestServer::with(&["--io-threads", "2"]);
    let first = import(&server, &path, &[]);
    assert!(
        first.status.success(),
        "{}",
        String::from_utf8_lossy(&first.stderr)
    );
    let first = report(&first);
    let stored = streams(&server);
    assert!(
        stored.len() > 100,
        "{} of {}",
        stored.len(),
        first["channels"]
    );
    assert_eq!(first["created"], stored.len());
    for skipped in first["skipped"].as_array().expect("skipped") {
        let reason = skipped["reason"].as_str().expect("a reason");
        assert!(!reason.contains("the server refuses"), "{reason}");
    }
    let again = report(&import(&server, &path, &[]));
    assert_eq!(
        (&again["created"], &again["changed"]),
        (&json!(0), &json!(0))
    );

    let hosts = ["edge-1", "edge-2", "edge-3"];
    for host in hosts {
        let body =
            json!({"role": "streamer", "cluster_key": "k", "api_url": format!("http://{host}")});
        server.put(&format!("/streamers/{host}"), body).expect(200);
    }
    let layouts: Vec<Value> = stored
        .keys()
        .enumerate()
        .map(|(i, name)| json!({"name": name, "ingest": hosts[i % 3]}))
        .collect();
    server
        .post("/streams/layouts", json!({"layouts": layouts}))
        .expect(204);
    let mut received = BTreeSet::new();
    for (index, host) in hosts.iter().enumerate() {
        let list = server
            .get(&format!("/streamers/{host}/streams"))
            .expect(200)
            .json();
        let list = list["streams"].as_array().expect("streams");
        assert_eq!(list.len(), stored.keys().skip(index).step_by(3).count());
        for stream in list {
            let name = stream["name"].as_str().expect("a name");
            assert_eq!(stream["inputs"].as_array().map(Vec::len), Some(1), "{name}");
            assert!(
                received.insert(name.to_owned()),
                "two streamers receive {name}"
            );
        }
    }
    assert!(
        received.iter().eq(stored.keys()),
        "together they receive all of it"
    );
}
