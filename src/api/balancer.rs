//! Load balancers: the choice of the streamer that a viewer or a publisher is redirected to.
//!
//! A balancer has a list of servers and a measure of their load: `bitrate`, `clients`, `streams`,
//! or `usage` (bitrate divided by `max_bitrate`, which each server must then have). A server is
//! eligible while it is alive, its load is known, its bitrate is below its `max_bitrate`, and it
//! accepts the country of the client. A server without countries accepts all clients; one with
//! countries accepts those, and with `countries_default` also clients whose country is in no list
//! of the balancer. The least loaded eligible server is chosen, at random among equals.
//!
//! Viewers are sent where the stream is: to the servers that report it running; if none of them is
//! eligible, to its ingest node; else to streamers that may restream it. Publishers are sent to the
//! ingest node only. All servers are equal for a stream that is placed nowhere and that none
//! reports. A server with `play_urls` is eligible for the endings in it.

use std::cell::Cell;
use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::Instant;

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Call, Outcome, entity, router};
use crate::access::rules::{Country, country};
use crate::error::{self, ApiError};
use crate::http::{Method, Response};
use crate::json::{self, Object, Value};
use crate::state::apply::stream_not_found;
use crate::state::entity::{Key, Kind};
use crate::state::name::Hostname;
use crate::state::node::can_restream;
use crate::state::pull::{kind_of_record, play_url};
use crate::state::record::{ArchivedNodeRole, StreamRecord, StreamerRecord};
use crate::subnet::{Subnets, parse_address};

/// The measure by which the load of servers is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BalancerMode {
    Usage,
    Clients,
    Bitrate,
    Streams,
}

/// The parsed configuration of a balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balancer {
    pub mode: BalancerMode,
    pub servers: Vec<Server>,
}

/// One server of a balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub hostname: Box<str>,
    countries: Vec<Country>,
    countries_default: bool,
    /// Kbit/s.
    max_bitrate: Option<u64>,
}

/// The current load of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    pub clients: u64,
    /// Traffic to clients, kbit/s.
    pub bitrate_kbit: u64,
    pub streams: u64,
}

impl Balancer {
    /// Reads a configuration that the schema has accepted.
    pub fn of(config: &Object) -> Self {
        let mode = match config.get("mode").and_then(Value::as_str) {
            Some("usage") => BalancerMode::Usage,
            Some("clients") => BalancerMode::Clients,
            Some("streams") => BalancerMode::Streams,
            _ => BalancerMode::Bitrate,
        };
        let servers = config.get("servers").and_then(Value::as_array);
        let servers = servers.unwrap_or_default().iter().filter_map(Server::of);
        Self {
            mode,
            servers: servers.collect(),
        }
    }

    /// Whether the choice depends on the country of the client.
    pub fn has_countries(&self) -> bool {
        let mut servers = self.servers.iter();
        servers.any(|server| !server.countries.is_empty() || server.countries_default)
    }

    /// The least loaded eligible server, if there is one.
    ///
    /// `load` returns the load of a server that is alive; `random` decides between equals.
    pub fn choose(
        &self,
        load: impl Fn(&str) -> Option<Load>,
        from: Option<Country>,
        random: u64,
    ) -> Option<&Server> {
        let is_listed = from.is_some_and(|from| {
            let mut servers = self.servers.iter();
            servers.any(|server| server.countries.contains(&from))
        });
        let mut best: Vec<(&Server, Load)> = Vec::new();
        for server in &self.servers {
            if !server.accepts(from, is_listed) {
                continue;
            }
            let Some(load) = load(&server.hostname) else {
                continue;
            };
            if server
                .max_bitrate
                .is_some_and(|max| load.bitrate_kbit >= max)
                || (self.mode == BalancerMode::Usage && server.max_bitrate.is_none())
            {
                continue;
            }
            let order = best
                .first()
                .map_or(std::cmp::Ordering::Less, |(other, least)| {
                    self.compare((server, load), (other, *least))
                });
            if order.is_lt() {
                best.clear();
            }
            if order.is_le() {
                best.push((server, load));
            }
        }
        let count = best.len() as u64;
        let chosen = best.get(random.checked_rem(count)? as usize)?;
        Some(chosen.0)
    }

    fn compare(&self, a: (&Server, Load), b: (&Server, Load)) -> std::cmp::Ordering {
        let by = |load: Load| match self.mode {
            BalancerMode::Clients => load.clients,
            BalancerMode::Streams => load.streams,
            BalancerMode::Bitrate | BalancerMode::Usage => load.bitrate_kbit,
        };
        // Shares are compared without division: a/m < b/n is a*n < b*m.
        let whole = |server: &Server| match self.mode {
            BalancerMode::Usage => server.max_bitrate.unwrap_or(1),
            BalancerMode::Clients | BalancerMode::Bitrate | BalancerMode::Streams => 1,
        };
        let share = |load: Load, other: &Server| u128::from(by(load)) * u128::from(whole(other));
        share(a.1, b.0).cmp(&share(b.1, a.0))
    }
}

impl Server {
    fn of(config: &Value) -> Option<Self> {
        let countries = config.get("countries").and_then(Value::as_array);
        let countries = countries.unwrap_or_default().iter();
        Some(Self {
            hostname: config.get("name").and_then(Value::as_str)?.into(),
            countries: countries
                .filter_map(|text| text.as_str().and_then(country))
                .collect(),
            countries_default: config
                .get("countries_default")
                .and_then(Value::as_bool)
                .unwrap_or(false),
            max_bitrate: config.get("max_bitrate").and_then(Value::as_u64),
        })
    }

    /// Whether the server accepts clients of a country. `is_listed`: a server has it in its list.
    fn accepts(&self, from: Option<Country>, is_listed: bool) -> bool {
        let is_mine = from.is_some_and(|from| self.countries.contains(&from));
        let has_no_rule = self.countries.is_empty() && !self.countries_default;
        is_mine || has_no_rule || (self.countries_default && !is_listed)
    }
}

/// The parts of a path below `/lb/`, not decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlaybackPath<'a> {
    pub balancer: &'a str,
    /// One segment: a slash in the name is sent as `%2F`.
    pub stream: &'a str,
    /// One or more segments, which only the streamer interprets.
    pub suffix: &'a str,
}

impl<'a> PlaybackPath<'a> {
    /// Splits the part of a path after `/lb/`; `None` if it is malformed.
    pub fn parse(path: &'a str) -> Option<Self> {
        let (balancer, rest) = path.split_once('/')?;
        let (stream, suffix) = rest.split_once('/')?;
        let is_plain = |segment: &str| {
            let dots = segment.replace("%2e", ".").replace("%2E", ".");
            !segment.is_empty() && dots != "." && dots != ".."
        };
        let mut all = [balancer, stream].into_iter().chain(suffix.split('/'));
        all.all(is_plain).then_some(Self {
            balancer,
            stream,
            suffix,
        })
    }
}

/// Characters of a stream name that are escaped in a path.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// Characters that are always escaped in a redirect.
const UNSAFE: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The URL of a streamer for players, without credentials: its `public_payload_url`; else its
/// `api_url`, else its hostname, if that is an address in the internet. Internal addresses are
/// shown to no player.
pub fn public_url(config: &Object, hostname: &str) -> Option<String> {
    let given = |field: &str| config.get(field).and_then(Value::as_str);
    if let Some((base, _)) = given("public_payload_url").and_then(http_base) {
        return Some(base);
    }
    let default = format!("http://{hostname}");
    let (base, host) = http_base(given("api_url").unwrap_or(&default))?;
    is_public(host).then_some(base)
}

/// A URL of HTTP without credentials and query, and its host.
fn http_base(url: &str) -> Option<(String, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let base = format!("{scheme}://{authority}{}", path.trim_end_matches('/'));
    (!host.is_empty()).then_some((base, host))
}

/// Endings of names that the public DNS does not have.
const INTERNAL_ENDINGS: [&str; 10] = [
    "corp",
    "home",
    "home.arpa",
    "internal",
    "intranet",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "svc",
];

/// Whether players in the internet can reach a host: a name with a domain of the public DNS, or an
/// address that is not reserved for internal networks.
fn is_public(host: &str) -> bool {
    if let Some(address) = parse_address(host) {
        return !internal_networks().contains(address);
    }
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let is_internal = INTERNAL_ENDINGS.iter().any(|ending| {
        let rest = host.strip_suffix(ending);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    });
    host.contains('.') && !is_internal
}

/// Addresses that routers of the internet do not forward.
fn internal_networks() -> &'static Subnets {
    static NETWORKS: LazyLock<Subnets> = LazyLock::new(|| {
        let networks = [
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "224.0.0.0/3",
            "::/128",
            "::1",
            "fc00::/7",
            "fe80::/10",
            "ff00::/8",
        ];
        Subnets::parse(networks).expect("the networks are well-formed")
    });
    &NETWORKS
}

/// The URL of a stream below a base URL. `name` is not escaped, `suffix` is as it was sent.
fn stream_url(base: &str, name: &str, suffix: &str) -> String {
    let name = utf8_percent_encode(name, KEPT);
    format!("{base}/{name}/{suffix}")
}

/// The URL of a redirect: with the query of the request, and without characters that end a header
/// field or a URL.
fn redirect(url: &str, query: &str) -> String {
    let mut location = utf8_percent_encode(url, UNSAFE).to_string();
    if !query.is_empty() {
        let glue = if url.contains('?') { '&' } else { '?' };
        let query = utf8_percent_encode(query, UNSAFE);
        write!(location, "{glue}{query}").expect("writing to a string cannot fail");
    }
    location
}

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::list(call, Kind::Balancer).map(Outcome::List)
}

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::get(call, Kind::Balancer)
}

pub fn save(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::save(call, Kind::Balancer)
}

pub fn delete(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::delete(call, Kind::Balancer)
}

/// Redirects a viewer or a publisher to a streamer. Public: the streamer authorizes the session.
pub fn redirect_client(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let path = router::strip_prefix(call.request.path);
    let target = path
        .and_then(|path| path.strip_prefix("/lb/"))
        .and_then(PlaybackPath::parse)
        .ok_or_else(|| error::NOT_FOUND.titled("The path must be /lb/BALANCER/STREAM/SUFFIX"))?;
    let name = router::decode(target.balancer)?;
    let saved = Key::parse(Kind::Balancer, &name).ok();
    let saved = saved.and_then(|key| call.state.entities(Kind::Balancer).get(&key));
    let saved = saved.ok_or_else(|| Kind::Balancer.not_found())?;
    let balancer = Balancer::of(&object(&saved.config));
    let stream_name = router::decode(target.stream)?;
    let stream = call.state.stream(&stream_name);
    let stream = stream.ok_or_else(stream_not_found)?;
    let session = ClientSession::new(call, stream, target.suffix);
    let url = session.choose(&balancer).ok_or_else(|| {
        if session.without_address.get() {
            error::NO_PUBLIC_ADDRESS.error()
        } else {
            error::NO_STREAMER_AVAILABLE.error()
        }
    })?;
    let location = redirect(&url, call.request.query);
    let response = Response::new(302)
        .header("Location", location)
        .header("Cache-Control", "no-store");
    Ok(Outcome::Reply(response))
}

/// Why a streamer can serve a client of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ServingReason {
    /// It reports that the stream runs there.
    Running,
    /// It captures the stream.
    Ingest,
    /// It may restream, so it can take the stream from where it is.
    Restreamer,
    /// Nothing is known about where the stream is.
    Unplaced,
}

/// A client that is redirected, and what is known about its stream.
struct ClientSession<'a> {
    call: &'a Call<'a>,
    stream: &'a StreamRecord,
    /// What follows the name of the stream.
    suffix: &'a str,
    is_publisher: bool,
    /// The nodes on which the stream runs.
    running: Vec<Hostname>,
    now: Instant,
    /// A streamer is eligible except that it has no address for players.
    without_address: Cell<bool>,
}

impl<'a> ClientSession<'a> {
    fn new(call: &'a Call<'a>, stream: &'a StreamRecord, suffix: &'a str) -> Self {
        let now = Instant::now();
        let fleet = call.shared.fleet.view(now);
        let running = fleet.stream(&stream.name, stream.source(), |facts| {
            facts.running_on().cloned().collect::<Vec<_>>()
        });
        Self {
            call,
            stream,
            suffix,
            is_publisher: call.request.method == Method::Post,
            running: running.unwrap_or_default(),
            now,
            without_address: Cell::new(false),
        }
    }

    /// The reasons to send the client to a streamer, best first. A publisher is of use only where
    /// the stream is captured.
    fn reasons(&self) -> &'static [ServingReason] {
        use ServingReason::{Ingest, Restreamer, Running, Unplaced};
        match (self.stream.ingest(), self.is_publisher) {
            (Some(_), true) => &[Ingest],
            (None, true) => &[Unplaced],
            (None, false) if self.running.is_empty() => &[Unplaced],
            (_, false) => &[Running, Ingest, Restreamer],
        }
    }

    /// The URL of the least loaded eligible streamer among those with the best reason.
    fn choose(&self, balancer: &Balancer) -> Option<String> {
        let access = &self.call.shared.access;
        let from = balancer
            .has_countries()
            .then(|| access.countries.of(self.call.request.peer))
            .flatten();
        let random = self.call.local.random();
        let chosen = self.reasons().iter().find_map(|reason| {
            balancer.choose(|hostname| self.load(*reason, hostname), from, random)
        })?;
        self.url(self.call.state.streamer(&chosen.hostname)?)
    }

    /// The URL of the stream on a streamer, without the query.
    fn url(&self, streamer: &StreamerRecord) -> Option<String> {
        let config = object(&streamer.config);
        let kind = kind_of_record(streamer);
        let templates = config.get("play_urls").and_then(Value::as_object);
        if let Some(templates) = templates.filter(|templates| !templates.is_empty()) {
            return play_url(templates, kind, &self.stream.name, self.suffix);
        }
        let Some(base) = public_url(&config, &streamer.hostname) else {
            self.without_address.set(true);
            return None;
        };
        let native = kind.native(&self.stream.name);
        Some(stream_url(
            &base,
            native.trim_start_matches('/'),
            self.suffix,
        ))
    }

    /// The load of a streamer that is alive and can serve the client for this reason.
    fn load(&self, reason: ServingReason, hostname: &str) -> Option<Load> {
        let streamer = self.call.state.streamer(hostname)?;
        // Clients are redirected only within the namespace of the stream. Other nodes than
        // streamers have streams, too, but serve no clients.
        if streamer.namespace != self.stream.namespace || !self.can_serve(reason, streamer) {
            return None;
        }
        let stats = self.call.shared.fleet.streamer(hostname, self.now)?;
        self.url(streamer)?;
        Some(Load {
            clients: stats.clients.unwrap_or(0),
            bitrate_kbit: stats.output_kbit.unwrap_or(0),
            streams: stats.online_streams.or(stats.streams).unwrap_or(0),
        })
    }

    fn can_serve(&self, reason: ServingReason, streamer: &StreamerRecord) -> bool {
        let hostname = streamer.hostname.as_str();
        let is_streamer = matches!(streamer.role, ArchivedNodeRole::Streamer);
        is_streamer
            && match reason {
                ServingReason::Running => self.running.iter().any(|host| **host == *hostname),
                // A publisher is not handed over: its streams move at once.
                ServingReason::Ingest => self.stream.source() == Some(hostname),
                ServingReason::Restreamer => can_restream(self.call.state, streamer, self.stream),
                ServingReason::Unplaced => true,
            }
    }
}

/// Parses the configuration of a record.
fn object(text: &str) -> Object {
    match json::parse(text.as_bytes()) {
        Ok(Value::Object(object)) => object,
        _ => Object::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use std::collections::BTreeSet;

    fn object(text: &str) -> Object {
        match json::parse(text.as_bytes()) {
            Ok(Value::Object(object)) => object,
            other => panic!("{other:?}"),
        }
    }

    fn balancer(text: &str) -> Balancer {
        Balancer::of(&object(text))
    }

    fn load(clients: u64, bitrate_kbit: u64, streams: u64) -> Load {
        Load {
            clients,
            bitrate_kbit,
            streams,
        }
    }

    /// All servers that are chosen, over many random numbers.
    fn chosen(balancer: &Balancer, loads: &[(&str, Load)], from: Option<&str>) -> String {
        let find = |hostname: &str| {
            let found = loads.iter().find(|(known, _)| *known == hostname);
            found.map(|(_, load)| *load)
        };
        let from = from.and_then(country);
        let all: BTreeSet<&str> = (0..64)
            .filter_map(|random| balancer.choose(find, from, random))
            .map(|server| &*server.hostname)
            .collect();
        all.into_iter().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_mode_compares_its_own_measure() {
        let loads = [
            ("a", load(1, 900, 5)),
            ("b", load(2, 500, 4)),
            ("c", load(3, 600, 3)),
        ];
        let servers = r#""servers":[{"name":"a","max_bitrate":10000},
            {"name":"b","max_bitrate":1000},
            {"name":"c","max_bitrate":1000}]"#;
        for (mode, best) in [
            (r#""mode":"usage","#, "a"),
            (r#""mode":"clients","#, "a"),
            (r#""mode":"bitrate","#, "b"),
            (r#""mode":"streams","#, "c"),
            ("", "b"),
            (r#""mode":null,"#, "b"),
        ] {
            let balancer = balancer(&format!("{{{mode}{servers}}}"));
            assert_eq!(chosen(&balancer, &loads, None), best, "{mode}");
        }
    }

    #[test]
    fn equal_servers_are_chosen_at_random() {
        let loads = [
            ("a", load(1, 1, 1)),
            ("b", load(1, 1, 1)),
            ("c", load(1, 1, 2)),
        ];
        let servers = r#""servers":[{"name":"c"},{"name":"a"},{"name":"b"}]"#;
        for (mode, best) in [
            ("clients", "a b c"),
            ("bitrate", "a b c"),
            ("streams", "a b"),
        ] {
            let balancer = balancer(&format!(r#"{{"mode":"{mode}",{servers}}}"#));
            assert_eq!(chosen(&balancer, &loads, None), best, "{mode}");
        }
        let shares = balancer(
            r#"{"mode":"usage","servers":[{"name":"a","max_bitrate":100},
                {"name":"b","max_bitrate":300},{"name":"c","max_bitrate":3}]}"#,
        );
        let loads = [
            ("a", load(9, 33, 0)),
            ("b", load(0, 99, 0)),
            ("c", load(5, 1, 0)),
        ];
        assert_eq!(
            chosen(&shares, &loads, None),
            "a b",
            "exactly a third is more"
        );
    }

    #[test]
    fn only_live_servers_below_their_limit_are_eligible() {
        let servers = r#""servers":[{"name":"a","max_bitrate":100},{"name":"b","max_bitrate":100},
            {"name":"c"}]"#;
        let by_bitrate = balancer(&format!("{{{servers}}}"));
        let full = ("a", load(0, 100, 0));
        let room = ("b", load(0, 99, 0));
        assert_eq!(chosen(&by_bitrate, &[full, room], None), "b");
        assert_eq!(chosen(&by_bitrate, &[full], None), "");
        assert_eq!(chosen(&by_bitrate, &[("c", load(0, 5000, 0))], None), "c");
        assert_eq!(chosen(&by_bitrate, &[], None), "");
        let by_usage = balancer(&format!(r#"{{"mode":"usage",{servers}}}"#));
        assert_eq!(
            chosen(&by_usage, &[("c", load(0, 0, 0))], None),
            "",
            "no measure"
        );
        assert_eq!(chosen(&by_usage, &[("c", load(0, 0, 0)), room], None), "b");
        assert_eq!(chosen(&balancer("{}"), &[room], None), "");
        assert_eq!(
            chosen(
                &balancer(r#"{"servers":[{"name":"a","max_bitrate":0}]}"#),
                &[("a", load(0, 0, 0))],
                None
            ),
            ""
        );
    }

    #[test]
    fn countries_are_matched_before_load_is_compared() {
        let balancer = balancer(
            r#"{"servers":[{"name":"rs","countries":["RS","me"]},
                {"name":"de","countries":["DE"],"countries_default":true},
                {"name":"rest","countries_default":true}]}"#,
        );
        let loads = [
            ("rs", load(0, 1, 0)),
            ("de", load(0, 5, 0)),
            ("rest", load(0, 9, 0)),
        ];
        for (from, best) in [
            (Some("RS"), "rs"),
            (Some("ME"), "rs"),
            (Some("DE"), "de"),
            (Some("FR"), "de"),
            (None, "de"),
        ] {
            assert_eq!(chosen(&balancer, &loads, from), best, "{from:?}");
        }
        // A client whose servers are not alive is not redirected to those of other countries.
        assert_eq!(chosen(&balancer, &loads[1..], Some("RS")), "");
        assert_eq!(chosen(&balancer, &loads[2..], Some("FR")), "rest");
        assert_eq!(chosen(&balancer, &loads[2..], Some("DE")), "");
    }

    #[test]
    fn server_without_countries_accepts_all_clients() {
        let balancer = balancer(r#"{"servers":[{"name":"rs","countries":["RS"]},{"name":"any"}]}"#);
        let loads = [("rs", load(0, 1, 0)), ("any", load(0, 2, 0))];
        assert_eq!(chosen(&balancer, &loads, Some("RS")), "rs");
        assert_eq!(chosen(&balancer, &loads[1..], Some("RS")), "any");
        assert_eq!(chosen(&balancer, &loads, Some("DE")), "any");
        assert_eq!(chosen(&balancer, &loads, None), "any");
    }

    #[test]
    fn paths_are_split_without_decoding() {
        assert_eq!(
            PlaybackPath::parse("main/sports%2Fhd1/tracks-v1a1/index.m3u8"),
            Some(PlaybackPath {
                balancer: "main",
                stream: "sports%2Fhd1",
                suffix: "tracks-v1a1/index.m3u8"
            })
        );
        for bad in [
            "",
            "main",
            "main/",
            "main/a",
            "main/a/",
            "/a/index.m3u8",
            "main//index.m3u8",
            "main/a/../index.m3u8",
            "main/a/%2e%2E/x",
            "main/a/./x",
            "main/../a/x",
            "main/a//x",
        ] {
            assert_eq!(PlaybackPath::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn redirects_use_the_public_url_without_credentials() {
        for (config, base) in [
            (
                r#"{"public_payload_url":"https://edge.example.com:8443/live/",
                    "api_url":"http://10.0.0.1"}"#,
                Some("https://edge.example.com:8443/live"),
            ),
            // What is set for players may be anything.
            (
                r#"{"public_payload_url":"http://10.0.0.1:80"}"#,
                Some("http://10.0.0.1:80"),
            ),
            (
                r#"{"api_url":"http://user:secret@203.0.113.1:8080/"}"#,
                Some("http://203.0.113.1:8080"),
            ),
            (
                r#"{"public_payload_url":"rtmp://x/",
                    "api_url":"http://edge.example.com?cluster_key=secret"}"#,
                Some("http://edge.example.com"),
            ),
            (
                r#"{"api_url":"http://[2001:db8::1]:80/x/"}"#,
                Some("http://[2001:db8::1]:80/x"),
            ),
            (r#"{"api_url":"http://user:secret@10.0.0.1:8080/"}"#, None),
            (r#"{"api_url":"http://[fd00::1]"}"#, None),
            (r#"{"api_url":"http://[::ffff:192.168.0.1]:80"}"#, None),
            (
                r#"{"api_url":"http://streamer-0.streamers.default.svc.cluster.local"}"#,
                None,
            ),
            (r#"{"api_url":"http://EDGE.lan."}"#, None),
            (r#"{"api_url":"http://edge:8080"}"#, None),
            (r#"{"public_payload_url":null}"#, None),
        ] {
            let url = public_url(&object(config), "s1");
            assert_eq!(url.as_deref(), base, "{config}");
        }
        let url = public_url(&object("{}"), "s1.example.com");
        assert_eq!(url.as_deref(), Some("http://s1.example.com"));
        assert_eq!(
            redirect(
                &stream_url("http://s1:80", "sports/hd 1", "tracks-v1/index.m3u8"),
                "token=a&b=%20"
            ),
            "http://s1:80/sports/hd%201/tracks-v1/index.m3u8?token=a&b=%20"
        );
        assert_eq!(
            redirect(&stream_url("http://s1", "a?b", "x"), ""),
            "http://s1/a%3Fb/x"
        );
        assert_eq!(
            redirect("http://s1/api?src=a", "t=1"),
            "http://s1/api?src=a&t=1"
        );
        let odd = redirect(&stream_url("http://s1", "a\r\nX: y", "b\"<"), "c\\");
        assert!(odd.bytes().all(|byte| byte.is_ascii_graphic()), "{odd}");
    }

    /// The response to `path`, where `s1` and `s2` are alive and `s2` has fewer clients.
    fn response_to(path: &str, fields: &str) -> Response {
        use crate::fleet::report::StreamerReport;
        use crate::http::{Method, Request, head};
        use crate::state::State;
        use crate::state::apply::{Stamp, apply};
        use crate::state::command::{Command, EntitySave, StreamPatch, streamer_patch};
        use crate::state::name::{Hostname, StreamName};
        use std::rc::Rc;
        use std::sync::Arc;

        let json = |text: &str| json::parse(text.as_bytes()).expect("JSON");
        let streamer = |name: &str, body: &str| {
            let hostname = Hostname::trusted(name);
            let patch = streamer_patch(json(body), &hostname, "").expect("fits");
            Command::SaveStreamer { hostname, patch }
        };
        let stream = |name: &str, body: &str| {
            let name = StreamName::trusted(name);
            let patch = StreamPatch::from_body(json(body), &name, "").expect("fits");
            Command::SaveStream { name, patch }
        };
        let key = Key::parse(Kind::Balancer, "main").expect("a key");
        let servers = r#"{"mode":"clients","servers":[{"name":"s1"},{"name":"s2"},{"name":"s3"}]}"#;
        let save = EntitySave::from_body(Kind::Balancer, key, json(servers), "").expect("fits");
        let mut state = State::new(1, crate::state::node::RenderSettings::default());
        for command in [
            streamer("s1", r#"{"role":"streamer","cluster_key":"k"}"#),
            streamer(
                "s2",
                r#"{"role":"streamer","cluster_key":"k","api_url":"http://u:p@10.0.0.2:8080",
                    "public_payload_url":"https://edge2.example.com/"}"#,
            ),
            streamer(
                "s3",
                r#"{"role":"streamer","cluster_key":"k","namespace":"other",
                    "public_payload_url":"http://s3"}"#,
            ),
            stream("sports/hd1", "{}"),
            stream("theirs", r#"{"namespace":"other"}"#),
            Command::SaveEntity(save),
        ] {
            let stamp = Stamp {
                revision: state.revision() + 1,
                ms: state.stamp_ms() + 1,
            };
            let changes = apply(&state, command, stamp).expect("is saved");
            state.absorb(&changes);
        }
        let shared = super::super::shared::tests::shared();
        let now = Instant::now();
        for (name, clients) in [("s1", 5), ("s2", 4), ("s3", 0)] {
            let body = json(&format!(r#"{{"stats":{{"total_clients":{clients}}}}}"#));
            let report = StreamerReport::from_body(body, now).expect("fits");
            let fleet = &shared.fleet;
            fleet.report(&Hostname::trusted(name), report, now, || true);
        }
        let text = format!("GET {path} HTTP/1.1\r\nHost: t\r\n{fields}\r\n");
        let mut fields = head::fields();
        let head = head::parse(text.as_bytes(), &mut fields).expect("well formed");
        let head = head.expect("complete");
        let request = Request {
            method: Method::Get,
            path: head.path,
            query: head.query,
            headers: head.headers,
            body: b"",
            peer: std::net::IpAddr::from([127, 0, 0, 1]),
            body_late: false,
            may_upgrade: false,
            head: &[],
            buffer: None,
        };
        let call = Call {
            shared: &shared,
            state: &Rc::new(Arc::new(state)),
            local: &crate::api::call::CoreLocal::default(),
            operation: &super::super::endpoint::OPERATIONS[0],
            request: &request,
            parameter: "",
            caller: &crate::access::auth::Caller::Anonymous,
            ticket: crate::http::Ticket { slot: 0, epoch: 1 },
            is_offloaded: false,
        };
        match redirect_client(&call) {
            Ok(Outcome::Reply(response)) => response,
            Ok(_) => panic!("a redirect is answered at once"),
            Err(error) => Response::from(error),
        }
    }

    #[test]
    fn clients_are_redirected_within_the_namespace_of_the_stream() {
        let location = |path: &str| {
            let response = response_to(path, "");
            assert_eq!(response.status, 302, "{path}");
            let mut fields = response.headers.into_iter();
            let found = fields.find(|(name, _)| *name == "Location");
            found.expect("a location").1.into_owned()
        };
        assert_eq!(
            location("/central/api/v3/lb/main/sports%2Fhd1/tracks-v1/index.m3u8?token=a%26b"),
            "https://edge2.example.com/sports/hd1/tracks-v1/index.m3u8?token=a%26b"
        );
        assert_eq!(
            location("/streamer/api/v3/lb/main/theirs/whep"),
            "http://s3/theirs/whep"
        );
        assert_eq!(
            response_to("/central/api/v3/lb/main/nobody/whep", "").status,
            404
        );
        assert_eq!(
            response_to("/central/api/v3/lb/other/theirs/whep", "").status,
            404
        );
    }
}
