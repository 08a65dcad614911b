//! SRS 5 to 7.
//!
//! * No call of it adds a stream: `ingest` blocks in a file that its configuration includes, and a
//!   reload, do. SRS runs one copying ffmpeg per block itself.
//! * A reload touches only blocks that differ, so all changes of a round are one reload. Its answer
//!   is `code: 0` even if the file is broken, so nothing that could break it is written.
//! * `/api/v1/streams` redirects to `/api/v1/streams/`, which gives ten unless `count` is given.
//! * `clients` counts the publisher.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::srs_ingest::{Blocks, IngestOptions, is_harmless};
use super::srs_start::StartFile;
use super::{ServerApi, hooks, with_question_mark};
use crate::bridge::caller::CallFault;
use crate::bridge::kind::{
    BadHook, HookQuestion, ListedStream, MeasuredStream, MediaServer, Picture, PutCause,
    ServerMeasure, ServerNeeds, ServerRules, StreamCall, pull_url,
};
use crate::native_name::MediaServerKind;

/// Answered while the API works.
pub const PROBE: &str = "/api/v1/versions";
const PAGE_ITEMS: usize = 500;
const PAGES_MAX: usize = 1000;

pub struct SrsRules {
    pub play_base: String,
}

impl ServerRules for SrsRules {
    fn schemes(&self) -> &'static [&'static str] {
        MediaServerKind::Srs.schemes()
    }

    /// MPEG-TS is what ffmpeg expects over UDP.
    fn source(&self, url: &str) -> Option<String> {
        let url = pull_url(url, self.schemes())?;
        Some(match url.split_once("://") {
            Some(("udp+mpegts", rest)) => format!("udp://{rest}"),
            _ => url,
        })
    }

    fn native(&self, name: &str) -> Box<str> {
        MediaServerKind::Srs.native(name).into()
    }

    fn play(&self, native: &str, suffix: &str, query: &str) -> Option<String> {
        let ending = if suffix.rsplit('.').next() == Some("flv") {
            "flv"
        } else {
            "m3u8"
        };
        let query = with_question_mark(query);
        Some(format!("{}{native}.{ending}{query}", self.play_base))
    }

    fn hook(&self, body: &[u8]) -> Result<Option<HookQuestion>, BadHook> {
        hooks::srs(body)
    }

    /// SRS lets a client play if the body is `0`.
    fn hook_body(&self, allowed: bool) -> &'static str {
        if allowed { "0" } else { "1" }
    }
}

pub struct Srs {
    api: ServerApi,
    ingest: IngestOptions,
    /// Sources by native name, as in the file; `None` before it was read.
    blocks: Option<Blocks>,
    /// The file differs from `blocks`.
    is_unwritten: bool,
    /// SRS may not have read the file since it was written.
    is_unread: bool,
}

#[derive(Deserialize)]
struct Coded {
    code: i64,
}

#[derive(Deserialize)]
struct Versions {
    #[serde(default)]
    pid: Option<serde_json::Value>,
    data: VersionData,
}

#[derive(Deserialize)]
struct VersionData {
    version: Box<str>,
}

#[derive(Deserialize)]
struct LivePage {
    streams: Vec<SrsStream>,
}

#[derive(Deserialize)]
struct SrsStream {
    app: Box<str>,
    name: Box<str>,
    #[serde(default)]
    recv_bytes: u64,
    #[serde(default)]
    send_bytes: u64,
    #[serde(default)]
    clients: u64,
    publish: Option<LivePublish>,
    video: Option<LiveVideo>,
}

#[derive(Deserialize)]
struct LivePublish {
    #[serde(default)]
    active: bool,
}

#[derive(Deserialize)]
struct LiveVideo {
    codec: Option<Box<str>>,
    width: Option<u64>,
    height: Option<u64>,
}

#[derive(Deserialize)]
struct Summaries {
    data: SummaryData,
}

#[derive(Deserialize)]
struct SummaryData {
    #[serde(rename = "self")]
    own: OwnSummary,
}

#[derive(Deserialize)]
struct OwnSummary {
    srs_uptime: f64,
    /// The command line of SRS, and the directory that it was started in.
    #[serde(default)]
    argv: Box<str>,
    #[serde(default)]
    cwd: Box<str>,
}

#[derive(Deserialize)]
struct ShownApi {
    http_api: Option<ShownHttpApi>,
}

#[derive(Deserialize)]
struct ShownHttpApi {
    raw_api: Option<ShownRawApi>,
}

#[derive(Deserialize)]
struct ShownRawApi {
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    allow_reload: bool,
}

impl Srs {
    pub fn new(base: &str, login: Option<&str>, ingest: IngestOptions) -> Self {
        Self {
            api: ServerApi::new(base, login),
            ingest,
            blocks: None,
            is_unwritten: false,
            // A bridge that was killed may have written the file and not reloaded it.
            is_unread: true,
        }
    }

    fn blocks(&mut self) -> Result<&mut Blocks, CallFault> {
        if self.blocks.is_none() {
            self.blocks = Some(self.ingest.read()?);
        }
        Ok(self.blocks.get_or_insert_default())
    }
}

impl MediaServer for Srs {
    fn probe(&mut self) -> Result<Option<Box<str>>, CallFault> {
        let versions: Versions = self.api.probe(PROBE)?.json()?;
        Ok(versions.pid.map(|pid| pid.to_string().into()))
    }

    fn list(&mut self) -> Result<BTreeMap<Box<str>, ListedStream>, CallFault> {
        let listed = self.blocks()?.iter().map(|(native, source)| {
            let stream = ListedStream {
                source: Some(source.clone()),
                is_idle: false,
            };
            (native.clone(), stream)
        });
        Ok(listed.collect())
    }

    fn apply(&mut self, call: &StreamCall) -> Result<(), CallFault> {
        let native: Box<str> = call.native().into();
        let StreamCall::Put { source, cause, .. } = call else {
            self.is_unwritten |= self.blocks()?.remove(&native).is_some();
            return Ok(());
        };
        if !is_harmless(source) {
            let text = "the URL has characters that a configuration file must not get";
            return Err(CallFault::Status(400, text.to_owned()));
        }
        if *cause == PutCause::Restart && self.blocks()?.remove(&native).is_some() {
            self.is_unwritten = true;
            self.flush()?;
        }
        self.blocks()?.insert(native, source.clone());
        self.is_unwritten = true;
        Ok(())
    }

    /// One file and one reload for all changes of a round.
    fn flush(&mut self) -> Result<(), CallFault> {
        if self.is_unwritten {
            let blocks = self.blocks.get_or_insert_default();
            self.ingest.write(blocks)?;
            self.is_unwritten = false;
            self.is_unread = true;
        }
        if self.is_unread {
            let answer: Coded = self.api.get("/api/v1/raw?rpc=reload")?.json()?;
            if answer.code != 0 {
                return Err(CallFault::Unexpected("SRS refuses to reload"));
            }
            self.is_unread = false;
        }
        Ok(())
    }

    fn measure(&mut self) -> Result<ServerMeasure, CallFault> {
        let mut streams = BTreeMap::new();
        for page in 0..PAGES_MAX {
            let start = page * PAGE_ITEMS;
            let path = format!("/api/v1/streams/?start={start}&count={PAGE_ITEMS}");
            let page: LivePage = self.api.get(&path)?.json()?;
            let is_last = page.streams.len() < PAGE_ITEMS;
            streams.extend(page.streams.into_iter().map(measured));
            if is_last {
                break;
            }
        }
        let versions: Versions = self.api.get(PROBE)?.json()?;
        let summaries: Summaries = self.api.get("/api/v1/summaries")?.json()?;
        Ok(ServerMeasure {
            version: versions.data.version,
            uptime_seconds: summaries.data.own.srs_uptime.max(0.0) as u64,
            streams,
        })
    }

    /// `rpc=raw` is answered although the raw API is off. The file that SRS was started with is
    /// read if this machine has it.
    fn missing(&mut self, needs: ServerNeeds) -> Result<Vec<Box<str>>, CallFault> {
        let shown: ShownApi = self.api.get("/api/v1/raw?rpc=raw")?.json()?;
        let mut missing: Vec<Box<str>> = Vec::new();
        let raw = shown.http_api.and_then(|api| api.raw_api);
        if !raw.is_some_and(|raw| raw.enabled && raw.allow_reload) {
            let text = "http_api { raw_api { enabled on; allow_reload on; } }; changes of streams \
                        have no effect";
            missing.push(text.into());
        }
        let summaries: Summaries = self.api.get("/api/v1/summaries")?.json()?;
        let own = summaries.data.own;
        let file = StartFile::find(&own.argv, &own.cwd);
        if let Some(file) = file {
            missing.extend(file.missing(&self.ingest.file, needs));
        }
        Ok(missing)
    }
}

fn measured(stream: SrsStream) -> (Box<str>, MeasuredStream) {
    let is_published = stream.publish.is_some_and(|publish| publish.active);
    let video = stream.video.as_ref();
    let size = video.and_then(|video| Some((video.width?, video.height?)));
    let measured = MeasuredStream {
        bytes_in: stream.recv_bytes,
        bytes_out: stream.send_bytes,
        viewers: stream.clients.saturating_sub(u64::from(is_published)),
        picture: Some(size.map_or(Picture::Missing, |(w, h)| Picture::Size(w, h))),
        codec: video
            .and_then(|video| video.codec.as_deref())
            .map(|codec| codec.to_lowercase().into()),
    };
    (format!("/{}/{}", stream.app, stream.name).into(), measured)
}
