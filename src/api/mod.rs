//! What we serve.

pub mod cursor;
pub mod query;
//! What is served, as seen from outside.

pub mod docs;
pub mod openapi;
