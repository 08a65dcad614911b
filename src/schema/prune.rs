//! Drops members that a client may not set: unknown and read-only ones. No error is reported for
//! them.
//!
//! Works on a patch and on a merged document, and is idempotent. Also normalizes: an integral
//! double in an integer field becomes the integer (`5.0` is 5), and a `null` member of an object
//! inside an array, where a patch cannot remove anything, is dropped, because absent and `null`
//! mean the same in this API.

use super::Schema;
use super::tree::{self, NodeId, ObjectRules, Property, Resolved, Tree};
use crate::json::{Value, patch::RESET};

impl Schema {
    /// Prunes a patch before it is merged, or a document after.
    pub fn prune(&self, patch: &mut Value) {
        Prune { tree: &self.tree }.value(self.root, patch, false);
    }
}

struct Prune<'a> {
    tree: &'a Tree,
}

impl Prune<'_> {
    fn value(&self, id: NodeId, value: &mut Value, in_array: bool) {
        match value {
            Value::Number(number) => {
                if self.tree[id].kinds & tree::NUMBER == tree::INTEGER
                    && let Some(integer) = number.to_integer()
                {
                    *number = integer;
                }
            }
            Value::Array(_) | Value::Object(_) => match self.tree.resolve(id, value) {
                Resolved::One(id) => self.nested(&[id], value, in_array),
                Resolved::Several => {
                    let mut all = std::collections::BTreeSet::new();
                    self.tree.spread(id, &mut all);
                    self.nested(&Vec::from_iter(all), value, in_array);
                }
            },
            Value::Null | Value::Bool(_) | Value::String(_) => {}
        }
    }

    /// With several nodes the variant is unknown, because a patch need not repeat the
    /// discriminator: every member is kept that a client may set in one of them.
    fn nested(&self, nodes: &[NodeId], value: &mut Value, in_array: bool) {
        match value {
            Value::Array(items) => {
                let rules = nodes
                    .iter()
                    .find_map(|id| self.tree[*id].array.as_ref().and_then(|rules| rules.items));
                if let Some(id) = rules {
                    for item in items {
                        self.value(id, item, true);
                    }
                }
            }
            Value::Object(object) => {
                let one = match nodes {
                    [one] => self.tree[*one].object.as_deref(),
                    _ => None,
                };
                if let Some(rules) = one {
                    let mut from = 0;
                    object.retain_members(|key, value| {
                        self.member(
                            rules,
                            rules.next_property(key, &mut from),
                            key,
                            value,
                            in_array,
                        )
                    });
                    return;
                }
                let rules: Vec<&ObjectRules> = nodes
                    .iter()
                    .filter_map(|id| self.tree[*id].object.as_deref())
                    .collect();
                // The schema has no rule for this object, or no object is allowed here, which
                // `check` reports.
                if rules.is_empty() {
                    return;
                }
                object.retain(|key, value| {
                    let mut knowing = rules.iter().filter(|rules| {
                        rules
                            .property(key)
                            .is_some_and(|property| !property.read_only)
                    });
                    match knowing.next().or_else(|| {
                        rules
                            .iter()
                            .find(|rules| rules.additional.is_some() || rules.is_open())
                    }) {
                        Some(rules) => {
                            self.member(rules, rules.property(key), key, value, in_array)
                        }
                        None => key == RESET && !in_array,
                    }
                });
            }
            _ => {}
        }
    }

    /// Whether a member stays. Prunes its value.
    fn member(
        &self,
        rules: &ObjectRules,
        property: Option<&Property>,
        key: &str,
        value: &mut Value,
        in_array: bool,
    ) -> bool {
        if value.is_null() && in_array {
            return false;
        }
        match property {
            Some(property) if property.read_only => false,
            Some(property) => {
                self.value(property.node, value, in_array);
                true
            }
            None if key == RESET => !in_array,
            None => match rules.additional {
                Some(id) => {
                    self.value(id, value, in_array);
                    true
                }
                // A closed object keeps an unknown member, so `check` can report it.
                None => rules.closed || rules.is_open(),
            },
        }
    }
}
