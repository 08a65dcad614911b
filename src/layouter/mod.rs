//! The layouter: places streams on nodes.
//!
//! Events go in, changes of layout come out. The engine is pure; the rest of the module gives it
//! health, measurements, time and a way to the store.
//!
//! ```text
//! slot        one placement need of a stream: ingest, DVR backup, inference    slot, lists, units
//! class       slots with equal demands, nodes with equal offers                class, label
//! placement   the least loaded node with room in the best tier of the pool     place, index, tree
//! make room   else the shortest chain of moves that frees a node               chain
//! waiting     else the slot waits until a node of its pool gains capacity      waiting
//! lost node   its slots are placed again and remember their origin             nodes, restore
//! row         a legal layout in a committed row wins over the engine's         rows
//! drain       a node is emptied by pace, copies first                      drain
//! tick        retry, fail-back, better labels, balance; each within a budget   balance, budget
//! ```
//!
//! Nothing is recomputed from scratch: an event costs what it touches, and every move has a reason.
//! Optional moves strictly improve the layout, so without events it reaches a fixed point. While no
//! streamer is running nothing moves.
//!
//! ```text
//! thread -> controller -> engine         channels and clock; health, plan and events; decisions
//!           controller -> health         which nodes can be relied on
//!           controller -> pressure       which nodes are short of CPU
//!           controller -> quarantine     which streams end their nodes
//!           controller -> measured       bitrates of streams that claim none
//!           controller -> intake         records become specs
//!           controller -> plan           decisions become batches for the writer
//!           controller -> handover       old nodes that keep streams until the new ones run them
//! whatif -> engine                       previews, explanations and capacity, on a snapshot
//! ```

pub(crate) mod controller;
mod engine;
pub(crate) mod handover;
mod health;
pub(crate) mod intake;
mod measured;
pub(crate) mod metrics;
mod plan;
mod pressure;
mod quarantine;
mod run_log;
pub(crate) mod thread;
pub(crate) mod whatif;

pub use engine::event::{
    Balance, DrainSpec, DvrSpec, EngineSettings, Event, LayoutChange, MoveReason, NodeSpec,
    NodeState, PlacementRole, Reasons, Rows, Shed, ShedTarget, SlotKind, StoredLayout,
    StreamLayout, StreamSpec,
};
pub use engine::reason::DecisionCounts;
pub use engine::settings::{MoveBudgets, Thresholds};
pub use engine::{
    Capacity, ClassReport, DrainProgress, Engine, MOVES_PER_EVENT_MAX, MoveObstacle, NodeDecision,
    SlotCounts,
};
