//! The log of an event: where each slot was before its first move, and the net changes in the end.

use super::Engine;
use super::class::NONE;
use super::event::{LayoutChange, MoveReason, SlotKind};
use super::slot::{FETCHED_TOGETHER, LIVE, ORIGIN_RECORDED, RECORDED, Slot, UNIT};

/// Up to so many changes of one event are emitted in the order of decision; more are emitted in the
/// order of their streams in memory: a million names in any other order take twice as long to read.
const LOG_IN_ORDER_MAX: usize = 10_000;

/// The moves of the event that is being applied.
#[derive(Clone, Default)]
pub(super) struct MoveLog {
    /// Slots that moved in this event, with their node before and the reason.
    pub moved: Vec<(u32, u32, MoveReason)>,
    /// Slots displaced to make room since the engine was created.
    pub make_room_moves: u64,
}

impl Engine {
    /// Records the node of a slot before its first move in this event.
    pub(super) fn record_move(&mut self, s: u32, reason: MoveReason) {
        self.record_move_from(s, self.slot(s).node, reason);
    }

    /// Takes back the records from this number on: their slots are where they were.
    pub(super) fn forget_moves(&mut self, from: usize) {
        for (s, ..) in self.log.moved.split_off(from) {
            self.set_flag(s, RECORDED, false);
        }
    }

    pub(super) fn record_move_from(&mut self, s: u32, node: u32, reason: MoveReason) {
        let slot = *self.slot(s);
        if slot.has(UNIT) {
            if let Some(unit) = self.units.by_slot.get(&s).cloned() {
                for member in &unit.members {
                    let node = if member.active { node } else { NONE };
                    self.record_move_from(member.ingest, node, reason);
                }
            }
        } else if !slot.has(RECORDED) {
            self.set_flag(s, RECORDED, true);
            self.log.moved.push((s, node, reason));
        }
    }

    /// Records the node that the row has as the one before the move.
    pub(super) fn record_row_node(&mut self, s: u32, node: u32, reason: MoveReason) {
        if self.slot(s).has(RECORDED) {
            let recorded = self
                .log
                .moved
                .iter_mut()
                .rev()
                .find(|(slot, ..)| *slot == s);
            if let Some(recorded) = recorded {
                recorded.1 = node;
            }
        } else {
            self.record_move_from(s, node, reason);
        }
    }

    /// Emits the net changes of the event.
    pub(super) fn finish(&mut self, mut emit: impl FnMut(LayoutChange)) {
        if self.loading {
            return;
        }
        let mut log = std::mem::take(&mut self.log.moved);
        if log.len() > LOG_IN_ORDER_MAX {
            log.sort_unstable();
        }
        for (i, &(s, from, reason)) in log.iter().enumerate() {
            if i % FETCHED_TOGETHER == 0 {
                let some = &log[i..log.len().min(i + FETCHED_TOGETHER)];
                self.fetch_names(some.iter().map(|(s, ..)| *s));
            }
            self.set_flag(s, RECORDED, false);
            let slot = *self.slot(s);
            let to = slot.node;
            if from == to {
                continue;
            }
            let ingest = self.ingest_of(s);
            if !self.slot(ingest).has(LIVE) {
                // The stream was deleted, and its row with it.
                continue;
            }
            let Some(stream) = self.table.names.get(ingest).clone() else {
                continue;
            };
            // A first placement has no old node that could still do the work.
            if from != NONE && to != NONE {
                self.mark_in_flight(s);
            }
            if self.slot(ingest).has(ORIGIN_RECORDED) {
                self.set_flag(ingest, ORIGIN_RECORDED, false);
            }
            let host = |n: u32| (n != NONE).then(|| self.node(n).hostname.clone());
            emit(LayoutChange {
                stream,
                kind: slot.kind(),
                from: host(from),
                to: host(to),
                reason,
                failover_from: self.failover_from(ingest).cloned(),
                revision: self.table.rows.get(ingest).revision(),
            });
        }
        self.finish_origins(&mut emit);
        self.finish_copies(&mut emit);
        self.free_deleted();
    }

    /// Emits streams of which only the origin changed.
    fn finish_origins(&mut self, emit: &mut impl FnMut(LayoutChange)) {
        for (s, before) in std::mem::take(&mut self.origins.recorded) {
            if !self.slot(s).has(ORIGIN_RECORDED) {
                continue;
            }
            self.set_flag(s, ORIGIN_RECORDED, false);
            let Some(stream) = self.table.names.get(s).clone() else {
                continue;
            };
            if self.slot(s).has(LIVE) && self.stream_origin(s) != before {
                let node = self.slot(s).node;
                let host = (node != NONE).then(|| self.node(node).hostname.clone());
                emit(LayoutChange {
                    stream,
                    kind: SlotKind::Ingest,
                    from: host.clone(),
                    to: host,
                    reason: MoveReason::Restore,
                    failover_from: self.failover_from(s).cloned(),
                    revision: self.table.rows.get(s).revision(),
                });
            }
        }
    }

    /// Frees the numbers of deleted slots and of placeholders without slots.
    fn free_deleted(&mut self) {
        for s in std::mem::take(&mut self.table.freed) {
            *self.table.names.get_mut(s) = None;
            let next = std::mem::replace(&mut self.table.free, s);
            *self.slot_mut(s) = Slot {
                next,
                ..Slot::default()
            };
        }
        for n in std::mem::take(&mut self.cluster.placeholders) {
            if self.node(n).buckets.is_empty() {
                self.cluster.free.insert(n);
            } else {
                self.cluster.placeholders.insert(n);
            }
        }
    }
}
