//! Backups of a running server: one revision, whole or refused, and restored to the same documents.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::calls::{get_request, lay_out, save_node};
use crate::described::Document;
use crate::memory::metric;
use crate::offline::{fails, succeeds, weir};
use crate::round_trip::with_one_of_each_and;
use weir_testkit::{
    API_KEY, Client, ClientError, EDIT_AUTH, PREFIX, SetOnDrop, Signal, TestServer, program, run,
    sys, wait_until,
};

/// The body of a whole backup.
fn download(server: &TestServer) -> Vec<u8> {
    let response = server.get("/backup").expect(200);
    assert_eq!(response.header("Transfer-Encoding"), Some("chunked"));
    response.body
}

/// A backup of a server as a file.
fn stored(server: &TestServer, scratch: &Path) -> PathBuf {
    let file = scratch.join("backup");
    fs::write(&file, download(server)).expect("written");
    file
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Replaces the store of a stopped server.
#[track_caller]
fn restore(server: &TestServer, file: &Path) -> String {
    let scratch = file.parent().expect("a directory");
    let arguments = ["restore", text(file), "--force"];
    succeeds(&weir(&arguments, &server.data_dir(), scratch))
}

const COLLECTIONS: [(&str, &str, &str); 9] = [
    ("/streams", "streams", "name"),
    ("/streamers", "streamers", "hostname"),
    ("/agents", "agents", "id"),
    ("/episodes", "episodes", "episode_id"),
    ("/persons", "persons", "person_id"),
    ("/api_tokens", "api_tokens", "name"),
    ("/auth_backends", "auth_backends", "name"),
    ("/load-balancers", "balancers", "name"),
    ("/events", "events", "event_id"),
];

/// Every document by its path, without what is measured.
fn documents(server: &TestServer) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for (list, member, key) in COLLECTIONS {
        let page = server.get(&format!("{list}?limit=10000")).expect(200);
        let page = page.json();
        assert!(page["next"].is_null(), "{list} is longer than a page");
        let items = page[member].as_array();
        for item in items.unwrap_or_else(|| panic!("no {member}: {page}")) {
            let name = match &item[key] {
                Value::String(name) => name.clone(),
                other => other.to_string(),
            };
            let path = format!("{list}/{name}");
            let mut document = server.get(&path).expect(200).json();
            if let Some(members) = document.as_object_mut() {
                members.remove("stats");
            }
            all.insert(path, document);
        }
    }
    all
}

#[test]
fn restored_backup_has_every_document() {
    for log in ["append", "redb"] {
        let arguments = ["--storage-log", log];
        let mut server = with_one_of_each_and(&Document::new(), &arguments);
        for host in ["s1", "s2"] {
            save_node(&server, host);
        }
        for n in 0..300 {
            let comment = "x".repeat(n * 10);
            let body = json!({"inputs": [{"url": "fake://fake"}], "comment": comment});
            server.put(&format!("/streams/s{n}"), body).expect(200);
        }
        lay_out(&server, &[("s1", "s1"), ("s2", "s1")]);
        lay_out(&server, &[("s1", "s2")]);
        server.delete("/streams/s9").expect(204);
        let scratch = tempfile::tempdir().expect("a directory");
        let before = documents(&server);
        assert!(before.len() > 620, "{}", before.len());
        let history = server.get("/streams/s1/layouts").json()["layouts"].clone();
        let file = stored(&server, scratch.path());
        let checked = succeeds(&weir(
            &["check", text(&file)],
            scratch.path(),
            scratch.path(),
        ));
        assert!(checked.contains("all checksums are right"), "{checked}");
        server.put("/streams/later", json!({})).expect(200);
        server.kill();
        restore(&server, &file);
        server.start();
        let mut after = documents(&server);
        // The events of this start.
        after.retain(|path, _| !path.starts_with("/events/") || before.contains_key(path));
        assert_eq!(
            after.keys().collect::<Vec<_>>(),
            before.keys().collect::<Vec<_>>()
        );
        for (path, document) in &after {
            assert_eq!(document, &before[path], "{path}");
        }
        let restored = server.get("/streams/s1/layouts").json()["layouts"].clone();
        assert_eq!(restored, history);
    }
}

// -------------------------------------------------------------------------------------------------
// One revision

/// Saves a stream of this writer and its twin in one batch, again and again, with a number that
/// grows. `acknowledged` is the last that was answered.
fn write_pairs(server: &TestServer, writer: usize, acknowledged: &AtomicU64, until: &AtomicBool) {
    let mut client = server.connect();
    let mut number = 1;
    while !until.load(Ordering::Acquire) {
        let pair: Value = ["left", "right"]
            .iter()
            .map(|side| json!({"name": format!("{side}{writer}"), "position": number}))
            .collect();
        let body = pair.to_string();
        let path = format!("{PREFIX}/streams/batch");
        let key = format!("Bearer {API_KEY}");
        let fields = [("Authorization", key.as_str())];
        let answer = client.request("PUT", &path, &fields, body.as_bytes());
        answer.expect(204);
        acknowledged.store(number, Ordering::SeqCst);
        number += 1;
    }
}

/// The numbers of a pair in a server.
fn pair(server: &TestServer, writer: usize) -> [Option<u64>; 2] {
    ["left", "right"].map(|side| {
        let stream = server.get(&format!("/streams/{side}{writer}"));
        match stream.status {
            404 => None,
            _ => stream.expect(200).json()["position"].as_u64(),
        }
    })
}

#[test]
fn backup_under_eight_writers_is_of_one_revision() {
    const WRITERS: usize = 8;
    for (log, layouter) in [("append", "true"), ("redb", "false")] {
        let layouter = format!("--layouter-enabled={layouter}");
        let server = TestServer::with(&["--storage-log", log, &layouter]);
        save_node(&server, "s1");
        // So much that writers save while it is sent.
        let fill = |n: u32| json!({"name": format!("fill{n}"), "comment": "x".repeat(2000)});
        let fill: Value = (0..2000).map(fill).collect();
        server.put("/streams/batch", fill).expect(204);
        let acknowledged: Vec<AtomicU64> = (0..WRITERS).map(|_| AtomicU64::new(0)).collect();
        let until = AtomicBool::new(false);
        let numbers = || -> Vec<u64> {
            let all = acknowledged.iter();
            all.map(|number| number.load(Ordering::SeqCst)).collect()
        };
        let backups: Vec<(Vec<u64>, Vec<u8>, Vec<u64>)> = thread::scope(|scope| {
            for (writer, acknowledged) in acknowledged.iter().enumerate() {
                let (server, until) = (&server, &until);
                scope.spawn(move || write_pairs(server, writer, acknowledged, until));
            }
            let end = SetOnDrop(&until);
            wait_until("all writers write", numbers, |all| !all.contains(&0));
            let backups = (0..3).map(|_| (numbers(), download(&server), numbers()));
            let backups = backups.collect();
            drop(end);
            backups
        });
        for (before, bytes, after) in backups {
            assert!(before < after, "no writer wrote meanwhile: {before:?}");
            let scratch = tempfile::tempdir().expect("a directory");
            let file = scratch.path().join("backup");
            fs::write(&file, bytes).expect("written");
            let prepare = |data: &Path| {
                succeeds(&weir(&["restore", text(&file)], data, scratch.path()));
            };
            let restored = TestServer::on(prepare, &["--storage-log", log, &layouter]);
            for writer in 0..WRITERS {
                let [left, right] = pair(&restored, writer);
                assert_eq!(left, right, "a half of batch of writer {writer}");
                let number = left.expect("it was saved before");
                // One more than was acknowledged may be in the state already.
                let allowed = before[writer]..=after[writer] + 1;
                assert!(allowed.contains(&number), "{number} {allowed:?}");
            }
            restored.get("/streams/fill1999").expect(200);
        }
    }
}

/// What a streamer and a client know from a future that a restore takes back is refused or
/// answered whole, never taken for the present.
#[test]
fn readers_of_a_lost_future_start_again() {
    let mut server = TestServer::new();
    for host in ["s1", "s2"] {
        save_node(&server, host);
    }
    server
        .put("/streams/a", json!({"title": "old"}))
        .expect(200);
    server.put("/streams/b", json!({})).expect(200);
    lay_out(&server, &[("a", "s1")]);
    let scratch = tempfile::tempdir().expect("a directory");
    let file = stored(&server, scratch.path());
    // The future that is lost.
    server
        .put("/streams/a", json!({"title": "lost"}))
        .expect(200);
    lay_out(&server, &[("b", "s1")]);
    lay_out(&server, &[("b", "s2")]);
    for n in 0..20 {
        server.put("/streams/c", json!({"position": n})).expect(200);
    }
    let lost = server.get("/streams/c").json()["updated_at"].as_u64();
    let list = server.get("/streamers/s1/streams").expect(200);
    let tag = list.etag().expect("a tag").to_owned();
    let entity = server.get("/streams/a").etag().expect("a tag").to_owned();
    let revision = metric(&server, "weir_revision");
    server.kill();
    restore(&server, &file);
    server.start();
    // Every revision that was ever sent, known with a tag or without.
    assert!(metric(&server, "weir_revision") > revision);
    for since in [1, revision - 1, revision, revision + 1] {
        for (host, timeout) in [("s1", ""), ("s2", ""), ("s1", "&poll_timeout=5")] {
            let path = format!("/streamers/{host}/streams?changes_since={since}{timeout}");
            server.get(&path).expect(410);
        }
    }
    let known =
        |path: &str, tag: &str| server.call_with("GET", path, &[("If-None-Match", tag)], b"");
    let list = known("/streamers/s1/streams", &tag).expect(200).json();
    assert_eq!(list["streams"][0]["title"], "old");
    known("/streams/a", &entity).expect(200);
    let changed = [("If-Match", entity.as_str())];
    let refused = server.call_with("PUT", "/streams/a", &changed, b"{}");
    refused.expect(412);
    // A streamer that begins again has its deltas.
    let now = metric(&server, "weir_revision");
    server
        .put("/streams/a", json!({"title": "new"}))
        .expect(200);
    let path = format!("/streamers/s1/streams?changes_since={now}");
    let delta = server.get(&path).expect(200).json();
    assert_eq!(delta["streams"][0]["title"], "new");
    // A reader by stamps misses nothing that is saved from here on.
    let path = format!("/streams?updated_at_gt={}", lost.expect("a stamp"));
    assert_eq!(crate::calls::names(&server.get(&path).json()), ["a"]);
    // A second restore is above the first.
    server.kill();
    restore(&server, &file);
    server.start();
    assert!(metric(&server, "weir_revision") > now);
}

// -------------------------------------------------------------------------------------------------
// Who may, and how many

#[test]
fn only_administrators_may_download_a_backup() {
    let server = TestServer::new();
    let everything = json!([{
        "scopes": ["*"], "list": true, "read": true, "write": true, "execute": true,
    }]);
    let streams = json!([{"scopes": ["streams"], "list": true, "read": true}]);
    for (name, permissions) in [("all", everything), ("some", streams)] {
        let path = format!("/api_tokens/{name}");
        let token = server.put(&path, json!({"permissions": permissions}));
        let key = token.expect(200).json()["key"].clone();
        let key = format!("Bearer {}", key.as_str().expect("a key"));
        server.get("/streams").expect(200);
        let refused = server.call_as("GET", "/backup", Some(&key)).expect(403);
        assert_eq!(refused.json()["errors"][0]["code"], "forbidden");
    }
    server.call_as("GET", "/backup", None).expect(401);
    save_node(&server, "s1");
    let node = crate::auth::cluster("key", 0);
    let refused = server.call_as("GET", "/backup", Some(&node));
    assert!([401, 403].contains(&refused.status), "{}", refused.status);
    let basic = crate::auth::basic(EDIT_AUTH);
    server.call_as("GET", "/backup", Some(&basic)).expect(200);
    server.put("/backup", json!({})).expect(405);
}

#[test]
fn forms_of_the_request_are_answered() {
    let server = TestServer::new();
    server.put("/streams/a", json!({})).expect(200);
    let mut client = server.connect();
    let request = get_request("/backup", "");
    client.send(request.replace("GET", "HEAD").as_bytes());
    let head = client.response(true).expect(200);
    assert!(head.body.is_empty());
    let mut whole = Vec::new();
    for coding in ["identity", "gzip", "zstd"] {
        let fields = format!("Accept-Encoding: {coding}\r\nPrefer: handling=strict\r\n");
        client.send(get_request("/backup", &fields).as_bytes());
        let response = client.response(false).expect(200);
        let applied = response.header("Preference-Applied");
        assert_eq!(applied, Some("handling=strict"));
        assert_eq!(response.header("Cache-Control"), Some("no-store"));
        let kind = response.header("Content-Type");
        assert_eq!(kind, Some("application/octet-stream"));
        let body = response.decoded().expect("a coding").into_owned();
        assert!(body.starts_with(b"weir.backup\n"));
        if whole.is_empty() {
            whole.clone_from(&body);
        }
        assert_eq!(body, whole, "{coding}: nothing was saved in between");
    }
    // The end of its body would not be known from one that was cut.
    let mut old = server.connect();
    old.send(request.replace("/1.1", "/1.0").as_bytes());
    let refused = old.response(false).expect(505);
    assert_eq!(refused.json()["errors"][0]["code"], "http_version");
    let running = || metric(&server, "weir_backups_running");
    wait_until("no backup is left", running, |running| *running == 0);
}

/// A server whose backup is 10 MB, more than the buffers of both sockets take.
fn filled(arguments: &[&str]) -> TestServer {
    let server = TestServer::with(arguments);
    fill(&server);
    server
}

fn fill(server: &TestServer) {
    let comment = "x".repeat(5000);
    let stream = |n: u32| json!({"name": format!("s{n:04}"), "comment": comment});
    let streams = (0..2000).map(stream).collect();
    server.put("/streams/batch", streams).expect(204);
}

/// Requests a backup and returns when its beginning has arrived, which is not read.
fn begin(server: &TestServer) -> Client {
    let mut client = server.connect();
    client.send(get_request("/backup", "").as_bytes());
    let stream = client.stream().expect("a socket");
    assert!(stream.peek(&mut [0; 1]).expect("a response") > 0);
    client
}

#[track_caller]
fn is_cut(client: &mut Client) {
    let ended = client.try_response(false);
    assert!(
        matches!(ended, Err(ClientError::Truncated(_))),
        "{:?}",
        ended.map(|response| response.body.len())
    );
}

#[test]
fn one_backup_too_many_is_refused() {
    let server = filled(&[]);
    let mut readers = [begin(&server), begin(&server)];
    assert_eq!(metric(&server, "weir_backups_running"), 2);
    let refused = server.get("/backup").expect(503);
    assert_eq!(refused.json()["errors"][0]["code"], "too_many_backups");
    assert_eq!(refused.retry_after(), Some(10));
    assert_eq!(metric(&server, "weir_backups_refused_total"), 1);
    // The server serves meanwhile.
    server
        .put("/streams/s0001", json!({"title": "t"}))
        .expect(200);
    let body = readers[0].response(false).expect(200).body;
    assert!(body.len() > 10_000_000);
    drop(readers);
    let running = || metric(&server, "weir_backups_running");
    wait_until("a client that left is noticed", running, |it| *it == 0);
    assert_eq!(metric(&server, "weir_backups_completed_total"), 1);
    download(&server);
}

#[test]
fn reader_that_takes_nothing_is_disconnected() {
    let server = filled(&["--backup-time", "2s"]);
    let mut reader = begin(&server);
    let running = || metric(&server, "weir_backups_running");
    wait_until("its time is over", running, |running| *running == 0);
    is_cut(&mut reader);
    assert_eq!(metric(&server, "weir_http_unsent_bytes"), 0);
    assert_eq!(metric(&server, "weir_backups_completed_total"), 0);
}

#[test]
fn backup_is_not_faster_than_its_rate() {
    let server = filled(&["--backup-rate", "1MiB", "--backup-time", "2s"]);
    // It needs ten seconds and has two.
    is_cut(&mut begin(&server));
}

#[test]
fn backup_ends_with_the_key_that_it_was_requested_with() {
    let file = format!("api_key = \"{API_KEY}\"\nio_threads = 2\n");
    let server = TestServer::with_file(&file);
    fill(&server);
    let mut reader = begin(&server);
    let body = json!({"api_key": "another-long-key"});
    server.put("/config", body).expect(200);
    is_cut(&mut reader);
}

#[test]
fn stopping_server_ends_its_backups() {
    let mut server = filled(&["--drain-delay", "0"]);
    let mut reader = begin(&server);
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    is_cut(&mut reader);
}

// -------------------------------------------------------------------------------------------------
// The commands

fn spawn(arguments: &[&str]) -> Child {
    Command::new(program("weir"))
        .env_clear()
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started")
}

fn finished(child: Child) -> Output {
    let has_ended = sys::wait_for_end(child.id(), Duration::from_mins(1));
    assert!(has_ended.expect("it is ours"), "the command does not end");
    child.wait_with_output().expect("it has ended")
}

fn url(server: &TestServer) -> String {
    format!("http://{}", server.address())
}

/// Nothing of a backup is in a directory.
#[track_caller]
fn is_empty(directory: &Path) {
    let found: Vec<_> = fs::read_dir(directory).expect("a directory").collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn command_downloads_from_a_running_server() {
    let server = TestServer::new();
    server.put("/streams/a", json!({})).expect(200);
    let scratch = tempfile::tempdir().expect("a directory");
    let (file, none) = (scratch.path().join("b"), scratch.path().join("none"));
    let url = url(&server);
    let key = ["--api-key", API_KEY];
    let by_url = [&["backup", text(&file), "--url", &url][..], &key].concat();
    let saved = succeeds(&run(&by_url, &[], scratch.path()));
    let bytes = fs::read(&file).expect("the backup");
    assert!(saved.contains(&format!(" in {} bytes from {url}", bytes.len())));
    assert!(!scratch.path().join("b.tmp").exists());
    let data = server.data_dir();
    let checked = succeeds(&weir(&["check", text(&file)], &none, scratch.path()));
    let records = saved.split(' ').next().expect("a number");
    assert!(
        checked.starts_with(&format!("{records} records")),
        "{checked}"
    );
    // A file that is there is not replaced.
    assert!(fails(&run(&by_url, &[], scratch.path()), 74).contains("exists"));
    assert_eq!(fs::read(&file).expect("it stays"), bytes);
    fs::remove_file(&file).expect("removed");
    // The server that uses the data directory is found by its URL.
    let found = [
        ("CENTRAL_API_URL", url.as_str()),
        ("CENTRAL_API_KEY", API_KEY),
    ];
    let arguments = ["backup", text(&file), "--data-dir", text(&data)];
    succeeds(&run(&arguments, &found, scratch.path()));
    fs::remove_file(&file).expect("removed");
    let unused = "http://127.0.0.1:1";
    let wrong = [("CENTRAL_API_URL", unused), ("CENTRAL_API_KEY", API_KEY)];
    let error = fails(&run(&arguments, &wrong, scratch.path()), 75);
    assert!(
        error.contains("in use by process") && error.contains("--url"),
        "{error}"
    );
    // To stdout.
    let piped = run(
        &[&by_url[..1], &["-"], &by_url[2..]].concat(),
        &[],
        scratch.path(),
    );
    assert!(piped.status.success());
    assert!(piped.stdout.starts_with(b"weir.backup\n"));
    let said = String::from_utf8_lossy(&piped.stderr).into_owned();
    assert!(said.contains(" records at revision "), "{said}");
    // Nothing is left of what was refused.
    let wrong = [
        "backup",
        text(&file),
        "--url",
        &url,
        "--api-key",
        "wrong-key",
    ];
    assert!(fails(&run(&wrong, &[], scratch.path()), 1).contains("refuses the key"));
    let nowhere = ["backup", text(&file), "--url", unused, "--api-key", "k"];
    fails(&run(&nowhere, &[], scratch.path()), 1);
    let nothing = ["backup", text(&file), "--data-dir", text(&none)];
    assert!(fails(&run(&nothing, &[], scratch.path()), 74).contains("there is no store"));
    is_empty(scratch.path());
}

#[test]
fn killed_server_leaves_no_backup() {
    let mut server = filled(&["--backup-rate", "64KiB"]);
    let scratch = tempfile::tempdir().expect("a directory");
    let file = scratch.path().join("b");
    let url = url(&server);
    let arguments = ["backup", text(&file), "--url", &url, "--api-key", API_KEY];
    let child = spawn(&arguments);
    let aside = scratch.path().join("b.tmp");
    let written = || fs::metadata(&aside).map_or(0, |metadata| metadata.len());
    wait_until("some of it has arrived", written, |bytes| *bytes > 0);
    server.kill();
    let error = fails(&finished(child), 1);
    assert!(error.contains("did not arrive whole"), "{error}");
    is_empty(scratch.path());
}

#[test]
fn full_disk_leaves_no_backup() {
    let server = filled(&["--backup-rate", "1MiB"]);
    let scratch = tempfile::tempdir().expect("a directory");
    let file = scratch.path().join("b");
    let url = url(&server);
    let arguments = ["backup", text(&file), "--url", &url, "--api-key", API_KEY];
    let child = spawn(&arguments);
    let aside = scratch.path().join("b.tmp");
    let written = || fs::metadata(&aside).map_or(0, |metadata| metadata.len());
    wait_until("some of it has arrived", written, |bytes| *bytes > 0);
    sys::limit_file_size(child.id(), Some(2 << 20)).expect("it is ours");
    let error = fails(&finished(child), 74);
    assert!(error.contains("no space left for"), "{error}");
    is_empty(scratch.path());
    let running = || metric(&server, "weir_backups_running");
    wait_until("the server notices", running, |running| *running == 0);
}

#[test]
fn damaged_backup_is_refused_and_nothing_is_written() {
    let server = TestServer::new();
    server.put("/streams/a", json!({})).expect(200);
    let scratch = tempfile::tempdir().expect("a directory");
    let whole = download(&server);
    let (file, data) = (scratch.path().join("b"), scratch.path().join("data"));
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&file, bytes).expect("written");
        for arguments in [&["restore", text(&file)][..], &["check", text(&file)]] {
            let error = fails(&weir(arguments, &data, scratch.path()), 74);
            assert!(error.contains(text(&file)), "{what}: {error}");
        }
        assert!(!data.exists(), "{what}");
    };
    for at in (0..whole.len()).step_by(whole.len() / 20) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        refused(&bytes, &format!("a bit of byte {at}"));
        refused(&whole[..at], &format!("cut at byte {at}"));
    }
    refused(&[&whole[..], b"\n"].concat(), "a byte behind the end");
    let mut newer = whole.clone();
    newer[12..16].copy_from_slice(&[9, 0, 9, 0]);
    refused(&newer, "a newer format");
    let error = fails(&weir(&["check", text(&file)], &data, scratch.path()), 74);
    assert!(
        error.contains("format 9") || error.contains("newer"),
        "{error}"
    );
    fs::write(&file, &whole).expect("written");
    succeeds(&weir(&["restore", text(&file)], &data, scratch.path()));
    assert!(data.join("weir.redb").exists());
}

/// A backup whose last stamp is another one, with a right checksum.
fn stamped(backup: &[u8], stamp_ms: u64) -> Vec<u8> {
    const STAMP_AT: usize = 32;
    let mut bytes = backup[..backup.len() - 32].to_vec();
    bytes[STAMP_AT..STAMP_AT + 8].copy_from_slice(&stamp_ms.to_le_bytes());
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

#[test]
fn restore_stays_above_a_store_whose_clock_was_ahead() {
    const YEAR_2100: u64 = 4_102_444_800_000;
    let mut server = TestServer::new();
    server.put("/streams/a", json!({})).expect(200);
    let scratch = tempfile::tempdir().expect("a directory");
    let file = scratch.path().join("b");
    let (now, ahead) = (download(&server), scratch.path().join("ahead"));
    fs::write(&ahead, stamped(&now, YEAR_2100)).expect("written");
    fs::write(&file, now).expect("written");
    let data = server.data_dir();
    // Not while it is in use.
    for force in [&[][..], &["--force"]] {
        let arguments = [&["restore", text(&file)], force].concat();
        let error = fails(&weir(&arguments, &data, scratch.path()), 75);
        assert!(error.contains("in use by process"), "{error}");
    }
    server.kill();
    let refused = fails(&weir(&["restore", text(&file)], &data, scratch.path()), 74);
    assert!(refused.contains("exists"), "{refused}");
    let mut last = 0;
    for (from, least) in [(&ahead, YEAR_2100), (&file, YEAR_2100), (&file, YEAR_2100)] {
        restore(&server, from);
        server.start();
        let saved = server.put("/streams/a", json!({"position": 1})).expect(200);
        let stamp = saved.json()["updated_at"].as_u64().expect("a stamp");
        assert!(stamp > least.max(last), "{stamp} {last}");
        last = stamp;
        server.kill();
    }
    // A store that cannot be read is replaced as well.
    fs::write(data.join("weir.redb"), b"damaged").expect("written");
    let output = weir(&["restore", text(&file), "--force"], &data, scratch.path());
    let warned = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(warned.contains("the old store cannot be read"), "{warned}");
    succeeds(&output);
    server.start();
    server.get("/streams/a").expect(200);
}

#[test]
fn server_with_a_full_disk_sends_a_backup() {
    let server = TestServer::new();
    let scratch = tempfile::tempdir().expect("a directory");
    let used = fs::metadata(server.data_dir().join("weir.redb")).expect("the store");
    sys::limit_file_size(server.id(), Some(used.len())).expect("it is ours");
    let body = json!({"comment": "x".repeat(100_000)});
    let save = |n: u32| server.put(&format!("/streams/s{n}"), body.clone()).status;
    let saved = (0..1000).take_while(|n| save(*n) == 200).count();
    assert!(saved < 1000, "the disk does not fill");
    let file = stored(&server, scratch.path());
    let data = scratch.path().join("data");
    succeeds(&weir(&["restore", text(&file)], &data, scratch.path()));
    // All that was acknowledged.
    let prepare = |to: &Path| {
        fs::copy(data.join("weir.redb"), to.join("weir.redb")).expect("copied");
    };
    let restored = TestServer::on(prepare, &[]);
    let list = restored.get("/streams?limit=1000&select=name").json();
    assert_eq!(crate::calls::names(&list).len(), saved);
}

#[test]
fn recordings_from_before_a_restore_are_kept() {
    // Goal: no streamer erases a recording because its episode was saved after the backup.
    let mut server = TestServer::new();
    save_node(&server, "s1");
    let save = |id: u64, opened_at: u64| {
        let body = json!({"media": "a", "opened_at": opened_at, "closed_at": opened_at + 1000});
        server.put(&format!("/episodes/{id}"), body).expect(200);
    };
    save(1, 1_700_000_000_000);
    let list = |server: &TestServer, closed_after: u64| {
        let path = format!("/streamers/s1/episodes?media=a&closed_at_gt={closed_after}");
        server.get(&path)
    };
    list(&server, 0).expect(200);
    let scratch = tempfile::tempdir().expect("a directory");
    let file = stored(&server, scratch.path());
    save(2, 1_700_000_100_000);
    server.terminate();
    restore(&server, &file);
    for _ in 0..2 {
        server.start();
        assert_eq!(server.get("/episodes/2").status, 404);
        for closed_after in [0, 1_699_999_999_000, 1_700_000_099_000] {
            let refused = list(&server, closed_after).expect(501);
            assert_eq!(refused.errors(), ["episodes_unknown"]);
        }
        server.get("/streamers/s1/episodes?media=a").expect(501);
        // Recordings of a later time cannot have lost an episode.
        let later = list(&server, 4_000_000_000_000).expect(200);
        assert_eq!(later.json()["episodes"], json!([]));
        server.terminate();
    }
}
