//! The file of `ingest` blocks that the configuration of SRS includes.
//!
//! What is in it is configuration that names programs, so only URLs of harmless characters get
//! there. A comment before each block holds its stream and its source, from which the file is read
//! back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::bridge::caller::CallFault;
use crate::config::replace_file;

const FIRST_LINE: &str = "# Written by `weir bridge`, which replaces this file as a whole.";
const BLOCK_MARK: &str = "# stream ";
/// SRS may run as another user of the group, and the URLs hold passwords.
const FILE_MODE: u32 = 0o640;

/// Sources by native name.
pub type Blocks = BTreeMap<Box<str>, Box<str>>;

/// What the blocks are made of besides streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestOptions {
    pub file: PathBuf,
    /// Where SRS takes publishers, `rtmp://127.0.0.1:1935`.
    pub publish: Box<str>,
    pub ffmpeg: Box<str>,
}

/// Characters of URLs that mean nothing in a configuration of SRS.
pub fn is_harmless(source: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._~:/?#[]@!$&()*+,=%-".contains(&byte);
    source.bytes().all(plain)
}

impl IngestOptions {
    /// The blocks of the file, which is the bridge's own.
    pub fn read(&self) -> Result<Blocks, CallFault> {
        let text = match fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(CallFault::Unreachable(error.to_string())),
        };
        if !text.trim().is_empty() && !text.starts_with(FIRST_LINE) {
            return Err(CallFault::Unexpected(
                "the file of ingests is not the bridge's own",
            ));
        }
        let marks = text
            .lines()
            .filter_map(|line| line.strip_prefix(BLOCK_MARK));
        let blocks = marks.filter_map(|mark| mark.split_once(' '));
        Ok(blocks
            .map(|(native, source)| (native.into(), source.into()))
            .collect())
    }

    pub fn write(&self, blocks: &Blocks) -> Result<(), CallFault> {
        let written = replace_file(&self.file, &self.text(blocks), FILE_MODE);
        written.map_err(|error| CallFault::Unreachable(error.to_string()))
    }

    fn text(&self, blocks: &Blocks) -> String {
        let Self {
            publish, ffmpeg, ..
        } = self;
        let mut text = format!("{FIRST_LINE}\n");
        for (native, source) in blocks {
            let name = native.trim_start_matches('/').replace('/', "_x2F_");
            let tcp = if source.starts_with("rtsp") {
                "perfile { rtsp_transport tcp; } "
            } else {
                ""
            };
            text.push_str(&format!(
                "{BLOCK_MARK}{native} {source}\ningest {name} {{\n  enabled on;\n  \
                 input {{ type stream; url \"{source}\"; }}\n  ffmpeg {ffmpeg};\n  \
                 engine {{ {tcp}enabled off; output {publish}{native}?vhost=[vhost]; }}\n}}\n"
            ));
        }
        text
    }
}
