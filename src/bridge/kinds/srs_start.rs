//! The file that SRS was started with, as far as its own API names it: what a bridge needs there.
//!
//! Only words are looked at, not the structure: a directive counts wherever it stands. The path is
//! the server's word, so the file is bounded, and nothing of it is shown.

use std::fs;
use std::path::{Path, PathBuf};

use crate::bridge::kind::ServerNeeds;

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

pub struct StartFile {
    /// What relative paths in the file begin at.
    directory: PathBuf,
    /// The words of the file, without comments and punctuation.
    words: Vec<String>,
}

impl StartFile {
    /// The file of a command line such as `./objs/srs -c conf/srs.conf`, if this machine has it.
    pub fn find(command_line: &str, directory: &str) -> Option<Self> {
        let mut words = command_line.split_whitespace();
        let path = words.find(|word| *word == "-c").and(words.next())?;
        let directory = PathBuf::from(directory);
        let path = directory.join(path);
        let metadata = fs::metadata(&path).ok()?;
        if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
            return None;
        }
        let text = fs::read_to_string(path).ok()?;
        let lines = text.lines().map(|line| line.split('#').next());
        let words = lines
            .flat_map(|line| {
                line.unwrap_or_default()
                    .split([' ', '\t', ';', '{', '}', '"'])
            })
            .filter(|word| !word.is_empty());
        let words = words.map(str::to_owned).collect();
        Some(Self { directory, words })
    }

    /// The word after each occurrence of a directive.
    fn values<'f>(&'f self, directive: &'f str) -> impl Iterator<Item = &'f str> {
        let pairs = self.words.windows(2);
        pairs.filter_map(move |pair| (pair[0] == directive).then_some(&*pair[1]))
    }

    pub fn missing(&self, ingests: &Path, needs: ServerNeeds) -> Vec<Box<str>> {
        let mut missing: Vec<Box<str>> = Vec::new();
        let known = |path: &Path| {
            let plain = || path.components().collect();
            fs::canonicalize(path).unwrap_or_else(|_| plain())
        };
        let ingests = std::path::absolute(ingests).unwrap_or_else(|_| ingests.to_owned());
        let is_ours = |path: &str| known(&self.directory.join(path)) == known(&ingests);
        if !self.values("include").any(is_ours) {
            let text = format!(
                "include {}; in its vhost; no stream starts",
                ingests.display()
            );
            missing.push(text.into());
        }
        if self.values("ff_log_dir").next().is_none() {
            missing.push("ff_log_dir; without it ingests do not start".into());
        }
        let has_hook = self.values("on_play").any(|url| needs.is_hook(url));
        if needs.hook_port.is_some() && !has_hook {
            let hook = needs.hook_url();
            let text = format!("on_play {hook}; viewers are not checked by Weir");
            missing.push(text.into());
        }
        missing
    }
}
