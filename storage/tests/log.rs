//! The append log by itself: what is in it and not in the tables, and what damage does to it.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::quiet_engine;
use weir_storage::sim::{Fault, SimDisk};
use weir_storage::{Batch, LogKind, Op, Opened, Options, Storage, Store, StoreError, Table};

const TABLE: Table = Table("stream");

fn options(log: LogKind) -> Options {
    Options {
        cache_bytes: 1 << 20,
        check_bytes_max: 0,
        reserve_bytes: 0,
        log,
        log_segment_bytes: 16 << 10,
        pass_records: 2000,
        applies_itself: false,
    }
}

fn open(disk: &SimDisk) -> Result<(Store, Opened), StoreError> {
    Store::open_on(Arc::new(disk.clone()), &options(LogKind::Append))
}

/// Batch `n`: two records of its own, one that all write, and the deletion of one of the batch
/// before.
fn batch(n: u64) -> Batch {
    let key = |n: u64| format!("\x01own-{n}").into_bytes();
    let put = |key: Vec<u8>| Op::Put {
        table: TABLE,
        key: key.into(),
        value: vec![n as u8; 300].into(),
    };
    let before = Op::Delete {
        table: TABLE,
        key: key(n - 1).into(),
    };
    Batch {
        lsn: n,
        stamp_ms: n,
        ops: vec![
            put(key(n)),
            put(b"\0shared".to_vec()),
            put(format!("\0kept-{n}").into_bytes()),
            before,
        ],
        ..Batch::default()
    }
}

fn model(n: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut model = BTreeMap::new();
    for op in (1..=n).flat_map(|n| batch(n).ops) {
        match op {
            Op::Put { key, value, .. } => model.insert(key.to_vec(), value.to_vec()),
            Op::Delete { key, .. } => model.remove(&*key),
        };
    }
    model
}

fn contents(store: &Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut found = BTreeMap::new();
    let load = |shard, found: &mut BTreeMap<Vec<u8>, Vec<u8>>| {
        let mut last: Vec<u8> = Vec::new();
        let count = store.load(TABLE, shard, &mut |key, value| {
            assert!(*key > *last, "in key order");
            last = key.to_vec();
            found.insert(key.to_vec(), value.to_vec());
        });
        count.expect("loads")
    };
    let count = load(None, &mut found);
    assert_eq!(count, found.len() as u64);
    let mut by_shard = BTreeMap::new();
    for shard in [0, 1, 2, 255] {
        load(Some(shard), &mut by_shard);
    }
    assert_eq!(by_shard, found);
    found
}

#[test]
fn records_of_log_and_tables_are_read_as_one() {
    quiet_engine();
    let disk = SimDisk::new();
    let (mut store, _) = open(&disk).expect("creates");
    let applied = store.applied_lsn();
    for n in 1..=20 {
        store.commit(&batch(n)).expect("commits");
        assert_eq!(contents(&store), model(n));
        assert_eq!(applied.load(Ordering::Relaxed), (n - 1) / 7 * 7);
        if n % 7 == 0 {
            store.apply_log().expect("applies");
            assert_eq!(contents(&store), model(n));
            assert_eq!(applied.load(Ordering::Relaxed), n);
        }
    }
    assert_eq!(store.tables(), ["stream"]);
    drop(store);
    let (store, opened) = open(&disk).expect("opens");
    assert_eq!((opened.lsn, opened.stamp_ms), (20, 20));
    assert_eq!(contents(&store), model(20));
}

#[test]
fn full_log_takes_more_once_the_tables_have_its_beginning() {
    quiet_engine();
    let disk = SimDisk::new();
    let (mut store, _) = open(&disk).expect("creates");
    let mut n = 0;
    for _ in 0..3 {
        let refused = loop {
            match store.commit(&batch(n + 1)) {
                Ok(()) => n += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
        assert!(!store.is_failed() && !store.is_short_of_space());
        assert_eq!(contents(&store), model(n));
        store.apply_log().expect("applies");
    }
    // Eight segments of three entries each, three times, and what is left of the last one.
    assert!(n >= 66, "{n}");
    let length = disk.contents("weir.log.3").expect("a segment").len();
    assert_eq!(length, 16 << 10, "files do not grow");
}

#[test]
fn applier_keeps_up_with_commits() {
    quiet_engine();
    let disk = SimDisk::new();
    let options = Options {
        applies_itself: true,
        ..options(LogKind::Append)
    };
    let (mut store, _) = Store::open_on(Arc::new(disk.clone()), &options).expect("creates");
    for n in 1..=500 {
        store.commit(&batch(n)).expect("commits");
    }
    assert_eq!(contents(&store), model(500));
    store.close().expect("closes");
    let (store, opened) = open(&disk).expect("opens");
    assert!(opened.clean);
    assert_eq!(contents(&store), model(500));
}

#[test]
fn flipped_bits_of_the_log_are_found_or_harmless() {
    quiet_engine();
    const BATCHES: u64 = 8;
    let disk = SimDisk::new();
    let (mut store, _) = open(&disk).expect("creates");
    for n in 1..=BATCHES {
        store.commit(&batch(n)).expect("commits");
        if n == 2 {
            store.apply_log().expect("applies");
        }
    }
    drop(store);
    let (mut found, mut harmless) = (0, 0);
    for file in ["weir.log.0", "weir.log.1", "weir.log.2"] {
        let whole = disk.contents(file).expect("a segment");
        for at in 0..whole.len() {
            // One bit of each byte of a header, and of some others; `entry` tries every bit.
            if at % 4096 >= 64 && at % 37 > 0 {
                continue;
            }
            let damaged = disk.power_cut(1);
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            damaged.set_contents(file, &flipped);
            match open(&damaged) {
                Ok((store, opened)) => {
                    assert_eq!(opened.lsn, BATCHES, "{file} byte {at}");
                    assert!(contents(&store) == model(BATCHES));
                    harmless += 1;
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains("weir.log"), "{file} byte {at}: {text}");
                    // One of an entry is corrected.
                    assert!(at < 64, "{file} byte {at}: {text}");
                    found += 1;
                }
            }
        }
    }
    assert!(found > 100 && harmless > 1000, "{found} {harmless}");
}

#[test]
fn store_is_closed_although_the_tables_cannot_take_the_log() {
    quiet_engine();
    let disk = SimDisk::new();
    let (mut store, _) = open(&disk).expect("creates");
    for n in 1..=5 {
        store.commit(&batch(n)).expect("commits");
    }
    disk.set_fault(1, Fault::Always(std::io::ErrorKind::StorageFull));
    store.close().expect("nothing is lost");
    disk.clear_faults();
    let (store, opened) = open(&disk).expect("opens");
    assert_eq!(opened.lsn, 5);
    assert_eq!(contents(&store), model(5));
}

#[test]
fn tables_ahead_of_their_log_are_refused() {
    // Goal: records of a pass that was cut are not believed without the entries that they are from.
    quiet_engine();
    let (mut refused, mut opened) = (0, 0);
    for at in 1..80 {
        let disk = SimDisk::new();
        let options = Options {
            pass_records: 1,
            ..options(LogKind::Append)
        };
        let (mut store, _) = Store::open_on(Arc::new(disk.clone()), &options).expect("creates");
        for n in 1..=3 {
            store.commit(&batch(n)).expect("commits");
        }
        disk.set_fault(at, Fault::Cut);
        let is_cut = store.apply_log().is_err();
        drop(store);
        let after = disk.power_cut(at);
        let log = after.contents("weir.log.0").expect("a segment");
        after.set_contents("weir.log.0", &log[..2 * 4096]);
        match open(&after) {
            Ok((store, _)) => {
                assert!(is_cut, "operation {at}");
                assert_eq!(contents(&store), model(1), "operation {at}");
                opened += 1;
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("the tables have records of 3"), "{text}");
                refused += 1;
            }
        }
    }
    assert!(refused > 10 && opened > 3, "{refused} {opened}");
}

#[test]
fn long_log_is_replayed_on_all_processors() {
    // Goal: the newest change of each key counts, whichever thread has it. Method: 4 MiB of entries
    // that put and delete few keys again and again, in two tables.
    quiet_engine();
    let disk = SimDisk::new();
    let options = Options {
        log: LogKind::Append,
        applies_itself: false,
        ..Options::default()
    };
    let (mut store, _) = Store::open_on(Arc::new(disk.clone()), &options).expect("creates");
    let tables = [Table("one"), Table("two")];
    let mut model = [BTreeMap::new(), BTreeMap::new()];
    for lsn in 1..=200_u64 {
        let mut ops = Vec::new();
        for i in 0..40 {
            let (at, n) = ((lsn + i) % 2, lsn.wrapping_mul(31) + i * 7);
            let key = vec![(n % 5) as u8, (n % 97) as u8];
            let table = tables[at as usize];
            if (lsn + i) % 6 == 0 {
                model[at as usize].remove(&key);
                ops.push(Op::Delete {
                    table,
                    key: key.into(),
                });
            } else {
                let value: Arc<[u8]> = (lsn * 100 + i).to_le_bytes().repeat(64).into();
                model[at as usize].insert(key.clone(), value.to_vec());
                ops.push(Op::Put {
                    table,
                    key: key.into(),
                    value,
                });
            }
        }
        let batch = Batch {
            lsn,
            stamp_ms: lsn,
            ops,
            ..Batch::default()
        };
        store.commit(&batch).expect("commits");
    }
    drop(store);
    let (store, opened) = Store::open_on(Arc::new(disk.clone()), &options).expect("opens");
    assert_eq!(opened.lsn, 200);
    for (table, model) in tables.iter().zip(model) {
        let mut found = BTreeMap::new();
        let mut add = |key: &[u8], value: &[u8]| {
            found.insert(key.to_vec(), value.to_vec());
        };
        store.load(*table, None, &mut add).expect("loads");
        assert_eq!(found, model);
        assert!(found.len() > 100);
    }
}

#[test]
fn a_lost_segment_is_found() {
    quiet_engine();
    let disk = SimDisk::new();
    let (mut store, _) = open(&disk).expect("creates");
    for n in 1..=10 {
        store.commit(&batch(n)).expect("commits");
        if n == 4 {
            store.apply_log().expect("applies");
        }
    }
    drop(store);
    // The first file was used again, for the entries after those of the second.
    for file in ["weir.log.0", "weir.log.1"] {
        let damaged = disk.power_cut(1);
        damaged.set_contents(file, &[]);
        let error = open(&damaged).map(|_| ()).expect_err("entries are missing");
        assert!(error.to_string().contains("entry"), "{error}");
    }
}
