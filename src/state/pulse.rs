//! Signs of life of a node: when it last asked for its configuration, and whether it is waiting for
//! news of it.
//!
//! The one thing reachable from a state that changes without a revision: written by whoever serves
//! the node and read by the layouter's thread, both without a lock and without a message. Times are
//! told by the callers, in milliseconds of a clock that never steps back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct Pulse {
    /// One more than the time of the last sign, so that 0 is "never".
    seen_ms: AtomicU64,
    parked: AtomicU32,
    /// The node was told everything up to this revision.
    told: AtomicU64,
}

impl Pulse {
    /// The node asked for something.
    pub fn beat(&self, now_ms: u64) {
        self.seen_ms.fetch_max(now_ms + 1, Ordering::Relaxed);
    }

    /// The node has, or is being sent, its configuration as of a revision.
    pub fn tell(&self, revision: u64) {
        self.told.fetch_max(revision, Ordering::Relaxed);
    }

    /// The node waits for news as long as the result lives.
    pub fn park(self: &Arc<Self>) -> Parked {
        self.parked.fetch_add(1, Ordering::Relaxed);
        Parked(self.clone())
    }

    /// The last sign; a node that waits gives one at every moment.
    pub fn seen_ms(&self, now_ms: u64) -> Option<u64> {
        if self.parked.load(Ordering::Relaxed) > 0 {
            return Some(now_ms);
        }
        self.seen_ms.load(Ordering::Relaxed).checked_sub(1)
    }

    pub fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }
}

/// A node's waiting poll.
#[derive(Debug)]
pub struct Parked(Arc<Pulse>);

impl Clone for Parked {
    fn clone(&self) -> Self {
        self.0.park()
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.parked.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_node_is_alive_as_long_as_it_waits() {
        let pulse = Arc::new(Pulse::default());
        assert_eq!(pulse.seen_ms(50), None);
        pulse.beat(0);
        assert_eq!(pulse.seen_ms(50), Some(0));
        pulse.beat(40);
        pulse.beat(30);
        assert_eq!(
            pulse.seen_ms(50),
            Some(40),
            "signs of two cores in any order"
        );
        let first = pulse.park();
        let second = first.clone();
        drop(first);
        assert_eq!(pulse.seen_ms(90), Some(90));
        drop(second);
        assert_eq!(pulse.seen_ms(90), Some(40));
        pulse.tell(7);
        pulse.tell(5);
        assert_eq!(pulse.told(), 7);
    }
}
