//! Moves in flight: decided and not confirmed by the new node yet.
//!
//! A move is in flight until its node has confirmed it, or until it times out. Optional moves wait
//! while too many are in flight. The old node of an optional move is charged for the slot until
//! then, so that a late confirmation is not mistaken for room; and while a handover is in its row,
//! because it still runs the stream.

use std::collections::VecDeque;

use super::Engine;
use super::class::NONE;
use super::cow::CowVec;
use super::event::SlotKind;
use super::slot::{IN_FLIGHT, PENDING};
use super::tree::Need;
use crate::state::name::Hostname;

/// Capacity that stays charged to a node after a slot has left it.
#[derive(Clone, Copy, Debug)]
pub struct HeldRoom {
    pub node: u32,
    pub need: Need,
    pub since_ms: u64,
}

/// Moves that no node has confirmed yet.
#[derive(Clone, Default)]
pub(super) struct Flights {
    pub held: imbl::OrdMap<u32, HeldRoom>,
    /// Ingests whose rows have a handover, with the node that keeps the stream.
    pub kept: imbl::OrdMap<u32, u32>,
    pub count: u32,
    pub by_time: VecDeque<(u64, CowVec<u32>)>,
}

impl Engine {
    pub(super) fn mark_in_flight(&mut self, s: u32) {
        if !self.slot(s).has(IN_FLIGHT) {
            self.set_flag(s, IN_FLIGHT, true);
            self.flights.count += 1;
        }
        let now_ms = self.now_ms;
        if self
            .flights
            .by_time
            .back()
            .is_none_or(|(since, _)| *since != now_ms)
        {
            self.flights.by_time.push_back((now_ms, CowVec::new()));
        }
        if let Some((_, slots)) = self.flights.by_time.back_mut() {
            slots.push(s);
        }
    }

    pub(super) fn clear_in_flight(&mut self, s: u32) {
        if self.slot(s).has(IN_FLIGHT) {
            self.set_flag(s, IN_FLIGHT, false);
            self.flights.count -= 1;
        }
        self.flights.kept.remove(&s);
        self.release_held(s);
        self.improving.exempt.remove(&s);
    }

    /// Adopts the handover in the row of an ingest; `NONE` for none. A slot that is back on that
    /// node is kept by none.
    pub(super) fn set_handover(&mut self, s: u32, from: u32) {
        let from = if self.slot(s).node == from {
            NONE
        } else {
            from
        };
        let before = self.flights.kept.get(&s).copied().unwrap_or(NONE);
        if before == from {
            return;
        }
        if from == NONE {
            self.flights.kept.remove(&s);
            self.release_held(s);
            self.queue.retry_now = true;
        } else {
            self.flights.kept.insert(s, from);
            self.hold_room(s, from);
        }
    }

    /// Puts an ingest that lost its node back on the node that still runs the stream. It is in the
    /// batch of this event, which it leaves.
    pub(super) fn return_to_keeper(&mut self, s: u32) {
        let Some(keeper) = self.flights.kept.get(&s).copied() else {
            return;
        };
        let mut siblings = Vec::new();
        self.sibling_nodes(s, &mut siblings);
        self.release_held(s);
        if self.reasons_on(s, keeper, true, &siblings).is_empty() {
            self.flights.kept.remove(&s);
            self.set_flag(s, PENDING, false);
            self.assign(s, keeper);
        } else {
            self.hold_room(s, keeper);
        }
    }

    /// Keeps charging `node` for a slot that has just left it.
    pub(super) fn hold_room(&mut self, s: u32, node: u32) {
        self.release_held(s);
        let need = self.slot(s).need();
        let held = &mut self.node_mut(node).held;
        held.channels = held.channels.saturating_add(need.channels);
        held.kbps = held.kbps.saturating_add(need.kbps);
        held.disk = held.disk.saturating_add(need.disk);
        let since_ms = self.now_ms;
        self.flights.held.insert(
            s,
            HeldRoom {
                node,
                need,
                since_ms,
            },
        );
        self.touch(node);
    }

    pub(super) fn release_held(&mut self, s: u32) {
        let Some(HeldRoom { node, need, .. }) = self.flights.held.remove(&s) else {
            return;
        };
        let held = &mut self.node_mut(node).held;
        held.channels = held.channels.saturating_sub(need.channels);
        held.kbps = held.kbps.saturating_sub(need.kbps);
        held.disk = held.disk.saturating_sub(need.disk);
        self.touch(node);
        self.node_gained(node);
        self.progress.epoch += 1;
    }

    /// Releases the room of moves that are not confirmed yet; what another node still runs for a
    /// handover stays charged to it. Returns whether there was any.
    pub(super) fn release_unconfirmed(&mut self) -> bool {
        let slots: Vec<u32> = self
            .flights
            .held
            .keys()
            .copied()
            .filter(|s| !self.flights.kept.contains_key(s))
            .collect();
        for s in &slots {
            self.release_held(*s);
        }
        !slots.is_empty()
    }

    /// Drops moves that were not confirmed in time, held capacity, and exemptions from optional
    /// moves.
    pub(super) fn expire_flights(&mut self) {
        let oldest = self
            .now_ms
            .saturating_sub(self.settings.budgets.in_flight_ms_max);
        while self
            .flights
            .by_time
            .front()
            .is_some_and(|(since, _)| *since <= oldest && *since < self.now_ms)
        {
            // A slot that moved again meanwhile is dropped a little early; the limit needs no exact
            // count.
            if let Some((_, slots)) = self.flights.by_time.pop_front() {
                for s in slots.iter() {
                    if self.slot(*s).has(IN_FLIGHT) {
                        self.set_flag(*s, IN_FLIGHT, false);
                        self.flights.count -= 1;
                    }
                }
            }
        }
        let late: Vec<u32> = self
            .flights
            .held
            .iter()
            .filter(|(s, _)| !self.flights.kept.contains_key(*s))
            .filter(|(_, held)| held.since_ms <= oldest && held.since_ms < self.now_ms)
            .map(|(s, _)| *s)
            .collect();
        for s in late {
            self.release_held(s);
        }
        let over: Vec<u32> = self
            .improving
            .exempt
            .iter()
            .filter(|(_, exemption)| exemption.until_ms <= self.now_ms)
            .map(|(s, _)| *s)
            .collect();
        for s in over {
            self.improving.exempt.remove(&s);
            self.progress.epoch += 1;
        }
    }

    pub(super) fn confirmed(&mut self, hostname: &Hostname, revision: u64) {
        if self.flights.count == 0 {
            return;
        }
        let Some(n) = self.cluster.by_hostname.get(hostname).copied() else {
            return;
        };
        for s in self.slots_on(n) {
            let members: Vec<u32> = self.members_of(s).collect();
            for s in members.into_iter().chain([s]) {
                let slot = *self.slot(s);
                let known = self.table.rows.get(self.ingest_of(s)).revision();
                if slot.has(IN_FLIGHT) && slot.node != NONE && known <= revision {
                    self.set_flag(s, IN_FLIGHT, false);
                    self.flights.count -= 1;
                }
                let is_kept = self.flights.kept.contains_key(&s);
                if slot.kind() != SlotKind::Inference && known <= revision && !is_kept {
                    self.release_held(s);
                }
            }
        }
    }
}
