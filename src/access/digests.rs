//! Digests of credentials that were accepted before, so that a client that sends the same key with
//! every request has it hashed once.
//!
//! Only the digest of given bytes is remembered, which never changes. Whether a key with that
//! digest is valid, and what it permits, is decided for every request: a revoked, edited or
//! replaced key is refused by the next request. Promises: keys are compared in constant time; the
//! memory is bounded; a key that was never valid is not kept, and all are forgotten when one is
//! replaced.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Keys that are remembered; each has one place, by its hash.
const KEYS_MAX: usize = 64;
/// A longer key is hashed every time.
const KEY_BYTES_MAX: usize = 128;

/// The digest of a credential.
pub(super) fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Compares two digests, in a time that does not depend on them: by words, which costs a tenth of
/// the comparison by bytes.
pub(super) fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let words = |digest: &[u8; 32]| {
        let (words, _) = digest.as_chunks::<8>();
        [0, 1, 2, 3].map(|at| u64::from_le_bytes(words[at]))
    };
    let (a, b) = (words(a), words(b));
    let different = (0..4).fold(0, |bits, at| bits | (a[at] ^ b[at]));
    different.ct_eq(&0).into()
}

struct KnownKey {
    hash: u64,
    key: Box<[u8]>,
    digest: [u8; 32],
}

/// Digests of accepted keys. Owned by one core.
pub(super) struct Digests {
    /// Makes the place of a key unpredictable.
    seed: u64,
    known: [Option<KnownKey>; KEYS_MAX],
}

impl Default for Digests {
    fn default() -> Self {
        let mut seed = [0; 8];
        // Without randomness a client may displace the key of another one, which is hashed again.
        let _ = getrandom::fill(&mut seed);
        Self {
            seed: u64::from_le_bytes(seed),
            known: [const { None }; KEYS_MAX],
        }
    }
}

impl Digests {
    /// Forgets all keys: some may be valid no longer.
    pub(super) fn clear(&mut self) {
        self.known = [const { None }; KEYS_MAX];
    }

    fn place(&self, key: &[u8]) -> (usize, u64) {
        let hash = xxh3_64_with_seed(key, self.seed);
        (hash as usize % KEYS_MAX, hash)
    }

    /// The digest of a key.
    pub(super) fn of(&self, key: &[u8]) -> [u8; 32] {
        if key.len() <= KEY_BYTES_MAX {
            let (place, hash) = self.place(key);
            if let Some(known) = &self.known[place]
                && known.hash == hash
                && bool::from(known.key.ct_eq(key))
            {
                return known.digest;
            }
        }
        digest(key)
    }

    /// Remembers the digest of a key that was accepted.
    pub(super) fn remember(&mut self, key: &[u8], digest: &[u8; 32]) {
        if key.len() > KEY_BYTES_MAX {
            return;
        }
        let (place, hash) = self.place(key);
        let known = &mut self.known[place];
        if known.as_ref().is_none_or(|known| known.hash != hash) {
            *known = Some(KnownKey {
                hash,
                key: key.into(),
                digest: *digest,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_digests_are_those_of_their_keys() {
        // Goal: no key gets the digest of another one. Method: more keys than there is room for,
        // of lengths on both sides of the limit, each looked up before and after each is kept.
        let mut digests = Digests::default();
        let keys: Vec<Vec<u8>> = (0..500_u32)
            .map(|number| {
                let mut key = number.to_string().into_bytes();
                key.resize(number as usize % (KEY_BYTES_MAX + 40), b'x');
                key
            })
            .collect();
        for key in &keys {
            digests.remember(key, &digest(key));
            for key in keys.iter().step_by(7).chain([key]) {
                assert_eq!(digests.of(key), digest(key), "{key:?}");
            }
        }
        assert!(digests.known.iter().flatten().count() > KEYS_MAX / 2);
        let longest = digests.known.iter().flatten().map(|known| known.key.len());
        assert!(longest.max() <= Some(KEY_BYTES_MAX));
    }

    #[test]
    fn equal_hash_is_not_an_equal_key() {
        let mut digests = Digests::default();
        digests.remember(b"key", &digest(b"key"));
        let (place, _) = digests.place(b"key");
        let (other, hash) = digests.place(b"other");
        let mut known = digests.known[place].take().expect("it was remembered");
        known.hash = hash;
        digests.known[other] = Some(known);
        assert_eq!(digests.of(b"other"), digest(b"other"));
    }
}
