//! Rows: what is stored becomes slots, and what a row says about where a stream is, wins.
//!
//! The engine runs ahead of the store: it decides, others write. So a row may come that does not know the last decision yet, or that somebody
//! placed by hand. Both are handled alike. A layout that is legal is taken over; one that is not is answered with where the slot is or goes instead.

use std::sync::Arc;

use super::Engine;
use super::class::{Demand, NONE, PREFERRED_SCORE};
use super::event::{NodeRole, Rows, SlotKind, StreamSpec, Why};
use super::label::parse;
use super::slot::{
    CLAIM_MAX, DISABLED, DISK_UNIT_BYTES, LIVE, MEASURED, MEMBER, ORIGIN_NOTED, PENDING, WAITING,
};
use super::tree::Need;
use crate::state::name::{Hostname, StreamName};

/// Most copies of one stream, whatever its row asks for.
pub const BACKUPS_MAX: u32 = 16;

/// Backups of a stream: `redundancy_factor` counts the ingest's own recording.
pub fn backups_of(redundancy_factor: u32) -> u32 {
    redundancy_factor.saturating_sub(1).min(BACKUPS_MAX)
}

/// What a row asks for, slot by slot.
pub(super) struct Wanted {
    pub ingest: (Demand, Need),
    /// Also where only the row has some.
    pub backup: Option<(Demand, Need)>,
    pub inference: Option<(Demand, Need)>,
    pub backups: u32,
    pub infer: bool,
}

impl Engine {
    /// One transaction. The nodes are changed before the streams are looked at, and evacuated after them, so that what a row says is judged by what the
    /// nodes are now.
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
        for spec in nodes {
            self.save_node(spec);
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

    pub(super) fn wanted(&mut self, spec: &StreamSpec) -> Wanted {
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
        let ingest = Demand {
            role: NodeRole::Streamer,
            dvr: false,
            transcoder: spec.transcoder,
            namespace,
            labels: plain,
            requires: self.classes.label_ids(&labels.required),
            prefers,
        };
        let backups = spec.dvr.map_or(0, |dvr| backups_of(dvr.redundancy_factor));
        let backup = (backups > 0 || !spec.layout.dvr_backups.is_empty()).then(|| {
            let demand = Demand {
                dvr: true,
                ..ingest.clone()
            };
            let channels = u32::from(self.settings.backups_count_as_channels);
            (demand, Need { channels, ..need })
        });
        // Inference nodes have their own labels: a stream's demands are about where it is captured. It still must be let in.
        let inference = (spec.inference || spec.layout.inference.is_some()).then(|| {
            let demand = Demand {
                role: NodeRole::Inference,
                namespace,
                labels: ingest.labels.clone(),
                ..Demand::default()
            };
            let need = Need {
                channels: 1,
                ..Need::default()
            };
            (demand, need)
        });
        Wanted {
            ingest: (ingest, need),
            backup,
            inference,
            backups,
            infer: spec.inference,
        }
    }

    /// The number of a demand, counted once more; nodes whose labels it mentions first are classed anew.
    pub(super) fn intern(&mut self, demand: Demand) -> u32 {
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
        for s in self.ring(ingest).into_iter().rev() {
            self.unplace(s);
            if s != ingest {
                self.leave_ring(s, ingest);
            }
            self.free_slot(s);
        }
        self.table.streams -= 1;
    }

    /// Takes a slot out of whatever list it is in.
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
            self.gain(node);
        }
    }

    pub(super) fn save_stream(&mut self, spec: StreamSpec) {
        let wanted = self.wanted(&spec);
        let row_ingest = self.host(spec.layout.ingest.as_ref());
        let known = self.table.by_name.get(&spec.name).copied();
        let ingest = known.unwrap_or_else(|| self.new_stream(&spec.name, &wanted));
        self.table.rows.get_mut(ingest).set_revision(spec.revision);
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
            let same = self.is_demanded(ingest, &wanted.ingest)
                && self.slot(ingest).node == row_ingest
                && !spec.disabled
                && !was_disabled;
            if !same {
                self.regroup_later(ingest);
            }
        }
        let fresh = known.is_none() || was_disabled;
        self.set_flag(ingest, DISABLED, false);
        if spec.kbps.is_some() {
            self.set_flag(ingest, MEASURED, spec.measured);
        }

        // As many slots as the row or the configuration has; what is too much goes at the end.
        let ring = self.ring(ingest);
        let mut backups: Vec<u32> = Vec::new();
        let mut inference = None;
        for s in &ring[1..] {
            match self.slot(*s).kind() {
                SlotKind::Inference => inference = Some(*s),
                _ => backups.push(*s),
            }
        }
        let mut row_backups: Vec<u32> = spec
            .layout
            .dvr_backups
            .iter()
            .take(BACKUPS_MAX as usize)
            .map(|host| self.host(Some(host)))
            .collect();
        let count = (wanted.backups as usize).max(row_backups.len());
        let mut added: Vec<u32> = Vec::new();
        if let Some(backup) = &wanted.backup {
            while backups.len() < count {
                let s = self.add_to_ring(ingest, SlotKind::DvrBackup, backup);
                backups.push(s);
                added.push(s);
            }
        }
        let row_inference = self.host(spec.layout.inference.as_ref());
        if inference.is_none()
            && let Some(wanted) = &wanted.inference
        {
            let s = self.add_to_ring(ingest, SlotKind::Inference, wanted);
            inference = Some(s);
            added.push(s);
        }

        if !fresh {
            self.edit(ingest, &wanted.ingest);
        } else if known.is_some() {
            self.set_wanted(ingest, &wanted.ingest);
        }
        // Without anything wanted they are dropped below.
        if let Some(wanted) = &wanted.backup {
            for s in backups.iter().filter(|s| !added.contains(s)) {
                self.edit(*s, wanted);
            }
        }
        if let (Some(s), Some(wanted)) = (inference, &wanted.inference)
            && !added.contains(&s)
        {
            self.edit(s, wanted);
        }

        // Where the row says that they are.
        let by_hand = !spec.layout.by_layouter;
        let followed = self.follow_row(ingest, row_ingest, by_hand, Why::NotDistributed);
        let mut elsewhere: Vec<u32> = Vec::new();
        for s in &backups {
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
            let row = row_backups.next().unwrap_or(NONE);
            self.follow_row(s, row, by_hand, Why::Redundancy);
        }
        if let Some(s) = inference {
            self.follow_row(s, row_inference, by_hand, Why::NotDistributed);
        }
        if followed && !self.slot(ingest).has(MEMBER) {
            let origin = self.host_known(spec.layout.failover_from.as_ref());
            let origin = if origin == self.slot(ingest).node {
                NONE
            } else {
                origin
            };
            if self.origin_of(ingest) != origin {
                self.set_origin(ingest, origin);
            }
        }

        // What is too much.
        let wanted_backups = if spec.disabled {
            0
        } else {
            wanted.backups as usize
        };
        let why = if spec.disabled {
            Why::Disabled
        } else {
            Why::Redundancy
        };
        self.drop_backups(ingest, backups, wanted_backups, why);
        if let Some(s) = inference.filter(|_| spec.disabled || !wanted.infer) {
            self.drop_copy(ingest, s, why);
        }
        if spec.disabled {
            self.note(ingest, Why::Disabled);
            self.unplace(ingest);
            self.clear_origin(ingest);
            self.units.ungrouped.remove(&ingest);
            self.set_flag(ingest, DISABLED, true);
        }
        if !self.loading {
            let row_origin = self.host(spec.layout.failover_from.as_ref());
            if row_origin != self.stream_origin(ingest) || self.slot(ingest).has(ORIGIN_NOTED) {
                self.note_row_origin(ingest, row_origin);
            }
        }
    }

    fn new_stream(&mut self, name: &StreamName, wanted: &Wanted) -> u32 {
        let demand = self.intern(wanted.ingest.0.clone());
        let s = self.new_slot(SlotKind::Ingest, demand, wanted.ingest.1);
        *self.table.names.get_mut(s) = Some(name.clone());
        self.table.by_name.insert(name.clone(), s);
        self.table.streams += 1;
        s
    }

    fn add_to_ring(&mut self, ingest: u32, kind: SlotKind, wanted: &(Demand, Need)) -> u32 {
        let demand = self.intern(wanted.0.clone());
        let s = self.new_slot(kind, demand, wanted.1);
        // At the end of the ring, so that backups keep their order.
        let mut last = ingest;
        while self.slot(last).sibling != ingest {
            last = self.slot(last).sibling;
        }
        self.join_ring(s, last);
        s
    }

    fn is_demanded(&self, s: u32, wanted: &(Demand, Need)) -> bool {
        **self.classes.demand_of(self.table.rows.get(s).demand) == wanted.0
            && self.slot(s).need() == wanted.1
    }

    fn set_wanted(&mut self, s: u32, wanted: &(Demand, Need)) {
        if !self.is_demanded(s, wanted) {
            let demand = self.intern(wanted.0.clone());
            self.set_demand(s, demand);
            self.set_need(s, wanted.1);
        }
    }

    /// A slot wants something else: it stays where it is if that is still allowed.
    fn edit(&mut self, s: u32, wanted: &(Demand, Need)) {
        if self.is_demanded(s, wanted) {
            return;
        }
        let slot = *self.slot(s);
        debug_assert!(!slot.has(MEMBER));
        if self.loading || slot.has(PENDING) {
            self.set_wanted(s, wanted);
        } else if slot.has(WAITING) {
            self.stop_waiting(s);
            self.set_wanted(s, wanted);
            self.enqueue(s);
        } else if slot.node == NONE {
            self.set_wanted(s, wanted);
        } else {
            let n = self.unassign(s);
            self.set_wanted(s, wanted);
            self.refresh_tree();
            self.gain(n);
            let mut siblings = Vec::new();
            self.sibling_nodes(s, &mut siblings);
            let reasons = self.reasons_on(s, n, true, &siblings);
            if reasons.is_empty() || self.is_frozen() {
                self.assign(s, n);
            } else {
                self.note_at(s, n, self.why_of(reasons, n));
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

    /// Brings a slot to where its row says that it is. True: it is there.
    fn follow_row(&mut self, s: u32, row: u32, by_hand: bool, first: Why) -> bool {
        let slot = *self.slot(s);
        if self.loading {
            self.slot_mut(s).node = row;
            return true;
        }
        let loose = slot.node == NONE && !slot.has(WAITING | PENDING | MEMBER);
        if slot.node == row && !loose && !slot.has(PENDING) {
            return true;
        }
        self.refresh_tree();
        let mut siblings = Vec::new();
        self.sibling_nodes(s, &mut siblings);
        if row == NONE {
            self.note_row(s, NONE, first);
            if loose {
                self.enqueue(s);
            }
            return slot.node == NONE;
        }
        let reasons = self.reasons_on(s, row, true, &siblings);
        let why = if reasons.is_empty() {
            Why::NotDistributed
        } else {
            self.why_of(reasons, row)
        };
        self.note_row(s, row, why);
        if reasons.is_empty() && !slot.has(MEMBER) || self.is_frozen() && !slot.has(MEMBER) {
            if !loose {
                self.unplace(s);
            }
            self.assign(s, row);
            if by_hand {
                self.exempt(s);
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

    /// Drops what is too much: what waits first, then what is on the fullest nodes.
    fn drop_backups(&mut self, ingest: u32, backups: Vec<u32>, wanted: usize, why: Why) {
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
            self.drop_copy(ingest, *s, why);
        }
    }

    fn drop_copy(&mut self, ingest: u32, s: u32, why: Why) {
        self.note(s, why);
        self.unplace(s);
        self.leave_ring(s, ingest);
        self.free_slot(s);
    }

    /// The node of that name. One that is not known is entered as deleted, so that what says to be there can be told from what is nowhere.
    fn host(&mut self, hostname: Option<&Hostname>) -> u32 {
        let Some(hostname) = hostname else {
            return NONE;
        };
        match self.cluster.by_hostname.get(hostname) {
            Some(node) => {
                let node = *node;
                if self.cluster.free.remove(&node) {
                    // Somebody says to be there: its number cannot be given away in this event.
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

    /// All that is stored was told.
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
            // Of two in one place the ingest stays, then the earlier copy.
            if slot.node != NONE && slot.kind() != SlotKind::Ingest && siblings.contains(&slot.node)
            {
                self.evict(s, Why::Redundancy);
            }
        }
        for n in 0..self.cluster.nodes.len() as u32 {
            self.cluster.changed.insert(n);
        }
        self.nodes_changed();
        // A start moves nothing that may stay; the next tick makes room for what waits.
        let depth = std::mem::replace(&mut self.settings.chain_depth_max, 0);
        self.settle();
        self.settings.chain_depth_max = depth;
        for n in 0..self.cluster.nodes.len() as u32 {
            self.gain(n);
        }
    }

    /// Everything is classed anew and every list is made again: at start, and when too much has gathered that nobody uses.
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
            let node = Arc::make_mut(&mut self.cluster.nodes[i]);
            node.class = class;
            node.buckets.clear();
            node.channels = 0;
            node.kbps = 0;
            node.disk = 0;
        }
        self.index.is_stale = true;
        let mut scores: std::collections::HashMap<(u32, u32), u16, super::cow::Fixed> =
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
