//! The state and its log: everything the writer does, without threads and clocks, so that tests can drive it.

use std::sync::Arc;

use weir_storage::{Batch, Log, Op, StoreError};

use super::tables::{EVENTS, collect_ops, event_key};
use crate::feed::Commit;
use crate::http::error::ApiError;
use crate::state::State;
use crate::state::agent::agents_of;
use crate::state::apply::{Changes, Stamp, apply};
use crate::state::command::{Asked, Done};
use crate::state::entity::{KINDS, Key};
use crate::state::event::{EVENTS_PER_BATCH_MAX, EventLimits, NewEvent, event_id};
use crate::state::name::{Hostname, StreamName};
use crate::state::record::{EventChunk, EventChunkRecord};

/// A batch that was applied, and what each of its commands came to.
pub struct Applied {
    pub outcomes: Vec<Result<Done, ApiError>>,
    pub commit: Option<Arc<Commit>>,
}

/// The state and its log: everything the writer does, without threads and clocks, so that tests can drive it.
pub struct Machine<L> {
    state: Arc<State>,
    log: L,
    event_limits: EventLimits,
    /// How this server is called in events.
    server: Box<str>,
    /// What time it is at least, for what is too old.
    trusted_ms: u64,
    /// The batch whose commit failed: what the state becomes if the store turns out to hold it.
    unknown: Option<Arc<Commit>>,
}

impl<L: Log> Machine<L> {
    pub fn new(state: Arc<State>, log: L) -> Self {
        Self {
            state,
            log,
            event_limits: EventLimits::default(),
            server: Box::from(""),
            trusted_ms: u64::MAX,
            unknown: None,
        }
    }

    /// How much of the event log is kept, and how this server is called in it.
    #[must_use]
    pub fn with_events(mut self, limits: EventLimits, server: &str) -> Self {
        self.event_limits = limits;
        self.server = Box::from(server);
        self
    }

    /// What time it is at least: events that are kept until later stay, whatever the stamps say.
    pub fn trust(&mut self, ms: u64) {
        self.trusted_ms = ms;
    }

    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    pub fn log(&self) -> &L {
        &self.log
    }

    pub fn into_log(self) -> L {
        self.log
    }

    /// Whether the log failed and must be recovered before the next batch.
    pub fn is_failed(&self) -> bool {
        self.log.is_failed()
    }

    /// Applies commands in order, each whole or not at all, and makes what they changed durable in one batch.
    /// An error leaves the outcome of the batch unknown until [`Machine::recover`].
    pub fn batch<A: Into<Asked>>(
        &mut self,
        commands: Vec<A>,
        now_ms: u64,
    ) -> Result<Applied, StoreError> {
        assert!(
            !self.is_failed() && self.unknown.is_none(),
            "a failed store is recovered before the next batch"
        );
        let stamp = Stamp {
            revision: self.state.revision() + 1,
            ms: now_ms.max(self.state.stamp_ms() + 1),
        };
        let mut next = (*self.state).clone();
        let mut outcomes = Vec::with_capacity(commands.len());
        let mut ops = Vec::new();
        let mut touched = Touched::default();
        let mut events = Vec::new();
        for asked in commands {
            let Asked { command, audit } = asked.into();
            match apply(&next, command, stamp) {
                Ok(mut changes) => {
                    events.append(&mut changes.events);
                    if !changes.is_empty() {
                        next.absorb(&changes);
                        touched.add(&changes);
                        collect_ops(&changes, &mut ops);
                        if let Some(audit) = audit {
                            events.push(audit.event(changes.done.status()));
                        }
                    }
                    outcomes.push(Ok(changes.done));
                }
                Err(error) => outcomes.push(Err(error)),
            }
        }
        if self.log_events(&mut next, events, stamp, &mut ops) {
            touched.event_chunks.push(stamp.revision);
        }
        if ops.is_empty() {
            return Ok(Applied {
                outcomes,
                commit: None,
            });
        }
        next.stand_at(stamp);
        let commit = Arc::new(touched.commit(Arc::new(next)));
        match self.log.commit(&Batch {
            lsn: stamp.revision,
            stamp_ms: stamp.ms,
            ops,
        }) {
            Ok(()) => {
                self.state = commit.state.clone();
                Ok(Applied {
                    outcomes,
                    commit: Some(commit),
                })
            }
            Err(error) => {
                // A refusal before anything was written leaves everything as it was.
                if self.log.is_failed() {
                    self.unknown = Some(commit);
                }
                Err(error)
            }
        }
    }

    /// Adds a batch's events to the log, and drops what the log is too old or too large for. False if there are none.
    fn log_events(
        &self,
        next: &mut State,
        events: Vec<NewEvent>,
        stamp: Stamp,
        ops: &mut Vec<Op>,
    ) -> bool {
        let limits = self.event_limits;
        if events.is_empty() || limits.bytes_max == 0 {
            return false;
        }
        let kept = events.into_iter().take(EVENTS_PER_BATCH_MAX as usize);
        let chunk = EventChunkRecord::new(&EventChunk {
            revision: stamp.revision,
            stamp_ms: stamp.ms,
            events: kept
                .enumerate()
                .map(|(place, event)| {
                    event.finish(event_id(stamp.revision, place), &self.server, stamp.ms)
                })
                .collect(),
        });
        ops.push(Op::Put {
            table: EVENTS,
            key: event_key(stamp.revision),
            value: chunk.bytes().clone(),
        });
        next.add_events(chunk);
        let oldest_ms = stamp.ms.min(self.trusted_ms);
        let oldest_ms = oldest_ms.saturating_sub(limits.age_ms_max);
        while let Some((revision, chunk)) = next.events().get_min() {
            let is_newest = *revision == stamp.revision;
            let is_kept = chunk.stamp_ms >= oldest_ms && next.events_bytes() <= limits.bytes_max;
            if is_newest || is_kept {
                break;
            }
            ops.push(Op::Delete {
                table: EVENTS,
                key: event_key(*revision),
            });
            next.drop_oldest_events();
        }
        true
    }

    /// Opens the failed log anew and learns what became of the failed batch: its commit if the store holds it after all.
    pub fn recover(&mut self) -> Result<Option<Arc<Commit>>, StoreError> {
        let opened = self.log.reopen()?;
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

#[derive(Default)]
struct Touched {
    streams: Vec<StreamName>,
    deleted_streams: Vec<StreamName>,
    streamers: Vec<Hostname>,
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
        self.hostnames.extend(
            changes
                .nodes
                .iter()
                .filter(|change| change.visible)
                .map(|change| change.hostname.clone()),
        );
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
            hostnames: sorted(self.hostnames),
            agents: sorted(self.agents),
            entities: self.entities.map(sorted),
            event_chunks: self.event_chunks,
            ..Commit::of(state)
        }
    }
}
