//! The server under test.
//!
//! A [`TestServer`] is the real program with a data directory of its own, listening on a port that
//! the system chose. It ends with its handle, and the end of its log is shown if the test failed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::client::Client;
use crate::response::Response;
use crate::sys::{self, Signal};
use crate::wait::WAIT_MAX;

/// The administrator's key of every test server.
pub const API_KEY: &str = "it-admin-key-0123456789";
/// The operator's login and password of every test server.
pub const EDIT_AUTH: &str = "operator:it-password";
/// Where the API is; the other prefix is [`STREAMER_PREFIX`].
pub const PREFIX: &str = "/central/api/v3";
pub const STREAMER_PREFIX: &str = "/streamer/api/v3";

/// A program of this workspace: Cargo names it to the package's own tests; for others it is beside
/// their directory.
pub fn program(name: &str) -> PathBuf {
    std::env::var_os(format!("CARGO_BIN_EXE_{name}")).map_or_else(
        || {
            let own = std::env::current_exe().expect("a process has a program");
            let directory = own.parent().expect("a program is in a directory");
            // target/debug/deps/it-0123 and target/debug/compare -> target/debug/weir
            let is_test = directory.ends_with("deps");
            let directory = if is_test {
                directory.parent()
            } else {
                Some(directory)
            };
            directory.expect("a test is in a directory").join(name)
        },
        PathBuf::from,
    )
}

/// One running program and what it needs to be started again.
pub struct TestServer {
    process: Option<Running>,
    address: SocketAddr,
    directory: TempDir,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    /// The administrator's credentials are given on the command line.
    keys: bool,
}

struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    /// The next line of stdout, without its end; empty once stdout is closed.
    fn line(&mut self) -> String {
        if self.stdout.buffer().is_empty() {
            let pipe = self.stdout.get_ref();
            let is_ready = sys::wait_readable(pipe, WAIT_MAX).expect("the pipe is open");
            assert!(is_ready, "nothing on stdout within {WAIT_MAX:?}");
        }
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("stdout is text");
        line.trim_end().to_owned()
    }
}

impl Default for TestServer {
    fn default() -> Self {
        Self::new()
    }
}

impl TestServer {
    /// A server on an empty data directory.
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// A server with further arguments.
    pub fn with(arguments: &[&str]) -> Self {
        Self::with_environment(arguments, &[])
    }

    /// A server whose only settings are in its configuration file, which it reads at each start.
    pub fn with_file(text: &str) -> Self {
        let mut server = Self::unstarted(&[], &[]);
        server.keys = false;
        fs::write(server.file_path(), text).expect("the file can be written");
        server.arguments = vec!["--config".into(), server.file_path().into()];
        server.start();
        server
    }

    /// A server without any setting.
    pub fn bare() -> Self {
        let mut server = Self::unstarted(&[], &[]);
        server.keys = false;
        server.start();
        server
    }

    /// The file of [`TestServer::with_file`].
    pub fn file_path(&self) -> PathBuf {
        self.directory.path().join("weir.toml")
    }

    /// A server with further arguments and variables. Of this process's variables it sees only
    /// `PATH`.
    pub fn with_environment(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut server = Self::unstarted(arguments, environment);
        server.start();
        server
    }

    /// A server on a data directory that `prepare` filled before its first start.
    pub fn on(prepare: impl FnOnce(&Path), arguments: &[&str]) -> Self {
        let mut server = Self::unstarted(arguments, &[]);
        let directory = server.data_dir();
        fs::create_dir_all(&directory).expect("the data directory can be made");
        prepare(&directory);
        server.start();
        server
    }

    fn unstarted(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self {
            process: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            directory: tempfile::tempdir().expect("a scratch directory can be made"),
            arguments: arguments.iter().map(OsString::from).collect(),
            environment: environment
                .iter()
                .map(|(name, value)| (OsString::from(name), OsString::from(value)))
                .collect(),
            keys: true,
        }
    }

    /// Starts the program on the same directory, as often as it was ended.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "the server is running already");
        fs::create_dir_all(self.data_dir()).expect("the data directory can be made");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("the log can be opened");
        let mut child = Command::new(program("weir"))
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(self.environment.iter().cloned())
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--listen", "127.0.0.1:0"])
            .args(
                ["--api-key", API_KEY, "--edit-auth", EDIT_AUTH]
                    .iter()
                    .take(if self.keys { 4 } else { 0 }),
            )
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the program can be started");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        // Stored first: the process must end with this value whatever happens below.
        let running = self.process.insert(Running { child, stdout });
        let first = running.line();
        self.address = first
            .strip_prefix("listening on http://")
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("not a greeting: {first:?}"));
    }

    /// Stops the program (TERM) and waits for its end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Ends the program at once, as a power cut of the process would.
    pub fn kill(&mut self) {
        let running = self.process.as_mut().expect("the server is running");
        running.child.kill().expect("the process is ours");
        self.wait();
    }

    /// Stops in order and starts again.
    pub fn restart(&mut self) {
        let status = self.terminate();
        assert!(status.success(), "the server ended with {status}");
        self.start();
    }

    /// Sends a signal and does not wait.
    pub fn signal(&self, signal: Signal) {
        sys::signal(self.id(), signal).expect("the process is ours");
    }

    /// Waits for the end of the program without a signal.
    pub fn wait(&mut self) -> ExitStatus {
        let mut running = self.process.take().expect("the server is running");
        let has_ended = sys::wait_for_end(running.child.id(), WAIT_MAX);
        assert!(
            has_ended.expect("the process is ours"),
            "not within {WAIT_MAX:?}: the server ends; last seen: it runs"
        );
        running.child.wait().expect("the process is ours")
    }

    /// The next line of the greeting on stdout.
    pub fn greeting_line(&mut self) -> String {
        let running = self.process.as_mut().expect("the server is running");
        running.line()
    }

    pub fn id(&self) -> u32 {
        self.process
            .as_ref()
            .expect("the server is running")
            .child
            .id()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("stderr")
    }

    /// Everything the program wrote to stderr so far, over all its starts.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// A new connection.
    pub fn connect(&self) -> Client {
        Client::new(self.address).checked()
    }

    /// One request as an administrator, below the first prefix, on a connection of its own.
    pub fn call(&self, method: &str, path: &str, body: &[u8]) -> Response {
        self.call_with(method, path, &[], body)
    }

    /// A request with further header fields. A path that already has a prefix is unchanged.
    pub fn call_with(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let bearer = format!("Bearer {API_KEY}");
        let mut all = vec![("Authorization", bearer.as_str())];
        all.extend_from_slice(fields);
        self.connect().request(method, &below(path), &all, body)
    }

    /// One request without credentials of its own, of another client each time: behind a proxy on
    /// this machine, so that limits per client do not add up.
    pub fn call_as(&self, method: &str, path: &str, authorization: Option<&str>) -> Response {
        let client = new_client_address();
        let mut fields = vec![("X-Real-IP", client.as_str())];
        fields.extend(authorization.map(|value| ("Authorization", value)));
        self.connect().request(method, &below(path), &fields, b"")
    }

    pub fn get(&self, path: &str) -> Response {
        self.call("GET", path, b"")
    }

    pub fn put(&self, path: &str, body: Value) -> Response {
        self.call("PUT", path, body.to_string().as_bytes())
    }

    pub fn post(&self, path: &str, body: Value) -> Response {
        self.call("POST", path, body.to_string().as_bytes())
    }

    pub fn delete(&self, path: &str) -> Response {
        self.call("DELETE", path, b"")
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(mut running) = self.process.take() {
            // The program may have ended already; waiting leaves no zombie either way.
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- the end of the server's log ---\n{}", last.join("\n"));
        }
    }
}

/// An address of a client that no request has had before, for `X-Real-IP`.
pub fn new_client_address() -> String {
    static CLIENTS: AtomicU32 = AtomicU32::new(1);
    let number = CLIENTS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(10, number[1], number[2], number[3]).to_string()
}

/// Runs the program to its end with nothing but the given arguments and variables.
pub fn run(arguments: &[&str], environment: &[(&str, &str)], directory: &Path) -> Output {
    Command::new(program("weir"))
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .envs(environment.iter().copied())
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("the program can be started")
}

fn below(path: &str) -> String {
    if path.starts_with(PREFIX) || path.starts_with(STREAMER_PREFIX) {
        path.to_owned()
    } else {
        format!("{PREFIX}{path}")
    }
}
