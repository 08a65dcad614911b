//! Whether a slot may be on a node, and why not.

use super::Engine;
use super::class::{NONE, NodeClass, SlotDemand, score, static_reasons};
use super::event::{MoveReason, Reasons};
use super::slot::UNIT;

impl Engine {
    #[inline]
    pub(super) fn demand(&self, class: u32) -> &SlotDemand {
        &self.classes.classes.get(class).demand
    }

    pub(super) fn node_class(&self, node: u32) -> &NodeClass {
        &self.classes.node_classes[self.node(node).class as usize]
    }

    pub(super) fn score_on(&self, class: u32, node: u32) -> u16 {
        score(self.demand(class), self.node_class(node))
    }

    pub(super) fn static_reasons_on(&self, class: u32, node: u32) -> Reasons {
        static_reasons(self.demand(class), self.node_class(node))
    }

    /// Nodes with another slot of the same stream: the slot must not go there.
    pub(super) fn sibling_nodes(&self, s: u32, nodes: &mut Vec<u32>) {
        nodes.clear();
        let slot = self.slot(s);
        if slot.has(UNIT) {
            if let Some(unit) = self.units.by_slot.get(&s) {
                for member in unit.members.iter().filter(|member| member.active) {
                    self.other_nodes(member.ingest, nodes);
                }
            }
        } else if slot.sibling != s {
            self.other_nodes(s, nodes);
        }
    }

    fn other_nodes(&self, s: u32, nodes: &mut Vec<u32>) {
        let mut other = self.slot(s).sibling;
        while other != s {
            let slot = self.slot(other);
            if slot.node != NONE {
                nodes.push(slot.node);
            }
            other = slot.sibling;
        }
    }

    /// All reasons against a slot on a node. `there`: it is there already, or its row has it there;
    /// then neither CPU pressure nor maintenance is a reason.
    pub(super) fn reasons_on(&self, s: u32, n: u32, there: bool, siblings: &[u32]) -> Reasons {
        let slot = self.slot(s);
        let node = self.node(n);
        if !node.live {
            return Reasons::OFFLINE;
        }
        let mut reasons = self.static_reasons_on(slot.class, n);
        if !node.is_running() || !there && !node.is_reachable() {
            reasons |= Reasons::OFFLINE;
        }
        if !there {
            reasons |= node.closure.reasons();
        }
        if slot.node != n {
            let mut need = slot.need();
            if there && node.settling && slot.has(UNIT) {
                // A unit that was formed again stays where its members are until they are measured.
                (need.kbps, need.disk) = (0, 0);
            }
            reasons |= node.lacks(&need);
        }
        if siblings.contains(&n) {
            reasons |= Reasons::SIBLING;
        }
        reasons
    }

    /// The most important of several reasons.
    pub(super) fn main_reason(&self, reasons: Reasons, n: u32) -> MoveReason {
        let table = [
            (Reasons::NAMESPACE, MoveReason::Namespace),
            (
                Reasons::STREAM_MISSES_LABELS,
                MoveReason::StreamMissesLabels,
            ),
            (Reasons::NODE_MISSES_LABELS, MoveReason::NodeMissesLabels),
            (Reasons::OFFLINE, MoveReason::NodeOffline),
            (Reasons::ROLE, MoveReason::Role),
            (Reasons::TRANSCODING, MoveReason::Transcoding),
            (Reasons::CHANNEL_LIMIT, MoveReason::ChannelLimit),
            (Reasons::BANDWIDTH, MoveReason::Bandwidth),
            (Reasons::DVR_SIZE, MoveReason::DvrSize),
            (Reasons::CPU, MoveReason::Cpu),
            (Reasons::SIBLING, MoveReason::Redundancy),
        ];
        let found = table
            .into_iter()
            .find(|(reason, _)| reasons.has(*reason))
            .map_or(MoveReason::NotDistributed, |(_, reason)| reason);
        if found == MoveReason::NodeOffline && !self.node(n).live {
            return MoveReason::NodeDeleted;
        }
        found
    }
}
