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
