//! Writes a document that a client sent, if it can stay as it is: as `prune`, `check` and `mask`
//! would leave it, and without a tree.
//!
//! Of a report hardly anything is ever wrong. What is not valid as it is, has a secret, or is under
//! a rule that reports do not use, is left to the others. Members that are required and absent are
//! no fault: a report need not repeat them.

use super::Schema;
use super::check::{accepts_number, accepts_text};
use super::mask::has_url_secrets;
use super::tree::{self, NodeId, ObjectRules, SchemaNode, Tree, Union};
use crate::json::patch::RESET;
use crate::json::{Key, MemberRefs, Number, Value, ValueRef, ValueShape, write_string};

/// Writes documents of one schema, one after the other.
pub struct ValidWriter<'s, 'a> {
    tree: &'s Tree,
    root: NodeId,
    /// No member of the schema is secret.
    is_plain: bool,
    out: Vec<u8>,
    /// Members of the objects that are being written: indexes of properties, and values.
    members: Vec<(usize, ValueRef<'a>)>,
}

impl Schema {
    pub fn valid_writer<'a>(&self) -> ValidWriter<'_, 'a> {
        ValidWriter {
            tree: &self.tree,
            root: self.root,
            is_plain: self.has_no_secret_members(),
            out: Vec::new(),
            members: Vec::new(),
        }
    }
}

impl<'s, 'a> ValidWriter<'s, 'a> {
    /// The canonical text of an object without its unknown members, those that are null, and those
    /// that `take` takes after they were checked. `None` if it cannot stay as it is.
    pub fn write(
        &mut self,
        object: ValueRef<'a>,
        mut take: impl FnMut(&str, ValueRef<'a>) -> bool,
    ) -> Option<&str> {
        self.out.clear();
        self.members.clear();
        let ValueShape::Object(members) = object.shape() else {
            return None;
        };
        if !self.is_plain {
            return None;
        }
        let rules = rules_of(&self.tree[self.root])?;
        self.out.push(b'{');
        self.sort_members(rules, members)?;
        for index in 0..self.members.len() {
            let (at, value) = self.members[index];
            if value.is_null() {
                continue;
            }
            let before = self.out.len();
            self.member(rules, at, value, false)?;
            if take(&rules.properties[at].name, value) {
                self.out.truncate(before);
            }
        }
        self.out.push(b'}');
        str::from_utf8(&self.out).ok()
    }

    /// Adds the members that are kept, in the order of their names. Returns where they begin.
    fn sort_members(&mut self, rules: &ObjectRules, members: MemberRefs<'a>) -> Option<usize> {
        let begin = self.members.len();
        for (name, value) in members {
            match Key::known(name).and_then(|key| rules.index_of(&key)) {
                Some(at) if rules.properties[at].read_only => {}
                Some(at) => self.members.push((at, value)),
                None if name == RESET => return None,
                None => {}
            }
        }
        self.members[begin..].sort_unstable_by_key(|(at, _)| *at);
        Some(begin)
    }

    fn member(
        &mut self,
        rules: &'s ObjectRules,
        at: usize,
        value: ValueRef<'a>,
        in_array: bool,
    ) -> Option<()> {
        let property = &rules.properties[at];
        if self.out.last() != Some(&b'{') {
            self.out.push(b',');
        }
        write_string(&mut self.out, &property.name);
        self.out.push(b':');
        self.value(property.node, value, in_array)
    }

    /// Recursion is bounded by the depth of the document.
    fn value(&mut self, id: NodeId, value: ValueRef<'a>, in_array: bool) -> Option<()> {
        let node = &self.tree[id];
        match value.shape() {
            ValueShape::Null => {
                self.out.extend_from_slice(b"null");
                (node.kinds & tree::NULL != 0 && !in_array).then_some(())
            }
            ValueShape::Bool(value) => {
                let text = if value { "true" } else { "false" };
                self.out.extend_from_slice(text.as_bytes());
                (node.kinds & tree::BOOLEAN != 0 && is_simple(node)).then_some(())
            }
            ValueShape::Number(number) => {
                let number = valid_number(self.tree, node, number)?;
                number.write(&mut self.out);
                Some(())
            }
            ValueShape::String(text) => {
                write_string(&mut self.out, text);
                let is_valid = is_valid_text(self.tree, node, text) && !has_url_secrets(text);
                is_valid.then_some(())
            }
            ValueShape::Array(items) => {
                let rules = node.array.as_deref()?;
                let count = items.len() as u64;
                let is_valid = node.kinds & tree::ARRAY != 0
                    && is_simple(node)
                    && rules.items_min.is_none_or(|least| least <= count)
                    && rules.items_max.is_none_or(|most| count <= most);
                let item_rules = rules.items.filter(|_| is_valid)?;
                self.out.push(b'[');
                for item in items {
                    if self.out.last() != Some(&b'[') {
                        self.out.push(b',');
                    }
                    self.value(item_rules, item, true)?;
                }
                self.out.push(b']');
                Some(())
            }
            ValueShape::Object(members) => self.object(self.variant(id, value)?, members, in_array),
        }
    }

    fn object(&mut self, id: NodeId, members: MemberRefs<'a>, in_array: bool) -> Option<()> {
        let rules = rules_of(&self.tree[id])?;
        let begin = self.sort_members(rules, members)?;
        self.out.push(b'{');
        for index in begin..self.members.len() {
            let (at, value) = self.members[index];
            if !(in_array && value.is_null()) {
                self.member(rules, at, value, in_array)?;
            }
        }
        self.members.truncate(begin);
        self.out.push(b'}');
        Some(())
    }

    /// The variant of an object that a member of it names.
    fn variant(&self, id: NodeId, object: ValueRef<'a>) -> Option<NodeId> {
        let mut id = id;
        while let Some(union) = &self.tree[id].union {
            let node = &self.tree[id];
            let has_rules = node.object.is_some() || !node.options.is_empty();
            if has_rules || node.kinds & tree::OBJECT == 0 {
                return None;
            }
            id = union.variant(object.get(union.member()?)?.as_str()?)?;
        }
        Some(id)
    }
}

/// Whether all values of the allowed types are valid, except for rules of one type.
fn is_simple(node: &SchemaNode) -> bool {
    node.union.is_none() && node.options.is_empty()
}

/// The rules for an object whose members are all known or dropped.
fn rules_of(node: &SchemaNode) -> Option<&ObjectRules> {
    let rules = node.object.as_deref()?;
    let has_others = rules.additional.is_some() || rules.names.is_some() || rules.is_open();
    let is_usual = is_simple(node)
        && node.kinds & tree::OBJECT != 0
        && !has_others
        && rules.is_indexed()
        && !rules.closed
        && rules.members_max.is_none();
    is_usual.then_some(rules)
}

/// The number as it is kept.
fn valid_number(tree: &Tree, node: &SchemaNode, number: Number) -> Option<Number> {
    let is_whole = node.kinds & tree::NUMBER == tree::INTEGER;
    let integer = number.to_integer().filter(|_| is_whole);
    let number = integer.unwrap_or(number);
    is_valid_number(tree, node, number).then_some(number)
}

fn is_valid_number(tree: &Tree, node: &SchemaNode, number: Number) -> bool {
    let kind = match number {
        Number::Float(_) => tree::FLOAT,
        Number::Unsigned(_) | Number::Negative(_) => tree::INTEGER,
    };
    node.kinds & kind != 0
        && node.options.is_empty()
        && accepts_number(node, number)
        && is_any_variant(tree, node, |node| is_valid_number(tree, node, number))
}

fn is_valid_text(tree: &Tree, node: &SchemaNode, text: &str) -> bool {
    let is_option = |option: &Value| option.as_str() == Some(text);
    node.kinds & tree::STRING != 0
        && (node.options.is_empty() || node.options.iter().any(is_option))
        && accepts_text(tree, node, text)
        && is_any_variant(tree, node, |node| is_valid_text(tree, node, text))
}

/// Whether a scalar is valid for a variant of a node, if that has any.
fn is_any_variant(tree: &Tree, node: &SchemaNode, is_valid: impl Fn(&SchemaNode) -> bool) -> bool {
    match node.union.as_deref() {
        None => true,
        Some(Union::Free(variants)) => variants.iter().any(|id| is_valid(&tree[*id])),
        Some(Union::Named { .. } | Union::Addressed { .. }) => false,
    }
}
