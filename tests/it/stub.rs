//! A server that the program under test calls: it answers as the test decides and hands over the
//! calls.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use weir_testkit::WAIT_MAX;

/// The behaviour of a stub.
#[derive(Clone)]
pub enum StubResponse {
    /// Status, further fields (each with its line end) and body.
    Answer(u16, String, String),
    /// The connection is held open.
    Silence,
    /// The call waits, until [`Stub::respond_with`] sets another response.
    Hold,
    /// The connection is closed.
    Close,
}

impl StubResponse {
    pub fn status(status: u16) -> Self {
        Self::Answer(status, String::new(), String::new())
    }

    pub fn with(status: u16, fields: &str, body: &str) -> Self {
        Self::Answer(status, fields.to_owned(), body.to_owned())
    }
}

/// One parsed request.
#[derive(Debug)]
pub struct Call {
    pub path: String,
    pub query: BTreeMap<String, String>,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// A server on a port of its own.
pub struct Stub {
    address: SocketAddr,
    response: Arc<Current>,
    calls: Receiver<Call>,
}

/// The current response of a stub.
struct Current {
    response: Mutex<StubResponse>,
    changed: Condvar,
}

impl Current {
    fn set(&self, response: StubResponse) {
        *self.response.lock().expect("no thread panics here") = response;
        self.changed.notify_all();
    }

    fn get(&self) -> StubResponse {
        self.response.lock().expect("no thread panics here").clone()
    }

    /// Waits for a response other than [`StubResponse::Hold`].
    fn wait(&self) -> StubResponse {
        let response = self.response.lock().expect("no thread panics here");
        let is_held = |response: &mut StubResponse| matches!(response, StubResponse::Hold);
        let waited = self.changed.wait_while(response, is_held);
        waited.expect("no thread panics here").clone()
    }
}

impl Stub {
    pub fn new(response: StubResponse) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let response = Arc::new(Current {
            response: Mutex::new(response),
            changed: Condvar::new(),
        });
        let (sender, calls) = channel();
        let shared = response.clone();
        thread::spawn(move || {
            for socket in listener.incoming() {
                let (Ok(socket), shared, sender) = (socket, shared.clone(), sender.clone()) else {
                    return;
                };
                thread::spawn(move || serve(socket, &shared, &sender));
            }
        });
        Self {
            address,
            response,
            calls,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From the next call on, and to the calls that are held.
    pub fn respond_with(&self, response: StubResponse) {
        self.response.set(response);
    }

    /// The next call that was not read yet.
    pub fn call(&self) -> Call {
        self.calls
            .recv_timeout(WAIT_MAX)
            .expect("no call of the stub came")
    }

    /// The number of calls that were not read yet.
    pub fn calls(&self) -> usize {
        self.calls.try_iter().count()
    }
}

fn serve(socket: TcpStream, shared: &Current, calls: &Sender<Call>) {
    let mut lines = BufReader::new(socket.try_clone().expect("a descriptor"));
    let mut socket = socket;
    while let Some(call) = read(&mut lines) {
        let mut response = shared.get();
        // The test may be over.
        if calls.send(call).is_err() {
            return;
        }
        if matches!(response, StubResponse::Hold) {
            response = shared.wait();
        }
        match response {
            StubResponse::Answer(status, fields, body) => {
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status} Stub\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
                );
                if socket.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
            // The next read waits until the other side gives up.
            StubResponse::Silence | StubResponse::Hold => {}
            StubResponse::Close => return,
        }
    }
}

fn read(lines: &mut impl BufRead) -> Option<Call> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        head.push(line.to_owned());
    }
    let target = head.first()?.split(' ').nth(1)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let decoded = |text: &str| {
        percent_encoding::percent_decode_str(text)
            .decode_utf8_lossy()
            .into_owned()
    };
    let headers: BTreeMap<String, String> = head[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").map_or("0", String::as_str);
    let mut body = vec![0; length.parse().ok()?];
    lines.read_exact(&mut body).ok()?;
    Some(Call {
        path: path.to_owned(),
        query: pairs
            .map(|(name, value)| (name.to_owned(), decoded(value)))
            .collect(),
        headers,
        body,
    })
}
