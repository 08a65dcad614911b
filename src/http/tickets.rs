//! Tables of tickets.
//!
//! A core looks up each waiting request in several of them, thousands of times for one change.
//! Slots are small numbers without gaps that the core itself hands out, and at most one request of
//! a connection waits, so the slot is the hash: it costs nothing, no two requests that wait have
//! the same one, and neighbours are looked up in neighbouring memory. No client chooses its slot.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use super::Ticket;

pub type TicketMap<V> = HashMap<Ticket, V, BuildTicketHasher>;
pub type TicketSet = HashSet<Ticket, BuildTicketHasher>;
pub type BuildTicketHasher = BuildHasherDefault<TicketHasher>;

/// Hashes a ticket by its slot.
#[derive(Default)]
pub struct TicketHasher {
    hash: u64,
}

impl Hash for Ticket {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(self.slot);
    }
}

impl Hasher for TicketHasher {
    fn write_u32(&mut self, slot: u32) {
        // The table takes the place from the low bits, and compares the high bits first.
        self.hash = u64::from(slot) | u64::from(slot.wrapping_mul(0x9e37_79b1)) << 32;
    }

    /// Other keys than tickets, in tests.
    fn write(&mut self, bytes: &[u8]) {
        self.hash = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, self.hash);
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_of_one_slot_are_kept_apart() {
        let mut map = TicketMap::default();
        let ticket = |slot, epoch| Ticket { slot, epoch };
        for slot in 0..5_000 {
            for epoch in 0..3 {
                map.insert(ticket(slot, epoch), (slot, epoch));
            }
        }
        for slot in (0..5_000).step_by(2) {
            assert_eq!(map.remove(&ticket(slot, 1)), Some((slot, 1)));
        }
        assert_eq!(map.len(), 12_500);
        assert!(
            map.iter()
                .all(|(key, value)| (key.slot, key.epoch) == *value)
        );
        assert_eq!(map.get(&ticket(4, 1)), None);
        assert_eq!(map.get(&ticket(5, 1)), Some(&(5, 1)));
        assert_eq!(map.get(&ticket(5, 3)), None);
    }
}
