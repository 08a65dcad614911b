//! A tournament tree over the nodes: finds the least loaded node with room in a range of leaves.
//!
//! Leaves are nodes, neighbours are of the same class. Each inner vertex has the smallest key and
//! the largest room in each dimension below it, so that a search skips subtrees that cannot win or
//! have no room.

/// No limit, or none that can be reached.
pub const UNLIMITED: u32 = u32::MAX;
/// Load 1.0.
pub const ONE: u64 = 1 << 28;
/// Larger loads count as this.
pub const LOAD_MAX: u64 = (1 << 31) - 1;
/// Keys from here on are of nodes that are used only if no other node has room.
pub const LAST_RESORT: u64 = 1 << 63;

/// The resources that a slot uses of a node, or that are free on a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Need {
    pub channels: u32,
    pub kbps: u32,
    /// In units of `DISK_UNIT_BYTES`.
    pub disk: u32,
}

impl Need {
    /// Whether this is at least `other` in every dimension.
    #[inline]
    pub fn covers(&self, other: &Self) -> bool {
        self.channels >= other.channels && self.kbps >= other.kbps && self.disk >= other.disk
    }

    /// Channels, kbit/s, disk.
    pub fn of(&self, dimension: usize) -> u64 {
        u64::from([self.channels, self.kbps, self.disk][dimension])
    }

    /// The sum; what is unlimited stays so.
    pub fn plus(&self, more: &Self) -> Self {
        Self {
            channels: self.channels.saturating_add(more.channels),
            kbps: self.kbps.saturating_add(more.kbps),
            disk: self.disk.saturating_add(more.disk),
        }
    }

    /// The rest of this room without `less`, which it covers; what is unlimited stays so.
    pub fn minus(&self, less: &Self) -> Self {
        let rest = |room: u32, less: u32| {
            if room == UNLIMITED {
                UNLIMITED
            } else {
                room - less
            }
        };
        Self {
            channels: rest(self.channels, less.channels),
            kbps: rest(self.kbps, less.kbps),
            disk: rest(self.disk, less.disk),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vertex {
    /// Load in the upper half, tie breaker in the lower.
    pub key: u64,
    pub room: Need,
}

impl Vertex {
    /// A node that takes no slots.
    pub const CLOSED: Self = Self {
        key: u64::MAX,
        room: Need {
            channels: 0,
            kbps: 0,
            disk: 0,
        },
    };

    fn of(a: &Self, b: &Self) -> Self {
        Self {
            key: a.key.min(b.key),
            room: Need {
                channels: a.room.channels.max(b.room.channels),
                kbps: a.room.kbps.max(b.room.kbps),
                disk: a.room.disk.max(b.room.disk),
            },
        }
    }
}

#[derive(Clone)]
pub struct NodeTree {
    leaves: usize,
    vertices: Vec<Vertex>,
    /// Node of each leaf.
    pub nodes: Vec<u32>,
}

impl NodeTree {
    /// `nodes` in leaf order; `leaf` returns the vertex of a node.
    pub fn build(nodes: Vec<u32>, leaf: impl Fn(u32) -> Vertex) -> Self {
        let leaves = nodes.len().max(1).next_power_of_two();
        let mut vertices = vec![Vertex::CLOSED; 2 * leaves];
        for (i, node) in nodes.iter().enumerate() {
            vertices[leaves + i] = leaf(*node);
        }
        for i in (1..leaves).rev() {
            vertices[i] = Vertex::of(&vertices[2 * i], &vertices[2 * i + 1]);
        }
        Self {
            leaves,
            vertices,
            nodes,
        }
    }

    #[inline]
    pub fn set(&mut self, leaf: u32, vertex: Vertex) {
        let mut i = leaf as usize + self.leaves;
        self.vertices[i] = vertex;
        i /= 2;
        while i >= 1 {
            let joined = Vertex::of(&self.vertices[2 * i], &self.vertices[2 * i + 1]);
            if self.vertices[i] == joined {
                break;
            }
            self.vertices[i] = joined;
            i /= 2;
        }
    }

    #[cfg(any(test, feature = "testing"))]
    pub fn leaf(&self, leaf: u32) -> &Vertex {
        &self.vertices[leaf as usize + self.leaves]
    }

    /// The smallest key of all nodes.
    pub fn least_loaded(&self) -> u64 {
        self.vertices[1].key
    }

    #[cfg(any(test, feature = "testing"))]
    pub fn vertices(&self) -> usize {
        self.vertices.len()
    }

    /// Whether every inner vertex agrees with the leaves below it.
    #[cfg(any(test, feature = "testing"))]
    pub fn is_consistent(&self) -> bool {
        (1..self.leaves).all(|i| {
            self.vertices[i] == Vertex::of(&self.vertices[2 * i], &self.vertices[2 * i + 1])
        })
    }
}

/// A search for the least loaded node with room, over several ranges of leaves.
pub struct LeafSearch<'a> {
    tree: &'a NodeTree,
    need: Need,
    avoid: &'a [u32],
    /// Only keys below this win.
    best: u64,
    found: Option<u32>,
}

impl<'a> LeafSearch<'a> {
    #[inline]
    pub fn new(tree: &'a NodeTree, need: Need, avoid: &'a [u32], below: u64) -> Self {
        Self {
            tree,
            need,
            avoid,
            best: below,
            found: None,
        }
    }

    #[inline]
    pub fn range(&mut self, low: u32, high: u32) {
        let (mut low, mut high) = (
            low as usize + self.tree.leaves,
            high as usize + self.tree.leaves,
        );
        while low < high {
            if low & 1 == 1 {
                self.descend(low);
                low += 1;
            }
            if high & 1 == 1 {
                high -= 1;
                self.descend(high);
            }
            low /= 2;
            high /= 2;
        }
    }

    fn descend(&mut self, i: usize) {
        let vertex = &self.tree.vertices[i];
        if vertex.key >= self.best || !vertex.room.covers(&self.need) {
            return;
        }
        if i >= self.tree.leaves {
            let node = self.tree.nodes[i - self.tree.leaves];
            if !self.avoid.contains(&node) {
                self.best = vertex.key;
                self.found = Some(node);
            }
            return;
        }
        let (left, right) = (2 * i, 2 * i + 1);
        // The less loaded half first: its result prunes the other.
        if self.tree.vertices[left].key <= self.tree.vertices[right].key {
            self.descend(left);
            self.descend(right);
        } else {
            self.descend(right);
            self.descend(left);
        }
    }

    /// Key and node.
    #[inline]
    pub fn found(self) -> Option<(u64, u32)> {
        self.found.map(|node| (self.best, node))
    }
}
