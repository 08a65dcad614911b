//! What is served: the table of endpoints, and the service of one core that looks things up in it.
//!
//! A handler reads a state and decides; it never waits and never changes anything. What it decided is an [`Outcome`]: a reply, a command for
//! the writer, a list to run in slices, or a poll to park. Everything that waits is completed through its ticket: by the
//! writer's replies, by commits, by deadlines, by the end of the process.

pub mod agent;
pub mod auth;
pub mod auth_backend;
pub mod balancer;
pub mod cluster;
pub mod config;
pub mod config_external;
pub mod control;
pub mod docs;
pub mod dvr;
pub mod dvr_presence;
pub mod entity;
pub mod episode;
pub mod event;
pub mod external_episodes;
pub mod layout;
pub mod measure;
pub mod monitoring;
pub mod openapi;
pub mod person;
pub mod router;
pub mod session_auth;
pub mod srt_port;
pub mod stats;
pub mod stream;
pub mod streamer;
pub mod streamer_check;
pub mod token;
pub mod watch;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use self::agent::{Agents, Surroundings};
use self::auth::{Access, Auth, Caller, Needs, TokenNeed, may};
use self::cluster::{Census, Form};
use self::config_external::{ConfigPoll, Walks};
use self::control::Control;
use self::entity::{EntityDoc, EntitySource};
use self::event::{EventDoc, Events};
use self::external_episodes::ExternalEpisodes;
use self::measure::{CoreCounts, Gathering};
use self::router::{Found, Parameter, Route};
use self::session_auth::{Asking, Compiled, Question};
use self::stream::{Around, StreamDoc, Streams};
use self::streamer::{StreamerDoc, Streamers};
use self::streamer_check::Checking;
use self::token::{Demand, Token, Tokens};
use crate::access::geo::Countries;
use crate::access::rights::{Action, Sight, Visibility};
use crate::access::sessions::Sessions;
use crate::agents::messages;
use crate::config::SettingChanges;
use crate::config::journal::{Journal, JournalEntry, JournalGuard};
use crate::config::running::Running;
use crate::error::{self, ApiError};
use crate::feed::rendered::RenderedCache;
use crate::feed::{Commit, QuestionId, Subject, Waiters};
use crate::fleet::stats::{FleetStats, View};
use crate::http::{
    Accepts, Admission, Answer, Coding, Connections, Ended, Head, Lines, Method, Prepared, Request,
    Response, Service, Ticket, Upgrade,
};
use crate::json::{self, FieldType, Value};
use crate::layouter::metrics::LayouterMetrics;
use crate::layouter::thread::LayouterHandle;
use crate::metrics::Exposition;
use crate::outbound::{self, Outbound};
use crate::query::{Document, Execution, Page, Query};
use crate::rt;
use crate::schema::Schema;
use crate::state::State;
use crate::state::command::{AuditedCommand, Command, Done, EntitySave};
use crate::state::entity::{KINDS, Kind};
use crate::state::event::{Audit, EntityType, NewEvent};
use crate::state::name::{Hostname, StreamName, bad_hostname, bad_stream_name};
use crate::state::record::StreamerRecord;
use crate::writer::{Commands, CoreMessage, Envelope, Published, ReplyTo};

/// Largest body of an ordinary request, and of one that carries a batch.
pub const BODY_BYTES_MAX: u64 = 1024 * 1024;
pub const BATCH_BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Documents looked at before a list lets other requests of its core go first: about a millisecond.
const SCAN_SLICE: usize = 1024;
/// Answers sent in a row before other requests of the core go first: about a millisecond.
const SENDS_IN_A_ROW_MAX: usize = 256;
/// Longest that a change or a long list may take before its client is told that it takes too long.
const ANSWER_WAIT_MAX: Duration = Duration::from_mins(1);
const _: () = assert!(
    (crate::limits::EPISODES_DELAY_MS_MAX as u128) < ANSWER_WAIT_MAX.as_millis() / 2,
    "a save that waits for others is answered before its client is told that it takes too long"
);

/// One thing the API can do.
pub struct Endpoint {
    pub route: Route,
    /// The reference's `operationId`.
    pub id: &'static str,
    pub access: Access,
    pub body_bytes_max: u64,
    handler: fn(&Call<'_>) -> Result<Outcome, ApiError>,
}

const fn endpoint(
    method: Method,
    head: &'static str,
    parameter: Parameter,
    tail: &'static str,
    id: &'static str,
    access: Access,
    handler: fn(&Call<'_>) -> Result<Outcome, ApiError>,
) -> Endpoint {
    Endpoint {
        route: Route {
            method,
            head,
            parameter,
            tail,
        },
        id,
        access,
        body_bytes_max: BODY_BYTES_MAX,
        handler,
    }
}

const fn batch(endpoint: Endpoint) -> Endpoint {
    Endpoint {
        body_bytes_max: BATCH_BODY_BYTES_MAX,
        ..endpoint
    }
}

const NAME: Parameter = Parameter::Tail("name");
const HOSTNAME: Parameter = Parameter::Segment("hostname");
const EPISODE_ID: Parameter = Parameter::Segment("episode_id");
const PERSON_ID: Parameter = Parameter::Segment("person_id");
const ENTITY_NAME: Parameter = Parameter::Segment("name");
/// Taken apart by the handler, because a stream's name must be one segment before it is decoded.
const WANTED: Parameter =
    Parameter::Tail("loadbalancer_name}/{escaped_stream_name}/{multi_segment_suffix");
const AGENT: Parameter = Parameter::Segment("id");

/// Everything that is served, below either prefix. Of one head, longer tails first.
pub const ENDPOINTS: &[Endpoint] = &[
    endpoint(
        Method::Get,
        "/streams",
        Parameter::None,
        "",
        "streams_list",
        Access::Admin,
        stream::list,
    ),
    batch(endpoint(
        Method::Put,
        "/streams/batch",
        Parameter::None,
        "",
        "streams_batch_update",
        Access::Admin,
        stream::save_batch,
    )),
    batch(endpoint(
        Method::Post,
        "/streams/layouts",
        Parameter::None,
        "",
        "batch_update_streams_layouts",
        Access::Admin,
        stream::set_layouts,
    )),
    batch(endpoint(
        Method::Post,
        "/streams/preview_layout_change",
        Parameter::None,
        "",
        "batch_stream_layout_preview",
        Access::Admin,
        layout::preview_streams,
    )),
    endpoint(
        Method::Post,
        "/streams/",
        NAME,
        "/preview_layout_change",
        "preview_layout_change_for_stream_config",
        Access::Admin,
        layout::preview_stream,
    ),
    endpoint(
        Method::Get,
        "/streams/",
        NAME,
        "/layout/explain",
        "stream_layout_explain",
        Access::Admin,
        layout::explain,
    ),
    endpoint(
        Method::Get,
        "/streams/",
        NAME,
        "/layouts",
        "stream_layouts_get",
        Access::Admin,
        stream::layouts,
    ),
    endpoint(
        Method::Get,
        "/streams/",
        NAME,
        "",
        "stream_get",
        Access::Admin,
        stream::get,
    ),
    endpoint(
        Method::Put,
        "/streams/",
        NAME,
        "",
        "stream_save",
        Access::Admin,
        stream::save,
    ),
    endpoint(
        Method::Delete,
        "/streams/",
        NAME,
        "",
        "stream_delete",
        Access::Admin,
        stream::delete,
    ),
    endpoint(
        Method::Get,
        "/streamers",
        Parameter::None,
        "",
        "streamers_list",
        Access::Admin,
        streamer::list,
    ),
    batch(endpoint(
        Method::Put,
        "/streamers/batch",
        Parameter::None,
        "",
        "streamers_batch_update",
        Access::Admin,
        streamer::save_batch,
    )),
    batch(endpoint(
        Method::Post,
        "/streamers/preview_layout_change",
        Parameter::None,
        "",
        "batch_streamer_layout_preview",
        Access::Admin,
        layout::preview_streamers,
    )),
    endpoint(
        Method::Post,
        "/streamers/",
        HOSTNAME,
        "/preview_layout_change",
        "preview_layout_change_for_streamer_config",
        Access::Admin,
        layout::preview_streamer,
    ),
    batch(endpoint(
        Method::Post,
        "/cluster/preview",
        Parameter::None,
        "",
        "cluster_preview",
        Access::Admin,
        layout::preview_cluster,
    )),
    endpoint(
        Method::Get,
        "/cluster/capacity",
        Parameter::None,
        "",
        "cluster_capacity_get",
        Access::Admin,
        layout::capacity,
    ),
    endpoint(
        Method::Get,
        "/streamers/",
        HOSTNAME,
        "/streams",
        "streamer_streams_list",
        Access::Config,
        config_external::streams,
    ),
    endpoint(
        Method::Get,
        "/streamers/",
        HOSTNAME,
        "/update-streams",
        "streamer_update_streams_list",
        Access::Config,
        config_external::update_streams,
    ),
    endpoint(
        Method::Get,
        "/streamers/",
        HOSTNAME,
        "/dynamic-streams",
        "streamer_dynamic_streams_list",
        Access::Config,
        config_external::dynamic_streams,
    ),
    Endpoint {
        body_bytes_max: stats::BODY_BYTES_MAX,
        ..endpoint(
            Method::Put,
            "/streamers/",
            HOSTNAME,
            "/stats",
            "streamer_stats_report",
            Access::Config,
            stats::report,
        )
    },
    endpoint(
        Method::Get,
        "/streamers/",
        HOSTNAME,
        "/episodes",
        "external_episodes_list",
        Access::Config,
        external_episodes::list,
    ),
    endpoint(
        Method::Get,
        "/streamers/",
        Parameter::Pair("hostname", "port"),
        "/srt_port_resolve/",
        "srt_port_resolve",
        Access::Config,
        srt_port::resolve,
    ),
    endpoint(
        Method::Get,
        "/streamers/",
        HOSTNAME,
        "",
        "streamer_get",
        Access::Admin,
        streamer::get,
    ),
    endpoint(
        Method::Put,
        "/streamers/",
        HOSTNAME,
        "",
        "streamer_save",
        Access::Admin,
        streamer::save,
    ),
    endpoint(
        Method::Delete,
        "/streamers/",
        HOSTNAME,
        "",
        "streamer_delete",
        Access::Admin,
        streamer::delete,
    ),
    endpoint(
        Method::Get,
        "/episodes",
        Parameter::None,
        "",
        "episodes_list",
        Access::Admin,
        episode::list,
    ),
    endpoint(
        Method::Get,
        "/episodes/",
        EPISODE_ID,
        "",
        "episode_get",
        Access::Admin,
        episode::get,
    ),
    endpoint(
        Method::Put,
        "/episodes/",
        EPISODE_ID,
        "",
        "episode_save",
        Access::Admin,
        episode::save,
    ),
    endpoint(
        Method::Delete,
        "/episodes/",
        EPISODE_ID,
        "",
        "episode_delete",
        Access::Admin,
        episode::delete,
    ),
    endpoint(
        Method::Get,
        "/persons",
        Parameter::None,
        "",
        "persons_list",
        Access::Admin,
        person::list,
    ),
    endpoint(
        Method::Get,
        "/persons/",
        PERSON_ID,
        "",
        "person_get",
        Access::Admin,
        person::get,
    ),
    endpoint(
        Method::Put,
        "/persons/",
        PERSON_ID,
        "",
        "person_save",
        Access::Admin,
        person::save,
    ),
    endpoint(
        Method::Delete,
        "/persons/",
        PERSON_ID,
        "",
        "person_delete",
        Access::Admin,
        person::delete,
    ),
    endpoint(
        Method::Get,
        "/dvrs",
        Parameter::None,
        "",
        "dvrs_list",
        Access::Admin,
        dvr::list,
    ),
    endpoint(
        Method::Get,
        "/events",
        Parameter::None,
        "",
        "central_events_list",
        Access::Admin,
        event::list,
    ),
    endpoint(
        Method::Get,
        "/config",
        Parameter::None,
        "",
        "config_get",
        Access::Admin,
        config::get,
    ),
    endpoint(
        Method::Put,
        "/config",
        Parameter::None,
        "",
        "config_save",
        Access::Admin,
        config::save,
    ),
    endpoint(
        Method::Get,
        "/cluster/stats",
        Parameter::None,
        "",
        "cluster_stats_get",
        Access::Admin,
        cluster::stats,
    ),
    endpoint(
        Method::Get,
        "/auth_backends",
        Parameter::None,
        "",
        "auth_backends_list",
        Access::Admin,
        auth_backend::list,
    ),
    endpoint(
        Method::Get,
        "/auth_backends/",
        ENTITY_NAME,
        "",
        "auth_backend_get",
        Access::Admin,
        auth_backend::get,
    ),
    endpoint(
        Method::Put,
        "/auth_backends/",
        ENTITY_NAME,
        "",
        "auth_backend_save",
        Access::Admin,
        auth_backend::save,
    ),
    endpoint(
        Method::Delete,
        "/auth_backends/",
        ENTITY_NAME,
        "",
        "auth_backend_delete",
        Access::Admin,
        auth_backend::delete,
    ),
    endpoint(
        Method::Get,
        "/auth",
        Parameter::None,
        "",
        "auth_request",
        Access::Admin,
        session_auth::request,
    ),
    endpoint(
        Method::Get,
        "/api_tokens",
        Parameter::None,
        "",
        "api_tokens_list",
        Access::Admin,
        token::list,
    ),
    endpoint(
        Method::Get,
        "/api_tokens/",
        ENTITY_NAME,
        "",
        "api_token_get",
        Access::Admin,
        token::get,
    ),
    endpoint(
        Method::Put,
        "/api_tokens/",
        ENTITY_NAME,
        "",
        "api_token_save",
        Access::Admin,
        token::save,
    ),
    endpoint(
        Method::Delete,
        "/api_tokens/",
        ENTITY_NAME,
        "",
        "api_token_delete",
        Access::Admin,
        token::delete,
    ),
    endpoint(
        Method::Get,
        "/load-balancers",
        Parameter::None,
        "",
        "load_balancers_list",
        Access::Admin,
        balancer::list,
    ),
    endpoint(
        Method::Get,
        "/load-balancers/",
        ENTITY_NAME,
        "",
        "load_balancer_get",
        Access::Admin,
        balancer::get,
    ),
    endpoint(
        Method::Put,
        "/load-balancers/",
        ENTITY_NAME,
        "",
        "load_balancer_save",
        Access::Admin,
        balancer::save,
    ),
    endpoint(
        Method::Delete,
        "/load-balancers/",
        ENTITY_NAME,
        "",
        "load_balancer_delete",
        Access::Admin,
        balancer::delete,
    ),
    endpoint(
        Method::Get,
        "/lb/",
        WANTED,
        "",
        "streaming_lb_playback",
        Access::Public,
        balancer::send_on,
    ),
    endpoint(
        Method::Post,
        "/lb/",
        WANTED,
        "",
        "streaming_lb_publish",
        Access::Public,
        balancer::send_on,
    ),
    endpoint(
        Method::Get,
        "/agents",
        Parameter::None,
        "",
        "agents_list",
        Access::Admin,
        agent::list,
    ),
    batch(endpoint(
        Method::Post,
        "/agents/layouts",
        Parameter::None,
        "",
        "batch_update_agents_layouts",
        Access::Admin,
        agent::set_layouts,
    )),
    endpoint(
        Method::Post,
        "/agents/",
        AGENT,
        "/reboot",
        "agent_reboot",
        Access::Admin,
        agent::reboot,
    ),
    endpoint(
        Method::Post,
        "/agents/",
        AGENT,
        "/reset",
        "agent_reset",
        Access::Admin,
        agent::reset,
    ),
    endpoint(
        Method::Post,
        "/agents/",
        AGENT,
        "/disconnect",
        "agent_disconnect",
        Access::Admin,
        agent::disconnect,
    ),
    endpoint(
        Method::Get,
        "/agents/",
        AGENT,
        "/logs",
        "agent_logs_get",
        Access::Admin,
        agent::logs,
    ),
    endpoint(
        Method::Get,
        "/agents/",
        AGENT,
        "",
        "agent_get",
        Access::Admin,
        agent::get,
    ),
    endpoint(
        Method::Put,
        "/agents/",
        AGENT,
        "",
        "agent_save",
        Access::Admin,
        agent::save,
    ),
    endpoint(
        Method::Delete,
        "/agents/",
        AGENT,
        "",
        "agent_delete",
        Access::Admin,
        agent::delete,
    ),
    endpoint(
        Method::Post,
        "/endpoint/connect",
        Parameter::None,
        "",
        "endpoint_connect",
        Access::Public,
        control::connect,
    ),
    endpoint(
        Method::Get,
        "/monitoring/liveness",
        Parameter::None,
        "",
        "liveness_probe",
        Access::Public,
        monitoring::liveness,
    ),
    endpoint(
        Method::Get,
        "/monitoring/readiness",
        Parameter::None,
        "",
        "readiness_probe",
        Access::Public,
        monitoring::readiness,
    ),
    endpoint(
        Method::Get,
        "/openapi.json",
        Parameter::None,
        "",
        "openapi_get",
        Access::Admin,
        monitoring::openapi,
    ),
];

static ROUTES: std::sync::LazyLock<Vec<Route>> =
    std::sync::LazyLock::new(|| ENDPOINTS.iter().map(|endpoint| endpoint.route).collect());

/// What each endpoint asks of a token.
static NEEDS: std::sync::LazyLock<Vec<TokenNeed>> = std::sync::LazyLock::new(|| {
    let ids = ENDPOINTS.iter().map(|endpoint| endpoint.id);
    ids.map(token::need).collect()
});

/// One authorised request on its way to a handler.
pub struct Call<'a> {
    pub core: &'a Core,
    pub state: &'a LocalState,
    pub request: &'a Request<'a>,
    /// The decoded value of the path's parameter.
    pub parameter: &'a str,
    pub caller: &'a Caller,
    /// What the answer is owed to, if it comes later.
    pub ticket: Ticket,
}

impl Call<'_> {
    pub fn stream_name(&self) -> Result<StreamName, ApiError> {
        StreamName::parse(self.parameter).map_err(bad_stream_name)
    }

    pub fn hostname(&self) -> Result<Hostname, ApiError> {
        Hostname::parse(self.parameter).map_err(bad_hostname)
    }

    /// What streamers report, as it is now.
    pub fn fleet(&self) -> View<'_> {
        self.core.fleet()
    }

    pub fn json(&self) -> Result<Value, ApiError> {
        json::parse(self.request.body).map_err(|error| {
            ApiError::bad_body(error.pointer, error.code, error.title).with("offset", error.offset)
        })
    }

    /// Whether secrets are hidden from the caller even on the thing itself.
    pub fn masks(&self) -> bool {
        !self.caller.sees_secrets()
    }

    /// Which entities of a collection the caller may see.
    pub fn visible(&self, collection: &'static str) -> Visibility {
        match self.caller {
            Caller::Token(token) => Visibility::of(&token.rights, collection),
            _ => Visibility::ALL,
        }
    }

    /// What is known of streams besides their records, as it is now.
    pub fn around(&self) -> Around<'_> {
        self.core.shared.around(self.state, self.fleet())
    }

    /// The coding of bodies that are kept encoded.
    pub fn coding(&self) -> Option<Coding> {
        self.request.headers.accepts().best()
    }
}

/// What a handler decided.
pub enum Outcome {
    Reply(Response),
    Command(Command),
    /// A list, which may be long in the making. With `wait`, an empty one is parked until something matches.
    List {
        of: Collection,
        query: Rc<Query>,
        wait: Option<Duration>,
        extra: Extra,
    },
    /// How everything fares, which takes a look at everything.
    Survey(Form),
    /// Settings to be saved.
    Configure(SettingChanges),
    /// A list that is told completely or not at all: all its pages come from one revision.
    Walk {
        of: Collection,
        query: Rc<Query>,
        state: LocalState,
    },
    /// Episodes that streamers are asked about before they are shown.
    CheckPresence(Response),
    /// A change that is made once its streamer has answered.
    CheckStreamer {
        command: Command,
        call: outbound::OutboundCall,
    },
    /// What others have to be asked about first.
    Ask(Question),
    /// A question about layouts.
    AskLayouter(layout::desk::Question),
    /// A streamer that has what there is.
    ParkConfig {
        hostname: Hostname,
        poll: ConfigPoll,
        wait: Duration,
    },
    /// The handler has seen to it that the ticket will be completed, or is late after this long.
    Wait(Duration),
    /// The connection carries something else from here on.
    Upgrade(Upgrade),
}

/// A member of a list's items that is looked up elsewhere once the page is finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extra {
    None,
    /// What streamers have recorded of each episode.
    DvrPresence,
    /// `layout.node_layout_decisions` of each stream, which the layouter makes.
    LayoutDecisions,
}

/// What a list is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Collection {
    Streams,
    Streamers,
    Entities(Kind),
    ExternalEpisodes,
    Events,
}

impl Collection {
    /// Looks at some more documents of a list in the making.
    fn step(
        self,
        execution: &mut Execution<Rc<Query>>,
        state: &State,
        shared: &Shared,
    ) -> Option<Page> {
        let fleet = shared.fleet.view(Instant::now());
        match self {
            Self::Streams => {
                let around = shared.around(state, fleet);
                let streams = Streams::new(state, Some(around)).asked(execution.query());
                execution.step(&streams, SCAN_SLICE)
            }
            Self::Streamers => execution.step(&Streamers::new(state, Some(fleet)), SCAN_SLICE),
            Self::Entities(Kind::Agent) => {
                let around = Surroundings {
                    state,
                    presences: &shared.agents.presence.snapshot(),
                    server: &shared.hostname,
                };
                execution.step(&Agents::new(around), SCAN_SLICE)
            }
            Self::Entities(kind) => execution.step(&EntitySource::new(kind, state), SCAN_SLICE),
            Self::ExternalEpisodes => {
                let source = ExternalEpisodes::new(state, execution.query());
                execution.step(&source, SCAN_SLICE)
            }
            Self::Events => execution.step(&Events::new(state), SCAN_SLICE),
        }
    }

    fn subject(self) -> Subject {
        match self {
            Self::Streams => Subject::Streams,
            Self::Streamers => Subject::Streamers,
            Self::Entities(kind) => Subject::Entities(kind),
            Self::ExternalEpisodes => Subject::Entities(Kind::Episode),
            Self::Events => Subject::Events,
        }
    }
}

/// Settings that handlers read.
pub struct ApiSettings {
    pub poll_wait_max: Duration,
    /// Page size of `/streamers/{hostname}/streams` when the request names none; 0: the whole list.
    pub streams_limit: usize,
    /// How long the HTTP backends of an authorization backend may take, all together.
    pub auth_backend_timeout: Duration,
    /// How long an operator waits for an agent.
    pub agent_command_wait: Duration,
    /// How long an agent may say nothing.
    pub agent_silence_max: Duration,
}

/// What all cores share.
pub struct Shared {
    pub published: Arc<Published>,
    pub commands: Commands,
    pub auth: Auth,
    pub rendered: Arc<RenderedCache>,
    pub walks: Walks,
    /// What streamers reported last.
    pub fleet: FleetStats,
    pub layouter: LayouterHandle,
    pub layouter_metrics: Arc<LayouterMetrics>,
    pub desk: layout::desk::Desk,
    pub settings: ApiSettings,
    /// Settings that can change.
    pub running: Running,
    pub settings_journal: Journal,
    pub data_dir: PathBuf,
    /// Names this installation, and this run of it. UUIDs.
    pub server_id: Box<str>,
    pub run_id: Box<str>,
    pub started_at_seconds: u64,
    pub draining: AtomicBool,
    pub outbound: Outbound,
    pub sessions: Sessions,
    pub countries: Countries,
    pub agents: messages::Agents,
    /// Which cores have lists that wait for reports.
    pub watches: watch::Watches,
    /// How cores tell each other things.
    pub cores: Vec<Arc<rt::Inbox<CoreMessage>>>,
    /// The name of this server.
    pub hostname: Box<str>,
}

impl Shared {
    /// Streamers or agents are seen in another way than before: lists that wait for that look again.
    fn reported(&self) {
        self.watches.reported(&self.cores);
    }

    fn around<'a>(&'a self, state: &'a State, fleet: View<'a>) -> Around<'a> {
        Around {
            state,
            fleet,
            presences: &self.agents.presence,
        }
    }
}

/// The service of one core.
pub struct Core {
    index: usize,
    shared: Arc<Shared>,
    connections: Rc<Connections<Admitted>>,
    newest: RefCell<Newest>,
    waiters: RefCell<Waiters<Ticket, ConfigPoll, Rc<Poll>>>,
    /// Polls for lists that are no longer parked and not answered yet.
    answering: RefCell<HashMap<Ticket, Rc<Poll>>>,
    /// Requests to be logged when they are answered; empty unless requests are logged.
    unlogged: RefCell<HashMap<Ticket, Unlogged>>,
    trace_ids: RefCell<TraceIds>,
    /// Answers by the first digit of their status.
    answers: [Cell<u64>; 5],
    tokens: RefCell<Tokens>,
    /// Requests that are held open, with the right that each is held by.
    held: RefCell<HashMap<Ticket, Held>>,
    /// Changes under way whose answers hide secrets.
    masked: RefCell<HashSet<Ticket>>,
    /// Sessions about which HTTP backends are being asked.
    asking: RefCell<HashMap<Ticket, Asking>>,
    /// Answers about episodes for which streamers are being asked.
    presence: RefCell<HashMap<Ticket, dvr_presence::Asking>>,
    /// Changes that are not made yet: their streamers are being called.
    checking: RefCell<HashMap<Ticket, Checking>>,
    compiled: RefCell<Compiled>,
    control: RefCell<Control>,
    this: std::rc::Weak<Core>,
}

/// By whose right a request is held open.
enum Held {
    Administrator,
    /// A streamer by its own key, which is that of this record.
    Streamer {
        hostname: Hostname,
        record: StreamerRecord,
    },
    Token {
        token: Rc<Token>,
        endpoint: usize,
        key: Box<str>,
        /// It is shown a part of a list, as the token's permissions were.
        narrowed: bool,
    },
}

/// A state as one core holds it. The published one is shared by all cores, so that counting its references would have them fight over a cache
/// line with every request; this count is the core's own.
pub type LocalState = Rc<Arc<State>>;

struct Newest {
    published: arc_swap::Cache<PublishedState, Arc<State>>,
    local: LocalState,
}

/// Makes up ids for requests that bring none: unique, not secret.
struct TraceIds {
    seed: [u8; 16],
    count: u64,
}

impl TraceIds {
    fn new() -> Self {
        let mut seed = [0; 16];
        // Without randomness ids are unique on this core only, which is all that a log needs.
        let _ = getrandom::fill(&mut seed);
        Self { seed, count: 0 }
    }

    /// A number that nobody needs to guess wrong.
    fn next_number(&mut self) -> u128 {
        self.count += 1;
        let seed = u128::from_le_bytes(self.seed);
        xxhash_rust::xxh3::xxh3_128_with_seed(&seed.to_le_bytes(), self.count)
    }

    /// A version 4 UUID.
    fn next_id(&mut self) -> Box<str> {
        uuid(self.next_number())
    }
}

/// A version 4 UUID of these bits.
pub fn uuid(bits: u128) -> Box<str> {
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-").into()
}

/// What the log will tell of a request that is answered later.
struct Unlogged {
    method: &'static str,
    path: Box<str>,
    peer: IpAddr,
    since: Instant,
}

/// A list that was asked for.
struct AskedList {
    of: Collection,
    query: Rc<Query>,
    extra: Extra,
    wait: Option<Duration>,
    accepts: Accepts,
    ticket: Ticket,
    /// What was reported before it was looked at.
    seen: u64,
}

/// A question that waits for its first match.
#[derive(Clone)]
pub struct Poll {
    of: Collection,
    query: Rc<Query>,
    extra: Extra,
    accepts: Accepts,
}

impl Poll {
    /// Whether reports can make it match: what streams are found by is all that can, as long as it has found none.
    fn waits_for_reports(&self) -> bool {
        self.of == Collection::Streams && self.query.depends_on("stats")
    }
}

impl Core {
    pub fn new(
        index: usize,
        shared: Arc<Shared>,
        connections: Rc<Connections<Admitted>>,
    ) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            index,
            newest: RefCell::new(Newest {
                local: Rc::new(shared.published.state().load_full()),
                published: arc_swap::Cache::new(PublishedState(shared.published.clone())),
            }),
            shared,
            connections,
            waiters: RefCell::default(),
            answering: RefCell::default(),
            unlogged: RefCell::default(),
            trace_ids: RefCell::new(TraceIds::new()),
            answers: Default::default(),
            tokens: RefCell::default(),
            held: RefCell::default(),
            masked: RefCell::default(),
            asking: RefCell::default(),
            presence: RefCell::default(),
            checking: RefCell::default(),
            compiled: RefCell::default(),
            control: RefCell::default(),
            this: this.clone(),
        })
    }

    /// The newest durable state. Costs one load of a line that is rarely written.
    pub fn state(&self) -> LocalState {
        let mut newest = self.newest.borrow_mut();
        let Newest { published, local } = &mut *newest;
        let published = published.load();
        if !Arc::ptr_eq(published, local) {
            *local = Rc::new(published.clone());
        }
        local.clone()
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What streamers report, as it is now.
    pub fn fleet(&self) -> View<'_> {
        self.shared.fleet.view(Instant::now())
    }

    /// Polls parked on this core.
    pub fn parked(&self) -> usize {
        self.waiters.borrow().len()
    }

    fn answer(
        &self,
        request: &Request<'_>,
        admitted: Admitted,
        ticket: Ticket,
    ) -> Result<Answer, ApiError> {
        let state = self.state();
        let (index, parameter, caller) = match admitted.0 {
            // Found and authorised in this turn, when the head was complete.
            Some((index, caller)) if !request.body_late => {
                let parameter = router::parameter(&ROUTES[index], request.path)?;
                (index, parameter, caller)
            }
            // No endpoint, or rights that may have changed while the body arrived.
            _ => {
                let authorization = request.headers.authorization();
                match self.find(request.method, request.path, authorization, &state)? {
                    (Found::Endpoint(index, parameter), caller) => (index, parameter, caller),
                    (other, _) => return Ok(Answer::Reply(not_here(request.path, &other))),
                }
            }
        };
        let endpoint = &ENDPOINTS[index];
        let call = Call {
            core: self,
            state: &state,
            request,
            parameter: &parameter,
            caller: &caller,
            ticket,
        };
        match (endpoint.handler)(&call)? {
            Outcome::Reply(response) => {
                // What shows a collection without the query engine shows all of it.
                if let (Caller::Token(token), TokenNeed::Right(demand)) = (&caller, NEEDS[index])
                    && demand.action == Action::List
                    && token.rights.sight(demand.collection) != Sight::Everything
                {
                    return Err(auth::out_of_reach());
                }
                Ok(Answer::Reply(response))
            }
            Outcome::Wait(wait) => {
                self.hold(ticket, index, &parameter, &caller, false);
                Ok(Answer::Wait {
                    deadline: Some(wait),
                })
            }
            Outcome::Upgrade(upgrade) => Ok(Answer::Upgrade(upgrade)),
            Outcome::Command(command) => {
                // Also while the server is stopping: the writer ends after the cores, and what was begun is finished.
                let audit = self.audit(endpoint, &call, Some(&command));
                let asked = AuditedCommand {
                    command,
                    audit: Some(Box::new(audit)),
                };
                self.change(ticket, asked, call.masks())?;
                Ok(Answer::Wait {
                    deadline: Some(ANSWER_WAIT_MAX),
                })
            }
            Outcome::CheckStreamer {
                command,
                call: to_streamer,
            } => {
                let audit = self.audit(endpoint, &call, Some(&command));
                let asked = AuditedCommand {
                    command,
                    audit: Some(Box::new(audit)),
                };
                let checking = Checking::new(asked, call.masks());
                self.hold(ticket, index, &parameter, &caller, false);
                Ok(self.check_streamer(ticket, to_streamer, checking))
            }
            Outcome::List {
                of,
                mut query,
                wait,
                extra,
            } => {
                let narrowed = narrow(endpoint, &caller, &mut query)?;
                let asked = AskedList {
                    of,
                    query,
                    extra,
                    wait,
                    accepts: request.headers.accepts(),
                    ticket,
                    seen: self.shared.watches.count(),
                };
                let answer = self.list(asked, &state);
                if matches!(answer, Answer::Wait { .. }) {
                    self.hold(ticket, index, &parameter, &caller, narrowed);
                }
                Ok(answer)
            }
            Outcome::Survey(form) => {
                self.hold(ticket, index, &parameter, &caller, false);
                if let Some(core) = self.this.upgrade() {
                    let state = state.clone();
                    rt::spawn(async move { core.survey(ticket, form, state).await });
                }
                Ok(Answer::Wait {
                    deadline: Some(ANSWER_WAIT_MAX),
                })
            }
            Outcome::Configure(changes) => {
                let audit = self.audit(endpoint, &call, None);
                self.configure(ticket, changes, audit)?;
                Ok(Answer::Wait {
                    deadline: Some(ANSWER_WAIT_MAX),
                })
            }
            Outcome::Walk { of, query, state } => {
                let asked = AskedList {
                    of,
                    query,
                    extra: Extra::None,
                    wait: None,
                    accepts: request.headers.accepts(),
                    ticket,
                    seen: self.shared.watches.count(),
                };
                let answer = self.list(asked, &state);
                if matches!(answer, Answer::Wait { .. }) {
                    self.hold(ticket, index, &parameter, &caller, false);
                }
                Ok(answer)
            }
            Outcome::CheckPresence(response) => {
                self.hold(ticket, index, &parameter, &caller, false);
                Ok(match self.check_presence(ticket, response, &state) {
                    Some(response) => {
                        self.held.borrow_mut().remove(&ticket);
                        Answer::Reply(response)
                    }
                    None => presence_wait(),
                })
            }
            Outcome::Ask(question) => {
                self.hold(ticket, index, &parameter, &caller, false);
                Ok(self.ask(ticket, question, trace_id(request)))
            }
            Outcome::AskLayouter(question) => {
                self.hold(ticket, index, &parameter, &caller, false);
                self.shared.desk.ask(question, self.index, ticket)?;
                Ok(Answer::Wait {
                    deadline: Some(ANSWER_WAIT_MAX),
                })
            }
            Outcome::ParkConfig {
                hostname,
                poll,
                wait,
            } => {
                if self.shared.draining.load(Ordering::Acquire) {
                    return Ok(Answer::Reply(config_external::expire(
                        self, &state, &hostname, &poll,
                    )));
                }
                self.hold(ticket, index, &parameter, &caller, false);
                self.waiters.borrow_mut().park_host(ticket, hostname, poll);
                Ok(Answer::Wait {
                    deadline: Some(wait),
                })
            }
        }
    }

    /// Hands a change to the writer, whose reply is its answer.
    fn change(&self, ticket: Ticket, command: AuditedCommand, masks: bool) -> Result<(), ApiError> {
        self.shared.commands.send(Envelope {
            command,
            reply_to: ReplyTo::Core {
                index: self.index,
                ticket,
            },
        })?;
        if masks {
            self.masked.borrow_mut().insert(ticket);
        }
        Ok(())
    }

    /// Calls the streamer that a change is about; the change is made when it has answered.
    fn check_streamer(
        &self,
        ticket: Ticket,
        call: outbound::OutboundCall,
        checking: Checking,
    ) -> Answer {
        let inbox = self.shared.cores[self.index].clone();
        let deliver = move |outcome| inbox.push(CoreMessage::Checked { ticket, outcome });
        let cancel = checking.cancel.clone();
        self.checking.borrow_mut().insert(ticket, checking);
        self.shared.outbound.call(call, cancel, Box::new(deliver));
        Answer::Wait {
            deadline: Some(streamer_check::WAIT + ANSWER_WAIT_MAX),
        }
    }

    /// The streamer of a change has answered, or has not.
    fn checked(&self, ticket: Ticket, outcome: outbound::CallResult) {
        let Some(checking) = self.checking.borrow_mut().remove(&ticket) else {
            return;
        };
        let masks = checking.masks;
        let change = checking.judge(outcome);
        if let Err(error) = change.and_then(|asked| self.change(ticket, asked, masks)) {
            self.complete(ticket, Response::from(error));
        }
    }

    /// Remembers by whose right a request is held open. Not for changes on their way to the writer: those are decided.
    fn hold(&self, ticket: Ticket, endpoint: usize, key: &str, caller: &Caller, narrowed: bool) {
        let held = match caller {
            Caller::Anybody => return,
            Caller::Administrator => Held::Administrator,
            Caller::Streamer(record) => Held::Streamer {
                hostname: Hostname::trusted(key),
                record: record.clone(),
            },
            Caller::Token(token) => Held::Token {
                token: token.clone(),
                endpoint,
                key: key.into(),
                narrowed,
            },
        };
        self.held.borrow_mut().insert(ticket, held);
    }

    /// Ends what is held open by a right that is lost: the token is gone, has another key or may not see any more what is waited for, or
    /// the streamer has another key.
    fn end_unheld(&self, state: &State) {
        let mut ended = Vec::new();
        self.held.borrow_mut().retain(|ticket, held| {
            if !self.connections.is_waiting(*ticket) {
                return false;
            }
            match self.still_held(held, state) {
                Ok(true) => return true,
                // Its question was asked with other permissions: to be asked again.
                Ok(false) => ended.push((*ticket, None)),
                Err(error) => ended.push((*ticket, Some(Response::from(error)))),
            }
            false
        });
        for (ticket, response) in ended {
            let early = self.early(ticket);
            self.complete(ticket, response.unwrap_or(early));
        }
    }

    /// False if the right is another one than before.
    fn still_held(&self, held: &mut Held, state: &State) -> Result<bool, ApiError> {
        match held {
            Held::Administrator => Ok(true),
            Held::Streamer { hostname, record } => match state.streamer(hostname) {
                Some(newest) if newest.cluster_key == record.cluster_key => Ok(true),
                Some(_) => Err(lost_credentials()),
                // That it is gone is what its poll is answered.
                None => Ok(true),
            },
            Held::Token {
                token,
                endpoint,
                key,
                narrowed,
            } => {
                let newest = self.tokens.borrow_mut().find(state, &token.digest);
                let newest = newest.ok_or_else(lost_credentials)?;
                may(&newest, needs(*endpoint, key))?;
                if *narrowed && newest.rights != token.rights {
                    return Ok(false);
                }
                *token = newest;
                Ok(true)
            }
        }
    }

    /// Asks the HTTP backends of a session, all at once.
    fn ask(&self, ticket: Ticket, question: Question, trace_id: Option<Box<str>>) -> Answer {
        let trace_id = trace_id.unwrap_or_else(|| self.trace_ids.borrow_mut().next_id());
        let timeout = self.shared.settings.auth_backend_timeout;
        let asking = Asking::new(question);
        for call in asking.calls(&trace_id, Instant::now() + timeout) {
            let inbox = self.shared.cores[self.index].clone();
            let deliver = move |outcome| inbox.push(CoreMessage::Called { ticket, outcome });
            let cancel = asking.cancel.clone();
            self.shared.outbound.call(call, cancel, Box::new(deliver));
        }
        self.asking.borrow_mut().insert(ticket, asking);
        Answer::Wait {
            // The calls end by themselves; this is for when the threads that make them do not.
            deadline: Some(timeout + Duration::from_secs(1)),
        }
    }

    /// One of the HTTP backends of a session has been asked.
    fn called(&self, ticket: Ticket, outcome: outbound::CallResult) {
        let mut all = self.asking.borrow_mut();
        let Some(asking) = all.get_mut(&ticket) else {
            return;
        };
        let Some(said) = asking.hear(outcome) else {
            return;
        };
        let asking = all.remove(&ticket).expect("it was just found");
        drop(all);
        let response = asking.conclude(said, &self.shared.sessions);
        self.complete(ticket, response);
    }

    /// A number that differs each time.
    pub fn random(&self) -> u64 {
        self.trace_ids.borrow_mut().next_number() as u64
    }

    /// The rules of saved authorization backends, as this core has compiled them.
    pub fn compiled(&self) -> &RefCell<Compiled> {
        &self.compiled
    }

    /// What a caller calls its doing, or else a new name for it.
    fn trace_id(&self, call: &Call<'_>) -> Box<str> {
        told(call, "x-trace-id").unwrap_or_else(|| self.trace_ids.borrow_mut().next_id())
    }

    /// Under what name a caller was let in.
    fn user(&self, call: &Call<'_>) -> Box<str> {
        let authorization = call.request.headers.authorization();
        self.shared.auth.user(call.caller, authorization)
    }

    /// Who asks for a change, for the event log.
    fn audit(&self, endpoint: &Endpoint, call: &Call<'_>, command: Option<&Command>) -> Audit {
        let entity = match command {
            Some(Command::SaveStream { name, .. } | Command::DeleteStream { name }) => {
                Some((EntityType::Stream, name.as_str()))
            }
            Some(Command::SaveStreamer { hostname, .. } | Command::DeleteStreamer { hostname }) => {
                Some((EntityType::Streamer, hostname.as_str()))
            }
            Some(
                Command::SaveEntity(EntitySave { kind, .. })
                | Command::SaveAgent {
                    save: EntitySave { kind, .. },
                    ..
                }
                | Command::DeleteEntity { kind, .. },
            ) if *kind == Kind::Agent => Some((EntityType::Agent, call.parameter)),
            _ => None,
        };
        let path = call.request.path;
        Audit {
            operation: endpoint.id,
            path: Box::from(&path[..path.floor_char_boundary(1024)]),
            entity: entity.map(|(of, id)| (of, Box::from(id))),
            originator: told(call, "x-originator"),
            trace_id: self.trace_id(call),
            user: self.user(call),
            ip: call.request.peer,
            user_agent: told(call, "user-agent"),
            received: Instant::now(),
        }
    }

    /// Where a request leads, if its caller may go there. Only who may use the API learns what does not exist.
    fn find<'p>(
        &self,
        method: Method,
        path: &'p str,
        authorization: Option<&[u8]>,
        state: &State,
    ) -> Result<(Found<'p>, Caller), ApiError> {
        let found = router::find(&ROUTES, method, path)?;
        let needs = match &found {
            Found::Endpoint(index, parameter) => needs(*index, parameter),
            Found::OtherMethods(_) | Found::Nothing => Needs {
                access: Access::Admin,
                token: TokenNeed::Any,
                key: None,
                hostname: None,
            },
        };
        let token = |digest: &[u8; 32]| self.tokens.borrow_mut().find(state, digest);
        let caller = self
            .shared
            .auth
            .authorize(needs, authorization, token, state, now_seconds)?;
        Ok((found, caller))
    }

    /// Runs a list. Short ones are answered at once; the others go on in slices between other requests.
    fn list(&self, asked: AskedList, state: &LocalState) -> Answer {
        let mut execution = Execution::new(asked.query.clone());
        let started = Instant::now();
        for _ in 0..4 {
            let Some(page) = asked.of.step(&mut execution, state, &self.shared) else {
                if started.elapsed() > Duration::from_millis(1) {
                    break;
                }
                continue;
            };
            if page.items == 0
                && let Some(wait) = asked.wait
                && self.park_list(&asked)
            {
                return Answer::Wait {
                    deadline: Some(wait),
                };
            }
            let page = self.page(&asked.query, page, state);
            return match self.complete_page(asked.ticket, asked.extra, page, state) {
                Some(page) => Answer::Reply(page),
                None => extra_wait(asked.extra),
            };
        }
        let deadline = asked.wait.unwrap_or(ANSWER_WAIT_MAX);
        if let Some(core) = self.this.upgrade() {
            let state = state.clone();
            rt::spawn(async move { core.finish_list(execution, asked, state).await });
        }
        Answer::Wait {
            deadline: Some(deadline),
        }
    }

    /// The rest of a long list. A poll that found nothing is parked; if the state moved meanwhile it looks again first, because what was
    /// committed in between woke nobody.
    async fn finish_list(
        self: Rc<Self>,
        mut execution: Execution<Rc<Query>>,
        asked: AskedList,
        mut state: LocalState,
    ) {
        loop {
            let page = loop {
                rt::yield_now().await;
                if !self.connections.is_waiting(asked.ticket) {
                    return;
                }
                if let Some(page) = asked.of.step(&mut execution, &state, &self.shared) {
                    break page;
                }
            };
            if page.items == 0 && asked.wait.is_some() {
                let newest = self.state();
                if !Arc::ptr_eq(&newest, &state) {
                    state = newest;
                    execution = Execution::new(asked.query.clone());
                    continue;
                }
                if self.park_list(&asked) {
                    return;
                }
            }
            let page = self.page(&asked.query, page, &state);
            let response = self.complete_page(asked.ticket, asked.extra, page, &state);
            if let Some(response) = response {
                self.complete(asked.ticket, response);
            }
            return;
        }
    }

    /// Looks at everything there is, in slices.
    async fn survey(self: Rc<Self>, ticket: Ticket, form: Form, state: LocalState) {
        let mut census = Census::new(&state, self.fleet(), &self.shared.agents.presence, now_ms());
        while !census.step(&state, self.fleet(), SCAN_SLICE) {
            rt::yield_now().await;
            if !self.connections.is_waiting(ticket) {
                return;
            }
        }
        let server_id = &self.shared.server_id;
        if form == Form::Json {
            let body = census.to_json(server_id).into_bytes();
            self.complete(ticket, Response::json(200, body));
            return;
        }
        let mut text = Exposition::default();
        census.write_metrics(server_id, &mut text);
        let inboxes = &self.shared.cores;
        let gathering = Gathering::new(ticket, self.index, inboxes.len(), text);
        for inbox in inboxes {
            inbox.push(CoreMessage::Count(gathering.clone()));
        }
    }

    /// What this core counted since the start.
    fn counts(&self) -> CoreCounts {
        CoreCounts {
            http: self.connections.counters(),
            answers: self.answers.each_ref().map(Cell::get),
            parked: self.parked() as u64,
        }
    }

    fn count_answer(&self, status: u16) {
        if let Some(count) = self.answers.get(usize::from(status / 100).wrapping_sub(1)) {
            count.set(count.get() + 1);
        }
    }

    /// Saves settings on a thread of their own, because files are slow, and notes it in the event log before it is told.
    fn configure(
        &self,
        ticket: Ticket,
        changes: SettingChanges,
        audit: Audit,
    ) -> Result<(), ApiError> {
        let (shared, index) = (self.shared.clone(), self.index);
        let started = std::thread::Builder::new()
            .name("settings".into())
            .spawn(move || {
                let outcome = save_settings(&shared, &changes, &audit);
                let inbox = &shared.cores[index];
                inbox.push(CoreMessage::Configured { ticket, outcome });
            });
        match started {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "a thread cannot be started");
                let title = "The server has no room for another thread; nothing was changed";
                Err(error::OVERLOADED.titled(title))
            }
        }
    }

    /// The administrator's credentials were replaced: what they hold open is answered early, and let in
    /// again by what holds now.
    fn end_administrator_requests(&self) {
        self.end_polls();
        let held = self.held.borrow();
        let by_administrator = held
            .iter()
            .filter(|(_, held)| matches!(held, Held::Administrator));
        let tickets: Vec<Ticket> = by_administrator.map(|(ticket, _)| *ticket).collect();
        drop(held);
        for ticket in tickets {
            let response = self.early(ticket);
            self.complete(ticket, response);
        }
    }

    /// Answers all parked polls early.
    fn end_polls(&self) {
        let parked = self.waiters.borrow().everybody();
        for ticket in parked {
            let response = self.early(ticket);
            self.complete(ticket, response);
        }
    }

    /// The finished page of a list, unless something else has to be asked first about what is on it.
    fn complete_page(
        &self,
        ticket: Ticket,
        extra: Extra,
        page: Response,
        state: &State,
    ) -> Option<Response> {
        match extra {
            Extra::None => Some(page),
            Extra::DvrPresence => self.check_presence(ticket, page, state),
            Extra::LayoutDecisions => {
                let page = Box::from(page.body.bytes());
                let question = layout::desk::Question::Decisions { page };
                let asked = self.shared.desk.ask(question, self.index, ticket);
                asked.err().map(Response::from)
            }
        }
    }

    /// Asks streamers what they have recorded of the episodes in a finished answer. The answer, if there is nobody to ask; else it is sent when
    /// they have told.
    fn check_presence(
        &self,
        ticket: Ticket,
        response: Response,
        state: &State,
    ) -> Option<Response> {
        let deadline = Instant::now() + dvr_presence::WAIT;
        let body = response.body.bytes();
        let asked = dvr_presence::Asking::of(body, state, now_seconds(), deadline);
        let Some((asking, calls)) = asked else {
            return Some(response);
        };
        for (place, call) in calls {
            let inbox = self.shared.cores[self.index].clone();
            let deliver = move |outcome| {
                inbox.push(CoreMessage::Ranges {
                    ticket,
                    place,
                    outcome,
                });
            };
            let cancel = asking.cancel.clone();
            self.shared.outbound.call(call, cancel, Box::new(deliver));
        }
        self.presence.borrow_mut().insert(ticket, asking);
        None
    }

    /// A streamer has told what it recorded, or has not.
    fn ranges(&self, ticket: Ticket, place: usize, outcome: outbound::CallResult) {
        let mut all = self.presence.borrow_mut();
        let is_done = |asking: &mut dvr_presence::Asking| asking.hear(place, outcome);
        if !all.get_mut(&ticket).is_some_and(is_done) {
            return;
        }
        let asking = all.remove(&ticket).expect("it was just found");
        drop(all);
        self.complete(ticket, asking.conclude());
    }

    /// A finished page. The revision of a walk is kept for its other pages.
    fn page(&self, query: &Query, page: Page, state: &LocalState) -> Response {
        if query.revision().is_some() && (page.next.is_some() || page.prev.is_some()) {
            self.shared.walks.keep(state);
        }
        Response::json(200, page.into_body(""))
    }

    /// False when the server is stopping: then nobody waits any more.
    fn park_list(&self, asked: &AskedList) -> bool {
        let poll = Poll {
            of: asked.of,
            query: asked.query.clone(),
            extra: asked.extra,
            accepts: asked.accepts,
        };
        self.park(&poll, std::iter::once(asked.ticket), asked.seen)
    }

    /// Parks polls that ask one question; the caller has looked at the newest state and not let go of the core since, and at all that was
    /// reported up to `seen`.
    fn park(&self, poll: &Poll, tickets: impl Iterator<Item = Ticket>, seen: u64) -> bool {
        if self.shared.draining.load(Ordering::Acquire) {
            return false;
        }
        let names = poll.query.keys().unwrap_or_default();
        let subject = poll.of.subject();
        let key = format!("{subject:?} {:?} {}", poll.accepts, poll.query.canonical());
        let mut waiters = self.waiters.borrow_mut();
        for ticket in tickets {
            waiters.park_question(ticket, &key, subject, names, || Rc::new(poll.clone()));
        }
        if poll.waits_for_reports() {
            let inbox = &self.shared.cores[self.index];
            self.shared.watches.park(self.index, seen, inbox);
        }
        true
    }

    /// Answers a request that waited.
    fn complete(&self, ticket: Ticket, response: Response) {
        let status = response.status;
        self.count_answer(status);
        self.held.borrow_mut().remove(&ticket);
        if self.connections.complete(ticket, response) {
            self.log_later(ticket, status);
        }
    }

    /// Everything that is told to this core by other threads, until the process ends. Replies go out at once; waking thousands of polls takes
    /// a while, so it is another task's work.
    pub async fn dispatch(self: Rc<Self>, inbox: Arc<rt::Inbox<CoreMessage>>) {
        let commits = Rc::new(rt::Inbox::new());
        rt::spawn(self.clone().wake_for(commits.clone()));
        let reports = Rc::new(rt::Inbox::new());
        rt::spawn(self.clone().look_for_reports(reports.clone()));
        loop {
            match inbox.recv().await {
                CoreMessage::Batch { commit, replies } => {
                    for (ticket, outcome) in replies {
                        let masked = self.masked.borrow_mut().remove(&ticket);
                        self.complete(ticket, self.done(outcome, masked));
                    }
                    if let Some(commit) = commit {
                        commits.push(commit);
                    }
                    if self.index == 0 {
                        self.shared.walks.forget_old();
                    }
                }
                CoreMessage::Called { ticket, outcome } => self.called(ticket, outcome),
                CoreMessage::Checked { ticket, outcome } => self.checked(ticket, outcome),
                CoreMessage::Agent(message) => self.heed(message),
                CoreMessage::Ranges {
                    ticket,
                    place,
                    outcome,
                } => self.ranges(ticket, place, outcome),
                CoreMessage::Answered { ticket, outcome } => {
                    let response = outcome.map(|body| Response::json(200, body));
                    self.complete(ticket, response.unwrap_or_else(Response::from));
                }
                CoreMessage::Drain => self.drain(),
                CoreMessage::Configured { ticket, outcome } => {
                    let response = match outcome {
                        Ok(body) => Response::json(200, body),
                        Err(error) => Response::from(error),
                    };
                    self.complete(ticket, response);
                }
                CoreMessage::Rotated => self.end_administrator_requests(),
                CoreMessage::Reported => reports.push(()),
                CoreMessage::Count(gathering) => {
                    if gathering.put(self.counts()) {
                        let asker = &self.shared.cores[gathering.asker];
                        asker.push(CoreMessage::Counted(gathering));
                    }
                }
                CoreMessage::Counted(gathering) => {
                    let text = gathering.finish(&self.shared, &self.state());
                    self.complete(gathering.ticket, config::text_response(text));
                }
            }
        }
    }

    /// Wakes polls for one commit after the other; those that came in meanwhile count as one.
    async fn wake_for(self: Rc<Self>, commits: Rc<rt::Inbox<Arc<Commit>>>) {
        loop {
            let first = commits.recv().await;
            let Some(second) = commits.try_recv() else {
                self.wake(&first).await;
                continue;
            };
            let mut several = vec![first, second];
            several.extend(std::iter::from_fn(|| commits.try_recv()));
            self.wake(&Commit::merged(&several)).await;
        }
    }

    /// Looks at the lists that wait for reports whenever there were some.
    async fn look_for_reports(self: Rc<Self>, reports: Rc<rt::Inbox<()>>) {
        loop {
            reports.recv().await;
            self.shared.watches.looking(self.index);
            let waiting = {
                let waiters = self.waiters.borrow();
                waiters.questions_where(|poll| poll.waits_for_reports())
            };
            if waiting.is_empty() {
                self.shared.watches.rest(self.index);
                continue;
            }
            let mut took = Duration::ZERO;
            for id in waiting {
                took += self.look_again(id).await;
            }
            rt::sleep(watch::rest_after(took)).await;
        }
    }

    /// Answers who asks a question if anything matches it by now. Returns the time that looking took of this core.
    async fn look_again(&self, id: QuestionId) -> Duration {
        let mut took = Duration::ZERO;
        let Some(poll) = self.waiters.borrow().question_by_id(id).cloned() else {
            return took;
        };
        let (state, mut execution) = (self.state(), Execution::new(poll.query.clone()));
        let page = loop {
            let began = Instant::now();
            let page = poll.of.step(&mut execution, &state, &self.shared);
            took += began.elapsed();
            if let Some(page) = page {
                break page;
            }
            rt::yield_now().await;
        };
        if page.items == 0 {
            rt::yield_now().await;
            return took;
        }
        let Some((_, tickets)) = self.waiters.borrow_mut().take_question(id) else {
            return took;
        };
        let answering = tickets.iter().map(|ticket| (*ticket, poll.clone()));
        self.answering.borrow_mut().extend(answering);
        self.tell(&poll, page, tickets, &mut Turn::default()).await;
        took
    }

    /// Answers the polls that a commit concerns.
    async fn wake(&self, commit: &Commit) {
        let mut turn = Turn::default();
        // First: what happened since is not for those who have lost their right to it.
        if !commit.entities[Kind::ApiToken as usize].is_empty() || !commit.streamers.is_empty() {
            self.end_unheld(&self.state());
        }
        self.tell_agents(commit, &mut turn).await;
        for hostname in &commit.hostnames {
            let tickets = self.waiters.borrow().waiting_for(hostname);
            for ticket in tickets {
                // It stays parked until it is answered, so that giving way here loses nobody.
                let answer = match self.waiters.borrow().host_poll(ticket) {
                    Some((hostname, poll)) => {
                        config_external::wake(self, &self.state(), hostname, poll)
                    }
                    None => continue,
                };
                if let Some(answer) = answer {
                    self.waiters.borrow_mut().remove(ticket);
                    self.complete(ticket, answer.unwrap_or_else(Response::from));
                    turn.sent().await;
                }
            }
        }
        let (state, fleet) = (&commit.state, self.fleet());
        let around = self.shared.around(state, fleet);
        let streams = || {
            let touched = commit.streams.iter();
            touched
                .filter_map(|name| state.stream(name))
                .map(|stream| StreamDoc::new(stream, true, Some(around)))
                .collect::<Vec<_>>()
        };
        self.wake_lists(Collection::Streams, &commit.streams, streams, &mut turn)
            .await;
        let streamers = || {
            let touched = commit.streamers.iter();
            touched
                .filter_map(|hostname| state.streamer(hostname))
                .map(|streamer| StreamerDoc::new(streamer, true, Some(fleet)))
                .collect::<Vec<_>>()
        };
        self.wake_lists(
            Collection::Streamers,
            &commit.streamers,
            streamers,
            &mut turn,
        )
        .await;
        for (kind, keys) in KINDS.into_iter().zip(&commit.entities) {
            let entities = || {
                keys.iter()
                    .filter_map(|key| state.entities(kind).get(key))
                    .map(|entity| EntityDoc::new(kind, entity, true))
                    .collect::<Vec<_>>()
            };
            self.wake_lists(Collection::Entities(kind), keys, entities, &mut turn)
                .await;
        }
        let events = || {
            let chunks = commit.event_chunks.iter();
            chunks
                .filter_map(|revision| state.events().get(revision))
                .flat_map(EventDoc::all)
                .collect::<Vec<_>>()
        };
        self.wake_lists(Collection::Events, &commit.event_chunks, events, &mut turn)
            .await;
    }

    /// Answers the lists that wait for one of the touched things. `documents` makes what was touched as it is now.
    async fn wake_lists<K: ToString, D: Document>(
        &self,
        of: Collection,
        touched: &[K],
        documents: impl FnOnce() -> Vec<D>,
        turn: &mut Turn,
    ) {
        let questions = self.waiters.borrow().questions_about(of.subject(), touched);
        if questions.is_empty() {
            return;
        }
        let touched = documents();
        for id in questions {
            let Some(poll) = self.waiters.borrow().question_by_id(id).cloned() else {
                continue;
            };
            let mut matches = false;
            for slice in touched.chunks(SCAN_SLICE) {
                matches = slice.iter().any(|document| poll.query.matches(document));
                turn.looked_at(slice.len()).await;
                if matches {
                    break;
                }
            }
            if !matches {
                continue;
            }
            let Some((_, tickets)) = self.waiters.borrow_mut().take_question(id) else {
                continue;
            };
            let answering = tickets.iter().map(|ticket| (*ticket, poll.clone()));
            self.answering.borrow_mut().extend(answering);
            let mut execution = Execution::new(poll.query.clone());
            let state = self.state();
            if let Some(page) = of.step(&mut execution, &state, &self.shared) {
                self.tell(&poll, page, tickets, turn).await;
            } else if let Some(core) = self.this.upgrade() {
                rt::spawn(
                    async move { core.finish_question(execution, poll, state, tickets).await },
                );
            }
        }
    }

    /// The rest of a long answer to a question.
    async fn finish_question(
        self: Rc<Self>,
        mut execution: Execution<Rc<Query>>,
        poll: Rc<Poll>,
        mut state: LocalState,
        tickets: Vec<Ticket>,
    ) {
        let page = loop {
            rt::yield_now().await;
            let Some(page) = poll.of.step(&mut execution, &state, &self.shared) else {
                continue;
            };
            let newest = self.state();
            if page.items > 0 || Arc::ptr_eq(&newest, &state) {
                break page;
            }
            state = newest;
            execution = Execution::new(poll.query.clone());
        };
        self.tell(&poll, page, tickets, &mut Turn::default()).await;
    }

    /// Sends a page of the newest state to everybody who asked for it. If what woke them is gone again there is nothing to tell: they wait on.
    async fn tell(&self, poll: &Poll, page: Page, tickets: Vec<Ticket>, turn: &mut Turn) {
        if page.items == 0 {
            let waiting = |ticket: &Ticket| self.connections.is_waiting(*ticket);
            // Who waits for reports looks once more: some may have come in the meantime.
            if self.park(poll, tickets.iter().copied().filter(waiting), u64::MAX) {
                let mut answering = self.answering.borrow_mut();
                for ticket in &tickets {
                    answering.remove(ticket);
                }
                return;
            }
        }
        let response = Response::json(200, page.into_body(""));
        if poll.extra != Extra::None {
            let state = self.state();
            for ticket in tickets {
                self.answering.borrow_mut().remove(&ticket);
                let answer = self.complete_page(ticket, poll.extra, response.clone(), &state);
                if let Some(answer) = answer {
                    self.complete(ticket, answer);
                }
                turn.sent().await;
            }
            return;
        }
        let prepared: Prepared = self.connections.prepare(response, poll.accepts);
        for ticket in tickets {
            self.answering.borrow_mut().remove(&ticket);
            self.held.borrow_mut().remove(&ticket);
            if self.connections.complete_shared(ticket, &prepared) {
                self.count_answer(200);
                self.log_later(ticket, 200);
            }
            turn.sent().await;
        }
    }

    /// The process is asked to stop: polls are answered early, idle connections closed, what runs is finished.
    fn drain(&self) {
        // First, so that every answer says that its connection ends.
        self.connections.drain();
        self.end_polls();
    }

    /// What a waiting request gets when its time is over. Fails closed: only who asked for a list that may be empty gets an empty list.
    fn early(&self, ticket: Ticket) -> Response {
        if let Some(response) = self.agent_is_late(ticket) {
            return response;
        }
        let mut waiters = self.waiters.borrow_mut();
        self.held.borrow_mut().remove(&ticket);
        self.masked.borrow_mut().remove(&ticket);
        let response = if let Some(asking) = self.asking.borrow_mut().remove(&ticket) {
            asking.give_up(&self.shared.sessions)
        } else if let Some(asking) = self.presence.borrow_mut().remove(&ticket) {
            asking.conclude()
        } else if let Some(checking) = self.checking.borrow_mut().remove(&ticket) {
            Response::from(checking.give_up())
        } else if let Some((hostname, poll)) = waiters.host_poll(ticket) {
            config_external::expire(self, &self.state(), hostname, poll)
        } else if let Some(poll) = self
            .answering
            .borrow_mut()
            .remove(&ticket)
            .or_else(|| waiters.question(ticket).cloned())
        {
            Response::json(200, empty_list(&poll.query))
        } else {
            let title = "The answer takes too long. A change may or may not have taken effect; repeat the request";
            Response::from(error::TIMED_OUT.titled(title))
        };
        waiters.remove(ticket);
        response
    }

    /// Logs a request that was answered after it waited.
    fn log_later(&self, ticket: Ticket, status: u16) {
        if !self.shared.running.logs_requests() {
            return;
        }
        if let Some(request) = self.unlogged.borrow_mut().remove(&ticket) {
            let Unlogged {
                method,
                path,
                peer,
                since,
            } = request;
            log_request(method, &path, peer, status, since);
        }
    }
}

/// Gives other requests of the core their turn, once enough was done.
#[derive(Default)]
struct Turn {
    sent: usize,
    looked_at: usize,
}

impl Turn {
    async fn sent(&mut self) {
        self.sent += 1;
        self.end().await;
    }

    async fn looked_at(&mut self, documents: usize) {
        self.looked_at += documents;
        self.end().await;
    }

    async fn end(&mut self) {
        if self.sent >= SENDS_IN_A_ROW_MAX || self.looked_at >= SCAN_SLICE {
            *self = Self::default();
            rt::yield_now().await;
        }
    }
}

/// The endpoint of a request and its caller, as found when the head was complete. `None`: there is no endpoint, which `call` answers.
pub struct Admitted(Option<(usize, Caller)>);

/// What an endpoint asks of who calls it for `parameter`.
fn needs(index: usize, parameter: &str) -> Needs<'_> {
    let endpoint = &ENDPOINTS[index];
    let named = matches!(
        endpoint.route.parameter,
        Parameter::Segment("hostname") | Parameter::Pair("hostname", _)
    );
    let keyed = endpoint.route.parameter != Parameter::None;
    Needs {
        access: endpoint.access,
        token: NEEDS[index],
        key: keyed.then_some(parameter),
        hostname: named.then_some(parameter),
    }
}

/// Shows a token that may list a part of a collection that part. True if it is one.
fn narrow(endpoint: &Endpoint, caller: &Caller, query: &mut Rc<Query>) -> Result<bool, ApiError> {
    let (Caller::Token(token), TokenNeed::Right(Demand { collection, .. })) =
        (caller, token::need(endpoint.id))
    else {
        return Ok(false);
    };
    if token.rights.sight(collection) == Sight::Everything {
        return Ok(false);
    }
    let own = Rc::get_mut(query).ok_or_else(auth::out_of_reach)?;
    let shown = token.clone();
    own.narrow(&format!("{} {:?}", token.name, token.rights), move |key| {
        shown.rights.may(Action::List, collection, Some(key))
    });
    Ok(true)
}

/// What a caller says of itself in a field, cut to a bound.
fn told(call: &Call<'_>, field: &str) -> Option<Box<str>> {
    const TEXT_BYTES_MAX: usize = 256;
    let value = std::str::from_utf8(call.request.headers.get(field)?).ok()?;
    Some(value[..value.floor_char_boundary(TEXT_BYTES_MAX)].into())
}

/// What a caller calls its doing, if it does.
fn trace_id(request: &Request<'_>) -> Option<Box<str>> {
    let value = std::str::from_utf8(request.headers.get("x-trace-id")?).ok()?;
    (value.len() <= 256).then(|| value.into())
}

/// A query may hold what is searched for, never a credential: those come in a header only. The log has the path alone all the same.
fn log_request(method: &str, path: &str, peer: IpAddr, status: u16, since: Instant) {
    let us = since.elapsed().as_micros() as u64;
    tracing::info!(method, path, status, us, %peer, "request");
}

/// The answer where no endpoint is.
fn not_here(path: &str, found: &Found<'_>) -> Response {
    match found {
        Found::OtherMethods(_) => Response::method_not_allowed(allowed(path)),
        _ => Response::from(error::NOT_FOUND.error()),
    }
}

impl Service for Core {
    type Admitted = Admitted;

    fn admit(&self, head: &Head<'_>, peer: IpAddr) -> Result<Admission<Admitted>, Response> {
        let authorization = head.headers.authorization();
        match self.find(head.method, head.path, authorization, &self.state()) {
            Ok((Found::Endpoint(index, _), caller)) => Ok(Admission {
                body_bytes_max: ENDPOINTS[index].body_bytes_max,
                admitted: Admitted(Some((index, caller))),
            }),
            // Answered in `call`; nobody sends us much to a place that does not exist.
            Ok(_) => Ok(Admission {
                body_bytes_max: BODY_BYTES_MAX,
                admitted: Admitted(None),
            }),
            Err(error) => {
                self.count_answer(error.status);
                if self.shared.running.logs_requests() {
                    let method = head.method.as_str();
                    log_request(method, head.path, peer, error.status, Instant::now());
                }
                Err(Response::from(error))
            }
        }
    }

    fn call(&self, request: &Request<'_>, admitted: Admitted, ticket: Ticket) -> Answer {
        let since = self.shared.running.logs_requests().then(Instant::now);
        let answer = self
            .answer(request, admitted, ticket)
            .unwrap_or_else(|error| Answer::Reply(Response::from(error)));
        match &answer {
            Answer::Reply(response) => self.count_answer(response.status),
            Answer::Upgrade(_) => self.count_answer(101),
            Answer::Wait { .. } => {}
        }
        if let Some(since) = since {
            let (method, path, peer) = (request.method.as_str(), request.path, request.peer);
            match &answer {
                Answer::Reply(response) => log_request(method, path, peer, response.status, since),
                Answer::Upgrade(_) => log_request(method, path, peer, 101, since),
                Answer::Wait { .. } => {
                    let path = path.into();
                    let unlogged = Unlogged {
                        method,
                        path,
                        peer,
                        since,
                    };
                    self.unlogged.borrow_mut().insert(ticket, unlogged);
                }
            }
        }
        answer
    }

    fn timeout_response(&self, ticket: Ticket) -> Response {
        let response = self.early(ticket);
        self.count_answer(response.status);
        self.log_later(ticket, response.status);
        response
    }

    fn on_abandoned(&self, ticket: Ticket) {
        self.waiters.borrow_mut().remove(ticket);
        self.answering.borrow_mut().remove(&ticket);
        self.held.borrow_mut().remove(&ticket);
        self.masked.borrow_mut().remove(&ticket);
        // Dropped, these tell their calls that nobody waits.
        self.asking.borrow_mut().remove(&ticket);
        self.forget_agent_call(ticket);
        self.presence.borrow_mut().remove(&ticket);
        self.checking.borrow_mut().remove(&ticket);
        // What nginx calls a request whose client left before the answer.
        self.log_later(ticket, 499);
    }

    fn keeps_half_closed(&self, ticket: Ticket) -> bool {
        // A write is answered to whoever may still read; a poll whose client stopped talking is over.
        let waiters = self.waiters.borrow();
        waiters.host_poll(ticket).is_none() && waiters.question(ticket).is_none()
    }

    fn on_line(&self, ticket: Ticket, line: &[u8], out: &mut Vec<u8>) -> Lines {
        self.hear(ticket, line, out)
    }

    fn on_close(&self, ticket: Ticket, why: Ended, out: &mut Vec<u8>) {
        self.say_farewell(ticket, why, out);
    }

    fn on_closed(&self, ticket: Ticket, why: Ended) {
        self.control_ended(ticket, why);
    }

    fn allowed(&self, path: &str) -> &'static str {
        allowed(path)
    }
}

/// Changes settings; the body of the answer. Runs on a thread that may wait.
fn save_settings(
    shared: &Shared,
    changes: &SettingChanges,
    audit: &Audit,
) -> Result<Vec<u8>, ApiError> {
    let journal = shared.settings_journal.lock();
    let revision = shared.published.state().load().revision();
    let begun = Cell::new(false);
    let begin = |before: &str, after: &str| {
        journal.begin(JournalEntry::new(before, after, revision, audit.event(200)))?;
        begun.set(true);
        Ok(())
    };
    let saved = shared.running.save(changes, begin).inspect_err(|_| {
        if begun.get()
            && let Err(error) = journal.withdraw()
        {
            tracing::warn!(%error, "cannot remove a failed change from the settings journal; its event may be logged at the next start");
        }
    });
    let saved = saved.map_err(|error| config::refused(&error))?;
    if saved.rotated {
        // The listeners have put the new credentials into force.
        for inbox in &shared.cores {
            inbox.push(CoreMessage::Rotated);
        }
    }
    // The settings are saved, even if their event cannot be logged yet.
    let state = shared.published.state().load_full();
    log_settings(shared, &journal, journal.unlogged(&state));
    Ok(config::render(shared, false).to_text().into_bytes())
}

/// Appends the events of the journal to the event log. After an error they stay in the journal for the
/// next change or the next start.
pub fn log_settings(
    shared: &Shared,
    journal: &JournalGuard<'_>,
    unlogged: std::io::Result<Vec<NewEvent>>,
) {
    let log = |events: Vec<NewEvent>| {
        if !events.is_empty() {
            let (replies, logged) = crossbeam_channel::bounded(1);
            let note = Envelope {
                command: Command::AppendEvents { events }.into(),
                reply_to: ReplyTo::Thread { replies, id: 0 },
            };
            let why = |error: ApiError| error.items[0].title.to_string();
            shared.commands.send(note).map_err(why)?;
            let logged = logged.recv_timeout(ANSWER_WAIT_MAX / 2);
            let (_, outcome) = logged.map_err(|error| error.to_string())?;
            outcome.map_err(why)?;
        }
        journal.clear().map_err(|error| error.to_string())
    };
    let logged = unlogged.map_err(|error| error.to_string()).and_then(log);
    if let Err(error) = logged {
        tracing::warn!(%error, "cannot log a change of settings; retrying with the next change");
    }
}

/// Lets `arc_swap::Cache` own its way to the published state.
struct PublishedState(Arc<Published>);

impl std::ops::Deref for PublishedState {
    type Target = arc_swap::ArcSwap<State>;
    fn deref(&self) -> &Self::Target {
        self.0.state()
    }
}

impl Core {
    /// What a command came to, as its caller sees it.
    fn done(&self, outcome: Result<Done, ApiError>, masked: bool) -> Response {
        match outcome {
            Ok(Done::Entity(Kind::Agent, agent)) => {
                Response::json(200, self.render_agent(&agent, masked, &self.state()))
            }
            outcome => {
                let state = self.state();
                done(outcome, masked, self.shared.around(&state, self.fleet()))
            }
        }
    }
}

fn done(outcome: Result<Done, ApiError>, masked: bool, around: Around<'_>) -> Response {
    match outcome {
        Ok(Done::Stream(stream)) => {
            let mut body = Vec::new();
            stream::render(&stream, masked, Some(around), &mut body);
            Response::json(200, body)
        }
        Ok(Done::Streamer(streamer)) => {
            let mut body = Vec::new();
            streamer::render(&streamer, masked, Some(around.fleet), &mut body);
            Response::json(200, body)
        }
        Ok(Done::Entity(kind, entity)) => {
            let mut body = Vec::new();
            entity::render(kind, &entity, masked, &mut body);
            Response::json(200, body)
        }
        Ok(Done::Nothing | Done::Placed { .. }) => Response::no_content(),
        Err(error) => Response::from(error),
    }
}

fn lost_credentials() -> ApiError {
    error::UNAUTHORIZED.titled("The credentials are no longer valid")
}

/// How long a finished page waits for what is asked about it.
fn extra_wait(extra: Extra) -> Answer {
    match extra {
        Extra::None | Extra::DvrPresence => presence_wait(),
        Extra::LayoutDecisions => Answer::Wait {
            deadline: Some(ANSWER_WAIT_MAX),
        },
    }
}

/// The calls end by themselves; this is for when the threads that make them do not.
fn presence_wait() -> Answer {
    Answer::Wait {
        deadline: Some(dvr_presence::WAIT + Duration::from_secs(1)),
    }
}

fn empty_list(query: &Query) -> Vec<u8> {
    let collection = query.kind().collection;
    format!(r#"{{"{collection}":[],"estimated_count":0,"next":null,"prev":null,"timing":{{}}}}"#)
        .into_bytes()
}

/// The value of `Allow` for a path.
fn allowed(path: &str) -> &'static str {
    let serves = |method| matches!(router::find(&ROUTES, method, path), Ok(Found::Endpoint(..)));
    let served = [Method::Get, Method::Put, Method::Post, Method::Delete].map(serves);
    ALLOWED[served
        .iter()
        .fold(0, |at, serves| at * 2 + usize::from(*serves))]
}

/// By GET, PUT, POST and DELETE, the first of them the highest bit.
const ALLOWED: [&str; 16] = [
    "OPTIONS",
    "DELETE, OPTIONS",
    "POST, OPTIONS",
    "POST, DELETE, OPTIONS",
    "PUT, OPTIONS",
    "PUT, DELETE, OPTIONS",
    "PUT, POST, OPTIONS",
    "PUT, POST, DELETE, OPTIONS",
    "GET, HEAD, OPTIONS",
    "GET, HEAD, DELETE, OPTIONS",
    "GET, HEAD, POST, OPTIONS",
    "GET, HEAD, POST, DELETE, OPTIONS",
    "GET, HEAD, PUT, OPTIONS",
    "GET, HEAD, PUT, DELETE, OPTIONS",
    "GET, HEAD, PUT, POST, OPTIONS",
    "GET, HEAD, PUT, POST, DELETE, OPTIONS",
];

/// The OpenAPI document of everything that is served; made once.
pub fn openapi_document() -> &'static str {
    static DOCUMENT: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| openapi::document(docs::SERVED, env!("CARGO_PKG_VERSION")));
    &DOCUMENT
}

/// `poll_timeout`: whole seconds, above the longest wait it is that wait; 0 or nothing is no wait.
fn poll_timeout(value: Option<&str>, longest: Duration) -> Result<Option<Duration>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    let seconds: u64 = value.parse().map_err(|_| {
        error::NOT_INTEGER
            .titled("A wait is given in whole seconds")
            .at_parameter("poll_timeout")
    })?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds).min(longest)))
}

/// A parameter that is true or false; one without a value is true, a missing one false, and of several the last one counts.
fn flag(call: &Call<'_>, name: &'static str) -> Result<bool, ApiError> {
    let mut value = None;
    for (given, text) in crate::query::pairs(call.request.query).filter_map(Result::ok) {
        if given == name {
            value = Some(text.unwrap_or("true".into()));
        }
    }
    truth(name, value.as_deref())
}

fn truth(name: &'static str, value: Option<&str>) -> Result<bool, ApiError> {
    match value {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(error::NOT_BOOLEAN
            .titled("The parameter is true or false")
            .at_parameter(name)),
    }
}

/// How the query engine converts values for a field.
fn field_type(schema: &Schema, path: &str) -> Option<FieldType> {
    let kinds = schema.filter_type(path)?;
    Some(
        match (
            kinds.is_integer(),
            kinds.is_number(),
            kinds.is_boolean(),
            kinds.is_string(),
        ) {
            (true, false, false, false) => FieldType::Integer,
            (_, true, false, false) => FieldType::Number,
            (false, false, true, false) => FieldType::Boolean,
            (false, false, false, true) => FieldType::String,
            _ => FieldType::Other,
        },
    )
}

fn now_seconds() -> u64 {
    now_ms() / 1000
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::http::Options;
    use crate::state::node::RenderSettings;
    use crate::state::pulse::Pulse;
    use crate::writer::{StateMachine, Writer};

    /// A core whose writer never runs.
    pub(crate) fn core() -> Rc<Core> {
        let state = Arc::new(State::new(1, RenderSettings::default()));
        let published = Arc::new(Published::new(state.clone()));
        let directory = tempfile::tempdir().expect("a directory");
        let options = weir_storage::Options::default();
        let (store, _) = weir_storage::Store::open(directory.path(), &options).expect("a store");
        let (_, commands, _) =
            Writer::new(StateMachine::new(state, store), published.clone(), vec![]);
        let shared = Shared {
            published,
            commands,
            auth: Auth::new("k", None),
            rendered: Arc::new(RenderedCache::new(1 << 20)),
            walks: Walks::default(),
            fleet: FleetStats::new(Duration::from_mins(1), Instant::now()),
            layouter: crate::layouter::thread::channel().0,
            layouter_metrics: Arc::default(),
            desk: layout::desk::Desk::closed(),
            settings: ApiSettings {
                poll_wait_max: Duration::from_secs(1),
                streams_limit: 0,
                auth_backend_timeout: Duration::from_secs(1),
                agent_command_wait: Duration::from_secs(1),
                agent_silence_max: Duration::from_mins(1),
            },
            running: Running::new(
                crate::config::read(Some("/dev/null".as_ref()), &[], &Vec::new())
                    .expect("defaults are good"),
                crate::config::Secret::new("k"),
            ),
            settings_journal: Journal::new(directory.path()),
            data_dir: PathBuf::new(),
            server_id: uuid(1),
            run_id: uuid(2),
            started_at_seconds: 0,
            draining: AtomicBool::new(false),
            outbound: Outbound::start(2, Arc::new(outbound::EgressPolicy::default()))
                .expect("threads"),
            sessions: Sessions::new(1 << 20),
            countries: Countries::default(),
            agents: messages::Agents::new().expect("there is randomness"),
            watches: watch::Watches::new(1),
            cores: Vec::new(),
            hostname: Box::from("here"),
        };
        Core::new(0, Arc::new(shared), Connections::new(Options::default()))
    }

    #[test]
    fn every_combination_of_methods_is_told_in_full() {
        for (at, told) in ALLOWED.iter().enumerate() {
            let told: Vec<&str> = told.split(", ").collect();
            for (bit, name) in ["DELETE", "POST", "PUT", "GET"].into_iter().enumerate() {
                assert_eq!(told.contains(&name), at >> bit & 1 == 1, "{at} {name}");
            }
            assert_eq!(told.contains(&"GET"), told.contains(&"HEAD"), "{at}");
            assert_eq!(told.last(), Some(&"OPTIONS"), "{at}");
        }
    }

    #[test]
    fn only_who_asked_for_a_list_of_streams_is_told_an_empty_one_when_time_is_over() {
        // Goal: no deadline turns into a short configuration or into a change that seems to be made. Method: let the deadline of each
        // kind of waiting request pass.
        let core = core();
        let ticket = |epoch| Ticket { slot: 0, epoch };
        let poll = Poll {
            of: Collection::Streams,
            query: Rc::new(Query::parse("updated_at_gt=1", &stream::KIND, &[]).expect("a query")),
            extra: Extra::None,
            accepts: Accepts::NONE,
        };
        assert!(core.park(&poll, [ticket(1), ticket(2)].into_iter(), 0));
        core.waiters.borrow_mut().park_host(
            ticket(3),
            Hostname::trusted("gone"),
            ConfigPoll {
                coding: None,
                generation: 5,
                since: None,
                parked: Arc::new(Pulse::default()).park(),
            },
        );
        let listed = core.timeout_response(ticket(1));
        assert_eq!(
            (listed.status, listed.body.bytes()),
            (200, &*empty_list(&poll.query))
        );
        core.waiters.borrow_mut().remove(ticket(2));
        core.answering
            .borrow_mut()
            .insert(ticket(2), Rc::new(poll.clone()));
        assert_eq!(core.timeout_response(ticket(2)).status, 200);
        assert_eq!(
            core.timeout_response(ticket(3)).status,
            404,
            "a node that is gone"
        );
        assert_eq!(
            core.timeout_response(ticket(4)).status,
            503,
            "a change under way"
        );
        assert_eq!(core.parked(), 0);
        assert!(core.answering.borrow().is_empty());
    }
}
