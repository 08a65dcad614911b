//! Overload by measurements: nodes above their limits that no stream is taken off the air for.
//!
//! A measured bitrate, or a measured disk, may be wrong. A stream whose measured need exceeds its
//! node moves to a roomier node, else it stays, and its node takes nothing new. What waits in spite
//! of that is measured again: until then it needs the assumed bitrate at most.

use std::collections::{BTreeMap, HashMap};

use super::Engine;
use super::class::NONE;
use super::cow::FixedHash;
use super::event::{MoveReason, Reasons};
use super::slot::{MEASURED, UNIT};
use super::tree::{Need, UNLIMITED};

/// Reasons that follow from measurements.
pub(super) const MEASURABLE: Reasons = Reasons(Reasons::BANDWIDTH.0 | Reasons::DVR_SIZE.0);

/// Nodes above their limits of bandwidth or disk, with the gain epoch of the last relief.
#[derive(Clone, Default)]
pub(super) struct Overloaded {
    /// At a start no stream moves that may stay.
    pub paused: bool,
    pub nodes: BTreeMap<u32, u64>,
}

impl Engine {
    /// Whether a slot's need was measured; of a unit, that of any active member.
    fn is_measured(&self, s: u32) -> bool {
        if self.slot(s).has(UNIT) {
            let mut active = self.active_members(s).into_iter();
            active.any(|member| self.slot(member).has(MEASURED))
        } else {
            self.slot(self.ingest_of(s)).has(MEASURED)
        }
    }

    /// Whether a node may be above its limit of a dimension: disks are measured; bandwidth is
    /// configured, so what is measured is the streams.
    pub(super) fn may_exceed(&self, n: u32, dimension: usize) -> bool {
        match dimension {
            0 => false,
            1 => self.slots_on(n).into_iter().any(|s| self.is_measured(s)),
            _ => true,
        }
    }

    pub(super) fn exceeds(&self, n: u32, dimension: usize) -> bool {
        let node = self.node(n);
        let (used, limit) = match dimension {
            0 => (node.used.channels, node.limit.channels),
            1 => (node.used.kbps, node.limit.kbps),
            _ => (node.used.disk, node.limit.disk),
        };
        limit != UNLIMITED && used > u64::from(limit)
    }

    /// Whether a unit that was formed again stays where its members were: measurements take none of
    /// them off.
    pub(super) fn may_stay_above_limits(&self, u: u32, n: u32, siblings: &[u32]) -> bool {
        self.overload.nodes.contains_key(&n)
            && MEASURABLE.has_all(self.reasons_on(u, n, true, siblings))
    }

    /// The node is above a limit and is relieved at the end of this event.
    pub(super) fn overloaded(&mut self, n: u32) {
        self.overload.nodes.insert(n, 0);
    }

    /// Moves streams off overloaded nodes that gained a chance of it, as far as others have room.
    pub(super) fn relieve_overloaded(&mut self) {
        if self.overload.paused {
            return;
        }
        let epoch = self.queue.gain_epoch;
        let due = |(n, tried): (&u32, &u64)| (*tried != epoch).then_some(*n);
        let nodes: Vec<u32> = self.overload.nodes.iter().filter_map(due).collect();
        for n in nodes {
            let dimensions = [1, 2];
            if self.node(n).live && self.node(n).is_running() && !self.node(n).settling {
                for dimension in dimensions {
                    self.relieve(n, dimension);
                }
            }
            if self.exceeds(n, 1) && !self.may_exceed(n, 1) && self.node(n).live {
                // What was measured has left; claims stay within the limit in any case.
                self.enforce_limit(n, 1);
                self.place_batch();
            }
            if dimensions.into_iter().any(|it| self.exceeds(n, it)) {
                self.overload.nodes.insert(n, self.queue.gain_epoch);
            } else {
                self.overload.nodes.remove(&n);
            }
        }
    }

    fn relieve(&mut self, n: u32, dimension: usize) {
        let reason = match dimension {
            1 => MoveReason::Bandwidth,
            _ => MoveReason::DvrSize,
        };
        let mut refused: HashMap<u32, Need, FixedHash> = HashMap::default();
        let mut gained = false;
        if !self.exceeds(n, dimension) {
            return;
        }
        for s in self.fewest_above_limit(n, dimension) {
            let slot = *self.slot(s);
            let need = slot.need();
            let known = refused.get(&slot.class);
            if known.is_some_and(|least| need.covers(least)) {
                continue;
            }
            self.record_move(s, reason);
            self.unassign(s);
            let target = self.find(s, &[(n, NONE)]);
            self.assign(s, target.unwrap_or(n));
            gained |= target.is_some();
            if !self.exceeds(n, dimension) {
                break;
            }
            if target.is_none() && slot.sibling == s && !slot.has(UNIT) {
                refused.insert(slot.class, need);
            }
        }
        if gained {
            self.node_gained(n);
        }
    }

    /// An ingest or a unit that no node has room for needs the assumed bitrate at most, until it is
    /// measured again. Returns whether its need is smaller now. It must be in no list.
    pub(super) fn forget_measurement(&mut self, s: u32) -> bool {
        if self.slot(s).has(UNIT) {
            let mut smaller = false;
            for member in self.members_of(s).collect::<Vec<_>>() {
                smaller |= self.assume_bitrate(member);
            }
            if smaller {
                let active = self.active_members(s);
                self.set_active(s, &active);
            }
            return smaller;
        }
        self.assume_bitrate(s)
    }

    fn assume_bitrate(&mut self, ingest: u32) -> bool {
        let slot = *self.slot(ingest);
        let (old, new) = (slot.kbps, self.settings.kbps_default);
        if !slot.has(MEASURED) || old <= new {
            return false;
        }
        self.set_flag(ingest, MEASURED, false);
        for s in self.ring(ingest) {
            let slot = *self.slot(s);
            if slot.kbps != old {
                continue;
            }
            // A recording needs disk in proportion to the bitrate.
            let disk = (u64::from(slot.disk) * u64::from(new)).div_ceil(u64::from(old)) as u32;
            let need = Need {
                kbps: new,
                disk,
                ..slot.need()
            };
            if s == ingest || slot.node == NONE {
                self.set_need(s, need);
            } else {
                let n = self.unassign(s);
                self.set_need(s, need);
                self.assign(s, n);
                self.node_gained(n);
            }
        }
        true
    }
}
