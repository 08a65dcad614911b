//! The lists of slots: every placed slot is in the list of its (node, class), every other live slot
//! waits in its class.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Engine;
use super::class::NONE;
use super::event::MoveReason;
use super::node::ClassBucket;
use super::slot::{LIVE, MEMBER, PENDING, RETURNS, UNIT, WAITING};

/// Slots to be placed: in this event, or once a node gains capacity.
#[derive(Clone)]
pub(super) struct PlacementQueue {
    /// Slots to be placed at the end of this event.
    pub batch: Vec<u32>,
    /// Number of waiting slots.
    pub waiting: u32,
    /// Classes with waiting slots.
    pub classes: BTreeSet<u32>,
    /// Nodes that gained capacity since the last retry.
    pub gained: BTreeSet<u32>,
    /// Slots with siblings for which no chain of moves was found, with the gain epoch of that.
    pub hopeless: BTreeMap<u32, u64>,
    /// Incremented whenever a node gains capacity.
    pub gain_epoch: u64,
    /// Waiting slots are retried at the end of this event, not at the next tick.
    pub retry_now: bool,
    /// More nodes are expected soon: many first placements wait for them.
    pub expects_nodes: bool,
}

impl PlacementQueue {
    pub fn new() -> Self {
        Self {
            batch: Vec::new(),
            waiting: 0,
            classes: BTreeSet::new(),
            gained: BTreeSet::new(),
            hopeless: BTreeMap::new(),
            gain_epoch: 1,
            retry_now: false,
            expects_nodes: false,
        }
    }
}

impl Engine {
    pub(super) fn assign(&mut self, s: u32, node: u32) {
        let class = self.slot(s).class;
        self.classes.pool(class);
        let score = self.score_on(class, node);
        self.assign_scored(s, node, score);
    }

    /// Like `assign`, for a known score; the class has its pool then.
    #[inline]
    pub(super) fn assign_scored(&mut self, s: u32, node: u32, score: u16) {
        let slot = *self.slot(s);
        debug_assert!(slot.node == NONE && !slot.has(WAITING | PENDING | MEMBER) && slot.has(LIVE));
        self.link(s, node, score);
        if slot.has(RETURNS) && self.origin_of(s) == node {
            self.clear_origin(s);
        }
        self.touch(node);
        self.progress.epoch += 1;
    }

    /// Puts a slot into its bucket and adds it to what the node uses.
    pub(super) fn link(&mut self, s: u32, n: u32, score: u16) {
        let slot = *self.slot(s);
        let node = self.node_mut(n);
        node.used.channels += u64::from(slot.channels);
        node.used.kbps += u64::from(slot.kbps);
        node.used.disk += u64::from(slot.disk);
        let next = match node.bucket(slot.class) {
            Ok(i) => {
                let bucket = &mut node.buckets[i];
                bucket.count += 1;
                std::mem::replace(&mut bucket.head, s)
            }
            Err(i) => {
                let bucket = ClassBucket {
                    class: slot.class,
                    head: s,
                    count: 1,
                };
                node.buckets.insert(i, bucket);
                NONE
            }
        };
        if next != NONE {
            self.slot_mut(next).prev = s;
        }
        let slot = self.slot_mut(s);
        slot.node = n;
        slot.prev = NONE;
        slot.next = next;
        slot.score = score;
        let (class, is_unit) = (slot.class, slot.has(UNIT));
        if is_unit {
            self.mirror(s, n);
        }
        self.track_below_best(s, class, score);
    }

    /// Remembers a slot that is placed below the best tier of its class.
    pub(super) fn track_below_best(&mut self, s: u32, class: u32, score: u16) {
        let entry = self.classes.classes.get(class);
        if entry
            .pool
            .as_ref()
            .is_some_and(|pool| score < pool.best_score())
        {
            let entry = self.classes.classes.get_mut(class);
            Arc::make_mut(&mut entry.below_best).push(s);
            self.improving.below_best.insert(class);
        }
    }

    /// Takes a slot off its node, which is returned.
    pub(super) fn unassign(&mut self, s: u32) -> u32 {
        let slot = *self.slot(s);
        let n = slot.node;
        debug_assert!(n != NONE && !slot.has(MEMBER));
        if slot.prev != NONE {
            self.slot_mut(slot.prev).next = slot.next;
        }
        if slot.next != NONE {
            self.slot_mut(slot.next).prev = slot.prev;
        }
        let node = self.node_mut(n);
        node.used.channels -= u64::from(slot.channels);
        node.used.kbps -= u64::from(slot.kbps);
        node.used.disk -= u64::from(slot.disk);
        let i = node
            .bucket(slot.class)
            .expect("a placed slot is in a bucket of its node");
        let bucket = &mut node.buckets[i];
        bucket.count -= 1;
        if slot.prev == NONE {
            bucket.head = slot.next;
        }
        if bucket.count == 0 {
            node.buckets.remove(i);
        }
        let slot = self.slot_mut(s);
        slot.node = NONE;
        slot.prev = NONE;
        slot.next = NONE;
        if slot.has(UNIT) {
            self.mirror(s, NONE);
        }
        self.touch(n);
        self.progress.epoch += 1;
        n
    }

    /// Slots of a node.
    pub(super) fn slots_on(&self, n: u32) -> Vec<u32> {
        let mut all = Vec::new();
        for bucket in &self.node(n).buckets {
            self.bucket_slots(bucket.head, &mut all);
        }
        all
    }

    pub(super) fn bucket_slots(&self, head: u32, all: &mut Vec<u32>) {
        let mut s = head;
        while s != NONE {
            all.push(s);
            s = self.slot(s).next;
        }
    }

    /// Takes a slot off its node and into the batch that is placed at the end of this event.
    pub(super) fn evict(&mut self, s: u32, reason: MoveReason) {
        self.record_move(s, reason);
        self.unassign(s);
        self.enqueue(s);
    }

    pub(super) fn enqueue(&mut self, s: u32) {
        debug_assert!(self.slot(s).node == NONE);
        self.activate_all(s);
        self.set_flag(s, PENDING, true);
        self.queue.batch.push(s);
    }

    /// A node gained capacity.
    pub(super) fn node_gained(&mut self, node: u32) {
        self.queue.gain_epoch += 1;
        if !self.queue.classes.is_empty() {
            self.queue.gained.insert(node);
        }
    }

    /// A node exchanged one slot for another: the old one may have been larger, or a sibling of a
    /// waiting slot. That does not make a failed chain search worth repeating.
    pub(super) fn node_gained_slightly(&mut self, node: u32) {
        if !self.queue.classes.is_empty() {
            self.queue.gained.insert(node);
        }
    }

    pub(super) fn wait(&mut self, s: u32) {
        self.wait_before(s, NONE);
    }

    /// Waits in front of slot `next` of the class, or behind all.
    pub(super) fn wait_before(&mut self, s: u32, next: u32) {
        let class = self.slot(s).class;
        let list = &mut self.classes.classes.get_mut(class).waiting;
        list.count += 1;
        let prev = if next == NONE {
            std::mem::replace(&mut list.tail, s)
        } else {
            self.slot(next).prev
        };
        if prev == NONE {
            self.classes.classes.get_mut(class).waiting.head = s;
        } else {
            self.slot_mut(prev).next = s;
        }
        if next != NONE {
            self.slot_mut(next).prev = s;
        }
        let slot = self.slot_mut(s);
        slot.flags |= WAITING;
        slot.prev = prev;
        slot.next = next;
        self.queue.classes.insert(class);
        self.queue.waiting += 1;
        self.progress.epoch += 1;
    }

    pub(super) fn stop_waiting(&mut self, s: u32) {
        let slot = *self.slot(s);
        debug_assert!(slot.has(WAITING));
        self.queue.hopeless.remove(&s);
        if slot.prev != NONE {
            self.slot_mut(slot.prev).next = slot.next;
        }
        if slot.next != NONE {
            self.slot_mut(slot.next).prev = slot.prev;
        }
        let list = &mut self.classes.classes.get_mut(slot.class).waiting;
        list.count -= 1;
        if list.head == s {
            list.head = slot.next;
        }
        if list.tail == s {
            list.tail = slot.prev;
        }
        if list.count == 0 {
            self.queue.classes.remove(&slot.class);
        }
        let slot = self.slot_mut(s);
        slot.flags &= !WAITING;
        slot.prev = NONE;
        slot.next = NONE;
        self.queue.waiting -= 1;
        self.progress.epoch += 1;
    }
}
