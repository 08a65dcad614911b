//! The layouter's thread: its channels and its clock.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select, unbounded};
use tracing::{error, info, warn};

use super::controller::{Layouter, RunSettings};
use super::intake::NodeStats;
use super::tally::Tally;
use crate::feed::Commit;
use crate::http::error::ApiError;
use crate::rt::{sys, uptime_ms};
use crate::state::command::{Command, Done};
use crate::state::name::Hostname;
use crate::writer::{Commands, Envelope, Published, ReplyTo};

/// Inputs that may wait; more are refused.
const INPUTS_WAITING_MAX: usize = 1024;

/// What the layouter's thread is told, beside commits.
pub enum Input {
    /// Other settings, from now on.
    Settings(Box<RunSettings>),
    /// Somebody asks; the answer goes where the question says.
    Ask(Box<dyn FnOnce(&Layouter) + Send>),
    /// Time to look whether to end.
    Wake,
}
/// What others hold of the layouter's thread.
#[derive(Clone)]
pub struct Inputs(Sender<Input>);

impl Inputs {
    /// Tells the layouter something. False if too much waits already, or it has ended.
    pub fn send(&self, input: Input) -> bool {
        !matches!(
            self.0.try_send(input),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_))
        )
    }
}

/// Where the inputs of a layouter come from.
pub fn inputs() -> (Inputs, Receiver<Input>) {
    let (sender, receiver) = bounded(INPUTS_WAITING_MAX);
    (Inputs(sender), receiver)
}

/// What a node reported last, if it still holds.
pub type StatsOf = Box<dyn Fn(&str) -> Option<NodeStats> + Send>;

/// What a node says that a stream takes, kbit/s: stream, node.
pub type BitrateOf = Box<dyn Fn(&str, &str) -> Option<u64> + Send>;

/// What the thread works with.
pub struct Ports {
    pub commits: Receiver<Arc<Commit>>,
    pub inputs: Receiver<Input>,
    /// Streamers as they report, and what they reported.
    pub reports: Receiver<Hostname>,
    pub stats_of: StatsOf,
    pub bitrate_of: BitrateOf,
    pub commands: Commands,
    pub published: Arc<Published>,
    pub tally: Arc<Tally>,
    /// Set, and followed by an [`Input::Wake`]: the thread ends.
    pub stop: Arc<AtomicBool>,
}

/// Runs a layouter on a thread of its own, on a processor of its own if there are more than two.
pub fn start(settings: RunSettings, ports: Ports) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new()
        .name("layouter".into())
        .spawn(move || {
            let processors = thread::available_parallelism().map_or(1, usize::from);
            if processors > 2
                && let Err(error) = sys::pin_to_core(processors - 1)
            {
                info!(%error, "the layouter has no processor of its own");
            }
            let mut settings = settings;
            loop {
                let life = AssertUnwindSafe(|| work(&mut settings, &ports));
                if catch_unwind(life).is_ok() {
                    return;
                }
                // What it knows can be had anew from what is stored, and everything else goes on meanwhile.
                error!("the layouter panicked; it begins anew on what is stored");
                ports.tally.restarted();
                if ports.stop.load(Ordering::Acquire) {
                    return;
                }
                thread::sleep(Duration::from_secs(1));
            }
        })
}

fn work(settings: &mut RunSettings, ports: &Ports) {
    let (answers, answered) = unbounded();
    let state = ports.published.state().load_full();
    let tally = ports.tally.clone();
    let mut layouter = Layouter::new(state, settings.clone(), uptime_ms(), tally);
    let mut commits: Vec<Arc<Commit>> = Vec::new();
    let mut reported: Vec<Hostname> = Vec::new();
    let mut answer: Option<(u64, Result<Done, ApiError>)> = None;
    loop {
        send(&mut layouter, ports, &answers);
        layouter.stand();
        let pause = layouter.due_ms().saturating_sub(uptime_ms());
        let mut input = None;
        select! {
            recv(ports.commits) -> commit => match commit {
                Ok(commit) => commits.push(commit),
                // The writer has ended.
                Err(_) => return,
            },
            recv(ports.reports) -> hostname => reported.extend(hostname),
            recv(answered) -> message => answer = message.ok(),
            recv(ports.inputs) -> message => input = message.ok(),
            default(Duration::from_millis(pause)) => {}
        }
        if ports.stop.load(Ordering::Acquire) {
            return;
        }
        let now_ms = uptime_ms();
        // A commit is sent before the answers to what is in it: taken in this order, an answer finds the rows it is about.
        commits.extend(ports.commits.try_iter());
        if !commits.is_empty() {
            layouter.commit(&commits, now_ms);
            commits.clear();
        }
        if let Some((id, outcome)) = answer.take() {
            layouter.answered(id, &outcome, now_ms);
        }
        reported.extend(ports.reports.try_iter());
        for hostname in reported.drain(..) {
            layouter.weigh(&hostname, &ports.bitrate_of, now_ms);
            if let Some(stats) = (ports.stats_of)(&hostname) {
                layouter.measured(&hostname, stats, now_ms);
            }
        }
        match input {
            Some(Input::Settings(new)) => {
                settings.clone_from(&new);
                layouter.set(*new, now_ms);
            }
            Some(Input::Ask(ask)) => ask(&layouter),
            Some(Input::Wake) | None => {}
        }
        let (rounds, began) = (layouter.rounds, Instant::now());
        layouter.advance(now_ms);
        if layouter.rounds > rounds {
            ports.tally.round(began.elapsed());
        }
    }
}

/// Hands over what is planned, as far as it is taken.
fn send(layouter: &mut Layouter, ports: &Ports, answers: &Sender<(u64, Result<Done, ApiError>)>) {
    let events = layouter.take_events();
    if !events.is_empty() {
        let note = Envelope::unanswered(Command::AppendEvents { events });
        if let Err(error) = ports.commands.send(note) {
            warn!(title = %error.items[0].title, "events of the layouter are lost");
        }
    }
    let now_ms = uptime_ms();
    while let Some((id, items)) = layouter.next_command(now_ms) {
        let sent = ports.commands.send(Envelope {
            command: Command::Place { items }.into(),
            reply_to: ReplyTo::Thread {
                replies: answers.clone(),
                id,
            },
        });
        if let Err(error) = sent {
            layouter.answered(id, &Err(error), now_ms);
        }
    }
}
