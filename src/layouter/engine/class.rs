//! Classes: slots with equal demands, and nodes with equal offers, are matched once.
//!
//! A *demand* is everything one slot requires of a node. Most labels concern one side only (a
//! camera's number, a customer), so a demand is reduced to its *class*: without the properties and
//! preferences that no node carries. Nodes are reduced in the same way, by the labels that demands
//! refer to. A label that one side refers to for the first time changes the classes of those on the
//! other side that have it, and of no others. A label that is no longer referred to stays in the
//! classes until the next clean-up.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::cow::{CowMap, CowVec};
use super::event::{PlacementRole, Reasons};
use super::label::LabelPair;
use super::tree::Need;

pub type LabelId = u32;
/// Stands for no namespace, no node, no slot, no class.
pub const NONE: u32 = u32::MAX;

/// Score of one matching preferred label, and of one property that both sides have.
pub const PREFERRED_SCORE: u16 = 1000;
pub const SHARED_SCORE: u16 = 1;

/// What a slot requires of a node. Lists are sorted.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct SlotDemand {
    pub role: PlacementRole,
    pub dvr: bool,
    pub transcoder: bool,
    pub namespace: u32,
    pub labels: Vec<LabelId>,
    pub requires: Vec<LabelId>,
    /// Preferred labels, with the score of each.
    pub prefers: Vec<(LabelId, u16)>,
}

/// What a node offers and requires. Lists are sorted.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct NodeClass {
    pub role: PlacementRole,
    pub namespace: u32,
    pub labels: Vec<LabelId>,
    pub requires: Vec<LabelId>,
    pub transcoder: bool,
    pub dvr: bool,
    /// Number of its failure-domain label.
    pub domain: u32,
}

impl NodeClass {
    /// Class 0, of placeholders: no live node is in it.
    pub fn placeholder() -> Self {
        Self {
            role: PlacementRole::Other,
            namespace: NONE,
            domain: NONE,
            ..Self::default()
        }
    }
}

/// Why nodes of a class can take no slot of a demand, whatever their load.
pub fn static_reasons(demand: &SlotDemand, node: &NodeClass) -> Reasons {
    let mut reasons = Reasons::NONE;
    if demand.role != node.role || demand.dvr && !node.dvr {
        reasons |= Reasons::ROLE;
    }
    if demand.namespace != node.namespace {
        reasons |= Reasons::NAMESPACE;
    }
    if demand.transcoder && !node.transcoder {
        reasons |= Reasons::TRANSCODING;
    }
    if !has_all(&node.labels, &demand.requires) {
        reasons |= Reasons::NODE_MISSES_LABELS;
    }
    if !has_all(&demand.labels, &node.requires) {
        reasons |= Reasons::STREAM_MISSES_LABELS;
    }
    reasons
}

fn has_all(all: &[LabelId], wanted: &[LabelId]) -> bool {
    wanted.iter().all(|label| all.binary_search(label).is_ok())
}

/// How well nodes of a class suit a demand: higher is better.
pub fn score(demand: &SlotDemand, node: &NodeClass) -> u16 {
    let mut score = 0u16;
    for (label, weight) in &demand.prefers {
        if node.labels.binary_search(label).is_ok() {
            score = score.saturating_add(*weight);
        }
    }
    for label in &demand.labels {
        if node.labels.binary_search(label).is_ok() {
            score = score.saturating_add(SHARED_SCORE);
        }
    }
    score
}

/// Node classes of equal score, as runs `[low, high)` of their numbers.
#[derive(Clone, Debug)]
pub struct PoolTier {
    pub score: u16,
    pub runs: Vec<(u32, u32)>,
}

impl PoolTier {
    fn add(&mut self, number: u32) {
        match self.runs.last_mut() {
            Some(last) if last.1 == number => last.1 = number + 1,
            _ => self.runs.push((number, number + 1)),
        }
    }
}

/// The node classes that a stream class may be placed on, best score first.
#[derive(Clone, Debug, Default)]
pub struct NodePool {
    pub tiers: Vec<PoolTier>,
}

impl NodePool {
    pub fn best_score(&self) -> u16 {
        self.tiers.first().map_or(0, |tier| tier.score)
    }

    /// Adds a node class. Numbers must come in ascending order within a score.
    pub fn add(&mut self, score: u16, number: u32) {
        match self.tiers.binary_search_by(|tier| score.cmp(&tier.score)) {
            Ok(i) => self.tiers[i].add(number),
            Err(i) => self.tiers.insert(
                i,
                PoolTier {
                    score,
                    runs: vec![(number, number + 1)],
                },
            ),
        }
    }
}

/// The waiting slots of a class, oldest first.
#[derive(Clone, Copy, Debug)]
pub struct WaitingList {
    pub head: u32,
    pub tail: u32,
    pub count: u32,
}

impl Default for WaitingList {
    fn default() -> Self {
        Self {
            head: NONE,
            tail: NONE,
            count: 0,
        }
    }
}

/// A stream class, its pool and its slots that need attention.
#[derive(Clone, Default)]
pub struct StreamClass {
    pub demand: Arc<SlotDemand>,
    /// Demands that are reduced to this class; with none it can be recycled.
    pub demands: u32,
    /// Computed on first use.
    pub pool: Option<Arc<NodePool>>,
    pub waiting: WaitingList,
    /// Slots placed below the best tier; may hold stale entries.
    pub below_best: Arc<Vec<u32>>,
    /// Gain epoch and need of the last search for a chain of moves that failed.
    pub hopeless: Option<(u64, Need)>,
}

/// A demand, with the number of its slots and its class.
#[derive(Clone, Default)]
struct CountedDemand {
    demand: Arc<SlotDemand>,
    slots: u32,
    class: u32,
}

#[derive(Clone, Default)]
struct LabelEntry {
    pair: Option<LabelPair>,
    /// Nodes and demands that refer to it, in any meaning.
    nodes: u32,
    demands: u32,
    /// Referred to by a node, by a demand, since the last clean-up: only then it is part of the
    /// other side's classes.
    by_nodes: bool,
    by_demands: bool,
    /// Numbers of the node classes that have it, ascending.
    carriers: Vec<u32>,
}

/// Labels that demands refer to for the first time: nodes with one of them need another class.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct StaleLabels {
    pub nodes_with: Vec<LabelId>,
}

/// All labels by number.
#[derive(Clone)]
struct LabelTable {
    ids: CowMap<LabelPair, LabelId, 256>,
    entries: CowVec<LabelEntry, 64>,
    free: Vec<LabelId>,
}

impl LabelTable {
    fn new() -> Self {
        Self {
            ids: CowMap::new(),
            entries: CowVec::new(),
            free: Vec::new(),
        }
    }
}

/// All stream classes and node classes.
#[derive(Clone)]
pub struct Classes {
    namespaces: CowMap<Arc<str>, u32>,
    namespaces_count: u32,
    labels: LabelTable,
    demand_ids: CowMap<Arc<SlotDemand>, u32, 256>,
    demands: CowVec<CountedDemand, 64>,
    demands_free: Vec<u32>,
    class_ids: CowMap<Arc<SlotDemand>, u32, 256>,
    pub classes: CowVec<StreamClass, 64>,
    classes_free: Vec<u32>,
    /// Classes without demands.
    pub classes_dead: u32,
    node_class_ids: CowMap<NodeClass, u32>,
    pub node_classes: Arc<Vec<NodeClass>>,
    /// Numbers of node classes by role and namespace.
    by_place: CowMap<(PlacementRole, u32), Vec<u32>>,
    /// Stream classes for which a new node class may be the best.
    pub promoted: BTreeSet<u32>,
}

impl Classes {
    pub fn new() -> Self {
        let mut classes = Self {
            namespaces: CowMap::new(),
            namespaces_count: 0,
            labels: LabelTable::new(),
            demand_ids: CowMap::new(),
            demands: CowVec::new(),
            demands_free: Vec::new(),
            class_ids: CowMap::new(),
            classes: CowVec::new(),
            classes_free: Vec::new(),
            classes_dead: 0,
            node_class_ids: CowMap::new(),
            node_classes: Arc::default(),
            by_place: CowMap::new(),
            promoted: BTreeSet::new(),
        };
        classes.add_node_class(NodeClass::placeholder());
        classes
    }

    pub fn namespace(&mut self, name: Option<&Arc<str>>) -> u32 {
        let Some(name) = name else {
            return NONE;
        };
        if let Some(id) = self.namespaces.get(name) {
            return *id;
        }
        let id = self.namespaces_count;
        self.namespaces_count += 1;
        self.namespaces.insert(name.clone(), id);
        id
    }

    /// Sorted numbers of these labels. A label that no node and no demand refers to is dropped at
    /// the next clean-up.
    pub fn label_ids(&mut self, pairs: &[LabelPair]) -> Vec<LabelId> {
        let mut ids: Vec<LabelId> = pairs.iter().map(|pair| self.label_id(pair)).collect();
        ids.sort_unstable();
        ids
    }

    pub fn label_id(&mut self, pair: &LabelPair) -> LabelId {
        if let Some(id) = self.labels.ids.get(pair) {
            return *id;
        }
        let label = LabelEntry {
            pair: Some(pair.clone()),
            ..LabelEntry::default()
        };
        let id = if let Some(id) = self.labels.free.pop() {
            *self.labels.entries.get_mut(id) = label;
            id
        } else {
            self.labels.entries.push(label);
            self.labels.entries.len() as u32 - 1
        };
        self.labels.ids.insert(pair.clone(), id);
        id
    }

    pub fn label_pair(&self, id: LabelId) -> Option<(&str, &str)> {
        let pair = self.labels.entries.get(id).pair.as_ref()?;
        Some((&pair.0, &pair.1))
    }

    pub fn label_key(&self, id: LabelId) -> Option<&str> {
        self.labels
            .entries
            .get(id)
            .pair
            .as_ref()
            .map(|pair| &*pair.0)
    }

    // ---- nodes ----

    /// Counts the labels of a node. Returns whether demands that have one of them must be
    /// reclassified.
    pub fn add_node_labels(&mut self, labels: impl Iterator<Item = LabelId>) -> bool {
        let mut is_new = false;
        for id in labels {
            let label = self.labels.entries.get_mut(id);
            label.nodes += 1;
            is_new |= !label.by_nodes && label.demands > 0;
            label.by_nodes = true;
        }
        is_new
    }

    pub fn remove_node_labels(&mut self, labels: impl Iterator<Item = LabelId>) {
        for id in labels {
            let label = self.labels.entries.get_mut(id);
            label.nodes -= 1;
            self.drop_unused_label(id);
        }
    }

    /// Drops a label that is part of no class and that nothing refers to.
    fn drop_unused_label(&mut self, id: LabelId) {
        let label = self.labels.entries.get(id);
        if label.nodes > 0 || label.demands > 0 || label.by_nodes && label.by_demands {
            return;
        }
        let label = std::mem::take(self.labels.entries.get_mut(id));
        if let Some(pair) = label.pair {
            self.labels.ids.remove(&pair);
            self.labels.free.push(id);
        }
    }

    /// The number of the class of a node, given all its labels.
    pub fn node_class(&mut self, full: &NodeClass) -> u32 {
        let class = NodeClass {
            labels: self.filter_labels(&full.labels, |label| label.by_demands),
            ..full.clone()
        };
        if let Some(number) = self.node_class_ids.get(&class) {
            return *number;
        }
        self.add_node_class(class)
    }

    fn add_node_class(&mut self, class: NodeClass) -> u32 {
        let number = self.node_classes.len() as u32;
        for id in 0..self.classes.len() as u32 {
            let entry = self.classes.get(id);
            if entry.pool.is_some() && static_reasons(&entry.demand, &class).is_empty() {
                let score = score(&entry.demand, &class);
                let entry = self.classes.get_mut(id);
                if let Some(pool) = &mut entry.pool {
                    if score > pool.best_score() {
                        self.promoted.insert(id);
                    }
                    Arc::make_mut(pool).add(score, number);
                }
            }
        }
        for label in &class.labels {
            self.labels.entries.get_mut(*label).carriers.push(number);
        }
        let place = (class.role, class.namespace);
        match self.by_place.get_mut(&place) {
            Some(numbers) => numbers.push(number),
            None => self.by_place.insert(place, vec![number]),
        }
        self.node_class_ids.insert(class.clone(), number);
        Arc::make_mut(&mut self.node_classes).push(class);
        number
    }

    fn filter_labels(&self, labels: &[LabelId], by: impl Fn(&LabelEntry) -> bool) -> Vec<LabelId> {
        labels
            .iter()
            .copied()
            .filter(|id| by(self.labels.entries.get(*id)))
            .collect()
    }

    // ---- demands ----

    /// Counts one more slot of a demand. Returns its number, and the labels whose nodes must be
    /// reclassified first.
    pub fn demand(&mut self, demand: SlotDemand) -> (u32, StaleLabels) {
        if let Some(id) = self.demand_ids.get(&demand) {
            let id = *id;
            self.demands.get_mut(id).slots += 1;
            return (id, StaleLabels::default());
        }
        let mut stale = StaleLabels::default();
        for id in demand_labels(&demand) {
            let label = self.labels.entries.get_mut(id);
            label.demands += 1;
            if !label.by_demands && label.nodes > 0 {
                stale.nodes_with.push(id);
            }
            label.by_demands = true;
        }
        let demand = Arc::new(demand);
        let class = self.class_of(&demand);
        let counted = CountedDemand {
            demand: demand.clone(),
            slots: 1,
            class,
        };
        let id = if let Some(id) = self.demands_free.pop() {
            *self.demands.get_mut(id) = counted;
            id
        } else {
            self.demands.push(counted);
            self.demands.len() as u32 - 1
        };
        self.demand_ids.insert(demand, id);
        (id, stale)
    }

    pub fn drop_demand(&mut self, id: u32) {
        let counted = self.demands.get_mut(id);
        counted.slots -= 1;
        if counted.slots > 0 {
            return;
        }
        let CountedDemand { demand, class, .. } = std::mem::take(counted);
        self.demand_ids.remove(&demand);
        self.demands_free.push(id);
        for label in demand_labels(&demand) {
            self.labels.entries.get_mut(label).demands -= 1;
            self.drop_unused_label(label);
        }
        self.leave_class(class);
    }

    pub fn demand_of(&self, id: u32) -> &Arc<SlotDemand> {
        &self.demands.get(id).demand
    }

    pub fn class_of_demand(&self, id: u32) -> u32 {
        self.demands.get(id).class
    }

    fn leave_class(&mut self, class: u32) {
        let entry = self.classes.get_mut(class);
        entry.demands -= 1;
        if entry.demands == 0 {
            self.classes_dead += 1;
        }
    }

    /// Interns the class of a demand and counts the demand in it.
    fn class_of(&mut self, demand: &Arc<SlotDemand>) -> u32 {
        let reduced = SlotDemand {
            labels: self.filter_labels(&demand.labels, |label| label.by_nodes),
            prefers: demand
                .prefers
                .iter()
                .copied()
                .filter(|(id, _)| self.labels.entries.get(*id).by_nodes)
                .collect(),
            requires: demand.requires.clone(),
            ..**demand
        };
        if let Some(id) = self.class_ids.get(&reduced) {
            let id = *id;
            let entry = self.classes.get_mut(id);
            if entry.demands == 0 {
                self.classes_dead -= 1;
            }
            entry.demands += 1;
            return id;
        }
        let reduced = Arc::new(reduced);
        let entry = StreamClass {
            demand: reduced.clone(),
            demands: 1,
            ..StreamClass::default()
        };
        let id = if let Some(id) = self.classes_free.pop() {
            *self.classes.get_mut(id) = entry;
            id
        } else {
            self.classes.push(entry);
            self.classes.len() as u32 - 1
        };
        self.class_ids.insert(reduced, id);
        id
    }

    /// Reclassifies every demand; returns the demands whose class changed.
    pub fn reclass_demands(&mut self) -> Vec<u32> {
        let mut moved = Vec::new();
        for id in 0..self.demands.len() as u32 {
            let counted = self.demands.get(id);
            if counted.slots == 0 {
                continue;
            }
            let (demand, old) = (counted.demand.clone(), counted.class);
            let new = self.class_of(&demand);
            self.leave_class(old);
            if new != old {
                self.demands.get_mut(id).class = new;
                moved.push(id);
            }
        }
        moved
    }

    /// Frees classes without demands; these have no slots.
    pub fn recycle(&mut self) {
        for id in 0..self.classes.len() as u32 {
            let entry = self.classes.get(id);
            if entry.demands == 0 && self.class_ids.get(&entry.demand) == Some(&id) {
                let demand = entry.demand.clone();
                *self.classes.get_mut(id) = StreamClass::default();
                self.class_ids.remove(&demand);
                self.classes_free.push(id);
            }
        }
        self.classes_dead = 0;
    }

    /// The clean-up: drops unused classes and labels, and numbers node classes in the order of
    /// their labels, so that pools are few runs. The caller must then look up the class of every
    /// node and every slot again.
    pub fn reset<'a>(&mut self, nodes: impl Iterator<Item = &'a NodeClass>) {
        for id in 0..self.labels.entries.len() as u32 {
            let label = self.labels.entries.get_mut(id);
            label.by_nodes = label.nodes > 0;
            label.by_demands = label.demands > 0;
            label.carriers = Vec::new();
            if label.pair.is_some() {
                self.drop_unused_label(id);
            }
        }
        self.node_class_ids.clear();
        self.node_classes = Arc::default();
        self.by_place.clear();
        self.class_ids.clear();
        self.classes.clear();
        self.classes_free.clear();
        self.classes_dead = 0;
        self.promoted.clear();
        self.add_node_class(NodeClass::placeholder());
        let mut keys: Vec<NodeClass> = nodes
            .map(|full| NodeClass {
                labels: self.filter_labels(&full.labels, |label| label.by_demands),
                ..full.clone()
            })
            .collect();
        keys.sort_unstable();
        keys.dedup();
        for class in keys {
            if class != NodeClass::placeholder() {
                self.add_node_class(class);
            }
        }
        for id in 0..self.demands.len() as u32 {
            if self.demands.get(id).slots > 0 {
                let demand = self.demands.get(id).demand.clone();
                self.demands.get_mut(id).class = self.class_of(&demand);
            }
        }
    }

    /// The node classes that slots of a class may be placed on.
    pub fn pool(&mut self, class: u32) -> &Arc<NodePool> {
        if self.classes.get(class).pool.is_none() {
            let pool = Arc::new(self.make_pool(&self.classes.get(class).demand));
            self.classes.get_mut(class).pool = Some(pool);
        }
        self.classes
            .get(class)
            .pool
            .as_ref()
            .expect("it was just computed")
    }

    /// Looks at the node classes with the rarest required label, or at all of the role and
    /// namespace.
    fn make_pool(&self, demand: &SlotDemand) -> NodePool {
        let rarest = demand
            .requires
            .iter()
            .map(|id| &self.labels.entries.get(*id).carriers)
            .min_by_key(|carriers| carriers.len());
        let all = || self.by_place.get(&(demand.role, demand.namespace));
        let mut pool = NodePool::default();
        for number in rarest.or_else(all).into_iter().flatten() {
            let class = &self.node_classes[*number as usize];
            if static_reasons(demand, class).is_empty() {
                pool.add(score(demand, class), *number);
            }
        }
        pool
    }

    #[cfg(any(test, feature = "testing"))]
    pub fn classes_count(&self) -> usize {
        self.classes.len() - self.classes_free.len()
    }
}

fn demand_labels(demand: &SlotDemand) -> impl Iterator<Item = LabelId> {
    demand
        .labels
        .iter()
        .chain(&demand.requires)
        .copied()
        .chain(demand.prefers.iter().map(|(id, _)| *id))
}
