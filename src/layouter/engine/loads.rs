//! What is assigned to each node, in the units of operators.

use super::Engine;
use super::settings::Balance;
use super::slot::DISK_UNIT_BYTES;
use super::tree::ONE;
use crate::state::name::Hostname;

/// The load of a node.
#[derive(Debug)]
pub struct NodeLoad<'a> {
    pub hostname: &'a Hostname,
    pub channels: u64,
    pub kbps: u64,
    pub disk_mb: u64,
    /// The share of the limit that it is nearest to.
    pub percent: u64,
}

impl Engine {
    /// The loads of all nodes that are not deleted.
    pub fn node_loads(&self) -> impl Iterator<Item = NodeLoad<'_>> {
        let nodes = self.cluster.nodes.iter().filter(|node| node.live);
        nodes.map(|node| NodeLoad {
            hostname: &node.hostname,
            channels: node.used.channels,
            kbps: node.used.kbps,
            disk_mb: node.used.disk * (DISK_UNIT_BYTES >> 20),
            percent: node.load(Balance::Dominant) * 100 / ONE,
        })
    }
}
