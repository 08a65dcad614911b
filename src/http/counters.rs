//! Counters: what the connections of one core did since it started, and what is open now.
//!
//! Plain cells of one thread; `Connections::counters` copies them for the metrics.

use std::cell::Cell;

use super::buffers::BufferUsage;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub connections: ConnectionCounters,
    pub buffers: BufferUsage,
    /// Requests with a well-formed head.
    pub requests: u64,
    /// Answers that were sent after a wait.
    pub waits: u64,
    /// Malformed requests.
    pub refused: u64,
    /// Requests that did not arrive in time.
    pub too_slow: u64,
    /// Waiting requests whose client closed the connection.
    pub abandoned: u64,
    pub panics: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Complete lines of upgraded connections.
    pub lines_in: u64,
    pub waiting: u64,
}

/// How connections began and ended, and how many are open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionCounters {
    pub accepted: u64,
    /// Closed because of `connections_max`: at once, or because one that is reserved for probes
    /// was used for something else.
    pub shed: u64,
    /// Closed at once because their address has its share.
    pub shed_by_address: u64,
    /// Calls of `accept` that failed because descriptors were exhausted.
    pub exhausted: u64,
    /// Ended because the client did not take its answers.
    pub stalled: u64,
    pub open: u64,
    /// Open connections that are upgraded.
    pub upgraded: u64,
}

/// The counters of a running core; the others belong to the table.
#[derive(Default)]
pub(super) struct CounterCells {
    pub(super) accepted: Cell<u64>,
    pub(super) shed: Cell<u64>,
    pub(super) exhausted: Cell<u64>,
    pub(super) requests: Cell<u64>,
    pub(super) waits: Cell<u64>,
    pub(super) refused: Cell<u64>,
    pub(super) too_slow: Cell<u64>,
    pub(super) stalled: Cell<u64>,
    pub(super) abandoned: Cell<u64>,
    pub(super) panics: Cell<u64>,
    pub(super) bytes_in: Cell<u64>,
    pub(super) bytes_out: Cell<u64>,
    pub(super) lines_in: Cell<u64>,
    pub(super) waiting: Cell<u64>,
    pub(super) upgraded: Cell<u64>,
}

impl CounterCells {
    pub(super) fn read(&self, open: usize, shed_by_address: u64, buffers: BufferUsage) -> Counters {
        Counters {
            buffers,
            connections: ConnectionCounters {
                accepted: self.accepted.get(),
                shed: self.shed.get(),
                shed_by_address,
                exhausted: self.exhausted.get(),
                stalled: self.stalled.get(),
                open: open as u64,
                upgraded: self.upgraded.get(),
            },
            requests: self.requests.get(),
            waits: self.waits.get(),
            refused: self.refused.get(),
            too_slow: self.too_slow.get(),
            abandoned: self.abandoned.get(),
            panics: self.panics.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            lines_in: self.lines_in.get(),
            waiting: self.waiting.get(),
        }
    }
}

pub(super) fn add(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}
