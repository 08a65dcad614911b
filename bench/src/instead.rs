//! What is usually done instead of the layouter's engine, for comparison on the same cluster: every
//! stream with every node over packed arrays, and consistent hashing with bounded loads.
//!
//! Neither supports copies, inference or agents; both place one slot per stream. They share the
//! engine's rules about labels, namespaces and transcoding, but nothing of its code, so they also
//! check it.

use std::collections::HashMap;
use std::sync::Arc;

use weir::testing::layouter::{NodeSpec, PlacementRole, StreamSpec};

/// Not placed, or no such node.
pub const NONE: u32 = u32::MAX;
/// Points on a ring that a search may pass, where streams have better and worse rings.
const PASSED_MAX: usize = 300;

type Label = (Arc<str>, Arc<str>);
type Namespace = Option<Arc<str>>;

/// The cluster with equal things counted once and everything in arrays.
pub struct Packed {
    pub channel_limit: Vec<u32>,
    kbps_limit: Vec<u64>,
    disk_limit: Vec<u64>,
    node_class: Vec<u32>,
    stream_class: Vec<u32>,
    kbps: Vec<u64>,
    disk: Vec<u64>,
    /// By stream class and node class: 0 where the stream may not be, else one more than what the
    /// place is worth.
    worth: Vec<Vec<u8>>,
    /// By stream class: the region it demands, if it does.
    region: Vec<Option<Arc<str>>>,
    node_region: Vec<Option<Arc<str>>>,
}

impl Packed {
    pub fn new(nodes: &[NodeSpec], streams: &[StreamSpec]) -> Self {
        let mut node_classes: Vec<&NodeSpec> = Vec::new();
        let mut known: HashMap<(&[Label], &Namespace, bool, PlacementRole), u32> = HashMap::new();
        let node_class = nodes
            .iter()
            .map(|node| {
                let key = (&*node.labels, &node.namespace, node.transcoder, node.role);
                *known.entry(key).or_insert_with(|| {
                    node_classes.push(node);
                    node_classes.len() as u32 - 1
                })
            })
            .collect();
        let mut stream_classes: Vec<&StreamSpec> = Vec::new();
        let mut known: HashMap<(&[Label], &Namespace, bool), u32> = HashMap::new();
        let stream_class = streams
            .iter()
            .map(|stream| {
                let key = (&*stream.labels, &stream.namespace, stream.transcoder);
                *known.entry(key).or_insert_with(|| {
                    stream_classes.push(stream);
                    stream_classes.len() as u32 - 1
                })
            })
            .collect();
        let worth = stream_classes
            .iter()
            .map(|stream| {
                node_classes
                    .iter()
                    .map(|node| worth(stream, node))
                    .collect()
            })
            .collect();
        let value = |labels: &[Label], key: &str| {
            let label = labels.iter().find(|(name, _)| &**name == key);
            label.map(|(_, value)| value.clone())
        };
        Self {
            channel_limit: nodes.iter().map(|node| node.channel_limit).collect(),
            kbps_limit: nodes
                .iter()
                .map(|node| node.bandwidth_kbps.map_or(u64::MAX, u64::from))
                .collect(),
            disk_limit: nodes
                .iter()
                .map(|node| node.disk_bytes.unwrap_or(u64::MAX))
                .collect(),
            node_class,
            stream_class,
            kbps: streams
                .iter()
                .map(|stream| u64::from(stream.kbps.unwrap_or(0)))
                .collect(),
            disk: streams
                .iter()
                .map(|stream| {
                    let kept_s = stream.dvr.map_or(0, |dvr| dvr.expiration_s);
                    u64::from(stream.kbps.unwrap_or(0)) * 125 * kept_s
                })
                .collect(),
            worth,
            region: stream_classes
                .iter()
                .map(|stream| value(&stream.labels, "required.region"))
                .collect(),
            node_region: nodes
                .iter()
                .map(|node| value(&node.labels, "region"))
                .collect(),
        }
    }

    pub fn nodes(&self) -> usize {
        self.channel_limit.len()
    }

    pub fn streams(&self) -> usize {
        self.stream_class.len()
    }

    /// Placed streams, what their places are worth together, and the most that they could be worth.
    pub fn quality(&self, at: &[u32]) -> (usize, u64, u64) {
        let (mut placed, mut got, mut best) = (0, 0, 0);
        for (stream, node) in at.iter().enumerate() {
            let worth = &self.worth[self.stream_class[stream] as usize];
            best += u64::from(worth.iter().max().copied().unwrap_or(0).saturating_sub(1));
            if *node != NONE {
                placed += 1;
                let class = self.node_class[*node as usize];
                got += u64::from(worth[class as usize].saturating_sub(1));
            }
        }
        (placed, got, best)
    }
}

/// What a place is worth to a stream, by labels alone.
fn worth(stream: &StreamSpec, node: &NodeSpec) -> u8 {
    if node.role != PlacementRole::Streamer
        || node.namespace != stream.namespace
        || stream.transcoder && !node.transcoder
    {
        return 0;
    }
    let has = |labels: &[Label], key: &str, value: &Arc<str>| {
        labels.iter().any(|(k, v)| &**k == key && v == value)
    };
    let mut worth = 1;
    for (key, value) in &stream.labels {
        if let Some(key) = key.strip_prefix("required.") {
            if !has(&node.labels, key, value) {
                return 0;
            }
        } else if let Some(key) = key.strip_prefix("preferred.") {
            worth += u8::from(has(&node.labels, key, value));
        }
    }
    for (key, value) in &node.labels {
        let required = key.strip_prefix("required.");
        if required.is_some_and(|key| !has(&stream.labels, key, value)) {
            return 0;
        }
    }
    worth
}

/// What is used of each node.
struct Used {
    channels: Vec<u32>,
    kbps: Vec<u64>,
    disk: Vec<u64>,
}

impl Used {
    fn nothing(nodes: usize) -> Self {
        Self {
            channels: vec![0; nodes],
            kbps: vec![0; nodes],
            disk: vec![0; nodes],
        }
    }

    fn fits(&self, cluster: &Packed, stream: usize, node: usize, channels_max: u32) -> bool {
        self.channels[node] < channels_max
            && self.kbps[node] + cluster.kbps[stream] <= cluster.kbps_limit[node]
            && self.disk[node] + cluster.disk[stream] <= cluster.disk_limit[node]
    }

    fn take(&mut self, cluster: &Packed, stream: usize, node: usize) {
        self.channels[node] += 1;
        self.kbps[node] += cluster.kbps[stream];
        self.disk[node] += cluster.disk[stream];
    }
}

/// Every one of the first `count` streams with every node; the least loaded of the best places
/// wins. The fairest loop of this kind: no text, no map.
pub fn each_with_each(cluster: &Packed, count: usize) -> Vec<u32> {
    let mut used = Used::nothing(cluster.nodes());
    let mut load = vec![0_f32; cluster.nodes()];
    let mut at = vec![NONE; count];
    for (stream, at) in at.iter_mut().enumerate() {
        let worth = &cluster.worth[cluster.stream_class[stream] as usize];
        let (mut best, mut best_load, mut best_node) = (0, f32::MAX, NONE);
        for node in 0..cluster.nodes() {
            let worth = worth[cluster.node_class[node] as usize];
            if worth == 0 || worth < best || worth == best && load[node] >= best_load {
                continue;
            }
            if used.fits(cluster, stream, node, cluster.channel_limit[node]) {
                (best, best_load, best_node) = (worth, load[node], node as u32);
            }
        }
        if best_node != NONE {
            let node = best_node as usize;
            used.take(cluster, stream, node);
            load[node] = used.channels[node] as f32 / cluster.channel_limit[node].max(1) as f32;
            *at = best_node;
        }
    }
    at
}

/// Rings of points for consistent hashing: one per set of places that are worth the same to a
/// stream class, or one of all its places.
pub struct Rings {
    rings: Vec<Vec<(u64, u32)>>,
    /// By stream class, the best ring first.
    of_class: Vec<Vec<usize>>,
}

impl Rings {
    pub fn new(cluster: &Packed, by_worth: bool) -> Self {
        let mut members: Vec<Vec<u32>> = Vec::new();
        for (node, class) in cluster.node_class.iter().enumerate() {
            let class = *class as usize;
            if members.len() <= class {
                members.resize_with(class + 1, Vec::new);
            }
            members[class].push(node as u32);
        }
        let mut known: HashMap<Vec<u32>, usize> = HashMap::new();
        let mut rings: Vec<Vec<(u64, u32)>> = Vec::new();
        let of_class = cluster
            .worth
            .iter()
            .map(|worth| {
                let mut tiers: Vec<Vec<u32>> = Vec::new();
                let top = worth.iter().max().copied().unwrap_or(0);
                for tier in (1..=top).rev() {
                    let classes = worth.iter().enumerate();
                    let classes = classes.filter(|(_, worth)| {
                        **worth == tier || !by_worth && tier == top && **worth > 0
                    });
                    let classes: Vec<u32> = classes.map(|(class, _)| class as u32).collect();
                    if !classes.is_empty() && (by_worth || tier == top) {
                        tiers.push(classes);
                    }
                }
                let ring_of = |classes: Vec<u32>| {
                    *known.entry(classes).or_insert_with_key(|classes| {
                        let nodes = classes.iter().flat_map(|class| &members[*class as usize]);
                        let mut ring: Vec<(u64, u32)> = nodes
                            .flat_map(|node| {
                                let points = cluster.channel_limit[*node as usize] / 8;
                                (0..points.clamp(4, 800)).map(move |point| {
                                    (mix(u64::from(*node) << 20 ^ u64::from(point)), *node)
                                })
                            })
                            .collect();
                        ring.sort_unstable();
                        rings.push(ring);
                        rings.len() - 1
                    })
                };
                tiers.into_iter().map(ring_of).collect()
            })
            .collect();
        Self { rings, of_class }
    }
}

/// Consistent hashing with bounded loads. No node takes more than `1 + slack_permille / 1000` of
/// its region's share; a bound over all regions would not let the full regions place their streams
/// at all. `lost` nodes take nothing.
pub fn hashing(
    cluster: &Packed,
    rings: &Rings,
    lost: &[u32],
    by_worth: bool,
    slack_permille: u32,
) -> Vec<u32> {
    let bounds = bounds(cluster, lost, slack_permille);
    let mut order: Vec<usize> = (0..cluster.streams()).collect();
    order.sort_unstable_by_key(|stream| mix(*stream as u64 ^ 0x4d));
    let mut used = Used::nothing(cluster.nodes());
    let mut at = vec![NONE; cluster.streams()];
    for stream in order {
        let hash = mix(stream as u64 ^ 0x5151);
        let class = cluster.stream_class[stream] as usize;
        'rings: for ring in &rings.of_class[class] {
            let ring = &rings.rings[*ring];
            let begin = ring.partition_point(|point| point.0 < hash);
            let steps = if by_worth {
                ring.len().min(PASSED_MAX)
            } else {
                ring.len()
            };
            for step in 0..steps {
                let node = ring[(begin + step) % ring.len()].1;
                if used.fits(cluster, stream, node as usize, bounds[node as usize]) {
                    used.take(cluster, stream, node as usize);
                    at[stream] = node;
                    break 'rings;
                }
            }
        }
    }
    at
}

/// The most that each node takes.
fn bounds(cluster: &Packed, lost: &[u32], slack_permille: u32) -> Vec<u32> {
    let mut demand: HashMap<&Option<Arc<str>>, f64> = HashMap::new();
    let mut anywhere = 0.0;
    for class in &cluster.stream_class {
        let region = &cluster.region[*class as usize];
        if region.is_some() {
            *demand.entry(region).or_default() += 1.0;
        } else {
            anywhere += 1.0;
        }
    }
    let mut capacity: HashMap<&Option<Arc<str>>, f64> = HashMap::new();
    let mut is_lost = vec![false; cluster.nodes()];
    for node in lost {
        is_lost[*node as usize] = true;
    }
    for (node, region) in cluster.node_region.iter().enumerate() {
        if region.is_some() && !is_lost[node] {
            *capacity.entry(region).or_default() += f64::from(cluster.channel_limit[node]);
        }
    }
    let all: f64 = capacity.values().sum();
    let bound = |node: usize| {
        if is_lost[node] {
            return 0;
        }
        let (region, limit) = (&cluster.node_region[node], cluster.channel_limit[node]);
        let share = match (demand.get(region), capacity.get(region)) {
            (Some(demand), Some(capacity)) => demand / capacity,
            _ => 0.0,
        };
        let share = (share + anywhere / all) * (1.0 + f64::from(slack_permille) / 1000.0);
        ((f64::from(limit) * share).ceil() as u32).min(limit)
    };
    (0..cluster.nodes()).map(bound).collect()
}

/// How many streams are elsewhere than before.
pub fn moved(before: &[u32], after: &[u32]) -> usize {
    before.iter().zip(after).filter(|(a, b)| a != b).count()
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::fleet;

    /// Nothing is where it may not be, and nothing holds more than it can.
    fn check(cluster: &Packed, at: &[u32]) {
        let mut used = Used::nothing(cluster.nodes());
        for (stream, node) in at.iter().enumerate().filter(|(_, node)| **node != NONE) {
            let node = *node as usize;
            let worth = &cluster.worth[cluster.stream_class[stream] as usize];
            assert!(
                worth[cluster.node_class[node] as usize] > 0,
                "stream {stream} on {node}"
            );
            assert!(used.fits(cluster, stream, node, cluster.channel_limit[node]));
            used.take(cluster, stream, node);
        }
    }

    #[test]
    fn what_is_done_instead_keeps_the_same_rules_and_moves_more() {
        let made = fleet(1, 5000, 400);
        let cluster = Packed::new(&made.nodes, &made.streams);
        let best = each_with_each(&cluster, cluster.streams());
        check(&cluster, &best);
        let (placed, got, most) = cluster.quality(&best);
        assert!(placed * 100 >= cluster.streams() * 95, "{placed} placed");
        assert!(got <= most && got * 10 >= most * 8, "{got} of {most}");
        for by_worth in [false, true] {
            let rings = Rings::new(&cluster, by_worth);
            let before = hashing(&cluster, &rings, &[], by_worth, 250);
            check(&cluster, &before);
            let again = hashing(&cluster, &rings, &[], by_worth, 250);
            assert_eq!(moved(&before, &again), 0, "it depends on nothing else");
            let lost = before[0];
            assert_ne!(lost, NONE);
            let after = hashing(&cluster, &rings, &[lost], by_worth, 250);
            check(&cluster, &after);
            assert!(!after.contains(&lost));
            let had = before.iter().filter(|node| **node == lost).count();
            assert!(moved(&before, &after) >= had);
        }
    }
}
