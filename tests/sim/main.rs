//! Simulation: random operations and random misfortune against models that are too simple to be wrong.
//!
//! `crash` drives the state machine over a simulated disk from a seed; `served` drives the real binary over HTTP. Both speak the same
//! operations (`op`) and believe the same model (`model`).

mod crash;
mod model;
mod op;
mod random;
mod view;
