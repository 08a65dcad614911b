//! Nodes as the engine sees them: what they offer, what is used, what is left.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Engine;
use super::class::NodeClass;
use super::cow::{CowMap, mix};
use super::event::{Balance, NodeRole, NodeState, Reasons};
use super::tree::{LAST_RESORT, LOAD_MAX, Need, ONE, UNLIMITED, Vertex};
use crate::state::name::Hostname;

/// Slots of one class on one node.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    pub class: u32,
    pub head: u32,
    pub count: u32,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub hostname: Hostname,
    /// What it offers in full; `class` is the number of its reduction.
    pub full: NodeClass,
    pub class: u32,
    /// As configured.
    pub bandwidth_kbps: Option<u32>,
    pub disk_bytes: Option<u64>,
    /// What may be used.
    pub limit: Need,
    /// What is used.
    pub channels: u64,
    pub kbps: u64,
    pub disk: u64,
    /// Of moves away that are not confirmed yet: the node still does the work.
    pub held: Need,
    pub tie: u32,
    pub state: NodeState,
    pub pressed: bool,
    /// Keeps what it has, even above bandwidth and disk.
    pub settling: bool,
    /// False: deleted. While no streamer is left it keeps its slots.
    pub live: bool,
    pub buckets: Vec<Bucket>,
    /// Slots that left because it was lost; some may be back or gone.
    pub displaced: Vec<u32>,
    /// The gain epoch of the last restore that left some behind.
    pub restore_tried: u64,
    pub counted: Counted,
}

#[inline]
fn ratio(used: u64, limit: u32) -> u64 {
    match limit {
        UNLIMITED => 0,
        0 if used == 0 => 0,
        0 => LOAD_MAX,
        limit => (used * ONE / u64::from(limit)).min(LOAD_MAX),
    }
}

impl Node {
    #[inline]
    pub fn load_with(&self, more: &Need, balance: Balance) -> u64 {
        let channels = ratio(
            self.channels + u64::from(more.channels),
            self.limit.channels,
        );
        if balance == Balance::Channels {
            return channels;
        }
        channels
            .max(ratio(self.kbps + u64::from(more.kbps), self.limit.kbps))
            .max(ratio(self.disk + u64::from(more.disk), self.limit.disk))
    }

    /// The load once a slot that is here has left.
    pub fn load_without(&self, less: &Need, balance: Balance) -> u64 {
        let channels = ratio(
            self.channels - u64::from(less.channels),
            self.limit.channels,
        );
        if balance == Balance::Channels {
            return channels;
        }
        channels
            .max(ratio(self.kbps - u64::from(less.kbps), self.limit.kbps))
            .max(ratio(self.disk - u64::from(less.disk), self.limit.disk))
    }

    #[inline]
    pub fn load(&self, balance: Balance) -> u64 {
        self.load_with(&Need::default(), balance)
    }

    /// Load by channels, bandwidth, disk.
    pub fn loads(&self) -> [u64; 3] {
        [
            ratio(self.channels, self.limit.channels),
            ratio(self.kbps, self.limit.kbps),
            ratio(self.disk, self.limit.disk),
        ]
    }

    /// May take new slots.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.is_heard() && !self.pressed
    }

    /// Known to run.
    #[inline]
    pub fn is_heard(&self) -> bool {
        self.live && matches!(self.state, NodeState::Up | NodeState::Probation)
    }

    /// May keep the slots it has.
    #[inline]
    pub fn is_running(&self) -> bool {
        self.live && self.state != NodeState::Down
    }

    #[inline]
    pub fn room(&self) -> Need {
        fn left(limit: u32, used: u64) -> u32 {
            if limit == UNLIMITED {
                return UNLIMITED;
            }
            u64::from(limit).saturating_sub(used) as u32
        }
        Need {
            channels: left(self.limit.channels, self.channels),
            kbps: left(self.limit.kbps, self.kbps),
            disk: left(self.limit.disk, self.disk),
        }
    }

    /// Which limits do not allow `need` on top of what is used.
    pub fn lacks(&self, need: &Need) -> Reasons {
        let room = self.room();
        let mut reasons = Reasons::NONE;
        // What takes nothing of a dimension is not refused because others overdraw it.
        if need.channels > room.channels {
            reasons |= Reasons::CHANNEL_LIMIT;
        }
        if need.kbps > room.kbps {
            reasons |= Reasons::BANDWIDTH;
        }
        if need.disk > room.disk {
            reasons |= Reasons::DVR_SIZE;
        }
        reasons
    }

    /// Whether `incoming` has room once `outgoing` has left.
    pub fn fits_instead(&self, outgoing: &Need, incoming: &Need) -> bool {
        fn fits(limit: u32, used: u64, outgoing: u32, incoming: u32) -> bool {
            incoming == 0
                || limit == UNLIMITED
                || used - u64::from(outgoing) + u64::from(incoming) <= u64::from(limit)
        }
        let (limit, out, new) = (&self.limit, outgoing, incoming);
        fits(limit.channels, self.channels, out.channels, new.channels)
            && fits(limit.kbps, self.kbps, out.kbps, new.kbps)
            && fits(limit.disk, self.disk, out.disk, new.disk)
    }

    pub fn vertex(&self, balance: Balance) -> Vertex {
        if !self.is_open() {
            return Vertex::CLOSED;
        }
        let mut key = self.load_with(&self.held, balance) << 32 | u64::from(self.tie);
        if self.state == NodeState::Probation {
            key |= LAST_RESORT;
        }
        let mut room = self.room();
        let held = &self.held;
        for (left, held) in [
            (&mut room.channels, held.channels),
            (&mut room.kbps, held.kbps),
            (&mut room.disk, held.disk),
        ] {
            if *left != UNLIMITED {
                *left = left.saturating_sub(held);
            }
        }
        Vertex { key, room }
    }

    pub fn bucket(&self, class: u32) -> Result<usize, usize> {
        self.buckets
            .binary_search_by_key(&class, |bucket| bucket.class)
    }
}

/// What a node contributes to [`Counts`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    streamer: bool,
    running: bool,
    probation: bool,
    limit: Need,
}

impl Counted {
    fn of(node: &Node) -> Self {
        let running = node.is_running();
        Self {
            streamer: running && node.full.role == NodeRole::Streamer,
            running,
            probation: node.live && node.state == NodeState::Probation,
            limit: node.limit,
        }
    }

    /// Channels, bandwidth, disk, where they are limited.
    fn limits(&self) -> [Option<u64>; 3] {
        let Need {
            channels,
            kbps,
            disk,
        } = self.limit;
        [channels, kbps, disk]
            .map(|limit| (self.running && limit != UNLIMITED).then_some(u64::from(limit)))
    }
}

/// Of all nodes together.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub streamers_running: u32,
    pub on_probation: u32,
    /// Of the nodes that run and have a limit: sum and number.
    limits: [(u64, u64); 3],
}

impl Counts {
    fn joins(&mut self, node: &Counted) {
        self.streamers_running += u32::from(node.streamer);
        self.on_probation += u32::from(node.probation);
        for (sum, limit) in self.limits.iter_mut().zip(node.limits()) {
            if let Some(limit) = limit {
                sum.0 += limit;
                sum.1 += 1;
            }
        }
    }

    fn leaves(&mut self, node: &Counted) {
        self.streamers_running -= u32::from(node.streamer);
        self.on_probation -= u32::from(node.probation);
        for (sum, limit) in self.limits.iter_mut().zip(node.limits()) {
            if let Some(limit) = limit {
                sum.0 -= limit;
                sum.1 -= 1;
            }
        }
    }

    /// Channels, bandwidth, disk of an average node.
    pub fn average_limit(&self) -> [u64; 3] {
        let average = |(sum, count): (u64, u64)| sum.checked_div(count);
        self.limits
            .map(|limits| average(limits).map_or(u64::MAX, |limit| limit.max(1)))
    }
}

/// At equal load the larger node first, then in an order that has nothing to do with when a node was added.
pub fn tie_of(hostname: &str, channel_limit: u32) -> u32 {
    const SIZE_MAX: u32 = (1 << 18) - 1;
    let size = SIZE_MAX - channel_limit.min(SIZE_MAX);
    size << 14 | (mix(xxhash_rust::xxh3::xxh3_64(hostname.as_bytes())) >> 50) as u32
}

/// All nodes by number, and what follows from all of them.
#[derive(Clone)]
pub(super) struct Cluster {
    pub nodes: Vec<Arc<Node>>,
    pub by_hostname: CowMap<Hostname, u32>,
    /// Nodes that are only a name, and those of them whose number may be given to another.
    pub placeholders: BTreeSet<u32>,
    pub free: BTreeSet<u32>,
    pub totals: Counts,
    pub was_frozen: bool,
    pub changed: BTreeSet<u32>,
    pub rescore_all: bool,
}

impl Cluster {
    pub fn new() -> Self {
        Self {
            nodes: Vec::new(),
            by_hostname: CowMap::new(),
            placeholders: BTreeSet::new(),
            free: BTreeSet::new(),
            totals: Counts::default(),
            was_frozen: true,
            changed: BTreeSet::new(),
            rescore_all: false,
        }
    }
}

impl Engine {
    #[inline]
    pub(super) fn node(&self, node: u32) -> &Node {
        &self.cluster.nodes[node as usize]
    }

    #[inline]
    pub(super) fn node_mut(&mut self, node: u32) -> &mut Node {
        Arc::make_mut(&mut self.cluster.nodes[node as usize])
    }

    /// No streamer is left at all: then nothing moves.
    pub(super) fn is_frozen(&self) -> bool {
        self.cluster.totals.streamers_running == 0
    }

    /// What is told of all nodes together, for those that changed: ten thousand nodes are two megabytes to look at.
    pub(super) fn count_running(&mut self) {
        let changed = std::mem::take(&mut self.cluster.changed);
        for n in &changed {
            let node = self.node(*n);
            let (before, now) = (node.counted, Counted::of(node));
            if before != now {
                self.cluster.totals.leaves(&before);
                self.cluster.totals.joins(&now);
                self.node_mut(*n).counted = now;
            }
        }
        self.cluster.changed = changed;
    }
}
