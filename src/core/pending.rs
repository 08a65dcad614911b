//! The table of pending requests: what waits for other servers, other threads or other cores.
//!
//! One entry per ticket. An entry is removed by its response, its deadline, the disconnection of
//! its client, or the loss of its caller's right. Dropping it cancels its calls.

use std::rc::Rc;

use super::bulk::{BulkReplies, BulkReply};
use super::{ANSWER_WAIT_MAX, Core};
use crate::api::call::{Context, Pending, Step};
use crate::core::message::Reply;
use crate::http::{Answer, Response, Ticket, TicketMap};

#[derive(Default)]
pub struct PendingRequests {
    requests: TicketMap<PendingRequest>,
    /// Refusals that are sent later.
    delayed: TicketMap<Response>,
    /// Bulk changes, which run by themselves.
    bulk: TicketMap<Rc<BulkReplies>>,
}

struct PendingRequest {
    /// Absent while it runs.
    pending: Option<Box<dyn Pending>>,
    /// The response masks secrets.
    masks: bool,
}

impl PendingRequests {
    pub fn remove(&mut self, ticket: Ticket) {
        self.requests.remove(&ticket);
        self.delayed.remove(&ticket);
        if let Some(bulk) = self.bulk.remove(&ticket) {
            bulk.push(BulkReply::Abandoned);
        }
    }

    /// Notes a bulk change. Returns where its replies arrive.
    pub(super) fn begin_bulk(&mut self, ticket: Ticket) -> Rc<BulkReplies> {
        self.bulk.entry(ticket).or_default().clone()
    }

    pub(super) fn end_bulk(&mut self, ticket: Ticket) {
        self.bulk.remove(&ticket);
    }

    /// Where the replies to a bulk change arrive; `None` for other tickets.
    pub(super) fn bulk(&self, ticket: Ticket) -> Option<Rc<BulkReplies>> {
        self.bulk.get(&ticket).cloned()
    }

    /// Keeps a response until the deadline of its request.
    pub fn delay(&mut self, ticket: Ticket, response: Response) {
        self.delayed.insert(ticket, response);
    }

    pub fn take_delayed(&mut self, ticket: Ticket) -> Option<Response> {
        self.delayed.remove(&ticket)
    }

    fn insert(&mut self, ticket: Ticket, pending: Box<dyn Pending>, masks: bool) {
        let pending = Some(pending);
        self.requests
            .insert(ticket, PendingRequest { pending, masks });
    }

    fn take(&mut self, ticket: Ticket) -> Option<Box<dyn Pending>> {
        self.requests.get_mut(&ticket)?.pending.take()
    }
}

impl Core {
    /// Starts a pending request.
    pub(super) fn start(
        self: &Rc<Self>,
        ticket: Ticket,
        mut pending: Box<dyn Pending>,
        masks: bool,
    ) -> Answer {
        let state = self.state();
        let step = pending.start(&self.context(ticket, &state));
        let deadline = Some(pending.wait(&self.shared.settings.api));
        match step {
            Step::Done(response) => return Answer::Reply(response),
            Step::Command(command) => {
                return match self.change(ticket, command, masks) {
                    Ok(()) => Answer::Wait {
                        deadline: Some(ANSWER_WAIT_MAX),
                    },
                    Err(error) => Answer::Reply(error.into()),
                };
            }
            Step::Wait => self.pending.borrow_mut().insert(ticket, pending, masks),
            Step::Replace(pending) => return self.start(ticket, pending, masks),
        }
        Answer::Wait { deadline }
    }

    pub(super) fn on_reply(self: &Rc<Self>, ticket: Ticket, part: usize, reply: Reply) {
        let bulk = self.pending.borrow().bulk(ticket);
        if let Some(bulk) = bulk {
            return bulk.push(BulkReply::Reply(reply));
        }
        let Some(mut pending) = self.pending.borrow_mut().take(ticket) else {
            // It was answered meanwhile.
            return;
        };
        let state = self.state();
        let step = pending.on_reply(part, reply, &self.context(ticket, &state));
        self.settle(ticket, pending, step);
    }

    /// The response of a pending request at its deadline; `None` for other tickets.
    pub(super) fn pending_timeout(&self, ticket: Ticket) -> Option<Response> {
        let mut pending = self.pending.borrow_mut().take(ticket)?;
        self.pending.borrow_mut().remove(ticket);
        let state = self.state();
        Some(pending.on_timeout(&self.context(ticket, &state)))
    }

    fn settle(self: &Rc<Self>, ticket: Ticket, pending: Box<dyn Pending>, step: Step) {
        match step {
            Step::Wait => self.put_back(ticket, pending),
            Step::Done(response) => {
                self.pending.borrow_mut().remove(ticket);
                self.complete(ticket, response);
            }
            Step::Command(command) => {
                let request = self.pending.borrow_mut().requests.remove(&ticket);
                let masks = request.is_some_and(|request| request.masks);
                // From here on the command can no longer be withdrawn.
                self.held.borrow_mut().remove(ticket);
                if let Err(error) = self.change(ticket, command, masks) {
                    self.complete(ticket, error.into());
                }
            }
            Step::Replace(pending) => self.replace(ticket, pending),
        }
    }

    fn replace(self: &Rc<Self>, ticket: Ticket, pending: Box<dyn Pending>) {
        let request = self.pending.borrow_mut().requests.remove(&ticket);
        let masks = request.is_some_and(|request| request.masks);
        if !pending.ends_with_right() {
            self.held.borrow_mut().remove(ticket);
        }
        if let Answer::Reply(response) = self.start(ticket, pending, masks) {
            self.complete(ticket, response);
        }
    }

    fn put_back(&self, ticket: Ticket, pending: Box<dyn Pending>) {
        if let Some(request) = self.pending.borrow_mut().requests.get_mut(&ticket) {
            request.pending = Some(pending);
        }
    }

    fn context<'a>(
        &'a self,
        ticket: Ticket,
        state: &'a crate::api::call::LocalState,
    ) -> Context<'a> {
        Context {
            shared: &self.shared,
            state,
            core: self.index,
            ticket,
        }
    }
}
