//! Reads JSON through the tape of simd-json, and returns only what the strict reader would return.
//!
//! The strict reader defines the language. For everything that it refuses or that the tape cannot
//! decide (invalid JSON, duplicate keys, U+0000, deep nesting, floats that may have been rounded),
//! `read` returns `None`, and the strict reader decides and explains. A property test and the fuzz
//! target `json_body` compare the two. `with_nodes` hands out the nodes of the tape themselves, for
//! readers that need no tree (`in_place`).

use std::cell::RefCell;

use simd_json::{Buffers, INPUT_PADDING, Node, StaticNode, Tape, fill_tape_padded};

use super::key::{self, Names};
use super::strict::{DEPTH_MAX, NUMBER_CHARS_MAX};
use super::{Key, Number, Object, Value};

/// Buffers that grew for a larger body are released after it. One byte of a body needs up to 30
/// bytes of buffers.
const KEPT_BODY_BYTES_MAX: usize = 64 * 1024;

/// A shorter float has at most 15 digits, besides its point or `e`. It is an integer as a double
/// only if it is one as text, because doubles keep 15 digits.
const EXACT_CHARS_MAX: usize = 16;

/// Objects with more members are not read in place.
const IN_PLACE_MEMBERS_MAX: usize = 64;

/// 2^64: a greater float is no integer of 64 bits.
const BITS64: f64 = 18_446_744_073_709_551_616.0;

/// Buffers of the reader, reused from body to body.
struct Scratch {
    /// The body, followed by padding; strings are unescaped in place.
    text: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
}

impl Scratch {
    fn new() -> Self {
        Self {
            text: Vec::new(),
            buffers: Buffers::with_max_depth(0, DEPTH_MAX),
            tape: Tape(Vec::new()),
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

/// The value of a JSON text that fills the whole body, or `None` if only the strict reader can
/// decide.
pub(super) fn read(body: &[u8]) -> Option<Value> {
    with_tape(body, |nodes| value_of(nodes, body))
}

/// Calls `read` with the nodes of a JSON text that fills the whole body, or returns `None` if only
/// the strict reader can decide. `read` must not read other bodies.
pub(super) fn with_nodes<T>(body: &[u8], read: impl FnOnce(&[Node<'_>]) -> Option<T>) -> Option<T> {
    with_tape(body, |nodes| {
        is_exact(nodes, body).then(|| read(nodes)).flatten()
    })
}

fn with_tape<T>(body: &[u8], read: impl FnOnce(&[Node<'_>]) -> Option<T>) -> Option<T> {
    if body.len() > KEPT_BODY_BYTES_MAX {
        return read_with(&mut Scratch::new(), body, read);
    }
    SCRATCH.with_borrow_mut(|scratch| read_with(scratch, body, read))
}

fn read_with<T>(
    scratch: &mut Scratch,
    body: &[u8],
    read: impl FnOnce(&[Node<'_>]) -> Option<T>,
) -> Option<T> {
    scratch.text.clear();
    scratch.text.reserve(body.len() + INPUT_PADDING);
    scratch.text.extend_from_slice(body);
    scratch.text.extend_from_slice(&[b' '; INPUT_PADDING]);
    let mut tape = std::mem::replace(&mut scratch.tape, Tape(Vec::new())).reset();
    let buffers = &mut scratch.buffers;
    let filled = fill_tape_padded(&mut scratch.text, body.len(), buffers, &mut tape);
    let result = filled.ok().and_then(|()| read(&tape.0));
    scratch.tape = tape.reset();
    result
}

fn value_of(nodes: &[Node<'_>], body: &[u8]) -> Option<Value> {
    let mut builder = Builder {
        nodes: nodes.iter(),
        names: key::names(),
        escapes: memchr::memchr(b'\\', body).is_some(),
        floats: Floats::default(),
    };
    let mut value = Value::Null;
    builder.build(&mut value)?;
    builder.floats.are_exact_in(body).then_some(value)
}

/// The value of nodes that [`with_nodes`] handed out.
pub(super) fn value_of_exact(nodes: &[Node<'_>]) -> Option<Value> {
    let mut builder = Builder {
        nodes: nodes.iter(),
        names: key::names(),
        escapes: false,
        floats: Floats::default(),
    };
    let mut value = Value::Null;
    builder.build(&mut value)?;
    Some(value)
}

/// The number of nodes of the value that begins with a node.
pub(super) fn nodes_of(node: &Node<'_>) -> usize {
    match node {
        Node::Object { count, .. } | Node::Array { count, .. } => *count + 1,
        Node::String(_) | Node::Static(_) => 1,
    }
}

/// Whether the strict reader would accept the body, and find in it what the nodes have.
fn is_exact(nodes: &[Node<'_>], body: &[u8]) -> bool {
    let escapes = memchr::memchr(b'\\', body).is_some();
    let mut floats = Floats::default();
    let mut rest = nodes;
    while let Some((node, after)) = rest.split_first() {
        let is_exact = match node {
            Node::String(text) => !escapes || memchr::memchr(0, text.as_bytes()).is_none(),
            Node::Object { len, .. } => has_different_keys(after, *len),
            Node::Static(StaticNode::F64(value)) => floats.add(*value).is_some(),
            Node::Array { .. } | Node::Static(_) => true,
        };
        if !is_exact {
            return false;
        }
        rest = after;
    }
    floats.are_exact_in(body)
}

/// Whether the members that the nodes begin with have different keys. False also for too many of
/// them.
fn has_different_keys(nodes: &[Node<'_>], len: usize) -> bool {
    let mut keys = [""; IN_PLACE_MEMBERS_MAX];
    if len > keys.len() {
        return false;
    }
    // One bit per group of keys: only those of one group are compared.
    let mut groups = 0_u64;
    let mut rest = nodes;
    for index in 0..len {
        let Some((Node::String(key), after)) = rest.split_first() else {
            return false;
        };
        let Some(value) = after.first() else {
            return false;
        };
        let (first, last) = (key.as_bytes().first(), key.as_bytes().last());
        let ends = u64::from(*first.unwrap_or(&0)) * 7 + u64::from(*last.unwrap_or(&0));
        let group = 1 << ((ends + key.len() as u64 * 5) % 64);
        if groups & group != 0 && keys[..index].contains(key) {
            return false;
        }
        groups |= group;
        keys[index] = key;
        rest = &after[nodes_of(value)..];
    }
    true
}

/// What was lost of floats can only be seen in the text, which the tape does not have: the strict
/// reader refuses numbers that are too long or lost something.
struct Floats {
    /// The longest number of which nothing was lost.
    chars_max: usize,
    /// One of them is zero.
    zeros: bool,
}

impl Default for Floats {
    fn default() -> Self {
        Self {
            chars_max: usize::MAX,
            zeros: false,
        }
    }
}

impl Floats {
    /// The number; `None` if only the strict reader can decide.
    fn add(&mut self, value: f64) -> Option<Number> {
        self.chars_max = self.chars_max.min(NUMBER_CHARS_MAX);
        self.zeros |= value == 0.0;
        if value.fract() == 0.0 {
            // It may be an integer that only the text has.
            if (Number::EXACT_MAX..BITS64).contains(&value.abs()) {
                return None;
            }
            self.chars_max = EXACT_CHARS_MAX;
        }
        Number::from_float(value)
    }

    fn are_exact_in(&self, body: &[u8]) -> bool {
        let too_long = self.chars_max != usize::MAX && has_number_longer_than(body, self.chars_max);
        let underflow = self.zeros && has_negative_exponent(body);
        !too_long && !underflow
    }
}

/// Builds the value from the nodes of a tape, which come in the order of the text.
struct Builder<'a> {
    nodes: std::slice::Iter<'a, Node<'a>>,
    names: &'static Names,
    /// The body has a backslash, so a string may have U+0000.
    escapes: bool,
    floats: Floats,
}

impl<'a> Builder<'a> {
    /// Recursion is bounded: the tape is not filled from text nested deeper than `DEPTH_MAX`.
    ///
    /// Values are written where they stay. Returned by value, each would be copied with wide loads
    /// right after narrow stores, which the processor cannot forward: a sixth of the whole time.
    fn build(&mut self, slot: &mut Value) -> Option<()> {
        match *self.nodes.next()? {
            Node::String(text) => *slot = Value::String(self.checked(text)?.into()),
            Node::Object { len, .. } => *slot = Value::Object(self.object(len)?),
            Node::Array { len, .. } => *slot = Value::Array(self.array(len)?),
            Node::Static(StaticNode::U64(value)) => *slot = Value::Number(Number::Unsigned(value)),
            Node::Static(StaticNode::I64(value)) => {
                *slot = Value::Number(Number::from_signed(value));
            }
            Node::Static(StaticNode::F64(value)) => {
                *slot = Value::Number(self.floats.add(value)?);
            }
            Node::Static(StaticNode::Bool(value)) => *slot = Value::Bool(value),
            Node::Static(StaticNode::Null) => *slot = Value::Null,
        }
        Some(())
    }

    fn array(&mut self, len: usize) -> Option<Vec<Value>> {
        let mut items = Vec::new();
        items.resize_with(len, || Value::Null);
        for item in &mut items {
            self.build(item)?;
        }
        Some(items)
    }

    fn object(&mut self, len: usize) -> Option<Object> {
        let mut members: Vec<(Key, Value)> = Vec::new();
        members.resize_with(len, || (Key::Known(0), Value::Null));
        let mut ascending = true;
        for index in 0..len {
            let Node::String(name) = *self.nodes.next()? else {
                return None;
            };
            let name = self.checked(name)?;
            let (before, here) = members.split_at_mut(index);
            let (key, value) = here.first_mut()?;
            match self.names.find(name) {
                Some(number) => *key = Key::Known(number),
                None => *key = Key::Other(name.into()),
            }
            ascending = ascending && before.last().is_none_or(|(last, _)| *last < *key);
            self.build(value)?;
        }
        if !ascending {
            members.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            if members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
                return None;
            }
        }
        Some(Object::from_sorted(members))
    }

    fn checked(&self, text: &'a str) -> Option<&'a str> {
        let nul = self.escapes && memchr::memchr(0, text.as_bytes()).is_some();
        (!nul).then_some(text)
    }
}

fn is_part_of_number(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
}

/// May be true without such a number, but never false with one: it has a character at a multiple of
/// `chars`.
fn has_number_longer_than(body: &[u8], chars: usize) -> bool {
    (chars..body.len()).step_by(chars).any(|place| {
        let (before, after) = body.split_at(place);
        let before = before
            .iter()
            .rev()
            .take_while(|byte| is_part_of_number(**byte));
        let after = after.iter().take_while(|byte| is_part_of_number(**byte));
        is_part_of_number(body[place]) && before.chain(after).nth(chars).is_some()
    })
}

/// May be true for text inside of a string, but never false if a number has a negative exponent.
fn has_negative_exponent(body: &[u8]) -> bool {
    memchr::memchr_iter(b'-', body).any(|at| {
        let exponent = matches!(body[..at], [.., b'0'..=b'9', b'e' | b'E']);
        let mut after = body[at + 1..].iter();
        exponent
            && !matches!(
                after.find(|byte| !byte.is_ascii_digit()),
                Some(b'-' | b'"' | b'a'..=b'z' | b'A'..=b'Z')
            )
    })
}
