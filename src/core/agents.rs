//! The control connections of one core: their sessions, lines, commands and ends.
//!
//! A connection belongs to the core that accepted it. Commands are messages from the core of the
//! request, which receives the reply. An agent is sent to the streamer in its layout, and again
//! when a commit changes the layout.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Core, YieldBudget};
use crate::agents::messages::NewConnection;
use crate::agents::messages::{AgentMessage, ReplyAddress};
use crate::agents::protocol::{self, AgentEvent, AgentReply, AgentSession, CloseReason};
use crate::agents::registry::Presence;
use crate::agents::streampoint::{digest, secret_of, streampoint};
use crate::api::agent::offline;
use crate::api::call::Call;
use crate::api::control::append_event;
use crate::api::now_ms;
use crate::core::message::{CoreMessage, Reply};
use crate::error::{self, ApiError};
use crate::feed::Commit;
use crate::http::{Ended, Lines, Ticket, TicketMap, TicketSet};
use crate::state::State;
use crate::state::entity::{Key, Kind};
use crate::state::event::{EntityType, NewEvent};

/// The control connections of one core.
#[derive(Default)]
pub struct Control {
    sessions: TicketMap<ControlSession>,
    /// The newest connection of each agent on this core.
    by_id: HashMap<Arc<str>, Ticket>,
}

/// One control connection.
struct ControlSession {
    session: AgentSession<ReplyAddress>,
    presence: Arc<Presence>,
    /// Digest of the key that the agent proved to have.
    key_digest: [u8; 32],
    /// The streamer in the layout, whether or not it accepts agents.
    host: Option<Box<str>>,
}

impl Core {
    /// Registers a control connection; an older one of the same agent is ended.
    pub(super) fn open_control(&self, call: &Call<'_>, connection: NewConnection, greeting: usize) {
        let NewConnection {
            id,
            key_digest,
            host,
        } = connection;
        let (id, now_ms) = (&*id, now_ms());
        let registry = &self.shared.agents.presence;
        let peer = call.request.peer;
        let (presence, replaced) = registry.connect(id, self.index, call.ticket, peer, now_ms);
        if let Some(old) = replaced {
            self.send_to_core(
                old.core,
                AgentMessage::Disconnect {
                    to: old.ticket,
                    session: old.session,
                    reason: CloseReason::Replaced,
                    reply_to: None,
                },
            );
        }
        let mut control = self.control.borrow_mut();
        control.by_id.insert(presence.id.clone(), call.ticket);
        control.sessions.insert(
            call.ticket,
            ControlSession {
                session: AgentSession::default(),
                presence: presence.clone(),
                key_digest,
                host,
            },
        );
        append_event(
            &self.shared,
            NewEvent::new("agent_connected").entity(EntityType::Agent, id),
        );
        self.shared.reported();
        presence.sent(greeting);
    }

    fn send_to_core(&self, core: usize, message: AgentMessage) {
        if let Some(inbox) = self.shared.cores.get(core) {
            inbox.push(CoreMessage::Agent(message));
        }
    }

    fn reply_to_request(&self, reply_to: ReplyAddress, answer: Result<AgentReply, ApiError>) {
        if let Some(inbox) = self.shared.cores.get(reply_to.core) {
            inbox.push(CoreMessage::Completed {
                ticket: reply_to.ticket,
                part: 0,
                reply: Reply::Agent(answer),
            });
        }
    }

    /// Sends a command to an agent whose connection belongs to this core.
    pub(super) fn on_agent_message(&self, message: AgentMessage) {
        match message {
            AgentMessage::Request {
                to,
                session,
                request,
                reply_to,
            } => {
                let mut control = self.control.borrow_mut();
                let Some(held) = control.held(to, session) else {
                    return self.reply_to_request(reply_to, Err(offline()));
                };
                let now_ms = now_ms();
                let until_ms =
                    now_ms + self.shared.settings.api.agent_command_wait.as_millis() as u64;
                let mut line = Vec::new();
                match held
                    .session
                    .request(request, reply_to, now_ms, until_ms, &mut line)
                {
                    Ok(()) => {
                        held.presence.sent(line.len());
                        drop(control);
                        // If the connection has ended, `control_ended` answers the request.
                        self.connections.send_line(to, &line);
                    }
                    Err(reply_to) => self.reply_to_request(reply_to, Err(busy())),
                }
            }
            AgentMessage::Disconnect {
                to,
                session,
                reason,
                reply_to,
            } => {
                let there = self.control.borrow_mut().held(to, session).is_some();
                if there {
                    self.end_control(to, reason);
                }
                if let Some(reply_to) = reply_to {
                    let answer = if there {
                        Ok(AgentReply::Done)
                    } else {
                        Err(offline())
                    };
                    self.reply_to_request(reply_to, answer);
                }
            }
        }
    }

    /// Handles a line of an agent.
    pub(super) fn on_agent_line(&self, ticket: Ticket, line: &[u8], out: &mut Vec<u8>) -> Lines {
        let mut control = self.control.borrow_mut();
        let Some(held) = control.sessions.get_mut(&ticket) else {
            return Lines::End;
        };
        let (begin, now_ms) = (out.len(), now_ms());
        held.presence.received(line.len() + 1);
        let effect = held.session.on_line(line, now_ms, out);
        let mut replied = None;
        let went = |held: &ControlSession, alive: bool| {
            if let Some(host) = &held.host {
                held.presence.set_streampoint(host, alive, now_ms);
            }
        };
        match effect.event {
            None | Some(AgentEvent::Goodbye) => {}
            Some(AgentEvent::Hello(description)) => {
                held.presence.describe(description);
                self.send_to_streamer(held, &self.state(), now_ms, out);
            }
            Some(AgentEvent::Described(description)) => held.presence.describe(description),
            Some(AgentEvent::Counted(counters)) => held.presence.count(counters),
            Some(AgentEvent::StreampointUp) => went(held, true),
            Some(AgentEvent::StreampointDown | AgentEvent::StreampointFailed(_)) => {
                went(held, false);
            }
            Some(AgentEvent::Replied { token, reply, .. }) => replied = Some((token, reply)),
        }
        held.presence.sent(out.len() - begin);
        drop(control);
        if let Some((reply_to, reply)) = replied {
            self.reply_to_request(reply_to, Ok(reply));
        }
        match effect.close {
            Some(_) => Lines::End,
            None => Lines::Continue,
        }
    }

    /// Sends an agent to the streamer in its layout, unless it is there.
    fn send_to_streamer(
        &self,
        held: &mut ControlSession,
        state: &State,
        now_ms: u64,
        out: &mut Vec<u8>,
    ) {
        let wanted = streampoint(state, &held.presence.id);
        if wanted.url.is_none()
            && let Some(host) = &wanted.host
            && held.host != wanted.host
        {
            let event = NewEvent::new("agent_make_streampoint_location_error")
                .text("reason", "streamer_misses_streampoint_key")
                .text("streampoint", host)
                .entity(EntityType::Agent, &held.presence.id);
            append_event(&self.shared, event);
        }
        let to = wanted.url.as_deref().zip(wanted.host.as_deref());
        if held.session.send_to(to, out) {
            let host = wanted.host.as_deref().filter(|_| wanted.url.is_some());
            match (host, held.presence.streampoint()) {
                (Some(host), _) => held.presence.set_streampoint(host, false, now_ms),
                (None, Some(left)) => held.presence.set_streampoint(&left.hostname, false, now_ms),
                (None, None) => {}
            }
        }
        held.host = wanted.host;
    }

    /// Appends the reason why the server ends the connection, unless the peer ended it.
    pub(super) fn write_close_reason(&self, ticket: Ticket, why: Ended, out: &mut Vec<u8>) {
        let reason = match why {
            Ended::Silent => CloseReason::PingTimeout,
            Ended::LineLong => CloseReason::LineTooLong,
            Ended::Draining => CloseReason::ServerStopping,
            Ended::ByPeer | Ended::ByService | Ended::Stalled => return,
        };
        let begin = out.len();
        protocol::write_disconnect(reason, out);
        if let Some(held) = self.control.borrow().sessions.get(&ticket) {
            held.presence.sent(out.len() - begin);
        }
    }

    fn end_control(&self, ticket: Ticket, reason: CloseReason) {
        let mut line = Vec::new();
        protocol::write_disconnect(reason, &mut line);
        self.connections.end_lines(ticket, &line);
    }

    /// Removes a control connection that has ended.
    pub(super) fn control_ended(&self, ticket: Ticket, why: Ended) {
        let mut control = self.control.borrow_mut();
        let Some(held) = control.sessions.remove(&ticket) else {
            return;
        };
        let ControlSession {
            session, presence, ..
        } = held;
        if control.by_id.get(&presence.id) == Some(&ticket) {
            control.by_id.remove(&presence.id);
        }
        drop(control);
        self.shared.agents.presence.disconnect(&presence, now_ms());
        self.shared.reported();
        for reply_to in session.end() {
            let error = error::AGENT_CONNECTION_CLOSED.error();
            self.reply_to_request(reply_to, Err(error));
        }
        let (initiator, reason) = match why {
            // The stop of the server is logged instead.
            Ended::Draining => return,
            Ended::ByPeer => ("agent", Some("agent_closed_connection")),
            Ended::Silent => ("endpoint", Some("ping_timeout")),
            Ended::Stalled => ("endpoint", Some("set_write_deadline_fail")),
            Ended::ByService | Ended::LineLong => ("endpoint", None),
        };
        let event = NewEvent::new("agent_disconnected")
            .text("initiator", initiator)
            .maybe_text("reason", reason)
            .entity(EntityType::Agent, &presence.id);
        append_event(&self.shared, event);
    }

    /// Sends the changes of a commit to the agents of this core.
    pub(super) async fn update_agents(&self, commit: &Commit, budget: &mut YieldBudget) {
        for key in &commit.entities[Kind::DeletedAgent as usize] {
            let state = self.state();
            if self.index == 0 && state.entities(Kind::Agent).get(key).is_none() {
                let id = key.to_string();
                self.shared.agents.presence.forget(&id);
                self.shared.agents.nonces.forget(&id);
            }
        }
        let concerned: TicketSet = {
            let control = self.control.borrow();
            if control.sessions.is_empty() {
                return;
            }
            let touched = commit.entities[Kind::Agent as usize]
                .iter()
                .map(ToString::to_string);
            let ids = touched.chain(commit.agents.iter().map(ToString::to_string));
            let mut concerned: TicketSet = ids
                .filter_map(|id| control.by_id.get(id.as_str()).copied())
                .collect();
            if !commit.streamers.is_empty() {
                let moved = control.sessions.iter().filter(|(_, held)| {
                    held.host.as_deref().is_some_and(|host| {
                        let found = commit
                            .streamers
                            .binary_search_by(|moved| moved.as_str().cmp(host));
                        found.is_ok()
                    })
                });
                concerned.extend(moved.map(|(ticket, _)| *ticket));
            }
            concerned
        };
        for ticket in concerned {
            self.review_agent(ticket);
            budget.end().await;
        }
    }

    /// Ends or redirects a connected agent whose entity or layout changed.
    fn review_agent(&self, ticket: Ticket) {
        let state = self.state();
        let mut control = self.control.borrow_mut();
        let Some(held) = control.sessions.get_mut(&ticket) else {
            return;
        };
        let key = Key::trusted(Kind::Agent, &held.presence.id);
        let over = match state.entities(Kind::Agent).get(&key) {
            None => Some(CloseReason::Deleted),
            Some(agent) if digest(&secret_of(agent)) != held.key_digest => {
                Some(CloseReason::KeyChanged)
            }
            Some(_) => None,
        };
        if let Some(reason) = over {
            drop(control);
            return self.end_control(ticket, reason);
        }
        let mut out = Vec::new();
        self.send_to_streamer(held, &state, now_ms(), &mut out);
        if !out.is_empty() {
            held.presence.sent(out.len());
            drop(control);
            self.connections.send_line(ticket, &out);
        }
    }
}

impl Control {
    fn held(&mut self, ticket: Ticket, session: u64) -> Option<&mut ControlSession> {
        self.sessions
            .get_mut(&ticket)
            .filter(|held| held.presence.session == session)
    }
}

fn busy() -> ApiError {
    error::AGENT_BUSY.error()
}
