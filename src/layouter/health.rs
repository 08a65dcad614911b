//! Health: which nodes may be counted on.
//!
//! A pure state machine per node. It is told when a node gave a sign of life ([`Health::seen`]) and what time it is ([`Health::tick`]), and answers
//! with [`Fact`]s: which node changed, why, since when it was silent, until when it is held. It decides nothing about streams; the engine gets
//! the [`NodeState`]s.
//!
//! ```text
//!  Unseen --sign--> Up --silent for dead_timeout, or silent too often--> Down --sign--> Held --hold over--> Up
//!     \--dead_timeout--> Down                          \--most nodes at once--> Braked --sign--> Up
//! ```
//!
//! A node that comes and goes is the expensive case: each turn moves all its streams twice. So a node that failed recently is held longer before it
//! is trusted again, twice as long each time, and silences that are each too short for the timeout count together. And when most nodes fall silent
//! at once it is this server that was cut off: nothing is moved for a while.
//!
//! A sign of life costs a store of a number. Each node has one deadline in a heap, looked at again only when it comes up.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use super::NodeState;
use crate::state::name::Hostname;

/// How patient to be. All of it follows from one setting, see [`HealthSettings::from_dead_timeout`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HealthSettings {
    /// A node that is silent for so long is lost.
    pub dead_timeout_ms: u64,
    /// So is one that was silent for `window_lost_ms` of the last `window_ms`; a pause between signs counts as silence when it is longer
    /// than half the dead timeout.
    pub window_ms: u64,
    pub window_lost_ms: u64,
    /// How long a node that came back is held; doubled with each failure that follows another within `penalty_memory_ms`.
    pub hold_ms: u64,
    pub hold_ms_max: u64,
    pub penalty_memory_ms: u64,
    /// In a cluster of at least so many nodes ...
    pub brake_nodes_min: usize,
    /// ... the loss of more than this share, permille ...
    pub brake_permille: u64,
    /// ... within so long ...
    pub brake_window_ms: u64,
    /// ... moves nothing for so long.
    pub brake_ms: u64,
}

impl HealthSettings {
    /// Everything in proportion: 60 s give a window of 120 s in 600 s, holds from 60 s to 30 min, and a brake of 5 min.
    pub fn from_dead_timeout(dead_timeout_ms: u64) -> Self {
        let times = |factor: u64| dead_timeout_ms.saturating_mul(factor);
        Self {
            dead_timeout_ms,
            window_ms: times(10),
            window_lost_ms: times(2),
            hold_ms: dead_timeout_ms,
            hold_ms_max: times(30),
            penalty_memory_ms: times(60),
            brake_nodes_min: 10,
            brake_permille: 500,
            brake_window_ms: times(2),
            brake_ms: times(5),
        }
    }

    /// A pause between two signs that is longer than this is silence.
    fn miss_ms(&self) -> u64 {
        self.dead_timeout_ms / 2
    }

    fn hold(&self, penalty: u32) -> u64 {
        let doubled = 1_u64.checked_shl(penalty).unwrap_or(u64::MAX);
        self.hold_ms.saturating_mul(doubled).min(self.hold_ms_max)
    }
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self::from_dead_timeout(60_000)
    }
}

/// Why a node is in the state it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// No sign yet; waiting for the first.
    Unseen,
    /// The first sign came.
    Seen,
    /// No sign came in time after it was saved, or after this server started.
    NeverSeen,
    /// Silent for the dead timeout.
    Silent,
    /// Silent too often.
    Unsteady,
    /// Silent together with most others: nothing is moved yet.
    Braked,
    /// A lost node gave a sign; it is held before it is trusted.
    Returned,
    /// The hold is over.
    Steady,
}

impl Cause {
    pub fn code(self) -> &'static str {
        match self {
            Self::Unseen => "not_seen_yet",
            Self::Seen => "seen",
            Self::NeverSeen => "never_seen",
            Self::Silent => "silent",
            Self::Unsteady => "silent_too_often",
            Self::Braked => "mass_failure_brake",
            Self::Returned => "returned",
            Self::Steady => "hold_over",
        }
    }
}

/// What is known of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeHealth {
    pub state: NodeState,
    pub cause: Cause,
    /// When it came into this state.
    pub since_ms: u64,
    /// The last sign of life.
    pub seen_ms: Option<u64>,
    /// When it will be trusted again, if no further silence comes between.
    pub hold_until_ms: Option<u64>,
    /// Failures in a row before this one, each soon after the one before.
    pub penalty: u32,
}

/// Something that happened, for the engine and for the event log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fact {
    Node {
        hostname: Hostname,
        before: NodeState,
        now: NodeHealth,
    },
    /// Most nodes fell silent: those lost from now until `until_ms` keep their streams.
    BrakeOn {
        at_ms: u64,
        lost: usize,
        of: usize,
        until_ms: u64,
    },
    BrakeOff {
        at_ms: u64,
    },
    /// This server itself did not run for a while: no silence before `at_ms` counts.
    Paused {
        at_ms: u64,
        for_ms: u64,
    },
}

impl Fact {
    /// What of it concerns the engine.
    pub fn state_change(&self) -> Option<(&Hostname, NodeState)> {
        match self {
            Self::Node {
                hostname,
                before,
                now,
            } if *before != now.state => Some((hostname, now.state)),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Unseen,
    Up,
    Down,
    Held { until_ms: u64 },
    Braked,
}

impl Phase {
    fn state(self) -> NodeState {
        match self {
            Self::Up => NodeState::Up,
            Self::Down => NodeState::Down,
            Self::Held { .. } => NodeState::Probation,
            Self::Unseen | Self::Braked => NodeState::Unsure,
        }
    }
}

struct Node {
    hostname: Hostname,
    phase: Phase,
    cause: Cause,
    since_ms: u64,
    /// Silence is counted from here: the last sign, or when waiting for one began.
    heard_ms: u64,
    seen_ms: Option<u64>,
    /// It was known before this server started, so that its absence is a loss.
    expected: bool,
    /// Silences that ended, oldest first. Each is longer than half the dead timeout, so only a handful fit into the window.
    gaps: VecDeque<(u64, u64)>,
    penalty: u32,
    failed_ms: Option<u64>,
    /// Which entry of the heap is this node's.
    ticket: u64,
}

/// All nodes.
pub struct Health {
    settings: HealthSettings,
    nodes: Vec<Option<Node>>,
    free: Vec<usize>,
    by_name: HashMap<Hostname, usize>,
    /// (when, ticket, node). An entry whose ticket is not its node's is stale.
    deadlines: BinaryHeap<Reverse<(u64, u64, usize)>>,
    next_ticket: u64,
    ticked_ms: u64,
    /// Nodes that count for the brake and are not lost.
    alive: usize,
    /// When nodes were lost, oldest first, within the brake's window.
    losses: VecDeque<u64>,
    brake_until_ms: Option<u64>,
    facts: Vec<Fact>,
}

impl Health {
    pub fn new(settings: HealthSettings, now_ms: u64) -> Self {
        Self {
            settings,
            nodes: Vec::new(),
            free: Vec::new(),
            by_name: HashMap::new(),
            deadlines: BinaryHeap::new(),
            next_ticket: 0,
            ticked_ms: now_ms,
            alive: 0,
            losses: VecDeque::new(),
            brake_until_ms: None,
            facts: Vec::new(),
        }
    }

    /// Longest pause between ticks that is not taken for a pause of this server.
    pub fn tick_pause_ms_max(&self) -> u64 {
        self.settings.miss_ms()
    }

    /// A node to watch. `expected`: it was there before this server started. Its first dead timeout is a grace: it keeps what it
    /// has and gets nothing.
    pub fn add(&mut self, hostname: &Hostname, expected: bool, now_ms: u64) -> NodeState {
        if let Some(known) = self.get(hostname) {
            return known.state;
        }
        let node = Node {
            hostname: hostname.clone(),
            phase: Phase::Unseen,
            cause: Cause::Unseen,
            since_ms: now_ms,
            heard_ms: now_ms,
            seen_ms: None,
            expected,
            gaps: VecDeque::new(),
            penalty: 0,
            failed_ms: None,
            ticket: 0,
        };
        let id = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            self.nodes.len() - 1
        });
        self.alive += usize::from(node.counts());
        self.nodes[id] = Some(node);
        self.by_name.insert(hostname.clone(), id);
        self.schedule(id);
        NodeState::Unsure
    }

    pub fn remove(&mut self, hostname: &str) {
        if let Some(id) = self.by_name.remove(hostname) {
            self.alive -= usize::from(self.node(id).counts());
            self.nodes[id] = None;
            self.free.push(id);
        }
    }

    /// A sign of life. Signs may come late and out of order; an unknown node is ignored.
    pub fn seen(&mut self, hostname: &str, at_ms: u64) {
        let Some(&id) = self.by_name.get(hostname) else {
            return;
        };
        let settings = self.settings;
        let node = self.node_mut(id);
        let first = node.seen_ms.is_none();
        node.seen_ms = node.seen_ms.max(Some(at_ms));
        if at_ms <= node.heard_ms && !first {
            return;
        }
        let heard_ms = node.heard_ms;
        let at_ms = heard_ms.max(at_ms);
        let missed = at_ms - heard_ms > settings.miss_ms();
        node.heard_ms = at_ms;
        match node.phase {
            Phase::Up => {
                if missed {
                    node.gaps.push_back((heard_ms, at_ms));
                    let from = at_ms.saturating_sub(settings.window_ms);
                    while node.gaps.front().is_some_and(|gap| gap.1 <= from) {
                        node.gaps.pop_front();
                    }
                }
            }
            // A cut that took most nodes was most likely not this one's fault: no hold, no penalty.
            Phase::Unseen | Phase::Braked => self.enter(id, Phase::Up, Cause::Seen, at_ms),
            Phase::Down if node.failed_ms.is_none() => {
                self.enter(id, Phase::Up, Cause::Seen, at_ms);
            }
            Phase::Held { until_ms } if !missed && at_ms >= until_ms => {
                // It proved itself; what came before the hold does not count any more.
                node.gaps.clear();
                self.enter(id, Phase::Up, Cause::Steady, at_ms);
            }
            Phase::Held { .. } if !missed => {}
            Phase::Down | Phase::Held { .. } => {
                let until_ms = at_ms + settings.hold(node.penalty);
                self.enter(id, Phase::Held { until_ms }, Cause::Returned, at_ms);
            }
        }
    }

    /// Lets time pass and tells what happened since the last tick. States that change together are told together.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Fact> {
        let now_ms = now_ms.max(self.ticked_ms);
        let paused_ms = now_ms - self.ticked_ms;
        self.ticked_ms = now_ms;
        if paused_ms > self.settings.miss_ms() {
            self.restart_timers(now_ms);
            self.facts.push(Fact::Paused {
                at_ms: now_ms,
                for_ms: paused_ms,
            });
        }
        self.release_brake(now_ms);
        let mut lost = Vec::new();
        while let Some(Reverse((at_ms, ticket, id))) = self.deadlines.peek().copied() {
            if at_ms > now_ms {
                break;
            }
            self.deadlines.pop();
            let Some(node) = self.nodes[id].as_ref() else {
                continue;
            };
            if node.ticket != ticket {
                continue;
            }
            if let Some(cause) = self.is_lost(node, now_ms) {
                lost.push((id, cause));
                continue;
            }
            self.schedule(id);
        }
        self.lose(lost, now_ms);
        std::mem::take(&mut self.facts)
    }

    /// Other settings count from now on, also for what is under way.
    pub fn set(&mut self, settings: HealthSettings) {
        if settings == self.settings {
            return;
        }
        self.settings = settings;
        for id in 0..self.nodes.len() {
            if let Some(node) = &mut self.nodes[id] {
                if let Phase::Held { until_ms } = &mut node.phase {
                    *until_ms = (*until_ms).min(node.heard_ms + settings.hold(node.penalty));
                }
                self.schedule(id);
            }
        }
        if let Some(until_ms) = &mut self.brake_until_ms {
            *until_ms = (*until_ms).min(self.ticked_ms + settings.brake_ms);
        }
    }

    pub fn get(&self, hostname: &str) -> Option<NodeHealth> {
        let id = *self.by_name.get(hostname)?;
        Some(self.node(id).health())
    }

    pub fn is_braked(&self) -> bool {
        self.brake_until_ms.is_some()
    }

    fn node(&self, id: usize) -> &Node {
        self.nodes[id].as_ref().expect("an id is that of a node")
    }

    fn node_mut(&mut self, id: usize) -> &mut Node {
        self.nodes[id].as_mut().expect("an id is that of a node")
    }

    fn enter(&mut self, id: usize, phase: Phase, cause: Cause, at_ms: u64) {
        let node = self.node_mut(id);
        let (before, counted) = (node.phase.state(), node.counts());
        node.phase = phase;
        node.cause = cause;
        node.since_ms = at_ms;
        let fact = Fact::Node {
            hostname: node.hostname.clone(),
            before,
            now: node.health(),
        };
        let counts = node.counts();
        self.alive = self.alive + usize::from(counts) - usize::from(counted);
        self.facts.push(fact);
        self.schedule(id);
    }

    /// Gives a node the deadline that its phase has now. It may turn out to be early, and is looked at again then, but never late: a sign of
    /// life and silences that leave the window only put it off.
    fn schedule(&mut self, id: usize) {
        let (settings, ticked_ms) = (self.settings, self.ticked_ms);
        let braked = self.is_braked();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let node = self.node_mut(id);
        node.ticket = ticket;
        let silent_at_ms = node.heard_ms.saturating_add(settings.dead_timeout_ms);
        let at_ms = match node.phase {
            Phase::Down => return,
            Phase::Braked if braked => return,
            Phase::Unseen | Phase::Braked | Phase::Held { .. } => silent_at_ms,
            Phase::Up => {
                let now_ms = ticked_ms.max(node.heard_ms);
                let lost_ms = node.lost_ms(now_ms, settings.window_ms) + now_ms - node.heard_ms;
                let spare_ms = settings.window_lost_ms.saturating_sub(lost_ms).max(1);
                let missed_at_ms = node.heard_ms.saturating_add(settings.miss_ms() + 1);
                silent_at_ms.min(missed_at_ms.max(now_ms.saturating_add(spare_ms)))
            }
        };
        self.deadlines.push(Reverse((at_ms, ticket, id)));
    }

    fn is_lost(&self, node: &Node, now_ms: u64) -> Option<Cause> {
        let silent_ms = now_ms.saturating_sub(node.heard_ms);
        let silent = silent_ms >= self.settings.dead_timeout_ms;
        match node.phase {
            Phase::Down => None,
            Phase::Braked => (silent && !self.is_braked()).then_some(Cause::Silent),
            Phase::Unseen => silent.then_some(Cause::NeverSeen),
            Phase::Held { .. } => silent.then_some(Cause::Silent),
            Phase::Up if silent => Some(Cause::Silent),
            Phase::Up => {
                let lost_ms = node.lost_ms(now_ms, self.settings.window_ms) + silent_ms;
                (silent_ms > self.settings.miss_ms() && lost_ms >= self.settings.window_lost_ms)
                    .then_some(Cause::Unsteady)
            }
        }
    }

    /// Takes nodes out of service together, or holds the brake.
    fn lose(&mut self, lost: Vec<(usize, Cause)>, now_ms: u64) {
        let settings = self.settings;
        let since_ms = now_ms.saturating_sub(settings.brake_window_ms);
        while self.losses.front().is_some_and(|at_ms| *at_ms < since_ms) {
            self.losses.pop_front();
        }
        if lost.is_empty() {
            return;
        }
        let before = self.losses.len();
        let counted = lost.iter().filter(|(id, _)| self.node(*id).counts());
        let now_lost = counted.count();
        self.losses.extend(std::iter::repeat_n(now_ms, now_lost));
        let (all_lost, of) = (before + now_lost, before + self.alive);
        let most = all_lost as u64 * 1000 > of as u64 * settings.brake_permille;
        if self.brake_until_ms.is_none() && of >= settings.brake_nodes_min && most && now_lost > 0 {
            let until_ms = now_ms + settings.brake_ms;
            self.brake_until_ms = Some(until_ms);
            self.facts.push(Fact::BrakeOn {
                at_ms: now_ms,
                lost: all_lost,
                of,
                until_ms,
            });
        }
        for (id, cause) in lost {
            if self.brake_until_ms.is_some() && self.node(id).counts() {
                self.enter(id, Phase::Braked, Cause::Braked, now_ms);
            } else {
                self.fail(id, cause, now_ms);
            }
        }
    }

    fn fail(&mut self, id: usize, cause: Cause, now_ms: u64) {
        let memory_ms = self.settings.penalty_memory_ms;
        let node = self.node_mut(id);
        if node.expected || node.seen_ms.is_some() {
            let recent = node
                .failed_ms
                .is_some_and(|failed_ms| now_ms - failed_ms < memory_ms);
            // A loss during the hold cost nothing: the next hold is as long as this one.
            let again = u32::from(node.phase == Phase::Up);
            node.penalty = if recent {
                node.penalty.saturating_add(again)
            } else {
                0
            };
            node.failed_ms = Some(now_ms);
        }
        self.enter(id, Phase::Down, cause, now_ms);
    }

    fn release_brake(&mut self, now_ms: u64) {
        if self.brake_until_ms.is_none_or(|until_ms| until_ms > now_ms) {
            return;
        }
        self.brake_until_ms = None;
        self.losses.clear();
        self.facts.push(Fact::BrakeOff { at_ms: now_ms });
        for id in 0..self.nodes.len() {
            let Some(node) = &self.nodes[id] else {
                continue;
            };
            if node.phase != Phase::Braked {
                continue;
            }
            if now_ms - node.heard_ms.min(now_ms) >= self.settings.dead_timeout_ms {
                self.fail(id, Cause::Silent, now_ms);
            } else {
                // The timeout was made longer meanwhile: by the new one it is not lost yet.
                self.schedule(id);
            }
        }
    }

    /// After a pause of this server nobody's silence is known: every wait begins anew.
    fn restart_timers(&mut self, now_ms: u64) {
        let settings = self.settings;
        for id in 0..self.nodes.len() {
            let Some(node) = &mut self.nodes[id] else {
                continue;
            };
            match &mut node.phase {
                Phase::Down => continue,
                Phase::Held { until_ms } => *until_ms = now_ms + settings.hold(node.penalty),
                Phase::Up | Phase::Unseen | Phase::Braked => {}
            }
            node.heard_ms = node.heard_ms.max(now_ms);
            self.schedule(id);
        }
        if let Some(until_ms) = &mut self.brake_until_ms {
            *until_ms = now_ms + self.settings.brake_ms;
        }
    }
}

impl Node {
    /// Whether its loss says something about the cluster: one that never was there cannot be lost.
    fn counts(&self) -> bool {
        match self.phase {
            Phase::Up | Phase::Held { .. } => true,
            Phase::Unseen => self.expected,
            Phase::Down | Phase::Braked => false,
        }
    }

    /// Silence that ended, within the window before `now_ms`.
    fn lost_ms(&self, now_ms: u64, window_ms: u64) -> u64 {
        let from = now_ms.saturating_sub(window_ms);
        self.gaps
            .iter()
            .map(|(begin, end)| end.saturating_sub((*begin).max(from)))
            .sum()
    }

    fn health(&self) -> NodeHealth {
        NodeHealth {
            state: self.phase.state(),
            cause: self.cause,
            since_ms: self.since_ms,
            seen_ms: self.seen_ms,
            hold_until_ms: match self.phase {
                Phase::Held { until_ms } => Some(until_ms),
                _ => None,
            },
            penalty: self.penalty,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const S: u64 = 1000;

    fn host(name: &str) -> Hostname {
        Hostname::trusted(name)
    }

    /// A cluster in which every node gives a sign every five seconds while `alive(node, second)`.
    struct Run {
        health: Health,
        nodes: Vec<Hostname>,
        now_s: u64,
    }

    impl Run {
        fn new(nodes: usize) -> Self {
            let mut health = Health::new(HealthSettings::default(), 0);
            let nodes: Vec<Hostname> = (0..nodes).map(|i| host(&format!("n{i}"))).collect();
            for node in &nodes {
                assert_eq!(health.add(node, true, 0), NodeState::Unsure);
            }
            let mut run = Self {
                health,
                nodes,
                now_s: 0,
            };
            let facts = run.until(5, |_, _| true);
            assert!(
                facts.iter().all(
                    |fact| matches!(fact, Fact::Node { now, .. } if now.state == NodeState::Up)
                )
            );
            run
        }

        fn until(&mut self, end_s: u64, alive: impl Fn(usize, u64) -> bool) -> Vec<Fact> {
            let mut facts = Vec::new();
            while self.now_s < end_s {
                for (i, node) in self.nodes.iter().enumerate() {
                    if self.now_s.is_multiple_of(5) && alive(i, self.now_s) {
                        self.health.seen(node, self.now_s * S);
                    }
                }
                facts.extend(self.health.tick(self.now_s * S));
                self.now_s += 1;
            }
            facts
        }

        fn states(&self, state: NodeState) -> usize {
            let states = self
                .nodes
                .iter()
                .map(|node| self.health.get(node).expect("it is watched").state);
            states.filter(|other| *other == state).count()
        }
    }

    /// How often the facts take a node into each state: (down, held or braked, up).
    fn counts(facts: &[Fact]) -> (usize, usize, usize) {
        let into = |state| {
            let changes = facts.iter().filter_map(Fact::state_change);
            changes.filter(|(_, now)| *now == state).count()
        };
        (
            into(NodeState::Down),
            into(NodeState::Probation) + into(NodeState::Unsure),
            into(NodeState::Up),
        )
    }

    #[test]
    fn a_flapping_node_is_trusted_less_and_less() {
        // Goal: what a node that comes and goes costs. Method: the patterns of the design's table over two hours, one node of two; each loss
        // moves all its streams away, each return to Up moves them back, everything else moves nothing.
        let cases: [(&str, u64, u64, (usize, usize)); 5] = [
            ("up 120 s, down 90 s", 120, 90, (2, 1)),
            ("up 600 s, down 90 s", 600, 90, (5, 4)),
            ("up 40 s, down 50 s", 40, 50, (1, 0)),
            ("one outage of 10 min", 6600, 600, (1, 1)),
            ("a blip of 45 s every 20 min", 1155, 45, (0, 0)),
        ];
        for (name, up, down, expected) in cases {
            let mut run = Run::new(2);
            let begin = if up > 3000 { 1000 } else { 0 };
            let facts = run.until(7200, |node, s| {
                let phase = (s + up + down - begin) % (up + down);
                node == 1 || (if begin > 0 { phase >= down } else { phase < up })
            });
            let lost = facts.iter().filter(|fact| {
                matches!(fact, Fact::Node { before: NodeState::Up, now, .. } if now.state == NodeState::Down)
            });
            assert_eq!((lost.count(), counts(&facts).2), expected, "{name}");
            assert!(facts.iter().all(
                |fact| !matches!(fact, Fact::Node { hostname, .. } if hostname.as_str() == "n1")
            ));
        }
    }

    #[test]
    fn a_loss_tells_why_since_when_and_how_long_it_will_be_held() {
        let mut run = Run::new(2);
        let facts = run.until(200, |node, s| node == 1 || s < 100);
        let [
            Fact::Node {
                hostname,
                before: NodeState::Up,
                now,
            },
        ] = &facts[..]
        else {
            panic!("one loss: {facts:?}");
        };
        assert_eq!(hostname.as_str(), "n0");
        // The last sign was at 95 s.
        assert_eq!(
            (now.state, now.cause, now.since_ms, now.seen_ms),
            (NodeState::Down, Cause::Silent, 155 * S, Some(95 * S))
        );
        assert_eq!(
            (now.cause.code(), now.penalty, now.hold_until_ms),
            ("silent", 0, None)
        );
        let facts = run.until(230, |_, _| true);
        assert_eq!(counts(&facts), (0, 1, 0), "back, but not trusted yet");
        assert_eq!(
            run.health.get("n0").and_then(|node| node.hold_until_ms),
            Some(260 * S)
        );
        let facts = run.until(261, |_, _| true);
        assert_eq!(counts(&facts), (0, 0, 1));
        assert!(
            matches!(&facts[0], Fact::Node { now, .. } if now.cause == Cause::Steady && now.since_ms == 260 * S)
        );
    }

    #[test]
    fn a_silence_during_the_hold_begins_it_anew() {
        let mut run = Run::new(2);
        run.until(200, |node, s| node == 1 || s < 100);
        // Back at 200 s, silent from 240 to 275 s: the hold ends 60 s after that.
        let facts = run.until(400, |node, s| node == 1 || !(240..275).contains(&s));
        assert_eq!(counts(&facts), (0, 1, 1), "{facts:?}");
        assert!(facts.iter().any(|fact| matches!(fact, Fact::Node { now, .. } if now.cause == Cause::Steady && now.since_ms == 335 * S)));
    }

    #[test]
    fn blips_below_the_timeout_change_nothing_until_they_add_up() {
        let mut run = Run::new(2);
        let facts = run.until(2000, |node, s| node == 1 || s % 600 < 555);
        assert_eq!(facts, [], "a blip of 45 s every ten minutes");
        let facts = run.until(3000, |node, s| node == 1 || s % 90 < 40);
        let cause = facts.iter().find_map(|fact| match fact {
            Fact::Node { now, .. } => Some(now.cause),
            _ => None,
        });
        assert_eq!(cause, Some(Cause::Unsteady));
    }

    #[test]
    fn a_steady_slow_poller_is_not_unsteady() {
        // A sign every 30 s is half the dead timeout: that is its rhythm, not a silence.
        let mut run = Run::new(1);
        let facts = run.until(4000, |_, s| s.is_multiple_of(30));
        assert_eq!(facts, []);
    }

    #[test]
    fn the_only_node_goes_and_comes_back() {
        let mut run = Run::new(1);
        let facts = run.until(400, |_, s| !(100..300).contains(&s));
        let states: Vec<_> = facts
            .iter()
            .filter_map(Fact::state_change)
            .map(|(_, state)| state)
            .collect();
        assert_eq!(
            states,
            [NodeState::Down, NodeState::Probation, NodeState::Up]
        );
    }

    #[test]
    fn the_loss_of_most_nodes_moves_nothing_at_first() {
        let mut run = Run::new(10);
        // Half is not most.
        let facts = run.until(200, |node, s| node >= 5 || s < 100);
        assert_eq!(counts(&facts), (5, 0, 0));
        assert!(!run.health.is_braked());

        let mut run = Run::new(10);
        let facts = run.until(200, |node, s| node >= 6 || s < 100);
        assert_eq!(counts(&facts), (0, 6, 0), "no loss is told");
        let [
            Fact::BrakeOn {
                at_ms,
                lost: 6,
                of: 10,
                until_ms,
            },
            ..,
        ] = facts[..]
        else {
            panic!("the brake comes first: {facts:?}");
        };
        assert_eq!((at_ms, until_ms), (155 * S, 455 * S));
        // Two come back: trusted at once. The rest is lost when the brake is released.
        let facts = run.until(454, |node, _| node >= 4);
        assert_eq!(counts(&facts), (0, 0, 2), "{facts:?}");
        let facts = run.until(460, |node, _| node >= 4);
        assert!(matches!(facts[0], Fact::BrakeOff { at_ms } if at_ms == 455 * S));
        assert_eq!(counts(&facts), (4, 0, 0));
        assert!(!run.health.is_braked());
    }

    #[test]
    fn a_longer_timeout_during_the_brake_counts_when_it_is_released() {
        let mut run = Run::new(10);
        run.until(156, |node, s| node >= 6 || s < 100);
        assert!(run.health.is_braked());
        // The brake ends at 455 s, when the nodes were silent for 360 s.
        run.health.set(HealthSettings::from_dead_timeout(400_000));
        let facts = run.until(494, |node, _| node >= 6);
        assert_eq!(counts(&facts).0, 0, "{facts:?}");
        let facts = run.until(496, |node, _| node >= 6);
        assert_eq!(counts(&facts), (6, 0, 0), "{facts:?}");
    }

    #[test]
    fn losses_one_after_the_other_reach_the_brake_together() {
        // Polls end at different times: the first are lost before it shows that it is most.
        let mut run = Run::new(20);
        let facts = run.until(300, |node, s| s < 100 + node as u64 * 5 || node >= 15);
        let (downs, held, _) = counts(&facts);
        assert_eq!((downs, held), (10, 5));
        assert!(run.health.is_braked());
    }

    #[test]
    fn nine_nodes_have_no_brake() {
        let mut run = Run::new(9);
        let facts = run.until(200, |node, s| node >= 8 || s < 100);
        assert_eq!(counts(&facts), (8, 0, 0));
        assert_eq!(run.states(NodeState::Down), 8);
    }

    #[test]
    fn a_pause_of_this_server_is_nobodys_silence() {
        let mut run = Run::new(12);
        run.until(100, |_, _| true);
        run.now_s = 160;
        let facts = run.until(161, |_, _| false);
        assert_eq!(
            facts,
            [Fact::Paused {
                at_ms: 160 * S,
                for_ms: 61 * S
            }]
        );
        // Only what is silent from then on counts.
        assert_eq!(counts(&run.until(219, |node, _| node > 0)), (0, 0, 0));
        assert_eq!(counts(&run.until(225, |node, _| node > 0)), (1, 0, 0));
    }

    #[test]
    fn nodes_that_never_come_are_not_a_mass_failure() {
        let mut run = Run::new(5);
        for i in 0..50 {
            run.health
                .add(&host(&format!("new{i}")), false, run.now_s * S);
        }
        let facts = run.until(100, |_, _| true);
        assert_eq!(counts(&facts), (50, 0, 0));
        assert!(!run.health.is_braked());
        // A new node is trusted with its first sign, however late.
        run.health.seen("new7", 100 * S);
        let facts = run.until(101, |_, _| true);
        assert_eq!(counts(&facts), (0, 0, 1));
    }

    #[test]
    fn after_a_start_nobody_is_lost_before_one_timeout() {
        let mut health = Health::new(HealthSettings::default(), 1_000_000);
        health.add(&host("a"), true, 1_000_000);
        health.add(&host("b"), true, 1_000_000);
        let mut facts = Vec::new();
        for s in 1000..=1059 {
            facts.extend(health.tick(s * S));
        }
        assert_eq!(facts, []);
        let facts = health.tick(1060 * S);
        assert_eq!(counts(&facts), (2, 0, 0));
        health.seen("a", 1061 * S);
        let back = health.tick(1061 * S);
        assert_eq!(
            counts(&back),
            (0, 1, 0),
            "it was there before, so it was lost, so it is held"
        );
    }

    #[test]
    fn a_shorter_timeout_counts_at_once() {
        let mut run = Run::new(2);
        run.until(100, |node, s| node == 1 || s < 90);
        run.health.set(HealthSettings::from_dead_timeout(10_000));
        let facts = run.until(102, |node, _| node == 1);
        assert_eq!(counts(&facts), (1, 0, 0), "{facts:?}");
    }

    #[test]
    fn removed_nodes_are_forgotten_and_may_return() {
        let mut run = Run::new(2);
        run.health.remove("n0");
        assert_eq!(run.health.get("n0"), None);
        run.health.seen("n0", 6 * S);
        assert_eq!(run.until(100, |node, _| node == 1), []);
        assert_eq!(
            run.health.add(&host("n0"), false, 100 * S),
            NodeState::Unsure
        );
        assert_eq!(counts(&run.until(102, |_, _| true)), (0, 0, 1));
    }

    #[derive(Debug, Clone)]
    enum Op {
        Seen(u8),
        Pass(u64),
        Add(u8, bool),
        Remove(u8),
        Timeout(u64),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            8 => (0..14_u8).prop_map(Op::Seen),
            6 => (1..12_u64).prop_map(|s| Op::Pass(s * S)),
            1 => (20..200_u64).prop_map(|s| Op::Pass(s * S)),
            1 => (0..14_u8, any::<bool>()).prop_map(|(node, expected)| Op::Add(node, expected)),
            1 => (0..14_u8).prop_map(Op::Remove),
            1 => (5..90_u64).prop_map(|s| Op::Timeout(s * S)),
        ];
        prop::collection::vec(op, 0..300)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whoever follows the facts knows every node's state; no node skips a state; nobody is lost who gave a sign in time, and nobody who is
        /// silent is counted on.
        #[test]
        fn facts_tell_the_whole_story(ops in ops()) {
            let mut settings = HealthSettings::default();
            let mut health = Health::new(settings, 0);
            let (mut now_ms, mut followed) = (0, BTreeMap::<Hostname, NodeState>::new());
            let mut signs = BTreeMap::<Hostname, u64>::new();
            let mut restarted_ms = 0;
            for op in ops {
                match op {
                    Op::Seen(node) => {
                        let name = host(&format!("n{node}"));
                        health.seen(&name, now_ms);
                        if followed.contains_key(&name) {
                            signs.insert(name, now_ms);
                        }
                    }
                    Op::Pass(ms) => now_ms += ms,
                    Op::Add(node, expected) => {
                        let name = host(&format!("n{node}"));
                        if !followed.contains_key(&name) {
                            prop_assert_eq!(health.add(&name, expected, now_ms), NodeState::Unsure);
                            followed.insert(name.clone(), NodeState::Unsure);
                            signs.insert(name, now_ms);
                        }
                    }
                    Op::Remove(node) => {
                        let name = host(&format!("n{node}"));
                        health.remove(&name);
                        followed.remove(&name);
                        signs.remove(&name);
                    }
                    Op::Timeout(ms) => {
                        settings = HealthSettings::from_dead_timeout(ms);
                        health.set(settings);
                    }
                }
                for fact in health.tick(now_ms) {
                    match fact {
                        Fact::Node { hostname, before, now } => {
                            // A sign may have been given to a node that was removed before this tick.
                            if let Some(state) = followed.get_mut(&hostname) {
                                prop_assert_eq!(*state, before);
                                prop_assert!(before != NodeState::Down || now.state != NodeState::Down);
                                if now.state == NodeState::Down {
                                    let silent_ms = now_ms - signs[&hostname].max(restarted_ms);
                                    prop_assert!(silent_ms > settings.dead_timeout_ms / 2, "lost after {} ms", silent_ms);
                                }
                                *state = now.state;
                            }
                        }
                        Fact::Paused { at_ms, .. } => restarted_ms = at_ms,
                        Fact::BrakeOn { lost, of, .. } => {
                            prop_assert!(of >= 10 && lost * 2 > of);
                        }
                        Fact::BrakeOff { .. } => {}
                    }
                }
                for (name, state) in &followed {
                    let node = health.get(name).expect("it is watched");
                    prop_assert_eq!(node.state, *state);
                    prop_assert_eq!(node.hold_until_ms.is_some(), matches!(node.cause, Cause::Returned));
                    if *state == NodeState::Up {
                        let silent_ms = now_ms - signs[name].max(restarted_ms);
                        prop_assert!(silent_ms < settings.dead_timeout_ms, "up after {} ms", silent_ms);
                    }
                }
                let counted = health.nodes.iter().flatten().filter(|node| node.counts()).count();
                prop_assert_eq!(health.alive, counted);
            }
        }
    }
}
