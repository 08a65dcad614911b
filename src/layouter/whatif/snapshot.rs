//! The layouter at one moment, from which the what-if worker answers a query.

use std::collections::HashMap;
use std::sync::Arc;

use crate::layouter::Engine;
use crate::layouter::controller::Controller;
use crate::layouter::intake::NodeStats;
use crate::rt::uptime_ms;
use crate::state::State;
use crate::state::name::Hostname;
use crate::state::record::StreamRecord;

/// The layouter at one moment.
pub struct WhatIfSnapshot {
    pub engine: Engine,
    /// The state that the engine is based on.
    pub state: Arc<State>,
    stats: HashMap<Hostname, NodeStats>,
    /// On the layouter's clock.
    pub now_ms: u64,
}

impl WhatIfSnapshot {
    /// `None` while the layouter is disabled.
    pub fn of(controller: &Controller) -> Option<Self> {
        let state = controller.state().clone();
        let hosts = state.streamers().keys();
        let stats = hosts.filter_map(|host| Some((host.clone(), *controller.stats(host)?)));
        Some(Self {
            engine: controller.engine()?.snapshot(),
            stats: stats.collect(),
            now_ms: uptime_ms(),
            state,
        })
    }

    pub fn node_stats(&self, hostname: &str) -> Option<NodeStats> {
        self.stats.get(hostname).copied()
    }
}

/// Renders the current layout of a stream as the API shows it.
pub type RenderLayout = fn(&StreamRecord, &mut Vec<u8>);
