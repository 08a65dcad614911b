//! Safe mode: the third start in a row that fails goes on, without a change of the data directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::calls::{etag, lay_out, names, park, save_node};
use crate::offline::fails;
use crate::restricted::token;
use weir_testkit::{API_KEY, Response, TestServer, run};

/// Starts the program on the directory of a server, and waits for its end.
fn start_and_fail(server: &TestServer, arguments: &[&str]) -> Output {
    let directory = server.data_dir();
    let directory = directory.to_str().expect("a path of text");
    let all = [
        &["--data-dir", directory, "--listen", "127.0.0.1:0"],
        arguments,
    ];
    let scratch = tempfile::tempdir().expect("a directory");
    run(&all.concat(), &[], scratch.path())
}

/// What the store is made of.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.into_string().expect("a name"));
    let stored = names.filter(|name| name.starts_with("weir.") && name != "weir.redb.new");
    stored
        .map(|name| {
            (
                name.clone(),
                fs::read(directory.join(name)).expect("a file"),
            )
        })
        .collect()
}

#[track_caller]
fn refused(response: Response) -> String {
    let response = response.expect(503);
    assert_eq!(response.errors(), ["safe_mode"], "{}", response.text());
    assert_eq!(response.header("retry-after"), Some("30"));
    response.text()
}

#[test]
fn unreadable_store_is_served_to_nobody() {
    let mut server = TestServer::new();
    save_node(&server, "s1");
    let comment = "a-comment-that-is-found-in-the-file";
    server
        .put("/streams/a", json!({"comment": comment}))
        .expect(200);
    server.put("/streams/b", json!({})).expect(200);
    lay_out(&server, &[("a", "s1"), ("b", "s1")]);
    server.terminate();
    let file = server.data_dir().join("weir.redb");
    let whole = fs::read(&file).expect("the tables");
    let mut damaged = whole.clone();
    let at: Vec<usize> = memchr::memmem::find_iter(&whole, comment.as_bytes()).collect();
    for at in at {
        damaged[at] ^= 1;
    }
    for _ in 0..2 {
        fs::write(&file, &damaged).expect("written");
        for _ in 0..2 {
            fails(&start_and_fail(&server, &[]), 74);
            // What does not concern the store does not count.
            fails(&start_and_fail(&server, &["--no-such-flag"]), 2);
            fails(&start_and_fail(&server, &["--poll-wait-max", "soon"]), 78);
        }
        server.start();
        let before = files(&server.data_dir());
        server.get("/monitoring/liveness").expect(200);
        let text = refused(server.get("/monitoring/readiness"));
        assert!(text.contains("the store cannot be read"), "{text}");
        let log = server.log();
        let cause = log
            .lines()
            .find(|line| line.contains("safe mode"))
            .expect("a cause");
        assert!(cause.contains("weir.redb is damaged"), "{cause}");
        assert!(cause.contains("restore a backup"), "{cause}");
        for path in [
            "/streams",
            "/streams/b",
            "/streamers/s1/streams",
            "/streamers/s1/streams?poll_timeout=30",
            "/streamers/s1/episodes",
            "/streamers/unknown/streams",
            "/cluster/stats?format=openmetrics",
            "/events",
            "/no/such/path",
        ] {
            refused(server.get(path));
        }
        refused(server.call_as("GET", "/streams", None));
        refused(server.put("/streams/c", json!({})));
        refused(server.delete("/streams/b"));
        // The page is there, and shows what the server refuses.
        let page = server.connect().request("GET", "/ui/", &[], b"");
        assert!(page.expect(200).text().contains("app.js"));
        refused(server.post("/session", json!({"key": API_KEY})));
        assert!(server.terminate().success());
        assert!(files(&server.data_dir()) == before, "nothing was written");
    }
    fs::write(&file, &whole).expect("written");
    server.start();
    server.get("/monitoring/readiness").expect(200);
    let list = server.get("/streamers/s1/streams").expect(200).json();
    assert_eq!(names(&list), ["a", "b"]);
}

#[test]
fn readable_store_is_read_and_not_written() {
    let mut server = TestServer::with(&["--layouter-enabled"]);
    save_node(&server, "s1");
    let items: Vec<Value> = (0..50).map(|i| json!({"name": format!("a{i}")})).collect();
    server.put("/streams/batch", json!(items)).expect(204);
    lay_out(&server, &[("a1", "s1"), ("a2", "s1")]);
    let rights = json!([{"scopes": ["streams/a1"], "list": true, "read": true, "write": true}]);
    let restricted = token(&server, "t", json!({"permissions": rights}));
    let list = server.get("/streams?limit=100").expect(200).json();
    let configuration = server.get("/streamers/s1/streams").expect(200);
    server.kill();
    // A start removes what a creation has left, which this cannot be.
    let blocked = server.data_dir().join("weir.redb.new");
    fs::create_dir(&blocked).expect("made");
    for _ in 0..2 {
        fails(&start_and_fail(&server, &[]), 74);
    }
    server.start();
    let before = files(&server.data_dir());
    server.get("/monitoring/liveness").expect(200);
    let text = refused(server.get("/monitoring/readiness"));
    assert!(text.contains("changes are refused"), "{text}");
    let metrics = server
        .get("/cluster/stats?format=openmetrics")
        .expect(200)
        .text();
    assert!(metrics.contains("\nweir_store_safe_mode 1\n"), "{metrics}");
    // All that was acknowledged is there, for everyone who may read it.
    let now = server.get("/streams?limit=100").expect(200).json();
    assert_eq!(now["streams"], list["streams"]);
    let again = server.get("/streamers/s1/streams").expect(200);
    assert_eq!(again.json()["streams"], configuration.json()["streams"]);
    assert_eq!(etag(&again), etag(&configuration));
    let own = server.call_as("GET", "/streams?limit=100", Some(&restricted));
    assert_eq!(names(&own.expect(200).json()), ["a1"]);
    let fields = format!("If-None-Match: {}\r\n", etag(&again));
    let mut parked = park(&server, "/streamers/s1/streams?poll_timeout=1", &fields);
    refused(server.put("/streams/a1", json!({"title": "new"})));
    refused(server.put("/streams/batch", json!([{"name": "a1"}, {"name": "new"}])));
    refused(server.delete("/streams/a1"));
    refused(server.post(
        "/streams/layouts",
        json!({"layouts": [{"name": "a3", "ingest": "s1"}]}),
    ));
    refused(server.put("/streamers/s2", json!({})));
    refused(server.put("/config", json!({"api_key": API_KEY, "log_level": "error"})));
    refused(server.call_as("DELETE", "/streams/a1", Some(&restricted)));
    server
        .call_as("DELETE", "/streams/a2", Some(&restricted))
        .expect(403);
    // A list of episodes that may be incomplete is none.
    server.get("/streamers/s1/episodes").expect(501);
    parked.response(false).expect(304);
    assert!(server.terminate().success());
    assert!(files(&server.data_dir()) == before, "nothing was written");
    fs::remove_dir(&blocked).expect("removed");
    server.start();
    server.get("/monitoring/readiness").expect(200);
    server
        .put("/streams/a1", json!({"title": "new"}))
        .expect(200);
    let now = server.get("/streams?limit=100").expect(200).json();
    assert_eq!(names(&now), names(&list));
}
