//! JSON: one owned value, one language of accepted text, one canonical writer.
//!
//! Values are stored without loss: a value that is written and read back is the same value. Two
//! equal values have the same text (sorted keys, no spaces, shortest numbers, minimal escapes), so
//! text can be compared, hashed and scanned (`scan`) instead of being read again.
//!
//! `parse` reads larger bodies through the tape of simd-json (`tape`). The strict reader (`strict`)
//! defines the accepted text and explains every refusal. Large answers of which little is kept are
//! read on the tape itself (`in_place`). Texts that are kept by the million are packed (`packed`).
//! Merge patches are in `patch`; the meaning of a document is up to `schema`.

mod field_type;
mod in_place;
mod key;
mod packed;
pub mod patch;
pub mod scan;
mod strict;
mod tape;
mod value;

pub use field_type::FieldType;
pub use in_place::{MemberRefs, ValueRef, ValueShape, read_in_place};
pub(crate) use key::Key;
pub use packed::PackedText;
pub(crate) use strict::special_from;
pub use strict::{DEPTH_MAX, ParseError};
pub(crate) use value::text_of;
pub use value::{Number, Object, Value, push_pointer, write_string};

/// Shorter bodies, such as messages of agents and small patches, are read by the strict reader
/// alone.
///
/// The time of the tape divided by that of the strict reader (`weir-bench --bin json`) is 1.07 for
/// 200 bytes, 1.10 for 600 bytes and 1.21 for 2 KB of configuration, 1.09 to 1.28 for reports of
/// 2 KB to 10 MB, 0.6 for floats and 0.4 for Cyrillic text. Up to half of it is spent in simd-json,
/// the rest in building the value. serde_json takes 1.5 to 2.5 times as long as the strict reader.
const TAPE_BYTES_MIN: usize = 512;

/// Reads one JSON text that fills the whole body.
pub fn parse(body: &[u8]) -> Result<Value, ParseError> {
    if body.len() >= TAPE_BYTES_MIN
        && let Some(value) = tape::read(body)
    {
        return Ok(value);
    }
    strict::read(body)
}

/// The two readers one by one, to compare them.
#[cfg(any(test, feature = "testing"))]
pub mod readers {
    use super::{ParseError, Value, strict, tape};

    pub fn strict(body: &[u8]) -> Result<Value, ParseError> {
        strict::read(body)
    }

    pub fn tape(body: &[u8]) -> Option<Value> {
        tape::read(body)
    }
}

#[cfg(test)]
mod tests;
