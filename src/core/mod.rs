//! One io core: its state, its connections, its parked polls and pending requests.
//!
//! A request is admitted when its head is complete and answered by [`Core::answer`]: from the
//! newest state, by the writer, by a list, or later. Two tables have the waiting requests by
//! ticket: parked polls, woken by [`wake`], and pending requests ([`pending`]). All of it belongs
//! to one thread; other threads send a [`message::CoreMessage`].

mod agents;
mod bodies;
mod bulk;
mod facets;
mod held;
mod lists;
pub mod message;
pub mod metrics;
mod offloaded;
mod parts;
mod pending;
mod request_log;
mod scans;
mod spans;
pub mod stats_watch;
mod wake;

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use self::agents::Control;
use self::bulk::BulkReply;
use self::held::{HeldRequests, RequestManner};
use self::lists::Poll;
use self::message::{CoreMessage, Reply};
use self::metrics::{CoreMetrics, PollCounts};
use self::offloaded::{Offloaded, OffloadedCall, OffloadedCompression};
use self::pending::PendingRequests;
use self::request_log::{CLIENT_CLOSED_REQUEST, RequestLog};
use self::scans::ScanTurns;
use self::spans::Spans;
pub use self::wake::YieldBudget;
use crate::access::auth::{Access, Caller, Needs, TokenNeed};
use crate::access::browser_sessions::{cookie_of, is_of_page};
use crate::access::guesses::FAILURE_DELAY;
use crate::access::rights::{Action, Listable};
use crate::access::token::{Demand, Tokens};
use crate::api::call::{Call, CoreLocal, ListRequest, LocalState, Outcome};
use crate::api::endpoint::{Endpoint, OPERATIONS, ROUTER, allowed, needs};
use crate::api::operation::BODY_BYTES_MAX;
use crate::api::router::{self, Found, ParameterSpan};
use crate::api::shared::{AccessControl, Shared};
use crate::api::{config_external, done, strict};
use crate::error::{self, ApiError};
use crate::feed::{NodePoll, Waiters};
use crate::http::{
    Accepts, Admission, Answer, Connections, Ended, Head, Headers, Lines, Method, Request,
    Response, Service, Ticket, TicketMap, TicketSet,
};
use crate::limits::{PUBLIC_BODY_BYTES_MAX, STRING_IDS_AT_ONCE_BYTES};
use crate::openapi::model::Security;
use crate::query::Restriction;
use crate::rt;
use crate::state::State;
use crate::state::command::AuditedCommand;
use crate::state::name::Hostname;
use crate::ui;
use crate::writer::{Envelope, Published, ReplyTo};

/// Deadline of a change or a long list; its client then gets 503 `timed_out`.
const ANSWER_WAIT_MAX: Duration = Duration::from_mins(1);
const _: () = assert!(
    (crate::limits::EPISODES_DELAY_MS_MAX as u128) < ANSWER_WAIT_MAX.as_millis() / 2,
    "a buffered save must be answered before its deadline"
);

/// The service of one core.
pub struct Core {
    index: usize,
    shared: Arc<Shared>,
    connections: Rc<Connections<Admitted>>,
    newest: RefCell<Newest>,
    waiters: RefCell<Waiters<Ticket, NodePoll, Rc<Poll>>>,
    lists: RunningLists,
    pending: RefCell<PendingRequests>,
    held: RefCell<HeldRequests>,
    log: RequestLog,
    /// Answers by the first digit of their status.
    answers: [Cell<u64>; 5],
    tokens: RefCell<Tokens>,
    /// Commands sent to the writer whose responses mask secrets.
    masked: RefCell<TicketSet>,
    local: CoreLocal,
    control: RefCell<Control>,
    this: std::rc::Weak<Core>,
}

/// Lists that are being run.
#[derive(Default)]
struct RunningLists {
    /// Polls for lists that are no longer parked and not answered yet.
    answering: RefCell<TicketMap<Rc<Poll>>>,
    /// Requests, and parked polls among them, whose list is still being scanned.
    scanning: RefCell<TicketSet>,
    turns: ScanTurns,
}

struct Newest {
    published: arc_swap::Cache<PublishedState, Arc<State>>,
    local: LocalState,
}

/// Adapter by which `arc_swap::Cache` owns the published state.
struct PublishedState(Arc<Published>);

impl std::ops::Deref for PublishedState {
    type Target = arc_swap::ArcSwap<State>;
    fn deref(&self) -> &Self::Target {
        self.0.state()
    }
}

/// The endpoint of a request, its parameter and its caller, as found when the head was complete.
/// `None`: there is no endpoint; `call` responds with 404 or 405.
pub struct Admitted(Option<(&'static Endpoint, ParameterSpan, Caller)>);

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
            lists: RunningLists::default(),
            pending: RefCell::default(),
            held: RefCell::default(),
            log: RequestLog::default(),
            answers: Default::default(),
            tokens: RefCell::default(),
            masked: RefCell::default(),
            local: CoreLocal::default(),
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
        if admitted.0.is_none() && self.is_page(request.path, &request.headers) {
            let docs = self.shared.documentation.pages.get();
            let page = ui::answer(request.method, request.path, &request.headers, docs);
            return Ok(Answer::Reply(page));
        }
        let state = self.state();
        let (endpoint, parameter, caller) = match admitted.0 {
            // Found and authorised when the head was complete, without yielding since.
            Some((endpoint, span, caller)) if !request.body_late => {
                (endpoint, span.parameter(request.path)?, caller)
            }
            // No endpoint, or rights that may have changed while the body arrived.
            _ => match self.find(request.method, request.path, &request.headers, &state)? {
                (Found::Endpoint(index, parameter, _), caller) => {
                    (&OPERATIONS[index], parameter, caller)
                }
                (other, _) => return Ok(Answer::Reply(not_here(request.path, &other))),
            },
        };
        let call = Call {
            shared: &self.shared,
            state: &state,
            local: &self.local,
            request,
            operation: endpoint,
            parameter: &parameter,
            caller: &caller,
            ticket,
            is_offloaded: false,
        };
        let is_large = request.has_large_body() && request.method != Method::Get;
        let outcome = if is_large {
            Outcome::Offload
        } else {
            strict::check_preferred(&call)?;
            (endpoint.handler)(&call)?
        };
        let outcome = match outcome {
            Outcome::Offload => {
                let call = OffloadedCall::new(&call, endpoint);
                Outcome::Pending(Box::new(Offloaded::Call(Box::new(call))))
            }
            other => other,
        };
        self.carry_out(&call, outcome)
    }

    fn carry_out(&self, call: &Call<'_>, outcome: Outcome) -> Result<Answer, ApiError> {
        let this = self.this.upgrade().expect("a core lives while it serves");
        let ticket = call.ticket;
        match outcome {
            Outcome::Reply(response) => Ok(self.reply(ticket, response)),
            Outcome::Command(command) => self.send_command(call, call.audited(command)?),
            Outcome::Batch(command, conditions) => {
                let command = AuditedCommand {
                    conditions,
                    ..call.audited(command)?
                };
                self.send_command(call, command)
            }
            Outcome::List(mut list) => {
                let by_visibility = restrict(call, &mut list);
                let accepts = call.request.headers.accepts();
                if list.complete.is_some() {
                    let trace = call.trace_fields();
                    self.held.borrow_mut().note_trace(ticket, trace);
                }
                let answer = this.list(list, accepts, ticket, call.state);
                if let Answer::Reply(_) = &answer {
                    self.held.borrow_mut().end(ticket);
                }
                self.hold(call, &answer, by_visibility);
                Ok(answer)
            }
            Outcome::Pending(pending) => {
                let ends_with_right = pending.ends_with_right();
                let by_visibility = pending.depends_on_visibility();
                let answer = this.start(ticket, pending, call.masks());
                if ends_with_right {
                    self.hold(call, &answer, by_visibility);
                }
                Ok(answer)
            }
            Outcome::Bulk(request) => {
                let answer = this.bulk(request, ticket);
                self.hold(call, &answer, true);
                Ok(answer)
            }
            Outcome::Facets(request) => {
                let answer = this.facets(request, ticket);
                self.hold(call, &answer, true);
                Ok(answer)
            }
            Outcome::Body(body) => {
                let answer = Answer::Wait {
                    deadline: Some(ANSWER_WAIT_MAX),
                };
                self.hold(call, &answer, false);
                rt::spawn(this.send_body(body, ticket));
                Ok(answer)
            }
            Outcome::Park { hostname, poll } => Ok(self.park_node(call, hostname, poll)),
            Outcome::Upgrade {
                upgrade,
                connection,
            } => {
                self.open_control(call, connection, upgrade.greeting.len());
                Ok(Answer::Upgrade(upgrade))
            }
            Outcome::Offload => unreachable!("it has become a pending request"),
        }
    }

    /// Sends a response, or keeps it for its delay.
    fn reply(&self, ticket: Ticket, response: Response) -> Answer {
        match response.delay {
            None => Answer::Reply(response),
            deadline => {
                self.on_delayed(ticket, response);
                Answer::Wait { deadline }
            }
        }
    }

    fn send_command(&self, call: &Call<'_>, command: AuditedCommand) -> Result<Answer, ApiError> {
        // Also while the server stops: the writer ends after the cores.
        self.change(call.ticket, command, call.masks())?;
        Ok(Answer::Wait {
            deadline: Some(ANSWER_WAIT_MAX),
        })
    }

    fn park_node(&self, call: &Call<'_>, hostname: Hostname, poll: NodePoll) -> Answer {
        if self.shared.draining.load(Ordering::Acquire) {
            let answer = config_external::expire(&self.shared, call.state, &hostname, &poll);
            return Answer::Reply(answer);
        }
        let answer = Answer::Wait {
            deadline: Some(poll.wait),
        };
        self.hold(call, &answer, false);
        self.waiters
            .borrow_mut()
            .park_node(call.ticket, hostname, poll);
        answer
    }

    /// Records the caller of a waiting request.
    fn hold(&self, call: &Call<'_>, answer: &Answer, by_visibility: bool) {
        if matches!(answer, Answer::Wait { .. }) {
            let Call {
                ticket,
                operation,
                parameter,
                caller,
                ..
            } = call;
            let mut held = self.held.borrow_mut();
            held.insert(*ticket, operation, parameter, caller, by_visibility);
        }
    }

    /// Removes a waiting request from all tables.
    fn forget(&self, ticket: Ticket) {
        self.waiters.borrow_mut().remove(ticket);
        self.lists.answering.borrow_mut().remove(&ticket);
        self.held.borrow_mut().end(ticket);
        self.masked.borrow_mut().remove(&ticket);
        self.pending.borrow_mut().remove(ticket);
    }

    /// Counts a refusal of wrong credentials. Returns the response to one too many of its address,
    /// which is sent later.
    fn too_many_failures(
        &self,
        error: &ApiError,
        has_credentials: bool,
        client: IpAddr,
    ) -> Option<Response> {
        let code = error.items[0].code;
        let is_failure = [error::WRONG_CLUSTER_KEY, error::AUTHENTICATION_FAILED]
            .iter()
            .any(|failure| failure.code == code)
            || has_credentials && code == error::UNAUTHORIZED.code;
        if !is_failure || !self.shared.count_failure(client) {
            return None;
        }
        let mut response = Response::from(error::TOO_MANY_FAILURES.error());
        response.delay = Some(FAILURE_DELAY);
        Some(response)
    }

    /// Sends a command to the writer, whose reply becomes the response.
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

    /// Routes and authorises a request. Only callers with valid credentials get a 404.
    fn find<'p>(
        &self,
        method: Method,
        path: &'p str,
        headers: &Headers<'_>,
        state: &State,
    ) -> Result<(Found<'p>, Caller), ApiError> {
        let found = ROUTER.find(method, path)?;
        let needs = match &found {
            Found::Endpoint(index, parameter, _) => needs(&OPERATIONS[*index], parameter),
            Found::OtherMethods(_) | Found::Nothing => Needs {
                access: Access::Admin,
                token: TokenNeed::Any,
                key: None,
                hostname: None,
            },
        };
        let AccessControl { auth, browsers, .. } = &self.shared.access;
        let tokens = &mut self.tokens.borrow_mut();
        let cookie = cookie_of(headers);
        let session = cookie.and_then(|cookie| browsers.find(cookie, Instant::now()));
        let caller = match session {
            Some(session) => {
                let caller = auth.authorize_session(needs, session.credential, tokens, state);
                if caller.as_ref().is_err_and(|error| error.status == 401)
                    && needs.access == Access::Admin
                {
                    cookie.inspect(|cookie| browsers.close(cookie));
                }
                caller?
            }
            None => {
                let authorization = headers.authorization();
                let now_seconds = crate::api::now_seconds;
                auth.authorize(needs, authorization, tokens, state, now_seconds)?
            }
        };
        Ok((found, caller))
    }

    /// Whether a request is for the web interface, which needs no credentials.
    fn is_page(&self, path: &str, headers: &Headers<'_>) -> bool {
        self.shared.settings.api.has_ui && ui::is_page(path, headers)
    }

    /// Handles the messages of other threads until the process ends. Replies are sent at once;
    /// another task wakes polls, because thousands of them take a while.
    pub async fn dispatch(self: Rc<Self>, inbox: Arc<rt::Inbox<CoreMessage>>) {
        let commits = Rc::new(rt::Inbox::new());
        rt::spawn(self.clone().wake_for_commits(commits.clone()));
        let reports = Rc::new(rt::Inbox::new());
        rt::spawn(self.clone().wake_for_reports(reports.clone()));
        loop {
            match inbox.recv().await {
                CoreMessage::Batch { commit, replies } => {
                    let mut budget = YieldBudget::default();
                    for (ticket, outcome) in replies {
                        let bulk = self.pending.borrow().bulk(ticket);
                        if let Some(bulk) = bulk {
                            bulk.push(BulkReply::Changed(outcome));
                            continue;
                        }
                        let masked = self.masked.borrow_mut().remove(&ticket);
                        let state = self.state();
                        self.complete(ticket, done(outcome, masked, &self.shared, &state));
                        budget.end().await;
                    }
                    if let Some(commit) = commit {
                        commits.push(commit);
                    }
                    if self.index == 0 {
                        self.shared.paged_snapshots.drop_expired();
                    }
                }
                CoreMessage::Completed {
                    ticket,
                    part,
                    reply,
                } => self.on_reply(ticket, part, reply),
                CoreMessage::Agent(message) => self.on_agent_message(message),
                CoreMessage::Reported => reports.push(()),
                CoreMessage::CredentialsReplaced => {
                    self.tokens.borrow_mut().forget_keys();
                    self.end_administrator_requests().await;
                }
                CoreMessage::PollWaitMax(wait_max) => self.end_longer_polls(wait_max).await,
                CoreMessage::CollectMetrics(to) => {
                    to.send(Reply::Metrics(Box::new(self.metrics())));
                }
                CoreMessage::CountPolls(to) => {
                    // The thread may have stopped waiting.
                    let _ = to.try_send(self.poll_counts());
                }
                CoreMessage::Drain => {
                    // First, so that every answer has `Connection: close`.
                    self.connections.drain();
                    self.end_polls().await;
                }
            }
        }
    }

    fn poll_counts(&self) -> PollCounts {
        PollCounts {
            core: self.index,
            parked: self.parked() as u64,
            parked_ever: self.waiters.borrow().parked_ever(),
        }
    }

    fn metrics(&self) -> CoreMetrics {
        CoreMetrics {
            index: self.index,
            http: self.connections.counters(),
            answers: self.answers.each_ref().map(Cell::get),
            parked: self.parked() as u64,
            stalls: rt::stalls(),
        }
    }

    fn count_answer(&self, status: u16) {
        if let Some(count) = self.answers.get(usize::from(status / 100).wrapping_sub(1)) {
            count.set(count.get() + 1);
        }
    }

    /// Answers a request that waited.
    fn complete(&self, ticket: Ticket, response: Response) {
        let has_string_ids = self.held.borrow().manner(ticket).has_string_ids;
        let answer = if has_string_ids {
            self.with_string_ids(ticket, response)
        } else {
            let accepts = self.connections.accepts_of(ticket);
            self.compress_elsewhere(ticket, response, accepts)
        };
        let mut response = match answer {
            Answer::Reply(response) => uncached(response),
            _ => return,
        };
        let status = response.status;
        self.count_answer(status);
        let manner = self.held.borrow_mut().end(ticket);
        response = without_challenge(response, manner.is_page);
        if manner.is_strict {
            response = response.header("Preference-Applied", strict::APPLIED);
        }
        if self.connections.complete(ticket, response) {
            self.ended(ticket, status);
        }
    }

    /// Has another thread compress a response that would take a core long. Returns one that is to
    /// be sent as it is.
    fn compress_elsewhere(&self, ticket: Ticket, response: Response, accepts: Accepts) -> Answer {
        let offload = &self.shared.workers.offload;
        if !response.is_long_to_compress(accepts) || !offload.has_room() {
            return Answer::Reply(response);
        }
        let this = self.this.upgrade().expect("a core lives while it serves");
        let work = Offloaded::Compression(OffloadedCompression { response, accepts });
        this.start(ticket, Box::new(work), false)
    }

    /// The response with large integers as strings; another thread makes a long one.
    fn with_string_ids(&self, ticket: Ticket, response: Response) -> Answer {
        let offload = &self.shared.workers.offload;
        let is_long = response.body.bytes().len() > STRING_IDS_AT_ONCE_BYTES;
        if !is_long || response.has_string_ids() || !offload.has_room() {
            return Answer::Reply(response.with_string_ids());
        }
        let this = self.this.upgrade().expect("a core lives while it serves");
        this.start(ticket, Box::new(Offloaded::StringIds(response)), false)
    }

    /// A request that waited has its answer, or its client is gone.
    fn ended(&self, ticket: Ticket, status: u16) {
        if self.shared.settings.running.logs_requests() {
            self.log.log_later(ticket, status);
        }
        self.log
            .spans
            .end(&self.shared.workers.traces, ticket, status);
    }
}

/// Whether clients choose the form of its answers. Streamers are sent one form only.
fn has_forms((endpoint, ..): &(&'static Endpoint, ParameterSpan, Caller)) -> bool {
    endpoint.permission.security == Security::Administrator
}

/// Restricts a list to the entities visible to the caller. Returns whether it is a list that
/// permissions restrict.
fn restrict(call: &Call<'_>, list: &mut ListRequest) -> bool {
    let TokenNeed::Right(Demand {
        collection,
        action: Action::List,
    }) = call.operation.permission.token
    else {
        return false;
    };
    if let Caller::Token(token) = call.caller
        && token.rights.listable(collection) != Listable::Everything
    {
        let shown = token.clone();
        let canonical = format!("{} {:?}", token.name, token.rights);
        list.query.restrict(Restriction::new(canonical, move |key| {
            shown.rights.may(Action::List, collection, Some(key))
        }));
    }
    true
}

/// Keeps a response out of caches: it may contain secrets, and it is outdated by the next commit.
fn uncached(response: Response) -> Response {
    const FIELD: &str = "Cache-Control";
    if response.headers.iter().any(|(name, _)| *name == FIELD) {
        response
    } else {
        response.header(FIELD, "no-store")
    }
}

/// A 401 to a page for people has no challenge: browsers would show a login of their own.
fn without_challenge(mut response: Response, is_page: bool) -> Response {
    if is_page && response.status == 401 {
        let is_challenge = |name: &str| name == "WWW-Authenticate";
        response.headers.retain(|(name, _)| !is_challenge(name));
    }
    response
}

/// The response of paths and methods without endpoint.
fn not_here(path: &str, found: &Found<'_>) -> Response {
    match found {
        Found::OtherMethods(_) => Response::method_not_allowed(allowed(path)),
        _ => error::NOT_FOUND.error().into(),
    }
}

impl Service for Core {
    type Admitted = Admitted;

    fn admit(&self, head: &Head<'_>, peer: IpAddr) -> Result<Admission<Admitted>, Response> {
        if self.is_page(head.path, &head.headers) {
            return Ok(Admission {
                body_bytes_max: PUBLIC_BODY_BYTES_MAX,
                admitted: Admitted(None),
            });
        }
        if let Some(safe_mode) = self.shared.published.safe_mode()
            && !safe_mode.is_readable
            && !self.is_probe(head)
        {
            self.count_answer(error::SAFE_MODE.status);
            return Err(safe_mode.error().into());
        }
        let method = head.method.without_head();
        match self.find(method, head.path, &head.headers, &self.state()) {
            Ok((Found::Endpoint(index, _, span), caller)) => Ok(Admission {
                body_bytes_max: OPERATIONS[index].body_bytes_max,
                admitted: Admitted(Some((&OPERATIONS[index], span, caller))),
            }),
            // Answered by `call`; a small body is read.
            Ok(_) => Ok(Admission {
                body_bytes_max: BODY_BYTES_MAX,
                admitted: Admitted(None),
            }),
            Err(error) => {
                let has_credentials = head.headers.authorization().is_some();
                let delayed = self.too_many_failures(&error, has_credentials, peer);
                let response = delayed.unwrap_or_else(|| Response::from(error));
                let mut response = without_challenge(response, is_of_page(&head.headers));
                response.for_any_origin = self.is_for_any_origin(head.path);
                // One that is delayed is counted when it is sent.
                if response.delay.is_none() {
                    self.count_answer(response.status);
                }
                if self.shared.settings.running.logs_requests() {
                    let method = head.method.as_str();
                    request_log::log(method, head.path, peer, response.status, Instant::now());
                }
                let traces = &self.shared.workers.traces;
                if traces.is_on() {
                    let status = response.status;
                    Spans::refused(traces, &self.local, head, peer, status);
                }
                Err(response)
            }
        }
    }

    fn call(&self, request: &Request<'_>, admitted: Admitted, ticket: Ticket) -> Answer {
        let since = self
            .shared
            .settings
            .running
            .logs_requests()
            .then(Instant::now);
        let accepts = request.headers.accepts();
        let traces = &self.shared.workers.traces;
        let is_traced = traces.is_on();
        if is_traced {
            let endpoint = admitted.0.as_ref().map(|(endpoint, ..)| endpoint);
            let route = endpoint.map(|endpoint| &endpoint.route);
            self.log.spans.begin(traces, &self.local, request, route);
        }
        let has_string_ids =
            request.headers.wants_string_ids() && admitted.0.as_ref().is_some_and(has_forms);
        let answer = self.answer(request, admitted, ticket);
        let answer = answer.unwrap_or_else(|error| {
            let has_credentials = request.headers.authorization().is_some();
            let delayed = self.too_many_failures(&error, has_credentials, request.peer);
            let response = delayed.unwrap_or_else(|| Response::from(error));
            let is_page = is_of_page(&request.headers);
            self.reply(ticket, without_challenge(response, is_page))
        });
        let answer = match answer {
            Answer::Reply(response) if has_string_ids => self.with_string_ids(ticket, response),
            Answer::Reply(response) => self.compress_elsewhere(ticket, response, accepts),
            other => other,
        };
        let is_strict = strict::is_preferred(request);
        if matches!(answer, Answer::Wait { .. }) {
            let is_page = is_of_page(&request.headers);
            let manner = RequestManner {
                is_strict,
                is_page,
                has_string_ids,
            };
            self.held.borrow_mut().note_manner(ticket, manner);
        }
        let answer = match answer {
            Answer::Reply(mut response) => {
                if is_strict {
                    response = response.header("Preference-Applied", strict::APPLIED);
                }
                response.for_any_origin = self.is_for_any_origin(request.path);
                Answer::Reply(uncached(response))
            }
            other => other,
        };
        match &answer {
            Answer::Reply(response) => self.count_answer(response.status),
            Answer::Upgrade(_) => self.count_answer(101),
            Answer::Wait { .. } => {}
        }
        if let Some(since) = since {
            self.log.log(request, ticket, &answer, since);
        }
        if is_traced {
            self.log
                .spans
                .answered(traces, &self.local, ticket, &answer);
        }
        answer
    }

    fn is_probe(&self, head: &Head<'_>) -> bool {
        let path = router::strip_prefix(head.path);
        path.is_some_and(|path| path.starts_with("/monitoring/"))
    }

    fn is_for_any_origin(&self, path: &str) -> bool {
        // Players in web pages follow the public redirects.
        router::strip_prefix(path).is_some_and(|path| path.starts_with("/lb/"))
    }

    fn on_delayed(&self, ticket: Ticket, response: Response) {
        self.pending.borrow_mut().delay(ticket, response);
    }

    fn timeout_response(&self, ticket: Ticket) -> Response {
        let has_string_ids = self.held.borrow().manner(ticket).has_string_ids;
        let mut response = uncached(self.timeout_answer(ticket));
        if has_string_ids {
            response = response.with_string_ids();
        }
        self.count_answer(response.status);
        self.ended(ticket, response.status);
        response
    }

    fn on_abandoned(&self, ticket: Ticket) {
        self.forget(ticket);
        self.ended(ticket, CLIENT_CLOSED_REQUEST);
    }

    fn keeps_half_closed(&self, ticket: Ticket) -> bool {
        // A write is answered to a client that may still read; a poll of a client that stopped
        // sending is over.
        let waiters = self.waiters.borrow();
        waiters.node_poll(ticket).is_none() && waiters.query_of(ticket).is_none()
    }

    fn on_line(&self, ticket: Ticket, line: &[u8], out: &mut Vec<u8>) -> Lines {
        self.on_agent_line(ticket, line, out)
    }

    fn on_close(&self, ticket: Ticket, why: Ended, out: &mut Vec<u8>) {
        self.write_close_reason(ticket, why, out);
    }

    fn on_closed(&self, ticket: Ticket, why: Ended) {
        self.control_ended(ticket, why);
    }

    fn allowed(&self, path: &str) -> &'static str {
        if self.shared.settings.api.has_ui && path.starts_with(ui::PATH) {
            ui::ALLOWED
        } else {
            allowed(path)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::lists::empty_list;
    use super::*;
    use crate::api::call::Collection;
    use crate::api::shared::tests::shared;
    use crate::feed::nodes::NodeRuntime;
    use crate::http::{Accepts, ConnectionOptions};
    use crate::query::Query;

    #[test]
    fn only_polls_for_lists_get_an_empty_list_at_timeout() {
        // Goal: at a deadline no client gets an incomplete configuration, or a response that
        // suggests that its change was made. Method: let the deadline of each kind pass.
        let connections = Connections::new(ConnectionOptions::default());
        let core = Core::new(0, shared(), connections);
        let ticket = |epoch| Ticket { slot: 0, epoch };
        let poll = Poll {
            of: Collection::Streams,
            query: Arc::new(
                Query::parse("updated_at_gt=0", &crate::api::stream_doc::KIND, &[])
                    .expect("a query"),
            ),
            complete: None,
            accepts: Accepts::NONE,
        };
        assert!(core.park(&poll, [ticket(1), ticket(2)].into_iter(), 0));
        core.waiters.borrow_mut().park_node(
            ticket(3),
            Hostname::trusted("gone"),
            NodePoll {
                coding: None,
                generation: 5,
                since: None,
                runtime: Arc::new(NodeRuntime::default()),
                wait: Duration::ZERO,
            },
        );
        let listed = core.timeout_response(ticket(1));
        assert_eq!(
            (listed.status, listed.body.bytes()),
            (200, &*empty_list(&poll.query))
        );
        core.waiters.borrow_mut().remove(ticket(2));
        core.lists
            .answering
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
        assert!(core.park(&poll, std::iter::once(ticket(5)), 0));
        core.lists.scanning.borrow_mut().insert(ticket(5));
        assert_eq!(
            core.timeout_response(ticket(5)).status,
            503,
            "whether the list is empty is not known yet"
        );
        assert_eq!(core.parked(), 0);
        assert!(core.lists.answering.borrow().is_empty());
    }
}
