//! The state and its log as a pure machine: a batch of commands in, a commit out. Has no thread and
//! no clock, so that tests can drive it.

use std::sync::Arc;

use weir_storage::{Batch, Op, Storage, StoreError};

use super::permission::ChangeRights;
use super::tables::{EVENTS, collect_ops, event_key};
use crate::access::rights::Rights;
use crate::access::rules::Rules;
use crate::error::ApiError;
use crate::feed::Commit;
use crate::json::{self, Object, Value};
use crate::state::State;
use crate::state::agent::agents_of;
use crate::state::apply::{Changes, EntityChange, Stamp, apply};
use crate::state::call_event::call_event;
use crate::state::changes::Done;
use crate::state::command::AuditedCommand;
use crate::state::entity::{KINDS, Key, Kind};
use crate::state::event::{EVENTS_PER_BATCH_MAX, EventLimits, NewEvent, event_id};
use crate::state::name::{Hostname, StreamName};
use crate::state::record::{EventChunk, EventChunkRecord, EventStream};
use crate::state::tag;

/// A batch that is durable, and the outcome of each of its commands.
pub struct Applied {
    pub outcomes: Vec<Result<Done, ApiError>>,
    /// Absent if the batch changed nothing.
    pub commit: Option<Arc<Commit>>,
}

/// The newest durable state and the log it is written to.
pub struct StateMachine<S> {
    state: Arc<State>,
    storage: S,
    event_limits: EventLimits,
    /// The name of this server in events.
    server: Box<str>,
    /// Lower bound of the present time, for deciding what is too old.
    trusted_ms: u64,
    /// The commit that failed: the state becomes this if the store turns out to hold it.
    unknown: Option<Arc<Commit>>,
}

/// A batch in the making: the private next state, and what is to be written for it.
struct Draft {
    next: State,
    stamp: Stamp,
    ops: Vec<Op>,
    touched: Touched,
    events: Vec<NewEvent>,
    /// All commands delete.
    frees_space: bool,
}

impl<S: Storage> StateMachine<S> {
    pub fn new(state: Arc<State>, storage: S) -> Self {
        Self {
            state,
            storage,
            event_limits: EventLimits::default(),
            server: Box::from(""),
            trusted_ms: u64::MAX,
            unknown: None,
        }
    }

    /// Bounds the event log and sets the name of this server in it.
    #[must_use]
    pub fn with_events(mut self, limits: EventLimits, server: &str) -> Self {
        self.event_limits = limits;
        self.server = Box::from(server);
        self
    }

    /// Sets the lower bound of the present time. Events younger than their retention by this time
    /// stay, whatever their stamps.
    pub fn trust(&mut self, ms: u64) {
        self.trusted_ms = ms;
    }

    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    #[cfg(any(test, feature = "testing"))]
    pub fn storage(&self) -> &S {
        &self.storage
    }

    pub fn into_storage(self) -> S {
        self.storage
    }

    /// Whether the log failed and must be recovered before the next batch.
    pub fn is_failed(&self) -> bool {
        self.storage.is_failed()
    }

    /// Whether the disk is full: only deletions are sure to be accepted.
    pub fn is_short_of_space(&self) -> bool {
        self.storage.is_short_of_space()
    }

    /// Looks whether a full disk has space again.
    pub fn look_for_space(&mut self) {
        self.storage.look_for_space();
    }

    /// Applies commands in order, each whole or not at all, and makes what they changed durable in
    /// one batch. An error leaves the outcome of the batch unknown until [`StateMachine::recover`].
    pub fn batch<A: Into<AuditedCommand>>(
        &mut self,
        commands: Vec<A>,
        now_ms: u64,
    ) -> Result<Applied, StoreError> {
        assert!(
            !self.is_failed() && self.unknown.is_none(),
            "a failed store is recovered before the next batch"
        );
        let mut draft = Draft {
            next: (*self.state).clone(),
            stamp: Stamp {
                revision: self.state.revision() + 1,
                ms: now_ms.max(self.state.stamp_ms() + 1),
            },
            ops: Vec::new(),
            touched: Touched::default(),
            events: Vec::new(),
            frees_space: false,
        };
        let commands: Vec<AuditedCommand> = commands.into_iter().map(Into::into).collect();
        draft.frees_space = commands.iter().all(|it| it.command.frees_space());
        let outcomes = commands.into_iter().map(|it| draft.apply(it)).collect();
        self.log_events(&mut draft);
        let commit = if draft.ops.is_empty() {
            None
        } else {
            Some(self.commit(draft)?)
        };
        Ok(Applied { outcomes, commit })
    }

    fn commit(&mut self, draft: Draft) -> Result<Arc<Commit>, StoreError> {
        let (stamp, mut next) = (draft.stamp, draft.next);
        next.advance(stamp);
        let commit = Arc::new(draft.touched.commit(Arc::new(next)));
        let written = self.storage.commit(&Batch {
            lsn: stamp.revision,
            stamp_ms: stamp.ms,
            ops: draft.ops,
            frees_space: draft.frees_space,
        });
        match written {
            Ok(()) => {
                self.state = commit.state.clone();
                Ok(commit)
            }
            Err(error) => {
                // A refusal before anything was written leaves everything as it was.
                if self.storage.is_failed() {
                    self.unknown = Some(commit);
                }
                Err(error)
            }
        }
    }

    /// Adds a batch's events to the event log and drops the batches that exceed its age or size.
    fn log_events(&self, draft: &mut Draft) {
        let (limits, stamp) = (self.event_limits, draft.stamp);
        if draft.events.is_empty() || limits.bytes_max == 0 {
            return;
        }
        let events = std::mem::take(&mut draft.events);
        let chunk = EventChunkRecord::new(&chunk_of(events, stamp, &self.server));
        draft.touched.event_chunks.push(stamp.revision);
        draft.ops.push(Op::Put {
            table: EVENTS,
            key: event_key(stamp.revision),
            value: chunk.bytes().clone(),
        });
        draft.next.add_events(chunk);
        let oldest_ms = stamp.ms.min(self.trusted_ms);
        let oldest_ms = oldest_ms.saturating_sub(limits.age_ms_max);
        while let Some((revision, chunk)) = draft.next.events().get_min() {
            let is_newest = *revision == stamp.revision;
            let fits = draft.next.events_bytes() <= limits.bytes_max;
            if is_newest || (chunk.stamp_ms >= oldest_ms && fits) {
                break;
            }
            draft.ops.push(Op::Delete {
                table: EVENTS,
                key: event_key(*revision),
            });
            draft.next.drop_oldest_events();
        }
    }

    /// Opens the failed log again and finds out what became of the failed batch. Returns its commit
    /// if the store holds it.
    pub fn recover(&mut self) -> Result<Option<Arc<Commit>>, StoreError> {
        let opened = self.storage.reopen()?;
        let Some(unknown) = self.unknown.take() else {
            return Ok(None);
        };
        if opened.lsn == unknown.revision {
            self.state = unknown.state.clone();
            return Ok(Some(unknown));
        }
        assert!(
            opened.lsn == self.state.revision(),
            "the store is at {} where {} or {} was written: another program changed it",
            opened.lsn,
            self.state.revision(),
            unknown.revision
        );
        Ok(None)
    }
}

impl Draft {
    fn apply(&mut self, command: AuditedCommand) -> Result<Done, ApiError> {
        let AuditedCommand {
            command,
            audit,
            grant,
            conditions,
        } = command;
        let permission = grant.map(|grant| ChangeRights::of(&grant, &self.next));
        let permission = permission.transpose()?;
        if let Some(permission) = &permission {
            permission.check_command(&command)?;
        }
        let mut changes = apply(&self.next, command, self.stamp)?;
        if let Some(permission) = &permission {
            permission.check_changes(&self.next, &changes)?;
        }
        for change in &changes.entities {
            check_grammar(change)?;
        }
        // Last: a request that would be refused anyway is refused for that reason.
        tag::judge(&self.next, &conditions)?;
        self.events.append(&mut changes.events);
        if !changes.is_empty() {
            let event = audit.map(|audit| call_event(&audit, &self.next, &changes));
            self.next.absorb(&changes);
            self.touched.add(&changes);
            collect_ops(&changes, &mut self.ops);
            self.events.extend(event);
        }
        Ok(changes.done)
    }
}

/// The events of a batch as their record.
fn chunk_of(events: Vec<NewEvent>, stamp: Stamp, server: &str) -> EventChunk {
    let mut chunk = EventChunk {
        revision: stamp.revision,
        stamp_ms: stamp.ms,
        ..EventChunk::default()
    };
    let events = events.into_iter().take(EVENTS_PER_BATCH_MAX as usize);
    for (index, mut event) in events.enumerate() {
        let mut streams = std::mem::take(&mut event.streams);
        streams.sort_unstable();
        streams.dedup();
        let streams = streams.into_iter().map(|digest| EventStream {
            event: index as u32,
            digest,
        });
        chunk.streams.extend(streams);
        let id = event_id(stamp.revision, index);
        chunk.events.push(event.finish(id, server, stamp.ms));
    }
    chunk
}

/// Refuses rights and rules that do not parse: their grammar belongs to `access`, not to the
/// schema.
fn check_grammar(change: &EntityChange) -> Result<(), ApiError> {
    let check: fn(&Object) -> Result<(), ApiError> = match change.kind {
        Kind::ApiToken => |config| Rights::parse(config, "").map(drop),
        Kind::AuthBackend => |config| Rules::parse(config, "").map(drop),
        _ => return Ok(()),
    };
    let Some(new) = &change.new else {
        return Ok(());
    };
    match json::parse(new.config.as_bytes()) {
        Ok(Value::Object(config)) => check(&config),
        _ => unreachable!("a stored configuration is a JSON object"),
    }
}

/// The keys that a batch touched, in the order of its changes.
#[derive(Default)]
struct Touched {
    streams: Vec<StreamName>,
    deleted_streams: Vec<StreamName>,
    streamers: Vec<Hostname>,
    deleted_streamers: Vec<Hostname>,
    hostnames: Vec<Hostname>,
    agents: Vec<Box<str>>,
    entities: [Vec<Key>; KINDS.len()],
    event_chunks: Vec<u64>,
}

impl Touched {
    fn add(&mut self, changes: &Changes) {
        for change in &changes.streams {
            let list = match change.new {
                Some(_) => &mut self.streams,
                None => &mut self.deleted_streams,
            };
            list.push(change.name.clone());
            for record in [&change.old, &change.new].into_iter().flatten() {
                self.agents.extend(agents_of(&record.config));
            }
        }
        let streamers = changes.streamers.iter();
        self.streamers
            .extend(streamers.map(|change| change.hostname.clone()));
        let deleted = changes.streamers.iter().filter(|it| it.new.is_none());
        self.deleted_streamers
            .extend(deleted.map(|change| change.hostname.clone()));
        let visible = changes.nodes.iter().filter(|change| change.visible);
        self.hostnames
            .extend(visible.map(|change| change.hostname.clone()));
        for change in &changes.entities {
            self.entities[change.kind as usize].push(change.key.clone());
        }
    }

    fn commit(self, state: Arc<State>) -> Commit {
        fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
            list.sort_unstable();
            list.dedup();
            list
        }
        Commit {
            streams: sorted(self.streams),
            deleted_streams: sorted(self.deleted_streams),
            streamers: sorted(self.streamers),
            deleted_streamers: sorted(self.deleted_streamers),
            hostnames: sorted(self.hostnames),
            agents: sorted(self.agents),
            entities: self.entities.map(sorted),
            event_chunks: self.event_chunks,
            ..Commit::of(state)
        }
    }
}

/// A log that takes everything and keeps nothing.
#[cfg(test)]
pub struct NoStorage;

#[cfg(test)]
impl Storage for NoStorage {
    fn load(
        &self,
        _: weir_storage::Table,
        _: Option<u8>,
        _: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn commit(&mut self, _: &Batch) -> Result<(), StoreError> {
        Ok(())
    }

    fn is_short_of_space(&self) -> bool {
        false
    }

    fn look_for_space(&mut self) {}

    fn is_failed(&self) -> bool {
        false
    }

    fn reopen(&mut self) -> Result<weir_storage::Opened, StoreError> {
        unreachable!("it never fails")
    }
}
