//! What-if queries: previews, verdicts about layouts, explanations and capacity.
//!
//! A worker thread answers them from a snapshot of the engine, so that they never delay the
//! layouter. Nothing here changes anything.

pub mod consequences;
pub mod explain;
pub mod preview;
pub mod snapshot;
pub mod worker;

pub mod assumed;
mod capacity;
mod pages;
mod verdicts;
