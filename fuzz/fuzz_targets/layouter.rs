//! Any sequence of operations, with a slow writer: all invariants of the engine are checked from a model after each of them, and in the end nothing moves any more.
#![no_main]

#[path = "../../src/layouter/engine/tests/ops.rs"]
#[allow(dead_code)]
mod ops;
#[path = "../../tests/sim/random.rs"]
mod random;

use libfuzzer_sys::fuzz_target;
use weir::testing::layouter;
use weir::testing::state::name as names;

fuzz_target!(|data: &[u8]| {
    let mut random = random::Random::Bytes(data);
    let settings = if random.once_in(2) {
        ops::settings(&mut random)
    } else {
        layouter::EngineSettings::default()
    };
    let mut world = ops::TestCluster::new(settings);
    while !random.is_empty() {
        let op = ops::ClusterOp::random(&mut random);
        world.step(&op);
    }
    world.settle();
});
