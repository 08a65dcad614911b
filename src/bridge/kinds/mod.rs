//! The kinds of media servers, one file each.

pub mod go2rtc;
mod hooks;
pub mod mediamtx;
pub mod node_media_server;
pub mod srs;
pub mod srs_ingest;
mod srs_start;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use clap::ValueEnum;

use super::caller::{CallAnswer, CallFault, HttpCaller, OutgoingCall};
use super::kind::{MediaServer, ServerRules};
use super::prober::MediaPort;
use super::watcher::{ApiLook, SIGN_WITHIN};
use super::worker::ServerHandle;
use crate::native_name::MediaServerKind;

/// Longest time for one call of a media server.
const CALL_WITHIN: Duration = Duration::from_secs(4);
/// Longest time for the answer to a probe.
const PROBE_WITHIN: Duration = Duration::from_millis(1500);

/// The kinds, by the names that `--kind` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ServerKind {
    Mediamtx,
    Go2rtc,
    NodeMediaServer,
    Srs,
}

impl ServerKind {
    /// Where its control API usually is.
    pub fn usual_api(self) -> &'static str {
        match self {
            Self::Mediamtx => "http://127.0.0.1:9997",
            Self::Go2rtc => "http://127.0.0.1:1984",
            Self::NodeMediaServer => "http://127.0.0.1:8000",
            Self::Srs => "http://127.0.0.1:1985",
        }
    }

    /// As Weir has it.
    pub fn known(self) -> MediaServerKind {
        match self {
            Self::Mediamtx => MediaServerKind::MediaMtx,
            Self::Go2rtc => MediaServerKind::Go2rtc,
            Self::NodeMediaServer => MediaServerKind::NodeMediaServer,
            Self::Srs => MediaServerKind::Srs,
        }
    }
}

/// What describes one media server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    pub kind: ServerKind,
    pub api: String,
    pub login: Option<HiddenText>,
    pub media: Box<str>,
    pub play_base: String,
    /// Used by MediaMTX only: the directory below which it records.
    pub record_dir: Option<Box<str>>,
    /// Used by SRS only.
    pub ingest: srs_ingest::IngestOptions,
}

/// A secret, which is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct HiddenText(String);

impl HiddenText {
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for HiddenText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hidden]")
    }
}

impl ServerKind {
    /// The port of the protocol by which other servers pull from it.
    pub fn media_port(self) -> u16 {
        match self {
            Self::Mediamtx | Self::Go2rtc => 8554,
            Self::NodeMediaServer | Self::Srs => 1935,
        }
    }

    pub fn media_scheme(self) -> &'static str {
        match self {
            Self::Mediamtx | Self::Go2rtc => "rtsp",
            Self::NodeMediaServer | Self::Srs => "rtmp",
        }
    }

    /// The URLs of its players over HTTP, by what follows the name of a stream, as templates.
    pub fn play_urls(self, base: &str) -> BTreeMap<&'static str, String> {
        let urls: &[(&str, &str)] = match self {
            Self::Mediamtx => &[("index.m3u8", "/{native}/index.m3u8")],
            Self::Go2rtc => &[
                ("index.m3u8", "/api/stream.m3u8?src={native}"),
                ("index.mp4", "/api/stream.mp4?src={native}"),
            ],
            Self::NodeMediaServer => &[("index.flv", "{native}.flv")],
            Self::Srs => &[
                ("index.m3u8", "{native}.m3u8"),
                ("index.flv", "{native}.flv"),
            ],
        };
        let urls = urls.iter();
        let urls = urls.map(|(suffix, path)| (*suffix, format!("{base}{path}")));
        urls.collect()
    }

    /// The port of its players over HTTP.
    pub fn play_port(self) -> u16 {
        match self {
            Self::Mediamtx => 8888,
            Self::Go2rtc => 1984,
            Self::NodeMediaServer => 8000,
            Self::Srs => 8080,
        }
    }
}

/// The server that the options describe.
pub fn connect(options: &ServerOptions) -> ServerHandle {
    let login = options.login.as_ref().map(HiddenText::expose);
    let api = || ServerApi::new(&options.api, login);
    let play_base = options.play_base.clone();
    let (server, rules): (Box<dyn MediaServer>, Arc<dyn ServerRules>) = match options.kind {
        ServerKind::Mediamtx => (
            Box::new(mediamtx::MediaMtx { api: api() }),
            Arc::new(mediamtx::MediaMtxRules {
                play_base,
                record_dir: options.record_dir.clone(),
            }),
        ),
        ServerKind::Go2rtc => (
            Box::new(go2rtc::Go2rtc {
                api: api().within(go2rtc::CALL_WITHIN),
            }),
            Arc::new(go2rtc::Go2rtcRules { play_base }),
        ),
        ServerKind::NodeMediaServer => (
            Box::new(node_media_server::NodeMediaServer::new(&options.api, login)),
            Arc::new(node_media_server::NodeMediaRules { play_base }),
        ),
        ServerKind::Srs => (
            Box::new(srs::Srs::new(&options.api, login, options.ingest.clone())),
            Arc::new(srs::SrsRules { play_base }),
        ),
    };
    ServerHandle {
        server,
        rules,
        media: MediaPort {
            address: options.media.clone(),
            scheme: options.kind.media_scheme(),
        },
        api_look: api_look(options),
    }
}

/// What looks for a sign of life of the control API beside other calls, where two at once do no
/// harm. It sends no credentials where a wrong one would count.
fn api_look(options: &ServerOptions) -> Option<ApiLook> {
    let login = options.login.as_ref().map(HiddenText::expose);
    let (path, login) = match options.kind {
        ServerKind::Mediamtx => (mediamtx::PROBE, login),
        ServerKind::Go2rtc => return None,
        ServerKind::NodeMediaServer => (node_media_server::PROBE, None),
        ServerKind::Srs => (srs::PROBE, login),
    };
    let api = ServerApi::new(&options.api, login).within(SIGN_WITHIN);
    Some(Box::new(move || api.probe(path).is_ok()))
}

/// The control API of a media server.
pub struct ServerApi {
    caller: HttpCaller,
    base: String,
    authorization: Option<String>,
    probe_within: Duration,
    call_within: Duration,
}

impl ServerApi {
    /// `login` is `user:password`, for HTTP Basic.
    pub fn new(base: &str, login: Option<&str>) -> Self {
        let encode = |login: &str| base64::engine::general_purpose::STANDARD.encode(login);
        Self {
            caller: HttpCaller::new(base, 0),
            base: base.trim_end_matches('/').to_owned(),
            authorization: login.map(|login| format!("Basic {}", encode(login))),
            probe_within: PROBE_WITHIN,
            call_within: CALL_WITHIN,
        }
    }

    /// With one deadline for probes and other calls.
    pub fn within(mut self, deadline: Duration) -> Self {
        self.probe_within = deadline;
        self.call_within = deadline;
        self
    }

    pub fn get(&self, path: &str) -> Result<CallAnswer, CallFault> {
        self.send("GET", path, None, self.call_within)?.success()
    }

    pub fn probe(&self, path: &str) -> Result<CallAnswer, CallFault> {
        self.send("GET", path, None, self.probe_within)?.success()
    }

    /// A call that changes something, with a body if there is one.
    pub fn change(
        &self,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<CallAnswer, CallFault> {
        self.send(method, path, body, self.call_within)?.success()
    }

    /// [`ServerApi::change`], or a read, with another `Authorization`.
    pub fn change_as(
        &self,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
        authorization: &str,
    ) -> Result<CallAnswer, CallFault> {
        let fields = [("authorization", authorization)];
        self.call(method, path, body, &fields, self.call_within)?
            .success()
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
        deadline: Duration,
    ) -> Result<CallAnswer, CallFault> {
        let own = self.authorization.iter();
        let fields: Vec<_> = own.map(|it| ("authorization", it.as_str())).collect();
        self.call(method, path, body, &fields, deadline)
    }

    fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
        fields: &[(&str, &str)],
        deadline: Duration,
    ) -> Result<CallAnswer, CallFault> {
        let url = format!("{}{path}", self.base);
        let mut headers = fields.to_vec();
        headers.extend(body.map(|_| ("content-type", "application/json")));
        self.caller.call(&OutgoingCall {
            method,
            url: &url,
            headers: &headers,
            body: body.unwrap_or_default(),
            deadline,
        })
    }
}

/// The pairs of a query string, decoded.
fn query_pairs(query: &str) -> BTreeMap<String, String> {
    let decoded = |text: &str| {
        let text = text.replace('+', " ");
        let decoded = percent_encoding::percent_decode_str(&text).decode_utf8_lossy();
        decoded.into_owned()
    };
    let pairs = query.trim_start_matches('?').split('&');
    let pairs = pairs.filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

/// `?query`, or nothing.
fn with_question_mark(query: &str) -> String {
    if query.is_empty() {
        String::new()
    } else {
        format!("?{query}")
    }
}

/// Whether the text can be the last part of the path of a URL.
fn is_file_name(text: &str) -> bool {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    !text.is_empty() && !text.starts_with('.') && text.chars().all(is_plain)
}

/// Seconds since a time such as `2026-11-28T10:00:00Z` or `2026-11-28T10:00:00.123+02:00`.
fn seconds_since(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let seconds = number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
    let zone = text
        .get(19..)?
        .trim_start_matches(|it: char| it == '.' || it.is_ascii_digit());
    let offset = match zone.split_at_checked(1) {
        Some((sign @ ("+" | "-"), rest)) => {
            let (hours, minutes) = rest.split_once(':')?;
            let offset = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
            if sign == "+" { offset } else { -offset }
        }
        _ => 0,
    };
    // Days from the civil calendar; March is the first month, so a leap day is the last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days =
        year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 719_469;
    let then = days * 86_400 + seconds - offset;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .ok()?;
    u64::try_from(now.as_secs() as i64 - then).ok()
}
