//! The API of node-media-server 4.4.
//!
//! All but the health needs a token of a login; ten logins lock it, and so do five wrong ones,
//! until it starts again. POST of a path that has a relay is 200 and changes nothing. A removed
//! stream stays in the list of streams. An RTSP source with a query is a relay that never
//! publishes. Relays are kept over a restart. A source with `dark` in it flows without a picture
//! until it is started again.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{FakeAnswer, FakeKind, FakeRequest};

const PASSWORD: &str = "secret";
const LOGINS_MAX: usize = 10;
const WRONG_LOGINS_MAX: usize = 5;

#[derive(Debug, Default)]
pub struct FakeNodeMediaServer {
    /// Sources by path.
    pub relays: BTreeMap<String, String>,
    /// How often each relay was made.
    pub starts: BTreeMap<String, usize>,
    /// Streams that were removed or that viewers wanted.
    pub ghosts: BTreeSet<String>,
    pub logins: usize,
    pub wrong_logins: usize,
    /// Where viewers are checked; a version before that shows no configuration.
    pub notify_url: Option<String>,
    /// Players need a signature of its own.
    pub signs_players: bool,
    token: usize,
    bytes: BTreeMap<String, u64>,
}

impl FakeNodeMediaServer {
    /// The password of the user `admin`.
    pub const PASSWORD: &str = PASSWORD;

    /// Tokens given so far are valid no more.
    pub fn expire_token(&mut self) {
        self.token += 1;
    }

    fn login(&mut self, request: &FakeRequest) -> FakeAnswer {
        self.logins += 1;
        if self.logins > LOGINS_MAX || self.wrong_logins >= WRONG_LOGINS_MAX {
            return FakeAnswer::text(429, "locked");
        }
        let body = request.json();
        if body["username"] != "admin" || body["password"] != PASSWORD {
            self.wrong_logins += 1;
            return FakeAnswer::text(401, "wrong");
        }
        let token = self.token.to_string();
        FakeAnswer::json(200, &json!({"success": true, "data": {"token": token}}))
    }

    fn relay(path: &str, source: &str) -> Value {
        if source.starts_with("rtsp") {
            return json!({"id": "1", "streamPath": path, "rtspUrl": source, "isRunning": true});
        }
        json!({"id": "1", "streamPath": path, "url": source, "mode": "pull", "isRunning": true})
    }

    fn stream(&mut self, path: &str) -> Value {
        let fails = |source: &&String| source.starts_with("rtsp") && source.contains('?');
        let Some(source) = self.relays.get(path).filter(|source| !fails(source)) else {
            return json!({
                "key": path, "status": "reconnecting", "inBps": 0, "outBytes": 0, "subscribers": 0,
            });
        };
        let is_dark = source.contains("dark") && self.starts[path] == 1;
        let bytes = self.bytes.entry(path.to_owned()).or_default();
        *bytes += 10_000;
        let mut publisher = json!({"inBytes": *bytes});
        if !is_dark {
            publisher["videoWidth"] = 160.into();
            publisher["videoHeight"] = 120.into();
        }
        json!({
            "key": path, "status": "publishing", "inBps": 10_000, "outBytes": 5, "subscribers": 1,
            "publisher": publisher,
        })
    }

    fn change(&mut self, request: &FakeRequest) -> FakeAnswer {
        let body = request.json();
        let path = body["streamPath"].as_str().unwrap_or_default().to_owned();
        if request.method == "DELETE" {
            if self.relays.remove(&path).is_none() {
                return FakeAnswer::text(404, "no such relay");
            }
            self.ghosts.insert(path);
            return FakeAnswer::json(200, &json!({"success": true}));
        }
        if !self.relays.contains_key(&path) {
            let url = body["url"].as_str().unwrap_or_default();
            self.relays.insert(path.clone(), url.to_owned());
            self.bytes.remove(&path);
            *self.starts.entry(path).or_default() += 1;
        }
        FakeAnswer::json(200, &json!({"success": true}))
    }
}

impl FakeKind for FakeNodeMediaServer {
    fn answer(&mut self, request: &FakeRequest) -> FakeAnswer {
        let Some(path) = request.path.strip_prefix("/api/v1") else {
            return FakeAnswer::text(404, "");
        };
        match path {
            "/health" => return FakeAnswer::json(200, &json!({"success": true})),
            "/login" => return self.login(request),
            _ => {}
        }
        let token = format!("Bearer {}", self.token);
        if request.authorization.as_deref() != Some(&*token) {
            return FakeAnswer::text(401, "token");
        }
        let data = match path {
            "/relay" if request.is_change() => return self.change(request),
            "/relay" => {
                let relays = self.relays.iter();
                relays
                    .map(|(path, source)| Self::relay(path, source))
                    .collect()
            }
            "/streams" => {
                let mut paths = self.ghosts.clone();
                paths.extend(self.relays.keys().cloned());
                let streams: Vec<Value> = paths.iter().map(|path| self.stream(path)).collect();
                json!({"streams": streams})
            }
            "/config" if self.notify_url.is_some() => json!({
                "notify": {"url": self.notify_url}, "auth": {"play": self.signs_players},
            }),
            "/stats" => json!({
                "server": {"uptime": 12.5}, "network": {"inBps": 0, "outBps": 0},
            }),
            _ => return FakeAnswer::text(404, ""),
        };
        FakeAnswer::json(200, &json!({"success": true, "data": data}))
    }

    /// Relays are in its store, and start again.
    fn restart(&mut self) {
        (self.logins, self.wrong_logins) = (0, 0);
        self.token += 1;
        self.bytes.clear();
        self.ghosts.clear();
        for path in self.relays.keys() {
            *self.starts.entry(path.clone()).or_default() += 1;
        }
    }
}
