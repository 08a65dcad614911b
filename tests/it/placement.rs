//! A cluster whose layouter runs often, for scenarios about placements, their reasons and side
//! effects.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::calls::lay_out;
use crate::fleet::{Fleet, StreamNames, layouts, save_streamer, server};
use crate::metrics::Metrics;
use weir_testkit::TestServer;

/// Rounds of the layouter after which all optional moves are done.
const ROUNDS: f64 = 4.0;

/// Layouts by stream, as they are shown.
pub type Layouts = BTreeMap<String, Value>;
/// The reasons of each node against a stream.
pub type Verdicts = BTreeMap<String, BTreeSet<String>>;

pub struct Cluster {
    pub server: TestServer,
    pub fleet: Fleet,
}

impl Cluster {
    pub fn new(more: &[&str]) -> Self {
        let mut arguments = vec!["--layouter-sleeping-interval", "200ms"];
        arguments.extend_from_slice(more);
        Self {
            server: server(&arguments),
            fleet: Fleet::new(),
        }
    }

    /// Saves a node and starts it. Its channel limit is stated, so that balance compares shares of
    /// it, and not the numbers of a few streams.
    pub fn streamer(&mut self, host: &str, mut body: Value) {
        let limit = &mut body["channel_limit"];
        if limit.is_null() {
            *limit = json!(6000);
        }
        let is_streamer = body["role"].as_str().is_none_or(|role| role == "streamer");
        save_streamer(&self.server, host, body);
        if is_streamer {
            self.fleet.join(&self.server, &[host]);
        } else {
            self.fleet.start(&self.server, host);
        }
    }

    /// Edits a streamer that is there.
    #[allow(clippy::needless_pass_by_value)] // as `TestServer::put`
    pub fn edit(&self, host: &str, body: Value) {
        self.server
            .put(&format!("/streamers/{host}"), body)
            .expect(200);
    }

    /// Reports the statistics of a streamer.
    #[allow(clippy::needless_pass_by_value)] // as `TestServer::put`
    pub fn report(&self, host: &str, stats: Value) {
        self.server
            .put(
                &format!("/streamers/{host}/stats"),
                json!({"stats": stats, "streams": []}),
            )
            .expect(204);
    }

    #[allow(clippy::needless_pass_by_value)] // as `TestServer::put`
    pub fn stream(&self, name: &str, body: Value) {
        self.server
            .put(&format!("/streams/{name}"), body)
            .expect(200);
    }

    /// Streams with these labels.
    pub fn labelled(&self, names: &[&str], labels: &Value) {
        for name in names {
            self.stream(name, json!({"static": true, "labels": labels}));
        }
    }

    /// Places streams by hand: pairs of stream and streamer.
    pub fn place(&self, places: &[(&str, &str)]) {
        lay_out(&self.server, places);
    }

    /// Waits until each of these streamers has received exactly these streams.
    pub fn until(&mut self, expected: &[(&str, &[&str])]) {
        let expected: Vec<(&str, StreamNames)> = expected
            .iter()
            .map(|(host, names)| (*host, set(names)))
            .collect();
        self.fleet.until(|fleet| {
            expected
                .iter()
                .all(|(host, names)| fleet.lists.get(*host) == Some(names))
        });
    }

    /// Waits for enough rounds of the layouter for all optional moves. Returns the layouts.
    pub fn rest(&mut self) -> Layouts {
        let read = |server: &TestServer, name: &str| {
            let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
            Metrics::read(&answer).value(name, &[])
        };
        let server = &self.server;
        let until = read(server, "weir_layouter_runs_total") + ROUNDS;
        self.fleet.until(|_| {
            read(server, "weir_layouter_runs_total") >= until
                && read(server, "weir_layouter_layouts_waiting") < 0.5
        });
        layouts(server)
    }

    pub fn layout(&self, name: &str) -> Value {
        let stream = self.server.get(&format!("/streams/{name}"));
        stream.expect(200).json()["layout"].clone()
    }

    /// The reasons of every node of the kind against a stream in a role, in the codes of the
    /// reference; none of the current node.
    pub fn against(&self, name: &str, role: &str) -> Verdicts {
        let why = self.server.get(&format!("/streams/{name}/layout/explain"));
        let why = why.expect(200).json();
        let nodes = why["nodes"].as_array().expect("nodes").iter();
        let verdict = |node: &Value| {
            let host = node["hostname"].as_str().expect("a host").to_owned();
            let reasons = node["reasons"].as_array().expect("reasons").iter();
            let reasons: BTreeSet<String> = reasons
                .map(|reason| reason.as_str().expect("a code").to_owned())
                .collect();
            assert!(
                node["node_decision"] == false || reasons.is_empty(),
                "{node}"
            );
            (host, reasons)
        };
        nodes
            .filter(|node| node["role"] == role)
            .map(verdict)
            .collect()
    }

    /// Checks that a stream has no ingest, and that each node has exactly these reasons against it.
    #[track_caller]
    pub fn waits(&self, name: &str, expected: &[(&str, &[&str])]) {
        let why = self.server.get(&format!("/streams/{name}/layout/explain"));
        let why = why.expect(200).json();
        let nodes = why["nodes"].as_array().expect("nodes");
        let no = |node: &Value| node["node_decision"] == false && node["current"] == false;
        assert!(nodes.iter().all(no), "{why}");
        assert_eq!(self.against(name, "ingest"), verdicts(expected), "{why}");
        self.fleet
            .lists
            .iter()
            .for_each(|(host, names)| assert!(!names.contains(name), "{host} has it"));
    }

    /// Checks the reason of a layout; `null`: none is recorded.
    #[track_caller]
    pub fn is(&self, name: &str, host: &str, why: &str) {
        let layout = self.layout(name);
        let why = if why.is_empty() {
            Value::Null
        } else {
            json!(why)
        };
        assert_eq!(layout["ingest"], host, "{name}: {layout}");
        assert_eq!(layout["change_reason"], why, "{name}: {layout}");
        assert_eq!(layout["originator"], "layouter", "{name}: {layout}");
    }
}

pub fn set(names: &[&str]) -> StreamNames {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub fn verdicts(expected: &[(&str, &[&str])]) -> Verdicts {
    let verdict = |(host, codes): &(&str, &[&str])| ((*host).to_owned(), set(codes));
    expected.iter().map(verdict).collect()
}

/// Streams whose layouts differ in anything, their time included: one that left and returned is
/// among them.
pub fn touched(before: &Layouts, after: &Layouts) -> StreamNames {
    let all: StreamNames = before.keys().chain(after.keys()).cloned().collect();
    all.into_iter()
        .filter(|name| before.get(name) != after.get(name))
        .collect()
}

/// Names of the streams whose ingest is this streamer.
pub fn on<'l>(layouts: &'l Layouts, host: &str) -> Vec<&'l str> {
    layouts
        .iter()
        .filter(|(_, layout)| layout["ingest"] == host)
        .map(|(name, _)| name.as_str())
        .collect()
}
