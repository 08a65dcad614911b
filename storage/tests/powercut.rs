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

/// Runs seeds until `wanted` of them have found something; so many of `seeds` must.
fn is_found_out(wanted: usize, seeds: u64, barriers: Barriers) {
    quiet_engine();
    let is_found = |seed: &u64| {
        let run = || run(*seed, barriers, &mut Tally::default());
        !matches!(catch_unwind(AssertUnwindSafe(run)), Ok(Ok(())))
    };
    let found = (1..=seeds).filter(is_found).take(wanted).count();
    assert!(found == wanted, "{found} of {seeds}");
}

#[test]
fn a_disk_that_only_pretends_to_sync_is_found_out() {
    is_found_out(25, 50, Barriers::Lying);
}

#[test]
fn an_acknowledgement_before_the_barrier_is_found_out() {
    is_found_out(5, 50, Barriers::Late);
}

#[test]
fn planted_bugs_are_found_out() {
    for (bug, wanted, seeds) in [
        (Planted::ChecksumSkipped, 1, 200),
        (Planted::TrimTooEarly, 25, 50),
        (Planted::CompleteTooEarly, 25, 50),
        (Planted::StaleSegmentTaken, 15, 50),
    ] {
        println!("{bug:?}");
        plant(Some(bug));
        is_found_out(wanted, seeds, Barriers::Honest);
        plant(None);
    }
}
