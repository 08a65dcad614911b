//! The layouter at one moment, from which the what-if worker answers a query.

use std::collections::HashMap;
use std::sync::Arc;

use crate::layouter::controller::Controller;
use crate::layouter::intake::{NodeStats, stored_layout};
use crate::layouter::{Engine, StoredLayout};
use crate::rt::uptime_ms;
use crate::state::name::{Hostname, StreamName};
use crate::state::record::StreamRecord;
use crate::state::{SHARDS, State};

/// Streams with unwritten decisions that a snapshot lists: copying more would hold up the layouter.
const PLANNED_MAX: usize = 100_000;

/// The layouter at one moment.
pub struct WhatIfSnapshot {
    pub engine: Engine,
    /// The state that the engine is based on.
    pub state: Arc<State>,
    /// Streams for which the engine may have decided what the state does not have yet. Absent: too
    /// many, possibly any.
    planned: Option<Vec<StreamName>>,
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
        let plan = controller.plan();
        let (waiting, sent) = plan.len();
        let are_few = waiting + sent <= PLANNED_MAX;
        Some(Self {
            planned: are_few.then(|| plan.streams().cloned().collect()),
            engine: controller.engine()?.snapshot(),
            stats: stats.collect(),
            now_ms: uptime_ms(),
            state,
        })
    }

    /// Streams for which the engine may have decided what the state does not have yet.
    pub fn planned(&self) -> Box<dyn Iterator<Item = &StreamName> + '_> {
        match &self.planned {
            Some(planned) => Box::new(planned.iter()),
            None => Box::new((0..SHARDS).flat_map(|shard| self.state.shard(shard).keys())),
        }
    }

    /// The stored layout of a stream.
    pub fn stored(&self, stream: &str) -> Option<StoredLayout> {
        self.state.stream(stream).map(stored_layout)
    }

    pub fn node_stats(&self, hostname: &str) -> Option<NodeStats> {
        self.stats.get(hostname).copied()
    }
}

/// Renders the current layout of a stream as the API shows it.
pub type RenderLayout = fn(&StreamRecord, &mut Vec<u8>);
