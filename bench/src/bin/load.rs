//! The end of a start: indexes and nodes' views out of all records, which are read already.
//!
//! `cargo run --release -p weir-bench --bin load -- [STREAMS]`

use weir_bench::{once, size, world};

fn main() {
    let streams = size(1_000_000);
    for (kind, nodes) in [
        ("placed", streams.div_ceil(world::STREAMS_PER_NODE)),
        ("not placed", 0),
    ] {
        let loader = world::loader(streams, nodes);
        let state = once(&format!("{streams} streams, {kind}"), || {
            loader.finish(world::marks())
        });
        assert_eq!(state.streams_count(), streams);
    }
}
