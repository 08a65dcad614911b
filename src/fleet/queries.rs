//! Counters of the queries that the connector sends to streamers. Shared by all cores.

use std::sync::atomic::{AtomicU64, Ordering};

/// How a query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryOutcome {
    Answered,
    /// The streamer answered about itself, and its list of streams could not be read.
    Partial,
    TimedOut,
    /// Refused, no address, no route, a broken connection, or no TLS.
    Unreachable,
    /// Another status than 200.
    Status,
    /// Not HTTP, not JSON, or too long.
    BadAnswer,
    AddressNotAllowed,
    /// This server had no room for it.
    Busy,
}

impl QueryOutcome {
    pub const ALL: [Self; 8] = [
        Self::Answered,
        Self::Partial,
        Self::TimedOut,
        Self::Unreachable,
        Self::Status,
        Self::BadAnswer,
        Self::AddressNotAllowed,
        Self::Busy,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Partial => "partial",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Status => "status",
            Self::BadAnswer => "bad_answer",
            Self::AddressNotAllowed => "address_not_allowed",
            Self::Busy => "busy",
        }
    }
}

/// How a comparison of a streamer's configuration with the cluster's part ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProvisionOutcome {
    /// The streamer has what was written.
    Unchanged,
    /// Written for the first time since the start of this server, or after a change here.
    Written,
    /// Written again, because the streamer had lost or changed it.
    Drifted,
    /// The streamer refused it or could not be read; it is repeated later.
    Failed,
}

impl ProvisionOutcome {
    pub const ALL: [Self; 4] = [Self::Unchanged, Self::Written, Self::Drifted, Self::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Written => "written",
            Self::Drifted => "drifted",
            Self::Failed => "failed",
        }
    }
}

/// A number that threads change.
#[derive(Debug, Default)]
pub struct SharedCount(AtomicU64);

impl SharedCount {
    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    pub fn subtract(&self, number: u64) {
        self.0.fetch_sub(number, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of all queries.
#[derive(Debug, Default)]
pub struct QueryCounts {
    outcomes: [SharedCount; QueryOutcome::ALL.len()],
    /// Streamers that are queried.
    pub streamers: SharedCount,
    /// Of these, those that do not answer.
    pub silent: SharedCount,
    pub running: SharedCount,
    provisions: [SharedCount; ProvisionOutcome::ALL.len()],
}

impl QueryCounts {
    pub fn count(&self, outcome: QueryOutcome) {
        self.outcomes[outcome as usize].add(1);
    }

    pub fn of(&self, outcome: QueryOutcome) -> u64 {
        self.outcomes[outcome as usize].get()
    }

    pub fn count_provision(&self, outcome: ProvisionOutcome) {
        self.provisions[outcome as usize].add(1);
    }

    pub fn provisions_of(&self, outcome: ProvisionOutcome) -> u64 {
        self.provisions[outcome as usize].get()
    }
}
