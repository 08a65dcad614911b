//! The index of nodes: a tournament tree whose leaves are grouped by node class.

use super::Engine;
use super::class::NONE;
use super::pool::PoolTier;
use super::tree::{LeafSearch, Need, NodeTree, Vertex};

/// The tree over the nodes and where each node is in it.
#[derive(Clone)]
pub(super) struct NodeIndex {
    pub tree: NodeTree,
    pub is_stale: bool,
    /// Leaf of each node.
    pub leaf_of: Vec<u32>,
    /// First leaf of each node class.
    pub class_start: Vec<u32>,
    /// Channels of all leaves before each leaf.
    pub channels_before: Vec<u64>,
    /// Buffer of searches, kept so that they do not allocate.
    pub avoid: Vec<u32>,
}

impl NodeIndex {
    pub fn new() -> Self {
        Self {
            tree: NodeTree::build(Vec::new(), |_| Vertex::CLOSED),
            is_stale: true,
            leaf_of: Vec::new(),
            class_start: Vec::new(),
            channels_before: Vec::new(),
            avoid: Vec::new(),
        }
    }
}

impl Engine {
    /// Updates the leaf of a node.
    #[inline]
    pub(super) fn touch(&mut self, node: u32) {
        let leaf = self.index.leaf_of[node as usize];
        if leaf != NONE && !self.index.is_stale {
            let vertex = self.node(node).vertex(self.settings.balance);
            self.index.tree.set(leaf, vertex);
        }
    }

    /// Rebuilds a stale index: O(nodes), so events only mark it.
    pub(super) fn refresh_tree(&mut self) {
        if !self.index.is_stale {
            return;
        }
        self.index.is_stale = false;
        let classes = self.classes.node_classes.len();
        let mut start = vec![0u32; classes + 1];
        for node in self.cluster.nodes.iter().filter(|node| node.live) {
            start[node.class as usize + 1] += 1;
        }
        for i in 0..classes {
            start[i + 1] += start[i];
        }
        let mut next = start.clone();
        let mut order = vec![NONE; start[classes] as usize];
        self.index.leaf_of = vec![NONE; self.cluster.nodes.len()];
        for (i, node) in self
            .cluster
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.live)
        {
            let leaf = &mut next[node.class as usize];
            order[*leaf as usize] = i as u32;
            self.index.leaf_of[i] = *leaf;
            *leaf += 1;
        }
        let mut capacity = Vec::with_capacity(order.len() + 1);
        let mut sum = 0u64;
        capacity.push(0);
        for node in &order {
            sum += u64::from(self.node(*node).limit.channels);
            capacity.push(sum);
        }
        self.index.channels_before = capacity;
        self.index.class_start = start;
        let balance = self.settings.balance;
        let nodes = &self.cluster.nodes;
        self.index.tree = NodeTree::build(order, |node| nodes[node as usize].vertex(balance));
    }

    /// The least loaded node of a tier with room and a key below `below`: key and node.
    #[inline]
    pub(super) fn least_loaded(
        &self,
        tier: &PoolTier,
        need: Need,
        avoid: &[u32],
        below: u64,
    ) -> Option<(u64, u32)> {
        let mut search = LeafSearch::new(&self.index.tree, need, avoid, below);
        for (low, high) in &tier.runs {
            search.range(
                self.index.class_start[*low as usize],
                self.index.class_start[*high as usize],
            );
        }
        search.found()
    }
}
