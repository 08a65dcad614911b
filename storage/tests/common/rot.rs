//! Flips bits of a store: what the child of `rot` does, and the plan that its test follows.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use weir_storage::sim::SimDisk;
use weir_storage::{Batch, Op, Options, Storage as _, Store, StoreError, Table};

use super::{Random, number, quiet_engine};

const TABLE: Table = Table("stream");
const FILE: &str = "weir.redb";
/// Position of the engine's flags; the lowest bit selects which of the two newest commits counts.
const FLAGS_AT: usize = 9;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(disk: &SimDisk, check_bytes_max: u64) -> Result<(Store, weir_storage::Opened), StoreError> {
    let options = Options {
        cache_bytes: 4 << 20,
        check_bytes_max,
        reserve_bytes: 0,
        ..Options::default()
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

/// A store with 1,200 records, some overwritten and some deleted, and what is in it after each of
/// the last two commits.
fn written() -> (SimDisk, Store, [Model; 2]) {
    let disk = SimDisk::new();
    let (mut store, _) = open(&disk, 0).expect("creates");
    let commit = |store: &mut Store, lsn, ops| {
        let batch = Batch {
            lsn,
            stamp_ms: lsn,
            ops,
            ..Batch::default()
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

/// What became of one flipped bit; none of these is other data.
pub const OUTCOMES: [&str; 7] = [
    "refused-open",
    "refused-load",
    "refused-commit",
    "refused-later",
    "harmless",
    // One bit in an uncleanly stopped file cannot be distinguished from a crash: the choice between
    // the two newest commits.
    "older-commit",
    // The engine panicked while it cleaned up after a panic: the process is gone, having promised
    // nothing.
    "ended",
];

fn flip(image: &[u8], bit: usize, check_bytes_max: u64, models: &[Model; 2]) -> &'static str {
    let mut image = image.to_vec();
    image[bit / 8] ^= 1 << (bit % 8);
    let disk = SimDisk::new();
    disk.set_contents(FILE, &image);
    let Ok((mut store, opened)) = open(&disk, check_bytes_max) else {
        return "refused-open";
    };
    let Ok(found) = contents(&store) else {
        return "refused-load";
    };
    let (mut model, mut outcome) = (models[1].clone(), "harmless");
    if opened.lsn == 2 && found == models[0] && bit == FLAGS_AT * 8 {
        (model, outcome) = (found, "older-commit");
    } else {
        assert!(opened.lsn == 3 && found == model, "other records");
    }
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
            ..Batch::default()
        })
        .is_err()
    {
        return "refused-commit";
    }
    drop(store);
    match open(&disk, check_bytes_max).and_then(|(store, _)| contents(&store)) {
        Ok(found) => {
            assert!(found == model, "other records after a commit");
            outcome
        }
        Err(_) => "refused-later",
    }
}

pub struct Plan {
    /// The files to damage, with the size up to which they are checked when opened.
    pub images: [(Vec<u8>, u64); 3],
    models: [Model; 2],
    /// Image and bit.
    pub bits: Vec<(usize, usize)>,
}

pub fn plan() -> Plan {
    let (flips, mut random) = (
        number("WEIR_FLIPS", 1_500),
        Random::new(number("WEIR_SEED", 5)),
    );
    let (disk, store, models) = written();
    let stopped = disk.contents(FILE).expect("there");
    store.close().expect("closes");
    let closed = disk.contents(FILE).expect("there");
    let images = [(closed, 0), (stopped.clone(), 0), (stopped, u64::MAX)];
    let mut bits = Vec::new();
    for (at, (image, _)) in images.iter().enumerate() {
        // The engine's header decides about everything else. Then any bit of the file.
        let step = if flips > 10_000 { 1 } else { 13 };
        bits.extend(
            (0..320 * 8)
                .step_by(step)
                .chain(FLAGS_AT * 8..FLAGS_AT * 8 + 8)
                .map(|bit| (at, bit)),
        );
        bits.extend((0..flips / 3).map(|_| (at, random.below(image.len() as u64 * 8) as usize)));
    }
    Plan {
        images,
        models,
        bits,
    }
}

/// Flips the bits of the plan from one of them on and prints what became of each.
pub fn flip_from(first: usize) {
    quiet_engine();
    let Plan {
        images,
        models,
        bits,
    } = plan();
    let mut out = std::io::stdout();
    for (index, (at, bit)) in bits.iter().enumerate().skip(first) {
        let (image, check_bytes_max) = &images[*at];
        let outcome = flip(image, *bit, *check_bytes_max, &models);
        writeln!(out, "flip {index} {at} {outcome}")
            .and_then(|()| out.flush())
            .expect("the parent reads");
    }
}
