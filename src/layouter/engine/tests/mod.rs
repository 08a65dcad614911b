//! Tests of the engine's invariants on many small clusters.

mod calm;
mod cases;
mod cordon;
mod exact;
mod handover;
mod improving;
mod invariants;
mod small;
mod work;

#[path = "../../../../tests/sim/random.rs"]
mod random;

#[allow(
    clippy::redundant_pub_crate,
    reason = "also a module of the fuzz target"
)]
mod ops;

use crate::layouter;
use crate::state::name as names;
