//! Settings: one table that yields the file, the environment, the flags, `--help`, the shipped example and the effective values.
//!
//! Each setting has one name. `poll_wait_max` is the key `poll_wait_max` of the TOML file, the variable `CENTRAL_POLL_WAIT_MAX` and the flag
//! `--poll-wait-max`; nothing else has to be remembered or kept in step. Precedence: flag, environment, file, default. Every value
//! that is given is checked, also one that a stronger source overrides, and all mistakes are told at once. Values are parsed
//! once into the types the program works with; a component gets its own part of [`Settings`] and never sees a text.
//!
//! A setting that does nothing is not in the table. Variables of the reference that mean nothing here are told by name
//! ([`IGNORED`]). Opening, binding and creating are left to the components: reading a configuration touches one file at most.

mod api_key;
mod example;
pub mod journal;
mod read;
pub mod running;
mod save;
mod table;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::layouter::controller::ControllerSettings;
use crate::subnet::Subnets;

pub use api_key::{ApiKey, api_key, stored_api_key};
pub use example::example;
pub use read::{
    CONFIG_VARIABLE, Config, ConfigError, Effective, FILE_IN_DATA_DIR, Flags, Origin, Sources,
    read, read_again,
};
pub use save::{SaveError, Wanted, replace_file};
pub use table::{Group, Kind, SETTINGS, Setting};

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
    pub layouter: ControllerSettings,
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
