//! What the API carries, described as data: JSON Schema files and what is made of them.

pub mod data;
