//! CPU pressure: which nodes take no new streams, and which give some away.
//!
//! CPU measurements arrive late and noisy, and the effect of a move shows later still. A controller
//! that reacts to each measurement moves too much to one node, then back. So measurements are
//! smoothed, entering and leaving pressure have different thresholds (hysteresis), rounds are apart
//! and move few streams, and the expected effect of a move counts until it can be measured
//! (*pending*). The engine decides where streams may go; this module decides how many, and to which
//! nodes first.
//!
//! Pure: inputs are measurements, moves and steps. CPU is in permille of the whole machine.

use std::collections::BTreeMap;

use super::{Shed, ShedTarget};
use crate::state::name::Hostname;

/// Parameters of the controller; the defaults are those of the simulation in the tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PressureSettings {
    /// Weight of a new measurement in the smoothed one, permille.
    pub alpha_permille: i64,
    /// Measurements above the limit in a row before a node is under pressure.
    pub enter_samples: u32,
    /// A node leaves pressure after `leave_samples` measurements this far below the limit.
    pub leave_below_permille: i64,
    pub leave_samples: u32,
    /// Steps between two rounds of one node.
    pub shed_steps: u64,
    /// Upper bound of streams moved in one round, permille of the node's streams.
    pub shed_share_permille: u64,
    /// A node is relieved, and a target is filled, until it is this far below its limit.
    pub aim_below_permille: i64,
    /// Steps until the effect of a move is part of the measurements.
    pub pending_steps: u64,
    /// Measurements older than this many steps are ignored.
    pub stale_steps: u64,
}

impl Default for PressureSettings {
    fn default() -> Self {
        Self {
            alpha_permille: 400,
            enter_samples: 3,
            leave_below_permille: 150,
            leave_samples: 4,
            shed_steps: 3,
            shed_share_permille: 100,
            aim_below_permille: 80,
            pending_steps: 4,
            stale_steps: 4,
        }
    }
}

/// One measurement of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuSample {
    pub cpu_permille: u32,
    /// The node's own limit; without one it is never under pressure, and never a target.
    pub limit_permille: Option<u32>,
    /// Streams that run there.
    pub streams: u32,
}

/// A node came under pressure or left it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PressureChange {
    pub hostname: Hostname,
    pub pressed: bool,
    pub cpu_permille: u32,
    pub limit_permille: u32,
}

/// The result of a round of shedding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShedOutcome {
    pub moved: u32,
    /// Streams that should have moved and could not.
    pub blocked: u32,
}

struct CpuNode {
    /// Smoothed, thousandths of a permille, so that small steps are not lost in rounding.
    ewma: i64,
    limit: Option<i64>,
    streams: u32,
    sample: Option<CpuSample>,
    sampled_step: u64,
    above: u32,
    below: u32,
    pressed: bool,
    shed_at: u64,
    /// Expected changes that are not part of the measurements yet: (until step, change).
    pending: Vec<(u64, i64)>,
}

/// The controller, with all measured nodes.
pub struct Pressure {
    settings: PressureSettings,
    nodes: BTreeMap<Hostname, CpuNode>,
    step: u64,
    round: Option<ShedRound>,
}

struct ShedRound {
    hostname: Hostname,
    left: u32,
    moved: u32,
    /// Expected CPU of one stream.
    cost: i64,
    offered: u32,
}

/// Thousandths of a permille.
const FINE: i64 = 1000;

impl Pressure {
    pub fn new(settings: PressureSettings) -> Self {
        Self {
            settings,
            nodes: BTreeMap::new(),
            step: 0,
            round: None,
        }
    }

    /// Records a measurement; the last one before a step counts.
    pub fn sample(&mut self, hostname: &Hostname, sample: CpuSample) {
        let step = self.step;
        let node = self
            .nodes
            .entry(hostname.clone())
            .or_insert_with(|| CpuNode {
                ewma: i64::from(sample.cpu_permille) * FINE,
                limit: None,
                streams: 0,
                sample: None,
                sampled_step: step,
                above: 0,
                below: 0,
                pressed: false,
                shed_at: 0,
                pending: Vec::new(),
            });
        node.sample = Some(sample);
        node.sampled_step = step;
    }

    /// Removes a deleted or lost node and its measurements.
    pub fn remove(&mut self, hostname: &str) {
        self.nodes.remove(hostname);
    }

    pub fn is_pressed(&self, hostname: &str) -> bool {
        self.nodes.get(hostname).is_some_and(|node| node.pressed)
    }

    #[cfg(test)]
    fn pressed_count(&self) -> usize {
        self.nodes.values().filter(|node| node.pressed).count()
    }

    /// Ends a step; returns the nodes that came under pressure or left it.
    pub fn step(&mut self) -> Vec<PressureChange> {
        self.step += 1;
        let (settings, step) = (self.settings, self.step);
        let mut changes = Vec::new();
        for (hostname, node) in &mut self.nodes {
            node.pending.retain(|(until, _)| *until > step);
            let was = node.pressed;
            if let Some(sample) = node.sample.take() {
                let measured = i64::from(sample.cpu_permille.min(1000)) * FINE;
                node.ewma += (measured - node.ewma) * settings.alpha_permille / 1000;
                node.limit = sample.limit_permille.map(|limit| i64::from(limit) * FINE);
                node.streams = sample.streams;
                node.update_pressed(settings);
            } else if step - node.sampled_step > settings.stale_steps {
                // Without recent measurements there is no pressure.
                node.pressed = false;
                (node.above, node.below) = (0, 0);
            }
            if node.pressed != was {
                if node.pressed {
                    node.shed_at = step;
                }
                changes.push(PressureChange {
                    hostname: hostname.clone(),
                    pressed: node.pressed,
                    cpu_permille: (node.ewma / FINE) as u32,
                    limit_permille: (node.limit.unwrap_or(0) / FINE) as u32,
                });
            }
        }
        changes
    }

    /// Nodes whose next round is due, highest load first.
    pub fn due(&self) -> Vec<Hostname> {
        let due = self
            .nodes
            .iter()
            .filter(|(_, node)| node.pressed && node.shed_at <= self.step);
        let mut due: Vec<(i64, &Hostname)> = due
            .map(|(hostname, node)| (-node.expected(), hostname))
            .collect();
        due.sort_unstable();
        due.into_iter()
            .map(|(_, hostname)| hostname.clone())
            .collect()
    }

    /// Begins a node's round. Then call [`Pressure::offer`] and [`Pressure::moved`] until there is
    /// no offer, then [`Pressure::end`].
    pub fn begin(&mut self, hostname: &Hostname) {
        let settings = self.settings;
        let step = self.step;
        self.round = None;
        let Some(node) = self.nodes.get_mut(hostname) else {
            return;
        };
        node.shed_at = step + settings.shed_steps;
        let Some(limit) = node.limit.filter(|_| node.streams > 0) else {
            return;
        };
        let cost = (node.ewma / i64::from(node.streams)).max(1);
        let excess = node.expected() - (limit - settings.aim_below_permille * FINE);
        if excess <= 0 {
            return;
        }
        let wanted = excess.unsigned_abs().div_ceil(cost.unsigned_abs());
        let share =
            (u64::from(node.streams) * settings.shed_share_permille / 1000).clamp(1, u64::MAX);
        self.round = Some(ShedRound {
            hostname: hostname.clone(),
            left: wanted.min(share) as u32,
            moved: 0,
            cost,
            offered: 0,
        });
    }

    /// The next few streams of the round: at most one to each node with room, least loaded first.
    /// The order is computed again for each offer.
    pub fn offer(&mut self) -> Option<Shed> {
        let aim = self.settings.aim_below_permille * FINE;
        let round = self.round.as_mut().filter(|round| round.left > 0)?;
        let mut targets: Vec<(i64, &Hostname)> = self
            .nodes
            .iter()
            .filter(|(hostname, node)| {
                let stays_cool = node
                    .limit
                    .is_some_and(|limit| node.expected() + round.cost <= limit - aim);
                let known = self.step - node.sampled_step <= self.settings.stale_steps;
                known && !node.pressed && stays_cool && **hostname != round.hostname
            })
            .map(|(hostname, node)| (node.expected(), hostname))
            .collect();
        if targets.is_empty() {
            return None;
        }
        targets.sort_unstable();
        round.offered = round.left.min(STREAMS_PER_OFFER_MAX);
        Some(Shed {
            hostname: round.hostname.clone(),
            streams_max: round.offered,
            targets: targets
                .into_iter()
                .map(|(_, hostname)| ShedTarget {
                    hostname: hostname.clone(),
                    streams_max: 1,
                })
                .collect(),
        })
    }

    /// Records that a stream of the round moved to a node.
    pub fn moved(&mut self, to: &str) {
        let until = self.step + self.settings.pending_steps;
        let Some(round) = &mut self.round else {
            return;
        };
        round.left = round.left.saturating_sub(1);
        round.moved += 1;
        let cost = round.cost;
        if let Some(source) = self.nodes.get_mut(&round.hostname) {
            source.pending.push((until, -cost));
            source.streams = source.streams.saturating_sub(1);
        }
        if let Some(target) = self.nodes.get_mut(to) {
            target.pending.push((until, cost));
            target.streams += 1;
        }
    }

    /// Ends the round; zeros if there was none.
    pub fn end(&mut self) -> ShedOutcome {
        match self.round.take() {
            Some(round) => ShedOutcome {
                moved: round.moved,
                blocked: round.left,
            },
            None => ShedOutcome::default(),
        }
    }
}

/// Streams of one offer: few, so that the order of targets stays current, and more than one, so
/// that a large node is relieved quickly.
const STREAMS_PER_OFFER_MAX: u32 = 4;

impl CpuNode {
    fn expected(&self) -> i64 {
        self.ewma + self.pending.iter().map(|(_, change)| change).sum::<i64>()
    }

    fn update_pressed(&mut self, settings: PressureSettings) {
        let Some(limit) = self.limit else {
            self.pressed = false;
            return;
        };
        if self.ewma > limit {
            self.above += 1;
        } else {
            self.above = 0;
        }
        if self.ewma < limit - settings.leave_below_permille * FINE {
            self.below += 1;
        } else {
            self.below = 0;
        }
        if self.above >= settings.enter_samples {
            self.pressed = true;
        } else if self.below >= settings.leave_samples {
            self.pressed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(i: usize) -> Hostname {
        Hostname::trusted(&format!("n{i:02}"))
    }

    fn sample(cpu_permille: u32, streams: u32) -> CpuSample {
        CpuSample {
            cpu_permille,
            limit_permille: Some(800),
            streams,
        }
    }

    /// Runs a round; `takes` is whether the engine would place a stream on a node. Returns the
    /// target of each move.
    fn shed(
        pressure: &mut Pressure,
        hostname: &Hostname,
        takes: impl Fn(&Hostname) -> bool,
    ) -> (Vec<Hostname>, ShedOutcome) {
        let mut went = Vec::new();
        pressure.begin(hostname);
        while let Some(offer) = pressure.offer() {
            let open = offer
                .targets
                .iter()
                .filter(|target| takes(&target.hostname));
            let taken: Vec<Hostname> = open
                .take(offer.streams_max as usize)
                .map(|target| target.hostname.clone())
                .collect();
            if taken.is_empty() {
                break;
            }
            for to in taken {
                pressure.moved(&to);
                went.push(to);
            }
        }
        (went, pressure.end())
    }

    #[test]
    fn pressure_has_hysteresis() {
        let mut pressure = Pressure::new(PressureSettings::default());
        let mut run = |cpu: u32, steps: usize| -> Vec<bool> {
            let mut changes = Vec::new();
            for _ in 0..steps {
                pressure.sample(&host(0), sample(cpu, 10));
                changes.extend(pressure.step().into_iter().map(|change| change.pressed));
            }
            changes
        };
        assert_eq!(
            run(900, 2),
            [] as [bool; 0],
            "two measurements are no pressure"
        );
        assert_eq!(run(900, 1), [true]);
        assert_eq!(
            run(700, 40),
            [] as [bool; 0],
            "below the limit is not enough"
        );
        // The smoothed value falls to 620, 572, 543, 526: four in a row below 650.
        assert_eq!(run(500, 3), [] as [bool; 0]);
        assert_eq!(run(500, 1), [false]);
    }

    #[test]
    fn no_cpu_limit_or_stale_measurements_mean_no_pressure() {
        let mut pressure = Pressure::new(PressureSettings::default());
        for _ in 0..10 {
            let sample = CpuSample {
                limit_permille: None,
                ..sample(1000, 10)
            };
            pressure.sample(&host(0), sample);
            assert_eq!(pressure.step(), []);
        }
        for _ in 0..3 {
            pressure.sample(&host(1), sample(900, 10));
            pressure.step();
        }
        assert!(pressure.is_pressed("n01"));
        assert_eq!(pressure.pressed_count(), 1);
        let freed: Vec<_> = (0..6).flat_map(|_| pressure.step()).collect();
        assert!(
            matches!(&freed[..], [change] if !change.pressed),
            "{freed:?}"
        );
    }

    #[test]
    fn round_sheds_a_tenth_to_the_least_loaded_nodes() {
        let mut pressure = Pressure::new(PressureSettings::default());
        for step in 0..3 {
            pressure.sample(&host(0), sample(900, 100));
            for i in 1..5 {
                pressure.sample(&host(i), sample(100 * i as u32, 50));
            }
            assert_eq!(pressure.step().len(), usize::from(step == 2));
        }
        assert_eq!(pressure.due(), [host(0)]);
        // 180 permille too much, 9 each: 20 streams; a tenth of 100 is less.
        let (went, end) = shed(&mut pressure, &host(0), |_| true);
        assert_eq!(
            end,
            ShedOutcome {
                moved: 10,
                blocked: 0
            }
        );
        let to = |i| went.iter().filter(|to| **to == host(i)).count();
        assert_eq!((to(1), to(2), to(3), to(4)), (3, 3, 2, 2));
        assert_eq!(pressure.due(), [] as [Hostname; 0], "three steps must pass");
        for _ in 0..3 {
            pressure.step();
        }
        assert_eq!(pressure.due(), [host(0)]);
    }

    #[test]
    fn shedding_without_targets_reports_blocked_streams() {
        let mut pressure = Pressure::new(PressureSettings::default());
        for _ in 0..3 {
            pressure.sample(&host(0), sample(900, 100));
            pressure.sample(&host(1), sample(715, 100));
            pressure.sample(&host(2), sample(100, 100));
            pressure.step();
        }
        // The first would rise above the aim, and the engine refuses the second.
        let (went, end) = shed(&mut pressure, &host(0), |to| *to != host(2));
        assert_eq!(
            (went.len(), end),
            (
                0,
                ShedOutcome {
                    moved: 0,
                    blocked: 10
                }
            )
        );
    }

    /// A fixed sequence of numbers from 0 to 1.
    struct Noise(u64);

    impl Noise {
        fn next(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        }
    }

    /// The result of an hour.
    #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
    struct Hour {
        moves: usize,
        /// Steps of nodes above 85 %.
        hot: usize,
        /// Most streams on one node at any time.
        pile: usize,
    }

    /// Twenty nodes of forty streams; the streams of one become expensive after ten minutes.
    /// Measurements are a minute old and noisy. `control` gets the measured CPU (permille) and the
    /// number of streams of each node, and returns moves.
    fn simulate(
        seed: u64,
        mut control: impl FnMut(&[u32], &[usize]) -> Vec<(usize, usize)>,
    ) -> Hour {
        const NODES: usize = 20;
        let mut noise = Noise(seed);
        let mut costs: Vec<Vec<f64>> = (0..NODES)
            .map(|_| (0..40).map(|_| 11.0 + noise.next() * 8.0).collect())
            .collect();
        let mut history: Vec<[f64; NODES]> = Vec::new();
        let mut hour = Hour::default();
        for step in 0..120 {
            if step == 20 {
                for cost in &mut costs[0] {
                    *cost *= 1.5;
                }
            }
            let mut now = [0.0; NODES];
            for (cpu, streams) in now.iter_mut().zip(&costs) {
                *cpu = (50.0 + streams.iter().sum::<f64>()).min(1000.0);
            }
            hour.hot += now.iter().filter(|cpu| **cpu > 850.0).count();
            hour.pile = hour.pile.max(costs.iter().map(Vec::len).max().unwrap_or(0));
            history.push(now);
            let seen = history[history.len().saturating_sub(3)];
            let measured: Vec<u32> = seen
                .iter()
                .map(|cpu| (cpu + (noise.next() - 0.5) * 60.0).clamp(0.0, 1000.0) as u32)
                .collect();
            let streams: Vec<usize> = costs.iter().map(Vec::len).collect();
            for (from, to) in control(&measured, &streams) {
                if let Some(cost) = costs[from].pop() {
                    costs[to].push(cost);
                    hour.moves += 1;
                }
            }
        }
        hour
    }

    fn controlled(seed: u64) -> Hour {
        let mut pressure = Pressure::new(PressureSettings::default());
        simulate(seed, |measured, streams| {
            for (i, cpu) in measured.iter().enumerate() {
                pressure.sample(&host(i), sample(*cpu, streams[i] as u32));
            }
            pressure.step();
            let mut moves = Vec::new();
            for from in pressure.due() {
                let index =
                    |name: &Hostname| name.as_str()[1..].parse::<usize>().expect("a number");
                let (went, _) = shed(&mut pressure, &from, |_| true);
                moves.extend(went.iter().map(|to| (index(&from), index(to))));
            }
            moves
        })
    }

    fn naive(seed: u64) -> Hour {
        simulate(seed, |measured, streams| {
            let coolest = (0..measured.len())
                .min_by_key(|i| measured[*i])
                .expect("there are nodes");
            let mut moves = Vec::new();
            for (i, cpu) in measured.iter().enumerate() {
                if *cpu > 800 && i != coolest {
                    moves.extend(std::iter::repeat_n((i, coolest), streams[i] / 5));
                }
            }
            moves
        })
    }

    #[test]
    fn simulated_hour_of_pressure_costs_few_moves() {
        // Goal: the loop settles in spite of old measurements. Method: the same hour with the
        // obvious controller (above the limit: a fifth to the least loaded) and with this one, on
        // fixed seeds.
        let sum = |hours: Vec<Hour>| {
            hours.into_iter().fold(Hour::default(), |all, hour| Hour {
                moves: all.moves + hour.moves,
                hot: all.hot + hour.hot,
                pile: all.pile.max(hour.pile),
            })
        };
        let ours = sum((0..20).map(controlled).collect());
        let obvious = sum((0..20).map(naive).collect());
        // Measured: 232 moves, 166 node-steps above 85 %, 42 streams on a node; against 8,477, 829
        // and 69.
        assert!(
            ours.moves < 300 && ours.hot < 200 && ours.pile < 45,
            "{ours:?}"
        );
        assert!(
            obvious.moves > 20 * ours.moves && obvious.hot > 4 * ours.hot,
            "{obvious:?}"
        );
        assert!(obvious.pile > 60, "{obvious:?}");
    }
}
