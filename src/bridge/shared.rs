//! What the threads of one bridge share: the newest list, the life of the server, the newest
//! report, and probes of sources. One lock, held for the time of a copy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::desired::Wanted;
use super::liveness::{LifeSign, Liveness, ServerLife};
use super::report::ConfigStatus;

/// Sources that wait for a probe.
const PROBES_MAX: usize = 256;

pub struct BridgeShared {
    state: Mutex<BridgeState>,
    changed: Condvar,
}

/// A source, by the native name of its stream and its URL.
pub type ProbedSource = (Box<str>, Box<str>);

#[derive(Default)]
struct BridgeState {
    is_stopping: bool,
    liveness: Liveness,
    /// The last look at the server.
    looked_at: Option<Instant>,
    /// The server is not dead: polls and reports go on.
    is_serving: bool,
    /// Counts the starts of the server. A poll belongs to the one in which it began.
    epoch: u64,
    /// The last epoch in which a poll ended, with an answer or without one.
    polled_epoch: u64,
    news: BridgeNews,
    config: Option<ConfigStatus>,
    report: Option<Vec<u8>>,
    probes: Vec<ProbedSource>,
    probed: Vec<(ProbedSource, bool)>,
}

/// What the poll brought.
#[derive(Clone, Default)]
pub struct BridgeNews {
    /// Differs from list to list.
    pub serial: u64,
    pub wanted: Option<Arc<Wanted>>,
    /// The last good answer of Weir.
    pub answered_at: Option<Instant>,
    pub has_joined: bool,
}

/// A poll may begin.
pub struct PollTurn {
    pub epoch: u64,
    pub wanted: Option<Arc<Wanted>>,
    pub has_joined: bool,
}

impl BridgeShared {
    pub fn new(wanted: Option<Arc<Wanted>>, has_joined: bool) -> Self {
        let news = BridgeNews {
            serial: u64::from(wanted.is_some()),
            wanted,
            answered_at: None,
            has_joined,
        };
        let state = BridgeState {
            news,
            ..BridgeState::default()
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut BridgeState)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }

    /// Waits until the time or until `is_over`.
    fn wait(&self, until: Instant, is_over: impl Fn(&BridgeState) -> bool) {
        let mut state = self.state.lock();
        while !is_over(&state) && !state.is_stopping {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    pub fn stop(&self) {
        self.change(|state| state.is_stopping = true);
    }

    pub fn is_stopping(&self) -> bool {
        self.state.lock().is_stopping
    }

    pub fn pause(&self, time: Duration) {
        self.wait(Instant::now() + time, |_| false);
    }

    // ---- the worker ---------------------------------------------------------------------------

    /// Waits until the time, or until there is a list after `serial` or a first poll of the epoch.
    pub fn wait_for_news(&self, until: Instant, serial: u64, is_open: bool) {
        self.wait(until, |state| {
            let opens = !is_open && state.is_serving && state.polled_epoch == state.epoch;
            state.news.serial != serial || opens
        });
    }

    pub fn news(&self) -> BridgeNews {
        self.state.lock().news.clone()
    }

    pub fn has_news(&self, serial: u64) -> bool {
        let state = self.state.lock();
        state.news.serial != serial || state.is_stopping
    }

    // ---- the life of the server ---------------------------------------------------------------

    /// Takes the result of a look that ended at `now`; the life of the server before and after it.
    pub fn see(&self, now: Instant, sign: LifeSign) -> (ServerLife, ServerLife) {
        let mut state = self.state.lock();
        let before = state.liveness.life();
        let life = state.liveness.see(now, sign);
        state.looked_at = Some(now);
        let is_dead = life == ServerLife::Down;
        if is_dead {
            state.report = None;
        }
        if is_dead != (before == ServerLife::Down) {
            state.is_serving = !is_dead;
            // What is wanted there may have changed while it was dead.
            state.epoch += u64::from(!is_dead);
            drop(state);
            self.changed.notify_all();
        }
        (before, life)
    }

    /// The life of the server, and how often it died.
    pub fn life(&self) -> (ServerLife, u64) {
        let state = self.state.lock();
        (state.liveness.life(), state.liveness.deaths())
    }

    /// Waits until the last answer, and the last look, are this old; false at the end of the
    /// bridge.
    pub fn wait_for_silence(&self, time: Duration) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.is_stopping {
                return false;
            }
            let last = state.liveness.answered_at().max(state.looked_at);
            let Some(due) = last.map(|at| at + time).filter(|at| *at > Instant::now()) else {
                return true;
            };
            self.changed.wait_until(&mut state, due);
        }
    }

    /// Whether a poll has ended since the server came to life.
    pub fn is_open(&self) -> bool {
        let state = self.state.lock();
        state.is_serving && state.polled_epoch == state.epoch
    }

    pub fn config(&self) -> Option<ConfigStatus> {
        self.state.lock().config.clone()
    }

    /// Replaces the report that waits to be sent. The report of a dead server is dropped.
    pub fn put_report(&self, report: Vec<u8>) {
        self.change(|state| state.report = Some(report).filter(|_| state.is_serving));
    }

    pub fn put_probes(&self, probes: Vec<ProbedSource>) {
        if probes.is_empty() {
            return;
        }
        self.change(|state| {
            for probe in probes {
                if state.probes.len() < PROBES_MAX && !state.probes.contains(&probe) {
                    state.probes.push(probe);
                }
            }
        });
    }

    pub fn take_probed(&self) -> Vec<(ProbedSource, bool)> {
        std::mem::take(&mut self.state.lock().probed)
    }

    // ---- the poll -----------------------------------------------------------------------------

    /// Waits until the server lives; `None` at the end of the bridge.
    pub fn wait_for_turn(&self) -> Option<PollTurn> {
        let mut state = self.state.lock();
        loop {
            if state.is_stopping {
                return None;
            }
            if state.is_serving {
                return Some(PollTurn {
                    epoch: state.epoch,
                    wanted: state.news.wanted.clone(),
                    has_joined: state.news.has_joined,
                });
            }
            self.changed.wait(&mut state);
        }
    }

    pub fn put_joined(&self) {
        self.change(|state| {
            state.news.has_joined = true;
            state.news.serial += 1;
        });
    }

    /// A good answer; `wanted` if it brought another list.
    pub fn put_answer(&self, epoch: u64, wanted: Option<Wanted>) {
        self.change(|state| {
            state.polled_epoch = epoch;
            state.news.answered_at = Some(Instant::now());
            state.config = Some(ConfigStatus::Loaded);
            if let Some(wanted) = wanted {
                state.news.wanted = Some(Arc::new(wanted));
                state.news.serial += 1;
            }
        });
    }

    /// No good answer. False if the server died meanwhile, which cuts polls.
    pub fn put_fault(&self, epoch: u64, fault: ConfigStatus) -> bool {
        let mut is_serving = false;
        self.change(|state| {
            is_serving = state.is_serving && state.epoch == epoch;
            if is_serving {
                state.polled_epoch = epoch;
                state.config = Some(fault);
            }
        });
        is_serving
    }

    /// Waits for the time, or until the server begins another life.
    pub fn pause_in_epoch(&self, time: Duration, epoch: u64) {
        self.wait(Instant::now() + time, |state| {
            state.epoch != epoch || !state.is_serving
        });
    }

    // ---- reports and probes -------------------------------------------------------------------

    /// Waits for a report; `None` at the end of the bridge.
    pub fn wait_for_report(&self) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        loop {
            if state.is_stopping {
                return None;
            }
            if let Some(report) = state.report.take() {
                return Some(report);
            }
            self.changed.wait(&mut state);
        }
    }

    /// Waits for a source to probe; `None` at the end of the bridge.
    pub fn wait_for_probe(&self) -> Option<ProbedSource> {
        let mut state = self.state.lock();
        loop {
            if state.is_stopping {
                return None;
            }
            if !state.probes.is_empty() {
                return Some(state.probes.remove(0));
            }
            self.changed.wait(&mut state);
        }
    }

    pub fn put_probed(&self, source: ProbedSource, accepts: bool) {
        self.change(|state| {
            if state.probed.len() < PROBES_MAX {
                state.probed.push((source, accepts));
            }
        });
    }
}
