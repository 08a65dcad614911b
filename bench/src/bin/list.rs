//! Lists of a large cluster: pages by name, filters, searches and orders. Measures the whole answer
//! in one slice.
//!
//! `cargo run --release -p weir-bench --bin list -- [STREAMS]`

use std::time::{Duration, Instant};

use weir::testing::agents::Registry;
use weir::testing::api::stream::{Around, KIND, Streams};
use weir::testing::fleet::FleetStats;
use weir::testing::query::{Execution, Query};
use weir_bench::{measure, size, world};

fn main() {
    let streams = size(1_000_000);
    let state = world::state(streams, streams.div_ceil(world::STREAMS_PER_NODE));
    println!("{streams} streams, all reported");
    let now = Instant::now();
    let presences = Registry::default();
    let fleet = FleetStats::new(Duration::from_mins(1), now);
    for node in 0..streams.div_ceil(world::STREAMS_PER_NODE) {
        world::report(&fleet, node, streams, now);
    }
    let host = world::host(0);
    let stamp = 1_700_000_000_000 + streams as u64 - 10;
    for (raw, calls) in [
        (String::new(), 50),
        ("limit=10".to_owned(), 500),
        ("select=name".to_owned(), 50),
        ("name=site-0001/camera-00000001".to_owned(), 1000),
        (format!("layout.ingest={host}"), 20),
        (format!("updated_at_gt={stamp}"), 500),
        ("labels.zone=z7".to_owned(), 1),
        ("inputs.url_like=17:554/stream00000007".to_owned(), 1),
        ("q=camera%2000000007".to_owned(), 1),
        ("sort=-updated_at".to_owned(), 1),
        ("sort=-title,name".to_owned(), 1),
        ("sort=-stats.bitrate".to_owned(), 1),
        ("stats.bitrate_gt=9990".to_owned(), 1),
        ("stats.status=error".to_owned(), 1),
        ("health=outage&limit=1".to_owned(), 1),
        ("health=degradated&limit=1&select=name".to_owned(), 1),
        ("placed=false&limit=1".to_owned(), 1),
    ] {
        let query = Query::parse(&raw, &KIND, &[]).expect("a query");
        measure(&format!("?{raw}"), calls, || {
            let around = Around {
                state: &state,
                fleet: fleet.view(now),
                presences: &presences,
            };
            let streams = Streams::new(&state, Some(around));
            Execution::new(&query).run(&streams).items
        });
    }
}
