//! Lists: run in slices between other requests, parked when empty, completed when finished. Scan
//! threads read all streams for them.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::parts::{ListPass, ScanClient, ScanEnd};
use super::scans::LIST_TIME_MAX;
use super::{ANSWER_WAIT_MAX, Admitted, Core, uncached};
use crate::api::agent::{AgentContext, AgentSource};
use crate::api::call::{Collection, CompletePage, ListRequest, LocalState};
use crate::api::cluster_scan::STREAMS_COUNTED_MIN;
use crate::api::entity::EntitySource;
use crate::api::event::Events;
use crate::api::external_episodes::ExternalEpisodes;
use crate::api::shared::Shared;
use crate::api::stream_doc::{Streams, reads_all};
use crate::api::streamer::Streamers;
use crate::api::strict;
use crate::api::unconfigured::Unconfigured;
use crate::error::{self, ErrorCode};
use crate::http::{Accepts, Answer, ChunkedAnswer, Reserved, Response, Ticket};
use crate::query::{Execution, Page, Query};
use crate::rt;
use crate::scan_pool::SliceSize;
use crate::state::State;
use crate::state::entity::Kind;
use crate::state::name::StreamName;

/// A list for one request.
pub(super) struct RequestedList {
    of: Collection,
    query: Arc<Query>,
    complete: Option<CompletePage>,
    wait: Option<Duration>,
    accepts: Accepts,
    ticket: Ticket,
    /// The count of reports before the list was run.
    reports_seen: u64,
}

/// A list that waits for its first match. Equal lists are run and rendered once.
#[derive(Clone)]
pub struct Poll {
    pub of: Collection,
    pub query: Arc<Query>,
    pub complete: Option<CompletePage>,
    pub accepts: Accepts,
}

impl Poll {
    /// Whether reports can make it match.
    pub fn waits_for_reports(&self) -> bool {
        let depends = || {
            ["stats", "health"]
                .iter()
                .any(|it| self.query.depends_on(it))
        };
        self.of == Collection::Streams && depends()
    }
}

/// Time for a list before other requests run: most are finished by then.
const AT_ONCE_MAX: Duration = Duration::from_millis(1);
/// A page from this size on is sent in pieces.
const PIECES_BYTES_MIN: usize = 256 * 1024;
/// Bytes of a piece. The next one is rendered when the client has taken it.
const PIECE_BYTES: usize = 64 * 1024;
/// How long a client may take to receive a page before the rest of it is rendered at once, so that
/// the state it is read from can be given up.
const PIECES_TIME_MAX: Duration = Duration::from_secs(30);

/// A list that is being run, on one state.
pub(super) struct Run {
    of: Collection,
    execution: Execution<Arc<Query>>,
    pub(super) state: LocalState,
    size: SliceSize,
    /// No other streams can match; `None`: any can.
    candidates: Option<Vec<StreamName>>,
    /// All streams should be read. Found when the list is not short.
    reads_all: OnceCell<bool>,
    /// Memory for what is found and rendered.
    reserved: Reserved,
}

impl Run {
    pub(super) fn new(
        of: Collection,
        query: Arc<Query>,
        state: LocalState,
        shared: &Shared,
    ) -> Self {
        // A streamer may take an episode that is missing from its list for one that has ended.
        let page_bytes_max = match of {
            Collection::ExternalEpisodes => usize::MAX,
            _ => shared.settings.api.page_bytes_max,
        };
        Self {
            of,
            execution: Execution::new(query).with_page_bytes(page_bytes_max),
            state,
            size: SliceSize::default(),
            candidates: None,
            reads_all: OnceCell::new(),
            reserved: Reserved::default(),
        }
    }

    /// Looks only at streams that can match, as far as the last count of a large cluster has them.
    /// For lists that are not parked: what a report changed is found with the next count.
    fn narrow(&mut self, shared: &Shared) {
        let hints = self.execution.query().hints();
        let has_index = hints.stamp_min.is_some() || hints.has_equal("layout.ingest");
        let is_rare = hints.has_equal("health") || hints.is_false.contains(&"placed");
        let is_large = self.state.streams_count() >= STREAMS_COUNTED_MIN;
        if self.of == Collection::Streams && is_rare && is_large && !has_index {
            let counted = shared.workers.cluster_counts.peek(Instant::now());
            let rare = counted.as_ref().map(|counted| &counted.value.scan.rare);
            self.candidates = rare.and_then(|rare| rare.candidates(&hints, &self.state));
        }
    }

    /// The next pass of the list, if it reads all streams and the scan threads have room.
    fn next_pass(&mut self, shared: &Arc<Shared>) -> Option<ListPass> {
        let reads_all = self.reads_all.get_or_init(|| {
            self.of == Collection::Streams
                && self.candidates.is_none()
                && reads_all(self.execution.query(), &self.state)
        });
        if !reads_all || shared.workers.scans.is_full() {
            return None;
        }
        Some(ListPass {
            pass: self.execution.next_pass()?,
            state: Arc::clone(&self.state),
            shared: shared.clone(),
        })
    }

    /// Runs one slice.
    pub(super) fn step(&mut self, shared: &Shared) -> Option<Page> {
        let Self {
            of,
            execution,
            state,
            size,
            candidates,
            ..
        } = self;
        let candidates = candidates.as_deref();
        size.step(|documents| step((*of, candidates), execution, state, shared, documents))
    }

    /// Runs slices for some time.
    pub(super) fn steps(&mut self, shared: &Shared, time: Duration) -> Option<Page> {
        let began = Instant::now();
        loop {
            let page = self.step(shared);
            let is_large = self.execution.rendered_bytes() >= PIECES_BYTES_MIN;
            if page.is_some() || is_large || began.elapsed() >= time {
                return page;
            }
        }
    }
}

/// Scans up to `documents` of a list.
fn step(
    (of, candidates): (Collection, Option<&[StreamName]>),
    execution: &mut Execution<Arc<Query>>,
    state: &State,
    shared: &Shared,
    documents: usize,
) -> Option<Page> {
    let fleet = shared.fleet.view(Instant::now());
    match of {
        Collection::Streams => {
            let around = shared.around(state, fleet);
            let streams = Streams::new(state, Some(around))
                .for_list(execution.query(), &shared.access.countries)
                .among(candidates);
            execution.step(&streams, documents)
        }
        Collection::Unconfigured => execution.step(&Unconfigured::new(state, fleet), documents),
        Collection::Streamers => execution.step(&Streamers::new(state, Some(fleet)), documents),
        Collection::Entities(Kind::Agent) => {
            let around = AgentContext {
                state,
                presences: &shared.agents.presence.snapshot(),
                server: &shared.identity.hostname,
            };
            execution.step(&AgentSource::new(around), documents)
        }
        Collection::Entities(kind) => execution.step(&EntitySource::new(kind, state), documents),
        Collection::ExternalEpisodes => {
            let source = ExternalEpisodes::new(state, execution.query());
            execution.step(&source, documents)
        }
        Collection::Events => execution.step(&Events::new(state), documents),
    }
}

pub(super) fn empty_list(query: &Query) -> Vec<u8> {
    let collection = query.kind().collection;
    format!(r#"{{"{collection}":[],"estimated_count":0,"next":null,"prev":null,"timing":{{}}}}"#)
        .into_bytes()
}

impl Core {
    /// Runs a list. A short one is answered at once; others run in slices between other requests.
    pub(super) fn list(
        self: &Rc<Self>,
        request: ListRequest,
        accepts: Accepts,
        ticket: Ticket,
        state: &LocalState,
    ) -> Answer {
        let state = request.snapshot.as_ref().unwrap_or(state).clone();
        let list = RequestedList {
            of: request.of,
            query: Arc::new(request.query),
            complete: request.complete,
            wait: request.wait,
            accepts,
            ticket,
            reports_seen: self.shared.watches.count(),
        };
        let mut run = Run::new(list.of, list.query.clone(), state, &self.shared);
        if list.wait.is_none() {
            run.narrow(&self.shared);
        }
        if let Some(page) = run.steps(&self.shared, AT_ONCE_MAX) {
            if page.items == 0
                && let Some(wait) = list.wait
                && self.park_list(&list)
            {
                return Answer::Wait {
                    deadline: Some(wait),
                };
            }
            let page = self.page(&list.query, page, &run.state);
            return self.complete_page(ticket, list.complete, page, &run.state);
        }
        if !self.has_room(&mut run) {
            return Answer::Reply(error::BUFFERS_FULL.error().into());
        }
        let deadline = list.wait.unwrap_or(ANSWER_WAIT_MAX);
        // Parked from this revision on: what commits bring meanwhile is judged by itself, so the
        // list is run once however often others save.
        let is_parked =
            list.wait.is_some() && Rc::ptr_eq(&self.state(), &run.state) && self.park_list(&list);
        self.lists.scanning.borrow_mut().insert(ticket);
        rt::spawn(self.clone().finish_list(run, list, is_parked));
        Answer::Wait {
            deadline: Some(deadline),
        }
    }

    /// Runs the rest of a long list. A poll that is not parked yet is parked if the list is empty;
    /// after a commit meanwhile the list is first run again, because that commit woke no poll.
    async fn finish_list(self: Rc<Self>, run: Run, list: RequestedList, is_parked: bool) {
        let ticket = list.ticket;
        self.clone().run_to_end(run, list, is_parked).await;
        self.lists.scanning.borrow_mut().remove(&ticket);
    }

    async fn run_to_end(self: Rc<Self>, mut run: Run, list: RequestedList, is_parked: bool) {
        let client = ScanClient {
            ticket: Some(list.ticket),
            began: Instant::now(),
        };
        let mut may_divide = list.complete.is_none() && list.of != Collection::ExternalEpisodes;
        loop {
            let page = loop {
                match self.pass_in_parts(&mut run, &client).await {
                    Ok(()) => {}
                    Err(ScanEnd::ClientGone) => return,
                    Err(ScanEnd::Refused(code)) => {
                        return self.refuse(list.ticket, is_parked, &code);
                    }
                }
                let turn = self.lists.turns.next().await;
                if !self.connections.is_waiting(list.ticket) {
                    return;
                }
                if !self.has_room(&mut run) {
                    return self.refuse(list.ticket, is_parked, &error::BUFFERS_FULL);
                }
                if may_divide && run.execution.rendered_bytes() >= PIECES_BYTES_MIN {
                    if is_parked && !self.waiters.borrow_mut().remove(list.ticket) {
                        return;
                    }
                    drop(turn);
                    match self.begin_pieces(&run, list.ticket) {
                        Some(answer) => return self.send_pieces(run, answer, list.ticket).await,
                        None => may_divide = false,
                    }
                    continue;
                }
                let page = run.step(&self.shared);
                drop(turn);
                if let Some(page) = page {
                    break page;
                }
                if client.began.elapsed() > LIST_TIME_MAX {
                    return self.refuse(list.ticket, is_parked, &error::TOO_EXPENSIVE);
                }
            };
            if page.items == 0 && is_parked {
                return;
            }
            if page.items == 0 && list.wait.is_some() {
                let newest = self.state();
                if !Arc::ptr_eq(&newest, &run.state) {
                    run = Run::new(list.of, list.query.clone(), newest, &self.shared);
                    continue;
                }
                if self.park_list(&list) {
                    return;
                }
            }
            if is_parked && !self.waiters.borrow_mut().remove(list.ticket) {
                // A commit brought a match, and its page is on the way.
                return;
            }
            let page = self.page(&list.query, page, &run.state);
            let answer = self.complete_page(list.ticket, list.complete, page, &run.state);
            if let Answer::Reply(response) = answer {
                self.complete(list.ticket, response);
            }
            return;
        }
    }

    /// Has the scan threads make the next pass of a list, if it reads all streams.
    pub(super) async fn pass_in_parts(
        &self,
        run: &mut Run,
        client: &ScanClient,
    ) -> Result<(), ScanEnd> {
        let Some(pass) = run.next_pass(&self.shared) else {
            return Ok(());
        };
        let began = Instant::now();
        if let Some(found) = self.scan_in_parts(pass, client, &mut run.reserved).await {
            run.execution.absorb(found?, began.elapsed());
        }
        Ok(())
    }

    /// Counts the memory of a list. Returns false if there is no room for it.
    fn has_room(&self, run: &mut Run) -> bool {
        let held_bytes = run.execution.held_bytes();
        self.connections.holds(&mut run.reserved, held_bytes)
    }

    /// Ends a list with an error, unless a commit brought a match: its page is on the way.
    fn refuse(&self, ticket: Ticket, is_parked: bool, code: &ErrorCode) {
        if !is_parked || self.waiters.borrow_mut().remove(ticket) {
            self.complete(ticket, code.error().into());
        }
    }

    /// Begins a response that is sent in pieces, unless its client needs to know its length or gets
    /// another form of it.
    fn begin_pieces(&self, run: &Run, ticket: Ticket) -> Option<ChunkedAnswer<Admitted>> {
        let mut response = uncached(Response::json(200, Vec::new()));
        let manner = self.held.borrow().manner(ticket);
        if manner.has_string_ids {
            return None;
        }
        if manner.is_strict {
            response = response.header("Preference-Applied", strict::APPLIED);
        }
        // What is rendered is taken next, and counted as far as the socket does not take it.
        let held_bytes = run.execution.position_bytes();
        let answer = self
            .connections
            .begin_chunks(ticket, response, held_bytes)?;
        self.count_answer(200);
        Some(answer)
    }

    /// Sends a page in pieces, each rendered when the client has taken the one before.
    async fn send_pieces(&self, mut run: Run, mut answer: ChunkedAnswer<Admitted>, ticket: Ticket) {
        let began = Instant::now();
        // The answer counts it.
        run.reserved = Reserved::default();
        let page = loop {
            answer.write(&run.execution.take_rendered());
            if began.elapsed() < PIECES_TIME_MAX && !answer.taken().await {
                return;
            }
            if let Some(page) = self.next_piece(&mut run, ticket).await {
                break page;
            }
            if !self.connections.is_waiting(ticket) {
                return;
            }
        };
        let rest = self.page_body(run.execution.query(), page, &run.state);
        if answer.finish(&rest) {
            self.held.borrow_mut().end(ticket);
            self.ended(ticket, 200);
        }
    }

    /// Renders one piece. Returns the page when all of it is rendered.
    async fn next_piece(&self, run: &mut Run, ticket: Ticket) -> Option<Page> {
        loop {
            let turn = self.lists.turns.next().await;
            if !self.connections.is_waiting(ticket) {
                return None;
            }
            let page = run.step(&self.shared);
            drop(turn);
            if page.is_some() || run.execution.rendered_bytes() >= PIECE_BYTES {
                return page;
            }
        }
    }

    /// Completes a page, with a pending request if its handler needs one.
    pub(super) fn complete_page(
        self: &Rc<Self>,
        ticket: Ticket,
        complete: Option<CompletePage>,
        page: Response,
        state: &State,
    ) -> Answer {
        let Some(complete) = complete else {
            return Answer::Reply(page);
        };
        let trace = self.held.borrow().trace(ticket);
        match complete(page, state, &trace) {
            Ok(page) => Answer::Reply(page),
            Err(pending) => self.start(ticket, pending, false),
        }
    }

    /// A finished page. The state of a paged snapshot is kept for its other pages.
    fn page(&self, query: &Query, page: Page, state: &LocalState) -> Response {
        Response::json(200, self.page_body(query, page, state))
    }

    fn page_body(&self, query: &Query, page: Page, state: &LocalState) -> Vec<u8> {
        if query.revision().is_some() && (page.next.is_some() || page.prev.is_some()) {
            self.shared.paged_snapshots.keep(state);
        }
        page.into_body("")
    }

    /// False when the server is stopping: then nothing is parked any more.
    fn park_list(&self, list: &RequestedList) -> bool {
        let poll = Poll {
            of: list.of,
            query: list.query.clone(),
            complete: list.complete,
            accepts: list.accepts,
        };
        self.park(&poll, std::iter::once(list.ticket), list.reports_seen)
    }

    /// Parks equal polls. The caller has run the list on the newest state, without yielding since,
    /// and on the reports up to `reports_seen`.
    pub(super) fn park(
        &self,
        poll: &Poll,
        tickets: impl Iterator<Item = Ticket>,
        reports_seen: u64,
    ) -> bool {
        if self.shared.draining.load(Ordering::Acquire) {
            return false;
        }
        let names = poll.query.keys().unwrap_or_default();
        let subject = poll.of.subject();
        let key = format!("{subject:?} {:?} {}", poll.accepts, poll.query.canonical());
        let mut waiters = self.waiters.borrow_mut();
        for ticket in tickets {
            waiters.park_query(ticket, &key, subject, names, || Rc::new(poll.clone()));
        }
        if poll.waits_for_reports() {
            let inbox = &self.shared.cores[self.index];
            self.shared.watches.park(self.index, reports_seen, inbox);
        }
        true
    }
}
