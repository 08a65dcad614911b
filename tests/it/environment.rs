//! What tests with programs of other languages need: directories below the build directory that are
//! made at first use and shared by all tests, and packages of the operating system.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The directory below `place` that `make` fills from `contents`. When these change a new one is
/// made beside the old one. A lock lets one test (of one process) make it while the others wait.
pub fn made_once(place: &Path, contents: &str, make: impl FnOnce(&Path)) -> PathBuf {
    fs::create_dir_all(place).expect("the build directory can be written");
    let lock = File::create(place.join("lock")).expect("a lock file can be made");
    // Released when the file is closed, also when this process ends early.
    lock.lock().expect("the file can be locked");
    let directory = place.join(format!("{:016x}", fingerprint(contents)));
    // Written last: a directory without it is what an interrupted run left.
    let complete = directory.join("complete");
    if !complete.exists() {
        if directory.exists() {
            fs::remove_dir_all(&directory).expect("an unfinished environment can be removed");
        }
        make(&directory);
        fs::write(&complete, "").expect("the build directory can be written");
    }
    directory
}

/// Installs packages where that is possible unattended: on a Debian system as root.
pub fn install_packages(names: &[&str]) -> Result<(), String> {
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    if !root || !Path::new("/etc/debian_version").exists() {
        return Err("packages are installed only by root on Debian".to_owned());
    }
    // Two installations at once would refuse each other.
    let lock = concat!(env!("CARGO_TARGET_TMPDIR"), "/installation");
    let lock = File::create(lock).map_err(|error| format!("{lock}: {error}"))?;
    lock.lock().expect("the file can be locked");
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        run(apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    apt(&["update", "-qq"])?;
    apt(&[&["install", "-y", "-qq", "--no-install-recommends"], names].concat())?;
    Ok(())
}

/// Runs the command to its end and returns what it printed; fails with the command and its output.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    Err(format!("{command:?}: {}\n{printed}", output.status))
}

/// Of a short text, the same in every build.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
