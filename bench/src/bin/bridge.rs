//! `weir bridge` with many streams on one media server: its memory, processor time and reports, and
//! how long an edit takes to the server's control API.
//!
//! `cargo build --release && cargo run --release -p weir-bench --bin bridge -- [STREAMS]` runs the
//! program that is built beside it between a server and a stand-in for MediaMTX.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use weir_bench::size;
use weir_testkit::fake::{FakeMediaMtx, FakeServer};
use weir_testkit::{TestServer, program};

/// A minute of reports.
const WINDOW: Duration = Duration::from_mins(1);
const EDITS: usize = 200;
/// Of the times in `/proc`, on every Linux.
const CLOCK_TICKS_PER_SECOND: f64 = 100.0;
/// Time between two looks at the stand-in.
const LOOK: Duration = Duration::from_micros(200);
const GIVEN_WITHIN: Duration = Duration::from_mins(5);

fn main() {
    let streams = size(6000);
    let server = TestServer::with(&["--io-threads", "1"]);
    let fake = FakeServer::new(FakeMediaMtx::default());
    let streamer = json!({"role": "streamer", "cluster_key": "key"});
    server.put("/streamers/m1", streamer).expect(200);
    let items: Value = (0..streams).map(|n| stream(n, 0)).collect();
    server.put("/streams/batch", items).expect(204);
    let sent = Arc::new(AtomicU64::new(0));
    let relay = count_bytes(server.address(), sent.clone());
    let began = Instant::now();
    let bridge = RunningBridge::new(&fake, relay);
    while fake.kind().paths.len() < streams {
        assert!(
            began.elapsed() < GIVEN_WITHIN,
            "not given within {GIVEN_WITHIN:?}"
        );
        thread::sleep(LOOK);
    }
    println!("{streams} streams on one media server");
    println!(
        "| all given, 1,000 a second allowed | {:.1} s |",
        began.elapsed().as_secs_f64()
    );
    thread::sleep(WINDOW / 4);
    let (cpu, bytes) = (bridge.cpu_seconds(), sent.load(Ordering::Relaxed));
    thread::sleep(WINDOW);
    let share = (bridge.cpu_seconds() - cpu) / WINDOW.as_secs_f64();
    let rate = (sent.load(Ordering::Relaxed) - bytes) as f64 / WINDOW.as_secs_f64();
    println!(
        "| processor time with reports | {:.1} % of a core |",
        share * 100.0
    );
    println!("| reports | {:.0} kB/s |", rate / 1e3);
    println!(
        "| memory, most | {} MiB, {} MiB |",
        bridge.memory("VmRSS"),
        bridge.memory("VmHWM")
    );
    let times = edits(&server, &fake, streams);
    let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "| edit to the control API, p50, p99 | {:.1} ms, {:.1} ms |",
        at(0.5),
        at(0.99)
    );
}

fn name(n: usize) -> String {
    format!("site{:03}/cam{n:06}", n % 100)
}

fn source(n: usize, edit: usize) -> String {
    format!(
        "rtsp://10.{}.{}.{}/live{edit}",
        n >> 16,
        n >> 8 & 255,
        n & 255
    )
}

fn stream(n: usize, edit: usize) -> Value {
    json!({
        "name": name(n), "title": format!("Camera {n}"), "layout": {"ingest": "m1"},
        "inputs": [{"url": source(n, edit)}],
    })
}

/// Edits one stream after the other. Returns the microseconds from the answer of each save to the
/// change in the media server.
fn edits(server: &TestServer, fake: &FakeServer<FakeMediaMtx>, streams: usize) -> Histogram<u64> {
    let mut times = Histogram::new(3).expect("three digits");
    for edit in 1..=EDITS {
        let n = edit * 7919 % streams;
        let items = json!([stream(n, edit)]);
        server.put("/streams/batch", items).expect(204);
        let (began, wanted, path) = (Instant::now(), source(n, edit), name(n));
        while fake.kind().paths.get(&path) != Some(&wanted) {
            assert!(began.elapsed() < GIVEN_WITHIN, "{path} did not change");
            thread::sleep(LOOK);
        }
        let micros = began.elapsed().as_micros() as u64;
        times.record(micros).expect("within its range");
    }
    times
}

/// Copies connections to a server, and counts what clients send.
fn count_bytes(target: SocketAddr, sent: Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(target).expect("it listens");
            let pair = (client.try_clone(), server.try_clone());
            let (Ok(client_too), Ok(server_too)) = pair else {
                continue;
            };
            let sent = sent.clone();
            thread::spawn(move || copy(&client, &server, &sent));
            thread::spawn(move || copy(&server_too, &client_too, &AtomicU64::new(0)));
        }
    });
    address
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, count: &AtomicU64) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        count.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    // The other side has ended it already, or does so now.
    let _ = to.shutdown(std::net::Shutdown::Both);
}

struct RunningBridge {
    child: Child,
    _directory: tempfile::TempDir,
}

impl RunningBridge {
    fn new(fake: &FakeServer<FakeMediaMtx>, weir: SocketAddr) -> Self {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let key = directory.path().join("key");
        fs::write(&key, "key\n").expect("a file");
        let child = Command::new(program("weir"))
            .args(["bridge", "--kind", "mediamtx", "--hostname", "m1"])
            .args(["--api", &fake.url(), "--media", &fake.media()])
            .args(["--central", &format!("http://{weir}")])
            .args(["--adds-per-second", "1000"])
            .arg("--cluster-key-file")
            .arg(key)
            .arg("--state-dir")
            .arg(directory.path().join("state"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program is built beside this one");
        Self {
            child,
            _directory: directory,
        }
    }

    fn read(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.child.id());
        fs::read_to_string(path).expect("the bridge runs")
    }

    fn cpu_seconds(&self) -> f64 {
        let stat = self.read("stat");
        // After the name, which may have blanks: the state is field 3, user time 14, system 15.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = [fields[11], fields[12]].map(|text| text.parse::<f64>().expect("a number"));
        ticks.iter().sum::<f64>() / CLOCK_TICKS_PER_SECOND
    }

    /// A figure of the process, MiB.
    fn memory(&self, field: &str) -> u64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let mut words = line.expect("the figure").split_whitespace().skip(1);
        let kibibytes: u64 = words
            .next()
            .and_then(|word| word.parse().ok())
            .expect("a number");
        kibibytes.div_ceil(1024)
    }
}

impl Drop for RunningBridge {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
