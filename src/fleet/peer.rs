//! What a call to a streamer's own API looks like: where it goes and how this server proves who it is.
//!
//! A streamer is called at its `api_url`, or at its hostname if it has none, with its cluster key, as streamers call each other; a user in
//! the URL replaces the key. What comes back, and whether the address may be called at all, is `outbound`'s business.

use std::time::Instant;

use sha1::{Digest as _, Sha1};

use crate::json::scan;
use crate::outbound::{CallMethod, OutboundCall, TargetUrl};
use crate::state::record::ArchivedStreamer;

/// `Authorization` by the key of a node, good for the moment it was made.
pub fn cluster_authorization(cluster_key: &str, now_seconds: u64) -> String {
    let hash = Sha1::digest(format!("{now_seconds}:{cluster_key}"));
    let mut value = format!("Cluster {now_seconds}:");
    for byte in hash {
        value.push_str(&format!("{byte:02x}"));
    }
    value
}

/// The call of `GET api_url` + `path`; nothing if the node has no address that could be called.
pub fn get(
    streamer: &ArchivedStreamer,
    path: &str,
    now_seconds: u64,
    deadline: Instant,
    response_bytes_max: usize,
) -> Option<OutboundCall> {
    let api_url = match scan::member(&streamer.config, "api_url") {
        Some(url) => scan::string(url)?,
        None => format!("http://{}", streamer.hostname.as_str()).into(),
    };
    let url = format!("{}{path}", api_url.trim_end_matches('/'));
    let mut headers = Vec::new();
    if !streamer.cluster_key.is_empty() && !api_url.contains('@') {
        let key = cluster_authorization(&streamer.cluster_key, now_seconds);
        headers.push(("authorization", key));
    }
    Some(OutboundCall {
        method: CallMethod::Get,
        target: TargetUrl::parse(&url).ok()?,
        headers,
        body: Vec::new(),
        deadline,
        response_bytes_max,
    })
}

#[cfg(test)]
mod tests {
    use super::cluster_authorization;

    #[test]
    fn a_node_is_shown_its_own_key_with_a_time() {
        assert_eq!(
            cluster_authorization("xS6i6Q3DCc5nEvnu", 1_700_000_000),
            "Cluster 1700000000:28665cd1597a4cdd90d896012fef330bf5357bbe"
        );
    }
}
