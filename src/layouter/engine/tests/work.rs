//! The work of the engine grows with the cluster and not with its square.

use std::sync::Arc;

use super::layouter::{Engine, Event, NodeSpec, NodeState, Rows, StreamSpec};

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

#[test]
fn no_event_works_longer_than_a_slice_and_a_search() {
    // Goal: a loss never waits behind a long search. Method: a cluster without room loses a node
    // whose streams all differ in size and labels, so that each is searched for by itself.
    let mut engine = wishes(10, 4000, 1000);
    let mut specs: Vec<StreamSpec> = (0..4000).map(wishing).collect();
    for (s, spec) in specs.iter_mut().enumerate() {
        spec.kbps = Some(5000 - s as u32);
    }
    engine.apply(streams(specs));
    let full = |n: usize| NodeSpec {
        channel_limit: 400,
        bandwidth_kbps: Some(1_500_000),
        ..wished_for(n, 10, 4000)
    };
    engine.apply(Event::Commit(Rows {
        nodes: (0..10).map(full).collect(),
        ..Rows::default()
    }));
    let mut most = 0;
    let mut measured = |engine: &mut Engine, event: Event| {
        let before = engine.work();
        engine.apply(event);
        most = most.max(engine.work() - before);
    };
    let lost = NodeState::Down;
    measured(
        &mut engine,
        Event::NodeStates(vec![(full(0).hostname, lost)]),
    );
    let mut slices = 0;
    for tick in 0..1000 {
        if !engine.has_work_left() && tick > 10 {
            break;
        }
        slices += u32::from(engine.has_work_left());
        measured(
            &mut engine,
            Event::Tick {
                now_ms: 30_000 * (tick + 1),
            },
        );
    }
    engine.check();
    assert!(!engine.has_work_left(), "it comes to rest");
    assert_eq!(engine.waiting_count(), 400, "there is no room");
    assert!(slices > 0, "the work is cut, longest event: {most}");
    assert!(most < 300_000, "longest event: {most}");
}
