//! What a schema says about the values of one field, as far as the text of a query parameter has to be converted to it.

/// Unions, objects, arrays and fields of any type are `Other`: a text is then compared with whatever is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    Integer,
    Number,
    Boolean,
    String,
    Other,
}
