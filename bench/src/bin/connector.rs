//! Queries of streamers: processor time of one core, and memory.
//!
//! `cargo build --release && cargo run --release -p weir-bench --bin connector -- [STREAMERS
//! [STREAMS]]` starts the program that is built beside it, with one connection thread, and one
//! thread of this process that answers for all streamers at their interval of 5 s. The counters of
//! streams differ from answer to answer.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weir_bench::size;
use weir_testkit::sys::{Poll, cpu_seconds};
use weir_testkit::{TestServer, wait_until};

const BATCH: usize = 5_000;
const MEASURED: Duration = Duration::from_secs(30);

fn main() {
    let streamers = size(10_000);
    let streams = std::env::args().nth(2);
    if let Some(streams) = streams.and_then(|streams| streams.parse().ok()) {
        measure(streamers, streams);
        return;
    }
    for (streamers, streams) in [
        (streamers, 0),
        (streamers, 5),
        (streamers / 10, 50),
        (streamers / 10, 100),
    ] {
        measure(streamers, streams);
    }
}

fn name(streamer: usize, stream: usize) -> String {
    format!("s{streamer:05}/cam{stream:03}")
}

fn measure(streamers: usize, streams: usize) {
    let server = TestServer::with(&[
        "--io-threads",
        "1",
        "--outbound-loopback=true",
        "--streamer-queries=true",
    ]);
    let address = answer_for_all(streams);
    let items: Vec<Value> = (0..streamers)
        .flat_map(|n| (0..streams).map(move |i| json!({"name": name(n, i), "static": true})))
        .collect();
    for part in items.chunks(BATCH) {
        server.put("/streams/batch", json!(part)).expect(204);
    }
    let before = resident_kib(server.id());
    let items: Vec<Value> = (0..streamers)
        .map(|n| {
            let url = format!("http://{address}/s{n:05}");
            json!({
                "hostname": format!("s{n:05}"), "role": "streamer", "cluster_key": "key",
                "api_url": url,
            })
        })
        .collect();
    for part in items.chunks(BATCH) {
        server.put("/streamers/batch", json!(part)).expect(204);
    }
    let all = || {
        let list = server.get("/streamers?stats_is_not=null&limit=1&select=hostname");
        list.expect(200).json()["estimated_count"].as_u64()
    };
    let slowly = || {
        thread::sleep(Duration::from_secs(1));
        all()
    };
    wait_until("all answered", slowly, |count| {
        *count == Some(streamers as u64)
    });
    thread::sleep(Duration::from_secs(10));
    let (began, cpu, queries) = (Instant::now(), cpu_seconds(server.id()), answered(&server));
    let threads = thread_seconds(server.id());
    thread::sleep(MEASURED);
    let seconds = began.elapsed().as_secs_f64();
    let share = (cpu_seconds(server.id()) - cpu) / seconds * 100.0;
    let (queries, failed) = {
        let (now, failed) = answered(&server);
        ((now - queries.0) as f64 / seconds, failed)
    };
    let kib = resident_kib(server.id()).saturating_sub(before) as f64 / streamers as f64;
    println!(
        "{streamers} streamers with {streams} streams: {queries:.0} queries/s, {failed} failed, \
         {share:.1} % of a processor, {kib:.1} KiB per streamer"
    );
    for (name, now) in thread_seconds(server.id()) {
        let used = (now - threads.get(&name).unwrap_or(&0.0)) / seconds * 100.0;
        if used >= 1.0 {
            println!("  {name}: {used:.1} %");
        }
    }
}

/// Queries that were answered and that were not, so far.
fn answered(server: &TestServer) -> (u64, u64) {
    let text = server.get("/cluster/stats?format=openmetrics").text();
    let (mut answered, mut failed) = (0, 0);
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("weir_streamer_queries_total{outcome=\"") else {
            continue;
        };
        let (outcome, value) = rest.split_once("\"} ").expect("a sample");
        let value: u64 = value.parse().expect("a number");
        if outcome == "answered" {
            answered += value;
        } else {
            failed += value;
        }
    }
    (answered, failed)
}

fn resident_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = rss.and_then(|rss| rss.trim().strip_suffix(" kB")?.parse().ok());
    kib.expect("a number")
}

/// Processor time by thread.
fn thread_seconds(process: u32) -> BTreeMap<String, f64> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    let mut all = BTreeMap::new();
    for task in tasks.flatten() {
        let Ok(stat) = fs::read_to_string(task.path().join("stat")) else {
            continue;
        };
        let (begin, rest) = stat.rsplit_once(") ").expect("a line of the kernel");
        let name = begin.split_once('(').map_or("", |(_, name)| name);
        let ticks = rest.split(' ').skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        *all.entry(name.to_owned()).or_insert(0.0) += ticks as f64 / 100.0;
    }
    all
}

/// A thread that answers for all streamers, which differ by the begin of the path.
fn answer_for_all(streams: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let (sender, sockets) = channel();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            if sender.send(socket).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || serve(&sockets, streams));
    address
}

fn serve(sockets: &Receiver<TcpStream>, streams: usize) {
    let (mut lists, mut made) = (StreamLists::new(streams), Instant::now());
    let mut poll = Poll::new().expect("an epoll");
    let mut connections: Vec<Option<(TcpStream, Vec<u8>)>> = Vec::new();
    let mut ready = Vec::new();
    loop {
        for socket in sockets.try_iter() {
            socket.set_nonblocking(true).expect("a socket");
            socket.set_nodelay(true).expect("a socket");
            let token = connections.len() as u64;
            poll.add(&socket, token, false).expect("room");
            connections.push(Some((socket, Vec::new())));
        }
        if made.elapsed() >= Duration::from_secs(1) {
            (lists, made) = (StreamLists::new(streams), Instant::now());
        }
        ready.clear();
        poll.wait(Duration::from_millis(20), &mut ready)
            .expect("an epoll");
        for event in &ready {
            let slot = &mut connections[event.token as usize];
            let Some((socket, arrived)) = slot else {
                continue;
            };
            let mut buffer = [0; 4096];
            match socket.read(&mut buffer) {
                Ok(0) => *slot = None,
                Ok(got) => {
                    arrived.extend_from_slice(&buffer[..got]);
                    if arrived.ends_with(b"\r\n\r\n") {
                        let request = String::from_utf8_lossy(arrived).into_owned();
                        arrived.clear();
                        send(socket, &answer(&request, &mut lists));
                    }
                }
                Err(_) => {}
            }
        }
    }
}

fn send(socket: &mut TcpStream, bytes: &[u8]) {
    socket.set_nonblocking(false).expect("a socket");
    // Weir may have given up.
    let _ = socket.write_all(bytes);
    socket.set_nonblocking(true).expect("a socket");
}

fn answer(request: &str, lists: &mut StreamLists) -> Vec<u8> {
    let path = request.split(' ').nth(1).unwrap_or_default();
    let streamer = path.get(2..7).and_then(|number| number.parse().ok());
    let body = match streamer {
        Some(streamer) if path.contains("/streams?") => lists.page(streamer, path),
        _ => own_stats().into_bytes(),
    };
    let mut out = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    out.extend(body);
    out
}

/// What a server answers about itself, of usual size.
fn own_stats() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    json!({
        "id": "61496e8c-87c5-4e90-a05c-d8f3dbb5ff2d", "hostname": "s1", "server_version": "24.11",
        "build": 1, "started_at": 1_700_000_000, "uptime": 86400, "streamer_status": "running",
        "now": now.expect("it is after 1970").as_millis() as u64,
        "cpu_usage": 48, "memory_usage": 27, "scheduler_load": 12, "input_kbit": 400_300,
        "output_kbit": 500_400, "bandwidth_usage": 40, "total_clients": 2040, "total_streams": 27,
        "online_streams": 27, "opened_files": 80, "transcoder": false, "transcoder_devices": [],
        "rproxy": false, "is_chassis": false, "license_type": "online", "text_alerts": {},
        "partitions": [
            {"device": "sda1", "path": "/", "io_util": 3, "total_mb": 200_000, "usage": 40},
            {"device": "sdb1", "path": "/storage", "io_util": 9, "total_mb": 8_000_000, "usage": 71},
        ],
        "config_external_status": {"status": "loaded"}, "config_version": [1_700_000_000, 7],
    })
    .to_string()
}

/// The lists of streams of all streamers, with stats of usual size: they differ in the names.
struct StreamLists {
    streams: usize,
    now_ms: u64,
    /// By cursor and limit: a page, and where the number of the streamer is in it.
    pages: BTreeMap<(usize, usize), (Vec<u8>, Vec<usize>)>,
}

impl StreamLists {
    fn new(streams: usize) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            streams,
            now_ms: now.expect("it is after 1970").as_millis() as u64,
            pages: BTreeMap::new(),
        }
    }

    fn page(&mut self, streamer: usize, path: &str) -> Vec<u8> {
        let parameter = |name: &str| {
            let pairs = path
                .split(['?', '&'])
                .filter_map(|pair| pair.split_once('='));
            let mut found = pairs.filter(|(known, _)| *known == name);
            found
                .next()
                .and_then(|(_, value)| value.parse::<usize>().ok())
        };
        let begin = parameter("cursor").unwrap_or(0);
        let end = self.streams.min(begin + parameter("limit").unwrap_or(100));
        let (streams, now_ms) = (self.streams, self.now_ms);
        let page = self.pages.entry((begin, end));
        let (page, places) = page.or_insert_with(|| new_page(begin, end, streams, now_ms));
        let mut page = page.clone();
        let number = format!("{streamer:05}");
        for place in places {
            page[*place..*place + number.len()].copy_from_slice(number.as_bytes());
        }
        page
    }
}

/// A page of the list of streamer 0, and where its number is.
fn new_page(begin: usize, end: usize, streams: usize, now_ms: u64) -> (Vec<u8>, Vec<usize>) {
    let next = if end < streams {
        format!(r#""next":"{end}","#)
    } else {
        String::new()
    };
    let mut page = format!(r#"{{"estimated_count":{streams},{next}"streams":["#);
    let mut places = Vec::new();
    for i in begin..end {
        page.push_str(if i > begin {
            r#",{"name":""#
        } else {
            r#"{"name":""#
        });
        places.push(page.len() + 1);
        let name = name(0, i);
        page.push_str(&format!(
            r#"{name}","stats":{}}}"#,
            stats_of_stream(i as u64, now_ms)
        ));
    }
    page.push_str(r#"],"timing":{}}"#);
    (page.into_bytes(), places)
}

fn stats_of_stream(i: u64, now_ms: u64) -> Value {
    let varies = (now_ms / 1000 * 31 + i * 7) % 500;
    json!({
        "id": "61496e8c-87c5-4e90-a05c-d8f3dbb5ff2d", "status": "running", "alive": true,
        "bitrate": 2300 + varies, "input_bitrate": 2400 + varies, "output_bandwidth": 7800 + varies,
        "bytes_in": 123_456_789 + now_ms % 1_000_000_000, "bytes_out": 987_654_321 + now_ms,
        "online_clients": varies / 100, "retry_count": 0, "opened_at": 1_700_000_000_000_u64,
        "last_dts_at": now_ms - varies, "lifetime": now_ms - 1_700_000_000_000, "ts_delay": varies,
        "input_error_rate": 0, "running": true, "dvr_enabled": true, "source_id": "abc",
        "media_info": {"tracks": [
            {"track_id": "v1", "content": "video", "codec": "h264", "bitrate": 2200 + varies,
             "width": 1920, "height": 1080, "fps": 25.0, "gop_size": 50, "profile": "High",
             "level": "4.0"},
            {"track_id": "a1", "content": "audio", "codec": "aac", "bitrate": 128, "sample_rate":
             48000, "channels": 2, "lang": "eng"},
        ], "title": "Camera"},
    })
}
