//! Hashes of names for tables that scans look into once per stream, and polls once per node.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Hashes names several times faster than the standard hasher. Its seed is random and never shown,
/// so that collisions cannot be chosen.
#[derive(Debug, Clone, Copy)]
pub struct NameHash(u64);

impl Default for NameHash {
    fn default() -> Self {
        static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(()));
        Self(*SEED)
    }
}

impl BuildHasher for NameHash {
    type Hasher = NameHasher;

    fn build_hasher(&self) -> NameHasher {
        NameHasher(self.0)
    }
}

/// The hash of what was written so far.
#[derive(Debug)]
pub struct NameHasher(u64);

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    /// Follows a text, which is the whole key here.
    fn write_u8(&mut self, _: u8) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn texts_are_found_by_their_parts() {
        let mut numbers: HashMap<Box<str>, usize, NameHash> = HashMap::default();
        for n in 0..1000 {
            numbers.insert(format!("{}{n}", "x".repeat(n % 40)).into(), n);
        }
        for n in 0..1000 {
            let name = format!("{}{n}", "x".repeat(n % 40));
            assert_eq!(numbers.get(name.as_str()), Some(&n));
        }
        assert_eq!(numbers.get("none"), None);
        let hash = NameHash::default();
        assert_ne!(hash.hash_one("a"), NameHash(hash.0 ^ 1).hash_one("a"));
    }
}
