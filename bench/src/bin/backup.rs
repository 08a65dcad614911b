//! Saves beside backups: what a download of the whole store costs those that save meanwhile.
//!
//! `cargo build --release && cargo run --release -p weir-bench --bin backup -- [STREAMS]` starts
//! the program that is built beside it and saves single streams from several clients, in turns
//! without backups, with one after another, with one after another, and without.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use weir_bench::size;
use weir_testkit::{API_KEY, Client, PREFIX, TestServer};

const BATCH: usize = 10_000;
const WRITERS: usize = 8;
const TURN: Duration = Duration::from_secs(20);
/// Pause of a writer between two saves.
const PAUSE: Duration = Duration::from_millis(2);

fn main() {
    let streams = size(200_000);
    let server = TestServer::with(&["--io-threads", "1"]);
    for first in (0..streams).step_by(BATCH) {
        let part = first..(first + BATCH).min(streams);
        let items: Value = part.map(stream).collect();
        server.put("/streams/batch", items).expect(204);
    }
    println!("{streams} streams, {WRITERS} writers, one connection thread");
    println!("| backups | saves/s | p50 ms | p99 ms | longest ms | tasks above 5 ms |");
    println!("|---|---|---|---|---|---|");
    let turns = [false, true, true, false].map(|with_backups| turn(&server, streams, with_backups));
    let p99 = |with: bool| {
        let of = turns.iter().filter(|turn| turn.with_backups == with);
        of.map(|turn| turn.at(0.99)).sum::<f64>() / 2.0
    };
    println!("p99 with / without: {:.2}", p99(true) / p99(false));
}

/// Tasks of the connection thread that kept it from others for more than 5 ms.
fn long_tasks(server: &TestServer) -> u64 {
    let path = "/cluster/stats?format=openmetrics";
    let text = server.get(path).expect(200).text();
    let value = |name: &str| -> u64 {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name}"))
    };
    let short = "weir_core_stall_seconds_bucket{core=\"0\",le=\"0.005\"}";
    value("weir_core_stall_seconds_count{core=\"0\"}") - value(short)
}

fn name(n: usize) -> String {
    format!("site{:03}/cam{n:06}", n % 100)
}

fn stream(n: usize) -> Value {
    json!({
        "name": name(n),
        "title": format!("Camera {n}"),
        "comment": "c".repeat(400),
        "inputs": [{"url": format!("rtsp://10.{}.{}.{}/live", n >> 16, n >> 8 & 255, n & 255)}],
        "labels": {"site": format!("site{:03}", n % 100)},
        "position": n,
    })
}

/// What was measured in one turn.
struct Turn {
    with_backups: bool,
    times: Histogram<u64>,
}

impl Turn {
    /// Milliseconds.
    fn at(&self, quantile: f64) -> f64 {
        self.times.value_at_quantile(quantile) as f64 / 1e6
    }
}

fn turn(server: &TestServer, streams: usize, with_backups: bool) -> Turn {
    let is_over = AtomicBool::new(false);
    let long = long_tasks(server);
    let (times, backups, seconds) = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let is_over = &is_over;
                scope.spawn(move || save(server, writer, streams, is_over))
            })
            .collect();
        let began = Instant::now();
        let (mut backups, mut bytes) = (0, 0);
        while with_backups && began.elapsed() < TURN {
            bytes += download(server);
            backups += 1;
        }
        thread::sleep(TURN.saturating_sub(began.elapsed()));
        is_over.store(true, Ordering::Relaxed);
        let mut all = Histogram::new(3).expect("three digits");
        for writer in writers {
            all.add(writer.join().expect("it does not panic"))
                .expect("equal");
        }
        let seconds = began.elapsed().as_secs_f64();
        let rate = bytes as f64 / seconds / 1e6;
        let backups = format!("{backups}, {rate:.0} MB/s");
        (all, backups, seconds)
    });
    let turn = Turn {
        with_backups,
        times,
    };
    let saves = turn.times.len() as f64 / seconds;
    let [p50, p99, longest] = [0.5, 0.99, 1.0].map(|quantile| turn.at(quantile));
    println!(
        "| {backups} | {saves:.0} | {p50:.2} | {p99:.2} | {longest:.1} | {} |",
        long_tasks(server) - long
    );
    turn
}

/// Saves streams of one writer until the end of the turn. Returns the times of the saves.
fn save(
    server: &TestServer,
    writer: usize,
    streams: usize,
    is_over: &AtomicBool,
) -> Histogram<u64> {
    let mut client = server.connect();
    let mut times = Histogram::new(3).expect("three digits");
    let mut n = writer;
    while !is_over.load(Ordering::Relaxed) {
        n = (n + 7919) % streams;
        let body = json!({"position": times.len()}).to_string();
        let request = format!(
            "PUT {PREFIX}/streams/{} HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {API_KEY}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            name(n),
            body.len()
        );
        let sent = Instant::now();
        client.send(request.as_bytes());
        client.response(false).expect(200);
        let time = sent.elapsed().as_nanos() as u64;
        times.record(time).expect("it grows");
        thread::sleep(PAUSE);
    }
    times
}

/// Reads one backup to its end and keeps nothing of it. Returns its bytes.
fn download(server: &TestServer) -> usize {
    let client = Client::connect(server.address()).expect("the server listens");
    let mut socket = client.stream().expect("a socket");
    let request = format!(
        "GET {PREFIX}/backup HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\
         Authorization: Bearer {API_KEY}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).expect("it is sent");
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        match socket.read(&mut buffer).expect("a response") {
            0 => return bytes,
            read => bytes += read,
        }
    }
}
