//! The one thread that changes things.
//!
//! It drains the commands that wait, applies each to a private next state, writes one batch with one fsync, publishes the state and tells
//! the cores: replies and what was touched in one message and one wake per core. Nobody is told anything (a reply, a poll,
//! a list) before the fsync returned. When the store fails the outcome of that batch is unknown: its writers are told so, new
//! writes are refused, reads and polls go on with the last published state, and the store is opened anew until it tells what is true.

mod commands;
pub mod insert_buffer;
mod machine;
mod tables;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use tracing::{error, info, warn};
use weir_storage::{Log, StoreError};

use crate::agents::messages::Message;
use self::commands::{outcome_unknown, store_is_down, weight};
use self::insert_buffer::{BufferSettings, InsertBuffer};
use crate::api::measure::Gathering;
use crate::feed::Commit;
use crate::http::Ticket;
use crate::http::error::ApiError;
use crate::metrics::{Histogram, add};
use crate::outbound;
use crate::rt::Inbox;
use crate::state::State;
use crate::state::command::{Command, Done, EntitySave};
use crate::state::entity::Kind;
use crate::state::event::NewEvent;
use crate::state::retention::{self, Retention};
use crate::state::trusted_time::TrustedTime;

pub use commands::{COMMANDS_WAITING_MAX, Commands, Envelope, ReplyTo};
pub use machine::{Applied, Machine};
pub use tables::{EVENTS, NODES, STREAMERS, STREAMS, entity_table, load, tables};

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
