//! The writer's part of a PUT, without the disk: merge, validate, make the record, make the next
//! state.
//!
//! `cargo run --release -p weir-bench --bin apply -- [STREAMS]`

use weir::testing::state::State;
use weir::testing::state::apply::{Stamp, apply};
use weir::testing::state::command::Command;
use weir_bench::{measure_each, size, world};

fn main() {
    let streams = size(1_000_000);
    let nodes = streams.div_ceil(world::STREAMS_PER_NODE);
    for (kind, nodes) in [("not placed", 0), ("placed", nodes)] {
        println!("{streams} streams, {kind}");
        let mut state = world::state(streams, nodes);
        let mut number = 0usize;
        let mut round = 0usize;
        let mut saves = |edit: &'static str| {
            number = (number + 7919) % streams;
            round += 1;
            match edit {
                "title" => world::save(number, &format!(r#"{{"title":"{round}"}}"#)),
                "nothing" => world::save(0, &world::body(0)),
                _ => world::save(streams + round, &world::body(streams + round)),
            }
        };
        for edit in ["title", "nothing", "new stream"] {
            let calls = 2000.min(streams);
            measure_each(
                &format!("save: {edit}"),
                calls,
                || saves(edit),
                |command| save(&mut state, command),
            );
        }
    }
}

/// One command as a batch of its own, published.
fn save(state: &mut State, command: Command) -> State {
    let stamp = Stamp {
        revision: state.revision() + 1,
        ms: state.stamp_ms() + 1,
    };
    let mut next = state.clone();
    let changes = apply(&next, command, stamp).expect("it fits");
    if !changes.is_empty() {
        next.absorb(&changes);
    }
    std::mem::replace(state, next)
}
