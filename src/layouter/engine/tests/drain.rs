//! A drained node is emptied by pace, copies first, and nothing is off the air for it.

use super::layouter::{
    DrainProgress, DrainSpec, DvrSpec, Engine, Event, LayoutChange, MoveReason, NodeSpec,
    NodeState, Shed, ShedTarget, SlotKind, StreamSpec,
};
use super::names::{Hostname, StreamName};
use super::save;

const AT_ONCE: DrainSpec = DrainSpec {
    streams_per_minute: 0,
    deadline_utc_ms: None,
    returns: true,
    keeps_ms: 20_000,
};

fn host(n: usize) -> Hostname {
    Hostname::trusted(&format!("s{n}"))
}

fn node(n: usize, channel_limit: u32) -> NodeSpec {
    NodeSpec::streamer(&host(n), channel_limit)
}

fn drained(n: usize, drain: DrainSpec) -> NodeSpec {
    NodeSpec {
        cordoned: true,
        drain: Some(drain),
        ..node(n, 100)
    }
}

/// A stream with its nodes in the row: the ingest, then the copies.
fn stream(name: &str, on: &[usize]) -> StreamSpec {
    let mut spec = StreamSpec::new(name);
    let (ingest, copies) = on.split_first().expect("an ingest");
    spec.layout.ingest = Some(host(*ingest));
    spec.layout.dvr_backups = copies.iter().map(|n| host(*n)).collect();
    if !copies.is_empty() {
        spec.dvr = Some(DvrSpec {
            redundancy_factor: 1 + copies.len() as u32,
            ..DvrSpec::default()
        });
    }
    spec
}

fn streams(count: usize, on: usize) -> Vec<StreamSpec> {
    let named = |i| stream(&format!("a{i:02}"), &[on]);
    (0..count).map(named).collect()
}

fn engine(nodes: Vec<NodeSpec>, rows: Vec<StreamSpec>) -> Engine {
    let mut engine = Engine::default();
    engine.apply(Event::Tick { now_ms: 1000 });
    save(&mut engine, nodes, rows);
    engine
}

fn step(engine: &mut Engine, now_ms: u64) -> Vec<LayoutChange> {
    let changes = engine.apply(Event::Drain {
        now_ms,
        utc_ms: now_ms,
    });
    engine.check();
    changes
}

fn left(engine: &Engine, n: usize) -> DrainProgress {
    let mut all = engine.draining();
    let found = all.find(|(hostname, _)| *hostname == host(n));
    found.expect("it is drained").1
}

fn ingest(engine: &Engine, name: &str) -> Hostname {
    let layout = engine.layout(name).expect("it is known");
    layout.ingest.expect("it is on the air")
}

/// The nodes of a stream's copies, in order.
fn copies(engine: &Engine, name: &str) -> Vec<Hostname> {
    let mut copies = engine.layout(name).expect("it is known").dvr_backups;
    copies.sort_unstable();
    copies
}

fn copies_run(engine: &mut Engine, n: usize) -> Vec<LayoutChange> {
    let building = engine.building_on(&host(n)).into_iter();
    let streams: Vec<StreamName> = building.map(|(name, _)| name).collect();
    assert!(!streams.is_empty(), "nothing is built on s{n}");
    let changes = engine.apply(Event::CopiesRun {
        hostname: host(n),
        streams,
    });
    engine.check();
    changes
}

/// The writer writes a layout, and the nodes are sent it.
fn write(engine: &mut Engine, name: &str, revision: u64) {
    let layout = engine.layout(name).expect("it is known");
    let mut spec = stream(name, &[1]);
    spec.revision = revision;
    spec.dvr = Some(DvrSpec {
        redundancy_factor: 2,
        ..DvrSpec::default()
    });
    spec.layout.ingest = layout.ingest;
    spec.layout.dvr_backups = layout.dvr_backups;
    spec.layout.failover_from = layout.failover_from;
    spec.layout.by_layouter = true;
    save(engine, Vec::new(), vec![spec]);
    for n in 1..=4 {
        engine.apply(Event::Confirmed {
            hostname: host(n),
            revision,
        });
    }
}

#[test]
fn streams_leave_a_drained_node_by_its_pace() {
    let mut engine = engine(vec![node(1, 100), node(2, 100)], streams(20, 1));
    let pace = DrainSpec {
        streams_per_minute: 120,
        ..AT_ONCE
    };
    save(&mut engine, vec![drained(1, pace)], Vec::new());
    let mut moved = 0;
    for second in 2..=8 {
        let changes = step(&mut engine, second * 1000);
        assert!(changes.iter().all(|it| it.reason == MoveReason::Drain
            && it.to == Some(host(2))
            && it.failover_from == Some(host(1))));
        moved += changes.len();
        // The first leaves at once, then two a second.
        assert_eq!(moved as u64, 1 + (second - 2) * 2);
    }
    // After a pause of the server the drain does not catch up more than some seconds.
    moved += step(&mut engine, 500_000).len();
    assert_eq!(moved, 20, "13 and ten more, but only 20 were there");
    assert_eq!(left(&engine, 1), DrainProgress::default());
}

#[test]
fn pause_of_the_server_is_caught_up_for_seconds_only() {
    let mut engine = engine(vec![node(1, 100), node(2, 100)], streams(60, 1));
    let pace = DrainSpec {
        streams_per_minute: 60,
        ..AT_ONCE
    };
    save(&mut engine, vec![drained(1, pace)], Vec::new());
    assert_eq!(step(&mut engine, 2000).len(), 1);
    assert_eq!(step(&mut engine, 902_000).len(), 6);
}

#[test]
fn deadline_of_a_drain_raises_its_pace() {
    let mut engine = engine(vec![node(1, 100), node(2, 100)], streams(20, 1));
    let slow = DrainSpec {
        streams_per_minute: 1,
        deadline_utc_ms: Some(12_000),
        ..AT_ONCE
    };
    save(&mut engine, vec![drained(1, slow)], Vec::new());
    let mut per_step = Vec::new();
    for second in 2..=12 {
        per_step.push(step(&mut engine, second * 1000).len());
    }
    assert_eq!(per_step.iter().sum::<usize>(), 20);
    assert!(per_step.iter().all(|count| *count <= 4), "{per_step:?}");
}

#[test]
fn stream_without_a_place_elsewhere_stays_on_the_air() {
    let mut engine = engine(vec![node(1, 100), node(2, 3)], streams(5, 1));
    save(&mut engine, vec![drained(1, AT_ONCE)], Vec::new());
    assert_eq!(step(&mut engine, 2000).len(), 3);
    for second in 3..6 {
        assert_eq!(step(&mut engine, second * 1000), []);
    }
    let expected = DrainProgress {
        ingests: 2,
        no_place: 2,
        ..DrainProgress::default()
    };
    assert_eq!(left(&engine, 1), expected);
    save(&mut engine, vec![node(3, 10)], Vec::new());
    assert_eq!(step(&mut engine, 6000).len(), 2);
    assert_eq!(left(&engine, 1), DrainProgress::default());
}

#[test]
fn drained_stream_does_not_take_room_that_is_not_free_yet() {
    let nodes = vec![node(1, 100), node(2, 1), node(3, 1)];
    let mut engine = engine(nodes, vec![stream("a", &[1]), stream("b", &[2])]);
    // `b` leaves for the third node, which does not have it yet.
    let press = |pressed| Event::NodePressure {
        hostname: host(2),
        pressed,
    };
    engine.apply(press(true));
    engine.apply(Event::Shed(Shed {
        hostname: host(2),
        streams_max: 1,
        targets: vec![ShedTarget {
            hostname: host(3),
            streams_max: 1,
        }],
    }));
    engine.apply(press(false));
    assert_eq!(ingest(&engine, "b"), host(3));
    save(&mut engine, vec![drained(1, AT_ONCE)], Vec::new());
    step(&mut engine, 2000);
    assert_eq!(ingest(&engine, "a"), host(1));
    engine.apply(Event::Confirmed {
        hostname: host(3),
        revision: 0,
    });
    step(&mut engine, 3000);
    assert_eq!(ingest(&engine, "a"), host(2));
}

#[test]
fn others_make_room_for_what_a_drained_node_has() {
    // `b` may be anywhere and is on the only node that `a` may go to.
    let label = |key: &str| vec![(key.into(), "x".into())];
    let labelled = |n, limit| NodeSpec {
        labels: label("site"),
        ..node(n, limit)
    };
    let mut bound = stream("a", &[1]);
    bound.labels = label("required.site");
    let nodes = vec![labelled(1, 100), labelled(2, 1), node(3, 1)];
    let mut engine = engine(nodes, vec![bound, stream("b", &[2])]);
    let closed = NodeSpec {
        labels: label("site"),
        ..drained(1, AT_ONCE)
    };
    save(&mut engine, vec![closed], Vec::new());
    step(&mut engine, 2000);
    assert_eq!(ingest(&engine, "a"), host(2));
    assert_eq!(ingest(&engine, "b"), host(3));
}

#[test]
fn old_copy_is_kept_until_the_new_one_runs() {
    let nodes = vec![node(1, 100), node(2, 100), node(3, 100)];
    let mut engine = engine(nodes, vec![stream("a", &[2, 1])]);
    save(&mut engine, vec![drained(1, AT_ONCE)], Vec::new());
    step(&mut engine, 2000);
    assert_eq!(copies(&engine, "a"), [host(1), host(3)]);
    assert_eq!(left(&engine, 1).kept_copies, 1);
    // The row as it was written, and an edit of it, change nothing.
    write(&mut engine, "a", 1);
    write(&mut engine, "a", 2);
    step(&mut engine, 3000);
    assert_eq!(copies(&engine, "a"), [host(1), host(3)]);
    let changes = copies_run(&mut engine, 3);
    let change = &changes[0];
    assert_eq!(
        (change.kind, change.from.as_ref(), change.to.as_ref()),
        (SlotKind::DvrBackup, Some(&host(1)), None)
    );
    assert_eq!((changes.len(), copies(&engine, "a")), (1, vec![host(3)]));
    assert!(left(&engine, 1).is_empty());
}

#[test]
fn old_copy_goes_at_its_limit_or_with_its_node() {
    let begin = || {
        let nodes = vec![node(1, 100), node(2, 100), node(3, 100)];
        let mut engine = engine(nodes, vec![stream("a", &[2, 1])]);
        save(&mut engine, vec![drained(1, AT_ONCE)], Vec::new());
        step(&mut engine, 2000);
        assert_eq!(copies(&engine, "a"), [host(1), host(3)]);
        engine
    };
    let mut late = begin();
    step(&mut late, 21_999);
    assert_eq!(copies(&late, "a"), [host(1), host(3)]);
    assert_eq!(step(&mut late, 22_000).len(), 1);
    assert_eq!(copies(&late, "a"), [host(3)]);

    let mut lost = begin();
    lost.apply(Event::NodeStates(vec![(host(1), NodeState::Down)]));
    assert_eq!(copies(&lost, "a"), [host(3)]);

    let mut unrecorded = begin();
    let mut row = stream("a", &[2]);
    row.layout.dvr_backups = vec![host(1), host(3)];
    save(&mut unrecorded, Vec::new(), vec![row]);
    assert_eq!(copies(&unrecorded, "a"), []);
}

#[test]
fn restart_goes_on_with_copies_that_are_kept() {
    let mut row = stream("a", &[2, 1]);
    row.layout.dvr_backups.push(host(3));
    let mut engine = Engine::default();
    engine.apply(Event::Load(super::Rows {
        nodes: vec![drained(1, AT_ONCE), node(2, 100), node(3, 100)],
        ..super::Rows::default()
    }));
    engine.apply(Event::Load(super::Rows {
        streams: vec![row],
        ..super::Rows::default()
    }));
    assert_eq!(engine.apply(Event::Loaded), []);
    engine.apply(Event::Tick { now_ms: 700_000 });
    assert_eq!(step(&mut engine, 701_000), []);
    assert_eq!(copies(&engine, "a"), [host(1), host(3)]);
    assert_eq!(copies_run(&mut engine, 3).len(), 1);
    assert_eq!(copies(&engine, "a"), [host(3)]);
}

#[test]
fn two_drained_nodes_do_not_take_all_copies_of_a_stream_at_once() {
    let nodes = (1..=4).map(|n| node(n, 100)).collect();
    let mut engine = engine(nodes, vec![stream("a", &[1, 2])]);
    let both = vec![drained(1, AT_ONCE), drained(2, AT_ONCE)];
    save(&mut engine, both, Vec::new());
    // The first node's step comes first: its ingest leaves, and the copy stays.
    step(&mut engine, 2000);
    let (first, kept) = (ingest(&engine, "a"), copies(&engine, "a"));
    assert_eq!(kept, [host(2)]);
    assert_ne!(first, host(1));
    step(&mut engine, 3000);
    assert_eq!(copies(&engine, "a"), [host(2)], "the ingest is on its way");
    write(&mut engine, "a", 1);
    step(&mut engine, 4000);
    let building = copies(&engine, "a");
    assert_eq!(building.len(), 2, "{building:?}");
    assert!(building.contains(&host(2)));
}

#[test]
fn ingest_takes_the_place_of_its_copy_after_the_deadline() {
    let nodes = vec![node(1, 100), node(2, 1)];
    let mut engine = engine(nodes, vec![stream("a", &[1, 2])]);
    let drain = DrainSpec {
        deadline_utc_ms: Some(10_000),
        ..AT_ONCE
    };
    save(&mut engine, vec![drained(1, drain)], Vec::new());
    step(&mut engine, 9000);
    assert_eq!(
        (ingest(&engine, "a"), left(&engine, 1).no_place),
        (host(1), 1)
    );
    save(&mut engine, vec![drained(1, drain)], Vec::new());
    step(&mut engine, 10_000);
    assert_eq!(ingest(&engine, "a"), host(2));
    assert!(left(&engine, 1).is_overdue);
}

#[test]
fn streams_return_after_the_drain_if_they_should() {
    for returns in [true, false] {
        let mut engine = engine(vec![node(1, 100), node(2, 100)], streams(4, 1));
        let drain = DrainSpec { returns, ..AT_ONCE };
        save(&mut engine, vec![drained(1, drain)], Vec::new());
        assert_eq!(step(&mut engine, 2000).len(), 4);
        engine.apply(Event::Tick { now_ms: 40_000 });
        assert_eq!(ingest(&engine, "a00"), host(2), "it is not open yet");
        save(&mut engine, vec![node(1, 100)], Vec::new());
        let changes = engine.apply(Event::Tick { now_ms: 80_000 });
        let back = changes.iter().filter(|it| it.reason == MoveReason::Restore);
        assert_eq!(back.count(), if returns { 4 } else { 0 });
    }
}
