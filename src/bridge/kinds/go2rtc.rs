//! go2rtc 1.9.
//!
//! * Calls that overlap can end the process, and so can `GET /api`: one call at a time, and that
//!   one never.
//! * A stream starts with its first viewer unless it is preloaded. A preload waits for the source
//!   and keeps others waiting, so the source must accept a connection first. A preload that failed
//!   is forgotten: a stream without one is idle, and is resumed.
//! * PUT of a stream puts an idle one in its place, while the old one goes on unlisted: the preload
//!   is removed first.
//! * Without a writable file, PUT answers 400 although it worked.
//! * Passwords read back as `***`: sources are not compared.
//! * The answer to a preload has the error of the source as text.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{ServerApi, is_file_name};
use crate::bridge::caller::CallFault;
use crate::bridge::kind::{
    BadHook, HookQuestion, ListedStream, MeasuredStream, MediaServer, PutCause, ServerMeasure,
    ServerNeeds, ServerRules, StreamCall, pull_url,
};
use crate::bridge::plan::SourceFault;
use crate::bridge::prober;
use crate::bridge::worker::source_fault;
use crate::client::escape as percent;
use crate::native_name::MediaServerKind;

/// Longest time for a call. A call that is given up may still be in progress there, and the next
/// one would overlap it.
pub const CALL_WITHIN: Duration = Duration::from_secs(12);

pub struct Go2rtcRules {
    pub play_base: String,
}

impl ServerRules for Go2rtcRules {
    /// Those that run programs or read files there are not among them.
    fn schemes(&self) -> &'static [&'static str] {
        MediaServerKind::Go2rtc.schemes()
    }

    fn native(&self, name: &str) -> Box<str> {
        MediaServerKind::Go2rtc.native(name).into()
    }

    /// Without what follows `#`, which are options of go2rtc. WHEP is `webrtc:` before an HTTP URL.
    fn source(&self, url: &str) -> Option<String> {
        let url = url.split('#').next().unwrap_or_default();
        let url = pull_url(url, self.schemes())?;
        Some(match url.split_once("://") {
            Some(("whep", rest)) => format!("webrtc:http://{rest}"),
            Some(("wheps", rest)) => format!("webrtc:https://{rest}"),
            _ => url,
        })
    }

    fn play(&self, native: &str, suffix: &str, query: &str) -> Option<String> {
        let file = match suffix {
            "index.m3u8" => "stream.m3u8",
            "index.mp4" => "stream.mp4",
            other => other,
        };
        let more = if query.is_empty() { "" } else { "&" };
        let name = percent(native);
        let url = format!("{}/api/{file}?src={name}{more}{query}", self.play_base);
        is_file_name(file).then_some(url)
    }

    /// It has no hook.
    fn hook(&self, _: &[u8]) -> Result<Option<HookQuestion>, BadHook> {
        Err(BadHook)
    }
}

pub struct Go2rtc {
    pub api: ServerApi,
}

#[derive(Deserialize)]
struct Go2rtcStream {
    producers: Option<Vec<Producer>>,
    consumers: Option<Vec<Consumer>>,
}

#[derive(Deserialize)]
struct Producer {
    #[serde(default)]
    bytes_recv: u64,
}

#[derive(Deserialize)]
struct Consumer {
    #[serde(default)]
    bytes_send: u64,
    #[serde(default)]
    format_name: Box<str>,
}

type Go2rtcStreams = BTreeMap<Box<str>, Go2rtcStream>;

impl Go2rtc {
    fn put(&self, path: &str) -> Result<(), CallFault> {
        match self.api.change("PUT", path, Some(b"")) {
            // It worked; only the file could not be written.
            Err(CallFault::Status(400, text)) if text.contains("config") => Ok(()),
            other => other.map(drop),
        }
    }

    /// What is not there is removed.
    fn delete(&self, path: &str) -> Result<(), CallFault> {
        match self.api.change("DELETE", path, None) {
            Err(CallFault::Status(400 | 404 | 500, _)) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Pulls a stream without a viewer, if its source accepts a connection.
    fn preload(&self, name: &str, source: &str) -> Result<(), CallFault> {
        if !prober::source_accepts(source) {
            return Err(source_fault(SourceFault::Unreachable));
        }
        let preloaded = self.put(&format!("/api/preload?src={name}"));
        preloaded.map_err(|fault| source_fault(fault_of_preload(&fault)))
    }
}

/// What go2rtc found at the source, by the words of its answer: a status of HTTP other than
/// 200 as it came, one of RTSP without the number.
fn fault_of_preload(fault: &CallFault) -> SourceFault {
    let CallFault::Status(_, text) = fault else {
        return SourceFault::Unreachable;
    };
    let found = text.strip_prefix("streams: ").unwrap_or_default();
    let status = found.split(' ').next().and_then(|word| word.parse().ok());
    match (found, status) {
        ("wrong user/pass" | "user/pass not provided", _) | (_, Some(401 | 403)) => {
            SourceFault::Unauthorized
        }
        (_, Some(400..=599)) => SourceFault::Refused,
        _ if found.starts_with("wrong response on ") => SourceFault::Refused,
        _ => SourceFault::Unreachable,
    }
}

impl MediaServer for Go2rtc {
    fn probe(&mut self) -> Result<Option<Box<str>>, CallFault> {
        self.api.probe("/api/schemes")?;
        Ok(None)
    }

    fn list(&mut self) -> Result<BTreeMap<Box<str>, ListedStream>, CallFault> {
        let streams: BTreeMap<Box<str>, IgnoredAny> = self.api.get("/api/streams")?.json()?;
        let preloads: BTreeMap<Box<str>, IgnoredAny> = self.api.get("/api/preload")?.json()?;
        let listed = streams.into_keys().map(|native| {
            let stream = ListedStream {
                source: None,
                is_idle: !preloads.contains_key(&native),
            };
            (native, stream)
        });
        Ok(listed.collect())
    }

    fn apply(&mut self, call: &StreamCall) -> Result<(), CallFault> {
        let name = percent(call.native());
        let preload = format!("/api/preload?src={name}");
        let StreamCall::Put { source, cause, .. } = call else {
            self.delete(&preload)?;
            return self.delete(&format!("/api/streams?src={name}"));
        };
        if *cause == PutCause::Resume {
            return self.preload(&name, source);
        }
        self.delete(&preload)?;
        let source_value = percent(source);
        self.put(&format!("/api/streams?name={name}&src={source_value}"))?;
        // The stream is there; without a preload it is idle, and is resumed later.
        let _ = self.preload(&name, source);
        Ok(())
    }

    fn measure(&mut self) -> Result<ServerMeasure, CallFault> {
        let streams: Go2rtcStreams = self.api.get("/api/streams")?.json()?;
        let measured = streams.into_iter().map(|(native, stream)| {
            let (producers, consumers) = (stream.producers, stream.consumers);
            let (producers, consumers) =
                (producers.unwrap_or_default(), consumers.unwrap_or_default());
            let viewers = consumers.iter().filter(|it| &*it.format_name != "preload");
            let stream = MeasuredStream {
                bytes_in: producers.iter().map(|it| it.bytes_recv).sum(),
                bytes_out: consumers.iter().map(|it| it.bytes_send).sum(),
                viewers: viewers.count() as u64,
                picture: None,
                codec: None,
            };
            (native, stream)
        });
        Ok(ServerMeasure {
            version: "go2rtc".into(),
            uptime_seconds: 0,
            streams: measured.collect(),
        })
    }

    /// It has no hook, and records nothing.
    fn missing(&mut self, _: ServerNeeds) -> Result<Vec<Box<str>>, CallFault> {
        let answer = match self.api.get("/api/config") {
            Err(fault @ CallFault::Status(404 | 410, _)) => {
                let text = format!("a configuration file ({fault}); it loses streams at a restart");
                return Ok(vec![text.into()]);
            }
            other => other?,
        };
        let text = String::from_utf8_lossy(&answer.body);
        let listen = setting(&text, "listen").unwrap_or(":1984");
        let is_open = !["127.", "localhost", "[::1]"]
            .iter()
            .any(|begin| listen.starts_with(begin));
        let mut missing = Vec::new();
        if is_open && setting(&text, "password").is_none() {
            let text = format!(
                "a password of the API, or api: listen: 127.0.0.1:1984; any client that \
                 reaches {listen} can change streams"
            );
            missing.push(text.into());
        }
        Ok(missing)
    }
}

/// A setting in the section `api` of a configuration in YAML, one setting in a line. Another form
/// of it is not read.
fn setting<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let mut section = "";
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or_default();
        let Some((key, value)) = line.split_once(':').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        if !key.starts_with([' ', '\t']) {
            section = key;
        } else if section == "api" && key.trim() == name {
            let value = value.trim().trim_matches(['"', '\'']);
            return Some(value).filter(|value| !value.is_empty());
        }
    }
    None
}
