//! Balance between nodes without a stated channel limit: their slots are counted.
//!
//! Load is a share of the limits, and a share of the assumed limit of thousands of channels differs
//! by nothing in a small fleet: the first streamer would keep all streams. So between two such
//! nodes the numbers of channels in use are compared. A move leaves neither node with more load
//! than the first had before, so that it never undoes a move for load: both kinds of moves together
//! come to an end.

use std::collections::{BinaryHeap, HashMap};

use super::Engine;
use super::balance::BalanceRound;
use super::cow::FixedHash;
use super::event::MoveReason;
use super::pool::{NodePool, PoolTier};
use super::tree::{LAST_RESORT, Need};

/// Nodes with a stated limit that are passed over in the search for one without.
const STATED_PASSED_MAX: usize = 8;

/// Least used node for a class at a score, with the epoch for which this is valid.
type LeastUsed = HashMap<(u32, u16), (u64, Option<u32>), FixedHash>;

impl Engine {
    /// Whether the slots of a node are counted instead of measured by its channel limit.
    fn is_counted(&self, n: u32) -> bool {
        let node = self.node(n);
        node.is_open() && !node.capacity.channels_stated
    }

    fn channels_on(&self, n: u32) -> u64 {
        self.node(n).used.channels
    }

    /// Whether the gap between two nodes is worth a move.
    fn is_gap(&self, more: u64, less: u64, is_active: bool) -> bool {
        let thresholds = &self.settings.thresholds;
        let permille = if is_active {
            thresholds.gap_counts_stop_permille
        } else {
            thresholds.gap_counts_start_permille
        };
        let gap = more.saturating_sub(less);
        gap >= u64::from(thresholds.gap_channels_min)
            && gap * 2000 > (more + less) * u64::from(permille)
    }

    /// One pass over the nodes, most used first. Returns whether something moved.
    pub(super) fn rebalance_counts(&mut self, round: &mut BalanceRound) -> bool {
        let counted = (0..self.cluster.nodes.len() as u32).filter(|n| self.is_counted(*n));
        let used: Vec<(u64, u32)> = counted.map(|n| (self.channels_on(n), n)).collect();
        let Some(least) = used.iter().map(|(channels, _)| *channels).min() else {
            return false;
        };
        let nodes = used.into_iter().map(|(channels, n)| (channels, n, false));
        let mut heap: BinaryHeap<(u64, u32, bool)> = nodes.collect();
        let mut least_used = LeastUsed::default();
        let mut moved = false;
        while let Some((channels, n, is_active)) = heap.pop() {
            // One with less channels has a smaller gap to the least used one.
            if !is_active && !self.is_gap(channels, least, false) {
                break;
            }
            if self.move_one_of_many(n, is_active, round, &mut least_used) {
                if self.slice.cut() {
                    round.deferred = true;
                    return false;
                }
                moved = true;
                heap.push((self.channels_on(n), n, true));
            }
        }
        moved
    }

    /// Moves one slot off a node with many.
    fn move_one_of_many(
        &mut self,
        n: u32,
        is_active: bool,
        round: &mut BalanceRound,
        least_used: &mut LeastUsed,
    ) -> bool {
        let channels = self.channels_on(n);
        let mut candidates: Vec<(u64, u32)> = Vec::new();
        self.slice.spend(self.node(n).buckets.len());
        for i in 0..self.node(n).buckets.len() {
            let bucket = self.node(n).buckets[i];
            let score = self.slot(bucket.head).score;
            let epoch = self.progress.epoch;
            let least = match least_used.get(&(bucket.class, score)) {
                Some((at, least)) if *at == epoch => *least,
                _ => {
                    let pool = self.pool_of(bucket.class);
                    let one = Need {
                        channels: 1,
                        ..Need::default()
                    };
                    let least = self.least_used(&pool, score, one, &[], LAST_RESORT);
                    least_used.insert((bucket.class, score), (epoch, least));
                    least
                }
            };
            if let Some(target) = least
                && self.is_gap(channels, self.channels_on(target), is_active)
            {
                candidates.push((self.channels_on(target), bucket.class));
            }
        }
        candidates.sort_unstable();
        if candidates.is_empty() {
            return false;
        }
        let per_node_max = self.settings.budgets.rebalance_moves_per_node_max;
        if self.budgets.rebalance_left() == 0
            || round.out.get(&n).is_some_and(|out| *out >= per_node_max)
        {
            round.deferred = true;
            return false;
        }
        let [load, ..] = self.node(n).loads();
        for (_, class) in candidates {
            for s in self.move_candidates(n, class, load, round) {
                let Some(target) = self.less_used_target(s, is_active, round) else {
                    continue;
                };
                self.move_optional(s, target, MoveReason::Rebalance);
                self.exempt(s);
                self.budgets.take_rebalance(1);
                *round.out.entry(n).or_default() += 1;
                *round.into.entry(target).or_default() += 1;
                return true;
            }
        }
        false
    }

    fn less_used_target(
        &mut self,
        s: u32,
        is_active: bool,
        round: &mut BalanceRound,
    ) -> Option<u32> {
        let slot = *self.slot(s);
        let need = slot.need();
        let balance = self.settings.balance;
        let mut avoid = Vec::new();
        self.sibling_nodes(s, &mut avoid);
        avoid.push(slot.node);
        let load = self.node(slot.node).load(balance);
        let pool = self.pool_of(slot.class);
        let target = self.least_used(&pool, slot.score, need, &avoid, load << 32)?;
        if round
            .into
            .get(&target)
            .is_some_and(|into| *into >= self.settings.budgets.rebalance_moves_per_node_max)
        {
            round.deferred = true;
            return None;
        }
        let (here, there) = (self.channels_on(slot.node), self.channels_on(target));
        // Afterwards the gap is smaller and does not point the other way.
        let narrows = need.channels > 0 && 2 * u64::from(need.channels) <= here - there.min(here);
        let is_worth = narrows && self.is_gap(here, there, is_active);
        (is_worth && self.node(target).load_with(&need, balance) <= load).then_some(target)
    }

    /// The least used of the least loaded nodes of each tier that scores no lower.
    fn least_used(
        &self,
        pool: &NodePool,
        score: u16,
        need: Need,
        avoid: &[u32],
        below: u64,
    ) -> Option<u32> {
        let tiers = pool.tiers.iter().take_while(|tier| tier.score >= score);
        let found = tiers.filter_map(|tier| self.least_loaded_counted(tier, need, avoid, below));
        found.min_by_key(|n| (self.channels_on(*n), *n))
    }

    fn least_loaded_counted(
        &self,
        tier: &PoolTier,
        need: Need,
        avoid: &[u32],
        below: u64,
    ) -> Option<u32> {
        let mut avoid = avoid.to_vec();
        for _ in 0..=STATED_PASSED_MAX {
            let (_, n) = self.least_loaded(tier, need, &avoid, below)?;
            if self.is_counted(n) {
                return Some(n);
            }
            avoid.push(n);
        }
        None
    }
}
