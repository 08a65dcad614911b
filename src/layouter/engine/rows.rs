//! Rows: stored configurations become slots, and the layout in a row wins over the engine's own.
//!
//! The engine runs ahead of the store: it decides, the writer writes later. So a committed row may
//! not have the last decision yet, or may have been placed by an operator. Both are handled alike:
//! a legal layout is adopted; an illegal one is answered with changes to where the slots are or go
//! instead.

use std::sync::Arc;

use super::Engine;
use super::class::{NONE, PREFERRED_SCORE, SlotDemand};
use super::event::{MoveReason, PlacementRole, Rows, SlotKind, StoredLayout, StreamSpec};
use super::overload::MEASURABLE;
use super::slot::{
    CLAIM_MAX, DISABLED, DISK_UNIT_BYTES, LIVE, MEASURED, MEMBER, ORIGIN_RECORDED, PENDING,
    QUARANTINED, WAITING,
};
use super::tree::Need;
use crate::state::label::parse;
use crate::state::name::{Hostname, StreamName};

/// Upper bound of backups of one stream: the schema allows a `redundancy_factor` of one more. Rows
/// of earlier versions may have larger ones.
const BACKUPS_MAX: u32 = 16;

/// Number of backups of a stream: `redundancy_factor` includes the ingest's own recording.
fn backups_of(redundancy_factor: u32) -> u32 {
    redundancy_factor.saturating_sub(1).min(BACKUPS_MAX)
}

/// The demands of a row, slot by slot.
pub(super) struct SlotDemands {
    pub ingest: (SlotDemand, Need),
    /// Also present if only the row's layout has backups.
    pub backup: Option<(SlotDemand, Need)>,
    pub inference: Option<(SlotDemand, Need)>,
    pub backups: u32,
    pub infer: bool,
}

/// The nodes in a row's layout.
struct RowNodes {
    ingest: u32,
    backups: Vec<u32>,
    inference: u32,
}

/// The slots of a stream besides its ingest.
#[derive(Default)]
struct Copies {
    backups: Vec<u32>,
    inference: Option<u32>,
    /// The slots that existed before.
    old: Vec<u32>,
}

impl Engine {
    /// Applies one transaction. Nodes change before the streams, and are evacuated after them, so
    /// that a row's layout is judged by the nodes' new state.
    pub(super) fn commit(&mut self, rows: Rows) {
        let Rows {
            mut nodes,
            mut nodes_deleted,
            mut streams,
            mut streams_deleted,
        } = rows;
        nodes.sort_unstable_by(|a, b| a.hostname.cmp(&b.hostname));
        nodes_deleted.sort_unstable();
        streams.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        streams_deleted.sort_unstable();
        for hostname in &nodes_deleted {
            self.delete_node(hostname);
        }
        let mut news = Vec::new();
        for spec in nodes {
            self.save_node(spec, &mut news);
        }
        if !news.is_empty() && !self.loading {
            self.reclass_demands(news);
        }
        for name in &streams_deleted {
            self.delete_stream(name);
        }
        for spec in streams {
            self.save_stream(spec);
        }
        if !self.loading {
            self.nodes_changed();
            self.settle();
        }
    }

    pub(super) fn demands_of(&mut self, spec: &StreamSpec) -> SlotDemands {
        let labels = parse(&spec.labels);
        let namespace = self.classes.namespace(spec.namespace.as_ref());
        let plain = self.classes.label_ids(&labels.plain);
        let prefers = self
            .classes
            .label_ids(&labels.preferred)
            .into_iter()
            .map(|id| (id, PREFERRED_SCORE))
            .collect();
        let known = || self.table.by_name.get(&spec.name).map(|s| self.slot(*s));
        let measured = || known().filter(|slot| slot.has(MEASURED)).map(|it| it.kbps);
        let kbps = spec
            .kbps
            .or_else(measured)
            .unwrap_or(self.settings.kbps_default)
            .min(CLAIM_MAX);
        let disk = spec.dvr.map_or(0, |dvr| {
            let bytes = (u64::from(kbps) * 125).saturating_mul(dvr.expiration_s);
            let bytes = bytes.min(dvr.storage_limit_bytes.unwrap_or(u64::MAX));
            bytes.div_ceil(DISK_UNIT_BYTES).min(u64::from(CLAIM_MAX)) as u32
        });
        let need = Need {
            channels: 1,
            kbps,
            disk,
        };
        let ingest = SlotDemand {
            role: PlacementRole::Streamer,
            dvr: false,
            transcoder: spec.transcoder,
            namespace,
            labels: plain,
            requires: self.classes.label_ids(&labels.required),
            prefers,
        };
        let backups = spec.dvr.map_or(0, |dvr| backups_of(dvr.redundancy_factor));
        let backup = (backups > 0 || !spec.layout.dvr_backups.is_empty()).then(|| {
            let demand = SlotDemand {
                dvr: true,
                ..ingest.clone()
            };
            let channels = u32::from(self.settings.backups_count_as_channels);
            (demand, Need { channels, ..need })
        });
        // A stream's required labels bind all its slots; its preferred labels concern its ingest
        // and its backups.
        let inference = (spec.inference || spec.layout.inference.is_some()).then(|| {
            let demand = SlotDemand {
                role: PlacementRole::Inference,
                namespace,
                labels: ingest.labels.clone(),
                requires: ingest.requires.clone(),
                ..SlotDemand::default()
            };
            let need = Need {
                channels: 1,
                ..Need::default()
            };
            (demand, need)
        });
        SlotDemands {
            ingest: (ingest, need),
            backup,
            inference,
            backups,
            infer: spec.inference,
        }
    }

    /// Counts one more slot of a demand and returns its number. Nodes are reclassified if it refers
    /// to new labels.
    pub(super) fn intern(&mut self, demand: SlotDemand) -> u32 {
        let (id, stale) = self.classes.demand(demand);
        if !stale.nodes_with.is_empty() && !self.loading {
            self.reclass_nodes(&stale.nodes_with);
        }
        id
    }

    pub(super) fn delete_stream(&mut self, name: &StreamName) {
        let Some(ingest) = self.table.by_name.remove(name) else {
            return;
        };
        if self.units.agents_of_stream.get(&ingest).is_some() {
            self.set_agents(ingest, Vec::new());
        }
        self.units.ungrouped.remove(&ingest);
        self.forget_copies(ingest);
        for s in self.ring(ingest).into_iter().rev() {
            self.unplace(s);
            if s != ingest {
                self.leave_ring(s, ingest);
            }
            self.free_slot(s);
        }
        self.table.streams -= 1;
    }

    /// Takes a slot out of the list it is in.
    pub(super) fn unplace(&mut self, s: u32) {
        let slot = *self.slot(s);
        debug_assert!(!slot.has(MEMBER));
        if self.loading {
            self.slot_mut(s).node = NONE;
        } else if slot.has(WAITING) {
            self.stop_waiting(s);
        } else if slot.has(PENDING) {
            self.set_flag(s, PENDING, false);
        } else if slot.node != NONE {
            let node = self.unassign(s);
            self.node_gained(node);
        }
    }

    pub(super) fn save_stream(&mut self, spec: StreamSpec) {
        let demands = self.demands_of(&spec);
        let known = self.table.by_name.get(&spec.name).copied();
        let mut row = RowNodes {
            ingest: self.host(spec.layout.ingest.as_ref()),
            backups: spec
                .layout
                .dvr_backups
                .iter()
                .map(|host| self.host(Some(host)))
                .collect(),
            inference: self.host(spec.layout.inference.as_ref()),
        };
        let kept = self.split_kept(known, &mut row.backups, demands.backups as usize);
        row.backups.truncate(BACKUPS_MAX as usize);
        let ingest = known.unwrap_or_else(|| self.new_stream(&spec.name, &demands));
        self.table.rows.get_mut(ingest).set_revision(spec.revision);
        let was_disabled = self.slot(ingest).has(DISABLED);
        self.update_agents(ingest, row.ingest, &spec, &demands);
        self.set_flag(ingest, DISABLED, false);
        if spec.kbps.is_some() {
            self.set_flag(ingest, MEASURED, spec.measured);
        }
        let copies = self.grow_ring(ingest, &demands, row.backups.len());
        if known.is_some() && !was_disabled {
            self.change_demand(ingest, &demands.ingest, spec.measured);
        } else if known.is_some() {
            self.set_demand_and_need(ingest, &demands.ingest);
        }
        // Slots without a demand are dropped below.
        for s in &copies.old {
            let demand = match self.slot(*s).kind() {
                SlotKind::Inference => &demands.inference,
                _ => &demands.backup,
            };
            if let Some(demand) = demand {
                self.change_demand(*s, demand, spec.measured);
            }
        }
        self.adopt_layout(ingest, row, &copies, &spec.layout);
        self.drop_surplus(ingest, copies, spec.off_reason(), &demands);
        let has_copies = spec.off_reason().is_none() && demands.backups > 0;
        self.adopt_kept(ingest, kept, has_copies);
        self.set_flag(ingest, QUARANTINED, spec.quarantined);
        self.set_pinned(ingest, spec.pinned);
        let keeper = self.host_known(spec.handover_from.as_ref());
        self.set_handover(ingest, keeper);
        if !self.loading {
            let row_origin = self.host(spec.layout.failover_from.as_ref());
            if row_origin != self.stream_origin(ingest) || self.slot(ingest).has(ORIGIN_RECORDED) {
                self.record_row_origin(ingest, row_origin);
            }
        }
    }

    /// Updates the agents of a stream, and dissolves its unit if the edit concerns it.
    fn update_agents(
        &mut self,
        ingest: u32,
        row_ingest: u32,
        spec: &StreamSpec,
        demands: &SlotDemands,
    ) {
        let was_disabled = self.slot(ingest).has(DISABLED);
        let agents_changed = match self.units.agents_of_stream.get(&ingest) {
            Some(old) => **old != *spec.agents,
            None => !spec.agents.is_empty(),
        };
        if agents_changed {
            self.set_agents(ingest, spec.agents.clone());
        } else if self.units.of_member.get(&ingest).is_some()
            || was_disabled && !spec.agents.is_empty()
        {
            let same = self.has_demand(ingest, &demands.ingest)
                && self.slot(ingest).node == row_ingest
                && spec.off_reason().is_none()
                && !was_disabled;
            if !same {
                self.regroup_later(ingest);
            }
        }
    }

    /// Adds slots to the ring until it has as many as the row's layout or the configuration.
    fn grow_ring(&mut self, ingest: u32, demands: &SlotDemands, row_backups: usize) -> Copies {
        let mut copies = Copies::default();
        for s in &self.ring(ingest)[1..] {
            match self.slot(*s).kind() {
                SlotKind::Inference => copies.inference = Some(*s),
                _ => copies.backups.push(*s),
            }
        }
        copies.old.extend(&copies.backups);
        copies.old.extend(copies.inference);
        let count = (demands.backups as usize).max(row_backups);
        if let Some(demand) = &demands.backup {
            while copies.backups.len() < count {
                let s = self.add_to_ring(ingest, SlotKind::DvrBackup, demand);
                copies.backups.push(s);
            }
        }
        if copies.inference.is_none()
            && let Some(demand) = &demands.inference
        {
            copies.inference = Some(self.add_to_ring(ingest, SlotKind::Inference, demand));
        }
        copies
    }

    /// Moves the slots of a stream to the nodes in its row, where that is legal.
    fn adopt_layout(&mut self, ingest: u32, row: RowNodes, copies: &Copies, stored: &StoredLayout) {
        let is_manual = !stored.by_layouter;
        let first = MoveReason::NotDistributed;
        let adopted = self.adopt_row(ingest, row.ingest, is_manual, first);
        let mut row_backups = row.backups;
        let mut elsewhere: Vec<u32> = Vec::new();
        for s in &copies.backups {
            let here = self.slot(*s).node;
            match row_backups.iter().position(|row| *row == here) {
                Some(i) => {
                    row_backups.remove(i);
                }
                None => elsewhere.push(*s),
            }
        }
        let mut row_backups = row_backups.into_iter();
        for s in elsewhere {
            let node = row_backups.next().unwrap_or(NONE);
            self.adopt_row(s, node, is_manual, MoveReason::Redundancy);
        }
        if let Some(s) = copies.inference {
            self.adopt_row(s, row.inference, is_manual, first);
        }
        if adopted && !self.slot(ingest).has(MEMBER) {
            let origin = self.host_known(stored.failover_from.as_ref());
            let origin = if origin == self.slot(ingest).node {
                NONE
            } else {
                origin
            };
            if self.origin_of(ingest) != origin {
                self.set_origin(ingest, origin);
            }
        }
    }

    /// Drops slots that the configuration does not have, and all of a stream that is off.
    fn drop_surplus(
        &mut self,
        ingest: u32,
        copies: Copies,
        off: Option<MoveReason>,
        demands: &SlotDemands,
    ) {
        let (backups, reason) = match off {
            Some(reason) => (0, reason),
            None => (demands.backups as usize, MoveReason::Redundancy),
        };
        self.drop_backups(ingest, copies.backups, backups, reason);
        let infers = off.is_none() && demands.infer;
        if let Some(s) = copies.inference.filter(|_| !infers) {
            self.drop_copy(ingest, s, reason);
        }
        if let Some(reason) = off {
            self.record_move(ingest, reason);
            self.unplace(ingest);
            self.clear_origin(ingest);
            self.units.ungrouped.remove(&ingest);
            self.set_flag(ingest, DISABLED, true);
        }
    }

    fn new_stream(&mut self, name: &StreamName, wanted: &SlotDemands) -> u32 {
        let demand = self.intern(wanted.ingest.0.clone());
        let s = self.new_slot(SlotKind::Ingest, demand, wanted.ingest.1);
        *self.table.names.get_mut(s) = Some(name.clone());
        self.table.by_name.insert(name.clone(), s);
        self.table.streams += 1;
        s
    }

    fn add_to_ring(&mut self, ingest: u32, kind: SlotKind, wanted: &(SlotDemand, Need)) -> u32 {
        let demand = self.intern(wanted.0.clone());
        let s = self.new_slot(kind, demand, wanted.1);
        // At the end of the ring: backups keep their order.
        let mut last = ingest;
        while self.slot(last).sibling != ingest {
            last = self.slot(last).sibling;
        }
        self.join_ring(s, last);
        s
    }

    fn has_demand(&self, s: u32, wanted: &(SlotDemand, Need)) -> bool {
        **self.classes.demand_of(self.table.rows.get(s).demand) == wanted.0
            && self.slot(s).need() == wanted.1
    }

    fn set_demand_and_need(&mut self, s: u32, wanted: &(SlotDemand, Need)) {
        if !self.has_demand(s, wanted) {
            let demand = self.intern(wanted.0.clone());
            self.set_demand(s, demand);
            self.set_need(s, wanted.1);
        }
    }

    /// Changes the demand of a slot, which stays on its node if that is still allowed.
    /// With a `measured` need it also stays above the node's limits; the node is relieved at the
    /// end of the event as far as others have room.
    fn change_demand(&mut self, s: u32, wanted: &(SlotDemand, Need), measured: bool) {
        if self.has_demand(s, wanted) {
            return;
        }
        let slot = *self.slot(s);
        debug_assert!(!slot.has(MEMBER));
        if self.loading || slot.has(PENDING) {
            self.set_demand_and_need(s, wanted);
        } else if slot.has(WAITING) {
            self.stop_waiting(s);
            self.set_demand_and_need(s, wanted);
            self.enqueue(s);
        } else if slot.node == NONE {
            self.set_demand_and_need(s, wanted);
        } else {
            let n = self.unassign(s);
            self.set_demand_and_need(s, wanted);
            self.node_gained(n);
            let mut siblings = Vec::new();
            self.sibling_nodes(s, &mut siblings);
            let reasons = self.reasons_on(s, n, true, &siblings);
            if reasons.is_empty() || self.is_frozen() {
                self.assign(s, n);
            } else if measured && MEASURABLE.has_all(reasons) {
                self.assign(s, n);
                self.overloaded(n);
            } else {
                self.record_move_from(s, n, self.main_reason(reasons, n));
                self.enqueue(s);
            }
        }
        let origin = self.origin_of(s);
        if origin != NONE
            && !self
                .static_reasons_on(self.slot(s).class, origin)
                .is_empty()
        {
            self.clear_origin(s);
        }
    }

    /// Moves a slot to the node in its row, if that is legal. Returns whether it is there.
    fn adopt_row(&mut self, s: u32, row: u32, is_manual: bool, first: MoveReason) -> bool {
        let slot = *self.slot(s);
        if self.loading {
            self.slot_mut(s).node = row;
            return true;
        }
        let loose = slot.node == NONE && !slot.has(WAITING | PENDING | MEMBER);
        if slot.node == row && !loose && !slot.has(PENDING) {
            return true;
        }
        let mut siblings = Vec::new();
        self.sibling_nodes(s, &mut siblings);
        if row == NONE {
            self.record_row_node(s, NONE, first);
            if loose {
                self.enqueue(s);
            }
            return slot.node == NONE;
        }
        let reasons = self.reasons_on(s, row, true, &siblings);
        let reason = if reasons.is_empty() {
            MoveReason::NotDistributed
        } else {
            self.main_reason(reasons, row)
        };
        self.record_row_node(s, row, reason);
        let keeps = self.is_frozen() && self.node(row).live;
        if (reasons.is_empty() || keeps) && !slot.has(MEMBER) {
            if !loose {
                self.unplace(s);
            }
            self.assign(s, row);
            if is_manual {
                self.exempt_manual(s);
            }
            return true;
        }
        if loose {
            if reasons.has(super::event::Reasons::OFFLINE) && self.node(row).live {
                self.remember_origin(s, row);
            }
            self.enqueue(s);
        }
        false
    }

    /// Drops surplus backups: waiting ones first, then those on the fullest nodes.
    fn drop_backups(&mut self, ingest: u32, backups: Vec<u32>, wanted: usize, reason: MoveReason) {
        if backups.len() <= wanted {
            return;
        }
        let balance = self.settings.balance;
        let mut ordered: Vec<(u64, usize, u32)> = backups
            .iter()
            .enumerate()
            .map(|(i, s)| {
                let node = self.slot(*s).node;
                let load = if node == NONE {
                    u64::MAX
                } else {
                    self.node(node).load(balance)
                };
                (load, i, *s)
            })
            .collect();
        ordered.sort_unstable();
        for (.., s) in &ordered[wanted..] {
            self.drop_copy(ingest, *s, reason);
        }
    }

    fn drop_copy(&mut self, ingest: u32, s: u32, reason: MoveReason) {
        self.record_move(s, reason);
        self.unplace(s);
        self.leave_ring(s, ingest);
        self.free_slot(s);
    }

    /// The node of that name. For an unknown one a placeholder is created, so that a slot on it
    /// differs from a slot without a node.
    fn host(&mut self, hostname: Option<&Hostname>) -> u32 {
        let Some(hostname) = hostname else {
            return NONE;
        };
        match self.cluster.by_hostname.get(hostname) {
            Some(node) => {
                let node = *node;
                if self.cluster.free.remove(&node) {
                    // A row refers to it: its number cannot be reused in this event.
                    self.cluster.placeholders.insert(node);
                }
                node
            }
            None => self.new_node(hostname),
        }
    }

    fn host_known(&self, hostname: Option<&Hostname>) -> u32 {
        hostname
            .and_then(|hostname| self.cluster.by_hostname.get(hostname))
            .copied()
            .filter(|node| self.node(*node).live)
            .unwrap_or(NONE)
    }

    /// Ends loading: builds classes and lists, then places what is missing.
    pub(super) fn loaded(&mut self) {
        if !self.loading {
            return;
        }
        self.loading = false;
        self.reclass_all();
        self.count_running();
        for s in 0..self.table.slots.len() as u32 {
            let slot = *self.slot(s);
            if !slot.has(LIVE) || slot.has(DISABLED) || slot.sibling == s || self.is_frozen() {
                continue;
            }
            let mut siblings = Vec::new();
            self.sibling_nodes(s, &mut siblings);
            // With two slots on one node, the ingest stays, then the earlier backup.
            if slot.node != NONE && slot.kind() != SlotKind::Ingest && siblings.contains(&slot.node)
            {
                self.evict(s, MoveReason::Redundancy);
            }
        }
        for n in 0..self.cluster.nodes.len() as u32 {
            self.cluster.changed.insert(n);
        }
        self.nodes_changed();
        // A start moves no slot that may stay; the next tick makes room for waiting slots.
        let depth = std::mem::replace(&mut self.settings.thresholds.chain_depth_max, 0);
        self.overload.paused = true;
        self.settle();
        self.overload.paused = false;
        self.settings.thresholds.chain_depth_max = depth;
        for n in 0..self.cluster.nodes.len() as u32 {
            self.node_gained(n);
        }
    }

    /// Rebuilds all classes and lists: at start, and when too many classes are unused.
    pub(super) fn reclass_all(&mut self) {
        let all: Vec<super::class::NodeClass> = self
            .cluster
            .nodes
            .iter()
            .filter(|node| node.live)
            .map(|node| node.full.clone())
            .collect();
        self.classes.reset(all.iter());
        self.queue.classes.clear();
        self.improving.below_best.clear();
        self.queue.waiting = 0;
        for i in 0..self.cluster.nodes.len() {
            let full = self.cluster.nodes[i].full.clone();
            let class = if self.cluster.nodes[i].live {
                self.classes.node_class(&full)
            } else {
                0
            };
            if self.cluster.nodes[i].live {
                self.classes.change_members(None, Some(class));
            }
            let node = Arc::make_mut(&mut self.cluster.nodes[i]);
            node.class = class;
            node.buckets.clear();
            node.used = super::node::UsedCapacity::default();
        }
        self.index.is_stale = true;
        let mut scores: std::collections::HashMap<(u32, u32), u16, super::cow::FixedHash> =
            std::collections::HashMap::default();
        for s in 0..self.table.slots.len() as u32 {
            let slot = *self.slot(s);
            if !slot.has(LIVE) {
                continue;
            }
            let class = self.classes.class_of_demand(self.table.rows.get(s).demand);
            self.slot_mut(s).class = class;
            if slot.has(MEMBER | DISABLED | PENDING) {
                continue;
            }
            if slot.node == NONE {
                self.set_flag(s, WAITING, false);
                if slot.has(WAITING) {
                    self.wait(s);
                } else {
                    self.enqueue(s);
                }
            } else {
                let live = self.node(slot.node).live;
                self.classes.pool(class);
                let key = (class, self.node(slot.node).class);
                let score = if live {
                    *scores
                        .entry(key)
                        .or_insert_with(|| self.score_on(class, slot.node))
                } else {
                    0
                };
                self.link(s, slot.node, score);
            }
        }
        self.refresh_tree();
        self.progress.epoch += 1;
    }
}
