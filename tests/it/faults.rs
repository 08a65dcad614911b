//! The store fails under a running server: writes are refused with errors that clients can handle,
//! reads continue, nothing acknowledged is lost, and writing resumes automatically.
//!
//! The disk of the real program is "full" through a limit on the size of its files, which needs no
//! privileges and can be lifted from outside. What a commit with an unknown outcome becomes is
//! tested on the writer and a simulated disk, in both ways.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use weir::testing::core::CoreMessage;
use weir::testing::http::Ticket;
use weir::testing::json::{Object, Value as Json};
use weir::testing::rt::Inbox;
use weir::testing::state::State;
use weir::testing::state::changes::Done;
use weir::testing::state::command::{Command, StreamPatch};
use weir::testing::state::name::StreamName;
use weir::testing::state::node::RenderSettings;
use weir::testing::writer::load;
use weir::testing::writer::{
    COMMANDS_WAITING_MAX, Envelope, Published, ReplyTo, StateMachine, Writer,
};
use weir_storage::sim::{Fault, SimDisk};
use weir_storage::{Batch, Opened, Options, Storage, Store, StoreError, Table};

use crate::calls::{park, park_request};
use crate::event::check_form;
use crate::metrics::Metrics;
use crate::stub::{Stub, StubResponse};
use weir_testkit::{API_KEY, Client, PREFIX, Response, TestServer, wait_until};

// ---- the real program ---------------------------------------------------------------------------

pub fn limit_files(process: u32, bytes: Option<u64>) {
    weir_testkit::sys::limit_file_size(process, bytes).expect("the process is ours");
}

/// Waits until the store has nothing of its own to write: a write of it that fails would be the
/// first one.
fn wait_until_applied(server: &TestServer) {
    wait_until(
        "all that is saved is in the tables",
        || {
            let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
            let metrics = Metrics::read(&answer);
            let value = |name: &str| metrics.value(name, &[]) as u64;
            (value("weir_store_applied_revision"), value("weir_revision"))
        },
        |(applied, saved)| applied == saved,
    );
}

#[test]
fn full_disk_refuses_writes_only_until_space_is_free() {
    let mut server = TestServer::with(&["--io-threads", "2"]);
    let body = json!({"role": "streamer", "cluster_key": "k", "api_url": "http://s1"});
    server.put("/streamers/s1", body).expect(200);
    server.put("/streams/first", json!({})).expect(200);
    let layouts = json!({"layouts": [{"name": "first", "ingest": "s1"}]});
    server.post("/streams/layouts", layouts).expect(204);
    let protected = json!({"media": "first", "opened_at": 1_727_274_724_000_u64});
    server.put("/episodes/7", protected).expect(200);
    let config = server.get("/streamers/s1/streams").expect(200);
    let tag = config.header("etag").expect("a tag").to_owned();
    let tagged = format!("If-None-Match: {tag}\r\n");
    let mut poll = park(&server, "/streamers/s1/streams?poll_timeout=50", &tagged);
    let mut list = park(&server, "/streams?name=after&poll_timeout=50", "");

    let used = std::fs::metadata(server.data_dir().join("weir.redb"))
        .expect("the store is a file")
        .len();
    limit_files(server.id(), Some(used));
    let mut acknowledged = BTreeMap::new();
    let mut unknown = BTreeMap::new();
    let big = "x".repeat(100_000);
    let refused = loop {
        let n = acknowledged.len();
        let body = json!({"comment": format!("{n} {big}")});
        let answer = server.put(&format!("/streams/s{n}"), body.clone());
        if answer.status == 200 {
            acknowledged.insert(format!("s{n}"), body["comment"].clone());
            assert!(n < 1000, "the file of {used} bytes does not fill");
            continue;
        }
        unknown.insert(format!("s{n}"), body["comment"].clone());
        break answer;
    };
    // The error of a write has whether it may have been stored, and when to retry.
    let mut answers = vec![refused];
    for i in 0..5 {
        answers.push(server.put(&format!("/streams/while-{i}"), json!({"comment": big})));
    }
    answers.push(server.put(
        "/streams/batch",
        json!([{"name": "while-batch", "comment": big}]),
    ));
    for answer in &answers {
        assert_eq!(answer.status, 503, "{}", answer.text());
        let seconds: u32 = answer
            .header("retry-after")
            .expect("a time")
            .parse()
            .expect("seconds");
        assert!((1..=60).contains(&seconds));
        let code = answer.errors()[0].clone();
        assert!(
            ["storage_failed", "storage_unavailable"].contains(&code.as_str()),
            "{code}"
        );
    }
    // Reads of all kinds go on, with everything that was acknowledged.
    let check = |server: &TestServer| {
        for (name, comment) in &acknowledged {
            let stream = server.get(&format!("/streams/{name}")).expect(200).json();
            assert_eq!(stream["comment"], *comment, "{name}");
        }
        let config = server.get("/streamers/s1/streams").expect(200);
        assert_eq!(config.header("etag"), Some(tag.as_str()));
        // The episodes to keep are sent completely, or not at all while one of unknown outcome may
        // be on disk.
        let kept = server.get("/streamers/s1/episodes?media=first");
        if kept.status == 200 {
            assert_eq!(kept.json()["episodes"][0]["episode_id"], 7);
        } else {
            assert_eq!(kept.expect(501).errors(), ["episodes_unknown"]);
        }
        let list = server
            .get("/streams?limit=10000&select=name")
            .expect(200)
            .json();
        let names: Vec<&str> = list["streams"]
            .as_array()
            .expect("streams")
            .iter()
            .filter_map(|stream| stream["name"].as_str())
            .collect();
        assert!(
            !names.iter().any(|name| name.starts_with("while-")),
            "{names:?}"
        );
    };
    check(&server);
    let ready = "/monitoring/readiness";
    server
        .call_as("GET", "/monitoring/liveness", None)
        .expect(200);

    // A kill in this condition takes nothing back either.
    limit_files(server.id(), None);
    let status = || server.call_as("GET", ready, None).status;
    wait_until("the store comes back", status, |status| *status == 200);
    check(&server);
    server
        .put("/streams/after", json!({"title": "Again"}))
        .expect(200);
    let answer = list.response(false).expect(200);
    assert_eq!(answer.json()["streams"][0]["name"], "after");
    server
        .put("/streams/first", json!({"title": "Again"}))
        .expect(200);
    let answer = poll.response(false).expect(200);
    assert_eq!(answer.json()["streams"][0]["title"], "Again");
    for (name, comment) in &unknown {
        let answer = server.get(&format!("/streams/{name}"));
        assert!(answer.status == 404 || answer.json()["comment"] == *comment);
    }
    let before = server.get("/streams?limit=10000").json()["streams"].clone();
    server.kill();
    server.start();
    assert_eq!(server.get("/streams?limit=10000").json()["streams"], before);
}

#[test]
fn full_disk_accepts_deletions_and_takes_their_space() {
    // Method: the file of the store may not grow, until a save fails. Then it may grow by less than
    // the reserve, as if the reserve had been given up.
    let server = TestServer::with(&["--io-threads", "2"]);
    let used = std::fs::metadata(server.data_dir().join("weir.redb"));
    let used = used.expect("the store is a file").len();
    let full = used + (4 << 20);
    limit_files(server.id(), Some(full));
    let save = |name: &str, kilobytes: usize| {
        let comment = "x".repeat(kilobytes * 1000);
        server.put(&format!("/streams/{name}"), json!({ "comment": comment }))
    };
    let mut stored = 0;
    while save(&format!("s{stored}"), 50).status == 200 {
        stored += 1;
        assert!(stored < 1000, "the file of {full} bytes does not fill");
    }
    assert!(stored > 10, "{stored}");
    let readiness = || server.call_as("GET", "/monitoring/readiness", None);
    let wait_for = |code: &str| {
        let errors = || {
            let answer = readiness();
            (answer.status == 503).then(|| answer.errors()[0].clone())
        };
        wait_until("readiness", errors, |seen| seen.as_deref() == Some(code));
    };
    wait_for("disk_full");
    assert!(readiness().header("retry-after").is_some());
    limit_files(server.id(), Some(full + (16 << 20)));
    let refused = save("refused", 50).expect(503);
    assert_eq!(refused.errors(), ["storage_unavailable"]);
    let agent = server.put("/agents/a", json!({"key": "k"}));
    assert_eq!(agent.status, 503, "{}", agent.text());
    // Saves of another client never have deletions refused.
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Bounded: the deletions may fail.
            for _ in 0..2000 {
                if ended.load(Ordering::Acquire) {
                    return;
                }
                let status = save("beside", 500).status;
                assert!([200, 503].contains(&status), "{status}");
            }
        });
        for n in 0..stored {
            let answer = server.delete(&format!("/streams/s{n}"));
            let deleted = answer.status == 204;
            assert!(deleted, "{n} of {stored}: {}", answer.text());
        }
        ended.store(true, Ordering::Release);
    });
    let events = server
        .get("/events?operation_id=stream_delete&limit=1")
        .json();
    assert_eq!(events["estimated_count"], stored, "{events}");
    // The disk is still full, and there is room inside the file.
    wait_for("disk_full");
    save("small", 1).expect(200);
    // Space is noticed without a save.
    limit_files(server.id(), None);
    wait_until("space", || readiness().status, |status| *status == 200);
    save("large", 500).expect(200);
}

#[test]
fn server_with_a_failed_store_is_alive_and_not_ready() {
    // The limit is below what the store has, so that it cannot be opened for as long as the limit
    // stands.
    let server = TestServer::with(&["--episodes-buffer-delay", "0"]);
    let node = json!({"role": "streamer", "cluster_key": "k"});
    server.put("/streamers/s1", node).expect(200);
    let protected = json!({"media": "a", "opened_at": 1_727_274_724_000_u64});
    server.put("/episodes/7", protected).expect(200);
    let kept = || server.get("/streamers/s1/episodes?media=a");
    assert_eq!(kept().expect(200).json()["episodes"][0]["episode_id"], 7);
    let failures = "/events?event=database_error";
    assert_eq!(server.get(failures).json()["estimated_count"], 0);
    server
        .put("/streams/a", json!({"title": "One"}))
        .expect(200);
    limit_files(server.id(), Some(0));
    let refused = server
        .put("/streams/a", json!({"title": "Two"}))
        .expect(503);
    assert!(refused.header("retry-after").is_some());
    let not_ready = server
        .call_as("GET", "/monitoring/readiness", None)
        .expect(503);
    assert_eq!(not_ready.errors(), ["not_ready"]);
    assert!(not_ready.header("retry-after").is_some());
    server
        .call_as("GET", "/monitoring/liveness", None)
        .expect(200);
    assert_eq!(server.get("/streams/a").expect(200).json()["title"], "One");
    let refused = server.delete("/streams/a").expect(503);
    assert_eq!(refused.errors(), ["storage_unavailable"]);
    // A streamer gets no list of episodes to keep and so deletes none; it still gets its
    // configuration.
    assert_eq!(kept().expect(501).errors(), ["episodes_unknown"]);
    server.get("/streamers/s1/streams").expect(200);
    limit_files(server.id(), None);
    let status = || server.put("/streams/a", json!({"title": "Three"})).status;
    wait_until("the store comes back", status, |status| *status == 200);
    // The reserve may have been given up, and is kept again a little later.
    let readiness = || server.call_as("GET", "/monitoring/readiness", None).status;
    wait_until("readiness", readiness, |status| *status == 200);
    assert!(server.log().contains("the store is back"));
    assert_eq!(kept().expect(200).json()["episodes"][0]["episode_id"], 7);
    // The failure is in the event log, once the store is back.
    let logged = server.get(&format!("{failures}&poll_timeout=50"));
    let logged = logged.expect(200).json();
    assert_eq!(logged["estimated_count"], 1, "{logged}");
    let message = logged["events"][0]["message"].as_str();
    assert!(
        message.is_some_and(|message| !message.is_empty()),
        "{logged}"
    );
}

#[test]
fn store_that_stays_lost_is_reported_counted_and_logged() {
    // Goal: a store that cannot be opened again is told from one that fails for a moment: by the
    // readiness, a metric and afterwards an event; reads go on. Method: the limit is below what the
    // store has, for as long as it takes to fail to open it three times.
    let mut server = TestServer::new();
    let node = json!({"role": "streamer", "cluster_key": "k"});
    server.put("/streamers/s1", node).expect(200);
    let layout = json!({"title": "One", "layout": {"ingest": "s1"}});
    server.put("/streams/a", layout).expect(200);
    let metric = || {
        let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
        Metrics::read(&answer).value("weir_store_reopen_failures_total", &[]) as u64
    };
    let reopens = || {
        let answer = server.call_as("GET", "/monitoring/readiness", None);
        (answer.status == 503).then(|| answer.json()["errors"][0].clone())
    };
    assert_eq!((metric(), reopens()), (0, None));
    let mut poll = park(&server, "/streams?title=Two&poll_timeout=50", "");
    limit_files(server.id(), Some(0));
    server.delete("/streams/a").expect(503);
    let is_lost = |error: &Option<Value>| {
        let count = error
            .as_ref()
            .and_then(|error| error["meta"]["reopen_failures"].as_str());
        count.is_some_and(|count| count.parse::<u64>().is_ok_and(|count| count >= 3))
    };
    let error = wait_until("three failed attempts", reopens, is_lost).expect("an error");
    assert_eq!(error["code"], "not_ready", "{error}");
    let title = error["title"].as_str().expect("a title");
    assert!(title.contains("could not be opened"), "{title}");
    let counted = metric();
    assert!(counted >= 3, "{counted}");
    // The process serves reads of all kinds, and refuses writes at once.
    server
        .call_as("GET", "/monitoring/liveness", None)
        .expect(200);
    assert_eq!(server.get("/streams/a").expect(200).json()["title"], "One");
    assert_eq!(
        server.get("/streams?q=one").expect(200).json()["estimated_count"],
        1
    );
    let config = server.get("/streamers/s1/streams").expect(200).json();
    assert_eq!(config["streams"][0]["name"], "a");
    let refused = server
        .put("/streams/a", json!({"title": "Two"}))
        .expect(503);
    assert_eq!(refused.errors(), ["storage_unavailable"]);
    limit_files(server.id(), None);
    wait_until("the store comes back", reopens, Option::is_none);
    server
        .put("/streams/a", json!({"title": "Two"}))
        .expect(200);
    poll.response(false).expect(200);
    let failures = "/events?event=database_error&poll_timeout=50";
    for _ in 0..2 {
        let logged = server.get(failures).expect(200).json();
        assert_eq!(logged["estimated_count"], 1, "{logged}");
        let event = &logged["events"][0];
        let failed = event["reopen_failures"].as_u64().expect("a count");
        assert!(failed >= counted, "{event}");
        check_form(std::slice::from_ref(event));
        server.restart();
    }
}

#[test]
fn offloaded_batch_on_a_full_disk_is_refused_and_later_saved() {
    // Goal: a batch whose body another thread reads is answered, stored and logged like a small one
    // if the disk is full. Method: the file of the store may not grow; the batch is the first write
    // that fails, or the store has already failed at another write.
    let count = 2000;
    let item = |i: usize| json!({"name": format!("big/{i:04}"), "comment": "x".repeat(1000)});
    let batch: Value = (0..count).map(item).collect();
    for has_failed in [false, true] {
        let server = TestServer::with(&["--io-threads", "2"]);
        server.put("/streams/first", json!({})).expect(200);
        wait_until_applied(&server);
        let used = std::fs::metadata(server.data_dir().join("weir.redb"));
        let used = used.expect("the store is a file").len();
        let offloaded = || {
            let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
            Metrics::read(&answer).value("weir_offload_jobs_total", &[]) as u64
        };
        let saved = || {
            let page = server
                .get("/streams?name_like=big/&limit=1")
                .expect(200)
                .json();
            page["estimated_count"].as_u64().expect("a count")
        };
        let logged = || {
            let page = server
                .get("/events?operation_id=streams_batch_update")
                .expect(200);
            let of_stream = server.get("/events?stream=big/1999").expect(200).json();
            let page = page.json();
            assert_eq!(page["events"], of_stream["events"]);
            page["events"].as_array().expect("a list").clone()
        };
        let before = offloaded();
        limit_files(server.id(), Some(if has_failed { 0 } else { used }));
        if has_failed {
            let failed = server.put("/streams/second", json!({})).expect(503);
            assert_eq!(failed.errors(), ["storage_failed"]);
        }
        let refused = server.put("/streams/batch", batch.clone()).expect(503);
        assert!(offloaded() > before, "the body is read by another thread");
        let code = if has_failed {
            "storage_unavailable"
        } else {
            "storage_failed"
        };
        assert_eq!(refused.errors(), [code]);
        assert!(matches!(refused.retry_after(), Some(1..=60)), "{refused:?}");
        assert_eq!((saved(), logged().len()), (0, 0));
        server.get("/streams/first").expect(200);
        limit_files(server.id(), None);
        let ready = || server.call_as("GET", "/monitoring/readiness", None).status;
        wait_until("space", ready, |status| *status == 200);
        // What was unknown is that nothing is stored.
        assert_eq!((saved(), logged().len()), (0, 0));
        server.put("/streams/batch", batch.clone()).expect(204);
        assert_eq!(saved(), count as u64);
        let events = logged();
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0]["entities_count"], count);
        let entities = events[0]["entities"].as_array().expect("a list");
        assert_eq!((entities.len(), &entities[0]), (100, &json!("big/0000")));
    }
}

/// Sends a save of a streamer with a check and returns once the streamer was called.
fn pending_save(server: &TestServer, path: &str, body: &Value, node: &Stub) -> Client {
    let body = body.to_string();
    let request = format!(
        "PUT {PREFIX}{path}?checks_enable=true HTTP/1.1\r\nHost: t\r\n\
         Authorization: Bearer {API_KEY}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let client = park_request(server, &request);
    node.call();
    client
}

#[test]
fn full_disk_refuses_a_save_that_waited_for_its_check() {
    // Goal: a save is answered like a direct one when the disk fills while its streamer is checked.
    // Method: the streamer answers after the disk is full. Then the save is the first write that
    // fails, or the store has already failed at another write.
    let config = StubResponse::with(200, "", r#"{"listeners":{}}"#);
    for has_failed in [false, true] {
        let server = TestServer::with(&["--outbound-loopback"]);
        // Behind the events of the start, whose write would be the first that fails.
        server.put("/streams/first", json!({})).expect(200);
        wait_until_applied(&server);
        let node = Stub::new(StubResponse::Hold);
        let body = json!({"role": "streamer", "cluster_key": "k", "api_url": node.url("")});
        let mut client = pending_save(&server, "/streamers/checked", &body, &node);
        limit_files(server.id(), Some(0));
        let code = |answer: &Response| {
            let seconds = answer.header("retry-after").map(str::parse::<u32>);
            assert!(matches!(seconds, Some(Ok(1..=60))), "{answer:?}");
            (answer.status, answer.errors())
        };
        if has_failed {
            let failed = server.put("/streamers/other", body.clone());
            assert_eq!(code(&failed), (503, vec!["storage_failed".to_owned()]));
        }
        node.respond_with(config.clone());
        let checked = client.response(false);
        let direct = server.put("/streamers/direct", body.clone());
        assert_eq!(code(&direct), (503, vec!["storage_unavailable".to_owned()]));
        if has_failed {
            assert_eq!(code(&checked), code(&direct));
        } else {
            assert_eq!(code(&checked), (503, vec!["storage_failed".to_owned()]));
        }
        server.get("/streamers/checked").expect(404);
        limit_files(server.id(), None);
        let status = || server.put("/streams/a", json!({})).status;
        wait_until("the store comes back", status, |status| *status == 200);
        // No byte was written, so the outcome that was unknown is that nothing is stored.
        server.get("/streamers/checked").expect(404);
        let path = "/streamers/checked?checks_enable=true";
        let saved = server.put(path, body).expect(200).json();
        node.call();
        assert_eq!(saved, server.get("/streamers/checked").expect(200).json());
        let events = server.get("/events?operation_id=streamer_save").json();
        assert_eq!(events["estimated_count"], 1, "of what was saved: {events}");
    }
}

#[test]
fn settings_change_is_logged_after_a_store_failure() {
    // Method: the store is down, so that the file is changed and the event is not written; the
    // process is killed in this condition.
    let key = "faults-key-0123456789";
    let file = format!("api_key = \"{key}\"\nstorage_log = \"redb\"\n");
    let mut server = TestServer::with_file(&file);
    let bearer = format!("Bearer {key}");
    let call = |server: &TestServer, method: &str, path: &str, trace_id: &str, body: &Value| {
        let fields = [("Authorization", bearer.as_str()), ("X-Trace-Id", trace_id)];
        let body = body.to_string();
        let body = if method == "GET" { "" } else { &body };
        let path = format!("{PREFIX}{path}");
        let client = &mut server.connect();
        client.request(method, &path, &fields, body.as_bytes())
    };
    let change = |server: &TestServer, trace_id: &str, limit: u32| {
        let body = json!({"api_key": key, "episodes_buffer_limit": limit});
        call(server, "PUT", "/config", trace_id, &body).expect(200);
    };
    let logged = |server: &TestServer| {
        let path = "/events?operation_id=config_save&sort=event_id";
        let list = call(server, "GET", path, "", &Value::Null)
            .expect(200)
            .json();
        let events = list["events"].as_array().expect("a list").iter();
        let logged = |event: &Value| {
            assert_eq!(
                (&event["status"], &event["user"]),
                (&json!(200), &json!("api_key"))
            );
            assert_eq!(
                event["changed"],
                json!(["/episodes_buffer_limit"]),
                "{event}"
            );
            event["trace_id"].as_str().expect("an id").to_owned()
        };
        events.map(logged).collect::<Vec<_>>()
    };
    change(&server, "t1", 1);
    assert_eq!(logged(&server), ["t1"]);
    // Room for files of settings, none for the store.
    limit_files(server.id(), Some(16 * 1024));
    let title = json!({"title": "x"});
    call(&server, "PUT", "/streams/a", "t", &title).expect(503);
    change(&server, "t2", 2);
    change(&server, "t3", 3);
    assert_eq!(logged(&server), ["t1"]);
    server.kill();
    server.start();
    assert_eq!(logged(&server), ["t1", "t2", "t3"]);
    assert_eq!(
        call(&server, "GET", "/config", "", &Value::Null).json()["episodes_buffer_limit"],
        3
    );
    server.kill();
    server.start();
    assert_eq!(logged(&server), ["t1", "t2", "t3"], "once");
    // Without a crash the next change brings it along.
    limit_files(server.id(), Some(16 * 1024));
    call(&server, "PUT", "/streams/a", "t", &title).expect(503);
    change(&server, "t4", 4);
    limit_files(server.id(), None);
    let status = || call(&server, "PUT", "/streams/a", "t", &title).status;
    wait_until("the store comes back", status, |status| *status == 200);
    change(&server, "t5", 5);
    assert_eq!(logged(&server), ["t1", "t2", "t3", "t4", "t5"]);
}

#[test]
fn server_stops_while_its_store_is_down() {
    let mut server = TestServer::new();
    server
        .put("/streams/a", json!({"title": "One"}))
        .expect(200);
    limit_files(server.id(), Some(0));
    server
        .put("/streams/a", json!({"title": "Two"}))
        .expect(503);
    server.signal(weir_testkit::Signal::TERM);
    server.wait();
    server.start();
    let title = server.get("/streams/a").expect(200).json()["title"].clone();
    assert!(["One", "Two"].contains(&title.as_str().expect("a title")));
}

// ---- the writer on a simulated disk -------------------------------------------------------------

fn options() -> Options {
    Options {
        cache_bytes: 1 << 20,
        check_bytes_max: 0,
        reserve_bytes: 16 << 10,
        ..Options::default()
    }
}

fn machine(disk: &SimDisk) -> StateMachine<Store> {
    let (store, opened) = Store::open_on(Arc::new(disk.clone()), &options()).expect("opens");
    let state = load(&store, &opened, RenderSettings::default()).expect("loads");
    StateMachine::new(state, store)
}

fn save(name: &str, title: &str) -> Command {
    let config: Object = [("title", Json::String(title.into()))]
        .into_iter()
        .collect();
    Command::SaveStream {
        name: StreamName::parse(name).expect("a name"),
        patch: StreamPatch {
            config,
            layout: None,
        },
    }
}

fn titles(state: &State) -> BTreeMap<String, (String, u64)> {
    let list = state.streams_by_name(std::ops::Bound::Unbounded);
    list.map(|stream| {
        let config: Value = serde_json::from_str(&stream.config).expect("JSON");
        let title = config["title"].as_str().unwrap_or_default().to_owned();
        (
            stream.name.to_string(),
            (title, stream.updated_at.to_native()),
        )
    })
    .collect()
}

#[test]
fn unknown_commit_outcome_is_resolved_from_the_disk() {
    // Goal: after a failed commit the state is the disk's, never the one or the other by belief.
    // Method: fail each operation of a commit in turn, recover, and compare with what a fresh start
    // loads. Both outcomes must have come up.
    let (mut kept, mut lost, mut refused) = (0, 0, 0);
    for fault in [
        Fault::Once(io::ErrorKind::Other),
        Fault::Once(io::ErrorKind::StorageFull),
        Fault::Short(io::ErrorKind::StorageFull),
    ] {
        for at in 1.. {
            let disk = SimDisk::new();
            let mut machine = machine(&disk);
            machine
                .batch(vec![save("a", "one"), save("b", "one")], 1_000)
                .expect("commits");
            let before = machine.state().clone();
            let operations = disk.operations();
            disk.set_fault(at, fault);
            let outcome = machine.batch(vec![save("a", "two"), save("c", "two")], 2_000);
            let spent = disk.operations() - operations;
            let context = format!("{fault:?} at {at}");
            match outcome {
                Ok(applied) => {
                    disk.clear_faults();
                    assert!(
                        applied.commit.is_some() && !machine.is_failed(),
                        "{context}"
                    );
                    if spent < at {
                        break; // The whole commit came before the fault.
                    }
                }
                Err(_) => {
                    // The change is not published while its outcome is unknown.
                    assert!(Arc::ptr_eq(machine.state(), &before), "{context}");
                    disk.clear_faults();
                    if machine.is_failed() {
                        let commit = machine.recover().expect("the disk works again");
                        assert!(!machine.is_failed());
                        match commit {
                            Some(commit) => {
                                kept += 1;
                                assert!(Arc::ptr_eq(machine.state(), &commit.state), "{context}");
                                assert_eq!(commit.revision, before.revision() + 1);
                                let listed: Vec<&str> =
                                    commit.streams.iter().map(StreamName::as_str).collect();
                                assert_eq!(listed, ["a", "c"]);
                            }
                            None => {
                                lost += 1;
                                assert!(Arc::ptr_eq(machine.state(), &before), "{context}");
                            }
                        }
                    } else {
                        refused += 1;
                    }
                }
            }
            // Writing works again, above every stamp that may have been handed out.
            let stamp = machine.state().stamp_ms();
            machine.batch(vec![save("d", "three")], 0).expect("commits");
            let now = titles(machine.state());
            assert!(now["d"].1 > stamp, "{context}");
            let revision = machine.state().revision();
            machine.into_storage().close().expect("closes");
            let restarted = self::machine(&disk);
            assert_eq!(titles(restarted.state()), now, "{context}");
            assert_eq!(restarted.state().revision(), revision, "{context}");
        }
    }
    assert!(
        lost > 0,
        "no commit was taken back ({kept} kept, {refused} refused)"
    );
    println!("{kept} kept, {lost} lost, {refused} refused before anything was written");
}

#[test]
fn power_cut_leaves_all_of_a_batch_or_nothing() {
    let (mut kept, mut lost) = (0, 0);
    for at in 1..60 {
        for seed in 0..4 {
            let disk = SimDisk::new();
            let mut machine = machine(&disk);
            machine
                .batch(vec![save("a", "one")], 1_000)
                .expect("commits");
            let commands = (0..20).map(|i| save(&format!("s{i}"), "two")).collect();
            disk.set_fault(at, Fault::Cut);
            let acknowledged = machine.batch(commands, 2_000).is_ok();
            let after = disk.power_cut(seed);
            drop(machine);
            let found = titles(self::machine(&after).state());
            assert_eq!(found["a"].0, "one");
            match found.len() {
                1 => {
                    assert!(
                        !acknowledged,
                        "cut at {at}, seed {seed}: an acknowledged batch is gone"
                    );
                    lost += 1;
                }
                21 => kept += 1,
                some => panic!("cut at {at}, seed {seed}: {} of 20", some - 1),
            }
        }
    }
    assert!(kept > 0 && lost > 0, "{kept} kept, {lost} lost");
}

#[test]
fn stamps_rise_even_if_the_clock_steps_back() {
    // Goal: strictly increasing in commit order over restarts, with the clock set back an hour,
    // standing still and ten years ahead.
    let disk = SimDisk::new();
    let mut last = 0;
    let hour = 3_600_000;
    let start = 1_800_000_000_000u64;
    let clocks = [
        start,
        start,
        start - hour,
        0,
        start + 10,
        start + 10 * 365 * 24 * hour,
        start + 20,
    ];
    for (round, now) in clocks.into_iter().enumerate() {
        let mut machine = machine(&disk);
        assert_eq!(machine.state().stamp_ms(), last, "round {round}");
        for i in 0..3u64 {
            let title = format!("{round} {i}");
            machine
                .batch(vec![save("a", &title), save(&title, "x")], now)
                .expect("commits");
            let stamp = machine.state().stamp_ms();
            assert!(
                stamp > last && stamp >= now,
                "round {round}: {stamp} after {last}"
            );
            last = stamp;
            let titles = titles(machine.state());
            assert_eq!(
                (titles["a"].1, titles[&title].1),
                (stamp, stamp),
                "one batch, one stamp"
            );
            // A command without a change leaves the stamp.
            let nothing = machine
                .batch(vec![save("a", &title)], now + 1_000_000)
                .expect("no commit");
            assert!(nothing.commit.is_none() && machine.state().stamp_ms() == last);
        }
        machine.into_storage().close().expect("closes");
    }
}

/// A store on a disk that fails during some of its commits, which are counted from 1.
struct FailingStorage {
    store: Store,
    disk: SimDisk,
    commits: u32,
    failing: std::ops::RangeInclusive<u32>,
}

impl Storage for FailingStorage {
    fn load(
        &self,
        table: Table,
        prefix: Option<u8>,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<u64, StoreError> {
        self.store.load(table, prefix, each)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.commits += 1;
        if self.failing.contains(&self.commits) {
            self.disk.set_fault(1, Fault::Once(io::ErrorKind::Other));
        }
        self.store.commit(batch)
    }

    fn is_short_of_space(&self) -> bool {
        self.store.is_short_of_space()
    }

    fn look_for_space(&mut self) {
        self.store.look_for_space();
    }

    fn is_failed(&self) -> bool {
        self.store.is_failed()
    }

    fn reopen(&mut self) -> Result<Opened, StoreError> {
        self.store.reopen()
    }
}

#[test]
fn failure_is_logged_although_the_store_fails_again() {
    // Method: the commit of a save fails, and then that of the event of this failure.
    let disk = SimDisk::new();
    let (store, opened) = Store::open_on(Arc::new(disk.clone()), &options()).expect("opens");
    let state = load(&store, &opened, RenderSettings::default()).expect("loads");
    let log = FailingStorage {
        store,
        disk,
        commits: 0,
        failing: 2..=3,
    };
    let machine = StateMachine::new(state, log);
    let published = Arc::new(Published::new(machine.state().clone()));
    let (writer, commands, stop) = Writer::new(machine, published.clone(), Vec::new());
    let writer = std::thread::spawn(move || writer.run(|| 1_000));
    for title in ["one", "two"] {
        let sent = commands.send(Envelope::unanswered(save("a", title)));
        assert!(sent.is_ok());
        let revision = || published.state().load().revision();
        if title == "one" {
            wait_until("the first save", revision, |revision| *revision == 1);
        }
    }
    let logged = || {
        let state = published.state().load();
        let events = state.events().values();
        let texts = events.flat_map(|chunk| chunk.events.iter().map(ToString::to_string));
        texts.collect::<Vec<_>>()
    };
    let logged = wait_until("the event of the failure", logged, |texts| {
        !texts.is_empty()
    });
    stop.store(true, Ordering::Release);
    let machine = writer.join().expect("the writer ends in order");
    assert_eq!(published.metrics().failures(), 2);
    assert_eq!(titles(machine.state())["a"].0, "one");
    assert_eq!(machine.state().events_count(), 1);
    let event: Value = serde_json::from_str(&logged[0]).expect("JSON");
    assert_eq!(event["event"], "database_error", "{event}");
}

#[test]
fn full_queue_is_reported_and_accepted_commands_complete() {
    let disk = SimDisk::new();
    let machine = machine(&disk);
    let published = Arc::new(Published::new(machine.state().clone()));
    let inbox = Arc::new(Inbox::new());
    let (writer, commands, stop) = Writer::new(machine, published.clone(), vec![inbox.clone()]);
    let envelope = |i: usize| Envelope {
        command: save(&format!("s{}", i % 10), &i.to_string()).into(),
        reply_to: ReplyTo::Core {
            index: 0,
            ticket: Ticket {
                slot: i as u32,
                epoch: 1,
            },
        },
    };
    for i in 0..COMMANDS_WAITING_MAX {
        assert!(commands.send(envelope(i)).is_ok());
    }
    let refused = commands.send(envelope(0)).expect_err("there is no room");
    assert_eq!(
        (refused.status, refused.items[0].code),
        (503, "writer_busy")
    );
    assert!(refused.retry_after_seconds.is_some());

    stop.store(true, Ordering::Release);
    let machine = writer.run(|| 1_000);
    let mut answered = Vec::new();
    while let Some(message) = inbox.try_recv() {
        let CoreMessage::Batch { replies, .. } = message else {
            panic!("unexpected drain")
        };
        for (ticket, outcome) in replies {
            assert!(matches!(outcome, Ok(Done::Stream(_))));
            answered.push(ticket.slot as usize);
        }
    }
    let expected: Vec<usize> = (0..COMMANDS_WAITING_MAX).collect();
    assert_eq!(answered, expected, "each once, in order");
    assert_eq!(titles(machine.state()), titles(&published.state().load()));
    let gone = commands
        .send(envelope(0))
        .expect_err("the writer has ended");
    assert_eq!((gone.status, gone.items[0].code), (503, "shutting_down"));
}
