//! What a stream costs in memory, its indexes included. The goal is at most 1.5 KB at 1,000,000
//! streams.
//!
//! `cargo run --release -p weir-bench --bin memory -- [STREAMS]`

use weir_bench::{alloc, size, world};

fn main() {
    let streams = size(1_000_000);
    let nodes = streams.div_ceil(world::STREAMS_PER_NODE);
    let record = world::Records::default().record(streams - 1, nodes);
    println!(
        "{streams} streams on {nodes} nodes, records of {} bytes",
        record.bytes().len()
    );
    let (live, resident) = (alloc::counts().live, alloc::resident());
    let loader = world::loader(streams, nodes);
    let show = |what: &str| {
        let per_stream = |now: u64, before: u64| now.saturating_sub(before) as f64 / streams as f64;
        println!(
            "{what:<30} {:>8.0} bytes requested, {:>8.0} bytes resident, per stream",
            per_stream(alloc::counts().live, live),
            per_stream(alloc::resident(), resident),
        );
    };
    show("records and names");
    let state = loader.finish(world::marks());
    show("with indexes");
    assert_eq!(state.streams_count(), streams);
}
