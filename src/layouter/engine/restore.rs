//! Coming back after a failover.
//!
//! A slot that lost its node remembers it, and only the first one through a chain of failures. Once the node is trusted again the slot returns, if
//! it is still allowed there, fits, and would not be worse placed than it is. Backups return for their archive's sake; inference keeps nothing, so
//! it stays where it is.

use std::collections::BTreeSet;

use super::Engine;
use super::class::NONE;
use super::cow::CowMap;
use super::event::{NodeState, SlotKind, Why};
use super::slot::{LIVE, ORIGIN_NOTED, RETURNS, UNIT, WAITING};

/// Where slots come back to.
#[derive(Clone)]
pub(super) struct Origins {
    pub of_slot: CowMap<u32, u32>,
    /// Nodes that slots may be brought back to.
    pub restorable: BTreeSet<u32>,
    /// Ingests and what they came back to before this event.
    pub noted: Vec<(u32, u32)>,
}

impl Origins {
    pub fn new() -> Self {
        Self {
            of_slot: CowMap::new(),
            restorable: BTreeSet::new(),
            noted: Vec::new(),
        }
    }
}

impl Engine {
    /// Remembers where a slot comes from that is about to leave a lost node.
    pub(super) fn remember_origin(&mut self, s: u32, node: u32) {
        if self.slot(s).kind() == SlotKind::Inference || self.origin_of(s) != NONE {
            return;
        }
        self.set_origin(s, node);
    }

    /// The node that a slot comes back to: where it was before the first of the failovers since.
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
            self.note_origin(s);
            self.origins.of_slot.remove(&s);
            self.set_flag(s, RETURNS, false);
        }
    }

    /// Writes down what a stream comes back to, the first time that this is about to change in this event: also without a move its row must say it.
    pub(super) fn note_origin(&mut self, s: u32) {
        let slot = *self.slot(s);
        if slot.has(UNIT) {
            let members: Vec<u32> = self.members_of(s).collect();
            for member in members {
                self.note_origin(member);
            }
        } else if slot.kind() == SlotKind::Ingest && !slot.has(ORIGIN_NOTED) && !self.loading {
            let origin = self.stream_origin(s);
            self.set_flag(s, ORIGIN_NOTED, true);
            self.origins.noted.push((s, origin));
        }
    }

    /// A row says something else: it has to be told even if nothing changes in this event.
    pub(super) fn note_row_origin(&mut self, ingest: u32, row: u32) {
        if self.slot(ingest).has(ORIGIN_NOTED) {
            let noted = self.origins.noted.iter_mut().rev();
            for noted in noted.filter(|(s, _)| *s == ingest) {
                noted.1 = row;
            }
        } else {
            self.set_flag(ingest, ORIGIN_NOTED, true);
            self.origins.noted.push((ingest, row));
        }
    }

    pub(super) fn set_origin(&mut self, s: u32, node: u32) {
        self.note_origin(s);
        self.clear_origin(s);
        if node != NONE {
            self.origins.of_slot.insert(s, node);
            self.set_flag(s, RETURNS, true);
            self.node_mut(node).displaced.push(s);
            if self.node(node).state == NodeState::Up {
                self.origins.restorable.insert(node);
            }
        }
    }

    /// True: some could not be tried, or not all that fit were allowed.
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
        if self.node(n).pressed || self.node(n).restore_tried == self.queue.gain_epoch {
            return false;
        }
        let displaced = std::mem::take(&mut self.node_mut(n).displaced);
        let mut ordered: Vec<(u64, u32)> = displaced
            .into_iter()
            .filter(|s| self.origin_of(*s) == n && self.slot(*s).has(LIVE))
            .map(|s| (self.order_of(s), s))
            .collect();
        ordered.sort_unstable();
        ordered.dedup();
        let mut keep = Vec::new();
        let mut allowed = self.settings.restore_moves_per_node_max;
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
            if !fits || worse {
                keep.push(s);
                continue;
            }
            if slot.has(WAITING) {
                self.stop_waiting(s);
                self.arrive(s, n, Why::Restore);
            } else {
                self.move_optional(s, n, Why::Restore);
            }
            self.clear_origin(s);
            self.budgets.restore.take(1);
            allowed -= 1;
        }
        if keep.is_empty() {
            self.origins.restorable.remove(&n);
        }
        self.node_mut(n).displaced = keep;
        self.node_mut(n).restore_tried = if left_over { 0 } else { self.queue.gain_epoch };
        left_over
    }
}
