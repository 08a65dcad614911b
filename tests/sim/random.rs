//! Where choices come from: a seed, or the bytes of a fuzzer.

/// Everything random in a run. Runs out of bytes into zeros, so that a short input is a short
/// story.
#[allow(dead_code, reason = "bytes are for the fuzz target `apply`")]
pub enum Random<'a> {
    Seeded(u64),
    Bytes(&'a [u8]),
}

#[allow(dead_code, reason = "bytes are for the fuzz target `apply`")]
impl Random<'_> {
    pub fn seeded(seed: u64) -> Self {
        Self::Seeded(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number from 0 to `bound` - 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        match self {
            Self::Seeded(state) => {
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % bound
            }
            Self::Bytes(bytes) => match bytes.split_first() {
                Some((first, rest)) => {
                    *bytes = rest;
                    u64::from(*first) % bound
                }
                None => 0,
            },
        }
    }

    /// True once in `of` times.
    pub fn once_in(&mut self, of: u64) -> bool {
        self.below(of) == of - 1
    }

    pub fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len() as u64) as usize]
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Bytes([]))
    }
}
