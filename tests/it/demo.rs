//! `weir demo`: a living cluster that leaves nothing behind.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use weir_testkit::sys::{self, Signal};
use weir_testkit::{WAIT_MAX, program, run, wait_until};

/// A demo with a temporary directory of its own; it is killed with this value.
struct RunningDemo {
    child: Child,
    base: String,
    key: String,
    scratch: tempfile::TempDir,
}

impl RunningDemo {
    fn start(flags: &[&str]) -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let mut child = Command::new(program("weir"))
            .args(["demo", "--listen", "127.0.0.1:0"])
            .args(flags)
            .env_clear()
            .env("TMPDIR", scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut text = String::new();
        for line in out.lines() {
            text.push_str(&line.expect("text"));
            text.push('\n');
            if text.contains("ctrl-C ends it") {
                break;
            }
        }
        let after = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {text}"))
                .to_owned()
        };
        let base = after("web interface: ").replace("/ui/", "");
        Self {
            key: after("API key: "),
            child,
            base,
            scratch,
        }
    }

    fn weir(&self, line: &str) -> (Option<i32>, String) {
        let arguments: Vec<&str> = line.split(' ').collect();
        let environment = [
            ("CENTRAL_API_URL", self.base.as_str()),
            ("CENTRAL_API_KEY", self.key.as_str()),
        ];
        let output = run(&arguments, &environment, self.scratch.path());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text)
    }

    fn status(&self) -> Value {
        let (_, text) = self.weir("status -o json");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Interrupts it, and returns what is left of its temporary directory.
    fn interrupt(&mut self) -> Vec<String> {
        sys::signal(self.child.id(), Signal::INT).expect("it runs");
        let has_ended = sys::wait_for_end(self.child.id(), WAIT_MAX).expect("a child");
        assert!(has_ended, "the demo runs {WAIT_MAX:?} after the interrupt");
        let status = self.child.wait().expect("it has ended");
        assert_eq!(status.code(), Some(0));
        files(self.scratch.path())
    }
}

impl Drop for RunningDemo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

#[test]
fn demo_shows_a_living_cluster_and_leaves_nothing() {
    let mut demo = RunningDemo::start(&["--streams", "120", "--streamers", "4"]);
    let status = wait_until(
        "all streams to run",
        || demo.status(),
        |status| status["streams"]["operational"] == 117 && status["ok"] == true,
    );
    assert_eq!(status["streams"]["disabled"], 3, "{status}");
    let (exit, streamers) = demo.weir("get streamers -o name");
    assert_eq!((exit, streamers.lines().count()), (Some(0), 4));
    assert_eq!(demo.interrupt(), Vec::<String>::new());
}

#[test]
fn streamer_of_the_demo_fails_and_returns() {
    let mut demo = RunningDemo::start(&["--streams", "20", "--outage", "40s"]);
    // The states of the one that fails, newest first.
    let states = |demo: &RunningDemo| -> Vec<String> {
        let line = "events --kind layouter_streamer_state --entity edge-12.demo -o jsonl";
        let (_, text) = demo.weir(line);
        let events = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let state = |event: Value| event["state"].as_str().map(str::to_owned);
        events.filter_map(state).collect()
    };
    wait_until(
        "the loss and the return",
        || states(&demo),
        |states| {
            let down = states.iter().rposition(|state| state == "down");
            down.is_some_and(|down| states[..down].iter().any(|state| state == "up"))
        },
    );
    assert_eq!(demo.interrupt(), Vec::<String>::new());
}

#[test]
fn server_of_a_killed_demo_ends() {
    let mut demo = RunningDemo::start(&["--streams", "5"]);
    let address: SocketAddr = demo
        .base
        .replace("http://", "")
        .parse()
        .expect("an address");
    demo.child.kill().expect("it runs");
    demo.child.wait().expect("a child");
    wait_until(
        "the end of the server",
        || {
            // A request blocks until it is answered or refused.
            let output = demo.weir("healthcheck");
            (output.0, TcpStream::connect(address).is_err())
        },
        |(_, is_gone)| *is_gone,
    );
}

#[test]
fn address_in_use_ends_the_demo_with_its_reason() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let temporary = scratch.path().to_str().expect("text");
    let output = run(
        &["demo", "--listen", &address],
        &[("TMPDIR", temporary)],
        scratch.path(),
    );
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains(&address), "{error}");
    assert_eq!(files(scratch.path()), Vec::<String>::new());
}
