//! Placement: finds a node for a slot, and places batches in an order that does not depend on
//! arrival.

use std::sync::Arc;

use super::Engine;
use super::class::NONE;
use super::event::{MoveReason, SlotKind};
use super::pool::{NodePool, PoolTier};
use super::slot::{FETCHED_TOGETHER, LIVE, PENDING, UNIT, WAITING};
use super::tree::{LAST_RESORT, Need, ONE, UNLIMITED};

/// Largest batch that is tried again in another order if it does not fit.
const SECOND_ORDER_MAX: usize = 20_000;
/// A slot that needs more than one part in so many of a node's bandwidth or disk is placed with
/// headroom.
const LARGE_PART: u64 = 20;
/// Bounds of the parts of the key by which a batch is sorted.
const RANK_MAX: u64 = (1 << 18) - 1;
const SIZE_MAX: u64 = (1 << 20) - 1;

impl Engine {
    pub(super) fn pool_of(&mut self, class: u32) -> Arc<NodePool> {
        self.classes.pool(class).clone()
    }

    /// The best node for a slot that is on no node.
    pub(super) fn find(&mut self, s: u32, avoid_too: &[(u32, u32)]) -> Option<u32> {
        self.find_scored(s, avoid_too).map(|(node, _)| node)
    }

    /// The best node for a slot that can also stay where it is: moves that are not confirmed yet
    /// are not relied on.
    pub(super) fn find_confirmed(&mut self, s: u32, avoid_too: &[(u32, u32)]) -> Option<u32> {
        self.find_now(s, avoid_too).map(|(node, _)| node)
    }

    /// Like `find`, with the score.
    fn find_scored(&mut self, s: u32, avoid_too: &[(u32, u32)]) -> Option<(u32, u16)> {
        let found = self.find_now(s, avoid_too);
        // Better to rely on moves that are not confirmed yet than to leave a stream without a node.
        if found.is_none() && self.release_unconfirmed() {
            return self.find_now(s, avoid_too);
        }
        found
    }

    /// The best node by the room that no node holds.
    fn find_now(&mut self, s: u32, avoid_too: &[(u32, u32)]) -> Option<(u32, u16)> {
        self.refresh_tree();
        let slot = *self.slot(s);
        let pool = self.pool_of(slot.class);
        let mut avoid = std::mem::take(&mut self.index.avoid);
        self.sibling_nodes(s, &mut avoid);
        let far = self.in_other_domains(&slot, &pool, &avoid);
        avoid.extend(avoid_too.iter().map(|(node, _)| *node));
        let mut found = far.and_then(|pool| self.find_in(&pool, slot.need(), &avoid));
        if found.is_none() {
            found = self.find_in(&pool, slot.need(), &avoid);
        }
        self.index.avoid = avoid;
        found
    }

    fn find_in(&self, pool: &NodePool, need: Need, avoid: &[u32]) -> Option<(u32, u16)> {
        let cap = u64::from(self.settings.thresholds.prefer_load_max_permille) * ONE / 1000;
        if cap < ONE && pool.tiers.len() > 1 {
            for tier in &pool.tiers {
                if let Some((_, node)) = self.least_loaded(tier, need, avoid, cap << 32) {
                    return Some((node, tier.score));
                }
            }
        }
        for tier in &pool.tiers {
            if let Some((_, node)) = self.least_loaded(tier, need, avoid, LAST_RESORT) {
                return Some((self.with_headroom(tier, need, avoid, node), tier.score));
            }
        }
        if self.cluster.totals.on_probation == 0 {
            return None;
        }
        pool.tiers.iter().find_map(|tier| {
            let (_, node) = self.least_loaded(tier, need, avoid, u64::MAX)?;
            Some((node, tier.score))
        })
    }

    /// Least load before adding is the right rule for channels, and the wrong one for a recording
    /// that fills half of a disk: a large slot goes where the load is least after adding, among
    /// nodes with several times the room it needs.
    fn with_headroom(&self, tier: &PoolTier, need: Need, avoid: &[u32], node: u32) -> u32 {
        let limit = &self.node(node).limit;
        let large = |part: u32, limit: u32| {
            limit != UNLIMITED && u64::from(part) * LARGE_PART > u64::from(limit)
        };
        if !large(need.kbps, limit.kbps) && !large(need.disk, limit.disk) {
            return node;
        }
        let balance = self.settings.balance;
        let mut best = (self.node(node).load_with(&need, balance), node);
        for times in [16, 4] {
            let wanted = Need {
                channels: need.channels,
                kbps: need.kbps.saturating_mul(times),
                disk: need.disk.saturating_mul(times),
            };
            if let Some((_, other)) = self.least_loaded(tier, wanted, avoid, LAST_RESORT) {
                let load = self.node(other).load_with(&need, balance);
                if load < best.0 {
                    best = (load, other);
                }
            }
        }
        best.1
    }

    /// For a backup, if failure domains are configured: its pool without the domains of the
    /// stream's other slots.
    fn in_other_domains(
        &self,
        slot: &super::slot::Slot,
        pool: &NodePool,
        copies: &[u32],
    ) -> Option<NodePool> {
        if slot.kind() != SlotKind::DvrBackup || self.settings.failure_domain_key.is_none() {
            return None;
        }
        let near: Vec<u32> = copies
            .iter()
            .map(|node| self.node(*node).full.domain)
            .filter(|domain| *domain != NONE)
            .collect();
        if near.is_empty() {
            return None;
        }
        let mut far = NodePool::default();
        for tier in &pool.tiers {
            for (low, high) in &tier.runs {
                for number in *low..*high {
                    if !near.contains(&self.classes.node_classes[number as usize].domain) {
                        far.add(tier.score, number);
                    }
                }
            }
        }
        Some(far)
    }

    /// Places a slot that is in no list, or queues it. Returns whether it was placed.
    pub(super) fn place(&mut self, s: u32) -> bool {
        if let Some((node, score)) = self.find_scored(s, &[]) {
            self.record_move(s, MoveReason::NotDistributed);
            self.assign_scored(s, node, score);
            return true;
        }
        if self.promote(s, true, MoveReason::Redundancy) {
            return true;
        }
        if self.search_must_wait(s) {
            self.wait(s);
            return false;
        }
        if self.make_room(s) {
            return true;
        }
        if self.forget_measurement(s) {
            return self.place(s);
        }
        if self.slot(s).has(UNIT) && self.place_part(s) {
            return true;
        }
        self.wait(s);
        false
    }

    /// Places a slot that is in no list if a node has room for it; else it waits.
    fn place_or_wait(&mut self, s: u32) {
        match self.find_scored(s, &[]) {
            Some((node, score)) => {
                self.record_move(s, MoveReason::NotDistributed);
                self.assign_scored(s, node, score);
            }
            None => self.wait(s),
        }
    }

    /// Puts a slot that is in no list onto a node, and records the reason unless this event has one
    /// already.
    pub(super) fn place_on(&mut self, s: u32, node: u32, reason: MoveReason) {
        self.record_move(s, reason);
        self.assign(s, node);
    }

    /// Moves a placed slot. The old node stays charged until the new one has confirmed.
    pub(super) fn move_optional(&mut self, s: u32, to: u32, reason: MoveReason) {
        self.record_move(s, reason);
        let from = self.unassign(s);
        self.assign(s, to);
        // If another node keeps the stream already, that one is charged.
        if self.node(from).is_running() && !self.flights.kept.contains_key(&s) {
            self.hold_room(s, from);
        }
        self.node_gained(from);
    }

    /// Places the batch of this event: ingests, then inference, then backups; within these the
    /// slots with the smallest pool first, large ones before small ones, then by name.
    pub(super) fn place_batch(&mut self) {
        // Backups that give way to ingests form another batch.
        while !self.queue.batch.is_empty() {
            let slots = std::mem::take(&mut self.queue.batch);
            self.place_all(slots);
        }
    }

    fn place_all(&mut self, mut slots: Vec<u32>) {
        // Slots that left the batch again are no longer pending; no slot is placed twice.
        slots.retain(|s| {
            let pending = self.slot(*s).has(PENDING);
            self.set_flag(*s, PENDING, false);
            pending
        });
        if slots.is_empty() {
            return;
        }
        self.refresh_tree();
        if let [s] = slots[..] {
            self.place(s);
            return;
        }
        let large_first = self.in_order(&slots, false);
        self.log.moved.reserve(large_first.len());
        let (waiting_before, chains_before) = (self.queue.waiting, self.log.make_room_moves);
        for some in large_first.chunks(FETCHED_TOGETHER) {
            self.fetch(some.iter().copied());
            for s in some {
                self.place(*s);
            }
        }
        let missed = self.queue.waiting.saturating_sub(waiting_before);
        // Small slots first may place more. Not after a chain or a promotion: the slots that it
        // displaced would have to be put back, too.
        if missed == 0 {
            return;
        }
        if self.log.make_room_moves != chains_before
            || !self.queue.batch.is_empty()
            || slots.len() > SECOND_ORDER_MAX
            || slots.iter().any(|s| self.slot(*s).has(UNIT))
        {
            self.promote_waiting(&large_first);
            return;
        }
        self.try_small_first(&large_first, waiting_before, missed);
        self.promote_waiting(&large_first);
    }

    /// Places a batch again, small slots first, and keeps the order that placed more.
    fn try_small_first(&mut self, large_first: &[u32], waiting_before: u32, missed: u32) {
        let first: Vec<u32> = large_first.iter().map(|s| self.slot(*s).node).collect();
        self.undo_placement(large_first);
        let small_first = self.in_order(large_first, true);
        for s in small_first {
            self.place_or_wait(s);
        }
        if self.queue.waiting.saturating_sub(waiting_before) < missed {
            return;
        }
        self.undo_placement(large_first);
        for (s, node) in large_first.iter().copied().zip(first) {
            if node == NONE {
                self.wait(s);
            } else {
                self.assign(s, node);
            }
        }
    }

    fn undo_placement(&mut self, slots: &[u32]) {
        for s in slots {
            if self.slot(*s).has(WAITING) {
                self.stop_waiting(*s);
            } else {
                self.unassign(*s);
            }
        }
    }

    /// Sorts slots by kind, rank of the pool, size, name.
    fn in_order(&mut self, slots: &[u32], small_first: bool) -> Vec<u32> {
        let mut classes: Vec<u32> = slots.iter().map(|s| self.slot(*s).class).collect();
        classes.sort_unstable();
        classes.dedup();
        let mut choices: Vec<((u64, u64), u32)> = Vec::with_capacity(classes.len());
        for class in classes {
            choices.push((self.pool_channels(class), class));
        }
        choices.sort_unstable();
        let mut ranks: Vec<(u32, u64)> = Vec::with_capacity(choices.len());
        let mut rank = 0;
        for i in 0..choices.len() {
            rank += u64::from(i > 0 && choices[i].0 != choices[i - 1].0);
            ranks.push((choices[i].1, rank.min(RANK_MAX)));
        }
        ranks.sort_unstable();
        let average = self.cluster.totals.average_limit();
        let mut keyed: Vec<(u64, u32)> = Vec::with_capacity(slots.len());
        for (i, s) in slots.iter().enumerate() {
            if i % FETCHED_TOGETHER == 0 {
                let some = &slots[i..slots.len().min(i + FETCHED_TOGETHER)];
                self.fetch_names(some.iter().copied());
            }
            let slot = self.slot(*s);
            debug_assert!(slot.has(LIVE));
            let mut size = size_of_need(&slot.need(), &average).min(SIZE_MAX);
            if !small_first {
                size = SIZE_MAX - size;
            }
            // All in one number; only slots with equal keys are compared by the whole hash of their
            // names.
            let rank = ranks
                .binary_search_by_key(&slot.class, |(class, _)| *class)
                .map_or(0, |i| ranks[i].1);
            let key =
                (slot.kind() as u64) << 62 | rank << 44 | size << 24 | self.order_of(*s) >> 40;
            keyed.push((key, *s));
        }
        keyed.sort_unstable_by(|a, b| {
            a.0.cmp(&b.0)
                .then_with(|| self.order_of(a.1).cmp(&self.order_of(b.1)))
        });
        keyed.into_iter().map(|(_, s)| s).collect()
    }

    /// Channels of all nodes in the pool of a class, and of its best tier.
    fn pool_channels(&mut self, class: u32) -> (u64, u64) {
        let pool = self.pool_of(class);
        let of = |tier: &PoolTier| -> u64 {
            tier.runs
                .iter()
                .map(|(low, high)| {
                    let leaf = |number: u32| self.index.class_start[number as usize] as usize;
                    self.index.channels_before[leaf(*high)] - self.index.channels_before[leaf(*low)]
                })
                .sum()
        };
        let all = pool.tiers.iter().map(of).sum();
        (all, pool.tiers.first().map_or(0, of))
    }
}

/// The largest of the three shares of an average node, in 65,536ths.
fn size_of_need(need: &Need, average: &[u64; 3]) -> u64 {
    [need.channels, need.kbps, need.disk]
        .iter()
        .zip(average)
        .map(|(need, average)| (u64::from(*need) << 16) / average)
        .max()
        .unwrap_or(0)
}
