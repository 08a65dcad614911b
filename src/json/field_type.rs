//! Type of a field, as far as the text of a query parameter has to be converted to it.

/// Unions, objects, arrays and fields of any type are `Other`: their values are compared as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    Integer,
    /// An integer that is a time in milliseconds.
    Moment,
    Number,
    Boolean,
    String,
    Other,
}
