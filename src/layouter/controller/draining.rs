//! The drains of a controller: time and reports in, progress and events out.
//!
//! A node is drained when the layouter has nothing on it, nothing is left of it in the stored
//! layouts, and it has listed no stream in a report after that. A node that reports again a stream
//! is not drained any more.

use std::collections::BTreeMap;

use tracing::{info, warn};

use super::Controller;
use crate::feed::nodes::Draining;
use crate::layouter::handover::HandoverReport;
use crate::layouter::{DrainProgress, Engine, Event};
use crate::rt::utc_ms_of;
use crate::state::event::{EntityType, NewEvent};
use crate::state::name::Hostname;

/// Pause between two steps of all drains.
const STEP_PAUSE_MS: u64 = 1000;
/// Events of drains.
const DRAINED: &str = "layouter_streamer_drained";
const OVERDUE: &str = "layouter_drain_overdue";

/// A node that is drained.
#[derive(Default)]
struct WatchedDrain {
    /// Since when nothing is left on it but what it may run by itself.
    empty_ms: Option<u64>,
    drained_ms: Option<u64>,
    is_overdue: bool,
}

/// All nodes that are drained.
#[derive(Default)]
pub(super) struct DrainWatch(BTreeMap<Hostname, WatchedDrain>);

impl DrainWatch {
    pub fn forget(&mut self, hostname: &Hostname) {
        self.0.remove(hostname);
    }
}

impl Controller {
    /// Takes a step of all drains if that is due.
    pub(super) fn advance_drains(&mut self, now_ms: u64) {
        if now_ms < self.due.drain_ms {
            return;
        }
        self.due.drain_ms = now_ms + STEP_PAUSE_MS;
        let has_drains = self.engine.as_ref().is_some_and(Engine::has_drains);
        if has_drains && !self.pause.holds_all() {
            let utc_ms = utc_ms_of(now_ms);
            self.apply(Event::Drain { now_ms, utc_ms });
        }
        self.watch_drains(now_ms);
    }

    /// Publishes what is left on each node, and forgets those that are not drained any more.
    fn watch_drains(&mut self, now_ms: u64) {
        let engine = self.engine.as_ref();
        let draining: Vec<(Hostname, DrainProgress)> =
            engine.map_or_else(Vec::new, |engine| engine.draining().collect());
        let known = std::mem::take(&mut self.transfers.drains.0);
        let (mut known, mut next) = (known, BTreeMap::new());
        for (hostname, progress) in draining {
            let mut watched = known.remove(&hostname).unwrap_or_else(|| {
                info!(%hostname, left = progress.left(), "draining streamer");
                WatchedDrain::default()
            });
            if progress.is_overdue && !watched.is_overdue && !progress.is_empty() {
                watched.is_overdue = true;
                warn!(%hostname, left = progress.left(), "deadline of a drain has passed");
                self.log_event(
                    NewEvent::new(OVERDUE)
                        .number("streams", progress.left())
                        .entity(EntityType::Streamer, &hostname),
                );
            }
            if !progress.is_empty() || !self.is_cleared(&hostname) {
                (watched.empty_ms, watched.drained_ms) = (None, None);
            } else if watched.empty_ms.is_none() {
                watched.empty_ms = Some(now_ms);
            }
            self.publish_drain(&hostname, &progress, &watched);
            next.insert(hostname, watched);
        }
        for hostname in known.keys() {
            if let Some(node) = self.nodes.find(hostname) {
                node.set_draining(None);
            }
        }
        self.transfers.drains.0 = next;
    }

    /// Whether a node was sent that no stream is stored for it.
    fn is_cleared(&self, hostname: &Hostname) -> bool {
        let sent = |node: &crate::state::node::Node| {
            let sent = self
                .nodes
                .find(hostname)
                .map_or(0, |it| it.activity.sent_revision());
            // 0: it pages through its list.
            sent == 0 || sent >= node.generation
        };
        let node = self.state.node(hostname);
        node.is_some_and(|node| node.streams.is_empty() && sent(node))
    }

    fn publish_drain(&self, hostname: &Hostname, left: &DrainProgress, watched: &WatchedDrain) {
        let sent = self
            .state
            .node(hostname)
            .map_or(0, |node| node.streams.len());
        self.nodes.get(hostname).set_draining(Some(Draining {
            // A handover leaves a stream with the node for a while.
            ingests: (sent as u64).saturating_sub(left.left()) + left.ingests,
            backups: left.backups + left.kept_copies,
            inferences: left.inferences,
            no_place: left.no_place,
            drained_ms: watched.drained_ms,
        }));
    }

    /// Records how many streams a node has just listed.
    pub fn record_listed(&mut self, hostname: &Hostname, listed: Option<u64>, now_ms: u64) {
        let Some(watched) = self.transfers.drains.0.get_mut(hostname) else {
            return;
        };
        if listed != Some(0) {
            watched.drained_ms = watched.drained_ms.filter(|_| listed.is_none());
            return;
        }
        if watched.empty_ms.is_some() && watched.drained_ms.is_none() {
            watched.drained_ms = Some(now_ms);
            info!(%hostname, "streamer drained");
            self.log_event(NewEvent::new(DRAINED).entity(EntityType::Streamer, hostname));
        }
        self.due.drain_ms = now_ms;
    }

    /// Records backups that are known to run, for which old copies are kept.
    pub(super) fn record_built(
        &mut self,
        report: &HandoverReport<'_>,
        runs: impl Fn(&str, u64) -> bool,
    ) {
        let Some(engine) = &self.engine else {
            return;
        };
        let mut building = engine.building_on(report.hostname);
        building.retain(|(name, since_ms)| {
            let Some(record) = self.state.stream(name) else {
                return false;
            };
            let is_sent = report.sent == 0 || report.sent >= record.revision.to_native();
            let mut backups = record.backups();
            is_sent && backups.any(|it| *it == **report.hostname) && runs(name, *since_ms)
        });
        if !building.is_empty() {
            let streams = building.into_iter().map(|(name, _)| name).collect();
            self.apply(Event::CopiesRun {
                hostname: report.hostname.clone(),
                streams,
            });
        }
    }
}
