//! Invariants over a restart: everything acknowledged is there, nothing is half there, stamps grow,
//! ETags and revisions are unchanged.
//!
//! Kills in the middle of traffic are in `kill`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::calls::save_node;
use weir_testkit::{
    API_KEY, Client, ClientError, PREFIX, Response, TestServer, program, run, wait_until,
};

/// One request below the prefix as an administrator. The server may end at any moment: then the
/// outcome is unknown, which is no failure of a test.
pub fn request(
    client: &mut Client,
    method: &str,
    path: &str,
    body: &str,
) -> Result<Response, ClientError> {
    let bearer = format!("Bearer {API_KEY}");
    let path = format!("{PREFIX}{path}");
    let fields = [("Authorization", bearer.as_str())];
    client.try_request(method, &path, &fields, body.as_bytes())
}

/// Revision, tag and whole answer of every node.
fn configurations(server: &TestServer, hosts: &[&str]) -> BTreeMap<String, (String, Value)> {
    hosts
        .iter()
        .map(|host| {
            let answer = server
                .get(&format!("/streamers/{host}/streams"))
                .expect(200);
            let tag = answer.header("etag").expect("a tag").to_owned();
            ((*host).to_owned(), (tag, answer.json()))
        })
        .collect()
}

fn set_layouts(server: &TestServer, layouts: Value) {
    server
        .post("/streams/layouts", json!({"layouts": layouts}))
        .expect(204);
}

#[test]
fn etags_and_revisions_survive_restarts_and_kills() {
    let mut server = TestServer::new();
    let hosts = ["s1", "s2", "s3", "s4", "empty"];
    for host in hosts {
        save_node(&server, host);
    }
    for i in 0..12 {
        let body = json!({
            "title": format!("t{i}"), "inputs": [{"url": "udp://239.0.0.1:1"}],
            "dvr": {"root": "/d", "expiration": 3600},
        });
        server.put(&format!("/streams/a{i}"), body).expect(200);
        let item = json!({
            "name": format!("a{i}"), "ingest": hosts[i % 4], "dvr_backups": [hosts[(i + 1) % 4]],
        });
        set_layouts(&server, json!([item]));
    }
    // All that moves a node: an edit, a move, a deletion, switching off, a node that went and came
    // back, one that got another address.
    let edits: [&dyn Fn(&TestServer); 8] = [
        &|server| {
            drop(
                server
                    .put("/streams/a0", json!({"title": "new"}))
                    .expect(200),
            );
        },
        &|server| set_layouts(server, json!([{"name": "a1", "ingest": "s4"}])),
        &|server| drop(server.delete("/streams/a2").expect(204)),
        &|server| {
            drop(
                server
                    .put("/streams/a3", json!({"disabled": true}))
                    .expect(200),
            );
        },
        &|server| {
            set_layouts(
                server,
                json!([{"name": "a4", "ingest": null, "dvr_backups": []}]),
            );
        },
        &|server| {
            server.delete("/streamers/empty").expect(204);
            save_node(server, "empty");
        },
        &|server| {
            let body =
                json!({"role": "streamer", "api_url": "http://s2:9090", "cluster_key": "key"});
            server.put("/streamers/s2", body).expect(200);
        },
        &|server| {
            drop(
                server
                    .put("/streams/a5", json!({"labels": {"k": "v"}}))
                    .expect(200),
            );
        },
    ];
    for (i, edit) in edits.iter().enumerate() {
        let copies = configurations(&server, &hosts);
        edit(&server);
        let before = configurations(&server, &hosts);
        if i % 2 == 0 {
            server.kill();
            server.start();
        } else {
            server.restart();
        }
        assert_eq!(configurations(&server, &hosts), before, "after edit {i}");
        for host in hosts {
            let (tag, _) = &before[host];
            let path = format!("/streamers/{host}/streams");
            server
                .call_with("GET", &path, &[("If-None-Match", tag)], b"")
                .expect(304);
            // A delta over the restart leads to the whole list, or is refused.
            let revision = &copies[host].1["revision"];
            let delta = server.get(&format!("{path}?changes_since={revision}"));
            if delta.status == 410 {
                continue;
            }
            let delta = delta.expect(200).json();
            let mut copy = by_name(&copies[host].1);
            for name in delta["removed"].as_array().expect("removed") {
                copy.remove(name.as_str().expect("a name"));
            }
            copy.extend(by_name(&delta));
            assert_eq!(copy, by_name(&before[host].1), "{host} after edit {i}");
            assert_eq!(delta["revision"], before[host].1["revision"]);
        }
    }
}

fn by_name(list: &Value) -> BTreeMap<String, Value> {
    let streams = list["streams"].as_array().expect("streams");
    streams
        .iter()
        .map(|stream| {
            (
                stream["name"].as_str().expect("a name").to_owned(),
                stream.clone(),
            )
        })
        .collect()
}

#[test]
fn readers_see_all_of_a_batch_or_nothing() {
    const STREAMS: usize = 50;
    const ROUNDS: usize = 60;
    let server = TestServer::with(&["--io-threads", "2"]);
    for host in ["s1", "s2"] {
        save_node(&server, host);
    }
    let tagged = |tag: usize| -> Value {
        (0..STREAMS)
            .map(|i| json!({"name": format!("b{i}"), "title": tag.to_string()}))
            .collect()
    };
    let placed = |host: &str| -> Value {
        (0..STREAMS)
            .map(|i| json!({"name": format!("b{i}"), "ingest": host}))
            .collect()
    };
    server.put("/streams/batch", tagged(0)).expect(204);
    set_layouts(&server, placed("s1"));
    let (server, done) = (&server, AtomicBool::new(false));
    let titles = |list: &Value| -> BTreeSet<String> {
        let streams = list["streams"].as_array().expect("streams");
        streams
            .iter()
            .map(|stream| stream["title"].as_str().expect("a title").to_owned())
            .collect()
    };
    thread::scope(|scope| {
        let done = &done;
        let readers = [
            "/streams?limit=1000",
            "/streams?limit=1000&select=title&sort=-name",
            "/streams?limit=1000&layout.ingest=s1",
            "/streamers/s1/streams",
            "/streamers/s2/streams",
            "/streamers/s2/streams?limit=1000",
        ]
        .map(|path| {
            scope.spawn(move || {
                let mut client = server.connect();
                let mut seen = BTreeSet::new();
                let mut sizes = BTreeSet::new();
                loop {
                    let is_last = done.load(Ordering::Acquire);
                    let list = request(&mut client, "GET", path, "").expect("answers");
                    let list = list.expect(200).json();
                    let titles = titles(&list);
                    assert!(
                        titles.len() <= 1,
                        "{path} shows a part of a batch: {titles:?}"
                    );
                    seen.extend(titles);
                    sizes.insert(list["streams"].as_array().expect("streams").len());
                    if is_last {
                        return (path, seen.len(), sizes);
                    }
                }
            })
        });
        for round in 1..=ROUNDS {
            server.put("/streams/batch", tagged(round)).expect(204);
            set_layouts(server, placed(if round % 2 == 0 { "s1" } else { "s2" }));
            // A batch that is refused at its end changes nothing at its beginning.
            let mut bad = tagged(1000 + round);
            bad[STREAMS - 1]["title"] = json!(7);
            server.put("/streams/batch", bad).expect(400);
            let mut bad = placed("s1");
            bad[STREAMS - 1]["ingest"] = json!("unknown");
            server
                .post("/streams/layouts", json!({"layouts": bad}))
                .expect(400);
        }
        done.store(true, Ordering::Release);
        for reader in readers {
            let (path, seen, sizes) = reader.join().expect("the reader saw whole batches");
            assert!(seen > 1, "{path} was read while nothing changed");
            assert!(
                sizes.iter().all(|size| [0, STREAMS].contains(size)),
                "{path} shows a part of a layout: {sizes:?}"
            );
        }
    });
}

// ---- how the program ends -----------------------------------------------------------------------

#[test]
fn second_process_on_a_directory_names_its_owner() {
    let server = TestServer::new();
    let directory = server.data_dir();
    let directory = directory.to_str().expect("a path of text");
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let arguments = ["--data-dir", directory, "--listen", "127.0.0.1:0"];
    let second = run(&arguments, &[], scratch.path());
    assert_eq!(second.status.code(), Some(75));
    assert!(second.stdout.is_empty(), "nothing listens");
    let stderr = String::from_utf8_lossy(&second.stderr).into_owned();
    for part in [&server.id().to_string(), directory] {
        assert!(stderr.contains(part), "{part} is missing in {stderr}");
    }
    server.put("/streams/a", json!({})).expect(200);
}

#[test]
fn unreadable_store_is_reported_before_listening() {
    let mut server = TestServer::new();
    let marker = "a-comment-that-is-found-in-the-file";
    server
        .put("/streams/a", json!({"comment": marker}))
        .expect(200);
    server.terminate();
    let file = server.data_dir().join("weir.redb");
    let whole = fs::read(&file).expect("the store is a file");
    let at = whole
        .windows(marker.len())
        .position(|window| window == marker.as_bytes())
        .expect("records are not compressed");
    let mut flipped = whole.clone();
    flipped[at] ^= 1;
    let mut headless = whole.clone();
    headless[..4096].fill(0x5a);
    let cases: [(&str, &[u8]); 4] = [
        ("a flipped bit of a record", &flipped),
        ("no header", &headless),
        ("half a file", &whole[..whole.len() / 2]),
        ("nothing of ours", b"nothing of ours"),
    ];
    let directory = server.data_dir();
    let arguments = [
        "--data-dir",
        directory.to_str().expect("a path of text"),
        "--listen",
        "127.0.0.1:0",
    ];
    let scratch = tempfile::tempdir().expect("a scratch directory");
    for (what, bytes) in cases {
        fs::write(&file, bytes).expect("the file can be written");
        // The third failure in a row would be another case: `safe_mode`.
        let _ = fs::remove_file(directory.join("failed_starts"));
        let output = run(&arguments, &[], scratch.path());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(74), "{what}: {stderr}");
        assert!(
            stderr.contains("weir.redb") && stderr.contains("damaged"),
            "{what}: {stderr}"
        );
        assert!(output.stdout.is_empty(), "{what}: nothing listens");
        assert!(!stderr.contains("panicked"), "{what}: {stderr}");
    }
    fs::write(&file, &whole).expect("the file can be written");
    server.start();
    assert_eq!(
        server.get("/streams/a").expect(200).json()["comment"],
        marker
    );

    // A file where the directory should be.
    let blocked = scratch.path().join("blocked");
    fs::write(&blocked, b"").expect("a file");
    let arguments = [
        "--data-dir",
        blocked.to_str().expect("text"),
        "--listen",
        "127.0.0.1:0",
    ];
    let output = run(&arguments, &[], scratch.path());
    assert_eq!(
        output.status.code(),
        Some(74),
        "{:?}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn invalid_settings_and_usage_have_own_exit_codes() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let config = scratch.path().join("weir.toml");
    let path = config.to_str().expect("text");
    for (text, part) in [
        ("no_such_setting = 1\n", "no_such_setting"),
        ("poll_wait_max = \"soon\"\n", "poll_wait_max"),
        ("listen = [\n", "weir.toml"),
        ("listen = \"nowhere\"\n", "listen"),
    ] {
        fs::write(&config, text).expect("a file");
        let output = run(&["--config", path], &[], scratch.path());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{text:?}: {stderr}");
        assert!(stderr.contains(part), "{text:?}: {stderr}");
        assert!(output.stdout.is_empty());
    }
    for arguments in [&["--no-such-flag"][..], &["no-such-command"], &["import"]] {
        let output = run(arguments, &[], scratch.path());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
    let output = run(
        &["--listen", "127.0.0.1:0", "--io-threads", "many"],
        &[],
        scratch.path(),
    );
    assert!(matches!(output.status.code(), Some(2 | 78)));
    assert_eq!(
        fs::read_dir(scratch.path()).expect("listed").count(),
        1,
        "nothing was made"
    );
}

#[test]
fn requests_of_kept_connections_are_answered_until_the_end() {
    // Goal: after TERM no client loses a request on a connection that it had kept. Method: clients
    // send one request after another until an answer announces the end of its connection.
    let mut server = TestServer::new();
    let clients: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    let (started, all_started) = std::sync::mpsc::channel();
    let threads: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let started = started.clone();
            std::thread::spawn(move || {
                let request = crate::calls::get_request("/streams?limit=1", "");
                for n in 0.. {
                    client.send(request.as_bytes());
                    let response = client.response(false).expect(200);
                    if n == 0 {
                        started.send(()).expect("the test waits");
                    }
                    if response.header("connection") == Some("close") {
                        break;
                    }
                }
            })
        })
        .collect();
    for _ in &threads {
        all_started.recv().expect("a client began");
    }
    assert!(server.terminate().success());
    for thread in threads {
        thread.join().expect("every request was answered");
    }
}

#[test]
fn start_waits_for_an_address_that_is_in_use_for_a_moment() {
    // Goal: a start right after a kill does not fail because the kernel still has the sockets of
    // the ended process. Method: another socket has the address until the start has met it.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("an address");
    let address = taken.local_addr().expect("an address").to_string();
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    let log = scratch.path().join("log");
    let file = fs::File::create(&log).expect("a file");
    let arguments = [
        "--data-dir",
        data.to_str().expect("text"),
        "--listen",
        &address,
    ];
    let mut child = std::process::Command::new(program("weir"))
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .stderr(file)
        .spawn()
        .expect("starts");
    let look = || fs::read_to_string(&log).expect("a log");
    wait_until("it has met the address", look, |log| {
        log.contains("the address is in use")
    });
    drop(taken);
    wait_until(
        "it listens",
        || Client::connect(address.parse().expect("an address")).is_ok(),
        |is| *is,
    );
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}

#[test]
fn signal_right_after_the_greeting_stops_in_order() {
    let mut server = TestServer::new();
    for _ in 0..10 {
        server.restart();
    }
}
