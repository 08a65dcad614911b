//! The table of settings.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use super::read::Raw;
use super::value::{GIB, MIB, base_url, bytes, bytes_text, cors, listen_address, login};
use super::{LogLevel, Restreaming, Secret, Settings};
use crate::layouter::Balance;
use crate::subnet::Subnets;
use crate::{duration, limits};

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
pub(super) const IGNORED: &[(&str, &str)] = &[
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
    pub(super) fn set(&self, settings: &mut Settings, raw: &Raw) -> bool {
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

pub(super) fn variable(key: &str) -> String {
    format!("CENTRAL_{}", key.to_ascii_uppercase())
}

fn within<T: PartialOrd + Copy>(value: Option<T>, min: T, max: T) -> Option<T> {
    value.filter(|value| *value >= min && *value <= max)
}
