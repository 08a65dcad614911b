//! Time to open a store whose log has MIB of entries that the tables lack: `replay [MIB] [DIRECTORY]`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use weir_storage::{Batch, LogKind, Op, Options, Storage as _, Store, Table};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mib: u64 = arguments
        .next()
        .map_or(400, |mib| mib.parse().expect("MiB"));
    let scratch = tempfile::tempdir().expect("a directory");
    let directory = arguments
        .next()
        .map_or_else(|| scratch.path().join("data"), PathBuf::from);
    let options = Options {
        log: LogKind::Append,
        applies_itself: false,
        ..Options::default()
    };
    let (mut store, _) = Store::open(&directory, &options).expect("creates");
    let (mut lsn, mut bytes, mut records) = (0, 0, 0);
    while bytes < mib << 20 {
        lsn += 1;
        let put = |i: u64| {
            let n = (lsn * 100 + i).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44;
            let key = [
                &[(n & 15) as u8][..],
                format!("stream-name-{n:012}").as_bytes(),
            ]
            .concat();
            let value: Arc<[u8]> = n.to_le_bytes().repeat(75).into();
            bytes += (key.len() + value.len()) as u64;
            records += 1;
            Op::Put {
                table: Table("stream"),
                key: key.into(),
                value,
            }
        };
        let ops = (0..100).map(put).collect();
        let batch = Batch {
            lsn,
            stamp_ms: lsn,
            ops,
            ..Batch::default()
        };
        store.commit(&batch).expect("commits");
    }
    drop(store);
    for _ in 0..3 {
        let began = Instant::now();
        let (store, opened) = Store::open(&directory, &options).expect("opens");
        assert_eq!(opened.lsn, lsn);
        println!(
            "{records} records in {mib} MiB: opened in {:?}",
            began.elapsed()
        );
        drop(store);
    }
}
