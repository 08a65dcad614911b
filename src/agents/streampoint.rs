//! The streamer to which an agent sends its video, and the key that an agent proves to know.

use std::borrow::Cow;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use crate::json::scan;
use crate::state::State;
use crate::state::record::EntityRecord;

/// The key of an agent; empty if it has none.
pub fn secret_of(agent: &EntityRecord) -> Cow<'_, str> {
    scan::member(&agent.config, "key")
        .and_then(scan::string)
        .unwrap_or_default()
}

/// The digest under which a key is compared.
pub fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// The streamer to which an agent must send its video.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct AssignedStreampoint {
    /// The streamer in the layout of the agent.
    pub host: Option<Box<str>>,
    /// `None` if that streamer accepts no agents.
    pub url: Option<String>,
}

/// The public URL of the streamer of an agent, with the key that admits agents.
pub fn streampoint(state: &State, id: &str) -> AssignedStreampoint {
    let Some(host) = state
        .agent_layout(id)
        .and_then(|layout| layout.ingest.as_ref())
    else {
        return AssignedStreampoint::default();
    };
    AssignedStreampoint {
        host: Some(Box::from(host.as_str())),
        url: streampoint_url(state, host),
    }
}

/// Whether a streamer has a key that admits agents.
pub fn accepts_agents(state: &State, host: &str) -> bool {
    streampoint_url(state, host).is_some()
}

fn streampoint_url(state: &State, host: &str) -> Option<String> {
    let config = state.streamer(host)?.config.as_str();
    let rproxy = scan::member(config, "config").and_then(|config| scan::member(config, "rproxy"));
    let key = rproxy
        .and_then(|rproxy| scan::member(rproxy, "streampoint_key"))
        .and_then(scan::string)
        .filter(|key| !key.is_empty())?;
    let given = ["public_payload_url", "api_url"]
        .into_iter()
        .filter_map(|field| scan::member(config, field).and_then(scan::string))
        .find_map(|url| base_of(&url));
    let base = given.unwrap_or_else(|| format!("http://{host}"));
    let key = utf8_percent_encode(&key, NON_ALPHANUMERIC);
    let url = format!("{base}/?streampoint_key={key}");
    // The URL is sent in a header field, so all characters must be visible ASCII.
    url.bytes()
        .all(|byte| byte.is_ascii_graphic())
        .then_some(url)
}

/// Scheme and authority of a URL, without credentials.
fn base_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let scheme = if scheme.eq_ignore_ascii_case("https") {
        "https"
    } else {
        "http"
    };
    (!authority.is_empty()).then(|| format!("{scheme}://{authority}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streampoint_url_is_http_or_https_without_credentials() {
        for (url, expected) in [
            ("http://h:8080", Some("http://h:8080")),
            ("https://u:p@h/path?q", Some("https://h")),
            ("m4s://h", Some("http://h")),
            ("h:8080", None),
            ("http://", None),
        ] {
            assert_eq!(base_of(url).as_deref(), expected, "{url}");
        }
    }
}
