//! `weir bridge` as a process beside a fake media server, for the tests of the bridge.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use weir_testkit::fake::{FakeKind, FakeServer};
use weir_testkit::{Signal, TestServer, encode_segment, program, run, sys, wait_until};

/// A look at something that has no news of its own blocks for this long.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One bridge and what it needs to be started again.
pub struct Bridge {
    child: Option<Child>,
    directory: TempDir,
    arguments: Vec<String>,
}

impl Bridge {
    /// The bridge of streamer `hostname`, whose cluster key is `key-HOSTNAME`, not started.
    pub fn unstarted<K: FakeKind>(
        kind: &str,
        weir: &str,
        fake: &FakeServer<K>,
        hostname: &str,
        more: &[&str],
    ) -> Self {
        Self::beside(kind, weir, (&fake.url(), &fake.media()), hostname, more)
    }

    /// The same for a server with this URL of its API and this address of its media.
    pub fn beside(
        kind: &str,
        weir: &str,
        (api, media): (&str, &str),
        hostname: &str,
        more: &[&str],
    ) -> Self {
        let directory = tempfile::tempdir().expect("a scratch directory can be made");
        let key = directory.path().join("cluster_key");
        fs::write(&key, format!("key-{hostname}\n")).expect("a file");
        let state = directory.path().join("state");
        let text = |path: PathBuf| path.to_str().expect("UTF-8").to_owned();
        let mut arguments: Vec<String> = ["--kind", kind, "--api", api, "--media", media]
            .iter()
            .chain(&["--central", weir, "--hostname", hostname])
            .map(|word| (*word).to_owned())
            .collect();
        arguments.extend(["--state-dir".to_owned(), text(state)]);
        if !more.contains(&"--join-token-file") {
            arguments.extend(["--cluster-key-file".to_owned(), text(key)]);
        }
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        Self {
            child: None,
            directory,
            arguments,
        }
    }

    pub fn new<K: FakeKind>(
        kind: &str,
        server: &TestServer,
        fake: &FakeServer<K>,
        hostname: &str,
        more: &[&str],
    ) -> Self {
        let weir = format!("http://{}", server.address());
        let mut bridge = Self::unstarted(kind, &weir, fake, hostname, more);
        bridge.start();
        bridge
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none(), "the bridge is running already");
        let mut options = fs::File::options();
        let log = options.create(true).append(true).open(self.log_path());
        let log = log.expect("a log");
        let child = Command::new(program("weir"))
            .env_clear()
            .arg("bridge")
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("the program can be started"));
    }

    /// Runs the bridge to its end with further arguments: exit code and stdout.
    pub fn run(&self, before: &[&str], after: &[&str]) -> (Option<i32>, String) {
        let own = self.arguments.iter().map(String::as_str);
        let arguments = ["bridge"].iter().chain(before).copied().chain(own);
        let arguments: Vec<&str> = arguments.chain(after.iter().copied()).collect();
        let output = run(&arguments, &[], self.directory.path());
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed).into_owned();
        (output.status.code(), printed)
    }

    /// Ends the bridge at once, as a power cut would.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the bridge is running");
        child.kill().expect("the process is ours");
        child.wait().expect("the process is ours");
    }

    /// Ends the bridge in order.
    pub fn terminate(&mut self) {
        let mut child = self.child.take().expect("the bridge is running");
        sys::signal(child.id(), Signal::TERM).expect("the process is ours");
        let status = child.wait().expect("the process is ours");
        assert!(status.success(), "the bridge ended with {status}");
    }

    pub fn state_path(&self, hostname: &str) -> PathBuf {
        let name = format!("{hostname}.bridge");
        self.directory.path().join("state").join(name)
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Waits until the log has the text so many times.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str, times: usize) {
        let count = |log: &String| log.matches(text).count() >= times;
        looking(&format!("the log has {text:?}"), || self.log(), count);
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            eprintln!("--- the log of the bridge ---\n{}", self.log());
        }
    }
}

/// [`wait_until`] for looks that return at once.
#[track_caller]
pub fn looking<T: std::fmt::Debug>(
    what: &str,
    mut look: impl FnMut() -> T,
    reached: impl Fn(&T) -> bool,
) -> T {
    let look = || {
        thread::park_timeout(LOOK_EVERY);
        look()
    };
    wait_until(what, look, reached)
}

/// Saves streamers with the keys `key-HOSTNAME`.
pub fn save_streamers(server: &TestServer, hostnames: &[&str]) {
    for hostname in hostnames {
        let key = format!("key-{hostname}");
        let body = json!({"role": "streamer", "cluster_key": key});
        server
            .put(&format!("/streamers/{hostname}"), body)
            .expect(200);
    }
}

/// Saves a stream that runs on the streamer.
pub fn save_stream(server: &TestServer, hostname: &str, name: &str, url: &str) {
    let body = json!({"inputs": [{"url": url}], "layout": {"ingest": hostname}});
    let path = format!("/streams/{}", encode_segment(name));
    server.put(&path, body).expect(200);
}

/// The reported stats of a stream.
pub fn stats_of(server: &TestServer, name: &str) -> Value {
    let path = format!("/streams/{}", encode_segment(name));
    server.get(&path).expect(200).json()["stats"].take()
}
