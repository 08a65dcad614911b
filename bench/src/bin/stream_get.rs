//! Reading one stream: looking it up in a large state and writing it as JSON.
//!
//! `cargo run --release -p weir-bench --bin stream_get -- [STREAMS]`

use std::time::{Duration, Instant};

use weir::testing::agents::Registry;
use weir::testing::api::stream::{Around, render};
use weir::testing::fleet::FleetStats;
use weir_bench::{measure, size, world};

fn main() {
    let streams = size(1_000_000);
    let state = world::state(streams, streams.div_ceil(world::STREAMS_PER_NODE));
    let hot = world::name(streams / 2);
    let record = state.stream(&hot).expect("it is there").clone();
    println!(
        "{streams} streams, records of {} bytes",
        record.bytes().len()
    );
    measure("look up, hot", 100_000, || state.stream(&hot).is_some());
    let cold: Vec<String> = (0..100_000)
        .map(|i: usize| world::name(i.wrapping_mul(0x9E37_79B9) % streams))
        .collect();
    let mut next = 0;
    measure("look up, somewhere", 100_000, || {
        next = (next + 1) % cold.len();
        state.stream(&cold[next]).is_some()
    });
    for (name, masked) in [("render", false), ("render, masked (no secrets)", true)] {
        measure(name, 20_000, || {
            let mut body = Vec::new();
            render(&record, masked, None, &mut body);
            body.len()
        });
    }
    let (now, presences) = (Instant::now(), Registry::default());
    let fleet = FleetStats::new(Duration::from_mins(10), now);
    for node in 0..streams.div_ceil(world::STREAMS_PER_NODE) {
        world::report(&fleet, node, streams, now);
    }
    let around = Around {
        state: &state,
        fleet: fleet.view(now),
        presences: &presences,
    };
    measure("render with its report", 20_000, || {
        let mut body = Vec::new();
        render(&record, false, Some(around), &mut body);
        body.len()
    });
    measure(
        "look up somewhere and render with its report",
        20_000,
        || {
            next = (next + 1) % cold.len();
            let stream = state.stream(&cold[next]).expect("it is there");
            let mut body = Vec::new();
            render(stream, false, Some(around), &mut body);
            body
        },
    );
    measure("look up somewhere and render", 20_000, || {
        next = (next + 1) % cold.len();
        let mut body = Vec::new();
        render(
            state.stream(&cold[next]).expect("it is there"),
            false,
            None,
            &mut body,
        );
        body
    });
}
