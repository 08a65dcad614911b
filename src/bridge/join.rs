//! `weir join KIND`: writes the files with which a bridge runs beside a media server.
//!
//! A systemd unit with its options and its token, or a compose file. Everything is checked before
//! the first file is written; a file that exists with other contents is replaced with `--force`
//! only, so that the command can be repeated.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum as _};

use super::kinds::ServerKind;
use super::options::{BridgeFlags, service_options};
use crate::dist::{BRIDGE_COMPOSE, BRIDGE_UNIT};
use crate::exit::{Exit, Failure, cannot};
use crate::stdout;

/// Flags of `weir join`.
#[derive(Debug, Args)]
pub struct JoinFlags {
    /// Kind of the media server.
    #[arg(value_enum)]
    server: ServerKind,
    /// Write a compose file with Weir and three media servers, and the API key that it needs, into
    /// this directory, in place of a unit.
    #[arg(long, value_name = "DIR")]
    compose: Option<PathBuf>,
    /// The directory that has etc/.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/",
        conflicts_with = "compose"
    )]
    root: PathBuf,
    /// Replace files that have other contents.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    options: BridgeFlags,
}

/// A file to be written.
struct NewFile {
    path: PathBuf,
    text: String,
    /// Only its owner may read it.
    is_secret: bool,
}

/// Writes the files and prints their paths; what to do next goes to stderr.
pub fn run(flags: JoinFlags) -> Result<Exit, Failure> {
    let is_forced = flags.force;
    let (files, next) = match flags.compose {
        Some(directory) => {
            if flags.server != ServerKind::Mediamtx || !flags.options.is_empty() {
                let text = "--compose is for mediamtx, and takes no options of the bridge";
                return Err(Failure::new(Exit::Usage, text));
            }
            composed(&directory)?
        }
        None => with_unit(flags)?,
    };
    let is_needed =
        |file: &&NewFile| !matches!(fs::read(&file.path), Ok(it) if it == file.text.as_bytes());
    let needed: Vec<&NewFile> = files.iter().filter(is_needed).collect();
    if let Some(other) = needed.iter().find(|file| file.path.exists() && !is_forced) {
        let text = format!(
            "{}: exists with other contents; see --force",
            other.path.display()
        );
        return Err(Failure::new(Exit::Conflict, text));
    }
    for file in needed {
        write(file).map_err(|error| {
            Failure::new(Exit::Storage, format!("{}: {error}", file.path.display()))
        })?;
    }
    let paths = files
        .iter()
        .map(|file| format!("{}\n", file.path.display()));
    stdout::print(&paths.collect::<String>()).map_err(cannot("print"))?;
    eprintln!("next: {next}");
    Ok(Exit::Done)
}

/// The unit, the options and the token.
fn with_unit(flags: JoinFlags) -> Result<(Vec<NewFile>, String), Failure> {
    let kind = flags.server.to_possible_value().expect("no kind is hidden");
    let joined = service_options(flags.options, kind.get_name(), flags.server.usual_api())?;
    let options: String = joined
        .variables
        .iter()
        .map(|(name, value)| format!("{name}={}\n", quoted(value)))
        .collect();
    let (etc, host) = (flags.root.join("etc"), &joined.hostname);
    let file = |path: String, text: String, is_secret| NewFile {
        path: etc.join(path),
        text,
        is_secret,
    };
    let files = vec![
        file(
            "systemd/system/weir-bridge@.service".to_owned(),
            BRIDGE_UNIT.to_owned(),
            false,
        ),
        file(format!("weir/bridge-{host}.env"), options, false),
        file(
            format!("weir/bridge-{host}.token"),
            format!("{}\n", joined.token.expose()),
            true,
        ),
    ];
    let next = format!("systemctl daemon-reload && systemctl enable --now weir-bridge@{host}");
    Ok((files, next))
}

/// The compose file, and a key that is made once.
fn composed(directory: &Path) -> Result<(Vec<NewFile>, String), Failure> {
    let path = directory.join("api_key");
    let text = match fs::read_to_string(&path) {
        Ok(key) => key,
        Err(_) => super::make_key().map_err(cannot("make a key"))?,
    };
    let compose = NewFile {
        path: directory.join("compose.yaml"),
        text: BRIDGE_COMPOSE.to_owned(),
        is_secret: false,
    };
    let key = NewFile {
        path,
        text,
        is_secret: true,
    };
    let next = format!(
        "copy the program weir into {directory}, and there: docker compose up",
        directory = directory.display()
    );
    Ok((vec![compose, key], next))
}

/// A value as an environment file of systemd has it.
fn quoted(value: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-._:/,=@*".contains(letter);
    if value.chars().all(is_plain) {
        return value.to_owned();
    }
    let mut out = String::from("\"");
    for letter in value.chars() {
        if matches!(letter, '"' | '\\' | '$' | '`') {
            out.push('\\');
        }
        out.push(letter);
    }
    out.push('"');
    out
}

/// Writes a file as a whole: a reader, or a crash, finds the old one or the new one.
fn write(file: &NewFile) -> io::Result<()> {
    let directory = file.path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mut name = file.path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = directory.join(name);
    let mode = if file.is_secret { 0o600 } else { 0o644 };
    // It may be left from a run that was ended.
    let _ = fs::remove_file(&temporary);
    let mut options = OpenOptions::new();
    let mut out = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    out.write_all(file.text.as_bytes())?;
    out.sync_all()?;
    fs::rename(&temporary, &file.path)
}
