//! Calls to a streamer's own API: their URL and credentials.
//!
//! A streamer is called at its `api_url`, or at its hostname if it has none, with its cluster key,
//! as streamers call each other; a user in the URL replaces the key. `outbound` makes the call and
//! decides whether the address may be called.

use std::borrow::Cow;
use std::time::Instant;

use sha1::{Digest as _, Sha1};

use crate::json::scan;
use crate::outbound::{OutboundCall, TargetUrl};
use crate::state::record::ArchivedStreamer;

/// The `Authorization` value made from the key of a node and the time.
fn cluster_authorization(cluster_key: &str, now_seconds: u64) -> String {
    let hash = Sha1::digest(format!("{now_seconds}:{cluster_key}"));
    let mut value = format!("Cluster {now_seconds}:");
    for byte in hash {
        value.push_str(&format!("{byte:02x}"));
    }
    value
}

/// The URL at which a streamer is called.
fn url_of(streamer: &ArchivedStreamer) -> Option<Cow<'_, str>> {
    match scan::member(&streamer.config, "api_url") {
        Some(url) => scan::string(url),
        None => Some(format!("http://{}", streamer.hostname.as_str()).into()),
    }
}

/// Whether calls to `url` are made with the cluster key: a user in the URL replaces it.
fn sends_key(url: &str) -> bool {
    !url.contains('@')
}

/// Whether requests to a streamer are the same before and after a change of it.
pub fn is_same_peer(before: &ArchivedStreamer, now: &ArchivedStreamer) -> bool {
    before.hostname == now.hostname
        && before.cluster_key == now.cluster_key
        && url_of(before) == url_of(now)
}

/// Where the cluster key of a streamer is sent; `None` if it is not sent.
pub fn key_destination(streamer: &ArchivedStreamer) -> Option<Cow<'_, str>> {
    url_of(streamer).filter(|url| sends_key(url))
}

/// The call `GET api_url` + `path`, or `None` if the URL of the node is not valid.
pub fn get(
    streamer: &ArchivedStreamer,
    path: &str,
    now_seconds: u64,
    deadline: Instant,
    response_bytes_max: usize,
) -> Option<OutboundCall> {
    let PeerRequest { target, headers } = request(streamer, path, now_seconds)?;
    Some(OutboundCall {
        target,
        headers,
        deadline,
        response_bytes_max,
    })
}

/// A request to a streamer.
pub struct PeerRequest {
    pub target: TargetUrl,
    pub headers: Vec<(&'static str, String)>,
}

impl PeerRequest {
    /// Whether it is signed with the cluster key of the streamer.
    pub fn has_key(&self) -> bool {
        !self.headers.is_empty()
    }
}

/// The request of `api_url` + `path`, or `None` if the URL of the node is not valid.
pub fn request(streamer: &ArchivedStreamer, path: &str, now_seconds: u64) -> Option<PeerRequest> {
    let api_url = url_of(streamer)?;
    let url = format!("{}{path}", api_url.trim_end_matches('/'));
    let mut headers = Vec::new();
    if !streamer.cluster_key.is_empty() && sends_key(&api_url) {
        let key = cluster_authorization(&streamer.cluster_key, now_seconds);
        headers.push(("authorization", key));
    }
    let target = TargetUrl::parse(&url).ok()?;
    Some(PeerRequest { target, headers })
}

#[cfg(test)]
mod tests {
    use super::cluster_authorization;

    #[test]
    fn cluster_authorization_matches_the_reference() {
        assert_eq!(
            cluster_authorization("xS6i6Q3DCc5nEvnu", 1_700_000_000),
            "Cluster 1700000000:28665cd1597a4cdd90d896012fef330bf5357bbe"
        );
    }
}
