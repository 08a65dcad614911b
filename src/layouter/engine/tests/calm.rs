//! Few moves per stream and per hour; long chains; nodes that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::layouter::{
    Engine, EngineSettings, Event, MoveBudgets, MoveReason, NodeSpec, NodeState, PlacementRole,
    Rows, StoredLayout, StreamSpec,
};

fn pair(key: &str, value: &str) -> (Arc<str>, Arc<str>) {
    (Arc::from(key), Arc::from(value))
}

fn node(n: usize, channel_limit: u32) -> NodeSpec {
    NodeSpec::streamer(&format!("node{n:03}"), channel_limit)
}

fn stream(s: usize) -> StreamSpec {
    StreamSpec::new(&format!("stream{s:05}"))
}

fn commit(nodes: Vec<NodeSpec>, streams: Vec<StreamSpec>) -> Event {
    Event::Commit(Rows {
        nodes,
        streams,
        ..Rows::default()
    })
}

fn tick(seconds: u64) -> Event {
    Event::Tick {
        now_ms: seconds * 1000,
    }
}

fn ingest(engine: &Engine, s: usize) -> Option<String> {
    let layout = engine.layout(&stream(s).name).expect("it is known");
    layout.ingest.map(|host| host.to_string())
}

#[test]
fn chain_of_four_places_the_fifth_stream() {
    // Stream `i` may be on nodes `i` and `i + 1`, and is on `i`; the last one only on node 0.
    let with_labels = |n: usize| NodeSpec {
        labels: (n.saturating_sub(1)..=n)
            .map(|i| pair(&format!("p{i}"), "1"))
            .collect(),
        ..node(n, 1)
    };
    let mut nodes: Vec<NodeSpec> = (0..5).map(with_labels).collect();
    nodes[0].labels.push(pair("first", "1"));
    let on = |i: usize| StreamSpec {
        labels: vec![pair(&format!("required.p{i}"), "1")],
        layout: StoredLayout {
            ingest: Some(node(i, 1).hostname),
            by_layouter: true,
            ..StoredLayout::default()
        },
        ..stream(i)
    };
    let mut engine = Engine::default();
    engine.apply(commit(nodes, (0..4).map(on).collect()));
    let last = StreamSpec {
        labels: vec![pair("required.first", "1")],
        ..stream(4)
    };
    engine.apply(commit(Vec::new(), vec![last]));
    engine.check();
    let hosts: Vec<_> = (0..5).map(|s| ingest(&engine, s)).collect();
    let expected = [1, 2, 3, 4, 0].map(|n| Some(format!("node{n:03}")));
    assert_eq!(hosts, expected);
}

#[test]
fn deletion_of_all_streamers_leaves_no_ingest() {
    let mut engine = Engine::default();
    let nodes: Vec<NodeSpec> = (0..3).map(|n| node(n, 400)).collect();
    engine.apply(commit(nodes, (0..1000).map(stream).collect()));
    for n in 0..3 {
        engine.apply(Event::Commit(Rows {
            nodes_deleted: vec![node(n, 0).hostname],
            ..Rows::default()
        }));
        engine.check();
    }
    let kept = (0..1000).filter(|s| ingest(&engine, *s).is_some()).count();
    assert_eq!(kept, 0, "streams with an ingest that does not exist");
    engine.apply(commit(vec![node(7, 2000)], Vec::new()));
    engine.check();
    assert_eq!(engine.waiting_count(), 0, "a new streamer takes them all");
}

#[test]
fn required_labels_bind_inference_too() {
    let infers = |n: usize, labels| NodeSpec {
        role: PlacementRole::Inference,
        labels,
        ..node(n, 10)
    };
    let gpu = vec![pair("gpu", "1")];
    let spec = StreamSpec {
        inference: true,
        labels: vec![pair("required.gpu", "1")],
        ..stream(0)
    };
    let streamer = NodeSpec {
        labels: gpu.clone(),
        ..node(0, 10)
    };
    let mut engine = Engine::default();
    engine.apply(commit(vec![streamer, infers(1, Vec::new())], vec![spec]));
    let inference = |engine: &Engine| {
        let layout = engine.layout(&stream(0).name).expect("it is known");
        layout.inference.map(|host| host.to_string())
    };
    assert_eq!(inference(&engine), None, "no node has the label");
    engine.apply(commit(vec![infers(2, gpu)], Vec::new()));
    assert_eq!(inference(&engine).as_deref(), Some("node002"));
    engine.check();
}

#[test]
fn restored_streams_are_left_alone_for_a_while() {
    let mut engine = Engine::default();
    let nodes: Vec<NodeSpec> = (0..2).map(|n| node(n, 200)).collect();
    engine.apply(commit(nodes, (0..200).map(stream).collect()));
    let host = node(0, 0).hostname;
    let is = |state| Event::NodeStates(vec![(host.clone(), state)]);
    engine.apply(is(NodeState::Down));
    engine.apply(is(NodeState::Up));
    let mut restored = BTreeSet::new();
    for step in 1..=4 {
        for change in engine.apply(tick(step * 30)) {
            assert_eq!(change.reason, MoveReason::Restore, "{change:?}");
            restored.insert(change.stream.to_string());
        }
    }
    assert_eq!(restored.len(), 100);
    // An empty node joins: it is filled, but not from those.
    engine.apply(commit(vec![node(2, 200)], Vec::new()));
    let mut moved = 0;
    for step in 5..=18 {
        for change in engine.apply(tick(step * 30)) {
            moved += 1;
            assert!(!restored.contains(&*change.stream), "{change:?}");
        }
    }
    assert!(moved > 10, "others move: {moved}");
}

#[test]
fn wishes_interrupt_few_streams_per_hour_and_each_once() {
    let settings = EngineSettings {
        budgets: MoveBudgets {
            improving_permille_per_hour: 100,
            ..MoveBudgets::default()
        },
        ..EngineSettings::default()
    };
    let mut engine = Engine::new(settings);
    let wish = |s: usize| StreamSpec {
        labels: vec![pair("preferred.zone", "north")],
        ..stream(s)
    };
    engine.apply(commit(vec![node(0, 4000)], (0..2000).map(wish).collect()));
    let north = NodeSpec {
        labels: vec![pair("zone", "north")],
        ..node(1, 4000)
    };
    engine.apply(commit(vec![north], Vec::new()));
    let mut moves: BTreeMap<String, u32> = BTreeMap::new();
    for step in 1..=60 {
        for change in engine.apply(tick(step * 30)) {
            *moves.entry(change.stream.to_string()).or_default() += 1;
        }
    }
    // A full hour's budget at the start, and half of one within half an hour.
    assert!((290..=300).contains(&moves.len()), "{}", moves.len());
    assert!(moves.values().all(|count| *count == 1), "one move each");
}
