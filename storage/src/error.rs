//! Errors of a store, with the facts that an operator needs.
//!
//! Every variant carries the path and the numbers needed to decide; `Display` gives the cause and
//! what to do. Which exit code or HTTP status that becomes is decided by the callers.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub enum StoreError {
    /// Another process owns the directory.
    Locked { path: PathBuf, pid: Option<u32> },
    /// No space left. `bytes` is what could not be had: the size of the free space reserve, or 0
    /// when the engine itself ran out in the middle of a commit.
    Full { path: PathBuf, bytes: u64 },
    /// The file holds something other than what was written. `table` and `key` are empty when it is
    /// not known which record is hit (a page of the engine, the header).
    Corrupt {
        path: PathBuf,
        table: String,
        key: Vec<u8>,
        what: String,
    },
    /// Written by a version of this program whose files older ones must not read.
    Version {
        path: PathBuf,
        format: u16,
        reader_min: u16,
        supported: u16,
    },
    /// A record in a format that this program cannot read: a newer one wrote it.
    NewerRecord {
        path: PathBuf,
        table: String,
        key: Vec<u8>,
        version: u8,
        supported: u8,
    },
    /// The path exists already, and replacing it was not requested.
    Exists { path: PathBuf },
    /// The operating system refused.
    Io {
        path: PathBuf,
        during: &'static str,
        source: io::Error,
    },
    /// An earlier commit failed; nothing works until `reopen` succeeded.
    Failed { path: PathBuf },
}

impl StoreError {
    /// An I/O error, sorted by what can be done about it.
    pub(crate) fn io(path: &Path, during: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => StoreError::Full {
                path: path.into(),
                bytes: 0,
            },
            io::ErrorKind::UnexpectedEof => {
                StoreError::file(path, "it ends before its contents do")
            }
            _ => StoreError::Io {
                path: path.into(),
                during,
                source,
            },
        }
    }

    /// Corruption that cannot be pinned to a record.
    pub(crate) fn file(path: &Path, what: impl Into<String>) -> Self {
        StoreError::Corrupt {
            path: path.into(),
            table: String::new(),
            key: Vec::new(),
            what: what.into(),
        }
    }

    /// Sorts an error of the engine into ours.
    pub(crate) fn engine(path: &Path, during: &'static str, error: redb::Error) -> Self {
        match error {
            redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
                StoreError::file(path, format!("it is not a store: {source}"))
            }
            redb::Error::Io(source) => StoreError::io(path, during, source),
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
                StoreError::Locked {
                    path: path.into(),
                    pid: None,
                }
            }
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => {
                StoreError::Failed { path: path.into() }
            }
            redb::Error::Corrupted(what) => StoreError::file(path, what),
            other => StoreError::file(path, other.to_string()),
        }
    }
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoreError::Locked {
                path,
                pid: Some(pid),
            } => write!(
                out,
                "{} is in use by process {pid}; stop it or choose another data directory",
                path.display()
            ),
            StoreError::Locked { path, pid: None } => write!(
                out,
                "{} is in use by another process; stop it or choose another data directory",
                path.display()
            ),
            StoreError::Full { path, bytes: 0 } => {
                write!(
                    out,
                    "no space left for {}; free some, writing resumes by itself",
                    path.display()
                )
            }
            StoreError::Full { path, bytes } => write!(
                out,
                "no space left for {}: {bytes} more bytes are needed before writing resumes by \
                 itself; deleting still works",
                path.display()
            ),
            StoreError::Corrupt {
                path,
                table,
                key,
                what,
            } if table.is_empty() && key.is_empty() => {
                write!(
                    out,
                    "{} is damaged: {what}; restore a backup",
                    path.display()
                )
            }
            StoreError::Corrupt {
                path,
                table,
                key,
                what,
            } => write!(
                out,
                "{} is damaged: table {table}, key \"{}\": {what}; restore a backup",
                path.display(),
                key.escape_ascii()
            ),
            StoreError::Version {
                path,
                format,
                reader_min,
                supported,
            } => write!(
                out,
                "{} has format {format}, readable from format {reader_min} on, and this program \
                 knows formats up to {supported}; run a newer program or restore a backup made \
                 by this one",
                path.display()
            ),
            StoreError::NewerRecord {
                path,
                table,
                key,
                version,
                supported,
            } => write!(
                out,
                "{}: table {table}, key \"{}\": the record has schema version {version}, written \
                 by a newer program, and this program reads versions up to {supported}; run the \
                 newer program or restore a backup made by this one",
                path.display(),
                key.escape_ascii()
            ),
            StoreError::Exists { path } => {
                write!(
                    out,
                    "{} exists already and is not overwritten without an explicit request",
                    path.display()
                )
            }
            StoreError::Io {
                path,
                during,
                source,
            } => {
                write!(out, "cannot {during} {}: {source}", path.display())?;
                match source.kind() {
                    io::ErrorKind::PermissionDenied => {
                        write!(out, "; check its owner and permissions")
                    }
                    io::ErrorKind::ReadOnlyFilesystem => {
                        write!(out, "; the file system is mounted read-only")
                    }
                    io::ErrorKind::NotFound => write!(out, "; create the directory above it"),
                    _ => Ok(()),
                }
            }
            StoreError::Failed { path } => write!(
                out,
                "an earlier write to {} failed; it must be opened again to learn what is on disk",
                path.display()
            ),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
