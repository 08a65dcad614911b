//! From bytes to requests and from responses to bytes. Knows HTTP, knows no stream.

pub mod error;
