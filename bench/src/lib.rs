//! What the micro-benchmarks share: a clock that takes the median of rounds, an allocator that
//! counts, and a cluster to measure on.
//!
//! Each hot path is a program of its own in `src/bin`, named as what it measures; `cargo run
//! --release -p weir-bench --bin NAME -- STREAMS` runs one. `STREAMS` is how many streams the
//! cluster has where that matters. The machine should be otherwise idle: nothing here corrects for
//! it.

pub mod alloc;
pub mod fleet;
pub mod instead;
pub mod world;

use std::hint::black_box;
use std::time::Instant;

/// Rounds of which the median is taken, after one that warms up.
const ROUNDS: usize = 9;

/// Calls `work` many times and prints what one call costs: time (median and range of the rounds)
/// and allocations. `calls` is per round.
pub fn measure<T>(name: &str, calls: usize, mut work: impl FnMut() -> T) {
    let calls = calls.max(1);
    measure_each(name, calls, || {}, |()| work());
}

/// The same for work that uses something up, which `make` makes outside of what is measured.
pub fn measure_each<A, T>(
    name: &str,
    calls: usize,
    mut make: impl FnMut() -> A,
    mut work: impl FnMut(A) -> T,
) {
    let calls = calls.max(1);
    let mut rounds = Vec::with_capacity(ROUNDS);
    let mut counts = (0, 0);
    for round in 0..=ROUNDS {
        let things: Vec<A> = (0..calls).map(|_| make()).collect();
        // What the work returns is dropped outside of what is measured, too.
        let mut results = Vec::with_capacity(calls);
        let before = alloc::counts();
        let started = Instant::now();
        for thing in things {
            results.push(black_box(work(black_box(thing))));
        }
        let ns = started.elapsed().as_nanos() as f64 / calls as f64;
        let after = alloc::counts();
        drop(results);
        if round > 0 {
            rounds.push(ns);
            counts = (after.count - before.count, after.bytes - before.bytes);
        }
    }
    rounds.sort_by(f64::total_cmp);
    println!(
        "{name:<44} {:>12.1} ns/op  ({:.1} to {:.1})  {:>8.2} allocations, {:>10.1} bytes",
        rounds[ROUNDS / 2],
        rounds[0],
        rounds[ROUNDS - 1],
        counts.0 as f64 / calls as f64,
        counts.1 as f64 / calls as f64,
    );
}

/// One time, for work that takes seconds.
pub fn once<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let before = alloc::counts();
    let started = Instant::now();
    let result = work();
    let ms = started.elapsed().as_secs_f64() * 1e3;
    let after = alloc::counts();
    println!(
        "{name:<44} {ms:>12.1} ms     {:>12} allocations, {:.1} MB kept",
        after.count - before.count,
        (after.live as f64 - before.live as f64) / 1e6,
    );
    result
}

/// The first argument of the program, or `default`.
pub fn size(default: usize) -> usize {
    sizes([default])[0]
}

/// The first arguments of the program, or `defaults`.
pub fn sizes<const N: usize>(defaults: [usize; N]) -> [usize; N] {
    let mut arguments = std::env::args().skip(1);
    defaults.map(|default| {
        let Some(argument) = arguments.next() else {
            return default;
        };
        match argument.parse() {
            Ok(size) if size > 0 => size,
            _ => {
                eprintln!("`{argument}` is no number of things to measure with");
                std::process::exit(2);
            }
        }
    })
}
