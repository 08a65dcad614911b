//! The one thread that changes things.
//!
//! It drains the commands that wait, applies each to a private next state, writes one batch with one fsync, publishes the state and tells
//! the cores: replies and what was touched in one message and one wake per core. Nobody is told anything (a reply, a poll,
//! a list) before the fsync returned. When the store fails the outcome of that batch is unknown: its writers are told so, new
//! writes are refused, reads and polls go on with the last published state, and the store is opened anew until it tells what is true.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, unbounded};
use tracing::{error, info, warn};
use weir_storage::{Batch, Log, Op, StoreError, Table};

use crate::agents::messages::Message;
use crate::api::measure::Gathering;
use crate::feed::Commit;
use crate::http::Ticket;
use crate::http::error::ApiError;
use crate::insert_buffer::{BufferSettings, InsertBuffer};
use crate::metrics::{Histogram, add};
use crate::outbound;
use crate::rt::Inbox;
use crate::state::State;
use crate::state::agent::agents_of;
use crate::state::apply::{Changes, Lost, Stamp, apply};
use crate::state::command::{Asked, Command, Done, EntitySave};
use crate::state::entity::{KINDS, Key, Kind};
use crate::state::event::{EVENTS_PER_BATCH_MAX, EventLimits, NewEvent, event_id};
use crate::state::name::{Hostname, StreamName, shard_of};
use crate::state::record::{EventChunk, EventChunkRecord, NodeMark, NodeMarkRecord};
use crate::state::retention::{self, Retention};
use crate::state::trusted_time::TrustedTime;

/// Kinds on disk. Streams are keyed by shard byte and name, so that one table can be loaded in parallel: sixteen tables cost a
/// sixteenth root page each in every small batch.
pub const STREAMS: Table = Table("stream");
pub const STREAMERS: Table = Table("streamer");
/// Marks of nodes' generations, keyed by hostname.
pub const NODES: Table = Table("node");
/// Chunks of the event log, keyed by the batch's number, big-endian.
pub const EVENTS: Table = Table("event");

/// Where the entities of a kind are.
pub fn entity_table(kind: Kind) -> Table {
    Table(match kind {
        Kind::Agent => "agent",
        Kind::ApiToken => "api_token",
        Kind::AuthBackend => "auth_backend",
        Kind::Balancer => "balancer",
        Kind::Episode => "episode",
        Kind::Person => "person",
        Kind::DeletedAgent => "deleted_agent",
    })
}

/// Every table, in the order of a backup.
pub fn tables() -> impl Iterator<Item = Table> {
    [STREAMS, STREAMERS, NODES, EVENTS]
        .into_iter()
        .chain(KINDS.into_iter().map(entity_table))
}

/// Commands that may wait for the writer; more are refused with 503, because waiting longer than one batch helps nobody.
pub const COMMANDS_WAITING_MAX: usize = 16 * 1024;
/// Commands in one batch: bounds how long the first of them waits for the last to be applied.
const BATCH_COMMANDS_MAX: usize = 1024;
/// Items (records) in one batch after which no further command is taken.
const BATCH_OPS_MAX: usize = 16 * 1024;
/// Longest wait for the rest of a crowd of writers; see [`Crowd`].
const CROWD_WAIT_MAX: Duration = Duration::from_micros(500);
/// Longest sleep of the writer when nothing comes.
const IDLE_WAIT: Duration = Duration::from_millis(200);
/// How often the writer looks for what is over for long enough, and at how much of each sort: a million episodes take a quarter of an hour.
const HOUSEKEEPING_PAUSE: Duration = Duration::from_secs(1);
const HOUSEKEEPING_LOOKS_MAX: usize = 1024;
/// How often the writer looks while it waits for them. Being woken by each of them would cost more than it gains.
const CROWD_LOOK: Duration = Duration::from_micros(50);
/// First and longest pause between attempts to open a failed store.
const REOPEN_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A command and who waits for it.
pub struct Envelope {
    pub asked: Asked,
    pub reply_to: ReplyTo,
}

/// Where the outcome of a command goes.
pub enum ReplyTo {
    /// A request on an io core.
    Core {
        index: usize,
        ticket: Ticket,
    },
    /// Another thread, which gives its commands numbers.
    Thread {
        replies: Sender<(u64, Result<Done, ApiError>)>,
        id: u64,
    },
    Nobody,
}

/// What the writer tells a core.
pub enum CoreMessage {
    Batch {
        commit: Option<Arc<Commit>>,
        replies: Vec<(Ticket, Result<Done, ApiError>)>,
    },
    /// A call to another server that a request waits for is over.
    Called {
        ticket: Ticket,
        outcome: Result<outbound::Answer, outbound::Failure>,
    },
    /// The streamer that a change is about was called.
    Checked {
        ticket: Ticket,
        outcome: Result<outbound::Answer, outbound::Failure>,
    },
    /// About an agent that is connected here, or waited for here.
    Agent(Message),
    /// A streamer was asked what it has recorded of a stream.
    Ranges {
        ticket: Ticket,
        /// The stream's place among those asked about.
        place: usize,
        outcome: Result<outbound::Answer, outbound::Failure>,
    },
    /// A question about layouts is answered.
    Answered {
        ticket: Ticket,
        outcome: Result<Vec<u8>, ApiError>,
    },
    /// The process is asked to stop: answer who waits, finish what runs.
    Drain,
    /// Settings were saved, or were not.
    Configured {
        ticket: Ticket,
        outcome: Result<Vec<u8>, ApiError>,
    },
    /// The administrator's credentials changed: whoever waits by right of the old ones does no longer.
    Rotated,
    /// Streamers or agents are seen in another way than before.
    Reported,
    /// Somebody asks what was counted.
    Count(Arc<Gathering>),
    /// All cores have told the one that asked.
    Counted(Arc<Gathering>),
}

/// What every thread sees of the writer.
pub struct Published {
    state: ArcSwap<State>,
    writable: AtomicBool,
    counters: Counters,
}

/// What the writer counted since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// How long it took to apply a batch and make it durable, of those that were.
    pub commits: Histogram,
    batches: AtomicU64,
    commands: AtomicU64,
    refused: AtomicU64,
    failures: AtomicU64,
}

impl Counters {
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    pub fn commands(&self) -> u64 {
        self.commands.load(Ordering::Relaxed)
    }

    /// Commands that the state or the schema refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Batches that the store failed on.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

impl Published {
    pub fn new(state: Arc<State>) -> Self {
        Self {
            state: ArcSwap::new(state),
            writable: AtomicBool::new(true),
            counters: Counters::default(),
        }
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
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
    /// Commands that wait for the writer.
    pub fn waiting(&self) -> usize {
        self.sender.len()
    }

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

fn event_key(revision: u64) -> Box<[u8]> {
    let mut key = vec![0];
    key.extend_from_slice(&revision.to_be_bytes());
    key.into_boxed_slice()
}

/// In the order of the collection.
fn entity_key(key: &Key) -> Box<[u8]> {
    let mut bytes = vec![0];
    match key {
        Key::Number(number) => bytes.extend_from_slice(&number.to_be_bytes()),
        Key::Text(text) => bytes.extend_from_slice(text.as_bytes()),
    }
    bytes.into_boxed_slice()
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
    for change in &changes.entities {
        let (table, key) = (entity_table(change.kind), entity_key(&change.key));
        ops.push(match &change.new {
            Some(new) => Op::Put {
                table,
                key,
                value: new.bytes().clone(),
            },
            None => Op::Delete { table, key },
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
    followers: Vec<Sender<Arc<Commit>>>,
    /// Saves of episodes that wait for others.
    episodes: InsertBuffer<Envelope>,
    episodes_buffer: Arc<BufferSettings>,
    housekeeping: Option<Housekeeping>,
    time: TrustedTime,
    stop: Arc<AtomicBool>,
}

/// What the writer does without being asked.
struct Housekeeping {
    kept: Retention,
    place: retention::Place,
    /// On the writer's own clock.
    next: Duration,
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
                time: TrustedTime::at_start(machine.state()),
                machine,
                commands,
                published,
                cores,
                followers: Vec::new(),
                episodes: InsertBuffer::default(),
                episodes_buffer: Arc::new(BufferSettings::new(Duration::ZERO, 0)),
                housekeeping: None,
                stop: stop.clone(),
            },
            handle,
            stop,
        )
    }

    /// Every commit from now on, in order, for a thread that follows the state.
    pub fn follow(&mut self) -> Receiver<Arc<Commit>> {
        let (sender, commits) = unbounded();
        self.followers.push(sender);
        commits
    }

    /// How long saves of episodes wait for others; without it they do not.
    #[must_use]
    pub fn with_episodes_buffer(mut self, settings: Arc<BufferSettings>) -> Self {
        self.episodes_buffer = settings;
        self
    }

    /// Has the writer remove what is over for this long; without it everything is kept.
    #[must_use]
    pub fn with_housekeeping(mut self, kept: Retention) -> Self {
        self.housekeeping = Some(Housekeeping {
            kept,
            place: retention::Place::default(),
            next: HOUSEKEEPING_PAUSE,
        });
        self
    }

    /// What is due, now and then.
    fn keep_house(&mut self, wall_ms: u64, clock: Duration) -> Option<Envelope> {
        let housekeeping = self.housekeeping.as_mut()?;
        if clock < housekeeping.next {
            return None;
        }
        housekeeping.next = clock + HOUSEKEEPING_PAUSE;
        let Housekeeping { kept, place, .. } = housekeeping;
        let kept = Retention {
            trusted_ms: self.time.now_ms(wall_ms, clock),
            ..*kept
        };
        let state = self.machine.state();
        let looked = retention::due(state, &kept, wall_ms, place, HOUSEKEEPING_LOOKS_MAX);
        let command = Command::KeepHouse { kept, looked };
        (weight(&command) > 0).then(|| Envelope {
            asked: command.into(),
            reply_to: ReplyTo::Nobody,
        })
    }

    /// Looks at the clocks; if the wall clock is no longer believed, or again, that is an event of the batch that is about to be written.
    fn look_at_clocks(&mut self, wall_ms: u64, clock: Duration) -> Option<Envelope> {
        let event = self.time.look(wall_ms, clock);
        self.machine.trust(self.time.now_ms(wall_ms, clock));
        let event = event?;
        warn!(
            event = event.event,
            "the wall clock; while it is doubted nothing is removed for being too old by it"
        );
        let events = vec![event];
        Some(Envelope {
            asked: Command::Note { events }.into(),
            reply_to: ReplyTo::Nobody,
        })
    }

    /// Until `stop` is set and nothing waits.
    pub fn run(mut self, now_ms: impl Fn() -> u64) -> Machine<L> {
        let mut waiting = Vec::new();
        let mut crowd = Crowd::default();
        let clock = Instant::now();
        loop {
            let rest = self.episodes.rest(&self.episodes_buffer, clock.elapsed());
            let look = rest.map_or(IDLE_WAIT, |rest| rest.min(IDLE_WAIT));
            let mut ended = false;
            let (mut taken, mut ops) = (0, 0);
            match self.commands.recv_timeout(look) {
                Ok(first) => {
                    crowd.gather(|| self.commands.len() + 1);
                    (taken, ops) = (1, weight(&first.asked.command));
                    self.sort_in(first, &mut waiting, clock.elapsed());
                }
                Err(RecvTimeoutError::Timeout) if !self.stop.load(Ordering::Acquire) => {}
                Err(_) => ended = true,
            }
            // What is put aside for later counts, too: nothing waits for an endless stream of it.
            while (1..BATCH_COMMANDS_MAX).contains(&taken) && ops < BATCH_OPS_MAX {
                let Ok(envelope) = self.commands.try_recv() else {
                    break;
                };
                taken += 1;
                ops += weight(&envelope.asked.command);
                self.sort_in(envelope, &mut waiting, clock.elapsed());
            }
            if ended || self.episodes.is_due(&self.episodes_buffer, clock.elapsed()) {
                waiting.append(&mut self.episodes.take());
            }
            // One reading for the batch: the first stamp of a clock that jumped comes with the event that says so.
            let wall_ms = now_ms();
            waiting.extend(self.look_at_clocks(wall_ms, clock.elapsed()));
            waiting.extend(self.keep_house(wall_ms, clock.elapsed()));
            if waiting.is_empty() {
                if ended {
                    return self.machine;
                }
                continue;
            }
            let (batch, began) = (waiting.len(), Instant::now());
            self.commit(std::mem::take(&mut waiting), wall_ms, &now_ms);
            crowd.learn(batch + self.commands.len(), began.elapsed());
            if self.machine.is_failed() {
                // Asked to stop while the store was down: what came in the last moment is told so.
                self.refuse_waiting();
                return self.machine;
            }
        }
    }

    /// A command's place: in the next batch, or among the saves of episodes that wait for others. Nothing that is about an episode overtakes
    /// what was asked before about the same one.
    fn sort_in(&mut self, envelope: Envelope, batch: &mut Vec<Envelope>, now: Duration) {
        match &envelope.asked.command {
            Command::SaveEntity(EntitySave {
                kind: Kind::Episode,
                key,
                ..
            }) => self.episodes.push(key.clone(), envelope, now),
            Command::DeleteEntity {
                kind: Kind::Episode,
                key,
            } if self.episodes.holds(key) => {
                batch.append(&mut self.episodes.take());
                batch.push(envelope);
            }
            _ => batch.push(envelope),
        }
    }

    /// Tells everybody who asked before the gate closed.
    fn refuse_waiting(&mut self) {
        for envelope in self.episodes.take() {
            self.tell(vec![(envelope.reply_to, Err(store_is_down()))], None);
        }
        while let Ok(envelope) = self.commands.try_recv() {
            self.tell(vec![(envelope.reply_to, Err(store_is_down()))], None);
        }
    }

    fn commit(&mut self, waiting: Vec<Envelope>, wall_ms: u64, now_ms: &impl Fn() -> u64) {
        let mut askers = Vec::with_capacity(waiting.len());
        let mut commands = Vec::with_capacity(waiting.len());
        for envelope in waiting {
            askers.push(envelope.reply_to);
            commands.push(envelope.asked);
        }
        let refused = |askers: Vec<ReplyTo>, error: fn() -> ApiError| {
            let each = askers.into_iter().map(|asker| (asker, Err(error())));
            each.collect::<Vec<_>>()
        };
        let (asked, began) = (commands.len() as u64, Instant::now());
        let published = self.published.clone();
        let counters = published.counters();
        add(&counters.commands, asked);
        match self.machine.batch(commands, wall_ms) {
            Ok(applied) => {
                let refused = applied.outcomes.iter().filter(|it| it.is_err()).count();
                add(&counters.refused, refused as u64);
                if applied.commit.is_some() {
                    add(&counters.batches, 1);
                    counters.commits.count(began.elapsed());
                }
                let replies = askers.into_iter().zip(applied.outcomes).collect();
                self.tell(replies, applied.commit);
            }
            Err(failure) => {
                add(&counters.failures, 1);
                if !self.machine.is_failed() {
                    warn!(error = %failure, "the store refused a batch; nothing was changed");
                    self.tell(refused(askers, store_is_down), None);
                    return;
                }
                error!(error = %failure, "the store failed; writes are refused until it is back");
                self.published.writable.store(false, Ordering::Release);
                self.tell(refused(askers, outcome_unknown), None);
                if self.recover() {
                    self.note_failure(&failure, now_ms);
                }
            }
        }
    }

    /// Publishes, then wakes every core once with its replies and what was touched.
    fn tell(&self, outcomes: Vec<(ReplyTo, Result<Done, ApiError>)>, commit: Option<Arc<Commit>>) {
        if let Some(commit) = &commit {
            self.published.state.store(commit.state.clone());
            for follower in &self.followers {
                // One that has ended follows no more.
                let _ = follower.send(commit.clone());
            }
        }
        let mut replies: Vec<Vec<(Ticket, Result<Done, ApiError>)>> =
            self.cores.iter().map(|_| Vec::new()).collect();
        for (reply_to, outcome) in outcomes {
            match reply_to {
                ReplyTo::Core { index, ticket } => replies[index].push((ticket, outcome)),
                ReplyTo::Thread { replies, id } => {
                    let _ = replies.send((id, outcome));
                }
                ReplyTo::Nobody => {}
            }
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

    /// Puts into the event log what the store failed with, now that it is back. If it fails again, that is the next failure's story.
    fn note_failure(&mut self, failure: &StoreError, now_ms: &impl Fn() -> u64) {
        let event = NewEvent::new("database_error").text("message", &failure.to_string());
        let note = Command::Note {
            events: vec![event],
        };
        match self.machine.batch(vec![note], now_ms()) {
            Ok(applied) => self.tell(Vec::new(), applied.commit),
            Err(error) => {
                error!(%error, "the store failed again");
                if self.machine.is_failed() {
                    self.published.writable.store(false, Ordering::Release);
                    self.recover();
                }
            }
        }
    }

    /// False if the server is asked to stop before the store is back.
    fn recover(&mut self) -> bool {
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
                    self.tell(Vec::new(), commit);
                    self.published.writable.store(true, Ordering::Release);
                    return true;
                }
                Err(failure) => {
                    warn!(error = %failure, retry_ms = pause.as_millis() as u64, "the store cannot be opened yet");
                    if self.stop.load(Ordering::Acquire) {
                        return false;
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
        Command::Place { items } => items.len(),
        Command::SaveStreamers { items } => items.len(),
        Command::SetAgentLayouts { items } => items.len(),
        Command::KeepHouse { looked, .. } => looked.len(),
        _ => 1,
    }
}
