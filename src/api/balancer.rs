//! Load balancers: which server a viewer or a publisher is sent to.
//!
//! A balancer names servers and how their load is measured: by `bitrate`, `clients`, `streams`, or `usage` (bitrate of its `max_bitrate`, which such a
//! server must have). A server is eligible while it is alive and its load is known, while its bitrate is below its `max_bitrate`, and if it
//! takes the caller's country: one without countries takes everybody; one with countries takes those, and with `countries_default` also
//! whoever is on no list of the balancer. The least loaded gets the caller; of several, any.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Instant;

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Call, Outcome, entity, router};
use crate::access::rules::{Country, country};
use crate::error::{self, ApiError};
use crate::http::{Request, Response};
use crate::json::{self, Object, Value};
use crate::state::apply::stream_not_found;
use crate::state::entity::{Key, Kind};
use crate::subnet::parse_address;

/// How the load of servers is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Usage,
    Clients,
    Bitrate,
    Streams,
}

/// A saved balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balancer {
    pub mode: Mode,
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

/// What a server does at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    pub clients: u64,
    /// To its clients, kbit/s.
    pub bitrate_kbit: u64,
    pub streams: u64,
}

impl Balancer {
    /// From a configuration that the schema has accepted.
    pub fn of(config: &Object) -> Self {
        let mode = match config.get("mode").and_then(Value::as_str) {
            Some("usage") => Mode::Usage,
            Some("clients") => Mode::Clients,
            Some("streams") => Mode::Streams,
            _ => Mode::Bitrate,
        };
        let servers = config.get("servers").and_then(Value::as_array);
        let servers = servers.unwrap_or_default().iter().filter_map(Server::of);
        Self {
            mode,
            servers: servers.collect(),
        }
    }

    /// Whether it matters where a caller is.
    pub fn has_countries(&self) -> bool {
        let mut servers = self.servers.iter();
        servers.any(|server| !server.countries.is_empty() || server.countries_default)
    }

    /// The server to send to. `load` knows the servers that are alive; `random` decides between equals. Nothing: there is none now.
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
            if !server.takes(from, is_listed) {
                continue;
            }
            let Some(load) = load(&server.hostname) else {
                continue;
            };
            if server
                .max_bitrate
                .is_some_and(|max| load.bitrate_kbit >= max)
                || (self.mode == Mode::Usage && server.max_bitrate.is_none())
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
            Mode::Clients => load.clients,
            Mode::Streams => load.streams,
            Mode::Bitrate | Mode::Usage => load.bitrate_kbit,
        };
        // Shares are compared without dividing: a/m < b/n is a*n < b*m.
        let whole = |server: &Server| match self.mode {
            Mode::Usage => server.max_bitrate.unwrap_or(1),
            Mode::Clients | Mode::Bitrate | Mode::Streams => 1,
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

    fn takes(&self, from: Option<Country>, is_listed: bool) -> bool {
        let is_mine = from.is_some_and(|from| self.countries.contains(&from));
        let has_no_rule = self.countries.is_empty() && !self.countries_default;
        is_mine || has_no_rule || (self.countries_default && !is_listed)
    }
}

/// Where a request below `/lb/` wants to go, taken apart but not decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted<'a> {
    pub balancer: &'a str,
    /// One segment: a slash of the name is `%2F`.
    pub stream: &'a str,
    /// One segment or more: what the server makes of the protocol is its business.
    pub suffix: &'a str,
}

impl<'a> Wanted<'a> {
    /// `path` is what follows `/lb/`.
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

/// What of a stream's name a path carries as it is.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// What must not be in a redirect however it was sent.
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

/// The URL that viewers reach a streamer under: its `public_payload_url`, else its `api_url`, else its name. Never with credentials.
pub fn public_url(config: &Object, hostname: &str) -> String {
    let given = ["public_payload_url", "api_url"].iter().find_map(|field| {
        let url = config.get(field).and_then(Value::as_str)?;
        let (scheme, rest) = url.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return None;
        }
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let end = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let host = authority.rsplit('@').next().unwrap_or_default();
        (!host.is_empty()).then(|| format!("{scheme}://{host}{}", path.trim_end_matches('/')))
    });
    given.unwrap_or_else(|| format!("http://{hostname}"))
}

/// Where the caller goes: `base`, the stream by its decoded name, the suffix and the query as they came.
pub fn redirect(base: &str, stream: &str, suffix: &str, query: &str) -> String {
    let mut url = utf8_percent_encode(base, UNSAFE).to_string();
    let stream = utf8_percent_encode(stream, KEPT);
    let suffix = utf8_percent_encode(suffix, UNSAFE);
    write!(url, "/{stream}/{suffix}").expect("a string takes everything");
    if !query.is_empty() {
        let query = utf8_percent_encode(query, UNSAFE);
        write!(url, "?{query}").expect("a string takes everything");
    }
    url
}

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::list(call, Kind::Balancer, &[])
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

/// Sends a viewer or a publisher to a streamer. Needs no credentials: players have none, and the streamer asks for its own.
pub fn send_on(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let path = router::strip_prefix(call.request.path);
    let wanted = path
        .and_then(|path| path.strip_prefix("/lb/"))
        .and_then(Wanted::parse)
        .ok_or_else(|| error::NOT_FOUND.titled("The path is /lb/BALANCER/STREAM/SUFFIX"))?;
    let name = router::decode(wanted.balancer)?;
    let saved = Key::parse(Kind::Balancer, &name).ok();
    let saved = saved.and_then(|key| call.state.entities(Kind::Balancer).get(&key));
    let saved = saved.ok_or_else(|| Kind::Balancer.not_found())?;
    let balancer = Balancer::of(&object(&saved.config));
    let stream_name = router::decode(wanted.stream)?;
    let stream = call.state.stream(&stream_name);
    let stream = stream.ok_or_else(stream_not_found)?;
    let shared = call.shared;
    let from = balancer
        .has_countries()
        .then(|| shared.countries.of(caller_address(call.request)))
        .flatten();
    let now = Instant::now();
    let load = |hostname: &str| {
        let streamer = call.state.streamer(hostname)?;
        // A namespace is a border that no viewer crosses.
        if streamer.namespace != stream.namespace {
            return None;
        }
        let stats = shared.fleet.streamer(hostname, now)?;
        Some(Load {
            clients: stats.clients.unwrap_or(0),
            bitrate_kbit: stats.output_kbit.unwrap_or(0),
            streams: stats.online_streams.or(stats.streams).unwrap_or(0),
        })
    };
    let chosen = balancer.choose(load, from, call.local.random());
    let chosen = chosen.ok_or_else(|| {
        let title = "No streamer of this load balancer can take the caller now";
        error::NO_STREAMER_AVAILABLE.titled(title)
    })?;
    let streamer = call.state.streamer(&chosen.hostname);
    let config = streamer.map_or_else(Object::new, |streamer| object(&streamer.config));
    let base = public_url(&config, &chosen.hostname);
    let location = redirect(&base, &stream_name, wanted.suffix, call.request.query);
    let response = Response::new(302)
        .header("Location", location)
        .header("Cache-Control", "no-store");
    Ok(Outcome::Reply(response))
}

/// A configuration that was written here.
fn object(text: &str) -> Object {
    match json::parse(text.as_bytes()) {
        Ok(Value::Object(object)) => object,
        _ => Object::new(),
    }
}

/// Where the caller is: who connects, or whom a proxy names that connects from this machine or a private network.
fn caller_address(request: &Request<'_>) -> IpAddr {
    let peer = request.peer.to_canonical();
    let is_near = match peer {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private(),
        IpAddr::V6(v6) => v6.is_loopback() || (v6.segments()[0] & 0xfe00) == 0xfc00,
    };
    let named = request.headers.get("x-real-ip").filter(|_| is_near);
    let named = named.and_then(|value| std::str::from_utf8(value).ok());
    named
        .and_then(|text| parse_address(text.trim()))
        .unwrap_or(peer)
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

    /// Everybody who may be chosen, over all random numbers.
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
    fn each_mode_compares_what_it_is_named_for() {
        let loads = [
            ("a", load(1, 900, 5)),
            ("b", load(2, 500, 4)),
            ("c", load(3, 600, 3)),
        ];
        let servers = r#""servers":[{"name":"a","max_bitrate":10000},{"name":"b","max_bitrate":1000},{"name":"c","max_bitrate":1000}]"#;
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
    fn equals_take_turns() {
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
            r#"{"mode":"usage","servers":[{"name":"a","max_bitrate":100},{"name":"b","max_bitrate":300},{"name":"c","max_bitrate":3}]}"#,
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
    fn only_the_living_with_room_are_eligible() {
        let servers = r#""servers":[{"name":"a","max_bitrate":100},{"name":"b","max_bitrate":100},{"name":"c"}]"#;
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
    fn countries_choose_before_load_does() {
        let balancer = balancer(
            r#"{"servers":[{"name":"rs","countries":["RS","me"]},{"name":"de","countries":["DE"],"countries_default":true},
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
        // Whose servers are away is not sent to servers of others.
        assert_eq!(chosen(&balancer, &loads[1..], Some("RS")), "");
        assert_eq!(chosen(&balancer, &loads[2..], Some("FR")), "rest");
        assert_eq!(chosen(&balancer, &loads[2..], Some("DE")), "");
    }

    #[test]
    fn a_server_without_rules_takes_everybody() {
        let balancer = balancer(r#"{"servers":[{"name":"rs","countries":["RS"]},{"name":"any"}]}"#);
        let loads = [("rs", load(0, 1, 0)), ("any", load(0, 2, 0))];
        assert_eq!(chosen(&balancer, &loads, Some("RS")), "rs");
        assert_eq!(chosen(&balancer, &loads[1..], Some("RS")), "any");
        assert_eq!(chosen(&balancer, &loads, Some("DE")), "any");
        assert_eq!(chosen(&balancer, &loads, None), "any");
    }

    #[test]
    fn paths_are_taken_apart_without_decoding() {
        assert_eq!(
            Wanted::parse("main/sports%2Fhd1/tracks-v1a1/index.m3u8"),
            Some(Wanted {
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
            assert_eq!(Wanted::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn redirects_name_the_public_side_of_a_server() {
        for (config, base) in [
            (
                r#"{"public_payload_url":"https://edge.example.com:8443/live/","api_url":"http://10.0.0.1"}"#,
                "https://edge.example.com:8443/live",
            ),
            (
                r#"{"api_url":"http://user:secret@10.0.0.1:8080/"}"#,
                "http://10.0.0.1:8080",
            ),
            (
                r#"{"public_payload_url":"rtmp://x/","api_url":"http://10.0.0.1?cluster_key=secret"}"#,
                "http://10.0.0.1",
            ),
            (r#"{"public_payload_url":null}"#, "http://s1"),
            ("{}", "http://s1"),
        ] {
            assert_eq!(public_url(&object(config), "s1"), base, "{config}");
        }
        assert_eq!(
            redirect(
                "http://s1:80",
                "sports/hd 1",
                "tracks-v1/index.m3u8",
                "token=a&b=%20"
            ),
            "http://s1:80/sports/hd%201/tracks-v1/index.m3u8?token=a&b=%20"
        );
        assert_eq!(redirect("http://s1", "a?b", "x", ""), "http://s1/a%3Fb/x");
        let odd = redirect("http://s1", "a\r\nX: y", "b\"<", "c\\");
        assert!(odd.bytes().all(|byte| byte.is_ascii_graphic()), "{odd}");
    }

    /// What a caller of `path` is told, where `s1` and `s2` are alive and `s2` has less to do.
    fn told(path: &str, fields: &str) -> Response {
        use crate::fleet::report::StreamerReport;
        use crate::http::{Method, head};
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
                r#"{"role":"streamer","cluster_key":"k","api_url":"http://u:p@10.0.0.2:8080","public_payload_url":"https://edge2.example.com/"}"#,
            ),
            streamer(
                "s3",
                r#"{"role":"streamer","cluster_key":"k","namespace":"other"}"#,
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
            fleet.report(&Hostname::trusted(name), report, now);
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
            peer: IpAddr::from([127, 0, 0, 1]),
            body_late: false,
            may_upgrade: false,
        };
        let call = Call {
            shared: &shared,
            state: &Rc::new(Arc::new(state)),
            local: &crate::api::call::CoreLocal::default(),
            endpoint: &super::super::endpoint::OPERATIONS[0],
            core: 0,
            request: &request,
            parameter: "",
            caller: &super::super::auth::Caller::Anybody,
            ticket: crate::http::Ticket { slot: 0, epoch: 1 },
        };
        match send_on(&call) {
            Ok(Outcome::Reply(response)) => response,
            Ok(_) => panic!("nothing has to be waited for"),
            Err(error) => Response::from(error),
        }
    }

    #[test]
    fn callers_are_sent_to_the_least_loaded_streamer_of_the_streams_namespace() {
        let location = |path: &str| {
            let response = told(path, "");
            assert_eq!(response.status, 302, "{path}");
            let mut fields = response.headers.into_iter();
            let found = fields.find(|(name, _)| *name == "Location");
            found.expect("a place to go").1.into_owned()
        };
        assert_eq!(
            location("/central/api/v3/lb/main/sports%2Fhd1/tracks-v1/index.m3u8?token=a%26b"),
            "https://edge2.example.com/sports/hd1/tracks-v1/index.m3u8?token=a%26b"
        );
        assert_eq!(
            location("/streamer/api/v3/lb/main/theirs/whep"),
            "http://s3/theirs/whep"
        );
        assert_eq!(told("/central/api/v3/lb/main/nobody/whep", "").status, 404);
        assert_eq!(told("/central/api/v3/lb/other/theirs/whep", "").status, 404);
    }
}
