//! Slices: the work of one event that can wait is bounded, so that a loss never waits for it.
//!
//! A search for a chain of moves, and a look for better nodes, can be long. Both are begun only
//! while the slice of the event has work left, and are then finished. What was left over makes the
//! engine want another tick, before which its thread handles what arrived meanwhile.

use super::Engine;

/// Work of one event, in nodes, lists and slots that are looked at: about 20 ms.
const WORK_PER_SLICE: u64 = 200_000;

/// The work left in this event.
#[derive(Clone)]
pub(super) struct WorkSlice {
    pub left: u64,
    /// Work since the start.
    #[cfg(any(test, feature = "testing"))]
    pub done: u64,
    /// Work was left over.
    pub is_cut: bool,
}

impl WorkSlice {
    pub fn new() -> Self {
        Self {
            left: WORK_PER_SLICE,
            #[cfg(any(test, feature = "testing"))]
            done: 0,
            is_cut: false,
        }
    }

    pub fn renew(&mut self) {
        self.left = WORK_PER_SLICE;
    }

    pub fn spend(&mut self, work: usize) {
        self.left = self.left.saturating_sub(work as u64);
        #[cfg(any(test, feature = "testing"))]
        {
            self.done += work as u64;
        }
    }

    /// Whether the slice is used up; then work is left over.
    pub fn cut(&mut self) -> bool {
        self.is_cut |= self.left == 0;
        self.left == 0
    }
}

impl Engine {
    /// Whether work was left over that the next tick should do at once.
    pub fn has_work_left(&self) -> bool {
        self.slice.is_cut && !self.is_frozen()
    }

    /// Whether the search for room for a slot that is in no list has to wait for the next tick.
    pub(super) fn search_must_wait(&mut self, s: u32) -> bool {
        if self.settings.thresholds.chain_depth_max == 0 || self.is_hopeless(s) || !self.slice.cut()
        {
            return false;
        }
        // A node of its pool has to count as a gain, or it is not tried again.
        let class = self.slot(s).class;
        let node = self.open_nodes_of(class).first().copied();
        self.queue.gained.extend(node);
        true
    }
}
