//! The node that an ingest would rather be on, and what keeps it from moving there at once.
//!
//! Only moves that improve the layout are looked at, in the order of a tick: back to the node it
//! was lost from, to better labels, to less load. The conditions are those of the moves themselves;
//! which of many equal streams moves first is not predicted.

use super::Engine;
use super::class::NONE;
use super::event::NodeState;
use super::slot::MEMBER;
use super::tree::{Need, ONE};
use crate::state::name::Hostname;

/// A node that suits an ingest better than its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BetterNode<'a> {
    pub hostname: &'a Hostname,
    pub obstacle: MoveObstacle,
}

/// What keeps an ingest from moving to a better node now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoveObstacle {
    /// The difference of loads is too small, permille.
    LoadGap { gap: u32, start: u32 },
    /// The difference of channels in use is too small.
    ChannelGap { gap: u64, start: u64 },
    /// No moves of this kind are left in this interval or hour.
    Budget,
    /// The stream was moved or placed lately; until this time on the engine's clock.
    HoldUntil(u64),
    /// A node that came back is not trusted yet.
    Probation,
    /// Too many moves are not confirmed yet.
    InFlight,
    /// The better node is loaded above the limit for moves to better labels, permille.
    Full { load: u32, limit: u32 },
    /// Balancing is switched off.
    BalanceOff,
    /// The stream is pinned.
    Pinned,
    /// Nothing: one of the next ticks moves it.
    NextRun,
}

/// The ingest, or the unit that it is in, on the way to another node.
struct Candidate {
    s: u32,
    here: u32,
    class: u32,
    score: u16,
    need: Need,
    siblings: Vec<u32>,
}

/// Loads are rounded down by less than one unit, which must not show.
fn permille(load: u64) -> u32 {
    ((load + 1) * 1000 / ONE) as u32
}

impl Engine {
    /// A better node for the ingest of a stream; `None` if there is none, or if the ingest is on no
    /// node that runs.
    pub fn better(&self, stream: &str) -> Option<BetterNode<'_>> {
        let ingest = *self.table.by_name.get(stream)?;
        let unit = self.units.of_member.get(&ingest).copied();
        let s = unit
            .filter(|_| self.slot(ingest).has(MEMBER))
            .unwrap_or(ingest);
        let slot = *self.slot(s);
        if slot.node == NONE || self.is_frozen() || !self.node(slot.node).is_reachable() {
            return None;
        }
        let mut siblings = Vec::new();
        self.sibling_nodes(s, &mut siblings);
        let candidate = Candidate {
            s,
            here: slot.node,
            class: slot.class,
            score: slot.score,
            need: slot.need(),
            siblings,
        };
        let (n, obstacle) = self
            .better_by_origin(&candidate)
            .or_else(|| self.better_by_labels(&candidate))
            .or_else(|| self.better_by_channels(&candidate))
            .or_else(|| self.better_by_load(&candidate))?;
        let is_pinned = self.is_pinned(s);
        Some(BetterNode {
            hostname: &self.node(n).hostname,
            obstacle: if is_pinned {
                MoveObstacle::Pinned
            } else {
                obstacle
            },
        })
    }

    /// Whether a node may take the ingest and has room for it.
    fn may_take(&self, candidate: &Candidate, n: u32) -> bool {
        let node = self.node(n);
        let (room, need) = (node.free_room(), &candidate.need);
        n != candidate.here
            && node.is_open()
            && room.covers(need)
            && self
                .reasons_on(candidate.s, n, false, &candidate.siblings)
                .is_empty()
    }

    /// The nodes that may take the ingest, with its score there and their load.
    fn takers<'a>(
        &'a self,
        candidate: &'a Candidate,
    ) -> impl Iterator<Item = (u32, u16, u64)> + 'a {
        let nodes = 0..self.cluster.nodes.len() as u32;
        let takers = nodes.filter(|n| self.may_take(candidate, *n));
        takers.map(|n| {
            let load = self.node(n).load(self.settings.balance);
            (n, self.score_on(candidate.class, n), load)
        })
    }

    fn better_by_origin(&self, candidate: &Candidate) -> Option<(u32, MoveObstacle)> {
        let origin = self.origin_of(candidate.s);
        if !self.settings.failback
            || origin == NONE
            || self.node(origin).state != NodeState::Up
            || !self.may_take(candidate, origin)
            || self.score_on(candidate.class, origin) < candidate.score
        {
            return None;
        }
        let obstacle = match self.budgets.restore.left() {
            0 => MoveObstacle::Budget,
            _ => MoveObstacle::NextRun,
        };
        Some((origin, obstacle))
    }

    fn better_by_labels(&self, candidate: &Candidate) -> Option<(u32, MoveObstacle)> {
        let limit = self.settings.thresholds.upgrade_load_max_permille;
        let is_full = |load: u64| load >= u64::from(limit) * ONE / 1000;
        let better = self
            .takers(candidate)
            .filter(|(_, score, _)| *score > candidate.score);
        let (n, _, load) = better.min_by_key(|(n, score, load)| {
            let tie = self.node(*n).tie;
            (is_full(*load), std::cmp::Reverse(*score), *load, tie)
        })?;
        let moved = self.improving.exempt.get(&candidate.s);
        let held = moved.filter(|exemption| exemption.was_moved);
        let obstacle = if let Some(obstacle) = self.obstacle_of_all() {
            obstacle
        } else if self.budgets.preferred_left() == 0 {
            MoveObstacle::Budget
        } else if let Some(held) = held {
            MoveObstacle::HoldUntil(held.until_ms)
        } else if is_full(load) && !self.can_upgrade(candidate.s) {
            let load = permille(load);
            MoveObstacle::Full { load, limit }
        } else {
            MoveObstacle::NextRun
        };
        Some((n, obstacle))
    }

    /// Whether an exchange of slots takes the ingest to a full node.
    fn can_upgrade(&self, s: u32) -> bool {
        let mut scratch = self.snapshot();
        scratch.refresh_tree();
        let pool = scratch.pool_of(scratch.slot(s).class);
        scratch.upgrade_slot(s, &pool)
    }

    /// Between nodes without a stated limit the channels in use are compared.
    fn better_by_channels(&self, candidate: &Candidate) -> Option<(u32, MoveObstacle)> {
        let used = |n: u32| self.node(n).used.channels;
        let is_counted = |n: u32| self.node(n).is_open() && !self.node(n).capacity.channels_stated;
        if !is_counted(candidate.here) {
            return None;
        }
        let load_here = self.node(candidate.here).load(self.settings.balance);
        let takers = self.takers(candidate).filter(|(n, score, _)| {
            let after = self
                .node(*n)
                .load_with(&candidate.need, self.settings.balance);
            *score >= candidate.score && is_counted(*n) && after <= load_here
        });
        let (n, ..) = takers.min_by_key(|(n, ..)| (used(*n), self.node(*n).tie))?;
        let (more, less) = (used(candidate.here), used(n));
        let gap = more.saturating_sub(less);
        let channels = u64::from(candidate.need.channels);
        if channels == 0 || 2 * channels > gap {
            return None;
        }
        let thresholds = &self.settings.thresholds;
        let relative = (more + less) * u64::from(thresholds.gap_counts_start_permille) / 2000 + 1;
        let start = relative.max(u64::from(thresholds.gap_channels_min));
        let gap = (gap < start).then_some(MoveObstacle::ChannelGap { gap, start });
        Some((n, self.balance_obstacle(candidate, gap)))
    }

    fn better_by_load(&self, candidate: &Candidate) -> Option<(u32, MoveObstacle)> {
        let (balance, thresholds) = (self.settings.balance, &self.settings.thresholds);
        let of_permille = |permille: u32| u64::from(permille) * ONE / 1000;
        let source = self.node(candidate.here);
        let load = source.load(balance);
        let takers = self
            .takers(candidate)
            .filter(|(_, score, _)| *score >= candidate.score);
        let (n, _, less) = takers.min_by_key(|(n, _, load)| (*load, self.node(*n).tie))?;
        let after = self.node(n).load_with(&candidate.need, balance);
        let improves = after + of_permille(thresholds.gap_stop_permille) / 2 <= load;
        if !improves || source.load_without(&candidate.need, balance) >= load {
            return None;
        }
        let start = of_permille(thresholds.gap_start_permille);
        let [channels, ..] = source.loads();
        let gap_channels = (load - less + 1) * u64::from(source.limit.channels) / ONE;
        let least = u64::from(thresholds.gap_channels_min);
        let gap = if less + start >= load {
            Some(MoveObstacle::LoadGap {
                gap: permille(load - less).min(thresholds.gap_start_permille.saturating_sub(1)),
                start: thresholds.gap_start_permille,
            })
        } else if channels >= load && gap_channels < least {
            Some(MoveObstacle::ChannelGap {
                gap: gap_channels,
                start: least,
            })
        } else {
            None
        };
        Some((n, self.balance_obstacle(candidate, gap)))
    }

    /// What forbids a move for balance; `gap` if the difference is too small.
    fn balance_obstacle(&self, candidate: &Candidate, gap: Option<MoveObstacle>) -> MoveObstacle {
        if !self.settings.rebalance {
            return MoveObstacle::BalanceOff;
        }
        if let Some(obstacle) = gap.or_else(|| self.obstacle_of_all()) {
            return obstacle;
        }
        if let Some(exemption) = self.improving.exempt.get(&candidate.s) {
            return MoveObstacle::HoldUntil(exemption.until_ms);
        }
        match self.budgets.rebalance_left() {
            0 => MoveObstacle::Budget,
            _ => MoveObstacle::NextRun,
        }
    }

    /// What holds all moves to better labels and for balance.
    fn obstacle_of_all(&self) -> Option<MoveObstacle> {
        if self.cluster.totals.on_probation > 0 {
            Some(MoveObstacle::Probation)
        } else if !self.optional_moves_allowed() {
            Some(MoveObstacle::InFlight)
        } else {
            None
        }
    }
}
