//! Types of fields named in a query: `stats.bitrate_gt=187` compares numbers because the schema
//! defines a number.

use std::collections::BTreeSet;

use super::Schema;
use super::tree::{self, Kinds, NodeId, Tree};

/// Types that the values of a field can have.
#[derive(Clone, Debug)]
pub struct FieldKinds {
    kinds: Kinds,
}

impl FieldKinds {
    pub fn is_boolean(&self) -> bool {
        self.kinds & tree::BOOLEAN != 0
    }

    /// Integers are allowed, possibly among other numbers.
    pub fn is_integer(&self) -> bool {
        self.kinds & tree::INTEGER != 0
    }

    /// Numbers with a fraction are allowed.
    pub fn is_number(&self) -> bool {
        self.kinds & tree::FLOAT != 0
    }

    pub fn is_string(&self) -> bool {
        self.kinds & tree::STRING != 0
    }
}

impl Schema {
    /// Type of the field at a dotted path. Arrays are mapped over (`inputs.url`); a union has the
    /// types of all its variants. `None` if there is no such field.
    pub fn filter_type(&self, path: &str) -> Option<FieldKinds> {
        let mut nodes = BTreeSet::new();
        self.tree.spread(self.root, &mut nodes);
        let mut rest = Some(path);
        while let Some(path) = rest {
            let (step, after) = path
                .split_once('.')
                .map_or((path, None), |(step, after)| (step, Some(after)));
            let mut next = BTreeSet::new();
            // Keys of maps of scalars, such as labels, may contain dots: nothing below them can be
            // named.
            let mut whole = false;
            for id in through_arrays(&self.tree, &nodes) {
                let Some(rules) = &self.tree[id].object else {
                    continue;
                };
                if let Some(property) = rules.property(step) {
                    self.tree.spread(property.node, &mut next);
                } else if let Some(id) = rules.additional {
                    whole |= self.tree[id].kinds & (tree::ARRAY | tree::OBJECT) == 0;
                    self.tree.spread(id, &mut next);
                }
            }
            if next.is_empty() {
                return None;
            }
            nodes = next;
            rest = after.filter(|_| !whole);
        }
        let all = through_arrays(&self.tree, &nodes);
        let kinds = all.iter().fold(0, |kinds, id| kinds | self.tree[*id].kinds);
        Some(FieldKinds { kinds })
    }
}

/// The nodes, with arrays replaced by the nodes of their elements.
fn through_arrays(tree: &Tree, nodes: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let mut found = nodes.clone();
    let mut open: Vec<NodeId> = nodes.iter().copied().collect();
    while let Some(id) = open.pop() {
        if let Some(items) = tree[id].array.as_ref().and_then(|rules| rules.items) {
            found.remove(&id);
            let mut below = BTreeSet::new();
            tree.spread(items, &mut below);
            open.extend(below.into_iter().filter(|id| found.insert(*id)));
        }
    }
    found
}
