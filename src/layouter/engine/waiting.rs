//! Slots without a node, and when they are tried again.
//!
//! A slot for which no node has room waits in the list of its class. It is tried again only when a
//! node of its pool gained capacity, and not if a slot with smaller needs was just refused.

use std::collections::HashMap;

use super::Engine;
use super::class::{NONE, static_reasons};
use super::cow::FixedHash;
use super::event::MoveReason;
use super::slot::{RETURNS, UNIT};
use super::tree::Need;

/// Refused needs that are remembered during the retry of a class.
const REFUSED_MAX: usize = 8;
/// Failed searches after which the retry of a class ends if no node of its own pool gained.
const MISSES_MAX: u32 = 4;

/// Needs for which no node had room, by the nodes that were eligible.
type RefusedNeeds = HashMap<u32, Vec<Need>, FixedHash>;

/// What the retry of all classes has in common.
struct WaitingRetry {
    /// Searches for chains that are left.
    searches: u32,
    refused: RefusedNeeds,
    /// Slots that were on no node yet go on waiting.
    holds_first: bool,
}

impl Engine {
    /// Retries slots that nodes with more capacity could take. Returns whether some were left for
    /// the next tick, whose work is bounded.
    pub(super) fn retry_waiting(&mut self) -> bool {
        let gained = std::mem::take(&mut self.queue.gained);
        if self.queue.classes.is_empty() || gained.is_empty() {
            return false;
        }
        let mut node_classes: Vec<u32> = gained
            .iter()
            .filter(|node| self.node(**node).is_reachable())
            .map(|node| self.node(*node).class)
            .collect();
        node_classes.sort_unstable();
        node_classes.dedup();
        // Classes that may go to the same nodes are judged once.
        let mut gaining: HashMap<u32, bool, FixedHash> = HashMap::default();
        let mut classes: Vec<(u8, bool, u32)> = self
            .queue
            .classes
            .iter()
            .map(|class| {
                let eligible = self.classes.classes.get(*class).eligible;
                let gains = || {
                    let demand = self.demand(*class);
                    node_classes.iter().any(|number| {
                        let node = &self.classes.node_classes[*number as usize];
                        static_reasons(demand, node).is_empty()
                    })
                };
                let direct = match eligible {
                    NONE => gains(),
                    _ => *gaining.entry(eligible).or_insert_with(gains),
                };
                let head = self.classes.classes.get(*class).waiting.head;
                (self.slot(head).kind() as u8, !direct, *class)
            })
            .collect();
        // Ingests first: capacity that a copy takes is lost for them.
        classes.sort_unstable();
        let mut retry = WaitingRetry {
            searches: self.settings.thresholds.chain_tries_max,
            refused: RefusedNeeds::default(),
            holds_first: self.holds_first_placements(self.queue.waiting as usize),
        };
        let mut left_over = false;
        for (_, indirect, class) in classes {
            left_over |= self.retry_class(class, !indirect, &mut retry);
        }
        if left_over {
            self.queue.gained.extend(gained);
        }
        left_over
    }

    /// `direct`: a node of the class's pool gained. If not, other slots may be able to leave such a
    /// node now.
    fn retry_class(&mut self, class: u32, direct: bool, retry: &mut WaitingRetry) -> bool {
        let eligible = self.classes.eligible_of(class);
        let refused = retry.refused.entry(eligible).or_default();
        let mut misses = 0;
        let mut left_over = false;
        let mut at = self.classes.classes.get(class).waiting.head;
        while at != NONE && (direct || misses < MISSES_MAX) {
            let s = at;
            let slot = *self.slot(s);
            at = slot.next;
            if retry.holds_first && !slot.has(RETURNS) {
                continue;
            }
            let is_refused = refused.iter().any(|refused| slot.need().covers(refused));
            if direct
                && !is_refused
                && let Some(node) = self.find(s, &[])
            {
                self.stop_waiting(s);
                self.place_on(s, node, MoveReason::NotDistributed);
                continue;
            }
            if direct && self.promotable(s, true).is_some() {
                self.promote_waiting(&[s]);
                continue;
            }
            if is_refused {
                continue;
            }
            misses += 1;
            if self.settings.thresholds.chain_depth_max > 0 && !self.is_hopeless(s) {
                let must_wait = retry.searches == 0 || self.budgets.make_room.left() == 0;
                if must_wait || self.slice.cut() {
                    left_over = true;
                } else {
                    retry.searches -= 1;
                    self.stop_waiting(s);
                    if self.make_room(s) {
                        // The chain may have changed the list.
                        at = self.classes.classes.get(class).waiting.head;
                        refused.clear();
                        continue;
                    }
                    // Nothing changed: the slot keeps its place in the list.
                    self.wait_before(s, at);
                }
            }
            if slot.sibling == s && !slot.has(UNIT) && refused.len() < REFUSED_MAX {
                refused.push(slot.need());
            }
        }
        left_over
    }
}
