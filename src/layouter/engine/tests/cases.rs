//! One invariant per test, with exact numbers.

use std::sync::Arc;

use super::layouter::{
    DvrSpec, Engine, EngineSettings, Event, LayoutChange, MoveReason, NodeSpec, NodeState, Reasons,
    Rows, SlotKind, StreamSpec,
};
use super::names::Hostname;
use super::random::Random;

fn pair(key: &str, value: &str) -> (Arc<str>, Arc<str>) {
    (Arc::from(key), Arc::from(value))
}

fn node(n: usize, channel_limit: u32) -> NodeSpec {
    NodeSpec::streamer(&format!("node{n:03}"), channel_limit)
}

fn stream(s: usize) -> StreamSpec {
    StreamSpec {
        kbps: Some(1000),
        ..StreamSpec::new(&format!("stream{s:05}"))
    }
}

fn nodes(nodes: Vec<NodeSpec>) -> Event {
    Event::Commit(Rows {
        nodes,
        ..Rows::default()
    })
}

fn streams(streams: Vec<StreamSpec>) -> Event {
    Event::Commit(Rows {
        streams,
        ..Rows::default()
    })
}

fn state(n: usize, state: NodeState) -> Event {
    Event::NodeStates(vec![(node(n, 0).hostname, state)])
}

fn tick(minutes: u64) -> Event {
    Event::Tick {
        now_ms: minutes * 60_000,
    }
}

/// An engine with so many nodes of a size and so many streams.
fn cluster(nodes_count: usize, channel_limit: u32, streams_count: usize) -> Engine {
    let mut engine = Engine::default();
    engine.apply(nodes(
        (0..nodes_count).map(|n| node(n, channel_limit)).collect(),
    ));
    engine.apply(streams((0..streams_count).map(stream).collect()));
    engine.check();
    engine
}

fn ingest(engine: &Engine, s: usize) -> Option<String> {
    let layout = engine.layout(&stream(s).name).expect("it is known");
    layout.ingest.map(|host| host.to_string())
}

fn count_on(engine: &Engine, n: usize) -> u64 {
    let host = node(n, 0).hostname;
    let mut all = engine.node_loads();
    all.find(|node| *node.hostname == host)
        .expect("it is known")
        .channels
}

/// Ticks until nothing moves; returns all changes.
fn rest(engine: &mut Engine, minutes: &mut u64) -> Vec<LayoutChange> {
    let mut all = Vec::new();
    for _ in 0..100 {
        *minutes += 15;
        let changes = engine.apply(tick(*minutes));
        engine.check();
        if changes.is_empty() {
            return all;
        }
        all.extend(changes);
    }
    panic!("no rest: {all:?}");
}

#[test]
fn streams_are_spread_in_proportion_to_limits() {
    let mut engine = Engine::default();
    engine.apply(nodes(vec![node(0, 100), node(1, 200), node(2, 300)]));
    for s in 0..300 {
        engine.apply(streams(vec![stream(s)]));
    }
    assert_eq!([0, 1, 2].map(|n| count_on(&engine, n)), [50, 100, 150]);
}

#[test]
fn first_placement_has_reason_and_row_revision() {
    let mut engine = cluster(1, 10, 0);
    let mut spec = stream(0);
    spec.revision = 77;
    let changes = engine.apply(streams(vec![spec]));
    assert_eq!(changes.len(), 1);
    assert_eq!(
        (
            changes[0].change_reason(),
            changes[0].revision,
            &changes[0].from
        ),
        (Some("not_distributed"), 77, &None)
    );
    assert_eq!(changes[0].to.as_deref(), Some("node000"));
}

#[test]
fn lost_node_moves_exactly_its_slots() {
    // I4: with room elsewhere nothing else moves, and moved slots remember their origin.
    for seed in 0..20 {
        let mut random = Random::seeded(seed + 1);
        let mut engine = cluster(12, 60, 0);
        let mut all: Vec<StreamSpec> = (0..400).map(stream).collect();
        for spec in &mut all {
            spec.kbps = Some(500 + 10 * random.below(500) as u32);
        }
        engine.apply(streams(all));
        let had = count_on(&engine, 3);
        let changes = engine.apply(state(3, NodeState::Down));
        engine.check();
        assert_eq!(changes.len() as u64, had);
        for change in &changes {
            assert_eq!(change.from.as_deref(), Some("node003"));
            assert_eq!(change.failover_from.as_deref(), Some("node003"));
            assert_eq!(change.change_reason(), Some("node_become_offline"));
        }
    }
}

#[test]
fn streams_return_to_the_first_node_of_a_failure_chain() {
    let mut engine = cluster(4, 100, 40);
    let mut minutes = 0;
    rest(&mut engine, &mut minutes);
    let before: Vec<_> = (0..40).map(|s| ingest(&engine, s)).collect();
    engine.apply(state(0, NodeState::Down));
    engine.apply(state(1, NodeState::Down));
    engine.apply(state(1, NodeState::Probation));
    engine.apply(state(0, NodeState::Probation));
    let changes = engine.apply(tick(minutes + 1));
    assert!(
        changes.is_empty(),
        "nothing returns to a node on probation: {changes:?}"
    );
    engine.apply(state(0, NodeState::Up));
    engine.apply(state(1, NodeState::Up));
    let changes = rest(&mut engine, &mut minutes);
    let after: Vec<_> = (0..40).map(|s| ingest(&engine, s)).collect();
    assert_eq!(before, after);
    assert!(
        changes
            .iter()
            .all(|change| change.reason == MoveReason::Restore
                && change.change_reason().is_none()
                && change.failover_from.is_none())
    );
    assert_eq!(changes.len(), 20);
}

#[test]
fn total_outage_moves_nothing_until_a_node_returns() {
    let mut engine = cluster(3, 100, 30);
    let hash = engine.layout_hash();
    let down = (0..3).map(|n| (node(n, 0).hostname, NodeState::Down));
    assert!(engine.apply(Event::NodeStates(down.collect())).is_empty());
    assert!(engine.apply(tick(10)).is_empty());
    let changes = engine.apply(streams(vec![stream(99)]));
    assert!(changes.is_empty() && engine.layout_hash() == hash);
    // The first node back takes the streams of the others, trusted or not.
    let changes = engine.apply(state(1, NodeState::Probation));
    engine.check();
    assert_eq!(changes.len(), 21);
    assert_eq!(count_on(&engine, 1), 31);
}

#[test]
fn lowered_limit_evicts_the_fewest_streams() {
    // I16: largest first, the last one as small as possible.
    let mut engine = cluster(1, 100, 0);
    engine.apply(nodes(vec![NodeSpec {
        bandwidth_kbps: Some(100_000),
        ..node(0, 100)
    }]));
    let sizes = [30_000, 20_000, 10_000, 5000, 4000, 3000, 1000];
    let all = sizes.iter().enumerate().map(|(s, kbps)| StreamSpec {
        kbps: Some(*kbps),
        ..stream(s)
    });
    engine.apply(streams(all.collect()));
    // 73,000 are used and 40,000 * 0.9 stay: 37,000 must leave, 30,000 and the smallest that is at
    // least 7,000.
    let changes = engine.apply(nodes(vec![NodeSpec {
        bandwidth_kbps: Some(40_000),
        ..node(0, 100)
    }]));
    engine.check();
    let mut left: Vec<&str> = changes.iter().map(|change| &*change.stream).collect();
    left.sort_unstable();
    assert_eq!(left, ["stream00000", "stream00002"]);
    assert!(changes.iter().all(|change| change.change_reason()
        == Some("streamer_total_bandwidth_exceeded")
        && change.to.is_none()));
}

#[test]
fn rows_in_any_order_give_the_same_layout() {
    // I8 and I19.
    for seed in 1..30 {
        let mut hashes = Vec::new();
        for order in 0..3 {
            let mut random = Random::seeded(seed);
            let mut engine = Engine::default();
            let mut all_nodes: Vec<NodeSpec> =
                (0..8).map(|_| super::ops::node(&mut random)).collect();
            let mut all: Vec<StreamSpec> =
                (0..60).map(|_| super::ops::stream(&mut random)).collect();
            all_nodes.sort_by(|a, b| a.hostname.cmp(&b.hostname));
            all_nodes.dedup_by(|a, b| a.hostname == b.hostname);
            all.sort_by(|a, b| a.name.cmp(&b.name));
            all.dedup_by(|a, b| a.name == b.name);
            let mut shuffle = Random::seeded(1000 + order);
            for i in (1..all.len()).rev() {
                all.swap(i, shuffle.below(i as u64 + 1) as usize);
            }
            for i in (1..all_nodes.len()).rev() {
                all_nodes.swap(i, shuffle.below(i as u64 + 1) as usize);
            }
            engine.apply(Event::Commit(Rows {
                nodes: all_nodes,
                streams: all,
                ..Rows::default()
            }));
            engine.check();
            hashes.push(engine.layout_hash());
        }
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "seed {seed}");
    }
}

#[test]
fn chain_of_moves_makes_room() {
    let mut engine = Engine::default();
    let zone = |n, limit, zone: &str| NodeSpec {
        labels: vec![pair("zone", zone)],
        ..node(n, limit)
    };
    engine.apply(nodes(vec![zone(0, 2, "a"), zone(1, 2, "b")]));
    engine.apply(streams(vec![stream(0), stream(1)]));
    let bound = |s, zone: &str| StreamSpec {
        labels: vec![pair("required.zone", zone)],
        ..stream(s)
    };
    engine.apply(streams(vec![bound(2, "a")]));
    let changes = engine.apply(streams(vec![bound(3, "a")]));
    engine.check();
    assert_eq!(changes.len(), 2, "one displaced, one placed: {changes:?}");
    let displaced = changes
        .iter()
        .find(|change| change.from.is_some())
        .expect("one is");
    assert_eq!(
        (displaced.reason, displaced.change_reason()),
        (MoveReason::MakeRoom, Some("node_channel_limit_exceeded"))
    );
    assert_eq!(ingest(&engine, 3).as_deref(), Some("node000"));
    assert_eq!(engine.waiting_count(), 0);
}

#[test]
fn longest_waiting_stream_is_placed_first() {
    let mut engine = cluster(1, 2, 2);
    for s in 2..6 {
        engine.apply(streams(vec![stream(s)]));
    }
    for (minutes, channels) in [(1, 2), (2, 2), (3, 3), (4, 4), (5, 4), (6, 6)] {
        // The same limit again triggers a retry, without any room.
        engine.apply(nodes(vec![node(0, channels)]));
        engine.apply(tick(minutes));
        for s in 0..6 {
            let is_in = ingest(&engine, s).is_some();
            assert_eq!(is_in, s < channels as usize, "{s} of {channels}");
        }
    }
}

#[test]
fn unreferenced_labels_create_no_classes() {
    // I18.
    let mut engine = cluster(4, 100, 0);
    engine.apply(streams(vec![stream(0)]));
    let before = engine.stream_classes_count();
    let numbered = (1..50).map(|s| StreamSpec {
        labels: vec![
            pair("camera", &s.to_string()),
            pair("preferred.rack", &s.to_string()),
        ],
        ..stream(s)
    });
    engine.apply(streams(numbered.collect()));
    assert_eq!(engine.stream_classes_count(), before);
    // Until a node has one of them.
    engine.apply(nodes(vec![NodeSpec {
        labels: vec![pair("rack", "7")],
        ..node(4, 100)
    }]));
    engine.check();
    assert_eq!(engine.stream_classes_count(), before + 1);
    let mut minutes = 0;
    rest(&mut engine, &mut minutes);
    assert_eq!(ingest(&engine, 7).as_deref(), Some("node004"));
}

#[test]
fn label_that_is_required_again_finds_its_nodes() {
    // A stream required the label when no node had it. Then both were gone, and a node has it.
    let requiring = |s| StreamSpec {
        labels: vec![pair("required.zone", "a")],
        ..stream(s)
    };
    let mut engine = cluster(1, 10, 0);
    engine.apply(streams(vec![requiring(0)]));
    assert_eq!(ingest(&engine, 0), None);
    engine.apply(Event::Commit(Rows {
        streams_deleted: vec![stream(0).name],
        nodes_deleted: vec![node(0, 0).hostname],
        ..Rows::default()
    }));
    engine.apply(nodes(vec![NodeSpec {
        labels: vec![pair("zone", "a")],
        ..node(1, 10)
    }]));
    engine.apply(streams(vec![requiring(1)]));
    engine.check();
    assert_eq!(ingest(&engine, 1).as_deref(), Some("node001"));
}

#[test]
fn requirements_of_deleted_streams_take_no_memory() {
    let mut engine = cluster(1, 10, 1);
    let before = engine.memory_bytes();
    let mut minutes = 0;
    // Every set of these labels, one after the other.
    for s in 0..1 << 15 {
        let required = (0..15).filter(|bit| s >> bit & 1 == 1);
        let requiring = StreamSpec {
            labels: required
                .map(|bit| pair(&format!("required.{bit}"), "a"))
                .collect(),
            ..stream(1)
        };
        engine.apply(streams(vec![requiring]));
        if s % 100 == 0 {
            minutes += 1;
            engine.apply(tick(minutes));
        }
    }
    let grown = engine.memory_bytes() - before;
    assert!(grown < 1 << 20, "{grown}");
    assert_eq!(ingest(&engine, 0).as_deref(), Some("node000"));
}

#[test]
fn streams_move_to_a_new_preferred_node() {
    let mut engine = cluster(2, 100, 0);
    let wishes = (0..10).map(|s| StreamSpec {
        labels: vec![pair("preferred.dc", "here")],
        ..stream(s)
    });
    engine.apply(streams(wishes.collect()));
    engine.apply(nodes(vec![NodeSpec {
        labels: vec![pair("dc", "here")],
        ..node(2, 6)
    }]));
    let mut minutes = 0;
    let changes = rest(&mut engine, &mut minutes);
    assert_eq!(count_on(&engine, 2), 6);
    assert_eq!(changes.len(), 6);
    assert!(
        changes
            .iter()
            .all(|change| change.change_reason() == Some("preferred_labels_better_match"))
    );
}

#[test]
fn two_streams_swap_full_nodes_if_both_gain() {
    let mut engine = Engine::default();
    let placed = |n, dc: &str| NodeSpec {
        labels: vec![pair("dc", dc)],
        ..node(n, 1)
    };
    let wishing = |s, dc: &str, host: &str| {
        let mut spec = StreamSpec {
            labels: vec![pair("preferred.dc", dc)],
            ..stream(s)
        };
        spec.layout.ingest = Some(Hostname::trusted(host));
        spec
    };
    engine.apply(nodes(vec![placed(0, "a"), placed(1, "b")]));
    engine.apply(streams(vec![
        wishing(0, "b", "node000"),
        wishing(1, "a", "node001"),
    ]));
    assert_eq!(ingest(&engine, 0).as_deref(), Some("node000"));
    let mut minutes = 0;
    assert_eq!(rest(&mut engine, &mut minutes).len(), 2);
    assert_eq!(ingest(&engine, 0).as_deref(), Some("node001"));
    assert_eq!(ingest(&engine, 1).as_deref(), Some("node000"));
}

#[test]
fn joining_node_only_receives_streams() {
    // I11, and the two-sided gap: it ends within the stop gap of the others, not beyond them.
    let mut engine = cluster(4, 1000, 2000);
    engine.apply(nodes(vec![node(4, 1000)]));
    let mut minutes = 0;
    let changes = rest(&mut engine, &mut minutes);
    assert!(!changes.is_empty());
    for change in &changes {
        assert_eq!(change.to.as_deref(), Some("node004"));
        assert_eq!(change.reason, MoveReason::Rebalance);
        assert_eq!(change.change_reason(), None);
    }
    let loads: Vec<u64> = (0..5).map(|n| count_on(&engine, n)).collect();
    let (least, most) = (loads.iter().min(), loads.iter().max());
    let gap = most.expect("five") - least.expect("five");
    assert!(gap <= 100, "{loads:?}");
}

#[test]
fn budgets_hold_in_every_tick() {
    // I14.
    let mut engine = cluster(4, 1000, 2000);
    engine.apply(Event::Settings(EngineSettings {
        budgets: super::layouter::MoveBudgets {
            rebalance_moves_per_node_max: 5,
            restore_moves_max: 7,
            ..super::layouter::MoveBudgets::default()
        },
        ..EngineSettings::default()
    }));
    engine.apply(nodes(vec![node(4, 1000)]));
    engine.apply(state(0, NodeState::Down));
    engine.apply(state(0, NodeState::Up));
    for minutes in 1..400 {
        let changes = engine.apply(tick(minutes));
        let count = |reason: MoveReason| {
            changes
                .iter()
                .filter(|change| change.reason == reason)
                .count()
        };
        assert!(count(MoveReason::Restore) <= 7);
        assert!(count(MoveReason::Rebalance) <= 10);
        for n in 0..5 {
            let host = node(n, 0).hostname;
            let of = |end: fn(&LayoutChange) -> &Option<Hostname>| {
                changes
                    .iter()
                    .filter(|change| {
                        change.reason == MoveReason::Rebalance
                            && end(change).as_ref() == Some(&host)
                    })
                    .count()
            };
            assert!(of(|change| &change.from) <= 5 && of(|change| &change.to) <= 5);
        }
    }
}

#[test]
fn backups_prefer_other_failure_domains() {
    let mut engine = Engine::new(EngineSettings {
        failure_domain_key: Some(Arc::from("rack")),
        ..EngineSettings::default()
    });
    let racks = (0..6).map(|n| NodeSpec {
        labels: vec![pair("rack", &format!("r{}", n % 2))],
        ..node(n, 100)
    });
    engine.apply(nodes(racks.collect()));
    let recorded = (0..60).map(|s| StreamSpec {
        dvr: Some(DvrSpec {
            expiration_s: 86_400,
            storage_limit_bytes: None,
            redundancy_factor: 2,
        }),
        ..stream(s)
    });
    engine.apply(streams(recorded.collect()));
    engine.check();
    let rack = |host: &Hostname| host.as_bytes()[6] % 2;
    for s in 0..60 {
        let layout = engine.layout(&stream(s).name).expect("it is known");
        let at = layout.ingest.expect("there is room");
        assert_eq!(layout.dvr_backups.len(), 1);
        assert_ne!(rack(&at), rack(&layout.dvr_backups[0]));
    }
    // Fewer copies: the change has the reason.
    let layout = engine.layout(&stream(0).name).expect("it is known");
    let mut fewer = stream(0);
    fewer.layout.ingest = layout.ingest;
    fewer.layout.dvr_backups = layout.dvr_backups;
    let changes = engine.apply(streams(vec![fewer]));
    assert_eq!(changes.len(), 1);
    assert_eq!(
        (changes[0].kind, &changes[0].to, changes[0].change_reason()),
        (SlotKind::DvrBackup, &None, Some("dvr_redundancy_adjust"))
    );
}

#[test]
fn backup_takes_over_if_configured() {
    let mut engine = Engine::new(EngineSettings {
        failover_to_backup: true,
        ..EngineSettings::default()
    });
    engine.apply(nodes((0..4).map(|n| node(n, 100)).collect()));
    let recorded = (0..20).map(|s| StreamSpec {
        dvr: Some(DvrSpec {
            expiration_s: 3600,
            storage_limit_bytes: None,
            redundancy_factor: 2,
        }),
        ..stream(s)
    });
    engine.apply(streams(recorded.collect()));
    let before: Vec<_> = (0..20)
        .map(|s| engine.layout(&stream(s).name).expect("it is known"))
        .collect();
    engine.apply(state(0, NodeState::Down));
    engine.check();
    let mut promoted = 0;
    for (s, before) in before.into_iter().enumerate() {
        let now = engine.layout(&stream(s).name).expect("it is known");
        assert_eq!(now.dvr_backups.len(), 1);
        if before.ingest.as_deref() == Some("node000") {
            assert_eq!(now.ingest.as_ref(), before.dvr_backups.first());
            promoted += 1;
        } else {
            assert_eq!(now.ingest, before.ingest);
        }
    }
    assert!(promoted > 0 && count_on(&engine, 0) == 0);
}

#[test]
fn streams_of_one_agent_share_their_ingest_node() {
    // I15: joined by a third stream, split by its deletion, moved together.
    let mut engine = cluster(3, 10, 0);
    let of = |s, agents: &[&str]| StreamSpec {
        agents: agents.iter().map(|agent| Arc::from(*agent)).collect(),
        ..stream(s)
    };
    engine.apply(streams(vec![of(0, &["a"])]));
    engine.apply(streams(vec![of(1, &["b"])]));
    assert_ne!(ingest(&engine, 0), ingest(&engine, 1));
    let changes = engine.apply(streams(vec![of(2, &["a", "b"])]));
    engine.check();
    assert_eq!(ingest(&engine, 0), ingest(&engine, 1));
    assert_eq!(ingest(&engine, 0), ingest(&engine, 2));
    assert!(changes.iter().any(|change| change.change_reason()
        == Some("multistream_agent_ingest_conflict")
        && change.from.is_some()));
    let lost = ingest(&engine, 0).expect("it is placed");
    let changes = engine.apply(Event::NodeStates(vec![(
        Hostname::trusted(&lost),
        NodeState::Down,
    )]));
    engine.check();
    assert_eq!(changes.len(), 3);
    assert!(changes.iter().all(|change| change.to == changes[0].to));
    engine.apply(Event::Commit(Rows {
        streams_deleted: vec![stream(2).name],
        ..Rows::default()
    }));
    engine.check();
}

#[test]
fn layouts_explained_as_allowed_are_accepted() {
    // I13.
    for seed in 1..60 {
        let mut random = Random::seeded(seed);
        let mut engine = Engine::default();
        for _ in 0..8 {
            // A row on a node in maintenance is adopted, though the engine would not choose it.
            let node = NodeSpec {
                cordoned: false,
                ..super::ops::node(&mut random)
            };
            engine.apply(nodes(vec![node]));
        }
        for _ in 0..30 {
            let mut spec = super::ops::stream(&mut random);
            spec.agents.clear();
            spec.disabled = false;
            engine.apply(streams(vec![spec.clone()]));
            let decisions = engine.explain(&spec.name, SlotKind::Ingest);
            // A row on a node in state `Unsure` is adopted, though the engine would not choose that
            // node.
            let unsure: Vec<Hostname> = engine
                .nodes()
                .filter(|node| node.state == NodeState::Unsure)
                .map(|node| node.hostname.clone())
                .collect();
            let hosts: Vec<(Hostname, Reasons)> = decisions
                .expect("it has an ingest")
                .iter()
                .map(|decision| (decision.hostname.clone(), decision.reasons))
                .filter(|(host, reasons)| !(*reasons == Reasons::OFFLINE && unsure.contains(host)))
                .collect();
            for (host, reasons) in hosts {
                let mut moved = spec.clone();
                let known = engine.layout(&spec.name).expect("it is known");
                moved.layout.ingest = Some(host.clone());
                moved.layout.inference = known.inference;
                moved.layout.dvr_backups = known.dvr_backups;
                let mut copy = engine.snapshot();
                copy.apply(streams(vec![moved]));
                copy.check();
                let there = copy.layout(&spec.name).expect("it is known").ingest;
                assert_eq!(
                    there.as_ref() == Some(&host),
                    reasons.is_empty(),
                    "seed {seed}: {} on {host}: {reasons:?}",
                    spec.name
                );
            }
        }
    }
}

#[test]
fn newer_row_without_the_decision_is_answered_with_it() {
    // I20.
    let mut engine = cluster(2, 10, 0);
    engine.apply(streams(vec![stream(0)]));
    let mut newer = stream(0);
    newer.revision = 5;
    let answered = engine.apply(streams(vec![newer]));
    assert_eq!(answered.len(), 1, "the row lacks the decision");
    assert_eq!(answered[0].revision, 5);
}

#[test]
fn same_events_give_the_same_layout() {
    // I9.
    for seed in 1..40 {
        let run = || {
            let mut random = Random::seeded(seed);
            let mut world = super::ops::TestCluster::new(EngineSettings::default());
            for _ in 0..60 {
                world.step(&super::ops::ClusterOp::random(&mut random));
            }
            world.engine.layout_hash()
        };
        assert_eq!(run(), run());
    }
}

#[test]
fn shedding_moves_streams_only_to_allowed_targets() {
    let mut engine = cluster(3, 100, 30);
    engine.apply(Event::NodePressure {
        hostname: node(0, 0).hostname,
        pressed: true,
    });
    let changes = engine.apply(Event::Shed(super::layouter::Shed {
        hostname: node(0, 0).hostname,
        streams_max: 4,
        targets: vec![super::layouter::ShedTarget {
            hostname: node(2, 0).hostname,
            streams_max: 3,
        }],
    }));
    engine.check();
    assert_eq!(changes.len(), 3);
    for change in &changes {
        assert_eq!(change.change_reason(), Some("node_cpu_pressure"));
        assert_eq!(change.to.as_deref(), Some("node002"));
    }
    engine.apply(streams((100..130).map(stream).collect()));
    assert_eq!(count_on(&engine, 0), 7, "nothing new under pressure");
}

#[test]
fn capacity_and_survival_match_placements() {
    let mut engine = cluster(3, 10, 12);
    let capacity = engine.capacity(&stream(99));
    assert_eq!(capacity.fits, 18);
    assert_eq!(capacity.bottleneck, Reasons::CHANNEL_LIMIT);
    let twice = StreamSpec {
        dvr: Some(DvrSpec {
            redundancy_factor: 2,
            ..DvrSpec::default()
        }),
        ..stream(99)
    };
    assert_eq!(engine.capacity(&twice).fits, 9);
    let survival = engine.survival("node000").expect("it is known");
    assert_eq!((survival.there.streams, survival.unplaced.streams), (4, 0));
    let more = (20..30).map(stream);
    engine.apply(streams(more.collect()));
    let survival = engine.survival("node000").expect("it is known");
    assert_eq!(survival.unplaced.streams, 2);
    // As many fit as the capacity reports.
    let fits = engine.capacity(&stream(99)).fits as usize;
    engine.apply(streams((200..200 + fits).map(stream).collect()));
    assert_eq!(engine.waiting_count(), 0);
    engine.apply(streams(vec![stream(999)]));
    assert_eq!(engine.waiting_count(), 1);
}

#[test]
fn engine_needs_at_most_64_bytes_per_stream() {
    let count = 20_000;
    let engine = cluster(200, 150, count);
    let per_stream = engine.memory_bytes() / count;
    assert!(per_stream <= 64, "{per_stream} B per stream");
}

#[test]
fn gap_of_two_channels_is_balanced_at_any_limit() {
    // Loads are rounded down; their difference must not be underestimated. An operator moves two of
    // four streams to the node of the others, where they stay; the other two move back, the second
    // when three are on one node and one on the other.
    for channel_limit in 4..=30 {
        let mut engine = cluster(2, channel_limit, 4);
        let is_manual = (0..4)
            .filter(|s| ingest(&engine, *s).as_deref() == Some("node000"))
            .map(|s| {
                let mut spec = stream(s);
                spec.layout.ingest = Some(Hostname::trusted("node001"));
                spec.layout.by_layouter = false;
                spec
            })
            .collect();
        engine.apply(streams(is_manual));
        assert_eq!(count_on(&engine, 1), 4);
        let changes = engine.apply(tick(1));
        engine.check();
        assert_eq!(changes.len(), 2, "limit {channel_limit}: {changes:?}");
        assert_eq!([0, 1].map(|n| count_on(&engine, n)), [2, 2]);
    }
}

fn recorded(s: usize, copies: u32) -> StreamSpec {
    StreamSpec {
        dvr: Some(DvrSpec {
            redundancy_factor: copies,
            ..DvrSpec::default()
        }),
        ..stream(s)
    }
}

#[test]
fn ingest_takes_the_place_of_its_backup() {
    // Goal: a stream with a copy on the only node that is left is not worse off than one without.
    // Method: two nodes, one is lost; recorded twice, in groups of an agent, and not at all; with
    // the switch on and off, which changes nothing here.
    for failover_to_backup in [false, true] {
        let mut engine = Engine::default();
        engine.apply(Event::Settings(EngineSettings {
            failover_to_backup,
            ..EngineSettings::default()
        }));
        engine.apply(nodes(vec![node(0, 20), node(1, 12)]));
        let mut specs: Vec<StreamSpec> = (0..4).map(|s| recorded(s, 2)).collect();
        specs.extend((4..6).map(|s| StreamSpec {
            agents: vec![Arc::from("agent")],
            ..recorded(s, 2)
        }));
        specs.extend((6..10).map(stream));
        engine.apply(streams(specs));
        for lost in [0, 1] {
            let mut minutes = 100 * lost as u64;
            let lost_host = node(lost, 0).hostname;
            engine.apply(state(lost, NodeState::Down));
            engine.check();
            let left = node(1 - lost, 0).hostname;
            for s in 0..10 {
                assert_eq!(ingest(&engine, s).as_deref(), Some(&*left), "stream {s}");
                let layout = engine.layout(&stream(s).name).expect("known");
                assert_eq!(layout.dvr_backups, [], "stream {s}");
            }
            assert!(rest(&mut engine, &mut minutes).is_empty(), "it is stable");
            engine.check_rest();
            engine.apply(state(lost, NodeState::Up));
            rest(&mut engine, &mut minutes);
            for s in 0..6 {
                let layout = engine.layout(&stream(s).name).expect("known");
                assert_eq!(
                    layout.dvr_backups.len(),
                    1,
                    "stream {s} without {lost_host}"
                );
            }
        }
    }
}

#[test]
fn backup_gives_way_only_if_no_node_has_room() {
    let mut engine = Engine::default();
    engine.apply(nodes(vec![node(0, 10), node(1, 10), node(2, 10)]));
    engine.apply(streams(vec![recorded(0, 2)]));
    let layout = engine.layout(&stream(0).name).expect("known");
    let (home, copy) = (
        layout.ingest.expect("placed"),
        layout.dvr_backups[0].clone(),
    );
    let changes = engine.apply(Event::NodeStates(vec![(home, NodeState::Down)]));
    assert_eq!(changes.len(), 1, "{changes:?}");
    let layout = engine.layout(&stream(0).name).expect("known");
    assert_eq!(layout.dvr_backups, [copy]);
}

#[test]
fn ingests_are_promoted_before_backups_take_room() {
    // Two ingests are lost; the other node has room for neither, but a copy of one. What that copy
    // leaves is its ingest's; the copy itself waits, and no other stream moves.
    let mut engine = Engine::default();
    engine.apply(nodes(vec![node(0, 2), node(1, 2)]));
    engine.apply(streams(vec![recorded(0, 2), stream(1), stream(2)]));
    let home = ingest(&engine, 0).expect("placed");
    let changes = engine.apply(Event::NodeStates(vec![(
        Hostname::trusted(&home),
        NodeState::Down,
    )]));
    let moved = changes.iter().filter(|it| it.kind == SlotKind::Ingest);
    assert!(moved.clone().all(|it| it.from.as_deref() == Some(&*home)));
    assert!(ingest(&engine, 0).is_some_and(|host| host != home));
    engine.check();
    engine.check_rest();
}

fn measured(engine: &Engine, s: usize, kbps: u32) -> Event {
    let mut spec = StreamSpec {
        kbps: Some(kbps),
        measured: true,
        ..StreamSpec::new(&stream(s).name)
    };
    let layout = engine.layout(&spec.name).expect("known");
    spec.layout.ingest = layout.ingest;
    spec.layout.by_layouter = true;
    streams(vec![spec])
}

/// Two nodes with usable bandwidth of 45,000 kbit/s, and streams without claims.
fn unclaimed(streams_count: usize) -> Engine {
    let mut engine = Engine::default();
    engine.apply(nodes(
        (0..2)
            .map(|n| NodeSpec {
                bandwidth_kbps: Some(50_000),
                ..node(n, 100)
            })
            .collect(),
    ));
    let specs = (0..streams_count).map(|s| StreamSpec::new(&stream(s).name));
    engine.apply(streams(specs.collect()));
    engine
}

#[test]
fn wrong_measurement_never_takes_a_stream_off_the_air() {
    // Goal: a bitrate that fits on no node costs nothing; after a loss the stream is placed as if
    // it were unmeasured.
    for kbps in [60_000, u32::MAX] {
        let mut engine = unclaimed(4);
        let home = ingest(&engine, 0).expect("placed");
        let event = measured(&engine, 0, kbps);
        let changes = engine.apply(event);
        engine.check();
        // The others on its node move to the one with room; the stream itself fits nowhere.
        assert!(changes.iter().all(|it| it.to.is_some()), "{changes:?}");
        assert_eq!(ingest(&engine, 0).as_deref(), Some(&*home));
        let mut minutes = 0;
        rest(&mut engine, &mut minutes);
        assert_eq!(ingest(&engine, 0).as_deref(), Some(&*home));
        engine.apply(Event::NodeStates(vec![(
            Hostname::trusted(&home),
            NodeState::Down,
        )]));
        engine.check();
        assert!((0..4).all(|s| ingest(&engine, s).is_some_and(|host| host != home)));
        assert_eq!(engine.waiting_count(), 0);
    }
}

#[test]
fn measured_stream_moves_to_a_roomier_node() {
    let mut engine = unclaimed(40);
    let home = ingest(&engine, 0).expect("placed");
    engine.apply(nodes(vec![NodeSpec {
        bandwidth_kbps: Some(200_000),
        ..node(2, 100)
    }]));
    let event = measured(&engine, 0, 40_000);
    let changes = engine.apply(event);
    engine.check();
    assert!(!changes.is_empty() && changes.len() <= 20, "{changes:?}");
    for change in &changes {
        assert_eq!(change.from.as_deref(), Some(&*home));
        assert_eq!(change.to.as_deref(), Some("node002"));
    }
    assert!(engine.node_loads().all(|node| {
        let limit = engine.kbps_limit_of(node.hostname);
        limit.is_none_or(|limit| node.kbps <= limit)
    }));
}

#[test]
fn wrong_disk_measurement_never_takes_a_stream_off_the_air() {
    let mut engine = Engine::default();
    let with_disk = |bytes| NodeSpec {
        disk_bytes: Some(bytes),
        ..node(0, 100)
    };
    engine.apply(nodes(vec![with_disk(1 << 44)]));
    let specs = (0..10).map(|s| StreamSpec {
        dvr: Some(DvrSpec {
            expiration_s: 86_400,
            ..DvrSpec::default()
        }),
        ..stream(s)
    });
    engine.apply(streams(specs.collect()));
    for bytes in [1 << 20, 0, 1 << 44] {
        let changes = engine.apply(nodes(vec![with_disk(bytes)]));
        engine.check();
        assert_eq!(changes, [], "a disk of {bytes}");
        assert!((0..10).all(|s| ingest(&engine, s).is_some()));
    }
}

#[test]
fn wrong_measurement_keeps_the_streams_of_an_agent_together() {
    let mut engine = unclaimed(0);
    let spec = |s: usize| StreamSpec {
        agents: vec![Arc::from("agent")],
        ..StreamSpec::new(&stream(s).name)
    };
    engine.apply(streams((0..3).map(spec).collect()));
    let home = ingest(&engine, 0).expect("placed");
    let mut wrong = spec(1);
    wrong.kbps = Some(60_000);
    wrong.measured = true;
    wrong.layout.ingest = Some(Hostname::trusted(&home));
    wrong.layout.by_layouter = true;
    assert_eq!(engine.apply(streams(vec![wrong])), []);
    engine.check();
    let lost = Event::NodeStates(vec![(Hostname::trusted(&home), NodeState::Down)]);
    engine.apply(lost);
    engine.check();
    assert!((0..3).all(|s| ingest(&engine, s).is_some_and(|host| host != home)));
}

#[test]
fn streams_on_the_last_lost_node_are_unplaced() {
    // Goal: no node is left to take them, although nothing moves. Method: the only node; its
    // streams, a disabled one, and a copy that waits.
    let mut engine = cluster(1, 10, 3);
    let disabled = StreamSpec {
        disabled: true,
        ..stream(8)
    };
    engine.apply(streams(vec![disabled, recorded(9, 2)]));
    let survival = engine.survival("node000").expect("known");
    assert_eq!((survival.there.streams, survival.there.copies), (4, 0));
    assert_eq!(
        (survival.unplaced.streams, survival.unplaced.copies),
        (4, 0)
    );
    let unplaced = engine.unplaced();
    assert_eq!((unplaced.streams, unplaced.copies), (0, 1));
    let waiting = |engine: &Engine| -> (u32, u32) {
        let reports = engine.class_reports();
        let sum = |of: fn(&super::layouter::ClassReport<'_>) -> u32| reports.iter().map(of).sum();
        (sum(|report| report.streams), sum(|report| report.waiting))
    };
    assert_eq!(waiting(&engine), (4, 0));
    assert_eq!(engine.apply(state(0, NodeState::Down)), []);
    let unplaced = engine.unplaced();
    assert_eq!((unplaced.streams, unplaced.copies), (4, 1));
    assert_eq!(waiting(&engine), (4, 4));
}

#[test]
fn survival_counts_streams_and_copies_apart() {
    // Ten streams and four copies: the streams survive, the copies do not.
    let mut engine = cluster(2, 12, 6);
    engine.apply(streams((6..10).map(|s| recorded(s, 2)).collect()));
    for n in [0, 1] {
        let survival = engine.survival(&node(n, 0).hostname).expect("known");
        assert_eq!(survival.unplaced.streams, 0, "{survival:?}");
        assert_eq!(survival.unplaced.copies, 4, "{survival:?}");
    }
}

#[test]
fn every_stream_of_a_chain_gives_way_for_one_reason() {
    let mut engine = Engine::default();
    let labelled = |n: usize, labels: &[&str]| NodeSpec {
        labels: labels.iter().map(|label| pair(label, "1")).collect(),
        ..node(n, 1)
    };
    let requires = |s: usize, label: &str| StreamSpec {
        labels: vec![pair(label, "1")],
        ..stream(s)
    };
    for (n, labels, s, label) in [
        (0, &["a", "ab"][..], 1, "required.ab"),
        (1, &["ab", "bc"], 2, "required.bc"),
    ] {
        engine.apply(nodes(vec![labelled(n, labels)]));
        engine.apply(streams(vec![requires(s, label)]));
    }
    engine.apply(nodes(vec![labelled(2, &["bc"])]));
    let changes = engine.apply(streams(vec![requires(0, "required.a")]));
    engine.check();
    let mut listed: Vec<_> = changes
        .iter()
        .map(|it| (it.stream.as_str(), it.from.as_deref(), it.change_reason()))
        .collect();
    listed.sort_unstable();
    let why = Some("node_channel_limit_exceeded");
    assert_eq!(
        listed,
        [
            ("stream00000", None, Some("not_distributed")),
            ("stream00001", Some("node000"), why),
            ("stream00002", Some("node001"), why),
        ]
    );
}

#[test]
fn every_refusal_has_a_public_reason() {
    let mut engine = cluster(2, 10, 0);
    engine.apply(streams(vec![recorded(0, 2)]));
    engine.apply(Event::NodePressure {
        hostname: node(0, 0).hostname,
        pressed: true,
    });
    let mut codes = Vec::new();
    for kind in [SlotKind::Ingest, SlotKind::DvrBackup] {
        for decision in engine.explain("stream00000", kind).expect("known") {
            codes.extend(decision.reasons.public_codes());
            assert_eq!(
                decision.reasons.is_empty(),
                decision.reasons.public_codes().next().is_none(),
                "{decision:?}"
            );
        }
    }
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes, ["holds_another_copy", "node_cpu_pressure"]);
}
