//! kill -9 of a real process in the middle of its commits: what it acknowledged is there, and no
//! batch is half there.
//!
//! The child is the program `weir-storage-child`. A kill leaves the page cache, so this says
//! nothing about fsync (that is `powercut`); it tests the real file, the real lock and the real
//! engine.
//! `WEIR_KILLS=n` kills that often.

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use common::kill::{KEYS, TABLE, open};
use common::{Random, number};
use weir_storage::Storage as _;

#[test]
fn killed_at_any_moment_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().expect("scratch");
    let path = dir.path().join("data");
    let mut random = Random::new(number("WEIR_SEED", 3));
    let mut last = 0;
    for round in 0..number("WEIR_KILLS", 40) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_weir-storage-child"))
            .arg("commit")
            .arg(&path)
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
