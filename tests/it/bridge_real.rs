//! `weir bridge` beside three real node-media-servers that pull pictures from RTSP cameras. What it
//! needs is installed below the build directory, and by apt as root on Debian.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bridges::{Bridge, looking, save_streamers};
use crate::environment::{install_packages, made_once, run};
use weir_testkit::fake::unused_address;
use weir_testkit::{Client, TestServer, encode_segment};

const PLACE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/node-media-server");
const PACKAGE: &str = "node-media-server@4.4.3";
const DEBIAN_PACKAGES: [&str; 10] = [
    "nodejs",
    "npm",
    "ffmpeg",
    "python3-gi",
    "gir1.2-gstreamer-1.0",
    "gir1.2-gst-rtsp-server-1.0",
    "gstreamer1.0-plugins-base",
    "gstreamer1.0-plugins-good",
    "gstreamer1.0-plugins-bad",
    "gstreamer1.0-plugins-ugly",
];
const CAMERAS: &str = "import gi\n\
    gi.require_version('GstRtspServer', '1.0')\n\
    from gi.repository import Gst, GstRtspServer\n\
    Gst.init(None)\n\
    assert Gst.ElementFactory.find('x264enc') and Gst.ElementFactory.find('rtph264pay')";
const PASSWORD: &str = "it-password";
/// Stream names with what they may have; the rest are plain.
const ODD_NAMES: [&str; 4] = ["dir/a.b", "über uns", "live/x", "a_x41_"];

/// Ends a process with its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(path)
}

fn install() -> PathBuf {
    let version = |name| run(Command::new(name).arg("-version"));
    let present = || {
        version("ffprobe")?;
        run(Command::new("npm").arg("--version"))?;
        run(Command::new("/usr/bin/python3").args(["-c", CAMERAS]))
    };
    if let Err(first) = present() {
        install_packages(&DEBIAN_PACKAGES).unwrap_or_else(|error| {
            panic!(
                "this test needs the Debian packages {} and could not get them:\n{first}\n{error}",
                DEBIAN_PACKAGES.join(" ")
            )
        });
    }
    made_once(Path::new(PLACE), PACKAGE, |directory| {
        let mut install = Command::new("npm");
        install
            .args([
                "install",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--prefix",
            ])
            .arg(directory)
            .arg(PACKAGE);
        run(&mut install).unwrap_or_else(|error| {
            panic!("{PACKAGE} could not be installed; is the package index reachable?\n{error}")
        });
    })
}

fn start_cameras() -> (Process, u16) {
    let port = unused_address().port();
    let mut child = Command::new("/usr/bin/python3")
        .arg(source("python/rtsp_cams.py"))
        .args([port.to_string(), "2".to_owned()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("Python is installed");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("it is a pipe");
    let cameras = Process(child);
    let read = BufReader::new(stdout).read_line(&mut line);
    assert!(read.is_ok() && line == "ready\n", "the cameras: {line:?}");
    (cameras, port)
}

/// One node-media-server with a directory of its own.
struct MediaServer {
    package: PathBuf,
    directory: TempDir,
    http: u16,
    rtmp: u16,
    process: Option<Process>,
}

impl MediaServer {
    fn new(package: &Path) -> Self {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let (http, rtmp) = (unused_address().port(), unused_address().port());
        let place = |name: &str| directory.path().join(name);
        let user = json!({"username": "admin", "password": PASSWORD, "role": "admin"});
        let config = json!({
            "bind": "127.0.0.1", "notify": {"url": ""},
            "store": {"path": place("data"), "maxHistory": 100},
            "auth": {
                "play": false, "publish": false, "secret": "",
                "jwt": {
                    "secret": "0123456789abcdef0123456789abcdef", "expiresIn": "24h",
                    "algorithm": "HS256", "users": [user],
                },
            },
            "rtmp": {"port": rtmp}, "http": {"port": http}, "webadmin": {"enable": false},
            "record": {"auto": false, "path": place("record")},
        });
        fs::write(place("config.json"), config.to_string()).expect("a file");
        fs::write(place("password"), PASSWORD).expect("a file");
        let mut server = Self {
            package: package.to_owned(),
            directory,
            http,
            rtmp,
            process: None,
        };
        server.start();
        server
    }

    fn start(&mut self) {
        let child = Command::new("node")
            .arg("-r")
            .arg(source("node/guard.js"))
            .arg(
                self.package
                    .join("node_modules/node-media-server/bin/app.js"),
            )
            .arg("-c")
            .arg(self.directory.path().join("config.json"))
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(Process(child.expect("Node.js is installed")));
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], self.http));
        looking(
            "the media server answers",
            || {
                let mut client = Client::connect(address).ok()?;
                let answer = client.try_request("GET", "/api/v1/health", &[], b"").ok()?;
                (answer.status == 200).then_some(())
            },
            Option::is_some,
        );
    }

    fn bridge(&self, server: &TestServer, hostname: &str) -> Bridge {
        let text = |port: u16| format!("127.0.0.1:{port}");
        let password = self.directory.path().join("password");
        let (api, media) = (format!("http://{}", text(self.http)), text(self.rtmp));
        let weir = format!("http://{}", server.address());
        let more = ["--password-file", password.to_str().expect("UTF-8")];
        let mut bridge =
            Bridge::beside("node-media-server", &weir, (&api, &media), hostname, &more);
        bridge.start();
        bridge
    }
}

/// Calls that changed relays, of all bridges.
fn calls(bridges: &[Bridge]) -> usize {
    let verbs = ["add /", "change /", "remove /", "restart /"];
    let logs = bridges.iter().map(Bridge::log);
    logs.map(|log| {
        verbs
            .iter()
            .map(|verb| log.matches(verb).count())
            .sum::<usize>()
    })
    .sum()
}

/// The streams by their servers and whether they run with a picture.
fn view(server: &TestServer) -> Vec<(String, bool)> {
    let path = "/streams?limit=100&select=name,layout,stats";
    let list = server.get(path).expect(200).json();
    let streams = list["streams"].as_array().cloned().unwrap_or_default();
    let seen = streams.iter().map(|stream| {
        let stats = &stream["stats"];
        let width = &stats["media_info"]["tracks"][0]["width"];
        let runs = stats["status"] == "running" && *width == 160;
        let host = stream["layout"]["ingest"].as_str().unwrap_or_default();
        (host.to_owned(), runs)
    });
    seen.collect()
}

#[track_caller]
fn wait_for_pictures(server: &TestServer, what: &str, hosts: &[&str]) {
    looking(
        what,
        || view(server),
        |seen| {
            let is_there = |(host, runs): &(String, bool)| *runs && hosts.contains(&&**host);
            seen.len() == 12 && seen.iter().all(is_there)
        },
    );
}

/// Whether a player finds a picture.
fn plays(media: &MediaServer, native: &str) -> bool {
    let url = format!("http://127.0.0.1:{}{native}.flv", media.http);
    let probed = run(Command::new("ffprobe").args([
        "-v",
        "error",
        "-rw_timeout",
        "8000000",
        "-analyzeduration",
        "2000000",
        "-probesize",
        "40000",
        "-select_streams",
        "v:0",
        "-show_entries",
        "stream=width",
        "-of",
        "json",
        &url,
    ]));
    let text = probed.unwrap_or_default();
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    value["streams"][0]["width"] == 160
}

#[test]
fn real_servers_follow_and_survive_each_other() {
    let package = install();
    let (_cameras, port) = start_cameras();
    let mut server = TestServer::with(&["--layouter-enabled", "--streamer-dead-timeout", "5s"]);
    let hosts = ["n1", "n2", "n3"];
    save_streamers(&server, &hosts);
    let mut media: Vec<MediaServer> = hosts.iter().map(|_| MediaServer::new(&package)).collect();
    let pairs = media.iter().zip(hosts);
    let mut bridges: Vec<Bridge> = pairs
        .map(|(media, host)| media.bridge(&server, host))
        .collect();
    let url = |number: usize| format!("rtsp://127.0.0.1:{port}/c{}", number % 2 + 1);
    let names: Vec<String> = (0..12)
        .map(|number| match ODD_NAMES.get(number) {
            Some(name) => (*name).to_owned(),
            None => format!("s{number:02}"),
        })
        .collect();
    let save = |server: &TestServer, name: &str, body: Value| {
        let path = format!("/streams/{}", encode_segment(name));
        server.put(&path, body).expect(200);
    };
    for (number, name) in names.iter().enumerate() {
        save(&server, name, json!({"inputs": [{"url": url(number)}]}));
    }
    wait_for_pictures(&server, "all streams have pictures", &hosts);
    let own = server.get("/streams/s11").expect(200).json();
    let host = own["layout"]["ingest"].as_str().expect("placed").to_owned();
    let at = hosts
        .iter()
        .position(|known| *known == host)
        .expect("known");
    assert!(plays(&media[at], "/live/s11"), "a player sees it");

    // Weir and a bridge are killed: no relay is touched.
    let before = calls(&bridges);
    server.kill();
    bridges[0].kill();
    bridges[0].start();
    bridges[0].wait_for_log("no configuration from Weir", 1);
    server.start();
    wait_for_pictures(&server, "all streams have pictures again", &hosts);
    assert_eq!(calls(&bridges), before, "nothing was touched");
    // A title is no change for a relay; an input is one.
    save(&server, "s11", json!({"title": "T"}));
    save(&server, "s11", json!({"inputs": [{"url": url(0)}]}));
    looking("one change", || calls(&bridges), |count| *count > before);
    wait_for_pictures(&server, "the changed stream has a picture", &hosts);
    assert_eq!(calls(&bridges), before + 1);

    // A server dies: its streams run elsewhere, and it gets none twice when it returns.
    media[0].process = None;
    wait_for_pictures(&server, "all streams run on two servers", &hosts[1..]);
    media[0].start();
    bridges[0].wait_for_log("media server is up", 3);
    wait_for_pictures(&server, "all streams run after its return", &hosts);
}
