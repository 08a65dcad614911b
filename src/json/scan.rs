//! Reads canonical JSON text in place, without building a value.
//!
//! The text is written by this crate: valid JSON, no white space, members sorted by the bytes of
//! their names, each name once. The results rely on that (a lookup stops at the first greater
//! name), but safety does not: on any other text every function returns some result or `None`,
//! reads nothing out of bounds, does not panic and does not recurse without bound. Whether
//! untrusted text is JSON is decided by `json::parse`, never here.
//!
//! Containers are skipped 64 bytes at a time with one bit mask each for quotes, escapes, opening
//! and closing brackets, so the cost does not depend on their contents.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::{DEPTH_MAX, Number, write_string};

/// A value as filters and sort orders compare it.
#[derive(Debug, Clone)]
pub enum Scalar<'a> {
    /// Missing, null, and the strings "null" and "undefined".
    Absent,
    Number(Number),
    Text(Cow<'a, str>),
    Bool(bool),
    Array,
    Object,
}

/// Selected members of an object, sorted by name, each name once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    pub name: Box<str>,
    /// Empty selects the whole value.
    pub below: Vec<Projection>,
}

// ---- members and elements ----

/// The raw text of a member of a canonical object.
///
/// Searches for the name in quotes followed by a colon, and counts brackets up to the match. Going
/// from member to member would mispredict a branch or two for each. In canonical text a match is a
/// member's name at some depth: a quote inside a string has a backslash before it, while here the
/// first quote follows a comma or an opening bracket, and the second follows a letter of the name.
#[inline]
pub fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    let bytes = object.as_bytes();
    if bytes.first() != Some(&b'{') {
        return None;
    }
    if name
        .bytes()
        .any(|byte| byte < 0x20 || matches!(byte, b'"' | b'\\'))
    {
        return member_by_walking(object, name);
    }
    let mut depth = Depth::default();
    let mut at = 0;
    loop {
        let quote = at + wide::quoted(&bytes[at..], name.as_bytes())?;
        let value = quote + name.len() + 3;
        let before = bytes.get(quote.wrapping_sub(1));
        if matches!(before, Some(b'{' | b',')) && depth.before(bytes, quote) == 1 {
            return object.get(value..value_end(bytes, value)?);
        }
        at = value;
    }
}

/// For names that are written with escapes.
#[cold]
fn member_by_walking<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    members(object)
        .find(|(written, _)| order_of_name(written.as_bytes(), name) == Ordering::Equal)
        .map(|(_, value)| value)
}

/// Members of an object in the order of the text: the name as written (with escapes, without
/// quotes) and the raw value. Ends at the first byte that is not canonical.
pub fn members(object: &str) -> Members<'_> {
    Members {
        text: object,
        at: if object.starts_with('{') {
            1
        } else {
            object.len()
        },
    }
}

pub struct Members<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, &'a str);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        self.at = bytes.len();
        let (key, value) = name_at(bytes, start)?;
        let end = value_end(bytes, value)?;
        if bytes.get(end) == Some(&b',') {
            self.at = end + 1;
        }
        Some((self.text.get(start + 1..key)?, self.text.get(value..end)?))
    }
}

/// Raw elements of an array in order. Ends at the first byte that is not canonical.
pub fn elements(array: &str) -> Elements<'_> {
    Elements {
        text: array,
        at: if array.starts_with('[') && !array.starts_with("[]") {
            1
        } else {
            array.len()
        },
    }
}

pub struct Elements<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        self.at = bytes.len();
        let end = value_end(bytes, start)?;
        if bytes.get(end) == Some(&b',') {
            self.at = end + 1;
        }
        self.text.get(start..end)
    }
}

/// Calls `each` with every value at the path until it returns true; returns whether it did.
///
/// Arrays on the path are mapped over; with `flatten`, so is an array at the end. A missing member
/// is passed as `Absent`, once per element that lacks it. An empty array passes nothing; its
/// meaning is up to the caller.
pub fn any<'a>(
    text: &'a str,
    path: &[Box<str>],
    flatten: bool,
    each: &mut dyn FnMut(Scalar<'a>) -> bool,
) -> bool {
    any_within(text, path, flatten, DEPTH_MAX, each)
}

fn any_within<'a>(
    text: &'a str,
    path: &[Box<str>],
    flatten: bool,
    depth: usize,
    each: &mut dyn FnMut(Scalar<'a>) -> bool,
) -> bool {
    let mut text = text;
    let mut path = path;
    loop {
        match (text.as_bytes().first(), path) {
            (Some(b'['), _) if flatten || !path.is_empty() => {
                return depth > 0
                    && elements(text)
                        .any(|element| any_within(element, path, flatten, depth - 1, each));
            }
            (_, []) => return each(read(text)),
            (Some(b'{'), [name, rest @ ..]) => {
                let Some(value) = member(text, name) else {
                    return each(Scalar::Absent);
                };
                text = value;
                path = rest;
            }
            _ => return each(Scalar::Absent),
        }
    }
}

/// Writes the selected members of an object in canonical order; a missing member is written as
/// null. Arrays are mapped over; a member of a scalar is null.
pub fn project(text: &str, wanted: &[Projection], out: &mut Vec<u8>) {
    project_within(text, wanted, DEPTH_MAX, out);
}

fn project_within(text: &str, wanted: &[Projection], depth: usize, out: &mut Vec<u8>) {
    match text.as_bytes().first() {
        _ if wanted.is_empty() => out.extend_from_slice(text.as_bytes()),
        Some(b'{') => {
            out.push(b'{');
            let mut members = members(text).peekable();
            for (i, want) in wanted.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_string(out, &want.name);
                out.push(b':');
                while members
                    .next_if(|(name, _)| {
                        order_of_name(name.as_bytes(), &want.name) == Ordering::Less
                    })
                    .is_some()
                {}
                match members.next_if(|(name, _)| {
                    order_of_name(name.as_bytes(), &want.name) == Ordering::Equal
                }) {
                    Some((_, value)) => project_within(value, &want.below, depth, out),
                    None => out.extend_from_slice(b"null"),
                }
            }
            out.push(b'}');
        }
        Some(b'[') if depth > 0 => {
            out.push(b'[');
            for (i, element) in elements(text).enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                project_within(element, wanted, depth - 1, out);
            }
            out.push(b']');
        }
        _ => out.extend_from_slice(b"null"),
    }
}

// ---- values ----

/// The type and content of a raw value.
#[inline]
pub fn read(text: &str) -> Scalar<'_> {
    match text.as_bytes() {
        [b'"', ..] => match string(text) {
            None => Scalar::Absent,
            Some(text) => text_or_absent(text),
        },
        b"true" => Scalar::Bool(true),
        b"false" => Scalar::Bool(false),
        [b'[', ..] => Scalar::Array,
        [b'{', ..] => Scalar::Object,
        _ => number(text).map_or(Scalar::Absent, Scalar::Number),
    }
}

/// The reference API has four forms of an absent value; two of them are strings.
#[inline]
pub fn text_or_absent(text: Cow<'_, str>) -> Scalar<'_> {
    match &*text {
        "null" | "undefined" => Scalar::Absent,
        _ => Scalar::Text(text),
    }
}

/// Content of a raw string, borrowed if nothing in it is escaped.
#[inline]
pub fn string(text: &str) -> Option<Cow<'_, str>> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    unescape(inner)
}

fn unescape(inner: &str) -> Option<Cow<'_, str>> {
    let Some(first) = memchr::memchr(b'\\', inner.as_bytes()) else {
        return Some(Cow::Borrowed(inner));
    };
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    let mut escape = first;
    loop {
        out.push_str(rest.get(..escape)?);
        rest = rest.get(escape + 1..)?;
        let letter = *rest.as_bytes().first()?;
        let mut used = 1;
        out.push(match letter {
            b'"' | b'\\' | b'/' => char::from(letter),
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'u' => {
                let high = hex4(rest.get(1..5)?)?;
                used = 5;
                if let Some(letter) = char::from_u32(high) {
                    letter
                } else {
                    // A pair of surrogates. The writer never writes one.
                    let low = hex4(rest.get(5..)?.strip_prefix("\\u")?.get(..4)?)?;
                    if !(0xd800..0xdc00).contains(&high) || !(0xdc00..0xe000).contains(&low) {
                        return None;
                    }
                    used = 11;
                    char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00))?
                }
            }
            _ => return None,
        });
        rest = rest.get(used..)?;
        let Some(next) = memchr::memchr(b'\\', rest.as_bytes()) else {
            out.push_str(rest);
            return Some(Cow::Owned(out));
        };
        escape = next;
    }
}

fn hex4(text: &str) -> Option<u32> {
    if text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        u32::from_str_radix(text, 16).ok()
    } else {
        None
    }
}

/// A raw number; `None` for other values and for numbers that are not finite.
#[inline]
pub fn number(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value: u64 = 0;
    for &byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return float(text, byte);
        }
        match value
            .checked_mul(10)
            .and_then(|value| value.checked_add(u64::from(digit)))
        {
            Some(next) => value = next,
            None => return float(text, byte),
        }
    }
    if !negative {
        return Some(Number::Unsigned(value));
    }
    match 0_i64.checked_sub_unsigned(value) {
        Some(0) => Some(Number::Float(-0.0)),
        Some(value) => Some(Number::Negative(value)),
        None => float(text, b'0'),
    }
}

#[cold]
fn float(text: &str, stopped_at: u8) -> Option<Number> {
    // `f64::from_str` also accepts "inf" and "nan", which are not JSON.
    if !matches!(stopped_at, b'.' | b'e' | b'E' | b'0'..=b'9') || text.starts_with('.') {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    value.is_finite().then_some(Number::Float(value))
}

// ---- ends of values ----

/// For a member that begins at `at`: offset of the closing quote of its name, and offset of its
/// value.
#[inline]
fn name_at(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let key = string_end(bytes, at + 1)?;
    (bytes.get(key + 1) == Some(&b':')).then_some((key, key + 2))
}

/// Order of a name as written and a name without escapes.
#[inline]
fn order_of_name(written: &[u8], plain: &str) -> Ordering {
    // Names are short: comparing bytes up to the first difference is faster than memcmp. From a
    // backslash on, the written name differs from its content.
    let plain = plain.as_bytes();
    for (i, &byte) in written.iter().enumerate() {
        if byte == b'\\' {
            return order_of_escaped_name(written, plain);
        }
        match plain.get(i) {
            None => return Ordering::Greater,
            Some(&other) if other != byte => return byte.cmp(&other),
            _ => {}
        }
    }
    written.len().cmp(&plain.len())
}

#[cold]
fn order_of_escaped_name(written: &[u8], plain: &[u8]) -> Ordering {
    let meant = std::str::from_utf8(written).ok().and_then(unescape);
    // An invalid name is greater than all others, so a search ends.
    meant.map_or(Ordering::Greater, |meant| meant.as_bytes().cmp(plain))
}

/// Offset after the last byte of the value that begins at `at`.
#[inline]
fn value_end(bytes: &[u8], at: usize) -> Option<usize> {
    match *bytes.get(at)? {
        b'"' => string_end(bytes, at + 1).map(|quote| quote + 1),
        b'{' | b'[' => container_end(bytes, at),
        b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
            let length = bytes[at..]
                .iter()
                .position(|byte| matches!(byte, b',' | b']' | b'}'));
            Some(length.map_or(bytes.len(), |length| at + length))
        }
        _ => None,
    }
}

/// Offset of the closing quote of the string whose first byte is at `at`.
#[inline]
fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += wide::quote_or_escape(bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Finds brackets outside strings, 64 bytes at a time.
#[derive(Default)]
struct Blocks {
    /// All bits set while a string is open.
    inside_string: u64,
    /// Whether the previous block ended in an odd number of backslashes.
    escape_pending: bool,
}

impl Blocks {
    /// Opening and closing brackets outside strings in the block that begins at `at`; `None` at the
    /// end of the text.
    #[inline]
    fn brackets(&mut self, bytes: &[u8], at: usize) -> Option<(u64, u64)> {
        let rest = bytes.get(at..)?;
        let masks = if let Some(block) = rest.first_chunk::<64>() {
            wide::masks(block)
        } else {
            if rest.is_empty() {
                return None;
            }
            let mut block = [b' '; 64];
            block[..rest.len()].copy_from_slice(rest);
            wide::masks(&block)
        };
        let mut quotes = masks.quote;
        if masks.escape != 0 || self.escape_pending {
            quotes &= !escaped(masks.escape, &mut self.escape_pending);
        }
        let inside = prefix_xor(quotes) ^ self.inside_string;
        self.inside_string = 0_u64.wrapping_sub(inside >> 63);
        Some((masks.open & !inside, masks.close & !inside))
    }
}

/// Counts the brackets that are open before an offset. Offsets must ascend, so a text is read once.
#[derive(Default)]
struct Depth {
    blocks: Blocks,
    /// Open brackets before the block that begins at `at`.
    open: usize,
    at: usize,
    /// Brackets of the block that begins at `at`, once it has been read.
    brackets: Option<(u64, u64)>,
}

impl Depth {
    #[inline]
    fn before(&mut self, bytes: &[u8], offset: usize) -> usize {
        loop {
            let brackets = self
                .brackets
                .take()
                .or_else(|| self.blocks.brackets(bytes, self.at));
            let Some((open, close)) = brackets else {
                return 0;
            };
            let within = offset - self.at;
            if within < 64 {
                self.brackets = brackets;
                let below = (1_u64 << within) - 1;
                return (self.open + (open & below).count_ones() as usize)
                    .saturating_sub((close & below).count_ones() as usize);
            }
            self.open = (self.open + open.count_ones() as usize)
                .saturating_sub(close.count_ones() as usize);
            self.at += 64;
        }
    }
}

/// Offset after the array or object that begins at `start`.
fn container_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    let mut depth: usize = 0;
    let mut blocks = Blocks::default();
    loop {
        let (open, mut close) = blocks.brackets(bytes, at)?;
        let closes = close.count_ones() as usize;
        if closes >= depth {
            // The end must be in this block, at the closing bracket number `closed` where as many
            // have been opened.
            let mut closed = 0;
            while close != 0 {
                let bit = close & close.wrapping_neg();
                closed += 1;
                if depth + (open & (bit - 1)).count_ones() as usize == closed {
                    return Some(at + bit.trailing_zeros() as usize + 1);
                }
                close ^= bit;
            }
        }
        depth = (depth + open.count_ones() as usize).checked_sub(closes)?;
        at += 64;
    }
}

/// Bits of bytes that follow an active backslash.
#[cold]
fn escaped(backslashes: u64, pending: &mut bool) -> u64 {
    let mut result = 0;
    let mut active = *pending;
    for i in 0..64 {
        if active {
            result |= 1 << i;
            active = false;
        } else {
            active = backslashes & (1 << i) != 0;
        }
    }
    *pending = active;
    result
}

/// Each bit becomes the parity of itself and all lower bits: turns quotes into the spans between
/// them.
#[inline]
fn prefix_xor(mut bits: u64) -> u64 {
    bits ^= bits << 1;
    bits ^= bits << 2;
    bits ^= bits << 4;
    bits ^= bits << 8;
    bits ^= bits << 16;
    bits ^ (bits << 32)
}

/// Like `wide::quoted`, one byte at a time from `at`.
#[cfg(target_arch = "x86_64")]
#[inline]
fn quoted_slowly(text: &[u8], at: usize, name: &[u8]) -> Option<usize> {
    let length = name.len() + 3;
    let rest = text.get(at..)?;
    let found = rest.windows(length).position(|window| {
        window[0] == b'"'
            && window[length - 2] == b'"'
            && window[length - 1] == b':'
            && &window[1..length - 2] == name
    });
    found.map(|found| at + found)
}

struct BlockMasks {
    quote: u64,
    escape: u64,
    open: u64,
    close: u64,
}

/// Reads many bytes at a time with SSE2.
#[cfg(target_arch = "x86_64")]
mod wide {
    // SSE2 is part of x86-64, but calls of such functions are unsafe. Loads go through integers, so
    // no pointer is involved.
    #![allow(unsafe_code)]

    use super::BlockMasks;
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
    };

    #[inline]
    pub(super) fn quote_or_escape(bytes: &[u8]) -> Option<usize> {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe { quote_or_escape_sse2(bytes) }
    }

    #[inline]
    pub(super) fn quoted(text: &[u8], name: &[u8]) -> Option<usize> {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe { quoted_sse2(text, name) }
    }

    #[inline]
    pub(super) fn masks(block: &[u8; 64]) -> BlockMasks {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe { masks_sse2(block) }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn load(bytes: &[u8; 16]) -> __m128i {
        let both = u128::from_le_bytes(*bytes);
        _mm_set_epi64x((both >> 64) as i64, both as i64)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn equal(lane: __m128i, byte: u8) -> u64 {
        let mask = _mm_movemask_epi8(_mm_cmpeq_epi8(lane, _mm_set1_epi8(byte.cast_signed())));
        u64::from(mask.cast_unsigned())
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn quote_or_escape_sse2(bytes: &[u8]) -> Option<usize> {
        let mut rest = bytes;
        let mut at = 0;
        while let Some((chunk, tail)) = rest.split_first_chunk::<16>() {
            let lane = load(chunk);
            let mask = equal(lane, b'"') | equal(lane, b'\\');
            if mask != 0 {
                return Some(at + mask.trailing_zeros() as usize);
            }
            at += 16;
            rest = tail;
        }
        rest.iter()
            .position(|byte| matches!(byte, b'"' | b'\\'))
            .map(|found| at + found)
    }

    /// Offset of the name in quotes followed by a colon.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn quoted_sse2(text: &[u8], name: &[u8]) -> Option<usize> {
        // Compares the three bytes around the name at 16 offsets at once, which excludes names of
        // another length.
        let behind = name.len() + 1;
        let mut at = 0;
        while let (Some(first), Some(second), Some(third)) = (
            text.get(at..).and_then(<[u8]>::first_chunk::<16>),
            text.get(at + behind..).and_then(<[u8]>::first_chunk::<16>),
            text.get(at + behind + 1..)
                .and_then(<[u8]>::first_chunk::<16>),
        ) {
            let mut mask =
                equal(load(first), b'"') & equal(load(second), b'"') & equal(load(third), b':');
            while mask != 0 {
                let offset = at + mask.trailing_zeros() as usize;
                if &text[offset + 1..offset + behind] == name {
                    return Some(offset);
                }
                mask &= mask - 1;
            }
            at += 16;
        }
        super::quoted_slowly(text, at, name)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn masks_sse2(block: &[u8; 64]) -> BlockMasks {
        let mut masks = BlockMasks {
            quote: 0,
            escape: 0,
            open: 0,
            close: 0,
        };
        let (chunks, _) = block.as_chunks::<16>();
        for (i, chunk) in chunks.iter().enumerate() {
            let lane = load(chunk);
            // Square and curly brackets differ in one bit.
            let folded = _mm_or_si128(lane, _mm_set1_epi8(0x20));
            masks.quote |= equal(lane, b'"') << (16 * i);
            masks.escape |= equal(lane, b'\\') << (16 * i);
            masks.open |= equal(folded, b'{') << (16 * i);
            masks.close |= equal(folded, b'}') << (16 * i);
        }
        masks
    }
}

/// Reads eight bytes at a time, on any machine.
#[cfg(any(not(target_arch = "x86_64"), test))]
#[cfg_attr(target_arch = "x86_64", allow(dead_code))]
mod narrow {
    use super::BlockMasks;

    const ONES: u64 = 0x0101_0101_0101_0101;
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;

    /// One bit per byte of the word that equals `byte`, without wrong bits above a right one.
    #[inline]
    fn equal(word: u64, byte: u8) -> u64 {
        let zero_where_equal = word ^ (ONES * u64::from(byte));
        let high = !(((zero_where_equal & LOW) + LOW) | zero_where_equal | LOW);
        // Gathers the eight high bits into the lowest byte.
        (high >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
    }

    #[inline]
    pub(super) fn quote_or_escape(bytes: &[u8]) -> Option<usize> {
        let mut rest = bytes;
        let mut at = 0;
        while let Some((chunk, tail)) = rest.split_first_chunk::<8>() {
            let word = u64::from_le_bytes(*chunk);
            let mask = equal(word, b'"') | equal(word, b'\\');
            if mask != 0 {
                return Some(at + mask.trailing_zeros() as usize);
            }
            at += 8;
            rest = tail;
        }
        rest.iter()
            .position(|byte| matches!(byte, b'"' | b'\\'))
            .map(|found| at + found)
    }

    #[inline]
    pub(super) fn quoted(text: &[u8], name: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            at += memchr::memmem::find(text.get(at..)?, name)?;
            let colon = text.get(at + name.len()..)?.starts_with(b"\":");
            if colon && at > 0 && text[at - 1] == b'"' {
                return Some(at - 1);
            }
            at += name.len().max(1);
        }
    }

    #[inline]
    pub(super) fn masks(block: &[u8; 64]) -> BlockMasks {
        let mut masks = BlockMasks {
            quote: 0,
            escape: 0,
            open: 0,
            close: 0,
        };
        let (chunks, _) = block.as_chunks::<8>();
        for (i, chunk) in chunks.iter().enumerate() {
            let word = u64::from_le_bytes(*chunk);
            let folded = word | (ONES * 0x20);
            masks.quote |= equal(word, b'"') << (8 * i);
            masks.escape |= equal(word, b'\\') << (8 * i);
            masks.open |= equal(folded, b'{') << (8 * i);
            masks.close |= equal(folded, b'}') << (8 * i);
        }
        masks
    }
}

#[cfg(not(target_arch = "x86_64"))]
use narrow as wide;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value, json};

    /// Random numbers from a seed.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn below(&mut self, bound: usize) -> usize {
            (self.next() % bound as u64) as usize
        }

        fn text(&mut self) -> String {
            const PIECES: [&str; 16] = [
                "a", "b", "name", "\"", "\\", "\\\\\"", "\n", "\u{1}", "{", "}", "[", "]", ",",
                ":", "é", "😀",
            ];
            let length = match self.below(8) {
                0 => self.below(70),
                _ => self.below(5),
            };
            (0..length)
                .map(|_| PIECES[self.below(PIECES.len())])
                .collect()
        }

        fn value(&mut self, depth: usize) -> Value {
            match self.below(if depth == 0 { 7 } else { 10 }) {
                0 => Value::Null,
                1 => json!(self.below(2) == 0),
                2 => json!(self.next() >> self.below(64)),
                3 => json!(-((self.next() >> (1 + self.below(62))) as i64)),
                4 => json!(self.next() as f64 / 1e7 - 1e11),
                5 | 6 => json!(self.text()),
                7 => (0..self.below(6)).map(|_| self.value(depth - 1)).collect(),
                _ => Value::Object(
                    (0..self.below(9))
                        .map(|_| (self.text(), self.value(depth - 1)))
                        .collect::<Map<_, _>>(),
                ),
            }
        }
    }

    fn agrees(text: &str, value: &Value, random: &mut Random) {
        match value {
            Value::Null => assert!(matches!(read(text), Scalar::Absent)),
            Value::Bool(value) => {
                assert!(matches!(read(text), Scalar::Bool(read) if read == *value));
            }
            Value::String(value) => match read(text) {
                Scalar::Text(text) => assert_eq!(text, value.as_str()),
                _ => panic!("{text} is a string"),
            },
            Value::Number(value) => match read(text) {
                Scalar::Number(Number::Unsigned(number)) => {
                    assert_eq!(Some(number), value.as_u64());
                }
                Scalar::Number(Number::Negative(number)) => {
                    assert_eq!(Some(number), value.as_i64());
                }
                Scalar::Number(Number::Float(number)) => assert_eq!(Some(number), value.as_f64()),
                _ => panic!("{text} is a number"),
            },
            Value::Array(values) => {
                let read: Vec<&str> = elements(text).collect();
                assert_eq!(read.len(), values.len(), "{text}");
                for (text, value) in read.iter().zip(values) {
                    agrees(text, value, random);
                }
            }
            Value::Object(values) => {
                assert_eq!(members(text).count(), values.len(), "{text}");
                for ((name, text), (expected, value)) in members(text).zip(values) {
                    assert_eq!(unescape(name).as_deref(), Some(&**expected));
                    agrees(text, value, random);
                }
                for (name, value) in values {
                    assert_eq!(
                        member(text, name),
                        Some(&*value.to_string()),
                        "{name} in {text}"
                    );
                }
                let other = random.text();
                assert_eq!(
                    member(text, &other).map(str::to_owned),
                    values.get(&other).map(Value::to_string)
                );
            }
        }
    }

    #[test]
    fn scanner_finds_what_a_parser_reads() {
        for seed in 0..3000 {
            let mut random = Random(seed);
            let value = random.value(5);
            let text = value.to_string();
            agrees(&text, &value, &mut random);
        }
    }

    #[test]
    fn long_containers_are_skipped() {
        for seed in 0..400 {
            let mut random = Random(seed);
            let noise: Vec<Value> = (0..40).map(|_| random.value(3)).collect();
            let text = json!({"a": noise, "b": {"c": 7}}).to_string();
            assert_eq!(member(&text, "b"), Some(r#"{"c":7}"#), "seed {seed}");
        }
    }

    #[test]
    fn text_that_is_not_canonical_does_not_panic() {
        for seed in 0..6000 {
            let mut random = Random(seed);
            let mut bytes = random.value(4).to_string().into_bytes();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len());
                match random.below(4) {
                    0 => bytes.truncate(at + 1),
                    1 => bytes[at] = b"\"\\{}[],:0\xff"[random.below(10)],
                    2 => bytes[at] ^= 1 << random.below(8),
                    _ => bytes.insert(at, b"\"\\{}[],:0n"[random.below(10)]),
                }
            }
            let text = String::from_utf8_lossy(&bytes);
            let path: Vec<Box<str>> = vec!["a".into(), "b".into()];
            member(&text, "name");
            members(&text).for_each(drop);
            elements(&text).for_each(drop);
            any(&text, &path, true, &mut |_| false);
            let wanted = [Projection {
                name: "a".into(),
                below: vec![Projection {
                    name: "b".into(),
                    below: Vec::new(),
                }],
            }];
            project(&text, &wanted, &mut Vec::new());
            read(&text);
        }
        // Deeper than the stack allows with one frame per bracket.
        let deep = "[".repeat(1_000_000);
        assert!(!any(&deep, &[], true, &mut |_| true));
        let deep = "[".repeat(1_000) + &"]".repeat(1_000);
        assert!(!any(&deep, &[], true, &mut |_| true));
        project(
            &deep,
            &[Projection {
                name: "a".into(),
                below: Vec::new(),
            }],
            &mut Vec::new(),
        );
    }

    #[test]
    fn wide_and_narrow_search_agree() {
        let mut random = Random(1);
        for _ in 0..2000 {
            let mut block = [0; 64];
            for byte in &mut block {
                *byte = b"\"\\{}[]aZ\x00\xff\xa2\xdc\x22\x23\x7a\x5a"[random.below(16)];
            }
            let (a, b) = (wide::masks(&block), narrow::masks(&block));
            assert_eq!(
                (a.quote, a.escape, a.open, a.close),
                (b.quote, b.escape, b.open, b.close)
            );
            let part = &block[random.below(64)..];
            let expected = part.iter().position(|byte| matches!(byte, b'"' | b'\\'));
            assert_eq!(wide::quote_or_escape(part), expected);
            assert_eq!(narrow::quote_or_escape(part), expected);
        }
    }

    #[test]
    fn numbers_are_ordered_exactly() {
        let ascending = [
            "-1e300",
            "-9223372036854775809",
            "-9223372036854775808",
            "-9223372036854775807",
            "-1.5",
            "-1",
            "-0.5",
            "0",
            "5e-324",
            "1",
            "1.5",
            "9007199254740992",
            "9007199254740993",
            "18446744073709551615",
            "18446744073709551616.0",
            "1e300",
        ];
        let numbers: Vec<Number> = ascending
            .iter()
            .map(|text| number(text).expect("these are numbers"))
            .collect();
        for (i, a) in numbers.iter().enumerate() {
            for (j, b) in numbers.iter().enumerate() {
                // The nearest float of -2^63 - 1 is -2^63.
                if (i, j) == (1, 2) || (i, j) == (2, 1) {
                    assert_eq!(a.cmp(b), Ordering::Equal);
                } else {
                    assert_eq!(a.cmp(b), i.cmp(&j), "{a:?} {b:?}");
                }
            }
        }
        assert_eq!(number("-0"), number("0.0"));
        for text in [
            "", "-", "+1", "nan", "inf", "-inf", "1e400", "1x", "0x1", " 1", "1_0",
        ] {
            assert!(number(text).is_none(), "{text}");
        }
    }

    #[test]
    fn projection_maps_arrays_and_fills_null() {
        let text = r#"{"a":{"x":1,"y":2},"list":[{"url":"u","w":1},{},3],"z":"q"}"#;
        let leaf = |name: &str| Projection {
            name: name.into(),
            below: Vec::new(),
        };
        let wanted = [
            Projection {
                name: "a".into(),
                below: vec![leaf("b"), leaf("y")],
            },
            Projection {
                name: "list".into(),
                below: vec![leaf("url")],
            },
            leaf("nope"),
            Projection {
                name: "z".into(),
                below: vec![leaf("below")],
            },
        ];
        let mut out = Vec::new();
        project(text, &wanted, &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            r#"{"a":{"b":null,"y":2},"list":[{"url":"u"},{"url":null},null],"nope":null,"z":null}"#
        );
    }
}
