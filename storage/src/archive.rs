//! The file of a backup: every record at one sequence number, in a form that is written and read
//! from front to back.
//!
//! ```text
//! file   = header, part*, end, SHA-256 of everything before it (32 bytes)
//! header = magic "weir.backup\n", format u16, reader_min u16, store id u64, lsn u64, stamp u64
//! part   = 1, bytes of the name u8, name           the records that follow are of this table
//!        | 2, bytes of the key u32, bytes of the value u32, key, value
//! end    = 3, count of the records u64
//! ```
//! All integers are little endian. Nothing follows the checksum. A program reads a file if it knows
//! `reader_min` or a later format.
//!
//! The writer keeps nothing but the state of the checksum, so a file of any size may be sent while
//! it is made. The reader holds one record at a time. What it gave may be believed only when it has
//! reached the end.

use crate::entry::Change;
use crate::tables::Head;
use crate::{StoreError, Table};
use sha2::{Digest as _, Sha256};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What this program writes, and the newest it can read.
pub const BACKUP_FORMAT: u16 = 1;
/// The oldest program that can read it.
const READER_MIN: u16 = 1;
pub(crate) const MAGIC: &[u8; 12] = b"weir.backup\n";
const TABLE: u8 = 1;
const RECORD: u8 = 2;
const END: u8 = 3;
const SUM_BYTES: usize = 32;
const READ_BYTES: usize = 256 << 10;
/// Larger numbers are not of this program: a sequence number has to grow after a restore.
const NUMBER_MAX: u64 = 1 << 62;

/// Writes the file of a backup in parts, into buffers of the caller.
pub struct ArchiveWriter {
    sum: Sha256,
    table: &'static str,
    records: u64,
    /// Bytes of the value that are still to come.
    rest: usize,
}

impl ArchiveWriter {
    /// Begins the backup of a store at a sequence number.
    pub fn begin(store_id: u64, lsn: u64, stamp_ms: u64, out: &mut Vec<u8>) -> Self {
        let mut writer = ArchiveWriter {
            sum: Sha256::new(),
            table: "",
            records: 0,
            rest: 0,
        };
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&BACKUP_FORMAT.to_le_bytes());
        header.extend_from_slice(&READER_MIN.to_le_bytes());
        for number in [store_id, lsn, stamp_ms] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        writer.put(&header, out);
        writer
    }

    /// Begins a record, whose value follows in parts. All records of a table come one after
    /// another.
    pub fn record(&mut self, table: Table, key: &[u8], value_bytes: usize, out: &mut Vec<u8>) {
        assert_eq!(self.rest, 0, "the value of the record before is complete");
        let mut head = Vec::with_capacity(key.len() + 32);
        if table.0 != self.table {
            self.table = table.0;
            let length = u8::try_from(table.0.len()).expect("names of tables are short");
            head.extend_from_slice(&[TABLE, length]);
            head.extend_from_slice(table.0.as_bytes());
        }
        head.push(RECORD);
        for length in [key.len(), value_bytes] {
            let length = u32::try_from(length).expect("a record is smaller than 4 GiB");
            head.extend_from_slice(&length.to_le_bytes());
        }
        head.extend_from_slice(key);
        self.put(&head, out);
        self.rest = value_bytes;
        self.records += 1;
    }

    /// The next bytes of the value.
    pub fn value(&mut self, part: &[u8], out: &mut Vec<u8>) {
        self.rest -= part.len();
        self.put(part, out);
    }

    /// Ends the file. Returns the count of records.
    pub fn end(mut self, out: &mut Vec<u8>) -> u64 {
        assert_eq!(self.rest, 0, "the value of the last record is complete");
        self.put(&[END], out);
        self.put(&self.records.to_le_bytes(), out);
        out.extend_from_slice(&self.sum.finalize());
        self.records
    }

    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.sum.update(bytes);
        out.extend_from_slice(bytes);
    }
}

/// A record of a backup.
pub(crate) struct ArchiveRecord {
    pub table: Arc<str>,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

impl ArchiveRecord {
    pub fn change(&self) -> Change<'_> {
        Change {
            table: &self.table,
            key: &self.key,
            value: Some(&self.value),
        }
    }
}

/// Reads the file of a backup.
pub(crate) struct ArchiveReader<R> {
    path: PathBuf,
    source: BufReader<R>,
    sum: Sha256,
    pub head: Head,
    table: Option<Arc<str>>,
    pub records: u64,
    /// Bytes read so far.
    pub bytes: u64,
    is_whole: bool,
}

impl<R: Read> ArchiveReader<R> {
    /// Reads the header.
    pub fn open(path: &Path, source: R) -> Result<Self, StoreError> {
        let mut reader = ArchiveReader {
            path: path.into(),
            source: BufReader::with_capacity(READ_BYTES, source),
            sum: Sha256::new(),
            head: Head {
                store_id: 0,
                lsn: 0,
                stamp_ms: 0,
            },
            table: None,
            records: 0,
            bytes: 0,
            is_whole: false,
        };
        if reader.array::<{ MAGIC.len() }>()? != *MAGIC {
            return Err(StoreError::file(path, "it is not a backup"));
        }
        let format = u16::from_le_bytes(reader.array()?);
        let reader_min = u16::from_le_bytes(reader.array()?);
        if reader_min > BACKUP_FORMAT {
            return Err(StoreError::Version {
                path: path.into(),
                format,
                reader_min,
                supported: BACKUP_FORMAT,
            });
        }
        let [store_id, lsn, stamp_ms] = [
            u64::from_le_bytes(reader.array()?),
            u64::from_le_bytes(reader.array()?),
            u64::from_le_bytes(reader.array()?),
        ];
        if format < reader_min || lsn > NUMBER_MAX || stamp_ms > NUMBER_MAX {
            return Err(StoreError::file(path, "its header is damaged"));
        }
        reader.head = Head {
            store_id,
            lsn,
            stamp_ms,
        };
        Ok(reader)
    }

    /// The next record; `None` when the file is whole and all were read.
    pub fn next(&mut self) -> Result<Option<ArchiveRecord>, StoreError> {
        loop {
            if self.is_whole {
                return Ok(None);
            }
            match self.array::<1>()? {
                [TABLE] => {
                    let [length] = self.array()?;
                    let name = self.bytes(u32::from(length))?;
                    let name = String::from_utf8(name).ok().filter(|name| {
                        // Names of the store's own would change what it believes of itself.
                        !name.is_empty() && !name.starts_with("weir.")
                    });
                    let name = name.ok_or_else(|| self.damaged("the name of a table"))?;
                    self.table = Some(name.into());
                }
                [RECORD] => {
                    let key = u32::from_le_bytes(self.array()?);
                    let value = u32::from_le_bytes(self.array()?);
                    let (key, value) = (self.bytes(key)?, self.bytes(value)?);
                    let table = self.table.clone().filter(|_| !key.is_empty());
                    let table = table.ok_or_else(|| self.damaged("a record"))?;
                    self.records += 1;
                    return Ok(Some(ArchiveRecord { table, key, value }));
                }
                [END] => self.end()?,
                _ => return Err(self.damaged("the kind of a part")),
            }
        }
    }

    fn end(&mut self) -> Result<(), StoreError> {
        let records = u64::from_le_bytes(self.array()?);
        let sum = self.sum.clone().finalize();
        let stored: [u8; SUM_BYTES] = self.array()?;
        if stored != *sum {
            return Err(StoreError::file(
                &self.path,
                "the checksum of the whole file does not match",
            ));
        }
        if records != self.records {
            return Err(self.damaged("the count of its records"));
        }
        let mut beyond = [0; 1];
        let read = self
            .source
            .read(&mut beyond)
            .map_err(|error| self.io(error))?;
        if read != 0 {
            return Err(StoreError::file(&self.path, "bytes follow its end"));
        }
        self.is_whole = true;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let mut array = [0; N];
        let read = self.source.read_exact(&mut array);
        read.map_err(|error| self.io(error))?;
        self.note(&array);
        Ok(array)
    }

    /// Takes memory for what is there only, whatever the length says.
    fn bytes(&mut self, length: u32) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        let source = &mut self.source;
        let read = source.take(u64::from(length)).read_to_end(&mut bytes);
        let read = read.map_err(|error| self.io(error))?;
        if read < length as usize {
            return Err(self.io(std::io::ErrorKind::UnexpectedEof.into()));
        }
        self.note(&bytes);
        Ok(bytes)
    }

    fn note(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn io(&self, error: std::io::Error) -> StoreError {
        StoreError::io(&self.path, "read", error)
    }

    fn damaged(&self, what: &str) -> StoreError {
        StoreError::file(
            &self.path,
            format!("{what} at byte {} is damaged", self.bytes),
        )
    }
}
