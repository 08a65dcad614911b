//! Slots, nodes, and the lists that tie them together.
//!
//! Every placed slot is in the list of its (node, class): what a decision needs to know of six thousand streams on a node is some twenty of
//! these buckets. Every other live slot is in the waiting list of its class. A slot that is being placed is in neither, only while an event is applied.

use std::hint::black_box;
use std::sync::Arc;

use super::Engine;
use super::class::{Demand, NONE, NodeClass, score, static_reasons};
use super::cow::mix;
use super::event::{Balance, NodeRole, NodeState, Reasons, SlotKind, Why};
use super::tree::{LAST_RESORT, LOAD_MAX, Need, ONE, UNLIMITED, Vertex};
use crate::state::name::Hostname;

/// Disk is counted in these, so that a node's fits 32 bits.
pub const DISK_UNIT_BYTES: u64 = 256 << 20;

/// So many slots are fetched at once: as many reads as a processor keeps under way.
pub const FETCHED_TOGETHER: usize = 16;

/// What one slot may claim at most, so that a sum over a group cannot overflow.
pub const CLAIM_MAX: u32 = 1 << 28;

/// One part of a stream. The slots of a stream form a ring through `sibling`, its ingest included.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub node: u32,
    pub class: u32,
    /// Neighbours in the list it is in; of a free slot, the next free one.
    pub prev: u32,
    pub next: u32,
    pub sibling: u32,
    pub kbps: u32,
    pub disk: u32,
    pub channels: u16,
    /// Of the node it is on.
    pub score: u16,
    pub flags: u16,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            node: NONE,
            class: NONE,
            prev: NONE,
            next: NONE,
            sibling: NONE,
            kbps: 0,
            disk: 0,
            channels: 0,
            score: 0,
            flags: 0,
        }
    }
}

/// What is rarely looked at.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Of the stream's row, in halves that need no alignment; kept at its ingest slot.
    revision: [u32; 2],
    pub demand: u32,
}

impl Row {
    pub fn revision(&self) -> u64 {
        u64::from(self.revision[1]) << 32 | u64::from(self.revision[0])
    }

    pub fn set_revision(&mut self, revision: u64) {
        self.revision = [revision as u32, (revision >> 32) as u32];
    }
}

impl Default for Row {
    fn default() -> Self {
        Self {
            revision: [0, 0],
            demand: NONE,
        }
    }
}

const _: () = assert!(
    size_of::<Slot>() + size_of::<Row>() <= 48,
    "a million streams fit in 64 MB"
);

pub const KIND: u16 = 3;
pub const LIVE: u16 = 1 << 2;
pub const WAITING: u16 = 1 << 3;
/// In the batch that is placed at the end of the event.
pub const PENDING: u16 = 1 << 4;
/// Ingest of a stream that is placed as part of a unit; its `node` mirrors the unit's.
pub const MEMBER: u16 = 1 << 5;
/// Stands for the ingests of a unit.
pub const UNIT: u16 = 1 << 6;
pub const DISABLED: u16 = 1 << 7;
/// Where it was at the beginning of this event is written down.
pub const NOTED: u16 = 1 << 8;
/// Its node has not confirmed it yet.
pub const IN_FLIGHT: u16 = 1 << 9;
/// It has an origin to come back to.
pub const RETURNS: u16 = 1 << 10;
/// What it came back to at the beginning of this event is written down, and nothing of its stream was told since.
pub const ORIGIN_NOTED: u16 = 1 << 11;
/// What it takes was measured; kept at the ingest.
pub const MEASURED: u16 = 1 << 12;

impl Slot {
    #[inline]
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    #[inline]
    pub fn kind(&self) -> SlotKind {
        match self.flags & KIND {
            0 => SlotKind::Ingest,
            1 => SlotKind::Inference,
            _ => SlotKind::DvrBackup,
        }
    }

    #[inline]
    pub fn need(&self) -> Need {
        Need {
            channels: u32::from(self.channels),
            kbps: self.kbps,
            disk: self.disk,
        }
    }
}

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

impl Engine {
    #[inline]
    pub(super) fn node(&self, node: u32) -> &Node {
        &self.nodes[node as usize]
    }

    #[inline]
    pub(super) fn node_mut(&mut self, node: u32) -> &mut Node {
        Arc::make_mut(&mut self.nodes[node as usize])
    }

    #[inline]
    pub(super) fn slot(&self, slot: u32) -> &Slot {
        self.slots.get(slot)
    }

    #[inline]
    pub(super) fn slot_mut(&mut self, slot: u32) -> &mut Slot {
        self.slots.get_mut(slot)
    }

    pub(super) fn set_flag(&mut self, slot: u32, flag: u16, on: bool) {
        let slot = self.slots.get_mut(slot);
        if on {
            slot.flags |= flag;
        } else {
            slot.flags &= !flag;
        }
    }

    #[inline]
    pub(super) fn demand(&self, class: u32) -> &Demand {
        &self.classes.classes.get(class).demand
    }

    pub(super) fn node_class(&self, node: u32) -> &NodeClass {
        &self.classes.node_classes[self.node(node).class as usize]
    }

    pub(super) fn score_on(&self, class: u32, node: u32) -> u16 {
        score(self.demand(class), self.node_class(node))
    }

    pub(super) fn static_reasons_on(&self, class: u32, node: u32) -> Reasons {
        static_reasons(self.demand(class), self.node_class(node))
    }

    /// Tells the tree what became of a node.
    #[inline]
    pub(super) fn touch(&mut self, node: u32) {
        let leaf = self.leaf_of[node as usize];
        if leaf != NONE && !self.tree_stale {
            let vertex = self.node(node).vertex(self.settings.balance);
            self.tree.set(leaf, vertex);
        }
    }

    /// Leaf order: nodes grouped by class. O(nodes); everything that changes it only marks it stale.
    pub(super) fn refresh_tree(&mut self) {
        if !self.tree_stale {
            return;
        }
        self.tree_stale = false;
        let classes = self.classes.node_classes.len();
        let mut start = vec![0u32; classes + 1];
        for node in self.nodes.iter().filter(|node| node.live) {
            start[node.class as usize + 1] += 1;
        }
        for i in 0..classes {
            start[i + 1] += start[i];
        }
        let mut next = start.clone();
        let mut order = vec![NONE; start[classes] as usize];
        self.leaf_of = vec![NONE; self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.live) {
            let leaf = &mut next[node.class as usize];
            order[*leaf as usize] = i as u32;
            self.leaf_of[i] = *leaf;
            *leaf += 1;
        }
        let mut capacity = Vec::with_capacity(order.len() + 1);
        let mut sum = 0u64;
        capacity.push(0);
        for node in &order {
            sum += u64::from(self.node(*node).limit.channels);
            capacity.push(sum);
        }
        self.capacity_before = capacity;
        self.class_start = start;
        let balance = self.settings.balance;
        let nodes = &self.nodes;
        self.tree = super::tree::Tree::build(order, |node| nodes[node as usize].vertex(balance));
    }

    // ---- placed slots ----

    pub(super) fn assign(&mut self, s: u32, node: u32) {
        let class = self.slot(s).class;
        self.classes.pool(class);
        let score = self.score_on(class, node);
        self.assign_scored(s, node, score);
    }

    /// The same where the score is known, and with it the pool.
    #[inline]
    pub(super) fn assign_scored(&mut self, s: u32, node: u32, score: u16) {
        let slot = *self.slot(s);
        debug_assert!(slot.node == NONE && !slot.has(WAITING | PENDING | MEMBER) && slot.has(LIVE));
        self.link(s, node, score);
        if slot.has(RETURNS) && self.origin_of(s) == node {
            self.clear_origin(s);
        }
        self.touch(node);
        self.epoch += 1;
    }

    /// Puts a slot into its bucket and onto the node's account.
    pub(super) fn link(&mut self, s: u32, n: u32, score: u16) {
        let slot = *self.slot(s);
        let node = self.node_mut(n);
        node.channels += u64::from(slot.channels);
        node.kbps += u64::from(slot.kbps);
        node.disk += u64::from(slot.disk);
        let next = match node.bucket(slot.class) {
            Ok(i) => {
                let bucket = &mut node.buckets[i];
                bucket.count += 1;
                std::mem::replace(&mut bucket.head, s)
            }
            Err(i) => {
                let bucket = Bucket {
                    class: slot.class,
                    head: s,
                    count: 1,
                };
                node.buckets.insert(i, bucket);
                NONE
            }
        };
        if next != NONE {
            self.slot_mut(next).prev = s;
        }
        let slot = self.slot_mut(s);
        slot.node = n;
        slot.prev = NONE;
        slot.next = next;
        slot.score = score;
        let (class, is_unit) = (slot.class, slot.has(UNIT));
        if is_unit {
            self.mirror(s, n);
        }
        self.note_below_best(s, class, score);
    }

    /// Remembers a slot that could be placed better some day.
    pub(super) fn note_below_best(&mut self, s: u32, class: u32, score: u16) {
        let entry = self.classes.classes.get(class);
        if entry
            .pool
            .as_ref()
            .is_some_and(|pool| score < pool.best_score())
        {
            let entry = self.classes.classes.get_mut(class);
            Arc::make_mut(&mut entry.below_best).push(s);
            self.below_best.insert(class);
        }
    }

    /// Takes a slot off its node.
    pub(super) fn unassign(&mut self, s: u32) -> u32 {
        let slot = *self.slot(s);
        let n = slot.node;
        debug_assert!(n != NONE && !slot.has(MEMBER));
        if slot.prev != NONE {
            self.slot_mut(slot.prev).next = slot.next;
        }
        if slot.next != NONE {
            self.slot_mut(slot.next).prev = slot.prev;
        }
        let node = self.node_mut(n);
        node.channels -= u64::from(slot.channels);
        node.kbps -= u64::from(slot.kbps);
        node.disk -= u64::from(slot.disk);
        let i = node
            .bucket(slot.class)
            .expect("a placed slot is in a bucket of its node");
        let bucket = &mut node.buckets[i];
        bucket.count -= 1;
        if slot.prev == NONE {
            bucket.head = slot.next;
        }
        if bucket.count == 0 {
            node.buckets.remove(i);
        }
        let slot = self.slot_mut(s);
        slot.node = NONE;
        slot.prev = NONE;
        slot.next = NONE;
        if slot.has(UNIT) {
            self.mirror(s, NONE);
        }
        self.touch(n);
        self.epoch += 1;
        n
    }

    /// Slots of a node.
    pub(super) fn slots_on(&self, n: u32) -> Vec<u32> {
        let mut all = Vec::new();
        for bucket in &self.node(n).buckets {
            self.bucket_slots(bucket.head, &mut all);
        }
        all
    }

    pub(super) fn bucket_slots(&self, head: u32, all: &mut Vec<u32>) {
        let mut s = head;
        while s != NONE {
            all.push(s);
            s = self.slot(s).next;
        }
    }

    /// Takes a slot off its node and into the batch that is placed at the end of this event.
    pub(super) fn evict(&mut self, s: u32, why: Why) {
        self.note(s, why);
        self.unassign(s);
        self.enqueue(s);
    }

    pub(super) fn enqueue(&mut self, s: u32) {
        debug_assert!(self.slot(s).node == NONE);
        self.activate_all(s);
        self.set_flag(s, PENDING, true);
        self.batch.push(s);
    }

    /// A node can take more than before.
    pub(super) fn gain(&mut self, node: u32) {
        self.gain_epoch += 1;
        if !self.waiting_classes.is_empty() {
            self.gained.insert(node);
        }
    }

    /// What left a node in exchange for another slot may have been larger, or the sibling of one that waits. Room for a whole chain is not to be expected
    /// from that, so what was found hopeless stays so.
    pub(super) fn gain_little(&mut self, node: u32) {
        if !self.waiting_classes.is_empty() {
            self.gained.insert(node);
        }
    }

    // ---- waiting slots ----

    pub(super) fn wait(&mut self, s: u32) {
        self.wait_before(s, NONE);
    }

    /// Waits in front of another slot of the class, or behind all.
    pub(super) fn wait_before(&mut self, s: u32, next: u32) {
        let class = self.slot(s).class;
        let list = &mut self.classes.classes.get_mut(class).waiting;
        list.count += 1;
        let prev = if next == NONE {
            std::mem::replace(&mut list.tail, s)
        } else {
            self.slot(next).prev
        };
        if prev == NONE {
            self.classes.classes.get_mut(class).waiting.head = s;
        } else {
            self.slot_mut(prev).next = s;
        }
        if next != NONE {
            self.slot_mut(next).prev = s;
        }
        let slot = self.slot_mut(s);
        slot.flags |= WAITING;
        slot.prev = prev;
        slot.next = next;
        self.waiting_classes.insert(class);
        self.waiting += 1;
        self.epoch += 1;
    }

    pub(super) fn stop_waiting(&mut self, s: u32) {
        let slot = *self.slot(s);
        debug_assert!(slot.has(WAITING));
        if slot.prev != NONE {
            self.slot_mut(slot.prev).next = slot.next;
        }
        if slot.next != NONE {
            self.slot_mut(slot.next).prev = slot.prev;
        }
        let list = &mut self.classes.classes.get_mut(slot.class).waiting;
        list.count -= 1;
        if list.head == s {
            list.head = slot.next;
        }
        if list.tail == s {
            list.tail = slot.prev;
        }
        if list.count == 0 {
            self.waiting_classes.remove(&slot.class);
        }
        let slot = self.slot_mut(s);
        slot.flags &= !WAITING;
        slot.prev = NONE;
        slot.next = NONE;
        self.waiting -= 1;
        self.epoch += 1;
    }

    // ---- streams ----

    /// A live slot in a ring of its own, neither placed nor waiting.
    pub(super) fn new_slot(&mut self, kind: SlotKind, demand: u32, need: Need) -> u32 {
        let id = if self.free_slots == NONE {
            self.slots.push(Slot::default());
            self.rows.push(Row::default());
            self.names.push(None);
            self.slots.len() as u32 - 1
        } else {
            let id = self.free_slots;
            self.free_slots = self.slot(id).next;
            id
        };
        *self.slot_mut(id) = Slot {
            sibling: id,
            flags: kind as u16 | LIVE,
            ..Slot::default()
        };
        *self.rows.get_mut(id) = Row {
            demand,
            ..Row::default()
        };
        let class = self.classes.class_of_demand(demand);
        self.slot_mut(id).class = class;
        self.set_need(id, need);
        id
    }

    pub(super) fn set_need(&mut self, s: u32, need: Need) {
        let slot = self.slot_mut(s);
        slot.channels = need.channels.min(u32::from(u16::MAX)) as u16;
        slot.kbps = need.kbps;
        slot.disk = need.disk;
    }

    /// Another demand for a slot that is in no list.
    pub(super) fn set_demand(&mut self, s: u32, demand: u32) {
        let old = std::mem::replace(&mut self.rows.get_mut(s).demand, demand);
        self.classes.drop_demand(old);
        self.slot_mut(s).class = self.classes.class_of_demand(demand);
    }

    /// A slot that is in no list ceases to be. Its number is free from the end of the event on.
    pub(super) fn free_slot(&mut self, s: u32) {
        let demand = self.rows.get(s).demand;
        self.classes.drop_demand(demand);
        self.rows.get_mut(s).demand = NONE;
        self.clear_origin(s);
        self.land(s);
        self.set_flag(s, LIVE | PENDING, false);
        self.freed.push(s);
    }

    /// Puts `s` into the ring of `after`.
    pub(super) fn join_ring(&mut self, s: u32, after: u32) {
        let next = std::mem::replace(&mut self.slot_mut(after).sibling, s);
        self.slot_mut(s).sibling = next;
    }

    /// Takes `s` out of its ring; it still tells whose it was.
    pub(super) fn leave_ring(&mut self, s: u32, ingest: u32) {
        let mut before = ingest;
        while self.slot(before).sibling != s {
            before = self.slot(before).sibling;
        }
        let next = self.slot(s).sibling;
        self.slot_mut(before).sibling = next;
        self.slot_mut(s).sibling = ingest;
    }

    /// The ingest slot of the stream that a slot is of; a unit is its own.
    pub(super) fn ingest_of(&self, s: u32) -> u32 {
        let mut s = s;
        while self.slot(s).kind() != SlotKind::Ingest {
            s = self.slot(s).sibling;
        }
        s
    }

    /// The slots of a stream, its ingest first.
    pub(super) fn ring(&self, ingest: u32) -> Vec<u32> {
        let mut ring = vec![ingest];
        let mut s = self.slot(ingest).sibling;
        while s != ingest {
            ring.push(s);
            s = self.slot(s).sibling;
        }
        ring
    }

    /// Nodes that a slot must keep away from, because the same stream is there.
    pub(super) fn sibling_nodes(&self, s: u32, nodes: &mut Vec<u32>) {
        nodes.clear();
        let slot = self.slot(s);
        if slot.has(UNIT) {
            if let Some(unit) = self.units.get(&s) {
                for member in unit.members.iter().filter(|member| member.active) {
                    self.other_nodes(member.ingest, nodes);
                }
            }
        } else if slot.sibling != s {
            self.other_nodes(s, nodes);
        }
    }

    fn other_nodes(&self, s: u32, nodes: &mut Vec<u32>) {
        let mut other = self.slot(s).sibling;
        while other != s {
            let slot = self.slot(other);
            if slot.node != NONE {
                nodes.push(slot.node);
            }
            other = slot.sibling;
        }
    }

    /// Reads something of each of these slots. They lie far apart in memory: asked for together, all are waited for once.
    pub(super) fn fetch(&self, slots: impl Iterator<Item = u32>) {
        black_box(slots.fold(0, |sum, s| sum ^ self.slot(s).node));
    }

    /// The same for the names of their streams.
    pub(super) fn fetch_names(&self, slots: impl Iterator<Item = u32>) {
        black_box(slots.fold(0, |sum, s| {
            let name = self.names.get(self.ingest_of(s)).as_ref();
            sum ^ name.map_or(0, |name| name.as_bytes().first().copied().unwrap_or(0))
        }));
    }

    /// A number that depends on the name of the stream and the kind of slot alone.
    pub(super) fn order_of(&self, s: u32) -> u64 {
        let ingest = if self.slot(s).has(UNIT) {
            self.units
                .get(&s)
                .and_then(|unit| unit.members.first())
                .map_or(s, |member| member.ingest)
        } else {
            self.ingest_of(s)
        };
        let mut nth = 0u64;
        let mut at = ingest;
        while at != s && !self.slot(s).has(UNIT) {
            at = self.slot(at).sibling;
            nth += 1;
        }
        let name = self.names.get(ingest).as_ref();
        let hash = name.map_or(0, |name| xxhash_rust::xxh3::xxh3_64(name.as_bytes()));
        mix(hash ^ nth)
    }

    // ---- legality ----

    /// Everything that forbids a slot to be on a node. `there`: it is already, or says so itself, so pressure does not count.
    pub(super) fn reasons_on(&self, s: u32, n: u32, there: bool, siblings: &[u32]) -> Reasons {
        let slot = self.slot(s);
        let node = self.node(n);
        if !node.live {
            return Reasons::OFFLINE;
        }
        let mut reasons = self.static_reasons_on(slot.class, n);
        if !node.is_running() || !there && !node.is_heard() {
            reasons |= Reasons::OFFLINE;
        }
        if node.pressed && !there {
            reasons |= Reasons::CPU;
        }
        if slot.node != n {
            let mut need = slot.need();
            if there && node.settling && slot.has(UNIT) {
                // A unit that is put together anew stays where its members are until it was measured.
                (need.kbps, need.disk) = (0, 0);
            }
            reasons |= node.lacks(&need);
        }
        if siblings.contains(&n) {
            reasons |= Reasons::SIBLING;
        }
        reasons
    }

    /// Which of several reasons is told.
    pub(super) fn why_of(&self, reasons: Reasons, n: u32) -> Why {
        let table = [
            (Reasons::NAMESPACE, Why::Namespace),
            (Reasons::STREAM_MISSES_LABELS, Why::StreamMissesLabels),
            (Reasons::NODE_MISSES_LABELS, Why::NodeMissesLabels),
            (Reasons::OFFLINE, Why::NodeOffline),
            (Reasons::ROLE, Why::Role),
            (Reasons::TRANSCODING, Why::Transcoding),
            (Reasons::CHANNEL_LIMIT, Why::ChannelLimit),
            (Reasons::BANDWIDTH, Why::Bandwidth),
            (Reasons::DVR_SIZE, Why::DvrSize),
            (Reasons::CPU, Why::Cpu),
            (Reasons::SIBLING, Why::Redundancy),
        ];
        let found = table
            .into_iter()
            .find(|(reason, _)| reasons.has(*reason))
            .map_or(Why::NotDistributed, |(_, why)| why);
        if found == Why::NodeOffline && !self.node(n).live {
            return Why::NodeDeleted;
        }
        found
    }

    /// No streamer is left at all: then nothing moves.
    pub(super) fn is_frozen(&self) -> bool {
        self.counts.streamers_running == 0
    }

    /// What is told of all nodes together, for those that changed: ten thousand nodes are two megabytes to look at.
    pub(super) fn count_running(&mut self) {
        let changed = std::mem::take(&mut self.changed_nodes);
        for n in &changed {
            let node = self.node(*n);
            let (before, now) = (node.counted, Counted::of(node));
            if before != now {
                self.counts.leaves(&before);
                self.counts.joins(&now);
                self.node_mut(*n).counted = now;
            }
        }
        self.changed_nodes = changed;
    }
}
