//! Small fleets: nodes without a stated channel limit share the streams evenly, with few moves, and
//! nodes that are expected get their share without any.

use super::layouter::{
    Engine, Event, LayoutChange, MoveReason, NodeSpec, NodeState, Rows, StreamSpec,
};

/// A node whose channel limit is only assumed.
fn node(n: usize) -> NodeSpec {
    NodeSpec {
        channel_limit_stated: false,
        ..NodeSpec::streamer(&format!("node{n:03}"), 6000)
    }
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

fn states(states: &[(usize, NodeState)]) -> Event {
    let of = |(n, state): &(usize, NodeState)| (node(*n).hostname, *state);
    Event::NodeStates(states.iter().map(of).collect())
}

/// Streams on each of the first nodes.
fn shares(engine: &Engine, nodes: usize, streams: usize) -> Vec<usize> {
    let mut shares = vec![0; nodes];
    for s in 0..streams {
        let layout = engine.layout(&stream(s).name).expect("it is known");
        let at = |host| (0..nodes).find(|n| node(*n).hostname == host);
        if let Some(n) = layout.ingest.and_then(at) {
            shares[n] += 1;
        }
    }
    shares
}

/// Lets many intervals pass, and then as many in which nothing moves.
fn rest(engine: &mut Engine, now_s: &mut u64) -> Vec<LayoutChange> {
    const INTERVALS: usize = 2000;
    let mut moves = Vec::new();
    for i in 0..2 * INTERVALS {
        *now_s += 30;
        let changes = engine.apply(Event::Tick {
            now_ms: *now_s * 1000,
        });
        assert!(i < INTERVALS || changes.is_empty(), "{changes:?}");
        // The new nodes confirm.
        for change in &changes {
            let hostname = change.to.clone().expect("nothing loses its node");
            let revision = u64::MAX;
            engine.apply(Event::Confirmed { hostname, revision });
        }
        moves.extend(changes);
    }
    engine.check();
    moves
}

fn is_balanced(shares: &[usize]) -> bool {
    let (most, least) = (shares.iter().max(), shares.iter().min());
    let (most, least) = (*most.expect("some"), *least.expect("some"));
    most - least < 2 || (most - least) * 8 <= most + least
}

#[test]
fn nodes_that_come_one_after_another_get_their_share() {
    for streams in [2, 12, 601] {
        let (mut engine, mut now_s) = (Engine::default(), 0);
        engine.apply(commit(vec![node(0)], (0..streams).map(stream).collect()));
        assert_eq!(shares(&engine, 1, streams), [streams]);
        for n in 1..3 {
            engine.apply(commit(vec![node(n)], Vec::new()));
            let moves = rest(&mut engine, &mut now_s);
            for change in &moves {
                assert_eq!(change.to, Some(node(n).hostname), "only to the new node");
                assert_eq!(change.reason, MoveReason::Rebalance);
            }
            // No even distribution is reached with less moves than that.
            assert!(moves.len() <= streams / (n + 1), "{} moves", moves.len());
            let shares = shares(&engine, n + 1, streams);
            assert!(is_balanced(&shares), "{shares:?}");
        }
    }
}

#[test]
fn stated_limits_are_shares_as_before() {
    // Goal: an operator who states limits wants shares of them. Method: all nodes, or the new one,
    // or the old one have a stated limit.
    let stated = |n: usize| NodeSpec::streamer(&node(n).hostname, 6000);
    let pairs = [
        [stated(0), stated(1)],
        [stated(0), node(1)],
        [node(0), stated(1)],
    ];
    for [old, new] in pairs {
        let (mut engine, mut now_s) = (Engine::default(), 0);
        engine.apply(commit(vec![old], (0..100).map(stream).collect()));
        engine.apply(commit(vec![new], Vec::new()));
        assert_eq!(rest(&mut engine, &mut now_s), []);
    }
}

#[test]
fn counts_and_loads_do_not_work_against_each_other() {
    // Goal: no stream moves back and forth. Method: little bandwidth on one node and much on the
    // other, so that equal counts and equal loads differ; streams of one and of several sizes.
    for sizes in [vec![100], vec![10, 100], vec![10, 40, 400]] {
        for narrow in [2_500, 10_000] {
            let (mut engine, mut now_s) = (Engine::default(), 0);
            let with = |n: usize, kbps: u32| NodeSpec {
                bandwidth_kbps: Some(kbps),
                ..node(n)
            };
            let sized = |s: usize| StreamSpec {
                kbps: Some(sizes[s % sizes.len()]),
                ..stream(s)
            };
            engine.apply(commit(vec![with(0, narrow)], Vec::new()));
            engine.apply(commit(Vec::new(), (0..20).map(sized).collect()));
            engine.apply(commit(vec![with(1, 100_000), node(2)], Vec::new()));
            let moves = rest(&mut engine, &mut now_s);
            assert!(
                moves.len() <= 20,
                "{sizes:?} {narrow}: {} moves",
                moves.len()
            );
        }
    }
}

#[test]
fn many_first_placements_wait_for_expected_nodes() {
    for streams in [12, 600] {
        let mut engine = Engine::default();
        let unseen = |n: usize| NodeSpec {
            state: NodeState::Unsure,
            ..node(n)
        };
        engine.apply(Event::HoldPlacement(true));
        let nodes = (0..3).map(unseen).collect();
        engine.apply(commit(nodes, (0..streams).map(stream).collect()));
        assert_eq!(engine.apply(states(&[(0, NodeState::Up)])), []);
        let few = (streams..streams + 3).map(stream).collect();
        assert_eq!(
            engine.apply(commit(Vec::new(), few)).len(),
            3,
            "few do not wait"
        );
        assert_eq!(engine.apply(states(&[(1, NodeState::Up)])), []);
        assert_eq!(engine.apply(states(&[(2, NodeState::Up)])), []);
        engine.check();
        let placed = engine.apply(Event::HoldPlacement(false));
        assert_eq!(placed.len(), streams);
        let third = (streams + 3) / 3;
        assert_eq!(shares(&engine, 3, streams + 3), [third; 3]);
        assert_eq!(rest(&mut engine, &mut 0), []);
    }
}

#[test]
fn slots_of_a_lost_node_wait_for_no_other() {
    let mut engine = Engine::default();
    let nodes = vec![node(0), node(1)];
    engine.apply(commit(nodes, (0..50).map(stream).collect()));
    engine.apply(Event::HoldPlacement(true));
    let lost = engine.apply(states(&[(0, NodeState::Down)]));
    assert_eq!(lost.len(), 25);
    assert_eq!(shares(&engine, 2, 50), [0, 50]);
    engine.check();
}
