//! JSON as the server sees it: one owned tree, one strict reader, one canonical writer.
//!
//! Promises: what was read is what is written, nothing is stored lossily; two equal values have the same text (sorted keys, no spaces,
//! shortest numbers, minimal escapes), so that text can be compared, hashed and scanned (`scan`) instead of being read again.
//! Leaves to others: what a document means (`schema`), patches (`patch`).

mod field_type;
mod key;
pub mod patch;
pub mod scan;
mod strict;
mod value;

pub use field_type::FieldType;
pub(crate) use key::Key;
pub use patch::merge;
pub(crate) use strict::special_from;
pub use strict::{DEPTH_MAX, ParseError, parse};
pub(crate) use value::text_of;
pub use value::{Number, Object, Value, push_pointer, write_string};

#[cfg(test)]
mod tests;
