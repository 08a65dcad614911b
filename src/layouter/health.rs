//! Health: which nodes can be relied on.
//!
//! A pure state machine per node. Inputs are signs of life ([`HealthTracker::seen`]) and the time
//! ([`HealthTracker::tick`]); outputs are [`HealthEvent`]s: which node changed, why, since when it
//! was silent, until when it is held. It decides nothing about streams; the engine receives the
//! [`NodeState`]s.
//!
//! ```text
//! Unseen --sign--> Up --silent for dead_timeout, or too often--> Down --sign--> Held --> Up
//!    \--dead_timeout--> Down     \--most nodes at once--> Braked --sign--> Up
//! ```
//!
//! A flapping node is expensive: each loss moves all its streams twice. So it is trusted again
//! after an exponential back-off, and silences shorter than the timeout add up.
//!
//! Each node has its usual interval between two signs. A node that is silent for longer is overdue:
//! it takes nothing, because it may be lost already. If most nodes are lost or overdue at once,
//! this server itself was probably cut off: a brake holds all moves for a while. Nodes that are cut
//! off at one moment fall silent one after the other, within one usual interval; so in a cluster
//! that is large enough for the brake a loss waits for that long.
//!
//! A sign of life costs one store. Each node has one deadline in a heap, which is checked only when
//! it is reached.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use super::NodeState;
use crate::feed::nodes::{OFFLINE, Standing};
use crate::state::name::Hostname;

/// Timeouts and thresholds, all derived from one setting: see
/// [`HealthSettings::from_dead_timeout`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HealthSettings {
    /// A node that is silent for this long is lost.
    pub dead_timeout_ms: u64,
    /// A node that was silent for `window_lost_ms` of the last `window_ms` is lost, too; a pause
    /// between signs counts as silence if it is longer than half the dead timeout.
    pub window_ms: u64,
    pub window_lost_ms: u64,
    /// How long a returned node is held; doubled with each failure within `penalty_memory_ms` of
    /// the one before.
    pub hold_ms: u64,
    pub hold_ms_max: u64,
    pub penalty_memory_ms: u64,
    /// The brake needs a cluster of at least this many nodes.
    pub brake_nodes_min: usize,
    /// The brake is applied when more than this share of the nodes, permille, is lost within
    /// `brake_window_ms`.
    pub brake_permille: u64,
    pub brake_window_ms: u64,
    /// How long the brake holds all moves.
    pub brake_ms: u64,
}

impl HealthSettings {
    /// Everything in proportion: 60 s give a window of 120 s in 600 s, holds from 60 s to 30 min,
    /// and a brake of 5 min.
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

    /// Longer pauses between two signs count as silence.
    fn miss_ms(&self) -> u64 {
        self.dead_timeout_ms / 2
    }

    /// A node that is silent for longer may be lost: it takes nothing. Between half a dead timeout
    /// and three quarters of it.
    fn overdue_ms(&self, usual_ms: u64) -> u64 {
        let quarter_ms = self.dead_timeout_ms / 4;
        let usual_ms = usual_ms.clamp(quarter_ms, self.dead_timeout_ms / 2);
        (usual_ms * 3 / 2).max(quarter_ms * 2)
    }

    /// How long a loss waits for others to follow.
    fn wait_ms(&self, usual_ms: u64) -> u64 {
        let at_least = self.dead_timeout_ms / 16;
        usual_ms.clamp(at_least, (self.dead_timeout_ms / 2).max(at_least))
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

/// A shorter pause between two signs moves the usual interval towards it by this part.
const USUAL_PART: u64 = 8;

/// Why a node is in its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HealthCause {
    /// Waiting for the first sign.
    Unseen,
    /// The first sign arrived.
    Seen,
    /// No sign within the dead timeout after it was saved, or after this server started.
    NeverSeen,
    /// Silent for the dead timeout.
    Silent,
    /// Silent too often.
    Unsteady,
    /// Silent together with most others: the brake keeps its streams there.
    Braked,
    /// A lost node gave a sign; it is held before it is trusted.
    Returned,
    /// The hold ended without another silence.
    Steady,
}

impl HealthCause {
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

/// The health of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeHealth {
    pub state: NodeState,
    pub cause: HealthCause,
    /// When it entered this state.
    pub since_ms: u64,
    /// The last sign of life.
    pub seen_ms: Option<u64>,
    /// When it will be trusted again, unless it falls silent before.
    pub hold_until_ms: Option<u64>,
    /// Earlier failures in a row, each soon after the one before.
    pub penalty: u32,
}

impl NodeHealth {
    /// As the API shows it.
    pub fn standing(&self) -> Standing {
        let is_overdue = self.state == NodeState::Unsure
            && !matches!(self.cause, HealthCause::Unseen | HealthCause::Braked);
        Standing {
            name: match self.state {
                NodeState::Up => "up",
                NodeState::Probation => "held",
                NodeState::Unsure => "unknown",
                NodeState::Down => OFFLINE,
            },
            cause: if is_overdue {
                "overdue"
            } else {
                self.cause.code()
            },
            since_ms: match self.cause {
                // It was saved, or this server was started: nothing is known of it.
                HealthCause::Unseen => None,
                _ if is_overdue => self.seen_ms,
                _ => Some(self.since_ms),
            },
            hold_until_ms: self.hold_until_ms.filter(|_| !is_overdue),
        }
    }
}

/// A change of health, for the engine and for the event log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HealthEvent {
    Node {
        hostname: Hostname,
        before: NodeState,
        now: NodeHealth,
    },
    /// A node became overdue, or gave a sign before it was lost.
    Overdue {
        hostname: Hostname,
        before: NodeState,
        state: NodeState,
    },
    /// Most nodes fell silent: nodes lost until `until_ms` keep their streams.
    BrakeOn {
        at_ms: u64,
        lost: usize,
        of: usize,
        until_ms: u64,
    },
    BrakeOff {
        at_ms: u64,
    },
    /// This server did not run for a while: silence before `at_ms` does not count.
    Paused {
        at_ms: u64,
        for_ms: u64,
    },
}

impl HealthEvent {
    /// The node's new state, if it changed.
    pub fn state_change(&self) -> Option<(&Hostname, NodeState)> {
        match self {
            Self::Node {
                hostname,
                before,
                now,
            } if *before != now.state => Some((hostname, now.state)),
            Self::Overdue {
                hostname,
                before,
                state,
            } if before != state => Some((hostname, *state)),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum HealthPhase {
    Unseen,
    Up,
    Down,
    Held { until_ms: u64 },
    Braked,
}

impl HealthPhase {
    fn state(self) -> NodeState {
        match self {
            Self::Up => NodeState::Up,
            Self::Down => NodeState::Down,
            Self::Held { .. } => NodeState::Probation,
            Self::Unseen | Self::Braked => NodeState::Unsure,
        }
    }
}

struct HealthNode {
    hostname: Hostname,
    phase: HealthPhase,
    cause: HealthCause,
    since_ms: u64,
    /// Silence is measured from here: the last sign, or the start of waiting for one.
    silent_since_ms: u64,
    seen_ms: Option<u64>,
    /// Known before this server started: its absence is a loss.
    expected: bool,
    /// The longest pause between two signs lately; longer ones count at once, shorter ones slowly.
    usual_ms: u64,
    /// Silent for longer than usual: it takes nothing.
    overdue: bool,
    /// Past silences, oldest first. Each is longer than half the dead timeout, so few fit into the
    /// window.
    gaps: VecDeque<(u64, u64)>,
    penalty: u32,
    failed_ms: Option<u64>,
    /// Identifies this node's entry in the heap.
    ticket: u64,
}

/// Holds all moves after most nodes were lost at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brake {
    pub since_ms: u64,
    pub until_ms: u64,
    /// Nodes that were lost when it was applied, of how many.
    pub lost: usize,
    pub of: usize,
}

/// The health of all nodes.
pub struct HealthTracker {
    settings: HealthSettings,
    nodes: Vec<Option<HealthNode>>,
    free: Vec<usize>,
    by_name: HashMap<Hostname, usize>,
    /// (time, ticket, node). An entry with another ticket than its node's is stale.
    deadlines: BinaryHeap<Reverse<(u64, u64, usize)>>,
    next_ticket: u64,
    ticked_ms: u64,
    /// Nodes that count for the brake and are not lost.
    alive: usize,
    /// Nodes in phase `Unseen`.
    unseen: usize,
    /// Times of losses within the brake's window, oldest first.
    losses: VecDeque<u64>,
    brake: Option<Brake>,
    events: Vec<HealthEvent>,
}

impl HealthTracker {
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
            unseen: 0,
            losses: VecDeque::new(),
            brake: None,
            events: Vec::new(),
        }
    }

    /// Longest pause between ticks that does not count as a pause of this server.
    pub fn tick_pause_ms_max(&self) -> u64 {
        self.settings.miss_ms()
    }

    /// Adds a node. `expected`: it was known before this server started. During its first dead
    /// timeout it keeps its streams and gets no new ones.
    pub fn add(&mut self, hostname: &Hostname, expected: bool, now_ms: u64) -> NodeState {
        if let Some(known) = self.get(hostname) {
            return known.state;
        }
        let node = HealthNode {
            hostname: hostname.clone(),
            phase: HealthPhase::Unseen,
            cause: HealthCause::Unseen,
            since_ms: now_ms,
            silent_since_ms: now_ms,
            seen_ms: None,
            expected,
            usual_ms: 0,
            overdue: false,
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
        self.unseen += 1;
        self.nodes[id] = Some(node);
        self.by_name.insert(hostname.clone(), id);
        self.schedule(id);
        NodeState::Unsure
    }

    pub fn remove(&mut self, hostname: &str) {
        if let Some(id) = self.by_name.remove(hostname) {
            self.alive -= usize::from(self.node(id).counts());
            self.unseen -= usize::from(self.node(id).phase == HealthPhase::Unseen);
            self.nodes[id] = None;
            self.free.push(id);
        }
    }

    /// Records a sign of life. Signs may arrive late and out of order; unknown nodes are ignored.
    pub fn seen(&mut self, hostname: &str, at_ms: u64) {
        let Some(&id) = self.by_name.get(hostname) else {
            return;
        };
        let settings = self.settings;
        let node = self.node_mut(id);
        let first = node.seen_ms.is_none();
        node.seen_ms = node.seen_ms.max(Some(at_ms));
        if at_ms <= node.silent_since_ms && !first {
            return;
        }
        let silent_since_ms = node.silent_since_ms;
        let at_ms = silent_since_ms.max(at_ms);
        let pause_ms = at_ms - silent_since_ms;
        let missed = pause_ms > settings.miss_ms();
        node.silent_since_ms = at_ms;
        if node.counts() && !first {
            let shorter_ms = node.usual_ms - (node.usual_ms.saturating_sub(pause_ms)) / USUAL_PART;
            node.usual_ms = shorter_ms.max(pause_ms);
        }
        if node.overdue {
            self.set_overdue(id, false);
            // Its deadline was that of its loss.
            self.schedule(id);
        }
        let node = self.node_mut(id);
        match node.phase {
            HealthPhase::Up => {
                if missed {
                    node.gaps.push_back((silent_since_ms, at_ms));
                    let from = at_ms.saturating_sub(settings.window_ms);
                    while node.gaps.front().is_some_and(|gap| gap.1 <= from) {
                        node.gaps.pop_front();
                    }
                }
            }
            // A failure of most nodes was probably not this node's fault: no hold, no penalty.
            HealthPhase::Unseen | HealthPhase::Braked => {
                self.enter(id, HealthPhase::Up, HealthCause::Seen, at_ms);
            }
            HealthPhase::Down if node.failed_ms.is_none() => {
                self.enter(id, HealthPhase::Up, HealthCause::Seen, at_ms);
            }
            HealthPhase::Held { until_ms } if !missed && at_ms >= until_ms => {
                // The node is steady again: earlier silences no longer count.
                node.gaps.clear();
                self.enter(id, HealthPhase::Up, HealthCause::Steady, at_ms);
            }
            HealthPhase::Held { .. } if !missed => {}
            HealthPhase::Down | HealthPhase::Held { .. } => {
                let until_ms = at_ms + settings.hold(node.penalty);
                self.enter(
                    id,
                    HealthPhase::Held { until_ms },
                    HealthCause::Returned,
                    at_ms,
                );
            }
        }
    }

    /// Advances the time; returns the changes since the last tick.
    pub fn tick(&mut self, now_ms: u64) -> Vec<HealthEvent> {
        let now_ms = now_ms.max(self.ticked_ms);
        let paused_ms = now_ms - self.ticked_ms;
        self.ticked_ms = now_ms;
        if paused_ms > self.settings.miss_ms() {
            self.restart_timers(now_ms);
            self.events.push(HealthEvent::Paused {
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
            if self.is_overdue(node, now_ms) {
                self.set_overdue(id, true);
            }
            self.schedule(id);
        }
        self.mark_lost(lost, now_ms);
        std::mem::take(&mut self.events)
    }

    /// Changes the settings, also for holds and brakes in progress. Silence before the timeout was
    /// shortened does not count.
    pub fn set(&mut self, settings: HealthSettings) {
        if settings == self.settings {
            return;
        }
        let is_shorter = settings.dead_timeout_ms < self.settings.dead_timeout_ms;
        self.settings = settings;
        for id in 0..self.nodes.len() {
            if let Some(node) = &mut self.nodes[id] {
                if let HealthPhase::Held { until_ms } = &mut node.phase {
                    *until_ms = (*until_ms).min(node.silent_since_ms + settings.hold(node.penalty));
                }
                if is_shorter && !matches!(node.phase, HealthPhase::Down | HealthPhase::Braked) {
                    // Under the longer timeout its next sign was not due yet.
                    node.silent_since_ms = node.silent_since_ms.max(self.ticked_ms);
                }
                if !self.is_overdue(self.node(id), self.ticked_ms) {
                    self.set_overdue(id, false);
                }
                self.schedule(id);
            }
        }
        if let Some(brake) = &mut self.brake {
            brake.until_ms = brake.until_ms.min(self.ticked_ms + settings.brake_ms);
        }
    }

    pub fn get(&self, hostname: &str) -> Option<NodeHealth> {
        let id = *self.by_name.get(hostname)?;
        Some(self.node(id).health())
    }

    /// Nodes without a sign of life, for at most a dead timeout since they were added.
    pub fn unseen(&self) -> impl Iterator<Item = &Hostname> {
        // Usually there is none: no pass over thousands.
        let nodes = self.nodes.iter().flatten();
        let unseen = nodes.filter(|node| node.phase == HealthPhase::Unseen);
        let names = (self.unseen > 0).then(|| unseen.map(|node| &node.hostname));
        names.into_iter().flatten()
    }

    /// The brake, while it is on.
    pub fn brake(&self) -> Option<Brake> {
        self.brake
    }

    pub fn is_braked(&self) -> bool {
        self.brake.is_some()
    }

    fn node(&self, id: usize) -> &HealthNode {
        self.nodes[id]
            .as_ref()
            .expect("ids refer to existing nodes")
    }

    fn node_mut(&mut self, id: usize) -> &mut HealthNode {
        self.nodes[id]
            .as_mut()
            .expect("ids refer to existing nodes")
    }

    fn is_overdue(&self, node: &HealthNode, now_ms: u64) -> bool {
        matches!(node.phase, HealthPhase::Up | HealthPhase::Held { .. })
            && now_ms.saturating_sub(node.silent_since_ms)
                >= self.settings.overdue_ms(node.usual_ms)
    }

    fn set_overdue(&mut self, id: usize, overdue: bool) {
        let node = self.node_mut(id);
        if node.overdue == overdue {
            return;
        }
        let before = node.state();
        node.overdue = overdue;
        let event = HealthEvent::Overdue {
            hostname: node.hostname.clone(),
            before,
            state: node.state(),
        };
        self.events.push(event);
    }

    /// Whether the cluster is large enough for the brake.
    fn may_brake(&self) -> bool {
        self.losses.len() + self.alive >= self.settings.brake_nodes_min
    }

    /// How long the loss of this node waits for others to follow.
    fn loss_wait_ms(&self, node: &HealthNode) -> u64 {
        if self.may_brake() && !self.is_braked() && node.counts() {
            self.settings.wait_ms(node.usual_ms)
        } else {
            0
        }
    }

    fn enter(&mut self, id: usize, phase: HealthPhase, cause: HealthCause, at_ms: u64) {
        self.unseen -= usize::from(self.node(id).phase == HealthPhase::Unseen);
        let node = self.node_mut(id);
        let (before, counted) = (node.phase.state(), node.counts());
        node.phase = phase;
        node.overdue = false;
        node.cause = cause;
        node.since_ms = at_ms;
        let event = HealthEvent::Node {
            hostname: node.hostname.clone(),
            before,
            now: node.health(),
        };
        let counts = node.counts();
        self.alive = self.alive + usize::from(counts) - usize::from(counted);
        self.events.push(event);
        self.schedule(id);
    }

    /// Sets the deadline of a node for its phase. The deadline may be early, never late: signs of
    /// life and silences that leave the window only postpone it.
    fn schedule(&mut self, id: usize) {
        let (settings, ticked_ms) = (self.settings, self.ticked_ms);
        let braked = self.is_braked();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let wait_ms = self.loss_wait_ms(self.node(id));
        let node = self.node_mut(id);
        node.ticket = ticket;
        let silent_at_ms = node
            .silent_since_ms
            .saturating_add(settings.dead_timeout_ms)
            .saturating_add(wait_ms);
        let overdue_at_ms = if node.overdue {
            u64::MAX
        } else {
            let overdue_ms = settings.overdue_ms(node.usual_ms);
            node.silent_since_ms.saturating_add(overdue_ms)
        };
        let at_ms = match node.phase {
            HealthPhase::Down => return,
            HealthPhase::Braked if braked => return,
            HealthPhase::Unseen | HealthPhase::Braked => silent_at_ms,
            HealthPhase::Held { .. } => silent_at_ms.min(overdue_at_ms),
            HealthPhase::Up => {
                let now_ms = ticked_ms.max(node.silent_since_ms);
                let lost_ms =
                    node.lost_ms(now_ms, settings.window_ms) + now_ms - node.silent_since_ms;
                let spare_ms = settings.window_lost_ms.saturating_sub(lost_ms).max(1);
                let missed_ms = settings.miss_ms() + 1 + wait_ms;
                let missed_at_ms = node.silent_since_ms.saturating_add(missed_ms);
                let unsteady_at_ms = missed_at_ms.max(now_ms.saturating_add(spare_ms));
                silent_at_ms.min(unsteady_at_ms).min(overdue_at_ms)
            }
        };
        self.deadlines.push(Reverse((at_ms, ticket, id)));
    }

    fn is_lost(&self, node: &HealthNode, now_ms: u64) -> Option<HealthCause> {
        let silent_ms = now_ms.saturating_sub(node.silent_since_ms);
        let wait_ms = self.loss_wait_ms(node);
        let silent = silent_ms >= self.settings.dead_timeout_ms + wait_ms;
        match node.phase {
            HealthPhase::Down => None,
            HealthPhase::Braked => (silent && !self.is_braked()).then_some(HealthCause::Silent),
            HealthPhase::Unseen => silent.then_some(HealthCause::NeverSeen),
            HealthPhase::Held { .. } => silent.then_some(HealthCause::Silent),
            HealthPhase::Up if silent => Some(HealthCause::Silent),
            HealthPhase::Up => {
                let lost_ms = node.lost_ms(now_ms, self.settings.window_ms) + silent_ms;
                (silent_ms > self.settings.miss_ms() + wait_ms
                    && lost_ms >= self.settings.window_lost_ms)
                    .then_some(HealthCause::Unsteady)
            }
        }
    }

    /// Marks nodes as lost together, or applies the brake.
    fn mark_lost(&mut self, lost: Vec<(usize, HealthCause)>, now_ms: u64) {
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
        // Silent for longer than usual: probably lost by the same cause.
        let nodes = self.nodes.iter().flatten();
        let overdue = nodes.filter(|node| self.is_overdue(node, now_ms));
        let known = lost
            .iter()
            .filter(|(id, _)| self.is_overdue(self.node(*id), now_ms));
        let suspects = overdue.count() - known.count();
        self.losses.extend(std::iter::repeat_n(now_ms, now_lost));
        let (all_lost, of) = (before + now_lost + suspects, before + self.alive);
        let most = all_lost as u64 * 1000 > of as u64 * settings.brake_permille;
        if self.brake.is_none() && of >= settings.brake_nodes_min && most && now_lost > 0 {
            let until_ms = now_ms + settings.brake_ms;
            self.brake = Some(Brake {
                since_ms: now_ms,
                until_ms,
                lost: all_lost,
                of,
            });
            self.events.push(HealthEvent::BrakeOn {
                at_ms: now_ms,
                lost: all_lost,
                of,
                until_ms,
            });
        }
        for (id, cause) in lost {
            if self.brake.is_some() && self.node(id).counts() {
                self.enter(id, HealthPhase::Braked, HealthCause::Braked, now_ms);
            } else {
                self.fail(id, cause, now_ms);
            }
        }
    }

    fn fail(&mut self, id: usize, cause: HealthCause, now_ms: u64) {
        let memory_ms = self.settings.penalty_memory_ms;
        let node = self.node_mut(id);
        if node.expected || node.seen_ms.is_some() {
            let recent = node
                .failed_ms
                .is_some_and(|failed_ms| now_ms - failed_ms < memory_ms);
            // A loss during the hold moved nothing: the next hold is as long as this one.
            let again = u32::from(node.phase == HealthPhase::Up);
            node.penalty = if recent {
                node.penalty.saturating_add(again)
            } else {
                0
            };
            node.failed_ms = Some(now_ms);
        }
        self.enter(id, HealthPhase::Down, cause, now_ms);
    }

    fn release_brake(&mut self, now_ms: u64) {
        if self.brake.is_none_or(|brake| brake.until_ms > now_ms) {
            return;
        }
        self.brake = None;
        self.losses.clear();
        self.events.push(HealthEvent::BrakeOff { at_ms: now_ms });
        for id in 0..self.nodes.len() {
            let Some(node) = &self.nodes[id] else {
                continue;
            };
            if node.phase != HealthPhase::Braked {
                continue;
            }
            if now_ms - node.silent_since_ms.min(now_ms) >= self.settings.dead_timeout_ms {
                self.fail(id, HealthCause::Silent, now_ms);
            } else {
                // The timeout was raised meanwhile: the node is not lost yet.
                self.schedule(id);
            }
        }
    }

    /// After a pause of this server the silence of nodes is unknown: all timers restart.
    fn restart_timers(&mut self, now_ms: u64) {
        let settings = self.settings;
        for id in 0..self.nodes.len() {
            let Some(node) = &mut self.nodes[id] else {
                continue;
            };
            match &mut node.phase {
                HealthPhase::Down => continue,
                HealthPhase::Held { until_ms } => *until_ms = now_ms + settings.hold(node.penalty),
                HealthPhase::Up | HealthPhase::Unseen | HealthPhase::Braked => {}
            }
            node.silent_since_ms = node.silent_since_ms.max(now_ms);
            self.set_overdue(id, false);
            self.schedule(id);
        }
        if let Some(brake) = &mut self.brake {
            brake.until_ms = now_ms + self.settings.brake_ms;
        }
    }
}

impl HealthNode {
    /// Whether its loss counts for the brake: a node that was never seen cannot be lost.
    fn counts(&self) -> bool {
        match self.phase {
            HealthPhase::Up | HealthPhase::Held { .. } => true,
            HealthPhase::Unseen => self.expected,
            HealthPhase::Down | HealthPhase::Braked => false,
        }
    }

    /// Sum of past silences within the window before `now_ms`.
    fn lost_ms(&self, now_ms: u64, window_ms: u64) -> u64 {
        let from = now_ms.saturating_sub(window_ms);
        self.gaps
            .iter()
            .map(|(begin, end)| end.saturating_sub((*begin).max(from)))
            .sum()
    }

    /// Its state for the engine.
    fn state(&self) -> NodeState {
        if self.overdue {
            return NodeState::Unsure;
        }
        self.phase.state()
    }

    fn health(&self) -> NodeHealth {
        NodeHealth {
            state: self.state(),
            cause: self.cause,
            since_ms: self.since_ms,
            seen_ms: self.seen_ms,
            hold_until_ms: match self.phase {
                HealthPhase::Held { until_ms } => Some(until_ms),
                _ => None,
            },
            penalty: self.penalty,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const S: u64 = 1000;

    fn host(name: &str) -> Hostname {
        Hostname::trusted(name)
    }

    /// A cluster in which every node sends a sign every five seconds while `alive(node, second)`.
    struct Run {
        health: HealthTracker,
        nodes: Vec<Hostname>,
        now_s: u64,
        /// Nodes that became overdue, or no longer are.
        overdue: Vec<(Hostname, NodeState)>,
    }

    impl Run {
        fn new(nodes: usize) -> Self {
            let mut health = HealthTracker::new(HealthSettings::default(), 0);
            let nodes: Vec<Hostname> = (0..nodes).map(|i| host(&format!("n{i}"))).collect();
            for node in &nodes {
                assert_eq!(health.add(node, true, 0), NodeState::Unsure);
            }
            let mut run = Self {
                health,
                nodes,
                now_s: 0,
                overdue: Vec::new(),
            };
            let events = run.until(5, |_, _| true);
            assert!(events.iter().all(
                |event| matches!(event, HealthEvent::Node { now, .. } if now.state == NodeState::Up)
            ));
            run
        }

        fn until(&mut self, end_s: u64, alive: impl Fn(usize, u64) -> bool) -> Vec<HealthEvent> {
            let mut events = Vec::new();
            while self.now_s < end_s {
                for (i, node) in self.nodes.iter().enumerate() {
                    if self.now_s.is_multiple_of(5) && alive(i, self.now_s) {
                        self.health.seen(node, self.now_s * S);
                    }
                }
                for event in self.health.tick(self.now_s * S) {
                    match event {
                        HealthEvent::Overdue {
                            hostname, state, ..
                        } => self.overdue.push((hostname, state)),
                        other => events.push(other),
                    }
                }
                self.now_s += 1;
            }
            events
        }

        fn states(&self, state: NodeState) -> usize {
            let states = self
                .nodes
                .iter()
                .map(|node| self.health.get(node).expect("it is watched").state);
            states.filter(|other| *other == state).count()
        }
    }

    /// Number of changes into each state: (down, held or braked, up).
    fn counts(events: &[HealthEvent]) -> (usize, usize, usize) {
        let into = |state| {
            let changes = events.iter().filter_map(HealthEvent::state_change);
            changes.filter(|(_, now)| *now == state).count()
        };
        (
            into(NodeState::Down),
            into(NodeState::Probation) + into(NodeState::Unsure),
            into(NodeState::Up),
        )
    }

    fn is_of(event: &HealthEvent, host: &str) -> bool {
        matches!(event, HealthEvent::Node { hostname, .. } if hostname.as_str() == host)
    }

    fn is_steady_since(event: &HealthEvent, ms: u64) -> bool {
        let HealthEvent::Node { now, .. } = event else {
            return false;
        };
        now.cause == HealthCause::Steady && now.since_ms == ms
    }

    #[test]
    fn flapping_node_is_held_exponentially_longer() {
        // Goal: bound the cost of a flapping node. Method: typical patterns over two hours, one
        // node of two; each loss moves all its streams away, each return to Up moves them back,
        // nothing else moves any.
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
            let events = run.until(7200, |node, s| {
                let phase = (s + up + down - begin) % (up + down);
                node == 1 || (if begin > 0 { phase >= down } else { phase < up })
            });
            let lost = events.iter().filter(|event| {
                matches!(
                    event,
                    HealthEvent::Node { before: NodeState::Up, now, .. }
                        if now.state == NodeState::Down
                )
            });
            assert_eq!((lost.count(), counts(&events).2), expected, "{name}");
            assert!(events.iter().all(|event| !is_of(event, "n1")));
        }
    }

    #[test]
    fn loss_event_has_cause_time_and_hold() {
        let mut run = Run::new(2);
        let events = run.until(200, |node, s| node == 1 || s < 100);
        let [
            HealthEvent::Node {
                hostname,
                before: NodeState::Up,
                now,
            },
        ] = &events[..]
        else {
            panic!("one loss: {events:?}");
        };
        assert_eq!(hostname.as_str(), "n0");
        // The last sign was at 95 s.
        assert_eq!(
            (now.state, now.cause, now.since_ms, now.seen_ms),
            (NodeState::Down, HealthCause::Silent, 155 * S, Some(95 * S))
        );
        assert_eq!(
            (now.cause.code(), now.penalty, now.hold_until_ms),
            ("silent", 0, None)
        );
        let events = run.until(230, |_, _| true);
        assert_eq!(counts(&events), (0, 1, 0), "back, but not trusted yet");
        assert_eq!(
            run.health.get("n0").and_then(|node| node.hold_until_ms),
            Some(260 * S)
        );
        let events = run.until(261, |_, _| true);
        assert_eq!(counts(&events), (0, 0, 1));
        assert!(is_steady_since(&events[0], 260 * S));
    }

    #[test]
    fn silence_during_the_hold_restarts_it() {
        let mut run = Run::new(2);
        run.until(200, |node, s| node == 1 || s < 100);
        // Back at 200 s, silent from 240 to 275 s: the hold ends 60 s after that.
        let events = run.until(400, |node, s| node == 1 || !(240..275).contains(&s));
        assert_eq!(counts(&events), (0, 1, 1), "{events:?}");
        assert!(events.iter().any(|event| is_steady_since(event, 335 * S)));
    }

    #[test]
    fn short_silences_count_once_they_add_up() {
        let mut run = Run::new(2);
        let events = run.until(2000, |node, s| node == 1 || s % 600 < 555);
        assert_eq!(events, [], "a blip of 45 s every ten minutes");
        let events = run.until(3000, |node, s| node == 1 || s % 90 < 40);
        let cause = events.iter().find_map(|event| match event {
            HealthEvent::Node { now, .. } => Some(now.cause),
            _ => None,
        });
        assert_eq!(cause, Some(HealthCause::Unsteady));
    }

    #[test]
    fn steady_slow_poller_is_not_flapping() {
        // A sign every 30 s is half the dead timeout: that is its rhythm, not a silence.
        let mut run = Run::new(1);
        let events = run.until(4000, |_, s| s.is_multiple_of(30));
        assert_eq!(events, []);
    }

    #[test]
    fn only_node_is_lost_and_returns() {
        let mut run = Run::new(1);
        let events = run.until(400, |_, s| !(100..300).contains(&s));
        let states: Vec<_> = events
            .iter()
            .filter_map(HealthEvent::state_change)
            .map(|(_, state)| state)
            .collect();
        assert_eq!(
            states,
            [NodeState::Down, NodeState::Probation, NodeState::Up]
        );
    }

    #[test]
    fn loss_of_most_nodes_applies_the_brake() {
        let mut run = Run::new(10);
        // Half is not most.
        let events = run.until(200, |node, s| node >= 5 || s < 100);
        assert_eq!(counts(&events), (5, 0, 0));
        assert!(!run.health.is_braked());

        let mut run = Run::new(10);
        let events = run.until(200, |node, s| node >= 6 || s < 100);
        assert_eq!(counts(&events), (0, 6, 0), "no loss is reported");
        let [
            HealthEvent::BrakeOn {
                at_ms,
                lost: 6,
                of: 10,
                until_ms,
            },
            ..,
        ] = events[..]
        else {
            panic!("the brake comes first: {events:?}");
        };
        // The last signs were at 95 s; the first loss waits for one interval.
        assert_eq!((at_ms, until_ms), (160 * S, 460 * S));
        // Two come back: trusted at once. The rest is lost when the brake is released.
        let events = run.until(459, |node, _| node >= 4);
        assert_eq!(counts(&events), (0, 0, 2), "{events:?}");
        let events = run.until(465, |node, _| node >= 4);
        assert!(matches!(events[0], HealthEvent::BrakeOff { at_ms } if at_ms == 460 * S));
        assert_eq!(counts(&events), (4, 0, 0));
        assert!(!run.health.is_braked());
    }

    #[test]
    fn timeout_raised_during_the_brake_applies_at_its_release() {
        let mut run = Run::new(10);
        run.until(161, |node, s| node >= 6 || s < 100);
        assert!(run.health.is_braked());
        // The brake ends at 460 s, when the nodes were silent for 365 s.
        run.health.set(HealthSettings::from_dead_timeout(400_000));
        let events = run.until(494, |node, _| node >= 6);
        assert_eq!(counts(&events).0, 0, "{events:?}");
        let events = run.until(496, |node, _| node >= 6);
        assert_eq!(counts(&events), (6, 0, 0), "{events:?}");
    }

    #[test]
    fn successive_losses_add_up_to_the_brake() {
        // Polls end at different times: the first nodes are lost before most are silent. The fourth
        // loss is at 180 s, when seven more have been silent for half a timeout.
        let mut run = Run::new(20);
        let events = run.until(300, |node, s| s < 100 + node as u64 * 5 || node >= 15);
        let (downs, held, _) = counts(&events);
        assert_eq!((downs, held), (3, 12));
        assert!(run.health.is_braked());
    }

    /// Nodes are cut off at one moment. All poll every `poll_s`, at different times.
    fn cut_off(nodes: usize, cut: usize, poll_s: u64) -> (Run, Vec<HealthEvent>) {
        let mut health = HealthTracker::new(HealthSettings::default(), 0);
        let names: Vec<Hostname> = (0..nodes).map(|i| host(&format!("n{i:02}"))).collect();
        for node in &names {
            health.add(node, true, 0);
        }
        let mut run = Run {
            health,
            nodes: names,
            now_s: 0,
            overdue: Vec::new(),
        };
        let mut events = Vec::new();
        for s in 0..1000 {
            for i in 0..nodes {
                let polls = (s + i as u64).is_multiple_of(poll_s);
                if polls && (i >= cut || s < 300) {
                    let name = run.nodes[i].clone();
                    run.health.seen(&name, s * S);
                }
            }
            events.extend(run.health.tick(s * S));
            run.now_s = s;
            if s < 300 {
                events.clear();
            }
        }
        (run, events)
    }

    #[test]
    fn nodes_cut_off_at_one_moment_apply_the_brake_before_any_loss() {
        // Goal: no node is lost before the brake, at whatever times they poll. Method: twenty nodes
        // that poll at different seconds, of which all, or just more than half, are cut off.
        for poll_s in [1, 2, 5, 10, 20, 29] {
            for cut in [20, 18, 11] {
                let (_, events) = cut_off(20, cut, poll_s);
                let of_note = events
                    .iter()
                    .filter(|event| !matches!(event, HealthEvent::Overdue { .. }));
                let first = of_note.into_iter().next();
                let Some(HealthEvent::BrakeOn { lost, of: 20, .. }) = first else {
                    panic!("{cut} that poll every {poll_s} s: {first:?}");
                };
                assert_eq!(*lost, cut, "that poll every {poll_s} s");
            }
            let (run, events) = cut_off(20, 10, poll_s);
            assert!(
                !events
                    .iter()
                    .any(|it| matches!(it, HealthEvent::BrakeOn { .. }))
            );
            assert_eq!(run.states(NodeState::Down), 10);
        }
    }

    #[test]
    fn single_loss_waits_for_one_interval_at_most() {
        for poll_s in [1, 5, 20] {
            let (_, events) = cut_off(20, 1, poll_s);
            let lost = events.iter().find_map(|event| match event {
                HealthEvent::Node { now, .. } if now.state == NodeState::Down => Some(now.since_ms),
                _ => None,
            });
            let seen_ms = (0..300)
                .rev()
                .find(|s: &u64| s.is_multiple_of(poll_s))
                .expect("polled")
                * S;
            let waited_ms = lost.expect("it is lost") - seen_ms - 60 * S;
            assert!(
                waited_ms <= poll_s.max(4) * S,
                "{waited_ms} ms for {poll_s} s"
            );
        }
    }

    #[test]
    fn overdue_node_takes_nothing_until_its_next_sign() {
        let mut run = Run::new(2);
        let events = run.until(300, |node, s| node == 1 || !(100..145).contains(&s));
        assert_eq!(events, [], "it is not lost");
        let n0 = host("n0");
        assert_eq!(
            run.overdue,
            [(n0.clone(), NodeState::Unsure), (n0, NodeState::Up)]
        );
    }

    #[test]
    fn brake_needs_ten_nodes() {
        let mut run = Run::new(9);
        let events = run.until(200, |node, s| node >= 8 || s < 100);
        assert_eq!(counts(&events), (8, 0, 0));
        assert_eq!(run.states(NodeState::Down), 8);
    }

    #[test]
    fn pause_of_this_server_is_not_silence_of_nodes() {
        let mut run = Run::new(12);
        run.until(100, |_, _| true);
        run.now_s = 160;
        let events = run.until(161, |_, _| false);
        assert_eq!(
            events,
            [HealthEvent::Paused {
                at_ms: 160 * S,
                for_ms: 61 * S
            }]
        );
        // Only what is silent from then on counts.
        assert_eq!(counts(&run.until(225, |node, _| node > 0)), (0, 0, 0));
        assert_eq!(counts(&run.until(226, |node, _| node > 0)), (1, 0, 0));
    }

    #[test]
    fn nodes_never_seen_do_not_apply_the_brake() {
        let mut run = Run::new(5);
        for i in 0..50 {
            run.health
                .add(&host(&format!("new{i}")), false, run.now_s * S);
        }
        let events = run.until(100, |_, _| true);
        assert_eq!(counts(&events), (50, 0, 0));
        assert!(!run.health.is_braked());
        // A new node is trusted with its first sign, however late.
        run.health.seen("new7", 100 * S);
        let events = run.until(101, |_, _| true);
        assert_eq!(counts(&events), (0, 0, 1));
    }

    #[test]
    fn no_node_is_lost_within_one_timeout_of_a_start() {
        let mut health = HealthTracker::new(HealthSettings::default(), 1_000_000);
        health.add(&host("a"), true, 1_000_000);
        health.add(&host("b"), true, 1_000_000);
        let mut events = Vec::new();
        for s in 1000..=1059 {
            events.extend(health.tick(s * S));
        }
        assert_eq!(events, []);
        let events = health.tick(1060 * S);
        assert_eq!(counts(&events), (2, 0, 0));
        health.seen("a", 1061 * S);
        let back = health.tick(1061 * S);
        assert_eq!(
            counts(&back),
            (0, 1, 0),
            "a known node counts as lost, so it is held"
        );
    }

    #[test]
    fn shorter_timeout_counts_silence_from_its_change() {
        // Goal: under a long timeout streamers speak rarely, and none is lost because the timeout
        // is shortened. Method: one node is silent since then, one gives its next sign in time.
        let mut run = Run::new(2);
        run.until(100, |_, s| s < 85);
        run.health.set(HealthSettings::from_dead_timeout(10_000));
        assert_eq!(run.until(109, |node, _| node == 1), []);
        let events = run.until(111, |node, _| node == 1);
        assert_eq!(counts(&events), (1, 0, 0), "{events:?}");
    }

    #[test]
    fn removed_node_may_be_added_again() {
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
    enum HealthOp {
        Seen(u8),
        Pass(u64),
        Add(u8, bool),
        Remove(u8),
        Timeout(u64),
    }

    fn ops() -> impl Strategy<Value = Vec<HealthOp>> {
        let op = prop_oneof![
            8 => (0..14_u8).prop_map(HealthOp::Seen),
            6 => (1..12_u64).prop_map(|s| HealthOp::Pass(s * S)),
            1 => (20..200_u64).prop_map(|s| HealthOp::Pass(s * S)),
            1 => (0..14_u8, any::<bool>())
                .prop_map(|(node, expected)| HealthOp::Add(node, expected)),
            1 => (0..14_u8).prop_map(HealthOp::Remove),
            1 => (5..90_u64).prop_map(|s| HealthOp::Timeout(s * S)),
        ];
        prop::collection::vec(op, 0..300)
    }

    proptest! {
        #![proptest_config(crate::proptests::config_with_cases(2000))]

        /// Following the events gives every node's state; no node skips a state; no node with
        /// timely signs is lost, and no silent node is relied on.
        #[test]
        fn events_give_every_nodes_state(ops in ops()) {
            let mut settings = HealthSettings::default();
            let mut health = HealthTracker::new(settings, 0);
            let (mut now_ms, mut followed) = (0, BTreeMap::<Hostname, NodeState>::new());
            let mut engine = BTreeMap::<Hostname, NodeState>::new();
            let mut signs = BTreeMap::<Hostname, u64>::new();
            let mut restarted_ms = 0;
            let mut braked = BTreeSet::<Hostname>::new();
            for op in ops {
                match op {
                    HealthOp::Seen(node) => {
                        let name = host(&format!("n{node}"));
                        health.seen(&name, now_ms);
                        if followed.contains_key(&name) {
                            signs.insert(name, now_ms);
                        }
                    }
                    HealthOp::Pass(ms) => now_ms += ms,
                    HealthOp::Add(node, expected) => {
                        let name = host(&format!("n{node}"));
                        if !followed.contains_key(&name) {
                            prop_assert_eq!(health.add(&name, expected, now_ms), NodeState::Unsure);
                            followed.insert(name.clone(), NodeState::Unsure);
                            engine.insert(name.clone(), NodeState::Unsure);
                            signs.insert(name, now_ms);
                        }
                    }
                    HealthOp::Remove(node) => {
                        let name = host(&format!("n{node}"));
                        health.remove(&name);
                        followed.remove(&name);
                        signs.remove(&name);
                    }
                    HealthOp::Timeout(ms) => {
                        if ms < settings.dead_timeout_ms {
                            restarted_ms = now_ms;
                        }
                        settings = HealthSettings::from_dead_timeout(ms);
                        health.set(settings);
                    }
                }
                for event in health.tick(now_ms) {
                    if let Some((name, state)) = event.state_change()
                        && let Some(known) = engine.get_mut(name)
                    {
                        *known = state;
                    }
                    match event {
                        HealthEvent::Node { hostname, before, now } => {
                            // A sign may have been given to a node that was removed before this
                            // tick.
                            if let Some(state) = followed.get_mut(&hostname) {
                                prop_assert_eq!(*state, before);
                                let down = NodeState::Down;
                                prop_assert!(before != down || now.state != down);
                                // One that the brake holds was silent for long enough before it.
                                let was_braked = braked.remove(&hostname);
                                if now.cause == HealthCause::Braked {
                                    braked.insert(hostname.clone());
                                }
                                if now.state == NodeState::Down && !was_braked {
                                    let silent_ms = now_ms - signs[&hostname].max(restarted_ms);
                                    let least_ms = settings.dead_timeout_ms / 2;
                                    prop_assert!(silent_ms > least_ms, "lost after {silent_ms} ms");
                                }
                                *state = now.state;
                            }
                        }
                        HealthEvent::Paused { at_ms, .. } => restarted_ms = at_ms,
                        HealthEvent::BrakeOn { lost, of, .. } => {
                            prop_assert!(of >= 10 && lost * 2 > of);
                        }
                        HealthEvent::BrakeOff { .. } | HealthEvent::Overdue { .. } => {}
                    }
                }
                for (name, state) in &followed {
                    let node = health.get(name).expect("it is watched");
                    prop_assert_eq!(node.state, engine[name]);
                    let silent_ms = now_ms - signs[name].max(restarted_ms);
                    let usual_max_ms = settings.dead_timeout_ms * 3 / 4;
                    if silent_ms < settings.dead_timeout_ms / 2 - 2 {
                        prop_assert_eq!(node.state, *state);
                    } else if silent_ms > usual_max_ms {
                        let takes = matches!(node.state, NodeState::Up | NodeState::Probation);
                        prop_assert!(!takes, "takes streams after {silent_ms} ms");
                    }
                    let is_held = matches!(node.cause, HealthCause::Returned);
                    prop_assert_eq!(node.hold_until_ms.is_some(), is_held);
                    if *state == NodeState::Up {
                        let dead_ms = settings.dead_timeout_ms * 3 / 2;
                        prop_assert!(silent_ms < dead_ms, "up after {silent_ms} ms");
                    }
                }
                let counted = health.nodes.iter().flatten().filter(|node| node.counts()).count();
                prop_assert_eq!(health.alive, counted);
            }
        }
    }
}
