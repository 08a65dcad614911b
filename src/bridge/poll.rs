//! The threads that talk to Weir: one joins and polls, one sends reports.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::caller::CallFault;
use super::central::{Central, JoinFields, Polled};
use super::report::ConfigStatus;
use super::shared::{BridgeShared, PollTurn};

/// Shortest and longest pause after a failure.
pub const PAUSE_MIN: Duration = Duration::from_millis(200);
pub const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Shortest time from one poll to the next, whatever they are answered.
const POLL_EVERY: Duration = Duration::from_millis(100);

/// Pauses between failures in a row: each doubles the last, up to [`PAUSE_MAX`], and is changed at
/// random by half, so that the bridges of a Weir that was away do not return at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPause {
    mean: Duration,
}

impl Default for RetryPause {
    fn default() -> Self {
        Self { mean: PAUSE_MIN }
    }
}

impl RetryPause {
    /// The pause after one more failure. `random` is any number.
    pub fn next(&mut self, random: u32) -> Duration {
        let part = f64::from(random) / f64::from(u32::MAX);
        let pause = self.mean.mul_f64(0.5 + part);
        self.mean = (self.mean * 2).min(PAUSE_MAX);
        pause.clamp(PAUSE_MIN, PAUSE_MAX)
    }
}

/// The credentials of the bridge.
pub struct Credentials {
    pub key: String,
    /// The token by whose right the bridge saves itself with the key.
    pub join_token: Option<String>,
    pub fields: JoinFields,
    /// Join even if the bridge joined before.
    pub rejoin: bool,
}

pub struct Poller {
    pub shared: Arc<BridgeShared>,
    pub central: Arc<Central>,
    pub hostname: Box<str>,
    pub credentials: Credentials,
    pub etag: Option<String>,
    pub has_joined: bool,
    pub pause: RetryPause,
    pub epoch: u64,
    pub logged: Option<String>,
}

impl Poller {
    pub fn new(
        shared: Arc<BridgeShared>,
        central: Arc<Central>,
        hostname: Box<str>,
        credentials: Credentials,
    ) -> Self {
        Self {
            shared,
            central,
            hostname,
            credentials,
            etag: None,
            has_joined: false,
            pause: RetryPause::default(),
            epoch: 0,
            logged: None,
        }
    }

    pub fn run(mut self) {
        while let Some(turn) = self.shared.wait_for_turn() {
            let begun = Instant::now();
            match self.poll(&turn) {
                Ok(()) => {
                    self.pause = RetryPause::default();
                    if self.logged.take().is_some() {
                        info!(hostname = &*self.hostname, "Weir answers again");
                    }
                    let left = POLL_EVERY.saturating_sub(begun.elapsed());
                    self.shared.pause_in_epoch(left, turn.epoch);
                }
                Err(fault) => self.on_fault(&fault, turn.epoch),
            }
        }
    }

    fn poll(&mut self, turn: &PollTurn) -> Result<(), CallFault> {
        self.join(turn)?;
        let waits = turn.epoch == self.epoch;
        let key = &self.credentials.key;
        let polled = self
            .central
            .poll(key, self.etag.as_deref(), waits, turn.wanted.as_deref())?;
        self.epoch = turn.epoch;
        match polled {
            Polled::Unchanged => self.shared.put_answer(turn.epoch, None),
            Polled::List {
                wanted,
                etag,
                unclear,
            } => {
                let is_same = turn.wanted.as_deref() == Some(&wanted);
                self.etag = etag;
                let wanted = (!is_same).then_some(wanted);
                self.shared.put_answer(turn.epoch, wanted);
                if let Some(fault) = unclear {
                    return Err(fault);
                }
            }
        }
        Ok(())
    }

    /// Saves the streamer with its key, the first time.
    fn join(&mut self, turn: &PollTurn) -> Result<(), CallFault> {
        let credentials = &self.credentials;
        let Some(token) = &credentials.join_token else {
            return Ok(());
        };
        if self.has_joined || turn.has_joined && !credentials.rejoin {
            return Ok(());
        }
        self.central
            .join(token, &credentials.key, &credentials.fields)?;
        info!(hostname = &*self.hostname, "joined Weir");
        self.has_joined = true;
        self.shared.put_joined();
        Ok(())
    }

    fn on_fault(&mut self, fault: &CallFault, epoch: u64) {
        let error = match fault {
            CallFault::Unreachable(_) => "unreachable",
            CallFault::Status(401 | 403, _) => "invalid_authorization",
            CallFault::Status(404, _) => "unknown_streamer",
            CallFault::Status(..) => "refused",
            CallFault::Unexpected(_) => "bad_answer",
        };
        let status = ConfigStatus::error(error, fault.status(), fault.to_string());
        if !self.shared.put_fault(epoch, status) {
            return;
        }
        let text = fault.to_string();
        if self.logged.as_ref() != Some(&text) {
            let hostname = &*self.hostname;
            warn!(hostname, error, "no configuration from Weir: {text}");
            self.logged = Some(text);
        }
        let random = getrandom::u32().unwrap_or(u32::MAX / 2);
        let pause = self.pause.next(random);
        self.shared.pause_in_epoch(pause, epoch);
    }
}

/// Sends the newest report until the bridge is stopped.
pub fn send_reports(shared: &BridgeShared, central: &Central, hostname: &str, key: &str) {
    let mut logged: Option<String> = None;
    while let Some(report) = shared.wait_for_report() {
        match central.report(key, &report) {
            Ok(()) => logged = None,
            Err(fault) => {
                let text = fault.to_string();
                if logged.as_ref() != Some(&text) {
                    warn!(hostname, "cannot report to Weir: {text}");
                    logged = Some(text);
                }
            }
        }
    }
}
