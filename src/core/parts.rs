//! Scans of all streams, made in parts by the scan threads: for lists, facets and bulk changes.
//!
//! The core waits for the outcome and meanwhile looks whether the client still does, whether there
//! is room for what is found, and whether it takes too long. A scan that finds the line of the
//! threads full is made by its core, in slices.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Core;
use super::scans::LIST_TIME_MAX;
use crate::api::shared::Shared;
use crate::api::stream_doc::{StreamDoc, Streams};
use crate::error::{self, ErrorCode};
use crate::http::{Reserved, Ticket};
use crate::query::{Findings, Pass, Query, ScanPosition};
use crate::rt::{self, Inbox};
use crate::scan_pool::PartedScan;
use crate::state::{SHARDS, State};

/// How often a core looks after a scan.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// Why a scan ended before it was complete.
pub(super) enum ScanEnd {
    ClientGone,
    Refused(ErrorCode),
}

/// The client that a scan is made for, and since when.
pub(super) struct ScanClient {
    /// Absent if parked polls wait, which are answered by others, too.
    pub ticket: Option<Ticket>,
    pub began: Instant,
}

/// A pass of a list over all streams.
pub(super) struct ListPass {
    pub pass: Pass<Arc<Query>>,
    pub state: Arc<State>,
    pub shared: Arc<Shared>,
}

/// Collects the streams that a scan finds.
pub(super) trait StreamSink: Send + Sync + Sized + 'static {
    /// The same without streams.
    fn empty(&self) -> Self;

    fn add(&mut self, document: &StreamDoc<'_>);

    /// Adds what another thread has collected.
    fn merge(&mut self, other: Self);

    /// Orders what was collected by several threads.
    fn finish(&mut self) {}

    /// The memory that it takes.
    fn held_bytes(&self) -> usize;
}

/// A scan for all streams that match a query.
pub(super) struct MatchPass<T> {
    pub query: Arc<Query>,
    pub empty: T,
    pub state: Arc<State>,
    pub shared: Arc<Shared>,
}

fn parts_of_streams() -> Vec<ScanPosition> {
    (0..SHARDS).map(ScanPosition::of_part).collect()
}

impl PartedScan for ListPass {
    type Position = ScanPosition;
    type Found = Findings;

    fn parts(&self) -> Vec<ScanPosition> {
        parts_of_streams()
    }

    fn nothing(&self) -> Findings {
        self.pass.findings()
    }

    fn step(&self, position: &mut ScanPosition, documents: usize, found: &mut Findings) -> bool {
        let shared = &self.shared;
        let around = shared.around(&self.state, shared.fleet.view(Instant::now()));
        let streams = Streams::new(&self.state, Some(around))
            .for_list(self.pass.query(), &shared.access.countries);
        self.pass.step(found, &streams, position, documents)
    }

    fn merge(&self, found: &mut Findings, other: Findings) {
        found.merge(other, self.pass.query());
    }

    fn held_bytes(&self, found: &Findings) -> usize {
        found.held_bytes()
    }
}

impl<T: StreamSink> PartedScan for MatchPass<T> {
    type Position = ScanPosition;
    type Found = T;

    fn parts(&self) -> Vec<ScanPosition> {
        parts_of_streams()
    }

    fn nothing(&self) -> T {
        self.empty.empty()
    }

    fn step(&self, position: &mut ScanPosition, documents: usize, found: &mut T) -> bool {
        let shared = &self.shared;
        let around = shared.around(&self.state, shared.fleet.view(Instant::now()));
        let streams = Streams::new(&self.state, Some(around)).for_scan(&self.query);
        let add = &mut |document: StreamDoc<'_>| found.add(&document);
        self.query.matches_in(&streams, position, documents, add)
    }

    fn merge(&self, found: &mut T, other: T) {
        found.merge(other);
    }

    fn finish(&self, found: &mut T) {
        found.finish();
    }

    fn held_bytes(&self, found: &T) -> usize {
        found.held_bytes()
    }
}

impl Core {
    /// Has the scan threads make a scan. Counts the memory for what is found in `reserved`. `None`:
    /// too many scans are in line.
    pub(super) async fn scan_in_parts<S: PartedScan>(
        &self,
        scan: S,
        client: &ScanClient,
        reserved: &mut Reserved,
    ) -> Option<Result<S::Found, ScanEnd>> {
        let ended = Arc::new(Inbox::new());
        let outcome = ended.clone();
        let scans = &self.shared.workers.scans;
        let running = scans.run(scan, move |found| outcome.push(found))?;
        let mut received = pin!(ended.recv());
        loop {
            match rt::within(LOOK_PAUSE, received.as_mut()).await {
                Some(Some(found)) => return Some(Ok(found)),
                // It panicked.
                Some(None) => return Some(Err(ScanEnd::Refused(error::INTERNAL_ERROR))),
                None => {}
            }
            if let Err(end) = self.look_after(client, running.held_bytes(), reserved) {
                return Some(Err(end));
            }
        }
    }

    /// Ends a scan whose client is gone, that takes too long or for which there is no room.
    pub(super) fn look_after(
        &self,
        client: &ScanClient,
        held_bytes: usize,
        reserved: &mut Reserved,
    ) -> Result<(), ScanEnd> {
        let Some(ticket) = client.ticket else {
            return Ok(());
        };
        if !self.connections.is_waiting(ticket) {
            return Err(ScanEnd::ClientGone);
        }
        if !self.connections.holds(reserved, held_bytes) {
            return Err(ScanEnd::Refused(error::BUFFERS_FULL));
        }
        if client.began.elapsed() > LIST_TIME_MAX {
            return Err(ScanEnd::Refused(error::TOO_EXPENSIVE));
        }
        Ok(())
    }
}
