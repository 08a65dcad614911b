//! The streams that an event is about, by the digests of their names.

use sha2::{Digest as _, Sha256};

use crate::json::scan;

/// A digest of a stream's name. It is stored, so it must stay the same. Cryptographic: no name can
/// be made up that has the digest of another one.
pub fn stream_digest(name: &str) -> u64 {
    let digest: [u8; 32] = Sha256::digest(name).into();
    let (first, _) = digest.split_first_chunk().expect("a digest of 32 bytes");
    u64::from_le_bytes(*first)
}

/// The digests of the streams that the text of an event names.
pub fn streams_of_text(event: &str) -> Vec<u64> {
    let text = |object, name| scan::member(object, name).and_then(scan::string);
    let mut digests = Vec::new();
    if text(event, "entity_type").as_deref() == Some("stream") {
        digests.extend(text(event, "entity_id").map(|name| stream_digest(&name)));
    }
    let relayouts = scan::member(event, "relayouts").unwrap_or("[]");
    let names = scan::elements(relayouts).filter_map(|relayout| text(relayout, "name"));
    digests.extend(names.map(|name| stream_digest(&name)));
    digests.sort_unstable();
    digests.dedup();
    digests
}
