//! Pins: ingests that an operator wants to stay where they are.
//!
//! No optional move takes a pinned ingest from its node: not to better labels, for balance, off a
//! node under CPU pressure, or back to the node that it was lost from. A unit with a pinned member
//! is pinned. An ingest that has to move moves all the same: its node is lost or drained, forbids
//! it, is above a limit, or has the only room for a stream without one. The row then loses the pin.

use super::Engine;
use super::class::NONE;
use super::slot::{PINNED, UNIT};

impl Engine {
    /// Whether optional moves leave a slot where it is.
    pub(super) fn is_pinned(&self, s: u32) -> bool {
        let slot = self.slot(s);
        if slot.has(UNIT) {
            return self.members_of(s).any(|it| self.slot(it).has(PINNED));
        }
        slot.has(PINNED)
    }

    /// An ingest that is not pinned any more may move in the next tick.
    pub(super) fn set_pinned(&mut self, ingest: u32, pinned: bool) {
        if self.slot(ingest).has(PINNED) == pinned {
            return;
        }
        self.set_flag(ingest, PINNED, pinned);
        if pinned || self.loading {
            return;
        }
        let unit = self.units.of_member.get(&ingest).copied();
        let origin = self.origin_of(unit.unwrap_or(ingest));
        if origin != NONE {
            self.node_mut(origin).displaced.tried_epoch = 0;
        }
        self.progress.epoch += 1;
    }
}
