//! I10: every optional move improves the layout. All such moves of many random clusters are checked
//! from outside, in their order: a preferred move raises the stream's score, a balancing one does
//! not lower it, and leaves the fuller of its two nodes less full than before. If one tick makes
//! several preferred moves, a stream may gain by the first and be displaced by a greater gain of
//! another: then the sum rises.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::layouter::{
    Balance, Engine, EngineSettings, Event, LayoutChange, MoveBudgets, MoveReason, NodeSpec, Rows,
    StreamSpec,
};
use super::names::{Hostname, StreamName};
use super::random::Random;

const SEEDS: u64 = 300;
/// Scores of a matching preferred label and of a plain one that both sides have.
const PREFERRED: u32 = 100;
const SHARED: u32 = 1;

fn pair(key: &str, value: u64) -> (Arc<str>, Arc<str>) {
    (Arc::from(key), Arc::from(format!("v{value}")))
}

fn node(random: &mut Random, n: u64) -> NodeSpec {
    let mut spec = NodeSpec::streamer(&format!("node{n}"), 4 + random.below(30) as u32);
    spec.labels.push(pair("dc", random.below(3)));
    if random.once_in(2) {
        spec.labels.push(pair("rack", random.below(2)));
    }
    if random.once_in(2) {
        spec.bandwidth_kbps = Some(20_000 + 1000 * random.below(60) as u32);
    }
    spec
}

fn stream(random: &mut Random, s: u64) -> StreamSpec {
    let mut spec = StreamSpec {
        kbps: Some(500 + 100 * random.below(40) as u32),
        ..StreamSpec::new(&format!("stream{s:03}"))
    };
    if random.once_in(2) {
        spec.labels.push(pair("preferred.dc", random.below(3)));
    }
    if random.once_in(3) {
        spec.labels.push(pair("rack", random.below(2)));
    }
    if random.once_in(4) {
        spec.labels.push(pair("required.dc", random.below(3)));
    }
    spec
}

/// A model of the cluster.
struct ObservedCluster {
    nodes: BTreeMap<Hostname, NodeSpec>,
    streams: BTreeMap<StreamName, StreamSpec>,
    ingests: BTreeMap<StreamName, Hostname>,
    settings: EngineSettings,
}

impl ObservedCluster {
    fn score(&self, stream: &StreamName, host: &Hostname) -> u32 {
        let node = &self.nodes[host];
        let labels = &self.streams[stream].labels;
        let mut score = 0;
        for (key, value) in labels {
            let has = |key: &str| {
                let mut labels = node.labels.iter();
                labels.any(|(k, v)| &**k == key && v == value)
            };
            match key.strip_prefix("preferred.") {
                Some(key) if has(key) => score += PREFERRED,
                None if has(key) => score += SHARED,
                _ => {}
            }
        }
        score
    }

    fn score_of_all(&self) -> u32 {
        let placed = self.ingests.iter();
        placed.map(|(stream, host)| self.score(stream, host)).sum()
    }

    /// Load of a node, in millionths of its limit.
    fn load(&self, host: &Hostname) -> u64 {
        let node = &self.nodes[host];
        let (mut channels, mut kbps) = (0, 0);
        for (stream, _) in self.ingests.iter().filter(|(_, at)| *at == host) {
            channels += 1;
            kbps += u64::from(self.streams[stream].kbps.expect("all claim one"));
        }
        let channels = channels * 1_000_000 / u64::from(node.channel_limit);
        match (self.settings.balance, node.bandwidth_kbps) {
            (Balance::Dominant, Some(limit)) => {
                let usable = u64::from(limit) * u64::from(self.settings.bandwidth_permille) / 1000;
                channels.max(kbps * 1_000_000 / usable)
            }
            _ => channels,
        }
    }

    /// Applies a change to the model and checks it if it is an optional move, which is returned.
    fn follow(&mut self, change: &LayoutChange) -> bool {
        let loads = |world: &Self| {
            let ends = change.from.iter().chain(&change.to);
            ends.map(|host| world.load(host)).max()
        };
        let before = loads(self);
        match &change.to {
            Some(to) => self.ingests.insert(change.stream.clone(), to.clone()),
            None => self.ingests.remove(&change.stream),
        };
        let (Some(from), Some(to)) = (&change.from, &change.to) else {
            return false;
        };
        if !self.nodes.contains_key(from) {
            return false;
        }
        let score = |host| self.score(&change.stream, host);
        match change.reason {
            MoveReason::Preferred if self.settings.budgets.optional_moves_min > 1 => {}
            MoveReason::Preferred => assert!(score(to) > score(from), "{change:?}"),
            MoveReason::Rebalance => {
                assert!(score(to) >= score(from), "{change:?}");
                assert!(loads(self) < before, "{change:?}: {before:?}");
            }
            _ => return false,
        }
        true
    }
}

#[test]
fn every_optional_move_improves_the_layout() {
    let mut judged = [0; 2];
    for seed in 0..SEEDS {
        let mut random = Random::seeded(seed);
        let settings = EngineSettings {
            balance: *random.pick(&[Balance::Dominant, Balance::Channels]),
            budgets: MoveBudgets {
                optional_moves_min: *random.pick(&[1, 10]),
                ..MoveBudgets::default()
            },
            ..EngineSettings::default()
        };
        let mut engine = Engine::new(settings.clone());
        let mut world = ObservedCluster {
            nodes: BTreeMap::new(),
            streams: BTreeMap::new(),
            ingests: BTreeMap::new(),
            settings,
        };
        let (mut revision, mut now_ms) = (0, 0);
        for round in 0..12 {
            let mut rows = Rows::default();
            for _ in 0..if round == 0 { 4 } else { random.below(2) } {
                let n = random.below(8);
                let spec = node(&mut random, n);
                world.nodes.insert(spec.hostname.clone(), spec.clone());
                rows.nodes.retain(|known| known.hostname != spec.hostname);
                rows.nodes.push(spec);
            }
            for _ in 0..random.below(40) {
                let s = random.below(120);
                let mut spec = stream(&mut random, s);
                revision += 1;
                spec.revision = revision;
                if let Some(at) = world.ingests.get(&spec.name) {
                    spec.layout.ingest = Some(at.clone());
                    spec.layout.by_layouter = true;
                }
                world.streams.insert(spec.name.clone(), spec.clone());
                rows.streams.retain(|known| known.name != spec.name);
                rows.streams.push(spec);
            }
            for _ in 0..random.below(12) {
                let name = StreamName::trusted(&format!("stream{:03}", random.below(120)));
                if rows.streams.iter().all(|spec| spec.name != name)
                    && world.streams.remove(&name).is_some()
                {
                    world.ingests.remove(&name);
                    rows.streams_deleted.push(name);
                }
            }
            for change in engine.apply(Event::Commit(rows)) {
                world.follow(&change);
            }
            engine.check();
            for _ in 0..6 {
                now_ms += 700_000;
                let confirmed: Vec<Hostname> = world.nodes.keys().cloned().collect();
                for hostname in confirmed {
                    engine.apply(Event::Confirmed {
                        hostname,
                        revision: u64::MAX,
                    });
                }
                let score = world.score_of_all();
                let mut preferred = 0;
                let changes = engine.apply(Event::Tick { now_ms });
                // Room for a waiting stream is worth more than any label.
                let none_came_in = changes.iter().all(|change| change.from.is_some());
                for change in changes {
                    if world.follow(&change) {
                        judged[usize::from(change.reason == MoveReason::Rebalance)] += 1;
                        preferred += u32::from(change.reason == MoveReason::Preferred);
                    }
                }
                assert!(!none_came_in || world.score_of_all() >= score + preferred.min(1));
            }
        }
    }
    assert!(judged.iter().all(|count| *count > 500), "{judged:?}");
}
