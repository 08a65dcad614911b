//! What clients can take of a server: time of others, memory, and a core in one piece.
//!
//! `cargo build --release && cargo run --release -p weir-bench --bin hostile -- [STREAMS]` starts
//! the program that is built beside it, with one connection thread, and sends it the worst requests
//! of each kind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use weir_bench::size;
use weir_testkit::{API_KEY, Client, PREFIX, TestServer};

const BATCH: usize = 10_000;
const NODE: &str = "s1";

fn main() {
    let streams = size(200_000);
    let mut server = TestServer::with(&["--io-threads", "1"]);
    fill(&server, streams);
    server.restart();
    println!("{streams} streams, half of them on one streamer, one connection thread\n");
    scans(&server);
    stalls(&mut server, streams);
    server.restart();
    silent_readers(&server);
    server.restart();
    silent_senders(&server);
}

fn name(n: usize) -> String {
    format!("site{:03}/cam{n:06}", n % 100)
}

fn stream(n: usize, comment: usize) -> Value {
    json!({
        "name": name(n),
        "title": format!("Camera {n}"),
        "comment": "c".repeat(comment),
        "inputs": [{"url": format!("rtsp://10.{}.{}.{}/live", n >> 16, n >> 8 & 255, n & 255)}],
        "labels": {"site": format!("site{:03}", n % 100)},
        "position": n,
    })
}

/// Saves the streams, half of them on one streamer.
fn fill(server: &TestServer, streams: usize) {
    let node = json!({"role": "streamer", "cluster_key": "k", "api_url": "http://s1"});
    server.put(&format!("/streamers/{NODE}"), node).expect(200);
    for first in (0..streams).step_by(BATCH) {
        let part = first..(first + BATCH).min(streams);
        let items: Value = part.clone().map(|n| stream(n, 40)).collect();
        server.put("/streams/batch", items).expect(204);
        if first < streams / 2 {
            let place = |n| json!({"name": name(n), "ingest": NODE});
            let layouts: Vec<Value> = part.map(place).collect();
            let body = json!({"layouts": layouts});
            server.post("/streams/layouts", body).expect(204);
        }
    }
}

fn get(path: &str, fields: &str) -> String {
    format!(
        "GET {PREFIX}{path} HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {API_KEY}\r\n{fields}\r\n"
    )
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// GETs of one stream beside the most expensive scans.
fn scans(server: &TestServer) {
    const SCANS: usize = 8;
    const TIME: Duration = Duration::from_secs(10);
    let filters: Vec<String> = (0..60).map(|i| format!("comment_ne=none{i}")).collect();
    let scan = get(
        &format!("/streams?{}&sort=-title&limit=10000", filters.join("&")),
        "",
    );
    for scans in [0, SCANS] {
        let is_over = AtomicBool::new(false);
        let mut times = Histogram::<u64>::new(3).expect("three digits");
        thread::scope(|scope| {
            for _ in 0..scans {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        let mut client = server.connect();
                        client.send(scan.as_bytes());
                        let status = client.response(false).status;
                        assert!([200, 503].contains(&status), "{status}");
                    }
                });
            }
            let request = get(&format!("/streams/{}", name(7)), "");
            let mut client = server.connect();
            let began = Instant::now();
            while began.elapsed() < TIME {
                let sent = Instant::now();
                client.send(request.as_bytes());
                client.response(false).expect(200);
                times
                    .record(sent.elapsed().as_nanos() as u64)
                    .expect("it grows");
                thread::sleep(Duration::from_millis(2));
            }
            is_over.store(true, Ordering::Relaxed);
        });
        let at = |quantile| ms(Duration::from_nanos(times.value_at_quantile(quantile)));
        println!(
            "GET of one stream beside {scans} scans with 60 filters: p50 {:.2} ms, p99 {:.2} ms, \
             longest {:.2} ms",
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
}

fn metrics(server: &TestServer) -> String {
    server
        .get("/cluster/stats?format=openmetrics")
        .expect(200)
        .text()
}

fn metric(text: &str, name: &str) -> f64 {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name}"))
}

/// One kind of request: its name and what sends it.
type Attack = (&'static str, fn(&TestServer, usize));

const ATTACKS: [Attack; 9] = [
    ("nothing but the reading of metrics", |_, _| ()),
    ("batch of 10,000 streams, 57 MB", |server, _| {
        let items: Value = (0..BATCH).map(|n| stream(n, 5500)).collect();
        server.put("/streams/batch", items).expect(204);
    }),
    ("the same with an error at its end", |server, _| {
        let items: Value = (0..BATCH).map(|n| stream(n, 5500)).collect();
        let mut body = items.to_string();
        body.truncate(body.len() - 2);
        server
            .call("PUT", "/streams/batch", body.as_bytes())
            .expect(400);
    }),
    (
        "configuration of the large streamer, plain and gzip",
        |server, _| {
            for fields in ["", "Accept-Encoding: gzip\r\n"] {
                let mut client = server.connect();
                client.send(get(&format!("/streamers/{NODE}/streams"), fields).as_bytes());
                client.response(false).expect(200);
            }
        },
    ),
    ("its delta after one batch, pages of it", |server, _| {
        let path = format!("/streamers/{NODE}/streams");
        let since = server.get(&format!("{path}?limit=10")).expect(200).json()["revision"].clone();
        let items: Value = (0..BATCH).map(|n| stream(n, 41)).collect();
        server.put("/streams/batch", items).expect(204);
        server
            .get(&format!("{path}?changes_since={since}"))
            .expect(200);
        server
            .get(&format!("{path}?sort=-title&limit=1000"))
            .expect(200);
    }),
    (
        "pages of 10,000 streams: by name, sorted, gzip",
        |server, _| {
            for (query, fields) in [
                ("limit=10000", ""),
                ("limit=10000&sort=-title,position", ""),
                ("limit=10000", "Accept-Encoding: gzip\r\n"),
            ] {
                let mut client = server.connect();
                client.send(get(&format!("/streams?{query}"), fields).as_bytes());
                client.response(false).expect(200);
            }
        },
    ),
    ("8 scans with 60 filters", |server, _| {
        let filters: Vec<String> = (0..60).map(|i| format!("comment_ne=none{i}")).collect();
        let scan = get(&format!("/streams?{}&sort=-title", filters.join("&")), "");
        let mut clients: Vec<Client> = (0..8).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.send(scan.as_bytes());
        }
        for client in &mut clients {
            client.response(false);
        }
    }),
    ("a commit that wakes 2,000 polls", |server, _| {
        let poll = get("/streams?updated_at_gt=9000000000000&poll_timeout=30", "");
        let own = |n: usize| format!("/streams?q=title{n}&poll_timeout=30");
        let mut clients: Vec<Client> = (0..2000).map(|_| server.connect()).collect();
        for (n, client) in clients.iter_mut().enumerate() {
            let request = if n % 2 == 0 {
                poll.clone()
            } else {
                get(&own(n), "")
            };
            client.send(request.as_bytes());
        }
        while metric(&metrics(server), "weir_polls_parked") < 2000.0 {
            thread::sleep(Duration::from_millis(20));
        }
        let items: Value = (0..BATCH).map(|n| stream(n, 42)).collect();
        server.put("/streams/batch", items).expect(204);
    }),
    (
        "events of all of it, statistics of the cluster",
        |server, _| {
            server.get("/events?limit=10000").expect(200);
            server.get("/cluster/stats").expect(200);
        },
    ),
];

/// The longest time for which one task kept the thread from the others, by kind of request.
fn stalls(server: &mut TestServer, streams: usize) {
    println!("\nlongest time without a break for other requests, ms, and how many above 5 ms:");
    for (what, attack) in ATTACKS {
        server.restart();
        attack(server, streams);
        let text = metrics(server);
        let longest = metric(&text, "weir_core_stall_max_seconds{core=\"0\"}") * 1000.0;
        let all = metric(&text, "weir_core_stall_seconds_count{core=\"0\"}");
        let short = "weir_core_stall_seconds_bucket{core=\"0\",le=\"0.005\"}";
        println!(
            "{what:<52} {longest:>8.2} {:>4.0}",
            all - metric(&text, short)
        );
    }
}

fn resident_mb(server: &TestServer) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).expect("it runs");
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb: f64 = rss
        .and_then(|rss| rss.trim().strip_suffix(" kB")?.parse().ok())
        .expect("a number");
    kb / 1000.0
}

/// Clients that send most of a body and fall silent.
fn silent_senders(server: &TestServer) {
    const SENDERS: usize = 600;
    const SENT: usize = 1_048_000;
    let before = resident_mb(server);
    let head = format!(
        "PUT {PREFIX}/streams/a HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {API_KEY}\r\n\
         Content-Length: 1048576\r\n\r\n"
    );
    let body = vec![b' '; SENT];
    let mut clients = Vec::new();
    for _ in 0..SENDERS {
        let client = server.connect();
        let mut socket = client.stream().expect("a socket");
        // One that is refused is closed in the midst of it.
        let _ = std::io::Write::write_all(&mut socket, head.as_bytes());
        let _ = std::io::Write::write_all(&mut socket, &body);
        clients.push(client);
    }
    let most = resident_mb(server) - before;
    println!("{SENDERS} silent senders of {SENT} bytes: {most:.0} MB");
}

/// Clients that request large pages and read nothing.
fn silent_readers(server: &TestServer) {
    const READERS: usize = 40;
    let before = resident_mb(server);
    let request = get("/streams?limit=10000", "");
    let mut clients: Vec<Client> = (0..READERS).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(request.as_bytes());
    }
    let mut most = 0.0_f64;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        most = most.max(resident_mb(server) - before);
        thread::sleep(Duration::from_millis(50));
    }
    println!("\n{READERS} readers of pages of 10,000 streams that take nothing: {most:.0} MB");
}
