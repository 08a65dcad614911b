//! The layouter's thread: the channels, the clock and the restart after a panic around the
//! [`Controller`].

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select, unbounded};
use tracing::{error, warn};

use super::controller::{Controller, ControllerSettings};
use super::intake::NodeStats;
use super::metrics::LayouterMetrics;
use super::run_log::RunLog;
use crate::error::ApiError;
use crate::feed::Commit;
use crate::feed::nodes::NodeTable;
use crate::rt::{sys, uptime_ms};
use crate::state::changes::Done;
use crate::state::command::Command;
use crate::state::name::Hostname;
use crate::writer::{Commands, Envelope, Published, ReplyTo};

/// Messages that may wait in the channel; more are refused.
const MESSAGES_WAITING_MAX: usize = 1024;

/// Rows of commits after which losses are looked for again.
const ROWS_PER_SLICE: usize = 4096;

/// Pause before a restart after a panic.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// A message to the layouter's thread, which also receives commits and reports.
pub enum LayouterMessage {
    /// New settings.
    Settings(Box<ControllerSettings>),
    /// A function to be run on the controller; it sends its result itself.
    Query(Box<dyn FnOnce(&Controller) + Send>),
    /// Improving moves are taken back; the function sends their number.
    DropImproving(Box<dyn FnOnce(u64) + Send>),
    /// The `stop` flag may have been set.
    Wake,
}

/// Sends messages to the layouter's thread.
#[derive(Clone)]
pub struct LayouterHandle(Sender<LayouterMessage>);

impl LayouterHandle {
    /// Returns whether the message was queued: the queue may be full, or the thread may have ended.
    pub fn send(&self, message: LayouterMessage) -> bool {
        !matches!(
            self.0.try_send(message),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_))
        )
    }
}

/// The channel of messages to a layouter.
pub fn channel() -> (LayouterHandle, Receiver<LayouterMessage>) {
    let (sender, receiver) = bounded(MESSAGES_WAITING_MAX);
    (LayouterHandle(sender), receiver)
}

/// Returns the last report of a node, unless it is outdated.
pub type StatsOf = Box<dyn Fn(&str) -> Option<NodeStats> + Send>;

/// Returns the reported bitrate of a stream on a node, kbit/s.
pub type BitrateOf = Box<dyn Fn(&str, &str) -> Option<u64> + Send>;

/// Returns whether a node runs a stream, by a report since a time of [`uptime_ms`].
pub type RunsOn = Box<dyn Fn(&str, &str, u64) -> bool + Send>;

/// Returns the number of streams in the last report of a node, unless it is outdated.
pub type ListedOn = Box<dyn Fn(&str) -> Option<u64> + Send>;

/// The connections of the layouter's thread to the other components.
pub struct LayouterContext {
    pub commits: Receiver<Arc<Commit>>,
    pub messages: Receiver<LayouterMessage>,
    /// Hostnames of streamers that have just reported.
    pub reports: Receiver<Hostname>,
    pub stats_of: StatsOf,
    pub bitrate_of: BitrateOf,
    pub runs_on: RunsOn,
    pub listed_on: ListedOn,
    pub commands: Commands,
    pub published: Arc<Published>,
    pub nodes: Arc<NodeTable>,
    pub metrics: Arc<LayouterMetrics>,
    /// The processor that it has for itself, if there are enough.
    pub processor: Option<usize>,
    /// The thread ends when this is set and a [`LayouterMessage::Wake`] arrives.
    pub stop: Arc<AtomicBool>,
}

/// Starts the thread.
pub fn start(
    settings: ControllerSettings,
    context: LayouterContext,
) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new()
        .name("layouter".into())
        .spawn(move || {
            if let Some(processor) = context.processor
                && let Err(error) = sys::pin_thread(&[processor])
            {
                warn!(processor, %error, "layouter thread not pinned");
            }
            let mut settings = settings;
            loop {
                let life = AssertUnwindSafe(|| run(&mut settings, &context));
                if catch_unwind(life).is_ok() {
                    return;
                }
                // Its state can be rebuilt from the stored rows; the other threads do not depend on
                // it.
                error!("layouter panicked; restarting it from the stored state");
                context.metrics.count_restart();
                if context.stop.load(Ordering::Acquire) {
                    return;
                }
                thread::sleep(RESTART_PAUSE);
            }
        })
}

/// Runs a controller until the writer ends or `stop` is set.
fn run(settings: &mut ControllerSettings, context: &LayouterContext) {
    let (replies, replied) = unbounded();
    let (ends, ended) = unbounded();
    let state = context.published.state().load_full();
    let metrics = context.metrics.clone();
    let nodes = context.nodes.clone();
    let mut moves = RunLog::new(metrics.decided());
    let mut controller = Controller::new(state, nodes, settings.clone(), uptime_ms(), metrics);
    let runs_now = |stream: &str, host: &Hostname| (context.runs_on)(stream, host, 0);
    controller.note_begun_handovers(runs_now);
    // Some of these wait for the next slice.
    let mut commits: VecDeque<Arc<Commit>> = VecDeque::new();
    let mut reported: Vec<Hostname> = Vec::new();
    let (mut received, mut handovers) = (Vec::new(), Vec::new());
    loop {
        send_commands(&mut controller, context, &replies);
        send_handover_ends(&mut controller, context, &ends);
        controller.update_gauges();
        let due_ms = if commits.is_empty() {
            controller.due_ms()
        } else {
            0
        };
        let pause = due_ms.saturating_sub(uptime_ms());
        let mut message = None;
        select! {
            recv(context.commits) -> commit => match commit {
                Ok(commit) => commits.push_back(commit),
                // The writer has ended.
                Err(_) => return,
            },
            recv(context.reports) -> hostname => reported.extend(hostname),
            recv(replied) -> reply => received.extend(reply),
            recv(ended) -> reply => handovers.extend(reply),
            recv(context.messages) -> sent => message = sent.ok(),
            default(Duration::from_millis(pause)) => {}
        }
        if context.stop.load(Ordering::Acquire) {
            return;
        }
        let (now_ms, began) = (uptime_ms(), Instant::now());
        controller.handle_losses(now_ms);
        // A commit is sent before the replies to its commands: in this order a reply finds its
        // rows.
        commits.extend(context.commits.try_iter());
        let slice = slice_of(&mut commits);
        if !slice.is_empty() {
            controller.commit(&slice, now_ms);
            controller.note_begun_handovers(runs_now);
        }
        if commits.is_empty() {
            handle_replies(&mut controller, &mut received, &mut handovers, now_ms);
        }
        reported.extend(context.reports.try_iter());
        handle_reports(&mut controller, context, &mut reported, now_ms);
        if let Some(message) = message {
            handle_message(&mut controller, settings, message, now_ms);
        }
        let (ticks, started) = (controller.ticks(), Instant::now());
        controller.advance(now_ms);
        if controller.ticks() > ticks {
            context.metrics.count_tick(started.elapsed());
        }
        moves.run(context.metrics.decided(), now_ms, began.elapsed());
    }
}

fn handle_message(
    controller: &mut Controller,
    settings: &mut ControllerSettings,
    message: LayouterMessage,
    now_ms: u64,
) {
    match message {
        LayouterMessage::Settings(new) => {
            settings.clone_from(&new);
            controller.set(*new, now_ms);
        }
        LayouterMessage::Query(query) => query(controller),
        LayouterMessage::DropImproving(report) => report(controller.drop_improving(now_ms)),
        LayouterMessage::Wake => {}
    }
}

/// The writer's reply to a numbered batch.
type BatchReply = (u64, Result<Done, ApiError>);

/// Handles replies to batches of layouts and of ends of handovers.
fn handle_replies(
    controller: &mut Controller,
    layouts: &mut Vec<BatchReply>,
    handovers: &mut Vec<BatchReply>,
    now_ms: u64,
) {
    for (id, outcome) in layouts.drain(..) {
        controller.on_reply(id, &outcome, now_ms);
    }
    for (number, outcome) in handovers.drain(..) {
        controller.on_handover_reply(number, &outcome, now_ms);
    }
}

/// Handles the reports of these nodes.
fn handle_reports(
    controller: &mut Controller,
    context: &LayouterContext,
    reported: &mut Vec<Hostname>,
    now_ms: u64,
) {
    for hostname in reported.drain(..) {
        controller.record_bitrates(&hostname, &context.bitrate_of, now_ms);
        controller.record_running(&hostname, now_ms, |stream, since_ms| {
            (context.runs_on)(stream, &hostname, since_ms)
        });
        controller.record_listed(&hostname, (context.listed_on)(&hostname), now_ms);
        if let Some(stats) = (context.stats_of)(&hostname) {
            controller.record_stats(&hostname, stats, now_ms);
        }
    }
}

/// Takes the oldest commits: at least one, and more up to a bound of rows.
fn slice_of(commits: &mut VecDeque<Arc<Commit>>) -> Vec<Arc<Commit>> {
    let mut slice = Vec::new();
    let mut rows = 0;
    while rows < ROWS_PER_SLICE
        && let Some(commit) = commits.pop_front()
    {
        rows += commit.streams.len() + commit.deleted_streams.len() + commit.streamers.len();
        slice.push(commit);
    }
    slice
}

/// Sends the events and the batches that are ready to the writer.
fn send_commands(
    controller: &mut Controller,
    context: &LayouterContext,
    replies: &Sender<BatchReply>,
) {
    let events = controller.take_events();
    if !events.is_empty() {
        let note = Envelope::unanswered(Command::AppendEvents { events });
        if let Err(error) = context.commands.send(note) {
            warn!(title = %error.items[0].title, "events of the layouter were not logged");
        }
    }
    let now_ms = uptime_ms();
    if let Some(command) = controller.next_pause_end(now_ms)
        && let Err(error) = context.commands.send(Envelope::unanswered(command))
    {
        warn!(title = %error.items[0].title, "end of the pause not written; retrying");
    }
    while let Some((id, items)) = controller.next_batch(now_ms) {
        if let Err(error) = send_batch(context, Command::Place { items }, id, replies) {
            controller.on_reply(id, &Err(error), now_ms);
        }
    }
}

/// Sends the ends of handovers that are due to the writer.
fn send_handover_ends(
    controller: &mut Controller,
    context: &LayouterContext,
    replies: &Sender<BatchReply>,
) {
    let now_ms = uptime_ms();
    while let Some((id, items)) = controller.next_handover_ends(now_ms) {
        if let Err(error) = send_batch(context, Command::EndHandovers { items }, id, replies) {
            controller.on_handover_reply(id, &Err(error), now_ms);
        }
    }
}

/// Sends a numbered batch to the writer, whose reply goes to `replies`.
fn send_batch(
    context: &LayouterContext,
    command: Command,
    id: u64,
    replies: &Sender<BatchReply>,
) -> Result<(), ApiError> {
    let replies = replies.clone();
    context.commands.send(Envelope {
        command: command.into(),
        reply_to: ReplyTo::Thread { replies, id },
    })
}
