//! Records on disk: what surrounds a caller's bytes so that damage is noticed before it is
//! believed.
//!
//! The engine does not check what an ordinary read returns, so every record carries a checksum over
//! its table, key and value, and every (table, shard) a count and a sum of those checksums: a
//! changed record, a record under the wrong key, a lost, doubled or resurrected record all show.
//! Pure functions of bytes.
//!
//! ```text
//! record  = [checksum u64][value of the caller; its first byte is the caller's schema version]
//! checksum = xxh3(xxh3(key, seed = xxh3(table)) ++ xxh3(value)), all integers little endian
//! ```

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const CHECKSUM_BYTES: usize = 8;
/// Shard of a key: its first byte.
pub const SHARDS: usize = 256;

/// The part of a checksum that all records of a table share.
#[derive(Clone, Copy)]
pub struct Seed(u64);

impl Seed {
    pub fn of(table: &str) -> Self {
        Seed(xxh3_64(table.as_bytes()))
    }

    pub fn checksum(self, key: &[u8], value: &[u8]) -> u64 {
        let mut both = [0; 16];
        both[..8].copy_from_slice(&xxh3_64_with_seed(key, self.0).to_le_bytes());
        both[8..].copy_from_slice(&xxh3_64(value).to_le_bytes());
        xxh3_64(&both)
    }

    /// Writes the record of `value` into `record`, replacing what is there, and returns its
    /// checksum.
    pub fn seal(self, key: &[u8], value: &[u8], record: &mut Vec<u8>) -> u64 {
        let checksum = self.checksum(key, value);
        record.clear();
        record.extend_from_slice(&checksum.to_le_bytes());
        record.extend_from_slice(value);
        checksum
    }

    /// The value of a record and its checksum, or what is wrong with it.
    pub fn open<'a>(self, key: &[u8], record: &'a [u8]) -> Result<(u64, &'a [u8]), &'static str> {
        let Some((stored, value)) = record.split_first_chunk::<CHECKSUM_BYTES>() else {
            return Err("the record is too short");
        };
        let checksum = u64::from_le_bytes(*stored);
        if checksum == self.checksum(key, value) {
            Ok((checksum, value))
        } else {
            Err("the checksum does not match")
        }
    }
}

/// Count and sum of the checksums of a set of records; the order does not matter.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Digest {
    pub count: u64,
    pub sum: u64,
}

impl Digest {
    pub const BYTES: usize = 16;

    pub fn add(&mut self, checksum: u64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(checksum);
    }

    /// Takes a record out. False when the set is empty: the digest or the record is wrong.
    #[must_use]
    pub fn remove(&mut self, checksum: u64) -> bool {
        self.sum = self.sum.wrapping_sub(checksum);
        let some = self.count > 0;
        self.count = self.count.wrapping_sub(1);
        some
    }

    pub fn merge(&mut self, other: Digest) {
        self.count = self.count.wrapping_add(other.count);
        self.sum = self.sum.wrapping_add(other.sum);
    }

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.count.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sum.to_le_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (count, sum) = bytes.split_first_chunk::<8>()?;
        Some(Digest {
            count: u64::from_le_bytes(*count),
            sum: u64::from_le_bytes(sum.try_into().ok()?),
        })
    }
}

/// The digests of every shard of every table, mirrored in memory.
#[derive(Default, Debug)]
pub struct Digests {
    tables: Vec<(Box<str>, Box<[Digest; SHARDS]>)>,
}

impl Digests {
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tables.iter().map(|(name, _)| &**name)
    }

    pub fn get(&self, table: &str) -> Option<&[Digest; SHARDS]> {
        self.tables
            .iter()
            .find(|(name, _)| &**name == table)
            .map(|(_, shards)| &**shards)
    }

    pub fn entry(&mut self, table: &str) -> &mut [Digest; SHARDS] {
        let at = self
            .tables
            .iter()
            .position(|(name, _)| &**name == table)
            .unwrap_or_else(|| {
                self.tables
                    .push((table.into(), Box::new([Digest::default(); SHARDS])));
                self.tables.len() - 1
            });
        &mut self.tables[at].1
    }

    /// Everything in one: what a backup is sealed with.
    pub fn total(&self) -> Digest {
        let mut total = Digest::default();
        for (_, shards) in &self.tables {
            for digest in shards.iter() {
                total.merge(*digest);
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_only_valid_under_its_own_table_and_key() {
        let mut record = Vec::new();
        Seed::of("stream").seal(b"\x01a", b"\x01value", &mut record);
        assert_eq!(
            Seed::of("stream")
                .open(b"\x01a", &record)
                .expect("untouched")
                .1,
            b"\x01value"
        );
        assert!(Seed::of("stream").open(b"\x01b", &record).is_err());
        assert!(Seed::of("streamer").open(b"\x01a", &record).is_err());
        assert!(Seed::of("stream").open(b"\x01a", &record[..7]).is_err());
        for bit in 0..record.len() * 8 {
            let mut bad = record.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Seed::of("stream").open(b"\x01a", &bad).is_err(),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn a_digest_tells_sets_apart_but_not_orders() {
        let (mut a, mut b) = (Digest::default(), Digest::default());
        for checksum in [3, 5, u64::MAX] {
            a.add(checksum);
        }
        for checksum in [u64::MAX, 3, 9, 5] {
            b.add(checksum);
        }
        assert_ne!(a, b);
        assert!(b.remove(9));
        assert_eq!(a, b);
        assert_eq!(Digest::from_bytes(&a.to_bytes()), Some(a));
        assert!(!Digest::default().remove(1));
    }
}
