//! Settings: one table that yields the file, the environment, the flags, `--help`, the shipped example and the effective values.
//!
//! Each setting has one name. `poll_wait_max` is the key `poll_wait_max` of the TOML file, the variable `CENTRAL_POLL_WAIT_MAX` and the flag
//! `--poll-wait-max`; nothing else has to be remembered or kept in step. Precedence: flag, environment, file, default. Every value
//! that is given is checked, also one that a stronger source overrides, and all mistakes are told at once. Values are parsed
//! once into the types the program works with; a component gets its own part of [`Settings`] and never sees a text.
//!
//! A setting that does nothing is not in the table. Variables of the reference that mean nothing here are told by name
//! ([`IGNORED`]). Opening, binding and creating are left to the components: reading a configuration touches one file at most.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use crate::access::subnet::Subnets;
use crate::layouter::Balance;
use crate::layouter::run::RunSettings;
use crate::{duration, limits};

/// All settings, in the parts that the components take.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    pub http: HttpSettings,
    pub auth: AuthSettings,
    pub store: StoreSettings,
    pub feed: FeedSettings,
    pub fleet: FleetSettings,
    pub episodes: EpisodeSettings,
    pub viewers: ViewerSettings,
    pub outbound: OutboundSettings,
    pub agents: AgentSettings,
    pub layouter: RunSettings,
    pub log: LogSettings,
}

/// The edge: listeners, cores, connections.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpSettings {
    /// Never empty once read.
    pub listen: Vec<SocketAddr>,
    /// Already merged into `listen`; kept to tell where the port came from.
    pub port: Option<u16>,
    /// The URL under which others reach this server, without a trailing slash.
    pub api_url: Option<String>,
    pub cors: Cors,
    /// `None`: one per processor that this process may use.
    pub io_threads: Option<usize>,
    pub connections_max: usize,
    pub poll_wait_max: Duration,
    pub drain_timeout: Duration,
}

/// Which web pages of other origins may call the API.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Cors {
    #[default]
    Off,
    Any,
    Origins(Vec<String>),
}

/// Who may administer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthSettings {
    /// `None`: see [`api_key`], which makes one.
    pub api_key: Option<Secret>,
    pub edit_auth: Option<Login>,
}

/// A name and a password for HTTP Basic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub name: String,
    pub password: Secret,
}

/// Where the state lives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreSettings {
    pub data_dir: PathBuf,
    pub cache_bytes: usize,
    pub events_age_max: Duration,
    pub events_bytes_max: usize,
}

/// How patient the server is with agents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentSettings {
    pub command_timeout: Duration,
    pub silence_max: Duration,
}

/// What streamers are told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FeedSettings {
    /// Streams per page of `/streamers/{hostname}/streams` when the request names no limit; 0 = all in one answer.
    pub streams_limit: usize,
    /// Put into the URLs by which one streamer pulls from another.
    pub pull_token: Option<Secret>,
    pub restreaming: Restreaming,
    /// Bound of the rendered and compressed answers kept for streamers.
    pub cache_bytes: usize,
}

/// Which streamers may pull streams they do not hold, from the node that does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restreaming {
    Off,
    /// Those marked `is_restreamer`.
    #[default]
    Marked,
    All,
}

/// Dealing with streamers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FleetSettings {
    pub node_config_provision_enabled: bool,
    pub streamer_connector_retries: u64,
    pub healthcheck_fails_threshold: u64,
    pub reconciliation_interval: Duration,
    pub opentelemetry_url: Option<String>,
}

/// Episodes: how they are written, how long they are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EpisodeSettings {
    pub buffer_delay: Duration,
    pub buffer_limit: usize,
    /// After an episode ended; zero: for ever.
    pub kept: Duration,
}

/// How sessions of viewers are decided about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ViewerSettings {
    /// A database in MaxMind's format.
    pub geoip_database: Option<PathBuf>,
    pub auth_backend_timeout: Duration,
    /// Bound of the verdicts that are remembered.
    pub sessions_bytes: usize,
}

/// Calls to other servers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutboundSettings {
    pub threads: usize,
    /// Whether this machine itself may be called.
    pub loopback: bool,
    pub denied: Subnets,
}

/// What is written to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogSettings {
    pub level: LogLevel,
    pub requests: bool,
}

/// Levels of the API's `loglevel`, from silent to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    None,
    Alert,
    Critical,
    Error,
    Warning,
    Notice,
    #[default]
    Info,
    Debug,
}

impl LogLevel {
    const NAMES: [(&'static str, LogLevel); 8] = [
        ("none", LogLevel::None),
        ("alert", LogLevel::Alert),
        ("critical", LogLevel::Critical),
        ("error", LogLevel::Error),
        ("warning", LogLevel::Warning),
        ("notice", LogLevel::Notice),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
    ];

    /// The nearest of the five levels we log with; never quieter than asked for.
    pub fn filter(self) -> tracing::level_filters::LevelFilter {
        use tracing::level_filters::LevelFilter;
        match self {
            Self::None => LevelFilter::OFF,
            Self::Alert | Self::Critical | Self::Error => LevelFilter::ERROR,
            Self::Warning => LevelFilter::WARN,
            Self::Notice | Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
        }
    }
}

/// A text that is never printed by accident. Comparing credentials of requests is `api/auth`'s job, in constant time.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

const MASK: &str = "***";

// ---------------------------------------------------------------------------------------------------------------------
// The table

/// One setting. Its file key, variable and flag follow from `key`.
pub struct Setting {
    pub key: &'static str,
    /// Other spellings of the key in files and, behind `CENTRAL_`, in the environment.
    pub aliases: &'static [&'static str],
    pub kind: Kind,
    /// Empty: not set unless somebody sets it.
    pub default: &'static str,
    /// Stands in the shipped file when there is no default.
    pub example: &'static str,
    pub secret: bool,
    pub group: Group,
    /// One paragraph for `--help` and the shipped file.
    pub doc: &'static str,
}

/// How a value is written, what it may be, and where it goes.
pub enum Kind {
    /// Text with its own rule; `allowed` says the rule.
    Text {
        allowed: &'static str,
        set: fn(&mut Settings, &str) -> bool,
    },
    /// Several texts: repeated flag, array in the file, commas in the environment.
    List {
        allowed: &'static str,
        set: fn(&mut Settings, &[String]) -> bool,
    },
    Number {
        min: u64,
        max: u64,
        set: fn(&mut Settings, u64),
    },
    Bytes {
        min: u64,
        max: u64,
        set: fn(&mut Settings, u64),
    },
    Time {
        min: Duration,
        max: Duration,
        set: fn(&mut Settings, Duration),
    },
    Switch {
        set: fn(&mut Settings, bool),
    },
    Choice {
        options: &'static [&'static str],
        set: fn(&mut Settings, &str),
    },
}

/// Headings of `--help` and of the shipped file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Listening,
    Access,
    Storage,
    Streamers,
    Episodes,
    Viewers,
    Outbound,
    Layouter,
    Logging,
}

impl Group {
    pub fn heading(self) -> &'static str {
        match self {
            Self::Listening => "Listening",
            Self::Access => "Access",
            Self::Storage => "Storage",
            Self::Streamers => "Streamers",
            Self::Episodes => "Episodes",
            Self::Viewers => "Viewers",
            Self::Outbound => "Calls to other servers",
            Self::Layouter => "Layouter",
            Self::Logging => "Logging",
        }
    }
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Every setting of the server, in the order of the shipped file.
pub static SETTINGS: &[Setting] = &[
    Setting {
        key: "listen",
        aliases: &[],
        kind: Kind::List {
            allowed: "addresses such as 127.0.0.1:9019, [::1]:9019, localhost:9019 or :9019 (all IPv4 addresses), at most 16",
            set: |settings, texts| {
                let parsed: Option<Vec<_>> =
                    texts.iter().map(|text| listen_address(text)).collect();
                match parsed {
                    Some(listen) if !listen.is_empty() && listen.len() <= 16 => {
                        settings.http.listen = listen;
                        true
                    }
                    _ => false,
                }
            },
        },
        default: "127.0.0.1:9019",
        example: "",
        secret: false,
        group: Group::Listening,
        doc: "Address and port to serve HTTP on; may be given several times. Port 0 takes a free one. The server prints the addresses it got.",
    },
    Setting {
        key: "http_port",
        aliases: &[],
        kind: Kind::Number {
            min: 1,
            max: 65535,
            set: |settings, port| settings.http.port = u16::try_from(port).ok(),
        },
        default: "",
        example: "9019",
        secret: false,
        group: Group::Listening,
        doc: "Short for listening on this port of all IPv4 addresses. Of `listen` and `http_port` the one from the stronger source counts; from the same source, `listen`.",
    },
    Setting {
        key: "api_url",
        aliases: &[],
        kind: Kind::Text {
            allowed: "a URL that begins with http:// or https:// and has a host, without credentials, query or fragment",
            set: |settings, text| {
                settings.http.api_url = base_url(text);
                settings.http.api_url.is_some()
            },
        },
        default: "",
        example: "http://weir.example.com:9019",
        secret: false,
        group: Group::Listening,
        doc: "The URL under which others reach this server, for instance that of a load balancer before it. Named in the greeting, and where `weir import` sends to unless told otherwise.",
    },
    Setting {
        key: "cors_origins",
        aliases: &[],
        kind: Kind::List {
            allowed: "origins such as https://panel.example.com (scheme and host, no path), or * alone for any, at most 64",
            set: |settings, texts| match cors(texts) {
                Some(cors) => {
                    settings.http.cors = cors;
                    true
                }
                None => false,
            },
        },
        default: "",
        example: "https://panel.example.com",
        secret: false,
        group: Group::Listening,
        doc: "Origins whose web pages may call the API from a browser. Not set: none.",
    },
    Setting {
        key: "io_threads",
        aliases: &[],
        kind: Kind::Number {
            min: 0,
            max: 256,
            set: |settings, count| settings.http.io_threads = (count > 0).then_some(count as usize),
        },
        default: "0",
        example: "",
        secret: false,
        group: Group::Listening,
        doc: "Threads that serve connections, each with its own ring; 0 is one per processor.",
    },
    Setting {
        key: "connections_max",
        aliases: &[],
        kind: Kind::Number {
            min: 16,
            max: 10_000_000,
            set: |settings, count| settings.http.connections_max = count as usize,
        },
        default: "100000",
        example: "",
        secret: false,
        group: Group::Listening,
        doc: "Connections open at once, all threads together. The limit on open files of the process must be higher.",
    },
    Setting {
        key: "poll_wait_max",
        aliases: &[],
        kind: Kind::Time {
            min: Duration::from_secs(1),
            max: Duration::from_mins(10),
            set: |settings, wait| settings.http.poll_wait_max = wait,
        },
        default: "50s",
        example: "",
        secret: false,
        group: Group::Listening,
        doc: "Longest time a request with `poll_timeout` is held; a longer one is shortened to this. Keep it below the read timeout of a proxy in front (60 s in nginx).",
    },
    Setting {
        key: "drain_timeout",
        aliases: &[],
        kind: Kind::Time {
            min: Duration::ZERO,
            max: Duration::from_mins(10),
            set: |settings, wait| settings.http.drain_timeout = wait,
        },
        default: "10s",
        example: "",
        secret: false,
        group: Group::Listening,
        doc: "After TERM, how long requests under way may take to finish before the process ends.",
    },
    Setting {
        key: "api_key",
        aliases: &[],
        kind: Kind::Text {
            allowed: "1 to 256 visible ASCII characters, no spaces",
            set: |settings, text| {
                let fits =
                    (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
                settings.auth.api_key = fits.then(|| Secret::new(text));
                fits
            },
        },
        default: "",
        example: "a-long-random-text",
        secret: true,
        group: Group::Access,
        doc: "The administrator's key, sent as `Authorization: Bearer KEY`. Not set: made at the first start, kept in the data directory (file `api_key`, readable by its owner only) and shown once.",
    },
    Setting {
        key: "edit_auth",
        aliases: &[],
        kind: Kind::Text {
            allowed: "a login and a password with a space or a colon between them",
            set: |settings, text| {
                settings.auth.edit_auth = login(text);
                settings.auth.edit_auth.is_some()
            },
        },
        default: "",
        example: "admin a-long-password",
        secret: true,
        group: Group::Access,
        doc: "The administrator's login and password for HTTP Basic, `login password` or `login:password`. The first space or colon ends the login; the password may contain more of them.",
    },
    Setting {
        key: "data_dir",
        aliases: &[],
        kind: Kind::Text {
            allowed: "a path of a directory",
            set: |settings, text| {
                settings.store.data_dir = PathBuf::from(text);
                !text.contains('\0')
            },
        },
        default: "./weir-data",
        example: "",
        secret: false,
        group: Group::Storage,
        doc: "Directory of everything that must survive a restart. Made if absent. One process at a time.",
    },
    Setting {
        key: "store_cache",
        aliases: &[],
        kind: Kind::Bytes {
            min: MIB,
            max: 64 * GIB,
            set: |settings, bytes| settings.store.cache_bytes = bytes as usize,
        },
        default: "64MiB",
        example: "",
        secret: false,
        group: Group::Storage,
        doc: "Memory for pages of the store. Reads never touch the store, so this matters to writing and starting only.",
    },
    Setting {
        key: "events_age",
        aliases: &[],
        kind: Kind::Time {
            min: Duration::from_mins(1),
            max: Duration::from_hours(24 * 3650),
            set: |settings, age| settings.store.events_age_max = age,
        },
        default: "30d",
        example: "",
        secret: false,
        group: Group::Storage,
        doc: "How long the event log keeps what happened.",
    },
    Setting {
        key: "events_size",
        aliases: &[],
        kind: Kind::Bytes {
            min: 0,
            max: 16 * GIB,
            set: |settings, bytes| {
                settings.store.events_bytes_max = usize::try_from(bytes).unwrap_or(usize::MAX);
            },
        },
        default: "32MiB",
        example: "",
        secret: false,
        group: Group::Storage,
        doc: "Bound of the event log, in memory and on disk. The oldest events make room. 0 keeps no log.",
    },
    Setting {
        key: "agent_command_timeout",
        aliases: &[],
        kind: Kind::Time {
            min: Duration::from_millis(1),
            max: Duration::from_secs(50),
            set: |settings, wait| settings.agents.command_timeout = wait,
        },
        default: "10s",
        example: "",
        secret: false,
        group: Group::Streamers,
        doc: "How long a command to an agent (reboot, reset, logs) waits for its answer.",
    },
    Setting {
        key: "agent_silence",
        aliases: &[],
        kind: Kind::Time {
            min: Duration::from_millis(100),
            max: Duration::from_hours(1),
            set: |settings, silence| settings.agents.silence_max = silence,
        },
        default: "60s",
        example: "",
        secret: false,
        group: Group::Streamers,
        doc: "An agent that says nothing for as long as this is disconnected. It is told to ping three times as often.",
    },
    Setting {
        key: "streamer_streams_limit",
        aliases: &[],
        kind: Kind::Number {
            min: 0,
            max: 10_000,
            set: |settings, count| settings.feed.streams_limit = count as usize,
        },
        default: "0",
        example: "",
        secret: false,
        group: Group::Streamers,
        doc: "Streams per page that a streamer gets when it names no `limit`; 0 is all of them in one answer, which nothing can tear. 100 is what the reference does.",
    },
    Setting {
        key: "restreaming",
        aliases: &[],
        kind: Kind::Choice {
            options: &["off", "marked", "all"],
            set: |settings, text| {
                settings.feed.restreaming = match text {
                    "off" => Restreaming::Off,
                    "all" => Restreaming::All,
                    _ => Restreaming::Marked,
                };
            },
        },
        default: "marked",
        example: "",
        secret: false,
        group: Group::Streamers,
        doc: "Which streamers may pull any stream of the cluster when a viewer asks them for it: none, those with `is_restreamer`, or all.",
    },
    Setting {
        key: "dynamic_streams_auth_token",
        aliases: &[],
        kind: Kind::Text {
            allowed: "1 to 256 characters out of letters, digits and - . _ ~",
            set: |settings, text| {
                let fits = (1..=256).contains(&text.len())
                    && text
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
                settings.feed.pull_token = fits.then(|| Secret::new(text));
                fits
            },
        },
        default: "",
        example: "another-long-random-text",
        secret: true,
        group: Group::Streamers,
        doc: "Token in the URLs by which one streamer pulls a stream from another (`?token=`).",
    },
    Setting {
        key: "config_cache",
        aliases: &[],
        kind: Kind::Bytes {
            min: MIB,
            max: 64 * GIB,
            set: |settings, bytes| settings.feed.cache_bytes = bytes as usize,
        },
        default: "256MiB",
        example: "",
        secret: false,
        group: Group::Streamers,
        doc: "Memory for answers to streamers, kept rendered and compressed until what they say changes.",
    },
    Setting {
        key: "config_external_reconciliation_interval",
        aliases: &[],
        kind: Kind::Time {
            min: Duration::from_millis(1),
            max: Duration::from_hours(1),
            set: |settings, time| settings.fleet.reconciliation_interval = time,
        },
        default: "5s",
        example: "",
        secret: false,
        group: Group::Streamers,
        doc: "Kept for programs that set it. Nothing waits for it here: streamers are told of a change at once.",
    },
    Setting {
        key: "cluster_node_config_provision_enabled",
        aliases: &[],
        kind: Kind::Switch {
            set: |settings, on| settings.fleet.node_config_provision_enabled = on,
        },
        default: "false",
        example: "",
        secret: false,
        group: Group::Streamers,
        doc: "Whether the server may write configuration to streamers. Kept for programs that set it: this version writes to none.",
    },
    Setting {
        key: "cluster_streamer_connector_retries",
        aliases: &[],
        kind: Kind::Number {
            min: 0,
            max: 1000,
            set: |settings, count| settings.fleet.streamer_connector_retries = count,
        },
        default: "5",
        example: "",
        secret: false,
        group: Group::Streamers,
        doc: "How often a request to a streamer is repeated. Kept for programs that set it: in this version streamers report by themselves.",
    },
    Setting {
        key: "streamer_healthcheck_fails_threshold",
        aliases: &[],
        kind: Kind::Number {
            min: 1,
            max: 1_000_000,
            set: |settings, count| settings.fleet.healthcheck_fails_threshold = count,
        },
        default: "5",
        example: "",
        secret: false,
        group: Group::Streamers,
        doc: "Failed checks within an hour from which on a streamer counts as unhealthy.",
    },
    Setting {
        key: "episodes_buffer_delay",
        aliases: &[],
        kind: Kind::Time {
            min: Duration::ZERO,
            max: Duration::from_millis(limits::EPISODES_DELAY_MS_MAX as u64),
            set: |settings, delay| settings.episodes.buffer_delay = delay,
        },
        default: "1s",
        example: "",
        secret: false,
        group: Group::Episodes,
        doc: "Longest time that a save of an episode waits for others, to be written to disk together with them. It is answered when it is on disk. 0 writes each at once.",
    },
    Setting {
        key: "episodes_buffer_limit",
        aliases: &[],
        kind: Kind::Number {
            min: 0,
            max: limits::EPISODES_LIMIT_MAX as u64,
            set: |settings, count| settings.episodes.buffer_limit = count as usize,
        },
        default: "250",
        example: "",
        secret: false,
        group: Group::Episodes,
        doc: "When more saves of episodes than this wait, they are written at once. 0 writes each at once.",
    },
    Setting {
        key: "episodes_kept",
        aliases: &[],
        kind: Kind::Time {
            min: Duration::ZERO,
            max: Duration::from_hours(24 * 3650),
            set: |settings, kept| settings.episodes.kept = kept,
        },
        default: "90d",
        example: "",
        secret: false,
        group: Group::Episodes,
        doc: "How long an episode is kept after it was closed, or changed if that was later. What it protected on streamers may be erased then. A wall clock that is suddenly more than a day ahead is not believed for a day, and nothing goes by it. 0 keeps episodes until they are deleted.",
    },
    Setting {
        key: "geoip_database",
        aliases: &[],
        kind: Kind::Text {
            allowed: "a path of a file",
            set: |settings, text| {
                settings.viewers.geoip_database = Some(PathBuf::from(text));
                !text.contains('\0')
            },
        },
        default: "",
        example: "/usr/share/GeoIP/GeoLite2-Country.mmdb",
        secret: false,
        group: Group::Viewers,
        doc: "Database of countries in MaxMind's format, read once at the start. Without it nobody is in any country: rules of authorization backends and load balancers about countries match nobody.",
    },
    Setting {
        key: "auth_backend_timeout",
        aliases: &[],
        kind: Kind::Time {
            min: Duration::from_millis(100),
            max: Duration::from_secs(30),
            set: |settings, wait| settings.viewers.auth_backend_timeout = wait,
        },
        default: "3s",
        example: "",
        secret: false,
        group: Group::Viewers,
        doc: "How long the HTTP backends of an authorization backend may take to decide about a session, all of them together. One that takes longer has not answered.",
    },
    Setting {
        key: "auth_sessions_cache",
        aliases: &[],
        kind: Kind::Bytes {
            min: MIB,
            max: 64 * GIB,
            set: |settings, bytes| settings.viewers.sessions_bytes = bytes as usize,
        },
        default: "64MiB",
        example: "",
        secret: false,
        group: Group::Viewers,
        doc: "Memory for what HTTP backends decided about sessions, about 400 bytes each. When it is full, what was decided longest ago is forgotten and asked again.",
    },
    Setting {
        key: "outbound_threads",
        aliases: &[],
        kind: Kind::Number {
            min: 2,
            max: 512,
            set: |settings, count| settings.outbound.threads = count as usize,
        },
        default: "32",
        example: "",
        secret: false,
        group: Group::Outbound,
        doc: "Calls to other servers at once, such as HTTP backends of authorization backends. One server is given at most half of them.",
    },
    Setting {
        key: "outbound_deny",
        aliases: &[],
        kind: Kind::List {
            allowed: "addresses and subnets such as 10.0.0.0/8 or fd00::/8, at most 256",
            set: |settings, texts| {
                let subnets = Subnets::parse(texts.iter().map(String::as_str));
                match subnets {
                    Ok(subnets) if texts.len() <= 256 => {
                        settings.outbound.denied = subnets;
                        true
                    }
                    _ => false,
                }
            },
        },
        default: "",
        example: "10.0.0.0/8",
        secret: false,
        group: Group::Outbound,
        doc: "Addresses that are never called, in addition to link-local addresses and those where clouds serve their machines' secrets. Not set: private networks may be called, because streamers live there.",
    },
    Setting {
        key: "outbound_loopback",
        aliases: &[],
        kind: Kind::Switch {
            set: |settings, on| settings.outbound.loopback = on,
        },
        default: "false",
        example: "",
        secret: false,
        group: Group::Outbound,
        doc: "Whether services on this machine (127.0.0.1, ::1) may be called. This server itself is never called.",
    },
    Setting {
        key: "layouter_enabled",
        aliases: &[],
        kind: Kind::Switch {
            set: |settings, on| settings.layouter.enabled = on,
        },
        default: "false",
        example: "",
        secret: false,
        group: Group::Layouter,
        doc: "Place streams on streamers automatically. While it is off no stream moves unless somebody sets its layout.",
    },
    Setting {
        key: "layouter_sleeping_interval",
        aliases: &[],
        kind: Kind::Time {
            min: Duration::from_millis(100),
            max: Duration::from_hours(1),
            set: |settings, time| settings.layouter.interval_ms = time.as_millis() as u64,
        },
        default: "30s",
        example: "",
        secret: false,
        group: Group::Layouter,
        doc: "Pause between two rounds of bringing streams back and improving their places. New streams, and those of a lost streamer, do not wait for it.",
    },
    Setting {
        key: "streamer_dead_timeout",
        aliases: &[],
        kind: Kind::Time {
            min: Duration::from_secs(1),
            max: Duration::from_hours(1),
            set: |settings, time| settings.layouter.dead_timeout_ms = time.as_millis() as u64,
        },
        default: "60s",
        example: "",
        secret: false,
        group: Group::Layouter,
        doc: "A streamer that neither asks for its configuration nor reports for so long is lost, and its streams go elsewhere. Every other patience of the layouter is a multiple of it.",
    },
    Setting {
        key: "layouter_failback",
        aliases: &[],
        kind: Kind::Switch {
            set: |settings, on| settings.layouter.engine.failback = on,
        },
        default: "true",
        example: "",
        secret: false,
        group: Group::Layouter,
        doc: "Bring streams back to a streamer that was lost and has proved to be steady again.",
    },
    Setting {
        key: "layouter_rebalance",
        aliases: &[],
        kind: Kind::Switch {
            set: |settings, on| settings.layouter.engine.rebalance = on,
        },
        default: "true",
        example: "",
        secret: false,
        group: Group::Layouter,
        doc: "Move streams, a few at a time, from a streamer that is much fuller than another which may take them.",
    },
    Setting {
        key: "layouter_balance",
        aliases: &[],
        kind: Kind::Choice {
            options: &["dominant", "channels"],
            set: |settings, text| {
                settings.layouter.engine.balance = match text {
                    "channels" => Balance::Channels,
                    _ => Balance::Dominant,
                };
            },
        },
        default: "dominant",
        example: "",
        secret: false,
        group: Group::Layouter,
        doc: "How full a streamer is: the fullest of its channels, bandwidth and disk, or its channels alone.",
    },
    Setting {
        key: "layouter_backups_count_as_channels",
        aliases: &[],
        kind: Kind::Switch {
            set: |settings, on| settings.layouter.engine.backups_count_as_channels = on,
        },
        default: "true",
        example: "",
        secret: false,
        group: Group::Layouter,
        doc: "Whether a stream's archive copy on another streamer counts against that streamer's `channel_limit`.",
    },
    Setting {
        key: "layouter_failover_to_backup",
        aliases: &[],
        kind: Kind::Switch {
            set: |settings, on| settings.layouter.engine.failover_to_backup = on,
        },
        default: "false",
        example: "",
        secret: false,
        group: Group::Layouter,
        doc: "A stream whose streamer is lost goes to where a copy of its archive is, instead of to the least loaded streamer.",
    },
    Setting {
        key: "layouter_failure_domain_label",
        aliases: &[],
        kind: Kind::Text {
            allowed: "the key of a label, 1 to 40 characters out of letters, digits and - . _",
            set: |settings, text| {
                let fits = (1..=40).contains(&text.len())
                    && text
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
                settings.layouter.engine.failure_domain_key = fits.then(|| text.into());
                fits
            },
        },
        default: "",
        example: "dc",
        secret: false,
        group: Group::Layouter,
        doc: "Streamers with the same value of this label fail together, so that the copies of an archive are kept on different ones where possible.",
    },
    Setting {
        key: "log_level",
        aliases: &["loglevel"],
        kind: Kind::Choice {
            options: &[
                "none", "alert", "critical", "error", "warning", "notice", "info", "debug",
            ],
            set: |settings, text| {
                if let Some((_, level)) = LogLevel::NAMES.iter().find(|(name, _)| *name == text) {
                    settings.log.level = *level;
                }
            },
        },
        default: "info",
        example: "",
        secret: false,
        group: Group::Logging,
        doc: "How much is written to the log on stderr: this level and everything more urgent.",
    },
    Setting {
        key: "opentelemetry_url",
        aliases: &[],
        kind: Kind::Text {
            allowed: "a URL that begins with http:// or https://",
            set: |settings, text| {
                let fits = text.len() <= 2048
                    && (text.starts_with("http://") || text.starts_with("https://"))
                    && text.bytes().all(|byte| byte.is_ascii_graphic());
                settings.fleet.opentelemetry_url = fits.then(|| text.to_owned());
                fits
            },
        },
        default: "",
        example: "http://127.0.0.1:4318/v1/traces?service_name=weir",
        secret: false,
        group: Group::Logging,
        doc: "Where traces would be sent. Kept for programs that set it: this version sends none.",
    },
    Setting {
        key: "log_requests",
        aliases: &[],
        kind: Kind::Switch {
            set: |settings, on| settings.log.requests = on,
        },
        default: "false",
        example: "",
        secret: false,
        group: Group::Logging,
        doc: "Write a line for every request answered.",
    },
];

/// Variables of the reference that a deployment may carry over and that do nothing here, with what to know about each.
const IGNORED: &[(&str, &str)] = &[
    (
        "CENTRAL_DATABASE_URL",
        "the state lives in the data directory, there is no database to connect to",
    ),
    (
        "CENTRAL_REDIS_URL",
        "temporary data lives in memory, there is no Redis to connect to",
    ),
    ("CENTRAL_LICENSE_KEY", "no licence is needed"),
];

impl Setting {
    pub fn find(key: &str) -> Option<&'static Setting> {
        SETTINGS
            .iter()
            .find(|setting| setting.key == key || setting.aliases.contains(&key))
    }

    /// `poll-wait-max`, without the dashes before it.
    pub fn flag(&self) -> &'static str {
        static FLAGS: LazyLock<Vec<(&str, String)>> = LazyLock::new(|| {
            SETTINGS
                .iter()
                .map(|setting| (setting.key, setting.key.replace('_', "-")))
                .collect()
        });
        let (_, flag) = FLAGS
            .iter()
            .find(|(key, _)| *key == self.key)
            .expect("settings exist in the table only");
        flag
    }

    /// `CENTRAL_POLL_WAIT_MAX`.
    pub fn variable(&self) -> String {
        variable(self.key)
    }

    /// What a value stands for in `--help`.
    pub fn placeholder(&self) -> &'static str {
        match self.kind {
            Kind::Text { .. } if self.key.ends_with("dir") => "DIR",
            Kind::Text { .. } if self.key.ends_with("url") => "URL",
            Kind::List { .. } if self.key == "listen" => "ADDR:PORT",
            Kind::Text { .. } | Kind::List { .. } => "TEXT",
            Kind::Number { .. } => "N",
            Kind::Bytes { .. } => "BYTES",
            Kind::Time { .. } => "TIME",
            Kind::Switch { .. } => "BOOL",
            Kind::Choice { .. } => "WORD",
        }
    }

    /// What a value may be, to follow "must be".
    pub fn allowed(&self) -> String {
        match &self.kind {
            Kind::Text { allowed, .. } | Kind::List { allowed, .. } => (*allowed).to_owned(),
            Kind::Number { min, max, .. } => format!("a whole number from {min} to {max}"),
            Kind::Bytes { min, max, .. } => format!(
                "a size such as 64MiB, 1GiB or a number of bytes, from {} to {}",
                bytes_text(*min),
                bytes_text(*max)
            ),
            Kind::Time { min, max, .. } => format!(
                "{}, from {} to {}",
                duration::ALLOWED,
                duration::text(*min),
                duration::text(*max)
            ),
            Kind::Switch { .. } => "true or false".to_owned(),
            Kind::Choice { options, .. } => format!("one of {}", options.join(", ")),
        }
    }

    /// Whether a value may be given.
    pub fn accepts(&self, text: &str) -> bool {
        self.set(&mut Settings::default(), &Raw::One(text.to_owned()))
    }

    /// Parse and put into its place; false when it is not allowed.
    fn set(&self, settings: &mut Settings, raw: &Raw) -> bool {
        let one = match raw {
            Raw::One(text) => Some(text.trim()),
            Raw::Many(texts) if texts.len() == 1 => Some(texts[0].trim()),
            Raw::Many(_) => None,
        };
        match (&self.kind, one) {
            (Kind::List { set, .. }, _) => set(settings, &raw.split()),
            (_, None) => false,
            (Kind::Text { set, .. }, Some(text)) => !text.is_empty() && set(settings, text),
            (Kind::Number { min, max, set }, Some(text)) => within(
                text.parse().ok().filter(|_| !text.starts_with('+')),
                *min,
                *max,
            )
            .is_some_and(|value| {
                set(settings, value);
                true
            }),
            (Kind::Bytes { min, max, set }, Some(text)) => within(bytes(text), *min, *max)
                .is_some_and(|value| {
                    set(settings, value);
                    true
                }),
            (Kind::Time { min, max, set }, Some(text)) => within(duration::parse(text), *min, *max)
                .is_some_and(|value| {
                    set(settings, value);
                    true
                }),
            (Kind::Switch { set }, Some(text)) => {
                let on = match text.to_ascii_lowercase().as_str() {
                    "true" | "1" | "yes" | "on" => true,
                    "false" | "0" | "no" | "off" => false,
                    _ => return false,
                };
                set(settings, on);
                true
            }
            (Kind::Choice { options, set }, Some(text)) => {
                let text = text.to_ascii_lowercase();
                let known = options.contains(&text.as_str());
                if known {
                    set(settings, &text);
                }
                known
            }
        }
    }
}

fn variable(key: &str) -> String {
    format!("CENTRAL_{}", key.to_ascii_uppercase())
}

fn within<T: PartialOrd + Copy>(value: Option<T>, min: T, max: T) -> Option<T> {
    value.filter(|value| *value >= min && *value <= max)
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading

/// The configuration of a run: the settings, and how each came to be.
#[derive(Debug, Clone)]
pub struct Config {
    pub settings: Settings,
    /// In the order of the table.
    pub values: Vec<Effective>,
    /// One sentence each, for the log. Nothing here stops a start.
    pub warnings: Vec<String>,
    pub sources: Sources,
}

/// Where everything was read from, so that it can be read again when the file has changed.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file that was read, or that will be when it exists.
    pub file: PathBuf,
    /// Nobody named the file: it is the one in the data directory.
    pub is_implied: bool,
    pub environment: Vec<(OsString, OsString)>,
    pub flags: Flags,
}

impl fmt::Debug for Sources {
    /// Without values, some of which are secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// The file in the data directory that is read when no other is named. Settings that are saved through the API go there.
pub const FILE_IN_DATA_DIR: &str = "weir.toml";

/// One setting as it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    pub key: &'static str,
    /// Secrets masked; `None`: not set.
    pub value: Option<String>,
    pub origin: Origin,
}

/// Where a value came from; a later one overrides an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Environment { name: String },
    Flag { name: &'static str },
}

impl Origin {
    fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File { .. } => 1,
            Self::Environment { .. } => 2,
            Self::Flag { .. } => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{} line {line}", path.display()),
            Self::Environment { name } => write!(f, "environment {name}"),
            Self::Flag { name } => write!(f, "flag --{name}"),
        }
    }
}

/// Everything that was wrong, one fact a line. Never empty, never shows a secret.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bad configuration")?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// A value as somebody wrote it.
#[derive(Debug, Clone)]
enum Raw {
    One(String),
    Many(Vec<String>),
}

impl Raw {
    /// For lists: elements as given, and those of one text divided by commas.
    fn split(&self) -> Vec<String> {
        let texts: Vec<&str> = match self {
            Self::One(text) => text.split(',').collect(),
            Self::Many(texts) => texts.iter().flat_map(|text| text.split(',')).collect(),
        };
        texts
            .into_iter()
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
            .collect()
    }

    fn text(&self) -> String {
        match self {
            Self::One(text) => text.clone(),
            Self::Many(texts) => texts.join(","),
        }
    }
}

/// Flags as the command line has them: key of the table, values in the order given.
pub type Flags = Vec<(&'static str, Vec<String>)>;

/// The file named by `--config`, else by `CENTRAL_CONFIG`; there is none by default.
pub const CONFIG_VARIABLE: &str = "CENTRAL_CONFIG";

/// Read everything and settle on one value for each setting.
pub fn read(
    file: Option<&Path>,
    environment: &[(OsString, OsString)],
    flags: &Flags,
) -> Result<Config, ConfigError> {
    let named = environment
        .iter()
        .find(|(name, value)| name == CONFIG_VARIABLE && !value.is_empty())
        .map(|(_, value)| PathBuf::from(value));
    let mut sources = Sources {
        file: PathBuf::new(),
        is_implied: false,
        environment: environment.to_vec(),
        flags: flags.clone(),
    };
    if let Some(path) = file.map(Path::to_path_buf).or(named) {
        sources.file = path;
        let text = fs::read_to_string(&sources.file);
        return Reading::default().all(sources, Some(text));
    }
    // Where the data directory is does not depend on what is in it.
    let mut without = Reading::default();
    without.weaker_than_file();
    without.stronger_than_file(&sources);
    sources.file = without.settings.store.data_dir.join(FILE_IN_DATA_DIR);
    sources.is_implied = true;
    let text = match fs::read_to_string(&sources.file) {
        // A data directory that is none is the store's to complain about.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            None
        }
        read => Some(read),
    };
    Reading::default().all(sources, text)
}

/// The same with another text of the file.
pub fn read_again(sources: &Sources, text: &str) -> Result<Config, ConfigError> {
    Reading::default().all(sources.clone(), Some(Ok(text.to_owned())))
}

#[derive(Default)]
struct Reading {
    settings: Settings,
    taken: BTreeMap<&'static str, (String, Origin)>,
    warnings: Vec<String>,
    problems: Vec<String>,
}

impl Reading {
    fn all(
        mut self,
        sources: Sources,
        text: Option<io::Result<String>>,
    ) -> Result<Config, ConfigError> {
        self.weaker_than_file();
        match text {
            Some(Ok(text)) => self.file(&sources.file, &text),
            Some(Err(error)) => {
                let path = sources.file.display();
                self.problems
                    .push(format!("{path}: cannot be read: {error}"));
            }
            None => {}
        }
        self.stronger_than_file(&sources);
        let path_of_file = &sources.file;
        let own = self.taken.get("data_dir").is_some_and(
            |(_, origin)| matches!(origin, Origin::File { path, .. } if path == path_of_file),
        );
        if own && sources.is_implied {
            self.problems.push(format!(
                "data_dir cannot be set in {}, which is found through it",
                sources.file.display()
            ));
        }
        self.settle(sources)
    }

    fn weaker_than_file(&mut self) {
        for setting in SETTINGS
            .iter()
            .filter(|setting| !setting.default.is_empty())
        {
            self.take(
                setting,
                &Raw::One(setting.default.to_owned()),
                Origin::Default,
            );
        }
    }

    fn stronger_than_file(&mut self, sources: &Sources) {
        self.environment(&sources.environment);
        for (key, values) in &sources.flags {
            let setting = Setting::find(key).expect("flags are made from the table");
            let raw = Raw::Many(values.clone());
            self.take(
                setting,
                &raw,
                Origin::Flag {
                    name: setting.flag(),
                },
            );
        }
    }

    fn take(&mut self, setting: &'static Setting, raw: &Raw, origin: Origin) {
        let text = raw.text();
        if setting.set(&mut self.settings, raw) {
            self.taken.insert(setting.key, (text, origin));
        } else {
            let shown = if setting.secret {
                MASK.to_owned()
            } else {
                without_password(&text)
            };
            self.problems.push(format!(
                "{} = {shown:?} ({origin}): must be {}",
                setting.key,
                setting.allowed()
            ));
        }
    }

    fn file(&mut self, path: &Path, text: &str) {
        let line_of = |offset: usize| text.get(..offset).unwrap_or(text).matches('\n').count() + 1;
        let table = match DeTable::parse(text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(span.start));
                // The message alone: the rendered form would quote the line, and the line may hold a secret.
                self.problems.push(format!(
                    "{} line {line}: {}",
                    path.display(),
                    error.message()
                ));
                return;
            }
        };
        // In the order of the file, so that the first complaint is about the first line.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (key, value) in entries {
            let line = line_of(key.span().start);
            let origin = Origin::File {
                path: path.to_path_buf(),
                line,
            };
            let key: &str = key.get_ref();
            let Some(setting) = Setting::find(key) else {
                let hint = suggestion(key).map_or_else(
                    || "`weir print config` shows all there are".to_owned(),
                    |near| format!("did you mean {near:?}?"),
                );
                self.problems
                    .push(format!("unknown setting {key:?} ({origin}): {hint}"));
                continue;
            };
            if let Some(first) = seen.insert(setting.key, line) {
                self.problems.push(format!(
                    "{} is set twice, in lines {first} and {line} of {}",
                    setting.key,
                    path.display()
                ));
                continue;
            }
            match file_value(value.get_ref()) {
                Some(raw) => self.take(setting, &raw, origin),
                None => self.problems.push(format!(
                    "{} ({origin}): is {} in the file, but must be {}",
                    setting.key,
                    with_article(value.get_ref().type_str()),
                    setting.allowed()
                )),
            }
        }
    }

    fn environment(&mut self, environment: &[(OsString, OsString)]) {
        // Sorted, so that the same environment gives the same messages.
        let mut ours: Vec<(String, &OsString)> = environment
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?.to_owned(), value)))
            .filter(|(name, value)| {
                name.starts_with("CENTRAL_") && name != CONFIG_VARIABLE && !value.is_empty()
            })
            .collect();
        ours.sort();
        // Aliases first: when both spellings are there, the proper one is taken last and stands.
        let known = |name: &str| SETTINGS.iter().find(|setting| setting.variable() == name);
        ours.sort_by_key(|(name, _)| known(name).is_some());
        for (name, value) in ours {
            let setting = known(&name)
                .or_else(|| Setting::find(&name["CENTRAL_".len()..].to_ascii_lowercase()));
            let Some(setting) = setting else {
                let ignored = IGNORED.iter().find(|(ignored, _)| *ignored == name);
                self.warnings.push(if let Some((_, why)) = ignored {
                    format!("{name} is ignored: {why}")
                } else {
                    let near = suggestion(&name["CENTRAL_".len()..].to_ascii_lowercase());
                    let hint = near.map_or_else(String::new, |near| {
                        format!(", did you mean {}?", variable(near))
                    });
                    format!("{name} is set, but this version has no such setting{hint}")
                });
                continue;
            };
            let origin = Origin::Environment { name };
            match value.to_str() {
                Some(text) => self.take(setting, &Raw::One(text.to_owned()), origin),
                None => self
                    .problems
                    .push(format!("{} ({origin}): is not UTF-8", setting.key)),
            }
        }
    }

    /// Relations between settings, then the answer.
    fn settle(mut self, sources: Sources) -> Result<Config, ConfigError> {
        if !self.problems.is_empty() {
            return Err(ConfigError {
                problems: self.problems,
            });
        }
        let rank = |key: &str| self.taken.get(key).map_or(0, |(_, origin)| origin.rank());
        if let Some(port) = self.settings.http.port {
            if rank("http_port") > rank("listen") {
                self.settings.http.listen =
                    vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)];
                if let Some(listen) = self
                    .taken
                    .remove("listen")
                    .filter(|(_, origin)| *origin != Origin::Default)
                {
                    self.warnings.push(format!(
                        "listen ({}) is ignored: http_port ({}) is stronger",
                        listen.1, self.taken["http_port"].1
                    ));
                }
            } else {
                self.settings.http.port = None;
                if let Some((_, origin)) = self.taken.remove("http_port") {
                    self.warnings.push(format!(
                        "http_port ({origin}) is ignored: listen ({}) is at least as strong",
                        self.taken["listen"].1
                    ));
                }
            }
        }
        if let Some(key) = &self.settings.auth.api_key
            && key.expose().len() < 16
        {
            self.warnings
                .push("api_key is shorter than 16 characters and may be guessed".to_owned());
        }
        let values = SETTINGS
            .iter()
            .map(|setting| match self.taken.get(setting.key) {
                Some((text, origin)) => Effective {
                    key: setting.key,
                    value: Some(if setting.secret {
                        MASK.to_owned()
                    } else {
                        text.clone()
                    }),
                    origin: origin.clone(),
                },
                None => Effective {
                    key: setting.key,
                    value: None,
                    origin: Origin::Default,
                },
            })
            .collect();
        Ok(Config {
            settings: self.settings,
            values,
            warnings: self.warnings,
            sources,
        })
    }
}

impl Config {
    /// How a setting came to be.
    pub fn effective(&self, key: &str) -> &Effective {
        let found = self.values.iter().find(|effective| effective.key == key);
        found.expect("every setting of the table has a value or none")
    }

    /// The settings in force, one a line: name, value, where it came from.
    pub fn table(&self) -> String {
        let shown = |effective: &Effective| {
            effective
                .value
                .clone()
                .unwrap_or_else(|| "(not set)".to_owned())
        };
        let key_width = self.values.iter().map(|e| e.key.len()).max().unwrap_or(0);
        let value_width = self
            .values
            .iter()
            .map(|e| shown(e).chars().count())
            .max()
            .unwrap_or(0)
            .min(48);
        let mut out = String::new();
        for effective in &self.values {
            let (key, value, origin) = (effective.key, shown(effective), &effective.origin);
            _ = writeln!(out, "{key:key_width$}  {value:value_width$}  {origin}");
        }
        out
    }
}

/// A TOML value as the text it stands for; tables and dates are no values of ours.
fn file_value(value: &DeValue<'_>) -> Option<Raw> {
    Some(match value {
        DeValue::String(text) => Raw::One(text.to_string()),
        DeValue::Integer(number) => Raw::One(
            i64::from_str_radix(number.as_str(), number.radix())
                .ok()?
                .to_string(),
        ),
        DeValue::Float(number) => Raw::One(number.as_str().to_owned()),
        DeValue::Boolean(on) => Raw::One(on.to_string()),
        DeValue::Array(items) => Raw::Many(
            items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Some(text.to_string()),
                    _ => None,
                })
                .collect::<Option<_>>()?,
        ),
        DeValue::Datetime(_) | DeValue::Table(_) => return None,
    })
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {noun}")
}

/// The nearest key, when it is near enough to be meant.
fn suggestion(key: &str) -> Option<&'static str> {
    let key = key.to_ascii_lowercase().replace('-', "_");
    SETTINGS
        .iter()
        .map(|setting| (edits(&key, setting.key), setting.key))
        .filter(|(distance, near)| *distance <= 1 + near.len() / 4)
        .min()
        .map(|(_, near)| near)
}

/// Levenshtein distance; keys are short.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let cost = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

// ---------------------------------------------------------------------------------------------------------------------
// Values

fn listen_address(text: &str) -> Option<SocketAddr> {
    if let Some(port) = text.strip_prefix(':') {
        return Some(SocketAddr::new(
            Ipv4Addr::UNSPECIFIED.into(),
            port_number(port)?,
        ));
    }
    if let Some(port) = text.strip_prefix("localhost:") {
        return Some(SocketAddr::new(
            Ipv4Addr::LOCALHOST.into(),
            port_number(port)?,
        ));
    }
    text.parse().ok()
}

fn port_number(text: &str) -> Option<u16> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// `http://host[:port][/path]` without its trailing slashes.
fn base_url(text: &str) -> Option<String> {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))?;
    let authority = rest.split('/').next()?;
    let clean = text
        .bytes()
        .all(|b| b.is_ascii_graphic() && !b"?#@\"<>\\^`{|}".contains(&b));
    (clean && !authority.is_empty() && !authority.starts_with(':'))
        .then(|| text.trim_end_matches('/').to_owned())
}

/// A refused URL is shown in a message, its credentials are not.
fn without_password(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => {
            format!("{}{MASK}{}", &text[..scheme + 3], &text[at..])
        }
        _ => text.to_owned(),
    }
}

fn cors(texts: &[String]) -> Option<Cors> {
    if texts.is_empty() || texts.len() > 64 {
        return None;
    }
    if texts.len() == 1 && texts[0] == "*" {
        return Some(Cors::Any);
    }
    let origin = |text: &String| {
        let (scheme, host) = text.split_once("://")?;
        let fits = !scheme.is_empty()
            && scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
            && !host.is_empty()
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
        // Browsers send both parts in lower case.
        fits.then(|| text.to_ascii_lowercase())
    };
    texts
        .iter()
        .map(origin)
        .collect::<Option<Vec<_>>>()
        .map(Cors::Origins)
}

/// A login cannot contain a colon (RFC 7617) and ours no space, so the first of either divides.
fn login(text: &str) -> Option<Login> {
    let (name, password) = text.split_once([' ', ':'])?;
    let fits = !name.is_empty() && !password.is_empty() && !text.chars().any(char::is_control);
    fits.then(|| Login {
        name: name.to_owned(),
        password: Secret::new(password),
    })
}

/// `64MiB`, `64M` (both powers of 1024), `64MB` (powers of 1000), `1048576`.
fn bytes(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => MIB,
        "g" | "gib" => GIB,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

fn bytes_text(bytes: u64) -> String {
    for (scale, unit) in [(GIB, "GiB"), (MIB, "MiB"), (1 << 10, "KiB")] {
        if bytes >= scale && bytes.is_multiple_of(scale) {
            return format!("{}{unit}", bytes / scale);
        }
    }
    bytes.to_string()
}

// ---------------------------------------------------------------------------------------------------------------------
// The shipped file

/// The commented example: every setting with its meaning and default, nothing switched on.
pub fn example() -> String {
    let mut out = String::from(
        "# Configuration of Weir. Nothing in it is needed: every line below shows the default or an example.\n\
         # A flag overrides the environment, the environment overrides this file. The setting `log_level` is the\n\
         # flag `--log-level` and the variable `CENTRAL_LOG_LEVEL`; so it is with all of them.\n\
         # Use it with `weir --config FILE` or CENTRAL_CONFIG=FILE; `weir check-config` tells what is in force and why.\n",
    );
    let mut group = None;
    for setting in SETTINGS {
        if group != Some(setting.group) {
            group = Some(setting.group);
            _ = writeln!(out, "\n## {}", setting.group.heading());
        }
        out.push('\n');
        for line in wrap(setting.doc, 110) {
            _ = writeln!(out, "# {line}");
        }
        let (value, note) = if setting.default.is_empty() {
            (setting.example, " (not set by default)")
        } else {
            (setting.default, "")
        };
        for line in wrap(&format!("Allowed: {}{note}.", setting.allowed()), 110) {
            _ = writeln!(out, "# {line}");
        }
        let value = match setting.kind {
            Kind::Number { .. } | Kind::Switch { .. } => value.to_owned(),
            Kind::List { .. } => format!("[{value:?}]"),
            _ => format!("{value:?}"),
        };
        _ = writeln!(out, "#{} = {value}", setting.key);
    }
    out
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("starts with one line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

// ---------------------------------------------------------------------------------------------------------------------
// The administrator's key

/// The key in force, and whether this start made it (then it is shown, once).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub key: Secret,
    pub newly_generated: bool,
}

/// File of the data directory that holds a generated key.
pub const API_KEY_FILE: &str = "api_key";

/// Characters of a generated key: 43 of 62 carry 256 bits.
const API_KEY_LENGTH: usize = 43;

/// The configured key, else the one in the data directory, else a new one that is on disk, readable by its owner only, before this returns.
/// Call it with the data directory existing and locked: two first starts at once would otherwise each show a key.
pub fn api_key(settings: &Settings) -> io::Result<ApiKey> {
    if let Some(key) = &settings.auth.api_key {
        return Ok(ApiKey {
            key: key.clone(),
            newly_generated: false,
        });
    }
    let data_dir = &settings.store.data_dir;
    if let Some(key) = stored_api_key(data_dir)? {
        return Ok(ApiKey {
            key,
            newly_generated: false,
        });
    }
    let key = generate_key()?;
    let path = data_dir.join(API_KEY_FILE);
    replace_file(&path, &format!("{key}\n"), 0o600)?;
    Ok(ApiKey {
        key: Secret::new(key),
        newly_generated: true,
    })
}

/// Puts a text in the place of a file, or of none: whoever opens the path at any moment, also after a crash, finds the old text or the new one.
pub fn replace_file(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = folder.join(name);
    let written = (|| {
        // A leftover of a process that was cut off; nobody was shown what is in it.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(folder)?.sync_all()
    })();
    written.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{}: cannot be written: {error}", path.display()),
        )
    })
}

/// The key a server keeps in this data directory, if there is one. A file that holds no usable key is an error: to go on would mean to
/// accept an empty key or to lock out everybody who has the old one.
pub fn stored_api_key(data_dir: &Path) -> io::Result<Option<Secret>> {
    let path = data_dir.join(API_KEY_FILE);
    let complain = |kind, what: &str| io::Error::new(kind, format!("{}: {what}", path.display()));
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(complain(error.kind(), &format!("cannot be read: {error}"))),
    };
    // The group is let in: an orchestrator that hands out a volume opens its files to one.
    if fs::metadata(&path)?.permissions().mode() & 0o007 != 0 {
        return Err(complain(
            io::ErrorKind::PermissionDenied,
            "everybody may read it; set its mode to 600, or delete it to get a new key",
        ));
    }
    let key = text.trim();
    if key.is_empty() || key.len() > 256 || !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(complain(
            io::ErrorKind::InvalidData,
            "holds no usable key; delete it to get a new one",
        ));
    }
    Ok(Some(Secret::new(key)))
}

/// Letters and digits drawn evenly: bytes above the last whole multiple of 62 are drawn again.
fn generate_key() -> io::Result<String> {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut key = String::with_capacity(API_KEY_LENGTH);
    while key.len() < API_KEY_LENGTH {
        let mut random = [0_u8; 64];
        getrandom::fill(&mut random)
            .map_err(|error| io::Error::other(format!("no random numbers: {error}")))?;
        let drawn = random
            .iter()
            .filter(|byte| **byte < 248)
            .map(|byte| ALPHABET[usize::from(*byte % 62)] as char);
        key.extend(drawn.take(API_KEY_LENGTH - key.len()));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect()
    }

    /// Read with a file of this text.
    fn read_with(
        text: &str,
        pairs: &[(&str, &str)],
        flags: &[(&'static str, &str)],
    ) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let path = folder.path().join("weir.toml");
        fs::write(&path, text).expect("written");
        let flags = flags
            .iter()
            .map(|(key, value)| (*key, vec![(*value).to_owned()]))
            .collect();
        read(Some(&path), &environment(pairs), &flags)
    }

    fn settings_with(text: &str) -> Settings {
        read_with(text, &[], &[])
            .expect("a good configuration")
            .settings
    }

    fn problem(text: &str) -> String {
        let error = read_with(text, &[], &[]).expect_err("a bad configuration");
        assert_eq!(error.problems.len(), 1, "{error}");
        error.problems[0].clone()
    }

    #[test]
    fn nothing_given_is_the_documented_start() {
        let config = read(None, &[], &Vec::new()).expect("defaults are good");
        let settings = &config.settings;
        assert_eq!(
            settings.http.listen,
            ["127.0.0.1:9019"
                .parse::<std::net::SocketAddr>()
                .expect("an address")]
        );
        assert_eq!(settings.store.data_dir, Path::new("./weir-data"));
        assert_eq!(
            (settings.http.poll_wait_max, settings.store.cache_bytes),
            (Duration::from_secs(50), 64 << 20)
        );
        assert_eq!(
            (settings.feed.streams_limit, settings.feed.restreaming),
            (0, Restreaming::Marked)
        );
        assert_eq!(
            (
                settings.log.level,
                settings.log.requests,
                &settings.http.cors
            ),
            (LogLevel::Info, false, &Cors::Off)
        );
        assert_eq!(config.warnings, Vec::<String>::new());
        assert!(
            config
                .values
                .iter()
                .all(|effective| effective.origin == Origin::Default)
        );
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
        let file = "log_level = \"error\"\n";
        let env = [("CENTRAL_LOG_LEVEL", "debug")];
        let flag = [("log_level", "alert")];
        for (text, pairs, flags, level, origin) in [
            ("", &[][..], &[][..], LogLevel::Info, "default"),
            (file, &[], &[], LogLevel::Error, "weir.toml line 1"),
            (
                file,
                &env,
                &[],
                LogLevel::Debug,
                "environment CENTRAL_LOG_LEVEL",
            ),
            (file, &env, &flag, LogLevel::Alert, "flag --log-level"),
            ("", &[], &flag, LogLevel::Alert, "flag --log-level"),
        ] {
            let config = read_with(text, pairs, flags).expect("good values");
            assert_eq!(config.settings.log.level, level);
            let effective = config
                .values
                .iter()
                .find(|effective| effective.key == "log_level")
                .expect("in the table");
            assert!(
                effective.origin.to_string().ends_with(origin),
                "{}",
                effective.origin
            );
        }
    }

    #[test]
    fn every_setting_is_read_from_file_environment_and_flag() {
        for setting in SETTINGS {
            let value = if setting.default.is_empty() {
                setting.example
            } else {
                setting.default
            };
            let origin_of = |config: Config| {
                let effective = config
                    .values
                    .into_iter()
                    .find(|effective| effective.key == setting.key);
                effective.expect("in the table").origin
            };
            let file = format!("\n{} = {value:?}\n", setting.key);
            assert!(
                matches!(
                    origin_of(read_with(&file, &[], &[]).expect(&file)),
                    Origin::File { line: 2, .. }
                ),
                "{file}"
            );
            let pairs = [(setting.variable(), value)];
            let pairs: Vec<(&str, &str)> = pairs
                .iter()
                .map(|(name, value)| (name.as_str(), *value))
                .collect();
            assert!(
                matches!(
                    origin_of(read_with("", &pairs, &[]).expect(value)),
                    Origin::Environment { .. }
                ),
                "{value}"
            );
            assert!(matches!(
                origin_of(read_with("", &[], &[(setting.key, value)]).expect(value)),
                Origin::Flag { .. }
            ));
        }
    }

    #[test]
    fn keys_variables_and_flags_are_unique_and_in_one_form() {
        let mut seen = std::collections::BTreeSet::new();
        for setting in SETTINGS {
            for name in std::iter::once(&setting.key).chain(setting.aliases) {
                assert!(seen.insert(*name), "{name} twice");
                assert!(
                    name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                    "{name}"
                );
            }
            assert!(setting.doc.ends_with('.'), "{}", setting.key);
            assert!(
                setting.default.is_empty() != setting.example.is_empty(),
                "{}: a default or an example",
                setting.key
            );
            assert!(
                !setting.secret || setting.default.is_empty(),
                "{}: no secret has a default",
                setting.key
            );
        }
    }

    #[test]
    fn the_shipped_example_is_current_and_says_the_defaults() {
        let shipped = include_str!("dist/weir.toml");
        assert_eq!(
            example(),
            shipped,
            "refresh it: cargo run -- print config > src/dist/weir.toml"
        );
        let switched_on: String = shipped
            .lines()
            .filter(|line| !line.starts_with("# ") && !line.starts_with("##"))
            .map(|line| line.trim_start_matches('#').to_owned() + "\n")
            .filter(|line| {
                let key = line.split(' ').next().unwrap_or("");
                Setting::find(key).is_some_and(|setting| !setting.default.is_empty())
            })
            .collect();
        assert_eq!(
            switched_on.lines().count(),
            SETTINGS
                .iter()
                .filter(|setting| !setting.default.is_empty())
                .count()
        );
        assert_eq!(settings_with(&switched_on), settings_with(""));
        let everything: String = shipped
            .lines()
            .filter(|line| !line.starts_with("# ") && !line.starts_with("##"))
            .map(|line| line.trim_start_matches('#').to_owned() + "\n")
            .collect();
        assert!(
            read_with(&everything, &[], &[]).is_ok(),
            "examples are good values"
        );
    }

    #[test]
    fn unknown_keys_are_told_with_line_and_a_suggestion() {
        let told = problem("# c\nlog_level = \"info\"\nlisen = \"127.0.0.1:1\"\n");
        assert!(
            told.starts_with("unknown setting \"lisen\" (")
                && told.ends_with("weir.toml line 3): did you mean \"listen\"?"),
            "{told}"
        );
        assert!(problem("[http]\nlisten = \"127.0.0.1:1\"\n").contains("unknown setting \"http\""));
        assert!(problem("zzzzzz = 1").contains("`weir print config` shows all"));
        assert!(problem("Log-Level = 1").contains("did you mean \"log_level\"?"));
        assert!(
            problem("log_level = \"info\"\nloglevel = \"error\"")
                .contains("set twice, in lines 1 and 2")
        );
    }

    #[test]
    fn bad_values_are_told_with_what_is_allowed_and_where_they_came_from() {
        let told = problem("\nhttp_port = 99999\n");
        assert!(told.starts_with("http_port = \"99999\" ("), "{told}");
        assert!(
            told.ends_with("weir.toml line 2): must be a whole number from 1 to 65535"),
            "{told}"
        );
        for (line, words) in [
            ("poll_wait_max = \"soon\"", "must be a length of time"),
            ("poll_wait_max = \"1h\"", "from 1s to 10m"),
            ("io_threads = -1", "from 0 to 256"),
            ("io_threads = \"+1\"", "from 0 to 256"),
            ("io_threads = 1.5", "whole number"),
            ("log_level = \"loud\"", "one of none, alert"),
            ("log_requests = \"perhaps\"", "true or false"),
            ("store_cache = \"64XB\"", "from 1MiB to 64GiB"),
            ("store_cache = 99999999999999999999", "weir.toml line 1"),
            ("listen = []", "addresses such as"),
            ("listen = \"example.com:80\"", "addresses such as"),
            ("listen = [\"127.0.0.1:1\", 5]", "an array in the file"),
            ("listen = 1979-05-27", "a datetime in the file"),
            ("data_dir = \"\"", "a path"),
            ("api_url = \"ftp://h\"", "begins with http"),
            ("cors_origins = [\"*\", \"http://a\"]", "origins such as"),
            ("cors_origins = \"http://a/path\"", "origins such as"),
            ("dynamic_streams_auth_token = \"a b\"", "letters, digits"),
        ] {
            let told = problem(line);
            assert!(told.contains(words), "{line}: {told}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once_also_in_values_that_are_overridden() {
        let error = read_with(
            "http_port = 0\nlog_level = \"loud\"\n",
            &[
                ("CENTRAL_IO_THREADS", "many"),
                ("CENTRAL_LOG_LEVEL", "info"),
            ],
            &[("poll_wait_max", "never")],
        )
        .expect_err("four mistakes");
        assert_eq!(error.problems.len(), 4, "{error}");
        assert!(
            error
                .to_string()
                .contains("(environment CENTRAL_IO_THREADS)"),
            "{error}"
        );
        assert!(
            error.to_string().contains("(flag --poll-wait-max)"),
            "{error}"
        );
    }

    #[test]
    fn secrets_are_in_no_message_and_no_table() {
        let canary = "CANARY with-space";
        for (key, value) in [
            ("api_key", canary),
            ("edit_auth", "CANARY"),
            ("dynamic_streams_auth_token", canary),
            ("api_url", "http://u:CANARY@h"),
        ] {
            let told = problem(&format!("{key} = {value:?}"));
            assert!(told.contains("***") && !told.contains("CANARY"), "{told}");
        }
        let broken = problem("api_key = \"CANARY\nlisten");
        assert!(!broken.contains("CANARY"), "{broken}");
        let config = read_with(
            "",
            &[],
            &[
                ("api_key", "CANARY-0123456789"),
                ("edit_auth", "admin CANARY"),
            ],
        )
        .expect("good");
        assert!(!format!("{config:?}{}", config.table()).contains("CANARY"));
        assert_eq!(
            config.settings.auth.api_key.expect("given").expose(),
            "CANARY-0123456789"
        );
    }

    #[test]
    fn files_that_cannot_be_read_are_told() {
        let error =
            read(Some(Path::new("/no/such/file.toml")), &[], &Vec::new()).expect_err("no file");
        assert!(
            error
                .to_string()
                .contains("/no/such/file.toml: cannot be read"),
            "{error}"
        );
        assert!(
            problem("listen = ").contains("weir.toml line 1: "),
            "syntax errors name the line"
        );
        let named = read(
            None,
            &environment(&[(CONFIG_VARIABLE, "/no/such/other.toml")]),
            &Vec::new(),
        );
        assert!(
            named
                .expect_err("no file")
                .to_string()
                .contains("/no/such/other.toml")
        );
    }

    #[test]
    fn variables_that_do_nothing_are_warned_of() {
        let config = read(
            None,
            &environment(&[
                ("CENTRAL_DATABASE_URL", "postgres://u:CANARY@h/db"),
                ("CENTRAL_LOG_LEVL", "x"),
                ("CENTRAL_API_KEY", ""),
                ("CENTRALISED", "x"),
                ("HOME", "/"),
            ]),
            &Vec::new(),
        )
        .expect("warnings stop nothing");
        assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
        assert!(config.warnings[0].starts_with("CENTRAL_DATABASE_URL is ignored: "));
        assert!(
            config.warnings[1].ends_with("did you mean CENTRAL_LOG_LEVEL?"),
            "{}",
            config.warnings[1]
        );
        assert!(!config.warnings.concat().contains("CANARY"));
        assert_eq!(
            config.settings.auth.api_key, None,
            "an empty variable is not set"
        );
    }

    #[test]
    fn the_stronger_of_listen_and_http_port_counts() {
        let listen = |text: &str, pairs: &[(&str, &str)], flags: &[(&'static str, &str)]| {
            let config = read_with(text, pairs, flags).expect("good");
            let addresses: Vec<String> = config
                .settings
                .http
                .listen
                .iter()
                .map(SocketAddr::to_string)
                .collect();
            (addresses.join(" "), config.warnings.len())
        };
        let port = [("CENTRAL_HTTP_PORT", "80")];
        assert_eq!(listen("", &port, &[]), ("0.0.0.0:80".to_owned(), 0));
        assert_eq!(
            listen("listen = [\"127.0.0.1:1\", \"[::1]:2\"]", &[], &[]),
            ("127.0.0.1:1 [::1]:2".to_owned(), 0)
        );
        assert_eq!(
            listen("listen = \"127.0.0.1:1\"", &port, &[]),
            ("0.0.0.0:80".to_owned(), 1)
        );
        assert_eq!(
            listen("", &port, &[("listen", "localhost:0")]),
            ("127.0.0.1:0".to_owned(), 1)
        );
        assert_eq!(
            listen("listen = \":7\"\nhttp_port = 80", &[], &[]),
            ("0.0.0.0:7".to_owned(), 1)
        );
    }

    #[test]
    fn values_take_the_forms_people_write() {
        assert_eq!(
            settings_with("store_cache = \"1GiB\"").store.cache_bytes,
            1 << 30
        );
        assert_eq!(
            settings_with("store_cache = \"64 M\"").store.cache_bytes,
            64 << 20
        );
        assert_eq!(
            settings_with("store_cache = \"2MB\"").store.cache_bytes,
            2_000_000
        );
        assert_eq!(
            settings_with("store_cache = 0x100000").store.cache_bytes,
            1 << 20
        );
        assert_eq!(
            settings_with("poll_wait_max = 30000").http.poll_wait_max,
            Duration::from_secs(30)
        );
        assert_eq!(
            settings_with("poll_wait_max = \"1m30s\"")
                .http
                .poll_wait_max,
            Duration::from_secs(90)
        );
        assert!(settings_with("log_requests = true").log.requests);
        assert!(settings_with("log_requests = \"on\"").log.requests);
        assert_eq!(
            settings_with("loglevel = \"Warning\"").log.level,
            LogLevel::Warning
        );
        assert_eq!(settings_with("io_threads = 3").http.io_threads, Some(3));
        assert_eq!(
            settings_with("api_url = \"http://h:1/x/\"")
                .http
                .api_url
                .as_deref(),
            Some("http://h:1/x")
        );
        assert_eq!(settings_with("cors_origins = \"*\"").http.cors, Cors::Any);
        let origins = Cors::Origins(vec![
            "https://a.example".to_owned(),
            "http://b:8080".to_owned(),
        ]);
        assert_eq!(
            settings_with("cors_origins = \"https://A.example, http://b:8080\"")
                .http
                .cors,
            origins
        );
    }

    #[test]
    fn the_first_space_or_colon_ends_the_login() {
        for (text, name, password) in [
            ("admin secret", "admin", "secret"),
            ("admin:secret", "admin", "secret"),
            ("admin se:cr et", "admin", "se:cr et"),
            ("admin:se cret", "admin", "se cret"),
        ] {
            let login = login(text).expect(text);
            assert_eq!(
                (login.name.as_str(), login.password.expose()),
                (name, password)
            );
        }
        for text in ["admin", "admin:", " secret", ":secret", "a b\n"] {
            assert_eq!(login(text), None, "{text:?}");
        }
    }

    fn in_directory(folder: &Path) -> Settings {
        let mut settings = Settings::default();
        settings.store.data_dir = folder.to_path_buf();
        settings
    }

    #[test]
    fn a_key_is_made_once_and_kept_for_its_owner() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let settings = in_directory(folder.path());
        fs::write(folder.path().join("api_key.tmp"), "cut off").expect("written");
        let first = api_key(&settings).expect("made");
        assert!(first.newly_generated);
        assert_eq!(first.key.expose().len(), API_KEY_LENGTH);
        let path = folder.path().join(API_KEY_FILE);
        assert_eq!(
            fs::metadata(&path).expect("there").permissions().mode() & 0o777,
            0o600
        );
        let second = api_key(&settings).expect("read");
        assert_eq!(
            (second.key, second.newly_generated),
            (first.key.clone(), false)
        );
        let other = tempfile::tempdir().expect("a scratch directory");
        assert_ne!(
            api_key(&in_directory(other.path())).expect("made").key,
            first.key
        );
    }

    #[test]
    fn a_configured_key_counts_and_leaves_no_file() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let mut settings = in_directory(folder.path());
        settings.auth.api_key = Some(Secret::new("configured"));
        let key = api_key(&settings).expect("given");
        assert_eq!(
            (key.key.expose(), key.newly_generated),
            ("configured", false)
        );
        assert!(!folder.path().join(API_KEY_FILE).exists());
    }

    #[test]
    fn a_key_file_that_cannot_be_trusted_is_an_error() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let path = folder.path().join(API_KEY_FILE);
        for text in ["", "\n", "two words", "caf\u{e9}"] {
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
            let error = api_key(&in_directory(folder.path())).expect_err(text);
            assert!(error.to_string().contains("no usable key"), "{error}");
        }
        fs::write(&path, "good-key").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("ours");
        assert!(
            api_key(&in_directory(folder.path()))
                .expect_err("open to all")
                .to_string()
                .contains("everybody may read it")
        );
        let nowhere = in_directory(&folder.path().join("absent"));
        assert!(
            api_key(&nowhere)
                .expect_err("no directory")
                .to_string()
                .contains("cannot be written")
        );
    }

    proptest! {
        #[test]
        fn no_file_panics(text in "(listen|api_key|store_cache|\\PC{0,8}|[\\[\\]=\"'\n. 0-9]){0,12}") {
            let _ = read_with(&text, &[], &[]);
        }

        #[test]
        fn sizes_are_read_back(amount in 1_u64..1 << 44) {
            prop_assert_eq!(bytes(&bytes_text(amount)), Some(amount));
        }
    }
}
