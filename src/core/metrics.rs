//! The counters of one core. Sent on request to the core that renders the metrics of all cores.

use std::sync::Arc;

use crate::http::Counters;
use crate::metrics::Histogram;

/// Polls of one core.
#[derive(Debug, Clone, Copy, Default)]
pub struct PollCounts {
    pub core: usize,
    /// Polls that are parked now.
    pub parked: u64,
    /// Polls that were parked since its start.
    pub parked_ever: u64,
}

/// The counters of one core since its start.
#[derive(Debug, Clone)]
pub struct CoreMetrics {
    pub index: usize,
    pub http: Counters,
    /// Answers by the first digit of their status, 1 to 5.
    pub answers: [u64; 5],
    /// Polls that are parked now.
    pub parked: u64,
    /// How long its tasks ran without a break.
    pub stalls: Arc<Histogram>,
}
