//! Power cuts: whatever survives of the unsynced writes, nothing acknowledged is lost and no batch
//! is half there.
//!
//! One seed is one disk with several lives. Each life opens the store, compares it with the model,
//! commits batches, perhaps meets an I/O error and opens again, and ends with the power going at
//! some operation, often in the middle of opening. `WEIR_POWERCUTS=1000000` runs that many cuts,
//! `WEIR_SEED=n` starts at that seed; a failure prints its seed.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use common::cuts::{Tally, run};
use common::{number, quiet_engine};
use weir_storage::planted::{Planted, plant};
use weir_storage::sim::Barriers;

#[test]
fn nothing_acknowledged_is_lost_and_no_batch_is_half_there() {
    quiet_engine();
    let (cuts, first) = (number("WEIR_POWERCUTS", 20_000), number("WEIR_SEED", 1));
    let (next, done) = (AtomicU64::new(first), AtomicU64::new(0));
    let lives = || {
        let mut tally = Tally::default();
        while done.load(Ordering::Relaxed) < cuts {
            let (seed, before) = (next.fetch_add(1, Ordering::Relaxed), tally.cuts);
            if let Err(what) = run(seed, Barriers::Honest, &mut tally) {
                panic!("WEIR_SEED={seed}: {what}");
            }
            done.fetch_add(tally.cuts - before, Ordering::Relaxed);
        }
        tally
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let tally = thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(lives)).collect();
        let tallies = all
            .into_iter()
            .map(|it| it.join().expect("nothing is lost"));
        tallies.fold(Tally::default(), Tally::plus)
    });
    println!("{} seeds: {tally:?}", next.into_inner() - first);
    // The run must have covered the cases it is for.
    assert!(
        tally.cuts_while_opening > cuts / 50 && tally.unknown_kept > cuts / 100,
        "{tally:?}"
    );
    assert!(
        tally.errors_survived > cuts / 50 && tally.commits > cuts,
        "{tally:?}"
    );
}

/// How many of the first seeds find something.
fn found(seeds: u64, barriers: Barriers) -> usize {
    quiet_engine();
    let is_found = |seed: &u64| {
        let run = || run(*seed, barriers, &mut Tally::default());
        !matches!(catch_unwind(AssertUnwindSafe(run)), Ok(Ok(())))
    };
    (1..=seeds).filter(is_found).count()
}

#[test]
fn a_disk_that_only_pretends_to_sync_is_found_out() {
    let found = found(100, Barriers::Lying);
    assert!(found >= 50, "{found} of 100 lying disks");
}

#[test]
fn an_acknowledgement_before_the_barrier_is_found_out() {
    let found = found(200, Barriers::Late);
    assert!(found >= 20, "{found} of 200");
}

#[test]
fn planted_bugs_are_found_out() {
    for bug in [
        Planted::ChecksumSkipped,
        Planted::TrimTooEarly,
        Planted::CompleteTooEarly,
        Planted::StaleSegmentTaken,
    ] {
        plant(Some(bug));
        let found = found(200, Barriers::Honest);
        plant(None);
        println!("{bug:?}: {found} of 200");
        assert!(found >= 2, "{bug:?}: {found} of 200");
    }
}
