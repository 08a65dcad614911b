//! The control API v3 of MediaMTX.
//!
//! Pages of 100 unless another number is requested, counted from 0. `add` of what exists is 400.
//! `replace` also creates; in old versions it is 404 for what does not exist. DELETE of what is not
//! there is 404. A source of a scheme that it does not pull is 400. Paths are forgotten with the
//! process. Bytes of a path grow with each look at it, unless its source contains `dead`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{FakeAnswer, FakeKind, FakeRequest};

/// How a source may begin.
const SCHEMES: [&str; 12] = [
    "publisher",
    "rtsp",
    "rtsps",
    "rtmp",
    "rtmps",
    "srt",
    "udp+mpegts",
    "udp+rtp",
    "http",
    "https",
    "whep",
    "wheps",
];

#[derive(Debug, Default)]
pub struct FakeMediaMtx {
    /// `replace` does not create, and the names of counters are those before 2026.
    pub is_old: bool,
    /// The list lacks everything for this many questions, although it is there.
    pub lies: usize,
    /// Sources by path.
    pub paths: BTreeMap<String, String>,
    /// Where the recordings of a path are written, and the seconds after which they are deleted.
    pub records: BTreeMap<String, (String, u64)>,
    /// How often each path was started.
    pub starts: BTreeMap<String, usize>,
    /// Changes that came while another one was being made.
    pub overlapping_changes: usize,
    /// Where viewers are checked; empty: by its own users.
    pub auth_http_address: String,
    /// Recordings cannot be played back.
    pub has_no_playback: bool,
    bytes: BTreeMap<String, u64>,
    runs: u64,
}

impl FakeMediaMtx {
    fn info(&self) -> Value {
        let started = format!("2026-01-01T00:00:{:02}Z", self.runs % 60);
        json!({"version": "v1.20.0", "started": started})
    }

    fn global(&self) -> Value {
        let is_internal = self.auth_http_address.is_empty();
        json!({
            "api": true, "playback": !self.has_no_playback,
            "authMethod": if is_internal { "internal" } else { "http" },
            "authHTTPAddress": self.auth_http_address,
        })
    }

    fn configured(name: &str) -> Value {
        // Redacted and filled with defaults.
        json!({
            "name": name, "source": "rtsp://<redacted>", "record": false, "maxReaders": 0,
            "sourceOnDemand": false,
        })
    }

    fn running(&mut self, name: &str) -> Value {
        let source = &self.paths[name];
        let is_alive = !source.contains("dead") && source != "publisher";
        let bytes = self.bytes.entry(name.to_owned()).or_default();
        *bytes += if is_alive { 10_000 } else { 0 };
        let (inbound, outbound) = if self.is_old {
            ("bytesReceived", "bytesSent")
        } else {
            ("inboundBytes", "outboundBytes")
        };
        json!({
            "name": name, "available": is_alive, inbound: *bytes, outbound: 7, "readers": [{}],
            "tracks": ["H264"],
        })
    }

    fn page(&mut self, request: &FakeRequest, item: fn(&mut Self, &str) -> Value) -> FakeAnswer {
        let number = |name: &str, default| request.parameter(name).parse().unwrap_or(default);
        let (size, page): (usize, usize) = (number("itemsPerPage", 100), number("page", 0));
        let names: Vec<String> = self.paths.keys().cloned().collect();
        let part: Vec<Value> = names
            .iter()
            .skip(page * size)
            .take(size)
            .map(|name| item(self, name))
            .collect();
        let pages = names.len().div_ceil(size.max(1));
        FakeAnswer::json(
            200,
            &json!({"itemCount": names.len(), "pageCount": pages, "items": part}),
        )
    }

    fn put(&mut self, verb: &str, name: &str, request: &FakeRequest) -> FakeAnswer {
        let is_part = |part: &str| !matches!(part, "" | "." | "..");
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "_-/.".contains(letter);
        if !name.split('/').all(is_part) || !name.chars().all(is_letter) {
            return failure(400, "invalid path name");
        }
        let exists = self.paths.contains_key(name);
        if verb == "add" && exists {
            return failure(400, "path already exists");
        }
        if verb == "replace" && !exists && self.is_old {
            return failure(404, "path not found");
        }
        let body = request.json();
        let source = body["source"].as_str().unwrap_or_default();
        let scheme = source
            .split_once("://")
            .map_or(source, |(scheme, _)| scheme);
        if !SCHEMES.contains(&scheme) {
            return failure(400, "invalid source");
        }
        let record = body["record"] == true;
        let path = body["recordPath"].as_str().unwrap_or_default();
        if record && !(path.starts_with('/') && path.contains("/%path/") && path.contains("%f")) {
            return failure(400, "invalid recordPath");
        }
        let seconds = |name: &str| {
            let text = body[name].as_str()?.strip_suffix('s')?;
            text.parse::<u64>().ok()
        };
        let kept = seconds("recordDeleteAfter").unwrap_or(86_400);
        let segment = seconds("recordSegmentDuration").unwrap_or(3600);
        if record && kept != 0 && kept < segment {
            return failure(400, "recordDeleteAfter is lower than recordSegmentDuration");
        }
        self.records.remove(name);
        if record {
            self.records
                .insert(name.to_owned(), (path.to_owned(), kept));
        }
        if self.paths.get(name).map(String::as_str) != Some(source) {
            *self.starts.entry(name.to_owned()).or_default() += 1;
            self.bytes.remove(name);
        }
        self.paths.insert(name.to_owned(), source.to_owned());
        FakeAnswer::json(200, &json!({"status": "ok"}))
    }
}

fn failure(status: u16, text: &str) -> FakeAnswer {
    FakeAnswer::json(status, &json!({"status": "error", "error": text}))
}

impl FakeKind for FakeMediaMtx {
    fn answer(&mut self, request: &FakeRequest) -> FakeAnswer {
        self.overlapping_changes += usize::from(request.overlaps_change);
        if let Some(rest) = request.path.strip_prefix("/v3/config/paths/") {
            return match rest.split_once('/') {
                None if rest == "list" && self.lies > 0 => {
                    self.lies -= 1;
                    FakeAnswer::json(200, &json!({"itemCount": 0, "pageCount": 0, "items": []}))
                }
                None if rest == "list" => self.page(request, |_, name| Self::configured(name)),
                Some((verb @ ("add" | "replace"), name)) if request.method == "POST" => {
                    self.put(verb, name, request)
                }
                Some(("delete", name)) if request.method == "DELETE" => {
                    if self.paths.remove(name).is_none() {
                        return failure(404, "path configuration not found");
                    }
                    self.records.remove(name);
                    self.bytes.remove(name);
                    FakeAnswer::json(200, &json!({"status": "ok"}))
                }
                _ => failure(404, "not found"),
            };
        }
        match &*request.path {
            "/v3/config/global/get" => FakeAnswer::json(200, &self.global()),
            "/v3/info" => FakeAnswer::json(200, &self.info()),
            "/v3/paths/list" => self.page(request, Self::running),
            _ => failure(404, "not found"),
        }
    }

    fn restart(&mut self) {
        self.paths.clear();
        self.records.clear();
        self.bytes.clear();
        self.runs += 1;
    }
}
