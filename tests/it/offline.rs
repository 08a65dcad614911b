//! Commands on the store of a stopped server: backup, restore, check.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::calls::names;
use weir_testkit::{TestServer, run};

/// A killed server with streams, some of which are only in its log.
fn killed() -> TestServer {
    let mut server = TestServer::new();
    for half in [0..40, 40..80] {
        let stream = |i: u32| json!({"name": format!("s{i:02}"), "comment": "x".repeat(500)});
        let streams: Value = half.map(stream).collect();
        server.put("/streams/batch", streams).expect(204);
    }
    server.kill();
    server
}

/// Runs a command on a data directory.
pub fn weir(arguments: &[&str], data: &Path, scratch: &Path) -> Output {
    let data = data.to_str().expect("a path in UTF-8");
    run(&[arguments, &["--data-dir", data]].concat(), &[], scratch)
}

#[track_caller]
pub fn succeeds(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The message of a command that ends with this code.
#[track_caller]
pub fn fails(output: &Output, code: i32) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{error}");
    error
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).expect("the file");
    bytes[at] ^= 4;
    fs::write(file, bytes).expect("written");
}

#[test]
fn backup_of_a_killed_server_is_restored_whole() {
    let mut server = killed();
    let scratch = tempfile::tempdir().expect("a directory");
    let file = scratch.path().join("backup");
    let name = file.to_str().expect("UTF-8");
    let saved = succeeds(&weir(&["backup", name], &server.data_dir(), scratch.path()));
    assert!(saved.contains(" records at revision "), "{saved}");
    let checked = succeeds(&weir(&["check", name], &server.data_dir(), scratch.path()));
    let records = saved.split(' ').next().expect("a number");
    assert!(
        checked.starts_with(&format!("{records} records")),
        "{checked}"
    );
    // A file that is there, and a store that is there, are not overwritten.
    fails(
        &weir(&["backup", name], &server.data_dir(), scratch.path()),
        74,
    );
    fails(
        &weir(&["restore", name], &server.data_dir(), scratch.path()),
        74,
    );
    server.start();
    let before = server.get("/streams?limit=100").json();
    server.put("/streams/later", json!({})).expect(200);
    let later = server.get("/streams/later").json()["updated_at"].as_u64();
    server.kill();
    let again = ["restore", name, "--overwrite"];
    succeeds(&weir(&again, &server.data_dir(), scratch.path()));
    server.start();
    let after = server.get("/streams?limit=100").json();
    assert_eq!(names(&after), names(&before));
    assert_eq!(after["streams"], before["streams"]);
    // Stamps go on above all that were ever sent.
    server.put("/streams/later", json!({})).expect(200);
    let stamp = server.get("/streams/later").json()["updated_at"].as_u64();
    assert!(stamp > later, "{stamp:?} {later:?}");
}

#[test]
fn check_names_what_is_damaged() {
    let server = killed();
    let scratch = tempfile::tempdir().expect("a directory");
    let data = server.data_dir();
    let check = || weir(&["check"], &data, scratch.path());
    let whole = scratch.path().join("whole");
    fs::create_dir(&whole).expect("made");
    let files = ["weir.redb", "weir.log.0"];
    for file in files {
        fs::copy(data.join(file), whole.join(file)).expect("copied");
    }
    let restore = || {
        for file in files {
            fs::copy(whole.join(file), data.join(file)).expect("copied");
        }
    };
    // The header of the log, and two bits of its first entry.
    for places in [&[17][..], &[4096 + 100, 4096 + 201]] {
        restore();
        for at in places {
            flip(&data.join("weir.log.0"), *at);
        }
        let error = fails(&check(), 74);
        assert!(error.contains("weir.log.0"), "{places:?}: {error}");
    }
    // A single bit of an entry is corrected.
    restore();
    flip(&data.join("weir.log.0"), 4096 + 100);
    let text = succeeds(&check());
    assert!(
        text.contains("1 entry of the log had a flipped bit"),
        "{text}"
    );
    assert!(text.contains("all checksums are right"), "{text}");
    restore();
    let lost = data.join("weir.log.0");
    fs::remove_file(&lost).expect("removed");
    restore();
    let text = succeeds(&check());
    assert!(text.contains("all checksums are right"), "{text}");
    // Now the tables have all of it: every record is checked.
    // Pages that are no longer in use may have a record as well, so all of them are damaged.
    let tables = fs::read(data.join("weir.redb")).expect("the tables");
    let record = "x".repeat(200);
    let found: Vec<usize> = memchr::memmem::find_iter(&tables, record.as_bytes()).collect();
    assert!(found.len() >= 80, "{}", found.len());
    for at in found {
        flip(&data.join("weir.redb"), at + 20);
    }
    let error = fails(&check(), 74);
    assert!(error.contains("weir.redb"), "{error}");
    let nothing = weir(&["check"], &scratch.path().join("none"), scratch.path());
    assert!(fails(&nothing, 74).contains("there is no store"));
}
