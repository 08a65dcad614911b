//! Commits until it is killed: what the child of `kill` does, and what its test must find.

use std::io::Write as _;
use std::path::Path;

use weir_storage::{Batch, Op, Opened, Options, Storage as _, Store, Table};

pub const TABLE: Table = Table("stream");
pub const KEYS: u64 = 50;

pub fn open(path: &Path) -> (Store, Opened) {
    Store::open(
        path,
        &Options {
            reserve_bytes: 1 << 20,
            ..Options::default()
        },
    )
    .expect("opens")
}

/// Every batch writes its number to all keys: two numbers in the store at once are half a batch.
fn batch(lsn: u64) -> Batch {
    let value: std::sync::Arc<[u8]> = lsn.to_le_bytes().repeat(40).into();
    let put = |n: u64| Op::Put {
        table: TABLE,
        key: [&[(n % 16) as u8][..], &n.to_be_bytes()].concat().into(),
        value: value.clone(),
    };
    Batch {
        lsn,
        stamp_ms: lsn,
        ops: (0..KEYS).map(put).collect(),
        ..Batch::default()
    }
}

/// Commits batches and prints the number of each one that is acknowledged.
pub fn commit_until_killed(path: &Path) {
    let (mut store, opened) = open(path);
    let mut out = std::io::stdout();
    for lsn in opened.lsn + 1.. {
        store.commit(&batch(lsn)).expect("commits");
        writeln!(out, "acknowledged {lsn}")
            .and_then(|()| out.flush())
            .expect("the parent reads");
    }
}
