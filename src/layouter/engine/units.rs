//! Units: streams that share an agent, directly or through other streams, share their ingest node.
//!
//! Streams and agents form a graph; a connected component with more than one stream is a unit. It
//! is placed as one slot with the sum of its members' needs and the union of their demands; the
//! ingest slots of its members only mirror its node. Any edit of a member dissolves the unit and
//! forms the components again, on the node that most of the members are on. A unit that fits on no
//! node is placed in part, and the rest waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Engine;
use super::class::{NONE, SlotDemand, static_reasons};
use super::cow::CowMap;
use super::event::{MoveReason, PlacementRole, SlotKind};
use super::node::SlotNode;
use super::promote::NodeCopies;
use super::slot::{DISABLED, LIVE, MEMBER, PENDING, UNIT, WAITING};
use super::tree::Need;

/// Upper bound of pairs of member and node that are tried to place a part.
const PART_WORK_MAX: usize = 1 << 18;
const PART_NODES_MIN: usize = 16;

#[derive(Clone, Copy, Debug)]
pub struct Member {
    pub ingest: u32,
    /// Placed; false: waits.
    pub active: bool,
}

/// Members in the order of their names.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    pub members: Vec<Member>,
}

/// The graph of streams and agents, and its units.
#[derive(Clone)]
pub(super) struct Units {
    /// Units by their slot.
    pub by_slot: CowMap<u32, Arc<Unit>>,
    /// Unit slot of each member.
    pub of_member: CowMap<u32, u32>,
    pub streams_of_agent: CowMap<Arc<str>, Arc<Vec<u32>>>,
    pub agents_of_stream: CowMap<u32, Arc<[Arc<str>]>>,
    /// Ingests that are grouped at the end of this event.
    pub ungrouped: BTreeSet<u32>,
    /// Units with waiting members, with the gain epoch of the last try.
    pub partial: BTreeMap<u32, u64>,
}

impl Units {
    pub fn new() -> Self {
        Self {
            by_slot: CowMap::new(),
            of_member: CowMap::new(),
            streams_of_agent: CowMap::new(),
            agents_of_stream: CowMap::new(),
            ungrouped: BTreeSet::new(),
            partial: BTreeMap::new(),
        }
    }
}

impl Engine {
    /// Dissolves the unit of `ingest`; its members are grouped again at the end of the event.
    pub(super) fn regroup_later(&mut self, ingest: u32) {
        self.dissolve(ingest);
        self.units.ungrouped.insert(ingest);
    }

    pub(super) fn set_agents(&mut self, ingest: u32, agents: Vec<Arc<str>>) {
        self.regroup_later(ingest);
        let old = self
            .units
            .agents_of_stream
            .remove(&ingest)
            .unwrap_or_default();
        for agent in old.iter().filter(|agent| !agents.contains(agent)) {
            if let Some(streams) = self.units.streams_of_agent.get_mut(agent) {
                Arc::make_mut(streams).retain(|s| *s != ingest);
                if streams.is_empty() {
                    self.units.streams_of_agent.remove(agent);
                }
            }
        }
        for agent in agents.iter().filter(|agent| !old.contains(agent)) {
            match self.units.streams_of_agent.get_mut(agent) {
                Some(streams) => Arc::make_mut(streams).push(ingest),
                None => self
                    .units
                    .streams_of_agent
                    .insert(agent.clone(), Arc::new(vec![ingest])),
            }
        }
        if !agents.is_empty() {
            self.units
                .agents_of_stream
                .insert(ingest, Arc::from(agents));
        }
    }

    /// Dissolves the unit of a stream: its members stay on its node, each with its own slot.
    pub(super) fn dissolve(&mut self, ingest: u32) {
        let Some(u) = self.units.of_member.get(&ingest).copied() else {
            return;
        };
        self.record_origin(u);
        let unit = self
            .units
            .by_slot
            .remove(&u)
            .expect("a member's unit exists");
        let slot = *self.slot(u);
        let (node, origin) = (slot.node, self.origin_of(u));
        if node != NONE {
            // Without the flag the members' mirrors stay: they get slots of their own below.
            self.set_flag(u, UNIT, false);
            self.unassign(u);
        } else if slot.has(WAITING) {
            self.stop_waiting(u);
        }
        self.set_flag(u, UNIT, true);
        self.units.partial.remove(&u);
        for member in &unit.members {
            let s = member.ingest;
            self.units.of_member.remove(&s);
            self.slot_mut(s).node = NONE;
            self.set_flag(s, MEMBER, false);
            if origin != NONE {
                self.clear_origin(s);
                self.set_origin(s, origin);
            }
            if node != NONE && member.active {
                self.assign(s, node);
            } else {
                // Alone it may fit where the unit did not.
                self.record_move_from(s, NONE, MoveReason::NotDistributed);
                self.enqueue(s);
            }
            self.units.ungrouped.insert(s);
        }
        self.free_slot(u);
    }

    /// Forms units of the connected streams.
    pub(super) fn regroup(&mut self) {
        if self.units.ungrouped.is_empty() || self.is_frozen() {
            return;
        }
        self.refresh_tree();
        let mut seeds: Vec<(u64, u32)> = std::mem::take(&mut self.units.ungrouped)
            .into_iter()
            .filter(|s| self.is_groupable(*s))
            .map(|s| (self.order_of(s), s))
            .collect();
        seeds.sort_unstable();
        let mut seen = BTreeSet::new();
        for (_, seed) in seeds {
            if seen.contains(&seed) {
                continue;
            }
            let members = self.connected(seed);
            seen.extend(members.iter().copied());
            if members.len() > 1 {
                for s in &members {
                    self.dissolve(*s);
                }
                self.form(members);
            }
        }
        // Members of units that a union dissolved are grouped again by now.
        self.units.ungrouped.clear();
    }

    fn is_groupable(&self, s: u32) -> bool {
        let slot = self.slot(s);
        slot.has(LIVE)
            && !slot.has(DISABLED | UNIT)
            && slot.kind() == SlotKind::Ingest
            && self.table.names.get(s).is_some()
    }

    /// All streams connected with this one, itself included.
    fn connected(&self, seed: u32) -> Vec<u32> {
        let mut members = vec![seed];
        let mut seen: BTreeSet<u32> = BTreeSet::from([seed]);
        let mut agents_seen: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut i = 0;
        while i < members.len() {
            let agents = self.units.agents_of_stream.get(&members[i]).cloned();
            for agent in agents.iter().flat_map(|agents| agents.iter()) {
                if !agents_seen.insert(agent.clone()) {
                    continue;
                }
                for s in self
                    .units
                    .streams_of_agent
                    .get(agent)
                    .into_iter()
                    .flat_map(|all| all.iter())
                {
                    if self.is_groupable(*s) && seen.insert(*s) {
                        members.push(*s);
                    }
                }
            }
            i += 1;
        }
        members.sort_unstable_by(|a, b| self.table.names.get(*a).cmp(self.table.names.get(*b)));
        members
    }

    /// Takes the future members of a unit off their nodes and out of their lists. Returns the
    /// members by their node, and the origin of the unit.
    fn take_members(&mut self, ingests: &[u32]) -> (BTreeMap<u32, BTreeSet<u32>>, u32) {
        let mut on_node: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        let mut origin = NONE;
        for s in ingests {
            self.record_origin(*s);
            let slot = *self.slot(*s);
            if slot.node == NONE {
                self.record_move(*s, MoveReason::NotDistributed);
                if slot.has(WAITING) {
                    self.stop_waiting(*s);
                }
            } else {
                on_node.entry(slot.node).or_default().insert(*s);
                self.record_move(*s, MoveReason::AgentConflict);
                self.unassign(*s);
            }
            self.set_flag(*s, PENDING, false);
            self.set_flag(*s, MEMBER, true);
            if origin == NONE {
                origin = self.origin_of(*s);
            }
            self.clear_origin(*s);
        }
        (on_node, origin)
    }

    /// Forms a unit of ingests, which are placed, waiting or in the batch.
    fn form(&mut self, ingests: Vec<u32>) {
        let (on_node, origin) = self.take_members(&ingests);
        let members: Vec<Member> = ingests
            .iter()
            .map(|ingest| Member {
                ingest: *ingest,
                active: true,
            })
            .collect();
        let (demand, need) = self.merged(&members);
        let demand = self.intern(demand);
        self.refresh_tree();
        let u = self.new_slot(SlotKind::Ingest, demand, need);
        self.set_flag(u, UNIT, true);
        for s in &ingests {
            self.units.of_member.insert(*s, u);
        }
        self.units.by_slot.insert(u, Arc::new(Unit { members }));
        if origin != NONE {
            self.set_origin(u, origin);
        }
        let target = self.node_for_unit(u, &on_node);
        match target {
            Some(n) => self.assign(u, n),
            None => self.enqueue(u),
        }
        for n in on_node.into_keys() {
            if self.slot(u).node != n {
                self.node_gained(n);
            }
        }
    }

    /// The node for a new unit: where most of its members were, or another one; a node that takes
    /// nothing new comes last. If none can take all of them, those on the first node stay there.
    fn node_for_unit(&mut self, u: u32, on_node: &BTreeMap<u32, BTreeSet<u32>>) -> Option<u32> {
        let count = self.members_of(u).count();
        let balance = self.settings.balance;
        let mut nodes: Vec<(std::cmp::Reverse<u64>, u64, u32)> = on_node
            .iter()
            .map(|(n, members)| {
                let of = |s: &u32| u64::from(self.slot(*s).channels);
                let channels: u64 = members.iter().map(of).sum();
                (std::cmp::Reverse(channels), self.node(*n).load(balance), *n)
            })
            .collect();
        nodes.sort_unstable();
        let mut siblings = Vec::new();
        self.sibling_nodes(u, &mut siblings);
        let mut by_choice: Vec<u32> = nodes.iter().map(|(.., n)| *n).collect();
        by_choice.sort_by_key(|n| !self.node(*n).closure.is_open());
        let mut target = by_choice.into_iter().find(|n| {
            let all = on_node[n].len() == count;
            (all || self.node(*n).may_be_joined())
                && self.reasons_on(u, *n, true, &siblings).is_empty()
        });
        if target.is_none()
            && let [(.., n)] = nodes[..]
            && on_node[&n].len() == count
            && self.may_stay_above_limits(u, n, &siblings)
        {
            target = Some(n);
        }
        let is_split = match nodes[..] {
            [(.., n)] => on_node[&n].len() < count && self.node(n).closure.cordoned,
            _ => nodes.len() > 1,
        };
        if target.is_none() && is_split {
            target = self.find(u, &[]);
        }
        if target.is_none()
            && let Some((.., n)) = nodes.first()
        {
            // The members on this node stay until all fit together.
            let there = on_node.get(n).cloned().unwrap_or_default();
            self.set_active(u, &there);
            self.units.partial.insert(u, 0);
            self.sibling_nodes(u, &mut siblings);
            if self.reasons_on(u, *n, true, &siblings).is_empty()
                || self.may_stay_above_limits(u, *n, &siblings)
            {
                target = Some(*n);
            }
        }
        target
    }

    /// The joint demand and need of the active members.
    fn merged(&self, members: &[Member]) -> (SlotDemand, Need) {
        let mut sum: Option<(SlotDemand, Need)> = None;
        for member in members.iter().filter(|member| member.active) {
            let demand = self
                .classes
                .demand_of(self.table.rows.get(member.ingest).demand)
                .clone();
            let need = self.slot(member.ingest).need();
            let Some((all, total)) = &mut sum else {
                sum = Some(((*demand).clone(), need));
                continue;
            };
            total.channels = (total.channels + need.channels).min(u32::from(u16::MAX));
            total.kbps = total.kbps.saturating_add(need.kbps);
            total.disk = total.disk.saturating_add(need.disk);
            all.transcoder |= demand.transcoder;
            all.dvr |= demand.dvr;
            if all.namespace != demand.namespace {
                // No node has two namespaces: the unit can only be placed in part.
                all.namespace = NONE - 1;
            }
            all.labels
                .retain(|label| demand.labels.binary_search(label).is_ok());
            all.requires.extend(&demand.requires);
            all.prefers.extend(&demand.prefers);
        }
        let (mut demand, need) = sum.unwrap_or_default();
        demand.requires.sort_unstable();
        demand.requires.dedup();
        demand.prefers.sort_unstable();
        // Weights of a preference add up over the members.
        let mut prefers: Vec<(u32, u16)> = Vec::with_capacity(demand.prefers.len());
        for (label, weight) in demand.prefers {
            match prefers.last_mut() {
                Some(last) if last.0 == label => last.1 = last.1.saturating_add(weight),
                _ => prefers.push((label, weight)),
            }
        }
        demand.prefers = prefers;
        (demand, need)
    }

    /// The joint demand and need of all members, waiting ones included.
    pub(super) fn whole(&self, u: u32) -> (SlotDemand, Need) {
        let all: Vec<Member> = self
            .members_of(u)
            .map(|ingest| Member {
                ingest,
                active: true,
            })
            .collect();
        self.merged(&all)
    }

    pub(super) fn active_members(&self, u: u32) -> BTreeSet<u32> {
        let unit = self.units.by_slot.get(&u).into_iter();
        unit.flat_map(|unit| unit.members.iter())
            .filter(|member| member.active)
            .map(|member| member.ingest)
            .collect()
    }

    /// Sets which members of a unit are placed. The unit must be in no list.
    pub(super) fn set_active(&mut self, u: u32, active: &BTreeSet<u32>) {
        let Some(unit) = self.units.by_slot.get_mut(&u) else {
            return;
        };
        let unit = Arc::make_mut(unit);
        let mut partial = false;
        for member in &mut unit.members {
            member.active = active.contains(&member.ingest);
            partial |= !member.active;
        }
        let members = unit.members.clone();
        let (demand, need) = self.merged(&members);
        let demand = self.intern(demand);
        self.set_demand(u, demand);
        self.set_need(u, need);
        if partial {
            self.units.partial.insert(u, self.queue.gain_epoch);
        } else {
            self.units.partial.remove(&u);
        }
    }

    pub(super) fn activate_all(&mut self, u: u32) {
        if self.units.partial.contains_key(&u) && self.slot(u).has(UNIT) {
            let all = self.members_of(u).collect();
            self.set_active(u, &all);
        }
    }

    pub(super) fn members_of(&self, u: u32) -> impl Iterator<Item = u32> {
        self.units
            .by_slot
            .get(&u)
            .into_iter()
            .flat_map(|unit| unit.members.iter())
            .map(|member| member.ingest)
    }

    /// Copies the node of a unit to its active members.
    pub(super) fn mirror(&mut self, u: u32, node: u32) {
        let Some(unit) = self.units.by_slot.get(&u).cloned() else {
            return;
        };
        for member in &unit.members {
            self.slot_mut(member.ingest).node = if member.active { node } else { NONE };
        }
    }

    /// Places as many members of a unit as one node can take. The unit is in no list and does not
    /// fit as a whole.
    pub(super) fn place_part(&mut self, u: u32) -> bool {
        let Some((node, members)) = self.best_part(u, NONE) else {
            self.units.partial.insert(u, self.queue.gain_epoch);
            return false;
        };
        for s in self.members_of(u).collect::<Vec<_>>() {
            self.record_move(s, MoveReason::NotDistributed);
        }
        self.set_active(u, &members);
        self.evict_own_copies(u, node, MoveReason::Redundancy);
        self.assign(u, node);
        true
    }

    /// The node that can take most members, and these members; a member may take the place of its
    /// own backup, also on a node that takes nothing new. Small members first.
    fn best_part(&self, u: u32, own: u32) -> Option<(u32, BTreeSet<u32>)> {
        let mut members: Vec<(Need, u32, NodeCopies)> = self
            .members_of(u)
            .map(|s| {
                let mut copies = Vec::new();
                self.copies_of(s, &mut copies);
                (self.slot(s).need(), s, copies)
            })
            .collect();
        // A stable sort: equal members stay in the order of their names.
        members.sort_by_key(|(need, ..)| (need.channels, need.kbps, need.disk));
        let copies = members.iter().flat_map(|(.., copies)| copies);
        let nodes_of_copies: BTreeSet<u32> = copies.map(|(node, _)| *node).collect();
        let may_be_joined =
            |n: u32, node: &SlotNode| node.is_open() || n == own && node.may_be_joined();
        let mut nodes: Vec<(bool, std::cmp::Reverse<u32>, u32, u32)> = self
            .cluster
            .nodes
            .iter()
            .enumerate()
            .filter(|(i, node)| {
                let n = *i as u32;
                node.full.role == PlacementRole::Streamer
                    && (may_be_joined(n, node)
                        || nodes_of_copies.contains(&n) && node.is_reachable())
            })
            .map(|(i, node)| {
                let channels = node.room().channels;
                (
                    i as u32 != own,
                    std::cmp::Reverse(channels),
                    node.tie,
                    i as u32,
                )
            })
            .collect();
        nodes.sort_unstable();
        nodes.truncate((PART_WORK_MAX / members.len().max(1)).max(PART_NODES_MIN));
        let mut best: Option<(u32, BTreeSet<u32>)> = None;
        for (.., n) in nodes {
            let node = self.node(n);
            let mut room = node.room();
            let mut fit = BTreeSet::new();
            for (need, s, copies) in &members {
                let class = self.classes.class_of_demand(self.table.rows.get(*s).demand);
                if !static_reasons(self.demand(class), self.node_class(n)).is_empty() {
                    continue;
                }
                let copy = copies.iter().find(|(node, _)| *node == n);
                if copy.is_none() && !may_be_joined(n, node) {
                    continue;
                }
                let with_copy = match copy {
                    Some((_, copy)) => room.plus(&self.slot(*copy).need()),
                    None => room,
                };
                if with_copy.covers(need) {
                    room = with_copy.minus(need);
                    fit.insert(*s);
                }
            }
            // The unit's own node comes first: another one must take more members.
            if !fit.is_empty() && best.as_ref().is_none_or(|(_, most)| fit.len() > most.len()) {
                best = Some((n, fit));
            }
        }
        best
    }

    /// Places units with waiting members as a whole if possible now, or a larger part of them.
    pub(super) fn retry_units(&mut self) {
        let units: Vec<u32> = self
            .units
            .partial
            .iter()
            .filter(|(_, epoch)| **epoch != self.queue.gain_epoch)
            .map(|(u, _)| *u)
            .collect();
        for u in units {
            self.retry_unit(u);
        }
    }

    fn retry_unit(&mut self, u: u32) {
        let slot = *self.slot(u);
        let own = slot.node;
        let placed = if own == NONE {
            BTreeSet::new()
        } else {
            self.active_members(u)
        };
        for s in self.members_of(u).collect::<Vec<_>>() {
            self.record_move(s, MoveReason::NotDistributed);
        }
        if own != NONE {
            self.unassign(u);
        } else if slot.has(WAITING) {
            self.stop_waiting(u);
        }
        self.activate_all(u);
        let mut siblings = Vec::new();
        self.sibling_nodes(u, &mut siblings);
        let target = if own != NONE
            && self.node(own).may_be_joined()
            && self.reasons_on(u, own, true, &siblings).is_empty()
        {
            Some(own)
        } else {
            self.find(u, &[])
        };
        if let Some(node) = target {
            self.assign(u, node);
            if own != NONE && own != node {
                self.node_gained(own);
            }
            return;
        }
        if self.promote(u, true, MoveReason::Redundancy) {
            if own != NONE && own != self.slot(u).node {
                self.node_gained(own);
            }
            return;
        }
        match self.best_part(u, own) {
            Some((node, members)) if members.len() > placed.len() => {
                self.set_active(u, &members);
                self.evict_own_copies(u, node, MoveReason::Redundancy);
                self.assign(u, node);
                if own != NONE {
                    self.node_gained(own);
                }
            }
            _ if own != NONE => {
                self.set_active(u, &placed);
                self.assign(u, own);
            }
            _ => {
                self.wait(u);
                self.units.partial.insert(u, self.queue.gain_epoch);
            }
        }
    }
}
