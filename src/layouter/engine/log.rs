//! What an event changed: where a slot was before its first move, and the changes that are left in the end.

use super::Engine;
use super::class::NONE;
use super::event::{Change, SlotKind, Why};
use super::slot::{FETCHED_TOGETHER, LIVE, NOTED, ORIGIN_NOTED, Slot, UNIT};

/// Changes of one event that are told in the order in which they were decided. More are told in the order in which their streams lie in memory: a
/// million names in any other order take twice as long.
const LOG_IN_ORDER_MAX: usize = 10_000;

/// What moved in the event that is being applied.
#[derive(Clone, Default)]
pub(super) struct MoveLog {
    /// Slots that moved in this event, with where they were before and why.
    pub moved: Vec<(u32, u32, Why)>,
    /// Slots displaced so that another one has a place, since the engine was made.
    pub make_room_moves: u64,
}

impl Engine {
    /// Writes down where a slot is, the first time it is about to move in this event.
    pub(super) fn note(&mut self, s: u32, why: Why) {
        self.note_at(s, self.slot(s).node, why);
    }

    pub(super) fn note_at(&mut self, s: u32, node: u32, why: Why) {
        let slot = *self.slot(s);
        if slot.has(UNIT) {
            if let Some(unit) = self.units.by_slot.get(&s).cloned() {
                for member in &unit.members {
                    let node = if member.active { node } else { NONE };
                    self.note_at(member.ingest, node, why);
                }
            }
        } else if !slot.has(NOTED) {
            self.set_flag(s, NOTED, true);
            self.log.moved.push((s, node, why));
        }
    }

    /// Writes down what the row says, in place of what the engine thought.
    pub(super) fn note_row(&mut self, s: u32, node: u32, why: Why) {
        if self.slot(s).has(NOTED) {
            let noted = self
                .log
                .moved
                .iter_mut()
                .rev()
                .find(|(slot, ..)| *slot == s);
            if let Some(noted) = noted {
                noted.1 = node;
            }
        } else {
            self.note_at(s, node, why);
        }
    }

    /// Tells what is different from before the event.
    pub(super) fn finish(&mut self, mut told: impl FnMut(Change)) {
        if self.loading {
            return;
        }
        let mut log = std::mem::take(&mut self.log.moved);
        if log.len() > LOG_IN_ORDER_MAX {
            log.sort_unstable();
        }
        for (i, &(s, from, why)) in log.iter().enumerate() {
            if i % FETCHED_TOGETHER == 0 {
                let some = &log[i..log.len().min(i + FETCHED_TOGETHER)];
                self.fetch_names(some.iter().map(|(s, ..)| *s));
            }
            self.set_flag(s, NOTED, false);
            let slot = *self.slot(s);
            let to = slot.node;
            if from == to {
                continue;
            }
            let ingest = self.ingest_of(s);
            if !self.slot(ingest).has(LIVE) {
                // The stream is gone, and its row with it.
                continue;
            }
            let Some(stream) = self.table.names.get(ingest).clone() else {
                continue;
            };
            // Where there was nothing, nothing is given up: only a move is in flight.
            if from != NONE && to != NONE {
                self.fly(s);
            }
            if self.slot(ingest).has(ORIGIN_NOTED) {
                self.set_flag(ingest, ORIGIN_NOTED, false);
            }
            let host = |n: u32| (n != NONE).then(|| self.node(n).hostname.clone());
            told(Change {
                stream,
                kind: slot.kind(),
                from: host(from),
                to: host(to),
                why,
                failover_from: self.failover_from(ingest).cloned(),
                revision: self.table.rows.get(ingest).revision(),
            });
        }
        for (s, before) in std::mem::take(&mut self.origins.noted) {
            if !self.slot(s).has(ORIGIN_NOTED) {
                continue;
            }
            self.set_flag(s, ORIGIN_NOTED, false);
            let Some(stream) = self.table.names.get(s).clone() else {
                continue;
            };
            if self.slot(s).has(LIVE) && self.stream_origin(s) != before {
                let node = self.slot(s).node;
                let host = (node != NONE).then(|| self.node(node).hostname.clone());
                told(Change {
                    stream,
                    kind: SlotKind::Ingest,
                    from: host.clone(),
                    to: host,
                    why: Why::Restore,
                    failover_from: self.failover_from(s).cloned(),
                    revision: self.table.rows.get(s).revision(),
                });
            }
        }
        for s in std::mem::take(&mut self.table.freed) {
            *self.table.names.get_mut(s) = None;
            let next = std::mem::replace(&mut self.table.free, s);
            *self.slot_mut(s) = Slot {
                next,
                ..Slot::default()
            };
        }
        for n in std::mem::take(&mut self.cluster.placeholders) {
            if self.node(n).buckets.is_empty() {
                self.cluster.free.insert(n);
            } else {
                self.cluster.placeholders.insert(n);
            }
        }
    }
}
