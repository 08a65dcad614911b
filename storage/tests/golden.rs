//! Files of every released format still open and hold what was written: `golden/v1.redb`,
//! `golden/v1.backup`.
//!
//! They are made once per format by `WEIR_GOLDEN=write cargo test -p weir-storage --test golden`
//! and never changed.

use std::path::{Path, PathBuf};
use weir_storage::{Batch, FORMAT, Log, Op, Options, Store, Table, backup, restore, verify};

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

#[test]
fn files_of_every_released_format_still_open() {
    let dir = tempfile::tempdir().expect("scratch");
    if std::env::var("WEIR_GOLDEN").is_ok() {
        let (mut store, opened) =
            Store::open(&dir.path().join("new"), &Options::default()).expect("creates");
        let ops = records()
            .into_iter()
            .map(|(table, key, value)| Op::Put { table, key, value })
            .collect();
        store
            .commit(&Batch {
                lsn: LSN,
                stamp_ms: STAMP_MS,
                ops,
                ..Batch::default()
            })
            .expect("commits");
        store.close().expect("closes");
        std::fs::copy(
            dir.path().join("new/weir.redb"),
            golden(&format!("v{FORMAT}.redb")),
        )
        .expect("copies");
        backup(
            &golden(&format!("v{FORMAT}.backup")),
            opened.store_id,
            LSN,
            STAMP_MS,
            false,
            records(),
        )
        .expect("saves");
    }
    for format in 1..=FORMAT {
        let data = dir.path().join(format!("v{format}"));
        std::fs::create_dir(&data).expect("creates");
        std::fs::copy(golden(&format!("v{format}.redb")), data.join("weir.redb"))
            .expect("the file of this format");
        let (store, opened) = Store::open(&data, &Options::default()).expect("opens");
        assert_eq!(
            (opened.lsn, opened.stamp_ms, opened.clean),
            (LSN, STAMP_MS, true)
        );
        check(&store);
        drop(store);

        let file = dir.path().join(format!("v{format}.backup"));
        std::fs::copy(golden(&format!("v{format}.backup")), &file)
            .expect("the backup of this format");
        let saved = verify(&file).expect("verifies");
        assert_eq!(
            (saved.lsn, saved.stamp_ms, saved.records, saved.store_id),
            (LSN, STAMP_MS, 40, opened.store_id)
        );
        assert_eq!(
            restore(&file, &data, true, 0).expect("restores").records,
            40
        );
        check(&Store::open(&data, &Options::default()).expect("opens").0);
    }
}
