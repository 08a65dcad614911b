//! The table: one row per setting.
//!
//! A row makes the field of the typed struct, the key of the TOML file, the variable, the flag, its
//! help, the entry of the shipped file and the member of the `/config` document. See [`settings`]
//! for the form of a row. A setting without an effect does not belong here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use super::scalar::{GIB, MIB, RawValue};
use super::setting::{
    self, Effect, MemberShape, SettingRule, Written, bytes, number, settings, switch, time,
};
use super::value::{
    API_KEY, API_URL, BALANCE, COLLECTOR, CORS, DIRECTORY, FILE, LABEL_KEY, LISTEN, LOG_LEVEL,
    LOGIN, LayouterBalance, LogLevel, Login, PIN_THREADS, PORT, PROXIES, PinThreads, RESTREAMING,
    STORAGE_LOG, SUBNETS, Secret, Shown as _, URL_TOKEN,
};
use crate::http::Cors;
use crate::limits::{EPISODES_DELAY_MS_MAX, EPISODES_LIMIT_MAX};
use crate::state::node::Restreaming;
use crate::subnet::Subnets;
use crate::traces::Collector;
use weir_storage::LogKind;

/// One setting of this server.
pub type Setting = setting::Setting<Settings>;
/// A setting as the document of `/config` has it.
pub type ConfigMember = setting::ConfigMember<Settings>;

impl Setting {
    /// Finds a setting by its key or another spelling of it.
    pub fn find(key: &str) -> Option<&'static Self> {
        SETTINGS
            .iter()
            .find(|setting| setting.keys().any(|known| known == key))
    }

    /// `poll-wait-max`, without the dashes before it.
    pub fn flag(&self) -> &'static str {
        static FLAGS: LazyLock<Vec<(&str, String)>> = LazyLock::new(|| {
            let flag = |setting: &Setting| (setting.key, setting.key.replace('_', "-"));
            SETTINGS.iter().map(flag).collect()
        });
        let found = FLAGS.iter().find(|(key, _)| *key == self.key);
        &found.expect("settings exist in the table only").1
    }

    /// Whether the value is allowed.
    pub fn accepts(&self, text: &str) -> bool {
        (self.set)(&mut Settings::default(), &RawValue::One(text.to_owned()))
    }
}

const ZERO: Duration = Duration::ZERO;
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const YEARS_10: Duration = Duration::from_hours(24 * 3650);

const BUFFER_DELAY_MAX: Duration = ms(EPISODES_DELAY_MS_MAX as u64);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[rustfmt::skip]
settings! {
    /// Listeners, io threads, connections.
    http: HttpSettings, "Listening" {
        /// Address and port to serve HTTP on; may be given several times. Port 0 takes a free port;
        /// the server prints the addresses it listens on.
        listen("listen"): Vec<SocketAddr> = LISTEN, Default "127.0.0.1:9019", AtStart;
        /// Short for listening on this port of all IPv4 addresses. Of `listen` and `http_port` the
        /// one from the stronger source counts; from the same source, `listen`.
        port("http_port"): Option<u16> = PORT, Example "9019", AtStart;
        /// The URL under which other hosts reach this server, for instance the URL of a load
        /// balancer in front of it. Printed at the start; the default of `weir import --url`.
        api_url("api_url"): Option<String> = API_URL,
            Example "http://weir.example.com:9019", AtOnce, Text "/api_url";
        /// Origins whose web pages may call the API from a browser. Not set: none.
        cors("cors_origins"): Cors = CORS, Example "https://panel.example.com", AtStart;
        /// Threads that serve connections, each with its own ring; 0 is one per processor, without
        /// the layouter's if it has one (see `pin_threads`).
        io_threads("io_threads"): usize = number(0, 256), Default "0", AtStart;
        /// `auto`: with the layouter enabled and at least three processors, the layouter has the
        /// last processor for itself and each connection thread is pinned to one of the others.
        /// `off`: no thread is pinned. Enabling the layouter later does not pin it.
        pin_threads("pin_threads"): PinThreads = PIN_THREADS, Default "auto", AtStart;
        /// Open connections of all threads together. The limit on open files of the process must be
        /// more than a third higher: a quarter of it is for connections to streamers. One address
        /// gets at most half of them, unless it is a trusted proxy, and the last thirty-second part
        /// (at most 256 per thread) is reserved for probes.
        connections_max("connections_max"): usize =
            number(16, 10_000_000), Default "100000", AtStart;
        /// How long an open connection is kept without a request; sent as `Keep-Alive`. Longer than
        /// the time after which a load balancer in front of this server closes its side (often
        /// 60 s), or it may send a request into a connection that is being closed.
        connection_idle_timeout("connection_idle_timeout"): Duration =
            time(secs(1), secs(3600)), Default "75s", AtStart;
        /// Memory of each connection thread for requests that are arriving, and for answers that
        /// clients have not taken yet. Each gets half. When it is used up, requests are refused
        /// with 503 and `Retry-After`; one body of any size fits into an idle thread.
        connection_buffers("connection_buffers"): usize =
            bytes(16 * MIB, 64 * GIB), Default "256MiB", AtStart;
        /// Size at which a page of a list ends, whatever its limit: with the item that reaches it.
        /// `next` leads to the rest. Lists that streamers read for their configuration have no such
        /// end.
        list_page_bytes("list_page_bytes"): usize = bytes(64 * 1024, GIB), Default "4MiB", AtStart;
        /// Serve the web interface at `/ui/`. Its files need no credentials; it logs in with a key
        /// or with the login. A build without Node.js has no interface; `weir --version` states it.
        ui("ui"): bool = switch(), Default "true", AtStart;
        /// Addresses of proxies in front of this server. What they send as `X-Real-IP` (or, without
        /// it, `X-Forwarded-For`) is the address of the client, in the event log, the request log
        /// and rules about countries. A proxy must set or remove `X-Real-IP`. `loopback` is
        /// 127.0.0.0/8 and ::1; `none` trusts no address.
        trusted_proxies("trusted_proxies"): Subnets = PROXIES, Default "loopback", AtStart;
        /// Longest time a request with `poll_timeout` waits; a longer timeout is shortened to this.
        /// Keep it below the read timeout of a proxy in front (60 s in nginx).
        poll_wait_max("poll_wait_max"): Duration = time(secs(1), secs(600)), Default "50s", AtStart;
        /// After TERM, how long idle connections stay open: what arrives on them is answered, with
        /// `Connection: close`, so that no request is lost on its way. 0 closes them at once.
        drain_delay("drain_delay"): Duration = time(ZERO, secs(60)), Default "1s", AtStart;
        /// After that, how long running requests may take to finish before the process ends.
        drain_timeout("drain_timeout"): Duration = time(ZERO, secs(600)), Default "10s", AtStart;
    }

    /// Credentials of the administrator.
    auth: AuthSettings, "Access" {
        /// The administrator's key, sent as `Authorization: Bearer KEY`. Not set: generated at the
        /// first start, stored in the data directory (file `api_key`, readable by its owner only)
        /// and printed once.
        api_key("api_key"): Option<Secret> = API_KEY,
            Example "a-long-random-text", AtOnce, Text "/api_key";
        /// The administrator's login and password for HTTP Basic, `login password` or
        /// `login:password`. The first space or colon ends the login; the password may contain more
        /// of them.
        edit_auth("edit_auth"): Option<Login> = LOGIN,
            Example "admin a-long-password", AtOnce, Login "/edit_auth";
    }

    /// The store and the event log.
    store: StoreSettings, "Storage" {
        /// Directory of everything that must survive a restart. Created if absent. Used by one
        /// process at a time.
        data_dir("data_dir"): PathBuf = DIRECTORY, Default "./weir-data", AtStart;
        /// Memory for pages of the store. Requests never read from the store, so this speeds up
        /// writes and the start only.
        cache_bytes("store_cache"): usize = bytes(MIB, 64 * GIB), Default "64MiB", AtStart;
        /// Where a save becomes durable before it is answered. `append`: in a log of its own
        /// (`weir.log.*`, up to 512 MiB), from which the store is filled in the background.
        /// `redb`: in the store itself, which is slower and writes more. Either opens what the
        /// other left. Versions that know no log refuse a store that has one.
        log("storage_log"): LogKind = STORAGE_LOG, Default "append", AtStart;
        /// Space on disk that is kept aside, so that a full disk can be emptied by deleting. Given
        /// up while the disk is full; saves are refused then. 0 keeps none.
        reserve_bytes("store_reserve"): usize = bytes(0, 64 * GIB), Default "64MiB", AtStart;
        /// Bytes per second of a backup that a client downloads, at most. What is left of the disk
        /// and the processors belongs to saves.
        backup_rate("backup_rate"): usize = bytes(64 * 1024, 64 * GIB), Default "32MiB", AtStart;
        /// A client that takes longer to download a backup is disconnected: until its end, the
        /// memory of what is deleted and replaced meanwhile is not free.
        backup_time_max("backup_time"): Duration = time(secs(1), DAY), Default "1h", AtStart;
        /// How long the event log keeps an event.
        events_age_max("events_age"): Duration = time(secs(60), YEARS_10), Default "30d", AtStart;
        /// Size limit of the event log, in memory and on disk. The oldest events are removed first.
        /// 0 disables the log.
        events_bytes_max("events_size"): usize = bytes(0, 16 * GIB), Default "32MiB", AtStart;
    }

    /// Timeouts of agents.
    agents: AgentSettings, "Streamers" {
        /// How long a command to an agent (reboot, reset, logs) waits for the reply.
        command_timeout("agent_command_timeout"): Duration =
            time(ms(1), secs(50)), Default "10s", AtStart;
        /// An agent that sends nothing for this long is disconnected. Agents are configured to ping
        /// three times as often.
        silence_max("agent_silence"): Duration = time(ms(100), HOUR), Default "60s", AtStart;
    }

    /// Configuration sent to streamers.
    feed: FeedSettings, "Streamers" {
        /// Streams per page that a streamer gets when its request has no `limit`; 0 sends all
        /// streams in one response, which no change can divide. 100 is the reference's value.
        streams_limit("streamer_streams_limit"): usize = number(0, 10_000), Default "0", AtStart;
        /// Which streamers may pull any stream of the cluster when a viewer requests it: none,
        /// those with `is_restreamer`, or all.
        restreaming("restreaming"): Restreaming = RESTREAMING, Default "marked", AtStart;
        /// Token in the URLs by which one streamer pulls a stream from another (`?token=`).
        pull_token("dynamic_streams_auth_token"): Option<Secret> = URL_TOKEN,
            Example "another-long-random-text", AtStart;
        /// Memory for responses to streamers, kept rendered and compressed until their content
        /// changes.
        cache_bytes("config_cache"): usize = bytes(MIB, 64 * GIB), Default "256MiB", AtStart;
    }

    /// Requests to streamers.
    fleet: FleetSettings, "Streamers" {
        /// Whether this server queries its streamers for their stats and those of their streams, as
        /// if they reported them. Queried are streamers of the kind `flussonic` with an `api_url`
        /// that do not report themselves, every `fetch_timeout` of the streamer (5 s unless it has
        /// one; an eighth of `streamer_dead_timeout` at most), with a signature made with their
        /// `cluster_key`. After a time in which they were not seen, their recordings become
        /// automatic episodes. Off: nothing is sent to a streamer that no request needs.
        queries("streamer_queries"): bool = switch(), Default "false", AtOnce;
        /// How often each request of a query is repeated if the connection was refused or broken or
        /// the status is 5xx, after pauses that double from 0.1 s, while the time of the query
        /// (`fetch_timeout`) is not over.
        connector_retries("cluster_streamer_connector_retries"): u64 = number(0, 1000),
            Default "5", AtOnce, Count "/cluster/streamer_connector_retries";
        /// Failed queries within an hour after which the health check of a streamer is an error.
        /// When as many fail in a row, that is logged.
        healthcheck_fails_threshold("streamer_healthcheck_fails_threshold"): u64 =
           number(1, 1_000_000), Default "5", AtOnce, Count "/streamer_healthcheck_fails_threshold";
        /// How often the configuration of each provisioned streamer is compared with what was
        /// written to it; after failures, and while it changes each time, after pauses that double
        /// to 60 s.
        reconciliation_interval("config_external_reconciliation_interval"): Duration =
            time(ms(1), HOUR), Default "5s", AtOnce, Ms "/config_external_reconciliation_interval";
        /// Whether this server writes to the streamers that it queries (`streamer_queries`) the
        /// part of their configuration that belongs to the cluster: the members of their `config`,
        /// `config_external` (their path under `api_url`, if that is set) and `auth_backends` (all,
        /// if there are any). They are written after the start and after changes, and again when a
        /// streamer shows something else than after the write. Nothing else of its configuration is
        /// named. Off if an orchestrator configures streamers.
        provision_enabled("cluster_node_config_provision_enabled"): bool = switch(),
            Default "false", AtOnce, Flag "/cluster/node_config_provision_enabled";
    }

    /// Group commit and retention of episodes.
    episodes: EpisodeSettings, "Episodes" {
        /// Longest time a save of an episode waits for others, to be written to disk together with
        /// them. The response is sent when the episode is on disk. While episodes are saved one
        /// after another, none of them waits. 0 writes each at once.
        buffer_delay("episodes_buffer_delay"): Duration =
            time(ZERO, BUFFER_DELAY_MAX), Default "1s", AtOnce, Ms "/episodes_buffer_delay";
        /// When more saves of episodes than this wait, they are written at once. 0 writes each at
        /// once.
        buffer_limit("episodes_buffer_limit"): usize = number(0, EPISODES_LIMIT_MAX as u64),
            Default "250", AtOnce, Count "/episodes_buffer_limit";
        /// How long an episode is kept after it was closed, or after its last change if that was
        /// later. Then streamers may erase the recording it protected. After a jump of the wall
        /// clock by more than a day, nothing expires for a day. 0 keeps episodes until they are
        /// deleted.
        kept("episodes_kept"): Duration = time(ZERO, YEARS_10), Default "90d", AtStart;
    }

    /// Authorization of viewers' sessions.
    viewers: ViewerSettings, "Viewers" {
        /// Database of countries in MaxMind's format, read at the start. Not set: rules of
        /// authorization backends and load balancers about countries match no viewer.
        geoip_database("geoip_database"): Option<PathBuf> = FILE,
            Example "/usr/share/GeoIP/GeoLite2-Country.mmdb", AtStart;
        /// How long all HTTP backends of an authorization backend together may take to decide about
        /// a session. A later reply is ignored.
        auth_backend_timeout("auth_backend_timeout"): Duration = time(ms(100), secs(30)),
            Default "3s", AtStart;
        /// Memory for decisions of HTTP backends about sessions, about 400 bytes each. When it is
        /// full, the oldest decision is dropped and requested again when needed.
        sessions_bytes("auth_sessions_cache"): usize =
            bytes(MIB, 64 * GIB), Default "64MiB", AtStart;
    }

    /// Calls to other servers.
    outbound: OutboundSettings, "Calls to other servers" {
        /// Concurrent calls to other servers, such as HTTP backends of authorization backends. One
        /// server gets at most half of them.
        threads("outbound_threads"): usize = number(2, 512), Default "32", AtStart;
        /// Addresses that are never called, in addition to link-local addresses and the metadata
        /// addresses of clouds. Not set: private networks may be called, because streamers live
        /// there.
        denied("outbound_deny"): Subnets = SUBNETS, Example "10.0.0.0/8", AtStart;
        /// Whether services on this machine (127.0.0.1, ::1) may be called. This server itself is
        /// never called.
        loopback("outbound_loopback"): bool = switch(), Default "false", AtStart;
    }

    /// Placement of streams.
    layouter: LayouterSettings, "Layouter" {
        /// Place streams on streamers automatically. While it is off, a stream moves only when its
        /// layout is set through the API.
        enabled("layouter_enabled"): bool = switch(),
            Default "false", AtOnce, Word "/layouter_enabled";
        /// Pause between two rounds of fail-back and balancing. New streams and the streams of a
        /// lost streamer do not wait for it.
        interval("layouter_sleeping_interval"): Duration = time(ms(100), HOUR),
            Default "30s", AtOnce, Ms "/layouter_sleeping_interval";
        /// A streamer that neither polls its configuration nor reports for this long is lost, and
        /// its streams move to others. Every other timeout of the layouter is a multiple of it. A
        /// poll of a configuration waits for a third of it at most.
        dead_timeout("streamer_dead_timeout"): Duration = time(secs(1), HOUR),
            Default "60s", AtOnce, Ms "/streamer_dead_timeout";
        /// Move streams back to a streamer that was lost and has been steady again.
        failback("layouter_failback"): bool = switch(),
            Default "true", AtOnce, Word "/layouter_failback";
        /// Move streams, a few at a time, from a streamer that is much fuller than another one that
        /// may run them. Streamers without `channel_limit` are compared by their streams.
        rebalance("layouter_rebalance"): bool = switch(),
            Default "true", AtOnce, Word "/layouter_rebalance";
        /// Place a stream nowhere for an hour, or until it is edited, if it came to two streamers
        /// shortly before each was lost.
        quarantine("layouter_quarantine"): bool = switch(), Default "true", AtOnce;
        /// A stream that was moved to a preferred streamer or for balance, or moved back, is not
        /// moved again for such a reason for this long; one that an operator placed, not for
        /// balance.
        stream_pause("layouter_stream_pause"): Duration = time(ZERO, DAY),
            Default "10m", AtOnce;
        /// Moves to preferred streamers and for balance per hour, in percent of all streams, but at
        /// least 100. `0`: none.
        moves_per_hour("layouter_moves_per_hour"): usize = number(0, 1000),
            Default "20", AtOnce;
        /// When a planned move (back after a failure, to a preferred streamer, for balance, through
        /// the API) takes a stream from a streamer, that one keeps the stream until the new one
        /// reports that it runs there, but no longer than this. `0`: the old one is stopped at
        /// once. Streams that record, push, are published, use an agent or have a template are
        /// never kept. A further move, or a restart of this server, begins the time again. The end
        /// changes the stream: its `updated_at` and ETag move. Moves through the API hand over
        /// while the layouter is off, too.
        handover("layouter_handover"): Duration = time(ZERO, HOUR),
            Default "20s", AtOnce;
        /// Streams that may move in a chain, each into the room that the next one leaves, so that
        /// one more stream can be placed. `0`: none moves for another.
        chain_length_max("layouter_chain_length_max"): usize = number(0, 16),
            Default "8", AtOnce;
        /// How full a streamer is: the fullest of its channels, bandwidth and disk, or its channels
        /// alone.
        balance("layouter_balance"): LayouterBalance = BALANCE, Default "dominant", AtOnce;
        /// Whether the DVR backup of a stream counts against the `channel_limit` of its streamer.
        backups_count_as_channels("layouter_backups_count_as_channels"): bool = switch(),
            Default "true", AtOnce, Word "/layouter_backups_count_as_channels";
        /// Move the streams of a lost streamer to their DVR backups, instead of to the least loaded
        /// streamer.
        failover_to_backup("layouter_failover_to_backup"): bool = switch(), Default "false", AtOnce;
        /// Streamers with the same value of this label fail together; the copies of an archive are
        /// kept on streamers with different values where possible.
        failure_domain_label("layouter_failure_domain_label"): Option<String> = LABEL_KEY,
            Example "dc", AtOnce;
    }

    /// The log on stderr.
    log: LogSettings, "Logging" {
        /// What is written to the log on stderr: this level and everything more urgent.
        level("log_level" | "loglevel"): LogLevel =
            LOG_LEVEL, Default "info", AtOnce, Text "/loglevel";
        /// Write a line for every response.
        requests("log_requests"): bool = switch(), Default "false", AtOnce, Word "/log_requests";
    }

    /// Spans of requests, for a collector of traces.
    traces: TraceSettings, "Tracing" {
        /// Where spans are sent, by OTLP over HTTP; `/v1/traces` is added to the path unless it
        /// ends so. The parameter `service_name` names this server there. Not set: the variable
        /// `OTEL_EXPORTER_OTLP_ENDPOINT`; if that is not set either, no spans are recorded.
        collector("opentelemetry_url"): Option<Collector> = COLLECTOR,
            Example "http://127.0.0.1:4318?service_name=weir", AtOnce, Text "/opentelemetry_url";
        /// Of the requests without `traceparent`, one in so many is recorded; 0: none. The caller
        /// decides about a request with `traceparent`.
        one_in("trace_one_in"): u64 = number(0, 1_000_000_000), Default "100", AtOnce;
    }
}

/// Settings of the reference and of earlier versions that have no effect, and why. They are
/// reported and do not prevent a start.
pub(super) const IGNORED: &[(&str, &str)] = &[
    (
        "database_url",
        "the state lives in the data directory, there is no database to connect to",
    ),
    (
        "redis_url",
        "temporary data lives in memory, there is no Redis to connect to",
    ),
    ("license_key", "no licence is needed"),
];
