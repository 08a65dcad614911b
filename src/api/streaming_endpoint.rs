//! `streaming_endpoint` of streams: the base URL below which players find a stream.
//!
//! A stream is played below it as `/NAME/SUFFIX`. The streamer is one that may serve viewers of the
//! stream, as for load balancers, and has such an address; of several the one that sends least
//! and among equals always the same one for a stream. A stream that runs nowhere and is placed on
//! no streamer has no endpoint.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use imbl::OrdMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::balancer_rules::Balancer;
use super::playback::{PlayAddress, ServedStream, ServingReason, public_base};
use crate::access::rules::Country;
use crate::fleet::stats::{StreamFacts, View};
use crate::json::{self, Value};
use crate::state::State;
use crate::state::entity::Kind;
use crate::state::name::Hostname;
use crate::state::node::{Restreaming, may_restream};
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
    address: Rc<PlayAddress>,
    output_kbit: u64,
}

/// The choice of endpoints, at one moment and for one viewer.
pub struct Endpoints<'s> {
    state: &'s State,
    fleet: View<'s>,
    viewer: EndpointViewer,
    players: OnceCell<Rc<PlayServers>>,
    servers: RefCell<HashMap<Box<str>, Option<Rc<LiveServer>>>>,
    /// Whether a load balancer accepts the viewer's country on a streamer, for those in one.
    by_country: OnceCell<BTreeMap<Box<str>, bool>>,
}

impl<'s> Endpoints<'s> {
    pub fn new(state: &'s State, fleet: View<'s>, viewer: EndpointViewer) -> Self {
        Self {
            state,
            fleet,
            viewer,
            players: OnceCell::new(),
            servers: RefCell::default(),
            by_country: OnceCell::new(),
        }
    }

    fn players(&self) -> &PlayServers {
        self.players
            .get_or_init(|| PlayServers::of_state(self.state))
    }

    /// The endpoint of a stream with these reports.
    pub fn of(&self, stream: &StreamRecord, facts: Option<&StreamFacts<'_>>) -> Option<String> {
        let chosen = if self.players().addresses.is_empty() {
            None
        } else {
            let served = ServedStream::as_reported(self.state, stream, facts);
            let mut reasons = served.reasons(false).iter();
            reasons.find_map(|reason| self.best(*reason, &served))
        };
        // The base URL that the stream's node reports, if players in the internet can reach it.
        chosen.or_else(|| public_base(&facts?.reported_endpoint()?))
    }

    /// Finds what endpoints of all streams need, unless it is found. Endpoints are wanted while
    /// reports are locked, and reading all streamers and load balancers may take milliseconds.
    pub fn prepare(&self) {
        self.players();
        if let ViewerOrigin::In(country) = self.viewer.origin {
            self.accepted_in(country);
        }
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
                let hosts = self.players().restreamers_for(served.stream);
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
        let address = self.players().addresses.get(streamer.hostname.as_str())?;
        let (_, stats) = self.fleet.streamer(&streamer.hostname)?;
        let output_kbit = stats?.output_kbit.unwrap_or(0);
        let address = address.clone();
        Some(LiveServer {
            address,
            output_kbit,
        })
    }

    /// Whether viewers of this country are sent to a streamer: it is in no load balancer, or one
    /// that has it accepts them there.
    fn accepts(&self, streamer: &StreamerRecord) -> bool {
        let ViewerOrigin::In(country) = self.viewer.origin else {
            return true;
        };
        self.accepted_in(country)
            .get(streamer.hostname.as_str())
            .copied()
            .unwrap_or(true)
    }

    fn accepted_in(&self, country: Option<Country>) -> &BTreeMap<Box<str>, bool> {
        self.by_country.get_or_init(|| {
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
        })
    }
}

/// Streamers that are looked at for a stream that is on none with an address for players.
const RESTREAMERS_TRIED: usize = 8;

/// What follows from the configuration of one set of streamers. It is found once for each set and
/// thread: a request for one stream must not look at all streamers.
struct PlayServers {
    of: OrdMap<Hostname, StreamerRecord>,
    restreaming: Restreaming,
    /// Of the streamers that have an address for players.
    addresses: HashMap<Hostname, Rc<PlayAddress>>,
    /// Those of them that may restream.
    restreamers: BTreeMap<Option<Box<str>>, Vec<Hostname>>,
}

impl PlayServers {
    fn of_state(state: &State) -> Rc<Self> {
        thread_local! {
            static KNOWN: RefCell<Option<Rc<PlayServers>>> = const { RefCell::new(None) };
        }
        KNOWN.with_borrow_mut(|known| match known {
            Some(known) if known.is_of(state) => known.clone(),
            _ => known.insert(Rc::new(Self::new(state))).clone(),
        })
    }

    fn new(state: &State) -> Self {
        let mut addresses = HashMap::new();
        let mut restreamers: BTreeMap<_, Vec<Hostname>> = BTreeMap::new();
        for (hostname, record) in state.streamers() {
            let Some(address) = PlayAddress::of(record) else {
                continue;
            };
            addresses.insert(hostname.clone(), Rc::new(address));
            if may_restream(state, record) {
                let namespace = record.namespace.as_ref().map(|it| it.as_str().into());
                let of_namespace = restreamers.entry(namespace).or_default();
                of_namespace.push(hostname.clone());
            }
        }
        Self {
            of: state.streamers().clone(),
            restreaming: state.settings().restreaming,
            addresses,
            restreamers,
        }
    }

    fn is_of(&self, state: &State) -> bool {
        self.of.ptr_eq(state.streamers()) && self.restreaming == state.settings().restreaming
    }

    /// A few restreamers for a stream: other streams have others, so that viewers spread.
    fn restreamers_for(&self, stream: &StreamRecord) -> impl Iterator<Item = &Hostname> {
        let namespace: Option<Box<str>> = stream.namespace.as_ref().map(|it| it.as_str().into());
        let all = self.restreamers.get(&namespace);
        let all = all.map_or(&[][..], Vec::as_slice);
        let first = seed(&stream.name) as usize % all.len().max(1);
        let (before, from) = all.split_at(first);
        from.iter().chain(before).take(RESTREAMERS_TRIED)
    }
}

fn seed(name: &str) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), 0)
}
