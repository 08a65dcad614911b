//! Fail-back: slots return to the node they were lost from.
//!
//! A slot that lost its node remembers it as its origin, through a chain of failures the first one
//! only. Once that node is trusted again the slot returns, if it is still allowed there, fits, and
//! scores no lower than where it is. Backups return because their archive is there; inference has
//! no data to return to, so it stays where it is.

use std::collections::BTreeSet;

use super::Engine;
use super::class::NONE;
use super::cow::CowMap;
use super::event::{MoveReason, NodeState, SlotKind};
use super::slot::{LIVE, ORIGIN_RECORDED, RETURNS, UNIT, WAITING};

/// The nodes that slots return to.
#[derive(Clone)]
pub(super) struct Origins {
    pub of_slot: CowMap<u32, u32>,
    /// Trusted nodes with displaced slots.
    pub restorable: BTreeSet<u32>,
    /// Ingests whose origin changed in this event, with the one before.
    pub recorded: Vec<(u32, u32)>,
}

impl Origins {
    pub fn new() -> Self {
        Self {
            of_slot: CowMap::new(),
            restorable: BTreeSet::new(),
            recorded: Vec::new(),
        }
    }
}

impl Engine {
    /// Remembers the origin of a slot that is about to leave a lost node.
    pub(super) fn remember_origin(&mut self, s: u32, node: u32) {
        if self.slot(s).kind() == SlotKind::Inference || self.origin_of(s) != NONE {
            return;
        }
        self.set_origin(s, node);
    }

    /// The node that a slot returns to: where it was before the first fail-over.
    #[inline]
    pub(super) fn origin_of(&self, s: u32) -> u32 {
        if self.slot(s).has(RETURNS) {
            self.origins.of_slot.get(&s).copied().unwrap_or(NONE)
        } else {
            NONE
        }
    }

    #[inline]
    pub(super) fn clear_origin(&mut self, s: u32) {
        if self.slot(s).has(RETURNS) {
            self.record_origin(s);
            self.origins.of_slot.remove(&s);
            self.set_flag(s, RETURNS, false);
        }
    }

    /// Records a stream's origin before its first change in this event: it must be written to the
    /// row even if no slot moves.
    pub(super) fn record_origin(&mut self, s: u32) {
        let slot = *self.slot(s);
        if slot.has(UNIT) {
            let members: Vec<u32> = self.members_of(s).collect();
            for member in members {
                self.record_origin(member);
            }
        } else if slot.kind() == SlotKind::Ingest && !slot.has(ORIGIN_RECORDED) && !self.loading {
            let origin = self.stream_origin(s);
            self.set_flag(s, ORIGIN_RECORDED, true);
            self.origins.recorded.push((s, origin));
        }
    }

    /// Records the origin that the row has: a difference must be emitted even if nothing changes in
    /// this event.
    pub(super) fn record_row_origin(&mut self, ingest: u32, row: u32) {
        if self.slot(ingest).has(ORIGIN_RECORDED) {
            let recorded = self.origins.recorded.iter_mut().rev();
            for recorded in recorded.filter(|(s, _)| *s == ingest) {
                recorded.1 = row;
            }
        } else {
            self.set_flag(ingest, ORIGIN_RECORDED, true);
            self.origins.recorded.push((ingest, row));
        }
    }

    pub(super) fn set_origin(&mut self, s: u32, node: u32) {
        self.record_origin(s);
        self.clear_origin(s);
        if node != NONE {
            self.origins.of_slot.insert(s, node);
            self.set_flag(s, RETURNS, true);
            self.node_mut(node).displaced.slots.push(s);
            if self.node(node).state == NodeState::Up {
                self.origins.restorable.insert(node);
            }
        }
    }

    /// Brings slots back within the budgets. Returns whether some were left for the next tick.
    pub(super) fn restore(&mut self) -> bool {
        if !self.settings.failback {
            return false;
        }
        let mut left_over = false;
        for node in self.origins.restorable.clone() {
            if self.budgets.restore.left() == 0 {
                return true;
            }
            left_over |= self.restore_to(node);
        }
        left_over
    }

    fn restore_to(&mut self, n: u32) -> bool {
        if self.node(n).state != NodeState::Up || !self.node(n).live {
            self.origins.restorable.remove(&n);
            return false;
        }
        if !self.node(n).closure.is_open()
            || self.node(n).displaced.tried_epoch == self.queue.gain_epoch
        {
            return false;
        }
        let displaced = std::mem::take(&mut self.node_mut(n).displaced.slots);
        let mut ordered: Vec<(u64, u32)> = displaced
            .into_iter()
            .filter(|s| self.origin_of(*s) == n && self.slot(*s).has(LIVE))
            .map(|s| (self.order_of(s), s))
            .collect();
        ordered.sort_unstable();
        ordered.dedup();
        let mut keep = Vec::new();
        let mut allowed = self.settings.budgets.restore_moves_per_node_max;
        let mut left_over = false;
        let mut siblings = Vec::new();
        for (_, s) in ordered {
            let slot = *self.slot(s);
            if slot.node == n || !self.static_reasons_on(slot.class, n).is_empty() {
                self.clear_origin(s);
                continue;
            }
            if allowed == 0 || self.budgets.restore.left() == 0 {
                left_over = true;
                keep.push(s);
                continue;
            }
            self.sibling_nodes(s, &mut siblings);
            let fits = self.reasons_on(s, n, false, &siblings).is_empty();
            let worse = slot.node != NONE && self.score_on(slot.class, n) < slot.score;
            let stays = slot.node != NONE && self.is_pinned(s);
            if !fits || worse || stays {
                keep.push(s);
                continue;
            }
            if slot.has(WAITING) {
                self.stop_waiting(s);
                self.place_on(s, n, MoveReason::Restore);
            } else {
                self.move_optional(s, n, MoveReason::Restore);
                self.exempt(s);
            }
            self.clear_origin(s);
            self.budgets.restore.take(1);
            allowed -= 1;
        }
        if keep.is_empty() {
            self.origins.restorable.remove(&n);
        }
        self.node_mut(n).displaced.slots = keep;
        self.node_mut(n).displaced.tried_epoch = if left_over { 0 } else { self.queue.gain_epoch };
        left_over
    }
}
