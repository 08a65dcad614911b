//! The event log: changes with their authors and decisions of the server, in durable order.
//!
//! The events of a batch are one record, written in the batch's own transaction: an event without
//! its change, or a change without its event, cannot be on disk. The log is bounded by age and by
//! size, in whole batches, and holds no secret: an event names operations and keys, not bodies.

use std::net::IpAddr;
use std::time::Instant;

use super::event_streams::stream_digest;
use super::record::EventChunkRecord;
use crate::json::{Value, write_string};

/// Elements of a list in an event, such as the entities of a batch, and their bytes.
pub const LIST_MAX: usize = 100;
pub const LIST_BYTES_MAX: usize = 16 * 1024;
/// Most events of one batch. The id of an event is its revision times this, plus its index.
pub const EVENTS_PER_BATCH_MAX: u64 = 1 << 16;

/// The kinds of events, those of the reference first.
pub const EVENT_KINDS: [&str; 28] = [
    "server_starting",
    "server_started",
    "database_error",
    API_CALL,
    "agent_command_handling",
    "agent_connect_failed",
    "agent_connected",
    "agent_disconnected",
    "agent_make_streampoint_location_error",
    "layouter_process_agents_success",
    "layouter_process_agents_error",
    "layouter_process_streams_success",
    "layouter_process_streams_error",
    "layouter_entity_fetched",
    "layouter_processing_result",
    "layouter_fetching_started",
    "layouter_streamer_state",
    "layouter_cpu_pressure",
    "layouter_brake_on",
    "layouter_brake_off",
    "layouter_streamer_drained",
    "layouter_drain_overdue",
    "layouter_stream_held",
    "layouter_stream_released",
    "layouter_paused",
    "layouter_resumed",
    "clock_doubted",
    "clock_believed",
];

/// Bounds of the event log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventLimits {
    pub age_ms_max: u64,
    /// Bytes of text; 0 keeps no events.
    pub bytes_max: usize,
}

impl Default for EventLimits {
    fn default() -> Self {
        Self {
            age_ms_max: 30 * 24 * 3600 * 1000,
            bytes_max: 32 << 20,
        }
    }
}

/// The caller of a change and the request it was made with.
#[derive(Debug, Clone)]
pub struct Audit {
    /// The operation's id in the API's description.
    pub operation: &'static str,
    /// Without the query.
    pub path: Box<str>,
    pub subject: AuditSubject,
    /// `X-Originator`: the program that the caller claims to be.
    pub originator: Option<Box<str>>,
    /// `X-Trace-Id`, or one generated here.
    pub trace_id: Box<str>,
    /// The name under which the caller was authorized.
    pub user: Box<str>,
    pub ip: IpAddr,
    pub user_agent: Option<Box<str>>,
    pub received: Instant,
}

/// The subject of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditSubject {
    Entity(EntityType, Box<str>),
    /// Many entities of this kind.
    Batch(EntityType),
    Other,
}

/// The kinds of entities that an event can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntityType {
    Agent,
    Stream,
    Streamer,
}

impl EntityType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Stream => "stream",
            Self::Streamer => "streamer",
        }
    }
}

/// An event without id and time: its kind and its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub event: &'static str,
    /// The values of the members, one after the other: the writer makes an event for each save, and
    /// a text for each value would cost it as many allocations.
    values: Vec<u8>,
    members: Vec<EventMember>,
    /// Digests of the streams that it is about, in any order.
    pub streams: Vec<u64>,
}

/// A member of an event: its name, and where its value is in the text of all values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EventMember {
    name: &'static str,
    begin: usize,
    end: usize,
}

impl NewEvent {
    /// `event` is one of [`EVENT_KINDS`].
    pub fn new(event: &'static str) -> Self {
        debug_assert!(EVENT_KINDS.contains(&event), "`{event}` is no kind");
        Self {
            event,
            values: Vec::new(),
            members: Vec::new(),
            streams: Vec::new(),
        }
    }

    /// The streams by which the event is found, shown in it or not.
    #[must_use]
    pub fn about_streams<'a>(mut self, names: impl Iterator<Item = &'a str>) -> Self {
        self.streams.extend(names.map(stream_digest));
        self
    }

    #[must_use]
    pub fn text(self, name: &'static str, value: &str) -> Self {
        self.written(name, |out| write_string(out, value))
    }

    #[must_use]
    pub fn number(self, name: &'static str, value: u64) -> Self {
        self.json(name, itoa::Buffer::new().format(value))
    }

    /// `value` is canonical JSON.
    #[must_use]
    pub fn json(self, name: &'static str, value: &str) -> Self {
        self.written(name, |out| out.extend_from_slice(value.as_bytes()))
    }

    fn written(mut self, name: &'static str, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let begin = self.values.len();
        write(&mut self.values);
        let end = self.values.len();
        self.members.push(EventMember { name, begin, end });
        self
    }

    #[must_use]
    pub fn maybe_text(self, name: &'static str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    #[must_use]
    pub fn entity(self, of: EntityType, id: &str) -> Self {
        self.text("entity_id", id).text("entity_type", of.as_str())
    }

    /// A member as canonical JSON.
    pub fn member(&self, name: &str) -> Option<&str> {
        let found = self.members.iter().find(|member| member.name == name)?;
        let value = std::str::from_utf8(&self.values[found.begin..found.end]);
        Some(value.expect("written JSON is UTF-8"))
    }

    /// The members as a JSON object, to be kept until the event is logged.
    pub fn text_of_members(&self) -> String {
        self.object()
    }

    /// The event of an API call again, from the members that were kept.
    pub fn api_call_of(members: &Value) -> Option<Self> {
        let Value::Object(members) = members else {
            return None;
        };
        let mut event = Self::new(API_CALL);
        for (name, value) in members.iter() {
            let name = API_CALL_MEMBERS.iter().find(|known| **known == name)?;
            event = event.json(name, &value.to_text());
        }
        Some(event)
    }

    /// The complete event, members in order of their names.
    pub fn finish(mut self, id: u64, server: &str, stamp_ms: u64) -> String {
        let event = self.event;
        self = self
            .text("event", event)
            .number("event_id", id)
            .text("server", server)
            .number("utc_ms", stamp_ms);
        self.members.sort_by_key(|member| member.name);
        self.object()
    }

    fn object(&self) -> String {
        // A name, quotes, a colon and a comma.
        let mut out = Vec::with_capacity(self.values.len() + self.members.len() * 20);
        out.push(b'{');
        for (i, member) in self.members.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.push(b'"');
            out.extend_from_slice(member.name.as_bytes());
            out.extend_from_slice(b"\":");
            out.extend_from_slice(&self.values[member.begin..member.end]);
        }
        out.push(b'}');
        String::from_utf8(out).expect("written JSON is UTF-8")
    }
}

/// A JSON array in an event: the first elements, and the number of all.
pub struct EventList {
    text: Vec<u8>,
    shown: usize,
    count: usize,
    items_max: usize,
    bytes_max: usize,
}

impl EventList {
    /// Shows up to `items_max` elements, until their text has `bytes_max` bytes.
    pub fn new(items_max: usize, bytes_max: usize) -> Self {
        Self {
            text: vec![b'['],
            shown: 0,
            count: 0,
            items_max,
            bytes_max,
        }
    }

    /// Counts an element, and writes it if there is room.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.is_cut() && self.shown < self.items_max && self.text.len() < self.bytes_max {
            if self.shown > 0 {
                self.text.push(b',');
            }
            write(&mut self.text);
            self.shown += 1;
        }
        self.count += 1;
    }

    pub fn count(&self) -> u64 {
        self.count as u64
    }

    /// Whether elements were left out.
    pub fn is_cut(&self) -> bool {
        self.shown < self.count
    }

    /// The array as canonical JSON.
    pub fn finish(mut self) -> Box<str> {
        self.text.push(b']');
        let text = String::from_utf8(self.text).expect("written JSON is UTF-8");
        text.into()
    }
}

const API_CALL: &str = "api_call";
/// The members of the event of a change of settings.
const API_CALL_MEMBERS: [&str; 13] = [
    "changed",
    "changed_count",
    "duration",
    "entity_id",
    "entity_type",
    "ip",
    "operation_id",
    "originator",
    "path",
    "status",
    "trace_id",
    "user",
    "user_agent",
];

impl Audit {
    /// The event of an applied change.
    pub fn event(&self, status: u16) -> NewEvent {
        let us = u64::try_from(self.received.elapsed().as_micros()).unwrap_or(u64::MAX);
        let event = NewEvent::new(API_CALL)
            .number("duration", us)
            .text("ip", &self.ip.to_string())
            .text("operation_id", self.operation)
            .maybe_text("originator", self.originator.as_deref())
            .text("path", &self.path)
            .number("status", u64::from(status))
            .text("trace_id", &self.trace_id)
            .text("user", &self.user)
            .maybe_text("user_agent", self.user_agent.as_deref());
        match &self.subject {
            AuditSubject::Entity(of, id) => event.entity(*of, id),
            AuditSubject::Batch(_) | AuditSubject::Other => event,
        }
    }
}

/// The id of the event at an index of a batch.
pub fn event_id(revision: u64, index: usize) -> u64 {
    revision * EVENTS_PER_BATCH_MAX + index as u64
}

/// The revision of an event's batch, and its index there.
pub fn place_of(id: u64) -> (u64, usize) {
    (
        id / EVENTS_PER_BATCH_MAX,
        (id % EVENTS_PER_BATCH_MAX) as usize,
    )
}

/// Bytes of a chunk that count against [`EventLimits::bytes_max`].
pub fn weight(chunk: &EventChunkRecord) -> usize {
    chunk.bytes().len()
}
