//! Failed starts: how many in a row, kept over restarts.
//!
//! Without it a damaged store would be opened again and again by whatever supervises the process.
//! Only failures of the store count: not a wrong setting, not a directory that another process has,
//! not a process that was killed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Failed starts after which the next one goes on in safe mode if it fails, too.
pub const BEFORE_SAFE_MODE: u64 = 2;

const FILE: &str = "failed_starts";

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// Failed starts in a row before this one. A file that cannot be read counts as none.
pub fn count(data_dir: &Path) -> u64 {
    let text = fs::read_to_string(file(data_dir)).unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    first.parse().unwrap_or(0)
}

/// Notes one more, with its cause for those who look into the directory.
pub fn add(data_dir: &Path, cause: &str) -> io::Result<()> {
    let number = count(data_dir) + 1;
    let mut file = File::create(file(data_dir))?;
    writeln!(file, "{number}\n{cause}")?;
    file.sync_all()
}

/// A start succeeded, or went on in safe mode: the next one is tried as usual.
pub fn clear(data_dir: &Path) {
    if let Err(error) = fs::remove_file(file(data_dir))
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "cannot remove {FILE}");
    }
}
