//! The effective document: the stored document with defaults filled in for absent members.
//!
//! Both forms are kept as one text: the effective text and the spans that were filled in. The text
//! without these spans is the stored text, byte for byte, so neither form is kept twice or computed
//! again.

use super::Schema;
use super::tree::{NodeId, ObjectRules, Resolved, Tree};
use crate::json::{self, Object, Value};

/// A canonical text and the spans in it that are not stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Effective {
    pub text: String,
    /// Start and length of each filled span, ascending, not overlapping; with one comma if there is
    /// one.
    pub filled: Vec<(u32, u32)>,
}

impl Schema {
    /// Fills in defaults of absent members in every object that is present; no object is created
    /// for them. Deprecated and read-only members are not filled in.
    pub fn effective(&self, stored: &Value) -> Effective {
        let mut fill = Fill {
            tree: &self.tree,
            out: Vec::with_capacity(1024),
            filled: Vec::new(),
        };
        fill.value(self.root, stored);
        Effective {
            text: json::text_of(fill.out),
            filled: fill.filled,
        }
    }
}

impl Schema {
    /// Drops the members of a merged document that repeat their default and are not in `stored`,
    /// the document before the merge or its outline. The effective document stays the same, so a
    /// document that was read can be saved without a change. A default that is in `stored` was
    /// saved on purpose and stays.
    pub fn drop_defaults(&self, merged: &mut Value, stored: &Value) {
        DropDefaults { tree: &self.tree }.value(self.root, merged, Some(stored));
    }
}

struct DropDefaults<'a> {
    tree: &'a Tree,
}

impl DropDefaults<'_> {
    fn value(&self, id: NodeId, value: &mut Value, stored: Option<&Value>) {
        if !self.tree[id].fills {
            return;
        }
        let Resolved::One(variant) = self.tree.resolve(id, value) else {
            return;
        };
        let node = &self.tree[variant];
        match value {
            Value::Array(items) => {
                let Some(rule) = node.array.as_ref().and_then(|rules| rules.items) else {
                    return;
                };
                let stored = stored.and_then(Value::as_array).unwrap_or_default();
                for (i, item) in items.iter_mut().enumerate() {
                    self.value(rule, item, stored.get(i));
                }
            }
            Value::Object(object) => {
                if let Some(rules) = &node.object {
                    self.object(id, rules, object, stored.and_then(Value::as_object));
                }
            }
            _ => {}
        }
    }

    fn object(
        &self,
        id: NodeId,
        rules: &ObjectRules,
        object: &mut Object,
        stored: Option<&Object>,
    ) {
        let mut from = 0;
        object.retain_members(|key, value| {
            let property = rules.next_property(key, &mut from);
            let stored = stored.and_then(|stored| stored.member(key));
            let Some(property) = property else {
                if let Some(id) = rules.additional {
                    self.value(id, value, stored);
                }
                return true;
            };
            let filling = property.filling.as_ref();
            if stored.is_none()
                && filling.is_some_and(|filling| filling.value == *value)
                && !rules.is_required(from)
                && !self.tree.is_discriminator(id, key)
            {
                return false;
            }
            self.value(property.node, value, stored);
            true
        });
    }
}

/// Appends `text` without the filled spans.
pub fn without_filled(text: &str, filled: impl Iterator<Item = (u32, u32)>, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let mut kept = 0;
    for (start, length) in filled {
        let start = start as usize;
        out.extend_from_slice(&bytes[kept..start]);
        kept = start + length as usize;
    }
    out.extend_from_slice(&bytes[kept..]);
}

struct Fill<'a> {
    tree: &'a Tree,
    out: Vec<u8>,
    filled: Vec<(u32, u32)>,
}

impl Fill<'_> {
    fn value(&mut self, id: NodeId, value: &Value) {
        // Most subtrees contain no default and are only written.
        if !self.tree[id].fills {
            value.write(&mut self.out);
            return;
        }
        // A document without a known variant gets no defaults: they might be those of another
        // variant.
        let Resolved::One(id) = self.tree.resolve(id, value) else {
            value.write(&mut self.out);
            return;
        };
        let node = &self.tree[id];
        match value {
            Value::Array(items) => {
                let Some(id) = node.array.as_ref().and_then(|rules| rules.items) else {
                    value.write(&mut self.out);
                    return;
                };
                self.out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        self.out.push(b',');
                    }
                    self.value(id, item);
                }
                self.out.push(b']');
            }
            Value::Object(object) => match &node.object {
                Some(rules) => self.object(rules, object),
                None => object.write(&mut self.out),
            },
            scalar => scalar.write(&mut self.out),
        }
    }

    fn object(&mut self, rules: &ObjectRules, object: &Object) {
        self.out.push(b'{');
        let mut progress = Progress {
            any: false,
            stored: false,
            left: object.len(),
        };
        let mut from = 0;
        for (key, value) in object.members() {
            let passed = from;
            let property = rules.next_property(key, &mut from);
            self.fill(rules, passed..from, &mut progress);
            if progress.stored {
                self.out.push(b',');
            }
            progress.any = true;
            progress.stored = true;
            progress.left -= 1;
            json::write_string(&mut self.out, key);
            self.out.push(b':');
            match (property, rules.additional) {
                (Some(property), _) => {
                    from += 1;
                    self.value(property.node, value);
                }
                (None, Some(id)) => self.value(id, value),
                (None, None) => value.write(&mut self.out),
            }
        }
        self.fill(rules, from..rules.properties.len(), &mut progress);
        self.out.push(b'}');
    }

    /// Writes the defaults of the properties that the stored object does not have.
    fn fill(
        &mut self,
        rules: &ObjectRules,
        passed: std::ops::Range<usize>,
        progress: &mut Progress,
    ) {
        for property in &rules.properties[passed] {
            let Some(filling) = &property.filling else {
                continue;
            };
            let start = self.out.len();
            // The comma of a filled member is the one before it if a stored member has been
            // written, else the one after it.
            if progress.stored || (progress.any && progress.left == 0) {
                self.out.push(b',');
            }
            self.out.extend_from_slice(filling.text.as_bytes());
            if !progress.stored && progress.left > 0 {
                self.out.push(b',');
            }
            progress.any = true;
            self.filled
                .push((start as u32, (self.out.len() - start) as u32));
        }
    }
}

/// The written part of an object.
struct Progress {
    any: bool,
    stored: bool,
    /// Stored members to come.
    left: usize,
}
