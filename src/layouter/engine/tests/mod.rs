//! Tests of the engine's invariants on many small clusters.

mod better;
mod calm;
mod cases;
mod cordon;
mod drain;
mod exact;
mod handover;
mod improving;
mod invariants;
mod pinned;
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

use self::layouter::{Engine, Event, NodeSpec, Rows, StreamSpec};

/// Commits rows and checks the engine.
fn save(engine: &mut Engine, nodes: Vec<NodeSpec>, streams: Vec<StreamSpec>) {
    engine.apply(Event::Commit(Rows {
        nodes,
        streams,
        ..Rows::default()
    }));
    engine.check();
}
