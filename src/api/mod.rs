//! What is served: the table of endpoints, and the service of one core that looks things up in it.
//!
//! A handler reads a state and decides; it never waits and never changes anything. What it decided is an [`Outcome`]: a reply, a command for
//! the writer, a list to run in slices, or a poll to park. Everything that waits is completed through its ticket: by the
//! writer's replies, by commits, by deadlines, by the end of the process.

pub mod auth;
pub mod config_external;
pub mod cursor;
pub mod docs;
pub mod monitoring;
pub mod openapi;
pub mod query;
pub mod router;
pub mod stream;
pub mod streamer;

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use self::auth::{Access, Auth, Caller};
use self::config_external::{ConfigPoll, Walks};
use self::query::{Execution, Query};
use self::router::{Found, Parameter, Route};
use self::stream::{StreamDoc, Streams};
use crate::feed::rendered::RenderedCache;
use crate::feed::{Commit, Waiters};
use crate::http::error::ApiError;
use crate::http::{
    Accepts, Admission, Answer, Coding, Connections, Head, Method, Prepared, Request, Response,
    Service, Ticket,
};
use crate::json::{self, FieldType, Value};
use crate::rt;
use crate::schema::Schema;
use crate::state::State;
use crate::state::command::{Command, Done};
use crate::state::name::{Hostname, StreamName, bad_hostname, bad_stream_name};
use crate::writer::{Commands, CoreMessage, Envelope, Published};

/// Largest body of an ordinary request, and of one that carries a batch.
pub const BODY_BYTES_MAX: u64 = 1024 * 1024;
pub const BATCH_BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Documents looked at before a list lets other requests of its core go first: about a millisecond.
const SCAN_SLICE: usize = 1024;
/// Answers sent in a row before other requests of the core go first: about a millisecond.
const SENDS_IN_A_ROW_MAX: usize = 256;

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

/// One authorised request on its way to a handler.
pub struct Call<'a> {
    pub core: &'a Core,
    pub state: &'a Arc<State>,
    pub request: &'a Request<'a>,
    /// The decoded value of the path's parameter.
    pub parameter: &'a str,
    pub caller: Caller,
}

impl Call<'_> {
    pub fn stream_name(&self) -> Result<StreamName, ApiError> {
        StreamName::parse(self.parameter).map_err(bad_stream_name)
    }

    pub fn hostname(&self) -> Result<Hostname, ApiError> {
        Hostname::parse(self.parameter).map_err(bad_hostname)
    }

    pub fn json(&self) -> Result<Value, ApiError> {
        json::parse(self.request.body).map_err(|error| {
            ApiError::bad_body(error.pointer, error.code, error.title).with("offset", error.offset)
        })
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
    /// A list of streams, which may be long in the making. With `wait`, an empty one is parked until something matches.
    List {
        query: Rc<Query>,
        wait: Option<Duration>,
    },
    /// A streamer that has what there is.
    ParkConfig {
        hostname: Hostname,
        poll: ConfigPoll,
        wait: Duration,
    },
}

/// Settings that handlers read.
pub struct ApiSettings {
    pub poll_wait_max: Duration,
    /// Page size of `/streamers/{hostname}/streams` when the request names none; 0: the whole list.
    pub streams_limit: usize,
    pub log_requests: bool,
}

/// What all cores share.
pub struct Shared {
    pub published: Arc<Published>,
    pub commands: Commands,
    pub auth: Auth,
    pub rendered: Arc<RenderedCache>,
    pub walks: Walks,
    pub settings: ApiSettings,
    pub started_at_seconds: u64,
    pub draining: AtomicBool,
}

/// The service of one core.
pub struct Core {
    index: usize,
    shared: Arc<Shared>,
    connections: Rc<Connections>,
    cache: RefCell<arc_swap::Cache<PublishedState, Arc<State>>>,
    waiters: RefCell<Waiters<Ticket, ConfigPoll, Rc<Poll>>>,
    this: std::rc::Weak<Core>,
}

/// A question that waits for its first match.
pub struct Poll {
    query: Rc<Query>,
    accepts: Accepts,
}

impl Core {
    pub fn new(index: usize, shared: Arc<Shared>, connections: Rc<Connections>) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            index,
            cache: RefCell::new(arc_swap::Cache::new(PublishedState(
                shared.published.clone(),
            ))),
            shared,
            connections,
            waiters: RefCell::default(),
            this: this.clone(),
        })
    }

    /// The newest durable state. Costs one load of a line that is rarely written.
    pub fn state(&self) -> Arc<State> {
        self.cache.borrow_mut().load().clone()
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Polls parked on this core.
    pub fn parked(&self) -> usize {
        self.waiters.borrow().len()
    }

    fn answer(&self, request: &Request<'_>, ticket: Ticket) -> Result<Answer, ApiError> {
        let Found::Endpoint(index, parameter) =
            router::find(&ROUTES, request.method, request.path)?
        else {
            return Ok(Answer::Reply(self.not_here(request.method, request.path)?));
        };
        let endpoint = &ENDPOINTS[index];
        let state = self.state();
        let caller = self.authorize(
            endpoint,
            request.headers.authorization(),
            &parameter,
            &state,
        )?;
        let call = Call {
            core: self,
            state: &state,
            request,
            parameter: &parameter,
            caller,
        };
        match (endpoint.handler)(&call)? {
            Outcome::Reply(response) => Ok(Answer::Reply(response)),
            Outcome::Command(command) => {
                if self.shared.draining.load(Ordering::Acquire) {
                    return Err(ApiError::unavailable(
                        "shutting_down",
                        "The server is stopping; repeat the request",
                        1,
                    ));
                }
                self.shared.commands.send(Envelope {
                    command,
                    core: self.index,
                    ticket,
                })?;
                Ok(Answer::Wait { deadline: None })
            }
            Outcome::List { query, wait } => {
                Ok(self.list(query, wait, &state, request.headers.accepts(), ticket))
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
                self.waiters.borrow_mut().park_host(ticket, hostname, poll);
                Ok(Answer::Wait {
                    deadline: Some(wait),
                })
            }
        }
    }

    fn authorize(
        &self,
        endpoint: &Endpoint,
        authorization: Option<&[u8]>,
        parameter: &str,
        state: &State,
    ) -> Result<Caller, ApiError> {
        let hostname =
            matches!(endpoint.route.parameter, Parameter::Segment("hostname")).then_some(parameter);
        self.shared.auth.authorize(
            endpoint.access,
            authorization,
            hostname,
            state,
            now_seconds(),
        )
    }

    /// The answer where no endpoint is. Only callers who may use the API learn what exists.
    fn not_here(&self, method: Method, path: &str) -> Result<Response, ApiError> {
        match router::find(&ROUTES, method, path)? {
            Found::OtherMethods(_) => {
                let error = ApiError::new(
                    405,
                    "method_not_allowed",
                    "This path does not serve this method",
                );
                Ok(Response::from(error).header("Allow", allowed(path)))
            }
            _ => Err(ApiError::not_found(
                "not_found",
                "There is nothing at this path",
            )),
        }
    }

    /// Runs a list. Short ones are answered at once; the others go on in slices between other requests.
    fn list(
        &self,
        query: Rc<Query>,
        wait: Option<Duration>,
        state: &Arc<State>,
        accepts: Accepts,
        ticket: Ticket,
    ) -> Answer {
        let mut execution = Execution::new(query.clone());
        let started = Instant::now();
        for _ in 0..4 {
            let Some(page) = execution.step(&Streams::new(state), SCAN_SLICE) else {
                if started.elapsed() > Duration::from_millis(1) {
                    break;
                }
                continue;
            };
            if page.items == 0
                && let Some(wait) = wait
                && self.park_list(&query, accepts, ticket)
            {
                return Answer::Wait {
                    deadline: Some(wait),
                };
            }
            return Answer::Reply(Response::json(200, page.into_body("")));
        }
        if let Some(core) = self.this.upgrade() {
            let state = state.clone();
            rt::spawn(async move {
                core.finish_list(execution, query, wait, state, accepts, ticket)
                    .await
            });
        }
        Answer::Wait { deadline: wait }
    }

    /// The rest of a long list. A poll that found nothing is parked; if the state moved meanwhile it looks again first, because what was
    /// committed in between woke nobody.
    async fn finish_list(
        self: Rc<Self>,
        mut execution: Execution<Rc<Query>>,
        query: Rc<Query>,
        wait: Option<Duration>,
        mut state: Arc<State>,
        accepts: Accepts,
        ticket: Ticket,
    ) {
        loop {
            let page = loop {
                rt::yield_now().await;
                if let Some(page) = execution.step(&Streams::new(&state), SCAN_SLICE) {
                    break page;
                }
            };
            if page.items > 0 || wait.is_none() {
                self.connections
                    .complete(ticket, Response::json(200, page.into_body("")));
                return;
            }
            let newest = self.state();
            if Arc::ptr_eq(&newest, &state) {
                if !self.connections.is_waiting(ticket) || !self.park_list(&query, accepts, ticket)
                {
                    self.connections
                        .complete(ticket, Response::json(200, page.into_body("")));
                }
                return;
            }
            state = newest;
            execution = Execution::new(query.clone());
        }
    }

    /// False when the server is stopping: then nobody waits any more.
    fn park_list(&self, query: &Rc<Query>, accepts: Accepts, ticket: Ticket) -> bool {
        if self.shared.draining.load(Ordering::Acquire) {
            return false;
        }
        let names: Vec<StreamName> = query
            .keys()
            .unwrap_or_default()
            .iter()
            .map(|name| StreamName::trusted(name))
            .collect();
        let key = format!("{accepts:?} {}", query.canonical());
        self.waiters
            .borrow_mut()
            .park_question(ticket, &key, &names, || {
                Rc::new(Poll {
                    query: query.clone(),
                    accepts,
                })
            });
        true
    }

    /// Everything that is told to this core by other threads, until the process ends.
    pub async fn dispatch(self: Rc<Self>, inbox: Arc<rt::Inbox<CoreMessage>>) {
        loop {
            match inbox.recv().await {
                CoreMessage::Batch { commit, replies } => {
                    for (ticket, outcome) in replies {
                        self.connections.complete(ticket, done(outcome));
                    }
                    if let Some(commit) = commit {
                        self.wake(&commit).await;
                    }
                }
                CoreMessage::Drain => self.drain(),
            }
        }
    }

    /// Answers the polls that a commit concerns.
    async fn wake(&self, commit: &Commit) {
        let mut sent = 0;
        for hostname in &commit.hostnames {
            let polls = self.waiters.borrow_mut().take_host(hostname);
            if polls.is_empty() {
                continue;
            }
            let state = self.state();
            for (ticket, poll) in polls {
                match config_external::wake(self, &state, hostname, &poll) {
                    Some(answer) => {
                        self.connections
                            .complete(ticket, answer.unwrap_or_else(Response::from));
                        sent += 1;
                    }
                    None => self
                        .waiters
                        .borrow_mut()
                        .park_host(ticket, hostname.clone(), poll),
                }
            }
            if sent >= SENDS_IN_A_ROW_MAX {
                sent = 0;
                rt::yield_now().await;
            }
        }
        let questions = self.waiters.borrow().questions_about(&commit.streams);
        for key in questions {
            let Some(poll) = self.waiters.borrow().question_by_key(&key).cloned() else {
                continue;
            };
            let matched = commit.streams.iter().any(|name| {
                commit
                    .state
                    .stream(name)
                    .is_some_and(|stream| poll.query.matches(&StreamDoc::new(stream, true)))
            });
            if !matched {
                continue;
            }
            let Some((_, tickets)) = self.waiters.borrow_mut().take_question(&key) else {
                continue;
            };
            if let Some(core) = self.this.upgrade() {
                let state = commit.state.clone();
                rt::spawn(async move { core.answer_question(&poll, state, tickets).await });
            }
        }
    }

    /// One answer, made once, for everybody who asked the same.
    async fn answer_question(&self, poll: &Poll, state: Arc<State>, tickets: Vec<Ticket>) {
        let mut execution = Execution::new(poll.query.clone());
        let page = loop {
            if let Some(page) = execution.step(&Streams::new(&state), SCAN_SLICE) {
                break page;
            }
            rt::yield_now().await;
        };
        let prepared: Prepared = self
            .connections
            .prepare(Response::json(200, page.into_body("")), poll.accepts);
        for (i, ticket) in tickets.into_iter().enumerate() {
            if i > 0 && i % SENDS_IN_A_ROW_MAX == 0 {
                rt::yield_now().await;
            }
            self.connections.complete_shared(ticket, &prepared);
        }
    }

    /// The process is asked to stop: polls are answered early, idle connections closed, what runs is finished.
    fn drain(&self) {
        let everybody = self.waiters.borrow().everybody();
        for ticket in everybody {
            let response = self.early(ticket);
            self.connections.complete(ticket, response);
        }
        self.connections.drain();
    }

    /// What a parked poll gets without a change.
    fn early(&self, ticket: Ticket) -> Response {
        let waiters = self.waiters.borrow();
        let response = match waiters.host_poll(ticket) {
            Some((hostname, poll)) => config_external::expire(self, &self.state(), hostname, poll),
            None => Response::json(200, empty_list()),
        };
        drop(waiters);
        self.waiters.borrow_mut().remove(ticket);
        response
    }
}

impl Service for Core {
    fn admit(&self, head: &Head<'_>, _peer: IpAddr) -> Result<Admission, Response> {
        let decide = || -> Result<Admission, ApiError> {
            match router::find(&ROUTES, head.method, head.path)? {
                Found::Endpoint(index, parameter) => {
                    let endpoint = &ENDPOINTS[index];
                    self.authorize(
                        endpoint,
                        head.headers.authorization(),
                        &parameter,
                        &self.state(),
                    )?;
                    Ok(Admission {
                        body_bytes_max: endpoint.body_bytes_max,
                    })
                }
                // Answered in `call`; nobody sends us much to a place that does not exist.
                _ => Ok(Admission {
                    body_bytes_max: BODY_BYTES_MAX,
                }),
            }
        };
        decide().map_err(Response::from)
    }

    fn call(&self, request: &Request<'_>, ticket: Ticket) -> Answer {
        let answer = self
            .answer(request, ticket)
            .unwrap_or_else(|error| Answer::Reply(Response::from(error)));
        if self.shared.settings.log_requests {
            let status = match &answer {
                Answer::Reply(response) => response.status,
                Answer::Wait { .. } => 0,
            };
            // A query may hold what is searched for, never a credential: those come in a header only.
            tracing::info!(method = request.method.as_str(), path = request.path, status, peer = %request.peer, "request");
        }
        answer
    }

    fn expired(&self, ticket: Ticket) -> Response {
        self.early(ticket)
    }

    fn abandoned(&self, ticket: Ticket) {
        self.waiters.borrow_mut().remove(ticket);
    }

    fn half_closed(&self, ticket: Ticket) -> bool {
        // A write is answered to whoever may still read; a poll whose client stopped talking is over.
        let waiters = self.waiters.borrow();
        waiters.host_poll(ticket).is_none() && waiters.question(ticket).is_none()
    }

    fn allowed(&self, path: &str) -> &'static str {
        allowed(path)
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

fn done(outcome: Result<Done, ApiError>) -> Response {
    match outcome {
        Ok(Done::Stream(stream)) => {
            let mut body = Vec::new();
            stream::render(&stream, false, &mut body);
            Response::json(200, body)
        }
        Ok(Done::Streamer(streamer)) => {
            let mut body = Vec::new();
            streamer::render(&streamer, false, &mut body);
            Response::json(200, body)
        }
        Ok(Done::Nothing) => Response::no_content(),
        Err(error) => Response::from(error),
    }
}

fn empty_list() -> Vec<u8> {
    br#"{"streams":[],"estimated_count":0,"next":null,"prev":null,"timing":{}}"#.to_vec()
}

/// The value of `Allow` for a path.
fn allowed(path: &str) -> &'static str {
    let serves = |method| matches!(router::find(&ROUTES, method, path), Ok(Found::Endpoint(..)));
    match (
        serves(Method::Get),
        serves(Method::Put),
        serves(Method::Post),
        serves(Method::Delete),
    ) {
        (true, true, _, true) => "GET, HEAD, PUT, DELETE, OPTIONS",
        (true, _, _, _) => "GET, HEAD, OPTIONS",
        (false, true, _, _) => "PUT, OPTIONS",
        (false, false, true, _) => "POST, OPTIONS",
        (false, false, false, true) => "DELETE, OPTIONS",
        (false, false, false, false) => "OPTIONS",
    }
}

/// The OpenAPI document of everything that is served; made once.
pub fn openapi_document() -> &'static str {
    static DOCUMENT: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        openapi::document(docs::ENDPOINT_DOCS, env!("CARGO_PKG_VERSION"))
    });
    &DOCUMENT
}

/// `poll_timeout`: whole seconds, above the longest wait it is that wait; 0 or nothing is no wait.
fn poll_timeout(value: Option<&str>, longest: Duration) -> Result<Option<Duration>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    let seconds: u64 = value.parse().map_err(|_| {
        ApiError::bad_parameter(
            "poll_timeout",
            "not_integer",
            "A wait is given in whole seconds",
        )
    })?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds).min(longest)))
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
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
