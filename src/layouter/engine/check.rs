//! Self-checks and figures for tests, fuzzing and benchmarks: incrementally kept data is recomputed
//! and compared.

use std::collections::BTreeSet;

use super::Engine;
use super::class::NONE;
use super::cow::mix;
use super::event::SlotKind;
use super::slot::{
    DISABLED, IN_FLIGHT, LIVE, MEMBER, ORIGIN_RECORDED, PENDING, RECORDED, UNIT, WAITING,
};
use super::tree::UNLIMITED;

/// Sums over all slots.
#[derive(Default)]
struct Recount {
    nodes: Vec<NodeRecount>,
    waiting: u32,
    in_flight: u32,
}

/// Sums over the slots of a node.
#[derive(Clone, Default)]
struct NodeRecount {
    channels: u64,
    kbps: u64,
    disk: u64,
    slots: u32,
}

impl Engine {
    /// The usable bandwidth of a node, if it has a limit.
    pub fn kbps_limit_of(&self, hostname: &str) -> Option<u64> {
        let node = self.cluster.by_hostname.get(hostname)?;
        let limit = self.node(*node).limit.kbps;
        (limit != UNLIMITED).then_some(u64::from(limit))
    }

    /// The bitrate that is assumed, claimed or measured for a stream.
    pub fn kbps_of(&self, stream: &str) -> Option<u32> {
        let ingest = *self.table.by_name.get(stream)?;
        Some(self.slot(ingest).kbps)
    }

    /// Work since the start: comparisons of classes, and nodes, lists and slots looked at.
    pub fn work(&self) -> u64 {
        self.classes.compared + self.slice.done
    }

    pub fn stream_classes_count(&self) -> usize {
        self.classes.classes_count()
    }

    pub fn node_classes_count(&self) -> usize {
        self.classes.node_classes.len()
    }

    /// Equal layouts have equal hashes.
    pub fn layout_hash(&self) -> u64 {
        let mut sum = 0u64;
        for s in 0..self.table.slots.len() as u32 {
            let slot = self.slot(s);
            if slot.has(LIVE) && !slot.has(UNIT) && slot.node != NONE {
                let host = xxhash_rust::xxh3::xxh3_64(self.node(slot.node).hostname.as_bytes());
                // Backups of a stream are a set.
                let order = self.order_of(self.ingest_of(s)) ^ slot.kind() as u64;
                sum = sum.wrapping_add(mix(order ^ mix(host)));
            }
        }
        sum
    }

    /// Panics if a slot waits that some node could take, or an ingest whose backup could give way,
    /// or if a node that is drained has what another could take. Holds once ticks and drains have
    /// nothing left to do.
    pub fn check_rest(&self) {
        self.check_drained();
        let mut siblings = Vec::new();
        for s in (0..self.table.slots.len() as u32).filter(|s| self.slot(*s).has(WAITING)) {
            let promotable = self.promotable(s, true);
            assert!(
                promotable.is_none(),
                "{:?} waits, but has a backup on {:?}",
                self.table.names.get(self.ingest_of(s)),
                promotable.map(|n| &self.node(n).hostname)
            );
            self.sibling_nodes(s, &mut siblings);
            for n in 0..self.cluster.nodes.len() as u32 {
                let reasons = self.reasons_on(s, n, false, &siblings);
                assert!(
                    !reasons.is_empty(),
                    "{:?} of {:?} waits, but {} could take it",
                    self.slot(s).kind(),
                    self.table.names.get(self.ingest_of(s)),
                    self.node(n).hostname
                );
            }
        }
    }

    /// Panics if derived data is wrong. Not for use between `Load` and `Loaded`.
    pub fn check(&self) {
        let mut recount = Recount {
            nodes: vec![NodeRecount::default(); self.cluster.nodes.len()],
            ..Recount::default()
        };
        for s in 0..self.table.slots.len() as u32 {
            self.check_slot(s, &mut recount);
        }
        assert_eq!(
            recount.waiting, self.queue.waiting,
            "waiting slots are counted"
        );
        assert_eq!(
            recount.in_flight, self.flights.count,
            "moves in flight are counted"
        );
        self.check_waiting(recount.waiting);
        for (n, node) in recount.nodes.iter().enumerate() {
            self.check_node(n as u32, node);
        }
        if !self.index.is_stale {
            self.check_index();
        }
        self.check_units();
        self.check_held();
    }

    /// Nodes are charged for slots that have left them, and only for those.
    fn check_held(&self) {
        let mut sums = vec![(0_u64, 0_u64, 0_u64); self.cluster.nodes.len()];
        for held in self.flights.held.values() {
            let sum = &mut sums[held.node as usize];
            sum.0 += u64::from(held.need.channels);
            sum.1 += u64::from(held.need.kbps);
            sum.2 += u64::from(held.need.disk);
        }
        for (node, sum) in self.cluster.nodes.iter().zip(sums) {
            let held = &node.held;
            let held = (held.channels, held.kbps, held.disk);
            let held = (u64::from(held.0), u64::from(held.1), u64::from(held.2));
            assert_eq!(held, sum, "held room of {}", node.hostname);
        }
        for (s, keeper) in &self.flights.kept {
            assert!(self.slot(*s).has(LIVE), "a live slot is handed over");
            assert!(self.node(*keeper).live, "a live node keeps a slot");
            let held = self.flights.held.get(s).map(|held| held.node);
            assert_eq!(held, Some(*keeper), "a node is charged for what it keeps");
        }
    }

    fn check_slot(&self, s: u32, recount: &mut Recount) {
        let slot = self.slot(s);
        if !slot.has(LIVE) {
            assert_eq!(slot.node, NONE, "a free slot has no node");
            return;
        }
        assert!(
            !slot.has(RECORDED | PENDING | ORIGIN_RECORDED),
            "an event leaves no flags behind"
        );
        recount.in_flight += u32::from(slot.has(IN_FLIGHT));
        let demand = self.table.rows.get(s).demand;
        assert_eq!(slot.class, self.classes.class_of_demand(demand), "class");
        if slot.has(MEMBER) {
            let u = *self.units.of_member.get(&s).expect("a member has a unit");
            let unit = self.units.by_slot.get(&u).expect("the unit exists");
            let member = unit.members.iter().find(|member| member.ingest == s);
            let active = member.expect("the unit has the member").active;
            let node = if active { self.slot(u).node } else { NONE };
            assert_eq!(slot.node, node, "a member is where its unit is");
            return;
        }
        if slot.has(DISABLED) {
            assert!(
                slot.node == NONE && !slot.has(WAITING) && slot.sibling == s,
                "a disabled stream has no slots"
            );
            return;
        }
        if slot.node == NONE {
            assert!(slot.has(WAITING), "a slot is placed or waits");
            recount.waiting += 1;
            return;
        }
        assert!(!slot.has(WAITING), "a placed slot does not wait");
        let node = self.node(slot.node);
        let bucket = node.bucket(slot.class).expect("it is in a bucket");
        if slot.prev == NONE {
            assert_eq!(node.buckets[bucket].head, s, "the first slot is the head");
        }
        let sum = &mut recount.nodes[slot.node as usize];
        sum.channels += u64::from(slot.channels);
        sum.kbps += u64::from(slot.kbps);
        sum.disk += u64::from(slot.disk);
        sum.slots += 1;
        if !self.is_frozen() {
            self.check_placed(s);
        }
    }

    fn check_placed(&self, s: u32) {
        let slot = self.slot(s);
        assert!(
            self.node(slot.node).is_running(),
            "nothing stays on a lost node"
        );
        let reasons = self.static_reasons_on(slot.class, slot.node);
        assert!(reasons.is_empty(), "a placed slot is legal: {reasons:?}");
        assert_eq!(slot.score, self.score_on(slot.class, slot.node), "score");
        let class = self.classes.classes.get(slot.class);
        let best = class.pool.as_ref().expect("its pool was made").best_score();
        assert!(
            slot.score >= best
                || self.classes.offers.promoted.contains(&slot.class)
                || class.below_best.contains(&s),
            "slots below the best tier are tracked"
        );
        let mut siblings = Vec::new();
        self.sibling_nodes(s, &mut siblings);
        assert!(
            !siblings.contains(&slot.node),
            "slots of a stream are apart"
        );
    }

    fn check_waiting(&self, waiting: u32) {
        let mut listed = 0;
        for class in 0..self.classes.classes.len() as u32 {
            let list = self.classes.classes.get(class).waiting;
            let (mut at, mut count) = (list.head, 0);
            while at != NONE {
                assert!(self.slot(at).has(WAITING) && self.slot(at).class == class);
                count += 1;
                at = self.slot(at).next;
            }
            assert_eq!(count, list.count, "waiting list");
            assert_eq!(count > 0, self.queue.classes.contains(&class));
            listed += count;
        }
        assert_eq!(listed, waiting, "every waiting slot is in a list");
    }

    fn check_node(&self, n: u32, recount: &NodeRecount) {
        let node = self.node(n);
        let used = &node.used;
        assert_eq!(
            (used.channels, used.kbps, used.disk),
            (recount.channels, recount.kbps, recount.disk)
        );
        let count: u32 = node.buckets.iter().map(|bucket| bucket.count).sum();
        assert_eq!(count, recount.slots, "buckets of {}", node.hostname);
        assert_eq!(self.slots_on(n).len(), recount.slots as usize);
        if !node.live || self.is_frozen() {
            return;
        }
        assert!(used.channels <= u64::from(node.limit.channels), "channels");
        if node.settling {
            return;
        }
        let excess = self.exceeds(n, 1) || self.exceeds(n, 2);
        assert!(
            !excess || self.overload.nodes.contains_key(&n),
            "{} is above its limits: {used:?} of {:?}",
            node.hostname,
            node.limit
        );
    }

    fn check_index(&self) {
        assert!(self.index.tree.is_consistent());
        for (n, node) in self.cluster.nodes.iter().enumerate() {
            let leaf = self.index.leaf_of[n];
            assert_eq!(leaf != NONE, node.live);
            if node.live {
                assert_eq!(
                    *self.index.tree.leaf(leaf),
                    node.vertex(self.settings.balance),
                    "leaf of {}",
                    node.hostname
                );
            }
        }
    }

    fn check_units(&self) {
        let mut members = BTreeSet::new();
        for s in 0..self.table.slots.len() as u32 {
            let slot = self.slot(s);
            if !slot.has(LIVE) || !slot.has(UNIT) {
                continue;
            }
            let unit = self
                .units
                .by_slot
                .get(&s)
                .expect("a unit knows its members");
            assert!(unit.members.len() > 1);
            let mut sum = (0u32, 0u64, 0u64);
            for member in &unit.members {
                assert!(members.insert(member.ingest), "a stream is in one unit");
                assert!(self.slot(member.ingest).has(MEMBER));
                assert_eq!(self.slot(member.ingest).kind(), SlotKind::Ingest);
                if member.active {
                    let need = self.slot(member.ingest).need();
                    sum.0 += need.channels;
                    sum.1 += u64::from(need.kbps);
                    sum.2 += u64::from(need.disk);
                }
            }
            let need = slot.need();
            assert_eq!(need.channels, sum.0.min(u32::from(u16::MAX)));
            assert_eq!(u64::from(need.kbps), sum.1.min(u64::from(u32::MAX)));
            assert_eq!(u64::from(need.disk), sum.2.min(u64::from(u32::MAX)));
        }
    }

    /// Memory of the engine without names, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let slots = self.table.slots.len()
            * (size_of::<super::slot::Slot>() + size_of::<super::slot::SlotRow>());
        let nodes: usize = self
            .cluster
            .nodes
            .iter()
            .map(|node| {
                size_of::<super::node::SlotNode>()
                    + node.buckets.capacity() * size_of::<super::node::ClassBucket>()
                    + node.displaced.slots.capacity() * 4
            })
            .sum();
        let below: usize = self
            .classes
            .classes
            .iter()
            .map(|class| class.below_best.capacity() * 4 + size_of::<super::class::StreamClass>())
            .sum();
        let eligible = self.classes.eligible.all.len() * size_of::<super::pool::EligibleNodes>();
        let flights: usize = self
            .flights
            .by_time
            .iter()
            .map(|(_, slots)| slots.len() * 4)
            .sum();
        slots
            + nodes
            + eligible
            + below
            + flights
            + self.index.tree.vertices() * size_of::<super::tree::Vertex>()
    }
}
