//! Weir: a control plane for clusters of video streaming servers.

pub mod api;
pub mod http;
pub mod json;
pub mod schema;
