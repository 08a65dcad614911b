//! Agents: programs on cameras and routers that connect out and relay the video of sources behind
//! NAT.
//!
//! The document of an agent is its configuration, its layout (that of its streams, or its own while
//! no stream uses it) and the state of its connections. Only an administrator who reads one agent
//! sees its key; it is masked in lists and for other callers. A command is sent to the core that
//! holds the connection of the agent.

use std::borrow::Cow;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;

use super::call::{Call, Collection, Context, ListRequest, Outcome, Pending, Step};
use super::control::append_event;
use super::entity::{found, list_kind};
use super::shared::{ApiSettings, Shared};
use super::tagged::BodySource;
use crate::agents::messages::{AgentMessage, ReplyAddress};
use crate::agents::protocol::{self, AgentReply, AgentRequest, CloseReason};
use crate::agents::registry::Presence;
use crate::core::message::{CoreMessage, Reply};
use crate::error::{self, ApiError};
use crate::http::Response;
use crate::json::{Number, Value, scan, write_string};
use crate::query::params::{EngineParameter, Parameter, ValueKind};
use crate::query::{Document, Raw, Source};
use crate::schema;
use crate::state::State;
use crate::state::command::{Command, EntitySave, LayoutPatch, agent_layout_items, resets};
use crate::state::entity::{Entities, Key, Kind};
use crate::state::event::{EntityType, NewEvent};
use crate::state::record::EntityRecord;
use crate::state::tag::{EntityName, Versioned as _, take_item_conditions};
use std::time::Duration;

type Presences = OrdMap<Arc<str>, Arc<Presence>>;

/// What the document of an agent is rendered from besides its record.
#[derive(Clone, Copy)]
pub struct AgentContext<'a> {
    pub state: &'a State,
    pub presences: &'a Presences,
    /// The hostname of this server.
    pub server: &'a str,
}

/// An agent as the API shows it.
pub struct AgentDoc<'a> {
    agent: &'a EntityRecord,
    config: Cow<'a, str>,
    around: AgentContext<'a>,
}

impl<'a> AgentDoc<'a> {
    pub fn new(agent: &'a EntityRecord, masked: bool, around: AgentContext<'a>) -> Self {
        let config = agent.config.as_str();
        let config = if masked && agent.has_secrets {
            Cow::Owned(schema::agent().mask(config))
        } else {
            Cow::Borrowed(config)
        };
        Self {
            agent,
            config,
            around,
        }
    }

    fn write_layout(&self, out: &mut Vec<u8>) -> bool {
        let Some(layout) = self.around.state.agent_layout(&self.agent.key) else {
            return false;
        };
        let Some(ingest) = layout.ingest.as_ref() else {
            return false;
        };
        out.extend_from_slice(b"{\"created_at\":");
        let created_at = layout.created_at.to_native();
        out.extend_from_slice(itoa::Buffer::new().format(created_at).as_bytes());
        out.extend_from_slice(b",\"ingest\":");
        write_string(out, ingest);
        out.extend_from_slice(b",\"originator\":");
        let by_layouter = layout.by_layouter;
        write_string(out, if by_layouter { "layouter" } else { "other" });
        out.push(b'}');
        true
    }

    fn write_stats(&self, out: &mut Vec<u8>) -> bool {
        let presence = self.around.presences.get(self.agent.key.as_str());
        if let Some(presence) = presence {
            presence.write_stats(self.around.server, out);
        }
        presence.is_some()
    }

    fn write_streams(&self, out: &mut Vec<u8>) -> bool {
        let streams = self.around.state.streams_of_agent(&self.agent.key);
        let begin = out.len();
        for name in streams {
            out.push(if out.len() == begin { b'[' } else { b',' });
            write_string(out, name);
        }
        if out.len() == begin {
            return false;
        }
        out.push(b']');
        true
    }
}

/// A field that is rendered only when a query reads it.
fn rendered(write: impl FnOnce(&mut Vec<u8>) -> bool) -> Option<Raw<'static>> {
    let mut out = Vec::new();
    write(&mut out).then(|| {
        Raw::Json(Cow::Owned(
            String::from_utf8(out).expect("rendered JSON is UTF-8"),
        ))
    })
}

impl Document for AgentDoc<'_> {
    fn key(&self) -> &str {
        &self.agent.key
    }

    fn field(&self, name: &str) -> Option<Raw<'_>> {
        match name {
            "id" => Some(Raw::Text(&self.agent.key)),
            "updated_at" => {
                let stamp = self.agent.updated_at.to_native();
                Some(Raw::Number(Number::Unsigned(stamp)))
            }
            "layout" => rendered(|out| self.write_layout(out)),
            "stats" => rendered(|out| self.write_stats(out)),
            // For filters only: `stream_is=null` finds agents without streams.
            "stream" => rendered(|out| self.write_streams(out)),
            _ => scan::member(&self.config, name).map(|text| Raw::Json(Cow::Borrowed(text))),
        }
    }

    fn render(&self, out: &mut Vec<u8>) {
        out.reserve(self.config.len() + 1024);
        out.extend_from_slice(b"{\"id\":");
        write_string(out, &self.agent.key);
        if self.config.len() > 2 {
            out.push(b',');
            out.extend_from_slice(&self.config.as_bytes()[1..self.config.len() - 1]);
        }
        let begin = out.len();
        out.extend_from_slice(b",\"layout\":");
        if !self.write_layout(out) {
            out.truncate(begin);
        }
        out.extend_from_slice(b",\"stats\":");
        if !self.write_stats(out) {
            out.extend_from_slice(b"null");
        }
        out.extend_from_slice(b",\"updated_at\":");
        let stamp = self.agent.updated_at.to_native();
        out.extend_from_slice(itoa::Buffer::new().format(stamp).as_bytes());
        out.push(b'}');
    }
}

/// All agents of a state, as a source of the query engine.
pub struct AgentSource<'s> {
    agents: &'s Entities,
    around: AgentContext<'s>,
}

impl<'s> AgentSource<'s> {
    pub fn new(around: AgentContext<'s>) -> Self {
        Self {
            agents: around.state.entities(Kind::Agent),
            around,
        }
    }

    fn range<'a>(
        &'a self,
        range: (Bound<&str>, Bound<&str>),
    ) -> impl DoubleEndedIterator<Item = AgentDoc<'a>> {
        let key = |bound: Bound<&str>| bound.map(|key| Key::trusted(Kind::Agent, key));
        let found = self.agents.by_key().range((key(range.0), key(range.1)));
        found.map(|(_, agent)| AgentDoc::new(agent, true, self.around))
    }
}

impl Source for AgentSource<'_> {
    type Doc<'a>
        = AgentDoc<'a>
    where
        Self: 'a;

    fn count(&self) -> u64 {
        self.agents.by_key().len() as u64
    }

    fn get(&self, key: &str) -> Option<AgentDoc<'_>> {
        let key = Key::parse(Kind::Agent, key).ok()?;
        let agent = self.agents.get(&key)?;
        Some(AgentDoc::new(agent, true, self.around))
    }

    fn ascending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = AgentDoc<'a>> {
        self.range((from, Bound::Unbounded))
    }

    fn descending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = AgentDoc<'a>> {
        self.range((Bound::Unbounded, from)).rev()
    }
}

/// Renders one agent. `masked` hides its key.
pub fn render(
    agent: &EntityRecord,
    masked: bool,
    shared: &Shared,
    state: &State,
    out: &mut Vec<u8>,
) -> BodySource {
    let presences = shared.agents.presence.snapshot();
    let around = AgentContext {
        state,
        presences: &presences,
        server: &shared.identity.hostname,
    };
    AgentDoc::new(agent, masked, around).render(out);
    // Its connection, and the layout of its streams.
    BodySource::Moment
}

/// Parameters of `GET /agents`.
pub const LIST_PARAMETERS: &[&dyn Parameter] = &[&SEARCH, &STREAM];

const SEARCH: EngineParameter = EngineParameter::new(
    "q",
    ValueKind::Text,
    "Text to look for, in upper or lower case, in identifier, addresses, hardware address and \
     version.",
)
.example(r#""198.51.100.""#);
const STREAM: EngineParameter = EngineParameter::new(
    "stream",
    ValueKind::Text,
    "Only agents that the stream of this name uses.",
)
.example(r#""harbour/cam1""#);

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let query = call.query(list_kind(Kind::Agent))?;
    Ok(Outcome::List(ListRequest::new(
        Collection::Entities(Kind::Agent),
        query,
    )))
}

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let agent = found(call, Kind::Agent)?;
    let mut body = Vec::new();
    let source = render(agent, call.masks(), call.shared, call.state, &mut body);
    let answer = call.entity_answer(agent.tag(call.state), source, body)?;
    Ok(Outcome::Reply(answer))
}

pub fn save(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let key = call.key(Kind::Agent)?;
    let mut body = call.json()?;
    let layout = match &mut body {
        Value::Object(object) => object.remove("layout"),
        _ => None,
    };
    let mut layout = layout.map(|layout| LayoutPatch::from_body(&layout, "/layout"));
    if let Some(Ok(layout)) = &mut layout
        && resets(&body)
    {
        layout.replace_all();
    }
    let save = EntitySave::from_body(Kind::Agent, key, body, "")?;
    Ok(Outcome::Command(Command::SaveAgent {
        save,
        layout: layout.transpose()?,
    }))
}

/// Deletes the agent and all streams that use it.
pub fn delete(call: &Call<'_>) -> Result<Outcome, ApiError> {
    super::entity::delete(call, Kind::Agent)
}

pub fn set_layouts(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let mut body = call.json()?;
    let conditions = take_item_conditions(&mut body, "/layouts", "id", |id| {
        let key = Key::parse(Kind::Agent, id).ok()?;
        Some(EntityName::Entity(Kind::Agent, key))
    })?;
    let items = call.batch(agent_layout_items(body)?)?;
    Ok(Outcome::Batch(
        Command::SetAgentLayouts { items },
        conditions,
    ))
}

pub fn reboot(call: &Call<'_>) -> Result<Outcome, ApiError> {
    command(call, Some(AgentRequest::Reboot))
}

pub fn reset(call: &Call<'_>) -> Result<Outcome, ApiError> {
    command(call, Some(AgentRequest::Reset))
}

pub fn logs(call: &Call<'_>) -> Result<Outcome, ApiError> {
    command(call, Some(AgentRequest::Logs))
}

pub fn disconnect(call: &Call<'_>) -> Result<Outcome, ApiError> {
    command(call, None)
}

/// Sends a command to an agent. Without a request, its connection is closed.
fn command(call: &Call<'_>, request: Option<AgentRequest>) -> Result<Outcome, ApiError> {
    Ok(Outcome::Pending(Box::new(AgentCommand {
        presence: online(call)?,
        request,
        trace_id: call.trace_id(),
        user: call.user(),
    })))
}

/// A command to an agent that was sent and is not answered yet.
struct AgentCommand {
    presence: Arc<Presence>,
    /// `None`: disconnect.
    request: Option<AgentRequest>,
    trace_id: Box<str>,
    /// The name under which the caller is recorded.
    user: Box<str>,
}

impl Pending for AgentCommand {
    fn wait(&self, settings: &ApiSettings) -> Duration {
        settings.agent_command_wait
    }

    fn start(&mut self, context: &Context<'_>) -> Step {
        let reply_to = ReplyAddress {
            core: context.core,
            ticket: context.ticket,
        };
        let (to, session) = (self.presence.ticket, self.presence.session);
        let message = match self.request {
            Some(request) => AgentMessage::Request {
                to,
                session,
                request,
                reply_to,
            },
            None => AgentMessage::Disconnect {
                to,
                session,
                reason: CloseReason::Requested,
                reply_to: Some(reply_to),
            },
        };
        if let Some(inbox) = context.shared.cores.get(self.presence.core) {
            inbox.push(CoreMessage::Agent(message));
        }
        Step::Wait
    }

    fn on_reply(&mut self, _: usize, reply: Reply, context: &Context<'_>) -> Step {
        let Reply::Agent(reply) = reply else {
            return Step::Wait;
        };
        let closed = reply
            .as_ref()
            .is_err_and(|error| error.items[0].code == error::AGENT_CONNECTION_CLOSED.code);
        self.log(context.shared, closed.then_some("connection_closed"));
        Step::Done(match reply {
            Ok(AgentReply::Done) => Response::no_content(),
            Ok(AgentReply::Logs(object)) => {
                let mut body = Vec::new();
                protocol::filter_logs(&object, &self.presence.id).write(&mut body);
                Response::json(200, body)
            }
            Ok(AgentReply::Refused(reason)) => {
                error::AGENT_REFUSED.error().with("reason", reason).into()
            }
            Err(error) => error.into(),
        })
    }

    fn on_timeout(&mut self, context: &Context<'_>) -> Response {
        self.log(context.shared, Some("timeout"));
        error::AGENT_TIMEOUT.error().into()
    }
}

impl AgentCommand {
    /// Appends an event about a command. Reading logs changes nothing and is not recorded.
    fn log(&self, shared: &Shared, error: Option<&'static str>) {
        let command = match self.request {
            None => "disconnect",
            Some(AgentRequest::Logs) => return,
            Some(request) => request.as_str(),
        };
        let event = NewEvent::new("agent_command_handling")
            .text("command", command)
            .maybe_text("error", error)
            .text("initiator", "endpoint")
            .text("trace_id", &self.trace_id)
            .text("user", &self.user)
            .entity(EntityType::Agent, &self.presence.id);
        append_event(shared, event);
    }
}

/// The connection of the agent in the path, or 404 or the error for an agent that is not connected.
fn online(call: &Call<'_>) -> Result<Arc<Presence>, ApiError> {
    let agent = found(call, Kind::Agent)?;
    let presence = call.shared.agents.presence.online(&agent.key);
    presence.ok_or_else(offline)
}

/// The error for a command to an agent that is not connected.
pub fn offline() -> ApiError {
    error::AGENT_OFFLINE.error()
}
