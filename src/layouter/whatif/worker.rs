//! The what-if worker: a thread that answers queries about layouts, and one for the capacity of
//! large clusters, which takes seconds.
//!
//! A query is answered from a snapshot of the engine and of the state it is based on, taken when
//! the query's turn comes: the layouter continues meanwhile, and an answer is consistent. Queries
//! wait in a bounded queue; if it is full they are refused.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::assumed::AssumedEvent;
use super::consequences::PreviewVisibility;
use super::pages::PreviewPages;
use super::snapshot::{RenderLayout, WhatIfSnapshot};
use super::{capacity, explain, preview, verdicts};
use crate::error::{self, ApiError};
use crate::layouter::controller::Controller;
use crate::layouter::thread::{LayouterHandle, LayouterMessage};
use crate::rt::sys::thread_time;
use crate::state::batch::BatchItems;
use crate::state::command::{Command, LayoutPatch, MaintenanceRequest};
use crate::state::name::{Hostname, StreamName};

/// Queries that may wait: most take milliseconds, a few take seconds.
const QUERIES_WAITING_MAX: usize = 256;

/// Longest wait for a snapshot: the layouter may be in the middle of a large change.
const SNAPSHOT_WAIT_MAX: Duration = Duration::from_secs(20);

/// A query about layouts.
#[derive(Debug)]
pub enum WhatIfQuery {
    /// Streams that these commands would place differently.
    Layouts(PreviewRequest),
    /// What a change of selected streams would move.
    Moves(Box<Command>, PreviewVisibility),
    /// Nodes whose number of streams these commands would change.
    Loads(PreviewRequest),
    /// Consequences of assumed events.
    Cluster(Vec<AssumedEvent>, PreviewVisibility),
    /// Consequences of the maintenance of a streamer.
    Maintenance(Hostname, MaintenanceRequest, PreviewVisibility),
    /// Which of these layouts the layouter would undo.
    Verdicts(BatchItems<StreamName, LayoutPatch>),
    /// How many more streams fit.
    Capacity,
    /// The layout of a stream, with every node's decision about it: one by one, or in groups of
    /// equal reasons.
    Explain { name: StreamName, grouped: bool },
    /// A finished page of streams, to be completed with every node's decision about each.
    Decisions { page: Box<[u8]> },
}

/// Commands to be previewed, and the page of the result that is wanted.
#[derive(Debug)]
pub struct PreviewRequest {
    pub commands: Vec<Command>,
    /// Changes of hidden entities are counted, not named.
    pub visible: PreviewVisibility,
    /// Equal for equal commands.
    pub digest: u64,
    /// The query string: select, sort, limit, cursor.
    pub query: Box<str>,
}

/// Receives the answer, as the JSON body of a response, and the processor time that it took.
pub type WhatIfReply = Box<dyn FnOnce(Result<Vec<u8>, ApiError>, Duration) + Send>;

/// A query, and what receives its answer.
type PendingQuery = (WhatIfQuery, WhatIfReply);

/// Sends queries to the worker's threads.
#[derive(Clone)]
pub struct WhatIfWorker {
    queries: Sender<PendingQuery>,
    capacities: Sender<PendingQuery>,
}

impl WhatIfWorker {
    /// Starts the threads.
    pub fn start(layouter: LayouterHandle, render: RenderLayout) -> std::io::Result<Self> {
        let start = |name: &str| {
            let (sender, queries) = bounded(QUERIES_WAITING_MAX);
            let layouter = layouter.clone();
            thread::Builder::new()
                .name(name.into())
                .spawn(move || run(&queries, &layouter, render))?;
            std::io::Result::Ok(sender)
        };
        Ok(Self {
            queries: start("whatif")?,
            capacities: start("capacity")?,
        })
    }

    /// A worker without a thread, which refuses every query.
    #[cfg(test)]
    pub fn closed() -> Self {
        Self {
            queries: bounded(1).0,
            capacities: bounded(1).0,
        }
    }

    /// Queues a query; `reply` is called on a thread of the worker. Without room in the queue,
    /// `reply` is dropped and an error returned.
    pub fn query(&self, query: WhatIfQuery, reply: WhatIfReply) -> Result<(), ApiError> {
        let queue = match query {
            WhatIfQuery::Capacity => &self.capacities,
            _ => &self.queries,
        };
        queue
            .try_send((query, reply))
            .map_err(|refused| match refused {
                TrySendError::Full(_) => error::LAYOUTER_BUSY
                    .titled("Too many queries about layouts are waiting; repeat the request")
                    .retry_after(1),
                TrySendError::Disconnected(_) => no_layouter(),
            })
    }
}

fn no_layouter() -> ApiError {
    error::LAYOUTER_BUSY.error()
}

/// The error of queries while the layouter is disabled.
pub fn layouter_disabled() -> ApiError {
    error::LAYOUTER_DISABLED.error()
}

/// Requests a snapshot from the layouter's thread.
fn snapshot_of(layouter: &LayouterHandle) -> Result<WhatIfSnapshot, ApiError> {
    let (sender, snapshot) = bounded(1);
    let query = LayouterMessage::Query(Box::new(move |controller: &Controller| {
        // The worker may have given up waiting.
        let _ = sender.send(WhatIfSnapshot::of(controller));
    }));
    if !layouter.send(query) {
        return Err(no_layouter());
    }
    match snapshot.recv_timeout(SNAPSHOT_WAIT_MAX) {
        Ok(Some(snapshot)) => Ok(snapshot),
        Ok(None) => Err(layouter_disabled()),
        Err(_) => Err(no_layouter()),
    }
}

fn run(queries: &Receiver<PendingQuery>, layouter: &LayouterHandle, render: RenderLayout) {
    let mut pages = PreviewPages::default();
    for (query, reply) in queries {
        let used = thread_time();
        // A panic fails one query, not the worker.
        let answer = AssertUnwindSafe(|| answer(query, layouter, render, &mut pages));
        let outcome = catch_unwind(answer);
        let outcome = outcome.unwrap_or_else(|_| Err(ApiError::internal("layout-desk")));
        reply(outcome, thread_time().saturating_sub(used));
    }
}

fn answer(
    query: WhatIfQuery,
    layouter: &LayouterHandle,
    render: RenderLayout,
    pages: &mut PreviewPages,
) -> Result<Vec<u8>, ApiError> {
    let snapshot = || snapshot_of(layouter);
    match query {
        WhatIfQuery::Layouts(request) => {
            pages.page(&request.query, request.digest, &preview::LAYOUTS, || {
                preview::layouts(&snapshot()?, request.commands, &request.visible)
            })
        }
        WhatIfQuery::Loads(request) => {
            pages.page(&request.query, request.digest, &preview::LOADS, || {
                preview::loads(&snapshot()?, request.commands, &request.visible)
            })
        }
        WhatIfQuery::Moves(command, visible) => preview::moves(&snapshot()?, *command, &visible),
        WhatIfQuery::Cluster(events, visible) => preview::cluster(&snapshot()?, events, &visible),
        WhatIfQuery::Maintenance(hostname, wanted, visible) => {
            preview::maintenance(&snapshot()?, &hostname, wanted, &visible)
        }
        WhatIfQuery::Verdicts(items) => verdicts::render(&snapshot()?, items),
        WhatIfQuery::Capacity => Ok(capacity::render(&snapshot()?)),
        WhatIfQuery::Explain { name, grouped } => {
            explain::render(&snapshot()?, &name, grouped, render)
        }
        WhatIfQuery::Decisions { page } => Ok(explain::with_decisions(&snapshot()?, &page)),
    }
}
