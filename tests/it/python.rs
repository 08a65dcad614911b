//! The Python environment of tests that use libraries written in Python: one below the build
//! directory, made at first use and shared by all.
//!
//! Its packages are pinned in `tests/python/requirements.txt`; when that file changes a new
//! environment is made beside the old one. Without Python and its `venv` module they are installed where that is possible
//! unattended, on a Debian system as root; elsewhere the test fails and names what to install.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::environment::{install_packages, made_once, run};

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

fn clean(command: &mut Command) -> &mut Command {
    for variable in ["PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV"] {
        command.env_remove(variable);
    }
    command.env("PYTHONDONTWRITEBYTECODE", "1")
}

fn environment() -> PathBuf {
    let requirements = fs::read_to_string(REQUIREMENTS).expect("the requirements can be read");
    made_once(Path::new(PLACE), &requirements, make)
}

fn make(directory: &Path) {
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(directory);
    if let Err(first) = run(clean(&mut venv)) {
        install_packages(&["python3", "python3-venv"])
            .unwrap_or_else(|error| panic!("{}", help(&format!("{first}\n{error}"))));
        if directory.exists() {
            fs::remove_dir_all(directory).expect("an unfinished environment can be removed");
        }
        run(clean(&mut venv)).unwrap_or_else(|error| panic!("{}", help(&error)));
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
    run(clean(&mut install)).unwrap_or_else(|error| {
        panic!(
            "the packages of {REQUIREMENTS} could not be installed; is the package index \
         reachable?\n{error}"
        )
    });
}

fn help(why: &str) -> String {
    format!(
        "this test needs python3 with its module venv (Debian: apt-get install python3 \
         python3-venv) and could not get it:\n{why}"
    )
}
