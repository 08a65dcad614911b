//! A synthetic cluster for the layouter: skewed as real ones are, the same for the same seed.
//!
//! Twenty regions with Zipf-distributed demand and capacities that leave each at another utilisation; four data centres in each; one region is
//! a namespace of its own. Most nodes are small, a few are very large; a tenth of them have bandwidth or disk for just the average demand. Bitrates
//! are Zipf-distributed, half the streams record, some with copies, some are analysed, a hundredth share agents.

use std::sync::Arc;

use weir::layouter::{DvrSpec, NodeRole, NodeSpec, NodeState, StreamSpec};
use weir::state::name::{Hostname, StreamName};

pub const REGIONS: usize = 20;
pub const CENTRES: usize = 4;
/// The region that is a namespace.
const WALLED: usize = 3;
/// Of a node's bandwidth and disk the engine uses this much, permille; what is planned here is what may be used.
const USABLE_PERMILLE: u64 = 900;

/// What there is to place, and where.
pub struct Cluster {
    pub nodes: Vec<NodeSpec>,
    pub streams: Vec<StreamSpec>,
}

/// Numbers that look random and are the same each time.
pub struct Random(u64);

impl Random {
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.number()) * u128::from(bound)) >> 64) as u64
    }

    /// From 0 to 1.
    pub fn share(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.share() < probability
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Label texts, each once.
struct Words {
    region: Arc<str>,
    required_region: Arc<str>,
    centre: Arc<str>,
    preferred_centre: Arc<str>,
    disk: Arc<str>,
    preferred_disk: Arc<str>,
    tenant: Arc<str>,
    required_tenant: Arc<str>,
    regions: Vec<Arc<str>>,
    centres: Vec<Arc<str>>,
    tenants: Vec<Arc<str>>,
    ssd: Arc<str>,
    hdd: Arc<str>,
    namespace: Arc<str>,
}

impl Words {
    fn new() -> Self {
        let many = |prefix: &str, count: usize| -> Vec<Arc<str>> {
            (0..count)
                .map(|i| Arc::from(format!("{prefix}{i}")))
                .collect()
        };
        Self {
            region: Arc::from("region"),
            required_region: Arc::from("required.region"),
            centre: Arc::from("dc"),
            preferred_centre: Arc::from("preferred.dc"),
            disk: Arc::from("disk"),
            preferred_disk: Arc::from("preferred.disk"),
            tenant: Arc::from("tenant"),
            required_tenant: Arc::from("required.tenant"),
            regions: many("r", REGIONS),
            centres: many("d", REGIONS * CENTRES),
            tenants: many("t", 10),
            ssd: Arc::from("ssd"),
            hdd: Arc::from("hdd"),
            namespace: Arc::from("walled"),
        }
    }
}

/// What the streams together want of each region.
#[derive(Default)]
struct Demand {
    channels: [f64; REGIONS],
    kbps: f64,
    disk_bytes: f64,
    inference: f64,
}

/// `streams` streams on about `nodes` nodes; `tightness` 1 is the design's 50 to 94 % of channels in use, more is too much for some regions.
pub fn cluster(seed: u64, streams: usize, nodes: usize, tightness: f64) -> Cluster {
    let mut random = Random::seeded(seed);
    let words = Words::new();
    let mut demand = Demand::default();
    let streams = make_streams(&mut random, &words, streams, &mut demand);
    let nodes = make_nodes(&mut random, &words, nodes, streams.len(), tightness, &demand);
    Cluster { nodes, streams }
}

fn make_streams(
    random: &mut Random,
    words: &Words,
    count: usize,
    demand: &mut Demand,
) -> Vec<StreamSpec> {
    let shares: Vec<f64> = (1..=REGIONS)
        .map(|rank| (rank as f64).powf(-0.8))
        .collect();
    let sum: f64 = shares.iter().sum();
    let mut streams = Vec::with_capacity(count);
    while streams.len() < count {
        let mut left = random.share() * sum;
        let region = shares.iter().position(|share| {
            left -= share;
            left < 0.0
        });
        let region = region.unwrap_or(REGIONS - 1);
        let anywhere = random.chance(0.08) && region != WALLED;
        let centre = words.centres[region * CENTRES + random.below(CENTRES as u64) as usize].clone();
        let mut labels = Vec::new();
        if !anywhere {
            labels.push((words.required_region.clone(), words.regions[region].clone()));
        }
        let wish = random.share();
        if wish < 0.6 {
            labels.push((words.preferred_centre.clone(), centre));
        }
        if (0.4..0.6).contains(&wish) {
            labels.push((words.preferred_disk.clone(), words.ssd.clone()));
        }
        if random.chance(0.03) {
            let tenant = random.below(10) as usize;
            labels.push((words.tenant.clone(), words.tenants[tenant].clone()));
        }
        let transcoder = random.chance(0.06);
        let members = if random.chance(0.01) {
            2 + random.below(7) as usize
        } else {
            1
        };
        let members = members.min(count - streams.len());
        let days = if random.chance(0.5) {
            random.pick(&[1, 1, 1, 1, 3, 3, 3, 7, 7, 30])
        } else {
            0
        };
        let copies = match random.share() {
            share if days > 0 && share < 0.04 => 2,
            share if days > 0 && share < 0.20 => 1,
            _ => 0,
        };
        let inference = random.chance(0.03);
        let agents: Vec<Arc<str>> = if members > 1 {
            vec![Arc::from(format!("agent-{}", streams.len()))]
        } else {
            Vec::new()
        };
        for _ in 0..members {
            let number = streams.len();
            let rank = (1 + random.below(3000)) as f64;
            let kbps = (20_000.0 / rank.powf(0.4)) as u32;
            let expiration_s = days * 86_400;
            let slots = f64::from(1 + copies);
            demand.channels[region] += slots;
            demand.kbps += f64::from(kbps) * slots;
            demand.disk_bytes += f64::from(kbps) * 125.0 * expiration_s as f64 * slots;
            demand.inference += f64::from(u8::from(inference));
            let name = format!("site-{:04}/camera-{number:08}", number % 1000);
            streams.push(StreamSpec {
                name: StreamName::trusted(&name),
                revision: number as u64 + 1,
                namespace: (region == WALLED).then(|| words.namespace.clone()),
                labels: labels.clone(),
                transcoder,
                kbps: Some(kbps),
                dvr: (days > 0).then_some(DvrSpec {
                    expiration_s,
                    storage_limit_bytes: None,
                    redundancy_factor: 1 + copies,
                }),
                inference,
                agents: agents.clone(),
                ..StreamSpec::new(&name)
            });
        }
    }
    streams
}

fn make_nodes(
    random: &mut Random,
    words: &Words,
    count: usize,
    streams: usize,
    tightness: f64,
    demand: &Demand,
) -> Vec<NodeSpec> {
    let usable = |amount: f64| (amount * 1000.0 / USABLE_PERMILLE as f64) as u64;
    let analysts = count / 50;
    let streamers = count - analysts;
    let channels: f64 = demand.channels.iter().sum();
    let (kbps, disk_bytes) = (demand.kbps / channels, demand.disk_bytes / channels);
    let capacity: Vec<f64> = (0..REGIONS)
        .map(|region| {
            let step = (region * 7 % REGIONS) as f64 / (REGIONS - 1) as f64;
            demand.channels[region] / ((0.50 + 0.44 * step) * tightness)
        })
        .collect();
    let whole: f64 = capacity.iter().sum();
    let giants = (streamers / 250).clamp(1, 40);
    let giant = if streams >= 500_000 { 6000.0 } else { 600.0 };
    let mut nodes = Vec::with_capacity(count);
    for (region, capacity) in capacity.iter().enumerate() {
        let here = ((capacity / whole * streamers as f64).round() as usize).max(8.min(streamers));
        let giants = (giants * here + streamers / 2) / streamers;
        let sizes: Vec<f64> = (0..here)
            .map(|_| match random.share() {
                share if share < 0.75 => 60.0,
                share if share < 0.93 => 150.0,
                _ => 400.0,
            })
            .collect();
        let rest: f64 = sizes.iter().skip(giants).sum();
        let fixed = giant * giants as f64;
        let factor = (capacity - fixed).max(capacity * 0.3) / rest.max(1.0);
        for (i, size) in sizes.iter().enumerate() {
            let limit = if i < giants {
                giant
            } else {
                (size * factor).max(4.0).round()
            };
            let bandwidth = match random.share() {
                share if share < 0.10 => 0.95,
                share if share < 0.70 => 1.4,
                _ => 2.2,
            };
            let disk = match random.share() {
                share if share < 0.10 => 1.0,
                share if share < 0.60 => 1.6,
                _ => 2.6,
            };
            let centre = region * CENTRES + random.below(CENTRES as u64) as usize;
            let medium = if random.chance(0.3) {
                &words.ssd
            } else {
                &words.hdd
            };
            let mut labels = vec![
                (words.region.clone(), words.regions[region].clone()),
                (words.centre.clone(), words.centres[centre].clone()),
                (words.disk.clone(), medium.clone()),
            ];
            if i >= giants && random.chance(0.02) {
                let tenant = random.below(10) as usize;
                labels.push((words.required_tenant.clone(), words.tenants[tenant].clone()));
            }
            let kbps = usable(limit * kbps * bandwidth + 20_000.0);
            nodes.push(NodeSpec {
                namespace: (region == WALLED).then(|| words.namespace.clone()),
                labels,
                bandwidth_kbps: Some(u32::try_from(kbps).unwrap_or(u32::MAX)),
                disk_bytes: Some(usable(limit * disk_bytes * disk + 5e11)),
                transcoder: random.chance(0.15),
                ..NodeSpec::streamer(&host(nodes.len()), limit as u32)
            });
        }
    }
    for i in 0..analysts {
        let walled = i % 20 == WALLED;
        let share = demand.inference / 0.55 / analysts as f64;
        let share = if walled { share * 3.0 } else { share };
        nodes.push(NodeSpec {
            role: NodeRole::Inference,
            namespace: walled.then(|| words.namespace.clone()),
            transcoder: true,
            ..NodeSpec::streamer(&host(nodes.len()), share.ceil() as u32 + 8)
        });
    }
    nodes
}

/// Hostname of the node with a number.
pub fn host(number: usize) -> String {
    format!("streamer-{number:05}.example.com")
}

impl Cluster {
    /// The same with some nodes lost.
    pub fn states(&self, lost: &[usize]) -> Vec<(Hostname, NodeState)> {
        let lost = lost.iter().map(|node| self.nodes[*node].hostname.clone());
        lost.map(|hostname| (hostname, NodeState::Down)).collect()
    }
}
