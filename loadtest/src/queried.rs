//! The API of simulated streamers, as the server queries it: one thread answers for all of them.
//!
//! Every streamer has a loopback address of its own and all have one port, so that one listener
//! tells them apart by where a connection arrived. It takes connections from this machine only.
//! Answers are those of a media server, with the authorization checked: its stats, pages of the
//! streams that it runs, the times that it recorded of them since its start, and its configuration,
//! of which a PUT replaces members. A [`Manner`] makes them wrong.

use crate::streamers::cluster_authorization;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use weir_testkit::encode_segment;
use weir_testkit::sys::{Event, Poll};

/// Streams of a page, unless the request has another number.
const PAGE: usize = 100;
/// What a flooding streamer sends.
const FLOOD_BYTES: usize = 100 << 20;
const FLOOD_PIECE: usize = 256 << 10;
const HEAD_BYTES_MAX: usize = 16 << 10;
const BODY_BYTES_MAX: usize = 1 << 20;
/// Pause between the bytes of a trickling streamer.
const TRICKLE_EVERY: Duration = Duration::from_secs(1);
const TURN: Duration = Duration::from_millis(100);
/// The token of the listener; connections have theirs from 0 on.
const LISTENER: u64 = u64::MAX;
/// Seconds by which a signature may be older or newer.
const SKEW_SECONDS: u64 = 300;
/// The first address; the n-th streamer has the n-th after it.
const FIRST_ADDRESS: u32 = u32::from_be_bytes([127, 64, 0, 0]);
pub const STREAMERS_MAX: u64 = 1 << 20;

const CONFIG: &str = "/streamer/api/v3/config";

/// How a streamer answers queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Right,
    /// Connections are closed.
    Closed,
    /// Connections are accepted, and nothing is answered.
    Silent,
    /// A byte a second.
    Trickle,
    /// 100 MB.
    Flood,
    /// Values of wrong types and out of range, beside streams that nobody configured or that are
    /// listed twice.
    Lies,
}

/// What one streamer answers with.
pub struct QueriedStreamer {
    pub manner: Manner,
    pub key: String,
    pub streams: Vec<String>,
    /// Unix time, seconds.
    pub started_at: u64,
    /// Lost at a restart.
    pub config: Map<String, Value>,
}

/// All streamers, and what was counted about them.
pub struct QueriedStreamers {
    streamers: Vec<Mutex<QueriedStreamer>>,
    pub stats_queries: AtomicU64,
    pub page_queries: AtomicU64,
    pub range_queries: AtomicU64,
    pub config_writes: AtomicU64,
    pub refused: AtomicU64,
    is_over: AtomicBool,
}

pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// Address of the n-th streamer.
pub fn address(n: u64) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_ADDRESS + n as u32)
}

impl QueriedStreamers {
    /// With the cluster keys of the streamers.
    pub fn new(keys: impl Iterator<Item = String>) -> Self {
        let started_at = unix_ms() / 1000;
        let streamer = |key| {
            Mutex::new(QueriedStreamer {
                manner: Manner::Right,
                key,
                streams: Vec::new(),
                started_at,
                config: Map::new(),
            })
        };
        Self {
            streamers: keys.map(streamer).collect(),
            stats_queries: AtomicU64::new(0),
            page_queries: AtomicU64::new(0),
            range_queries: AtomicU64::new(0),
            config_writes: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    pub fn with<T>(&self, at: usize, change: impl FnOnce(&mut QueriedStreamer) -> T) -> T {
        let streamer = self.streamers[at].lock();
        change(&mut streamer.expect("no thread panics here"))
    }

    pub fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    fn manner(&self, at: usize) -> Manner {
        self.with(at, |streamer| streamer.manner)
    }
}

struct QueryConnection {
    stream: TcpStream,
    /// Of the streamer.
    at: usize,
    received: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    /// Bytes that follow `out`, of a flood.
    flood: usize,
    trickle_at: Option<Instant>,
    writable_wanted: bool,
}

/// The thread that answers.
pub struct QueryServer<'q> {
    all: &'q QueriedStreamers,
    listener: TcpListener,
    connections: HashMap<u64, QueryConnection>,
    next_token: u64,
}

impl<'q> QueryServer<'q> {
    /// Listens on a free port.
    pub fn new(all: &'q QueriedStreamers) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            all,
            listener,
            connections: HashMap::new(),
            next_token: 0,
        })
    }

    pub fn port(&self) -> io::Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// Answers until the run is over.
    pub fn run(mut self) -> io::Result<()> {
        let mut poll = Poll::new()?;
        poll.add(&self.listener, LISTENER, false)?;
        let mut events = Vec::new();
        while !self.all.is_over.load(Ordering::Acquire) {
            events.clear();
            poll.wait(TURN, &mut events)?;
            for event in &events {
                if event.token == LISTENER {
                    self.accept(&poll);
                } else {
                    self.serve(&poll, event);
                }
            }
            self.trickle();
        }
        Ok(())
    }

    fn accept(&mut self, poll: &Poll) {
        while let Ok((stream, peer)) = self.listener.accept() {
            let Some(at) = self.streamer_of(&stream, peer) else {
                continue;
            };
            let token = self.next_token;
            if stream.set_nonblocking(true).is_err()
                || stream.set_nodelay(true).is_err()
                || poll.add(&stream, token, false).is_err()
            {
                continue;
            }
            self.next_token += 1;
            let connection = QueryConnection {
                stream,
                at,
                received: Vec::new(),
                out: Vec::new(),
                written: 0,
                flood: 0,
                trickle_at: None,
                writable_wanted: false,
            };
            self.connections.insert(token, connection);
        }
    }

    /// The streamer whose address a connection from this machine arrived at.
    fn streamer_of(&self, stream: &TcpStream, peer: SocketAddr) -> Option<usize> {
        let IpAddr::V4(local) = stream.local_addr().ok()?.ip() else {
            return None;
        };
        let at = local.to_bits().checked_sub(FIRST_ADDRESS)? as usize;
        (peer.ip().is_loopback() && at < self.all.streamers.len()).then_some(at)
    }

    fn serve(&mut self, poll: &Poll, event: &Event) {
        let Some(connection) = self.connections.get_mut(&event.token) else {
            return;
        };
        let is_open = match self.all.manner(connection.at) {
            Manner::Closed => false,
            // Readiness is not reported again and again: what came is read.
            Manner::Silent => !event.readable || connection.read().is_some(),
            _ => connection.turn(self.all, event).is_some(),
        };
        let is_kept = is_open && connection.register(poll, event.token).is_ok();
        if !is_kept {
            self.connections.remove(&event.token);
        }
    }

    fn trickle(&mut self) {
        let now = Instant::now();
        self.connections.retain(|_, connection| {
            if connection.trickle_at.is_none_or(|at| now < at) {
                return true;
            }
            connection.trickle_at = Some(now + TRICKLE_EVERY);
            let next = connection.out.get(connection.written..=connection.written);
            let Some(next) = next else {
                connection.trickle_at = None;
                return true;
            };
            connection.written += 1;
            (&connection.stream).write_all(next).is_ok()
        });
    }
}

impl QueryConnection {
    /// Reads what is there. `None`: the client has left.
    fn read(&mut self) -> Option<()> {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        (self.received.len() <= HEAD_BYTES_MAX + BODY_BYTES_MAX).then_some(())
    }

    fn turn(&mut self, all: &QueriedStreamers, event: &Event) -> Option<()> {
        if event.readable {
            self.read()?;
        }
        while self.is_idle()
            && let Some(end) = memchr::memmem::find(&self.received, b"\r\n\r\n")
        {
            let begin = end + 4;
            let head = std::str::from_utf8(&self.received[..begin]).ok()?;
            let length = match header(head, "content-length") {
                Some(length) => length.parse().ok().filter(|it| *it <= BODY_BYTES_MAX)?,
                None => 0,
            };
            if self.received.len() < begin + length {
                break;
            }
            let request: Vec<u8> = self.received.drain(..begin + length).collect();
            let (head, body) = request.split_at(begin);
            self.answer(all, std::str::from_utf8(head).ok()?, body);
            self.write()?;
        }
        self.write()
    }

    fn is_idle(&self) -> bool {
        self.written == self.out.len() && self.flood == 0
    }

    fn answer(&mut self, all: &QueriedStreamers, head: &str, body: &[u8]) {
        let mut words = head.split(' ');
        let is_put = words.next() == Some("PUT");
        let target = words.next().unwrap_or_default();
        let authorization = header(head, "authorization").unwrap_or_default();
        let (manner, status, body) = all.with(self.at, |streamer| {
            let (status, body) = if !streamer.may(authorization) {
                all.refused.fetch_add(1, Ordering::Relaxed);
                (401, json!({"error": "authorization_failed"}))
            } else if is_put {
                streamer.configure(all, target, body)
            } else {
                streamer.answer(all, target)
            };
            (streamer.manner, status, body.to_string())
        });
        self.flood = if manner == Manner::Flood {
            FLOOD_BYTES
        } else {
            0
        };
        let length = body.len() + self.flood;
        self.out = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: \
             {length}\r\n\r\n{body}"
        )
        .into_bytes();
        self.written = 0;
        self.trickle_at = (manner == Manner::Trickle).then(Instant::now);
    }

    fn write(&mut self) -> Option<()> {
        if self.trickle_at.is_some() {
            return Some(());
        }
        loop {
            if self.written == self.out.len() {
                if self.flood == 0 {
                    self.out = Vec::new();
                    self.written = 0;
                    return Some(());
                }
                let piece = self.flood.min(FLOOD_PIECE);
                self.flood -= piece;
                self.out = vec![b' '; piece];
                self.written = 0;
            }
            match self.stream.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    fn register(&mut self, poll: &Poll, token: u64) -> io::Result<()> {
        let wanted = !self.is_idle() && self.trickle_at.is_none();
        if wanted != self.writable_wanted {
            self.writable_wanted = wanted;
            poll.change(&self.stream, token, wanted)?;
        }
        Ok(())
    }
}

/// The value of a header.
fn header<'h>(head: &'h str, wanted: &str) -> Option<&'h str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
    Some(value.trim())
}

fn wrong_stats() -> Value {
    json!({
        "now": "yesterday", "uptime": -5, "streamer_status": 7, "cpu_usage": 1e300,
        "memory_usage": [30], "total_streams": u64::MAX, "partitions": {"device": 1},
        "input_kbit": "many", "output_kbit": null, "server_version": {"a": []},
    })
}

/// Makes a page wrong, without leaving out a stream.
fn add_lies(shown: &mut Vec<Value>) {
    for (i, stream) in shown.iter_mut().enumerate() {
        stream["stats"]["bitrate"] =
            [json!(-1), json!("fast"), json!(1e300), json!([])][i % 4].clone();
        stream["stats"]["media_info"] = json!({"tracks": {"content": 1}});
    }
    let twice = shown.first().cloned();
    shown.extend(twice);
    shown.extend([
        json!({"name": "nobody/configured/this", "stats": {"status": "running"}}),
        json!({"name": 5, "stats": {}}),
        json!({"stats": {"status": "flying"}}),
        json!("a stream"),
    ]);
}

impl QueriedStreamer {
    fn may(&self, authorization: &str) -> bool {
        let signed = authorization.strip_prefix("Cluster ");
        let time = signed.and_then(|signed| signed.split(':').next()?.parse::<u64>().ok());
        time.is_some_and(|time| {
            time.abs_diff(unix_ms() / 1000) <= SKEW_SECONDS
                && cluster_authorization(time, &self.key) == authorization
        })
    }

    fn configure(&mut self, all: &QueriedStreamers, target: &str, body: &[u8]) -> (u16, Value) {
        match (target, serde_json::from_slice(body)) {
            (CONFIG, Ok(Value::Object(members))) => {
                all.config_writes.fetch_add(1, Ordering::Relaxed);
                self.config.extend(members);
                (200, Value::Object(self.config.clone()))
            }
            (CONFIG, _) => (400, json!({"error": "not_an_object"})),
            _ => (404, json!({"error": "not_found"})),
        }
    }

    fn answer(&self, all: &QueriedStreamers, target: &str) -> (u16, Value) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let stream = path.strip_prefix("/streamer/api/v3/streams/");
        if let Some(stream) = stream.and_then(|rest| rest.strip_suffix("/dvr/ranges")) {
            all.range_queries.fetch_add(1, Ordering::Relaxed);
            return self.ranges(stream);
        }
        match path {
            CONFIG => (200, Value::Object(self.config.clone())),
            "/streamer/api/v3/config/stats" if self.manner == Manner::Lies => {
                all.stats_queries.fetch_add(1, Ordering::Relaxed);
                (200, wrong_stats())
            }
            "/streamer/api/v3/config/stats" => {
                all.stats_queries.fetch_add(1, Ordering::Relaxed);
                (200, self.stats())
            }
            "/streamer/api/v3/streams" => {
                all.page_queries.fetch_add(1, Ordering::Relaxed);
                (200, self.page(query))
            }
            _ => (404, json!({"error": "not_found"})),
        }
    }

    /// It records every stream that it runs, since its start.
    fn ranges(&self, encoded: &str) -> (u16, Value) {
        let mut names = self.streams.iter();
        if !names.any(|name| encode_segment(name) == encoded) {
            return (404, json!({"error": "not_found"}));
        }
        let duration = (unix_ms() / 1000).saturating_sub(self.started_at);
        (
            200,
            json!({"ranges": [{"from": self.started_at, "duration": duration}]}),
        )
    }

    fn stats(&self) -> Value {
        let now = unix_ms();
        json!({
            "now": now, "started_at": self.started_at,
            "uptime": (now / 1000).saturating_sub(self.started_at),
            "streamer_status": "running", "server_version": "24.11", "cpu_usage": 20,
            "memory_usage": 30, "total_streams": self.streams.len(),
            "online_streams": self.streams.len(), "total_clients": self.streams.len(),
            "input_kbit": 4000 * self.streams.len(), "output_kbit": 4000 * self.streams.len(),
        })
    }

    fn page(&self, query: &str) -> Value {
        let number = |name: &str, default| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let mut found = pairs.filter(|(known, _)| *known == name);
            let value = found.next().and_then(|(_, value)| value.parse().ok());
            value.unwrap_or(default)
        };
        let (limit, begin) = (number("limit", PAGE).clamp(1, 1000), number("cursor", 0));
        let now = unix_ms();
        let shown = self.streams.iter().skip(begin).take(limit).map(|name| {
            json!({"name": name, "stats": {
                "status": "running", "alive": true, "bitrate": 4000, "online_clients": 1,
                "bytes_out": now * 500, "last_dts_at": now, "opened_at": self.started_at * 1000,
                "media_info": {"tracks": [
                    {"content": "video", "codec": "h264", "width": 1920, "height": 1080},
                    {"content": "audio", "codec": "aac"},
                ]},
            }})
        });
        let mut shown: Vec<Value> = shown.collect();
        if self.manner == Manner::Lies {
            add_lies(&mut shown);
        }
        let mut page = json!({"streams": shown, "estimated_count": self.streams.len()});
        if begin + limit < self.streams.len() {
            page["next"] = json!((begin + limit).to_string());
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const KEY: &str = "key";

    /// The status and the body of one answer.
    fn exchange(port: u16, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect((address(0), port)).unwrap();
        let credentials = cluster_authorization(unix_ms() / 1000, KEY);
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\nAuthorization: {credentials}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        // The body may come behind the head.
        let (head, rest) = request.split_at(request.len() - body.len());
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(rest.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !is_complete(&answer) {
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).unwrap();
            assert!(count > 0, "{:?}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&bytes[..count]);
        }
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    fn is_complete(answer: &[u8]) -> bool {
        let Some(end) = memchr::memmem::find(answer, b"\r\n\r\n") else {
            return false;
        };
        let head = std::str::from_utf8(&answer[..end + 4]).unwrap();
        let length: usize = header(head, "content-length").unwrap().parse().unwrap();
        answer.len() == end + 4 + length
    }

    #[test]
    fn streamer_is_configured_records_and_can_lie() {
        let all = QueriedStreamers::new(std::iter::once(KEY.to_owned()));
        all.with(0, |streamer| {
            streamer.streams = vec!["a b/c".to_owned(), "d".to_owned()];
        });
        let server = QueryServer::new(&all).unwrap();
        let port = server.port().unwrap();
        thread::scope(|scope| {
            let served = scope.spawn(|| server.run());
            let get = |path: &str| exchange(port, "GET", path, "");
            assert_eq!(get(CONFIG), (200, json!({})));
            let written = exchange(port, "PUT", CONFIG, r#"{"loglevel":"debug"}"#);
            assert_eq!(written, (200, json!({"loglevel": "debug"})));
            assert_eq!(get(CONFIG), written);
            assert_eq!(exchange(port, "PUT", CONFIG, "[]").0, 400);

            let (status, recorded) = get("/streamer/api/v3/streams/a%20b%2Fc/dvr/ranges?from=1");
            assert_eq!(status, 200);
            let from = all.with(0, |streamer| streamer.started_at);
            assert_eq!(recorded["ranges"][0]["from"], from);
            assert_eq!(get("/streamer/api/v3/streams/other/dvr/ranges").0, 404);

            let names = |page: &Value| {
                let items = page["streams"].as_array().unwrap().iter();
                items
                    .filter(|it| it["name"] == "d" || it["name"] == "a b/c")
                    .count()
            };
            let page = get("/streamer/api/v3/streams").1;
            assert_eq!(
                (names(&page), page["streams"].as_array().unwrap().len()),
                (2, 2)
            );
            all.with(0, |streamer| streamer.manner = Manner::Lies);
            let page = get("/streamer/api/v3/streams").1;
            assert_eq!(names(&page), 3, "one of them twice, and none left out");
            assert_eq!(page["streams"][0]["stats"]["bitrate"], -1);
            assert_eq!(get("/streamer/api/v3/config/stats").1["uptime"], -5);
            all.end();
            served.join().unwrap().unwrap();
        });
        assert_eq!(all.config_writes.load(Ordering::Relaxed), 1);
        assert_eq!(all.range_queries.load(Ordering::Relaxed), 2);
        assert_eq!(all.refused.load(Ordering::Relaxed), 0);
    }
}
