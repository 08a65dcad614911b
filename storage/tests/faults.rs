//! Every single operation fails once: creation torn at each point, the Nth write, sync, rename or
//! read refused, a full disk. Afterwards everything acknowledged is there, nothing is half there,
//! and the store works again.

mod common;

use common::quiet_engine;
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use weir_storage::disk::Disk;
use weir_storage::sim::{Fault, SimDisk};
use weir_storage::{
    Batch, Floor, LogKind, Op, Options, Storage, Store, StoreError, Table, backup, restore_on,
};

const TABLE: Table = Table("stream");
const BATCHES: u64 = 12;

const LOGS: [LogKind; 2] = [LogKind::Redb, LogKind::Append];

fn options(log: LogKind) -> Options {
    Options {
        cache_bytes: 1 << 20,
        check_bytes_max: 0,
        reserve_bytes: 16 << 10,
        log,
        // Two entries each, so that segments are used again.
        log_segment_bytes: 12 << 10,
        pass_records: 4,
        applies_itself: false,
    }
}

fn open(log: LogKind, disk: &SimDisk) -> Result<(Store, weir_storage::Opened), StoreError> {
    Store::open_on(Arc::new(disk.clone()), &options(log))
}

/// Batch `n` writes its number to some keys of its own and to one that all share.
fn batch(n: u64) -> Batch {
    let mut ops = vec![put(b"\0shared", n)];
    ops.extend((0..5).map(|i| put(format!("\x01own-{n}-{i}").as_bytes(), n)));
    if n > 2 {
        ops.push(Op::Delete {
            table: TABLE,
            key: format!("\x01own-{}-4", n - 2).as_bytes().into(),
        });
    }
    Batch {
        lsn: n,
        stamp_ms: n,
        ops,
        ..Batch::default()
    }
}

fn put(key: &[u8], n: u64) -> Op {
    Op::Put {
        table: TABLE,
        key: key.into(),
        value: vec![n as u8; 400].into(),
    }
}

fn model(lsn: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut model = BTreeMap::new();
    for op in (1..=lsn).flat_map(|n| batch(n).ops) {
        match op {
            Op::Put { key, value, .. } => model.insert(key.to_vec(), value.to_vec()),
            Op::Delete { key, .. } => model.remove(&*key),
        };
    }
    model
}

fn contents(store: &Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut found = BTreeMap::new();
    store
        .load(TABLE, None, &mut |key, value| {
            found.insert(key.to_vec(), value.to_vec());
        })
        .expect("loads");
    found
}

#[test]
fn creation_torn_at_any_point_does_not_hinder_the_next() {
    quiet_engine();
    LOGS.into_iter().for_each(tear_creation);
}

fn tear_creation(log: LogKind) {
    let whole = SimDisk::new();
    open(log, &whole)
        .expect("creates")
        .0
        .close()
        .expect("closes");
    assert!(whole.operations() > 10);
    for at in 1..=whole.operations() {
        for seed in 0..20 {
            let disk = SimDisk::new();
            disk.set_fault(at, Fault::Cut);
            let first = open(log, &disk).map(|(store, opened)| {
                drop(store);
                opened.store_id
            });
            let after = disk.power_cut(seed);
            let (mut store, opened) = open(log, &after)
                .unwrap_or_else(|error| panic!("operation {at}, seed {seed}: {error}"));
            assert_eq!(opened.lsn, 0);
            if let Ok(id) = first {
                assert_eq!(opened.store_id, id, "operation {at}, seed {seed}");
            }
            assert!(after.length("weir.redb.new").expect("alive").is_none());
            store.commit(&batch(1)).expect("commits");
            assert_eq!(contents(&store), model(1));
        }
    }
}

/// Opens, commits, closes; whenever something fails, opens again. Returns the sequence number
/// acknowledged last.
fn work(log: LogKind, disk: &SimDisk, context: &str) {
    let mut store = None;
    let (mut acked, mut unknown, mut failures) = (0, None, 0);
    while acked < BATCHES {
        assert!(failures < 4, "{context}: one fault, {failures} failures");
        let opened = match &mut store {
            None => open(log, disk).map(|(new, opened)| {
                store = Some(new);
                Some(opened)
            }),
            Some(store) if store.is_failed() => store.reopen().map(Some),
            Some(_) => Ok(None),
        };
        match opened {
            Err(StoreError::Corrupt { what, .. }) => panic!("{context}: {what}"),
            Err(_) => failures += 1,
            Ok(Some(opened)) => {
                assert!(
                    opened.lsn == acked || Some(opened.lsn) == unknown,
                    "{context}: {}",
                    opened.lsn
                );
                acked = opened.lsn;
                let store = store.as_ref().expect("open");
                let mut found = BTreeMap::new();
                // A read may be the operation that fails. What it gave does not count then.
                let loaded = store.load(TABLE, None, &mut |key, value| {
                    found.insert(key.to_vec(), value.to_vec());
                });
                match loaded {
                    Ok(_) => assert!(found == model(acked), "{context}"),
                    Err(StoreError::Corrupt { what, .. }) => panic!("{context}: {what}"),
                    Err(_) => {
                        failures += 1;
                        assert!(failures < 4, "{context}: one fault, {failures} failures");
                    }
                }
            }
            Ok(None) => {}
        }
        let Some(store) = store.as_mut().filter(|store| !store.is_failed()) else {
            continue;
        };
        while acked < BATCHES {
            let is_due = log == LogKind::Append && acked % 5 == 4;
            if is_due && store.apply_log().is_err() {
                failures += 1;
                break;
            }
            match store.commit(&batch(acked + 1)) {
                Ok(()) => acked += 1,
                Err(StoreError::Corrupt { what, .. }) => panic!("{context}: {what}"),
                Err(_) => {
                    failures += 1;
                    if store.is_failed() {
                        assert!(matches!(
                            store.commit(&batch(acked + 1)),
                            Err(StoreError::Failed { .. })
                        ));
                        unknown = Some(acked + 1);
                    }
                    break;
                }
            }
        }
    }
    drop(store);
    // What was acknowledged after the fault is as durable as before it, though the failed sync
    // forgot what it held.
    let (store, opened) =
        open(log, &disk.power_cut(1)).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(opened.lsn, BATCHES, "{context}");
    assert!(contents(&store) == model(BATCHES), "{context}");
}

#[test]
fn any_one_operation_may_fail_without_losing_anything() {
    quiet_engine();
    LOGS.into_iter().for_each(fail_each_operation);
}

fn fail_each_operation(log: LogKind) {
    let whole = SimDisk::new();
    work(log, &whole, "without a fault");
    let (operations, reads) = (whole.operations(), whole.reads());
    assert!(operations > 100, "{log:?}: {operations}");
    for fault in [
        Fault::Once(ErrorKind::Other),
        Fault::Once(ErrorKind::StorageFull),
        Fault::Short(ErrorKind::Other),
        Fault::Short(ErrorKind::StorageFull),
    ] {
        for at in 1..=operations {
            let disk = SimDisk::new();
            disk.set_fault(at, fault);
            let context = format!("{log:?}, operation {at} of {operations}: {fault:?}");
            work(log, &disk, &context);
        }
    }
    for at in 1..=reads {
        let disk = SimDisk::new();
        disk.set_read_fault(at, ErrorKind::Other);
        work(log, &disk, &format!("{log:?}, read {at} of {reads}"));
    }
}

#[test]
fn a_dead_disk_is_an_error_every_time_and_its_return_is_noticed() {
    quiet_engine();
    for (log, at) in LOGS
        .into_iter()
        .flat_map(|log| [1, 2, 7, 20].map(|at| (log, at)))
    {
        let disk = SimDisk::new();
        let (mut store, _) = open(log, &disk).expect("opens");
        store.commit(&batch(1)).expect("commits");
        disk.set_fault(at, Fault::Always(ErrorKind::Other));
        let mut acked = 1;
        while store.commit(&batch(acked + 1)).is_ok() {
            acked += 1;
            // A log takes more as long as the tables follow.
            if log == LogKind::Append && store.apply_log().is_err() {
                break;
            }
        }
        for _ in 0..3 {
            assert!(matches!(
                store.reopen(),
                Err(StoreError::Io { .. } | StoreError::Failed { .. })
            ));
            assert!(store.is_failed());
            assert!(matches!(
                store.load(TABLE, None, &mut |_, _| {}),
                Err(StoreError::Failed { .. })
            ));
        }
        disk.clear_faults();
        let opened = store.reopen().expect("reopens");
        assert!(opened.lsn == acked || opened.lsn == acked + 1);
        assert_eq!(contents(&store), model(opened.lsn));
        store.commit(&batch(opened.lsn + 1)).expect("commits");
    }
}

/// A batch of eight records of 2,000 bytes.
fn big(n: u64) -> Batch {
    Batch {
        lsn: n,
        stamp_ms: n,
        ops: (0..8)
            .map(|i| Op::Put {
                table: TABLE,
                key: big_key(n, i),
                value: vec![n as u8; 2_000].into(),
            })
            .collect(),
        ..Batch::default()
    }
}

fn big_key(n: u64, i: u64) -> Box<[u8]> {
    format!("\0{n}-{i}").as_bytes().into()
}

/// Deletes the records of a batch and puts a small one, as an event about the deletion.
fn undo(lsn: u64, n: u64) -> Batch {
    let deletes = (0..8).map(|i| Op::Delete {
        table: TABLE,
        key: big_key(n, i),
    });
    let event = Op::Put {
        table: TABLE,
        key: format!("\0event-{lsn}").as_bytes().into(),
        value: vec![1; 200].into(),
    };
    Batch {
        lsn,
        stamp_ms: lsn,
        ops: deletes.chain([event]).collect(),
        frees_space: true,
    }
}

/// A store with a reserve of 1 MiB on a disk that it has filled, opened again. Also the options and
/// the last sequence number.
fn on_a_full_disk() -> (SimDisk, Options, Store, u64) {
    quiet_engine();
    let disk = SimDisk::new();
    let options = Options {
        reserve_bytes: 1 << 20,
        ..options(LogKind::Redb)
    };
    let (mut store, _) = Store::open_on(Arc::new(disk.clone()), &options).expect("opens");
    disk.set_bytes_max(disk.bytes_used() + (512 << 10));
    let mut lsn = 0;
    let full = loop {
        assert!(lsn < 1_000, "the disk has no end");
        match store.commit(&big(lsn + 1)) {
            Ok(()) => lsn += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, StoreError::Full { .. }), "{full}");
    assert!(store.is_failed() && store.is_short_of_space());
    let opened = store.reopen().expect("reopens on a full disk");
    assert!(opened.lsn == lsn || opened.lsn == lsn + 1);
    (disk, options, store, opened.lsn)
}

/// Goal: a full disk refuses writes, keeps what it has, still deletes, and recovers by itself.
#[test]
fn a_full_disk_still_deletes_and_recovers_when_space_returns() {
    let (disk, _, mut store, mut lsn) = on_a_full_disk();
    // Refused before anything is touched, so nothing has to be opened again.
    for _ in 0..3 {
        let refused = store.commit(&big(lsn + 1));
        assert!(
            matches!(
                refused,
                Err(StoreError::Full {
                    bytes: 2_097_152,
                    ..
                })
            ),
            "{refused:?}"
        );
        assert!(!store.is_failed());
    }
    let before = contents(&store).len();
    lsn += 1;
    store.commit(&undo(lsn, 1)).expect("deletes");
    assert_eq!(contents(&store).len(), before - 7);
    disk.set_bytes_max(u64::MAX);
    lsn += 1;
    store
        .commit(&big(lsn))
        .expect("commits as soon as there is space");
    assert!(!store.is_short_of_space());
    assert_eq!(disk.length("reserve").expect("alive"), Some(1 << 20));
    drop(store);
    assert_eq!(open(LogKind::Redb, &disk).expect("opens").1.lsn, lsn);
}

/// Goal: on a full disk the space of deleted records can be used, at once and after a restart.
#[test]
fn full_disk_takes_writes_into_the_space_of_deleted_records() {
    let (disk, options, mut store, last) = on_a_full_disk();
    let mut lsn = last;
    let refuses = |store: &mut Store, lsn: u64| {
        let refused = store.commit(&big(lsn + 1));
        assert!(
            matches!(refused, Err(StoreError::Full { .. })),
            "{refused:?}"
        );
        assert!(!store.is_failed(), "nothing was written");
    };
    refuses(&mut store, lsn);
    // Many small deletions, each with its event: the reserve takes what they need meanwhile.
    for n in 1..=last / 2 {
        lsn += 1;
        store.commit(&undo(lsn, n)).expect("deletes");
    }
    let mut taken = 0;
    while store.commit(&big(lsn + 1)).is_ok() {
        lsn += 1;
        taken += 1;
        assert!(taken < last, "more than was deleted");
    }
    assert!(taken > 0 && store.is_short_of_space());
    refuses(&mut store, lsn);
    for n in last / 2 + 1..=last {
        lsn += 1;
        store.commit(&undo(lsn, n)).expect("deletes");
    }
    store.close().expect("closes");
    let (mut store, opened) = Store::open_on(Arc::new(disk.clone()), &options).expect("opens");
    assert_eq!(opened.lsn, lsn);
    store.commit(&big(lsn + 1)).expect("has room");
}

#[test]
fn cut_restore_of_an_old_backup_leaves_the_old_store_or_it() {
    quiet_engine();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1.backup");
    let source = SimDisk::file(&std::fs::read(&file).expect("reads"));
    // Half of its records.
    let count = |store: &Store| store.load(TABLE, None, &mut |_, _| {}).expect("loads");
    cut_restore(&file, &*source, 4_711, |store| count(store) == 20);
}

#[test]
fn cut_restore_leaves_the_old_store_or_the_new_one() {
    quiet_engine();
    let dir = tempfile::tempdir().expect("scratch");
    let file = dir.path().join("backup");
    let records = model(7);
    let feed = records
        .iter()
        .map(|(key, value)| (TABLE, key.as_slice().into(), value.as_slice().into()));
    backup(&file, 1, 7, 7, false, feed).expect("saves");
    let source = SimDisk::file(&std::fs::read(&file).expect("reads"));
    cut_restore(&file, &*source, 7, |store| contents(store) == records);
}

/// Cuts the power, and fails, at every operation of a restore over a store at 1, and of one into an
/// empty directory.
fn cut_restore(
    file: &Path,
    source: &dyn StorageBackend,
    lsn: u64,
    is_restored: impl Fn(&Store) -> bool,
) {
    for has_store in [true, false] {
        cut_restore_over(has_store, file, source, lsn, &is_restored);
    }
}

fn cut_restore_over(
    has_store: bool,
    file: &Path,
    source: &dyn StorageBackend,
    lsn: u64,
    is_restored: &dyn Fn(&Store) -> bool,
) {
    let prepared = || {
        let disk = SimDisk::new();
        if !has_store {
            return (disk, 0);
        }
        let (mut store, opened) = open(LogKind::Redb, &disk).expect("creates");
        store.commit(&batch(1)).expect("commits");
        store.close().expect("closes");
        (disk, opened.store_id)
    };
    let (disk, _) = prepared();
    let before = disk.operations();
    restore_on(&disk, file, source, true, Floor::default()).expect("restores");
    let operations = disk.operations() - before;
    assert!(operations > 10);
    for at in 1..=operations {
        for fault in [
            Fault::Cut,
            Fault::Once(ErrorKind::Other),
            Fault::Once(ErrorKind::StorageFull),
        ] {
            let (disk, old) = prepared();
            disk.set_fault(at, fault);
            let result = restore_on(&disk, file, source, true, Floor::default());
            assert!(result.is_err() || fault != Fault::Cut, "operation {at}");
            let after = disk.power_cut(at);
            let (store, opened) = open(LogKind::Redb, &after)
                .unwrap_or_else(|error| panic!("operation {at}, {fault:?}: {error}"));
            match result {
                Ok(restored) => assert_eq!(opened.store_id, restored.opened.store_id),
                Err(_) => {
                    let is_old = opened.store_id == old || (!has_store && opened.lsn == 0);
                    assert!(is_old || opened.lsn == lsn, "operation {at}, {fault:?}");
                }
            }
            let is_whole = if opened.lsn == lsn {
                is_restored(&store)
            } else {
                contents(&store) == model(opened.lsn)
            };
            assert!(is_whole, "operation {at}, {fault:?}");
        }
    }
}
