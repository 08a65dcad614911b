//! The thread that owns the media server: it makes it follow the list, measures it, and keeps the
//! file. All calls of one server but the looks of the watcher are made here, one at a time.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::{info, warn};

use super::caller::CallFault;
use super::desired::{Wanted, has_recordings};
use super::kept::{KeptFile, KeptRef};
use super::kind::{ListedStream, MediaServer, ServerNeeds, ServerRules, StreamCall};
use super::liveness::{LifeSign, ServerLife};
use super::plan::{CallEnd, CallPlan, Planner, ServerList, SourceFault};
use super::prober::MediaPort;
use super::report::{ConfigStatus, Meter, ReportInput, report};
use super::shared::BridgeShared;
use super::usage::UsageMeter;
use super::watcher::{ApiLook, LifeBook};

/// Pause between rounds.
const ROUND_EVERY: Duration = Duration::from_millis(500);
/// Streams up to which the server is listed in every round and measured every second.
const FEW_STREAMS: usize = 500;
/// Pauses between lists and reports of servers with more streams.
const SLOW_EVERY: Duration = Duration::from_secs(5);
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Longest time for which results of calls are not on disk.
const SAVE_AFTER: Duration = Duration::from_secs(2);
/// Longest time for a connection to the media port.
const MEDIA_WITHIN: Duration = Duration::from_secs(1);

/// The server and what is known of it without a call.
pub struct ServerHandle {
    pub server: Box<dyn MediaServer>,
    pub rules: Arc<dyn ServerRules>,
    pub media: MediaPort,
    /// For the watcher.
    pub api_look: Option<ApiLook>,
}

/// What the file holds besides lists.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    pub hostname: Box<str>,
    /// The key that the bridge made; not one that it was given.
    pub made_key: Option<String>,
    pub has_joined: bool,
    /// Where the hook of the server is answered.
    pub hook_port: Option<u16>,
}

pub struct Worker {
    handle: ServerHandle,
    shared: Arc<BridgeShared>,
    book: Arc<LifeBook>,
    file: KeptFile,
    identity: Identity,
    planner: Planner,
    life: ServerLife,
    meter: Meter,
    usage: UsageMeter,
    wanted: Option<Arc<Wanted>>,
    serial: u64,
    list: Option<ServerList>,
    times: WorkerTimes,
}

#[derive(Debug, Default)]
struct WorkerTimes {
    run: Option<Box<str>>,
    /// How often the server has died.
    deaths: u64,
    /// What the configuration of the server lacks was looked up in this life of it, and what was
    /// found the last time.
    is_checked: bool,
    missing: Vec<Box<str>>,
    listed_at: Option<Instant>,
    list_serial: u64,
    reported_at: Option<Instant>,
    unsaved_since: Option<Instant>,
    /// The last failure of each kind that was logged.
    logged: Option<String>,
}

impl Worker {
    pub fn new(
        handle: ServerHandle,
        book: Arc<LifeBook>,
        file: KeptFile,
        identity: Identity,
        planner: Planner,
    ) -> Self {
        Self {
            handle,
            shared: book.shared.clone(),
            book,
            file,
            identity,
            planner,
            life: ServerLife::Down,
            meter: Meter::default(),
            usage: UsageMeter::default(),
            wanted: None,
            serial: 0,
            list: None,
            times: WorkerTimes::default(),
        }
    }

    /// Works until the bridge is stopped. Streams are left as they are.
    pub fn run(mut self) {
        while !self.shared.is_stopping() {
            let begun = Instant::now();
            self.round();
            let is_open = self.shared.is_open();
            self.shared
                .wait_for_news(begun + ROUND_EVERY, self.serial, is_open);
        }
        if self.planner.is_unrecorded() {
            self.save();
        }
    }

    /// One look, one reconciliation, and a report if one is due.
    pub fn round(&mut self) {
        self.watch();
        if self.life == ServerLife::Down {
            return;
        }
        self.take_news();
        if self.life == ServerLife::Up
            && self.shared.is_open()
            && let Err(fault) = self.reconcile()
        {
            self.log_fault("cannot configure the media server", &fault);
        }
        // It may have died while calls waited for it.
        if self.shared.life().0 != ServerLife::Down {
            self.report();
            self.check();
        }
    }

    /// Logs what the configuration of the server lacks, once, and again if that changed while it
    /// was away.
    fn check(&mut self) {
        let is_due = self.life == ServerLife::Up && self.wanted.is_some();
        if self.times.is_checked || !is_due {
            return;
        }
        self.times.is_checked = true;
        let needs = ServerNeeds {
            hook_port: self.identity.hook_port,
            recordings: self.wanted.as_deref().is_some_and(has_recordings),
        };
        let hostname = &*self.identity.hostname;
        match self.handle.server.missing(needs) {
            Ok(missing) => {
                if missing != self.times.missing {
                    for text in &missing {
                        warn!(hostname, "the media server lacks {text}");
                    }
                }
                self.times.missing = missing;
            }
            Err(fault) => {
                warn!(
                    hostname,
                    "cannot check the media server's configuration: {fault}"
                );
            }
        }
    }

    /// Calls the server once, and takes over what is known of its life.
    fn watch(&mut self) {
        let probed = self.handle.server.probe();
        self.note_answer(&probed);
        let (life, deaths) = self.shared.life();
        self.life = life;
        if deaths != self.times.deaths {
            self.times.deaths = deaths;
            self.times.is_checked = false;
            self.meter.reset();
            self.list = None;
        }
        if let Ok(run) = probed
            && run != self.times.run
        {
            self.times.run = run;
            self.list = None;
        }
    }

    /// Takes the result of a call as a sign of life. Whether the media port answers is looked up
    /// only if the API does not.
    fn note_answer<T>(&self, result: &Result<T, CallFault>) -> LifeSign {
        let sign = if result.is_ok() {
            LifeSign::Api
        } else if self.handle.media.answers(MEDIA_WITHIN) {
            LifeSign::MediaWithoutApi
        } else {
            LifeSign::Silence
        };
        self.book.see(sign);
        sign
    }

    fn take_news(&mut self) {
        let now = Instant::now();
        let news = self.shared.news();
        if news.answered_at.is_some() {
            self.planner.weir_answered(news.answered_at.unwrap_or(now));
        }
        if news.serial != self.serial {
            self.serial = news.serial;
            self.identity.has_joined = news.has_joined;
            let is_other = match (&self.wanted, &news.wanted) {
                (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
                (old, new) => old.is_some() != new.is_some(),
            };
            self.wanted = news.wanted;
            self.save();
            if let Some(wanted) = self.wanted.as_deref().filter(|_| is_other) {
                self.planner.set_wanted(wanted);
            }
        }
        for ((native, url), accepts) in self.shared.take_probed() {
            self.planner.probed(now, &native, &url, accepts);
        }
        self.shared.put_probes(self.planner.probes(now));
    }

    // ---- following the list -------------------------------------------------------------------

    fn reconcile(&mut self) -> Result<(), CallFault> {
        if self.wanted.is_none() {
            return Ok(());
        }
        self.refresh_list()?;
        let list = self.list.as_ref().expect("refreshed above");
        let plan = self.planner.plan(Instant::now(), list);
        if self.planner.record(&plan) && !self.save() {
            // What is not recorded as ours must not be made.
            return Ok(());
        }
        let done = self.make_calls(&plan);
        let flushed = self.handle.server.flush();
        if self.planner.is_unrecorded() {
            let since = self.times.unsaved_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= SAVE_AFTER {
                self.save();
            }
        }
        if done.is_err() || flushed.is_err() {
            self.list = None;
        }
        done.and(flushed)?;
        self.times.logged = None;
        Ok(())
    }

    /// Lists the server if the last list is too old.
    fn refresh_list(&mut self) -> Result<(), CallFault> {
        let pause = if self.planner.owned().len() <= FEW_STREAMS {
            ROUND_EVERY / 2
        } else {
            SLOW_EVERY
        };
        let is_fresh = |at: Instant| at.elapsed() < pause;
        if self.list.is_some() && self.times.listed_at.is_some_and(is_fresh) {
            return Ok(());
        }
        self.list = None;
        let streams = self.handle.server.list()?;
        self.times.list_serial += 1;
        self.times.listed_at = Some(Instant::now());
        self.list = Some(ServerList {
            serial: self.times.list_serial,
            run: self.times.run.clone(),
            streams,
        });
        Ok(())
    }

    /// Makes the calls of a plan, until there is news.
    fn make_calls(&mut self, plan: &CallPlan) -> Result<(), CallFault> {
        for call in &plan.calls {
            if self.shared.has_news(self.serial) {
                break;
            }
            self.planner.begin(Instant::now(), call);
            let result = self.handle.server.apply(call);
            let hostname = &*self.identity.hostname;
            match &result {
                Ok(()) => info!(hostname, "{call}"),
                Err(fault) => warn!(hostname, "cannot {call}: {fault}"),
            }
            self.note_in_list(call, result.is_ok());
            let end = call_end(&result);
            self.planner.end(Instant::now(), call, end);
            if let Err(fault @ CallFault::Unreachable(_)) = result {
                return Err(fault);
            }
        }
        Ok(())
    }

    /// The list as it is after a call.
    fn note_in_list(&mut self, call: &StreamCall, is_done: bool) {
        let Some(list) = self.list.as_mut().filter(|_| is_done) else {
            return;
        };
        match call {
            StreamCall::Put { native, source, .. } => {
                let known = list.streams.entry(native.clone()).or_default();
                let source = known.source.is_some().then(|| source.clone());
                *known = ListedStream {
                    source,
                    is_idle: false,
                };
            }
            StreamCall::Remove { native } => drop(list.streams.remove(native)),
        }
    }

    /// Writes the file; whether that worked.
    fn save(&mut self) -> bool {
        let kept = KeptRef {
            key: self.identity.made_key.as_deref(),
            has_joined: self.identity.has_joined,
            wanted: self.wanted.as_deref(),
            owned: self.planner.owned(),
        };
        let written = self.file.write(&kept);
        match written {
            Ok(()) => {
                self.planner.recorded();
                self.times.unsaved_since = None;
                true
            }
            Err(error) => {
                let hostname = &*self.identity.hostname;
                warn!(hostname, "cannot write the state of the bridge: {error}");
                false
            }
        }
    }

    // ---- measuring ----------------------------------------------------------------------------

    fn report(&mut self) {
        let now = Instant::now();
        let count = self.wanted.as_ref().map_or(0, |wanted| wanted.len());
        let pause = if count <= FEW_STREAMS {
            REPORT_EVERY
        } else {
            SLOW_EVERY
        };
        let is_recent = |at: Instant| now.duration_since(at) + ROUND_EVERY / 4 < pause;
        if self.times.reported_at.is_some_and(is_recent) {
            return;
        }
        self.times.reported_at = Some(now);
        let mut config = self.shared.config().unwrap_or(ConfigStatus::Loaded);
        let measured = self.measure();
        let is_measured = measured.is_ok();
        // A server that may be dead is not reported: silence is how Weir notices its death.
        if self.note_measured(&measured) == LifeSign::Silence {
            return;
        }
        if let Err(fault) = measured {
            config = ConfigStatus::error("control_api", fault.status(), fault.to_string());
        }
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let body = report(
            &self.meter,
            &ReportInput {
                hostname: &self.identity.hostname,
                rules: &*self.handle.rules,
                wanted: self.wanted.as_deref(),
                errors: self.planner.errors(),
                config: &config,
                usage: self.usage.read(),
                now: Instant::now(),
                wall_ms: wall.map_or(0, |since| since.as_millis() as u64),
                is_measured,
            },
        );
        self.shared.put_report(body);
    }

    fn measure(&mut self) -> Result<(), CallFault> {
        if self.life != ServerLife::Up {
            return Err(CallFault::Unexpected("the control API does not answer"));
        }
        let measure = self.handle.server.measure()?;
        let now = Instant::now();
        let seen = self.meter.add(now, measure);
        self.planner.observe(now, &seen);
        Ok(())
    }

    /// The sign of life in a measure. A refusal is an answer of a server that lives, though its API
    /// is of no use.
    fn note_measured(&self, measured: &Result<(), CallFault>) -> LifeSign {
        match measured {
            Err(CallFault::Status(..)) if self.life == ServerLife::Up => LifeSign::MediaWithoutApi,
            _ => self.note_answer(measured),
        }
    }

    /// Logs a failure once, until it changes.
    fn log_fault(&mut self, what: &str, fault: &CallFault) {
        let text = fault.to_string();
        if self.times.logged.as_ref() != Some(&text) {
            warn!(hostname = &*self.identity.hostname, "{what}: {text}");
            self.times.logged = Some(text);
        }
    }
}

/// What the planner needs to know of the result of a call.
pub fn call_end(result: &Result<(), CallFault>) -> Result<(), CallEnd> {
    let Err(fault) = result else {
        return Ok(());
    };
    let mut source_faults = SourceFault::ALL.into_iter();
    Err(CallEnd {
        refusal: fault.is_refusal().then(|| fault.to_string().into()),
        source_fault: source_faults.find(|of_source| *fault == source_fault(*of_source)),
    })
}

/// The result of a call that found fault with the source of the stream, not with the server.
pub const fn source_fault(fault: SourceFault) -> CallFault {
    CallFault::Unexpected(fault.text())
}
