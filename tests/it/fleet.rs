//! Simulated streamers, and the program with its layouter at work on them.
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

use crate::metrics::Metrics;
use crate::server::{API_KEY, PREFIX, TestServer};

/// How long a test waits for what must happen. A guard against hanging.
pub const GUARD: Duration = Duration::from_mins(2);

pub type Names = BTreeSet<String>;

/// All streamers of a test, and what each was told last.
pub struct Fleet {
    told: Sender<(String, u64, Names)>,
    news: Receiver<(String, u64, Names)>,
    pub streamers: BTreeMap<String, Streamer>,
    pub lists: BTreeMap<String, Names>,
    /// Answers of each, unchanged ones included.
    pub answers: BTreeMap<String, u64>,
}

pub struct Streamer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Fleet {
    pub fn new() -> Self {
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
    pub fn start(&mut self, server: &TestServer, host: &str) {
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
    pub fn stop(&mut self, host: &str) {
        let streamer = self.streamers.remove(host).expect("it was started");
        streamer.stop.store(true, Ordering::Release);
        streamer.thread.join().expect("a streamer does not panic");
        // What it told in its last moment is old news now.
        while let Ok(news) = self.news.try_recv() {
            self.take(news);
        }
        self.lists.remove(host);
    }

    /// Ends several streamers, none of them later than the last.
    pub fn stop_all(&mut self, hosts: &[&str]) {
        for host in hosts {
            let streamer = self.streamers.get(*host).expect("it was started");
            streamer.stop.store(true, Ordering::Release);
        }
        for host in hosts {
            self.stop(host);
        }
    }

    pub fn start_all(&mut self, server: &TestServer, hosts: &[&str]) {
        for host in hosts {
            self.start(server, host);
        }
    }

    pub fn take(&mut self, (host, count, names): (String, u64, Names)) {
        self.answers.insert(host.clone(), count);
        if self.streamers.contains_key(&host) {
            self.lists.insert(host, names);
        }
    }

    /// Waits for the next answer to a streamer, with news or without, and takes it.
    pub fn next(&mut self) {
        let news = self.news.recv_timeout(GUARD).expect("a streamer polls");
        self.take(news);
    }

    /// Takes news until something is so.
    pub fn until(&mut self, so: impl Fn(&Self) -> bool) {
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
    pub fn rounds(&mut self, count: u64) {
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

    pub fn has(&self, host: &str) -> usize {
        self.lists.get(host).map_or(0, Names::len)
    }

    /// Whether every running streamer was told what these layouts say, and no other is named in them.
    pub fn agrees(&self, ingests: &Ingests) -> bool {
        let mut expected: BTreeMap<&str, Names> = BTreeMap::new();
        for host in self.streamers.keys() {
            expected.insert(host, Names::new());
        }
        for (name, host) in ingests {
            let Some(host) = host else { continue };
            let Some(names) = expected.get_mut(host.as_str()) else {
                return false;
            };
            names.insert(name.clone());
        }
        let told = |(host, names): (&&str, &Names)| self.lists.get(*host) == Some(names);
        expected.iter().all(told)
    }

    /// Takes news until every stream is on a running streamer that was told so. Answers where they are.
    pub fn settle(&mut self, server: &TestServer) -> Ingests {
        self.until(|fleet| {
            let ingests = ingests(server);
            ingests.values().all(Option::is_some) && fleet.agrees(&ingests)
        });
        ingests(server)
    }

    /// Lets the layouter look so often for something to improve.
    pub fn rest(&mut self, server: &TestServer, rounds: u64) {
        let until = runs(server) + rounds;
        self.until(|_| runs(server) >= until);
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for streamer in self.streamers.values() {
            streamer.stop.store(true, Ordering::Release);
        }
    }
}

pub fn server(more: &[&str]) -> TestServer {
    let mut arguments = vec!["--layouter-enabled"];
    arguments.extend_from_slice(more);
    TestServer::with(&arguments)
}

pub fn save_streamer(server: &TestServer, host: &str, more: Value) {
    let mut body = json!({"role": "streamer", "cluster_key": "key"});
    let fields = more.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(fields);
    server.put(&format!("/streamers/{host}"), body).expect(200);
}

pub fn save_streams(server: &TestServer, names: std::ops::Range<usize>) {
    for i in names {
        server
            .put(&format!("/streams/c{i:02}"), json!({"static": true}))
            .expect(200);
    }
}

pub fn layouts(server: &TestServer) -> BTreeMap<String, Value> {
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

/// Waits until every streamer may take this stream. One that polls is alive for the layouter only when that looks for signs of life next.
pub fn until_all_may_take(server: &TestServer, fleet: &mut Fleet, stream: &str) {
    let path = format!("/streams/{stream}/layout/explain");
    loop {
        let why = server.get(&path).expect(200).json();
        let nodes = why["nodes"].as_array().expect("nodes");
        if nodes.iter().all(|node| node["node_decision"] == true) {
            return;
        }
        fleet.rounds(1);
    }
}
/// Where each stream is.
pub type Ingests = BTreeMap<String, Option<String>>;

pub fn ingests(server: &TestServer) -> Ingests {
    let layouts = layouts(server).into_iter();
    layouts
        .map(|(name, layout)| (name, layout["ingest"].as_str().map(str::to_owned)))
        .collect()
}

/// The streams of a streamer.
pub fn on(ingests: &Ingests, host: &str) -> Names {
    let there = ingests.iter().filter(|(_, on)| on.as_deref() == Some(host));
    there.map(|(name, _)| name.clone()).collect()
}

/// Streams saved over one connection.
pub fn save_all(server: &TestServer, names: impl IntoIterator<Item = String>, body: &Value) {
    let mut client = server.connect();
    let bearer = format!("Bearer {API_KEY}");
    let body = body.to_string();
    for name in names {
        let path = format!("{PREFIX}/streams/{name}");
        let fields = [("Authorization", bearer.as_str())];
        client
            .request("PUT", &path, &fields, body.as_bytes())
            .expect(200);
    }
}

/// Other settings, from now on.
pub fn set(server: &TestServer, settings: Value) {
    let mut body = json!({"api_key": API_KEY});
    let fields = settings.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(fields);
    server.put("/config", body).expect(200);
}

/// The event log, from its beginning.
pub fn events(server: &TestServer, query: &str) -> Vec<Value> {
    let list = server.get(&format!("/events?limit=10000&{query}"));
    let list = list.expect(200).json();
    list["events"].as_array().expect("a list").clone()
}

/// The number of the last event.
pub fn last_event(server: &TestServer) -> u64 {
    let list = server.get("/events?sort=-event_id&limit=1").expect(200);
    list.json()["events"][0]["event_id"].as_u64().unwrap_or(0)
}

/// One layout that the layouter wrote.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Move {
    pub name: String,
    /// Absent: its ingest is where it was before.
    pub to: Option<String>,
    pub why: String,
}

/// What the layouter wrote after an event, in order.
pub fn moves(server: &TestServer, after: u64) -> Vec<Move> {
    let query = format!("event=layouter_processing_result&event_id_gt={after}");
    let results = events(server, &query);
    let told = results.iter().flat_map(|event| {
        let relayouts = event["relayouts"].as_array().expect("a list");
        relayouts.clone()
    });
    told.map(|told| Move {
        name: told["name"].as_str().expect("a name").to_owned(),
        to: told["ingest"].as_str().map(str::to_owned),
        why: told["why"].as_str().expect("a reason").to_owned(),
    })
    .collect()
}

/// What became of streamers after an event, in order: `hostname state why`.
pub fn states(server: &TestServer, after: u64) -> Vec<String> {
    let query = format!("event=layouter_streamer_state&event_id_gt={after}");
    let told = events(server, &query);
    let text = |event: &Value, member: &str| event[member].as_str().expect("text").to_owned();
    told.iter()
        .map(|event| {
            let parts = ["entity_id", "state", "why"].map(|member| text(event, member));
            parts.join(" ")
        })
        .collect()
}

/// How often the layouter looked for something to improve.
pub fn runs(server: &TestServer) -> u64 {
    let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
    Metrics::read(&answer).value("weir_layouter_runs_total", &[]) as u64
}

/// Waits for an event after another, and answers it.
pub fn await_event(server: &TestServer, after: u64, query: &str) -> Value {
    let path = format!("/events?event_id_gt={after}&{query}&poll_timeout=50&limit=1");
    let guard = Instant::now() + GUARD;
    while Instant::now() < guard {
        let list = server.get(&path).expect(200).json();
        if let Some(event) = list["events"].as_array().and_then(|list| list.first()) {
            return event.clone();
        }
    }
    panic!("no such event comes: {query}");
}

/// Lets the server wait for something that nobody does: afterwards so many of its seconds are over.
pub fn pass(server: &TestServer, seconds: u64) {
    let path =
        format!("/events?event=server_starting&event_id_gt=1000000000&poll_timeout={seconds}");
    let list = server.get(&path).expect(200).json();
    assert_eq!(list["events"], json!([]));
}
