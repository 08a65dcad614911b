//! Finding a node for a slot, and placing many at once in an order that does not depend on how they came.

use std::cmp::Reverse;
use std::sync::Arc;

use super::Engine;
use super::class::{NONE, Pool, Tier};
use super::event::{SlotKind, Why};
use super::slots::{LIVE, PENDING, UNIT, WAITING};
use super::tree::{LAST_RESORT, Need, ONE, Search, UNLIMITED};

/// A batch that does not fit is tried again in another order up to this size.
const SECOND_ORDER_MAX: usize = 20_000;
/// A slot that takes more than one part in so many of a node's bandwidth or disk asks for real headroom.
const LARGE_PART: u64 = 20;

impl Engine {
    /// The coolest node of these classes with room: key and node.
    #[inline]
    pub(super) fn coolest(
        &self,
        tier: &Tier,
        need: Need,
        avoid: &[u32],
        below: u64,
    ) -> Option<(u64, u32)> {
        let mut search = Search::new(&self.tree, need, avoid, below);
        for (low, high) in &tier.runs {
            search.range(
                self.class_start[*low as usize],
                self.class_start[*high as usize],
            );
        }
        search.found()
    }

    pub(super) fn pool_of(&mut self, class: u32) -> Arc<Pool> {
        self.classes.pool(class).clone()
    }

    /// Where a slot that is on no node goes best.
    pub(super) fn find(&mut self, s: u32, avoid_too: &[(u32, u32)]) -> Option<u32> {
        self.refresh_tree();
        let slot = *self.slot(s);
        let pool = self.pool_of(slot.class);
        let mut avoid = std::mem::take(&mut self.scratch);
        self.sibling_nodes(s, &mut avoid);
        let far = self.far_from_copies(&slot, &pool, &avoid);
        avoid.extend(avoid_too.iter().map(|(node, _)| *node));
        let mut found = far.and_then(|pool| self.find_in(&pool, slot.need(), &avoid));
        if found.is_none() {
            found = self.find_in(&pool, slot.need(), &avoid);
        }
        if found.is_none() && !self.held.is_empty() {
            // Availability beats caution: what moves away may be late, a stream without a node is off.
            self.release_all_held();
            found = self.find_in(&pool, slot.need(), &avoid);
        }
        self.scratch = avoid;
        found
    }

    fn find_in(&self, pool: &Pool, need: Need, avoid: &[u32]) -> Option<u32> {
        let cap = u64::from(self.settings.prefer_load_max_permille) * ONE / 1000;
        if cap < ONE && pool.tiers.len() > 1 {
            let found = pool
                .tiers
                .iter()
                .find_map(|tier| self.coolest(tier, need, avoid, cap << 32));
            if let Some((_, node)) = found {
                return Some(node);
            }
        }
        for tier in &pool.tiers {
            if let Some((_, node)) = self.coolest(tier, need, avoid, LAST_RESORT) {
                return Some(self.with_headroom(tier, need, avoid, node));
            }
        }
        if self.on_probation == 0 {
            return None;
        }
        pool.tiers
            .iter()
            .find_map(|tier| self.coolest(tier, need, avoid, u64::MAX))
            .map(|(_, node)| node)
    }

    /// The rule of the least load before adding is right for channels and wrong for one recording that is half of a disk: such a slot
    /// goes where the load is least after adding, among nodes that have much more room than it needs.
    fn with_headroom(&self, tier: &Tier, need: Need, avoid: &[u32], node: u32) -> u32 {
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
            if let Some((_, other)) = self.coolest(tier, wanted, avoid, LAST_RESORT) {
                let load = self.node(other).load_with(&need, balance);
                if load < best.0 {
                    best = (load, other);
                }
            }
        }
        best.1
    }

    /// For a backup, where failure domains are known: its pool without the domains of the stream's other copies.
    fn far_from_copies(
        &self,
        slot: &super::slots::Slot,
        pool: &Pool,
        copies: &[u32],
    ) -> Option<Pool> {
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
        let mut far = Pool::default();
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

    /// Places a slot that is in no list, or lets it wait.
    pub(super) fn place(&mut self, s: u32) -> bool {
        if let Some(node) = self.find(s, &[]) {
            self.arrive(s, node, Why::NotDistributed);
            return true;
        }
        if self.make_room(s) {
            return true;
        }
        if self.slot(s).has(UNIT) && self.place_part(s) {
            return true;
        }
        self.wait(s);
        false
    }

    /// Puts a slot that is in no list onto a node and writes down why, unless there is a cause already.
    pub(super) fn arrive(&mut self, s: u32, node: u32, why: Why) {
        self.note(s, why);
        self.assign(s, node);
    }

    /// Moves a placed slot. The old node's work counts until the new one has confirmed: these moves can wait.
    pub(super) fn move_optional(&mut self, s: u32, to: u32, why: Why) {
        self.note(s, why);
        let from = self.unassign(s);
        self.assign(s, to);
        if self.node(from).is_running() {
            self.hold(s, from);
        }
        self.gain(from);
    }

    /// Places what was collected. Ingests first, then inference, then backups; within these the slots with the smallest choice first, large ones
    /// before small ones, the rest by name.
    pub(super) fn place_batch(&mut self) {
        let mut slots = std::mem::take(&mut self.batch);
        // What left the batch again is no longer pending, and nothing is placed twice.
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
        let mut keyed = self.in_order(&slots);
        keyed.sort_unstable();
        let (waiting_before, chains_before) = (self.waiting, self.counters.make_room_moves);
        for (.., s) in &keyed {
            self.place(*s);
        }
        let missed = self.waiting - waiting_before;
        // Small ones first may place more. Not after a chain: the slots it displaced would have to be put back, too.
        if missed == 0
            || self.counters.make_room_moves != chains_before
            || keyed.len() > SECOND_ORDER_MAX
            || slots.iter().any(|s| self.slot(*s).has(UNIT))
        {
            return;
        }
        let first: Vec<u32> = keyed.iter().map(|key| self.slot(key.3).node).collect();
        let large_first = keyed.clone();
        keyed.sort_unstable_by_key(|(order, size, hash, _)| (*order, Reverse(*size), *hash));
        self.take_back(&keyed);
        let depth = std::mem::replace(&mut self.settings.chain_depth_max, 0);
        for (.., s) in &keyed {
            self.place(*s);
        }
        self.settings.chain_depth_max = depth;
        if self.waiting - waiting_before < missed {
            return;
        }
        self.take_back(&keyed);
        for ((.., s), node) in large_first.iter().zip(first) {
            if node == NONE {
                self.wait(*s);
            } else {
                self.assign(*s, node);
            }
        }
    }

    fn take_back(&mut self, keyed: &[(u64, u32, u64, u32)]) {
        for (.., s) in keyed {
            if self.slot(*s).has(WAITING) {
                self.stop_waiting(*s);
            } else {
                self.unassign(*s);
            }
        }
    }

    /// Each slot with (kind and rank of its pool, smallness, hash of its name).
    fn in_order(&mut self, slots: &[u32]) -> Vec<(u64, u32, u64, u32)> {
        let mut classes: Vec<u32> = slots.iter().map(|s| self.slot(*s).class).collect();
        classes.sort_unstable();
        classes.dedup();
        let mut choices: Vec<((u64, u64), u32)> = Vec::with_capacity(classes.len());
        for class in classes {
            choices.push((self.choice(class), class));
        }
        choices.sort_unstable();
        let mut rank_of = vec![0u32; self.classes.classes.len()];
        let mut rank = 0;
        for i in 0..choices.len() {
            rank += u32::from(i > 0 && choices[i].0 != choices[i - 1].0);
            rank_of[choices[i].1 as usize] = rank;
        }
        let average = self.average_limits();
        let mut keyed = Vec::with_capacity(slots.len());
        for s in slots {
            let slot = self.slot(*s);
            debug_assert!(slot.has(LIVE));
            let size = size_of_need(&slot.need(), &average);
            let order = (slot.kind() as u64) << 32 | u64::from(rank_of[slot.class as usize]);
            keyed.push((order, u32::MAX - size, self.order_of(*s), *s));
        }
        keyed
    }

    /// Channels of all nodes that a class may go to, and of those it likes best.
    fn choice(&mut self, class: u32) -> (u64, u64) {
        let pool = self.pool_of(class);
        let of = |tier: &Tier| -> u64 {
            tier.runs
                .iter()
                .map(|(low, high)| {
                    let leaf = |number: u32| self.class_start[number as usize] as usize;
                    self.capacity_before[leaf(*high)] - self.capacity_before[leaf(*low)]
                })
                .sum()
        };
        let all = pool.tiers.iter().map(of).sum();
        (all, pool.tiers.first().map_or(0, of))
    }

    /// Of the open nodes that have a limit, per dimension.
    fn average_limits(&self) -> [u64; 3] {
        let mut sums = [(0u64, 0u64); 3];
        for node in self.nodes.iter().filter(|node| node.is_open()) {
            let limit = &node.limit;
            for (sum, limit) in sums
                .iter_mut()
                .zip([limit.channels, limit.kbps, limit.disk])
            {
                if limit != UNLIMITED {
                    sum.0 += u64::from(limit);
                    sum.1 += 1;
                }
            }
        }
        sums.map(|(sum, count)| {
            if count == 0 {
                u64::MAX
            } else {
                (sum / count).max(1)
            }
        })
    }
}

/// The largest of the three shares of an average node, in 65,536ths.
fn size_of_need(need: &Need, average: &[u64; 3]) -> u32 {
    [need.channels, need.kbps, need.disk]
        .iter()
        .zip(average)
        .map(|(need, average)| (u64::from(*need) << 16) / average)
        .max()
        .unwrap_or(0)
        .min(u64::from(u32::MAX)) as u32
}
