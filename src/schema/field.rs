//! Fields named in a query: `stats.bitrate_gt=187` compares numbers because the schema defines a
//! number.

use std::collections::BTreeSet;

use super::tree::{self, Kinds, NodeId, Tree};
use super::{Schema, format};

/// Types that the values of a field can have.
#[derive(Clone, Debug)]
pub struct FieldKinds {
    kinds: Kinds,
    is_moment: bool,
}

impl FieldKinds {
    pub fn is_boolean(&self) -> bool {
        self.kinds & tree::BOOLEAN != 0
    }

    /// Integers are allowed, possibly among other numbers.
    pub fn is_integer(&self) -> bool {
        self.kinds & tree::INTEGER != 0
    }

    /// It is a time in milliseconds.
    pub fn is_moment(&self) -> bool {
        self.is_moment
    }

    /// Numbers with a fraction are allowed.
    pub fn is_number(&self) -> bool {
        self.kinds & tree::FLOAT != 0
    }

    pub fn is_string(&self) -> bool {
        self.kinds & tree::STRING != 0
    }
}

/// The field that a dotted path leads to.
#[derive(Clone, Debug)]
pub struct SchemaField {
    /// The members on the way. A key of a map is one of them, dots included.
    pub members: Vec<Box<str>>,
    pub kinds: FieldKinds,
}

impl Schema {
    /// The field at a dotted path. Arrays are mapped over (`inputs.url`); a union has the types of
    /// all its variants. Below a map the path is a key, which may have dots
    /// (`labels.required.zone`), or the longest key with which the rest leads to a member of the
    /// map's values. `None` if there is no such field.
    pub fn field(&self, path: &str) -> Option<SchemaField> {
        let mut nodes = BTreeSet::new();
        self.tree.spread(self.root, &mut nodes);
        let mut members = Vec::new();
        let kinds = self.field_below(&nodes, path, &mut members)?;
        Some(SchemaField { members, kinds })
    }

    fn field_below(
        &self,
        nodes: &BTreeSet<NodeId>,
        path: &str,
        members: &mut Vec<Box<str>>,
    ) -> Option<FieldKinds> {
        let nodes = through_arrays(&self.tree, nodes);
        let (name, rest) = match path.split_once('.') {
            Some((name, rest)) => (name, Some(rest)),
            None => (path, None),
        };
        let (mut named, mut values) = (BTreeSet::new(), BTreeSet::new());
        for rules in nodes.iter().filter_map(|id| self.tree[*id].object.as_ref()) {
            if let Some(property) = rules.property(name) {
                self.tree.spread(property.node, &mut named);
            } else if let Some(id) = rules.additional {
                self.tree.spread(id, &mut values);
            }
        }
        if !named.is_empty() {
            members.push(name.into());
            return match rest {
                Some(rest) => self.field_below(&named, rest, members),
                None => Some(self.kinds(&named)),
            };
        }
        if values.is_empty() {
            return None;
        }
        let known = members.len();
        for (dot, _) in path.rmatch_indices('.') {
            members.push(path[..dot].into());
            if let Some(kinds) = self.field_below(&values, &path[dot + 1..], members) {
                return Some(kinds);
            }
            members.truncate(known);
        }
        members.push(path.into());
        Some(self.kinds(&values))
    }

    fn kinds(&self, nodes: &BTreeSet<NodeId>) -> FieldKinds {
        let all = through_arrays(&self.tree, nodes);
        let kinds = all.iter().fold(0, |kinds, id| kinds | self.tree[*id].kinds);
        let bounds = format::range("utc_ms");
        let mut numbers = all
            .iter()
            .map(|id| &self.tree[*id])
            .filter(|node| node.kinds & tree::NUMBER != 0);
        let is_moment = numbers.all(|node| node.minimum.zip(node.maximum) == bounds);
        FieldKinds {
            kinds,
            is_moment: is_moment && kinds & tree::INTEGER != 0,
        }
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
