//! The pure engine: [`Engine::apply`] takes an event and returns the changes of layout that follow
//! from it.
//!
//! No clock (time comes with events), no I/O, no randomness: the same events give the same layout.

pub mod event;
pub mod reason;
pub mod settings;

mod balance;
mod better;
mod budget;
mod chain;
#[cfg(any(test, feature = "testing"))]
mod check;
mod class;
mod counts;
mod cow;
mod demand;
mod drain;
mod explain;
mod flight;
mod hold;
mod index;
mod legality;
mod lists;
mod loads;
mod log;
mod node;
mod nodes;
mod overload;
mod pins;
mod place;
mod pool;
mod pools;
mod promote;
mod restore;
mod rows;
mod slice;
mod slot;
mod tree;
mod units;
mod waiting;

#[cfg(test)]
mod tests;

pub use better::MoveObstacle;
pub use drain::{DrainProgress, MOVES_PER_EVENT_MAX};
use event::{EngineSettings, Event, LayoutChange};
pub use explain::{Capacity, ClassReport, NodeDecision, SlotCounts};

use balance::Improving;
use budget::Budgets;
use class::Classes;
use drain::Drains;
use flight::Flights;
use index::NodeIndex;
use lists::PlacementQueue;
use log::MoveLog;
use node::Cluster;
use overload::Overloaded;
use restore::Origins;
use slice::WorkSlice;
use slot::{PENDING, SlotTable};
use units::Units;

/// Unused classes that trigger a clean-up.
const CLASSES_DEAD_MAX: u32 = 1024;

/// Ticks of work that was left over, in one call.
const SLICES_MAX: usize = 1000;

/// Detects ticks that have nothing to do.
#[derive(Clone)]
struct Progress {
    /// Incremented by every change of a layout.
    epoch: u64,
    /// `epoch` after the last tick that left nothing to do; 0 if it did.
    settled: u64,
}

/// The engine. Cloning it is cheap (see `cow`), which makes previews cheap.
#[derive(Clone)]
pub struct Engine {
    settings: EngineSettings,
    now_ms: u64,
    loading: bool,
    table: SlotTable,
    cluster: Cluster,
    index: NodeIndex,
    classes: Classes,
    units: Units,
    queue: PlacementQueue,
    origins: Origins,
    drains: Drains,
    overload: Overloaded,
    improving: Improving,
    flights: Flights,
    budgets: Budgets,
    progress: Progress,
    slice: WorkSlice,
    log: MoveLog,
}

impl Engine {
    pub fn new(settings: EngineSettings) -> Self {
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
            drains: Drains::default(),
            overload: Overloaded::default(),
            improving: Improving::default(),
            flights: Flights::default(),
            budgets,
            progress: Progress {
                epoch: 1,
                settled: 0,
            },
            slice: WorkSlice::new(),
            log: MoveLog::default(),
        }
    }

    /// An empty engine with the clock and the budgets of another one, whose rows it is to load.
    #[must_use]
    pub fn restarted(&self, settings: EngineSettings) -> Self {
        Self {
            now_ms: self.now_ms,
            budgets: self.budgets.clone(),
            ..Self::new(settings)
        }
    }

    /// Applies an event; returns the changes that follow from it.
    pub fn apply(&mut self, event: Event) -> Vec<LayoutChange> {
        self.handle(event);
        self.finished()
    }

    /// Like `apply`, but emits one change at a time: a list of a million takes 100 MB.
    pub fn apply_each(&mut self, event: Event, emit: impl FnMut(LayoutChange)) {
        self.handle(event);
        self.finish(emit);
    }

    /// Applies several events as one, with all the work that they leave over: only the net changes
    /// are returned.
    pub fn apply_all(&mut self, events: Vec<Event>) -> Vec<LayoutChange> {
        for event in events {
            self.handle(event);
        }
        for _ in 0..SLICES_MAX {
            if !self.has_work_left() {
                break;
            }
            let now_ms = self.now_ms;
            self.handle(Event::Tick { now_ms });
        }
        self.finished()
    }

    fn finished(&mut self) -> Vec<LayoutChange> {
        let mut changes = Vec::with_capacity(self.log.moved.len());
        self.finish(|change| changes.push(change));
        changes
    }

    /// An independent copy that shares unchanged data with this engine.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        self.clone()
    }

    fn handle(&mut self, event: Event) {
        self.slice.renew();
        match event {
            Event::Load(rows) => {
                self.loading = true;
                self.commit(rows);
            }
            Event::Loaded => self.loaded(),
            Event::HoldPlacement(held) => self.hold_placement(held),
            // Nothing is decided before all rows are loaded.
            _ if self.loading => {}
            Event::Commit(rows) => self.commit(rows),
            Event::NodeStates(states) => self.set_states(states),
            Event::NodePressure { hostname, pressed } => self.set_pressure(&hostname, pressed),
            Event::Shed(shed) => self.shed(&shed),
            Event::Confirmed { hostname, revision } => self.confirmed(&hostname, revision),
            Event::Settings(settings) => self.set_settings(settings),
            Event::Drain { now_ms, utc_ms } => self.drain(now_ms, utc_ms),
            Event::CopiesRun { hostname, streams } => self.copies_run(&hostname, &streams),
            Event::Tick { now_ms } => self.tick(now_ms),
        }
    }

    /// Forms units and places the batch of an event.
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
        self.hold_first_placements();
        self.place_batch();
        if std::mem::take(&mut self.queue.retry_now) {
            self.refresh_tree();
            self.retry_waiting();
            self.place_batch();
        }
        if !self.overload.nodes.is_empty() {
            self.refresh_tree();
            self.relieve_overloaded();
        }
    }

    fn advance_clock(&mut self, now_ms: u64) {
        let elapsed = now_ms.saturating_sub(self.now_ms);
        self.now_ms = self.now_ms.max(now_ms);
        self.budgets
            .refill(&self.settings, self.table.streams, elapsed);
    }

    fn tick(&mut self, now_ms: u64) {
        self.advance_clock(now_ms);
        self.expire_flights();
        let is_cut = std::mem::take(&mut self.slice.is_cut);
        let is_settled = self.progress.settled == self.progress.epoch && !is_cut;
        if self.is_frozen() || is_settled && !self.tick_wanted() {
            return;
        }
        if self.classes.classes_dead > CLASSES_DEAD_MAX {
            self.classes.recycle();
        }
        let unused_max = CLASSES_DEAD_MAX as usize;
        if self.classes.node_classes.len() > unused_max + 2 * self.cluster.nodes.len()
            || self.classes.eligible.all.len() > unused_max + 2 * self.classes.classes_count()
        {
            self.reclass_all();
        }
        self.refresh_tree();
        self.retry_units();
        let mut left_over = self.retry_waiting();
        self.place_batch();
        self.relieve_overloaded();
        if self.settings.improves {
            left_over |= self.improve(left_over);
        }
        let unfinished = left_over || self.tick_wanted();
        self.progress.settled = if unfinished { 0 } else { self.progress.epoch };
    }

    /// Moves slots that could stay. Returns whether some were left for the next tick.
    fn improve(&mut self, left_over: bool) -> bool {
        let mut left_over = self.restore() || left_over;
        if self.optional_moves_allowed() && !left_over {
            self.find_promoted();
            left_over |= self.upgrade();
            left_over |= self.rebalance();
        } else {
            left_over = true;
        }
        left_over
    }

    /// Whether a tick should run now instead of at the end of the interval: waiting slots may fit.
    pub fn tick_wanted(&self) -> bool {
        !self.is_frozen()
            && (self.slice.is_cut
                || !self.queue.gained.is_empty() && self.queue.waiting > 0
                || self
                    .units
                    .partial
                    .values()
                    .any(|epoch| *epoch != self.queue.gain_epoch))
    }

    pub fn settings(&self) -> &EngineSettings {
        &self.settings
    }

    /// Slots without a node.
    pub fn waiting_count(&self) -> u32 {
        self.queue.waiting
    }

    #[cfg(test)]
    pub fn in_flight_count(&self) -> u32 {
        self.flights.count
    }

    #[cfg(any(test, feature = "testing"))]
    pub fn streams_count(&self) -> u32 {
        self.table.streams
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self::new(EngineSettings::default())
    }
}
