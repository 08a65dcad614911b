//! Queries: the layout of a stream, every node's decision about it, capacity, and the cost of
//! losing a node.

use std::collections::BTreeMap;

use super::Engine;
use super::class::{NONE, score, static_reasons};
use super::event::{
    Event, LayoutChange, MoveReason, NodeState, PlacementRole, Reasons, SlotKind, StreamLayout,
    StreamSpec,
};
use super::node::SlotNode;
use super::slot::{DISABLED, LIVE, MEMBER, QUARANTINED, UNIT};
use super::tree::{Need, ONE, UNLIMITED};
use crate::state::name::{Hostname, StreamName};

/// Whether one node can take one slot, and why not.
#[derive(Clone, Debug)]
pub struct NodeDecision<'a> {
    pub hostname: &'a Hostname,
    pub role: PlacementRole,
    /// Empty: the node can take it, or has it.
    pub reasons: Reasons,
    pub score: u16,
    pub load_permille: u32,
    /// The slot is on this node.
    pub here: bool,
}

/// A node and its state.
#[derive(Clone, Debug)]
pub struct NodeReport<'a> {
    pub hostname: &'a Hostname,
    pub role: PlacementRole,
    pub state: NodeState,
    /// It may take new slots, if it is running.
    pub is_open: bool,
}

/// How many more streams of a kind fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    pub fits: u64,
    /// The limit that would have to be raised first. Empty if nothing is limited, or no node takes
    /// such streams for several reasons.
    pub bottleneck: Reasons,
}

/// The streams of a class: they can be placed on the same nodes.
#[derive(Clone, Debug)]
pub struct ClassReport<'a> {
    /// As configured, prefixes included; only labels that some node carries.
    pub labels: Vec<(String, &'a str)>,
    pub transcoder: bool,
    /// The name of one of its streams.
    pub example: &'a StreamName,
    /// Enabled streams.
    pub streams: u32,
    /// Streams without an ingest node that runs.
    pub waiting: u32,
    /// Nodes that can take such streams now.
    pub nodes: usize,
    /// Room for more streams with the average needs of these.
    pub capacity: Capacity,
}

/// Streams and copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlotCounts {
    /// Ingests.
    pub streams: u64,
    /// DVR backups.
    pub copies: u64,
    pub inferences: u64,
}

impl SlotCounts {
    fn add(&mut self, kind: SlotKind, count: u64) {
        match kind {
            SlotKind::Ingest => self.streams += count,
            SlotKind::DvrBackup => self.copies += count,
            SlotKind::Inference => self.inferences += count,
        }
    }

    pub fn of(&self, kind: SlotKind) -> u64 {
        match kind {
            SlotKind::Ingest => self.streams,
            SlotKind::DvrBackup => self.copies,
            SlotKind::Inference => self.inferences,
        }
    }
}

/// The consequences of losing one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Survival {
    /// What is on the node.
    pub there: SlotCounts,
    /// What has a running node now and would have none.
    pub unplaced: SlotCounts,
}

fn permille(load: u64) -> u32 {
    (load * 1000 / ONE) as u32
}

impl Engine {
    /// The complete layout of a stream; `None` if the engine does not have it.
    pub fn layout(&self, stream: &str) -> Option<StreamLayout> {
        let ingest = *self.table.by_name.get(stream)?;
        let host = |s: u32| {
            let node = self.slot(s).node;
            (node != NONE).then(|| self.node(node).hostname.clone())
        };
        let mut layout = StreamLayout {
            revision: self.table.rows.get(ingest).revision(),
            ingest: host(ingest),
            failover_from: self.failover_from(ingest).cloned(),
            ..StreamLayout::default()
        };
        for s in self.ring(ingest) {
            match self.slot(s).kind() {
                SlotKind::Ingest => {}
                SlotKind::Inference => layout.inference = host(s),
                SlotKind::DvrBackup => layout.dvr_backups.extend(host(s)),
            }
        }
        for n in self.kept_copies(ingest) {
            let kept = &self.node(*n).hostname;
            if layout.ingest.as_ref() != Some(kept) && !layout.dvr_backups.contains(kept) {
                layout.dvr_backups.push(kept.clone());
            }
        }
        Some(layout)
    }

    pub(super) fn failover_from(&self, ingest: u32) -> Option<&Hostname> {
        let origin = self.stream_origin(ingest);
        (origin != NONE).then(|| &self.node(origin).hostname)
    }

    /// The node that a stream's ingest returns to.
    pub(super) fn stream_origin(&self, ingest: u32) -> u32 {
        let s = if self.slot(ingest).has(MEMBER) {
            self.units.of_member.get(&ingest).copied().unwrap_or(ingest)
        } else {
            ingest
        };
        self.origin_of(s)
    }

    /// Every node's decision about a slot of a stream, in no particular order. Streams that share
    /// an agent are judged as a unit.
    pub fn explain(&self, stream: &str, kind: SlotKind) -> Option<Vec<NodeDecision<'_>>> {
        let ingest = *self.table.by_name.get(stream)?;
        let s = self
            .ring(ingest)
            .into_iter()
            .find(|s| self.slot(*s).kind() == kind)?;
        let unit = self.units.of_member.get(&s).copied();
        let judged = unit.filter(|_| self.slot(s).has(MEMBER)).unwrap_or(s);
        let slot = *self.slot(judged);
        // A unit may be placed in part. Its waiting members are placed with the whole unit, so the
        // whole is judged.
        let waits = judged != s && self.slot(s).node == NONE;
        let whole = waits.then(|| self.whole(judged));
        let demand = match &whole {
            Some((demand, _)) => demand,
            None => self.demand(slot.class),
        };
        let statics: Vec<(Reasons, u16)> = self
            .classes
            .node_classes
            .iter()
            .map(|class| (static_reasons(demand, class), score(demand, class)))
            .collect();
        let siblings = self.all_sibling_nodes(judged, waits);
        let part = slot.need();
        let need = whole.as_ref().map_or(part, |(_, need)| *need);
        let rest = Need {
            channels: need.channels.saturating_sub(part.channels),
            kbps: need.kbps.saturating_sub(part.kbps),
            disk: need.disk.saturating_sub(part.disk),
        };
        let balance = self.settings.balance;
        let decide = |i: u32, node: &SlotNode| {
            let part_here = slot.node == i;
            let here = part_here && !waits;
            let (mut reasons, score) = statics[node.class as usize];
            if !node.is_running() || !here && !node.is_reachable() {
                reasons |= Reasons::OFFLINE;
            }
            if !here {
                reasons |= node.lacks(if part_here { &rest } else { &need });
                reasons |= node.closure.reasons();
            }
            if siblings.contains(&i) {
                reasons |= Reasons::SIBLING;
            }
            (here, reasons, score)
        };
        let nodes = self.cluster.nodes.iter().enumerate();
        let decisions = nodes.filter(|(_, node)| node.live).map(|(i, node)| {
            let (here, reasons, score) = decide(i as u32, node);
            NodeDecision {
                hostname: &node.hostname,
                role: node.full.role,
                reasons,
                score,
                load_permille: permille(node.load(balance)),
                here,
            }
        });
        Some(decisions.collect())
    }

    /// What speaks against one node for a slot of a stream. Costs the same in a cluster of any
    /// size.
    pub fn reasons_against(&self, stream: &str, kind: SlotKind, hostname: &str) -> Reasons {
        let node = self.cluster.by_hostname.get(hostname).copied();
        let ingest = self.table.by_name.get(stream).copied();
        let (Some(n), Some(ingest)) = (node, ingest) else {
            return Reasons::NONE;
        };
        let mut ring = self.ring(ingest).into_iter();
        let Some(s) = ring.find(|s| self.slot(*s).kind() == kind) else {
            return Reasons::NONE;
        };
        let unit = self.units.of_member.get(&s).copied();
        let judged = unit.filter(|_| self.slot(s).has(MEMBER)).unwrap_or(s);
        let mut siblings = Vec::new();
        self.sibling_nodes(judged, &mut siblings);
        let is_there = self.slot(judged).node == n;
        self.reasons_on(judged, n, is_there, &siblings)
    }

    /// Nodes with other slots of the stream or, if `whole`, of any member of the unit.
    fn all_sibling_nodes(&self, s: u32, whole: bool) -> Vec<u32> {
        let mut siblings = Vec::new();
        self.sibling_nodes(s, &mut siblings);
        if whole {
            let mut of_one = Vec::new();
            for member in self.members_of(s) {
                self.sibling_nodes(member, &mut of_one);
                siblings.append(&mut of_one);
            }
        }
        siblings
    }

    /// All nodes, in no particular order.
    pub fn nodes(&self) -> impl Iterator<Item = NodeReport<'_>> {
        self.cluster
            .nodes
            .iter()
            .filter(|node| node.live)
            .map(move |node| NodeReport {
                hostname: &node.hostname,
                role: node.full.role,
                state: node.state,
                is_open: node.closure.is_open(),
            })
    }

    /// How many more streams like this one fit without moving others. Each of its recordings needs
    /// a node.
    pub fn capacity(&self, spec: &StreamSpec) -> Capacity {
        let mut scratch = self.snapshot();
        let wanted = scratch.demands_of(spec);
        let copies = 1 + u64::from(wanted.backups);
        // If the stream has backups, only nodes that can keep one are counted; any of them can be
        // the ingest's, too.
        let demand = match wanted.backup {
            Some((backup, _)) if copies > 1 => backup,
            _ => wanted.ingest.0,
        };
        let demand = scratch.intern(demand);
        let class = scratch.classes.class_of_demand(demand);
        let need = wanted.ingest.1;
        scratch.release_unconfirmed();
        scratch.refresh_tree();
        let nodes = scratch.open_nodes_of(class);
        scratch.capacity_of(class, &nodes, need, copies)
    }

    /// The classes of all streams, in no particular order.
    pub fn class_reports(&self) -> Vec<ClassReport<'_>> {
        #[derive(Default)]
        struct Sum {
            first: u32,
            streams: u32,
            waiting: u32,
            kbps: u64,
            disk: u64,
        }
        let mut sums: BTreeMap<u32, Sum> = BTreeMap::new();
        for (s, slot) in self.table.slots.iter().enumerate() {
            if !slot.has(LIVE) || slot.has(UNIT | DISABLED) || slot.kind() != SlotKind::Ingest {
                continue;
            }
            let sum = sums.entry(slot.class).or_insert_with(|| Sum {
                first: s as u32,
                ..Sum::default()
            });
            sum.streams += 1;
            let has_node = slot.node != NONE && self.node(slot.node).is_running();
            sum.waiting += u32::from(!has_node);
            sum.kbps += u64::from(slot.kbps);
            sum.disk += u64::from(slot.disk);
        }
        let mut scratch = self.snapshot();
        scratch.release_unconfirmed();
        scratch.refresh_tree();
        let each = sums.into_iter().filter_map(|(class, sum)| {
            let example = self.table.names.get(sum.first).as_ref()?;
            let average = |total: u64| (total / u64::from(sum.streams)) as u32;
            let need = Need {
                channels: 1,
                kbps: average(sum.kbps),
                disk: average(sum.disk),
            };
            let nodes = scratch.open_nodes_of(class);
            let demand = self.demand(class);
            let plain = demand.labels.iter().map(|id| ("", *id));
            let requires = demand.requires.iter().map(|id| ("required.", *id));
            let prefers = demand.prefers.iter().map(|(id, _)| ("preferred.", *id));
            let labels = plain.chain(requires).chain(prefers);
            Some(ClassReport {
                labels: labels
                    .filter_map(|(prefix, id)| {
                        let (key, value) = self.classes.label_pair(id)?;
                        Some((format!("{prefix}{key}"), value))
                    })
                    .collect(),
                transcoder: demand.transcoder,
                example,
                streams: sum.streams,
                waiting: sum.waiting,
                nodes: nodes.len(),
                capacity: scratch.capacity_of(class, &nodes, need, 1),
            })
        });
        each.collect()
    }

    /// How many more streams with this need fit on the nodes, and what limits them.
    fn capacity_of(&self, class: u32, nodes: &[u32], need: Need, copies: u64) -> Capacity {
        let fits = |need: Need| fits(self, nodes, need, copies);
        let now = fits(need);
        let without = [
            (
                Reasons::CHANNEL_LIMIT,
                Need {
                    channels: 0,
                    ..need
                },
            ),
            (Reasons::BANDWIDTH, Need { kbps: 0, ..need }),
            (Reasons::DVR_SIZE, Need { disk: 0, ..need }),
        ];
        let bottleneck = if nodes.is_empty() {
            self.shared_reasons(class)
        } else {
            without
                .into_iter()
                .map(|(reason, need)| (fits(need), reason))
                .filter(|(more, _)| *more > now)
                .max_by_key(|(more, reason)| (*more, std::cmp::Reverse(reason.0)))
                .map_or(Reasons::NONE, |(_, reason)| reason)
        };
        Capacity {
            fits: now,
            bottleneck,
        }
    }

    /// The reasons against a class that all nodes of its role share.
    fn shared_reasons(&self, class: u32) -> Reasons {
        let mut shared = u16::MAX;
        let role = self.demand(class).role;
        for (i, node) in self.cluster.nodes.iter().enumerate() {
            if !node.live || node.full.role != role {
                continue;
            }
            let mut reasons = self.static_reasons_on(class, i as u32);
            if !node.is_reachable() {
                reasons |= Reasons::OFFLINE;
            }
            reasons |= node.closure.reasons();
            shared &= reasons.0;
        }
        if shared == u16::MAX {
            return Reasons::OFFLINE;
        }
        Reasons(shared)
    }

    /// The consequences of losing a node, found by applying the event to a snapshot.
    pub fn survival(&self, hostname: &str) -> Option<Survival> {
        let n = *self.cluster.by_hostname.get(hostname)?;
        let node = self.node(n);
        if !node.live {
            return None;
        }
        let there = self.counts_on_node(n);
        let mut lost = self.snapshot();
        let changes = lost.apply(Event::NodeStates(vec![(
            node.hostname.clone(),
            NodeState::Down,
        )]));
        // What is left on the node has none that runs: nothing moves while no streamer is running.
        let mut unplaced = lost.counts_on_node(n);
        for kind in [SlotKind::Ingest, SlotKind::DvrBackup, SlotKind::Inference] {
            // Old copies that are kept for a drain are not among the slots.
            let is_old = |change: &&LayoutChange| change.reason == MoveReason::Drain;
            let of_kind = || {
                changes
                    .iter()
                    .filter(|change| change.kind == kind && !is_old(change))
            };
            let gone = of_kind().filter(|change| change.to.is_none()).count() as u64;
            let arrived = of_kind().filter(|change| change.from.is_none()).count() as u64;
            unplaced.add(kind, gone.saturating_sub(arrived));
        }
        Some(Survival { there, unplaced })
    }

    /// What is on a node.
    pub fn counts_on(&self, hostname: &str) -> SlotCounts {
        let node = self.cluster.by_hostname.get(hostname);
        node.map_or_else(SlotCounts::default, |n| self.counts_on_node(*n))
    }

    pub(super) fn counts_on_node(&self, n: u32) -> SlotCounts {
        let mut counts = SlotCounts::default();
        for s in self.slots_on(n) {
            let slot = self.slot(s);
            let count = if slot.has(UNIT) {
                self.active_members(s).len() as u64
            } else {
                1
            };
            counts.add(slot.kind(), count);
        }
        counts
    }

    /// What has no node that runs. Nothing of a disabled stream counts.
    pub fn unplaced(&self) -> SlotCounts {
        let mut counts = SlotCounts::default();
        for class in &self.queue.classes {
            let mut waiting = Vec::new();
            self.bucket_slots(self.classes.classes.get(*class).waiting.head, &mut waiting);
            for s in waiting {
                let count = if self.slot(s).has(UNIT) {
                    self.members_of(s).count() as u64
                } else {
                    1
                };
                counts.add(self.slot(s).kind(), count);
            }
        }
        for u in self.units.partial.keys() {
            if self.slot(*u).node != NONE {
                let waiting = self.members_of(*u).count() - self.active_members(*u).len();
                counts.add(SlotKind::Ingest, waiting as u64);
            }
        }
        for (n, node) in self.cluster.nodes.iter().enumerate() {
            if !node.is_running() && !node.buckets.is_empty() {
                let there = self.counts_on_node(n as u32);
                for kind in [SlotKind::Ingest, SlotKind::DvrBackup, SlotKind::Inference] {
                    counts.add(kind, there.of(kind));
                }
            }
        }
        counts
    }
}

impl Engine {
    /// Calls `visit` with each enabled stream whose ingest has no node that runs, in no particular
    /// order.
    pub fn each_unplaced(&self, mut visit: impl FnMut(&StreamName)) {
        let mut visit = |s: u32| {
            if let Some(name) = self.table.names.get(s) {
                visit(name);
            }
        };
        let is_ingest = |s: &u32| self.slot(*s).kind() == SlotKind::Ingest;
        for class in &self.queue.classes {
            let mut waiting = Vec::new();
            self.bucket_slots(self.classes.classes.get(*class).waiting.head, &mut waiting);
            for s in waiting.into_iter().filter(is_ingest) {
                if self.slot(s).has(UNIT) {
                    self.members_of(s).for_each(&mut visit);
                } else {
                    visit(s);
                }
            }
        }
        for u in self.units.partial.keys() {
            if self.slot(*u).node != NONE {
                let active = self.active_members(*u);
                let waiting = self.members_of(*u).filter(|s| !active.contains(s));
                waiting.for_each(&mut visit);
            }
        }
        for (n, node) in self.cluster.nodes.iter().enumerate() {
            if node.is_running() {
                continue;
            }
            for s in self.slots_on(n as u32).into_iter().filter(is_ingest) {
                if self.slot(s).has(UNIT) {
                    self.active_members(s).into_iter().for_each(&mut visit);
                } else {
                    visit(s);
                }
            }
        }
    }

    /// Whether a stream is held because it ended one node after the other.
    pub fn is_quarantined(&self, stream: &str) -> bool {
        let ingest = self.table.by_name.get(stream);
        ingest.is_some_and(|ingest| self.slot(*ingest).has(QUARANTINED))
    }

    /// Whether the ingest of a known stream has a node that runs.
    pub fn is_on_air(&self, stream: &str) -> bool {
        let ingest = self.table.by_name.get(stream);
        ingest.is_some_and(|ingest| {
            let node = self.slot(*ingest).node;
            node != NONE && self.node(node).is_running()
        })
    }

    /// The channels that a node may use.
    pub fn channel_limit(&self, hostname: &str) -> Option<u32> {
        let node = self.cluster.by_hostname.get(hostname)?;
        Some(self.node(*node).limit.channels)
    }
}

/// How many streams of `copies` slots with this need fit, each slot of a stream on a different
/// node.
fn fits(engine: &Engine, nodes: &[u32], need: Need, copies: u64) -> u64 {
    let each: Vec<u64> = nodes
        .iter()
        .map(|n| {
            let room = engine.node(*n).free_room();
            let times = |room: u32, need: u32| {
                if need == 0 || room == UNLIMITED {
                    u64::from(UNLIMITED)
                } else {
                    u64::from(room / need)
                }
            };
            times(room.channels, need.channels)
                .min(times(room.kbps, need.kbps))
                .min(times(room.disk, need.disk))
        })
        .collect();
    // A node takes at most one slot of each stream, so `k` streams fit if the nodes take `k *
    // copies` slots, none more than `k`.
    let (mut low, mut high) = (0u64, each.iter().sum::<u64>() / copies);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        let slots: u64 = each.iter().map(|most| (*most).min(middle)).sum();
        if slots >= middle.saturating_mul(copies) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}
