//! What is assigned to nodes, for those who read them.

use super::Controller;
use crate::feed::nodes::AssignedLoad;

impl Controller {
    /// Publishes what is assigned to each node. During a pause of everything the engine counts what
    /// it would do, so what was published before stays.
    pub(super) fn publish_loads(&self) {
        let Some(engine) = &self.engine else {
            self.watched
                .values()
                .for_each(|it| it.node.set_assigned(None));
            return;
        };
        if self.pause.holds_all() {
            return;
        }
        for load in engine.node_loads() {
            if let Some(watched) = self.watched.get(load.hostname) {
                watched.node.set_assigned(Some(AssignedLoad {
                    channels: load.channels,
                    kbps: load.kbps,
                    disk_mb: load.disk_mb,
                    percent: load.percent,
                }));
            }
        }
    }
}
