//! A node is charged for the streams that it keeps during a handover, whatever happens meanwhile.

use std::sync::Arc;

use super::layouter::{Engine, Event, NodeSpec, NodeState, StreamSpec};
use super::names::Hostname;
use super::save;

fn node(n: usize, channel_limit: u32) -> NodeSpec {
    let mut spec = NodeSpec::streamer(&format!("s{n}"), channel_limit);
    spec.labels = vec![(Arc::from("at"), Arc::from(format!("s{n}")))];
    spec
}

/// A stream with its node in the row.
fn stream(name: &str, on: usize) -> StreamSpec {
    let mut spec = StreamSpec::new(name);
    spec.layout.ingest = Some(node(on, 0).hostname);
    spec
}

/// A stream that only one node may have.
fn bound(name: &str, to: usize) -> StreamSpec {
    let mut spec = StreamSpec::new(name);
    spec.labels = vec![(Arc::from("required.at"), Arc::from(format!("s{to}")))];
    spec
}

fn moved(name: &str, from: usize, to: usize) -> StreamSpec {
    let mut spec = stream(name, to);
    spec.handover_from = Some(node(from, 0).hostname);
    spec
}

fn ingest(engine: &Engine, name: &str) -> Option<Hostname> {
    engine.layout(name).expect("it is known").ingest
}

/// The first node has room for two streams, `b`, which cannot leave it, and `a`, which moved away
/// and is kept.
fn keeping() -> Engine {
    let mut engine = Engine::default();
    let nodes = vec![node(1, 2), node(2, 10), node(3, 10)];
    save(&mut engine, nodes, vec![stream("a", 1), bound("b", 1)]);
    save(&mut engine, Vec::new(), vec![moved("a", 1, 2)]);
    engine
}

#[test]
fn stream_waits_for_the_room_of_one_that_is_kept() {
    let mut engine = keeping();
    save(&mut engine, Vec::new(), vec![bound("c", 1)]);
    assert_eq!(ingest(&engine, "c"), None, "two streams run there");
    save(&mut engine, Vec::new(), vec![stream("a", 2)]);
    assert_eq!(ingest(&engine, "c"), Some(node(1, 0).hostname));
}

#[test]
fn keeper_without_room_for_a_return_stays_charged() {
    let mut engine = keeping();
    save(&mut engine, vec![node(1, 1)], Vec::new());
    let lost = node(2, 0).hostname;
    engine.apply(Event::NodeStates(vec![(lost, NodeState::Down)]));
    engine.check();
    assert_eq!(ingest(&engine, "a"), Some(node(3, 0).hostname));
    save(&mut engine, vec![node(1, 2)], vec![bound("c", 1)]);
    assert_eq!(ingest(&engine, "c"), None, "it still keeps the stream");
}

#[test]
fn stream_that_returned_to_its_keeper_is_charged_once() {
    let mut engine = keeping();
    let lost = node(2, 0).hostname;
    engine.apply(Event::NodeStates(vec![(lost, NodeState::Down)]));
    engine.check();
    assert_eq!(ingest(&engine, "a"), Some(node(1, 0).hostname));
    // An edit is committed before the return is written; then there is room for one more.
    let mut edited = moved("a", 1, 2);
    edited.layout.ingest = Some(node(1, 0).hostname);
    save(&mut engine, vec![node(1, 3)], vec![edited]);
    save(&mut engine, Vec::new(), vec![bound("c", 1)]);
    assert_eq!(ingest(&engine, "c"), Some(node(1, 0).hostname));
}
