//! Real media servers for the tests of the bridge: node-media-server, as processes on loopback that
//! end with their handles.

use std::collections::BTreeMap;
use std::fs::{self, File};

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::{io, thread};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bridges::looking;
use crate::cameras::fixed_port;
use crate::node;
use weir_testkit::{Client, Signal, sys};

pub const USER: &str = "admin";
pub const PASSWORD: &str = "it-media-password";

/// A process that ends with this value.
struct Part {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Part {
    fn new(name: &str, mut command: Command, directory: &Path) -> Self {
        let log = directory.join("log");
        let file = File::options().create(true).append(true).open(&log);
        let file = file.expect("a log");
        let output = file.try_clone().expect("a descriptor");
        let child = command
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log,
        }
    }

    fn signal(&self, signal: Signal) {
        sys::signal(self.child.id(), signal).expect("the process is ours");
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(15)..];
            eprintln!("--- the log of {} ---\n{}", self.name, last.join("\n"));
        }
    }
}

/// A node-media-server with a store of its own.
pub struct NodeMedia {
    pub name: String,
    http: u16,
    rtmp: u16,
    /// Before its directory: its end reads the log there.
    part: Option<Part>,
    directory: TempDir,
    token: Option<String>,
}

impl NodeMedia {
    /// Started; its hook is at `hook`.
    pub fn new(name: &str, hook: &str) -> Self {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let at = |file: &str| directory.path().join(file);
        let (http, rtmp) = (fixed_port(), fixed_port());
        let config = json!({
            "bind": "127.0.0.1",
            "notify": {"url": hook},
            "store": {"path": at("data"), "maxHistory": 100},
            "auth": {
                "play": false, "publish": false, "secret": "",
                "jwt": {
                    "secret": "it-secret-0123456789-0123456789-0123", "expiresIn": "24h",
                    "algorithm": "HS256",
                    "users": [{"username": USER, "password": PASSWORD, "role": "admin"}],
                },
            },
            "rtmp": {"port": rtmp},
            "http": {"port": http},
            "webadmin": {"enable": false},
            "record": {"auto": false, "path": at("record")},
        });
        fs::write(at("config.json"), config.to_string()).expect("a file");
        fs::write(at("password"), PASSWORD).expect("a file");
        let mut server = Self {
            name: name.to_owned(),
            directory,
            http,
            rtmp,
            part: None,
            token: None,
        };
        server.start();
        server
    }

    pub fn start(&mut self) {
        let mut command = Command::new("node");
        let program = "node_modules/node-media-server/bin/app.js";
        command.arg(node::packages().join(program));
        command.args(["-c", "config.json"]);
        self.part = Some(Part::new(&self.name, command, self.directory.path()));
        let address = self.address();
        looking(
            &format!("{} listens", self.name),
            || TcpStream::connect(address).is_ok(),
            |listens| *listens,
        );
        self.token = None;
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        assert!(self.part.take().is_some(), "{} runs", self.name);
    }

    pub fn signal(&self, signal: Signal) {
        self.part.as_ref().expect("it runs").signal(signal);
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.http))
    }

    pub fn api(&self) -> String {
        format!("http://{}", self.address())
    }

    pub fn media(&self) -> String {
        format!("127.0.0.1:{}", self.rtmp)
    }

    pub fn password_file(&self) -> PathBuf {
        self.directory.path().join("password")
    }

    /// The ids of the streams that have pictures, by their paths. A stream that was started again
    /// has another id.
    pub fn pictures(&mut self) -> BTreeMap<String, String> {
        if self.token.is_none() {
            let login = json!({"username": USER, "password": PASSWORD});
            let fields = [("Content-Type", "application/json")];
            let answer = Client::new(self.address()).request(
                "POST",
                "/api/v1/login",
                &fields,
                login.to_string().as_bytes(),
            );
            let token = answer.expect(200).json()["data"]["token"].clone();
            self.token = Some(format!("Bearer {}", token.as_str().expect("a token")));
        }
        let token = self.token.clone().expect("made above");
        let fields = [("Authorization", token.as_str())];
        let answer = Client::new(self.address()).request("GET", "/api/v1/streams", &fields, b"");
        let streams = answer.expect(200).json()["data"]["streams"].take();
        let streams = streams.as_array().expect("a list").iter();
        let shown = streams.filter(|stream| stream["publisher"]["videoWidth"] == 160);
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let shown = shown.map(|stream| (text(&stream["key"]), text(&stream["publisher"]["id"])));
        shown.collect()
    }
}

/// A port that leads to a server which gets another address with each start.
pub struct Relay {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
}

impl Relay {
    pub fn new(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", fixed_port())).expect("the port is free");
        let address = listener.local_addr().expect("it is bound");
        let target = Arc::new(Mutex::new(target));
        let current = target.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let target = *current.lock().expect("no thread panics here");
                // Without a server the client finds its connection closed.
                if let Ok(server) = TcpStream::connect(target) {
                    join(client, server);
                }
            }
        });
        Self { address, target }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn lead_to(&self, target: SocketAddr) {
        *self.target.lock().expect("no thread panics here") = target;
    }
}

/// Copies in both directions, until either end closes.
fn join(client: TcpStream, server: TcpStream) {
    let copies = |from: &TcpStream, to: &TcpStream| {
        let from = from.try_clone().expect("a descriptor");
        let to = to.try_clone().expect("a descriptor");
        thread::spawn(move || {
            // An end of either side ends both.
            let _ = io::copy(&mut &from, &mut &to);
            let _ = from.shutdown(std::net::Shutdown::Both);
            let _ = to.shutdown(std::net::Shutdown::Both);
        })
    };
    copies(&client, &server);
    copies(&server, &client);
}
