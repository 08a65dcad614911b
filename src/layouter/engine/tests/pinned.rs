//! Pins: no optional move takes a pinned ingest from its node, and every other move does.

use std::sync::Arc;

use super::layouter::{
    DrainSpec, Engine, EngineSettings, Event, LayoutChange, MoveObstacle, NodeSpec, NodeState,
    Shed, ShedTarget, StreamSpec,
};
use super::save;

fn node(n: usize) -> NodeSpec {
    NodeSpec::streamer(&format!("s{n}"), 100)
}

fn label(key: &str, value: &str) -> (Arc<str>, Arc<str>) {
    (Arc::from(key), Arc::from(value))
}

/// A stream that the layouter has placed on the first node, pinned if its number is below `pinned`.
fn stream(i: usize, pinned: usize) -> StreamSpec {
    let mut spec = StreamSpec::new(&format!("c{i:03}"));
    spec.layout.ingest = Some(node(1).hostname);
    spec.layout.by_layouter = true;
    spec.pinned = i < pinned;
    spec
}

fn streams(count: usize, pinned: usize) -> Vec<StreamSpec> {
    (0..count).map(|i| stream(i, pinned)).collect()
}

/// Ticks for two hours, the first ones or later ones. All changes.
fn run(engine: &mut Engine) -> Vec<LayoutChange> {
    run_from(engine, 0)
}

fn run_from(engine: &mut Engine, hours: u64) -> Vec<LayoutChange> {
    let mut all = Vec::new();
    for minutes in 60 * hours + 1..60 * hours + 120 {
        let now_ms = minutes * 60_000;
        all.extend(engine.apply(Event::Tick { now_ms }));
        engine.check();
    }
    all
}

fn ingest(engine: &Engine, name: &str) -> Option<String> {
    let layout = engine.layout(name)?;
    layout.ingest.map(|host| host.to_string())
}

fn counts(engine: &Engine) -> [u64; 2] {
    ["s1", "s2"].map(|host| engine.counts_on(host).streams)
}

#[test]
fn balance_leaves_pinned_streams_and_moves_others() {
    // More of them than one round looks at.
    for stated in [true, false] {
        let mut engine = Engine::new(EngineSettings::default());
        let nodes = [1, 2].map(|n| NodeSpec {
            channel_limit_stated: stated,
            ..node(n)
        });
        save(&mut engine, nodes.to_vec(), streams(60, 60));
        assert_eq!(run(&mut engine), [], "all are pinned");
        let better = engine.better("c000").expect("the other one is empty");
        assert_eq!(better.obstacle, MoveObstacle::Pinned);
        // The next ones are not pinned, and the balance is made with them.
        save(&mut engine, Vec::new(), streams(60, 30));
        let moved = run_from(&mut engine, 2);
        assert!(moved.len() >= 20, "{stated}: {}", moved.len());
        for i in 0..30 {
            assert_eq!(ingest(&engine, &format!("c{i:03}")).as_deref(), Some("s1"));
        }
    }
}

#[test]
fn better_labels_wait_until_the_pin_is_gone() {
    let mut engine = Engine::new(EngineSettings::default());
    let best = NodeSpec {
        labels: vec![label("zone", "n")],
        ..node(2)
    };
    let wishing = |pinned: usize| StreamSpec {
        labels: vec![label("preferred.zone", "n")],
        ..stream(0, pinned)
    };
    save(&mut engine, vec![node(1), best], vec![wishing(1)]);
    assert_eq!(run(&mut engine), []);
    let better = engine.better("c000").expect("its labels match there");
    assert_eq!(better.obstacle, MoveObstacle::Pinned);
    save(&mut engine, Vec::new(), vec![wishing(0)]);
    run_from(&mut engine, 2);
    assert_eq!(ingest(&engine, "c000").as_deref(), Some("s2"));
}

#[test]
fn pinned_stream_gives_no_way_to_a_better_match() {
    // The node with the label is full of one that is pinned there, which would fit elsewhere.
    let full = NodeSpec {
        labels: vec![label("zone", "n")],
        channel_limit: 1,
        ..node(2)
    };
    for (pinned, expected) in [(true, "s1"), (false, "s2")] {
        let mut engine = Engine::new(EngineSettings::default());
        let mut holder = StreamSpec::new("holder");
        holder.layout.ingest = Some(node(2).hostname);
        holder.layout.by_layouter = true;
        holder.pinned = pinned;
        let wishing = StreamSpec {
            labels: vec![label("preferred.zone", "n")],
            ..stream(0, 0)
        };
        save(
            &mut engine,
            vec![node(1), full.clone()],
            vec![holder, wishing],
        );
        run(&mut engine);
        assert_eq!(
            ingest(&engine, "c000").as_deref(),
            Some(expected),
            "{pinned}"
        );
    }
}

#[test]
fn pinned_stream_returns_only_without_its_pin() {
    let mut engine = Engine::new(EngineSettings::default());
    save(&mut engine, vec![node(1), node(2)], streams(1, 0));
    let set = |engine: &mut Engine, state| {
        engine.apply(Event::NodeStates(vec![(node(1).hostname, state)]));
        engine.check();
    };
    set(&mut engine, NodeState::Down);
    assert_eq!(ingest(&engine, "c000").as_deref(), Some("s2"));
    // The layouter has written it, and an operator pins it there.
    let mut there = stream(0, 1);
    there.layout.ingest = Some(node(2).hostname);
    there.layout.failover_from = Some(node(1).hostname);
    save(&mut engine, Vec::new(), vec![there.clone()]);
    set(&mut engine, NodeState::Up);
    assert_eq!(run(&mut engine), []);
    there.pinned = false;
    save(&mut engine, Vec::new(), vec![there]);
    run_from(&mut engine, 2);
    assert_eq!(ingest(&engine, "c000").as_deref(), Some("s1"));
}

#[test]
fn cpu_pressure_moves_others_only() {
    let mut engine = Engine::new(EngineSettings::default());
    save(&mut engine, vec![node(1), node(2)], streams(4, 2));
    let shed = engine.apply(Event::Shed(Shed {
        hostname: node(1).hostname,
        streams_max: 10,
        targets: vec![ShedTarget {
            hostname: node(2).hostname,
            streams_max: 10,
        }],
    }));
    engine.check();
    assert_eq!(shed.len(), 2);
    assert_eq!(counts(&engine), [2, 2]);
    assert_eq!(ingest(&engine, "c001").as_deref(), Some("s1"));
}

/// What makes streams move, and its name.
type Cause<'c> = (&'static str, &'c dyn Fn(&mut Engine));

#[test]
fn pinned_stream_moves_when_it_has_to() {
    let lost = |engine: &mut Engine| {
        engine.apply(Event::NodeStates(vec![(node(1).hostname, NodeState::Down)]));
    };
    let drained = |engine: &mut Engine| {
        let drain = NodeSpec {
            cordoned: true,
            drain: Some(DrainSpec {
                streams_per_minute: 0,
                deadline_utc_ms: None,
                returns: true,
                keeps_ms: 0,
            }),
            ..node(1)
        };
        save(engine, vec![drain], Vec::new());
        engine.apply(Event::Drain {
            now_ms: 60_000,
            utc_ms: 1_700_000_000_000,
        });
    };
    let labelled = |engine: &mut Engine| {
        let strict = NodeSpec {
            labels: vec![label("required.tenant", "x")],
            ..node(1)
        };
        save(engine, vec![strict], Vec::new());
    };
    let limited = |engine: &mut Engine| {
        let none = NodeSpec {
            channel_limit: 0,
            ..node(1)
        };
        save(engine, vec![none], Vec::new());
    };
    let deleted = |engine: &mut Engine| {
        engine.apply(Event::Commit(super::Rows {
            nodes_deleted: vec![node(1).hostname],
            ..super::Rows::default()
        }));
    };
    let causes: [Cause<'_>; 5] = [
        ("lost", &lost),
        ("drained", &drained),
        ("labels", &labelled),
        ("limit", &limited),
        ("deleted", &deleted),
    ];
    for (cause, happens) in causes {
        let mut engine = Engine::new(EngineSettings::default());
        save(&mut engine, vec![node(1), node(2)], streams(3, 3));
        happens(&mut engine);
        engine.check();
        run(&mut engine);
        assert_eq!(counts(&engine)[1], 3, "{cause}");
    }
    // In maintenance without a drain the node keeps it.
    let mut engine = Engine::new(EngineSettings::default());
    let cordoned = NodeSpec {
        cordoned: true,
        ..node(1)
    };
    save(&mut engine, vec![cordoned, node(2)], streams(3, 3));
    run(&mut engine);
    assert_eq!(counts(&engine), [3, 0]);
}

#[test]
fn unit_with_a_pinned_member_stays() {
    let mut engine = Engine::new(EngineSettings::default());
    let best = NodeSpec {
        labels: vec![label("zone", "n")],
        ..node(2)
    };
    let of_agent = |pinned: usize| -> Vec<StreamSpec> {
        let member = |i: usize| StreamSpec {
            agents: vec![Arc::from("a1")],
            labels: vec![label("preferred.zone", "n")],
            ..stream(i, pinned)
        };
        (0..2).map(member).collect()
    };
    save(&mut engine, vec![node(1), best], of_agent(1));
    assert_eq!(run(&mut engine), []);
    save(&mut engine, Vec::new(), of_agent(0));
    run_from(&mut engine, 2);
    assert_eq!(counts(&engine), [0, 2]);
}
