//! Files of every released format still open and hold what was written: `golden/v1.redb`,
//! `golden/v1.backup`, `golden/v2.redb` with `golden/v2.log`; and of every format of backups:
//! `golden/backup_v1`. (`v1.backup` is a file of the engine, which programs before the first of these
//! formats wrote.)
//!
//! They are made once per format by `WEIR_GOLDEN=write cargo test -p weir-storage --test golden`
//! and never changed.

use std::path::{Path, PathBuf};
use weir_storage::{
    BACKUP_FORMAT, Batch, FORMAT, Floor, LogKind, Op, Options, Storage, Store, StoreError, Table,
    backup, restore, verify,
};

const TABLES: [Table; 2] = [Table("stream"), Table("streamer")];
const LSN: u64 = 4_711;
const STAMP_MS: u64 = 1_795_000_000_123;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

type Record = (Table, Box<[u8]>, std::sync::Arc<[u8]>);

fn records() -> Vec<Record> {
    (0..40_u8)
        .map(|n| {
            let key = [&[n % 16][..], format!("name-{n}").as_bytes()].concat();
            let value = [&[1][..], &[n].repeat(usize::from(n) * 9)].concat();
            (TABLES[usize::from(n % 2)], key.into(), value.into())
        })
        .collect()
}

fn check(store: &Store) {
    for table in TABLES {
        let mut found = Vec::new();
        store
            .load(table, None, &mut |key, value| {
                found.push((key.to_vec(), value.to_vec()));
            })
            .expect("loads");
        let mut expected: Vec<_> = records()
            .into_iter()
            .filter(|(of, ..)| *of == table)
            .map(|(_, key, value)| (key.to_vec(), value.to_vec()))
            .collect();
        expected.sort();
        assert_eq!(found, expected);
    }
}

/// A store of this format: some records in the tables, the others in the log.
fn write_store(dir: &Path) {
    let ops: Vec<Op> = records()
        .into_iter()
        .map(|(table, key, value)| Op::Put { table, key, value })
        .collect();
    let (first, second) = ops.split_at(25);
    for (log, lsn, ops) in [
        (LogKind::Redb, LSN - 1, first),
        (LogKind::Append, LSN, second),
    ] {
        let (mut store, _) = Store::open(dir, &options(log)).expect("opens");
        let batch = Batch {
            lsn,
            stamp_ms: STAMP_MS,
            ops: ops.to_vec(),
            ..Batch::default()
        };
        store.commit(&batch).expect("commits");
    }
}

/// Makes the golden files of these formats.
fn write_golden(dir: &Path) {
    write_store(dir);
    for (file, kept) in [("weir.redb", "redb"), ("weir.log.0", "log")] {
        let kept = golden(&format!("v{FORMAT}.{kept}"));
        std::fs::copy(dir.join(file), kept).expect("copies");
    }
    let kept = golden(&format!("backup_v{BACKUP_FORMAT}"));
    backup(&kept, 7, LSN, STAMP_MS, true, records()).expect("saves");
}

fn options(log: LogKind) -> Options {
    Options {
        log,
        log_segment_bytes: 64 << 10,
        applies_itself: false,
        ..Options::default()
    }
}

#[test]
fn files_of_every_released_format_still_open() {
    let dir = tempfile::tempdir().expect("scratch");
    if std::env::var("WEIR_GOLDEN").is_ok() {
        write_golden(&dir.path().join("new"));
    }
    for (format, log) in [
        (1, LogKind::Redb),
        (1, LogKind::Append),
        (2, LogKind::Redb),
        (2, LogKind::Append),
    ] {
        assert!(format <= FORMAT);
        let data = dir.path().join(format!("v{format}-{log:?}"));
        std::fs::create_dir(&data).expect("creates");
        std::fs::copy(golden(&format!("v{format}.redb")), data.join("weir.redb"))
            .expect("the file of this format");
        if format == 2 {
            std::fs::copy(golden("v2.log"), data.join("weir.log.0")).expect("its log");
        }
        // Twice: the first time it may be upgraded.
        for _ in 0..2 {
            let (store, opened) = Store::open(&data, &options(log)).expect("opens");
            assert_eq!(
                (opened.lsn, opened.stamp_ms, opened.clean),
                (LSN, STAMP_MS, true)
            );
            check(&store);
            store.close().expect("closes");
        }
    }
}

#[test]
fn backups_of_every_released_format_are_restored() {
    let dir = tempfile::tempdir().expect("scratch");
    let formats = (1..=BACKUP_FORMAT).map(|format| format!("backup_v{format}"));
    for name in formats.chain(["v1.backup".to_owned()]) {
        // The engine marks what it has open.
        let file = dir.path().join(&name);
        std::fs::copy(golden(&name), &file).expect("the backup");
        let saved = verify(&file).expect("verifies");
        assert_eq!(
            (saved.lsn, saved.stamp_ms, saved.records),
            (LSN, STAMP_MS, 40)
        );
        for log in [LogKind::Redb, LogKind::Append] {
            // Beside the log of the store that it replaces.
            let data = dir.path().join(format!("{name}-{log:?}"));
            write_store(&data);
            let restored = restore(&file, &data, true, Floor::default()).expect("restores");
            assert_eq!(restored.records, 40);
            let (store, opened) = Store::open(&data, &options(log)).expect("opens");
            assert_eq!((opened.lsn, opened.restored.lsn), (LSN, LSN));
            assert_eq!(opened.restored.stamp_ms, STAMP_MS);
            check(&store);
        }
    }
    // What this program writes is what the newest of them has.
    let file = dir.path().join("now");
    backup(&file, 7, LSN, STAMP_MS, false, records()).expect("saves");
    let kept = golden(&format!("backup_v{BACKUP_FORMAT}"));
    assert!(std::fs::read(file).expect("reads") == std::fs::read(kept).expect("reads"));
}

#[test]
fn newer_format_of_a_backup_is_refused_by_its_number() {
    let dir = tempfile::tempdir().expect("scratch");
    let file = dir.path().join("newer");
    let mut image = std::fs::read(golden("backup_v1")).expect("reads");
    let newer = BACKUP_FORMAT + 1;
    for at in [12, 14] {
        image[at..at + 2].copy_from_slice(&newer.to_le_bytes());
    }
    std::fs::write(&file, image).expect("writes");
    for refused in [
        verify(&file).err(),
        restore(&file, &dir.path().join("data"), true, Floor::default()).err(),
    ] {
        let error = refused.expect("it is refused");
        assert!(
            matches!(
                error,
                StoreError::Version { format, reader_min, supported, .. }
                    if (format, reader_min, supported) == (newer, newer, BACKUP_FORMAT)
            ),
            "{error}"
        );
    }
    assert!(!dir.path().join("data").exists());
}
