//! Promotion: an ingest takes the place of a backup of its own stream.
//!
//! Ingests come before backups: a stream that records twice must not be off the air on a node that
//! has a copy of it, while other streams move there. The backup that gave way is placed again, or
//! waits. The setting `failover_to_backup` only decides whether this is the first choice after a
//! loss; if no node has room, it is done in any case.

use std::collections::BTreeMap;

use super::Engine;
use super::class::NONE;
use super::event::{MoveReason, NodeState, SlotKind};
use super::slot::{MEMBER, UNIT, WAITING};
use super::tree::Need;

/// Placed backups, with their nodes in front.
pub(super) type NodeCopies = Vec<(u32, u32)>;

impl Engine {
    /// The placed backups of an ingest's stream, or of the active members of a unit, with their
    /// nodes.
    pub(super) fn own_copies(&self, s: u32) -> NodeCopies {
        let slot = self.slot(s);
        let mut copies = Vec::new();
        if slot.has(UNIT) {
            let members = self.units.by_slot.get(&s).into_iter();
            for member in members.flat_map(|unit| unit.members.iter()) {
                if member.active {
                    self.copies_of(member.ingest, &mut copies);
                }
            }
        } else if slot.kind() == SlotKind::Ingest {
            self.copies_of(s, &mut copies);
        }
        copies
    }

    pub(super) fn copies_of(&self, ingest: u32, copies: &mut NodeCopies) {
        let mut other = self.slot(ingest).sibling;
        while other != ingest {
            let slot = self.slot(other);
            if slot.kind() == SlotKind::DvrBackup && slot.node != NONE {
                copies.push((slot.node, other));
            }
            other = slot.sibling;
        }
    }

    /// The node that can take an ingest or a unit in exchange for its own backups there. CPU
    /// pressure and maintenance rule a node out only if not `closed_too`: it already carries the
    /// stream. A node in maintenance takes a unit only if it carries all of its streams.
    pub(super) fn promotable(&self, s: u32, closed_too: bool) -> Option<u32> {
        let slot = self.slot(s);
        if slot.kind() != SlotKind::Ingest || slot.sibling == s && !slot.has(UNIT) {
            return None;
        }
        let need = slot.need();
        let streams = if slot.has(UNIT) {
            self.active_members(s).len()
        } else {
            1
        };
        let mut leaving: BTreeMap<u32, (usize, Need)> = BTreeMap::new();
        for (n, copy) in self.own_copies(s) {
            let copy = self.slot(copy).need();
            let (copies, sum) = leaving.entry(n).or_default();
            (*copies, *sum) = (*copies + 1, sum.plus(&copy));
        }
        let balance = self.settings.balance;
        let candidates = leaving.into_iter().filter(|(n, (copies, leaving))| {
            let node = self.node(*n);
            node.is_reachable()
                && (closed_too || node.closure.is_open())
                && (!node.closure.cordoned || *copies == streams)
                && self.static_reasons_on(slot.class, *n).is_empty()
                && node.fits_instead(leaving, &need)
        });
        let best = candidates.min_by_key(|(n, _)| {
            let node = self.node(*n);
            let held_back = (node.state == NodeState::Probation, !node.closure.is_open());
            let score = std::cmp::Reverse(self.score_on(slot.class, *n));
            (held_back, score, node.load(balance), node.tie)
        });
        best.map(|(n, _)| n)
    }

    /// Places an ingest or a unit that is in no list, in exchange for its own backups on a node;
    /// these are placed again at the end of the event. Returns whether it is placed.
    pub(super) fn promote(&mut self, s: u32, closed_too: bool, copies: MoveReason) -> bool {
        let Some(n) = self.promotable(s, closed_too) else {
            return false;
        };
        self.evict_own_copies(s, n, copies);
        self.place_on(s, n, MoveReason::NotDistributed);
        self.node_gained_slightly(n);
        true
    }

    /// Takes the backups of an ingest's stream, or of a unit's active members, off a node that the
    /// ingest is placed on.
    pub(super) fn evict_own_copies(&mut self, s: u32, n: u32, reason: MoveReason) {
        for (node, copy) in self.own_copies(s) {
            if node == n {
                self.evict(copy, reason);
            }
        }
    }

    /// Promotes those of the slots that wait.
    pub(super) fn promote_waiting(&mut self, slots: &[u32]) {
        for s in slots {
            if self.slot(*s).has(WAITING) && self.promotable(*s, true).is_some() {
                self.stop_waiting(*s);
                self.promote(*s, true, MoveReason::Redundancy);
            }
        }
    }

    /// A backup was placed although its stream's ingest waits: the ingest comes first.
    pub(super) fn promote_ingest_of(&mut self, copy: u32) {
        if self.slot(copy).kind() != SlotKind::DvrBackup {
            return;
        }
        let ingest = self.ingest_of(copy);
        let unit = self.units.of_member.get(&ingest).copied();
        let s = unit.filter(|_| self.slot(ingest).has(MEMBER));
        self.promote_waiting(&[s.unwrap_or(ingest)]);
    }
}
