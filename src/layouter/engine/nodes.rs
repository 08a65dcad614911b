//! Changes of nodes, and their consequences for the slots on them.
//!
//! A change of labels is decided per class of slots, not per slot. A lowered limit costs the fewest
//! moves that satisfy it. Nodes that are lost together are evacuated together; while no streamer is
//! running, nothing moves.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::Engine;
use super::class::{LabelId, NONE, NodeClass};
use super::cow::FixedHash;
use super::event::{EngineSettings, MoveReason, NodeSpec, NodeState, SlotKind};
use super::node::{
    DisplacedSlots, NodeCapacity, NodeClosure, NodeShare, SlotNode, UsedCapacity, tie_of,
};
use super::slot::{DISK_UNIT_BYTES, LIVE, MEMBER, PENDING, WAITING};
use super::tree::{Need, UNLIMITED};
use crate::state::label::parse;
use crate::state::name::Hostname;

impl Engine {
    /// Creates a placeholder: a deleted node of that name.
    pub(super) fn new_node(&mut self, hostname: &Hostname) -> u32 {
        let node = SlotNode {
            hostname: hostname.clone(),
            full: NodeClass::placeholder(),
            class: 0,
            capacity: NodeCapacity::default(),
            limit: Need::default(),
            used: UsedCapacity::default(),
            held: Need::default(),
            tie: 0,
            state: NodeState::Down,
            closure: NodeClosure::default(),
            settling: false,
            live: false,
            buckets: Vec::new(),
            displaced: DisplacedSlots::default(),
            counted: NodeShare::default(),
        };
        let n = match self.cluster.free.pop_first() {
            Some(n) => {
                let old = self.node(n).hostname.clone();
                self.cluster.by_hostname.remove(&old);
                self.cluster.nodes[n as usize] = Arc::new(node);
                n
            }
            None => {
                self.cluster.nodes.push(Arc::new(node));
                self.index.leaf_of.push(NONE);
                self.cluster.nodes.len() as u32 - 1
            }
        };
        self.cluster.by_hostname.insert(hostname.clone(), n);
        self.cluster.placeholders.insert(n);
        n
    }

    /// Adds labels to `news` that demands refer to and no node had.
    pub(super) fn save_node(&mut self, spec: NodeSpec, news: &mut Vec<LabelId>) {
        let known = self.cluster.by_hostname.get(&spec.hostname).copied();
        let n = known.unwrap_or_else(|| self.new_node(&spec.hostname));
        let was_live = self.node(n).live;
        if !was_live {
            // Free numbers are reused; this one is in use now.
            self.cluster.free.remove(&n);
            self.cluster.placeholders.remove(&n);
        }
        let labels = parse(&spec.labels);
        let plain = self.classes.label_ids(&labels.plain);
        let requires = self.classes.label_ids(&labels.required);
        let full = NodeClass {
            role: spec.role,
            namespace: self.classes.namespace(spec.namespace.as_ref()),
            domain: self.domain_of(&plain),
            labels: plain,
            requires,
            transcoder: spec.transcoder,
            dvr: spec.dvr,
        };
        let old = self.node(n).full.clone();
        if full != old || !was_live {
            self.classes.add_node_labels(n, &full, news);
            if was_live {
                self.classes.remove_node_labels(n, &old);
            }
            let class = if self.loading {
                0
            } else {
                self.classes.node_class(&full)
            };
            self.set_node_class(n, class, was_live);
            self.node_mut(n).full = full;
        }
        let limit = limits(&spec, &self.settings);
        let node = self.node_mut(n);
        node.live = true;
        node.settling = spec.settling;
        node.closure.cordoned = spec.cordoned;
        let drain = spec.drain;
        node.capacity.channels_stated = spec.channel_limit_stated;
        node.capacity.bandwidth_kbps = spec.bandwidth_kbps;
        node.capacity.disk_bytes = spec.disk_bytes;
        node.limit = limit;
        node.tie = tie_of(&spec.hostname, spec.channel_limit);
        if !was_live {
            node.state = spec.state;
            node.closure.pressed = false;
        }
        self.set_drain(n, drain);
        self.index.is_stale = true;
        self.cluster.changed.insert(n);
        self.node_gained(n);
    }

    fn domain_of(&self, labels: &[LabelId]) -> u32 {
        let Some(key) = &self.settings.failure_domain_key else {
            return NONE;
        };
        labels
            .iter()
            .copied()
            .find(|id| self.classes.label_key(*id) == Some(key))
            .unwrap_or(NONE)
    }

    pub(super) fn delete_node(&mut self, hostname: &Hostname) {
        let Some(n) = self.cluster.by_hostname.get(hostname).copied() else {
            return;
        };
        if !self.node(n).live {
            return;
        }
        let full = self.node(n).full.clone();
        self.classes.remove_node_labels(n, &full);
        self.classes.change_members(Some(self.node(n).class), None);
        for s in std::mem::take(&mut self.node_mut(n).displaced.slots) {
            if self.origin_of(s) == n {
                self.clear_origin(s);
            }
        }
        let held: Vec<u32> = self
            .flights
            .held
            .iter()
            .filter(|(_, held)| held.node == n)
            .map(|(s, _)| *s)
            .collect();
        for s in held {
            self.release_held(s);
        }
        let kept = self.flights.kept.iter().filter(|(_, keeper)| **keeper == n);
        for s in kept.map(|(s, _)| *s).collect::<Vec<u32>>() {
            self.flights.kept.remove(&s);
        }
        let node = self.node_mut(n);
        node.live = false;
        node.state = NodeState::Down;
        self.origins.restorable.remove(&n);
        self.end_drain(n);
        self.cluster.placeholders.insert(n);
        self.index.is_stale = true;
        self.cluster.changed.insert(n);
    }

    /// Changes the class of a node, which was in one before if it `was_live`.
    fn set_node_class(&mut self, n: u32, class: u32, was_live: bool) {
        let before = was_live.then_some(self.node(n).class);
        self.classes.change_members(before, Some(class));
        self.node_mut(n).class = class;
    }

    /// Makes labels part of the classes of the nodes that have them: demands refer to them for the
    /// first time.
    pub(super) fn reclass_nodes(&mut self, labels: &[LabelId]) {
        for label in labels {
            let mut by_class: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
            for n in self.classes.holders(*label) {
                by_class.entry(self.node(*n).class).or_default().push(*n);
            }
            for (class, nodes) in by_class {
                if nodes.len() == self.classes.members(class) as usize {
                    self.classes.extend_node_class(class, *label);
                    continue;
                }
                let new = self.classes.split_node_class(class, *label);
                for n in nodes {
                    self.set_node_class(n, new, true);
                }
                self.index.is_stale = true;
            }
        }
    }

    /// Reclassifies demands after nodes carry a label for the first time, and moves their slots to
    /// the new class's lists.
    pub(super) fn reclass_demands(&mut self, mut labels: Vec<LabelId>) {
        labels.sort_unstable();
        let moved = self.classes.reclass_demands(&labels);
        let moved: HashSet<u32, FixedHash> = moved.into_iter().collect();
        if moved.is_empty() {
            return;
        }
        for s in 0..self.table.slots.len() as u32 {
            let slot = *self.slot(s);
            let demand = self.table.rows.get(s).demand;
            if !slot.has(LIVE) || !moved.contains(&demand) {
                continue;
            }
            let class = self.classes.class_of_demand(demand);
            if slot.has(MEMBER | PENDING) || slot.node == NONE && !slot.has(WAITING) {
                self.slot_mut(s).class = class;
            } else if slot.has(WAITING) {
                self.stop_waiting(s);
                self.slot_mut(s).class = class;
                self.wait(s);
            } else {
                // Its score is computed again when its node is checked.
                let score = slot.score;
                let node = self.unassign(s);
                self.slot_mut(s).class = class;
                self.classes.pool(class);
                self.link(s, node, score);
                self.cluster.rescore_all = true;
            }
        }
    }

    /// Checks the nodes that changed in this event: evicts what may not stay, and reports gained
    /// capacity.
    pub(super) fn nodes_changed(&mut self) {
        if self.cluster.changed.is_empty() && !self.cluster.rescore_all {
            return;
        }
        let was_frozen = self.cluster.was_frozen;
        // Even without moves now the next tick has work: a node that is trusted again gets its
        // slots back.
        self.progress.epoch += 1;
        self.count_running();
        self.cluster.was_frozen = self.is_frozen();
        self.refresh_tree();
        let mut changed = std::mem::take(&mut self.cluster.changed);
        if self.is_frozen() {
            // Nothing moves off nodes that may return; one that was deleted cannot.
            for n in changed {
                self.touch(n);
                if !self.node(n).live {
                    self.evacuate(n, MoveReason::NodeDeleted);
                }
            }
            return;
        }
        if std::mem::take(&mut self.cluster.rescore_all) || was_frozen {
            changed = (0..self.cluster.nodes.len() as u32).collect();
        }
        // All nodes are updated in the tree before any slot is placed again.
        for n in &changed {
            self.touch(*n);
        }
        for n in &changed {
            self.evict_illegal(*n);
        }
        for n in changed {
            // Under CPU pressure it can still give a waiting ingest the place of its backup.
            if self.node(n).is_reachable() {
                self.node_gained(n);
                self.queue.retry_now = true;
            }
            if self.node(n).is_open() && !self.node(n).displaced.slots.is_empty() {
                self.origins.restorable.insert(n);
            }
        }
    }

    pub(super) fn set_states(&mut self, mut states: Vec<(Hostname, NodeState)>) {
        states.sort_unstable();
        for (hostname, state) in states {
            let Some(n) = self.cluster.by_hostname.get(&hostname).copied() else {
                continue;
            };
            if self.node(n).live && self.node(n).state != state {
                let node = self.node_mut(n);
                node.state = state;
                node.displaced.tried_epoch = 0;
                self.cluster.changed.insert(n);
            }
        }
        self.nodes_changed();
        self.settle();
    }

    pub(super) fn set_pressure(&mut self, hostname: &Hostname, pressed: bool) {
        let Some(n) = self.cluster.by_hostname.get(hostname).copied() else {
            return;
        };
        if self.node(n).live && self.node(n).closure.pressed != pressed {
            self.node_mut(n).closure.pressed = pressed;
            self.progress.epoch += 1;
            self.refresh_tree();
            self.touch(n);
            if !pressed {
                self.node_gained(n);
                self.queue.retry_now = true;
                self.settle();
            }
        }
    }

    /// Evicts the slots that may not stay on a node.
    fn evict_illegal(&mut self, n: u32) {
        self.release_illegal_copies(n);
        let lost = if !self.node(n).live {
            Some(MoveReason::NodeDeleted)
        } else if self.node(n).state == NodeState::Down {
            Some(MoveReason::NodeOffline)
        } else {
            None
        };
        if let Some(reason) = lost {
            self.evacuate(n, reason);
            return;
        }
        for i in 0..self.node(n).buckets.len() {
            // Evicting a whole bucket removes it from the list.
            let Some(bucket) = self.node(n).buckets.get(i).copied() else {
                break;
            };
            let reasons = self.static_reasons_on(bucket.class, n);
            if reasons.is_empty() {
                self.rescore(bucket.class, n);
            }
        }
        let buckets = self.node(n).buckets.clone();
        for bucket in buckets {
            let reasons = self.static_reasons_on(bucket.class, n);
            if !reasons.is_empty() {
                let reason = self.main_reason(reasons, n);
                let mut slots = Vec::with_capacity(bucket.count as usize);
                self.bucket_slots(bucket.head, &mut slots);
                for s in slots {
                    self.evict(s, reason);
                }
            }
        }
        let dimensions = if self.node(n).settling { 1 } else { 3 };
        for dimension in 0..dimensions {
            self.enforce_limit(n, dimension);
        }
    }

    fn rescore(&mut self, class: u32, n: u32) {
        let score = self.score_on(class, n);
        let mut slots = Vec::new();
        match self.node(n).bucket(class) {
            Ok(i) => self.bucket_slots(self.node(n).buckets[i].head, &mut slots),
            Err(_) => return,
        }
        self.classes.pool(class);
        let best = self
            .classes
            .classes
            .get(class)
            .pool
            .as_ref()
            .map_or(0, |pool| pool.best_score());
        // Slots that arrived after the node changed, in the same transaction, already have the new
        // score: all must be compared.
        if score >= best && slots.iter().all(|s| self.slot(*s).score == score) {
            return;
        }
        for s in slots {
            self.slot_mut(s).score = score;
            self.track_below_best(s, class, score);
        }
        self.progress.epoch += 1;
    }

    fn evacuate(&mut self, n: u32, reason: MoveReason) {
        for s in self.slots_on(n) {
            // Promoting a backup may have moved it already.
            if self.slot(s).node != n {
                continue;
            }
            if reason == MoveReason::NodeOffline {
                self.remember_origin(s, n);
            }
            self.evict(s, reason);
            self.return_to_keeper(s);
            if self.slot(s).has(PENDING)
                && self.settings.failover_to_backup
                && self.promotable(s, false).is_some()
            {
                self.set_flag(s, PENDING, false);
                self.promote(s, false, reason);
            }
        }
    }

    /// Evicts the fewest slots that bring a node under its limit.
    pub(super) fn enforce_limit(&mut self, n: u32, dimension: usize) {
        if !self.exceeds(n, dimension) {
            return;
        }
        if self.may_exceed(n, dimension) {
            self.overloaded(n);
            return;
        }
        let reason = match dimension {
            0 => MoveReason::ChannelLimit,
            1 => MoveReason::Bandwidth,
            _ => MoveReason::DvrSize,
        };
        let mut excess = self.excess(n, dimension);
        for s in self.fewest_above_limit(n, dimension) {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(self.slot(s).need().of(dimension));
            self.evict(s, reason);
        }
    }

    fn excess(&self, n: u32, dimension: usize) -> u64 {
        let node = self.node(n);
        let used = [node.used.channels, node.used.kbps, node.used.disk][dimension];
        used.saturating_sub(node.limit.of(dimension))
    }

    /// The slots of a node above its limit, in the order in which they should leave: the largest
    /// first, except that the last that must leave is the smallest that is enough, and among equals
    /// the one with the least disk. The rest follows.
    pub(super) fn fewest_above_limit(&self, n: u32, dimension: usize) -> Vec<u32> {
        let mut excess = self.excess(n, dimension);
        let mut slots: Vec<(u32, u32, u64, u32)> = Vec::new();
        for s in self.slots_on(n) {
            let need = self.slot(s).need();
            let size = need.of(dimension) as u32;
            if size > 0 {
                slots.push((u32::MAX - size, need.disk, self.order_of(s), s));
            }
        }
        slots.sort_unstable();
        let size = |slot: &(u32, u32, u64, u32)| u64::from(u32::MAX - slot.0);
        let mut first = Vec::new();
        while excess > 0 && first.len() < slots.len() {
            let i = first.len();
            let mut at = i;
            if size(&slots[i]) >= excess {
                // One is enough: take the smallest sufficient one, and among equals the cheapest to
                // move.
                let enough = |slot: &(u32, u32, u64, u32)| size(slot) >= excess;
                let last = i + slots[i..].partition_point(enough) - 1;
                let smallest = slots[last].0;
                at = i + slots[i..].partition_point(|slot| slot.0 < smallest);
            }
            excess = excess.saturating_sub(size(&slots[at]));
            let taken = slots.remove(at);
            slots.insert(i, taken);
            first.push(taken.3);
        }
        let rest = first.len();
        first.extend(slots[rest..].iter().map(|slot| slot.3));
        first
    }

    pub(super) fn set_settings(&mut self, settings: EngineSettings) {
        let old = std::mem::replace(&mut self.settings, settings);
        if self.loading {
            return;
        }
        if old.backups_count_as_channels != self.settings.backups_count_as_channels {
            let channels = u16::from(self.settings.backups_count_as_channels);
            for s in 0..self.table.slots.len() as u32 {
                let slot = *self.slot(s);
                if slot.has(LIVE) && slot.kind() == SlotKind::DvrBackup {
                    if slot.node == NONE {
                        self.slot_mut(s).channels = channels;
                    } else {
                        let node = self.unassign(s);
                        self.slot_mut(s).channels = channels;
                        self.refresh_tree();
                        self.assign(s, node);
                    }
                }
            }
        }
        for n in 0..self.cluster.nodes.len() as u32 {
            if !self.node(n).live {
                continue;
            }
            let limit = share(&self.settings, self.node(n));
            self.node_mut(n).limit = limit;
            if old.failure_domain_key != self.settings.failure_domain_key {
                let mut full = self.node(n).full.clone();
                full.domain = self.domain_of(&full.labels);
                let class = self.classes.node_class(&full);
                self.set_node_class(n, class, true);
                self.node_mut(n).full = full;
            }
            self.cluster.changed.insert(n);
        }
        self.index.is_stale = true;
        self.progress.epoch += 1;
        self.queue.gain_epoch += 1;
        self.nodes_changed();
        self.settle();
    }
}

fn part(whole: u64, permille: u32) -> u32 {
    let part = u128::from(whole) * u128::from(permille) / 1000;
    part.min(u128::from(UNLIMITED - 1)) as u32
}

fn limits(spec: &NodeSpec, settings: &EngineSettings) -> Need {
    Need {
        channels: spec.channel_limit.min(UNLIMITED - 1),
        kbps: spec.bandwidth_kbps.map_or(UNLIMITED, |kbps| {
            part(u64::from(kbps), settings.bandwidth_permille)
        }),
        disk: spec.disk_bytes.map_or(UNLIMITED, |bytes| {
            part(bytes / DISK_UNIT_BYTES, settings.disk_permille)
        }),
    }
}

fn share(settings: &EngineSettings, node: &SlotNode) -> Need {
    Need {
        channels: node.limit.channels,
        kbps: node.capacity.bandwidth_kbps.map_or(UNLIMITED, |kbps| {
            part(u64::from(kbps), settings.bandwidth_permille)
        }),
        disk: node.capacity.disk_bytes.map_or(UNLIMITED, |bytes| {
            part(bytes / DISK_UNIT_BYTES, settings.disk_permille)
        }),
    }
}
