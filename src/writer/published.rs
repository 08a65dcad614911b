//! What every other thread sees of the writer: the newest durable state, whether the store accepts
//! writes, and the writer's metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::error::{self, ApiError};
use crate::metrics::{Histogram, add};
use crate::state::State;

/// The published state. Written by the writer only.
pub struct Published {
    state: ArcSwap<State>,
    writable: AtomicBool,
    short_of_space: AtomicBool,
    reopen_failures: AtomicU64,
    /// The newest revision that the tables of the store have; later ones are in its log.
    applied_revision: Arc<AtomicU64>,
    metrics: WriterMetrics,
    safe_mode: Option<SafeMode>,
}

/// What a server does whose store could not be opened several times in a row.
#[derive(Clone, Copy, Debug)]
pub struct SafeMode {
    /// All records could be read, so only changes are refused. Otherwise every request is: a list
    /// without the records that are damaged would be taken for the whole.
    pub is_readable: bool,
}

impl SafeMode {
    pub fn error(self) -> ApiError {
        if self.is_readable {
            return error::SAFE_MODE.error();
        }
        let title = "Safe mode after failed starts: the store cannot be read; the server's log has \
                     the cause";
        error::SAFE_MODE.titled(title)
    }
}

impl Published {
    pub fn new(state: Arc<State>) -> Self {
        Self {
            state: ArcSwap::new(state),
            writable: AtomicBool::new(true),
            short_of_space: AtomicBool::new(false),
            reopen_failures: AtomicU64::new(0),
            applied_revision: Arc::default(),
            metrics: WriterMetrics::default(),
            safe_mode: None,
        }
    }

    /// With a safe mode changes are refused from the beginning.
    #[must_use]
    pub fn with_safe_mode(mut self, safe_mode: Option<SafeMode>) -> Self {
        self.writable = AtomicBool::new(safe_mode.is_none());
        self.safe_mode = safe_mode;
        self
    }

    pub fn safe_mode(&self) -> Option<SafeMode> {
        self.safe_mode
    }

    /// Sets where the store counts what its tables have.
    #[must_use]
    pub fn with_applied_revision(mut self, applied: Arc<AtomicU64>) -> Self {
        self.applied_revision = applied;
        self
    }

    pub fn applied_revision(&self) -> u64 {
        self.applied_revision.load(Ordering::Relaxed)
    }

    pub fn metrics(&self) -> &WriterMetrics {
        &self.metrics
    }

    /// The newest durable state; a core keeps it through [`arc_swap::Cache`].
    pub fn state(&self) -> &ArcSwap<State> {
        &self.state
    }

    /// False while the store is failing.
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    /// True while the disk is full: saves are refused, deletions go on.
    pub fn is_short_of_space(&self) -> bool {
        self.short_of_space.load(Ordering::Acquire)
    }

    /// Failed attempts in a row to open the failed store; 0 while it takes writes.
    pub fn reopen_failures(&self) -> u64 {
        self.reopen_failures.load(Ordering::Acquire)
    }

    pub(super) fn set_reopen_failures(&self, in_a_row: u64) {
        self.reopen_failures.store(in_a_row, Ordering::Release);
    }

    pub(super) fn set_short_of_space(&self, is_short: bool) {
        self.short_of_space.store(is_short, Ordering::Release);
    }

    pub(super) fn set_writable(&self, is_writable: bool) {
        self.writable.store(is_writable, Ordering::Release);
    }

    pub(super) fn publish(&self, state: Arc<State>) {
        self.state.store(state);
    }
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct WriterMetrics {
    /// Time from the first command applied to the batch being durable, of batches with changes.
    pub commits: Histogram,
    batches: AtomicU64,
    commands: AtomicU64,
    refused: AtomicU64,
    failures: AtomicU64,
    reopen_failures: AtomicU64,
}

impl WriterMetrics {
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    pub fn commands(&self) -> u64 {
        self.commands.load(Ordering::Relaxed)
    }

    /// Commands that were refused by the state or the schema.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Batches that the store failed on.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    pub(super) fn count_commands(&self, commands: usize) {
        add(&self.commands, commands as u64);
    }

    /// Counts an applied batch; `took` is absent if it changed nothing.
    pub(super) fn count_batch(&self, refused: usize, took: Option<Duration>) {
        add(&self.refused, refused as u64);
        if let Some(took) = took {
            add(&self.batches, 1);
            self.commits.count(took);
        }
    }

    /// Failed attempts to open the store after it failed.
    pub fn reopen_failures(&self) -> u64 {
        self.reopen_failures.load(Ordering::Relaxed)
    }

    pub(super) fn count_reopen_failure(&self) {
        add(&self.reopen_failures, 1);
    }

    pub(super) fn count_failure(&self) {
        add(&self.failures, 1);
    }
}
