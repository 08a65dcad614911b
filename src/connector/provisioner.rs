//! Runs provisioning: compares the configurations of streamers that answer, and writes them.
//!
//! A comparison is a task beside the queries of its streamer, with a connection and a deadline of
//! its own, so that a slow one delays no sign of life.

use std::rc::Rc;

use tracing::{info, warn};

use super::provision::{ProvisionHistory, ProvisionStep, WantedConfig, auth_backends};
use super::query::{QueryError, StreamerQuery};
use super::{Connector, QueriedStreamer};
use crate::api::now_ms;
use crate::config::Settings;
use crate::feed::nodes::Provisioning;
use crate::fleet::queries::ProvisionOutcome;
use crate::rt::{self, uptime_ms};
use crate::state::State;
use crate::state::entity::Kind;
use crate::state::name::Hostname;
use crate::state::record::StreamerRecord;

/// Longest comparison with its write.
const WITHIN_MS: u64 = 10_000;
/// Comparisons of one core at the same time. Half of them may be of streamers whose last one
/// failed, so that silent ones do not delay the others.
const COMPARISONS_MAX: usize = 64;

/// How streamers are provisioned.
pub struct ProvisionSettings {
    api_url: Option<String>,
    interval_ms: u64,
    retries: u64,
}

impl ProvisionSettings {
    /// `None` while streamers are not provisioned.
    pub fn of(settings: &Settings) -> Option<Self> {
        settings.fleet.provision_enabled.then(|| Self {
            api_url: settings.http.api_url.clone(),
            interval_ms: settings.fleet.reconciliation_interval.as_millis() as u64,
            retries: settings.fleet.connector_retries,
        })
    }
}

/// One comparison.
struct ProvisionTask {
    hostname: Hostname,
    /// The entry of the streamer that it was started for.
    entry: u64,
    streamer: StreamerRecord,
    wanted: WantedConfig,
    history: ProvisionHistory,
    settings: Rc<ProvisionSettings>,
}

impl ProvisionTask {
    /// Returns what was done, and what the streamer shows after that.
    async fn run(&self, query: &mut StreamerQuery<'_>) -> Result<(ProvisionStep, u64), QueryError> {
        let shown = self.shown(query).await?;
        let step = self.history.step(&self.wanted, shown);
        if step == ProvisionStep::Nothing {
            return Ok((step, shown));
        }
        query.write_config(&self.wanted.body).await?;
        Ok((step, self.shown(query).await?))
    }

    async fn shown(&self, query: &mut StreamerQuery<'_>) -> Result<u64, QueryError> {
        let config = query.config().await?;
        let (bytes, wanted) = (config.len(), self.wanted.clone());
        let hash = query.read(bytes, move || wanted.shown_hash(&config));
        hash.await?.ok_or(QueryError::BadAnswer)
    }
}

impl Connector {
    /// Compares the configuration of a streamer that has just answered, if it is time.
    pub(super) fn start_provisioning(
        self: &Rc<Self>,
        hostname: &Hostname,
        settings: &Rc<ProvisionSettings>,
    ) {
        let mut streamers = self.streamers.borrow_mut();
        let Some(known) = streamers.get_mut(hostname) else {
            return;
        };
        let is_due = !known.is_compared && known.provision.is_due(uptime_ms());
        let comparisons_max = if known.provision.is_failing() {
            COMPARISONS_MAX / 2
        } else {
            COMPARISONS_MAX
        };
        if !is_due || self.comparisons.get() >= comparisons_max || !self.room.has_room() {
            return;
        }
        let state = self.shared.published.state().load_full();
        let Some(streamer) = state.streamer(hostname) else {
            return;
        };
        let auth_backends = self.auth_backends(&state);
        let api_url = settings.api_url.as_deref();
        let Some(wanted) = WantedConfig::of(streamer, auth_backends.as_deref(), api_url) else {
            known.provision = ProvisionHistory::default();
            self.show(hostname, None);
            return;
        };
        if wanted.is_too_long() {
            self.fail(hostname, known, settings, "too_long");
            return;
        }
        known.is_compared = true;
        self.comparisons.set(self.comparisons.get() + 1);
        self.room.start(false, false);
        rt::spawn(self.clone().provision(ProvisionTask {
            hostname: hostname.clone(),
            entry: known.number,
            streamer: streamer.clone(),
            wanted,
            history: known.provision.clone(),
            settings: settings.clone(),
        }));
    }

    /// The authorization backends as a member of a configuration, made once per change of them.
    fn auth_backends(&self, state: &State) -> Option<Rc<str>> {
        let all = state.entities(Kind::AuthBackend);
        let mut kept = self.auth_backends.borrow_mut();
        if !kept.0.by_key().ptr_eq(all.by_key()) {
            *kept = (all.clone(), auth_backends(all).map(Rc::from));
        }
        kept.1.clone()
    }

    async fn provision(self: Rc<Self>, task: ProvisionTask) {
        let mut query = StreamerQuery {
            context: &self.context,
            shared: &self.shared,
            streamer: &task.streamer,
            deadline: self.context.deadlines.begin(uptime_ms() + WITHIN_MS),
            retries: task.settings.retries,
            connection: None,
        };
        let result = task.run(&mut query).await;
        drop(query);
        self.room.end(false);
        self.comparisons.set(self.comparisons.get() - 1);
        self.finish_provisioning(&task, result);
    }

    fn finish_provisioning(
        &self,
        task: &ProvisionTask,
        result: Result<(ProvisionStep, u64), QueryError>,
    ) {
        let mut streamers = self.streamers.borrow_mut();
        let is_this = |it: &&mut QueriedStreamer| it.number == task.entry;
        let Some(known) = streamers.get_mut(&task.hostname).filter(is_this) else {
            return;
        };
        known.is_compared = false;
        if self.provision.borrow().is_none() {
            return;
        }
        let (now, interval_ms) = (uptime_ms(), task.settings.interval_ms);
        let hostname = &task.hostname;
        let (step, hash) = match result {
            Ok(done) => done,
            Err(error) => {
                let reason = error.outcome().as_str();
                self.fail(hostname, known, &task.settings, reason);
                return;
            }
        };
        known
            .provision
            .on_success(step, &task.wanted, hash, now, interval_ms);
        self.shared.workers.queries.count_provision(match step {
            ProvisionStep::Nothing => ProvisionOutcome::Unchanged,
            ProvisionStep::Write => ProvisionOutcome::Written,
            ProvisionStep::WriteAgain => ProvisionOutcome::Drifted,
        });
        let mut shown = self.shown(hostname);
        shown.error = None;
        if step != ProvisionStep::Nothing {
            shown.written_at = Some(now_ms());
            info!(%hostname, "streamer configuration written");
        }
        if step == ProvisionStep::WriteAgain {
            shown.drifted_at = shown.written_at;
            warn!(%hostname, "streamer configuration had drifted");
        }
        self.show(hostname, Some(shown));
    }

    fn fail(
        &self,
        hostname: &Hostname,
        known: &mut QueriedStreamer,
        settings: &ProvisionSettings,
        reason: &'static str,
    ) {
        known
            .provision
            .on_failure(uptime_ms(), settings.interval_ms);
        let queries = &self.shared.workers.queries;
        queries.count_provision(ProvisionOutcome::Failed);
        let mut shown = self.shown(hostname);
        if shown.error != Some(reason) {
            warn!(%hostname, reason, "streamer configuration not written");
        }
        shown.error = Some(reason);
        self.show(hostname, Some(shown));
    }

    fn shown(&self, hostname: &Hostname) -> Provisioning {
        let node = self.shared.nodes.find(hostname);
        node.and_then(|node| node.provisioning())
            .unwrap_or_default()
    }

    /// Shows the provisioning of a streamer, and wakes the polls that may wait for it.
    pub(super) fn show(&self, hostname: &Hostname, shown: Option<Provisioning>) {
        let node = match shown {
            Some(_) => Some(self.shared.nodes.get(hostname)),
            None => self.shared.nodes.find(hostname),
        };
        if let Some(node) = node.filter(|node| node.provisioning() != shown) {
            node.set_provisioning(shown);
            self.shared.reported();
        }
    }

    /// Forgets what was written, because streamers are not provisioned any more.
    pub(super) fn stop_provisioning(&self) {
        for (hostname, known) in self.streamers.borrow_mut().iter_mut() {
            known.provision = ProvisionHistory::default();
            self.show(hostname, None);
        }
    }
}
