//! The life of a server: open the store, start the threads, serve until a signal, stop.
//!
//! Threads: one per io core (sockets, requests, parked polls), the writer (the only thread that
//! changes the state), the layouter, followers of commits, outbound calls, and the main thread,
//! which waits for signals. No listener is open before the state is complete: a response from half
//! a state would stop streams.

mod failed_starts;
mod offline;
mod threads;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use tracing::{error, info, warn};
use uuid::Uuid;
use weir_storage::shadow::Shadow;
use weir_storage::{Opened, Options as StoreOptions, Store, StoreError};

use crate::access::auth::Auth;
use crate::access::browser_sessions::BrowserSessions;
use crate::access::geo::Countries;
use crate::access::sessions::Sessions;
use crate::agents::messages::AgentsShared;
use crate::api::cluster::metric_families;
use crate::api::running_backups::BackupLimits;
use crate::api::shared::{
    AccessControl, ApiSettings, CountsWorker, Documentation, LayouterAccess, ServerIdentity,
    Shared, SharedSettings, WorkerThreads,
};
use crate::api::shared_result::SharedResult;
use crate::api::stream_doc::render_current_layout;
use crate::api::{config_external, settings_save};
use crate::authorities;
use crate::config::journal::Journal;
use crate::config::running::Running;
use crate::config::{self, ApiKey, Config, LogLevel, PinThreads, Settings};
use crate::core::message::CoreMessage;
use crate::core::stats_watch::StatsWatches;
use crate::dist::{self, ServiceState};
use crate::exit::{Exit, Failure, cannot};
use crate::feed::nodes::NodeTable;
use crate::feed::paged_snapshots::PagedSnapshots;
use crate::feed::rendered::Rendered;
use crate::fleet::history::Histories;
use crate::fleet::queries::QueryCounts;
use crate::fleet::stats::FleetStats;
use crate::layouter::thread::{self as layouter, LayouterHandle, LayouterMessage};
use crate::layouter::whatif::worker::WhatIfWorker;
use crate::offload::Offload;
use crate::openapi;
use crate::outbound::{Dialer, EgressPolicy, Outbound};
use crate::rt::processors::{ThreadPlan, plan_threads};
use crate::rt::{self, Inbox};
use crate::scan_pool::ScanPool;
use crate::state::State;
use crate::state::command::Command;
use crate::state::event::{EventLimits, NewEvent};
use crate::state::node::RenderSettings;
use crate::state::report_gap;
use crate::state::retention::Retention;
use crate::traces::{Collector, Traces};
use crate::ui;
use crate::ui::docs::DocPages;
use crate::writer::insert_buffer::BufferSettings;
use crate::writer::{Commands, Envelope, Published, SafeMode, StateMachine, Writer, load};

pub use offline::{backup, check, restore};
use threads::{
    Cores, LayouterThread, reserve_processor, spawn, start_cores, start_followers, start_layouter,
};

/// Runs until a signal. `set_log_level` is called when the level of the log changes.
pub fn run(
    config: &Config,
    set_log_level: impl Fn(LogLevel) + Send + Sync + 'static,
) -> Result<Exit, Failure> {
    for warning in &config.warnings {
        warn!("{warning}");
    }
    if let Some(reason) = ui::missing().filter(|_| config.settings.http.ui) {
        warn!(reason, "this build has no web interface");
    }
    let data_dir = &config.settings.store.data_dir;
    let recovered = match open(&config.settings) {
        Err(failure) if failure.exit == Exit::Storage => {
            if failed_starts::count(data_dir) < failed_starts::BEFORE_SAFE_MODE {
                if let Err(error) = failed_starts::add(data_dir, &failure.message) {
                    warn!(%error, "cannot count failed starts");
                }
                return Err(failure);
            }
            let mut config = config.clone();
            // It could not have its changes saved.
            config.settings.layouter.enabled = false;
            let recovered = open_in_safe_mode(&config.settings, failure)?;
            return run_on(&config, recovered, set_log_level);
        }
        other => other?,
    };
    run_on(config, recovered, set_log_level)
}

fn run_on(
    config: &Config,
    (store, recovered): (Store, Recovered),
    set_log_level: impl Fn(LogLevel) + Send + Sync + 'static,
) -> Result<Exit, Failure> {
    let threads = start(config, store, &recovered, set_log_level)?;
    let cores = serve(config, &recovered, &threads)?;
    stop(&config.settings, threads, &cores)
}

/// What a start found in the data directory.
struct Recovered {
    opened: Opened,
    /// The store was created by this start.
    is_new: bool,
    key: ApiKey,
    state: Arc<State>,
    /// Why the store is not written to.
    safe_mode: Option<SafeMode>,
}

/// Opens the store and loads the state. Nothing has been started yet, so an error just ends the
/// process.
fn open(settings: &Settings) -> Result<(Store, Recovered), Failure> {
    for address in settings
        .http
        .listen
        .iter()
        .filter(|address| address.port() != 0)
    {
        wait_until_free(*address).map_err(cannot(format!("listen on {address}")))?;
    }
    survive_signals().map_err(cannot("handle signals"))?;
    let started = Instant::now();
    let data_dir = &settings.store.data_dir;
    let is_new = !data_dir.join(weir_storage::FILE_NAME).exists();
    let (store, opened) = open_store(settings)?;
    let recovered = load_store(settings, &store, opened, started)?;
    failed_starts::clear(data_dir);
    Ok((
        store,
        Recovered {
            is_new,
            ..recovered
        },
    ))
}

/// Fails if an address is in use, and stays so: after a kill the kernel may hold the sockets of the
/// ended process for a moment.
fn wait_until_free(address: SocketAddr) -> io::Result<()> {
    const WAIT_MAX: Duration = Duration::from_secs(5);
    const PAUSE: Duration = Duration::from_millis(50);
    let began = Instant::now();
    let mut is_first = true;
    loop {
        match rt::is_free(address) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && began.elapsed() < WAIT_MAX =>
            {
                if is_first {
                    info!(%address, "the address is in use: waiting");
                }
                is_first = false;
                thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

/// Loads the state of an open store.
fn load_store(
    settings: &Settings,
    store: &Store,
    opened: Opened,
    started: Instant,
) -> Result<Recovered, Failure> {
    let key = config::api_key(settings).map_err(|error| {
        Failure::new(
            Exit::Storage,
            format!("cannot read or store the API key: {error}"),
        )
    })?;
    let pull_token = settings.feed.pull_token.as_ref();
    let render_settings = RenderSettings {
        pull_token: pull_token.map(|token| token.expose().to_owned()),
        restreaming: settings.feed.restreaming,
    };
    let state = load(store, &opened, render_settings).map_err(storage_failure)?;
    info!(
        streams = state.streams_count(),
        streamers = state.streamers().len(),
        revision = state.revision(),
        clean = opened.clean,
        ms = started.elapsed().as_millis() as u64,
        "state loaded"
    );
    Ok(Recovered {
        opened,
        is_new: false,
        key,
        state,
        safe_mode: None,
    })
}

/// Goes on after failed starts, without a change of the data directory: the supervisor sees a
/// process that runs and is not ready, and clients see why.
fn open_in_safe_mode(settings: &Settings, failure: Failure) -> Result<(Store, Recovered), Failure> {
    let data_dir = &settings.store.data_dir;
    failed_starts::clear(data_dir);
    let started = Instant::now();
    let on = |disk: Shadow| {
        let options = StoreOptions {
            applies_itself: false,
            reserve_bytes: 0,
            ..store_options(settings)
        };
        let (store, opened) = Store::open_on(Arc::new(disk), &options).map_err(storage_failure)?;
        let recovered = load_store(settings, &store, opened, started)?;
        Ok((store, recovered))
    };
    let readable: Result<(Store, Recovered), Failure> = on(Shadow::of(data_dir));
    let is_readable = readable.is_ok();
    let (store, mut recovered) = readable.or_else(|_| on(Shadow::empty(data_dir)))?;
    let cause = failure.message;
    error!(
        cause,
        is_readable, "safe mode: the store could not be opened three times in a row"
    );
    recovered.safe_mode = Some(SafeMode { is_readable });
    Ok((store, recovered))
}

/// How long the end waits for spans to be taken.
const SPANS_WAIT: Duration = Duration::from_secs(2);

/// The threads of a running server, apart from its io cores.
struct Threads {
    shared: Arc<Shared>,
    writer: JoinHandle<StateMachine<Store>>,
    stop_writer: Arc<AtomicBool>,
    layouter: LayouterThread,
    /// The processor of each io thread.
    io_processors: Vec<Option<usize>>,
    episodes_buffer: Arc<BufferSettings>,
    egress: Arc<EgressPolicy>,
}

fn published(recovered: &Recovered, store: &Store) -> Published {
    let published = Published::new(recovered.state.clone());
    let published = published.with_applied_revision(store.applied_lsn());
    published.with_safe_mode(recovered.safe_mode)
}

/// Where the threads run, by the settings and the processors of this process.
fn thread_plan(settings: &Settings) -> ThreadPlan {
    plan_threads(
        &rt::sys::allowed_processors(),
        settings.layouter.enabled,
        Some(settings.http.io_threads).filter(|count| *count > 0),
        settings.http.pin_threads == PinThreads::Auto,
    )
}

/// Starts all threads but the io cores: nothing listens yet.
fn start(
    config: &Config,
    store: Store,
    recovered: &Recovered,
    set_log_level: impl Fn(LogLevel) + Send + Sync + 'static,
) -> Result<Threads, Failure> {
    let settings = &config.settings;
    let plan = thread_plan(settings);
    reserve_processor(&plan);
    let inboxes: Inboxes = plan.io.iter().map(|_| Arc::new(Inbox::new())).collect();
    let published = published(recovered, &store);
    let machine = state_machine(settings, store, recovered)?;
    published.state().store(machine.state().clone());
    let published = Arc::new(published);
    let (writer, commands, stop_writer) = Writer::new(machine, published.clone(), inboxes.clone());
    let episodes = &settings.episodes;
    let buffer = BufferSettings::new(episodes.buffer_delay, episodes.buffer_limit);
    let episodes_buffer = Arc::new(buffer);
    let retention = Retention {
        episodes_ms: episodes.kept.as_millis() as u64,
        ..Retention::default()
    };
    let mut writer = writer
        .with_episodes_buffer(episodes_buffer.clone())
        .with_expiry(retention);
    let deletions = writer.follow_some(|commit| !commit.deleted_streamers.is_empty());
    let followed = [writer.follow(), writer.follow(), deletions];
    let layouter_commits = writer.follow();

    let (layouter, layouter_messages) = layouter::channel();
    let egress = Arc::new(EgressPolicy::new(
        settings.outbound.loopback,
        settings.outbound.denied.clone(),
    ));
    let parts = Parts {
        published,
        commands,
        layouter,
        inboxes,
        egress: egress.clone(),
        browsers: writer.browsers(),
    };
    let shared = Arc::new(shared(config, recovered, parts)?);
    follow_settings(&shared, &episodes_buffer, set_log_level);
    publish_documentation(&shared);

    start_followers(&shared, followed, recovered.state.stamp_ms())?;
    let writer = spawn("writer", move || {
        // All cores wait for a commit that waits for its processor.
        rt::sys::raise_priority();
        writer.run(now_ms)
    })?;
    let layouter = start_layouter(
        settings,
        &shared,
        layouter_commits,
        layouter_messages,
        plan.layouter,
    )?;
    Ok(Threads {
        shared,
        writer,
        stop_writer,
        layouter,
        io_processors: plan.io,
        episodes_buffer,
        egress,
    })
}

/// The state and its store, with the gaps of this start.
fn state_machine(
    settings: &Settings,
    store: Store,
    recovered: &Recovered,
) -> Result<StateMachine<Store>, Failure> {
    let events = EventLimits {
        age_ms_max: settings.store.events_age_max.as_millis() as u64,
        bytes_max: settings.store.events_bytes_max,
    };
    let machine = StateMachine::new(recovered.state.clone(), store);
    let mut machine = machine.with_events(events, &rt::sys::hostname());
    if settings.fleet.queries && recovered.safe_mode.is_none() {
        open_report_gaps(&mut machine)?;
    }
    Ok(machine)
}

/// Opens the gaps of reports of this start before anything is served: the list of episodes may lack
/// some until the recordings of that time were read.
fn open_report_gaps(machine: &mut StateMachine<Store>) -> Result<(), Failure> {
    let items = report_gap::at_start(machine.state());
    if items.is_empty() {
        return Ok(());
    }
    let command = Command::OpenReportGaps { items };
    // With the stamp after the last one: the writer compares that with the clock, which may have
    // jumped.
    let stamp_ms = machine.state().stamp_ms() + 1;
    match machine.batch(vec![command], stamp_ms) {
        Ok(_) => Ok(()),
        // While the disk is full no list of episodes is complete.
        Err(error) if !machine.is_failed() => {
            warn!(%error, "the gap in the reports of streamers is not stored yet");
            Ok(())
        }
        Err(error) => Err(storage_failure(error)),
    }
}

/// Starts the io cores and returns at the first signal.
fn serve(config: &Config, recovered: &Recovered, threads: &Threads) -> Result<Cores, Failure> {
    let shared = &threads.shared;
    // From the first request on, TERM drains.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(cannot("wait for signals"))?;
    // Held until the event of the last change is logged: no settings change before.
    let journal = shared.settings.journal.lock();
    let dialer = Dialer::new(threads.egress.clone()).map_err(cannot("set up TLS"))?;
    let dialer = Arc::new(dialer);
    let cores = start_cores(&config.settings, shared, &dialer, &threads.io_processors)?;
    threads.egress.set_own_listeners(cores.addresses.clone());
    let events = start_events(shared, recovered);
    let append = Envelope::unanswered(Command::AppendEvents { events });
    if let Err(error) = shared.commands.send(append) {
        warn!(title = %error.items[0].title, "the start is not in the event log");
    }
    let state = shared.published.state().load_full();
    let unlogged = journal.unlogged_at_start(&state, &config.sources.file);
    settings_save::log_settings(shared, &journal, unlogged);
    drop(journal);
    print_addresses(&config.settings, &cores.addresses, &recovered.key);
    notify(ServiceState::Ready);
    wait_for_signal(shared, signals).map_err(cannot("wait for signals"))?;
    Ok(cores)
}

/// Completes parked polls, waits for idle connections and running requests, closes the store.
fn stop(settings: &Settings, threads: Threads, cores: &Cores) -> Result<Exit, Failure> {
    notify(ServiceState::Stopping);
    info!("draining: completing parked polls and running requests");
    threads.layouter.end();
    threads.shared.draining.store(true, Ordering::Release);
    threads.episodes_buffer.end();
    for inbox in &threads.shared.cores {
        inbox.push(CoreMessage::Drain);
    }
    let until = Instant::now() + settings.http.drain_delay + settings.http.drain_timeout;
    for _ in &threads.shared.cores {
        let rest = until.saturating_duration_since(Instant::now());
        if cores.drained.recv_timeout(rest).is_err() {
            warn!("drain timeout: closing the remaining connections");
            break;
        }
    }
    threads.stop_writer.store(true, Ordering::Release);
    let machine = threads
        .writer
        .join()
        .map_err(|_| Failure::new(Exit::Runtime, "the writer panicked"))?;
    machine.into_storage().close().map_err(storage_failure)?;
    threads.shared.workers.traces.end(SPANS_WAIT);
    info!("stopped");
    Ok(Exit::Done)
}

// -------------------------------------------------------------------------------------------------
// The store

fn open_store(settings: &Settings) -> Result<(Store, Opened), Failure> {
    let options = store_options(settings);
    Store::open(&settings.store.data_dir, &options).map_err(storage_failure)
}

fn store_options(settings: &Settings) -> StoreOptions {
    StoreOptions {
        cache_bytes: settings.store.cache_bytes,
        reserve_bytes: settings.store.reserve_bytes as u64,
        log: settings.store.log,
        ..StoreOptions::default()
    }
}

fn storage_failure(error: StoreError) -> Failure {
    let exit = match error {
        StoreError::Locked { .. } => Exit::Locked,
        _ => Exit::Storage,
    };
    Failure::new(exit, error.to_string())
}

/// The events of a start.
fn start_events(shared: &Shared, recovered: &Recovered) -> Vec<NewEvent> {
    let version = env!("CARGO_PKG_VERSION");
    let previous = match (recovered.is_new, recovered.opened.clean) {
        (true, _) => "none",
        (false, true) => "shutdown",
        (false, false) => "killed",
    };
    vec![
        NewEvent::new("server_starting")
            .text("full_version", version)
            .text("version", version),
        NewEvent::new("server_started")
            .text("instance_id", &shared.identity.server_id)
            .text("previous_state", previous)
            .number("revision", recovered.opened.lsn)
            .text("version", version),
    ]
}

// -------------------------------------------------------------------------------------------------
// What all threads share

type Inboxes = Vec<Arc<Inbox<CoreMessage>>>;

/// The ends of the other threads.
struct Parts {
    published: Arc<Published>,
    commands: Commands,
    layouter: LayouterHandle,
    inboxes: Inboxes,
    egress: Arc<EgressPolicy>,
    browsers: Arc<BrowserSessions>,
}

fn shared(config: &Config, recovered: &Recovered, parts: Parts) -> Result<Shared, Failure> {
    let settings = &config.settings;
    let key = &recovered.key.key;
    let countries = countries(settings)?;
    authorities::check().map_err(|what| Failure::new(Exit::Config, what))?;
    let outbound = Outbound::start(settings.outbound.threads, parts.egress)
        .map_err(cannot("start the threads for outbound calls"))?;
    let offload = Offload::start(1 + parts.inboxes.len() / 8)
        .map_err(cannot("start the threads for large requests"))?;
    let scans = ScanPool::start(rt::sys::allowed_processors().len())
        .map_err(cannot("start the threads that scan"))?;
    let whatif = WhatIfWorker::start(parts.layouter.clone(), |record, out| {
        render_current_layout(record, out);
    })
    .map_err(cannot("start the what-if thread"))?;
    let data_dir = &settings.store.data_dir;
    let nodes = Arc::new(NodeTable::new(settings.feed.cache_bytes));
    let fleet = FleetStats::new(settings.layouter.dead_timeout, Instant::now());
    Ok(Shared {
        published: parts.published,
        commands: parts.commands,
        access: AccessControl {
            auth: Auth::new(key.expose(), login(settings)),
            failed_credentials: Mutex::default(),
            sessions: Sessions::new(settings.viewers.sessions_bytes),
            browsers: parts.browsers,
            countries,
        },
        nodes: nodes.clone(),
        paged_snapshots: PagedSnapshots::default(),
        fleet: fleet.with_nodes(nodes),
        layouter: LayouterAccess {
            handle: parts.layouter,
            metrics: Arc::default(),
            whatif,
            capacity: SharedResult::default(),
        },
        settings: SharedSettings {
            api: api_settings(settings),
            running: Running::new(config.clone(), key.clone()),
            journal: Journal::new(data_dir),
        },
        identity: ServerIdentity {
            server_id: server_id(recovered.opened.store_id),
            run_id: Uuid::new_v4().to_string().into(),
            started_at_seconds: now_ms() / 1000,
            hostname: rt::sys::hostname().into(),
            data_dir: std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.clone()),
        },
        draining: AtomicBool::new(false),
        workers: WorkerThreads {
            outbound,
            offload,
            scans,
            backups: Arc::default(),
            bulk_changes: Arc::default(),
            traces: Traces::default(),
            queries: QueryCounts::default(),
            cluster_counts: CountsWorker::default(),
            histories: Histories::new(Instant::now(), now_ms()),
        },
        agents: AgentsShared::new().map_err(cannot("read random numbers"))?,
        watches: StatsWatches::new(parts.inboxes.len()),
        cores: parts.inboxes,
        documentation: Documentation {
            openapi: Rendered::new(openapi::served().as_bytes()),
            pages: OnceLock::new(),
        },
    })
}

fn countries(settings: &Settings) -> Result<Countries, Failure> {
    let Some(file) = &settings.viewers.geoip_database else {
        return Ok(Countries::default());
    };
    Countries::open(file).map_err(|error| {
        let message = format!("geoip_database: cannot read {}: {error}", file.display());
        Failure::new(Exit::Config, message)
    })
}

/// Makes the pages below `/ui/docs/`.
fn publish_documentation(shared: &Shared) {
    if shared.settings.api.has_ui {
        let state = shared.published.state().load_full();
        let metrics = metric_families(shared, &state);
        let pages = DocPages::new(&dist::docs::pages(&metrics));
        // It is called once.
        _ = shared.documentation.pages.set(pages);
    }
}

fn api_settings(settings: &Settings) -> ApiSettings {
    ApiSettings {
        poll_wait_max: settings.http.poll_wait_max,
        has_ui: settings.http.ui,
        streams_limit: settings.feed.streams_limit,
        page_bytes_max: settings.http.list_page_bytes,
        auth_backend_timeout: settings.viewers.auth_backend_timeout,
        agent_command_wait: settings.agents.command_timeout,
        agent_silence_max: settings.agents.silence_max,
        backup: BackupLimits {
            bytes_per_second: settings.store.backup_rate as u64,
            time_max: settings.store.backup_time_max,
        },
    }
}

/// Passes changed settings to the components that use them.
fn follow_settings(
    shared: &Arc<Shared>,
    episodes: &Arc<BufferSettings>,
    set_log_level: impl Fn(LogLevel) + Send + Sync + 'static,
) {
    let (weak, episodes) = (Arc::downgrade(shared), episodes.clone());
    shared.settings.running.on_change(move |settings| {
        set_log_level(settings.log.level);
        episodes.set(
            settings.episodes.buffer_delay,
            settings.episodes.buffer_limit,
        );
        let Some(shared) = weak.upgrade() else { return };
        shared
            .access
            .auth
            .rotate(shared.settings.running.api_key().expose(), login(settings));
        let dead_timeout = settings.layouter.dead_timeout;
        shared.fleet.set_dead_after(dead_timeout);
        let wait_max = config_external::poll_wait_max(dead_timeout);
        for inbox in &shared.cores {
            inbox.push(CoreMessage::PollWaitMax(wait_max));
        }
        let collector = collector(settings);
        if let Err(error) = shared.workers.traces.set(collector, settings.traces.one_in) {
            warn!(%error, "the thread for traces cannot be started; spans are not recorded");
        }
        let layouter = Box::new((&settings.layouter).into());
        if !shared
            .layouter
            .handle
            .send(LayouterMessage::Settings(layouter))
        {
            warn!("layouter queue full; new settings not applied");
        }
    });
}

/// Where spans go: by the settings, or by the variable that all programs share.
fn collector(settings: &Settings) -> Option<Collector> {
    const SHARED_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    if settings.traces.collector.is_some() {
        return settings.traces.collector.clone();
    }
    let text = std::env::var(SHARED_VARIABLE)
        .ok()
        .filter(|text| !text.is_empty())?;
    let collector = Collector::parse(&text);
    if collector.is_none() {
        warn!("{SHARED_VARIABLE} is not a URL of a collector; spans are not recorded");
    }
    collector
}

fn login(settings: &Settings) -> Option<(&str, &str)> {
    let login = settings.auth.edit_auth.as_ref()?;
    Some((login.name.as_str(), login.password.expose()))
}

/// The id of the installation, made from the number that its store got when it was created.
fn server_id(store_id: u64) -> Box<str> {
    let bits = xxhash_rust::xxh3::xxh3_128(&store_id.to_le_bytes());
    let id = uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid();
    id.to_string().into()
}

// -------------------------------------------------------------------------------------------------
// The outside

/// Prints on stdout where the server listens and how to send a request to it.
fn print_addresses(settings: &Settings, addresses: &[SocketAddr], key: &ApiKey) {
    let mut text = String::new();
    for address in addresses {
        _ = writeln!(text, "listening on http://{address}");
    }
    let path = settings.store.data_dir.join(config::API_KEY_FILE);
    let path = path.display();
    let shown = if key.newly_generated {
        let key = key.key.expose();
        _ = writeln!(text, "API key, printed this once, stored in {path}: {key}");
        key.to_owned()
    } else if settings.auth.api_key.is_some() {
        "$CENTRAL_API_KEY".to_owned()
    } else {
        format!("$(cat {path})")
    };
    if let Some(address) = addresses.first() {
        let local = || format!("http://{}", local_address(*address));
        let base = settings.http.api_url.clone().unwrap_or_else(local);
        let url = format!("{base}/central/api/v3/streams");
        _ = writeln!(text, "try: curl -H \"Authorization: Bearer {shown}\" {url}");
        if settings.http.ui {
            _ = match ui::missing() {
                None => writeln!(text, "web interface: {base}{}", ui::PATH),
                Some(reason) => writeln!(text, "web interface: left out of this build: {reason}"),
            };
        }
    }
    // The server runs also if stdout is closed.
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// An address that a client on this machine can connect to.
fn local_address(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn notify(state: ServiceState) {
    if let Err(error) = dist::notify(state) {
        warn!(%error, ?state, "cannot notify the service manager");
    }
}

/// Returns at the first TERM or INT; a second signal of these ends the process at once. At HUP the
/// configuration file is read again.
fn wait_for_signal(shared: &Shared, mut signals: Signals) -> io::Result<()> {
    for signal in signals.forever() {
        if signal != SIGHUP {
            break;
        }
        settings_save::reload(shared);
    }
    let at_second = move || {
        signals.forever().find(|signal| *signal != SIGHUP);
        warn!("second signal: exiting without draining");
        std::process::exit(Exit::Runtime as i32);
    };
    thread::Builder::new()
        .name("signals".into())
        .spawn(at_second)
        .map(drop)
}

/// Keeps signals from ending the process that mean something else: exceeding the limit on file
/// sizes is an error of a write, which the writer handles; HUP reads the configuration file again
/// once the server serves; USR1 and USR2 have no effect.
fn survive_signals() -> io::Result<()> {
    let ignored = Arc::new(AtomicBool::new(false));
    for signal in [rt::sys::FILE_TOO_LARGE, SIGHUP, SIGUSR1, SIGUSR2] {
        signal_hook::flag::register(signal, ignored.clone())?;
    }
    Ok(())
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}
