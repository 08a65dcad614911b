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
mod index;
mod label;
mod legality;
mod lists;
mod log;
mod node;
mod nodes;
mod place;
mod restore;
mod rows;
mod slot;
mod tree;
mod units;
mod waiting;

#[cfg(test)]
mod tests;

pub use event::{
    Balance, Change, DvrSpec, Event, NodeRole, NodeSpec, NodeState, Reasons, Rows, Settings, Shed,
    ShedTarget, SlotKind, StoredLayout, StreamLayout, StreamSpec, Why,
};
pub use explain::{Capacity, ClassReport, Decision, NodeReport, Survival};
pub use rows::backups_of;

use balance::Improving;
use budget::Budgets;
use class::Classes;
use flight::Flights;
use index::NodeIndex;
use lists::PlacementQueue;
use log::MoveLog;
use node::Cluster;
use restore::Origins;
use slot::{PENDING, SlotTable};
use units::Units;

/// Classes without members that are worth a clean-up.
const CLASSES_DEAD_MAX: u32 = 1024;

/// What a tick has left to do.
#[derive(Clone)]
struct Progress {
    /// Counts every change of what is where; `settled` is its value when a tick last had nothing left to do.
    epoch: u64,
    settled: u64,
}

/// The engine. Cloning it is cheap (see `cow`).
#[derive(Clone)]
pub struct Engine {
    settings: Settings,
    now_ms: u64,
    loading: bool,
    table: SlotTable,
    cluster: Cluster,
    index: NodeIndex,
    classes: Classes,
    units: Units,
    queue: PlacementQueue,
    origins: Origins,
    improving: Improving,
    flights: Flights,
    budgets: Budgets,
    progress: Progress,
    log: MoveLog,
}

impl Engine {
    pub fn new(settings: Settings) -> Self {
        let budgets = Budgets::new(&settings, 0);
        Self {
            settings,
            now_ms: 0,
            loading: false,
            table: SlotTable::new(),
            cluster: Cluster::new(),
            index: NodeIndex::new(),
            classes: Classes::new(),
            units: Units::new(),
            queue: PlacementQueue::new(),
            origins: Origins::new(),
            improving: Improving::default(),
            flights: Flights::default(),
            budgets,
            progress: Progress {
                epoch: 1,
                settled: 0,
            },
            log: MoveLog::default(),
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
        let mut changes = Vec::with_capacity(self.log.moved.len());
        self.finish(|change| changes.push(change));
        changes
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
            Event::Settings(settings) => self.set_settings(settings),
            Event::Tick { now_ms } => self.tick(now_ms),
        }
    }

    /// Groups and places what an event collected.
    fn settle(&mut self) {
        if self.is_frozen() {
            for s in std::mem::take(&mut self.queue.batch) {
                if self.slot(s).has(PENDING) {
                    self.set_flag(s, PENDING, false);
                    self.wait(s);
                }
            }
            return;
        }
        self.regroup();
        self.place_batch();
        if std::mem::take(&mut self.queue.retry_now) {
            self.refresh_tree();
            self.retry_waiting();
        }
    }

    fn tick(&mut self, now_ms: u64) {
        let elapsed = now_ms.saturating_sub(self.now_ms);
        self.now_ms = self.now_ms.max(now_ms);
        self.budgets
            .refill(&self.settings, self.table.streams, elapsed);
        self.expire_flights();
        if self.is_frozen() || self.progress.settled == self.progress.epoch && !self.tick_wanted() {
            return;
        }
        if self.classes.classes_dead > CLASSES_DEAD_MAX {
            self.classes.recycle();
        }
        if self.classes.node_classes.len()
            > CLASSES_DEAD_MAX as usize + 2 * self.cluster.nodes.len()
        {
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
        self.progress.settled = if unfinished { 0 } else { self.progress.epoch };
    }

    /// Whether a tick now, and not only when the interval is over, would help somebody.
    pub fn tick_wanted(&self) -> bool {
        !self.is_frozen()
            && (!self.queue.gained.is_empty() && self.queue.waiting > 0
                || self
                    .units
                    .partial
                    .values()
                    .any(|epoch| *epoch != self.queue.gain_epoch))
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Slots that have no node.
    pub fn waiting_count(&self) -> u32 {
        self.queue.waiting
    }

    pub fn in_flight_count(&self) -> u32 {
        self.flights.count
    }

    pub fn streams_count(&self) -> u32 {
        self.table.streams
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}
