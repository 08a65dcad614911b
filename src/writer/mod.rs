//! The one thread that changes the state.
//!
//! It drains the waiting commands, applies each to a private next state, writes one batch with one
//! fsync, publishes the state and sends each core its replies and the commit in one message.
//! Nothing is sent (a reply, a poll's answer, a list) before the fsync returned. When the store
//! fails, the outcome of that batch is unknown: its clients get `storage_failed`, new writes
//! are refused, reads and polls go on with the last published state, and the store is opened again
//! until it can be read.

mod commands;
mod expiry;
pub mod insert_buffer;
mod machine;
pub mod permission;
mod published;
mod snapshot;
pub mod tables;

#[cfg(test)]
mod golden;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use tracing::{error, info, warn};
use weir_storage::{Storage, StoreError};

use self::commands::{disk_is_full, outcome_is_unknown, store_is_down, weight};
use self::expiry::Expiry;
use self::insert_buffer::{BufferSettings, InsertBuffer};
use crate::access::browser_sessions::{BrowserSessions, SessionCredential};
use crate::core::message::CoreMessage;
use crate::error::ApiError;
use crate::feed::Commit;
use crate::http::Ticket;
use crate::rt::Inbox;
use crate::state::State;
use crate::state::changes::Done;
use crate::state::command::{Command, EntitySave};
use crate::state::entity::Kind;
use crate::state::event::NewEvent;
use crate::state::retention::Retention;

pub use commands::{COMMANDS_WAITING_MAX, Commands, Envelope, ReplyTo};
#[cfg(test)]
pub use machine::NoStorage;
pub use machine::StateMachine;
pub use published::{Published, SafeMode};
pub use snapshot::SnapshotRecords;
pub use tables::{entity_table, load, tables};

/// Commands in one batch: bounds how long the first of them waits for the last to be applied.
const BATCH_COMMANDS_MAX: usize = 1024;
/// Records in one batch after which no further command is taken.
const BATCH_OPS_MAX: usize = 16 * 1024;
/// Longest sleep of the writer without a command.
const IDLE_WAIT: Duration = Duration::from_millis(200);
/// First and longest pause between attempts to open a failed store.
const REOPEN_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Pause between looks for space on a full disk, and between attempts to log a failure.
const SPACE_LOOK_PAUSE: Duration = Duration::from_secs(2);

/// A thread that follows the state, and the commits that it wants.
struct CommitFollower {
    sender: Sender<Arc<Commit>>,
    wants: fn(&Commit) -> bool,
}

/// The thread's own part: the queue of commands, the clock, the cores.
pub struct Writer<S> {
    machine: StateMachine<S>,
    commands: Receiver<Envelope>,
    published: Arc<Published>,
    cores: Vec<Arc<Inbox<CoreMessage>>>,
    followers: Vec<CommitFollower>,
    /// Saves of episodes that wait to be committed together.
    episodes: InsertBuffer<Envelope>,
    episodes_buffer: Arc<BufferSettings>,
    expiry: Expiry,
    unlogged: Option<StoreFailure>,
    stop: Arc<AtomicBool>,
    browsers: Arc<BrowserSessions>,
}

/// Ends the sessions of tokens that a state does not have.
fn end_sessions(browsers: &BrowserSessions, state: &State) {
    if browsers.is_empty() {
        return;
    }
    let tokens = state.entities(Kind::ApiToken).by_key().values();
    let known: HashSet<&[u8; 32]> = tokens.filter_map(|token| token.token_digest()).collect();
    browsers.retain(|credential| match credential {
        SessionCredential::Token(digest) => known.contains(digest),
        SessionCredential::ApiKey(_) | SessionCredential::Login(_) => true,
    });
}

/// A failure of the store that the event log does not have yet.
struct StoreFailure {
    message: String,
    /// Failed attempts to open the store after it.
    reopen_failures: u64,
    /// When to try to log it, on the writer's own clock.
    due: Duration,
}

impl<S: Storage> Writer<S> {
    pub fn new(
        machine: StateMachine<S>,
        published: Arc<Published>,
        cores: Vec<Arc<Inbox<CoreMessage>>>,
    ) -> (Self, Commands, Arc<AtomicBool>) {
        let (sender, commands) = bounded(COMMANDS_WAITING_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let handle = Commands {
            sender,
            published: published.clone(),
        };
        let writer = Self {
            expiry: Expiry::new(machine.state()),
            machine,
            commands,
            published,
            cores,
            followers: Vec::new(),
            episodes: InsertBuffer::default(),
            episodes_buffer: Arc::new(BufferSettings::new(Duration::ZERO, 0)),
            unlogged: None,
            stop: stop.clone(),
            browsers: Arc::default(),
        };
        (writer, handle, stop)
    }

    /// Sends every commit from now on, in order, to a thread that follows the state.
    pub fn follow(&mut self) -> Receiver<Arc<Commit>> {
        self.follow_some(|_| true)
    }

    /// Sends the commits that are wanted, in order. Each costs the writer a wake-up of the thread
    /// that waits for it.
    pub fn follow_some(&mut self, wants: fn(&Commit) -> bool) -> Receiver<Arc<Commit>> {
        let (sender, commits) = unbounded();
        self.followers.push(CommitFollower { sender, wants });
        commits
    }

    /// The sessions that end with their tokens.
    pub fn browsers(&self) -> Arc<BrowserSessions> {
        self.browsers.clone()
    }

    /// Sets how long saves of episodes wait for others. By default they do not wait.
    #[must_use]
    pub fn with_episodes_buffer(mut self, settings: Arc<BufferSettings>) -> Self {
        self.episodes_buffer = settings;
        self
    }

    /// Expires entities past their retention. By default every entity is kept.
    #[must_use]
    pub fn with_expiry(mut self, retention: Retention) -> Self {
        self.expiry.set_retention(retention);
        self
    }

    /// Runs until `stop` is set and no command waits.
    pub fn run(mut self, now_ms: impl Fn() -> u64) -> StateMachine<S> {
        let mut batch = Vec::new();
        let mut delay = GroupCommitDelay::default();
        let clock = Instant::now();
        let mut looked = Duration::ZERO;
        self.publish_space();
        loop {
            self.look_for_space(&mut looked, clock.elapsed());
            let is_ended = self.receive(&mut batch, &delay, clock);
            if is_ended || self.episodes.is_due(&self.episodes_buffer, clock.elapsed()) {
                batch.append(&mut self.episodes.take());
            }
            // One reading for the batch: the first stamp of a clock that jumped is committed with
            // the event that reports the jump.
            let wall_ms = now_ms();
            self.add_own_commands(&mut batch, wall_ms, clock.elapsed());
            let is_idle = batch.is_empty();
            if !is_idle {
                let (commands, began) = (batch.len(), Instant::now());
                self.commit(std::mem::take(&mut batch), wall_ms);
                delay.learn(commands + self.commands.len(), began.elapsed());
            }
            self.log_failure(wall_ms, clock.elapsed());
            if self.machine.is_failed() {
                // Stopped while the store was down: what arrived in the last moment is refused.
                self.refuse_waiting();
                return self.machine;
            }
            if is_idle && is_ended {
                return self.machine;
            }
        }
    }

    /// Waits for commands and takes a batch of them. True once the server is stopping.
    fn receive(
        &mut self,
        batch: &mut Vec<Envelope>,
        delay: &GroupCommitDelay,
        clock: Instant,
    ) -> bool {
        let rest = self.episodes.rest(&self.episodes_buffer, clock.elapsed());
        let wait = rest.map_or(IDLE_WAIT, |rest| rest.min(IDLE_WAIT));
        let first = match self.commands.recv_timeout(wait) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => return self.stop.load(Ordering::Acquire),
            Err(RecvTimeoutError::Disconnected) => return true,
        };
        delay.wait(|| self.commands.len() + 1);
        let (mut taken, mut ops) = (1, weight(&first.command.command));
        self.sort_in(first, batch, clock.elapsed());
        // A buffered save counts as well: an endless stream of them delays no other command.
        while taken < BATCH_COMMANDS_MAX && ops < BATCH_OPS_MAX {
            let Ok(envelope) = self.commands.try_recv() else {
                break;
            };
            taken += 1;
            ops += weight(&envelope.command.command);
            self.sort_in(envelope, batch, clock.elapsed());
        }
        false
    }

    /// Puts a command into the next batch, or a save of an episode into the buffer. No command
    /// about an episode overtakes an earlier one about the same episode.
    fn sort_in(&mut self, envelope: Envelope, batch: &mut Vec<Envelope>, now: Duration) {
        match &envelope.command.command {
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

    /// Adds the writer's own commands: a change of trust in the wall clock, and expired entities.
    fn add_own_commands(&mut self, batch: &mut Vec<Envelope>, wall_ms: u64, clock: Duration) {
        batch.extend(self.expiry.check_clocks(wall_ms, clock));
        self.machine.trust(self.expiry.trusted_ms(wall_ms, clock));
        let state = self.machine.state();
        batch.extend(self.expiry.next_slice(state, wall_ms, clock));
    }

    /// Refuses every command that arrived while the store was down.
    fn refuse_waiting(&mut self) {
        for envelope in self.episodes.take() {
            self.send(vec![(envelope.reply_to, Err(store_is_down()))], None);
        }
        while let Ok(envelope) = self.commands.try_recv() {
            self.send(vec![(envelope.reply_to, Err(store_is_down()))], None);
        }
    }

    /// Commits a batch. On a full disk the deletions in it come first and by themselves, or a save
    /// would have them refused.
    fn commit(&mut self, batch: Vec<Envelope>, wall_ms: u64) {
        let (deletions, others) = if self.machine.is_short_of_space() {
            let frees_space = |it: &Envelope| it.command.command.frees_space();
            batch.into_iter().partition(frees_space)
        } else {
            (Vec::new(), batch)
        };
        for part in [deletions, others] {
            if self.machine.is_failed() {
                let refused = part
                    .into_iter()
                    .map(|it| (it.reply_to, Err(store_is_down())));
                self.send(refused.collect(), None);
            } else if !part.is_empty() {
                self.commit_part(part, wall_ms);
            }
        }
        self.publish_space();
    }

    fn publish_space(&self) {
        let is_short = self.machine.is_short_of_space();
        self.published.set_short_of_space(is_short);
    }

    /// Looks for space on a full disk now and then: no client may be saving while the server is
    /// not ready.
    fn look_for_space(&mut self, looked: &mut Duration, now: Duration) {
        if self.machine.is_short_of_space() && now.saturating_sub(*looked) >= SPACE_LOOK_PAUSE {
            *looked = now;
            self.machine.look_for_space();
            self.publish_space();
        }
    }

    fn commit_part(&mut self, batch: Vec<Envelope>, wall_ms: u64) {
        let (mut replies_to, mut commands) = (Vec::new(), Vec::new());
        for envelope in batch {
            replies_to.push(envelope.reply_to);
            commands.push(envelope.command);
        }
        let began = Instant::now();
        let published = self.published.clone();
        let metrics = published.metrics();
        metrics.count_commands(commands.len());
        let failure = match self.machine.batch(commands, wall_ms) {
            Ok(applied) => {
                let took = applied.commit.as_ref().map(|_| began.elapsed());
                let refused = applied.outcomes.iter().filter(|it| it.is_err()).count();
                metrics.count_batch(refused, took);
                let replies = replies_to.into_iter().zip(applied.outcomes).collect();
                self.send(replies, applied.commit);
                return;
            }
            Err(failure) => failure,
        };
        metrics.count_failure();
        let refuse_all = |error: fn() -> ApiError| -> Vec<(ReplyTo, Result<Done, ApiError>)> {
            let each = replies_to.into_iter();
            each.map(|reply_to| (reply_to, Err(error()))).collect()
        };
        if !self.machine.is_failed() {
            warn!(error = %failure, "the store refused a batch; nothing was changed");
            let is_full = matches!(failure, StoreError::Full { .. });
            let reason = if is_full { disk_is_full } else { store_is_down };
            self.send(refuse_all(reason), None);
            return;
        }
        error!(error = %failure, "the store failed; writes are refused until it is back");
        self.published.set_writable(false);
        self.send(refuse_all(outcome_is_unknown), None);
        self.recover(&failure);
    }

    /// Publishes a commit, ends the sessions of tokens that it deleted or gave another key, then
    /// wakes every core at most once, with its replies and the commit.
    fn send(&self, outcomes: Vec<(ReplyTo, Result<Done, ApiError>)>, commit: Option<Arc<Commit>>) {
        if let Some(commit) = &commit {
            self.published.publish(commit.state.clone());
            if !commit.entities[Kind::ApiToken as usize].is_empty() {
                end_sessions(&self.browsers, &commit.state);
            }
            for follower in self.followers.iter().filter(|it| (it.wants)(commit)) {
                // A follower that has ended needs no more commits.
                let _ = follower.sender.send(commit.clone());
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
                ReplyTo::Discard => {}
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

    /// Adds a failure of the store to the event log, now that the store is back. If that write
    /// fails as well, it is tried again later.
    fn log_failure(&mut self, wall_ms: u64, clock: Duration) {
        let is_failed = self.machine.is_failed() || self.machine.is_short_of_space();
        let Some(failure) = self
            .unlogged
            .as_mut()
            .filter(|it| !is_failed && it.due <= clock)
        else {
            return;
        };
        failure.due = clock + SPACE_LOOK_PAUSE;
        let event = NewEvent::new("database_error").text("message", &failure.message);
        let event = match failure.reopen_failures {
            0 => event,
            count => event.number("reopen_failures", count),
        };
        let events = vec![event];
        match self
            .machine
            .batch(vec![Command::AppendEvents { events }], wall_ms)
        {
            Ok(applied) => {
                self.unlogged = None;
                self.send(Vec::new(), applied.commit);
            }
            Err(error) => {
                self.published.metrics().count_failure();
                error!(%error, "the store failed again; its failure is not logged yet");
                if self.machine.is_failed() {
                    self.published.set_writable(false);
                    self.recover(&error);
                }
                self.publish_space();
            }
        }
    }

    /// Opens the store until it works, or the server is stopped. The failure is then to be logged.
    fn recover(&mut self, failure: &StoreError) {
        let unlogged = self.unlogged.get_or_insert_with(|| StoreFailure {
            message: failure.to_string(),
            reopen_failures: 0,
            due: Duration::ZERO,
        });
        let failed_before = unlogged.reopen_failures;
        let (mut pause, mut failed) = (REOPEN_PAUSE.0, 0);
        loop {
            // Refused now, not when the store is back.
            self.refuse_waiting();
            match self.machine.recover() {
                Ok(commit) => {
                    let revision = self.machine.state().revision();
                    info!(revision, "the store is back");
                    self.send(Vec::new(), commit);
                    self.published.set_reopen_failures(0);
                    self.published.set_writable(true);
                    return;
                }
                Err(failure) => {
                    failed += 1;
                    self.count_reopen_failure(failed, failed_before + failed);
                    let retry_ms = pause.as_millis() as u64;
                    warn!(error = %failure, failed, retry_ms, "the store cannot be opened yet");
                    if self.stop.load(Ordering::Acquire) {
                        return;
                    }
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(REOPEN_PAUSE.1);
                }
            }
        }
    }

    fn count_reopen_failure(&mut self, in_a_row: u64, unlogged: u64) {
        self.published.metrics().count_reopen_failure();
        self.published.set_reopen_failures(in_a_row);
        if let Some(failure) = &mut self.unlogged {
            failure.reopen_failures = unlogged;
        }
    }
}

/// How long a batch waits for more commands: half a commit, while several clients are writing.
///
/// Without it, clients that each wait for their reply fall into two halves that take turns: one
/// half is being committed while the other queues, and each commit, whose cost hardly depends on
/// its size, serves half of what it could. A lone client never waits.
#[derive(Default)]
struct GroupCommitDelay {
    /// Clients that seem to be writing: those just answered and those that queued meanwhile.
    clients: usize,
    wait: Duration,
}

impl GroupCommitDelay {
    const MAX: Duration = Duration::from_micros(500);
    /// Pause between two looks at the queue. A wake-up per command would cost more than it gains.
    const LOOK_PAUSE: Duration = Duration::from_micros(50);

    /// Takes the measure of a commit: its commands and those that queued meanwhile, and its
    /// duration.
    fn learn(&mut self, clients: usize, took: Duration) {
        self.clients = clients.min(BATCH_COMMANDS_MAX);
        self.wait = (took / 2).min(Self::MAX);
    }

    /// Waits until as many commands are queued as at the last commit, or the delay is over.
    fn wait(&self, queued: impl Fn() -> usize) {
        if self.clients < 2 {
            return;
        }
        let began = Instant::now();
        while queued() < self.clients && began.elapsed() < self.wait {
            std::thread::sleep(Self::LOOK_PAUSE);
        }
    }
}
