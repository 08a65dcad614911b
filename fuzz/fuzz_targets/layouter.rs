//! Any sequence of events, with a writer that is late: every promise of the layouter is computed again from outside after each of them, and in the end it comes to
//! rest.
#![no_main]

#[path = "../../src/layouter/engine/tests/ops.rs"]
#[allow(dead_code)]
mod ops;
#[path = "../../tests/sim/random.rs"]
mod random;

use libfuzzer_sys::fuzz_target;
use weir::layouter;
use weir::state::name as names;

fuzz_target!(|data: &[u8]| {
    let mut random = random::Random::Bytes(data);
    let settings = if random.once_in(2) {
        ops::settings(&mut random)
    } else {
        layouter::Settings::default()
    };
    let mut world = ops::World::new(settings);
    while !random.is_empty() {
        let op = ops::Op::random(&mut random);
        world.step(&op);
    }
    world.settle();
});
