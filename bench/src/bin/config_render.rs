//! What a streamer with many streams costs: the whole list, the list compressed once, the question
//! whether anything changed, a delta of one.
//!
//! `cargo run --release -p weir-bench --bin config_render -- [STREAMS OF THE NODE]`

use std::sync::Arc;

use weir::testing::api::config_external::{Etag, delta, render_whole};
use weir::testing::feed::NodeTable;
use weir::testing::http::Coding;
use weir::testing::state::apply::{Stamp, apply};
use weir::testing::state::name::Hostname;
use weir_bench::{measure, once, size, world};

fn main() {
    let streams = size(1000);
    let mut state = world::state(streams, 1);
    let hostname = Hostname::trusted(&world::host(0));
    let before = state.revision();
    let command = world::save(streams / 2, r#"{"title":"changed"}"#);
    let stamp = Stamp {
        revision: before + 1,
        ms: state.stamp_ms() + 1,
    };
    let changes = apply(&state, command, stamp).expect("it fits");
    state.absorb(&changes);
    let node = state.node(&hostname).expect("it is there").clone();

    let body = render_whole(&state, &hostname, &node).expect("consistent");
    println!("{streams} streams, {} bytes", body.len());
    measure("whole list", 20, || render_whole(&state, &hostname, &node));
    measure("delta of one", 200, || {
        delta(&state, &hostname, &node, before, usize::MAX).expect("it is known")
    });
    let etag = Etag::of(&state, node.generation).text(None);
    let nodes = NodeTable::new(1 << 30);
    measure("nothing changed (304): node and tag", 100_000, || {
        let node = state.node(&hostname).expect("it is there");
        nodes.get(&hostname).activity.seen(1);
        let tag = Etag::of(&state, node.generation);
        assert!(tag.is_among(etag.as_bytes()));
        tag.text(None)
    });
    let runtime = nodes.get(&hostname);
    let get = |coding| {
        let render = || render_whole(&state, &hostname, &node);
        let body = nodes.configuration(&runtime, node.generation, coding, render);
        body.expect("consistent")
    };
    measure("whole list, rendered already", 100_000, || get(None));
    for coding in [Coding::Gzip, Coding::Zstd] {
        let name = format!("compressed once: {}", coding.as_str());
        let (_, body): (_, Arc<[u8]>) = once(&name, || get(Some(coding)));
        println!("{:<44} {:>12} bytes", "", body.len());
    }
}
