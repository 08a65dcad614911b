//! Optional moves: to nodes with better labels, from loaded nodes to less loaded ones, off nodes
//! under CPU pressure.
//!
//! Every optional move raises the stream's score, or keeps it and leaves the fuller of its two
//! nodes less full than before, or (see `counts`) no fuller, with less streams. Loads are compared
//! in pairs and never with a mean: a mean would count nodes that none of these streams may go to.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;

use super::Engine;
use super::class::{NONE, static_reasons};
use super::cow::FixedHash;
use super::event::{MoveReason, Shed};
use super::node::ClassBucket;
use super::pool::NodePool;
use super::slot::{DISABLED, LIVE, MEMBER};
use super::tree::{LAST_RESORT, Need, ONE};

/// Failures in a row after which the other slots of a class are not tried in this tick.
const MISSES_MAX: u32 = 8;
/// Nodes, buckets of each, and slots of a bucket, that are tried as partners of a swap.
const SWAP_NODES: usize = 8;
const SWAP_BUCKETS: usize = 64;
const SWAP_SLOTS: usize = 4;
/// Slots of a bucket from which a balancing move is chosen, and how many of these are tried.
const SAMPLE: usize = 16;
/// Slots of a bucket that are looked at to find so many that are not pinned.
const SAMPLE_PINNED_MAX: usize = 1024;
const TRIES: usize = 4;

/// Slots that optional moves are about.
#[derive(Clone, Default)]
pub(super) struct Improving {
    /// Classes with slots that are placed below their best tier.
    pub below_best: BTreeSet<u32>,
    /// The first of these that the next tick looks at: those before were looked at.
    pub next_class: u32,
    /// Slots that optional moves leave alone.
    pub exempt: imbl::OrdMap<u32, Exemption>,
}

/// Why and until when optional moves leave a slot alone.
#[derive(Clone, Copy)]
pub(super) struct Exemption {
    pub until_ms: u64,
    /// It was moved for its own good. Otherwise an operator placed it, and it may still move to
    /// where its labels match better.
    pub was_moved: bool,
}

/// Counts of one round of balancing: moves off and onto each node.
#[derive(Default)]
pub(super) struct BalanceRound {
    pub out: BTreeMap<u32, u32>,
    pub into: BTreeMap<u32, u32>,
    /// A budget or an exemption forbade a move.
    pub deferred: bool,
}

impl Engine {
    /// Optional moves are allowed: no node is on probation and few moves are in flight.
    pub(super) fn optional_moves_allowed(&self) -> bool {
        let flying = u64::from(self.flights.count) * 1000;
        let share_max = u64::from(self.settings.budgets.in_flight_permille_max);
        self.cluster.totals.on_probation == 0
            && flying
                <= (u64::from(self.table.streams) * share_max)
                    .max(1000 * u64::from(self.settings.budgets.optional_moves_min))
    }

    // ---- preferred labels ----

    /// Moves slots to better tiers. Returns whether some were left for the next tick.
    pub(super) fn upgrade(&mut self) -> bool {
        let mut left_over = false;
        let next = std::mem::take(&mut self.improving.next_class);
        let classes: Vec<u32> = self.improving.below_best.range(next..).copied().collect();
        for class in classes {
            left_over |= self.upgrade_class(class);
            if self.slice.cut() {
                self.improving.next_class = class + 1;
                return true;
            }
        }
        left_over
    }

    /// Finds slots for which a node class that was added later is better than theirs.
    pub(super) fn find_promoted(&mut self) {
        self.classes.look_at_new_offers();
        let promoted = std::mem::take(&mut self.classes.offers.promoted);
        if promoted.is_empty() {
            return;
        }
        for n in 0..self.cluster.nodes.len() {
            let buckets = self.cluster.nodes[n].buckets.clone();
            for bucket in buckets
                .iter()
                .filter(|bucket| promoted.contains(&bucket.class))
            {
                let mut slots = Vec::new();
                self.bucket_slots(bucket.head, &mut slots);
                for s in slots {
                    let score = self.slot(s).score;
                    self.track_below_best(s, bucket.class, score);
                }
            }
        }
    }

    fn upgrade_class(&mut self, class: u32) -> bool {
        let pool = self.pool_of(class);
        let best = pool.best_score();
        let slots = std::mem::take(&mut self.classes.classes.get_mut(class).below_best);
        let mut ordered: Vec<(u64, u32)> = Vec::with_capacity(slots.len());
        for s in slots.iter() {
            let slot = self.slot(*s);
            if slot.class == class
                && slot.has(LIVE)
                && !slot.has(MEMBER)
                && slot.node != NONE
                && slot.score < best
            {
                ordered.push((self.order_of(*s), *s));
            }
        }
        ordered.sort_unstable();
        ordered.dedup();
        let mut keep = Vec::new();
        let mut misses = 0;
        let mut left_over = false;
        for (_, s) in ordered {
            if self.budgets.preferred_left() == 0 {
                left_over = true;
                keep.push(s);
                continue;
            }
            // A node that may be lost keeps what it has until that is certain.
            if self.was_moved_lately(s)
                || self.is_pinned(s)
                || misses >= MISSES_MAX
                || !self.node(self.slot(s).node).is_reachable()
            {
                keep.push(s);
                continue;
            }
            self.slice.spend(1);
            if self.upgrade_slot(s, &pool) {
                misses = 0;
                if self.slot(s).score < best {
                    keep.push(s);
                }
            } else {
                // A swap takes two moves.
                left_over |= self.budgets.preferred_left() < 2;
                misses += 1;
                keep.push(s);
            }
        }
        // Swaps may have added entries meanwhile.
        keep.extend(
            self.classes
                .classes
                .get(class)
                .below_best
                .iter()
                .filter(|s| self.slot(**s).class == class),
        );
        keep.sort_unstable();
        keep.dedup();
        if keep.is_empty() {
            self.improving.below_best.remove(&class);
        }
        self.classes.classes.get_mut(class).below_best = Arc::new(keep);
        left_over
    }

    pub(super) fn upgrade_slot(&mut self, s: u32, pool: &NodePool) -> bool {
        let slot = *self.slot(s);
        let below =
            (u64::from(self.settings.thresholds.upgrade_load_max_permille) * ONE / 1000) << 32;
        let mut avoid = Vec::new();
        self.sibling_nodes(s, &mut avoid);
        let better = pool.tiers.iter().take_while(|tier| tier.score > slot.score);
        for tier in better.clone() {
            if let Some((_, node)) =
                self.least_loaded(tier, slot.need(), &avoid, below.min(LAST_RESORT))
            {
                self.budgets.take_preferred(1);
                self.move_optional(s, node, MoveReason::Preferred);
                self.exempt(s);
                return true;
            }
        }
        if self.budgets.preferred_left() < 2 {
            return false;
        }
        for tier in better {
            if self.swap(s, &tier.runs, &avoid) {
                self.budgets.take_preferred(2);
                return true;
            }
        }
        false
    }

    /// Exchanges a slot with one on a full node of a better tier, which comes here or goes where
    /// there is room, if the sum of both scores rises.
    fn swap(&mut self, s: u32, runs: &[(u32, u32)], avoid: &[u32]) -> bool {
        let slot = *self.slot(s);
        let here = slot.node;
        let mut looked = 0;
        let leaves: Vec<usize> = runs
            .iter()
            .flat_map(|(low, high)| {
                self.index.class_start[*low as usize] as usize
                    ..self.index.class_start[*high as usize] as usize
            })
            .take(4 * SWAP_NODES)
            .collect();
        for leaf in leaves {
            let there = self.index.tree.nodes[leaf];
            if there == here || avoid.contains(&there) || !self.node(there).is_open() {
                continue;
            }
            looked += 1;
            if looked > SWAP_NODES {
                break;
            }
            let gain = self.score_on(slot.class, there) - slot.score;
            let buckets = &self.node(there).buckets;
            let buckets: Vec<ClassBucket> = buckets.iter().take(SWAP_BUCKETS).copied().collect();
            self.slice.spend(buckets.len());
            let partner = buckets
                .iter()
                .find_map(|bucket| self.swap_partner(s, there, bucket, gain));
            if let Some((other, target)) = partner {
                self.record_move(s, MoveReason::Preferred);
                self.record_move(other, MoveReason::MakeRoom);
                self.unassign(s);
                self.unassign(other);
                self.assign(s, there);
                self.assign(other, target);
                self.exempt(s);
                self.exempt(other);
                self.node_gained(here);
                self.node_gained(there);
                return true;
            }
        }
        false
    }

    /// A slot of a bucket that may give way to `s`, and the node it goes to.
    fn swap_partner(
        &mut self,
        s: u32,
        there: u32,
        bucket: &ClassBucket,
        gain: u16,
    ) -> Option<(u32, u32)> {
        let slot = *self.slot(s);
        let here = slot.node;
        let may_come_here =
            self.node(here).is_open() && self.static_reasons_on(bucket.class, here).is_empty();
        let score_here = self.score_on(bucket.class, here);
        let mut at = bucket.head;
        for _ in 0..SWAP_SLOTS {
            if at == NONE {
                break;
            }
            let other = *self.slot(at);
            if !self.was_moved_lately(at) && !self.is_pinned(at) {
                // What an operator placed gives way only if it gains as well.
                let is_manual = self.improving.exempt.contains_key(&at);
                let loss = other.score.saturating_sub(score_here);
                let gains = gain > loss && (!is_manual || score_here > other.score);
                if may_come_here && gains && self.may_swap(s, at) {
                    return Some((at, here));
                }
                if !is_manual
                    && self.node(there).fits_instead(&other.need(), &slot.need())
                    && let Some(target) = self.find_elsewhere(at, gain)
                {
                    return Some((at, target));
                }
            }
            at = other.next;
        }
        None
    }

    /// Another node for a placed slot that lowers its score by less than `gain`.
    fn find_elsewhere(&mut self, s: u32, gain: u16) -> Option<u32> {
        let slot = *self.slot(s);
        let mut avoid = Vec::new();
        self.sibling_nodes(s, &mut avoid);
        avoid.push(slot.node);
        let below =
            (u64::from(self.settings.thresholds.upgrade_load_max_permille) * ONE / 1000) << 32;
        self.pool_of(slot.class)
            .tiers
            .iter()
            .take_while(|tier| tier.score.saturating_add(gain) > slot.score)
            .find_map(|tier| self.least_loaded(tier, slot.need(), &avoid, below.min(LAST_RESORT)))
            .map(|(_, node)| node)
    }

    fn may_swap(&self, a: u32, b: u32) -> bool {
        let (slot_a, slot_b) = (self.slot(a), self.slot(b));
        let (node_a, node_b) = (self.node(slot_a.node), self.node(slot_b.node));
        if !node_a.fits_instead(&slot_a.need(), &slot_b.need())
            || !node_b.fits_instead(&slot_b.need(), &slot_a.need())
        {
            return false;
        }
        let mut siblings = Vec::new();
        self.sibling_nodes(b, &mut siblings);
        !siblings.contains(&slot_a.node)
    }

    // ---- balance ----

    /// Runs passes until one moves nothing. Returns whether a move was deferred.
    pub(super) fn rebalance(&mut self) -> bool {
        if !self.settings.rebalance {
            return false;
        }
        let mut round = BalanceRound::default();
        while self.rebalance_pass(&mut round) || self.rebalance_counts(&mut round) {}
        round.deferred
    }

    fn rebalance_pass(&mut self, round: &mut BalanceRound) -> bool {
        let start = u64::from(self.settings.thresholds.gap_start_permille) * ONE / 1000;
        let stop = u64::from(self.settings.thresholds.gap_stop_permille) * ONE / 1000;
        let balance = self.settings.balance;
        let mut heap: BinaryHeap<(u64, u32, bool)> = self
            .cluster
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.is_open() && !node.buckets.is_empty())
            .map(|(i, node)| (node.load(balance), i as u32, false))
            .collect();
        // Key of the least loaded node that a class may go to without losing score, valid for one
        // epoch.
        let mut least_loaded: HashMap<(u32, u16), (u64, u64), FixedHash> = HashMap::default();
        let mut moved = false;
        while let Some((load, node, active)) = heap.pop() {
            let gap = if active { stop } else { start };
            if load <= (self.index.tree.least_loaded() >> 32) + stop.min(start) {
                break;
            }
            if self.move_one_off(node, load, gap, stop, round, &mut least_loaded) {
                if self.slice.cut() {
                    round.deferred = true;
                    return false;
                }
                moved = true;
                heap.push((self.node(node).load(balance), node, true));
            }
        }
        moved
    }

    /// Moves one slot off a loaded node.
    fn move_one_off(
        &mut self,
        node: u32,
        load: u64,
        gap: u64,
        stop: u64,
        round: &mut BalanceRound,
        least_loaded: &mut HashMap<(u32, u16), (u64, u64), FixedHash>,
    ) -> bool {
        let mut candidates: Vec<(u64, u32)> = Vec::new();
        self.slice.spend(self.node(node).buckets.len());
        for i in 0..self.node(node).buckets.len() {
            let bucket = self.node(node).buckets[i];
            let score = self.slot(bucket.head).score;
            let key = match least_loaded.get(&(bucket.class, score)) {
                Some((epoch, key)) if *epoch == self.progress.epoch => *key,
                _ => {
                    let key = self.least_loaded_for(bucket.class, score);
                    least_loaded.insert((bucket.class, score), (self.progress.epoch, key));
                    key
                }
            };
            if key < LAST_RESORT && (key >> 32) + gap < load {
                candidates.push((key, bucket.class));
            }
        }
        candidates.sort_unstable();
        if candidates.is_empty() {
            return false;
        }
        let per_node_max = self.settings.budgets.rebalance_moves_per_node_max;
        if self.budgets.rebalance_left() == 0
            || round.out.get(&node).is_some_and(|out| *out >= per_node_max)
        {
            round.deferred = true;
            return false;
        }
        for (_, class) in candidates {
            for s in self.move_candidates(node, class, load, round) {
                let Some(target) = self.less_loaded_target(s, load, gap, stop, round) else {
                    continue;
                };
                self.move_optional(s, target, MoveReason::Rebalance);
                self.exempt(s);
                self.budgets.take_rebalance(1);
                *round.out.entry(node).or_default() += 1;
                *round.into.entry(target).or_default() += 1;
                return true;
            }
        }
        false
    }

    fn least_loaded_for(&mut self, class: u32, score: u16) -> u64 {
        let one = Need {
            channels: 1,
            ..Need::default()
        };
        let pool = self.pool_of(class);
        pool.tiers
            .iter()
            .take_while(|tier| tier.score >= score)
            .filter_map(|tier| self.least_loaded(tier, one, &[], LAST_RESORT))
            .map(|(key, _)| key)
            .min()
            .unwrap_or(u64::MAX)
    }

    /// The few slots of a bucket that are worth trying: the largest in the dimension with the
    /// highest load; for channels those with the least disk.
    pub(super) fn move_candidates(
        &self,
        node: u32,
        class: u32,
        load: u64,
        round: &mut BalanceRound,
    ) -> Vec<u32> {
        let Ok(bucket) = self.node(node).bucket(class) else {
            return Vec::new();
        };
        let [channels, kbps, disk] = self.node(node).loads();
        let mut sample: Vec<(u64, u32)> = Vec::new();
        let mut at = self.node(node).buckets[bucket].head;
        let mut looked = 0;
        for _ in 0..SAMPLE_PINNED_MAX {
            if at == NONE || looked == SAMPLE {
                break;
            }
            let slot = self.slot(at);
            if self.is_pinned(at) {
                at = slot.next;
                continue;
            }
            looked += 1;
            if self.improving.exempt.contains_key(&at) {
                round.deferred = true;
            } else {
                let worth = if channels >= load {
                    u64::from(slot.disk)
                } else if kbps >= disk {
                    u64::MAX - u64::from(slot.kbps)
                } else {
                    u64::MAX - u64::from(slot.disk)
                };
                sample.push((worth, at));
            }
            at = slot.next;
        }
        sample.sort_unstable();
        sample.into_iter().take(TRIES).map(|(_, s)| s).collect()
    }

    fn less_loaded_target(
        &mut self,
        s: u32,
        load: u64,
        gap: u64,
        stop: u64,
        round: &mut BalanceRound,
    ) -> Option<u32> {
        let slot = *self.slot(s);
        let need = slot.need();
        let balance = self.settings.balance;
        let mut avoid = Vec::new();
        self.sibling_nodes(s, &mut avoid);
        avoid.push(slot.node);
        let pool = self.pool_of(slot.class);
        let below = load.saturating_sub(gap) << 32;
        let (_, target) = pool
            .tiers
            .iter()
            .take_while(|tier| tier.score >= slot.score)
            .filter_map(|tier| self.least_loaded(tier, need, &avoid, below))
            .min()?;
        if round
            .into
            .get(&target)
            .is_some_and(|into| *into >= self.settings.budgets.rebalance_moves_per_node_max)
        {
            round.deferred = true;
            return None;
        }
        let (source, node) = (self.node(slot.node), self.node(target));
        // The fuller of the two must end clearly less full, or the next round would move the slot
        // back; and the slot must contribute to its node's load.
        if node.load_with(&need, balance) + stop / 2 > load
            || source.load_without(&need, balance) >= load
        {
            return None;
        }
        // On small nodes one channel is a large share: the gap must also be several channels.
        let [channels, ..] = source.loads();
        if channels >= load {
            // Loads are rounded down: their difference may be short by less than one.
            let gap_load = load - node.load(balance).min(load) + 1;
            let gap_channels = gap_load * u64::from(source.limit.channels) / ONE;
            if gap_channels < u64::from(self.settings.thresholds.gap_channels_min) {
                return None;
            }
        }
        Some(target)
    }

    /// Exempts a slot that was moved from further optional moves for a while.
    pub(super) fn exempt(&mut self, s: u32) {
        self.exempt_as(s, true);
    }

    /// Exempts a slot that an operator placed from balancing for a while.
    pub(super) fn exempt_manual(&mut self, s: u32) {
        let was_moved = self.was_moved_lately(s);
        self.exempt_as(s, was_moved);
    }

    fn exempt_as(&mut self, s: u32, was_moved: bool) {
        if self.settings.budgets.exempt_ms > 0 {
            let until_ms = self.now_ms + self.settings.budgets.exempt_ms;
            let exemption = Exemption {
                until_ms,
                was_moved,
            };
            self.improving.exempt.insert(s, exemption);
        }
    }

    fn was_moved_lately(&self, s: u32) -> bool {
        let exemption = self.improving.exempt.get(&s);
        exemption.is_some_and(|exemption| exemption.was_moved)
    }

    // ---- CPU ----

    /// Moves slots off a node under CPU pressure to the given targets.
    pub(super) fn shed(&mut self, shed: &Shed) {
        let Some(n) = self.cluster.by_hostname.get(&shed.hostname).copied() else {
            return;
        };
        if self.is_frozen() || !self.node(n).live {
            return;
        }
        self.refresh_tree();
        let mut targets: Vec<(u32, u32)> = shed
            .targets
            .iter()
            .filter_map(|target| {
                Some((
                    *self.cluster.by_hostname.get(&target.hostname)?,
                    target.streams_max,
                ))
            })
            .filter(|(target, _)| *target != n && self.node(*target).is_open())
            .collect();
        let mut left = shed.streams_max;
        let mut ordered: Vec<(u64, u32)> = self
            .slots_on(n)
            .into_iter()
            .filter(|s| !self.slot(*s).has(MEMBER | DISABLED) && !self.is_pinned(*s))
            .map(|s| (self.order_of(s), s))
            .collect();
        ordered.sort_unstable();
        let mut siblings = Vec::new();
        for (_, s) in ordered {
            let slot = *self.slot(s);
            let cost = u32::from(slot.channels).max(1);
            if cost > left {
                continue;
            }
            self.sibling_nodes(s, &mut siblings);
            let target = targets.iter().position(|(target, room)| {
                *room >= cost
                    && static_reasons(self.demand(slot.class), self.node_class(*target)).is_empty()
                    && self.score_on(slot.class, *target) >= slot.score
                    && !siblings.contains(target)
                    && self.node(*target).lacks(&slot.need()).is_empty()
            });
            if let Some(i) = target {
                targets[i].1 -= cost;
                left -= cost;
                let to = targets[i].0;
                self.move_optional(s, to, MoveReason::Cpu);
            }
        }
    }
}
