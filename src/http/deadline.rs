//! Deadlines of all connections of one core: a hashed wheel, turned by one tick.
//!
//! Promises: no timer and no allocation per deadline; moving a deadline further away, which every
//! request does, is one store; a deadline never fires early, and at most one tick late. Slots are
//! indices into the connection table, whose life is left to its owner.

use super::segmented_vec::SegmentedVec;
use crate::limits::Limits;

/// Ticks of one turn of the wheel. Deadlines further away are visited once per turn.
const BUCKETS: u32 = 1024;

const NONE: u32 = u32::MAX;

/// Doubly linked by slot, so that a connection that closes leaves nothing behind.
#[derive(Debug, Clone, Copy)]
struct Link {
    next: u32,
    previous: u32,
    /// When it is due.
    due: u32,
    /// Tick of the bucket it is in: at or before `due`. `NONE` if it is in none.
    bucket_tick: u32,
}

const LOOSE: Link = Link {
    next: NONE,
    previous: NONE,
    due: NONE,
    bucket_tick: NONE,
};

/// Progress of a body that is arriving: enough bytes in every window, not on average. A client that
/// sends fast and then falls silent is found within one window.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BodyPace {
    /// Tick at which the window began.
    since: u32,
    /// Bytes of the body that had arrived then.
    received: u64,
}

impl BodyPace {
    pub(super) fn begin(now: u32, received: u64) -> Self {
        let since = now;
        Self { since, received }
    }

    /// The tick at which the body is too slow, now that it has `received` bytes.
    pub(super) fn due(&mut self, now: u32, received: u64, limits: &Limits) -> u32 {
        let window_ms = u64::from(limits.body_window_ms);
        let enough = u64::from(limits.body_bytes_per_second_min) * window_ms / 1000;
        if received - self.received >= enough {
            *self = Self::begin(now, received);
        }
        let ticks = limits.body_window_ms.div_ceil(limits.tick_ms) + 1;
        self.since.saturating_add(ticks)
    }
}

pub(super) struct Wheel {
    buckets: Box<[u32]>,
    links: SegmentedVec<Link>,
    /// Everything due up to here has fired.
    now: u32,
}

impl Wheel {
    pub(super) fn new() -> Self {
        Self {
            buckets: vec![NONE; BUCKETS as usize].into(),
            links: SegmentedVec::new(),
            now: 0,
        }
    }

    /// Makes room for a slot; slots are handed out without gaps.
    pub(super) fn add(&mut self, slot: u32) {
        if slot as usize == self.links.len() {
            self.links.push(LOOSE);
        }
        debug_assert_eq!(self.links[slot].bucket_tick, NONE);
    }

    /// Sets the deadline of a slot.
    pub(super) fn set(&mut self, slot: u32, due: u32) {
        let due = due.max(self.now + 1);
        let link = &mut self.links[slot];
        link.due = due;
        // The link stays in its old bucket, and is moved when that is visited.
        if link.bucket_tick <= due {
            return;
        }
        self.unlink(slot);
        self.link(slot);
    }

    pub(super) fn clear(&mut self, slot: u32) {
        self.unlink(slot);
        self.links[slot] = LOOSE;
    }

    pub(super) fn is_due(&self, slot: u32) -> bool {
        self.links[slot].due <= self.now
    }

    /// Moves to `now` and collects the slots that are due. They have no deadline until it is set
    /// again.
    pub(super) fn advance(&mut self, now: u32, due: &mut Vec<u32>) {
        let first = now.saturating_sub(BUCKETS - 1).max(self.now + 1);
        self.now = now.max(self.now);
        for tick in first..=now {
            let mut slot = std::mem::replace(&mut self.buckets[(tick % BUCKETS) as usize], NONE);
            while slot != NONE {
                let link = &mut self.links[slot];
                let next = link.next;
                link.bucket_tick = NONE;
                if link.due <= now {
                    due.push(slot);
                } else {
                    self.link(slot);
                }
                slot = next;
            }
        }
    }

    fn link(&mut self, slot: u32) {
        let at = self.links[slot].due.min(self.now + BUCKETS - 1);
        let head = &mut self.buckets[(at % BUCKETS) as usize];
        let next = std::mem::replace(head, slot);
        let link = &mut self.links[slot];
        link.next = next;
        link.previous = NONE;
        link.bucket_tick = at;
        if next != NONE {
            self.links[next].previous = slot;
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Link {
            next,
            previous,
            bucket_tick,
            ..
        } = self.links[slot];
        if bucket_tick == NONE {
            return;
        }
        match previous {
            NONE => self.buckets[(bucket_tick % BUCKETS) as usize] = next,
            _ => self.links[previous].next = next,
        }
        if next != NONE {
            self.links[next].previous = previous;
        }
        self.links[slot].bucket_tick = NONE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn body_is_too_slow_by_the_window() {
        let limits = Limits {
            body_window_ms: 5000,
            body_bytes_per_second_min: 512,
            tick_ms: 100,
            ..Limits::DEFAULT
        };
        let mut pace = BodyPace::begin(1000, 10);
        assert_eq!(pace.due(1000, 10, &limits), 1051);
        // Too little for the window: it does not move.
        assert_eq!(pace.due(1040, 10 + 2559, &limits), 1051);
        assert_eq!(pace.due(1050, 10 + 2560, &limits), 1101);
        // A megabyte earns no more time than one window.
        assert_eq!(pace.due(1060, 1_000_000, &limits), 1111);
        assert_eq!(pace.due(1100, 1_000_001, &limits), 1111);
    }

    proptest! {
        #![proptest_config(crate::proptests::config())]
        /// Against a map from slot to deadline: every deadline fires once, in the tick it is due or
        /// in the first advance after it.
        #[test]
        fn wheel_fires_exactly_what_is_due(
            steps in prop::collection::vec((0_u32..40, 0_u32..3000, 0_u8..8), 1..400),
        ) {
            let mut wheel = Wheel::new();
            let mut model = BTreeMap::new();
            let mut now = 0;
            for slot in 0..40 {
                wheel.add(slot);
            }
            for (slot, delay, action) in steps {
                match action {
                    0 => {
                        wheel.clear(slot);
                        model.remove(&slot);
                    }
                    1..=4 => {
                        wheel.set(slot, now + delay);
                        model.insert(slot, (now + delay).max(now + 1));
                    }
                    _ => {
                        now += if action == 5 { delay } else { delay % 7 };
                        let mut due = Vec::new();
                        wheel.advance(now, &mut due);
                        due.sort_unstable();
                        let expected: Vec<u32> = model
                            .iter()
                            .filter(|(_, at)| **at <= now)
                            .map(|(slot, _)| *slot)
                            .collect();
                        model.retain(|_, at| *at > now);
                        prop_assert_eq!(&due, &expected);
                        for slot in due {
                            prop_assert!(wheel.is_due(slot));
                        }
                    }
                }
            }
        }
    }
}
