//! Backups of a running server: one revision, whole or refused, and restored to the same documents.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::calls::{lay_out, save_node};
use crate::described::Document;
use crate::round_trip::with_one_of_each_and;
use weir_testkit::{TestServer, run};

/// The body of a whole backup.
fn download(server: &TestServer) -> Vec<u8> {
    let response = server.get("/backup").expect(200);
    assert_eq!(response.header("Transfer-Encoding"), Some("chunked"));
    response.body
}

fn weir(arguments: &[&str], data: &Path, scratch: &Path) -> Output {
    let data = data.to_str().expect("a path in UTF-8");
    run(&[arguments, &["--data-dir", data]].concat(), &[], scratch)
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The message of a command that ends with this code.
#[track_caller]
fn fails(output: &Output, code: i32) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{error}");
    error
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
