//! Simulated streamers, and the program with its layouter at work on them.
//!
//! A simulated streamer is a thread that reads its list and then polls for changes. Every answer is
//! sent to the test, which waits for a list and never for time. A poll that arrives is a sign of
//! life, and it waits for a second at most, so that a dead timeout of several seconds is several
//! polls long. [`Fleet::stop`] closes the connection: then the streamer is silent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::auth::cluster;
use crate::metrics::Metrics;
use weir_testkit::{API_KEY, Client, PREFIX, TestServer, WAIT_MAX, wait_until};

/// A condition that news may not change is evaluated this often.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub type StreamNames = BTreeSet<String>;

/// The list that a streamer received.
struct News {
    host: String,
    names: StreamNames,
}

/// All streamers of a test, and the list that each received last.
pub struct Fleet {
    sender: Sender<News>,
    news: Receiver<News>,
    pub streamers: BTreeMap<String, Streamer>,
    pub lists: BTreeMap<String, StreamNames>,
}

pub struct Streamer {
    stop: Arc<AtomicBool>,
    connection: TcpStream,
    thread: JoinHandle<()>,
}

impl Streamer {
    /// Closes the connection, and with it the parked poll.
    fn close(&self) {
        self.stop.store(true, Ordering::Release);
        // It may be closed already.
        let _ = self.connection.shutdown(Shutdown::Both);
    }
}

/// Polls until stopped.
fn poll(mut client: Client, host: &str, stop: &AtomicBool, sender: &Sender<News>) {
    let path = format!("{PREFIX}/streamers/{host}/streams?poll_timeout=1");
    let mut tag = None::<String>;
    loop {
        // Its own credential: a signature with the key of `save_streamer`.
        let own = cluster("key", 0);
        let mut fields = vec![("Authorization", own.as_str())];
        fields.extend(tag.as_deref().map(|tag| ("If-None-Match", tag)));
        let answer = client.try_request("GET", &path, &fields, b"");
        if stop.load(Ordering::Acquire) {
            return;
        }
        let answer = answer.unwrap_or_else(|error| panic!("{host}: {error}"));
        if answer.status == 304 {
            continue;
        }
        let answer = answer.expect(200);
        tag = answer.etag().map(str::to_owned);
        let body = answer.json();
        let list = body["streams"].as_array().expect("a list");
        let name = |stream: &Value| stream["name"].as_str().map(str::to_owned);
        let news = News {
            host: host.to_owned(),
            names: list.iter().filter_map(name).collect(),
        };
        if sender.send(news).is_err() {
            return;
        }
    }
}

impl Fleet {
    pub fn new() -> Self {
        let (sender, news) = channel();
        Self {
            sender,
            news,
            streamers: BTreeMap::new(),
            lists: BTreeMap::new(),
        }
    }

    /// Starts a streamer and waits for its first list.
    pub fn start(&mut self, server: &TestServer, host: &str) {
        let client = server.connect();
        let connection = client.stream().expect("a descriptor");
        let stop = Arc::new(AtomicBool::new(false));
        let (name, stopped, sender) = (host.to_owned(), stop.clone(), self.sender.clone());
        let thread = std::thread::spawn(move || poll(client, &name, &stopped, &sender));
        let streamer = Streamer {
            stop,
            connection,
            thread,
        };
        self.streamers.insert(host.to_owned(), streamer);
        self.lists.remove(host);
        self.until(|fleet| fleet.lists.contains_key(host));
    }

    /// Starts streamers for the first time, until the layouter counts on them: it notices them at
    /// its next look.
    #[track_caller]
    pub fn join(&mut self, server: &TestServer, hosts: &[&str]) {
        self.start_all(server, hosts);
        // A disabled stream has no slots, so nothing moves because of it.
        let probe = "/streams/probe-of-streamers";
        server.put(probe, json!({"disabled": true})).expect(200);
        let look = || {
            let why = server.get(&format!("{probe}/layout/explain"));
            why.expect(200).json()["nodes"].take()
        };
        let is_up = |node: &Value, host: &str| {
            let reasons = node["reasons"].as_array().expect("reasons");
            node["hostname"] == host && !reasons.contains(&json!("node_offline"))
        };
        wait_until("the streamers are up", look, |nodes| {
            let nodes = nodes.as_array().expect("nodes");
            hosts
                .iter()
                .all(|host| nodes.iter().any(|node| is_up(node, host)))
        });
        server.delete(probe).expect(204);
    }

    /// Ends a streamer: it is silent from now on.
    pub fn stop(&mut self, host: &str) {
        let streamer = self.streamers.remove(host).expect("it was started");
        streamer.close();
        streamer.thread.join().expect("a streamer does not panic");
        // Its last lists are outdated.
        while let Ok(news) = self.news.try_recv() {
            self.take(news);
        }
        self.lists.remove(host);
    }

    /// Ends several streamers, none of them later than the last.
    pub fn stop_all(&mut self, hosts: &[&str]) {
        for host in hosts {
            self.streamers[*host].close();
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

    fn take(&mut self, news: News) {
        if self.streamers.contains_key(&news.host) {
            self.lists.insert(news.host, news.names);
        }
    }

    /// Takes the next list that a streamer received, or none after a moment.
    pub fn take_news(&mut self) {
        if let Ok(news) = self.news.recv_timeout(LOOK_EVERY) {
            self.take(news);
        }
    }

    /// Takes news until a condition holds.
    #[track_caller]
    pub fn until(&mut self, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + WAIT_MAX;
        while !condition(self) {
            assert!(
                Instant::now() < deadline,
                "the condition does not hold within {WAIT_MAX:?}; lists: {:?}",
                self.lists
            );
            self.take_news();
        }
    }

    pub fn has(&self, host: &str) -> usize {
        self.lists.get(host).map_or(0, StreamNames::len)
    }

    /// Whether every running streamer has the list that follows from these layouts, which name no
    /// other streamer.
    pub fn agrees(&self, ingests: &Ingests) -> bool {
        let mut expected: BTreeMap<&str, StreamNames> = BTreeMap::new();
        for host in self.streamers.keys() {
            expected.insert(host, StreamNames::new());
        }
        for (name, host) in ingests {
            let Some(host) = host else { continue };
            let Some(names) = expected.get_mut(host.as_str()) else {
                return false;
            };
            names.insert(name.clone());
        }
        let is_current =
            |(host, names): (&&str, &StreamNames)| self.lists.get(*host) == Some(names);
        expected.iter().all(is_current)
    }

    /// Takes news until every stream is in the list of a running streamer. Returns where they are.
    #[track_caller]
    pub fn settle(&mut self, server: &TestServer) -> Ingests {
        self.until(|fleet| {
            let ingests = ingests(server);
            ingests.values().all(Option::is_some) && fleet.agrees(&ingests)
        });
        ingests(server)
    }

    /// Lets the layouter run this often.
    #[track_caller]
    pub fn rest(&mut self, server: &TestServer, rounds: u64) {
        let until = runs(server) + rounds;
        self.until(|_| runs(server) >= until);
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for streamer in self.streamers.values() {
            streamer.close();
        }
    }
}

/// A server with its layouter. Simulated streamers do not report, so a move does not wait for one.
pub fn server(more: &[&str]) -> TestServer {
    let mut arguments = vec!["--layouter-enabled", "--layouter-handover", "0"];
    arguments.extend_from_slice(more);
    TestServer::with(&arguments)
}

/// Streamers that were saved and live.
pub fn fleet_of(server: &TestServer, hosts: &[&str]) -> Fleet {
    let mut fleet = Fleet::new();
    for host in hosts {
        save_streamer(server, host, json!({}));
        fleet.join(server, &[host]);
    }
    fleet
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

/// Waits until every streamer may take this stream: one that polls is alive for the layouter only
/// at its next look.
#[track_caller]
pub fn until_all_may_take(server: &TestServer, stream: &str) {
    let path = format!("/streams/{stream}/layout/explain");
    let look = || server.get(&path).expect(200).json();
    wait_until(&path, look, |why| {
        let nodes = why["nodes"].as_array().expect("nodes");
        nodes.iter().all(|node| node["node_decision"] == true)
    });
}

/// Where each stream is.
pub type Ingests = BTreeMap<String, Option<String>>;

pub fn ingests(server: &TestServer) -> Ingests {
    let layouts = layouts(server).into_iter();
    layouts
        .map(|(name, layout)| (name, layout["ingest"].as_str().map(str::to_owned)))
        .collect()
}

/// Streams that had a place, and have another one or none.
pub fn moved(before: &Ingests, after: &Ingests) -> u64 {
    let moves = |(name, host): &(&String, &Option<String>)| {
        host.is_some() && after.get(*name) != Some(*host)
    };
    before.iter().filter(moves).count() as u64
}

/// The streams of a streamer.
pub fn on(ingests: &Ingests, host: &str) -> StreamNames {
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
    let list = server.get(&format!("/events?limit=10000&sort=event_id&{query}"));
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

/// The layouts that the layouter wrote after an event, in order.
pub fn moves(server: &TestServer, after: u64) -> Vec<Move> {
    let query = format!("event=layouter_processing_result&event_id_gt={after}");
    let results = events(server, &query);
    let relayouts = results.iter().flat_map(|event| {
        let relayouts = event["relayouts"].as_array().expect("a list");
        let count = event["relayouts_count"].as_u64().expect("a count");
        assert_eq!(relayouts.len() as u64, count, "some moves are not shown");
        relayouts.clone()
    });
    relayouts
        .map(|relayout| Move {
            name: relayout["name"].as_str().expect("a name").to_owned(),
            to: relayout["ingest"].as_str().map(str::to_owned),
            why: relayout["why"].as_str().expect("a reason").to_owned(),
        })
        .collect()
}

/// Changes of health of streamers after an event, in order: `hostname state why`.
pub fn states(server: &TestServer, after: u64) -> Vec<String> {
    let query = format!("event=layouter_streamer_state&event_id_gt={after}");
    let list = events(server, &query);
    let text = |event: &Value, member: &str| event[member].as_str().expect("text").to_owned();
    list.iter()
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

/// Waits for an event after another, and returns it.
#[track_caller]
pub fn await_event(server: &TestServer, after: u64, query: &str) -> Value {
    let path = format!("/events?event_id_gt={after}&{query}&poll_timeout=50&limit=1");
    let look = || server.get(&path).expect(200).json()["events"].take();
    let events = wait_until(query, look, |events| !events[0].is_null());
    events[0].clone()
}

/// Lets this many seconds of the server pass: it parks a poll for an event that never comes.
pub fn pass(server: &TestServer, seconds: u64) {
    let path =
        format!("/events?event=server_starting&event_id_gt=1000000000&poll_timeout={seconds}");
    let list = server.get(&path).expect(200).json();
    assert_eq!(list["events"], json!([]));
}
