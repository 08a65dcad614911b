//! Weir: a control plane for clusters of video streaming servers.

pub mod http;
