//! Command line, and the refusal to load a host that is not ours.

use crate::control::Target;
use crate::prepare::Spread;
use crate::requests::EditField;
use crate::schedule::Nanos;
use crate::streamers::Validator;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// Load tool of Weir: fleets of simulated streamers and operators, measured open-loop, with a proof
/// at the end.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 120, args_override_self = true)]
#[command(
    after_help = "Exit codes: 0 passed, 1 failed (faults, errors, no answers), 2 wrong usage or a \
     target that is refused."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// Server, plain HTTP
    #[arg(long, global = true, default_value = "http://127.0.0.1:9019")]
    pub url: String,
    /// Path prefix of the API
    #[arg(long, global = true, default_value = "/central/api/v3")]
    pub prefix: String,
    /// Administrator's key
    #[arg(
        long,
        global = true,
        env = "CENTRAL_API_KEY",
        hide_env_values = true,
        default_value = ""
    )]
    pub api_key: String,
    /// Allow a target that is not this machine
    #[arg(long, global = true)]
    pub i_own_this_host: bool,
    /// Client threads, each with its own event loop
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=16))]
    pub threads: u64,
    /// Source address of connections, repeatable, taken in turn (127.0.0.2, 127.0.0.3, ..: more
    /// than 28,000 connections)
    #[arg(long, global = true)]
    pub source: Vec<IpAddr>,
    /// Write the figures as JSON to this file, - for standard output
    #[arg(long, global = true)]
    pub json: Option<String>,
    /// Write the report as a page with plots to this file
    #[arg(long, global = true)]
    pub html: Option<PathBuf>,
    /// Same seed, same cluster and same choices
    #[arg(long, global = true, default_value_t = 1)]
    pub seed: u64,
    /// Measured part of the run
    #[arg(long, global = true, default_value = "10s", value_parser = duration)]
    pub duration: Nanos,
    /// Warm-up before it, not measured
    #[arg(long, global = true, default_value = "2s", value_parser = duration)]
    pub warm_up: Nanos,
    /// End after this many requests of each kind
    #[arg(long, global = true, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: u64,
    /// Longest wait for an answer (parked polls: on top of their own)
    #[arg(long, global = true, default_value = "10s", value_parser = duration)]
    pub timeout: Nanos,
    /// Longest wait at the end for streamers to receive the last changes
    #[arg(long, global = true, default_value = "20s", value_parser = duration)]
    pub settle: Nanos,
    /// Longest time until a parked streamer has received the last change
    #[arg(long, global = true, default_value = "1s", value_parser = duration)]
    pub grace: Nanos,
    /// Errors (timeouts, refused connections, unexpected statuses) that do not yet fail the run
    #[arg(long, global = true, default_value_t = 0)]
    pub errors_allowed: u64,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a cluster through the API: streamers, streams, labels, layouts
    Prepare(Prepare),
    /// Compare every streamer's list with the list of streams, its ETag, its encodings and its
    /// changes
    Verify,
    /// Streamers poll every few seconds
    Fleet(Fleet),
    /// Streamers park polls, operators edit: time until the streamer has the edit
    Longpoll(Longpoll),
    /// Read single streams
    Get(Rate),
    /// Save single streams
    Put(Put),
    /// Page through the list of streams
    List(List),
    /// All streamers reconnect at once
    Storm(Storm),
    /// All loads together
    Mixed(Mixed),
    /// Agents connect and execute commands, operators command and move them
    Agents(Agents),
    /// Streamers fall silent, the layouter moves their streams (server with --layouter-enabled)
    Failover(Failover),
}

#[derive(Debug, Args)]
pub struct Prepare {
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub streamers: u64,
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    pub streams: u64,
    /// How streams are laid out over streamers
    #[arg(long, value_enum, default_value_t = Spread::Even)]
    pub spread: Spread,
    /// Share of streams with a DVR backup
    #[arg(long, default_value_t = 0.1)]
    pub backups: f64,
    /// Different values per label
    #[arg(long, default_value_t = 10)]
    pub labels: u64,
    /// Bytes of comment per stream
    #[arg(long, default_value_t = 0)]
    pub padding: usize,
    /// Objects per request
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub batch: u64,
}

#[derive(Debug, Args)]
pub struct Agents {
    /// Agents to create and connect
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=99_999))]
    pub agents: u64,
    /// Streamers that agents are sent to
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(2..=1000))]
    pub streamers: u64,
    /// Commands (logs, reboot, reset) per second
    #[arg(long, default_value_t = 500.0)]
    pub commands: f64,
    /// Operators, each with a connection and a thread
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub connections: u64,
    /// Layout requests per second
    #[arg(long, default_value_t = 5.0)]
    pub moves: f64,
    /// Agents that one layout request moves
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub touch: u64,
}

#[derive(Debug, Args)]
pub struct Failover {
    /// Streamers to create and simulate
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=10_000))]
    pub streamers: u64,
    /// Streams to create
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub streams: u64,
    /// Streamers that are lost, one after another
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub losses: u64,
    /// Share of streams with a DVR backup
    #[arg(long, default_value_t = 0.1)]
    pub backups: f64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Answers {
    /// Whole lists, no validator
    Full,
    /// `If-None-Match`
    Etag,
    /// `If-None-Match` and `changes_since`
    Delta,
}

impl From<Answers> for Validator {
    fn from(answers: Answers) -> Validator {
        match answers {
            Answers::Full => Validator::None,
            Answers::Etag => Validator::Etag,
            Answers::Delta => Validator::Delta,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Coding {
    Identity,
    Gzip,
    Zstd,
}

impl Coding {
    pub fn header(self) -> &'static str {
        match self {
            Coding::Identity => "",
            Coding::Gzip => "gzip",
            Coding::Zstd => "zstd",
        }
    }
}

#[derive(Debug, Args)]
pub struct Simulated {
    /// Simulated streamers; default: as many as the cluster has. When it has fewer, several share a
    /// hostname
    #[arg(long)]
    pub streamers: Option<u64>,
    /// Content codings that streamers accept, taken in turn
    #[arg(long, value_enum, value_delimiter = ',', default_value = "identity")]
    pub encoding: Vec<Coding>,
    /// Each uses its own cluster key (of a cluster prepared with the same --seed) instead of the
    /// administrator's key
    #[arg(long)]
    pub cluster_auth: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Field {
    Title,
    Input,
}

impl From<Field> for EditField {
    fn from(field: Field) -> EditField {
        match field {
            Field::Title => EditField::Title,
            Field::Input => EditField::Input,
        }
    }
}

#[derive(Debug, Args)]
pub struct Operators {
    /// Which rendered field edits change
    #[arg(long, value_enum, default_value = "title")]
    pub field: Field,
    /// Streams, each of another streamer, that one edit changes (more than 1: one atomic batch)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub touch: u64,
    /// Connections of each kind of operator
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub connections: u64,
}

#[derive(Debug, Args)]
pub struct Fleet {
    #[command(flatten)]
    pub simulated: Simulated,
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub interval: Nanos,
    /// Validators that streamers send, taken in turn
    #[arg(long, value_enum, value_delimiter = ',', default_value = "etag")]
    pub answers: Vec<Answers>,
    #[command(flatten)]
    pub operators: Operators,
    /// Edits per second
    #[arg(long, default_value_t = 0.0)]
    pub edits: f64,
    /// Moves of streams between streamers per second (server with --layouter-handover 0)
    #[arg(long, default_value_t = 0.0)]
    pub moves: f64,
    /// Instead: create a cluster whose streamers park polls and answer the server's queries, and let
    /// them live through this story. Lines: TIME lose|hang|trickle|flood|lie|restart|return
    /// all|N%|region=rN|HOSTNAME (server with --layouter-enabled --streamer-queries
    /// --outbound-loopback)
    #[arg(long, value_name = "FILE")]
    pub story: Option<String>,
    /// Streams of a story
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub streams: u64,
    /// Share of the streams of a story with a DVR backup
    #[arg(long, default_value_t = 0.1)]
    pub backups: f64,
}

#[derive(Debug, Args)]
pub struct Longpoll {
    #[command(flatten)]
    pub simulated: Simulated,
    /// Seconds a poll is parked
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub wait: u64,
    /// Validators that streamers send, taken in turn (full is taken as etag: parking needs it)
    #[arg(long, value_enum, value_delimiter = ',', default_value = "etag")]
    pub answers: Vec<Answers>,
    #[command(flatten)]
    pub operators: Operators,
    /// Edits per second
    #[arg(long, default_value_t = 100.0)]
    pub edits: f64,
    /// Moves of streams between streamers per second (server with --layouter-handover 0)
    #[arg(long, default_value_t = 0.0)]
    pub moves: f64,
}

#[derive(Debug, Args)]
pub struct Rate {
    /// Requests per second; `max`: as fast as the connections allow (closed loop)
    #[arg(long, default_value = "1000", value_parser = rate)]
    pub rate: PerSecond,
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=19_000))]
    pub connections: u64,
    /// Requests in flight per connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub pipeline: u64,
}

#[derive(Debug, Args)]
pub struct Put {
    #[command(flatten)]
    pub rate: Rate,
    #[arg(long, value_enum, default_value = "title")]
    pub field: Field,
    /// Streams per request (more than 1: one atomic batch)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub touch: u64,
}

#[derive(Debug, Args)]
pub struct List {
    /// Pages per second; `max`: closed loop
    #[arg(long, default_value = "50", value_parser = rate)]
    pub rate: PerSecond,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub connections: u64,
    /// Streams per page
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub limit: u64,
}

#[derive(Debug, Args)]
pub struct Storm {
    #[command(flatten)]
    pub simulated: Simulated,
    /// Storms; the first warms up
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Validators that streamers send, taken in turn
    #[arg(long, value_enum, value_delimiter = ',', default_value = "full")]
    pub answers: Vec<Answers>,
}

#[derive(Debug, Args)]
pub struct Mixed {
    #[command(flatten)]
    pub simulated: Simulated,
    /// Interval of the half that polls
    #[arg(long, default_value = "3s", value_parser = duration)]
    pub interval: Nanos,
    /// Seconds the other half is parked
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub wait: u64,
    /// Validators that streamers send, taken in turn
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "full,etag,delta"
    )]
    pub answers: Vec<Answers>,
    #[command(flatten)]
    pub operators: Operators,
    /// Edits per second
    #[arg(long, default_value_t = 50.0)]
    pub edits: f64,
    /// Moves of streams between streamers per second (server with --layouter-handover 0)
    #[arg(long, default_value_t = 5.0)]
    pub moves: f64,
    /// Reads of single streams per second
    #[arg(long, default_value_t = 500.0)]
    pub gets: f64,
    /// Pages of the list of streams per second
    #[arg(long, default_value_t = 10.0)]
    pub lists: f64,
}

/// A rate, or as fast as possible.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PerSecond(pub Option<f64>);

fn rate(text: &str) -> Result<PerSecond, String> {
    if text == "max" {
        return Ok(PerSecond(None));
    }
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 10_000_000.0 => Ok(PerSecond(Some(rate))),
        _ => Err("a rate above 0 and up to 10000000, or `max`".into()),
    }
}

/// `30s`, `1m30s`, `250ms`, or plain milliseconds.
pub fn duration(text: &str) -> Result<Nanos, String> {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    let bad = || "a duration such as 30s, 1m30s, 250ms, or milliseconds; at most a day".to_owned();
    let mut rest = text;
    let mut millis = 0u64;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |at| digits + at);
        let scale = match &rest[digits..unit_end] {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            "" if digits == text.len() => 1,
            _ => return Err(bad()),
        };
        millis = number
            .checked_mul(scale)
            .and_then(|part| millis.checked_add(part))
            .ok_or_else(bad)?;
        rest = &rest[unit_end..];
    }
    if text.is_empty() || millis > DAY_MS {
        Err(bad())
    } else {
        Ok(millis * 1_000_000)
    }
}

impl Cli {
    /// The server; refused on another machine unless --i-own-this-host is given.
    pub fn target(&self) -> Result<Target, String> {
        let rest = self
            .common
            .url
            .strip_prefix("http://")
            .ok_or("--url: only http:// is supported")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !path.is_empty() || authority.is_empty() || authority.contains('@') {
            return Err(
                "--url: http://HOST[:PORT] without user and path (see --prefix, --api-key)".into(),
            );
        }
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let with_port = if has_port {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        let addresses: Vec<SocketAddr> = with_port
            .to_socket_addrs()
            .map_err(|error| format!("--url: {authority}: {error}"))?
            .collect();
        let foreign = addresses.iter().find(|address| !is_loopback(address.ip()));
        if let Some(foreign) = foreign.filter(|_| !self.common.i_own_this_host) {
            return Err(format!(
                "{authority} is {foreign}, which is not this machine: load against another owner's \
                 host is an attack. If it is yours, say --i-own-this-host"
            ));
        }
        let key = &self.common.api_key;
        if key.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return Err("--api-key: control characters cannot be sent".into());
        }
        Ok(Target {
            address: *addresses
                .first()
                .ok_or_else(|| format!("--url: {authority} has no address"))?,
            host: authority.to_owned(),
            prefix: self.common.prefix.trim_end_matches('/').to_owned(),
            api_key: key.clone(),
        })
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(arguments: &[&str]) -> Result<Target, String> {
        let all = ["weir-loadtest", "get"].iter().chain(arguments);
        Cli::try_parse_from(all)
            .expect("arguments are right")
            .target()
    }

    #[test]
    fn other_machines_need_an_explicit_flag() {
        for own in [
            "http://127.0.0.1:9019",
            "http://127.8.9.1",
            "http://[::1]:9019",
            "http://[::ffff:127.0.0.1]:1",
        ] {
            assert!(target(&["--url", own]).is_ok(), "{own}");
        }
        for foreign in [
            "http://192.0.2.1:9019",
            "http://10.0.0.1",
            "http://[2001:db8::1]:9019",
            "http://0.0.0.0:9019",
        ] {
            let refused = target(&["--url", foreign]).unwrap_err();
            assert!(refused.contains("--i-own-this-host"), "{refused}");
            assert!(target(&["--url", foreign, "--i-own-this-host"]).is_ok());
        }
        for wrong in [
            "https://127.0.0.1",
            "127.0.0.1:9019",
            "http://key@127.0.0.1",
            "http://127.0.0.1/central",
        ] {
            assert!(
                target(&["--url", wrong, "--i-own-this-host"]).is_err(),
                "{wrong}"
            );
        }
        assert_eq!(
            target(&["--url", "http://127.0.0.1"])
                .unwrap()
                .address
                .port(),
            80
        );
    }

    #[test]
    fn every_run_is_bounded_by_default() {
        let cli = Cli::try_parse_from(["weir-loadtest", "mixed"]).unwrap();
        assert!(cli.common.duration == 10_000_000_000 && cli.common.requests == 10_000_000);
        assert!(cli.common.timeout > 0 && cli.common.settle > 0);
        assert!(Cli::try_parse_from(["weir-loadtest", "get", "--duration", "25h"]).is_err());
        assert!(Cli::try_parse_from(["weir-loadtest", "get", "--rate", "0"]).is_err());
    }

    #[test]
    fn durations_are_read_as_the_server_reads_them() {
        for (text, millis) in [
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("250ms", 250),
            ("1500", 1500),
            ("1h", 3_600_000),
        ] {
            assert_eq!(duration(text).unwrap(), millis * 1_000_000, "{text}");
        }
        for bad in ["", "s", "1x", "-1s", "1s5", "1.5s", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
