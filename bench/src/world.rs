//! A cluster to measure on: streams of about 300 bytes, each on one of many nodes, as an operator
//! would save them.

use std::time::Instant;

use imbl::OrdMap;
use weir::testing::fleet::FleetStats;
use weir::testing::fleet::StreamerReport;
use weir::testing::json;
use weir::testing::schema;
use weir::testing::state::command::{Command, StreamPatch, streamer_patch};
use weir::testing::state::name::{Hostname, StreamName};
use weir::testing::state::node::RenderSettings;
use weir::testing::state::record::{
    Layout, NodeMark, Stream, StreamRecord, Streamer, StreamerRecord,
};
use weir::testing::state::{Loader, SHARDS, State};

/// Streams of one node.
pub const STREAMS_PER_NODE: usize = 1000;

/// Name of the stream with a number.
pub fn name(number: usize) -> String {
    format!("site-{:04}/camera-{number:08}", number % 1000)
}

/// Hostname of the node with a number.
pub fn host(number: usize) -> String {
    format!("streamer-{number:05}.example.com")
}

/// What is saved for the stream with a number. All texts are of equal length.
pub fn body(number: usize) -> String {
    format!(
        r#"{{"title":"Camera {number:08}","inputs":[{{"url":"rtsp://10.{}.{}.17:554/stream{number:08}"}}],"labels":{{"zone":"z{}"}},"dvr":{{"reference":"main","expiration":604800}}}}"#,
        100 + number / 100 % 100,
        100 + number % 100,
        number % 10
    )
}

/// The record of the stream with a number, at the revision of its number.
pub struct Records {
    filled: Vec<(u32, u32)>,
    config: String,
}

impl Default for Records {
    fn default() -> Self {
        let stored = json::parse(body(0).as_bytes()).expect("a body is JSON");
        let effective = schema::stream().effective(&stored);
        Self {
            filled: effective.filled,
            config: effective.text,
        }
    }
}

impl Records {
    /// `nodes` 0: not placed. Texts of the first body are replaced by those of this one, which is
    /// what saving it would lead to.
    pub fn record(&self, number: usize, nodes: usize) -> StreamRecord {
        let config = self
            .config
            .replace("00000000", &format!("{number:08}"))
            .replace(
                "rtsp://10.100.100.",
                &format!(
                    "rtsp://10.{}.{}.",
                    100 + number / 100 % 100,
                    100 + number % 100
                ),
            )
            .replace("\"z0\"", &format!("\"z{}\"", number % 10));
        let revision = number as u64 + 1;
        let layouts = match nodes {
            0 => Vec::new(),
            nodes => vec![Layout {
                ingest: Some(host(number % nodes)),
                created_at: 1_700_000_000_000,
                by_layouter: true,
                ..Layout::default()
            }],
        };
        StreamRecord::new(&Stream {
            name: name(number),
            revision,
            updated_at: 1_700_000_000_000 + revision,
            rendered: if nodes == 0 { [0; 3] } else { [revision, 0, 0] },
            layouts,
            config,
            filled: self.filled.clone(),
            ..Stream::default()
        })
    }
}

/// Everything but the indexes: what is there when the last record was read.
pub fn loader(streams: usize, nodes: usize) -> Loader {
    let records = Records::default();
    let mut loader = Loader::new(
        7,
        streams as u64 + 1,
        1_700_000_000_000 + streams as u64 + 1,
        RenderSettings::default(),
    );
    for number in 0..nodes {
        loader.streamer(streamer(number));
    }
    let mut shards: Vec<OrdMap<StreamName, StreamRecord>> = vec![OrdMap::new(); SHARDS];
    for number in 0..streams {
        let name = StreamName::trusted(&name(number));
        shards[name.shard()].insert(name, records.record(number, nodes));
    }
    for (index, shard) in shards.into_iter().enumerate() {
        loader.shard(index, shard);
    }
    loader
}

/// A whole cluster; without nodes nothing is placed.
pub fn state(streams: usize, nodes: usize) -> State {
    loader(streams, nodes).finish(marks())
}

/// Nothing was ever removed.
pub fn marks() -> Vec<(Hostname, NodeMark)> {
    Vec::new()
}

fn streamer(number: usize) -> StreamerRecord {
    let stored = json::parse(br#"{"role":"streamer","cluster_key":"key"}"#).expect("JSON");
    let effective = schema::streamer().effective(&stored);
    StreamerRecord::new(&Streamer {
        hostname: host(number),
        revision: 1,
        updated_at: 1_700_000_000_000,
        cluster_key: "key".to_owned(),
        pull_authority: host(number),
        has_secrets: true,
        config: effective.text,
        filled: effective.filled,
        ..Streamer::default()
    })
}

/// The command that a PUT of `body` makes.
pub fn save(number: usize, body: &str) -> Command {
    let name = StreamName::trusted(&name(number));
    let body = json::parse(body.as_bytes()).expect("a body is JSON");
    let patch = StreamPatch::from_body(body, &name, "").expect("a body fits");
    Command::SaveStream { name, patch }
}

/// Everything that runs on a node, reported by it.
pub fn report(fleet: &FleetStats, node: usize, streams: usize, now: Instant) {
    let nodes = streams.div_ceil(STREAMS_PER_NODE);
    let all: Vec<String> = (node..streams)
        .step_by(nodes)
        .map(|number| {
            let status = if number % 10_000 == 7 { "error" } else { "running" };
            format!(
                r#"{{"name":"{}","alive":true,"bitrate":{},"online_clients":3,"status":"{status}"}}"#,
                name(number),
                number.wrapping_mul(0x9E37_79B9) % 10_000
            )
        })
        .collect();
    let body = format!(r#"{{"streams":[{}]}}"#, all.join(","));
    let body = json::parse(body.as_bytes()).expect("a report is JSON");
    let report = StreamerReport::from_body(body, now).expect("a report fits");
    fleet.report(&Hostname::trusted(&host(node)), report, now, || true);
}

/// The command that registers a node.
pub fn save_node(number: usize) -> Command {
    let hostname = Hostname::trusted(&host(number));
    let body = json::parse(br#"{"role":"streamer","cluster_key":"key"}"#).expect("JSON");
    let patch = streamer_patch(body, &hostname, "").expect("a body fits");
    Command::SaveStreamer { hostname, patch }
}
