//! Whether a slot may be on a node, and why not.

use super::Engine;
use super::class::{Demand, NONE, NodeClass, score, static_reasons};
use super::event::{Reasons, Why};
use super::slot::UNIT;

impl Engine {
    #[inline]
    pub(super) fn demand(&self, class: u32) -> &Demand {
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

    /// Nodes that a slot must keep away from, because the same stream is there.
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

    /// Everything that forbids a slot to be on a node. `there`: it is already, or says so itself, so pressure does not count.
    pub(super) fn reasons_on(&self, s: u32, n: u32, there: bool, siblings: &[u32]) -> Reasons {
        let slot = self.slot(s);
        let node = self.node(n);
        if !node.live {
            return Reasons::OFFLINE;
        }
        let mut reasons = self.static_reasons_on(slot.class, n);
        if !node.is_running() || !there && !node.is_heard() {
            reasons |= Reasons::OFFLINE;
        }
        if node.pressed && !there {
            reasons |= Reasons::CPU;
        }
        if slot.node != n {
            let mut need = slot.need();
            if there && node.settling && slot.has(UNIT) {
                // A unit that is put together anew stays where its members are until it was measured.
                (need.kbps, need.disk) = (0, 0);
            }
            reasons |= node.lacks(&need);
        }
        if siblings.contains(&n) {
            reasons |= Reasons::SIBLING;
        }
        reasons
    }

    /// Which of several reasons is told.
    pub(super) fn why_of(&self, reasons: Reasons, n: u32) -> Why {
        let table = [
            (Reasons::NAMESPACE, Why::Namespace),
            (Reasons::STREAM_MISSES_LABELS, Why::StreamMissesLabels),
            (Reasons::NODE_MISSES_LABELS, Why::NodeMissesLabels),
            (Reasons::OFFLINE, Why::NodeOffline),
            (Reasons::ROLE, Why::Role),
            (Reasons::TRANSCODING, Why::Transcoding),
            (Reasons::CHANNEL_LIMIT, Why::ChannelLimit),
            (Reasons::BANDWIDTH, Why::Bandwidth),
            (Reasons::DVR_SIZE, Why::DvrSize),
            (Reasons::CPU, Why::Cpu),
            (Reasons::SIBLING, Why::Redundancy),
        ];
        let found = table
            .into_iter()
            .find(|(reason, _)| reasons.has(*reason))
            .map_or(Why::NotDistributed, |(_, why)| why);
        if found == Why::NodeOffline && !self.node(n).live {
            return Why::NodeDeleted;
        }
        found
    }
}
