//! The layouter from the outside: simulated streamers poll the real program, and streams come to them, leave them and return.
//!
//! A simulated streamer is a thread that does what a streamer does: ask for its list, then wait for another. What it is told it passes on, so a
//! test waits for a list and never for time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::{API_KEY, PREFIX, TestServer};

/// How long a test waits for what must happen. A guard against hanging.
const GUARD: Duration = Duration::from_mins(2);

type Names = BTreeSet<String>;

/// All streamers of a test, and what each was told last.
struct Fleet {
    told: Sender<(String, u64, Names)>,
    news: Receiver<(String, u64, Names)>,
    streamers: BTreeMap<String, Streamer>,
    lists: BTreeMap<String, Names>,
    /// Answers of each, unchanged ones included.
    answers: BTreeMap<String, u64>,
}

struct Streamer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Fleet {
    fn new() -> Self {
        let (told, news) = channel();
        Self {
            told,
            news,
            streamers: BTreeMap::new(),
            lists: BTreeMap::new(),
            answers: BTreeMap::new(),
        }
    }

    /// Starts a streamer and waits for its first list.
    fn start(&mut self, server: &TestServer, host: &str) {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopping, told, name) = (stop.clone(), self.told.clone(), host.to_owned());
        let mut client = server.connect();
        let thread = std::thread::spawn(move || {
            let path = format!("{PREFIX}/streamers/{name}/streams");
            let bearer = format!("Bearer {API_KEY}");
            let (mut tag, mut names, mut count) = (None::<String>, Names::new(), 0);
            while !stopping.load(Ordering::Acquire) {
                let mut fields = vec![("Authorization", bearer.as_str())];
                fields.extend(tag.as_deref().map(|tag| ("If-None-Match", tag)));
                let answer = client.request("GET", &format!("{path}?poll_timeout=1"), &fields, b"");
                if answer.status == 200 {
                    tag = answer.header("etag").map(str::to_owned);
                    let body = answer.json();
                    let list = body["streams"].as_array().expect("a list");
                    let name = |stream: &Value| stream["name"].as_str().map(str::to_owned);
                    names = list.iter().filter_map(name).collect();
                } else {
                    assert_eq!(answer.status, 304);
                }
                count += 1;
                if told.send((name.clone(), count, names.clone())).is_err() {
                    return;
                }
            }
        });
        self.streamers
            .insert(host.to_owned(), Streamer { stop, thread });
        self.answers.remove(host);
        self.until(|fleet| fleet.answers.contains_key(host));
    }

    /// Ends a streamer: it is silent from now on.
    fn stop(&mut self, host: &str) {
        let streamer = self.streamers.remove(host).expect("it was started");
        streamer.stop.store(true, Ordering::Release);
        streamer.thread.join().expect("a streamer does not panic");
        // What it told in its last moment is old news now.
        while let Ok(news) = self.news.try_recv() {
            self.take(news);
        }
        self.lists.remove(host);
    }

    fn take(&mut self, (host, count, names): (String, u64, Names)) {
        self.answers.insert(host.clone(), count);
        if self.streamers.contains_key(&host) {
            self.lists.insert(host, names);
        }
    }

    /// Takes news until something is so.
    fn until(&mut self, so: impl Fn(&Self) -> bool) {
        let guard = Instant::now() + GUARD;
        while !so(self) {
            // Streamers that are told nothing new are answered, too.
            let left = guard.saturating_duration_since(Instant::now());
            let news = self.news.recv_timeout(left);
            let news = news.unwrap_or_else(|_| panic!("it never comes to that: {:?}", self.lists));
            self.take(news);
        }
    }

    /// Takes news until every running streamer was answered this often more.
    fn rounds(&mut self, count: u64) {
        let until: BTreeMap<String, u64> = self
            .streamers
            .keys()
            .map(|host| (host.clone(), self.answers[host] + count))
            .collect();
        self.until(|fleet| {
            until
                .iter()
                .all(|(host, count)| fleet.answers[host] >= *count)
        });
    }

    fn has(&self, host: &str) -> usize {
        self.lists.get(host).map_or(0, Names::len)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for streamer in self.streamers.values() {
            streamer.stop.store(true, Ordering::Release);
        }
    }
}

fn server(more: &[&str]) -> TestServer {
    let mut arguments = vec!["--layouter-enabled"];
    arguments.extend_from_slice(more);
    TestServer::with(&arguments)
}

fn save_streamer(server: &TestServer, host: &str, more: Value) {
    let mut body = json!({"role": "streamer", "cluster_key": "key"});
    let fields = more.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(fields);
    server.put(&format!("/streamers/{host}"), body).expect(200);
}

fn save_streams(server: &TestServer, names: std::ops::Range<usize>) {
    for i in names {
        server
            .put(&format!("/streams/c{i:02}"), json!({"static": true}))
            .expect(200);
    }
}

fn layouts(server: &TestServer) -> BTreeMap<String, Value> {
    let list = server.get("/streams?limit=1000").expect(200).json();
    let streams = list["streams"].as_array().expect("a list");
    streams
        .iter()
        .map(|stream| {
            let name = stream["name"].as_str().expect("a name").to_owned();
            (name, stream["layout"].clone())
        })
        .collect()
}

#[test]
fn streams_come_to_their_streamers_and_leave_a_lost_one() {
    // Goal: the whole way, from a save to the streamer's poll, and from a silent streamer to the other's. Method: two streamers, one ends.
    let server = server(&["--streamer-dead-timeout", "4s"]);
    save_streamer(&server, "s1", json!({}));
    save_streamer(&server, "s2", json!({}));
    let mut fleet = Fleet::new();
    fleet.start(&server, "s1");
    fleet.start(&server, "s2");
    save_streams(&server, 0..10);
    fleet.until(|fleet| fleet.has("s1") == 5 && fleet.has("s2") == 5);
    for (name, layout) in layouts(&server) {
        let host = layout["ingest"].as_str().expect("it is placed");
        assert!(fleet.lists[host].contains(&name));
        assert_eq!(layout["originator"], "layouter", "{layout}");
        assert_eq!(layout["change_reason"], "not_distributed", "{layout}");
    }
    let lost = fleet.lists["s1"].clone();
    fleet.stop("s1");
    fleet.until(|fleet| fleet.has("s2") == 10);
    for (name, layout) in layouts(&server) {
        assert_eq!(layout["ingest"], "s2");
        let expected = if lost.contains(&name) {
            ("node_become_offline", json!("s1"))
        } else {
            ("not_distributed", Value::Null)
        };
        assert_eq!(layout["change_reason"], expected.0, "{name}");
        assert_eq!(layout["failover_from"], expected.1, "{name}");
    }
    let events = server.get("/events?limit=1000").expect(200).json();
    let events = events["events"].as_array().expect("a list");
    let down = events
        .iter()
        .find(|event| event["event"] == "layouter_streamer_state")
        .expect("the loss is in the log");
    assert_eq!(
        (&down["entity_id"], &down["state"], &down["why"]),
        (&json!("s1"), &json!("down"), &json!("silent"))
    );
}

#[test]
fn a_streamer_that_comes_back_gets_its_streams_back() {
    let server = server(&[
        "--streamer-dead-timeout",
        "3s",
        "--layouter-sleeping-interval",
        "500ms",
    ]);
    save_streamer(&server, "s1", json!({}));
    save_streamer(&server, "s2", json!({}));
    let mut fleet = Fleet::new();
    fleet.start(&server, "s1");
    fleet.start(&server, "s2");
    save_streams(&server, 0..6);
    fleet.until(|fleet| fleet.has("s1") == 3 && fleet.has("s2") == 3);
    let own = fleet.lists["s1"].clone();
    fleet.stop("s1");
    fleet.until(|fleet| fleet.has("s2") == 6);
    fleet.start(&server, "s1");
    fleet.until(|fleet| fleet.lists["s1"] == own && fleet.has("s2") == 3);
    for (name, layout) in layouts(&server) {
        assert_eq!(layout["failover_from"], Value::Null, "{name}");
        if own.contains(&name) {
            assert_eq!(
                layout["change_reason"],
                Value::Null,
                "there is no word for it"
            );
        }
    }
}

#[test]
fn nothing_is_placed_on_a_streamer_before_it_is_seen() {
    let server = server(&[]);
    save_streamer(&server, "s1", json!({}));
    save_streamer(&server, "s2", json!({}));
    save_streams(&server, 0..4);
    let mut fleet = Fleet::new();
    fleet.start(&server, "s2");
    fleet.until(|fleet| fleet.has("s2") == 4);
    assert!(
        layouts(&server)
            .values()
            .all(|layout| layout["ingest"] == "s2")
    );
}

#[test]
fn switched_off_it_moves_nothing() {
    let server = TestServer::with(&["--streamer-dead-timeout", "1s"]);
    save_streamer(&server, "s1", json!({}));
    save_streamer(&server, "s2", json!({}));
    let mut fleet = Fleet::new();
    fleet.start(&server, "s1");
    save_streams(&server, 0..3);
    server
        .post(
            "/streams/layouts",
            json!({"layouts": [{"name": "c00", "ingest": "s2"}]}),
        )
        .expect(204);
    fleet.rounds(3);
    assert_eq!(fleet.has("s1"), 0);
    let layouts = layouts(&server);
    assert_eq!(layouts["c00"]["ingest"], "s2");
    assert_eq!(layouts["c01"]["ingest"], Value::Null);
}

#[test]
fn a_restart_changes_nothing() {
    let mut server = server(&["--layouter-sleeping-interval", "200ms"]);
    for host in ["s1", "s2", "s3"] {
        save_streamer(&server, host, json!({}));
    }
    let mut fleet = Fleet::new();
    for host in ["s1", "s2", "s3"] {
        fleet.start(&server, host);
    }
    save_streams(&server, 0..9);
    fleet.until(|fleet| ["s1", "s2", "s3"].iter().all(|host| fleet.has(host) == 3));
    let before = layouts(&server);
    for host in ["s1", "s2", "s3"] {
        fleet.stop(host);
    }
    server.restart();
    let mut fleet = Fleet::new();
    for host in ["s1", "s2", "s3"] {
        fleet.start(&server, host);
    }
    fleet.rounds(2);
    assert_eq!(layouts(&server), before);
    // It works: what is new is placed.
    save_streams(&server, 9..12);
    fleet.until(|fleet| ["s1", "s2", "s3"].iter().all(|host| fleet.has(host) == 4));
    let after = layouts(&server);
    assert!(before.iter().all(|(name, layout)| after[name] == *layout));
}

#[test]
fn an_edit_that_forbids_a_place_moves_the_stream_and_a_disabled_one_leaves() {
    let server = server(&[]);
    save_streamer(&server, "s1", json!({"labels": {"zone": "north"}}));
    save_streamer(&server, "s2", json!({"labels": {"zone": "south"}}));
    let mut fleet = Fleet::new();
    fleet.start(&server, "s1");
    fleet.start(&server, "s2");
    server
        .put("/streams/a", json!({"labels": {"required.zone": "north"}}))
        .expect(200);
    fleet.until(|fleet| fleet.has("s1") == 1);
    server
        .put("/streams/a", json!({"labels": {"required.zone": "south"}}))
        .expect(200);
    fleet.until(|fleet| fleet.has("s1") == 0 && fleet.has("s2") == 1);
    let layout = &layouts(&server)["a"];
    assert_eq!(
        layout["change_reason"],
        "node_misses_stream_required_labels"
    );
    server
        .put("/streams/a", json!({"disabled": true}))
        .expect(200);
    fleet.until(|fleet| fleet.has("s2") == 0);
    server
        .put("/streams/a", json!({"disabled": false}))
        .expect(200);
    fleet.until(|fleet| fleet.has("s2") == 1);
}
