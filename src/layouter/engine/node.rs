//! Nodes as the engine sees them: what they offer, what is used, what is left.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Engine;
use super::class::NodeClass;
use super::cow::{CowMap, mix};
use super::event::{Balance, NodeState, PlacementRole, Reasons};
use super::tree::{LAST_RESORT, LOAD_MAX, Need, ONE, UNLIMITED, Vertex};
use crate::state::name::Hostname;

/// Slots of one class on one node.
#[derive(Clone, Copy, Debug)]
pub struct ClassBucket {
    pub class: u32,
    pub head: u32,
    pub count: u32,
}

/// A node, with the lists of its slots.
#[derive(Clone, Debug)]
pub struct SlotNode {
    pub hostname: Hostname,
    /// Everything it offers; `class` is the number of its reduced class.
    pub full: NodeClass,
    pub class: u32,
    pub capacity: NodeCapacity,
    /// Usable capacity.
    pub limit: Need,
    /// Used capacity.
    pub used: UsedCapacity,
    /// Held for slots that left and are not confirmed by their new node yet: this node still does
    /// the work.
    pub held: Need,
    pub tie: u32,
    pub state: NodeState,
    pub closure: NodeClosure,
    /// Keeps its slots, even above its limits of bandwidth and disk.
    pub settling: bool,
    /// False: deleted. While no streamer is running it keeps its slots.
    pub live: bool,
    pub buckets: Vec<ClassBucket>,
    pub displaced: DisplacedSlots,
    /// Its share of the totals as last counted.
    pub counted: NodeShare,
}

/// Why a running node takes no new slots.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeClosure {
    /// Its CPU is under pressure.
    pub pressed: bool,
    /// It is in maintenance.
    pub cordoned: bool,
}

impl NodeClosure {
    #[inline]
    pub fn is_open(self) -> bool {
        !self.pressed && !self.cordoned
    }

    #[inline]
    pub fn reasons(self) -> Reasons {
        let mut reasons = Reasons::NONE;
        if self.pressed {
            reasons |= Reasons::CPU;
        }
        if self.cordoned {
            reasons |= Reasons::CORDONED;
        }
        reasons
    }
}

/// What limits a node: bandwidth and disk as configured or measured, of which a share is usable.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeCapacity {
    /// The limit of channels is not only assumed.
    pub channels_stated: bool,
    pub bandwidth_kbps: Option<u32>,
    pub disk_bytes: Option<u64>,
}

/// The sum of the needs of a node's slots.
#[derive(Clone, Copy, Debug, Default)]
pub struct UsedCapacity {
    pub channels: u64,
    pub kbps: u64,
    pub disk: u64,
}

/// Slots that left a node when it was lost.
#[derive(Clone, Debug, Default)]
pub struct DisplacedSlots {
    /// May hold stale entries.
    pub slots: Vec<u32>,
    /// Gain epoch of the last restore that could not bring all slots back.
    pub tried_epoch: u64,
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

impl SlotNode {
    #[inline]
    pub fn load_with(&self, more: &Need, balance: Balance) -> u64 {
        let channels = ratio(
            self.used.channels + u64::from(more.channels),
            self.limit.channels,
        );
        if balance == Balance::Channels {
            return channels;
        }
        channels
            .max(ratio(
                self.used.kbps + u64::from(more.kbps),
                self.limit.kbps,
            ))
            .max(ratio(
                self.used.disk + u64::from(more.disk),
                self.limit.disk,
            ))
    }

    /// The load after one of its slots has left.
    pub fn load_without(&self, less: &Need, balance: Balance) -> u64 {
        let channels = ratio(
            self.used.channels - u64::from(less.channels),
            self.limit.channels,
        );
        if balance == Balance::Channels {
            return channels;
        }
        channels
            .max(ratio(
                self.used.kbps - u64::from(less.kbps),
                self.limit.kbps,
            ))
            .max(ratio(
                self.used.disk - u64::from(less.disk),
                self.limit.disk,
            ))
    }

    #[inline]
    pub fn load(&self, balance: Balance) -> u64 {
        self.load_with(&Need::default(), balance)
    }

    /// Loads of channels, bandwidth, disk.
    pub fn loads(&self) -> [u64; 3] {
        [
            ratio(self.used.channels, self.limit.channels),
            ratio(self.used.kbps, self.limit.kbps),
            ratio(self.used.disk, self.limit.disk),
        ]
    }

    /// May take new slots.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.is_reachable() && self.closure.is_open()
    }

    /// May take slots that belong to those it has.
    #[inline]
    pub fn may_be_joined(&self) -> bool {
        self.is_reachable() && !self.closure.cordoned
    }

    /// Known to be running.
    #[inline]
    pub fn is_reachable(&self) -> bool {
        self.live && matches!(self.state, NodeState::Up | NodeState::Probation)
    }

    /// May keep its slots.
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
            channels: left(self.limit.channels, self.used.channels),
            kbps: left(self.limit.kbps, self.used.kbps),
            disk: left(self.limit.disk, self.used.disk),
        }
    }

    /// The room that is not held for slots that left.
    pub fn free_room(&self) -> Need {
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
        room
    }

    /// Which limits leave no room for `need`.
    pub fn lacks(&self, need: &Need) -> Reasons {
        let room = self.room();
        let mut reasons = Reasons::NONE;
        // A slot that needs nothing of a dimension may join a node that is over its limit there.
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
        fits(
            limit.channels,
            self.used.channels,
            out.channels,
            new.channels,
        ) && fits(limit.kbps, self.used.kbps, out.kbps, new.kbps)
            && fits(limit.disk, self.used.disk, out.disk, new.disk)
    }

    pub fn vertex(&self, balance: Balance) -> Vertex {
        if !self.is_open() {
            return Vertex::CLOSED;
        }
        let mut key = self.load_with(&self.held, balance) << 32 | u64::from(self.tie);
        if self.state == NodeState::Probation {
            key |= LAST_RESORT;
        }
        Vertex {
            key,
            room: self.free_room(),
        }
    }

    pub fn bucket(&self, class: u32) -> Result<usize, usize> {
        self.buckets
            .binary_search_by_key(&class, |bucket| bucket.class)
    }
}

/// The contribution of one node to [`NodeTotals`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodeShare {
    streamer: bool,
    running: bool,
    probation: bool,
    limit: Need,
}

impl NodeShare {
    fn of(node: &SlotNode) -> Self {
        let running = node.is_running();
        Self {
            streamer: running && node.full.role == PlacementRole::Streamer,
            running,
            probation: node.live && node.state == NodeState::Probation,
            limit: node.limit,
        }
    }

    /// Limits of channels, bandwidth, disk, where there are any.
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

/// Totals over all nodes.
#[derive(Clone, Debug, Default)]
pub struct NodeTotals {
    pub streamers_running: u32,
    pub on_probation: u32,
    /// Sum and number of the limits of running nodes.
    limits: [(u64, u64); 3],
}

impl NodeTotals {
    fn joins(&mut self, node: &NodeShare) {
        self.streamers_running += u32::from(node.streamer);
        self.on_probation += u32::from(node.probation);
        for (sum, limit) in self.limits.iter_mut().zip(node.limits()) {
            if let Some(limit) = limit {
                sum.0 += limit;
                sum.1 += 1;
            }
        }
    }

    fn leaves(&mut self, node: &NodeShare) {
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

/// Tie breaker at equal load: the larger node first, then by a hash of the hostname, which does not
/// depend on when nodes were added.
pub fn tie_of(hostname: &str, channel_limit: u32) -> u32 {
    const SIZE_MAX: u32 = (1 << 18) - 1;
    let size = SIZE_MAX - channel_limit.min(SIZE_MAX);
    size << 14 | (mix(xxhash_rust::xxh3::xxh3_64(hostname.as_bytes())) >> 50) as u32
}

/// All nodes by number, and their totals.
#[derive(Clone)]
pub(super) struct Cluster {
    pub nodes: Vec<Arc<SlotNode>>,
    pub by_hostname: CowMap<Hostname, u32>,
    /// Nodes that rows refer to and that do not exist.
    pub placeholders: BTreeSet<u32>,
    /// Placeholders without slots: their numbers can be reused.
    pub free: BTreeSet<u32>,
    pub totals: NodeTotals,
    /// No streamer was running after the event before this one.
    pub was_frozen: bool,
    /// Nodes whose slots must be checked at the end of this event.
    pub changed: BTreeSet<u32>,
    /// All nodes must be checked.
    pub rescore_all: bool,
}

impl Cluster {
    pub fn new() -> Self {
        Self {
            nodes: Vec::new(),
            by_hostname: CowMap::new(),
            placeholders: BTreeSet::new(),
            free: BTreeSet::new(),
            totals: NodeTotals::default(),
            was_frozen: true,
            changed: BTreeSet::new(),
            rescore_all: false,
        }
    }
}

impl Engine {
    #[inline]
    pub(super) fn node(&self, node: u32) -> &SlotNode {
        &self.cluster.nodes[node as usize]
    }

    #[inline]
    pub(super) fn node_mut(&mut self, node: u32) -> &mut SlotNode {
        Arc::make_mut(&mut self.cluster.nodes[node as usize])
    }

    /// No streamer is running: then nothing moves.
    pub(super) fn is_frozen(&self) -> bool {
        self.cluster.totals.streamers_running == 0
    }

    /// Updates the totals for the nodes that changed; recounting ten thousand nodes would read two
    /// megabytes.
    pub(super) fn count_running(&mut self) {
        let changed = std::mem::take(&mut self.cluster.changed);
        for n in &changed {
            let node = self.node(*n);
            let (before, now) = (node.counted, NodeShare::of(node));
            if before != now {
                self.cluster.totals.leaves(&before);
                self.cluster.totals.joins(&now);
                self.node_mut(*n).counted = now;
            }
        }
        self.cluster.changed = changed;
    }
}
