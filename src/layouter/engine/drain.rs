//! Draining: everything leaves a node, by pace, and nothing stops for it.
//!
//! A slot leaves only if another node has room for it; what finds none stays and is tried again
//! once room was gained. DVR backups leave first. The old copy of a backup is kept, in the layout
//! of its stream, until every backup of the stream was reported to run, and while a slot of a
//! stream is on its way the others of that stream stay: two nodes that are drained together never
//! take all copies of an archive with them. At its deadline a drain no longer keeps to its pace,
//! and an ingest may then take the place of a copy of its own stream.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Engine;
use super::class::NONE;
use super::cow::FixedHash;
use super::event::{DrainSpec, LayoutChange, MoveReason, SlotKind};
use super::slot::{IN_FLIGHT, LIVE, MEMBER, RECORDED, UNIT};
use super::tree::Need;
use crate::state::name::{Hostname, StreamName};

/// Slots that one event moves off a node at most.
pub const MOVES_PER_EVENT_MAX: usize = 1000;
/// Streams of a node that are named.
const SAMPLE_MAX: usize = 10;
const MINUTE_MS: u64 = 60_000;
/// Moves that a drain may catch up after a pause of the server, in milliseconds of its pace.
const CATCH_UP_MS: u64 = 5000;

/// A node that is drained.
#[derive(Clone, Debug)]
struct NodeDrain {
    spec: DrainSpec,
    /// By its pace, the next stream leaves at this time.
    next_ms: u64,
    /// Streams of the slots that found no place, as last tried.
    stuck: u64,
    /// Gain epoch of the last try that left only slots without a place; 0 for none.
    tried_epoch: u64,
    is_overdue: bool,
}

/// The old copies of a stream's backups.
#[derive(Clone, Debug)]
struct KeptCopies {
    nodes: Vec<u32>,
    since_ms: u64,
    /// Nodes with a backup that was not reported to run since then.
    building: Vec<u32>,
}

/// Nodes that are drained, and what is on its way.
#[derive(Clone, Default)]
pub(super) struct Drains {
    nodes: BTreeMap<u32, NodeDrain>,
    /// By the ingest of their stream.
    kept: imbl::OrdMap<u32, Arc<KeptCopies>>,
    /// Nodes that are building backups, with the ingests.
    building: imbl::OrdSet<(u32, u32)>,
    /// Copies that are kept no longer since the begin of this event: ingest and node.
    released: Vec<(u32, u32)>,
}

/// What is left on a node that is drained.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DrainProgress {
    pub ingests: u64,
    pub backups: u64,
    pub inferences: u64,
    /// Old copies that are kept until the new ones run.
    pub kept_copies: u64,
    /// Streams for which no other node has room.
    pub no_place: u64,
    /// The deadline has passed.
    pub is_overdue: bool,
}

impl DrainProgress {
    /// All of it.
    pub fn left(&self) -> u64 {
        self.ingests + self.backups + self.inferences + self.kept_copies
    }

    pub fn is_empty(&self) -> bool {
        self.left() == 0
    }
}

impl Engine {
    /// Begins, changes or ends the drain of a node.
    pub(super) fn set_drain(&mut self, n: u32, spec: Option<DrainSpec>) {
        let Some(spec) = spec else {
            self.drains.nodes.remove(&n);
            return;
        };
        let fresh = NodeDrain {
            spec,
            next_ms: 0,
            stuck: 0,
            tried_epoch: 0,
            is_overdue: false,
        };
        let drain = self.drains.nodes.entry(n).or_insert(fresh);
        if drain.spec != spec {
            drain.spec = spec;
            drain.tried_epoch = 0;
            drain.next_ms = 0;
        }
    }

    pub(super) fn is_draining(&self, n: u32) -> bool {
        self.drains.nodes.contains_key(&n)
    }

    /// A node was deleted: nothing is left on it.
    pub(super) fn end_drain(&mut self, n: u32) {
        self.drains.nodes.remove(&n);
        self.release_copies_on(n);
        let building = self.drains.building.range((n, 0)..=(n, u32::MAX));
        for entry in building.copied().collect::<Vec<_>>() {
            self.drains.building.remove(&entry);
        }
    }

    /// Whether [`super::Event::Drain`] has anything to do.
    pub fn has_drains(&self) -> bool {
        !self.drains.nodes.is_empty() || !self.drains.kept.is_empty()
    }

    /// The nodes that are drained, and what is left on each.
    pub fn draining(&self) -> impl Iterator<Item = (Hostname, DrainProgress)> {
        let mut kept_on: BTreeMap<u32, u64> = BTreeMap::new();
        for n in self.drains.kept.values().flat_map(|kept| &kept.nodes) {
            *kept_on.entry(*n).or_default() += 1;
        }
        self.drains.nodes.iter().map(move |(n, drain)| {
            let left = self.counts_on_node(*n);
            let progress = DrainProgress {
                ingests: left.streams,
                backups: left.copies,
                inferences: left.inferences,
                kept_copies: kept_on.get(n).copied().unwrap_or(0),
                no_place: drain.stuck,
                is_overdue: drain.is_overdue,
            };
            (self.node(*n).hostname.clone(), progress)
        })
    }

    /// Some of the streams that are left on a node, in the order of their names.
    pub fn streams_left_on(
        &self,
        hostname: &str,
        is_shown: impl Fn(&str) -> bool,
    ) -> Vec<StreamName> {
        let Some(n) = self.cluster.by_hostname.get(hostname).copied() else {
            return Vec::new();
        };
        let mut names = BTreeSet::new();
        for s in self.slots_on(n) {
            let members: Vec<u32> = self.active_members(s).into_iter().collect();
            let ingests = if members.is_empty() {
                vec![self.ingest_of(s)]
            } else {
                members
            };
            for name in ingests
                .iter()
                .filter_map(|it| self.table.names.get(*it).as_ref())
            {
                if is_shown(name) {
                    names.insert(name.clone());
                }
                if names.len() > SAMPLE_MAX {
                    names.pop_last();
                }
            }
        }
        names.into_iter().collect()
    }

    /// One step of all drains.
    pub(super) fn drain(&mut self, now_ms: u64, utc_ms: u64) {
        self.advance_clock(now_ms);
        self.release_late_copies();
        if self.is_frozen() {
            return;
        }
        for n in self.drains.nodes.keys().copied().collect::<Vec<_>>() {
            let node = self.node(n);
            if node.live && node.is_running() && !node.settling {
                self.drain_node(n, utc_ms);
            }
        }
        self.place_batch();
    }

    fn drain_node(&mut self, n: u32, utc_ms: u64) {
        let Some(mut drain) = self.drains.nodes.get(&n).cloned() else {
            return;
        };
        let spec = drain.spec;
        drain.is_overdue = spec.deadline_utc_ms.is_some_and(|it| it <= utc_ms);
        let left = self.counts_on_node(n);
        let left = left.streams + left.copies + left.inferences;
        let step_ms = step_ms(&spec, left, utc_ms);
        drain.next_ms = match drain.next_ms {
            0 => self.now_ms,
            next_ms => next_ms.max(self.now_ms.saturating_sub(CATCH_UP_MS)),
        };
        if drain.tried_epoch != self.queue.gain_epoch && drain.next_ms <= self.now_ms {
            self.take_slots_off(n, &mut drain, step_ms);
        }
        if left == 0 {
            drain.stuck = 0;
        }
        self.drains.nodes.insert(n, drain);
    }

    /// Moves slots while the pace allows it.
    fn take_slots_off(&mut self, n: u32, drain: &mut NodeDrain, step_ms: u64) {
        self.refresh_tree();
        let mut ordered: Vec<(u8, u64, u32)> = self
            .slots_on(n)
            .into_iter()
            .map(|s| (order_of_kind(self.slot(s).kind()), self.order_of(s), s))
            .collect();
        ordered.sort_unstable();
        let mut left: Vec<u32> = ordered.into_iter().map(|(.., s)| s).collect();
        let mut deferred = false;
        // Room is made only when nothing else leaves.
        for makes_room in [false, true] {
            if drain.next_ms <= self.now_ms {
                left = self.take_all_off(n, drain, step_ms, &left, makes_room);
            }
            deferred |= drain.next_ms > self.now_ms || self.slice.is_cut;
        }
        left.retain(|s| self.slot(*s).node == n);
        deferred |=
            self.budgets.make_room.left() == 0 || left.iter().any(|s| self.is_on_its_way(*s));
        if deferred {
            drain.tried_epoch = 0;
        } else {
            drain.stuck = left.iter().map(|s| self.streams_of(*s)).sum();
            drain.tried_epoch = self.queue.gain_epoch;
        }
    }

    /// Moves those of these slots that find a place. Returns the others.
    fn take_all_off(
        &mut self,
        n: u32,
        drain: &mut NodeDrain,
        step_ms: u64,
        slots: &[u32],
        makes_room: bool,
    ) -> Vec<u32> {
        let mut refused: HashMap<u32, Need, FixedHash> = HashMap::default();
        let mut left = Vec::new();
        let mut moves_left = MOVES_PER_EVENT_MAX;
        for (i, s) in slots.iter().copied().enumerate() {
            if drain.next_ms > self.now_ms || moves_left == 0 || makes_room && self.slice.cut() {
                self.slice.is_cut |= moves_left == 0;
                left.extend_from_slice(&slots[i..]);
                break;
            }
            if self.slot(s).node != n {
                continue;
            }
            let streams = self.streams_of(s);
            if self.is_on_its_way(s) || !self.take_off(s, n, drain, &mut refused, makes_room) {
                left.push(s);
                continue;
            }
            moves_left -= 1;
            drain.next_ms += streams * step_ms;
        }
        left
    }

    /// Moves a slot to a node that has room. Returns whether there is one.
    fn take_off(
        &mut self,
        s: u32,
        n: u32,
        drain: &NodeDrain,
        refused: &mut HashMap<u32, Need, FixedHash>,
        makes_room: bool,
    ) -> bool {
        let slot = *self.slot(s);
        let need = slot.need();
        if refused.get(&slot.class).is_some_and(|it| need.covers(it)) {
            return false;
        }
        self.record_move(s, MoveReason::Drain);
        self.unassign(s);
        let target = self.find_confirmed(s, &[(n, NONE)]);
        if let Some(target) = target {
            self.assign(s, target);
        }
        let is_placed = target.is_some()
            || makes_room && self.make_room(s)
            || makes_room && drain.is_overdue && self.promote(s, true, MoveReason::Redundancy);
        if !is_placed {
            self.assign(s, n);
            if slot.sibling == s && !slot.has(UNIT) {
                refused.insert(slot.class, need);
            }
            return false;
        }
        if drain.spec.returns {
            self.remember_origin(s, n);
        }
        if slot.kind() == SlotKind::DvrBackup && drain.spec.keeps_ms > 0 {
            self.keep_copy(self.ingest_of(s), n);
        } else if !self.flights.kept.contains_key(&s) {
            self.hold_room(s, n);
        }
        true
    }

    /// Streams that move with a slot.
    fn streams_of(&self, s: u32) -> u64 {
        if self.slot(s).has(UNIT) {
            self.active_members(s).len().max(1) as u64
        } else {
            1
        }
    }

    /// Whether a slot of the same stream, or of a stream of the same unit, is being handed over or
    /// built.
    fn is_on_its_way(&self, s: u32) -> bool {
        let moves = |ingest: &u32| {
            let mut ring = self.ring(*ingest).into_iter();
            self.drains.kept.contains_key(ingest)
                || self.flights.kept.contains_key(ingest)
                || ring.any(|it| it != s && self.slot(it).has(RECORDED | IN_FLIGHT))
        };
        if self.slot(s).has(UNIT) {
            return self.flights.kept.contains_key(&s) || self.members_of(s).any(|it| moves(&it));
        }
        let ingest = self.ingest_of(s);
        let unit = self.units.of_member.get(&ingest);
        let unit = unit.filter(|_| self.slot(ingest).has(MEMBER));
        moves(&ingest) || unit.is_some_and(|unit| self.flights.kept.contains_key(unit))
    }

    // ---- copies that are kept ----

    /// Keeps the old copy of a backup that has just left `n`.
    fn keep_copy(&mut self, ingest: u32, n: u32) {
        let mut nodes = self.kept_copies(ingest).to_vec();
        if !nodes.contains(&n) {
            nodes.push(n);
        }
        self.set_kept_copies(ingest, nodes);
    }

    /// Nodes that keep old copies of a stream.
    pub(super) fn kept_copies(&self, ingest: u32) -> &[u32] {
        let kept = self.drains.kept.get(&ingest);
        kept.map_or(&[], |kept| &kept.nodes)
    }

    /// Splits the nodes of a row's backups: surplus ones on nodes that are drained, or that keep
    /// copies already, are old copies.
    pub(super) fn split_kept(
        &self,
        ingest: Option<u32>,
        row: &mut Vec<u32>,
        wanted: usize,
    ) -> Vec<u32> {
        let before = ingest.map_or(&[][..], |ingest| self.kept_copies(ingest));
        let mut kept = Vec::new();
        while row.len() > wanted
            && let Some(i) = row
                .iter()
                .rposition(|n| before.contains(n) || self.is_draining(*n))
        {
            kept.push(row.remove(i));
        }
        kept
    }

    /// The row of a stream has these old copies.
    pub(super) fn set_kept_copies(&mut self, ingest: u32, nodes: Vec<u32>) {
        let mut nodes = nodes;
        nodes.sort_unstable();
        if self.kept_copies(ingest) == nodes {
            return;
        }
        self.forget_copies(ingest);
        if nodes.is_empty() {
            return;
        }
        let copies = self.ring(ingest).into_iter().map(|s| *self.slot(s));
        let building: Vec<u32> = copies
            .filter(|slot| slot.kind() == SlotKind::DvrBackup && slot.node != NONE)
            .map(|slot| slot.node)
            .collect();
        for n in &building {
            self.drains.building.insert((*n, ingest));
        }
        let kept = KeptCopies {
            nodes,
            since_ms: self.now_ms,
            building,
        };
        self.drains.kept.insert(ingest, Arc::new(kept));
    }

    /// Adopts the old copies in the row of a stream, which may not record any more.
    pub(super) fn adopt_kept(&mut self, ingest: u32, nodes: Vec<u32>, has_copies: bool) {
        if has_copies {
            let class = self.backup_class(ingest);
            let (legal, illegal) = nodes
                .into_iter()
                .partition(|n| self.loading || class.is_none_or(|it| self.may_keep_copy(it, *n)));
            self.set_kept_copies(ingest, legal);
            self.forget_rows(ingest, illegal);
        } else {
            self.forget_copies(ingest);
            self.forget_rows(ingest, nodes);
        }
    }

    /// The row of a stream has old copies that it may not have.
    fn forget_rows(&mut self, ingest: u32, nodes: Vec<u32>) {
        let released = nodes.into_iter().map(|n| (ingest, n));
        self.drains.released.extend(released);
    }

    fn backup_class(&self, ingest: u32) -> Option<u32> {
        let mut ring = self.ring(ingest).into_iter().map(|s| self.slot(s));
        let backup = ring.find(|slot| slot.kind() == SlotKind::DvrBackup);
        backup.map(|slot| slot.class)
    }

    fn may_keep_copy(&self, class: u32, n: u32) -> bool {
        let node = self.node(n);
        node.live && node.is_running() && self.static_reasons_on(class, n).is_empty()
    }

    /// A node changed: releases the old copies that it may not keep any more.
    pub(super) fn release_illegal_copies(&mut self, n: u32) {
        let kept = self.drains.kept.iter();
        let on_node = kept.filter(|(_, kept)| kept.nodes.contains(&n));
        let illegal = on_node.filter(|(ingest, _)| {
            let class = self.backup_class(**ingest);
            class.is_none_or(|it| !self.may_keep_copy(it, n))
        });
        for ingest in illegal.map(|(ingest, _)| *ingest).collect::<Vec<_>>() {
            self.release_copies(ingest);
        }
    }

    /// Forgets the old copies of a stream: its row does not have them any more.
    pub(super) fn forget_copies(&mut self, ingest: u32) {
        if let Some(kept) = self.drains.kept.remove(&ingest) {
            for n in &kept.building {
                self.drains.building.remove(&(*n, ingest));
            }
        }
    }

    /// Takes the old copies of a stream out of its layout.
    fn release_copies(&mut self, ingest: u32) {
        let nodes = self.kept_copies(ingest).to_vec();
        self.forget_copies(ingest);
        let released = nodes.into_iter().map(|n| (ingest, n));
        self.drains.released.extend(released);
        self.progress.epoch += 1;
    }

    fn release_copies_on(&mut self, n: u32) {
        let kept = self.drains.kept.iter();
        let on_node = kept.filter(|(_, kept)| kept.nodes.contains(&n));
        for ingest in on_node.map(|(ingest, _)| *ingest).collect::<Vec<_>>() {
            self.release_copies(ingest);
        }
    }

    /// Releases what waited for too long.
    fn release_late_copies(&mut self) {
        let loaded = self.drains.kept.iter().filter(|(_, it)| it.since_ms == 0);
        for ingest in loaded.map(|(ingest, _)| *ingest).collect::<Vec<_>>() {
            if let Some(kept) = self.drains.kept.get_mut(&ingest) {
                // Time has begun since it was loaded.
                Arc::make_mut(kept).since_ms = self.now_ms;
            }
        }
        let keeps_ms = |n: &u32| self.drains.nodes.get(n).map_or(0, |it| it.spec.keeps_ms);
        let is_over = |kept: &KeptCopies| {
            let limit_ms = kept.nodes.iter().map(keeps_ms).max().unwrap_or(0);
            self.now_ms >= kept.since_ms + limit_ms
        };
        let over = self.drains.kept.iter().filter(|(_, kept)| is_over(kept));
        for ingest in over.map(|(ingest, _)| *ingest).collect::<Vec<_>>() {
            self.release_copies(ingest);
        }
    }

    /// Streams with a backup on this node that is not known to run yet, and since when it counts.
    pub fn building_on(&self, hostname: &str) -> Vec<(StreamName, u64)> {
        let Some(n) = self.cluster.by_hostname.get(hostname).copied() else {
            return Vec::new();
        };
        let building = self.drains.building.range((n, 0)..=(n, u32::MAX));
        let of = |(_, ingest): &(u32, u32)| {
            let kept = self.drains.kept.get(ingest)?;
            let name = self.table.names.get(*ingest).clone()?;
            Some((name, kept.since_ms))
        };
        building.filter_map(of).collect()
    }

    /// Backups on a node were reported to run.
    pub(super) fn copies_run(&mut self, hostname: &Hostname, streams: &[StreamName]) {
        let Some(n) = self.cluster.by_hostname.get(hostname).copied() else {
            return;
        };
        for name in streams {
            let Some(ingest) = self.table.by_name.get(name).copied() else {
                continue;
            };
            let Some(kept) = self.drains.kept.get_mut(&ingest) else {
                continue;
            };
            self.drains.building.remove(&(n, ingest));
            let kept = Arc::make_mut(kept);
            kept.building.retain(|it| *it != n);
            if kept.building.is_empty() {
                self.release_copies(ingest);
            }
        }
    }

    /// Panics if a slot is on a node that is drained and another node could take it. Holds once
    /// drains have nothing left to do.
    #[cfg(any(test, feature = "testing"))]
    pub fn check_drained(&self) {
        let mut siblings = Vec::new();
        for n in self
            .drains
            .nodes
            .keys()
            .filter(|n| !self.node(**n).settling)
        {
            for s in self.slots_on(*n) {
                self.sibling_nodes(s, &mut siblings);
                for other in (0..self.cluster.nodes.len() as u32).filter(|other| other != n) {
                    assert!(
                        !self.node(*n).is_running()
                            || !self.reasons_on(s, other, false, &siblings).is_empty(),
                        "{:?} of {:?} is on {}, which is drained, but {} could take it",
                        self.slot(s).kind(),
                        self.table.names.get(self.ingest_of(s)),
                        self.node(*n).hostname,
                        self.node(other).hostname
                    );
                }
            }
        }
    }

    /// Emits the old copies that streams do not have any more.
    pub(super) fn finish_copies(&mut self, emit: &mut impl FnMut(LayoutChange)) {
        for (ingest, n) in std::mem::take(&mut self.drains.released) {
            if let Some(stream) = self.table.names.get(ingest).clone()
                && self.slot(ingest).has(LIVE)
            {
                emit(LayoutChange {
                    stream,
                    kind: SlotKind::DvrBackup,
                    from: Some(self.node(n).hostname.clone()),
                    to: None,
                    reason: MoveReason::Drain,
                    failover_from: self.failover_from(ingest).cloned(),
                    revision: self.table.rows.get(ingest).revision(),
                });
            }
        }
    }
}

/// Backups leave first.
fn order_of_kind(kind: SlotKind) -> u8 {
    match kind {
        SlotKind::DvrBackup => 0,
        SlotKind::Inference => 1,
        SlotKind::Ingest => 2,
    }
}

/// Milliseconds from one stream to the next: the pace, or less if the deadline needs it; 0 for no
/// limit.
fn step_ms(spec: &DrainSpec, left: u64, utc_ms: u64) -> u64 {
    let by_pace = match spec.streams_per_minute {
        0 => 0,
        pace => MINUTE_MS / u64::from(pace).min(MINUTE_MS),
    };
    match spec.deadline_utc_ms {
        Some(deadline) => by_pace.min(deadline.saturating_sub(utc_ms) / left.max(1)),
        None => by_pace,
    }
}
