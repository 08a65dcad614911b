//! The interface of handlers: the request they receive, and the outcome they return.
//!
//! A handler reads a [`Call`] and returns an [`Outcome`]; it never waits and changes nothing. A
//! request that must wait becomes a parked poll or a [`Pending`] request, which the core keeps
//! until the response is complete.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::facet_counts::FacetScan;
use super::matching::BulkRequest;
use super::operation::Operation;
use super::shared::{ApiSettings, Shared};
use super::stream_doc::Around;
use crate::access::auth::{Auth, Caller};
use crate::access::browser_sessions::{BrowserSession, cookie_of, is_of_page};
use crate::access::compiled::CompiledRules;
use crate::access::rights::{Grant, Visibility};
use crate::agents::messages::NewConnection;
use crate::agents::refusals::Refusals;
use crate::core::message::{Completion, Reply};
use crate::error::ApiError;
use crate::feed::nodes::NodeRuntime;
use crate::feed::{NodePoll, Subject};
use crate::fleet::stats::View;
use crate::http::{Coding, Request, Response, Ticket, Upgrade};
use crate::json::{self, Value};
use crate::outbound::{CancelToken, OutboundCall};
use crate::query::params::{ParameterSpec, ParameterValues, Seconds, check_listed, value_in};
use crate::query::{ListKind, Query, check_names};
use crate::rt::uptime_ms;
use crate::state::State;
use crate::state::batch::BatchItems;
use crate::state::command::{AuditedCommand, Command, EntitySave};
use crate::state::entity::Kind;
use crate::state::event::{Audit, AuditSubject, EntityType};
use crate::state::name::{Hostname, StreamName, bad_hostname, bad_stream_name};
use crate::state::tag::Precondition;
use crate::traces::TraceContext;

/// A state as one core holds it. Counting references to the published one would have all cores
/// fight over a cache line with every request; this count is the core's own.
pub type LocalState = Rc<Arc<State>>;

/// One authorised request on its way to a handler.
pub struct Call<'a> {
    pub shared: &'a Arc<Shared>,
    pub state: &'a LocalState,
    /// Data that this core keeps between requests.
    pub local: &'a CoreLocal,
    pub request: &'a Request<'a>,
    pub operation: &'static Operation,
    /// The decoded value of the path's parameter.
    pub parameter: &'a str,
    pub caller: &'a Caller,
    /// Of the request on its core.
    pub ticket: Ticket,
    /// The handler runs on a thread for long work, not on a core.
    pub is_offloaded: bool,
}

/// The parameters of the query string.
impl ParameterValues for Call<'_> {
    fn value(&self, spec: &ParameterSpec) -> Option<Cow<'_, str>> {
        check_listed(self.operation.parameters, spec);
        value_in(self.request.query, spec)
    }
}

impl Call<'_> {
    /// Notes that a streamer's configuration was read. It is a sign of life with the streamer's own
    /// credential, and the second time with another one; a page for people is none.
    pub fn note_activity(&self, node: &NodeRuntime) {
        let now_ms = uptime_ms();
        // Its handler noted the request before it was offloaded.
        if is_of_page(&self.request.headers) || self.is_offloaded {
            return;
        }
        if matches!(self.caller, Caller::Streamer(_)) {
            node.activity.seen(now_ms);
            return;
        }
        let config = self.shared.settings.running.config();
        let within = config.settings.layouter.dead_timeout;
        node.activity.read(now_ms, within.as_millis() as u64);
    }

    pub fn stream_name(&self) -> Result<StreamName, ApiError> {
        StreamName::parse(self.parameter).map_err(bad_stream_name)
    }

    pub fn hostname(&self) -> Result<Hostname, ApiError> {
        Hostname::parse(self.parameter).map_err(bad_hostname)
    }

    /// The current reports of all streamers.
    pub fn fleet(&self) -> View<'_> {
        self.shared.fleet.view(Instant::now())
    }

    /// The query string of a list, with the parameters that the row of the operation names.
    pub fn query(&self, kind: &'static ListKind) -> Result<Query, ApiError> {
        if super::strict::is_preferred(self.request) {
            return self.strict_query(kind);
        }
        Query::parse(self.request.query, kind, self.operation.parameters)
    }

    /// The same, without names that are not known.
    pub fn strict_query(&self, kind: &'static ListKind) -> Result<Query, ApiError> {
        let known = self.operation.query_parameters();
        let known: Vec<&str> = known.map(|it| it.spec().name).collect();
        check_names(self.request.query, kind, &known)?;
        Query::parse(self.request.query, kind, self.operation.parameters)
    }

    /// How long a request may be parked, by one of its parameters; `None` if it must not wait.
    pub fn poll_wait(&self, timeout: &Seconds) -> Result<Option<Duration>, ApiError> {
        let wait = self.seconds(timeout)?;
        Ok(wait.map(|wait| wait.min(self.shared.settings.api.poll_wait_max)))
    }

    pub fn json(&self) -> Result<Value, ApiError> {
        json::parse(self.request.body).map_err(|error| {
            ApiError::bad_body(error.pointer, error.code, error.title).with("offset", error.offset)
        })
    }

    /// Whether secrets are hidden from the caller even on the entity itself.
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

    /// A batch on its way to the writer, which finds what else is wrong beside the items that were
    /// refused. Without a store that accepts writes they are all that can be known.
    pub fn batch<N, P>(&self, items: BatchItems<N, P>) -> Result<BatchItems<N, P>, ApiError> {
        if self.shared.published.is_writable() {
            Ok(items)
        } else {
            items.all_good()
        }
    }

    /// What streams are rendered from besides their records.
    pub fn around(&self) -> Around<'_> {
        self.shared.around(self.state, self.fleet())
    }

    /// The coding of bodies that are cached encoded.
    pub fn coding(&self) -> Option<Coding> {
        self.request.headers.accepts().best()
    }

    /// The text of a header field, cut to 256 bytes.
    pub fn header_text(&self, field: &str) -> Option<Box<str>> {
        const TEXT_BYTES_MAX: usize = 256;
        let value = std::str::from_utf8(self.request.headers.get(field)?).ok()?;
        Some(value[..value.floor_char_boundary(TEXT_BYTES_MAX)].into())
    }

    /// The trace id that the caller gave, or a new one. A span of the request has the same.
    pub fn trace_id(&self) -> Box<str> {
        self.header_text("x-trace-id")
            .or_else(|| Some(as_uuid(self.sent_trace()?.trace_id)))
            .unwrap_or_else(|| self.local.new_trace_id())
    }

    fn sent_trace(&self) -> Option<TraceContext> {
        let value = self.request.headers.get("traceparent")?;
        TraceContext::parse(std::str::from_utf8(value).ok()?)
    }

    /// The fields by which requests to other servers, made for this one, belong to its trace.
    pub fn trace_fields(&self) -> TraceFields {
        let context = self.local.trace().or_else(|| self.sent_trace());
        let traceparent = context.map(|context| ("traceparent", context.to_string()));
        let trace_id = ("x-trace-id", self.trace_id().into());
        traceparent.into_iter().chain([trace_id]).collect()
    }

    /// The name under which the caller is recorded.
    pub fn user(&self) -> Box<str> {
        let authorization = self.request.headers.authorization();
        let session = self.session().map(|session| session.credential);
        Auth::user(self.caller, authorization, session)
    }

    /// The session of the browser that sent the request.
    pub fn session(&self) -> Option<BrowserSession> {
        let cookie = cookie_of(&self.request.headers)?;
        self.shared.access.browsers.find(cookie, Instant::now())
    }

    /// The origin of a change, for the event log.
    pub fn audit(&self, command: Option<&Command>) -> Audit {
        let path = self.request.path;
        Audit {
            operation: self.operation.id,
            path: Box::from(&path[..path.floor_char_boundary(1024)]),
            subject: command.map_or(AuditSubject::Other, |command| self.audit_subject(command)),
            originator: self.header_text("x-originator"),
            trace_id: self.trace_id(),
            user: self.user(),
            ip: self.request.peer,
            user_agent: self.header_text("user-agent"),
            received: Instant::now(),
        }
    }

    /// What the commands of the caller are applied with.
    pub fn grant(&self) -> Option<Box<Grant>> {
        let mut grant = self.caller.grant()?;
        let config = self.shared.settings.running.config();
        grant.provisions = config.settings.fleet.provision_enabled;
        Some(grant)
    }

    /// The command with its origin, with what the caller may change, and with the conditions of
    /// the request.
    pub fn audited(&self, command: Command) -> Result<AuditedCommand, ApiError> {
        Ok(AuditedCommand {
            audit: Some(Box::new(self.audit(Some(&command)))),
            grant: self.grant(),
            conditions: self.preconditions(&command)?,
            command,
        })
    }

    fn audit_subject(&self, command: &Command) -> AuditSubject {
        match command {
            Command::SaveStream { name, .. } | Command::DeleteStream { name } => {
                AuditSubject::Entity(EntityType::Stream, Box::from(name.as_str()))
            }
            Command::SaveStreamer { hostname, .. }
            | Command::DeleteStreamer { hostname }
            | Command::SetMaintenance { hostname, .. } => {
                AuditSubject::Entity(EntityType::Streamer, Box::from(hostname.as_str()))
            }
            Command::SaveEntity(EntitySave { kind, .. })
            | Command::SaveAgent {
                save: EntitySave { kind, .. },
                ..
            }
            | Command::DeleteEntity { kind, .. }
                if *kind == Kind::Agent =>
            {
                AuditSubject::Entity(EntityType::Agent, Box::from(self.parameter))
            }
            Command::SaveStreams { .. }
            | Command::ChangeSelected { .. }
            | Command::SetLayouts { .. } => AuditSubject::Batch(EntityType::Stream),
            Command::SaveStreamers { .. } => AuditSubject::Batch(EntityType::Streamer),
            Command::SetAgentLayouts { .. } => AuditSubject::Batch(EntityType::Agent),
            _ => AuditSubject::Other,
        }
    }
}

/// Data that one core keeps for its handlers, never shared between cores.
#[derive(Default)]
pub struct CoreLocal {
    /// The compiled rules of saved authorization backends.
    pub compiled: RefCell<CompiledRules>,
    pub refusals: RefCell<Refusals>,
    ids: RefCell<TraceIds>,
    /// Of the request whose handler runs, if it is recorded as a span.
    trace: Cell<Option<TraceContext>>,
}

impl CoreLocal {
    /// The trace id of the request whose handler runs; a new one if it is not recorded. A version
    /// 4 UUID, unique per core; not unguessable.
    fn new_trace_id(&self) -> Box<str> {
        match self.trace.get() {
            Some(context) => as_uuid(context.trace_id),
            None => uuid(self.ids.borrow_mut().next_number()),
        }
    }

    /// The id of a new trace: the number of a version 4 UUID.
    pub fn new_trace(&self) -> u128 {
        let bits = self.ids.borrow_mut().next_number();
        let uuid = uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid();
        uuid.as_u128()
    }

    pub fn trace(&self) -> Option<TraceContext> {
        self.trace.get()
    }

    pub fn set_trace(&self, context: Option<TraceContext>) {
        self.trace.set(context);
    }

    /// A number that differs each time; not unguessable.
    pub fn random(&self) -> u64 {
        self.ids.borrow_mut().next_number() as u64
    }
}

struct TraceIds {
    seed: u128,
    count: u64,
}

impl Default for TraceIds {
    fn default() -> Self {
        let mut seed = [0; 16];
        // Without randomness ids are unique on this core only, which is all that a log needs.
        let _ = getrandom::fill(&mut seed);
        Self {
            seed: u128::from_le_bytes(seed),
            count: 0,
        }
    }
}

impl TraceIds {
    fn next_number(&mut self) -> u128 {
        self.count += 1;
        xxhash_rust::xxh3::xxh3_128_with_seed(&self.seed.to_le_bytes(), self.count)
    }
}

/// The id of a trace in the form of a UUID.
fn as_uuid(trace_id: u128) -> Box<str> {
    uuid::Uuid::from_u128(trace_id).to_string().into()
}

/// A version 4 UUID of these bits.
pub fn uuid(bits: u128) -> Box<str> {
    let uuid = uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid();
    uuid.hyphenated().to_string().into()
}

/// The result of a handler.
pub enum Outcome {
    Reply(Response),
    Command(Command),
    /// A command about many entities, and conditions on some of them.
    Batch(Command, Vec<Precondition>),
    List(ListRequest),
    /// A streamer already has the current configuration of its node.
    Park {
        hostname: Hostname,
        poll: NodePoll,
    },
    Pending(Box<dyn Pending>),
    /// A change of all streams that match filters.
    Bulk(Arc<BulkRequest>),
    /// Counts of the streams that match filters, by the values of fields.
    Facets(Box<FacetScan>),
    /// A body of any length.
    Body(Box<PacedBody>),
    /// The connection becomes the control connection of an agent.
    Upgrade {
        upgrade: Upgrade,
        connection: NewConnection,
    },
    /// The handler would keep the core busy for milliseconds: it is called again on another thread,
    /// where it must not return this.
    Offload,
}

/// A body that is made as the client takes it.
pub struct PacedBody {
    /// What it is, in the log.
    pub what: &'static str,
    /// Status and fields of the answer.
    pub head: Response,
    pub bytes_per_second: u64,
    /// A client that has not taken all of it by then is disconnected.
    pub time_max: Duration,
    pub source: Box<dyn PieceSource>,
}

/// Makes a body piece by piece.
pub trait PieceSource {
    /// Appends the next piece, for which it may take a millisecond. Returns false with the last
    /// one.
    fn next(&mut self, out: &mut Vec<u8>) -> bool;

    /// All of it was sent.
    fn on_sent(&self);
}

/// A list that is built in slices between other requests.
pub struct ListRequest {
    pub of: Collection,
    pub query: Query,
    /// An empty list is parked for at most this long, until something matches.
    pub wait: Option<Duration>,
    /// The state from which all pages come, for a list that must be complete or fail.
    pub snapshot: Option<LocalState>,
    pub complete: Option<CompletePage>,
}

impl ListRequest {
    pub fn new(of: Collection, query: Query) -> Self {
        Self {
            of,
            query,
            wait: None,
            snapshot: None,
            complete: None,
        }
    }
}

/// Adds data of other servers to a finished page. Returns the page, or the request that waits for
/// it.
pub type CompletePage = fn(Response, &State, &TraceFields) -> Result<Response, Box<dyn Pending>>;

/// Header fields by which requests to other servers belong to the trace of a request.
pub type TraceFields = Vec<(&'static str, String)>;

/// The collection of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Collection {
    Streams,
    /// Streams that are reported and not configured.
    Unconfigured,
    Streamers,
    Entities(Kind),
    ExternalEpisodes,
    Events,
}

impl Collection {
    /// Which commits can change the list.
    pub fn subject(self) -> Subject {
        match self {
            Self::Streams | Self::Unconfigured => Subject::Streams,
            Self::Streamers => Subject::Streamers,
            Self::Entities(kind) => Subject::Entities(kind),
            Self::ExternalEpisodes => Subject::Entities(Kind::Episode),
            Self::Events => Subject::Events,
        }
    }
}

/// A request that is answered later: by other servers, another thread or another core.
///
/// The core keeps it in a table, ends it when its caller loses the right to it, and drops it when
/// the client disconnects. Dropping it must cancel its outbound calls.
pub trait Pending: Send {
    /// Longest wait for the response.
    fn wait(&self, settings: &ApiSettings) -> Duration;

    /// Sends the queries on which the response depends.
    fn start(&mut self, context: &Context<'_>) -> Step;

    /// Handles one reply; `part` is the number of the query that it answers.
    fn on_reply(&mut self, part: usize, reply: Reply, context: &Context<'_>) -> Step;

    /// Whether it ends when its caller loses the right to it. A change that was already sent must
    /// be answered.
    fn ends_with_right(&self) -> bool {
        true
    }

    /// Whether the response contains only the entities that are visible to its caller. It then ends
    /// when these may have changed.
    fn depends_on_visibility(&self) -> bool {
        false
    }

    /// The response when the wait is over.
    fn on_timeout(&mut self, context: &Context<'_>) -> Response;
}

/// What a pending request needs next.
pub enum Step {
    /// A reply.
    Wait,
    Done(Response),
    /// A command, whose result is the response.
    Command(AuditedCommand),
    /// Another pending request takes its place.
    Replace(Box<dyn Pending>),
}

impl Step {
    /// The step after a rendered body has arrived.
    pub fn of_body(reply: Reply) -> Self {
        match reply {
            Reply::Body(Ok(body)) => Self::Done(Response::json(200, body)),
            Reply::Body(Err(error)) => error.into(),
            _ => Self::Wait,
        }
    }
}

impl From<ApiError> for Step {
    fn from(error: ApiError) -> Self {
        Self::Done(error.into())
    }
}

/// The context in which a pending request runs.
pub struct Context<'a> {
    pub shared: &'a Arc<Shared>,
    pub state: &'a LocalState,
    pub core: usize,
    pub ticket: Ticket,
}

impl Context<'_> {
    /// The handle that delivers the reply to a part of this request, from any thread.
    pub fn completion(&self, part: usize) -> Completion {
        Completion {
            inbox: self.shared.cores[self.core].clone(),
            ticket: self.ticket,
            part,
        }
    }

    /// Starts an outbound call, whose result is the reply to a part of this request.
    pub fn call(&self, part: usize, call: OutboundCall, cancel: &CancelToken) {
        let completion = self.completion(part);
        let deliver = move |result| completion.send(Reply::Call(result));
        let outbound = &self.shared.workers.outbound;
        outbound.call(call, cancel.clone(), Box::new(deliver));
    }
}
