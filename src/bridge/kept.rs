//! What survives the bridge: the wanted streams, those that it made, and its key, in one file that
//! is replaced as a whole.
//!
//! The first line has a checksum of the rest, so a torn file is noticed. A file that cannot be read
//! is no knowledge: the server is left as it is until Weir answers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::desired::Wanted;
use super::plan::{Owned, OwnedState};
use crate::config::replace_file;
use crate::native_name::{escape, is_plain};

const FIRST_WORD: &str = "weir-bridge";
const VERSION: &str = "1";
/// It holds passwords of cameras.
const MODE: u32 = 0o600;
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The content of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The cluster key that the bridge made when it joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The streamer was saved with the key.
    #[serde(default)]
    pub has_joined: bool,
    /// The last good list; `None` if there was none yet.
    pub wanted: Option<Wanted>,
    pub owned: Owned,
}

/// What a start finds.
#[derive(Debug, PartialEq, Eq)]
pub enum FoundFile {
    Nothing,
    Kept(Kept),
    /// Why the file cannot be used.
    Unreadable(String),
}

#[derive(Debug, Clone)]
pub struct KeptFile {
    path: PathBuf,
}

impl KeptFile {
    pub fn new(directory: &Path, hostname: &str) -> Self {
        let name = escape(hostname, |letter| is_plain(letter) || letter == '.');
        Self {
            path: directory.join(format!("{name}.bridge")),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn read(&self) -> FoundFile {
        let text = match fs::metadata(&self.path).and_then(|metadata| {
            if metadata.len() > FILE_BYTES_MAX {
                return Err(io::Error::other("the file is too large"));
            }
            fs::read_to_string(&self.path)
        }) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return FoundFile::Nothing,
            Err(error) => return FoundFile::Unreadable(error.to_string()),
        };
        match parse(&text) {
            Ok(kept) => FoundFile::Kept(kept),
            Err(why) => FoundFile::Unreadable(why.to_owned()),
        }
    }

    /// Replaces the file, durably: at any moment it has the old content or the new one.
    pub fn write(&self, kept: &KeptRef<'_>) -> io::Result<()> {
        let head = |sum: u64| format!("{FIRST_WORD} {VERSION} {sum:016x}\n");
        // The list may be long: it is there once, behind room for the head.
        let mut text = head(0).into_bytes();
        let begin = text.len();
        serde_json::to_writer(&mut text, kept)?;
        let sum = xxh3_64(&text[begin..]);
        text[..begin].copy_from_slice(head(sum).as_bytes());
        text.push(b'\n');
        let text = String::from_utf8(text).map_err(io::Error::other)?;
        replace_file(&self.path, &text, MODE)
    }
}

/// [`Kept`], to be written.
#[derive(Serialize)]
pub struct KeptRef<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<&'a str>,
    pub has_joined: bool,
    pub wanted: Option<&'a Wanted>,
    pub owned: &'a Owned,
}

fn parse(text: &str) -> Result<Kept, &'static str> {
    let (first, body) = text.split_once('\n').ok_or("it has no first line")?;
    let body = body.strip_suffix('\n').ok_or("its end is missing")?;
    let mut words = first.split(' ');
    if words.next() != Some(FIRST_WORD) || words.next() != Some(VERSION) {
        return Err("it is not a file of this version");
    }
    let sum = words
        .next()
        .and_then(|sum| u64::from_str_radix(sum, 16).ok());
    if sum != Some(xxh3_64(body.as_bytes())) {
        return Err("its checksum is wrong");
    }
    let mut kept: Kept = serde_json::from_str(body).map_err(|_| "it is not of the known form")?;
    for owned in kept.owned.values_mut() {
        // The call may have been made after the record.
        if owned.state == OwnedState::Intended {
            owned.state = OwnedState::Unsure;
        }
    }
    Ok(kept)
}
