//! What listens: players are redirected to the media server, whose questions about viewers are
//! answered.
//!
//! A few threads, one request per connection, every read bounded in size and time. Verdicts are
//! kept as long as Weir allows; without an answer from Weir, the last verdict of the session holds,
//! else the default.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use sha1::{Digest as _, Sha1};
use tracing::{info, warn};

use super::central::Central;
use super::kind::{HookQuestion, ServerRules};
use super::shared::BridgeShared;
use crate::client::escape;

/// Threads that answer.
pub const FRONT_THREADS: usize = 3;
const HEAD_BYTES_MAX: usize = 8 << 10;
const BODY_BYTES_MAX: usize = 64 << 10;
const FIELDS_MAX: usize = 64;
/// Longest time for a whole request, and for one read of it.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// Longest time for sending the answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Longest wait for what a client sends after its request was refused, and how often.
const DRAINED_WITHIN: Duration = Duration::from_millis(200);
const DRAINED_READS_MAX: usize = 64;
/// Verdicts that are kept.
const VERDICTS_MAX: usize = 10_000;
/// How long a verdict is kept for the time without Weir.
const REMEMBERED_FOR: Duration = Duration::from_hours(1);
/// How long a verdict is used if Weir does not state a time.
const USED_FOR: Duration = Duration::from_mins(1);

pub struct Front {
    pub shared: Arc<BridgeShared>,
    pub central: Arc<Central>,
    pub rules: Arc<dyn ServerRules>,
    pub key: String,
    pub hostname: Box<str>,
    /// The verdict while Weir does not answer and the session is new.
    pub allows_by_default: bool,
    pub verdicts: Mutex<BTreeMap<SessionId, SessionVerdict>>,
    pub names: Mutex<(u64, Arc<NativeNames>)>,
}

/// Names of streams by their names on the server.
type NativeNames = BTreeMap<Box<str>, Box<str>>;

/// A digest of what identifies a session.
type SessionId = [u8; 16];

#[derive(Debug, Clone, Copy)]
pub struct SessionVerdict {
    allows: bool,
    decided_at: Instant,
    used_for: Duration,
}

/// A request that arrived whole.
struct FrontRequest {
    method: String,
    path: String,
    query: String,
    body: Vec<u8>,
}

struct FrontAnswer {
    status: u16,
    location: Option<String>,
    body: &'static str,
}

impl FrontAnswer {
    fn of(status: u16) -> Self {
        Self {
            status,
            location: None,
            body: "",
        }
    }
}

impl Front {
    /// Answers connections; several threads do.
    pub fn run(&self, listener: &TcpListener) {
        while !self.shared.is_stopping() {
            match listener.accept() {
                Ok((socket, _)) => self.serve(&socket),
                // Too many open files, or a client that left at once.
                Err(_) => self.shared.pause(Duration::from_millis(100)),
            }
        }
    }

    fn serve(&self, socket: &TcpStream) {
        let request = read(socket);
        let answer = match &request {
            Ok(request) => self.answer(request),
            Err(status) => FrontAnswer::of(*status),
        };
        // The client may have gone.
        if write(socket, &answer).is_ok() && request.is_err() {
            drain(socket);
        }
    }

    fn answer(&self, request: &FrontRequest) -> FrontAnswer {
        match &*request.method {
            "GET" | "HEAD" => self.redirect(&request.path, &request.query),
            "POST" => self.decide(&request.body),
            _ => FrontAnswer::of(405),
        }
    }

    // ---- players ------------------------------------------------------------------------------

    /// `/NAME/SUFFIX` is played where this kind of server plays it. Weir redirects players with the
    /// name of the stream on the server if it knows the kind.
    fn redirect(&self, path: &str, query: &str) -> FrontAnswer {
        let path = path.trim_start_matches('/');
        let Some((name, suffix)) = path.rsplit_once('/') else {
            return FrontAnswer::of(404);
        };
        let Ok(name) = percent_decode_str(name).decode_utf8() else {
            return FrontAnswer::of(404);
        };
        let Some(native) = self.native(&name) else {
            return FrontAnswer::of(404);
        };
        let url = self.rules.play(&native, suffix, query);
        match url.filter(|url| url.bytes().all(|byte| byte.is_ascii_graphic())) {
            Some(url) => FrontAnswer {
                status: 302,
                location: Some(url),
                body: "",
            },
            None => FrontAnswer::of(404),
        }
    }

    /// The name on the server of a stream of the list, by either of its names. A text that names
    /// two streams names none.
    fn native(&self, text: &str) -> Option<Box<str>> {
        let names = self.names();
        let spellings = [
            self.rules.native(text),
            text.into(),
            format!("/{text}").into(),
        ];
        let mut found: Vec<Box<str>> = Vec::new();
        for (i, native) in spellings.into_iter().enumerate() {
            let is_listed = names.get(&native);
            let is_listed = is_listed.is_some_and(|name| i > 0 || **name == *text);
            if is_listed && !found.contains(&native) {
                found.push(native);
            }
        }
        found.pop().filter(|_| found.is_empty())
    }

    // ---- the hook -----------------------------------------------------------------------------

    fn decide(&self, body: &[u8]) -> FrontAnswer {
        let question = match self.rules.hook(body) {
            Ok(Some(question)) => question,
            Ok(None) => return self.verdict_answer(true, None),
            Err(_) => return FrontAnswer::of(400),
        };
        let allows = self.may_play(&question);
        self.verdict_answer(allows, Some(&question))
    }

    fn verdict_answer(&self, allows: bool, question: Option<&HookQuestion>) -> FrontAnswer {
        let challenges = question.is_some_and(|it| self.rules.hook_challenges(it));
        FrontAnswer {
            status: match (allows, challenges) {
                (true, _) => 200,
                (false, true) => 401,
                (false, false) => 403,
            },
            location: None,
            body: self.rules.hook_body(allows),
        }
    }

    fn may_play(&self, question: &HookQuestion) -> bool {
        let Some(name) = self.names().get(&question.native).cloned() else {
            return false;
        };
        let id = session_id(question);
        let now = Instant::now();
        let last = self.verdicts.lock().get(&id).copied();
        if let Some(last) = last.filter(|it| now.duration_since(it.decided_at) < it.used_for) {
            return last.allows;
        }
        let answer = self
            .central
            .may_play(&self.key, &auth_query(&name, question, id));
        let (allows, seconds) = match &answer {
            Ok(answer) if matches!(answer.status, 200 | 403) => {
                let seconds = answer.header("x-authduration");
                let seconds = seconds.and_then(|text| text.parse().ok());
                (answer.status == 200, seconds)
            }
            other => {
                let status = other.as_ref().map_or(0, |answer| answer.status);
                warn!(hostname = &*self.hostname, status, "no verdict from Weir");
                return last.map_or(self.allows_by_default, |last| last.allows);
            }
        };
        let verdict = SessionVerdict {
            allows,
            decided_at: now,
            used_for: seconds.map_or(USED_FOR, Duration::from_secs),
        };
        self.remember(id, verdict, now);
        allows
    }

    fn remember(&self, id: SessionId, verdict: SessionVerdict, now: Instant) {
        let mut verdicts = self.verdicts.lock();
        if verdicts.len() >= VERDICTS_MAX {
            verdicts.retain(|_, it| now.duration_since(it.decided_at) < it.used_for);
        }
        if verdicts.len() >= VERDICTS_MAX {
            // All are in use: one makes room, whichever comes first.
            verdicts.pop_first();
        }
        let used_for = verdict.used_for.min(REMEMBERED_FOR);
        verdicts.insert(
            id,
            SessionVerdict {
                used_for,
                ..verdict
            },
        );
    }

    /// The names of the current list.
    fn names(&self) -> Arc<NativeNames> {
        let news = self.shared.news();
        let mut names = self.names.lock();
        if names.0 != news.serial {
            let wanted = news.wanted.iter().flat_map(|wanted| wanted.keys());
            let index = wanted.map(|name| (self.rules.native(name), name.clone()));
            *names = (news.serial, Arc::new(index.collect()));
        }
        names.1.clone()
    }
}

/// One session of one viewer.
fn session_id(question: &HookQuestion) -> SessionId {
    let parts = [
        &question.native,
        &question.ip,
        &question.session,
        &question.token,
        &question.protocol,
    ];
    let mut hash = Sha1::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let mut id = [0; 16];
    id.copy_from_slice(&hash.finalize()[..16]);
    id
}

/// The parameters of Weir's question.
fn auth_query(name: &str, question: &HookQuestion, id: SessionId) -> String {
    let id = uuid::Builder::from_sha1_bytes(id).into_uuid().to_string();
    let pairs = [
        ("name", name),
        ("proto", &question.protocol),
        ("ip", &question.ip),
        ("request_type", "new_session"),
        ("request_number", "0"),
        ("session_id", &id),
        ("stream_clients", "0"),
        ("total_clients", "0"),
        ("token", &question.token),
        ("qs", &question.query),
    ];
    let pairs = pairs.map(|(name, value)| format!("{name}={}", escape(value)));
    pairs.join("&")
}

// ---- requests ----------------------------------------------------------------------------------

/// Reads a request; the status if it is none.
fn read(mut socket: &TcpStream) -> Result<FrontRequest, u16> {
    let deadline = Instant::now() + REQUEST_WITHIN;
    let mut bytes = Vec::new();
    let mut head: Option<(FrontRequest, usize, usize)> = None;
    loop {
        if head.is_none() {
            head = parse(&bytes)?;
        }
        match &mut head {
            Some((request, begin, length)) if bytes.len() >= *begin + *length => {
                request.body = bytes[*begin..*begin + *length].to_vec();
                break;
            }
            None if bytes.len() > HEAD_BYTES_MAX => return Err(431),
            _ => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || socket.set_read_timeout(Some(left)).is_err() {
            return Err(408);
        }
        let mut part = [0; 4096];
        match socket.read(&mut part) {
            Ok(0) => return Err(400),
            Ok(length) => bytes.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(408),
        }
    }
    head.map(|(request, ..)| request).ok_or(400)
}

/// The request with the place and length of its body, once the head is there.
fn parse(bytes: &[u8]) -> Result<Option<(FrontRequest, usize, usize)>, u16> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut fields);
    let begin = match head.parse(bytes) {
        Ok(httparse::Status::Complete(begin)) => begin,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(431),
        Err(_) => return Err(400),
    };
    let mut length = 0;
    for field in head.headers.iter() {
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(411);
        }
        if field.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(field.value).ok();
            length = text
                .and_then(|text| text.trim().parse().ok())
                .ok_or(400_u16)?;
        }
    }
    if length > BODY_BYTES_MAX {
        return Err(413);
    }
    let target = head.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request = FrontRequest {
        method: head.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        body: Vec::new(),
    };
    Ok(Some((request, begin, length)))
}

fn write(mut socket: &TcpStream, answer: &FrontAnswer) -> io::Result<()> {
    let location = answer.location.as_ref();
    let location = location.map_or_else(String::new, |url| format!("Location: {url}\r\n"));
    let challenge = if answer.status == 401 {
        "WWW-Authenticate: Basic realm=\"stream\"\r\n"
    } else {
        ""
    };
    let text = format!(
        "HTTP/1.1 {} \r\nConnection: close\r\nContent-Length: {}\r\n{location}{challenge}\r\n{}",
        answer.status,
        answer.body.len(),
        answer.body
    );
    socket.set_write_timeout(Some(ANSWER_WITHIN))?;
    socket.write_all(text.as_bytes())
}

/// Reads on for a moment: closing with unread bytes would take the answer back.
fn drain(mut socket: &TcpStream) {
    if socket.shutdown(Shutdown::Write).is_err()
        || socket.set_read_timeout(Some(DRAINED_WITHIN)).is_err()
    {
        return;
    }
    let mut part = [0; 4096];
    for _ in 0..DRAINED_READS_MAX {
        if !matches!(socket.read(&mut part), Ok(1..)) {
            return;
        }
    }
}

/// Opens the listener.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    info!(address = %listener.local_addr()?, "players and the hook are answered");
    Ok(listener)
}
