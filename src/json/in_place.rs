//! Values that are read where they are: on the tape of a body, or in a tree.
//!
//! A reader that keeps little of a large body needs no tree of it. What it sees is what `parse`
//! would return: a body that the tape cannot decide is parsed to a tree first.

use simd_json::{Node, StaticNode};

use super::{Key, Number, Value, strict, tape};

/// A value that is read in place. Cheap to copy.
#[derive(Clone, Copy)]
pub struct ValueRef<'a>(ValueSource<'a>);

#[derive(Clone, Copy)]
enum ValueSource<'a> {
    /// Its nodes, and what follows them.
    Nodes(&'a [Node<'a>]),
    Value(&'a Value),
}

/// What a value is.
pub enum ValueShape<'a> {
    Null,
    Bool(bool),
    Number(Number),
    String(&'a str),
    Array(ItemRefs<'a>),
    Object(MemberRefs<'a>),
}

/// Calls `read` with the value of a JSON text that fills the whole body. `None` if it is not JSON,
/// or if `read` returns that. `read` must not parse bodies.
pub fn read_in_place<T>(body: &[u8], mut read: impl FnMut(ValueRef<'_>) -> Option<T>) -> Option<T> {
    let mut is_read = false;
    let result = tape::with_nodes(body, |nodes| {
        is_read = true;
        read(ValueRef(ValueSource::Nodes(nodes)))
    });
    if is_read {
        return result;
    }
    let value = tape::read(body).or_else(|| strict::read(body).ok())?;
    read(ValueRef::of(&value))
}

impl<'a> ValueRef<'a> {
    pub fn of(value: &'a Value) -> Self {
        Self(ValueSource::Value(value))
    }

    pub fn shape(self) -> ValueShape<'a> {
        match self.0 {
            ValueSource::Nodes(nodes) => shape_of_nodes(nodes),
            ValueSource::Value(value) => match value {
                Value::Null => ValueShape::Null,
                Value::Bool(value) => ValueShape::Bool(*value),
                Value::Number(number) => ValueShape::Number(*number),
                Value::String(text) => ValueShape::String(text),
                Value::Array(items) => {
                    ValueShape::Array(ItemRefs(ItemsSource::Values(items.iter())))
                }
                Value::Object(object) => {
                    let members = object.members().iter();
                    ValueShape::Object(MemberRefs(MembersSource::Values(members)))
                }
            },
        }
    }

    /// The value as a tree.
    pub fn to_value(self) -> Value {
        match self.0 {
            ValueSource::Nodes(nodes) => {
                tape::value_of_exact(nodes).expect("the nodes were checked when they were read")
            }
            ValueSource::Value(value) => value.clone(),
        }
    }

    pub fn is_null(self) -> bool {
        match self.0 {
            ValueSource::Nodes(nodes) => {
                matches!(nodes.first(), Some(Node::Static(StaticNode::Null)) | None)
            }
            ValueSource::Value(value) => value.is_null(),
        }
    }

    pub fn as_str(self) -> Option<&'a str> {
        match self.shape() {
            ValueShape::String(text) => Some(text),
            _ => None,
        }
    }

    /// Member of an object; `None` for everything else.
    pub fn get(self, key: &str) -> Option<ValueRef<'a>> {
        match self.shape() {
            ValueShape::Object(mut members) => {
                members.find(|(name, _)| *name == key).map(|it| it.1)
            }
            _ => None,
        }
    }
}

fn shape_of_nodes<'a>(nodes: &'a [Node<'a>]) -> ValueShape<'a> {
    let Some((first, after)) = nodes.split_first() else {
        return ValueShape::Null;
    };
    match *first {
        Node::String(text) => ValueShape::String(text),
        Node::Array { len, .. } => ValueShape::Array(ItemRefs(ItemsSource::Nodes(after, len))),
        Node::Object { len, .. } => {
            ValueShape::Object(MemberRefs(MembersSource::Nodes(after, len)))
        }
        Node::Static(StaticNode::Null) => ValueShape::Null,
        Node::Static(StaticNode::Bool(value)) => ValueShape::Bool(value),
        Node::Static(StaticNode::U64(value)) => ValueShape::Number(Number::Unsigned(value)),
        Node::Static(StaticNode::I64(value)) => ValueShape::Number(Number::from_signed(value)),
        Node::Static(StaticNode::F64(value)) => ValueShape::Number(Number::Float(value)),
    }
}

/// The items of an array.
pub struct ItemRefs<'a>(ItemsSource<'a>);

enum ItemsSource<'a> {
    /// Nodes, and how many items are left in them.
    Nodes(&'a [Node<'a>], usize),
    Values(std::slice::Iter<'a, Value>),
}

impl<'a> Iterator for ItemRefs<'a> {
    type Item = ValueRef<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            ItemsSource::Nodes(nodes, left) => {
                *left = left.checked_sub(1)?;
                let item = *nodes;
                *nodes = item.get(tape::nodes_of(item.first()?)..)?;
                Some(ValueRef(ValueSource::Nodes(item)))
            }
            ItemsSource::Values(values) => values.next().map(ValueRef::of),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.0 {
            ItemsSource::Nodes(_, left) => (*left, Some(*left)),
            ItemsSource::Values(values) => values.size_hint(),
        }
    }
}

impl ExactSizeIterator for ItemRefs<'_> {}

/// The members of an object: on a tape as they were sent, in a tree sorted.
pub struct MemberRefs<'a>(MembersSource<'a>);

enum MembersSource<'a> {
    /// Nodes, and how many members are left in them.
    Nodes(&'a [Node<'a>], usize),
    Values(std::slice::Iter<'a, (Key, Value)>),
}

impl<'a> Iterator for MemberRefs<'a> {
    type Item = (&'a str, ValueRef<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            MembersSource::Nodes(nodes, left) => {
                *left = left.checked_sub(1)?;
                let (Node::String(key), value) = nodes.split_first()? else {
                    return None;
                };
                *nodes = value.get(tape::nodes_of(value.first()?)..)?;
                Some((*key, ValueRef(ValueSource::Nodes(value))))
            }
            MembersSource::Values(values) => values
                .next()
                .map(|(key, value)| (&**key, ValueRef::of(value))),
        }
    }
}
