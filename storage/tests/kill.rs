//! kill -9 of a real process in the middle of its commits: what it acknowledged is there, and no
//! batch is half there.
//!
//! The child is this test binary, chosen by an environment variable. A kill leaves the page cache,
//! so this says nothing about fsync (that is `powercut`); it tests the real file, the real lock and
//! the real engine. `WEIR_KILLS=n`.

mod common;

use common::{Random, number};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use weir_storage::{Batch, Log, Op, Options, Store, Table};

const TABLE: Table = Table("stream");
const CHILD: &str = "WEIR_KILL_CHILD";
const KEYS: u64 = 50;

fn open(path: &Path) -> (Store, weir_storage::Opened) {
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
    }
}

#[test]
fn child_that_commits_until_it_is_killed() {
    // Does nothing when run as a test; see the other one.
    let Ok(path) = std::env::var(CHILD) else {
        return;
    };
    let (mut store, opened) = open(Path::new(&path));
    let mut out = std::io::stdout();
    for lsn in opened.lsn + 1.. {
        store.commit(&batch(lsn)).expect("commits");
        writeln!(out, "\nacknowledged {lsn}")
            .and_then(|()| out.flush())
            .expect("the parent listens");
    }
}

#[test]
fn killed_at_any_moment_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().expect("scratch");
    let path = dir.path().join("data");
    let mut random = Random::new(number("WEIR_SEED", 3));
    let mut last = 0;
    for round in 0..number("WEIR_KILLS", 40) {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args([
                "--exact",
                "child_that_commits_until_it_is_killed",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        // Some kills hit a process that has only just been started.
        let (mut left, mut acknowledged) = (random.below(12), 0);
        let number = |line: &str| {
            line.strip_prefix("acknowledged ")
                .and_then(|number| number.parse::<u64>().ok())
        };
        while left > 0 {
            let line = lines.next().expect("it runs until killed").expect("text");
            if let Some(lsn) = number(&line) {
                (acknowledged, left) = (lsn, left - 1);
            }
        }
        // The phase within the next commit is left to chance and a short spin.
        for _ in 0..random.below(400_000) {
            std::hint::spin_loop();
        }
        child.kill().expect("kills");
        child.wait().expect("ends");
        for line in lines {
            // The last line may be cut off.
            let line = line.expect("text");
            acknowledged = number(&line)
                .filter(|lsn| *lsn == acknowledged + 1 || acknowledged == 0)
                .unwrap_or(acknowledged);
        }
        let (store, opened) = open(&path);
        assert!(
            opened.lsn >= acknowledged.max(last),
            "round {round}: {} < {acknowledged}",
            opened.lsn
        );
        last = opened.lsn;
        let mut count = 0;
        store
            .load(TABLE, None, &mut |_, value| {
                assert!(
                    value == last.to_le_bytes().repeat(40),
                    "round {round}: half a batch"
                );
                count += 1;
            })
            .expect("loads");
        assert_eq!(count, if last == 0 { 0 } else { KEYS });
        drop(store);
    }
    assert!(last > 0);
}
