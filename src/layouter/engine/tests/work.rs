//! The work of the engine grows with the cluster and not with its square.

use std::sync::Arc;

use super::layouter::{Engine, Event, NodeSpec, Rows, StreamSpec};

fn pair(key: &str, value: &str) -> (Arc<str>, Arc<str>) {
    (Arc::from(key), Arc::from(value))
}

fn streams(streams: Vec<StreamSpec>) -> Event {
    Event::Commit(Rows {
        streams,
        ..Rows::default()
    })
}

/// A node with the labels of every stream whose number is `n`, modulo `nodes`.
fn wished_for(n: usize, nodes: usize, streams: usize) -> NodeSpec {
    let mine = (n..streams).step_by(nodes);
    NodeSpec {
        labels: mine.map(|s| pair(&format!("wish{s}"), "1")).collect(),
        ..NodeSpec::streamer(&format!("node{n:05}"), (2 * streams / nodes) as u32)
    }
}

fn wishing(s: usize) -> StreamSpec {
    StreamSpec {
        labels: vec![pair(&format!("preferred.wish{s}"), "1")],
        ..StreamSpec::new(&format!("stream{s:05}"))
    }
}

/// An engine whose streams each prefer a label of their own, which one of the nodes carries;
/// the streams come in batches.
fn wishes(nodes: usize, count: usize, batch: usize) -> Engine {
    let mut engine = Engine::default();
    engine.apply(Event::Commit(Rows {
        nodes: (0..nodes).map(|n| wished_for(n, nodes, count)).collect(),
        ..Rows::default()
    }));
    let all: Vec<usize> = (0..count).collect();
    for some in all.chunks(batch) {
        engine.apply(streams(some.iter().copied().map(wishing).collect()));
    }
    engine
}

#[test]
fn own_preferred_labels_cost_linear_work() {
    for batch in [1, 1000] {
        let works = [500, 1000, 2000].map(|count| {
            let engine = wishes(40, count, batch);
            for s in 0..count {
                let layout = engine.layout(&wishing(s).name).expect("it is known");
                let wanted = format!("node{:05}", s % 40);
                assert_eq!(layout.ingest.as_deref(), Some(&*wanted), "its wish is met");
            }
            engine.work()
        });
        assert!(works[2] < works[1] * 5 / 2, "batches of {batch}: {works:?}");
        assert!(works[1] < works[0] * 5 / 2, "batches of {batch}: {works:?}");
    }
}
