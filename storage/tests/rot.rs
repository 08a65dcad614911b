//! Bit rot: one flipped bit anywhere in the file is an error or harmless, never other data, before and after more commits.
//!
//! `WEIR_FLIPS=100000` flips that many, `WEIR_SEED=n` chooses others.

mod common;

use common::{Random, number, quiet_engine};
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_storage::sim::SimDisk;
use weir_storage::{Batch, Log, Op, Options, Store, StoreError, Table};

const TABLE: Table = Table("stream");
const FILE: &str = "weir.redb";
/// Position of the engine's flags; the lowest bit says which of the two newest commits counts.
const FLAGS_AT: usize = 9;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(disk: &SimDisk, check_bytes_max: u64) -> Result<(Store, weir_storage::Opened), StoreError> {
    let options = Options {
        cache_bytes: 4 << 20,
        check_bytes_max,
        reserve_bytes: 0,
    };
    Store::open_on(Arc::new(disk.clone()), &options)
}

fn put(key: Vec<u8>, value: Vec<u8>) -> Op {
    Op::Put {
        table: TABLE,
        key: key.into(),
        value: value.into(),
    }
}

fn key(n: u64) -> Vec<u8> {
    [&[(n % 16) as u8][..], format!("stream-{n:05}").as_bytes()].concat()
}

fn contents(store: &Store) -> Result<Model, StoreError> {
    let mut found = Model::new();
    store.load(TABLE, None, &mut |key, value| {
        found.insert(key.to_vec(), value.to_vec());
    })?;
    Ok(found)
}

/// A store with 1,200 records, some overwritten and some deleted, and what is in it after each of the last two commits.
fn written() -> (SimDisk, Store, [Model; 2]) {
    let disk = SimDisk::new();
    let (mut store, _) = open(&disk, 0).expect("creates");
    let commit = |store: &mut Store, lsn, ops| {
        let batch = Batch {
            lsn,
            stamp_ms: lsn,
            ops,
        };
        store.commit(&batch).expect("commits");
    };
    commit(
        &mut store,
        1,
        (0..1_200)
            .map(|n| put(key(n), vec![n as u8; 150]))
            .collect(),
    );
    commit(
        &mut store,
        2,
        (0..300)
            .map(|n| put(key(n * 4), vec![!n as u8; 250]))
            .collect(),
    );
    let before = contents(&store).expect("loads");
    let delete = |n: u64| Op::Delete {
        table: TABLE,
        key: key(n * 7).into(),
    };
    commit(&mut store, 3, (0..100).map(delete).collect());
    let after = contents(&store).expect("loads");
    (disk, store, [before, after])
}

#[derive(Default, Debug)]
struct Tally {
    refused_open: u32,
    refused_load: u32,
    refused_commit: u32,
    refused_later: u32,
    harmless: u32,
    older_commit: u32,
}

fn flip(image: &[u8], bit: usize, check_bytes_max: u64, models: &[Model; 2], tally: &mut Tally) {
    let mut image = image.to_vec();
    image[bit / 8] ^= 1 << (bit % 8);
    let disk = SimDisk::new();
    disk.set_contents(FILE, &image);
    let context = || format!("byte {} bit {}", bit / 8, bit % 8);
    let Ok((mut store, opened)) = open(&disk, check_bytes_max) else {
        tally.refused_open += 1;
        return;
    };
    let Ok(found) = contents(&store) else {
        tally.refused_load += 1;
        return;
    };
    let mut model = if opened.lsn == 3 && found == models[1] {
        models[1].clone()
    } else if opened.lsn == 2 && found == models[0] {
        // One bit in an uncleanly stopped file cannot be told from a crash: the choice between the two newest commits.
        assert_eq!(bit, FLAGS_AT * 8, "{}: an older commit", context());
        tally.older_commit += 1;
        models[0].clone()
    } else {
        panic!("{}: other records", context());
    };
    // Damage in what is only read when writing must not turn into other data later.
    let ops: Vec<Op> = (0..60).map(|n| put(key(n * 20), vec![7; 150])).collect();
    for op in &ops {
        let Op::Put { key, value, .. } = op else {
            unreachable!("only puts")
        };
        model.insert(key.to_vec(), value.to_vec());
    }
    if store
        .commit(&Batch {
            lsn: 9,
            stamp_ms: 9,
            ops,
        })
        .is_err()
    {
        tally.refused_commit += 1;
        return;
    }
    drop(store);
    match open(&disk, check_bytes_max).and_then(|(store, _)| contents(&store)) {
        Ok(found) => {
            assert!(
                found == model,
                "{}: other records after a commit",
                context()
            );
            tally.harmless += 1;
        }
        Err(_) => tally.refused_later += 1,
    }
}

#[test]
fn a_flipped_bit_never_becomes_other_data() {
    quiet_engine();
    let (flips, mut random) = (
        number("WEIR_FLIPS", 1_500),
        Random::new(number("WEIR_SEED", 5)),
    );
    let (disk, store, models) = written();
    let stopped = disk.contents(FILE).expect("there");
    store.close().expect("closes");
    let closed = disk.contents(FILE).expect("there");
    for (name, image, check_bytes_max) in [
        ("closed", &closed, 0),
        ("stopped", &stopped, 0),
        ("stopped, checked", &stopped, u64::MAX),
    ] {
        let mut tally = Tally::default();
        // The engine's header decides about everything else: all its bits. Then any bit of the file.
        let header = (0..320 * 8)
            .step_by(if flips > 10_000 { 1 } else { 13 })
            .chain(FLAGS_AT * 8..FLAGS_AT * 8 + 8);
        for bit in header {
            flip(image, bit, check_bytes_max, &models, &mut tally);
        }
        for _ in 0..flips / 3 {
            flip(
                image,
                random.below(image.len() as u64 * 8) as usize,
                check_bytes_max,
                &models,
                &mut tally,
            );
        }
        println!("{name}: {} bytes: {tally:?}", image.len());
        assert!(
            tally.refused_open + tally.refused_load > 50 && tally.harmless > 100,
            "{tally:?}"
        );
    }
}
