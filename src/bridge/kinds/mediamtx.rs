//! MediaMTX, control API v3.
//!
//! * Paths made through the API are lost with the process: what the list lacks is given again.
//! * `replace` also creates, so it is the one call for both; older versions answer 404 to it and
//!   need `add`.
//! * What is read back is partly redacted and filled with defaults: it is not compared.
//! * A change of `source` restarts a path, one of its recording does not. Recordings of a path that
//!   is removed stay where they are.
//! * Pages have 100 items unless another number is requested; they count from 0.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ServerApi, hooks, is_file_name, seconds_since, with_question_mark};
use crate::bridge::caller::CallFault;
use crate::bridge::desired::WantedDvr;
use crate::bridge::kind::{
    BadHook, HookQuestion, ListedStream, MeasuredStream, MediaServer, PutCause, Recording,
    ServerMeasure, ServerNeeds, ServerRules, StreamCall, pull_url,
};
use crate::client::escape as percent;
use crate::native_name::MediaServerKind;

/// Answered while the API works.
pub const PROBE: &str = "/v3/info";
const PAGE_ITEMS: usize = 1000;
/// Pages of one list that are read.
const PAGES_MAX: usize = 1000;
/// Length of its segments of recordings, unless they are kept for a shorter time.
const SEGMENT_SECONDS: u64 = 3600;
/// Longest time that its durations hold, 250 years; what is longer is never.
const DELETE_AFTER_MAX: u64 = 250 * 365 * 86_400;
const DIRECTORY_BYTES_MAX: usize = 1024;
/// Entries of the configuration that stand for other paths.
const TEMPLATES: [&str; 3] = ["all_others", "all", "~^.*$"];

pub struct MediaMtxRules {
    pub play_base: String,
    /// The directory below which it records.
    pub record_dir: Option<Box<str>>,
}

impl ServerRules for MediaMtxRules {
    fn schemes(&self) -> &'static [&'static str] {
        MediaServerKind::MediaMtx.schemes()
    }

    fn native(&self, name: &str) -> Box<str> {
        MediaServerKind::MediaMtx.native(name).into()
    }

    fn publisher(&self) -> Option<&'static str> {
        Some("publisher")
    }

    fn source(&self, url: &str) -> Option<String> {
        let url = pull_url(url, self.schemes())?;
        Some(match url.split_once("://") {
            Some(("udp", rest)) => format!("udp+mpegts://{rest}"),
            Some(("rtp", rest)) => format!("udp+rtp://{rest}"),
            _ => url,
        })
    }

    fn recording(&self, dvr: &WantedDvr) -> Result<Recording, &'static str> {
        let directory = self.record_dir.as_deref();
        let directory = directory.ok_or("the bridge has no --record-dir")?;
        if dvr.needs_more {
            return Err("a schedule and limits of recordings are not supported by this server");
        }
        let root = dvr.root.as_deref().map(|root| root.trim_end_matches('/'));
        let root = root.unwrap_or(directory);
        let below = root.strip_prefix(directory);
        if !is_plain_directory(root)
            || !below.is_some_and(|it| it.is_empty() || it.starts_with('/'))
        {
            return Err("dvr.root is not a plain path below --record-dir");
        }
        Ok(Recording {
            root: root.into(),
            delete_after: dvr
                .expiration
                .filter(|seconds| *seconds <= DELETE_AFTER_MAX)
                .unwrap_or(0),
        })
    }

    fn play(&self, native: &str, suffix: &str, query: &str) -> Option<String> {
        let query = with_question_mark(query);
        let url = format!("{}/{native}/{suffix}{query}", self.play_base);
        is_file_name(suffix).then_some(url)
    }

    fn hook(&self, body: &[u8]) -> Result<Option<HookQuestion>, BadHook> {
        hooks::mediamtx(body)
    }

    /// Players of RTSP send credentials only after a 401.
    fn hook_challenges(&self, question: &HookQuestion) -> bool {
        question.token.is_empty() && question.protocol.starts_with("rtsp")
    }
}

/// Whether a path is absolute and of letters, digits and `_-.`, without `.` and `..`: nothing that
/// MediaMTX would replace, and nothing that leaves the directory.
pub fn is_plain_directory(path: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
    let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(is_letter);
    let parts = path.strip_prefix('/');
    path.len() <= DIRECTORY_BYTES_MAX && parts.is_some_and(|parts| parts.split('/').all(is_part))
}

/// The configuration of a path. Members that are absent have their defaults there, so a path
/// without `record` is not recorded.
fn path_body(source: &str, recording: Option<&Recording>) -> Value {
    let mut body = json!({"source": source, "sourceOnDemand": false});
    if let Some(recording) = recording {
        let root = &recording.root;
        body["record"] = true.into();
        body["recordPath"] = format!("{root}/%path/%Y-%m-%d_%H-%M-%S-%f").into();
        // 0 is never. What it records is deleted by segments, which must not be longer.
        let seconds = recording.delete_after;
        body["recordDeleteAfter"] = format!("{seconds}s").into();
        if (1..SEGMENT_SECONDS).contains(&seconds) {
            body["recordSegmentDuration"] = format!("{seconds}s").into();
        }
    }
    body
}

pub struct MediaMtx {
    pub api: ServerApi,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PathPage<T> {
    page_count: usize,
    items: Option<Vec<T>>,
}

#[derive(Deserialize)]
struct ConfiguredPath {
    name: Box<str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RunningPath {
    name: Box<str>,
    /// Versions before 2026 have `bytesReceived` and `bytesSent`.
    inbound_bytes: Option<u64>,
    bytes_received: Option<u64>,
    outbound_bytes: Option<u64>,
    bytes_sent: Option<u64>,
    readers: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
struct Info {
    version: Box<str>,
    started: Option<Box<str>>,
}

/// The part of the global configuration that a bridge needs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GlobalConfiguration {
    auth_method: Option<Box<str>>,
    #[serde(rename = "authHTTPAddress")]
    auth_http_address: Option<Box<str>>,
    playback: Option<bool>,
}

impl MediaMtx {
    fn pages<T: for<'d> Deserialize<'d>>(&self, path: &str) -> Result<Vec<T>, CallFault> {
        let mut items = Vec::new();
        for page in 0..PAGES_MAX {
            let path = format!("{path}?itemsPerPage={PAGE_ITEMS}&page={page}");
            let answer: PathPage<T> = self.api.get(&path)?.json()?;
            items.extend(answer.items.unwrap_or_default());
            if page + 1 >= answer.page_count {
                return Ok(items);
            }
        }
        Err(CallFault::Unexpected("too many pages"))
    }
}

impl MediaServer for MediaMtx {
    fn probe(&mut self) -> Result<Option<Box<str>>, CallFault> {
        let info: Info = self.api.probe(PROBE)?.json()?;
        Ok(info.started)
    }

    fn list(&mut self) -> Result<BTreeMap<Box<str>, ListedStream>, CallFault> {
        let paths: Vec<ConfiguredPath> = self.pages("/v3/config/paths/list")?;
        let names = paths.into_iter().map(|path| path.name);
        let names = names.filter(|name| !TEMPLATES.contains(&&**name));
        Ok(names.map(|name| (name, ListedStream::default())).collect())
    }

    fn apply(&mut self, call: &StreamCall) -> Result<(), CallFault> {
        let path = |verb: &str, native: &str| {
            let name = percent(native).replace("%2F", "/");
            format!("/v3/config/paths/{verb}/{name}")
        };
        match call {
            StreamCall::Put {
                native,
                source,
                recording,
                cause,
            } => {
                if *cause == PutCause::Restart {
                    self.remove(&path("delete", native))?;
                }
                let body = path_body(source, recording.as_ref()).to_string();
                let body = Some(body.as_bytes());
                match self.api.change("POST", &path("replace", native), body) {
                    Err(fault) if fault.status() == Some(404) => {
                        self.api.change("POST", &path("add", native), body)?;
                    }
                    other => drop(other?),
                }
                Ok(())
            }
            StreamCall::Remove { native } => self.remove(&path("delete", native)),
        }
    }

    fn measure(&mut self) -> Result<ServerMeasure, CallFault> {
        let paths: Vec<RunningPath> = self.pages("/v3/paths/list")?;
        let info: Info = self.api.get(PROBE)?.json()?;
        let streams = paths.into_iter().map(|path| {
            let stream = MeasuredStream {
                bytes_in: path.inbound_bytes.or(path.bytes_received).unwrap_or(0),
                bytes_out: path.outbound_bytes.or(path.bytes_sent).unwrap_or(0),
                viewers: path.readers.map_or(0, |readers| readers.len() as u64),
                picture: None,
                codec: None,
            };
            (path.name, stream)
        });
        let started = info.started.as_deref().and_then(seconds_since);
        Ok(ServerMeasure {
            version: info.version,
            uptime_seconds: started.unwrap_or(0),
            streams: streams.collect(),
        })
    }

    fn missing(&mut self, needs: ServerNeeds) -> Result<Vec<Box<str>>, CallFault> {
        let answer = self.api.get("/v3/config/global/get")?;
        let global: GlobalConfiguration = answer.json()?;
        let mut missing = Vec::new();
        let url = global.auth_http_address.unwrap_or_default();
        let is_asked = global.auth_method.as_deref() == Some("http");
        if needs.hook_port.is_some() && !(is_asked && needs.is_hook(&url)) {
            let hook = needs.hook_url();
            let text = format!(
                "authMethod: http with authHTTPAddress: {hook}; viewers are not checked by Weir"
            );
            missing.push(text.into());
        }
        if needs.recordings && global.playback == Some(false) {
            missing.push("playback: yes; streams are recorded and cannot be played back".into());
        }
        Ok(missing)
    }
}

impl MediaMtx {
    /// A path that is not there is removed.
    fn remove(&self, path: &str) -> Result<(), CallFault> {
        match self.api.change("DELETE", path, None) {
            Err(fault) if fault.status() == Some(404) => Ok(()),
            other => other.map(drop),
        }
    }
}
