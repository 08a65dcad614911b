//! The one thread that changes things.
//!
//! It drains the commands that wait, applies each to a private next state, writes one batch with one fsync, publishes the state and tells
//! the cores: replies and what was touched in one message and one wake per core. Nobody is told anything (a reply, a poll,
//! a list) before the fsync returned. When the store fails the outcome of that batch is unknown: its writers are told so, new
//! writes are refused, reads and polls go on with the last published state, and the store is opened anew until it tells what is true.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use tracing::{error, info, warn};
use weir_storage::{Batch, Log, Op, StoreError, Table};

use crate::feed::Commit;
use crate::http::Ticket;
use crate::http::error::ApiError;
use crate::rt::Inbox;
use crate::state::State;
use crate::state::apply::{Changes, Lost, Stamp, apply};
use crate::state::command::{Command, Done};
use crate::state::name::{Hostname, StreamName, shard_of};
use crate::state::record::{NodeMark, NodeMarkRecord};

/// Kinds on disk. Streams are keyed by shard byte and name, so that one table can be loaded in parallel: sixteen tables cost a
/// sixteenth root page each in every small batch.
pub const STREAMS: Table = Table("stream");
pub const STREAMERS: Table = Table("streamer");
/// Marks of nodes' generations, keyed by hostname.
pub const NODES: Table = Table("node");

/// Commands that may wait for the writer; more are refused with 503, because waiting longer than one batch helps nobody.
pub const COMMANDS_WAITING_MAX: usize = 16 * 1024;
/// Commands in one batch: bounds how long the first of them waits for the last to be applied.
const BATCH_COMMANDS_MAX: usize = 1024;
/// Items (records) in one batch after which no further command is taken.
const BATCH_OPS_MAX: usize = 16 * 1024;
/// Longest wait for the rest of a crowd of writers; see [`Crowd`].
const CROWD_WAIT_MAX: Duration = Duration::from_micros(500);
/// How often the writer looks while it waits for them. Being woken by each of them would cost more than it gains.
const CROWD_LOOK: Duration = Duration::from_micros(50);
/// First and longest pause between attempts to open a failed store.
const REOPEN_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A command and who waits for it.
pub struct Envelope {
    pub command: Command,
    pub core: usize,
    pub ticket: Ticket,
}

/// What the writer tells a core.
pub enum CoreMessage {
    Batch {
        commit: Option<Arc<Commit>>,
        replies: Vec<(Ticket, Result<Done, ApiError>)>,
    },
    /// The process is asked to stop: answer who waits, finish what runs.
    Drain,
}

/// What every thread sees of the writer.
pub struct Published {
    state: ArcSwap<State>,
    writable: AtomicBool,
}

impl Published {
    pub fn new(state: Arc<State>) -> Self {
        Self {
            state: ArcSwap::new(state),
            writable: AtomicBool::new(true),
        }
    }

    /// The newest durable state; for keeping beside a core through [`arc_swap::Cache`].
    pub fn state(&self) -> &ArcSwap<State> {
        &self.state
    }

    /// False while the store is failing.
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }
}

/// Where io cores put commands.
#[derive(Clone)]
pub struct Commands {
    sender: Sender<Envelope>,
    published: Arc<Published>,
}

impl Commands {
    /// Hands a command over or says at once why it cannot be taken.
    pub fn send(&self, envelope: Envelope) -> Result<(), ApiError> {
        if !self.published.is_writable() {
            return Err(store_is_down());
        }
        self.sender
            .try_send(envelope)
            .map_err(|refused| match refused {
                TrySendError::Full(_) => ApiError::unavailable(
                    "writer_busy",
                    "More changes are waiting than can be written in time; repeat the request",
                    1,
                ),
                TrySendError::Disconnected(_) => ApiError::unavailable(
                    "shutting_down",
                    "The server is stopping; repeat the request",
                    1,
                ),
            })
    }
}

fn store_is_down() -> ApiError {
    ApiError::unavailable(
        "storage_unavailable",
        "The store does not take writes at present; nothing was changed",
        2,
    )
}

fn outcome_unknown() -> ApiError {
    let title = "The store failed while this change was being written; it may or may not have taken effect. Repeat the request";
    ApiError::unavailable("storage_failed", title, 2)
}

/// A batch that was applied, and what each of its commands came to.
pub struct Applied {
    pub outcomes: Vec<Result<Done, ApiError>>,
    pub commit: Option<Arc<Commit>>,
}

/// The state and its log: everything the writer does, without threads and clocks, so that tests can drive it.
pub struct Machine<L> {
    state: Arc<State>,
    log: L,
    /// The batch whose commit failed: what the state becomes if the store turns out to hold it.
    unknown: Option<Arc<Commit>>,
}

impl<L: Log> Machine<L> {
    pub fn new(state: Arc<State>, log: L) -> Self {
        Self {
            state,
            log,
            unknown: None,
        }
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
    pub fn batch(&mut self, commands: Vec<Command>, now_ms: u64) -> Result<Applied, StoreError> {
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
        for command in commands {
            match apply(&next, command, stamp) {
                Ok(changes) => {
                    if !changes.is_empty() {
                        next.absorb(&changes);
                        touched.add(&changes);
                        collect_ops(&changes, &mut ops);
                    }
                    outcomes.push(Ok(changes.done));
                }
                Err(error) => outcomes.push(Err(error)),
            }
        }
        if ops.is_empty() {
            return Ok(Applied {
                outcomes,
                commit: None,
            });
        }
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
    hostnames: Vec<Hostname>,
    streamers: bool,
}

impl Touched {
    fn add(&mut self, changes: &Changes) {
        self.streams.extend(
            changes
                .streams
                .iter()
                .filter(|change| change.new.is_some())
                .map(|change| change.name.clone()),
        );
        self.hostnames.extend(
            changes
                .nodes
                .iter()
                .filter(|change| change.visible)
                .map(|change| change.hostname.clone()),
        );
        self.streamers |= !changes.streamers.is_empty();
    }

    fn commit(mut self, state: Arc<State>) -> Commit {
        self.streams.sort_unstable();
        self.streams.dedup();
        self.hostnames.sort_unstable();
        self.hostnames.dedup();
        Commit {
            revision: state.revision(),
            streams: self.streams,
            hostnames: self.hostnames,
            state,
        }
    }
}

fn stream_key(name: &str) -> Box<[u8]> {
    let mut key = Vec::with_capacity(name.len() + 1);
    key.push(shard_of(name) as u8);
    key.extend_from_slice(name.as_bytes());
    key.into_boxed_slice()
}

/// Everything but streams is in shard 0.
fn host_key(hostname: &str) -> Box<[u8]> {
    let mut key = vec![0];
    key.extend_from_slice(hostname.as_bytes());
    key.into_boxed_slice()
}

fn collect_ops(changes: &Changes, ops: &mut Vec<Op>) {
    for change in &changes.streams {
        let key = stream_key(&change.name);
        ops.push(match &change.new {
            Some(new) => Op::Put {
                table: STREAMS,
                key,
                value: new.bytes().clone(),
            },
            None => Op::Delete {
                table: STREAMS,
                key,
            },
        });
    }
    for change in &changes.streamers {
        let key = host_key(&change.hostname);
        ops.push(match &change.new {
            Some(new) => Op::Put {
                table: STREAMERS,
                key,
                value: new.bytes().clone(),
            },
            None => Op::Delete {
                table: STREAMERS,
                key,
            },
        });
    }
    for change in &changes.nodes {
        // Only what the streams' own records cannot tell after a restart.
        if change.lost != Lost::Nothing {
            let mark = NodeMarkRecord::new(&NodeMark {
                generation: changes.revision,
                updated_at: changes.stamp_ms,
            });
            ops.push(Op::Put {
                table: NODES,
                key: host_key(&change.hostname),
                value: mark.bytes().clone(),
            });
        }
    }
}

/// The thread's own part: the channel, the clock, the cores.
pub struct Writer<L> {
    machine: Machine<L>,
    commands: Receiver<Envelope>,
    published: Arc<Published>,
    cores: Vec<Arc<Inbox<CoreMessage>>>,
    stop: Arc<AtomicBool>,
}

impl<L: Log> Writer<L> {
    pub fn new(
        machine: Machine<L>,
        published: Arc<Published>,
        cores: Vec<Arc<Inbox<CoreMessage>>>,
    ) -> (Self, Commands, Arc<AtomicBool>) {
        let (sender, commands) = bounded(COMMANDS_WAITING_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let handle = Commands {
            sender,
            published: published.clone(),
        };
        (
            Self {
                machine,
                commands,
                published,
                cores,
                stop: stop.clone(),
            },
            handle,
            stop,
        )
    }

    /// Until `stop` is set and nothing waits.
    pub fn run(mut self, now_ms: impl Fn() -> u64) -> Machine<L> {
        let mut waiting = Vec::new();
        let mut crowd = Crowd::default();
        loop {
            match self.commands.recv_timeout(Duration::from_millis(200)) {
                Ok(first) => waiting.push(first),
                Err(RecvTimeoutError::Timeout) if !self.stop.load(Ordering::Acquire) => continue,
                Err(_) => return self.machine,
            }
            crowd.gather(|| self.commands.len() + 1);
            let mut ops = weight(&waiting[0].command);
            while waiting.len() < BATCH_COMMANDS_MAX && ops < BATCH_OPS_MAX {
                let Ok(envelope) = self.commands.try_recv() else {
                    break;
                };
                ops += weight(&envelope.command);
                waiting.push(envelope);
            }
            let (batch, began) = (waiting.len(), Instant::now());
            self.commit(std::mem::take(&mut waiting), &now_ms);
            crowd.learn(batch + self.commands.len(), began.elapsed());
            if self.machine.is_failed() {
                // Asked to stop while the store was down: what came in the last moment is told so.
                self.refuse_waiting();
                return self.machine;
            }
        }
    }

    /// Tells everybody who asked before the gate closed.
    fn refuse_waiting(&self) {
        while let Ok(envelope) = self.commands.try_recv() {
            self.cores[envelope.core].push(CoreMessage::Batch {
                commit: None,
                replies: vec![(envelope.ticket, Err(store_is_down()))],
            });
        }
    }

    fn commit(&mut self, waiting: Vec<Envelope>, now_ms: &impl Fn() -> u64) {
        let mut askers = Vec::with_capacity(waiting.len());
        let mut commands = Vec::with_capacity(waiting.len());
        for envelope in waiting {
            askers.push((envelope.core, envelope.ticket));
            commands.push(envelope.command);
        }
        match self.machine.batch(commands, now_ms()) {
            Ok(applied) => self.tell(&askers, applied.outcomes, applied.commit),
            Err(failure) => {
                if !self.machine.is_failed() {
                    warn!(error = %failure, "the store refused a batch; nothing was changed");
                    let outcomes = askers.iter().map(|_| Err(store_is_down())).collect();
                    self.tell(&askers, outcomes, None);
                    return;
                }
                error!(error = %failure, "the store failed; writes are refused until it is back");
                self.published.writable.store(false, Ordering::Release);
                let outcomes = askers.iter().map(|_| Err(outcome_unknown())).collect();
                self.tell(&askers, outcomes, None);
                self.recover();
            }
        }
    }

    /// Publishes, then wakes every core once with its replies and what was touched.
    fn tell(
        &self,
        askers: &[(usize, Ticket)],
        outcomes: Vec<Result<Done, ApiError>>,
        commit: Option<Arc<Commit>>,
    ) {
        if let Some(commit) = &commit {
            self.published.state.store(commit.state.clone());
        }
        let mut replies: Vec<Vec<(Ticket, Result<Done, ApiError>)>> =
            self.cores.iter().map(|_| Vec::new()).collect();
        for (&(core, ticket), outcome) in askers.iter().zip(outcomes) {
            replies[core].push((ticket, outcome));
        }
        for (inbox, replies) in self.cores.iter().zip(replies) {
            if commit.is_some() || !replies.is_empty() {
                inbox.push(CoreMessage::Batch {
                    commit: commit.clone(),
                    replies,
                });
            }
        }
    }

    fn recover(&mut self) {
        let mut pause = REOPEN_PAUSE.0;
        loop {
            // Now, not when the store is back.
            self.refuse_waiting();
            match self.machine.recover() {
                Ok(commit) => {
                    info!(
                        revision = self.machine.state().revision(),
                        "the store is back"
                    );
                    self.tell(&[], Vec::new(), commit);
                    self.published.writable.store(true, Ordering::Release);
                    return;
                }
                Err(failure) => {
                    warn!(error = %failure, retry_ms = pause.as_millis() as u64, "the store cannot be opened yet");
                    if self.stop.load(Ordering::Acquire) {
                        return;
                    }
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(REOPEN_PAUSE.1);
                }
            }
        }
    }
}

/// How many writers there seem to be: those just answered and those who came meanwhile.
///
/// Without it, writers who each wait for their answer fall into two halves that take turns: one half is being committed while the other
/// queues, and each commit, whose cost hardly depends on its size, serves half of what it could. A lone writer never waits.
#[derive(Default)]
struct Crowd {
    writers: usize,
    wait: Duration,
}

impl Crowd {
    /// After a commit: who was part of it or waits now, and how long it took.
    fn learn(&mut self, writers: usize, took: Duration) {
        self.writers = writers.min(BATCH_COMMANDS_MAX);
        self.wait = (took / 2).min(CROWD_WAIT_MAX);
    }

    /// Before a commit: waits for the rest of the crowd, but not longer than half a commit.
    fn gather(&self, waiting: impl Fn() -> usize) {
        if self.writers < 2 {
            return;
        }
        let began = Instant::now();
        while waiting() < self.writers && began.elapsed() < self.wait {
            std::thread::sleep(CROWD_LOOK);
        }
    }
}

fn weight(command: &Command) -> usize {
    match command {
        Command::SaveStreams { items } => items.len(),
        Command::SetLayouts { items } => items.len(),
        Command::SaveStreamers { items } => items.len(),
        _ => 1,
    }
}
