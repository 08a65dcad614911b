//! node-media-server 4.4. Its relays are what is configured; its streams show bytes and pictures.
//!
//! * POST of a path that has a relay is 200 and changes nothing: a change is DELETE and POST.
//! * A removed stream stays among the streams for 30 s, and so does any path that a viewer wanted:
//!   only relays are listed.
//! * Relays are kept over its restart.
//! * The status of an RTSP relay has `rtspUrl` and no `mode`.
//! * An RTSP URL with a query fails at SETUP: it is no input for this server.
//! * Bytes can flow without a picture; a stream without `videoWidth` has none.
//! * Ten logins a minute, and five wrong ones lock the API for 15 minutes: one token is used until
//!   it is refused, and a refused login is not repeated soon.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use super::{ServerApi, hooks, with_question_mark};
use crate::bridge::caller::{CallAnswer, CallFault};
use crate::bridge::kind::{
    BadHook, HookQuestion, ListedStream, MeasuredStream, MediaServer, Picture, PutCause,
    ServerMeasure, ServerNeeds, ServerRules, StreamCall, pull_url,
};
use crate::native_name::MediaServerKind;

/// Answered without a login.
pub const PROBE: &str = "/api/v1/health";
/// Pause after a refused login.
const LOGIN_PAUSE: Duration = Duration::from_mins(5);
/// Pause between logins.
const LOGIN_EVERY: Duration = Duration::from_secs(10);

pub struct NodeMediaRules {
    pub play_base: String,
}

impl ServerRules for NodeMediaRules {
    fn schemes(&self) -> &'static [&'static str] {
        MediaServerKind::NodeMediaServer.schemes()
    }

    fn native(&self, name: &str) -> Box<str> {
        MediaServerKind::NodeMediaServer.native(name).into()
    }

    fn source(&self, url: &str) -> Option<String> {
        let url = pull_url(url, self.schemes())?;
        let fails = url.starts_with("rtsp:") && url.contains('?');
        (!fails).then_some(url)
    }

    /// The one form in which it plays over HTTP.
    fn play(&self, native: &str, _: &str, query: &str) -> Option<String> {
        let query = with_question_mark(query);
        Some(format!("{}{native}.flv{query}", self.play_base))
    }

    fn hook(&self, body: &[u8]) -> Result<Option<HookQuestion>, BadHook> {
        hooks::node_media_server(body)
    }
}

pub struct NodeMediaServer {
    api: ServerApi,
    user: String,
    password: String,
    token: Option<String>,
    no_login_before: Option<Instant>,
}

#[derive(Deserialize)]
struct ApiEnvelope<T> {
    data: T,
}

#[derive(Deserialize)]
struct LoginData {
    token: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Relay {
    stream_path: Box<str>,
    url: Option<Box<str>>,
    rtsp_url: Option<Box<str>>,
    mode: Option<Box<str>>,
}

#[derive(Deserialize)]
struct NodeMediaStreams {
    streams: Vec<NodeMediaStream>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeMediaStream {
    key: Box<str>,
    #[serde(default)]
    out_bytes: u64,
    #[serde(default)]
    subscribers: u64,
    publisher: Option<Publisher>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Publisher {
    #[serde(default)]
    in_bytes: u64,
    video_width: Option<u64>,
    video_height: Option<u64>,
}

#[derive(Deserialize)]
struct Stats {
    server: ServerStats,
}

#[derive(Deserialize)]
struct ServerStats {
    uptime: f64,
}

/// The part of the configuration that a bridge needs.
#[derive(Deserialize)]
struct ShownConfiguration {
    notify: Option<ShownNotify>,
    auth: Option<ShownAuth>,
}

#[derive(Deserialize)]
struct ShownNotify {
    url: Option<Box<str>>,
}

#[derive(Deserialize)]
struct ShownAuth {
    play: Option<bool>,
}

impl NodeMediaServer {
    /// `login` is `user:password`.
    pub fn new(base: &str, login: Option<&str>) -> Self {
        let (user, password) = login
            .and_then(|it| it.split_once(':'))
            .unwrap_or(("admin", ""));
        Self {
            api: ServerApi::new(base, None),
            user: user.to_owned(),
            password: password.to_owned(),
            token: None,
            no_login_before: None,
        }
    }

    fn login(&mut self) -> Result<(), CallFault> {
        let now = Instant::now();
        if self.no_login_before.is_some_and(|at| now < at) {
            return Err(CallFault::Unexpected("the login is not repeated yet"));
        }
        self.no_login_before = Some(now + LOGIN_EVERY);
        let body = json!({"username": self.user, "password": self.password}).to_string();
        let answer = self
            .api
            .change("POST", "/api/v1/login", Some(body.as_bytes()));
        let answer = answer.inspect_err(|fault| {
            if fault.is_refusal() {
                self.no_login_before = Some(now + LOGIN_PAUSE);
            }
        })?;
        let login: ApiEnvelope<LoginData> = answer.json()?;
        self.token = Some(login.data.token);
        Ok(())
    }

    fn send(&mut self, method: &str, path: &str, body: &[u8]) -> Result<CallAnswer, CallFault> {
        let path = format!("/api/v1{path}");
        let has_token = self.token.is_some();
        if !has_token {
            self.login()?;
        }
        let body = Some(body).filter(|body| !body.is_empty());
        let send = |server: &Self| {
            let bearer = format!("Bearer {}", server.token.as_deref().unwrap_or_default());
            server.api.change_as(method, &path, body, &bearer)
        };
        match send(self) {
            Err(CallFault::Status(401, _)) if has_token => {
                self.token = None;
                self.login()?;
                send(self)
            }
            other => other,
        }
    }

    fn remove(&mut self, native: &str) -> Result<(), CallFault> {
        let body = json!({"streamPath": native}).to_string();
        match self.send("DELETE", "/relay", body.as_bytes()) {
            Err(CallFault::Status(404, _)) => Ok(()),
            other => other.map(drop),
        }
    }
}

impl MediaServer for NodeMediaServer {
    fn probe(&mut self) -> Result<Option<Box<str>>, CallFault> {
        self.api.probe(PROBE)?;
        Ok(None)
    }

    fn list(&mut self) -> Result<BTreeMap<Box<str>, ListedStream>, CallFault> {
        let relays: ApiEnvelope<Vec<Relay>> = self.send("GET", "/relay", b"")?.json()?;
        let pulls = relays.data.into_iter();
        let pulls = pulls.filter(|relay| relay.mode.as_deref().is_none_or(|mode| mode == "pull"));
        let listed = pulls.map(|relay| {
            let stream = ListedStream {
                source: relay.url.or(relay.rtsp_url),
                is_idle: false,
            };
            (relay.stream_path, stream)
        });
        Ok(listed.collect())
    }

    fn apply(&mut self, call: &StreamCall) -> Result<(), CallFault> {
        let native = call.native();
        let StreamCall::Put { source, cause, .. } = call else {
            return self.remove(native);
        };
        if *cause != PutCause::Add {
            self.remove(native)?;
        }
        let body = json!({"url": source, "mode": "pull", "streamPath": native}).to_string();
        self.send("POST", "/relay", body.as_bytes()).map(drop)
    }

    fn measure(&mut self) -> Result<ServerMeasure, CallFault> {
        let stats: ApiEnvelope<Stats> = self.send("GET", "/stats", b"")?.json()?;
        let streams: ApiEnvelope<NodeMediaStreams> = self.send("GET", "/streams", b"")?.json()?;
        let measured = streams.data.streams.into_iter().map(|stream| {
            let publisher = stream.publisher.as_ref();
            let size = publisher.and_then(|it| Some((it.video_width?, it.video_height?)));
            let size = size.filter(|(width, _)| *width > 0);
            let measured = MeasuredStream {
                bytes_in: publisher.map_or(0, |it| it.in_bytes),
                bytes_out: stream.out_bytes,
                viewers: stream.subscribers,
                picture: Some(size.map_or(Picture::Missing, |(w, h)| Picture::Size(w, h))),
                codec: size.map(|_| "h264".into()),
            };
            (stream.key, measured)
        });
        Ok(ServerMeasure {
            version: "node-media-server".into(),
            uptime_seconds: stats.data.server.uptime.max(0.0) as u64,
            streams: measured.collect(),
        })
    }

    /// Versions that do not show their configuration lack nothing that is known.
    fn missing(&mut self, needs: ServerNeeds) -> Result<Vec<Box<str>>, CallFault> {
        let answer = match self.send("GET", "/config", b"") {
            Err(CallFault::Status(404, _)) => return Ok(Vec::new()),
            other => other?,
        };
        let Ok(shown) = answer.json::<ApiEnvelope<ShownConfiguration>>() else {
            return Ok(Vec::new());
        };
        let url = shown.data.notify.and_then(|notify| notify.url);
        let mut missing = Vec::new();
        if needs.hook_port.is_some() && !url.is_some_and(|url| needs.is_hook(&url)) {
            let hook = needs.hook_url();
            let text = format!("notify.url: {hook}; viewers are not checked by Weir");
            missing.push(text.into());
        }
        let is_signed = shown.data.auth.and_then(|auth| auth.play) == Some(true);
        if is_signed {
            let text = "auth.play: false; players need a signature that Weir does not make";
            missing.push(text.into());
        }
        Ok(missing)
    }
}
