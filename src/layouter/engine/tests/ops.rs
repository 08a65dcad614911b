//! Operations on a small cluster, with a model of the store and of the streamers: changes are
//! written at once, late or never, and come back as rows. After every operation all invariants are
//! checked from the model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::layouter::{
    Balance, DrainSpec, DvrSpec, Engine, EngineSettings, Event, LayoutChange, MoveBudgets,
    MoveReason, NodeSpec, NodeState, PlacementRole, Rows, Shed, ShedTarget, SlotKind, StoredLayout,
    StreamLayout, StreamSpec, Thresholds,
};
use super::names::{Hostname, StreamName};
use super::random::Random;

const NODES: u64 = 12;
const STREAMS: u64 = 40;
const AGENTS: u64 = 6;

/// One operation. Numbers are of nodes and streams, which may not exist.
#[derive(Clone, Debug)]
pub enum ClusterOp {
    SaveNode(NodeSpec),
    DeleteNode(u64),
    States(Vec<(u64, NodeState)>),
    Pressure(u64, bool),
    Shed(u64, u32),
    /// A bitrate is measured, right or wrong.
    Measure(u64, u32),
    /// A disk is measured, right or wrong.
    MeasureDisk(u64, u64),
    SaveStreams(Vec<StreamSpec>),
    /// In one transaction.
    SaveTogether(Vec<NodeSpec>, Vec<StreamSpec>),
    DeleteStream(u64),
    /// By an operator.
    Place(u64, u64),
    /// The writer writes so many changes, the oldest first.
    Write(usize),
    Confirm(u64),
    Settings(EngineSettings),
    Tick(u64),
    /// Time passes for the nodes that are drained.
    Drain(u64),
    /// A node runs all its backups.
    CopiesRun(u64),
}

fn host(n: u64) -> Hostname {
    Hostname::trusted(&format!("node{n}"))
}

fn name(s: u64) -> StreamName {
    StreamName::trusted(&format!("stream{s}"))
}

fn pair(key: &str, value: u64) -> (Arc<str>, Arc<str>) {
    (Arc::from(key), Arc::from(format!("v{value}")))
}

pub fn node(random: &mut Random) -> NodeSpec {
    let n = random.below(NODES);
    let mut labels = vec![pair("zone", random.below(3))];
    if random.below(2) == 0 {
        labels.push(pair("dc", random.below(2)));
    }
    if random.once_in(6) {
        labels.push(pair("required.tenant", random.below(2)));
    }
    if random.once_in(6) {
        labels.push(pair("own", n));
    }
    let inference = random.once_in(7);
    let spec = NodeSpec {
        hostname: host(n),
        role: match (inference, random.once_in(20)) {
            (true, _) => PlacementRole::Inference,
            (_, true) => PlacementRole::Other,
            _ => PlacementRole::Streamer,
        },
        namespace: random.once_in(10).then(|| Arc::from("other")),
        labels,
        channel_limit: 1 + random.below(12) as u32,
        channel_limit_stated: !n.is_multiple_of(3),
        bandwidth_kbps: random
            .once_in(2)
            .then(|| 5_000 + 1000 * random.below(40) as u32),
        disk_bytes: random.once_in(2).then(|| (20 + random.below(400)) << 28),
        transcoder: random.below(2) == 0,
        dvr: !random.once_in(5),
        settling: random.once_in(8),
        cordoned: false,
        drain: None,
        state: *random.pick(&[
            NodeState::Up,
            NodeState::Up,
            NodeState::Unsure,
            NodeState::Probation,
        ]),
    };
    // Without random numbers of their own, so that the other histories stay what they were.
    let drain = (spec.channel_limit == 6).then_some(DrainSpec {
        streams_per_minute: if spec.dvr { 0 } else { 600 },
        deadline_utc_ms: spec.settling.then_some(3_600_000),
        returns: spec.transcoder,
        keeps_ms: if inference { 0 } else { 20_000 },
    });
    NodeSpec {
        cordoned: spec.channel_limit == 5 || drain.is_some(),
        drain,
        ..spec
    }
}

pub fn stream(random: &mut Random) -> StreamSpec {
    let mut labels = Vec::new();
    if random.once_in(2) {
        labels.push(pair("required.zone", random.below(3)));
    }
    if random.once_in(2) {
        labels.push(pair("preferred.dc", random.below(2)));
    }
    if random.once_in(4) {
        labels.push(pair("tenant", random.below(2)));
    }
    if random.once_in(8) {
        labels.push(pair("dc", random.below(2)));
    }
    if random.once_in(8) {
        labels.push(pair("preferred.own", random.below(NODES)));
    }
    let s = random.below(STREAMS);
    if random.once_in(4) {
        // A label that no node has.
        labels.push(pair("camera", s));
    }
    let mut agents = Vec::new();
    if random.once_in(5) {
        for _ in 0..=random.below(2) {
            let agent: Arc<str> = Arc::from(format!("agent{}", random.below(AGENTS)));
            if !agents.contains(&agent) {
                agents.push(agent);
            }
        }
    }
    StreamSpec {
        name: name(s),
        revision: 0,
        disabled: random.once_in(12),
        quarantined: false,
        namespace: random.once_in(12).then(|| Arc::from("other")),
        labels,
        transcoder: random.once_in(8),
        kbps: (!random.once_in(4)).then(|| 500 + 100 * random.below(50) as u32),
        measured: random.once_in(3),
        dvr: random.once_in(2).then(|| DvrSpec {
            expiration_s: 3600 * random.below(200),
            storage_limit_bytes: random.once_in(4).then(|| random.below(40) << 28),
            redundancy_factor: random.below(4) as u32,
        }),
        inference: random.once_in(6),
        agents,
        layout: StoredLayout::default(),
        handover_from: None,
        // Without a random number, so that the other histories stay what they were.
        pinned: s.is_multiple_of(7),
    }
}

impl ClusterOp {
    pub fn random(random: &mut Random) -> Self {
        match random.below(20) {
            0..=2 => Self::SaveNode(node(random)),
            3 => Self::DeleteNode(random.below(NODES)),
            4..=6 => {
                let count = 1 + random.below(3);
                let state = |random: &mut Random| {
                    *random.pick(&[
                        NodeState::Up,
                        NodeState::Down,
                        NodeState::Up,
                        NodeState::Unsure,
                        NodeState::Probation,
                    ])
                };
                Self::States(
                    (0..count)
                        .map(|_| (random.below(NODES), state(random)))
                        .collect(),
                )
            }
            7 if random.once_in(2) => Self::Shed(random.below(NODES), 1 + random.below(3) as u32),
            7 => Self::Pressure(random.below(NODES), random.once_in(2)),
            8 => Self::DeleteStream(random.below(STREAMS)),
            9 => Self::Place(random.below(STREAMS), random.below(NODES + 1)),
            10 if random.once_in(3) => {
                let kbps = *random.pick(&[300, 3000, 60_000, u32::MAX]);
                Self::Measure(random.below(STREAMS), kbps)
            }
            11 if random.once_in(4) => {
                Self::MeasureDisk(random.below(NODES), random.below(400) << 28)
            }
            10 | 11 => Self::Write(1 + random.below(8) as usize),
            12 if random.once_in(2) => Self::CopiesRun(random.below(NODES)),
            12 => Self::Confirm(random.below(NODES)),
            13 if random.once_in(3) => Self::Settings(settings(random)),
            14 if random.once_in(3) => Self::Drain(1 + random.below(10_000)),
            13 | 14 => Self::Tick(1 + random.below(40_000)),
            15 => {
                let nodes = (0..=random.below(2)).map(|_| node(random)).collect();
                let streams = (0..=random.below(6)).map(|_| stream(random)).collect();
                Self::SaveTogether(nodes, streams)
            }
            _ => {
                let count = 1 + random.below(4);
                Self::SaveStreams((0..count).map(|_| stream(random)).collect())
            }
        }
    }
}

pub fn settings(random: &mut Random) -> EngineSettings {
    EngineSettings {
        balance: *random.pick(&[Balance::Dominant, Balance::Channels]),
        bandwidth_permille: *random.pick(&[900, 1000, 500]),
        backups_count_as_channels: !random.once_in(3),
        failure_domain_key: random.once_in(2).then(|| Arc::from("dc")),
        failover_to_backup: random.once_in(3),
        failback: !random.once_in(4),
        rebalance: !random.once_in(4),
        thresholds: Thresholds {
            prefer_load_max_permille: *random.pick(&[1000, 1000, 900]),
            chain_depth_max: *random.pick(&[3, 3, 1, 0]),
            ..Thresholds::default()
        },
        budgets: MoveBudgets {
            make_room_moves_max: *random.pick(&[500, 500, 2]),
            restore_moves_max: *random.pick(&[500, 500, 2]),
            optional_moves_min: *random.pick(&[10, 2]),
            ..MoveBudgets::default()
        },
        ..EngineSettings::default()
    }
}

/// The engine and a model of everything outside of it.
pub struct TestCluster {
    pub engine: Engine,
    pub nodes: BTreeMap<Hostname, NodeSpec>,
    pub states: BTreeMap<Hostname, (NodeState, bool)>,
    /// The stored rows.
    pub streams: BTreeMap<StreamName, StreamSpec>,
    pub settings: EngineSettings,
    pub now_ms: u64,
    revision: u64,
    /// Changes that are not written yet.
    pub unwritten: Vec<(LayoutChange, StreamLayout)>,
}

impl TestCluster {
    pub fn new(settings: EngineSettings) -> Self {
        Self {
            engine: Engine::new(settings.clone()),
            nodes: BTreeMap::new(),
            states: BTreeMap::new(),
            streams: BTreeMap::new(),
            settings,
            now_ms: 0,
            revision: 0,
            unwritten: Vec::new(),
        }
    }

    pub fn step(&mut self, op: &ClusterOp) -> Vec<LayoutChange> {
        let event = match op {
            ClusterOp::SaveNode(spec) => self.save(std::slice::from_ref(spec), &[]),
            ClusterOp::DeleteNode(n) => {
                self.nodes.remove(&host(*n));
                self.states.remove(&host(*n));
                Event::Commit(Rows {
                    nodes_deleted: vec![host(*n)],
                    ..Rows::default()
                })
            }
            ClusterOp::States(states) => {
                let mut last: BTreeMap<Hostname, NodeState> = BTreeMap::new();
                for (n, state) in states {
                    last.insert(host(*n), *state);
                }
                for (host, state) in &last {
                    if let Some(known) = self.states.get_mut(host) {
                        known.0 = *state;
                    }
                }
                Event::NodeStates(last.into_iter().collect())
            }
            ClusterOp::Pressure(n, pressed) => {
                if let Some(known) = self.states.get_mut(&host(*n)) {
                    known.1 = *pressed;
                }
                Event::NodePressure {
                    hostname: host(*n),
                    pressed: *pressed,
                }
            }
            ClusterOp::Shed(n, streams_max) => Event::Shed(Shed {
                hostname: host(*n),
                streams_max: *streams_max,
                targets: (0..NODES)
                    .filter(|other| other % 2 != n % 2)
                    .map(|other| ShedTarget {
                        hostname: host(other),
                        streams_max: 1,
                    })
                    .collect(),
            }),
            ClusterOp::Measure(s, kbps) => return self.measure(&name(*s), *kbps),
            ClusterOp::MeasureDisk(n, bytes) => return self.measure_disk(&host(*n), *bytes),
            ClusterOp::SaveStreams(specs) => self.save(&[], specs),
            ClusterOp::SaveTogether(nodes, streams) => self.save(nodes, streams),
            ClusterOp::DeleteStream(s) => {
                self.streams.remove(&name(*s));
                Event::Commit(Rows {
                    streams_deleted: vec![name(*s)],
                    ..Rows::default()
                })
            }
            ClusterOp::Place(s, n) => {
                let Some(spec) = self.streams.get_mut(&name(*s)) else {
                    return Vec::new();
                };
                self.revision += 1;
                spec.revision = self.revision;
                spec.layout.ingest = (*n < NODES).then(|| host(*n));
                spec.layout.failover_from = None;
                spec.layout.by_layouter = false;
                Event::Commit(Rows {
                    streams: vec![spec.clone()],
                    ..Rows::default()
                })
            }
            ClusterOp::Write(count) => return self.write(*count),
            ClusterOp::Confirm(n) => Event::Confirmed {
                hostname: host(*n),
                revision: self.revision,
            },
            ClusterOp::Settings(settings) => {
                self.settings = settings.clone();
                Event::Settings(settings.clone())
            }
            ClusterOp::Drain(ms) => {
                self.now_ms += ms;
                self.drain_event()
            }
            ClusterOp::CopiesRun(n) => self.copies_run(host(*n)),
            ClusterOp::Tick(ms) => {
                self.now_ms += ms;
                Event::Tick {
                    now_ms: self.now_ms,
                }
            }
        };
        self.apply(event)
    }

    fn drain_event(&self) -> Event {
        Event::Drain {
            now_ms: self.now_ms,
            utc_ms: self.now_ms,
        }
    }

    fn copies_run(&self, hostname: Hostname) -> Event {
        let building = self.engine.building_on(&hostname).into_iter();
        Event::CopiesRun {
            streams: building.map(|(name, _)| name).collect(),
            hostname,
        }
    }

    /// A measurement takes no stream off the air.
    fn measure(&mut self, stream: &StreamName, kbps: u32) -> Vec<LayoutChange> {
        let Some(row) = self.streams.get_mut(stream) else {
            return Vec::new();
        };
        if row.kbps.is_some() && !row.measured {
            return Vec::new();
        }
        row.kbps = Some(kbps);
        row.measured = true;
        let mut row = row.clone();
        if let Some(layout) = self.engine.layout(stream) {
            // As the controller does: a row that was not edited does not change the layout.
            row.layout = StoredLayout {
                ingest: layout.ingest,
                inference: layout.inference,
                dvr_backups: layout.dvr_backups,
                failover_from: layout.failover_from,
                by_layouter: row.layout.by_layouter,
            };
        }
        let changes = self.apply(Event::Commit(Rows {
            streams: vec![row],
            ..Rows::default()
        }));
        assert_all_keep_an_ingest(&changes);
        changes
    }

    fn measure_disk(&mut self, host: &Hostname, bytes: u64) -> Vec<LayoutChange> {
        let Some(node) = self.nodes.get_mut(host) else {
            return Vec::new();
        };
        node.disk_bytes = Some(bytes);
        let mut node = node.clone();
        node.state = self.states[host].0;
        let changes = self.apply(Event::Commit(Rows {
            nodes: vec![node],
            ..Rows::default()
        }));
        assert_all_keep_an_ingest(&changes);
        changes
    }

    /// One transaction of new rows; the last of one name counts.
    fn save(&mut self, nodes: &[NodeSpec], streams: &[StreamSpec]) -> Event {
        let (mut saved_nodes, mut saved) = (BTreeMap::new(), BTreeMap::new());
        for spec in nodes {
            let host = &spec.hostname;
            if !self.nodes.contains_key(host) {
                self.states.insert(host.clone(), (spec.state, false));
            }
            self.nodes.insert(host.clone(), spec.clone());
            // The first row of a node sets its state; later ones do not change it.
            let mut spec = spec.clone();
            spec.state = self.states[host].0;
            saved_nodes.insert(host.clone(), spec);
        }
        for (i, spec) in streams.iter().enumerate() {
            if streams[i + 1..].iter().any(|later| later.name == spec.name) {
                continue;
            }
            let mut spec = spec.clone();
            self.revision += 1;
            spec.revision = self.revision;
            let known = self.streams.get(&spec.name);
            if let Some(known) = known {
                spec.layout = known.layout.clone();
            }
            saved.insert(spec.name.clone(), spec.clone());
            // A measured bitrate stays valid; rows do not have it.
            if let Some(known) = known.filter(|known| known.measured && known.kbps.is_some())
                && spec.kbps.is_none()
            {
                spec.kbps = known.kbps;
                spec.measured = true;
            }
            self.streams.insert(spec.name.clone(), spec);
        }
        Event::Commit(Rows {
            nodes: saved_nodes.into_values().collect(),
            streams: saved.into_values().collect(),
            ..Rows::default()
        })
    }

    /// Applies an event after previewing it.
    pub fn apply(&mut self, event: Event) -> Vec<LayoutChange> {
        let running = self.is_running();
        let before = self.engine.layout_hash();
        let earlier = self.engine.snapshot();
        let mut preview = self.engine.snapshot();
        let previewed = preview.apply(event.clone());
        assert_eq!(
            before,
            self.engine.layout_hash(),
            "a preview changes nothing"
        );
        let changes = self.engine.apply(event.clone());
        assert_eq!(previewed, changes, "a preview equals the event itself");
        assert_eq!(preview.layout_hash(), self.engine.layout_hash());
        drop(preview);
        if !running && !self.is_running() {
            let harmless = |change: &LayoutChange| {
                change.to == change.from
                    || matches!(change.reason, MoveReason::Disabled | MoveReason::Redundancy)
                    || change.kind == SlotKind::Inference
                    || matches!(event, Event::Commit(_))
            };
            assert!(
                changes.iter().all(harmless),
                "nothing moves while no streamer is running: {changes:?}"
            );
        }
        self.check_changes(&changes);
        self.check_closed_nodes(&earlier, &event, &changes);
        for change in &changes {
            let layout = self
                .engine
                .layout(&change.stream)
                .expect("changes are of known streams");
            self.unwritten.push((change.clone(), layout));
        }
        self.check();
        changes
    }

    /// The writer: changes decided on an older row are refused.
    pub fn write(&mut self, count: usize) -> Vec<LayoutChange> {
        let count = count.min(self.unwritten.len());
        let mut saved = BTreeMap::new();
        for (change, layout) in self.unwritten.drain(..count).collect::<Vec<_>>() {
            let Some(row) = self.streams.get_mut(&change.stream) else {
                continue;
            };
            if saved.contains_key(&change.stream) {
                continue;
            }
            if row.revision != change.revision {
                continue;
            }
            self.revision += 1;
            row.revision = self.revision;
            let left = row
                .layout
                .ingest
                .clone()
                .filter(|_| !change.reason.urgent());
            row.handover_from = left.filter(|left| Some(left) != layout.ingest.as_ref());
            row.pinned &= row.layout.ingest == layout.ingest;
            row.layout = StoredLayout {
                ingest: layout.ingest,
                inference: layout.inference,
                dvr_backups: layout.dvr_backups,
                failover_from: layout.failover_from,
                by_layouter: true,
            };
            saved.insert(change.stream.clone(), row.clone());
        }
        self.apply(Event::Commit(Rows {
            streams: saved.into_values().collect(),
            ..Rows::default()
        }))
    }

    /// Writes and ticks until nothing changes.
    pub fn settle(&mut self) {
        for round in 0.. {
            let mut moved = 0;
            while !self.unwritten.is_empty() {
                self.write(usize::MAX);
                moved += 1;
                assert!(moved < 100, "writing ends");
            }
            self.end_handovers();
            for n in 0..NODES {
                self.apply(self.copies_run(host(n)));
            }
            self.now_ms += 700_000;
            self.apply(self.drain_event());
            let changes = self.apply(Event::Tick {
                now_ms: self.now_ms,
            });
            if changes.is_empty() && moved == 0 && self.unwritten.is_empty() {
                break;
            }
            assert!(round < 60, "still moving after 60 rounds: {changes:?}");
        }
        for row in self.streams.values() {
            let layout = self.engine.layout(&row.name).expect("every row is known");
            assert_eq!(layout.revision, row.revision);
            assert_eq!(layout.ingest, row.layout.ingest, "{} is written", row.name);
            assert_eq!(layout.inference, row.layout.inference);
            assert_eq!(
                layout.failover_from, row.layout.failover_from,
                "{}",
                row.name
            );
            assert_eq!(sorted(&layout.dvr_backups), sorted(&row.layout.dvr_backups));
        }
        if self.is_running() {
            self.check_no_ingest_is_missing();
        }
        for chosen in 0..3 {
            self.check_capacity(chosen);
        }
    }

    /// Every new node runs its streams.
    fn end_handovers(&mut self) {
        let mut ended = Vec::new();
        for row in self.streams.values_mut() {
            if row.handover_from.take().is_some() {
                self.revision += 1;
                row.revision = self.revision;
                ended.push(row.clone());
            }
        }
        self.apply(Event::Commit(Rows {
            streams: ended,
            ..Rows::default()
        }));
    }

    pub fn is_running(&self) -> bool {
        self.nodes.values().any(|node| {
            node.role == PlacementRole::Streamer && self.states[&node.hostname].0 != NodeState::Down
        })
    }

    /// A second engine, made from the rows only.
    pub fn restarted(&self) -> (Engine, Vec<LayoutChange>) {
        let mut engine = Engine::new(self.settings.clone());
        let mut nodes: Vec<NodeSpec> = self.nodes.values().cloned().collect();
        for node in &mut nodes {
            node.state = self.states[&node.hostname].0;
        }
        let mut streams: Vec<StreamSpec> = self.streams.values().cloned().collect();
        for row in streams.iter_mut().filter(|row| row.measured) {
            // What waited is measured again.
            row.kbps = row.kbps.and(self.engine.kbps_of(&row.name));
        }
        engine.apply(Event::Load(Rows {
            nodes,
            ..Rows::default()
        }));
        for part in streams.chunks(7) {
            engine.apply(Event::Load(Rows {
                streams: part.to_vec(),
                ..Rows::default()
            }));
        }
        let changes = engine.apply(Event::Loaded);
        engine.check();
        (engine, changes)
    }

    fn check_changes(&self, changes: &[LayoutChange]) {
        let mut seen: BTreeSet<(&StreamName, SlotKind, &Option<Hostname>)> = BTreeSet::new();
        for change in changes {
            if change.kind != SlotKind::DvrBackup {
                assert!(
                    seen.insert((&change.stream, change.kind, &None)),
                    "one change for a slot: {changes:?}"
                );
            }
            let stays = change.from == change.to;
            assert!(
                !stays || change.kind == SlotKind::Ingest && change.reason == MoveReason::Restore
            );
            let row = &self.streams[&change.stream];
            assert_eq!(change.revision, row.revision, "decided on the newest row");
            let is_optional = matches!(
                change.reason,
                MoveReason::Preferred | MoveReason::Rebalance | MoveReason::Cpu
            );
            let moves = !stays && change.from.is_some() && change.kind == SlotKind::Ingest;
            assert!(!(row.pinned && moves && is_optional), "pinned: {change:?}");
        }
    }

    fn runs(&self, host: &Hostname) -> bool {
        let state = self.states.get(host);
        state.is_some_and(|(state, _)| *state != NodeState::Down)
    }

    /// The number of streams without a running node follows from the rows and the nodes.
    fn check_unplaced(&self) {
        let enabled = self.streams.values().filter(|row| !row.disabled);
        let unplaced = enabled.filter(|row| {
            let layout = self.engine.layout(&row.name).expect("every row is known");
            !layout.ingest.is_some_and(|host| self.runs(&host))
        });
        let unplaced: BTreeSet<&StreamName> = unplaced.map(|row| &row.name).collect();
        assert_eq!(self.engine.unplaced().streams, unplaced.len() as u64);
        let mut named = Vec::new();
        self.engine.each_unplaced(|name| named.push(name.clone()));
        assert_eq!(named.len(), unplaced.len(), "each is named once");
        assert_eq!(named.iter().collect::<BTreeSet<_>>(), unplaced);
        for row in self.streams.values().filter(|row| !row.disabled) {
            let on_air = self.engine.is_on_air(&row.name);
            assert_ne!(on_air, unplaced.contains(&row.name), "{}", row.name);
        }
    }

    /// What the loss of a node would mean is what the engine then does.
    fn check_survival(&self) {
        let lost = host(self.revision % NODES);
        let Some(survival) = self.engine.survival(&lost) else {
            return;
        };
        if !self.runs(&lost) {
            return;
        }
        let before = self.engine.unplaced();
        let mut after = self.engine.snapshot();
        after.apply(Event::NodeStates(vec![(lost.clone(), NodeState::Down)]));
        let more = |kind| after.unplaced().of(kind).saturating_sub(before.of(kind));
        for kind in [SlotKind::Ingest, SlotKind::DvrBackup, SlotKind::Inference] {
            assert_eq!(survival.unplaced.of(kind), more(kind), "{kind:?}");
        }
        let off_air = |engine: &Engine, lost: Option<&Hostname>| {
            let is_off_air = |row: &&StreamSpec| {
                let ingest = engine.layout(&row.name).expect("known").ingest;
                !row.disabled && !ingest.is_some_and(|host| lost != Some(&host) && self.runs(&host))
            };
            self.streams.values().filter(is_off_air).count() as u64
        };
        // A loss can also bring what waited a place: a group moves to where all of it fits.
        let more = off_air(&after, Some(&lost)).saturating_sub(off_air(&self.engine, None));
        assert_eq!(survival.unplaced.streams, more);
    }

    /// As many more streams fit as reported, and no others have to move for them; one more
    /// does not fit so.
    fn check_capacity(&self, chosen: usize) {
        let alike = |row: &&StreamSpec| !row.disabled && row.agents.is_empty();
        let rows: Vec<&StreamSpec> = self.streams.values().filter(alike).collect();
        if rows.is_empty() || self.engine.tick_wanted() {
            return;
        }
        let spec = StreamSpec {
            layout: StoredLayout::default(),
            inference: false,
            measured: false,
            dvr: None,
            handover_from: None,
            ..rows[chosen % rows.len()].clone()
        };
        let fits = self.engine.capacity(&spec).fits;
        if !self.is_running() {
            assert_eq!(fits, 0, "there is no streamer");
            return;
        }
        let add = |count: u64| {
            let more = |i| StreamSpec {
                name: StreamName::trusted(&format!("more{i}")),
                ..spec.clone()
            };
            let mut engine = self.engine.snapshot();
            let changes = engine.apply(Event::Commit(Rows {
                streams: (0..count).map(more).collect(),
                ..Rows::default()
            }));
            let is_more = |change: &&LayoutChange| change.stream.starts_with("more");
            let placed = changes.iter().filter(is_more).count();
            (placed as u64, changes.len() > placed)
        };
        let some = fits.min(STREAMS);
        assert_eq!(add(some), (some, false), "{fits} fit: {spec:?}");
        if fits < STREAMS {
            let (placed, others_moved) = add(fits + 1);
            assert!(placed == fits || others_moved, "{fits} fit: {spec:?}");
        }
    }

    /// No ingest is missing while a node that may have it has room or holds a copy. Holds at rest.
    fn check_no_ingest_is_missing(&self) {
        let kbps = |row: &StreamSpec| u64::from(self.engine.kbps_of(&row.name).unwrap_or(0));
        let a_copy = u64::from(self.settings.backups_count_as_channels);
        let mut used: BTreeMap<Hostname, (u64, u64)> = BTreeMap::new();
        let mut missing = Vec::new();
        for row in self.streams.values().filter(|row| !row.disabled) {
            let layout = self.engine.layout(&row.name).expect("every row is known");
            for (host, channels) in (layout.ingest.iter().map(|host| (host, 1)))
                .chain(layout.dvr_backups.iter().map(|host| (host, a_copy)))
            {
                let sum = used.entry(host.clone()).or_default();
                *sum = (sum.0 + channels, sum.1 + kbps(row));
            }
            if layout.ingest.is_none() && row.agents.is_empty() {
                missing.push((row, layout.dvr_backups));
            }
        }
        for (row, copies) in missing {
            for (host, node) in &self.nodes {
                let (state, pressed) = self.states[host];
                let is_copy = copies.contains(host);
                let runs = matches!(state, NodeState::Up | NodeState::Probation);
                // A node under pressure or in maintenance takes nothing new; the room on disks is
                // not modelled.
                let is_closed = pressed || node.cordoned;
                if !runs || is_closed && !is_copy || !may_be_on(row, node) {
                    continue;
                }
                if row.dvr.is_some() && (node.disk_bytes.is_some() || !node.dvr) {
                    continue;
                }
                let (mut channels, mut total) = used.get(host).copied().unwrap_or_default();
                if is_copy {
                    channels -= a_copy;
                    total -= kbps(row);
                }
                let usable = node.bandwidth_kbps.map_or(u64::MAX, |limit| {
                    u64::from(limit) * u64::from(self.settings.bandwidth_permille) / 1000
                });
                assert!(
                    channels + 1 > u64::from(node.channel_limit) || total + kbps(row) > usable,
                    "{} has no ingest; {host} could take it (holds a copy: {is_copy})",
                    row.name
                );
            }
        }
    }

    /// Nothing is placed on a node whose state is unsure, or that is in maintenance, except by its
    /// row, and in the place of its own copy.
    fn check_closed_nodes(&self, earlier: &Engine, event: &Event, changes: &[LayoutChange]) {
        let rows: &[StreamSpec] = match event {
            Event::Commit(rows) => &rows.streams,
            _ => &[],
        };
        for change in changes.iter().filter(|change| change.from != change.to) {
            let Some(to) = &change.to else { continue };
            let in_row = rows.iter().any(|row| {
                let layout = &row.layout;
                row.name == change.stream
                    && (layout.ingest.iter().chain(&layout.inference))
                        .chain(&layout.dvr_backups)
                        .any(|host| host == to)
            });
            // A row that lacks an earlier decision is answered with it.
            let there = earlier.layout(&change.stream).is_some_and(|layout| {
                (layout.ingest.iter().chain(&layout.inference))
                    .chain(&layout.dvr_backups)
                    .any(|host| host == to)
            });
            let state = self.states.get(to).map(|(state, _)| *state);
            let is_cordoned = self.nodes.get(to).is_some_and(|node| node.cordoned);
            let is_closed = is_cordoned || state == Some(NodeState::Unsure);
            assert!(
                !is_closed || in_row || there || !self.is_running(),
                "{change:?} to a node that may be lost or is in maintenance"
            );
        }
    }

    /// Checks all constraints on the layout from the model.
    pub fn check(&self) {
        self.engine.check();
        self.check_unplaced();
        self.check_survival();
        if self.revision.is_multiple_of(16) {
            self.check_capacity(self.revision as usize / 16);
        }
        if !self.is_running() {
            return;
        }
        let mut used: BTreeMap<&Hostname, (u64, u64)> = BTreeMap::new();
        let mut measured: BTreeSet<&Hostname> = BTreeSet::new();
        let mut layouts: BTreeMap<&StreamName, StreamLayout> = BTreeMap::new();
        for row in self.streams.values() {
            let layout = self.engine.layout(&row.name).expect("every row is known");
            layouts.insert(&row.name, layout);
        }
        for row in self.streams.values() {
            let layout = &layouts[&row.name];
            let mut on: Vec<&Hostname> = Vec::new();
            on.extend(&layout.ingest);
            on.extend(&layout.inference);
            on.extend(&layout.dvr_backups);
            if row.disabled {
                assert!(on.is_empty(), "a disabled stream has no nodes");
                continue;
            }
            let apart: BTreeSet<&&Hostname> = on.iter().collect();
            assert_eq!(apart.len(), on.len(), "slots of a stream are apart");
            let factor = row.dvr.map_or(0, |dvr| dvr.redundancy_factor);
            let is_draining = |host: &&Hostname| self.nodes[*host].drain.is_some();
            let old = layout.dvr_backups.iter().filter(is_draining).count();
            let wanted = factor.saturating_sub(1) as usize;
            assert!(layout.dvr_backups.len() <= wanted + old.min(wanted));
            assert!(layout.inference.is_none() || row.inference);
            let kbps = u64::from(row.kbps.unwrap_or(self.settings.kbps_default));
            if row.measured {
                measured.extend(on.iter().filter_map(|host| {
                    let (host, _) = self.nodes.get_key_value(*host)?;
                    Some(host)
                }));
            }
            if let Some(host) = &layout.ingest {
                self.check_node(row, host, PlacementRole::Streamer);
                let sum = used.entry(&self.nodes[host].hostname).or_default();
                sum.0 += 1;
                sum.1 += kbps;
            }
            for host in &layout.dvr_backups {
                self.check_node(row, host, PlacementRole::Streamer);
                assert!(self.nodes[host].dvr, "a backup is on a node with DVR");
                let sum = used.entry(&self.nodes[host].hostname).or_default();
                sum.0 += u64::from(self.settings.backups_count_as_channels);
                sum.1 += kbps;
            }
            if let Some(host) = &layout.inference {
                self.check_node(row, host, PlacementRole::Inference);
                used.entry(&self.nodes[host].hostname).or_default().0 += 1;
            }
            if let Some(from) = &layout.failover_from {
                assert_ne!(Some(from), layout.ingest.as_ref());
                assert!(
                    self.nodes.contains_key(from),
                    "failover_from is an existing node"
                );
            }
        }
        for (host, (channels, kbps)) in used {
            let node = &self.nodes[host];
            assert!(
                channels <= u64::from(node.channel_limit),
                "{host}: channels"
            );
            // What was measured may exceed the bandwidth; the engine checks its own sums.
            let checked = !node.settling && !measured.contains(host);
            if let Some(limit) = node.bandwidth_kbps.filter(|_| checked) {
                let usable = u64::from(limit) * u64::from(self.settings.bandwidth_permille) / 1000;
                assert!(kbps <= usable, "{host}: bandwidth");
            }
        }
        self.check_agents(&layouts);
    }

    fn check_node(&self, row: &StreamSpec, host: &Hostname, role: PlacementRole) {
        let node = self.nodes.get(host).expect("placed on an existing node");
        assert_eq!(node.role, role);
        assert_ne!(self.states[host].0, NodeState::Down, "{host} is lost");
        assert_eq!(node.namespace, row.namespace, "namespace");
        assert!(node.transcoder || !row.transcoder || role != PlacementRole::Streamer);
        assert!(labels_allow(row, node), "{host} and {}", row.name);
    }

    /// Streams that share an agent, directly or not, share their ingest.
    fn check_agents(&self, layouts: &BTreeMap<&StreamName, StreamLayout>) {
        let mut group: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        let mut parent: Vec<usize> = Vec::new();
        fn root(parent: &[usize], mut i: usize) -> usize {
            while parent[i] != i {
                i = parent[i];
            }
            i
        }
        let enabled = || self.streams.values().filter(|row| !row.disabled);
        for row in enabled() {
            let mut first = None;
            for agent in &row.agents {
                let i = *group.entry(agent).or_insert_with(|| {
                    parent.push(parent.len());
                    parent.len() - 1
                });
                let i = root(&parent, i);
                match first {
                    None => first = Some(i),
                    Some(first) => {
                        let first = root(&parent, first);
                        parent[i] = first;
                    }
                }
            }
        }
        let mut ingest: BTreeMap<usize, &Hostname> = BTreeMap::new();
        for row in enabled() {
            if let (Some(agent), Some(host)) = (row.agents.first(), &layouts[&row.name].ingest) {
                let at = ingest.entry(root(&parent, group[agent])).or_insert(host);
                assert_eq!(*at, host, "streams of one agent are together");
            }
        }
    }
}

/// Both sides carry what the other requires.
fn labels_allow(row: &StreamSpec, node: &NodeSpec) -> bool {
    let carries = |labels: &[(Arc<str>, Arc<str>)], required: &[(Arc<str>, Arc<str>)]| {
        required.iter().all(|(key, value)| {
            key.strip_prefix("required.")
                .is_none_or(|key| labels.iter().any(|(k, v)| &**k == key && v == value))
        })
    };
    carries(&row.labels, &node.labels) && carries(&node.labels, &row.labels)
}

/// Whether an ingest may be on a node, apart from room.
fn may_be_on(row: &StreamSpec, node: &NodeSpec) -> bool {
    node.role == PlacementRole::Streamer
        && node.namespace == row.namespace
        && (node.transcoder || !row.transcoder)
        && labels_allow(row, node)
}

fn assert_all_keep_an_ingest(changes: &[LayoutChange]) {
    let lost = |change: &&LayoutChange| change.kind == SlotKind::Ingest && change.to.is_none();
    assert_eq!(
        changes.iter().find(lost),
        None,
        "a measurement costs no ingest"
    );
}

fn sorted(hosts: &[Hostname]) -> Vec<Hostname> {
    let mut hosts = hosts.to_vec();
    hosts.sort();
    hosts
}
