//! A large made-up cluster to place: regions of unequal demand, nodes of unequal size, a few heavy
//! streams and many light ones.
//!
//! Twenty regions with Zipf(0.8) demand, filled to between 50 and 94 %; four data centres each; one
//! region is a namespace of its own. Streams demand their region (8 % go anywhere), six in ten
//! prefer a data centre, half record 1 to 30 days, 1 % share agents in groups of two to eight, a
//! tenth have backups or inference.

use std::sync::Arc;

use weir::testing::layouter::{DvrSpec, NodeSpec, NodeState, PlacementRole, StreamSpec};
use weir::testing::state::name::{Hostname, StreamName};

pub const REGIONS: usize = 20;
const DATA_CENTRES: u64 = 4;
/// Region with a namespace of its own.
const OWN_NAMESPACE: usize = 3;

pub struct Fleet {
    pub nodes: Vec<NodeSpec>,
    pub streams: Vec<StreamSpec>,
}

/// Splitmix64.
pub struct Random(pub u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.word()) * u128::from(bound)) >> 64) as u64
    }

    fn part(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn chance(&mut self, of: f64) -> bool {
        self.part() < of
    }
}

type Label = (Arc<str>, Arc<str>);

/// Every label is made once: a million streams share them.
struct Labels {
    required_region: Vec<Label>,
    region: Vec<Label>,
    data_centre: Vec<Label>,
    preferred_data_centre: Vec<Label>,
    tenant: Vec<Label>,
    required_tenant: Vec<Label>,
    ssd: [Label; 2],
    preferred_ssd: Label,
}

fn label(key: &str, value: String) -> Label {
    (Arc::from(key), Arc::from(value))
}

impl Labels {
    fn new() -> Self {
        let regions = |key: &str| (0..REGIONS).map(|r| label(key, format!("r{r}"))).collect();
        let centres = |key: &str| {
            (0..REGIONS as u64 * DATA_CENTRES)
                .map(|d| label(key, format!("d{d}")))
                .collect()
        };
        let tenants = |key: &str| (0..10).map(|t| label(key, format!("t{t}"))).collect();
        Self {
            required_region: regions("required.region"),
            region: regions("region"),
            data_centre: centres("dc"),
            preferred_data_centre: centres("preferred.dc"),
            tenant: tenants("tenant"),
            required_tenant: tenants("required.tenant"),
            ssd: [label("disk", "ssd".into()), label("disk", "hdd".into())],
            preferred_ssd: label("preferred.disk", "ssd".into()),
        }
    }
}

/// The total demand of the streams of a region.
#[derive(Clone, Copy, Default)]
struct Demand {
    slots: f64,
    kbps: f64,
    disk_bytes: f64,
    inference: f64,
}

pub fn fleet(seed: u64, streams_count: usize, nodes_count: usize) -> Fleet {
    let mut random = Random(seed);
    let labels = Labels::new();
    let weights: Vec<f64> = (0..REGIONS)
        .map(|i| 1.0 / ((i + 1) as f64).powf(0.8))
        .collect();
    let total: f64 = weights.iter().sum();
    let mut demand = [Demand::default(); REGIONS];
    let mut streams = Vec::with_capacity(streams_count);
    let mut group = 0usize;
    while streams.len() < streams_count {
        let mut at = random.part() * total;
        let region = weights
            .iter()
            .position(|weight| {
                at -= weight;
                at < 0.0
            })
            .unwrap_or(REGIONS - 1);
        let members = if random.chance(0.01) {
            2 + random.below(7) as usize
        } else {
            1
        };
        let agent: Option<Arc<str>> = (members > 1).then(|| {
            group += 1;
            Arc::from(format!("agent{group}"))
        });
        let template = stream(&mut random, &labels, region);
        for _ in 0..members.min(streams_count - streams.len()) {
            let mut spec = template.clone();
            spec.name = StreamName::trusted(&format!("r{region}/cam{}", streams.len()));
            spec.agents.extend(agent.clone());
            let rank = (1 + random.below(3000)) as f64;
            let kbps = 20_000.0 / rank.powf(0.4);
            spec.kbps = Some(kbps as u32);
            let copies = spec.dvr.map_or(1, |dvr| dvr.redundancy_factor.max(1));
            let sum = &mut demand[region];
            sum.slots += f64::from(copies);
            sum.kbps += kbps * f64::from(copies);
            let seconds = spec.dvr.map_or(0, |dvr| dvr.expiration_s);
            sum.disk_bytes += kbps * 125.0 * seconds as f64 * f64::from(copies);
            sum.inference += f64::from(u8::from(spec.inference));
            streams.push(spec);
        }
    }
    let nodes = nodes(&mut random, &labels, nodes_count, streams_count, &demand);
    Fleet { nodes, streams }
}

fn stream(random: &mut Random, labels: &Labels, region: usize) -> StreamSpec {
    let mut spec = StreamSpec::new("template");
    spec.revision = 1;
    spec.layout.by_layouter = true;
    let anywhere = random.chance(0.08) && region != OWN_NAMESPACE;
    if !anywhere {
        spec.labels.push(labels.required_region[region].clone());
    }
    let wish = random.part();
    let centre = region * DATA_CENTRES as usize + random.below(DATA_CENTRES) as usize;
    if wish < 0.6 {
        spec.labels
            .push(labels.preferred_data_centre[centre].clone());
    }
    if (0.4..0.6).contains(&wish) {
        spec.labels.push(labels.preferred_ssd.clone());
    }
    if random.chance(0.03) {
        spec.labels
            .push(labels.tenant[random.below(10) as usize].clone());
    }
    spec.transcoder = random.chance(0.06);
    if region == OWN_NAMESPACE {
        spec.namespace = Some(Arc::from("own"));
    }
    if random.chance(0.5) {
        let days = [1, 1, 1, 1, 3, 3, 3, 7, 7, 30][random.below(10) as usize];
        let copies = match random.part() {
            x if x < 0.04 => 3,
            x if x < 0.20 => 2,
            _ => 1,
        };
        spec.dvr = Some(DvrSpec {
            expiration_s: days * 86_400,
            storage_limit_bytes: None,
            redundancy_factor: copies,
        });
    }
    spec.inference = random.chance(0.03);
    spec
}

fn nodes(
    random: &mut Random,
    labels: &Labels,
    nodes_count: usize,
    streams_count: usize,
    demand: &[Demand; REGIONS],
) -> Vec<NodeSpec> {
    let inference_count = (nodes_count / 50).max(2);
    let streamers_count = nodes_count - inference_count;
    let mut all = Demand::default();
    for region in demand {
        all.slots += region.slots;
        all.kbps += region.kbps;
        all.disk_bytes += region.disk_bytes;
    }
    let (kbps_per_slot, disk_per_slot) = (all.kbps / all.slots, all.disk_bytes / all.slots);
    let filled = |region: usize| 0.50 + 0.44 * ((region * 7 % REGIONS) as f64 / 19.0);
    let capacity: Vec<f64> = (0..REGIONS).map(|r| demand[r].slots / filled(r)).collect();
    let capacity_sum: f64 = capacity.iter().sum();
    let large = (streamers_count / 250).clamp(1, 40);
    let large_limit = if streams_count >= 500_000 {
        6000.0
    } else {
        600.0
    };
    let mut nodes = Vec::with_capacity(nodes_count);
    for (region, capacity) in capacity.iter().enumerate() {
        let share = capacity / capacity_sum * streamers_count as f64;
        let count = (share.round() as usize).max(8);
        let mut sizes: Vec<f64> = (0..count)
            .map(|_| match random.part() {
                x if x < 0.75 => 60.0,
                x if x < 0.93 => 150.0,
                _ => 400.0,
            })
            .collect();
        let large_here = ((large * count + streamers_count / 2) / streamers_count).min(count);
        let fixed = large_here as f64 * large_limit;
        let rest: f64 = sizes[large_here..].iter().sum();
        let scale = (capacity - fixed).max(capacity * 0.3) / rest.max(1.0);
        for (i, size) in sizes.iter_mut().enumerate() {
            let limit = if i < large_here {
                large_limit
            } else {
                (*size * scale).max(4.0).round()
            };
            let bandwidth = match random.part() {
                x if x < 0.10 => 0.95,
                x if x < 0.70 => 1.4,
                _ => 2.2,
            };
            let disk = match random.part() {
                x if x < 0.10 => 1.0,
                x if x < 0.60 => 1.6,
                _ => 2.6,
            };
            let centre = region * DATA_CENTRES as usize + random.below(DATA_CENTRES) as usize;
            let kind = usize::from(!random.chance(0.3));
            let mut spec =
                NodeSpec::streamer(&format!("node{}.r{region}", nodes.len()), limit as u32);
            spec.labels = vec![
                labels.region[region].clone(),
                labels.data_centre[centre].clone(),
                labels.ssd[kind].clone(),
            ];
            if i >= large_here && random.chance(0.02) {
                let tenant = random.below(10) as usize;
                spec.labels.push(labels.required_tenant[tenant].clone());
            }
            spec.namespace = (region == OWN_NAMESPACE).then(|| Arc::from("own"));
            spec.transcoder = random.chance(0.15);
            spec.bandwidth_kbps = Some((limit * kbps_per_slot * bandwidth) as u32 + 20_000);
            spec.disk_bytes = Some((limit * disk_per_slot * disk) as u64 + (2000 << 28));
            nodes.push(spec);
        }
    }
    let own = demand[OWN_NAMESPACE].inference;
    let others: f64 = demand.iter().map(|region| region.inference).sum::<f64>() - own;
    let own_count = (inference_count / 20).max(1);
    for i in 0..inference_count {
        let in_own = i < own_count;
        let (wanted, count) = if in_own {
            (own, own_count)
        } else {
            (others, inference_count - own_count)
        };
        let limit = (wanted / 0.55 / count as f64).ceil() as u32 + 8;
        nodes.push(NodeSpec {
            hostname: Hostname::trusted(&format!("vision{i}")),
            role: PlacementRole::Inference,
            namespace: in_own.then(|| Arc::from("own")),
            state: NodeState::Up,
            ..NodeSpec::streamer("", limit)
        });
    }
    nodes
}
