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
pub use super::demand::{
    LabelId, NONE, NodeClass, PREFERRED_SCORE, SHARED_SCORE, SlotDemand, score, static_reasons,
};
use super::event::PlacementRole;
use super::pool::{EligibleTable, NodePool};
use crate::state::label::LabelPair;

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
#[derive(Clone)]
pub struct StreamClass {
    pub demand: Arc<SlotDemand>,
    /// Demands that are reduced to this class; with none it can be recycled.
    pub demands: u32,
    /// Computed on first use, for the node classes below `pool_until`.
    pub pool: Option<Arc<NodePool>>,
    pub pool_until: u32,
    /// Number of its [`EligibleNodes`]; `NONE` before the first use.
    pub eligible: u32,
    pub waiting: WaitingList,
    /// Slots placed below the best tier; may hold stale entries.
    pub below_best: Arc<Vec<u32>>,
}

impl Default for StreamClass {
    fn default() -> Self {
        Self {
            demand: Arc::default(),
            demands: 0,
            pool: None,
            pool_until: 0,
            eligible: NONE,
            waiting: WaitingList::default(),
            below_best: Arc::default(),
        }
    }
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
    /// Numbers of the nodes that have it.
    holders: Vec<u32>,
    /// A node class requires it.
    required: bool,
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

/// Where node classes are found.
#[derive(Clone)]
pub struct NodeClassTable {
    ids: CowMap<NodeClass, u32>,
    /// Nodes in each node class.
    members: Vec<u32>,
    /// Numbers of node classes by role and namespace.
    pub by_place: CowMap<(PlacementRole, u32), Vec<u32>>,
}

/// What new node classes are to stream classes.
#[derive(Clone, Default)]
pub struct NewOffers {
    /// Node classes were added that may be the best of some pools.
    pub are_new: bool,
    /// Stream classes for which a new node class is the best.
    pub promoted: BTreeSet<u32>,
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
    pub node_classes: Arc<Vec<NodeClass>>,
    pub(super) node_table: NodeClassTable,
    pub(super) eligible: EligibleTable,
    pub offers: NewOffers,
    /// Comparisons of a stream class with a node class, since the start.
    pub compared: u64,
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
            node_classes: Arc::default(),
            node_table: NodeClassTable {
                ids: CowMap::new(),
                members: Vec::new(),
                by_place: CowMap::new(),
            },
            eligible: EligibleTable::new(),
            offers: NewOffers::default(),
            compared: 0,
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

    /// Counts the labels of node `n`, those that it requires included. Adds those to `news` that
    /// no node had and demands refer to: these demands must be reclassified.
    pub fn add_node_labels(&mut self, n: u32, full: &NodeClass, news: &mut Vec<LabelId>) {
        for id in full.labels.iter().chain(&full.requires).copied() {
            let label = self.labels.entries.get_mut(id);
            label.nodes += 1;
            if !label.by_nodes && label.demands > 0 {
                news.push(id);
            }
            label.by_nodes = true;
        }
        for id in &full.labels {
            self.labels.entries.get_mut(*id).holders.push(n);
        }
    }

    pub fn remove_node_labels(&mut self, n: u32, full: &NodeClass) {
        for id in &full.labels {
            let holders = &mut self.labels.entries.get_mut(*id).holders;
            if let Some(i) = holders.iter().position(|holder| *holder == n) {
                holders.swap_remove(i);
            }
        }
        for id in full.labels.iter().chain(&full.requires).copied() {
            let label = self.labels.entries.get_mut(id);
            label.nodes -= 1;
            self.drop_unused_label(id);
        }
    }

    /// The nodes that have a label.
    pub fn holders(&self, label: LabelId) -> &[u32] {
        &self.labels.entries.get(label).holders
    }

    /// Numbers of the node classes that have a label, ascending.
    pub fn carriers(&self, label: LabelId) -> &[u32] {
        &self.labels.entries.get(label).carriers
    }

    /// Whether a node class requires a label.
    pub fn is_required(&self, label: LabelId) -> bool {
        self.labels.entries.get(label).required
    }

    /// Nodes in a node class.
    pub fn members(&self, class: u32) -> u32 {
        self.node_table.members[class as usize]
    }

    /// A node leaves its class for another.
    pub fn change_members(&mut self, from: Option<u32>, to: Option<u32>) {
        if let Some(from) = from {
            self.node_table.members[from as usize] -= 1;
        }
        if let Some(to) = to {
            self.node_table.members[to as usize] += 1;
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
        if let Some(number) = self.node_table.ids.get(&class) {
            return *number;
        }
        self.offers.are_new = true;
        self.add_node_class(class)
    }

    fn add_node_class(&mut self, class: NodeClass) -> u32 {
        let number = self.node_classes.len() as u32;
        for label in &class.labels {
            self.labels.entries.get_mut(*label).carriers.push(number);
        }
        for label in &class.requires {
            let label = self.labels.entries.get_mut(*label);
            if !label.required {
                label.required = true;
                // Which labels a node may require is part of the key.
                self.eligible.ids.clear();
                self.eligible.all.clear();
                for id in 0..self.classes.len() as u32 {
                    self.classes.get_mut(id).eligible = NONE;
                }
            }
        }
        let place = (class.role, class.namespace);
        match self.node_table.by_place.get_mut(&place) {
            Some(numbers) => numbers.push(number),
            None => self.node_table.by_place.insert(place, vec![number]),
        }
        self.node_table.ids.insert(class.clone(), number);
        Arc::make_mut(&mut self.node_classes).push(class);
        self.node_table.members.push(0);
        number
    }

    /// Adds a label to a node class, all of whose nodes have it. No stream class mentions the label
    /// yet, so that all pools stay as they are.
    pub fn extend_node_class(&mut self, number: u32, label: LabelId) {
        let class = &mut Arc::make_mut(&mut self.node_classes)[number as usize];
        self.node_table.ids.remove(class);
        if let Err(i) = class.labels.binary_search(&label) {
            class.labels.insert(i, label);
        }
        self.node_table.ids.insert(class.clone(), number);
        let carriers = &mut self.labels.entries.get_mut(label).carriers;
        if let Err(i) = carriers.binary_search(&number) {
            carriers.insert(i, number);
        }
    }

    /// The class of the nodes of a node class that have a label which no stream class mentions yet.
    /// It suits every demand as well as the old one.
    pub fn split_node_class(&mut self, number: u32, label: LabelId) -> u32 {
        let mut class = self.node_classes[number as usize].clone();
        if let Err(i) = class.labels.binary_search(&label) {
            class.labels.insert(i, label);
        }
        match self.node_table.ids.get(&class) {
            Some(known) => *known,
            None => self.add_node_class(class),
        }
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
        for label in &stale.nodes_with {
            self.forget_nodes_of(*label);
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

    /// Forgets what unused classes know of the nodes with a label. They were compared when no node
    /// had it, and its number may have been that of another label.
    fn forget_nodes_of(&mut self, label: LabelId) {
        for id in 0..self.eligible.all.len() as u32 {
            if self.eligible.all.get(id).demand.requires.contains(&label) {
                let entry = self.eligible.all.get_mut(id);
                (entry.runs, entry.until, entry.hopeless) = (Vec::new(), 0, None);
            }
        }
        for id in 0..self.classes.len() as u32 {
            if demand_labels(&self.classes.get(id).demand).any(|other| other == label) {
                self.classes.get_mut(id).pool = None;
            }
        }
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

    /// Reclassifies the demands with one of these labels, which are sorted; returns those whose
    /// class changed.
    pub fn reclass_demands(&mut self, labels: &[LabelId]) -> Vec<u32> {
        let mut moved = Vec::new();
        for id in 0..self.demands.len() as u32 {
            let counted = self.demands.get(id);
            let is_new = |label: LabelId| labels.binary_search(&label).is_ok();
            if counted.slots == 0 || !demand_labels(&counted.demand).any(is_new) {
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
            label.required = false;
            if label.pair.is_some() {
                self.drop_unused_label(id);
            }
        }
        self.node_table.ids.clear();
        self.node_classes = Arc::default();
        self.node_table.members.clear();
        self.node_table.by_place.clear();
        self.eligible.ids.clear();
        self.eligible.all.clear();
        self.offers.are_new = false;
        self.class_ids.clear();
        self.classes.clear();
        self.classes_free.clear();
        self.classes_dead = 0;
        self.offers.promoted.clear();
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
