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
use std::time::Instant;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::balancer_rules::{Balancer, Load};
use super::playback::{PlayAddress, ServedStream, ServingReason};
use super::{Call, Outcome, entity, router};
use crate::error::{self, ApiError};
use crate::http::{Method, Response};
use crate::json::{self, Object, Value};
use crate::state::apply::stream_not_found;
use crate::state::entity::{Key, Kind};
use crate::state::record::{StreamRecord, StreamerRecord};

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

/// A client that is redirected, and what is known about its stream.
struct ClientSession<'a> {
    call: &'a Call<'a>,
    served: ServedStream<'a>,
    /// What follows the name of the stream.
    suffix: &'a str,
    is_publisher: bool,
    now: Instant,
    /// A streamer is eligible except that it has no address for players.
    without_address: Cell<bool>,
}

impl<'a> ClientSession<'a> {
    fn new(call: &'a Call<'a>, stream: &'a StreamRecord, suffix: &'a str) -> Self {
        let now = Instant::now();
        Self {
            call,
            served: ServedStream::new(call.state, call.shared.fleet.view(now), stream),
            suffix,
            is_publisher: call.request.method == Method::Post,
            now,
            without_address: Cell::new(false),
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
        let reasons = self.served.reasons(self.is_publisher);
        let chosen = reasons.iter().find_map(|reason| {
            balancer.choose(|hostname| self.load(*reason, hostname), from, random)
        })?;
        self.url(self.call.state.streamer(&chosen.hostname)?)
    }

    /// The URL of the stream on a streamer, without the query.
    fn url(&self, streamer: &StreamerRecord) -> Option<String> {
        let address = PlayAddress::of(streamer);
        if address.is_none() {
            self.without_address.set(true);
        }
        address?.url(&self.served.stream.name, self.suffix)
    }

    /// The load of a streamer that is alive and can serve the client for this reason.
    fn load(&self, reason: ServingReason, hostname: &str) -> Option<Load> {
        let streamer = self.call.state.streamer(hostname)?;
        if !self.served.can_be_served(reason, streamer) {
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
    use crate::api::playback::stream_url;
    use crate::json;

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
    fn redirects_have_no_character_that_ends_a_field_or_a_url() {
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
