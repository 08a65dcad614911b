//! The layouter at work: commits and signs of life in, commands out.
//!
//! [`Layouter`] owns the engine, the nodes' health and the CPU controller. It has no thread and no clock, so tests drive it; [`start`] gives it
//! both. The engine runs ahead of the store: it decides at once, and what it decided waits in the [`Plan`] until a row says so. A row wins over the
//! engine only where somebody else placed the stream: an edit that leaves the layout alone, and the echo of what was sent, carry the engine's newer
//! opinion instead.
//!
//! Switched off there is no engine at all and nothing moves; switched on it is built from what is stored, as at a start.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tracing::{error, info, warn};

use super::health::{Cause, Fact, Health, HealthSettings, NodeHealth};
use super::intake::{NodeStats, cpu_limit_permille, node_spec, stored_layout, stream_spec};
use super::measured::Measured;
use super::plan::{Plan, says};
use super::pressure::{CpuSample, Pressure, PressureSettings};
use super::tally::Tally;
use super::{Change, Engine, Event, NodeSpec, NodeState, Rows, Settings, StoredLayout, StreamSpec};
use crate::feed::Commit;
use crate::http::error::ApiError;
use crate::state::command::{Done, Placement};
use crate::state::event::{EntityType, NewEvent};
use crate::state::name::Hostname;
use crate::state::pulse::Pulse;
use crate::state::record::{StreamRecord, StreamerRecord};
use crate::state::{SHARDS, State};

/// Longest step of the CPU controller; its constants are made for this.
const PRESSURE_STEP_MS_MAX: u64 = 30_000;
/// Longest pause between two looks at the signs of life.
const LOOK_MS_MAX: u64 = 1000;
const LOOK_MS_MIN: u64 = 20;
/// Events that wait for the writer; more are dropped.
const EVENTS_WAITING_MAX: usize = 4096;

/// How the layouter works. Everything here can change while it runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunSettings {
    pub enabled: bool,
    /// The pause between two rounds of restoring, improving and balancing. What is urgent does not wait for it.
    pub interval_ms: u64,
    /// A node that is silent for so long is lost; see [`HealthSettings`].
    pub dead_timeout_ms: u64,
    pub engine: Settings,
}

impl Default for RunSettings {
    fn default() -> Self {
        let engine = Settings::default();
        Self {
            enabled: false,
            interval_ms: engine.interval_ms,
            dead_timeout_ms: 60_000,
            engine,
        }
    }
}

/// What follows from the settings of the cluster's nodes and what they do.
pub struct Layouter {
    settings: RunSettings,
    state: Arc<State>,
    engine: Option<Engine>,
    health: Health,
    pressure: Pressure,
    stats: HashMap<Hostname, NodeStats>,
    /// Bitrates of streams that claim none.
    measured: Measured,
    /// Nodes that were there at the start and have not reported since, for so long: a restart forgets what was measured, and must move nothing for it.
    settling: BTreeSet<Hostname>,
    settled_at_ms: u64,
    watched: BTreeMap<Hostname, Watched>,
    plan: Plan,
    /// Revisions that brought streams to a node which it has not been told yet.
    untold: BTreeMap<Hostname, u64>,
    events: Vec<NewEvent>,
    tally: Arc<Tally>,
    /// Rounds since it was made.
    pub(super) rounds: u64,
    /// By the number of a batch under way: how many layouts are in it.
    batches: BTreeMap<u64, usize>,
    look_at_ms: u64,
    tick_at_ms: u64,
    step_at_ms: u64,
}

struct Watched {
    pulse: Arc<Pulse>,
    seen_ms: Option<u64>,
}

impl Layouter {
    /// On what is stored. Places nothing on a node before that gave a sign of life.
    pub fn new(state: Arc<State>, settings: RunSettings, now_ms: u64, tally: Arc<Tally>) -> Self {
        let health = HealthSettings::from_dead_timeout(settings.dead_timeout_ms);
        let mut layouter = Self {
            state: state.clone(),
            engine: None,
            health: Health::new(health, now_ms),
            pressure: Pressure::new(PressureSettings::default()),
            stats: HashMap::new(),
            measured: Measured::default(),
            settling: state.streamers().keys().cloned().collect(),
            settled_at_ms: now_ms + settings.dead_timeout_ms,
            watched: BTreeMap::new(),
            plan: Plan::default(),
            untold: BTreeMap::new(),
            events: Vec::new(),
            tally,
            rounds: 0,
            batches: BTreeMap::new(),
            look_at_ms: now_ms,
            tick_at_ms: now_ms + settings.interval_ms,
            step_at_ms: now_ms,
            settings,
        };
        layouter.step_at_ms += layouter.step_pause_ms();
        for hostname in state.streamers().keys() {
            layouter.watch(hostname, true, now_ms);
        }
        layouter.build(now_ms);
        layouter
    }

    pub fn settings(&self) -> &RunSettings {
        &self.settings
    }

    /// Absent while the layouter is switched off.
    pub fn engine(&self) -> Option<&Engine> {
        self.engine.as_ref()
    }

    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    pub fn health(&self, hostname: &str) -> Option<NodeHealth> {
        self.health.get(hostname)
    }

    pub fn stats(&self, hostname: &str) -> Option<&NodeStats> {
        self.stats.get(hostname)
    }

    pub fn is_pressed(&self, hostname: &str) -> bool {
        self.pressure.is_pressed(hostname)
    }

    /// Streams whose new place waits to be written, and those being written.
    pub fn planned(&self) -> (usize, usize) {
        self.plan.len()
    }

    /// The next moment at which something is due.
    pub fn due_ms(&self) -> u64 {
        let plan = self.plan.due_ms().unwrap_or(u64::MAX);
        self.look_at_ms
            .min(self.tick_at_ms)
            .min(self.step_at_ms)
            .min(plan)
    }

    /// Commits, in their order, as one.
    pub fn commit(&mut self, commits: &[Arc<Commit>], now_ms: u64) {
        // A layouter that was built anew may be ahead of what waits for it.
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
        for name in &commit.deleted_streams {
            self.measured.forget(name);
        }
        let Some(engine) = &self.engine else {
            return;
        };
        for name in &commit.streams {
            if let Some(record) = commit.state.stream(name) {
                let spec = spec(engine, &self.plan, before.stream(name), record);
                if self.plan.sent(name).is_some()
                    && let Some(ingest) = &spec.layout.ingest
                {
                    self.untold.insert(ingest.clone(), commit.revision);
                }
                rows.streams.push(spec);
            }
        }
        let deleted = commit.deleted_streams.iter();
        rows.streams_deleted = deleted
            .filter(|name| commit.state.stream(name).is_none())
            .cloned()
            .collect();
        if rows != Rows::default() {
            self.apply(Event::Commit(rows));
        }
    }

    /// What a node tells of itself. It is a sign of life.
    pub fn measured(&mut self, hostname: &Hostname, stats: NodeStats, at_ms: u64) {
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
        let before = self.stats.insert(hostname.clone(), stats);
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

    /// What a node tells of the streams that are captured there. Comes before [`Layouter::measured`], so that the node is not judged by assumptions.
    pub fn weigh(
        &mut self,
        hostname: &Hostname,
        bitrate_of: impl Fn(&str, &str) -> Option<u64>,
        now_ms: u64,
    ) {
        let state = self.state.clone();
        let (Some(node), Some(record)) = (state.node(hostname), state.streamer(hostname)) else {
            return;
        };
        if self.measured.is_due(hostname, now_ms) {
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
                if let Some(told) = self.measured.sample(name, kbps, now_ms)
                    && let Some(engine) = &self.engine
                {
                    let mut spec = spec(engine, &self.plan, Some(record), record);
                    if spec.kbps.is_none() {
                        spec.kbps = Some(told);
                        spec.measured = true;
                        rows.streams.push(spec);
                    }
                }
            }
            if rows != Rows::default() {
                self.apply(Event::Commit(rows));
            }
        }
        if self.settling.remove(hostname) {
            let spec = self.node_spec(hostname, record);
            self.apply(Event::Commit(Rows {
                nodes: vec![spec],
                ..Rows::default()
            }));
        }
    }

    pub fn set(&mut self, settings: RunSettings, now_ms: u64) {
        let before = std::mem::replace(&mut self.settings, settings);
        self.health.set(HealthSettings::from_dead_timeout(
            self.settings.dead_timeout_ms,
        ));
        self.tick_at_ms = self.tick_at_ms.min(now_ms + self.settings.interval_ms);
        self.look_at_ms = self.look_at_ms.min(now_ms + self.look_pause_ms());
        self.step_at_ms = self.step_at_ms.min(now_ms + self.step_pause_ms());
        if before.enabled != self.settings.enabled {
            self.build(now_ms);
        } else if before.engine != self.settings.engine
            || before.interval_ms != self.settings.interval_ms
        {
            self.apply(Event::Settings(self.engine_settings()));
        }
    }

    /// Lets time pass.
    pub fn advance(&mut self, now_ms: u64) {
        if now_ms >= self.settled_at_ms && !self.settling.is_empty() {
            self.stop_settling();
        }
        if now_ms >= self.look_at_ms {
            self.look_at_ms = now_ms + self.look_pause_ms();
            self.look(now_ms);
        }
        if now_ms >= self.step_at_ms {
            self.step_at_ms = now_ms + self.step_pause_ms();
            self.relieve();
        }
        let wanted = self.engine.as_ref().is_some_and(Engine::tick_wanted);
        if now_ms >= self.tick_at_ms || wanted {
            if now_ms >= self.tick_at_ms {
                self.tick_at_ms = now_ms + self.settings.interval_ms;
            }
            self.apply(Event::Tick { now_ms });
            self.rounds += u64::from(self.engine.is_some());
        }
    }

    /// The next command of the plan, and its number for [`Layouter::answered`].
    pub fn next_command(&mut self, now_ms: u64) -> Option<(u64, Vec<Placement>)> {
        let engine = self.engine.as_ref()?;
        let (id, items) = self.plan.next_batch(&self.state, engine, now_ms)?;
        self.batches.insert(id, items.len());
        Some((id, items))
    }

    /// A command of the plan was carried out, or not.
    pub fn answered(&mut self, id: u64, outcome: &Result<Done, ApiError>, now_ms: u64) {
        let refused = match outcome {
            Ok(Done::Placed { refused }) => Some(&refused[..]),
            Ok(_) => Some(&[][..]),
            Err(error) => {
                warn!(title = %error.items[0].title, "a plan was not written; it is tried again");
                None
            }
        };
        if let Some(layouts) = self.batches.remove(&id) {
            match refused {
                Some(refused) => self
                    .tally
                    .wrote(layouts.saturating_sub(refused.len()), refused.len()),
                None => self.tally.batch_failed(),
            }
        }
        self.plan.answered(id, refused, &self.state, now_ms);
    }

    /// Tells the tally how things stand.
    pub(super) fn stand(&self) {
        let slots = self.engine.as_ref().map_or(0, Engine::waiting_count);
        let (planned, sent) = self.plan.len();
        self.tally
            .stand(self.engine.is_some(), slots, planned + sent);
    }

    /// What is to be told in the event log.
    pub fn take_events(&mut self) -> Vec<NewEvent> {
        std::mem::take(&mut self.events)
    }

    // ---- nodes ----

    fn watch(&mut self, hostname: &Hostname, expected: bool, now_ms: u64) {
        if self.watched.contains_key(hostname) {
            return;
        }
        let Some(node) = self.state.node(hostname) else {
            return;
        };
        let dead_timeout_ms = self.settings.dead_timeout_ms;
        let seen_ms = node.pulse.seen_ms(now_ms);
        let watched = Watched {
            pulse: node.pulse.clone(),
            // An old sign is not news.
            seen_ms: seen_ms.filter(|at_ms| now_ms.saturating_sub(*at_ms) >= dead_timeout_ms),
        };
        self.watched.insert(hostname.clone(), watched);
        self.health.add(hostname, expected, now_ms);
    }

    fn unwatch(&mut self, hostname: &Hostname) {
        self.watched.remove(hostname);
        self.health.remove(hostname);
        self.pressure.remove(hostname);
        self.stats.remove(hostname);
        self.measured.forget_node(hostname);
        self.settling.remove(hostname);
        self.untold.remove(hostname);
    }

    fn node_spec(&self, hostname: &Hostname, record: &StreamerRecord) -> NodeSpec {
        let (stats, state) = (self.stats.get(hostname), self.node_state(hostname));
        NodeSpec {
            settling: self.settling.contains(hostname),
            ..node_spec(record, stats, state)
        }
    }

    /// Nodes that do not report are judged by what is assumed of their streams.
    fn stop_settling(&mut self) {
        let state = self.state.clone();
        let late = std::mem::take(&mut self.settling);
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

    fn look_pause_ms(&self) -> u64 {
        (self.health.tick_pause_ms_max() / 8).clamp(LOOK_MS_MIN, LOOK_MS_MAX)
    }

    /// What is silent for two steps is lost: in each there is a new measurement, or soon nothing to measure.
    fn step_pause_ms(&self) -> u64 {
        (self.settings.dead_timeout_ms / 2).min(PRESSURE_STEP_MS_MAX)
    }

    /// Looks at the signs of life.
    fn look(&mut self, now_ms: u64) {
        for (hostname, watched) in &mut self.watched {
            let seen_ms = watched.pulse.seen_ms(now_ms);
            if seen_ms != watched.seen_ms
                && let Some(at_ms) = seen_ms
            {
                watched.seen_ms = seen_ms;
                self.health.seen(hostname, at_ms);
            }
        }
        let facts = self.health.tick(now_ms);
        let mut states: BTreeMap<Hostname, NodeState> = BTreeMap::new();
        let mut relieved: Vec<Hostname> = Vec::new();
        for fact in &facts {
            if let Some((hostname, state)) = fact.state_change() {
                states.insert(hostname.clone(), state);
                if state == NodeState::Down {
                    if self.pressure.is_pressed(hostname) {
                        relieved.push(hostname.clone());
                    }
                    self.pressure.remove(hostname);
                }
            }
            self.tell(fact);
        }
        if !states.is_empty() {
            self.apply(Event::NodeStates(states.into_iter().collect()));
        }
        // Nobody would take it back later: what is measured after the return begins without pressure.
        for hostname in relieved {
            self.apply(Event::NodePressure {
                hostname,
                pressed: false,
            });
        }
        let told: Vec<(Hostname, u64)> = self
            .untold
            .iter()
            .filter_map(|(hostname, revision)| {
                let told = self.watched.get(hostname)?.pulse.told();
                (told >= *revision).then(|| (hostname.clone(), told))
            })
            .collect();
        for (hostname, revision) in told {
            self.untold.remove(&hostname);
            self.apply(Event::Confirmed { hostname, revision });
        }
    }

    /// One step of the CPU controller.
    fn relieve(&mut self) {
        for change in self.pressure.step() {
            info!(hostname = %change.hostname, pressed = change.pressed, cpu_permille = change.cpu_permille, "CPU pressure");
            self.event(
                NewEvent::new("layouter_cpu_pressure")
                    .number("cpu_permille", u64::from(change.cpu_permille))
                    .json("pressed", change.pressed.to_string().into())
                    .entity(EntityType::Streamer, &change.hostname),
            );
            self.apply(Event::NodePressure {
                hostname: change.hostname,
                pressed: change.pressed,
            });
        }
        if self.engine.is_none() {
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
                warn!(%hostname, moved = end.moved, blocked = end.blocked, "CPU pressure that cannot be relieved: no node may take the streams");
            }
        }
    }

    // ---- the engine ----

    /// What the engine decides is planned.
    fn apply(&mut self, event: Event) {
        self.apply_each(event, |_| ());
    }

    /// The same, and somebody else hears of it.
    fn apply_each(&mut self, event: Event, mut told: impl FnMut(&Change)) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        engine.apply_each(event, |change| {
            self.tally.decide(&change);
            self.plan.add(&change);
            told(&change);
        });
    }

    fn engine_settings(&self) -> Settings {
        Settings {
            interval_ms: self.settings.interval_ms,
            ..self.settings.engine.clone()
        }
    }

    /// A stored stream, with what was measured if it claims nothing.
    fn stream_spec(&self, record: &StreamRecord) -> StreamSpec {
        let mut spec = stream_spec(record);
        if spec.kbps.is_none() {
            spec.kbps = self.measured.told(&spec.name);
            spec.measured = spec.kbps.is_some();
        }
        spec
    }

    /// An engine that knows what is stored, or none.
    fn build(&mut self, now_ms: u64) {
        self.engine = None;
        self.plan = Plan::default();
        self.batches.clear();
        self.untold.clear();
        if !self.settings.enabled {
            return;
        }
        let state = self.state.clone();
        let mut engine = Engine::new(self.engine_settings());
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
        self.apply(Event::Loaded);
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
        self.apply(Event::Tick { now_ms });
        self.tick_at_ms = now_ms + self.settings.interval_ms;
    }

    // ---- the event log ----

    fn event(&mut self, event: NewEvent) {
        if self.events.len() < EVENTS_WAITING_MAX {
            self.events.push(event);
        }
    }

    fn tell(&mut self, fact: &Fact) {
        match fact {
            // That nodes come in after a start is not worth a line each.
            Fact::Node { now, .. } if matches!(now.cause, Cause::Seen) => {}
            Fact::Node {
                hostname,
                before,
                now,
            } => {
                info!(%hostname, state = now.state.code(), before = before.code(), why = now.cause.code(), "streamer");
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
                self.event(event);
            }
            Fact::BrakeOn {
                at_ms,
                lost,
                of,
                until_ms,
            } => {
                error!(
                    lost,
                    of, "most streamers fell silent at once: nothing is moved for now"
                );
                self.event(
                    NewEvent::new("layouter_brake_on")
                        .number("hold_ms", until_ms - at_ms)
                        .number("lost", *lost as u64)
                        .number("streamers", *of as u64),
                );
            }
            Fact::BrakeOff { .. } => {
                warn!("streamers that are still silent are given up");
                self.event(NewEvent::new("layouter_brake_off"));
            }
            Fact::Paused { for_ms, .. } => {
                warn!(
                    ms = for_ms,
                    "this server did not run for a while; no streamer's silence counts"
                );
            }
        }
    }
}

/// What the engine is told of a changed row.
fn spec(
    engine: &Engine,
    plan: &Plan,
    before: Option<&StreamRecord>,
    record: &StreamRecord,
) -> StreamSpec {
    let mut spec = stream_spec(record);
    let Some(own) = engine.layout(&spec.name) else {
        return spec;
    };
    let untouched = before.is_some_and(|before| same_place(&stored_layout(before), &spec.layout));
    let echo = plan
        .sent(&spec.name)
        .is_some_and(|sent| says(&spec.layout, sent));
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

fn same_place(a: &StoredLayout, b: &StoredLayout) -> bool {
    a.ingest == b.ingest
        && a.inference == b.inference
        && a.dvr_backups == b.dvr_backups
        && a.failover_from == b.failover_from
}

#[cfg(test)]
mod tests {
    use weir_storage::{Batch, Log, Opened, StoreError, Table};

    use super::*;
    use crate::json;
    use crate::state::command::{Command, LayoutPatch, StreamPatch, streamer_patch};
    use crate::state::name::StreamName;
    use crate::state::node::RenderSettings;
    use crate::writer::StateMachine;

    /// A log that keeps nothing and never fails.
    struct Nowhere;

    impl Log for Nowhere {
        fn load(
            &self,
            _: Table,
            _: Option<u8>,
            _: &mut dyn FnMut(&[u8], &[u8]),
        ) -> Result<u64, StoreError> {
            Ok(0)
        }

        fn commit(&mut self, _: &Batch) -> Result<(), StoreError> {
            Ok(())
        }

        fn is_failed(&self) -> bool {
            false
        }

        fn reopen(&mut self) -> Result<Opened, StoreError> {
            unreachable!("it never fails")
        }
    }

    /// The writer and the layouter on one clock, the writer as slow as the test wants.
    struct World {
        machine: StateMachine<Nowhere>,
        layouter: Layouter,
        now_ms: u64,
    }

    impl World {
        fn new(hosts: &[&str]) -> Self {
            let state = Arc::new(State::new(1, RenderSettings::default()));
            let settings = RunSettings {
                enabled: true,
                ..RunSettings::default()
            };
            let mut world = Self {
                machine: StateMachine::new(state.clone(), Nowhere),
                layouter: Layouter::new(state, settings, 1000, Arc::default()),
                now_ms: 1000,
            };
            for host in hosts {
                world.save_streamer(host, "{}");
            }
            world.beat(hosts);
            world
        }

        /// What a caller asks for, committed and told to the layouter.
        fn ask(&mut self, command: Command) -> Done {
            let applied = self.machine.batch(vec![command], self.now_ms);
            let mut applied = applied.expect("the log takes everything");
            if let Some(commit) = applied.commit {
                self.layouter.commit(&[commit], self.now_ms);
            }
            let outcome = applied.outcomes.pop().expect("one outcome");
            outcome.expect("the command is possible")
        }

        fn save_streamer(&mut self, host: &str, body: &str) {
            let hostname = Hostname::trusted(host);
            let text = body.replacen('{', r#"{"role":"streamer","cluster_key":"k","#, 1);
            let text = text.replace(",}", "}");
            let body = json::parse(text.as_bytes()).expect("JSON");
            let patch = streamer_patch(body, &hostname, "").expect("a streamer");
            self.ask(Command::SaveStreamer { hostname, patch });
        }

        fn save(&mut self, name: &str, body: &str) {
            let name = StreamName::trusted(name);
            let body = json::parse(body.as_bytes()).expect("JSON");
            let patch = StreamPatch::from_body(body, &name, "").expect("a stream");
            self.ask(Command::SaveStream { name, patch });
        }

        fn lay_out(&mut self, name: &str, host: &str) {
            let layout = LayoutPatch {
                ingest: Some(Some(Hostname::trusted(host))),
                ..LayoutPatch::default()
            };
            self.ask(Command::SetLayouts {
                items: vec![(StreamName::trusted(name), layout)],
            });
        }

        /// All of these give a sign of life, and the layouter looks.
        fn beat(&mut self, hosts: &[&str]) {
            self.now_ms += 1000;
            for host in hosts {
                let node = self.machine.state().node(host).expect("it was saved");
                node.pulse.beat(self.now_ms);
            }
            self.layouter.advance(self.now_ms);
        }

        /// Lets these live for a while; everybody else is silent. What is planned is written.
        fn live(&mut self, hosts: &[&str], seconds: u64) {
            for _ in 0..seconds {
                self.beat(hosts);
                self.write();
            }
        }

        fn take(&mut self) -> Option<(u64, Vec<Placement>)> {
            self.layouter.next_command(self.now_ms)
        }

        fn carry_out(&mut self, (id, items): (u64, Vec<Placement>)) -> usize {
            let done = self.ask(Command::Place { items });
            let Done::Placed { refused } = &done else {
                panic!("not a plan: {done:?}");
            };
            let count = refused.len();
            self.layouter.answered(id, &Ok(done), self.now_ms);
            count
        }

        /// Writes everything that is planned. Returns the number of rows.
        fn write(&mut self) -> usize {
            let mut rows = 0;
            while let Some(plan) = self.take() {
                rows += plan.1.len();
                assert_eq!(self.carry_out(plan), 0, "nobody was in between");
            }
            assert!(self.layouter.plan.is_empty());
            rows
        }

        fn ingest(&self, name: &str) -> Option<&str> {
            self.machine.state().stream(name)?.ingest()
        }

        fn history(&self, name: &str) -> Vec<String> {
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

        fn on(&self, host: &str) -> usize {
            let node = self.machine.state().node(host);
            node.map_or(0, |node| node.streams.len())
        }
    }

    #[test]
    fn a_new_stream_is_placed_at_once_and_its_row_says_why() {
        let mut world = World::new(&["s1", "s2"]);
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
    fn an_edit_in_between_refuses_the_plan_and_survives_it() {
        let mut world = World::new(&["s1"]);
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
    fn the_echo_of_a_plan_does_not_undo_what_was_decided_since() {
        // Goal: a decision made while the one before it is being written holds. Method: the node of the first is lost before its row is there.
        let mut world = World::new(&["s1", "s2"]);
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
    fn somebody_elses_layout_wins_and_stays() {
        let mut world = World::new(&["s1", "s2"]);
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
    fn a_plan_that_the_store_does_not_take_is_tried_again() {
        let mut world = World::new(&["s1"]);
        world.save("a", "{}");
        let (id, _) = world.take().expect("a place for the stream");
        let down = Err(ApiError::unavailable("storage_unavailable", "down", 1));
        world.layouter.answered(id, &down, world.now_ms);
        assert!(world.take().is_none(), "not at once");
        let due_ms = world.layouter.due_ms();
        assert!(due_ms > world.now_ms && due_ms <= world.now_ms + 1000);
        world.now_ms = world.layouter.plan.due_ms().expect("it will be tried");
        assert_eq!(world.write(), 1);
        assert_eq!(world.ingest("a"), Some("s1"));
    }

    #[test]
    fn large_plans_go_in_batches_and_few_at_a_time() {
        let mut world = World::new(&["s1"]);
        let items = (0..5500).map(|i| {
            let name = StreamName::trusted(&format!("c{i}"));
            (name, StreamPatch::default())
        });
        world.ask(Command::SaveStreams {
            items: items.collect(),
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
    fn switching_on_places_and_switching_off_undoes_nothing() {
        let mut world = World::new(&["s1", "s2"]);
        let on = world.layouter.settings().clone();
        let off = RunSettings {
            enabled: false,
            ..on.clone()
        };
        world.layouter.set(off.clone(), world.now_ms);
        assert!(world.layouter.engine().is_none());
        world.save("a", "{}");
        world.live(&["s1", "s2"], 60);
        assert_eq!(world.ingest("a"), None);
        world.layouter.set(on, world.now_ms);
        assert_eq!(world.write(), 1);
        assert!(world.ingest("a").is_some());
        world.layouter.set(off, world.now_ms);
        world.live(&[], 120);
        assert_eq!(
            world.history("a").len(),
            1,
            "also not when its streamer is lost"
        );
        let lost = world.layouter.health("s1").map(|node| node.state);
        assert_eq!(
            lost,
            Some(NodeState::Down),
            "health is watched all the same"
        );
    }

    #[test]
    fn a_node_that_was_told_has_nothing_in_flight() {
        let mut world = World::new(&["s1", "s2"]);
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
        let in_flight = |world: &World| world.layouter.engine().map(Engine::in_flight_count);
        assert_eq!(in_flight(&world), Some(1));
        world.beat(&["s1", "s2"]);
        assert_eq!(
            in_flight(&world),
            Some(1),
            "a sign of life is not an answer"
        );
        let node = world.machine.state().node("s2").expect("saved").clone();
        node.pulse.tell(world.machine.state().revision());
        world.beat(&["s1", "s2"]);
        assert_eq!(in_flight(&world), Some(0));
    }

    #[test]
    fn a_lost_node_that_is_trusted_again_gets_back_what_it_had() {
        let mut world = World::new(&["s1", "s2"]);
        for i in 0..6 {
            world.save(&format!("c{i}"), "{}");
        }
        world.write();
        let own: Vec<String> = (0..6)
            .map(|i| format!("c{i}"))
            .filter(|name| world.ingest(name) == Some("s1"))
            .collect();
        // Long enough for every tick to find nothing more to do.
        world.live(&["s2"], 600);
        assert_eq!((world.on("s1"), world.on("s2")), (0, 6));
        world.live(&["s1", "s2"], 60);
        assert_eq!(world.on("s1"), 0, "not before it was held");
        world.live(&["s1", "s2"], 35);
        assert!(own.iter().all(|name| world.ingest(name) == Some("s1")));
        assert_eq!((world.on("s1"), world.on("s2")), (3, 3));
    }

    #[test]
    fn a_node_under_pressure_gives_a_few_streams_away() {
        let mut world = World::new(&["s1", "s2"]);
        for host in ["s1", "s2"] {
            world.save_streamer(host, r#"{"cpu_limit":80}"#);
        }
        for i in 0..40 {
            world.save(&format!("c{i}"), "{}");
        }
        world.write();
        assert_eq!((world.on("s1"), world.on("s2")), (20, 20));
        let measured = |cpu_permille| NodeStats {
            cpu_permille: Some(cpu_permille),
            streams: Some(20),
            ..NodeStats::default()
        };
        for second in 0..100 {
            if second % 10 == 0 {
                for (host, cpu) in [("s1", 950), ("s2", 300)] {
                    let hostname = Hostname::trusted(host);
                    world
                        .layouter
                        .measured(&hostname, measured(cpu), world.now_ms);
                }
            }
            world.live(&["s1", "s2"], 1);
        }
        assert!(world.layouter.is_pressed("s1") && !world.layouter.is_pressed("s2"));
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
            "nothing new under pressure"
        );
    }

    /// A node reports: itself and what its streams take.
    fn report(world: &mut World, host: &str, kbps: u64) {
        let hostname = Hostname::trusted(host);
        let now_ms = world.now_ms;
        world.layouter.weigh(&hostname, |_, _| Some(kbps), now_ms);
        let stats = NodeStats::default();
        world.layouter.measured(&hostname, stats, now_ms);
    }

    #[test]
    fn what_streams_really_take_counts_where_nothing_is_claimed() {
        // Goal: a measured stream is packed by what it takes, noise moves nothing, and an edit does not forget it. Method: bandwidth for four assumed
        // streams, which take a quarter of that.
        let mut world = World::new(&["s1", "s2"]);
        for host in ["s1", "s2"] {
            world.save_streamer(host, r#"{"total_bandwidth":9000}"#);
        }
        for i in 0..9 {
            world.save(&format!("c{i}"), "{}");
        }
        world.write();
        assert_eq!(world.on("s1") + world.on("s2"), 8, "2000 each of 8100");
        let moves = |world: &World| -> usize {
            (0..9).map(|i| world.history(&format!("c{i}")).len()).sum()
        };
        let mut early = 0;
        for second in 0..600_u64 {
            if second == 120 {
                early = moves(&world);
            }
            if second % 5 == 0 {
                report(&mut world, "s1", 450 + second * 7919 % 90);
                report(&mut world, "s2", 450 + second * 7919 % 90);
            }
            world.live(&["s1", "s2"], 1);
        }
        assert_eq!(world.on("s1") + world.on("s2"), 9, "room was found");
        assert_eq!(moves(&world), early, "and noise moves nothing");
        world.save("c0", r#"{"title":"edited"}"#);
        for i in 9..20 {
            world.save(&format!("c{i}"), r#"{"claims":{"bitrate":500}}"#);
        }
        world.write();
        assert_eq!(world.on("s1") + world.on("s2"), 20);
        // What grows beyond the node leaves it, and a claim counts more than a measurement.
        world.save("c0", r#"{"claims":{"bitrate":500}}"#);
        for second in 0..900_u64 {
            if second % 5 == 0 {
                report(&mut world, "s1", 5000);
            }
            world.live(&["s1", "s2"], 1);
        }
        let engine = world.layouter.engine().expect("it is on");
        for node in engine.nodes() {
            assert!(
                Some(node.kbps) <= node.kbps_limit.map(u64::from),
                "{node:?}"
            );
        }
        let out = (0..9).flat_map(|i| world.history(&format!("c{i}")));
        let reason = "streamer_total_bandwidth_exceeded";
        assert!(out.into_iter().any(|line| line.ends_with(reason)));
    }

    #[test]
    fn a_restart_forgets_what_was_measured_and_moves_nothing_for_it() {
        let mut world = World::new(&["s1", "s2"]);
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
        let moves = |world: &World| -> usize {
            (0..24).map(|i| world.history(&format!("c{i}")).len()).sum()
        };
        let before = moves(&world);
        let settings = world.layouter.settings().clone();
        let state = world.layouter.state().clone();
        for host in ["s1", "s2"] {
            let node = state.node(host).expect("saved");
            node.pulse.beat(world.now_ms);
        }
        world.layouter = Layouter::new(state, settings, world.now_ms, Arc::default());
        world.live(&["s1", "s2"], 20);
        report(&mut world, "s1", 410);
        report(&mut world, "s2", 410);
        world.live(&["s1", "s2"], 200);
        assert_eq!(moves(&world), before, "everything stayed");
    }

    #[test]
    fn a_lost_node_leaves_its_pressure_behind() {
        // Goal: what was measured before a loss does not count after it. Method: a node under pressure is lost and returns calm.
        let mut world = World::new(&["s1", "s2"]);
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
            world.layouter.measured(&s1, hot, world.now_ms);
            world.live(&["s1", "s2"], 10);
        }
        assert!(world.layouter.is_pressed("s1"));
        world.live(&["s2"], 70);
        assert_eq!((world.on("s1"), world.on("s2")), (0, 4));
        assert!(!world.layouter.is_pressed("s1"));
        world.live(&["s1", "s2"], 140);
        assert_eq!((world.on("s1"), world.on("s2")), (2, 2), "they return");
        world.save("new", "{}");
        world.save("newer", "{}");
        world.write();
        assert_eq!((world.on("s1"), world.on("s2")), (3, 3));
    }

    #[test]
    fn what_happens_to_nodes_is_in_the_event_log() {
        let mut world = World::new(&["s1", "s2"]);
        world.layouter.take_events();
        world.live(&["s2"], 70);
        world.live(&["s1", "s2"], 70);
        let events = world.layouter.take_events();
        let told: Vec<String> = events
            .into_iter()
            .map(|event| event.finish(1, "x", 2))
            .collect();
        assert_eq!(told.len(), 3, "{told:?}");
        for (event, part) in told.iter().zip([
            r#""silent_ms":60000,"state":"down","utc_ms":2,"why":"silent""#,
            r#""hold_ms":60000"#,
            r#""state":"up","utc_ms":2,"why":"hold_over""#,
        ]) {
            assert!(event.contains(part), "{event}");
            assert!(event.contains(r#""entity_id":"s1","entity_type":"streamer""#));
        }
    }
}
