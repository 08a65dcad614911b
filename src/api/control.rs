//! Control connections of agents: who may open one, what is heard on it, and commands on their way to it.
//!
//! A connection lives on one core, with its [`Session`]. The registry of `fleet` says on which; everything else goes by message: a command to
//! the core of the connection, its answer back to the core whose request waits. An agent is sent to the streamer that takes its video, and
//! told again when a commit changes that. What is spoken is `agents::protocol`, what agents are is `agent`'s.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use super::agent::{AgentDoc, Surroundings, offline};
use super::{Call, Core, Outcome, Turn, now_ms};
use crate::agents::handshake::{AGENT_NONCE_BYTES_MAX, RejectedProof, server_proof};
use crate::agents::messages::{Asker, Message};
use crate::agents::protocol::{self, Fact, PROTOCOL, Reason, Reply, Request, Session};
use crate::agents::registry::Presence;
use crate::error::{self, ApiError};
use crate::feed::Commit;
use crate::http::response::TEXT;
use crate::http::{Body, Ended, Lines, Response, Ticket, Upgrade};
use crate::json::scan;
use crate::query::Document as _;
use crate::state::State;
use crate::state::command::Command;
use crate::state::entity::{Key, Kind};
use crate::state::event::{EntityType, NewEvent};
use crate::state::record::EntityRecord;
use crate::writer::{CoreMessage, Envelope};

/// Refused handshakes that are put into the event log, per core and second: whoever guesses keys must not fill it.
const REFUSALS_NOTED_PER_SECOND: u32 = 10;

/// What one core knows of agents. Owned by that core.
#[derive(Default)]
pub struct Control {
    sessions: HashMap<Ticket, Held>,
    /// The newest connection of each agent on this core.
    by_id: HashMap<Arc<str>, Ticket>,
    /// Requests of this core that wait for an agent's answer.
    calls: HashMap<Ticket, Asked>,
    refusals: Refusals,
}

/// One control connection.
struct Held {
    session: Session<Asker>,
    presence: Arc<Presence>,
    /// Of the key it proved to know.
    key_digest: [u8; 32],
    /// The streamer its layout names, whether or not agents can be sent there.
    host: Option<Box<str>>,
}

struct Asked {
    id: Arc<str>,
    /// Nothing for a disconnect.
    request: Option<Request>,
    trace_id: Box<str>,
    /// Under what name the asker was let in.
    user: Box<str>,
}

#[derive(Default)]
struct Refusals {
    second: Option<Instant>,
    noted: u32,
}

impl Refusals {
    fn may_note(&mut self) -> bool {
        let now = Instant::now();
        let fresh = self
            .second
            .is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1));
        if fresh {
            self.second = Some(now);
            self.noted = 0;
        }
        self.noted += 1;
        self.noted <= REFUSALS_NOTED_PER_SECOND
    }
}

/// `POST /endpoint/connect`: the handshake, and the upgrade if the agent asks for it.
pub fn connect(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let Core { shared, .. } = call.core;
    let header = |name| {
        let value = std::str::from_utf8(call.request.headers.get(name)?).ok()?;
        Some(value.trim())
    };
    let id = header("x-peeklio-id").ok_or_else(unknown)?;
    let key = Key::parse(Kind::Agent, id).map_err(|_| unknown())?;
    let living = call.state.entities(Kind::Agent).get(&key);
    let deleted = call.state.entities(Kind::DeletedAgent).get(&key);
    let agent = living.or(deleted).ok_or_else(unknown)?;
    let secret = secret_of(agent);
    if secret.is_empty() {
        return Err(failed());
    }
    let now_ms = now_ms();
    let nonce = header("x-nonce");
    let (Some(proof), Some(nonce)) = (call.request.headers.authorization().and_then(proof), nonce)
    else {
        return Ok(Outcome::Reply(challenge(call, id, &secret, nonce, now_ms)));
    };
    let judged = shared
        .agents
        .nonces
        .verify(id, &secret, nonce.as_bytes(), proof, now_ms);
    match judged {
        Ok(()) => {}
        Err(RejectedProof::Nonce) => {
            return Ok(Outcome::Reply(challenge(call, id, &secret, None, now_ms)));
        }
        Err(RejectedProof::Key) => {
            if call.core.control.borrow_mut().refusals.may_note() {
                let event = NewEvent::new("agent_connect_failed")
                    .text("reason", "authentication_failed")
                    .entity(EntityType::Agent, id);
                call.core.note(event);
            }
            return Err(failed());
        }
    }
    if living.is_none() {
        let response = authorized().header("X-Force-Reset", "true");
        return Ok(Outcome::Reply(response));
    }
    let streampoint = streampoint(call.state, id);
    let url = streampoint.url.map(|url| ("X-Streampoint-Url", url.into()));
    if !call.request.asks_for(PROTOCOL) {
        let mut response = authorized();
        response.headers.extend(url);
        return Ok(Outcome::Reply(response));
    }
    if shared.draining.load(Ordering::Acquire) {
        let title = "The server is stopping; connect again";
        return Err(error::SHUTTING_DOWN.titled(title));
    }
    let silence_max = shared.settings.agent_silence_max;
    let greeting = protocol::greeting(env!("CARGO_PKG_VERSION"), silence_max, now_ms);
    call.core
        .open_control(call, id, digest(&secret), streampoint.host, now_ms)
        .sent(greeting.len());
    Ok(Outcome::Upgrade(Upgrade {
        protocol: PROTOCOL,
        headers: url.into_iter().collect(),
        greeting,
        silence_max,
    }))
}

fn unknown() -> ApiError {
    error::AGENT_UNKNOWN.titled("No agent of this id may connect")
}

fn failed() -> ApiError {
    error::AUTHENTICATION_FAILED.error()
}

fn authorized() -> Response {
    Response::with_body(200, TEXT, Body::Owned(b"authorized".to_vec()))
}

/// The value of `Authorization: Peeklio`.
fn proof(authorization: &[u8]) -> Option<&[u8]> {
    let space = authorization.iter().position(|&byte| byte == b' ')?;
    let (scheme, value) = authorization.split_at(space);
    scheme
        .eq_ignore_ascii_case(b"peeklio")
        .then(|| value.trim_ascii())
}

/// 401 with what an agent needs to prove itself, and our proof to it. `own` is a nonce of the agent's own.
fn challenge(call: &Call<'_>, id: &str, key: &str, own: Option<&str>, now_ms: u64) -> Response {
    let challenge = call.core.shared.agents.nonces.challenge(id, now_ms);
    let own = own.filter(|own| own.len() <= AGENT_NONCE_BYTES_MAX);
    let proof = server_proof(&challenge, key, own);
    let error =
        error::AGENT_CHALLENGE.titled("Prove that you know the key: see X-Nonce and X-Salt");
    let mut response = Response::from(error);
    // Nothing of what else opens the API opens this.
    response
        .headers
        .retain(|(name, _)| *name != "WWW-Authenticate");
    response
        .header("WWW-Authenticate", "Peeklio")
        .header("X-Nonce", challenge.nonce)
        .header("X-Salt", challenge.salt)
        .header("X-Agentauth", proof)
}

fn secret_of(agent: &EntityRecord) -> Cow<'_, str> {
    scan::member(&agent.config, "key")
        .and_then(scan::string)
        .unwrap_or_default()
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Where an agent is to send its video.
#[derive(Default, PartialEq, Eq, Debug)]
struct Streampoint {
    /// The streamer its layout names.
    host: Option<Box<str>>,
    /// Nothing if that streamer takes no agents.
    url: Option<String>,
}

/// Where an agent is to send its video: to the public address of its streamer, with the key that lets agents in.
fn streampoint(state: &State, id: &str) -> Streampoint {
    let Some(host) = state
        .agent_layout(id)
        .and_then(|layout| layout.ingest.as_ref())
    else {
        return Streampoint::default();
    };
    Streampoint {
        host: Some(Box::from(host.as_str())),
        url: streampoint_url(state, host),
    }
}

/// Whether a streamer has a key that lets agents in.
pub(super) fn lets_agents_in(state: &State, host: &str) -> bool {
    streampoint_url(state, host).is_some()
}

fn streampoint_url(state: &State, host: &str) -> Option<String> {
    let config = state.streamer(host)?.config.as_str();
    let rproxy = scan::member(config, "config").and_then(|config| scan::member(config, "rproxy"));
    let key = rproxy
        .and_then(|rproxy| scan::member(rproxy, "streampoint_key"))
        .and_then(scan::string)
        .filter(|key| !key.is_empty())?;
    let given = ["public_payload_url", "api_url"]
        .into_iter()
        .filter_map(|field| scan::member(config, field).and_then(scan::string))
        .find_map(|url| base_of(&url));
    let base = given.unwrap_or_else(|| format!("http://{host}"));
    let key = utf8_percent_encode(&key, NON_ALPHANUMERIC);
    let url = format!("{base}/?streampoint_key={key}");
    // It goes into a field of a head.
    url.bytes()
        .all(|byte| byte.is_ascii_graphic())
        .then_some(url)
}

/// Scheme and authority of a URL, without credentials.
fn base_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let scheme = if scheme.eq_ignore_ascii_case("https") {
        "https"
    } else {
        "http"
    };
    (!authority.is_empty()).then(|| format!("{scheme}://{authority}"))
}

impl Core {
    /// An agent as the API shows it. `masked` hides its key.
    pub fn render_agent(&self, agent: &EntityRecord, masked: bool, state: &State) -> Vec<u8> {
        let presences = self.shared.agents.presence.snapshot();
        let around = Surroundings {
            state,
            presences: &presences,
            server: &self.shared.hostname,
        };
        let mut body = Vec::new();
        AgentDoc::new(agent, masked, around).render(&mut body);
        body
    }

    fn open_control(
        &self,
        call: &Call<'_>,
        id: &str,
        key_digest: [u8; 32],
        host: Option<Box<str>>,
        now_ms: u64,
    ) -> Arc<Presence> {
        let registry = &self.shared.agents.presence;
        let peer = call.request.peer;
        let (presence, replaced) = registry.connect(id, self.index, call.ticket, peer, now_ms);
        if let Some(old) = replaced {
            self.tell_core(
                old.core,
                Message::Disconnect {
                    to: old.ticket,
                    session: old.session,
                    reason: Reason::Replaced,
                    asker: None,
                },
            );
        }
        let mut control = self.control.borrow_mut();
        control.by_id.insert(presence.id.clone(), call.ticket);
        control.sessions.insert(
            call.ticket,
            Held {
                session: Session::default(),
                presence: presence.clone(),
                key_digest,
                host,
            },
        );
        self.note(NewEvent::new("agent_connected").entity(EntityType::Agent, id));
        self.shared.reported();
        presence
    }

    /// Asks an agent for something; the request waits for the answer at most as long as returned.
    pub fn ask_agent(&self, call: &Call<'_>, presence: &Presence, request: Request) -> Duration {
        let asker = self.wait_for_agent(call, presence, Some(request));
        self.tell_core(
            presence.core,
            Message::Ask {
                to: presence.ticket,
                session: presence.session,
                request,
                asker,
            },
        );
        self.shared.settings.agent_command_wait
    }

    /// Ends the control connection of an agent; the request waits for that.
    pub fn disconnect_agent(
        &self,
        call: &Call<'_>,
        presence: &Presence,
        reason: Reason,
    ) -> Duration {
        let asker = self.wait_for_agent(call, presence, None);
        self.tell_core(
            presence.core,
            Message::Disconnect {
                to: presence.ticket,
                session: presence.session,
                reason,
                asker: Some(asker),
            },
        );
        self.shared.settings.agent_command_wait
    }

    fn wait_for_agent(
        &self,
        call: &Call<'_>,
        presence: &Presence,
        request: Option<Request>,
    ) -> Asker {
        let asked = Asked {
            id: presence.id.clone(),
            request,
            trace_id: self.trace_id(call),
            user: self.user(call),
        };
        self.control.borrow_mut().calls.insert(call.ticket, asked);
        Asker {
            core: self.index,
            ticket: call.ticket,
        }
    }

    fn tell_core(&self, core: usize, message: Message) {
        if let Some(inbox) = self.shared.cores.get(core) {
            inbox.push(CoreMessage::Agent(message));
        }
    }

    fn answer_asker(&self, asker: Asker, answer: Result<Reply, ApiError>) {
        let ticket = asker.ticket;
        self.tell_core(asker.core, Message::Answer { ticket, answer });
    }

    /// Puts something into the event log, if there is room for it.
    pub(super) fn note(&self, event: NewEvent) {
        let command = Command::AppendEvents {
            events: vec![event],
        };
        let noted = self.shared.commands.send(Envelope::unanswered(command));
        if let Err(error) = noted {
            tracing::debug!(title = %error.items[0].title, "an event about an agent is not in the log");
        }
    }

    /// What another core, or this one, has to tell about an agent.
    pub(super) fn heed(&self, message: Message) {
        match message {
            Message::Ask {
                to,
                session,
                request,
                asker,
            } => {
                let mut control = self.control.borrow_mut();
                let Some(held) = control.held(to, session) else {
                    return self.answer_asker(asker, Err(offline()));
                };
                let now_ms = now_ms();
                let until_ms = now_ms + self.shared.settings.agent_command_wait.as_millis() as u64;
                let mut line = Vec::new();
                match held
                    .session
                    .ask(request, asker, now_ms, until_ms, &mut line)
                {
                    Ok(()) => {
                        held.presence.sent(line.len());
                        drop(control);
                        // If it is over, whoever waits is told when its end is.
                        self.connections.send_line(to, &line);
                    }
                    Err(asker) => self.answer_asker(asker, Err(busy())),
                }
            }
            Message::Disconnect {
                to,
                session,
                reason,
                asker,
            } => {
                let there = self.control.borrow_mut().held(to, session).is_some();
                if there {
                    self.end_control(to, reason);
                }
                if let Some(asker) = asker {
                    let answer = if there {
                        Ok(Reply::Done)
                    } else {
                        Err(offline())
                    };
                    self.answer_asker(asker, answer);
                }
            }
            Message::Answer { ticket, answer } => {
                let Some(asked) = self.control.borrow_mut().calls.remove(&ticket) else {
                    // It took too long and has been told so.
                    return;
                };
                let closed = matches!(&answer, Err(error) if error.items[0].code == "agent_connection_closed");
                self.note_command(&asked, closed.then_some("connection_closed"));
                let response = match answer {
                    Ok(Reply::Done) => Response::no_content(),
                    Ok(Reply::Logs(object)) => {
                        let mut body = Vec::new();
                        protocol::logs(&object, &asked.id).write(&mut body);
                        Response::json(200, body)
                    }
                    Ok(Reply::Refused(reason)) => {
                        let error = error::AGENT_REFUSED.titled("The agent refused it");
                        Response::from(error.with("reason", reason))
                    }
                    Err(error) => Response::from(error),
                };
                self.complete(ticket, response);
            }
        }
    }

    /// Commands that the event log knows: those that do something to the agent.
    fn note_command(&self, asked: &Asked, error: Option<&'static str>) {
        let command = match asked.request {
            None => "disconnect",
            Some(Request::Logs) => return,
            Some(request) => request.as_str(),
        };
        let event = NewEvent::new("agent_command_handling")
            .text("command", command)
            .maybe_text("error", error)
            .text("initiator", "endpoint")
            .text("trace_id", &asked.trace_id)
            .text("user", &asked.user)
            .entity(EntityType::Agent, &asked.id);
        self.note(event);
    }

    /// The time of a request that waits for an agent is over, if this is one.
    pub(super) fn agent_is_late(&self, ticket: Ticket) -> Option<Response> {
        let asked = self.control.borrow_mut().calls.remove(&ticket)?;
        self.note_command(&asked, Some("timeout"));
        let title =
            "The agent has not answered in time; it may or may not have done what was asked";
        Some(error::AGENT_TIMEOUT.titled(title).into())
    }

    /// Nobody waits for an agent's answer any more.
    pub(super) fn forget_agent_call(&self, ticket: Ticket) {
        self.control.borrow_mut().calls.remove(&ticket);
    }

    /// A line of an agent.
    pub(super) fn hear(&self, ticket: Ticket, line: &[u8], out: &mut Vec<u8>) -> Lines {
        let mut control = self.control.borrow_mut();
        let Some(held) = control.sessions.get_mut(&ticket) else {
            return Lines::End;
        };
        let (begin, now_ms) = (out.len(), now_ms());
        held.presence.received(line.len() + 1);
        let heard = held.session.line(line, now_ms, out);
        let mut replied = None;
        let went = |held: &Held, alive: bool| {
            if let Some(host) = &held.host {
                held.presence.set_streampoint(host, alive, now_ms);
            }
        };
        match heard.fact {
            None | Some(Fact::Goodbye) => {}
            Some(Fact::Hello(description)) => {
                held.presence.describe(description);
                self.send_to_streamer(held, &self.state(), now_ms, out);
            }
            Some(Fact::Described(description)) => held.presence.describe(description),
            Some(Fact::Counted(counters)) => held.presence.count(counters),
            Some(Fact::StreampointUp) => went(held, true),
            Some(Fact::StreampointDown | Fact::StreampointFailed(_)) => went(held, false),
            Some(Fact::Replied { token, reply, .. }) => replied = Some((token, reply)),
        }
        held.presence.sent(out.len() - begin);
        drop(control);
        if let Some((asker, reply)) = replied {
            self.answer_asker(asker, Ok(reply));
        }
        match heard.ends {
            Some(_) => Lines::End,
            None => Lines::Continue,
        }
    }

    /// Sends an agent where its layout says, if it is not there.
    fn send_to_streamer(&self, held: &mut Held, state: &State, now_ms: u64, out: &mut Vec<u8>) {
        let wanted = streampoint(state, &held.presence.id);
        if wanted.url.is_none()
            && let Some(host) = &wanted.host
            && held.host != wanted.host
        {
            let event = NewEvent::new("agent_make_streampoint_location_error")
                .text("reason", "streamer_misses_streampoint_key")
                .text("streampoint", host)
                .entity(EntityType::Agent, &held.presence.id);
            self.note(event);
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

    /// Why the server hangs up, as far as it is the connection's own doing.
    pub(super) fn say_farewell(&self, ticket: Ticket, why: Ended, out: &mut Vec<u8>) {
        let reason = match why {
            Ended::Silent => Reason::PingTimeout,
            Ended::LineLong => Reason::LineTooLong,
            Ended::Draining => Reason::ServerStopping,
            Ended::ByPeer | Ended::ByService | Ended::Stalled => return,
        };
        let begin = out.len();
        protocol::farewell(reason, out);
        if let Some(held) = self.control.borrow().sessions.get(&ticket) {
            held.presence.sent(out.len() - begin);
        }
    }

    fn end_control(&self, ticket: Ticket, reason: Reason) {
        let mut line = Vec::new();
        protocol::farewell(reason, &mut line);
        self.connections.end_lines(ticket, &line);
    }

    /// A control connection is over.
    pub(super) fn control_ended(&self, ticket: Ticket, why: Ended) {
        let mut control = self.control.borrow_mut();
        let Some(held) = control.sessions.remove(&ticket) else {
            return;
        };
        let Held {
            session, presence, ..
        } = held;
        if control.by_id.get(&presence.id) == Some(&ticket) {
            control.by_id.remove(&presence.id);
        }
        drop(control);
        self.shared.agents.presence.disconnect(&presence, now_ms());
        self.shared.reported();
        for (asker, _) in session.end() {
            let title = "The connection to the agent ended before it answered; it may or may not have done what was asked";
            let error = error::AGENT_CONNECTION_CLOSED.titled(title);
            self.answer_asker(asker, Err(error));
        }
        let (initiator, reason) = match why {
            // The log has the end of the server instead.
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
        self.note(event);
    }

    /// Tells agents of this core what a commit changes for them.
    pub(super) async fn tell_agents(&self, commit: &Commit, turn: &mut Turn) {
        for key in &commit.entities[Kind::DeletedAgent as usize] {
            let state = self.state();
            if self.index == 0 && state.entities(Kind::Agent).get(key).is_none() {
                let id = key.to_string();
                self.shared.agents.presence.forget(&id);
                self.shared.agents.nonces.forget(&id);
            }
        }
        let concerned: HashSet<Ticket> = {
            let control = self.control.borrow();
            if control.sessions.is_empty() {
                return;
            }
            let touched = commit.entities[Kind::Agent as usize]
                .iter()
                .map(ToString::to_string);
            let ids = touched.chain(commit.agents.iter().map(ToString::to_string));
            let mut concerned: HashSet<Ticket> = ids
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
            self.review(ticket);
            turn.sent().await;
        }
    }

    /// Looks at what a connected agent is now.
    fn review(&self, ticket: Ticket) {
        let state = self.state();
        let mut control = self.control.borrow_mut();
        let Some(held) = control.sessions.get_mut(&ticket) else {
            return;
        };
        let key = Key::trusted(Kind::Agent, &held.presence.id);
        let over = match state.entities(Kind::Agent).get(&key) {
            None => Some(Reason::Deleted),
            Some(agent) if digest(&secret_of(agent)) != held.key_digest => Some(Reason::KeyChanged),
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
    fn held(&mut self, ticket: Ticket, session: u64) -> Option<&mut Held> {
        self.sessions
            .get_mut(&ticket)
            .filter(|held| held.presence.session == session)
    }
}

fn busy() -> ApiError {
    error::AGENT_BUSY.error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streampoint_url_has_no_credentials_and_one_scheme_of_two() {
        for (url, expected) in [
            ("http://h:8080", Some("http://h:8080")),
            ("https://u:p@h/path?q", Some("https://h")),
            ("m4s://h", Some("http://h")),
            ("h:8080", None),
            ("http://", None),
        ] {
            assert_eq!(base_of(url).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn the_scheme_of_a_proof_is_read_without_case() {
        assert_eq!(proof(b"Peeklio abc "), Some(&b"abc"[..]));
        assert_eq!(proof(b"PEEKLIO  abc"), Some(&b"abc"[..]));
        for other in [&b"Bearer abc"[..], b"Peeklio", b"", b"Peeklioabc"] {
            assert_eq!(proof(other), None);
        }
    }

    #[test]
    fn refusals_are_noted_up_to_a_rate() {
        let mut refusals = Refusals::default();
        let noted = (0..1000).filter(|_| refusals.may_note()).count();
        // A second that begins in between allows as many again.
        assert!((10..1000).contains(&noted), "{noted}");
    }
}
