//! The connector: this server queries its streamers, as they report to it.
//!
//! Each io core queries its share of the streamers: those with an `api_url`, of the kind
//! `flussonic`, which do not report themselves. What they answer is stored as a report
//! (`api::stats`), so that stats, health, events and the layouter see no difference. An answer is a
//! sign of life; a failed query is none, and takes none away: a streamer that polls its
//! configuration is alive whatever its own API does.
//!
//! Reading order: `history` decides when a streamer is queried and what failures mean, `room` how
//! many queries run at the same time, `query` makes one query, this file runs them; `provision`
//! decides what is written to streamers, and `provisioner` writes it; `gap_filler` reads recordings
//! of times that this server did not see. One task per core starts
//! queries and ends those that are late; a query is a task while it runs; between queries a
//! streamer costs an entry and its open connection.

mod gap_filler;
mod history;
mod provision;
mod provisioner;
mod query;
mod room;

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tracing::{debug, info, warn};
use xxhash_rust::xxh3::xxh3_64;

use self::gap_filler::FillHistory;
use self::history::{QueryChange, QueryHistory, QuerySettings};
use self::provision::ProvisionHistory;
use self::provisioner::ProvisionSettings;
use self::query::{QueryAnswer, QueryError, StreamerQuery};
use self::room::QueryRoom;
use crate::api::now_ms;
use crate::api::shared::Shared;
use crate::api::stats::store;
use crate::config::Settings;
use crate::fleet::healthcheck::FailedQuery;
use crate::fleet::peer;
use crate::fleet::queries::QueryOutcome;
use crate::fleet::report::ReportSource;
use crate::json::{Number, scan};
use crate::outbound::connection::{CallContext, PeerConnection};
use crate::outbound::{Dialer, OutboundError};
use crate::rt::{self, uptime_ms};
use crate::state::State;
use crate::state::entity::Entities;
use crate::state::name::Hostname;
use crate::state::pull::is_queried;
use crate::state::record::StreamerRecord;

/// How often due queries and overdue ones are looked for.
const TICK: Duration = Duration::from_millis(50);
/// How often the setting is looked at while nothing is queried.
const IDLE_TICK: Duration = Duration::from_millis(500);
/// A later tick means that this process did not run.
const LATE_MS_MIN: u64 = 1_000;
/// Queries that are started before other tasks of the core run.
const STARTS_IN_A_ROW: usize = 16;
/// A query for which there is no room is due again after this.
const BUSY_PAUSE_MS: u64 = 1_000;
/// How often the storages of a streamer are looked for in its configuration.
const DVRS_PAUSE_MS: u64 = 300_000;
/// A report with more streams is stored by another thread.
const STORED_HERE_MAX: usize = 1_000;

type Streamers = OrdMap<Hostname, StreamerRecord>;

/// The queries of one core.
pub struct Connector {
    core: usize,
    shared: Arc<Shared>,
    context: CallContext,
    streamers: RefCell<HashMap<Hostname, QueriedStreamer>>,
    /// Entries whose time differs from that of the streamer are outdated.
    due: RefCell<BinaryHeap<Reverse<(u64, Hostname)>>>,
    /// Of streamers that were begun with, and of queries.
    numbers: Cell<u64>,
    room: QueryRoom,
    /// `None` while streamers are not provisioned.
    provision: RefCell<Option<Rc<ProvisionSettings>>>,
    /// The authorization backends, and as a member of configurations that are written.
    auth_backends: RefCell<(Entities, Option<Rc<str>>)>,
    /// Configurations that are being compared.
    comparisons: Cell<usize>,
    /// Streamers whose recordings are being read.
    fills: Cell<usize>,
}

struct QueriedStreamer {
    /// Unique per core.
    number: u64,
    due_ms: u64,
    /// The number of the query that runs.
    running: Option<u64>,
    history: QueryHistory,
    connection: Option<PeerConnection>,
    /// When its storages are read again.
    dvrs_due_ms: u64,
    /// It has answered at its address.
    is_answered: bool,
    provision: ProvisionHistory,
    /// Its configuration is being compared.
    is_compared: bool,
    fill: FillHistory,
}

/// What a query was started with.
struct StartedQuery {
    /// Unique per core.
    number: u64,
    at_ms: u64,
    streamer: StreamerRecord,
    settings: QuerySettings,
    interval_ms: u64,
    was_failing: bool,
    with_dvrs: bool,
}

impl StartedQuery {
    /// Whether its result is still about the streamer, and newer than what that reported itself.
    fn wanted(
        &self,
        shared: &Arc<Shared>,
        hostname: &Hostname,
    ) -> impl Fn() -> bool + Send + 'static {
        let (shared, hostname) = (shared.clone(), hostname.clone());
        let (streamer, at_ms) = (self.streamer.clone(), self.at_ms);
        move || {
            let state = shared.published.state().load_full();
            let current = state.streamer(&hostname);
            let node = shared.nodes.find(&hostname);
            let reported_ms = node.and_then(|node| node.activity.last_reported_ms());
            current.is_some_and(|current| is_same(&streamer, current))
                && reported_ms.is_none_or(|reported_ms| reported_ms < at_ms)
        }
    }
}

impl Connector {
    /// `connections_max`: connections of queries, and between them.
    pub fn new(
        core: usize,
        shared: Arc<Shared>,
        dialer: Arc<Dialer>,
        connections_max: usize,
    ) -> Rc<Self> {
        Rc::new(Self {
            core,
            shared,
            context: CallContext::new(dialer),
            streamers: RefCell::default(),
            due: RefCell::default(),
            numbers: Cell::new(0),
            room: QueryRoom::new(connections_max),
            provision: RefCell::default(),
            auth_backends: RefCell::default(),
            comparisons: Cell::new(0),
            fills: Cell::new(0),
        })
    }

    /// Queries streamers until the process stops.
    pub async fn run(self: Rc<Self>) {
        let mut known = Streamers::new();
        let (mut ticked_ms, mut tick) = (uptime_ms(), IDLE_TICK);
        let mut provisioned = false;
        while !self.shared.draining.load(Ordering::Acquire) {
            rt::sleep(tick).await;
            let now_ms = uptime_ms();
            let late_ms = (now_ms - ticked_ms).saturating_sub(tick.as_millis() as u64);
            if late_ms >= LATE_MS_MIN {
                // The answers may have arrived meanwhile.
                self.context.deadlines.extend(late_ms);
            }
            ticked_ms = now_ms;
            self.context.deadlines.end_overdue(now_ms);
            let config = self.shared.settings.running.config();
            let state = self.shared.published.state().load_full();
            let wanted = if config.settings.fleet.queries {
                state.streamers().clone()
            } else {
                Streamers::new()
            };
            if !wanted.ptr_eq(&known) {
                self.follow(&known, &wanted, now_ms);
                known = wanted;
            }
            let provision = ProvisionSettings::of(&config.settings).map(Rc::new);
            if std::mem::replace(&mut provisioned, provision.is_some()) && !provisioned {
                self.stop_provisioning();
            }
            *self.provision.borrow_mut() = provision;
            self.start_due(now_ms, query_settings(&config.settings), &state)
                .await;
            let is_idle = known.is_empty() && self.context.deadlines.count() == 0;
            tick = if is_idle { IDLE_TICK } else { TICK };
        }
    }

    /// Takes over changes of streamers.
    fn follow(&self, before: &Streamers, now: &Streamers, now_ms: u64) {
        for change in before.diff(now) {
            match change {
                DiffItem::Remove(hostname, _) => self.remove(hostname),
                DiffItem::Add(hostname, streamer) => self.replace(hostname, streamer, now_ms),
                DiffItem::Update { old, new } if is_same(old.1, new.1) => {
                    self.on_same(new.0, old.1, new.1, now_ms);
                }
                DiffItem::Update { new, .. } => self.replace(new.0, new.1, now_ms),
            }
        }
    }

    fn next_number(&self) -> u64 {
        self.numbers.replace(self.numbers.get() + 1)
    }

    fn is_mine(&self, hostname: &Hostname) -> bool {
        let cores = self.shared.cores.len().max(1) as u64;
        xxh3_64(hostname.as_bytes()) % cores == self.core as u64
    }

    /// Begins with a streamer, or again if it is another machine now.
    fn replace(&self, hostname: &Hostname, streamer: &StreamerRecord, now_ms: u64) {
        self.remove(hostname);
        if !self.is_mine(hostname) || !is_queried(streamer) {
            return;
        }
        self.shared.workers.queries.streamers.add(1);
        let due_ms = first_due_ms(streamer, now_ms);
        let new = QueriedStreamer {
            number: self.next_number(),
            due_ms,
            running: None,
            history: QueryHistory::new(now_ms),
            connection: None,
            dvrs_due_ms: 0,
            is_answered: false,
            provision: ProvisionHistory::default(),
            is_compared: false,
            fill: FillHistory::default(),
        };
        self.streamers.borrow_mut().insert(hostname.clone(), new);
        self.push_due(due_ms, hostname.clone());
    }

    /// Applies a change that no request depends on: another interval at once, and a streamer that
    /// does not answer is tried again soon. It may also have been deleted and saved again.
    fn on_same(
        &self,
        hostname: &Hostname,
        before: &StreamerRecord,
        now: &StreamerRecord,
        now_ms: u64,
    ) {
        let mut streamers = self.streamers.borrow_mut();
        let Some(known) = streamers.get_mut(hostname) else {
            return;
        };
        known.provision.on_change();
        let is_at_once =
            known.history.is_failing() || fetch_timeout_ms(before) != fetch_timeout_ms(now);
        if !is_at_once || known.running.is_some() {
            return;
        }
        let due_ms = first_due_ms(now, now_ms);
        if due_ms < known.due_ms {
            known.due_ms = due_ms;
            self.push_due(due_ms, hostname.clone());
        }
    }

    fn remove(&self, hostname: &Hostname) {
        let Some(old) = self.streamers.borrow_mut().remove(hostname) else {
            return;
        };
        self.shared.workers.queries.streamers.subtract(1);
        self.room.close(old.connection.is_some());
        if old.history.is_silent() {
            self.shared.workers.queries.silent.subtract(1);
        }
        self.show(hostname, None);
    }

    fn push_due(&self, due_ms: u64, hostname: Hostname) {
        self.due.borrow_mut().push(Reverse((due_ms, hostname)));
    }

    /// Starts the queries that are due, as far as there is room.
    async fn start_due(self: &Rc<Self>, now_ms: u64, settings: QuerySettings, state: &State) {
        let mut started = 0;
        while self.room.has_room()
            && let Some(hostname) = self.next_due(now_ms)
        {
            if let Some(streamer) = state.streamer(&hostname) {
                started += usize::from(self.start(hostname, streamer, settings, now_ms));
            }
            if started == STARTS_IN_A_ROW {
                started = 0;
                rt::yield_now().await;
            }
        }
    }

    /// Takes the streamer whose query is due first.
    fn next_due(&self, now_ms: u64) -> Option<Hostname> {
        let mut due = self.due.borrow_mut();
        let streamers = self.streamers.borrow();
        while due
            .peek()
            .is_some_and(|Reverse((at_ms, _))| *at_ms <= now_ms)
        {
            let Reverse((at_ms, hostname)) = due.pop()?;
            let known = streamers.get(&hostname);
            if known.is_some_and(|it| it.due_ms == at_ms && it.running.is_none()) {
                return Some(hostname);
            }
        }
        None
    }

    /// Starts a query, unless it is not needed or has no room. Then it is due again later.
    fn start(
        self: &Rc<Self>,
        hostname: Hostname,
        streamer: &StreamerRecord,
        settings: QuerySettings,
        now_ms: u64,
    ) -> bool {
        let interval_ms = settings.interval_ms(Some(fetch_timeout_ms(streamer)));
        let mut streamers = self.streamers.borrow_mut();
        let Some(known) = streamers.get_mut(&hostname) else {
            return false;
        };
        let was_failing = known.history.is_failing();
        let reports_itself = self.reports_itself(&hostname, now_ms, &settings);
        let later_ms = if reports_itself {
            if known.history.on_own_report() {
                self.shared.workers.queries.silent.subtract(1);
            }
            Some(interval_ms)
        } else if was_failing && !self.room.has_room_for_failing() {
            Some(BUSY_PAUSE_MS.min(interval_ms))
        } else {
            None
        };
        if let Some(later_ms) = later_ms {
            known.due_ms = now_ms + later_ms;
            self.push_due(known.due_ms, hostname.clone());
            drop(streamers);
            if reports_itself {
                self.start_filling(&hostname, settings);
            }
            return false;
        }
        let number = self.next_number();
        known.running = Some(number);
        let started = StartedQuery {
            number,
            at_ms: uptime_ms(),
            streamer: streamer.clone(),
            settings,
            interval_ms,
            was_failing,
            // It may have been replaced meanwhile.
            with_dvrs: was_failing || known.dvrs_due_ms <= now_ms,
        };
        let connection = known.connection.take();
        self.room.start(was_failing, connection.is_some());
        self.shared.workers.queries.running.add(1);
        rt::spawn(self.clone().query(hostname, started, connection));
        true
    }

    /// Whether a streamer has sent a report within half a dead timeout.
    fn reports_itself(&self, hostname: &Hostname, now_ms: u64, settings: &QuerySettings) -> bool {
        let node = self.shared.nodes.find(hostname);
        let reported_ms = node.and_then(|node| node.activity.last_reported_ms());
        reported_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < settings.dead_timeout_ms / 2)
    }

    async fn query(
        self: Rc<Self>,
        hostname: Hostname,
        started: StartedQuery,
        connection: Option<PeerConnection>,
    ) {
        let until_ms = started.at_ms + started.interval_ms;
        let mut query = StreamerQuery {
            context: &self.context,
            shared: &self.shared,
            streamer: &started.streamer,
            deadline: self.context.deadlines.begin(until_ms),
            retries: started.settings.retries,
            connection,
        };
        let result = query.run(started.with_dvrs).await;
        let connection = query.connection.take();
        drop(query);
        self.room.end(started.was_failing);
        self.shared.workers.queries.running.subtract(1);
        let is_answered = result.is_ok();
        self.finish(hostname.clone(), &started, connection, result);
        if !is_answered {
            return;
        }
        self.start_filling(&hostname, started.settings);
        let provision = self.provision.borrow().clone();
        if let Some(settings) = provision {
            self.start_provisioning(&hostname, &settings);
        }
    }

    /// Uses the result of a query, unless the streamer was changed meanwhile, then it may be of
    /// another machine, or reported itself, then it is older.
    fn finish(
        &self,
        hostname: Hostname,
        started: &StartedQuery,
        connection: Option<PeerConnection>,
        result: Result<QueryAnswer, QueryError>,
    ) {
        let now_ms = uptime_ms();
        let mut streamers = self.streamers.borrow_mut();
        let is_this = |it: &&mut QueriedStreamer| it.running == Some(started.number);
        let Some(known) = streamers.get_mut(&hostname).filter(is_this) else {
            return;
        };
        known.running = None;
        let is_wanted = started.wanted(&self.shared, &hostname);
        if !is_wanted() {
            // It may be the same machine again by the time this core looks.
            known.due_ms = first_due_ms(&started.streamer, now_ms);
            self.push_due(known.due_ms, hostname);
            return;
        }
        known.connection = connection.filter(|_| self.room.keep());
        let mut busy_until_ms = None;
        match result {
            Ok(answer) => {
                let change = known.history.on_answer(answer.received_ms);
                self.log_change(&hostname, change, None);
                known.is_answered = true;
                if started.with_dvrs {
                    known.dvrs_due_ms = now_ms + DVRS_PAUSE_MS;
                }
                let failed = known.history.too_many_failures(now_ms, &started.settings);
                self.store(&hostname, answer, failed.unwrap_or(0), is_wanted);
            }
            Err(QueryError::Call(OutboundError::Busy)) => {
                self.shared.workers.queries.count(QueryOutcome::Busy);
                busy_until_ms = Some(now_ms + BUSY_PAUSE_MS.min(started.interval_ms));
            }
            Err(error) => self.on_failure(&hostname, known, started, error),
        }
        let (settings, history) = (&started.settings, &known.history);
        let pause_ms = history.pause_ms(started.interval_ms, now_ms, settings, random());
        known.due_ms = busy_until_ms.unwrap_or(now_ms.max(started.at_ms + pause_ms));
        self.push_due(known.due_ms, hostname);
    }

    fn store(
        &self,
        hostname: &Hostname,
        answer: QueryAnswer,
        failed: usize,
        is_wanted: impl FnOnce() -> bool + Send + 'static,
    ) {
        let outcome = match answer.streams_error {
            None => QueryOutcome::Answered,
            Some(error) => {
                let reason = error.outcome().as_str();
                debug!(%hostname, reason, "the streams of a streamer could not be queried");
                QueryOutcome::Partial
            }
        };
        self.shared.workers.queries.count(outcome);
        let node = self.shared.nodes.get(hostname);
        node.activity.seen(answer.received_ms);
        let source = ReportSource {
            has_own_key: answer.has_key,
            failed_queries: failed,
        };
        let (report, received) = (answer.report, answer.received);
        let (is_short, bytes) = (
            report.streams_count() <= STORED_HERE_MAX,
            report.streams_bytes(),
        );
        let (shared, hostname) = (self.shared.clone(), hostname.clone());
        let job = move || {
            let state = shared.published.state().load_full();
            store(
                &shared, &state, &hostname, report, source, received, is_wanted,
            );
        };
        if is_short {
            job();
        } else if self.shared.workers.offload.run(bytes, job).is_err() {
            debug!("no room to store an answer; the next one replaces it");
        }
    }

    fn on_failure(
        &self,
        hostname: &Hostname,
        known: &mut QueriedStreamer,
        started: &StartedQuery,
        error: QueryError,
    ) {
        let now_at_ms = uptime_ms();
        self.shared.workers.queries.count(error.outcome());
        let change = known.history.on_failure(now_at_ms, &started.settings);
        self.log_change(hostname, change, Some(error));
        // The stats of another address, or that it sent, are not about this one.
        if !known.is_answered {
            return;
        }
        let too_many = known
            .history
            .too_many_failures(now_at_ms, &started.settings);
        let has_key = peer::key_destination(&started.streamer).is_some();
        let failed = FailedQuery {
            key_refused: has_key && matches!(error, QueryError::Status(401 | 403)),
            is_unhealthy: too_many.is_some(),
            utc_ms: now_ms(),
        };
        let is_wanted = started.wanted(&self.shared, hostname);
        if self.shared.fleet.query_failed(hostname, failed, is_wanted) {
            self.shared.reported();
        }
    }

    fn log_change(
        &self,
        hostname: &Hostname,
        change: Option<QueryChange>,
        error: Option<QueryError>,
    ) {
        let silent = &self.shared.workers.queries.silent;
        let reason = error.map_or("", |error| error.outcome().as_str());
        match change {
            None => {}
            Some(QueryChange::Silent) => {
                silent.add(1);
                warn!(%hostname, reason, "streamer does not answer queries");
            }
            Some(QueryChange::Answers) => {
                silent.subtract(1);
                info!(%hostname, "streamer answers queries again");
            }
        }
    }
}

/// Another number each time.
fn random() -> u64 {
    getrandom::u64().unwrap_or_default()
}

fn query_settings(settings: &Settings) -> QuerySettings {
    let threshold = settings.fleet.healthcheck_fails_threshold;
    QuerySettings {
        retries: settings.fleet.connector_retries,
        fails_threshold: usize::try_from(threshold).unwrap_or(usize::MAX),
        dead_timeout_ms: settings.layouter.dead_timeout.as_millis() as u64,
    }
}

/// Whether a change of a streamer leaves its queries as they are.
fn is_same(before: &StreamerRecord, now: &StreamerRecord) -> bool {
    is_queried(before) == is_queried(now) && peer::is_same_peer(before, now)
}

/// The time of the first query: within an interval, so that streamers which were saved together
/// spread.
fn first_due_ms(streamer: &StreamerRecord, now_ms: u64) -> u64 {
    now_ms + random() % history::INTERVAL_MS.min(fetch_timeout_ms(streamer))
}

fn fetch_timeout_ms(streamer: &StreamerRecord) -> u64 {
    match scan::member(&streamer.config, "fetch_timeout").and_then(scan::number) {
        Some(Number::Unsigned(ms)) => ms.max(1),
        _ => history::INTERVAL_MS,
    }
}
