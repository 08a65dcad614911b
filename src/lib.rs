//! Weir: a control plane for clusters of video streaming servers.

pub mod api;
pub mod http;
pub mod json;
pub mod schema;
pub mod cli;
pub mod config;
pub mod dist;
pub mod duration;
pub mod http;
pub mod import;
pub mod limits;
pub mod rt;
