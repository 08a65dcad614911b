//! What several test binaries share: seeded random numbers, and silence about the panics that are
//! expected.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod cuts;
pub mod kill;
pub mod rot;

use std::sync::Once;

/// Panics inside the engine are caught and become errors; their messages would only hide those of
/// failed tests.
pub fn quiet_engine() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::env::var("WEIR_LOUD").is_ok()
                || !info
                    .location()
                    .is_some_and(|at| at.file().contains("redb-") || at.file().contains("/rustc/"))
            {
                usual(info);
            }
        }));
    });
}

/// Everything random in a test comes from its seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % bound
    }
}

/// A number from the environment, for longer runs and for repeating a seed.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}"))
    })
}
