//! Random operations; what fails is made as short as it can be before it is shown.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::layouter::{Event, Settings};
use super::ops::{Op, World, settings};
use super::random::Random;

const SEEDS: u64 = 2000;
const OPS: usize = 60;

fn story(seed: u64) -> (Settings, Vec<Op>) {
    let mut random = Random::seeded(seed);
    let settings = if random.once_in(2) {
        settings(&mut random)
    } else {
        Settings::default()
    };
    let ops = (0..OPS).map(|_| Op::random(&mut random)).collect();
    (settings, ops)
}

/// Runs a story to its end and back to rest.
fn tell(settings: &Settings, ops: &[Op]) {
    let mut world = World::new(settings.clone());
    for op in ops {
        world.step(op);
    }
    world.settle();
    for _ in 0..5 {
        world.now_ms += 30_000;
        let changes = world.apply(Event::Tick {
            now_ms: world.now_ms,
        });
        assert!(changes.is_empty(), "at rest it stays at rest");
    }
    if world.is_running() {
        world.engine.check_rest();
        let (restarted, changes) = world.restarted();
        let pressed = world.states.values().any(|(_, pressed)| *pressed);
        assert!(
            changes.iter().all(|change| change.from.is_none()),
            "nothing leaves its node at a restart: {changes:?}"
        );
        if !pressed && changes.is_empty() {
            assert_eq!(restarted.layout_hash(), world.engine.layout_hash());
        }
    }
}

fn fails(settings: &Settings, ops: &[Op]) -> bool {
    catch_unwind(AssertUnwindSafe(|| tell(settings, ops))).is_err()
}

/// Leaves out whatever is not needed to fail.
fn shrink(settings: &Settings, mut ops: Vec<Op>) -> Vec<Op> {
    let mut part = ops.len() / 2;
    while part > 0 {
        let mut at = 0;
        while at < ops.len() {
            let mut shorter = ops.clone();
            shorter.drain(at..(at + part).min(ops.len()));
            if fails(settings, &shorter) {
                ops = shorter;
            } else {
                at += part;
            }
        }
        part /= 2;
    }
    for at in 0..ops.len() {
        let mut i = 0;
        while let Op::SaveStreams(specs) | Op::SaveTogether(_, specs) = &ops[at]
            && specs.len() > 1
            && i < specs.len()
        {
            let mut fewer = specs.clone();
            fewer.remove(i);
            let mut smaller = ops.clone();
            smaller[at] = match &ops[at] {
                Op::SaveTogether(nodes, _) => Op::SaveTogether(nodes.clone(), fewer),
                _ => Op::SaveStreams(fewer),
            };
            if fails(settings, &smaller) {
                ops = smaller;
            } else {
                i += 1;
            }
        }
    }
    ops
}

#[test]
fn any_story_keeps_every_promise() {
    // Goal: constraints, sums, agents, previews, restart, rest. Method: random operations with a writer that is late; every promise is computed again
    // from outside after each.
    let only: Option<u64> = std::env::var("LAYOUTER_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let many = std::env::var("LAYOUTER_SEEDS").ok();
    let many = many.and_then(|many| many.parse().ok()).unwrap_or(SEEDS);
    let seeds = only.map_or(0..many, |seed| seed..seed + 1);
    for seed in seeds {
        let (settings, ops) = story(seed);
        if fails(&settings, &ops) {
            let loud = std::panic::take_hook();
            std::panic::set_hook(Box::new(|_| {}));
            let ops = shrink(&settings, ops);
            std::panic::set_hook(loud);
            println!("seed {seed}, LAYOUTER_SEED={seed} repeats it; {settings:?}");
            for op in &ops {
                println!("{op:?}");
            }
            tell(&settings, &ops);
        }
    }
}
