//! Demands and offers: what a slot requires of a node, what a node offers, and how they match.

use super::event::{PlacementRole, Reasons};

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
