//! A store seen through its API on a real directory: what is kept, what is refused, and how.

mod common;

use common::Random;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use weir_storage::{
    ArchiveWriter, Batch, FORMAT, Floor, Op, Opened, Options, Storage, Store, StoreError, Table,
    backup, restore, verify,
};

const STREAM: Table = Table("stream");
const NODE: Table = Table("streamer");

type Model = BTreeMap<(&'static str, Vec<u8>), Vec<u8>>;

fn put(table: Table, key: &[u8], value: &[u8]) -> Op {
    Op::Put {
        table,
        key: key.into(),
        value: value.into(),
    }
}

fn delete(table: Table, key: &[u8]) -> Op {
    Op::Delete {
        table,
        key: key.into(),
    }
}

fn batch(lsn: u64, ops: Vec<Op>) -> Batch {
    Batch {
        lsn,
        stamp_ms: 1_000 + lsn,
        ops,
        ..Batch::default()
    }
}

fn open(path: &Path) -> (Store, Opened) {
    Store::open(path, &Options::default()).expect("opens")
}

fn contents(store: &Store) -> Model {
    let mut model = Model::new();
    for table in [STREAM, NODE] {
        let count = store
            .load(table, None, &mut |key, value| {
                model.insert((table.0, key.to_vec()), value.to_vec());
            })
            .expect("loads");
        assert_eq!(
            count,
            model.keys().filter(|(name, _)| *name == table.0).count() as u64
        );
    }
    model
}

/// Small enough to overwrite often, spread over four shards.
fn key(n: u64) -> Vec<u8> {
    let mut key = vec![(n % 4) as u8 * 85];
    key.extend_from_slice(format!("name-{n:05}").as_bytes());
    key
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let dir = tempfile::tempdir().expect("scratch");
    let path = dir.path().join("data");
    let (mut store, opened) = open(&path);
    assert_eq!((opened.lsn, opened.stamp_ms, opened.clean), (0, 0, true));
    assert_ne!(opened.store_id, 0);
    store
        .commit(&batch(
            3,
            vec![
                put(STREAM, b"\x01b", b"\x012"),
                put(NODE, b"\xffn", b"\x01node"),
                put(STREAM, b"\x01a", b"\x011"),
            ],
        ))
        .expect("commits");
    store
        .commit(&batch(
            9,
            vec![delete(STREAM, b"\x01b"), delete(STREAM, b"\x01absent")],
        ))
        .expect("commits");
    let before = contents(&store);
    assert_eq!(before.len(), 2);
    store.close().expect("closes");
    let (store, again) = open(&path);
    assert_eq!(
        again,
        Opened {
            lsn: 9,
            stamp_ms: 1_009,
            clean: true,
            checked: false,
            ..opened
        }
    );
    assert_eq!(contents(&store), before);
    assert_eq!(
        store
            .load(Table("never"), None, &mut |_, _| panic!("nothing there"))
            .expect("empty"),
        0
    );
}

#[test]
fn the_last_of_several_operations_on_a_key_counts() {
    let dir = tempfile::tempdir().expect("scratch");
    let (mut store, _) = open(dir.path());
    let ops = vec![
        put(STREAM, b"\0a", b"1"),
        put(STREAM, b"\0b", b"1"),
        delete(STREAM, b"\0a"),
        put(STREAM, b"\0b", b"2"),
        put(STREAM, b"\0a", b"3"),
        delete(STREAM, b"\0b"),
        put(STREAM, b"\0c", b""),
    ];
    store.commit(&batch(1, ops)).expect("commits");
    let expected = Model::from([
        (("stream", b"\0a".to_vec()), b"3".to_vec()),
        (("stream", b"\0c".to_vec()), vec![]),
    ]);
    assert_eq!(contents(&store), expected);
}

#[test]
fn random_histories_agree_with_a_map_in_every_shard() {
    let dir = tempfile::tempdir().expect("scratch");
    let (mut store, _) = open(dir.path());
    let (mut model, mut random, mut lsn) = (Model::new(), 7_u64, 0);
    for _ in 0..60 {
        let mut ops = Vec::new();
        for _ in 0..40 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let (table, key) = (
                if random >> 60 == 0 { NODE } else { STREAM },
                key((random >> 40) % 300),
            );
            if (random >> 33) % 3 == 0 {
                model.remove(&(table.0, key.clone()));
                ops.push(delete(table, &key));
            } else {
                let value = vec![random as u8; (random >> 20) as usize % 900];
                ops.push(put(table, &key, &value));
                model.insert((table.0, key), value);
            }
        }
        lsn += 1;
        store.commit(&batch(lsn, ops)).expect("commits");
        if lsn % 20 == 0 {
            assert_eq!(store.reopen().expect("reopens").lsn, lsn);
            assert_eq!(contents(&store), model);
        }
    }
    std::thread::scope(|scope| {
        for shard in [0, 85, 170, 255, 7] {
            let (store, model) = (&store, &model);
            scope.spawn(move || {
                let mut part = Model::new();
                store
                    .load(STREAM, Some(shard), &mut |key, value| {
                        part.insert((STREAM.0, key.to_vec()), value.to_vec());
                    })
                    .expect("loads");
                let expected: Model = model
                    .iter()
                    .filter(|((table, key), _)| *table == STREAM.0 && key[0] == shard)
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                assert_eq!(part, expected);
            });
        }
    });
}

#[test]
fn second_owner_is_refused_with_the_pid_of_the_first() {
    let dir = tempfile::tempdir().expect("scratch");
    let (store, _) = open(dir.path());
    let Err(StoreError::Locked { pid, .. }) = Store::open(dir.path(), &Options::default()) else {
        panic!("not locked")
    };
    assert_eq!(pid, Some(std::process::id()));
    drop(store);
    open(dir.path());
}

#[test]
fn leftovers_of_an_unfinished_creation_are_cleaned() {
    let dir = tempfile::tempdir().expect("scratch");
    std::fs::write(dir.path().join("weir.redb.new"), b"half").expect("writes");
    let (store, opened) = open(dir.path());
    assert_eq!(opened.lsn, 0);
    drop(store);
    std::fs::write(dir.path().join("weir.redb.new"), b"half").expect("writes");
    assert_eq!(open(dir.path()).1.store_id, opened.store_id);
    assert!(!dir.path().join("weir.redb.new").exists());
}

#[test]
fn foreign_and_short_files_are_refused_and_left_alone() {
    for contents in [
        &b""[..],
        b"hello",
        &[0; 8192],
        &b"redb\x1a\x0a\xa9\x0d\x0a".repeat(500),
    ] {
        let dir = tempfile::tempdir().expect("scratch");
        let file = dir.path().join("weir.redb");
        std::fs::write(&file, contents).expect("writes");
        match Store::open(dir.path(), &Options::default()) {
            Err(StoreError::Corrupt { .. }) => {}
            other => panic!("{:?}", other.map(|(_, opened)| opened)),
        }
        assert_eq!(std::fs::read(&file).expect("reads"), contents);
    }
}

#[test]
fn missing_parent_directory_is_reported() {
    let dir = tempfile::tempdir().expect("scratch");
    let Err(error) = Store::open(&dir.path().join("mount/data"), &Options::default()) else {
        panic!("opened")
    };
    assert!(
        error.to_string().contains("create the directory above"),
        "{error}"
    );
}

#[test]
fn a_newer_format_is_refused_with_both_numbers() {
    use redb::{Database, TableDefinition};
    use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};
    let dir = tempfile::tempdir().expect("scratch");
    open(dir.path()).0.close().expect("closes");
    for (reader_min, refused) in [(FORMAT, false), (FORMAT + 1, true)] {
        let value = [(FORMAT + 7).to_le_bytes(), reader_min.to_le_bytes()].concat();
        let parts = [
            xxh3_64_with_seed(b"format", xxh3_64(b"weir.meta")).to_le_bytes(),
            xxh3_64(&value).to_le_bytes(),
        ];
        let mut row = xxh3_64(&parts.concat()).to_le_bytes().to_vec();
        row.extend(&value);
        let db = Database::open(dir.path().join("weir.redb")).expect("opens");
        let txn = db.begin_write().expect("begins");
        txn.open_table(TableDefinition::<&[u8], &[u8]>::new("weir.meta"))
            .expect("opens")
            .insert(&b"format"[..], row.as_slice())
            .expect("inserts");
        txn.commit().expect("commits");
        drop(db);
        match Store::open(dir.path(), &Options::default()) {
            Ok(_) => assert!(!refused),
            Err(StoreError::Version {
                format,
                reader_min,
                supported,
                ..
            }) => {
                assert!(refused);
                assert_eq!(
                    (format, reader_min, supported),
                    (FORMAT + 7, FORMAT + 1, FORMAT)
                );
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_backup_restores_to_the_same_records_under_a_new_id() {
    let dir = tempfile::tempdir().expect("scratch");
    let (mut store, opened) = open(&dir.path().join("data"));
    let ops = (0..500)
        .map(|n| put(STREAM, &key(n), &[n as u8; 300]))
        .chain([put(NODE, b"\x05x", b"1")])
        .collect();
    store.commit(&batch(77, ops)).expect("commits");
    let before = contents(&store);
    let file = dir.path().join("all.backup");
    let feed = |model: &Model| -> Vec<_> {
        let table = |name| if name == STREAM.0 { STREAM } else { NODE };
        model
            .iter()
            .map(|((name, key), value)| {
                (
                    table(*name),
                    key.as_slice().into(),
                    Arc::from(value.as_slice()),
                )
            })
            .collect()
    };
    let saved = backup(&file, opened.store_id, 77, 1_077, false, feed(&before)).expect("saves");
    assert_eq!(
        (saved.records, saved.lsn, saved.store_id),
        (501, 77, opened.store_id)
    );
    assert_eq!(verify(&file).expect("verifies"), saved);
    let refused = backup(&file, opened.store_id, 78, 1_078, false, feed(&before));
    assert!(matches!(refused, Err(StoreError::Exists { .. })));
    backup(&file, opened.store_id, 77, 1_077, true, feed(&before)).expect("replaces");

    // In use, then there, then replaced.
    let data = dir.path().join("data");
    assert!(matches!(
        restore(&file, &data, true, Floor::default()),
        Err(StoreError::Locked { .. })
    ));
    store
        .commit(&batch(78, vec![put(STREAM, b"\0later", b"")]))
        .expect("commits");
    let later = contents(&store);
    store.close().expect("closes");
    assert!(matches!(
        restore(&file, &data, false, Floor::default()),
        Err(StoreError::Exists { .. })
    ));
    assert_eq!(contents(&open(&data).0), later);
    let floor = Floor {
        stamp_ms: 5_000,
        lsn: 0,
    };
    let restored = restore(&file, &data, true, floor).expect("restores");
    assert_eq!(
        (
            restored.records,
            restored.opened.lsn,
            restored.opened.stamp_ms
        ),
        // A batch a millisecond may have been committed since.
        (501, 77 + (5_000 - 1_077), 5_000)
    );
    assert_eq!(restored.opened.restored.lsn, restored.opened.lsn);
    let (store, again) = open(&data);
    assert_eq!(again.store_id, restored.opened.store_id);
    assert_eq!(again.restored, restored.opened.restored);
    assert_ne!(again.store_id, opened.store_id);
    assert_eq!(contents(&store), before);
    drop(store);

    // Anywhere else as well, and a backup is no store.
    let other = dir.path().join("other");
    assert_eq!(
        restore(&file, &other, false, Floor::default())
            .expect("restores")
            .opened
            .stamp_ms,
        1_077
    );
    assert_eq!(contents(&open(&other).0), before);
    std::fs::copy(&file, other.join("weir.redb")).expect("copies");
    assert!(matches!(
        Store::open(&other, &Options::default()),
        Err(StoreError::Corrupt { .. })
    ));
}

#[test]
fn damaged_backups_are_refused_and_the_old_store_stays() {
    let dir = tempfile::tempdir().expect("scratch");
    let data = dir.path().join("data");
    let (mut store, _) = open(&data);
    store
        .commit(&batch(1, vec![put(NODE, b"\0old", b"old")]))
        .expect("commits");
    let old = contents(&store);
    store.close().expect("closes");
    let records: Vec<_> = (0..200)
        .map(|n| {
            (
                STREAM,
                key(n).into_boxed_slice(),
                Arc::from([n as u8; 200].as_slice()),
            )
        })
        .collect();
    let file = dir.path().join("good.backup");
    backup(&file, 1, 5, 5, false, records.clone()).expect("saves");
    let good = std::fs::read(&file).expect("reads");
    let bad = dir.path().join("bad.backup");
    let mut random = Random::new(common::number("WEIR_SEED", 99));
    let refused = |image: &[u8], what: &str| {
        std::fs::write(&bad, image).expect("writes");
        let restored = restore(&bad, &data, true, Floor::default());
        assert!(restored.is_err(), "{what}: {restored:?}");
        assert!(verify(&bad).is_err(), "{what}");
        assert!(!data.join("weir.redb.new").exists(), "{what}");
    };
    for _ in 0..100 {
        let at = random.below(good.len() as u64) as usize;
        let mut image = good.clone();
        image[at] ^= 1 << random.below(8);
        refused(&image, &format!("a bit of byte {at}"));
        refused(&good[..at], &format!("cut at byte {at}"));
    }
    assert_eq!(contents(&open(&data).0), old);
}

/// The whole file in memory, as it is checked while it arrives.
fn is_whole(image: &[u8]) -> Result<(), StoreError> {
    weir_storage::copy_verified(Path::new("b"), image, |_| Ok(())).map(drop)
}

#[test]
fn every_bit_and_every_byte_of_a_backup_counts() {
    let dir = tempfile::tempdir().expect("scratch");
    let file = dir.path().join("backup");
    let record = |n: u8| (STREAM, key(n.into()).into(), Arc::from([n; 5].as_slice()));
    let records = (0..4).map(record).chain([(
        NODE,
        Box::from(b"\x05x".as_slice()),
        Arc::from(b"".as_slice()),
    )]);
    backup(&file, 1, 5, 5, false, records).expect("saves");
    let good = std::fs::read(&file).expect("reads");
    is_whole(&good).expect("it is whole");
    assert!(good.len() > 150, "{}", good.len());
    for at in 0..good.len() {
        assert!(is_whole(&good[..at]).is_err(), "cut at byte {at}");
        for bit in 0..8 {
            let mut image = good.clone();
            image[at] ^= 1 << bit;
            assert!(is_whole(&image).is_err(), "bit {bit} of byte {at}");
        }
    }
    for more in [&b"\0"[..], b"weir.backup\n", &good] {
        assert!(is_whole(&[&good, more].concat()).is_err());
    }
}

#[test]
fn crafted_backups_with_a_right_checksum_are_refused() {
    // The writer takes what a caller gives; the reader must not believe a file because its sum is
    // right.
    let dir = tempfile::tempdir().expect("scratch");
    let file = dir.path().join("backup");
    let made = |records: Vec<(Table, &[u8])>, lsn: u64| {
        let mut out = Vec::new();
        let mut writer = ArchiveWriter::begin(1, lsn, 5, &mut out);
        for (table, key) in records {
            writer.record(table, key, 1, &mut out);
            writer.value(b"1", &mut out);
        }
        writer.end(&mut out);
        std::fs::write(&file, out).expect("writes");
        restore(&file, &dir.path().join("data"), true, Floor::default())
    };
    for (what, records, lsn) in [
        (
            "a table of the store's own",
            vec![(Table("weir.meta"), &b"head"[..])],
            5,
        ),
        ("a table without a name", vec![(Table(""), &b"\0a"[..])], 5),
        ("a key without a shard", vec![(STREAM, &b""[..])], 5),
        (
            "a key twice",
            vec![(STREAM, &b"\0a"[..]), (STREAM, b"\0a")],
            5,
        ),
        (
            "no room for the next number",
            vec![(STREAM, &b"\0a"[..])],
            u64::MAX,
        ),
    ] {
        let restored = made(records, lsn);
        assert!(
            matches!(restored, Err(StoreError::Corrupt { .. })),
            "{what}: {restored:?}"
        );
        assert!(
            !dir.path().join("data").join("weir.redb").exists(),
            "{what}"
        );
    }
    made(vec![(STREAM, b"\0a")], 5).expect("the same without a fault");
}

#[test]
fn foreign_bytes_with_a_right_checksum_end_in_an_error_or_whole() {
    // Lengths that reach beyond the file, kinds and names that are none: no panic, no memory for
    // what is not there.
    let dir = tempfile::tempdir().expect("scratch");
    let file = dir.path().join("backup");
    let record = |n: u8| (STREAM, key(n.into()).into(), Arc::from([n; 5].as_slice()));
    backup(&file, 1, 5, 5, false, (0..4).map(record)).expect("saves");
    let good = std::fs::read(&file).expect("reads");
    let body = &good[..good.len() - 32];
    let mut random = Random::new(common::number("WEIR_SEED", 7));
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut image = body.to_vec();
        for _ in 0..=random.below(3) {
            let at = random.below(image.len() as u64) as usize;
            image[at] = [0, 1, 2, 3, 0x7f, 0xff, random.below(256) as u8][random.below(7) as usize];
        }
        if random.below(4) == 0 {
            image.truncate(random.below(image.len() as u64) as usize);
        }
        let sum = Sha256::digest(&image);
        image.extend_from_slice(&sum);
        match weir_storage::copy_verified(Path::new("b"), &image[..], |_| Ok(())) {
            Ok(saved) => assert!(saved.records <= 5 && saved.bytes == image.len() as u64),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 5_000, "{refused}");
}
