//! Entries of the append log: one batch each, with everything a reader needs to judge it alone.
//!
//! Pure functions of bytes. An entry is whole blocks. Its checksum covers its header and its body,
//! and the checksum of the entry before it: an entry is valid only behind the one it was written
//! behind.
//!
//! ```text
//! entry  = header (64 bytes), body, zeros up to a multiple of 4,096 bytes
//! header = magic "WLE1", format u8, reader_min u8, flags u16 (0), log id u64, lsn u64, stamp u64,
//!          checksum of the entry before u64, bytes of the body u32, operations u32, parity u64
//!          (see `parity`), checksum u64 (xxh3 of the header before it, seeded with xxh3 of the body)
//! body   = operation*
//! operation = kind u8 (0 delete, 1 put), bytes of the table's name u8, name, bytes of the key u16,
//!             key, and of a put: bytes of the value u32, value
//! ```
//! All integers are little endian.

use crate::planted::{Planted, is};
use crate::{Batch, Op};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Unit of everything in a log file: what a direct write must be a multiple of.
pub const BLOCK: usize = 4096;
pub const HEADER: usize = 64;
const MAGIC: &[u8; 4] = b"WLE1";
/// What this program writes, and the newest it can read.
pub const FORMAT: u8 = 1;
const READER_MIN: u8 = 1;
const PARITY_AT: usize = HEADER - 16;
const CHECKSUM_AT: usize = HEADER - 8;
const DELETE: u8 = 0;
const PUT: u8 = 1;

/// The position of an entry in its log, and of the batch in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    pub lsn: u64,
    pub stamp_ms: u64,
    /// Checksum of the entry, which the next one names.
    pub chain: u64,
}

/// A change of one record, as an entry has it. Without a value it is a deletion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change<'a> {
    pub table: &'a str,
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

impl Op {
    pub(crate) fn change(&self) -> Change<'_> {
        let value = match self {
            Op::Put { value, .. } => Some(&**value),
            Op::Delete { .. } => None,
        };
        Change {
            table: self.table().0,
            key: self.key(),
            value,
        }
    }
}

/// Why bytes are not an entry of this log behind that position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalid {
    /// Not one, not all of one, or one of another log or place: the end of the log may be here.
    Absent,
    /// A program of the future wrote it, and says that this one cannot read it.
    Newer { format: u8, reader_min: u8 },
}

/// A valid entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub position: Position,
    /// Whole blocks.
    pub bytes: usize,
    operations: u32,
    body: &'a [u8],
}

/// Appends the entry of a batch behind `last` to `out`, and returns its position.
pub fn write(log_id: u64, last: &Position, batch: &Batch, out: &mut Vec<u8>) -> Position {
    let start = out.len();
    out.resize(start + HEADER, 0);
    for op in &batch.ops {
        write_change(&op.change(), out);
    }
    let body = out.len() - start - HEADER;
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(MAGIC);
    (header[4], header[5]) = (FORMAT, READER_MIN);
    header[8..16].copy_from_slice(&log_id.to_le_bytes());
    header[16..24].copy_from_slice(&batch.lsn.to_le_bytes());
    header[24..32].copy_from_slice(&batch.stamp_ms.to_le_bytes());
    header[32..40].copy_from_slice(&last.chain.to_le_bytes());
    let body_bytes = u32::try_from(body).expect("a batch is smaller than 4 GiB");
    header[40..44].copy_from_slice(&body_bytes.to_le_bytes());
    let operations = u32::try_from(batch.ops.len()).expect("so many fit into memory");
    header[44..48].copy_from_slice(&operations.to_le_bytes());
    let parity = parity(&out[start + HEADER..]);
    header[PARITY_AT..CHECKSUM_AT].copy_from_slice(&parity.to_le_bytes());
    let chain = checksum(&header, &out[start + HEADER..]);
    header[CHECKSUM_AT..].copy_from_slice(&chain.to_le_bytes());
    out[start..start + HEADER].copy_from_slice(&header);
    out.resize(start + (HEADER + body).next_multiple_of(BLOCK), 0);
    Position {
        lsn: batch.lsn,
        stamp_ms: batch.stamp_ms,
        chain,
    }
}

fn write_change(change: &Change<'_>, out: &mut Vec<u8>) {
    let Change { table, key, value } = change;
    out.push(if value.is_some() { PUT } else { DELETE });
    out.push(u8::try_from(table.len()).expect("names of tables are short"));
    out.extend_from_slice(table.as_bytes());
    let key_bytes = u16::try_from(key.len()).expect("keys are short");
    out.extend_from_slice(&key_bytes.to_le_bytes());
    out.extend_from_slice(key);
    if let Some(value) = value {
        let value_bytes = u32::try_from(value.len()).expect("a record is smaller than 4 GiB");
        out.extend_from_slice(&value_bytes.to_le_bytes());
        out.extend_from_slice(value);
    }
}

/// Reads the entry at the beginning of `bytes`, which must be the next one behind `last`.
pub fn read<'a>(log_id: u64, last: &Position, bytes: &'a [u8]) -> Result<Entry<'a>, Invalid> {
    let entry = read_any(log_id, bytes)?;
    let is_next = entry.position.lsn == last.lsn + 1
        && word(bytes, 32) == Some(last.chain)
        && entry.position.stamp_ms >= last.stamp_ms;
    if is_next || is(Planted::StaleSegmentTaken) {
        Ok(entry)
    } else {
        Err(Invalid::Absent)
    }
}

/// Reads the entry at the beginning of `bytes`, wherever in the log it belongs.
pub fn read_any(log_id: u64, bytes: &[u8]) -> Result<Entry<'_>, Invalid> {
    let header = bytes.get(..HEADER).ok_or(Invalid::Absent)?;
    let is_of_log = word(header, 8) == Some(log_id) || is(Planted::StaleSegmentTaken);
    if !header.starts_with(MAGIC) || !is_of_log {
        return Err(Invalid::Absent);
    }
    let number = |at: usize| -> Option<u32> {
        let bytes = header.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    };
    let (Some(body_bytes), Some(operations)) = (number(40), number(44)) else {
        return Err(Invalid::Absent);
    };
    let body = bytes.get(HEADER..HEADER + body_bytes as usize);
    let body = body.ok_or(Invalid::Absent)?;
    let chain = checksum(header, body);
    if word(header, CHECKSUM_AT) != Some(chain) && !is(Planted::ChecksumSkipped) {
        return Err(Invalid::Absent);
    }
    let (format, reader_min) = (header[4], header[5]);
    if reader_min > FORMAT {
        return Err(Invalid::Newer { format, reader_min });
    }
    let position = Position {
        lsn: word(header, 16).unwrap_or(0),
        stamp_ms: word(header, 24).unwrap_or(0),
        chain,
    };
    Ok(Entry {
        position,
        bytes: (HEADER + body.len()).next_multiple_of(BLOCK),
        operations,
        body,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(bytes))
}

fn checksum(header: &[u8], body: &[u8]) -> u64 {
    xxh3_64_with_seed(&header[..CHECKSUM_AT], xxh3_64(body))
}

/// The exclusive or of the positions of all bits that are set, counted from 64 on. When one bit is
/// flipped, it changes by the position of that bit.
fn parity(bytes: &[u8]) -> u64 {
    const MASKS: [u64; 6] = [
        0xAAAA_AAAA_AAAA_AAAA,
        0xCCCC_CCCC_CCCC_CCCC,
        0xF0F0_F0F0_F0F0_F0F0,
        0xFF00_FF00_FF00_FF00,
        0xFFFF_0000_FFFF_0000,
        0xFFFF_FFFF_0000_0000,
    ];
    let (mut high, mut all) = (0_u64, 0_u64);
    for (index, part) in (1_u64..).zip(bytes.chunks(8)) {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        let word = u64::from_le_bytes(word);
        // Within a word the order does not matter: the words are folded into one.
        all ^= word;
        high ^= index * u64::from(word.count_ones() & 1);
    }
    let low = (0_u64..).zip(MASKS).fold(0, |low, (bit, mask)| {
        low | u64::from((all & mask).count_ones() & 1) << bit
    });
    high << 6 | low
}

/// The entry at the beginning of `bytes`, which are not a valid one behind `last`, with one bit
/// flipped back: it is right then, as its checksum shows. Also a torn write may lack one bit only,
/// over a former entry that differed in no other: it is then all of the entry that was written.
pub fn corrected(log_id: u64, last: &Position, bytes: &[u8]) -> Option<Vec<u8>> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let body_of = |header: &[u8; HEADER]| {
        let bytes = u32::from_le_bytes(header[40..44].try_into().expect("four bytes"));
        rest.get(..bytes as usize)
    };
    // What the reader knows is compared first: hashing a large body takes milliseconds.
    let is_expected = |header: &[u8; HEADER]| {
        header.starts_with(MAGIC)
            && word(header, 8) == Some(log_id)
            && word(header, 16) == Some(last.lsn + 1)
            && word(header, 32) == Some(last.chain)
    };
    let is_whole = |header: &[u8; HEADER], body: &[u8]| {
        word(header, CHECKSUM_AT) == Some(checksum(header, body))
    };
    for bit in 0..HEADER * 8 {
        let mut header = *header;
        header[bit / 8] ^= 1 << (bit % 8);
        if is_expected(&header)
            && let Some(body) = body_of(&header)
            && is_whole(&header, body)
        {
            return Some([&header, body].concat());
        }
    }
    let body = body_of(header).filter(|_| is_expected(header))?;
    let bit = (word(header, PARITY_AT)? ^ parity(body)).checked_sub(64)?;
    let at = usize::try_from(bit / 8).ok()?;
    let mut entry = [header, body].concat();
    *entry[HEADER..].get_mut(at)? ^= 1 << (bit % 8);
    is_whole(header, &entry[HEADER..]).then_some(entry)
}

impl<'a> Entry<'a> {
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    pub fn operations(&self) -> u32 {
        self.operations
    }
}

/// The changes in the body of an entry, in their order. `None` in place of one that cannot be read:
/// the checksum is right, so it was written like that.
pub fn changes(body: &[u8], operations: u32) -> impl Iterator<Item = Option<Change<'_>>> {
    let mut rest = Some(body);
    let mut left = operations;
    std::iter::from_fn(move || {
        let bytes = rest?;
        if left == 0 {
            rest = None;
            return (!bytes.is_empty()).then_some(None);
        }
        left -= 1;
        match read_change(bytes) {
            Some((change, after)) => {
                rest = Some(after);
                Some(Some(change))
            }
            None => {
                rest = None;
                Some(None)
            }
        }
    })
}

fn read_change(bytes: &[u8]) -> Option<(Change<'_>, &[u8])> {
    let ([kind, name_bytes], rest) = bytes.split_first_chunk::<2>()?;
    let (name, rest) = rest.split_at_checked(usize::from(*name_bytes))?;
    let (key_bytes, rest) = rest.split_first_chunk::<2>()?;
    let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*key_bytes)))?;
    let (value, rest) = match *kind {
        DELETE => (None, rest),
        PUT => {
            let (value_bytes, rest) = rest.split_first_chunk::<4>()?;
            let value_bytes = u32::from_le_bytes(*value_bytes) as usize;
            let (value, rest) = rest.split_at_checked(value_bytes)?;
            (Some(value), rest)
        }
        _ => return None,
    };
    let table = std::str::from_utf8(name).ok()?;
    if key.is_empty() {
        return None;
    }
    Some((Change { table, key, value }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Table;

    const LOG: u64 = 77;

    fn batch(lsn: u64) -> Batch {
        let put = |key: &[u8], bytes: usize| Op::Put {
            table: Table("streams"),
            key: key.into(),
            value: vec![7; bytes].into(),
        };
        Batch {
            lsn,
            stamp_ms: 1000 + lsn,
            ops: vec![
                put(b"\x01a", 0),
                put(b"\x02b", 9000),
                Op::Delete {
                    table: Table("nodes"),
                    key: Box::from(&b"\x03"[..]),
                },
            ],
            frees_space: false,
        }
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let last = Position {
            lsn: 4,
            stamp_ms: 1000,
            chain: 99,
        };
        let (mut out, batch) = (Vec::new(), batch(5));
        let position = write(LOG, &last, &batch, &mut out);
        assert_eq!(out.len(), 3 * BLOCK);
        let entry = read(LOG, &last, &out).expect("valid");
        assert_eq!((entry.position, entry.bytes), (position, out.len()));
        let changes: Option<Vec<Change<'_>>> = changes(entry.body(), entry.operations()).collect();
        let expected: Vec<Change<'_>> = batch.ops.iter().map(Op::change).collect();
        assert_eq!(changes.expect("readable"), expected);
    }

    #[test]
    fn an_entry_belongs_to_one_place_of_one_log() {
        let last = Position::default();
        let mut out = Vec::new();
        write(LOG, &last, &batch(1), &mut out);
        assert!(read(LOG + 1, &last, &out).is_err());
        for other in [
            Position { lsn: 1, ..last },
            Position { chain: 1, ..last },
            Position {
                stamp_ms: 1002,
                ..last
            },
        ] {
            assert_eq!(read(LOG, &other, &out).map(|_| ()), Err(Invalid::Absent));
        }
    }

    #[test]
    fn a_changed_bit_is_corrected_and_a_missing_byte_noticed() {
        let (last, mut out) = (Position::default(), Vec::new());
        write(LOG, &last, &batch(1), &mut out);
        let length = HEADER + read(LOG, &last, &out).expect("valid").body.len();
        for bit in 0..length * 8 {
            out[bit / 8] ^= 1 << (bit % 8);
            assert!(read(LOG, &last, &out).is_err(), "bit {bit}");
            let corrected = (bit < HEADER * 8 || bit % 61 == 0)
                .then(|| corrected(LOG, &last, &out).expect("one bit"));
            out[bit / 8] ^= 1 << (bit % 8);
            assert!(
                corrected.is_none_or(|entry| entry == out[..length]),
                "bit {bit}"
            );
        }
        for cut in 0..length {
            assert!(read(LOG, &last, &out[..cut]).is_err(), "cut at {cut}");
        }
        // A lost sector is none. Of those that are zeros anyway nothing is lost.
        for sector in (0..length).step_by(512) {
            let mut torn = out.clone();
            let end = length.min(sector + 512);
            torn[sector..end].fill(0);
            assert_eq!(corrected(LOG, &last, &torn), None, "sector at {sector}");
        }
    }

    #[test]
    fn entries_of_newer_programs_are_named() {
        let (last, mut out) = (Position::default(), Vec::new());
        write(LOG, &last, &batch(1), &mut out);
        (out[4], out[5]) = (9, 2);
        let length = HEADER + u32::from_le_bytes([out[40], out[41], out[42], out[43]]) as usize;
        let sealed = checksum(&out[..HEADER], &out[HEADER..length]);
        out[CHECKSUM_AT..HEADER].copy_from_slice(&sealed.to_le_bytes());
        let newer = Invalid::Newer {
            format: 9,
            reader_min: 2,
        };
        assert_eq!(read(LOG, &last, &out).map(|_| ()), Err(newer));
    }
}
