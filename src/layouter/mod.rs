//! The layouter: where each stream runs.
//!
//! A pure engine: [`Engine::apply`] takes an event and answers the changes of layout that follow from it. No clock (time is told by events), no I/O, no
//! randomness: the same events give the same layout.
//!
//! ```text
//! a slot           one part of a stream that needs a node: its ingest, each DVR backup, its inference                        slots, units
//! classes          slots that want the same and nodes that offer the same are judged once, not each with each              class, label
//! place            the coolest node with room of the best tier of the slot's class: a tournament over the nodes               place, tree
//! make room        nothing has room: the shortest chain of moves that frees a place; else the slot waits for a gain      chain, waiting
//! a node is lost   all it had is placed in an order that does not depend on names or arrival, and remembers where it was       nodes
//! a row            what the store says wins if it is legal; what was decided before and is not written yet is said again        rows
//! a tick           waiting, then coming back, then better labels, then balance; each within a budget        restore, balance, budget, flight
//! ```
//!
//! Nothing is ever computed anew from nothing: each event costs what it touches, and each move has a cause that can be named. The moves that merely
//! improve (`balance`) strictly improve, so that without events the layout comes to rest. While no streamer at all is left, nothing moves.
//!
//! What others do: deciding that a node is lost (`health`) or under pressure (`pressure`), time, writing what is answered (`run`).

pub mod controller;
pub mod engine;
pub mod health;
pub mod intake;
pub mod measured;
pub mod plan;
pub mod pressure;
pub mod tally;
pub mod thread;

pub use engine::event::{
    Balance, Change, DvrSpec, Event, NodeRole, NodeSpec, NodeState, Reasons, Rows, Settings, Shed,
    ShedTarget, SlotKind, StoredLayout, StreamLayout, StreamSpec, Why,
};
pub use engine::{Capacity, ClassReport, Decision, Engine, NodeReport, Survival, backups_of};
