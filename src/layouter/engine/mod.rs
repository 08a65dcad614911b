//! The pure engine: [`Engine::apply`] takes an event and returns the changes of layout that follow from it.
//!
//! No clock (time comes with events), no I/O, no randomness: the same events give the same layout.

pub mod event;

mod balance;
mod budget;
mod chain;
mod check;
mod class;
mod cow;
mod explain;
mod flight;
mod label;
mod nodes;
mod place;
mod restore;
mod rows;
mod slots;
mod tree;
mod units;
mod waiting;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

pub use event::{
    Balance, Change, DvrSpec, Event, NodeRole, NodeSpec, NodeState, Reasons, Rows, Settings, Shed,
    ShedTarget, SlotKind, StoredLayout, StreamLayout, StreamSpec, Why,
};
pub use explain::{Capacity, ClassReport, Decision, NodeReport, Survival};
pub use rows::backups_of;

use budget::Budgets;
use class::{Classes, NONE};
use cow::{CowMap, CowVec, mix};
use flight::Held;
use slots::{Counts, FETCHED_TOGETHER, LIVE, NOTED, Node, ORIGIN_NOTED, PENDING, Row, Slot, UNIT};
use tree::Tree;
use units::Unit;

use crate::state::name::{Hostname, StreamName};

/// Classes without members that are worth a clean-up.
const CLASSES_DEAD_MAX: u32 = 1024;

/// Changes of one event that are told in the order in which they were decided. More are told in the order in which their streams lie in memory: a
/// million names in any other order take twice as long.
const LOG_IN_ORDER_MAX: usize = 10_000;

/// What the engine did since it was made.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Changes by [`Why`], in the order of [`Why::ALL`].
    pub changes: [u64; Why::ALL.len()],
    /// Slots displaced so that another one has a place.
    pub make_room_moves: u64,
}

/// The engine. Cloning it is cheap (see `cow`).
#[derive(Clone)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each says of one part that it is to be looked at again"
)]
pub struct Engine {
    settings: Settings,
    now_ms: u64,
    loading: bool,

    slots: CowVec<Slot>,
    rows: CowVec<Row>,
    free_slots: u32,
    /// Free from the end of this event on.
    freed: Vec<u32>,
    names: CowVec<Option<StreamName>>,
    streams_by_name: CowMap<StreamName, u32, 1024>,
    /// Streams that are known, disabled ones included.
    streams: u32,

    nodes: Vec<Arc<Node>>,
    hosts: CowMap<Hostname, u32>,
    /// Nodes that are only a name, and those of them whose number may be given to another.
    ghosts: BTreeSet<u32>,
    free_nodes: BTreeSet<u32>,
    counts: Counts,
    frozen_before: bool,
    changed_nodes: BTreeSet<u32>,
    rescore_all: bool,

    classes: Classes,
    tree: Tree,
    tree_stale: bool,
    /// Leaf of each node, first leaf of each node class, and the channels of all leaves before one.
    leaf_of: Vec<u32>,
    class_start: Vec<u32>,
    capacity_before: Vec<u64>,

    units: CowMap<u32, Arc<Unit>>,
    unit_of: CowMap<u32, u32>,
    agents: CowMap<Arc<str>, Arc<Vec<u32>>>,
    stream_agents: CowMap<u32, Arc<[Arc<str>]>>,
    ungrouped: BTreeSet<u32>,
    /// Units of which a part waits, with the gain epoch of the last try.
    partial: BTreeMap<u32, u64>,

    /// Slots to be placed at the end of this event.
    batch: Vec<u32>,
    waiting: u32,
    waiting_classes: BTreeSet<u32>,
    gained: BTreeSet<u32>,
    /// Counts every time that a node can take more than before.
    gain_epoch: u64,
    retry_now: bool,
    restorable: BTreeSet<u32>,
    origins: CowMap<u32, u32>,
    /// Ingests and what they came back to before this event.
    origins_noted: Vec<(u32, u32)>,
    below_best: BTreeSet<u32>,
    exempt: imbl::OrdMap<u32, u64>,
    held: imbl::OrdMap<u32, Held>,
    in_flight: u32,
    flights: VecDeque<(u64, CowVec<u32>)>,
    budgets: Budgets,

    /// Counts every change of what is where; `settled` is its value when a tick last had nothing left to do.
    epoch: u64,
    settled: u64,
    /// Slots that moved in this event, with where they were before and why.
    log: Vec<(u32, u32, Why)>,
    repeated: Vec<Change>,
    counters: Counters,
    scratch: Vec<u32>,
}

impl Engine {
    pub fn new(settings: Settings) -> Self {
        let budgets = Budgets::new(&settings, 0);
        Self {
            settings,
            now_ms: 0,
            loading: false,
            slots: CowVec::new(),
            rows: CowVec::new(),
            free_slots: NONE,
            freed: Vec::new(),
            names: CowVec::new(),
            streams_by_name: CowMap::new(),
            streams: 0,
            nodes: Vec::new(),
            hosts: CowMap::new(),
            ghosts: BTreeSet::new(),
            free_nodes: BTreeSet::new(),
            counts: Counts::default(),
            frozen_before: true,
            changed_nodes: BTreeSet::new(),
            rescore_all: false,
            classes: Classes::new(),
            tree: Tree::build(Vec::new(), |_| tree::Vertex::CLOSED),
            tree_stale: true,
            leaf_of: Vec::new(),
            class_start: Vec::new(),
            capacity_before: Vec::new(),
            units: CowMap::new(),
            unit_of: CowMap::new(),
            agents: CowMap::new(),
            stream_agents: CowMap::new(),
            ungrouped: BTreeSet::new(),
            partial: BTreeMap::new(),
            batch: Vec::new(),
            waiting: 0,
            waiting_classes: BTreeSet::new(),
            gained: BTreeSet::new(),
            gain_epoch: 1,
            retry_now: false,
            restorable: BTreeSet::new(),
            origins: CowMap::new(),
            origins_noted: Vec::new(),
            below_best: BTreeSet::new(),
            exempt: imbl::OrdMap::new(),
            held: imbl::OrdMap::new(),
            in_flight: 0,
            flights: VecDeque::new(),
            budgets,
            epoch: 1,
            settled: 0,
            log: Vec::new(),
            repeated: Vec::new(),
            counters: Counters::default(),
            scratch: Vec::new(),
        }
    }

    /// Takes an event and answers what changes for it.
    pub fn apply(&mut self, event: Event) -> Vec<Change> {
        self.handle(event);
        self.finished()
    }

    /// The same, with each change told as it is found: a million of them as a list are 100 MB.
    pub fn apply_each(&mut self, event: Event, told: impl FnMut(Change)) {
        self.handle(event);
        self.finish(told);
    }

    /// Several events as one: only what is different after all of them is answered.
    pub fn apply_all(&mut self, events: Vec<Event>) -> Vec<Change> {
        for event in events {
            self.handle(event);
        }
        self.finished()
    }

    fn finished(&mut self) -> Vec<Change> {
        let mut changes = Vec::with_capacity(self.log.len() + self.repeated.len());
        self.finish(|change| changes.push(change));
        changes
    }

    /// What these events would change. The same code, on a snapshot.
    pub fn preview(&self, events: Vec<Event>) -> Vec<Change> {
        self.snapshot().apply_all(events)
    }

    /// An engine of its own that shares with this one what neither changes.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        self.clone()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Load(rows) => {
                self.loading = true;
                self.commit(rows);
            }
            Event::Loaded => self.loaded(),
            // Nothing is decided on a part of what is stored.
            _ if self.loading => {}
            Event::Commit(rows) => self.commit(rows),
            Event::NodeStates(states) => self.set_states(states),
            Event::NodePressure { hostname, pressed } => self.set_pressure(&hostname, pressed),
            Event::Shed(shed) => self.shed(&shed),
            Event::Confirmed { hostname, revision } => self.confirmed(&hostname, revision),
            Event::Refused(changes) => self.refused(changes),
            Event::Settings(settings) => self.set_settings(settings),
            Event::Tick { now_ms } => self.tick(now_ms),
        }
    }

    /// Groups and places what an event collected.
    fn settle(&mut self) {
        if self.is_frozen() {
            for s in std::mem::take(&mut self.batch) {
                if self.slot(s).has(PENDING) {
                    self.set_flag(s, PENDING, false);
                    self.wait(s);
                }
            }
            return;
        }
        self.regroup();
        self.place_batch();
        if std::mem::take(&mut self.retry_now) {
            self.refresh_tree();
            self.retry_waiting();
        }
    }

    fn tick(&mut self, now_ms: u64) {
        let elapsed = now_ms.saturating_sub(self.now_ms);
        self.now_ms = self.now_ms.max(now_ms);
        self.budgets.refill(&self.settings, self.streams, elapsed);
        self.expire_flights();
        if self.is_frozen() || self.settled == self.epoch && !self.tick_wanted() {
            return;
        }
        if self.classes.classes_dead > CLASSES_DEAD_MAX {
            self.classes.recycle();
        }
        if self.classes.node_classes.len() > CLASSES_DEAD_MAX as usize + 2 * self.nodes.len() {
            self.reclass_all();
        }
        self.refresh_tree();
        self.retry_units();
        let mut left_over = self.retry_waiting();
        left_over |= self.restore();
        if self.is_calm() && !left_over {
            self.find_promoted();
            left_over |= self.upgrade();
            left_over |= self.rebalance();
        } else {
            left_over = true;
        }
        let unfinished = left_over || self.tick_wanted();
        self.settled = if unfinished { 0 } else { self.epoch };
    }

    /// Whether a tick now, and not only when the interval is over, would help somebody.
    pub fn tick_wanted(&self) -> bool {
        !self.is_frozen()
            && (!self.gained.is_empty() && self.waiting > 0
                || self.partial.values().any(|epoch| *epoch != self.gain_epoch))
    }

    fn refused(&mut self, changes: Vec<Change>) {
        for change in changes {
            let Some(ingest) = self.streams_by_name.get(&change.stream).copied() else {
                continue;
            };
            let revision = self.rows.get(ingest).revision();
            let to = change.to.as_ref().and_then(|host| self.hosts.get(host));
            let still = match (&change.to, to) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(_), Some(node)) => self
                    .ring(ingest)
                    .into_iter()
                    .any(|s| self.slot(s).kind() == change.kind && self.slot(s).node == *node),
            };
            // A newer row was answered when it came.
            if revision <= change.revision && still {
                self.repeated.push(Change { revision, ..change });
            }
        }
    }

    // ---- what an event changed ----

    /// Writes down where a slot is, the first time it is about to move in this event.
    fn note(&mut self, s: u32, why: Why) {
        self.note_at(s, self.slot(s).node, why);
    }

    fn note_at(&mut self, s: u32, node: u32, why: Why) {
        let slot = *self.slot(s);
        if slot.has(UNIT) {
            if let Some(unit) = self.units.get(&s).cloned() {
                for member in &unit.members {
                    let node = if member.active { node } else { NONE };
                    self.note_at(member.ingest, node, why);
                }
            }
        } else if !slot.has(NOTED) {
            self.set_flag(s, NOTED, true);
            self.log.push((s, node, why));
        }
    }

    /// Writes down what the row says, in place of what the engine thought.
    fn note_row(&mut self, s: u32, node: u32, why: Why) {
        if self.slot(s).has(NOTED) {
            let noted = self.log.iter_mut().rev().find(|(slot, ..)| *slot == s);
            if let Some(noted) = noted {
                noted.1 = node;
            }
        } else {
            self.note_at(s, node, why);
        }
    }

    /// Tells what is different from before the event.
    fn finish(&mut self, mut told: impl FnMut(Change)) {
        if self.loading {
            return;
        }
        let mut log = std::mem::take(&mut self.log);
        if log.len() > LOG_IN_ORDER_MAX {
            log.sort_unstable();
        }
        for (i, &(s, from, why)) in log.iter().enumerate() {
            if i % FETCHED_TOGETHER == 0 {
                let some = &log[i..log.len().min(i + FETCHED_TOGETHER)];
                self.fetch_names(some.iter().map(|(s, ..)| *s));
            }
            self.set_flag(s, NOTED, false);
            let slot = *self.slot(s);
            let to = slot.node;
            if from == to {
                continue;
            }
            let ingest = self.ingest_of(s);
            if !self.slot(ingest).has(LIVE) {
                // The stream is gone, and its row with it.
                continue;
            }
            let Some(stream) = self.names.get(ingest).clone() else {
                continue;
            };
            // Where there was nothing, nothing is given up: only a move is in flight.
            if from != NONE && to != NONE {
                self.fly(s);
            }
            self.counters.changes[why as usize] += 1;
            if self.slot(ingest).has(ORIGIN_NOTED) {
                self.set_flag(ingest, ORIGIN_NOTED, false);
            }
            let host = |n: u32| (n != NONE).then(|| self.node(n).hostname.clone());
            told(Change {
                stream,
                kind: slot.kind(),
                from: host(from),
                to: host(to),
                why,
                failover_from: self.failover_from(ingest).cloned(),
                revision: self.rows.get(ingest).revision(),
            });
        }
        for (s, before) in std::mem::take(&mut self.origins_noted) {
            if !self.slot(s).has(ORIGIN_NOTED) {
                continue;
            }
            self.set_flag(s, ORIGIN_NOTED, false);
            let Some(stream) = self.names.get(s).clone() else {
                continue;
            };
            if self.slot(s).has(LIVE) && self.stream_origin(s) != before {
                let node = self.slot(s).node;
                let host = (node != NONE).then(|| self.node(node).hostname.clone());
                told(Change {
                    stream,
                    kind: SlotKind::Ingest,
                    from: host.clone(),
                    to: host,
                    why: Why::Restore,
                    failover_from: self.failover_from(s).cloned(),
                    revision: self.rows.get(s).revision(),
                });
            }
        }
        self.repeated.drain(..).for_each(told);
        for s in std::mem::take(&mut self.freed) {
            *self.names.get_mut(s) = None;
            let next = std::mem::replace(&mut self.free_slots, s);
            *self.slot_mut(s) = Slot {
                next,
                ..Slot::default()
            };
        }
        for n in std::mem::take(&mut self.ghosts) {
            if self.node(n).buckets.is_empty() {
                self.free_nodes.insert(n);
            } else {
                self.ghosts.insert(n);
            }
        }
    }

    // ---- figures ----

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Slots that have no node.
    pub fn waiting_count(&self) -> u32 {
        self.waiting
    }

    pub fn in_flight_count(&self) -> u32 {
        self.in_flight
    }

    pub fn streams_count(&self) -> u32 {
        self.streams
    }

    pub fn stream_classes_count(&self) -> usize {
        self.classes.classes_count()
    }

    pub fn node_classes_count(&self) -> usize {
        self.classes.node_classes.len()
    }

    /// Same number, same layout.
    pub fn layout_hash(&self) -> u64 {
        let mut sum = 0u64;
        for s in 0..self.slots.len() as u32 {
            let slot = self.slot(s);
            if slot.has(LIVE) && !slot.has(UNIT) && slot.node != NONE {
                let host = xxhash_rust::xxh3::xxh3_64(self.node(slot.node).hostname.as_bytes());
                // Backups of a stream are a set.
                let order = self.order_of(self.ingest_of(s)) ^ slot.kind() as u64;
                sum = sum.wrapping_add(mix(order ^ mix(host)));
            }
        }
        sum
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}
