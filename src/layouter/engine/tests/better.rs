//! The node that an ingest would rather be on, and what keeps it from moving there.

use std::sync::Arc;

use super::layouter::{
    Engine, EngineSettings, Event, MoveObstacle, NodeSpec, NodeState, StreamSpec,
};
use super::names::Hostname;
use super::save;

const LIMIT: u32 = 100;

fn node(n: usize) -> NodeSpec {
    NodeSpec::streamer(&format!("s{n}"), LIMIT)
}

fn label(key: &str) -> (Arc<str>, Arc<str>) {
    (Arc::from(key), Arc::from("a"))
}

/// So many streams that the layouter has placed on a node.
fn streams(n: usize, count: usize) -> Vec<StreamSpec> {
    let stream = |i: usize| {
        let mut spec = StreamSpec::new(&format!("s{n}-{i:03}"));
        spec.layout.ingest = Some(node(n).hostname);
        spec.layout.by_layouter = true;
        spec
    };
    (0..count).map(stream).collect()
}

/// The nodes with so many streams each, before the first tick.
fn loaded(settings: EngineSettings, nodes: Vec<NodeSpec>, counts: &[usize]) -> Engine {
    let mut engine = Engine::new(settings);
    save(&mut engine, nodes, Vec::new());
    for (n, count) in counts.iter().enumerate() {
        save(&mut engine, Vec::new(), streams(n + 1, *count));
    }
    engine
}

fn two(settings: EngineSettings, counts: [usize; 2]) -> Engine {
    loaded(settings, vec![node(1), node(2)], &counts)
}

/// The better node of the first stream on the first node.
fn better(engine: &Engine) -> Option<(&str, MoveObstacle)> {
    let better = engine.better("s1-000")?;
    Some((better.hostname, better.obstacle))
}

fn set_budgets(change: impl FnOnce(&mut EngineSettings)) -> EngineSettings {
    let mut settings = EngineSettings::default();
    settings.budgets.optional_moves_min = 0;
    change(&mut settings);
    settings
}

fn tick(engine: &mut Engine, minutes: u64) {
    engine.apply(Event::Tick {
        now_ms: minutes * 60_000,
    });
    engine.check();
}

fn set_state(engine: &mut Engine, n: usize, state: NodeState) {
    engine.apply(Event::NodeStates(vec![(node(n).hostname, state)]));
    engine.check();
}

#[test]
fn less_loaded_node_is_better_until_the_gap_is_small() {
    let mut engine = two(EngineSettings::default(), [40, 10]);
    assert_eq!(better(&engine), Some(("s2", MoveObstacle::NextRun)));
    for minutes in 1..120 {
        tick(&mut engine, minutes);
    }
    let moved = engine.counts_on("s2").streams - 10;
    assert!(moved >= 10, "{moved} have moved");
    let left = better(&engine).map(|(_, obstacle)| obstacle);
    assert_ne!(left, Some(MoveObstacle::NextRun));
    // A stream that nothing would improve has no better node.
    for counts in [[10, 10], [10, 9], [9, 10]] {
        let engine = two(EngineSettings::default(), counts);
        assert_eq!(better(&engine), None, "{counts:?}");
        assert_eq!(engine.better("unknown"), None);
    }
    let gap = |gap, start| Some(("s2", MoveObstacle::LoadGap { gap, start }));
    let engine = two(EngineSettings::default(), [10, 4]);
    assert_eq!(better(&engine), gap(60, 100));
}

#[test]
fn few_channels_are_not_worth_a_move() {
    // Nodes of four channels, of which one is a quarter of the load.
    let small = |n: usize| NodeSpec::streamer(&format!("s{n}"), 4);
    let engine = loaded(EngineSettings::default(), vec![small(1), small(2)], &[2, 1]);
    assert_eq!(better(&engine), None, "it would be as full there");
    // Nodes without a stated limit.
    let counted = |n: usize| NodeSpec {
        channel_limit_stated: false,
        channel_limit: 5000,
        ..node(n)
    };
    for (counts, expected) in [
        (
            [20, 16],
            Some(MoveObstacle::ChannelGap { gap: 4, start: 5 }),
        ),
        ([20, 15], Some(MoveObstacle::NextRun)),
        ([20, 19], None),
    ] {
        let nodes = vec![counted(1), counted(2)];
        let engine = loaded(EngineSettings::default(), nodes, &counts);
        let found = better(&engine).map(|(_, obstacle)| obstacle);
        assert_eq!(found, expected, "{counts:?}");
    }
}

#[test]
fn balance_waits_for_settings_budgets_holds_and_probation() {
    let no_budget = set_budgets(|it| it.budgets.rebalance_moves_per_myriad = 0);
    let off = EngineSettings {
        rebalance: false,
        ..EngineSettings::default()
    };
    for (settings, expected) in [
        (no_budget, MoveObstacle::Budget),
        (off, MoveObstacle::BalanceOff),
    ] {
        let mut engine = two(settings, [40, 10]);
        for minutes in 0..3 {
            assert_eq!(better(&engine), Some(("s2", expected)));
            tick(&mut engine, minutes);
        }
    }
    // An operator placed the stream.
    let mut engine = two(EngineSettings::default(), [0, 10]);
    tick(&mut engine, 1);
    let mut placed = streams(1, 40);
    placed[0].layout.by_layouter = false;
    save(&mut engine, Vec::new(), placed);
    let until_ms = 60_000 + engine.settings().budgets.exempt_ms;
    let held = MoveObstacle::HoldUntil(until_ms);
    assert_eq!(better(&engine), Some(("s2", held)));
    // A node on probation holds all.
    save(&mut engine, vec![node(3)], Vec::new());
    set_state(&mut engine, 3, NodeState::Down);
    set_state(&mut engine, 3, NodeState::Probation);
    let found = better(&engine).map(|(_, obstacle)| obstacle);
    assert_eq!(found, Some(MoveObstacle::Probation));
}

#[test]
fn node_with_preferred_labels_is_better() {
    let labelled = |n: usize| NodeSpec {
        labels: vec![label("zone")],
        ..node(n)
    };
    let prefer = |engine: &mut Engine, mut specs: Vec<StreamSpec>| {
        for spec in &mut specs {
            spec.labels = vec![label("preferred.zone")];
        }
        save(engine, Vec::new(), specs);
    };
    let no_budget = set_budgets(|it| it.budgets.preferred_moves_per_myriad = 0);
    let full = MoveObstacle::Full {
        load: 980,
        limit: 970,
    };
    // Streams that gain less give way on a full node.
    for (settings, on_s2, they_gain, expected) in [
        (EngineSettings::default(), 50, true, MoveObstacle::NextRun),
        (no_budget, 50, true, MoveObstacle::Budget),
        (EngineSettings::default(), 98, true, full),
        (EngineSettings::default(), 98, false, MoveObstacle::NextRun),
    ] {
        let nodes = vec![node(1), labelled(2), node(3)];
        let mut engine = loaded(settings, nodes, &[1, on_s2, 0]);
        prefer(&mut engine, streams(1, 1));
        if they_gain {
            prefer(&mut engine, streams(2, on_s2));
        }
        // More load is no objection.
        assert_eq!(better(&engine), Some(("s2", expected)));
        let moves = expected == MoveObstacle::NextRun;
        tick(&mut engine, 1);
        let ingest = engine.layout("s1-000").expect("it is known").ingest;
        assert_eq!(ingest == Some(Hostname::trusted("s2")), moves);
    }
}

#[test]
fn returned_node_is_better_for_the_streams_it_had() {
    for (restores, expected) in [(500, MoveObstacle::NextRun), (0, MoveObstacle::Budget)] {
        let settings = set_budgets(|it| it.budgets.restore_moves_max = restores);
        let mut engine = two(settings, [5, 5]);
        set_state(&mut engine, 1, NodeState::Down);
        assert_eq!(better(&engine), None);
        set_state(&mut engine, 1, NodeState::Up);
        assert_eq!(better(&engine), Some(("s1", expected)));
        tick(&mut engine, 1);
        assert_eq!(better(&engine).is_none(), restores > 0);
    }
    // No streamer runs: nothing is better.
    let mut engine = two(EngineSettings::default(), [40, 10]);
    for n in [1, 2] {
        set_state(&mut engine, n, NodeState::Down);
    }
    assert_eq!(better(&engine), None);
}
