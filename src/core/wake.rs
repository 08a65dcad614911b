//! How a poll is woken: by a commit, by reports, by its deadline, by the end of the process.
//!
//! Two tasks per core. One handles commits in order and merges those that arrive while it works.
//! The other runs lists that depend on reports. Both yield to other requests after a bounded amount
//! of work. A poll stays parked until it is answered, so yielding loses none.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lists::{Poll, Run, empty_list};
use super::offloaded::{Offloaded, OffloadedPoll};
use super::parts::ScanClient;
use super::{Core, stats_watch};
use crate::api::call::Collection;
use crate::api::config_external::{self, Wake};
use crate::api::entity::EntityDoc;
use crate::api::event::EventDoc;
use crate::api::stream_doc::StreamDoc;
use crate::api::streamer::StreamerDoc;
use crate::error;
use crate::feed::{Commit, NodePoll, QueryId};
use crate::http::{Accepts, Answer, Prepared, Response, Ticket};
use crate::query::{Document, Page, Query};
use crate::rt;
use crate::state::entity::{KINDS, Kind};

/// An answer up to this size is sent even while unsent ones fill their budget.
const SMALL_BYTES: usize = 64 * 1024;
/// Documents compared with a parked poll before the time is looked at.
const COMPARED_IN_A_ROW: usize = 16;
/// Time before other requests of the core run.
const IN_A_ROW_MAX: Duration = Duration::from_millis(1);

/// Lets other requests of the core run after a bounded time of work.
pub struct YieldBudget {
    began: Instant,
}

impl Default for YieldBudget {
    fn default() -> Self {
        Self {
            began: Instant::now(),
        }
    }
}

impl YieldBudget {
    /// A piece of work has ended: lets others run if the time is over.
    pub async fn end(&mut self) {
        if self.began.elapsed() >= IN_A_ROW_MAX {
            rt::yield_now().await;
            self.began = Instant::now();
        }
    }
}

impl Core {
    /// Wakes polls for one commit after the other.
    pub(super) async fn wake_for_commits(self: Rc<Self>, commits: Rc<rt::Inbox<Arc<Commit>>>) {
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

    /// Answers the polls that a commit concerns.
    async fn wake(self: &Rc<Self>, commit: &Commit) {
        let mut budget = YieldBudget::default();
        // First, because callers that have lost their right must not see the commit.
        if !commit.entities[Kind::ApiToken as usize].is_empty() || !commit.streamers.is_empty() {
            self.end_without_right(&self.state(), &mut budget).await;
        }
        self.update_agents(commit, &mut budget).await;
        if self.index == 0 {
            self.shared.nodes.on_commit(commit);
        }
        self.wake_nodes(commit, &mut budget).await;
        self.wake_all_lists(commit, &mut budget).await;
    }

    /// Answers the streamers whose configuration changed.
    async fn wake_nodes(self: &Rc<Self>, commit: &Commit, budget: &mut YieldBudget) {
        for hostname in &commit.hostnames {
            let tickets = self.waiters.borrow().polls_of_node(hostname);
            for ticket in tickets {
                self.wake_node(ticket);
                budget.end().await;
            }
        }
    }

    /// Answers a parked poll for the configuration of a node, if that has changed.
    fn wake_node(self: &Rc<Self>, ticket: Ticket) {
        let state = self.state();
        let (answer, offloaded) = match self.waiters.borrow().node_poll(ticket) {
            Some((hostname, poll)) => {
                match config_external::wake(&self.shared, &state, hostname, poll) {
                    Wake::Unchanged => return,
                    Wake::Answer(answer) => (Some(answer), None),
                    Wake::Offload => (None, Some(OffloadedPoll::new(hostname, poll, &state))),
                }
            }
            None => return,
        };
        self.waiters.borrow_mut().remove(ticket);
        if let Some(answer) = answer {
            self.complete(ticket, answer.unwrap_or_else(Response::from));
        }
        if let Some(poll) = offloaded
            && let Answer::Reply(response) =
                self.start(ticket, Box::new(Offloaded::Poll(poll)), false)
        {
            self.complete(ticket, response);
        }
    }

    async fn wake_all_lists(self: &Rc<Self>, commit: &Commit, budget: &mut YieldBudget) {
        let (state, fleet) = (&commit.state, self.shared.fleet.view(Instant::now()));
        let around = self.shared.around(state, fleet);
        let touched = commit.streams.iter();
        let streams = touched
            .filter_map(|name| state.stream(name))
            .map(|stream| StreamDoc::new(stream, true, Some(around)));
        let of = Collection::Streams;
        self.wake_lists(of, &commit.streams, streams, budget).await;
        let touched = commit.streamers.iter();
        let streamers = touched
            .filter_map(|hostname| state.streamer(hostname))
            .map(|streamer| StreamerDoc::new(streamer, true, Some(fleet), state));
        let of = Collection::Streamers;
        self.wake_lists(of, &commit.streamers, streamers, budget)
            .await;
        for (kind, keys) in KINDS.into_iter().zip(&commit.entities) {
            let touched = keys.iter();
            let entities = touched
                .filter_map(|key| state.entities(kind).get(key))
                .map(|entity| EntityDoc::new(kind, entity, true));
            self.wake_lists(Collection::Entities(kind), keys, entities, budget)
                .await;
        }
        let chunks = commit.event_chunks.iter();
        let events = chunks
            .filter_map(|revision| state.events().get(revision))
            .flat_map(EventDoc::all);
        let of = Collection::Events;
        self.wake_lists(of, &commit.event_chunks, events, budget)
            .await;
    }

    /// Answers the polls whose lists one of the touched entities matches. `documents` are the
    /// touched entities, which are looked up only if there are such polls.
    async fn wake_lists<K: ToString, D: Document>(
        self: &Rc<Self>,
        of: Collection,
        touched: &[K],
        documents: impl Iterator<Item = D>,
        budget: &mut YieldBudget,
    ) {
        let parked = self.waiters.borrow().queries_about(of.subject(), touched);
        if parked.is_empty() {
            return;
        }
        let mut touched = Vec::new();
        for document in documents {
            touched.push(document);
            if touched.len() % COMPARED_IN_A_ROW == 0 {
                budget.end().await;
            }
        }
        for id in parked {
            let Some(poll) = self.waiters.borrow().query(id).cloned() else {
                continue;
            };
            if !matches_any(&poll.query, &touched, budget).await {
                continue;
            }
            let Some((_, tickets)) = self.waiters.borrow_mut().take_query(id) else {
                continue;
            };
            self.mark_answering(&tickets, &poll);
            let mut run = Run::new(of, poll.query.clone(), self.state(), &self.shared);
            if let Some(page) = run.step(&self.shared) {
                self.send_page(&poll, page, tickets, budget).await;
            } else {
                rt::spawn(self.clone().finish_poll(run, poll, tickets));
            }
        }
    }

    /// The rest of a long list for polls.
    async fn finish_poll(self: Rc<Self>, mut run: Run, poll: Rc<Poll>, tickets: Vec<Ticket>) {
        let page = loop {
            self.pass_for_polls(&mut run).await;
            let turn = self.lists.turns.next().await;
            let page = run.step(&self.shared);
            drop(turn);
            let Some(page) = page else {
                continue;
            };
            let newest = self.state();
            if page.items > 0 || Arc::ptr_eq(&newest, &run.state) {
                break page;
            }
            run = Run::new(poll.of, poll.query.clone(), newest, &self.shared);
        };
        self.send_page(&poll, page, tickets, &mut YieldBudget::default())
            .await;
    }

    /// Sends a page of the newest state to all polls for it. If it is empty, because the matching
    /// entity was deleted again, they are parked again.
    async fn send_page(
        self: &Rc<Self>,
        poll: &Poll,
        page: Page,
        tickets: Vec<Ticket>,
        budget: &mut YieldBudget,
    ) {
        if page.items == 0 {
            let waiting = |ticket: &Ticket| self.connections.is_waiting(*ticket);
            // Runs the lists that wait for reports again: some may have arrived meanwhile.
            if self.park(poll, tickets.iter().copied().filter(waiting), u64::MAX) {
                let mut answering = self.lists.answering.borrow_mut();
                for ticket in &tickets {
                    answering.remove(ticket);
                }
                return;
            }
        }
        let response = Response::json(200, page.into_body(""));
        if poll.complete.is_some() {
            let state = self.state();
            for ticket in tickets {
                self.lists.answering.borrow_mut().remove(&ticket);
                let answer = self.complete_page(ticket, poll.complete, response.clone(), &state);
                if let Answer::Reply(response) = answer {
                    self.complete(ticket, response);
                }
                budget.end().await;
            }
            return;
        }
        let has_form = |ticket: &Ticket| self.held.borrow().manner(*ticket).has_string_ids;
        let (own, tickets): (Vec<_>, Vec<_>) = tickets.into_iter().partition(has_form);
        for ticket in own {
            self.lists.answering.borrow_mut().remove(&ticket);
            self.complete(ticket, response.clone());
            budget.end().await;
        }
        if tickets.is_empty() {
            return;
        }
        let response = self.compressed_elsewhere(response, poll.accepts).await;
        let prepared: Prepared = self.connections.prepare(response, poll.accepts);
        for ticket in tickets {
            self.lists.answering.borrow_mut().remove(&ticket);
            if self.connections.is_full() && prepared.whole().len() > SMALL_BYTES {
                self.complete(ticket, error::BUFFERS_FULL.error().into());
                continue;
            }
            self.held.borrow_mut().end(ticket);
            if self.connections.complete_shared(ticket, &prepared) {
                self.count_answer(200);
                self.ended(ticket, 200);
            }
            budget.end().await;
        }
    }

    /// The response after another thread has compressed it, if that would take a core long.
    async fn compressed_elsewhere(&self, response: Response, accepts: Accepts) -> Response {
        let offload = &self.shared.workers.offload;
        if !response.is_long_to_compress(accepts) || !offload.has_room() {
            return response;
        }
        let (compressed, uncompressed) = (Arc::new(rt::Inbox::new()), response.clone());
        let results = compressed.clone();
        let work = move || results.push(response.compressed(accepts));
        match offload.run(uncompressed.body.bytes().len(), work) {
            Ok(()) => compressed.recv().await,
            Err(_) => uncompressed,
        }
    }

    fn mark_answering(&self, tickets: &[Ticket], poll: &Rc<Poll>) {
        let answering = tickets.iter().map(|ticket| (*ticket, poll.clone()));
        self.lists.answering.borrow_mut().extend(answering);
    }

    /// Runs the lists that depend on reports after each notification.
    pub(super) async fn wake_for_reports(self: Rc<Self>, reports: Rc<rt::Inbox<()>>) {
        loop {
            reports.recv().await;
            self.shared.watches.begin_run(self.index);
            let waiting = {
                let waiters = self.waiters.borrow();
                waiters.queries_where(|poll| poll.waits_for_reports())
            };
            if waiting.is_empty() {
                self.shared.watches.stop(self.index);
                continue;
            }
            let mut took = Duration::ZERO;
            for id in waiting {
                took += self.wake_if_matched(id).await;
            }
            rt::sleep(stats_watch::pause_after(took)).await;
        }
    }

    /// Has the scan threads make the next pass of a list for parked polls, if it reads all streams.
    /// Returns the time it took. A pass that fails is made by this core.
    async fn pass_for_polls(&self, run: &mut Run) -> Duration {
        let began = Instant::now();
        let client = ScanClient {
            ticket: None,
            began,
        };
        let _ = self.pass_in_parts(run, &client).await;
        began.elapsed()
    }

    /// Answers the polls for a list if an entity matches now. Returns the time it took.
    async fn wake_if_matched(self: &Rc<Self>, id: QueryId) -> Duration {
        let mut took = Duration::ZERO;
        let Some(poll) = self.waiters.borrow().query(id).cloned() else {
            return took;
        };
        let mut run = Run::new(poll.of, poll.query.clone(), self.state(), &self.shared);
        let page = loop {
            took += self.pass_for_polls(&mut run).await;
            let turn = self.lists.turns.next().await;
            let began = Instant::now();
            let page = run.step(&self.shared);
            took += began.elapsed();
            drop(turn);
            if let Some(page) = page {
                break page;
            }
        };
        if page.items == 0 {
            return took;
        }
        let Some((_, tickets)) = self.waiters.borrow_mut().take_query(id) else {
            return took;
        };
        self.mark_answering(&tickets, &poll);
        self.send_page(&poll, page, tickets, &mut YieldBudget::default())
            .await;
        took
    }

    /// Answers all parked polls early.
    pub(super) async fn end_polls(&self) {
        let parked = self.waiters.borrow().all();
        self.end_polls_of(parked).await;
    }

    /// Answers early the polls for configurations that would wait for longer than is allowed now.
    pub(super) async fn end_longer_polls(&self, wait_max: Duration) {
        let is_longer = |poll: &NodePoll| poll.wait > wait_max;
        let longer = self.waiters.borrow().node_polls_where(is_longer);
        self.end_polls_of(longer).await;
    }

    async fn end_polls_of(&self, polls: Vec<Ticket>) {
        let mut budget = YieldBudget::default();
        for ticket in polls {
            // A commit may have answered it meanwhile.
            if self.waiters.borrow().is_parked(ticket) {
                let response = self.timeout_answer(ticket);
                self.complete(ticket, response);
            }
            budget.end().await;
        }
    }

    /// The response to a waiting request at its deadline. Fails closed: only a poll for a list that
    /// may be empty gets an empty list.
    pub(super) fn timeout_answer(&self, ticket: Ticket) -> Response {
        self.held.borrow_mut().end(ticket);
        self.masked.borrow_mut().remove(&ticket);
        let delayed = self.pending.borrow_mut().take_delayed(ticket);
        if let Some(response) = delayed {
            return response;
        }
        if let Some(response) = self.pending_timeout(ticket) {
            return response;
        }
        let mut waiters = self.waiters.borrow_mut();
        let response = if let Some((hostname, poll)) = waiters.node_poll(ticket) {
            config_external::expire(&self.shared, &self.state(), hostname, poll)
        } else if self.lists.scanning.borrow().contains(&ticket) {
            // It is not known yet whether the list is empty.
            error::TOO_EXPENSIVE.error().into()
        } else if let Some(poll) = self
            .lists
            .answering
            .borrow_mut()
            .remove(&ticket)
            .or_else(|| waiters.query_of(ticket).cloned())
        {
            Response::json(200, empty_list(&poll.query))
        } else {
            error::TIMED_OUT.error().into()
        };
        waiters.remove(ticket);
        response
    }
}

async fn matches_any<D: Document>(query: &Query, touched: &[D], budget: &mut YieldBudget) -> bool {
    for part in touched.chunks(COMPARED_IN_A_ROW) {
        let is_match = part.iter().any(|document| query.matches(document));
        budget.end().await;
        if is_match {
            return true;
        }
    }
    false
}
