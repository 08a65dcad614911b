//! A small server that implements just enough of the API, with one planted bug.
//!
//! A thread per connection over one locked state: obviously right when no bug is planted, which is
//! all it has to be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What the server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    None,
    /// Every few whole lists lack their last stream.
    Shortens,
    /// Every few whole lists name their first stream twice.
    Duplicates,
    /// Lists are rendered from the state before the last few changes.
    AnswersOld,
    /// Every few edits are not sent to streamers, neither when parked nor when they poll with a
    /// validator.
    ForgetsToTell,
    /// The revision stays while the content changes.
    KeepsRevision,
    /// Every few acknowledged edits are not stored.
    LosesWrites,
    /// Bodies end early although their length is right.
    CutsBodies,
    /// A moved stream stays in the list of the streamer it left.
    KeepsMoved,
}

#[derive(Clone, Default)]
struct Stream {
    title: String,
    input: String,
    ingest: Option<String>,
    backups: Vec<String>,
    updated_at: u64,
}

#[derive(Clone, Default)]
struct State {
    revision: u64,
    streamers: BTreeSet<String>,
    streams: BTreeMap<String, Stream>,
    /// Revision, streamer, stream.
    changes: Vec<(u64, String, String)>,
    generations: BTreeMap<String, u64>,
    /// For `KeepsMoved`.
    ghosts: BTreeSet<(String, String)>,
}

pub struct Stub {
    state: Mutex<(State, Vec<State>, u64)>,
    changed: Condvar,
    bug: Bug,
}

impl Stub {
    pub fn start(bug: Bug) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stub = Arc::new(Stub {
            state: Mutex::default(),
            changed: Condvar::new(),
            bug,
        });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let stub = Arc::clone(&stub);
                std::thread::spawn(move || stub.serve(stream));
            }
        });
        address
    }

    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let mut held = Vec::new();
        let mut buffer = vec![0; 65536];
        loop {
            let end = loop {
                if let Some(at) = held.windows(4).position(|four| four == b"\r\n\r\n") {
                    break at + 4;
                }
                let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
                held.extend_from_slice(&buffer[..count]);
            };
            let head = String::from_utf8(held[..end].to_vec()).ok()?;
            let field = |name: &str| {
                head.lines().find_map(|line| {
                    line.strip_prefix(name)
                        .and_then(|rest| rest.strip_prefix(": "))
                })
            };
            let length = field("Content-Length").map_or(0, |value| value.parse().unwrap());
            while held.len() < end + length {
                let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
                held.extend_from_slice(&buffer[..count]);
            }
            let body = held[end..end + length].to_vec();
            let mut first = head.split_whitespace();
            let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
            let authorized = field("Authorization") == Some("Bearer k");
            let (etag, coding) = (
                field("If-None-Match").map(str::to_owned),
                field("Accept-Encoding").map(str::to_owned),
            );
            held.drain(..end + length);
            let (status, etag, mut body) = if authorized {
                self.answer(&method, &target, &body, etag.as_deref())
            } else {
                (401, None, b"{}".to_vec())
            };
            if self.bug == Bug::CutsBodies
                && status == 200
                && target.contains("/streamers/")
                && self.tick(7)
            {
                body.truncate(body.len() / 2);
            }
            let mut out = format!("HTTP/1.1 {status} X\r\n");
            if let Some(etag) = etag {
                let _ = write!(out, "ETag: {etag}\r\n");
            }
            if coding.as_deref() == Some("gzip") && !body.is_empty() {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&body).unwrap();
                body = encoder.finish().unwrap();
                out += "Content-Encoding: gzip\r\n";
            } else if coding.as_deref() == Some("zstd") && !body.is_empty() {
                body = zstd::encode_all(body.as_slice(), 1).unwrap();
                out += "Content-Encoding: zstd\r\n";
            }
            if status != 204 && status != 304 {
                let _ = write!(out, "Content-Length: {}\r\n", body.len());
            }
            out += "\r\n";
            let mut out = out.into_bytes();
            if status != 204 && status != 304 {
                out.extend_from_slice(&body);
            }
            stream.write_all(&out).ok()?;
        }
    }

    /// True every `every` times.
    fn tick(&self, every: u64) -> bool {
        let mut state = self.state.lock().unwrap();
        state.2 += 1;
        state.2.is_multiple_of(every)
    }

    fn answer(
        &self,
        method: &str,
        target: &str,
        body: &[u8],
        etag: Option<&str>,
    ) -> (u16, Option<String>, Vec<u8>) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = path.strip_prefix("/central/api/v3").unwrap();
        let query: BTreeMap<&str, &str> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        let parsed = || -> Value { serde_json::from_slice(body).unwrap() };
        let ok = |value: Value| (200, None, serde_json::to_vec(&value).unwrap());
        match (method, path) {
            ("PUT", "/streamers/batch") => {
                let mut state = self.state.lock().unwrap();
                for item in parsed().as_array().unwrap() {
                    state
                        .0
                        .streamers
                        .insert(item["hostname"].as_str().unwrap().to_owned());
                }
                (204, None, Vec::new())
            }
            ("PUT", "/streams/batch") => {
                let items = parsed();
                let items = items.as_array().unwrap();
                let named: Vec<_> = items
                    .iter()
                    .map(|item| (item["name"].as_str().unwrap().to_owned(), item))
                    .collect();
                self.save(&named);
                (204, None, Vec::new())
            }
            ("POST", "/streams/layouts") => {
                self.lay_out(&parsed());
                (204, None, Vec::new())
            }
            ("GET", "/streamers") => {
                let state = self.state.lock().unwrap();
                ok(json!({
                    "streamers": state.0.streamers.iter().map(|h| json!({
                        "hostname": h,
                    })).collect::<Vec<_>>(),
                    "next": null,
                }))
            }
            ("GET", "/streams") => {
                let state = self.state.lock().unwrap();
                let limit: usize = query
                    .get("limit")
                    .map_or(100, |limit| limit.parse().unwrap())
                    .min(1000);
                let after = query.get("cursor").map(|cursor| decode(cursor));
                let mut rest = state
                    .0
                    .streams
                    .iter()
                    .filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after));
                let page: Vec<_> = rest.by_ref().take(limit).collect();
                let next = rest
                    .next()
                    .and(page.last())
                    .map(|(name, _)| (*name).clone());
                let items: Vec<Value> = page
                    .iter()
                    .map(|(name, stream)| whole(name, stream))
                    .collect();
                ok(json!({"estimated_count": 1, "streams": items, "next": next, "timing": {}}))
            }
            ("PUT", path) if path.starts_with("/streams/") => {
                let name = decode(&path["/streams/".len()..]);
                self.save(&[(name.clone(), &parsed())]);
                let state = self.state.lock().unwrap();
                ok(whole(&name, &state.0.streams[&name]))
            }
            ("GET", path) if path.starts_with("/streams/") => {
                let name = decode(&path["/streams/".len()..]);
                let state = self.state.lock().unwrap();
                ok(whole(&name, &state.0.streams[&name]))
            }
            ("GET", path) => {
                let host = path
                    .strip_prefix("/streamers/")
                    .and_then(|rest| rest.strip_suffix("/streams"))
                    .unwrap();
                self.list(host, &query, etag)
            }
            _ => (404, None, b"{}".to_vec()),
        }
    }

    fn save(&self, items: &[(String, &Value)]) {
        let loses = self.bug == Bug::LosesWrites && items.len() == 1 && self.tick(9);
        let forgets = self.bug == Bug::ForgetsToTell && items.len() == 1 && self.tick(9);
        let mut guard = self.state.lock().unwrap();
        let old = guard.0.clone();
        if self.bug == Bug::AnswersOld {
            guard.1.push(old);
        }
        let state = &mut guard.0;
        state.revision += 1;
        let revision = state.revision;
        for (name, item) in items {
            let stream = state.streams.entry(name.clone()).or_default();
            stream.updated_at = revision;
            if loses {
                continue;
            }
            if let Some(title) = item["title"].as_str() {
                title.clone_into(&mut stream.title);
            }
            if let Some(input) = item["inputs"][0]["url"].as_str() {
                input.clone_into(&mut stream.input);
            }
            let hosts: Vec<String> = stream
                .ingest
                .iter()
                .chain(&stream.backups)
                .cloned()
                .collect();
            for host in hosts.into_iter().filter(|_| !forgets) {
                state.changes.push((revision, host.clone(), name.clone()));
                state.generations.insert(host, revision);
            }
        }
        self.changed.notify_all();
    }

    fn lay_out(&self, body: &Value) {
        let mut guard = self.state.lock().unwrap();
        let state = &mut guard.0;
        state.revision += 1;
        let revision = state.revision;
        for item in body["layouts"].as_array().unwrap() {
            let name = item["name"].as_str().unwrap().to_owned();
            let stream = state.streams.get_mut(&name).unwrap();
            let mut hosts: Vec<String> = stream
                .ingest
                .iter()
                .chain(&stream.backups)
                .cloned()
                .collect();
            if self.bug == Bug::KeepsMoved
                && let Some(ingest) = &stream.ingest
            {
                state.ghosts.insert((ingest.clone(), name.clone()));
            }
            stream.ingest = item["ingest"].as_str().map(str::to_owned);
            let backups = item["dvr_backups"].as_array().cloned().unwrap_or_default();
            stream.backups = backups
                .iter()
                .map(|host| host.as_str().unwrap().to_owned())
                .collect();
            stream.updated_at = revision;
            hosts.extend(stream.ingest.iter().chain(&stream.backups).cloned());
            for host in hosts {
                state.changes.push((revision, host.clone(), name.clone()));
                state.generations.insert(host, revision);
            }
        }
        self.changed.notify_all();
    }

    fn list(
        &self,
        host: &str,
        query: &BTreeMap<&str, &str>,
        etag: Option<&str>,
    ) -> (u16, Option<String>, Vec<u8>) {
        let shortens = self.bug == Bug::Shortens && self.tick(11);
        let duplicates = self.bug == Bug::Duplicates && self.tick(11);
        let wait: u64 = query
            .get("poll_timeout")
            .map_or(0, |wait| wait.parse().unwrap());
        let deadline = Instant::now() + Duration::from_secs(wait);
        let mut guard = self.state.lock().unwrap();
        if !guard.0.streamers.contains(host) {
            return (404, None, b"{}".to_vec());
        }
        let tag =
            |state: &State| format!("\"{}\"", state.generations.get(host).copied().unwrap_or(0));
        while etag == Some(tag(&guard.0).as_str()) {
            let now = Instant::now();
            if now >= deadline {
                return (304, etag.map(str::to_owned), Vec::new());
            }
            guard = self.changed.wait_timeout(guard, deadline - now).unwrap().0;
        }
        let tag = tag(&guard.0);
        let state = match self.bug {
            Bug::AnswersOld if guard.1.len() > 3 => guard.1[guard.1.len() - 3].clone(),
            _ => guard.0.clone(),
        };
        drop(guard);
        let is_here = |name: &str, stream: &Stream| {
            stream.ingest.as_deref() == Some(host)
                || stream.backups.iter().any(|backup| backup == host)
                || state.ghosts.contains(&(host.to_owned(), name.to_owned()))
        };
        let mut revision = state.generations.get(host).copied().unwrap_or(0);
        if self.bug == Bug::KeepsRevision {
            revision = 1;
        }
        if let Some(since) = query.get("changes_since") {
            let since: u64 = since.parse().unwrap();
            let touched: BTreeSet<&String> = state
                .changes
                .iter()
                .filter(|(at, to, _)| *at > since && to == host)
                .map(|(_, _, name)| name)
                .collect();
            let (mut changed, mut removed) = (Vec::new(), Vec::new());
            for name in touched {
                match state.streams.get(name) {
                    Some(stream) if is_here(name, stream) => changed.push(rendered(name, stream)),
                    _ => removed.push(name),
                }
            }
            let body = json!({
                "revision": revision, "updated_at": revision, "streams": changed,
                "removed": removed,
            });
            return (200, Some(tag), serde_json::to_vec(&body).unwrap());
        }
        let mut items: Vec<Value> = state
            .streams
            .iter()
            .filter(|(name, stream)| is_here(name, stream))
            .map(|(name, stream)| rendered(name, stream))
            .collect();
        if shortens {
            items.pop();
        }
        if duplicates && let Some(first) = items.first().cloned() {
            items.push(first);
        }
        let body = json!({
            "estimated_count": items.len(), "next": null, "revision": revision, "streams": items,
            "updated_at": revision,
        });
        (200, Some(tag), serde_json::to_vec(&body).unwrap())
    }
}

fn rendered(name: &str, stream: &Stream) -> Value {
    json!({"name": name, "title": stream.title, "inputs": [{"url": stream.input}]})
}

fn whole(name: &str, stream: &Stream) -> Value {
    let layout = stream
        .ingest
        .as_ref()
        .map(|ingest| json!({"ingest": ingest, "dvr_backups": stream.backups}));
    json!({
        "name": name, "title": stream.title, "inputs": [{"url": stream.input}],
        "updated_at": stream.updated_at, "layout": layout,
    })
}

fn decode(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).unwrap()
}
