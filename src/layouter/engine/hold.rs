//! Many first placements wait while more nodes are expected.
//!
//! Streamers that are saved together start one after another. If the first one took all streams
//! that wait, the others would have to get theirs by moves, each of which interrupts a stream. Few
//! streams are placed at once, because balance can put that right in one interval; and so are slots
//! that lost their node.

use std::collections::HashSet;

use super::Engine;
use super::class::NONE;
use super::cow::FixedHash;
use super::slot::{PENDING, RETURNS};

impl Engine {
    pub(super) fn hold_placement(&mut self, held: bool) {
        if std::mem::replace(&mut self.queue.expects_nodes, held) == held || self.loading || held {
            return;
        }
        for n in 0..self.cluster.nodes.len() as u32 {
            if self.node(n).is_reachable() {
                self.node_gained(n);
            }
        }
        self.queue.retry_now = true;
        self.refresh_tree();
        self.settle();
    }

    /// Whether many first placements wait for nodes that are expected.
    pub fn expects_nodes(&self) -> bool {
        self.queue.expects_nodes
    }

    /// Whether so many slots that were on no node yet have to wait.
    pub(super) fn holds_first_placements(&self, slots: usize) -> bool {
        self.queue.expects_nodes && slots > self.settings.budgets.optional_moves_min as usize
    }

    /// Takes slots that were on no node yet out of the batch of this event if they have to wait.
    pub(super) fn hold_first_placements(&mut self) {
        if !self.holds_first_placements(self.queue.batch.len()) {
            return;
        }
        let evicted = self.log.moved.iter().filter(|(_, from, _)| *from != NONE);
        let evicted: HashSet<u32, FixedHash> = evicted.map(|(s, ..)| *s).collect();
        let is_first = |s: &u32| {
            let slot = self.slot(*s);
            let had_node = |s: u32| evicted.contains(&s);
            let is_lost = slot.has(RETURNS) || had_node(*s) || self.members_of(*s).any(had_node);
            slot.has(PENDING) && !is_lost
        };
        let first: Vec<u32> = self.queue.batch.iter().copied().filter(is_first).collect();
        if !self.holds_first_placements(first.len()) {
            return;
        }
        for s in first {
            self.set_flag(s, PENDING, false);
            self.wait(s);
        }
    }
}
