//! Types of fields named in a query: `stats.bitrate_gt=187` compares numbers because the schema
//! defines a number.

use std::collections::BTreeSet;

use super::Schema;
use super::check::Violation;
use super::tree::{self, Kinds, NodeId, Tree};
use crate::json::{Number, Value};

/// Types that the values of a field can have, and the values themselves if they are listed.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldKinds {
    kinds: Kinds,
    options: Vec<Value>,
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

    /// Objects and arrays can only be tested for presence.
    pub fn is_scalar(&self) -> bool {
        self.kinds & (tree::BOOLEAN | tree::NUMBER | tree::STRING) != 0
    }

    /// The values the field can have, if they are listed.
    pub fn options(&self) -> &[Value] {
        &self.options
    }

    /// Converts the text of a query parameter. If several types fit, the first of integer, number,
    /// boolean and string is taken. The pointer of a violation is empty: it belongs to a parameter.
    pub fn convert(&self, text: &str) -> Result<Value, Violation> {
        let violation = |code, title: String| Violation {
            code,
            pointer: String::new(),
            title,
            meta: Vec::new(),
        };
        let value = self.read(text).ok_or_else(|| {
            let (code, title) = match self.kinds & !tree::NULL {
                tree::INTEGER => ("not_integer", "Must be an integer."),
                tree::NUMBER => ("not_number", "Must be a number."),
                tree::BOOLEAN => ("not_boolean", "Must be true or false."),
                _ => (
                    "invalid_type",
                    "This field cannot be compared with a value.",
                ),
            };
            violation(code, title.to_owned())
        })?;
        if self.options.is_empty() || self.options.contains(&value) {
            return Ok(value);
        }
        let options: Vec<String> = self
            .options
            .iter()
            .map(|it| it.as_str().map_or_else(|| it.to_text(), str::to_owned))
            .collect();
        Err(violation(
            "unknown_enum_option",
            format!("Must be one of: {}.", options.join(", ")),
        ))
    }

    fn read(&self, text: &str) -> Option<Value> {
        if self.kinds & tree::NUMBER != 0
            && text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
            && let Ok(Value::Number(number)) = crate::json::parse(text.as_bytes())
        {
            match (number.to_integer(), number) {
                (Some(integer), _) if self.is_integer() => return Some(Value::Number(integer)),
                (_, Number::Float(_)) if self.is_number() => return Some(Value::Number(number)),
                _ => {}
            }
        }
        match text {
            "true" if self.is_boolean() => Some(Value::Bool(true)),
            "false" if self.is_boolean() => Some(Value::Bool(false)),
            text if self.is_string() => Some(Value::from(text)),
            _ => None,
        }
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
        // Options restrict the field only if every variant lists some.
        let mut options: Vec<Value> = Vec::new();
        if all.iter().all(|id| !self.tree[*id].options.is_empty()) {
            for option in all.iter().flat_map(|id| self.tree[*id].options.iter()) {
                if !options.contains(option) {
                    options.push(option.clone());
                }
            }
        }
        Some(FieldKinds { kinds, options })
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
