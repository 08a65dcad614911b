//! Keys that other entities are looked up by, checked once, on entry.
//!
//! A name that is accepted here can be a path, an item of a comma list and a log line without
//! further checks. What a *reference* to another entity may look like (an agent's URL, a DVR's
//! name) is described by the schema.

use std::fmt;
use std::sync::Arc;

use crate::error::{self, ApiError};

/// Longest stream name, bytes of UTF-8. Far above what operators use, far below redb's key limit
/// and a path's.
const STREAM_NAME_BYTES_MAX: usize = 512;
/// Longest hostname, bytes; the limit of DNS.
const HOSTNAME_BYTES_MAX: usize = 253;

/// Names of operations where the key of an entity could be: `PUT /streams/batch` is the batch.
/// Every path of an operation that has one is here, and no entity has such a key.
pub const RESERVED_KEYS: [&str; 4] = [
    "batch",
    "batch_by_filter",
    "layouts",
    "preview_layout_change",
];

/// Names of operations where the hostname of a streamer could be. No streamer has such a hostname.
pub const RESERVED_HOSTNAMES: [&str; 1] = ["histories"];

/// Names of operations behind the name of a stream, where a longer name could end. The same holds.
pub const RESERVED_TAILS: [&str; 4] = [
    "layout",
    "layout/explain",
    "layouts",
    "preview_layout_change",
];

/// Unique across the cluster; also the sharding key. Case-sensitive. May hold slashes:
/// `sports/hd/1`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName(Arc<str>);

/// Key of a streamer; the name it polls under. Case-sensitive.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(Arc<str>);

impl StreamName {
    /// Refuses names that a path or a list could not hold: empty names and segments, `.` and `..`,
    /// control characters, commas, leading or trailing white space, and a last segment that is an
    /// operation.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        Self::check(text)?;
        Ok(Self(Arc::from(text)))
    }

    /// Why a text is refused, without making a name of it.
    pub fn check(text: &str) -> Result<(), &'static str> {
        if text.is_empty() {
            return Err("must not be empty");
        }
        if text.len() > STREAM_NAME_BYTES_MAX {
            return Err("must have at most 512 bytes");
        }
        if text.chars().any(char::is_control) {
            return Err("must not contain control characters");
        }
        if text.contains(',') {
            return Err("must not contain a comma: lists of names are separated by commas");
        }
        if text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace) {
            return Err("must not begin or end with white space");
        }
        if text
            .split('/')
            .any(|segment| matches!(segment, "" | "." | ".."))
        {
            return Err("must not have a part between slashes that is empty, \".\" or \"..\"");
        }
        let ends_in = |tail: &&str| {
            let before = text.strip_suffix(*tail);
            before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
        };
        if RESERVED_KEYS.iter().chain(&RESERVED_TAILS).any(ends_in) {
            return Err(
                "must not end in the name of an operation: batch, batch_by_filter, layout, \
                 layout/explain, layouts or preview_layout_change",
            );
        }
        Ok(())
    }

    /// A name that was checked when it was first stored.
    pub fn trusted(text: &str) -> Self {
        Self(Arc::from(text))
    }

    pub fn shard(&self) -> usize {
        shard_of(&self.0)
    }
}

impl Hostname {
    /// Letters, digits, `.`, `-`, `_` and `:`; at most 253 bytes.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() || text.len() > HOSTNAME_BYTES_MAX {
            return Err("must have 1 to 253 bytes");
        }
        if !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'))
        {
            return Err("must consist of letters, digits and . - _ :");
        }
        let mut reserved = RESERVED_KEYS.iter().chain(&RESERVED_HOSTNAMES);
        if matches!(text, "." | ".." | "layout") || reserved.any(|it| *it == text) {
            return Err("is reserved: it names an operation");
        }
        Ok(Self(Arc::from(text)))
    }

    /// A name that was checked when it was first stored.
    pub fn trusted(text: &str) -> Self {
        Self(Arc::from(text))
    }
}

/// Shard of a stream name. Part of the format on disk: never change it.
#[inline]
pub fn shard_of(name: &str) -> usize {
    (xxhash_rust::xxh3::xxh3_64(name.as_bytes()) >> 60) as usize
}

/// The error for a path segment that is not a stream name.
pub fn bad_stream_name(why: &'static str) -> ApiError {
    error::WRONG_FORMAT.about_parameter("name", why)
}

/// The error for a path segment that is not a hostname.
pub fn bad_hostname(why: &'static str) -> ApiError {
    error::WRONG_FORMAT.about_parameter("hostname", why)
}

macro_rules! text_newtype {
    ($name:ident) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl std::ops::Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}
text_newtype!(StreamName);
text_newtype!(Hostname);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_names_unfit_for_a_path_or_list_are_refused() {
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            ".",
            "a/../b",
            "a,b",
            " a",
            "a ",
            "a\nb",
            "a\u{0}",
            "x/layouts",
            "x/layout/explain",
            "layout/explain",
            "batch",
            "x/batch",
            &"n".repeat(513),
        ] {
            assert!(StreamName::parse(bad).is_err(), "{bad:?} was accepted");
        }
        for good in [
            "a",
            "a/b",
            "Первый канал",
            "A b",
            "a..b",
            "...",
            "layouts/a",
            "layout/explain/a",
            "x/explain",
            "my-layouts",
            "xlayout/explain",
            "a%2Fb",
            "1+1=2",
            &"n".repeat(512),
        ] {
            assert!(StreamName::parse(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn hostnames_allow_what_dns_and_ports_need() {
        for bad in ["", "a b", "a/b", "é", "..", "batch", &"h".repeat(254)] {
            assert!(Hostname::parse(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["s1", "s1.example.com", "10.0.0.1:8080", "::1", "a_b-c"] {
            assert!(Hostname::parse(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn shard_of_a_name_is_part_of_the_disk_format() {
        assert_eq!(
            [shard_of("a"), shard_of("sports/hd/1"), shard_of("Первый")],
            [14, 14, 14]
        );
        let mut used = [0; 16];
        for i in 0..16_000 {
            used[shard_of(&format!("stream-{i}"))] += 1;
        }
        assert!(used.iter().all(|n| (800..1200).contains(n)), "{used:?}");
    }
}
