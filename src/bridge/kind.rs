//! What the bridge knows of a kind of media server: its interface, its names, and the URLs that it
//! may be given.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::caller::CallFault;
use super::desired::WantedDvr;

/// Longest URL that is given to a media server.
const URL_BYTES_MAX: usize = 4096;

/// The pure part of a kind: names, schemes, addresses of players. Shared by all threads.
pub trait ServerRules: Send + Sync {
    /// The URL schemes that the server can pull, in lower case.
    fn schemes(&self) -> &'static [&'static str];

    /// The name that a stream has on the server. Two names never have the same one.
    fn native(&self, name: &str) -> Box<str>;

    /// The source of a stream that is published to the server; `None` if it needs no entry there.
    fn publisher(&self) -> Option<&'static str> {
        None
    }

    /// The URL of a pull input as the server wants it.
    fn source(&self, url: &str) -> Option<String> {
        pull_url(url, self.schemes())
    }

    /// How the server is to record a stream; why it cannot otherwise.
    fn recording(&self, _: &WantedDvr) -> Result<Recording, &'static str> {
        Err("recordings of this server are not configured")
    }

    /// Where a player finds a stream. `suffix` is what followed the name, `index.m3u8`.
    fn play(&self, native: &str, suffix: &str, query: &str) -> Option<String>;

    /// The question in a body that the server sent to the hook. `None`: nothing is to be decided.
    fn hook(&self, body: &[u8]) -> Result<Option<HookQuestion>, BadHook>;

    /// Whether the server expects 401 for an anonymous player before that player sends its
    /// credentials.
    fn hook_challenges(&self, _: &HookQuestion) -> bool {
        false
    }

    /// The body of an answer to the hook.
    fn hook_body(&self, allowed: bool) -> &'static str {
        if allowed { "" } else { "denied" }
    }
}

/// One media server. Calls are made one at a time, and every call has a deadline.
pub trait MediaServer: Send {
    /// Whether the control API answers. The identity of the run changes when the server restarts.
    fn probe(&mut self) -> Result<Option<Box<str>>, CallFault>;

    /// The streams that are configured, also those that the bridge did not make.
    fn list(&mut self) -> Result<BTreeMap<Box<str>, ListedStream>, CallFault>;

    /// Makes one change. Repeating it is harmless.
    fn apply(&mut self, call: &StreamCall) -> Result<(), CallFault>;

    /// Makes the changes of a round effective, for servers that need it.
    fn flush(&mut self) -> Result<(), CallFault> {
        Ok(())
    }

    fn measure(&mut self) -> Result<ServerMeasure, CallFault>;

    /// What the configuration of the server lacks of what the bridge needs, as far as the server
    /// shows it, one sentence each.
    fn missing(&mut self, needs: ServerNeeds) -> Result<Vec<Box<str>>, CallFault>;
}

/// What a server must have in its configuration, besides what every bridge needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerNeeds {
    /// Viewers are to be checked: the port of this machine at which the hook is answered.
    pub hook_port: Option<u16>,
    /// Streams are recorded.
    pub recordings: bool,
}

impl ServerNeeds {
    /// Whether a URL in the configuration of the server is that of the hook.
    pub fn is_hook(self, url: &str) -> bool {
        let port = tcp_address(url).map(|(_, port)| port);
        self.hook_port.is_none_or(|hook| port == Some(hook))
    }

    /// The URL of the hook, for a sentence.
    pub fn hook_url(self) -> String {
        format!("http://127.0.0.1:{}", self.hook_port.unwrap_or(0))
    }
}

/// A stream in the configuration of the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListedStream {
    /// Its source, if what the server shows can be compared with what it was given.
    pub source: Option<Box<str>>,
    /// The server keeps the stream and does not pull it.
    pub is_idle: bool,
}

/// How a server records a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// The directory, absolute, of plain characters only.
    pub root: Box<str>,
    /// Seconds after which it is removed; 0: never.
    pub delete_after: u64,
}

/// One change of the server's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamCall {
    Put {
        native: Box<str>,
        source: Box<str>,
        recording: Option<Recording>,
        cause: PutCause,
    },
    Remove {
        native: Box<str>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutCause {
    /// The server does not have the stream.
    Add,
    /// The server has it with another source.
    Change,
    /// The server has it with this source, and it is to be started again.
    Restart,
    /// The server has it with this source and does not pull it.
    Resume,
    /// The server has it with this source, and is to record it otherwise or no more. It goes on
    /// running.
    Record,
}

impl StreamCall {
    pub fn native(&self) -> &str {
        match self {
            Self::Put { native, .. } | Self::Remove { native } => native,
        }
    }

    /// Whether the server connects to the source again.
    pub fn starts(&self) -> bool {
        matches!(self, Self::Put { cause, .. } if *cause != PutCause::Record)
    }
}

/// For logs and `--dry-run`: without the source, which may hold a password.
impl fmt::Display for StreamCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put {
                native,
                source,
                cause,
                recording,
            } => {
                let verb = match cause {
                    PutCause::Record if recording.is_some() => "record",
                    PutCause::Record => "stop the recording of",
                    PutCause::Add => "add",
                    PutCause::Change => "change",
                    PutCause::Restart => "restart",
                    PutCause::Resume => "resume",
                };
                write!(f, "{verb} {native} from {}", without_credentials(source))
            }
            Self::Remove { native } => write!(f, "remove {native}"),
        }
    }
}

/// Counters of a server and its streams at one moment.
#[derive(Debug, Clone, Default)]
pub struct ServerMeasure {
    pub version: Box<str>,
    pub uptime_seconds: u64,
    pub streams: BTreeMap<Box<str>, MeasuredStream>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeasuredStream {
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub viewers: u64,
    /// Width and height of the picture; `None` where the kind does not report one.
    pub picture: Option<Picture>,
    pub codec: Option<Box<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Picture {
    /// The server would report a size and has none.
    Missing,
    Size(u64, u64),
}

/// A viewer that the server wants to have checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HookQuestion {
    pub native: Box<str>,
    pub ip: Box<str>,
    pub protocol: Box<str>,
    pub token: Box<str>,
    pub session: Box<str>,
    pub query: Box<str>,
}

/// The body of a hook is not of the form that this kind of server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadHook;

// ---- URLs ------------------------------------------------------------------------------------

/// A URL that a server may be given: of one of the schemes, percent-encoded, and without characters
/// that end a value in a configuration file or a shell. `None` if it cannot be made so.
pub fn pull_url(url: &str, schemes: &[&str]) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let scheme = match &*scheme {
        "hls" | "tshttp" => "http",
        "hlss" | "tshttps" => "https",
        other => other,
    };
    let host = host_and_port(rest)?.0;
    if !schemes.contains(&scheme) || host.is_empty() || url.len() > URL_BYTES_MAX {
        return None;
    }
    let mut out = format!("{scheme}://");
    for letter in rest.chars() {
        match letter {
            '"' | '\'' | '`' | '\\' | '{' | '}' | ';' | '<' | '>' | '|' => return None,
            letter if letter.is_control() => return None,
            letter if letter.is_whitespace() || !letter.is_ascii() => {
                for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
                    out.push_str(&format!("%{byte:02X}"));
                }
            }
            letter => out.push(letter),
        }
    }
    Some(out)
}

/// Host and port of what follows `://`.
fn host_and_port(rest: &str) -> Option<(&str, Option<u16>)> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return Some((host, port.strip_prefix(':').and_then(|it| it.parse().ok())));
    }
    match authority.split_once(':') {
        Some((host, port)) => Some((host, Some(port.parse().ok()?))),
        None => Some((authority, None)),
    }
}

/// The host that a URL is pulled from.
pub fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    host_and_port(rest).map_or("", |(host, _)| host)
}

/// Host and port at which a source accepts connections, for schemes over TCP.
pub fn tcp_address(url: &str) -> Option<(&str, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let usual = match scheme {
        "rtsp" => Some(554),
        "rtsps" => Some(322),
        "rtmp" => Some(1935),
        "rtmps" | "https" | "wheps" | "webrtc:https" => Some(443),
        "http" | "whep" | "webrtc:http" | "onvif" => Some(80),
        "dvrip" => Some(34_567),
        "tcp" => None,
        _ => return None,
    };
    let (host, port) = host_and_port(rest)?;
    Some((host, port.or(usual)?)).filter(|(host, _)| !host.is_empty())
}

/// A URL as logs may show it: without user, password and query.
pub fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let rest = &rest[..end];
    let authority_end = rest.find('/').unwrap_or(rest.len());
    let begin = rest[..authority_end].rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}://{}", &rest[begin..])
}

/// A pattern with `*` for any text, as in `--keep`.
pub fn matches_glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}
