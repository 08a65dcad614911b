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

fn zone(n: usize, channel_limit: u32, zone: &str) -> NodeSpec {
    NodeSpec {
        labels: vec![pair("zone", zone)],
        ..node(n, channel_limit)
    }
}

fn wish(s: usize, zones: &[&str]) -> StreamSpec {
    let wishes = zones.iter().map(|zone| pair("preferred.zone", zone));
    StreamSpec {
        labels: wishes.collect(),
        ..stream(s)
    }
}

fn placed(spec: StreamSpec, n: usize, by_layouter: bool) -> StreamSpec {
    StreamSpec {
        layout: StoredLayout {
            ingest: Some(node(n, 1).hostname),
            by_layouter,
            ..StoredLayout::default()
        },
        ..spec
    }
}

fn hosts(engine: &Engine, streams: usize) -> Vec<Option<String>> {
    (0..streams).map(|s| ingest(engine, s)).collect()
}

fn on(nodes: &[usize]) -> Vec<Option<String>> {
    let host = |n: &usize| Some(format!("node{n:03}"));
    nodes.iter().map(host).collect()
}

#[test]
fn moved_stream_reaches_a_better_node_after_the_pause() {
    let mut engine = Engine::default();
    let spec = StreamSpec {
        labels: vec![
            pair("preferred.zone", "north"),
            pair("preferred.disk", "ssd"),
        ],
        ..stream(0)
    };
    engine.apply(commit(vec![node(0, 10)], vec![spec]));
    engine.apply(commit(vec![zone(1, 10, "north")], Vec::new()));
    engine.apply(tick(30));
    assert_eq!(hosts(&engine, 1), on(&[1]));
    let mut best = zone(2, 10, "north");
    best.labels.push(pair("disk", "ssd"));
    engine.apply(commit(vec![best], Vec::new()));
    for step in 2..=20 {
        engine.apply(tick(step * 30));
        assert_eq!(hosts(&engine, 1), on(&[1]), "{step}");
    }
    engine.apply(tick(630));
    assert_eq!(hosts(&engine, 1), on(&[2]));
    engine.check();
}

#[test]
fn operators_stream_moves_for_its_wish_but_not_for_balance() {
    let mut engine = Engine::default();
    let mut streams: Vec<StreamSpec> = (1..=40).map(|s| placed(stream(s), 0, false)).collect();
    streams.push(placed(wish(0, &["north"]), 0, false));
    engine.apply(commit(vec![node(0, 50)], streams));
    engine.apply(commit(vec![zone(1, 50, "north")], Vec::new()));
    let mut moved = Vec::new();
    for step in 1..=19 {
        moved.extend(engine.apply(tick(step * 30)));
    }
    assert_eq!(moved.len(), 1, "{moved:?}");
    assert_eq!(moved[0].reason, MoveReason::Preferred);
    assert_eq!(hosts(&engine, 1), on(&[1]));
    engine.apply(tick(630));
    let balanced = (1..=40).filter(|s| ingest(&engine, *s) == ingest(&engine, 0));
    assert!(
        balanced.count() > 5,
        "an operator's choice is kept ten minutes"
    );
    engine.check();
}

#[test]
fn operators_streams_swap_only_if_both_gain() {
    let nodes = || vec![zone(0, 1, "x"), zone(1, 1, "y")];
    for (other, expected) in [(wish(1, &["x"]), [1, 0]), (stream(1), [0, 1])] {
        let mut engine = Engine::default();
        let streams = vec![
            placed(wish(0, &["y"]), 0, false),
            placed(other.clone(), 1, false),
        ];
        engine.apply(commit(nodes(), streams));
        for step in 1..=19 {
            engine.apply(tick(step * 30));
        }
        assert_eq!(hosts(&engine, 2), on(&expected), "{other:?}");
        for step in 20..=22 {
            engine.apply(tick(step * 30));
        }
        assert_eq!(hosts(&engine, 2), on(&[1, 0]), "{other:?}");
        engine.check();
    }
}

#[test]
fn swap_waits_until_the_budget_has_two_moves() {
    let settings = EngineSettings {
        budgets: MoveBudgets {
            improving_permille_per_hour: 1,
            improving_moves_min: 3,
            ..MoveBudgets::default()
        },
        ..EngineSettings::default()
    };
    let mut engine = Engine::new(settings);
    let nodes = vec![zone(0, 2, "x"), zone(1, 2, "y")];
    let placed = |s, zone, n| placed(wish(s, &[zone]), n, true);
    let streams = vec![
        placed(0, "y", 0),
        placed(1, "y", 0),
        placed(2, "x", 1),
        placed(3, "x", 1),
    ];
    engine.apply(commit(nodes, streams));
    engine.apply(tick(30));
    let after_one = hosts(&engine, 4);
    assert_eq!(
        after_one
            .iter()
            .filter(|host| **host == on(&[0])[0])
            .count(),
        2
    );
    assert_ne!(
        after_one,
        on(&[1, 1, 0, 0]),
        "three moves an hour are one swap"
    );
    for step in 2..=60 {
        engine.apply(tick(step * 30));
    }
    assert_eq!(hosts(&engine, 4), on(&[1, 1, 0, 0]));
    engine.check();
}
