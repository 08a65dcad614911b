//! Rates of the store beside those of the bare engine: `rates RECORDS [SECONDS] [DIRECTORY]`.
//!
//! Fills a store with 600 byte values under 27 byte keys, then opens, loads and commits random
//! overwrites in groups of several sizes. The bare engine (quick repair, no checksums, no digests,
//! unsorted) does the same in turns. With `WEIR_LOG=append` the store has a log in front.

use redb::{Database, TableDefinition};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weir_storage::{Batch, LogKind, Op, Options, Storage, Store, Table};

const TABLE: Table = Table("stream");
const BARE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("stream");
const CHUNK: u64 = 20_000;

fn key(n: u64) -> [u8; 27] {
    let mut key = *b"\0a-stream-name-000000000000";
    let scattered = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    key[0] = (scattered >> 60) as u8;
    key[15..].copy_from_slice(format!("{n:012}").as_bytes());
    key
}

fn value(n: u64) -> Arc<[u8]> {
    let mut value = Vec::with_capacity(608);
    let mut word = n | 1;
    while value.len() < 600 {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        value.extend_from_slice(&word.to_le_bytes());
    }
    value.truncate(600);
    value.into()
}

fn put(n: u64, seed: u64) -> Op {
    Op::Put {
        table: TABLE,
        key: Box::new(key(n)),
        value: value(seed),
    }
}

/// Processor time of this thread: what a busy machine does not distort.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|nanos| nanos.parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1e9
}

fn micros(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_micros();
    format!("p50 {} p99 {} us", at(0.5), at(0.99))
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let records: u64 = arguments
        .get(1)
        .map_or(50_000, |text| text.parse().expect("a number of records"));
    let seconds: f64 = arguments
        .get(2)
        .map_or(1.0, |text| text.parse().expect("seconds"));
    let base = arguments
        .get(3)
        .map_or_else(std::env::temp_dir, |text| Path::new(text).to_path_buf());
    let scratch = tempfile::tempdir_in(base).expect("scratch directory");
    let mut options = Options::default();
    if let Ok(text) = std::env::var("WEIR_CACHE_MIB") {
        options.cache_bytes = text.parse::<usize>().expect("MiB") << 20;
    }

    if std::env::var("WEIR_LOG").is_ok_and(|text| text == "append") {
        options.log = LogKind::Append;
    }

    let directory = scratch.path().join("store");
    let (mut store, _) = Store::open(&directory, &options).expect("creates");
    let started = Instant::now();
    let mut lsn = 0;
    while lsn * CHUNK < records {
        let ops = (lsn * CHUNK..((lsn + 1) * CHUNK).min(records))
            .map(|n| put(n, n))
            .collect();
        lsn += 1;
        store
            .commit(&Batch {
                lsn,
                stamp_ms: lsn,
                ops,
                ..Batch::default()
            })
            .expect("commits");
    }
    let rate = records as f64 / started.elapsed().as_secs_f64();
    println!(
        "fill {records}: {rate:.0}/s, {} MiB",
        store.file_bytes() >> 20
    );
    store.close().expect("closes");

    let bare_path = scratch.path().join("bare.redb");
    let bare = Database::builder()
        .set_cache_size(options.cache_bytes)
        .create(&bare_path)
        .expect("creates");
    for chunk in 0..records.div_ceil(CHUNK) {
        let mut txn = bare.begin_write().expect("begins");
        txn.set_quick_repair(true);
        {
            let mut table = txn.open_table(BARE).expect("opens");
            for n in chunk * CHUNK..((chunk + 1) * CHUNK).min(records) {
                table.insert(&key(n)[..], &*value(n)).expect("inserts");
            }
        }
        txn.commit().expect("commits");
    }

    // Closing trims a file, and growing again costs: both the same.
    drop(bare);
    let bare = Database::builder()
        .set_cache_size(options.cache_bytes)
        .open(&bare_path)
        .expect("opens");

    let started = Instant::now();
    let (mut store, _) = Store::open(&directory, &options).expect("opens");
    println!("open {:.2} ms", started.elapsed().as_secs_f64() * 1e3);
    for _ in 0..3 {
        let (started, used) = (Instant::now(), cpu());
        let mut bytes = 0;
        let count = store
            .load(TABLE, None, &mut |key, value| {
                bytes += key.len() + value.len();
            })
            .expect("loads");
        println!(
            "load {count}: {:.2} M/s, {:.2} M per CPU second",
            count as f64 / started.elapsed().as_secs_f64() / 1e6,
            count as f64 / (cpu() - used) / 1e6
        );
        let started = Instant::now();
        std::thread::scope(|scope| {
            for half in 0..2 {
                let store = &store;
                scope.spawn(move || {
                    for shard in (0..16).filter(|shard| shard % 2 == half) {
                        store
                            .load(TABLE, Some(shard), &mut |_, _| {})
                            .expect("loads");
                    }
                });
            }
        });
        println!(
            "load by shard in two threads: {:.2} M/s",
            count as f64 / started.elapsed().as_secs_f64() / 1e6
        );
        let (started, used) = (Instant::now(), cpu());
        let txn = redb::ReadableDatabase::begin_read(&bare).expect("begins");
        let table = txn.open_table(BARE).expect("opens");
        let mut sum = 0;
        for row in redb::ReadableTable::iter(&table).expect("iterates") {
            let (key, value) = row.expect("reads");
            sum += key.value().len() + value.value().len();
        }
        assert!(sum > 0);
        println!(
            "  bare engine: {:.2} M/s, {:.2} M per CPU second",
            records as f64 / started.elapsed().as_secs_f64() / 1e6,
            records as f64 / (cpu() - used) / 1e6
        );
    }

    let mut random = 88_172_645_463_325_252_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for size in [1_u64, 10, 32, 100, 1_000] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let (mut ours_cpu, mut theirs_cpu) = (0.0, 0.0);
        let started = Instant::now();
        while started.elapsed().as_secs_f64() < seconds {
            for _ in 0..(200 / size).max(2) {
                let ops: Vec<Op> = (0..size).map(|_| put(next() % records, next())).collect();
                lsn += 1;
                let batch = Batch {
                    lsn,
                    stamp_ms: lsn,
                    ops,
                    ..Batch::default()
                };
                let (one, used) = (Instant::now(), cpu());
                store.commit(&batch).expect("commits");
                ours.push(one.elapsed());
                ours_cpu += cpu() - used;
            }
            for _ in 0..(200 / size).max(2) {
                let rows: Vec<_> = (0..size)
                    .map(|_| (key(next() % records), value(next())))
                    .collect();
                let (one, used) = (Instant::now(), cpu());
                let mut txn = bare.begin_write().expect("begins");
                txn.set_quick_repair(true);
                {
                    let mut table = txn.open_table(BARE).expect("opens");
                    for (key, value) in &rows {
                        table.insert(&key[..], &**value).expect("inserts");
                    }
                }
                txn.commit().expect("commits");
                theirs.push(one.elapsed());
                theirs_cpu += cpu() - used;
            }
        }
        let rate = |times: &[Duration]| {
            size as f64 * times.len() as f64 / times.iter().sum::<Duration>().as_secs_f64()
        };
        println!(
            "commit {size:4}: {:7.0} puts/s {} cpu {:.0} us/put; \
             bare engine {:7.0} puts/s {} cpu {:.0} us/put",
            rate(&ours),
            micros(&mut ours),
            ours_cpu * 1e6 / (size as f64 * ours.len() as f64),
            rate(&theirs),
            micros(&mut theirs),
            theirs_cpu * 1e6 / (size as f64 * theirs.len() as f64)
        );
    }
    println!("file {} MiB", store.file_bytes() >> 20);

    // A store that is not closed is what a kill leaves.
    drop(store);
    let started = Instant::now();
    let (_store, opened) = Store::open(&directory, &options).expect("opens");
    println!(
        "open after a kill {:.2} ms {opened:?}",
        started.elapsed().as_secs_f64() * 1e3
    );

    let (started, used) = (Instant::now(), cpu());
    let file = scratch.path().join("backup");
    let rows = (0..records).map(|n| (TABLE, Box::from(key(n)), value(n)));
    let saved = weir_storage::backup(&file, 1, 1, 1, false, rows).expect("saves");
    println!(
        "backup and verify {:.1} s, cpu {:.1} s, {} MiB",
        started.elapsed().as_secs_f64(),
        cpu() - used,
        saved.bytes >> 20
    );
    let started = Instant::now();
    weir_storage::restore(
        &file,
        &scratch.path().join("restored"),
        false,
        weir_storage::Floor::default(),
    )
    .expect("restores");
    println!("restore {:.1} s", started.elapsed().as_secs_f64());
}
