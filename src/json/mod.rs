//! JSON as we write it. Knows text, knows no resource.

pub mod field_type;
pub mod scan;

pub use field_type::FieldType;
