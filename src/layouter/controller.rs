//! The controller: commits, reports and time in, commands and events for the log out.
//!
//! [`Controller`] owns the engine, the health of the nodes and the CPU controller. It has no thread
//! and no clock: `thread` drives it in production, tests drive it directly. The engine runs ahead
//! of the store: it decides at once, and its decisions wait in the [`Plan`] until they are written.
//! A committed row wins over the engine only if its layout was changed by an operator: for an edit
//! that keeps the layout, and for the echo of a batch, the engine's newer layout stays valid.
//!
//! While the layouter is disabled there is no engine and nothing moves; when it is enabled the
//! engine is built from the stored rows, as at a start.

mod draining;
mod handing_over;
mod loads;
mod pausing;
mod status;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use draining::DrainWatch;
use tracing::{debug, error, info, warn};

use self::pausing::FollowedPause;
use self::status::WorkHistory;
use super::handover::Handovers;
#[cfg(test)]
use super::health::NodeHealth;
use super::health::{HealthCause, HealthEvent, HealthSettings, HealthTracker};
use super::intake::{NodeStats, cpu_limit_permille, node_spec, stored_layout, stream_spec};
use super::measured::{BitrateBounds, MeasuredBitrates};
use super::metrics::LayouterMetrics;
use super::plan::{Plan, matches_layout};
use super::pressure::{CpuSample, Pressure, PressureSettings};
use super::quarantine::{self, LostNode, Quarantine, is_edit};
use super::{
    Balance, DrainSpec, Engine, EngineSettings, Event, LayoutChange, MoveBudgets, MoveReason,
    NodeSpec, NodeState, Rows, SlotKind, StoredLayout, StreamSpec, Thresholds,
};
use crate::config::{LayouterBalance, LayouterSettings};
use crate::error::ApiError;
use crate::feed::Commit;
use crate::feed::nodes::{NodeRuntime, NodeTable};
use crate::state::changes::Done;
use crate::state::command::Placement;
use crate::state::event::{EntityType, NewEvent};
use crate::state::name::{Hostname, StreamName};
use crate::state::record::{NodeRole, StreamRecord, StreamerRecord};
use crate::state::{SHARDS, State};

/// Longest step of the CPU controller, for which its parameters were chosen.
const PRESSURE_STEP_MS_MAX: u64 = 30_000;
/// Bounds of the pause between two checks of the signs of life.
const ACTIVITY_MS_MAX: u64 = 1000;
const ACTIVITY_MS_MIN: u64 = 20;
/// Events for the log that wait for the writer; more are dropped.
const EVENTS_WAITING_MAX: usize = 4096;

/// Settings of the layouter. All of them can change at run time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControllerSettings {
    pub enabled: bool,
    /// Pause between two ticks (restoring, improving, balancing). Urgent moves do not wait for a
    /// tick.
    pub interval_ms: u64,
    /// A node that is silent for this long is lost; see [`HealthSettings`].
    pub dead_timeout_ms: u64,
    /// Streams that end their nodes are held.
    pub quarantine: bool,
    /// The old node of a planned move keeps a stream this long at most; 0: not at all.
    pub handover_ms: u64,
    pub engine: EngineSettings,
}

impl From<&LayouterSettings> for ControllerSettings {
    fn from(settings: &LayouterSettings) -> Self {
        let engine = EngineSettings {
            balance: match settings.balance {
                LayouterBalance::Dominant => Balance::Dominant,
                LayouterBalance::Channels => Balance::Channels,
            },
            backups_count_as_channels: settings.backups_count_as_channels,
            failover_to_backup: settings.failover_to_backup,
            failback: settings.failback,
            rebalance: settings.rebalance,
            failure_domain_key: settings.failure_domain_label.as_deref().map(Into::into),
            thresholds: Thresholds {
                chain_depth_max: settings.chain_length_max as u32,
                ..Thresholds::default()
            },
            budgets: MoveBudgets {
                exempt_ms: settings.stream_pause.as_millis() as u64,
                improving_permille_per_hour: 10 * settings.moves_per_hour as u32,
                ..MoveBudgets::default()
            },
            ..EngineSettings::default()
        };
        Self {
            enabled: settings.enabled,
            interval_ms: settings.interval.as_millis() as u64,
            dead_timeout_ms: settings.dead_timeout.as_millis() as u64,
            quarantine: settings.quarantine,
            handover_ms: settings.handover.as_millis() as u64,
            engine,
        }
    }
}

impl Default for ControllerSettings {
    fn default() -> Self {
        let engine = EngineSettings::default();
        Self {
            enabled: false,
            interval_ms: engine.interval_ms,
            dead_timeout_ms: 60_000,
            quarantine: true,
            handover_ms: 20_000,
            engine,
        }
    }
}

/// The layouter without its thread.
pub struct Controller {
    settings: ControllerSettings,
    state: Arc<State>,
    nodes: Arc<NodeTable>,
    engine: Option<Engine>,
    health: HealthTracker,
    pressure: Pressure,
    reports: NodeReports,
    watched: BTreeMap<Hostname, Watched>,
    plan: Plan,
    transfers: Transfers,
    events: Vec<NewEvent>,
    metrics: Arc<LayouterMetrics>,
    history: WorkHistory,
    due: Deadlines,
    holds: Holds,
    pause: FollowedPause,
}

/// Moves that the new node has not taken over yet.
#[derive(Default)]
struct Transfers {
    /// Nodes that got streams, with the revision they must receive to confirm them.
    unconfirmed: BTreeMap<Hostname, u64>,
    handovers: Handovers,
    drains: DrainWatch,
}

/// What is not placed for a while.
#[derive(Default)]
struct Holds {
    /// Since when saved streamers are expected, and hold back many first placements.
    expecting_since_ms: Option<u64>,
    quarantine: Quarantine,
}

/// What nodes have reported since the start.
struct NodeReports {
    stats: HashMap<Hostname, NodeStats>,
    /// Bitrates of streams that claim none.
    measured: MeasuredBitrates,
    settling: SettlingNodes,
}

/// Nodes known at the start that have not reported since. Their bitrates are unknown after a
/// restart, which must not move streams.
struct SettlingNodes {
    nodes: BTreeSet<Hostname>,
    until_ms: u64,
}

/// When the periodic work is due next.
struct Deadlines {
    /// Check of the signs of life.
    activity_ms: u64,
    /// Tick of the engine.
    tick_ms: u64,
    /// Step of the CPU controller.
    step_ms: u64,
    /// Step of the nodes that are drained.
    drain_ms: u64,
}

/// The signs of life of a node.
struct Watched {
    node: Arc<NodeRuntime>,
    seen_ms: Option<u64>,
}

impl Controller {
    /// Starts from the stored rows. No stream is placed on a node before its first sign of life.
    pub fn new(
        state: Arc<State>,
        nodes: Arc<NodeTable>,
        settings: ControllerSettings,
        now_ms: u64,
        metrics: Arc<LayouterMetrics>,
    ) -> Self {
        let health = HealthSettings::from_dead_timeout(settings.dead_timeout_ms);
        let mut controller = Self {
            state: state.clone(),
            nodes,
            engine: None,
            health: HealthTracker::new(health, now_ms),
            pressure: Pressure::new(PressureSettings::default()),
            reports: NodeReports {
                stats: HashMap::new(),
                measured: MeasuredBitrates::default(),
                settling: SettlingNodes {
                    nodes: state.streamers().keys().cloned().collect(),
                    until_ms: now_ms + settings.dead_timeout_ms,
                },
            },
            watched: BTreeMap::new(),
            plan: Plan::default(),
            transfers: Transfers::default(),
            events: Vec::new(),
            metrics,
            history: WorkHistory::default(),
            due: Deadlines {
                activity_ms: now_ms,
                tick_ms: now_ms + settings.interval_ms,
                step_ms: now_ms,
                drain_ms: now_ms,
            },
            holds: Holds::default(),
            pause: FollowedPause::at_start(&state, now_ms),
            settings,
        };
        controller.due.step_ms += controller.step_pause_ms();
        controller.advance_quarantine(now_ms);
        controller.holds.quarantine.recall(&state);
        for hostname in state.streamers().keys() {
            controller.watch(hostname, true, now_ms);
        }
        let handovers = &mut controller.transfers.handovers;
        handovers.set_pause(state.paused_since());
        controller.recall_handovers(now_ms);
        controller.rebuild_engine(now_ms);
        controller
    }

    #[cfg(test)]
    pub fn settings(&self) -> &ControllerSettings {
        &self.settings
    }

    /// `None` while the layouter is disabled.
    pub fn engine(&self) -> Option<&Engine> {
        self.engine.as_ref()
    }

    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    #[cfg(test)]
    pub fn health(&self, hostname: &str) -> Option<NodeHealth> {
        self.health.get(hostname)
    }

    /// Decisions that are not written yet.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn stats(&self, hostname: &str) -> Option<&NodeStats> {
        self.reports.stats.get(hostname)
    }

    #[cfg(test)]
    pub fn is_pressed(&self, hostname: &str) -> bool {
        self.pressure.is_pressed(hostname)
    }

    /// When `advance` must be called next.
    pub fn due_ms(&self) -> u64 {
        if self.engine.as_ref().is_some_and(Engine::has_work_left) {
            return 0;
        }
        let plan = self.plan.due_ms().unwrap_or(u64::MAX);
        let handovers = &self.transfers.handovers;
        let handovers = handovers.due_ms(self.settings.handover_ms);
        let plan = plan.min(handovers.unwrap_or(u64::MAX));
        let plan = plan.min(self.pause.due_ms().unwrap_or(u64::MAX));
        let Deadlines {
            activity_ms,
            tick_ms,
            step_ms,
            drain_ms,
        } = self.due;
        let drains = self.engine.as_ref().is_some_and(Engine::has_drains);
        let drain_ms = if drains { drain_ms } else { u64::MAX };
        activity_ms
            .min(tick_ms)
            .min(step_ms)
            .min(drain_ms)
            .min(plan)
    }

    /// Handles commits, in their order, as one.
    pub fn commit(&mut self, commits: &[Arc<Commit>], now_ms: u64) {
        // After a restart the state may be newer than commits in the channel.
        let newer = commits
            .iter()
            .position(|commit| commit.revision > self.state.revision());
        let Some(newer) = newer else {
            return;
        };
        let commit = Commit::merged(&commits[newer..]);
        let before = std::mem::replace(&mut self.state, commit.state.clone());
        let mut rows = Rows::default();
        for hostname in &commit.streamers {
            match commit.state.streamer(hostname) {
                Some(record) => {
                    self.watch(hostname, false, now_ms);
                    rows.nodes.push(self.node_spec(hostname, record));
                }
                None => {
                    self.unwatch(hostname);
                    rows.nodes_deleted.push(hostname.clone());
                }
            }
        }
        self.advance_quarantine(now_ms);
        for name in &commit.deleted_streams {
            self.reports.measured.forget(name);
            self.holds.quarantine.release(name);
        }
        self.release_edited(&commit, &before);
        self.follow_handovers(&commit, now_ms);
        if self.follow_pause(now_ms) {
            // The engine has all rows.
            return;
        }
        let Some(engine) = &self.engine else {
            return;
        };
        let quarantine = &mut self.holds.quarantine;
        for name in &commit.streams {
            if let Some(record) = commit.state.stream(name) {
                let old = before.stream(name);
                let spec = spec_of_row(engine, &self.plan, quarantine, old, record);
                if self.plan.sent(name).is_none()
                    && let Some(ingest) = record.ingest()
                    && old.is_none_or(|old| old.ingest() != Some(ingest))
                {
                    quarantine.arrived(name, &Hostname::trusted(ingest));
                }
                if self.plan.sent(name).is_some()
                    && let Some(ingest) = &spec.layout.ingest
                {
                    let unconfirmed = &mut self.transfers.unconfirmed;
                    unconfirmed.insert(ingest.clone(), commit.revision);
                }
                rows.streams.push(spec);
            }
        }
        let deleted = commit.deleted_streams.iter();
        rows.streams_deleted = deleted
            .filter(|name| commit.state.stream(name).is_none())
            .cloned()
            .collect();
        let expects = self.expects_streamers(now_ms);
        if expects {
            self.apply(Event::HoldPlacement(true));
        }
        if rows != Rows::default() {
            self.apply(Event::Commit(rows));
        }
        self.apply(Event::HoldPlacement(expects));
        self.forget_settled(commit.streams.iter().chain(&commit.deleted_streams));
    }

    /// Whether saved streamers were not seen yet, so that many first placements wait for them: for
    /// one dead timeout at most, however many more are saved meanwhile.
    fn expects_streamers(&mut self, now_ms: u64) -> bool {
        let is_streamer = |hostname: &Hostname| {
            let record = self.state.streamer(hostname);
            record.is_some_and(|record| record.role == NodeRole::Streamer)
        };
        if !self.health.unseen().any(is_streamer) {
            self.holds.expecting_since_ms = None;
            return false;
        }
        let since_ms = *self.holds.expecting_since_ms.get_or_insert(now_ms);
        now_ms.saturating_sub(since_ms) < self.settings.dead_timeout_ms
    }

    /// Records a node's report about itself, which is also a sign of life.
    pub fn record_stats(&mut self, hostname: &Hostname, stats: NodeStats, at_ms: u64) {
        let Some(record) = self.state.streamer(hostname).cloned() else {
            return;
        };
        self.health.seen(hostname, at_ms);
        if let Some(cpu_permille) = stats.cpu_permille {
            let sample = CpuSample {
                cpu_permille,
                limit_permille: cpu_limit_permille(&record),
                streams: stats.streams.unwrap_or(0),
            };
            self.pressure.sample(hostname, sample);
        }
        let before = self.reports.stats.insert(hostname.clone(), stats);
        let offers =
            |stats: Option<&NodeStats>| stats.map(|stats| (stats.transcoder, stats.disk_bytes));
        if offers(before.as_ref()) != offers(Some(&stats)) {
            let spec = self.node_spec(hostname, &record);
            self.apply(Event::Commit(Rows {
                nodes: vec![spec],
                ..Rows::default()
            }));
        }
    }

    /// Records a node's report about the bitrates of the streams it ingests. Must be called before
    /// [`Controller::record_stats`], so that the node's load is not based on assumed bitrates.
    pub fn record_bitrates(
        &mut self,
        hostname: &Hostname,
        bitrate_of: impl Fn(&str, &str) -> Option<u64>,
        now_ms: u64,
    ) {
        let state = self.state.clone();
        let (Some(node), Some(record)) = (state.node(hostname), state.streamer(hostname)) else {
            return;
        };
        if self.reports.measured.is_due(hostname, now_ms) {
            let bounds = self.bitrate_bounds(hostname, record);
            let mut rows = Rows::default();
            for name in node.streams.keys() {
                let Some(record) = state.stream(name) else {
                    continue;
                };
                if record.ingest() != Some(hostname) {
                    continue;
                }
                let Some(kbps) = bitrate_of(name, hostname) else {
                    continue;
                };
                if let Some(changed) = self.reports.measured.sample(name, kbps, bounds, now_ms)
                    && let Some(engine) = &self.engine
                {
                    let quarantine = &self.holds.quarantine;
                    let mut spec =
                        spec_of_row(engine, &self.plan, quarantine, Some(record), record);
                    if spec.kbps.is_none() {
                        spec.kbps = Some(changed);
                        spec.measured = true;
                        rows.streams.push(spec);
                    }
                }
            }
            if rows != Rows::default() {
                self.apply(Event::Commit(rows));
            }
        }
        if self.reports.settling.nodes.remove(hostname) {
            let spec = self.node_spec(hostname, record);
            self.apply(Event::Commit(Rows {
                nodes: vec![spec],
                ..Rows::default()
            }));
        }
    }

    fn bitrate_bounds(&self, hostname: &Hostname, record: &StreamerRecord) -> BitrateBounds {
        let engine = &self.settings.engine;
        let usable = |kbps: u32| u64::from(kbps) * u64::from(engine.bandwidth_permille) / 1000;
        let bandwidth_kbps = self.node_spec(hostname, record).bandwidth_kbps;
        BitrateBounds {
            assumed_kbps: engine.kbps_default,
            node_kbps: bandwidth_kbps.map(|kbps| usable(kbps).min(u64::from(u32::MAX)) as u32),
        }
    }

    /// Changes the settings; enabling builds the engine, disabling drops it.
    pub fn set(&mut self, settings: ControllerSettings, now_ms: u64) {
        let before = std::mem::replace(&mut self.settings, settings);
        self.health.set(HealthSettings::from_dead_timeout(
            self.settings.dead_timeout_ms,
        ));
        self.publish_standings();
        let due = &self.due;
        self.due = Deadlines {
            activity_ms: due.activity_ms.min(now_ms + self.activity_pause_ms()),
            tick_ms: due.tick_ms.min(now_ms + self.settings.interval_ms),
            step_ms: due.step_ms.min(now_ms + self.step_pause_ms()),
            drain_ms: due.drain_ms,
        };
        if before.enabled != self.settings.enabled {
            self.rebuild_engine(now_ms);
        } else if before.engine != self.settings.engine
            || before.interval_ms != self.settings.interval_ms
        {
            self.apply(Event::Settings(self.engine_settings()));
        }
    }

    /// Looks for lost nodes if that is due, and moves their streams. Comes before everything else.
    pub fn handle_losses(&mut self, now_ms: u64) {
        if now_ms >= self.due.activity_ms {
            self.due.activity_ms = now_ms + self.activity_pause_ms();
            self.check_activity(now_ms);
            self.publish_loads();
        }
    }

    /// Does the work that is due at `now_ms`.
    pub fn advance(&mut self, now_ms: u64) {
        self.history.sample(now_ms, &self.metrics);
        if now_ms >= self.reports.settling.until_ms && !self.reports.settling.nodes.is_empty() {
            self.stop_settling();
        }
        self.handle_losses(now_ms);
        let limit_ms = self.settings.handover_ms;
        self.transfers.handovers.expire(now_ms, limit_ms);
        if now_ms >= self.due.step_ms {
            self.due.step_ms = now_ms + self.step_pause_ms();
            self.relieve_pressure();
        }
        self.advance_drains(now_ms);
        let wanted = self.engine.as_ref().is_some_and(Engine::tick_wanted);
        if now_ms >= self.due.tick_ms || wanted {
            if now_ms >= self.due.tick_ms {
                self.due.tick_ms = now_ms + self.settings.interval_ms;
            }
            let before = self.metrics.decided();
            self.apply(Event::Tick { now_ms });
            if self.engine.is_some() {
                let moves = self.metrics.decided_since(&before).iter().sum();
                self.history.ticked(now_ms, moves);
            }
        }
    }

    /// The next batch of the plan, and its number for [`Controller::on_reply`].
    pub fn next_batch(&mut self, now_ms: u64) -> Option<(u64, Vec<Placement>)> {
        let engine = self.engine.as_ref()?;
        let hands_over = self.settings.handover_ms > 0;
        self.plan
            .next_batch(&self.state, engine, now_ms, hands_over)
    }

    /// Handles the writer's reply to a batch.
    pub fn on_reply(&mut self, id: u64, outcome: &Result<Done, ApiError>, now_ms: u64) {
        let refused = match outcome {
            Ok(Done::Placed { refused }) => Some(&refused[..]),
            Ok(_) => Some(&[][..]),
            Err(error) => {
                warn!(title = %error.items[0].title, "batch of layouts not written; retrying");
                None
            }
        };
        let Some(layouts) = self.plan.on_reply(id, refused, &self.state, now_ms) else {
            return;
        };
        match refused {
            Some(refused) => self
                .metrics
                .count_written(layouts.saturating_sub(refused.len()), refused.len()),
            None => self.metrics.count_failed_batch(),
        }
    }

    /// Updates the gauges of the metrics.
    pub fn update_gauges(&self) {
        let slots = self.engine.as_ref().map_or(0, Engine::waiting_count);
        let (planned, sent) = self.plan.len();
        self.metrics
            .set_gauges(self.engine.is_some(), slots, planned + sent);
        self.metrics.set_handovers(self.transfers.handovers.len());
        let (improving, all) = (self.pause.holds_improving(), self.pause.holds_all());
        self.metrics.set_paused(improving, all);
        self.metrics.set_work(self.work());
    }

    /// Ticks of the engine since the start.
    pub fn ticks(&self) -> u64 {
        self.history.ticks
    }

    /// Takes the events for the event log.
    pub fn take_events(&mut self) -> Vec<NewEvent> {
        std::mem::take(&mut self.events)
    }

    // ---- nodes ----

    fn watch(&mut self, hostname: &Hostname, expected: bool, now_ms: u64) {
        if self.watched.contains_key(hostname) {
            return;
        }
        if self.state.node(hostname).is_none() {
            return;
        }
        let node = self.nodes.get(hostname);
        let dead_timeout_ms = self.settings.dead_timeout_ms;
        let seen_ms = node.activity.last_seen_ms();
        let watched = Watched {
            node,
            // An old sign of life does not count as a new one.
            seen_ms: seen_ms.filter(|at_ms| now_ms.saturating_sub(*at_ms) >= dead_timeout_ms),
        };
        self.watched.insert(hostname.clone(), watched);
        self.health.add(hostname, expected, now_ms);
        self.publish_standing(hostname);
    }

    fn unwatch(&mut self, hostname: &Hostname) {
        if let Some(watched) = self.watched.remove(hostname) {
            watched.node.set_standing(None);
            watched.node.set_assigned(None);
        }
        self.health.remove(hostname);
        self.pressure.remove(hostname);
        self.reports.stats.remove(hostname);
        self.reports.measured.forget_node(hostname);
        self.reports.settling.nodes.remove(hostname);
        self.transfers.unconfirmed.remove(hostname);
        self.transfers.drains.forget(hostname);
    }

    fn publish_standings(&self) {
        for hostname in self.watched.keys() {
            self.publish_standing(hostname);
        }
    }

    /// Shows what follows from the signs of life of a node.
    fn publish_standing(&self, hostname: &Hostname) {
        if let (Some(watched), Some(health)) =
            (self.watched.get(hostname), self.health.get(hostname))
        {
            watched.node.set_standing(Some(health.standing()));
        }
    }

    fn node_spec(&self, hostname: &Hostname, record: &StreamerRecord) -> NodeSpec {
        let (stats, state) = (self.reports.stats.get(hostname), self.node_state(hostname));
        let spec = node_spec(record, stats, state);
        NodeSpec {
            settling: self.reports.settling.nodes.contains(hostname),
            drain: spec.drain.map(|drain| DrainSpec {
                keeps_ms: self.settings.handover_ms,
                ..drain
            }),
            ..spec
        }
    }

    /// Nodes that did not report in time are judged by the assumed bitrates of their streams.
    fn stop_settling(&mut self) {
        let state = self.state.clone();
        let late = std::mem::take(&mut self.reports.settling.nodes);
        let nodes = late.iter().filter_map(|hostname| {
            let record = state.streamer(hostname)?;
            Some(self.node_spec(hostname, record))
        });
        let nodes = nodes.collect();
        self.apply(Event::Commit(Rows {
            nodes,
            ..Rows::default()
        }));
    }

    fn node_state(&self, hostname: &str) -> NodeState {
        self.health
            .get(hostname)
            .map_or(NodeState::Down, |node| node.state)
    }

    fn activity_pause_ms(&self) -> u64 {
        (self.health.tick_pause_ms_max() / 8).clamp(ACTIVITY_MS_MIN, ACTIVITY_MS_MAX)
    }

    /// A node that is silent for two steps is lost, so the CPU controller sees a measurement per
    /// step of all others.
    fn step_pause_ms(&self) -> u64 {
        (self.settings.dead_timeout_ms / 2).min(PRESSURE_STEP_MS_MAX)
    }

    /// Checks the signs of life: lost and returned nodes, and confirmed moves.
    fn check_activity(&mut self, now_ms: u64) {
        for (hostname, watched) in &mut self.watched {
            let seen_ms = watched.node.activity.last_seen_ms();
            if seen_ms != watched.seen_ms
                && let Some(at_ms) = seen_ms
            {
                watched.seen_ms = seen_ms;
                self.health.seen(hostname, at_ms);
            }
        }
        self.advance_quarantine(now_ms);
        let health_events = self.health.tick(now_ms);
        self.quarantine_suspects(&health_events);
        let mut states: BTreeMap<Hostname, NodeState> = BTreeMap::new();
        let mut relieved: Vec<Hostname> = Vec::new();
        for change in &health_events {
            match change {
                HealthEvent::Node { hostname, .. } | HealthEvent::Overdue { hostname, .. } => {
                    self.publish_standing(hostname);
                }
                // Holds have begun again.
                HealthEvent::Paused { .. } => self.publish_standings(),
                HealthEvent::BrakeOn { .. } | HealthEvent::BrakeOff { .. } => {}
            }
            if let Some((hostname, state)) = change.state_change() {
                states.insert(hostname.clone(), state);
                if state == NodeState::Down {
                    if self.pressure.is_pressed(hostname) {
                        relieved.push(hostname.clone());
                    }
                    self.pressure.remove(hostname);
                    self.end_handovers_of_lost(hostname);
                }
            }
            self.report(change);
        }
        let expects = self.expects_streamers(now_ms);
        if expects {
            self.apply(Event::HoldPlacement(true));
        }
        if !states.is_empty() {
            self.apply(Event::NodeStates(states.into_iter().collect()));
        }
        self.apply(Event::HoldPlacement(expects));
        // Pressure was measured before the loss: after its return the node starts without.
        for hostname in relieved {
            self.apply(Event::NodePressure {
                hostname,
                pressed: false,
            });
        }
        let confirmed: Vec<(Hostname, u64)> = self
            .transfers
            .unconfirmed
            .iter()
            .filter_map(|(hostname, revision)| {
                let sent = self.watched.get(hostname)?.node.activity.sent_revision();
                (sent >= *revision).then(|| (hostname.clone(), sent))
            })
            .collect();
        for (hostname, revision) in confirmed {
            self.transfers.unconfirmed.remove(&hostname);
            self.apply(Event::Confirmed { hostname, revision });
        }
    }

    // ---- quarantine ----

    /// Places the streams whose hold is over.
    fn advance_quarantine(&mut self, now_ms: u64) {
        let dead_timeout_ms = self.settings.dead_timeout_ms;
        for name in self.holds.quarantine.advance(now_ms, dead_timeout_ms) {
            self.report_released(&name, "hold_over");
            self.apply_row(&name);
        }
    }

    /// Holds the streams that came to two nodes shortly before each was lost. Comes before their
    /// fail-over to the next node.
    fn quarantine_suspects(&mut self, health_events: &[HealthEvent]) {
        let lost = health_events.iter().filter_map(|event| match event {
            HealthEvent::Node {
                hostname,
                before,
                now,
            } if *before != NodeState::Down
                && now.state == NodeState::Down
                && now.cause != HealthCause::NeverSeen =>
            {
                Some(LostNode {
                    hostname: hostname.clone(),
                    seen_ms: now.seen_ms?,
                })
            }
            _ => None,
        });
        let lost: Vec<LostNode> = lost.collect();
        if self.engine.is_none() || !self.settings.quarantine {
            return;
        }
        for name in self.holds.quarantine.lost(&lost) {
            error!(%name, "stream held: two streamers were lost shortly after it came to them");
            self.log_event(
                NewEvent::new(quarantine::HELD)
                    .number("hold_ms", quarantine::HOLD_MS)
                    .text("why", MoveReason::Quarantined.code())
                    .entity(EntityType::Stream, &name)
                    .about_streams(std::iter::once(name.as_str())),
            );
            self.apply_row(&name);
        }
    }

    /// Ends the hold of streams that a commit has edited.
    fn release_edited(&mut self, commit: &Commit, before: &State) {
        for name in &commit.streams {
            if self.holds.quarantine.holds(name)
                && let Some(record) = commit.state.stream(name)
                && is_edit(before.stream(name), record)
            {
                self.holds.quarantine.release(name);
                self.report_released(name, "edited");
            }
        }
    }

    fn report_released(&mut self, name: &StreamName, why: &str) {
        info!(%name, why, "stream no longer held");
        self.log_event(
            NewEvent::new(quarantine::RELEASED)
                .text("why", why)
                .entity(EntityType::Stream, name)
                .about_streams(std::iter::once(name.as_str())),
        );
    }

    /// Applies the row of a stream again: whether it is held has changed.
    fn apply_row(&mut self, name: &StreamName) {
        let state = self.state.clone();
        if let (Some(engine), Some(record)) = (&self.engine, state.stream(name)) {
            let quarantine = &self.holds.quarantine;
            let spec = spec_of_row(engine, &self.plan, quarantine, Some(record), record);
            self.apply(Event::Commit(Rows {
                streams: vec![spec],
                ..Rows::default()
            }));
        }
    }

    /// One step of the CPU controller.
    fn relieve_pressure(&mut self) {
        for change in self.pressure.step() {
            info!(
                hostname = %change.hostname,
                pressed = change.pressed,
                cpu_permille = change.cpu_permille,
                "CPU pressure changed"
            );
            self.log_event(
                NewEvent::new("layouter_cpu_pressure")
                    .number("cpu_permille", u64::from(change.cpu_permille))
                    .json("pressed", &change.pressed.to_string())
                    .entity(EntityType::Streamer, &change.hostname),
            );
            self.apply(Event::NodePressure {
                hostname: change.hostname,
                pressed: change.pressed,
            });
        }
        if self.engine.is_none() || self.pause.holds_all() {
            return;
        }
        for hostname in self.pressure.due() {
            self.pressure.begin(&hostname);
            while let Some(shed) = self.pressure.offer() {
                let mut moved: Vec<Hostname> = Vec::new();
                self.apply_each(Event::Shed(shed), |change| {
                    if change.from.as_ref() == Some(&hostname) {
                        moved.extend(change.to.clone());
                    }
                });
                if moved.is_empty() {
                    break;
                }
                for to in &moved {
                    self.pressure.moved(to);
                }
            }
            let end = self.pressure.end();
            if end.blocked > 0 {
                warn!(
                    %hostname,
                    moved = end.moved,
                    blocked = end.blocked,
                    "CPU pressure not relieved: no node can take the streams"
                );
            }
        }
    }

    // ---- the engine ----

    /// Applies an event; decisions go into the plan.
    fn apply(&mut self, event: Event) {
        self.apply_each(event, |_| ());
    }

    /// Like `apply`, and calls `each` for every change.
    fn apply_each(&mut self, event: Event, mut each: impl FnMut(&LayoutChange)) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        let is_held = self.pause.holds_all();
        let mut held: Vec<StreamName> = Vec::new();
        engine.apply_each(event, |change| {
            self.plan.add(&change);
            if is_held {
                // It stays a decision.
                held.push(change.stream);
                return;
            }
            self.metrics.count_decision(&change);
            if change.kind == SlotKind::Ingest
                && let Some(to) = change
                    .to
                    .as_ref()
                    .filter(|to| change.from.as_ref() != Some(*to))
            {
                self.holds.quarantine.arrived(&change.stream, to);
            }
            each(&change);
        });
        self.forget_settled(&held);
    }

    fn engine_settings(&self) -> EngineSettings {
        EngineSettings {
            interval_ms: self.settings.interval_ms,
            improves: !self.pause.holds_improving() || self.pause.holds_all(),
            ..self.settings.engine.clone()
        }
    }

    /// The spec of a stored stream, with its measured bitrate if it claims none.
    fn stream_spec(&self, record: &StreamRecord) -> StreamSpec {
        let mut spec = stream_spec(record);
        spec.quarantined = self.holds.quarantine.holds(&spec.name);
        if spec.kbps.is_none() {
            spec.kbps = self.reports.measured.kbps_of(&spec.name);
            spec.measured = spec.kbps.is_some();
        }
        spec
    }

    /// Builds the engine from the stored rows and runs it, or drops it if the layouter is disabled.
    fn rebuild_engine(&mut self, now_ms: u64) {
        self.load_engine(now_ms);
        self.apply(Event::Tick { now_ms });
        self.due.tick_ms = now_ms + self.settings.interval_ms;
    }

    /// Builds the engine from the stored rows, which places lost and new streams.
    fn load_engine(&mut self, now_ms: u64) {
        let before = self.engine.take();
        self.plan = self.plan.restarted(self.pause.holds_all());
        self.transfers.unconfirmed.clear();
        if !self.settings.enabled {
            return;
        }
        let state = self.state.clone();
        let settings = self.engine_settings();
        let mut engine = match before {
            Some(before) => before.restarted(settings),
            None => Engine::new(settings),
        };
        let nodes = state.streamers().iter();
        let nodes = nodes.map(|(hostname, record)| self.node_spec(hostname, record));
        engine.apply(Event::Load(Rows {
            nodes: nodes.collect(),
            ..Rows::default()
        }));
        for shard in 0..SHARDS {
            let streams = state.shard(shard).values();
            engine.apply(Event::Load(Rows {
                streams: streams.map(|record| self.stream_spec(record)).collect(),
                ..Rows::default()
            }));
        }
        self.engine = Some(engine);
        let expects = self.expects_streamers(now_ms);
        self.apply(Event::HoldPlacement(expects));
        self.apply(Event::Loaded);
        // The rows of streams that are held may have a node, if the server ended before they were
        // written.
        let held = self.holds.quarantine.streams();
        let held = held.filter_map(|name| Some(self.stream_spec(state.stream(name)?)));
        let streams = held.collect();
        self.apply(Event::Commit(Rows {
            streams,
            ..Rows::default()
        }));
        let pressed: Vec<Hostname> = self
            .watched
            .keys()
            .filter(|hostname| self.pressure.is_pressed(hostname))
            .cloned()
            .collect();
        for hostname in pressed {
            self.apply(Event::NodePressure {
                hostname,
                pressed: true,
            });
        }
    }

    // ---- the event log ----

    fn log_event(&mut self, event: NewEvent) {
        if self.events.len() < EVENTS_WAITING_MAX {
            self.events.push(event);
        }
    }

    /// Logs a change of health, and adds it to the event log.
    fn report(&mut self, change: &HealthEvent) {
        match change {
            // All nodes come up after a start: no line for each.
            HealthEvent::Node { now, .. } if matches!(now.cause, HealthCause::Seen) => {}
            HealthEvent::Node {
                hostname,
                before,
                now,
            } => {
                let (state, before, why) = (now.state.code(), before.code(), now.cause.code());
                if now.state == NodeState::Down {
                    warn!(%hostname, before, why, "streamer is down");
                } else {
                    info!(%hostname, state, before, why, "streamer health changed");
                }
                let mut event = NewEvent::new("layouter_streamer_state")
                    .text("state", now.state.code())
                    .text("why", now.cause.code())
                    .entity(EntityType::Streamer, hostname);
                if let Some(seen_ms) = now.seen_ms {
                    event = event.number("silent_ms", now.since_ms.saturating_sub(seen_ms));
                }
                if let Some(until_ms) = now.hold_until_ms {
                    event = event.number("hold_ms", until_ms.saturating_sub(now.since_ms));
                }
                self.log_event(event);
            }
            HealthEvent::Overdue {
                hostname, state, ..
            } => {
                debug!(%hostname, state = state.code(), "streamer is silent for longer than usual");
            }
            HealthEvent::BrakeOn {
                at_ms,
                lost,
                of,
                until_ms,
            } => {
                error!(
                    lost,
                    of, "most streamers fell silent at once; holding all moves"
                );
                self.log_event(
                    NewEvent::new("layouter_brake_on")
                        .number("hold_ms", until_ms - at_ms)
                        .number("lost", *lost as u64)
                        .number("streamers", *of as u64),
                );
            }
            HealthEvent::BrakeOff { .. } => {
                warn!("mass failure brake released; silent streamers are lost");
                self.log_event(NewEvent::new("layouter_brake_off"));
            }
            HealthEvent::Paused { for_ms, .. } => {
                warn!(
                    ms = for_ms,
                    "this server was paused; restarting all streamer timeouts"
                );
            }
        }
    }
}

/// The spec of a changed row: its layout, or the engine's if the row's is only older.
fn spec_of_row(
    engine: &Engine,
    plan: &Plan,
    quarantine: &Quarantine,
    before: Option<&StreamRecord>,
    record: &StreamRecord,
) -> StreamSpec {
    let mut spec = stream_spec(record);
    spec.quarantined = quarantine.holds(&spec.name);
    let Some(own) = engine.layout(&spec.name) else {
        return spec;
    };
    let untouched =
        before.is_some_and(|before| same_placement(&stored_layout(before), &spec.layout));
    let echo = plan
        .sent(&spec.name)
        .is_some_and(|sent| matches_layout(&spec.layout, sent));
    if untouched || echo {
        spec.layout = StoredLayout {
            ingest: own.ingest,
            inference: own.inference,
            dvr_backups: own.dvr_backups,
            failover_from: own.failover_from,
            by_layouter: spec.layout.by_layouter,
        };
    }
    spec
}

fn same_placement(a: &StoredLayout, b: &StoredLayout) -> bool {
    a.ingest == b.ingest
        && a.inference == b.inference
        && a.dvr_backups == b.dvr_backups
        && a.failover_from == b.failover_from
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::json;
    use crate::state::command::{
        Command, LayoutPatch, MaintenanceRequest, StreamPatch, streamer_patch,
    };
    use crate::state::node::RenderSettings;
    use crate::writer::{NoStorage, StateMachine};

    /// The state machine of the writer and the controller on one clock; tests decide when batches
    /// are written.
    pub(super) struct ControllerTest {
        pub(super) machine: StateMachine<NoStorage>,
        pub(super) nodes: Arc<NodeTable>,
        pub(super) controller: Controller,
        pub(super) now_ms: u64,
    }

    impl ControllerTest {
        pub(super) fn new(hosts: &[&str]) -> Self {
            let state = Arc::new(State::new(1, RenderSettings::default()));
            let settings = ControllerSettings {
                enabled: true,
                ..ControllerSettings::default()
            };
            let nodes = Arc::new(NodeTable::new(0));
            let mut world = Self {
                machine: StateMachine::new(state.clone(), NoStorage),
                nodes: nodes.clone(),
                controller: Controller::new(state, nodes, settings, 1000, Arc::default()),
                now_ms: 1000,
            };
            for host in hosts {
                world.save_streamer(host, "{}");
            }
            world.beat(hosts);
            world
        }

        /// Commits a command and passes the commit to the controller.
        pub(super) fn commit(&mut self, command: Command) -> Done {
            let applied = self.machine.batch(vec![command], self.now_ms);
            let mut applied = applied.expect("the log takes everything");
            if let Some(commit) = applied.commit {
                self.controller.commit(&[commit], self.now_ms);
            }
            let outcome = applied.outcomes.pop().expect("one outcome");
            outcome.expect("the command is possible")
        }

        pub(super) fn save_streamer(&mut self, host: &str, body: &str) {
            let hostname = Hostname::trusted(host);
            let text = body.replacen('{', r#"{"role":"streamer","cluster_key":"k","#, 1);
            let text = text.replace(",}", "}");
            let body = json::parse(text.as_bytes()).expect("JSON");
            let patch = streamer_patch(body, &hostname, "").expect("a streamer");
            self.commit(Command::SaveStreamer { hostname, patch });
        }

        pub(super) fn save(&mut self, name: &str, body: &str) {
            let name = StreamName::trusted(name);
            let body = json::parse(body.as_bytes()).expect("JSON");
            let patch = StreamPatch::from_body(body, &name, "").expect("a stream");
            self.commit(Command::SaveStream { name, patch });
        }

        fn lay_out(&mut self, name: &str, host: &str) {
            let layout = LayoutPatch {
                ingest: Some(Some(Hostname::trusted(host))),
                ..LayoutPatch::default()
            };
            self.commit(Command::SetLayouts {
                items: vec![(StreamName::trusted(name), layout)].into(),
            });
        }

        /// These nodes give a sign of life, one second passes.
        pub(super) fn beat(&mut self, hosts: &[&str]) {
            self.now_ms += 1000;
            for host in hosts {
                let node = self.nodes.get(&Hostname::trusted(host));
                node.activity.seen(self.now_ms);
            }
            self.controller.advance(self.now_ms);
        }

        /// These nodes are alive for a while, all others silent. Batches are written at once.
        pub(super) fn live(&mut self, hosts: &[&str], seconds: u64) {
            for _ in 0..seconds {
                self.beat(hosts);
                self.write();
            }
        }

        pub(super) fn take(&mut self) -> Option<(u64, Vec<Placement>)> {
            self.controller.next_batch(self.now_ms)
        }

        fn carry_out(&mut self, (id, items): (u64, Vec<Placement>)) -> usize {
            let done = self.commit(Command::Place { items });
            let Done::Placed { refused } = &done else {
                panic!("not a plan: {done:?}");
            };
            let count = refused.len();
            self.controller.on_reply(id, &Ok(done), self.now_ms);
            count
        }

        /// Writes all batches. Returns the number of rows that moves change.
        pub(super) fn write(&mut self) -> usize {
            let mut rows = 0;
            while let Some(plan) = self.take() {
                rows += plan.1.len();
                assert_eq!(self.carry_out(plan), 0, "no row changed meanwhile");
            }
            assert!(self.controller.plan.is_empty());
            while let Some((number, items)) = self.controller.next_handover_ends(self.now_ms) {
                let done = self.commit(Command::EndHandovers { items });
                let now_ms = self.now_ms;
                self.controller.on_handover_reply(number, &Ok(done), now_ms);
            }
            rows
        }

        /// Replaces the controller by a new one from the stored rows, as a restart does.
        pub(super) fn restart(&mut self) {
            let settings = self.controller.settings().clone();
            let (state, nodes) = (self.machine.state().clone(), self.nodes.clone());
            self.controller = Controller::new(state, nodes, settings, self.now_ms, Arc::default());
        }

        pub(super) fn ingest(&self, name: &str) -> Option<&str> {
            self.machine.state().stream(name)?.ingest()
        }

        pub(super) fn history(&self, name: &str) -> Vec<String> {
            let row = self.machine.state().stream(name).expect("it was saved");
            let layouts = row.layouts.iter();
            layouts
                .map(|layout| {
                    let host = layout.ingest.as_ref().map_or("-", |host| host.as_str());
                    let why = layout.change_reason.as_ref();
                    format!("{host} {}", why.map_or("-", |why| why.as_str()))
                })
                .collect()
        }

        pub(super) fn on(&self, host: &str) -> usize {
            let state = self.machine.state();
            let streams = state.node(host).map(|node| &node.streams);
            let ingests = |name: &&StreamName| self.ingest(name) == Some(host);
            streams.map_or(0, |streams| streams.keys().filter(ingests).count())
        }
    }

    #[test]
    fn new_stream_is_placed_without_a_tick() {
        let mut world = ControllerTest::new(&["s1", "s2"]);
        world.save("a", "{}");
        world.save("b", "{}");
        assert_eq!(world.write(), 2, "without a tick");
        assert_eq!((world.on("s1"), world.on("s2")), (1, 1));
        let row = world.machine.state().stream("a").expect("saved");
        let layout = row.layout().expect("placed");
        assert!(layout.by_layouter);
        assert_eq!(layout.change_reason.as_deref(), Some("not_distributed"));
        world.live(&["s1", "s2"], 120);
        assert_eq!(world.history("a").len(), 1, "and nothing moves afterwards");
    }

    #[test]
    fn late_reply_matches_no_batch_of_a_rebuilt_engine() {
        // Goal: a batch that was sent before the engine was built again is another one than those
        // after it. Method: its reply arrives while the first batch of the new engine is in flight.
        let mut world = ControllerTest::new(&["s1"]);
        world.save("a", "{}");
        let (late, items) = world.take().expect("a batch");
        let mut settings = world.controller.settings().clone();
        for enabled in [false, true] {
            settings.enabled = enabled;
            world.controller.set(settings.clone(), world.now_ms);
        }
        let (id, again) = world.take().expect("it is decided again");
        assert_eq!(items[0].name, again[0].name);
        let done = Ok(Done::Placed { refused: vec![] });
        world.controller.on_reply(late, &done, world.now_ms);
        assert_eq!(world.controller.plan().len(), (0, 1), "{late} answers {id}");
        assert_eq!(world.carry_out((id, again)), 0);
        assert_eq!(world.ingest("a"), Some("s1"));
    }

    #[test]
    fn many_streams_wait_for_saved_streamers_for_a_dead_timeout() {
        let mut world = ControllerTest::new(&[]);
        for host in ["s1", "s2", "s3"] {
            world.save_streamer(host, "{}");
        }
        for i in 0..12 {
            world.save(&format!("c{i:02}"), "{}");
        }
        world.beat(&["s1"]);
        assert_eq!(world.write(), 0, "two are expected");
        world.save("one", "{}");
        assert_eq!(world.write(), 1, "a single stream does not wait");
        world.beat(&["s1", "s2"]);
        assert_eq!(world.write(), 0, "one is expected");
        world.beat(&["s1", "s2", "s3"]);
        assert_eq!(world.write(), 12);
        let mut shares = ["s1", "s2", "s3"].map(|host| world.on(host));
        shares.sort_unstable();
        assert_eq!(shares, [4, 4, 5]);
        world.live(&["s1", "s2", "s3"], 120);
        assert!((0..12).all(|i| world.history(&format!("c{i:02}")).len() == 1));
    }

    #[test]
    fn streamers_that_never_come_hold_nothing_for_longer() {
        // Goal: the wait ends, however many more streamers are saved. Method: one more every ten
        // seconds, none of which ever polls.
        let mut world = ControllerTest::new(&["s1"]);
        let save_ghost = |world: &mut ControllerTest, i: usize| {
            world.save_streamer(&format!("ghost{i}"), "{}");
        };
        save_ghost(&mut world, 0);
        let streams = (0..24).map(|i| {
            let name = StreamName::trusted(&format!("c{i}"));
            (name, StreamPatch::default())
        });
        world.commit(Command::SaveStreams {
            items: streams.collect::<Vec<_>>().into(),
        });
        for i in 1..6 {
            world.live(&["s1"], 10);
            save_ghost(&mut world, i);
            assert_eq!(world.on("s1"), 0, "after {i}0 s");
        }
        world.live(&["s1"], 11);
        assert_eq!(world.on("s1"), 24);
        // Nor are streams that lose their streamer held.
        world.save_streamer("s2", "{}");
        world.live(&["s1", "s2"], 100);
        assert_eq!((world.on("s1"), world.on("s2")), (12, 12));
        world.live(&["s2"], 30);
        save_ghost(&mut world, 9);
        world.live(&["s2"], 31);
        assert_eq!((world.on("s1"), world.on("s2")), (0, 24));
    }

    #[test]
    fn edit_during_a_batch_is_kept_and_the_batch_retried() {
        let mut world = ControllerTest::new(&["s1"]);
        world.save("a", "{}");
        let plan = world.take().expect("a place for the stream");
        world.save("a", r#"{"title":"edited"}"#);
        assert!(world.take().is_none(), "a stream is in one batch at a time");
        assert_eq!(world.carry_out(plan), 1);
        assert_eq!(world.ingest("a"), None);
        assert_eq!(world.write(), 1);
        assert_eq!(world.ingest("a"), Some("s1"));
        let row = world.machine.state().stream("a").expect("saved");
        assert!(row.config.contains("edited"));
    }

    #[test]
    fn echo_of_a_batch_keeps_newer_decisions() {
        // Goal: a decision made while an earlier one is being written stays valid. Method: the node
        // is lost before the earlier one is committed.
        let mut world = ControllerTest::new(&["s1", "s2"]);
        world.save("a", "{}");
        let plan = world.take().expect("a place for the stream");
        let first = plan.1[0].layout.ingest.clone().flatten().expect("a node");
        let other = if first.as_str() == "s1" { "s2" } else { "s1" };
        for _ in 0..70 {
            world.beat(&[other]);
        }
        world.carry_out(plan);
        assert_eq!(world.ingest("a"), Some(first.as_str()));
        assert_eq!(world.write(), 1);
        let expected = [
            format!("{other} node_become_offline"),
            format!("{first} not_distributed"),
        ];
        assert_eq!(world.history("a"), expected);
    }

    #[test]
    fn layout_set_by_an_operator_wins_and_stays() {
        let mut world = ControllerTest::new(&["s1", "s2"]);
        world.save("a", "{}");
        world.write();
        let other = if world.ingest("a") == Some("s1") {
            "s2"
        } else {
            "s1"
        };
        world.lay_out("a", other);
        assert_eq!(world.write(), 0);
        world.live(&["s1", "s2"], 120);
        assert_eq!(world.ingest("a"), Some(other));
        assert_eq!(world.history("a")[0], format!("{other} relayout_by_api"));
    }

    #[test]
    fn unwritten_batch_is_retried_after_a_pause() {
        let mut world = ControllerTest::new(&["s1"]);
        world.save("a", "{}");
        let (id, _) = world.take().expect("a place for the stream");
        let down = Err(crate::error::STORAGE_UNAVAILABLE.error().retry_after(1));
        world.controller.on_reply(id, &down, world.now_ms);
        assert!(world.take().is_none(), "not at once");
        let due_ms = world.controller.due_ms();
        assert!(due_ms > world.now_ms && due_ms <= world.now_ms + 1000);
        world.now_ms = world.controller.plan.due_ms().expect("it will be tried");
        assert_eq!(world.write(), 1);
        assert_eq!(world.ingest("a"), Some("s1"));
    }

    #[test]
    fn large_plans_are_sent_as_few_bounded_batches() {
        let mut world = ControllerTest::new(&["s1"]);
        let items = (0..5500).map(|i| {
            let name = StreamName::trusted(&format!("c{i}"));
            (name, StreamPatch::default())
        });
        world.commit(Command::SaveStreams {
            items: items.collect::<Vec<_>>().into(),
        });
        let plans: Vec<_> = std::iter::from_fn(|| world.take()).collect();
        let sizes: Vec<usize> = plans.iter().map(|(_, items)| items.len()).collect();
        assert_eq!(sizes, [1000; 4]);
        for plan in plans {
            world.carry_out(plan);
        }
        assert_eq!(world.write(), 1500);
        assert_eq!(world.on("s1"), 5500);
    }

    #[test]
    fn enabling_places_streams_and_disabling_moves_none() {
        let mut world = ControllerTest::new(&["s1", "s2"]);
        let on = world.controller.settings().clone();
        let off = ControllerSettings {
            enabled: false,
            ..on.clone()
        };
        world.controller.set(off.clone(), world.now_ms);
        assert!(world.controller.engine().is_none());
        world.save("a", "{}");
        world.live(&["s1", "s2"], 60);
        assert_eq!(world.ingest("a"), None);
        world.controller.set(on, world.now_ms);
        assert_eq!(world.write(), 1);
        assert!(world.ingest("a").is_some());
        world.controller.set(off, world.now_ms);
        world.live(&[], 120);
        assert_eq!(
            world.history("a").len(),
            1,
            "not even if its streamer is lost"
        );
        let lost = world.controller.health("s1").map(|node| node.state);
        assert_eq!(
            lost,
            Some(NodeState::Down),
            "health is tracked all the same"
        );
    }

    #[test]
    fn answered_poll_ends_moves_in_flight() {
        let mut world = ControllerTest::new(&["s1", "s2"]);
        for (host, zone) in [("s1", "a"), ("s2", "b")] {
            world.save_streamer(host, &format!(r#"{{"labels":{{"zone":"{zone}"}}}}"#));
        }
        for zone in ["a", "b"] {
            world.save(
                "c",
                &format!(r#"{{"labels":{{"required.zone":"{zone}"}}}}"#),
            );
            world.write();
        }
        assert_eq!(world.ingest("c"), Some("s2"));
        let in_flight =
            |world: &ControllerTest| world.controller.engine().map(Engine::in_flight_count);
        assert_eq!(in_flight(&world), Some(1));
        world.beat(&["s1", "s2"]);
        assert_eq!(
            in_flight(&world),
            Some(1),
            "a sign of life is no confirmation"
        );
        let node = world.nodes.get(&Hostname::trusted("s2"));
        node.activity.sent(world.machine.state().revision());
        world.beat(&["s1", "s2"]);
        assert_eq!(in_flight(&world), Some(0));
    }

    #[test]
    fn status_counts_decisions_until_they_are_written() {
        let mut world = ControllerTest::new(&["s1", "s2"]);
        for i in 0..5 {
            world.save(&format!("c{i}"), "{}");
        }
        let five = r#""waiting":{"by_reason":{"not_distributed":5},"improving":0,"#;
        let none = r#""waiting":{"by_reason":{},"improving":0,"unplaced":0,"urgent":0}"#;
        let status = world.controller.status(None);
        assert!(status.contains(five), "{status}");
        // A batch that is not written waits again.
        let (id, items) = world.controller.next_batch(world.now_ms).expect("a batch");
        assert_eq!(items.len(), 5);
        let status = world.controller.status(None);
        assert!(status.contains(none), "{status}");
        let refused = Err(crate::error::STORAGE_UNAVAILABLE.error());
        world.controller.on_reply(id, &refused, world.now_ms);
        let status = world.controller.status(None);
        assert!(status.contains(five), "{status}");
        world.now_ms += 1000;
        assert_eq!(world.write(), 5);
        let status = world.controller.status(None);
        assert!(status.contains(none), "{status}");
        assert!(
            status.contains(r#""moves_1h":{"by_reason":{"not_distributed":5}}"#),
            "{status}"
        );
    }

    #[test]
    fn lost_node_gets_its_streams_back_after_the_hold() {
        let mut world = ControllerTest::new(&["s1", "s2"]);
        for i in 0..6 {
            world.save(&format!("c{i}"), "{}");
        }
        world.write();
        let own: Vec<String> = (0..6)
            .map(|i| format!("c{i}"))
            .filter(|name| world.ingest(name) == Some("s1"))
            .collect();
        // Long enough that ticks have nothing left to do.
        world.live(&["s2"], 600);
        assert_eq!((world.on("s1"), world.on("s2")), (0, 6));
        world.live(&["s1", "s2"], 60);
        assert_eq!(world.on("s1"), 0, "held first");
        world.live(&["s1", "s2"], 35);
        assert!(own.iter().all(|name| world.ingest(name) == Some("s1")));
        assert_eq!((world.on("s1"), world.on("s2")), (3, 3));
    }

    #[test]
    fn cordoned_node_gets_its_streams_back_afterwards() {
        let mut world = ControllerTest::new(&["s1", "s2"]);
        for i in 0..6 {
            world.save(&format!("c{i}"), "{}");
        }
        world.write();
        let maintain = |world: &mut ControllerTest, wanted: MaintenanceRequest| {
            let hostname = Hostname::trusted("s1");
            world.commit(Command::SetMaintenance { hostname, wanted });
        };
        let reason = String::new();
        maintain(&mut world, MaintenanceRequest::Cordon { reason });
        world.live(&["s1", "s2"], 120);
        assert_eq!((world.on("s1"), world.on("s2")), (3, 3), "it keeps them");
        world.live(&["s2"], 100);
        world.live(&["s1", "s2"], 300);
        assert_eq!((world.on("s1"), world.on("s2")), (0, 6), "it takes none");
        maintain(&mut world, MaintenanceRequest::End);
        world.live(&["s1", "s2"], 60);
        assert_eq!((world.on("s1"), world.on("s2")), (3, 3));
    }

    #[test]
    fn node_under_pressure_sheds_a_tenth_of_its_streams() {
        let mut world = ControllerTest::new(&["s1", "s2"]);
        for host in ["s1", "s2"] {
            world.save_streamer(host, r#"{"cpu_limit":80}"#);
        }
        for i in 0..40 {
            world.save(&format!("c{i}"), "{}");
        }
        world.write();
        assert_eq!((world.on("s1"), world.on("s2")), (20, 20));
        let stats = |cpu_permille| NodeStats {
            cpu_permille: Some(cpu_permille),
            streams: Some(20),
            ..NodeStats::default()
        };
        for second in 0..100 {
            if second % 10 == 0 {
                for (host, cpu) in [("s1", 950), ("s2", 300)] {
                    let hostname = Hostname::trusted(host);
                    world
                        .controller
                        .record_stats(&hostname, stats(cpu), world.now_ms);
                }
            }
            world.live(&["s1", "s2"], 1);
        }
        assert!(world.controller.is_pressed("s1") && !world.controller.is_pressed("s2"));
        assert_eq!((world.on("s1"), world.on("s2")), (18, 22), "a tenth");
        let moved = (0..40).filter(|i| world.history(&format!("c{i}")).len() == 2);
        for i in moved {
            assert_eq!(world.history(&format!("c{i}"))[0], "s2 node_cpu_pressure");
        }
        world.save("new", "{}");
        world.write();
        assert_eq!(
            world.ingest("new"),
            Some("s2"),
            "no new stream under pressure"
        );
    }

    /// A report of a node, with one bitrate for all its streams.
    fn report(world: &mut ControllerTest, host: &str, kbps: u64) {
        let hostname = Hostname::trusted(host);
        let now_ms = world.now_ms;
        world
            .controller
            .record_bitrates(&hostname, |_, _| Some(kbps), now_ms);
        let stats = NodeStats::default();
        world.controller.record_stats(&hostname, stats, now_ms);
    }

    #[test]
    fn measured_bitrate_counts_where_none_is_claimed() {
        // Goal: measured streams are packed by their measured bitrate, noise moves nothing, and an
        // edit keeps the measurement. Method: bandwidth for four streams of the assumed bitrate,
        // which really need a quarter of it.
        let mut world = ControllerTest::new(&["s1", "s2"]);
        for host in ["s1", "s2"] {
            world.save_streamer(host, r#"{"total_bandwidth":9000}"#);
        }
        for i in 0..9 {
            world.save(&format!("c{i}"), "{}");
        }
        world.write();
        assert_eq!(world.on("s1") + world.on("s2"), 8, "2000 each of 8100");
        let moves = |world: &ControllerTest| -> usize {
            (0..9).map(|i| world.history(&format!("c{i}")).len()).sum()
        };
        let mut moves_at_first = 0;
        for second in 0..600_u64 {
            if second == 120 {
                moves_at_first = moves(&world);
            }
            if second % 5 == 0 {
                report(&mut world, "s1", 450 + second * 7919 % 90);
                report(&mut world, "s2", 450 + second * 7919 % 90);
            }
            world.live(&["s1", "s2"], 1);
        }
        assert_eq!(world.on("s1") + world.on("s2"), 9, "room was found");
        assert_eq!(moves(&world), moves_at_first, "and noise moves nothing");
        world.save("c0", r#"{"title":"edited"}"#);
        for i in 9..20 {
            world.save(&format!("c{i}"), r#"{"claims":{"bitrate":500}}"#);
        }
        world.write();
        assert_eq!(world.on("s1") + world.on("s2"), 20);
        // Streams that outgrow their node leave it as far as the other has room, and none is
        // without a node. A claim wins over a measurement.
        world.save("c0", r#"{"claims":{"bitrate":500}}"#);
        for second in 0..900_u64 {
            if second % 5 == 0 {
                report(&mut world, "s1", 5000);
            }
            world.live(&["s1", "s2"], 1);
        }
        assert_eq!(world.on("s1") + world.on("s2"), 20);
        let engine = world.controller.engine().expect("it is on");
        let mut loads = engine.node_loads();
        let other = loads.find(|node| &**node.hostname == "s2").expect("known");
        assert!(Some(other.kbps) <= engine.kbps_limit_of("s2"), "{other:?}");
        let out = (0..9).flat_map(|i| world.history(&format!("c{i}")));
        let reason = "streamer_total_bandwidth_exceeded";
        assert!(out.into_iter().any(|line| line.ends_with(reason)));
    }

    #[test]
    fn restart_without_measurements_moves_no_stream() {
        let mut world = ControllerTest::new(&["s1", "s2"]);
        for host in ["s1", "s2"] {
            world.save_streamer(host, r#"{"total_bandwidth":9000}"#);
        }
        for i in 0..8 {
            world.save(&format!("c{i}"), "{}");
        }
        world.write();
        for _ in 0..8 {
            report(&mut world, "s1", 400);
            report(&mut world, "s2", 400);
            for i in 8..24 {
                world.save(&format!("c{i}"), "{}");
            }
            world.live(&["s1", "s2"], 60);
        }
        assert_eq!(world.on("s1") + world.on("s2"), 24);
        let moves = |world: &ControllerTest| -> usize {
            (0..24).map(|i| world.history(&format!("c{i}")).len()).sum()
        };
        let before = moves(&world);
        let settings = world.controller.settings().clone();
        let state = world.controller.state().clone();
        for host in ["s1", "s2"] {
            let node = world.nodes.get(&Hostname::trusted(host));
            node.activity.seen(world.now_ms);
        }
        world.controller = Controller::new(
            state,
            world.nodes.clone(),
            settings,
            world.now_ms,
            Arc::default(),
        );
        world.live(&["s1", "s2"], 20);
        report(&mut world, "s1", 410);
        report(&mut world, "s2", 410);
        world.live(&["s1", "s2"], 200);
        assert_eq!(moves(&world), before, "everything stayed");
    }

    #[test]
    fn lost_node_returns_without_pressure() {
        // Goal: measurements before a loss do not count after it. Method: a node under pressure is
        // lost and returns.
        let mut world = ControllerTest::new(&["s1", "s2"]);
        for host in ["s1", "s2"] {
            world.save_streamer(host, r#"{"cpu_limit":80}"#);
        }
        for i in 0..4 {
            world.save(&format!("c{i}"), "{}");
        }
        world.write();
        let s1 = Hostname::trusted("s1");
        let hot = NodeStats {
            cpu_permille: Some(950),
            ..NodeStats::default()
        };
        for _ in 0..10 {
            world.controller.record_stats(&s1, hot, world.now_ms);
            world.live(&["s1", "s2"], 10);
        }
        assert!(world.controller.is_pressed("s1"));
        world.live(&["s2"], 70);
        assert_eq!((world.on("s1"), world.on("s2")), (0, 4));
        assert!(!world.controller.is_pressed("s1"));
        world.live(&["s1", "s2"], 140);
        assert_eq!((world.on("s1"), world.on("s2")), (2, 2), "they return");
        world.save("new", "{}");
        world.save("newer", "{}");
        world.write();
        assert_eq!((world.on("s1"), world.on("s2")), (3, 3));
    }

    /// Saves a stream after whose arrival two of three streamers fall silent, one after the other.
    /// Returns the third one. What follows from the last loss is not written yet.
    fn end_two_streamers(world: &mut ControllerTest) -> &'static str {
        let mut alive = vec!["s1", "s2", "s3"];
        for i in 0..9 {
            world.save(&format!("c{i}"), "{}");
        }
        world.live(&alive, 120);
        world.save("bad", "{}");
        for _ in 0..2 {
            world.live(&alive, 2);
            let host = world.ingest("bad").expect("it has a node").to_owned();
            alive.retain(|other| *other != host);
            for _ in 0..63 {
                world.beat(&alive);
            }
        }
        alive[0]
    }

    #[test]
    fn stream_that_ends_its_streamers_is_held_until_an_edit() {
        let mut world = ControllerTest::new(&["s1", "s2", "s3"]);
        let third = end_two_streamers(&mut world);
        world.write();
        assert_eq!((world.ingest("bad"), world.on(third)), (None, 9));
        assert_eq!(world.history("bad")[0], "- -", "there is no word for it");
        let events = world.controller.take_events();
        let held = events.iter().filter(|it| it.event == quarantine::HELD);
        let names: Vec<_> = held.map(|it| it.member("entity_id")).collect();
        assert_eq!(names, [Some("\"bad\"")]);
        // The event was not written, as on a full disk: it is held all the same.
        world.live(&[third], 600);
        assert_eq!(world.ingest("bad"), None);
        world.save("c0", r#"{"title":"other"}"#);
        world.live(&[third], 1);
        assert_eq!(world.ingest("bad"), None, "another stream was edited");
        world.save("bad", r#"{"title":"mended"}"#);
        assert_eq!(world.write(), 1);
        assert_eq!(world.ingest("bad"), Some(third));
    }

    #[test]
    fn held_stream_is_placed_after_an_hour() {
        let mut world = ControllerTest::new(&["s1", "s2", "s3"]);
        let third = end_two_streamers(&mut world);
        world.live(&[third], 3500);
        assert_eq!(world.ingest("bad"), None);
        world.live(&[third], 200);
        assert_eq!(world.ingest("bad"), Some(third));
    }

    #[test]
    fn start_reads_from_the_log_what_is_held() {
        // Goal: a restart frees no stream, not even if it came before the row was written. Method:
        // new controllers, with the events in the log.
        let mut world = ControllerTest::new(&["s1", "s2", "s3"]);
        let third = end_two_streamers(&mut world);
        let events = world.controller.take_events();
        world.commit(Command::AppendEvents { events });
        assert!(world.ingest("bad").is_some(), "not written yet");
        for _ in 0..2 {
            let settings = world.controller.settings().clone();
            let state = world.machine.state().clone();
            let (nodes, now_ms) = (world.nodes.clone(), world.now_ms);
            world.controller = Controller::new(state, nodes, settings, now_ms, Arc::default());
            world.live(&[third], 70);
            assert_eq!((world.ingest("bad"), world.on(third)), (None, 9));
        }
        world.save("bad", r#"{"title":"mended"}"#);
        world.live(&[third], 1);
        assert_eq!(world.ingest("bad"), Some(third));
        let events = world.controller.take_events();
        assert!(events.iter().any(|it| it.event == quarantine::RELEASED));
    }

    #[test]
    fn health_changes_are_in_the_event_log() {
        let mut world = ControllerTest::new(&["s1", "s2"]);
        world.controller.take_events();
        world.live(&["s2"], 70);
        world.live(&["s1", "s2"], 70);
        let events = world.controller.take_events();
        let texts: Vec<String> = events
            .into_iter()
            .map(|event| event.finish(1, "x", 2))
            .collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
        for (event, part) in texts.iter().zip([
            r#""silent_ms":60000,"state":"down","utc_ms":2,"why":"silent""#,
            r#""hold_ms":60000"#,
            r#""state":"up","utc_ms":2,"why":"hold_over""#,
        ]) {
            assert!(event.contains(part), "{event}");
            assert!(event.contains(r#""entity_id":"s1","entity_type":"streamer""#));
        }
    }
}
