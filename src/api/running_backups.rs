//! The backups that are being sent: their limits, and their number, which is bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{self, ApiError};

/// Backups that are sent at a time.
const BACKUPS_MAX: u64 = 2;

/// Limits of a backup.
#[derive(Clone, Copy)]
pub struct BackupLimits {
    pub bytes_per_second: u64,
    pub time_max: Duration,
}

/// The backups that are being sent, and counts of the others.
#[derive(Default)]
pub struct Backups {
    running: AtomicU64,
    completed: AtomicU64,
    refused: AtomicU64,
}

impl Backups {
    pub fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    pub fn completed(&self) -> u64 {
        self.completed.load(Ordering::Relaxed)
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// One of the backups that are being sent, until it is dropped.
pub struct RunningBackup(Arc<Backups>);

impl RunningBackup {
    pub fn begin(backups: &Arc<Backups>) -> Result<Self, ApiError> {
        let one_more = |running| (running < BACKUPS_MAX).then_some(running + 1);
        let begun = backups
            .running
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        if begun.is_err() {
            backups.refused.fetch_add(1, Ordering::Relaxed);
            return Err(error::TOO_MANY_BACKUPS.error());
        }
        Ok(Self(backups.clone()))
    }

    /// It was sent to its end.
    pub fn note_completed(&self) {
        self.0.completed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for RunningBackup {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}
