//! Making room: if no node can take a slot, the shortest chain of moves after which one can.
//!
//! A breadth-first search over stream classes: which class could leave a node that this slot may go
//! to, because one of its streams fits elsewhere? Each node and each class is visited once.
//! Displaced streams keep running until their new node has them.

use std::collections::{HashMap, HashSet, VecDeque};

use super::Engine;
use super::class::NONE;
use super::cow::FixedHash;
use super::event::{MoveReason, SlotKind};
use super::tree::{LAST_RESORT, Need};

/// Slots of a bucket that are tried for another node, and for a swap.
const SAMPLE: usize = 8;
const SWAPS: usize = 16;
/// Swaps that one search tries: a long chain has many variants.
const SWAPS_MAX: u32 = 4096;
/// Nodes on which a class is tried.
const STUCK_MAX: u32 = 4;

/// How the search reached a class: the class that would displace it, and on which node.
struct ChainStep {
    by: u32,
    node: u32,
    depth: u32,
}

impl Engine {
    /// Places `s`, for which no node has room, by moving other slots. Returns whether it is placed.
    pub(super) fn make_room(&mut self, s: u32) -> bool {
        let depth_max = self.settings.thresholds.chain_depth_max;
        if depth_max == 0 || self.budgets.make_room.left() == 0 {
            return false;
        }
        let slot = *self.slot(s);
        let need = slot.need();
        if self.is_hopeless(s) {
            return false;
        }
        if self.search_chain(s, slot.class, depth_max) {
            self.promote_ingest_of(s);
            return true;
        }
        if slot.kind() == SlotKind::Ingest && self.displace_copy(s) {
            return true;
        }
        // A slot with siblings may have failed only because of where these are.
        if slot.sibling == s {
            let eligible = self.classes.eligible_of(slot.class);
            let failed = Some((self.queue.gain_epoch, need));
            self.classes.eligible.all.get_mut(eligible).hopeless = failed;
        } else {
            self.queue.hopeless.insert(s, self.queue.gain_epoch);
        }
        false
    }

    /// Whether making room failed for a need that small, and no node gained capacity since.
    pub(super) fn is_hopeless(&self, s: u32) -> bool {
        let slot = self.slot(s);
        if self.queue.hopeless.get(&s) == Some(&self.queue.gain_epoch) {
            return true;
        }
        let eligible = self.classes.classes.get(slot.class).eligible;
        if eligible == NONE {
            return false;
        }
        let hopeless = &self.classes.eligible.all.get(eligible).hopeless;
        hopeless.as_ref().is_some_and(|(epoch, need)| {
            *epoch == self.queue.gain_epoch && slot.need().covers(need)
        })
    }

    fn search_chain(&mut self, s: u32, class: u32, depth_max: u32) -> bool {
        let mut nodes: HashSet<u32, FixedHash> = HashSet::default();
        let mut steps: HashMap<u32, ChainStep, FixedHash> = HashMap::default();
        let start = ChainStep {
            by: NONE,
            node: NONE,
            depth: 0,
        };
        steps.insert(class, start);
        let mut queue = VecDeque::from([class]);
        // Classes of which a slot could leave, but not in exchange for ours: another node may allow
        // it.
        let mut stuck: HashMap<u32, u32, FixedHash> = HashMap::default();
        let mut tries = 0;
        let mut swaps_left = SWAPS_MAX;
        // Other classes that may go to the same nodes find no further nodes.
        let mut expanded: HashSet<u32, FixedHash> = HashSet::default();
        while let Some(by) = queue.pop_front() {
            let depth = steps[&by].depth + 1;
            if depth > depth_max.min(self.budgets.make_room.left()) {
                break;
            }
            if !expanded.insert(self.classes.eligible_of(by)) {
                continue;
            }
            let open = self.open_nodes_of(by);
            self.slice.spend(open.len());
            for node in open {
                if !nodes.insert(node) {
                    continue;
                }
                let classes: Vec<(u32, u32)> = self
                    .node(node)
                    .buckets
                    .iter()
                    .map(|bucket| (bucket.class, bucket.head))
                    .collect();
                self.slice.spend(classes.len());
                for (other, head) in classes {
                    let known = steps.contains_key(&other);
                    if known && stuck.get(&other).is_none_or(|times| *times >= STUCK_MAX) {
                        continue;
                    }
                    if !known {
                        steps.insert(other, ChainStep { by, node, depth });
                        queue.push_back(other);
                    }
                    if self.can_leave(other, head, node) {
                        let mut path = path_to(by, class, &steps);
                        path.push((node, other));
                        if self.displace(s, &path, 0, &mut swaps_left) {
                            return true;
                        }
                        *stuck.entry(other).or_default() += 1;
                        tries += 1;
                        if tries >= self.settings.thresholds.chain_tries_max {
                            return false;
                        }
                    }
                }
            }
        }
        false
    }

    pub(super) fn open_nodes_of(&mut self, class: u32) -> Vec<u32> {
        let pool = self.pool_of(class);
        let mut nodes = Vec::new();
        for (low, high) in pool.tiers.iter().flat_map(|tier| &tier.runs) {
            let leaves = self.index.class_start[*low as usize] as usize
                ..self.index.class_start[*high as usize] as usize;
            let open = self.index.tree.nodes[leaves]
                .iter()
                .copied()
                .filter(|node| self.node(*node).is_open());
            nodes.extend(open);
        }
        nodes
    }

    /// Whether one of the first slots of a bucket fits on another node, with its real size and not
    /// just one channel.
    fn can_leave(&mut self, class: u32, head: u32, node: u32) -> bool {
        let pool = self.pool_of(class);
        let mut refused: Option<Need> = None;
        let mut at = head;
        for _ in 0..SAMPLE {
            if at == NONE {
                return false;
            }
            let slot = self.slot(at);
            let need = slot.need();
            if !refused.is_some_and(|refused| need.covers(&refused)) {
                let fits = |tier| {
                    self.least_loaded(tier, need, &[node], LAST_RESORT)
                        .is_some()
                };
                if pool.tiers.iter().any(fits) {
                    return true;
                }
                refused = Some(need);
            }
            at = slot.next;
        }
        false
    }

    /// Puts `s` onto the node of step `i` in exchange for a slot of that step's class, which goes
    /// one step further. Changes nothing if that fails.
    fn displace(&mut self, s: u32, path: &[(u32, u32)], i: usize, swaps_left: &mut u32) -> bool {
        let (node, class) = path[i];
        let mut siblings = Vec::new();
        self.sibling_nodes(s, &mut siblings);
        if siblings.contains(&node) {
            return false;
        }
        let need = self.slot(s).need();
        let Ok(bucket) = self.node(node).bucket(class) else {
            return false;
        };
        let mut at = self.node(node).buckets[bucket].head;
        for _ in 0..SWAPS {
            if at == NONE || *swaps_left == 0 {
                break;
            }
            *swaps_left -= 1;
            self.slice.spend(1);
            let other = *self.slot(at);
            if self.node(node).fits_instead(&other.need(), &need) {
                // Before the rest of the chain, which records a first placement otherwise.
                let recorded = self.log.moved.len();
                self.record_move(at, MoveReason::MakeRoom);
                self.unassign(at);
                let moved = if i + 1 == path.len() {
                    match self.find(at, path) {
                        Some(target) => {
                            self.assign(at, target);
                            true
                        }
                        None => false,
                    }
                } else {
                    self.displace(at, path, i + 1, swaps_left)
                };
                if moved {
                    self.log.make_room_moves += 1;
                    self.budgets.make_room.take(1);
                    self.place_on(s, node, MoveReason::NotDistributed);
                    self.node_gained_slightly(node);
                    return true;
                }
                self.assign(at, node);
                self.forget_moves(recorded);
            }
            at = other.next;
        }
        false
    }

    /// Places an ingest in exchange for a backup, which may have to wait: the last resort.
    fn displace_copy(&mut self, s: u32) -> bool {
        let slot = *self.slot(s);
        let need = slot.need();
        let mut siblings = Vec::new();
        self.sibling_nodes(s, &mut siblings);
        let mut looked = 0;
        for node in self.open_nodes_of(slot.class) {
            if siblings.contains(&node) {
                continue;
            }
            let heads: Vec<u32> = self.node(node).buckets.iter().map(|b| b.head).collect();
            for head in heads {
                if self.slot(head).kind() != SlotKind::DvrBackup {
                    continue;
                }
                looked += 1;
                let mut at = head;
                for _ in 0..SAMPLE {
                    if at == NONE {
                        break;
                    }
                    let copy = *self.slot(at);
                    if self.node(node).fits_instead(&copy.need(), &need) {
                        self.record_move(at, MoveReason::MakeRoom);
                        self.unassign(at);
                        self.log.make_room_moves += 1;
                        self.budgets.make_room.take(1);
                        self.place_on(s, node, MoveReason::NotDistributed);
                        self.node_gained_slightly(node);
                        match self.find(at, &[]) {
                            Some(target) => self.assign(at, target),
                            None => self.wait(at),
                        }
                        return true;
                    }
                    at = copy.next;
                }
                if looked >= self.settings.thresholds.chain_tries_max {
                    return false;
                }
            }
        }
        false
    }
}

/// The chain from the first node to the last: which class is displaced on each.
fn path_to(class: u32, start: u32, steps: &HashMap<u32, ChainStep, FixedHash>) -> Vec<(u32, u32)> {
    let mut path = Vec::new();
    let mut at = class;
    while at != start {
        let step = &steps[&at];
        path.push((step.node, at));
        at = step.by;
    }
    path.reverse();
    path
}
