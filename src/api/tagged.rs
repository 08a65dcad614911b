//! The form of the body in an entity tag: the same tag means the same bytes.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::http::Response;
use crate::state::tag::EntityTag;

/// Part of every tag: another version of the program may render the same record differently.
const RENDERING: u64 = fnv(env!("CARGO_PKG_VERSION").as_bytes());

/// What the body of an answer was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodySource {
    /// The stored record alone.
    Record,
    /// Also facts of the moment, or masks for this caller.
    Moment,
}

impl BodySource {
    pub fn of_moment(is_of_moment: bool) -> Self {
        if is_of_moment {
            Self::Moment
        } else {
            Self::Record
        }
    }

    pub fn form(self, body: &[u8]) -> u64 {
        match self {
            Self::Record => RENDERING,
            Self::Moment => xxh3_64_with_seed(body, RENDERING),
        }
    }
}

/// The answer with one entity.
pub fn tagged(tag: EntityTag, source: BodySource, body: Vec<u8>) -> Response {
    let text = tag.text(source.form(&body));
    Response::json(200, body).header("ETag", text)
}

/// The hash FNV-1a, which the compiler can compute.
const fn fnv(bytes: &[u8]) -> u64 {
    let mut hash: u32 = 0x811c_9dc5;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    hash as u64
}
