//! Programs for Node.js that tests use, from packages that are pinned in
//! `tests/node/package-lock.json`, in a directory below the build directory.
//!
//! Without Node.js and npm they are installed where that is possible unattended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::environment::{install_packages, made_once, run};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node");
/// Below the build directory.
const PLACE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/node");

/// A directory with the packages in `node_modules`.
pub fn packages() -> PathBuf {
    packages_of(SOURCES, PLACE)
}

/// The same for the lock file in another folder, below `place`.
pub fn packages_of(sources: &str, place: &str) -> PathBuf {
    let sources = Path::new(sources);
    let lock = fs::read_to_string(sources.join("package-lock.json"));
    let lock = lock.expect("the lock file can be read");
    made_once(Path::new(place), &lock, |directory| {
        make(sources, directory);
    })
}

/// Path of a file in `tests/node`.
pub fn source(name: &str) -> PathBuf {
    Path::new(SOURCES).join(name)
}

fn make(sources: &Path, directory: &Path) {
    let version = |name| run(Command::new(name).arg("--version"));
    if let Err(first) = version("node").and_then(|_| version("npm")) {
        install_packages(&["nodejs", "npm"]).unwrap_or_else(|error| {
            panic!(
                "this test needs Node.js and npm (Debian: apt-get install nodejs npm) and could \
                 not get them:\n{first}\n{error}"
            )
        });
    }
    fs::create_dir_all(directory).expect("the build directory can be written");
    for name in ["package.json", "package-lock.json"] {
        fs::copy(sources.join(name), directory.join(name)).expect("the file can be copied");
    }
    let mut install = Command::new("npm");
    install
        .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
        .current_dir(directory);
    run(&mut install).unwrap_or_else(|error| {
        panic!("the packages could not be installed; is the package index reachable?\n{error}")
    });
}
