//! Where viewers and publishers of a stream are sent, and the URLs under which streamers serve it.
//!
//! Viewers are sent where the stream is: to the streamers that report it running; if none of them
//! can be used, to its ingest node; else to streamers that may restream it. Only addresses that are
//! meant for players are given.

use std::sync::LazyLock;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::fleet::stats::{StreamFacts, View};
use crate::json::{self, Object, Value, scan};
use crate::native_name::MediaServerKind;
use crate::state::State;
use crate::state::name::Hostname;
use crate::state::node::can_restream;
use crate::state::pull::{kind_of_record, play_url, text_of};
use crate::state::record::{ArchivedNodeRole, StreamRecord, StreamerRecord};
use crate::subnet::{Subnets, parse_address};

/// Why a streamer can serve a client of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServingReason {
    /// It reports that the stream runs there.
    Running,
    /// It captures the stream.
    Ingest,
    /// It may restream, so it can take the stream from where it is.
    Restreamer,
    /// Nothing is known about where the stream is.
    Unplaced,
}

/// A stream whose clients are sent to streamers.
pub struct ServedStream<'a> {
    pub state: &'a State,
    pub stream: &'a StreamRecord,
    /// The nodes on which it runs.
    pub running: Vec<Hostname>,
}

impl<'a> ServedStream<'a> {
    pub fn new(state: &'a State, fleet: View<'_>, stream: &'a StreamRecord) -> Self {
        fleet.stream_or_none(&stream.name, stream.source(), |facts| {
            Self::as_reported(state, stream, facts.as_ref())
        })
    }

    /// With reports that are looked up already.
    pub fn as_reported(
        state: &'a State,
        stream: &'a StreamRecord,
        facts: Option<&StreamFacts<'_>>,
    ) -> Self {
        let running = facts.map(|facts| facts.running_on().cloned().collect());
        Self {
            state,
            stream,
            running: running.unwrap_or_default(),
        }
    }

    /// The reasons to send a client to a streamer, best first. A publisher is of use only where
    /// the stream is captured.
    pub fn reasons(&self, is_publisher: bool) -> &'static [ServingReason] {
        use ServingReason::{Ingest, Restreamer, Running, Unplaced};
        match (self.stream.ingest(), is_publisher) {
            (Some(_), true) => &[Ingest],
            (None, true) => &[Unplaced],
            (None, false) if self.running.is_empty() => &[Unplaced],
            (_, false) => &[Running, Ingest, Restreamer],
        }
    }

    /// Whether a streamer can serve clients of the stream for this reason. Clients stay within the
    /// namespace of the stream. Other nodes than streamers have streams, too, but serve no clients.
    pub fn can_be_served(&self, reason: ServingReason, streamer: &StreamerRecord) -> bool {
        let hostname = streamer.hostname.as_str();
        matches!(streamer.role, ArchivedNodeRole::Streamer)
            && streamer.namespace == self.stream.namespace
            && match reason {
                ServingReason::Running => self.running.iter().any(|host| **host == *hostname),
                // A publisher is not handed over: its streams move at once.
                ServingReason::Ingest => self.stream.source() == Some(hostname),
                ServingReason::Restreamer => can_restream(self.state, streamer, self.stream),
                ServingReason::Unplaced => true,
            }
    }
}

/// The addresses of a streamer for players.
#[derive(Debug)]
pub struct PlayAddress {
    kind: MediaServerKind,
    /// Templates of URLs by what follows the name of the stream. They replace the base.
    templates: Option<Object>,
    base: Option<String>,
}

impl PlayAddress {
    /// `None` if the streamer has no address for players.
    pub fn of(streamer: &StreamerRecord) -> Option<Self> {
        let config = streamer.config.as_str();
        let templates = scan::member(config, "play_urls").and_then(object);
        let templates = templates.filter(|templates| !templates.is_empty());
        let base = match templates {
            Some(_) => None,
            None => Some(public_url(config, &streamer.hostname)?),
        };
        Some(Self {
            kind: kind_of_record(streamer),
            templates,
            base,
        })
    }

    /// The URL of a stream, without a query. `None` if the streamer does not play that.
    pub fn url(&self, name: &str, suffix: &str) -> Option<String> {
        if let Some(templates) = &self.templates {
            return play_url(templates, self.kind, name, suffix);
        }
        let native = self.kind.native(name);
        let native = native.trim_start_matches('/');
        Some(stream_url(self.base.as_ref()?, native, suffix))
    }

    /// The base URLs over HTTP below which a stream is played as `/NAME/SUFFIX`.
    pub fn bases(&self, name: &str) -> impl Iterator<Item = String> {
        let templates = self.templates.iter().flat_map(Object::iter);
        let suffixes = templates.map(|(suffix, _)| suffix);
        let default = self.base.is_some().then_some("index.m3u8");
        suffixes.chain(default).filter_map(move |suffix| {
            let url = self.url(name, suffix)?;
            let base = url.strip_suffix(&stream_url("", name, suffix))?;
            let (base, _) = http_base(base)?;
            Some(base)
        })
    }
}

/// Parses a JSON object.
fn object(text: &str) -> Option<Object> {
    match json::parse(text.as_bytes()) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    }
}

/// Characters of a stream name that are escaped in a path.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The URL of a streamer for players, without credentials: its `public_payload_url`; else its
/// `api_url`, else its hostname, if that is an address in the internet. Internal addresses are
/// shown to no player.
fn public_url(config: &str, hostname: &str) -> Option<String> {
    let given = |field: &str| scan::member(config, field).and_then(text_of);
    if let Some((base, _)) = given("public_payload_url").as_deref().and_then(http_base) {
        return Some(base);
    }
    let default = format!("http://{hostname}");
    let api_url = given("api_url");
    public_base(api_url.as_deref().unwrap_or(&default))
}

/// A base URL without credentials, if players in the internet can reach it.
pub fn public_base(url: &str) -> Option<String> {
    let (base, host) = http_base(url)?;
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
pub fn stream_url(base: &str, name: &str, suffix: &str) -> String {
    let name = utf8_percent_encode(name, KEPT);
    format!("{base}/{name}/{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        json::parse(text.as_bytes()).expect("JSON").to_text()
    }

    #[test]
    fn players_get_public_addresses_without_credentials() {
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
            let url = public_url(&canonical(config), "s1");
            assert_eq!(url.as_deref(), base, "{config}");
        }
        let url = public_url("{}", "s1.example.com");
        assert_eq!(url.as_deref(), Some("http://s1.example.com"));
    }

    #[test]
    fn bases_are_those_below_which_the_name_is_played() {
        let bases = |kind: MediaServerKind, templates: &str, name: &str| {
            let address = PlayAddress {
                kind,
                templates: object(templates),
                base: None,
            };
            address.bases(name).collect::<Vec<_>>().join(" ")
        };
        let hls = r#"{"index.m3u8":"https://m:8888/{native}/index.m3u8","whep":"http://m:8889"}"#;
        let mediamtx = MediaServerKind::MediaMtx;
        assert_eq!(bases(mediamtx, hls, "a/b"), "https://m:8888 http://m:8889");
        assert_eq!(bases(mediamtx, hls, "a b"), "", "another name there");
        let query = r#"{"index.m3u8":"http://g/api/stream.m3u8?src={name}","x":"rtsp://g:8554"}"#;
        assert_eq!(bases(MediaServerKind::Go2rtc, query, "a"), "");
        let plain = PlayAddress {
            kind: MediaServerKind::Srs,
            templates: None,
            base: Some("http://s".into()),
        };
        assert_eq!(plain.bases("cams/a").collect::<Vec<_>>(), ["http://s"]);
    }
}
