//! The API of go2rtc 1.9.
//!
//! Requests that overlap, and `GET /api`, end the process. A stream runs while it is preloaded. PUT
//! of a stream that runs puts an idle one in its place, and the old one goes on unlisted. A preload
//! of a source without a listener fails and is forgotten. Passwords read back as `***`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;

use serde_json::{Map, Value, json};

use super::{FakeAnswer, FakeKind, FakeRequest};

#[derive(Debug, Default)]
pub struct FakeGo2rtc {
    /// PUT of a stream works, and answers 400 because the file cannot be written.
    pub is_read_only: bool,
    /// The next preloads that fail although the source accepts connections.
    pub failing_preloads: usize,
    /// What the sources of streams answer it with, as it words it.
    pub source_errors: BTreeMap<String, &'static str>,
    /// Sources by name.
    pub streams: BTreeMap<String, String>,
    pub preloads: BTreeSet<String>,
    /// Streams that run and are listed no more.
    pub unlisted: usize,
    /// How often each stream was preloaded.
    pub starts: BTreeMap<String, usize>,
    /// Preloads of sources without a listener: each holds the API for seconds.
    pub blocked: usize,
    pub is_dead: bool,
    /// Its file, if it has one.
    pub config: Option<&'static str>,
    bytes: BTreeMap<String, u64>,
}

fn accepts(source: &str) -> bool {
    let rest = source.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let address = authority.rsplit('@').next().unwrap_or_default();
    TcpStream::connect(address).is_ok()
}

impl FakeGo2rtc {
    fn live(&mut self) -> Value {
        let mut streams = Map::new();
        for name in self.streams.keys() {
            let bytes = self.bytes.entry(name.clone()).or_default();
            let is_loaded = self.preloads.contains(name);
            *bytes += if is_loaded { 10_000 } else { 0 };
            let consumers = if is_loaded {
                json!([{"format_name": "preload"}, {"format_name": "hls", "bytes_send": 5}])
            } else {
                Value::Null
            };
            let stream = json!({
                "producers": [{"url": "rtsp://***", "bytes_recv": *bytes}],
                "consumers": consumers,
            });
            streams.insert(name.clone(), stream);
        }
        Value::Object(streams)
    }

    fn put(&mut self, request: &FakeRequest) -> FakeAnswer {
        let name = request.parameter("name");
        if self.streams.contains_key(name) && self.preloads.remove(name) {
            self.unlisted += 1;
        }
        self.bytes.remove(name);
        let source = request.parameter("src").to_owned();
        self.streams.insert(name.to_owned(), source);
        if self.is_read_only {
            return FakeAnswer::text(400, "config file disabled");
        }
        FakeAnswer::text(200, "")
    }

    fn preload(&mut self, name: &str) -> FakeAnswer {
        let Some(source) = self.streams.get(name) else {
            return FakeAnswer::text(404, "");
        };
        if !accepts(source) {
            self.blocked += 1;
            return FakeAnswer::text(500, "i/o timeout");
        }
        if self.failing_preloads > 0 {
            self.failing_preloads -= 1;
            return FakeAnswer::text(500, "EOF");
        }
        if let Some(error) = self.source_errors.get(name) {
            return FakeAnswer::text(500, &format!("streams: {error}"));
        }
        if self.preloads.insert(name.to_owned()) {
            *self.starts.entry(name.to_owned()).or_default() += 1;
        }
        FakeAnswer::text(200, "")
    }
}

impl FakeKind for FakeGo2rtc {
    fn answer(&mut self, request: &FakeRequest) -> FakeAnswer {
        self.is_dead |= request.overlaps || request.path == "/api";
        let name = request.parameter("src").to_owned();
        let removed = |known: bool| FakeAnswer::text(if known { 200 } else { 404 }, "");
        match (&*request.method, &*request.path) {
            ("GET", "/api/schemes") => FakeAnswer::json(200, &json!(["rtsp", "rtmp"])),
            ("GET", "/api/config") => {
                let status = if self.config.is_some() { 200 } else { 410 };
                FakeAnswer::text(status, self.config.unwrap_or_default())
            }
            ("GET", "/api/streams") => FakeAnswer::json(200, &self.live()),
            ("GET", "/api/preload") => {
                let preloads = self.preloads.iter();
                let preloads: Map<String, Value> =
                    preloads.map(|name| (name.clone(), json!({}))).collect();
                FakeAnswer::json(200, &Value::Object(preloads))
            }
            ("PUT", "/api/streams") => self.put(request),
            ("PUT", "/api/preload") => self.preload(&name),
            ("DELETE", "/api/preload") => removed(self.preloads.remove(&name)),
            ("DELETE", "/api/streams") => removed(self.streams.remove(&name).is_some()),
            _ => FakeAnswer::text(404, ""),
        }
    }

    /// Streams and preloads are in its file.
    fn restart(&mut self) {
        self.is_dead = false;
        self.unlisted = 0;
        self.bytes.clear();
    }

    fn is_dead(&self) -> bool {
        self.is_dead
    }
}
