//! The Python environment of tests that use libraries written in Python: one below the build
//! directory, made at first use and shared by all.
//!
//! Its packages are pinned in `tests/python/requirements.txt`; when that file changes a new
//! environment is made beside the old one. A lock lets one test (of one process) make it while the
//! others wait. Without Python and its `venv` module they are installed where that is possible
//! unattended, on a Debian system as root; elsewhere the test fails and names what to install.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/requirements.txt");
/// Below the build directory.
const PLACE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/python");

/// A command that runs the environment's interpreter, unaffected by this process's Python settings.
pub fn python() -> Command {
    let mut command = Command::new(environment().join("bin/python"));
    clean(&mut command);
    command
}

/// A program that one of the packages brings, such as `schemathesis`.
#[allow(dead_code, reason = "for tests of other resources")]
pub fn program(name: &str) -> Command {
    let mut command = Command::new(environment().join("bin").join(name));
    clean(&mut command);
    command
}

/// Path of a script in `tests/python`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/python")
        .join(name)
}

fn clean(command: &mut Command) {
    for variable in ["PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV"] {
        command.env_remove(variable);
    }
    command.env("PYTHONDONTWRITEBYTECODE", "1");
}

fn environment() -> PathBuf {
    let requirements = fs::read_to_string(REQUIREMENTS).expect("the requirements can be read");
    let place = Path::new(PLACE);
    fs::create_dir_all(place).expect("the build directory can be written");
    let lock = File::create(place.join("lock")).expect("a lock file can be made");
    // Released when the file is closed, also when this process ends early.
    lock.lock().expect("the file can be locked");
    let directory = place.join(format!("{:016x}", fingerprint(&requirements)));
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

fn make(directory: &Path) {
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(directory);
    if let Err(first) = run(&mut venv) {
        install_python(&first);
        if directory.exists() {
            fs::remove_dir_all(directory).expect("an unfinished environment can be removed");
        }
        run(&mut venv).unwrap_or_else(|error| panic!("{}", help(&error)));
    }
    let mut install = Command::new(directory.join("bin/python"));
    install
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
            "-r",
        ])
        .arg(REQUIREMENTS);
    run(&mut install).unwrap_or_else(|error| {
        panic!(
            "the packages of {REQUIREMENTS} could not be installed; is the package index \
         reachable?\n{error}"
        )
    });
}

fn install_python(why: &str) {
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    let debian = Path::new("/etc/debian_version").exists();
    assert!(root && debian, "{}", help(why));
    for arguments in [
        &["update", "-qq"][..],
        &["install", "-y", "-qq", "python3", "python3-venv"],
    ] {
        let mut apt = Command::new("apt-get");
        apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut apt).unwrap_or_else(|error| panic!("{}", help(&error)));
    }
}

fn help(why: &str) -> String {
    format!(
        "this test needs python3 with its module venv (Debian: apt-get install python3 \
         python3-venv) and could not get it:\n{why}"
    )
}

/// Runs the command to its end; fails with the command and its output.
fn run(command: &mut Command) -> Result<(), String> {
    clean(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// Of a short text, the same in every build.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
