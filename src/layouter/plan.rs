//! The plan: what the engine decided and the store does not say yet.
//!
//! Decisions about a stream are joined until they are sent; what is sent is always the difference between the newest row and the engine's newest
//! opinion, so a decision that was overtaken is never written. A stream is in one batch at a time. Batches are small and few are under way, and the
//! urgent ones go first: lost ingests, then other urgent slots, then what merely improves.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::intake::stored_layout;
use super::{Change, Engine, SlotKind, StoredLayout, StreamLayout, Why};
use crate::state::State;
use crate::state::command::{LayoutPatch, Placement};
use crate::state::name::{Hostname, StreamName};

/// Rows of one batch: together they are one transaction, which others wait for.
pub const BATCH_ITEMS_MAX: usize = 1000;
/// Batches under way: enough to keep the writer busy, few enough for an urgent decision not to queue behind many.
pub const BATCHES_MAX: usize = 4;
/// How long to wait when the store does not take the plan.
const RETRY_MS: u64 = 500;

/// Why a stream moves: the reason of its ingest, or else the first of the others.
#[derive(Clone, Copy, Default)]
struct Reasons {
    ingest: Option<Why>,
    other: Option<Why>,
}

impl Reasons {
    fn join(&mut self, kind: SlotKind, why: Why) {
        let of = match kind {
            SlotKind::Ingest => &mut self.ingest,
            SlotKind::Inference | SlotKind::DvrBackup => &mut self.other,
        };
        // Of several the weightiest: that is their order.
        *of = Some(of.map_or(why, |before| before.min(why)));
    }

    fn lane(self) -> usize {
        if self.ingest.is_some_and(Why::urgent) {
            0
        } else if self.other.is_some_and(Why::urgent) {
            1
        } else {
            2
        }
    }

    fn why(self) -> Option<Why> {
        self.ingest.or(self.other)
    }
}

struct Sent {
    layout: StreamLayout,
    revision: u64,
    reasons: Reasons,
}

#[derive(Default)]
pub struct Plan {
    /// Streams whose row is not what the engine wants, or was not when they came here. A name may be in several lanes; the first counts.
    lanes: [VecDeque<StreamName>; 3],
    pending: HashMap<StreamName, Reasons>,
    sent: HashMap<StreamName, Sent>,
    batches: BTreeMap<u64, Vec<StreamName>>,
    next_id: u64,
    retry_at_ms: u64,
}

impl Plan {
    /// Remembers what the engine decided.
    pub fn add(&mut self, change: &Change) {
        let reasons = self.pending.entry(change.stream.clone()).or_default();
        let fresh = reasons.why().is_none();
        let lane = reasons.lane();
        reasons.join(change.kind, change.why);
        if fresh || reasons.lane() < lane {
            self.lanes[reasons.lane()].push_back(change.stream.clone());
        }
    }

    /// What was sent for a stream and is not answered yet.
    pub fn sent(&self, stream: &str) -> Option<&StreamLayout> {
        self.sent.get(stream).map(|sent| &sent.layout)
    }

    /// Streams that wait to be sent, and streams that were.
    pub fn len(&self) -> (usize, usize) {
        (self.pending.len(), self.sent.len())
    }

    pub fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.sent.is_empty()
    }

    /// When there will be something to send, if nothing else happens.
    pub fn due_ms(&self) -> Option<u64> {
        let waits = !self.pending.is_empty() && self.batches.len() < BATCHES_MAX;
        (waits && self.retry_at_ms > 0).then_some(self.retry_at_ms)
    }

    /// The next batch and its number.
    pub fn next_batch(
        &mut self,
        state: &State,
        engine: &Engine,
        now_ms: u64,
    ) -> Option<(u64, Vec<Placement>)> {
        if self.batches.len() >= BATCHES_MAX || now_ms < self.retry_at_ms {
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
                    // It comes back with the answer.
                    continue;
                }
                let Some(reasons) = self.pending.remove(&name) else {
                    continue;
                };
                let (Some(row), Some(layout)) = (state.stream(&name), engine.layout(&name)) else {
                    continue;
                };
                let stored = stored_layout(row);
                let Some(why) = reasons.why().filter(|_| !says(&stored, &layout)) else {
                    continue;
                };
                let revision = row.revision.to_native();
                items.push(Placement {
                    name: name.clone(),
                    revision,
                    layout: patch(&stored, &layout, why),
                    why: why.code(),
                });
                let sent = Sent {
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

    /// A batch was carried out except for some of its items, or not at all. What was not written is looked at again, because its row is another one
    /// now; if it is not, later.
    pub fn answered(&mut self, id: u64, refused: Option<&[usize]>, state: &State, now_ms: u64) {
        for (i, name) in self.batches.remove(&id).into_iter().flatten().enumerate() {
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
                for (kind, why) in [
                    (SlotKind::Ingest, sent.reasons.ingest),
                    (SlotKind::DvrBackup, sent.reasons.other),
                ] {
                    if let Some(why) = why {
                        reasons.join(kind, why);
                    }
                }
            }
            if let Some(reasons) = self.pending.get(&name) {
                self.lanes[reasons.lane()].push_back(name);
            }
        }
    }
}

/// Whether a row says what the engine wants. Backups are a set.
pub fn says(row: &StoredLayout, wanted: &StreamLayout) -> bool {
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

/// What makes a row say it. Backups that stay keep their order.
fn patch(row: &StoredLayout, wanted: &StreamLayout, why: Why) -> LayoutPatch {
    let stay = row.dvr_backups.iter();
    let stay = stay.filter(|host| wanted.dvr_backups.contains(host));
    let come = wanted.dvr_backups.iter();
    let come = come.filter(|host| !row.dvr_backups.contains(host));
    LayoutPatch {
        ingest: Some(wanted.ingest.clone()),
        inference: Some(wanted.inference.clone()),
        dvr_backups: Some(stay.chain(come).cloned().collect()),
        failover_from: Some(wanted.failover_from.clone()),
        change_reason: why.change_reason().map(str::to_owned),
        by_layouter: true,
    }
}
