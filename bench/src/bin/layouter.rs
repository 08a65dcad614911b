//! The layouter at the size of a large operator, beside what is usually done instead. Targets: a
//! full layout of 1,000,000 streams on 10,000 nodes in 1 s, an event in 20 us (p99), the loss of a
//! node with 3,000 slots in 5 ms with no move more than it had slots, a preview in 2 ms, 64 bytes
//! per stream.
//!
//! `cargo run --release -p weir-bench --bin layouter -- [STREAMS [NODES]]`

use std::collections::HashMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use weir::testing::layouter::{
    Engine, EngineSettings, Event, NodeSpec, NodeState, Rows, SlotKind, StreamSpec,
};
use weir::testing::state::name::{Hostname, StreamName};
use weir_bench::alloc;
use weir_bench::fleet::{Fleet, Random, fleet};
use weir_bench::instead::{self, NONE, Packed, Rings, each_with_each, hashing};
use weir_testkit::sys::thread_cpu;

/// All of a node may be used: the fleet is made to be this full.
fn settings() -> EngineSettings {
    EngineSettings {
        bandwidth_permille: 1000,
        disk_permille: 1000,
        ..EngineSettings::default()
    }
}

fn ms(since: Duration) -> f64 {
    thread_cpu().saturating_sub(since).as_secs_f64() * 1e3
}

fn us(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

fn report(what: &str, figure: &str) {
    println!("{what:<58} {figure}");
}

fn percentiles(what: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    report(
        what,
        &format!(
            "p50 {:>8.2} us   p99 {:>8.2} us   p99.9 {:>8.2} us   max {:>8.2} us",
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        ),
    );
}

fn load(fleet: &Fleet, lost: Option<&Hostname>) -> Engine {
    let mut engine = Engine::new(settings());
    let mut nodes = fleet.nodes.clone();
    for node in &mut nodes {
        if Some(&node.hostname) == lost {
            node.state = NodeState::Down;
        }
    }
    engine.apply(Event::Load(Rows {
        nodes,
        ..Rows::default()
    }));
    for part in fleet.streams.chunks(10_000) {
        engine.apply(Event::Load(Rows {
            streams: part.to_vec(),
            ..Rows::default()
        }));
    }
    engine
}

/// Ticks until nothing moves, everything confirmed. Moves and ticks.
fn settle(engine: &mut Engine, now_ms: &mut u64) -> (usize, usize) {
    let (mut moves, mut ticks) = (0, 0);
    loop {
        *now_ms += 700_000;
        let changes = engine.apply(Event::Tick { now_ms: *now_ms });
        ticks += 1;
        moves += changes.len();
        if changes.is_empty() || ticks == 1000 {
            return (moves, ticks);
        }
    }
}

fn state(host: &Hostname, state: NodeState) -> Event {
    Event::NodeStates(vec![(host.clone(), state)])
}

fn save(spec: StreamSpec) -> Event {
    Event::Commit(Rows {
        streams: vec![spec],
        ..Rows::default()
    })
}

/// Where each stream's ingest is.
fn ingests(engine: &Engine, fleet: &Fleet) -> Vec<Option<Hostname>> {
    fleet
        .streams
        .iter()
        .map(|spec| engine.layout(&spec.name).and_then(|layout| layout.ingest))
        .collect()
}

fn with_layouts(engine: &Engine, fleet: &Fleet) -> Fleet {
    let mut streams = fleet.streams.clone();
    for spec in &mut streams {
        let layout = engine.layout(&spec.name).expect("it was loaded");
        spec.layout.ingest = layout.ingest;
        spec.layout.inference = layout.inference;
        spec.layout.dvr_backups = layout.dvr_backups;
        spec.layout.by_layouter = true;
    }
    Fleet {
        nodes: fleet.nodes.clone(),
        streams,
    }
}

fn main() {
    let arguments: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let streams = arguments.first().copied().unwrap_or(1_000_000);
    let nodes = arguments.get(1).copied().unwrap_or(streams.div_ceil(100));
    let made = fleet(42, streams, nodes);
    println!(
        "{streams} streams, {} nodes; one core; ms are of the thread's own time, us of the clock \
         on the wall",
        made.nodes.len()
    );

    let started = thread_cpu();
    let before = alloc::counts();
    let mut engine = load(&made, None);
    report(
        "all streams and nodes loaded",
        &format!("{:>9.1} ms", ms(started)),
    );
    let started = thread_cpu();
    let mut slots = 0;
    engine.apply_each(Event::Loaded, |change| {
        black_box(change);
        slots += 1;
    });
    let full_ms = ms(started);
    slots += engine.waiting_count() as usize;
    report(
        "FULL LAYOUT from nothing",
        &format!(
            "{full_ms:>9.1} ms   {slots} slots, {:.0} ns each, {} without a node, {} stream and \
             {} node classes",
            full_ms * 1e6 / slots as f64,
            engine.waiting_count(),
            engine.stream_classes_count(),
            engine.node_classes_count(),
        ),
    );
    report(
        "memory",
        &format!(
            "{:>9.1} B per stream, {:.1} with names and their index (as allocated)",
            engine.memory_bytes() as f64 / streams as f64,
            (alloc::counts().live - before.live) as f64 / streams as f64,
        ),
    );
    let mut now_ms = 1_000_000;
    let started = thread_cpu();
    let (moves, ticks) = settle(&mut engine, &mut now_ms);
    report(
        "first ticks, to rest",
        &format!("{:>9.1} ms   {moves} moves in {ticks} ticks", ms(started)),
    );
    engine.check();

    restart(&engine, &made, now_ms);
    idle(&mut engine, &mut now_ms);
    events(&mut engine, &made);
    let (moves, _) = settle(&mut engine, &mut now_ms);
    report("to rest after these", &format!("{moves:>9} moves"));
    previews(&engine, &made);
    failures(&mut engine, &made, &mut now_ms);
    baselines(&engine, &made, full_ms);
}

fn restart(engine: &Engine, made: &Fleet, now_ms: u64) {
    let stored = with_layouts(engine, made);
    let started = thread_cpu();
    let mut again = load(&stored, None);
    let changes = again.apply(Event::Loaded);
    let took = ms(started);
    let moved = changes
        .iter()
        .filter(|change| change.from.is_some())
        .count();
    let waited = changes.len() - moved;
    let mut later = 0;
    for i in 1..=3 {
        later += again
            .apply(Event::Tick {
                now_ms: now_ms + i * 30_000,
            })
            .len();
    }
    report(
        "RESTART: all loaded, layouts adopted",
        &format!(
            "{took:>9.1} ms   {moved} moved, {waited} placed that waited, {later} changes in 3 \
             ticks"
        ),
    );
}

fn idle(engine: &mut Engine, now_ms: &mut u64) {
    let started = thread_cpu();
    let mut changes = 0;
    for _ in 0..50 {
        *now_ms += 30_000;
        changes += engine.apply(Event::Tick { now_ms: *now_ms }).len();
    }
    report(
        "50 idle intervals",
        &format!("{:>9.3} ms   {changes} changes", ms(started)),
    );
}

fn events(engine: &mut Engine, made: &Fleet) {
    let mut random = Random(7);
    let calls = 20_000.min(made.streams.len());
    let mut pick = || made.streams[random.below(made.streams.len() as u64) as usize].clone();
    let mut added = Vec::with_capacity(calls);
    let (mut adds, mut edits, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..calls {
        let mut spec = pick();
        spec.name = StreamName::trusted(&format!("new/{i}"));
        spec.agents.clear();
        added.push(spec.name.clone());
        let event = save(spec);
        let started = Instant::now();
        let changes = engine.apply(event);
        adds.push(us(started));
        drop(black_box(changes));
    }
    for name in &added {
        let mut spec = pick();
        spec.name = name.clone();
        spec.agents.clear();
        let layout = engine.layout(name).expect("it was added");
        spec.layout.ingest = layout.ingest;
        spec.layout.inference = layout.inference;
        spec.layout.dvr_backups = layout.dvr_backups;
        let event = save(spec);
        let started = Instant::now();
        let changes = engine.apply(event);
        edits.push(us(started));
        drop(black_box(changes));
    }
    for name in added {
        let event = Event::Commit(Rows {
            streams_deleted: vec![name],
            ..Rows::default()
        });
        let started = Instant::now();
        let changes = engine.apply(event);
        deletes.push(us(started));
        drop(black_box(changes));
    }
    percentiles("one stream added", adds);
    percentiles("one stream gets another's labels and sizes", edits);
    percentiles("one stream deleted", deletes);
}

fn previews(engine: &Engine, made: &Fleet) {
    let mut random = Random(9);
    let mut times = Vec::new();
    for _ in 0..50 {
        let mut spec = made.streams[random.below(made.streams.len() as u64) as usize].clone();
        spec.name = StreamName::trusted("a stream that is only supposed");
        spec.agents.clear();
        let started = Instant::now();
        black_box(engine.snapshot().apply(save(spec)));
        times.push(us(started));
    }
    percentiles("PREVIEW of one stream", times);
    let mut times = Vec::new();
    for _ in 0..50 {
        let spec = &made.streams[random.below(made.streams.len() as u64) as usize];
        let started = Instant::now();
        black_box(engine.explain(&spec.name, SlotKind::Ingest));
        times.push(us(started));
    }
    percentiles("explain one stream over all nodes", times);
    let spec = &made.streams[0];
    let started = Instant::now();
    let capacity = engine.capacity(spec);
    report(
        "capacity for streams like the first",
        &format!(
            "{:>9.1} us   {} more, then {:?}",
            us(started),
            capacity.fits,
            capacity.bottleneck
        ),
    );
}

/// Slots per node.
fn slots_on(engine: &Engine, made: &Fleet) -> HashMap<Hostname, usize> {
    let mut count: HashMap<Hostname, usize> = HashMap::new();
    for spec in &made.streams {
        let layout = engine.layout(&spec.name).expect("it was loaded");
        for host in layout
            .ingest
            .into_iter()
            .chain(layout.inference)
            .chain(layout.dvr_backups)
        {
            *count.entry(host).or_default() += 1;
        }
    }
    count
}

/// Nodes with about so many slots: the smallest that have at least that, or else the largest of
/// all.
fn pick_nodes(
    slots: &HashMap<Hostname, usize>,
    at_least: usize,
    count: usize,
) -> Vec<(&Hostname, usize)> {
    let mut all: Vec<(&Hostname, usize)> =
        slots.iter().map(|(host, count)| (host, *count)).collect();
    all.sort_by_key(|(host, count)| (*count, (*host).clone()));
    let first = all.partition_point(|(_, count)| *count < at_least);
    let first = first.min(all.len().saturating_sub(count));
    all[first..].iter().copied().take(count).collect()
}

/// Nodes of one size that are lost one after another, for a median.
const LOSSES: usize = 9;

fn failures(engine: &mut Engine, made: &Fleet, now_ms: &mut u64) {
    let slots = slots_on(engine, made);
    for wanted in [100, 400, 3000] {
        let nodes = pick_nodes(&slots, wanted, LOSSES);
        let (mut own, mut previewed, mut returned) = (Vec::new(), Vec::new(), Vec::new());
        let (mut slots_lost, mut moved, mut others) = (0, 0, 0);
        for (host, count) in &nodes {
            let event = state(host, NodeState::Down);
            // The snapshot pays for copying what it touches; the figure is what the engine itself
            // pays.
            let mut lost = engine.snapshot();
            let started = thread_cpu();
            let changes = lost.apply(event.clone());
            previewed.push(ms(started));
            drop(lost);
            let started = thread_cpu();
            let again = engine.apply(event);
            own.push(ms(started));
            assert_eq!(changes, again, "a preview is what happens");
            slots_lost += count;
            moved += again.iter().filter(|change| change.to.is_some()).count();
            others += again
                .iter()
                .filter(|change| change.from.as_ref() != Some(*host))
                .count();
            returned.push(come_back(engine, host, now_ms));
        }
        let sizes = |end: Option<&(&Hostname, usize)>| end.map_or(0, |(_, count)| *count);
        report(
            &format!(
                "LOSS of a node with {} to {} slots, {} times",
                sizes(nodes.first()),
                sizes(nodes.last()),
                nodes.len()
            ),
            &format!(
                "p50 {:>6.2} ms   max {:>6.2} ms   {moved} moves, at least {slots_lost}; {others} \
                 of other slots; previewed p50 {:.2} ms; and back {:.1} ms",
                middle(&mut own),
                own.last().copied().unwrap_or_default(),
                middle(&mut previewed),
                middle(&mut returned),
            ),
        );
    }
    let centre: Vec<(Hostname, NodeState)> = made
        .nodes
        .iter()
        .filter(|node| {
            node.labels
                .iter()
                .any(|(key, value)| &**key == "dc" && &**value == "d0")
        })
        .map(|node| (node.hostname.clone(), NodeState::Down))
        .collect();
    let count: usize = centre.iter().filter_map(|(host, _)| slots.get(host)).sum();
    let mut lost = engine.snapshot();
    let nodes = centre.len();
    let started = thread_cpu();
    let changes = lost.apply(Event::NodeStates(centre));
    report(
        &format!("LOSS of a data centre: {nodes} nodes, {count} slots"),
        &format!(
            "{:>9.1} ms   {} moves, {} without a node",
            ms(started),
            changes.iter().filter(|change| change.to.is_some()).count(),
            changes.iter().filter(|change| change.to.is_none()).count(),
        ),
    );
}

fn moved(a: &[Option<Hostname>], b: &[Option<Hostname>]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

/// Sorts and returns the median.
fn middle(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Brings the node back and runs ticks until its streams are back. Returns the total milliseconds.
fn come_back(engine: &mut Engine, host: &Hostname, now_ms: &mut u64) -> f64 {
    engine.apply(state(host, NodeState::Probation));
    engine.apply(state(host, NodeState::Up));
    let (mut spent, mut ticks) = (0.0, 0);
    loop {
        *now_ms += 30_000;
        let started = thread_cpu();
        let changes = engine.apply(Event::Tick { now_ms: *now_ms });
        spent += ms(started);
        ticks += 1;
        if changes.is_empty() && ticks > 2 || ticks == 200 {
            return spent;
        }
    }
}

/// What is usually done instead, on the same cluster.
fn baselines(engine: &Engine, made: &Fleet, full_ms: f64) {
    println!("-- instead");
    let slots = slots_on(engine, made);
    let (host, count) = pick_nodes(&slots, 3000, 1)[0];
    let before = ingests(engine, made);
    let on_it = before.iter().filter(|at| at.as_ref() == Some(host)).count();
    let mut again = load(made, Some(host));
    let started = thread_cpu();
    again.apply(Event::Loaded);
    let took = ms(started);
    let after = ingests(&again, made);
    report(
        &format!("the same rules computed again without a node of {count} slots"),
        &format!(
            "{took:>9.1} ms   {} ingests move, {on_it} had to",
            moved(&before, &after)
        ),
    );
    let sample = 2_000.min(made.streams.len());
    let started = thread_cpu();
    let placed = naive(made, sample);
    let each = ms(started) / sample as f64;
    report(
        "every stream with every node, labels as maps",
        &format!(
            "{:>9.0} ms   by a sample of {sample} ({placed} placed); {:.0} times as long",
            each * made.streams.len() as f64,
            each * made.streams.len() as f64 / full_ms
        ),
    );
    packed_and_hashed(made, full_ms);
}

/// The packed loop, and consistent hashing with and without respect for what a place is worth.
/// Ingests only.
fn packed_and_hashed(made: &Fleet, full_ms: f64) {
    let cluster = Packed::new(&made.nodes, &made.streams);
    let sample = 20_000.min(made.streams.len());
    let started = thread_cpu();
    let placed = each_with_each(&cluster, sample);
    let whole_ms = ms(started) / sample as f64 * made.streams.len() as f64;
    let placed = placed.iter().filter(|node| **node != NONE).count();
    report(
        "every stream with every node, packed arrays",
        &format!(
            "{whole_ms:>9.0} ms   by a sample of {sample} ({placed} placed); {:.1} times as long",
            whole_ms / full_ms
        ),
    );
    for (what, by_worth) in [("no preferences", false), ("a ring per preference", true)] {
        let started = thread_cpu();
        let rings = Rings::new(&cluster, by_worth);
        let rings_ms = ms(started);
        let started = thread_cpu();
        let before = hashing(&cluster, &rings, &[], by_worth, 250);
        let took = ms(started);
        let mut on = vec![0_usize; cluster.nodes()];
        for node in before.iter().filter(|node| **node != NONE) {
            on[*node as usize] += 1;
        }
        let lost = (0..on.len()).max_by_key(|node| on[*node]).unwrap_or(0);
        let after = hashing(&cluster, &rings, &[lost as u32], by_worth, 250);
        let (placed, got, best) = cluster.quality(&before);
        report(
            &format!("hashing with bounded loads, {what}"),
            &format!(
                "{took:>9.1} ms   after {rings_ms:.0} ms for the rings; {} not placed, {:.1} % of \
                 the preferences; a node of {} lost: {} move",
                cluster.streams() - placed,
                got as f64 / best.max(1) as f64 * 100.0,
                on[lost],
                instead::moved(&before, &after),
            ),
        );
    }
}

/// The textbook: filter and score every node for every stream.
fn naive(made: &Fleet, sample: usize) -> usize {
    struct Open<'a> {
        spec: &'a NodeSpec,
        labels: HashMap<&'a str, &'a str>,
        channels: u32,
    }
    let mut nodes: Vec<Open<'_>> = made
        .nodes
        .iter()
        .map(|spec| Open {
            spec,
            labels: spec
                .labels
                .iter()
                .map(|(key, value)| (&**key, &**value))
                .collect(),
            channels: 0,
        })
        .collect();
    let mut placed = 0;
    for stream in &made.streams[..sample] {
        let own: HashMap<&str, &str> = stream
            .labels
            .iter()
            .map(|(key, value)| (&**key, &**value))
            .collect();
        let mut best: Option<(u32, std::cmp::Reverse<u64>, usize)> = None;
        for (i, node) in nodes.iter().enumerate() {
            if node.spec.namespace != stream.namespace
                || node.channels >= node.spec.channel_limit
                || stream.transcoder && !node.spec.transcoder
            {
                continue;
            }
            let mut score = 0;
            let mut allowed = true;
            for (key, value) in &own {
                if let Some(key) = key.strip_prefix("required.") {
                    allowed &= node.labels.get(key) == Some(value);
                } else if let Some(key) = key.strip_prefix("preferred.") {
                    score += u32::from(node.labels.get(key) == Some(value));
                }
            }
            for (key, value) in &node.labels {
                if let Some(key) = key.strip_prefix("required.") {
                    allowed &= own.get(key) == Some(value);
                }
            }
            let load = (u64::from(node.channels) << 20) / u64::from(node.spec.channel_limit.max(1));
            let candidate = (score, std::cmp::Reverse(load), i);
            if allowed && best.is_none_or(|best| (candidate.0, candidate.1) > (best.0, best.1)) {
                best = Some(candidate);
            }
        }
        if let Some((.., i)) = best {
            nodes[i].channels += 1;
            placed += 1;
        }
    }
    placed
}
