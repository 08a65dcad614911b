//! The server under test and the client that talks to it.
//!
//! A [`TestServer`] is the real program with a data directory of its own, listening on a port the system chose. It is ended by its handle when
//! it goes out of scope, and its log is shown if the test failed. The client is small on purpose and trusts nothing: it reads exactly
//! one answer per request, byte by byte as framed, so that a wrong length or an answer too many is noticed.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// The administrator's key of every test server.
pub const API_KEY: &str = "it-admin-key-0123456789";
/// The operator's login and password of every test server.
pub const EDIT_AUTH: &str = "operator:it-password";
/// Where the API is; the other prefix is [`STREAMER_PREFIX`].
pub const PREFIX: &str = "/central/api/v3";
pub const STREAMER_PREFIX: &str = "/streamer/api/v3";
/// How long a test waits for bytes before it fails. A guard against hanging, no expectation about speed.
const READ_GUARD: Duration = Duration::from_mins(2);

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

impl TestServer {
    /// A server on an empty data directory.
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// A server with further arguments.
    pub fn with(arguments: &[&str]) -> Self {
        Self::with_environment(arguments, &[])
    }

    /// A server whose only settings are in its configuration file, which is read anew at each start. Its key is the file's business.
    pub fn with_file(text: &str) -> Self {
        let mut server = Self::unstarted(&[], &[]);
        server.keys = false;
        fs::write(server.file_path(), text).expect("the file can be written");
        server.arguments = vec!["--config".into(), server.file_path().into()];
        server.start();
        server
    }

    /// A server that is given nothing at all.
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

    /// A server with further arguments and variables. Of this process's variables it sees only `PATH`.
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
        let mut child = Command::new(env!("CARGO_BIN_EXE_weir"))
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
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut first = String::new();
        stdout.read_line(&mut first).expect("stdout is text");
        // Kept before anything is judged: the process must end with this value whatever happens below.
        self.process = Some(Running { child, stdout });
        self.address = first
            .trim_end()
            .strip_prefix("listening on http://")
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("not a greeting: {first:?}"));
    }

    /// Asks the program to stop (TERM) and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
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

    /// Sends a signal by its name and does not wait.
    pub fn signal(&self, name: &str) {
        let running = self.process.as_ref().expect("the server is running");
        let sent = Command::new("sh")
            .args(["-c", "kill -s \"$0\" \"$1\"", name])
            .arg(running.child.id().to_string())
            .status()
            .expect("a shell can be started");
        assert!(sent.success(), "the signal {name} was not sent: {sent}");
    }

    /// Waits until the program has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let mut running = self.process.take().expect("the server is running");
        running.child.wait().expect("the process is ours")
    }

    /// The next line of the greeting on stdout.
    pub fn greeting_line(&mut self) -> String {
        let running = self.process.as_mut().expect("the server is running");
        let mut line = String::new();
        running.stdout.read_line(&mut line).expect("stdout is text");
        line.trim_end().to_owned()
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
        Client::new(self.address)
    }

    /// One request as an administrator, below the first prefix, on a connection of its own.
    pub fn call(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.call_with(method, path, &[], body)
    }

    /// The same with further header fields. A path that already has a prefix is left alone.
    pub fn call_with(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let bearer = format!("Bearer {API_KEY}");
        let mut all = vec![("Authorization", bearer.as_str())];
        all.extend_from_slice(fields);
        self.connect().request(method, &below(path), &all, body)
    }

    /// One request without credentials of its own.
    pub fn call_as(&self, method: &str, path: &str, authorization: Option<&str>) -> Answer {
        let fields: Vec<(&str, &str)> = authorization
            .iter()
            .map(|value| ("Authorization", *value))
            .collect();
        self.connect().request(method, &below(path), &fields, b"")
    }

    pub fn get(&self, path: &str) -> Answer {
        self.call("GET", path, b"")
    }

    #[allow(clippy::needless_pass_by_value)] // `put("/streams/a", json!({..}))` reads better without a `&`
    pub fn put(&self, path: &str, body: Value) -> Answer {
        self.call("PUT", path, body.to_string().as_bytes())
    }

    #[allow(clippy::needless_pass_by_value)] // as above
    pub fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, body.to_string().as_bytes())
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, b"")
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(mut running) = self.process.take() {
            // It may have ended by itself; waiting leaves no zombie either way.
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

/// Runs the program to its end with nothing but the given arguments and variables.
pub fn run(arguments: &[&str], environment: &[(&str, &str)], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weir"))
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

/// One connection.
pub struct Client {
    stream: TcpStream,
    /// Received and not yet part of an answer.
    received: RefCell<Vec<u8>>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts connections");
        stream
            .set_read_timeout(Some(READ_GUARD))
            .expect("a guard can be set");
        stream
            .set_nodelay(true)
            .expect("a socket option can be set");
        Self {
            stream,
            received: RefCell::default(),
        }
    }

    /// Sends one request and reads its answer. `path` is the whole target.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.send_request(method, path, fields, body);
        self.answer(method == "HEAD")
    }

    /// Sends a request and leaves its answer for later.
    pub fn send_request(&mut self, method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) {
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n").into_bytes();
        for (name, value) in fields {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if !body.is_empty() || matches!(method, "PUT" | "POST") {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        self.send(&bytes);
    }

    /// Sends bytes as they are. A server that has closed the connection meanwhile shows in its answer, not here.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Says that no more will be sent.
    pub fn shut_down_write(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// The next answer, interim ones (1xx) included.
    pub fn answer(&mut self, to_head: bool) -> Answer {
        let head_end = loop {
            if let Some(at) = find(&self.received.borrow(), b"\r\n\r\n") {
                break at;
            }
            assert!(
                self.receive(),
                "the connection ended inside a head: {:?}",
                String::from_utf8_lossy(&self.received.borrow())
            );
        };
        let head = String::from_utf8(self.take(head_end + 4)).expect("a head is text");
        let mut lines = head.trim_end().split("\r\n");
        let status_line = lines.next().expect("a head has a first line");
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|digits| digits.parse().ok())
            .unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
        let headers: Vec<(String, String)> = lines
            .map(|line| {
                let (name, value) = line.split_once(':').expect("a field has a colon");
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        let mut answer = Answer {
            status,
            headers,
            body: Vec::new(),
        };
        assert!(
            answer.header("transfer-encoding").is_none(),
            "answers carry their length: {answer:?}"
        );
        let empty = to_head || status < 200 || matches!(status, 204 | 304);
        if !empty {
            let length: usize = answer
                .header("content-length")
                .and_then(|length| length.parse().ok())
                .unwrap_or_else(|| panic!("an answer without its length: {answer:?}"));
            while self.received.borrow().len() < length {
                assert!(self.receive(), "the connection ended inside a body");
            }
            answer.body = self.take(length);
        }
        answer
    }

    /// The next line, once the connection carries lines; `None` when it has ended.
    pub fn line(&mut self) -> Option<String> {
        loop {
            let end = self
                .received
                .borrow()
                .iter()
                .position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let mut line = self.take(end + 1);
                line.pop();
                return Some(String::from_utf8(line).expect("a line is text"));
            }
            if !self.receive() {
                assert!(self.received.borrow().is_empty(), "ended inside a line");
                return None;
            }
        }
    }

    /// Whether the server ends the connection without saying anything more.
    pub fn is_ended(&mut self) -> bool {
        self.received.borrow().is_empty() && !self.receive()
    }

    fn receive(&self) -> bool {
        let mut part = [0; 16 * 1024];
        match (&self.stream).read(&mut part) {
            Ok(0) => false,
            Ok(length) => {
                self.received
                    .borrow_mut()
                    .extend_from_slice(&part[..length]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing was received: {error}"),
        }
    }

    fn take(&self, length: usize) -> Vec<u8> {
        self.received.borrow_mut().drain(..length).collect()
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// What the server said.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    /// As sent: still compressed if it was.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a field, if it came exactly once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(key, _)| key == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} came twice: {self:?}");
        value
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.plain()).expect("bodies are text")
    }

    /// The body without its content coding.
    pub fn plain(&self) -> Vec<u8> {
        match self.header("content-encoding") {
            None => self.body.clone(),
            Some("gzip") => {
                let mut plain = Vec::new();
                flate2::read::GzDecoder::new(self.body.as_slice())
                    .read_to_end(&mut plain)
                    .expect("the body is gzip");
                plain
            }
            Some("zstd") => zstd::decode_all(self.body.as_slice()).expect("the body is zstd"),
            Some(other) => panic!("nobody asked for {other}"),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.plain())
            .unwrap_or_else(|error| panic!("not JSON ({error}): {:?}", self.text()))
    }

    /// Fails unless the status is the given one; returns the answer for more.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(
            self.status,
            status,
            "expected {status}, got {}: {}",
            self.status,
            self.text()
        );
        self
    }

    /// `code pointer-or-parameter` of each error, in order. Checks the form that every error has.
    #[track_caller]
    pub fn errors(&self) -> Vec<String> {
        let body = self.json();
        let errors = body["errors"]
            .as_array()
            .unwrap_or_else(|| panic!("no errors: {body}"));
        assert!(!errors.is_empty(), "an error without errors");
        errors
            .iter()
            .map(|error| {
                assert_eq!(error["status"], self.status.to_string(), "{body}");
                assert!(error["title"].is_string(), "{body}");
                let code = error["code"].as_str().expect("a code is a string");
                let source = &error["source"];
                match (source["pointer"].as_str(), source["parameter"].as_str()) {
                    (Some(place), _) | (None, Some(place)) => format!("{code} {place}"),
                    (None, None) => code.to_owned(),
                }
            })
            .collect()
    }
}
