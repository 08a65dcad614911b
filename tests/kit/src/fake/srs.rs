//! The API of SRS 7, and its reading of a file of `ingest` blocks.
//!
//! A reload starts and stops only blocks that differ. A broken file is refused silently: the answer
//! is `code: 0`, and what ran goes on. `/api/v1/streams` redirects to the path with a slash, which
//! shows ten unless `count` is given. `clients` counts the publisher.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{FakeAnswer, FakeKind, FakeRequest};

#[derive(Debug, Default)]
pub struct FakeSrs {
    pub file: PathBuf,
    /// Sources by native name, `/live/a`.
    pub ingests: BTreeMap<String, String>,
    pub starts: BTreeMap<String, usize>,
    pub reloads: usize,
    /// Files that could not be read.
    pub refused: usize,
    /// `user:password` that the API needs.
    pub login: Option<&'static str>,
    /// Its ffmpegs have no directory for logs, without which none of them starts.
    pub has_no_log_dir: bool,
    /// A reload by the API is not allowed.
    pub is_raw_off: bool,
    /// The file that it was started with, and the directory.
    pub started_with: (PathBuf, PathBuf),
    pid: u32,
    bytes: BTreeMap<String, u64>,
}

/// The blocks of a file; `None` if SRS could not read it.
fn parse(text: &str) -> Option<BTreeMap<String, String>> {
    let mut blocks = BTreeMap::new();
    let mut words = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace);
    while let Some(word) = words.next() {
        if word != "ingest" {
            return None;
        }
        let (_name, mut depth, mut url, mut output) = (words.next()?, 0, None, None);
        loop {
            let word = words.next()?;
            match word {
                "{" => depth += 1,
                "}" => depth -= 1,
                "url" => {
                    let value = words.next()?;
                    url = Some(value.strip_prefix('"')?.strip_suffix("\";")?.to_owned());
                }
                "output" => output = Some(words.next()?.strip_suffix(';')?.to_owned()),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        let (url, output) = (url?, output?);
        if url.contains(['"', ';', '{', '}']) {
            return None;
        }
        let path = output.split_once("://")?.1.split_once('/')?.1;
        let native = format!("/{}", path.split('?').next()?);
        blocks.insert(native, url);
    }
    Some(blocks)
}

/// The header field of a login, by its Base64 form.
fn basic(login: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = "Basic ".to_owned();
    for bytes in login.as_bytes().chunks(3) {
        let at = |i: usize| u32::from(bytes.get(i).copied().unwrap_or(0));
        let group = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let letter = LETTERS[(group >> (18 - 6 * i) & 63) as usize];
            text.push(if i > bytes.len() { '=' } else { letter.into() });
        }
    }
    text
}

impl FakeSrs {
    /// A server whose configuration includes the file.
    pub fn with_file(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            ..Self::default()
        }
    }

    fn reload(&mut self) {
        self.reloads += 1;
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let Some(blocks) = parse(&text) else {
            self.refused += 1;
            return;
        };
        for (native, url) in &blocks {
            if self.ingests.get(native) != Some(url) {
                *self.starts.entry(native.clone()).or_default() += 1;
                self.bytes.remove(native);
            }
        }
        self.ingests = blocks;
    }

    fn page(&mut self, request: &FakeRequest) -> Value {
        let number = |name: &str, default| request.parameter(name).parse().unwrap_or(default);
        let (start, count): (usize, usize) = (number("start", 0), number("count", 10));
        let is_started = !self.has_no_log_dir;
        let natives = self.ingests.keys().filter(|_| is_started).cloned();
        let natives: Vec<String> = natives.collect();
        let page = natives.iter().skip(start).take(count).map(|native| {
            let bytes = self.bytes.entry(native.clone()).or_default();
            *bytes += 10_000;
            let (app, name) = native
                .trim_start_matches('/')
                .split_once('/')
                .expect("two parts");
            json!({
                "app": app, "name": name, "recv_bytes": *bytes, "send_bytes": 5, "clients": 3,
                "kbps": {"recv_30s": 80, "send_30s": 1}, "publish": {"active": true},
                "video": {"codec": "H264", "width": 160, "height": 120},
            })
        });
        let page: Vec<Value> = page.collect();
        json!({"code": 0, "streams": page})
    }
}

impl FakeKind for FakeSrs {
    fn answer(&mut self, request: &FakeRequest) -> FakeAnswer {
        let login = self.login.map(basic);
        if login.is_some() && request.authorization != login {
            return FakeAnswer::text(401, "");
        }
        match &*request.path {
            "/api/v1/versions" => FakeAnswer::json(
                200,
                &json!({"code": 0, "pid": self.pid.to_string(), "data": {"version": "7.0.18"}}),
            ),
            "/api/v1/summaries" => FakeAnswer::json(
                200,
                &json!({"code": 0, "data": {"self": {
                    "srs_uptime": 9, "cwd": self.started_with.1,
                    "argv": format!("./objs/srs -c {}", self.started_with.0.display()),
                }}}),
            ),
            "/api/v1/streams" => FakeAnswer {
                status: 302,
                fields: "Location: /api/v1/streams/\r\n".to_owned(),
                body: Vec::new(),
            },
            "/api/v1/streams/" => FakeAnswer::json(200, &self.page(request)),
            "/api/v1/raw" if request.parameter("rpc") == "raw" => {
                let is_on = !self.is_raw_off;
                let raw = json!({"enabled": is_on, "allow_reload": is_on, "allow_query": false});
                FakeAnswer::json(200, &json!({"code": 0, "http_api": {"raw_api": raw}}))
            }
            "/api/v1/raw" if self.is_raw_off => FakeAnswer::json(200, &json!({"code": 1061})),
            "/api/v1/raw" if request.parameter("rpc") == "reload" => {
                self.reload();
                FakeAnswer::json(200, &json!({"code": 0}))
            }
            _ => FakeAnswer::text(404, ""),
        }
    }

    /// Ingests come from the file.
    fn restart(&mut self) {
        self.pid += 1;
        self.ingests.clear();
        self.reload();
        self.reloads -= 1;
    }
}
