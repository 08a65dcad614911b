//! Names that a schema does not know, with the known name that is nearest.

use std::collections::BTreeSet;

use super::Schema;
use super::tree::{NodeId, Resolved, Tree};
use crate::json::patch::is_control;
use crate::json::{self, Value};

/// Most unknown members of one body that are found.
const FOUND_MAX: usize = 20;
/// Paths are suggested up to this depth.
const PATH_DEPTH_MAX: usize = 3;
/// Most paths of a schema that are suggested.
const PATHS_MAX: usize = 20_000;

/// A member of a body that its schema does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownMember {
    pub pointer: String,
    pub name: String,
    pub nearest: Option<String>,
}

/// The known name that differs least from an unknown one.
pub fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let of = |known: &'n str| (strsim::osa_distance(name, known), known);
    let (distance, near) = known.map(of).min()?;
    (distance <= 1 + name.len().max(near.len()) / 2).then_some(near)
}

impl Schema {
    /// The members of a body that are unknown and would be dropped. `also`: a member that objects
    /// may have besides those of the schema.
    pub fn unknown_members(&self, body: &Value, also: Option<&str>) -> Vec<UnknownMember> {
        let mut search = UnknownSearch {
            tree: &self.tree,
            also,
            found: Vec::new(),
        };
        search.value(&BTreeSet::from([self.root]), body, &mut String::new());
        search.found
    }

    /// Dotted paths of fields, arrays mapped through, to suggest one of them.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let mut open = vec![(BTreeSet::from([self.root]), String::new(), 0)];
        while let Some((nodes, path, depth)) = open.pop() {
            for (name, below) in members_of(&self.tree, &nodes) {
                let separator = if path.is_empty() { "" } else { "." };
                let path = format!("{path}{separator}{name}");
                if paths.len() == PATHS_MAX {
                    return paths;
                }
                paths.push(path.clone());
                if depth + 1 < PATH_DEPTH_MAX {
                    open.push((below, path, depth + 1));
                }
            }
        }
        paths
    }
}

/// The named members of the objects at some nodes, arrays mapped through.
fn members_of<'t>(tree: &'t Tree, nodes: &BTreeSet<NodeId>) -> Vec<(&'t str, BTreeSet<NodeId>)> {
    let mut all: Vec<(&str, BTreeSet<NodeId>)> = Vec::new();
    let mut open: Vec<NodeId> = nodes.iter().copied().collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let mut variants = BTreeSet::new();
        tree.spread(id, &mut variants);
        for id in variants {
            open.extend(tree[id].array.as_ref().and_then(|rules| rules.items));
            let rules = tree[id].object.iter();
            for property in rules.flat_map(|rules| rules.properties.iter()) {
                match all.iter_mut().find(|(name, _)| **name == *property.name) {
                    Some((_, nodes)) => _ = nodes.insert(property.node),
                    None => all.push((&property.name, BTreeSet::from([property.node]))),
                }
            }
        }
    }
    all
}

struct UnknownSearch<'a> {
    tree: &'a Tree,
    also: Option<&'a str>,
    found: Vec<UnknownMember>,
}

impl UnknownSearch<'_> {
    /// Recursion descends into the document.
    fn value(&mut self, nodes: &BTreeSet<NodeId>, value: &Value, pointer: &mut String) {
        let mut resolved = BTreeSet::new();
        for id in nodes {
            match self.tree.resolve(*id, value) {
                Resolved::One(id) => _ = resolved.insert(id),
                Resolved::Several => self.tree.spread(*id, &mut resolved),
            }
        }
        match value {
            Value::Array(items) => {
                let rules = resolved
                    .iter()
                    .filter_map(|id| self.tree[*id].array.as_ref());
                let below: BTreeSet<NodeId> = rules.filter_map(|rules| rules.items).collect();
                for (index, item) in items.iter().enumerate() {
                    let length = pointer.len();
                    json::push_pointer(pointer, &index.to_string());
                    self.value(&below, item, pointer);
                    pointer.truncate(length);
                }
            }
            Value::Object(object) => {
                for (name, member) in object.iter() {
                    if !is_control(name) && Some(name) != self.also {
                        self.member(&resolved, name, member, pointer);
                    }
                }
            }
            _ => {}
        }
    }

    fn member(
        &mut self,
        objects: &BTreeSet<NodeId>,
        name: &str,
        member: &Value,
        pointer: &mut String,
    ) {
        let tree = self.tree;
        let rules = || objects.iter().filter_map(|id| tree[*id].object.as_ref());
        // Without rules any member is allowed, or `check` reports that it is no object.
        if rules().next().is_none() || rules().any(|rules| rules.is_open()) {
            return;
        }
        let named: BTreeSet<NodeId> = rules()
            .filter_map(|rules| rules.property(name))
            .map(|property| property.node)
            .collect();
        let below = if named.is_empty() {
            rules().filter_map(|rules| rules.additional).collect()
        } else {
            named
        };
        let length = pointer.len();
        json::push_pointer(pointer, name);
        if !below.is_empty() {
            self.value(&below, member, pointer);
        } else if self.found.len() < FOUND_MAX {
            let known = rules().flat_map(|rules| rules.properties.iter());
            let nearest = nearest(name, known.map(|property| &*property.name));
            self.found.push(UnknownMember {
                pointer: pointer.clone(),
                name: name.to_owned(),
                nearest: nearest.map(str::to_owned),
            });
        }
        pointer.truncate(length);
    }
}
