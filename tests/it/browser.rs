//! The web interface: how its files are served, and that its own programs accept it.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use weir_testkit::{Response, TestServer, run as run_weir};

use crate::environment::{install_packages, made_once, run};
use crate::node;

/// All files of the interface together, compressed with gzip, bytes.
const GZIP_BYTES_MAX: usize = 90 * 1024;
const FILES: [(&str, &str); 3] = [
    ("app.js", "text/javascript; charset=utf-8"),
    ("app.css", "text/css; charset=utf-8"),
    ("icon.svg", "image/svg+xml"),
];

/// A request without credentials.
fn get(server: &TestServer, path: &str, fields: &[(&str, &str)]) -> Response {
    server.connect().request("GET", path, fields, b"")
}

/// The directory that the page names as its base, relative to itself: `HASH/`.
fn base(server: &TestServer) -> String {
    let page = get(server, "/ui/", &[]).expect(200).text();
    let base = page.split("<base href=\"").nth(1);
    let base = base.and_then(|rest| rest.split('"').next());
    let base = base.unwrap_or_else(|| panic!("no base: {page}"));
    // A proxy may serve the page below a path that the server does not know.
    assert!(!base.starts_with('/') && !base.contains(':'), "{base}");
    format!("/ui/{base}")
}

fn has_policy(response: &Response) {
    let policy = response
        .header("content-security-policy")
        .expect("a policy");
    for directive in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(policy.contains(directive), "{policy}");
    }
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
    ] {
        assert_eq!(response.header(name), Some(value), "{name}");
    }
}

#[test]
fn page_is_checked_and_its_files_never_change() {
    let server = TestServer::new();
    let page = get(&server, "/ui/", &[]).expect(200);
    has_policy(&page);
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    let tag = page.etag().expect("a tag").to_owned();
    let known = get(&server, "/ui/", &[("If-None-Match", &tag)]).expect(304);
    assert_eq!(known.etag(), Some(&*tag));
    has_policy(&known);
    get(&server, "/ui/", &[("If-None-Match", "\"other\"")]).expect(200);
    let base = base(&server);
    for (name, media_type) in FILES {
        let file = get(&server, &format!("{base}{name}"), &[]).expect(200);
        has_policy(&file);
        assert_eq!(file.header("content-type"), Some(media_type));
        let kept = file.header("cache-control").expect("a rule");
        assert!(
            kept.contains("immutable") && kept.contains("max-age=31536000"),
            "{kept}"
        );
        assert!(page.text().contains(name), "the page loads {name}");
    }
    // The page loads nothing from elsewhere, and has no script or style of its own.
    let text = page.text();
    for forbidden in ["http:", "https:", "style=", "<style", "onload", "eval("] {
        assert!(!text.contains(forbidden), "{forbidden} in {text}");
    }
}

#[test]
fn other_hashes_and_unknown_files_are_not_found() {
    let server = TestServer::new();
    let base = base(&server);
    for path in [
        "/ui/0123456789abcdef/app.js".to_owned(),
        format!("{base}other.js"),
        format!("{base}index.html"),
        format!("{base}app.js.gz"),
        format!("{base}../app.js"),
        base.trim_end_matches('/').to_owned(),
        "/ui/hash".to_owned(),
    ] {
        let missing = get(&server, &path, &[]).expect(404);
        assert_eq!(missing.errors(), ["not_found"], "{path}");
        assert_eq!(missing.header("cache-control"), Some("no-store"), "{path}");
        has_policy(&missing);
    }
    let refused = server
        .connect()
        .request("POST", "/ui/", &[], b"")
        .expect(405);
    assert_eq!(refused.header("allow"), Some("GET, HEAD, OPTIONS"));
    let options = server
        .connect()
        .request("OPTIONS", "/ui/", &[], b"")
        .expect(204);
    assert_eq!(options.header("allow"), Some("GET, HEAD, OPTIONS"));
}

#[test]
fn files_are_sent_in_the_coding_that_the_client_accepts() {
    let server = TestServer::new();
    let path = format!("{}app.js", base(&server));
    let with = |accepts: &str| get(&server, &path, &[("Accept-Encoding", accepts)]).expect(200);
    let plain = get(&server, &path, &[]).expect(200);
    assert_eq!(plain.header("content-encoding"), None);
    let gzip = with("gzip");
    assert_eq!(gzip.header("content-encoding"), Some("gzip"));
    assert_eq!(gzip.text(), plain.text());
    let brotli = with("gzip, deflate, br;q=0.9");
    assert_eq!(brotli.header("content-encoding"), Some("br"));
    assert!(brotli.body.len() < gzip.body.len());
    for (accepts, coding) in [
        ("br;q=0, gzip", Some("gzip")),
        ("identity", None),
        ("zstd", None),
    ] {
        assert_eq!(
            with(accepts).header("content-encoding"),
            coding,
            "{accepts}"
        );
    }
    for response in [plain, gzip, brotli] {
        assert_eq!(response.header("vary"), Some("Accept-Encoding"));
    }
    let mut client = server.connect();
    client.send_request("HEAD", &path, &[("Accept-Encoding", "gzip")], b"");
    let head = client.response(true).expect(200);
    assert!(head.body.is_empty() && head.header("content-length").is_some());
}

#[test]
fn interface_is_small() {
    let server = TestServer::new();
    let base = base(&server);
    let files = FILES.map(|(name, _)| format!("{base}{name}"));
    let mut bytes = 0;
    for path in files.iter().map(String::as_str).chain(["/ui/"]) {
        let file = get(&server, path, &[("Accept-Encoding", "gzip")]).expect(200);
        assert_eq!(file.header("content-encoding"), Some("gzip"), "{path}");
        bytes += file.body.len();
    }
    assert!(bytes <= GZIP_BYTES_MAX, "{bytes} bytes");
}

#[test]
fn root_leads_browsers_to_the_page_and_nothing_else() {
    let server = TestServer::new();
    let html = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8";
    for path in ["/", "/ui"] {
        let redirect = get(&server, path, &[("Accept", html)]).expect(302);
        assert_eq!(redirect.header("location"), Some("ui/"), "{path}");
        has_policy(&redirect);
    }
    for accepts in ["*/*", "application/json", "text/html;q=0"] {
        get(&server, "/", &[("Accept", accepts)]).expect(401);
    }
    get(&server, "/", &[]).expect(401);
    server.call("GET", "/nothing", b"").expect(404);
}

#[test]
fn interface_can_be_switched_off() {
    let mut server = TestServer::with(&["--ui=false"]);
    let html = [("Accept", "text/html")];
    for path in ["/", "/ui/", "/ui"] {
        get(&server, path, &html).expect(401);
        let key = format!("Bearer {}", weir_testkit::API_KEY);
        get(&server, path, &[("Authorization", &key)]).expect(404);
    }
    assert!(server.greeting_line().starts_with("try: curl"));
    assert!(server.terminate().success());
    assert!(!server.log().contains("web interface"), "{}", server.log());
}

#[test]
fn greeting_and_version_name_the_interface() {
    let mut server = TestServer::new();
    assert!(server.greeting_line().starts_with("try: curl"));
    let greeting = server.greeting_line();
    let address = format!("web interface: http://{}/ui/", server.address());
    assert_eq!(greeting, address);
    let directory = tempfile::tempdir().expect("a directory");
    let version = run_weir(&["--version"], &[], directory.path());
    let version = String::from_utf8(version.stdout).expect("text");
    assert!(!version.contains("without web interface"), "{version}");
}

// -------------------------------------------------------------------------------------------------
// The programs of the interface

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ui");
const WEB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ui/web");
const PLACE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/ui");

/// A directory with the packages of the tests in `node_modules`.
fn packages() -> PathBuf {
    node::packages_of(SOURCES, PLACE)
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, target).expect("it can be copied");
        }
    }
}

/// The sources of the interface and of its tests, below the packages that they import.
fn sources() -> tempfile::TempDir {
    let scratch = tempfile::tempdir_in(packages()).expect("a scratch directory can be made");
    copy_folder(&Path::new(WEB).join("src"), &scratch.path().join("src"));
    for (folder, name) in [
        (WEB, "tsconfig.json"),
        (SOURCES, "unit.ts"),
        (SOURCES, "language_faults.ts"),
    ] {
        let from = Path::new(folder).join(name);
        fs::copy(from, scratch.path().join(name)).expect("it can be copied");
    }
    scratch
}

#[test]
fn interface_has_no_type_errors() {
    let scratch = sources();
    let mut tsc = Command::new(packages().join("node_modules/.bin/tsc"));
    let printed = run(tsc.arg("--noEmit").current_dir(&scratch));
    assert_eq!(printed.unwrap_or_else(|error| panic!("{error}")), "");
}

#[test]
fn unit_tests_of_the_interface_pass() {
    let scratch = sources();
    let mut esbuild = Command::new(packages().join("node_modules/.bin/esbuild"));
    esbuild
        .args(["unit.ts", "--bundle", "--platform=node", "--format=esm"])
        .args(["--outfile=unit.test.mjs", "--log-level=warning"])
        .current_dir(&scratch);
    run(&mut esbuild).unwrap_or_else(|error| panic!("{error}"));
    let mut node = Command::new("node");
    node.args(["--test", "unit.test.mjs"])
        .env("SOURCES", Path::new(WEB).join("src"))
        .current_dir(&scratch);
    let printed = run(&mut node).unwrap_or_else(|error| panic!("{error}"));
    let passed = printed.lines().find_map(|line| {
        let line = line.trim_start_matches(['#', 'ℹ', ' ']);
        line.strip_prefix("pass ")?.trim().parse::<usize>().ok()
    });
    assert!(passed.is_some_and(|count| count >= 10), "{printed}");
}

/// The longest time without a line of the browser's checks, each of whose waits is shorter.
const SILENCE_MAX: Duration = Duration::from_mins(5);

/// The path of a browser, which is installed where that is possible unattended.
fn chromium() -> PathBuf {
    let path = PathBuf::from("/usr/bin/chromium");
    // One test (of one process) installs it while the others wait.
    made_once(&Path::new(PLACE).join("browser"), "chromium", |directory| {
        if !path.exists() {
            install_packages(&["chromium"]).unwrap_or_else(|error| {
                panic!("this test needs Debian's chromium and could not get it:\n{error}")
            });
        }
        fs::create_dir_all(directory).expect("the build directory can be written");
    });
    assert!(path.exists(), "{} is there", path.display());
    path
}

/// An address that a server has again after a restart.
fn free_address() -> String {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    free.local_addr().expect("an address").to_string()
}

/// A server with streamers, streams and a port that it has again after a restart.
fn server_with_fixture() -> (TestServer, String) {
    let address = free_address();
    // The streamers send no sign of life after this: they are up until the last check.
    let server = TestServer::with(&[
        "--layouter-enabled",
        "--streamer-dead-timeout",
        "1h",
        "--listen",
        &address,
    ]);
    for number in 1..=6 {
        let site = if number < 3 { "fra" } else { "ams" };
        let key = format!("k{number}");
        let node = json!({
            "role": "streamer", "cluster_key": key, "channel_limit": 200, "labels": {"site": site},
        });
        let path = format!("/streamers/edge-{number}.example.com");
        server.put(&path, node).expect(200);
    }
    let streams = (0..600).map(|number| {
        let city = ["berlin", "graz", "porto"][number % 3];
        let customer = ["acme", "borealis"][number % 2];
        json!({
            "name": format!("cam/{city}/gate-{number}"), "title": format!("Gate {number}"),
            "inputs": [{"url": "fake://x"}], "disabled": number % 50 == 0,
            "labels": {"customer": customer},
        })
    });
    let batch = server.put("/streams/batch", streams.collect());
    batch.expect(204);
    let placed = (1..300).map(|number| (number, number % 5 + 1));
    let city = |number: usize| ["berlin", "graz", "porto"][number % 3];
    let layouts = placed.clone().map(|(number, node)| {
        let name = format!("cam/{}/gate-{number}", city(number));
        json!({"name": name, "ingest": format!("edge-{node}.example.com")})
    });
    let layouts: Value = layouts.collect();
    let body = json!({"layouts": layouts});
    server.post("/streams/layouts", body).expect(204);
    for node in 1..=5 {
        let mine = placed.clone().filter(|(_, on)| *on == node);
        let streams = mine.map(|(number, _)| {
            let status = if number % 40 == 0 { "error" } else { "running" };
            json!({
                "name": format!("cam/{}/gate-{number}", city(number)), "status": status,
                "alive": true, "bitrate": 2500 + number, "online_clients": number % 9,
            })
        });
        let streams: Value = streams.collect();
        let stats = json!({
            "cpu_usage": 20 + node * 14, "memory_usage": 40, "input_kbit": 100_000 * node,
            "output_kbit": 4_000_000, "total_clients": node * 10, "uptime": 100_000,
            "server_version": "26.9", "partitions": [{"usage": 50 + node * 9}],
        });
        let path = format!("/streamers/edge-{node}.example.com/stats");
        server
            .put(&path, json!({"stats": stats, "streams": streams}))
            .expect(204);
    }
    // Two reads with another credential are a sign of life.
    for number in 1..=5 {
        for _ in 0..2 {
            let path = format!("/streamers/edge-{number}.example.com/streams");
            server.get(&path).expect(200);
        }
    }
    (server, format!("http://{address}/ui/"))
}

const LARGE_STREAMS: usize = 100_000;
const LARGE_STREAMERS: usize = 200;

/// A server with 100,000 streams on 200 streamers that report all of them. The layouter, which is
/// off, would compete with the browser for the processors.
fn large_server() -> TestServer {
    let server = TestServer::with(&["--streamer-dead-timeout", "1h"]);
    let host = |number: usize| format!("edge-{number:03}.example.com");
    let name = |number: usize| format!("cam/city-{:02}/gate-{number:06}", number % 50);
    let streamers = (0..LARGE_STREAMERS).map(|number| {
        json!({
            "hostname": host(number), "role": "streamer", "cluster_key": format!("k{number}"),
            "channel_limit": 600, "labels": {"site": format!("site-{}", number % 8)},
        })
    });
    let saved = server.put("/streamers/batch", streamers.collect());
    saved.expect(204);
    let numbers: Vec<usize> = (0..LARGE_STREAMS).collect();
    for batch in numbers.chunks(10_000) {
        let streams = batch.iter().map(|number| {
            json!({
                "name": name(*number), "title": format!("Gate {number}"),
                "inputs": [{"url": "fake://x"}],
                "labels": {"customer": format!("customer-{}", number % 20)},
                "layout": {"ingest": host(number % LARGE_STREAMERS)},
            })
        });
        server.put("/streams/batch", streams.collect()).expect(204);
    }
    for node in 0..LARGE_STREAMERS {
        let mine = (node..LARGE_STREAMS).step_by(LARGE_STREAMERS);
        let streams = mine.map(|number| {
            let status = if number % 100 == 0 {
                "error"
            } else {
                "running"
            };
            json!({
                "name": name(number), "status": status, "alive": true, "bitrate": 3000,
                "online_clients": number % 9,
            })
        });
        let streams: Value = streams.collect();
        let stats = json!({
            "cpu_usage": 20 + node % 60, "memory_usage": 40, "input_kbit": 1_500_000,
            "output_kbit": 4_000_000, "total_clients": 2000, "uptime": 100_000,
            "server_version": "26.9", "partitions": [{"usage": 50}],
        });
        let path = format!("/streamers/{}/stats", host(node));
        let report = json!({"stats": stats, "streams": streams});
        server.put(&path, report).expect(204);
    }
    server
}

/// Where pictures of the screens are kept: `target/ui-screenshots`.
fn screenshots() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    let path = target.expect("it is in it").join("ui-screenshots");
    fs::create_dir_all(&path).expect("the build directory can be written");
    path
}

/// The checks of a running browser.
struct Checks {
    child: Child,
    lines: Receiver<String>,
    errors: PathBuf,
}

impl Checks {
    /// The checks of a set of `browser.mjs`; by default all of the small cluster.
    fn start(scratch: &Path, page: &str, set: &[&str]) -> Self {
        let errors = scratch.join("stderr");
        let stderr = fs::File::create(&errors).expect("a file");
        let from = Path::new(SOURCES);
        for script in ["browser.mjs", "pages.mjs", "structure.mjs"] {
            fs::copy(from.join(script), scratch.join(script)).expect("it can be copied");
        }
        copy_folder(&from.join("checks"), &scratch.join("checks"));
        let mut child = Command::new("node")
            .args(["browser.mjs", page, weir_testkit::API_KEY])
            .args(set)
            .env("CHROMIUM", chromium())
            .env("SCREENSHOTS", screenshots())
            .env("STRUCTURE", from.join("structure.txt"))
            .current_dir(scratch)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("node can be started");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            lines,
            errors,
        }
    }

    /// The next line; `None` at the end of the output.
    fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(SILENCE_MAX) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line within {SILENCE_MAX:?}"),
        }
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let errors = fs::read_to_string(&self.errors).unwrap_or_default();
            eprintln!("--- the browser's checks ---\n{errors}");
        }
    }
}

/// The lines of a set of checks, all of which passed. They end and start the server.
fn passed_checks(server: &mut TestServer, page: &str, set: &[&str]) -> Vec<String> {
    let scratch = sources();
    let mut checks = Checks::start(scratch.path(), page, set);
    let mut passed = Vec::new();
    while let Some(line) = checks.line() {
        let done: &[u8] = match &*line {
            "RESTART" => {
                server.restart();
                b"restarted\n"
            }
            "END" => {
                let status = server.terminate();
                assert!(status.success(), "the server ended with {status}");
                b"ended\n"
            }
            "START" => {
                server.start();
                b"started\n"
            }
            _ => b"",
        };
        let stdin = checks.child.stdin.as_mut().expect("a pipe");
        stdin.write_all(done).expect("it reads");
        passed.push(line);
    }
    let last = passed.last().map(String::as_str);
    assert_eq!(last, Some("done"), "{passed:#?}");
    passed
}

#[test]
fn interface_works_in_a_browser() {
    // Goal: what an operator does and sees works in a real browser, under the policy of the files.
    // Method: `tests/ui/browser.mjs`, which prints a line for each of `tests/ui/checks`.
    let (mut server, page) = server_with_fixture();
    let before = SystemTime::now();
    let passed = passed_checks(&mut server, &page, &[]);
    let count = passed.iter().filter(|line| line.starts_with("ok ")).count();
    assert!(count >= 40, "{passed:#?}");
    // The pictures of this run, for whoever looks at a change.
    for screen in ["overview", "streams", "settings"] {
        for width in [1440, 390] {
            let picture = screenshots().join(format!("{screen}-{width}.png"));
            let made = fs::metadata(&picture).and_then(|data| data.modified());
            let made = made.unwrap_or_else(|error| panic!("{}: {error}", picture.display()));
            assert!(made >= before, "{} is old", picture.display());
        }
    }
}

#[test]
fn interface_works_on_a_new_server() {
    // Goal: empty lists, the end and return of the server, and lost streamers are shown as such.
    // Method: `tests/ui/checks/fresh.mjs`, on a server whose streamers are lost after 3 s.
    let address = free_address();
    let timeout = ["--streamer-dead-timeout", "3s"];
    let arguments = ["--layouter-enabled", "--listen", &address];
    let mut server = TestServer::with(&[&arguments[..], &timeout[..]].concat());
    let page = format!("http://{address}/ui/");
    let passed = passed_checks(&mut server, &page, &["fresh"]);
    let count = passed.iter().filter(|line| line.starts_with("ok ")).count();
    assert_eq!(count, 4, "{passed:#?}");
}

#[test]
fn interface_stays_small_on_a_large_cluster() {
    // Goal: requests, bytes, elements and memory of the browser do not grow with the cluster.
    // Method: `tests/ui/checks/large.mjs`, which counts them on 100,000 streams.
    let mut server = large_server();
    let page = format!("http://{}/ui/", server.address());
    let passed = passed_checks(&mut server, &page, &["large"]);
    let count = passed.iter().filter(|line| line.starts_with("ok ")).count();
    assert_eq!(count, 4, "{passed:#?}");
}

#[test]
fn lock_files_have_no_addresses() {
    for folder in [WEB, SOURCES] {
        let lock = Path::new(folder).join("package-lock.json");
        let text = fs::read_to_string(&lock).expect("the lock file can be read");
        assert!(!text.contains("\"resolved\""), "{}", lock.display());
        assert!(text.contains("\"integrity\""), "{}", lock.display());
    }
}
