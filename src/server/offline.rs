//! `weir backup`, `weir restore` and `weir check`: on the store of a stopped server, and backups of
//! a running one.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use weir_storage::{ArchiveWriter, BackupFile, Floor, Saved, Storage as _, copy_verified};

use super::{now_ms, open_store, storage_failure};
use crate::cli::BackupFlags;
use crate::config::Config;
use crate::exit::{Exit, Failure, cannot};
use crate::operator::connection::FoundServer;
use crate::operator::progress;
use crate::rt;
use crate::writer::tables;

/// Bytes that are written at a time.
const WRITE_BYTES: usize = 1 << 20;

/// `weir backup`: copies the store into one file. A server that is named, or that uses the data
/// directory, sends the backup itself.
pub fn backup(config: &Config, flags: &BackupFlags) -> Result<Exit, Failure> {
    let (file, is_quiet) = (flags.file.as_path(), flags.quiet);
    survive_file_limit()?;
    if flags.server.names_server(config)? {
        return download(file, &flags.server.find(config)?, is_quiet);
    }
    match backup_store(config, file, is_quiet) {
        Err(in_use) if in_use.exit == Exit::Locked => {
            let unreached = |failure: Failure| match failure.exit {
                Exit::Storage => failure,
                _ => Failure::new(
                    Exit::Locked,
                    format!(
                        "{}, or name its server with --url ({})",
                        in_use.message, failure.message
                    ),
                ),
            };
            let server = flags.server.of_settings(config).map_err(unreached)?;
            download(file, &server, is_quiet).map_err(unreached)
        }
        other => other,
    }
}

/// A limit on the size of files is then an error of the write, not the end of the process.
fn survive_file_limit() -> Result<(), Failure> {
    signal_hook::flag::register(rt::sys::FILE_TOO_LARGE, Arc::default())
        .map(drop)
        .map_err(cannot("handle signals"))
}

fn backup_store(config: &Config, file: &Path, is_quiet: bool) -> Result<Exit, Failure> {
    check_exists(config)?;
    let (store, opened) = open_store(&config.settings)?;
    let mut sink = Sink::create(file)?;
    let mut out = Vec::new();
    let (id, lsn, stamp_ms) = (opened.store_id, opened.lsn, opened.stamp_ms);
    let mut writer = ArchiveWriter::begin(id, lsn, stamp_ms, &mut out);
    let mut written = Ok(());
    let bar = progress::bytes(is_quiet, "copying the store");
    for table in tables() {
        let mut add = |key: &[u8], value: &[u8]| {
            writer.record(table, key, value.len(), &mut out);
            writer.value(value, &mut out);
            if out.len() >= WRITE_BYTES && written.is_ok() {
                written = sink.append(&out);
                bar.inc(out.len() as u64);
                out.clear();
            }
        };
        store.load(table, None, &mut add).map_err(storage_failure)?;
    }
    bar.finish_and_clear();
    let records = writer.end(&mut out);
    written.and_then(|()| sink.append(&out))?;
    let saved = sink.finish()?;
    store.close().map_err(storage_failure)?;
    let bytes = saved.map_or_else(String::new, |saved| format!(" in {} bytes", saved.bytes));
    if !is_quiet {
        report(file, &format!("{records} records at revision {lsn}{bytes}"));
    }
    Ok(Exit::Done)
}

/// Downloads the backup of a running server.
fn download(file: &Path, server: &FoundServer, is_quiet: bool) -> Result<Exit, Failure> {
    // Before the server is sent a request: a file that is there is not replaced.
    let mut sink = Sink::create(file)?;
    let body = server.api.download("/backup");
    let body = body.map_err(|error| Failure::new(Exit::Runtime, error.to_string()))?;
    let mut refused = None;
    let url = &server.url;
    let bar = progress::bytes(is_quiet, "downloading the backup");
    let copied = copy_verified(Path::new(url), body, |part| {
        bar.inc(part.len() as u64);
        sink.append(part).map_err(|failure| {
            refused = Some(failure);
            io::ErrorKind::Other.into()
        })
    });
    bar.finish_and_clear();
    let saved = match (copied, refused) {
        (_, Some(failure)) => return Err(failure),
        (Ok(saved), None) => saved,
        (Err(error), None) => {
            let message = format!("the backup did not arrive whole: {error}");
            return Err(Failure::new(Exit::Runtime, message));
        }
    };
    sink.finish()?;
    let Saved {
        records,
        lsn,
        bytes,
        ..
    } = saved;
    if !is_quiet {
        let text = format!("{records} records at revision {lsn} in {bytes} bytes from {url}");
        report(file, &text);
    }
    Ok(Exit::Done)
}

/// Where a backup is written to.
enum Sink {
    File(BackupFile),
    Stdout,
}

impl Sink {
    fn create(file: &Path) -> Result<Self, Failure> {
        if file == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let file = BackupFile::create(file, false).map_err(storage_failure)?;
        Ok(Self::File(file))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::File(file) => file.append(bytes).map_err(storage_failure),
            Self::Stdout => io::stdout()
                .write_all(bytes)
                .map_err(|error| Failure::new(Exit::Runtime, format!("stdout: {error}"))),
        }
    }

    fn finish(self) -> Result<Option<Saved>, Failure> {
        match self {
            Self::File(file) => file.finish().map(Some).map_err(storage_failure),
            Self::Stdout => io::stdout()
                .flush()
                .map(|()| None)
                .map_err(|error| Failure::new(Exit::Runtime, format!("stdout: {error}"))),
        }
    }
}

/// Prints a result, beside the backup itself if that is on stdout.
fn report(file: &Path, text: &str) {
    if file == Path::new("-") {
        eprintln!("{text}");
    } else {
        println!("{text}");
    }
}

/// `weir restore`: a data directory from a backup. Its stamps are later than all that a server may
/// have assigned since the backup.
pub fn restore(config: &Config, file: &Path, overwrite: bool) -> Result<Exit, Failure> {
    const MARGIN_MS: u64 = 60_000;
    survive_file_limit()?;
    let directory = &config.settings.store.data_dir;
    let old = if overwrite {
        newest_of(config)?
    } else {
        Floor::default()
    };
    let floor = Floor {
        stamp_ms: old.stamp_ms.max(now_ms() + MARGIN_MS),
        lsn: old.lsn,
    };
    let bar = progress::spinner(false, "restoring");
    let restored = weir_storage::restore(file, directory, overwrite, floor);
    bar.finish_and_clear();
    let restored = restored.map_err(storage_failure)?;
    let (records, lsn) = (restored.records, restored.opened.lsn);
    println!(
        "{records} records at revision {lsn} in {}",
        directory.display()
    );
    Ok(Exit::Done)
}

/// The last batch of the store that is to be replaced: a wall clock that was ahead may have led it
/// beyond the present. A store that cannot be read is what backups are for.
fn newest_of(config: &Config) -> Result<Floor, Failure> {
    if check_exists(config).is_err() {
        return Ok(Floor::default());
    }
    match open_store(&config.settings) {
        Ok((_, opened)) => Ok(Floor {
            lsn: opened.lsn,
            stamp_ms: opened.stamp_ms,
        }),
        Err(failure) if failure.exit == Exit::Locked => Err(failure),
        Err(failure) => {
            eprintln!("warning: the old store cannot be read: {}", failure.message);
            Ok(Floor::default())
        }
    }
}

fn check_exists(config: &Config) -> Result<(), Failure> {
    let directory = &config.settings.store.data_dir;
    if directory.join(weir_storage::FILE_NAME).exists() {
        return Ok(());
    }
    let message = format!("there is no store in {}", directory.display());
    Err(Failure::new(Exit::Storage, message))
}

/// `weir check`: reads every record of the store and of its log, or of a backup.
pub fn check(config: &Config, file: Option<&Path>) -> Result<Exit, Failure> {
    let bar = progress::spinner(false, "checking");
    let checked = match file {
        Some(file) => {
            let saved = weir_storage::verify(file).map_err(storage_failure);
            saved.map(|saved| (saved.records, saved.lsn, 0))
        }
        None => check_store(config),
    };
    bar.finish_and_clear();
    let (records, lsn, corrected) = checked?;
    if corrected > 0 {
        let entries = if corrected == 1 { "entry" } else { "entries" };
        println!("{corrected} {entries} of the log had a flipped bit, which is corrected");
    }
    println!("{records} records at revision {lsn}, all checksums are right");
    Ok(Exit::Done)
}

fn check_store(config: &Config) -> Result<(u64, u64, u64), Failure> {
    check_exists(config)?;
    let (store, opened) = open_store(&config.settings)?;
    let mut records = 0;
    for table in tables() {
        let count = store.load(table, None, &mut |_, _| {});
        records += count.map_err(storage_failure)?;
    }
    store.close().map_err(storage_failure)?;
    Ok((records, opened.lsn, opened.corrected))
}
