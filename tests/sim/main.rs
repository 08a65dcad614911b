//! Simulation: random operations and random failures against a model that is too simple to be
//! wrong.
//!
//! `crash` drives the state machine over a simulated disk from a seed; `served` drives the real
//! binary over HTTP. Both run the same operations (`op`) against the same model (`model`).
//! `random` and `view` are read by `fuzz/` too.

mod crash;
mod model;
mod op;
mod random;
mod served;
mod view;

/// A number from the environment, for longer runs and for repeating a seed.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

/// Prints the failed seed after any panic.
struct Failing(u64);

impl Failing {
    fn passed(self) {
        std::mem::forget(self);
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        eprintln!("failed with WEIR_SIM_SEED={}", self.0);
    }
}
