//! The layouter: where each stream runs.
//!
//! A pure engine: [`Engine::apply`] takes an event and answers the changes of layout that follow from it. No clock (time is told by events), no
//! I/O, no randomness: the same events give the same layout.

pub mod event;
pub mod health;
pub mod intake;
pub mod pressure;

pub use event::{
    Balance, Change, DvrSpec, Event, NodeRole, NodeSpec, NodeState, Reasons, Rows, Settings, Shed,
    ShedTarget, SlotKind, StoredLayout, StreamLayout, StreamSpec, Why,
};
