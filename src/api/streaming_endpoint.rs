//! `streaming_endpoint` of streams: the base URL below which players find a stream.
//!
//! A stream is played below it as `/NAME/SUFFIX`. The streamer is one that may serve viewers of the
//! stream, as for load balancers, and has such an address; of several the one that sends least,
//! and among equals always the same one for a stream. A stream that runs nowhere and is placed on
//! no streamer has no endpoint.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::balancer_rules::Balancer;
use super::playback::{PlayAddress, ServedStream, ServingReason, public_base};
use crate::access::rules::Country;
use crate::fleet::stats::View;
use crate::json::{self, Value};
use crate::state::State;
use crate::state::entity::Kind;
use crate::state::node::may_restream;
use crate::state::record::{StreamRecord, StreamerRecord};

/// The viewer that endpoints are chosen for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndpointViewer {
    /// The preferred scheme.
    pub scheme: Option<&'static str>,
    pub origin: ViewerOrigin,
}

/// Where a viewer is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ViewerOrigin {
    /// Its address was not given.
    #[default]
    Anywhere,
    /// At an address, whose country may be unknown.
    In(Option<Country>),
}

/// A streamer that is alive and has an address for players.
struct LiveServer {
    address: PlayAddress,
    output_kbit: u64,
}

/// The choice of endpoints, at one moment and for one viewer.
pub struct Endpoints<'s> {
    state: &'s State,
    fleet: View<'s>,
    viewer: EndpointViewer,
    servers: RefCell<HashMap<Box<str>, Option<Rc<LiveServer>>>>,
    /// The live streamers that may restream.
    restreamers: OnceCell<Vec<Box<str>>>,
    /// Whether a load balancer accepts the viewer's country on a streamer, for those in one.
    by_country: OnceCell<BTreeMap<Box<str>, bool>>,
}

impl<'s> Endpoints<'s> {
    pub fn new(state: &'s State, fleet: View<'s>, viewer: EndpointViewer) -> Self {
        Self {
            state,
            fleet,
            viewer,
            servers: RefCell::default(),
            restreamers: OnceCell::new(),
            by_country: OnceCell::new(),
        }
    }

    /// The endpoint of a stream.
    pub fn of(&self, stream: &StreamRecord) -> Option<String> {
        let served = ServedStream::new(self.state, self.fleet, stream);
        let reasons = served.reasons(false).iter();
        let mut found = reasons.filter_map(|reason| self.best(*reason, &served));
        found.next().or_else(|| self.reported(stream))
    }

    /// The base URL that the stream's node reports, if players in the internet can reach it.
    fn reported(&self, stream: &StreamRecord) -> Option<String> {
        let fleet = self.fleet;
        let look = fleet.stream(&stream.name, stream.source(), |facts| {
            facts.reported_endpoint().and_then(|url| public_base(&url))
        });
        look.flatten()
    }

    /// The best endpoint on the streamers that can serve a stream for one reason.
    fn best(&self, reason: ServingReason, served: &ServedStream<'_>) -> Option<String> {
        let state = self.state;
        let hosts: Vec<&StreamerRecord> = match reason {
            ServingReason::Running => {
                let running = served.running.iter();
                running.filter_map(|host| state.streamer(host)).collect()
            }
            ServingReason::Ingest => {
                let source = served.stream.source().filter(|_| !served.stream.disabled);
                source
                    .and_then(|host| state.streamer(host))
                    .into_iter()
                    .collect()
            }
            ServingReason::Restreamer => {
                let hosts = self.restreamers().iter();
                hosts.filter_map(|host| state.streamer(host)).collect()
            }
            ServingReason::Unplaced => Vec::new(),
        };
        let name = served.stream.name.as_str();
        let candidates = hosts.into_iter().filter_map(|host| {
            let server = self.server(host)?;
            let accepted = self.accepts(host) && served.can_be_served(reason, host);
            let endpoint = self.base(&server, name).filter(|_| accepted)?;
            let order = xxh3_64_with_seed(host.hostname.as_bytes(), seed(name));
            Some((
                !self.is_preferred(&endpoint),
                server.output_kbit,
                order,
                endpoint,
            ))
        });
        candidates.min().map(|(.., endpoint)| endpoint)
    }

    fn is_preferred(&self, endpoint: &str) -> bool {
        self.viewer.scheme.is_none_or(|scheme| {
            let given = endpoint.split_once("://").map_or("", |(given, _)| given);
            given.eq_ignore_ascii_case(scheme)
        })
    }

    /// The base URL of a server, of the preferred scheme if it has one.
    fn base(&self, server: &LiveServer, name: &str) -> Option<String> {
        let bases = server.address.bases(name);
        bases.min_by_key(|base| !self.is_preferred(base))
    }

    fn server(&self, streamer: &StreamerRecord) -> Option<Rc<LiveServer>> {
        let mut servers = self.servers.borrow_mut();
        if let Some(known) = servers.get(streamer.hostname.as_str()) {
            return known.clone();
        }
        let server = self.live(streamer).map(Rc::new);
        servers.insert(streamer.hostname.as_str().into(), server.clone());
        server
    }

    fn live(&self, streamer: &StreamerRecord) -> Option<LiveServer> {
        let (_, stats) = self.fleet.streamer(&streamer.hostname)?;
        let output_kbit = stats?.output_kbit.unwrap_or(0);
        let address = PlayAddress::of(streamer)?;
        Some(LiveServer {
            address,
            output_kbit,
        })
    }

    fn restreamers(&self) -> &[Box<str>] {
        self.restreamers.get_or_init(|| {
            let state = self.state;
            let streamers = state.streamers().values();
            let able = streamers.filter(|it| may_restream(state, it) && self.server(it).is_some());
            able.map(|it| it.hostname.as_str().into()).collect()
        })
    }

    /// Whether viewers of this country are sent to a streamer: it is in no load balancer, or one
    /// that has it accepts them there.
    fn accepts(&self, streamer: &StreamerRecord) -> bool {
        let ViewerOrigin::In(country) = self.viewer.origin else {
            return true;
        };
        let by_country = self.by_country.get_or_init(|| {
            let mut accepted = BTreeMap::new();
            for record in self.state.entities(Kind::Balancer).by_key().values() {
                let Ok(Value::Object(config)) = json::parse(record.config.as_bytes()) else {
                    continue;
                };
                for (server, accepts) in Balancer::of(&config).accepting(country) {
                    *accepted.entry(server.hostname.clone()).or_default() |= accepts;
                }
            }
            accepted
        });
        by_country
            .get(streamer.hostname.as_str())
            .copied()
            .unwrap_or(true)
    }
}

fn seed(name: &str) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), 0)
}
