//! The calls of people and tools to a large cluster, one after the other, and another GET beside
//! scans.
//!
//! `cargo build --release && cargo run --release -p weir-bench --bin cluster_calls -- [STREAMS]
//! [STREAMERS]` starts the program that is built beside it, fills it over HTTP, reports every
//! stream, and prints a table: of the answers' times the median, the first and the longest, the
//! processor time of the server per call, and the bytes of the answer with gzip.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use weir_bench::sizes;
use weir_testkit::sys::cpu_seconds;
use weir_testkit::{API_KEY, Client, PREFIX, TestServer, encode_segment, wait_until};

const BATCH: usize = 10_000;
/// Calls of each kind.
const CALLS: usize = 9;
/// Clients that scan beside another GET, and for how long.
const SCANNERS: usize = 4;
const BESIDE: Duration = Duration::from_secs(8);

fn main() {
    let [streams, streamers] = sizes([50_000, 100]);
    let arguments = ["--layouter-enabled", "--streamer-dead-timeout", "1h"];
    let server = TestServer::with(&arguments);
    let began = Instant::now();
    fill(&server, streams, streamers);
    report(&server);
    println!(
        "{streams} streams on {streamers} streamers, all reported, after {:.0} s\n",
        began.elapsed().as_secs_f64()
    );
    println!("| call | median, ms | first | longest | processor, ms | bytes with gzip |");
    println!("|---|---|---|---|---|---|");
    for (name, path) in calls(streams) {
        measure(&server, name, &path);
    }
    println!();
    beside_scans(&server, 0);
    beside_scans(&server, SCANNERS);
}

fn host(n: usize) -> String {
    format!("edge-{n:04}")
}

fn name(n: usize) -> String {
    format!("site{}/cam{n}", n % 400)
}

fn stream(n: usize) -> Value {
    let labels = json!({
        "site": format!("s{}", n % 400), "customer": format!("c{}", n % 97), "kind": "cam",
    });
    let url = format!("rtsp://10.{}.{}.1/{n}", n % 200, n % 250);
    json!({
        "name": name(n), "title": format!("Camera {n}"), "static": true,
        "inputs": [{"url": url}], "labels": labels,
    })
}

/// Saves the streamers and the streams, and waits until the layouter has placed all.
fn fill(server: &TestServer, streams: usize, streamers: usize) {
    let channels = (streams / streamers + 1) * 13 / 10;
    let streamer = |n: usize| {
        json!({
            "hostname": host(n), "role": "streamer", "cluster_key": "k",
            "api_url": format!("http://10.{}.{}.1", n / 250, n % 250),
            "channel_limit": channels, "labels": {"site": format!("site{}", n % 40)},
        })
    };
    let all: Value = (0..streamers).map(streamer).collect();
    server.put("/streamers/batch", all).expect(204);
    for first in (0..streams).step_by(BATCH) {
        let batch: Value = (first..(first + BATCH).min(streams)).map(stream).collect();
        server.put("/streams/batch", batch).expect(204);
    }
    let empty = json!({"stats": {"cpu_usage": 50}, "streams": []});
    for n in 0..streamers {
        let path = format!("/streamers/{}/stats", host(n));
        server.put(&path, empty.clone()).expect(204);
    }
    let unplaced = || {
        thread::sleep(Duration::from_secs(1));
        let summary = server.get("/cluster/summary").expect(200).json();
        summary["streams"]["unplaced"].as_u64()
    };
    wait_until("all streams are placed", unplaced, |left| *left == Some(0));
}

/// Has every streamer report its streams. One of 1,400 does not run.
fn report(server: &TestServer) {
    let mut client = server.connect();
    let hosts = server.get("/streamers?limit=10000&select=hostname");
    let hosts = hosts.expect(200).json();
    let mut reported = 0;
    for host in hosts["streamers"].as_array().expect("streamers") {
        let host = host["hostname"].as_str().expect("a hostname");
        let path = format!("/streams?layout.ingest={host}&select=name&limit=10000");
        let placed = call(&mut client, "GET", &path, None).json();
        let streams = placed["streams"].as_array().expect("streams").iter();
        let reports = streams.map(|stream| {
            reported += 1;
            let status = if reported % 1400 == 0 {
                "error"
            } else {
                "running"
            };
            json!({
                "name": stream["name"], "status": status, "alive": true,
                "bitrate": 1000 + reported * 7919 % 4001, "online_clients": 1,
            })
        });
        let reports: Vec<Value> = reports.collect();
        let stats = json!({
            "cpu_usage": 50, "memory_usage": 40, "output_kbit": 900_000, "input_kbit": 800_000,
            "total_clients": 40,
        });
        let body = json!({"stats": stats, "streams": reports});
        call(
            &mut client,
            "PUT",
            &format!("/streamers/{host}/stats"),
            Some(&body),
        );
    }
}

/// The calls, with the names that the table shows.
fn calls(streams: usize) -> Vec<(&'static str, String)> {
    let names: Vec<String> = (0..streams.min(60)).map(name).collect();
    let one = encode_segment(&name(streams / 2));
    let q = streams - 1;
    vec![
        ("`GET /cluster/summary`", "/cluster/summary".into()),
        ("`GET /cluster/stats`", "/cluster/stats".into()),
        ("`GET /streamers?limit=100`", "/streamers?limit=100".into()),
        ("`GET /streams?limit=100`", "/streams?limit=100".into()),
        (
            "60 streams by name",
            format!("/streams?name={}", names.join(",")),
        ),
        (
            "streams of a streamer",
            "/streams?layout.ingest=edge-0001&limit=100".into(),
        ),
        ("one stream", format!("/streams/{one}")),
        (
            "explanation of its layout",
            format!("/streams/{one}/layout/explain?group=reasons"),
        ),
        ("`health=outage`", "/streams?health=outage&limit=100".into()),
        ("`q=`", format!("/streams?q=cam{q}&limit=100")),
        ("a label", "/streams?labels.customer=c7&limit=100".into()),
        (
            "`sort=-stats.bitrate`",
            "/streams?sort=-stats.bitrate&limit=100".into(),
        ),
        ("`sort=-title`", "/streams?sort=-title&limit=100".into()),
        (
            "`stats.status=error`",
            "/streams?stats.status=error&limit=100".into(),
        ),
        (
            "`GET /facets`",
            "/facets?of=streams&fields=labels&values=20".into(),
        ),
        (
            "`GET /facets` of a label",
            "/facets?of=streams&fields=labels&values=20&labels.customer=c7".into(),
        ),
        (
            "dry run of a change by filter",
            "POST /streams/batch_by_filter?labels.customer=c7".into(),
        ),
    ]
}

fn call(client: &mut Client, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let bearer = format!("Bearer {API_KEY}");
    let fields = [
        ("Authorization", bearer.as_str()),
        ("Accept-Encoding", "gzip"),
    ];
    let body = body.map(Value::to_string).unwrap_or_default();
    let response = client.request(method, &format!("{PREFIX}{path}"), &fields, body.as_bytes());
    assert!(
        response.status < 300,
        "{method} {path}: {}",
        response.text()
    );
    Answer(
        response.decoded().expect("a coding it names").into_owned(),
        response.body.len(),
    )
}

/// A body, and its bytes on the wire.
struct Answer(Vec<u8>, usize);

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.0).expect("JSON")
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Makes a call several times and prints its row.
fn measure(server: &TestServer, name: &str, path: &str) {
    let change = json!({"patch": {"title": "x"}});
    let (method, path, body) = match path.strip_prefix("POST ") {
        Some(path) => ("POST", path, Some(&change)),
        None => ("GET", path, None),
    };
    let mut client = server.connect();
    let (mut times, mut bytes) = (Vec::new(), 0);
    let before = cpu_seconds(server.id());
    for _ in 0..CALLS {
        let began = Instant::now();
        bytes = call(&mut client, method, path, body).1;
        times.push(ms(began.elapsed()));
    }
    let processor = (cpu_seconds(server.id()) - before) * 1000.0 / CALLS as f64;
    let first = times[0];
    times.sort_by(f64::total_cmp);
    println!(
        "| {name} | {:.1} | {first:.1} | {:.1} | {processor:.1} | {bytes} |",
        times[CALLS / 2],
        times[CALLS - 1],
    );
}

/// GETs of one stream while others scan all streams.
fn beside_scans(server: &TestServer, scanners: usize) {
    let is_over = AtomicBool::new(false);
    let mut times = Histogram::<u64>::new(3).expect("three digits");
    thread::scope(|scope| {
        for _ in 0..scanners {
            scope.spawn(|| {
                let mut client = server.connect();
                while !is_over.load(Ordering::Relaxed) {
                    let path = "/streams?labels.customer=c7&limit=100";
                    call(&mut client, "GET", path, None);
                }
            });
        }
        let path = format!("/streams/{}", encode_segment(&name(7)));
        let mut client = server.connect();
        let began = Instant::now();
        while began.elapsed() < BESIDE {
            let sent = Instant::now();
            call(&mut client, "GET", &path, None);
            let took = sent.elapsed().as_micros() as u64;
            times.record(took).expect("it grows");
            thread::sleep(Duration::from_millis(2));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let at = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "GET of one stream beside {scanners} clients that scan: p50 {:.2} ms, p99 {:.2} ms, \
         longest {:.2} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}
