//! The API of a Flussonic Media Server, as far as a control plane queries it.
//!
//! Lists have pages of 100 unless `limit` says otherwise, and no `next` at their end. Requests need
//! the cluster key: `Cluster T:sha1(T:key)`, at most five minutes old.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use super::{FakeAnswer, FakeKind, FakeRequest};

/// Oldest signature that is accepted.
const SKEW_SECONDS: u64 = 300;
const PAGE: usize = 100;
/// Of one stream on the pages of [`FakePages::Large`].
const LARGE_STATS_BYTES: usize = 9 * 1024;

/// How the list of streams ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FakePages {
    Complete,
    /// Every page leads to the first one again.
    Repeated,
    /// Every page is empty and leads to another one.
    Endless,
    /// The last page answers 500.
    Broken,
    /// Every page has the same streams.
    Overlapping,
    /// Every page has other streams, each with stats of [`LARGE_STATS_BYTES`], and leads to another.
    Large,
}

#[derive(Debug)]
pub struct FakeStreamer {
    pub key: String,
    /// Its stats, besides those that follow from the time.
    pub stats: Value,
    /// Stats by the name of their stream.
    pub streams: BTreeMap<String, Value>,
    pub pages: FakePages,
    /// Recorded times by the name of their stream, seconds from 1970 and length. Streams without
    /// are not found.
    pub recordings: BTreeMap<String, Vec<(u64, u64)>>,
    /// Replaces the answers about recordings.
    pub ranges_body: Option<String>,
    /// Its configuration, of which a `PUT` replaces members; lost at a restart.
    pub config: Value,
    /// The status of answers to a `PUT` of its configuration, if it refuses that.
    pub refuses_config: Option<u16>,
    /// Shows another configuration each time.
    pub changes_config: bool,
    /// Replaces the answer about itself.
    pub body: Option<String>,
    /// Requests that were refused because of their credentials.
    pub refused: usize,
    /// Requests for a list that are answered with 503 from now on.
    pub unavailable: usize,
    /// Lists that were read to their end.
    pub lists: usize,
    started_at: u64,
    endless: usize,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("it is after 1970").as_millis() as u64
}

/// A page of streams that no other page has: `large-` and a number from 0 on.
fn large_page(begin: usize, limit: usize) -> FakeAnswer {
    let endpoint = format!("http://h/{}", "x".repeat(LARGE_STATS_BYTES));
    let items = (begin..begin + limit).map(|i| {
        format!(r#"{{"name":"large-{i}","stats":{{"streaming_endpoint":"{endpoint}"}}}}"#)
    });
    let items: Vec<String> = items.collect();
    let next = begin + limit;
    let body = format!(r#"{{"streams":[{}],"next":"{next}"}}"#, items.join(","));
    FakeAnswer::text(200, &body)
}

/// The configuration of a new installation.
fn own_config() -> Value {
    json!({"listeners": {"http": [{"port": 80}]}, "loglevel": "debug", "streams": [{"name": "own"}]})
}

impl FakeStreamer {
    pub fn new(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            stats: json!({"cpu_usage": 7, "server_version": "24.11"}),
            streams: BTreeMap::new(),
            pages: FakePages::Complete,
            recordings: BTreeMap::new(),
            ranges_body: None,
            config: own_config(),
            refuses_config: None,
            changes_config: false,
            body: None,
            refused: 0,
            unavailable: 0,
            lists: 0,
            started_at: now_ms() / 1000,
            endless: 0,
        }
    }

    /// A stream runs on it from now on.
    pub fn run(&mut self, name: &str, bitrate: u64) {
        let stats = json!({
            "status": "running", "alive": true, "bitrate": bitrate, "online_clients": 2,
            "bytes_out": 1000, "last_dts_at": now_ms(),
            "media_info": {"tracks": [{"content": "video", "codec": "h264"}]},
            "unknown_to_others": [1, 2],
        });
        self.streams.insert(name.to_owned(), stats);
    }

    /// A stream that was published to since `opened_at`, UTC ms; without it, one that may be.
    pub fn publish(&mut self, name: &str, opened_at: Option<u64>) {
        self.run(name, 1_000);
        let stats = self.streams.get_mut(name).expect("it runs");
        stats["alive"] = json!(opened_at.is_some());
        stats["opened_at"] = json!(opened_at);
    }

    fn ranges(&self, stream: &str) -> FakeAnswer {
        if let Some(body) = &self.ranges_body {
            return FakeAnswer::text(200, body);
        }
        let Some(recordings) = self.recordings.get(stream) else {
            return FakeAnswer::text(404, r#"{"error":"not_found"}"#);
        };
        let shown = |(from, duration): &(u64, u64)| json!({"from": from, "duration": duration});
        let ranges: Vec<Value> = recordings.iter().map(shown).collect();
        FakeAnswer::json(200, &json!({"ranges": ranges}))
    }

    fn may(&self, authorization: Option<&str>) -> bool {
        let signed = authorization.and_then(|value| value.strip_prefix("Cluster "));
        let Some((time, digest)) = signed.and_then(|value| value.split_once(':')) else {
            return false;
        };
        let expected = Sha1::digest(format!("{time}:{}", self.key));
        let expected: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
        let time = time.parse::<u64>().unwrap_or(0);
        digest == expected && time.abs_diff(now_ms() / 1000) <= SKEW_SECONDS
    }

    fn configure(&mut self, request: &FakeRequest) -> FakeAnswer {
        if request.is_change() {
            if let Some(status) = self.refuses_config {
                return FakeAnswer::text(status, r#"{"error":"refused"}"#);
            }
            let (own, new) = (self.config.as_object_mut(), request.json());
            let (Some(own), Value::Object(new)) = (own, new) else {
                return FakeAnswer::text(400, r#"{"error":"not_an_object"}"#);
            };
            own.extend(new);
        }
        if self.changes_config {
            let count = self.config["config_external"].as_str().map_or(0, str::len);
            self.config["config_external"] = json!("x".repeat(count + 1));
        }
        FakeAnswer::json(200, &self.config)
    }

    fn own_stats(&self) -> Value {
        let now = now_ms();
        let mut stats = json!({
            "now": now, "started_at": self.started_at, "uptime": now / 1000 - self.started_at,
            "streamer_status": "running", "total_streams": self.streams.len(),
            "online_streams": self.streams.len(),
            "config_version": [self.started_at, 1],
        });
        let own = self.stats.as_object().expect("an object");
        let all = stats.as_object_mut().expect("an object");
        all.extend(own.clone());
        stats
    }

    fn list(&mut self, request: &FakeRequest) -> FakeAnswer {
        if self.unavailable > 0 {
            self.unavailable -= 1;
            return FakeAnswer::text(503, r#"{"error":"unavailable"}"#);
        }
        let cursor = request.parameter("cursor");
        let begin = cursor.parse().unwrap_or(0);
        let limit = request.parameter("limit").parse().unwrap_or(PAGE);
        let end = usize::min(begin + limit, self.streams.len());
        let shown = |(name, stats): (&String, &Value)| json!({"name": name, "stats": stats});
        let page = self.streams.iter().skip(begin).take(limit).map(shown);
        let page: Vec<Value> = page.collect();
        let is_last = end >= self.streams.len();
        let mut body = json!({
            "streams": page, "estimated_count": self.streams.len(),
            "timing": {"select": 0, "sort": 0},
        });
        match self.pages {
            FakePages::Complete if !is_last => body["next"] = json!(end.to_string()),
            FakePages::Complete => self.lists += 1,
            FakePages::Repeated if is_last => body["next"] = json!("0"),
            FakePages::Broken if is_last => return FakeAnswer::text(500, "{}"),
            FakePages::Large => return large_page(begin, limit),
            FakePages::Repeated | FakePages::Broken => body["next"] = json!(end.to_string()),
            FakePages::Endless | FakePages::Overlapping => {
                self.endless += 1;
                if self.pages == FakePages::Endless {
                    body["streams"] = json!([]);
                } else {
                    let all = self.streams.iter().take(limit).map(shown);
                    body["streams"] = all.collect();
                }
                body["next"] = json!(format!("e{}", self.endless));
            }
        }
        FakeAnswer::json(200, &body)
    }
}

impl FakeKind for FakeStreamer {
    fn answer(&mut self, request: &FakeRequest) -> FakeAnswer {
        if !self.may(request.authorization.as_deref()) {
            self.refused += 1;
            return FakeAnswer::text(401, r#"{"error":"authorization_failed"}"#);
        }
        let stream = request.path.strip_prefix("/streamer/api/v3/streams/");
        if let Some(stream) = stream.and_then(|rest| rest.strip_suffix("/dvr/ranges")) {
            return self.ranges(stream);
        }
        match request.path.as_str() {
            "/streamer/api/v3/config/stats" => match &self.body {
                Some(body) => FakeAnswer::text(200, body),
                None => FakeAnswer::json(200, &self.own_stats()),
            },
            "/streamer/api/v3/streams" => self.list(request),
            "/streamer/api/v3/config" => self.configure(request),
            _ => FakeAnswer::text(404, r#"{"error":"not_found"}"#),
        }
    }

    fn restart(&mut self) {
        self.started_at = now_ms() / 1000;
        self.config = own_config();
    }

    fn keeps_alive(&self) -> bool {
        true
    }
}
