//! Nothing new comes to a node in maintenance, and nothing there is sent away for it alone.

use std::sync::Arc;

use super::layouter::{DvrSpec, Engine, Event, NodeSpec, NodeState, Rows, StreamSpec};
use super::names::Hostname;
use super::save;

const CHANNELS: u32 = 10;

fn node(n: usize, cordoned: bool) -> NodeSpec {
    NodeSpec {
        cordoned,
        ..NodeSpec::streamer(&format!("s{n}"), CHANNELS)
    }
}

/// A stream that one agent sends, or none. `on`: the node in its row.
fn stream(name: &str, agent: &str, on: Option<usize>) -> StreamSpec {
    let mut spec = StreamSpec::new(name);
    if !agent.is_empty() {
        spec.agents = vec![Arc::from(agent)];
    }
    spec.layout.ingest = on.map(|n| node(n, false).hostname);
    spec
}

/// Two nodes with the streams in their rows; then the first is cordoned.
fn cordoned(streams: &[StreamSpec]) -> Engine {
    let mut engine = Engine::default();
    save(
        &mut engine,
        vec![node(1, false), node(2, false)],
        Vec::new(),
    );
    for spec in streams {
        save(&mut engine, Vec::new(), vec![spec.clone()]);
        assert_eq!(ingest(&engine, &spec.name), spec.layout.ingest.as_deref());
    }
    save(&mut engine, vec![node(1, true)], Vec::new());
    engine
}

/// Streams `a` and `b` of one agent: `a` is on the cordoned node, and the other one was full before
/// `b` was saved.
fn full_elsewhere() -> Engine {
    let mut engine = cordoned(&[stream("a", "x", Some(1))]);
    let full = (0..CHANNELS).map(|i| stream(&format!("o{i}"), "", Some(2)));
    let full: Vec<StreamSpec> = full.collect();
    save(&mut engine, Vec::new(), full);
    save(&mut engine, Vec::new(), vec![stream("b", "x", None)]);
    engine
}

fn ingest<'a>(engine: &Engine, name: &str) -> Option<&'a str> {
    let host = engine.layout(name).expect("it is known").ingest?;
    ["s1", "s2", "s3"]
        .into_iter()
        .find(|known| **known == *host)
}

fn settle(engine: &mut Engine) {
    for minutes in 1..10 {
        engine.apply(Event::Tick {
            now_ms: minutes * 900_000,
        });
        engine.check();
    }
}

#[test]
fn new_stream_of_an_agent_takes_the_others_off_a_cordoned_node() {
    let mut engine = cordoned(&[stream("a", "x", Some(1))]);
    save(&mut engine, Vec::new(), vec![stream("b", "x", None)]);
    for name in ["a", "b"] {
        assert_eq!(ingest(&engine, name), Some("s2"), "{name}");
    }
}

#[test]
fn group_meets_on_the_open_node_even_if_fewer_are_there() {
    let (a1, a2) = (stream("a1", "x", Some(1)), stream("a2", "x", Some(1)));
    let mut engine = cordoned(&[a1, a2, stream("b", "", Some(2))]);
    save(&mut engine, Vec::new(), vec![stream("b", "x", Some(2))]);
    for name in ["a1", "a2", "b"] {
        assert_eq!(ingest(&engine, name), Some("s2"), "{name}");
    }
}

#[test]
fn cordoned_node_keeps_a_group_that_is_edited() {
    let rows = ["a", "b", "c"].map(|name| stream(name, "x", Some(1)));
    let mut engine = cordoned(&rows);
    for name in ["a", "b"] {
        let mut edited = stream(name, "x", Some(1));
        edited.labels = vec![(Arc::from("title"), Arc::from("new"))];
        save(&mut engine, Vec::new(), vec![edited]);
    }
    let name = stream("c", "x", None).name;
    engine.apply(Event::Commit(Rows {
        streams_deleted: vec![name],
        ..Rows::default()
    }));
    settle(&mut engine);
    for name in ["a", "b"] {
        assert_eq!(ingest(&engine, name), Some("s1"), "{name}");
    }
}

#[test]
fn new_stream_waits_if_only_a_cordoned_node_has_room() {
    let mut engine = full_elsewhere();
    settle(&mut engine);
    assert_eq!(ingest(&engine, "a"), Some("s1"), "it stays on the air");
    assert_eq!(ingest(&engine, "b"), None);
    // An edit of either changes nothing, and room elsewhere takes both.
    save(&mut engine, Vec::new(), vec![stream("a", "x", Some(1))]);
    save(&mut engine, Vec::new(), vec![stream("b", "x", None)]);
    assert_eq!(
        (ingest(&engine, "a"), ingest(&engine, "b")),
        (Some("s1"), None)
    );
    save(&mut engine, vec![node(3, false)], Vec::new());
    settle(&mut engine);
    for name in ["a", "b"] {
        assert_eq!(ingest(&engine, name), Some("s3"), "{name}");
    }
}

#[test]
fn waiting_stream_joins_its_group_after_the_maintenance() {
    let mut engine = full_elsewhere();
    assert_eq!(ingest(&engine, "b"), None);
    save(&mut engine, vec![node(1, false)], Vec::new());
    settle(&mut engine);
    assert_eq!(
        (ingest(&engine, "a"), ingest(&engine, "b")),
        (Some("s1"), Some("s1"))
    );
}

#[test]
fn cordoned_node_gets_only_streams_that_it_has_copies_of() {
    // Goal: the last resort of an ingest, its backup on a node in maintenance, brings no others.
    for (second_has_copy, expected) in [(true, Some("s1")), (false, None)] {
        let with_copy = |name: &str, has_copy: bool| {
            let mut spec = stream(name, "x", Some(2));
            if has_copy {
                spec.dvr = Some(DvrSpec {
                    redundancy_factor: 2,
                    ..DvrSpec::default()
                });
                spec.layout.dvr_backups = vec![Hostname::trusted("s1")];
            }
            spec
        };
        let rows = vec![with_copy("a", true), with_copy("b", second_has_copy)];
        let mut engine = Engine::default();
        save(&mut engine, vec![node(1, false), node(2, false)], rows);
        let copies = engine.layout("a").expect("it is known").dvr_backups;
        assert_eq!(copies, [Hostname::trusted("s1")]);
        save(&mut engine, vec![node(1, true)], Vec::new());
        let lost = Hostname::trusted("s2");
        engine.apply(Event::NodeStates(vec![(lost, NodeState::Down)]));
        engine.check();
        settle(&mut engine);
        assert_eq!(ingest(&engine, "a"), Some("s1"), "it has the archive there");
        assert_eq!(ingest(&engine, "b"), expected);
    }
}
