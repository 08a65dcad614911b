//! The plan: layouts that the engine decided and the store does not have yet.
//!
//! Decisions about a stream are merged until they are sent. A batch has the difference between the
//! newest rows and the engine's current layouts, so outdated decisions are never written. A stream
//! is in one batch at a time. Batches are small, few are in flight, and the urgent ones go first:
//! lost ingests, then other urgent slots, then optional moves.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::intake::stored_layout;
use super::{
    DecisionCounts, Engine, LayoutChange, MoveReason, SlotKind, StoredLayout, StreamLayout,
};
use crate::state::State;
use crate::state::command::{LayoutPatch, Placement};
use crate::state::name::{Hostname, StreamName};

/// Rows of one batch: it is one transaction, and other commands wait for it.
pub const BATCH_ITEMS_MAX: usize = 1000;
/// Batches in flight: enough to keep the writer busy, few enough that an urgent decision does not
/// queue behind many.
pub const BATCHES_MAX: usize = 4;
/// Pause after the writer refused a batch.
const RETRY_MS: u64 = 500;

/// Why a stream moves: the reason of its ingest, or else of its other slots.
#[derive(Clone, Copy, Default)]
struct PlanReasons {
    ingest: Option<MoveReason>,
    other: Option<MoveReason>,
}

impl PlanReasons {
    fn join(&mut self, kind: SlotKind, reason: MoveReason) {
        let of = match kind {
            SlotKind::Ingest => &mut self.ingest,
            SlotKind::Inference | SlotKind::DvrBackup => &mut self.other,
        };
        // The most important of several: the order of the enum.
        *of = Some(of.map_or(reason, |before| before.min(reason)));
    }

    fn lane(self) -> usize {
        if self.ingest.is_some_and(MoveReason::urgent) {
            0
        } else if self.other.is_some_and(MoveReason::urgent) {
            1
        } else {
            2
        }
    }

    /// Whether the ingest moves although it could stay.
    fn is_planned(self) -> bool {
        self.ingest.is_some_and(|reason| !reason.urgent())
    }

    /// Whether a slot moves for wishes, for balance or back, so that a pause may hold it.
    fn improves(self) -> bool {
        let mut reasons = [self.ingest, self.other].into_iter().flatten();
        reasons.any(MoveReason::improves)
    }

    fn reason(self) -> Option<MoveReason> {
        self.ingest.or(self.other)
    }
}

struct SentLayout {
    layout: StreamLayout,
    revision: u64,
    reasons: PlanReasons,
}

/// Streams to be written, and batches in flight.
#[derive(Default)]
pub struct Plan {
    /// Streams whose row differed from the engine's layout when they were added, by urgency. A name
    /// may be in several lanes; the first counts.
    lanes: [VecDeque<StreamName>; 3],
    pending: HashMap<StreamName, PlanReasons>,
    /// Streams in `pending` by reason.
    waiting: DecisionCounts,
    sent: HashMap<StreamName, SentLayout>,
    batches: BTreeMap<u64, Vec<StreamName>>,
    next_id: u64,
    retry_at_ms: u64,
    /// Nothing is sent: the decisions are only counted, and no lane has them.
    is_held: bool,
}

impl Plan {
    /// An empty plan, for an engine that is built again. Its batches have higher numbers, so that
    /// late replies match none of them. `is_held`: its decisions are counted and not sent.
    pub fn restarted(&self, is_held: bool) -> Self {
        Self {
            next_id: self.next_id,
            is_held,
            ..Self::default()
        }
    }

    /// Adds a decision of the engine.
    pub fn add(&mut self, change: &LayoutChange) {
        let reasons = self.pending.entry(change.stream.clone()).or_default();
        let (before, lane) = (reasons.reason(), reasons.lane());
        reasons.join(change.kind, change.reason);
        recount(&mut self.waiting, before, reasons.reason());
        if !self.is_held && (before.is_none() || reasons.lane() < lane) {
            self.lanes[reasons.lane()].push_back(change.stream.clone());
        }
    }

    /// Removes a stream whose row has the engine's layout by now.
    pub fn forget(&mut self, stream: &str) {
        if let Some(reasons) = self.pending.remove(stream) {
            recount(&mut self.waiting, reasons.reason(), None);
        }
    }

    /// The layout of a stream that was sent and not answered yet.
    pub fn sent(&self, stream: &str) -> Option<&StreamLayout> {
        self.sent.get(stream).map(|sent| &sent.layout)
    }

    /// Number of streams that wait to be sent, and of those that were sent.
    pub fn len(&self) -> (usize, usize) {
        (self.pending.len(), self.sent.len())
    }

    /// Streams that wait to be sent, by the reason of their ingest, or else of their other slots.
    pub fn waiting(&self) -> DecisionCounts {
        self.waiting
    }

    /// Streams whose row the engine's decisions may change.
    pub fn streams(&self) -> impl Iterator<Item = &StreamName> {
        self.pending.keys().chain(self.sent.keys())
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.sent.is_empty()
    }

    /// When a batch is due after a pause.
    pub fn due_ms(&self) -> Option<u64> {
        let waits = !self.pending.is_empty() && self.batches.len() < BATCHES_MAX;
        (waits && self.retry_at_ms > 0).then_some(self.retry_at_ms)
    }

    /// The next batch and its number. `hands_over`: the old node of a planned move keeps the stream
    /// for a while.
    pub fn next_batch(
        &mut self,
        state: &State,
        engine: &Engine,
        now_ms: u64,
        hands_over: bool,
    ) -> Option<(u64, Vec<Placement>)> {
        if self.is_held || self.batches.len() >= BATCHES_MAX || now_ms < self.retry_at_ms {
            return None;
        }
        self.retry_at_ms = 0;
        let (mut items, mut names) = (Vec::new(), Vec::new());
        for lane in 0..self.lanes.len() {
            while items.len() < BATCH_ITEMS_MAX {
                let Some(name) = self.lanes[lane].pop_front() else {
                    break;
                };
                if self.sent.contains_key(&name) {
                    // The reply to its batch queues it again.
                    continue;
                }
                let Some(reasons) = self.pending.remove(&name) else {
                    continue;
                };
                recount(&mut self.waiting, reasons.reason(), None);
                let (Some(row), Some(layout)) = (state.stream(&name), engine.layout(&name)) else {
                    continue;
                };
                let stored = stored_layout(row);
                let Some(reason) = reasons
                    .reason()
                    .filter(|_| !matches_layout(&stored, &layout))
                else {
                    continue;
                };
                let revision = row.revision.to_native();
                let mut wanted = patch(&stored, &layout, reason);
                wanted.hands_over = hands_over && reasons.is_planned();
                items.push(Placement {
                    name: name.clone(),
                    revision,
                    layout: wanted,
                    improves: reasons.improves(),
                    why: reason.code(),
                });
                let sent = SentLayout {
                    layout,
                    revision,
                    reasons,
                };
                self.sent.insert(name.clone(), sent);
                names.push(name);
            }
        }
        if items.is_empty() {
            return None;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.batches.insert(id, names);
        Some((id, items))
    }

    /// Handles the reply to a batch: written except for `refused`, or (`None`) not at all. Streams
    /// that were not written are queued again, because their rows changed; if a row did not, after
    /// a pause. Returns the number of streams in the batch.
    pub fn on_reply(
        &mut self,
        id: u64,
        refused: Option<&[usize]>,
        state: &State,
        now_ms: u64,
    ) -> Option<usize> {
        let names = self.batches.remove(&id)?;
        let count = names.len();
        for (i, name) in names.into_iter().enumerate() {
            let Some(sent) = self.sent.remove(&name) else {
                continue;
            };
            let failed = refused.is_none_or(|refused| refused.contains(&i));
            if failed {
                let row = state.stream(&name);
                if row.is_some_and(|row| row.revision == sent.revision) {
                    self.retry_at_ms = now_ms + RETRY_MS;
                }
                let reasons = self.pending.entry(name.clone()).or_default();
                let before = reasons.reason();
                for (kind, reason) in [
                    (SlotKind::Ingest, sent.reasons.ingest),
                    (SlotKind::DvrBackup, sent.reasons.other),
                ] {
                    if let Some(reason) = reason {
                        reasons.join(kind, reason);
                    }
                }
                recount(&mut self.waiting, before, reasons.reason());
            }
            if let Some(reasons) = self.pending.get(&name) {
                self.lanes[reasons.lane()].push_back(name);
            }
        }
        Some(count)
    }
}

/// Counts a stream with its new reason instead of the one it had.
fn recount(waiting: &mut DecisionCounts, before: Option<MoveReason>, now: Option<MoveReason>) {
    if let Some(before) = before {
        waiting[before as usize] -= 1;
    }
    if let Some(now) = now {
        waiting[now as usize] += 1;
    }
}

/// Whether a row has the engine's layout. Backups are compared as sets.
pub fn matches_layout(row: &StoredLayout, wanted: &StreamLayout) -> bool {
    let sorted = |hosts: &[Hostname]| {
        let mut hosts = hosts.to_vec();
        hosts.sort_unstable();
        hosts
    };
    row.ingest == wanted.ingest
        && row.inference == wanted.inference
        && row.failover_from == wanted.failover_from
        && row.dvr_backups.len() == wanted.dvr_backups.len()
        && sorted(&row.dvr_backups) == sorted(&wanted.dvr_backups)
}

/// The patch that gives a row the engine's layout. Backups that stay keep their order.
fn patch(row: &StoredLayout, wanted: &StreamLayout, reason: MoveReason) -> LayoutPatch {
    let stay = row.dvr_backups.iter();
    let stay = stay.filter(|host| wanted.dvr_backups.contains(host));
    let come = wanted.dvr_backups.iter();
    let come = come.filter(|host| !row.dvr_backups.contains(host));
    LayoutPatch {
        ingest: Some(wanted.ingest.clone()),
        inference: Some(wanted.inference.clone()),
        dvr_backups: Some(stay.chain(come).cloned().collect()),
        failover_from: Some(wanted.failover_from.clone()),
        // A pin ends with the ingest node.
        pinned: None,
        change_reason: reason.change_reason().map(str::to_owned),
        by_layouter: true,
        force: true,
        hands_over: false,
    }
}
