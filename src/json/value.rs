//! One JSON value as an owned tree, and its canonical text: sorted keys, no spaces, shortest
//! numbers, minimal escapes.

use super::{Key, special_from};

use std::cmp::Ordering;
use std::fmt;

/// Any JSON value. `parse` returns values at most `DEPTH_MAX` deep, and `merge` does not deepen
/// them, so recursion over them is bounded.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    Number(Number),
    String(Box<str>),
    Array(Vec<Value>),
    Object(Object),
}

/// A number: integers are exact over the whole range of `u64` and `i64`; all others are finite
/// doubles.
///
/// Compared as real numbers: 5 equals 5.0, and 2^53 + 1 differs from 2^53 as a double.
#[derive(Debug, Clone, Copy)]
pub enum Number {
    Unsigned(u64),
    /// Always below zero.
    Negative(i64),
    /// Always finite. Written with a point or an exponent, so it is read back as a float.
    Float(f64),
}

/// An object: members sorted by the bytes of their keys, each key once.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Object {
    members: Vec<(Key, Value)>,
}

impl Object {
    pub const fn new() -> Self {
        Self {
            members: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.find(key).ok().map(|at| &self.members[at].1)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.find(key).ok().map(|at| &mut self.members[at].1)
    }

    pub fn contains_key(&self, key: &str) -> bool {
        self.find(key).is_ok()
    }

    /// Returns the previous value of the key.
    pub fn insert(&mut self, key: impl AsRef<str>, value: Value) -> Option<Value> {
        let key = key.as_ref();
        match self.find(key) {
            Ok(at) => Some(std::mem::replace(&mut self.members[at].1, value)),
            Err(at) => {
                self.members.insert(at, (Key::new(key), value));
                None
            }
        }
    }

    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.find(key).ok().map(|at| self.members.remove(at).1)
    }

    /// In the order of the keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &Value)> + ExactSizeIterator {
        self.members.iter().map(|(key, value)| (&**key, value))
    }

    pub fn iter_mut(
        &mut self,
    ) -> impl DoubleEndedIterator<Item = (&str, &mut Value)> + ExactSizeIterator {
        self.members.iter_mut().map(|(key, value)| (&**key, value))
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&str, &mut Value) -> bool) {
        self.members.retain_mut(|(key, value)| keep(key, value));
    }

    /// In the order of the keys; the schema compares keys as numbers.
    pub(crate) fn members(&self) -> &[(Key, Value)] {
        &self.members
    }

    pub(super) fn into_members(self) -> Vec<(Key, Value)> {
        self.members
    }

    pub(super) fn from_sorted(members: Vec<(Key, Value)>) -> Self {
        debug_assert!(members.windows(2).all(|pair| pair[0].0 < pair[1].0));
        Self { members }
    }

    pub(crate) fn retain_members(&mut self, mut keep: impl FnMut(&Key, &mut Value) -> bool) {
        self.members.retain_mut(|(key, value)| keep(key, value));
    }

    pub(crate) fn member(&self, key: &Key) -> Option<&Value> {
        // Objects have few members: comparing numbers one by one is faster than a search.
        self.members
            .iter()
            .find(|(held, _)| held == key)
            .map(|(_, value)| value)
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.members.binary_search_by(|(held, _)| (**held).cmp(key))
    }
}

/// Owned members of an object, in the order of the keys.
pub struct IntoMembers(std::vec::IntoIter<(Key, Value)>);

impl Iterator for IntoMembers {
    type Item = (Box<str>, Value);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(key, value)| (key.into_box(), value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl IntoIterator for Object {
    type Item = (Box<str>, Value);
    type IntoIter = IntoMembers;

    fn into_iter(self) -> Self::IntoIter {
        IntoMembers(self.members.into_iter())
    }
}

/// If a key is given more than once, the last value is kept.
impl<K: AsRef<str>> FromIterator<(K, Value)> for Object {
    fn from_iter<I: IntoIterator<Item = (K, Value)>>(members: I) -> Self {
        let members = members.into_iter();
        let mut members: Vec<(Key, Value)> = members
            .map(|(key, value)| (Key::new(key.as_ref()), value))
            .collect();
        members.sort_by(|a, b| a.0.cmp(&b.0));
        members.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                std::mem::swap(next, kept);
            }
            same
        });
        Self { members }
    }
}

impl Value {
    /// Member of an object; `None` for everything else.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_object().and_then(|object| object.get(key))
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.as_object_mut().and_then(|object| object.get_mut(key))
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Number(Number::Unsigned(value)) => Some(*value),
            _ => None,
        }
    }

    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Number(Number::Unsigned(value)) => i64::try_from(*value).ok(),
            Value::Number(Number::Negative(value)) => Some(*value),
            _ => None,
        }
    }

    /// Any number as a double; large integers are rounded.
    #[cfg(test)]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Number(number) => Some(number.as_f64()),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_array_mut(&mut self) -> Option<&mut Vec<Value>> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    pub fn as_object_mut(&mut self) -> Option<&mut Object> {
        match self {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Its objects, arrays and keys; every scalar is null. Much cheaper than a clone.
    #[must_use]
    pub fn outline(&self) -> Value {
        match self {
            Value::Array(items) => Value::Array(items.iter().map(Value::outline).collect()),
            Value::Object(object) => {
                let members = object.members.iter();
                let members = members.map(|(key, value)| (key.clone(), value.outline()));
                Value::Object(Object {
                    members: members.collect(),
                })
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Value::Null,
        }
    }

    /// Appends the canonical text.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => out.extend_from_slice(b"null"),
            Value::Bool(true) => out.extend_from_slice(b"true"),
            Value::Bool(false) => out.extend_from_slice(b"false"),
            Value::Number(number) => number.write(out),
            Value::String(text) => write_string(out, text),
            Value::Array(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.write(out);
                }
                out.push(b']');
            }
            Value::Object(object) => object.write(out),
        }
    }

    /// The canonical text.
    pub fn to_text(&self) -> String {
        let mut out = Vec::new();
        self.write(&mut out);
        text_of(out)
    }
}

impl Object {
    /// Appends the canonical text.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (index, (key, value)) in self.members.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_string(out, key);
            out.push(b':');
            value.write(out);
        }
        out.push(b'}');
    }
}

/// Output of the writer as text.
pub(crate) fn text_of(written: Vec<u8>) -> String {
    String::from_utf8(written).expect("the writer copies text and adds ASCII")
}

impl Number {
    pub fn as_f64(self) -> f64 {
        match self {
            Number::Unsigned(value) => value as f64,
            Number::Negative(value) => value as f64,
            Number::Float(value) => value,
        }
    }

    /// Appends the shortest text that is read back as the same number.
    pub fn write(self, out: &mut Vec<u8>) {
        use std::io::Write;
        match self {
            Number::Unsigned(value) => {
                out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
            }
            Number::Negative(value) => {
                out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
            }
            Number::Float(value) => {
                debug_assert!(value.is_finite(), "the reader refuses infinite numbers");
                // `Debug` writes the shortest form that is read back equal and always has a point
                // or an exponent; `Display` has neither for 5.0.
                write!(out, "{value:?}").expect("a vector accepts all writes");
            }
        }
    }

    /// Above 2^53 doubles skip integers. The reader returns integers from there on as integers.
    pub(super) const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

    /// The same number as an integer, if it is exactly one.
    pub fn to_integer(self) -> Option<Number> {
        match self {
            Number::Float(value) if value.fract() != 0.0 || value.abs() > Self::EXACT_MAX => None,
            Number::Float(value) if value < 0.0 => Some(Number::Negative(value as i64)),
            Number::Float(value) => Some(Number::Unsigned(value as u64)),
            integer => Some(integer),
        }
    }

    /// Whether an integer fits in 64 bits with a sign, as most clients read it.
    pub fn fits_signed(self) -> bool {
        match self {
            Number::Unsigned(value) => i64::try_from(value).is_ok(),
            Number::Negative(_) => true,
            Number::Float(_) => false,
        }
    }

    /// `None` if the double is not finite.
    pub fn from_float(value: f64) -> Option<Number> {
        value.is_finite().then_some(Number::Float(value))
    }

    pub fn from_signed(value: i64) -> Number {
        u64::try_from(value).map_or(Number::Negative(value), Number::Unsigned)
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Number) -> Ordering {
        use Number::{Float, Negative, Unsigned};
        match (*self, *other) {
            (Unsigned(a), Unsigned(b)) => a.cmp(&b),
            (Negative(a), Negative(b)) => a.cmp(&b),
            (Negative(_), Unsigned(_)) => Ordering::Less,
            (Unsigned(_), Negative(_)) => Ordering::Greater,
            (Float(a), Float(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
            (Unsigned(a), Float(b)) => order_with_float(i128::from(a), b),
            (Negative(a), Float(b)) => order_with_float(i128::from(a), b),
            (Float(a), Unsigned(b)) => order_with_float(i128::from(b), a).reverse(),
            (Float(a), Negative(b)) => order_with_float(i128::from(b), a).reverse(),
        }
    }
}

/// Exact: no 64-bit integer is rounded to a double.
fn order_with_float(integer: i128, float: f64) -> Ordering {
    // Casts saturate, and every 64-bit integer is far inside the range of i128.
    let whole = float.trunc() as i128;
    integer.cmp(&whole).then_with(|| {
        0.0_f64
            .partial_cmp(&float.fract())
            .unwrap_or(Ordering::Equal)
    })
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Number) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Number) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number {}

/// Appends a string in quotes. Quotes, backslashes and control characters are escaped, everything
/// else is copied.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut copied = 0;
    while let Some(at) = special_from(bytes, copied) {
        out.extend_from_slice(&bytes[copied..at]);
        match bytes[at] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x09 => out.extend_from_slice(b"\\t"),
            0x0a => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            0x0d => out.extend_from_slice(b"\\r"),
            control => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(control >> 4)]);
                out.push(HEX[usize::from(control & 15)]);
            }
        }
        copied = at + 1;
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}

/// Appends one step to a JSON pointer (RFC 6901).
pub fn push_pointer(pointer: &mut String, step: &str) {
    pointer.push('/');
    if step.contains(['~', '/']) {
        pointer.push_str(&step.replace('~', "~0").replace('/', "~1"));
    } else {
        pointer.push_str(step);
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Value::Number(Number::Unsigned(value))
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Number(u64::try_from(value).map_or(Number::Negative(value), Number::Unsigned))
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::String(value.into())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Value::String(value.into())
    }
}

impl From<Vec<Value>> for Value {
    fn from(value: Vec<Value>) -> Self {
        Value::Array(value)
    }
}

impl From<Object> for Value {
    fn from(value: Object) -> Self {
        Value::Object(value)
    }
}
