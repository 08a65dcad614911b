//! Classes: streams that want the same and nodes that offer the same are decided once.
//!
//! A *demand* is what one slot asks for in full. Most labels are nobody else's business (a camera's number, a customer), so a demand is
//! reduced to its *class*: without the properties and wishes that no node ever mentioned. Nodes are reduced in the same way, by what streams mention.
//! A label that one side mentions for the first time changes the classes of those on the other side that have it, and of no others; a label that nobody
//! mentions any more stays in the classes until the next clean-up.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::cow::{CowMap, CowVec};
use super::event::{NodeRole, Reasons};
use super::label::Pair;
use super::tree::Need;

pub type LabelId = u32;
/// No namespace, no node, no slot, no class.
pub const NONE: u32 = u32::MAX;

/// Score of one preferred label, and of one property that both sides have.
pub const PREFERRED_SCORE: u16 = 1000;
pub const SHARED_SCORE: u16 = 1;

/// What a slot asks of a node. Lists are sorted.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Demand {
    pub role: NodeRole,
    pub dvr: bool,
    pub transcoder: bool,
    pub namespace: u32,
    pub labels: Vec<LabelId>,
    pub requires: Vec<LabelId>,
    /// With the score of each.
    pub prefers: Vec<(LabelId, u16)>,
}

/// What a node offers and asks. Lists are sorted.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct NodeClass {
    pub role: NodeRole,
    pub namespace: u32,
    pub labels: Vec<LabelId>,
    pub requires: Vec<LabelId>,
    pub transcoder: bool,
    pub dvr: bool,
    /// Value of the failure domain label.
    pub domain: u32,
}

impl NodeClass {
    /// The class of nodes that are only a name: the first one, always there, without nodes in it.
    pub fn nobody() -> Self {
        Self {
            role: NodeRole::Other,
            namespace: NONE,
            domain: NONE,
            ..Self::default()
        }
    }
}

/// Why no node of this class can take a slot of that one.
pub fn static_reasons(demand: &Demand, node: &NodeClass) -> Reasons {
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

/// How much a slot likes a node of this class.
pub fn score(demand: &Demand, node: &NodeClass) -> u16 {
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
pub struct Tier {
    pub score: u16,
    pub runs: Vec<(u32, u32)>,
}

impl Tier {
    fn add(&mut self, number: u32) {
        match self.runs.last_mut() {
            Some(last) if last.1 == number => last.1 = number + 1,
            _ => self.runs.push((number, number + 1)),
        }
    }
}

/// Where a class may go, best score first.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    pub tiers: Vec<Tier>,
}

impl Pool {
    pub fn best_score(&self) -> u16 {
        self.tiers.first().map_or(0, |tier| tier.score)
    }

    /// Numbers must come in ascending order within a score.
    pub fn add(&mut self, score: u16, number: u32) {
        match self.tiers.binary_search_by(|tier| score.cmp(&tier.score)) {
            Ok(i) => self.tiers[i].add(number),
            Err(i) => self.tiers.insert(
                i,
                Tier {
                    score,
                    runs: vec![(number, number + 1)],
                },
            ),
        }
    }
}

/// A list of slots that wait, oldest first.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    pub head: u32,
    pub tail: u32,
    pub count: u32,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            head: NONE,
            tail: NONE,
            count: 0,
        }
    }
}

/// A stream class and what is known of its slots.
#[derive(Clone, Default)]
pub struct Class {
    pub demand: Arc<Demand>,
    /// Demands that are reduced to it; without any it can be recycled.
    pub demands: u32,
    /// Made on first use.
    pub pool: Option<Arc<Pool>>,
    pub waiting: Waiting,
    /// Slots placed below the best tier; may hold slots that no longer are.
    pub below_best: Arc<Vec<u32>>,
    /// No chain of moves made room for this much while the gain epoch was this.
    pub hopeless: Option<(u64, Need)>,
}

/// A demand in full, counted.
#[derive(Clone, Default)]
struct Counted {
    demand: Arc<Demand>,
    slots: u32,
    class: u32,
}

#[derive(Clone, Default)]
struct Label {
    pair: Option<Pair>,
    /// Nodes and demands that have it, in any meaning.
    nodes: u32,
    demands: u32,
    /// Mentioned by a node, by a demand, since the last clean-up: only then the other side's classes know it.
    by_nodes: bool,
    by_demands: bool,
    /// Numbers of the node classes that carry it, ascending.
    carriers: Vec<u32>,
}

/// What must be classed anew because a label is now mentioned by the other side.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stale {
    pub nodes_with: Vec<LabelId>,
}

#[derive(Clone)]
pub struct Classes {
    namespaces: CowMap<Arc<str>, u32>,
    namespaces_count: u32,
    label_ids: CowMap<Pair, LabelId, 256>,
    labels: CowVec<Label, 64>,
    labels_free: Vec<LabelId>,
    demand_ids: CowMap<Arc<Demand>, u32, 256>,
    demands: CowVec<Counted, 64>,
    demands_free: Vec<u32>,
    class_ids: CowMap<Arc<Demand>, u32, 256>,
    pub classes: CowVec<Class, 64>,
    classes_free: Vec<u32>,
    /// Classes that no demand has any more.
    pub classes_dead: u32,
    node_class_ids: CowMap<NodeClass, u32>,
    pub node_classes: Arc<Vec<NodeClass>>,
    /// Numbers of node classes by role and namespace.
    by_place: CowMap<(NodeRole, u32), Vec<u32>>,
    /// Classes that may like a new class of nodes better than what they had.
    pub promoted: BTreeSet<u32>,
}

impl Classes {
    pub fn new() -> Self {
        let mut classes = Self {
            namespaces: CowMap::new(),
            namespaces_count: 0,
            label_ids: CowMap::new(),
            labels: CowVec::new(),
            labels_free: Vec::new(),
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
        classes.add_node_class(NodeClass::nobody());
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

    /// Sorted numbers of these labels; each must be mentioned by somebody before the next clean-up, or it is forgotten.
    pub fn label_ids(&mut self, pairs: &[Pair]) -> Vec<LabelId> {
        let mut ids: Vec<LabelId> = pairs.iter().map(|pair| self.label_id(pair)).collect();
        ids.sort_unstable();
        ids
    }

    pub fn label_id(&mut self, pair: &Pair) -> LabelId {
        if let Some(id) = self.label_ids.get(pair) {
            return *id;
        }
        let label = Label {
            pair: Some(pair.clone()),
            ..Label::default()
        };
        let id = if let Some(id) = self.labels_free.pop() {
            *self.labels.get_mut(id) = label;
            id
        } else {
            self.labels.push(label);
            self.labels.len() as u32 - 1
        };
        self.label_ids.insert(pair.clone(), id);
        id
    }

    pub fn label_pair(&self, id: LabelId) -> Option<(&str, &str)> {
        let pair = self.labels.get(id).pair.as_ref()?;
        Some((&pair.0, &pair.1))
    }

    pub fn label_key(&self, id: LabelId) -> Option<&str> {
        self.labels.get(id).pair.as_ref().map(|pair| &*pair.0)
    }

    // ---- nodes ----

    /// A node has these labels from now on. True: demands that have one of them must be classed anew.
    pub fn node_mentions(&mut self, labels: impl Iterator<Item = LabelId>) -> bool {
        let mut news = false;
        for id in labels {
            let label = self.labels.get_mut(id);
            label.nodes += 1;
            news |= !label.by_nodes && label.demands > 0;
            label.by_nodes = true;
        }
        news
    }

    pub fn node_forgets(&mut self, labels: impl Iterator<Item = LabelId>) {
        for id in labels {
            let label = self.labels.get_mut(id);
            label.nodes -= 1;
            self.forget_label(id);
        }
    }

    /// A label that no class ever knew and nobody has any more.
    fn forget_label(&mut self, id: LabelId) {
        let label = self.labels.get(id);
        if label.nodes > 0 || label.demands > 0 || label.by_nodes && label.by_demands {
            return;
        }
        let label = std::mem::take(self.labels.get_mut(id));
        if let Some(pair) = label.pair {
            self.label_ids.remove(&pair);
            self.labels_free.push(id);
        }
    }

    /// The number of the class of a node with these labels in full.
    pub fn node_class(&mut self, full: &NodeClass) -> u32 {
        let class = NodeClass {
            labels: self.mentioned(&full.labels, |label| label.by_demands),
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
            self.labels.get_mut(*label).carriers.push(number);
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

    fn mentioned(&self, labels: &[LabelId], by: impl Fn(&Label) -> bool) -> Vec<LabelId> {
        labels
            .iter()
            .copied()
            .filter(|id| by(self.labels.get(*id)))
            .collect()
    }

    // ---- demands ----

    /// One more slot has this demand. The second part tells nodes that must be classed anew first.
    pub fn demand(&mut self, demand: Demand) -> (u32, Stale) {
        if let Some(id) = self.demand_ids.get(&demand) {
            let id = *id;
            self.demands.get_mut(id).slots += 1;
            return (id, Stale::default());
        }
        let mut stale = Stale::default();
        for id in demand_labels(&demand) {
            let label = self.labels.get_mut(id);
            label.demands += 1;
            if !label.by_demands && label.nodes > 0 {
                stale.nodes_with.push(id);
            }
            label.by_demands = true;
        }
        let demand = Arc::new(demand);
        let class = self.class_of(&demand);
        let counted = Counted {
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
        let Counted { demand, class, .. } = std::mem::take(counted);
        self.demand_ids.remove(&demand);
        self.demands_free.push(id);
        for label in demand_labels(&demand) {
            self.labels.get_mut(label).demands -= 1;
            self.forget_label(label);
        }
        self.leave_class(class);
    }

    pub fn demand_of(&self, id: u32) -> &Arc<Demand> {
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
    fn class_of(&mut self, demand: &Arc<Demand>) -> u32 {
        let reduced = Demand {
            labels: self.mentioned(&demand.labels, |label| label.by_nodes),
            prefers: demand
                .prefers
                .iter()
                .copied()
                .filter(|(id, _)| self.labels.get(*id).by_nodes)
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
        let entry = Class {
            demand: reduced.clone(),
            demands: 1,
            ..Class::default()
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

    /// Classes every demand anew; answers which got another class.
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

    /// Frees classes without demands. They have no slots.
    pub fn recycle(&mut self) {
        for id in 0..self.classes.len() as u32 {
            let entry = self.classes.get(id);
            if entry.demands == 0 && self.class_ids.get(&entry.demand) == Some(&id) {
                let demand = entry.demand.clone();
                *self.classes.get_mut(id) = Class::default();
                self.class_ids.remove(&demand);
                self.classes_free.push(id);
            }
        }
        self.classes_dead = 0;
    }

    /// The clean-up: forgets every class and every mention that nobody has any more, and numbers node classes in the order of their labels, so
    /// that pools are few runs. The caller then asks for the class of every node and of every slot again.
    pub fn reset<'a>(&mut self, nodes: impl Iterator<Item = &'a NodeClass>) {
        for id in 0..self.labels.len() as u32 {
            let label = self.labels.get_mut(id);
            label.by_nodes = label.nodes > 0;
            label.by_demands = label.demands > 0;
            label.carriers = Vec::new();
            if label.pair.is_some() {
                self.forget_label(id);
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
        self.add_node_class(NodeClass::nobody());
        let mut keys: Vec<NodeClass> = nodes
            .map(|full| NodeClass {
                labels: self.mentioned(&full.labels, |label| label.by_demands),
                ..full.clone()
            })
            .collect();
        keys.sort_unstable();
        keys.dedup();
        for class in keys {
            if class != NodeClass::nobody() {
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

    /// Where slots of a class may go.
    pub fn pool(&mut self, class: u32) -> &Arc<Pool> {
        if self.classes.get(class).pool.is_none() {
            let pool = Arc::new(self.make_pool(&self.classes.get(class).demand));
            self.classes.get_mut(class).pool = Some(pool);
        }
        self.classes
            .get(class)
            .pool
            .as_ref()
            .expect("it was just made")
    }

    /// From the carriers of the rarest required label, or from all of the role and namespace.
    fn make_pool(&self, demand: &Demand) -> Pool {
        let rarest = demand
            .requires
            .iter()
            .map(|id| &self.labels.get(*id).carriers)
            .min_by_key(|carriers| carriers.len());
        let all = || self.by_place.get(&(demand.role, demand.namespace));
        let mut pool = Pool::default();
        for number in rarest.or_else(all).into_iter().flatten() {
            let class = &self.node_classes[*number as usize];
            if static_reasons(demand, class).is_empty() {
                pool.add(score(demand, class), *number);
            }
        }
        pool
    }

    pub fn classes_count(&self) -> usize {
        self.classes.len() - self.classes_free.len()
    }
}

fn demand_labels(demand: &Demand) -> impl Iterator<Item = LabelId> {
    demand
        .labels
        .iter()
        .chain(&demand.requires)
        .copied()
        .chain(demand.prefers.iter().map(|(id, _)| *id))
}
