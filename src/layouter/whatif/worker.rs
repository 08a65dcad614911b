//! The desk: where questions about layouts are answered, on a thread of their own.
//!
//! A question is answered from a snapshot of the engine and the state it knows, taken when the question comes up: the layouter goes on
//! meanwhile, and what an answer says belongs together. Questions wait in a bounded queue; one that finds it full is told to come again.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::pages::Answers;
use super::{capacity, explain, preview};
use crate::access::rights::Visibility;
use crate::error::{self, ApiError};
use crate::layouter::Engine;
use crate::layouter::controller::Controller;
use crate::layouter::intake::NodeStats;
use crate::layouter::thread::{LayouterHandle, LayouterMessage};
use crate::rt::uptime_ms;
use crate::state::State;
use crate::state::command::Command;
use crate::state::name::{Hostname, StreamName};

/// Questions that may wait: each takes milliseconds, a few of them seconds.
const WAITING_MAX: usize = 256;

/// How long the layouter may take to come to a question: it may be in the middle of a large change.
const LOOK_MAX: Duration = Duration::from_secs(20);

/// The layouter at one moment.
pub struct Snapshot {
    pub engine: Engine,
    /// What the engine knows.
    pub state: Arc<State>,
    stats: HashMap<Hostname, NodeStats>,
    /// On the layouter's clock.
    pub now_ms: u64,
}

impl Snapshot {
    /// Nothing while the layouter is switched off.
    fn of(layouter: &Controller) -> Option<Self> {
        let state = layouter.state().clone();
        let hosts = state.streamers().keys();
        let stats = hosts.filter_map(|host| Some((host.clone(), *layouter.stats(host)?)));
        Some(Self {
            engine: layouter.engine()?.snapshot(),
            stats: stats.collect(),
            now_ms: uptime_ms(),
            state,
        })
    }

    pub fn node_stats(&self, hostname: &str) -> Option<NodeStats> {
        self.stats.get(hostname).copied()
    }
}

/// What can be asked.
#[derive(Debug)]
pub enum Question {
    /// Which streams would be placed differently if these commands were carried out.
    Layouts(Supposition),
    /// Which nodes would have another number of streams.
    Loads(Supposition),
    /// What would come of events that have not happened.
    Cluster(Vec<preview::Supposed>),
    /// How much more fits.
    Capacity,
    /// Where a stream is, why, and where else it could be.
    Explain(StreamName),
    /// A finished page of streams, to be completed with every node's decision about each.
    Decisions { page: Box<[u8]> },
}

/// Commands that are not to be carried out, and how the answer is to be listed.
#[derive(Debug)]
pub struct Supposition {
    pub commands: Vec<Command>,
    /// Changes of what is out of sight are counted, not named.
    pub visible: Visibility,
    /// Equal for equal commands.
    pub digest: u64,
    /// The query string: select, sort, limit, cursor.
    pub query: Box<str>,
}

/// Takes the answer, on the desk's thread.
pub type OnAnswer = Box<dyn FnOnce(Result<Vec<u8>, ApiError>) + Send>;

struct Inquiry {
    question: Question,
    on_answer: OnAnswer,
}

/// Where io cores hand in questions.
#[derive(Clone)]
pub struct Desk {
    inquiries: Sender<Inquiry>,
}

impl Desk {
    /// Starts the thread.
    pub fn start(layouter: LayouterHandle) -> std::io::Result<Self> {
        let (sender, inquiries) = bounded(WAITING_MAX);
        thread::Builder::new()
            .name("desk".into())
            .spawn(move || serve(&inquiries, &layouter))?;
        Ok(Self { inquiries: sender })
    }

    /// A desk that nobody sits at: every question is refused.
    pub fn closed() -> Self {
        Self {
            inquiries: bounded(1).0,
        }
    }

    pub fn ask(&self, question: Question, on_answer: OnAnswer) -> Result<(), ApiError> {
        let inquiry = Inquiry {
            question,
            on_answer,
        };
        self.inquiries
            .try_send(inquiry)
            .map_err(|refused| match refused {
                TrySendError::Full(_) => error::LAYOUTER_BUSY.titled("More questions about layouts are waiting than can be answered in time; repeat the request").retry_after(1),
                TrySendError::Disconnected(_) => no_layouter(),
            })
    }
}

fn no_layouter() -> ApiError {
    error::LAYOUTER_BUSY.titled("The layouter does not answer")
}

/// The error of questions about a layouter that does nothing.
pub fn layouter_disabled() -> ApiError {
    error::LAYOUTER_DISABLED.error()
}

/// Asks the layouter for a snapshot.
fn look(layouter: &LayouterHandle) -> Result<Snapshot, ApiError> {
    let (sender, snapshot) = bounded(1);
    let ask = LayouterMessage::Query(Box::new(move |layouter: &Controller| {
        // Whoever asked may have given up.
        let _ = sender.send(Snapshot::of(layouter));
    }));
    if !layouter.send(ask) {
        return Err(no_layouter());
    }
    match snapshot.recv_timeout(LOOK_MAX) {
        Ok(Some(snapshot)) => Ok(snapshot),
        Ok(None) => Err(layouter_disabled()),
        Err(_) => Err(no_layouter()),
    }
}

fn serve(inquiries: &Receiver<Inquiry>, layouter: &LayouterHandle) {
    let mut answers = Answers::default();
    for Inquiry {
        question,
        on_answer,
    } in inquiries
    {
        // A question that brings down its answerer is one request's trouble, not the server's.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            answer(question, layouter, &mut answers)
        }))
        .unwrap_or_else(|_| Err(ApiError::internal("layout-desk")));
        on_answer(outcome);
    }
}

fn answer(
    question: Question,
    layouter: &LayouterHandle,
    answers: &mut Answers,
) -> Result<Vec<u8>, ApiError> {
    let look = || look(layouter);
    match question {
        Question::Layouts(asked) => {
            answers.page(&asked.query, asked.digest, &preview::LAYOUTS, || {
                preview::layouts(&look()?, asked.commands, &asked.visible)
            })
        }
        Question::Loads(asked) => answers.page(&asked.query, asked.digest, &preview::LOADS, || {
            preview::loads(&look()?, asked.commands, &asked.visible)
        }),
        Question::Cluster(events) => preview::cluster(&look()?, events),
        Question::Capacity => Ok(capacity::render(&look()?)),
        Question::Explain(name) => explain::render(&look()?, &name),
        Question::Decisions { page } => Ok(explain::with_decisions(&look()?, &page)),
    }
}
