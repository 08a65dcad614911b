//! `weir backup`, `weir restore` and `weir check`, which need the store for themselves.

use std::path::Path;
use std::sync::Arc;

use weir_storage::{Floor, Log as _};

use super::{now_ms, open_store, storage_failure};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::writer::tables;

/// `weir backup`: copies the store into one file, while no server runs on it.
pub fn backup(config: &Config, file: &Path) -> Result<Exit, Failure> {
    let (store, opened) = open_store(&config.settings)?;
    let mut records = Vec::new();
    for table in tables() {
        let mut add = |key: &[u8], value: &[u8]| {
            records.push((table, Box::from(key), Arc::from(value)));
        };
        store.load(table, None, &mut add).map_err(storage_failure)?;
    }
    let (id, lsn, stamp_ms) = (opened.store_id, opened.lsn, opened.stamp_ms);
    let saved =
        weir_storage::backup(file, id, lsn, stamp_ms, false, records).map_err(storage_failure)?;
    store.close().map_err(storage_failure)?;
    println!(
        "{} records at revision {} in {} bytes",
        saved.records, saved.lsn, saved.bytes
    );
    Ok(Exit::Done)
}

/// `weir restore`: a data directory from a backup. Its stamps are later than all that a server may
/// have assigned since the backup.
pub fn restore(config: &Config, file: &Path, overwrite: bool) -> Result<Exit, Failure> {
    const MARGIN_MS: u64 = 60_000;
    let directory = &config.settings.store.data_dir;
    let floor = Floor {
        stamp_ms: now_ms() + MARGIN_MS,
        lsn: 0,
    };
    let restored = weir_storage::restore(file, directory, overwrite, floor)
        .map_err(storage_failure)?;
    let (records, lsn) = (restored.records, restored.opened.lsn);
    println!(
        "{records} records at revision {lsn} in {}",
        directory.display()
    );
    Ok(Exit::Done)
}

/// `weir check`: reads every record of the store and of its log, or of a backup.
pub fn check(config: &Config, file: Option<&Path>) -> Result<Exit, Failure> {
    let (records, lsn) = match file {
        Some(file) => {
            let saved = weir_storage::verify(file).map_err(storage_failure)?;
            (saved.records, saved.lsn)
        }
        None => check_store(config)?,
    };
    println!("{records} records at revision {lsn}, all checksums are right");
    Ok(Exit::Done)
}

fn check_store(config: &Config) -> Result<(u64, u64), Failure> {
    let directory = &config.settings.store.data_dir;
    if !directory.join(weir_storage::FILE_NAME).exists() {
        let message = format!("there is no store in {}", directory.display());
        return Err(Failure::new(Exit::Storage, message));
    }
    let (store, opened) = open_store(&config.settings)?;
    let mut records = 0;
    for table in tables() {
        let count = store.load(table, None, &mut |_, _| {});
        records += count.map_err(storage_failure)?;
    }
    store.close().map_err(storage_failure)?;
    Ok((records, opened.lsn))
}
