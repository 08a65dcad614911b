//! What we serve.

pub mod cursor;
pub mod query;
